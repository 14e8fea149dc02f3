/* What both forms share: the heads of dispatch messages, which say which pairs go to whom. */
#include <string.h>

#include "comm/exchange_form.h"

uint64_t sy_exchange_write_head(const sy_exchange *ex, int rank, bool renumbered, char *at) {
    const sy_plan *plan = &ex->plan;
    int64_t first = plan->pair_first[rank], n = plan->pair_first[rank + 1] - first;
    int64_t n_tokens = plan->token_first[rank + 1] - plan->token_first[rank];
    sy_dispatch_header header = {.magic = SY_MESSAGE_MAGIC,
                                 .version = SY_MESSAGE_VERSION,
                                 .round = ex->stats.rounds,
                                 .step_hash = ex->in.step_hash,
                                 .n_rows = renumbered ? n_tokens : plan->n_rows,
                                 .n_pairs = n,
                                 .n_segments = plan->n_segments[rank],
                                 .n_tokens = n_tokens};
    sy_pair *pair = (sy_pair *)(void *)(at + sizeof header);
    memcpy(at, &header, sizeof header);
    if (n > 0) memcpy(pair, plan->pair + first, (size_t)n * sizeof *pair);
    int32_t row = -1, last = -1;
    for (int64_t i = 0; renumbered && i < n; i++) {
        row += pair[i].row != last;
        last = pair[i].row;
        pair[i].row = row;
    }
    return sy_message_head_bytes((uint64_t)n);
}

sy_status sy_exchange_open_heads(sy_exchange *ex, bool rows_follow) {
    sy_status st = SY_OK;
    int me = sy_comm_rank(ex->comm), size = sy_comm_size(ex->comm);
    sy_message_limits limits = {.max_rows = ex->shape.max_rows,
                                .max_pairs = ex->shape.max_rows *
                                             sy_plan_pairs_per_token(&ex->size.plan),
                                .row_bytes = ex->size.row};
    for (int r = 0; r < size; r++) {
        sy_link_message m = ex->own;
        if (r != me) SY_TRY(sy_link_received(ex->link, SY_CHANNEL_DISPATCH, r, &m));
        bool packed = rows_follow && m.block == NULL && r != me;
        SY_TRY(sy_message_open(&limits, r, m.data, m.bytes, packed, &ex->header[r]));
        const sy_dispatch_header *h = &ex->header[r];
        const char *data = m.data;
        ex->list[r] = (sy_pair_list){.pair = (const void *)(data + sizeof *h),
                                     .n_pairs = h->n_pairs,
                                     .n_rows = h->n_rows,
                                     .n_segments = h->n_segments};
        /* In place the rows lie at the start of the block; packed, behind the pairs. */
        ex->chunk[r] = packed ? data + sy_message_head_bytes((uint64_t)h->n_pairs) : m.block;
        sy_exchange_count_arrival(ex, r, (uint64_t)h->n_tokens, (uint64_t)h->n_pairs);
    }
    SY_TRY(sy_message_check_plans(ex->header, size, me));
done:
    return st;
}
