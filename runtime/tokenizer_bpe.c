/* Byte-pair encoding: of all adjacent pairs that have a merge, the one with the lowest rank, the
 * leftmost of equals, is joined, until none is left.
 *
 * Pre-tokens have no length bound (a run of one letter is a single one), so the candidates are
 * kept in a heap: O(n log n). Short pre-tokens, which are nearly all, are scanned instead. */
#include "runtime/tokenizer_parts.h"

#include <stdlib.h>

enum { SHORT = 24 }; /* symbols up to which scanning is faster than the heap */

#define NO_PAIR UINT32_MAX

typedef struct sy_symbol {
    int32_t id;             /* -1: joined into one on its left */
    int32_t previous, next; /* index of the neighbours, -1 at the ends */
} symbol;

typedef struct sy_candidate {
    uint64_t key; /* rank << 32 | index of the left symbol: the order of merging */
    int32_t result;
} candidate;

sy_status sy_bpe_init(sy_bpe *bpe, size_t n_pairs, uint64_t seed) {
    uint64_t slots = 16;
    while (slots < 2 * (uint64_t)n_pairs)
        slots *= 2;
    *bpe = (sy_bpe){.mask = slots - 1, .seed = seed};
    bpe->pair = malloc(slots * sizeof *bpe->pair);
    if (bpe->pair == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for %zu merges", n_pairs);
    for (uint64_t i = 0; i < slots; i++)
        bpe->pair[i].left = NO_PAIR;
    return SY_OK;
}

void sy_bpe_free(sy_bpe *bpe) {
    free(bpe->pair);
    bpe->pair = NULL;
}

void sy_bpe_scratch_free(sy_bpe_scratch *scratch) {
    free(scratch->first);
    free(scratch->symbol);
    free(scratch->heap);
    *scratch = (sy_bpe_scratch){0};
}

/* The slot of a pair, or the empty one where it belongs. */
static inline sy_pair *pair_slot(const sy_bpe *bpe, uint32_t left, uint32_t right) {
    uint64_t i = sy_mix64(bpe->seed ^ ((uint64_t)left << 32 | right)) & bpe->mask;
    while (bpe->pair[i].left != NO_PAIR &&
           (bpe->pair[i].left != left || bpe->pair[i].right != right))
        i = (i + 1) & bpe->mask;
    return &bpe->pair[i];
}

void sy_bpe_add(sy_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t result) {
    *pair_slot(bpe, (uint32_t)left, (uint32_t)right) =
        (sy_pair){(uint32_t)left, (uint32_t)right, rank, (uint32_t)result};
}

/* NULL if the pair has no merge. */
static inline const sy_pair *find_pair(const sy_bpe *bpe, int32_t left, int32_t right) {
    const sy_pair *pair = pair_slot(bpe, (uint32_t)left, (uint32_t)right);
    return pair->left == NO_PAIR ? NULL : pair;
}

/* A pair as the scan over short pre-tokens keeps it. */
static void look_up(const sy_bpe *bpe, const int32_t *id, uint32_t *rank, uint32_t *result) {
    const sy_pair *pair = find_pair(bpe, id[0], id[1]);
    *rank = pair != NULL ? pair->rank : UINT32_MAX;
    *result = pair != NULL ? pair->result : 0;
}

static sy_status encode_short(const sy_bpe *bpe, int32_t *id, size_t n, sy_ids *out) {
    uint32_t rank[SHORT], result[SHORT]; /* of the pair (i, i + 1) */
    for (size_t i = 0; i + 1 < n; i++)
        look_up(bpe, id + i, &rank[i], &result[i]);
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++)
            if (rank[i] < rank[best]) best = i;
        if (rank[best] == UINT32_MAX) break;
        id[best] = (int32_t)result[best];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i - 1] = rank[i];
            result[i - 1] = result[i];
        }
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++)
            look_up(bpe, id + i, &rank[i], &result[i]);
    }
    sy_status st = SY_OK;
    for (size_t i = 0; i < n && st == SY_OK; i++)
        st = sy_ids_append(out, id[i]);
    return st;
}

/* ---- the heap ---- */

static void sift_down(candidate *heap, size_t n, size_t i) {
    candidate moving = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && heap[child + 1].key < heap[child].key) child++;
        if (heap[child].key >= moving.key) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

