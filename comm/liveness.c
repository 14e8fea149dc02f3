#define _GNU_SOURCE /* eventfd's flags, ppoll */
#include "comm/liveness.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "comm/liveness_datagram.h"
#include "comm/liveness_page.h"
#include "comm/liveness_process.h"
#include "comm/liveness_watch.h"

#define MS ((int64_t)1000000)
/* A step: one beat, one look around. */
enum { BEATS_PER_DEADLINE = 20, STEP_MAX_MS = 250, LINE_CHARS = 320 };
/* How long the rank that was elected to report, or the others of its host, are waited for. */
enum { REPORTER_LIMIT_MS = 1500, HOST_TURN_MS = 50, LAST_TURN_MS = 500 };

/* Poll entries before those of the processes. */
enum { POLL_WAKE, POLL_DATAGRAMS, POLL_PROCESSES };

struct sy_liveness {
    sy_comm *comm;
    int me, n_ranks;
    int64_t step_ns;
    sy_liveness_report report;
    void *context;

    sy_page *page; /* NULL: no rank shares memory with this one */
    uint64_t page_bytes;
    int *position; /* [n_ranks] slot on the page, -1: far */
    sy_slot own;   /* where there is no page */
    sy_slot *mine;
    sy_datagrams *datagrams; /* NULL: no far ranks */
    bool *far;               /* [n_ranks] */
    sy_process *process;     /* [n_ranks], of the ranks on the page */
    struct pollfd *polls;    /* [POLL_PROCESSES + n_ranks] */

    /* of the side thread */
    sy_watch watch;
    bool ended_elsewhere; /* another host has reported */
    bool *warned;         /* [n_ranks]: never heard of, and said so */

    pthread_t thread;
    int wake; /* eventfd: the thread is to stop */
    bool started;
};

/* ---- what this rank shows ---- */

static void advance(sy_liveness *live) {
    /* The main thread is the only writer. */
    uint64_t n = atomic_load_explicit(&live->mine->progress, memory_order_relaxed);
    atomic_store_explicit(&live->mine->progress, n + 1, memory_order_release);
}

void sy_progress_phase(sy_liveness *live, const char *phase, double limit) {
    if (live == NULL) return;
    double ms = limit * 1000;
    uint32_t limit_ms = !(ms > 0) ? 0 : ms > 4e9 ? 4000000000u : (uint32_t)(ms + 0.5);
    sy_slot_set_phase(live->mine, phase);
    atomic_store_explicit(&live->mine->limit_ms, limit_ms, memory_order_relaxed);
    advance(live);
}

void sy_progress(sy_liveness *live) {
    if (live != NULL) advance(live);
}

void sy_progress_wait(sy_liveness *live) {
    if (live == NULL) return;
    advance(live);
    atomic_fetch_or(&live->mine->flags, SY_BEAT_WAITING);
}

void sy_progress_resume(sy_liveness *live) {
    if (live == NULL) return;
    advance(live);
    atomic_fetch_and(&live->mine->flags, ~(uint32_t)SY_BEAT_WAITING);
}

/* ---- what it sees ---- */

static void receive(sy_liveness *live) {
    int rank;
    sy_beat beat;
    sy_datagram_kind kind;
    if (live->datagrams == NULL) return;
    while ((kind = sy_datagrams_receive(live->datagrams, &rank, &beat)) != SY_DATAGRAM_NONE) {
        if (kind == SY_DATAGRAM_END)
            live->ended_elsewhere = true;
        else
            sy_watch_see(&live->watch, rank, &beat);
    }
}

/* A host that never answered is not watched; a firewall must not end a run that works. */
static void warn_of_silence(sy_liveness *live) {
    if (live->watch.now_ns < 2 * live->watch.deadline_ns) return;
    for (int r = 0; r < live->n_ranks; r++) {
        if (!live->far[r] || live->watch.rank[r].seen || live->warned[r]) continue;
        live->warned[r] = true;
        sy_log(
            SY_LOG_WARNING,
            "no UDP datagram from rank %d on host %s (a firewall?): this rank does not notice "
            "if it dies",
            r, sy_comm_host_name(live->comm, r));
    }
}

