#include "runtime/convert_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "runtime/weight_encode.h"

/* What goes with the weights as it is; the configuration of quantised weights does not. */
static const char *const copied[] = {"generation_config.json",
                                     "tokenizer.json",
                                     "tokenizer_config.json",
                                     "special_tokens_map.json",
                                     "added_tokens.json",
                                     "vocab.json",
                                     "merges.txt",
                                     "tokenizer.model",
                                     "tiktoken.model",
                                     "tekken.json",
                                     "chat_template.jinja",
                                     "chat_template.json",
                                     "preprocessor_config.json",
                                     "processor_config.json",
                                     "SYSTEM_PROMPT.txt",
                                     "configuration_deepseek.py",
                                     "modeling_deepseek.py",
                                     "tokenization_kimi.py",
                                     "tool_declaration_ts.py",
                                     "LICENSE"};
enum { N_COPIED = sizeof copied / sizeof *copied };

static const char *const written[] = {"config.json", "params.json",
                                      "model.safetensors.index.json",
                                      "consolidated.safetensors.index.json"};
enum { N_WRITTEN = sizeof written / sizeof *written };

bool sy_convert_is_file(const char *name) {
    for (int i = 0; i < N_COPIED; i++)
        if (strcmp(name, copied[i]) == 0) return true;
    for (int i = 0; i < N_WRITTEN; i++)
        if (strcmp(name, written[i]) == 0) return true;
    return false;
}

