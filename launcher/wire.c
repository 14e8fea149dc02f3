/* struct ucred */
#define _GNU_SOURCE

#include "launcher/wire.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "launcher/signals.h"

enum { WELCOME_SECONDS = 10, ORPHAN_SECONDS = 3 };

struct sy_wire {
    int fd;
    bool stdout_is_terminal;
    pthread_t thread;
    pthread_mutex_t send_lock; /* frames are sent whole */
    pthread_mutex_t lock;      /* of all below */
    pthread_cond_t changed;
    bool closing; /* we leave by ourselves */
    bool gone;    /* the front end is */
    int out_errno;
    bool flushed, data_ready;
    int data_errno;
    size_t data_n;
    char data[SY_FRAME_MAX];
    sy_frame_reader reader; /* of the side thread */
};

static void on_frame(sy_wire *wire, const sy_frame *frame) {
    int32_t number = 0;
    bool has_number = frame->n >= sizeof number;
    if (has_number) memcpy(&number, frame->data, sizeof number);
    switch (frame->type) {
    case SY_FRAME_STOP:
        sy_signals_interrupt();
        break;
    case SY_FRAME_FLUSHED:
        wire->flushed = true;
        break;
    case SY_FRAME_OUT_FAILED:
        if (has_number) wire->out_errno = number;
        break;
    case SY_FRAME_DATA:
        if (!has_number) break;
        wire->data_errno = number;
        wire->data_n = frame->n - sizeof number;
        memcpy(wire->data, frame->data + sizeof number, wire->data_n);
        wire->data_ready = true;
        break;
    default: /* not for us */
        break;
    }
    pthread_cond_broadcast(&wire->changed);
}

/* The process that started this rank is gone and can end nothing any more. */
static void end_orphan(void) {
    sy_signals_interrupt();
    struct timespec left = {ORPHAN_SECONDS, 0};
    while (nanosleep(&left, &left) != 0 && errno == EINTR)
        continue;
    _exit(sy_status_exit_code(SY_ERR_INTERRUPTED));
}

static void *listen_to_front_end(void *arg) {
    sy_wire *wire = arg;
    sy_frame frame;
    sy_frame_result result;
    while ((result = sy_frame_receive(wire->fd, &wire->reader, true, &frame)) !=
           SY_FRAME_CLOSED) {
        if (result != SY_FRAME_READY) continue;
        pthread_mutex_lock(&wire->lock);
        on_frame(wire, &frame);
        pthread_mutex_unlock(&wire->lock);
    }
    pthread_mutex_lock(&wire->lock);
    bool orphan = !wire->closing;
    wire->gone = true;
    pthread_cond_broadcast(&wire->changed);
    pthread_mutex_unlock(&wire->lock);
    if (orphan) end_orphan();
    return NULL;
}

/* -1 if nobody listens here. */
static int connect_to(const char *name) {
    struct sockaddr_un address;
    socklen_t length = sy_frame_address(name, &address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    struct ucred peer;
    socklen_t peer_size = sizeof peer;
    bool ours = connect(fd, (struct sockaddr *)&address, length) == 0 &&
                getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &peer_size) == 0 &&
                peer.uid == geteuid();
    if (ours) return fd;
    close(fd);
    return -1;
}

/* Sends the hello and waits for the answer, which comes at once from a front end that lives. */
static sy_status greet(sy_wire *wire, const char *token, int rank) {
    sy_frame_hello hello = {.rank = rank};
    memcpy(hello.token, token, sizeof hello.token);
    struct timeval limit = {WELCOME_SECONDS, 0}, none = {0, 0};
    setsockopt(wire->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    sy_frame frame = {0};
    bool sent = sy_frame_send(wire->fd, SY_FRAME_HELLO, &hello, sizeof hello, NULL, 0, true);
    if (!sent || sy_frame_receive(wire->fd, &wire->reader, true, &frame) != SY_FRAME_READY ||
        frame.type != SY_FRAME_WELCOME || frame.n != 1)
        return sy_fail(SY_ERR_COMM, "the front end does not answer on its socket");
    wire->stdout_is_terminal = frame.data[0] != 0;
    setsockopt(wire->fd, SOL_SOCKET, SO_RCVTIMEO, &none, sizeof none);
    return SY_OK;
}

/* Signals go to the main thread. */
static sy_status start_listening(sy_wire *wire) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&wire->thread, NULL, listen_to_front_end, wire);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error != 0) return sy_fail(SY_ERR_MEMORY, "starting a thread: %s", strerror(error));
    return SY_OK;
}

