/* AWQ and GPTQ weights that are not as they should be: refused with file and tensor, expected and
 * found. And the orders of inputs that GPTQ knows: a g_idx that ascends loads whatever the config
 * announces, another does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/weight_fixture.h"

#define MODULE "model.layers.1.mlp.experts.2.up_proj" /* [64, 32]: one group of 32 */
enum { DOWN_GROUPS = 2 };
#define DOWN "model.layers.1.mlp.experts.2.down_proj" /* [32, 64]: two groups */

static const char *const models[] = {"tiny/quantised_awq", "tiny/quantised_gptq",
                                     "tiny/quantised_gptq_v2"};
static const char *const parts[] = {"qweight", "qzeros", "scales", "g_idx"};
enum { N_MODELS = 3, N_PARTS = 4 };

static bool has_part(int model, int part) {
    return part < 3 || model > 0;
}

static json_t *quantization(edited_model *e) {
    return json_object_get(e->config, "quantization_config");
}

static edited_tensor *find_part(edited_model *e, const char *module, const char *part) {
    char name[160];
    snprintf(name, sizeof name, "%s.%s", module, part);
    return edited_find(e, name);
}

static void
expect_refused(edited_model *e, sy_status expected, const char *tensor, const char *what) {
    loaded l;
    sy_status st = load(e, &l);
    if (st != expected || strstr(sy_last_error(), e->directory) == NULL ||
        strstr(sy_last_error(), tensor) == NULL || strstr(sy_last_error(), what) == NULL)
        fail_msg("expected %s and \"%s\", found %s: %s", tensor, what, sy_status_name(st),
                 sy_last_error());
    unload(&l);
    edited_close(e);
}

static void a_missing_part_is_named(void **state) {
    (void)state;
    for (int m = 0; m < N_MODELS; m++)
        for (int p = 1; p < 3; p++) {
            edited_model e;
            char name[160];
            edited_open(&e, models[m]);
            snprintf(name, sizeof name, MODULE ".%s", parts[p]);
            edited_drop(&e, name);
            expect_refused(&e, SY_ERR_FORMAT, name, "is missing");
        }
}

static void a_part_of_another_shape_is_refused_with_both_shapes(void **state) {
    (void)state;
    for (int m = 0; m < N_MODELS; m++)
        for (int p = 0; p < N_PARTS; p++)
            for (int i = 0; i < (p < 3 ? 2 : 1) && has_part(m, p); i++) {
                edited_model e;
                char name[160];
                edited_open(&e, models[m]);
                edited_tensor *t = find_part(&e, MODULE, parts[p]);
                t->shape[i]++;
                edited_resize(t);
                snprintf(name, sizeof name, "model.safetensors: tensor \"" MODULE ".%s\"",
                         parts[p]);
                expect_refused(&e, SY_ERR_FORMAT, name, "expected shape [");
            }
}

static void a_part_of_another_dtype_is_refused_by_name(void **state) {
    (void)state;
    for (int m = 0; m < N_MODELS; m++)
        for (int p = 0; p < N_PARTS; p++) {
            edited_model e;
            char name[160];
            if (!has_part(m, p)) continue;
            edited_open(&e, models[m]);
            edited_tensor *t = find_part(&e, MODULE, parts[p]);
            t->dtype = SY_I64;
            edited_resize(t);
            snprintf(name, sizeof name, "model.safetensors: tensor \"" MODULE ".%s\"",
                     parts[p]);
            expect_refused(&e, SY_ERR_UNSUPPORTED, name, "has dtype I64; expected ");
        }
}

static void a_scale_that_is_no_number_is_refused(void **state) {
    (void)state;
    static const uint16_t wrong[] = {0x7e00, 0xfe00, 0x7c00, 0xfc00}; /* NaN, infinity */
    for (int m = 0; m < N_MODELS; m++)
        for (int i = 0; i < 4; i++) {
            edited_model e;
            edited_open(&e, models[m]);
            edited_tensor *t = find_part(&e, MODULE, "scales");
            memcpy(t->data + t->bytes - 2, &wrong[i], 2);
            expect_refused(&e, SY_ERR_FORMAT, "model.safetensors: tensor \"" MODULE,
                           "output 63, scale group 0");
        }
}

