/* The expert steps against their definition: gate and up, both activations, down in leaves, with
 * and without biases; any split of the rows over slots, any number of threads, every instruction
 * set; then against float64. timeout: 240 */
#include <float.h>
#include <math.h>

#include "tests/matrix_fixture.h"

enum { N_SLOTS = 5 };

/* Kinds of experts: both activations, with and without biases. */
enum { CLAMPED = 1, BIASED = 2, N_KINDS = 4 };

typedef struct expert_case {
    sy_backend *be;
    int64_t hidden, inter, n_pairs;
    sy_ffn_spec ffn;
    float *up_bias, *down_bias; /* [N_SLOTS][2][F] and [N_SLOTS][H], or NULL */
    test_matrix up[N_SLOTS], down[N_SLOTS];
    int64_t first[N_SLOTS + 1];
    void *x;
    char *h, *h_expected;  /* act [P, F], canary behind */
    float *y, *y_expected; /* [P, H], canary behind */
} expert_case;

enum { CANARY = 16 };

/* By the definition, rows dealt to the threads. */
static void define_up(void *arg, int thread, int n_threads) {
    const expert_case *c = arg;
    int64_t elem = sy_act_bytes(c->be);
    float *g = malloc((size_t)c->inter * sizeof *g), *u = malloc((size_t)c->inter * sizeof *u);
    for (int slot = 0; slot < N_SLOTS; slot++)
        for (int64_t r = c->first[slot]; r < c->first[slot + 1]; r++) {
            if (r % n_threads != thread) continue;
            for (int64_t o = 0; o < c->inter; o++) {
                g[o] = plain_dot(c->be, &c->up[slot], 0, o, c->x, r, 0, 0, 1);
                u[o] = plain_dot(c->be, &c->up[slot], 1, o, c->x, r, 0, 0, 1);
                if (c->up_bias == NULL) continue;
                g[o] += c->up_bias[2 * slot * c->inter + o];
                u[o] += c->up_bias[(2 * slot + 1) * c->inter + o];
            }
            void *out = c->h_expected + r * c->inter * elem;
            uint16_t *out16 = elem == 2 ? out : NULL;
            float *outf = elem == 4 ? out : NULL;
            if (c->ffn.act == SY_ACT_SWIGLU_CLAMPED)
                sy_isa_generic.vec.swiglu_clamped(c->inter, g, u, c->ffn.act_alpha,
                                                  c->ffn.act_limit, out16, outf);
            else
                sy_isa_generic.vec.silu_mul(c->inter, g, u, out16, outf);
        }
    free(g);
    free(u);
}

static void define_down(void *arg, int thread, int n_threads) {
    const expert_case *c = arg;
    for (int slot = 0; slot < N_SLOTS; slot++)
        for (int64_t r = c->first[slot]; r < c->first[slot + 1]; r++)
            for (int64_t o = 0; o < c->hidden; o++) {
                float *y = &c->y_expected[r * c->hidden + o];
                if ((r * c->hidden + o) % n_threads != thread) continue;
                *y = plain_dot(c->be, &c->down[slot], 0, o, c->h_expected, r, SY_LEAF, 0,
                               sy_ceil_div(c->inter, SY_LEAF));
                if (c->down_bias != NULL) *y += c->down_bias[slot * c->hidden + o];
            }
}

/* A block of exactly n floats, so that a sanitizer sees a read beyond. */
static float *make_bias(int64_t n, float size) {
    float *bias = malloc((size_t)n * sizeof *bias);
    for (int64_t i = 0; i < n; i++)
        bias[i] = size * (float)random_in(-1000, 1000) / 1000.0f;
    return bias;
}

