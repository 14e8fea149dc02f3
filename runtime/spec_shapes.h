/* The weights of a model as shapes: one list, from which parameters and bytes are counted. */
#ifndef SY_RUNTIME_SPEC_SHAPES_H
#define SY_RUNTIME_SPEC_SHAPES_H

#include <stdbool.h>
#include <stdint.h>

#include "runtime/spec.h"

#define SY_PART_LIST(X)                                                                        \
    X(SY_PART_EMBEDDING, "embedding")                                                          \
    X(SY_PART_LM_HEAD, "lm_head")                                                              \
    X(SY_PART_ATTENTION, "attention")                                                          \
    X(SY_PART_DENSE_FFN, "dense_ffn")                                                          \
    X(SY_PART_ROUTER, "router")                                                                \
    X(SY_PART_SHARED, "shared")                                                                \
    X(SY_PART_ROUTED, "routed")                                                                \
    X(SY_PART_NORMS, "norms")                                                                  \
    X(SY_PART_OTHER, "other") /* tensors whose name says nothing to us */

typedef enum sy_part {
#define X(name, text) name,
    SY_PART_LIST(X)
#undef X
        SY_PART_COUNT
} sy_part;

const char *sy_part_name(sy_part part); /* "attention"; "?" out of range */

/* What a weight is, as far as it decides about its precision. */
typedef enum sy_weight_role {
    SY_ROLE_VECTOR,     /* a norm or bias; never quantised */
    SY_ROLE_KEPT,       /* embedding, lm_head, router: matrices that stay as they are */
    SY_ROLE_COMPRESSOR, /* to a latent: some quantised checkpoints leave these out */
    SY_ROLE_PROJECTION  /* of attention or of a feed-forward */
} sy_weight_role;

typedef struct sy_weight_shape {
    sy_part part;
    sy_weight_role role;
    int64_t rows, cols; /* [outputs, inputs] of one; a vector has one row */
    int64_t count;      /* equal weights: experts, else 1 */
} sy_weight_shape;

enum { SY_LAYER_SHAPES_MAX = 24 };

/* The weights of a layer; returns their number. The routed ones are those of part ROUTED. */
int sy_layer_shapes(const sy_layer_spec *layer,
                    int hidden,
                    sy_weight_shape out[SY_LAYER_SHAPES_MAX]);
/* The weights outside of the layers: embedding, lm_head unless tied, final norm. */
enum { SY_OUTER_SHAPES_MAX = 3 };
int sy_outer_shapes(const sy_model_spec *spec, sy_weight_shape out[SY_OUTER_SHAPES_MAX]);

/* Whether publishers of such checkpoints quantise such weights. */
bool sy_is_published_quantised(const sy_quantization *q, sy_part part, sy_weight_role role);

/* Bytes of one weight of a shape as published: quantised values with their scales if spec->quant
 * says so and that format's publishers quantise such weights, else spec->dtype. Sizes are capped, so
 * that no product leaves 63 bits. */
typedef struct sy_shape_bytes {
    uint64_t values, scales;
    sy_dtype value_dtype, scale_dtype; /* the latter only where scales > 0 */
} sy_shape_bytes;
sy_shape_bytes sy_published_bytes(const sy_model_spec *spec, const sy_weight_shape *shape);

#endif
