/* Expert loads: how many tokens each expert has computed, per layer and rank. Always counted;
 * conserved: the sum over experts and ranks is tokens x top-k in every MoE layer.
 *
 * loads.json, version 1:
 *   {"version": 1, "model": "qwen3_moe", "ranks": R, "tokens": N,
 *    "layers": [{"layer": l, "experts": E, "top_k": K,
 *                "counts": [[tokens of expert 0 on rank 0, on rank 1, ...], ... E rows]}, ...]}
 * Only MoE layers are listed; "tokens" is the number of tokens that went through the model. There
 * may be a member "label", the kind of text. */
#ifndef SY_RUNTIME_LOADS_H
#define SY_RUNTIME_LOADS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "comm/comm.h"
#include "kernels/ops.h"
#include "runtime/spec.h"
#include "topology/placement.h"

typedef struct sy_loads {
    int n_layers, n_experts, rank; /* E: the largest of all layers */
    const sy_placement *placement;
    uint64_t *count;       /* [L, E] of this rank */
    uint64_t tokens;       /* that this rank's sequences have put through the model */
    uint64_t experts_read; /* experts with at least one row, over all layers and steps */
    bool off;              /* nothing is counted: to measure what counting costs */
} sy_loads;

sy_status sy_loads_create(const sy_model_spec *spec,
                          const sy_placement *placement,
                          int rank,
                          sy_loads **out);
void sy_loads_destroy(sy_loads *loads); /* NULL is fine */
void sy_loads_reset(sy_loads *loads);

/* Adds what a step of one layer computes here. */
void sy_loads_count(sy_loads *loads, int layer, const sy_expert_rows *rows);

/* Adds what a device has counted in one layer: rows of each slot of this rank, and behind the
 * last of n_experts cells the number of slots that had rows. */
void sy_loads_add(sy_loads *loads, int layer, const uint64_t *counted);

/* All ranks' counts on rank 0: [R][L, E], and the sum of tokens; *all is NULL on the others.
 * The caller frees *all. Collective. */
sy_status
sy_loads_gather(sy_comm *comm, const sy_loads *loads, uint64_t **all, uint64_t *tokens);

/* Largest rank's share over the mean, over all layers together: 1 = even. From gathered counts;
 * rank_total [R] receives (token, expert) pairs per rank. */
double sy_loads_imbalance(const sy_loads *loads,
                          const uint64_t *all,
                          int n_ranks,
                          uint64_t *rank_total);

/* Parts of loads.json, for who has the counts in another form: all before the first layer (label
 * may be NULL), and a layer up to the rows of its counts, which the caller prints and closes. */
void sy_loads_print_head(FILE *f,
                         const sy_model_spec *spec,
                         int n_ranks,
                         uint64_t tokens,
                         const char *label);
void sy_loads_print_layer_head(FILE *f, const sy_model_spec *spec, int layer, bool first);

/* Writes loads.json from gathered counts. */
sy_status sy_loads_write(const sy_loads *loads,
                         const sy_model_spec *spec,
                         const uint64_t *all,
                         int n_ranks,
                         uint64_t tokens,
                         const char *path);

#endif
