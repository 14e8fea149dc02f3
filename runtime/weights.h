/* This rank's share of a model's weights, in the backend's layout, in one block of memory.
 *
 * Everything but the routed experts is held by every rank; of the routed experts a rank holds the
 * slots that the placement gives it, and reads no byte of the others. The layout on disk is
 * decided by the tensors that are present (per expert, or fused over the experts), never by the
 * config; a tensor that is missing, has another shape, or is not understood is an error with its
 * name. Tensors are read by several threads with positioned reads and packed straight to their
 * final place. */
#ifndef SY_RUNTIME_WEIGHTS_H
#define SY_RUNTIME_WEIGHTS_H

#include "kernels/ops.h"
#include "runtime/checkpoint.h"
#include "runtime/spec.h"
#include "topology/placement.h"

typedef struct sy_weights {
    sy_matrix embed;         /* [V, H] */
    sy_matrix lm_head;       /* [V, H]; the embedding's memory if tied */
    const float *final_norm; /* [H] */
    sy_layer_weights *layer; /* [L] */
    sy_matrix *expert;       /* storage behind layer[].gate_up and .down */
    sy_matrix *head;         /* storage behind layer[].k_up and .v_up */

    sy_backend *backend;
    void *block; /* device memory, `bytes` long */
    uint64_t bytes;
} sy_weights;

typedef struct sy_load_report {
    uint64_t bytes_read;   /* from files, on this rank */
    uint64_t routed_bytes; /* of these, routed experts */
    double seconds;
    uint64_t rounded; /* tensors whose F32 values were rounded to BF16 */
} sy_load_report;

/* Called from the calling thread now and then while loading, with the share done in [0, 1].
 * False ends the loading with SY_ERR_INTERRUPTED. */
typedef bool (*sy_load_progress)(void *context, double share, uint64_t bytes);

/* Device bytes of rank's share, before anything is allocated. The dtype of every matrix is
 * taken from the checkpoint, or without one (NULL) is the published one. */
sy_status sy_weights_bytes(sy_backend *be,
                           const sy_model_spec *spec,
                           const sy_placement *placement,
                           int rank,
                           const sy_checkpoint *checkpoint,
                           uint64_t *out);

/* Allocates and reads. n_readers threads read at the same time. Local. */
sy_status sy_weights_load(sy_backend *be,
                          const sy_model_spec *spec,
                          const sy_placement *placement,
                          int rank,
                          const sy_checkpoint *checkpoint,
                          int n_readers,
                          sy_load_progress progress,
                          void *context,
                          sy_load_report *report,
                          sy_weights **out);

/* Seeded random weights in the published format, made in memory, of the size that keeps activations near 1: a
 * function of the seed, layer, role, expert and element alone, so equal on every rank. Local. */
sy_status sy_weights_dummy(sy_backend *be,
                           const sy_model_spec *spec,
                           const sy_placement *placement,
                           int rank,
                           uint64_t seed,
                           int n_makers,
                           sy_load_progress progress,
                           void *context,
                           sy_weights **out);

void sy_weights_destroy(sy_weights *weights); /* NULL is fine */

#endif
