/* Weights of all experts in one tensor: plain or FP8, [experts, rows, columns], or in blocks of 32
 * FP4 values. As in weight_format.c, names, dtypes and shapes tell the format, and the config must
 * not contradict. */
#include <stdio.h>

#include "base/checked.h"
#include "runtime/binder.h"

static bool is_stack(const sy_tensor_entry *t, int64_t experts, int64_t rows, int64_t columns) {
    return t->rank == 3 && t->shape[0] == experts && t->shape[1] == rows &&
           t->shape[2] == columns;
}

/* The scales of e4m3 codes for blocks of 128 x 128 of the stack. They are counted through the parts
 * of an expert, or anew in each of two. If the last block of a part has more than 64 rows, but not
 * all, both have as many, and which it is cannot be told. */
static sy_status place_blocks(const sy_binder *b,
                              const sy_tensor_entry *s,
                              int64_t experts,
                              int parts,
                              int64_t n,
                              int64_t k,
                              int64_t *part_row,
                              int64_t *scale_rows) {
    sy_status st = SY_OK;
    int64_t columns = sy_ceil_div(k, 128), own = sy_ceil_div(n, 128);
    int64_t through = sy_ceil_div(parts * n, 128);
    bool anew = parts == 2 && through != 2 * own && is_stack(s, experts, 2 * own, columns);
    *part_row = anew ? own : -1;
    *scale_rows = anew ? 2 * own : through;
    SY_TRY(sy_binder_check_shape(b, s, 3, (int64_t[]){experts, *scale_rows, columns}));
    if (parts == 2 && through == 2 * own && n % 128 != 0)
        SY_TRY(sy_binder_fail(b, s, SY_ERR_UNSUPPORTED,
                              "expected scales that tell how blocks of 128 rows are counted, "
                              "found %lld for gate and up of %lld rows each: as many as for "
                              "blocks counted through both, and anew in up",
                              (long long)*scale_rows, (long long)n));
done:
    return st;
}

/* The scales of e4m3 codes [experts, parts * n, k]: of each expert one, or one a part, or one an
 * output, or one for each block of 128 x 128, which it has to be where the config has blocks. Sets
 * the parts of expert 0. */
static sy_status place_stack_scales(const sy_binder *b,
                                    const sy_tensor_entry *s,
                                    int64_t experts,
                                    int parts,
                                    int64_t n,
                                    int64_t k,
                                    sy_piece *part,
                                    int64_t *scale_rows) {
    sy_status st = SY_OK;
    sy_quant *quant = &part[0].quant;
    bool per_block = b->spec->quant.scales == SY_QUANT_PER_BLOCK;
    bool one_block = parts * n <= 128 && k <= 128;
    int64_t part_row = 0; /* of scales, between two parts; -1: counted through */
    *quant = (sy_quant){.scale = s->dtype};
    if (per_block) SY_TRY(sy_binder_check_block_size(b, part[0].codes));
    if ((!per_block || one_block) && is_stack(s, experts, 1, 1)) {
        *scale_rows = 1;
    } else if (parts == 2 && !per_block && is_stack(s, experts, 2, 1)) {
        part_row = 1;
        *scale_rows = 2;
    } else if (!per_block && is_stack(s, experts, parts * n, 1)) {
        quant->outputs = 1;
        part_row = -1;
        *scale_rows = parts * n;
    } else {
        quant->group = quant->outputs = 128;
        SY_TRY(place_blocks(b, s, experts, parts, n, k, &part_row, scale_rows));
    }
    if (parts == 1) goto done;
    part[1] = sy_piece_from(&part[0], n);
    if (part_row >= 0) {
        part[1] = part[0];
        part[1].row0 = part[1].base_row = n;
        part[1].scale_row = part_row;
    }
    /* Parts of one matrix have their scales alike. */
    part[0].spread = part[1].spread;
    part[0].quant.outputs = part[1].quant.outputs;
done:
    return st;
}

sy_status sy_binder_stack(sy_binder *b,
                          const char *tensor,
                          int64_t experts,
                          int parts,
                          int64_t n,
                          int64_t k,
                          sy_piece *part,
                          sy_stack_rows *rows) {
    sy_status st = SY_OK;
    char name[SY_NAME_CHARS + 16];
    const sy_tensor_entry *codes = sy_binder_find(b, tensor), *s;
    int64_t shape[3] = {experts, parts * n, k};
    *rows = (sy_stack_rows){parts * n, parts * n};
    part[0] = (sy_piece){.width = k, .row_step = 1};
    if (codes != NULL && codes->dtype != SY_F32 && codes->dtype != SY_F16 &&
        codes->dtype != SY_BF16 && codes->dtype != SY_F8_E4M3)
        SY_TRY(sy_binder_refuse_dtype(b, codes, "F32, F16, BF16 or F8_E4M3"));
    if (codes == NULL || codes->dtype != SY_F8_E4M3) {
        SY_TRY(sy_binder_require(b, tensor, 3, shape, &part[0].codes));
        part[0].dtype = part[0].codes->dtype;
        if (parts == 2) part[1] = sy_piece_from(&part[0], n);
        goto done;
    }
    SY_TRY(sy_binder_check_shape(b, codes, 3, shape));
    snprintf(name, sizeof name, "%s_scale_inv", tensor);
    s = sy_binder_find(b, name);
    if (s == NULL)
        SY_FAIL(SY_ERR_FORMAT, "%s: tensor \"%s\" is missing", b->checkpoint->directory, name);
    SY_TRY(sy_binder_check_fp8_scale(b, s));
    part[0].codes = codes;
    part[0].dtype = SY_F8_E4M3;
    part[0].scales = s;
    SY_TRY(place_stack_scales(b, s, experts, parts, n, k, part, &rows->scales));
done:
    return st;
}

sy_status sy_binder_blocks(sy_binder *b,
                           const char *tensor,
                           int64_t experts,
                           int64_t n,
                           int64_t k,
                           sy_piece *out) {
    sy_status st = SY_OK;
    char name[SY_NAME_CHARS + 8];
    *out = (sy_piece){.width = k,
                      .row_step = 1,
                      .dtype = SY_F4,
                      .quant = {.scale = SY_F8_E8M0, .group = 32, .outputs = 1}};
    if (k % 32 != 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: \"%s_blocks\": %lld values are no blocks of 32",
                b->checkpoint->directory, tensor, (long long)k);
    snprintf(name, sizeof name, "%s_blocks", tensor);
    out->codes = sy_binder_find(b, name);
    if (out->codes == NULL)
        SY_FAIL(SY_ERR_FORMAT, "%s: tensor \"%s\" is missing", b->checkpoint->directory, name);
    if (out->codes->dtype != SY_U8) SY_TRY(sy_binder_refuse_dtype(b, out->codes, "U8"));
    SY_TRY(sy_binder_check_shape(b, out->codes, 4, (int64_t[]){experts, n, k / 32, 16}));
    snprintf(name, sizeof name, "%s_scales", tensor);
    out->scales = sy_binder_find(b, name);
    if (out->scales == NULL)
        SY_FAIL(SY_ERR_FORMAT, "%s: tensor \"%s\" is missing", b->checkpoint->directory, name);
    if (out->scales->dtype != SY_U8 && out->scales->dtype != SY_F8_E8M0)
        SY_TRY(sy_binder_refuse_dtype(b, out->scales, "U8 or F8_E8M0"));
    SY_TRY(sy_binder_check_shape(b, out->scales, 3, (int64_t[]){experts, n, k / 32}));
done:
    return st;
}
