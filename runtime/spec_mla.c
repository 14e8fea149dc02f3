/* Readers of the families with latent attention: DeepSeek-V2 and V3, Kimi K2, Sarvam-105B and
 * Mistral 4 (in Hugging Face's spelling; Mistral's own is in spec_mistral.c). */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "runtime/spec_config.h"

/* transformers takes partial_rotary_factor as a share of the whole head or of the rotary part;
 * both must come out as qk_rope_head_dim. */
static sy_status
check_partial(const sy_config *config, double partial, const sy_attn_spec *attn) {
    if (partial == 0 || partial == 1) return SY_OK;
    if (fabs(attn->head_dim * partial - attn->mla.rope) < 0.5) return SY_OK;
    return sy_fail(SY_ERR_FORMAT,
                   "%s: \"partial_rotary_factor\" is %g, but \"qk_rope_head_dim\" is %d of %d",
                   config->where, partial, attn->mla.rope, attn->head_dim);
}

/* Attention with its rotary. The rows of the rotary parts are stored interleaved, unless
 * rope_interleave says otherwise. */
static sy_status read_attention(const sy_config *config,
                                const sy_model_spec *spec,
                                sy_rope_reading *reading,
                                sy_attn_spec *attn) {
    sy_status st = SY_OK;
    bool interleaved = true;
    SY_TRY(sy_config_no_window(config, spec));
    SY_TRY(sy_config_mla(config, attn));
    SY_TRY(sy_config_rope(config, spec, reading));
    SY_TRY(check_partial(config, reading->partial, attn));
    SY_TRY(sy_config_flag(config, "rope_interleave", &interleaved));
    attn->rope = reading->rope;
    attn->rope.layout = interleaved ? SY_ROPE_INTERLEAVED : SY_ROPE_HALF;
    attn->rope.dim = attn->mla.rope;
done:
    return st;
}

/* DeepSeek's: with YaRN the softmax scale grows by the square of the magnitude. */
static sy_status read_deepseek_attention(const sy_config *config,
                                         const sy_model_spec *spec,
                                         sy_attn_spec *attn) {
    sy_status st = SY_OK;
    sy_rope_reading reading;
    SY_TRY(read_attention(config, spec, &reading, attn));
    if (reading.query_beta != 0)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: \"llama_4_scaling_beta\" is %g, which this family does not have",
                config->where, reading.query_beta);
    if (reading.rope.factor != 0 && reading.mscale_all_dim != 0) {
        double m = sy_yarn_magnitude(reading.rope.factor, reading.mscale_all_dim);
        attn->softmax_scale = (float)(m * m / sqrt((double)attn->head_dim));
    }
done:
    return st;
}

/* V2's router: softmax over all experts, never renormalised (its original code would then leave
 * out the scale, transformers' would not renormalise: so that switch is refused). */
static sy_status read_v2_router(const sy_config *config, sy_ffn_spec *ffn) {
    sy_status st = SY_OK;
    const char *method = "greedy";
    char buf[SY_PRINTABLE_MAX];
    SY_TRY(sy_config_experts(config, "moe_intermediate_size", ffn));
    SY_TRY(sy_config_shared(config, ffn));
    SY_TRY(sy_config_only(config, "scoring_func", "softmax"));
    SY_TRY(sy_config_weights(config, false, 0, ffn));
    if (ffn->renorm)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: \"norm_topk_prob\" is true; only false is supported in this family",
                config->where);
    SY_TRY(sy_json_get_string(config->text, config->where, "topk_method", &method));
    if (strcmp(method, "group_limited_greedy") == 0)
        SY_TRY(sy_config_groups(config, SY_GROUP_MAX, ffn));
    else if (strcmp(method, "greedy") != 0)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: \"topk_method\" is \"%s\"; only \"greedy\" and \"group_limited_greedy\" "
                "are supported",
                config->where, sy_printable(method, buf));
done:
    return st;
}

sy_status
sy_read_deepseek_v2(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_layer_spec layer = *common;
    SY_TRY(read_deepseek_attention(config, spec, &layer.attn));
    SY_TRY(read_v2_router(config, &layer.ffn));
    SY_TRY(sy_config_dense_first(config, &layer, spec));
done:
    return st;
}

sy_status
sy_read_deepseek_v3(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_layer_spec layer = *common;
    SY_TRY(read_deepseek_attention(config, spec, &layer.attn));
    SY_TRY(sy_config_biased_sigmoid(config, &layer.ffn));
    SY_TRY(sy_config_dense_first(config, &layer, spec));
done:
    return st;
}

/* The vendor's class supplies YaRN where the file has no rotary object, transformers' does not:
 * such a file is refused. use_qk_norm is set in the published file and read by nobody. */
sy_status
sy_read_sarvam_mla(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    if (sy_config_member(config, "rope_scaling") == NULL &&
        sy_config_member(config, "rope_parameters") == NULL)
        return sy_fail(SY_ERR_FORMAT,
                       "%s: expected \"rope_scaling\" or \"rope_parameters\", found none",
                       config->where);
    return sy_read_deepseek_v3(config, common, spec);
}

/* Mistral 4 follows Mistral's own params.json, whose YaRN says apply_scale false: mscale_all_dim
 * does not change the softmax scale (transformers from 5.17 on differs). Past the original
 * positions queries grow with the logarithm of their position. */
static sy_status read_mistral4_attention(const sy_config *config,
                                         const sy_model_spec *spec,
                                         sy_attn_spec *attn) {
    sy_status st = SY_OK;
    sy_rope_reading reading;
    SY_TRY(read_attention(config, spec, &reading, attn));
    if (reading.query_beta == 0) goto done;
    if (reading.rope.factor == 0)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: \"llama_4_scaling_beta\" is %g; it is supported with YaRN only",
                config->where, reading.query_beta);
    attn->query_beta = (float)reading.query_beta;
    attn->query_positions = (int64_t)reading.rope.original_positions;
done:
    return st;
}

sy_status
sy_read_mistral4(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_layer_spec layer = *common;
    SY_TRY(read_mistral4_attention(config, spec, &layer.attn));
    SY_TRY(sy_config_experts(config, "moe_intermediate_size", &layer.ffn));
    SY_TRY(sy_config_shared(config, &layer.ffn));
    SY_TRY(sy_config_only(config, "scoring_func", "softmax"));
    SY_TRY(sy_config_groups(config, SY_GROUP_TOP2, &layer.ffn));
    SY_TRY(sy_config_weights(config, true, 1e-20, &layer.ffn));
    SY_TRY(sy_config_dense_first(config, &layer, spec));
done:
    return st;
}
