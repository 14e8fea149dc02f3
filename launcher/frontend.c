#include "launcher/frontend.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "launcher/ending.h"
#include "launcher/mpirun.h"
#include "launcher/peers.h"
#include "launcher/streams.h"
#include "launcher/terminal.h"

/* Seconds. */
static const double ASKED_LIMIT = 5;  /* ranks asked to end by Ctrl-C                   */
static const double TERM_LIMIT = 6;   /* mpirun asked to end: up to 4 on several hosts  */
static const double FAILED_LIMIT = 5; /* the others, after a rank said why it ends      */
static const double LOST_LIMIT = 3;   /* all, after a rank went without a word          */
static const double DONE_LIMIT = 15;  /* all, after rank 0 said that the work is done   */
static const double DRAIN_LIMIT = 1;  /* what is still in pipes after mpirun's end      */

typedef enum stage { RUNNING, ASKED, TERMINATED, KILLED, DRAINING } stage;

typedef struct frontend {
    const sy_options *options;
    int signals; /* signalfd */
    sigset_t signals_before;
    sy_peers peers;
    sy_mpirun mpirun;
    bool mpirun_runs;
    sy_streams streams;
    sy_ending ending;
    stage stage;
    int64_t limit_ns; /* when the stage is over; INT64_MAX: no limit */
} frontend;

bool sy_frontend_wanted(const sy_options *options) {
    if (options->topo_load != NULL) return false; /* no rank is needed to look at a file */
    return options->n_ranks > 1 || options->hosts != NULL || options->hostfile != NULL;
}

/* ---- how it ends ---- */

static void limit_stage(frontend *fe, double seconds) {
    int64_t at = sy_now_ns() + (int64_t)(seconds * 1e9);
    if (at < fe->limit_ns) fe->limit_ns = at;
}

static void enter_stage(frontend *fe, stage next, double seconds) {
    fe->stage = next;
    fe->limit_ns = INT64_MAX;
    limit_stage(fe, seconds);
}

static void terminate(frontend *fe) {
    if (fe->mpirun_runs) kill(fe->mpirun.pid, SIGTERM);
    enter_stage(fe, TERMINATED, TERM_LIMIT);
}

static void kill_all(frontend *fe) {
    sy_peers_kill(&fe->peers);
    if (fe->mpirun_runs) kill(fe->mpirun.pid, SIGKILL);
    sy_streams_discard(&fe->streams);
    enter_stage(fe, KILLED, TERM_LIMIT);
}

/* Nothing more is to come, but for a rank's last results that a slow stdout has not taken yet. */
static void stop_listening(frontend *fe) {
    sy_peers_kill(&fe->peers);
    for (int i = 0; i < fe->peers.n; i++) {
        if (sy_streams_full(&fe->streams, fe->peers.peer[i].fd))
            limit_stage(fe, DRAIN_LIMIT);
        else
            sy_peers_drop(&fe->peers.peer[i]);
    }
    sy_streams_close_mpirun(&fe->streams);
}

static void on_limit(frontend *fe) {
    switch (fe->stage) {
    case RUNNING:
        sy_ending_overdue(&fe->ending, fe->options->start_limit);
        terminate(fe);
        break;
    case ASKED:
        terminate(fe);
        break;
    case TERMINATED:
        kill_all(fe);
        break;
    case KILLED:
    case DRAINING:
        stop_listening(fe);
        break;
    }
}

/* ---- signals ---- */

static void on_interrupt(frontend *fe) {
    sy_ending_interrupted(&fe->ending);
    if (fe->stage == RUNNING && fe->ending.started && sy_peers_have(&fe->peers, 0)) {
        sy_peers_send_all(&fe->peers, SY_FRAME_STOP);
        enter_stage(fe, ASKED, ASKED_LIMIT);
    } else if (fe->stage == RUNNING) {
        terminate(fe); /* also where rank 0, which decides, sits on another host */
    } else {
        /* The user insists. mpirun still gets its chance to tidy up. */
        sy_peers_kill(&fe->peers);
        sy_streams_discard(&fe->streams);
        if (fe->stage == ASKED) terminate(fe);
    }
}

