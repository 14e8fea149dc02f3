/* Expert loads: counted, gathered, written as loads.json.
 * ranks: 1 3 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json.h"
#include "tests/model_fixture.h"

static sy_comm *comm;

static bool ignore_token(void *context, int request, const sy_token *token) {
    (void)context;
    (void)request;
    (void)token;
    return false;
}

enum { N_REQUESTS = 4, N_PROMPT = 21, N_NEW = 6 };

/* Four sequences through qwen3_moe, whose layer 1 is dense. */
static void generate(fixture *f) {
    char path[512];
    int32_t ids[N_PROMPT];
    sy_request request[N_REQUESTS];
    const sy_engine_events events = {ignore_token, NULL, NULL, NULL};
    sy_engine_stats stats;
    fixture_open(f, comm, data_path(path, sizeof path, "tiny/qwen3_moe"), SY_BF16, 1);
    sy_engine_options o = {.max_context = 64,
                           .max_pages = 2,
                           .per_rank = 2,
                           .chunk = 8,
                           .max_outputs = 2,
                           .n_valid = f->spec->vocab,
                           .ignore_eos = true};
    fixture_engine(f, &o);
    for (int i = 0; i < N_PROMPT; i++)
        ids[i] = i * 7 % 150;
    for (int i = 0; i < N_REQUESTS; i++)
        request[i] = (sy_request){.prompt = ids + i,
                                  .n_prompt = N_PROMPT - i,
                                  .max_tokens = N_NEW,
                                  .sampling = {.top_p = 1}};
    MUST(sy_engine_generate(f->engine, request, N_REQUESTS, &events, &stats));
}

/* Rows that go through the model: the last token of a request is sampled, not fed back. */
static uint64_t expected_tokens(void) {
    uint64_t n = 0;
    for (int i = 0; i < N_REQUESTS; i++)
        n += (uint64_t)(N_PROMPT - i + N_NEW - 1);
    return n;
}

static void check_json_layer(const json_t *layer, int index, int R, uint64_t tokens) {
    assert_int_equal(json_integer_value(json_object_get(layer, "layer")), index);
    assert_int_equal(json_integer_value(json_object_get(layer, "experts")), 11);
    assert_int_equal(json_integer_value(json_object_get(layer, "top_k")), 3);
    const json_t *counts = json_object_get(layer, "counts");
    uint64_t sum = 0;
    assert_int_equal(json_array_size(counts), 11);
    for (int e = 0; e < 11; e++) {
        const json_t *row = json_array_get(counts, (size_t)e);
        assert_int_equal(json_array_size(row), R);
        for (int r = 0; r < R; r++) {
            int64_t n = json_integer_value(json_array_get(row, (size_t)r));
            bool home = e >= 11 * r / R && e < 11 * (r + 1) / R;
            assert_true(n >= 0);
            if (!home) assert_int_equal(n, 0); /* counted where it was computed */
            sum += (uint64_t)n;
        }
    }
    assert_int_equal(sum, 3 * tokens);
}

static void a_run_is_conserved_and_written_as_json(void **state) {
    (void)state;
    fixture f;
    uint64_t *all, tokens;
    int R = sy_comm_size(comm);
    generate(&f);
    sy_loads *loads = sy_engine_runner(f.engine)->loads;
    MUST(sy_loads_gather(comm, loads, &all, &tokens));
    if (sy_comm_rank(comm) == 0) {
        char path[] = "/tmp/sy_loads_XXXXXX";
        json_t *root;
        close(mkstemp(path));
        assert_int_equal(tokens, expected_tokens());
        assert_int_equal(sy_loads_write(loads, f.spec, all, R, tokens, path), SY_OK);
        MUST(sy_json_load(path, SY_JSON_MAX_CONFIG, &root));
        unlink(path);
        assert_int_equal(json_integer_value(json_object_get(root, "version")), 1);
        assert_string_equal(json_string_value(json_object_get(root, "model")), "qwen3_moe");
        assert_int_equal(json_integer_value(json_object_get(root, "ranks")), R);
        assert_int_equal(json_integer_value(json_object_get(root, "tokens")), tokens);
        const json_t *layers = json_object_get(root, "layers");
        assert_int_equal(json_array_size(layers), 2); /* the dense layer 1 is not listed */
        check_json_layer(json_array_get(layers, 0), 0, R, tokens);
        check_json_layer(json_array_get(layers, 1), 2, R, tokens);
        json_decref(root);
    } else {
        assert_null(all);
        assert_int_equal(tokens, 0);
    }
    free(all);

    sy_loads_reset(loads);
    MUST(sy_loads_gather(comm, loads, &all, &tokens));
    assert_int_equal(tokens, 0);
    for (int i = 0; all != NULL && i < R * loads->n_layers * loads->n_experts; i++)
        assert_int_equal(all[i], 0);
    free(all);
    fixture_close(&f);
}

static void a_file_that_cannot_be_written_is_an_error_with_its_name(void **state) {
    (void)state;
    if (sy_comm_rank(comm) != 0) return;
    char path[512];
    sy_model_spec *spec;
    sy_loads *loads;
    MUST(sy_spec_load(data_path(path, sizeof path, "tiny/mixtral"), &spec));
    sy_placement *p = contiguous(spec, 1);
    MUST(sy_loads_create(spec, p, 0, &loads));
    uint64_t *all = calloc((size_t)(loads->n_layers * loads->n_experts), sizeof *all);
    assert_non_null(all);
    static const struct {
        const char *path, *text;
    } table[] = {{"/nonexistent/loads.json", "No such file"},
                 {"/tmp", "Is a directory"},
                 {"/dev/full", "No space left"}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        assert_int_equal(sy_loads_write(loads, spec, all, 1, 0, table[i].path), SY_ERR_IO);
        if (strstr(sy_last_error(), table[i].path) == NULL ||
            strstr(sy_last_error(), table[i].text) == NULL)
            fail_msg("%s: \"%s\"", table[i].path, sy_last_error());
    }
    free(all);
    sy_loads_destroy(loads);
    sy_placement_destroy(p);
    sy_spec_destroy(spec);
}

static void imbalance_is_the_largest_share_over_the_mean(void **state) {
    (void)state;
    sy_loads loads = {.n_layers = 2, .n_experts = 2};
    uint64_t total[2];
    static const uint64_t even[] = {1, 2, 3, 4, 4, 3, 2, 1}, none[8] = {0},
                          one[] = {0, 0, 5, 5, 0, 0, 0, 0}, three[] = {9, 0, 0, 0, 3, 0, 0, 0};
    assert_true(sy_loads_imbalance(&loads, even, 2, total) == 1);
    assert_true(total[0] == 10 && total[1] == 10);
    assert_true(sy_loads_imbalance(&loads, one, 2, total) == 2);
    assert_true(sy_loads_imbalance(&loads, three, 2, total) == 1.5);
    assert_true(sy_loads_imbalance(&loads, none, 2, total) == 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_is_conserved_and_written_as_json),
        cmocka_unit_test(a_file_that_cannot_be_written_is_an_error_with_its_name),
        cmocka_unit_test(imbalance_is_the_largest_share_over_the_mean),
    };
    MUST(sy_comm_create(&(sy_comm_options){.threads_per_rank = 1}, &comm));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed != 0) sy_comm_abort(comm, 1);
    sy_comm_destroy(comm);
    return 0;
}
