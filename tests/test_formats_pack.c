/* Quantised weights in memory: what files hold comes back as the values that the formats mean, in
 * few bytes; scales that are no numbers are refused with their place. */
#include "tests/format_fixture.h"

/* Output `row` of a matrix of one part, as the embedding gives it. */
static void read_row(sy_backend *be, const sy_matrix *m, int32_t row, float *out) {
    sy_batch batch = {.n_rows = 1, .ids = &row};
    assert_int_equal(be->ops->embed(be, m, &batch, out, NULL), SY_OK);
}

static void assert_row(sy_backend *be,
                       const sy_matrix *m,
                       int32_t row,
                       const float *expected,
                       const char *what) {
    float found[64];
    assert_true(m->k <= 64);
    read_row(be, m, row, found);
    assert_same_bits(found, expected, m->k, what);
}

static void scalars_have_the_values_of_their_formats(void **state) {
    (void)state;
    for (unsigned code = 0; code < 256; code++) {
        double e4m3 = e4m3_value(code), e8m0 = e8m0_value(code);
        float f = sy_f32_from_e4m3((uint8_t)code), s = sy_f32_from_e8m0((uint8_t)code);
        if (!(isnan(e4m3) ? isnan(f) : (double)f == e4m3))
            fail_msg("E4M3 %02x: %g", code, (double)f);
        if (!(isnan(e8m0) ? isnan(s) : (double)s == e8m0))
            fail_msg("E8M0 %02x: %g", code, (double)s);
        assert_true((double)sy_f32_from_e2m1((uint8_t)code) == e2m1_value(code & 15));
    }
    assert_int_equal(sy_bits_from_f32(sy_f32_from_e4m3(0x80)), 0x80000000u);
    assert_int_equal(sy_bits_from_f32(sy_f32_from_e2m1(8)), 0x80000000u);
    static const struct {
        uint8_t code;
        float value;
    } e4m3[] = {{0x01, 0x1p-9f}, {0x07, 0.013671875f}, {0x08, 0x1p-6f}, {0x38, 1}, {0x7e, 448}};
    for (size_t i = 0; i < sizeof e4m3 / sizeof *e4m3; i++)
        assert_true(sy_f32_from_e4m3(e4m3[i].code) == e4m3[i].value);
    assert_true(sy_f32_from_e8m0(0x7f) == 1 && sy_f32_from_e8m0(0x80) == 2);
}

static sy_matrix pack_one(sy_backend *be, sy_matrix m, const sy_weight_source *src) {
    uint64_t bytes = be->ops->matrix_bytes(be, &m);
    assert_true(bytes != UINT64_MAX);
    assert_int_equal(be->ops->alloc(be, &m.data, bytes, "matrix"), SY_OK);
    assert_int_equal(be->ops->pack(be, &m, 0, 0, m.n, src), SY_OK);
    return m;
}

static void free_one(sy_backend *be, const sy_matrix *m) {
    be->ops->free(be, m->data, be->ops->matrix_bytes(be, m));
}

static void mxfp4_block_of_gpt_oss_decodes(void **state) {
    (void)state;
    static const uint8_t blocks[16] = {0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe,
                                       0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe};
    static const uint8_t scale = 0x80;
    static const float half[16] = {0, 1, 2, 3, 4, 6, 8, 12, -0.0f, -1, -2, -3, -4, -6, -8, -12};
    float expected[32];
    memcpy(expected, half, sizeof half);
    memcpy(expected + 16, half, sizeof half);
    sy_backend *be = open_cpu(SY_BF16, 1, NULL);
    sy_matrix m = {.dtype = SY_F4, .parts = 1, .n = 1, .k = 32, .quant = formats[6].quant};
    m = pack_one(be, m, &(sy_weight_source){SY_F4, blocks, &scale, NULL});
    assert_row(be, &m, 0, expected, "MXFP4");
    free_one(be, &m);
    close_cpu(be);
}

