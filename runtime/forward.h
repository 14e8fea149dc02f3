/* The forward pass of one step on one rank: tokens in, logits out.
 *
 * Collective: every rank calls sy_forward once per step, with its own tokens, also if it has
 * none, because its experts are needed. */
#ifndef SY_RUNTIME_FORWARD_H
#define SY_RUNTIME_FORWARD_H

#include "comm/exchange.h"
#include "comm/liveness.h"
#include "runtime/kv.h"
#include "runtime/loads.h"
#include "runtime/profile.h"
#include "runtime/spec.h"
#include "runtime/weights.h"
#include "runtime/workspace.h"

/* Everything a step needs; made by the engine, borrowed here. */
typedef struct sy_runner {
    sy_backend *be;
    const sy_model_spec *spec;
    const sy_weights *weights;
    const sy_placement *placement;
    const sy_rope_table *const *rope; /* [L], where the backend's steps read it */
    sy_kv *kv;
    sy_exchange *exchange;
    sy_liveness *live;          /* NULL: not watched */
    sy_loads *loads;            /* tokens per layer and expert, counted always */
    sy_profile *profile;        /* NULL: not wanted */
    uint64_t *device_load;      /* where a device counts them (runtime/stepper.c), or NULL: */
    int64_t device_load_stride; /* [L, stride] rows per slot, the last: slots that had rows */
    sy_workspace ws;
    sy_stream *stream;
} sy_runner;

/* One step of this rank. */
typedef struct sy_step {
    sy_batch batch;
    int64_t n_outputs;         /* rows whose logits are wanted */
    const int32_t *output_row; /* [n_outputs] */
    /* Replayed routes: for MoE layer i (counted from 0) row t takes experts
     * forced[i][t * K .. t * K + K); NULL: the router decides. */
    const int32_t *const *forced;
    uint64_t hash; /* of the step's plan, equal on all ranks */
    /* Known to all ranks alike, so that all take the same way: the most rows and outputs that
     * any rank has, and whether routes are replayed. */
    int64_t most_rows, most_outputs;
    bool replayed;
} sy_step;

/* Logits of the wanted rows are left in ws.logits. Collective. */
sy_status sy_forward(sy_runner *r, const sy_step *step);

#endif
