#include "runtime/profile.h"

#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "runtime/profile_clock.h"
#include "runtime/profile_memory.h"

/* More pairs than these bytes are not counted. */
#define MOST_PAIR_BYTES ((uint64_t)256 << 20)

/* ---- memory ---- */

static void measure_model(sy_profile *p) {
    const sy_model_spec *spec = p->parts.spec;
    p->n_moe = p->n_experts = p->top_k = 0;
    for (int l = 0; l < spec->n_layers; l++) {
        const sy_ffn_spec *f = &spec->layer[l].ffn;
        if (f->kind != SY_FFN_MOE) continue;
        p->n_moe++;
        p->n_experts = (int)sy_max(p->n_experts, f->experts);
        p->top_k = (int)sy_max(p->top_k, f->top_k);
    }
}

static uint64_t pair_cells(const sy_profile *p) {
    uint64_t E = (uint64_t)p->n_experts, cells = (uint64_t)p->n_moe * E * E; /* < 2^42 */
    return cells <= MOST_PAIR_BYTES / sizeof *p->pair ? cells : 0;
}

/* Takes all arrays from an arena; with one that measures, finds their size. */
static void carve(sy_profile *p, sy_arena *arena) {
    uint64_t layers = (uint64_t)p->parts.spec->n_layers, R = (uint64_t)p->n_ranks;
    uint64_t choices = (uint64_t)p->parts.max_rows * (uint64_t)p->top_k;
    uint64_t routes = (uint64_t)p->options.routes, context = (uint64_t)p->parts.max_context;
    uint64_t kept_rows, kept_positions;
    if (!sy_mul_u64(routes, context, &kept_positions) ||
        !sy_mul_u64(kept_positions, (uint64_t)p->n_moe * (uint64_t)p->top_k, &kept_rows))
        kept_rows = UINT64_MAX;
    p->span_number = sy_arena_take(arena, (uint64_t)p->parts.max_spans, sizeof *p->span_number);
    p->phase_ns = sy_arena_take(arena, (layers + 1) * SY_PHASES, sizeof *p->phase_ns);
    p->pair = pair_cells(p) == 0 ? NULL : sy_arena_take(arena, pair_cells(p), sizeof *p->pair);
    p->event = sy_arena_take(arena, (uint64_t)p->options.events, sizeof *p->event);
    p->weight =
        sy_arena_take(arena, (uint64_t)p->n_moe * (uint64_t)p->n_experts, sizeof *p->weight);
    p->mark = sy_arena_take(arena, R, sizeof *p->mark);
    p->moe_of_layer = sy_arena_take(arena, layers, sizeof *p->moe_of_layer);
    p->expert = sy_arena_take(arena, choices, sizeof *p->expert);
    p->expert_weight = sy_arena_take(arena, choices, sizeof *p->expert_weight);
    p->kept_rows = sy_arena_take(arena, routes, sizeof *p->kept_rows);
    p->kept_ids = sy_arena_take(arena, kept_positions, sizeof *p->kept_ids);
    p->kept = sy_arena_take(arena, kept_rows, sizeof *p->kept);
    p->kept_label = sy_arena_take(arena, routes, SY_PROFILE_LABEL_MAX);
    p->clock = sy_arena_take(arena, R, 2 * sizeof *p->clock);
}

static uint64_t measure(sy_profile *p) {
    sy_arena arena = {0};
    p->n_ranks = sy_comm_size(p->parts.comm);
    measure_model(p);
    carve(p, &arena);
    return arena.used;
}

uint64_t sy_profile_bytes(const sy_profile_parts *parts, const sy_profile_options *options) {
    sy_profile p = {.parts = *parts, .options = *options};
    return measure(&p);
}

static sy_status create_local(const sy_profile_parts *parts,
                              const sy_profile_options *options,
                              sy_profile **out) {
    sy_status st = SY_OK;
    sy_profile *p = NULL;
    SY_TRY(sy_mem_alloc(&p, sizeof *p, "profile"));
    *out = p;
    p->parts = *parts;
    p->options = *options;
    p->rank = sy_comm_rank(parts->comm);
    p->synchronised = parts->be->ops->device != NULL;
    if (options->events < 0 || options->routes < 0 || options->routes > SY_PROFILE_MOST_ROUTES)
        SY_FAIL(SY_ERR_INTERNAL, "profile of %lld events and %lld sequences",
                (long long)options->events, (long long)options->routes);
    p->bytes = measure(p);
    SY_TRY(sy_mem_alloc(&p->block, p->bytes, "profile"));
    sy_arena arena = {.base = p->block, .size = p->bytes};
    carve(p, &arena);
    int16_t moe = 0;
    for (int l = 0; l < parts->spec->n_layers; l++)
        p->moe_of_layer[l] = parts->spec->layer[l].ffn.kind == SY_FFN_MOE ? moe++ : -1;
    if (p->rank == 0)
        SY_TRY(sy_profile_data_create(parts->spec, parts->placement, p->n_ranks, &p->data));
done:
    return st;
}

