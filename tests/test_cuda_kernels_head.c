/* The CUDA table's first and last steps, and the two of plain rows, against the CPU's and against
 * float64: embedding, head, norm, addition.
 * timeout: 120 */
#include "tests/cuda_fixture.h"

static const sy_dtype file_dtypes[] = {SY_BF16, SY_F16, SY_F32};

typedef struct embed_case {
    twin *table;
    int32_t *ids;
} embed_case;

static void *run_embed(const void *arg, int64_t first, int64_t n) {
    const embed_case *c = arg;
    sy_batch b = {.n_rows = (int)n, .ids = c->ids + first};
    output x = make_output(NULL, n * c->table->cuda.k * 4);
    begin_step(&b, n, 0, NULL);
    MUST(cuda_be->ops->embed(cuda_be, &c->table->cuda, &b, x.device, NULL));
    return read_output(x);
}

static void embed_copies_rows_exactly_and_zeroes_those_that_are_not_there(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{11, 17}, {1000, 65}, {11, 2048}};
    random_state = 25;
    for (int t = 0; t < 3; t++)
        for (int s = 0; s < 3; s++) {
            int64_t vocab = shapes[s][0], hidden = shapes[s][1];
            snprintf(where, sizeof where, "embed, %s, vocab %lld, hidden %lld",
                     sy_dtype_name(file_dtypes[t]), (long long)vocab, (long long)hidden);
            reserve_widths((int)hidden, 1, 1, 2, (int)vocab);
            twin table = make_twin(file_dtypes[t], 1, vocab, hidden);
            embed_case c = {&table, host_block(MOST_ROWS * 4)};
            for (int i = 0; i < MOST_ROWS; i++)
                c.ids[i] = i == 0 ? 0 : (int32_t)(i == 1 ? vocab - 1 : random_in(0, vocab - 1));
            float *x = run_embed(&c, 0, MOST_ROWS), *cpu = host_block(MOST_ROWS * hidden * 4);
            sy_batch b = {.n_rows = MOST_ROWS, .ids = c.ids};
            MUST(cpu_be->ops->embed(cpu_be, &table.cpu, &b, cpu, NULL));
            assert_equal_bytes(x, cpu, MOST_ROWS, hidden * 4, "x");
            expect_rows_alone_equal(run_embed, &c, x, hidden * 4);
            /* 30 rows wait in a step made for 64: the others come from no token. */
            float *zeros = host_block(64 * hidden * 4);
            memset(zeros, 0, (size_t)(64 * hidden * 4));
            output padded = make_output(NULL, 64 * hidden * 4);
            b.n_rows = 30;
            begin_step(&b, 64, 0, NULL);
            b.n_rows = 64;
            MUST(cuda_be->ops->embed(cuda_be, &table.cuda, &b, padded.device, NULL));
            float *found = read_output(padded);
            assert_equal_bytes(found, x, 30, hidden * 4, "rows of a step with padding");
            assert_equal_bytes(found + 30 * hidden, zeros, 34, hidden * 4, "padding");
            free_twin(&table);
            end_case();
        }
}

typedef struct head_case {
    twin *lm_head;
    float *norm, *x; /* [hidden], [MOST_ROWS, hidden] */
    float *norm_device;
    const int32_t *row; /* [MOST_ROWS], in [0, MOST_ROWS) */
} head_case;

static const float NORM_EPS = 1e-6f;

static void *run_head(const void *arg, int64_t first, int64_t n) {
    const head_case *c = arg;
    const sy_matrix *m = &c->lm_head->cuda;
    static const int32_t ids[MOST_ROWS];
    sy_batch b = {.n_rows = MOST_ROWS, .ids = ids};
    void *x = device_copy(c->x, MOST_ROWS * m->k * 4);
    output logits = make_output(NULL, n * m->n * 4);
    begin_step(&b, MOST_ROWS, n, c->row + first);
    MUST(cuda_be->ops->head(cuda_be, c->norm_device, NORM_EPS, m, n, c->row + first, x,
                            logits.device, NULL));
    return read_output(logits);
}

