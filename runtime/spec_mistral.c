/* Mistral's own params.json, in which Mistral Large 3 is published: the model that Hugging Face
 * calls mistral4, in other words. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "runtime/spec_config.h"

/* What params.json means without a length (vLLM, transformers_utils/configs/mistral.py). */
enum { DEFAULT_POSITIONS = 128000 };

bool sy_is_params_json(const json_t *top) {
    return json_is_object(top) && json_object_get(top, "model_type") == NULL &&
           json_object_get(top, "architectures") == NULL &&
           json_object_get(top, "dim") != NULL && json_object_get(top, "n_layers") != NULL;
}

/* An object member that must be there, as a config of its own. */
static sy_status enter(const sy_config *config, const char *key, sy_config *out) {
    const json_t *object = sy_config_member(config, key);
    if (!json_is_object(object))
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected an object, found %s", config->where,
                       key, object != NULL ? sy_json_type_name(object) : "none");
    *out = (sy_config){.top = object, .text = object, .where = config->where};
    return SY_OK;
}

static sy_status read_sizes(const sy_config *config, sy_model_spec *spec, float *eps_out) {
    sy_status st = SY_OK;
    double eps = 0;
    int positions = DEFAULT_POSITIONS;
    SY_TRY(sy_config_count(config, "dim", NULL, SY_MAX_HIDDEN, &spec->hidden));
    SY_TRY(sy_config_count(config, "n_layers", NULL, SY_MAX_LAYERS, &spec->n_layers));
    SY_TRY(sy_config_count(config, "vocab_size", NULL, SY_MAX_VOCAB, &spec->vocab));
    SY_TRY(sy_config_optional(config, "max_seq_len", NULL, INT32_MAX, &positions));
    SY_TRY(sy_config_optional(config, "max_position_embeddings", NULL, INT32_MAX, &positions));
    if (positions < 1)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected 1 or more positions, found %d", config->where,
                positions);
    spec->max_position = positions;
    SY_TRY(sy_config_flag(config, "tied_embeddings", &spec->tied));
    SY_TRY(sy_config_real(config, config->text, "norm_eps", 1e-30, 1, &eps));
    if (eps == 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected a \"norm_eps\" from 1e-30 to 1, found none",
                config->where);
    spec->final_norm_eps = *eps_out = (float)eps;
    SY_TRY(sy_config_refuse_if_set(config, "use_biases"));
    SY_TRY(sy_config_only(config, "activation", "silu"));
done:
    return st;
}

/* A window, or a list of windows for layers in turn; null is none. */
static sy_status refuse_windows(const sy_config *config) {
    const json_t *value = sy_config_member(config, "sliding_window");
    bool none = value == NULL;
    for (size_t i = 0; json_is_array(value) && i < json_array_size(value); i++) {
        none = json_is_null(json_array_get(value, i));
        if (!none) break;
    }
    if (none || (json_is_array(value) && json_array_size(value) == 0)) return SY_OK;
    return sy_fail(SY_ERR_UNSUPPORTED,
                   "%s: \"sliding_window\" is set, which is not supported in params.json",
                   config->where);
}

static sy_status read_heads(const sy_config *config, sy_attn_spec *attn) {
    sy_status st = SY_OK;
    sy_mla_spec *m = &attn->mla;
    int kv_heads = 0, head_dim = 0;
    if (sy_config_member(config, "kv_lora_rank") == NULL)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: a params.json without \"kv_lora_rank\" is not supported; models with "
                "latent attention are, others need their config.json",
                config->where);
    attn->kind = SY_ATTN_MLA;
    SY_TRY(sy_config_count(config, "n_heads", NULL, SY_MAX_HEADS, &attn->heads));
    SY_TRY(sy_config_optional(config, "q_lora_rank", NULL, SY_MAX_HIDDEN, &m->q_rank));
    SY_TRY(sy_config_count(config, "kv_lora_rank", NULL, SY_MAX_HIDDEN, &m->kv_rank));
    SY_TRY(sy_config_count(config, "qk_nope_head_dim", NULL, SY_MAX_HEAD_DIM, &m->nope));
    SY_TRY(sy_config_count(config, "qk_rope_head_dim", NULL, SY_MAX_HEAD_DIM, &m->rope));
    SY_TRY(sy_config_count(config, "v_head_dim", NULL, SY_MAX_HEAD_DIM, &m->value));
    SY_TRY(sy_check_mla(config->where, attn));
    m->norm_eps = 1e-6f;
    attn->kv_heads = 1;
    attn->head_dim = head_dim = m->nope + m->rope;
    attn->softmax_scale = (float)(1.0 / sqrt((double)head_dim));
    kv_heads = attn->heads;
    SY_TRY(sy_config_optional(config, "n_kv_heads", NULL, SY_MAX_HEADS, &kv_heads));
    SY_TRY(sy_config_optional(config, "head_dim", NULL, SY_MAX_WIDTH, &head_dim));
    if (kv_heads != attn->heads || head_dim != attn->head_dim)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: expected %d \"n_kv_heads\" and a \"head_dim\" of %d, found %d and %d",
                config->where, attn->heads, attn->head_dim, kv_heads, head_dim);
