#include "comm/message.h"

#include <string.h>

sy_status sy_message_open(const sy_message_limits *limits,
                          int source,
                          const void *data,
                          uint64_t bytes,
                          bool packed,
                          sy_dispatch_header *out) {
    if (bytes < sizeof *out)
        return sy_fail(SY_ERR_COMM, "rank %d sent %llu bytes, less than a header", source,
                       (unsigned long long)bytes);
    memcpy(out, data, sizeof *out);
    if (out->magic != SY_MESSAGE_MAGIC || out->version != SY_MESSAGE_VERSION)
        return sy_fail(SY_ERR_COMM,
                       "rank %d sent no dispatch message (magic %08x version %u, expected %08x "
                       "version %d)",
                       source, out->magic, out->version, SY_MESSAGE_MAGIC, SY_MESSAGE_VERSION);
    if (out->n_rows < 0 || out->n_rows > limits->max_rows || out->n_pairs < 0 ||
        out->n_pairs > limits->max_pairs)
        return sy_fail(SY_ERR_COMM,
                       "rank %d sent %lld rows and %lld pairs, at most %lld and %lld", source,
                       (long long)out->n_rows, (long long)out->n_pairs,
                       (long long)limits->max_rows, (long long)limits->max_pairs);
    if (out->n_tokens < 0 || out->n_tokens > out->n_rows || out->n_tokens > out->n_pairs)
        return sy_fail(SY_ERR_COMM, "rank %d sent %lld rows and %lld pairs of %lld tokens",
                       source, (long long)out->n_rows, (long long)out->n_pairs,
                       (long long)out->n_tokens);
    uint64_t expected = sy_message_head_bytes((uint64_t)out->n_pairs);
    if (packed) {
        uint64_t rows = (uint64_t)out->n_rows * limits->row_bytes;
        expected += (rows + SY_MESSAGE_UNIT - 1) / SY_MESSAGE_UNIT * SY_MESSAGE_UNIT;
    }
    if (bytes != expected)
        return sy_fail(SY_ERR_COMM, "rank %d sent %llu bytes, its header makes %llu", source,
                       (unsigned long long)bytes, (unsigned long long)expected);
    return SY_OK;
}

static bool same_plan(const sy_dispatch_header *a, const sy_dispatch_header *b) {
    return a->step_hash == b->step_hash && a->round == b->round;
}

/* The rank whose plan the fewest share is the odd one; with two ranks either may be. */
sy_status sy_message_check_plans(const sy_dispatch_header *header, int n_ranks, int me) {
    int odd = -1, odd_shares = n_ranks, common = -1, common_shares = 0;
    for (int r = 0; r < n_ranks; r++) {
        int shares = 0;
        for (int i = 0; i < n_ranks; i++)
            shares += same_plan(&header[r], &header[i]);
        if (shares == n_ranks) return SY_OK;
        /* Among equals each rank takes another for the odd one, not itself. */
        if (shares < odd_shares || (shares == odd_shares && odd == me)) {
            odd = r;
            odd_shares = shares;
        }
        if (shares > common_shares) {
            common = r;
            common_shares = shares;
        }
    }
    if (common == odd) common = odd == me ? (me + 1) % n_ranks : me;
    return sy_fail(SY_ERR_COMM,
                   "rank %d runs another plan (step hash %016llx in round %llu; rank %d has "
                   "%016llx in round %llu)",
                   odd, (unsigned long long)header[odd].step_hash,
                   (unsigned long long)header[odd].round, common,
                   (unsigned long long)header[common].step_hash,
                   (unsigned long long)header[common].round);
}
