/* The wire between devices (comm/device_wire.h) over NCCL.
 *
 * The communicator is not blocking, so that every wait is a loop of this program's: it looks at
 * the stream, at NCCL's errors and at the clock, and listens whether another rank has given up. A
 * peer that died is the business of comm/liveness.h, which ends this process from its own thread
 * wherever it stands. */
#ifndef SY_COMM_NCCL_COMM_H
#define SY_COMM_NCCL_COMM_H

#include "comm/device_wire.h"

/* Collective. `deadline` in seconds is for the communicator's start and for connections. */
sy_status sy_nccl_open(sy_comm *comm, sy_backend *be, double deadline, sy_device_wire **out);

#endif
