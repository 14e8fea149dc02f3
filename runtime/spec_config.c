#include "runtime/spec_config.h"

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

/* One number under two spellings; *found tells whether either is there. */
static sy_status read_number(const sy_config *config,
                             const char *key,
                             const char *alias,
                             int64_t min,
                             int64_t max,
                             bool *found,
                             int *out) {
    sy_status st = SY_OK;
    int64_t value = -1, other = -1;
    *found = false;
    SY_TRY(sy_json_get_int(config->text, config->where, key, min, max, &value));
    if (alias != NULL)
        SY_TRY(sy_json_get_int(config->text, config->where, alias, min, max, &other));
    if (value >= 0 && other >= 0 && value != other)
        SY_FAIL(SY_ERR_FORMAT, "%s: \"%s\" is %lld and \"%s\" is %lld; expected equal values",
                config->where, key, (long long)value, alias, (long long)other);
    if (value < 0) value = other;
    *found = value >= 0;
    if (*found) *out = (int)value;
done:
    return st;
}

sy_status sy_config_count(const sy_config *config,
                          const char *key,
                          const char *alias,
                          int64_t max,
                          int *out) {
    bool found;
    sy_status st = read_number(config, key, alias, 1, max, &found, out);
    if (st == SY_OK && !found)
        st = sy_fail(SY_ERR_FORMAT, "%s: expected \"%s\"%s%s%s, found none", config->where, key,
                     alias ? " or \"" : "", alias ? alias : "", alias ? "\"" : "");
    return st;
}

sy_status sy_config_optional(const sy_config *config,
                             const char *key,
                             const char *alias,
                             int64_t max,
                             int *out) {
    bool found;
    return read_number(config, key, alias, 0, max, &found, out);
}

sy_status sy_config_real(const sy_config *config,
                         const json_t *object,
                         const char *key,
                         double low,
                         double high,
                         double *out) {
    const json_t *member = json_object_get(object, key);
    double value = 0;
    if (member == NULL || json_is_null(member)) return SY_OK;
    sy_status st = sy_json_get_real(object, config->where, key, &value);
    if (st != SY_OK) return st;
    if (!(value >= low && value <= high))
        return sy_fail(SY_ERR_FORMAT, "%s: expected a \"%s\" from %g to %g, found %g",
                       config->where, key, low, high, value);
    *out = value;
    return SY_OK;
}

sy_status sy_config_flag(const sy_config *config, const char *key, bool *out) {
    return sy_json_get_bool(config->text, config->where, key, out);
}

sy_status sy_config_only(const sy_config *config, const char *key, const char *value) {
    const char *found = value;
    char buf[SY_PRINTABLE_MAX];
    sy_status st = sy_json_get_string(config->text, config->where, key, &found);
    if (st == SY_OK && strcmp(found, value) != 0)
        st = sy_fail(SY_ERR_UNSUPPORTED, "%s: \"%s\" is \"%s\"; only \"%s\" is supported",
                     config->where, key, sy_printable(found, buf), value);
    return st;
}

sy_status sy_config_refuse_if_set(const sy_config *config, const char *key) {
    const json_t *value = sy_config_member(config, key);
    if (value == NULL || json_is_false(value)) return SY_OK;
    return sy_fail(SY_ERR_UNSUPPORTED, "%s: \"%s\" is set (%s), which is not supported",
                   config->where, key, sy_json_type_name(value));
}

/* Clamps of the activation: neighbouring families have them under several names. */
static sy_status refuse_clamps(const sy_config *config) {
    json_t *text = (json_t *)(uintptr_t)config->text;
    for (void *it = json_object_iter(text); it != NULL; it = json_object_iter_next(text, it)) {
        const char *key = json_object_iter_key(it);
        char buf[SY_PRINTABLE_MAX];
        if (strncmp(key, "swiglu_", 7) != 0 || json_is_null(json_object_iter_value(it)))
            continue;
        bool known = strcmp(key, "swiglu_limit") == 0 || strcmp(key, "swiglu_alpha") == 0;
        if (!known || !config->reads_clamps)
            return sy_fail(SY_ERR_UNSUPPORTED, "%s: \"%s\" is set, which is not supported",
                           config->where, sy_printable(key, buf));
    }
    return SY_OK;
}

/* Switches of these families, or of their neighbours, whose other values change the result. */
static sy_status refuse_switches(const sy_config *config) {
    static const char *const off[] = {"mlp_bias",
                                      "attn_logit_softcapping",
                                      "final_logit_softcapping",
                                      "router_logit_softcapping",
                                      "mlp_layer_types",
                                      "index_topk"};
    sy_status st = SY_OK;
    SY_TRY(sy_config_only(config, "hidden_act", "silu"));
    for (size_t i = 0; i < sizeof off / sizeof *off; i++)
        SY_TRY(sy_config_refuse_if_set(config, off[i]));
    SY_TRY(refuse_clamps(config));
done:
    return st;
}

/* torch_dtype or dtype of either level. It only informs, so a strange one is no error. */
static sy_dtype announced_dtype(const sy_config *config) {
    static const struct {
        const char *name;
        sy_dtype dtype;
    } names[] = {{"bfloat16", SY_BF16}, {"float16", SY_F16}, {"float32", SY_F32}};
    const json_t *levels[] = {config->text, config->top};
    for (int i = 0; i < 4; i++) {
        const char *name =
            json_string_value(json_object_get(levels[i / 2], i % 2 ? "torch_dtype" : "dtype"));
        for (size_t k = 0; name != NULL && k < sizeof names / sizeof *names; k++)
            if (strcmp(name, names[k].name) == 0) return names[k].dtype;
    }
    return SY_BF16;
}

sy_status sy_config_common(const sy_config *config, sy_model_spec *spec, sy_layer_spec *layer) {
    sy_status st = SY_OK;
    const char *where = config->where;
    double eps = 0;
    int64_t positions = 0;
    memset(layer, 0, sizeof *layer);
    SY_TRY(sy_config_count(config, "hidden_size", NULL, SY_MAX_HIDDEN, &spec->hidden));
    SY_TRY(sy_config_count(config, "num_hidden_layers", NULL, SY_MAX_LAYERS, &spec->n_layers));
    SY_TRY(sy_config_count(config, "vocab_size", NULL, SY_MAX_VOCAB, &spec->vocab));
    SY_TRY(refuse_switches(config));
    SY_TRY(sy_json_get_int(config->text, where, "max_position_embeddings", 1, SY_MAX_POSITION,
                           &positions));
    if (positions == 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected \"max_position_embeddings\", found none", where);
    spec->max_position = positions;
    SY_TRY(sy_json_get_bool(config->top, where, "tie_word_embeddings", &spec->tied));
    SY_TRY(sy_json_get_bool(config->text, where, "tie_word_embeddings", &spec->tied));
    SY_TRY(sy_config_real(config, config->text, "rms_norm_eps", 1e-30, 1, &eps));
    if (eps == 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected a \"rms_norm_eps\" from 1e-30 to 1, found none",
                where);
    spec->final_norm_eps = layer->norm_eps = (float)eps;
    spec->dtype = announced_dtype(config);
    SY_TRY(sy_config_optional(config, "num_nextn_predict_layers", "num_mtp_layers",
                              SY_MAX_LAYERS, &spec->n_mtp_layers));
    SY_TRY(sy_config_quantization(config, &spec->quant));
done:
    return st;
}
