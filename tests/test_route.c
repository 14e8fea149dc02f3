/* The router: choice and weights against plain C, ties, NaN, forced choices, threads. */
#include <float.h>
#include <math.h>

#include "kernels/cpu/exact_math.h"
#include "tests/matrix_fixture.h"

typedef struct router {
    sy_backend *be;
    sy_layer_spec spec;
    sy_layer_weights w;
    test_matrix m;
    float *norm;
    int hidden;
} router;

static sy_backend *
open_reserved(sy_dtype act, int n_threads, const char *isa, int hidden, int experts, int rows) {
    sy_backend *be = open_cpu(act, n_threads, isa);
    if (be == NULL) return NULL;
    sy_limits l = {.max_rows = rows,
                   .max_pairs = 1,
                   .max_context = 64,
                   .hidden = hidden,
                   .heads = 1,
                   .kv_heads = 1,
                   .head_dim = 2,
                   .max_inter = 1,
                   .experts = experts,
                   .top_k = 1,
                   .vocab = 1};
    assert_int_equal(be->ops->reserve(be, &l), SY_OK);
    return be;
}

static bool open_router(router *r,
                        sy_dtype act,
                        int n_threads,
                        const char *isa,
                        int hidden,
                        int experts,
                        int k,
                        int rows) {
    *r = (router){.hidden = hidden};
    r->be = open_reserved(act, n_threads, isa, hidden, experts, rows);
    if (r->be == NULL) return false;
    random_state = 9;
    r->spec.norm_eps = 1e-6f;
    r->spec.ffn = (sy_ffn_spec){.experts = experts, .top_k = k, .routed_scale = 1};
    r->m = make_matrix(r->be, SY_BF16, 1, experts, hidden, ORDINARY);
    r->norm = malloc(sizeof(float) * (size_t)hidden);
    for (int i = 0; i < hidden; i++)
        r->norm[i] = (0.5f + (float)(i % 7) / 8) / 16;
    r->w = (sy_layer_weights){.ffn_norm = r->norm, .router = r->m.m};
    return true;
}

static void close_router(router *r) {
    free_matrix(r->be, &r->m);
    free(r->norm);
    close_cpu(r->be);
}

/* The documented order of the sum over E. */
static float sum_strided(const float *x, int n) {
    float partial[64] = {0};
    for (int i = 0; i < n; i++)
        partial[i % 64] += x[i];
    for (int half = 32; half > 0; half /= 2)
        for (int j = 0; j < half; j++)
            partial[j] += partial[j + half];
    return partial[0];
}

/* The scores of one row: every step a plain loop, the logits by the definition of the sum. */
static void plain_scores(const router *r, const void *xn, int64_t row, float *s) {
    int n = r->spec.ffn.experts;
    float max = -INFINITY;
    for (int e = 0; e < n; e++) {
        s[e] =
            plain_dot(r->be, &r->m, 0, e, xn, row, SY_LEAF, 0, sy_ceil_div(r->hidden, SY_LEAF));
        max = s[e] > max ? s[e] : max;
    }
    for (int e = 0; e < n; e++)
        s[e] = sy_exp_f32(s[e] - max);
    float sum = sum_strided(s, n);
    for (int e = 0; e < n; e++)
        s[e] = s[e] / sum;
}

/* Repeated search for the largest that is left, the lowest index first. */
static void plain_choice(const router *r, const float *s, int32_t *expert, float *weight) {
    const sy_ffn_spec *f = &r->spec.ffn;
    bool *used = calloc((size_t)f->experts, sizeof *used);
    float sum = 0;
    for (int k = 0; k < f->top_k; k++) {
        int best = -1;
        for (int e = 0; e < f->experts; e++)
            if (!used[e] && (best < 0 || s[e] > s[best])) best = e;
        used[best] = true;
        expert[k] = best;
        weight[k] = s[best];
        sum += s[best];
    }
    for (int k = 0; k < f->top_k; k++) {
        if (f->renorm) weight[k] /= sum + f->renorm_eps;
        weight[k] *= f->routed_scale;
    }
    free(used);
}

