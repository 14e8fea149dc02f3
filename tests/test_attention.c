/* The core of attention on the CPU against float64, on pages written by hand.
 * timeout: 120 */
#include "tests/attention_fixture.h"

static float uniform_f32(float range) {
    return ((float)(random64() >> 40) * 0x1p-23f - 1.0f) * range;
}

/* One row of plain attention in float64 over keys [begin, end), with a sink if it is not -inf,
 * and the bound of what float32 and bf16 may lose:
 *   scores   a chain over D: relative error D 2^-24 of sum |q k|, which moves p by that factor,
 *            in numerator and denominator;
 *   exp      1.1 ulp, again twice; o and l: chains over the keys and two roundings a page;
 *   act bf16 rounding P costs 2^-8 of sum p |v| / l, the result 2^-8 of itself. */
static void check_row(const sy_backend *be,
                      const sy_attn_spec *attn,
                      const float *q,
                      const float *k,
                      const float *v,
                      int begin,
                      int end,
                      float sink,
                      const void *o,
                      int64_t at) {
    int d = attn->head_dim, n_keys = end - begin;
    double *p = malloc((size_t)end * sizeof *p), max = (double)sink, sum = 0, delta = 0;
    for (int t = begin; t < end; t++) {
        double dot = 0, magnitude = 0;
        for (int i = 0; i < d; i++) {
            dot += (double)q[i] * (double)k[t * d + i];
            magnitude += fabs((double)q[i] * (double)k[t * d + i]);
        }
        p[t] = dot * (double)attn->softmax_scale;
        max = fmax(max, p[t]);
        delta = fmax(delta, (d + 3) * 0x1p-24 * magnitude * (double)attn->softmax_scale);
    }
    sum = exp((double)sink - max);
    for (int t = begin; t < end; t++)
        sum += p[t] = exp(p[t] - max);
    for (int i = 0; i < d; i++) {
        double exact = 0, average = 0;
        for (int t = begin; t < end; t++) {
            exact += p[t] * (double)v[t * d + i] / sum;
            average += p[t] * fabs((double)v[t * d + i]) / sum;
        }
        double bound = average * (2 * delta + (n_keys + 100) * 0x1p-23);
        if (be->act == SY_BF16) bound += (average + fabs(exact)) * 0x1.02p-8;
        double found = (double)act_value(be, o, at + i);
        if (!(fabs(found - exact) <= bound))
            fail_msg("%s, D %d, keys %d to %d, element %d: %.9g, expected %.9g within %.3g",
                     sy_dtype_name(be->act), d, begin, end, i, found, exact, bound);
    }
    free(p);
}