/* Ctrl-Z stops the ranks, then this process; the time until `fg` counts for no limit. */
static void stop_until_continued(frontend *fe) {
    sy_bar_clear(&fe->streams.bar);
    int64_t before = sy_now_ns();
    if (fe->mpirun_runs) kill(fe->mpirun.pid, SIGTSTP);
    raise(SIGSTOP);
    if (fe->limit_ns != INT64_MAX) fe->limit_ns += sy_now_ns() - before;
}

static void reap(frontend *fe) {
    int status;
    if (!fe->mpirun_runs || waitpid(fe->mpirun.pid, &status, WNOHANG) != fe->mpirun.pid) return;
    fe->mpirun_runs = false;
    sy_ending_mpirun(&fe->ending, status);
    enter_stage(fe, DRAINING, DRAIN_LIMIT);
}

static void on_signals(frontend *fe) {
    struct signalfd_siginfo info;
    while (read(fe->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        switch (info.ssi_signo) {
        case SIGINT:
        case SIGTERM:
        case SIGHUP:
            on_interrupt(fe);
            break;
        case SIGTSTP:
            stop_until_continued(fe);
            break;
        case SIGCONT:
            if (fe->mpirun_runs) kill(fe->mpirun.pid, SIGCONT);
            break;
        default: /* SIGCHLD */
            reap(fe);
            break;
        }
    }
}

static sy_status take_signals(frontend *fe) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGTSTP, SIGCONT, SIGCHLD};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct sigaction action;
        bool ignored =
            sigaction(numbers[i], NULL, &action) == 0 && action.sa_handler == SIG_IGN;
        if (!ignored) sigaddset(&set, numbers[i]);
    }
    signal(SIGCHLD, SIG_DFL);
    sigaddset(&set, SIGCHLD);
    signal(SIGPIPE, SIG_IGN);
    sigprocmask(SIG_BLOCK, &set, &fe->signals_before);
    fe->signals = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return fe->signals >= 0 ? SY_OK : sy_fail(SY_ERR_IO, "signalfd: %s", strerror(errno));
}

/* ---- frames of the ranks ---- */

static void on_status(frontend *fe, sy_peer *peer, const sy_frame *frame) {
    int32_t code;
    if (frame->n < sizeof code) return;
    memcpy(&code, frame->data, sizeof code);
    peer->last_word = true;
    sy_ending_status(&fe->ending, code, frame->data + sizeof code, frame->n - sizeof code);
    if (fe->stage != RUNNING) return;
    if (code != SY_OK)
        limit_stage(fe, FAILED_LIMIT);
    else if (peer->rank == 0)
        limit_stage(fe, DONE_LIMIT);
}

static void on_started(frontend *fe) {
    if (fe->ending.started) return;
    fe->ending.started = true;
    if (fe->stage == RUNNING) fe->limit_ns = INT64_MAX;
}

static void on_frame(frontend *fe, sy_peer *peer, const sy_frame *frame) {
    switch (frame->type) {
    case SY_FRAME_STARTED:
        on_started(fe);
        break;
    case SY_FRAME_RESULT:
        sy_streams_result(&fe->streams, peer->fd, frame->data, frame->n);
        break;
    case SY_FRAME_FLUSH:
        sy_streams_flush(&fe->streams, peer->fd);
        break;
    case SY_FRAME_READ:
        sy_streams_want_input(&fe->streams, peer->fd, frame->data, frame->n);
        break;
    case SY_FRAME_LOG:
        sy_streams_log(&fe->streams, frame->data, frame->n);
        break;
    case SY_FRAME_PROGRESS:
        sy_streams_progress(&fe->streams, frame->data, frame->n);
        break;
    case SY_FRAME_STATUS:
        on_status(fe, peer, frame);
        break;
    default: /* not a rank's to say */
        break;
    }
}

