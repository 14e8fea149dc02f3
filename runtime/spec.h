/* A model as data: what config.json says, checked, with every derived number resolved.
 *
 * Readers for new families fill the same struct; nothing behind it knows a family's name. An
 * unknown architecture, or a known switch with a value that is not implemented, is refused by
 * name: a wrong guess would talk fluently wrong. */
#ifndef SY_RUNTIME_SPEC_H
#define SY_RUNTIME_SPEC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "kernels/layer.h"

enum { SY_MAX_LAYERS = 1024, SY_MAX_EOS = 32, SY_FAMILY_NAME_MAX = 64 };

typedef struct sy_sampling_defaults { /* generation_config.json; negative = not given */
    double temperature, top_p, min_p;
    int64_t top_k;
    int do_sample;
} sy_sampling_defaults;

typedef struct sy_model_spec {
    char family[SY_FAMILY_NAME_MAX]; /* config.json's model_type, for people to read */
    int hidden, vocab, n_layers;
    int64_t max_position;
    bool tied;             /* lm_head is the embedding */
    float final_norm_eps;
    sy_layer_spec *layer;  /* [n_layers] */
    int n_eos;             /* end tokens: the union of formats.md 2.2, ascending */
    int32_t eos[SY_MAX_EOS];
    int32_t bos;           /* -1 = none named */
    sy_sampling_defaults sampling;
} sy_model_spec;

/* path: a checkpoint directory, or a config.json. From a directory, generation_config.json and
 * the eos_token of tokenizer_config.json are read too where they exist. */
sy_status sy_spec_load(const char *path, sy_model_spec **out);
void sy_spec_destroy(sy_model_spec *spec); /* NULL is fine */

/* Replaces the layers' number and kinds, the vocabulary, or the experts (0 = keep), for dummy
 * weights; at least one MoE layer must remain. n_dense leading dense layers and n_moe MoE layers
 * are taken from the existing layers of these kinds. */
sy_status sy_spec_cut(sy_model_spec *spec, int n_dense, int n_moe, int vocab, int experts);

/* Parameters by part (elements), from shapes alone. */
typedef struct sy_param_counts {
    uint64_t embedding, lm_head, attention, dense_ffn, router, shared, routed, norms;
    uint64_t total, active; /* active: used for one token (embedding row not counted as matrix) */
} sy_param_counts;
void sy_spec_count(const sy_model_spec *spec, sy_param_counts *out);

#endif
