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

typedef enum sy_attn_kind { SY_ATTN_GQA } sy_attn_kind;
typedef enum sy_qk_norm {
    SY_QK_NORM_NONE,
    SY_QK_NORM_PER_HEAD, /* one weight [D] for all heads, before rotary (Qwen3) */
    SY_QK_NORM_WHOLE     /* over the whole projected vector, weight [A*D] / [kv*D] (OLMoE) */
} sy_qk_norm;
typedef enum sy_rope_layout {
    SY_ROPE_HALF /* pairs (i, i + rotary_dim/2) */
} sy_rope_layout;

typedef struct sy_attn_spec {
    sy_attn_kind kind;
    int heads;    /* A                                     */
    int kv_heads; /* divides heads; G = heads / kv_heads   */
    int head_dim; /* D, even                               */
    sy_qk_norm qk_norm;
    float qk_clip; /* clamp q, k, v to +-qk_clip after the q/k norm; 0 = none (OLMoE) */
    sy_rope_layout rope_layout;
    int rotary_dim;      /* leading elements of each head that rotate; even       */
    double rope_theta;   /* inv_freq[i] = theta^(-2i/rotary_dim)                  */
    float softmax_scale; /* fully resolved, D^-0.5 unless the model says otherwise */
} sy_attn_spec;

typedef enum sy_ffn_kind { SY_FFN_DENSE, SY_FFN_MOE } sy_ffn_kind;
typedef enum sy_ffn_act {
    SY_ACT_SWIGLU /* silu(gate) * up */
} sy_ffn_act;
typedef enum sy_router_score {
    SY_SCORE_SOFTMAX /* softmax over all E logits */
} sy_router_score;

typedef struct sy_ffn_spec {
    sy_ffn_kind kind;
    sy_ffn_act act;
    int inter; /* F: width of the dense FFN, or of each routed expert */
    /* MoE only; 0 otherwise */
    int experts;      /* E */
    int top_k;        /* K, 1..E, at most SY_MAX_TOP_K */
    int shared_inter; /* width of the shared expert; 0 = none */
    sy_router_score score;
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
