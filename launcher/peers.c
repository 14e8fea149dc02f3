/* struct ucred, accept4 */
#define _GNU_SOURCE

#include "launcher/peers.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MAX_PEERS = 8192 };

static sy_status random_hex(char *out, size_t chars) {
    unsigned char bytes[SY_TOKEN_CHARS / 2];
    if (getrandom(bytes, sizeof bytes, 0) != (ssize_t)sizeof bytes)
        return sy_fail(SY_ERR_IO, "getrandom: %s", strerror(errno));
    for (size_t i = 0; i + 1 < chars; i += 2)
        snprintf(out + i, 3, "%02x", bytes[i / 2]);
    return SY_OK;
}

sy_status sy_peers_open(sy_peers *peers, bool stdout_is_terminal) {
    sy_status st = SY_OK;
    *peers = (sy_peers){.listener = -1, .stdout_is_terminal = stdout_is_terminal};
    SY_TRY(random_hex(peers->where, SY_TOKEN_CHARS));
    peers->where[SY_TOKEN_CHARS] = '.';
    SY_TRY(random_hex(peers->where + SY_TOKEN_CHARS + 1, SY_TOKEN_CHARS));
    struct sockaddr_un address;
    socklen_t length = sy_frame_address(peers->where, &address);
    peers->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (peers->listener < 0 ||
        bind(peers->listener, (struct sockaddr *)&address, length) != 0 ||
        listen(peers->listener, 256) != 0)
        SY_FAIL(SY_ERR_IO, "listening for the ranks: %s", strerror(errno));
done:
    if (st != SY_OK) sy_peers_close(peers);
    return st;
}

void sy_peers_drop(sy_peer *peer) {
    if (peer->fd >= 0) close(peer->fd);
    peer->fd = -1;
    free(peer->reader);
    peer->reader = NULL;
}

void sy_peers_close(sy_peers *peers) {
    for (int i = 0; i < peers->n; i++) {
        sy_peers_drop(&peers->peer[i]);
        if (peers->peer[i].pidfd >= 0) close(peers->peer[i].pidfd);
    }
    free(peers->peer);
    peers->peer = NULL;
    peers->n = peers->capacity = 0;
    if (peers->listener >= 0) close(peers->listener);
    peers->listener = -1;
}

static bool grow(sy_peers *peers) {
    if (peers->n < peers->capacity) return true;
    if (peers->n == MAX_PEERS) return false;
    int capacity = 2 * peers->capacity + 16;
    sy_peer *more = realloc(peers->peer, (size_t)capacity * sizeof *more);
    if (more == NULL) return false;
    peers->peer = more;
    peers->capacity = capacity;
    return true;
}

void sy_peers_accept(sy_peers *peers) {
    int fd = accept4(peers->listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) return;
    struct ucred other;
    socklen_t size = sizeof other;
    sy_frame_reader *reader = NULL;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &other, &size) == 0 && other.uid == geteuid() &&
        grow(peers))
        reader = calloc(1, sizeof *reader);
    if (reader == NULL) {
        close(fd);
        return;
    }
    int pidfd = (int)syscall(SYS_pidfd_open, other.pid, 0);
    peers->peer[peers->n++] = (sy_peer){.fd = fd, .pidfd = pidfd, .rank = -1, .reader = reader};
}

/* Compares all characters, whatever the first difference. */
static bool equal_tokens(const char *a, const char *b) {
    unsigned difference = 0;
    for (int i = 0; i < SY_TOKEN_CHARS; i++)
        difference |= (unsigned)(a[i] ^ b[i]);
    return difference == 0;
}

static bool take_hello(sy_peers *peers, sy_peer *peer, const sy_frame *frame) {
    sy_frame_hello hello;
    if (frame->type != SY_FRAME_HELLO || frame->n != sizeof hello) return false;
    memcpy(&hello, frame->data, sizeof hello);
    if (!equal_tokens(hello.token, peers->where + SY_TOKEN_CHARS + 1)) return false;
    if (hello.rank < 0 || hello.rank >= MAX_PEERS) return false;
    for (int i = 0; i < peers->n; i++)
        if (peers->peer[i].rank == hello.rank) return false;
    peer->rank = hello.rank;
    char terminal = (char)peers->stdout_is_terminal;
    return sy_frame_send(peer->fd, SY_FRAME_WELCOME, &terminal, 1, NULL, 0, false);
}

sy_frame_result sy_peers_receive(sy_peers *peers, sy_peer *peer, sy_frame *frame) {
    sy_frame_result result = sy_frame_receive(peer->fd, peer->reader, false, frame);
    if (result != SY_FRAME_READY || peer->rank >= 0) return result;
    if (!take_hello(peers, peer, frame)) {
        if (peer->pidfd >= 0) close(peer->pidfd);
        peer->pidfd = -1; /* not one of ours: not to be killed */
        peer->rank = -1;
        return SY_FRAME_CLOSED;
    }
    return SY_FRAME_NONE;
}

void sy_peers_send_all(sy_peers *peers, sy_frame_type type) {
    for (int i = 0; i < peers->n; i++) {
        sy_peer *peer = &peers->peer[i];
        if (peer->fd >= 0 && peer->rank >= 0)
            (void)sy_frame_send(peer->fd, type, NULL, 0, NULL, 0, false);
    }
}

void sy_peers_kill(sy_peers *peers) {
    for (int i = 0; i < peers->n; i++) {
        const sy_peer *peer = &peers->peer[i];
        if (peer->rank >= 0 && peer->pidfd >= 0)
            syscall(SYS_pidfd_send_signal, peer->pidfd, SIGKILL, NULL, 0);
    }
}

bool sy_peers_have(const sy_peers *peers, int rank) {
    for (int i = 0; i < peers->n; i++)
        if (peers->peer[i].fd >= 0 && peers->peer[i].rank == rank) return true;
    return false;
}

int sy_peers_connected(const sy_peers *peers) {
    int n = 0;
    for (int i = 0; i < peers->n; i++)
        n += peers->peer[i].fd >= 0;
    return n;
}