static void check_router(sy_dtype act,
                         int n_threads,
                         const char *isa,
                         int experts,
                         int k,
                         int rows,
                         bool renorm) {
    enum { HIDDEN = 520 };
    router r;
    if (!open_router(&r, act, n_threads, isa, HIDDEN, experts, k, rows)) return;
    r.spec.ffn.renorm = renorm;
    r.spec.ffn.renorm_eps = renorm ? 1e-20f : 0;
    r.spec.ffn.routed_scale = renorm ? 2.5f : 1;
    size_t pairs = (size_t)(rows * k);
    float *x = malloc(sizeof(float) * (size_t)(rows * HIDDEN)),
          *s = malloc(sizeof(float) * (size_t)experts);
    char *xn = malloc((size_t)(rows * HIDDEN * 4)),
         *xn_plain = malloc((size_t)(rows * HIDDEN * 4));
    int32_t *expert = malloc(pairs * 4), *plain_expert = malloc(pairs * 4);
    float *weight = malloc(pairs * 4), *plain_weight = malloc(pairs * 4);
    for (int i = 0; i < rows * HIDDEN; i++)
        x[i] = random_float(ORDINARY);
    sy_layer_weights norm_only = {.ffn_norm = r.norm, .ffn_gate_up = {.k = HIDDEN}};
    assert_int_equal(r.be->ops->ffn_in(r.be, &r.spec, &norm_only, rows, x, xn_plain, NULL),
                     SY_OK);
    assert_int_equal(
        r.be->ops->route(r.be, &r.spec, &r.w, rows, x, xn, NULL, expert, weight, NULL), SY_OK);
    assert_memory_equal(xn, xn_plain, (size_t)(rows * HIDDEN * sy_act_bytes(r.be)));
    for (int t = 0; t < rows; t++) {
        plain_scores(&r, xn, t, s);
        plain_choice(&r, s, plain_expert + t * k, plain_weight + t * k);
    }
    assert_memory_equal(expert, plain_expert, pairs * 4);
    assert_same_bits(weight, plain_weight, (int64_t)pairs, "weights");
    free(x), free(s), free(xn), free(xn_plain), free(expert), free(plain_expert);
    free(weight), free(plain_weight);
    close_router(&r);
}

static void route_equals_plain_c(void **state) {
    (void)state;
    for (int act = 0; act < 2; act++) {
        sy_dtype t = act == 0 ? SY_BF16 : SY_F32;
        for (int i = 0; i < N_ISA; i++) {
            check_router(t, 2, isa_names[i], 128, 8, 1, true);
            check_router(t, 2, isa_names[i], 60, 4, 9, false);
        }
        check_router(t, 1, NULL, 1, 1, 3, true);
        check_router(t, 3, NULL, 2, 2, 1, true);
        check_router(t, 3, NULL, 200, 64, 7, true);
        check_router(t, 3, NULL, 64, 64, 2, false);
        check_router(t, 2, NULL, 384, 8, 40, true);
    }
}

static void a_row_alone_gives_the_bits_of_the_row_in_a_batch(void **state) {
    (void)state;
    enum { HIDDEN = 300, ROWS = 50, K = 6 };
    float x[ROWS * HIDDEN], weight[ROWS * K], weight_alone[K];
    int32_t expert[ROWS * K], expert_alone[K];
    uint16_t xn[ROWS * HIDDEN], xn_alone[HIDDEN];
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        router r;
        assert_true(open_router(&r, SY_BF16, n_threads, NULL, HIDDEN, 150, K, ROWS));
        for (int i = 0; i < ROWS * HIDDEN; i++)
            x[i] = random_float(ORDINARY);
        r.be->ops->route(r.be, &r.spec, &r.w, ROWS, x, xn, NULL, expert, weight, NULL);
        for (int t = 0; t < ROWS; t++) {
            r.be->ops->route(r.be, &r.spec, &r.w, 1, x + t * HIDDEN, xn_alone, NULL,
                             expert_alone, weight_alone, NULL);
            assert_memory_equal(expert_alone, expert + t * K, sizeof expert_alone);
            assert_same_bits(weight_alone, weight + t * K, K, "weights");
            assert_memory_equal(xn_alone, xn + t * HIDDEN, sizeof xn_alone);
        }
        close_router(&r);
    }
}

/* A router whose logits can be set: x = e_0 scaled so that xn[0] = 1, weights in column 0. */
enum { FAKE_EXPERTS = 10 };
static void route_logits(const float *logit,
                         int k,
                         bool renorm,
                         const int32_t *forced,
                         int32_t *expert,
                         float *weight) {
    sy_backend *be = open_reserved(SY_F32, 2, NULL, 4, FAKE_EXPERTS, 1);
    float rows[FAKE_EXPERTS * 4] = {0}, x[4] = {2, 0, 0, 0}, norm[4] = {0.5f, 1, 1, 1}, xn[4];
    for (int e = 0; e < FAKE_EXPERTS; e++)
        rows[4 * e] = logit[e];
    sy_layer_spec spec = {
        .ffn = {.experts = FAKE_EXPERTS, .top_k = k, .renorm = renorm, .routed_scale = 1}};
    sy_matrix m = {.dtype = SY_F32, .parts = 1, .n = FAKE_EXPERTS, .k = 4};
    uint64_t bytes = be->ops->matrix_bytes(be, &m);
    assert_int_equal(be->ops->alloc(be, &m.data, bytes, "router"), SY_OK);
    sy_weight_source src = {.dtype = SY_F32, .codes = rows};
    assert_int_equal(be->ops->pack(be, &m, 0, 0, FAKE_EXPERTS, &src), SY_OK);
    sy_layer_weights w = {.ffn_norm = norm, .router = m};
    assert_int_equal(be->ops->route(be, &spec, &w, 1, x, xn, forced, expert, weight, NULL),
                     SY_OK);
    assert_true(xn[0] == 1.0f);
    be->ops->free(be, m.data, bytes);
    close_cpu(be);
}

