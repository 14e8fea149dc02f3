/* Tables of cos and sin for rotary embedding, by own float64 formulas: the same bits on every
 * machine and with every libm. Only IEEE additions, multiplications and divisions are used. */
#include <inttypes.h>

#include "base/checked.h"
#include "base/memory.h"
#include "kernels/ops.h"

/* Positions up to here are exact in float32, and the quarter turns of their angles (theta >= 1,
 * so no angle exceeds the position) fit the 25 bits that sin_cos can reduce exactly. */
enum { MAX_POSITIONS = 1 << 24 };

/* ln 2 in two parts; the first has 32 bits, so n * LN2_HIGH is exact for |n| < 2^21. */
static const double LN2_HIGH = 0x1.62e42feep-1, LN2_LOW = 0x1.a39ef35793c76p-33;

static double double_from_bits(uint64_t bits) {
    double d;
    memcpy(&d, &bits, sizeof d);
    return d;
}

static uint64_t bits_from_double(double d) {
    uint64_t bits;
    memcpy(&bits, &d, sizeof bits);
    return bits;
}

/* ln x for normal x > 0: x = 2^n m with m in [sqrt(1/2), sqrt(2)), and ln m = 2 artanh(s) with
 * s = (m - 1) / (m + 1), |s| <= 0.172; the first term left out is below 2e-19. */
static double log_f64(double x) {
    uint64_t bits = bits_from_double(x);
    int n = (int)(bits >> 52) - 1023;
    double m = double_from_bits((bits & 0x000fffffffffffffu) | 0x3ff0000000000000u);
    if (m > 1.4142135623730951) {
        m *= 0.5;
        n++;
    }
    double s = (m - 1.0) / (m + 1.0), s2 = s * s, series = 0.0;
    for (int k = 23; k >= 3; k -= 2)
        series = (series + 1.0 / k) * s2;
    return n * LN2_HIGH + (n * LN2_LOW + 2.0 * (s + s * series));
}

/* e^x for -700 < x <= 0: x = n ln 2 + r with |r| <= 0.35, Taylor series of e^r to r^13 (the
 * next term is below 5e-18), times 2^n. */
static double exp_f64(double x) {
    int n = (int)(x * 1.4426950408889634 - 0.5);
    double r = (x - n * LN2_HIGH) - n * LN2_LOW, series = 1.0;
    for (int k = 13; k >= 1; k--)
        series = 1.0 + series * r / k;
    return series * double_from_bits((uint64_t)(n + 1023) << 52);
}

/* cos and sin of 0 <= x <= 2^24. x less its nearest multiple of pi/2, with pi/2 in three parts:
 * the first two have 28 bits, so that their products with a count below 2^25 are exact. Then
 * Taylor series on [-pi/4, pi/4]: the first terms left out are below 1e-17. */
static void sin_cos_f64(double x, double *sin_out, double *cos_out) {
    int32_t turns = (int32_t)(x * 0.63661977236758134 + 0.5);
    double n = turns;
    double r = x - n * 0x1.921fb54p+0;
    r -= n * 0x1.10b461p-30;
    r -= n * 0x1.a62633145c06ep-58;
    double r2 = r * r;
    static const double s[] = {
        -1.0 / 6,        1.0 / 120,        -1.0 / 5040,          1.0 / 362880,
        -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000};
    static const double c[] = {
        -1.0 / 2,       1.0 / 24,        -1.0 / 720,         1.0 / 40320,
        -1.0 / 3628800, 1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000};
    double sin_series = 0.0, cos_series = 0.0;
    for (int i = 7; i >= 0; i--) {
        sin_series = (sin_series + s[i]) * r2;
        cos_series = (cos_series + c[i]) * r2;
    }
    double sine = r + r * sin_series, cosine = 1.0 + cos_series;
    double a = turns & 1 ? cosine : sine, b = turns & 1 ? sine : cosine;
    *sin_out = turns & 2 ? -a : a;
    *cos_out = (turns + 1) & 2 ? -b : b;
}

static void fill_position(sy_rope_table *table,
                          const double *inv_freq,
                          double factor,
                          int64_t position,
                          float *cos_row,
                          float *sin_row) {
    for (int i = 0; i < table->half; i++) {
        float angle = (float)position * (float)inv_freq[i];
        double sine, cosine;
        sin_cos_f64((double)angle, &sine, &cosine);
        cos_row[i] = (float)(cosine * factor);
        sin_row[i] = (float)(sine * factor);
    }
}

/* Bytes of one of the two tables. */
static uint64_t table_bytes(const sy_rope_table *table) {
    return (uint64_t)table->n_positions * (uint64_t)table->half * sizeof(float);
}

