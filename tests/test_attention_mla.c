/* Multi-head latent attention on the CPU, absorbed: against its naive form in float64, its sums
 * and roundings against their definition, and bit for bit over chunkings, batches, threads,
 * instruction sets and what pages held before.
 * timeout: 240 */
#include "tests/attention_reference.h"

enum { N_SHAPES = 6 };

static sy_layer_spec latent_spec(int heads, sy_mla_spec mla) {
    sy_layer_spec spec = {.norm_eps = 1e-5f,
                          .attn = {.kind = SY_ATTN_MLA,
                                   .heads = heads,
                                   .kv_heads = 1,
                                   .head_dim = mla.nope + mla.rope,
                                   .mla = mla,
                                   .rope.layout = SY_ROPE_INTERLEAVED,
                                   .rope.dim = mla.rope,
                                   .rope.theta = 10000,
                                   .rope.attention_factor = 1,
                                   .softmax_scale = 0.004f}};
    return spec;
}

/* Odd sizes, with and without a compressed query, a latent of an odd width and one that fills
 * panels, and what latent attention may be combined with. */
static sy_layer_spec shape(int i) {
    static const struct {
        int heads;
        sy_mla_spec mla;
    } shapes[N_SHAPES] = {
        {3, {20, 24, 10, 6, 14, 1e-6f}}, {3, {0, 24, 10, 6, 14, 1e-3f}},
        {5, {7, 65, 9, 7, 6, 0.1f}},     {16, {32, 128, 16, 8, 32, 1e-6f}},
        {1, {20, 64, 30, 2, 70, 1e-6f}}, {40, {16, 24, 10, 6, 14, 1e-6f}},
    };
    sy_layer_spec spec = latent_spec(shapes[i].heads, shapes[i].mla);
    sy_attn_spec *a = &spec.attn;
    if (i == 1) {
        a->softmax_scale = 0.001f; /* q is larger than where it has a norm */
        a->rope.layout = SY_ROPE_HALF;
        a->query_beta = 0.3f;
        a->query_positions = 100;
    }
    if (i == 2) a->rope.dim = 0;
    if (i == 4) {
        a->rope.factor = 40;
        a->rope.original_positions = 64;
        a->rope.beta_fast = 32;
        a->rope.beta_slow = 1;
        a->rope.truncate = true;
        a->window = 100;
        a->sinks = true;
        a->o_bias = true;
    }
    return spec;
}

static void absorbed_equals_the_naive_form_in_float64(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        sy_layer_spec spec = shape(i);
        sy_dtype weights = i % 2 == 0 ? SY_F32 : SY_BF16;
        expect_near_f64(&spec, &(schedule){SY_F32, weights, "auto", 2, 100, true, 0xff}, 1e-5);
        expect_near_f64(&spec, &(schedule){SY_BF16, weights, "auto", 2, 100, true, 0xff}, 0.05);
    }
}

static void nothing_but_the_tokens_decides_the_bits(void **state) {
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        sy_layer_spec spec = shape(i);
        expect_same_in_every_cut(&spec, SY_BF16);
        expect_same_in_every_cut(&spec, SY_F32);
    }
}

/* 130 heads are more than a tile has rows otherwise. */
static void more_heads_than_rows_of_a_tile_are_one_token(void **state) {
    (void)state;
    sy_layer_spec spec = latent_spec(130, (sy_mla_spec){8, 24, 6, 2, 4, 1e-6f});
    expect_near_f64(&spec, &(schedule){SY_F32, SY_BF16, "auto", 2, 300, true, 0}, 1e-5);
    float *expected =
        run_schedule(&spec, &(schedule){SY_BF16, SY_BF16, "auto", 1, CONTEXT, false, 0});
    expect_same(&spec, expected, &(schedule){SY_BF16, SY_BF16, "auto", 3, 5, true, 0});
    free(expected);
}

/* The parts of a step, by the kernels of plain C for rows and by chains written out here for
 * products: where act rounds, and in which order sums run. */
typedef struct definition {
    sy_backend *be;
    const layer *l;
    const sy_vector_kernels *vec;
} definition;

static void to_act(const definition *d, int64_t n, const float *x, void *out, int64_t at) {
    for (int64_t i = 0; i < n; i++)
        store(d->be, out, at + i, x[i]);
}

static void product(const definition *d, const test_matrix *m, const void *x, float *y) {
    for (int64_t r = 0; r < m->m.n; r++)
        y[r] = plain_chain(d->be, m, 0, r, x, 0, 0, m->m.k);
}

