/* The plan of an exchange: segments, pairs and their order, and what a broken peer may send. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "comm/link_memfd.h"
#include "comm/message.h"
#include "comm/plan.h"

static void must(sy_status st) {
    if (st != SY_OK) fail_msg("%s: %s", sy_status_name(st), sy_last_error());
}

static void *zeros(size_t n, size_t size) {
    void *p = calloc(n > 0 ? n : 1, size);
    assert_non_null(p);
    return p;
}

/* A placement in which expert e lives on rank owner[e], slots by ascending expert. */
static sy_placement *owned_by(int E, int R, const int32_t *owner) {
    int32_t *n_slots = zeros((size_t)R, sizeof *n_slots);
    int32_t *slots = zeros((size_t)E, sizeof *slots), n = 0;
    for (int r = 0; r < R; r++) {
        for (int e = 0; e < E; e++) {
            if (owner[e] != r) continue;
            slots[n++] = e;
            n_slots[r]++;
        }
    }
    const int32_t *one_n = n_slots, *one_slots = slots;
    sy_placement *p = NULL;
    must(sy_placement_from_slots(1, &E, R, &one_n, &one_slots, &p));
    free(slots);
    free(n_slots);
    return p;
}

static sy_plan_shape shape_of(int64_t T, int R, int K, int E, bool reduced) {
    return (sy_plan_shape){.max_rows = T,
                           .n_ranks = R,
                           .top_k = K,
                           .max_slots = E,
                           .max_experts = E,
                           .reduced = reduced};
}

/* Eight experts on two ranks: 0 1 2 3 | 4 5 6 7. Subtrees: [0,4) and [4,8). */
static void two_ranks_by_hand(void **state) {
    (void)state;
    const int32_t owner[8] = {0, 0, 0, 0, 1, 1, 1, 1};
    sy_placement *p = owned_by(8, 2, owner);
    sy_plan plan;
    sy_plan_shape shape = shape_of(3, 2, 3, 8, false);
    must(sy_plan_create(&shape, 1, &plan));
    const int32_t expert[9] = {5, 0, 3, /* both */ 7, 4, 6, /* rank 1 only */ 2, 6, 1};
    const float weight[9] = {.5f, .25f, .125f, 1, 2, 3, 4, 5, 6};
    must(sy_plan_build(&plan, &p->layer[0], 3, expert, weight));

    const int64_t pair_first[3] = {0, 4, 9}, token_first[3] = {0, 2, 5};
    const int64_t n_segments[2] = {2, 3}, leaf_first[4] = {0, 2, 3, 5};
    assert_memory_equal(plan.pair_first, pair_first, sizeof pair_first);
    assert_memory_equal(plan.token_first, token_first, sizeof token_first);
    assert_memory_equal(plan.n_segments, n_segments, sizeof n_segments);
    assert_memory_equal(plan.leaf_first, leaf_first, sizeof leaf_first);
    const sy_pair pair[9] = {{0, 0, .25f, 1}, {0, 3, .125f, 0}, {2, 1, 6, 1},
                             {2, 2, 4, 0},    {0, 1, .5f, 1},   {1, 0, 2, 1},
                             {1, 2, 3, 0},    {1, 3, 1, 0},     {2, 2, 5, 1}};
    assert_memory_equal(plan.pair, pair, sizeof pair);
    const int32_t token[5] = {0, 2, 0, 1, 2};
    assert_memory_equal(plan.token, token, sizeof token);
    const sy_tree_leaf leaf[5] = {
        {{0, 0}, 0, 1}, {{1, 0}, 5, 1}, {{1, 1}, 4, 1}, {{0, 1}, 1, 1}, {{1, 2}, 6, 1}};
    assert_memory_equal(plan.leaf, leaf, sizeof leaf);
    sy_plan_destroy(&plan);
    sy_placement_destroy(p);
}

/* Owners 0 1 0 0 1 1 0: the tree is ((0 1)(2 3))((4 5) 6), since 7 splits as 4 + 3 and 3 as
 * 2 + 1. With all chosen the segments are 0 | 1 | 2 3 | 4 5 | 6. */