sy_status sy_profile_create(const sy_profile_parts *parts,
                            const sy_profile_options *options,
                            sy_profile **out) {
    sy_status st = SY_OK;
    sy_profile *p = NULL;
    *out = NULL;
    SY_TRY(sy_comm_agree(parts->comm, create_local(parts, options, &p)));
    SY_TRY(sy_profile_compare_clocks(parts->comm, p->clock));
    *out = p;
    p = NULL;
done:
    sy_profile_destroy(p);
    return st;
}

void sy_profile_destroy(sy_profile *p) {
    if (p == NULL) return;
    sy_profile_data_destroy(p->data);
    sy_mem_free(p->block, p->bytes);
    sy_mem_free(p, sizeof *p);
}

/* ---- sections ---- */

sy_status sy_profile_begin(sy_profile *p, const char *label) {
    size_t n = strlen(label);
    if (n == 0 || n >= sizeof p->label)
        return sy_fail(SY_ERR_USAGE, "a profile's label has 1 to %zu bytes, not %zu",
                       sizeof p->label - 1, n);
    memcpy(p->label, label, n + 1);
    sy_loads_reset(p->parts.loads);
    memset(p->weight, 0, (size_t)p->n_moe * (size_t)p->n_experts * sizeof *p->weight);
    memcpy(p->mark, sy_exchange_peers(p->parts.exchange), (size_t)p->n_ranks * sizeof *p->mark);
    p->last_end = 0;
    p->recording = true;
    return SY_OK;
}

/* ---- sequences ---- */

int64_t sy_profile_admit(sy_profile *p) {
    if (p == NULL || !p->recording || p->n_admitted >= p->options.routes) return -1;
    int64_t number = p->n_admitted++;
    memcpy(p->kept_label + number * SY_PROFILE_LABEL_MAX, p->label, sizeof p->label);
    return number;
}

void sy_profile_span(sy_profile *p, int i, int64_t number) {
    if (p != NULL) p->span_number[i] = number;
}

/* ---- time ---- */

static void keep_event(sy_profile *p, const sy_profile_event *event) {
    if (p->times.events < (uint64_t)p->options.events)
        p->event[p->times.events++] = *event;
    else
        p->times.dropped++;
}

static void end_phase(sy_profile *p, int64_t now) {
    int row = p->layer < 0 ? p->parts.spec->n_layers : p->layer;
    p->phase_ns[row * SY_PHASES + (int)p->phase] += (uint64_t)(now - p->phase_begin);
    keep_event(p, &(sy_profile_event){.begin = p->phase_begin,
                                      .end = now,
                                      .step = (int32_t)p->times.steps,
                                      .layer = (int16_t)p->layer,
                                      .phase = (uint16_t)p->phase});
    p->phase_begin = now;
}

/* The device has done what was enqueued; it may have to wait for other ranks. */
static sy_status synchronise(sy_profile *p) {
    if (!p->synchronised) return SY_OK;
    sy_progress_wait(p->parts.live);
    sy_status st = sy_exchange_synchronize(p->parts.exchange);
    sy_progress_resume(p->parts.live);
    return st;
}

void sy_profile_step_begin(sy_profile *p) {
    if (p == NULL || !p->recording) return;
    int64_t now = sy_now_ns();
    if (p->last_end != 0) p->times.between_ns += (uint64_t)(now - p->last_end);
    p->in_step = true;
    p->step_begin = p->phase_begin = now;
    p->phase = SY_PHASE_PREPARE;
    p->layer = -1;
}

sy_status sy_profile_enter(sy_profile *p, int layer, sy_profile_phase phase) {
    sy_status st = SY_OK;
    if (!p->in_step) return SY_OK;
    /* Results travel on the device's own time: their sending and the wait are one. */
    if (phase != SY_PHASE_WAIT_RESULTS) SY_TRY(synchronise(p));
    end_phase(p, sy_now_ns());
    p->phase = phase;
    p->layer = layer;
done:
    return st;
}

