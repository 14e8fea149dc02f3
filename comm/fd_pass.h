/* Inside comm/: handing a file descriptor to the other ranks of a host. */
#ifndef SY_COMM_FD_PASS_H
#define SY_COMM_FD_PASS_H

#include <stdbool.h>

#include "base/status.h"
#include "comm/comm.h"

/* Collective. Sends `fd` (-1: nothing to send) to each rank with wanted[rank], which must be
 * symmetric, and stores what they sent in received[R]: -1 for a rank that sent nothing within
 * the time limit, or that cannot be reached (another network namespace). The caller closes what
 * it received. Fails only where MPI does. */
sy_status sy_fd_pass(sy_comm *comm, int fd, const bool *wanted, int *received);

#endif
