/* A small checkpoint with quantised weights made from bytes, and loaded on the CPU.
 *
 * Byte 0 chooses the format and byte 1 the family; each three bytes after that are one change: what,
 * where, by how much. Without changes every format loads. */
#ifndef SY_FUZZ_WEIGHT_INPUT_H
#define SY_FUZZ_WEIGHT_INPUT_H

#include <dirent.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/json.h"
#include "kernels/ops.h"
#include "runtime/weights.h"

enum { INPUT_TENSORS = 96, INPUT_CHANGES = 64 };
/* Sizes of the model: F is more than a block of 128, and whole groups of 32. */
enum { INPUT_H = 32, INPUT_F = 160, INPUT_E = 2, INPUT_V = 8 };

typedef struct input_tensor {
    char name[96];
    sy_dtype dtype;
    int rank;
    int64_t shape[4];
    int fill; /* a byte for all of it, or -1 */
    int last; /* a byte for its last element, or -1 */
} input_tensor;

typedef struct weight_input {
    json_t *config, *quant; /* quant: quantization_config, owned by config */
    input_tensor tensor[INPUT_TENSORS];
    int n;
} weight_input;

typedef enum input_format {
    INPUT_FP8_BLOCK,
    INPUT_FP8_CHANNEL,
    INPUT_FP8_TENSOR,
    INPUT_FP8_STACKED,
    INPUT_FP8_STACKED_BLOCKS,
    INPUT_MXFP4,
    INPUT_NVFP4,
    INPUT_NVFP4_MODELOPT,
    INPUT_INT4,
    INPUT_INT4_ZEROS,
    INPUT_AWQ,
    INPUT_GPTQ,
    INPUT_GPT_OSS,
    INPUT_INT8,
    INPUT_FORMATS
} input_format;

#define INPUT_GROUPS(format, weights)                                                          \
    "{\"quant_method\":\"compressed-tensors\",\"format\":\"" format                            \
    "\",\"config_groups\":{\"group_0\":{\"targets\":[\"Linear\"],\"weights\":{" weights "}}}}"
#define INPUT_INTEGERS(symmetric)                                                              \
    INPUT_GROUPS("pack-quantized", "\"num_bits\":4,\"type\":\"int\",\"strategy\":\"group\","   \
                                   "\"group_size\":32,\"symmetric\":" symmetric)

static const char *const input_quantization[INPUT_FORMATS] = {
    "{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"weight_block_size\":[128,128]}",
    INPUT_GROUPS("float-quantized",
                 "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"channel\""),
    "{\"quant_method\":\"modelopt\",\"quant_algo\":\"FP8\"}",
    "{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\",\"weight_block_size\":null}",
    "{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"weight_block_size\":[128,128]}",
    INPUT_GROUPS("mxfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"group_size\":32"),
    INPUT_GROUPS("nvfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"group_size\":16"),
    "{\"quant_method\":\"modelopt\",\"quant_algo\":\"NVFP4\",\"group_size\":16}",
    INPUT_INTEGERS("true"),
    INPUT_INTEGERS("false"),
    "{\"quant_method\":\"awq\",\"bits\":4,\"group_size\":32,\"version\":\"gemm\"}",
    "{\"quant_method\":\"gptq\",\"bits\":4,\"group_size\":32,\"sym\":false}",
    "{\"quant_method\":\"mxfp4\"}",
    INPUT_GROUPS("int-quantized", "\"num_bits\":8,\"type\":\"int\",\"strategy\":\"channel\""),
};