static void scattered_owners_by_hand(void **state) {
    (void)state;
    const int32_t owner[7] = {0, 1, 0, 0, 1, 1, 0};
    sy_placement *p = owned_by(7, 2, owner);
    sy_plan plan;
    sy_plan_shape shape = shape_of(1, 2, 7, 7, false);
    must(sy_plan_create(&shape, 0, &plan));
    const int32_t expert[7] = {6, 5, 4, 3, 2, 1, 0};
    const float weight[7] = {1, 1, 1, 1, 1, 1, 1};
    must(sy_plan_build(&plan, &p->layer[0], 1, expert, weight));
    const sy_tree_leaf leaf[5] = {
        {{0, 0}, 0, 1}, {{1, 0}, 1, 1}, {{0, 1}, 2, 1}, {{1, 1}, 4, 1}, {{0, 2}, 6, 1}};
    assert_int_equal(plan.leaf_first[1], 5);
    assert_memory_equal(plan.leaf, leaf, sizeof leaf);
    sy_plan_destroy(&plan);

    shape.reduced = true;
    must(sy_plan_create(&shape, 0, &plan));
    must(sy_plan_build(&plan, &p->layer[0], 1, expert, weight));
    assert_int_equal(plan.leaf_first[1], 2);
    const sy_tree_leaf reduced[2] = {{{0, 0}, 0, 1}, {{1, 0}, 1, 1}};
    assert_memory_equal(plan.leaf, reduced, sizeof reduced);
    sy_plan_destroy(&plan);
    sy_placement_destroy(p);
}

/* An expert that was not chosen does not split a subtree. */
static void gaps_do_not_split_a_subtree(void **state) {
    (void)state;
    const int32_t owner[8] = {0, 1, 0, 1, 1, 1, 1, 1};
    sy_placement *p = owned_by(8, 2, owner);
    sy_plan plan;
    sy_plan_shape shape = shape_of(1, 2, 3, 8, false);
    must(sy_plan_create(&shape, 0, &plan));
    const int32_t expert[3] = {0, 2, 4};
    const float weight[3] = {1, 1, 1};
    must(sy_plan_build(&plan, &p->layer[0], 1, expert, weight));
    assert_int_equal(plan.n_segments[0], 1);
    assert_int_equal(plan.n_segments[1], 1);
    sy_plan_destroy(&plan);
    sy_placement_destroy(p);
}

static void copies_are_used_in_turn(void **state) {
    (void)state;
    int E = 2;
    const int32_t n_slots[3] = {2, 1, 1}, slots[4] = {0, 1, 1, 1};
    const int32_t *one_n = n_slots, *one_slots = slots;
    sy_placement *p = NULL;
    must(sy_placement_from_slots(1, &E, 3, &one_n, &one_slots, &p));
    sy_plan plan;
    sy_plan_shape shape = shape_of(4, 3, 1, 2, false);
    must(sy_plan_create(&shape, 2, &plan));
    const int32_t expert[4] = {1, 1, 1, 1};
    const float weight[4] = {1, 1, 1, 1};
    must(sy_plan_build(&plan, &p->layer[0], 4, expert, weight));
    const int32_t token[4] = {1, 2, 0, 3}; /* row i goes to rank (2 + i) mod 3 */
    assert_memory_equal(plan.token, token, sizeof token);
    assert_int_equal(plan.pair[0].slot, 1);
    assert_int_equal(plan.pair[1].slot, 0);
    sy_plan_destroy(&plan);
    sy_placement_destroy(p);
}

/* The definition, walked from the root over every node: a node is pure if it holds a chosen
 * expert and all chosen ones in it have one rank; segment[e] = lo of the topmost pure node. */
static void segments_by_definition(int lo,
                                   int hi,
                                   const bool *chosen,
                                   const int32_t *owner,
                                   int *n_segments,
                                   int *first_of) {
    int rank = -1, first = -1;
    bool pure = true;
    for (int e = lo; e < hi; e++) {
        if (!chosen[e]) continue;
        if (first < 0) {
            first = e;
            rank = owner[e];
        }
        pure &= owner[e] == rank;
    }
    if (first < 0) return;
    if (pure) {
        first_of[(*n_segments)++] = first;
        return;
    }
    int mid = lo + (hi - lo + 1) / 2;
    segments_by_definition(lo, mid, chosen, owner, n_segments, first_of);
    segments_by_definition(mid, hi, chosen, owner, n_segments, first_of);
}

