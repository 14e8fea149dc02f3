/* The whole model against Hugging Face transformers (tests/data/tiny, made by
 * scripts/make_tiny_models.py). ranks: 1 2 3 4
 * timeout: 120, labels: cuda
 *
 * f32: logits within 1e-4 of the largest, and greedy tokens equal.
 * bf16: logits with the router's choices replayed, within a tolerance that was measured; on a
 * CUDA device too where there is one.
 *
 * test_reference DIRECTORY tests the models of that directory alone. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "tests/model_fixture.h"
#include "tests/seeded_checkpoint.h"

static sy_comm *comm;

/* n_shards 0: the checkpoint is stored. Otherwise its weights are a formula, and are written into
 * so many files in `dtype`; `config` is what becomes config.json (NULL: the one of that name). */
typedef struct model {
    const char *directory, *expected;
    int n_shards;
    sy_dtype dtype;
    const char *config;
} model;

#define V4 "config_v4.json"
static const model models[] = {
    {.directory = "qwen3_moe", .expected = "qwen3_moe"},
    {.directory = "qwen3_moe_f32_sharded", .expected = "qwen3_moe"},
    {.directory = "qwen3_moe_f16", .expected = "qwen3_moe"},
    {.directory = "qwen3_moe_fused", .expected = "qwen3_moe"},
    {.directory = "mixtral", .expected = "mixtral"},
    {.directory = "olmoe", .expected = "olmoe"},
    {"mixtral_window", "mixtral_window", 1, SY_BF16, NULL},
    {"mixtral_window", "mixtral_window", 2, SY_F16, V4},
    {"deepseek_v3", "deepseek_v3", 1, SY_BF16, NULL},
    {"deepseek_v3", "deepseek_v3", 3, SY_F32, V4},
    {"deepseek_v2", "deepseek_v2", 1, SY_BF16, NULL},
    {"deepseek_v2", "deepseek_v2", 1, SY_F16, V4},
    {"deepseek_v2_groups", "deepseek_v2_groups", 1, SY_BF16, NULL},
    {"deepseek_v2_groups", "deepseek_v2_groups", 2, SY_F32, V4},
    {"kimi_k2", "kimi_k2", 1, SY_BF16, NULL},
    {"kimi_k25", "kimi_k2", 2, SY_BF16, NULL},
    {"sarvam_mla", "sarvam_mla", 1, SY_BF16, NULL},
    {"sarvam_mla", "sarvam_mla", 1, SY_F32, V4},
    {"sarvam_moe", "sarvam_moe", 1, SY_BF16, NULL},
    {"sarvam_moe", "sarvam_moe", 2, SY_F16, V4},
    {"mistral_large_3", "mistral_large_3", 1, SY_BF16, NULL},
    {"mistral_large_3", "mistral_large_3", 2, SY_F32, NULL},
    {"gpt_oss", "gpt_oss", 1, SY_BF16, NULL},
    {"gpt_oss", "gpt_oss", 2, SY_F32, V4},
    {"glm4_moe", "glm4_moe", 1, SY_BF16, NULL},
    {"glm4_moe", "glm4_moe", 1, SY_F16, V4},
    {"glm4_moe_air", "glm4_moe_air", 1, SY_BF16, NULL},
    {"glm4_moe_air", "glm4_moe_air", 1, SY_F32, V4},
    {"minimax_m2", "minimax_m2", 1, SY_BF16, NULL},
    {"minimax_m2", "minimax_m2", 1, SY_F16, V4},
    {.directory = "quantised_fp8_block", .expected = "quantised_fp8_block"},
    {.directory = "quantised_fp8_block_e8m0", .expected = "quantised_fp8_block_e8m0"},
    {.directory = "quantised_fp8_block_mistral", .expected = "quantised_fp8_block_mistral"},
    {.directory = "quantised_fp8_channel", .expected = "quantised_fp8_channel"},
    {.directory = "quantised_fp8_tensor", .expected = "quantised_fp8_tensor"},
    {.directory = "quantised_fp8_tensor_mistral", .expected = "quantised_fp8_tensor_mistral"},
    {.directory = "quantised_fp8_stacked", .expected = "quantised_fp8_stacked"},
    {.directory = "quantised_mxfp4", .expected = "quantised_mxfp4"},
    {.directory = "quantised_mxfp4_packed", .expected = "quantised_mxfp4_packed"},
    {.directory = "quantised_nvfp4", .expected = "quantised_nvfp4"},
    {.directory = "quantised_nvfp4_modelopt", .expected = "quantised_nvfp4_modelopt"},
    {.directory = "quantised_int4", .expected = "quantised_int4"},
    {.directory = "quantised_int4_zeros", .expected = "quantised_int4_zeros"},
    {.directory = "quantised_awq", .expected = "quantised_awq"},
    {.directory = "quantised_gptq", .expected = "quantised_gptq"},
    {.directory = "quantised_gptq_v2", .expected = "quantised_gptq_v2"},
    {.directory = "quantised_int8", .expected = "quantised_int8"},
    {.directory = "quantised_q8", .expected = "quantised_q8"},
};
enum { N_MODELS = sizeof models / sizeof models[0], MAX_PROMPTS = 3, MAX_GREEDY = 32 };
static const char *only; /* a directory, or NULL */

