/* Fast numerics on a CUDA device, emulated or real: dense products of many rows by cuBLAS, against
 * float64 and against exact numerics; what it leaves alone keeps exact's bits.
 *
 * Two backends over one device: cuda_be is the one in use. The emulation's cuBLAS counts its
 * products; a real one does not, and the counts are not looked at.
 * timeout: 240 */
#include "tests/cuda_fixture.h"

#ifdef SY_WITH_CUDA
#include "kernels/cuda/dense_fast.h"
#ifdef SY_CUDA_EMULATED
#include <cublas_v2.h>
#endif

enum { LEAST = 100, SMALL_PIECE = 4096, USUAL_PIECE = 64 << 20 };
static sy_backend *exact_be, *fast_be;

static void use(sy_backend *be) {
    MUST(cuda_be->ops->device->synchronize(cuda_be, NULL));
    cuda_be = be;
}

typedef struct widths {
    int hidden, inter, heads, head_dim, vocab;
} widths;

/* Both backends, ready for matrices of these widths; the fast one is in use. */
static void open_both(uint64_t piece_bytes, widths w) {
    if (exact_be == NULL) exact_be = cuda_be;
    cuda_be = exact_be; /* where a test has failed it is not */
    MUST(open_cuda(&fast_be));
    sy_status st = sy_cuda_set_fast(fast_be, true);
    if (st == SY_ERR_UNSUPPORTED) {
        printf("skipped: %s\n", sy_last_error());
        fast_be->ops->close(fast_be);
        skip();
    }
    MUST(st);
    sy_cuda_fast_tune(fast_be, LEAST, piece_bytes);
    reserve_widths(w.hidden, w.inter, w.heads, w.head_dim, w.vocab);
    use(fast_be);
    reserve_widths(w.hidden, w.inter, w.heads, w.head_dim, w.vocab);
}

static void close_both(void) {
    use(exact_be);
    end_case();
    fast_be->ops->close(fast_be);
}

static long long products(void) {
#ifdef SY_CUDA_EMULATED
    return (long long)emu_cublas_products();
#else
    return 0;
#endif
}

/* Since `before`: n products, or more than those where they were made in pieces. */
static void expect_products(long long before, long long n, bool in_pieces) {
    long long found = products() - before;
#ifdef SY_CUDA_EMULATED
    if (in_pieces ? found <= n : found != n)
        fail_msg("%s: %lld products by cuBLAS, expected %s%lld", where, found,
                 in_pieces ? "more than " : "", n);
#else
    (void)found;
    (void)n;
    (void)in_pieces;
#endif
}

static void expect_no_products(long long before) {
    if (products() != before) fail_msg("%s: cuBLAS was called", where);
}

/* A tensor core's truncating chains, or a rounding for every k: the order is cuBLAS's. */
static double fast_bound(int64_t k, double magnitude) {
    return fmax(cuda_bound(k, magnitude, SY_BF16), (double)(k + 4) * 0x1p-24 * magnitude);
}

static void expect_equal(const void *found, const void *exact, int64_t n, const char *what) {
    if (memcmp(found, exact, (size_t)n) != 0) fail_msg("%s: %s: other bits", where, what);
}

/* ---- attn_out: one product, added ---- */

typedef struct out_case {
    sy_layer_spec spec;
    sy_layer_weights w;
    int64_t hidden, k;
    uint16_t *o; /* [MOST_ROWS, k] */
    float *x;    /* [MOST_ROWS, hidden] */
} out_case;

static out_case make_out(twin *t, sy_dtype dtype, int heads, int head_dim, int hidden) {
    int64_t k = (int64_t)heads * head_dim;
    *t = make_twin(dtype, 1, hidden, k);
    return (out_case){.spec.attn = {.heads = heads, .kv_heads = heads, .head_dim = head_dim},
                      .w.o = t->cuda,
                      .hidden = hidden,
                      .k = k,
                      .o = random_bf16(MOST_ROWS * k, 2),
                      .x = random_floats((int64_t)MOST_ROWS * hidden, 8)};
}

