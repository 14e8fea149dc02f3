/* Which sequences step now, on which rank: decided on rank 0, broadcast to all as one record.
 *
 * A sequence lives in a slot; slots [r * per_rank, (r + 1) * per_rank) belong to rank r, which
 * keeps its tokens and its KV pages. Decoding sequences step first, what is left of a rank's rows
 * goes to prefill, in the order of admission. The schedule never changes a result: every token's
 * logits depend on its own sequence alone. */
#ifndef SY_RUNTIME_SCHEDULE_H
#define SY_RUNTIME_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/comm.h"
#include "kernels/ops.h"

typedef struct sy_request {
    const int32_t *prompt;
    int64_t n_prompt;          /* >= 1 */
    int64_t max_tokens;        /* >= 1 */
    sy_sample_params sampling; /* position is filled in per token */
} sy_request;

/* The record of a step. All arrays lie in one buffer owned by the plan. */
typedef struct sy_step_admit {
    int32_t slot;
    int32_t unused;            /* in place of padding: the bytes of a record are hashed */
    int64_t n_prompt, n_total; /* tokens of the prompt; positions to reserve */
    sy_sample_params sampling;
} sy_step_admit;

typedef struct sy_step_work {
    int32_t slot;
    int32_t n_rows; /* next tokens of the slot's sequence */
    int32_t output; /* 1: sample after the last of them */
} sy_step_work;

typedef struct sy_step_record {
    bool stop;     /* no more steps */
    uint64_t step; /* counts up */
    uint64_t hash; /* over all of the record */
    int32_t n_retire, n_admit, n_work;
    int64_t n_prompt_ids; /* of all admits together */
    int32_t *retire;      /* slots that are free again (before the admits) */
    sy_step_admit *admit;
    sy_step_work *work;  /* ascending slots */
    int32_t *prompt_ids; /* of the admits, one after the other */
} sy_step_record;

/* Caps: a plan holds at most n_slots of each; prompts of at most max_prompt_ids in one record. */
sy_status sy_record_create(int n_slots, int64_t max_prompt_ids, sy_step_record **out);
void sy_record_destroy(sy_step_record *plan); /* NULL is fine */
/* Collective: rank 0's plan on all ranks. */
sy_status sy_record_broadcast(sy_comm *comm, sy_step_record *plan);

typedef struct sy_schedule_shape {
    int n_ranks, per_rank;  /* slots of each rank */
    int64_t chunk;          /* most rows of a rank in a step */
    int64_t pages_per_rank; /* KV pages */
    int64_t max_prompt_ids; /* of one record */
} sy_schedule_shape;

typedef struct sy_schedule sy_schedule; /* rank 0 only */

sy_status sy_schedule_create(const sy_schedule_shape *shape,
                             const sy_request *requests,
                             int n_requests,
                             sy_schedule **out);
void sy_schedule_destroy(sy_schedule *schedule); /* NULL is fine */

/* Fills the record of the next step; plan->stop once every request is done. */
void sy_schedule_next(sy_schedule *schedule, sy_step_record *plan);
/* The request that runs in a slot. */
int sy_schedule_request(const sy_schedule *schedule, int slot);
/* A token was sampled in a slot; `finished`: its request ends here. */
void sy_schedule_token(sy_schedule *schedule, int slot, bool finished);
/* Tokens of the current step that were prompt rows, for the speed figures. */
int64_t sy_schedule_prefill_rows(const sy_schedule *schedule);

#endif
