#include "comm/exchange.h"

#include <string.h>

#include "base/memory.h"
#include "comm/exchange_sizes.h"
#include "comm/link.h"
#include "comm/message.h"
#include "comm/plan.h"

/* Which of the four calls comes next. */
typedef enum phase {
    PHASE_DISPATCH_BEGIN,
    PHASE_DISPATCH_END,
    PHASE_COMBINE_BEGIN,
    PHASE_COMBINE_END,
    PHASE_FAILED
} phase;

struct sy_exchange {
    sy_comm *comm;
    sy_backend *be;
    sy_exchange_shape shape;
    sy_exchange_sizes size;
    sy_link *link;
    sy_plan plan;
    sy_arrivals arrivals;
    phase phase;
    int n_in_place; /* peers that read this rank's block */

    char *staging;
    uint64_t staging_bytes;
    void *x;
    float *sums, *returned;
    sy_row_ref *ref;            /* [T] scratch for packing */
    const void **chunk;         /* [R] where the rows of each rank lie */
    sy_dispatch_header *header; /* [R] private copies */
    sy_pair_list *list;         /* [R] */
    sy_link_message own;        /* the message to this rank itself */

    /* the current round */
    const sy_placement_layer *placement;
    const void *round_x;
    uint64_t step_hash;
    sy_exchange_stats stats;
};

/* What each rank allocates for itself; the link stands already. */
static sy_status create_parts(sy_exchange *ex) {
    sy_status st = SY_OK;
    const sy_exchange_sizes *z = &ex->size;
    uint64_t ranks = (uint64_t)sy_comm_size(ex->comm), rows = (uint64_t)ex->shape.max_rows;
    for (int r = 0; r < sy_comm_size(ex->comm); r++)
        ex->n_in_place += sy_link_in_place(ex->link, r);
    /* Peers that refused to share memory get their rows packed too. */
    if (!sy_exchange_staging(&ex->shape, z->row, (int)ranks - 1 - ex->n_in_place,
                             &ex->staging_bytes))
        SY_FAIL(SY_ERR_MEMORY, "exchange buffers exceed 2^64 bytes");
    SY_TRY(sy_plan_create(&z->plan, sy_comm_rank(ex->comm), &ex->plan));
    SY_TRY(sy_arrivals_create(&z->plan, &ex->arrivals));
    SY_TRY(sy_mem_alloc(&ex->staging, ex->staging_bytes, "messages to other hosts"));
    SY_TRY(sy_mem_alloc(&ex->ref, rows * sizeof *ex->ref, "exchange rows"));
    SY_TRY(sy_mem_alloc(&ex->chunk, ranks * sizeof *ex->chunk, "exchange tables"));
    SY_TRY(sy_mem_alloc(&ex->header, ranks * sizeof *ex->header, "exchange tables"));
    SY_TRY(sy_mem_alloc(&ex->list, ranks * sizeof *ex->list, "exchange tables"));
    SY_TRY(ex->be->ops->alloc(ex->be, &ex->x, z->x, "rows for the experts"));
    SY_TRY(ex->be->ops->alloc(ex->be, &ex->sums, z->sums, "rows to return"));
    SY_TRY(ex->be->ops->alloc(ex->be, &ex->returned, z->returned, "returned rows"));
done:
    return st;
}

sy_status sy_exchange_create(sy_comm *comm,
                             sy_backend *be,
                             const sy_exchange_shape *shape,
                             sy_exchange **out) {
    sy_status st = SY_OK;
    sy_exchange *ex = NULL;
    *out = NULL;
    SY_TRY(sy_mem_alloc(&ex, sizeof *ex, "exchange"));
    ex->comm = comm;
    ex->be = be;
    ex->shape = *shape;
    SY_TRY(sy_comm_agree(comm, sy_exchange_measure(comm, shape, &ex->size)));
    SY_TRY(sy_link_create(comm, &ex->size.link, &ex->link));
    SY_TRY(sy_comm_agree(comm, create_parts(ex)));
    *out = ex;
    ex = NULL;
done:
    sy_exchange_destroy(ex);
    return st;
}