static float *run_out(const out_case *c, sy_backend *be, int64_t n) {
    use(be);
    void *o = device_copy(c->o, n * c->k * 2);
    output x = make_output(c->x, n * c->hidden * 4);
    begin_rows(n);
    MUST(be->ops->attn_out(be, &c->spec, &c->w, n, o, x.device, NULL));
    return read_output(x);
}

static void
check_attn_out(uint64_t piece, bool in_pieces, int heads, int head_dim, int hidden) {
    twin t;
    snprintf(where, sizeof where, "attn_out, %d heads of %d, hidden %d, pieces of %d bytes",
             heads, head_dim, hidden, (int)piece);
    open_both(piece, (widths){hidden, 1, heads, head_dim, 1});
    out_case c = make_out(&t, SY_BF16, heads, head_dim, hidden);
    bool biased = hidden % 2 != 0;
    float *bias = random_floats(hidden, biased ? 4 : 0);
    c.w.o_bias = biased ? device_copy(bias, hidden * 4) : NULL;
    long long before = products();
    float *exact = run_out(&c, exact_be, MOST_ROWS);
    expect_no_products(before);
    float *fast = run_out(&c, fast_be, MOST_ROWS), *o = widen(c.o, MOST_ROWS * c.k);
    expect_products(before, 1, in_pieces);
    for (int64_t r = 0; r < MOST_ROWS; r++)
        for (int64_t i = 0; i < hidden; i++) {
            int64_t at = r * hidden + i;
            sum64 s = dot64(t.value + i * c.k, o + r * c.k, c.k);
            double b = (double)bias[i], y = s.y + b + (double)c.x[at];
            double last = 0x1p-23 * (2 * fabs(y) + 2 * fabs(b) + s.magnitude);
            expect_near("x", r, i, (double)fast[at], (double)exact[at], y,
                        fast_bound(c.k, s.magnitude) + last,
                        cuda_bound(c.k, s.magnitude, SY_BF16) + last);
        }
    free_twin(&t);
    close_both();
}

static void attn_out_adds_the_projection(void **state) {
    (void)state;
    random_state = 41;
    check_attn_out(USUAL_PIECE, false, 3, 6, 65);
    check_attn_out(USUAL_PIECE, false, 1, 2, 1);
    check_attn_out(USUAL_PIECE, false, 5, 60, 16);
    check_attn_out(SMALL_PIECE, true, 3, 22, 113); /* 66 inputs: five steps, the last of two */
    check_attn_out(SMALL_PIECE, true, 1, 128, 48); /* exactly one tile a piece */
}

/* ---- dense FFN: gate and up with their SwiGLU, down ---- */

typedef struct dense_case {
    sy_layer_spec spec;
    sy_layer_weights w;
    int64_t hidden, inter;
    uint16_t *x, *h; /* h: of the last run */
} dense_case;

static float *run_dense(dense_case *c, sy_backend *be) {
    use(be);
    void *x = device_copy(c->x, MOST_ROWS * c->hidden * 2);
    output h = make_output(NULL, MOST_ROWS * c->inter * 2);
    output y = make_output(NULL, MOST_ROWS * c->hidden * 4);
    begin_rows(MOST_ROWS);
    MUST(be->ops->dense_ffn(be, &c->spec, &c->w, MOST_ROWS, x, h.device, y.device, NULL));
    c->h = read_output(h);
    return read_output(y);
}

/* silu(g) u from sums within `fast` of their bounds; |silu'| <= 1.1, and the device's exponential
 * and division are good to a few units in the last place. */