/* One span of n_rows queries that ends at position `length`, on pages written by hand. */
static void check_attend(sy_dtype act,
                         int group,
                         int d,
                         int length,
                         int n_rows,
                         int window,
                         bool with_sinks) {
    sy_layer_spec spec = {.attn = {.heads = 2 * group,
                                   .kv_heads = 2,
                                   .head_dim = d,
                                   .window = window,
                                   .sinks = with_sinks,
                                   .softmax_scale = 1.0f / sqrtf((float)d)}};
    float sinks[200];
    for (int a = 0; a < 2 * group; a++)
        sinks[a] = with_sinks ? uniform_f32(8) : -INFINITY;
    sy_backend *be = open_reserved(act, 2, NULL, &spec.attn, 64, n_rows, length);
    int64_t elem = sy_act_bytes(be), head = padded_head(d);
    int n_pages = (length + 63) / 64, width = 2 * group * d;
    sy_kv_layer kv = {.page_bytes = (int64_t)be->ops->kv_page_bytes(be, &spec.attn)};
    assert_int_equal(kv.page_bytes, 2 * head * elem);
    uint64_t kv_bytes = (uint64_t)(n_pages * kv.page_bytes);
    assert_int_equal(sy_mem_alloc(&kv.data, kv_bytes, "pages"), SY_OK);
    int32_t *id = make_page_ids(n_pages, 0);
    float *k = malloc(sizeof(float) * 2 * (size_t)(length * d));
    float *v = malloc(sizeof(float) * 2 * (size_t)(length * d));
    for (int h = 0; h < 2; h++)
        for (int t = 0; t < length; t++) {
            char *keys = (char *)kv.data + id[t / 64] * kv.page_bytes + h * head * elem;
            for (int i = 0; i < d; i++) {
                float *ki = &k[(h * length + t) * d + i], *vi = &v[(h * length + t) * d + i];
                store(be, keys, key_index(be, i, t % 64), *ki = uniform(be, 2));
                store(be, keys + 64 * d * elem, value_index(be, i, t % 64),
                      *vi = uniform(be, 2));
            }
        }
    float *q = malloc(sizeof(float) * (size_t)(n_rows * width));
    char *q_act = malloc((size_t)(n_rows * width * elem)),
         *o = malloc((size_t)(n_rows * width * elem));
    for (int i = 0; i < n_rows * width; i++)
        store(be, q_act, i, q[i] = uniform(be, 2));
    sy_span span = {.n_rows = n_rows, .position = length - n_rows, .pages = id};
    sy_batch b = {.n_rows = n_rows, .n_spans = 1, .span = &span};
    assert_int_equal(
        be->ops->attend(be, &spec, &b, q_act, &kv, with_sinks ? sinks : NULL, o, NULL), SY_OK);
    for (int t = 0; t < n_rows; t++)
        for (int a = 0; a < 2 * group; a++) {
            int64_t at = t * width + a * d, from = (int64_t)(a / group) * length * d;
            int end = length - n_rows + t + 1;
            int begin = window > 0 ? (int)sy_max(0, end - window) : 0;
            check_row(be, &spec.attn, q + at, k + from, v + from, begin, end, sinks[a], o, at);
        }
    free(k), free(v), free(q), free(q_act), free(o), free(id), sy_mem_free(kv.data, kv_bytes);
    close_cpu(be);
}

static void attend_matches_float64(void **state) {
    (void)state;
    static const int groups[] = {1, 2, 4, 7}, dims[] = {16, 24, 64, 96, 128};
    static const int lengths[] = {1, 63, 64, 65, 511, 512, 513, 700};
    random_state = 1;
    for (int act = 0; act < 2; act++)
        for (int g = 0; g < 4; g++)
            for (int d = 0; d < 5; d++)
                for (int l = 0; l < 8; l++) {
                    sy_dtype t = act == 0 ? SY_BF16 : SY_F32;
                    check_attend(t, groups[g], dims[d], lengths[l], 1, 0, false);
                    if ((g + d + l) % 3 == 0)
                        check_attend(t, groups[g], dims[d], lengths[l], (lengths[l] + 8) / 9, 0,
                                     false);
                }
    check_attend(SY_BF16, 80, 16, 130, 5, 0, false); /* more heads than rows of a tile */
    check_attend(SY_F32, 3, 200, 600, 20, 0, false);
}

/* Windows of one token, inside a page, of whole pages, across leaves, and beyond the context. */
static void windows_and_sinks_match_float64(void **state) {
    (void)state;
    static const int windows[] = {1, 5, 63, 64, 65, 128, 200, 512, 600, 5000};
    static const int lengths[] = {1, 64, 130, 513, 1100};
    random_state = 2;
    for (int act = 0; act < 2; act++)
        for (int w = 0; w < 10; w++)
            for (int l = 0; l < 5; l++) {
                sy_dtype t = act == 0 ? SY_BF16 : SY_F32;
                check_attend(t, 3, 24, lengths[l], 1, windows[w], w % 2 == 0);
                check_attend(t, 2, 64, lengths[l], (lengths[l] + 3) / 4, windows[w], true);
                if (w == 0) check_attend(t, 4, 16, lengths[l], (lengths[l] + 1) / 2, 0, true);
            }
}