/* Ids from a JSON list, or from list number `index` of a list of lists (index >= 0). */
static int32_t *read_ids(const char *path, int index, int64_t *n) {
    json_t *root;
    MUST(sy_json_load(path, SY_JSON_MAX_CONFIG, &root));
    const json_t *list = index < 0 ? root : json_array_get(root, (size_t)index);
    *n = (int64_t)json_array_size(list);
    assert_true(*n > 0);
    int32_t *ids = calloc((size_t)*n, sizeof *ids);
    for (int64_t i = 0; i < *n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    json_decref(root);
    return ids;
}

/* A float32 .npy of known shape. */
static float *read_npy(const char *path, int64_t n) {
    char *data;
    size_t size;
    MUST(sy_read_file(path, (uint64_t)64 << 20, &data, &size));
    assert_true(size > 10 && memcmp(data, "\x93NUMPY\x01", 7) == 0);
    size_t header = 10 + (size_t)(unsigned char)data[8] + 256 * (size_t)(unsigned char)data[9];
    assert_int_equal(size - header, (size_t)n * sizeof(float));
    float *values = malloc((size_t)n * sizeof *values);
    memcpy(values, data + header, (size_t)n * sizeof *values);
    free(data);
    return values;
}

/* Rows of logits as they come, of which those are kept that keep[] (ascending) names. */
typedef struct rows {
    float *value; /* [n_keep, vocab] */
    const int32_t *keep;
    int64_t n_keep, n_kept, n, vocab;
} rows;

static sy_status keep_rows(void *context, int64_t n_rows, const float *value) {
    rows *r = context;
    for (int64_t i = 0; i < n_rows; i++, r->n++)
        if (r->n_kept < r->n_keep && r->keep[r->n_kept] == r->n)
            memcpy(r->value + r->n_kept++ * r->vocab, value + i * r->vocab,
                   (size_t)r->vocab * sizeof *value);
    return SY_OK;
}

static double largest_magnitude(const float *v, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)v[i]));
    return most;
}

static int n_prompts(const model *m) {
    char path[512];
    json_t *root;
    MUST(sy_json_load(data_path(path, sizeof path, "tiny/expected/%s/ids.json", m->expected),
                      SY_JSON_MAX_CONFIG, &root));
    int n = (int)json_array_size(root);
    json_decref(root);
    assert_in_range(n, 1, MAX_PROMPTS);
    return n;
}

/* How far the kept logits are off, over the largest expected one, on rank 0. */
typedef struct error {
    double worst, rms;
} error;