done:
    return st;
}

/* Keys of `object` are all in `known`; another could change what the rest means. */
static sy_status only_known(const sy_config *config,
                            const char *name,
                            const char *const *known,
                            size_t n_known) {
    json_t *object = (json_t *)(uintptr_t)config->text;
    for (void *it = json_object_iter(object); it != NULL;
         it = json_object_iter_next(object, it)) {
        const char *key = json_object_iter_key(it);
        char buf[SY_PRINTABLE_MAX];
        bool found = false;
        for (size_t i = 0; i < n_known; i++)
            found = found || strcmp(key, known[i]) == 0;
        if (!found)
            return sy_fail(SY_ERR_UNSUPPORTED, "%s: \"%s\": \"%s\" is not supported",
                           config->where, name, sy_printable(key, buf));
    }
    return SY_OK;
}

/* "beta" and "alpha" are the fast and the slow beta. apply_scale would bring factors on the
 * softmax scale; the published files say false. */
static sy_status read_yarn(const sy_config *config, sy_rope_spec *rope) {
    static const char *const known[] = {"factor", "original_max_position_embeddings", "beta",
                                        "alpha", "apply_scale"};
    sy_status st = SY_OK;
    sy_config yarn;
    bool apply = true;
    if (sy_config_member(config, "yarn") == NULL) goto done;
    SY_TRY(enter(config, "yarn", &yarn));
    SY_TRY(only_known(&yarn, "yarn", known, sizeof known / sizeof *known));
    rope->beta_fast = 32;
    rope->beta_slow = 1;
    rope->truncate = true;
    SY_TRY(sy_config_real(&yarn, yarn.text, "factor", 1, 1e6, &rope->factor));
    SY_TRY(sy_config_real(&yarn, yarn.text, "original_max_position_embeddings", 1, 1e9,
                          &rope->original_positions));
    SY_TRY(sy_config_real(&yarn, yarn.text, "beta", 1e-6, 1e6, &rope->beta_fast));
    SY_TRY(sy_config_real(&yarn, yarn.text, "alpha", 1e-6, 1e6, &rope->beta_slow));
    if (rope->factor == 0 || rope->original_positions == 0)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: \"yarn\": expected \"factor\" and \"original_max_position_embeddings\"",
                config->where);
    SY_TRY(sy_config_flag(&yarn, "apply_scale", &apply));
    if (apply)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: \"yarn\": \"apply_scale\" is true, or absent; only false is supported",
                config->where);
done:
    return st;
}

static sy_status read_query_scaling(const sy_config *config, sy_attn_spec *attn) {
    sy_status st = SY_OK;
    sy_config scaling;
    double beta = 0;
    int positions = 0;
    if (sy_config_member(config, "llama_4_scaling") == NULL) goto done;
    SY_TRY(enter(config, "llama_4_scaling", &scaling));
    SY_TRY(sy_config_real(&scaling, scaling.text, "beta", 0, 1e3, &beta));
    SY_TRY(sy_config_count(&scaling, "original_max_position_embeddings", NULL, INT32_MAX,
                           &positions));
    attn->query_beta = (float)beta;
    attn->query_positions = positions;
done:
    return st;
}

static sy_status read_attention(const sy_config *config, sy_attn_spec *attn) {
    sy_status st = SY_OK;
    sy_rope_spec *rope = &attn->rope;
    SY_TRY(refuse_windows(config));
    SY_TRY(read_heads(config, attn));
    rope->layout = SY_ROPE_INTERLEAVED;
    rope->dim = attn->mla.rope;
    rope->attention_factor = 1;
    SY_TRY(sy_config_real(config, config->text, "rope_theta", 1, 1e30, &rope->theta));
    if (rope->theta == 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected \"rope_theta\", found none", config->where);
    SY_TRY(read_yarn(config, rope));
    SY_TRY(sy_check_rope(config->where, rope));
    SY_TRY(read_query_scaling(config, attn));
done:
    return st;
}

static sy_status check_top_k(const sy_config *moe, const sy_ffn_spec *ffn) {
    if (ffn->top_k <= ffn->experts) return SY_OK;
    return sy_fail(SY_ERR_FORMAT,
                   "%s: expected \"num_experts_per_tok\" of at most %d, the number of experts, "
                   "found %d",
                   moe->where, ffn->experts, ffn->top_k);
}

