/* Reading loads.json: what is accepted, and what is refused with which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/loads_file.h"

static sy_status read_text(const char *text, sy_loads_file **out) {
    char path[] = "/tmp/sy_loads_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
    sy_status st = sy_loads_read(path, out);
    unlink(path);
    return st;
}

static void expect_error(sy_status st, const char *text) {
    if (st == SY_OK) fail_msg("accepted; expected \"%s\"", text);
    if (strstr(sy_last_error(), text) == NULL)
        fail_msg("expected \"%s\" in \"%s\"", text, sy_last_error());
}

/* Three tokens, top 2 of 3 experts, on 2 ranks. */
#define HEAD "{\"version\": 1, \"model\": \"m\", \"ranks\": 2, \"tokens\": 3, \"layers\": ["
#define LAYER(n)                                                                               \
    "{\"layer\": " #n ", \"experts\": 3, \"top_k\": 2, \"counts\": [[2, 0], [1, 1], [0, 2]]}"

static void a_file_is_read_in_any_order_of_its_keys(void **state) {
    (void)state;
    sy_loads_file *f;
    assert_int_equal(
        read_text("{\"layers\": [{\"counts\": [[2, 0], [1, 1], [0, 2]], \"top_k\": 2, "
                  "\"new\": {\"a\": [1]}, \"experts\": 3, \"layer\": 1}," LAYER(
                      4) "], \"tokens\": 3, \"label\": \"code\", \"ranks\": 2, "
                         "\"model\": \"m\", \"version\": 1}",
                  &f),
        SY_OK);
    assert_string_equal(f->model, "m");
    assert_int_equal(f->n_ranks, 2);
    assert_int_equal(f->tokens, 3);
    assert_int_equal(f->n_layers, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(f->layer[i].layer, i == 0 ? 1 : 4);
        assert_int_equal(f->layer[i].experts, 3);
        assert_int_equal(f->layer[i].top_k, 2);
        for (int e = 0; e < 3; e++)
            assert_int_equal(sy_loads_of(f, i, e), 2);
        assert_int_equal(f->layer[i].count[3], 1); /* expert 1 on rank 1 */
    }
    sy_loads_file_free(f);
    sy_loads_file_free(NULL);
}

