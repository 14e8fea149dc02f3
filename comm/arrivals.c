#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "comm/plan.h"

struct sy_arrivals_memory {
    uint64_t bytes;
    sy_pair *pair; /* [P] private copy of what was received, by source */
    int64_t *slot_first, *segment_first, *source_first;
    int64_t *slot_next; /* [n_slots] cursors */
    sy_row_ref *ref;
    sy_tree_leaf *leaf;
};

static void
carve_arrivals(sy_arena *arena, const sy_plan_shape *shape, struct sy_arrivals_memory *m) {
    uint64_t ranks = (uint64_t)shape->n_ranks, rows = UINT64_MAX;
    uint64_t slots = (uint64_t)shape->max_slots;
    uint64_t pairs = (uint64_t)sy_plan_pairs_per_token(shape);
    uint64_t segments = (uint64_t)sy_plan_segments_per_token(shape);
    /* Saturates: the arena then does too. */
    if (!sy_mul_u64(ranks, (uint64_t)shape->max_rows, &rows)) rows = UINT64_MAX;
    m->pair = sy_arena_take(arena, rows, pairs * sizeof *m->pair);
    m->slot_first = sy_arena_take(arena, slots + 1, sizeof *m->slot_first);
    m->slot_next = sy_arena_take(arena, slots, sizeof *m->slot_next);
    m->source_first = sy_arena_take(arena, ranks + 1, sizeof *m->source_first);
    m->segment_first = sy_arena_take(arena, rows, segments * sizeof *m->segment_first);
    sy_arena_take(arena, 1, sizeof *m->segment_first); /* the end of the last segment */
    m->ref = sy_arena_take(arena, rows, pairs * sizeof *m->ref);
    m->leaf = sy_arena_take(arena, rows, pairs * sizeof *m->leaf);
}

uint64_t sy_arrivals_bytes(const sy_plan_shape *shape) {
    sy_arena arena = {0};
    struct sy_arrivals_memory scratch;
    carve_arrivals(&arena, shape, &scratch);
    return arena.used;
}

sy_status sy_arrivals_create(const sy_plan_shape *shape, sy_arrivals *arrivals) {
    sy_status st = SY_OK;
    struct sy_arrivals_memory *m = NULL;
    sy_arena arena = {.size = sy_arrivals_bytes(shape)};
    memset(arrivals, 0, sizeof *arrivals);
    SY_TRY(sy_mem_alloc(&m, sizeof *m, "arrivals"));
    SY_TRY(sy_mem_alloc(&arena.base, arena.size, "arrivals"));
    carve_arrivals(&arena, shape, m);
    m->bytes = arena.size;
    *arrivals = (sy_arrivals){.shape = *shape,
                              .slot_first = m->slot_first,
                              .ref = m->ref,
                              .segment_first = m->segment_first,
                              .source_first = m->source_first,
                              .leaf = m->leaf,
                              .memory = m};
    m = NULL;
done:
    sy_mem_free(m, sizeof *m);
    return st;
}

void sy_arrivals_destroy(sy_arrivals *arrivals) {
    struct sy_arrivals_memory *m = arrivals->memory;
    if (m != NULL) {
        sy_mem_free(m->pair, m->bytes); /* the first of the arena */
        sy_mem_free(m, sizeof *m);
    }
    memset(arrivals, 0, sizeof *arrivals);
}

static sy_status
check_counts(const sy_plan_shape *shape, int source, const sy_pair_list *list) {
    if (list->n_rows < 0 || list->n_rows > shape->max_rows)
        return sy_fail(SY_ERR_COMM, "rank %d shows %lld rows, the most is %lld", source,
                       (long long)list->n_rows, (long long)shape->max_rows);
    int64_t max_pairs = list->n_rows * sy_plan_pairs_per_token(shape);
    if (list->n_pairs < 0 || list->n_pairs > max_pairs)
        return sy_fail(SY_ERR_COMM, "rank %d sent %lld pairs for %lld rows, the most is %lld",
                       source, (long long)list->n_pairs, (long long)list->n_rows,
                       (long long)max_pairs);
    int64_t max_segments = list->n_rows * sy_plan_segments_per_token(shape);
    if (list->n_segments < 0 || list->n_segments > sy_min(list->n_pairs, max_segments))
        return sy_fail(
            SY_ERR_COMM, "rank %d asks for %lld segments of %lld pairs and %lld rows", source,
            (long long)list->n_segments, (long long)list->n_pairs, (long long)list->n_rows);
    return SY_OK;
}

/* Rows must not descend, experts must ascend within a row, and a row's first pair must open a
 * segment. Then no row has more pairs than this rank has slots. */