/* The smallest normal number, negative, times a weight below 1 is flushed to -0. After it, P = 0
 * times the values of later tokens leaves -0 only if all of those are negative. */
static void values_behind_a_row_do_not_change_the_sign_of_a_zero(void **state) {
    (void)state;
    sy_layer_spec spec = {
        .attn = {.heads = 1, .kv_heads = 1, .head_dim = 2, .softmax_scale = 1}};
    for (int act = 0; act < 2; act++) {
        sy_backend *be =
            open_reserved(act == 0 ? SY_BF16 : SY_F32, 1, NULL, &spec.attn, 2, 1, 64);
        sy_kv_layer kv = {.page_bytes = (int64_t)be->ops->kv_page_bytes(be, &spec.attn)};
        assert_int_equal(sy_mem_alloc(&kv.data, (uint64_t)kv.page_bytes, "page"), SY_OK);
        char *values = (char *)kv.data + 64 * 2 * sy_act_bytes(be);
        float q_f32[2] = {1, 0};
        uint16_t q_bf16[2] = {sy_bf16_from_f32(1), 0};
        const void *q = act == 0 ? (const void *)q_bf16 : q_f32;
        store(be, kv.data, key_index(be, 0, 1), -1);
        uint32_t o[2][2] = {{1, 1}, {2, 2}};
        int32_t id = 0;
        sy_span span = {0, 1, 1, &id};
        sy_batch b = {.n_rows = 1, .n_spans = 1, .span = &span};
        for (int sign = 0; sign < 2; sign++) {
            for (int i = 0; i < 2; i++)
                for (int slot = 0; slot < 64; slot++)
                    store(be, values, value_index(be, i, slot),
                          slot == 0   ? -0.0f
                          : slot == 1 ? -0x1p-126f
                          : sign == 0 ? 1.0f
                                      : -1.0f);
            assert_int_equal(be->ops->attend(be, &spec, &b, q, &kv, NULL, o[sign], NULL),
                             SY_OK);
        }
        assert_memory_equal(o[0], o[1], 2 * (size_t)sy_act_bytes(be));
        sy_mem_free(kv.data, (uint64_t)kv.page_bytes);
        close_cpu(be);
    }
}

/* A sink far above all scores takes all the weight, one of -inf none. */
static void sinks_of_any_size_are_joined(void **state) {
    (void)state;
    sy_layer_spec spec = {
        .attn = {.heads = 3, .kv_heads = 1, .head_dim = 2, .softmax_scale = 1, .sinks = true}};
    sy_backend *be = open_reserved(SY_F32, 1, NULL, &spec.attn, 2, 1, 64);
    sy_kv_layer kv = {.page_bytes = (int64_t)be->ops->kv_page_bytes(be, &spec.attn)};
    assert_int_equal(sy_mem_alloc(&kv.data, (uint64_t)kv.page_bytes, "page"), SY_OK);
    char *values = (char *)kv.data + 64 * 2 * 4;
    store(be, kv.data, key_index(be, 0, 0), 1);
    store(be, values, value_index(be, 0, 0), 8);
    float q[6] = {3, 0, 3, 0, 3, 0}, o[6], sinks[3] = {1e30f, -INFINITY, 3};
    int32_t id = 0;
    sy_span span = {0, 1, 0, &id};
    sy_batch b = {.n_rows = 1, .n_spans = 1, .span = &span};
    assert_int_equal(be->ops->attend(be, &spec, &b, q, &kv, sinks, o, NULL), SY_OK);
    assert_true(fabsf(o[0]) < 1e-30f);
    assert_true(o[2] == 8.0f);
    assert_true(o[4] == 4.0f); /* the sink is as large as the only score */
    sy_mem_free(kv.data, (uint64_t)kv.page_bytes);
    close_cpu(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attend_matches_float64),
        cmocka_unit_test(windows_and_sinks_match_float64),
        cmocka_unit_test(sinks_of_any_size_are_joined),
        cmocka_unit_test(values_behind_a_row_do_not_change_the_sign_of_a_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