static double
swiglu64(const twin *up, const float *x, int64_t i, double *of_fast, double *of_exact) {
    int64_t k = up->cuda.k, n = up->cuda.n;
    sum64 g = dot64(up->value + i * k, x, k), u = dot64(up->value + (n + i) * k, x, k);
    double silu = g.y / (1 + exp(-g.y)), y = silu * u.y;
    for (int side = 0; side < 2; side++) {
        double eg =
            side == 0 ? fast_bound(k, g.magnitude) : cuda_bound(k, g.magnitude, SY_BF16);
        double eu =
            side == 0 ? fast_bound(k, u.magnitude) : cuda_bound(k, u.magnitude, SY_BF16);
        double arithmetic = (fabs(g.y) + 8) * 0x1p-22 * fabs(y);
        *(side == 0 ? of_fast : of_exact) = bf16_bound(
            y, 1.1 * eg * (fabs(u.y) + eu) + fabs(silu) * eu + arithmetic + 0x1p-120);
    }
    return y;
}

static void check_dense(uint64_t piece, bool in_pieces, int hidden, int inter) {
    snprintf(where, sizeof where, "dense FFN, hidden %d, inter %d, pieces of %d bytes", hidden,
             inter, (int)piece);
    open_both(piece, (widths){hidden, inter, 1, 2, 1});
    twin up = make_twin(SY_BF16, 2, inter, hidden), down = make_twin(SY_BF16, 1, hidden, inter);
    dense_case c = {.spec.ffn = {.kind = SY_FFN_DENSE, .inter = inter},
                    .w = {.ffn_gate_up = up.cuda, .ffn_down = down.cuda},
                    .hidden = hidden,
                    .inter = inter,
                    .x = random_bf16((int64_t)MOST_ROWS * hidden, 0.5f)};
    long long before = products();
    run_dense(&c, exact_be);
    uint16_t *exact_h = c.h;
    expect_no_products(before);
    float *y = run_dense(&c, fast_be), *x = widen(c.x, (int64_t)MOST_ROWS * hidden);
    float *h = widen(c.h, (int64_t)MOST_ROWS * inter);
    expect_products(before, 2, in_pieces);
    for (int64_t r = 0; r < MOST_ROWS; r++) {
        for (int64_t i = 0; i < inter; i++) {
            double of_fast, of_exact,
                y64 = swiglu64(&up, x + r * hidden, i, &of_fast, &of_exact);
            expect_near("h", r, i, (double)h[r * inter + i],
                        (double)sy_f32_from_bf16(exact_h[r * inter + i]), y64, of_fast,
                        of_exact);
        }
        for (int64_t i = 0; i < hidden; i++) { /* of the h that this run made */
            sum64 s = dot64(down.value + i * inter, h + r * inter, inter);
            expect_near("y", r, i, (double)y[r * hidden + i], s.y, s.y,
                        fast_bound(inter, s.magnitude), 0);
        }
    }
    free_twin(&up);
    free_twin(&down);
    close_both();
}

static void dense_ffn_is_gate_up_and_down(void **state) {
    (void)state;
    random_state = 42;
    check_dense(USUAL_PIECE, false, 17, 3);
    check_dense(USUAL_PIECE, false, 64, 48);
    check_dense(SMALL_PIECE, true, 113, 45);
    /* Their sums, not the weights, decide the pieces: 130 rows of 16 take 8320 bytes. */
    check_dense(2 * SMALL_PIECE + 256, true, 9, 37);
}

/* ---- head: lm_head in several pieces ---- */

static const float NORM_EPS = 1e-6f;

