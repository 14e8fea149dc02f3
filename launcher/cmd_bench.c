/* switchyard bench: speed of prefill and decode, beside what the machine could do. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/hash.h"
#include "base/log.h"
#include "kernels/device.h"
#include "launcher/bench_table.h"
#include "launcher/commands.h"
#include "launcher/device.h"
#include "launcher/exchange_table.h"
#include "launcher/output.h"
#include "launcher/profiling.h"
#include "launcher/session.h"
#include "kernels/probe.h"

enum { BANDWIDTH, FLOPS, PROBES };
#define PROBE_SECONDS 0.25

typedef struct bench {
    const sy_options *options;
    const char *format;
    sy_session *session;
    int64_t *prompt, *gen, *batch, n_prompt, n_gen, n_batch;
    int32_t *ids; /* [longest prompt + largest batch]; sequence i begins at its i-th id, since
                     equal sequences would all take the same experts */
    sy_bench_row row;
    bool warned[PROBES]; /* that this bound could not be probed */
} bench;

static bool on_token(void *context, int request, const sy_token *token) {
    (void)context;
    (void)request;
    (void)token;
    return false;
}

static bool on_step(void *context) {
    (void)context;
    return sy_interrupted();
}

static int64_t largest(const int64_t *list, int64_t n) {
    int64_t most = 0;
    for (int64_t i = 0; i < n; i++)
        most = sy_max(most, list[i]);
    return most;
}

static sy_status parse_lists(bench *b) {
    sy_status st = SY_OK;
    const sy_options *o = b->options;
    int64_t most = b->session->spec->max_position;
    SY_TRY(sy_parse_int_list(o->bench_prompt, "-p", 0, most - 1, &b->prompt, &b->n_prompt));
    SY_TRY(sy_parse_int_list(o->bench_gen, "-g", 0, most - 2, &b->gen, &b->n_gen));
    if (largest(b->prompt, b->n_prompt) == 0 && largest(b->gen, b->n_gen) == 0)
        SY_FAIL(SY_ERR_USAGE, "nothing to measure: both -p and -g are 0");
    SY_TRY(sy_parse_int_list(o->bench_batch, "-b", 1, 65536, &b->batch, &b->n_batch));
done:
    return st;
}

