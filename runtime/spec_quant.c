/* What config.json (quantization_config), ModelOpt's hf_quant_config.json and Mistral's
 * params.json say about quantised weights. Lists of modules are not read: which tensors are
 * quantised, the tensors tell, and so no pattern of a file is ever run. */
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "runtime/spec_config.h"
#include "runtime/weight_encode.h"

enum { MAX_BLOCK = 1 << 16, MAX_GROUP = 1 << 16 };

typedef struct quant_object { /* one object of a file */
    const json_t *object;
    const char *where, *name;
} quant_object;

static sy_status
refuse_value(const quant_object *q, const char *key, const char *value, const char *allowed) {
    char buf[SY_PRINTABLE_MAX];
    return sy_fail(SY_ERR_UNSUPPORTED, "%s: \"%s\": \"%s\" is \"%s\"; supported are %s",
                   q->where, q->name, key, sy_printable(value, buf), allowed);
}

static sy_status
get_int(const json_t *object, const quant_object *q, const char *key, int max, int *out) {
    int64_t value = *out;
    sy_status st = sy_json_get_int(object, q->where, key, 1, max, &value);
    *out = (int)value;
    return st;
}

/* [rows, columns], or "128x128". */
static sy_status
read_block(const json_t *value, const quant_object *q, const char *key, sy_quantization *out) {
    int64_t n[2] = {0, 0};
    int used = 0, rows = 0, columns = 0;
    const char *text = json_string_value(value);
    if (text != NULL && sscanf(text, "%6dx%6d%n", &rows, &columns, &used) == 2 &&
        text[used] == '\0') {
        n[0] = rows;
        n[1] = columns;
    } else if (!json_is_array(value) || json_array_size(value) != 2 ||
               !sy_json_integral(json_array_get(value, 0), &n[0]) ||
               !sy_json_integral(json_array_get(value, 1), &n[1])) {
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": \"%s\": expected two whole numbers",
                       q->where, q->name, key);
    }
    if (n[0] < 1 || n[0] > MAX_BLOCK || n[1] < 1 || n[1] > MAX_BLOCK)
        return sy_fail(SY_ERR_FORMAT,
                       "%s: \"%s\": \"%s\": expected 1 to %d, found %lld and %lld", q->where,
                       q->name, key, MAX_BLOCK, (long long)n[0], (long long)n[1]);
    out->scales = SY_QUANT_PER_BLOCK;
    out->block_rows = (int)n[0];
    out->block_cols = (int)n[1];
    return SY_OK;
}

static sy_status read_fp8(const quant_object *q, sy_quantization *out) {
    sy_status st = SY_OK;
    const char *format = "e4m3", *activations = "dynamic", *scales = "float";
    const json_t *block = json_object_get(q->object, "weight_block_size");
    out->values = SY_QUANT_E4M3;
    out->scales = SY_QUANT_PER_TENSOR;
    SY_TRY(sy_json_get_string(q->object, q->where, "fmt", &format));
    if (strcmp(format, "e4m3") != 0 && strcmp(format, "float8_e4m3fn") != 0)
        SY_TRY(refuse_value(q, "fmt", format, "\"e4m3\" and \"float8_e4m3fn\""));
    if (block != NULL && !json_is_null(block))
        SY_TRY(read_block(block, q, "weight_block_size", out));
    SY_TRY(sy_json_get_string(q->object, q->where, "activation_scheme", &activations));
    if (strcmp(activations, "dynamic") != 0 && strcmp(activations, "static") != 0)
        SY_TRY(refuse_value(q, "activation_scheme", activations, "\"dynamic\" and \"static\""));
    out->static_activations = strcmp(activations, "static") == 0;
    SY_TRY(sy_json_get_string(q->object, q->where, "scale_fmt", &scales));
    if (strcmp(scales, "float") != 0 && strcmp(scales, "ue8m0") != 0)
        SY_TRY(refuse_value(q, "scale_fmt", scales, "\"float\" and \"ue8m0\""));
    out->scales_e8m0 = strcmp(scales, "ue8m0") == 0;
done:
    return st;
}

static void set_group(sy_quantization *out, sy_quant_values values, int group) {
    out->values = values;
    out->scales = SY_QUANT_PER_GROUP;
    out->group = group;
}

static sy_status read_mxfp4(const quant_object *q, sy_quantization *out) {
    (void)q;
    set_group(out, SY_QUANT_E2M1_MX, 32);
    return SY_OK;
}

