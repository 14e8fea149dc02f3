/* In which format a weight is, by the tensors that are there: names, dtypes and shapes decide; the
 * config is asked only for what they cannot tell, and must not contradict. The tensors of a
 * quantised weight are described in each function, [rows, columns] of the file. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "runtime/binder.h"
#include "runtime/weight_dummy.h"

/* A tensor of the module: "experts.3.down_proj" and ".weight_scale". */
static const sy_tensor_entry *find_part(sy_binder *b, const char *module, const char *part) {
    char name[SY_NAME_CHARS + 32];
    snprintf(name, sizeof name, "%s.%s", module, part);
    return sy_binder_find(b, name);
}

static sy_status
require_part(sy_binder *b, const char *module, const char *part, const sy_tensor_entry **out) {
    *out = find_part(b, module, part);
    if (*out != NULL) return SY_OK;
    return sy_fail(SY_ERR_FORMAT, "%s: tensor \"%s.%s\" is missing", b->checkpoint->directory,
                   module, part);
}

static bool has_shape(const sy_tensor_entry *t, int rank, int64_t first, int64_t second) {
    return t->rank == rank && (rank < 1 || t->shape[0] == first) &&
           (rank < 2 || t->shape[1] == second);
}

static bool is_single(const sy_tensor_entry *t) {
    return has_shape(t, 0, 0, 0) || has_shape(t, 1, 1, 0) || has_shape(t, 2, 1, 1);
}

/* One float32 that goes with a whole matrix: it multiplies, or divides and is then not 0. */
static sy_status
read_factor(sy_binder *b, const sy_tensor_entry *t, sy_factor use, sy_quant *quant) {
    float value = 1;
    if (t->dtype != SY_F32) return sy_binder_refuse_dtype(b, t, "F32");
    if (!is_single(t)) return sy_binder_check_shape(b, t, 1, (int64_t[]){1});
    quant->use_factor = use;
    if (b->list != NULL) {
        sy_status st = sy_binder_read_small(b, t, &value);
        if (st != SY_OK) return st;
    }
    if (!(value >= 0 && value < INFINITY) || (use == SY_FACTOR_OVER && value == 0))
        return sy_binder_fail(b, t, SY_ERR_FORMAT, "expected a number %s 0, found %g",
                              use == SY_FACTOR_OVER ? "above" : "from", (double)value);
    quant->factor[0] = value;
    return SY_OK;
}

/* weight e4m3 [n, k]; scales for blocks of 128 x 128, for each output, or for all. Where the config
 * has blocks they are for blocks: other scales would be of another weight than it describes. */
static sy_status
find_fp8(sy_binder *b, const char *module, int64_t n, int64_t k, sy_piece *out) {
    static const char *const names[] = {"weight_scale_inv", "weight_scale", "qscale_weight"};
    sy_status st = SY_OK;
    const sy_tensor_entry *s = NULL;
    int64_t blocks[2] = {sy_ceil_div(n, 128), sy_ceil_div(k, 128)};
    for (size_t i = 0; i < sizeof names / sizeof *names && s == NULL; i++)
        s = find_part(b, module, names[i]);
    if (s == NULL) SY_TRY(require_part(b, module, names[0], &s));
    SY_TRY(sy_binder_check_fp8_scale(b, s));
    if (b->spec->quant.scales == SY_QUANT_PER_BLOCK) {
        SY_TRY(sy_binder_check_block_size(b, out->codes));
        SY_TRY(sy_binder_check_shape(b, s, 2, blocks));
    }
    out->quant = (sy_quant){.scale = s->dtype};
    if (is_single(s)) {
        out->quant.outputs = 0;
        out->has_single = b->list != NULL;
        if (out->has_single) SY_TRY(sy_binder_read_small(b, s, out->single));
    } else if (has_shape(s, 1, n, 0) || has_shape(s, 2, n, 1)) {
        out->quant.outputs = 1;
    } else {
        SY_TRY(sy_binder_check_shape(b, s, 2, blocks));
        out->quant.group = out->quant.outputs = 128;
    }
    out->scales = s;
done:
    return st;
}

/* weight u8 [n, k / 2], two codes a byte; scales e4m3 [n, k / 16] and one float32 that multiplies
 * (modelopt's weight_scale_2) or divides (compressed-tensors' weight_global_scale). */