/* The same 2 x 16 matrix under the conventions of both exporters. */
static void nvfp4_of_both_exporters_decodes(void **state) {
    (void)state;
    static const uint8_t codes[16] = {0x10, 0x32, 0x54, 0x76, 0xa9, 0xcb, 0xed, 0x0f,
                                      0x10, 0x32, 0x53, 0x75, 0xa9, 0xbb, 0xdd, 0x7f};
    static const uint8_t scales[2] = {0x7e, 0x65}; /* 448, 52 */
    static const double first[16] = {0,   .5, 1,    1.5, 2,  3,  4,  6,
                                     -.5, -1, -1.5, -2,  -3, -4, -6, 0};
    static const double second[16] = {0,   .5, 1,    1.5,  1.5, 3,  3,  6,
                                      -.5, -1, -1.5, -1.5, -3,  -3, -6, 6};
    const uint32_t scale_2 = 0x3b124925u; /* 1 / 448, rounded */
    for (int over = 0; over < 2; over++) {
        float expected[2][16], factor = over ? 448.0f : sy_f32_from_bits(scale_2);
        for (int i = 0; i < 16; i++) {
            float a = (float)(first[i] * 448), b = (float)(second[i] * 52);
            expected[0][i] = over ? a / factor : a * factor;
            expected[1][i] = over ? b / factor : b * factor;
        }
        assert_true(fabs((double)expected[1][1] - 0.0580357) < 1e-6);
        sy_backend *be = open_cpu(SY_BF16, 1, NULL);
        sy_quant quant = {SY_F8_E4M3, 16, 1, false, over ? SY_FACTOR_OVER : SY_FACTOR_TIMES,
                          {factor, 0}};
        sy_matrix m = {.dtype = SY_F4, .parts = 1, .n = 2, .k = 16, .quant = quant};
        m = pack_one(be, m, &(sy_weight_source){SY_F4, codes, scales, NULL});
        assert_row(be, &m, 0, expected[0], "NVFP4, first row");
        assert_row(be, &m, 1, expected[1], "NVFP4, second row");
        free_one(be, &m);
        close_cpu(be);
    }
}

/* A short last group, all signs, and the code that q8 does not use. */
static void integers_of_8_bits_decode(void **state) {
    (void)state;
    int8_t codes[2][34] = {{127, -127, 1, -1, -128}, {64}};
    static const uint16_t scales[2][2] = {{0x3e80, 0x4000}, {0xbf80, 0}}; /* 0.25, 2; -1, 0 */
    float expected[2][34] = {{31.75f, -31.75f, 0.25f, -0.25f, -32}, {-64}};
    codes[0][32] = -3;
    codes[0][33] = codes[1][33] = 77;
    for (int i = 1; i < 32; i++)
        expected[1][i] = -0.0f; /* 0 times -1 */
    expected[0][32] = -6;
    expected[0][33] = 154;
    sy_backend *be = open_cpu(SY_BF16, 1, NULL);
    sy_matrix m = {.dtype = SY_I8, .parts = 1, .n = 2, .k = 34, .quant = formats[15].quant};
    m = pack_one(be, m, &(sy_weight_source){SY_I8, codes, scales, NULL});
    assert_row(be, &m, 0, expected[0], "q8, first row");
    assert_row(be, &m, 1, expected[1], "q8, second row");
    free_one(be, &m);
    close_cpu(be);
}

/* Nine columns: the padding nibbles of a file are 0, and mean nothing. */
static void int4_words_of_compressed_tensors_decode(void **state) {
    (void)state;
    static const uint32_t words[2] = {0xfea98710u, 0x0000000bu};
    static const float scale = 0.25f;
    static const float expected[9] = {-2, -1.75f, -0.25f, 0, 0.25f, 0.5f, 1.5f, 1.75f, 0.75f};
    sy_backend *be = open_cpu(SY_BF16, 1, NULL);
    sy_matrix m = {.dtype = SY_U4, .parts = 1, .n = 1, .k = 9};
    m.quant = (sy_quant){.scale = SY_F32, .group = 32, .outputs = 1};
    m = pack_one(be, m, &(sy_weight_source){SY_U4, words, &scale, NULL});
    assert_row(be, &m, 0, expected, "INT4");
    free_one(be, &m);
    /* With zero points: the same bytes less 3. */
    static const uint8_t zero = 3;
    static const float shifted[9] = {-0.75f, -0.5f, 1, 1.25f, 1.5f, 1.75f, 2.75f, 3, 2};
    m.quant.zeros = true;
    m = pack_one(be, m, &(sy_weight_source){SY_U4, words, &scale, &zero});
    assert_row(be, &m, 0, shifted, "INT4 with zero points");
    free_one(be, &m);
    close_cpu(be);
}

