/* The row kernels of every instruction set: against float64, and bit for bit against generic. */
#include <float.h>
#include <math.h>

#include "kernels/cpu/exact_math.h"
#include "tests/matrix_fixture.h"

static const int64_t lengths[] = {0, 1, 2, 63, 64, 65, 127, 128, 200, 1000, 2048};
enum { N_LENGTHS = sizeof lengths / sizeof *lengths, MAX_LENGTH = 2048, GUARD = 16 };

/* Runs fn as the steps run kernels: with denormals flushed. */
typedef struct in_pool {
    void (*fn)(void);
} in_pool;

static void call(void *arg, int thread, int n_threads) {
    (void)n_threads;
    if (thread == 0) ((in_pool *)arg)->fn();
}

static void run_in_pool(void (*fn)(void)) {
    sy_pool *pool;
    in_pool job = {fn};
    assert_int_equal(sy_pool_create(1, false, &pool), SY_OK);
    sy_pool_run(pool, call, &job);
    sy_pool_destroy(pool);
}

static void fill(float *x, int64_t n, spread s) {
    for (int64_t i = 0; i < n; i++)
        x[i] = random_float(s);
}

/* Distance from the exact value in units of the last place of the rounded exact value. */
static double ulps(float found, double exact) {
    int e;
    frexp(exact, &e);
    return fabs((double)found - exact) / ldexp(1.0, (e < -125 ? -125 : e) - 24);
}

static void exp_is_within_one_and_a_half_ulp(void **state) {
    (void)state;
    double worst = 0;
    for (int i = 0; i <= 2000000; i++) {
        float x = (float)(-87.0 * i / 2000000);
        worst = fmax(worst, ulps(sy_exp_f32(x), exp((double)x)));
    }
    for (int i = 0; i <= 200000; i++) {
        float x = (float)(88.0 * i / 200000);
        worst = fmax(worst, ulps(sy_exp_f32(x), exp((double)x)));
    }
    if (!(worst < 1.5)) fail_msg("exp is off by %.3f ulp", worst);
    assert_true(sy_exp_f32(0.0f) == 1.0f);
    assert_true(sy_exp_f32(-0.0f) == 1.0f);
    assert_true(sy_exp_f32(-1000.0f) == sy_exp_f32(-87.3f));
    assert_true(sy_exp_f32(-INFINITY) > 0.0f && sy_exp_f32(-INFINITY) < 2 * FLT_MIN);
    assert_true(isinf(sy_exp_f32(89.0f)) && isinf(sy_exp_f32(INFINITY)));
    assert_true(isnan(sy_exp_f32(NAN)));
    assert_true(isnan(sy_exp_f32(sy_f32_from_bits(0xff800001u))));
}

static void silu_mul_matches_float64(void **state) {
    (void)state;
    enum { N = 60001 };
    static float g[N], u[N], out[N];
    for (int i = 0; i < N; i++) {
        g[i] = (float)(i - 30000) / 1000.0f;
        u[i] = 1.0f;
    }
    sy_isa_generic.vec.silu_mul(N, g, u, NULL, out);
    double worst = 0;
    for (int i = 0; i < N; i++)
        worst = fmax(worst, ulps(out[i], (double)g[i] / (1.0 + exp(-(double)g[i]))));
    /* exp 1.1 ulp, which may count double across a power of two, and three roundings */
    if (!(worst < 3.5)) fail_msg("silu is off by %.3f ulp", worst);

    float edge[4] = {-1000.0f, 1000.0f, -89.0f, NAN}, one[4] = {1, 1, 1, 1}, y[4];
    sy_isa_generic.vec.silu_mul(4, edge, one, NULL, y);
    assert_true(y[0] == 0.0f && y[1] == 1000.0f && y[2] == 0.0f && isnan(y[3]));
}

