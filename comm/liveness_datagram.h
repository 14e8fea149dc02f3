/* Inside comm/liveness: beats between hosts, as UDP datagrams over IPv4.
 *
 * Every rank sends to every rank that it shares no page with. It first sends to all addresses
 * that the other named over MPI, and to the one from which an answer came from then on: only the
 * network knows which of them can be reached. Each datagram carries a secret of the run. */
#ifndef SY_COMM_LIVENESS_DATAGRAM_H
#define SY_COMM_LIVENESS_DATAGRAM_H

#include <stdbool.h>
#include <stddef.h>

#include "comm/comm.h"
#include "comm/liveness_watch.h"

typedef struct sy_datagrams sy_datagrams;

/* Collective. far[R]: the ranks to talk to, symmetric. */
sy_status sy_datagrams_open(sy_comm *comm, const bool *far, sy_datagrams **out);
void sy_datagrams_close(sy_datagrams *d);
int sy_datagrams_fd(const sy_datagrams *d); /* for poll */

/* To all far ranks; a full buffer or a missing route loses it, as the network may. */
void sy_datagrams_send_beat(sy_datagrams *d, const sy_beat *beat);
/* This rank has reported a failure (or fails itself, having said so): all are to leave. */
void sy_datagrams_send_end(sy_datagrams *d);

typedef enum sy_datagram_kind {
    SY_DATAGRAM_NONE,
    SY_DATAGRAM_BEAT,
    SY_DATAGRAM_END
} sy_datagram_kind;
/* The next valid datagram, without waiting. */
sy_datagram_kind sy_datagrams_receive(sy_datagrams *d, int *rank, sy_beat *beat);

#endif
