/* Quantised weights on the CPU: every format, table and shape against the formats' definitions.
 * timeout: 240 */
#include "tests/format_fixture.h"

typedef struct product {
    sy_backend *be;
    const quantised *q;
    int64_t leaf, rows, ldy;
    const void *x;
    float *y, *expected; /* [rows, ldy] of each part, one behind the other */
} product;

/* One part through sy_cpu_matmul, two as the experts take them. */
static void product_run(void *arg, int thread, int n_threads) {
    const product *c = arg;
    const sy_matrix *m = &c->q->m;
    sy_cpu *cpu = sy_cpu_of(c->be);
    int64_t begin, end;
    sy_pool_share(sy_cpu_panels(m), thread, n_threads, &begin, &end);
    if (m->parts == 1) {
        sy_cpu_matmul(cpu, thread, m, begin, end, c->leaf, c->rows, c->x, m->k, c->y, c->ldy);
        return;
    }
    float *tile = malloc((size_t)(c->rows * SY_PANEL) * sizeof *tile);
    for (int64_t stored = 2 * begin; stored < 2 * end; stored++) {
        sy_panel_range range = {.m = m, .panel = stored, .end = m->k};
        sy_cpu_panel(cpu, thread, &range, c->rows, c->x, m->k, tile, SY_PANEL, true);
        int64_t column = stored / 2 * SY_PANEL, columns = sy_min(m->n - column, SY_PANEL);
        for (int64_t r = 0; r < c->rows; r++)
            memcpy(c->y + (stored % 2 * c->rows + r) * c->ldy + column, tile + r * SY_PANEL,
                   (size_t)columns * sizeof *tile);
    }
    free(tile);
}

static void define_run(void *arg, int thread, int n_threads) {
    const product *c = arg;
    const sy_matrix *m = &c->q->m;
    int64_t leaves = c->leaf > 0 ? sy_ceil_div(m->k, c->leaf) : 1;
    for (int64_t i = thread; i < m->parts * c->rows * m->n; i += n_threads) {
        int64_t r = i / m->n % c->rows, o = i % m->n;
        int part = (int)(i / m->n / c->rows);
        c->expected[(part * c->rows + r) * c->ldy + o] =
            plain_quantised_dot(c->be, c->q, part, o, c->x, r, c->leaf, 0, leaves);
    }
}

/* The product of q with random rows against its definition, with a canary behind each row. */
static void check_product(sy_backend *be,
                          const quantised *q,
                          const char *name,
                          int64_t rows,
                          int64_t leaf,
                          spread s) {
    const sy_matrix *m = &q->m;
    product c = {be, q, leaf, rows, m->n + 3, make_rows(be, rows, m->k, s), NULL, NULL};
    int64_t values = m->parts * rows * c.ldy;
    c.y = malloc((size_t)values * sizeof *c.y);
    c.expected = malloc((size_t)values * sizeof *c.y);
    for (int64_t i = 0; i < values; i++)
        c.y[i] = c.expected[i] = 12345.0f;
    sy_cpu *cpu = sy_cpu_of(be);
    memset(cpu->tiles, 0xff, (size_t)sy_pool_threads(cpu->pool) * sizeof *cpu->tiles);
    sy_pool_run(cpu->pool, product_run, &c);
    sy_pool_run(cpu->pool, define_run, &c);
    char what[160];
    snprintf(what, sizeof what,
             "%s, %s, act %s, %d parts, %lld rows, n %lld, k %lld, leaf %lld",
             sy_cpu_isa_name(be), name, sy_dtype_name(be->act), m->parts, (long long)rows,
             (long long)m->n, (long long)m->k, (long long)leaf);
    assert_same_bits(c.y, c.expected, values, what);
    free((void *)c.x);
    free(c.y);
    free(c.expected);
}

static void check_format(sy_backend *be,
                         const format_case *f,
                         int parts,
                         int64_t rows,
                         int64_t n,
                         int64_t k,
                         int64_t leaf,
                         spread s) {
    quantised q = make_quantised(be, f, parts, n, k, s);
    check_product(be, &q, f->name, rows, leaf, s);
    free_quantised(be, &q);
}

static void products_equal_their_definition_for_every_table_and_format(void **state) {
    (void)state;
    random_state = 11;
    for (int i = 0; i < N_ISA; i++)
        for (int act = 0; act < 2; act++) {
            sy_backend *be =
                open_cpu(act == 0 ? SY_BF16 : SY_F32, 1 + (i + act) % 3, isa_names[i]);
            if (be == NULL) continue;
            for (int f = 0; f < N_FORMATS; f++) {
                const format_case *c = &formats[f];
                check_format(be, c, 1, random_in(0, 20), random_in(1, 200), random_in(1, 600),
                             0, ORDINARY);
                check_format(be, c, 1, random_in(1, 9), random_in(1, 200), random_in(1, 1200),
                             SY_LEAF, ORDINARY);
                check_format(be, c, 2, random_in(1, 5), random_in(1, 200), random_in(1, 700), 0,
                             ORDINARY);
                check_format(be, c, 1, random_in(1, 4), random_in(1, 70), random_in(1, 600),
                             2 * random_in(1, 200), ORDINARY);
                check_format(be, c, 1, 2, 65, 2 * random_in(1, 300), SY_LEAF, UNDERFLOW);
            }
            close_cpu(be);
        }
}