static sy_status find_nvfp4(sy_binder *b,
                            const char *module,
                            const char *factor,
                            sy_factor use,
                            int64_t n,
                            int64_t k,
                            sy_piece *out) {
    sy_status st = SY_OK;
    const sy_tensor_entry *s, *f;
    SY_TRY(require_part(b, module, "weight_scale", &s));
    if (s->dtype != SY_F8_E4M3) SY_TRY(sy_binder_refuse_dtype(b, s, "F8_E4M3"));
    SY_TRY(sy_binder_check_shape(b, s, 2, (int64_t[]){n, sy_ceil_div(k, 16)}));
    SY_TRY(require_part(b, module, factor, &f));
    out->dtype = SY_F4;
    out->quant = (sy_quant){.scale = SY_F8_E4M3, .group = 16, .outputs = 1};
    out->scales = s;
    SY_TRY(read_factor(b, f, use, &out->quant));
done:
    return st;
}

/* Scales e8m0 [n, k / 32], as bytes or as what they are. */
static sy_status
find_mxfp4(sy_binder *b, const sy_tensor_entry *s, int64_t n, int64_t k, sy_piece *out) {
    out->dtype = SY_F4;
    out->quant = (sy_quant){.scale = SY_F8_E8M0, .group = 32, .outputs = 1};
    out->scales = s;
    return sy_binder_check_shape(b, s, 2, (int64_t[]){n, sy_ceil_div(k, 32)});
}

static sy_status check_group(const sy_binder *b, const sy_tensor_entry *s, int64_t group) {
    if (group == 0 || group == 16 || group == 32 || group == 64 || group == 128) return SY_OK;
    return sy_binder_fail(b, s, SY_ERR_UNSUPPORTED,
                          "groups of %lld values; expected 16, 32, 64 or 128",
                          (long long)group);
}

static sy_status check_integer_scales(const sy_binder *b, const sy_tensor_entry *s) {
    if (s->dtype == SY_BF16 || s->dtype == SY_F16 || s->dtype == SY_F32) return SY_OK;
    return sy_binder_refuse_dtype(b, s, "BF16, F16 or F32");
}

/* A config that describes other weights says nothing of 8-bit integers, and its groups are not
 * theirs. A mixed one describes none of them, and without one the shapes tell. */
static sy_status check_announced_int8(const sy_binder *b, const sy_tensor_entry *codes) {
    const sy_quantization *q = &b->spec->quant;
    char text[SY_QUANTIZATION_TEXT_MAX];
    if (q->method == SY_QUANT_NONE || q->values == SY_QUANT_MIXED) return SY_OK;
    if (q->values == SY_QUANT_INT8 && q->scales != SY_QUANT_PER_BLOCK &&
        q->method != SY_QUANT_GPTQ)
        return SY_OK;
    return sy_binder_fail(b, codes, SY_ERR_FORMAT,
                          "has dtype I8, but the config describes other weights: %s",
                          sy_quantization_text(q, text));
}

/* weight i8 [n, k]; scales [n, k / group] where the config has groups; else one for each output, or
 * for all. */
static sy_status
find_int8(sy_binder *b, const char *module, int64_t n, int64_t k, sy_piece *out) {
    sy_status st = SY_OK;
    const sy_quantization *q = &b->spec->quant;
    const sy_tensor_entry *s;
    int64_t group = q->scales == SY_QUANT_PER_GROUP ? q->group : 0;
    int64_t groups = group > 0 ? sy_ceil_div(k, group) : 1;
    SY_TRY(check_announced_int8(b, out->codes));
    SY_TRY(require_part(b, module, "weight_scale", &s));
    SY_TRY(check_integer_scales(b, s));
    SY_TRY(check_group(b, s, group));
    if (q->zero_points || q->act_order || find_part(b, module, "weight_zero_point") != NULL)
        SY_TRY(sy_binder_fail(b, out->codes, SY_ERR_UNSUPPORTED,
                              "integers of 8 bits with zero points, or with inputs in another "
                              "order, are not supported"));
    out->quant = (sy_quant){.scale = s->dtype, .group = (int)group, .outputs = 1};
    out->scales = s;
    if (group == 0 && is_single(s))
        out->quant.outputs = 0;
    else if (group > 0 || !has_shape(s, 1, n, 0))
        SY_TRY(sy_binder_check_shape(b, s, 2, (int64_t[]){n, groups}));
done:
    return st;
}

