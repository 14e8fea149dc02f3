/* What lies around attention's core on the CPU: attn_in against float64, the order of sums of
 * attn_out, and what both refuse. */
#include "tests/attention_reference.h"

/* Sums of 80 products of size up to 64: float32 and, in bf16, xn values that may round the other
 * way (2^-8 of a term) and the one rounding of the result. */
static void expect_near(const sy_backend *be,
                        float found,
                        double exact,
                        double scale,
                        const char *what,
                        int i) {
    double bound = be->act == SY_F32 ? scale * 1e-5 : scale * 1e-3 + fabs(exact) * 0x1.02p-8;
    if (!(fabs((double)found - exact) <= bound))
        fail_msg("%s %d: %.9g, expected %.9g within %.3g", what, i, (double)found, exact,
                 bound);
}

static void check_attn_in(sy_dtype act, const sy_attn_spec *attn) {
    enum { ROWS = 5, POSITION = 62 };
    sy_layer_spec spec = {.norm_eps = 1e-5f, .attn = *attn};
    sy_qk_norm norm = attn->qk_norm;
    float clip = attn->qk_clip;
    sy_backend *be = open_reserved(act, 2, NULL, &spec.attn, HIDDEN, ROWS, CONTEXT);
    layer l = make_layer(be, &spec, SY_BF16, HIDDEN, CONTEXT);
    int n_q = 6 * 24, n_kv = 2 * 24;
    sy_kv_layer kv = {.page_bytes = (int64_t)be->ops->kv_page_bytes(be, &spec.attn)};
    uint64_t kv_bytes = 2 * (uint64_t)kv.page_bytes;
    assert_int_equal(sy_mem_alloc(&kv.data, kv_bytes, "pages"), SY_OK);
    int32_t ids[2] = {1, 0};
    float x[ROWS * HIDDEN];
    for (int i = 0; i < ROWS * HIDDEN; i++)
        x[i] = random_float(ORDINARY);
    char q[ROWS * 6 * 24 * 4];
    sy_span span = {0, ROWS, POSITION, ids};
    sy_batch b = {.n_rows = ROWS, .n_spans = 1, .span = &span};
    assert_int_equal(be->ops->attn_in(be, &spec, &l.w, l.rope, &b, x, q, &kv, NULL), SY_OK);
    for (int t = 0; t < ROWS; t++) {
        double qr[6 * 24], kr[2 * 24], vr[2 * 24], scale = 0;
        double xn[HIDDEN];
        norm_row_f64(be, &l, x + t * HIDDEN, xn);
        multiply_f64(&l.q, xn, l.w.q_bias, qr);
        multiply_f64(&l.k, xn, l.w.k_bias, kr);
        multiply_f64(&l.v, xn, l.w.v_bias, vr);
        for (int i = 0; i < n_kv; i++)
            scale = fmax(scale, fabs(vr[i]));
        finish_f64(&l, qr, 6, l.w.q_norm, POSITION + t);
        finish_f64(&l, kr, 2, l.w.k_norm, POSITION + t);
        for (int i = 0; i < n_q; i++)
            qr[i] *= temperature_f64(attn, POSITION + t);
        double qk_scale = norm == SY_QK_NORM_NONE ? scale : 4;
        for (int i = 0; i < n_q; i++)
            expect_near(be, act_value(be, q, t * n_q + i), qr[i], qk_scale, "q", i);
        char *page = (char *)kv.data + ids[(POSITION + t) / 64] * kv.page_bytes;
        int slot = (POSITION + t) % 64;
        for (int i = 0; i < n_kv; i++) {
            int64_t head = i / 24 * padded_head(24);
            double v = clip > 0 ? fmax(-(double)clip, fmin((double)clip, vr[i])) : vr[i];
            expect_near(be, act_value(be, page, head + key_index(be, i % 24, slot)), kr[i],
                        qk_scale, "k", i);
            expect_near(be, act_value(be, page, head + 64 * 24 + value_index(be, i % 24, slot)),
                        v, scale, "v", i);
        }
    }
    sy_mem_free(kv.data, kv_bytes);
    free_layer(be, &l);
    close_cpu(be);
}

static void attn_in_matches_float64(void **state) {
    (void)state;
    for (int act = 0; act < 2; act++)
        for (int norm = SY_QK_NORM_NONE; norm <= SY_QK_NORM_WHOLE; norm++)
            for (int i = 0; i < 6; i++) {
                sy_attn_spec a = small_spec().attn;
                a.qk_norm = (sy_qk_norm)norm;
                a.qk_clip = i == 1 || i == 5 ? 1.25f : 0;
                a.rope.dim = i == 0 ? 24 : i == 2 ? 0 : 16;
                a.rope.layout = i % 2 == 0 ? SY_ROPE_HALF : SY_ROPE_INTERLEAVED;
                a.qkv_bias = i >= 3;
                if (i >= 4) a.query_beta = 0.5f, a.query_positions = 64;
                check_attn_in(act == 0 ? SY_BF16 : SY_F32, &a);
            }
}

