/* A device table of plain C over host memory, and a wire over MPI, for tests of the exchange on a
 * device without CUDA and NCCL. The plan, the segments and the sums are written here after their
 * definition. While a recording is made, steps and calls are kept and run at each replay. */
#ifndef SY_TESTS_FAKE_DEVICE_H
#define SY_TESTS_FAKE_DEVICE_H

#include <stdlib.h>

#include "comm/exchange_form.h"
#include "comm/mpi_wait.h"
#include "kernels/device.h"
#include "plain_backend.h"

enum { FAKE_MOST_CALLS = 256 };

typedef struct fake_call {
    sy_status (*step)(sy_backend *be, const sy_device_round *round); /* or */
    sy_status (*fn)(void *argument);
    void *argument;
    bool owned; /* argument is the recording's */
    sy_device_round round;
} fake_call;

struct sy_recording {
    int n;
    fake_call call[FAKE_MOST_CALLS];
};

typedef struct fake_device {
    sy_backend base;
    sy_recording *recording; /* the one under way */
} fake_device;

static inline fake_device *fake_of(sy_backend *be) {
    return (fake_device *)(void *)be;
}

static inline bool fake_records(sy_backend *be) {
    return fake_of(be)->recording != NULL;
}

static inline sy_status fake_keep(sy_backend *be, fake_call call) {
    sy_recording *r = fake_of(be)->recording;
    if (r->n == FAKE_MOST_CALLS) return sy_fail(SY_ERR_INTERNAL, "a long recording");
    r->call[r->n++] = call;
    return SY_OK;
}

static inline sy_status
fake_write(sy_backend *be, void *device, const void *host, uint64_t bytes, sy_stream *s) {
    (void)s;
    if (fake_records(be)) return sy_fail(SY_ERR_INTERNAL, "a write in a recording");
    memcpy(device, host, (size_t)bytes);
    return SY_OK;
}

static inline sy_status
fake_read(sy_backend *be, void *host, const void *device, uint64_t bytes, sy_stream *s) {
    (void)s;
    if (fake_records(be)) return sy_fail(SY_ERR_INTERNAL, "a read in a recording");
    memcpy(host, device, (size_t)bytes);
    return SY_OK;
}

/* ---- the steps of the fixed form ---- */

/* The chosen experts of a token in ascending order, as leaves whose row is the place of the choice
 * among the K, and the rank of each. Returns how many there are. */
static inline int
fake_choices(const sy_device_round *o, int token, sy_tree_leaf *leaf, int32_t *rank) {
    int n = 0;
    const sy_device_placement *p = o->placement;
    for (int k = 0; k < o->top_k; k++) {
        int32_t e = o->expert[token * o->top_k + k];
        if (e < 0) continue;
        int at = n++;
        for (; at > 0 && leaf[at - 1].expert > e; at--)
            leaf[at] = leaf[at - 1];
        leaf[at] = (sy_tree_leaf){{0, k}, e, o->weight[token * o->top_k + k]};
    }
    for (int i = 0; i < n; i++) {
        int first = p->home_first[leaf[i].expert];
        int copies = p->home_first[leaf[i].expert + 1] - first;
        int copy = first + (token / o->capacity + token % o->capacity) % copies;
        rank[i] = p->home[2 * copy];
    }
    return n;
}

/* Cuts the choices [begin, end) of the subtree [lo, hi) into segments: opens[i] is set where one
 * begins. */
static inline void fake_cut(const sy_tree_leaf *leaf,
                            const int32_t *rank,
                            int begin,
                            int end,
                            int lo,
                            int hi,
                            bool *opens) {
    bool same = true;
    for (int i = begin; i < end; i++)
        same = same && rank[i] == rank[begin];
    if (begin == end) return;
    if (same) {
        opens[begin] = true;
        return;
    }
    int mid = lo + (hi - lo + 1) / 2, cut = begin;
    while (cut < end && leaf[cut].expert < mid)
        cut++;
    fake_cut(leaf, rank, begin, cut, lo, mid, opens);
    fake_cut(leaf, rank, cut, end, mid, hi, opens);
}

