/* A directory's companion files: end tokens, sampling defaults, quantisation; and where configs
 * are looked for. */
#include <sys/stat.h>
#include <unistd.h>

#include "tests/spec_fixture.h"

/* A directory with the given files; the caller removes it with drop_directory. */
typedef struct named_text {
    const char *name, *text;
} named_text;

static void make_directory(char path[64], const named_text *files, size_t n) {
    snprintf(path, 64, "/tmp/sy_test_spec_XXXXXX");
    assert_non_null(mkdtemp(path));
    for (size_t i = 0; i < n; i++) {
        char file[128];
        snprintf(file, sizeof file, "%s/%s", path, files[i].name);
        FILE *f = fopen(file, "w");
        assert_non_null(f);
        fputs(files[i].text, f);
        assert_int_equal(fclose(f), 0);
    }
}

static void drop_directory(const char *path, const named_text *files, size_t n) {
    for (size_t i = 0; i < n; i++) {
        char file[128];
        snprintf(file, sizeof file, "%s/%s", path, files[i].name);
        unlink(file);
    }
    assert_int_equal(rmdir(path), 0);
}

static sy_status load_files(const named_text *files, size_t n, sy_model_spec **out) {
    char path[64];
    make_directory(path, files, n);
    sy_status st = sy_spec_load(path, out);
    drop_directory(path, files, n);
    return st;
}

#define EOS_7                                                                                  \
    "{\"model_type\":\"qwen3_moe\"," GROUPED "\"num_experts\":8,\"moe_intermediate_size\":24," \
    "\"eos_token_id\":7,\"bos_token_id\":null}"

static void tiny_checkpoints_load_with_their_companion_files(void **state) {
    (void)state;
    sy_model_spec *s = load("tiny/qwen3_moe");
    assert_int_equal(s->n_layers, 3);
    assert_int_equal(s->layer[0].ffn.kind, SY_FFN_MOE);
    assert_int_equal(s->layer[1].ffn.kind, SY_FFN_DENSE);
    assert_int_equal(s->layer[1].ffn.inter, 88);
    assert_int_equal(s->layer[1].ffn.experts, 0);
    assert_int_equal(s->layer[2].ffn.experts, 11);
    assert_int_equal(s->n_eos,
                     2); /* config.json names 150, generation_config.json 150 and 148 */
    assert_int_equal(s->eos[0], 148);
    assert_int_equal(s->eos[1], 150);
    assert_int_equal(s->sampling.do_sample, 0);
    assert_true(s->sampling.temperature < 0);
    sy_param_counts c;
    sy_spec_count(s, &c);
    assert_int_equal(c.total, 37068);
    assert_int_equal(c.dense_ffn, 3 * 88 * 24);
    sy_model_spec *v4 = load("tiny/qwen3_moe_f16");
    same_layers(s, v4);
    sy_spec_destroy(v4);
    sy_spec_destroy(s);
    s = load("tiny/olmoe");
    assert_true(s->layer[0].attn.qk_clip == 1.5f);
    sy_spec_count(s, &c);
    assert_int_equal(c.total, 37908);
    sy_spec_destroy(s);
    s = load("tiny/mixtral");
    sy_spec_count(s, &c);
    assert_int_equal(c.total, 189420);
    sy_spec_destroy(s);
}

