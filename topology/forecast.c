#include "topology/forecast.h"

#include <math.h>
#include <stddef.h>

#include "base/checked.h"
#include "topology/routing.h"

enum { PAIR_BYTES = 16, MOST_RANKS = 4096 };

/* What one step does, for the rank that does most of it. */
typedef struct step_load {
    double tokens;      /* of all ranks, as the experts see them */
    double rows;        /* of the rank that has most */
    double logits;      /* of these, rows that logits are made of; on the average of steps */
    double rest_shares; /* parts that the rest is sliced into */
    double positions;   /* that each token's query sees, before windows */
    bool causal;        /* positions are those of a whole prompt, on the average */
    double kv_reads;    /* times that a sequence's keys and values are read */
} step_load;

typedef struct step_cost {
    double rest_bytes, experts_bytes, experts_even, kv_bytes;
    double rest_flops, expert_flops, expert_flops_even, attention_flops;
    double exchange_bytes; /* to or from one rank's peers */
    double exchanges;      /* messages that wait for each other */
    double pairs, pairs_even;
    double layers;
} step_cost;

static double sees(const sy_forecast_layer *l, const step_load *s) {
    double n = s->positions, w = (double)l->window;
    if (!s->causal) return l->window > 0 && w < n ? w : n;
    /* Averaged over a prompt of n: position i sees min(i, window). */
    return l->window > 0 && w < n ? w * (n - w / 2) / n : n / 2;
}

/* What is known of earlier layers of a step: they are mostly alike. */
typedef struct step_memo {
    sy_routing_memo touched;
    const sy_forecast_layer *layer; /* whose contiguous placement the two below are of */
    double needed, home;
} step_memo;

/* The placement of a layer on so many ranks; NULL: contiguous. */
static const int *placement_of(const sy_forecast_layer *l, int ranks) {
    return l->placed_ranks == ranks ? l->rank_of : NULL;
}

static int rank_of(const sy_forecast_layer *l, int ranks, int e) {
    const int *placed = placement_of(l, ranks);
    return placed != NULL ? placed[e] : (int)((((int64_t)e + 1) * ranks - 1) / l->experts);
}

/* Of measured loads, or of even ones: the most experts that a rank touches, those of all ranks, and
 * the most pairs that one computes; on the average of steps. */
typedef struct rank_loads {
    double touched, all_touched, pairs;
} rank_loads;

static rank_loads sum_loads(const sy_forecast_layer *l, int ranks, double tokens) {
    rank_loads most = {0};
    for (int r = 0; r < ranks; r++) {
        double touched = 0, pairs = 0;
        for (int e = 0; e < l->experts; e++) {
            if (rank_of(l, ranks, e) != r) continue;
            double share =
                l->chosen != NULL ? l->chosen[e] : (double)l->top_k / (double)l->experts;
            touched += share >= 1 ? 1 : -expm1(tokens * log1p(-share));
            pairs += share * tokens;
        }
        most.all_touched += touched;
        most.touched = fmax(most.touched, touched);
        most.pairs = fmax(most.pairs, pairs);
    }
    return most;
}

static sy_status add_experts(const sy_forecast_layer *l,
                             const sy_forecast_job *job,
                             double tokens,
                             step_memo *memo,
                             step_cost *c) {
    sy_status st = SY_OK;
    double R = job->ranks, most, pairs;
    rank_loads loads = {.all_touched = sy_routing_touched(l->experts, l->top_k, tokens)};
    if (l->chosen != NULL || placement_of(l, job->ranks) != NULL)
        loads = sum_loads(l, job->ranks, tokens);
    SY_TRY(sy_routing_most_touched_again(&memo->touched, l->experts, job->ranks,
                                         loads.all_touched, &most));
    SY_TRY(sy_routing_most_pairs(l->experts, l->top_k, job->ranks, tokens, &pairs));
    /* What is uneven by chance, or what loads and placement make uneven, whichever is more. */
    most = fmax(most, loads.touched);
    pairs = fmax(pairs, loads.pairs);
    c->experts_bytes += l->count * most * l->expert_bytes;
    c->experts_even += l->count * loads.all_touched / R * l->expert_bytes;
    c->pairs += l->count * pairs;
    c->pairs_even += l->count * tokens * l->top_k / R;
    c->expert_flops += l->count * pairs * 2 * l->expert_weights;
    c->expert_flops_even += l->count * tokens * l->top_k / R * 2 * l->expert_weights;
done:
    return st;
}

