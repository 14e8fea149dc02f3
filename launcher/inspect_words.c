/* Words and comparisons that both reports of inspect share. */
#include "launcher/inspect_report.h"

const char *sy_qk_norm_name(sy_qk_norm norm) {
    switch (norm) {
    case SY_QK_NORM_PER_HEAD:
        return "per_head";
    case SY_QK_NORM_WHOLE:
        return "whole";
    default:
        return "none";
    }
}

const char *sy_router_score_name(sy_router_score score) {
    switch (score) {
    case SY_SCORE_SIGMOID:
        return "sigmoid";
    case SY_SCORE_SOFTMAX_CHOSEN:
        return "softmax_chosen";
    default:
        return "softmax";
    }
}

const char *sy_group_score_name(sy_group_score score) {
    return score == SY_GROUP_MAX ? "max" : "top2";
}

static bool same_rope(const sy_rope_spec *a, const sy_rope_spec *b) {
    return a->layout == b->layout && a->dim == b->dim && a->theta == b->theta &&
           a->factor == b->factor && a->original_positions == b->original_positions &&
           a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow &&
           a->truncate == b->truncate && a->attention_factor == b->attention_factor;
}

static bool same_latent(const sy_mla_spec *a, const sy_mla_spec *b) {
    return a->q_rank == b->q_rank && a->kv_rank == b->kv_rank && a->nope == b->nope &&
           a->rope == b->rope && a->value == b->value && a->norm_eps == b->norm_eps;
}

static bool same_attention(const sy_attn_spec *a, const sy_attn_spec *b) {
    return a->kind == b->kind && a->heads == b->heads && a->kv_heads == b->kv_heads &&
           a->head_dim == b->head_dim && same_latent(&a->mla, &b->mla) &&
           a->qkv_bias == b->qkv_bias && a->o_bias == b->o_bias && a->qk_norm == b->qk_norm &&
           a->qk_clip == b->qk_clip && same_rope(&a->rope, &b->rope) &&
           a->query_beta == b->query_beta && a->query_positions == b->query_positions &&
           a->softmax_scale == b->softmax_scale && a->window == b->window &&
           a->sinks == b->sinks;
}

static bool same_ffn(const sy_ffn_spec *a, const sy_ffn_spec *b) {
    return a->kind == b->kind && a->act == b->act && a->act_alpha == b->act_alpha &&
           a->act_limit == b->act_limit && a->inter == b->inter && a->experts == b->experts &&
           a->top_k == b->top_k && a->shared_inter == b->shared_inter &&
           a->expert_bias == b->expert_bias && a->score == b->score &&
           a->router_bias == b->router_bias && a->choice_bias == b->choice_bias &&
           a->n_groups == b->n_groups && a->groups_kept == b->groups_kept &&
           a->group_score == b->group_score && a->renorm == b->renorm &&
           a->renorm_eps == b->renorm_eps && a->routed_scale == b->routed_scale;
}

bool sy_same_layer(const sy_layer_spec *a, const sy_layer_spec *b) {
    return a->norm_eps == b->norm_eps && same_attention(&a->attn, &b->attn) &&
           same_ffn(&a->ffn, &b->ffn);
}
