/* Weights that are decoded while they are read, as kv_b of latent attention is: no backend sees
 * their scales, so that reading has to check these, with their place in the file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/weight_fixture.h"

#define KV_B_SCALES "model.layers.1.self_attn.kv_b_proj.weight_scale_inv"

/* Latent attention with kv_b [300, 152], whose scales are 3 x 2 blocks. */
static void open_wide_kv_b(edited_model *e) {
    static const struct {
        const char *name;
        int64_t first, last; /* of the shape; 0: as it is */
    } wide[] = {
        {"kv_a_proj_with_mqa.weight", 160, 0}, {"kv_a_proj_with_mqa.weight_scale_inv", 2, 0},
        {"kv_a_layernorm.weight", 152, 0},     {"kv_b_proj.weight", 300, 152},
        {"kv_b_proj.weight_scale_inv", 3, 2},  {"o_proj.weight", 0, 270},
        {"o_proj.weight_scale_inv", 0, 3}};
    edited_open(e, "tiny/quantised_fp8_block");
    json_object_set_new(e->config, "kv_lora_rank", json_integer(152));
    json_object_set_new(e->config, "v_head_dim", json_integer(90));
    for (int l = 0; l < 2; l++)
        for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) {
            char name[160];
            snprintf(name, sizeof name, "model.layers.%d.self_attn.%s", l, wide[i].name);
            edited_tensor *t = edited_find(e, name);
            if (wide[i].first > 0) t->shape[0] = wide[i].first;
            if (wide[i].last > 0) t->shape[1] = wide[i].last;
            edited_resize(t);
        }
}

/* The same with a scale for each of the 66 outputs of kv_b as it is. */
static void open_kv_b_per_channel(edited_model *e) {
    edited_open(e, "tiny/quantised_fp8_block");
    json_object_set_new(json_object_get(e->config, "quantization_config"), "weight_block_size",
                        json_null());
    edited_tensor *t = edited_find(e, KV_B_SCALES);
    t->shape[0] = 66;
    edited_resize(t);
}

static void open_kv_b_of_one_block(edited_model *e) {
    edited_open(e, "tiny/quantised_fp8_block");
}

static void a_scale_of_decoded_weights_that_is_no_number_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        float value;
    } wrong[] = {{"nan", __builtin_nanf("")}, {"inf", __builtin_inff()}};
    static const struct {
        void (*open)(edited_model *);
        int row, column; /* of the last scale, which is the wrong one */
    } models[] = {
        {open_kv_b_of_one_block, 0, 0}, {open_wide_kv_b, 2, 1}, {open_kv_b_per_channel, 65, 0}};
    for (int m = 0; m < 3; m++) {
        edited_model e;
        loaded l;
        models[m].open(&e);
        MUST(load(&e, &l));
        unload(&l);
        edited_close(&e);
        for (int i = 0; i < 2; i++) {
            char what[256];
            models[m].open(&e);
            edited_tensor *t = edited_find(&e, KV_B_SCALES);
            memcpy(t->data + t->bytes - sizeof(float), &wrong[i].value, sizeof(float));
            snprintf(what, sizeof what,
                     "model.safetensors: tensor \"" KV_B_SCALES
                     "\": expected finite scales, found %s in row %d, column %d",
                     wrong[i].text, models[m].row, models[m].column);
            expect_status(&e, SY_ERR_FORMAT, what);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_scale_of_decoded_weights_that_is_no_number_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
