#include "runtime/budget.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"

enum { SMALLEST_CHUNK = 16, MOST_RANKS = 4096 }; /* the latter: of -n */

/* What a rank's process has beside its blocks: code, MPI's buffers, stacks, tables of tensors. From
 * tests/test_plan_memory.c, which fails where this is far off. */
#define PROCESS_BYTES ((uint64_t)16 << 20)

/* Kept free for the page cache, NCCL and recordings: one part in 20. */
static uint64_t usable(uint64_t available) {
    return available - available / 20;
}

/* A placement that leaves this rank no expert: what it holds then is the rest. */
static sy_status
count_rest(const sy_engine_parts *p, const sy_checkpoint *checkpoint, uint64_t *out) {
    sy_status st = SY_OK;
    int most = 0;
    sy_placement bare = {.n_layers = p->spec->n_layers};
    int32_t *zeros = NULL;
    sy_home nobody = {0};
    for (int l = 0; l < bare.n_layers; l++)
        most = (int)sy_max(most, p->spec->layer[l].ffn.experts);
    zeros = calloc((size_t)most + 2, sizeof *zeros);
    bare.layer = calloc((size_t)sy_max(bare.n_layers, 1), sizeof *bare.layer);
    if (zeros == NULL || bare.layer == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for the memory budget");
    for (int l = 0; l < bare.n_layers; l++)
        bare.layer[l] = (sy_placement_layer){.n_experts = p->spec->layer[l].ffn.experts,
                                             .n_ranks = 1,
                                             .slot_first = zeros,
                                             .slot_expert = zeros,
                                             .home_first = zeros,
                                             .home = &nobody};
    SY_TRY(sy_weights_bytes(p->be, p->spec, &bare, 0, checkpoint, out));
done:
    free(bare.layer);
    free(zeros);
    return st;
}

void sy_budget_count_engine(const sy_engine_parts *p,
                            const sy_engine_options *o,
                            sy_memory_parts *out) {
    uint64_t engine = sy_engine_bytes(p, o);
    out->kv = sy_kv_bytes(p->be, p->spec, o->max_pages);
    out->buffers = engine < out->kv ? 0 : engine - out->kv;
    if (engine == UINT64_MAX) out->buffers = UINT64_MAX;
    out->process = PROCESS_BYTES;
}

sy_status sy_budget_count(const sy_engine_parts *p,
                          const sy_checkpoint *checkpoint,
                          const sy_engine_options *o,
                          sy_memory_parts *out) {
    sy_status st = SY_OK;
    uint64_t all;
    *out = (sy_memory_parts){0};
    SY_TRY(sy_weights_bytes(p->be, p->spec, p->placement, sy_comm_rank(p->comm), checkpoint,
                            &all));
    SY_TRY(count_rest(p, checkpoint, &out->rest));
    out->experts = all - out->rest;
    sy_budget_count_engine(p, o, out);
done:
    return st;
}

uint64_t sy_budget_total(const sy_memory_parts *parts) {
    const uint64_t part[] = {parts->experts, parts->rest, parts->kv, parts->buffers,
                             parts->process};
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        if (!sy_add_u64(sum, part[i], &sum)) return UINT64_MAX;
    return sum;
}

bool sy_budget_shrink(sy_engine_options *o) {
    bool outputs_follow = o->max_outputs == o->chunk;
    int64_t chunk = sy_max(o->chunk / 2, sy_max(o->per_rank, SMALLEST_CHUNK));
    if (chunk >= o->chunk) return false;
    o->chunk = chunk;
    if (outputs_follow) o->max_outputs = chunk;
    return true;
}

typedef struct rank_need {
    sy_memory_parts parts;
    sy_memory_left left;
} rank_need;

static uint64_t weight_bytes(const rank_need *n) {
    return n->parts.experts + n->parts.rest; /* a sum that was counted */
}

static uint64_t engine_bytes(const rank_need *n) {
    uint64_t sum;
    return sy_add_u64(n->parts.kv, n->parts.buffers, &sum) ? sum : UINT64_MAX;
}

/* What is yet to be taken: the process is there already, and no longer part of what is left. */
static uint64_t total(const rank_need *n) {
    uint64_t sum;
    return sy_add_u64(weight_bytes(n), engine_bytes(n), &sum) ? sum : UINT64_MAX;
}

static bool exceeds_limit(const rank_need *n) {
    return n->left.limit > 0 && sy_budget_total(&n->parts) > n->left.limit;
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

/* A rank beyond its limit, or that with the largest need of a memory whose ranks do not fit together;
 * -1: all fit. */
static int find_overflow(const sy_comm *comm, const rank_need *need) {
    for (int rank = 0; rank < sy_comm_size(comm); rank++) {
        uint64_t sum = 0, available = available_to(comm, need, rank);
        if (exceeds_limit(&need[rank])) return rank;
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
    const rank_need *n = &need[rank];
    bool limited = exceeds_limit(n);
    uint64_t available = limited ? n->left.limit : share(p->comm, need, rank);
    uint64_t process = limited ? n->parts.process : 0;
    uint64_t for_blocks = available > process ? available - process : 0;
    int R = ranks_needed(p, checkpoint, engine_bytes(n), for_blocks);
    char needs[32], weights[32], engine[32], has[32], advice[96];
    if (R > 0)
        snprintf(advice, sizeof advice, "use at least %d ranks with as much memory", R);
    else
        snprintf(advice, sizeof advice, "more ranks would not help; use %s",
                 engine_bytes(n) > weight_bytes(n) ? "shorter or fewer sequences"
                                                   : "machines with more memory");
    return sy_fail(
        SY_ERR_MEMORY, "needs %s on rank %d (weights %s, KV cache and buffers %s%s), %s %s; %s",
        sy_format_bytes(needs, sizeof needs, limited ? sy_budget_total(&n->parts) : total(n)),
        rank, sy_format_bytes(weights, sizeof weights, weight_bytes(n)),
        sy_format_bytes(engine, sizeof engine, engine_bytes(n)),
        limited ? ", and the process" : "", sy_format_bytes(has, sizeof has, available),
        limited ? "allowed by --memory" : "available", advice);
}

sy_status sy_budget_fit(const sy_engine_parts *p,
                        const sy_checkpoint *checkpoint,
                        sy_memory_left left,
                        sy_engine_options *o,
                        sy_budget *out) {
    sy_status st = SY_OK;
    int rank = sy_comm_rank(p->comm);
    int64_t wanted = o->chunk;
    rank_need *need = calloc((size_t)sy_comm_size(p->comm), sizeof *need);
    rank_need mine = {.left = left};
    if (need == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for the memory budget");
    else
        st = sy_budget_count(p, checkpoint, o, &mine.parts);
    SY_TRY(sy_comm_agree(p->comm, st));

    for (;;) {
        sy_budget_count_engine(p, o, &mine.parts);
        SY_TRY(sy_comm_all_gather(p->comm, &mine, sizeof mine, need));
        int worst = find_overflow(p->comm, need);
        if (worst < 0) break;
        if (sy_budget_shrink(o)) continue;
        /* All ranks refuse alike; one of them says it. */
        st = sy_comm_agree(p->comm, refuse(p, checkpoint, need, worst));
        goto done;
    }
    if (o->chunk < wanted)
        SY_INFO("prefill in chunks of %lld tokens instead of %lld, to fit into memory",
                (long long)o->chunk, (long long)wanted);
    *out = (sy_budget){weight_bytes(&mine), engine_bytes(&mine), share(p->comm, need, rank)};
done:
    free(need);
    return st;
}
