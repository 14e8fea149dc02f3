/* What travels: rows and bytes of each link, and when a wait was over. */
#include "base/clock.h"
#include "comm/exchange_form.h"

void sy_exchange_get_stats(const sy_exchange *ex, sy_exchange_stats *out) {
    *out = ex->stats;
}

const sy_exchange_peer *sy_exchange_peers(const sy_exchange *ex) {
    return ex->peer;
}

int64_t sy_exchange_waited_until(const sy_exchange *ex) {
    return ex->waited_until;
}

static bool is_own(const sy_exchange *ex, int peer) {
    return peer == sy_comm_rank(ex->comm);
}

static void count(sy_traffic *traffic, uint64_t rows, uint64_t bytes) {
    traffic->rows += rows;
    traffic->bytes += bytes;
}

static void count_sent(sy_exchange *ex, int peer, uint64_t bytes) {
    if (sy_comm_host(ex->comm, peer) == sy_comm_host(ex->comm, sy_comm_rank(ex->comm)))
        ex->stats.bytes_in_host += bytes;
    else
        ex->stats.bytes_between_hosts += bytes;
}

static uint64_t
dispatch_bytes(const sy_exchange *ex, int peer, uint64_t tokens, uint64_t pairs) {
    return is_own(ex, peer) ? 0 : tokens * ex->size.row + pairs * sizeof(sy_pair);
}

static uint64_t combine_bytes(const sy_exchange *ex, int peer, uint64_t rows) {
    return is_own(ex, peer) ? 0 : rows * ex->size.result;
}

void sy_exchange_count_dispatch(sy_exchange *ex, int peer, uint64_t tokens, uint64_t pairs) {
    uint64_t bytes = dispatch_bytes(ex, peer, tokens, pairs);
    count(&ex->peer[peer].dispatch_sent, tokens, bytes);
    if (is_own(ex, peer)) return;
    ex->stats.tokens_sent += tokens;
    count_sent(ex, peer, bytes);
}

void sy_exchange_count_arrival(sy_exchange *ex, int peer, uint64_t tokens, uint64_t pairs) {
    count(&ex->peer[peer].dispatch_received, tokens, dispatch_bytes(ex, peer, tokens, pairs));
}

void sy_exchange_count_return(sy_exchange *ex, int peer, uint64_t rows) {
    uint64_t bytes = combine_bytes(ex, peer, rows);
    count(&ex->peer[peer].combine_sent, rows, bytes);
    if (is_own(ex, peer)) return;
    ex->stats.rows_returned += rows;
    count_sent(ex, peer, bytes);
}

void sy_exchange_count_home(sy_exchange *ex, int peer, uint64_t rows) {
    count(&ex->peer[peer].combine_received, rows, combine_bytes(ex, peer, rows));
}

void sy_exchange_count_fixed_round(sy_exchange *ex,
                                   uint64_t rounds,
                                   uint64_t tokens,
                                   uint64_t results) {
    uint64_t dispatched = tokens * (ex->size.row + (uint64_t)ex->shape.top_k * 8);
    for (int r = 0; r < sy_comm_size(ex->comm); r++) {
        sy_exchange_peer *p = &ex->peer[r];
        bool own = is_own(ex, r);
        sy_traffic out = {rounds * tokens, own ? 0 : rounds * dispatched};
        sy_traffic back = {rounds * results, own ? 0 : rounds * results * ex->size.result};
        count(&p->dispatch_sent, out.rows, out.bytes);
        count(&p->dispatch_received, out.rows, out.bytes);
        count(&p->combine_sent, back.rows, back.bytes);
        count(&p->combine_received, back.rows, back.bytes);
        if (own) continue;
        ex->stats.tokens_sent += out.rows;
        ex->stats.rows_returned += back.rows;
        count_sent(ex, r, out.bytes + back.bytes);
    }
}

sy_status sy_exchange_wait(sy_exchange *ex, sy_channel channel) {
    sy_status st = sy_link_wait(ex->link, channel);
    ex->waited_until = sy_now_ns();
    return st;
}
