/* Quantised weights from the tensors of a checkpoint to a matrix: every published layout is found
 * by its tensors and reaches the backend's pack as it should; what is missing, misshapen or no
 * number is refused with file, tensor, expected and found. What pack and the kernels make of it is
 * tested in test_formats.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/int4.h"
#include "tests/weight_fixture.h"

/* The matrix that is exchanged: of the dense layer, 24 outputs of 88 inputs; and lm_head, whose 151
 * outputs cross a block of 128. */
#define DOWN "model.layers.1.mlp.down_proj"
#define HEAD "lm_head"
enum { DOWN_N = 24, DOWN_K = 88, HEAD_N = 151, HEAD_K = 24 };

typedef struct part {
    const char *suffix;
    sy_dtype dtype;
    int rank;
    int64_t shape[2];
} part;

typedef struct format {
    const char *name, *module;
    int64_t n, k;
    const char *config; /* quantization_config */
    part part[5];
    sy_dtype codes;
    sy_quant quant;
} format;

#define FP8 "{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"weight_block_size\":[128,128]}"
#define CT(format, weights)                                                                    \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"" format                            \
    "\",\"config_groups\":{\"group_0\":{\"targets\":[\"Linear\"],\"weights\":{" weights "}}}}"
#define INT8_CHANNEL                                                                           \
    "\"num_bits\":8,\"type\":\"int\",\"strategy\":\"channel\",\"symmetric\":true"
#define MODELOPT(algo)                                                                         \
    "{\"quant_method\":\"modelopt\",\"quant_algo\":\"" algo "\",\"group_size\":16}"

