/* Reading config.json into a spec; used by runtime/spec*.c (and by tests of them) only.
 *
 * A config is flat, or a wrapper (vision, audio) whose text_config holds the language model. The
 * families' readers are in spec_gqa.c and spec_mla.c, Mistral's params.json in spec_mistral.c;
 * what they share is here: single keys, attention, rotary, feed-forward, quantisation. */
#ifndef SY_RUNTIME_SPEC_CONFIG_H
#define SY_RUNTIME_SPEC_CONFIG_H

#include <jansson.h>

#include "runtime/spec.h"

typedef struct sy_config {
    const json_t *top;  /* borrowed */
    const json_t *text; /* where the language model's keys are; top if the config is flat */
    const char *where;  /* the file, for error texts */
    bool reads_clamps;  /* the family has swiglu_limit and swiglu_alpha */
} sy_config;

/* Caps on single numbers; the number of parameters is capped in all (SY_MAX_PARAMETERS). */
#define SY_MAX_HIDDEN (1 << 18)
#define SY_MAX_WIDTH (1 << 22) /* of an FFN, and of all heads together */
#define SY_MAX_HEADS (1 << 14)
#define SY_MAX_HEAD_DIM (1 << 12)
#define SY_MAX_VOCAB (1 << 24)
#define SY_MAX_POSITION ((int64_t)1 << 31)
#define SY_MAX_PARAMETERS ((uint64_t)1 << 48)

/* Single keys of the language model's object (spec_config.c). NULL if absent or null. */
const json_t *sy_config_member(const sy_config *config, const char *key);

/* A required number from 1 to max. `alias` is another spelling, or NULL; both may be given if
 * they agree. */
sy_status sy_config_count(const sy_config *config,
                          const char *key,
                          const char *alias,
                          int64_t max,
                          int *out);
/* A number from 0 to max that may be absent; *out is left as it is then. */
sy_status sy_config_optional(const sy_config *config,
                             const char *key,
                             const char *alias,
                             int64_t max,
                             int *out);
/* A real number from low to high of `object`; *out is left as it is if it is absent. */
sy_status sy_config_real(const sy_config *config,
                         const json_t *object,
                         const char *key,
                         double low,
                         double high,
                         double *out);
/* A switch; *out is left as it is if it is absent. */
sy_status sy_config_flag(const sy_config *config, const char *key, bool *out);
/* Refuses any string but `value`, by name; absent is fine. */
sy_status sy_config_only(const sy_config *config, const char *key, const char *value);
/* Refuses a switch unless it is absent, null or false. */
sy_status sy_config_refuse_if_set(const sy_config *config, const char *key);

/* Fills what all families share: sizes, embedding, dtype, *layer's norm eps, all else of it 0.
 * Refuses switches that no family here implements. */
sy_status sy_config_common(const sy_config *config, sy_model_spec *spec, sy_layer_spec *layer);

/* Attention (spec_attention.c). Heads, their widths, scale: grouped-query attention without
 * rotary. */
sy_status sy_config_gqa(const sy_config *config, int hidden, sy_attn_spec *attn);
/* Heads, latent ranks and widths, scale: latent attention without rotary. */
sy_status sy_config_mla(const sy_config *config, sy_attn_spec *attn);
/* The rules that the widths of latent attention must keep. */
sy_status sy_check_mla(const char *where, const sy_attn_spec *attn);

/* layer_types: marks sliding layers in sliding[n_layers] (all are set if the list is given);
 * *given tells whether it is. Other kinds of layers are refused. */
sy_status
sy_config_layer_types(const sy_config *config, int n_layers, bool *given, bool *sliding);
/* sliding_window; 0 if there is none, or if it is so wide that no position reaches its end. */
sy_status sy_config_window(const sy_config *config, const sy_model_spec *spec, int64_t *out);
/* Refuses windows, for families that attend to all tokens in every layer. */
sy_status sy_config_no_window(const sy_config *config, const sy_model_spec *spec);

/* Rotary embedding (spec_rope.c). */
typedef struct sy_rope_reading {
    sy_rope_spec rope;     /* all but layout and dim */
    double mscale_all_dim; /* 0: none */
    double partial;        /* partial_rotary_factor; 0: not given */
    double query_beta;     /* llama_4_scaling_beta; 0: none */
} sy_rope_reading;

/* rope_theta, rope_scaling (transformers 4) and rope_parameters (5), with YaRN resolved. */
sy_status
sy_config_rope(const sy_config *config, const sy_model_spec *spec, sy_rope_reading *out);
/* Rotary of grouped-query attention over whole heads, layout HALF; fills attn->rope. */
sy_status
sy_config_whole_rope(const sy_config *config, const sy_model_spec *spec, sy_attn_spec *attn);
/* The same over the leading partial_rotary_factor of a head, or over rotary_dim values. */
sy_status sy_config_partial_rope(const sy_config *config,
                                 const sy_model_spec *spec,
                                 double default_partial,
                                 sy_attn_spec *attn);