static error compare_prompt(fixture *f, const model *m, int prompt, bool replay) {
    char path[512];
    int64_t n, n_keep, V = f->spec->vocab;
    sy_routes *routes = NULL;
    int32_t *ids = read_ids(
        data_path(path, sizeof path, "tiny/expected/%s/ids.json", m->expected), prompt, &n);
    int32_t *keep =
        read_ids(data_path(path, sizeof path, "tiny/expected/%s/rows.json", m->expected),
                 prompt, &n_keep);
    float *expected = read_npy(
        data_path(path, sizeof path, "tiny/expected/%s/logits_%d.npy", m->expected, prompt),
        n_keep * V);
    if (replay)
        MUST(sy_routes_load(data_path(path, sizeof path, "tiny/expected/%s/routes_%d.json",
                                      m->expected, prompt),
                            f->spec, n, &routes));
    rows got = {.value = calloc((size_t)(n_keep * V), sizeof(float)),
                .keep = keep,
                .n_keep = n_keep,
                .vocab = V};
    MUST(sy_engine_logits(f->engine, ids, n,
                          routes == NULL ? NULL : (const int32_t *const *)routes->expert,
                          keep_rows, &got));
    error e = {0, 0};
    if (sy_comm_rank(comm) == 0) {
        assert_int_equal(got.n, n);
        assert_int_equal(got.n_kept, n_keep);
        for (int64_t i = 0; i < n_keep * V; i++) {
            double off = fabs((double)got.value[i] - (double)expected[i]);
            e.worst = fmax(e.worst, off);
            e.rms += off * off;
        }
        double largest = largest_magnitude(expected, n_keep * V);
        e.worst /= largest;
        e.rms = sqrt(e.rms / (double)(n_keep * V)) / largest;
    }
    sy_routes_destroy(routes);
    free(got.value);
    free(expected);
    free(keep);
    free(ids);
    return e;
}

typedef struct greedy {
    int32_t id[MAX_GREEDY];
    int n;
} greedy;

static bool keep_token(void *context, int request, const sy_token *token) {
    greedy *g = (greedy *)context + request;
    if (g->n < MAX_GREEDY) g->id[g->n] = token->id;
    g->n++;
    return false;
}

/* All prompts of a model in one batch, greedy tokens of each. */
static void check_greedy(fixture *f, const model *m) {
    char path[512];
    sy_request request[MAX_PROMPTS];
    int32_t *ids[MAX_PROMPTS], *expected[MAX_PROMPTS];
    int64_t n_expected[MAX_PROMPTS];
    greedy got[MAX_PROMPTS] = {0};
    const sy_engine_events events = {keep_token, NULL, NULL, got};
    sy_engine_stats stats;
    int n = n_prompts(m);
    for (int i = 0; i < n; i++) {
        int64_t n_ids;
        ids[i] = read_ids(
            data_path(path, sizeof path, "tiny/expected/%s/ids.json", m->expected), i, &n_ids);
        expected[i] = read_ids(
            data_path(path, sizeof path, "tiny/expected/%s/greedy_%d.json", m->expected, i), -1,
            &n_expected[i]);
        assert_in_range(n_expected[i], 16, MAX_GREEDY);
        request[i] = (sy_request){.prompt = ids[i],
                                  .n_prompt = n_ids,
                                  .max_tokens = (int)n_expected[i],
                                  .sampling = {.top_p = 1}};
    }
    MUST(sy_engine_generate(f->engine, request, n, &events, &stats));
    for (int i = 0; i < n; i++) {
        if (sy_comm_rank(comm) == 0) {
            assert_int_equal(got[i].n, n_expected[i]);
            assert_memory_equal(got[i].id, expected[i], (size_t)n_expected[i] * sizeof *ids[i]);
        }
        free(expected[i]);
        free(ids[i]);
    }
}

/* Each rank writes a checkpoint of its own where one must be written; once loaded it can go. */
static void load_model(fixture *f, const model *m, sy_dtype act, bool cuda) {
    char source[512], directory[512];
    data_path(source, sizeof source, "tiny/%s", m->directory);
    snprintf(directory, sizeof directory, "%s", source);
    if (m->n_shards > 0) {
        const sy_seeded_options o = {m->dtype, m->n_shards, m->config};
        MUST(sy_seeded_create(source, &o, directory, sizeof directory));
    }
    if (cuda)
        fixture_open_cuda(f, comm, directory);
    else
        fixture_open(f, comm, directory, act, 2);
    if (m->n_shards > 0) sy_seeded_remove(directory);
}

static void open_model(fixture *f, const model *m, sy_dtype act, bool cuda) {
    load_model(f, m, act, cuda);
    sy_engine_options o = {.max_context = 256,
                           .max_pages = 12,
                           .per_rank = 3,
                           .chunk = 48,
                           .max_outputs = 48,
                           .n_valid = f->spec->vocab};
    fixture_engine(f, &o);
}

static bool wanted(const model *m) {
    return only == NULL || strcmp(only, m->directory) == 0;
}

