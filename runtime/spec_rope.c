/* Rotary embedding as config.json spells it, with every number of YaRN resolved in float64
 * (transformers, modeling_rope_utils.py). */
#include <math.h>
#include <string.h>

#include "base/json.h"
#include "runtime/spec_config.h"

/* A rope_scaling or rope_parameters object as it is written; NAN: not given. */
typedef struct rope_object {
    bool given, yarn, truncate;
    double factor, original_positions, beta_fast, beta_slow;
    double mscale, mscale_all_dim, attention_factor;
} rope_object;

double sy_yarn_magnitude(double factor, double m) {
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}

sy_status sy_check_rope(const char *where, const sy_rope_spec *rope) {
    /* Frequencies theta^(-2i/d) stay finite, and at most 1, from 1 up. */
    if (!(rope->theta >= 1 && rope->theta <= 1e30))
        return sy_fail(SY_ERR_FORMAT, "%s: expected a \"rope_theta\" from 1 to 1e30, found %g",
                       where, rope->theta);
    if (rope->factor == 0) return SY_OK;
    /* Bounds in pairs, dim ln(wave) / (2 ln(theta)), stay small numbers. */
    if (rope->theta < 2)
        return sy_fail(SY_ERR_FORMAT, "%s: YaRN: expected a \"rope_theta\" from 2, found %g",
                       where, rope->theta);
    if (!(rope->factor >= 1 && rope->factor <= 1e6))
        return sy_fail(SY_ERR_FORMAT, "%s: YaRN: expected a factor from 1 to 1e6, found %g",
                       where, rope->factor);
    if (!(rope->original_positions >= 1 && rope->original_positions <= 1e9))
        return sy_fail(SY_ERR_FORMAT,
                       "%s: YaRN: expected original positions from 1 to 1e9, found %g", where,
                       rope->original_positions);
    if (!(rope->beta_slow >= 1e-6 && rope->beta_fast >= rope->beta_slow &&
          rope->beta_fast <= 1e6))
        return sy_fail(SY_ERR_FORMAT,
                       "%s: YaRN: expected a slow beta from 1e-6, and a fast one not below it, "
                       "up to 1e6; found %g and %g",
                       where, rope->beta_slow, rope->beta_fast);
    if (!(rope->attention_factor >= 1e-6 && rope->attention_factor <= 1e6))
        return sy_fail(SY_ERR_FORMAT,
                       "%s: YaRN: expected an attention factor from 1e-6 to 1e6, found %g",
                       where, rope->attention_factor);
    return SY_OK;
}

/* Joins a number that is given in one more place; all places must agree. 0: not known yet. */
static sy_status
join(const sy_config *config, const json_t *object, const char *key, double *value) {
    double found = 0;
    const json_t *member = json_object_get(object, key);
    sy_status st = sy_json_get_real(object, config->where, key, &found);
    if (st != SY_OK || member == NULL || json_is_null(member)) return st;
    if (!(found > 0 && found <= 1e30))
        return sy_fail(SY_ERR_FORMAT, "%s: expected a \"%s\" from 1 to 1e30, found %g",
                       config->where, key, found);
    if (*value != 0 && *value != found)
        return sy_fail(SY_ERR_FORMAT,
                       "%s: \"%s\" is given as %g and as %g; expected equal values",
                       config->where, key, *value, found);
    *value = found;
    return SY_OK;
}

/* "rope_type" and "type" are two spellings; DeepSeek's and Sarvam's "deepseek_yarn" is YaRN. */
static sy_status
read_type(const sy_config *config, const json_t *rope, const char *name, bool *yarn) {
    static const char *const keys[] = {"rope_type", "type"};
    int known = -1;
    for (int i = 0; i < 2; i++) {
        const char *type = NULL;
        char buf[SY_PRINTABLE_MAX];
        sy_status st = sy_json_get_string(rope, config->where, keys[i], &type);
        if (st != SY_OK) return st;
        if (type == NULL) continue;
        int scaled = strcmp(type, "yarn") == 0 || strcmp(type, "deepseek_yarn") == 0;
        if (!scaled && strcmp(type, "default") != 0)
            return sy_fail(SY_ERR_UNSUPPORTED,
                           "%s: \"%s\": rope type \"%s\" is not supported; \"default\", "
                           "\"yarn\" and \"deepseek_yarn\" are",
                           config->where, name, sy_printable(type, buf));
        if (known >= 0 && known != scaled)
            return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": \"rope_type\" and \"type\" differ",
                           config->where, name);
        known = scaled;
    }
    *yarn = known == 1;
    return SY_OK;
}

