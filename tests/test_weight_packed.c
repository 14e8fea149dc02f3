/* Weights as the tools that publish them pack them: data/packed_by_tools.json holds one matrix each
 * that AutoAWQ and AutoGPTQ packed (scripts/tiny_models/compare_packers.py), and what they were
 * given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/int4.h"
#include "base/json.h"
#include "tests/model_fixture.h"

static int64_t number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

/* A tensor of `count` elements of 2 or 4 bytes; NULL if there is none. */
static void *tensor(const json_t *packed, const char *part, int64_t count, size_t size) {
    const json_t *list = json_object_get(json_object_get(packed, "tensors"), part);
    if (list == NULL) return NULL;
    assert_int_equal(json_array_size(list), count);
    char *out = malloc((size_t)count * size);
    assert_non_null(out);
    for (int64_t i = 0; i < count; i++) {
        uint32_t word = (uint32_t)json_integer_value(json_array_get(list, (size_t)i));
        memcpy(out + (size_t)i * size, &word, size); /* little-endian */
    }
    return out;
}

/* Digit i of row r of a list of hexadecimal strings. */
static int digit(const json_t *packed, const char *key, int64_t row, int64_t i) {
    const char *text =
        json_string_value(json_array_get(json_object_get(packed, key), (size_t)row));
    assert_non_null(text);
    assert_true(i < (int64_t)strlen(text));
    char one[2] = {text[i], '\0'};
    return (int)strtol(one, NULL, 16);
}

static void expect_rows(const json_t *packed, const sy_int4_file *f, const sy_int4_rows *rows) {
    int64_t groups = f->k / f->group;
    const uint16_t *scales = rows->scales;
    for (int64_t o = 0; o < f->n; o++) {
        const json_t *given = json_array_get(json_object_get(packed, "scales"), (size_t)o);
        for (int64_t i = 0; i < f->k; i++)
            assert_int_equal(rows->codes[o * (f->k / 8) + i / 8] >> (4 * (i % 8)) & 15,
                             digit(packed, "codes", o, i));
        for (int64_t g = 0; g < groups; g++) {
            assert_int_equal(rows->zeros[o * groups + g], digit(packed, "zeros", o, g));
            assert_int_equal(scales[o * groups + g],
                             json_integer_value(json_array_get(given, (size_t)g)));
        }
    }
}

static void check(const json_t *root, const char *name, bool awq) {
    const json_t *packed = json_object_get(root, name);
    assert_non_null(packed);
    int64_t n = number(packed, "outputs"), k = number(packed, "inputs");
    int64_t group = number(packed, "group"), groups = k / group;
    void *codes = tensor(packed, "qweight", n * k / 8, 4);
    void *zeros = tensor(packed, "qzeros", groups * n / 8, 4);
    void *scales = tensor(packed, "scales", groups * n, 2);
    void *g_idx = tensor(packed, "g_idx", k, 4);
    assert_true(codes != NULL && zeros != NULL && scales != NULL && (g_idx != NULL) == !awq);
    sy_int4_file f = {n, k, group, 2, codes, zeros, scales, !awq, g_idx};
    sy_int4_rows rows = {calloc((size_t)(n * k / 8), 4), calloc((size_t)(n * groups), 1),
                         calloc((size_t)(n * groups), 2)};
    MUST(awq ? sy_int4_from_awq(&f, &rows) : sy_int4_from_gptq(&f, &rows));
    expect_rows(packed, &f, &rows);
    free(rows.codes);
    free(rows.zeros);
    free(rows.scales);
    free(codes);
    free(zeros);
    free(scales);
    free(g_idx);
}

static void what_the_tools_packed_is_unpacked(void **state) {
    (void)state;
    char path[512];
    json_t *root;
    MUST(sy_json_load(data_path(path, sizeof path, "packed_by_tools.json"), SY_JSON_MAX_CONFIG,
                      &root));
    check(root, "awq", true);
    check(root, "gptq", false);
    check(root, "gptq_zeros", false);
    json_decref(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_the_tools_packed_is_unpacked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
