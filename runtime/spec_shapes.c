#include "runtime/spec_shapes.h"

#include "base/checked.h"

const char *sy_part_name(sy_part part) {
    static const char *const names[] = {
#define X(name, text) text,
        SY_PART_LIST(X)
#undef X
    };
    return (unsigned)part < SY_PART_COUNT ? names[part] : "?";
}

typedef struct shape_list {
    sy_weight_shape *out;
    int n;
} shape_list;

static void matrix(shape_list *list, sy_part part, int64_t rows, int64_t cols) {
    list->out[list->n++] = (sy_weight_shape){part, SY_ROLE_PROJECTION, rows, cols, 1};
}

static void compressor(shape_list *list, int64_t rows, int64_t cols) {
    list->out[list->n++] =
        (sy_weight_shape){SY_PART_ATTENTION, SY_ROLE_COMPRESSOR, rows, cols, 1};
}

static void vector(shape_list *list, sy_part part, int64_t width) {
    list->out[list->n++] = (sy_weight_shape){part, SY_ROLE_VECTOR, 1, width, 1};
}

static void latent_shapes(shape_list *list, const sy_attn_spec *a, int64_t H) {
    const sy_mla_spec *m = &a->mla;
    int64_t A = a->heads, q = A * a->head_dim;
    if (m->q_rank > 0) {
        compressor(list, m->q_rank, H);
        vector(list, SY_PART_NORMS, m->q_rank);
    }
    matrix(list, SY_PART_ATTENTION, q, m->q_rank > 0 ? m->q_rank : H);
    compressor(list, (int64_t)m->kv_rank + m->rope, H);
    vector(list, SY_PART_NORMS, m->kv_rank);
    matrix(list, SY_PART_ATTENTION, A * ((int64_t)m->nope + m->value), m->kv_rank);
    matrix(list, SY_PART_ATTENTION, H, A * m->value);
}

static void grouped_shapes(shape_list *list, const sy_attn_spec *a, int64_t H) {
    int64_t q = (int64_t)a->heads * a->head_dim, kv = (int64_t)a->kv_heads * a->head_dim;
    matrix(list, SY_PART_ATTENTION, q, H);
    matrix(list, SY_PART_ATTENTION, kv, H); /* k */
    matrix(list, SY_PART_ATTENTION, kv, H); /* v */
    matrix(list, SY_PART_ATTENTION, H, q);
    if (a->qkv_bias) vector(list, SY_PART_ATTENTION, q + 2 * kv);
    if (a->qk_norm == SY_QK_NORM_PER_HEAD) vector(list, SY_PART_NORMS, 2 * a->head_dim);
    if (a->qk_norm == SY_QK_NORM_WHOLE) vector(list, SY_PART_NORMS, q + kv);
}

/* Gate and up, then down; of `count` experts. */
static void
ffn_shapes(shape_list *list, sy_part part, int64_t width, int64_t H, int64_t count) {
    list->out[list->n++] = (sy_weight_shape){part, SY_ROLE_PROJECTION, width, H, 2 * count};
    list->out[list->n++] = (sy_weight_shape){part, SY_ROLE_PROJECTION, H, width, count};
}

static void moe_shapes(shape_list *list, const sy_ffn_spec *f, int64_t H) {
    int64_t E = f->experts;
    list->out[list->n++] = (sy_weight_shape){SY_PART_ROUTER, SY_ROLE_KEPT, E, H, 1};
    if (f->router_bias) vector(list, SY_PART_ROUTER, E);
    if (f->choice_bias) vector(list, SY_PART_ROUTER, E);
    if (f->shared_inter > 0) ffn_shapes(list, SY_PART_SHARED, f->shared_inter, H, 1);
    ffn_shapes(list, SY_PART_ROUTED, f->inter, H, E);
    if (f->expert_bias)
        list->out[list->n++] =
            (sy_weight_shape){SY_PART_ROUTED, SY_ROLE_VECTOR, 1, 2 * (int64_t)f->inter + H, E};
}

int sy_layer_shapes(const sy_layer_spec *layer,
                    int hidden,
                    sy_weight_shape out[SY_LAYER_SHAPES_MAX]) {
    shape_list list = {out, 0};
    const sy_attn_spec *a = &layer->attn;
    int64_t H = hidden;
    if (a->kind == SY_ATTN_MLA)
        latent_shapes(&list, a, H);
    else
        grouped_shapes(&list, a, H);
    if (a->o_bias) vector(&list, SY_PART_ATTENTION, H);
    if (a->sinks) vector(&list, SY_PART_ATTENTION, a->heads);
    vector(&list, SY_PART_NORMS, 2 * H); /* of attention, of the feed-forward */
    if (layer->ffn.kind == SY_FFN_MOE)
        moe_shapes(&list, &layer->ffn, H);
    else
        ffn_shapes(&list, SY_PART_DENSE_FFN, layer->ffn.inter, H, 1);
    return list.n;
}

