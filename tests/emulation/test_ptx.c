/* The instructions of kernels/cuda/ptx.h do what the PTX manual says, lane by lane: on the
 * emulation, whose models these are, and unchanged on a device. Moves and conversions are equal,
 * products within the rounding that tensor cores are known for. Skipped (77) without a device. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ptx_kernels.h"
#include "ptx_tables.h"

enum { LANES = 32, M = 16, N = 8, K = 16 };

#define CHECK(call) assert_string_equal(cudaGetErrorString(call), "no error")

static void *on_device(const void *host, size_t bytes) {
    void *p = NULL;
    CHECK(cudaMalloc(&p, bytes));
    if (host != NULL) CHECK(cudaMemcpy(p, host, bytes, cudaMemcpyHostToDevice));
    return p;
}

/* Waits, copies back and frees. */
static void take_back(void *host, void *device, size_t bytes) {
    CHECK(cudaMemcpy(host, device, bytes, cudaMemcpyDeviceToHost));
    CHECK(cudaFree(device));
}

static uint32_t random_state = 20261125;

static uint32_t random_bits(void) {
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8 ^ random_state << 13;
}

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* A bf16 of magnitude 2^-4 .. 2^4. */
static float random_bf16(void) {
    uint32_t r = random_bits();
    return float_of((r & 0x807f0000u) | (123 + (r & 7)) << 23);
}

/* ---- mma ---- */

typedef struct product {
    float a[M][K], b[K][N], c[M][N];
} product;

static void set_half(uint32_t *reg, int half, float value) {
    *reg |= bits_of(value) >> 16 << 16 * half;
}

static void to_lanes(const product *p, ptx_mma_operands *lanes) {
    memset(lanes, 0, LANES * sizeof *lanes);
    for (int lane = 0; lane < LANES; lane++) {
        ptx_mma_operands *to = &lanes[lane];
        for (int i = 0; i < 8; i++) {
            ptx_element e = ptx_mma_a(lane, i);
            set_half(&to->a[i / 2], i % 2, p->a[e.row][e.col]);
        }
        for (int i = 0; i < 4; i++) {
            ptx_element e = ptx_mma_b(lane, i);
            set_half(&to->b[i / 2], i % 2, p->b[e.row][e.col]);
        }
        for (int i = 0; i < 4; i++) {
            ptx_element e = ptx_mma_c(lane, i);
            to->c[i] = p->c[e.row][e.col];
        }
    }
}

static void from_lanes(const ptx_mma_operands *lanes, float d[M][N]) {
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) {
            ptx_element e = ptx_mma_c(lane, i);
            d[e.row][e.col] = lanes[lane].c[i];
        }
}

/* factor: of 2^-22 times the sum of magnitudes; 0: equal. */
static void check_products(int n, const product *p, double factor) {
    size_t bytes = (size_t)n * LANES * sizeof(ptx_mma_operands);
    ptx_mma_operands *lanes = malloc(bytes);
    assert_non_null(lanes);
    for (int i = 0; i < n; i++)
        to_lanes(&p[i], lanes + i * LANES);
    ptx_mma_operands *device = on_device(lanes, bytes);
    CHECK(ptx_run_mma(n, device));
    take_back(lanes, device, bytes);
    for (int i = 0; i < n; i++) {
        float d[M][N];
        from_lanes(lanes + i * LANES, d);
        for (int row = 0; row < M; row++)
            for (int col = 0; col < N; col++) {
                double want = p[i].c[row][col], size = fabs(want);
                for (int k = 0; k < K; k++) {
                    double term = (double)p[i].a[row][k] * p[i].b[k][col];
                    want += term;
                    size += fabs(term);
                }
                double allowed = factor * ldexp(1, -22) * size;
                if (!(fabs(d[row][col] - want) <= allowed))
                    fail_msg("product %d, row %d, column %d: %.9g instead of %.9g +- %.1g", i,
                             row, col, (double)d[row][col], want, allowed);
            }
    }
    free(lanes);
}