/* Row counts around every tile, whole groups and groups cut by K. */
static void products_equal_their_definition_at_every_row_count(void **state) {
    (void)state;
    random_state = 12;
    for (int i = 0; i < N_ISA; i++) {
        sy_backend *be = open_cpu(SY_BF16, 1, isa_names[i]);
        if (be == NULL) continue;
        for (int f = 0; f < N_FORMATS; f++) {
            quantised whole = make_quantised(be, &formats[f], 1, 64, 640, ORDINARY);
            quantised cut =
                make_quantised(be, &formats[f], 1, 64, 8 * random_in(17, 40), ORDINARY);
            for (int64_t rows = 1; rows <= 26; rows += rows < 14 ? 1 : 4) {
                check_product(be, &whole, formats[f].name, rows, 0, ORDINARY);
                check_product(be, &cut, formats[f].name, rows, SY_LEAF, ORDINARY);
            }
            check_product(be, &cut, formats[f].name, 49, SY_LEAF, ORDINARY);
            free_quantised(be, &whole);
            free_quantised(be, &cut);
        }
        close_cpu(be);
    }
}

static void products_equal_their_definition_at_published_widths(void **state) {
    (void)state;
    random_state = 13;
    sy_backend *be = open_cpu(SY_BF16, 2, NULL);
    check_format(be, &formats[0], 1, 1, 7168, 2048, SY_LEAF, ORDINARY);
    check_format(be, &formats[0], 1, 2, 576, 7168, 0, ORDINARY);
    check_format(be, &formats[6], 2, 1, 2880, 2880, 0, ORDINARY);
    check_format(be, &formats[9], 1, 1, 2048, 7168, 0, ORDINARY);
    check_format(be, &formats[15], 1, 2, 2048, 7168, SY_LEAF, ORDINARY);
    close_cpu(be);
}

/* A chain of K products and its scales, factor and leaves take at most this many roundings. */
static void plain_c_is_within_the_rounding_bound_of_float64(void **state) {
    (void)state;
    random_state = 14;
    sy_backend *be = open_cpu(SY_BF16, 1, "generic");
    for (int f = 0; f < N_FORMATS; f++) {
        int64_t n = 70, k = random_in(500, 700);
        quantised q = make_quantised(be, &formats[f], 1, n, k, ORDINARY);
        float y[70];
        product c = {be, &q, 0, 1, n, make_rows(be, 1, k, ORDINARY), y, NULL};
        sy_pool_run(sy_cpu_of(be)->pool, product_run, &c);
        for (int64_t o = 0; o < n; o++) {
            double sum = 0, size = 0;
            for (int64_t i = 0; i < k; i++) {
                double w = WITH_FACTOR(&q, 0, code_of(&q, 0, o, i) * scale_of(&q, 0, o, i));
                sum += w * (double)act_value(be, c.x, i);
                size += fabs(w * (double)act_value(be, c.x, i));
            }
            double bound = (double)(k + q.groups + 1) * 0x1p-24 * 1.001 * size;
            if (!(fabs((double)y[o] - sum) <= bound))
                fail_msg("%s: error %g above %g", formats[f].name, (double)y[o] - sum, bound);
        }
        free((void *)c.x);
        free_quantised(be, &q);
    }
    close_cpu(be);
}

/* Every code alone in a row of K = 3, at each of the places, times x = 1. */
static void every_code_has_the_value_of_its_format(void **state) {
    (void)state;
    enum { K = 3 };
    static const int with[] = {0, 6, 9, 15};
    enum { N_WITH = sizeof with / sizeof *with };
    for (int i = 0; i < N_ISA; i++)
        for (int act = 0; act < 2; act++) {
            sy_backend *be = open_cpu(act == 0 ? SY_BF16 : SY_F32, 1, isa_names[i]);
            for (int f = 0; be != NULL && f < N_WITH; f++)
                for (int place = 0; place < K; place++) {
                    format_case format = formats[with[f]];
                    format.quant = (sy_quant){.scale = SY_F32, .group = 16, .outputs = 0};
                    bool bytes = has_bytes(format.dtype);
                    int n = bytes ? 256 : 16;
                    quantised q = shape_quantised(&format, 1, n, K);
                    uint8_t codes[256 * 4] = {0};
                    static const float one = 1;
                    for (int c = 0; c < n; c++)
                        codes[c * q.code_row_bytes + (bytes ? place : place / 2)] =
                            (uint8_t)(bytes ? c : c << 4 * (place % 2));
                    q.part[0].codes = (char *)codes;
                    q.part[0].scales = (char *)(uintptr_t)&one;
                    pack_quantised(be, &q);
                    float xf[K] = {0}, y[256];
                    uint16_t x16[K] = {0};
                    xf[place] = 1;
                    x16[place] = 0x3f80;
                    product p = {be, &q, 0, 1, n, act == 0 ? (void *)x16 : (void *)xf, y, NULL};
                    sy_pool_run(sy_cpu_of(be)->pool, product_run, &p);
                    for (int c = 0; c < n; c++) {
                        double w = code_of(&q, 0, c, place);
                        if (!(isnan(w) ? isnan(y[c]) : (double)y[c] == w))
                            fail_msg("%s, %s: code %d is %g, expected %g", isa_names[i],
                                     format.name, c, (double)y[c], w);
                    }
                    be->ops->free(be, q.m.data, q.bytes);
                }
            close_cpu(be);
        }
}