static inline int32_t fake_slot(const sy_device_round *o, int token, int32_t e) {
    const sy_device_placement *p = o->placement;
    int copies = p->home_first[e + 1] - p->home_first[e];
    int copy = p->home_first[e] + (token / o->capacity + token % o->capacity) % copies;
    return p->home[2 * copy] == o->rank ? p->home[2 * copy + 1] : -1;
}

static inline sy_status fake_run_plan(sy_backend *be, const sy_device_round *o) {
    (void)be;
    int n = o->placement->n_ranks * o->capacity * o->top_k, p = 0, n_active = 0;
    for (int i = 0; i < n; i++)
        o->pair[i] = -1;
    for (int slot = 0; slot < o->placement->n_slots; slot++) {
        o->first[slot] = p;
        for (int i = 0; i < n; i++) {
            int token = i / o->top_k;
            if (o->expert[i] < 0 || fake_slot(o, token, o->expert[i]) != slot) continue;
            o->row[p] = token;
            o->pair[i] = p++;
        }
        if (p > o->first[slot]) o->active[1 + n_active++] = slot;
        if (o->load != NULL) o->load[slot] += (uint64_t)(p - o->first[slot]);
    }
    o->first[o->placement->n_slots] = p;
    o->active[0] = n_active;
    if (o->load != NULL) o->load[o->load_slots] += (uint64_t)n_active;
    return SY_OK;
}

/* The tree over n leaves; rows of `chunk`. */
static inline void fake_tree(const sy_device_round *o,
                             sy_tree_leaf *leaf,
                             int n,
                             bool weighted,
                             const float *chunk,
                             float *out,
                             const float *shared,
                             bool accumulate) {
    int64_t first[2] = {0, n};
    sy_tree_job job = {.n_rows = 1,
                       .width = o->hidden,
                       .n_experts = o->placement->n_experts,
                       .first = first,
                       .leaf = leaf,
                       .chunk = &chunk,
                       .weighted = weighted,
                       .shared = shared,
                       .out = out,
                       .accumulate = accumulate};
    (void)plain_unpack(NULL, &job, NULL);
}

static inline sy_status fake_run_local_sums(sy_backend *be, const sy_device_round *o) {
    (void)be;
    for (int token = 0; token < o->placement->n_ranks * o->capacity; token++) {
        sy_tree_leaf leaf[SY_MAX_TOP_K];
        int32_t rank[SY_MAX_TOP_K];
        bool opens[SY_MAX_TOP_K] = {false};
        int n = fake_choices(o, token, leaf, rank), segment = 0;
        fake_cut(leaf, rank, 0, n, 0, o->placement->n_experts, opens);
        for (int i = 0; i < n; i++)
            leaf[i].ref.row = o->pair[token * o->top_k + leaf[i].ref.row];
        for (int begin = 0, end; begin < n; begin = end) {
            for (end = begin + 1; end < n && !opens[end]; end++) {
            }
            if (rank[begin] != o->rank) continue;
            if (segment == o->segments) return sy_fail(SY_ERR_INTERNAL, "too many segments");
            fake_tree(o, leaf + begin, end - begin, true, o->y,
                      o->returned + ((int64_t)token * o->segments + segment++) * o->hidden,
                      NULL, false);
        }
    }
    return SY_OK;
}

static inline sy_status fake_run_home_sums(sy_backend *be, const sy_device_round *o) {
    (void)be;
    for (int c = 0; c < o->capacity; c++) {
        int token = o->rank * o->capacity + c, n_segments = 0, next[64] = {0};
        sy_tree_leaf leaf[SY_MAX_TOP_K], segment[SY_MAX_TOP_K];
        int32_t rank[SY_MAX_TOP_K];
        bool opens[SY_MAX_TOP_K] = {false};
        int n = fake_choices(o, token, leaf, rank);
        fake_cut(leaf, rank, 0, n, 0, o->placement->n_experts, opens);
        for (int i = 0; i < n; i++) {
            if (!opens[i]) continue;
            int row = (rank[i] * o->capacity + c) * o->segments + next[rank[i]]++;
            segment[n_segments++] = (sy_tree_leaf){{0, row}, leaf[i].expert, 1.0f};
        }
        fake_tree(o, segment, n_segments, false, o->received, o->residual + c * o->hidden,
                  o->shared == NULL ? NULL : o->shared + c * o->hidden, true);
    }
    return SY_OK;
}

