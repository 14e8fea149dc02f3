/* Rounds of the exchange on a device, whichever: inputs written to its memory, the experts made by
 * the host between two phases, results read back and compared bit by bit. */
#ifndef SY_TESTS_DEVICE_EXCHANGE_FIXTURE_H
#define SY_TESTS_DEVICE_EXCHANGE_FIXTURE_H

#include "exchange_fixture.h"
#include "kernels/device.h"

typedef struct stand {
    const scenario *c;
    const world *w;
    sy_backend *be;
    sy_exchange *ex;
    const sy_placement_layer *layer;
    int64_t max_pairs;
    /* device memory */
    void *x;
    int32_t *expert;
    float *weight, *shared, *out, *y;
    uint64_t *load;
    /* of the current round */
    tokens all[MAX_RANKS];
    sy_expert_rows rows;
} stand;

static inline uint64_t stand_x_bytes(const stand *t) {
    return (uint64_t)(t->c->T * t->c->H) * (t->c->act == SY_F32 ? 4 : 2);
}

static inline void stand_write(stand *t, void *to, const void *from, uint64_t bytes) {
    if (bytes > 0) must(t->be->ops->write(t->be, to, from, bytes, NULL));
}

/* A copy in host memory. */
static inline void *stand_read(stand *t, const void *from, uint64_t bytes) {
    void *copy = zeros((size_t)bytes, 1);
    if (bytes > 0) must(t->be->ops->read(t->be, copy, from, bytes, NULL));
    return copy;
}

static inline stand *stand_create(const scenario *c,
                                  const world *w,
                                  sy_backend *be,
                                  sy_exchange *ex,
                                  const sy_exchange_shape *shape,
                                  const sy_placement_layer *layer) {
    stand *t = zeros(1, sizeof *t);
    uint64_t rows = (uint64_t)c->T, h = (uint64_t)c->H * 4, k = (uint64_t)c->K * 4;
    *t = (stand){.c = c, .w = w, .be = be, .ex = ex, .layer = layer};
    t->max_pairs = sy_exchange_max_pairs(w->comm, shape);
    must(be->ops->alloc(be, &t->x, stand_x_bytes(t), "x"));
    must(be->ops->alloc(be, &t->expert, rows * k, "expert"));
    must(be->ops->alloc(be, &t->weight, rows * k, "weight"));
    must(be->ops->alloc(be, &t->shared, rows * h, "shared"));
    must(be->ops->alloc(be, &t->out, rows * h, "out"));
    must(be->ops->alloc(be, &t->y, (uint64_t)t->max_pairs * h, "y"));
    must(be->ops->alloc(be, &t->load, ((uint64_t)c->E + 1) * 8, "load"));
    return t;
}

static inline void stand_destroy(stand *t) {
    uint64_t rows = (uint64_t)t->c->T, h = (uint64_t)t->c->H * 4, k = (uint64_t)t->c->K * 4;
    t->be->ops->free(t->be, t->load, ((uint64_t)t->c->E + 1) * 8);
    t->be->ops->free(t->be, t->y, (uint64_t)t->max_pairs * h);
    t->be->ops->free(t->be, t->out, rows * h);
    t->be->ops->free(t->be, t->shared, rows * h);
    t->be->ops->free(t->be, t->weight, rows * k);
    t->be->ops->free(t->be, t->expert, rows * k);
    t->be->ops->free(t->be, t->x, stand_x_bytes(t));
    free(t);
}

/* Tokens of the round on the device; `capacity` rows, those behind the tokens with no experts. */
static inline void stand_begin(stand *t, int round, int64_t capacity) {
    const scenario *c = t->c;
    for (int r = 0; r < t->w->size; r++) {
        t->all[r] = make_tokens(c, r, round);
        if (capacity > 0 && t->all[r].n > capacity) t->all[r].n = capacity;
    }
    tokens *mine = &t->all[t->w->rank];
    uint64_t n = (uint64_t)mine->n, h = (uint64_t)c->H * 4, k = (uint64_t)c->K * 4;
    void *x = to_act(c, mine);
    int32_t *none = zeros((size_t)(c->T * c->K), sizeof *none);
    for (int64_t i = 0; i < c->T * c->K; i++)
        none[i] = -1;
    stand_write(t, t->expert, none, (uint64_t)c->T * k);
    stand_write(t, t->x, x, n * (uint64_t)c->H * (c->act == SY_F32 ? 4 : 2));
    stand_write(t, t->expert, mine->expert, n * k);
    stand_write(t, t->weight, mine->weight, n * k);
    stand_write(t, t->shared, mine->shared, n * h);
    stand_write(t, t->out, mine->residual, n * h);
    free(none);
    free(x);
}