static sy_status read_yarn(const sy_config *config, const json_t *rope, rope_object *out) {
    sy_status st = SY_OK;
    SY_TRY(sy_config_real(config, rope, "factor", 1, 1e6, &out->factor));
    SY_TRY(sy_config_real(config, rope, "original_max_position_embeddings", 1, 1e9,
                          &out->original_positions));
    SY_TRY(sy_config_real(config, rope, "beta_fast", 1e-6, 1e6, &out->beta_fast));
    SY_TRY(sy_config_real(config, rope, "beta_slow", 1e-6, 1e6, &out->beta_slow));
    SY_TRY(sy_config_real(config, rope, "mscale", 0, 1e3, &out->mscale));
    SY_TRY(sy_config_real(config, rope, "mscale_all_dim", 0, 1e3, &out->mscale_all_dim));
    SY_TRY(sy_config_real(config, rope, "attention_factor", 1e-6, 1e6, &out->attention_factor));
    SY_TRY(sy_json_get_bool(rope, config->where, "truncate", &out->truncate));
done:
    return st;
}

/* rope_parameters may hold one object for each kind of layer; kinds that differ would need
 * rotary tables of their own. */
static sy_status
pick_nested(const sy_config *config, const char *key, const json_t *rope, const json_t **out) {
    const json_t *full = json_object_get(rope, "full_attention");
    const json_t *sliding = json_object_get(rope, "sliding_attention");
    *out = rope;
    if (full == NULL && sliding == NULL) return SY_OK;
    *out = full != NULL ? full : sliding;
    if (!json_is_object(*out))
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "%s: \"%s\".\"%s\" is %s; only an object is supported", config->where,
                       key, full != NULL ? "full_attention" : "sliding_attention",
                       sy_json_type_name(*out));
    if (full != NULL && sliding != NULL && !json_equal(full, sliding))
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "%s: \"%s\": \"full_attention\" and \"sliding_attention\" differ, which "
                       "is not supported",
                       config->where, key);
    return SY_OK;
}

static sy_status read_object(const sy_config *config,
                             const char *key,
                             rope_object *out,
                             sy_rope_reading *reading) {
    sy_status st = SY_OK;
    const json_t *rope = sy_config_member(config, key);
    *out = (rope_object){.truncate = true,
                         .factor = NAN,
                         .original_positions = NAN,
                         .beta_fast = 32,
                         .beta_slow = 1,
                         .attention_factor = NAN};
    if (rope == NULL) goto done;
    if (!json_is_object(rope))
        SY_FAIL(SY_ERR_FORMAT, "%s: \"%s\": expected an object, found %s", config->where, key,
                sy_json_type_name(rope));
    SY_TRY(pick_nested(config, key, rope, &rope));
    out->given =
        json_object_get(rope, "rope_type") != NULL || json_object_get(rope, "type") != NULL;
    SY_TRY(read_type(config, rope, key, &out->yarn));
    if (out->yarn) SY_TRY(read_yarn(config, rope, out));
    SY_TRY(join(config, rope, "rope_theta", &reading->rope.theta));
    SY_TRY(join(config, rope, "partial_rotary_factor", &reading->partial));
    SY_TRY(sy_config_real(config, rope, "llama_4_scaling_beta", 0, 1e3, &reading->query_beta));
done:
    return st;
}

/* Equal, or both not given. */
static bool same(double a, double b) {
    return a == b || (isnan(a) && isnan(b));
}

static bool same_object(const rope_object *a, const rope_object *b) {
    return a->yarn == b->yarn && a->truncate == b->truncate && same(a->factor, b->factor) &&
           same(a->original_positions, b->original_positions) && a->beta_fast == b->beta_fast &&
           a->beta_slow == b->beta_slow && a->mscale == b->mscale &&
           a->mscale_all_dim == b->mscale_all_dim &&
           same(a->attention_factor, b->attention_factor);
}