/* What the packer says the weight's shape was. */
static sy_status
check_said_shape(sy_binder *b, const sy_tensor_entry *t, int64_t n, int64_t k) {
    sy_status st = SY_OK;
    int64_t said[2] = {n, k};
    int32_t narrow[2];
    if (t->dtype != SY_I64 && t->dtype != SY_I32)
        SY_TRY(sy_binder_refuse_dtype(b, t, "I64 or I32"));
    SY_TRY(sy_binder_check_shape(b, t, 1, (int64_t[]){2}));
    if (b->list == NULL) goto done;
    if (t->dtype == SY_I64) {
        SY_TRY(sy_binder_read_small(b, t, said));
    } else {
        SY_TRY(sy_binder_read_small(b, t, narrow));
        said[0] = narrow[0];
        said[1] = narrow[1];
    }
    if (said[0] != n || said[1] != k)
        SY_TRY(sy_binder_fail(b, t, SY_ERR_FORMAT, "expected (%lld, %lld), found (%lld, %lld)",
                              (long long)n, (long long)k, (long long)said[0],
                              (long long)said[1]));
done:
    return st;
}

/* weight_packed i32 [n, k / 8], eight codes a word; scales [n, k / group]; weight_shape (n, k);
 * with zero points, packed along the outputs: i32 [n / 8, k / group]. */
static sy_status
find_int4(sy_binder *b, const char *module, int64_t n, int64_t k, sy_piece *out) {
    sy_status st = SY_OK;
    const sy_quantization *q = &b->spec->quant;
    const sy_tensor_entry *s, *shape;
    int64_t group = q->scales == SY_QUANT_PER_GROUP ? q->group : 0;
    int64_t n_groups = group == 0 ? 1 : sy_ceil_div(k, group);
    if (q->values != SY_QUANT_INT4 || q->act_order)
        SY_TRY(sy_binder_fail(b, out->codes, SY_ERR_UNSUPPORTED,
                              "weights packed in integers are supported where the config says "
                              "for all of them alike: 4 bits, in groups in the order of the "
                              "inputs"));
    SY_TRY(sy_binder_check_shape(b, out->codes, 2, (int64_t[]){n, sy_ceil_div(k, 8)}));
    SY_TRY(require_part(b, module, "weight_scale", &s));
    SY_TRY(check_integer_scales(b, s));
    SY_TRY(check_group(b, s, group));
    SY_TRY(sy_binder_check_shape(b, s, 2, (int64_t[]){n, n_groups}));
    SY_TRY(require_part(b, module, "weight_shape", &shape));
    SY_TRY(check_said_shape(b, shape, n, k));
    out->dtype = SY_U4;
    out->quant = (sy_quant){.scale = s->dtype, .group = (int)group, .outputs = 1};
    out->scales = s;
    out->zeros = find_part(b, module, "weight_zero_point");
    if (q->zero_points) SY_TRY(require_part(b, module, "weight_zero_point", &out->zeros));
    if (out->zeros == NULL) goto done;
    if (!q->zero_points)
        SY_TRY(sy_binder_fail(b, out->zeros, SY_ERR_FORMAT,
                              "expected none, since the config says that the weights are "
                              "symmetric"));
    if (out->zeros->dtype != SY_I32) SY_TRY(sy_binder_refuse_dtype(b, out->zeros, "I32"));
    SY_TRY(sy_binder_check_shape(b, out->zeros, 2, (int64_t[]){sy_ceil_div(n, 8), n_groups}));
    out->quant.zeros = true;
done:
    return st;
}

static sy_status
find_packed(sy_binder *b, const char *module, int64_t n, int64_t k, sy_piece *out) {
    sy_status st = SY_OK;
    if (out->codes->dtype == SY_I32) {
        SY_TRY(find_int4(b, module, n, k, out));
    } else if (out->codes->dtype == SY_U8) {
        const sy_tensor_entry *s;
        SY_TRY(sy_binder_check_shape(b, out->codes, 2, (int64_t[]){n, sy_ceil_div(k, 2)}));
        SY_TRY(require_part(b, module, "weight_scale", &s));
        if (s->dtype == SY_U8 || s->dtype == SY_F8_E8M0)
            SY_TRY(find_mxfp4(b, s, n, k, out));
        else
            SY_TRY(find_nvfp4(b, module, "weight_global_scale", SY_FACTOR_OVER, n, k, out));
    } else {
        SY_TRY(sy_binder_refuse_dtype(b, out->codes, "I32 or U8"));
    }
done:
    return st;
}

