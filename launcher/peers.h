/* The front end's connections to the ranks of its own host. */
#ifndef SY_LAUNCHER_PEERS_H
#define SY_LAUNCHER_PEERS_H

#include <stdbool.h>

#include "launcher/frames.h"

typedef struct sy_peer {
    int fd;         /* -1: closed */
    int pidfd;      /* names the process even when its number is used again; -1: unknown */
    int rank;       /* -1 before the hello */
    bool backlog;   /* may hold frames that were left unread while stdout was full */
    bool last_word; /* its STATUS frame has come */
    sy_frame_reader *reader;
} sy_peer;

typedef struct sy_peers {
    char where[2 * SY_TOKEN_CHARS + 2]; /* value of SY_FRONTEND_VARIABLE */
    int listener;
    sy_peer *peer;
    int n, capacity;
    bool stdout_is_terminal; /* told to the ranks */
} sy_peers;

/* Listens under a new random name. */
sy_status sy_peers_open(sy_peers *peers, bool stdout_is_terminal);
void sy_peers_close(sy_peers *peers);

/* Takes one waiting connection; a stranger is turned away. */
void sy_peers_accept(sy_peers *peers);

/* The next frame of a peer. Its hello is answered here and not seen by the caller. */
sy_frame_result sy_peers_receive(sy_peers *peers, sy_peer *peer, sy_frame *frame);
/* Closes a connection; the process can still be killed. */
void sy_peers_drop(sy_peer *peer);

/* Sends to all ranks that are connected. */
void sy_peers_send_all(sy_peers *peers, sy_frame_type type);
/* SIGKILL to every rank that ever said hello and still lives. */
void sy_peers_kill(sy_peers *peers);
int sy_peers_connected(const sy_peers *peers);
/* Whether a rank is connected; those of other hosts never are. */
bool sy_peers_have(const sy_peers *peers, int rank);

#endif