static void groups_of_a_size_that_the_scales_contradict_are_refused(void **state) {
    (void)state;
    static const struct {
        int size;
        sy_status status;
        const char *text;
    } table[] = {{16, SY_ERR_FORMAT, "expected shape ["},
                 {-1, SY_ERR_FORMAT, "expected shape ["},
                 {24, SY_ERR_FORMAT, "are no whole groups of 24"},
                 {8, SY_ERR_UNSUPPORTED, "groups of 8 values; expected 16, 32, 64 or 128"}};
    for (int m = 0; m < N_MODELS; m++)
        for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
            edited_model e;
            edited_open(&e, models[m]);
            json_object_set_new(quantization(&e), "group_size", json_integer(table[i].size));
            expect_refused(&e, table[i].status, "model.safetensors: tensor \"model.layers.",
                           table[i].text);
        }
}

/* Loads both; their memory must be the same. */
static void expect_same(edited_model *a, edited_model *b) {
    loaded l[2];
    if (load(a, &l[0]) != SY_OK || load(b, &l[1]) != SY_OK) fail_msg("%s", sy_last_error());
    assert_int_equal(l[0].weights->bytes, l[1].weights->bytes);
    assert_memory_equal(l[0].weights->block, l[1].weights->block, l[0].weights->bytes);
    unload(&l[0]);
    unload(&l[1]);
    edited_close(a);
    edited_close(b);
}

/* static_groups, or an order that happens to be the inputs' own. */
static void an_announced_order_that_ascends_loads(void **state) {
    (void)state;
    for (int m = 1; m < N_MODELS; m++) {
        edited_model plain, announced;
        edited_open(&plain, models[m]);
        edited_open(&announced, models[m]);
        json_object_set_new(quantization(&announced), "desc_act", json_true());
        json_object_set_new(quantization(&announced), "static_groups", json_true());
        expect_same(&plain, &announced);
    }
}

static void without_an_announced_order_no_index_is_needed(void **state) {
    (void)state;
    for (int m = 1; m < N_MODELS; m++) {
        edited_model plain, without;
        edited_open(&plain, models[m]);
        edited_open(&without, models[m]);
        edited_drop(&without, MODULE ".g_idx");
        expect_same(&plain, &without);
    }
}

static void an_index_that_does_not_ascend_is_refused_by_name(void **state) {
    (void)state;
    for (int m = 1; m < N_MODELS; m++) {
        edited_model e;
        edited_open(&e, models[m]);
        json_object_set_new(quantization(&e), "desc_act", json_true());
        edited_tensor *t = find_part(&e, DOWN, "g_idx");
        int32_t first, last;
        memcpy(&first, t->data, 4);
        memcpy(&last, t->data + t->bytes - 4, 4);
        assert_int_equal(first, 0);
        assert_int_equal(last, DOWN_GROUPS - 1);
        memcpy(t->data, &last, 4);
        memcpy(t->data + t->bytes - 4, &first, 4);
        expect_refused(&e, SY_ERR_UNSUPPORTED, "model.safetensors: tensor \"" DOWN ".qweight\"",
                       "g_idx: input 0 is in another group than 0");
    }
}

static void an_index_out_of_range_is_refused(void **state) {
    (void)state;
    static const int32_t wrong[] = {DOWN_GROUPS, -1, INT32_MAX, INT32_MIN};
    for (int m = 1; m < N_MODELS; m++)
        for (int i = 0; i < 4; i++) {
            edited_model e;
            char text[96];
            edited_open(&e, models[m]);
            memcpy(find_part(&e, DOWN, "g_idx")->data + 4 * 5, &wrong[i], 4);
            snprintf(text, sizeof text, "g_idx of input 5: expected 0 to 1, found %d",
                     wrong[i]);
            expect_refused(&e, SY_ERR_FORMAT, "model.safetensors: tensor \"" DOWN ".qweight\"",
                           text);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_missing_part_is_named),
        cmocka_unit_test(a_part_of_another_shape_is_refused_with_both_shapes),
        cmocka_unit_test(a_part_of_another_dtype_is_refused_by_name),
        cmocka_unit_test(a_scale_that_is_no_number_is_refused),
        cmocka_unit_test(groups_of_a_size_that_the_scales_contradict_are_refused),
        cmocka_unit_test(an_announced_order_that_ascends_loads),
        cmocka_unit_test(without_an_announced_order_no_index_is_needed),
        cmocka_unit_test(an_index_that_does_not_ascend_is_refused_by_name),
        cmocka_unit_test(an_index_out_of_range_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
