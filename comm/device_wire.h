/* Inside comm/: what carries rows between the devices of the ranks, in the order of the device's
 * stream. NCCL is one (comm/nccl_comm.h); tests bring another.
 *
 * Every rank makes the same calls in the same order, with sizes that agree pair by pair; sizes of
 * 0 are left out on both sides. */
#ifndef SY_COMM_DEVICE_WIRE_H
#define SY_COMM_DEVICE_WIRE_H

#include <stdint.h>

#include "base/status.h"
#include "comm/comm.h"
#include "kernels/ops.h"

typedef struct sy_device_wire sy_device_wire;

/* What goes to and comes from one rank; device memory. A rank's message to itself arrives too. */
typedef struct sy_device_wire_part {
    int peer;
    const void *send;
    uint64_t send_bytes;
    void *receive;
    uint64_t receive_bytes;
} sy_device_wire_part;

/* `bytes` of each rank, to all: block r of `all` comes from rank r. */
typedef struct sy_device_wire_gather {
    const void *mine;
    void *all;
    uint64_t bytes;
} sy_device_wire_gather;

typedef struct sy_device_wire_ops {
    /* Enqueue; all parts of a call progress together. The arrays may go when this returns. */
    sy_status (*exchange)(sy_device_wire *wire, int n, const sy_device_wire_part *part);
    sy_status (*all_gather)(sy_device_wire *wire, int n, const sy_device_wire_gather *gather);
    /* Waits until the stream is done, `deadline` seconds at most. After an error the wire is of no
     * more use; `quiet` spares the inquiry who is behind. */
    sy_status (*wait)(sy_device_wire *wire, double deadline, bool quiet);
    /* Local, never waits for a peer, whatever is under way. */
    void (*destroy)(sy_device_wire *wire);
} sy_device_wire_ops;

struct sy_device_wire {
    const sy_device_wire_ops *ops;
    int64_t calls; /* made on this rank; and replayed steps: together how far this rank is */
    int64_t steps;
    const uint64_t
        *passed; /* on the device: how often rows of recorded steps have come; or NULL */
};

/* Collective: the wire for a device backend. SY_ERR_UNSUPPORTED in a program without NCCL. */
sy_status
sy_device_wire_open(sy_comm *comm, sy_backend *be, double deadline, sy_device_wire **out);

#endif
