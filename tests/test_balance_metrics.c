/* Measures of balance against numbers by hand, and simulated routers against what is known of
 * them. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"
#include "runtime/balance_metrics.h"

static void near(double found, double expected, double tolerance) {
    if (!(fabs(found - expected) <= tolerance))
        fail_msg("%.9g, expected %.9g within %g", found, expected, tolerance);
}

static void measures_are_those_by_hand(void **state) {
    (void)state;
    sy_balance b;
    const double x[] = {6, 0, 3, 3};
    sy_balance_of(x, 4, &b);
    near(b.max_over_mean, 2, 1e-12);
    near(b.excess_over_mean, 1, 1e-12);
    near(b.balancedness, 0.5, 1e-12);
    near(b.cv, sqrt((9 + 9) / 4.0) / 3, 1e-12);
    near(b.entropy, (0.5 * 1 + 2 * 0.25 * 2) / 2, 1e-12); /* bits of 2 */
    near(b.unused, 1, 0);
}

static void an_even_load_is_even_and_one_expert_is_all(void **state) {
    (void)state;
    sy_balance b;
    const double even[] = {7, 7, 7}, one[] = {0, 5, 0}, none[3] = {0}, single[] = {9};
    sy_balance_of(even, 3, &b);
    near(b.max_over_mean, 1, 0);
    near(b.excess_over_mean, 0, 0);
    near(b.entropy, 1, 1e-12);
    near(b.cv, 0, 0);
    sy_balance_of(one, 3, &b);
    near(b.max_over_mean, 3, 1e-12);
    near(b.entropy, 0, 0);
    near(b.unused, 2, 0);
    sy_balance_of(none, 3, &b);
    near(b.max_over_mean, 1, 0);
    near(b.balancedness, 1, 0);
    near(b.unused, 3, 0);
    sy_balance_of(single, 1, &b);
    near(b.max_over_mean, 1, 0);
    near(b.entropy, 1, 0);
}

static sy_placement *place(int E, int R) {
    sy_placement *p;
    assert_int_equal(sy_placement_contiguous(1, &E, R, &p), SY_OK);
    return p;
}

/* An expert stays unused by n tokens with probability (1 - K / E)^n, whichever way counts are
 * drawn; the coefficient of variation is about sqrt((1 - p) / (n p)). */
static void a_uniform_router_is_as_uneven_as_chance_makes_it(void **state) {
    (void)state;
    static const struct {
        int E, K;
        uint64_t n;
    } table[] = {{64, 4, 5}, {64, 4, 40}, {256, 8, 300}, {256, 8, 100000}, {16, 2, 1000000}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        int E = table[i].E, K = table[i].K;
        double n = (double)table[i].n, p = (double)K / E;
        sy_placement *place_of = place(E, 4);
        sy_balance e, r;
        assert_int_equal(sy_balance_uniform(table[i].n, K, &place_of->layer[0], &e, &r), SY_OK);
        near(e.unused, E * pow(1 - p, n), 0.5);
        near(e.cv, sqrt((1 - p) / (n * p)), 0.05 * sqrt((1 - p) / (n * p)));
        assert_true(e.max_over_mean > 1 && r.max_over_mean > 1);
        assert_true(r.max_over_mean < e.max_over_mean); /* sums are more even */
        near(e.excess_over_mean, e.max_over_mean - 1, 1e-9);
        sy_placement_destroy(place_of);
    }
}

/* Both ways of drawing, on either side of where one takes over from the other. */
static void few_and_many_tokens_are_drawn_alike(void **state) {
    (void)state;
    sy_balance few, many;
    sy_placement *p = place(32, 2);
    assert_int_equal(sy_balance_uniform(5000, 4, &p->layer[0], &few, NULL), SY_OK);
    assert_int_equal(sy_balance_uniform(5001, 4, &p->layer[0], &many, NULL), SY_OK);
    near(few.max_over_mean, many.max_over_mean, 0.005);
    near(few.cv, many.cv, 0.002);
    sy_placement_destroy(p);
}