static void mma_takes_each_element_of_a_from_its_register(void **state) {
    (void)state;
    product *p = calloc(M * K, sizeof *p);
    assert_non_null(p);
    for (int i = 0; i < M * K; i++) {
        p[i].a[i / K][i % K] = 1;
        for (int k = 0; k < K; k++)
            for (int col = 0; col < N; col++)
                p[i].b[k][col] = (float)(k * N + col + 1);
    }
    check_products(M * K, p, 0);
    free(p);
}

static void mma_takes_each_element_of_b_from_its_register(void **state) {
    (void)state;
    product *p = calloc(K * N, sizeof *p);
    assert_non_null(p);
    for (int i = 0; i < K * N; i++) {
        p[i].b[i / N][i % N] = 1;
        for (int row = 0; row < M; row++)
            for (int k = 0; k < K; k++)
                p[i].a[row][k] = (float)(row * K + k);
    }
    check_products(K * N, p, 0);
    free(p);
}

static void mma_adds_to_each_element_of_c(void **state) {
    (void)state;
    product p = {0};
    for (int i = 0; i < M * N; i++)
        p.c[i / N][i % N] = (float)i + 0.123456f;
    check_products(1, &p, 0);
}

static void mma_of_random_numbers_is_near_the_exact_product(void **state) {
    (void)state;
    enum { CASES = 200 };
    product *p = calloc(CASES, sizeof *p);
    assert_non_null(p);
    for (int n = 0; n < CASES; n++) {
        for (int i = 0; i < M * K; i++)
            p[n].a[i / K][i % K] = random_bf16();
        for (int i = 0; i < K * N; i++)
            p[n].b[i / N][i % N] = random_bf16();
        for (int i = 0; i < M * N; i++)
            p[n].c[i / N][i % N] = n % 2 == 0 ? 0 : random_bf16() * 16;
    }
    check_products(CASES, p, 3);
    free(p);
}

/* ---- ldmatrix ---- */

static void check_ldmatrix(int trans) {
    uint16_t rows[LANES][8];
    int row_of[LANES];
    uint32_t out[LANES][4];
    for (int i = 0; i < LANES * 8; i++)
        rows[i / 8][i % 8] = (uint16_t)(0x100 + i);
    for (int lane = 0; lane < LANES; lane++)
        row_of[lane] = (lane * 13 + 5) % LANES; /* a permutation: rows need not follow */
    uint16_t *d_rows = on_device(rows, sizeof rows);
    int *d_row_of = on_device(row_of, sizeof row_of);
    uint32_t *d_out = on_device(NULL, sizeof out);
    CHECK(ptx_run_ldmatrix(trans, d_rows, d_row_of, d_out));
    take_back(out, d_out, sizeof out);
    CHECK(cudaFree(d_rows));
    CHECK(cudaFree(d_row_of));
    uint16_t matrix[4][8][8];
    for (int lane = 0; lane < LANES; lane++)
        memcpy(matrix[ptx_ldmatrix_matrix_of(lane)][ptx_ldmatrix_row_of(lane)],
               rows[row_of[lane]], sizeof rows[0]);
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 8; i++) {
            ptx_element e = trans ? ptx_ldmatrix_trans(lane, i % 2) : ptx_ldmatrix(lane, i % 2);
            uint32_t got = out[lane][i / 2] >> 16 * (i % 2) & 0xffffu;
            assert_int_equal(got, matrix[i / 2][e.row][e.col]);
        }
}

static void ldmatrix_gives_each_lane_its_elements(void **state) {
    (void)state;
    check_ldmatrix(0);
}

static void ldmatrix_trans_gives_each_lane_those_of_the_transposed(void **state) {
    (void)state;
    check_ldmatrix(1);
}

/* ---- copies and moves ---- */

