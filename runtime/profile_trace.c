/* trace.json: the Chrome trace event format, for Perfetto. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "runtime/file_print.h"
#include "runtime/profile_memory.h"
#include "runtime/profile_print.h"

enum { CHUNK = 4096 }; /* events of a rank that travel at once */

static const char *const phase_names[] = {
#define X(name, text) text,
    SY_PHASE_LIST(X)
#undef X
};

/* Microseconds since the origin, three decimals. */
static void print_time(FILE *f, const char *name, int64_t ns) {
    fprintf(f, ", \"%s\": %" PRId64 ".%03d", name, ns / 1000, (int)(ns % 1000));
}

static void print_counter(FILE *f, int rank, int64_t at, int rows) {
    fprintf(f, ",\n{\"name\": \"tokens\", \"ph\": \"C\", \"pid\": %d, \"tid\": 0", rank);
    print_time(f, "ts", at);
    fprintf(f, ", \"args\": {\"rows\": %d}}", rows);
}

/* Begin and end since the origin. */
static void
print_span(FILE *f, int rank, const sy_profile_event *e, int64_t begin, int64_t end) {
    bool step = e->phase == SY_PHASES;
    if (step)
        fprintf(f, ",\n{\"name\": \"step %" PRId32 "\", \"cat\": \"step\"", e->step);
    else
        fprintf(f, ",\n{\"name\": \"%s\", \"cat\": \"phase\"", phase_names[e->phase]);
    fprintf(f, ", \"ph\": \"X\", \"pid\": %d, \"tid\": 0", rank);
    print_time(f, "ts", begin);
    print_time(f, "dur", end - begin);
    fprintf(f, ", \"args\": {\"step\": %" PRId32, e->step);
    if (step) fprintf(f, ", \"rows\": %" PRId32, e->rows);
    if (e->layer >= 0) fprintf(f, ", \"layer\": %d", e->layer);
    fputs("}}", f);
    if (!step) return;
    print_counter(f, rank, begin, e->rows);
    print_counter(f, rank, end, 0);
}

static void print_names(FILE *f, const sy_profile *p) {
    char text[320];
    uint64_t dropped = 0;
    for (int r = 0; r < p->n_ranks; r++)
        dropped += p->data->times[r].dropped;
    fprintf(f,
            "{\"displayTimeUnit\": \"ms\",\n\"otherData\": {\"dropped_events\": %" PRIu64
            "},\n\"traceEvents\": [",
            dropped);
    for (int r = 0; r < p->n_ranks; r++) {
        snprintf(text, sizeof text, "rank %d on %s", r, sy_comm_host_name(p->parts.comm, r));
        fprintf(f,
                "%s\n{\"name\": \"process_name\", \"ph\": \"M\", \"pid\": %d, \"args\": "
                "{\"name\": ",
                r == 0 ? "" : ",", r);
        sy_json_print_text(f, text);
        fprintf(
            f,
            "}},\n{\"name\": \"process_sort_index\", \"ph\": \"M\", \"pid\": %d, \"args\": "
            "{\"sort_index\": %d}},\n{\"name\": \"thread_name\", \"ph\": \"M\", \"pid\": %d, "
            "\"tid\": 0, \"args\": {\"name\": \"steps\"}}",
            r, r, r);
    }
}

/* The earliest span of all ranks, by rank 0's clock. */
static sy_status find_origin(const sy_profile *p, int64_t *origin) {
    sy_status st = SY_OK;
    int64_t first = p->times.events > 0 ? p->event[0].begin : INT64_MAX, *all = NULL;
    if (p->rank == 0 && (all = calloc((size_t)p->n_ranks, sizeof *all)) == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for the trace");
    SY_TRY(sy_comm_agree(p->parts.comm, st));
    SY_TRY(sy_comm_gather(p->parts.comm, &first, sizeof first, all, 0));
    *origin = INT64_MAX;
    for (int r = 0; p->rank == 0 && r < p->n_ranks; r++)
        if (all[r] != INT64_MAX) *origin = sy_min(*origin, all[r] + p->clock[2 * r]);
done:
    free(all);
    return st;
}

/* Most events of any rank, which all ranks have to know. */
static sy_status find_most_events(const sy_profile *p, int64_t *most) {
    *most = 0;
    for (int r = 0; p->rank == 0 && r < p->n_ranks; r++)
        *most = sy_max(*most, (int64_t)p->data->times[r].events);
    return sy_comm_broadcast(p->parts.comm, most, sizeof *most, 0);
}

static void print_chunk(FILE *f,
                        const sy_profile *p,
                        int rank,
                        int64_t first,
                        int64_t origin,
                        const sy_profile_event *event) {
    int64_t n = sy_min(CHUNK, (int64_t)p->data->times[rank].events - first);
    int64_t shift = p->clock[2 * rank] - origin;
    for (int64_t i = 0; i < n; i++)
        print_span(f, rank, &event[i], event[i].begin + shift, event[i].end + shift);
}

sy_status sy_profile_print_trace(FILE *f, const sy_profile *p) {
    sy_status st = SY_OK;
    size_t bytes = CHUNK * sizeof *p->event;
    sy_profile_event *mine = calloc(1, bytes), *all = NULL;
    int64_t origin = 0, most = 0;
    if (p->rank == 0) all = calloc((size_t)p->n_ranks, bytes);
    if (mine == NULL || (p->rank == 0 && all == NULL))
        st = sy_fail(SY_ERR_MEMORY, "no memory for the trace");
    SY_TRY(sy_comm_agree(p->parts.comm, st));
    SY_TRY(find_origin(p, &origin));
    SY_TRY(find_most_events(p, &most));
    if (p->rank == 0) print_names(f, p);
    for (int64_t first = 0; first < most; first += CHUNK) {
        int64_t n = sy_min(CHUNK, (int64_t)p->times.events - first);
        if (n > 0) memcpy(mine, p->event + first, (size_t)n * sizeof *mine);
        SY_TRY(sy_comm_gather(p->parts.comm, mine, bytes, all, 0));
        for (int r = 0; p->rank == 0 && r < p->n_ranks; r++)
            print_chunk(f, p, r, first, origin, all + (size_t)r * CHUNK);
    }
    if (p->rank == 0) fputs("\n]}\n", f);
done:
    free(mine);
    free(all);
    return st;
}
