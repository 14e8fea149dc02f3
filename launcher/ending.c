#include "launcher/ending.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "launcher/frames.h"

enum { KEPT_MAX = 16384 };

sy_status sy_ending_init(sy_ending *e) {
    memset(e, 0, sizeof *e);
    e->rank_lost = -1;
    sy_mpirun_text_init(&e->mpirun_text);
    e->kept = malloc(KEPT_MAX);
    return e->kept != NULL ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory for mpirun's messages");
}

void sy_ending_free(sy_ending *e) {
    free(e->kept);
    e->kept = NULL;
}

/* How much a report explains. A rank that failed by itself is the cause; that a peer is lost, or
 * that MPI fails, may be its consequence; ranks report an interruption also when mpirun ends
 * them after a failure. */
static int weight(sy_status st) {
    switch (st) {
    case SY_OK:
        return 0;
    case SY_ERR_INTERRUPTED:
        return 1;
    case SY_ERR_COMM:
        return 2;
    case SY_ERR_PEER:
        return 3;
    default:
        return 4;
    }
}

static void report(sy_ending *e, sy_status st, const char *text, size_t n) {
    if (weight(st) <= weight(e->status)) return;
    e->status = st;
    if (n >= sizeof e->text.text) n = sizeof e->text.text - 1;
    memcpy(e->text.text, text, n);
    e->text.text[n] = '\0';
    for (char *p = e->text.text; *p != '\0'; p++)
        if (*p == '\n' || *p == '\r') *p = ' ';
}

void sy_ending_interrupted(sy_ending *e) {
    if (e->status == SY_OK) e->interrupted = true;
}

void sy_ending_status(sy_ending *e, int32_t code, const char *text, size_t n) {
    if (code == SY_OK) return;
    bool known = code > 0 && code < SY_STATUS_COUNT;
    report(e, known ? (sy_status)code : SY_ERR_INTERNAL, text, n);
}

void sy_ending_lost(sy_ending *e, int rank) {
    if (e->rank_lost < 0) e->rank_lost = rank;
}

void sy_ending_overdue(sy_ending *e, double start_limit) {
    char text[160];
    int n = 0;
    if (e->status != SY_OK || e->rank_lost >= 0) return; /* explained */
    if (e->started)
        n = snprintf(text, sizeof text, "the ranks did not end after their work was done");
    else
        n = snprintf(text, sizeof text,
                     "the ranks did not start within %g s (--start-limit); -v shows mpirun's "
                     "messages",
                     start_limit);
    report(e, SY_ERR_COMM, text, (size_t)n);
}

void sy_ending_mpirun(sy_ending *e, int wait_status) {
    e->mpirun_status = wait_status;
}

static void keep(sy_ending *e, const char *line) {
    size_t n = strlen(line);
    if (n + 2 > KEPT_MAX - e->kept_used) return;
    memcpy(e->kept + e->kept_used, line, n);
    e->kept_used += n;
    e->kept[e->kept_used++] = '\n';
    e->kept[e->kept_used] = '\0';
}

sy_ending_line_kind sy_ending_line(sy_ending *e, const char *line, const char *token) {
    static const char error[] = "switchyard: error: ";
    /* mpirun may put what two ranks print into one line: look for ours anywhere in it. */
    const char *started = strstr(line, SY_STARTED_LINE);
    if (started != NULL &&
        strncmp(started + strlen(SY_STARTED_LINE), token, strlen(token)) == 0)
        return SY_ENDING_STARTED;
    const char *found = strstr(line, error);
    if (found != NULL) {
        e->remote_error = true;
        const char *text = found + sizeof error - 1;
        /* The kind is known only from the exit code that mpirun passes on. */
        if (e->status == SY_OK) report(e, SY_ERR_COMM, text, strlen(text));
        return SY_ENDING_FAILED;
    }
    sy_mpirun_line kind = sy_mpirun_text_line(&e->mpirun_text, line);
    if (kind == SY_LINE_FOREIGN) return SY_ENDING_SHOW;
    if (kind == SY_LINE_MPIRUN) keep(e, line);
    return SY_ENDING_KEPT;
}

/* ---- the verdict ---- */

static int mpirun_exit_code(const sy_ending *e) {
    return WIFEXITED(e->mpirun_status) ? WEXITSTATUS(e->mpirun_status)
                                       : 128 + WTERMSIG(e->mpirun_status);
}

static sy_status status_of_exit_code(int code) {
    for (int st = 1; st < SY_STATUS_COUNT; st++)
        if (sy_status_exit_code((sy_status)st) == code) return (sy_status)st;
    return SY_ERR_PEER;
}

/* A rank ended without a word of its own or of a watchdog. */
static sy_status rank_ended(const sy_ending *e, int rank) {
    const sy_mpirun_text *t = &e->mpirun_text;
    char host[160] = "";
    if (t->host[0] != '\0') snprintf(host, sizeof host, " on host %s", t->host);
    if (t->rank == rank && t->signal != 0)
        return sy_fail(SY_ERR_PEER, "rank %d%s was ended by signal %d (%s)", rank, host,
                       t->signal, strsignal(t->signal));
    if (t->rank == rank && t->exit_code != 0)
        return sy_fail(SY_ERR_PEER, "rank %d%s ended with exit code %d without saying why",
                       rank, host, t->exit_code);
    return sy_fail(SY_ERR_PEER, "rank %d%s ended without saying why", rank, host);
}

sy_status sy_ending_verdict(sy_ending *e, int out_errno) {
    int code = mpirun_exit_code(e);
    if (e->interrupted) return sy_fail(SY_ERR_INTERRUPTED, "interrupted");
    if (e->remote_error && e->status == SY_ERR_COMM) e->status = status_of_exit_code(code);
    if (weight(e->status) > 1) return sy_fail(e->status, "%s", e->text.text);
    if (e->mpirun_text.rank >= 0) return rank_ended(e, e->mpirun_text.rank);
    if (e->rank_lost >= 0) return rank_ended(e, e->rank_lost);
    if (e->status != SY_OK) return sy_fail(e->status, "%s", e->text.text);
    if (code == 0 && out_errno != 0)
        return sy_fail(SY_ERR_IO, "writing to stdout: %s", strerror(out_errno));
    if (code == 0) return SY_OK;
    if (e->kept_used > 0) fputs(e->kept, stderr);
    return sy_fail(SY_ERR_COMM, "mpirun ended with exit code %d", code);
}
