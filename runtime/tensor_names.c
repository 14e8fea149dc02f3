#include "runtime/tensor_names.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HF_OUTER                                                                               \
    .embed = "embed_tokens", .norm = "norm", .lm_head = "lm_head",                             \
    .attn_norm = "input_layernorm", .ffn_norm = "post_attention_layernorm"
#define HF_ATTENTION                                                                           \
    .q = "self_attn.q_proj", .k = "self_attn.k_proj", .v = "self_attn.v_proj",                 \
    .o = "self_attn.o_proj", .q_norm = "self_attn.q_norm", .k_norm = "self_attn.k_norm",       \
    .q_a = "self_attn.q_a_proj", .q_a_norm = "self_attn.q_a_layernorm",                        \
    .q_b = "self_attn.q_b_proj", .kv_a = "self_attn.kv_a_proj_with_mqa",                       \
    .kv_a_norm = "self_attn.kv_a_layernorm", .kv_b = "self_attn.kv_b_proj",                    \
    .sinks = "self_attn.sinks"
#define HF_PLAIN                                                                               \
    .shared = "mlp.shared_experts", .dense = "mlp",                                            \
    .plain = {"gate_proj", "up_proj", "down_proj"}

static const sy_tensor_names layouts[] = {
    /* Qwen3-MoE, OLMoE, DeepSeek, Kimi, Sarvam-105B, GLM-4.5; fused in transformers 5 */
    {HF_OUTER, HF_ATTENTION, HF_PLAIN, .router = "mlp.gate",
     .choice_bias = "mlp.gate.e_score_correction_bias", .experts = "mlp.experts",
     .expert = {"gate_proj", "up_proj", "down_proj"},
     .fused_gate_up = "mlp.experts.gate_up_proj", .fused_down = "mlp.experts.down_proj"},
    /* Mixtral, MiniMax-M2 */
    {HF_OUTER, HF_ATTENTION, HF_PLAIN, .router = "block_sparse_moe.gate",
     .choice_bias = "block_sparse_moe.e_score_correction_bias",
     .experts = "block_sparse_moe.experts", .expert = {"w1", "w3", "w2"}},
    /* gpt-oss: stacked experts alone */
    {HF_OUTER, HF_ATTENTION, HF_PLAIN, .router = "mlp.router",
     .fused_gate_up = "mlp.experts.gate_up_proj", .fused_down = "mlp.experts.down_proj",
     .transposed = true},
    /* Sarvam-30B */
    {.embed = "word_embeddings",
     .norm = "norm",
     .lm_head = "lm_head",
     .attn_norm = "input_layernorm",
     .ffn_norm = "post_attention_layernorm",
     .qkv = "attention.query_key_value",
     .o = "attention.dense",
     .q_norm = "attention.query_layernorm",
     .k_norm = "attention.key_layernorm",
     HF_PLAIN,
     .router = "mlp.gate",
     .choice_bias = "mlp.gate.expert_bias",
     .experts = "mlp.experts",
     .expert = {"gate_proj", "up_proj", "down_proj"}},
    /* Mistral Large 3 */
    {.plain_names = true,
     .embed = "tok_embeddings",
     .norm = "norm",
     .lm_head = "output",
     .attn_norm = "attention_norm",
     .ffn_norm = "ffn_norm",
     .q = "attention.wq",
     .o = "attention.wo",
     .q_a = "attention.wq_a",
     .q_a_norm = "attention.q_a_norm",
     .q_b = "attention.wq_b",
     .kv_a = "attention.wkv_a_with_mqa",
     .kv_a_norm = "attention.kv_a_norm",
     .kv_b = "attention.wkv_b",
     .router = "gate",
     .experts = "experts",
     .expert = {"w1", "w3", "w2"},
     .shared = "shared_experts",
     .dense = "feed_forward",
     .plain = {"w1", "w3", "w2"}},
};
enum { N_LAYOUTS = sizeof layouts / sizeof layouts[0], MOST_CHARS = 256 };

/* A language model alone, within a wrapper, and within one as transformers 5 writes it. */
static const sy_tensor_prefix prefixes[] = {{"model.", ""},
                                            {"language_model.model.", "language_model."},
                                            {"model.language_model.", ""}};
enum { N_PREFIXES = sizeof prefixes / sizeof prefixes[0] };

static int first_moe_layer(const sy_model_spec *spec) {
    int l = 0;
    while (l < spec->n_layers - 1 && spec->layer[l].ffn.kind != SY_FFN_MOE)
        l++;
    return l;
}