static void copies_of_every_size_fill_up_with_zeros(void **state) {
    (void)state;
    enum { BYTES = LANES * 16 };
    uint8_t from[2][BYTES], out[3][BYTES];
    int valid[2][LANES];
    for (int i = 0; i < 2 * BYTES; i++)
        from[i / BYTES][i % BYTES] = (uint8_t)(1 + random_bits() % 255);
    for (int i = 0; i < 2 * LANES; i++)
        valid[i / LANES][i % LANES] = (i * 5 + i / LANES) % 17; /* each of 0 .. 16 */
    uint8_t *d_from = on_device(from, sizeof from), *d_out = on_device(NULL, sizeof out);
    int *d_valid = on_device(valid, sizeof valid);
    CHECK(ptx_run_copies(d_from, d_valid, d_out));
    take_back(out, d_out, sizeof out);
    CHECK(cudaFree(d_from));
    CHECK(cudaFree(d_valid));
    for (int i = 0; i < BYTES; i++)
        for (int group = 0; group < 2; group++) {
            int want = i % 16 < valid[group][i / 16] ? from[group][i] : 0;
            assert_int_equal(out[1 + group][i], want);
            if (group == 0) assert_int_equal(out[0][i], want);
        }
}

static void loads_and_stores_move_all_bytes(void **state) {
    (void)state;
    uint8_t from[512], out[4][512];
    for (size_t i = 0; i < sizeof from; i++)
        from[i] = (uint8_t)random_bits();
    uint8_t *d_from = on_device(from, sizeof from), *d_out = on_device(NULL, sizeof out);
    CHECK(ptx_run_moves(d_from, d_out));
    take_back(out, d_out, sizeof out);
    CHECK(cudaFree(d_from));
    for (int i = 0; i < 4; i++)
        assert_memory_equal(out[i], from, sizeof from);
}

/* ---- bf16 ---- */

/* The nearest bf16 by distance, of two the even one. Magnitudes of finite numbers only. */
static uint16_t nearest_bf16(float x) {
    uint32_t u = bits_of(fabsf(x));
    uint32_t down = u >> 16, up = down + 1;
    double value = fabs((double)x), low = float_of(down << 16);
    double high = up == 0x7f80 ? ldexp(1, 128) : float_of(up << 16);
    double to_low = value - low, to_high = high - value;
    bool take_up = to_high < to_low || (to_high == to_low && down % 2 == 1);
    return (uint16_t)((take_up ? up : down) | (bits_of(x) >> 31 << 15));
}

static void conversion_to_bf16_is_to_nearest_even(void **state) {
    (void)state;
    static const uint32_t low[] = {0, 1, 0x4000, 0x7fff, 0x8000, 0x8001, 0xffff};
    enum { LOWS = sizeof low / sizeof *low, COUNT = 65536 * LOWS };
    float *x = malloc(COUNT * sizeof *x);
    uint16_t *out = malloc(COUNT * sizeof *out);
    assert_non_null(x);
    assert_non_null(out);
    for (uint32_t i = 0; i < COUNT; i++)
        x[i] = float_of(i / LOWS << 16 | low[i % LOWS]);
    float *d_x = on_device(x, COUNT * sizeof *x);
    uint16_t *d_out = on_device(NULL, COUNT * sizeof *out);
    CHECK(ptx_run_to_bf16(COUNT, d_x, d_out));
    take_back(out, d_out, COUNT * sizeof *out);
    CHECK(cudaFree(d_x));
    for (uint32_t i = 0; i < COUNT; i++) {
        uint32_t u = i / LOWS << 16 | low[i % LOWS], magnitude = u & 0x7fffffffu;
        if (magnitude > 0x7f800000u) { /* NaN: stays one, and quiet */
            assert_int_equal(out[i] & 0x7fc0, 0x7fc0);
            continue;
        }
        uint16_t want =
            magnitude == 0x7f800000u ? (uint16_t)(u >> 16) : nearest_bf16(float_of(u));
        if (out[i] != want) fail_msg("%08x: %04x instead of %04x", u, out[i], want);
    }
    free(x);
    free(out);
}