static void equal_scores_choose_the_lowest_index(void **state) {
    (void)state;
    float logit[FAKE_EXPERTS] = {1, 3, 1, 3, 2, 3, 2, 1, 1, 3}, weight[10];
    int32_t expert[10], order[10] = {1, 3, 5, 9, 4, 6, 0, 2, 7, 8};
    for (int k = 1; k <= 10; k++) {
        route_logits(logit, k, false, NULL, expert, weight);
        assert_memory_equal(expert, order, (size_t)k * sizeof *expert);
    }
    for (int e = 0; e < 10; e++)
        logit[e] = 0;
    route_logits(logit, 10, true, NULL, expert, weight);
    for (int e = 0; e < 10; e++) {
        assert_int_equal(expert[e], e);
        assert_true(weight[e] == weight[0] && fabsf(weight[e] - 0.1f) < 1e-7f);
    }
}

static void nan_is_chosen_last_and_weighs_nothing(void **state) {
    (void)state;
    float logit[FAKE_EXPERTS] = {NAN, 1, NAN, 3, -INFINITY, 2, -50, NAN, 0, 1}, weight[10];
    int32_t expert[10], order[10] = {3, 5, 1, 9, 8, 6, 4, 0, 2, 7};
    route_logits(logit, 10, true, NULL, expert, weight);
    assert_memory_equal(expert, order, sizeof order);
    float sum = 0;
    for (int i = 0; i < 10; i++)
        sum += weight[i];
    assert_true(fabsf(sum - 1) < 1e-6f);
    for (int i = 6; i < 10; i++)
        assert_true(weight[i] == 0.0f);

    for (int e = 0; e < 10; e++)
        logit[e] = NAN;
    route_logits(logit, 4, true, NULL, expert, weight);
    for (int i = 0; i < 4; i++)
        assert_true(expert[i] == i && weight[i] == 0.0f);
}

static void infinity_is_the_largest_score(void **state) {
    (void)state;
    float logit[FAKE_EXPERTS] = {0, 1, INFINITY, 3, FLT_MAX, 2, 3, 1, 0, 1}, weight[3];
    int32_t expert[3];
    route_logits(logit, 3, true, NULL, expert, weight);
    assert_true(expert[0] == 2 && expert[1] == 4);
    assert_true(weight[0] == 0.5f && weight[1] == 0.5f && weight[2] < 1e-30f);
}

static void forced_experts_get_the_scores_of_this_run(void **state) {
    (void)state;
    float logit[FAKE_EXPERTS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, all[10], weight[3];
    int32_t by_rank[10], expert[3], forced[3] = {2, 9, 0};
    route_logits(logit, 10, false, NULL, by_rank, all);
    route_logits(logit, 3, false, forced, expert, weight);
    assert_memory_equal(expert, forced, sizeof forced);
    for (int i = 0; i < 3; i++)
        assert_true(weight[i] == all[9 - forced[i]]);
    route_logits(logit, 3, true, forced, expert, weight);
    float sum = (all[7] + all[0]) + all[9];
    for (int i = 0; i < 3; i++)
        assert_true(weight[i] == all[9 - forced[i]] / sum);
    int32_t outside[3] = {10, -1, 3};
    route_logits(logit, 3, false, outside, expert, weight);
    assert_true(weight[0] == 0.0f && weight[1] == 0.0f && weight[2] == all[6]);
}

static void no_rows_and_too_many_rows_are_harmless(void **state) {
    (void)state;
    router r;
    assert_true(open_router(&r, SY_BF16, 2, NULL, 64, 8, 2, 4));
    assert_int_equal(
        r.be->ops->route(r.be, &r.spec, &r.w, 0, NULL, NULL, NULL, NULL, NULL, NULL), SY_OK);
    assert_int_equal(r.be->ops->ffn_in(r.be, &r.spec, &r.w, 0, NULL, NULL, NULL), SY_OK);
    assert_int_equal(
        r.be->ops->route(r.be, &r.spec, &r.w, 100000, NULL, NULL, NULL, NULL, NULL, NULL),
        SY_ERR_INTERNAL);
    r.spec.ffn.top_k = 9;
    assert_int_equal(
        r.be->ops->route(r.be, &r.spec, &r.w, 1, NULL, NULL, NULL, NULL, NULL, NULL),
        SY_ERR_INTERNAL);
    close_router(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(route_equals_plain_c),
        cmocka_unit_test(a_row_alone_gives_the_bits_of_the_row_in_a_batch),
        cmocka_unit_test(equal_scores_choose_the_lowest_index),
        cmocka_unit_test(nan_is_chosen_last_and_weighs_nothing),
        cmocka_unit_test(infinity_is_the_largest_score),
        cmocka_unit_test(forced_experts_get_the_scores_of_this_run),
        cmocka_unit_test(no_rows_and_too_many_rows_are_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
