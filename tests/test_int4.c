/* AWQ and GPTQ weights in the order of rows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/int4.h"

enum { N = 24, K = 256, GROUP = 32, GROUPS = K / GROUP };

/* One layer as its meaning and as a file; blocks at odd addresses. */
typedef struct layer {
    uint8_t code[N][K], zero[N][GROUPS];
    uint16_t scale[N][GROUPS];
    char codes_block[N * K / 2 + 1], zeros_block[N * GROUPS / 2 + 1];
    char scales_block[N * GROUPS * 2 + 1], g_idx_block[K * 4 + 1];
    sy_int4_file file;
    uint32_t codes[N * K / 8];
    uint8_t zeros[N * GROUPS];
    uint16_t scales[N * GROUPS];
    sy_int4_rows rows;
} layer;

static void set_field(char *words, int64_t word, int i, unsigned value) {
    unsigned char *byte = (unsigned char *)words + 4 * word + i / 2;
    *byte = (unsigned char)(*byte | value << 4 * (i % 2));
}

/* The orders as the formats' descriptions give them: the output in field i of an AWQ word. */
static const int awq_output[8] = {0, 2, 4, 6, 1, 3, 5, 7};

static layer *make_layer(bool awq, unsigned stored_less) {
    layer *l = calloc(1, sizeof *l);
    char *codes = l->codes_block + 1, *zeros = l->zeros_block + 1;
    char *scales = l->scales_block + 1, *g_idx = l->g_idx_block + 1;
    for (int o = 0; o < N; o++)
        for (int g = 0; g < GROUPS; g++) {
            l->zero[o][g] = (uint8_t)(sy_mix64((uint64_t)(o * 100 + g)) % 16);
            l->scale[o][g] = (uint16_t)sy_mix64((uint64_t)(o * 100 + g + 7777));
            memcpy(scales + (g * N + o) * 2, &l->scale[o][g], 2);
        }
    for (int o = 0; o < N; o++)
        for (int k = 0; k < K; k++)
            l->code[o][k] = (uint8_t)(sy_mix64((uint64_t)(o * 1000 + k)) >> 8 & 15);
    for (int c = 0; c < N / 8; c++)
        for (int i = 0; i < 8; i++) {
            int o = 8 * c + (awq ? awq_output[i] : i);
            for (int k = 0; awq && k < K; k++)
                set_field(codes, k * (N / 8) + c, i, l->code[o][k]);
            for (int g = 0; g < GROUPS; g++)
                set_field(zeros, g * (N / 8) + c, i, (l->zero[o][g] - stored_less) & 15u);
        }
    for (int o = 0; !awq && o < N; o++)
        for (int k = 0; k < K; k++)
            set_field(codes, k / 8 * N + o, k % 8, l->code[o][k]);
    for (int32_t k = 0; k < K; k++) {
        int32_t g = k / GROUP;
        memcpy(g_idx + 4 * k, &g, 4);
    }
    l->file = (sy_int4_file){.n = N,
                             .k = K,
                             .group = GROUP,
                             .scale_bytes = 2,
                             .codes = codes,
                             .zeros = zeros,
                             .scales = scales,
                             .zeros_less_one = stored_less == 1,
                             .g_idx = awq ? NULL : g_idx};
    l->rows = (sy_int4_rows){l->codes, l->zeros, l->scales};
    return l;
}

static void check_rows(const layer *l) {
    for (int o = 0; o < N; o++)
        for (int k = 0; k < K; k++) {
            unsigned found = l->codes[o * (K / 8) + k / 8] >> 4 * (k % 8) & 15u;
            if (found != l->code[o][k])
                fail_msg("output %d, input %d: %u, expected %u", o, k, found, l->code[o][k]);
        }
    assert_memory_equal(l->zeros, l->zero, sizeof l->zeros);
    assert_memory_equal(l->scales, l->scale, sizeof l->scales);
}

static void awq_words_become_rows(void **state) {
    (void)state;
    layer *l = make_layer(true, 0);
    assert_int_equal(sy_int4_from_awq(&l->file, &l->rows), SY_OK);
    check_rows(l);
    free(l);
}

