/* The matrix product of the CPU backend: every instruction set against the definition and against
 * plain C, bit for bit. timeout: 240 */
#include "tests/matrix_fixture.h"

#include <math.h>

typedef struct kernel_case {
    const sy_gemm_kernels *kernels;
    sy_dtype weights;
    bool x_f32;
    int64_t rows, k, ldx, ldy;
    const void *panel, *x;
    float *y;
    bool first;
} kernel_case;

static void call_kernel(void *arg, int thread, int n_threads) {
    (void)thread;
    (void)n_threads;
    const kernel_case *c = arg;
    if (c->weights == SY_F32)
        c->kernels->f32_f32(c->rows, c->panel, c->x, c->ldx, c->k, c->y, c->ldy, c->first);
    else if (c->weights == SY_F16)
        c->kernels->f16_f32(c->rows, c->panel, c->x, c->ldx, c->k / 2, c->y, c->ldy, c->first);
    else if (c->x_f32)
        c->kernels->bf16_f32(c->rows, c->panel, c->x, c->ldx, c->k / 2, c->y, c->ldy, c->first);
    else
        c->kernels->bf16_bf16(c->rows, c->panel, c->x, c->ldx, c->k / 2, c->y, c->ldy,
                              c->first);
}

static void fill_values(void *out, int64_t n, sy_dtype t, spread s) {
    for (int64_t i = 0; i < n; i++) {
        if (t == SY_F32)
            ((float *)out)[i] = random_float(s);
        else
            ((uint16_t *)out)[i] = random_code16(t, s);
    }
}

/* One random call of table and reference on the same data; y starts from random sums, lies in
 * rows of ldy with a canary behind each. */
static void compare_kernels(sy_pool *pool,
                            const sy_cpu_isa *isa,
                            sy_dtype weights,
                            bool x_f32,
                            int64_t rows,
                            int64_t k,
                            spread s) {
    int64_t ldx = k + random_in(0, 3), ldy = SY_PANEL + random_in(0, 5);
    int64_t x_elems = rows == 0 ? 0 : (rows - 1) * ldx + k;
    void *panel, *x = malloc((size_t)(x_elems * (x_f32 ? 4 : 2)));
    uint64_t panel_bytes = (uint64_t)(k * SY_PANEL * (weights == SY_F32 ? 4 : 2));
    assert_int_equal(sy_mem_alloc(&panel, panel_bytes, "panel"), SY_OK);
    fill_values(panel, k * SY_PANEL, weights, s);
    fill_values(x, x_elems, x_f32 ? SY_F32 : SY_BF16, s);
    size_t y_bytes = (size_t)(rows * ldy) * sizeof(float);
    float *y = malloc(y_bytes), *expected = malloc(y_bytes);
    fill_values(y, rows * ldy, SY_F32, s == UNDERFLOW ? UNDERFLOW : ORDINARY);
    if (s == UNDERFLOW)
        for (int64_t i = 0; i < rows * ldy; i++)
            y[i] *= 0x1p-60f;
    if (y_bytes > 0) memcpy(expected, y, y_bytes);
    bool first = random64() % 2 == 0;
    kernel_case c = {&isa->gemm, weights, x_f32, rows, k, ldx, ldy, panel, x, y, first};
    sy_pool_run(pool, call_kernel, &c);
    c.kernels = &sy_isa_generic.gemm;
    c.y = expected;
    sy_pool_run(pool, call_kernel, &c);
    assert_same_bits(y, expected, rows * ldy, isa->name);
    free(y);
    free(expected);
    free(x);
    sy_mem_free(panel, panel_bytes);
}

