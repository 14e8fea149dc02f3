/* The exchange of a backend in host memory. */
#include "base/memory.h"
#include "comm/exchange_form.h"

struct sy_host_form {
    int n_in_place; /* peers that read this rank's block */
    char *staging;
    uint64_t staging_bytes;
    void *x;
    float *sums, *returned;
    sy_row_ref *ref; /* [T] scratch for packing */
};

static sy_status create(sy_exchange *ex) {
    sy_status st = SY_OK;
    const sy_exchange_sizes *z = &ex->size;
    int size = sy_comm_size(ex->comm);
    SY_TRY(sy_mem_alloc(&ex->host, sizeof *ex->host, "exchange"));
    struct sy_host_form *f = ex->host;
    for (int r = 0; r < size; r++)
        f->n_in_place += sy_link_in_place(ex->link, r);
    /* Peers that refused to share memory get their rows packed too. */
    if (!sy_exchange_staging(&ex->shape, z->row, size - 1 - f->n_in_place, &f->staging_bytes))
        SY_FAIL(SY_ERR_MEMORY, "exchange buffers exceed 2^64 bytes");
    SY_TRY(sy_mem_alloc(&f->staging, f->staging_bytes, "messages to other hosts"));
    SY_TRY(
        sy_mem_alloc(&f->ref, (uint64_t)ex->shape.max_rows * sizeof *f->ref, "exchange rows"));
    SY_TRY(ex->be->ops->alloc(ex->be, &f->x, z->x, "rows for the experts"));
    SY_TRY(ex->be->ops->alloc(ex->be, &f->sums, z->sums, "rows to return"));
    SY_TRY(ex->be->ops->alloc(ex->be, &f->returned, z->returned, "returned rows"));
done:
    return st;
}

static void destroy(sy_exchange *ex) {
    struct sy_host_form *f = ex->host;
    if (f == NULL) return;
    ex->be->ops->free(ex->be, f->returned, ex->size.returned);
    ex->be->ops->free(ex->be, f->sums, ex->size.sums);
    ex->be->ops->free(ex->be, f->x, ex->size.x);
    sy_mem_free(f->ref, (uint64_t)ex->shape.max_rows * sizeof *f->ref);
    sy_mem_free(f->staging, f->staging_bytes);
    sy_mem_free(f, sizeof *f);
}

/* Packs the rows that a rank needs behind the head of its message. */
static sy_status
pack_tokens(sy_exchange *ex, int rank, char *at, uint64_t *bytes, sy_stream *s) {
    struct sy_host_form *f = ex->host;
    int64_t first = ex->plan.token_first[rank], n = ex->plan.token_first[rank + 1] - first;
    uint64_t rows = (uint64_t)n * ex->size.row;
    *bytes = (rows + SY_MESSAGE_UNIT - 1) / SY_MESSAGE_UNIT * SY_MESSAGE_UNIT;
    for (int64_t i = 0; i < n; i++)
        f->ref[i] = (sy_row_ref){0, ex->plan.token[first + i]};
    return ex->be->ops->pack_rows(ex->be, n, (int64_t)ex->size.row, f->ref, &ex->in.x, at, s);
}

/* All rows at the start of the block, once for all peers that read in place. */
static sy_status show_rows(sy_exchange *ex, sy_stream *s) {
    struct sy_host_form *f = ex->host;
    int64_t n = ex->plan.n_rows;
    if (f->n_in_place == 0 || n == 0) return SY_OK;
    for (int64_t i = 0; i < n; i++)
        f->ref[i] = (sy_row_ref){0, (int32_t)i};
    return ex->be->ops->pack_rows(ex->be, n, (int64_t)ex->size.row, f->ref, &ex->in.x,
                                  sy_link_block(ex->link, SY_CHANNEL_DISPATCH), s);
}

static sy_status send_tokens(sy_exchange *ex, sy_stream *s) {
    sy_status st = SY_OK;
    int me = sy_comm_rank(ex->comm), size = sy_comm_size(ex->comm);
    char *in_place = (char *)sy_link_block(ex->link, SY_CHANNEL_DISPATCH) + ex->size.rows;
    char *staging = ex->host->staging;
    for (int i = 0; i < size; i++) {
        int r = (me + i) % size; /* not all at the same receiver first */
        bool packed = r != me && !sy_link_in_place(ex->link, r);
        char **at = packed ? &staging : &in_place, *message = *at;
        uint64_t row_bytes = 0, head = sy_exchange_write_head(ex, r, packed, message);
        if (packed) SY_TRY(pack_tokens(ex, r, message + head, &row_bytes, s));
        *at += head + row_bytes;
        sy_exchange_count_dispatch(
            ex, r, (uint64_t)(ex->plan.token_first[r + 1] - ex->plan.token_first[r]),
            (uint64_t)(ex->plan.pair_first[r + 1] - ex->plan.pair_first[r]));
        if (r == me) {
            ex->own = (sy_link_message){.data = message, .bytes = head, .block = ex->in.x};
            continue;
        }
        SY_TRY(sy_link_send(ex->link, SY_CHANNEL_DISPATCH, r, message, head + row_bytes));
    }
done:
    return st;
}

static sy_status dispatch_begin(sy_exchange *ex, sy_stream *s) {
    sy_status st = SY_OK;
    const sy_exchange_input *in = &ex->in;
    SY_TRY(sy_plan_build(&ex->plan, in->placement, in->n_rows, in->expert, in->weight));
    SY_TRY(show_rows(ex, s));
    SY_TRY(send_tokens(ex, s));
done:
    return st;
}