static void rms_norm_matches_float64(void **state) {
    (void)state;
    static float x[MAX_LENGTH], w[MAX_LENGTH], out[MAX_LENGTH], in_place[MAX_LENGTH];
    static uint16_t out16[MAX_LENGTH];
    for (int l = 1; l < N_LENGTHS; l++) {
        int64_t n = lengths[l];
        fill(x, n, ORDINARY);
        fill(w, n, ORDINARY);
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += (double)x[i] * (double)x[i];
        double inverse = 1.0 / sqrt(sum / (double)n + 1e-5);
        memcpy(in_place, x, sizeof x);
        sy_isa_generic.vec.rms_norm(n, x, w, 1e-5f, NULL, out);
        sy_isa_generic.vec.rms_norm(n, x, w, 1e-5f, out16, NULL);
        sy_isa_generic.vec.rms_norm_f32(n, in_place, w, 1e-5f);
        for (int64_t i = 0; i < n; i++) {
            double exact = (double)x[i] * inverse * (double)w[i];
            /* A sum of 64 chains of 32 terms, then six roundings, each of half an ulp. */
            if (!(ulps(out[i], exact) < 24))
                fail_msg("n %d, element %d: %g, expected %g", (int)n, (int)i, (double)out[i],
                         exact);
            assert_true(out16[i] == sy_bf16_from_f32(out[i]));
        }
        assert_same_bits(in_place, out, n, "in-place norm");
    }
}

static void rounding_equals_the_shared_definition(void **state) {
    (void)state;
    for (uint64_t u = 0; u < 1u << 24; u++) {
        uint32_t bits = (uint32_t)(u * 0x9e3779b1u);
        float f = sy_f32_from_bits(bits);
        assert_true(sy_bf16_round(f) == sy_bf16_from_f32(f));
    }
    static const uint32_t edges[] = {0,           0x80000000u, 0x007fffffu, 0x00800000u,
                                     0x7f7fffffu, 0x7f800000u, 0x7f800001u, 0x7fffffffu,
                                     0xffffffffu, 0x3f808000u, 0x3f818000u, 0x00018000u};
    for (size_t i = 0; i < sizeof edges / sizeof *edges; i++) {
        float f = sy_f32_from_bits(edges[i]);
        assert_int_equal(sy_bf16_round(f), sy_bf16_from_f32(f));
    }
}

static void max_ignores_nan_and_finds_every_place(void **state) {
    (void)state;
    float x[200];
    for (int a = 0; a < N_ISA; a++) {
        if (sy_cpu_isa_find(isa_names[a]) == NULL) continue;
        const sy_vector_kernels *vec = &sy_cpu_isa_find(isa_names[a])->vec;
        assert_true(vec->max(0, x) == -INFINITY);
        for (int i = 0; i < 200; i++) {
            for (int j = 0; j < 200; j++)
                x[j] = j % 3 == 0 ? NAN : -2.0f;
            x[i] = -1.0f;
            assert_true(vec->max(200, x) == -1.0f);
        }
        for (int j = 0; j < 200; j++)
            x[j] = NAN;
        assert_true(vec->max(200, x) == -INFINITY);
    }
}

static void exp_sum_gives_zero_for_minus_infinity(void **state) {
    (void)state;
    for (int a = 0; a < N_ISA; a++) {
        if (sy_cpu_isa_find(isa_names[a]) == NULL) continue;
        const sy_vector_kernels *vec = &sy_cpu_isa_find(isa_names[a])->vec;
        float x[100];
        for (int i = 0; i < 100; i++)
            x[i] = i == 70 ? 2.5f : -INFINITY;
        assert_true(vec->exp_sum(100, x, 2.5f) == 1.0f);
        for (int i = 0; i < 100; i++)
            assert_true(x[i] == (i == 70 ? 1.0f : 0.0f));
        for (int i = 0; i < 100; i++)
            x[i] = -INFINITY;
        assert_true(vec->exp_sum(100, x, -INFINITY) == 0.0f);
        assert_true(vec->exp_sum(0, x, 0.0f) == 0.0f);
    }
}

static void exp_sum_follows_the_64_partial_sums(void **state) {
    (void)state;
    static float x[MAX_LENGTH], p[MAX_LENGTH];
    for (int l = 0; l < N_LENGTHS; l++) {
        int64_t n = lengths[l];
        for (int64_t i = 0; i < n; i++)
            x[i] = p[i] = -(float)random_in(0, 20000) / 1000.0f;
        float partial[64] = {0};
        for (int64_t i = 0; i < n; i++)
            partial[i % 64] += sy_exp_f32(x[i] - 0.25f);
        for (int half = 32; half > 0; half /= 2)
            for (int j = 0; j < half; j++)
                partial[j] += partial[j + half];
        float sum = sy_isa_generic.vec.exp_sum(n, p, 0.25f);
        assert_same_bits(&sum, partial, 1, "sum of exp");
    }
}

