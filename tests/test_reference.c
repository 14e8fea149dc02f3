/* The whole model against Hugging Face transformers (tests/data/tiny, made by
 * scripts/make_tiny_models.py). ranks: 1 2 3 4
 * timeout: 120, labels: cuda
 *
 * f32: logits within 1e-4 of the largest, and 32 greedy tokens equal.
 * bf16: logits with the router's choices replayed, within a tolerance that was measured; on a
 * CUDA device too where there is one. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "tests/model_fixture.h"

static sy_comm *comm;

typedef struct family {
    const char *directory, *expected;
} family;

static const family families[] = {
    {"qwen3_moe", "qwen3_moe"},     {"qwen3_moe_f32_sharded", "qwen3_moe"},
    {"qwen3_moe_f16", "qwen3_moe"}, {"qwen3_moe_fused", "qwen3_moe"},
    {"mixtral", "mixtral"},         {"olmoe", "olmoe"},
};
enum { N_FAMILIES = sizeof families / sizeof families[0], N_PROMPTS = 3, N_GREEDY = 32 };

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

typedef struct rows {
    float *value;
    int64_t n, vocab;
} rows;

static sy_status keep_rows(void *context, int64_t n_rows, const float *value) {
    rows *r = context;
    memcpy(r->value + r->n * r->vocab, value, (size_t)(n_rows * r->vocab) * sizeof *value);
    r->n += n_rows;
    return SY_OK;
}

static double largest_magnitude(const float *v, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)v[i]));
    return most;
}

/* Largest difference over largest expected logit, on rank 0. */
static double compare_prompt(fixture *f, const family *fam, int prompt, bool replay) {
    char path[512];
    int64_t n, V = f->spec->vocab;
    sy_routes *routes = NULL;
    int32_t *ids = read_ids(
        data_path(path, sizeof path, "tiny/expected/%s/ids.json", fam->expected), prompt, &n);
    float *expected = read_npy(
        data_path(path, sizeof path, "tiny/expected/%s/logits_%d.npy", fam->expected, prompt),
        n * V);
    if (replay)
        MUST(sy_routes_load(data_path(path, sizeof path, "tiny/expected/%s/routes_%d.json",
                                      fam->expected, prompt),
                            f->spec, n, &routes));
    rows got = {calloc((size_t)(n * V), sizeof(float)), 0, V};
    MUST(sy_engine_logits(f->engine, ids, n,
                          routes == NULL ? NULL : (const int32_t *const *)routes->expert,
                          keep_rows, &got));
    double worst = 0;
    if (sy_comm_rank(comm) == 0) {
        assert_int_equal(got.n, n);
        for (int64_t i = 0; i < n * V; i++)
            worst = fmax(worst, fabs((double)got.value[i] - (double)expected[i]));
        worst /= largest_magnitude(expected, n * V);
    }
    sy_routes_destroy(routes);
    free(got.value);
    free(expected);
    free(ids);
    return worst;
}

typedef struct greedy {
    int32_t id[N_GREEDY];
    int n;
} greedy;

static bool keep_token(void *context, int request, const sy_token *token) {
    greedy *g = (greedy *)context + request;
    if (g->n < N_GREEDY) g->id[g->n] = token->id;
    g->n++;
    return false;
}

/* All prompts of a family in one batch, 32 greedy tokens each. */
static void check_greedy(fixture *f, const family *fam) {
    char path[512];
    sy_request request[N_PROMPTS];
    int32_t *ids[N_PROMPTS];
    greedy got[N_PROMPTS] = {0};
    const sy_engine_events events = {keep_token, NULL, NULL, got};
    sy_engine_stats stats;
    for (int i = 0; i < N_PROMPTS; i++) {
        int64_t n;
        ids[i] = read_ids(
            data_path(path, sizeof path, "tiny/expected/%s/ids.json", fam->expected), i, &n);
        request[i] = (sy_request){
            .prompt = ids[i], .n_prompt = n, .max_tokens = N_GREEDY, .sampling = {.top_p = 1}};
    }
    MUST(sy_engine_generate(f->engine, request, N_PROMPTS, &events, &stats));
    for (int i = 0; i < N_PROMPTS; i++) {
        int64_t n;
        int32_t *expected = read_ids(
            data_path(path, sizeof path, "tiny/expected/%s/greedy_%d.json", fam->expected, i),
            -1, &n);
        if (sy_comm_rank(comm) == 0) {
            assert_int_equal(n, N_GREEDY);
            assert_int_equal(got[i].n, N_GREEDY);
            assert_memory_equal(got[i].id, expected, sizeof got[i].id);
        }
        free(expected);
        free(ids[i]);
    }
}

static void open_family(fixture *f, const family *fam, sy_dtype act, bool cuda) {
    char path[512];
    data_path(path, sizeof path, "tiny/%s", fam->directory);
    if (cuda)
        fixture_open_cuda(f, comm, path);
    else
        fixture_open(f, comm, path, act, 2);
    sy_engine_options o = {.max_context = 256,
                           .max_pages = 12,
                           .per_rank = 3,
                           .chunk = 48,
                           .max_outputs = 48,
                           .n_valid = f->spec->vocab};
    fixture_engine(f, &o);
}

static void f32_logits_and_greedy_tokens_equal_transformers(void **state) {
    (void)state;
    for (int i = 0; i < N_FAMILIES; i++) {
        fixture f;
        open_family(&f, &families[i], SY_F32, false);
        for (int p = 0; p < N_PROMPTS; p++) {
            double worst = compare_prompt(&f, &families[i], p, false);
            if (sy_comm_rank(comm) == 0)
                print_message("%-22s f32  prompt %d: %.2e\n", families[i].directory, p, worst);
            assert_true(worst < 1e-4);
        }
        check_greedy(&f, &families[i]);
        fixture_close(&f);
    }
}

/* What rounding does to the logits of a prompt was measured in transformers: each operand that
 * bf16 rounds was rounded alone in a float32 run, and the squares were added up (bf16.json, see
 * the README beside it). Some 20,000 logits that are off by normal errors of that standard
 * deviation all stay within 6 of them, but for one run in 25,000. */
static double bf16_tolerance(const family *fam, int prompt) {
    char path[512];
    json_t *root;
    MUST(sy_json_load(data_path(path, sizeof path, "tiny/expected/%s/bf16.json", fam->expected),
                      SY_JSON_MAX_CONFIG, &root));
    double deviation =
        json_number_value(json_array_get(json_object_get(root, "deviation"), (size_t)prompt));
    json_decref(root);
    assert_true(deviation > 0);
    return 6 * deviation;
}

static void check_bf16(bool cuda) {
    for (int i = 0; i < N_FAMILIES; i++) {
        fixture f;
        open_family(&f, &families[i], SY_BF16, cuda);
        for (int p = 0; p < N_PROMPTS; p++) {
            double worst = compare_prompt(&f, &families[i], p, true);
            double limit = bf16_tolerance(&families[i], p);
            if (sy_comm_rank(comm) == 0)
                print_message("%-22s %s prompt %d: %.2e (limit %.2e)\n", families[i].directory,
                              cuda ? "cuda" : "bf16", p, worst, limit);
            assert_true(worst < limit);
            /* Not the float32 path by accident. */
            if (sy_comm_rank(comm) == 0) assert_true(worst > limit / 12);
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

int main(void) {
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