static void push(candidate *heap, size_t *n, candidate new) {
    size_t i = (*n)++;
    while (i > 0 && heap[(i - 1) / 2].key > new.key) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = new;
}

static candidate pop(candidate *heap, size_t *n) {
    candidate top = heap[0];
    heap[0] = heap[--*n];
    if (*n > 0) sift_down(heap, *n, 0);
    return top;
}

static bool candidate_at(const sy_bpe *bpe, const symbol *s, int32_t left, candidate *out) {
    if (left < 0 || s[left].next < 0) return false;
    const sy_pair *pair = find_pair(bpe, s[left].id, s[s[left].next].id);
    if (pair == NULL) return false;
    *out = (candidate){(uint64_t)pair->rank << 32 | (uint32_t)left, (int32_t)pair->result};
    return true;
}

sy_status sy_bpe_reserve(sy_bpe_scratch *scratch, size_t n_first) {
    if (n_first <= scratch->first_room) return SY_OK;
    size_t room = n_first < 256 ? 256 : n_first;
    int32_t *first = realloc(scratch->first, room * sizeof *first);
    if (first == NULL)
        return sy_fail(SY_ERR_MEMORY, "no memory for a word of %zu bytes", n_first);
    scratch->first = first;
    scratch->first_room = room;
    return SY_OK;
}

/* There are fewer than n candidates at first and fewer than n merges, each of which takes one
 * candidate and adds at most two: the heap never holds more than 2 n. */
static sy_status reserve_heap(sy_bpe_scratch *scratch, size_t n) {
    /* The longest text, and what a normalizer puts in front of it. */
    const size_t most = SY_MAX_TEXT + SY_MAX_REPLACEMENT;
    if (n > most)
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "input refused: a word of %zu symbols; at most %zu are encoded", n,
                       most);
    if (n > scratch->symbol_room) {
        symbol *s = realloc(scratch->symbol, n * sizeof *s);
        if (s == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a word of %zu symbols", n);
        scratch->symbol = s;
        scratch->symbol_room = n;
    }
    if (2 * n > scratch->heap_room) {
        candidate *heap = realloc(scratch->heap, 2 * n * sizeof *heap);
        if (heap == NULL)
            return sy_fail(SY_ERR_MEMORY, "no memory for a word of %zu symbols", n);
        scratch->heap = heap;
        scratch->heap_room = 2 * n;
    }
    return SY_OK;
}

static void merge_all(const sy_bpe *bpe, symbol *s, size_t n_symbols, candidate *heap) {
    size_t n = 0;
    candidate c;
    for (size_t i = 0; i < n_symbols; i++)
        if (candidate_at(bpe, s, (int32_t)i, &c)) heap[n++] = c;
    for (size_t i = n / 2; i-- > 0;)
        sift_down(heap, n, i);
    while (n > 0) {
        candidate best = pop(heap, &n), now;
        int32_t left = (int32_t)(uint32_t)best.key;
        /* Stale if the pair at this place has changed. Its start and its result fix which bytes
         * it covers, so the same result means the same pair. */
        if (s[left].id < 0 || !candidate_at(bpe, s, left, &now) || now.result != best.result)
            continue;
        int32_t right = s[left].next;
        s[left].id = best.result;
        s[left].next = s[right].next;
        if (s[right].next >= 0) s[s[right].next].previous = left;
        s[right].id = -1;
        if (candidate_at(bpe, s, s[left].previous, &c)) push(heap, &n, c);
        if (candidate_at(bpe, s, left, &c)) push(heap, &n, c);
    }
}

sy_status sy_bpe_encode(const sy_bpe *bpe, sy_bpe_scratch *scratch, size_t n, sy_ids *out) {
    sy_status st = SY_OK;
    if (n <= SHORT) return encode_short(bpe, scratch->first, n, out);
    SY_TRY(reserve_heap(scratch, n));
    symbol *s = scratch->symbol;
    for (size_t i = 0; i < n; i++)
        s[i] = (symbol){.id = scratch->first[i],
                        .previous = (int32_t)i - 1,
                        .next = i + 1 < n ? (int32_t)i + 1 : -1};
    merge_all(bpe, s, n, scratch->heap);
    for (int32_t i = 0; i >= 0; i = s[i].next)
        SY_TRY(sy_ids_append(out, s[i].id));
done:
    return st;
}
