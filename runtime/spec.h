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

typedef struct sy_model_spec {
    char family[SY_FAMILY_NAME_MAX]; /* config.json's model_type, for people to read */
    int hidden, vocab, n_layers;
    int64_t max_position;
    bool tied; /* lm_head is the embedding */
    float final_norm_eps;
    sy_layer_spec *layer; /* [n_layers] */

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

/* path: a checkpoint directory, or a config.json. From a directory, generation_config.json and
 * the eos_token of tokenizer_config.json are read too where they exist. */
sy_status sy_spec_load(const char *path, sy_model_spec **out);
/* The same from the text of a config.json alone; `name` is put into error texts. */
sy_status sy_spec_parse(const char *text, size_t size, const char *name, sy_model_spec **out);
void sy_spec_destroy(sy_model_spec *spec); /* NULL is fine */

/* Adds an end token; `where` is put into error texts. An id that is there already is fine. */
sy_status sy_spec_add_eos(sy_model_spec *spec, int64_t id, const char *where);

/* Cuts or stretches a model for dummy weights (0 = keep). n_dense dense layers come first, then
 * n_moe MoE layers, copied in turn from the existing layers of each kind; both 0 keeps all
 * layers. At least one MoE layer must remain. End tokens beyond a smaller vocabulary are
 * dropped. On an error the spec is unchanged. */
sy_status sy_spec_cut(sy_model_spec *spec, int n_dense, int n_moe, int vocab, int experts);

/* Parameters by part (elements), from shapes alone; saturating. */
typedef struct sy_param_counts {
    uint64_t embedding, lm_head; /* lm_head is 0 if tied */
    uint64_t attention;          /* q, k, v, o */
    uint64_t dense_ffn, router, shared, routed;
    uint64_t norms; /* with the q/k norms */
    uint64_t total;
    uint64_t
        active; /* total less the experts that a token does not visit, as published counts */
} sy_param_counts;
void sy_spec_count(const sy_model_spec *spec, sy_param_counts *out);

#endif
