/* Rotary embedding: tables by the documented formula, cos and sin against libm, YaRN and query
 * temperature against published numbers, and the kernels that rotate. */
#include <math.h>

#include "tests/matrix_fixture.h"

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

/* What a model's config says, and the first and last pair of the ramp that follow from it: whole
 * numbers, but for gpt-oss. */
typedef struct yarn_case {
    const char *model;
    sy_rope_spec rope;
    double low, high;
} yarn_case;

static const yarn_case yarn_cases[] = {
    {"DeepSeek-V3",
     {.dim = 64,
      .theta = 1e4,
      .factor = 40,
      .original_positions = 4096,
      .beta_fast = 32,
      .beta_slow = 1,
      .truncate = true,
      .attention_factor = 1},
     10,
     23},
    {"Kimi K2",
     {.dim = 64,
      .theta = 5e4,
      .factor = 32,
      .original_positions = 4096,
      .beta_fast = 32,
      .beta_slow = 1,
      .truncate = true,
      .attention_factor = 1},
     8,
     20},
    {"Mistral Large 3",
     {.dim = 64,
      .theta = 1e4,
      .factor = 36,
      .original_positions = 8192,
      .beta_fast = 32,
      .beta_slow = 1,
      .truncate = true,
      .attention_factor = 1},
     12,
     25},
    {"gpt-oss",
     {.dim = 64,
      .theta = 1.5e5,
      .factor = 32,
      .original_positions = 4096,
      .beta_fast = 32,
      .beta_slow = 1,
      .truncate = false,
      .attention_factor = 1.3465736},
     8.0927791,
     17.3980246},
};

/* Frequencies from the table: the angles of position 1 lie below a half turn. */
static void check_yarn(const yarn_case *c) {
    sy_rope_table *table;
    assert_int_equal(sy_rope_table_create(5000, &c->rope, &table), SY_OK);
    for (int i = 0; i < table->half; i++) {
        double plain = pow(c->rope.theta, -2.0 * i / c->rope.dim);
        double ramp = fmin(fmax((i - c->low) / (c->high - c->low), 0), 1);
        double expected = (1 - ramp) * plain + ramp * plain / c->rope.factor;
        double cosine = (double)table->cos[table->half + i];
        double sine = (double)table->sin[table->half + i];
        if (fabs(atan2(sine, cosine) - expected) > 3e-7 * expected)
            fail_msg("%s, pair %d: frequency %.9g, expected %.9g", c->model, i,
                     atan2(sine, cosine), expected);
        for (int64_t p = 0; p < 5000; p += 7) {
            double x = (double)table->cos[p * table->half + i];
            double y = (double)table->sin[p * table->half + i];
            assert_true(fabs(sqrt(x * x + y * y) - c->rope.attention_factor) < 2e-7);
        }
    }
    sy_rope_table_destroy(table);
}

static void yarn_slows_the_pairs_that_it_should(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof yarn_cases / sizeof *yarn_cases; i++)
        check_yarn(&yarn_cases[i]);
}

/* Bounds outside of the pairs, and bounds that meet: as published, and never a division by 0. */
static void yarn_at_its_borders_gives_numbers(void **state) {
    (void)state;
    yarn_case c = yarn_cases[0];
    c.rope.factor = 1;
    check_yarn(&c);
    c = yarn_cases[0];
    c.rope.beta_fast = c.rope.beta_slow = 1e6;
    c.low = 0, c.high = -25;
    check_yarn(&c);
    c.rope.beta_fast = c.rope.beta_slow = 1e-6;
    c.low = 70, c.high = 63;
    check_yarn(&c);
    c.rope.beta_fast = c.rope.beta_slow = 4;
    c.rope.truncate = false;
    c.low = 64 * log(4096 / (8 * 3.14159265358979)) / (2 * log(1e4));
    c.high = c.low + 0.001;
    check_yarn(&c);
}