static void the_same_question_has_the_same_answer(void **state) {
    (void)state;
    sy_balance a, b;
    sy_placement *p = place(32, 2);
    assert_int_equal(sy_balance_uniform(100, 4, &p->layer[0], &a, NULL), SY_OK);
    assert_int_equal(sy_balance_uniform(100, 4, &p->layer[0], &b, NULL), SY_OK);
    assert_memory_equal(&a, &b, sizeof a);
    sy_placement_destroy(p);
}

static void copies_share_the_load_of_their_expert(void **state) {
    (void)state;
    /* Two experts: 0 on both ranks, 1 on rank 1. All tokens take both: 0.5 and 1.5. */
    const int E = 2;
    const int32_t slots[] = {1, 2}, experts[] = {0, 0, 1};
    const int32_t *slots_of[] = {slots}, *experts_of[] = {experts};
    sy_placement *p;
    sy_balance e, r;
    assert_int_equal(sy_placement_from_slots(1, &E, 2, slots_of, experts_of, &p), SY_OK);
    assert_int_equal(sy_balance_uniform(10, 2, &p->layer[0], &e, &r), SY_OK);
    near(e.max_over_mean, 1, 1e-9);
    near(r.max_over_mean, 1.5, 1e-9);
    sy_placement_destroy(p);
}

static void overlap_is_what_two_loads_share(void **state) {
    (void)state;
    const double a[] = {1, 1, 0, 0}, b[] = {0, 0, 5, 5}, c[] = {3, 1, 0, 0}, none[4] = {0};
    near(sy_balance_overlap(a, a, 4), 1, 1e-12);
    near(sy_balance_overlap(a, b, 4), 0, 0);
    near(sy_balance_overlap(a, c, 4), 0.75, 1e-12);
    near(sy_balance_overlap(a, none, 4), 1, 0);
}

static void chance_alone_lowers_the_overlap_of_small_samples(void **state) {
    (void)state;
    double few[64], many[64], small, large;
    for (int i = 0; i < 64; i++) {
        few[i] = 2;
        many[i] = 20000;
    }
    assert_int_equal(sy_balance_uniform_overlap(few, few, 64, &small), SY_OK);
    assert_int_equal(sy_balance_uniform_overlap(many, many, 64, &large), SY_OK);
    /* E|X - Y| of two Poisson counts of mean 2 is 1.54: half of it over the mean. */
    near(small, 1 - 1.54 / 4, 0.03);
    near(large, 1, 0.01);
    assert_true(large < 1);
}

static void a_difference_is_told_from_chance(void **state) {
    (void)state;
    near(sy_balance_difference(10, 100, 10, 100), 0, 0);
    near(sy_balance_difference(60, 100, 40, 100), 0.2 / sqrt(0.25 * 0.02), 1e-9);
    near(sy_balance_difference(40, 100, 60, 100), -0.2 / sqrt(0.25 * 0.02), 1e-9);
    near(sy_balance_difference(0, 0, 10, 100), 0, 0);
    near(sy_balance_difference(100, 100, 100, 100), 0, 0); /* always chosen */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(measures_are_those_by_hand),
        cmocka_unit_test(an_even_load_is_even_and_one_expert_is_all),
        cmocka_unit_test(a_uniform_router_is_as_uneven_as_chance_makes_it),
        cmocka_unit_test(few_and_many_tokens_are_drawn_alike),
        cmocka_unit_test(the_same_question_has_the_same_answer),
        cmocka_unit_test(copies_share_the_load_of_their_expert),
        cmocka_unit_test(overlap_is_what_two_loads_share),
        cmocka_unit_test(chance_alone_lowers_the_overlap_of_small_samples),
        cmocka_unit_test(a_difference_is_told_from_chance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
