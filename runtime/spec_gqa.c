/* Readers of the families with grouped-query attention. */
#include <string.h>

#include "base/json.h"
#include "runtime/spec_config.h"

static void fill_layers(sy_model_spec *spec, const sy_layer_spec *layer) {
    for (int l = 0; l < spec->n_layers; l++)
        spec->layer[l] = *layer;
}

/* attention_bias: biases of q, k and v, and of o in the families that have all four. */
static sy_status
read_biases(const sy_config *config, bool initial, bool with_o, sy_attn_spec *attn) {
    attn->qkv_bias = initial;
    sy_status st = sy_config_flag(config, "attention_bias", &attn->qkv_bias);
    attn->o_bias = with_o && attn->qkv_bias;
    return st;
}

/* Gives the sliding layers their window. */
static sy_status
set_windows(const sy_config *config, const bool *sliding, sy_model_spec *spec) {
    sy_status st = SY_OK;
    int64_t window;
    bool any = false;
    SY_TRY(sy_config_window(config, spec, &window));
    for (int l = 0; l < spec->n_layers; l++) {
        any = any || sliding[l];
        spec->layer[l].attn.window = sliding[l] ? window : 0;
    }
    if (any && sy_config_member(config, "sliding_window") == NULL)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected \"sliding_window\", found none", config->where);
done:
    return st;
}

/* Windows for the layers that layer_types names; without that list, if there are any windows, for
 * those from `first` on. */
static sy_status
read_windows(const sy_config *config, bool windowed, int first, sy_model_spec *spec) {
    sy_status st = SY_OK;
    bool given, sliding[SY_MAX_LAYERS] = {false};
    SY_TRY(sy_config_layer_types(config, spec->n_layers, &given, sliding));
    for (int l = 0; !given && l < spec->n_layers; l++)
        sliding[l] = windowed && l >= first;
    SY_TRY(set_windows(config, sliding, spec));
done:
    return st;
}

sy_status
sy_read_mixtral(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_layer_spec layer = *common;
    SY_TRY(sy_config_gqa(config, spec->hidden, &layer.attn));
    SY_TRY(sy_config_refuse_if_set(config, "attention_bias"));
    SY_TRY(sy_config_whole_rope(config, spec, &layer.attn));
    SY_TRY(sy_config_experts(config, "intermediate_size", &layer.ffn));
    layer.ffn.renorm = true;
    fill_layers(spec, &layer);
    SY_TRY(read_windows(config, sy_config_member(config, "sliding_window") != NULL, 0, spec));
done:
    return st;
}

sy_status
sy_read_olmoe(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_layer_spec layer = *common;
    double clip = 0;
    SY_TRY(sy_config_no_window(config, spec));
    SY_TRY(sy_config_gqa(config, spec->hidden, &layer.attn));
    SY_TRY(read_biases(config, false, true, &layer.attn));
    SY_TRY(sy_config_whole_rope(config, spec, &layer.attn));
    SY_TRY(sy_config_experts(config, "intermediate_size", &layer.ffn));
    SY_TRY(sy_config_flag(config, "norm_topk_prob", &layer.ffn.renorm));
    SY_TRY(sy_config_real(config, config->text, "clip_qkv", 1e-30, 1e30, &clip));
    layer.attn.qk_norm = SY_QK_NORM_WHOLE;
    layer.attn.qk_clip = (float)clip;
    fill_layers(spec, &layer);
done:
    return st;
}

/* Marks the layers of mlp_only_layers in dense[n_layers]. transformers ignores numbers beyond
 * the last layer; a list that holds one is not the model's, so it is refused. */