/* The members of "moe". Groups are by their two best experts, as in mistral4. */
static sy_status read_router(const sy_config *moe, sy_ffn_spec *ffn) {
    sy_status st = SY_OK;
    int shared = 0, groups = 1, kept = 1;
    double scale = 1;
    *ffn = (sy_ffn_spec){.kind = SY_FFN_MOE,
                         .act = SY_ACT_SWIGLU,
                         .score = SY_SCORE_SOFTMAX,
                         .renorm = true,
                         .renorm_eps = 1e-20f};
    SY_TRY(sy_config_count(moe, "num_experts", NULL, SY_MAX_EXPERTS, &ffn->experts));
    SY_TRY(sy_config_count(moe, "num_experts_per_tok", NULL, SY_MAX_TOP_K, &ffn->top_k));
    SY_TRY(sy_config_count(moe, "expert_hidden_dim", NULL, SY_MAX_WIDTH, &ffn->inter));
    SY_TRY(check_top_k(moe, ffn));
    SY_TRY(sy_config_optional(moe, "num_shared_experts", NULL, SY_MAX_EXPERTS, &shared));
    if ((int64_t)shared * ffn->inter > SY_MAX_WIDTH)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: expected shared experts of at most %d values together, found %d x %d",
                moe->where, SY_MAX_WIDTH, shared, ffn->inter);
    ffn->shared_inter = shared * ffn->inter;
    SY_TRY(sy_config_optional(moe, "num_expert_groups", NULL, SY_MAX_EXPERTS, &groups));
    SY_TRY(sy_config_optional(moe, "num_expert_groups_per_tok", NULL, SY_MAX_EXPERTS, &kept));
    ffn->n_groups = groups > 1 ? groups : 1;
    ffn->groups_kept = groups > 1 ? kept : 1;
    ffn->group_score = SY_GROUP_TOP2;
    SY_TRY(sy_check_groups(moe->where, ffn));
    SY_TRY(sy_config_real(moe, moe->text, "routed_scale", 1e-6, 1e6, &scale));
    ffn->routed_scale = (float)scale;
done:
    return st;
}

static sy_status
read_layers(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_config moe;
    sy_ffn_spec routed, dense = {.kind = SY_FFN_DENSE, .act = SY_ACT_SWIGLU};
    int first = 0, step = 1;
    SY_TRY(enter(config, "moe", &moe));
    SY_TRY(read_router(&moe, &routed));
    SY_TRY(sy_config_optional(&moe, "first_k_dense_replace", NULL, spec->n_layers, &first));
    SY_TRY(sy_config_optional(&moe, "route_every_n", NULL, SY_MAX_LAYERS, &step));
    if (step != 1)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%s: \"moe\": \"route_every_n\" is %d; only 1 is supported",
                config->where, step);
    if (first > 0)
        SY_TRY(sy_config_count(config, "hidden_dim", NULL, SY_MAX_WIDTH, &dense.inter));
    for (int l = 0; l < spec->n_layers; l++) {
        spec->layer[l] = *common;
        spec->layer[l].ffn = l < first ? dense : routed;
    }
done:
    return st;
}

/* Either {"qformat_weight": "fp8_e4m3", "qscheme_act": ..} or a compressed-tensors object, under
 * either of two keys. */
static sy_status read_quantization(const sy_config *config, sy_quantization *out) {
    sy_status st = SY_OK;
    const json_t *object = sy_config_member(config, "quantization");
    if (object == NULL) object = sy_config_member(config, "quantization_config");
    const char *format = NULL, *scheme = NULL;
    char buf[SY_PRINTABLE_MAX];
    if (object == NULL) goto done;
    if (json_object_get(object, "qformat_weight") == NULL) {
        SY_TRY(sy_read_quantization(object, config->where, "quantization", out));
        goto done;
    }
    SY_TRY(sy_json_get_string(object, config->where, "qformat_weight", &format));
    SY_TRY(sy_json_get_string(object, config->where, "qscheme_act", &scheme));
    if (format == NULL || strcmp(format, "fp8_e4m3") != 0)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: \"qformat_weight\" is \"%s\"; only \"fp8_e4m3\" is supported",
                config->where, format != NULL ? sy_printable(format, buf) : "null");
    if (scheme != NULL && strcmp(scheme, "TENSOR") != 0 && strcmp(scheme, "NO_SCALES") != 0)
        SY_FAIL(
            SY_ERR_UNSUPPORTED,
            "%s: \"qscheme_act\" is \"%s\"; only \"TENSOR\" and \"NO_SCALES\" are supported",
            config->where, sy_printable(scheme, buf));
    *out = (sy_quantization){.method = SY_QUANT_MISTRAL_FP8,
                             .values = SY_QUANT_E4M3,
                             .scales = SY_QUANT_PER_TENSOR,
                             .static_activations =
                                 scheme != NULL && strcmp(scheme, "TENSOR") == 0};
done:
    return st;
}

sy_status sy_params_read(const json_t *top, const char *where, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_config config = {.top = top, .text = top, .where = where};
    sy_layer_spec layer = {0};
    snprintf(spec->family, sizeof spec->family, "mistral4");
    SY_TRY(read_sizes(&config, spec, &layer.norm_eps));
    SY_TRY(read_attention(&config, &layer.attn));
    SY_TRY(sy_spec_alloc_layers(spec));
    SY_TRY(read_layers(&config, &layer, spec));
    spec->dtype = SY_BF16;
    SY_TRY(read_quantization(&config, &spec->quant));
    SY_TRY(sy_spec_check_whole(spec, where));
done:
    return st;
}
