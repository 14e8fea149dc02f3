/* Attention as config.json spells it: heads and widths, latent ranks, windows. */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "runtime/spec_config.h"

/* Norms of latents are built without the config's eps, in every family (transformers,
 * modeling_deepseek_v3.py and its kin). */
static const float LATENT_NORM_EPS = 1e-6f;

sy_status sy_config_gqa(const sy_config *config, int hidden, sy_attn_spec *attn) {
    sy_status st = SY_OK;
    int64_t head_dim = 0, kv_heads = 0;
    const char *where = config->where;
    attn->kind = SY_ATTN_GQA;
    SY_TRY(sy_config_count(config, "num_attention_heads", NULL, SY_MAX_HEADS, &attn->heads));
    kv_heads = attn->heads; /* what a missing key means: no grouping */
    SY_TRY(sy_json_get_int(config->text, where, "num_key_value_heads", 1, SY_MAX_HEADS,
                           &kv_heads));
    SY_TRY(sy_json_get_int(config->text, where, "head_dim", 1, SY_MAX_HEAD_DIM, &head_dim));
    if (attn->heads % kv_heads != 0)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: expected \"num_attention_heads\" (%d) to be a multiple of "
                "\"num_key_value_heads\" (%lld)",
                where, attn->heads, (long long)kv_heads);
    if (head_dim == 0 && hidden % attn->heads != 0)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: expected \"head_dim\", or \"hidden_size\" (%d) to be a multiple of "
                "\"num_attention_heads\" (%d)",
                where, hidden, attn->heads);
    if (head_dim == 0) head_dim = hidden / attn->heads;
    if (head_dim % 2 != 0 || head_dim > SY_MAX_HEAD_DIM)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected an even width of heads up to %d, found %lld",
                where, SY_MAX_HEAD_DIM, (long long)head_dim);
    if (head_dim * attn->heads > SY_MAX_WIDTH)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: expected heads of at most %d values together, found %d x %lld", where,
                SY_MAX_WIDTH, attn->heads, (long long)head_dim);
    attn->kv_heads = (int)kv_heads;
    attn->head_dim = (int)head_dim;
    attn->softmax_scale = (float)(1.0 / sqrt((double)head_dim));
done:
    return st;
}

sy_status sy_check_mla(const char *where, const sy_attn_spec *attn) {
    const sy_mla_spec *m = &attn->mla;
    const int64_t widths[] = {(int64_t)m->nope + m->rope, m->value, (int64_t)m->nope + m->value,
                              (int64_t)m->kv_rank + m->rope};
    if (m->rope % 2 != 0 || m->nope % 2 != 0)
        return sy_fail(SY_ERR_FORMAT,
                       "%s: expected even widths of the rotary and the other part of a head, "
                       "found %d and %d",
                       where, m->rope, m->nope);
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++)
        if (widths[i] * attn->heads > SY_MAX_WIDTH)
            return sy_fail(SY_ERR_FORMAT,
                           "%s: expected heads of at most %d values together, found %d x %lld",
                           where, SY_MAX_WIDTH, attn->heads, (long long)widths[i]);
    return SY_OK;
}