static void rotate(const definition *d, int64_t position, float *x) {
    const sy_rope_table *t = d->l->rope;
    d->vec->rope_interleaved(t->half, t->cos + position * t->half, t->sin + position * t->half,
                             x);
}

enum { MOST = 1000 };

/* The row of q [A, c + rope] and the latent of one token, both of act. */
static void
define_row(const definition *d, const float *x, int64_t position, void *q_out, void *latent) {
    const sy_attn_spec *a = &d->l->spec.attn;
    const sy_layer_weights *w = &d->l->w;
    const sy_mla_spec *m = &a->mla;
    float y[MOST], xn[MOST], up[MOST];
    uint32_t act[MOST]; /* room for either type */
    memcpy(xn, x, sizeof *x * HIDDEN);
    d->vec->rms_norm_f32(HIDDEN, xn, w->attn_norm, d->l->spec.norm_eps);
    to_act(d, HIDDEN, xn, act, 0);
    product(d, &d->l->kv_a, act, y);
    d->vec->rms_norm_f32(m->kv_rank, y, w->kv_a_norm, m->norm_eps);
    rotate(d, position, y + m->kv_rank);
    to_act(d, m->kv_rank + m->rope, y, latent, 0);
    product(d, &d->l->q_a, act, y);
    d->vec->rms_norm_f32(m->q_rank, y, w->q_a_norm, m->norm_eps);
    to_act(d, m->q_rank, y, act, 0);
    product(d, &d->l->q, act, y);
    float temperature = (float)temperature_f64(a, position);
    for (int h = 0; h < a->heads; h++) {
        float *q = y + h * (m->nope + m->rope);
        int64_t at = h * (m->kv_rank + m->rope);
        rotate(d, position, q + m->nope);
        for (int i = 0; i < m->nope + m->rope; i++)
            q[i] *= temperature;
        to_act(d, m->nope, q, act, 0);
        product(d, &d->l->k_up[h], act, up);
        to_act(d, m->kv_rank, up, q_out, at);
        to_act(d, m->rope, q + m->nope, q_out, at + m->kv_rank);
    }
}

static void check_attn_in(sy_dtype act, const char *isa) {
    enum { ROWS = 5, POSITION = 62 };
    sy_layer_spec spec = shape(0);
    const sy_attn_spec *a = &spec.attn;
    spec.attn.query_beta = 0.25f;
    spec.attn.query_positions = 64;
    sy_backend *be = open_reserved(act, 2, isa, a, HIDDEN, ROWS, CONTEXT);
    if (be == NULL) return;
    layer l = make_layer(be, &spec, SY_BF16, HIDDEN, CONTEXT);
    definition d = {be, &l, &sy_isa_generic.vec};
    int64_t elem = sy_act_bytes(be), width = sy_attn_q_width(a);
    sy_kv_layer kv = {.page_bytes = (int64_t)be->ops->kv_page_bytes(be, a)};
    assert_int_equal(kv.page_bytes, 64 * 30 * elem);
    assert_int_equal(sy_mem_alloc(&kv.data, 2 * (uint64_t)kv.page_bytes, "pages"), SY_OK);
    int32_t ids[2] = {1, 0};
    float x[ROWS * HIDDEN];
    for (int i = 0; i < ROWS * HIDDEN; i++)
        x[i] = random_float(ORDINARY);
    char *q = malloc((size_t)(ROWS * width * elem)), expected[MOST], latent[MOST];
    sy_span span = {0, ROWS, POSITION, ids};
    sy_batch b = {.n_rows = ROWS, .n_spans = 1, .span = &span};
    assert_int_equal(be->ops->attn_in(be, &spec, &l.w, l.rope, &b, x, q, &kv, NULL), SY_OK);
    for (int t = 0; t < ROWS; t++) {
        define_row(&d, x + t * HIDDEN, POSITION + t, expected, latent);
        assert_memory_equal(q + t * width * elem, expected, (size_t)(width * elem));
        char *page = (char *)kv.data + ids[(POSITION + t) / 64] * kv.page_bytes;
        for (int i = 0; i < 30; i++)
            assert_true(act_value(be, page, key_index(be, i, (POSITION + t) % 64)) ==
                        act_value(be, latent, i));
    }
    free(q);
    sy_mem_free(kv.data, 2 * (uint64_t)kv.page_bytes);
    free_layer(be, &l);
    close_cpu(be);
}

static void attn_in_rounds_where_it_is_said(void **state) {
    (void)state;
    for (int i = 0; i < N_ISA; i++) {
        check_attn_in(SY_BF16, isa_names[i]);
        check_attn_in(SY_F32, isa_names[i]);
    }
}

