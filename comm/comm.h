/* Ranks and hosts, and the few collectives that control needs.
 *
 * sy_comm_create is collective and wraps MPI_Init_thread (FUNNELED: only the thread that called
 * it may call this module). Where MPI runs already it is used, and left running in the end. A
 * process started without a launcher (mpirun, srun) is a world of one rank and does not touch
 * MPI at all. Ranks that share a host find each other through MPI's shared-memory split;
 * `virtual_hosts` splits them further, so that the path between hosts can be tested on one
 * machine.
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

/* Equal on all ranks, threads_per_rank aside. */
typedef struct sy_comm_options {
    int virtual_hosts; /* 0 = the real hosts; H >= 1 splits the ranks of each into H blocks */
    bool no_shared_memory; /* MPI between ranks of a host too */
    int threads_per_rank;  /* to know whether a waiter has a core of its own */
} sy_comm_options;

/* Collective. */
sy_status sy_comm_create(const sy_comm_options *options, sy_comm **out);
/* Collective over comm, 1 <= n <= its size: a communicator of ranks 0 .. n - 1, as if the others
 * had never been started; NULL on those. Destroyed before comm. */
sy_status sy_comm_create_first(sy_comm *comm, int n, sy_comm **out);
/* Local, never touches MPI: what rank `rank` of `size` would see on hosts of `ranks_per_host`
 * ranks each, for asking what it would need. No call below that is collective may be made. */
sy_status sy_comm_create_planned(int rank, int size, int ranks_per_host, sy_comm **out);
/* Collective on success paths; ends MPI. NULL is fine. */
void sy_comm_destroy(sy_comm *comm);
/* Ends MPI for all ranks after an error that the others may not know of; does not return. */
void sy_comm_abort(sy_comm *comm, int exit_code) __attribute__((noreturn));

int sy_comm_rank(const sy_comm *comm);
int sy_comm_size(const sy_comm *comm);
int sy_comm_host(const sy_comm *comm, int rank); /* index of the (virtual) host of a rank */
int sy_comm_n_hosts(const sy_comm *comm);
/* "node7"; "node7#1" for the second virtual host on it. */
const char *sy_comm_host_name(const sy_comm *comm, int rank);
/* True if the two ranks share a real machine, its memory and its cores, whatever virtual hosts
 * they are on; and how many ranks share rank's. */
bool sy_comm_same_machine(const sy_comm *comm, int rank_a, int rank_b);
int sy_comm_machine_size(const sy_comm *comm, int rank);
bool sy_comm_may_spin(const sy_comm *comm); /* ranks here x threads <= cores available here */
/* True if the two ranks may read each other's memory: same (virtual) host, and shared memory is
 * wanted. A rank shares memory with itself. */
bool sy_comm_shares_memory(const sy_comm *comm, int rank_a, int rank_b);

/* Collective; every rank passes the same byte count. gather and all_gather take at most
 * INT_MAX bytes per rank, broadcast any number. */
sy_status sy_comm_broadcast(sy_comm *comm, void *data, size_t bytes, int root);
sy_status sy_comm_gather(sy_comm *comm, const void *mine, size_t bytes, void *all, int root);
sy_status sy_comm_all_gather(sy_comm *comm, const void *mine, size_t bytes, void *all);
sy_status sy_comm_barrier(sy_comm *comm);

/* Collective: the worst status of all ranks, with that rank's text and number put into this
 * rank's error text. A fault that only reports a peer (SY_ERR_COMM, SY_ERR_PEER) yields to one
 * that names a cause; among equals the lowest rank speaks. Ends every phase that may fail on
 * one rank only, so that no rank walks alone into a collective. */
sy_status sy_comm_agree(sy_comm *comm, sy_status mine);

#endif