static const format formats[] = {
    {"fp8 in blocks",
     HEAD,
     HEAD_N,
     HEAD_K,
     FP8,
     {{"weight", SY_F8_E4M3, 2, {HEAD_N, HEAD_K}}, {"weight_scale_inv", SY_F32, 2, {2, 1}}},
     SY_F8_E4M3,
     {.scale = SY_F32, .group = 128, .outputs = 128}},
    {"fp8 per channel",
     DOWN,
     DOWN_N,
     DOWN_K,
     CT("float-quantized",
        "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"channel\",\"symmetric\":true"),
     {{"weight", SY_F8_E4M3, 2, {DOWN_N, DOWN_K}}, {"weight_scale", SY_BF16, 2, {DOWN_N, 1}}},
     SY_F8_E4M3,
     {.scale = SY_BF16, .outputs = 1}},
    {"fp8 per tensor",
     DOWN,
     DOWN_N,
     DOWN_K,
     MODELOPT("FP8"),
     {{"weight", SY_F8_E4M3, 2, {DOWN_N, DOWN_K}}, {"weight_scale", SY_F32, 0, {0}}},
     SY_F8_E4M3,
     {.scale = SY_F32}},
    {"mxfp4",
     DOWN,
     DOWN_N,
     DOWN_K,
     CT("mxfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"group_size\":32"),
     {{"weight_packed", SY_U8, 2, {DOWN_N, DOWN_K / 2}},
      {"weight_scale", SY_U8, 2, {DOWN_N, 3}}},
     SY_F4,
     {.scale = SY_F8_E8M0, .group = 32, .outputs = 1}},
    {"nvfp4 of modelopt",
     DOWN,
     DOWN_N,
     DOWN_K,
     MODELOPT("NVFP4"),
     {{"weight", SY_U8, 2, {DOWN_N, DOWN_K / 2}},
      {"weight_scale", SY_F8_E4M3, 2, {DOWN_N, 6}},
      {"weight_scale_2", SY_F32, 0, {0}},
      {"input_scale", SY_F32, 0, {0}}},
     SY_F4,
     {.scale = SY_F8_E4M3, .group = 16, .outputs = 1, .use_factor = SY_FACTOR_TIMES}},
    {"nvfp4 of compressed-tensors",
     DOWN,
     DOWN_N,
     DOWN_K,
     CT("nvfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"group_size\":16"),
     {{"weight_packed", SY_U8, 2, {DOWN_N, DOWN_K / 2}},
      {"weight_scale", SY_F8_E4M3, 2, {DOWN_N, 6}},
      {"weight_global_scale", SY_F32, 1, {1}}},
     SY_F4,
     {.scale = SY_F8_E4M3, .group = 16, .outputs = 1, .use_factor = SY_FACTOR_OVER}},
    {"int4",
     DOWN,
     DOWN_N,
     DOWN_K,
     CT("pack-quantized",
        "\"num_bits\":4,\"type\":\"int\",\"strategy\":\"group\",\"group_size\":32,"
        "\"symmetric\":true"),
     {{"weight_packed", SY_I32, 2, {DOWN_N, DOWN_K / 8}},
      {"weight_scale", SY_BF16, 2, {DOWN_N, 3}},
      {"weight_shape", SY_I64, 1, {2}}},
     SY_U4,
     {.scale = SY_BF16, .group = 32, .outputs = 1}},
    {"int4 with zero points",
     DOWN,
     DOWN_N,
     DOWN_K,
     CT("pack-quantized",
        "\"num_bits\":4,\"type\":\"int\",\"strategy\":\"group\",\"group_size\":32,"
        "\"symmetric\":false"),
     {{"weight_packed", SY_I32, 2, {DOWN_N, DOWN_K / 8}},
      {"weight_scale", SY_F16, 2, {DOWN_N, 3}},
      {"weight_shape", SY_I64, 1, {2}},
      {"weight_zero_point", SY_I32, 2, {DOWN_N / 8, 3}}},
     SY_U4,
     {.scale = SY_F16, .group = 32, .outputs = 1, .zeros = true}},
    {"q8",
     DOWN,
     DOWN_N,
     DOWN_K,
     "{\"quant_method\":\"switchyard_q8\",\"group_size\":32}",
     {{"weight", SY_I8, 2, {DOWN_N, DOWN_K}}, {"weight_scale", SY_BF16, 2, {DOWN_N, 3}}},
     SY_I8,
     {.scale = SY_BF16, .group = 32, .outputs = 1}},
    {"int8 per channel",
     DOWN,
     DOWN_N,
     DOWN_K,
     CT("int-quantized", INT8_CHANNEL),
     {{"weight", SY_I8, 2, {DOWN_N, DOWN_K}}, {"weight_scale", SY_F32, 2, {DOWN_N, 1}}},
     SY_I8,
     {.scale = SY_F32, .outputs = 1}},
    {"int8 per channel, activations too",
     HEAD,
     HEAD_N,
     HEAD_K,
     CT("naive-quantized",
        INT8_CHANNEL "},\"input_activations\":{\"num_bits\":8,\"type\":"
                     "\"int\",\"dynamic\":false"),
     {{"weight", SY_I8, 2, {HEAD_N, HEAD_K}},
      {"weight_scale", SY_BF16, 1, {HEAD_N}},
      {"input_scale", SY_BF16, 1, {1}}},
     SY_I8,
     {.scale = SY_BF16, .outputs = 1}},
    {"int8 per tensor",
     DOWN,
     DOWN_N,
     DOWN_K,
     CT("int-quantized", "\"num_bits\":8,\"type\":\"int\",\"strategy\":\"tensor\""),
     {{"weight", SY_I8, 2, {DOWN_N, DOWN_K}}, {"weight_scale", SY_BF16, 1, {1}}},
     SY_I8,
     {.scale = SY_BF16}},
};
enum { N_FORMATS = sizeof formats / sizeof formats[0] };

static edited_tensor *find_part(edited_model *e, const format *f, const char *suffix) {
    char name[160];
    snprintf(name, sizeof name, "%s.%s", f->module, suffix);
    return edited_find(e, name);
}

static void open_format(edited_model *e, const format *f) {
    char name[160];
    edited_open(e, "tiny/qwen3_moe");
    snprintf(name, sizeof name, "%s.weight", f->module);
    edited_drop(e, name);
    json_object_set_new(e->config, "quantization_config", json_loads(f->config, 0, NULL));
    for (const part *p = f->part; p->suffix != NULL; p++) {
        snprintf(name, sizeof name, "%s.%s", f->module, p->suffix);
        edited_tensor *t = edited_add(e, name, p->dtype, p->rank, p->shape);
        fill_tensor(t, p == f->part || p->dtype == SY_I32);
        if (p->dtype == SY_I64) memcpy(t->data, (int64_t[]){f->n, f->k}, 16);
    }
}

