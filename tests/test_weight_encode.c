/* Encoders: published test vectors, a float64 search over all codes, and corner values. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "base/hash.h"
#include "runtime/weight_encode.h"
#include "tests/format_fixture.h"

/* Values of many sizes and both signs; some are exactly codes, ties or zero. */
static float any_value(uint64_t seed, uint64_t i, int range) {
    uint64_t h = sy_hash_add(seed, i);
    int exponent = (int)(h >> 32 & 0xffff) % (2 * range + 1) - range;
    double mantissa =
        (h & 7) == 0 ? (double)(h >> 8 & 15) / 4 : (double)(h >> 8 & 0xffff) / 32768;
    return (float)ldexp((h >> 60 & 1) != 0 ? -mantissa : mantissa, exponent);
}

/* The code whose value is nearest; of two as near, the even one. */
static unsigned nearest(double x, double (*value)(unsigned), unsigned n_codes) {
    unsigned best = 0;
    for (unsigned code = 1; code < n_codes; code++) {
        double error = fabs(fabs(x) - value(code)), least = fabs(fabs(x) - value(best));
        if (error < least || (error == least && code % 2 == 0)) best = code;
    }
    return best;
}

static void e4m3_is_the_nearest_code_and_saturates(void **state) {
    (void)state;
    static const struct {
        float x;
        unsigned code;
    } vector[] = {{0x1p-10f, 0x00},      {0x1p-10f * 1.0001f, 0x01},
                  {0x1.8p-9f, 0x02},     {449, 0x7e},
                  {464, 0x7e},           {465, 0x7e},
                  {1e9f, 0x7e},          {INFINITY, 0x7e},
                  {-INFINITY, 0xfe},     {NAN, 0x7f},
                  {-0.0f, 0x80},         {1, 0x38},
                  {0.013671875f, 0x07},  {0x1p-6f, 0x08},
                  {448, 0x7e},           {0x1.fp-7f, 0x08},
                  {-0.001953125f, 0x81}, {0x1p-149f, 0x00}};
    for (size_t i = 0; i < sizeof vector / sizeof *vector; i++)
        assert_int_equal(sy_e4m3_from_f32(vector[i].x), vector[i].code);
    for (unsigned code = 0; code < 256; code++) {
        if ((code & 0x7f) == 0x7f) continue;
        assert_int_equal(sy_e4m3_from_f32((float)e4m3_value(code)), code);
    }
    for (uint64_t i = 0; i < 200000; i++) {
        float x = any_value(1, i, 12);
        unsigned expected = nearest((double)x, e4m3_value, 0x7f) | (signbit(x) ? 0x80u : 0);
        if (sy_e4m3_from_f32(x) != expected)
            fail_msg("%a: code %02x, expected %02x", (double)x, sy_e4m3_from_f32(x), expected);
    }
}

static void e2m1_is_the_nearest_code_and_saturates(void **state) {
    (void)state;
    static const float ties[][2] = {{0.25f, 0}, {0.75f, 1}, {1.25f, 1}, {1.75f, 2},
                                    {2.5f, 2},  {3.5f, 4},  {5, 4},     {100, 6}};
    for (size_t i = 0; i < sizeof ties / sizeof *ties; i++) {
        assert_true(sy_f32_from_e2m1(sy_e2m1_from_f32(ties[i][0])) == ties[i][1]);
        assert_true(sy_f32_from_e2m1(sy_e2m1_from_f32(-ties[i][0])) == -ties[i][1]);
    }
    for (uint64_t i = 0; i < 100000; i++) {
        float x = any_value(2, i, 4);
        unsigned expected = nearest((double)x, e2m1_value, 8) | (signbit(x) ? 8u : 0);
        assert_int_equal(sy_e2m1_from_f32(x), expected);
    }
}

static void values_that_are_not_finite_are_found(void **state) {
    (void)state;
    static float x[5000];
    assert_int_equal(sy_find_not_finite(x, 5000), -1);
    static const int at[] = {0, 1023, 1024, 4999};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 12; i++) {
        x[at[i % 4]] = bad[i % 3];
        assert_int_equal(sy_find_not_finite(x, 5000), at[i % 4]);
        assert_int_equal(sy_find_not_finite(x, at[i % 4]), -1);
        x[at[i % 4]] = FLT_MAX;
    }
    assert_true(sy_largest_magnitude(x, 0) == 0);
    x[7] = -3;
    assert_true(sy_largest_magnitude(x + 2, 100) == 3);
}

