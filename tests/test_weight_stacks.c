/* FP8 weights of all experts in one tensor, [E, 2F, H] and [E, H, F], with "_scale_inv" beside
 * them: each expert's part reaches the backend with the scales that are its own, however they are
 * counted; what is missing or misshapen is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/checked.h"
#include "runtime/weight_decode.h"
#include "tests/weight_fixture.h"

#define STACK "model.layers.%d.mlp.experts."
enum { E = 11, H = 24, N_LAYERS = 3, DENSE_LAYER = 1, BLOCK = 128 };

/* What a scale of the stack is for. */
typedef enum counting { EXPERT, PART, OUTPUT, BLOCKS, BLOCKS_OF_PARTS } counting;

typedef struct form {
    const char *name;
    counting counting;
    int F;
    sy_dtype dtype;
    int64_t gate_up_rows, gate_up_columns, down_rows, down_columns; /* of scales, an expert */
    int outputs; /* of gate and up as matrices */
} form;

static const form forms[] = {
    {"one an expert", EXPERT, 40, SY_BF16, 1, 1, 1, 1, 0},
    {"one a part", PART, 40, SY_F32, 2, 1, 1, 1, 0},
    {"one an output", OUTPUT, 40, SY_F32, 80, 1, H, 1, 1},
    {"whole blocks", BLOCKS, 256, SY_F32, 4, 1, 1, 2, 128},
    {"whole blocks in powers of two", BLOCKS, 128, SY_F8_E8M0, 2, 1, 1, 1, 128},
    {"blocks that hold both parts", BLOCKS, 168, SY_F32, 3, 1, 1, 2, 1},
    {"one block for both parts", BLOCKS, 40, SY_F16, 1, 1, 1, 1, 0},
    {"blocks counted anew in each part", BLOCKS_OF_PARTS, 192, SY_F32, 4, 1, 1, 2, 128},
    {"a block for each part", BLOCKS_OF_PARTS, 40, SY_F8_E8M0, 2, 1, 1, 1, 128},
};
enum { N_FORMS = sizeof forms / sizeof forms[0] };

static bool is_per_block(const form *f) {
    return f->counting >= BLOCKS;
}

static edited_tensor *find_stack(edited_model *e, int layer, const char *suffix) {
    char name[160];
    snprintf(name, sizeof name, STACK "%s", layer, suffix);
    return edited_find(e, name);
}

static void
replace(edited_model *e, int layer, const char *stack, const int64_t shape[3], const form *f) {
    bool down = strcmp(stack, "down_proj") == 0;
    int64_t scales[3] = {E, down ? f->down_rows : f->gate_up_rows,
                         down ? f->down_columns : f->gate_up_columns};
    char name[160];
    snprintf(name, sizeof name, STACK "%s", layer, stack);
    edited_drop(e, name);
    fill_tensor(edited_add(e, name, SY_F8_E4M3, 3, shape), true);
    snprintf(name, sizeof name, STACK "%s_scale_inv", layer, stack);
    edited_tensor *t = edited_add(e, name, f->dtype, 3, scales);
    fill_tensor(t, false);
    for (uint64_t i = 0; f->dtype == SY_F8_E8M0 && i < t->bytes; i++)
        t->data[i] = (char)(120 + i % 7);
}

static void open_form(edited_model *e, const form *f) {
    edited_open(e, "tiny/qwen3_moe_fused");
    json_object_set_new(e->config, "moe_intermediate_size", json_integer(f->F));
    json_t *quant =
        json_pack("{s:s, s:s}", "quant_method", "fp8", "activation_scheme", "static");
    if (is_per_block(f))
        json_object_set_new(quant, "weight_block_size", json_pack("[i, i]", BLOCK, BLOCK));
    json_object_set_new(e->config, "quantization_config", quant);
    for (int l = 0; l < N_LAYERS; l++) {
        char name[160];
        if (l == DENSE_LAYER) continue;
        replace(e, l, "gate_up_proj", (int64_t[]){E, 2 * f->F, H}, f);
        replace(e, l, "down_proj", (int64_t[]){E, H, f->F}, f);
        snprintf(name, sizeof name, STACK "gate_up_proj_activation_scale", l);
        edited_add(e, name, SY_F32, 1, (int64_t[]){E});
    }
}