/* Where the rows of the slots are, in host memory, however the round tells. */
static inline int32_t *stand_first(stand *t, int32_t **row) {
    const sy_expert_rows *rows = &t->rows;
    uint64_t n = (uint64_t)rows->n_slots + 1;
    *row = NULL;
    if (rows->device == NULL) {
        int32_t *first = zeros(n, sizeof *first);
        for (uint64_t s = 0; s < n; s++)
            first[s] = (int32_t)rows->first[s];
        return first;
    }
    int32_t *first = stand_read(t, rows->device->first, n * sizeof *first);
    int32_t *active = stand_read(t, rows->device->active, n * sizeof *active), n_active = 0;
    for (int s = 0; s < rows->n_slots; s++)
        if (first[s + 1] > first[s]) assert_int_equal(active[1 + n_active++], s);
    assert_int_equal(active[0], n_active);
    free(active);
    if (rows->device->row != NULL)
        *row = stand_read(t, rows->device->row, (uint64_t)first[n - 1] * sizeof **row);
    return first;
}

/* Checks one pair, whose row is at `at` of x, and makes its result. */
static inline void stand_compute(stand *t, const void *x, int64_t at, int e, float *y) {
    const scenario *c = t->c;
    for (int64_t h = 0; h < c->H; h++) {
        float value = c->act == SY_F32 ? ((const float *)x)[at * c->H + h]
                                       : sy_f32_from_bf16(((const uint16_t *)x)[at * c->H + h]);
        y[h] = fake_expert(value, e, h);
    }
}

static inline bool stand_wants(stand *t, int source, int64_t row, int e) {
    bool chosen = false;
    for (int k = 0; k < t->c->K; k++)
        chosen |= t->all[source].expert[row * t->c->K + k] == e;
    int n_copies = t->layer->home_first[e + 1] - t->layer->home_first[e];
    int64_t copy = t->layer->home_first[e] + (source + row) % n_copies;
    return chosen && t->layer->home[copy].rank == t->w->rank;
}

/* The experts of this rank, by the host: checks what they are given, slot by slot, within a slot
 * by source and row, and writes y. The argument of `outside`, so void. */
static inline sy_status stand_experts(void *argument) {
    stand *t = argument;
    const scenario *c = t->c;
    must(sy_exchange_synchronize(t->ex));
    int32_t *row = NULL, *first = stand_first(t, &row), p = 0;
    assert_int_equal(t->rows.n_slots, sy_placement_slots(t->layer, t->w->rank));
    int64_t n_pairs = first[t->rows.n_slots], x_rows = n_pairs;
    assert_true(n_pairs <= t->rows.n_pairs && t->rows.n_pairs <= t->max_pairs);
    for (int64_t i = 0; row != NULL && i < n_pairs; i++)
        if (i == 0 || row[i] + 1 > x_rows) x_rows = row[i] + 1;
    void *x = stand_read(t, t->rows.x, (uint64_t)(x_rows * c->H) * (c->act == SY_F32 ? 4 : 2));
    float *y = zeros((size_t)(n_pairs * c->H), sizeof *y);
    for (int slot = 0; slot < t->rows.n_slots; slot++) {
        int e = t->layer->slot_expert[t->layer->slot_first[t->w->rank] + slot];
        assert_int_equal(first[slot], p);
        for (int source = 0; source < t->w->size; source++) {
            for (int64_t i = 0; i < t->all[source].n; i++) {
                if (!stand_wants(t, source, i, e)) continue;
                int64_t at = row == NULL ? p : row[p];
                assert_true(p < n_pairs);
                stand_compute(t, x, at, e, y + (int64_t)p * c->H);
                for (int64_t h = 0; h < c->H; h++)
                    assert_true(y[(int64_t)p * c->H + h] ==
                                fake_expert(t->all[source].x[i * c->H + h], e, h));
                p++;
            }
        }
    }
    assert_int_equal(p, n_pairs);
    stand_write(t, t->y, y, (uint64_t)(n_pairs * c->H) * sizeof *y);
    free(y);
    free(x);
    free(row);
    free(first);
    return SY_OK;
}

/* What a rank enqueues for one round. n_rows is the capacity in the fixed form. */
static inline sy_status stand_round(stand *t, int64_t n_rows, uint64_t hash) {
    sy_status st = SY_OK;
    SY_TRY(sy_dispatch_begin(t->ex, t->layer, n_rows, t->x, t->expert, t->weight, hash, NULL));
    SY_TRY(sy_dispatch_end(t->ex, &t->rows, NULL));
    SY_TRY(t->be->ops->device->outside(t->be, stand_experts, t));
    SY_TRY(sy_combine_begin(t->ex, t->y, NULL));
    SY_TRY(sy_combine_end(t->ex, t->shared, t->out, NULL));
done:
    return st;
}