static sy_status make_ids(bench *b, int64_t n) {
    b->ids = calloc((size_t)n, sizeof *b->ids);
    if (b->ids == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the prompt");
    for (int64_t i = 0; i < n; i++)
        b->ids[i] = (int32_t)(sy_hash_add(7, (uint64_t)i) % (uint64_t)b->session->spec->vocab);
    return SY_OK;
}

static sy_status open_engine(bench *b) {
    sy_status st = SY_OK;
    int R = b->session->n_ranks;
    /* A prefill samples one token; a decode of n tokens starts from a prompt of one, whose own
     * step samples the first token and is not counted. */
    int64_t context =
        sy_max(1 + largest(b->prompt, b->n_prompt), 2 + largest(b->gen, b->n_gen));
    int64_t per_rank = sy_ceil_div(largest(b->batch, b->n_batch), R);
    SY_TRY(
        sy_comm_agree(b->session->comm, make_ids(b, context + largest(b->batch, b->n_batch))));
    sy_engine_options wish = {.max_context = context,
                              .max_pages = per_rank * sy_kv_pages(context),
                              .per_rank = (int)per_rank,
                              .chunk = sy_max(b->options->chunk, per_rank),
                              .max_outputs = per_rank,
                              .ignore_eos = true,
                              .profile = sy_profiling_wish(b->options)};
    SY_TRY(sy_session_engine(b->session, wish));
done:
    return st;
}

/* One run of n_batch sequences; stats on rank 0. */
static sy_status
run_once(bench *b, int64_t n_batch, int64_t n_prompt, int64_t n_gen, sy_engine_stats *stats) {
    sy_status st = SY_OK;
    const sy_engine_events events = {on_token, on_step, NULL, NULL};
    sy_request *requests = calloc((size_t)n_batch, sizeof *requests);
    if (requests == NULL) st = sy_fail(SY_ERR_MEMORY, "no memory for the batch");
    SY_TRY(sy_comm_agree(b->session->comm, st));
    for (int64_t i = 0; i < n_batch; i++)
        requests[i] = (sy_request){b->ids + i, n_prompt, n_gen, {.top_p = 1}};
    st = sy_engine_generate(b->session->engine, requests, (int)n_batch, &events, stats);
    st = sy_session_step(b->session, st);
done:
    free(requests);
    return st;
}

/* Of this rank, alone. A device without the library for it, or without memory left, gives 0. */
static sy_status probe_rank(bench *b, int kind, double *rate) {
    sy_session *s = b->session;
    const sy_device_ops *device = s->be->ops->device;
    if (device == NULL) {
        *rate = kind == BANDWIDTH ? sy_cpu_probe_bandwidth(s->pool, PROBE_SECONDS)
                                  : sy_cpu_probe_flops(s->be, PROBE_SECONDS);
        return SY_OK;
    }
    sy_status st = kind == BANDWIDTH ? device->probe_bandwidth(s->be, PROBE_SECONDS, rate)
                                     : device->probe_gemm(s->be, PROBE_SECONDS, rate);
    if (st != SY_ERR_UNSUPPORTED && st != SY_ERR_MEMORY) return st;
    if (!b->warned[kind])
        SY_WARN("the %s was not probed and its share is left out: %s",
                kind == BANDWIDTH ? "bandwidth, the bound of decode,"
                                  : "multiply rate, the bound of prefill,",
                sy_last_error());
    b->warned[kind] = true;
    *rate = 0;
    return SY_OK;
}

/* What the machine gives right now: all ranks probe at the same time, their rates add up. 0: not
 * known, since a rank could not probe. */
static sy_status probe(bench *b, double sum[PROBES]) {
    sy_status st = SY_OK;
    sy_session *s = b->session;
    double mine[PROBES] = {0}, *all = NULL;
    if (s->rank == 0 && (all = calloc((size_t)s->n_ranks, sizeof mine)) == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for the probes");
    SY_TRY(sy_comm_agree(s->comm, st));
    for (int kind = 0; kind < PROBES; kind++) {
        SY_TRY(sy_comm_barrier(s->comm));
        SY_TRY(sy_comm_agree(s->comm, probe_rank(b, kind, &mine[kind])));
        sum[kind] = 0;
    }
    SY_TRY(sy_comm_gather(s->comm, mine, sizeof mine, all, 0));
    for (int kind = 0; kind < PROBES && s->rank == 0; kind++) {
        bool known = true;
        for (int r = 0; r < s->n_ranks; r++) {
            sum[kind] += all[PROBES * r + kind];
            known = known && all[PROBES * r + kind] > 0;
        }
        if (!known) sum[kind] = 0;
    }
done:
    free(all);
    return st;
}

/* Codes, scales and padding, as they lie in memory. */
static int64_t matrix_bytes(sy_backend *be, const sy_matrix *m) {
    return m->data == NULL ? 0 : (int64_t)be->ops->matrix_bytes(be, m);
}

/* Weights that a decode step reads whatever the routing, per rank, and of one expert. */
static void count_reads(const sy_session *s, int64_t *fixed, int64_t *expert) {
    sy_backend *be = s->be;
    *fixed = matrix_bytes(be, &s->weights->lm_head);
    *expert = 0;
    for (int l = 0; l < s->spec->n_layers; l++) {
        const sy_layer_weights *w = &s->weights->layer[l];
        const sy_matrix *const m[] = {&w->q, &w->k,      &w->v,           &w->q_a,     &w->kv_a,
                                      &w->o, &w->router, &w->ffn_gate_up, &w->ffn_down};
        for (size_t i = 0; i < sizeof m / sizeof m[0]; i++)
            *fixed += matrix_bytes(be, m[i]);
        for (int h = 0; w->k_up != NULL && h < s->spec->layer[l].attn.heads; h++)
            *fixed += matrix_bytes(be, &w->k_up[h]) + matrix_bytes(be, &w->v_up[h]);
        if (w->n_slots > 0)
            *expert = matrix_bytes(be, &w->gate_up[0]) + matrix_bytes(be, &w->down[0]);
    }
}

/* Bytes of weights that all ranks read for one step, from the counted experts. Collective. */
static sy_status bytes_per_step(bench *b, uint64_t steps, double *out) {
    sy_status st = SY_OK;
    sy_session *s = b->session;
    int64_t fixed, expert;
    uint64_t *all = NULL;
    sy_runner *runner = sy_engine_runner(s->engine);
    if (s->rank == 0 && (all = calloc((size_t)s->n_ranks, sizeof *all)) == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for the counts");
    SY_TRY(sy_comm_agree(s->comm, st));
    SY_TRY(sy_comm_gather(s->comm, &runner->loads->experts_read, sizeof *all, all, 0));
    count_reads(s, &fixed, &expert);
    *out = (double)fixed * (double)sy_min(s->n_ranks, b->row.n_batch);
    for (int r = 0; r < s->n_ranks && s->rank == 0; r++)
        *out += (double)all[r] / (double)steps * (double)expert;
done:
    free(all);
    return st;
}

/* Floating-point operations of a prefill of n tokens: two for each active weight (lm_head once a
 * prompt), and the causal half of scores and values. */
static double prefill_flops(const sy_model_spec *spec, double n) {
    sy_param_counts c;
    sy_spec_count(spec, &c);
    double weights = 0;
    for (int l = 0; l < spec->n_layers; l++) {
        const sy_attn_spec *a = &spec->layer[l].attn;
        const sy_ffn_spec *f = &spec->layer[l].ffn;
        double q = (double)a->heads * a->head_dim, kv = (double)a->kv_heads * a->head_dim;
        double ffn = f->kind == SY_FFN_MOE
                         ? 3.0 * (f->top_k * f->inter + f->shared_inter) + f->experts
                         : 3.0 * f->inter;
        weights += spec->hidden * (2 * q + 2 * kv + ffn) + q * n; /* q * n: 2 * q * n / 2 */
    }
    return 2 * (weights * n + (double)spec->hidden * spec->vocab);
}

typedef enum test_kind { PREFILL, DECODE } test_kind;

/* One repetition into the row; a bound of 0 is not known. */
static void record_prefill(bench *b, const sy_engine_stats *stats, double flops, int i) {
    sy_bench_row *row = &b->row;
    double done = (double)row->n_batch * prefill_flops(b->session->spec, (double)row->n_tokens);
    row->rate[i] = (double)stats->prefill_tokens / stats->prefill_seconds;
    row->bound[i] = flops;
    row->share[i] = flops > 0 ? done / stats->prefill_seconds / flops : 0;
}

/* bytes: of weights that all ranks read for a step. */
static void
record_decode(bench *b, const sy_engine_stats *stats, double bandwidth, double bytes, int i) {
    sy_bench_row *row = &b->row;
    row->rate[i] = (double)stats->decode_tokens / stats->decode_seconds;
    row->bytes_per_token = bytes / (double)row->n_batch;
    row->gb_per_s[i] = row->bytes_per_token * row->rate[i] * 1e-9;
    row->bound[i] = bandwidth;
    row->share[i] = bandwidth > 0 ? row->gb_per_s[i] * 1e9 / bandwidth : 0;
}

/* One line of the table: repetitions, each between its own probes. */
static sy_status run_test(bench *b, test_kind kind, int64_t n_batch, int64_t n) {
    sy_status st = SY_OK;
    sy_session *s = b->session;
    sy_bench_row *row = &b->row;
    int reps = b->options->repetitions;
    char label[64];
    snprintf(label, sizeof label, "%s%" PRId64 " b%" PRId64, kind == PREFILL ? "pp" : "tg", n,
             n_batch);
    *row = (sy_bench_row){.n_batch = n_batch,
                          .n_tokens = n,
                          .is_prefill = kind == PREFILL,
                          .n_ranks = s->n_ranks,
                          .n_threads = s->n_threads,
                          .device = sy_device_describe(s->be),
                          .on_device = s->be->ops->device != NULL};
    for (int i = -1; i < reps; i++) { /* -1: a warm-up that is not counted */
        sy_engine_stats stats = {0};
        double bound[PROBES], bytes;
        SY_TRY(probe(b, bound));
        sy_loads_reset(sy_engine_runner(s->engine)->loads);
        if (i >= 0) SY_TRY(sy_profiling_begin(s, label));
        if (kind == PREFILL)
            SY_TRY(run_once(b, n_batch, n, 1, &stats));
        else
            SY_TRY(run_once(b, n_batch, 1, n + 1, &stats));
        /* All ranks must leave the loop together. */
        SY_TRY(sy_comm_broadcast(s->comm, &stats, sizeof stats, 0));
        if (stats.interrupted) SY_FAIL(SY_ERR_INTERRUPTED, "interrupted");
        SY_TRY(bytes_per_step(b, stats.steps, &bytes));
        if (i < 0) continue;
        SY_TRY(sy_profiling_collect(s));
        if (kind == PREFILL)
            record_prefill(b, &stats, bound[FLOPS], i);
        else
            record_decode(b, &stats, bound[BANDWIDTH], bytes, i);
        row->n_repetitions = i + 1;
    }
    if (s->rank == 0) st = sy_bench_print_row(b->format, s->spec, s->weights, row);
    SY_TRY(sy_comm_agree(s->comm, st)); /* a full stdout ends the others too */
done:
    return st;
}

static sy_status run_all(bench *b) {
    sy_status st = SY_OK;
    bool root = b->session->rank == 0;
    SY_TRY(sy_comm_agree(b->session->comm, root ? sy_bench_print_head(b->format) : SY_OK));
    for (int64_t i = 0; i < b->n_batch; i++) {
        for (int64_t k = 0; k < b->n_prompt; k++)
            if (b->prompt[k] > 0) SY_TRY(run_test(b, PREFILL, b->batch[i], b->prompt[k]));
        for (int64_t k = 0; k < b->n_gen; k++)
            if (b->gen[k] > 0) SY_TRY(run_test(b, DECODE, b->batch[i], b->gen[k]));
    }
    SY_TRY(
        sy_comm_agree(b->session->comm, root ? sy_bench_print_end(b->format, &b->row) : SY_OK));
done:
    return st;
}

sy_status sy_cmd_bench(const sy_options *options) {
    sy_status st = SY_OK;
    sy_session session;
    bench b = {.options = options,
               .session = &session,
               .format = options->json ? "json" : options->format};

    SY_TRY(sy_session_open(options, &session));
    if (!options->bench_exchange && options->model == NULL)
        SY_FAIL(SY_ERR_USAGE, "bench needs a MODEL, or --exchange");
    if (options->bench_exchange && options->placement != NULL)
        SY_FAIL(SY_ERR_USAGE, "bench --exchange takes no --placement: it has contiguous experts");
    if (options->bench_exchange && options->profile_dir != NULL)
        SY_FAIL(SY_ERR_USAGE, "bench --exchange takes no --profile: no model runs");
    if (options->bench_exchange) {
        SY_TRY(sy_exchange_table(&session));
        goto done;
    }
    SY_TRY(sy_session_model(&session));
    SY_TRY(sy_comm_agree(session.comm, parse_lists(&b)));
    if (session.rank == 0) st = sy_profiling_prepare(options);
    SY_TRY(sy_comm_agree(session.comm, st));
    SY_TRY(open_engine(&b));
    SY_TRY(run_all(&b));
    SY_TRY(sy_profiling_finish(&session));
done:
    free(b.prompt);
    free(b.gen);
    free(b.batch);
    free(b.ids);
    return sy_session_close(&session, st);
}