/* Of Switchyard's own; see docs/formats.md. */
static sy_status read_q8(const quant_object *q, sy_quantization *out) {
    int group = SY_Q8_GROUP;
    sy_status st = get_int(q->object, q, "group_size", MAX_GROUP, &group);
    if (st != SY_OK) return st;
    if (group != SY_Q8_GROUP)
        return sy_fail(SY_ERR_UNSUPPORTED, "%s: \"%s\": \"group_size\" is %d; supported is %d",
                       q->where, q->name, group, SY_Q8_GROUP);
    set_group(out, SY_QUANT_INT8, group);
    return SY_OK;
}

/* "bits" and "group_size" of AWQ and GPTQ; a group of -1 is a whole row. */
static sy_status read_bits_and_group(const quant_object *q, bool eight, sy_quantization *out) {
    sy_status st = SY_OK;
    int64_t bits = 0, group = 0;
    SY_TRY(sy_json_get_int(q->object, q->where, "bits", 1, 64, &bits));
    SY_TRY(sy_json_get_int(q->object, q->where, "group_size", -1, MAX_GROUP, &group));
    if (bits == 0 || group == 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: \"%s\": expected \"bits\" and \"group_size\", found none",
                q->where, q->name);
    if (bits != 4 && !(eight && bits == 8))
        SY_FAIL(SY_ERR_UNSUPPORTED, "%s: \"%s\": \"bits\" is %lld; supported %s", q->where,
                q->name, (long long)bits, eight ? "are 4 and 8" : "is 4");
    if (group > 0 && group % 8 != 0)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: \"%s\": \"group_size\": expected -1 or a multiple of 8, found %lld",
                q->where, q->name, (long long)group);
    out->values = bits == 4 ? SY_QUANT_INT4 : SY_QUANT_INT8;
    out->scales = group < 0 ? SY_QUANT_PER_CHANNEL : SY_QUANT_PER_GROUP;
    out->group = group < 0 ? 0 : (int)group;
done:
    return st;
}

static sy_status read_awq(const quant_object *q, sy_quantization *out) {
    sy_status st = SY_OK;
    const char *version = "gemm";
    out->zero_points = true;
    SY_TRY(read_bits_and_group(q, false, out));
    SY_TRY(sy_json_get_bool(q->object, q->where, "zero_point", &out->zero_points));
    SY_TRY(sy_json_get_string(q->object, q->where, "version", &version));
    if (strcmp(version, "gemm") != 0 && strcmp(version, "GEMM") != 0)
        SY_TRY(refuse_value(q, "version", version, "\"gemm\""));
done:
    return st;
}

static sy_status read_gptq(const quant_object *q, sy_quantization *out) {
    sy_status st = SY_OK;
    const char *format = "gptq";
    bool symmetric = true;
    SY_TRY(read_bits_and_group(q, true, out));
    SY_TRY(sy_json_get_bool(q->object, q->where, "sym", &symmetric));
    SY_TRY(sy_json_get_bool(q->object, q->where, "desc_act", &out->act_order));
    SY_TRY(sy_json_get_string(q->object, q->where, "checkpoint_format", &format));
    if (strcmp(format, "gptq") != 0 && strcmp(format, "gptq_v2") != 0)
        SY_TRY(refuse_value(q, "checkpoint_format", format, "\"gptq\" and \"gptq_v2\""));
    out->zero_points = !symmetric;
    out->gptq_v2 = strcmp(format, "gptq_v2") == 0;
done:
    return st;
}

static sy_status read_modelopt(const quant_object *q, sy_quantization *out) {
    const char *algo = NULL;
    sy_status st = sy_json_get_string(q->object, q->where, "quant_algo", &algo);
    if (st != SY_OK) return st;
    out->static_activations = true;
    if (algo == NULL) { /* only the KV cache is */
        *out = (sy_quantization){.method = SY_QUANT_NONE};
    } else if (strcmp(algo, "FP8") == 0) {
        out->values = SY_QUANT_E4M3;
        out->scales = SY_QUANT_PER_TENSOR;
    } else if (strcmp(algo, "NVFP4") == 0) {
        set_group(out, SY_QUANT_E2M1_NV, 16);
    } else if (strcmp(algo, "W4A16_NVFP4") == 0) {
        set_group(out, SY_QUANT_E2M1_NV, 16);
        out->static_activations = false;
    } else if (strcmp(algo, "MIXED_PRECISION") == 0) {
        out->values = SY_QUANT_MIXED;
    } else {
        return refuse_value(q, "quant_algo", algo,
                            "FP8, NVFP4, W4A16_NVFP4 and MIXED_PRECISION");
    }
    if (out->scales != SY_QUANT_PER_GROUP) return SY_OK;
    int group = out->group;
    st = get_int(q->object, q, "group_size", MAX_GROUP, &group);
    if (st == SY_OK && group != out->group)
        st = sy_fail(SY_ERR_FORMAT, "%s: \"%s\": \"group_size\": expected %d, found %d",
                     q->where, q->name, out->group, group);
    return st;
}

