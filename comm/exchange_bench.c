#include "comm/exchange_bench.h"

#include <limits.h>
#include <mpi.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/memory.h"
#include "comm/mpi_wait.h"
#include "comm/plan.h"

enum { BATCHES = 5, WARM_UP = 3, MIN_ROUNDS = 3, MAX_ROUNDS = 20000 };

/* Byte counts and displacements of one MPI_Alltoallv. */
typedef struct alltoall {
    int *send, *send_at, *receive, *receive_at; /* [R] */
} alltoall;

/* A backend that passes on what the exchange asks of it and counts the time of row work. */
typedef struct timed_backend {
    sy_backend base;
    sy_ops ops;
    sy_backend *inner;
    double seconds;
} timed_backend;

typedef struct bench {
    sy_comm *comm;
    sy_backend *be;
    sy_liveness *live;
    timed_backend timed;
    int64_t n_exchanges; /* since timed.seconds was zero */
    sy_exchange *ex;
    sy_placement *placement;
    sy_plan plan; /* the plan of the current size, for what MPI has to carry */
    int n_ranks;
    int64_t n_tokens;
    uint64_t row_bytes, result_bytes;
    void *x;
    float *y, *out;
    int32_t *expert;
    float *weight;
    uint64_t x_bytes, y_bytes, out_bytes, choice_bytes;
    alltoall tokens, results;
    int *counts; /* the tables of both */
    char *send, *receive;
    uint64_t send_bytes, receive_bytes;
} bench;

static timed_backend *timed_of(sy_backend *be) {
    return (timed_backend *)(void *)be; /* base is its first member */
}

static sy_status timed_alloc(sy_backend *be, void *out, uint64_t bytes, const char *what) {
    sy_backend *inner = timed_of(be)->inner;
    return inner->ops->alloc(inner, out, bytes, what);
}

static void timed_free(sy_backend *be, void *ptr, uint64_t bytes) {
    sy_backend *inner = timed_of(be)->inner;
    inner->ops->free(inner, ptr, bytes);
}

static sy_status timed_pack_rows(sy_backend *be,
                                 int64_t n_rows,
                                 int64_t row_bytes,
                                 const sy_row_ref *ref,
                                 const void *const *chunk,
                                 void *dst,
                                 sy_stream *s) {
    timed_backend *t = timed_of(be);
    double start = sy_now();
    sy_status st = t->inner->ops->pack_rows(t->inner, n_rows, row_bytes, ref, chunk, dst, s);
    t->seconds += sy_now() - start;
    return st;
}

static sy_status timed_unpack(sy_backend *be, const sy_tree_job *job, sy_stream *s) {
    timed_backend *t = timed_of(be);
    double start = sy_now();
    sy_status st = t->inner->ops->unpack(t->inner, job, s);
    t->seconds += sy_now() - start;
    return st;
}

static void open_timed(timed_backend *t, sy_backend *inner) {
    t->inner = inner;
    t->ops = (sy_ops){.name = inner->ops->name,
                      .alloc = timed_alloc,
                      .free = timed_free,
                      .pack_rows = timed_pack_rows,
                      .unpack = timed_unpack};
    t->base = (sy_backend){.ops = &t->ops, .act = inner->act};
}

/* K distinct experts per row, uniformly at random. */
static void choose_experts(bench *b, const sy_exchange_shape *shape) {
    uint64_t key = sy_hash_add(2718, (uint64_t)sy_comm_rank(b->comm)), counter = 0;
    for (int64_t row = 0; row < shape->max_rows; row++) {
        int32_t *chosen = b->expert + row * shape->top_k;
        for (int k = 0; k < shape->top_k; k++) {
            bool again = true;
            while (again) {
                chosen[k] = (int32_t)(sy_hash_add(key, counter++) % (uint64_t)shape->experts);
                again = false;
                for (int i = 0; i < k; i++)
                    again |= chosen[i] == chosen[k];
            }
            b->weight[row * shape->top_k + k] = 1.0f / (float)shape->top_k;
        }
    }
}

