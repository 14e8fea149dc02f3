/* Which rank holds which expert: contiguous and explicit placements, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "topology/placement.h"

/* Slots and homes tell the same story, homes ascend by rank, every expert has a home. */
static void check_layer(const sy_placement_layer *p) {
    int n_homes = 0;
    assert_int_equal(p->home_first[0], 0);
    for (int e = 0; e < p->n_experts; e++) {
        assert_true(p->home_first[e + 1] > p->home_first[e]);
        for (int i = p->home_first[e]; i < p->home_first[e + 1]; i++, n_homes++) {
            sy_home home = p->home[i];
            assert_in_range(home.rank, 0, p->n_ranks - 1);
            assert_in_range(home.slot, 0, sy_placement_slots(p, home.rank) - 1);
            assert_int_equal(p->slot_expert[p->slot_first[home.rank] + home.slot], e);
            if (i > p->home_first[e]) assert_true(p->home[i - 1].rank < home.rank);
        }
    }
    assert_int_equal(n_homes, p->slot_first[p->n_ranks]);
}

static void contiguous_experts_are_split_evenly_for_any_number_of_ranks(void **state) {
    (void)state;
    static const int experts[] = {11, 0, 1, 64};
    for (int R = 1; R <= 13; R++) {
        sy_placement *p;
        assert_int_equal(sy_placement_contiguous(4, experts, R, &p), SY_OK);
        assert_int_equal(p->n_layers, 4);
        for (int l = 0; l < 4; l++) {
            const sy_placement_layer *layer = &p->layer[l];
            assert_int_equal(layer->n_experts, experts[l]);
            if (experts[l] == 0) {
                assert_null(layer->slot_first);
                continue;
            }
            check_layer(layer);
            assert_int_equal(layer->slot_first[R], experts[l]);
            for (int r = 0; r < R; r++) {
                int n = sy_placement_slots(layer, r);
                assert_true(n == experts[l] / R || n == experts[l] / R + 1);
                /* The memory budget takes the last rank for the fullest. */
                assert_true(n <= sy_placement_slots(layer, R - 1));
                for (int s = 0; s < n; s++)
                    assert_int_equal(layer->slot_expert[layer->slot_first[r] + s],
                                     experts[l] * r / R + s);
            }
        }
        sy_placement_destroy(p);
    }
}

static sy_status from_slots(int experts,
                            int R,
                            const int32_t *n_slots,
                            const int32_t *slots,
                            sy_placement **out) {
    return sy_placement_from_slots(1, &experts, R, &n_slots, &slots, out);
}

static void copies_and_empty_ranks_are_kept_in_slot_order(void **state) {
    (void)state;
    static const int32_t n_slots[] = {3, 0, 2, 1}, slots[] = {2, 0, 1, 1, 2, 2};
    sy_placement *p;
    assert_int_equal(from_slots(3, 4, n_slots, slots, &p), SY_OK);
    const sy_placement_layer *layer = &p->layer[0];
    check_layer(layer);
    assert_int_equal(sy_placement_slots(layer, 1), 0);
    assert_int_equal(layer->home_first[1] - layer->home_first[0], 1);
    assert_int_equal(layer->home_first[2] - layer->home_first[1], 2);
    assert_int_equal(layer->home_first[3] - layer->home_first[2], 3);
    const sy_home *two = &layer->home[layer->home_first[2]];
    assert_true(two[0].rank == 0 && two[0].slot == 0);
    assert_true(two[1].rank == 2 && two[1].slot == 1);
    assert_true(two[2].rank == 3 && two[2].slot == 0);
    sy_placement_destroy(p);
    sy_placement_destroy(NULL);
}

static void wrong_lists_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        int32_t n_slots[2], slots[4];
        const char *text;
    } table[] = {
        {{2, 1}, {0, 1, 0}, "layer 0: no rank holds expert 2"},
        {{2, 2}, {0, 1, 2, 3}, "expert 3 is not in 0..2"},
        {{2, 2}, {0, 1, 2, -1}, "expert -1 is not in 0..2"},
        {{3, 1}, {0, 1, 1, 2}, "rank 0 holds expert 1 twice"},
        {{1, -1}, {0}, "rank 1: expected 0 to 3 slots, found -1"},
        {{0, 4}, {0, 1, 2, 0}, "rank 1: expected 0 to 3 slots, found 4"},
        {{INT32_MAX, INT32_MAX}, {0}, "rank 0: expected 0 to 3 slots"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        sy_placement *p;
        assert_int_equal(from_slots(3, 2, table[i].n_slots, table[i].slots, &p), SY_ERR_FORMAT);
        assert_null(p);
        if (strstr(sy_last_error(), table[i].text) == NULL)
            fail_msg("expected \"%s\" in \"%s\"", table[i].text, sy_last_error());
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contiguous_experts_are_split_evenly_for_any_number_of_ranks),
        cmocka_unit_test(copies_and_empty_ranks_are_kept_in_slot_order),
        cmocka_unit_test(wrong_lists_are_refused_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