static void on_peer(frontend *fe, sy_peer *peer) {
    sy_frame frame;
    for (;;) {
        /* While stdout is full, whoever fills it has to wait. */
        peer->backlog = sy_streams_full(&fe->streams, peer->fd);
        if (peer->backlog) return;
        sy_frame_result result = sy_peers_receive(&fe->peers, peer, &frame);
        if (result == SY_FRAME_NONE) return;
        if (result == SY_FRAME_CLOSED) break;
        on_frame(fe, peer, &frame);
    }
    sy_streams_forget(&fe->streams, peer->fd);
    sy_peers_drop(peer);
    if (peer->rank < 0 || peer->last_word) return;
    sy_ending_lost(&fe->ending, peer->rank);
    if (fe->stage == RUNNING) limit_stage(fe, LOST_LIMIT);
}

/* ---- what mpirun prints ---- */

static void on_mpirun_line(void *context, const char *line) {
    frontend *fe = context;
    switch (sy_ending_line(&fe->ending, line, fe->peers.where + SY_TOKEN_CHARS + 1)) {
    case SY_ENDING_STARTED:
        on_started(fe);
        break;
    case SY_ENDING_FAILED:
        if (fe->stage == RUNNING) limit_stage(fe, FAILED_LIMIT);
        break;
    case SY_ENDING_SHOW:
        sy_streams_line(&fe->streams, line);
        break;
    case SY_ENDING_KEPT:
        if (fe->options->verbose) sy_streams_line(&fe->streams, line);
        break;
    }
}

/* ---- the loop ---- */

enum { P_SIGNALS, P_LISTENER, P_OUT, P_ERR, P_STDOUT, P_STDIN, P_PEERS };

/* Frames that were read from the socket before, and that stdout has room for again. */
static bool has_work(const frontend *fe, const sy_peer *peer) {
    return peer->fd >= 0 && peer->backlog && !sy_streams_full(&fe->streams, peer->fd);
}

static int milliseconds_left(const frontend *fe) {
    for (int i = 0; i < fe->peers.n; i++)
        if (has_work(fe, &fe->peers.peer[i])) return 0;
    if (fe->limit_ns == INT64_MAX) return -1;
    int64_t left = fe->limit_ns - sy_now_ns();
    return left <= 0 ? 0 : (int)(left / 1000000) + 1;
}

