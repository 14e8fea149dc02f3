/* FP8 experts in stacks are written one by one, with the scales that are theirs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/convert_fixture.h"

#define STACKS "model.layers.%d.mlp.experts."

/* FP8 weights of the experts of a layer in stacks [E, 2F, H] and [E, H, F]. Scales [E, rows,
 * columns] are one an expert, or for blocks of 128 x 128 counted through gate and up. */
typedef struct fp8_stacks {
    int layer, E, F, H;
} fp8_stacks;

static char *read_named(const sy_checkpoint *c, const char *name, const sy_tensor_entry **t) {
    *t = sy_checkpoint_find(c, name);
    if (*t == NULL) fail_msg("%s is missing", name);
    return read_tensor(c, *t);
}

/* Compares one matrix, rows [row0, row0 + n) of an expert in a stack, with what was written. */
static void check_unstacked(const sy_checkpoint *from,
                            const sy_checkpoint *to,
                            const fp8_stacks *s,
                            const char *stack,
                            const char *module,
                            int expert,
                            int64_t row0,
                            int64_t n) {
    char name[160];
    const sy_tensor_entry *t, *u, *v;
    snprintf(name, sizeof name, STACKS "%s", s->layer, stack);
    char *codes = read_named(from, name, &t);
    snprintf(name, sizeof name, STACKS "%s_scale_inv", s->layer, stack);
    char *scales = read_named(from, name, &u);
    snprintf(name, sizeof name, STACKS "%d.%s.weight", s->layer, expert, module);
    char *plain = read_named(to, name, &v);
    int64_t rows = t->shape[1], k = t->shape[2];
    assert_true(v->rank == 2 && v->shape[0] == n && v->shape[1] == k);
    for (int64_t r = 0; r < n; r++)
        for (int64_t i = 0; i < k; i++) {
            int64_t row = u->shape[1] == 1 ? 0 : (row0 + r) / 128;
            int64_t column = u->shape[2] == 1 ? 0 : i / 128;
            int64_t scale = (expert * u->shape[1] + row) * u->shape[2] + column;
            uint8_t code = (uint8_t)codes[(expert * rows + row0 + r) * k + i];
            float exact =
                sy_f32_from_e4m3(code) * (float)value_of(u->dtype, scales, (uint64_t)scale);
            double expected = (double)sy_f32_from_bf16(sy_bf16_from_f32(exact));
            if (value_of(SY_BF16, plain, (uint64_t)(r * k + i)) != expected)
                fail_msg("%s: row %d, column %d is %g, expected %g", name, (int)r, (int)i,
                         value_of(SY_BF16, plain, (uint64_t)(r * k + i)), expected);
        }
    free(codes);
    free(scales);
    free(plain);
}

static void check_fp8_stacks(const char *source, const fp8_stacks *s) {
    char out[PATH_CHARS];
    sy_checkpoint *from, *to;
    sy_model_spec *spec;
    in_scratch(out, "unstacked%d", s->F);
    sy_convert_options o = wish(source, out, SY_CONVERT_BF16);
    MUST(convert(&o));
    MUST(sy_spec_load(out, &spec));
    assert_int_equal(spec->quant.method, SY_QUANT_NONE);
    sy_spec_destroy(spec);
    MUST(sy_checkpoint_open(source, &from));
    MUST(sy_checkpoint_open(out, &to));
    for (int e = 0; e < s->E; e++) {
        check_unstacked(from, to, s, "gate_up_proj", "gate_proj", e, 0, s->F);
        check_unstacked(from, to, s, "gate_up_proj", "up_proj", e, s->F, s->F);
        check_unstacked(from, to, s, "down_proj", "down_proj", e, 0, s->H);
    }
    for (int i = 0; i < to->n_tensors; i++)
        assert_true(strstr(to->tensor[i].name, "scale") == NULL &&
                    to->tensor[i].dtype != SY_F8_E4M3);
    sy_checkpoint_close(from);
    sy_checkpoint_close(to);
}

/* Codes and scales of which each is another than its neighbours; the codes of NaN are left out. */
static void add_fp8_stack(edited_model *m,
                          int layer,
                          const char *stack,
                          const int64_t shape[3],
                          const int64_t scales[3]) {
    char name[160];
    snprintf(name, sizeof name, STACKS "%s", layer, stack);
    edited_drop(m, name);
    edited_tensor *t = edited_add(m, name, SY_F8_E4M3, 3, shape);
    for (uint64_t i = 0; i < t->bytes; i++)
        t->data[i] = (char)(i % 251 % 127 + i % 2 * 128);
    snprintf(name, sizeof name, STACKS "%s_scale_inv", layer, stack);
    t = edited_add(m, name, SY_F32, 3, scales);
    for (uint64_t i = 0; i < t->bytes / 4; i++)
        memcpy(t->data + 4 * i, &(float){1 + (float)i / 8}, 4);
}

static void stacks_of_fp8_become_plain_experts(void **state) {
    (void)state;
    char path[PATH_CHARS];
    const fp8_stacks published = {1, 4, 18, 32}, blocks = {0, 11, 168, 24};
    data_path(path, sizeof path, "tiny/quantised_fp8_stacked");
    check_fp8_stacks(path, &published);
    edited_model m; /* the middle one of three blocks holds rows of gate and of up */
    edited_open(&m, "tiny/qwen3_moe_fused");
    int64_t E = blocks.E, F = blocks.F, H = blocks.H;
    json_object_set_new(m.config, "moe_intermediate_size", json_integer(F));
    json_object_set_new(
        m.config, "quantization_config",
        json_pack("{s:s, s:[i, i]}", "quant_method", "fp8", "weight_block_size", 128, 128));
    for (int l = 0; l < 3; l += 2) {
        add_fp8_stack(&m, l, "gate_up_proj", (int64_t[]){E, 2 * F, H}, (int64_t[]){E, 3, 1});
        add_fp8_stack(&m, l, "down_proj", (int64_t[]){E, H, F}, (int64_t[]){E, 1, 2});
    }
    edited_write(&m);
    check_fp8_stacks(m.directory, &blocks);
    edited_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(stacks_of_fp8_become_plain_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