static void conversion_from_bf16_is_exact(void **state) {
    (void)state;
    enum { COUNT = 65536 };
    const size_t bytes = COUNT * sizeof(float);
    uint16_t *x = malloc(COUNT * sizeof *x);
    float *out[3], *d_out[3];
    assert_non_null(x);
    for (int i = 0; i < COUNT; i++)
        x[i] = (uint16_t)i;
    for (int i = 0; i < 3; i++) {
        out[i] = malloc(bytes);
        assert_non_null(out[i]);
        d_out[i] = on_device(NULL, bytes);
    }
    uint16_t *d_x = on_device(x, COUNT * sizeof *x);
    CHECK(ptx_run_from_bf16(COUNT, d_x, d_out[0], d_out[1], d_out[2]));
    CHECK(cudaFree(d_x));
    for (int i = 0; i < 3; i++)
        take_back(out[i], d_out[i], bytes);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(bits_of(out[0][i]), i << 16);
        assert_int_equal(bits_of(out[1][i]), i << 16);
        assert_int_equal(bits_of(out[2][i]), (i + 1) % COUNT << 16);
    }
    for (int i = 0; i < 3; i++)
        free(out[i]);
    free(x);
}

static void two_packed_values_stand_in_their_halves(void **state) {
    (void)state;
    enum { COUNT = 64 };
    float lo[COUNT], hi[COUNT];
    uint32_t out[COUNT];
    for (int i = 0; i < COUNT; i++) {
        lo[i] = random_bf16() + 0.001f;
        hi[i] = random_bf16() - 0.001f;
    }
    float *d_lo = on_device(lo, sizeof lo), *d_hi = on_device(hi, sizeof hi);
    uint32_t *d_out = on_device(NULL, sizeof out);
    CHECK(ptx_run_pack(COUNT, d_lo, d_hi, d_out));
    take_back(out, d_out, sizeof out);
    CHECK(cudaFree(d_lo));
    CHECK(cudaFree(d_hi));
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(out[i], (uint32_t)nearest_bf16(lo[i]) | (uint32_t)nearest_bf16(hi[i])
                                                                     << 16);
}

/* Each case beside each other, in both halves. */
static void fma_of_two_bf16_rounds_once_and_knows_subnormals(void **state) {
    (void)state;
    enum { CASES = sizeof ptx_fma_cases / sizeof *ptx_fma_cases, COUNT = CASES * CASES };
    uint32_t a[COUNT], b[COUNT], c[COUNT], out[COUNT];
    for (int i = 0; i < COUNT; i++) {
        const struct ptx_fma_case *lo = &ptx_fma_cases[i % CASES];
        const struct ptx_fma_case *hi = &ptx_fma_cases[i / CASES];
        a[i] = lo->a | (uint32_t)hi->a << 16;
        b[i] = lo->b | (uint32_t)hi->b << 16;
        c[i] = lo->c | (uint32_t)hi->c << 16;
    }
    uint32_t *d_a = on_device(a, sizeof a), *d_b = on_device(b, sizeof b);
    uint32_t *d_c = on_device(c, sizeof c), *d_out = on_device(NULL, sizeof out);
    CHECK(ptx_run_fma_bf16x2(COUNT, d_a, d_b, d_c, d_out));
    take_back(out, d_out, sizeof out);
    CHECK(cudaFree(d_a));
    CHECK(cudaFree(d_b));
    CHECK(cudaFree(d_c));
    for (int i = 0; i < COUNT; i++) {
        uint32_t want = ptx_fma_cases[i % CASES].d | (uint32_t)ptx_fma_cases[i / CASES].d << 16;
        if (out[i] != want)
            fail_msg("%08x * %08x + %08x: %08x instead of %08x", a[i], b[i], c[i], out[i],
                     want);
    }
}

/* ---- numbers ---- */

