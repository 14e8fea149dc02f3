/* The transport behind the exchange: in every round, on each of two channels, every rank sends
 * exactly one message to every other rank, possibly an empty one.
 *
 * A rank owns one *shared block* per channel. A peer that shares memory with it (memfds, see
 * link_memfd.h) reads messages, and whatever else lies in the block, in place. To any other peer
 * a message travels by MPI, into a worst-case buffer whose receive was posted ahead.
 *
 * WHY NOTHING IS ACKNOWLEDGED. The channels are used strictly in turn: send DISPATCH i, receive
 * DISPATCH i from all, send COMBINE i, receive COMBINE i from all, send DISPATCH i + 1, ... A
 * rank sends COMBINE i after it has finished reading what came with DISPATCH i. So whoever has
 * received COMBINE i from all knows that all have read its block of DISPATCH i, and may write it
 * anew for DISPATCH i + 1; and whoever has received DISPATCH i + 1 from all may write its block
 * of COMBINE i + 1, since a rank sends DISPATCH i + 1 after it has read COMBINE i. The same holds
 * for the posted receives: a rank posts the next one (sy_link_release) before it sends on the
 * other channel, and only that lets its peers send again. The state of each channel is checked
 * at every call. */
#ifndef SY_COMM_LINK_H
#define SY_COMM_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/comm.h"

typedef enum sy_channel { SY_CHANNEL_DISPATCH, SY_CHANNEL_COMBINE, SY_CHANNELS } sy_channel;

typedef struct sy_link_shape {
    struct {
        uint64_t block_bytes;   /* own shared block */
        uint64_t message_bytes; /* the longest message to one peer */
        uint64_t unit_bytes;    /* messages are whole multiples of this; MPI counts in it */
    } channel[SY_CHANNELS];
    uint64_t identity; /* a hash of the shape's origin, equal on all ranks */
} sy_link_shape;

typedef struct sy_link sy_link;

/* Bytes on this rank: its blocks, and what it receives into. UINT64_MAX on overflow. Local. */
uint64_t sy_link_bytes(const sy_comm *comm, const sy_link_shape *shape);

/* Collective, allocates. */
sy_status sy_link_create(sy_comm *comm, const sy_link_shape *shape, sy_link **out);
/* Local, never waits for a peer. NULL is fine. */
void sy_link_destroy(sy_link *link);

/* True if the peer reads this rank's blocks in place, and this rank the peer's. */
bool sy_link_in_place(const sy_link *link, int peer);
/* The own block of a channel. */
void *sy_link_block(const sy_link *link, sy_channel channel);

/* Sends [data, data + bytes); data stays as it is until sy_link_wait. To a peer in place it
 * must lie in the channel's own block. One call per peer and round, none to this rank. */
sy_status
sy_link_send(sy_link *link, sy_channel channel, int peer, const void *data, uint64_t bytes);

/* Waits until this round's messages of all peers are here and the own ones have left. */
sy_status sy_link_wait(sy_link *link, sy_channel channel);

/* What a peer sent in this round: valid from wait to release. `block` is the peer's whole shared
 * block (block_bytes of it) if it is read in place, else NULL. */
typedef struct sy_link_message {
    const void *data;
    uint64_t bytes;
    const void *block;
} sy_link_message;
sy_status
sy_link_received(const sy_link *link, sy_channel channel, int peer, sy_link_message *out);

/* This round's messages have been read; the next ones may come. */
sy_status sy_link_release(sy_link *link, sy_channel channel);

#endif