static void check_head(uint64_t piece, bool in_pieces, int vocab, int hidden) {
    static const int32_t ids[MOST_ROWS];
    int32_t row[MOST_ROWS];
    snprintf(where, sizeof where, "head, vocab %d, hidden %d, pieces of %d bytes", vocab,
             hidden, (int)piece);
    open_both(piece, (widths){hidden, 1, 1, 2, vocab});
    twin t = make_twin(SY_BF16, 1, vocab, hidden);
    float *norm = random_norm(hidden), *x = random_floats((int64_t)MOST_ROWS * hidden, 30);
    float *logits[2], *xn = host_block(hidden * 4);
    double *slack = host_block(hidden * 8);
    for (int i = 0; i < MOST_ROWS; i++)
        row[i] = (int32_t)random_in(0, MOST_ROWS - 1);
    for (int fast = 0; fast < 2; fast++) {
        long long before = products();
        use(fast ? fast_be : exact_be);
        output out = make_output(NULL, (int64_t)MOST_ROWS * vocab * 4);
        void *on_device = device_copy(x, (int64_t)MOST_ROWS * hidden * 4);
        void *weight = device_copy(norm, hidden * 4);
        begin_step(&(sy_batch){.n_rows = MOST_ROWS, .ids = ids}, MOST_ROWS, MOST_ROWS, row);
        MUST(cuda_be->ops->head(cuda_be, weight, NORM_EPS, &t.cuda, MOST_ROWS, row, on_device,
                                out.device, NULL));
        logits[fast] = read_output(out);
        expect_products(before, fast, fast && in_pieces);
    }
    for (int64_t r = 0; r < MOST_ROWS; r++) {
        norm64(x + (int64_t)row[r] * hidden, norm, (double)NORM_EPS, hidden, xn, slack);
        for (int64_t i = 0; i < vocab; i++) {
            sum64 s = dot64(t.value + i * hidden, xn, hidden);
            double either = slack64(t.value + i * hidden, slack, hidden);
            expect_near("logits", r, i, (double)logits[1][r * vocab + i],
                        (double)logits[0][r * vocab + i], s.y,
                        fast_bound(hidden, s.magnitude) + either,
                        cuda_bound(hidden, s.magnitude, SY_BF16) + either);
        }
    }
    free_twin(&t);
    close_both();
}

static void head_takes_lm_head_in_pieces(void **state) {
    (void)state;
    random_state = 43;
    check_head(USUAL_PIECE, false, 11, 63);
    check_head(SMALL_PIECE, true, 1001, 17);
    check_head(SMALL_PIECE, true, 300, 66);
    check_head(5 * SMALL_PIECE, false, 16 * 10, 64); /* ten tiles, and ten fit: one product */
}

/* ---- q, k and v; the router ---- */

enum { PARTS = 3 };
typedef struct qkv_case {
    const sy_matrix *w[PARTS];
    float *norm, *x;
    int64_t hidden, width; /* width: outputs of all parts, and two that nobody writes */
} qkv_case;

static float *run_qkv(const qkv_case *c, sy_backend *be, int leaf, int64_t n) {
    use(be);
    output all = make_output(NULL, n * c->width * 4);
    void *weight = device_copy(c->norm, c->hidden * 4),
         *x = device_copy(c->x, n * c->hidden * 4);
    float *out[PARTS];
    const int64_t ld[PARTS] = {c->width, c->width, c->width};
    for (int i = 0; i < PARTS; i++)
        out[i] = i == 0 ? all.device : out[i - 1] + c->w[i - 1]->n;
    begin_rows(n);
    MUST(sy_cuda_norm_product(sy_cuda_of(be), weight, NORM_EPS, PARTS, c->w, n, x, NULL, out,
                              ld, leaf));
    return read_output(all);
}

/* q and v are cuBLAS's; k is in half precision. */
static void
expect_qkv(const qkv_case *c, const twin *t, const float *fast, const float *exact) {
    float *xn = host_block(c->hidden * 4);
    double *slack = host_block(c->hidden * 8);
    int64_t k_first = c->w[0]->n, v_first = k_first + c->w[1]->n;
    for (int64_t r = 0; r < MOST_ROWS; r++) {
        const float *f = fast + r * c->width, *e = exact + r * c->width;
        norm64(c->x + r * c->hidden, c->norm, (double)NORM_EPS, c->hidden, xn, slack);
        for (int part = 0; part < PARTS; part += 2)
            for (int64_t i = 0; i < c->w[part]->n; i++) {
                int64_t at = (part == 0 ? 0 : v_first) + i;
                const float *w = t[part].value + i * c->hidden;
                sum64 s = dot64(w, xn, c->hidden);
                double either = slack64(w, slack, c->hidden);
                expect_near("qkv", r, at, (double)f[at], (double)e[at], s.y,
                            fast_bound(c->hidden, s.magnitude) + either,
                            cuda_bound(c->hidden, s.magnitude, SY_BF16) + either);
            }
        expect_equal(f + k_first, e + k_first, (v_first - k_first) * 4, "k in half precision");
        expect_equal(f + c->width - 2, e + c->width - 2, 8, "what lies between rows");
    }
}

