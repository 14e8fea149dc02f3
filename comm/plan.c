#include "comm/plan.h"

#include <assert.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"

/* One chosen expert of a row. */
typedef struct choice {
    int32_t expert;
    float weight;
    int32_t rank, slot;
    bool opens;
} choice;

struct sy_plan_memory {
    uint64_t bytes;
    choice *choice; /* [T, K], each row by ascending expert */
    int64_t *pair_first, *token_first, *n_segments, *leaf_first;
    int64_t *pair_next, *token_next, *segment_next; /* [R] cursors */
    int64_t *last_row;                              /* [R]: the row that was counted last */
    sy_pair *pair;
    int32_t *token;
    sy_tree_leaf *leaf;
};

int sy_plan_pairs_per_token(const sy_plan_shape *shape) {
    return (int)sy_min(shape->top_k, shape->max_slots);
}

int sy_plan_segments_per_token(const sy_plan_shape *shape) {
    if (shape->reduced || shape->n_ranks == 1)
        return (int)sy_min(1, sy_plan_pairs_per_token(shape));
    return sy_plan_pairs_per_token(shape);
}

int sy_plan_leaves_per_token(const sy_plan_shape *shape) {
    if (shape->reduced || shape->n_ranks == 1) return (int)sy_min(shape->top_k, shape->n_ranks);
    return shape->top_k;
}

/* Whether all experts of [lo, lo + n) are a rank's; else *n_whole grows by the maximal subtrees
 * within that are. */
static bool
count_whole(const sy_placement_layer *p, int rank, int lo, int n, int64_t *n_whole) {
    if (n == 1) return p->home[p->home_first[lo]].rank == rank;
    int n_left = (n + 1) / 2;
    bool left = count_whole(p, rank, lo, n_left, n_whole);
    bool right = count_whole(p, rank, lo + n_left, n - n_left, n_whole);
    if (left && right) return true;
    *n_whole += left + right;
    return false;
}

/* A segment's chosen experts lie in subtrees that are wholly its rank's, and two segments never
 * share one: there are at most as many as such subtrees. With copies of experts the choice of the
 * copy splits them at will. */
static int64_t most_segments(const sy_placement_layer *p, int top_k) {
    int64_t most = 0;
    if (p->home_first[p->n_experts] > p->n_experts) return top_k;
    for (int r = 0; r < p->n_ranks; r++) {
        int64_t n_whole = 0;
        bool all = count_whole(p, r, 0, p->n_experts, &n_whole);
        most = sy_max(most, all ? 1 : n_whole);
    }
    return most;
}

int sy_plan_placed_segments(const sy_placement *placement, int top_k) {
    int64_t most = 1;
    for (int l = 0; l < placement->n_layers; l++)
        if (placement->layer[l].n_experts > 0)
            most = sy_max(most, most_segments(&placement->layer[l], top_k));
    return (int)sy_min(most, top_k);
}

static void carve_plan(sy_arena *arena, const sy_plan_shape *shape, struct sy_plan_memory *m) {
    uint64_t rows = (uint64_t)shape->max_rows, k = (uint64_t)shape->top_k;
    uint64_t ranks = (uint64_t)shape->n_ranks;
    uint64_t copies = (uint64_t)sy_min(shape->top_k, shape->n_ranks);
    m->choice = sy_arena_take(arena, rows, k * sizeof *m->choice);
    m->pair_first = sy_arena_take(arena, ranks + 1, sizeof *m->pair_first);
    m->token_first = sy_arena_take(arena, ranks + 1, sizeof *m->token_first);
    m->n_segments = sy_arena_take(arena, ranks, sizeof *m->n_segments);
    m->pair_next = sy_arena_take(arena, ranks, sizeof *m->pair_next);
    m->token_next = sy_arena_take(arena, ranks, sizeof *m->token_next);
    m->segment_next = sy_arena_take(arena, ranks, sizeof *m->segment_next);
    m->last_row = sy_arena_take(arena, ranks, sizeof *m->last_row);
    m->leaf_first = sy_arena_take(arena, rows + 1, sizeof *m->leaf_first);
    m->pair = sy_arena_take(arena, rows, k * sizeof *m->pair);
    m->token = sy_arena_take(arena, rows, copies * sizeof *m->token);
    m->leaf =
        sy_arena_take(arena, rows, (uint64_t)sy_plan_leaves_per_token(shape) * sizeof *m->leaf);
}