static void every_table_equals_plain_c_at_every_row_count(void **state) {
    (void)state;
    static const struct {
        sy_dtype weights;
        bool x_f32;
    } pairing[] = {{SY_BF16, false}, {SY_BF16, true}, {SY_F16, true}, {SY_F32, true}};
    sy_pool *pool;
    assert_int_equal(sy_pool_create(1, false, &pool), SY_OK);
    random_state = 1;
    for (int i = 0; i < N_ISA; i++) {
        const sy_cpu_isa *isa = sy_cpu_isa_find(isa_names[i]);
        if (isa == NULL || isa == &sy_isa_generic) continue;
        for (int p = 0; p < 4; p++)
            for (int64_t rows = 0; rows <= 20; rows++)
                for (int s = ORDINARY; s <= UNDERFLOW; s++)
                    compare_kernels(pool, isa, pairing[p].weights, pairing[p].x_f32, rows,
                                    rows == 7 ? 1400 : 2 * random_in(0, 40), (spread)s);
    }
    sy_pool_destroy(pool);
}

typedef struct matmul_case {
    sy_backend *be;
    const test_matrix *t;
    int64_t leaf, rows, ldy;
    const void *x;
    float *y;        /* what the backend wrote, row stride ldy */
    float *expected; /* by the definition, row stride ldy      */
} matmul_case;

static void matmul_run(void *arg, int thread, int n_threads) {
    const matmul_case *c = arg;
    int64_t begin, end;
    sy_pool_share(sy_cpu_panels(&c->t->m), thread, n_threads, &begin, &end);
    sy_cpu_matmul(sy_cpu_of(c->be), thread, &c->t->m, begin, end, c->leaf, c->rows, c->x,
                  c->t->m.k, c->y, c->ldy);
}

static void define_run(void *arg, int thread, int n_threads) {
    const matmul_case *c = arg;
    int64_t leaves = c->leaf > 0 ? sy_ceil_div(c->t->m.k, c->leaf) : 1;
    for (int64_t i = thread; i < c->rows * c->t->m.n; i += n_threads) {
        int64_t r = i / c->t->m.n, o = i % c->t->m.n;
        c->expected[r * c->ldy + o] = plain_dot(c->be, c->t, 0, o, c->x, r, c->leaf, 0, leaves);
    }
}

/* The product against its definition, with a canary behind each row. */
static void check_matmul(sy_backend *be,
                         sy_dtype file_dtype,
                         int64_t rows,
                         int64_t n,
                         int64_t k,
                         int64_t leaf,
                         spread s) {
    test_matrix t = make_matrix(be, file_dtype, 1, n, k, s);
    matmul_case c = {be, &t, leaf, rows, n + 3, make_rows(be, rows, k, s), NULL, NULL};
    size_t y_bytes = (size_t)(rows * c.ldy) * sizeof(float);
    c.y = malloc(y_bytes);
    c.expected = malloc(y_bytes);
    for (int64_t i = 0; i < rows * c.ldy; i++)
        c.y[i] = c.expected[i] = 12345.0f;
    /* NaN in the work space: nothing that an earlier product left there may reach a sum. */
    sy_cpu *cpu = sy_cpu_of(be);
    memset(cpu->tiles, 0xff, (size_t)sy_pool_threads(cpu->pool) * sizeof *cpu->tiles);
    sy_pool_run(cpu->pool, matmul_run, &c);
    sy_pool_run(cpu->pool, define_run, &c);
    char what[128];
    snprintf(what, sizeof what, "%s, %s weights, act %s, %lld rows, n %lld, k %lld, leaf %lld",
             sy_cpu_isa_name(be), sy_dtype_name(file_dtype), sy_dtype_name(be->act),
             (long long)rows, (long long)n, (long long)k, (long long)leaf);
    assert_same_bits(c.y, c.expected, rows * c.ldy, what);
    free((void *)c.x);
    free(c.y);
    free(c.expected);
    free_matrix(be, &t);
}

static const sy_dtype file_dtypes[] = {SY_BF16, SY_F16, SY_F32};

static void matmul_equals_its_definition_for_every_table_type_and_shape(void **state) {
    (void)state;
    static const int64_t leaves[] = {0, 256, 64, 2};
    random_state = 3;
    for (int i = 0; i < N_ISA; i++)
        for (int act = 0; act < 2; act++) {
            sy_backend *be =
                open_cpu(act == 0 ? SY_BF16 : SY_F32, 1 + (i + act) % 3, isa_names[i]);
            if (be == NULL) continue;
            for (int round = 0; round < 24; round++)
                check_matmul(be, file_dtypes[round % 3], random_in(0, 20), random_in(1, 200),
                             random_in(1, 600), leaves[round / 3 % 4], (spread)(round % 2));
            close_cpu(be);
        }
}