static void rows_read_back_are_code_times_scale_with_factor(void **state) {
    (void)state;
    random_state = 21;
    for (int f = 0; f < N_FORMATS; f++)
        for (int round = 0; round < 4; round++) {
            sy_backend *be = open_cpu(round % 2 == 0 ? SY_BF16 : SY_F32, 2, NULL);
            int64_t n = random_in(1, 200), k = random_in(1, 700);
            quantised q = make_quantised(be, &formats[f], 1, n, k, ORDINARY);
            float *found = malloc((size_t)k * sizeof *found);
            float *expected = malloc((size_t)k * sizeof *expected);
            for (int32_t row = 0; row < n; row += 1 + (int32_t)n / 5) {
                read_row(be, &q.m, row, found);
                for (int64_t i = 0; i < k; i++) {
                    float w = (float)(code_of(&q, 0, row, i) * scale_of(&q, 0, row, i));
                    expected[i] = WITH_FACTOR(&q, 0, w);
                }
                assert_same_bits(found, expected, k, formats[f].name);
            }
            free(found);
            free(expected);
            free_quantised(be, &q);
            close_cpu(be);
        }
}

/* Codes and scales as files hold them, and at most 5 % more. */
static void memory_is_that_of_codes_and_scales(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{7168, 2048}, {2880, 2880}, {2048, 7168}, {1408, 2048}};
    sy_backend *be = open_cpu(SY_BF16, 1, NULL);
    for (int f = 0; f < N_FORMATS; f++)
        for (int s = 0; s < 4; s++) {
            quantised q = shape_quantised(&formats[f], 2, shapes[s][0], shapes[s][1]);
            double codes = (double)(q.m.n * q.code_row_bytes);
            double scales = (double)(scale_rows(&q.m) * q.groups * q.scale_bytes);
            double zeros = q.m.quant.zeros ? (double)(q.m.n * q.groups) / 2 : 0;
            double share =
                (double)be->ops->matrix_bytes(be, &q.m) / 2 / (codes + scales + zeros);
            if (!(share >= 1 && share < 1.05))
                fail_msg("%s, %lld x %lld: %g of the file's bytes", formats[f].name,
                         (long long)q.m.n, (long long)q.m.k, share);
        }
    close_cpu(be);
}

/* Bits of a file's rows beyond K mean nothing. */
static void padding_of_a_file_does_not_reach_memory(void **state) {
    (void)state;
    random_state = 25;
    sy_backend *be = open_cpu(SY_BF16, 1, NULL);
    for (int f = 0; f < N_FORMATS; f++)
        for (int64_t k = 33; k < 41; k++) {
            if (has_bytes(formats[f].dtype)) continue; /* these have none */
            quantised q = make_quantised(be, &formats[f], 1, 70, k, ORDINARY), other = q;
            char *codes = q.part[0].codes;
            for (int64_t i = 0; i < q.m.n * q.code_row_bytes; i++) {
                int64_t first = i % q.code_row_bytes * 2; /* K of the byte's lower half */
                if (first >= k) codes[i] = (char)~codes[i];
                if (first == k - 1) codes[i] = (char)(codes[i] ^ 0xf0);
            }
            pack_quantised(be, &other);
            assert_memory_equal(q.m.data, other.m.data, q.bytes);
            be->ops->free(be, other.m.data, other.bytes);
            free_quantised(be, &q);
        }
    close_cpu(be);
}