uint64_t sy_plan_bytes(const sy_plan_shape *shape) {
    sy_arena arena = {0};
    struct sy_plan_memory scratch;
    carve_plan(&arena, shape, &scratch);
    return arena.used;
}

sy_status sy_plan_create(const sy_plan_shape *shape, int rank, sy_plan *plan) {
    sy_status st = SY_OK;
    struct sy_plan_memory *m = NULL;
    sy_arena arena = {.size = sy_plan_bytes(shape)};
    memset(plan, 0, sizeof *plan);
    SY_TRY(sy_mem_alloc(&m, sizeof *m, "dispatch plan"));
    SY_TRY(sy_mem_alloc(&arena.base, arena.size, "dispatch plan"));
    carve_plan(&arena, shape, m);
    m->bytes = arena.size;
    *plan = (sy_plan){.shape = *shape,
                      .rank = rank,
                      .pair_first = m->pair_first,
                      .pair = m->pair,
                      .token_first = m->token_first,
                      .token = m->token,
                      .n_segments = m->n_segments,
                      .leaf_first = m->leaf_first,
                      .leaf = m->leaf,
                      .memory = m};
    m = NULL;
done:
    sy_mem_free(m, sizeof *m);
    return st;
}

void sy_plan_destroy(sy_plan *plan) {
    struct sy_plan_memory *m = plan->memory;
    if (m != NULL) {
        sy_mem_free(m->choice, m->bytes); /* the first of the arena */
        sy_mem_free(m, sizeof *m);
    }
    memset(plan, 0, sizeof *plan);
}

/* Sorts the experts of a row (K is small and rarely long: insertion) and finds their homes. */
static sy_status choose_homes(const sy_plan *plan,
                              const sy_placement_layer *placement,
                              int64_t row,
                              const int32_t *expert,
                              const float *weight,
                              choice *c) {
    int k = plan->shape.top_k;
    for (int i = 0; i < k; i++) {
        int32_t e = expert[i];
        if (e < 0 || e >= placement->n_experts)
            return sy_fail(SY_ERR_INTERNAL, "row %lld was routed to expert %d of %d",
                           (long long)row, e, placement->n_experts);
        int at = i;
        while (at > 0 && c[at - 1].expert > e) {
            c[at] = c[at - 1];
            at--;
        }
        if (at > 0 && c[at - 1].expert == e)
            return sy_fail(SY_ERR_INTERNAL, "row %lld was routed to expert %d twice",
                           (long long)row, e);
        int32_t first = placement->home_first[e];
        int64_t n_copies = placement->home_first[e + 1] - first;
        if (n_copies <= 0)
            return sy_fail(SY_ERR_INTERNAL, "expert %d has no home in the placement", e);
        const sy_home *home = &placement->home[first + (plan->rank + row) % n_copies];
        c[at] = (choice){e, weight[i], home->rank, home->slot, false};
    }
    return SY_OK;
}

/* Marks the first choice of each maximal subtree within [lo, lo + n) whose n_chosen experts all
 * have the same rank. */
static void mark_segments(choice *c, int n_chosen, int lo, int n) {
    while (n_chosen > 0) {
        bool same = true;
        for (int i = 1; i < n_chosen && same; i++)
            same = c[i].rank == c[0].rank;
        if (same) {
            c[0].opens = true;
            return;
        }
        /* Two ranks, so two experts: n >= 2 here. */
        int left = (n + 1) / 2, n_left = 0;
        while (n_left < n_chosen && c[n_left].expert < lo + left)
            n_left++;
        mark_segments(c, n_left, lo, left);
        c += n_left;
        n_chosen -= n_left;
        lo += left;
        n -= left;
    }
}

/* Counts a row's pairs, tokens and segments per rank. In reduced mode the first pair of the row
 * on each rank opens its one segment. */