static bool routes_alike(const sy_forecast_layer *a, const sy_forecast_layer *b, int ranks) {
    return a != NULL && a->experts == b->experts && a->top_k == b->top_k &&
           placement_of(a, ranks) == placement_of(b, ranks);
}

/* Rows on the wire of one layer of spread: a token travels once to every other rank that needs it,
 * and one float32 row comes home for each subtree that another rank has summed. */
static sy_status spread_bytes(const sy_forecast_model *m,
                              const sy_forecast_layer *l,
                              const sy_forecast_job *job,
                              double rows,
                              step_memo *memo,
                              double *out) {
    sy_status st = SY_OK;
    double R = job->ranks, others = (R - 1) / R;
    if (!routes_alike(memo->layer, l, job->ranks)) {
        const int *placed = placement_of(l, job->ranks);
        SY_TRY(sy_routing_rows_home(l->experts, l->top_k, job->ranks, placed, &memo->home));
        SY_TRY(
            sy_routing_ranks_needed(l->experts, l->top_k, job->ranks, placed, &memo->needed));
        memo->layer = l;
    }
    *out = rows * others *
           (memo->needed * m->hidden * m->act_bytes + l->top_k * (double)PAIR_BYTES +
            memo->home * m->hidden * sizeof(float));
done:
    return st;
}

static sy_status add_layer(const sy_forecast_model *m,
                           const sy_forecast_layer *l,
                           const sy_forecast_job *job,
                           const step_load *s,
                           step_memo *memo,
                           step_cost *c) {
    sy_status st = SY_OK;
    bool shard = job->mode == SY_PARALLEL_SHARD, moe = l->experts > 0;
    double R = job->ranks, kv_shares = shard ? (double)sy_min(l->kv_shards, job->ranks) : 1;
    double wire = 0;
    c->layers += l->count;
    c->rest_bytes += l->count * l->rest_bytes / s->rest_shares;
    c->rest_flops += l->count * s->rows * 2 * l->rest_weights / s->rest_shares;
    c->kv_bytes += l->count * s->kv_reads * sees(l, s) * l->kv_bytes / kv_shares;
    c->attention_flops += l->count * s->rows * sees(l, s) * l->position_flops / s->rest_shares;
    if (moe) SY_TRY(add_experts(l, job, s->tokens, memo, c));
    if (job->ranks == 1) goto done;
    if (shard)
        wire = 2 * (R - 1) * s->rows * m->hidden * sizeof(float); /* one sum each half-layer */
    else if (moe)
        SY_TRY(spread_bytes(m, l, job, s->rows, memo, &wire));
    c->exchange_bytes += l->count * wire;
    c->exchanges += shard || moe ? 2.0 * l->count : 0;
done:
    return st;
}

static sy_status count_step(const sy_forecast_model *m,
                            const sy_forecast_job *job,
                            const step_load *s,
                            step_cost *c) {
    sy_status st = SY_OK;
    step_memo memo = {0};
    *c = (step_cost){0};
    for (int i = 0; i < m->n_layers; i++)
        SY_TRY(add_layer(m, &m->layer[i], job, s, &memo, c));
    c->rest_bytes += fmin(1, s->logits) * m->head_bytes / s->rest_shares;
    c->rest_flops += s->logits * 2 * m->head_weights / s->rest_shares;
done:
    sy_routing_forget(&memo.touched);
    return st;
}

/* Bytes that a rank exchanges, at the rates of the links that they take, one after the other. */
static double wire_seconds(const sy_forecast_machine *h, int ranks, double bytes) {
    if (ranks == 1) return 0;
    int here = (int)sy_min(h->devices_per_host, ranks);
    double inside = (double)(here - 1) / (ranks - 1), seconds = 0;
    if (inside > 0)
        seconds += bytes * inside * (h->in_host.shared ? here : 1) / h->in_host.bandwidth;
    if (inside < 1)
        seconds += bytes * (1 - inside) * (h->between_hosts.shared ? here : 1) /
                   h->between_hosts.bandwidth;
    return seconds;
}