/* The matrix that pack makes of the file's bytes, all at once. */
static void expect_packed(loaded *l, edited_model *e, const format *f, const sy_matrix *found) {
    sy_matrix m = {.dtype = f->codes, .parts = 1, .n = f->n, .k = f->k, .quant = f->quant};
    uint8_t zeros[DOWN_N * 3];
    sy_weight_source source = {.dtype = f->codes,
                               .codes = find_part(e, f, f->part[0].suffix)->data,
                               .scales = find_part(e, f, f->part[1].suffix)->data};
    if (f->quant.zeros) {
        sy_int4_zeros_from_words(f->n, 3, find_part(e, f, "weight_zero_point")->data, zeros);
        source.zeros = zeros;
    }
    m.quant.factor[0] = 1;
    if (f->quant.use_factor != SY_FACTOR_NONE)
        memcpy(m.quant.factor, find_part(e, f, f->part[2].suffix)->data, sizeof(float));
    assert_int_equal(found->dtype, f->codes);
    assert_int_equal(found->quant.group, f->quant.group);
    assert_int_equal(found->quant.outputs, f->quant.outputs);
    assert_int_equal(found->quant.scale, f->quant.scale);
    assert_int_equal(found->quant.use_factor, f->quant.use_factor);
    if (f->quant.use_factor != SY_FACTOR_NONE)
        assert_true(found->quant.factor[0] == m.quant.factor[0]);
    uint64_t bytes = l->be->ops->matrix_bytes(l->be, &m);
    MUST(l->be->ops->alloc(l->be, &m.data, bytes, "expected"));
    MUST(l->be->ops->pack(l->be, &m, 0, 0, f->n, &source));
    assert_memory_equal(found->data, m.data, bytes);
    l->be->ops->free(l->be, m.data, bytes);
}

static void every_layout_reaches_the_backend_as_it_is(void **state) {
    (void)state;
    for (int i = 0; i < N_FORMATS; i++) {
        const format *f = &formats[i];
        edited_model e;
        loaded l;
        open_format(&e, f);
        sy_status st = load(&e, &l);
        if (st != SY_OK) fail_msg("%s: %s", f->name, sy_last_error());
        const sy_matrix *m =
            strcmp(f->module, HEAD) == 0 ? &l.weights->lm_head : &l.weights->layer[1].ffn_down;
        expect_packed(&l, &e, f, m);
        unload(&l);
        edited_close(&e);
    }
}

static void
expect_refused(edited_model *e, const format *f, sy_status expected, const char *what) {
    loaded l;
    sy_status st = load(e, &l);
    if (st != expected || strstr(sy_last_error(), f->module) == NULL ||
        strstr(sy_last_error(), what) == NULL)
        fail_msg("%s: expected \"%s\", found %s: %s", f->name, what, sy_status_name(st),
                 sy_last_error());
    unload(&l);
    edited_close(e);
}

static void a_missing_part_is_named(void **state) {
    (void)state;
    for (int i = 0; i < N_FORMATS; i++) {
        const format *f = &formats[i];
        for (int p = 1; f->part[p].suffix != NULL; p++) {
            char name[160];
            edited_model e;
            if (strcmp(f->part[p].suffix, "input_scale") == 0 ||
                strcmp(f->part[p].suffix, "weight_zero_point") == 0)
                continue;
            open_format(&e, f);
            snprintf(name, sizeof name, "%s.%s", f->module, f->part[p].suffix);
            edited_drop(&e, name);
            expect_refused(&e, f, SY_ERR_FORMAT, "is missing");
        }
    }
}

static void a_part_of_another_shape_is_refused_with_both_shapes(void **state) {
    (void)state;
    for (int i = 0; i < N_FORMATS; i++) {
        const format *f = &formats[i];
        for (int p = 0; f->part[p].suffix != NULL; p++) {
            edited_model e;
            if (f->part[p].rank != 2) continue;
            open_format(&e, f);
            edited_tensor *t = find_part(&e, f, f->part[p].suffix);
            t->shape[0]++;
            edited_resize(t);
            expect_refused(&e, f, SY_ERR_FORMAT, "expected shape [");
        }
    }
}

static void a_part_of_another_dtype_is_refused_by_name(void **state) {
    (void)state;
    for (int i = 0; i < N_FORMATS; i++) {
        const format *f = &formats[i];
        for (int p = 0; f->part[p].suffix != NULL && p < 2; p++) {
            edited_model e;
            open_format(&e, f);
            edited_tensor *t = find_part(&e, f, f->part[p].suffix);
            t->dtype = SY_I16;
            edited_resize(t);
            expect_refused(&e, f, SY_ERR_UNSUPPORTED, "has dtype I16; expected ");
        }
    }
}