static void look_around(sy_liveness *live) {
    sy_beat beat;
    atomic_fetch_add(&live->mine->beat, 1);
    for (int r = 0; r < live->n_ranks; r++) {
        if (r == live->me) {
            sy_slot_read(live->mine, &beat);
        } else if (live->position[r] >= 0) {
            /* First whether it lives: a rank that left in order said so before it ended. */
            if (!sy_process_lives(&live->process[r])) sy_watch_gone(&live->watch, r);
            sy_slot_read(&live->page->slot[live->position[r]], &beat);
        } else {
            continue;
        }
        sy_watch_see(&live->watch, r, &beat);
        if (r == live->me && live->datagrams != NULL)
            sy_datagrams_send_beat(live->datagrams, &beat);
    }
    warn_of_silence(live);
}

/* ---- the end ---- */

static void nap(int64_t ns) {
    struct timespec t = {ns / 1000000000, ns % 1000000000};
    nanosleep(&t, NULL);
}

static bool ended_here(const sy_liveness *live) {
    return live->page != NULL && atomic_load(&live->page->ended) != 0;
}

static __attribute__((noreturn)) void leave(void) {
    _exit(sy_status_exit_code(SY_ERR_PEER));
}

/* Another rank of this host reports. */
static __attribute__((noreturn)) void leave_after_report(const sy_liveness *live) {
    int64_t until = sy_now_ns() + REPORTER_LIMIT_MS * MS;
    while (!ended_here(live) && sy_now_ns() < until)
        nap(5 * MS);
    leave();
}

/* The others of the host see `ended` at their next step and leave by themselves, with their own
 * exit code; those that cannot (stopped, say) are killed. */
static void end_peers(const sy_liveness *live) {
    if (live->page == NULL) return;
    atomic_store(&live->page->ended, 1);
    int64_t until = sy_now_ns() + 2 * live->step_ns + 50 * MS;
    for (bool some = true; some && sy_now_ns() < until;) {
        nap(5 * MS);
        some = false;
        for (int r = 0; r < live->n_ranks; r++)
            some |=
                r != live->me && live->process[r].known && sy_process_lives(&live->process[r]);
    }
    for (int r = 0; r < live->n_ranks; r++)
        if (r != live->me) sy_process_kill(&live->process[r]);
}

/* Hosts speak in turns, so that the first one's datagram stops the others from saying it again. */
static void wait_for_turn(sy_liveness *live) {
    int64_t turn = sy_min(sy_comm_host(live->comm, live->me) * HOST_TURN_MS, LAST_TURN_MS) * MS;
    int64_t until = sy_now_ns() + turn;
    while (!live->ended_elsewhere && sy_now_ns() < until) {
        nap(5 * MS);
        receive(live);
    }
}

static __attribute__((noreturn)) void declare(sy_liveness *live, sy_verdict verdict) {
    char line[LINE_CHARS];
    int32_t nobody = 0;
    if (live->page != NULL &&
        !atomic_compare_exchange_strong(&live->page->reporter, &nobody, live->me + 1))
        leave_after_report(live);
    wait_for_turn(live);
    if (!live->ended_elsewhere) {
        sy_watch_describe(&live->watch, verdict, sy_comm_host_name(live->comm, verdict.rank),
                          line, sizeof line);
        if (live->report != NULL)
            live->report(live->context, line);
        else
            fprintf(stderr, "switchyard: error: %s\n", line);
        if (live->datagrams != NULL) sy_datagrams_send_end(live->datagrams);
    }
    end_peers(live);
    leave();
}

