/* The order within a pair: the odd element first, one rounding each, denormals flushed; every table
 * keeps it, and the check that opens vdpbf16ps tells it from its neighbours. */
#include "tests/matrix_fixture.h"

#include <math.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef float (*pair_fn)(float w0, float w1, float x0, float x1, float acc);

static float odd_first(float w0, float w1, float x0, float x1, float acc) {
    return __builtin_fmaf(w0, x0, __builtin_fmaf(w1, x1, acc));
}
static float even_first(float w0, float w1, float x0, float x1, float acc) {
    return __builtin_fmaf(w1, x1, __builtin_fmaf(w0, x0, acc));
}
static float pair_first(float w0, float w1, float x0, float x1, float acc) {
    return acc + __builtin_fmaf(w0, x0, w1 * x1);
}

static void pairs_kernel(pair_fn fn,
                         int64_t rows,
                         const uint16_t *panel,
                         const uint16_t *x,
                         int64_t ldx,
                         int64_t k_pairs,
                         float *y,
                         int64_t ldy,
                         bool first) {
    for (int64_t m = 0; m < rows; m++)
        for (int o = 0; o < SY_PANEL; o++) {
            float acc = first ? 0.0f : y[m * ldy + o];
            for (int64_t p = 0; p < k_pairs; p++) {
                const uint16_t *w = panel + (p * SY_PANEL + o) * 2, *v = x + m * ldx + 2 * p;
                acc = fn(sy_f32_from_bf16(w[0]), sy_f32_from_bf16(w[1]), sy_f32_from_bf16(v[0]),
                         sy_f32_from_bf16(v[1]), acc);
            }
            y[m * ldy + o] = acc;
        }
}

#define PAIRS_KERNEL(name, fn)                                                                 \
    static void name(int64_t rows, const uint16_t *panel, const uint16_t *x, int64_t ldx,      \
                     int64_t k_pairs, float *y, int64_t ldy, bool first) {                     \
        pairs_kernel(fn, rows, panel, x, ldx, k_pairs, y, ldy, first);                         \
    }
PAIRS_KERNEL(odd_first_kernel, odd_first)
PAIRS_KERNEL(even_first_kernel, even_first)
PAIRS_KERNEL(pair_first_kernel, pair_first)

#if defined(__x86_64__)
/* Odd first, but with one kind of flushing off. */
static void with_mode(unsigned cleared,
                      int64_t rows,
                      const uint16_t *panel,
                      const uint16_t *x,
                      int64_t ldx,
                      int64_t k_pairs,
                      float *y,
                      int64_t ldy,
                      bool first) {
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode & ~cleared);
    odd_first_kernel(rows, panel, x, ldx, k_pairs, y, ldy, first);
    _mm_setcsr(mode);
}
static void keeps_denormal_results(int64_t rows,
                                   const uint16_t *panel,
                                   const uint16_t *x,
                                   int64_t ldx,
                                   int64_t k_pairs,
                                   float *y,
                                   int64_t ldy,
                                   bool first) {
    with_mode(0x8000u, rows, panel, x, ldx, k_pairs, y, ldy, first);
}
static void keeps_denormal_operands(int64_t rows,
                                    const uint16_t *panel,
                                    const uint16_t *x,
                                    int64_t ldx,
                                    int64_t k_pairs,
                                    float *y,
                                    int64_t ldy,
                                    bool first) {
    with_mode(0x0040u, rows, panel, x, ldx, k_pairs, y, ldy, first);
}
#endif

static void order_check_accepts_odd_first_and_refuses_its_neighbours(void **state) {
    (void)state;
    assert_true(sy_cpu_order_holds(&sy_isa_generic.gemm));
    sy_gemm_kernels k = sy_isa_generic.gemm;
    k.bf16_bf16 = odd_first_kernel;
    assert_true(sy_cpu_order_holds(&k));
    k.bf16_bf16 = even_first_kernel;
    assert_false(sy_cpu_order_holds(&k));
    k.bf16_bf16 = pair_first_kernel;
    assert_false(sy_cpu_order_holds(&k));
#if defined(__x86_64__)
    k.bf16_bf16 = keeps_denormal_results;
    assert_false(sy_cpu_order_holds(&k));
    k.bf16_bf16 = keeps_denormal_operands;
    assert_false(sy_cpu_order_holds(&k));
#endif
}

typedef struct order_job {
    const sy_gemm_kernels *kernels;
    int64_t cases, mismatches, even_differs, pair_differs;
} order_job;

static bool same_or_both_nan(float a, float b) {
    return sy_bits_from_f32(a) == sy_bits_from_f32(b) || (isnan(a) && isnan(b));
}

/* Single pairs of arbitrary bits (also Inf, NaN and denormals), of ordinary size, and near the
 * smallest normal number. */
static void order_run(void *arg, int thread, int n_threads) {
    (void)thread;
    (void)n_threads;
    order_job *job = arg;
    _Alignas(64) uint16_t panel[2 * SY_PANEL];
    for (int round = 0; round < 6000; round++) {
        uint16_t x[2];
        float y[SY_PANEL], start[SY_PANEL];
        int kind = round % 4;
        for (int i = 0; i < 2 * SY_PANEL; i++)
            panel[i] = kind == 3 ? (uint16_t)random64() : random_code16(SY_BF16, (spread)kind);
        for (int i = 0; i < 2; i++)
            x[i] = kind == 3 ? (uint16_t)random64() : random_code16(SY_BF16, (spread)kind);
        for (int i = 0; i < SY_PANEL; i++) {
            float near = sy_f32_from_bits((uint32_t)random64() & 0x827fffffu);
            start[i] = kind == 3           ? sy_f32_from_bits((uint32_t)random64())
                       : kind == UNDERFLOW ? near
                                           : random_float((spread)kind);
        }
        memcpy(y, start, sizeof y);
        job->kernels->bf16_bf16(1, panel, x, 2, 1, y, SY_PANEL, false);
        float x0 = sy_f32_from_bf16(x[0]), x1 = sy_f32_from_bf16(x[1]);
        for (int i = 0; i < SY_PANEL; i++) {
            float w0 = sy_f32_from_bf16(panel[2 * i]), w1 = sy_f32_from_bf16(panel[2 * i + 1]);
            float right = odd_first(w0, w1, x0, x1, start[i]);
            job->cases++;
            job->mismatches += !same_or_both_nan(y[i], right);
            job->even_differs += !same_or_both_nan(even_first(w0, w1, x0, x1, start[i]), right);
            job->pair_differs += !same_or_both_nan(pair_first(w0, w1, x0, x1, start[i]), right);
        }
    }
}

static void every_table_takes_the_odd_element_first(void **state) {
    (void)state;
    sy_pool *pool;
    assert_int_equal(sy_pool_create(1, false, &pool), SY_OK);
    for (int i = 0; i < N_ISA; i++) {
        const sy_cpu_isa *isa = sy_cpu_isa_find(isa_names[i]);
        if (isa == NULL) {
            print_message("not run here: %s\n", sy_last_error());
            continue;
        }
        random_state = 7;
        order_job job = {.kernels = &isa->gemm};
        sy_pool_run(pool, order_run, &job);
        if (job.mismatches != 0)
            fail_msg("%s: %lld of %lld pairs differ from two FMAs, odd first", isa->name,
                     (long long)job.mismatches, (long long)job.cases);
        /* The cases can tell the orders apart. */
        assert_true(job.even_differs > 1000 && job.pair_differs > 1000);
    }
    sy_pool_destroy(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_check_accepts_odd_first_and_refuses_its_neighbours),
        cmocka_unit_test(every_table_takes_the_odd_element_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
