/* How a step is brought to the backend.
 *
 * In host memory: launch by launch (sy_forward). On a device, steps of few rows are *recorded* at
 * create, one recording for each bucket of rows, with the fixed form of the exchange; a step then
 * costs one upload and one replay. Other steps (prompts, replayed routes) go launch by launch.
 * Both give the same bits. */
#ifndef SY_RUNTIME_STEPPER_H
#define SY_RUNTIME_STEPPER_H

#include "comm/comm.h"
#include "runtime/forward.h"

typedef struct sy_stepper sy_stepper;

enum { SY_STEP_MOST_RECORDED = 64 }; /* rows of the largest bucket */

typedef struct sy_stepper_options {
    int64_t max_rows;    /* of a step on this rank */
    int64_t max_outputs; /* rows of logits of a step */
    bool record;         /* false: never record */
} sy_stepper_options;

/* Largest bucket that steps of max_rows may use under a backend: the capacity that the exchange
 * has to be made for. 0 on the CPU. */
int64_t sy_stepper_capacity(const sy_backend *be, int64_t max_rows, bool record);

/* Collective: records all buckets, in the same order on every rank. The runner outlives it. */
sy_status sy_stepper_create(sy_runner *runner,
                            sy_comm *comm,
                            const sy_stepper_options *options,
                            sy_stepper **out);
void sy_stepper_destroy(sy_stepper *stepper); /* NULL is fine */

/* Logits of the wanted rows are left in ws.logits, in stream order. Collective. */
sy_status sy_stepper_run(sy_stepper *stepper, const sy_step *step);

/* Adds what the device has counted to runner->loads. Waits for the device. Local. */
sy_status sy_stepper_loads(sy_stepper *stepper);

typedef struct sy_stepper_stats {
    int64_t recorded_steps, other_steps;
    int64_t nodes_per_step, graphs_per_step; /* of the smallest bucket; 0 without recordings */
} sy_stepper_stats;
void sy_stepper_get_stats(const sy_stepper *stepper, sy_stepper_stats *out);

#endif