static void count_row(struct sy_plan_memory *m, bool reduced, int64_t row, choice *c, int k) {
    for (int i = 0; i < k; i++) {
        int r = c[i].rank;
        bool first = m->last_row[r] != row;
        m->last_row[r] = row;
        if (reduced) c[i].opens = first;
        m->pair_next[r]++;
        m->token_next[r] += first;
        m->n_segments[r] += c[i].opens;
    }
}

/* counts[R] -> first[R + 1], and the counts become cursors. */
static void prefix_sums(int n, int64_t *counts, int64_t *first) {
    first[0] = 0;
    for (int i = 0; i < n; i++) {
        first[i + 1] = first[i] + counts[i];
        counts[i] = first[i];
    }
}

static int64_t
place_row(struct sy_plan_memory *m, int64_t row, const choice *c, int k, int64_t n_leaves) {
    for (int i = 0; i < k; i++) {
        int r = c[i].rank;
        m->pair[m->pair_next[r]++] =
            (sy_pair){(int32_t)row, c[i].slot, c[i].weight, c[i].opens};
        if (m->last_row[r] != row) m->token[m->token_next[r]++] = (int32_t)row;
        m->last_row[r] = row;
        if (c[i].opens)
            m->leaf[n_leaves++] =
                (sy_tree_leaf){{r, (int32_t)m->segment_next[r]++}, c[i].expert, 1.0f};
    }
    return n_leaves;
}

static void forget_rows(struct sy_plan_memory *m, int n_ranks) {
    for (int r = 0; r < n_ranks; r++)
        m->last_row[r] = -1;
}

static sy_status check_placement(const sy_plan_shape *shape,
                                 const sy_placement_layer *placement) {
    if (placement->n_ranks != shape->n_ranks)
        return sy_fail(SY_ERR_INTERNAL, "the placement is for %d ranks, this run has %d",
                       placement->n_ranks, shape->n_ranks);
    if (placement->n_experts > shape->max_experts)
        return sy_fail(SY_ERR_INTERNAL,
                       "the placement has %d experts, the exchange was made for %d",
                       placement->n_experts, shape->max_experts);
    for (int r = 0; r < shape->n_ranks; r++)
        if (sy_placement_slots(placement, r) > shape->max_slots)
            return sy_fail(SY_ERR_INTERNAL,
                           "rank %d holds %d slots, the exchange was made for %d", r,
                           sy_placement_slots(placement, r), shape->max_slots);
    return SY_OK;
}

sy_status sy_plan_build(sy_plan *plan,
                        const sy_placement_layer *placement,
                        int64_t n_rows,
                        const int32_t *expert,
                        const float *weight) {
    sy_status st = SY_OK;
    struct sy_plan_memory *m = plan->memory;
    int k = plan->shape.top_k, n_ranks = plan->shape.n_ranks;
    int64_t n_leaves = 0;
    SY_TRY(check_placement(&plan->shape, placement));
    if (n_rows < 0 || n_rows > plan->shape.max_rows)
        SY_FAIL(SY_ERR_INTERNAL, "%lld rows, the exchange was made for %lld", (long long)n_rows,
                (long long)plan->shape.max_rows);
    for (int r = 0; r < n_ranks; r++)
        m->pair_next[r] = m->token_next[r] = m->segment_next[r] = m->n_segments[r] = 0;
    forget_rows(m, n_ranks);
    for (int64_t row = 0; row < n_rows; row++) {
        choice *c = m->choice + row * k;
        SY_TRY(choose_homes(plan, placement, row, expert + row * k, weight + row * k, c));
        if (!plan->shape.reduced) mark_segments(c, k, 0, placement->n_experts);
        count_row(m, plan->shape.reduced, row, c, k);
    }
    prefix_sums(n_ranks, m->pair_next, m->pair_first);
    prefix_sums(n_ranks, m->token_next, m->token_first);
    forget_rows(m, n_ranks);
    for (int64_t row = 0; row < n_rows; row++) {
        m->leaf_first[row] = n_leaves;
        n_leaves = place_row(m, row, m->choice + row * k, k, n_leaves);
    }
    m->leaf_first[n_rows] = n_leaves;
    plan->n_rows = n_rows;
done:
    return st;
}
