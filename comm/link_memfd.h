/* Inside comm/: memory that the ranks of a host read in each other.
 *
 * Each rank creates one memfd, of fixed size by seals, and hands it to its host peers over
 * abstract-namespace unix sockets whose names travel by MPI: nothing has a name in a file
 * system, so nothing stays behind, and no limit of /dev/shm applies.
 *
 * Layout: a control page that peers may write, the publications of the owner (what it has sent
 * to whom), and the owner's block of each channel; the latter two are mapped read-only by peers.
 *
 * MEMORY ORDER. A sender writes the message, then offset and size of the publication, then its
 * round (release). It then adds one to the receiver's count of arrivals; the sender that
 * completes a round rings the receiver's bell, so that a sleeping receiver is woken once per
 * round and not once per peer. The receiver waits for the bell to show the round and reads each
 * publication's round (acquire), which makes everything before it visible: the message, and
 * also the fact that the sender has finished reading the other channel's messages. Each word has
 * one writer, the arrival counts aside; those are read-modify-writes (acquire-release), so the
 * ring of the last sender comes after the publications of all. */
#ifndef SY_COMM_LINK_MEMFD_H
#define SY_COMM_LINK_MEMFD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "base/wait.h"
#include "comm/comm.h"
#include "comm/link.h"

typedef struct sy_memfd_group sy_memfd_group;

/* Bytes of a rank's memfd; UINT64_MAX on overflow. */
uint64_t sy_memfd_bytes(int n_ranks, const sy_link_shape *shape);

/* Collective. Success does not mean that every peer is in the group: where memory cannot be
 * shared the reason is logged and sy_memfd_has says so, alike on both sides of a pair. */
sy_status sy_memfd_create(sy_comm *comm, const sy_link_shape *shape, sy_memfd_group **out);
void sy_memfd_destroy(sy_memfd_group *group); /* NULL is fine */

bool sy_memfd_has(const sy_memfd_group *group, int peer); /* false for the own rank */
int sy_memfd_peers(const sy_memfd_group *group);

const void *sy_memfd_block(const sy_memfd_group *group, int rank, sy_channel channel);
/* The own block, to write; NULL if the rank has no peer in the group. */
void *sy_memfd_own_block(const sy_memfd_group *group, sy_channel channel);

/* Publishes bytes at an offset of the own block to a peer, as round number `round` (from 1). */
void sy_memfd_publish(sy_memfd_group *group,
                      sy_channel channel,
                      int peer,
                      uint64_t offset,
                      uint64_t bytes,
                      uint64_t round);
/* True once all peers have published the round. Sleeps for at most timeout_ns; 0 only looks. */
bool sy_memfd_arrived(sy_memfd_group *group,
                      sy_channel channel,
                      uint64_t round,
                      bool may_spin,
                      int64_t timeout_ns);
/* Where a peer's message of the round lies, checked against the size of its block. */
sy_status sy_memfd_message(const sy_memfd_group *group,
                           sy_channel channel,
                           int peer,
                           uint64_t round,
                           const void **data,
                           uint64_t *bytes);

/* The check itself: [offset, offset + bytes) lies within the block, in whole units. */
bool sy_memfd_extent_valid(uint64_t offset,
                           uint64_t bytes,
                           uint64_t block_bytes,
                           uint64_t message_bytes,
                           uint64_t unit_bytes);

#endif