static sy_status source_path(const sy_convert_plan *p, const char *name, char **out) {
    size_t size = strlen(p->checkpoint->directory) + strlen(name) + 2;
    *out = malloc(size);
    if (*out == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a path");
    snprintf(*out, size, "%s/%s", p->checkpoint->directory, name);
    return SY_OK;
}

static bool is_there(const sy_convert_plan *p, const char *name) {
    char *path = NULL;
    bool there = source_path(p, name, &path) == SY_OK && access(path, F_OK) == 0;
    free(path);
    return there;
}

const char *sy_convert_config_name(const sy_convert_plan *p) {
    return is_there(p, written[0]) ? written[0] : written[1];
}

/* ---- configuration ---- */

static json_t *text_list(char *const *text, int n) {
    json_t *list = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(list, json_string(text[i]));
    return list;
}

/* compressed-tensors' description: one group of weights, activations as they are. */
static json_t *describe_compressed(const sy_convert_plan *p, const char *format) {
    json_t *weights;
    if (p->to == SY_CONVERT_FP8)
        weights = json_pack("{s:i, s:s, s:b, s:b, s:s, s:[i, i]}", "num_bits", 8, "type",
                            "float", "symmetric", 1, "dynamic", 0, "strategy", "block",
                            "block_structure", SY_FP8_BLOCK, SY_FP8_BLOCK);
    else
        weights = json_pack(
            "{s:i, s:s, s:b, s:b, s:s, s:i, s:s}", "num_bits", 4, "type", "float", "symmetric",
            1, "dynamic", 0, "strategy", p->to == SY_CONVERT_NVFP4 ? "tensor_group" : "group",
            "group_size", p->to == SY_CONVERT_NVFP4 ? SY_NVFP4_GROUP : SY_MXFP4_GROUP,
            "scale_dtype", p->to == SY_CONVERT_NVFP4 ? "torch.float8_e4m3fn" : "torch.uint8");
    return json_pack("{s:s, s:s, s:s, s:{s:{s:[s], s:o, s:n, s:n, s:s}}, s:o, s:n}",
                     "quant_method", "compressed-tensors", "format", format,
                     "quantization_status", "compressed", "config_groups", "group_0", "targets",
                     "Linear", "weights", weights, "input_activations", "output_activations",
                     "format", format, "ignore", text_list(p->plain, p->n_plain),
                     "kv_cache_scheme");
}

static json_t *describe_quantization(const sy_convert_plan *p) {
    json_t *plain;
    switch (p->to) {
    case SY_CONVERT_FP8:
        if (p->names->plain_names) return describe_compressed(p, "float-quantized");
        plain = text_list(p->plain, p->n_plain);
        return json_pack("{s:s, s:s, s:s, s:[i, i], s:o}", "quant_method", "fp8", "fmt", "e4m3",
                         "activation_scheme", "dynamic", "weight_block_size", SY_FP8_BLOCK,
                         SY_FP8_BLOCK, "modules_to_not_convert", plain);
    case SY_CONVERT_Q8:
        plain = text_list(p->plain, p->n_plain);
        return json_pack("{s:s, s:i, s:o}", "quant_method", "switchyard_q8", "group_size",
                         SY_Q8_GROUP, "modules_to_not_convert", plain);
    case SY_CONVERT_MXFP4:
        if (p->names->experts != NULL) return describe_compressed(p, "mxfp4-pack-quantized");
        return json_pack("{s:s, s:[s, s, s, s]}", "quant_method", "mxfp4",
                         "modules_to_not_convert", "model.layers.*.self_attn",
                         "model.layers.*.mlp.router", "model.embed_tokens", "lm_head");
    case SY_CONVERT_NVFP4:
        return describe_compressed(p, "nvfp4-pack-quantized");
    default:
        return json_null();
    }
}

static void replace(json_t *object, const char *key, json_t *value) {
    if (json_object_get(object, key) != NULL)
        json_object_set_new(object, key, value);
    else
        json_decref(value);
}

/* What one level of the configuration says about formats and about layers that are left out. */
static void adapt_level(const sy_convert_plan *p, json_t *level) {
    static const char *const layers[] = {"num_nextn_predict_layers", "num_mtp_layers",
                                         "num_mtp_modules"};
    static const char *const types[] = {"dtype", "torch_dtype"};
    if (!json_is_object(level)) return;
    json_object_del(level, "quantization_config");
    json_object_del(level, "quantization");
    json_object_del(level, "compression_config");
    for (int i = 0; i < 3 && p->n_extra_layer_tensors > 0; i++)
        replace(level, layers[i], json_integer(0));
    for (int i = 0; i < 2 && p->to == SY_CONVERT_BF16 && p->all; i++)
        replace(level, types[i], json_string("bfloat16"));
}

static sy_status write_json(const sy_partial *to, const char *name, json_t *value) {
    sy_status st = SY_OK;
    char *text = value != NULL ? json_dumps(value, JSON_INDENT(2)) : NULL;
    size_t n = text != NULL ? strlen(text) : 0;
    if (text == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %s", name);
    text[n] = '\n'; /* in place of the NUL */
    SY_TRY(sy_write_whole_file(to->fd, to->path, name, text, n + 1));
done:
    free(text);
    return st;
}

static sy_status write_config(const sy_convert_plan *p, const sy_partial *to) {
    sy_status st = SY_OK;
    const char *name = sy_convert_config_name(p);
    char *path = NULL;
    json_t *config = NULL, *quantization = NULL;
    SY_TRY(source_path(p, name, &path));
    SY_TRY(sy_json_load(path, SY_JSON_MAX_CONFIG, &config));
    if (!json_is_object(config))
        SY_FAIL(SY_ERR_FORMAT, "%s: expected an object, found %s", path,
                sy_json_type_name(config));
    adapt_level(p, config);
    adapt_level(p, json_object_get(config, "text_config"));
    if (p->to != SY_CONVERT_BF16) {
        quantization = describe_quantization(p);
        if (quantization == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %s", name);
        bool params = strcmp(name, "params.json") == 0;
        if (json_object_set(config, params ? "quantization" : "quantization_config",
                            quantization) != 0)
            SY_FAIL(SY_ERR_MEMORY, "no memory for %s", name);
    }
    SY_TRY(write_json(to, name, config));
done:
    json_decref(quantization);
    json_decref(config);
    free(path);
    return st;
}

/* ---- index and copies ---- */

static sy_status write_index(const sy_convert_plan *p, const sy_partial *to) {
    sy_status st = SY_OK;
    json_t *map = json_object(), *index = NULL;
    for (int i = 0; i < p->n_out; i++)
        if (json_object_set_new(map, p->out[i].name,
                                json_string(p->shard[p->out[i].file].name)) != 0)
            SY_FAIL(SY_ERR_MEMORY, "no memory for the index");
    index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)p->bytes,
                      "weight_map", map);
    SY_TRY(write_json(to, written[p->names->plain_names ? 3 : 2], index));
done:
    json_decref(map);
    json_decref(index);
    return st;
}

static sy_status copy_file(const sy_convert_plan *p, const sy_partial *to, const char *name) {
    sy_status st = SY_OK;
    char *path = NULL, *bytes = NULL;
    size_t n = 0;
    SY_TRY(source_path(p, name, &path));
    SY_TRY(sy_read_file(path, SY_JSON_MAX_TOKENIZER, &bytes, &n));
    SY_TRY(sy_write_whole_file(to->fd, to->path, name, bytes, n));
done:
    free(path);
    free(bytes);
    return st;
}

sy_status sy_convert_write_files(const sy_convert_plan *p, const sy_partial *to) {
    sy_status st = SY_OK;
    for (int i = 0; i < N_COPIED; i++)
        if (is_there(p, copied[i])) SY_TRY(copy_file(p, to, copied[i]));
    SY_TRY(write_index(p, to));
    SY_TRY(write_config(p, to));
done:
    return st;
}