/* All scales are NaN: bytes of ones are one in every dtype that scales have. */
static void a_scale_that_is_no_number_is_refused(void **state) {
    (void)state;
    for (int i = 0; i < N_FORMATS; i++) {
        const format *f = &formats[i];
        edited_model e;
        open_format(&e, f);
        edited_tensor *t = find_part(&e, f, f->part[1].suffix);
        memset(t->data, 0xff, t->bytes);
        expect_refused(&e, f, SY_ERR_FORMAT, "scale");
    }
}

static void a_factor_that_is_no_number_is_refused(void **state) {
    (void)state;
    static const float wrong[] = {-1, __builtin_nanf(""), __builtin_inff(), 0};
    for (int i = 0; i < N_FORMATS; i++) {
        const format *f = &formats[i];
        int n = f->quant.use_factor == SY_FACTOR_OVER ? 4 : 3; /* an expert may be all zeros */
        for (int w = 0; w < n && f->quant.use_factor != SY_FACTOR_NONE; w++) {
            edited_model e;
            open_format(&e, f);
            memcpy(find_part(&e, f, f->part[2].suffix)->data, &wrong[w], sizeof wrong[w]);
            expect_refused(&e, f, SY_ERR_FORMAT, "expected a number ");
        }
    }
}

static void packed_integers_of_another_shape_are_refused(void **state) {
    (void)state;
    static const struct {
        int64_t said[2];
        const char *text;
    } wrong[] = {{{DOWN_K, DOWN_N}, "expected (24, 88), found (88, 24)"},
                 {{DOWN_N, 80}, "expected (24, 88), found (24, 80)"},
                 {{16, DOWN_K}, "expected (24, 88), found (16, 88)"}};
    for (int i = 0; i < N_FORMATS; i++)
        for (int w = 0; w < 3 && formats[i].codes == SY_U4; w++) {
            edited_model e;
            open_format(&e, &formats[i]);
            memcpy(find_part(&e, &formats[i], "weight_shape")->data, wrong[w].said, 16);
            expect_refused(&e, &formats[i], SY_ERR_FORMAT, wrong[w].text);
        }
}

/* ---- configs that contradict the tensors, or leave something open ---- */

static json_t *quantization(edited_model *e) {
    return json_object_get(e->config, "quantization_config");
}

/* Drops all tensors whose names end so; returns how many. */
static int drop_all(edited_model *e, const char *suffix) {
    int n = 0;
    for (int i = e->n - 1; i >= 0; i--) {
        const char *name = e->tensor[i].name;
        size_t length = strlen(name), m = strlen(suffix);
        if (length < m || strcmp(name + length - m, suffix) != 0) continue;
        free(e->tensor[i].data);
        e->tensor[i] = e->tensor[--e->n];
        n++;
    }
    return n;
}

/* The config's word for how zero points are stored does not matter where all of them are 8. */
static void zero_points_of_symmetric_gptq_are_told_by_their_values(void **state) {
    (void)state;
    edited_model right, relabelled;
    loaded l[2];
    edited_open(&right, "tiny/quantised_gptq");
    edited_open(&relabelled, "tiny/quantised_gptq");
    json_object_set_new(quantization(&relabelled), "checkpoint_format", json_string("gptq_v2"));
    MUST(load(&right, &l[0]));
    MUST(load(&relabelled, &l[1]));
    assert_int_equal(l[0].weights->bytes, l[1].weights->bytes);
    assert_memory_equal(l[0].weights->block, l[1].weights->block, l[0].weights->bytes);
    unload(&l[0]);
    unload(&l[1]);
    edited_close(&right);
    edited_close(&relabelled);
}

static void zero_points_that_are_not_symmetric_are_refused_where_announced_so(void **state) {
    (void)state;
    edited_model e;
    edited_open(&e, "tiny/quantised_gptq_v2");
    json_object_set_new(quantization(&e), "sym", json_true());
    expect_status(&e, SY_ERR_FORMAT, "expected zero points of 7 or of 8");
}

static void an_announced_order_of_inputs_needs_its_index(void **state) {
    (void)state;
    edited_model e;
    edited_open(&e, "tiny/quantised_gptq");
    json_object_set_new(quantization(&e), "desc_act", json_true());
    drop_all(&e, ".g_idx");
    expect_status(&e, SY_ERR_FORMAT, "g_idx\" is missing");
}