static void matmul_equals_its_definition_at_the_edges(void **state) {
    (void)state;
    random_state = 4;
    for (int act = 0; act < 2; act++) {
        sy_backend *be = open_cpu(act == 0 ? SY_BF16 : SY_F32, 2, NULL);
        for (int d = 0; d < 3; d++) {
            check_matmul(be, file_dtypes[d], 1, 1, 1, 0, ORDINARY);
            check_matmul(be, file_dtypes[d], 3, 64, 1, 256, ORDINARY);
            check_matmul(be, file_dtypes[d], 49, 65, 257, 256, ORDINARY);
            check_matmul(be, file_dtypes[d], 100, 63, 511, 0, ORDINARY);
            check_matmul(be, file_dtypes[d], 2, 128, 256, 256, UNDERFLOW);
            check_matmul(be, file_dtypes[d], 50, 10, 1793, 256, UNDERFLOW);
            check_matmul(be, file_dtypes[d], 9, 130, 4099, 0, ORDINARY);
        }
        close_cpu(be);
    }
}

/* The error of a chain of K FMAs is at most K roundings of partial sums, none of which exceeds
 * the sum of |w x|: K 2^-24 (1 + small) times that sum. */
static void plain_c_is_within_the_rounding_bound_of_float64(void **state) {
    (void)state;
    random_state = 5;
    sy_backend *be = open_cpu(SY_F32, 1, "generic");
    for (int round = 0; round < 12; round++) {
        int64_t n = 70, k = random_in(1, 600);
        test_matrix t = make_matrix(be, file_dtypes[round % 3], 1, n, k, ORDINARY);
        float y[70];
        matmul_case c = {be, &t, 0, 1, n, make_rows(be, 1, k, ORDINARY), y, NULL};
        sy_pool_run(sy_cpu_of(be)->pool, matmul_run, &c);
        for (int64_t o = 0; o < n; o++) {
            double sum = 0, size = 0;
            for (int64_t i = 0; i < k; i++) {
                double product =
                    (double)weight_value(&t, 0, o, i) * (double)act_value(be, c.x, i);
                sum += product;
                size += fabs(product);
            }
            double bound = (double)k * 0x1p-24 * 1.001 * size;
            if (!(fabs((double)y[o] - sum) <= bound))
                fail_msg("k %lld: error %g above %g", (long long)k, (double)y[o] - sum, bound);
        }
        free((void *)c.x);
        free_matrix(be, &t);
    }
    close_cpu(be);
}

static void embed_returns_what_was_packed(void **state) {
    (void)state;
    random_state = 6;
    for (int i = 0; i < N_ISA; i++)
        for (int round = 0; round < 12; round++) {
            sy_backend *be =
                open_cpu(round % 2 == 0 ? SY_BF16 : SY_F32, 1 + round % 3, isa_names[i]);
            if (be == NULL) continue;
            int64_t n = random_in(1, 200), k = random_in(1, 600);
            test_matrix t = make_matrix(be, file_dtypes[round % 3], 1, n, k, WIDE);
            int32_t ids[5] = {0, (int32_t)(n - 1)};
            for (int r = 2; r < 5; r++)
                ids[r] = (int32_t)random_in(0, n - 1);
            sy_batch batch = {.n_rows = 5, .ids = ids};
            float *x = malloc((size_t)(5 * k) * sizeof *x),
                  *expected = malloc((size_t)k * sizeof *x);
            assert_int_equal(be->ops->embed(be, &t.m, &batch, x, NULL), SY_OK);
            for (int r = 0; r < 5; r++) {
                for (int64_t j = 0; j < k; j++)
                    expected[j] = weight_value(&t, 0, ids[r], j);
                assert_same_bits(x + r * k, expected, k, "embed");
            }
            ids[3] = (int32_t)n;
            assert_int_equal(be->ops->embed(be, &t.m, &batch, x, NULL), SY_ERR_INTERNAL);
            ids[3] = -1;
            assert_int_equal(be->ops->embed(be, &t.m, &batch, x, NULL), SY_ERR_INTERNAL);
            free(x);
            free(expected);
            free_matrix(be, &t);
            close_cpu(be);
        }
}