void sy_liveness_abandon(sy_liveness *live) {
    if (live == NULL) return;
    if (live->page != NULL) {
        atomic_store(&live->page->reporter, live->me + 1);
        atomic_store(&live->page->ended, 1);
    }
    if (live->datagrams != NULL) sy_datagrams_send_end(live->datagrams);
}

/* ---- the side thread ---- */

/* True if the thread is to stop. */
static bool wait_for_step(sy_liveness *live, int64_t until_ns) {
    for (;;) {
        int64_t left = until_ns - sy_now_ns();
        if (left <= 0) return false;
        struct timespec t = {left / 1000000000, left % 1000000000};
        int n = ppoll(live->polls, (nfds_t)(POLL_PROCESSES + live->n_ranks), &t, NULL);
        if (n <= 0) return false;
        if (live->polls[POLL_WAKE].revents != 0) return true;
        if (live->polls[POLL_DATAGRAMS].revents != 0) receive(live);
        bool died = false;
        for (int r = 0; r < live->n_ranks; r++) {
            struct pollfd *p = &live->polls[POLL_PROCESSES + r];
            died |= p->fd >= 0 && p->revents != 0;
            if (p->revents != 0) p->fd = -1; /* it stays readable: once is enough */
        }
        if (died || live->ended_elsewhere) return false;
    }
}

static void *watch_others(void *arg) {
    sy_liveness *live = arg;
    for (;;) {
        int64_t begin = sy_now_ns();
        sy_watch_time(&live->watch, begin);
        receive(live);
        look_around(live);
        if (live->ended_elsewhere) declare(live, (sy_verdict){SY_VERDICT_NONE, live->me});
        if (ended_here(live)) leave();
        sy_verdict verdict = sy_watch_judge(&live->watch);
        if (verdict.kind != SY_VERDICT_NONE) declare(live, verdict);
        if (wait_for_step(live, begin + live->step_ns)) return NULL;
    }
}

/* ---- start and stop ---- */

