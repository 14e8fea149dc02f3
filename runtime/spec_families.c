/* Which family a config.json is of: one row for each, its names and its reader. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "runtime/spec_config.h"

typedef struct family {
    const char *model_type;
    const char *architecture;
    sy_family_reader *read;
    bool reads_clamps;
    const char *saved_as; /* the class that transformers 5 has for it, if it is another's */
} family;

static const family families[] = {
    {"qwen3_moe", "Qwen3MoeForCausalLM", sy_read_qwen3_moe, false, NULL},
    {"mixtral", "MixtralForCausalLM", sy_read_mixtral, false, NULL},
    {"olmoe", "OlmoeForCausalLM", sy_read_olmoe, false, NULL},
    {"deepseek_v2", "DeepseekV2ForCausalLM", sy_read_deepseek_v2, false, NULL},
    {"deepseek_v3", "DeepseekV3ForCausalLM", sy_read_deepseek_v3, false, NULL},
    {"kimi_k2", "DeepseekV3ForCausalLM", sy_read_deepseek_v3, false, NULL},
    {"sarvam_mla", "SarvamMLAForCausalLM", sy_read_sarvam_mla, false, "DeepseekV3ForCausalLM"},
    {"sarvam_moe", "SarvamMoEForCausalLM", sy_read_sarvam_moe, false, "Glm4MoeForCausalLM"},
    {"mistral4", "Mistral4ForCausalLM", sy_read_mistral4, false, NULL},
    {"gpt_oss", "GptOssForCausalLM", sy_read_gpt_oss, true, NULL},
    {"glm4_moe", "Glm4MoeForCausalLM", sy_read_glm4_moe, false, NULL},
    {"minimax_m2", "MiniMaxM2ForCausalLM", sy_read_minimax_m2, false, NULL},
};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

static sy_status refuse_family(const char *where, const char *what, const char *name) {
    char buf[SY_PRINTABLE_MAX], list[256];
    size_t used = 0;
    for (int i = 0; i < N_FAMILIES && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i > 0 ? ", " : "",
                                 families[i].model_type);
    return sy_fail(SY_ERR_UNSUPPORTED, "%s: %s \"%s\" is not implemented; implemented are %s",
                   where, what, sy_printable(name, buf), list);
}

static const family *by_type(const char *model_type) {
    for (int i = 0; model_type != NULL && i < N_FAMILIES; i++)
        if (strcmp(families[i].model_type, model_type) == 0) return &families[i];
    return NULL;
}

/* "Mod.MixtralForCausalLM" of remote code counts as "MixtralForCausalLM". */
static const char *without_module(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot != NULL ? dot + 1 : name;
}

static const family *by_architecture(const char *name) {
    name = without_module(name);
    for (int i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i].architecture, name) == 0) return &families[i];
    return NULL;
}

/* The first name in "architectures"; NULL if there is none. */
static sy_status first_architecture(const json_t *top, const char *where, const char **out) {
    const json_t *list = json_object_get(top, "architectures");
    *out = NULL;
    if (list == NULL || json_is_null(list)) return SY_OK;
    if (!json_is_array(list))
        return sy_fail(SY_ERR_FORMAT, "%s: \"architectures\": expected an array, found %s",
                       where, sy_json_type_name(list));
    if (json_array_size(list) == 0) return SY_OK;
    *out = json_string_value(json_array_get(list, 0));
    if (*out == NULL)
        return sy_fail(SY_ERR_FORMAT, "%s: \"architectures\"[0]: expected a string, found %s",
                       where, sy_json_type_name(json_array_get(list, 0)));
    return SY_OK;
}

/* Finds the family, and sets config->text. A wrapper's own model_type is not known here; then
 * its text_config says what the language model is. */
static sy_status recognise(sy_config *config, const family **out) {
    sy_status st = SY_OK;
    const char *type = NULL, *architecture = NULL, *text_type = NULL;
    const json_t *nested = json_object_get(config->top, "text_config");
    *out = NULL;
    SY_TRY(sy_json_get_string(config->top, config->where, "model_type", &type));
    SY_TRY(first_architecture(config->top, config->where, &architecture));
    const family *named = by_type(type);
    if (named == NULL && json_is_object(nested)) {
        SY_TRY(sy_json_get_string(nested, config->where, "model_type", &text_type));
        *out = by_type(text_type);
        if (*out == NULL) {
            st = refuse_family(config->where, "model_type of \"text_config\"",
                               text_type != NULL ? text_type : "(none)");
            char buf[SY_PRINTABLE_MAX];
            sy_status_context("wrapper \"%s\"",
                              sy_printable(type != NULL ? type : "(none)", buf));
            goto done;
        }
        config->text = nested;
        goto done;
    }
    if (named == NULL && type != NULL) SY_TRY(refuse_family(config->where, "model_type", type));
    if (architecture != NULL) {
        const family *by_name = by_architecture(architecture);
        if (by_name == NULL) SY_TRY(refuse_family(config->where, "architecture", architecture));
        if (named == NULL) named = by_name;
        bool saved = named->saved_as != NULL && strcmp(named->saved_as, architecture) == 0;
        if (!saved && strcmp(named->architecture, by_name->architecture) != 0)
            SY_FAIL(SY_ERR_FORMAT,
                    "%s: \"model_type\" is \"%s\", but \"architectures\" names %s",
                    config->where, type, by_name->architecture);
    }
    if (named == NULL) SY_TRY(refuse_family(config->where, "model_type", "(none)"));
    *out = named;
done:
    return st;
}

sy_status sy_spec_alloc_layers(sy_model_spec *spec) {
    spec->layer = calloc((size_t)spec->n_layers, sizeof *spec->layer);
    if (spec->layer == NULL)
        return sy_fail(SY_ERR_MEMORY, "no memory for %d layers", spec->n_layers);
    return SY_OK;
}

sy_status sy_spec_check_whole(const sy_model_spec *spec, const char *where) {
    bool any_moe = false;
    sy_param_counts counts;
    for (int l = 0; l < spec->n_layers; l++)
        any_moe = any_moe || spec->layer[l].ffn.kind == SY_FFN_MOE;
    if (!any_moe) return sy_fail(SY_ERR_UNSUPPORTED, "%s: no layer has experts", where);
    sy_spec_count(spec, &counts);
    if (counts.total > SY_MAX_PARAMETERS)
        return sy_fail(SY_ERR_FORMAT,
                       "%s: expected a model of at most 2^48 parameters, found more", where);
    return SY_OK;
}

sy_status sy_family_read(const json_t *top, const char *where, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_config config = {.top = top, .text = top, .where = where};
    const family *f = NULL;
    sy_layer_spec common;
    if (!json_is_object(top))
        SY_FAIL(SY_ERR_FORMAT, "%s: expected an object, found %s", where,
                sy_json_type_name(top));
    SY_TRY(recognise(&config, &f));
    config.reads_clamps = f->reads_clamps;
    snprintf(spec->family, sizeof spec->family, "%s", f->model_type);
    SY_TRY(sy_config_common(&config, spec, &common));
    SY_TRY(sy_spec_alloc_layers(spec));
    SY_TRY(f->read(&config, &common, spec));
    SY_TRY(sy_spec_check_whole(spec, where));
    SY_TRY(sy_spec_read_eos(spec, config.top, where));
    SY_TRY(sy_spec_read_eos(spec, config.text, where));
    SY_TRY(sy_spec_read_bos(spec, config.text, where));
    SY_TRY(sy_spec_read_bos(spec, config.top, where));
done:
    return st;
}