static void q_and_v_are_fast_but_not_half_precision_nor_the_router(void **state) {
    (void)state;
    random_state = 44;
    snprintf(where, sizeof where, "q, k, v");
    open_both(USUAL_PIECE, (widths){300, 1, 4, 20, 1});
    twin t[PARTS] = {make_twin(SY_BF16, 1, 80, 300), make_twin(SY_F16, 1, 20, 300),
                     make_twin(SY_F32, 1, 21, 300)};
    qkv_case c = {.w = {&t[0].cuda, &t[1].cuda, &t[2].cuda},
                  .norm = random_norm(300),
                  .x = random_floats(MOST_ROWS * 300, 30),
                  .hidden = 300,
                  .width = 80 + 20 + 21 + 2};
    long long before = products();
    float *exact = run_qkv(&c, exact_be, 0, MOST_ROWS);
    expect_no_products(before);
    float *fast = run_qkv(&c, fast_be, 0, MOST_ROWS);
    expect_products(before, 2, false);
    expect_qkv(&c, t, fast, exact);
    before = products();
    float *router = run_qkv(&c, exact_be, SY_LEAF, MOST_ROWS);
    expect_equal(run_qkv(&c, fast_be, SY_LEAF, MOST_ROWS), router, MOST_ROWS * c.width * 4,
                 "a router's logits");
    expect_no_products(before);
    for (int i = 0; i < PARTS; i++)
        free_twin(&t[i]);
    close_both();
}

/* ---- what keeps the bits of exact numerics ---- */

static void few_rows_keep_the_bits_of_exact(void **state) {
    (void)state;
    twin t, half;
    random_state = 45;
    snprintf(where, sizeof where, "few rows");
    open_both(USUAL_PIECE, (widths){65, 1, 3, 100, 1});
    out_case c = make_out(&t, SY_BF16, 3, 100, 65);
    float *exact = run_out(&c, exact_be, MOST_ROWS);
    long long before = products();
    for (int64_t n = 0; n < LEAST; n = 2 * n + 1)
        expect_equal(run_out(&c, fast_be, n), exact, n * 65 * 4, "rows");
    expect_equal(run_out(&c, fast_be, LEAST - 1), exact, (LEAST - 1) * 65 * 4, "99 rows");
    expect_no_products(before);
    run_out(&c, fast_be, LEAST);
    expect_products(before, 1, false);
    out_case in_half = make_out(&half, SY_F16, 3, 100, 65);
    exact = run_out(&in_half, exact_be, MOST_ROWS);
    before = products();
    expect_equal(run_out(&in_half, fast_be, MOST_ROWS), exact, MOST_ROWS * 65 * 4, "half");
    expect_no_products(before);
    free_twin(&t);
    free_twin(&half);
    close_both();
}

static void a_tile_that_fits_no_piece_keeps_the_bits_of_exact(void **state) {
    (void)state;
    twin t;
    random_state = 46;
    snprintf(where, sizeof where, "a tile too wide for a piece");
    open_both(SMALL_PIECE,
              (widths){65, 1, 1, 130, 1}); /* 16 rows of 144 values are 4608 bytes */
    out_case c = make_out(&t, SY_BF16, 1, 130, 65);
    long long before = products();
    float *exact = run_out(&c, exact_be, MOST_ROWS);
    expect_equal(run_out(&c, fast_be, MOST_ROWS), exact, MOST_ROWS * 65 * 4, "rows");
    expect_no_products(before);
    free_twin(&t);
    close_both();
}

