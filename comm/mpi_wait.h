/* Inside comm/: errors and patient waiting for MPI requests. Only files that talk MPI include
 * this; MPI's types appear in no other header. */
#ifndef SY_COMM_MPI_WAIT_H
#define SY_COMM_MPI_WAIT_H

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/comm.h"

/* A private duplicate of MPI_COMM_WORLD that returns errors. MPI_COMM_NULL where the world is
 * one rank that started without a launcher: MPI was never initialised then. */
MPI_Comm sy_comm_mpi(const sy_comm *comm);
/* Reserves n consecutive message tags. Equal on all ranks if called in the same order. */
int sy_comm_take_tags(sy_comm *comm, int n);

/* SY_OK for MPI_SUCCESS, else SY_ERR_COMM with MPI's own text behind `what`. */
sy_status sy_mpi_status(int rc, const char *what);

/* How long a waiter has waited, and what it does next: some polls in a row where it has a core
 * of its own, then yields, then sleeps that grow with the time already waited (a sixteenth of
 * it, from 20 us up to 2 ms), so that an idle server costs nothing and a short wait stays short.
 * Start with {0}. */
typedef struct sy_patience {
    int n_polls;
    int64_t sleeping_since_ns;
} sy_patience;

/* Called after a poll that found nothing. Returns the nanoseconds to sleep before the next poll,
 * 0 to poll again at once (it has yielded where that was due). */
int64_t sy_patience_next(sy_patience *patience, bool may_spin);
void sy_sleep_ns(int64_t ns);

/* Waits until all n requests are complete; null requests are. */
sy_status sy_mpi_wait_all(const sy_comm *comm, int n, MPI_Request *request, const char *what);

#endif