static inline void stand_check(stand *t, int round) {
    const scenario *c = t->c;
    const tokens *mine = &t->all[t->w->rank];
    must(sy_exchange_synchronize(t->ex));
    float *out = stand_read(t, t->out, (uint64_t)(mine->n * c->H) * sizeof *out);
    for (int64_t row = 0; row < mine->n; row++)
        for (int64_t h = 0; h < c->H; h++) {
            float found = out[row * c->H + h], expected = expected_value(c, mine, row, h);
            if (!near_enough(c, found, expected))
                fail_msg("rank %d round %d row %lld column %lld: found %.9g, expected %.9g",
                         t->w->rank, round, (long long)row, (long long)h, (double)found,
                         (double)expected);
        }
    free(out);
    for (int r = 0; r < t->w->size; r++)
        free_tokens(&t->all[r]);
}

/* What every device and wire has to carry; H and the number of rounds are the test's. */
typedef struct exchange_case {
    const char *name;
    int64_t capacity; /* 0: the sparse form alone */
    scenario c;
} exchange_case;

static const exchange_case exchange_cases[] = {
    {"contiguous_experts_are_bitwise_equal", 13, {.E = 16, .K = 5, .T = 13, .empty_rank = -1}},
    {"scattered_experts_are_bitwise_equal",
     9,
     {.placing = SCATTERED, .E = 21, .K = 8, .T = 13, .empty_rank = -1}},
    {"replicas_are_bitwise_equal",
     4,
     {.placing = REPLICATED, .E = 16, .K = 6, .T = 13, .empty_rank = -1}},
    {"one_row_is_bitwise_equal",
     1,
     {.placing = SCATTERED, .E = 9, .K = 4, .T = 13, .empty_rank = -1}},
    {"a_rank_without_tokens_takes_part", 5, {.E = 8, .K = 4, .T = 13, .empty_rank = 0}},
    {"nobody_has_tokens", 0, {.E = 8, .K = 2, .T = 0, .empty_rank = -1}},
    {"one_rank_computes_everything",
     13,
     {.placing = ALL_ON_LAST, .E = 8, .K = 6, .T = 13, .empty_rank = -1}},
};
enum { EXCHANGE_CASES = sizeof exchange_cases / sizeof *exchange_cases };

/* Tests of all cases; `run` finds its case in *state. */
static inline void add_exchange_cases(struct CMUnitTest *tests, CMUnitTestFunction run) {
    for (int i = 0; i < EXCHANGE_CASES; i++)
        tests[i] = (struct CMUnitTest){exchange_cases[i].name, run, NULL, NULL,
                                       (void *)(uintptr_t)&exchange_cases[i]};
}

/* Sparse rounds, then fixed ones called directly, then, between sparse ones, fixed ones that were
 * recorded once. `captured`: NCCL's calls within the recording. */
static inline void
stand_run(stand *t, int64_t capacity, bool captured, sy_exchange_stats *stats) {
    const sy_device_ops *device = t->be->ops->device;
    sy_recording *recording = NULL;
    for (int round = 0; round < t->c->rounds; round++) {
        stand_begin(t, round, 0);
        must(stand_round(t, t->all[t->w->rank].n, (uint64_t)round));
        stand_check(t, round);
    }
    sy_exchange_get_stats(t->ex, stats);
    if (capacity == 0) return;
    must(sy_exchange_set_captured(t->ex, false));
    must(sy_exchange_set_capacity(t->ex, capacity));
    for (int round = 0; round < t->c->rounds; round++) {
        stand_begin(t, round, capacity);
        must(stand_round(t, capacity, 0));
        stand_check(t, round);
    }
    must(sy_exchange_set_captured(t->ex, captured));
    must(sy_exchange_set_capacity(t->ex, capacity));
    must(device->record_begin(t->be));
    must(stand_round(t, capacity, 0));
    must(device->record_end(t->be, &recording));
    sy_expert_rows recorded = t->rows;
    must(sy_exchange_set_capacity(t->ex, 0));
    for (int round = 0; round < t->c->rounds; round++) {
        stand_begin(t, round, capacity);
        t->rows = recorded;
        must(device->replay(t->be, recording));
        sy_exchange_count_fixed(t->ex, capacity, round);
        stand_check(t, round);
        stand_begin(t, round + 7, 0);
        must(stand_round(t, t->all[t->w->rank].n, (uint64_t)round));
        stand_check(t, round + 7);
    }
    sy_exchange_stats now;
    sy_exchange_get_stats(t->ex, &now);
    assert_int_equal(now.rounds, 3 * t->c->rounds);
    device->record_free(t->be, recording);
}

#endif
