/* Inside comm/liveness: the clocks, and what they say. No threads, no system calls: given what is
 * seen of each rank and when, it tells which rank, if any, has to be given up. */
#ifndef SY_COMM_LIVENESS_WATCH_H
#define SY_COMM_LIVENESS_WATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { SY_PHASE_CHARS = 32 };

typedef enum sy_beat_flag {
    SY_BEAT_WAITING = 1, /* the main thread waits for other ranks   */
    SY_BEAT_LEFT = 2     /* the rank has stopped watching, in order */
} sy_beat_flag;

/* The state that a rank shows to the others. */
typedef struct sy_beat {
    uint64_t beat;     /* advanced by the side thread */
    uint64_t progress; /* advanced by the main thread, also when it waits or comes back */
    uint32_t limit_ms; /* of a single advance; 0: none */
    uint32_t flags;
    char phase[SY_PHASE_CHARS]; /* ends in NUL */
} sy_beat;

typedef struct sy_watched {
    bool seen; /* at least once; before that no clock runs */
    bool gone; /* its process has ended */
    sy_beat last;
    int64_t beat_at, progress_at; /* ns of the observer's time: when they last changed */
} sy_watched;

typedef struct sy_watch {
    int n_ranks;
    int64_t deadline_ns, longest_step_ns;
    int64_t now_ns;   /* the observer's time: without gaps in which it did not run */
    int64_t clock_ns; /* CLOCK_MONOTONIC at now_ns */
    sy_watched *rank; /* [n_ranks], owned */
} sy_watch;

typedef enum sy_verdict_kind {
    SY_VERDICT_NONE,
    SY_VERDICT_DIED,
    SY_VERDICT_SILENT,  /* no beats for the deadline */
    SY_VERDICT_STUCK,   /* no progress for its limit, while another rank waits */
    SY_VERDICT_DEADLOCK /* every rank waits, for longer than its limit */
} sy_verdict_kind;

typedef struct sy_verdict {
    sy_verdict_kind kind;
    int rank;
} sy_verdict;

/* step_ns: how often the observer means to look. A gap of more than two steps counts as two. */
sy_status
sy_watch_init(sy_watch *w, int n_ranks, int64_t deadline_ns, int64_t step_ns, int64_t clock_ns);
void sy_watch_free(sy_watch *w);

void sy_watch_time(sy_watch *w, int64_t clock_ns);
void sy_watch_see(sy_watch *w, int rank, const sy_beat *beat);
/* A rank that had left in order before may well be gone. */
void sy_watch_gone(sy_watch *w, int rank);
sy_verdict sy_watch_judge(const sy_watch *w);

/* The line that names the rank. */
void sy_watch_describe(const sy_watch *w,
                       sy_verdict verdict,
                       const char *host,
                       char *line,
                       size_t size);

#endif