static void random_segments_match_the_definition(void **state) {
    (void)state;
    uint64_t seed = 4711;
    for (int trial = 0; trial < 3000; trial++) {
#define DRAW(n) ((int)(sy_hash_add(seed, (uint64_t)counter++) % (uint64_t)(n)))
        int counter = 0;
        seed += 1;
        int E = 1 + DRAW(40), R = 1 + DRAW(9), K = 1 + DRAW(E < 12 ? E : 12);
        int32_t owner[40], expert[12];
        bool chosen[40] = {false};
        float weight[12];
        int run = 0, rank = 0;
        for (int e = 0; e < E; e++) { /* runs of one owner, so that subtrees merge */
            if (run-- == 0) {
                rank = DRAW(R);
                run = DRAW(6);
            }
            owner[e] = rank;
        }
        for (int k = 0; k < K; k++) {
            do
                expert[k] = DRAW(E);
            while (chosen[expert[k]]);
            chosen[expert[k]] = true;
            weight[k] = (float)expert[k];
        }
        sy_placement *p = owned_by(E, R, owner);
        sy_plan plan;
        sy_plan_shape shape = shape_of(1, R, K, E, false);
        must(sy_plan_create(&shape, 0, &plan));
        must(sy_plan_build(&plan, &p->layer[0], 1, expert, weight));
        int n = 0, first_of[12];
        segments_by_definition(0, E, chosen, owner, &n, first_of);
        assert_int_equal(plan.leaf_first[1], n);
        int per_rank[9] = {0};
        for (int i = 0; i < n; i++) {
            assert_int_equal(plan.leaf[i].expert, first_of[i]);
            assert_int_equal(plan.leaf[i].ref.chunk, owner[first_of[i]]);
            assert_int_equal(plan.leaf[i].ref.row, per_rank[owner[first_of[i]]]++);
        }
        /* Each pair carries its own expert's slot and weight, and the marks agree. */
        for (int r = 0; r < R; r++) {
            for (int64_t i = plan.pair_first[r]; i < plan.pair_first[r + 1]; i++) {
                int e = p->layer[0].slot_expert[p->layer[0].slot_first[r] + plan.pair[i].slot];
                bool opens = false;
                for (int j = 0; j < n; j++)
                    opens |= first_of[j] == e;
                assert_true(chosen[e] && owner[e] == r);
                assert_true(plan.pair[i].weight == (float)e);
                assert_int_equal(plan.pair[i].opens, opens);
            }
        }
        assert_int_equal(plan.pair_first[R], K);
        sy_plan_destroy(&plan);
        sy_placement_destroy(p);
#undef DRAW
    }
}

static void wrong_choices_are_refused(void **state) {
    (void)state;
    const int32_t owner[4] = {0, 0, 1, 1};
    sy_placement *p = owned_by(4, 2, owner);
    sy_plan plan;
    sy_plan_shape shape = shape_of(2, 2, 2, 4, false);
    must(sy_plan_create(&shape, 0, &plan));
    const float weight[4] = {1, 1, 1, 1};
    const int32_t beyond[2] = {0, 4}, negative[2] = {-1, 2}, twice[2] = {3, 3};
    const int32_t fine[4] = {3, 0, 2, 1};
    assert_int_equal(sy_plan_build(&plan, &p->layer[0], 1, beyond, weight), SY_ERR_INTERNAL);
    assert_int_equal(sy_plan_build(&plan, &p->layer[0], 1, negative, weight), SY_ERR_INTERNAL);
    assert_int_equal(sy_plan_build(&plan, &p->layer[0], 1, twice, weight), SY_ERR_INTERNAL);
    assert_int_equal(sy_plan_build(&plan, &p->layer[0], 3, fine, weight), SY_ERR_INTERNAL);
    assert_int_equal(sy_plan_build(&plan, &p->layer[0], -1, fine, weight), SY_ERR_INTERNAL);
    must(sy_plan_build(&plan, &p->layer[0], 2, fine, weight));
    sy_plan_destroy(&plan);

    shape.max_slots = 1;
    must(sy_plan_create(&shape, 0, &plan));
    assert_int_equal(sy_plan_build(&plan, &p->layer[0], 2, fine, weight), SY_ERR_INTERNAL);
    sy_plan_destroy(&plan);
    sy_placement_destroy(p);
}

