/* A model as data: what config.json says, checked, with every derived number resolved.
 *
 * Readers for new families fill the same struct; nothing behind it knows a family's name. An
 * unknown architecture, or a known switch with a value that is not implemented, is refused by
 * name: a wrong guess would talk fluently wrong. Keys that are not known are normal. */
#ifndef SY_RUNTIME_SPEC_H
#define SY_RUNTIME_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "kernels/layer.h"

enum { SY_MAX_LAYERS = 1024, SY_MAX_EOS = 32, SY_FAMILY_NAME_MAX = 64, SY_EOS_TOKEN_MAX = 128 };

typedef struct sy_sampling_defaults { /* generation_config.json; negative = not given */
    double temperature, top_p, min_p;
    int64_t top_k;
    int do_sample;
} sy_sampling_defaults;

typedef enum sy_quant_method {
    SY_QUANT_NONE,
    SY_QUANT_FP8,                /* "fp8": X.weight in e4m3, X.weight_scale_inv */
    SY_QUANT_MXFP4,              /* "mxfp4": gpt-oss's experts, _blocks and _scales */
    SY_QUANT_COMPRESSED_TENSORS, /* "compressed-tensors" */
    SY_QUANT_MODELOPT,           /* "modelopt", in config.json or in hf_quant_config.json */
    SY_QUANT_AWQ,
    SY_QUANT_GPTQ,
    SY_QUANT_MISTRAL_FP8,  /* params.json: X.qscale_weight, one scale a matrix */
    SY_QUANT_SWITCHYARD_Q8 /* "switchyard_q8": what convert --to q8 writes (docs/formats.md) */
} sy_quant_method;
typedef enum sy_quant_values {
    SY_QUANT_E4M3,
    SY_QUANT_INT8,
    SY_QUANT_INT4,
    SY_QUANT_E2M1_NV, /* FP4 with an e4m3 scale for 16 values and a float32 scale a matrix */
    SY_QUANT_E2M1_MX, /* FP4 with an e8m0 scale for 32 values */
    SY_QUANT_MIXED    /* not the same for all matrices: only the tensors tell */
} sy_quant_values;
typedef enum sy_quant_scales {
    SY_QUANT_PER_TENSOR,
    SY_QUANT_PER_CHANNEL, /* one scale a row (output) */
    SY_QUANT_PER_BLOCK,   /* one for block_rows x block_cols values */
    SY_QUANT_PER_GROUP    /* one for `group` successive inputs of a row */
} sy_quant_scales;

/* What the configuration files say about quantised weights, checked. Which tensors are quantised
 * only the tensors themselves tell: lists of modules are not read. */
typedef struct sy_quantization {
    sy_quant_method method;
    sy_quant_values values;
    sy_quant_scales scales;
    int block_rows, block_cols; /* of PER_BLOCK, else 0 */
    int group;                  /* of PER_GROUP, else 0 */
    bool scales_e8m0;           /* block scales are powers of two, and may be stored as E8M0 */
    bool zero_points;           /* values are unsigned, with stored zero points */
    bool act_order;             /* columns are assigned to groups by a stored index */
    bool gptq_v2;               /* GPTQ: zero points are stored as they are, not less one */
    bool static_activations;    /* scales for activations are stored beside the weights */
} sy_quantization;

typedef struct sy_model_spec {
    char family[SY_FAMILY_NAME_MAX]; /* the model_type of the text model, for people to read */
    int hidden, vocab, n_layers;
    int64_t max_position;
    bool tied; /* lm_head is the embedding */
    float final_norm_eps;
    sy_layer_spec *layer; /* [n_layers] */
    /* Layers for predicting several tokens at once (MTP) that the checkpoint has behind the last
     * one, numbered on from n_layers: not part of the model. */
    int n_mtp_layers;
    sy_dtype
        dtype; /* of the weights that are not quantised, as announced; BF16 if nothing is */
    sy_quantization quant;

    /* End tokens, ascending, each within [0, vocab): the union of what config.json,
     * generation_config.json and tokenizer_config.json name. */
    int n_eos;
    int32_t eos[SY_MAX_EOS];
    /* The content of tokenizer_config.json's eos_token where that file does not tell its id:
     * to be looked up with sy_tokenizer_token_id and added. "" otherwise. */
    char eos_token[SY_EOS_TOKEN_MAX];
    int32_t bos; /* -1 = none named */
    sy_sampling_defaults sampling;
} sy_model_spec;

/* path: a checkpoint directory, or a config.json or Mistral's params.json. In a directory with
 * both, config.json is read. From a directory, generation_config.json, the eos_token of
 * tokenizer_config.json and hf_quant_config.json are read too where they exist. */
sy_status sy_spec_load(const char *path, sy_model_spec **out);
/* The same from the text of a config.json or params.json alone; `name` is put into error texts. */
sy_status sy_spec_parse(const char *text, size_t size, const char *name, sy_model_spec **out);
void sy_spec_destroy(sy_model_spec *spec); /* NULL is fine */

/* "FP8 e4m3, one scale for 128 x 128 (fp8)", or "none". */
enum { SY_QUANTIZATION_TEXT_MAX = 96 };
const char *sy_quantization_text(const sy_quantization *q, char buf[SY_QUANTIZATION_TEXT_MAX]);
const char *sy_quant_method_name(sy_quant_method method); /* "fp8"; "none" */

/* Adds an end token; `where` is put into error texts. An id that is there already is fine. */
sy_status sy_spec_add_eos(sy_model_spec *spec, int64_t id, const char *where);

/* Cuts or stretches a model for dummy weights (0 = keep). n_dense dense layers come first, then
 * n_moe MoE layers, copied in turn from the existing layers of each kind; both 0 keeps all
 * layers. At least one MoE layer must remain. End tokens beyond a smaller vocabulary are
 * dropped. With other numbers of experts, experts stay in as many groups if that number divides
 * them, and fall into the largest smaller number that does and keeps the router's rules; the kept
 * groups stay the same share of all, rounded up. On an error the spec is unchanged. */
sy_status sy_spec_cut(sy_model_spec *spec, int n_dense, int n_moe, int vocab, int experts);

/* Parameters by part (elements), from shapes alone; saturating. */
typedef struct sy_param_counts {
    uint64_t embedding, lm_head; /* lm_head is 0 if tied */
    uint64_t attention;          /* projections with biases, sinks */
    uint64_t dense_ffn, router, shared, routed;
    uint64_t norms; /* with the norms of q, k and latents */
    uint64_t total;
    uint64_t
        active; /* total less the experts that a token does not visit, as published counts */
} sy_param_counts;
void sy_spec_count(const sy_model_spec *spec, sy_param_counts *out);

#endif