/* 40 heads of 14 values: leaves of 19 heads, 266 values. */
static void attn_out_rounds_heads_and_sums_leaves_of_whole_heads(void **state) {
    (void)state;
    enum { ROWS = 70, HEADS = 40, VALUE = 14, LEAF = 266 };
    sy_layer_spec spec = shape(5);
    const sy_attn_spec *a = &spec.attn;
    for (int act = 0; act < 2; act++) {
        sy_backend *be =
            open_reserved(act == 0 ? SY_BF16 : SY_F32, 2, NULL, a, HIDDEN, ROWS, CONTEXT);
        layer l = make_layer(be, &spec, SY_BF16, HIDDEN, CONTEXT);
        int64_t elem = sy_act_bytes(be), k = HEADS * VALUE, c = a->mla.kv_rank;
        char *o = make_rows(be, ROWS, HEADS * c, ORDINARY);
        float *x = malloc(sizeof(float) * ROWS * HIDDEN);
        float *expected = malloc(sizeof(float) * ROWS * HIDDEN);
        char *heads = malloc((size_t)(k * elem));
        for (int t = 0; t < ROWS; t++) {
            for (int i = 0; i < k; i++)
                store(be, heads, i,
                      plain_chain(be, &l.v_up[i / VALUE], 0, i % VALUE, o,
                                  t * HEADS + i / VALUE, 0, c));
            for (int i = t * HIDDEN; i < (t + 1) * HIDDEN; i++) {
                x[i] = random_float(ORDINARY);
                expected[i] = x[i] + plain_dot(be, &l.o, 0, i % HIDDEN, heads, 0, LEAF, 0, 3);
            }
        }
        assert_int_equal(be->ops->attn_out(be, &spec, &l.w, ROWS, o, x, NULL), SY_OK);
        assert_same_bits(x, expected, ROWS * HIDDEN, "attn_out");
        free(o), free(x), free(expected), free(heads);
        free_layer(be, &l);
        close_cpu(be);
    }
}

/* Panels of values from keys, in blocks of the kernels and beside them. */
static void check_value_kernels(const sy_vector_kernels *vec, int n, const char *isa) {
    static _Alignas(64) uint16_t keys16[2 * 64 * 64], values16[3 * 64 * 64];
    static _Alignas(64) float keys[64 * 128], values[3 * 64 * 64];
    memset(values16, 0x55, sizeof values16), memset(values, 0x55, sizeof values);
    for (int i = 0; i < 2 * 64 * 64; i++)
        keys16[i] = (uint16_t)random64(), keys[i] = random_float(WIDE);
    vec->values_of_keys_bf16((n + 1) / 2, keys16, values16);
    vec->values_of_keys_f32(n, keys, values);
    for (int i = 0; i < 3 * 64; i++)
        for (int t = 0; t < 64; t++) {
            int at16 = i / 64 * 4096 + (t / 2 * 64 + i % 64) * 2 + t % 2;
            int at = i / 64 * 4096 + t * 64 + i % 64;
            bool there16 = i < (n + 1) / 2 * 2, there = i < n;
            uint16_t code = there16 ? keys16[(i / 2 * 64 + t) * 2 + i % 2] : 0x5555;
            uint32_t bits = there ? sy_bits_from_f32(keys[i * 64 + t]) : 0x55555555;
            if (values16[at16] != code || sy_bits_from_f32(values[at]) != bits)
                fail_msg("%s, %d values: column %d of token %d", isa, n, i, t);
        }
}

static void every_table_makes_the_panels_of_values(void **state) {
    (void)state;
    for (int i = 0; i < N_ISA; i++) {
        const sy_cpu_isa *isa = sy_cpu_isa_find(isa_names[i]);
        for (int n = 0; isa != NULL && n <= 128; n++)
            check_value_kernels(&isa->vec, n, isa_names[i]);
    }
}

static void a_token_of_deepseek_v3_has_576_values(void **state) {
    (void)state;
    sy_layer_spec spec = latent_spec(128, (sy_mla_spec){1536, 512, 128, 64, 128, 1e-6f});
    sy_backend *bf16 = open_cpu(SY_BF16, 1, NULL), *f32 = open_cpu(SY_F32, 1, NULL);
    assert_int_equal(bf16->ops->kv_page_bytes(bf16, &spec.attn), 64 * 576 * 2);
    assert_int_equal(f32->ops->kv_page_bytes(f32, &spec.attn), 64 * 576 * 4);
    close_cpu(bf16), close_cpu(f32);
}