/* Grouped queries, or latent attention whose kv_b is decoded at load; gpt-oss for its stacks. */
static const char *const input_families[] = {
    "{\"model_type\":\"qwen3_moe\",\"hidden_size\":32,\"num_hidden_layers\":1,\"vocab_size\":8,"
    "\"rms_norm_eps\":1e-6,\"max_position_embeddings\":64,\"num_experts\":2,"
    "\"num_experts_per_tok\":1,\"moe_intermediate_size\":160,\"num_attention_heads\":2,"
    "\"num_key_value_heads\":1,\"head_dim\":16,\"rope_theta\":10000}",
    "{\"model_type\":\"deepseek_v3\",\"hidden_size\":32,\"num_hidden_layers\":1,"
    "\"vocab_size\":8,\"rms_norm_eps\":1e-6,\"max_position_embeddings\":64,"
    "\"n_routed_experts\":2,\"num_experts_per_tok\":1,\"moe_intermediate_size\":160,"
    "\"n_shared_experts\":1,\"first_k_dense_replace\":0,\"num_attention_heads\":2,"
    "\"num_key_value_heads\":2,\"q_lora_rank\":16,\"kv_lora_rank\":32,\"qk_nope_head_dim\":16,"
    "\"qk_rope_head_dim\":8,\"v_head_dim\":16,\"n_group\":1,\"topk_group\":1,"
    "\"scoring_func\":\"sigmoid\",\"rope_theta\":10000}",
    "{\"model_type\":\"gpt_oss\",\"hidden_size\":32,\"num_hidden_layers\":1,\"vocab_size\":8,"
    "\"rms_norm_eps\":1e-5,\"max_position_embeddings\":64,\"num_local_experts\":2,"
    "\"num_experts_per_tok\":1,\"intermediate_size\":160,\"num_attention_heads\":2,"
    "\"num_key_value_heads\":1,\"head_dim\":16,\"attention_bias\":true,\"swiglu_limit\":7.0,"
    "\"layer_types\":[\"full_attention\"],\"rope_theta\":10000}"};

__attribute__((format(printf, 7, 8))) static inline void input_add(weight_input *m,
                                                                   sy_dtype dtype,
                                                                   int rank,
                                                                   int64_t a,
                                                                   int64_t b,
                                                                   int64_t c,
                                                                   const char *format,
                                                                   ...) {
    if (m->n == INPUT_TENSORS) abort();
    input_tensor *t = &m->tensor[m->n++];
    *t = (input_tensor){
        .dtype = dtype, .rank = rank, .shape = {a, b, c, 1}, .fill = -1, .last = -1};
    va_list args;
    va_start(args, format);
    vsnprintf(t->name, sizeof t->name, format, args);
    va_end(args);
}