static expert_case make_case(sy_backend *be,
                             int kind,
                             sy_dtype t,
                             const int64_t *rows,
                             int64_t hidden,
                             int64_t inter) {
    expert_case c = {.be = be, .hidden = hidden, .inter = inter};
    c.ffn = (sy_ffn_spec){.kind = SY_FFN_MOE, .inter = (int)inter};
    if (kind & CLAMPED) {
        c.ffn.act = SY_ACT_SWIGLU_CLAMPED;
        c.ffn.act_alpha = 1.702f;
        c.ffn.act_limit = 1.5f; /* low, so that all three limits are met */
    }
    if (kind & BIASED) {
        c.ffn.expert_bias = true;
        c.up_bias = make_bias(N_SLOTS * 2 * inter, 2);
        c.down_bias = make_bias(N_SLOTS * hidden, 4);
    }
    for (int s = 0; s < N_SLOTS; s++) {
        c.up[s] = make_matrix(be, t, 2, inter, hidden, ORDINARY);
        c.down[s] = make_matrix(be, t, 1, hidden, inter, ORDINARY);
        c.first[s + 1] = c.first[s] + rows[s];
    }
    c.n_pairs = c.first[N_SLOTS];
    c.x = make_rows(be, c.n_pairs, hidden, ORDINARY);
    /* Small activations, so that silu is not all 0 or g. */
    for (int64_t i = 0; i < c.n_pairs * hidden; i++) {
        if (be->act == SY_F32)
            ((float *)c.x)[i] *= 0x1p-5f;
        else
            ((uint16_t *)c.x)[i] = (uint16_t)(((uint16_t *)c.x)[i] - (5u << 7));
    }
    size_t h_bytes = (size_t)(c.n_pairs * inter * sy_act_bytes(be));
    size_t n_y = (size_t)(c.n_pairs * hidden) + CANARY;
    c.h = malloc(h_bytes + CANARY);
    c.h_expected = malloc(h_bytes + CANARY);
    memset(c.h, 0x5a, h_bytes + CANARY);
    memset(c.h_expected, 0x5a, h_bytes + CANARY);
    c.y = malloc(n_y * sizeof *c.y);
    c.y_expected = malloc(n_y * sizeof *c.y);
    for (size_t i = 0; i < n_y; i++)
        c.y[i] = c.y_expected[i] = 12345.0f;
    return c;
}

static void free_case(expert_case *c) {
    for (int s = 0; s < N_SLOTS; s++) {
        free_matrix(c->be, &c->up[s]);
        free_matrix(c->be, &c->down[s]);
    }
    free(c->up_bias);
    free(c->down_bias);
    free(c->x);
    free(c->h);
    free(c->h_expected);
    free(c->y);
    free(c->y_expected);
}

static void check_results(const expert_case *c, const char *what) {
    size_t h_bytes = (size_t)(c->n_pairs * c->inter * sy_act_bytes(c->be)) + CANARY;
    if (memcmp(c->h, c->h_expected, h_bytes) != 0) fail_msg("%s: h differs", what);
    assert_same_bits(c->y, c->y_expected, c->n_pairs * c->hidden + CANARY, what);
}

static void run_experts(expert_case *c) {
    sy_matrix up[N_SLOTS], down[N_SLOTS];
    for (int s = 0; s < N_SLOTS; s++) {
        up[s] = c->up[s].m;
        down[s] = c->down[s].m;
    }
    sy_layer_spec spec = {.ffn = c->ffn};
    sy_layer_weights w = {.n_slots = N_SLOTS,
                          .gate_up = up,
                          .down = down,
                          .gate_up_bias = c->up_bias,
                          .down_bias = c->down_bias};
    sy_expert_rows er = {
        .n_slots = N_SLOTS, .n_pairs = c->n_pairs, .first = c->first, .x = c->x};
    assert_int_equal(c->be->ops->experts_up(c->be, &spec, &w, &er, c->h, NULL), SY_OK);
    assert_int_equal(c->be->ops->experts_down(c->be, &spec, &w, &er, c->h, c->y, NULL), SY_OK);
}

static void check_experts(sy_backend *be,
                          int kind,
                          sy_dtype t,
                          const int64_t *rows,
                          int64_t hidden,
                          int64_t inter) {
    expert_case c = make_case(be, kind, t, rows, hidden, inter);
    sy_pool *pool = sy_cpu_of(be)->pool;
    sy_pool_run(pool, define_up, &c);
    sy_pool_run(pool, define_down, &c);
    run_experts(&c);
    char what[96];
    snprintf(what, sizeof what,
             "experts %d, %s, %d threads, %s weights, hidden %lld, inter %lld", kind,
             sy_cpu_isa_name(be), sy_pool_threads(pool), sy_dtype_name(t), (long long)hidden,
             (long long)inter);
    check_results(&c, what);
    free_case(&c);
}

static const sy_dtype file_dtypes[] = {SY_BF16, SY_F16, SY_F32};
static const int64_t row_sets[][N_SLOTS] = {
    {1, 0, 2, 3, 1},  /* a slot without rows      */
    {0, 0, 13, 0, 0}, /* one slot takes all      */
    {0, 0, 0, 0, 0},  /* no rows at all           */
    {50, 1, 0, 0, 9}, /* very uneven, two blocks */
};

