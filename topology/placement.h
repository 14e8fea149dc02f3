/* Which rank holds which expert, layer by layer. Plain data made at open and read-only after.
 *
 * A slot is one physical copy of an expert on a rank; ranks need not hold equally many, a rank
 * may hold none, and an expert may have copies on several ranks. */
#ifndef SY_TOPOLOGY_PLACEMENT_H
#define SY_TOPOLOGY_PLACEMENT_H

#include <stdint.h>

#include "base/status.h"

typedef struct sy_home {
    int32_t rank;
    int32_t slot; /* index among the slots of that rank in this layer */
} sy_home;

/* One MoE layer. */
typedef struct sy_placement_layer {
    int n_experts, n_ranks;
    int32_t *slot_first;  /* [R + 1]: slots of rank r are slot_first[r] .. slot_first[r + 1] */
    int32_t *slot_expert; /* [slot_first[R]]: the expert in each slot */
    int32_t
        *home_first; /* [E + 1]: copies of expert e are home_first[e] .. home_first[e + 1] */
    sy_home *home;   /* ordered by rank */
} sy_placement_layer;

typedef struct sy_placement {
    int n_layers; /* all layers of the model; dense ones have n_experts == 0 */
    sy_placement_layer *layer;
} sy_placement;

/* Contiguous experts: rank r holds [E*r/R, E*(r+1)/R) in every layer. experts[l] is E of layer
 * l, 0 for a dense one. Free with sy_placement_destroy. */
sy_status
sy_placement_contiguous(int n_layers, const int *experts, int n_ranks, sy_placement **out);

/* From an explicit list per layer: slot_expert[l] holds the experts rank by rank, n_slots[l][r]
 * how many each rank has. Every expert needs at least one slot and at most one per rank. */
sy_status sy_placement_from_slots(int n_layers,
                                  const int *experts,
                                  int n_ranks,
                                  const int32_t *const *n_slots,
                                  const int32_t *const *slot_expert,
                                  sy_placement **out);

void sy_placement_destroy(sy_placement *placement);

static inline int sy_placement_slots(const sy_placement_layer *layer, int rank) {
    return layer->slot_first[rank + 1] - layer->slot_first[rank];
}

#endif