static void assert_refused(sy_backend *be,
                           const quantised *q,
                           int part,
                           sy_status expected,
                           const char *text) {
    sy_weight_source src = source_at(q, part, 0);
    sy_status st = be->ops->pack(be, &q->m, part, 0, q->m.n, &src);
    if (st != expected || strstr(sy_last_error(), text) == NULL)
        fail_msg("status %s, \"%s\", expected %s and \"%s\"", sy_status_name(st),
                 sy_last_error(), sy_status_name(expected), text);
}

static void scales_that_are_no_numbers_are_refused_with_their_place(void **state) {
    (void)state;
    static const struct {
        int format;
        uint32_t bits;
    } bad[] = {{0, 0x7fc00000u}, {0, 0xff800000u}, {1, 0xff},         {3, 0x7f80u},
               {6, 0xff},        {7, 0x7f},        {7, 0xff},         {9, 0xffc1u},
               {10, 0x7c00u},    {10, 0xfe00u},    {11, 0x7f800000u}, {2, 0xffffffffu},
               {4, 0x7f800000u}, {15, 0x7f80u},    {16, 0x7fc00000u}};
    random_state = 22;
    sy_backend *be = open_cpu(SY_BF16, 1, NULL);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        for (int parts = 1; parts <= 2; parts++) {
            const format_case *f = &formats[bad[i].format];
            quantised q = make_quantised(be, f, parts, 300, 700, ORDINARY);
            int64_t row = f->quant.outputs == 0 ? 0 : f->quant.outputs == 1 ? 131 : 2;
            int64_t group = q.groups - 1;
            memcpy(q.part[parts - 1].scales + (row * q.groups + group) * q.scale_bytes,
                   &bad[i].bits, (size_t)q.scale_bytes);
            char text[80];
            snprintf(text, sizeof text, "%soutput %lld, scale group %lld: expected a finite",
                     parts == 2 ? "up, " : "",
                     (long long)(f->quant.outputs == 128 ? row * 128 : row), (long long)group);
            assert_refused(be, &q, parts - 1, SY_ERR_FORMAT, text);
            free_quantised(be, &q);
        }
    close_cpu(be);
}

static void zero_points_and_factors_out_of_range_are_refused(void **state) {
    (void)state;
    random_state = 23;
    sy_backend *be = open_cpu(SY_BF16, 1, NULL);
    quantised q = make_quantised(be, &formats[13], 1, 100, 64, ORDINARY);
    q.part[0].zeros[70 * q.groups + 1] = 16;
    assert_refused(be, &q, 0, SY_ERR_FORMAT, "output 70, scale group 1: expected a zero point");
    free_quantised(be, &q);
    static const float factors[] = {NAN, INFINITY, -INFINITY, 0};
    for (int i = 0; i < 4; i++)
        for (int over = 0; over < 2; over++) {
            q = make_quantised(be, &formats[7 + over], 2, 65, 40, ORDINARY);
            q.m.quant.factor[1] = factors[i];
            sy_weight_source src = source_at(&q, 1, 0);
            sy_status st = be->ops->pack(be, &q.m, 1, 0, 65, &src);
            assert_int_equal(st, i == 3 && over == 0 ? SY_OK : SY_ERR_FORMAT);
            src = source_at(&q, 0, 0);
            assert_int_equal(be->ops->pack(be, &q.m, 0, 0, 65, &src), SY_OK);
            free_quantised(be, &q);
        }
    close_cpu(be);
}