static void experts_equal_their_definition_for_every_table_and_thread_count(void **state) {
    (void)state;
    random_state = 11;
    for (int i = 0; i < N_ISA; i++)
        for (int threads = 1; threads <= 3; threads++)
            for (int act = 0; act < 2; act++) {
                sy_backend *be = open_cpu(act == 0 ? SY_BF16 : SY_F32, threads, isa_names[i]);
                if (be == NULL) continue;
                for (int set = 0; set < 4; set++)
                    for (int kind = 0; kind < N_KINDS; kind++)
                        check_experts(be, kind, file_dtypes[(set + threads + kind) % 3],
                                      row_sets[set], random_in(1, 130), random_in(1, 300));
                close_cpu(be);
            }
}

static void experts_with_several_leaves_and_odd_widths(void **state) {
    (void)state;
    random_state = 12;
    for (int act = 0; act < 2; act++) {
        sy_backend *be = open_cpu(act == 0 ? SY_BF16 : SY_F32, 2, NULL);
        check_experts(be, 0, SY_BF16, row_sets[0], 97, 1281);
        check_experts(be, CLAMPED | BIASED, SY_F16, row_sets[0], 65, 769);
        check_experts(be, BIASED, SY_F32, row_sets[1], 128, 640);
        close_cpu(be);
    }
}

/* More rows of one slot than gate and up wait for at once. */
static void biases_reach_every_block_of_rows(void **state) {
    (void)state;
    random_state = 14;
    static const int64_t rows[N_SLOTS] = {0, 2 * SY_TILE_ROWS + 1, 0, 1, 0};
    sy_backend *be = open_cpu(SY_BF16, 2, NULL);
    check_experts(be, CLAMPED | BIASED, SY_BF16, rows, 67, 65);
    close_cpu(be);
}

/* Even where the layer's experts have biases, the dense FFN or shared expert has none. */
static void dense_ffn_is_one_expert_without_biases_that_takes_every_row(void **state) {
    (void)state;
    random_state = 13;
    static const int64_t rows[N_SLOTS] = {21, 0, 0, 0, 0};
    for (int threads = 1; threads <= 3; threads++)
        for (int act = 0; act < 2; act++)
            for (int kind = 0; kind < N_KINDS; kind++) {
                sy_backend *be = open_cpu(act == 0 ? SY_BF16 : SY_F32, threads, NULL);
                expert_case c = make_case(be, kind, file_dtypes[threads - 1], rows, 70, 530);
                sy_layer_spec spec = {.ffn = c.ffn};
                sy_layer_weights w = {.gate_up_bias = c.up_bias,
                                      .down_bias = c.down_bias,
                                      .ffn_gate_up = c.up[0].m,
                                      .ffn_down = c.down[0].m};
                expert_case plain = c;
                plain.up_bias = plain.down_bias = NULL;
                sy_pool_run(sy_cpu_of(be)->pool, define_up, &plain);
                sy_pool_run(sy_cpu_of(be)->pool, define_down, &plain);
                assert_int_equal(
                    be->ops->dense_ffn(be, &spec, &w, rows[0], c.x, c.h, c.y, NULL), SY_OK);
                check_results(&c, "dense FFN");
                assert_int_equal(be->ops->dense_ffn(be, &spec, &w, 0, c.x, c.h, c.y, NULL),
                                 SY_OK);
                free_case(&c);
                close_cpu(be);
            }
}

/* A sum in float64 and how far a float32 chain of it may be off. */
typedef struct wide_sum {
    double value, error;
} wide_sum;

static wide_sum wide_dot(const expert_case *c,
                         const test_matrix *m,
                         int part,
                         int64_t o,
                         const void *x,
                         int64_t r) {
    wide_sum s = {0, 0};
    for (int64_t k = 0; k < m->m.k; k++) {
        double term =
            (double)weight_value(m, part, o, k) * (double)act_value(c->be, x, r * m->m.k + k);
        s.value += term;
        s.error += fabs(term);
    }
    s.error *= (double)(m->m.k + 3) * 0x1p-24;
    return s;
}

/* h of one output from gate and up, both activations as they are published. */
static double wide_act(const sy_ffn_spec *f, double g, double u) {
    if (f->act == SY_ACT_SWIGLU) return g / (1 + exp(-g)) * u;
    double limit = (double)f->act_limit;
    g = fmin(g, limit);
    u = fmin(fmax(u, -limit), limit);
    return (u + 1) * (g / (1 + exp(-(double)f->act_alpha * g)));
}

/* How often each limit of the clamped activation was met. */
typedef struct limits_met {
    int gate, up, low_up, low_gate, none;
} limits_met;