/* Rank 1 of two holds experts 2 and 3 (slots 0 and 1). Two sources, two segments each. */
static void arrivals_by_hand(void **state) {
    (void)state;
    const int32_t owner[4] = {0, 0, 1, 1};
    sy_placement *p = owned_by(4, 2, owner);
    sy_plan_shape shape = shape_of(3, 2, 2, 4, false);
    sy_arrivals a;
    must(sy_arrivals_create(&shape, &a));
    const sy_pair from_0[3] = {{0, 1, .5f, 1}, {2, 0, .25f, 1}, {2, 1, 1, 0}};
    const sy_pair from_1[2] = {{1, 0, 2, 1}, {2, 1, 3, 1}};
    const sy_pair_list list[2] = {{from_0, 3, 3, 2}, {from_1, 2, 3, 2}};
    must(sy_arrivals_build(&a, &p->layer[0], 1, list));
    const int64_t slot_first[3] = {0, 2, 5}, source_first[3] = {0, 2, 4};
    const int64_t segment_first[5] = {0, 1, 3, 4, 5};
    const sy_row_ref ref[5] = {{0, 2}, {1, 1}, {0, 0}, {0, 2}, {1, 2}};
    const sy_tree_leaf leaf[5] = {
        {{0, 2}, 3, .5f}, {{0, 0}, 2, .25f}, {{0, 3}, 3, 1}, {{0, 1}, 2, 2}, {{0, 4}, 3, 3}};
    assert_int_equal(a.n_pairs, 5);
    assert_memory_equal(a.slot_first, slot_first, sizeof slot_first);
    assert_memory_equal(a.source_first, source_first, sizeof source_first);
    assert_memory_equal(a.segment_first, segment_first, sizeof segment_first);
    assert_memory_equal(a.ref, ref, sizeof ref);
    assert_memory_equal(a.leaf, leaf, sizeof leaf);
    sy_arrivals_destroy(&a);
    sy_placement_destroy(p);
}