static void check_head(sy_dtype t, int64_t vocab, int64_t hidden) {
    static int32_t row[MOST_ROWS];
    snprintf(where, sizeof where, "head, %s, vocab %lld, hidden %lld", sy_dtype_name(t),
             (long long)vocab, (long long)hidden);
    reserve_widths((int)hidden, 1, 1, 2, (int)vocab);
    twin w = make_twin(t, 1, vocab, hidden);
    head_case c = {.lm_head = &w,
                   .norm = random_norm(hidden),
                   .x = random_floats(MOST_ROWS * hidden, 30),
                   .row = row};
    c.norm_device = device_copy(c.norm, hidden * 4);
    for (int i = 0; i < MOST_ROWS; i++)
        row[i] = (int32_t)random_in(0, MOST_ROWS - 1);
    float *found = run_head(&c, 0, MOST_ROWS), *cpu = host_block(MOST_ROWS * vocab * 4);
    MUST(cpu_be->ops->head(cpu_be, c.norm, NORM_EPS, &w.cpu, MOST_ROWS, row, c.x, cpu, NULL));
    float *xn = host_block(hidden * 4);
    double *slack = host_block(hidden * 8);
    for (int64_t r = 0; r < MOST_ROWS; r += hidden * vocab < 5000 ? 1 : 43) {
        norm64(c.x + row[r] * hidden, c.norm, (double)NORM_EPS, hidden, xn, slack);
        for (int64_t i = 0; i < vocab; i++) {
            sum64 s = dot64(w.value + i * hidden, xn, hidden);
            double either = slack64(w.value + i * hidden, slack, hidden);
            expect_near("logits", r, i, (double)found[r * vocab + i],
                        (double)cpu[r * vocab + i], s.y,
                        cuda_bound(hidden, s.magnitude, t) + either,
                        cpu_bound(hidden, s.magnitude) + either);
        }
    }
    expect_rows_alone_equal(run_head, &c, found, vocab * 4);
    free_twin(&w);
    end_case();
}

static void head_norms_the_wanted_rows(void **state) {
    (void)state;
    random_state = 26;
    for (int t = 0; t < 3; t++) {
        check_head(file_dtypes[t], 11, 63);
        check_head(file_dtypes[t], 1000, 17);
    }
    check_head(SY_BF16, 100, 2048);
    check_head(SY_F16, 33, 300);
}

typedef struct norm_case {
    sy_layer_spec spec;
    sy_layer_weights cuda;
    int64_t hidden;
    float *x; /* [MOST_ROWS, hidden] */
} norm_case;

static void *run_ffn_in(const void *arg, int64_t first, int64_t n) {
    const norm_case *c = arg;
    output xn = make_output(NULL, n * c->hidden * 2);
    void *x = device_copy(c->x + first * c->hidden, n * c->hidden * 4);
    begin_rows(n);
    MUST(cuda_be->ops->ffn_in(cuda_be, &c->spec, &c->cuda, n, x, xn.device, NULL));
    return read_output(xn);
}

static void ffn_in_norms_and_rounds_once(void **state) {
    (void)state;
    static const int widths[] = {1, 17, 63, 65, 257, 2048, 4100};
    random_state = 27;
    for (int i = 0; i < 7; i++) {
        int hidden = widths[i];
        snprintf(where, sizeof where, "ffn_in, hidden %d", hidden);
        reserve_widths(hidden, 1, 1, 2, 1);
        float *norm = random_norm(hidden), *x = random_floats((int64_t)MOST_ROWS * hidden, 30);
        norm_case c = {.spec.norm_eps = NORM_EPS,
                       .cuda.ffn_norm = device_copy(norm, hidden * 4),
                       .cuda.ffn_gate_up = {.dtype = SY_BF16, .parts = 2, .n = 1, .k = hidden},
                       .hidden = hidden,
                       .x = x};
        uint16_t *xn = run_ffn_in(&c, 0, MOST_ROWS);
        for (int64_t r = 0; r < MOST_ROWS; r++)
            expect_normed(x + r * hidden, norm, (double)NORM_EPS, hidden, xn + r * hidden);
        expect_rows_alone_equal(run_ffn_in, &c, xn, hidden * 2);
        end_case();
    }
}

static void add_adds_every_element_once(void **state) {
    (void)state;
    random_state = 28;
    for (int i = 0; i < N_ROW_COUNTS; i++)
        for (int width = 1; width < 300; width = width * 3 + 2) {
            int64_t n = row_counts[i] * width;
            snprintf(where, sizeof where, "add, %d values", (int)n);
            float *y = random_floats(n, 4), *x = random_floats(n, 4), *sum = host_block(n * 4);
            for (int64_t j = 0; j < n; j++)
                sum[j] = x[j] + y[j];
            output o = make_output(x, n * 4);
            MUST(cuda_be->ops->add(cuda_be, row_counts[i], width, device_copy(y, n * 4),
                                   o.device, NULL));
            assert_equal_bytes(read_output(o), sum, row_counts[i], width * 4, "x");
            end_case();
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embed_copies_rows_exactly_and_zeroes_those_that_are_not_there),
        cmocka_unit_test(head_norms_the_wanted_rows),
        cmocka_unit_test(ffn_in_norms_and_rounds_once),
        cmocka_unit_test(add_adds_every_element_once),
    };
    return cuda_main("first and last steps", tests, sizeof tests / sizeof *tests);
}