void sy_exchange_destroy(sy_exchange *ex) {
    if (ex == NULL) return;
    uint64_t ranks = (uint64_t)sy_comm_size(ex->comm), rows = (uint64_t)ex->shape.max_rows;
    sy_link_destroy(ex->link); /* first: MPI may still read staging until its sends are done */
    ex->be->ops->free(ex->be, ex->returned, ex->size.returned);
    ex->be->ops->free(ex->be, ex->sums, ex->size.sums);
    ex->be->ops->free(ex->be, ex->x, ex->size.x);
    sy_mem_free(ex->list, ranks * sizeof *ex->list);
    sy_mem_free(ex->header, ranks * sizeof *ex->header);
    sy_mem_free(ex->chunk, ranks * sizeof *ex->chunk);
    sy_mem_free(ex->ref, rows * sizeof *ex->ref);
    sy_mem_free(ex->staging, ex->staging_bytes);
    sy_arrivals_destroy(&ex->arrivals);
    sy_plan_destroy(&ex->plan);
    sy_mem_free(ex, sizeof *ex);
}

void sy_exchange_get_stats(const sy_exchange *ex, sy_exchange_stats *out) {
    *out = ex->stats;
}

static sy_status enter(sy_exchange *ex, phase expected, const char *call) {
    if (ex->phase == expected) {
        ex->phase = PHASE_FAILED; /* until leave() */
        return SY_OK;
    }
    return sy_fail(SY_ERR_INTERNAL,
                   ex->phase == PHASE_FAILED ? "%s after a failed exchange"
                                             : "%s out of its turn in the exchange",
                   call);
}

static void leave(sy_exchange *ex, phase next) {
    ex->phase = next;
}

static void count_bytes(sy_exchange *ex, int peer, uint64_t bytes) {
    int me = sy_comm_rank(ex->comm);
    if (peer == me) return;
    if (sy_comm_host(ex->comm, peer) == sy_comm_host(ex->comm, me))
        ex->stats.bytes_in_host += bytes;
    else
        ex->stats.bytes_between_hosts += bytes;
}

/* Writes the head of the message to a rank: header and pairs. Pairs point to rows of x, or
 * (packed) to the rows that this rank needs, in order. */
static uint64_t write_head(const sy_exchange *ex, int rank, bool packed, char *at) {
    const sy_plan *plan = &ex->plan;
    int64_t first = plan->pair_first[rank], n = plan->pair_first[rank + 1] - first;
    int64_t n_tokens = plan->token_first[rank + 1] - plan->token_first[rank];
    sy_dispatch_header header = {.magic = SY_MESSAGE_MAGIC,
                                 .version = SY_MESSAGE_VERSION,
                                 .round = ex->stats.rounds,
                                 .step_hash = ex->step_hash,
                                 .n_rows = packed ? n_tokens : plan->n_rows,
                                 .n_pairs = n,
                                 .n_segments = plan->n_segments[rank]};
    sy_pair *pair = (sy_pair *)(void *)(at + sizeof header);
    memcpy(at, &header, sizeof header);
    if (n > 0) memcpy(pair, plan->pair + first, (size_t)n * sizeof *pair);
    int32_t packed_row = -1, last = -1;
    for (int64_t i = 0; packed && i < n; i++) {
        packed_row += pair[i].row != last;
        last = pair[i].row;
        pair[i].row = packed_row;
    }
    return sy_message_head_bytes((uint64_t)n);
}

/* Packs the rows that a rank needs behind the head of its message. */
static sy_status
pack_tokens(sy_exchange *ex, int rank, char *at, uint64_t *bytes, sy_stream *s) {
    int64_t first = ex->plan.token_first[rank], n = ex->plan.token_first[rank + 1] - first;
    uint64_t rows = (uint64_t)n * ex->size.row;
    *bytes = (rows + SY_MESSAGE_UNIT - 1) / SY_MESSAGE_UNIT * SY_MESSAGE_UNIT;
    for (int64_t i = 0; i < n; i++)
        ex->ref[i] = (sy_row_ref){0, ex->plan.token[first + i]};
    return ex->be->ops->pack_rows(ex->be, n, (int64_t)ex->size.row, ex->ref, &ex->round_x, at,
                                  s);
}

