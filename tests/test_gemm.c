/* The matrix product of the CPU backend: every instruction set against the definition and against
 * plain C, bit for bit. timeout: 240 */
#include "tests/matrix_fixture.h"

#include <math.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

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

typedef float (*pair_fn)(float w0, float w1, float x0, float x1, float acc);

static float odd_first(float w0, float w1, float x0, float x1, float acc) {
    return __builtin_fmaf(w0, x0, __builtin_fmaf(w1, x1, acc));
}
static float even_first(float w0, float w1, float x0, float x1, float acc) {
    return __builtin_fmaf(w1, x1, __builtin_fmaf(w0, x0, acc));
}
static float pair_first(float w0, float w1, float x0, float x1, float acc) {
    return acc + __builtin_fmaf(w0, x0, w1 * x1);
}

static void pairs_kernel(pair_fn fn,
                         int64_t rows,
                         const uint16_t *panel,
                         const uint16_t *x,
                         int64_t ldx,
                         int64_t k_pairs,
                         float *y,
                         int64_t ldy,
                         bool first) {
    for (int64_t m = 0; m < rows; m++)
        for (int o = 0; o < SY_PANEL; o++) {
            float acc = first ? 0.0f : y[m * ldy + o];
            for (int64_t p = 0; p < k_pairs; p++) {
                const uint16_t *w = panel + (p * SY_PANEL + o) * 2, *v = x + m * ldx + 2 * p;
                acc = fn(sy_f32_from_bf16(w[0]), sy_f32_from_bf16(w[1]), sy_f32_from_bf16(v[0]),
                         sy_f32_from_bf16(v[1]), acc);
            }
            y[m * ldy + o] = acc;
        }
}

#define PAIRS_KERNEL(name, fn)                                                                 \
    static void name(int64_t rows, const uint16_t *panel, const uint16_t *x, int64_t ldx,      \
                     int64_t k_pairs, float *y, int64_t ldy, bool first) {                     \
        pairs_kernel(fn, rows, panel, x, ldx, k_pairs, y, ldy, first);                         \
    }
PAIRS_KERNEL(odd_first_kernel, odd_first)
PAIRS_KERNEL(even_first_kernel, even_first)
PAIRS_KERNEL(pair_first_kernel, pair_first)

#if defined(__x86_64__)
/* Odd first, but with one kind of flushing off. */
static void with_mode(unsigned cleared,
                      int64_t rows,
                      const uint16_t *panel,
                      const uint16_t *x,
                      int64_t ldx,
                      int64_t k_pairs,
                      float *y,
                      int64_t ldy,
                      bool first) {
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode & ~cleared);
    odd_first_kernel(rows, panel, x, ldx, k_pairs, y, ldy, first);
    _mm_setcsr(mode);
}
static void keeps_denormal_results(int64_t rows,
                                   const uint16_t *panel,
                                   const uint16_t *x,
                                   int64_t ldx,
                                   int64_t k_pairs,
                                   float *y,
                                   int64_t ldy,
                                   bool first) {
    with_mode(0x8000u, rows, panel, x, ldx, k_pairs, y, ldy, first);
}
static void keeps_denormal_operands(int64_t rows,
                                    const uint16_t *panel,
                                    const uint16_t *x,
                                    int64_t ldx,
                                    int64_t k_pairs,
                                    float *y,
                                    int64_t ldy,
                                    bool first) {
    with_mode(0x0040u, rows, panel, x, ldx, k_pairs, y, ldy, first);
}
#endif

static void order_check_accepts_odd_first_and_refuses_its_neighbours(void **state) {
    (void)state;
    assert_true(sy_cpu_order_holds(&sy_isa_generic.gemm));
    sy_gemm_kernels k = sy_isa_generic.gemm;
    k.bf16_bf16 = odd_first_kernel;
    assert_true(sy_cpu_order_holds(&k));
    k.bf16_bf16 = even_first_kernel;
    assert_false(sy_cpu_order_holds(&k));
    k.bf16_bf16 = pair_first_kernel;
    assert_false(sy_cpu_order_holds(&k));
#if defined(__x86_64__)
    k.bf16_bf16 = keeps_denormal_results;
    assert_false(sy_cpu_order_holds(&k));
    k.bf16_bf16 = keeps_denormal_operands;
    assert_false(sy_cpu_order_holds(&k));
#endif
}

typedef struct order_job {
    const sy_gemm_kernels *kernels;
    int64_t cases, mismatches, even_differs, pair_differs;
} order_job;

static bool same_or_both_nan(float a, float b) {
    return sy_bits_from_f32(a) == sy_bits_from_f32(b) || (isnan(a) && isnan(b));
}

/* Single pairs of arbitrary bits (also Inf, NaN and denormals), of ordinary size, and near the
 * smallest normal number. */