static sy_status wait_for_events(frontend *fe, struct pollfd **polls, int *capacity) {
    int n = P_PEERS + fe->peers.n;
    if (n > *capacity) {
        struct pollfd *more = realloc(*polls, (size_t)n * 2 * sizeof *more);
        if (more == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for %d ranks", fe->peers.n);
        *polls = more;
        *capacity = 2 * n;
    }
    struct pollfd *p = *polls;
    const sy_streams *s = &fe->streams;
    bool full = sy_streams_full(s, -1);
    p[P_SIGNALS] = (struct pollfd){fe->signals, POLLIN, 0};
    p[P_LISTENER] = (struct pollfd){fe->peers.listener, POLLIN, 0};
    p[P_OUT] = (struct pollfd){full ? -1 : s->mpirun_out, POLLIN, 0};
    p[P_ERR] = (struct pollfd){s->mpirun_err, POLLIN, 0};
    p[P_STDOUT] = (struct pollfd){sy_streams_pending(s) ? STDOUT_FILENO : -1, POLLOUT, 0};
    p[P_STDIN] = (struct pollfd){s->input_peer >= 0 ? STDIN_FILENO : -1, POLLIN, 0};
    for (int i = 0; i < fe->peers.n; i++) {
        int fd = fe->peers.peer[i].fd;
        p[P_PEERS + i] = (struct pollfd){sy_streams_full(s, fd) ? -1 : fd, POLLIN, 0};
    }
    if (poll(p, (nfds_t)n, milliseconds_left(fe)) < 0 && errno != EINTR)
        return sy_fail(SY_ERR_INTERNAL, "poll: %s", strerror(errno));
    return SY_OK;
}

static void handle_events(frontend *fe, const struct pollfd *p) {
    int n_peers = fe->peers.n; /* as polled */
    if (p[P_STDOUT].revents != 0) sy_streams_write(&fe->streams);
    if (p[P_STDIN].revents != 0) sy_streams_read_input(&fe->streams);
    for (int i = 0; i < n_peers; i++)
        if (p[P_PEERS + i].revents != 0 || has_work(fe, &fe->peers.peer[i]))
            on_peer(fe, &fe->peers.peer[i]);
    if (p[P_OUT].revents != 0) sy_streams_read_out(&fe->streams);
    if (p[P_ERR].revents != 0) sy_streams_read_err(&fe->streams, on_mpirun_line, fe);
    if (p[P_LISTENER].revents != 0) sy_peers_accept(&fe->peers);
    if (p[P_SIGNALS].revents != 0) on_signals(fe);
    if (fe->limit_ns <= sy_now_ns()) {
        fe->limit_ns = INT64_MAX;
        on_limit(fe);
    }
}

static bool all_over(const frontend *fe) {
    return !fe->mpirun_runs && fe->streams.mpirun_out < 0 && fe->streams.mpirun_err < 0 &&
           sy_peers_connected(&fe->peers) == 0 && !sy_streams_pending(&fe->streams);
}

static sy_status serve(frontend *fe) {
    sy_status st = SY_OK;
    struct pollfd *polls = NULL;
    int capacity = 0;
    limit_stage(fe, fe->options->start_limit);
    while (!all_over(fe)) {
        SY_TRY(wait_for_events(fe, &polls, &capacity));
        handle_events(fe, polls);
    }
done:
    free(polls);
    return st;
}

/* mpirun's own words about a hostfile that it cannot read speak of an internal error. */
static sy_status check_hostfile(const char *path) {
    struct stat info;
    if (path == NULL) return SY_OK;
    if (access(path, R_OK) != 0 || stat(path, &info) != 0)
        return sy_fail(SY_ERR_IO, "--hostfile %s: %s", path, strerror(errno));
    if (S_ISDIR(info.st_mode))
        return sy_fail(SY_ERR_IO, "--hostfile %s: %s", path, strerror(EISDIR));
    return SY_OK;
}

static sy_status check_request(sy_options *options) {
    int slots;
    sy_status st = check_hostfile(options->hostfile);
    if (st == SY_OK) st = sy_mpirun_slots(options->hosts, &slots);
    if (st != SY_OK || slots == 0) return st;
    if (options->n_ranks > slots)
        return sy_fail(SY_ERR_USAGE, "-n %d: --hosts has room for %d ranks", options->n_ranks,
                       slots);
    if (options->n_ranks == 0) options->n_ranks = slots;
    return SY_OK;
}

sy_status sy_frontend_run(const sy_options *given) {
    sy_status st = SY_OK;
    sy_options options = *given; /* with the ranks that --hosts implies */
    frontend fe = {
        .options = &options, .signals = -1, .peers = {.listener = -1}, .limit_ns = INT64_MAX};
    sigprocmask(SIG_BLOCK, NULL, &fe.signals_before);
    sy_streams_init(&fe.streams, !options.quiet);
    SY_TRY(sy_ending_init(&fe.ending));
    SY_TRY(check_request(&options));
    SY_TRY(take_signals(&fe));
    SY_TRY(sy_peers_open(&fe.peers, isatty(STDOUT_FILENO)));
    SY_TRY(sy_mpirun_start(&options, fe.peers.where, &fe.mpirun));
    fe.mpirun_runs = true;
    sy_streams_attach_mpirun(&fe.streams, fe.mpirun.out, fe.mpirun.err);
    SY_TRY(serve(&fe));
    sy_bar_clear(&fe.streams.bar);
    st = sy_ending_verdict(&fe.ending, fe.streams.out_errno);
done:
    if (fe.mpirun_runs) { /* only after a failure of our own */
        sy_peers_kill(&fe.peers);
        kill(fe.mpirun.pid, SIGKILL);
        waitpid(fe.mpirun.pid, NULL, 0);
    }
    sy_peers_close(&fe.peers);
    sy_streams_free(&fe.streams);
    sy_ending_free(&fe.ending);
    if (fe.signals >= 0) close(fe.signals);
    sigprocmask(SIG_SETMASK, &fe.signals_before, NULL);
    return st;
}
