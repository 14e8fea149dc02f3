/* The checkpoints that tests write from a formula: equal to what Python computes, readable, and
 * the same values in every dtype and number of files.
 * timeout: 120 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "tests/model_fixture.h"
#include "tests/seeded_checkpoint.h"

static const char *const families[] = {
    "deepseek_v3",     "deepseek_v2",  "deepseek_v2_groups", "kimi_k2",
    "kimi_k25",        "sarvam_mla",   "sarvam_moe",         "gpt_oss",
    "glm4_moe",        "glm4_moe_air", "minimax_m2",         "mixtral_window",
    "mistral_large_3",
};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

static const char *source_of(const char *family, char *path, size_t size) {
    return data_path(path, size, "tiny/%s", family);
}

/* All values of a tensor as float32; the caller frees them. */
static float *read_values(const sy_checkpoint *c, const sy_tensor_entry *x, uint64_t *n) {
    uint64_t bytes = x->bytes, width = (uint64_t)sy_dtype_bits(x->dtype) / 8;
    *n = bytes / width;
    unsigned char *raw = malloc(bytes);
    float *value = malloc(*n * sizeof *value);
    MUST(sy_checkpoint_read(c, x, 0, bytes, raw));
    for (uint64_t i = 0; i < *n; i++) {
        uint16_t half;
        memcpy(&half, raw + i * width, sizeof half);
        if (x->dtype == SY_F32)
            memcpy(&value[i], raw + i * width, sizeof value[i]);
        else
            value[i] = x->dtype == SY_F16 ? sy_f32_from_f16(half) : sy_f32_from_bf16(half);
    }
    free(raw);
    return value;
}

static void check_equal(const sy_checkpoint *a, const sy_checkpoint *b) {
    assert_int_equal(a->n_tensors, b->n_tensors);
    for (int i = 0; i < a->n_tensors; i++) {
        const sy_tensor_entry *x = &a->tensor[i], *y = sy_checkpoint_find(b, x->name);
        assert_non_null(y);
        uint64_t n, m;
        float *left = read_values(a, x, &n), *right = read_values(b, y, &m);
        assert_int_equal(n, m);
        assert_memory_equal(left, right, n * sizeof *left);
        free(left);
        free(right);
    }
}

static int listed_tensors(const char *source) {
    char path[600];
    json_t *root;
    snprintf(path, sizeof path, "%s/tensors.json", source);
    MUST(sy_json_load(path, SY_JSON_MAX_HEADER, &root));
    int n = (int)json_array_size(json_object_get(root, "tensors"));
    json_decref(root);
    return n;
}

/* That the values are those of Python's formula is checked by sy_seeded_create itself, for each
 * dtype: the hash in tensors.json is Python's. */
static void every_family_has_the_same_values_in_all_dtypes(void **state) {
    (void)state;
    const sy_dtype dtypes[] = {SY_F32, SY_BF16, SY_F16};
    for (int f = 0; f < N_FAMILIES; f++) {
        char source[512], directory[512];
        sy_checkpoint *first = NULL;
        source_of(families[f], source, sizeof source);
        for (int d = 0; d < 3; d++) {
            sy_checkpoint *c;
            const sy_seeded_options o = {.dtype = dtypes[d], .n_shards = 1};
            MUST(sy_seeded_create(source, &o, directory, sizeof directory));
            MUST(sy_checkpoint_open(directory, &c));
            sy_seeded_remove(directory);
            assert_int_equal(c->n_tensors, listed_tensors(source));
            if (d == 0)
                first = c;
            else {
                check_equal(first, c);
                sy_checkpoint_close(c);
            }
        }
        sy_checkpoint_close(first);
    }
}

static void three_files_hold_what_one_holds(void **state) {
    (void)state;
    const char *const some[] = {"deepseek_v3", "mistral_large_3"};
    for (int f = 0; f < 2; f++) {
        char source[512], one[512], three[512];
        sy_checkpoint *a, *b;
        source_of(some[f], source, sizeof source);
        const sy_seeded_options whole = {.dtype = SY_BF16, .n_shards = 1};
        const sy_seeded_options cut = {.dtype = SY_BF16, .n_shards = 3};
        MUST(sy_seeded_create(source, &whole, one, sizeof one));
        MUST(sy_seeded_create(source, &cut, three, sizeof three));
        MUST(sy_checkpoint_open(one, &a));
        MUST(sy_checkpoint_open(three, &b));
        assert_int_equal(a->n_files, 1);
        assert_int_equal(b->n_files, 3);
        for (int i = 0; i < 3; i++)
            assert_true(b->file_bytes[i] > a->file_bytes[0] / 5);
        check_equal(a, b);
        sy_checkpoint_close(a);
        sy_checkpoint_close(b);
        sy_seeded_remove(one);
        sy_seeded_remove(three);
    }
}

static void correction_biases_stay_float32(void **state) {
    (void)state;
    char source[512], directory[512];
    sy_checkpoint *c;
    const sy_seeded_options o = {.dtype = SY_BF16, .n_shards = 1};
    MUST(sy_seeded_create(source_of("glm4_moe", source, sizeof source), &o, directory,
                          sizeof directory));
    MUST(sy_checkpoint_open(directory, &c));
    sy_seeded_remove(directory);
    const sy_tensor_entry *x =
        sy_checkpoint_find(c, "model.layers.1.mlp.gate.e_score_correction_bias");
    assert_non_null(x);
    assert_int_equal(x->dtype, SY_F32);
    uint64_t n;
    float *value = read_values(c, x, &n);
    int beyond_one = 0, inexact = 0;
    for (uint64_t i = 0; i < n; i++) {
        beyond_one += value[i] < -1;
        inexact += sy_f32_from_bf16(sy_bf16_from_f32(value[i])) != value[i];
    }
    assert_true(beyond_one > 0 && inexact > 0);
    free(value);
    sy_checkpoint_close(c);
}

static void another_seed_is_noticed_by_the_hash(void **state) {
    (void)state;
    char source[512], path[600], directory[512], out[512];
    json_t *root;
    snprintf(path, sizeof path, "%s/tensors.json", source_of("gpt_oss", source, sizeof source));
    MUST(sy_json_load(path, SY_JSON_MAX_HEADER, &root));
    json_object_set_new(root, "seed", json_integer(4711));
    snprintf(directory, sizeof directory, "/tmp/sy_seeded_XXXXXX");
    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/tensors.json", directory);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
    const sy_seeded_options o = {.dtype = SY_F32, .n_shards = 1};
    assert_int_equal(sy_seeded_create(directory, &o, out, sizeof out), SY_ERR_FORMAT);
    assert_non_null(strstr(sy_last_error(), "expected the hash"));
    sy_seeded_remove(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_family_has_the_same_values_in_all_dtypes),
        cmocka_unit_test(three_files_hold_what_one_holds),
        cmocka_unit_test(correction_biases_stay_float32),
        cmocka_unit_test(another_seed_is_noticed_by_the_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