/* The row of an expert's scales that output `row` of a part has. */
static int64_t scale_row(const form *f, int parts, int part, int64_t n, int64_t row) {
    switch (f->counting) {
    case EXPERT:
        return 0;
    case PART:
        return parts == 2 ? part : 0;
    case OUTPUT:
        return part * n + row;
    case BLOCKS:
        return (part * n + row) / BLOCK;
    default:
        return part * sy_ceil_div(n, BLOCK) + row / BLOCK;
    }
}

/* The matrix of an expert [n, k], packed from what the definition says its weights are. */
static void expect_expert(loaded *l,
                          edited_model *e,
                          const form *f,
                          int layer,
                          int expert,
                          int parts,
                          const sy_matrix *found) {
    const edited_tensor *codes =
        find_stack(e, layer, parts == 2 ? "gate_up_proj" : "down_proj");
    const edited_tensor *scales =
        find_stack(e, layer, parts == 2 ? "gate_up_proj_scale_inv" : "down_proj_scale_inv");
    int64_t n = parts == 2 ? f->F : H, k = parts == 2 ? H : f->F;
    int64_t columns = scales->shape[2], rows = scales->shape[1];
    uint64_t size = (uint64_t)sy_dtype_bits(f->dtype) / 8;
    assert_int_equal(found->dtype, SY_F8_E4M3);
    assert_int_equal(found->quant.scale, f->dtype);
    if (parts == 2) assert_int_equal(found->quant.outputs, f->outputs);
    int outputs = found->quant.outputs;
    sy_matrix m = *found;
    uint64_t bytes = l->be->ops->matrix_bytes(l->be, &m);
    MUST(l->be->ops->alloc(l->be, &m.data, bytes, "expected"));
    for (int p = 0; p < parts; p++) {
        int64_t n_rows = outputs == 0 ? 1 : outputs == 1 ? n : sy_ceil_div(n, BLOCK);
        char *own = malloc((size_t)(n_rows * columns) * size);
        for (int64_t r = 0; r < n_rows; r++) {
            int64_t row = scale_row(f, parts, p, n, outputs == 0 ? 0 : r * outputs);
            memcpy(own + (size_t)(r * columns) * size,
                   scales->data + (size_t)((expert * rows + row) * columns) * size,
                   (size_t)columns * size);
        }
        sy_weight_source source = {.dtype = SY_F8_E4M3,
                                   .codes = codes->data + (expert * parts + p) * n * k,
                                   .scales = own};
        MUST(l->be->ops->pack(l->be, &m, p, 0, n, &source));
        free(own);
    }
    assert_memory_equal(found->data, m.data, bytes);
    l->be->ops->free(l->be, m.data, bytes);
}

static void each_expert_has_its_own_codes_and_scales(void **state) {
    (void)state;
    for (const form *f = forms; f < forms + N_FORMS; f++) {
        edited_model e;
        loaded l;
        open_form(&e, f);
        sy_status st = load(&e, &l);
        if (st != SY_OK) fail_msg("%s: %s", f->name, sy_last_error());
        for (int layer = 0; layer < N_LAYERS; layer++)
            for (int x = 0; x < E && layer != DENSE_LAYER; x++) {
                expect_expert(&l, &e, f, layer, x, 2, &l.weights->layer[layer].gate_up[x]);
                expect_expert(&l, &e, f, layer, x, 1, &l.weights->layer[layer].down[x]);
            }
        unload(&l);
        edited_close(&e);
    }
}

static void
expect_refused(edited_model *e, const form *f, sy_status expected, const char *what) {
    loaded l;
    sy_status st = load(e, &l);
    if (st != expected || strstr(sy_last_error(), what) == NULL ||
        strstr(sy_last_error(), "model.layers.0.mlp.experts.gate_up_proj") == NULL)
        fail_msg("%s: expected \"%s\", found %s: %s", f->name, what, sy_status_name(st),
                 sy_last_error());
    unload(&l);
    edited_close(e);
}

static void missing_scales_are_named(void **state) {
    (void)state;
    for (const form *f = forms; f < forms + N_FORMS; f++) {
        edited_model e;
        open_form(&e, f);
        edited_drop(&e, "model.layers.0.mlp.experts.gate_up_proj_scale_inv");
        expect_refused(&e, f, SY_ERR_FORMAT, "_scale_inv\" is missing");
    }
}