/* A linear layer [n, k] in a format. */
static inline void
input_linear(weight_input *m, input_format f, const char *module, int64_t n, int64_t k) {
    int64_t groups = sy_ceil_div(k, 32);
    bool factor = f == INPUT_NVFP4;
    switch (f) {
    case INPUT_FP8_BLOCK:
    case INPUT_FP8_STACKED_BLOCKS:
        input_add(m, SY_F8_E4M3, 2, n, k, 0, "%s.weight", module);
        input_add(m, SY_F32, 2, sy_ceil_div(n, 128), sy_ceil_div(k, 128), 0,
                  "%s.weight_scale_inv", module);
        break;
    case INPUT_FP8_CHANNEL:
    case INPUT_INT8:
        input_add(m, f == INPUT_INT8 ? SY_I8 : SY_F8_E4M3, 2, n, k, 0, "%s.weight", module);
        input_add(m, SY_BF16, 2, n, 1, 0, "%s.weight_scale", module);
        break;
    case INPUT_FP8_TENSOR:
    case INPUT_FP8_STACKED:
        input_add(m, SY_F8_E4M3, 2, n, k, 0, "%s.weight", module);
        input_add(m, SY_F32, 0, 0, 0, 0, "%s.weight_scale", module);
        break;
    case INPUT_MXFP4:
        input_add(m, SY_U8, 2, n, k / 2, 0, "%s.weight_packed", module);
        input_add(m, SY_U8, 2, n, groups, 0, "%s.weight_scale", module);
        break;
    case INPUT_NVFP4:
    case INPUT_NVFP4_MODELOPT:
        input_add(m, SY_U8, 2, n, k / 2, 0, "%s.weight%s", module, factor ? "_packed" : "");
        input_add(m, SY_F8_E4M3, 2, n, sy_ceil_div(k, 16), 0, "%s.weight_scale", module);
        input_add(m, SY_F32, 1, 1, 0, 0, "%s.weight_%s", module,
                  factor ? "global_scale" : "scale_2");
        break;
    case INPUT_INT4:
    case INPUT_INT4_ZEROS:
        input_add(m, SY_I32, 2, n, k / 8, 0, "%s.weight_packed", module);
        input_add(m, SY_BF16, 2, n, groups, 0, "%s.weight_scale", module);
        input_add(m, SY_I64, 1, 2, 0, 0, "%s.weight_shape", module);
        if (f == INPUT_INT4_ZEROS)
            input_add(m, SY_I32, 2, n / 8, groups, 0, "%s.weight_zero_point", module);
        break;
    case INPUT_AWQ:
    case INPUT_GPTQ:
        input_add(m, SY_I32, 2, f == INPUT_AWQ ? k : k / 8, f == INPUT_AWQ ? n / 8 : n, 0,
                  "%s.qweight", module);
        input_add(m, SY_I32, 2, groups, n / 8, 0, "%s.qzeros", module);
        input_add(m, SY_F16, 2, groups, n, 0, "%s.scales", module);
        if (f == INPUT_GPTQ) input_add(m, SY_I32, 1, k, 0, 0, "%s.g_idx", module);
        break;
    default:
        input_add(m, SY_BF16, 2, n, k, 0, "%s.weight", module);
    }
}

#define INPUT_ATTENTION "model.layers.0.self_attn."

static inline void input_attention(weight_input *m, input_format f, int family) {
    bool by_inputs = f == INPUT_AWQ || f == INPUT_GPTQ; /* those cannot be cut */
    if (family == 1) {
        input_linear(m, f, INPUT_ATTENTION "q_a_proj", 16, INPUT_H);
        input_linear(m, by_inputs ? INPUT_FORMATS : f, INPUT_ATTENTION "q_b_proj", 48, 16);
        input_linear(m, f, INPUT_ATTENTION "kv_a_proj_with_mqa", 40, INPUT_H);
        input_linear(m, by_inputs ? INPUT_FORMATS : f, INPUT_ATTENTION "kv_b_proj", 64, 32);
        input_add(m, SY_BF16, 1, 16, 0, 0, INPUT_ATTENTION "q_a_layernorm.weight");
        input_add(m, SY_BF16, 1, 32, 0, 0, INPUT_ATTENTION "kv_a_layernorm.weight");
    } else {
        input_linear(m, f, INPUT_ATTENTION "q_proj", 32, INPUT_H);
        input_linear(m, f, INPUT_ATTENTION "k_proj", 16, INPUT_H);
        input_linear(m, f, INPUT_ATTENTION "v_proj", 16, INPUT_H);
    }
    input_linear(m, f, INPUT_ATTENTION "o_proj", INPUT_H, 32);
    if (family == 0) {
        input_add(m, SY_BF16, 1, 16, 0, 0, INPUT_ATTENTION "q_norm.weight");
        input_add(m, SY_BF16, 1, 16, 0, 0, INPUT_ATTENTION "k_norm.weight");
    }
    for (int i = 0; i < 4 && family == 2; i++)
        input_add(m, SY_BF16, 1, i % 3 == 0 ? 32 : 16, 0, 0, INPUT_ATTENTION "%c_proj.bias",
                  "qkvo"[i]);
    if (family == 2) input_add(m, SY_BF16, 1, 2, 0, 0, INPUT_ATTENTION "sinks");
}

#define INPUT_MLP "model.layers.0.mlp."