void sy_profile_waited(sy_profile *p, int layer, sy_profile_phase phase) {
    if (p == NULL || !p->in_step) return;
    int64_t until = sy_exchange_waited_until(p->parts.exchange);
    if (until < p->phase_begin) return;
    end_phase(p, until);
    p->phase = phase;
    p->layer = layer;
}

/* 1, 2, 3 to 4, 5 to 8, ... */
static int bucket_of(int64_t rows) {
    int i = 0;
    while (i < SY_PROFILE_BUCKETS - 1 && ((int64_t)1 << i) < rows)
        i++;
    return i;
}

sy_status sy_profile_step_end(sy_profile *p, int64_t rows, int64_t most_rows) {
    sy_status st = SY_OK;
    if (p == NULL || !p->in_step) return SY_OK;
    SY_TRY(synchronise(p));
    int64_t now = sy_now_ns();
    end_phase(p, now);
    keep_event(p, &(sy_profile_event){.begin = p->step_begin,
                                      .end = now,
                                      .step = (int32_t)p->times.steps,
                                      .rows = (int32_t)rows,
                                      .layer = -1,
                                      .phase = SY_PHASES});
    sy_profile_bucket *b = &p->bucket[bucket_of(most_rows)];
    b->steps++;
    b->tokens += (uint64_t)rows;
    b->ns += (uint64_t)(now - p->step_begin);
    p->times.steps++;
    p->times.step_ns += (uint64_t)(now - p->step_begin);
    p->last_end = now;
    p->in_step = false;
done:
    return st;
}

/* ---- choices ---- */

static void count_row(sy_profile *p, int moe, const int32_t *expert, const float *weight) {
    size_t E = (size_t)p->n_experts;
    double *sum = p->weight + (size_t)moe * E;
    uint64_t *pair = p->pair == NULL ? NULL : p->pair + (size_t)moe * E * E;
    for (int i = 0; i < p->top_k; i++) {
        sum[expert[i]] += (double)weight[i];
        for (int k = i; pair != NULL && k < p->top_k; k++) {
            int32_t a = expert[i], b = expert[k];
            pair[a < b ? (size_t)a * E + (size_t)b : (size_t)b * E + (size_t)a]++;
        }
    }
}

/* Rows of a sequence whose choices are kept. */
static void keep_span(sy_profile *p,
                      int moe,
                      int64_t number,
                      const sy_span *span,
                      const int32_t *ids,
                      const int32_t *expert) {
    for (int i = 0; i < span->n_rows; i++) {
        int64_t position = span->position + i;
        if (position >= p->parts.max_context) return;
        uint16_t *row = sy_profile_kept_row(p, number, moe, position);
        for (int k = 0; k < p->top_k; k++)
            row[k] = (uint16_t)expert[(span->first_row + i) * p->top_k + k];
        p->kept_ids[number * p->parts.max_context + position] = ids[span->first_row + i];
        p->kept_rows[number] = sy_max(p->kept_rows[number], position + 1);
    }
}

static sy_status
read_choice(sy_profile *p, const int32_t **expert, const float **weight, int n, sy_stream *s) {
    sy_status st = SY_OK;
    const sy_ops *ops = p->parts.be->ops;
    uint64_t choices = (uint64_t)n * (uint64_t)p->top_k;
    if (choices == 0) return SY_OK;
    SY_TRY(ops->read(p->parts.be, p->expert, *expert, choices * sizeof **expert, s));
    SY_TRY(ops->read(p->parts.be, p->expert_weight, *weight, choices * sizeof **weight, s));
    *expert = p->expert;
    *weight = p->expert_weight;
done:
    return st;
}

sy_status sy_profile_choice(sy_profile *p,
                            int layer,
                            const sy_batch *batch,
                            const int32_t *expert,
                            const float *weight,
                            sy_stream *s) {
    sy_status st = SY_OK;
    if (p == NULL || !p->in_step) return SY_OK;
    int moe = p->moe_of_layer[layer];
    if (p->synchronised) SY_TRY(read_choice(p, &expert, &weight, batch->n_rows, s));
    for (int64_t t = 0; t < batch->n_rows; t++)
        count_row(p, moe, expert + t * p->top_k, weight + t * p->top_k);
    for (int i = 0; i < batch->n_spans; i++)
        if (p->span_number[i] >= 0)
            keep_span(p, moe, p->span_number[i], &batch->span[i], batch->ids, expert);
done:
    return st;
}