/* Scales that no way of counting gives, of any dimension. */
static void scales_of_another_shape_are_refused_with_both_shapes(void **state) {
    (void)state;
    for (const form *f = forms; f < forms + N_FORMS; f++)
        for (int i = 0; i < 3; i++) {
            edited_model e;
            open_form(&e, f);
            edited_tensor *t = find_stack(&e, 0, "gate_up_proj_scale_inv");
            t->shape[i] += i == 1 ? 6 : 1;
            edited_resize(t);
            expect_refused(&e, f, SY_ERR_FORMAT, "_scale_inv\": expected shape [11, ");
        }
}

/* Scales that would be one an expert, a part or an output, under a config of blocks. */
static void other_scales_than_the_announced_blocks_are_refused(void **state) {
    (void)state;
    static const form others[] = {
        {"one an expert", EXPERT, 168, SY_F32, 1, 1, 1, 1, 0},
        {"one a part", PART, 168, SY_F32, 2, 1, 1, 1, 0},
        {"one an output", OUTPUT, 168, SY_F32, 336, 1, H, 1, 1},
    };
    for (int i = 0; i < 3; i++) {
        edited_model e;
        char what[96];
        open_form(&e, &others[i]);
        json_object_set_new(json_object_get(e.config, "quantization_config"),
                            "weight_block_size", json_pack("[i, i]", BLOCK, BLOCK));
        snprintf(what, sizeof what, "expected shape [11, 3, 1], found [11, %d, 1]",
                 (int)others[i].gate_up_rows);
        expect_refused(&e, &others[i], SY_ERR_FORMAT, what);
    }
}

/* Two parts of 200 rows have 4 rows of blocks, and two of 72 rows have 2, whether these are counted
 * through both or anew in the second. */
static void blocks_that_can_be_counted_in_two_ways_are_refused(void **state) {
    (void)state;
    static const form both[] = {
        {"200 rows", BLOCKS, 200, SY_F32, 4, 1, 1, 2, 1},
        {"72 rows", BLOCKS, 72, SY_F32, 2, 1, 1, 1, 1},
    };
    for (int i = 0; i < 2; i++) {
        edited_model e;
        open_form(&e, &both[i]);
        expect_refused(&e, &both[i], SY_ERR_UNSUPPORTED,
                       "_scale_inv\": expected scales that tell how blocks of 128 rows are "
                       "counted, found ");
    }
}

static void scales_of_another_dtype_are_refused(void **state) {
    (void)state;
    edited_model e;
    open_form(&e, &forms[0]);
    edited_tensor *t = find_stack(&e, 0, "gate_up_proj_scale_inv");
    t->dtype = SY_U8;
    edited_resize(t);
    expect_refused(&e, &forms[0], SY_ERR_UNSUPPORTED,
                   "has dtype U8; expected F32, BF16, F16 or F8_E8M0");
}

/* NaN in every dtype that scales have, in the last expert's last scale. */
static void a_scale_that_is_no_number_is_refused(void **state) {
    (void)state;
    for (const form *f = forms; f < forms + N_FORMS; f++) {
        edited_model e;
        open_form(&e, f);
        edited_tensor *t = find_stack(&e, 0, "gate_up_proj_scale_inv");
        size_t size = (size_t)sy_dtype_bits(t->dtype) / 8;
        memset(t->data + t->bytes - size, 0xff, size);
        expect_refused(&e, f, SY_ERR_FORMAT, "scale");
    }
}

static void codes_of_another_shape_are_refused_with_both_shapes(void **state) {
    (void)state;
    edited_model e;
    open_form(&e, &forms[0]);
    edited_tensor *t = find_stack(&e, 0, "gate_up_proj");
    t->shape[1]++;
    edited_resize(t);
    expect_refused(&e, &forms[0], SY_ERR_FORMAT,
                   "expected shape [11, 80, 24], found [11, 81, 24]");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_expert_has_its_own_codes_and_scales),
        cmocka_unit_test(missing_scales_are_named),
        cmocka_unit_test(scales_of_another_shape_are_refused_with_both_shapes),
        cmocka_unit_test(other_scales_than_the_announced_blocks_are_refused),
        cmocka_unit_test(blocks_that_can_be_counted_in_two_ways_are_refused),
        cmocka_unit_test(scales_of_another_dtype_are_refused),
        cmocka_unit_test(a_scale_that_is_no_number_is_refused),
        cmocka_unit_test(codes_of_another_shape_are_refused_with_both_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
