#include "comm/liveness_watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

sy_status sy_watch_init(sy_watch *w,
                        int n_ranks,
                        int64_t deadline_ns,
                        int64_t step_ns,
                        int64_t clock_ns) {
    *w = (sy_watch){.n_ranks = n_ranks,
                    .deadline_ns = deadline_ns,
                    .longest_step_ns = 2 * step_ns,
                    .clock_ns = clock_ns};
    w->rank = calloc((size_t)n_ranks, sizeof *w->rank);
    return w->rank != NULL ? SY_OK
                           : sy_fail(SY_ERR_MEMORY, "no memory to watch %d ranks", n_ranks);
}

void sy_watch_free(sy_watch *w) {
    free(w->rank);
    w->rank = NULL;
}

void sy_watch_time(sy_watch *w, int64_t clock_ns) {
    /* What lies between two looks that are far apart is time in which this process did not run
     * (Ctrl-Z, a suspended machine, a starved core). It must not count against the others. */
    w->now_ns += sy_min(sy_max(clock_ns - w->clock_ns, 0), w->longest_step_ns);
    w->clock_ns = clock_ns;
}

void sy_watch_see(sy_watch *w, int rank, const sy_beat *beat) {
    sy_watched *r = &w->rank[rank];
    if (!r->seen || beat->beat != r->last.beat) r->beat_at = w->now_ns;
    if (!r->seen || beat->progress != r->last.progress) r->progress_at = w->now_ns;
    r->seen = true;
    r->last = *beat;
    r->last.phase[SY_PHASE_CHARS - 1] = '\0';
}

void sy_watch_gone(sy_watch *w, int rank) {
    w->rank[rank].gone = true;
}

static bool has_left(const sy_watched *r) {
    return (r->last.flags & SY_BEAT_LEFT) != 0;
}

static bool waits(const sy_watched *r) {
    return r->seen && !has_left(r) && (r->last.flags & SY_BEAT_WAITING) != 0;
}

/* Whether the main thread of a rank has stood still for longer than its limit. */
static bool over_limit(const sy_watch *w, const sy_watched *r) {
    int64_t limit_ns = (int64_t)r->last.limit_ms * 1000000;
    return r->seen && limit_ns > 0 && w->now_ns - r->progress_at > limit_ns;
}

/* Liveness of one rank. */
static sy_verdict_kind judge_life(const sy_watch *w, const sy_watched *r) {
    if (has_left(r)) return SY_VERDICT_NONE;
    if (r->gone) return SY_VERDICT_DIED;
    if (r->seen && w->now_ns - r->beat_at > w->deadline_ns) return SY_VERDICT_SILENT;
    return SY_VERDICT_NONE;
}

static sy_verdict judge_progress(const sy_watch *w) {
    int n_waiting = 0, n_running = 0, n_over = 0;
    for (int i = 0; i < w->n_ranks; i++) {
        const sy_watched *r = &w->rank[i];
        n_running += !has_left(r);
        n_waiting += waits(r);
        n_over += waits(r) && over_limit(w, r);
    }
    if (n_waiting == 0) return (sy_verdict){SY_VERDICT_NONE, -1};
    for (int i = 0; i < w->n_ranks; i++) {
        const sy_watched *r = &w->rank[i];
        if (!has_left(r) && !waits(r) && over_limit(w, r))
            return (sy_verdict){SY_VERDICT_STUCK, i};
    }
    if (n_over == n_running && n_running > 1) return (sy_verdict){SY_VERDICT_DEADLOCK, 0};
    return (sy_verdict){SY_VERDICT_NONE, -1};
}

sy_verdict sy_watch_judge(const sy_watch *w) {
    for (int i = 0; i < w->n_ranks; i++) {
        sy_verdict_kind kind = judge_life(w, &w->rank[i]);
        if (kind != SY_VERDICT_NONE) return (sy_verdict){kind, i};
    }
    return judge_progress(w);
}

void sy_watch_describe(const sy_watch *w,
                       sy_verdict verdict,
                       const char *host,
                       char *line,
                       size_t size) {
    const sy_beat *last = &w->rank[verdict.rank].last;
    double limit = last->limit_ms / 1000.0;
    line[0] = '\0';
    switch (verdict.kind) {
    case SY_VERDICT_NONE:
        break;
    case SY_VERDICT_DIED:
        snprintf(line, size, "rank %d on host %s died (killed?)", verdict.rank, host);
        break;
    case SY_VERDICT_SILENT:
        snprintf(line, size,
                 "rank %d on host %s has not answered for %.1f s (stopped or hung?)",
                 verdict.rank, host, (double)w->deadline_ns * 1e-9);
        break;
    case SY_VERDICT_STUCK:
        snprintf(line, size, "rank %d on host %s made no progress in phase \"%s\" for %g s",
                 verdict.rank, host, last->phase, limit);
        break;
    case SY_VERDICT_DEADLOCK:
        snprintf(line, size,
                 "all ranks wait for each other: rank %d on host %s has waited in phase \"%s\" "
                 "for %g s",
                 verdict.rank, host, last->phase, limit);
        break;
    }
}