static void gptq_words_become_rows_under_both_kinds_of_zeros(void **state) {
    (void)state;
    for (unsigned less = 0; less < 2; less++) {
        layer *l = make_layer(false, less);
        assert_int_equal(sy_int4_from_gptq(&l->file, &l->rows), SY_OK);
        check_rows(l);
        l->file.g_idx = NULL;
        memset(l->codes, 0, sizeof l->codes);
        assert_int_equal(sy_int4_from_gptq(&l->file, &l->rows), SY_OK);
        check_rows(l);
        free(l);
    }
}

/* Words that the formats' own tools write for these values. */
static void published_words_decode(void **state) {
    (void)state;
    uint32_t awq[8] = {0x75316420u, 0, 0, 0, 0, 0, 0, 0}, zeros = 0x75316420u, codes[8];
    uint16_t scales[8] = {1, 2, 3, 4, 5, 6, 7, 8}, turned[8];
    uint8_t zero[8];
    sy_int4_file f = {.n = 8,
                      .k = 8,
                      .group = 8,
                      .scale_bytes = 2,
                      .codes = awq,
                      .zeros = &zeros,
                      .scales = scales};
    sy_int4_rows rows = {codes, zero, turned};
    assert_int_equal(sy_int4_from_awq(&f, &rows), SY_OK);
    for (unsigned o = 0; o < 8; o++) {
        assert_int_equal(codes[o], o);
        assert_int_equal(zero[o], o);
        assert_int_equal(turned[o], o + 1);
    }
    uint32_t gptq[8] = {0xf6543210u, 0, 0, 0, 0, 0, 0, 0};
    zeros = 0xf7777777u;
    f.codes = gptq;
    f.zeros_less_one = true;
    assert_int_equal(sy_int4_from_gptq(&f, &rows), SY_OK);
    assert_int_equal(codes[0], 0xf6543210u);
    assert_int_equal(zero[0], 8);
    assert_int_equal(zero[7], 0); /* a stored 15 wraps */
    /* compressed-tensors: [[-8, 1], [7, -3], [0, 5]], 8 added. */
    static const uint32_t words[2] = {0x8f0u, 0xd59u};
    static const uint8_t expected[6] = {0, 9, 15, 5, 8, 13};
    uint8_t found[6];
    sy_int4_zeros_from_words(3, 2, words, found);
    assert_memory_equal(found, expected, sizeof found);
}

static void set_group_index(layer *l, int k, int32_t g) {
    memcpy(l->g_idx_block + 1 + 4 * k, &g, 4);
}

static void group_indices_out_of_range_or_order_are_refused(void **state) {
    (void)state;
    static const int32_t bad[] = {-1, GROUPS, INT32_MAX, INT32_MIN};
    for (int i = 0; i < 4; i++) {
        layer *l = make_layer(false, 0);
        set_group_index(l, 5, 1);
        set_group_index(l, 77, bad[i]);
        assert_int_equal(sy_int4_from_gptq(&l->file, &l->rows), SY_ERR_FORMAT);
        assert_non_null(strstr(sy_last_error(), "input 77"));
        free(l);
    }
    layer *l = make_layer(false, 0);
    set_group_index(l, 31, 1);
    set_group_index(l, 32, 0);
    assert_int_equal(sy_int4_from_gptq(&l->file, &l->rows), SY_ERR_UNSUPPORTED);
    assert_non_null(strstr(sy_last_error(), "input 31"));
    free(l);
}

static void sizes_that_do_not_fit_are_refused(void **state) {
    (void)state;
    static const int64_t bad[][3] = {{12, 256, 32}, {24, 252, 32}, {24, 256, 0}, {24, 256, -1},
                                     {24, 256, 48}, {0, 256, 32},  {24, 0, 32},  {-8, 256, 32}};
    layer *l = make_layer(false, 0);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        l->file.n = bad[i][0];
        l->file.k = bad[i][1];
        l->file.group = bad[i][2];
        assert_int_equal(sy_int4_from_awq(&l->file, &l->rows), SY_ERR_FORMAT);
        assert_int_equal(sy_int4_from_gptq(&l->file, &l->rows), SY_ERR_FORMAT);
    }
    free(l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(awq_words_become_rows),
        cmocka_unit_test(gptq_words_become_rows_under_both_kinds_of_zeros),
        cmocka_unit_test(published_words_decode),
        cmocka_unit_test(group_indices_out_of_range_or_order_are_refused),
        cmocka_unit_test(sizes_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