static void fp8_blocks_have_the_scale_of_their_largest_value(void **state) {
    (void)state;
    enum { N = 130, K = 257, BLOCKS = 3 };
    static float x[N * K];
    static uint8_t codes[N * K];
    float scales[2 * BLOCKS];
    for (int i = 0; i < N * K; i++)
        x[i] = i / K < 128 && i % K >= 128 && i % K < 256 ? 0 : any_value(3, (uint64_t)i, 3);
    sy_encode_fp8(x, N, K, codes, scales);
    assert_true(scales[1] == 1); /* the block of zeros */
    for (int r = 0; r < N; r++)
        for (int c = 0; c < K; c++) {
            float largest = 0;
            for (int i = r / 128 * 128; i < N && i < r / 128 * 128 + 128; i++)
                for (int j = c / 128 * 128; j < K && j < c / 128 * 128 + 128; j++)
                    largest = fmaxf(largest, fabsf(x[i * K + j]));
            float scale = scales[r / 128 * BLOCKS + c / 128];
            if (largest > 0) assert_true(scale == largest / 448);
            if (r % 43 != 0) continue; /* the search is slow */
            float scaled = x[r * K + c] / scale;
            unsigned sign = signbit(scaled) ? 0x80u : 0;
            assert_int_equal(codes[r * K + c],
                             nearest((double)scaled, e4m3_value, 0x7f) | sign);
        }
    /* Largest values that leave no room for a scale of their own. */
    float tiny[4] = {0x1p-149f, -FLT_MIN, 1e-37f, 0}, scale;
    sy_encode_fp8(tiny, 1, 4, codes, &scale);
    assert_true(scale >= FLT_MIN);
    assert_int_equal(codes[3], 0);
}

static void mxfp4_scales_follow_the_smaller_error(void **state) {
    (void)state;
    /* amax of a block and its scale byte: 4 needs none higher; 8 = 4 * 2 is exact in both. */
    static const float amax[] = {4, 5.9f, 6, 8, 1};
    static const unsigned byte[] = {127, 127, 127, 128, 125};
    for (size_t i = 0; i < sizeof amax / sizeof *amax; i++) {
        float x[32] = {amax[i]};
        uint8_t codes[16], scale;
        sy_encode_mxfp4(x, 1, 32, codes, &scale);
        assert_int_equal(scale, byte[i]);
    }
    float zero[32] = {0};
    uint8_t codes[16], scale = 99;
    zero[5] = -0.0f;
    sy_encode_mxfp4(zero, 1, 32, codes, &scale);
    assert_int_equal(scale, 0);
    for (int i = 0; i < 16; i++)
        assert_int_equal(codes[i], 0);
    float tiny[32] = {FLT_MIN};
    sy_encode_mxfp4(tiny, 1, 32, codes, &scale);
    assert_int_equal(scale, 1);
    float huge[32] = {FLT_MAX, -FLT_MAX};
    sy_encode_mxfp4(huge, 1, 32, codes, &scale);
    assert_true(scale >= 252 && scale <= 253);
}

static double mxfp4_error(const float *x, int n, int e, unsigned *code) {
    double sum = 0;
    for (int i = 0; i < n; i++) {
        code[i] = nearest(ldexp((double)x[i], -e), e2m1_value, 8);
        double error = fabs((double)x[i]) - ldexp(e2m1_value(code[i]), e);
        code[i] |= signbit(x[i]) ? 8u : 0;
        sum += error * error;
    }
    return sum;
}

static void mxfp4_equals_a_search_in_float64(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        int n = seed % 3 == 0 ? 13 : 32;
        float x[32] = {0};
        uint8_t codes[16] = {0}, scale;
        unsigned expected[32], best[32] = {0};
        int best_e = 0;
        double least = INFINITY;
        for (int i = 0; i < n; i++)
            x[i] = any_value(seed + 100, (uint64_t)i, (int)(seed % 6));
        x[0] = 1; /* not all zero */
        for (int e = ilogbf(sy_largest_magnitude(x, n)) - 2, last = e + 1; e <= last; e++) {
            double error = mxfp4_error(x, n, e, expected);
            if (error >= least) continue;
            least = error;
            best_e = e;
            memcpy(best, expected, sizeof best);
        }
        sy_encode_mxfp4(x, 1, n, codes, &scale);
        assert_int_equal(scale, best_e + 127);
        for (int i = 0; i < n; i++)
            assert_int_equal(codes[i / 2] >> i % 2 * 4 & 15, best[i]);
        if (n % 2 != 0) assert_int_equal(codes[n / 2] >> 4, 0);
        /* No power of two at all gives less. */
        for (int e = -20; e < 20; e++)
            assert_true(mxfp4_error(x, n, e, expected) >= least);
    }
}

static void nvfp4_gives_the_published_bytes(void **state) {
    (void)state;
    static const float x[32] = {0,     .5f,  1,     1.5f, 2,    3,    4,    6,
                                -.5f,  -1,   -1.5f, -2,   -3,   -4,   -6,   .25f,
                                0,     .05f, .1f,   .15f, .2f,  .3f,  .4f,  .6f,
                                -.05f, -.1f, -.15f, -.2f, -.3f, -.4f, -.6f, .7f};
    static const uint8_t expected[16] = {0x10, 0x32, 0x54, 0x76, 0xa9, 0xcb, 0xed, 0x0f,
                                         0x10, 0x32, 0x53, 0x75, 0xa9, 0xbb, 0xdd, 0x7f};
    uint8_t codes[16], scales[2];
    float global = sy_nvfp4_global(sy_largest_magnitude(x, 32));
    assert_true(global == 448);
    sy_encode_nvfp4(x, 2, 16, global, codes, scales);
    assert_memory_equal(codes, expected, sizeof codes);
    assert_int_equal(scales[0], 0x7e);
    assert_int_equal(scales[1], 0x65);
}