/* Whether a module has a weight, plain or in one of the formats that call it otherwise. */
static bool
has(const sy_checkpoint *checkpoint, const char *body, int layer, const char *role) {
    static const char *const weights[] = {"weight", "weight_packed", "qweight"};
    char name[MOST_CHARS], within[32] = "";
    if (role == NULL) return false;
    if (layer >= 0) snprintf(within, sizeof within, "layers.%d.", layer);
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) {
        snprintf(name, sizeof name, "%s%s%s.%s", body, within, role, weights[i]);
        if (sy_checkpoint_find(checkpoint, name) != NULL) return true;
    }
    return false;
}

/* How many of the tensors that tell layouts apart are there. */
static int resemblance(const sy_checkpoint *checkpoint,
                       const sy_model_spec *spec,
                       const sy_tensor_names *names,
                       const char *body) {
    return has(checkpoint, body, -1, names->embed) +
           has(checkpoint, body, 0, names->attn_norm) + has(checkpoint, body, 0, names->o) +
           has(checkpoint, body, first_moe_layer(spec), names->router);
}

sy_status sy_tensor_names_find(const sy_checkpoint *checkpoint,
                               const sy_model_spec *spec,
                               const sy_tensor_names **out,
                               sy_tensor_prefix *prefix) {
    int best = 0;
    *out = &layouts[0];
    *prefix = prefixes[0];
    if (checkpoint == NULL) return SY_OK;
    for (int i = 0; i < N_LAYOUTS * N_PREFIXES; i++) {
        const sy_tensor_names *names = &layouts[i % N_LAYOUTS];
        sy_tensor_prefix p = prefixes[i / N_LAYOUTS];
        if (names->plain_names) p = (sy_tensor_prefix){"", ""};
        int found = resemblance(checkpoint, spec, names, p.body);
        if (found <= best) continue;
        best = found;
        *out = names;
        *prefix = p;
    }
    if (best > 0) return SY_OK;
    return sy_fail(SY_ERR_FORMAT,
                   "%s: its tensors are in no layout that is known; the usual one has "
                   "\"%s%s.weight\" and \"%slayers.0.%s.weight\"",
                   checkpoint->directory, prefix->body, layouts[0].embed, prefix->body,
                   layouts[0].attn_norm);
}

static bool begins(const char *name, const char *with) {
    return strncmp(name, with, strlen(with)) == 0;
}

static bool ends(const char *name, const char *with) {
    size_t n = strlen(name), m = strlen(with);
    return n >= m && strcmp(name + n - m, with) == 0;
}

/* A layer behind the last, for predicting more tokens than one. */
static bool is_mtp_layer(const sy_model_spec *spec, const char *body, const char *name) {
    size_t n = strlen(body);
    char *end;
    if (strncmp(name, body, n) != 0 || !begins(name + n, "layers.")) return false;
    const char *digits = name + n + strlen("layers.");
    if (*digits < '0' || *digits > '9') return false;
    long l = strtol(digits, &end, 10);
    return *end == '.' && l >= spec->n_layers && l < (long)spec->n_layers + spec->n_mtp_layers;
}

const char *sy_skip_text(sy_skip skip) {
    static const char *const texts[] = {
#define X(name, text) text,
        SY_SKIP_LIST(X)
#undef X
    };
    return (unsigned)skip < SY_SKIP_COUNT ? texts[skip] : "?";
}

sy_skip
sy_tensor_skip(const sy_model_spec *spec, const sy_tensor_prefix *prefix, const char *name) {
    static const char *const vision[] = {"vision_tower.",
                                         "vision_model.",
                                         "vision_encoder.",
                                         "visual.",
                                         "model.visual.",
                                         "model.vision_tower.",
                                         "mm_projector.",
                                         "multi_modal_projector.",
                                         "model.multi_modal_projector.",
                                         "patch_merger.",
                                         "vision_language_adapter.",
                                         "pre_mm_projector_norm."};
    static const char *const scales[] = {".k_proj.k_scale", ".v_proj.v_scale",
                                         ".input_scale",    ".input_global_scale",
                                         ".qscale_act",     "activation_scale"};
    for (size_t i = 0; i < sizeof vision / sizeof *vision; i++)
        if (begins(name, vision[i])) return SY_SKIP_VISION;
    if (begins(name, "mtp.") || begins(name, "model.mtp.") ||
        is_mtp_layer(spec, prefix->body, name))
        return SY_SKIP_MTP;
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++)
        if (ends(name, scales[i])) return SY_SKIP_SCALE;
    return ends(name, ".rotary_emb.inv_freq") ? SY_SKIP_BUFFER : SY_SKIP_NOT;
}
