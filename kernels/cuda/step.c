/* The step record: what changes from step to step, in one blob that is uploaded by one copy.
 *
 * Every table has a fixed place that only the limits decide, so that recorded launches may keep
 * their pointers; the page ids stand last, and only those in use are copied. Two pinned blobs
 * take turns: one is filled while the other may still be on its way. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/cuda/cuda.h"

struct sy_cuda_record {
    int64_t rows, spans, pages; /* what fits */
    int64_t context;            /* positions of a sequence */
    int64_t fixed, bytes;       /* before the pages, and in all */
    char *host[2], *device;
    cudaEvent_t copied[2];
    int turn;
};

typedef struct tables {
    int32_t *count, *id, *position, *span_of_row, *output_row, *span_row, *page_first, *page;
} tables;

static int32_t *take(char *base, int64_t *at, int64_t n) {
    int32_t *p = base == NULL ? NULL : (int32_t *)(void *)(base + *at);
    *at += sy_round_up(n * (int64_t)sizeof *p, 16);
    return p;
}

/* Bytes in front of the pages; base NULL only measures. */
static int64_t carve(const struct sy_cuda_record *r, char *base, tables *t) {
    int64_t at = 0;
    t->count = take(base, &at, SY_COUNTS);
    t->id = take(base, &at, r->rows);
    t->position = take(base, &at, r->rows);
    t->span_of_row = take(base, &at, r->rows);
    t->output_row = take(base, &at, r->rows);
    t->span_row = take(base, &at, r->spans + 1);
    t->page_first = take(base, &at, r->spans);
    int64_t fixed = at;
    t->page = take(base, &at, r->pages);
    return fixed;
}

static sy_status size_record(const sy_limits *l, struct sy_cuda_record *r) {
    tables unused;
    r->rows = sy_max(l->max_rows, 1);
    r->context = l->max_context;
    r->spans = l->max_spans > 0 ? l->max_spans : r->rows;
    if (r->rows > INT_MAX / 8 ||
        !sy_mul_i64(r->spans, sy_ceil_div(l->max_context, SY_PAGE_TOKENS) + 1, &r->pages) ||
        r->pages > INT_MAX / 8)
        return sy_fail(SY_ERR_MEMORY, "step record for %lld rows of %lld positions: too large",
                       (long long)r->rows, (long long)l->max_context);
    r->fixed = carve(r, NULL, &unused);
    r->bytes = r->fixed + sy_round_up(r->pages * (int64_t)sizeof(int32_t), 16);
    return SY_OK;
}

uint64_t sy_cuda_record_bytes(const sy_limits *limits) {
    struct sy_cuda_record r = {0};
    return size_record(limits, &r) == SY_OK ? (uint64_t)r.bytes : UINT64_MAX;
}

