/* Ranks and hosts, and the few collectives that control needs.
 *
 * sy_comm_create is collective and wraps MPI_Init_thread (FUNNELED: only the thread that called
 * it may call this module). Ranks that share a host find each other through MPI's shared-memory
 * split; `virtual_hosts` splits them further, so that the path between hosts can be tested on
 * one machine. A process started without mpirun is a world of one rank.
 *
 * No wait is unbounded in CPU use: requests are tested, a few times in a row where each rank has
 * a core, then with yields, then with short sleeps. A peer that never answers is the business of
 * comm/liveness.h. */
#ifndef SY_COMM_COMM_H
#define SY_COMM_COMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct sy_comm sy_comm;

typedef struct sy_comm_options {
    int virtual_hosts; /* 0 = the real hosts; H >= 1 splits the ranks into H blocks of a host */
    bool no_shared_memory; /* MPI between ranks of a host too */
    int threads_per_rank;  /* to know whether a waiter has a core of its own */
} sy_comm_options;

/* Collective. */
sy_status sy_comm_create(const sy_comm_options *options, sy_comm **out);
/* Collective on success paths; ends MPI. NULL is fine. */
void sy_comm_destroy(sy_comm *comm);
/* Ends MPI for all ranks after an error that the others may not know of; does not return. */
void sy_comm_abort(sy_comm *comm, int exit_code) __attribute__((noreturn));

int sy_comm_rank(const sy_comm *comm);
int sy_comm_size(const sy_comm *comm);
int sy_comm_host(const sy_comm *comm, int rank);         /* index of the (virtual) host of a rank */
int sy_comm_n_hosts(const sy_comm *comm);
const char *sy_comm_host_name(const sy_comm *comm, int rank);
bool sy_comm_may_spin(const sy_comm *comm); /* ranks here x threads <= cores available here */

/* Collective; every rank passes the same byte counts. */
sy_status sy_comm_broadcast(sy_comm *comm, void *data, size_t bytes, int root);
sy_status sy_comm_gather(sy_comm *comm, const void *mine, size_t bytes, void *all, int root);
sy_status sy_comm_all_gather(sy_comm *comm, const void *mine, size_t bytes, void *all);
sy_status sy_comm_barrier(sy_comm *comm);

/* Collective: the worst status of all ranks, with that rank's text and number put into this
 * rank's error text. Ends every phase that may fail on one rank only, so that no rank walks
 * alone into a collective. */
sy_status sy_comm_agree(sy_comm *comm, sy_status mine);

#endif