static void report(const model *m, const char *run, int prompt, error e, double limit) {
    if (sy_comm_rank(comm) != 0) return;
    print_message("%-27s %-4s %s prompt %d: %.2e (limit %.2e), rms %.2e\n", m->directory,
                  m->n_shards > 0 ? sy_dtype_name(m->dtype) : "", run, prompt, e.worst, limit,
                  e.rms);
}

static void f32_logits_and_greedy_tokens_equal_transformers(void **state) {
    (void)state;
    for (const model *m = models; m < models + N_MODELS; m++) {
        fixture f;
        if (!wanted(m)) continue;
        open_model(&f, m, SY_F32, false);
        for (int p = 0; p < n_prompts(m); p++) {
            error e = compare_prompt(&f, m, p, false);
            report(m, "f32 ", p, e, 1e-4);
            assert_true(e.worst < 1e-4);
            assert_true(e.rms < 1e-4); /* fails for NaN, which fmax leaves out */
        }
        check_greedy(&f, m);
        fixture_close(&f);
    }
}

/* What rounding to bf16 does to the logits of a prompt was measured beside transformers (bf16.json,
 * see the README beside it): the standard deviation in the worst row, from each operand rounded
 * alone; and from all rounded at once, in several draws of rounding errors, the range of the root
 * mean square. No draw there went beyond 4.8 deviations. */
typedef struct bf16_error {
    double deviation, least_rms, most_rms;
} bf16_error;

static bf16_error expected_bf16_error(const model *m, int prompt) {
    char path[512];
    json_t *root;
    MUST(sy_json_load(data_path(path, sizeof path, "tiny/expected/%s/bf16.json", m->expected),
                      SY_JSON_MAX_CONFIG, &root));
    const json_t *rms = json_array_get(json_object_get(root, "rms"), (size_t)prompt);
    bf16_error e = {
        json_number_value(json_array_get(json_object_get(root, "deviation"), (size_t)prompt)),
        json_number_value(json_array_get(rms, 0)), json_number_value(json_array_get(rms, 1))};
    json_decref(root);
    assert_true(e.deviation > 0 && e.least_rms > 0 && e.most_rms >= e.least_rms);
    return e;
}

/* The root mean square varies little between draws, where the worst logit does not. It is also
 * what fails where a logit is not a number, or where nothing was rounded. */
static void check_bf16(bool cuda) {
    for (const model *m = models; m < models + N_MODELS; m++) {
        fixture f;
        if (!wanted(m)) continue;
        open_model(&f, m, SY_BF16, cuda);
        for (int p = 0; p < n_prompts(m); p++) {
            error e = compare_prompt(&f, m, p, true);
            bf16_error usual = expected_bf16_error(m, p);
            report(m, cuda ? "cuda" : "bf16", p, e, 6 * usual.deviation);
            assert_true(e.worst < 6 * usual.deviation);
            if (sy_comm_rank(comm) == 0)
                assert_true(e.rms > usual.least_rms / 1.4 && e.rms < usual.most_rms * 1.4);
        }
        fixture_close(&f);
    }
}

static void bf16_logits_with_replayed_routes_are_near_transformers(void **state) {
    (void)state;
    check_bf16(false);
}

static void cuda_logits_with_replayed_routes_are_near_transformers(void **state) {
    (void)state;
    if (!have_cuda()) {
        print_message("skipped: no CUDA device\n");
        skip();
    }
    check_bf16(true);
}

int main(int argc, char **argv) {
    int n_wanted = 0;
    if (argc > 1) only = argv[1];
    for (const model *m = models; m < models + N_MODELS; m++)
        n_wanted += wanted(m);
    if (n_wanted == 0) {
        fprintf(stderr, "no model in a directory %s\n", only);
        return 2;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(f32_logits_and_greedy_tokens_equal_transformers),
        cmocka_unit_test(bf16_logits_with_replayed_routes_are_near_transformers),
        cmocka_unit_test(cuda_logits_with_replayed_routes_are_near_transformers),
    };
    MUST(sy_comm_create(&(sy_comm_options){.threads_per_rank = 2}, &comm));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed != 0) sy_comm_abort(comm, 1);
    sy_comm_destroy(comm);
    return 0;
}