/* Checks the ranges within which rotary tables can be made. */
sy_status sy_check_rope(const char *where, const sy_rope_spec *rope);
/* YaRN's magnitude, 0.1 m ln(factor) + 1 for a factor above 1 (Peng et al. 2023, section 3.4,
 * with DeepSeek's m). */
double sy_yarn_magnitude(double factor, double m);

/* Feed-forward (spec_ffn.c). Experts, their number per token and width: softmax over all experts,
 * no groups, no shared expert, until the family says otherwise. */
sy_status sy_config_experts(const sy_config *config, const char *width_key, sy_ffn_spec *ffn);
/* n_group and topk_group, absent as 1, with the given score of a group. */
sy_status sy_config_groups(const sy_config *config, sy_group_score score, sy_ffn_spec *ffn);
/* The rules that groups of experts must keep: whether, and why not. */
bool sy_groups_fit(const sy_ffn_spec *ffn);
sy_status sy_check_groups(const char *where, const sy_ffn_spec *ffn);
/* n_shared_experts (alias num_shared_experts) as one expert of their width together. */
sy_status sy_config_shared(const sy_config *config, sy_ffn_spec *ffn);
/* norm_topk_prob with its default, its eps where it is on, and routed_scaling_factor. */
sy_status sy_config_weights(const sy_config *config, bool renorm, double eps, sy_ffn_spec *ffn);
/* The router of DeepSeek-V3, GLM-4.5 and Sarvam, with experts and shared expert: sigmoid, a bias
 * for the choice, groups by their two best. */
sy_status sy_config_biased_sigmoid(const sy_config *config, sy_ffn_spec *ffn);
/* spec->layer: dense before first_k_dense_replace, and where moe_layer_freq says so. */
sy_status
sy_config_dense_first(const sy_config *config, const sy_layer_spec *moe, sy_model_spec *spec);

/* Quantisation (spec_quant.c). quantization_config of either level. */
sy_status sy_config_quantization(const sy_config *config, sy_quantization *out);
/* One such object. `name` is its key, for error texts. */
sy_status sy_read_quantization(const json_t *object,
                               const char *where,
                               const char *name,
                               sy_quantization *out);
/* hf_quant_config.json; what it says must not contradict what spec->quant says already. A file
 * that tells of mixed weights is believed: older exports' config.json cannot tell so. */
sy_status sy_spec_read_hf_quant(sy_model_spec *spec, const json_t *object, const char *where);

/* The families' readers. They get the common part of a layer, and fill spec->layer[0..n_layers). */
typedef sy_status
sy_family_reader(const sy_config *config, const sy_layer_spec *common, sy_model_spec *spec);
sy_family_reader sy_read_qwen3_moe, sy_read_mixtral, sy_read_olmoe, sy_read_gpt_oss,
    sy_read_glm4_moe, sy_read_minimax_m2, sy_read_sarvam_moe;
sy_family_reader sy_read_deepseek_v2, sy_read_deepseek_v3, sy_read_sarvam_mla, sy_read_mistral4;

/* Recognises the family, allocates spec->layer and fills it. */
sy_status sy_family_read(const json_t *top, const char *where, sy_model_spec *spec);
/* True if an object is Mistral's params.json; and its reader. */
bool sy_is_params_json(const json_t *top);
sy_status sy_params_read(const json_t *top, const char *where, sy_model_spec *spec);
/* Allocates spec->layer, and the last checks that are the same for all. */
sy_status sy_spec_alloc_layers(sy_model_spec *spec);
sy_status sy_spec_check_whole(const sy_model_spec *spec, const char *where);

/* End tokens, bos and sampling defaults of a generation_config.json. */
sy_status sy_spec_read_generation(sy_model_spec *spec, const json_t *object, const char *where);
/* The end token of a tokenizer_config.json. */
sy_status
sy_spec_read_tokenizer_config(sy_model_spec *spec, const json_t *object, const char *where);
/* eos_token_id, a number or a list, of any object. */
sy_status sy_spec_read_eos(sy_model_spec *spec, const json_t *object, const char *where);
/* bos_token_id, if none is known yet. */
sy_status sy_spec_read_bos(sy_model_spec *spec, const json_t *object, const char *where);

/* A string from a file made fit for one line of an error text: cut, control characters as '?'. */
enum { SY_PRINTABLE_MAX = 80 };
const char *sy_printable(const char *text, char buf[SY_PRINTABLE_MAX]);

#endif