/* All rows at the start of the block, once for all peers that read in place. */
static sy_status show_rows(sy_exchange *ex, sy_stream *s) {
    int64_t n = ex->plan.n_rows;
    if (ex->n_in_place == 0 || n == 0) return SY_OK;
    for (int64_t i = 0; i < n; i++)
        ex->ref[i] = (sy_row_ref){0, (int32_t)i};
    return ex->be->ops->pack_rows(ex->be, n, (int64_t)ex->size.row, ex->ref, &ex->round_x,
                                  sy_link_block(ex->link, SY_CHANNEL_DISPATCH), s);
}

static sy_status send_tokens(sy_exchange *ex, sy_stream *s) {
    sy_status st = SY_OK;
    int me = sy_comm_rank(ex->comm), size = sy_comm_size(ex->comm);
    char *in_place = (char *)sy_link_block(ex->link, SY_CHANNEL_DISPATCH) + ex->size.rows;
    char *staging = ex->staging;
    for (int i = 0; i < size; i++) {
        int r = (me + i) % size; /* not all at the same receiver first */
        bool packed = r != me && !sy_link_in_place(ex->link, r);
        char **at = packed ? &staging : &in_place, *message = *at;
        uint64_t row_bytes = 0, head = write_head(ex, r, packed, message);
        if (packed) SY_TRY(pack_tokens(ex, r, message + head, &row_bytes, s));
        *at += head + row_bytes;
        if (r == me) {
            ex->own = (sy_link_message){.data = message, .bytes = head, .block = ex->round_x};
            continue;
        }
        SY_TRY(sy_link_send(ex->link, SY_CHANNEL_DISPATCH, r, message, head + row_bytes));
        uint64_t tokens = (uint64_t)(ex->plan.token_first[r + 1] - ex->plan.token_first[r]);
        uint64_t pairs = (uint64_t)(ex->plan.pair_first[r + 1] - ex->plan.pair_first[r]);
        ex->stats.tokens_sent += tokens;
        count_bytes(ex, r, tokens * ex->size.row + pairs * sizeof(sy_pair));
    }
done:
    return st;
}

sy_status sy_dispatch_begin(sy_exchange *ex,
                            const sy_placement_layer *placement,
                            int64_t n_rows,
                            const void *x,
                            const int32_t *expert,
                            const float *weight,
                            uint64_t step_hash,
                            sy_stream *s) {
    sy_status st = SY_OK;
    SY_TRY(enter(ex, PHASE_DISPATCH_BEGIN, "sy_dispatch_begin"));
    ex->placement = placement;
    ex->round_x = x;
    ex->step_hash = step_hash;
    SY_TRY(sy_plan_build(&ex->plan, placement, n_rows, expert, weight));
    SY_TRY(show_rows(ex, s));
    SY_TRY(send_tokens(ex, s));
    leave(ex, PHASE_DISPATCH_END);
done:
    return st;
}

/* Splits what each rank sent into header, pairs and rows. */
static sy_status open_messages(sy_exchange *ex) {
    sy_status st = SY_OK;
    int me = sy_comm_rank(ex->comm), size = sy_comm_size(ex->comm);
    sy_message_limits limits = {.max_rows = ex->shape.max_rows,
                                .max_pairs = ex->shape.max_rows *
                                             sy_plan_pairs_per_token(&ex->size.plan),
                                .row_bytes = ex->size.row};
    for (int r = 0; r < size; r++) {
        sy_link_message m = ex->own;
        if (r != me) SY_TRY(sy_link_received(ex->link, SY_CHANNEL_DISPATCH, r, &m));
        SY_TRY(sy_message_open(&limits, r, m.data, m.bytes, m.block == NULL && r != me,
                               &ex->header[r]));
        const char *data = m.data;
        const sy_dispatch_header *h = &ex->header[r];
        ex->list[r] = (sy_pair_list){.pair = (const void *)(data + sizeof *h),
                                     .n_pairs = h->n_pairs,
                                     .n_rows = h->n_rows,
                                     .n_segments = h->n_segments};
        /* In place the rows lie at the start of the block; packed, behind the pairs. */
        bool packed = m.block == NULL && r != me;
        ex->chunk[r] = packed ? data + sy_message_head_bytes((uint64_t)h->n_pairs) : m.block;
    }
    SY_TRY(sy_message_check_plans(ex->header, size, me));
done:
    return st;
}