/* The strategy of one group's weights; absent, the group size tells it. */
static sy_status
read_strategy(const quant_object *q, const json_t *weights, sy_quantization *out) {
    sy_status st = SY_OK;
    int64_t group = 0;
    const char *strategy = NULL;
    const json_t *block = json_object_get(weights, "block_structure");
    SY_TRY(sy_json_get_int(weights, q->where, "group_size", -1, MAX_GROUP, &group));
    SY_TRY(sy_json_get_string(weights, q->where, "strategy", &strategy));
    if (strategy == NULL) strategy = group == 0 ? "tensor" : group > 0 ? "group" : "channel";
    out->scales = SY_QUANT_PER_TENSOR;
    if (strcmp(strategy, "tensor") == 0) goto done;
    if (strcmp(strategy, "channel") == 0) {
        out->scales = SY_QUANT_PER_CHANNEL;
    } else if (strcmp(strategy, "block") == 0) {
        SY_TRY(read_block(block, q, "block_structure", out));
    } else if (strcmp(strategy, "group") == 0 || strcmp(strategy, "tensor_group") == 0) {
        if (group < 1)
            SY_FAIL(SY_ERR_FORMAT, "%s: \"%s\": \"group_size\": expected 1 or more, found %lld",
                    q->where, q->name, (long long)group);
        out->scales = SY_QUANT_PER_GROUP;
        out->group = (int)group;
    } else {
        SY_TRY(refuse_value(q, "strategy", strategy,
                            "tensor, channel, block, group and tensor_group"));
    }
done:
    return st;
}

/* "actorder" is a switch, or "group" (columns are reordered) or "weight" (they are not, at load). */
static sy_status
read_act_order(const quant_object *q, const json_t *weights, sy_quantization *out) {
    const json_t *value = json_object_get(weights, "actorder");
    const char *text = json_string_value(value);
    if (text != NULL) {
        out->act_order = strcmp(text, "group") == 0 || strcmp(text, "dynamic") == 0;
        if (!out->act_order && strcmp(text, "weight") != 0 && strcmp(text, "static") != 0)
            return refuse_value(q, "actorder", text, "group, dynamic, weight and static");
        return SY_OK;
    }
    return sy_json_get_bool(weights, q->where, "actorder", &out->act_order);
}

/* What the values of a format are; its group must not say otherwise. */
static sy_status read_values(const quant_object *q,
                             const char *format,
                             const json_t *weights,
                             sy_quantization *out) {
    sy_status st = SY_OK;
    int bits = 0;
    const char *type = "int";
    SY_TRY(get_int(weights, q, "num_bits", 64, &bits));
    SY_TRY(sy_json_get_string(weights, q->where, "type", &type));
    bool real = strcmp(type, "float") == 0;
    if (!real && strcmp(type, "int") != 0)
        SY_TRY(refuse_value(q, "type", type, "\"int\" and \"float\""));
    const bool packed = strcmp(format, "pack-quantized") == 0;
    const bool nv = strcmp(format, "nvfp4-pack-quantized") == 0;
    const bool mx = strcmp(format, "mxfp4-pack-quantized") == 0;
    const bool naive = strcmp(format, "naive-quantized") == 0;
    if (real && bits == 8 && (naive || strcmp(format, "float-quantized") == 0))
        out->values = SY_QUANT_E4M3;
    else if (!real && bits == 8 && (naive || packed || strcmp(format, "int-quantized") == 0))
        out->values = SY_QUANT_INT8;
    else if (!real && bits == 4 && packed)
        out->values = SY_QUANT_INT4;
    else if (real && bits == 4 && (nv || mx))
        out->values = nv ? SY_QUANT_E2M1_NV : SY_QUANT_E2M1_MX;
    else
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "%s: \"%s\": weights of %d bits, type \"%s\", in format \"%s\" are not "
                "supported",
                q->where, q->name, bits, type, format);
    if ((nv || mx) && (out->scales != SY_QUANT_PER_GROUP || out->group != (nv ? 16 : 32)))
        SY_FAIL(SY_ERR_FORMAT, "%s: \"%s\": expected groups of %d in format \"%s\"", q->where,
                q->name, nv ? 16 : 32, format);
done:
    return st;
}