static sy_status check_arguments(int64_t n_positions, const sy_rope_spec *rope) {
    if (n_positions < 0 || n_positions > MAX_POSITIONS)
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "rotary table of %" PRId64 " positions: expected 0 to %d", n_positions,
                       (int)MAX_POSITIONS);
    if (rope->dim < 0 || rope->dim % 2 != 0)
        return sy_fail(SY_ERR_UNSUPPORTED, "rotary width %d: expected an even number >= 0",
                       rope->dim);
    if (!(rope->theta >= 1.0 && rope->theta <= 1e100))
        return sy_fail(SY_ERR_UNSUPPORTED, "rotary base %g: expected 1 to 1e100", rope->theta);
    if (!(rope->attention_factor > 0 && rope->attention_factor <= 1e6))
        return sy_fail(SY_ERR_UNSUPPORTED, "rotary factor %g: expected above 0, up to 1e6",
                       rope->attention_factor);
    if (rope->factor == 0) return SY_OK;
    if (!(rope->factor >= 1 && rope->factor <= 1e6 && rope->original_positions >= 1 &&
          rope->original_positions <= 1e9 && rope->beta_fast > 0 && rope->beta_fast <= 1e6 &&
          rope->beta_slow > 0 && rope->beta_slow <= 1e6 && rope->theta > 1))
        return sy_fail(
            SY_ERR_UNSUPPORTED,
            "YaRN: factor %g of 1 to 1e6, %g original positions of 1 to 1e9, betas %g "
            "and %g above 0 up to 1e6, base %g above 1: one is not so",
            rope->factor, rope->original_positions, rope->beta_fast, rope->beta_slow,
            rope->theta);
    return SY_OK;
}

static double floor_f64(double x) {
    double whole = (double)(int64_t)x; /* towards zero; |x| is far below 2^63 here */
    return whole > x ? whole - 1 : whole;
}

/* The pair (as a real number) whose wave makes `turns` turns over the original positions. */
static double pair_of_turns(const sy_rope_spec *rope, double turns) {
    double wave = rope->original_positions / (turns * 6.283185307179586);
    return rope->dim * log_f64(wave) / (2 * log_f64(rope->theta));
}

/* YaRN (transformers, _compute_yarn_parameters): pairs of many turns keep their frequency, pairs
 * of few are slowed by the factor, and between the two bounds there is a ramp. */
static void scale_frequencies(const sy_rope_spec *rope, double *inv_freq) {
    double low = pair_of_turns(rope, rope->beta_fast);
    double high = pair_of_turns(rope, rope->beta_slow);
    if (rope->truncate) {
        low = floor_f64(low);
        high = -floor_f64(-high);
    }
    if (low < 0) low = 0;
    if (high > rope->dim - 1) high = rope->dim - 1;
    if (low == high) high += 0.001;
    for (int i = 0; i < rope->dim / 2; i++) {
        double ramp = (i - low) / (high - low);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        inv_freq[i] = (1 - ramp) * inv_freq[i] + ramp * (inv_freq[i] / rope->factor);
    }
}

sy_status
sy_rope_table_create(int64_t n_positions, const sy_rope_spec *rope, sy_rope_table **out) {
    sy_status st = SY_OK;
    sy_rope_table *table = NULL;
    double *inv_freq = NULL;
    float *cos_table = NULL, *sin_table = NULL;
    int half = rope->dim / 2;
    *out = NULL;
    SY_TRY(check_arguments(n_positions, rope));
    SY_TRY(sy_mem_alloc(&inv_freq, (uint64_t)half * sizeof *inv_freq, "rotary frequencies"));
    SY_TRY(sy_mem_alloc(&table, sizeof *table, "rotary table"));
    table->n_positions = n_positions;
    table->half = half;
    SY_TRY(sy_mem_alloc(&cos_table, table_bytes(table), "rotary table"));
    table->cos = cos_table;
    SY_TRY(sy_mem_alloc(&sin_table, table_bytes(table), "rotary table"));
    table->sin = sin_table;

    double log_theta = log_f64(rope->theta);
    for (int i = 0; i < half; i++)
        inv_freq[i] = exp_f64(-(2.0 * i / rope->dim) * log_theta);
    if (rope->factor != 0) scale_frequencies(rope, inv_freq);
    for (int64_t p = 0; p < n_positions; p++)
        fill_position(table, inv_freq, rope->attention_factor, p, cos_table + p * half,
                      sin_table + p * half);
    *out = table;
    table = NULL;
done:
    sy_mem_free(inv_freq, (uint64_t)half * sizeof *inv_freq);
    sy_rope_table_destroy(table);
    return st;
}

float sy_query_scale(const sy_attn_spec *attn, int64_t position) {
    if (attn->query_beta == 0 || attn->query_positions < 1) return 1.0f;
    double spans = (double)(position / attn->query_positions);
    return (float)(1.0 + (double)attn->query_beta * log_f64(1.0 + spans));
}

void sy_rope_table_destroy(sy_rope_table *table) {
    if (table == NULL) return;
    sy_mem_free((void *)table->cos, table_bytes(table));
    sy_mem_free((void *)table->sin, table_bytes(table));
    sy_mem_free(table, sizeof *table);
}