static void broken_pairs_are_refused_naming_the_rank(void **state) {
    (void)state;
    const int32_t owner[4] = {1, 0, 1, 1};
    sy_placement *p = owned_by(4, 2, owner); /* rank 1: slots 0 1 2 = experts 0 2 3 */
    sy_plan_shape shape = shape_of(3, 2, 2, 4, false);
    sy_arrivals a;
    must(sy_arrivals_create(&shape, &a));
    static const struct {
        const char *what;
        sy_pair pair[3];
        int64_t n_pairs, n_rows, n_segments;
    } broken[] = {
        {"slot beyond", {{0, 3, 1, 1}}, 1, 1, 1},
        {"slot negative", {{0, -1, 1, 1}}, 1, 1, 1},
        {"row beyond", {{1, 0, 1, 1}}, 1, 1, 1},
        {"row negative", {{-1, 0, 1, 1}}, 1, 1, 1},
        {"mark is no flag", {{0, 0, 1, 2}}, 1, 1, 1},
        {"rows descend", {{1, 0, 1, 1}, {0, 0, 1, 1}}, 2, 2, 2},
        {"experts descend", {{0, 1, 1, 1}, {0, 0, 1, 1}}, 2, 1, 2},
        {"expert twice", {{0, 1, 1, 1}, {0, 1, 1, 1}}, 2, 1, 2},
        {"first pair does not open", {{0, 0, 1, 0}}, 1, 1, 0},
        {"later row does not open", {{0, 0, 1, 1}, {1, 0, 1, 0}}, 2, 2, 1},
        {"fewer marks than announced", {{0, 0, 1, 1}, {0, 1, 1, 0}}, 2, 1, 2},
        {"more marks than announced", {{0, 0, 1, 1}, {0, 1, 1, 1}}, 2, 1, 1},
        {"more rows than the limit", {{0, 0, 1, 1}}, 1, 4, 1},
        {"negative rows", {{0, 0, 1, 1}}, 1, -1, 1},
        {"more pairs than rows have", {{0, 0, 1, 1}, {0, 1, 1, 0}, {0, 2, 1, 0}}, 3, 1, 1},
        {"negative pairs", {{0, 0, 1, 1}}, -1, 1, 0},
        {"more segments than pairs", {{0, 0, 1, 1}}, 1, 1, 2},
        {"negative segments", {{0, 0, 1, 1}}, 1, 1, -1},
    };
    const sy_pair good[1] = {{0, 0, 1, 1}};
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        const sy_pair_list list[2] = {
            {good, 1, 1, 1},
            {broken[i].pair, broken[i].n_pairs, broken[i].n_rows, broken[i].n_segments}};
        sy_status st = sy_arrivals_build(&a, &p->layer[0], 1, list);
        if (st != SY_ERR_COMM || strstr(sy_last_error(), "rank 1") == NULL)
            fail_msg("%s: %s, \"%s\"", broken[i].what, sy_status_name(st), sy_last_error());
    }
    const sy_pair_list list[2] = {{good, 1, 1, 1}, {good, 1, 1, 1}};
    must(sy_arrivals_build(&a, &p->layer[0], 1, list));
    sy_arrivals_destroy(&a);
    sy_placement_destroy(p);
}

static sy_dispatch_header header_of(int64_t n_rows, int64_t n_pairs) {
    return (sy_dispatch_header){.magic = SY_MESSAGE_MAGIC,
                                .version = SY_MESSAGE_VERSION,
                                .step_hash = 7,
                                .n_rows = n_rows,
                                .n_pairs = n_pairs};
}

static void broken_headers_are_refused_naming_the_rank(void **state) {
    (void)state;
    const sy_message_limits limits = {.max_rows = 10, .max_pairs = 20, .row_bytes = 48};
    sy_dispatch_header out, h = header_of(2, 5);
    /* 64 + 5 * 16 = 144 -> 192; two rows of 48 -> 128 */
    must(sy_message_open(&limits, 3, &h, 192, false, &out));
    must(sy_message_open(&limits, 3, &h, 192 + 128, true, &out));
    assert_int_equal(out.n_pairs, 5);
    assert_int_equal(sy_message_open(&limits, 3, &h, 192, true, &out), SY_ERR_COMM);
    assert_int_equal(sy_message_open(&limits, 3, &h, 256, false, &out), SY_ERR_COMM);
    assert_int_equal(sy_message_open(&limits, 3, &h, 63, false, &out), SY_ERR_COMM);
    assert_int_equal(sy_message_open(&limits, 3, NULL, 0, false, &out), SY_ERR_COMM);
    assert_non_null(strstr(sy_last_error(), "rank 3"));
    const sy_dispatch_header broken[] = {header_of(11, 0), header_of(-1, 0), header_of(2, 21),
                                         header_of(2, -4), header_of(INT64_MAX, INT64_MAX)};
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        uint64_t bytes = sy_message_head_bytes((uint64_t)broken[i].n_pairs);
        assert_int_equal(sy_message_open(&limits, 3, &broken[i], bytes, false, &out),
                         SY_ERR_COMM);
        assert_int_equal(sy_message_open(&limits, 3, &broken[i], 64, true, &out), SY_ERR_COMM);
    }
    static const int64_t wrong_tokens[] = {-1, 3, 6, INT64_MAX}; /* of 2 rows, 5 pairs */
    for (size_t i = 0; i < sizeof wrong_tokens / sizeof wrong_tokens[0]; i++) {
        h.n_tokens = wrong_tokens[i];
        assert_int_equal(sy_message_open(&limits, 3, &h, 192, false, &out), SY_ERR_COMM);
    }
    h.n_tokens = 2;
    must(sy_message_open(&limits, 3, &h, 192, false, &out));
    h.version++;
    assert_int_equal(sy_message_open(&limits, 3, &h, 192, false, &out), SY_ERR_COMM);
    h = header_of(2, 5);
    h.magic = 0;
    assert_int_equal(sy_message_open(&limits, 3, &h, 192, false, &out), SY_ERR_COMM);
}

