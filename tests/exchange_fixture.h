/* Inputs and results of an exchange for tests: placements, tokens and experts that are functions of
 * (seed, round, rank, row), so that each rank knows what every other one sends, and the sum by its
 * definition. */
#ifndef SY_TESTS_EXCHANGE_FIXTURE_H
#define SY_TESTS_EXCHANGE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "comm/exchange.h"

enum { MAX_RANKS = 16 };

typedef enum placing {
    CONTIGUOUS,
    SCATTERED,  /* each expert on a random rank: uneven, some ranks may hold none */
    REPLICATED, /* scattered, with further copies of about half the experts */
    ALL_ON_LAST /* one rank holds everything */
} placing;

typedef enum routing {
    RANDOM_EXPERTS,
    ONE_EXPERT, /* the first choice of every row is expert 0 */
    LOW_HALF    /* the upper half of the experts gets nothing (K permitting) */
} routing;

typedef struct scenario {
    int E, K, H;
    int64_t T; /* most rows of a rank */
    sy_dtype act;
    sy_combine_mode combine;
    placing placing;
    routing routing;
    bool integers;
    int empty_rank; /* has no rows, in every round; -1: none */
    int rounds;
} scenario;

typedef struct world {
    sy_comm *comm;
    int rank, size;
} world;

static inline uint64_t draw(uint64_t *state) {
    *state += 0x9e3779b97f4a7c15u;
    return sy_mix64(*state);
}

static inline void *zeros(size_t n, size_t size) {
    void *p = calloc(n > 0 ? n : 1, size);
    assert_non_null(p);
    return p;
}

static inline void must(sy_status st) {
    if (st != SY_OK) fail_msg("%s: %s", sy_status_name(st), sy_last_error());
}

static inline sy_placement *make_placement(const scenario *c, int R, uint64_t seed) {
    sy_placement *p = NULL;
    if (c->placing == CONTIGUOUS) {
        must(sy_placement_contiguous(1, &c->E, R, &p));
        return p;
    }
    bool *has = zeros((size_t)R * (size_t)c->E, sizeof *has);
    for (int e = 0; e < c->E; e++) {
        int home = c->placing == ALL_ON_LAST ? R - 1 : (int)(draw(&seed) % (uint64_t)R);
        has[home * c->E + e] = true;
        for (int r = 0; r < R && c->placing == REPLICATED; r++)
            if (draw(&seed) % 4 == 0) has[r * c->E + e] = true;
    }
    int32_t *n_slots = zeros((size_t)R, sizeof *n_slots);
    int32_t *slots = zeros((size_t)R * (size_t)c->E, sizeof *slots), n = 0;
    for (int r = 0; r < R; r++) {
        /* Descending, so that slot order and expert order differ. */
        for (int e = c->E - 1; e >= 0; e--) {
            if (!has[r * c->E + e]) continue;
            slots[n++] = e;
            n_slots[r]++;
        }
    }
    const int32_t *one_n = n_slots, *one_slots = slots;
    must(sy_placement_from_slots(1, &c->E, R, &one_n, &one_slots, &p));
    free(slots);
    free(n_slots);
    free(has);
    return p;
}

/* The tokens of one rank in one round. */
typedef struct tokens {
    int64_t n;
    float *x; /* [n, H], representable in act */
    int32_t *expert;
    float *weight, *shared, *residual;
} tokens;

static inline float draw_value(uint64_t *s, bool integers) {
    if (integers) return (float)(draw(s) % 17) - 8.0f;
    return sy_f32_from_bf16(
        sy_bf16_from_f32((float)(int64_t)(draw(s) % 20001 - 10000) * 1.7e-4f));
}

static inline void draw_experts(const scenario *c, uint64_t *s, int32_t *expert) {
    int range = c->routing == LOW_HALF && c->K <= c->E / 2 ? c->E / 2 : c->E;
    for (int k = 0; k < c->K; k++) {
        bool again = true;
        while (again) {
            expert[k] = (int32_t)(draw(s) % (uint64_t)range);
            if (c->routing == ONE_EXPERT && k == 0) expert[k] = 0;
            again = false;
            for (int i = 0; i < k; i++)
                again |= expert[i] == expert[k];
        }
    }
}

