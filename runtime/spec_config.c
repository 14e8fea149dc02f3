#include "runtime/spec_config.h"

#include <math.h>
#include <string.h>

#include "base/json.h"

const char *sy_printable(const char *text, char buf[SY_PRINTABLE_MAX]) {
    size_t n = 0;
    for (; text[n] != '\0' && n < SY_PRINTABLE_MAX - 4; n++)
        buf[n] = (unsigned char)text[n] < 0x20 || text[n] == 0x7f ? '?' : text[n];
    if (text[n] != '\0') {
        while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
            n--; /* cut between characters */
        memcpy(buf + n, "...", 3);
        n += 3;
    }
    buf[n] = '\0';
    return buf;
}

const json_t *sy_config_member(const sy_config *config, const char *key) {
    const json_t *value = json_object_get(config->text, key);
    return json_is_null(value) ? NULL : value;
}

sy_status sy_config_count(const sy_config *config,
                          const char *key,
                          const char *alias,
                          int64_t max,
                          int *out) {
    sy_status st = SY_OK;
    int64_t value = 0, other = 0;
    SY_TRY(sy_json_get_int(config->text, config->where, key, 1, max, &value));
    if (alias != NULL)
        SY_TRY(sy_json_get_int(config->text, config->where, alias, 1, max, &other));
    if (value != 0 && other != 0 && value != other)
        SY_FAIL(SY_ERR_FORMAT, "%s: \"%s\" is %lld and \"%s\" is %lld; expected equal values",
                config->where, key, (long long)value, alias, (long long)other);
    if (value == 0) value = other;
    if (value == 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected \"%s\"%s%s%s, found none", config->where, key,
                alias ? " or \"" : "", alias ? alias : "", alias ? "\"" : "");
    *out = (int)value;
done:
    return st;
}

/* A switch that must be absent, null or false. */
static sy_status refuse_if_set(const sy_config *config, const char *key) {
    const json_t *value = sy_config_member(config, key);
    if (value == NULL || json_is_false(value)) return SY_OK;
    return sy_fail(SY_ERR_UNSUPPORTED, "%s: \"%s\" is set (%s), which is not supported",
                   config->where, key, sy_json_type_name(value));
}

static sy_status refuse_quantization(const sy_config *config, const json_t *object) {
    const json_t *value = json_object_get(object, "quantization_config");
    const char *method = NULL;
    char buf[SY_PRINTABLE_MAX];
    if (value == NULL || json_is_null(value)) return SY_OK;
    static const char *const names[] = {"quant_method", "quant_algo", "format"};
    for (int i = 0; i < 3 && method == NULL; i++)
        method = json_string_value(json_object_get(value, names[i]));
    return sy_fail(SY_ERR_UNSUPPORTED,
                   "%s: \"quantization_config\": method \"%s\" is not supported; only "
                   "checkpoints in BF16, F16 and F32 are",
                   config->where, method ? sy_printable(method, buf) : "unnamed");
}

static sy_status check_layer_types(const sy_config *config, int n_layers) {
    const json_t *list = sy_config_member(config, "layer_types");
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
        if (strcmp(type, "full_attention") != 0)
            return sy_fail(SY_ERR_UNSUPPORTED,
                           "%s: \"layer_types\"[%zu] is \"%s\"; only \"full_attention\" is "
                           "supported",
                           config->where, i, sy_printable(type, buf));
    }
    return SY_OK;
}

/* Joins a base that is given in one more place; all places must agree. */
static sy_status join_theta(const sy_config *config, const json_t *object, double *theta) {
    double found = 0;
    sy_status st = sy_json_get_real(object, config->where, "rope_theta", &found);
    if (st != SY_OK || json_is_null(json_object_get(object, "rope_theta")) ||
        json_object_get(object, "rope_theta") == NULL)
        return st;
    /* Frequencies theta^(-2i/d) stay finite, and at most 1, from 1 up. */
    if (!(found >= 1 && found <= 1e30))
        return sy_fail(SY_ERR_FORMAT, "%s: expected a \"rope_theta\" from 1 to 1e30, found %g",
                       config->where, found);
    if (*theta != 0 && *theta != found)
        return sy_fail(SY_ERR_FORMAT,
                       "%s: \"rope_theta\" is given as %g and as %g; expected equal values",
                       config->where, *theta, found);
    *theta = found;
    return SY_OK;
}

static sy_status refuse_partial(const sy_config *config, const json_t *object) {
    double partial = 1;
    sy_status st = sy_json_get_real(object, config->where, "partial_rotary_factor", &partial);
    if (st == SY_OK && partial != 1)
        st = sy_fail(SY_ERR_UNSUPPORTED,
                     "%s: \"partial_rotary_factor\" is %g; only 1 is supported", config->where,
                     partial);
    return st;
}