static inline void input_ffn(weight_input *m, input_format f, const char *module) {
    char name[160];
    static const char *const roles[] = {"gate_proj", "up_proj", "down_proj"};
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s.%s", module, roles[i]);
        input_linear(m, f, name, i < 2 ? INPUT_F : INPUT_H, i < 2 ? INPUT_H : INPUT_F);
    }
}

/* Stacks of FP8, or of blocks of FP4 as gpt-oss has them. */
static inline void input_stacks(weight_input *m, input_format f) {
    int64_t E = INPUT_E, H = INPUT_H, F = INPUT_F;
    for (int i = 0; i < 2; i++) {
        const char *name = i == 0 ? "gate_up_proj" : "down_proj";
        int64_t n = i == 0 ? 2 * F : H, k = i == 0 ? H : F;
        bool blocks = f == INPUT_FP8_STACKED_BLOCKS;
        if (f != INPUT_GPT_OSS) {
            input_add(m, SY_F8_E4M3, 3, E, n, k, INPUT_MLP "experts.%s", name);
            input_add(m, blocks ? SY_F8_E8M0 : SY_BF16, 3, E, blocks ? sy_ceil_div(n, 128) : 1,
                      blocks ? sy_ceil_div(k, 128) : 1, INPUT_MLP "experts.%s_scale_inv", name);
            continue;
        }
        input_add(m, SY_U8, 4, E, n, k / 32, INPUT_MLP "experts.%s_blocks", name);
        m->tensor[m->n - 1].shape[3] = 16;
        input_add(m, SY_U8, 3, E, n, k / 32, INPUT_MLP "experts.%s_scales", name);
        input_add(m, SY_BF16, 2, E, n, 0, INPUT_MLP "experts.%s_bias", name);
    }
}

static inline void input_open(weight_input *m, input_format f, int family) {
    bool stacked =
        f == INPUT_FP8_STACKED || f == INPUT_FP8_STACKED_BLOCKS || f == INPUT_GPT_OSS;
    memset(m, 0, sizeof *m);
    if (f == INPUT_GPT_OSS) family = 2;
    m->config = json_loads(input_families[family], 0, NULL);
    m->quant = json_loads(input_quantization[f], 0, NULL);
    if (m->config == NULL || m->quant == NULL ||
        json_object_set_new(m->config, "quantization_config", m->quant) != 0)
        abort();
    input_add(m, SY_BF16, 2, INPUT_V, INPUT_H, 0, "model.embed_tokens.weight");
    input_add(m, SY_BF16, 2, INPUT_V, INPUT_H, 0, "lm_head.weight");
    input_add(m, SY_BF16, 1, INPUT_H, 0, 0, "model.norm.weight");
    input_add(m, SY_BF16, 1, INPUT_H, 0, 0, "model.layers.0.input_layernorm.weight");
    input_add(m, SY_BF16, 1, INPUT_H, 0, 0, "model.layers.0.post_attention_layernorm.weight");
    input_attention(m, f == INPUT_GPT_OSS ? INPUT_FORMATS : f, family);
    input_add(m, SY_BF16, 2, INPUT_E, INPUT_H, 0, INPUT_MLP "%s.weight",
              family == 2 ? "router" : "gate");
    if (family == 1)
        input_add(m, SY_F32, 1, INPUT_E, 0, 0, INPUT_MLP "gate.e_score_correction_bias");
    if (family == 1) input_ffn(m, f, INPUT_MLP "shared_experts");
    if (family == 2) input_add(m, SY_BF16, 1, INPUT_E, 0, 0, INPUT_MLP "router.bias");
    if (stacked) input_stacks(m, f);
    for (int e = 0; e < INPUT_E && !stacked; e++) {
        char name[96];
        snprintf(name, sizeof name, INPUT_MLP "experts.%d", e);
        input_ffn(m, f, name);
    }
}