static sy_status open_bench(bench *b, const sy_exchange_shape *shape) {
    sy_status st = SY_OK;
    uint64_t rows = (uint64_t)shape->max_rows, hidden = (uint64_t)shape->hidden;
    sy_plan_shape plan = {.max_rows = shape->max_rows,
                          .n_ranks = b->n_ranks,
                          .top_k = shape->top_k,
                          .max_slots = shape->max_slots,
                          .max_experts = shape->experts,
                          .reduced = shape->combine != SY_COMBINE_EXACT};
    b->row_bytes = hidden * (uint64_t)(sy_dtype_bits(shape->act) / 8);
    b->result_bytes = hidden * (shape->combine == SY_COMBINE_REDUCED_BF16 ? 2 : 4);
    b->x_bytes = rows * b->row_bytes;
    b->y_bytes = (uint64_t)sy_exchange_max_pairs(b->comm, shape) * hidden * sizeof(float);
    b->out_bytes = rows * hidden * sizeof(float);
    b->choice_bytes = rows * (uint64_t)shape->top_k * sizeof(int32_t);
    const sy_limits limits = {.max_rows = shape->max_rows,
                              .max_pairs = sy_exchange_max_pairs(b->comm, shape),
                              .hidden = shape->hidden,
                              .experts = shape->experts,
                              .top_k = shape->top_k};
    if (b->be->ops->reserve != NULL) SY_TRY(b->be->ops->reserve(b->be, &limits));
    SY_TRY(sy_plan_create(&plan, sy_comm_rank(b->comm), &b->plan));
    SY_TRY(b->be->ops->alloc(b->be, &b->x, b->x_bytes, "bench rows"));
    SY_TRY(b->be->ops->alloc(b->be, &b->y, b->y_bytes, "bench results"));
    SY_TRY(b->be->ops->alloc(b->be, &b->out, b->out_bytes, "bench output"));
    SY_TRY(sy_mem_alloc(&b->expert, b->choice_bytes, "bench choice"));
    SY_TRY(sy_mem_alloc(&b->weight, b->choice_bytes, "bench weights"));
    SY_TRY(sy_mem_alloc(&b->counts, 8 * (uint64_t)b->n_ranks * sizeof(int), "bench counts"));
    choose_experts(b, shape);
done:
    return st;
}

static void close_bench(bench *b) {
    sy_exchange_destroy(b->ex);
    sy_plan_destroy(&b->plan);
    sy_placement_destroy(b->placement);
    b->be->ops->free(b->be, b->x, b->x_bytes);
    b->be->ops->free(b->be, b->y, b->y_bytes);
    b->be->ops->free(b->be, b->out, b->out_bytes);
    sy_mem_free(b->expert, b->choice_bytes);
    sy_mem_free(b->weight, b->choice_bytes);
    sy_mem_free(b->counts, 8 * (uint64_t)b->n_ranks * sizeof(int));
    sy_mem_free(b->send, b->send_bytes);
    sy_mem_free(b->receive, b->receive_bytes);
}

static sy_status exchange_round(bench *b) {
    sy_status st = SY_OK;
    sy_expert_rows rows;
    SY_TRY(sy_dispatch_begin(b->ex, &b->placement->layer[0], b->n_tokens, b->x, b->expert,
                             b->weight, (uint64_t)b->n_tokens, NULL));
    SY_TRY(sy_dispatch_end(b->ex, &rows, NULL));
    SY_TRY(sy_combine_begin(b->ex, b->y, NULL));
    SY_TRY(sy_combine_end(b->ex, NULL, b->out, NULL));
    b->n_exchanges++;
done:
    return st;
}

static sy_status alltoallv_round(bench *b) {
    sy_status st = SY_OK;
    const alltoall *both[2] = {&b->tokens, &b->results};
    for (int i = 0; i < 2; i++) {
        const alltoall *a = both[i];
        SY_TRY(sy_mpi_status(MPI_Alltoallv(b->send, a->send, a->send_at, MPI_BYTE, b->receive,
                                           a->receive, a->receive_at, MPI_BYTE,
                                           sy_comm_mpi(b->comm)),
                             "MPI_Alltoallv"));
    }
done:
    return st;
}

/* The largest value of any rank. */
static sy_status maximum(sy_comm *comm, double mine, double *out) {
    sy_status st = SY_OK;
    double *all = NULL;
    uint64_t bytes = (uint64_t)sy_comm_size(comm) * sizeof *all;
    SY_TRY(sy_mem_alloc(&all, bytes, "bench times"));
    SY_TRY(sy_comm_all_gather(comm, &mine, sizeof mine, all));
    *out = 0;
    for (int r = 0; r < sy_comm_size(comm); r++)
        if (all[r] > *out) *out = all[r];
done:
    sy_mem_free(all, bytes);
    return st;
}