static void rope_rotates_pairs_of_halves(void **state) {
    (void)state;
    float x[6] = {1, 2, 3, 4, 5, 6}, c[2] = {0, 0.5f}, s[2] = {1, 0.25f};
    sy_isa_generic.vec.rope_half(2, c, s, x);
    float expected[6] = {-3, 2 * 0.5f - 4 * 0.25f, 1, 4 * 0.5f + 2 * 0.25f, 5, 6};
    assert_memory_equal(x, expected, sizeof x);
}

/* Every kernel of one table over one length and spread, into one block of results. */
typedef struct outcome {
    float out[8][MAX_LENGTH + GUARD];
    uint16_t out16[3][MAX_LENGTH + GUARD];
    float sum, max;
} outcome;

static void
run_all(const sy_vector_kernels *v, int64_t n, const float *a, const float *b, outcome *o) {
    memset(o, 0x55, sizeof *o);
    v->rms_norm(n, a, b, 1e-6f, NULL, o->out[0]);
    v->rms_norm(n, a, b, 1e-6f, o->out16[0], NULL);
    memcpy(o->out[1], a, (size_t)n * sizeof *a);
    v->rms_norm_f32(n, o->out[1], b, 1e-6f);
    v->silu_mul(n, a, b, NULL, o->out[2]);
    v->silu_mul(n, a, b, o->out16[1], NULL);
    memcpy(o->out[3], a, (size_t)n * sizeof *a);
    v->rope_half((int)(n / 2), b, b + n / 2, o->out[3]);
    v->round_bf16(n, a, o->out16[2]);
    v->widen_bf16(n, o->out16[2], o->out[4]);
    memcpy(o->out[5], a, (size_t)n * sizeof *a);
    v->add(n, b, o->out[5]);
    v->scale(n, 1.7f, a, o->out[6]);
    v->clamp(n, 1.5f, o->out[5]);
    memcpy(o->out[7], a, (size_t)n * sizeof *a);
    o->max = v->max(n, a);
    o->sum = v->exp_sum(n, o->out[7], o->max);
}

static void compare_tables(void) {
    static float a[MAX_LENGTH], b[MAX_LENGTH];
    static outcome expected, found;
    for (int i = 0; i < N_ISA; i++) {
        const sy_cpu_isa *isa = sy_cpu_isa_find(isa_names[i]);
        if (isa == NULL) continue;
        random_state = 11;
        for (int l = 0; l < N_LENGTHS; l++)
            for (int s = ORDINARY; s <= UNDERFLOW; s++) {
                fill(a, lengths[l], (spread)s);
                fill(b, lengths[l], (spread)s);
                if (lengths[l] > 70) a[66] = -INFINITY;
                run_all(&sy_isa_generic.vec, lengths[l], a, b, &expected);
                run_all(&isa->vec, lengths[l], a, b, &found);
                for (int k = 0; k < 8; k++)
                    for (int64_t j = 0; j < MAX_LENGTH + GUARD; j++) {
                        float f = found.out[k][j], e = expected.out[k][j];
                        if (isnan(f) && isnan(e)) continue; /* payloads may differ */
                        if (sy_bits_from_f32(f) != sy_bits_from_f32(e))
                            fail_msg("%s kernel %d n %d element %d: %a, expected %a", isa->name,
                                     k, (int)lengths[l], (int)j, (double)f, (double)e);
                    }
                /* Longer rows hold an infinity, whose NaNs may differ in payload. */
                if (lengths[l] <= 70)
                    assert_memory_equal(found.out16, expected.out16, sizeof found.out16);
                assert_memory_equal(found.out16[2], expected.out16[2], sizeof found.out16[2]);
                assert_same_bits(&found.max, &expected.max, 1, "max");
                assert_same_bits(&found.sum, &expected.sum, 1, "sum");
            }
    }
}

static void every_table_gives_the_bits_of_generic(void **state) {
    (void)state;
    run_in_pool(compare_tables);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_one_and_a_half_ulp),
        cmocka_unit_test(silu_mul_matches_float64),
        cmocka_unit_test(rms_norm_matches_float64),
        cmocka_unit_test(rounding_equals_the_shared_definition),
        cmocka_unit_test(max_ignores_nan_and_finds_every_place),
        cmocka_unit_test(exp_sum_gives_zero_for_minus_infinity),
        cmocka_unit_test(exp_sum_follows_the_64_partial_sums),
        cmocka_unit_test(rope_rotates_pairs_of_halves),
        cmocka_unit_test(every_table_gives_the_bits_of_generic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