static sy_status read_dense_layers(const sy_config *config, int n_layers, bool *dense) {
    const json_t *list = sy_config_member(config, "mlp_only_layers");
    if (list == NULL) return SY_OK;
    if (!json_is_array(list))
        return sy_fail(SY_ERR_FORMAT, "%s: \"mlp_only_layers\": expected an array, found %s",
                       config->where, sy_json_type_name(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        int64_t l;
        if (!sy_json_integral(item, &l))
            return sy_fail(SY_ERR_FORMAT,
                           "%s: \"mlp_only_layers\"[%zu]: expected a whole number, found %s",
                           config->where, i, sy_json_type_name(item));
        if (l < 0 || l >= n_layers)
            return sy_fail(SY_ERR_FORMAT,
                           "%s: \"mlp_only_layers\"[%zu]: expected 0 to %d, found %lld",
                           config->where, i, n_layers - 1, (long long)l);
        dense[l] = true;
    }
    return SY_OK;
}

/* A layer is MoE unless it is listed in mlp_only_layers or misses the step, (l + 1) %
 * decoder_sparse_step == 0 (transformers, modular_qwen3_moe.py). */
static sy_status set_qwen3_dense(const sy_config *config, sy_model_spec *spec) {
    sy_status st = SY_OK;
    bool dense[SY_MAX_LAYERS] = {false};
    int64_t step = 1;
    SY_TRY(read_dense_layers(config, spec->n_layers, dense));
    SY_TRY(sy_json_get_int(config->text, config->where, "decoder_sparse_step", 1, INT32_MAX,
                           &step));
    for (int l = 0; l < spec->n_layers; l++) {
        if (!dense[l] && (l + 1) % step == 0) continue;
        sy_ffn_spec ffn = {.kind = SY_FFN_DENSE, .act = SY_ACT_SWIGLU};
        SY_TRY(sy_config_count(config, "intermediate_size", NULL, SY_MAX_WIDTH, &ffn.inter));
        spec->layer[l].ffn = ffn;
    }
done:
    return st;
}

/* With use_sliding_window the layers from max_window_layers on have the window, all of them if
 * that key is absent. */
static sy_status set_qwen3_windows(const sy_config *config, sy_model_spec *spec) {
    sy_status st = SY_OK;
    bool in_use = false;
    int first = 0;
    SY_TRY(sy_config_flag(config, "use_sliding_window", &in_use));
    SY_TRY(sy_config_optional(config, "max_window_layers", NULL, INT32_MAX, &first));
    in_use = in_use && sy_config_member(config, "sliding_window") != NULL;
    SY_TRY(read_windows(config, in_use, first, spec));
done:
    return st;
}

sy_status
sy_read_qwen3_moe(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_layer_spec layer = *common;
    SY_TRY(sy_config_gqa(config, spec->hidden, &layer.attn));
    SY_TRY(read_biases(config, false, true, &layer.attn));
    SY_TRY(sy_config_whole_rope(config, spec, &layer.attn));
    SY_TRY(sy_config_experts(config, "moe_intermediate_size", &layer.ffn));
    SY_TRY(sy_config_flag(config, "norm_topk_prob", &layer.ffn.renorm));
    layer.attn.qk_norm = SY_QK_NORM_PER_HEAD;
    fill_layers(spec, &layer);
    SY_TRY(set_qwen3_dense(config, spec));
    SY_TRY(set_qwen3_windows(config, spec));
done:
    return st;
}

static sy_status read_gpt_oss_experts(const sy_config *config, sy_ffn_spec *ffn) {
    sy_status st = SY_OK;
    double alpha = 1.702, limit = 7;
    SY_TRY(sy_config_experts(config, "intermediate_size", ffn));
    SY_TRY(sy_config_real(config, config->text, "swiglu_alpha", 1e-3, 1e3, &alpha));
    SY_TRY(sy_config_real(config, config->text, "swiglu_limit", 1e-3, 1e6, &limit));
    ffn->act = SY_ACT_SWIGLU_CLAMPED;
    ffn->act_alpha = (float)alpha;
    ffn->act_limit = (float)limit;
    ffn->score = SY_SCORE_SOFTMAX_CHOSEN;
    ffn->router_bias = ffn->expert_bias = true;
done:
    return st;
}

/* Without layer_types, layers of even numbers slide. */
sy_status
sy_read_gpt_oss(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_layer_spec layer = *common;
    bool given, sliding[SY_MAX_LAYERS] = {false};
    SY_TRY(sy_config_gqa(config, spec->hidden, &layer.attn));
    SY_TRY(read_biases(config, true, true, &layer.attn));
    SY_TRY(sy_config_whole_rope(config, spec, &layer.attn));
    SY_TRY(read_gpt_oss_experts(config, &layer.ffn));
    layer.attn.sinks = true;
    fill_layers(spec, &layer);
    SY_TRY(sy_config_layer_types(config, spec->n_layers, &given, sliding));
    for (int l = 0; !given && l < spec->n_layers; l++)
        sliding[l] = l % 2 == 0;
    SY_TRY(set_windows(config, sliding, spec));
done:
    return st;
}

sy_status
sy_read_glm4_moe(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_layer_spec layer = *common;
    bool qk_norm = false;
    SY_TRY(sy_config_no_window(config, spec));
    SY_TRY(sy_config_gqa(config, spec->hidden, &layer.attn));
    SY_TRY(read_biases(config, false, false, &layer.attn));
    SY_TRY(sy_config_partial_rope(config, spec, 0.5, &layer.attn));
    SY_TRY(sy_config_flag(config, "use_qk_norm", &qk_norm));
    SY_TRY(sy_config_biased_sigmoid(config, &layer.ffn));
    if (qk_norm) layer.attn.qk_norm = SY_QK_NORM_PER_HEAD;
    SY_TRY(sy_config_dense_first(config, &layer, spec));
done:
    return st;
}

sy_status
sy_read_sarvam_moe(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_layer_spec layer = *common;
    bool qk_norm = true, choice_bias = true;
    SY_TRY(sy_config_no_window(config, spec));
    SY_TRY(sy_config_gqa(config, spec->hidden, &layer.attn));
    SY_TRY(sy_config_flag(config, "use_qkv_bias", &layer.attn.qkv_bias));
    SY_TRY(sy_config_flag(config, "attention_bias", &layer.attn.qkv_bias));
    SY_TRY(sy_config_refuse_if_set(config, "use_bias"));
    SY_TRY(sy_config_partial_rope(config, spec, 1, &layer.attn));
    SY_TRY(sy_config_flag(config, "use_qk_norm", &qk_norm));
    SY_TRY(sy_config_biased_sigmoid(config, &layer.ffn));
    SY_TRY(sy_config_flag(config, "moe_router_enable_expert_bias", &choice_bias));
    layer.ffn.choice_bias = choice_bias;
    if (qk_norm) layer.attn.qk_norm = SY_QK_NORM_PER_HEAD;
    SY_TRY(sy_config_dense_first(config, &layer, spec));
done:
    return st;
}

/* attn_type_list: 1 is full attention, 0 the linear attention of MiniMax-Text-01. */
static sy_status check_attention_types(const sy_config *config, int n_layers) {
    const json_t *list = sy_config_member(config, "attn_type_list");
    if (list == NULL) return SY_OK;
    if (!json_is_array(list) || json_array_size(list) != (size_t)n_layers)
        return sy_fail(SY_ERR_FORMAT,
                       "%s: \"attn_type_list\": expected an array of %d entries, found %s of "
                       "%zu",
                       config->where, n_layers, sy_json_type_name(list), json_array_size(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        int64_t type = -1;
        if (!sy_json_integral(item, &type))
            return sy_fail(SY_ERR_FORMAT,
                           "%s: \"attn_type_list\"[%zu]: expected a whole number, found %s",
                           config->where, i, sy_json_type_name(item));
        if (type != 1)
            return sy_fail(SY_ERR_UNSUPPORTED,
                           "%s: \"attn_type_list\"[%zu] is %lld; only 1, full attention, is "
                           "supported",
                           config->where, i, (long long)type);
    }
    return SY_OK;
}

/* Sums of whole vectors for the q/k norm; sigmoid with a bias for the choice, and weights that are
 * divided by their sum with no eps (transformers, modeling_minimax_m2.py). */
sy_status
sy_read_minimax_m2(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_layer_spec layer = *common;
    bool qk_norm = true, choice_bias = true;
    int shared = 0;
    SY_TRY(sy_config_no_window(config, spec));
    SY_TRY(check_attention_types(config, spec->n_layers));
    SY_TRY(sy_config_gqa(config, spec->hidden, &layer.attn));
    SY_TRY(sy_config_refuse_if_set(config, "attention_bias"));
    SY_TRY(sy_config_partial_rope(config, spec, 1, &layer.attn));
    SY_TRY(sy_config_flag(config, "use_qk_norm", &qk_norm));
    SY_TRY(sy_config_only(config, "qk_norm_type", "per_layer"));
    if (!qk_norm)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%s: \"use_qk_norm\" is false; only true is supported",
                config->where);
    SY_TRY(sy_config_experts(config, "intermediate_size", &layer.ffn));
    SY_TRY(sy_config_optional(config, "shared_intermediate_size", NULL, SY_MAX_WIDTH, &shared));
    if (shared != 0)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: \"shared_intermediate_size\" is %d; only 0 is supported in this family",
                config->where, shared);
    SY_TRY(sy_config_only(config, "scoring_func", "sigmoid"));
    SY_TRY(sy_config_flag(config, "use_routing_bias", &choice_bias));
    SY_TRY(sy_config_optional(config, "num_mtp_modules", NULL, SY_MAX_LAYERS,
                              &spec->n_mtp_layers));
    layer.attn.qk_norm = SY_QK_NORM_WHOLE;
    layer.ffn.score = SY_SCORE_SIGMOID;
    layer.ffn.choice_bias = choice_bias;
    layer.ffn.renorm = true;
    fill_layers(spec, &layer);
done:
    return st;
}