static void what_no_model_has_is_refused(void **state) {
    (void)state;
    sy_backend *be = open_cpu(SY_F32, 1, NULL);
    sy_layer_spec spec = shape(0);
    assert_int_equal(be->ops->check(be, &spec), SY_OK);
    sy_layer_spec bias = spec, norm = spec, clip = spec, odd = spec, rotary = spec;
    bias.attn.qkv_bias = true;
    norm.attn.qk_norm = SY_QK_NORM_PER_HEAD;
    clip.attn.qk_clip = 1;
    odd.attn.mla.value = 15;
    rotary.attn.rope.dim = 4;
    const sy_layer_spec *refused[] = {&bias, &norm, &clip, &odd, &rotary};
    for (int i = 0; i < 5; i++) {
        assert_int_equal(be->ops->check(be, refused[i]), SY_ERR_UNSUPPORTED);
        assert_true(sy_last_error()[0] != '\0');
    }
    close_cpu(be);
}

/* Limits that do not speak of latent attention leave no room for it. */
static void sizes_beyond_the_limits_are_errors(void **state) {
    (void)state;
    sy_layer_spec spec = shape(0), wide = shape(0);
    wide.attn.mla.kv_rank = wide.attn.mla.value = 4000;
    sy_backend *be = open_reserved(SY_BF16, 1, NULL, &spec.attn, HIDDEN, 64, CONTEXT);
    layer l = make_layer(be, &wide, SY_BF16, HIDDEN, CONTEXT);
    sy_span span = {.n_rows = 1};
    sy_batch b = {.n_rows = 1, .n_spans = 1, .span = &span};
    assert_int_equal(be->ops->attn_in(be, &wide, &l.w, l.rope, &b, NULL, NULL, NULL, NULL),
                     SY_ERR_INTERNAL);
    assert_int_equal(be->ops->attend(be, &wide, &b, NULL, NULL, NULL, NULL, NULL),
                     SY_ERR_INTERNAL);
    assert_int_equal(be->ops->attn_out(be, &wide, &l.w, 1, NULL, NULL, NULL), SY_ERR_INTERNAL);
    free_layer(be, &l);
    close_cpu(be);
}

static void impossible_sizes_and_too_many_rows_are_errors(void **state) {
    (void)state;
    sy_layer_spec spec = shape(0);
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
    sy_layer_spec wide = latent_spec(100, (sy_mla_spec){20, 5000, 10, 6, 14, 1e-6f});
    assert_int_equal(be->ops->attend(be, &wide, &b, NULL, NULL, NULL, NULL, NULL),
                     SY_ERR_INTERNAL);
    const int sizes[] = {-1, (1 << 24) + 1, INT32_MAX};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 5; j++) {
            sy_limits limits = limits_of(&spec.attn, HIDDEN, 4, CONTEXT);
            int *member[] = {&limits.mla.q_rank, &limits.mla.kv_rank, &limits.mla.nope,
                             &limits.mla.rope, &limits.mla.value};
            *member[j] = sizes[i];
            assert_int_equal(be->ops->reserve(be, &limits), SY_ERR_MEMORY);
        }
    free_layer(be, &l);
    close_cpu(be);
}

static void version_1_keeps_its_bits(void **state) {
    (void)state;
    assert_int_equal(SY_NUMERICS_VERSION, 1);
    sy_layer_spec plain = shape(3), windowed = shape(4);
    expect_bits(&plain, SY_BF16, 0xd61c691b2a9e0e02);
    expect_bits(&plain, SY_F32, 0x5d3914f013ec63b3);
    expect_bits(&windowed, SY_BF16, 0xa016c6eac90ed85d);
    expect_bits(&windowed, SY_F32, 0xbcde67e657fb7cd2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absorbed_equals_the_naive_form_in_float64),
        cmocka_unit_test(nothing_but_the_tokens_decides_the_bits),
        cmocka_unit_test(more_heads_than_rows_of_a_tile_are_one_token),
        cmocka_unit_test(attn_in_rounds_where_it_is_said),
        cmocka_unit_test(attn_out_rounds_heads_and_sums_leaves_of_whole_heads),
        cmocka_unit_test(version_1_keeps_its_bits),
        cmocka_unit_test(every_table_makes_the_panels_of_values),
        cmocka_unit_test(a_token_of_deepseek_v3_has_576_values),
        cmocka_unit_test(what_no_model_has_is_refused),
        cmocka_unit_test(sizes_beyond_the_limits_are_errors),
        cmocka_unit_test(impossible_sizes_and_too_many_rows_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