static sy_status check_pairs(const sy_placement_layer *placement,
                             int rank,
                             int source,
                             const sy_pair_list *list,
                             const sy_pair *pair) {
    const int32_t *slot_expert = placement->slot_expert + placement->slot_first[rank];
    int n_slots = sy_placement_slots(placement, rank);
    int64_t n_segments = 0;
    for (int64_t i = 0; i < list->n_pairs; i++) {
        const sy_pair *p = &pair[i];
        if (p->slot < 0 || p->slot >= n_slots)
            return sy_fail(SY_ERR_COMM, "rank %d sent slot %d, this rank has %d", source,
                           p->slot, n_slots);
        if (p->row < 0 || p->row >= list->n_rows || p->opens > 1)
            return sy_fail(SY_ERR_COMM, "rank %d sent row %d of %lld with mark %u", source,
                           p->row, (long long)list->n_rows, p->opens);
        bool same_row = i > 0 && pair[i - 1].row == p->row;
        if (i > 0 && pair[i - 1].row > p->row)
            return sy_fail(SY_ERR_COMM, "rank %d sent row %d behind row %d", source, p->row,
                           pair[i - 1].row);
        if (same_row && slot_expert[pair[i - 1].slot] >= slot_expert[p->slot])
            return sy_fail(SY_ERR_COMM, "rank %d sent expert %d behind expert %d of a row",
                           source, slot_expert[p->slot], slot_expert[pair[i - 1].slot]);
        if (!same_row && p->opens == 0)
            return sy_fail(SY_ERR_COMM, "rank %d sent row %d without an open segment", source,
                           p->row);
        n_segments += p->opens;
    }
    if (n_segments != list->n_segments)
        return sy_fail(SY_ERR_COMM, "rank %d announced %lld segments and marked %lld", source,
                       (long long)list->n_segments, (long long)n_segments);
    return SY_OK;
}

/* Copies the pairs out of the senders' memory, checks them, counts the rows of each slot. */
static sy_status take_pairs(sy_arrivals *a,
                            const sy_placement_layer *placement,
                            int rank,
                            const sy_pair_list *list) {
    sy_status st = SY_OK;
    struct sy_arrivals_memory *m = a->memory;
    int64_t at = 0, n_segments = 0;
    for (int s = 0; s < a->n_slots; s++)
        m->slot_next[s] = 0;
    for (int source = 0; source < a->shape.n_ranks; source++) {
        const sy_pair_list *l = &list[source];
        SY_TRY(check_counts(&a->shape, source, l));
        sy_pair *pair = m->pair + at;
        if (l->n_pairs > 0) memcpy(pair, l->pair, (size_t)l->n_pairs * sizeof *pair);
        SY_TRY(check_pairs(placement, rank, source, l, pair));
        for (int64_t i = 0; i < l->n_pairs; i++)
            m->slot_next[pair[i].slot]++;
        m->source_first[source] = n_segments;
        n_segments += l->n_segments;
        at += l->n_pairs;
    }
    m->source_first[a->shape.n_ranks] = n_segments;
    a->n_pairs = at;
done:
    return st;
}

sy_status sy_arrivals_build(sy_arrivals *a,
                            const sy_placement_layer *placement,
                            int rank,
                            const sy_pair_list *list) {
    sy_status st = SY_OK;
    struct sy_arrivals_memory *m = a->memory;
    const int32_t *slot_expert = placement->slot_expert + placement->slot_first[rank];
    int64_t i = 0, n_segments = 0;
    a->n_slots = sy_placement_slots(placement, rank);
    a->n_pairs = 0;
    SY_TRY(take_pairs(a, placement, rank, list));
    m->slot_first[0] = 0;
    for (int s = 0; s < a->n_slots; s++) {
        m->slot_first[s + 1] = m->slot_first[s] + m->slot_next[s];
        m->slot_next[s] = m->slot_first[s];
    }
    /* Sources in order and rows in order, so the sort by slot is stable. */
    for (int source = 0; source < a->shape.n_ranks; source++) {
        for (int64_t n = list[source].n_pairs; n > 0; n--, i++) {
            const sy_pair *p = &m->pair[i];
            int64_t place = m->slot_next[p->slot]++;
            m->ref[place] = (sy_row_ref){source, p->row};
            if (p->opens) m->segment_first[n_segments++] = i;
            m->leaf[i] = (sy_tree_leaf){{0, (int32_t)place}, slot_expert[p->slot], p->weight};
        }
    }
    m->segment_first[n_segments] = i;
done:
    return st;
}