/* head_dim is not read: it holds the width of the rotary part, of the cache, or of a query. */
sy_status sy_config_mla(const sy_config *config, sy_attn_spec *attn) {
    sy_status st = SY_OK;
    sy_mla_spec *m = &attn->mla;
    int kv_heads = 0;
    attn->kind = SY_ATTN_MLA;
    SY_TRY(sy_config_count(config, "num_attention_heads", NULL, SY_MAX_HEADS, &attn->heads));
    kv_heads = attn->heads;
    SY_TRY(sy_config_optional(config, "num_key_value_heads", NULL, SY_MAX_HEADS, &kv_heads));
    if (kv_heads != attn->heads)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: \"num_key_value_heads\" is %d; only \"num_attention_heads\" (%d) is "
                "supported with latent attention",
                config->where, kv_heads, attn->heads);
    SY_TRY(sy_config_optional(config, "q_lora_rank", NULL, SY_MAX_HIDDEN, &m->q_rank));
    SY_TRY(sy_config_count(config, "kv_lora_rank", NULL, SY_MAX_HIDDEN, &m->kv_rank));
    SY_TRY(sy_config_count(config, "qk_nope_head_dim", NULL, SY_MAX_HEAD_DIM, &m->nope));
    SY_TRY(sy_config_count(config, "qk_rope_head_dim", NULL, SY_MAX_HEAD_DIM, &m->rope));
    SY_TRY(sy_config_count(config, "v_head_dim", NULL, SY_MAX_HEAD_DIM, &m->value));
    SY_TRY(sy_config_refuse_if_set(config, "attention_bias"));
    SY_TRY(sy_check_mla(config->where, attn));
    m->norm_eps = LATENT_NORM_EPS;
    attn->kv_heads = 1;
    attn->head_dim = m->nope + m->rope;
    attn->softmax_scale = (float)(1.0 / sqrt((double)attn->head_dim));
done:
    return st;
}

sy_status
sy_config_layer_types(const sy_config *config, int n_layers, bool *given, bool *sliding) {
    const json_t *list = sy_config_member(config, "layer_types");
    *given = list != NULL;
    if (list == NULL) return SY_OK;
    if (!json_is_array(list))
        return sy_fail(SY_ERR_FORMAT, "%s: \"layer_types\": expected an array, found %s",
                       config->where, sy_json_type_name(list));
    if (json_array_size(list) != (size_t)n_layers)
        return sy_fail(SY_ERR_FORMAT, "%s: \"layer_types\": expected %d entries, found %zu",
                       config->where, n_layers, json_array_size(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        const char *type = json_string_value(item);
        char buf[SY_PRINTABLE_MAX];
        if (type == NULL)
            return sy_fail(SY_ERR_FORMAT,
                           "%s: \"layer_types\"[%zu]: expected a string, found %s",
                           config->where, i, sy_json_type_name(item));
        sliding[i] = strcmp(type, "sliding_attention") == 0;
        if (!sliding[i] && strcmp(type, "full_attention") != 0)
            return sy_fail(SY_ERR_UNSUPPORTED,
                           "%s: \"layer_types\"[%zu] is \"%s\"; only \"full_attention\" and "
                           "\"sliding_attention\" are supported",
                           config->where, i, sy_printable(type, buf));
    }
    return SY_OK;
}

sy_status sy_config_window(const sy_config *config, const sy_model_spec *spec, int64_t *out) {
    int64_t window = 0;
    sy_status st =
        sy_json_get_int(config->text, config->where, "sliding_window", 1, INT64_MAX, &window);
    *out = window < spec->max_position ? window : 0;
    return st;
}

sy_status sy_config_no_window(const sy_config *config, const sy_model_spec *spec) {
    sy_status st = SY_OK;
    bool given, in_use = true, sliding[SY_MAX_LAYERS] = {false};
    int64_t window = 0;
    SY_TRY(sy_config_flag(config, "use_sliding_window", &in_use));
    SY_TRY(sy_config_window(config, spec, &window));
    if (in_use && window != 0)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: \"sliding_window\" is %lld, below \"max_position_embeddings\" (%lld); "
                "models of this family attend to all tokens",
                config->where, (long long)window, (long long)spec->max_position);
    SY_TRY(sy_config_layer_types(config, spec->n_layers, &given, sliding));
    for (int l = 0; l < spec->n_layers; l++)
        if (sliding[l])
            SY_FAIL(SY_ERR_UNSUPPORTED,
                    "%s: \"layer_types\"[%d] is \"sliding_attention\"; models of this family "
                    "attend to all tokens",
                    config->where, l);
done:
    return st;
}
