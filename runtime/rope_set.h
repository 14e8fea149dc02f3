/* The rotary tables of a model, one per kind of layer, where the backend's steps read them. */
#ifndef SY_RUNTIME_ROPE_SET_H
#define SY_RUNTIME_ROPE_SET_H

#include "kernels/ops.h"
#include "runtime/spec.h"

typedef struct sy_rope_set {
    sy_backend *backend;
    int n_tables;
    sy_rope_table *table;        /* [n_tables]; cos and sin in the backend's memory */
    void **block;                /* [n_tables] that memory, NULL where it is the host's own */
    sy_rope_table **host;        /* [n_tables] what was made here, NULL once it was uploaded */
    const sy_rope_table **layer; /* [L] into table */
} sy_rope_set;

/* Layers with equal rotary settings share a table of n_positions. Local. */
sy_status sy_rope_set_create(sy_backend *be,
                             const sy_model_spec *spec,
                             int64_t n_positions,
                             sy_rope_set **out);
void sy_rope_set_destroy(sy_rope_set *set); /* NULL is fine */

#endif