static void recorded_products_keep_the_bits_of_exact(void **state) {
    (void)state;
    twin t;
    random_state = 47;
    snprintf(where, sizeof where, "a recording");
    open_both(USUAL_PIECE, (widths){33, 1, 1, 64, 1});
    out_case c = make_out(&t, SY_BF16, 1, 64, 33);
    float *exact = run_out(&c, exact_be, MOST_ROWS);
    use(fast_be);
    long long before = products();
    const sy_device_ops *device = fast_be->ops->device;
    sy_recording *recording;
    void *o = device_copy(c.o, MOST_ROWS * c.k * 2);
    output x = make_output(c.x, MOST_ROWS * c.hidden * 4);
    begin_rows(MOST_ROWS);
    MUST(device->record_begin(fast_be));
    MUST(fast_be->ops->attn_out(fast_be, &c.spec, &c.w, MOST_ROWS, o, x.device, NULL));
    MUST(device->record_end(fast_be, &recording));
    MUST(device->replay(fast_be, recording));
    expect_equal(read_output(x), exact, MOST_ROWS * 33 * 4, "rows");
    expect_no_products(before);
    device->record_free(fast_be, recording);
    free_twin(&t);
    close_both();
}

static void fast_is_chosen_before_reserve_and_can_be_taken_back(void **state) {
    (void)state;
    twin t;
    random_state = 48;
    snprintf(where, sizeof where, "on and off");
    open_both(USUAL_PIECE, (widths){33, 1, 1, 64, 1});
    out_case c = make_out(&t, SY_BF16, 1, 64, 33);
    assert_int_equal(sy_cuda_set_fast(fast_be, false), SY_ERR_INTERNAL);
    assert_int_equal(sy_cuda_set_fast(exact_be, true), SY_ERR_INTERNAL);
    MUST(sy_cuda_set_fast(fast_be, true)); /* it is */
    long long before = products();
    float *exact = run_out(&c, exact_be, MOST_ROWS);
    expect_no_products(before);
    use(exact_be);
    fast_be->ops->close(fast_be);
    MUST(open_cuda(&fast_be));
    MUST(sy_cuda_set_fast(fast_be, true));
    sy_cuda_fast_tune(fast_be, 1, USUAL_PIECE);
    MUST(sy_cuda_set_fast(fast_be, false));
    use(fast_be);
    reserve_widths(33, 1, 1, 64, 1);
    expect_equal(run_out(&c, fast_be, MOST_ROWS), exact, MOST_ROWS * 33 * 4, "rows");
    expect_no_products(before);
    free_twin(&t);
    close_both();
}

/* ---- a whole model, as a user starts it ---- */

enum { TOKENS = 520, FEW_TOKENS = 90, VOCAB = 3072, NPY_HEADER = 128 };

/* The logits of the demo model for n_ids ids in one step, from `switchyard logits` with more options. */
static float *logits_of(int n_ids, const char *more, char *errors, size_t errors_size) {
    char path[] = "/tmp/sy_fast_XXXXXX", command[16384];
    int file = mkstemp(path);
    assert_true(file >= 0);
    int n = snprintf(command, sizeof command,
                     "\"$SWITCHYARD\" logits \"$SY_TEST_DATA/demo\" --device cuda --out %s "
                     "--chunk %d %s 2>&1 --ids \"",
                     path, n_ids, more);
    for (int i = 0; i < n_ids; i++)
        n += snprintf(command + n, sizeof command - (size_t)n, "%s%d", i == 0 ? "" : ",",
                      (int)(sy_hash_add(31, (uint64_t)i) % (VOCAB - 1)));
    snprintf(command + n, sizeof command - (size_t)n, "\"");
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t used = fread(errors, 1, errors_size - 1, f);
    errors[used] = '\0';
    if (pclose(f) != 0) fail_msg("switchyard logits %s: %s", more, errors);
    int64_t bytes = (int64_t)n_ids * VOCAB * 4;
    float *logits = host_block(bytes);
    assert_int_equal(lseek(file, NPY_HEADER, SEEK_SET), NPY_HEADER);
    for (int64_t done = 0; done < bytes;) {
        ssize_t got = read(file, (char *)logits + done, (size_t)(bytes - done));
        assert_true(got > 0);
        done += got;
    }
    close(file);
    unlink(path);
    return logits;
}