static sy_status time_batch(bench *b, sy_status (*round)(bench *), int64_t n, double *seconds) {
    sy_status st = SY_OK;
    SY_TRY(sy_comm_barrier(b->comm));
    double start = sy_now();
    for (int64_t i = 0; i < n; i++)
        SY_TRY(round(b));
    SY_TRY(maximum(b->comm, (sy_now() - start) / (double)n, seconds));
    if (b->live != NULL) sy_progress(b->live);
done:
    return st;
}

/* Median over batches; the warm-up tells how many rounds fill the time, alike on all ranks. */
static sy_status
time_rounds(bench *b, sy_status (*round)(bench *), double seconds, double *out) {
    sy_status st = SY_OK;
    double once = 0, batch[BATCHES];
    SY_TRY(time_batch(b, round, WARM_UP, &once));
    SY_TRY(time_batch(b, round, MIN_ROUNDS, &once));
    double wanted = once > 0 ? seconds / BATCHES / once : MAX_ROUNDS;
    int64_t n =
        wanted < MIN_ROUNDS ? MIN_ROUNDS : (wanted > MAX_ROUNDS ? MAX_ROUNDS : (int64_t)wanted);
    for (int i = 0; i < BATCHES; i++) {
        SY_TRY(time_batch(b, round, n, &once));
        int at = i; /* sorted by insertion */
        for (; at > 0 && batch[at - 1] > once; at--)
            batch[at] = batch[at - 1];
        batch[at] = once;
    }
    *out = batch[BATCHES / 2];
done:
    return st;
}

/* Turns counts into displacements; the total must fit MPI's int. */
static bool displace(int n, const int *count, int *at, uint64_t *total) {
    int64_t sum = 0;
    for (int r = 0; r < n; r++) {
        at[r] = (int)sum;
        sum += count[r];
        if (sum > INT_MAX) return false;
    }
    if ((uint64_t)sum > *total) *total = (uint64_t)sum;
    return true;
}

static void lay_out_tables(bench *b) {
    alltoall *both[2] = {&b->tokens, &b->results};
    int n = b->n_ranks, *at = b->counts;
    for (int i = 0; i < 2; i++, at += 4 * n)
        *both[i] = (alltoall){at, at + n, at + 2 * n, at + 3 * n};
}

/* What MPI has to carry in a round: rows and pairs there, result rows back. */
static sy_status prepare_alltoallv(bench *b, uint64_t *sent) {
    sy_status st = SY_OK;
    int n = b->n_ranks, me = sy_comm_rank(b->comm);
    uint64_t send_bytes = 0, receive_bytes = 0;
    bool fits = true;
    *sent = 0;
    SY_TRY(sy_plan_build(&b->plan, &b->placement->layer[0], b->n_tokens, b->expert, b->weight));
    lay_out_tables(b);
    for (int r = 0; r < n; r++) {
        uint64_t tokens = (uint64_t)(b->plan.token_first[r + 1] - b->plan.token_first[r]);
        uint64_t pairs = (uint64_t)(b->plan.pair_first[r + 1] - b->plan.pair_first[r]);
        uint64_t there = r == me ? 0 : tokens * b->row_bytes + pairs * sizeof(sy_pair);
        uint64_t back = r == me ? 0 : (uint64_t)b->plan.n_segments[r] * b->result_bytes;
        fits &= there <= INT_MAX && back <= INT_MAX;
        b->tokens.send[r] = fits ? (int)there : 0;
        b->results.receive[r] = fits ? (int)back : 0;
    }
    MPI_Comm mpi = sy_comm_mpi(b->comm);
    SY_TRY(sy_mpi_status(
        MPI_Alltoall(b->tokens.send, 1, MPI_INT, b->tokens.receive, 1, MPI_INT, mpi),
        "exchanging counts"));
    SY_TRY(sy_mpi_status(
        MPI_Alltoall(b->results.receive, 1, MPI_INT, b->results.send, 1, MPI_INT, mpi),
        "exchanging counts"));
    alltoall *both[2] = {&b->tokens, &b->results};
    for (int i = 0; i < 2; i++)
        fits = fits && displace(n, both[i]->send, both[i]->send_at, &send_bytes) &&
               displace(n, both[i]->receive, both[i]->receive_at, &receive_bytes);
    if (!fits)
        st = sy_fail(SY_ERR_UNSUPPORTED, "the payload exceeds what MPI_Alltoallv counts");
    for (int r = 0; r < n && fits; r++)
        *sent += (uint64_t)b->tokens.send[r] + (uint64_t)b->results.send[r];
    if (fits && send_bytes > b->send_bytes) {
        sy_mem_free(b->send, b->send_bytes);
        b->send_bytes = send_bytes;
        st = sy_mem_alloc(&b->send, send_bytes, "bench messages");
    }
    if (st == SY_OK && receive_bytes > b->receive_bytes) {
        sy_mem_free(b->receive, b->receive_bytes);
        b->receive_bytes = receive_bytes;
        st = sy_mem_alloc(&b->receive, receive_bytes, "bench messages");
    }
    SY_TRY(sy_comm_agree(b->comm, st));
    if (b->send != NULL) memset(b->send, 1, b->send_bytes); /* its pages exist */
done:
    return st;
}