/* The expert steps over three slots of quantised matrices: h [P, F] in BF16, then y [P, H]. */
enum { SLOTS = 3, HIDDEN = 200, INTER = 330, PAIRS = 16 };

static void run_experts(const char *isa,
                        int n_threads,
                        const format_case *f,
                        const int64_t rows[SLOTS],
                        float y[PAIRS * HIDDEN]) {
    sy_backend *be = open_cpu(SY_BF16, n_threads, isa);
    if (be == NULL) return;
    random_state = 77; /* the same weights and rows each time */
    quantised up[SLOTS], down[SLOTS];
    sy_matrix gate_up[SLOTS], downs[SLOTS];
    int64_t first[SLOTS + 1] = {0};
    uint16_t *x = make_rows(be, PAIRS, HIDDEN, ORDINARY), h[PAIRS * INTER];
    for (int s = 0; s < SLOTS; s++) {
        up[s] = shape_quantised(f, 2, INTER, HIDDEN);
        down[s] = shape_quantised(f, 1, HIDDEN, INTER);
        for (int part = 0; part < 2; part++)
            fill_part(&up[s], &up[s].part[part], ORDINARY);
        fill_part(&down[s], &down[s].part[0], ORDINARY);
        first[s + 1] = first[s] + rows[s];
    }
    for (int s = 0; s < SLOTS; s++) {
        pack_quantised(be, &up[s]);
        pack_quantised(be, &down[s]);
        gate_up[s] = up[s].m;
        downs[s] = down[s].m;
    }
    sy_layer_spec spec = {.ffn = {.kind = SY_FFN_MOE, .inter = INTER}};
    sy_layer_weights w = {.n_slots = SLOTS, .gate_up = gate_up, .down = downs};
    sy_expert_rows in = {.n_slots = SLOTS, .n_pairs = first[SLOTS], .first = first, .x = x};
    assert_int_equal(be->ops->experts_up(be, &spec, &w, &in, h, NULL), SY_OK);
    assert_int_equal(be->ops->experts_down(be, &spec, &w, &in, h, y, NULL), SY_OK);
    for (int s = 0; s < SLOTS; s++) {
        free_quantised(be, &up[s]);
        free_quantised(be, &down[s]);
    }
    free(x);
    close_cpu(be);
}

static void expert_steps_give_equal_bits_over_tables_threads_and_rows(void **state) {
    (void)state;
    static const int which[] = {0, 4, 6, 7, 8, 9, 12, 15, 16};
    for (size_t f = 0; f < sizeof which / sizeof *which; f++) {
        const format_case *format = &formats[which[f]];
        static float expected[PAIRS * HIDDEN], y[PAIRS * HIDDEN], part[PAIRS * HIDDEN];
        run_experts("generic", 1, format, (const int64_t[]){1, 12, 3}, expected);
        for (int i = 0; i < PAIRS * HIDDEN; i++)
            if (!isfinite(expected[i])) fail_msg("%s: %g", format->name, (double)expected[i]);
        for (int i = 0; i < N_ISA; i++)
            for (int threads = 1; threads <= 3; threads++) {
                memcpy(y, expected, sizeof y); /* for a table that this machine lacks */
                run_experts(isa_names[i], threads, format, (const int64_t[]){1, 12, 3}, y);
                assert_same_bits(y, expected, PAIRS * HIDDEN, format->name);
            }
        /* The first rows of the second slot, alone with the first slot's. */
        run_experts(NULL, 2, format, (const int64_t[]){1, 2, 0}, part);
        assert_same_bits(part, expected, 3 * HIDDEN, "fewer rows");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_equal_their_definition_for_every_table_and_format),
        cmocka_unit_test(products_equal_their_definition_at_every_row_count),
        cmocka_unit_test(products_equal_their_definition_at_published_widths),
        cmocka_unit_test(plain_c_is_within_the_rounding_bound_of_float64),
        cmocka_unit_test(every_code_has_the_value_of_its_format),
        cmocka_unit_test(expert_steps_give_equal_bits_over_tables_threads_and_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