static void nvfp4_equals_a_search_for_its_scales(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        float x[16], largest = 0, global;
        uint8_t codes[8], scale;
        for (int i = 0; i < 16; i++)
            x[i] = any_value(seed + 5, (uint64_t)i, (int)(seed % 9));
        largest = sy_largest_magnitude(x, 16);
        if (largest == 0) continue;
        /* The matrix's largest value lies elsewhere. */
        global = sy_nvfp4_global(largest * (float)(1 << seed % 12));
        sy_encode_nvfp4(x, 1, 16, global, codes, &scale);
        unsigned wanted = nearest((double)(largest / 6 * global), e4m3_value, 0x7f);
        assert_int_equal(scale, wanted < 1 ? 1 : wanted);
        for (int i = 0; i < 16; i++) {
            float scaled = x[i] * global / (float)e4m3_value(scale);
            unsigned expected =
                nearest((double)scaled, e2m1_value, 8) | (signbit(x[i]) ? 8u : 0);
            assert_int_equal(codes[i / 2] >> i % 2 * 4 & 15, expected);
        }
    }
    float zero[16] = {0}, tiny[16] = {1e-30f};
    uint8_t codes[8], scale;
    assert_true(sy_nvfp4_global(0) == 1);
    assert_true(isfinite(sy_nvfp4_global(FLT_MIN)));
    sy_encode_nvfp4(zero, 1, 16, 1, codes, &scale);
    assert_int_equal(scale, 0x38); /* 1 */
    sy_encode_nvfp4(tiny, 1, 16, 1, codes, &scale);
    assert_int_equal(scale, 0x01); /* the smallest, and the value is lost */
    assert_int_equal(codes[0], 0);
}

static void q8_is_never_further_off_than_half_a_step(void **state) {
    (void)state;
    enum { K = 70, GROUPS = 3 };
    for (uint64_t seed = 0; seed < 2000; seed++) {
        float x[2 * K];
        int8_t codes[2 * K];
        uint16_t scales[2 * GROUPS];
        for (int i = 0; i < 2 * K; i++)
            x[i] = i >= 32 && i < 64 ? 0 : any_value(seed + 9, (uint64_t)i, (int)(seed % 5));
        sy_encode_q8(x, 2, K, codes, scales);
        assert_int_equal(scales[1], 0);
        for (int i = 0; i < 2 * K; i++) {
            int row = i / K, group = i % K / 32;
            int end = group * 32 + 32 < K ? group * 32 + 32 : K;
            float largest = sy_largest_magnitude(x + row * K + group * 32, end - group * 32);
            double scale = (double)sy_f32_from_bf16(scales[row * GROUPS + group]);
            assert_true(fabs(scale - (double)largest / 127) <= (double)largest / 127 / 256);
            assert_true(codes[i] >= -127);
            double error = fabs((double)x[i] - codes[i] * scale);
            if (error > scale * 0.5000001)
                fail_msg("%a as %d with scale %a", (double)x[i], codes[i], scale);
        }
    }
}

static void the_way_a_matrix_is_cut_changes_nothing(void **state) {
    (void)state;
    enum { N = 256, K = 100, GROUPS = 7 };
    static float x[N * K];
    static uint8_t whole[N * K], cut[N * K], whole_scales[N * GROUPS], cut_scales[N * GROUPS];
    float f_whole[2], f_cut[2];
    for (int i = 0; i < N * K; i++)
        x[i] = any_value(77, (uint64_t)i, 3);
    sy_encode_fp8(x, N, K, whole, f_whole);
    sy_encode_fp8(x, 128, K, cut, f_cut);
    sy_encode_fp8(x + 128 * K, 128, K, cut + 128 * K, f_cut + 1);
    assert_memory_equal(whole, cut, sizeof cut);
    assert_memory_equal(f_whole, f_cut, sizeof f_cut);
    sy_encode_nvfp4(x, N, K, 3, whole, whole_scales);
    for (int r = 0; r < N; r++)
        sy_encode_nvfp4(x + r * K, 1, K, 3, cut + r * K / 2, cut_scales + r * GROUPS);
    assert_memory_equal(whole, cut, N * K / 2);
    assert_memory_equal(whole_scales, cut_scales, sizeof cut_scales);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(e4m3_is_the_nearest_code_and_saturates),
        cmocka_unit_test(e2m1_is_the_nearest_code_and_saturates),
        cmocka_unit_test(values_that_are_not_finite_are_found),
        cmocka_unit_test(fp8_blocks_have_the_scale_of_their_largest_value),
        cmocka_unit_test(mxfp4_scales_follow_the_smaller_error),
        cmocka_unit_test(mxfp4_equals_a_search_in_float64),
        cmocka_unit_test(nvfp4_gives_the_published_bytes),
        cmocka_unit_test(nvfp4_equals_a_search_for_its_scales),
        cmocka_unit_test(q8_is_never_further_off_than_half_a_step),
        cmocka_unit_test(the_way_a_matrix_is_cut_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
