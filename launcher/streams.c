#include "launcher/streams.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

void sy_streams_init(sy_streams *s, bool progress) {
    memset(s, 0, sizeof *s);
    sy_bar_init(&s->bar, progress);
    s->mpirun_out = s->mpirun_err = -1;
    s->out_peer = s->flush_peer = s->input_peer = -1;
}

void sy_streams_attach_mpirun(sy_streams *s, int out, int err) {
    s->mpirun_out = out;
    s->mpirun_err = err;
}

static void close_fd(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

void sy_streams_close_mpirun(sy_streams *s) {
    close_fd(&s->mpirun_out);
    close_fd(&s->mpirun_err);
}

void sy_streams_free(sy_streams *s) {
    sy_bar_clear(&s->bar);
    sy_streams_close_mpirun(s);
}

void sy_streams_forget(sy_streams *s, int peer) {
    if (s->out_peer == peer) s->out_peer = -1;
    if (s->flush_peer == peer) s->flush_peer = -1;
    if (s->input_peer == peer) s->input_peer = -1;
}

/* ---- stdout ---- */

bool sy_streams_pending(const sy_streams *s) {
    return s->out_begin < s->out_end;
}

bool sy_streams_full(const sy_streams *s, int peer) {
    return sy_streams_pending(s) && (peer == -1 || peer == s->out_peer);
}

void sy_streams_discard(sy_streams *s) {
    s->out_begin = s->out_end = 0;
}

static void tell_out_failed(const sy_streams *s, int peer) {
    int32_t number = s->out_errno;
    (void)sy_frame_send(peer, SY_FRAME_OUT_FAILED, &number, sizeof number, NULL, 0, false);
}

/* Called with nothing pending: see sy_streams_full. */
static void put(sy_streams *s, const char *data, size_t n) {
    if (s->out_errno != 0 || n > sizeof s->out) return;
    memcpy(s->out, data, n);
    s->out_begin = 0;
    s->out_end = n;
}

void sy_streams_result(sy_streams *s, int peer, const char *data, size_t n) {
    s->out_peer = peer;
    if (s->out_errno != 0) tell_out_failed(s, peer);
    put(s, data, n);
}

static void flushed(sy_streams *s) {
    if (s->flush_peer < 0) return;
    if (s->out_errno != 0) tell_out_failed(s, s->flush_peer);
    (void)sy_frame_send(s->flush_peer, SY_FRAME_FLUSHED, NULL, 0, NULL, 0, false);
    s->flush_peer = -1;
}

void sy_streams_flush(sy_streams *s, int peer) {
    s->flush_peer = peer;
    if (!sy_streams_pending(s)) flushed(s);
}

void sy_streams_write(sy_streams *s) {
    sy_bar_clear(&s->bar);
    size_t n = s->out_end - s->out_begin;
    if (n > PIPE_BUF) n = PIPE_BUF; /* a pipe that is writable takes so much at once */
    ssize_t done = n > 0 ? write(STDOUT_FILENO, s->out + s->out_begin, n) : 0;
    if (done < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (done < 0) {
        s->out_errno = errno;
        sy_streams_discard(s);
        if (s->out_peer >= 0) tell_out_failed(s, s->out_peer);
    } else {
        s->out_begin += (size_t)done;
    }
    if (!sy_streams_pending(s)) flushed(s);
}

void sy_streams_read_out(sy_streams *s) {
    char data[PIPE_BUF];
    ssize_t n = read(s->mpirun_out, data, sizeof data);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (n <= 0)
        close_fd(&s->mpirun_out);
    else
        put(s, data, (size_t)n);
}

/* ---- stdin ---- */

void sy_streams_want_input(sy_streams *s, int peer, const char *data, size_t n) {
    uint32_t max;
    if (n != sizeof max) return;
    memcpy(&max, data, sizeof max);
    s->input_peer = peer;
    s->input_max = max;
}

void sy_streams_read_input(sy_streams *s) {
    static const size_t most = SY_FRAME_MAX - sizeof(int32_t);
    char data[SY_FRAME_MAX];
    ssize_t n = read(STDIN_FILENO, data, s->input_max < most ? s->input_max : most);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    int32_t number = n < 0 ? errno : 0;
    (void)sy_frame_send(s->input_peer, SY_FRAME_DATA, &number, sizeof number, data,
                        n > 0 ? (size_t)n : 0, false);
    s->input_peer = -1;
}

/* ---- stderr ---- */

void sy_streams_line(sy_streams *s, const char *line) {
    sy_bar_clear(&s->bar);
    fprintf(stderr, "%s\n", line);
}

void sy_streams_log(sy_streams *s, const char *data, size_t n) {
    if (n < 1) return;
    sy_bar_clear(&s->bar);
    fprintf(stderr, "%s%.*s\n", data[0] == SY_LOG_WARNING ? "warning: " : "", (int)(n - 1),
            data + 1);
}

void sy_streams_progress(sy_streams *s, const char *data, size_t n) {
    double share;
    char text[512];
    if (n < sizeof share || n - sizeof share >= sizeof text) return;
    memcpy(&share, data, sizeof share);
    n -= sizeof share;
    memcpy(text, data + sizeof share, n);
    text[n] = '\0';
    size_t what = strlen(text);
    sy_bar_update(&s->bar, text, share, what < n ? text + what + 1 : "");
}

void sy_streams_read_err(sy_streams *s, sy_streams_on_line on_line, void *context) {
    char data[4096];
    ssize_t n = read(s->mpirun_err, data, sizeof data);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) return;
    bool end = n <= 0;
    for (ssize_t i = 0; i < n; i++) {
        bool newline = data[i] == '\n';
        if (!newline && data[i] != '\0') s->line[s->line_used++] = data[i];
        if (!newline && s->line_used < sizeof s->line - 1) continue;
        s->line[s->line_used] = '\0';
        s->line_used = 0;
        on_line(context, s->line);
    }
    if (!end) return;
    if (s->line_used > 0) {
        s->line[s->line_used] = '\0';
        s->line_used = 0;
        on_line(context, s->line);
    }
    close_fd(&s->mpirun_err);
}