static inline void input_rename(input_tensor *t, int value) {
    static const char *const parts[] = {"weight",
                                        "weight_scale",
                                        "weight_scale_inv",
                                        "qscale_weight",
                                        "weight_packed",
                                        "weight_scale_2",
                                        "weight_shape",
                                        "weight_zero_point",
                                        "qweight",
                                        "weight_global_scale",
                                        "qzeros",
                                        "scales",
                                        "g_idx",
                                        "input_scale",
                                        "weight_g_idx",
                                        "gate_up_proj",
                                        "gate_up_proj_scale_inv"};
    char *dot = strrchr(t->name, '.');
    const char *part = parts[(unsigned)value % (sizeof parts / sizeof *parts)];
    if (dot != NULL)
        snprintf(dot + 1, sizeof t->name - (size_t)(dot + 1 - t->name), "%s", part);
}

/* A key of the config takes a value that some key has. */
static inline void input_set(weight_input *m, int key, int value) {
    static const char *const keys[] = {"quant_method",
                                       "fmt",
                                       "weight_block_size",
                                       "activation_scheme",
                                       "scale_fmt",
                                       "format",
                                       "bits",
                                       "zero_point",
                                       "sym",
                                       "desc_act",
                                       "version",
                                       "quant_algo",
                                       "checkpoint_format",
                                       "group_size"};
    static const char *const of_group[] = {"num_bits",       "type",      "strategy",
                                           "group_size",     "symmetric", "actorder",
                                           "block_structure"};
    static const char *const values[] = {"null",
                                         "true",
                                         "false",
                                         "0",
                                         "-1",
                                         "4",
                                         "8",
                                         "16",
                                         "24",
                                         "32",
                                         "64",
                                         "128",
                                         "136",
                                         "160",
                                         "[128,128]",
                                         "[64,64]",
                                         "\"e4m3\"",
                                         "\"ue8m0\"",
                                         "\"gptq_v2\"",
                                         "\"group\"",
                                         "\"channel\"",
                                         "\"tensor\"",
                                         "\"block\"",
                                         "\"int\"",
                                         "\"float\"",
                                         "\"FP8\"",
                                         "\"NVFP4\"",
                                         "\"fp8\"",
                                         "\"gptq\"",
                                         "\"MIXED_PRECISION\"",
                                         "\"awq\"",
                                         "\"modelopt\"",
                                         "\"mxfp4\"",
                                         "\"static\"",
                                         "\"pack-quantized\"",
                                         "\"naive-quantized\"",
                                         "\"compressed-tensors\""};
    enum {
        N_KEYS = sizeof keys / sizeof *keys,
        N_OF_GROUP = sizeof of_group / sizeof *of_group
    };
    json_t *group = json_object_get(json_object_get(m->quant, "config_groups"), "group_0");
    json_t *weights = json_object_get(group, "weights");
    json_t *to = json_loads(values[(unsigned)value % (sizeof values / sizeof *values)],
                            JSON_DECODE_ANY, NULL);
    if (to == NULL) abort();
    key %= N_KEYS + N_OF_GROUP + 1;
    if (key < N_KEYS)
        json_object_set_new(m->quant, keys[key], to);
    else if (key < N_KEYS + N_OF_GROUP && weights != NULL)
        json_object_set_new(weights, of_group[key - N_KEYS], to);
    else
        json_object_set_new(m->config, "moe_intermediate_size", to);
}

static inline void input_change(weight_input *m, const uint8_t change[3]) {
    input_tensor *t = &m->tensor[change[1] % m->n];
    int value = change[2];
    switch (change[0] % 8) {
    case 0:
        if (m->n > 1) *t = m->tensor[--m->n];
        break;
    case 1:
        t->dtype = (sy_dtype)(value % SY_U4); /* all that a file can have */
        break;
    case 2:
        t->shape[value % 4] = sy_max(t->shape[value % 4] + value / 4 - 32, 0);
        break;
    case 3:
        t->fill = value;
        break;
    case 4:
        t->last = value;
        break;
    case 5:
        input_set(m, change[1], value);
        break;
    case 6:
        input_rename(t, value);
        break;
    default:
        t->rank = value % 5;
    }
}