static sy_status check_format(const quant_object *q, const char *format) {
    static const char *const known[] = {
        "int-quantized",        "float-quantized",      "naive-quantized", "pack-quantized",
        "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mixed-precision"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(format, known[i]) == 0) return SY_OK;
    return refuse_value(q, "format", format,
                        "int-, float-, naive-, pack-, nvfp4-pack- and mxfp4-pack-quantized, "
                        "dense and mixed-precision");
}

static sy_status read_group(const quant_object *q,
                            const char *format,
                            const json_t *group,
                            sy_quantization *out) {
    sy_status st = SY_OK;
    const json_t *weights = json_object_get(group, "weights");
    const json_t *inputs = json_object_get(group, "input_activations");
    bool symmetric = true;
    if (!json_is_object(group) || !json_is_object(weights))
        SY_FAIL(
            SY_ERR_FORMAT,
            "%s: \"%s\": \"config_groups\": expected objects that hold \"weights\", found %s",
            q->where, q->name, sy_json_type_name(weights != NULL ? weights : group));
    SY_TRY(sy_json_get_string(group, q->where, "format", &format));
    if (format == NULL)
        SY_FAIL(SY_ERR_FORMAT, "%s: \"%s\": expected \"format\", found none", q->where,
                q->name);
    SY_TRY(check_format(q, format));
    SY_TRY(read_strategy(q, weights, out));
    SY_TRY(read_values(q, format, weights, out));
    SY_TRY(sy_json_get_bool(weights, q->where, "symmetric", &symmetric));
    out->zero_points = !symmetric;
    SY_TRY(read_act_order(q, weights, out));
    out->static_activations =
        json_is_object(inputs) && json_is_false(json_object_get(inputs, "dynamic"));
done:
    return st;
}

static bool same_quantization(const sy_quantization *a, const sy_quantization *b) {
    return a->method == b->method && a->values == b->values && a->scales == b->scales &&
           a->block_rows == b->block_rows && a->block_cols == b->block_cols &&
           a->group == b->group && a->scales_e8m0 == b->scales_e8m0 &&
           a->zero_points == b->zero_points && a->act_order == b->act_order &&
           a->gptq_v2 == b->gptq_v2;
}

/* Groups that say the same make one; others make the checkpoint mixed. */
static sy_status read_compressed(const quant_object *q, sy_quantization *out) {
    sy_status st = SY_OK;
    const char *format = NULL;
    json_t *groups = json_object_get(q->object, "config_groups");
    int n = 0;
    SY_TRY(sy_json_get_string(q->object, q->where, "format", &format));
    if (format != NULL && strcmp(format, "dense") == 0) {
        *out = (sy_quantization){.method = SY_QUANT_NONE};
        goto done;
    }
    if (format != NULL) SY_TRY(check_format(q, format));
    if (!json_is_object(groups) || json_object_size(groups) == 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: \"%s\": expected \"config_groups\", found none", q->where,
                q->name);
    for (void *it = json_object_iter(groups); it != NULL;
         it = json_object_iter_next(groups, it)) {
        sy_quantization one = {.method = SY_QUANT_COMPRESSED_TENSORS};
        SY_TRY(read_group(q, format, json_object_iter_value(it), &one));
        if (n++ == 0)
            *out = one;
        else if (out->values != SY_QUANT_MIXED && !same_quantization(out, &one))
            *out = (sy_quantization){.method = SY_QUANT_COMPRESSED_TENSORS,
                                     .values = SY_QUANT_MIXED};
    }
done:
    return st;
}

static const struct {
    const char *name;
    sy_quant_method method;
    sy_status (*read)(const quant_object *, sy_quantization *);
} methods[] = {{"fp8", SY_QUANT_FP8, read_fp8},
               {"mxfp4", SY_QUANT_MXFP4, read_mxfp4},
               {"compressed-tensors", SY_QUANT_COMPRESSED_TENSORS, read_compressed},
               {"modelopt", SY_QUANT_MODELOPT, read_modelopt},
               {"awq", SY_QUANT_AWQ, read_awq},
               {"gptq", SY_QUANT_GPTQ, read_gptq},
               {"switchyard_q8", SY_QUANT_SWITCHYARD_Q8, read_q8}};
enum { N_METHODS = sizeof methods / sizeof *methods };

const char *sy_quant_method_name(sy_quant_method method) {
    for (int i = 0; i < N_METHODS; i++)
        if (methods[i].method == method) return methods[i].name;
    return method == SY_QUANT_MISTRAL_FP8 ? "mistral fp8" : "none";
}

