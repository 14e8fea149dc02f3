/* Quantised weights from the tensors of a checkpoint to a matrix: every published layout is found
 * by its tensors and reaches the backend's pack as it should; what is missing, misshapen or no
 * number is refused with file, tensor, expected and found. What pack and the kernels make of it is
 * tested in test_formats.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"
#include "base/int4.h"
#include "tests/checkpoint_fixture.h"

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
};
enum { N_FORMATS = sizeof formats / sizeof formats[0] };

/* Numbers that every dtype can have: codes of any value, scales near 1. */
static void fill(edited_tensor *t, bool codes) {
    uint64_t key = sy_hash_bytes(0, t->name, strlen(t->name));
    for (uint64_t i = 0; i < t->bytes; i++) {
        uint8_t byte = (uint8_t)(sy_hash_add(key, i) >> 8);
        t->data[i] = (char)((byte & 0x7f) == 0x7f ? byte ^ 1 : byte);
    }
    for (uint64_t i = 0; !codes && i < t->bytes; i++) {
        uint8_t low = (uint8_t)t->data[i] & 7;
        if (t->dtype == SY_F32 && i % 4 >= 2) t->data[i] = (char)(i % 4 == 3 ? 0x3f : low << 3);
        if (t->dtype == SY_BF16) t->data[i] = (char)(i % 2 == 1 ? 0x3f : low << 3);
        if (t->dtype == SY_F16 && i % 2 == 1) t->data[i] = (char)(0x38 + low % 4);
        if (t->dtype == SY_U8) t->data[i] = (char)(124 + low);
        if (t->dtype == SY_F8_E4M3) t->data[i] = (char)(0x30 + low);
    }
}

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
        fill(t, p == f->part || p->dtype == SY_I32);
        if (p->dtype == SY_I64) memcpy(t->data, (int64_t[]){f->n, f->k}, 16);
    }
}

typedef struct loaded {
    sy_pool *pool;
    sy_backend *be;
    sy_model_spec *spec;
    sy_checkpoint *checkpoint;
    sy_placement *placement;
    sy_weights *weights;
} loaded;

static sy_status load(const edited_model *e, loaded *l) {
    edited_write(e);
    *l = (loaded){0};
    MUST(sy_pool_create(2, false, &l->pool));
    MUST(sy_cpu_open(SY_BF16, l->pool, NULL, &l->be));
    sy_status st = sy_spec_load(e->directory, &l->spec);
    if (st != SY_OK) return st;
    MUST(sy_checkpoint_open(e->directory, &l->checkpoint));
    int *experts = calloc((size_t)l->spec->n_layers, sizeof *experts);
    for (int i = 0; i < l->spec->n_layers; i++)
        experts[i] = l->spec->layer[i].ffn.experts;
    MUST(sy_placement_contiguous(l->spec->n_layers, experts, 1, &l->placement));
    free(experts);
    return sy_weights_load(l->be, l->spec, l->placement, 0, l->checkpoint, 2, NULL, NULL, NULL,
                           &l->weights);
}

static void unload(loaded *l) {
    sy_weights_destroy(l->weights);
    sy_placement_destroy(l->placement);
    if (l->checkpoint != NULL) sy_checkpoint_close(l->checkpoint);
    sy_spec_destroy(l->spec);
    l->be->ops->close(l->be);
    sy_pool_destroy(l->pool);
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
        const sy_matrix *m = f->module == formats[0].module ? &l.weights->lm_head
                                                            : &l.weights->layer[1].ffn_down;
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
    for (int i = 0; i < N_FORMATS; i++) {
        edited_model e;
        if (formats[i].codes != SY_U4) continue;
        open_format(&e, &formats[i]);
        memcpy(find_part(&e, &formats[i], "weight_shape")->data, (int64_t[]){DOWN_K, DOWN_N},
               16);
        expect_refused(&e, &formats[i], SY_ERR_FORMAT, "expected (24, 88), found (88, 24)");
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

static void expect_status(edited_model *e, sy_status expected, const char *what) {
    loaded l;
    sy_status st = load(e, &l);
    if (st != expected || strstr(sy_last_error(), what) == NULL)
        fail_msg("expected \"%s\", found %s: %s", what, sy_status_name(st), sy_last_error());
    unload(&l);
    edited_close(e);
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
        cmocka_unit_test(packed_integers_of_another_shape_are_refused),
        cmocka_unit_test(a_factor_that_is_no_number_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
