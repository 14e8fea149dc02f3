/* Which tensor of a checkpoint goes where in this rank's weights: the list of all reads, made and
 * checked before any byte is read. Used by weights.c only. */
#ifndef SY_RUNTIME_BIND_H
#define SY_RUNTIME_BIND_H

#include "base/memory.h"
#include "runtime/weights.h"

/* One matrix part or vector to fill. Exactly one of matrix and vector is set. */
typedef struct sy_bind_item {
    const sy_tensor_entry *tensor; /* NULL for dummy weights */
    uint64_t begin; /* bytes into the tensor (an expert's slice of a fused one) */
    sy_matrix *matrix;
    int part;
    float *vector;
    int64_t rows, columns; /* of the part; a vector has 1 row */
    bool routed;           /* belongs to a routed expert */
    uint64_t seed;         /* of dummy weights: role, layer and expert folded together */
} sy_bind_item;

typedef struct sy_bind_list {
    sy_bind_item *item;
    size_t n, capacity;
} sy_bind_list;

/* Lays out `weights` (matrices, vectors, layers) in the arena: a measuring pass while its base
 * is NULL. With `list`, every matrix and vector is entered there. Checks presence, shape and
 * dtype of every tensor of the model, this rank's or not, and that none is left over. */
sy_status sy_bind(sy_backend *be,
                  const sy_model_spec *spec,
                  const sy_placement *placement,
                  int rank,
                  const sy_checkpoint *checkpoint,
                  sy_arena *arena,
                  sy_weights *weights,
                  sy_bind_list *list);

#endif