/* qweight i32, eight codes a word: AWQ [k, n / 8], GPTQ [k / 8, n]; qzeros i32 [k / group, n / 8];
 * scales f16 [k / group, n]; GPTQ also g_idx i32 [k], the group of each input. */
static sy_status
find_by_inputs(sy_binder *b, const char *module, int64_t n, int64_t k, sy_piece *out) {
    sy_status st = SY_OK;
    const sy_quantization *q = &b->spec->quant;
    const sy_tensor_entry *codes = out->codes, *s, *z;
    bool awq = q->method == SY_QUANT_AWQ;
    int64_t group = q->group > 0 ? q->group : k;
    if ((!awq && q->method != SY_QUANT_GPTQ) || q->values != SY_QUANT_INT4)
        SY_TRY(sy_binder_fail(b, codes, SY_ERR_UNSUPPORTED,
                              "packed as AWQ or GPTQ do, which the config does not say, or not "
                              "in 4 bits"));
    if (n % 8 != 0 || k % 8 != 0)
        SY_TRY(sy_binder_fail(b, codes, SY_ERR_FORMAT,
                              "%lld x %lld values cannot be packed by 8", (long long)k,
                              (long long)n));
    if (k % group != 0)
        SY_TRY(sy_binder_fail(b, codes, SY_ERR_FORMAT,
                              "%lld inputs are no whole groups of %lld", (long long)k,
                              (long long)group));
    if (codes->dtype != SY_I32) SY_TRY(sy_binder_refuse_dtype(b, codes, "I32"));
    SY_TRY(sy_binder_check_shape(b, codes, 2, (int64_t[]){awq ? k : k / 8, awq ? n / 8 : n}));
    SY_TRY(require_part(b, module, "scales", &s));
    SY_TRY(check_integer_scales(b, s));
    SY_TRY(check_group(b, s, q->group > 0 ? group : 0));
    SY_TRY(sy_binder_check_shape(b, s, 2, (int64_t[]){sy_ceil_div(k, group), n}));
    SY_TRY(require_part(b, module, "qzeros", &z));
    if (z->dtype != SY_I32) SY_TRY(sy_binder_refuse_dtype(b, z, "I32"));
    SY_TRY(sy_binder_check_shape(b, z, 2, (int64_t[]){sy_ceil_div(k, group), n / 8}));
    out->dtype = SY_U4;
    out->quant = (sy_quant){
        .scale = s->dtype, .group = q->group > 0 ? q->group : 0, .outputs = 1, .zeros = true};
    out->scales = s;
    out->zeros = z;
    out->order = awq ? SY_INT4_AWQ : q->gptq_v2 ? SY_INT4_GPTQ_V2 : SY_INT4_GPTQ;
    out->symmetric = !awq && !q->zero_points;
    out->groups = awq ? NULL : find_part(b, module, "g_idx");
    if (q->act_order) SY_TRY(require_part(b, module, "g_idx", &out->groups));
    if (out->groups == NULL) goto done;
    if (out->groups->dtype != SY_I32) SY_TRY(sy_binder_refuse_dtype(b, out->groups, "I32"));
    SY_TRY(sy_binder_check_shape(b, out->groups, 1, &k));
done:
    return st;
}

static sy_status
find_plain_or_coded(sy_binder *b, const char *module, int64_t n, int64_t k, sy_piece *out) {
    sy_status st = SY_OK;
    const sy_tensor_entry *w = out->codes;
    out->dtype = w->dtype;
    switch (w->dtype) {
    case SY_F32:
    case SY_F16:
    case SY_BF16:
        SY_TRY(sy_binder_check_shape(b, w, 2, (int64_t[]){n, k}));
        break;
    case SY_F8_E4M3:
        SY_TRY(sy_binder_check_shape(b, w, 2, (int64_t[]){n, k}));
        SY_TRY(find_fp8(b, module, n, k, out));
        break;
    case SY_I8:
        SY_TRY(sy_binder_check_shape(b, w, 2, (int64_t[]){n, k}));
        SY_TRY(find_int8(b, module, n, k, out));
        break;
    case SY_U8:
        SY_TRY(sy_binder_check_shape(b, w, 2, (int64_t[]){n, sy_ceil_div(k, 2)}));
        SY_TRY(find_nvfp4(b, module, "weight_scale_2", SY_FACTOR_TIMES, n, k, out));
        break;
    default:
        SY_TRY(sy_binder_refuse_dtype(b, w, "F32, F16, BF16, F8_E4M3, I8 or packed U8"));
    }
done:
    return st;
}