static inline sy_status fake_run_alone(sy_backend *be, const sy_device_round *o) {
    (void)be;
    for (int c = 0; c < o->capacity; c++) {
        sy_tree_leaf leaf[SY_MAX_TOP_K];
        int32_t rank[SY_MAX_TOP_K];
        int n = fake_choices(o, c, leaf, rank);
        for (int i = 0; i < n; i++)
            leaf[i].ref.row = o->pair[c * o->top_k + leaf[i].ref.row];
        fake_tree(o, leaf, n, true, o->y, o->residual + c * o->hidden,
                  o->shared == NULL ? NULL : o->shared + c * o->hidden, true);
    }
    return SY_OK;
}

#define FAKE_STEP(name, run)                                                                   \
    static inline sy_status name(sy_backend *be, const sy_device_round *round, sy_stream *s) { \
        (void)s;                                                                               \
        if (!fake_records(be)) return run(be, round);                                          \
        return fake_keep(be, (fake_call){.step = run, .round = *round});                       \
    }
FAKE_STEP(fake_plan, fake_run_plan)
FAKE_STEP(fake_local_sums, fake_run_local_sums)
FAKE_STEP(fake_home_sums, fake_run_home_sums)
FAKE_STEP(fake_alone, fake_run_alone)

/* ---- recordings ---- */

static inline sy_status fake_synchronize(sy_backend *be, sy_stream *s) {
    (void)s;
    return fake_records(be) ? sy_fail(SY_ERR_INTERNAL, "a wait in a recording") : SY_OK;
}

static inline sy_status fake_record_begin(sy_backend *be) {
    fake_of(be)->recording = calloc(1, sizeof(sy_recording));
    return fake_records(be) ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory");
}

static inline sy_status fake_outside(sy_backend *be, sy_status (*fn)(void *), void *argument) {
    if (!fake_records(be)) return fn(argument);
    return fake_keep(be, (fake_call){.fn = fn, .argument = argument});
}

static inline sy_status fake_record_end(sy_backend *be, sy_recording **out) {
    *out = fake_of(be)->recording;
    fake_of(be)->recording = NULL;
    return SY_OK;
}

static inline sy_status fake_replay(sy_backend *be, const sy_recording *r) {
    sy_status st = SY_OK;
    for (int i = 0; i < r->n; i++) {
        const fake_call *call = &r->call[i];
        SY_TRY(call->step != NULL ? call->step(be, &call->round) : call->fn(call->argument));
    }
done:
    return st;
}

static inline void fake_record_free(sy_backend *be, sy_recording *r) {
    (void)be;
    for (int i = 0; r != NULL && i < r->n; i++)
        if (r->call[i].owned) free(r->call[i].argument);
    free(r);
}

static const sy_device_ops fake_device_ops = {.plan = fake_plan,
                                              .local_sums = fake_local_sums,
                                              .home_sums = fake_home_sums,
                                              .combine_alone = fake_alone,
                                              .synchronize = fake_synchronize,
                                              .record_begin = fake_record_begin,
                                              .outside = fake_outside,
                                              .record_end = fake_record_end,
                                              .replay = fake_replay,
                                              .record_free = fake_record_free};

static const sy_ops fake_ops = {.name = "fake",
                                .device = &fake_device_ops,
                                .alloc = plain_alloc,
                                .free = plain_free,
                                .write = fake_write,
                                .read = fake_read,
                                .pack_rows = plain_pack_rows,
                                .unpack = plain_unpack};

static inline fake_device fake_open(sy_dtype act) {
    return (fake_device){.base = {.ops = &fake_ops, .act = act}};
}

/* ---- the wire ---- */