static inline uint64_t input_bytes(const input_tensor *t) {
    uint64_t bits = (uint64_t)sy_dtype_bits(t->dtype);
    for (int i = 0; i < t->rank; i++)
        bits *= (uint64_t)t->shape[i];
    return bits / 8;
}

static inline bool input_is(const input_tensor *t, const char *part) {
    const char *dot = strrchr(t->name, '.');
    return dot != NULL && strcmp(dot + 1, part) == 0;
}

/* Numbers of every dtype that are no NaN, near 1 in float dtypes; indices and shapes as they should be. */
static inline void input_fill(const input_tensor *t, uint64_t bytes, unsigned char *out) {
    size_t size = (size_t)sy_dtype_bits(t->dtype) / 8;
    memset(out, t->fill >= 0 ? t->fill : 0x3a, bytes);
    if (t->fill < 0 && t->dtype == SY_U8 &&
        (input_is(t, "weight_scale") || strstr(t->name, "_scales") != NULL))
        memset(out, 126, bytes);
    for (uint64_t i = 0; t->fill < 0 && input_is(t, "g_idx") && i < bytes / 4; i++)
        memcpy(out + 4 * i, &(int32_t){(int32_t)(i / 32)}, 4);
    if (t->fill < 0 && input_is(t, "weight_shape") && bytes == 16) {
        bool down = strstr(t->name, "down_proj") != NULL;
        int64_t shape[2] = {down ? INPUT_H : INPUT_F, down ? INPUT_F : INPUT_H};
        static const struct {
            const char *role;
            int64_t n, k;
        } others[] = {{".q_proj", 32, 32},    {".k_proj", 16, 32},   {".v_proj", 16, 32},
                      {".o_proj", 32, 32},    {".q_a_proj", 16, 32}, {".q_b_proj", 48, 16},
                      {".kv_a_proj", 40, 32}, {".kv_b_proj", 64, 32}};
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            if (strstr(t->name, others[i].role) != NULL) {
                shape[0] = others[i].n;
                shape[1] = others[i].k;
            }
        memcpy(out, shape, sizeof shape);
    }
    if (t->last >= 0 && size > 0 && bytes >= size) memset(out + bytes - size, t->last, size);
}

static inline void input_put(FILE *file, const void *bytes, size_t n) {
    if (n > 0 && fwrite(bytes, 1, n, file) != n) abort();
}

static inline void input_write_tensors(const weight_input *m, const char *path) {
    json_t *header = json_object();
    uint64_t at = 0;
    for (int i = 0; i < m->n; i++) {
        const input_tensor *t = &m->tensor[i];
        json_t *shape = json_array();
        for (int k = 0; k < t->rank; k++)
            json_array_append_new(shape, json_integer(t->shape[k]));
        if (json_object_get(header, t->name) != NULL) { /* renamed to what is there already */
            json_decref(shape);
            continue;
        }
        json_object_set_new(header, t->name,
                            json_pack("{s:s, s:o, s:[I, I]}", "dtype", sy_dtype_name(t->dtype),
                                      "shape", shape, "data_offsets", (json_int_t)at,
                                      (json_int_t)(at + input_bytes(t))));
        at += input_bytes(t);
    }
    char *text = json_dumps(header, JSON_COMPACT);
    FILE *file = fopen(path, "wb");
    if (text == NULL || file == NULL) abort();
    uint64_t length = strlen(text);
    input_put(file, &length, sizeof length);
    input_put(file, text, length);
    for (int i = 0; i < m->n; i++) {
        const input_tensor *t = &m->tensor[i];
        if (json_object_get(header, t->name) == NULL) continue;
        json_object_del(header, t->name);
        uint64_t bytes = input_bytes(t);
        unsigned char *data = malloc(bytes + 1);
        if (data == NULL) abort();
        input_fill(t, bytes, data);
        input_put(file, data, bytes);
        free(data);
    }
    json_decref(header);
    free(text);
    if (fclose(file) != 0) abort();
}