int sy_outer_shapes(const sy_model_spec *spec, sy_weight_shape out[SY_OUTER_SHAPES_MAX]) {
    int n = 0;
    int64_t V = spec->vocab, H = spec->hidden;
    out[n++] = (sy_weight_shape){SY_PART_EMBEDDING, SY_ROLE_KEPT, V, H, 1};
    if (!spec->tied) out[n++] = (sy_weight_shape){SY_PART_LM_HEAD, SY_ROLE_KEPT, V, H, 1};
    out[n++] = (sy_weight_shape){SY_PART_NORMS, SY_ROLE_VECTOR, 1, H, 1};
    return n;
}

/* FP8 and INT8 checkpoints quantise all projections. Formats of 4 bits are taken for routed experts
 * alone: so are gpt-oss, Kimi K2 Thinking and the NVFP4 exports of Kimi and MiniMax; some other
 * exports quantise more, and are smaller than this says. So is q8, as a conversion writes it
 * without --all. AWQ and GPTQ take all projections. Mistral's FP8 leaves out those to latents. */
bool sy_is_published_quantised(const sy_quantization *q, sy_part part, sy_weight_role role) {
    if (q->method == SY_QUANT_NONE || role < SY_ROLE_COMPRESSOR) return false;
    if (q->method == SY_QUANT_AWQ || q->method == SY_QUANT_GPTQ) return true;
    bool few_bits = q->values != SY_QUANT_E4M3 && q->values != SY_QUANT_INT8;
    if (few_bits || q->method == SY_QUANT_SWITCHYARD_Q8) return part == SY_PART_ROUTED;
    return q->method != SY_QUANT_COMPRESSED_TENSORS || role == SY_ROLE_PROJECTION;
}

static int value_bits(sy_quant_values values) {
    return values == SY_QUANT_E4M3 || values == SY_QUANT_INT8 ? 8 : 4;
}

/* Scales of one matrix, in number. */
static int64_t n_scales(const sy_quantization *q, int64_t rows, int64_t cols) {
    switch (q->scales) {
    case SY_QUANT_PER_CHANNEL:
        return rows;
    case SY_QUANT_PER_BLOCK:
        return sy_ceil_div(rows, q->block_rows) * sy_ceil_div(cols, q->block_cols);
    case SY_QUANT_PER_GROUP:
        return rows * sy_ceil_div(cols, q->group);
    default:
        return 1;
    }
}

/* Integers in rows of outputs, with scales in BF16; AWQ and GPTQ have rows of inputs. */
static bool is_by_outputs(const sy_quantization *q) {
    return q->method == SY_QUANT_COMPRESSED_TENSORS || q->method == SY_QUANT_SWITCHYARD_Q8;
}

static sy_dtype scale_dtype(const sy_quantization *q) {
    if (q->values == SY_QUANT_E2M1_NV) return SY_F8_E4M3;
    if (q->values == SY_QUANT_E2M1_MX) return SY_U8;
    if (q->values == SY_QUANT_E4M3) return SY_F32;
    return is_by_outputs(q) ? SY_BF16 : SY_F16;
}

static sy_dtype packed_dtype(const sy_quantization *q) {
    if (q->values == SY_QUANT_E4M3) return SY_F8_E4M3;
    if (q->values == SY_QUANT_E2M1_NV || q->values == SY_QUANT_E2M1_MX) return SY_U8;
    return q->values == SY_QUANT_INT8 && is_by_outputs(q) ? SY_I8 : SY_I32;
}

/* Mixed checkpoints are taken as NVFP4 of the routed experts, what ModelOpt makes of such models;
 * rows, cols and counts are capped (spec_config.h), so that no product here leaves 63 bits. */
sy_shape_bytes sy_published_bytes(const sy_model_spec *spec, const sy_weight_shape *shape) {
    sy_quantization q = spec->quant;
    int64_t n = shape->rows * shape->cols;
    if (q.values == SY_QUANT_MIXED) {
        q.values = SY_QUANT_E2M1_NV;
        q.scales = SY_QUANT_PER_GROUP;
        q.group = 16;
    }
    if (!sy_is_published_quantised(&q, shape->part, shape->role))
        return (sy_shape_bytes){.values =
                                    (uint64_t)n * (uint64_t)sy_dtype_bits(spec->dtype) / 8,
                                .value_dtype = spec->dtype};
    int64_t scales = n_scales(&q, shape->rows, shape->cols);
    uint64_t bytes = (uint64_t)scales * (uint64_t)sy_dtype_bits(scale_dtype(&q)) / 8;
    if (q.values == SY_QUANT_E2M1_NV) bytes += 4; /* the matrix's own scale */
    if (q.zero_points) bytes += (uint64_t)scales * (uint64_t)value_bits(q.values) / 8;
    return (sy_shape_bytes){.values = (uint64_t)(n * value_bits(q.values) + 7) / 8,
                            .scales = bytes,
                            .value_dtype = packed_dtype(&q),
                            .scale_dtype = scale_dtype(&q)};
}
