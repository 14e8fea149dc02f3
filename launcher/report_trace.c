/* trace.json is read without a tree: it may be large, and one step of it is wanted. The
 * numbers are reals, which the reader of tables does not take, so they are taken from its
 * text. */
#include "launcher/report_trace.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "launcher/report_phase.h"
#include "runtime/json_scan.h"

#define MOST_MICROSECONDS 1e15
#define LEAST_MICROSECONDS 1e-3 /* of a step, to be worth a picture */

typedef struct event {
    int rank, kind; /* kind -1: a step */
    int64_t step;
    double begin, end, rows;
} event;

typedef struct trace {
    event *event;
    int64_t n, room;
    int n_ranks;
} trace;

/* What an event's members say; those that are absent are 0 or NULL. */
typedef struct fields {
    const char *name, *category, *kind;
    double begin, length, rank, step, rows;
} fields;

/* ---- reading ---- */

static sy_status scan_real(sy_scan *scan, double *out) {
    sy_status st = SY_OK;
    char *end;
    sy_scan_peek(scan);
    const char *start = scan->text + scan->at;
    SY_TRY(sy_scan_skip(scan));
    *out = strtod(start, &end); /* the file's text ends in a NUL */
    if (end != scan->text + scan->at || !(fabs(*out) <= MOST_MICROSECONDS))
        SY_FAIL(SY_ERR_FORMAT, "%s byte %zu: expected a number", scan->what, scan->at);
done:
    return st;
}

static sy_status scan_args(sy_scan *scan, fields *out) {
    sy_status st = SY_OK;
    sy_scan_text key;
    bool more;
    if (sy_scan_peek(scan) != '{') return sy_scan_skip(scan);
    SY_TRY(sy_scan_open(scan, '{'));
    for (bool first = true;; first = false) {
        SY_TRY(sy_scan_more(scan, '}', first, &more));
        if (!more) break;
        SY_TRY(sy_scan_key(scan, &key));
        if (strcmp(key.data, "step") == 0)
            SY_TRY(scan_real(scan, &out->step));
        else if (strcmp(key.data, "rows") == 0)
            SY_TRY(scan_real(scan, &out->rows));
        else
            SY_TRY(sy_scan_skip(scan));
    }
done:
    return st;
}

static sy_status scan_member(sy_scan *scan, const char *key, fields *out) {
    sy_status st = SY_OK;
    sy_scan_text text;
    const struct {
        const char *key;
        const char **to;
    } texts[] = {{"name", &out->name}, {"cat", &out->category}, {"ph", &out->kind}};
    const struct {
        const char *key;
        double *to;
    } reals[] = {{"ts", &out->begin}, {"dur", &out->length}, {"pid", &out->rank}};
    for (size_t i = 0; i < 3; i++) {
        if (strcmp(key, texts[i].key) == 0) {
            SY_TRY(sy_scan_string(scan, &text));
            *texts[i].to = text.data;
            goto done;
        }
        if (strcmp(key, reals[i].key) == 0) {
            st = scan_real(scan, reals[i].to);
            goto done;
        }
    }
    st = strcmp(key, "args") == 0 ? scan_args(scan, out) : sy_scan_skip(scan);
done:
    return st;
}

static bool is_text(const char *text, const char *wanted) {
    return text != NULL && strcmp(text, wanted) == 0;
}

