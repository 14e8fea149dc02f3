#include "runtime/budget.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"

enum { SMALLEST_CHUNK = 16, MOST_RANKS = 4096 }; /* the latter: of -n */

/* Kept free for the process itself, the page cache, NCCL and recordings: one part in 20. */
static uint64_t usable(uint64_t available) {
    return available - available / 20;
}

typedef struct rank_need {
    uint64_t weights, engine;
    sy_memory_left left;
} rank_need;

static uint64_t total(const rank_need *n) {
    uint64_t sum;
    return sy_add_u64(n->weights, n->engine, &sum) ? sum : UINT64_MAX;
}

static bool share_memory(const sy_comm *comm, const rank_need *need, int a, int b) {
    return sy_comm_same_machine(comm, a, b) && need[a].left.identity == need[b].left.identity;
}

static int sharers(const sy_comm *comm, const rank_need *need, int rank) {
    int n = 0;
    for (int r = 0; r < sy_comm_size(comm); r++)
        n += share_memory(comm, need, rank, r);
    return n;
}

/* What the ranks that share a memory find available differs a little (or is bounded by a cgroup):
 * the least counts. */
static uint64_t available_to(const sy_comm *comm, const rank_need *need, int rank) {
    uint64_t least = UINT64_MAX;
    for (int r = 0; r < sy_comm_size(comm); r++)
        if (share_memory(comm, need, rank, r) && need[r].left.bytes < least)
            least = need[r].left.bytes;
    return least;
}

static uint64_t share(const sy_comm *comm, const rank_need *need, int rank) {
    return usable(available_to(comm, need, rank)) / (uint64_t)sharers(comm, need, rank);
}

/* The rank with the largest need of a memory whose ranks do not fit together; -1: all fit. */
static int find_overflow(const sy_comm *comm, const rank_need *need) {
    for (int rank = 0; rank < sy_comm_size(comm); rank++) {
        uint64_t sum = 0, available = available_to(comm, need, rank);
        int largest = rank;
        for (int r = 0; r < sy_comm_size(comm); r++) {
            if (!share_memory(comm, need, rank, r)) continue;
            if (!sy_add_u64(sum, total(&need[r]), &sum)) sum = UINT64_MAX;
            if (total(&need[r]) > total(&need[largest])) largest = r;
        }
        if (available != UINT64_MAX && sum > usable(available)) return largest;
    }
    return -1;
}

/* Whether the fullest of R ranks gets by with `available` bytes: the last one, which holds the most
 * experts of a contiguous placement. */
static bool fits_on(const sy_engine_parts *p,
                    const sy_checkpoint *checkpoint,
                    const int *experts,
                    int R,
                    uint64_t engine,
                    uint64_t available) {
    sy_placement *placement;
    uint64_t weights = 0, sum;
    if (sy_placement_contiguous(p->spec->n_layers, experts, R, &placement) != SY_OK)
        return false;
    sy_status st = sy_weights_bytes(p->be, p->spec, placement, R - 1, checkpoint, &weights);
    sy_placement_destroy(placement);
    return st == SY_OK && sy_add_u64(weights, engine, &sum) && sum <= available;
}

/* The fewest ranks, each with `available` bytes, on which the model fits; 0 = none found. The need
 * of the fullest rank never grows with their number. */
static int ranks_needed(const sy_engine_parts *p,
                        const sy_checkpoint *checkpoint,
                        uint64_t engine,
                        uint64_t available) {
    int *experts = calloc((size_t)p->spec->n_layers, sizeof *experts);
    int low = sy_comm_size(p->comm) + 1, high = MOST_RANKS;
    if (experts == NULL) return 0;
    for (int l = 0; l < p->spec->n_layers; l++)
        experts[l] = p->spec->layer[l].ffn.experts;
    bool found = low <= high && fits_on(p, checkpoint, experts, high, engine, available);
    while (found && low < high) {
        int middle = low + (high - low) / 2;
        if (fits_on(p, checkpoint, experts, middle, engine, available))
            high = middle;
        else
            low = middle + 1;
    }
    free(experts);
    return found ? high : 0;
}

static sy_status refuse(const sy_engine_parts *p,
                        const sy_checkpoint *checkpoint,
                        const rank_need *need,
                        int rank) {
    uint64_t available = share(p->comm, need, rank);
    int R = ranks_needed(p, checkpoint, need[rank].engine, available);
    char needs[32], weights[32], engine[32], has[32], advice[96];
    if (R > 0)
        snprintf(advice, sizeof advice, "use at least %d ranks with as much memory", R);
    else
        snprintf(advice, sizeof advice, "more ranks would not help; use %s",
                 need[rank].engine > need[rank].weights ? "shorter or fewer sequences"
                                                        : "machines with more memory");
    return sy_fail(
        SY_ERR_MEMORY,
        "needs %s on rank %d (weights %s, KV cache and buffers %s), %s available; %s",
        sy_format_bytes(needs, sizeof needs, total(&need[rank])), rank,
        sy_format_bytes(weights, sizeof weights, need[rank].weights),
        sy_format_bytes(engine, sizeof engine, need[rank].engine),
        sy_format_bytes(has, sizeof has, available), advice);
}

sy_status sy_budget_fit(const sy_engine_parts *p,
                        const sy_checkpoint *checkpoint,
                        sy_memory_left left,
                        sy_engine_options *o,
                        sy_budget *out) {
    sy_status st = SY_OK;
    int rank = sy_comm_rank(p->comm);
    int64_t wanted = o->chunk;
    bool outputs_follow = o->max_outputs == o->chunk;
    rank_need *need = calloc((size_t)sy_comm_size(p->comm), sizeof *need);
    rank_need mine = {.left = left};
    if (need == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for the memory budget");
    else
        st = sy_weights_bytes(p->be, p->spec, p->placement, rank, checkpoint, &mine.weights);
    SY_TRY(sy_comm_agree(p->comm, st));

    for (;;) {
        mine.engine = sy_engine_bytes(p, o);
        SY_TRY(sy_comm_all_gather(p->comm, &mine, sizeof mine, need));
        int worst = find_overflow(p->comm, need);
        if (worst < 0) break;
        int64_t chunk = sy_max(o->chunk / 2, sy_max(o->per_rank, SMALLEST_CHUNK));
        if (chunk >= o->chunk) {
            /* All ranks refuse alike; one of them says it. */
            st = sy_comm_agree(p->comm, refuse(p, checkpoint, need, worst));
            goto done;
        }
        o->chunk = chunk;
        if (outputs_follow) o->max_outputs = chunk;
    }
    if (o->chunk < wanted)
        SY_INFO("prefill in chunks of %lld tokens instead of %lld, to fit into memory",
                (long long)o->chunk, (long long)wanted);
    *out = (sy_budget){mine.weights, mine.engine, share(p->comm, need, rank)};
done:
    free(need);
    return st;
}