static sy_status dispatch_end(sy_exchange *ex, sy_expert_rows *rows, sy_stream *s) {
    sy_status st = SY_OK;
    sy_arrivals *a = &ex->arrivals;
    SY_TRY(sy_exchange_wait(ex, SY_CHANNEL_DISPATCH));
    SY_TRY(sy_exchange_open_heads(ex, true));
    SY_TRY(sy_arrivals_build(a, ex->in.placement, sy_comm_rank(ex->comm), ex->list));
    SY_TRY(ex->be->ops->pack_rows(ex->be, a->n_pairs, (int64_t)ex->size.row, a->ref, ex->chunk,
                                  ex->host->x, s));
    SY_TRY(sy_link_release(ex->link, SY_CHANNEL_DISPATCH));
    *rows = (sy_expert_rows){
        .n_slots = a->n_slots, .n_pairs = a->n_pairs, .first = a->slot_first, .x = ex->host->x};
done:
    return st;
}

static void narrow(const float *from, int64_t n, uint16_t *to) {
    for (int64_t i = 0; i < n; i++)
        to[i] = sy_bf16_from_f32(from[i]);
}

static void widen(const uint16_t *from, int64_t n, float *to) {
    for (int64_t i = 0; i < n; i++)
        to[i] = sy_f32_from_bf16(from[i]);
}

static sy_status combine_begin(sy_exchange *ex, const float *y, sy_stream *s) {
    sy_status st = SY_OK;
    const sy_arrivals *a = &ex->arrivals;
    int me = sy_comm_rank(ex->comm), size = sy_comm_size(ex->comm);
    bool bf16 = ex->shape.combine == SY_COMBINE_REDUCED_BF16;
    char *block = sy_link_block(ex->link, SY_CHANNEL_COMBINE);
    sy_tree_job job = {.n_rows = a->source_first[size],
                       .width = ex->shape.hidden,
                       .n_experts = ex->in.placement->n_experts,
                       .first = a->segment_first,
                       .leaf = a->leaf,
                       .chunk = &y,
                       .weighted = true,
                       .out = bf16 ? ex->host->sums : (float *)(void *)block};
    SY_TRY(ex->be->ops->unpack(ex->be, &job, s));
    if (bf16) narrow(ex->host->sums, job.n_rows * job.width, (uint16_t *)(void *)block);
    for (int i = 0; i < size; i++) {
        int r = (me + i) % size;
        uint64_t first = (uint64_t)a->source_first[r];
        uint64_t n = (uint64_t)a->source_first[r + 1] - first;
        sy_exchange_count_return(ex, r, n);
        if (r == me) continue;
        SY_TRY(sy_link_send(ex->link, SY_CHANNEL_COMBINE, r, block + first * ex->size.result,
                            n * ex->size.result));
    }
done:
    return st;
}

/* Where the rows of each rank lie that come home, as float32. */
static sy_status open_results(sy_exchange *ex) {
    sy_status st = SY_OK;
    int me = sy_comm_rank(ex->comm);
    float *returned = ex->host->returned;
    for (int r = 0; r < sy_comm_size(ex->comm); r++) {
        int64_t n = ex->plan.n_segments[r];
        const char *block = sy_link_block(ex->link, SY_CHANNEL_COMBINE);
        sy_link_message m = {.data = block +
                                     (uint64_t)ex->arrivals.source_first[me] * ex->size.result,
                             .bytes = (uint64_t)n * ex->size.result};
        if (r != me) SY_TRY(sy_link_received(ex->link, SY_CHANNEL_COMBINE, r, &m));
        if (m.bytes != (uint64_t)n * ex->size.result)
            SY_FAIL(SY_ERR_COMM, "rank %d returned %llu bytes for %lld rows of %llu", r,
                    (unsigned long long)m.bytes, (long long)n,
                    (unsigned long long)ex->size.result);
        ex->chunk[r] = m.data;
        sy_exchange_count_home(ex, r, (uint64_t)n);
        if (ex->shape.combine != SY_COMBINE_REDUCED_BF16) continue;
        widen(m.data, n * ex->shape.hidden, returned);
        ex->chunk[r] = returned;
        returned += n * ex->shape.hidden;
    }
done:
    return st;
}

static sy_status combine_end(sy_exchange *ex, const float *shared, float *x, sy_stream *s) {
    sy_status st = SY_OK;
    SY_TRY(sy_exchange_wait(ex, SY_CHANNEL_COMBINE));
    SY_TRY(open_results(ex));
    sy_tree_job job = {.n_rows = ex->plan.n_rows,
                       .width = ex->shape.hidden,
                       .n_experts = ex->in.placement->n_experts,
                       .first = ex->plan.leaf_first,
                       .leaf = ex->plan.leaf,
                       .chunk = (const float *const *)(const void *)ex->chunk,
                       .shared = shared,
                       .out = x,
                       .accumulate = true};
    SY_TRY(ex->be->ops->unpack(ex->be, &job, s));
    SY_TRY(sy_link_release(ex->link, SY_CHANNEL_COMBINE));
    ex->stats.rounds++;
done:
    return st;
}

const sy_exchange_form sy_exchange_host = {.create = create,
                                           .destroy = destroy,
                                           .dispatch_begin = dispatch_begin,
                                           .dispatch_end = dispatch_end,
                                           .combine_begin = combine_begin,
                                           .combine_end = combine_end};
