/* What a layer computes, as enumerated choices with every derived number resolved.
 *
 * A model is a list of these (runtime/spec.h); a new family adds enumerators here and the code
 * behind them in each backend, never a branch on the model's name.
 *
 * Shape letters, used in every comment of the project:
 *   T tokens of this rank in this step   H hidden width          V vocabulary
 *   A query heads   G query heads per kv head   D head width     L layers
 *   E experts in all   K experts per token   F expert width      R ranks
 *   S rows received   P (token, expert) pairs computed here                              */
#ifndef SY_KERNELS_LAYER_H
#define SY_KERNELS_LAYER_H

#include <stdbool.h>
#include <stdint.h>

typedef enum sy_attn_kind {
    SY_ATTN_GQA,
    SY_ATTN_MLA /* multi-head latent attention, absorbed (fast numerics: see kernels/ops.h): one latent of
                 * kv_rank + rope values a token serves all heads (DeepSeek-V2/V3) */
} sy_attn_kind;
typedef enum sy_qk_norm {
    SY_QK_NORM_NONE,
    SY_QK_NORM_PER_HEAD, /* one weight [D] for all heads, before rotary (Qwen3) */
    SY_QK_NORM_WHOLE     /* over the whole projected vector, weight [A*D] / [kv*D] (OLMoE) */
} sy_qk_norm;
typedef enum sy_rope_layout {
    SY_ROPE_HALF,       /* pairs (i, i + dim/2) */
    SY_ROPE_INTERLEAVED /* pairs (2i, 2i + 1); the result stays in place */
} sy_rope_layout;

/* Rotary embedding of the leading (MLA: the last) `dim` values of a head. The angle of pair i at
 * position p is p * inv_freq[i], inv_freq[i] = theta^(-2i/dim); with factor > 1 the frequencies
 * are YaRN's (kernels/rope.c). cos and sin are multiplied by attention_factor. */
typedef struct sy_rope_spec {
    sy_rope_layout layout;
    int dim; /* even; 0: no rotary */
    double theta;
    double factor; /* 0: plain frequencies; else YaRN's factor, at least 1 */
    double original_positions, beta_fast, beta_slow; /* of YaRN */
    bool truncate;           /* YaRN's bounds are rounded outwards to whole numbers */
    double attention_factor; /* 1 unless the model says otherwise */
} sy_rope_spec;

/* Sizes of multi-head latent attention. A head's q has nope + rope values, the rotary ones last. */
typedef struct sy_mla_spec {
    int q_rank;  /* width of the compressed query; 0: q is projected directly */
    int kv_rank; /* c: width of the latent */
    int nope, rope;
    int value;      /* width of a head's output; even */
    float norm_eps; /* of the norms of query and key-value latents */
} sy_mla_spec;

typedef struct sy_attn_spec {
    sy_attn_kind kind;
    int heads;    /* A                                     */
    int kv_heads; /* divides heads; G = heads / kv_heads. MLA: 1 */
    int head_dim; /* D, even. MLA: nope + rope */
    sy_mla_spec mla;
    bool qkv_bias, o_bias;
    sy_qk_norm qk_norm;
    float qk_clip; /* clamp q, k, v to +-qk_clip after the q/k norm; 0 = none (OLMoE) */
    sy_rope_spec rope;
    /* After rotary, q of position p is multiplied by 1 + query_beta * ln(1 + floor(p /
     * query_positions)) (Mistral Large 3); query_beta 0: not at all. */
    float query_beta;
    int64_t query_positions;
    float softmax_scale; /* fully resolved */
    int64_t window;      /* a token sees itself and the window - 1 tokens before it; 0: all */
    bool sinks; /* each head has a logit without a value beside the tokens' (gpt-oss) */
} sy_attn_spec;

/* Values of a row of q and of o between attn_in, attend and attn_out, and of the key-value cache
 * of one token. MLA: q and o are those of the latent: c + rope and c values a head. */
static inline int64_t sy_attn_q_width(const sy_attn_spec *a) {
    if (a->kind == SY_ATTN_MLA) return (int64_t)a->heads * (a->mla.kv_rank + a->mla.rope);
    return (int64_t)a->heads * a->head_dim;
}
static inline int64_t sy_attn_o_width(const sy_attn_spec *a) {
    return (int64_t)a->heads * (a->kind == SY_ATTN_MLA ? a->mla.kv_rank : a->head_dim);
}
static inline int64_t sy_attn_cache_width(const sy_attn_spec *a) {
    if (a->kind == SY_ATTN_MLA) return (int64_t)a->mla.kv_rank + a->mla.rope;
    return 2 * (int64_t)a->kv_heads * a->head_dim;
}

typedef enum sy_ffn_kind { SY_FFN_DENSE, SY_FFN_MOE } sy_ffn_kind;
typedef enum sy_ffn_act {
    SY_ACT_SWIGLU, /* silu(gate) * up */
    /* g = min(gate, limit), u = clamp(up, -limit, limit): (u + 1) * g * sigmoid(alpha * g)
     * (gpt-oss) */
    SY_ACT_SWIGLU_CLAMPED
} sy_ffn_act;
typedef enum sy_router_score {
    SY_SCORE_SOFTMAX,       /* softmax over all E logits */
    SY_SCORE_SIGMOID,       /* of each logit by itself */
    SY_SCORE_SOFTMAX_CHOSEN /* the logits choose; then softmax over the K chosen ones */
} sy_router_score;
typedef enum sy_group_score {
    SY_GROUP_TOP2, /* sum of the two best choice scores of the group (DeepSeek-V3) */
    SY_GROUP_MAX   /* the best choice score of the group (DeepSeek-V2) */
} sy_group_score;

typedef struct sy_ffn_spec {
    sy_ffn_kind kind;
    sy_ffn_act act;
    float act_alpha, act_limit; /* of the clamped activation */
    int inter;                  /* F: width of the dense FFN, or of each routed expert */
    /* MoE only; 0 otherwise */
    int experts;      /* E */
    int top_k;        /* K, 1..E, at most SY_MAX_TOP_K */
    int shared_inter; /* width of the shared expert; 0 = none */
    bool expert_bias; /* gate, up and down have biases */
    sy_router_score score;
    bool router_bias; /* added to the logits */
    bool choice_bias; /* added to the scores for the choice alone */
    /* With n_groups > 1 the experts are n_groups equal ranges, and only those of the
     * groups_kept best ranges can be chosen. */
    int n_groups, groups_kept;
    sy_group_score group_score;
    bool renorm;        /* divide the chosen scores by their sum + renorm_eps */
    float renorm_eps;   /* 0 unless the model says otherwise */
    float routed_scale; /* multiplies the routed weights; 1 unless the model says otherwise */
} sy_ffn_spec;

enum { SY_MAX_TOP_K = 64, SY_MAX_EXPERTS = 65535 };

typedef struct sy_layer_spec {
    sy_attn_spec attn;
    sy_ffn_spec ffn;
    float
        norm_eps; /* of input norm, FFN norm and q/k norms; float32 RMS norm, x*w, one rounding */
} sy_layer_spec;

#endif