static double link_latency(const sy_forecast_link *link, int peers) {
    return peers < 1 ? 0 : link->latency + (peers - 1) * link->peer_latency;
}

static double exchange_latency(const sy_forecast_machine *h, int ranks) {
    int here = (int)sy_min(h->devices_per_host, ranks);
    return fmax(link_latency(&h->in_host, here - 1),
                link_latency(&h->between_hosts, ranks - here));
}

/* Adds `times` steps of a cost; returns what the same would take at the hardware's bounds. */
static double add_steps(const sy_forecast_machine *h,
                        const sy_forecast_job *job,
                        const step_cost *c,
                        double times,
                        sy_forecast *f) {
    double rest = c->rest_bytes / h->rest_read, experts = c->experts_bytes / h->expert_read;
    double kv = c->kv_bytes / h->kv_read;
    double compute = c->rest_flops / h->rest_rate + c->expert_flops / h->expert_rate +
                     c->attention_flops / h->attention_rate;
    double wire = wire_seconds(h, job->ranks, c->exchange_bytes);
    double latency = c->exchanges * exchange_latency(h, job->ranks);
    double overhead = h->step_overhead + c->layers * h->layer_overhead;
    f->rest_s += times * rest;
    f->experts_s += times * experts;
    f->kv_s += times * kv;
    f->compute_s += times * compute;
    f->exchange_s += times * wire;
    f->latency_s += times * latency;
    f->overhead_s += times * overhead;
    f->seconds += times * (overhead + fmax(rest + experts + kv, compute) + wire + latency);
    f->rest_bytes += times * c->rest_bytes;
    f->experts_bytes += times * c->experts_bytes;
    f->kv_bytes += times * c->kv_bytes;
    f->exchange_bytes += times * c->exchange_bytes;
    double bytes = c->rest_bytes + c->experts_even + c->kv_bytes;
    double flops = c->rest_flops + c->expert_flops_even + c->attention_flops;
    return times * fmax(bytes / h->peak_read, flops / h->peak_rate);
}

static bool is_positive(double x) {
    return isfinite(x) && x > 0;
}

static sy_status check_machine(const sy_forecast_machine *h, int ranks) {
    const double rates[] = {h->peak_read, h->peak_rate, h->rest_read,   h->expert_read,
                            h->kv_read,   h->rest_rate, h->expert_rate, h->attention_rate};
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        if (!is_positive(rates[i]))
            return sy_fail(SY_ERR_USAGE, "forecast: a rate of the machine is %g", rates[i]);
    if (fmax(fmax(h->rest_read, h->expert_read), h->kv_read) > h->peak_read ||
        fmax(fmax(h->rest_rate, h->expert_rate), h->attention_rate) > h->peak_rate)
        return sy_fail(SY_ERR_USAGE, "forecast: kernels that are faster than their hardware");
    if (h->devices_per_host < 1)
        return sy_fail(SY_ERR_USAGE, "forecast: %d devices per host", h->devices_per_host);
    if (ranks > 1 && h->devices_per_host > 1 && !is_positive(h->in_host.bandwidth))
        return sy_fail(SY_ERR_USAGE, "forecast: the devices of a host have no link");
    if (ranks > h->devices_per_host && !is_positive(h->between_hosts.bandwidth))
        return sy_fail(SY_ERR_USAGE,
                       "forecast: %d ranks on hosts of %d devices have no link "
                       "between hosts",
                       ranks, h->devices_per_host);
    return SY_OK;
}