static void end_tokens_and_sampling_come_from_three_files(void **state) {
    (void)state;
    static const named_text files[] = {
        {"config.json", EOS_7},
        {"generation_config.json",
         "{\"eos_token_id\":[9,7],\"bos_token_id\":5,\"temperature\":0.6,"
         "\"top_p\":0.95,\"top_k\":20,\"min_p\":0,\"do_sample\":true}"},
        {"tokenizer_config.json", "{\"model_max_length\":1000000000000000019884624838656,\"eos_"
                                  "token\":{\"content\":\"<e>\"},"
                                  "\"added_tokens_decoder\":{\"3\":{\"content\":\"<b>\"},\"8\":"
                                  "{\"content\":\"<e>\"}}}"}};
    sy_model_spec *s = NULL;
    if (load_files(files, 3, &s) != SY_OK) fail_msg("%s", sy_last_error());
    assert_int_equal(s->n_eos, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(s->eos[i], 7 + i);
    assert_string_equal(s->eos_token, "");
    assert_int_equal(s->bos, 5);
    assert_true(s->sampling.temperature == 0.6);
    assert_true(s->sampling.top_p == 0.95);
    assert_true(s->sampling.min_p == 0);
    assert_int_equal(s->sampling.top_k, 20);
    assert_int_equal(s->sampling.do_sample, 1);
    sy_spec_destroy(s);
}

static void end_token_known_by_content_only_is_handed_on(void **state) {
    (void)state;
    static const named_text files[] = {
        {"config.json", MIXTRAL},
        {"tokenizer_config.json", "{\"eos_token\":\"</s>\",\"added_tokens_decoder\":{\"x\":{"
                                  "\"content\":\"</s>\"}}}"}};
    sy_model_spec *s = NULL;
    if (load_files(files, 2, &s) != SY_OK) fail_msg("%s", sy_last_error());
    assert_int_equal(s->n_eos, 0);
    assert_string_equal(s->eos_token, "</s>");
    assert_int_equal(s->sampling.do_sample, -1);
    assert_int_equal(s->sampling.top_k, -1);
    sy_spec_destroy(s);
}

static void broken_companion_file_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        named_text file;
        sy_status status;
        const char *refusal;
    } cases[] = {
        {{"generation_config.json", "{\"eos_token_id\":100}"}, SY_ERR_FORMAT, "found 100"},
        {{"generation_config.json", "{\"top_p\":1.5}"},
         SY_ERR_FORMAT,
         "\"top_p\": expected 0 to 1"},
        {{"generation_config.json", "{\"temperature\":\"hot\"}"},
         SY_ERR_FORMAT,
         "expected a number"},
        {{"generation_config.json", "{\"do_sample\":1}"},
         SY_ERR_FORMAT,
         "expected true or false"},
        {{"generation_config.json", "7"}, SY_ERR_FORMAT, "expected an object"},
        {{"generation_config.json", "{"}, SY_ERR_FORMAT, "line 1"},
        {{"tokenizer_config.json", "{\"eos_token\":7}"}, SY_ERR_FORMAT, "\"eos_token\""},
        {{"tokenizer_config.json", "[]"}, SY_ERR_FORMAT, "expected an object"},
        {{"tokenizer_config.json", "{\"eos_token\":\"e\",\"added_tokens_decoder\":{\"100\":{"
                                   "\"content\":\"e\"}}}"},
         SY_ERR_FORMAT,
         "found 100"},
        {{"hf_quant_config.json", "{\"quantization\":{\"quant_algo\":\"INT3\"}}"},
         SY_ERR_UNSUPPORTED,
         "\"quant_algo\" is \"INT3\""},
        {{"hf_quant_config.json", "{\"producer\":{}}"},
         SY_ERR_FORMAT,
         "expected an object with \"quantization\""}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        named_text files[] = {{"config.json", QWEN}, cases[i].file};
        sy_model_spec *s = NULL;
        sy_status st = load_files(files, 2, &s);
        if (st != cases[i].status || strstr(sy_last_error(), cases[i].refusal) == NULL ||
            strstr(sy_last_error(), cases[i].file.name) == NULL)
            fail_msg("%s %s: expected %s, found %s \"%s\"", cases[i].file.name,
                     cases[i].file.text, cases[i].refusal, sy_status_name(st), sy_last_error());
        assert_null(s);
    }
}

static void too_many_end_tokens_are_refused(void **state) {
    (void)state;
    char changes[2048];
    for (int n = SY_MAX_EOS; n <= SY_MAX_EOS + 1; n++) {
        sy_model_spec *s = NULL;
        int used = snprintf(changes, sizeof changes, "eos_token_id=[0,0");
        for (int i = n - 1; i > 0; i--)
            used += snprintf(changes + used, sizeof changes - (size_t)used, ",%d", i);
        snprintf(changes + used, sizeof changes - (size_t)used, "]");
        char *text = edited(QWEN, changes);
        assert_int_equal(parse(text, &s), n <= SY_MAX_EOS ? SY_OK : SY_ERR_FORMAT);
        free(text);
        if (s != NULL) assert_int_equal(s->n_eos, n);
        sy_spec_destroy(s);
    }
    assert_non_null(strstr(sy_last_error(), "at most 32 end tokens"));
}

