/* One step of trace.json, for the time line: the one whose duration on rank 0 is the median. */
#ifndef SY_LAUNCHER_REPORT_TRACE_H
#define SY_LAUNCHER_REPORT_TRACE_H

#include "launcher/report_data.h"

#define SY_REPORT_MAX_TRACE ((uint64_t)256 << 20) /* bytes; larger ones are left out */

/* A phase of one rank, in microseconds from the first event of the step. */
typedef struct sy_report_span {
    int rank, kind; /* kind: sy_phase_kind */
    double begin, end;
} sy_report_span;

typedef struct sy_report_timeline {
    sy_report_span *span; /* by rank, then begin; freed by sy_report_timeline_free */
    int64_t n;
    int64_t step;
    double rows; /* of rank 0; 0: not told */
    double length;
    int64_t n_steps; /* that the trace has */
} sy_report_timeline;

/* text[size] is a NUL; the text is changed. n = 0 if the file holds no step. */
sy_status sy_report_trace_parse(char *text,
                                size_t size,
                                const char *name,
                                int n_ranks,
                                sy_report_timeline *out);
/* A file that is absent or too large gives n = 0. */
sy_status sy_report_trace_load(const char *path, int n_ranks, sy_report_timeline *out);
void sy_report_timeline_free(sy_report_timeline *timeline);

#endif