static sy_status
check(const sy_forecast_model *m, const sy_forecast_machine *h, const sy_forecast_job *job) {
    if (job->ranks < 1 || job->ranks > MOST_RANKS || job->batch < 1 || job->context < 0 ||
        job->prompt < 0 || job->chunk < 1)
        return sy_fail(SY_ERR_USAGE,
                       "forecast: %d ranks, batch %lld, context %lld, prompt %lld, chunk %lld",
                       job->ranks, (long long)job->batch, (long long)job->context,
                       (long long)job->prompt, (long long)job->chunk);
    for (int i = 0; i < m->n_layers; i++) {
        const sy_forecast_layer *l = &m->layer[i];
        if (l->count < 1 || l->experts < 0 || l->top_k < 0 || l->top_k > l->experts ||
            (l->experts > 0 && l->top_k < 1) || l->kv_shards < 1)
            return sy_fail(SY_ERR_USAGE, "forecast: layer kind %d: %d of %d experts, %d shares",
                           i, l->top_k, l->experts, l->kv_shards);
    }
    return check_machine(h, job->ranks);
}

/* How the sequences lie: spread splits them, shard mirrors them. */
static void place_sequences(const sy_forecast_job *job, int64_t *homes, int64_t *per_home) {
    bool shard = job->mode == SY_PARALLEL_SHARD;
    *homes = shard ? 1 : sy_min(job->batch, job->ranks);
    *per_home = shard ? job->batch : sy_ceil_div(job->batch, job->ranks);
}

sy_status sy_forecast_decode(const sy_forecast_model *model,
                             const sy_forecast_machine *machine,
                             const sy_forecast_job *job,
                             sy_forecast *out) {
    sy_status st = SY_OK;
    int64_t homes, per_home;
    step_cost cost;
    *out = (sy_forecast){0};
    SY_TRY(check(model, machine, job));
    place_sequences(job, &homes, &per_home);
    step_load load = {.tokens = (double)job->batch,
                      .rows = (double)per_home,
                      .logits = (double)per_home,
                      .rest_shares = job->mode == SY_PARALLEL_SHARD ? job->ranks : 1,
                      .positions = (double)job->context,
                      .kv_reads = (double)per_home};
    SY_TRY(count_step(model, job, &load, &cost));
    double bound = add_steps(machine, job, &cost, 1, out);
    out->imbalance = cost.experts_even > 0 ? cost.experts_bytes / cost.experts_even : 1;
    out->tokens_per_s = (double)job->batch / out->seconds;
    out->bound_per_s = (double)job->batch / bound;
done:
    return st;
}

sy_status sy_forecast_prefill(const sy_forecast_model *model,
                              const sy_forecast_machine *machine,
                              const sy_forecast_job *job,
                              sy_forecast *out) {
    sy_status st = SY_OK;
    int64_t homes, per_home, tokens;
    double bound = 0, pairs = 0, pairs_even = 0;
    *out = (sy_forecast){0};
    SY_TRY(check(model, machine, job));
    place_sequences(job, &homes, &per_home);
    if (job->prompt < 1 || !sy_mul_i64(per_home, job->prompt, &tokens))
        SY_FAIL(SY_ERR_USAGE, "forecast: prompts of %lld tokens", (long long)job->prompt);
    int64_t whole = tokens / job->chunk, part = tokens % job->chunk;
    for (int i = 0; i < 2; i++) {
        int64_t rows = i == 0 ? job->chunk : part;
        double times = i == 0 ? (double)whole : (double)(part > 0);
        if (times <= 0) continue;
        /* A chunk reads the keys and values of its prompt once; the last row of a prompt makes
         * one of logits. */
        step_load load = {.tokens = (double)rows * (double)homes,
                          .rows = (double)rows,
                          .logits = (double)rows / (double)job->prompt,
                          .rest_shares = job->mode == SY_PARALLEL_SHARD ? job->ranks : 1,
                          .positions = (double)job->prompt,
                          .causal = true,
                          .kv_reads = fmax(1, (double)rows / (double)job->prompt)};
        step_cost cost;
        SY_TRY(count_step(model, job, &load, &cost));
        bound += add_steps(machine, job, &cost, times, out);
        pairs += times * cost.pairs;
        pairs_even += times * cost.pairs_even;
    }
    out->imbalance = pairs_even > 0 ? pairs / pairs_even : 1;
    out->tokens_per_s = (double)job->batch * (double)job->prompt / out->seconds;
    out->bound_per_s = (double)job->batch * (double)job->prompt / bound;
done:
    return st;
}
