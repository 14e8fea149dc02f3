#include "runtime/profile_data.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "runtime/profile_memory.h"

/* ---- memory ---- */

static size_t expert_cells(const sy_profile_data *d) {
    return (size_t)d->n_moe * (size_t)d->n_experts;
}

static size_t phase_cells(const sy_model_spec *spec) {
    return ((size_t)spec->n_layers + 1) * SY_PHASES;
}

static sy_status create_label(const sy_profile_data *d, sy_profile_label *out) {
    *out = (sy_profile_label){
        .count = calloc((size_t)d->slot_first[d->n_moe] + 1, sizeof *out->count),
        .weight = calloc(expert_cells(d) + 1, sizeof *out->weight)};
    if (out->count != NULL && out->weight != NULL) return SY_OK;
    return sy_fail(SY_ERR_MEMORY, "no memory for a profile");
}

static void destroy_label(sy_profile_label *label) {
    free(label->count);
    free(label->weight);
}

sy_status sy_profile_data_create(const sy_model_spec *spec,
                                 const sy_placement *placement,
                                 int n_ranks,
                                 sy_profile_data **out) {
    sy_status st = SY_OK;
    size_t R = (size_t)n_ranks, L = (size_t)spec->n_layers;
    sy_profile_data *d = calloc(1, sizeof *d);
    *out = NULL;
    if (d == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a profile");
    *d = (sy_profile_data){
        .spec = spec, .placement = placement, .n_ranks = n_ranks, .uniform_moe = -1};
    d->layer = calloc(L, sizeof *d->layer);
    d->slot_first = calloc(L + 1, sizeof *d->slot_first);
    d->link = calloc(R * R, sizeof *d->link);
    d->times = calloc(R, sizeof *d->times);
    d->phase_ns = calloc(R * phase_cells(spec), sizeof *d->phase_ns);
    d->clock = calloc(2 * R, sizeof *d->clock);
    d->n_pairs = calloc(L, sizeof *d->n_pairs);
    d->pair = calloc(L * SY_PROFILE_TOP_PAIRS, sizeof *d->pair);
    if (d->layer == NULL || d->slot_first == NULL || d->link == NULL || d->times == NULL ||
        d->phase_ns == NULL || d->clock == NULL || d->n_pairs == NULL || d->pair == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for a profile");
    for (int l = 0; l < spec->n_layers; l++) {
        if (spec->layer[l].ffn.kind != SY_FFN_MOE) continue;
        const sy_placement_layer *layer = &placement->layer[l];
        d->layer[d->n_moe] = l;
        d->slot_first[d->n_moe + 1] = d->slot_first[d->n_moe] + layer->slot_first[n_ranks];
        d->n_experts = (int)sy_max(d->n_experts, layer->n_experts);
        d->n_moe++;
    }
    SY_TRY(create_label(d, &d->total));
    *out = d;
    d = NULL;
done:
    sy_profile_data_destroy(d);
    return st;
}

void sy_profile_data_destroy(sy_profile_data *d) {
    if (d == NULL) return;
    for (int i = 0; i < d->n_labels; i++)
        destroy_label(&d->label[i]);
    destroy_label(&d->total);
    free(d->label);
    free(d->layer);
    free(d->slot_first);
    free(d->link);
    free(d->times);
    free(d->phase_ns);
    free(d->clock);
    free(d->n_pairs);
    free(d->pair);
    free(d);
}

sy_profile_data *sy_profile_get_data(const sy_profile *profile) {
    return profile->data;
}

/* ---- collecting ---- */

/* The label of this name, made where there is none yet. */
static sy_status find_label(sy_profile_data *d, const char *name, sy_profile_label **out) {
    sy_status st = SY_OK;
    for (int i = 0; i < d->n_labels; i++) {
        *out = &d->label[i];
        if (strcmp(d->label[i].name, name) == 0) return SY_OK;
    }
    sy_profile_label *more = realloc(d->label, ((size_t)d->n_labels + 1) * sizeof *more);
    if (more == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a profile");
    d->label = more;
    *out = &d->label[d->n_labels++];
    SY_TRY(create_label(d, *out));
    memcpy((*out)->name, name, strlen(name) + 1);
done:
    return st;
}

/* all [R][L, E] as sy_loads_gather gives it. */
static void add_counts(const sy_profile *p, const uint64_t *all, sy_profile_label *label) {
    const sy_profile_data *d = p->data;
    size_t cells = (size_t)d->spec->n_layers * (size_t)p->parts.loads->n_experts;
    for (int moe = 0; moe < d->n_moe; moe++) {
        int l = d->layer[moe];
        const sy_placement_layer *layer = &d->placement->layer[l];
        for (int r = 0; r < d->n_ranks; r++) {
            const uint64_t *row =
                all + (size_t)r * cells + (size_t)l * (size_t)p->parts.loads->n_experts;
            for (int s = layer->slot_first[r]; s < layer->slot_first[r + 1]; s++)
                label->count[d->slot_first[moe] + s] += row[layer->slot_expert[s]];
        }
    }
}

/* Every token has computed top-k pairs in every layer: no pair is lost or counted twice. */
static sy_status check_conserved(const sy_profile_data *d, const sy_profile_label *label) {
    for (int moe = 0; moe < d->n_moe; moe++) {
        uint64_t sum = 0;
        uint64_t expected = label->tokens * (uint64_t)d->spec->layer[d->layer[moe]].ffn.top_k;
        for (int64_t s = d->slot_first[moe]; s < d->slot_first[moe + 1]; s++)
            sum += label->count[s];
        if (sum != expected)
            return sy_fail(SY_ERR_INTERNAL,
                           "layer %d: experts have computed %llu pairs for %llu tokens, "
                           "expected %llu",
                           d->layer[moe], (unsigned long long)sum,
                           (unsigned long long)label->tokens, (unsigned long long)expected);
    }
    return SY_OK;
}

static void
add_label(const sy_profile_data *d, const sy_profile_label *from, sy_profile_label *to) {
    to->tokens += from->tokens;
    for (int64_t s = 0; s < d->slot_first[d->n_moe]; s++)
        to->count[s] += from->count[s];
    for (size_t i = 0; i < expert_cells(d); i++)
        to->weight[i] += from->weight[i];
}

static sy_status collect_loads(sy_profile *p, sy_profile_label *fresh) {
    sy_status st = SY_OK;
    size_t cells = (size_t)p->n_moe * (size_t)p->n_experts;
    uint64_t *all = NULL;
    double *weights = NULL;
    if (p->rank == 0) {
        weights = calloc((size_t)p->n_ranks * cells + 1, sizeof *weights);
        if (weights == NULL) st = sy_fail(SY_ERR_MEMORY, "no memory for a profile");
    }
    SY_TRY(sy_comm_agree(p->parts.comm, st));
    SY_TRY(sy_loads_gather(p->parts.comm, p->parts.loads, &all, &fresh->tokens));
    SY_TRY(sy_comm_gather(p->parts.comm, p->weight, cells * sizeof *weights, weights, 0));
    if (p->rank != 0) goto done;
    add_counts(p, all, fresh);
    for (size_t i = 0; i < (size_t)p->n_ranks * cells; i++)
        fresh->weight[i % cells] += weights[i];
done:
    free(all);
    free(weights);
    return st;
}

static sy_traffic since(sy_traffic now, sy_traffic then) {
    return (sy_traffic){now.rows - then.rows, now.bytes - then.bytes};
}

static void add_traffic(sy_traffic *to, sy_traffic more) {
    to->rows += more.rows;
    to->bytes += more.bytes;
}

static void add_peer(sy_exchange_peer *to, const sy_exchange_peer *more) {
    add_traffic(&to->dispatch_sent, more->dispatch_sent);
    add_traffic(&to->dispatch_received, more->dispatch_received);
    add_traffic(&to->combine_sent, more->combine_sent);
    add_traffic(&to->combine_received, more->combine_received);
}

static sy_status collect_links(sy_profile *p) {
    sy_status st = SY_OK;
    size_t R = (size_t)p->n_ranks;
    const sy_exchange_peer *now = sy_exchange_peers(p->parts.exchange);
    sy_exchange_peer *all = NULL;
    if (p->rank == 0 && (all = calloc(R * R, sizeof *all)) == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for a profile");
    SY_TRY(sy_comm_agree(p->parts.comm, st));
    for (size_t r = 0; r < R; r++) {
        sy_exchange_peer *m = &p->mark[r]; /* what was there at begin becomes what is new */
        m->dispatch_sent = since(now[r].dispatch_sent, m->dispatch_sent);
        m->dispatch_received = since(now[r].dispatch_received, m->dispatch_received);
        m->combine_sent = since(now[r].combine_sent, m->combine_sent);
        m->combine_received = since(now[r].combine_received, m->combine_received);
    }
    SY_TRY(sy_comm_gather(p->parts.comm, p->mark, R * sizeof *all, all, 0));
    for (size_t i = 0; p->rank == 0 && i < R * R; i++)
        add_peer(&p->data->link[i], &all[i]);
done:
    free(all);
    return st;
}

sy_status sy_profile_collect(sy_profile *p) {
    sy_status st = SY_OK;
    sy_profile_label fresh = {0}, *label = NULL;
    sy_profile_data *d = p->data;
    p->recording = false;
    if (p->rank == 0) {
        st = create_label(d, &fresh);
        if (st == SY_OK) st = find_label(d, p->label, &label);
    }
    SY_TRY(sy_comm_agree(p->parts.comm, st));
    SY_TRY(collect_loads(p, &fresh));
    SY_TRY(collect_links(p));
    if (p->rank == 0) {
        st = check_conserved(d, &fresh);
        add_label(d, &fresh, label);
        add_label(d, &fresh, &d->total);
        d->uniform_moe = -1;
    }
    SY_TRY(sy_comm_agree(p->parts.comm, st));
done:
    destroy_label(&fresh);
    return st;
}

/* ---- at the end ---- */

static sy_status gather_times(sy_profile *p) {
    sy_status st = SY_OK;
    sy_comm *comm = p->parts.comm;
    sy_profile_data *d = p->data;
    bool root = p->rank == 0;
    sy_profile_bucket *all = NULL;
    if (root && (all = calloc((size_t)p->n_ranks, sizeof p->bucket)) == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for a profile");
    SY_TRY(sy_comm_agree(comm, st));
    SY_TRY(sy_comm_gather(comm, &p->times, sizeof p->times, root ? d->times : NULL, 0));
    SY_TRY(sy_comm_gather(comm, p->phase_ns, phase_cells(p->parts.spec) * sizeof *p->phase_ns,
                          root ? d->phase_ns : NULL, 0));
    SY_TRY(sy_comm_gather(comm, p->bucket, sizeof p->bucket, all, 0));
    if (!root) goto done;
    for (int i = 0; i < SY_PROFILE_BUCKETS; i++) {
        d->bucket[i] = p->bucket[i]; /* steps and time are everyone's: rank 0 speaks */
        for (int r = 1; r < p->n_ranks; r++)
            d->bucket[i].tokens += all[r * SY_PROFILE_BUCKETS + i].tokens;
    }
    memcpy(d->clock, p->clock, 2 * (size_t)p->n_ranks * sizeof *d->clock);
    d->synchronised = p->synchronised;
done:
    free(all);
    return st;
}

/* Puts a pair among the most frequent ones, which are kept in falling order. */
static void keep_pair(sy_profile_pair *top, int *n, sy_profile_pair pair) {
    if (*n == SY_PROFILE_TOP_PAIRS && pair.n <= top[*n - 1].n) return;
    int at = *n < SY_PROFILE_TOP_PAIRS ? (*n)++ : *n - 1;
    for (; at > 0 && top[at - 1].n < pair.n; at--)
        top[at] = top[at - 1];
    top[at] = pair;
}

static void find_top_pairs(const sy_profile *p, int moe) {
    sy_profile_data *d = p->data;
    size_t E = (size_t)p->n_experts;
    const uint64_t *count = p->pair + (size_t)moe * E * E;
    sy_profile_pair *top = d->pair + (size_t)moe * SY_PROFILE_TOP_PAIRS;
    d->n_pairs[moe] = 0;
    for (int32_t a = 0; a < p->n_experts; a++)
        for (int32_t b = a + 1; b < p->n_experts; b++) {
            uint64_t n = count[(size_t)a * E + (size_t)b];
            if (n > 0) keep_pair(top, &d->n_pairs[moe], (sy_profile_pair){a, b, n});
        }
}

/* Layer by layer, since all tables of all ranks together are large: rank 0's own becomes the sum. */
static sy_status gather_pairs(sy_profile *p) {
    sy_status st = SY_OK;
    size_t cells = (size_t)p->n_experts * (size_t)p->n_experts;
    uint64_t *all = NULL;
    if (p->pair == NULL) return SY_OK;
    if (p->rank == 0 && (all = calloc((size_t)p->n_ranks * cells, sizeof *all)) == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for the pairs of experts");
    SY_TRY(sy_comm_agree(p->parts.comm, st));
    for (int moe = 0; moe < p->n_moe; moe++) {
        uint64_t *mine = p->pair + (size_t)moe * cells;
        SY_TRY(sy_comm_gather(p->parts.comm, mine, cells * sizeof *mine, all, 0));
        if (p->rank != 0) continue;
        for (size_t i = cells; i < (size_t)p->n_ranks * cells; i++)
            mine[i % cells] += all[i];
        find_top_pairs(p, moe);
    }
    if (p->rank == 0) p->data->pairs_counted = true;
done:
    free(all);
    return st;
}

sy_status sy_profile_gather(sy_profile *p) {
    sy_status st = SY_OK;
    SY_TRY(gather_times(p));
    SY_TRY(gather_pairs(p));
done:
    return st;
}

/* ---- questions ---- */

uint64_t sy_profile_phase_total(const sy_profile_data *d, int rank, int phase) {
    uint64_t sum = 0;
    for (int l = 0; l <= d->spec->n_layers; l++)
        sum += sy_profile_rank_phase_ns(d, rank, l, phase);
    return sum;
}

uint64_t sy_profile_wait_total(const sy_profile_data *d, int rank) {
    return sy_profile_phase_total(d, rank, SY_PHASE_WAIT_TOKENS) +
           sy_profile_phase_total(d, rank, SY_PHASE_WAIT_RESULTS) +
           sy_profile_phase_total(d, rank, SY_PHASE_REPORT);
}

void sy_profile_expert_counts(const sy_profile_data *d,
                              const sy_profile_label *label,
                              int moe,
                              double *out) {
    const sy_placement_layer *layer = &d->placement->layer[d->layer[moe]];
    const uint64_t *count = label->count + d->slot_first[moe];
    for (int e = 0; e < layer->n_experts; e++)
        out[e] = 0;
    for (int s = 0; s < layer->slot_first[layer->n_ranks]; s++)
        out[layer->slot_expert[s]] += (double)count[s];
}

void sy_profile_rank_counts(const sy_profile_data *d,
                            const sy_profile_label *label,
                            int moe,
                            double *out) {
    const sy_placement_layer *layer = &d->placement->layer[d->layer[moe]];
    const uint64_t *count = label->count + d->slot_first[moe];
    for (int r = 0; r < d->n_ranks; r++) {
        out[r] = 0;
        for (int s = layer->slot_first[r]; s < layer->slot_first[r + 1]; s++)
            out[r] += (double)count[s];
    }
}

static bool same_places(const sy_placement_layer *a, const sy_placement_layer *b) {
    if (a->n_experts != b->n_experts) return false;
    size_t ranks = ((size_t)a->n_ranks + 1) * sizeof *a->slot_first;
    size_t slots = (size_t)a->slot_first[a->n_ranks] * sizeof *a->slot_expert;
    return memcmp(a->slot_first, b->slot_first, ranks) == 0 &&
           memcmp(a->slot_expert, b->slot_expert, slots) == 0;
}

static sy_status find_uniform(sy_profile_data *d, uint64_t tokens, int moe) {
    sy_status st = SY_OK;
    const sy_placement_layer *layer = &d->placement->layer[d->layer[moe]];
    if (d->uniform_moe >= 0 && d->uniform_tokens == tokens &&
        same_places(layer, &d->placement->layer[d->layer[d->uniform_moe]]))
        return SY_OK;
    d->uniform_moe = -1;
    SY_TRY(sy_balance_uniform(tokens, d->spec->layer[d->layer[moe]].ffn.top_k, layer,
                              &d->uniform.uniform_experts, &d->uniform.uniform_ranks));
    d->uniform_moe = moe;
    d->uniform_tokens = tokens;
done:
    return st;
}

sy_status sy_profile_balance_of(sy_profile_data *d,
                                const sy_profile_label *label,
                                int moe,
                                sy_profile_balance *out) {
    sy_status st = SY_OK;
    int n = (int)sy_max(d->n_experts, d->n_ranks);
    double *x = calloc((size_t)n, sizeof *x);
    if (x == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a profile");
    SY_TRY(find_uniform(d, label->tokens, moe));
    *out = d->uniform;
    sy_profile_expert_counts(d, label, moe, x);
    sy_balance_of(x, d->placement->layer[d->layer[moe]].n_experts, &out->experts);
    sy_profile_rank_counts(d, label, moe, x);
    sy_balance_of(x, d->n_ranks, &out->ranks);
done:
    free(x);
    return st;
}