static void packing_f32_rounds_like_the_scalar_conversion(void **state) {
    (void)state;
    static const uint32_t special[] = {0,           0x80000000u, 1,           0x807fffffu,
                                       0x7f800000u, 0xff800000u, 0x7f800001u, 0xffffffffu,
                                       0x7f7fffffu, 0x00800000u, 0x3f808000u, 0x3f818000u,
                                       0x3f807fffu};
    enum { N = sizeof special / sizeof *special };
    for (int i = 0; i < N_ISA; i++) {
        const sy_cpu_isa *isa = sy_cpu_isa_find(isa_names[i]);
        if (isa == NULL) continue;
        _Alignas(64) uint16_t panel[2 * (N / 2 + 1) * SY_PANEL];
        memset(panel, 0x55, sizeof panel);
        isa->gemm.pack_f32_to_bf16(1, N, special, sizeof special, panel);
        for (int k = 0; k < N; k++)
            assert_int_equal(panel[k / 2 * 2 * SY_PANEL + k % 2],
                             sy_bf16_from_f32(sy_f32_from_bits(special[k])));
        assert_int_equal(panel[N / 2 * 2 * SY_PANEL + 1], 0); /* N is odd */
        assert_int_equal(panel[3], 0);                        /* no second row */
    }
}

static void head_is_norm_and_product_for_any_number_of_threads(void **state) {
    (void)state;
    enum { ROWS = 9, WANTED = 4 };
    const int64_t n = 150, k = 130;
    for (int act = 0; act < 2; act++) {
        float *first = NULL;
        for (int threads = 1; threads <= 3; threads++) {
            random_state = 8;
            sy_backend *be = open_cpu(act == 0 ? SY_BF16 : SY_F32, threads, NULL);
            sy_limits limits = {.max_rows = ROWS,
                                .max_pairs = ROWS,
                                .max_context = 64,
                                .hidden = (int)k,
                                .heads = 1,
                                .kv_heads = 1,
                                .head_dim = 64,
                                .max_inter = 64,
                                .experts = 1,
                                .top_k = 1,
                                .vocab = (int)n};
            assert_int_equal(be->ops->reserve(be, &limits), SY_OK);
            test_matrix t = make_matrix(be, SY_BF16, 1, n, k, ORDINARY);
            float x[ROWS * 130], norm[130],
                *logits = malloc(WANTED * (size_t)n * sizeof *logits);
            for (int i = 0; i < ROWS * k; i++)
                x[i] = random_float(ORDINARY);
            for (int i = 0; i < k; i++)
                norm[i] = random_float(ORDINARY);
            const int32_t row[WANTED] = {8, 0, 3, 3};
            assert_int_equal(be->ops->head(be, norm, 1e-6f, &t.m, WANTED, row, x, logits, NULL),
                             SY_OK);
            char *normed = malloc((size_t)(WANTED * k * sy_act_bytes(be)));
            for (int i = 0; i < WANTED; i++) {
                void *out = normed + i * k * sy_act_bytes(be);
                sy_isa_generic.vec.rms_norm(k, x + row[i] * k, norm, 1e-6f,
                                            act == 0 ? out : NULL, act == 0 ? NULL : out);
            }
            float *expected = malloc(WANTED * (size_t)n * sizeof *expected);
            matmul_case c = {be, &t, 0, WANTED, n, normed, NULL, expected};
            sy_pool_run(sy_cpu_of(be)->pool, define_run, &c);
            assert_same_bits(logits, expected, WANTED * n, "head");
            if (first != NULL) assert_same_bits(logits, first, WANTED * n, "head, threads");
            if (first == NULL)
                first = memcpy(malloc(WANTED * (size_t)n * sizeof *first), logits,
                               WANTED * (size_t)n * sizeof *first);
            free(expected);
            free(normed);
            free(logits);
            free_matrix(be, &t);
            close_cpu(be);
        }
        free(first);
    }
}