static void check_h_float64(const expert_case *c, int slot, int64_t r, limits_met *met) {
    double rounding = c->be->act == SY_F32 ? 0x1p-20 : 0x1p-8, limit = (double)c->ffn.act_limit;
    for (int64_t o = 0; o < c->inter; o++) {
        wide_sum g = wide_dot(c, &c->up[slot], 0, o, c->x, r);
        wide_sum u = wide_dot(c, &c->up[slot], 1, o, c->x, r);
        if (c->up_bias != NULL) {
            g.value += (double)c->up_bias[2 * slot * c->inter + o];
            u.value += (double)c->up_bias[(2 * slot + 1) * c->inter + o];
        }
        met->gate += g.value > limit;
        met->low_gate += g.value < -limit;
        met->up += u.value > limit;
        met->low_up += u.value < -limit;
        met->none += fabs(g.value) < limit && fabs(u.value) < limit;
        double exact = wide_act(&c->ffn, g.value, u.value);
        /* No slope of g * sigmoid(alpha * g) is above 1.1; biases round as the sums do. */
        double error = rounding * fabs(exact) + 0x1p-120 +
                       1.1 * (g.error + fabs(g.value) * 0x1p-22) * (fabs(u.value) + 1) +
                       (u.error + fabs(u.value) * 0x1p-22) * fabs(g.value);
        double found = (double)act_value(c->be, c->h, r * c->inter + o);
        if (!(fabs(found - exact) <= error))
            fail_msg("h[%d][%d] is %.9g, expected %.9g within %g", (int)r, (int)o, found, exact,
                     error);
    }
}

/* From the h that was found, so that this half is judged by itself. */
static void check_y_float64(const expert_case *c, int slot, int64_t r) {
    for (int64_t o = 0; o < c->hidden; o++) {
        wide_sum y = wide_dot(c, &c->down[slot], 0, o, c->h, r);
        if (c->down_bias != NULL) y.value += (double)c->down_bias[slot * c->hidden + o];
        double found = (double)c->y[r * c->hidden + o];
        if (!(fabs(found - y.value) <= y.error + fabs(y.value) * 0x1p-22 + 0x1p-120))
            fail_msg("y[%d][%d] is %.9g, expected %.9g within %g", (int)r, (int)o, found,
                     y.value, y.error);
    }
}

static void every_kind_of_expert_equals_float64(void **state) {
    (void)state;
    random_state = 15;
    for (int act = 0; act < 2; act++)
        for (int kind = 0; kind < N_KINDS; kind++) {
            sy_backend *be = open_cpu(act == 0 ? SY_BF16 : SY_F32, 2, NULL);
            expert_case c = make_case(be, kind, SY_BF16, row_sets[0], 75, 333);
            limits_met met = {0};
            run_experts(&c);
            for (int slot = 0; slot < N_SLOTS; slot++)
                for (int64_t r = c.first[slot]; r < c.first[slot + 1]; r++) {
                    check_h_float64(&c, slot, r, &met);
                    check_y_float64(&c, slot, r);
                }
            if (kind & CLAMPED)
                assert_true(met.gate > 50 && met.low_gate > 50 && met.up > 50 &&
                            met.low_up > 50 && met.none > 50);
            free_case(&c);
            close_cpu(be);
        }
}

static void experts_whose_biases_are_missing_are_refused(void **state) {
    (void)state;
    sy_backend *be = open_cpu(SY_BF16, 1, NULL);
    sy_layer_spec spec = {.ffn = {.kind = SY_FFN_MOE, .inter = 1, .expert_bias = true}};
    const int64_t one[2] = {0, 1}, none[2] = {0, 0};
    sy_layer_weights w = {.n_slots = 1};
    sy_expert_rows rows = {.n_slots = 1, .n_pairs = 1, .first = one};
    assert_int_equal(be->ops->experts_up(be, &spec, &w, &rows, NULL, NULL), SY_ERR_INTERNAL);
    assert_int_equal(be->ops->experts_down(be, &spec, &w, &rows, NULL, NULL, NULL),
                     SY_ERR_INTERNAL);
    rows.n_pairs = 0;
    rows.first = none;
    assert_int_equal(be->ops->experts_up(be, &spec, &w, &rows, NULL, NULL), SY_OK);
    assert_int_equal(be->ops->experts_down(be, &spec, &w, &rows, NULL, NULL, NULL), SY_OK);
    close_cpu(be);
}

/* Gate and up over a grid that crosses every limit, at their published values. */
enum { GRID = 241 };
static void fill_grid(float *g, float *u) {
    for (int i = 0; i < GRID * GRID; i++) {
        g[i] = (float)(i / GRID - GRID / 2) / 10.0f;
        u[i] = (float)(i % GRID - GRID / 2) / 13.0f;
    }
}