static char plain_letter(char c) {
    if (c >= 'A' && c <= 'Z') return (char)(c - 'A' + 'a');
    return c == '_' ? '-' : c;
}

/* Letters in small, '_' as '-': params.json spells COMPRESSED_TENSORS too. */
static bool same_method(const char *found, const char *name) {
    for (; *found != '\0' && *name != '\0'; found++, name++)
        if (plain_letter(*found) != plain_letter(*name)) return false;
    return *found == *name;
}

sy_status sy_read_quantization(const json_t *object,
                               const char *where,
                               const char *name,
                               sy_quantization *out) {
    quant_object q = {object, where, name};
    const char *method = NULL, *algo = NULL;
    char buf[SY_PRINTABLE_MAX];
    memset(out, 0, sizeof *out);
    if (!json_is_object(object))
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected an object, found %s", where, name,
                       sy_json_type_name(object));
    sy_status st = sy_json_get_string(object, where, "quant_method", &method);
    if (st == SY_OK) st = sy_json_get_string(object, where, "quant_algo", &algo);
    if (st != SY_OK) return st;
    if (method == NULL && algo != NULL)
        method = "modelopt"; /* its older exports do not say so */
    for (int i = 0; method != NULL && i < N_METHODS; i++) {
        if (!same_method(method, methods[i].name)) continue;
        out->method = methods[i].method;
        return methods[i].read(&q, out);
    }
    return sy_fail(SY_ERR_UNSUPPORTED,
                   "%s: \"%s\": method \"%s\" is not supported; fp8, mxfp4, "
                   "compressed-tensors, modelopt, awq, gptq and switchyard_q8 are known",
                   where, name, method != NULL ? sy_printable(method, buf) : "unnamed");
}

sy_status sy_config_quantization(const sy_config *config, sy_quantization *out) {
    const json_t *top = json_object_get(config->top, "quantization_config");
    const json_t *text = sy_config_member(config, "quantization_config");
    if (json_is_null(top)) top = NULL;
    if (top != NULL && text != NULL && !json_equal(top, text))
        return sy_fail(SY_ERR_FORMAT,
                       "%s: \"quantization_config\" is given on two levels that differ",
                       config->where);
    if (text == NULL) text = top;
    memset(out, 0, sizeof *out);
    if (text == NULL) return SY_OK;
    return sy_read_quantization(text, config->where, "quantization_config", out);
}

sy_status sy_spec_read_hf_quant(sy_model_spec *spec, const json_t *object, const char *where) {
    sy_quantization found = {.method = SY_QUANT_MODELOPT};
    quant_object q = {json_object_get(object, "quantization"), where, "quantization"};
    if (!json_is_object(q.object))
        return sy_fail(SY_ERR_FORMAT, "%s: expected an object with \"quantization\", found %s",
                       where, sy_json_type_name(object));
    sy_status st = read_modelopt(&q, &found);
    if (st != SY_OK || found.method == SY_QUANT_NONE) return st;
    if (spec->quant.method == SY_QUANT_NONE || found.values == SY_QUANT_MIXED)
        spec->quant = found;
    else if (spec->quant.values != found.values && spec->quant.values != SY_QUANT_MIXED)
        st = sy_fail(SY_ERR_FORMAT,
                     "%s: says otherwise about quantised weights than config.json does", where);
    return st;
}

const char *sy_quantization_text(const sy_quantization *q, char buf[SY_QUANTIZATION_TEXT_MAX]) {
    static const char *const values[] = {"FP8 e4m3", "INT8", "INT4", "NVFP4", "MXFP4", "mixed"};
    char scales[48] = "";
    if (q->method == SY_QUANT_NONE) {
        snprintf(buf, SY_QUANTIZATION_TEXT_MAX, "none");
        return buf;
    }
    if (q->values == SY_QUANT_MIXED)
        scales[0] = '\0';
    else if (q->scales == SY_QUANT_PER_BLOCK)
        snprintf(scales, sizeof scales, ", one scale for %d x %d", q->block_rows,
                 q->block_cols);
    else if (q->scales == SY_QUANT_PER_GROUP)
        snprintf(scales, sizeof scales, ", one scale for %d", q->group);
    else
        snprintf(scales, sizeof scales, ", one scale a %s",
                 q->scales == SY_QUANT_PER_CHANNEL ? "row" : "matrix");
    snprintf(buf, SY_QUANTIZATION_TEXT_MAX, "%s%s%s (%s)", values[q->values], scales,
             q->zero_points ? ", zero points" : "", sy_quant_method_name(q->method));
    return buf;
}