static void order_run(void *arg, int thread, int n_threads) {
    (void)thread;
    (void)n_threads;
    order_job *job = arg;
    _Alignas(64) uint16_t panel[2 * SY_PANEL];
    for (int round = 0; round < 6000; round++) {
        uint16_t x[2];
        float y[SY_PANEL], start[SY_PANEL];
        int kind = round % 4;
        for (int i = 0; i < 2 * SY_PANEL; i++)
            panel[i] = kind == 3 ? (uint16_t)random64() : random_code16(SY_BF16, (spread)kind);
        for (int i = 0; i < 2; i++)
            x[i] = kind == 3 ? (uint16_t)random64() : random_code16(SY_BF16, (spread)kind);
        for (int i = 0; i < SY_PANEL; i++) {
            float near = sy_f32_from_bits((uint32_t)random64() & 0x827fffffu);
            start[i] = kind == 3           ? sy_f32_from_bits((uint32_t)random64())
                       : kind == UNDERFLOW ? near
                                           : random_float((spread)kind);
        }
        memcpy(y, start, sizeof y);
        job->kernels->bf16_bf16(1, panel, x, 2, 1, y, SY_PANEL, false);
        float x0 = sy_f32_from_bf16(x[0]), x1 = sy_f32_from_bf16(x[1]);
        for (int i = 0; i < SY_PANEL; i++) {
            float w0 = sy_f32_from_bf16(panel[2 * i]), w1 = sy_f32_from_bf16(panel[2 * i + 1]);
            float right = odd_first(w0, w1, x0, x1, start[i]);
            job->cases++;
            job->mismatches += !same_or_both_nan(y[i], right);
            job->even_differs += !same_or_both_nan(even_first(w0, w1, x0, x1, start[i]), right);
            job->pair_differs += !same_or_both_nan(pair_first(w0, w1, x0, x1, start[i]), right);
        }
    }
}

static void every_table_takes_the_odd_element_first(void **state) {
    (void)state;
    sy_pool *pool;
    assert_int_equal(sy_pool_create(1, false, &pool), SY_OK);
    for (int i = 0; i < N_ISA; i++) {
        const sy_cpu_isa *isa = sy_cpu_isa_find(isa_names[i]);
        if (isa == NULL) {
            print_message("not run here: %s\n", sy_last_error());
            continue;
        }
        random_state = 7;
        order_job job = {.kernels = &isa->gemm};
        sy_pool_run(pool, order_run, &job);
        if (job.mismatches != 0)
            fail_msg("%s: %lld of %lld pairs differ from two FMAs, odd first", isa->name,
                     (long long)job.mismatches, (long long)job.cases);
        /* The cases can tell the orders apart. */
        assert_true(job.even_differs > 1000 && job.pair_differs > 1000);
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
    sy_matrix m = {NULL, SY_BF16, 2, (int64_t)1 << 40, (int64_t)1 << 40};
    assert_true(be->ops->matrix_bytes(be, &m) == UINT64_MAX);
    m.n = m.k = INT64_MAX;
    assert_true(be->ops->matrix_bytes(be, &m) == UINT64_MAX);
    m = (sy_matrix){NULL, SY_I8, 1, 64, 64};
    assert_true(be->ops->matrix_bytes(be, &m) == UINT64_MAX);
    m = (sy_matrix){NULL, SY_BF16, 2, 65, 3};
    assert_int_equal(be->ops->matrix_bytes(be, &m), 2 * 2 * 64 * 4 * 2);
    test_matrix t = make_matrix(be, SY_BF16, 1, 130, 4, ORDINARY);
    const void *src = t.src[0];
    assert_int_equal(be->ops->pack(be, &t.m, 1, 0, 64, src, SY_BF16), SY_ERR_INTERNAL);
    assert_int_equal(be->ops->pack(be, &t.m, 0, 1, 64, src, SY_BF16), SY_ERR_INTERNAL);
    assert_int_equal(be->ops->pack(be, &t.m, 0, 0, 63, src, SY_BF16), SY_ERR_INTERNAL);
    assert_int_equal(be->ops->pack(be, &t.m, 0, 128, 64, src, SY_BF16), SY_ERR_INTERNAL);
    assert_int_equal(be->ops->pack(be, &t.m, 0, 0, 64, src, SY_F16), SY_ERR_UNSUPPORTED);
    assert_int_equal(be->ops->pack(be, &t.m, 0, 0, 64, src, SY_F64), SY_ERR_UNSUPPORTED);
    free_matrix(be, &t);
    close_cpu(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_table_equals_plain_c_at_every_row_count),
        cmocka_unit_test(order_check_accepts_odd_first_and_refuses_its_neighbours),
        cmocka_unit_test(every_table_takes_the_odd_element_first),
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