/* As the steps run kernels: with denormals flushed. */
static void check_clamped(void *arg, int thread, int n_threads) {
    (void)arg;
    (void)thread;
    (void)n_threads;
    static float g[GRID * GRID], u[GRID * GRID], first[GRID * GRID], found[GRID * GRID];
    static uint16_t found16[GRID * GRID];
    fill_grid(g, u);
    for (int a = 0; a < N_ISA; a++) {
        const sy_cpu_isa *isa = sy_cpu_isa_find(isa_names[a]);
        if (isa == NULL) continue;
        isa->vec.swiglu_clamped(GRID * GRID, g, u, 1.702f, 7.0f, NULL, found);
        isa->vec.swiglu_clamped(GRID * GRID, g, u, 1.702f, 7.0f, found16, NULL);
        if (a == 0) memcpy(first, found, sizeof found);
        assert_same_bits(found, first, GRID * GRID, isa->name);
        for (int i = 0; i < GRID * GRID; i++)
            assert_int_equal(found16[i], sy_bf16_from_f32(found[i]));
    }
    sy_ffn_spec f = {.act = SY_ACT_SWIGLU_CLAMPED, .act_alpha = 1.702f, .act_limit = 7.0f};
    for (int i = 0; i < GRID * GRID; i++) {
        double exact = wide_act(&f, (double)g[i], (double)u[i]);
        /* The rounding of -alpha * g, up to 20.5 in size, is a relative error behind exp. */
        if (!(fabs((double)first[i] - exact) <= fabs(exact) * 25 * 0x1p-24))
            fail_msg("g %g, u %g: %.9g, expected %.9g", (double)g[i], (double)u[i],
                     (double)first[i], exact);
    }
}

static void clamped_swiglu_matches_float64_in_every_table(void **state) {
    (void)state;
    sy_pool_run_alone(check_clamped, NULL);
}

/* Rows of 64 and more, so that vector code and its remainder are both met. */
static void clamped_swiglu_keeps_nan_and_limits_infinity(void **state) {
    (void)state;
    enum { N = 77 };
    float g[N], u[N], y[N];
    uint16_t y16[N];
    static const float pairs[][3] = {
        /* gate, up, result of alpha 1, limit 1: (u + 1) * g * sigmoid(g) */
        {NAN, 0.5f, NAN},
        {0.5f, NAN, NAN},
        {NAN, NAN, NAN},
        {INFINITY, 0, 0.7310586f},
        {1, INFINITY, 1.4621172f},
        {1, -INFINITY, 0},
        {FLT_MAX, FLT_MAX, 1.4621172f},
        {-FLT_MAX, 1, 0},
        {-100, 0, 0},
        {-INFINITY, 0, NAN}};
    for (int a = 0; a < N_ISA; a++) {
        const sy_cpu_isa *isa = sy_cpu_isa_find(isa_names[a]);
        if (isa == NULL) continue;
        for (size_t p = 0; p < sizeof pairs / sizeof *pairs; p++) {
            for (int i = 0; i < N; i++) {
                g[i] = pairs[p][0];
                u[i] = pairs[p][1];
            }
            isa->vec.swiglu_clamped(N, g, u, 1, 1, NULL, y);
            isa->vec.swiglu_clamped(N, g, u, 1, 1, y16, NULL);
            for (int i = 0; i < N; i++) {
                float expected = pairs[p][2], rounded = sy_f32_from_bf16(y16[i]);
                bool same = isnan(expected) ? isnan(y[i]) && isnan(rounded)
                                            : fabsf(y[i] - expected) < 1e-6f &&
                                                  fabsf(rounded - expected) < 1e-2f;
                if (!same)
                    fail_msg("%s, pair %d: %g and %g, expected %g", isa->name, (int)p,
                             (double)y[i], (double)rounded, (double)expected);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_equal_their_definition_for_every_table_and_thread_count),
        cmocka_unit_test(experts_with_several_leaves_and_odd_widths),
        cmocka_unit_test(biases_reach_every_block_of_rows),
        cmocka_unit_test(dense_ffn_is_one_expert_without_biases_that_takes_every_row),
        cmocka_unit_test(every_kind_of_expert_equals_float64),
        cmocka_unit_test(experts_whose_biases_are_missing_are_refused),
        cmocka_unit_test(clamped_swiglu_matches_float64_in_every_table),
        cmocka_unit_test(clamped_swiglu_keeps_nan_and_limits_infinity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