static sy_status mean_bytes(sy_comm *comm, uint64_t mine, uint64_t *out) {
    sy_status st = SY_OK;
    uint64_t *all = NULL, size = (uint64_t)sy_comm_size(comm), sum = 0;
    SY_TRY(sy_mem_alloc(&all, size * sizeof *all, "bench bytes"));
    SY_TRY(sy_comm_all_gather(comm, &mine, sizeof mine, all));
    for (uint64_t r = 0; r < size; r++)
        sum += all[r];
    *out = sum / size;
done:
    sy_mem_free(all, size * sizeof *all);
    return st;
}

static sy_status measure_row(bench *b, double seconds, sy_exchange_bench_row *row) {
    sy_status st = SY_OK;
    uint64_t sent = 0;
    *row = (sy_exchange_bench_row){.tokens = b->n_tokens};
    b->timed.seconds = 0;
    b->n_exchanges = 0;
    SY_TRY(time_rounds(b, exchange_round, seconds, &row->exchange_s));
    SY_TRY(maximum(b->comm, b->timed.seconds / (double)b->n_exchanges, &row->local_s));
    if (b->n_ranks > 1) {
        SY_TRY(prepare_alltoallv(b, &sent));
        SY_TRY(time_rounds(b, alltoallv_round, seconds, &row->alltoallv_s));
    }
    SY_TRY(mean_bytes(b->comm, sent, &row->bytes));
    if (row->exchange_s > 0) row->exchange_gbs = (double)row->bytes / row->exchange_s * 1e-9;
    if (row->alltoallv_s > 0) row->alltoallv_gbs = (double)row->bytes / row->alltoallv_s * 1e-9;
done:
    return st;
}

sy_status sy_exchange_bench(sy_comm *comm,
                            sy_backend *be,
                            const sy_exchange_bench_options *options,
                            sy_exchange_bench_row *row,
                            int *n_rows) {
    sy_status st = SY_OK;
    int n_ranks = sy_comm_size(comm);
    bench b = {.comm = comm, .be = be, .live = options->live, .n_ranks = n_ranks};
    sy_exchange_shape shape = {.max_rows = options->max_tokens,
                               .hidden = options->hidden,
                               .top_k = options->top_k,
                               .experts = options->experts,
                               .act = be->act,
                               .max_slots = (options->experts + n_ranks - 1) / n_ranks,
                               .combine = options->combine};
    *n_rows = 0;
    if (options->max_tokens < 1 || options->experts < 1)
        SY_FAIL(SY_ERR_USAGE, "exchange benchmark of %lld tokens and %d experts",
                (long long)options->max_tokens, options->experts);
    if (be->ops->device != NULL)
        SY_FAIL(SY_ERR_UNSUPPORTED, "the exchange alone is measured in host memory only "
                                    "(--device cpu)");
    SY_TRY(
        sy_comm_agree(comm, sy_placement_contiguous(1, &shape.experts, n_ranks, &b.placement)));
    open_timed(&b.timed, be);
    SY_TRY(sy_exchange_create(comm, &b.timed.base, &shape, &b.ex)); /* checks the shape */
    SY_TRY(sy_comm_agree(comm, open_bench(&b, &shape)));
    for (int64_t tokens = 1; *n_rows < SY_EXCHANGE_BENCH_ROWS; tokens *= 2) {
        b.n_tokens = sy_min(tokens, options->max_tokens);
        SY_TRY(measure_row(&b, options->seconds, &row[*n_rows]));
        ++*n_rows;
        if (b.n_tokens == options->max_tokens) break;
    }
done:
    close_bench(&b);
    return st;
}