static void announced_zero_points_have_to_be_there(void **state) {
    (void)state;
    edited_model e;
    edited_open(&e, "tiny/quantised_int4_zeros");
    assert_true(drop_all(&e, ".weight_zero_point") > 0);
    expect_status(&e, SY_ERR_FORMAT, "weight_zero_point\" is missing");
}

static const format *format_named(const char *name) {
    for (int i = 0; i < N_FORMATS; i++)
        if (strcmp(formats[i].name, name) == 0) return &formats[i];
    fail_msg("no format \"%s\"", name);
    return NULL;
}

static void zero_points_of_8_bits_are_refused(void **state) {
    (void)state;
    const format *f = format_named("int8 per channel");
    edited_model e;
    open_format(&e, f);
    memset(edited_add(&e, DOWN ".weight_zero_point", SY_I8, 2, (int64_t[]){DOWN_N, 1})->data, 0,
           DOWN_N);
    expect_refused(&e, f, SY_ERR_UNSUPPORTED, "with zero points");
    open_format(&e, f);
    json_t *weights = json_object_get(
        json_object_get(json_object_get(quantization(&e), "config_groups"), "group_0"),
        "weights");
    json_object_set_new(weights, "symmetric", json_false());
    expect_refused(&e, f, SY_ERR_UNSUPPORTED, "with zero points");
}

/* Scales in groups mean something only where the config says how large these are. */
static void groups_of_8_bits_that_the_config_does_not_have_are_refused(void **state) {
    (void)state;
    const format *f = format_named("q8");
    edited_model e;
    open_format(&e, f);
    json_object_del(e.config, "quantization_config");
    expect_refused(&e, f, SY_ERR_FORMAT, "expected shape [24, 1]");
}

/* A config of other weights has groups that are not those of 8-bit integers. */
static void integers_of_8_bits_under_a_config_of_others_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *config, *text;
    } others[] = {
        {CT("pack-quantized",
            "\"num_bits\":4,\"type\":\"int\",\"strategy\":\"group\",\"group_size\":32,"
            "\"symmetric\":true"),
         "INT4, one scale for 32 (compressed-tensors)"},
        {"{\"quant_method\":\"mxfp4\"}", "MXFP4, one scale for 32 (mxfp4)"},
        {"{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32,\"sym\":true}",
         "INT4, one scale for 32 (gptq)"},
        {"{\"quant_method\":\"gptq\",\"bits\":8,\"group_size\":32,\"sym\":true}",
         "INT8, one scale for 32 (gptq)"},
        {FP8, "FP8 e4m3, one scale for 128 x 128 (fp8)"},
    };
    const format *f = format_named("q8");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        edited_model e;
        char what[160];
        open_format(&e, f);
        json_object_set_new(e.config, "quantization_config",
                            json_loads(others[i].config, 0, NULL));
        snprintf(what, sizeof what,
                 "weight\": has dtype I8, but the config describes other weights: %s",
                 others[i].text);
        expect_refused(&e, f, SY_ERR_FORMAT, what);
    }
}

static void expect_int8_refused(const char *config, const char *what) {
    const format *f = format_named("q8");
    edited_model e;
    open_format(&e, f);
    json_object_set_new(e.config, "quantization_config", json_loads(config, 0, NULL));
    expect_refused(&e, f, SY_ERR_UNSUPPORTED, what);
}

static void integers_of_8_bits_in_another_order_of_inputs_are_refused(void **state) {
    (void)state;
    expect_int8_refused(CT("int-quantized",
                           "\"num_bits\":8,\"type\":\"int\",\"strategy\":\"group\","
                           "\"group_size\":32,\"actorder\":\"group\""),
                        "inputs in another order, are not supported");
}

static void groups_of_8_bits_of_a_size_that_kernels_lack_are_refused(void **state) {
    (void)state;
    expect_int8_refused(CT("int-quantized",
                           "\"num_bits\":8,\"type\":\"int\",\"strategy\":\"group\","
                           "\"group_size\":24"),
                        "weight_scale\": groups of 24 values; expected 16, 32, 64 or 128");
}

