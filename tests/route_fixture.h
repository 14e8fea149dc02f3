/* Routers whose logits a test says as they are. */
#ifndef SY_TESTS_ROUTE_FIXTURE_H
#define SY_TESTS_ROUTE_FIXTURE_H

#include "tests/matrix_fixture.h"

/* The norm makes row e_j out of 4 e_j exactly, so the logits of a row are column j of the
 * router. */
enum { HIDDEN = 16, MAX_EXPERTS = 384, MAX_K = 8 };

typedef struct logit_router {
    sy_backend *be;
    sy_matrix m;
    uint64_t bytes;
    float norm[HIDDEN];
} logit_router;

static inline bool open_router(logit_router *r, sy_dtype act, int n_threads, const char *isa) {
    *r = (logit_router){.be = open_cpu(act, n_threads, isa)};
    if (r->be == NULL) return false;
    sy_limits l = {.max_rows = HIDDEN,
                   .max_pairs = 1,
                   .max_context = 64,
                   .hidden = HIDDEN,
                   .heads = 1,
                   .kv_heads = 1,
                   .head_dim = 2,
                   .max_inter = 1,
                   .experts = MAX_EXPERTS,
                   .top_k = MAX_K,
                   .vocab = 1};
    assert_int_equal(r->be->ops->reserve(r->be, &l), SY_OK);
    for (int i = 0; i < HIDDEN; i++)
        r->norm[i] = 0.25f;
    return true;
}

static inline void drop_logits(logit_router *r) {
    if (r->m.data != NULL) r->be->ops->free(r->be, r->m.data, r->bytes);
    r->m = (sy_matrix){0};
}

static inline void close_router(logit_router *r) {
    drop_logits(r);
    close_cpu(r->be);
}

/* logit [n, HIDDEN]; in act BF16 each must be a BF16 number. */
static inline void set_logits(logit_router *r, int n, const float *logit) {
    drop_logits(r);
    r->m = (sy_matrix){
        .dtype = r->be->ops->stored_dtype(r->be, SY_F32), .parts = 1, .n = n, .k = HIDDEN};
    r->bytes = r->be->ops->matrix_bytes(r->be, &r->m);
    assert_int_equal(r->be->ops->alloc(r->be, &r->m.data, r->bytes, "router"), SY_OK);
    sy_weight_source src = {.dtype = SY_F32, .codes = logit};
    assert_int_equal(r->be->ops->pack(r->be, &r->m, 0, 0, n, &src), SY_OK);
}

typedef struct biases {
    const float *router, *choice; /* [E] or NULL */
} biases;

/* Rows [row0, row0 + n_rows): row j has the logits of column j. */
static inline sy_status run_route(const logit_router *r,
                                  const sy_ffn_spec *ffn,
                                  biases b,
                                  int row0,
                                  int n_rows,
                                  const int32_t *forced,
                                  int32_t *expert,
                                  float *weight) {
    float x[HIDDEN * HIDDEN] = {0}, xn[HIDDEN * HIDDEN];
    for (int t = 0; t < n_rows; t++)
        x[t * HIDDEN + row0 + t] = 4;
    sy_layer_spec spec = {.ffn = *ffn};
    sy_layer_weights w = {
        .ffn_norm = r->norm, .router = r->m, .router_bias = b.router, .choice_bias = b.choice};
    sy_status st =
        r->be->ops->route(r->be, &spec, &w, n_rows, x, xn, forced, expert, weight, NULL);
    if (st == SY_OK && n_rows > 0) assert_true(act_value(r->be, xn, row0) == 1.0f);
    return st;
}

#endif