/* Not in the run that only repeats what is hashed. */
static void skip_unless_the_program_is_there(void) {
    if (getenv("SY_CUDA_TEST_AGAIN") != NULL) skip();
    if (getenv("SWITCHYARD") != NULL && getenv("SY_TEST_DATA") != NULL) return;
    printf("skipped: SWITCHYARD and SY_TEST_DATA are not set\n");
    skip();
}

static double largest_of(const float *x, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)x[i]));
    return most;
}

/* Rows that differ by more than `tolerance`: sums in another order may choose other experts where
 * two are as good, and such a row is another row. */
static int far_rows(const float *a, const float *b, double tolerance, double *most) {
    int n = 0;
    *most = 0;
    for (int64_t r = 0; r < TOKENS; r++) {
        double row = 0;
        for (int64_t i = r * VOCAB; i < (r + 1) * VOCAB; i++)
            row = fmax(row, fabs((double)a[i] - (double)b[i]));
        *most = fmax(*most, row);
        n += !(row <= tolerance);
    }
    return n;
}

static void logits_of_a_model_are_close_to_exact(void **state) {
    (void)state;
    char said[4096];
    double most;
    skip_unless_the_program_is_there();
    float *exact = logits_of(TOKENS, "", said, sizeof said);
    assert_null(strstr(said, "cuBLAS"));
    float *fast = logits_of(TOKENS, "--numerics fast", said, sizeof said);
    if (strstr(said, "no cuBLAS") != NULL) {
        printf("skipped: %s", said);
        end_case();
        skip();
    }
    double tolerance = 0.03 * largest_of(exact, (int64_t)TOKENS * VOCAB);
    int far = far_rows(fast, exact, tolerance, &most);
    print_message("logits differ by up to %.3g, %d of %d rows by more than %.3g\n", most, far,
                  (int)TOKENS, tolerance);
    /* bf16 and float32 on the CPU are that far apart in 9 rows of such ids. */
    assert_true(far <= TOKENS / 40);
    assert_true(most > 0); /* since cuBLAS adds in another order */
    /* Steps of fewer rows than are worth it are those of exact numerics. */
    float *few = logits_of(FEW_TOKENS, "--numerics fast", said, sizeof said);
    expect_equal(few, exact, (int64_t)FEW_TOKENS * VOCAB * 4, "logits of a small step");
    end_case();
}

static void without_cublas_fast_says_so_and_computes_all_the_same(void **state) {
    (void)state;
    char said[4096];
    skip_unless_the_program_is_there();
    float *exact = logits_of(FEW_TOKENS, "", said, sizeof said);
    setenv("SWITCHYARD_CUBLAS", "/nowhere/libcublas.so", 1);
    float *without = logits_of(FEW_TOKENS, "--numerics fast", said, sizeof said);
    unsetenv("SWITCHYARD_CUBLAS");
    assert_non_null(strstr(said, "dense products stay with switchyard's own kernels: rank 0"));
    assert_non_null(strstr(said, "/nowhere/libcublas.so"));
    expect_equal(without, exact, (int64_t)FEW_TOKENS * VOCAB * 4, "logits");
    end_case();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attn_out_adds_the_projection),
        cmocka_unit_test(dense_ffn_is_gate_up_and_down),
        cmocka_unit_test(head_takes_lm_head_in_pieces),
        cmocka_unit_test(q_and_v_are_fast_but_not_half_precision_nor_the_router),
        cmocka_unit_test(few_rows_keep_the_bits_of_exact),
        cmocka_unit_test(a_tile_that_fits_no_piece_keeps_the_bits_of_exact),
        cmocka_unit_test(recorded_products_keep_the_bits_of_exact),
        cmocka_unit_test(fast_is_chosen_before_reserve_and_can_be_taken_back),
        cmocka_unit_test(logits_of_a_model_are_close_to_exact),
        cmocka_unit_test(without_cublas_fast_says_so_and_computes_all_the_same),
    };
    return cuda_main("fast numerics", tests, sizeof tests / sizeof *tests);
}
#else
int main(void) {
    printf("skipped: built without CUDA\n");
    return 77;
}
#endif