enum { FAKE_MOST_PARTS = 64, FAKE_TAG = 4711 };

typedef struct fake_wire {
    sy_device_wire base;
    sy_comm *comm;
    sy_backend *be;
    bool no_capture; /* exchanges within a recording fail */
} fake_wire;

/* A call that a recording keeps. */
typedef struct fake_wire_call {
    fake_wire *wire;
    int n;
    bool gather;
    union {
        sy_device_wire_part part[FAKE_MOST_PARTS];
        sy_device_wire_gather gathers[FAKE_MOST_PARTS];
    };
} fake_wire_call;

static inline sy_status fake_run_wire(void *argument) {
    fake_wire_call *call = argument;
    MPI_Comm mpi = sy_comm_mpi(call->wire->comm);
    MPI_Request request[2 * FAKE_MOST_PARTS];
    int n = 0;
    for (int i = 0; i < call->n && call->gather; i++) {
        const sy_device_wire_gather *g = &call->gathers[i];
        MPI_Allgather(g->mine, (int)g->bytes, MPI_BYTE, g->all, (int)g->bytes, MPI_BYTE, mpi);
    }
    for (int i = 0; i < call->n && !call->gather; i++) {
        const sy_device_wire_part *p = &call->part[i];
        if (p->receive_bytes > 0)
            MPI_Irecv(p->receive, (int)p->receive_bytes, MPI_BYTE, p->peer, FAKE_TAG, mpi,
                      &request[n++]);
        if (p->send_bytes > 0)
            MPI_Isend(p->send, (int)p->send_bytes, MPI_BYTE, p->peer, FAKE_TAG, mpi,
                      &request[n++]);
    }
    return sy_mpi_wait_all(call->wire->comm, n, request, "the fake wire");
}

static inline sy_status fake_wire_run(fake_wire *w, const fake_wire_call *call) {
    w->base.calls++;
    if (!fake_records(w->be)) {
        fake_wire_call now = *call;
        return fake_run_wire(&now);
    }
    if (w->no_capture) return sy_fail(SY_ERR_UNSUPPORTED, "not within a recording");
    fake_wire_call *kept = malloc(sizeof *kept);
    if (kept == NULL) return sy_fail(SY_ERR_MEMORY, "no memory");
    *kept = *call;
    return fake_keep(w->be, (fake_call){.fn = fake_run_wire, .argument = kept, .owned = true});
}

static inline sy_status
fake_wire_exchange(sy_device_wire *wire, int n, const sy_device_wire_part *part) {
    fake_wire_call call = {.wire = (fake_wire *)(void *)wire, .n = n};
    memcpy(call.part, part, (size_t)n * sizeof *part);
    return fake_wire_run(call.wire, &call);
}

static inline sy_status
fake_wire_gather(sy_device_wire *wire, int n, const sy_device_wire_gather *gather) {
    fake_wire_call call = {.wire = (fake_wire *)(void *)wire, .n = n, .gather = true};
    memcpy(call.gathers, gather, (size_t)n * sizeof *gather);
    return fake_wire_run(call.wire, &call);
}

static inline sy_status fake_wire_wait(sy_device_wire *wire, double deadline, bool quiet) {
    (void)deadline, (void)quiet;
    return fake_synchronize(((fake_wire *)(void *)wire)->be, NULL);
}

static inline void fake_wire_destroy(sy_device_wire *wire) {
    free(wire);
}

static const sy_device_wire_ops fake_wire_ops = {.exchange = fake_wire_exchange,
                                                 .all_gather = fake_wire_gather,
                                                 .wait = fake_wire_wait,
                                                 .destroy = fake_wire_destroy};

/* NULL for one rank, which needs none. */
static inline sy_device_wire *fake_wire_open(sy_comm *comm, sy_backend *be) {
    if (sy_comm_size(comm) == 1) return NULL;
    fake_wire *w = calloc(1, sizeof *w);
    assert_non_null(w);
    *w = (fake_wire){.base.ops = &fake_wire_ops, .comm = comm, .be = be};
    return &w->base;
}

#endif