static void faults_are_named_with_layer_and_expert(void **state) {
    (void)state;
    static const struct {
        const char *json, *text;
    } table[] = {
        {"", "byte 0: expected an object, found the end"},
        {"[1]", "byte 0: expected an object, found an array"},
        {"{}", "\"version\" is missing: not expert loads"},
        {"{\"kind\": \"placement\", \"version\": 1, \"model\": \"m\", \"ranks\": 1}",
         "\"tokens\" is missing: not expert loads"},
        {"{\"version\": 2}", "\"version\": expected 1 to 1, found 2"},
        {"{\"version\": \"1\"}", "expected an unsigned integer written as one, found a string"},
        {"{\"version\": 1, \"version\": 1, \"ranks\": 0}",
         "\"ranks\": expected 1 to 4096, found 0"},
        {"{\"version\": 1, \"model\": \"m\\u0000\"}", "\"model\": expected a name"},
        {"{\"version\": 1} x", "byte 15"},
        {HEAD "]}", "no layer with experts is listed"},
        {HEAD "3]}", "expected an object, found a number"},
        {HEAD "{\"layer\": 0, \"experts\": 3, \"counts\": []}]}",
         "layers[0]: \"top_k\" is missing"},
        {HEAD "{\"layer\": 0, \"experts\": 3, \"top_k\": 2}]}", "\"counts\" is missing"},
        {HEAD LAYER(3) "," LAYER(2) "]}", "layer 2 is listed behind layer 3"},
        {HEAD LAYER(3) "," LAYER(3) "]}", "layer 3 is listed behind layer 3"},
        {HEAD "{\"layer\": 7, \"experts\": 3, \"top_k\": 4, \"counts\": [[2, 0]]}]}",
         "layer 7: top_k is 4 of 3 experts"},
        {HEAD "{\"layer\": 7, \"experts\": 3, \"top_k\": 2, \"counts\": [[2, 0], [1, 1]]}]}",
         "layer 7: expected counts of 3 experts, found 2"},
        {HEAD "{\"layer\": 7, \"experts\": 3, \"top_k\": 2, \"counts\": [[2], [2], [2]]}]}",
         "layer 7: expected counts of 2 ranks for each expert, found 1"},
        {HEAD "{\"layer\": 7, \"experts\": 2, \"top_k\": 2, \"counts\": [[2, 1], [3]]}]}",
         "layers[0]: expert 1: expected 2 ranks as for expert 0, found 1"},
        {HEAD
         "{\"layer\": 7, \"experts\": 3, \"top_k\": 2, \"counts\": [[2, 0], [3, 1], [0, 0]]}]}",
         "layer 7, expert 1: expected at most 3 tokens, all there are, found 4"},
        {HEAD "{\"layer\": 7, \"experts\": 2, \"top_k\": 2, \"counts\": "
              "[[18446744073709551615, 1], [0, 0]]}]}",
         "layer 7, expert 0: expected at most 3 tokens"},
        {HEAD
         "{\"layer\": 7, \"experts\": 3, \"top_k\": 2, \"counts\": [[2, 0], [1, 1], [0, 1]]}]}",
         "layer 7: the counts sum to 5, expected 6 (3 tokens x top_k 2)"},
        {HEAD "{\"layer\": 7, \"counts\": [[2, -1]]}]}", "layers[0]: at byte"},
        {HEAD "{\"layer\": 7, \"counts\": [[2, 1.5]]}]}", "found a real number"},
        {HEAD "{\"layer\": 7, \"counts\": [2]}]}", "layers[0]: "},
        {HEAD "{\"layer\": 9999}]}", "\"layer\": expected 0 to 4095, found 9999"},
        {"{\"version\": 1, \"tokens\": 18446744073709551615}", "\"tokens\": expected 0 to"},
        {"{\"version\": 1, \"model\": \"\xff\"}", "not valid UTF-8"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        sy_loads_file *f;
        expect_error(read_text(table[i].json, &f), table[i].text);
        assert_null(f);
    }
}

static void cut_files_are_refused(void **state) {
    (void)state;
    static const char whole[] = HEAD LAYER(0) "," LAYER(2) "]}";
    for (size_t n = 0; n < sizeof whole - 1; n++) {
        char text[sizeof whole];
        sy_loads_file *f;
        snprintf(text, sizeof text, "%.*s", (int)n, whole);
        if (read_text(text, &f) == SY_OK) fail_msg("accepted when cut at byte %zu", n);
    }
}

static void missing_files_and_folders_are_refused(void **state) {
    (void)state;
    sy_loads_file *f;
    expect_error(sy_loads_read("/nonexistent/loads.json", &f),
                 "/nonexistent/loads.json: No such");
    expect_error(sy_loads_read("/tmp", &f), "/tmp: expected a regular file");
}

static void loads_of_other_models_do_not_match(void **state) {
    (void)state;
    sy_loads_file *a, *b;
    static const struct {
        const char *json, *text;
    } table[] = {
        {"{\"version\": 1, \"model\": \"n\", \"ranks\": 2, \"tokens\": 3, \"layers\": [" LAYER(
             1) "]}",
         "b: loads of a model \"n\", those of a are of \"m\""},
        {HEAD LAYER(1) "," LAYER(2) "]}", "b: 2 layers with experts, expected 1 as in a"},
        {HEAD LAYER(2) "]}", "b: layer 2 with 3 experts, top_k 2; expected layer 1"},
    };
    assert_int_equal(read_text(HEAD LAYER(1) "]}", &a), SY_OK);
    assert_int_equal(sy_loads_match(a, "a", a, "a"), SY_OK);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        assert_int_equal(read_text(table[i].json, &b), SY_OK);
        expect_error(sy_loads_match(a, "a", b, "b"), table[i].text);
        sy_loads_file_free(b);
    }
    sy_loads_file_free(a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_is_read_in_any_order_of_its_keys),
        cmocka_unit_test(faults_are_named_with_layer_and_expert),
        cmocka_unit_test(cut_files_are_refused),
        cmocka_unit_test(missing_files_and_folders_are_refused),
        cmocka_unit_test(loads_of_other_models_do_not_match),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