static void published_extents_stay_within_the_block(void **state) {
    (void)state;
    assert_true(sy_memfd_extent_valid(0, 0, 1024, 512, 64));
    assert_true(sy_memfd_extent_valid(1024, 0, 1024, 512, 64));
    assert_true(sy_memfd_extent_valid(512, 512, 1024, 512, 64));
    assert_false(sy_memfd_extent_valid(576, 512, 1024, 512, 64)); /* ends behind it */
    assert_false(sy_memfd_extent_valid(1088, 0, 1024, 512, 64));  /* begins behind it */
    assert_false(sy_memfd_extent_valid(0, 576, 1024, 512, 64));   /* too long */
    assert_false(sy_memfd_extent_valid(0, 65, 1024, 512, 64));    /* broken unit */
    assert_false(sy_memfd_extent_valid(8, 64, 1024, 512, 64));    /* misplaced */
    assert_false(sy_memfd_extent_valid(UINT64_MAX - 63, 128, 1024, 512, 64)); /* wraps */
    assert_false(sy_memfd_extent_valid(64, UINT64_MAX - 63, 1024, UINT64_MAX, 64));
}

static void the_odd_plan_out_is_named(void **state) {
    (void)state;
    sy_dispatch_header h[5];
    for (int r = 0; r < 5; r++)
        h[r] = header_of(0, 0);
    must(sy_message_check_plans(h, 5, 0));
    h[3].step_hash = 9;
    for (int me = 0; me < 5; me++) {
        assert_int_equal(sy_message_check_plans(h, 5, me), SY_ERR_COMM);
        assert_non_null(strstr(sy_last_error(), "rank 3 runs another plan"));
    }
    h[3] = h[0];
    h[4].round = 1;
    assert_int_equal(sy_message_check_plans(h, 5, 1), SY_ERR_COMM);
    assert_non_null(strstr(sy_last_error(), "rank 4 runs another plan"));
    h[1].step_hash = 9;
    assert_int_equal(sy_message_check_plans(h, 2, 0), SY_ERR_COMM);
    assert_non_null(strstr(sy_last_error(), "rank 1 runs another plan"));
    assert_int_equal(sy_message_check_plans(h, 2, 1), SY_ERR_COMM);
    assert_non_null(strstr(sy_last_error(), "rank 0 runs another plan"));
}

static void sizes_saturate_on_overflow(void **state) {
    (void)state;
    sy_plan_shape shape = shape_of(INT64_MAX / 2, 4, 8, 64, false);
    assert_true(sy_plan_bytes(&shape) > (uint64_t)INT64_MAX);
    assert_true(sy_arrivals_bytes(&shape) > (uint64_t)INT64_MAX);
    sy_plan plan;
    sy_arrivals arrivals;
    assert_int_equal(sy_plan_create(&shape, 0, &plan), SY_ERR_MEMORY);
    assert_int_equal(sy_arrivals_create(&shape, &arrivals), SY_ERR_MEMORY);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_ranks_by_hand),
        cmocka_unit_test(scattered_owners_by_hand),
        cmocka_unit_test(gaps_do_not_split_a_subtree),
        cmocka_unit_test(copies_are_used_in_turn),
        cmocka_unit_test(random_segments_match_the_definition),
        cmocka_unit_test(wrong_choices_are_refused),
        cmocka_unit_test(arrivals_by_hand),
        cmocka_unit_test(broken_pairs_are_refused_naming_the_rank),
        cmocka_unit_test(broken_headers_are_refused_naming_the_rank),
        cmocka_unit_test(published_extents_stay_within_the_block),
        cmocka_unit_test(the_odd_plan_out_is_named),
        cmocka_unit_test(sizes_saturate_on_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