/* The format that such weights are published in by this config; plain where the backend knows no
 * such format. Mixed checkpoints are taken for NVFP4, what ModelOpt makes of such models. */
static void
give_published_format(const sy_binder *b, sy_weight_kind kind, int64_t k, sy_piece *out) {
    const sy_quantization *q = &b->spec->quant;
    int outputs = q->scales == SY_QUANT_PER_CHANNEL ? 1 : 0;
    if (!sy_is_published_quantised(q, kind.part, kind.role)) return;
    switch (q->values) {
    case SY_QUANT_E4M3:
        out->dtype = SY_F8_E4M3;
        out->quant = (sy_quant){.scale = SY_F32, .outputs = outputs};
        if (q->scales == SY_QUANT_PER_BLOCK) out->quant.group = out->quant.outputs = 128;
        break;
    case SY_QUANT_INT4:
        out->dtype = SY_U4;
        out->quant = (sy_quant){.scale = SY_BF16,
                                .group = q->scales == SY_QUANT_PER_GROUP ? q->group : 0,
                                .outputs = 1,
                                .zeros = q->zero_points};
        break;
    case SY_QUANT_E2M1_MX:
        out->dtype = SY_F4;
        out->quant = (sy_quant){.scale = SY_F8_E8M0, .group = 32, .outputs = 1};
        break;
    case SY_QUANT_E2M1_NV:
    case SY_QUANT_MIXED:
        out->dtype = SY_F4;
        out->quant = (sy_quant){
            .scale = SY_F8_E4M3, .group = 16, .outputs = 1, .use_factor = SY_FACTOR_TIMES};
        break;
    case SY_QUANT_INT8:
        if (q->method == SY_QUANT_GPTQ) break;
        out->dtype = SY_I8;
        out->quant = (sy_quant){.scale = SY_BF16,
                                .group = q->scales == SY_QUANT_PER_GROUP ? q->group : 0,
                                .outputs = q->scales == SY_QUANT_PER_TENSOR ? 0 : 1,
                                .zeros = q->zero_points};
        break;
    }
    sy_matrix m = {.dtype = out->dtype, .parts = 1, .n = 1, .k = k, .quant = out->quant};
    if (!sy_is_quantised(out->dtype) || b->be->ops->matrix_bytes(b->be, &m) == UINT64_MAX) {
        out->dtype = SY_BF16;
        out->quant = (sy_quant){0};
        return;
    }
    out->quant.factor[0] = sy_weight_dummy_factor(out->dtype, &out->quant, k);
}

sy_status sy_binder_weight(sy_binder *b,
                           sy_weight_kind kind,
                           const char *module,
                           int64_t n,
                           int64_t k,
                           sy_piece *out) {
    sy_status st = SY_OK;
    char name[SY_NAME_CHARS + 8];
    snprintf(name, sizeof name, "%s.weight", module);
    *out =
        (sy_piece){.seed = sy_binder_seed(name), .width = k, .row_step = 1, .dtype = SY_BF16};
    if (b->checkpoint == NULL) {
        give_published_format(b, kind, k, out);
        return SY_OK;
    }
    if ((out->codes = find_part(b, module, "weight")) != NULL)
        SY_TRY(find_plain_or_coded(b, module, n, k, out));
    else if ((out->codes = find_part(b, module, "weight_packed")) != NULL)
        SY_TRY(find_packed(b, module, n, k, out));
    else if ((out->codes = find_part(b, module, "qweight")) != NULL)
        SY_TRY(find_by_inputs(b, module, n, k, out));
    else
        SY_TRY(require_part(b, module, "weight", &out->codes));
done:
    return st;
}