sy_status sy_cuda_record_create(sy_cuda *cu) {
    sy_status st = SY_OK;
    struct sy_cuda_record *r = calloc(1, sizeof *r);
    if (r == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the step record");
    cu->record = r;
    SY_TRY(size_record(&cu->limits, r));
    SY_TRY(SY_CUDA(cu, cudaMalloc((void **)&r->device, (size_t)r->bytes)));
    for (int i = 0; i < 2; i++) {
        SY_TRY(SY_CUDA(cu, cudaHostAlloc((void **)&r->host[i], (size_t)r->bytes, 0)));
        SY_TRY(SY_CUDA(cu, cudaEventCreateWithFlags(&r->copied[i], cudaEventDisableTiming)));
    }
done:
    if (st != SY_OK) sy_status_context("the step record");
    return st;
}

void sy_cuda_record_destroy(sy_cuda *cu) {
    struct sy_cuda_record *r = cu->record;
    if (r == NULL) return;
    for (int i = 0; i < 2; i++) {
        if (r->copied[i] != NULL) cudaEventDestroy(r->copied[i]);
        if (r->host[i] != NULL) cudaFreeHost(r->host[i]);
    }
    if (r->device != NULL) cudaFree(r->device);
    free(r);
    cu->record = NULL;
}

static sy_status check(const struct sy_cuda_record *r,
                       const sy_batch *b,
                       int64_t rows,
                       int64_t n_outputs,
                       int64_t outputs) {
    int64_t pages = 0;
    for (int i = 0; i < b->n_spans; i++) {
        int64_t end = b->span[i].position + b->span[i].n_rows;
        if (b->span[i].position < 0 || end > r->context)
            return sy_fail(SY_ERR_INTERNAL, "positions %lld to %lld, made for %lld",
                           (long long)b->span[i].position, (long long)end,
                           (long long)r->context);
        pages += sy_ceil_div(end, SY_PAGE_TOKENS);
    }
    if (b->n_rows < 0 || b->n_rows > rows || rows > r->rows || b->n_spans > r->spans ||
        pages > r->pages || n_outputs < 0 || n_outputs > outputs || outputs > r->rows)
        return sy_fail(
            SY_ERR_INTERNAL,
            "a step of %d rows in %d spans with %lld pages and %lld outputs, made for "
            "%lld rows, %lld spans, %lld pages",
            b->n_rows, b->n_spans, (long long)pages, (long long)n_outputs, (long long)r->rows,
            (long long)r->spans, (long long)r->pages);
    return SY_OK;
}

static int32_t fill_spans(const sy_batch *b, tables *t) {
    int32_t pages = 0;
    for (int i = 0; i < b->n_spans; i++) {
        const sy_span *s = &b->span[i];
        int32_t n = (int32_t)sy_ceil_div(s->position + s->n_rows, SY_PAGE_TOKENS);
        t->span_row[i] = s->first_row;
        t->page_first[i] = pages;
        if (n > 0) memcpy(t->page + pages, s->pages, (size_t)n * sizeof *t->page);
        pages += n;
        for (int k = 0; k < s->n_rows; k++) {
            t->position[s->first_row + k] = (int32_t)(s->position + k);
            t->span_of_row[s->first_row + k] = i;
        }
    }
    t->span_row[b->n_spans] = b->n_rows;
    return pages;
}

static int32_t fill(const sy_batch *b,
                    int64_t rows,
                    int64_t n_outputs,
                    int64_t outputs,
                    const int32_t *output_row,
                    tables *t) {
    memset(t->count, 0, SY_COUNTS * sizeof *t->count);
    t->count[SY_COUNT_ROWS] = b->n_rows;
    t->count[SY_COUNT_OUTPUTS] = (int32_t)n_outputs;
    t->count[SY_COUNT_SPANS] = b->n_spans;
    for (int64_t i = 0; i < rows; i++) {
        bool real = i < b->n_rows;
        t->id[i] = real ? b->ids[i] : -1;
        t->position[i] = -1; /* until its span says so */
        t->span_of_row[i] = 0;
    }
    for (int64_t i = 0; i < outputs; i++)
        t->output_row[i] = i < n_outputs ? output_row[i] : 0;
    return fill_spans(b, t);
}

sy_status sy_cuda_begin_step(sy_backend *be,
                             const sy_batch *batch,
                             int64_t rows,
                             int64_t n_outputs,
                             int64_t outputs,
                             const int32_t *output_row,
                             sy_stream *s) {
    (void)s;
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    struct sy_cuda_record *r = cu->record;
    tables host, device;
    if (r == NULL) SY_FAIL(SY_ERR_INTERNAL, "a step before sy_ops.reserve");
    if (cu->recording != NULL) SY_FAIL(SY_ERR_INTERNAL, "a step record within a recording");
    SY_TRY(check(r, batch, rows, n_outputs, outputs));
    int turn = r->turn ^= 1;
    SY_TRY(SY_CUDA(cu, cudaEventSynchronize(r->copied[turn])));
    carve(r, r->host[turn], &host);
    carve(r, r->device, &device);
    int32_t pages = fill(batch, rows, n_outputs, outputs, output_row, &host);
    cu->step = (sy_cuda_step){.rows_bound = (int)rows,
                              .outputs_bound = (int)outputs,
                              .count = device.count,
                              .id = device.id,
                              .position = device.position,
                              .span_of_row = device.span_of_row,
                              .page_first = device.page_first,
                              .page = device.page,
                              .output_row = device.output_row,
                              .span_row = device.span_row};
    size_t bytes = (size_t)r->fixed + (size_t)pages * sizeof(int32_t);
    SY_TRY(SY_CUDA(cu, cudaMemcpyAsync(r->device, r->host[turn], bytes, cudaMemcpyHostToDevice,
                                       cu->stream)));
    SY_TRY(SY_CUDA(cu, cudaEventRecord(r->copied[turn], cu->stream)));
done:
    return st;
}