sy_status sy_dispatch_end(sy_exchange *ex, sy_expert_rows *rows, sy_stream *s) {
    sy_status st = SY_OK;
    sy_arrivals *a = &ex->arrivals;
    SY_TRY(enter(ex, PHASE_DISPATCH_END, "sy_dispatch_end"));
    SY_TRY(sy_link_wait(ex->link, SY_CHANNEL_DISPATCH));
    SY_TRY(open_messages(ex));
    SY_TRY(sy_arrivals_build(a, ex->placement, sy_comm_rank(ex->comm), ex->list));
    SY_TRY(ex->be->ops->pack_rows(ex->be, a->n_pairs, (int64_t)ex->size.row, a->ref, ex->chunk,
                                  ex->x, s));
    SY_TRY(sy_link_release(ex->link, SY_CHANNEL_DISPATCH));
    *rows = (sy_expert_rows){
        .n_slots = a->n_slots, .n_pairs = a->n_pairs, .first = a->slot_first, .x = ex->x};
    leave(ex, PHASE_COMBINE_BEGIN);
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

sy_status sy_combine_begin(sy_exchange *ex, const float *y, sy_stream *s) {
    sy_status st = SY_OK;
    const sy_arrivals *a = &ex->arrivals;
    int me = sy_comm_rank(ex->comm), size = sy_comm_size(ex->comm);
    bool bf16 = ex->shape.combine == SY_COMBINE_REDUCED_BF16;
    char *block = sy_link_block(ex->link, SY_CHANNEL_COMBINE);
    SY_TRY(enter(ex, PHASE_COMBINE_BEGIN, "sy_combine_begin"));
    sy_tree_job job = {.n_rows = a->source_first[size],
                       .width = ex->shape.hidden,
                       .n_experts = ex->placement->n_experts,
                       .first = a->segment_first,
                       .leaf = a->leaf,
                       .chunk = &y,
                       .weighted = true,
                       .out = bf16 ? ex->sums : (float *)(void *)block};
    SY_TRY(ex->be->ops->unpack(ex->be, &job, s));
    if (bf16) narrow(ex->sums, job.n_rows * job.width, (uint16_t *)(void *)block);
    for (int i = 1; i < size; i++) {
        int r = (me + i) % size;
        uint64_t first = (uint64_t)a->source_first[r];
        uint64_t n = (uint64_t)a->source_first[r + 1] - first;
        SY_TRY(sy_link_send(ex->link, SY_CHANNEL_COMBINE, r, block + first * ex->size.result,
                            n * ex->size.result));
        ex->stats.rows_returned += n;
        count_bytes(ex, r, n * ex->size.result);
    }
    leave(ex, PHASE_COMBINE_END);
done:
    return st;
}

/* Where the rows of each rank lie that come home, as float32. */
static sy_status open_results(sy_exchange *ex) {
    sy_status st = SY_OK;
    int me = sy_comm_rank(ex->comm);
    float *returned = ex->returned;
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
        if (ex->shape.combine != SY_COMBINE_REDUCED_BF16) continue;
        widen(m.data, n * ex->shape.hidden, returned);
        ex->chunk[r] = returned;
        returned += n * ex->shape.hidden;
    }
done:
    return st;
}

sy_status sy_combine_end(sy_exchange *ex, const float *shared, float *x, sy_stream *s) {
    sy_status st = SY_OK;
    SY_TRY(enter(ex, PHASE_COMBINE_END, "sy_combine_end"));
    SY_TRY(sy_link_wait(ex->link, SY_CHANNEL_COMBINE));
    SY_TRY(open_results(ex));
    sy_tree_job job = {.n_rows = ex->plan.n_rows,
                       .width = ex->shape.hidden,
                       .n_experts = ex->placement->n_experts,
                       .first = ex->plan.leaf_first,
                       .leaf = ex->plan.leaf,
                       .chunk = (const float *const *)(const void *)ex->chunk,
                       .shared = shared,
                       .out = x,
                       .accumulate = true};
    SY_TRY(ex->be->ops->unpack(ex->be, &job, s));
    SY_TRY(sy_link_release(ex->link, SY_CHANNEL_COMBINE));
    ex->stats.rounds++;
    leave(ex, PHASE_DISPATCH_BEGIN);
done:
    return st;
}