static void unknown_and_missing_instruction_sets_are_refused_by_name(void **state) {
    (void)state;
    assert_non_null(sy_cpu_isa_find(NULL));
    assert_ptr_equal(sy_cpu_isa_find("auto"), sy_cpu_isa_find(NULL));
    assert_ptr_equal(sy_cpu_isa_find("generic"), &sy_isa_generic);
    assert_null(sy_cpu_isa_find("sse9"));
    assert_non_null(strstr(sy_last_error(), "'sse9'"));
    assert_null(sy_cpu_isa_find(""));
#if defined(__x86_64__)
    const char *foreign = "neon";
#else
    const char *foreign = "avx2";
#endif
    sy_backend *be = (sy_backend *)&be;
    sy_pool *pool;
    assert_int_equal(sy_pool_create(1, false, &pool), SY_OK);
    assert_int_equal(sy_cpu_open(SY_BF16, pool, foreign, &be), SY_ERR_UNSUPPORTED);
    assert_null(be);
    assert_non_null(strstr(sy_last_error(), foreign));
    assert_int_equal(sy_cpu_open(SY_F16, pool, NULL, &be), SY_ERR_UNSUPPORTED);
    sy_pool_destroy(pool);
}

static void sizes_that_overflow_and_misplaced_rows_are_refused(void **state) {
    (void)state;
    sy_backend *be = open_cpu(SY_BF16, 1, NULL);
    sy_matrix m = {.dtype = SY_BF16, .parts = 2, .n = (int64_t)1 << 40, .k = (int64_t)1 << 40};
    assert_true(be->ops->matrix_bytes(be, &m) == UINT64_MAX);
    m.n = m.k = INT64_MAX;
    assert_true(be->ops->matrix_bytes(be, &m) == UINT64_MAX);
    m = (sy_matrix){.dtype = SY_U8, .parts = 1, .n = 64, .k = 64};
    assert_true(be->ops->matrix_bytes(be, &m) == UINT64_MAX);
    m = (sy_matrix){.dtype = SY_BF16, .parts = 2, .n = 65, .k = 3};
    assert_int_equal(be->ops->matrix_bytes(be, &m), 2 * 2 * 64 * 4 * 2);
    test_matrix t = make_matrix(be, SY_BF16, 1, 130, 4, ORDINARY);
    sy_weight_source src = {.dtype = SY_BF16, .codes = t.src[0]};
    assert_int_equal(be->ops->pack(be, &t.m, 1, 0, 64, &src), SY_ERR_INTERNAL);
    assert_int_equal(be->ops->pack(be, &t.m, 0, 1, 64, &src), SY_ERR_INTERNAL);
    assert_int_equal(be->ops->pack(be, &t.m, 0, 0, 63, &src), SY_ERR_INTERNAL);
    assert_int_equal(be->ops->pack(be, &t.m, 0, 128, 64, &src), SY_ERR_INTERNAL);
    src.dtype = SY_F16;
    assert_int_equal(be->ops->pack(be, &t.m, 0, 0, 64, &src), SY_ERR_UNSUPPORTED);
    src.dtype = SY_F64;
    assert_int_equal(be->ops->pack(be, &t.m, 0, 0, 64, &src), SY_ERR_UNSUPPORTED);
    free_matrix(be, &t);
    close_cpu(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_table_equals_plain_c_at_every_row_count),
        cmocka_unit_test(matmul_equals_its_definition_for_every_table_type_and_shape),
        cmocka_unit_test(matmul_equals_its_definition_at_the_edges),
        cmocka_unit_test(plain_c_is_within_the_rounding_bound_of_float64),
        cmocka_unit_test(embed_returns_what_was_packed),
        cmocka_unit_test(packing_f32_rounds_like_the_scalar_conversion),
        cmocka_unit_test(head_is_norm_and_product_for_any_number_of_threads),
        cmocka_unit_test(unknown_and_missing_instruction_sets_are_refused_by_name),
        cmocka_unit_test(sizes_that_overflow_and_misplaced_rows_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