static inline tokens make_tokens(const scenario *c, int rank, int round) {
    uint64_t s = sy_hash_add(sy_hash_add(977, (uint64_t)rank), (uint64_t)round);
    tokens t = {0};
    t.n = rank == c->empty_rank ? 0 : (int64_t)(draw(&s) % (uint64_t)(c->T + 1));
    if (round == 0 && rank != c->empty_rank) t.n = c->T; /* the worst case once */
    size_t n = (size_t)t.n, h = (size_t)c->H, k = (size_t)c->K;
    t.x = zeros(n * h, sizeof *t.x);
    t.shared = zeros(n * h, sizeof *t.shared);
    t.residual = zeros(n * h, sizeof *t.residual);
    t.expert = zeros(n * k, sizeof *t.expert);
    t.weight = zeros(n * k, sizeof *t.weight);
    for (size_t i = 0; i < n * h; i++) {
        t.x[i] = draw_value(&s, c->integers);
        t.shared[i] = draw_value(&s, c->integers);
        t.residual[i] = draw_value(&s, c->integers);
    }
    for (size_t i = 0; i < n * k; i++)
        t.weight[i] = c->integers ? (float)(1 << draw(&s) % 3) * 0.25f
                                  : (float)(draw(&s) % 1000 + 1) * 1e-3f;
    for (size_t i = 0; i < n; i++)
        draw_experts(c, &s, t.expert + i * k);
    return t;
}

static inline void free_tokens(tokens *t) {
    free(t->x);
    free(t->shared);
    free(t->residual);
    free(t->expert);
    free(t->weight);
}

static inline float fake_expert(float x, int e, int64_t h) {
    float scaled = x * (float)(e % 7 + 1);
    return scaled + (float)((3 * e + h) % 11);
}

/* The tree over [lo, hi) by its definition: value[e] is NULL for an expert that was not chosen.
 * False if the subtree is empty. */
static inline bool
tree_by_definition(const float *const *value, int lo, int hi, int64_t h, float *out) {
    if (hi - lo == 1) {
        if (value[lo] == NULL) return false;
        *out = *value[lo];
        return true;
    }
    int mid = lo + (hi - lo + 1) / 2;
    float a = 0, b = 0;
    bool left = tree_by_definition(value, lo, mid, h, &a);
    bool right = tree_by_definition(value, mid, hi, h, &b);
    if (left && right)
        *out = a + b;
    else if (left)
        *out = a;
    else if (right)
        *out = b;
    return left || right;
}

static inline float expected_value(const scenario *c, const tokens *t, int64_t row, int64_t h) {
    float product[64];
    const float **value = zeros((size_t)c->E, sizeof *value);
    for (int k = 0; k < c->K; k++) {
        int e = t->expert[row * c->K + k];
        product[k] = t->weight[row * c->K + k] * fake_expert(t->x[row * c->H + h], e, h);
        value[e] = &product[k];
    }
    float sum = 0;
    assert_true(tree_by_definition(value, 0, c->E, h, &sum));
    free(value);
    float with_shared = sum + t->shared[row * c->H + h];
    return t->residual[row * c->H + h] + with_shared;
}

static inline void *to_act(const scenario *c, const tokens *t) {
    size_t n = (size_t)(t->n * c->H);
    void *x = zeros(n, 4);
    for (size_t i = 0; i < n; i++) {
        if (c->act == SY_F32)
            ((float *)x)[i] = t->x[i];
        else
            ((uint16_t *)x)[i] = sy_bf16_from_f32(t->x[i]);
    }
    return x;
}

/* Reduced sums are added in another order, and in bf16 rounded once per rank. */
static inline bool near_enough(const scenario *c, float found, float expected) {
    float scale = 1.0f + (found < 0 ? -found : found);
    float difference = found > expected ? found - expected : expected - found;
    if (c->combine == SY_COMBINE_EXACT) return memcmp(&found, &expected, sizeof found) == 0;
    if (c->combine == SY_COMBINE_REDUCED)
        return c->integers ? found == expected : difference <= 1e-5f * scale * (float)c->K;
    return difference <= 0.02f * (scale + 60.0f * (float)c->K);
}

static inline sy_exchange_shape shape_of(const scenario *c, const sy_placement_layer *layer) {
    int max_slots = 0;
    for (int r = 0; r < layer->n_ranks; r++)
        if (sy_placement_slots(layer, r) > max_slots) max_slots = sy_placement_slots(layer, r);
    return (sy_exchange_shape){.max_rows = c->T,
                               .hidden = c->H,
                               .top_k = c->K,
                               .experts = c->E,
                               .act = c->act,
                               .max_slots = max_slots,
                               .combine = c->combine};
}

static inline world open_world(int virtual_hosts, bool no_shared_memory, int threads) {
    sy_comm_options options = {virtual_hosts, no_shared_memory, threads};
    world w = {0};
    must(sy_comm_create(&options, &w.comm));
    w.rank = sy_comm_rank(w.comm);
    w.size = sy_comm_size(w.comm);
    assert_true(w.size <= MAX_RANKS);
    return w;
}

static inline void close_world(world *w) {
    sy_comm_destroy(w->comm);
}

#endif
