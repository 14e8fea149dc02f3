/* What a table of a device with a memory of its own offers beside the steps (kernels/ops.h).
 *
 * A step on a device is a sequence of launches that read one *step record* in device memory: what
 * changes from step to step (ids, positions, pages, rows wanted) is uploaded once, by begin_step,
 * so that the launches of a step can be recorded as a graph and replayed. Members named here lie
 * in device memory unless they say otherwise. */
#ifndef SY_KERNELS_DEVICE_H
#define SY_KERNELS_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/ops.h"

/* Rows of the experts, as the device knows them: the host sees only an upper bound of their
 * number. Pair p of slot s, first[s] <= p < first[s + 1], reads row row[p] of x (row p if row is
 * NULL). */
struct sy_device_rows {
    const int32_t *first;  /* [n_slots + 1] */
    const int32_t *active; /* [1 + n_slots]: how many slots have rows, then which, ascending */
    const int32_t *row;    /* [P] or NULL */
};

/* Where the experts of a layer are: sy_placement_layer on the device. */
typedef struct sy_device_placement {
    int n_experts, n_ranks;
    int n_slots;               /* of this rank */
    const int32_t *home_first; /* [E + 1] */
    const int32_t *home;       /* [copies][2]: rank, slot */
} sy_device_placement;

/* The fixed form of the exchange. Every rank shows C rows (its capacity, equal on all ranks) to
 * all: token (r, c) is row c of rank r, number r * C + c of R * C. A row that is not there has
 * expert -1. `segments` is S: the rows that each rank returns for each token, at most. */
typedef struct sy_device_round {
    const sy_device_placement *placement;
    int rank, capacity, segments, top_k, hidden;
    const void *x;         /* act [R * C, H]: what all ranks showed */
    const int32_t *expert; /* [R * C, K] */
    const float *weight;   /* [R * C, K] */
    int32_t *first;        /* [n_slots + 1]     out of plan: sy_device_rows */
    int32_t *active;       /* [1 + n_slots]     out of plan */
    int32_t *row;          /* [R * C * K]       out of plan */
    int32_t *pair;  /* [R * C, K]        out of plan: the pair of choice k, -1: elsewhere */
    uint64_t *load; /* [load_slots + 1] plan adds the rows of each slot, and at the end how
                            * many slots have rows; NULL: not wanted */
    int load_slots;
    const float *y;        /* [pairs, H] what the experts made */
    float *returned;       /* [R, C, S, H]: sums in; sent to rank r: block r */
    const float *received; /* [R, C, S, H]: block r came from rank r */
    const float *shared;   /* [C, H] or NULL */
    float *residual;       /* [C, H] f32: += */
    uint64_t *passed; /* += 1 by plan and by home_sums: other ranks' rows have come; or NULL */
} sy_device_round;

/* What a step's launches were recorded as. */
typedef struct sy_recording sy_recording;
typedef struct sy_recording_size {
    int64_t nodes;  /* kernels and copies */
    int64_t graphs; /* launches that a replay makes, calls between them not counted */
} sy_recording_size;

typedef struct sy_stage sy_stage;

struct sy_device_ops {
    /* Uploads what the launches of a step read: the batch, and which rows of logits are wanted.
     * `rows` and `outputs` are what the launches are made for, at least the batch's numbers; rows
     * behind the batch's are computed from nothing, are written nowhere else and dispatched to
     * no expert. The step's ops take this record; their `batch` must be the same. */
    sy_status (*begin_step)(sy_backend *be,
                            const sy_batch *batch,
                            int64_t rows,
                            int64_t n_outputs,
                            int64_t outputs,
                            const int32_t *output_row,
                            sy_stream *s);

    /* plan: who computes what here, slot by slot, in the order of the tokens. local_sums: of
     * each token, the sum of each segment that this rank has computed, in the order of the
     * segments, into `returned`. home_sums: the tree over the `received` segments of the own
     * tokens, + shared, added to residual. combine_alone: both at once where R = 1. */
    sy_status (*plan)(sy_backend *be, const sy_device_round *round, sy_stream *s);
    sy_status (*local_sums)(sy_backend *be, const sy_device_round *round, sy_stream *s);
    sy_status (*home_sums)(sy_backend *be, const sy_device_round *round, sy_stream *s);
    sy_status (*combine_alone)(sy_backend *be, const sy_device_round *round, sy_stream *s);

    /* Waits for all that was enqueued; reports what failed on the device. */
    sy_status (*synchronize)(sy_backend *be, sy_stream *s);
    /* Bytes of device memory that may still be taken, and which memory that is: ranks with equal
     * identities on one machine share it. */
    uint64_t (*memory_available)(sy_backend *be, uint64_t *identity);
    /* Device bytes that sy_ops.reserve takes for these limits; UINT64_MAX on overflow. */
    uint64_t (*reserve_bytes)(sy_backend *be, const sy_limits *limits);
    /* "NVIDIA H100 80GB HBM3, sm_90", or "emulated". Lives as long as the backend. */
    const char *(*device_name)(sy_backend *be);
    /* The stream of the steps as NCCL wants it (a cudaStream_t). */
    void *(*native_stream)(sy_backend *be);

    /* A recording is made of graphs, and of calls between them that could not be recorded.
     * record_begin .. record_end stand around the launches of a step, which are recorded and not
     * run. `outside` runs fn(argument); within a recording it is run at each replay instead, in
     * its place among the launches, so argument must stay valid as long as the recording. Where
     * begin fails nothing is recorded; after it, end has to be called whatever fails between.
     * An `end` that succeeds with *out NULL has recorded all and has no memory to keep it; the
     * last error's text says which. */
    sy_status (*record_begin)(sy_backend *be);
    sy_status (*outside)(sy_backend *be, sy_status (*fn)(void *), void *argument);
    sy_status (*record_end)(sy_backend *be, sy_recording **out);
    sy_status (*replay)(sy_backend *be, const sy_recording *recording);
    void (*record_free)(sy_backend *be, sy_recording *recording); /* NULL is fine */
    sy_recording_size (*record_size)(const sy_recording *recording);

    /* Loading. A stage is a ring of slots of pinned memory that files are read into; ops->pack
     * from within a slot returns at once, and the slot is handed out again when the device is
     * done with it. take waits for a slot; any number of threads. Local. */
    sy_status (*stage_open)(sy_backend *be, int n_slots, uint64_t slot_bytes, sy_stage **out);
    sy_status (*stage_take)(sy_stage *stage, void **slot);
    void (*stage_give)(sy_stage *stage, void *slot);
    sy_status (*stage_close)(sy_stage *stage); /* waits for the device; NULL is fine */

    /* What the device can do at most, measured right now for about `seconds`: bytes/s that a copy
     * within its memory reads and writes, and FLOP/s (two per multiply-add) of a large BF16
     * product. SY_ERR_UNSUPPORTED: no library for that product; SY_ERR_MEMORY: no memory left. */
    sy_status (*probe_bandwidth)(sy_backend *be, double seconds, double *bytes_per_second);
    sy_status (*probe_gemm)(sy_backend *be, double seconds, double *flops);
};

#endif