/* The scales have the shape of another kind, which the tensors alone would be taken for. */
static void other_scales_than_the_announced_blocks_are_refused(void **state) {
    (void)state;
    static const struct {
        int rank;
        int64_t shape[2];
        const char *found;
    } others[] = {{2, {HEAD_N, 1}, "[151, 1]"},
                  {1, {HEAD_N}, "[151]"},
                  {1, {1}, "[1]"},
                  {2, {1, 1}, "[1, 1]"},
                  {0, {0}, "[]"}};
    const format *f = format_named("fp8 in blocks");
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        edited_model e;
        char what[96];
        open_format(&e, f);
        edited_tensor *t = find_part(&e, f, "weight_scale_inv");
        t->rank = others[i].rank;
        memcpy(t->shape, others[i].shape, sizeof others[i].shape);
        edited_resize(t);
        fill_tensor(t, false);
        snprintf(what, sizeof what, "expected shape [2, 1], found %s", others[i].found);
        expect_refused(&e, f, SY_ERR_FORMAT, what);
    }
}

/* Both ways that the order of inputs can be announced: stored in another, or only chosen in one. */
static void integers_in_another_order_of_inputs_are_refused(void **state) {
    (void)state;
    edited_model e;
    edited_open(&e, "tiny/quantised_int4");
    json_t *weights = json_object_get(
        json_object_get(json_object_get(quantization(&e), "config_groups"), "group_0"),
        "weights");
    json_object_set_new(weights, "actorder", json_string("group"));
    expect_status(&e, SY_ERR_UNSUPPORTED, "weight_packed\": weights packed in integers");
    edited_open(&e, "tiny/quantised_int4");
    weights = json_object_get(
        json_object_get(json_object_get(quantization(&e), "config_groups"), "group_0"),
        "weights");
    json_object_set_new(weights, "actorder", json_string("weight"));
    loaded l;
    MUST(load(&e, &l));
    unload(&l);
    edited_close(&e);
}

/* Groups of different formats: which matrices have which is not asked of patterns. */
static void integers_beside_another_format_are_refused(void **state) {
    (void)state;
    edited_model e;
    edited_open(&e, "tiny/quantised_int4");
    json_t *groups = json_object_get(quantization(&e), "config_groups");
    json_t *other = json_deep_copy(json_object_get(groups, "group_0"));
    json_object_set_new(json_object_get(other, "weights"), "group_size", json_integer(64));
    json_object_set_new(groups, "group_1", other);
    expect_status(&e, SY_ERR_UNSUPPORTED, "where the config says for all of them alike");
}

static void groups_of_a_size_that_the_scales_contradict_are_refused(void **state) {
    (void)state;
    edited_model e;
    edited_open(&e, "tiny/quantised_int4");
    json_t *weights = json_object_get(
        json_object_get(json_object_get(quantization(&e), "config_groups"), "group_0"),
        "weights");
    json_object_set_new(weights, "group_size", json_integer(16));
    expect_status(&e, SY_ERR_FORMAT, "weight_scale\": expected shape [");
}

/* Writes every other tensor into a file of its own; model.safetensors makes room for an index. */
static void write_in_two_files(const edited_model *e) {
    char path[128], shard[128];
    json_t *map = json_object();
    for (int half = 0; half < 2; half++) {
        edited_model fraction = *e;
        snprintf(shard, sizeof shard, "part%d.safetensors", half);
        fraction.tensor = calloc((size_t)e->n, sizeof *fraction.tensor);
        assert_non_null(fraction.tensor);
        fraction.n = 0;
        for (int i = half; i < e->n; i += 2) {
            fraction.tensor[fraction.n++] = e->tensor[i];
            json_object_set_new(map, e->tensor[i].name, json_string(shard));
        }
        edited_write(&fraction);
        free(fraction.tensor);
        edited_path(e, "model.safetensors", path);
        char to[256];
        snprintf(to, sizeof to, "%s/%s", e->directory, shard);
        assert_int_equal(rename(path, to), 0);
    }
    edited_path(e, "model.safetensors.index.json", path);
    json_t *index = json_pack("{s:o}", "weight_map", map);
    assert_int_equal(json_dump_file(index, path, 0), 0);
    json_decref(index);
}

