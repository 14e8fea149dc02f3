/* What configuration files say about quantised weights, the bytes that follow, and what cannot be
 * loaded yet. */
#include "tests/spec_fixture.h"
#include "runtime/spec_shapes.h"

/* A quantization_config with one group of compressed-tensors. */
#define GROUP(format, weights)                                                                 \
    "quantization_config={\"quant_method\":\"compressed-tensors\",\"format\":\"" format        \
    "\",\"config_groups\":{\"group_0\":{\"targets\":[\"Linear\"],\"weights\":{" weights "}}}}"
#define CONFIG(members) "quantization_config={" members "}"

static void each_method_is_read(void **state) {
    (void)state;
    static const struct {
        const char *changes;
        sy_quantization expected;
        const char *text;
    } cases[] = {
        {CONFIG("\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"weight_block_size\":[128,64],"
                "\"activation_scheme\":\"dynamic\",\"scale_fmt\":\"ue8m0\","
                "\"modules_to_not_convert\":[\"(((\"]"),
         {.method = SY_QUANT_FP8,
          .values = SY_QUANT_E4M3,
          .scales = SY_QUANT_PER_BLOCK,
          .block_rows = 128,
          .block_cols = 64,
          .scales_e8m0 = true},
         "FP8 e4m3, one scale for 128 x 64 (fp8)"},
        {CONFIG("\"quant_method\":\"fp8\",\"fmt\":\"float8_e4m3fn\","
                "\"activation_scheme\":\"static\",\"weight_block_size\":null"),
         {.method = SY_QUANT_FP8,
          .values = SY_QUANT_E4M3,
          .scales = SY_QUANT_PER_TENSOR,
          .static_activations = true},
         "FP8 e4m3, one scale a matrix (fp8)"},
        {CONFIG("\"quant_method\":\"mxfp4\""),
         {.method = SY_QUANT_MXFP4,
          .values = SY_QUANT_E2M1_MX,
          .scales = SY_QUANT_PER_GROUP,
          .group = 32},
         "MXFP4, one scale for 32 (mxfp4)"},
        {CONFIG("\"quant_method\":\"awq\",\"bits\":4,\"group_size\":128,\"zero_point\":true,"
                "\"version\":\"gemm\""),
         {.method = SY_QUANT_AWQ,
          .values = SY_QUANT_INT4,
          .scales = SY_QUANT_PER_GROUP,
          .group = 128,
          .zero_points = true},
         "INT4, one scale for 128, zero points (awq)"},
        {CONFIG("\"quant_method\":\"gptq\",\"bits\":8,\"group_size\":-1,\"sym\":true,"
                "\"desc_act\":true,\"checkpoint_format\":\"gptq_v2\""),
         {.method = SY_QUANT_GPTQ,
          .values = SY_QUANT_INT8,
          .scales = SY_QUANT_PER_CHANNEL,
          .act_order = true,
          .gptq_v2 = true},
         "INT8, one scale a row (gptq)"},
        {CONFIG("\"quant_method\":\"modelopt\",\"quant_algo\":\"FP8\",\"ignore\":[\"*\"]"),
         {.method = SY_QUANT_MODELOPT,
          .values = SY_QUANT_E4M3,
          .scales = SY_QUANT_PER_TENSOR,
          .static_activations = true},
         "FP8 e4m3, one scale a matrix (modelopt)"},
        {CONFIG("\"quant_algo\":\"W4A16_NVFP4\""), /* older exports name no method */
         {.method = SY_QUANT_MODELOPT,
          .values = SY_QUANT_E2M1_NV,
          .scales = SY_QUANT_PER_GROUP,
          .group = 16},
         "NVFP4, one scale for 16 (modelopt)"},
        {CONFIG("\"quant_algo\":\"MIXED_PRECISION\""),
         {.method = SY_QUANT_MODELOPT, .values = SY_QUANT_MIXED, .static_activations = true},
         "mixed (modelopt)"},
        {CONFIG("\"quant_method\":\"modelopt\",\"kv_cache_scheme\":\"FP8\""),
         {.method = SY_QUANT_NONE},
         "none"},
        {GROUP("pack-quantized", "\"num_bits\":4,\"type\":\"int\",\"symmetric\":true,"
                                 "\"strategy\":\"group\",\"group_size\":32,\"actorder\":null"),
         {.method = SY_QUANT_COMPRESSED_TENSORS,
          .values = SY_QUANT_INT4,
          .scales = SY_QUANT_PER_GROUP,
          .group = 32},
         "INT4, one scale for 32 (compressed-tensors)"},
        {GROUP("pack-quantized", "\"num_bits\":4,\"type\":\"int\",\"symmetric\":false,"
                                 "\"group_size\":64,\"actorder\":\"group\""),
         {.method = SY_QUANT_COMPRESSED_TENSORS,
          .values = SY_QUANT_INT4,
          .scales = SY_QUANT_PER_GROUP,
          .group = 64,
          .zero_points = true,
          .act_order = true},
         "INT4, one scale for 64, zero points (compressed-tensors)"},
        {GROUP("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"block\","
                                  "\"block_structure\":\"128x256\""),
         {.method = SY_QUANT_COMPRESSED_TENSORS,
          .values = SY_QUANT_E4M3,
          .scales = SY_QUANT_PER_BLOCK,
          .block_rows = 128,
          .block_cols = 256},
         "FP8 e4m3, one scale for 128 x 256 (compressed-tensors)"},
        {GROUP("int-quantized", "\"num_bits\":8,\"group_size\":-1,\"actorder\":\"weight\""),
         {.method = SY_QUANT_COMPRESSED_TENSORS,
          .values = SY_QUANT_INT8,
          .scales = SY_QUANT_PER_CHANNEL},
         "INT8, one scale a row (compressed-tensors)"},
        {GROUP("nvfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\","
                                       "\"strategy\":\"tensor_group\",\"group_size\":16"),
         {.method = SY_QUANT_COMPRESSED_TENSORS,
          .values = SY_QUANT_E2M1_NV,
          .scales = SY_QUANT_PER_GROUP,
          .group = 16},
         "NVFP4, one scale for 16 (compressed-tensors)"},
        {GROUP("mxfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"group_size\":32"),
         {.method = SY_QUANT_COMPRESSED_TENSORS,
          .values = SY_QUANT_E2M1_MX,
          .scales = SY_QUANT_PER_GROUP,
          .group = 32},
         "MXFP4, one scale for 32 (compressed-tensors)"},
        {GROUP("naive-quantized",
               "\"num_bits\":8,\"type\":\"int\",\"symmetric\":true,\"strategy\":\"channel\"},"
               "\"input_activations\":{\"num_bits\":8,\"type\":\"int\",\"strategy\":"
               "\"token\",\"dynamic\":true"),
         {.method = SY_QUANT_COMPRESSED_TENSORS,
          .values = SY_QUANT_INT8,
          .scales = SY_QUANT_PER_CHANNEL},
         "INT8, one scale a row (compressed-tensors)"},
        {GROUP("int-quantized", "\"num_bits\":8,\"strategy\":\"channel\"},"
                                "\"input_activations\":{\"num_bits\":8,\"dynamic\":false"),
         {.method = SY_QUANT_COMPRESSED_TENSORS,
          .values = SY_QUANT_INT8,
          .scales = SY_QUANT_PER_CHANNEL,
          .static_activations = true},
         "INT8, one scale a row (compressed-tensors)"},
        {CONFIG("\"quant_method\":\"switchyard_q8\",\"group_size\":32,"
                "\"modules_to_not_convert\":[\"lm_head\"]"),
         {.method = SY_QUANT_SWITCHYARD_Q8,
          .values = SY_QUANT_INT8,
          .scales = SY_QUANT_PER_GROUP,
          .group = 32},
         "INT8, one scale for 32 (switchyard_q8)"},
        {CONFIG("\"quant_method\":\"compressed-tensors\",\"format\":\"dense\""),
         {.method = SY_QUANT_NONE},
         "none"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        sy_model_spec *s = accepted(QWEN, cases[i].changes);
        const sy_quantization *p = &s->quant, *q = &cases[i].expected;
        char text[SY_QUANTIZATION_TEXT_MAX];
        assert_string_equal(sy_quantization_text(p, text), cases[i].text);
        SAME_INT(method), SAME_INT(values), SAME_INT(scales), SAME_INT(block_rows);
        SAME_INT(block_cols), SAME_INT(group), SAME_INT(scales_e8m0), SAME_INT(zero_points);
        SAME_INT(act_order), SAME_INT(gptq_v2), SAME_INT(static_activations);
        sy_spec_destroy(s);
    }
}

static void groups_that_differ_make_a_mixed_checkpoint(void **state) {
    (void)state;
    static const char *const second[] = {"32", "64", "128"};
    for (size_t i = 0; i < COUNT(second); i++) {
        char changes[1024];
        snprintf(changes, sizeof changes,
                 CONFIG("\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","
                        "\"config_groups\":{\"a\":{\"weights\":{\"num_bits\":4,\"group_size\":"
                        "32}},\"b\":{\"weights\":{\"num_bits\":4,\"group_size\":%s}},"
                        "\"c\":{\"weights\":{\"num_bits\":4,\"group_size\":32}}}"),
                 second[i]);
        sy_model_spec *s = accepted(QWEN, changes);
        assert_int_equal(s->quant.method, SY_QUANT_COMPRESSED_TENSORS);
        assert_int_equal(s->quant.values, i == 0 ? SY_QUANT_INT4 : SY_QUANT_MIXED);
        sy_spec_destroy(s);
    }
}

static void quantisation_may_stand_on_either_level(void **state) {
    (void)state;
#define FP8 "{\"quant_method\":\"fp8\"}"
    static const struct {
        const char *top, *text;
        sy_status status;
    } cases[] = {{FP8, NULL, SY_OK},
                 {NULL, FP8, SY_OK},
                 {FP8, FP8, SY_OK},
                 {FP8, "{\"quant_method\":\"mxfp4\"}", SY_ERR_FORMAT}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        json_t *inner = json_loads(QWEN, 0, NULL), *outer = json_object();
        json_object_set_new(outer, "model_type", json_string("w"));
        if (cases[i].text != NULL)
            json_object_set_new(inner, "quantization_config",
                                json_loads(cases[i].text, 0, NULL));
        if (cases[i].top != NULL)
            json_object_set_new(outer, "quantization_config",
                                json_loads(cases[i].top, 0, NULL));
        json_object_set_new(outer, "text_config", inner);
        char *text = json_dumps(outer, 0);
        sy_model_spec *s = NULL;
        assert_int_equal(parse(text, &s), cases[i].status);
        if (s != NULL) assert_int_equal(s->quant.method, SY_QUANT_FP8);
        sy_spec_destroy(s);
        json_decref(outer);
        free(text);
    }
}

static void params_json_has_two_forms(void **state) {
    (void)state;
    static const struct {
        const char *changes;
        sy_quant_method method;
        bool static_activations;
    } cases[] = {
        {"quantization=null", SY_QUANT_NONE, false},
        {"quantization={\"qformat_weight\":\"fp8_e4m3\",\"qscheme_act\":\"TENSOR\"}",
         SY_QUANT_MISTRAL_FP8, true},
        {"quantization_config={\"qformat_weight\":\"fp8_e4m3\",\"qscheme_act\":null}",
         SY_QUANT_MISTRAL_FP8, false},
        {"quantization={\"quant_method\":\"COMPRESSED_TENSORS\",\"format\":\"float-quantized\","
         "\"config_groups\":{\"a\":{\"weights\":{\"num_bits\":8,\"type\":\"float\"}}}}",
         SY_QUANT_COMPRESSED_TENSORS, false}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        sy_model_spec *s = accepted(PARAMS, cases[i].changes);
        assert_int_equal(s->quant.method, cases[i].method);
        assert_int_equal(s->quant.static_activations, cases[i].static_activations);
        sy_spec_destroy(s);
    }
}

static void unknown_method_or_value_is_refused_by_name(void **state) {
    (void)state;
    static const refusal cases[] = {
        {QWEN, CONFIG("\"quant_method\":\"bitsandbytes\""), "method \"bitsandbytes\""},
        {QWEN, CONFIG("\"quant_method\":\"fp8\\u0007\""), "method \"fp8?\""},
        {QWEN, "quantization_config={}", "method \"unnamed\""},
        {QWEN, CONFIG("\"quant_method\":\"fp8\",\"fmt\":\"e5m2\""), "\"fmt\" is \"e5m2\""},
        {QWEN, CONFIG("\"quant_method\":\"fp8\",\"scale_fmt\":\"e3m4\""), "\"scale_fmt\""},
        {QWEN, CONFIG("\"quant_method\":\"fp8\",\"activation_scheme\":\"x\""),
         "\"activation_scheme\" is \"x\""},
        {QWEN, CONFIG("\"quant_method\":\"awq\",\"bits\":3,\"group_size\":128"),
         "\"bits\" is 3; supported is 4"},
        {QWEN, CONFIG("\"quant_method\":\"awq\",\"bits\":8,\"group_size\":128"),
         "\"bits\" is 8; supported is 4"},
        {QWEN, CONFIG("\"quant_method\":\"gptq\",\"bits\":2,\"group_size\":128"),
         "\"bits\" is 2; supported are 4 and 8"},
        {QWEN,
         CONFIG("\"quant_method\":\"awq\",\"bits\":4,\"group_size\":128,\"version\":\"gemv\""),
         "\"version\" is \"gemv\""},
        {QWEN,
         CONFIG("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":128,"
                "\"checkpoint_format\":\"marlin\""),
         "\"checkpoint_format\" is \"marlin\""},
        {QWEN, CONFIG("\"quant_method\":\"switchyard_q8\",\"group_size\":64"),
         "\"group_size\" is 64; supported is 32"},
        {QWEN, CONFIG("\"quant_method\":\"switchyard_q9\""),
         "method \"switchyard_q9\" is not supported"},
        {QWEN, CONFIG("\"quant_algo\":\"W4A8_AWQ\""), "\"quant_algo\" is \"W4A8_AWQ\""},
        {QWEN, GROUP("marlin-24", "\"num_bits\":4"), "\"format\" is \"marlin-24\""},
        {QWEN, GROUP("pack-quantized", "\"num_bits\":3,\"group_size\":32"),
         "weights of 3 bits, type \"int\", in format \"pack-quantized\""},
        {QWEN, GROUP("pack-quantized", "\"num_bits\":4,\"type\":\"fp\""), "\"type\" is \"fp\""},
        {QWEN, GROUP("float-quantized", "\"num_bits\":8,\"strategy\":\"token\""),
         "\"strategy\" is \"token\""},
        {QWEN,
         GROUP("pack-quantized", "\"num_bits\":4,\"group_size\":32,\"actorder\":\"random\""),
         "\"actorder\" is \"random\""}};
    expect_refused(cases, COUNT(cases), SY_ERR_UNSUPPORTED);
}

static void malformed_quantisation_is_refused(void **state) {
    (void)state;
    static const refusal cases[] = {
        {QWEN, "quantization_config=[]", "expected an object, found array"},
        {QWEN, "quantization_config=7", "expected an object, found integer"},
        {QWEN, CONFIG("\"quant_method\":7"), "\"quant_method\": expected a string"},
        {QWEN, CONFIG("\"quant_method\":\"fp8\",\"weight_block_size\":[128]"),
         "\"weight_block_size\": expected two whole numbers"},
        {QWEN, CONFIG("\"quant_method\":\"fp8\",\"weight_block_size\":[0,128]"),
         "expected 1 to 65536, found 0 and 128"},
        {QWEN, CONFIG("\"quant_method\":\"fp8\",\"weight_block_size\":[128,1e12]"),
         "found 128 and 1000000000000"},
        {QWEN, CONFIG("\"quant_method\":\"fp8\",\"weight_block_size\":\"128x\""),
         "expected two whole numbers"},
        {QWEN, CONFIG("\"quant_method\":\"awq\""), "expected \"bits\" and \"group_size\""},
        {QWEN, CONFIG("\"quant_method\":\"awq\",\"bits\":4,\"group_size\":12"),
         "multiple of 8, found 12"},
        {QWEN, CONFIG("\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":-2"),
         "\"group_size\": expected -1"},
        {QWEN, CONFIG("\"quant_algo\":\"NVFP4\",\"group_size\":32"), "expected 16, found 32"},
        {QWEN, CONFIG("\"quant_method\":\"switchyard_q8\",\"group_size\":0"),
         "\"group_size\": expected 1"},
        {QWEN, CONFIG("\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\""),
         "expected \"config_groups\""},
        {QWEN,
         CONFIG("\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"a\":{\"weights\":"
                "{\"num_bits\":4}}}"),
         "expected \"format\""},
        {QWEN,
         CONFIG("\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\","
                "\"config_groups\":{\"a\":7}"),
         "expected objects that hold \"weights\", found integer"},
        {QWEN,
         GROUP("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"block\""),
         "\"block_structure\": expected two"},
        {QWEN, GROUP("pack-quantized", "\"num_bits\":4,\"strategy\":\"group\""),
         "\"group_size\": expected 1 or more"},
        {QWEN,
         GROUP("nvfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"group_size\":32"),
         "groups of 16"}};
    expect_refused(cases, COUNT(cases), SY_ERR_FORMAT);
}

/* Bytes of a whole model by its published precision, and how many scales are among them. */
static uint64_t published_bytes(const char *file, uint64_t *n_scales) {
    sy_model_spec *s = load(file);
    sy_weight_shape shape[SY_LAYER_SHAPES_MAX];
    uint64_t bytes = 0;
    *n_scales = 0;
    for (int l = -1; l < s->n_layers; l++) {
        int n =
            l < 0 ? sy_outer_shapes(s, shape) : sy_layer_shapes(&s->layer[l], s->hidden, shape);
        for (int i = 0; i < n; i++) {
            sy_shape_bytes one = sy_published_bytes(s, &shape[i]);
            bytes += (uint64_t)shape[i].count * (one.values + one.scales);
            if (one.scales > 0)
                *n_scales += (uint64_t)shape[i].count * one.scales * 8 /
                             (uint64_t)sy_dtype_bits(one.scale_dtype);
        }
    }
    sy_spec_destroy(s);
    return bytes;
}

static uint64_t in_100mb(const char *file) {
    uint64_t scales;
    return (published_bytes(file, &scales) + 50000000) / 100000000;
}

/* By shapes alone q8 is taken as a conversion writes it without --all: a byte and a sixteenth for
 * each value of the routed experts. */
static void q8_by_shapes_is_of_routed_experts(void **state) {
    (void)state;
    sy_model_spec *s = accepted(
        QWEN,
        CONFIG(
            "\"quant_method\":\"switchyard_q8\"") ";hidden_size=64;moe_intermediate_size=96");
    sy_weight_shape shape[SY_LAYER_SHAPES_MAX];
    int n = sy_layer_shapes(&s->layer[0], s->hidden, shape), n_routed = 0;
    for (int i = 0; i < n; i++) {
        sy_shape_bytes one = sy_published_bytes(s, &shape[i]);
        uint64_t values = (uint64_t)(shape[i].rows * shape[i].cols);
        if (shape[i].part != SY_PART_ROUTED) {
            assert_int_equal(one.scales, 0);
            continue;
        }
        n_routed++;
        assert_int_equal(one.values, values);
        assert_int_equal(one.scales, values / 16);
        assert_int_equal(one.value_dtype, SY_I8);
        assert_int_equal(one.scale_dtype, SY_BF16);
    }
    assert_true(n_routed > 0);
    sy_spec_destroy(s);
}

/* Kimi K2's files hold 1,026,470,731,056 values with scales; of these 61 x 56 are a buffer that no
 * model has. The sizes of gpt-oss are those of its files. */
static void bytes_by_shapes_match_published_files(void **state) {
    (void)state;
    uint64_t scales;
    uint64_t kimi = published_bytes("configs/kimi-k2-v4.json", &scales);
    assert_int_equal(1026408232448 + scales, 1026470731056 - 61 * 56);
    assert_int_equal(kimi / 1000000000, 1029);
    assert_int_equal(in_100mb("configs/gpt-oss-20b-v4.json"), 138);
    assert_int_equal(in_100mb("configs/gpt-oss-120b-v5.json"), 652);
    assert_int_equal(published_bytes("configs/olmoe-1b-7b-v4.json", &scales), 2 * 6919161856);
    assert_int_equal(scales, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_method_is_read),
        cmocka_unit_test(groups_that_differ_make_a_mixed_checkpoint),
        cmocka_unit_test(quantisation_may_stand_on_either_level),
        cmocka_unit_test(params_json_has_two_forms),
        cmocka_unit_test(unknown_method_or_value_is_refused_by_name),
        cmocka_unit_test(malformed_quantisation_is_refused),
        cmocka_unit_test(q8_by_shapes_is_of_routed_experts),
        cmocka_unit_test(bytes_by_shapes_match_published_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