static void formats_that_no_kernel_knows_are_refused(void **state) {
    (void)state;
    static const struct {
        sy_dtype dtype;
        sy_quant quant;
    } bad[] = {
        {SY_F8_E4M3, {.scale = SY_F32, .group = 48, .outputs = 1}},
        {SY_F8_E4M3, {.scale = SY_F32, .group = 256, .outputs = 1}},
        {SY_F8_E4M3, {.scale = SY_F32, .group = -16, .outputs = 1}},
        {SY_F8_E4M3, {.scale = SY_F32, .group = 128, .outputs = 64}},
        {SY_F8_E4M3, {.scale = SY_F32, .group = 128, .outputs = 1, .zeros = true}},
        {SY_F4, {.scale = SY_F64, .group = 32, .outputs = 1}},
        {SY_F4, {.scale = SY_F4, .group = 32, .outputs = 1}},
        {SY_F8_E5M2, {.scale = SY_F32, .group = 32, .outputs = 1}},
        {SY_I8, {.scale = SY_I8, .group = 32, .outputs = 1}},
        {SY_I8, {.scale = SY_BF16, .group = 32, .outputs = 1, .zeros = true}},
        {SY_U8, {.scale = SY_BF16, .group = 32, .outputs = 1}},
    };
    sy_backend *be = open_cpu(SY_BF16, 1, NULL);
    static const float data[64 * 32];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sy_matrix m = {
            .dtype = bad[i].dtype, .parts = 1, .n = 64, .k = 32, .quant = bad[i].quant};
        sy_weight_source src = {bad[i].dtype, data, data, NULL};
        assert_true(be->ops->matrix_bytes(be, &m) == UINT64_MAX);
        assert_int_equal(be->ops->pack(be, &m, 0, 0, 64, &src), SY_ERR_UNSUPPORTED);
    }
    sy_matrix m = {.dtype = SY_F4, .parts = 2, .n = (int64_t)1 << 40, .k = (int64_t)1 << 40};
    m.quant = formats[6].quant;
    assert_true(be->ops->matrix_bytes(be, &m) == UINT64_MAX);
    m.k = INT64_MAX;
    assert_true(be->ops->matrix_bytes(be, &m) == UINT64_MAX);
    /* Another type than the matrix is declared with, and scales that are missing. */
    random_state = 24;
    quantised q = make_quantised(be, &formats[13], 1, 64, 64, ORDINARY);
    sy_weight_source src = source_at(&q, 0, 0);
    src.dtype = SY_BF16;
    assert_int_equal(be->ops->pack(be, &q.m, 0, 0, 64, &src), SY_ERR_UNSUPPORTED);
    src = source_at(&q, 0, 0);
    src.zeros = NULL;
    assert_int_equal(be->ops->pack(be, &q.m, 0, 0, 64, &src), SY_ERR_INTERNAL);
    src = source_at(&q, 0, 0);
    src.scales = NULL;
    assert_int_equal(be->ops->pack(be, &q.m, 0, 0, 64, &src), SY_ERR_INTERNAL);
    free_quantised(be, &q);
    close_cpu(be);
}

static void quantised_types_are_stored_as_they_are(void **state) {
    (void)state;
    for (int act = 0; act < 2; act++) {
        sy_backend *be = open_cpu(act == 0 ? SY_BF16 : SY_F32, 1, NULL);
        assert_int_equal(be->ops->stored_dtype(be, SY_F8_E4M3), SY_F8_E4M3);
        assert_int_equal(be->ops->stored_dtype(be, SY_F4), SY_F4);
        assert_int_equal(be->ops->stored_dtype(be, SY_U4), SY_U4);
        assert_int_equal(be->ops->stored_dtype(be, SY_I8), SY_I8);
        close_cpu(be);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_have_the_values_of_their_formats),
        cmocka_unit_test(mxfp4_block_of_gpt_oss_decodes),
        cmocka_unit_test(integers_of_8_bits_decode),
        cmocka_unit_test(nvfp4_of_both_exporters_decodes),
        cmocka_unit_test(int4_words_of_compressed_tensors_decode),
        cmocka_unit_test(rows_read_back_are_code_times_scale_with_factor),
        cmocka_unit_test(memory_is_that_of_codes_and_scales),
        cmocka_unit_test(padding_of_a_file_does_not_reach_memory),
        cmocka_unit_test(scales_that_are_no_numbers_are_refused_with_their_place),
        cmocka_unit_test(zero_points_and_factors_out_of_range_are_refused),
        cmocka_unit_test(formats_that_no_kernel_knows_are_refused),
        cmocka_unit_test(quantised_types_are_stored_as_they_are),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
