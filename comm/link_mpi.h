/* Inside comm/: messages of the exchange to ranks that share no memory, by MPI.
 *
 * For each peer and channel a receive into a worst-case buffer is posted ahead, so that a message
 * never waits in MPI's own memory and its size need not be known. Counts are in units of the
 * channel (a derived datatype), so a message may exceed 2^31 bytes. */
#ifndef SY_COMM_LINK_MPI_H
#define SY_COMM_LINK_MPI_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/comm.h"
#include "comm/link.h"

typedef struct sy_mpi_peers sy_mpi_peers;

/* Receive buffers for n peers; UINT64_MAX on overflow. */
uint64_t sy_mpi_peers_bytes(int n_peers, const sy_link_shape *shape);

/* Local, allocates, posts the first receives. is_peer [R]. All ranks of the world call it, also
 * those without such peers. */
sy_status sy_mpi_peers_create(sy_comm *comm,
                              const sy_link_shape *shape,
                              const bool *is_peer,
                              sy_mpi_peers **out);
void sy_mpi_peers_destroy(sy_mpi_peers *peers); /* NULL is fine */

sy_status sy_mpi_peers_send(sy_mpi_peers *peers,
                            sy_channel channel,
                            int rank,
                            const void *data,
                            uint64_t bytes);
/* *done: all messages of the channel have arrived and the own ones have left. */
sy_status sy_mpi_peers_test(sy_mpi_peers *peers, sy_channel channel, bool *done);
/* What a peer sent; after test said done. */
void sy_mpi_peers_message(const sy_mpi_peers *peers,
                          sy_channel channel,
                          int rank,
                          const void **data,
                          uint64_t *bytes);
/* Posts the receives of the next round. */
sy_status sy_mpi_peers_post(sy_mpi_peers *peers, sy_channel channel);

#endif
