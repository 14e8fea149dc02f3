/* Rotary tables: the documented formula, and cos and sin against libm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>

#include <cmocka.h>

#include "kernels/ops.h"

static double ulps(float found, double exact) {
    int e;
    frexp(exact, &e);
    return fabs((double)found - exact) / ldexp(1.0, e - 24);
}

static sy_status create(int64_t n_positions, int dim, double theta, sy_rope_table **out) {
    sy_rope_spec rope = {.dim = dim, .theta = theta, .attention_factor = 1};
    return sy_rope_table_create(n_positions, &rope, out);
}

/* The frequencies by libm, rounded to float32 as the contract says. */
static void check_table(int64_t n_positions, int rotary_dim, double theta, int64_t stride) {
    sy_rope_table *table;
    assert_int_equal(create(n_positions, rotary_dim, theta, &table), SY_OK);
    assert_int_equal(table->n_positions, n_positions);
    assert_int_equal(table->half, rotary_dim / 2);
    for (int i = 0; i < table->half; i++) {
        float inv_freq = (float)pow(theta, -2.0 * i / rotary_dim);
        for (int64_t p = 0; p < n_positions; p += stride) {
            double angle = (double)((float)p * inv_freq);
            float c = table->cos[p * table->half + i], s = table->sin[p * table->half + i];
            if (!(ulps(c, cos(angle)) <= 0.5001 && ulps(s, sin(angle)) <= 0.5001))
                fail_msg("theta %g, width %d, position %lld, pair %d: cos %a (%a), sin %a (%a)",
                         theta, rotary_dim, (long long)p, i, (double)c, cos(angle), (double)s,
                         sin(angle));
        }
    }
    sy_rope_table_destroy(table);
}

static void tables_match_libm_to_half_an_ulp(void **state) {
    (void)state;
    check_table(5000, 128, 10000.0, 1);
    check_table(5000, 64, 1e6, 1);
    check_table(3000, 96, 5e6, 1);
    check_table(3000, 24, 150000.0, 1);
    check_table(3000, 128, 1e7, 1);
    check_table(100, 2, 10000.0, 1);
    check_table(100, 16, 1.0, 1);
}

static void large_angles_are_reduced_exactly(void **state) {
    (void)state;
    check_table(((int64_t)1 << 21) + 1, 2, 10000.0, 1);
    check_table((int64_t)1 << 24, 2, 10000.0, 97);
}

static void position_zero_does_not_rotate(void **state) {
    (void)state;
    sy_rope_table *table;
    assert_int_equal(create(1, 64, 1e6, &table), SY_OK);
    for (int i = 0; i < 32; i++)
        assert_true(table->cos[i] == 1.0f && table->sin[i] == 0.0f);
    sy_rope_table_destroy(table);
}

static void empty_tables_are_tables(void **state) {
    (void)state;
    sy_rope_table *table;
    assert_int_equal(create(0, 64, 1e6, &table), SY_OK);
    sy_rope_table_destroy(table);
    assert_int_equal(create(10, 0, 1e6, &table), SY_OK);
    assert_int_equal(table->half, 0);
    sy_rope_table_destroy(table);
    sy_rope_table_destroy(NULL);
}

static void impossible_arguments_are_refused(void **state) {
    (void)state;
    sy_rope_table *table = (void *)1;
    assert_int_not_equal(create(-1, 64, 1e6, &table), SY_OK);
    assert_null(table);
    assert_int_not_equal(create(10, 63, 1e6, &table), SY_OK);
    assert_int_not_equal(create(10, -2, 1e6, &table), SY_OK);
    assert_int_not_equal(create(10, 64, 0.5, &table), SY_OK);
    assert_int_not_equal(create(10, 64, 0.0, &table), SY_OK);
    assert_int_not_equal(create(10, 64, (double)NAN, &table), SY_OK);
    assert_int_not_equal(create(10, 64, (double)INFINITY, &table), SY_OK);
    assert_int_not_equal(create((int64_t)1 << 40, 64, 1e6, &table), SY_OK);
    assert_int_not_equal(create(1 << 24, 2147483646, 1e6, &table), SY_OK);
    assert_true(sy_last_error()[0] != '\0');
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_match_libm_to_half_an_ulp),
        cmocka_unit_test(large_angles_are_reduced_exactly),
        cmocka_unit_test(position_zero_does_not_rotate),
        cmocka_unit_test(empty_tables_are_tables),
        cmocka_unit_test(impossible_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
