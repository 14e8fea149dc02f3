/* The collector of a profile on one rank: time per phase and layer, sums of routing weights, pairs
 * of experts that tokens choose together, a trace, and the choices of a few sequences.
 *
 * Made when wanted, NULL otherwise: every call in the step's path takes NULL and then costs one
 * comparison. All memory is taken at create; a trace that is full drops what comes later.
 *
 * Order: create; for each label begin, steps, collect (collective); at the end gather and write
 * (collective, runtime/profile_data.h). Only steps between begin and collect are recorded.
 *
 * On a device each boundary between phases waits for the device, so that the time of a phase is
 * that of its work; steps must be launched, not recorded, meanwhile. */
#ifndef SY_RUNTIME_PROFILE_H
#define SY_RUNTIME_PROFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "comm/comm.h"
#include "comm/exchange.h"
#include "comm/liveness.h"
#include "kernels/ops.h"
#include "runtime/loads.h"
#include "runtime/profile_phase.h"
#include "runtime/spec.h"

typedef struct sy_profile sy_profile;

/* Equal on all ranks. */
typedef struct sy_profile_options {
    bool on;
    int64_t events; /* of the trace, on each rank */
    int64_t routes; /* sequences whose choices are kept */
} sy_profile_options;

enum { SY_PROFILE_EVENTS = 200000, SY_PROFILE_MOST_ROUTES = 4096 };

/* What it watches; borrowed, outlives it. */
typedef struct sy_profile_parts {
    sy_comm *comm;
    sy_liveness *live; /* NULL: not watched */
    sy_backend *be;
    const sy_model_spec *spec;
    const sy_placement *placement;
    sy_loads *loads;
    sy_exchange *exchange;
    int64_t max_rows;    /* of a step on this rank */
    int64_t max_context; /* positions of a sequence */
    int max_spans;       /* sequences in a step on this rank */
} sy_profile_parts;      /* loads and exchange are not looked at for the size */

/* Host bytes on this rank; UINT64_MAX on overflow. */
uint64_t sy_profile_bytes(const sy_profile_parts *parts, const sy_profile_options *options);

/* Collective: clocks are compared. */
sy_status sy_profile_create(const sy_profile_parts *parts,
                            const sy_profile_options *options,
                            sy_profile **out);
void sy_profile_destroy(sy_profile *profile); /* NULL is fine */

/* Local, the same on all ranks: what follows is recorded under this label; loads begin at 0. The
 * same label may come again, what is collected then adds up. */
sy_status sy_profile_begin(sy_profile *profile, const char *label);
/* Collective: loads, weights and links since begin are added up on rank 0. */
sy_status sy_profile_collect(sy_profile *profile);

/* ---- in the step's path, local; profile may be NULL ---- */

/* A sequence begins somewhere, in the same order on all ranks; returns its number, or -1 if its
 * choices are not kept. */
int64_t sy_profile_admit(sy_profile *profile);
/* Span i of the coming step belongs to a sequence of this number. */
void sy_profile_span(sy_profile *profile, int i, int64_t number);

/* A step begins, in the phase "prepare", and ends with the rows it had here and at most anywhere. */
void sy_profile_step_begin(sy_profile *profile);
sy_status sy_profile_step_end(sy_profile *profile, int64_t rows, int64_t most_rows);

sy_status sy_profile_enter(sy_profile *profile, int layer, sy_profile_phase phase);
/* What comes next belongs to a phase; what was before to the one before. layer -1: to none. */
static inline sy_status sy_phase(sy_profile *profile, int layer, sy_profile_phase phase) {
    return profile == NULL ? SY_OK : sy_profile_enter(profile, layer, phase);
}

/* This phase began when the exchange's last wait was over, if that is known. */
void sy_profile_waited(sy_profile *profile, int layer, sy_profile_phase phase);

/* The router's choice for a batch: expert and weight [n_rows, K], where the backend has them. */
sy_status sy_profile_choice(sy_profile *profile,
                            int layer,
                            const sy_batch *batch,
                            const int32_t *expert,
                            const float *weight,
                            sy_stream *s);

#endif