static sy_status allocate(sy_liveness *live, double deadline) {
    sy_status st = SY_OK;
    size_t n = (size_t)live->n_ranks;
    live->position = calloc(n, sizeof *live->position);
    live->far = calloc(n, sizeof *live->far);
    live->warned = calloc(n, sizeof *live->warned);
    live->process = calloc(n, sizeof *live->process);
    live->polls = calloc(n + POLL_PROCESSES, sizeof *live->polls);
    if (live->position == NULL || live->far == NULL || live->warned == NULL ||
        live->process == NULL || live->polls == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory to watch %d ranks", live->n_ranks);
    for (size_t r = 0; r < n; r++)
        live->process[r].pidfd = -1;
    for (size_t i = 0; i < n + POLL_PROCESSES; i++)
        live->polls[i] = (struct pollfd){-1, POLLIN, 0};
    live->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (live->wake < 0) SY_FAIL(SY_ERR_IO, "eventfd: %s", strerror(errno));
    live->polls[POLL_WAKE].fd = live->wake;
    SY_TRY(sy_watch_init(&live->watch, live->n_ranks, (int64_t)(deadline * 1e9), live->step_ns,
                         sy_now_ns()));
done:
    return st;
}

/* Collective: handles on the processes of the ranks on the page. */
static sy_status open_processes(sy_liveness *live) {
    sy_status st = SY_OK;
    sy_process_card mine = sy_process_self();
    sy_process_card *all = calloc((size_t)live->n_ranks, sizeof *all);
    SY_TRY(sy_comm_agree(live->comm,
                         all != NULL ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory to watch")));
    SY_TRY(sy_comm_all_gather(live->comm, &mine, sizeof mine, all));
    for (int r = 0; r < live->n_ranks; r++) {
        if (r == live->me || live->position[r] < 0) continue;
        sy_process_open(&live->process[r], &all[r]);
        live->polls[POLL_PROCESSES + r].fd = live->process[r].pidfd;
    }
done:
    free(all);
    return st;
}

/* Collective: a socket on all ranks if any rank is far from another. */
static sy_status open_datagrams(sy_liveness *live) {
    sy_status st = SY_OK;
    unsigned char mine = 0, *all = calloc((size_t)live->n_ranks, 1);
    for (int r = 0; r < live->n_ranks; r++) {
        live->far[r] = r != live->me && live->position[r] < 0;
        if (live->far[r]) mine = 1;
    }
    SY_TRY(sy_comm_agree(live->comm,
                         all != NULL ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory to watch")));
    SY_TRY(sy_comm_all_gather(live->comm, &mine, 1, all));
    if (memchr(all, 1, (size_t)live->n_ranks) == NULL) goto done;
    SY_TRY(sy_datagrams_open(live->comm, live->far, &live->datagrams));
    live->polls[POLL_DATAGRAMS].fd = sy_datagrams_fd(live->datagrams);
done:
    free(all);
    return st;
}

static sy_status start_thread(sy_liveness *live) {
    sigset_t all, before;
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&live->thread, NULL, watch_others, live);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    live->started = error == 0;
    return error == 0 ? SY_OK
                      : sy_fail(SY_ERR_MEMORY, "starting a thread: %s", strerror(error));
}

static void stop_thread(sy_liveness *live) {
    if (!live->started) return;
    atomic_fetch_or(&live->mine->flags, SY_BEAT_LEFT);
    uint64_t one = 1;
    while (write(live->wake, &one, sizeof one) < 0 && errno == EINTR)
        continue;
    pthread_join(live->thread, NULL);
    live->started = false;
    if (live->datagrams == NULL) return;
    sy_beat beat;
    sy_slot_read(live->mine, &beat);
    for (int i = 0; i < 3; i++)
        sy_datagrams_send_beat(live->datagrams, &beat);
}

static void free_all(sy_liveness *live) {
    if (live == NULL) return;
    for (int r = 0; live->process != NULL && r < live->n_ranks; r++)
        sy_process_close(&live->process[r]);
    sy_page_close(live->page, live->page_bytes);
    sy_datagrams_close(live->datagrams);
    sy_watch_free(&live->watch);
    if (live->wake >= 0) close(live->wake);
    free(live->position);
    free(live->far);
    free(live->warned);
    free(live->process);
    free(live->polls);
    sy_mem_free(live, sizeof *live);
}

sy_status
sy_liveness_start(sy_comm *comm, const sy_liveness_options *options, sy_liveness **out) {
    sy_status st = SY_OK;
    sy_liveness *live = NULL;
    *out = NULL;
    if (!(options->deadline > 0) || sy_comm_size(comm) == 1) return SY_OK;
    st = sy_mem_alloc(&live, sizeof *live, "liveness"); /* aligned for its slot */
    if (st == SY_OK) {
        live->comm = comm;
        live->me = sy_comm_rank(comm);
        live->n_ranks = sy_comm_size(comm);
        live->wake = -1;
        live->step_ns = sy_min((int64_t)(options->deadline * 1e9) / BEATS_PER_DEADLINE + 1,
                               STEP_MAX_MS * MS);
        live->report = options->report;
        live->context = options->context;
        live->mine = &live->own;
        st = allocate(live, options->deadline);
    }
    SY_TRY(sy_comm_agree(comm, st));
    SY_TRY(sy_page_open(comm, &live->page, &live->page_bytes, live->position));
    if (live->page != NULL) live->mine = &live->page->slot[live->position[live->me]];
    SY_TRY(open_processes(live));
    SY_TRY(open_datagrams(live));
    SY_TRY(sy_comm_agree(comm, start_thread(live)));
    *out = live;
    live = NULL;
done:
    if (live != NULL) stop_thread(live);
    free_all(live);
    return st;
}

void sy_liveness_stop(sy_liveness *live) {
    if (live == NULL) return;
    /* The threads go on watching until the last rank has come. */
    sy_progress_wait(live);
    (void)sy_comm_barrier(live->comm);
    stop_thread(live);
    free_all(live);
}
