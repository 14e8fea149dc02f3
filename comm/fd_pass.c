#define _GNU_SOURCE /* SOCK_CLOEXEC, MSG_CMSG_CLOEXEC, getrandom */
#include "comm/fd_pass.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

#define TIME_LIMIT_NS ((int64_t)10 * 1000000000)
enum { RETRY_MS = 2 };

/* How a rank can be reached. Anyone on the host may write to an abstract socket, so a message
 * counts only if it carries the receiver's secret, which travels by MPI. */
typedef struct address {
    char name[40]; /* "" = no socket */
    uint64_t secret;
    int32_t sends; /* whether this rank has a descriptor to send */
    int32_t padding;
} address;

typedef struct greeting {
    uint64_t secret;
    int32_t rank;
    int32_t padding;
} greeting;

typedef union control_buffer {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
} control_buffer;

static socklen_t abstract_name(const char *name, struct sockaddr_un *out) {
    memset(out, 0, sizeof *out);
    out->sun_family = AF_UNIX;
    size_t n = strlen(name);
    memcpy(out->sun_path + 1, name, n); /* the leading NUL makes it abstract */
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n);
}

/* A bound datagram socket and its address; -1 with a warning if there is none to be had. */
static int open_socket(address *mine) {
    uint64_t random[3];
    struct sockaddr_un name;
    int sock = -1;
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random) goto fail;
    snprintf(mine->name, sizeof mine->name, "sy-%016llx%016llx", (unsigned long long)random[0],
             (unsigned long long)random[1]);
    mine->secret = random[2];
    sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (sock < 0) goto fail;
    if (bind(sock, (struct sockaddr *)&name, abstract_name(mine->name, &name)) != 0) goto fail;
    return sock;
fail:
    SY_WARN("no unix socket to share memory over: %s", strerror(errno));
    if (sock >= 0) close(sock);
    mine->name[0] = '\0';
    return -1;
}

/* 1 sent, 0 try again, -1 cannot be reached. */
static int send_fd(int sock, const address *to, int rank, int fd) {
    greeting hello = {to->secret, rank, 0};
    struct iovec data = {&hello, sizeof hello};
    struct sockaddr_un name;
    control_buffer control;
    memset(&control, 0, sizeof control);
    struct msghdr message = {.msg_name = &name,
                             .msg_namelen = abstract_name(to->name, &name),
                             .msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    if (sendmsg(sock, &message, MSG_NOSIGNAL) == (ssize_t)sizeof hello) return 1;
    /* The receiver's queue is short (ten messages): full is no failure. */
    return errno == EAGAIN || errno == EINTR || errno == ENOBUFS ? 0 : -1;
}

/* Where this rank stands with each other rank. */
typedef struct exchange_state {
    bool to_send, to_receive;
} exchange_state;

/* Takes one message; false if there was none. */
static bool
take_fd(int sock, uint64_t secret, int n_ranks, exchange_state *state, int *received) {
    greeting hello;
    struct iovec data = {&hello, sizeof hello};
    control_buffer control;
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(sock, &message, MSG_CMSG_CLOEXEC);
    if (n < 0) return errno == EINTR;
    int fd = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c != NULL; c = CMSG_NXTHDR(&message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        /* Padding leaves room for a second descriptor; a stranger's must not stay open. */
        for (size_t at = 0; CMSG_LEN(at + sizeof fd) <= c->cmsg_len; at += sizeof fd) {
            if (fd >= 0) close(fd);
            memcpy(&fd, CMSG_DATA(c) + at, sizeof fd);
        }
    }
    bool expected = n == (ssize_t)sizeof hello && hello.secret == secret && hello.rank >= 0 &&
                    hello.rank < n_ranks && state[hello.rank].to_receive;
    if (expected && fd >= 0) {
        received[hello.rank] = fd;
        state[hello.rank].to_receive = false;
    } else if (fd >= 0) {
        close(fd);
    }
    return true;
}

static bool any_left(const exchange_state *state, int n) {
    for (int r = 0; r < n; r++)
        if (state[r].to_send || state[r].to_receive) return true;
    return false;
}

/* Sends and takes in turns, since with many ranks a queue may be full until its owner reads. */
static void pass_all(const sy_comm *comm,
                     int sock,
                     int fd,
                     const address *card,
                     exchange_state *state,
                     int *received) {
    int rank = sy_comm_rank(comm), size = sy_comm_size(comm);
    int64_t limit = sy_now_ns() + TIME_LIMIT_NS;
    while (any_left(state, size) && sy_now_ns() < limit) {
        for (int r = 0; r < size; r++) {
            if (!state[r].to_send) continue;
            int sent = send_fd(sock, &card[r], rank, fd);
            if (sent != 0) state[r].to_send = false;
            if (sent >= 0) continue;
            SY_WARN("memory cannot be shared with rank %d: %s", r, strerror(errno));
            state[r].to_receive = false; /* one direction alone is of no use */
        }
        bool any = false;
        while (take_fd(sock, card[rank].secret, size, state, received))
            any = true;
        struct pollfd wait = {.fd = sock, .events = POLLIN};
        if (!any && any_left(state, size)) poll(&wait, 1, RETRY_MS);
    }
}

sy_status sy_fd_pass(sy_comm *comm, int fd, const bool *wanted, int *received) {
    sy_status st = SY_OK;
    int size = sy_comm_size(comm), sock = -1;
    address mine, *card = NULL;
    exchange_state *state = NULL;
    memset(&mine, 0, sizeof mine);
    for (int r = 0; r < size; r++)
        received[r] = -1;
    SY_TRY(sy_mem_alloc(&card, (uint64_t)size * sizeof *card, "addresses"));
    SY_TRY(sy_mem_alloc(&state, (uint64_t)size * sizeof *state, "addresses"));
    sock = open_socket(&mine);
    mine.sends = sock >= 0 && fd >= 0;
    SY_TRY(sy_comm_all_gather(comm, &mine, sizeof mine, card));
    for (int r = 0; r < size; r++) {
        card[r].name[sizeof card[r].name - 1] = '\0';
        state[r].to_send = wanted[r] && fd >= 0 && card[r].name[0] != '\0';
        state[r].to_receive = wanted[r] && card[r].sends;
    }
    if (sock >= 0) pass_all(comm, sock, fd, card, state, received);
    /* A socket may close only when no peer is about to send to it. */
    SY_TRY(sy_comm_barrier(comm));
done:
    if (sock >= 0) close(sock);
    sy_mem_free(state, (uint64_t)size * sizeof *state);
    sy_mem_free(card, (uint64_t)size * sizeof *card);
    return st;
}