static inline void input_require(bool condition) {
    if (!condition) abort();
}

static inline void input_check_matrix(const sy_matrix *m) {
    const sy_quant *q = &m->quant;
    if (m->data == NULL || !sy_is_quantised(m->dtype)) return;
    input_require(q->outputs == 0 || q->outputs == 1 || q->outputs == 128);
    input_require(q->group == 0 || q->group == 16 || q->group == 32 || q->group == 64 ||
                  q->group == 128);
    for (int p = 0; p < m->parts && q->use_factor != SY_FACTOR_NONE; p++)
        input_require(isfinite(q->factor[p]) && q->factor[p] >= 0);
}

/* What was accepted is a model that can be computed with. */
static inline void input_check(const sy_weights *w, const sy_model_spec *spec) {
    for (int l = 0; l < spec->n_layers; l++) {
        const sy_layer_weights *layer = &w->layer[l];
        input_check_matrix(&layer->q);
        input_check_matrix(&layer->o);
        for (int s = 0; s < layer->n_slots; s++) {
            input_check_matrix(&layer->gate_up[s]);
            input_check_matrix(&layer->down[s]);
        }
    }
}

static inline sy_status input_load_directory(const char *directory) {
    sy_status st = SY_OK;
    sy_pool *pool = NULL;
    sy_backend *be = NULL;
    sy_model_spec *spec = NULL;
    sy_checkpoint *checkpoint = NULL;
    sy_placement *placement = NULL;
    sy_weights *weights = NULL;
    int experts[SY_MAX_LAYERS] = {0};
    if (sy_pool_create(1, false, &pool) != SY_OK ||
        sy_cpu_open(SY_BF16, pool, NULL, &be) != SY_OK)
        abort();
    SY_TRY(sy_spec_load(directory, &spec));
    SY_TRY(sy_checkpoint_open(directory, &checkpoint));
    for (int l = 0; l < spec->n_layers; l++)
        experts[l] = spec->layer[l].ffn.experts;
    SY_TRY(sy_placement_contiguous(spec->n_layers, experts, 1, &placement));
    SY_TRY(sy_weights_load(be, spec, placement, 0, checkpoint, 1, NULL, NULL, NULL, &weights));
    input_check(weights, spec);
done:
    input_require(st == SY_OK || strlen(sy_last_error()) > 0);
    sy_weights_destroy(weights);
    sy_placement_destroy(placement);
    sy_checkpoint_close(checkpoint);
    sy_spec_destroy(spec);
    be->ops->close(be);
    sy_pool_destroy(pool);
    return st;
}

/* The checkpoint that the bytes say, made, loaded and removed. */
static inline sy_status weight_input_load(const uint8_t *data, size_t size) {
    char directory[] = "/dev/shm/sy_weights_XXXXXX", config[64], tensors[64];
    static const char elsewhere[] = "/tmp/sy_weights_XXXXXX";
    weight_input m;
    if (size < 2) return SY_OK;
    input_open(&m, (input_format)(data[0] % INPUT_FORMATS), data[1] % 2);
    for (size_t i = 2; i + 3 <= size && i < 2 + 3 * INPUT_CHANGES; i += 3)
        input_change(&m, data + i);
    if (mkdtemp(directory) == NULL) {
        memcpy(directory, elsewhere, sizeof elsewhere);
        if (mkdtemp(directory) == NULL) abort();
    }
    snprintf(config, sizeof config, "%s/config.json", directory);
    snprintf(tensors, sizeof tensors, "%s/model.safetensors", directory);
    if (json_dump_file(m.config, config, 0) != 0) abort();
    json_decref(m.config);
    input_write_tensors(&m, tensors);
    sy_status st = input_load_directory(directory);
    unlink(config);
    unlink(tensors);
    rmdir(directory);
    return st;
}

#endif