static sy_status keep_event(trace *t, const fields *in) {
    bool step = is_text(in->category, "step"), phase = is_text(in->category, "phase");
    if (!is_text(in->kind, "X") || !(step || phase) || in->name == NULL) return SY_OK;
    if (!(in->rank >= 0 && in->rank < t->n_ranks) || !(in->length >= 0) || !(in->step >= 0) ||
        !(in->rows >= 0))
        return sy_fail(SY_ERR_FORMAT, "event %lld has numbers out of range", (long long)t->n);
    if (t->n == t->room) {
        int64_t room = t->room > 0 ? 2 * t->room : 4096;
        event *grown = realloc(t->event, (size_t)room * sizeof *grown);
        if (grown == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the time line");
        t->event = grown;
        t->room = room;
    }
    t->event[t->n++] = (event){.rank = (int)in->rank,
                               .kind = step ? -1 : (int)sy_phase_kind_of(in->name),
                               .step = (int64_t)in->step,
                               .begin = in->begin,
                               .end = in->begin + in->length,
                               .rows = in->rows};
    return SY_OK;
}

static sy_status scan_event(sy_scan *scan, trace *t) {
    sy_status st = SY_OK;
    fields in = {0};
    sy_scan_text key;
    bool more;
    SY_TRY(sy_scan_open(scan, '{'));
    for (bool first = true;; first = false) {
        SY_TRY(sy_scan_more(scan, '}', first, &more));
        if (!more) break;
        SY_TRY(sy_scan_key(scan, &key));
        SY_TRY(scan_member(scan, key.data, &in));
    }
    SY_TRY(keep_event(t, &in));
done:
    return st;
}

static sy_status scan_events(sy_scan *scan, trace *t) {
    sy_status st = SY_OK;
    bool more;
    SY_TRY(sy_scan_open(scan, '['));
    for (bool first = true;; first = false) {
        SY_TRY(sy_scan_more(scan, ']', first, &more));
        if (!more) break;
        SY_TRY(scan_event(scan, t));
    }
done:
    return st;
}

static sy_status scan_file(sy_scan *scan, trace *t) {
    sy_status st = SY_OK;
    sy_scan_text key;
    bool more;
    SY_TRY(sy_scan_open(scan, '{'));
    for (bool first = true;; first = false) {
        SY_TRY(sy_scan_more(scan, '}', first, &more));
        if (!more) break;
        SY_TRY(sy_scan_key(scan, &key));
        if (strcmp(key.data, "traceEvents") == 0)
            SY_TRY(scan_events(scan, t));
        else
            SY_TRY(sy_scan_skip(scan));
    }
    SY_TRY(sy_scan_end(scan));
done:
    return st;
}

/* ---- choosing ---- */

static int by_length(const void *a, const void *b) {
    const event *x = a, *y = b;
    double p = x->end - x->begin, q = y->end - y->begin;
    if (p != q) return p < q ? -1 : 1;
    return x->step < y->step ? -1 : x->step > y->step;
}

/* Of rank 0's steps the one of median length. */
static sy_status choose_step(const trace *t, sy_report_timeline *out) {
    event *step = calloc((size_t)t->n + 1, sizeof *step);
    if (step == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the time line");
    for (int64_t i = 0; i < t->n; i++)
        if (t->event[i].kind < 0 && t->event[i].rank == 0) step[out->n_steps++] = t->event[i];
    if (out->n_steps > 0) {
        qsort(step, (size_t)out->n_steps, sizeof *step, by_length);
        out->step = step[out->n_steps / 2].step;
        out->rows = step[out->n_steps / 2].rows;
    }
    free(step);
    return SY_OK;
}

static int by_rank(const void *a, const void *b) {
    const sy_report_span *x = a, *y = b;
    if (x->rank != y->rank) return x->rank < y->rank ? -1 : 1;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

static sy_status keep_step(const trace *t, sy_report_timeline *out) {
    double first = INFINITY;
    out->span = calloc((size_t)t->n + 1, sizeof *out->span);
    if (out->span == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the time line");
    for (int64_t i = 0; i < t->n; i++) {
        const event *e = &t->event[i];
        if (e->kind < 0 || e->step != out->step) continue;
        out->span[out->n++] = (sy_report_span){e->rank, e->kind, e->begin, e->end};
        first = fmin(first, e->begin);
    }
    for (int64_t i = 0; i < out->n; i++) {
        out->span[i].begin -= first;
        out->span[i].end -= first;
        out->length = fmax(out->length, out->span[i].end);
    }
    qsort(out->span, (size_t)out->n, sizeof *out->span, by_rank);
    if (!(out->length > LEAST_MICROSECONDS)) out->n = 0;
    return SY_OK;
}

sy_status sy_report_trace_parse(char *text,
                                size_t size,
                                const char *name,
                                int n_ranks,
                                sy_report_timeline *out) {
    sy_status st = SY_OK;
    trace t = {.n_ranks = n_ranks};
    sy_scan scan = {.text = text, .size = size, .what = name};
    *out = (sy_report_timeline){0};
    if (!sy_utf8_valid(text, size)) SY_FAIL(SY_ERR_FORMAT, "%s: not UTF-8", name);
    SY_TRY(scan_file(&scan, &t));
    SY_TRY(choose_step(&t, out));
    if (out->n_steps > 0) SY_TRY(keep_step(&t, out));
done:
    free(t.event);
    return st;
}

sy_status sy_report_trace_load(const char *path, int n_ranks, sy_report_timeline *out) {
    sy_status st = SY_OK;
    struct stat info;
    char *text = NULL;
    size_t size;
    *out = (sy_report_timeline){0};
    if (stat(path, &info) != 0) {
        if (errno == ENOENT) return SY_OK;
        return sy_fail(SY_ERR_IO, "%s: %s", path, strerror(errno));
    }
    if ((uint64_t)info.st_size > SY_REPORT_MAX_TRACE) return SY_OK;
    SY_TRY(sy_read_file(path, SY_REPORT_MAX_TRACE, &text, &size));
    SY_TRY(sy_report_trace_parse(text, size, path, n_ranks, out));
done:
    free(text);
    return st;
}

void sy_report_timeline_free(sy_report_timeline *t) {
    free(t->span);
    *t = (sy_report_timeline){0};
}