static sy_status
check_rope_type(const sy_config *config, const json_t *rope, const char *name) {
    static const char *const keys[] = {"rope_type", "type"};
    for (int i = 0; i < 2; i++) {
        const char *type = NULL;
        char buf[SY_PRINTABLE_MAX];
        sy_status st = sy_json_get_string(rope, config->where, keys[i], &type);
        if (st != SY_OK) return st;
        if (type != NULL && strcmp(type, "default") != 0)
            return sy_fail(SY_ERR_UNSUPPORTED,
                           "%s: \"%s\": rope type \"%s\" is not supported; only \"default\" is",
                           config->where, name, sy_printable(type, buf));
    }
    return SY_OK;
}

/* rope_scaling (transformers 4) or rope_parameters (5), which may nest one object per kind of
 * layer; an empty object says nothing. */
static sy_status read_rope_object(const sy_config *config, const char *key, double *theta) {
    sy_status st = SY_OK;
    const json_t *rope = sy_config_member(config, key);
    if (rope == NULL) goto done;
    if (!json_is_object(rope))
        SY_FAIL(SY_ERR_FORMAT, "%s: \"%s\": expected an object, found %s", config->where, key,
                sy_json_type_name(rope));
    const json_t *nested = json_object_get(rope, "full_attention");
    if (nested != NULL && !json_is_object(nested))
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: \"%s\".\"full_attention\" is %s; only an object is supported",
                config->where, key, sy_json_type_name(nested));
    if (nested != NULL) rope = nested;
    SY_TRY(check_rope_type(config, rope, key));
    SY_TRY(join_theta(config, rope, theta));
    SY_TRY(refuse_partial(config, rope));
done:
    return st;
}

static sy_status read_rope(const sy_config *config, sy_attn_spec *attn) {
    sy_status st = SY_OK;
    double theta = 0;
    SY_TRY(read_rope_object(config, "rope_scaling", &theta));
    SY_TRY(read_rope_object(config, "rope_parameters", &theta));
    SY_TRY(join_theta(config, config->text, &theta));
    SY_TRY(refuse_partial(config, config->text));
    if (theta == 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected \"rope_theta\", found none", config->where);
    attn->rope.theta = theta;
    attn->rope.layout = SY_ROPE_HALF;
    attn->rope.attention_factor = 1;
    attn->rope.dim = attn->head_dim;
done:
    return st;
}

static sy_status read_attention(const sy_config *config, int hidden, sy_attn_spec *attn) {
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
    SY_TRY(read_rope(config, attn));
done:
    return st;
}

/* Switches of these families, or of their neighbours, whose other values change the result. */
static sy_status refuse_switches(const sy_config *config, int n_layers) {
    static const char *const off[] = {
        "attention_bias",          "mlp_bias",    "swiglu_limit", "attn_logit_softcapping",
        "final_logit_softcapping", "use_qkv_bias"};
    sy_status st = SY_OK;
    const char *act = "silu";
    char buf[SY_PRINTABLE_MAX];
    SY_TRY(refuse_quantization(config, config->top));
    SY_TRY(refuse_quantization(config, config->text));
    SY_TRY(sy_json_get_string(config->text, config->where, "hidden_act", &act));
    if (strcmp(act, "silu") != 0)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%s: \"hidden_act\" is \"%s\"; only \"silu\" is supported",
                config->where, sy_printable(act, buf));
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        SY_TRY(refuse_if_set(config, off[i]));
    SY_TRY(check_layer_types(config, n_layers));
done:
    return st;
}

sy_status sy_config_common(const sy_config *config, sy_model_spec *spec, sy_layer_spec *layer) {
    sy_status st = SY_OK;
    const char *where = config->where;
    double eps = 0;
    memset(layer, 0, sizeof *layer);
    SY_TRY(sy_config_count(config, "hidden_size", NULL, SY_MAX_HIDDEN, &spec->hidden));
    SY_TRY(sy_config_count(config, "num_hidden_layers", NULL, SY_MAX_LAYERS, &spec->n_layers));
    SY_TRY(sy_config_count(config, "vocab_size", NULL, SY_MAX_VOCAB, &spec->vocab));
    SY_TRY(refuse_switches(config, spec->n_layers));
    int64_t positions = 0;
    SY_TRY(sy_json_get_int(config->text, where, "max_position_embeddings", 1, SY_MAX_POSITION,
                           &positions));
    if (positions == 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected \"max_position_embeddings\", found none", where);
    spec->max_position = positions;
    SY_TRY(sy_json_get_bool(config->top, where, "tie_word_embeddings", &spec->tied));
    SY_TRY(sy_json_get_bool(config->text, where, "tie_word_embeddings", &spec->tied));
    SY_TRY(sy_json_get_real(config->text, where, "rms_norm_eps", &eps));
    if (!(eps >= 1e-30 && eps <= 1))
        SY_FAIL(SY_ERR_FORMAT, "%s: expected a \"rms_norm_eps\" from 1e-30 to 1, found %g",
                where, eps);
    spec->final_norm_eps = layer->norm_eps = (float)eps;
    SY_TRY(read_attention(config, spec->hidden, &layer->attn));
done:
    return st;
}