static void exp2_is_within_2_to_the_minus_22(void **state) {
    (void)state;
    enum { COUNT = 4096 };
    float x[COUNT], out[COUNT];
    for (int i = 0; i < COUNT; i++)
        x[i] = -126 + 253.9f * (float)i / COUNT;
    x[0] = -INFINITY;
    x[1] = -200;
    x[2] = 0;
    x[3] = 1000;
    x[4] = NAN;
    float *d_x = on_device(x, sizeof x), *d_out = on_device(NULL, sizeof out);
    CHECK(ptx_run_exp2(COUNT, d_x, d_out));
    take_back(out, d_out, sizeof out);
    CHECK(cudaFree(d_x));
    assert_true(out[0] == 0 && out[1] == 0 && out[2] == 1 && isinf(out[3]) && isnan(out[4]));
    for (int i = 5; i < COUNT; i++) {
        double want = exp2((double)x[i]);
        if (!(fabs(out[i] - want) <= ldexp(want, -22)))
            fail_msg("2^%.9g: %.9g instead of %.9g", (double)x[i], (double)out[i], want);
    }
}

static void sum_over_a_warp_is_the_butterfly_of_16_8_4_2_1(void **state) {
    (void)state;
    enum { WARPS = 20 };
    float x[WARPS][LANES], sum[WARPS][LANES], max[WARPS][LANES];
    for (int i = 0; i < WARPS * LANES; i++)
        x[i / LANES][i % LANES] = random_bf16() * 1.2345f;
    x[3][7] = NAN; /* not the maximum, but the sum */
    float *d_x = on_device(x, sizeof x), *d_sum = on_device(NULL, sizeof sum);
    float *d_max = on_device(NULL, sizeof max);
    CHECK(ptx_run_warp(WARPS, d_x, d_sum, d_max));
    take_back(sum, d_sum, sizeof sum);
    take_back(max, d_max, sizeof max);
    CHECK(cudaFree(d_x));
    for (int w = 0; w < WARPS; w++) {
        float v[LANES], next[LANES], largest = -INFINITY;
        memcpy(v, x[w], sizeof v);
        for (int distance = 16; distance > 0; distance /= 2) {
            for (int lane = 0; lane < LANES; lane++)
                next[lane] = v[lane] + v[lane ^ distance];
            memcpy(v, next, sizeof v);
        }
        for (int lane = 0; lane < LANES; lane++)
            if (x[w][lane] > largest) largest = x[w][lane];
        for (int lane = 0; lane < LANES; lane++) {
            assert_true(max[w][lane] == largest);
            if (w == 3)
                assert_true(isnan(sum[w][lane]));
            else
                assert_int_equal(bits_of(sum[w][lane]), bits_of(v[lane]));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mma_takes_each_element_of_a_from_its_register),
        cmocka_unit_test(mma_takes_each_element_of_b_from_its_register),
        cmocka_unit_test(mma_adds_to_each_element_of_c),
        cmocka_unit_test(mma_of_random_numbers_is_near_the_exact_product),
        cmocka_unit_test(ldmatrix_gives_each_lane_its_elements),
        cmocka_unit_test(ldmatrix_trans_gives_each_lane_those_of_the_transposed),
        cmocka_unit_test(copies_of_every_size_fill_up_with_zeros),
        cmocka_unit_test(loads_and_stores_move_all_bytes),
        cmocka_unit_test(conversion_to_bf16_is_to_nearest_even),
        cmocka_unit_test(conversion_from_bf16_is_exact),
        cmocka_unit_test(two_packed_values_stand_in_their_halves),
        cmocka_unit_test(fma_of_two_bf16_rounds_once_and_knows_subnormals),
        cmocka_unit_test(exp2_is_within_2_to_the_minus_22),
        cmocka_unit_test(sum_over_a_warp_is_the_butterfly_of_16_8_4_2_1),
    };
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess || n == 0) {
        printf("no CUDA device\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
