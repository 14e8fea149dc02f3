/* What the published layouts call the weights of a model.
 *
 * A layout is recognised by the tensors that are present, never by the config. Names are those of
 * modules; ".weight" and ".bias" follow (runtime/binder.h). NULL: the layout has no such weight. */
#ifndef SY_RUNTIME_TENSOR_NAMES_H
#define SY_RUNTIME_TENSOR_NAMES_H

#include "runtime/checkpoint.h"
#include "runtime/spec.h"

/* Gate, up and down of one FFN, within its module. */
typedef struct sy_ffn_names {
    const char *gate, *up, *down;
} sy_ffn_names;

typedef struct sy_tensor_names {
    bool plain_names; /* nothing stands in front of them, in no wrapper */
    const char *embed, *norm, *lm_head;
    const char *attn_norm, *ffn_norm;    /* from here on within "layers.N." */
    const char *q, *k, *v, *o;           /* projections */
    const char *qkv;                     /* q, k and v in one, block by block */
    const char *q_norm, *k_norm;         /* per head or whole */
    const char *q_a, *q_a_norm, *q_b;    /* MLA: compressed query */
    const char *kv_a, *kv_a_norm, *kv_b; /* MLA: latent of keys and values */
    const char *sinks;                   /* the tensor itself */
    const char *router;
    const char *choice_bias; /* the tensor itself */
    const char *experts;     /* module of the routed experts */
    sy_ffn_names expert;     /* within "experts.E." */
    const char *fused_gate_up,
        *fused_down; /* stacked over the experts: the tensors' own names */
    bool transposed; /* stacked as [E, inputs, outputs], gate and up by turns (gpt-oss) */
    const char *shared, *dense; /* modules of the other FFNs */
    sy_ffn_names plain;         /* within those */
} sy_tensor_names;

/* What stands in front of all names but lm_head's, and in front of that. */
typedef struct sy_tensor_prefix {
    const char *body, *head;
} sy_tensor_prefix;

/* The layout of a checkpoint; NULL gives that of made-up weights. SY_ERR_FORMAT if it is none
 * that is known. */
sy_status sy_tensor_names_find(const sy_checkpoint *checkpoint,
                               const sy_model_spec *spec,
                               const sy_tensor_names **out,
                               sy_tensor_prefix *prefix);

/* Why no forward pass needs a tensor. */
#define SY_SKIP_LIST(X)                                                                        \
    X(SY_SKIP_NOT, "loaded")                                                                   \
    X(SY_SKIP_VISION, "vision")                                                                \
    X(SY_SKIP_MTP, "layers for predicting several tokens")                                     \
    X(SY_SKIP_BUFFER, "left-over buffers")                                                     \
    X(SY_SKIP_SCALE, "scales of activations and caches")
typedef enum sy_skip {
#define X(name, text) name,
    SY_SKIP_LIST(X)
#undef X
        SY_SKIP_COUNT
} sy_skip;
const char *sy_skip_text(sy_skip skip);

sy_skip
sy_tensor_skip(const sy_model_spec *spec, const sy_tensor_prefix *prefix, const char *name);

#endif