/* The leaf is whole kv-head groups of at least 256 values: 72 -> 288, 300 -> 300, 256 -> 256. */
static void attn_out_sums_leaves_of_whole_groups(void **state) {
    (void)state;
    static const struct {
        int heads, kv_heads, head_dim, leaf;
    } cases[] = {{24, 8, 24, 288}, {20, 4, 60, 300}, {16, 8, 128, 256}, {4, 4, 16, 256}};
    for (int i = 0; i < 4; i++) {
        sy_layer_spec spec = {.attn = {.heads = cases[i].heads,
                                       .kv_heads = cases[i].kv_heads,
                                       .head_dim = cases[i].head_dim}};
        enum { ROWS = 3 };
        sy_backend *be = open_reserved(SY_F32, 2, NULL, &spec.attn, 100, ROWS, 64);
        int64_t k = (int64_t)cases[i].heads * cases[i].head_dim, leaf = cases[i].leaf;
        test_matrix o = make_matrix(be, SY_BF16, 1, 100, k, ORDINARY);
        sy_layer_weights w = {.o = o.m};
        float *in = make_rows(be, ROWS, k, ORDINARY), x[ROWS * 100], expected[ROWS * 100];
        for (int j = 0; j < ROWS * 100; j++) {
            x[j] = random_float(ORDINARY);
            expected[j] = x[j] + plain_dot(be, &o, 0, j % 100, in, j / 100, leaf, 0,
                                           sy_ceil_div(k, leaf));
        }
        assert_int_equal(be->ops->attn_out(be, &spec, &w, ROWS, in, x, NULL), SY_OK);
        assert_same_bits(x, expected, ROWS * 100, "attn_out");
        free(in);
        free_matrix(be, &o);
        close_cpu(be);
    }
}

/* x += sum + bias, in this order. */
static void attn_out_adds_the_bias_before_the_residual(void **state) {
    (void)state;
    enum { ROWS = 3, N = 100 };
    sy_layer_spec spec = {.attn = {.heads = 4, .kv_heads = 4, .head_dim = 16, .o_bias = true}};
    for (int i = 0; i < N_ISA; i++) {
        sy_backend *be = open_reserved(SY_F32, 2, isa_names[i], &spec.attn, N, ROWS, 64);
        if (be == NULL) continue;
        test_matrix o = make_matrix(be, SY_BF16, 1, N, 64, ORDINARY);
        float bias[N], x[ROWS * N], expected[ROWS * N];
        float *in = make_rows(be, ROWS, 64, ORDINARY);
        for (int j = 0; j < N; j++)
            bias[j] = random_float(ORDINARY);
        for (int j = 0; j < ROWS * N; j++) {
            x[j] = random_float(ORDINARY);
            expected[j] =
                x[j] + (plain_dot(be, &o, 0, j % N, in, j / N, 256, 0, 1) + bias[j % N]);
        }
        sy_layer_weights w = {.o = o.m, .o_bias = bias};
        assert_int_equal(be->ops->attn_out(be, &spec, &w, ROWS, in, x, NULL), SY_OK);
        assert_same_bits(x, expected, ROWS * N, isa_names[i]);
        free(in);
        free_matrix(be, &o);
        close_cpu(be);
    }
}

static void an_empty_step_and_too_many_rows_are_harmless(void **state) {
    (void)state;
    sy_layer_spec spec = small_spec();
    sy_backend *be = open_reserved(SY_BF16, 2, NULL, &spec.attn, HIDDEN, 4, CONTEXT);
    layer l = make_layer(be, &spec, SY_BF16, HIDDEN, CONTEXT);
    sy_batch b = {0};
    assert_int_equal(be->ops->attn_in(be, &spec, &l.w, l.rope, &b, NULL, NULL, NULL, NULL),
                     SY_OK);
    assert_int_equal(be->ops->attend(be, &spec, &b, NULL, NULL, NULL, NULL, NULL), SY_OK);
    assert_int_equal(be->ops->attn_out(be, &spec, &l.w, 0, NULL, NULL, NULL), SY_OK);
    sy_span span = {.n_rows = 600};
    b = (sy_batch){.n_rows = 600, .n_spans = 1, .span = &span};
    assert_int_equal(be->ops->attn_in(be, &spec, &l.w, l.rope, &b, NULL, NULL, NULL, NULL),
                     SY_ERR_INTERNAL);
    assert_int_equal(be->ops->attn_out(be, &spec, &l.w, 600, NULL, NULL, NULL),
                     SY_ERR_INTERNAL);
    span = (sy_span){.n_rows = 1, .position = CONTEXT};
    b = (sy_batch){.n_rows = 1, .n_spans = 1, .span = &span};
    assert_int_equal(be->ops->attn_in(be, &spec, &l.w, l.rope, &b, NULL, NULL, NULL, NULL),
                     SY_ERR_INTERNAL);
    sy_attn_spec huge = {.kv_heads = 2147483647, .head_dim = 2147483646};
    assert_true(be->ops->kv_page_bytes(be, &huge) == UINT64_MAX);
    free_layer(be, &l);
    close_cpu(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attn_in_matches_float64),
        cmocka_unit_test(attn_out_sums_leaves_of_whole_groups),
        cmocka_unit_test(attn_out_adds_the_bias_before_the_residual),
        cmocka_unit_test(an_empty_step_and_too_many_rows_are_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