static void query_temperature_has_the_published_values(void **state) {
    (void)state;
    sy_attn_spec a = {.query_beta = 0.1f, .query_positions = 8192};
    static const struct {
        int64_t position;
        double scale;
    } cases[] = {{0, 1},
                 {8191, 1},
                 {8192, 1.0693147},
                 {16384, 1.1098612},
                 {65536, 1.2197225},
                 {131072, 1.2833213},
                 {262144, 1.3496508}};
    for (int i = 0; i < 7; i++)
        assert_true(fabs((double)sy_query_scale(&a, cases[i].position) - cases[i].scale) <
                    1.2e-7);
    for (int64_t p = 0; p < 1 << 24; p += 4999) {
        double exact = 1 + (double)a.query_beta * log(1 + floor((double)p / 8192));
        assert_true(ulps(sy_query_scale(&a, p), exact) <= 0.5001);
    }
    a.query_beta = 0;
    assert_true(sy_query_scale(&a, 1 << 20) == 1.0f);
    a.query_beta = 1, a.query_positions = 0; /* never from a model; no division by 0 */
    assert_true(sy_query_scale(&a, 1 << 20) == 1.0f);
}

/* Both layouts are one function of pairs; every table gives the bits of plain C. */
static void interleaved_pairs_rotate_as_halves_do(void **state) {
    (void)state;
    float c[70], s[70], pairs[140], halves[140];
    for (int isa = 0; isa < N_ISA; isa++) {
        const sy_cpu_isa *table = sy_cpu_isa_find(isa_names[isa]);
        random_state = 3;
        for (int half = 0; table != NULL && half <= 70; half++) {
            for (int i = 0; i < half; i++) {
                c[i] = random_float(ORDINARY), s[i] = random_float(ORDINARY);
                halves[i] = pairs[2 * i] = random_float(ORDINARY);
                halves[i + half] = pairs[2 * i + 1] = random_float(ORDINARY);
            }
            sy_isa_generic.vec.rope_half(half, c, s, halves);
            table->vec.rope_interleaved(half, c, s, pairs);
            for (int i = 0; i < half; i++) {
                assert_same_bits(&pairs[2 * i], &halves[i], 1, isa_names[isa]);
                assert_same_bits(&pairs[2 * i + 1], &halves[half + i], 1, isa_names[isa]);
            }
        }
    }
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

static void impossible_yarn_is_refused(void **state) {
    (void)state;
    const double wrong[] = {-1, (double)NAN, (double)INFINITY, 1e300};
    for (int i = 0; i < 4; i++)
        for (int member = 0; member < 5; member++) {
            sy_rope_spec rope = yarn_cases[0].rope;
            double *members[] = {&rope.factor, &rope.original_positions, &rope.beta_fast,
                                 &rope.beta_slow, &rope.attention_factor};
            *members[member] = wrong[i];
            sy_rope_table *table = (void *)1;
            assert_int_not_equal(sy_rope_table_create(10, &rope, &table), SY_OK);
            assert_null(table);
        }
    sy_rope_spec rope = yarn_cases[0].rope;
    sy_rope_table *table;
    rope.theta = 1; /* ln theta divides */
    assert_int_not_equal(sy_rope_table_create(10, &rope, &table), SY_OK);
    rope = yarn_cases[0].rope;
    rope.factor = 0.5;
    assert_int_not_equal(sy_rope_table_create(10, &rope, &table), SY_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_match_libm_to_half_an_ulp),
        cmocka_unit_test(large_angles_are_reduced_exactly),
        cmocka_unit_test(position_zero_does_not_rotate),
        cmocka_unit_test(yarn_slows_the_pairs_that_it_should),
        cmocka_unit_test(yarn_at_its_borders_gives_numbers),
        cmocka_unit_test(query_temperature_has_the_published_values),
        cmocka_unit_test(interleaved_pairs_rotate_as_halves_do),
        cmocka_unit_test(empty_tables_are_tables),
        cmocka_unit_test(impossible_arguments_are_refused),
        cmocka_unit_test(impossible_yarn_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
