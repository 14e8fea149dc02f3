/* The checkpoints that the fuzz target of quantised weights starts from: all formats load as they
 * are made, and its seeds end in success or an error. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "tests/fuzz/weight_input.h"

static void every_format_loads_without_changes(void **state) {
    (void)state;
    for (uint8_t f = 0; f < INPUT_FORMATS; f++)
        for (uint8_t family = 0; family < 2; family++)
            if (weight_input_load((uint8_t[]){f, family}, 2) != SY_OK)
                fail_msg("format %d, family %d: %s", f, family, sy_last_error());
}

/* Each tensor dropped in turn is missed, but for those that a model can do without. */
static void no_tensor_can_be_dropped_unnoticed(void **state) {
    (void)state;
    for (uint8_t f = 0; f < INPUT_FORMATS; f++) {
        weight_input m;
        input_open(&m, (input_format)f, 0);
        json_decref(m.config);
        for (uint8_t i = 0; i < m.n; i++) {
            if (input_is(&m.tensor[i], "g_idx")) continue;
            uint8_t change[] = {f, 0, 0, i, 0};
            if (weight_input_load(change, sizeof change) == SY_OK)
                fail_msg("format %d loads without %s", f, m.tensor[i].name);
        }
    }
}

static void seeds_of_the_fuzz_target_are_survived(void **state) {
    (void)state;
    char path[600];
    const char *root = getenv("SY_SOURCE_DIR");
    struct dirent *entry;
    int n = 0;
    assert_non_null(root);
    snprintf(path, sizeof path, "%s/tests/fuzz/seeds/fuzz_weights", root);
    DIR *directory = opendir(path);
    assert_non_null(directory);
    while ((entry = readdir(directory)) != NULL) {
        char *data;
        size_t size;
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/tests/fuzz/seeds/fuzz_weights/%s", root, entry->d_name);
        assert_int_equal(sy_read_file(path, 1 << 20, &data, &size), SY_OK);
        weight_input_load((const uint8_t *)data, size);
        free(data);
        n++;
    }
    closedir(directory);
    assert_true(n > INPUT_FORMATS);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_format_loads_without_changes),
        cmocka_unit_test(no_tensor_can_be_dropped_unnoticed),
        cmocka_unit_test(seeds_of_the_fuzz_target_are_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
