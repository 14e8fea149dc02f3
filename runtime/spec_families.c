/* One row per family: its names, and what it adds to the common keys. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "runtime/spec_config.h"

typedef struct family {
    const char *model_type;
    const char *architecture;
    /* Gets the common part of a layer; fills spec->layer[0..n_layers). */
    sy_status (*read)(const sy_config *config,
                      const sy_layer_spec *common,
                      sy_model_spec *spec);
} family;

/* Experts, their number per token and their width; softmax over all experts, as in each family
 * here. */
static sy_status
read_moe(const sy_config *config, const char *width_key, bool renorm, sy_ffn_spec *ffn) {
    sy_status st = SY_OK;
    memset(ffn, 0, sizeof *ffn);
    ffn->kind = SY_FFN_MOE;
    ffn->act = SY_ACT_SWIGLU;
    ffn->score = SY_SCORE_SOFTMAX;
    ffn->renorm = renorm;
    ffn->routed_scale = 1;
    SY_TRY(sy_config_count(config, "num_experts", "num_local_experts", SY_MAX_EXPERTS,
                           &ffn->experts));
    SY_TRY(sy_config_count(config, "num_experts_per_tok", NULL, SY_MAX_TOP_K, &ffn->top_k));
    SY_TRY(sy_config_count(config, width_key, NULL, SY_MAX_WIDTH, &ffn->inter));
    if (ffn->top_k > ffn->experts)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: expected \"num_experts_per_tok\" of at most %d, the number of experts, "
                "found %d",
                config->where, ffn->experts, ffn->top_k);
done:
    return st;
}

/* A window that no position reaches is harmless; any smaller one would change results. */
static sy_status refuse_window(const sy_config *config, const sy_model_spec *spec) {
    int64_t window = INT64_MAX;
    sy_status st = sy_json_get_int(config->text, config->where, "sliding_window", INT64_MIN,
                                   INT64_MAX, &window);
    if (st == SY_OK && window < spec->max_position)
        st =
            sy_fail(SY_ERR_UNSUPPORTED,
                    "%s: \"sliding_window\" is %lld, below \"max_position_embeddings\" (%lld); "
                    "only full attention is supported",
                    config->where, (long long)window, (long long)spec->max_position);
    return st;
}

static void fill_layers(sy_model_spec *spec, const sy_layer_spec *layer) {
    for (int l = 0; l < spec->n_layers; l++)
        spec->layer[l] = *layer;
}

static sy_status
read_mixtral(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_layer_spec layer = *common;
    SY_TRY(refuse_window(config, spec));
    SY_TRY(read_moe(config, "intermediate_size", true, &layer.ffn));
    fill_layers(spec, &layer);
done:
    return st;
}

static sy_status
read_olmoe(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_layer_spec layer = *common;
    bool renorm = false;
    double clip = 0;
    SY_TRY(refuse_window(config, spec));
    SY_TRY(sy_json_get_bool(config->text, config->where, "norm_topk_prob", &renorm));
    SY_TRY(read_moe(config, "intermediate_size", renorm, &layer.ffn));
    if (sy_config_member(config, "clip_qkv") != NULL) {
        SY_TRY(sy_json_get_real(config->text, config->where, "clip_qkv", &clip));
        if (!(clip >= 1e-30 && clip <= 1e30))
            SY_FAIL(SY_ERR_FORMAT, "%s: expected a \"clip_qkv\" from 1e-30 to 1e30, found %g",
                    config->where, clip);
    }
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
static sy_status
read_qwen3_moe(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec) {
    sy_status st = SY_OK;
    sy_layer_spec layer = *common;
    bool renorm = false, windowed = false, dense[SY_MAX_LAYERS] = {false};
    int64_t step = 1;
    SY_TRY(sy_json_get_bool(config->text, config->where, "use_sliding_window", &windowed));
    if (windowed && sy_config_member(config, "sliding_window") != NULL)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: \"use_sliding_window\" is true; only full attention is supported",
                config->where);
    SY_TRY(sy_json_get_bool(config->text, config->where, "norm_topk_prob", &renorm));
    SY_TRY(read_moe(config, "moe_intermediate_size", renorm, &layer.ffn));
    SY_TRY(read_dense_layers(config, spec->n_layers, dense));
    SY_TRY(sy_json_get_int(config->text, config->where, "decoder_sparse_step", 1, INT32_MAX,
                           &step));
    layer.attn.qk_norm = SY_QK_NORM_PER_HEAD;
    fill_layers(spec, &layer);
    for (int l = 0; l < spec->n_layers; l++) {
        if (!dense[l] && (l + 1) % step == 0) continue;
        sy_ffn_spec ffn = {.kind = SY_FFN_DENSE, .act = SY_ACT_SWIGLU};
        SY_TRY(sy_config_count(config, "intermediate_size", NULL, SY_MAX_WIDTH, &ffn.inter));
        spec->layer[l].ffn = ffn;
    }
done:
    return st;
}

static const family families[] = {
    {"qwen3_moe", "Qwen3MoeForCausalLM", read_qwen3_moe},
    {"mixtral", "MixtralForCausalLM", read_mixtral},
    {"olmoe", "OlmoeForCausalLM", read_olmoe},
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
static const family *by_architecture(const char *name) {
    const char *dot = strrchr(name, '.');
    if (dot != NULL) name = dot + 1;
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
        if (named != by_name)
            SY_FAIL(SY_ERR_FORMAT,
                    "%s: \"model_type\" is \"%s\", but \"architectures\" names %s",
                    config->where, type, by_name->architecture);
    }
    if (named == NULL) SY_TRY(refuse_family(config->where, "model_type", "(none)"));
    *out = named;
done:
    return st;
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
    snprintf(spec->family, sizeof spec->family, "%s", f->model_type);
    SY_TRY(sy_config_common(&config, spec, &common));
    spec->layer = calloc((size_t)spec->n_layers, sizeof *spec->layer);
    if (spec->layer == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %d layers", spec->n_layers);
    SY_TRY(f->read(&config, &common, spec));

    bool any_moe = false;
    for (int l = 0; l < spec->n_layers; l++)
        any_moe = any_moe || spec->layer[l].ffn.kind == SY_FFN_MOE;
    if (!any_moe) SY_FAIL(SY_ERR_UNSUPPORTED, "%s: no layer has experts", where);
    sy_param_counts counts;
    sy_spec_count(spec, &counts);
    if (counts.total > SY_MAX_PARAMETERS)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected a model of at most 2^48 parameters, found more",
                where);

    SY_TRY(sy_spec_read_eos(spec, config.top, where));
    SY_TRY(sy_spec_read_eos(spec, config.text, where));
    SY_TRY(sy_spec_read_bos(spec, config.text, where));
    SY_TRY(sy_spec_read_bos(spec, config.top, where));
done:
    return st;
}
