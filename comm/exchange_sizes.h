/* Inside comm/: the worst-case buffers of an exchange, from its shape. Pure arithmetic. */
#ifndef SY_COMM_EXCHANGE_SIZES_H
#define SY_COMM_EXCHANGE_SIZES_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/exchange.h"
#include "comm/link.h"
#include "comm/plan.h"

/* Everything that the shape implies; in bytes. */
typedef struct sy_exchange_sizes {
    sy_plan_shape plan;
    sy_link_shape link;
    uint64_t row;    /* a row of x */
    uint64_t result; /* a row of combine on the wire */
    uint64_t rows;   /* the rows that in-place peers read, at the start of the dispatch block */
    uint64_t staging; /* dispatch messages for MPI */
    uint64_t x;       /* rows for the experts */
    uint64_t sums,
        returned; /* float32 copies of bf16 rows: sent, received; on a device all rows */
    /* On a device, where the messages of the link hold no rows: */
    uint64_t send, arrived;          /* rows to other ranks, from other ranks */
    int64_t send_rows;               /* most rows in `send` */
    uint64_t choice;                 /* [T, K] of 4 bytes, in host memory, twice */
    int segments;                    /* S of the fixed form */
    struct sy_fixed_sizes {          /* each part rounded up to 256 bytes; 0 where not needed */
        uint64_t x, choice, results; /* gathered rows; expert, weight; [R, C, S, H] f32 */
        uint64_t first, row;         /* tables of slots; [R, C, K] of 4 bytes */
        uint64_t all;
    } fixed;
} sy_exchange_sizes;

/* Checks the shape and fills all sizes; an error names what is out of range. */
sy_status
sy_exchange_measure(const sy_comm *comm, const sy_exchange_shape *shape, sy_exchange_sizes *z);

/* Bytes of the dispatch messages to n peers by MPI, row bytes per row: a row goes to at most K
 * of them. False on overflow. */
bool sy_exchange_staging(const sy_exchange_shape *shape,
                         uint64_t row,
                         int by_mpi,
                         uint64_t *out);

#endif