/* Factors lie at the same places of both files, near enough to be read together. */
static void factors_are_read_from_the_file_that_they_are_in(void **state) {
    (void)state;
    edited_model e;
    loaded one, two;
    char path[128];
    edited_open(&e, "tiny/quantised_nvfp4_modelopt");
    MUST(load(&e, &one));
    edited_path(&e, "model.safetensors", path);
    assert_int_equal(unlink(path), 0);
    write_in_two_files(&e);
    MUST(load_written(&e, &two));
    const sy_layer_weights *a = &one.weights->layer[1], *b = &two.weights->layer[1];
    for (int s = 0; s < a->n_slots; s++) {
        assert_memory_equal(a->gate_up[s].quant.factor, b->gate_up[s].quant.factor,
                            sizeof a->gate_up[s].quant.factor);
        assert_true(a->down[s].quant.factor[0] == b->down[s].quant.factor[0]);
        assert_true(s == 0 || a->down[s].quant.factor[0] != a->down[0].quant.factor[0]);
    }
    assert_int_equal(one.weights->bytes, two.weights->bytes);
    assert_memory_equal(one.weights->block, two.weights->block, one.weights->bytes);
    unload(&one);
    unload(&two);
    static const char *const files[] = {"part0.safetensors", "part1.safetensors",
                                        "model.safetensors.index.json"};
    for (int i = 0; i < 3; i++) {
        edited_path(&e, files[i], path);
        assert_int_equal(unlink(path), 0);
    }
    edited_close(&e);
}

/* Of the tensors that tell layouts apart, those of packed modules count too. */
static void a_layout_is_told_by_packed_weights_too(void **state) {
    (void)state;
    static const char *const models[] = {"tiny/quantised_awq", "tiny/quantised_int4_zeros"};
    for (int i = 0; i < 2; i++) {
        edited_model e;
        loaded l;
        edited_open(&e, models[i]);
        edited_drop(&e, "model.embed_tokens.weight");
        edited_drop(&e, "model.layers.0.input_layernorm.weight");
        edited_drop(&e, "model.layers.1.mlp.gate.weight");
        assert_int_equal(load(&e, &l), SY_ERR_FORMAT);
        if (strstr(sy_last_error(), "\"model.embed_tokens.weight\" is missing") == NULL)
            fail_msg("%s", sy_last_error());
        unload(&l);
        edited_close(&e);
    }
}

static void blocks_of_another_size_are_refused(void **state) {
    (void)state;
    edited_model e;
    edited_open(&e, "tiny/quantised_fp8_block");
    json_object_set_new(quantization(&e), "weight_block_size", json_pack("[i, i]", 130, 130));
    expect_status(&e, SY_ERR_UNSUPPORTED, "expected 128 x 128");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_layout_reaches_the_backend_as_it_is),
        cmocka_unit_test(a_missing_part_is_named),
        cmocka_unit_test(a_part_of_another_shape_is_refused_with_both_shapes),
        cmocka_unit_test(a_part_of_another_dtype_is_refused_by_name),
        cmocka_unit_test(a_scale_that_is_no_number_is_refused),
        cmocka_unit_test(zero_points_of_symmetric_gptq_are_told_by_their_values),
        cmocka_unit_test(zero_points_that_are_not_symmetric_are_refused_where_announced_so),
        cmocka_unit_test(an_announced_order_of_inputs_needs_its_index),
        cmocka_unit_test(announced_zero_points_have_to_be_there),
        cmocka_unit_test(blocks_of_another_size_are_refused),
        cmocka_unit_test(a_layout_is_told_by_packed_weights_too),
        cmocka_unit_test(factors_are_read_from_the_file_that_they_are_in),
        cmocka_unit_test(integers_of_8_bits_under_a_config_of_others_are_refused),
        cmocka_unit_test(integers_of_8_bits_in_another_order_of_inputs_are_refused),
        cmocka_unit_test(groups_of_8_bits_of_a_size_that_kernels_lack_are_refused),
        cmocka_unit_test(other_scales_than_the_announced_blocks_are_refused),
        cmocka_unit_test(integers_in_another_order_of_inputs_are_refused),
        cmocka_unit_test(integers_beside_another_format_are_refused),
        cmocka_unit_test(groups_of_a_size_that_the_scales_contradict_are_refused),
        cmocka_unit_test(zero_points_of_8_bits_are_refused),
        cmocka_unit_test(groups_of_8_bits_that_the_config_does_not_have_are_refused),
        cmocka_unit_test(packed_integers_of_another_shape_are_refused),
        cmocka_unit_test(a_factor_that_is_no_number_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