/* params.json is read where there is no config.json, and only there. */
static void directory_with_params_json_alone_is_read(void **state) {
    (void)state;
    static const named_text files[] = {{"params.json", PARAMS}, {"config.json", QWEN}};
    sy_model_spec *s = NULL;
    if (load_files(files, 1, &s) != SY_OK) fail_msg("%s", sy_last_error());
    assert_string_equal(s->family, "mistral4");
    sy_spec_destroy(s);
    if (load_files(files, 2, &s) != SY_OK) fail_msg("%s", sy_last_error());
    assert_string_equal(s->family, "qwen3_moe");
    sy_spec_destroy(s);
}

static void hf_quant_config_tells_the_quantisation(void **state) {
    (void)state;
    static const named_text files[] = {
        {"config.json", QWEN},
        {"hf_quant_config.json",
         "{\"producer\":{\"name\":\"modelopt\"},\"quantization\":{\"quant_algo\":\"NVFP4\","
         "\"kv_cache_quant_algo\":\"FP8\",\"group_size\":16,\"exclude_modules\":[\"lm_head\"]}"
         "}"}};
    sy_model_spec *s = NULL;
    if (load_files(files, 2, &s) != SY_OK) fail_msg("%s", sy_last_error());
    assert_int_equal(s->quant.method, SY_QUANT_MODELOPT);
    assert_int_equal(s->quant.values, SY_QUANT_E2M1_NV);
    assert_int_equal(s->quant.group, 16);
    sy_spec_destroy(s);
}

/* What config.json and hf_quant_config.json say together. */
static void hf_quant_config_is_joined_with_config(void **state) {
    (void)state;
    static const struct {
        const char *config, *hf;
        sy_status status;
        sy_quant_values values;
    } cases[] = {{"FP8", "\"FP8\"", SY_OK, SY_QUANT_E4M3},
                 {"FP8", "null", SY_OK, SY_QUANT_E4M3},
                 {"FP8", "\"NVFP4\"", SY_ERR_FORMAT, SY_QUANT_MIXED},
                 {"NVFP4", "\"MIXED_PRECISION\"", SY_OK, SY_QUANT_MIXED},
                 {"MIXED_PRECISION", "\"NVFP4\"", SY_OK, SY_QUANT_MIXED}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        char changes[128], hf[128];
        snprintf(changes, sizeof changes, "quantization_config={\"quant_algo\":\"%s\"}",
                 cases[i].config);
        snprintf(hf, sizeof hf, "{\"quantization\":{\"quant_algo\":%s}}", cases[i].hf);
        char *config = edited(QWEN, changes);
        const named_text files[] = {{"config.json", config}, {"hf_quant_config.json", hf}};
        sy_model_spec *s = NULL;
        assert_int_equal(load_files(files, 2, &s), cases[i].status);
        if (s != NULL)
            assert_int_equal(s->quant.values, cases[i].values);
        else
            assert_non_null(strstr(sy_last_error(), "hf_quant_config.json: says otherwise"));
        sy_spec_destroy(s);
        free(config);
    }
}

static void missing_path_is_an_io_error(void **state) {
    (void)state;
    sy_model_spec *s = NULL;
    assert_int_equal(sy_spec_load("/nonexistent/model", &s), SY_ERR_IO);
    assert_non_null(strstr(sy_last_error(), "/nonexistent/model"));
    char path[64];
    make_directory(path, NULL, 0);
    assert_int_equal(sy_spec_load(path, &s), SY_ERR_IO);
    assert_non_null(strstr(sy_last_error(), "a config.json or a params.json"));
    drop_directory(path, NULL, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_checkpoints_load_with_their_companion_files),
        cmocka_unit_test(end_tokens_and_sampling_come_from_three_files),
        cmocka_unit_test(end_token_known_by_content_only_is_handed_on),
        cmocka_unit_test(broken_companion_file_is_refused_by_name),
        cmocka_unit_test(too_many_end_tokens_are_refused),
        cmocka_unit_test(directory_with_params_json_alone_is_read),
        cmocka_unit_test(hf_quant_config_tells_the_quantisation),
        cmocka_unit_test(hf_quant_config_is_joined_with_config),
        cmocka_unit_test(missing_path_is_an_io_error)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
