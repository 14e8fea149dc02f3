/* The exchange: tokens travel to the ranks that hold their experts, results travel home.
 *
 * dispatch sends a token once to each rank that computes at least one of its experts. combine
 * brings float32 rows home and adds them along one fixed tree (sy_tree_job), so that the result
 * depends on the token's experts alone: not on ranks, placement, batch or chunk. In *exact* a
 * rank sends one row for each maximal subtree of [0, E) in which all of the token's chosen
 * experts were computed by it; in *reduced* one row per token and rank (no promise of equal bits
 * over rank counts).
 *
 * All four calls are collective, in this order, once per MoE layer and step, on every rank, also
 * on one without tokens. Between begin and end the caller may compute (the shared expert).
 * Nothing is allocated after create. A call that fails leaves the exchange unusable: destroy it,
 * and let the other ranks know (sy_comm_abort).
 *
 * On a backend in host memory ranks of one host read each other's rows in place (memfds); between
 * hosts they travel by MPI. On a device (ops->device) x, expert, weight, y, shared and the results
 * are device memory, rows travel by NCCL between device buffers, and there are two forms. The
 * *sparse* one is for any batch: the host reads the choice back and plans, pairs travel as above.
 * The *fixed* one is for few rows, as many on every rank: each rank shows its rows to all and the
 * device plans, without the host, so that a step can be recorded. Both give the same bits. */
#ifndef SY_COMM_EXCHANGE_H
#define SY_COMM_EXCHANGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/comm.h"
#include "kernels/ops.h"
#include "topology/placement.h"

typedef struct sy_exchange sy_exchange;

typedef enum sy_combine_mode {
    SY_COMBINE_EXACT,
    SY_COMBINE_REDUCED,     /* float32 rows */
    SY_COMBINE_REDUCED_BF16 /* bf16 rows   */
} sy_combine_mode;

/* Equal on all ranks. */
typedef struct sy_exchange_shape {
    int64_t max_rows; /* T of any rank in any step */
    int hidden, top_k, experts;
    sy_dtype act;
    int max_slots; /* most slots that any rank holds in any layer */
    sy_combine_mode combine;
    bool device; /* for the sizes; create goes by its backend */
    /* The rest matters on a device only. */
    const sy_placement
        *placement;       /* of all layers; NULL: no fixed form. Outlives the exchange */
    int64_t max_capacity; /* most rows of the fixed form; 0: never fixed */
    double deadline; /* seconds that a wait for other ranks' rows may take; 0: two minutes */
} sy_exchange_shape;

/* Worst-case bytes on this rank (own buffers, and received ones): for the memory budget.
 * UINT64_MAX on overflow, or if the shape is more than create accepts. Local. */
uint64_t sy_exchange_bytes(const sy_comm *comm, const sy_exchange_shape *shape);
/* Most (token, expert) pairs that this rank may be asked to compute in one step; INT64_MAX on
 * overflow. Local. */
int64_t sy_exchange_max_pairs(const sy_comm *comm, const sy_exchange_shape *shape);

/* Collective, allocates. The backend outlives the exchange. */
sy_status sy_exchange_create(sy_comm *comm,
                             sy_backend *be,
                             const sy_exchange_shape *shape,
                             sy_exchange **out);
/* Local. NULL is fine. */
void sy_exchange_destroy(sy_exchange *ex);

/* x act [n_rows, H], expert and weight [n_rows, K], the experts of a row distinct; step_hash
 * must be equal on all ranks (a divergence of the ranks' plans is reported as an error instead
 * of a hang). The arguments must stay valid until combine_end. */
sy_status sy_dispatch_begin(sy_exchange *ex,
                            const sy_placement_layer *placement,
                            int64_t n_rows,
                            const void *x,
                            const int32_t *expert,
                            const float *weight,
                            uint64_t step_hash,
                            sy_stream *s);
/* rows: what to compute here, grouped by slot; within a slot by source rank, then row. Valid
 * until the next dispatch_begin. */
sy_status sy_dispatch_end(sy_exchange *ex, sy_expert_rows *rows, sy_stream *s);
/* y f32 [P, H], row i belongs to rows->x row i. */
sy_status sy_combine_begin(sy_exchange *ex, const float *y, sy_stream *s);
/* x [n_rows, H] += tree sum + shared (NULL if there is none). */
sy_status sy_combine_end(sy_exchange *ex, const float *shared, float *x, sy_stream *s);

/* What has travelled so far on this rank: rows and pairs of dispatch, rows of combine. */
typedef struct sy_exchange_stats {
    uint64_t rounds;              /* dispatch + combine pairs */
    uint64_t tokens_sent;         /* (token, rank) copies sent to other ranks */
    uint64_t rows_returned;       /* rows sent home to other ranks */
    uint64_t bytes_in_host;       /* to other ranks of this host, read in place or not */
    uint64_t bytes_between_hosts; /* to other hosts */
} sy_exchange_stats;
void sy_exchange_get_stats(const sy_exchange *ex, sy_exchange_stats *out);

/* The same between this rank and one other, in both directions: what one rank sent is what the
 * other received. Rows of dispatch are tokens, rows of combine are sums. Of this rank to itself: the
 * rows that stayed, and no bytes. */
typedef struct sy_traffic {
    uint64_t rows, bytes;
} sy_traffic;
typedef struct sy_exchange_peer {
    sy_traffic dispatch_sent, dispatch_received;
    sy_traffic combine_sent, combine_received;
} sy_exchange_peer;
/* [R]; borrowed, and counts on. */
const sy_exchange_peer *sy_exchange_peers(const sy_exchange *ex);

/* When (sy_now_ns) the last dispatch_end or combine_end had waited for all other ranks: before that
 * it did nothing else, after it only its own work. 0: not known, since a device waits later. */
int64_t sy_exchange_waited_until(const sy_exchange *ex);

/* The rest is for devices. Local, between rounds: the next rounds are fixed ones of `capacity`
 * rows on every rank, dispatch_begin's n_rows being that; 0: sparse. Equal on all ranks. Only for
 * SY_COMBINE_EXACT, or with one rank. Rounds of one capacity are always given the same x, expert
 * and weight. */
sy_status sy_exchange_set_capacity(sy_exchange *ex, int64_t capacity);
/* Local: the next fixed dispatch adds the rows of each slot of this rank to load[slot], and the
 * number of slots that have rows to load[shape.experts]; device memory. NULL: not wanted. */
void sy_exchange_set_load(sy_exchange *ex, uint64_t *load);
/* Local: whether fixed rounds enqueue NCCL directly, so that a graph captures it, or through
 * ops->device->outside, between graphs (as at first). */
sy_status sy_exchange_set_captured(sy_exchange *ex, bool captured);
/* Collective: whether a recorded exchange of rows between all ranks arrives, within `deadline`
 * seconds; the same answer on all ranks. The exchange remains usable either way. */
sy_status sy_exchange_probe_capture(sy_exchange *ex, double deadline, bool *works);
/* Local: a recorded step of fixed rounds has been replayed, the step-th from 0 of any capacity.
 * The rounds made since this capacity was set last, which the recording holds, count as travelled:
 * fixed rounds enter the statistics by this call alone. */
void sy_exchange_count_fixed(sy_exchange *ex, int64_t capacity, int64_t step);
/* Waits until the device has done all that was enqueued. Where other ranks' rows are waited for,
 * that ends with an error that names who is behind once the deadline has passed. */
sy_status sy_exchange_synchronize(sy_exchange *ex);

#endif