/* The factor holds as it is stated, even where it is not max_position / original. */
static sy_status resolve_yarn(const sy_config *config,
                              const rope_object *object,
                              const sy_model_spec *spec,
                              sy_rope_reading *out) {
    sy_rope_spec *rope = &out->rope;
    rope->original_positions = object->original_positions;
    if (isnan(rope->original_positions)) rope->original_positions = (double)spec->max_position;
    sy_status st = sy_config_real(config, config->text, "original_max_position_embeddings", 1,
                                  1e9, &rope->original_positions);
    if (st != SY_OK) return st;
    rope->factor = object->factor;
    if (isnan(rope->factor))
        rope->factor = (double)spec->max_position / rope->original_positions;
    rope->beta_fast = object->beta_fast;
    rope->beta_slow = object->beta_slow;
    rope->truncate = object->truncate;
    out->mscale_all_dim = object->mscale_all_dim;
    if (!isnan(object->attention_factor))
        rope->attention_factor = object->attention_factor;
    else if (object->mscale != 0 && object->mscale_all_dim != 0)
        rope->attention_factor = sy_yarn_magnitude(rope->factor, object->mscale) /
                                 sy_yarn_magnitude(rope->factor, object->mscale_all_dim);
    else
        rope->attention_factor = sy_yarn_magnitude(rope->factor, 1);
    return SY_OK;
}

sy_status
sy_config_rope(const sy_config *config, const sy_model_spec *spec, sy_rope_reading *out) {
    sy_status st = SY_OK;
    rope_object scaling, parameters;
    memset(out, 0, sizeof *out);
    out->rope.attention_factor = 1;
    SY_TRY(read_object(config, "rope_scaling", &scaling, out));
    SY_TRY(read_object(config, "rope_parameters", &parameters, out));
    if (scaling.given && parameters.given && !same_object(&scaling, &parameters))
        SY_FAIL(SY_ERR_FORMAT,
                "%s: \"rope_scaling\" and \"rope_parameters\" are both given and differ",
                config->where);
    SY_TRY(join(config, config->text, "rope_theta", &out->rope.theta));
    SY_TRY(join(config, config->text, "partial_rotary_factor", &out->partial));
    if (out->rope.theta == 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected \"rope_theta\", found none", config->where);
    if (scaling.yarn)
        SY_TRY(resolve_yarn(config, &scaling, spec, out));
    else if (parameters.yarn)
        SY_TRY(resolve_yarn(config, &parameters, spec, out));
    SY_TRY(sy_check_rope(config->where, &out->rope));
done:
    return st;
}

/* Grouped-query families have no query temperature. */
static sy_status refuse_query_scaling(const sy_config *config, const sy_rope_reading *reading) {
    if (reading->query_beta == 0) return SY_OK;
    return sy_fail(SY_ERR_UNSUPPORTED,
                   "%s: \"llama_4_scaling_beta\" is %g, which this family does not have",
                   config->where, reading->query_beta);
}

sy_status
sy_config_whole_rope(const sy_config *config, const sy_model_spec *spec, sy_attn_spec *attn) {
    sy_status st = SY_OK;
    sy_rope_reading reading;
    SY_TRY(sy_config_rope(config, spec, &reading));
    SY_TRY(refuse_query_scaling(config, &reading));
    if (reading.partial != 0 && reading.partial != 1)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: \"partial_rotary_factor\" is %g; only 1 is supported in this family",
                config->where, reading.partial);
    attn->rope = reading.rope;
    attn->rope.layout = SY_ROPE_HALF;
    attn->rope.dim = attn->head_dim;
done:
    return st;
}

sy_status sy_config_partial_rope(const sy_config *config,
                                 const sy_model_spec *spec,
                                 double default_partial,
                                 sy_attn_spec *attn) {
    sy_status st = SY_OK;
    sy_rope_reading reading;
    int dim = 0;
    SY_TRY(sy_config_rope(config, spec, &reading));
    SY_TRY(refuse_query_scaling(config, &reading));
    SY_TRY(sy_config_optional(config, "rotary_dim", NULL, SY_MAX_HEAD_DIM, &dim));
    if (reading.partial > 1)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: expected a \"partial_rotary_factor\" of at most 1, found %g",
                config->where, reading.partial);
    int by_factor = (int)(attn->head_dim * reading.partial);
    if (reading.partial != 0 && dim != 0 && dim != by_factor)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: \"rotary_dim\" is %d, but \"partial_rotary_factor\" makes it %d",
                config->where, dim, by_factor);
    if (reading.partial != 0) dim = by_factor;
    if (dim == 0 && reading.partial == 0) dim = (int)(attn->head_dim * default_partial);
    if (dim < 2 || dim % 2 != 0 || dim > attn->head_dim)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: expected an even rotary width from 2 to the head's %d, found %d",
                config->where, attn->head_dim, dim);
    attn->rope = reading.rope;
    attn->rope.layout = SY_ROPE_HALF;
    attn->rope.dim = dim;
done:
    return st;
}