sy_status sy_wire_open(const char *where, int rank, sy_wire **out) {
    sy_status st = SY_OK;
    sy_wire *wire = NULL;
    *out = NULL;
    if (strlen(where) != 2 * SY_TOKEN_CHARS + 1 || where[SY_TOKEN_CHARS] != '.')
        SY_FAIL(SY_ERR_USAGE, "%s in the environment is malformed", SY_FRONTEND_VARIABLE);
    int fd = connect_to(where);
    if (fd < 0) goto done;
    wire = calloc(1, sizeof *wire);
    if (wire == NULL) {
        close(fd);
        SY_FAIL(SY_ERR_MEMORY, "no memory for the connection to the front end");
    }
    wire->fd = fd;
    pthread_mutex_init(&wire->send_lock, NULL);
    pthread_mutex_init(&wire->lock, NULL);
    pthread_cond_init(&wire->changed, NULL);
    SY_TRY(greet(wire, where + SY_TOKEN_CHARS + 1, rank));
    SY_TRY(start_listening(wire));
    *out = wire;
    wire = NULL;
done:
    if (wire != NULL) {
        close(wire->fd);
        free(wire);
    }
    return st;
}

void sy_wire_close(sy_wire *wire) {
    if (wire == NULL) return;
    pthread_mutex_lock(&wire->lock);
    wire->closing = true;
    pthread_mutex_unlock(&wire->lock);
    shutdown(wire->fd, SHUT_RDWR); /* what was sent is still delivered */
    pthread_join(wire->thread, NULL);
    close(wire->fd);
    pthread_cond_destroy(&wire->changed);
    pthread_mutex_destroy(&wire->lock);
    pthread_mutex_destroy(&wire->send_lock);
    free(wire);
}

void sy_wire_send(sy_wire *wire,
                  sy_frame_type type,
                  const void *part1,
                  size_t n1,
                  const void *part2,
                  size_t n2) {
    pthread_mutex_lock(&wire->send_lock);
    /* A failure means that the front end is gone, which the side thread sees as well. */
    (void)sy_frame_send(wire->fd, type, part1, n1, part2, n2, true);
    pthread_mutex_unlock(&wire->send_lock);
}

bool sy_wire_send_urgent(sy_wire *wire,
                         sy_frame_type type,
                         const void *part1,
                         size_t n1,
                         const void *part2,
                         size_t n2) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 500000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    if (pthread_mutex_timedlock(&wire->send_lock, &until) != 0) return false;
    bool sent = sy_frame_send(wire->fd, type, part1, n1, part2, n2, false);
    pthread_mutex_unlock(&wire->send_lock);
    return sent;
}

static sy_status out_status(int number) {
    if (number == 0) return SY_OK;
    return sy_fail(SY_ERR_IO, "writing to stdout: %s", strerror(number));
}

/* Waits for *answer, with the lock held. */
static sy_status await(sy_wire *wire, const bool *answer) {
    while (!*answer) {
        if (wire->gone) return sy_fail(SY_ERR_INTERRUPTED, "the front end is gone");
        if (sy_signals_interrupted()) return sy_fail(SY_ERR_INTERRUPTED, "interrupted");
        /* A signal to this process sets the flag without waking us, so look up now and then. */
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        pthread_cond_timedwait(&wire->changed, &wire->lock, &until);
    }
    return SY_OK;
}

sy_status sy_wire_flush(sy_wire *wire) {
    pthread_mutex_lock(&wire->lock);
    wire->flushed = false;
    pthread_mutex_unlock(&wire->lock);
    sy_wire_send(wire, SY_FRAME_FLUSH, NULL, 0, NULL, 0);
    pthread_mutex_lock(&wire->lock);
    sy_status st = await(wire, &wire->flushed);
    if (wire->out_errno != 0) st = out_status(wire->out_errno);
    pthread_mutex_unlock(&wire->lock);
    return st;
}

sy_status sy_wire_check(sy_wire *wire) {
    pthread_mutex_lock(&wire->lock);
    int number = wire->out_errno;
    pthread_mutex_unlock(&wire->lock);
    return out_status(number);
}

sy_status sy_wire_read(sy_wire *wire, char *buffer, size_t max, size_t *n) {
    uint32_t want = max < SY_FRAME_MAX - sizeof(int32_t)
                        ? (uint32_t)max
                        : (uint32_t)(SY_FRAME_MAX - sizeof(int32_t));
    *n = 0;
    pthread_mutex_lock(&wire->lock);
    wire->data_ready = false;
    pthread_mutex_unlock(&wire->lock);
    sy_wire_send(wire, SY_FRAME_READ, &want, sizeof want, NULL, 0);
    pthread_mutex_lock(&wire->lock);
    sy_status st = await(wire, &wire->data_ready);
    if (st == SY_OK && (wire->data_errno != 0 || wire->data_n > max))
        st = sy_fail(SY_ERR_IO, "reading stdin: %s",
                     strerror(wire->data_errno != 0 ? wire->data_errno : EPROTO));
    if (st == SY_OK) {
        memcpy(buffer, wire->data, wire->data_n);
        *n = wire->data_n;
    }
    pthread_mutex_unlock(&wire->lock);
    return st;
}

bool sy_wire_stdout_is_terminal(const sy_wire *wire) {
    return wire->stdout_is_terminal;
}
