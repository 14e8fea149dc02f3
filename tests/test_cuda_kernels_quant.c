/* Quantised weights on the CUDA table: every format against the CPU's table and against float64,
 * every code, and the same bits at every number of rows.
 * timeout: 300 */
#include "tests/cuda_fixture.h"

#ifdef SY_WITH_CUDA
#include "kernels/cuda/matrix.h"
#include "tests/format_fixture.h"

/* ---- matrices ---- */

/* One matrix as both tables hold it, and its weights in float64. */
typedef struct pair {
    quantised q; /* owns the sources and the CPU's memory */
    sy_matrix cuda;
    double *value; /* [parts][n][k] */
} pair;

static double weight64(const quantised *q, int part, int64_t row, int64_t k) {
    return WITH_FACTOR(q, part, code_of(q, part, row, k) * scale_of(q, part, row, k));
}

static double *values64(const quantised *q) {
    int64_t n = q->m.n, k = q->m.k;
    double *value = host_block(q->m.parts * n * k * (int64_t)sizeof *value);
    for (int64_t i = 0; i < q->m.parts * n * k; i++)
        value[i] = weight64(q, (int)(i / (n * k)), i / k % n, i % k);
    return value;
}

/* Packs in two pieces, the second first. */
static void pack_cuda(const quantised *q, const sy_matrix *m) {
    for (int part = 0; part < m->parts; part++) {
        int64_t cut = random_in(0, m->n / SY_PACK_ROWS) * SY_PACK_ROWS;
        sy_weight_source rest = source_at(q, part, cut), begin = source_at(q, part, 0);
        MUST(cuda_be->ops->pack(cuda_be, m, part, cut, m->n - cut, &rest));
        MUST(cuda_be->ops->pack(cuda_be, m, part, 0, cut, &begin));
    }
}

/* `count` matrices of one shape and format, at equal distances in dirty memory of the device.
 * Where they have factors, each has its own. */
static void
make_pairs(int count, const format_case *f, int parts, int64_t n, int64_t k, pair *out) {
    char *memory = NULL;
    for (int i = 0; i < count; i++) {
        format_case own = *f;
        for (int part = 0; part < 2; part++)
            own.quant.factor[part] = uniform(1) + (part == 0 ? 3.0f : -2.5f);
        pair *p = &out[i];
        p->q = make_quantised(cpu_be, &own, parts, n, k, ORDINARY);
        p->value = values64(&p->q);
        p->cuda = p->q.m;
        uint64_t bytes = cuda_be->ops->matrix_bytes(cuda_be, &p->cuda);
        assert_true(bytes != UINT64_MAX && bytes % 64 == 0);
        if (i == 0) {
            char *dirt = host_block(count * (int64_t)bytes);
            memset(dirt, POISON_BYTE, (size_t)count * bytes);
            memory = device_copy(dirt, count * (int64_t)bytes);
        }
        p->cuda.data = memory + (uint64_t)i * bytes;
        pack_cuda(&p->q, &p->cuda);
    }
}

/* The same matrix in memory of its own, all zeros. */
static sy_matrix clean_copy(const sy_matrix *m) {
    sy_matrix out = *m;
    int64_t bytes = (int64_t)cuda_be->ops->matrix_bytes(cuda_be, m);
    out.data = device_copy(memset(host_block(bytes), 0, (size_t)bytes), bytes);
    return out;
}

static void free_pairs(int count, pair *p) {
    for (int i = 0; i < count; i++)
        free_quantised(cpu_be, &p[i].q);
}

static sum64 dot_values(const double *w, const float *x, int64_t k) {
    sum64 s = {0, 0};
    for (int64_t i = 0; i < k; i++) {
        s.y += w[i] * (double)x[i];
        s.magnitude += fabs(w[i] * (double)x[i]);
    }
    return s;
}

/* Within a group as of BF16; the scales' additions hide in what that leaves, see cuda_bound. */
static double cuda_error(const pair *p, sum64 s) {
    return cuda_bound(p->q.m.k, s.magnitude, SY_BF16) + 1e-35;
}

static double cpu_error(const pair *p, sum64 s) {
    return cpu_bound(p->q.m.k + 2 * p->q.groups + p->q.m.k / 128, s.magnitude) + 1e-35;
}

/* ---- one product: attn_out, added to zeros ---- */

typedef struct product_case {
    sy_layer_spec spec;
    sy_layer_weights cuda;
    uint16_t *o; /* [MOST_ROWS, k] */
} product_case;

static void *run_product(const void *arg, int64_t first, int64_t n) {
    const product_case *c = arg;
    int64_t k = c->cuda.o.k, hidden = c->cuda.o.n;
    void *zeros = memset(host_block(n * hidden * 4), 0, (size_t)(n * hidden * 4));
    output x = make_output(zeros, n * hidden * 4);
    begin_rows(n);
    MUST(cuda_be->ops->attn_out(cuda_be, &c->spec, &c->cuda, n,
                                device_copy(c->o + first * k, n * k * 2), x.device, NULL));
    return read_output(x);
}

/* kv heads of `group` values each, whose number is the matrix's k. */
static product_case product_of(const pair *p, int64_t group) {
    int heads = (int)(p->cuda.k / group);
    return (product_case){
        .spec.attn = {.heads = heads, .kv_heads = heads, .head_dim = (int)group},
        .cuda.o = p->cuda,
        .o = random_bf16(MOST_ROWS * p->cuda.k, 2)};
}

/* The first n_rows rows in one launch. */
static void check_product(const pair *p, const product_case *c, int64_t n_rows) {
    int64_t n = p->cuda.n, k = p->cuda.k;
    float *found = run_product(c, 0, n_rows), *x = widen(c->o, n_rows * k);
    float *cpu = memset(host_block(n_rows * n * 4), 0, (size_t)(n_rows * n * 4));
    sy_layer_weights w = {.o = p->q.m};
    MUST(cpu_be->ops->attn_out(cpu_be, &c->spec, &w, n_rows, c->o, cpu, NULL));
    for (int64_t r = 0; r<n_rows; r += n_rows> 40 ? 7 : 1)
        for (int64_t i = 0; i < n; i++) {
            sum64 s = dot_values(p->value + i * k, x + r * k, k);
            expect_near("y", r, i, (double)found[r * n + i], (double)cpu[r * n + i], s.y,
                        cuda_error(p, s), cpu_error(p, s));
        }
}

static void describe(const format_case *f, int parts, int64_t n, int64_t k, int64_t group) {
    snprintf(where, sizeof where,
             "%s: %s, scales %s, group %d, outputs %d, zeros %d, factor %d; %d parts, n %lld, "
             "k %lld, leaves of %lld",
             f->name, sy_dtype_name(f->dtype), sy_dtype_name(f->quant.scale), f->quant.group,
             f->quant.outputs, f->quant.zeros, (int)f->quant.use_factor, parts, (long long)n,
             (long long)k, (long long)group);
}

/* Few rows and many; where `all`, every number of rows gives the same bits. */
static void check_format(const format_case *f,
                         int64_t n,
                         int64_t heads,
                         int64_t group,
                         int64_t n_rows,
                         bool all) {
    pair p;
    describe(f, 1, n, heads * group, group);
    reserve_widths((int)n, 1, (int)heads, (int)group, 1);
    make_pairs(1, f, 1, n, heads * group, &p);
    product_case c = product_of(&p, group);
    check_product(&p, &c, n_rows);
    if (all) expect_rows_alone_equal(run_product, &c, run_product(&c, 0, MOST_ROWS), n * 4);
    free_pairs(1, &p);
    end_case();
}

/* Leaves of 256 values, of whole groups of 16 that are not 256, and of odd sizes that share steps,
 * units of codes and scale groups. */
static void published_formats_at_every_row_count(void **state) {
    (void)state;
    random_state = 31;
    for (int f = 0; f < N_FORMATS; f++) {
        check_format(&formats[f], 17, 40, 16, MOST_ROWS, true);
        check_format(&formats[f], random_in(1, 150), 10, 60, 9, false);
        check_format(&formats[f], random_in(1, 150), random_in(1, 700), 1, 34, false);
        check_format(&formats[f], random_in(1, 90), random_in(2, 9), 144, 2, false);
    }
    check_format(&formats[0], 33, 5, 300, MOST_ROWS, true);
    check_format(&formats[7], 130, 3, 290, MOST_ROWS, true);
    check_format(&formats[13], 20, 40, 100, MOST_ROWS, true);
    check_format(&formats[15], 20, 15, 256, MOST_ROWS, true);
}

static void check_kind(sy_dtype codes, sy_quant quant, int *turn) {
    format_case f = {"all kinds", codes, quant};
    int64_t rows = *turn % 3 == 0 ? 33 : random_in(1, 10);
    int64_t n = *turn % 5 == 0 ? random_in(129, 140) : random_in(1, 40);
    check_format(&f, n, random_in(1, 300), 1, rows, false);
    ++*turn;
}

/* All that kernels/ops.h allows, published or not. */
static void every_kind_of_codes_scales_groups_and_factors(void **state) {
    (void)state;
    static const sy_dtype codes[] = {SY_F8_E4M3, SY_I8, SY_F4, SY_U4};
    static const sy_dtype scales[] = {SY_F32, SY_F16, SY_BF16, SY_F8_E8M0, SY_F8_E4M3};
    static const int groups[] = {0, 16, 32, 64, 128}, outputs[] = {0, 1, 128};
    int turn = 0;
    random_state = 32;
    for (int c = 0; c < 4; c++)
        for (int s = 0; s < 5; s++)
            for (int g = 0; g < 5; g++)
                for (int o = 0; o < 3; o++) {
                    sy_quant q = {
                        .scale = scales[s], .group = groups[g], .outputs = outputs[o]};
                    q.use_factor = (sy_factor)(turn % 3);
                    check_kind(codes[c], q, &turn);
                    q.zeros = true;
                    if (codes[c] == SY_U4) check_kind(codes[c], q, &turn);
                }
}

/* Each output has another code at each place, and a row of x asks for one place. */
static void every_code_at_every_place_has_its_value(void **state) {
    (void)state;
    enum { N = 256, K = 128 };
    static const int with[] = {2, 15, 6, 9, 13}; /* E4M3, I8, E2M1, U4, U4 with zero points */
    random_state = 33;
    for (int f = 0; f < 5; f++) {
        format_case format = formats[with[f]];
        format.quant.scale = SY_F32;
        format.quant.group = 32;
        pair p = {.q = shape_quantised(&format, 1, N, K)};
        describe(&format, 1, N, K, 1);
        fill_part(&p.q, &p.q.part[0], ORDINARY);
        for (int64_t i = 0; i < N * p.q.code_row_bytes; i++) {
            int64_t row = i / p.q.code_row_bytes, at = i % p.q.code_row_bytes;
            int code = (int)((row + 37 * at) & 255);
            if (format.dtype == SY_F8_E4M3 && (code & 0x7f) == 0x7f) code = 0x80;
            p.q.part[0].codes[i] = (char)code;
        }
        for (int64_t i = 0; i < N * p.q.groups; i++)
            memcpy(p.q.part[0].scales + 4 * i, &(float){1}, 4);
        pack_quantised(cpu_be, &p.q);
        p.value = values64(&p.q);
        p.cuda = clean_copy(&p.q.m);
        pack_cuda(&p.q, &p.cuda);
        reserve_widths(N, 1, K, 1, 1);
        product_case c = product_of(&p, 1);
        memset(c.o, 0, MOST_ROWS * K * 2);
        for (int r = 0; r < MOST_ROWS; r++)
            c.o[r * K + r % K] = 0x3f80;                          /* 1 */
        for (int64_t first = 0; first < MOST_ROWS; first += 26) { /* few rows, then many */
            int64_t n = first == 0 ? MOST_ROWS : sy_min(26, MOST_ROWS - first);
            float *y = run_product(&c, first, n);
            for (int64_t i = 0; i < n * N; i++) {
                int64_t place = (first + i / N) % K;
                double want = p.value[i % N * K + place];
                if ((double)y[i] != want)
                    fail_msg("%s: output %d, place %d: %g, expected %g", where, (int)(i % N),
                             (int)place, (double)y[i], want);
            }
        }
        free_pairs(1, &p);
        end_case();
    }
}

/* As on the CPU: a code that is no number makes its output none, and no other. */
static void codes_that_are_no_numbers_stay_none(void **state) {
    (void)state;
    random_state = 34;
    for (int row = 0; row < 20; row++) {
        pair p;
        format_case f = formats[row % 6];
        describe(&f, 1, 20, 200, 1);
        reserve_widths(20, 1, 200, 1, 1);
        p.q = make_quantised(cpu_be, &f, 1, 20, 200, ORDINARY);
        p.q.part[0].codes[row * 200 + 7 * row] = (char)(row % 2 == 0 ? 0x7f : 0xff);
        p.cuda = clean_copy(&p.q.m);
        pack_cuda(&p.q, &p.cuda);
        product_case c = product_of(&p, 1);
        int64_t n = row % 3 == 0 ? 40 : 3;
        uint64_t hash = output_hash;
        float *y = run_product(&c, 0, n);
        output_hash = hash; /* the bits of a NaN are not promised */
        for (int64_t i = 0; i < n * 20; i++)
            if (isnan(y[i]) != (i % 20 == row)) fail_msg("%s: y[%d]", where, (int)i);
        free_pairs(1, &p);
        end_case();
    }
}

/* As multiply-adds of the CPU flush them. */
static void scales_that_are_denormal_are_zero(void **state) {
    (void)state;
    enum { N = 20, K = 64 };
    static const sy_dtype types[] = {SY_F32, SY_BF16, SY_F8_E8M0};
    random_state = 44;
    for (int t = 0; t < 6; t++) { /* by groups, and for all of K */
        format_case f = formats[0];
        f.quant = (sy_quant){.scale = types[t % 3], .group = t < 3 ? 32 : 0, .outputs = 1};
        pair p = {.q = shape_quantised(&f, 1, N, K)};
        describe(&f, 1, N, K, 1);
        reserve_widths(N, 1, K, 1, 1);
        fill_part(&p.q, &p.q.part[0], ORDINARY);
        memset(p.q.part[0].codes, 0x7e, (size_t)(N * K)); /* 448 */
        for (int64_t i = 0; i < N * p.q.groups; i++) {
            float f32 = 0x1.8p-127f;
            uint16_t bf16 = 0x0060;
            char *at = p.q.part[0].scales + i * p.q.scale_bytes;
            memcpy(at, types[t % 3] == SY_F32 ? (void *)&f32 : (void *)&bf16,
                   (size_t)p.q.scale_bytes);
            if (types[t % 3] == SY_F8_E8M0) *at = 0; /* 2^-127 */
        }
        pack_quantised(cpu_be, &p.q);
        p.cuda = clean_copy(&p.q.m);
        pack_cuda(&p.q, &p.cuda);
        product_case c = product_of(&p, 1);
        for (int64_t i = 0; i < MOST_ROWS * K; i++)
            c.o[i] = 0x3f80;
        for (int64_t n = 1; n <= MOST_ROWS; n += MOST_ROWS - 1) {
            float *y = run_product(&c, 0, n);
            for (int64_t i = 0; i < n * N; i++)
                if (y[i] != 0) fail_msg("%s: y[%d] = %g", where, (int)i, (double)y[i]);
        }
        free_quantised(cpu_be, &p.q);
        end_case();
    }
}

static void products_of_published_widths(void **state) {
    (void)state;
    random_state = 35;
    check_format(&formats[0], 256, 16, 128, 1, false); /* K 2048, leaves of 256 */
    check_format(&formats[6], 64, 45, 64, 2, false);   /* K 2880 */
    check_format(&formats[7], 64, 28, 256, 33, false); /* K 7168 */
    check_format(&formats[9], 128, 16, 128, 9, false);
}

/* ---- experts ---- */

enum { N_SLOTS = 5 };

typedef struct expert_case {
    sy_layer_spec spec;
    int64_t hidden, inter, first[N_SLOTS + 1];
    pair up[N_SLOTS], down[N_SLOTS];
    sy_matrix cuda_up[N_SLOTS], cuda_down[N_SLOTS], cpu_up[N_SLOTS], cpu_down[N_SLOTS];
    sy_layer_weights cuda, cpu;
    uint16_t *x, *h; /* [P, H]; [P, F], what the CPU made: input of down on both sides */
    float *y;        /* [P, H], of the CPU */
} expert_case;

static void make_experts(expert_case *c, const format_case *f, int64_t hidden, int64_t inter) {
    memset(c, 0, sizeof *c);
    c->hidden = hidden;
    c->inter = inter;
    c->spec.ffn = (sy_ffn_spec){.kind = SY_FFN_MOE, .inter = (int)inter};
    make_pairs(N_SLOTS, f, 2, inter, hidden, c->up);
    make_pairs(N_SLOTS, f, 1, hidden, inter, c->down);
    for (int s = 0; s < N_SLOTS; s++) {
        c->cuda_up[s] = c->up[s].cuda;
        c->cpu_up[s] = c->up[s].q.m;
        c->cuda_down[s] = c->down[s].cuda;
        c->cpu_down[s] = c->down[s].q.m;
    }
    c->cuda =
        (sy_layer_weights){.n_slots = N_SLOTS, .gate_up = c->cuda_up, .down = c->cuda_down};
    c->cpu = (sy_layer_weights){.n_slots = N_SLOTS, .gate_up = c->cpu_up, .down = c->cpu_down};
}

/* h = g sigmoid(g) u, whose derivative in g is at most 1.1 u. */
static void expect_h(const pair *up,
                     const float *x,
                     int64_t row,
                     const uint16_t *cuda,
                     const uint16_t *cpu) {
    int64_t k = up->cuda.k, n = up->cuda.n;
    for (int64_t i = 0; i < n; i++) {
        sum64 g = dot_values(up->value + i * k, x, k);
        sum64 u = dot_values(up->value + (n + i) * k, x, k);
        double silu = g.y / (1 + exp(-g.y)), y = silu * u.y, bound[2];
        for (int side = 0; side < 2; side++) {
            double eg = side == 0 ? cuda_error(up, g) : cpu_error(up, g);
            double eu = side == 0 ? cuda_error(up, u) : cpu_error(up, u);
            double arithmetic = (fabs(g.y) + 8) * 0x1p-22 * fabs(y);
            bound[side] = bf16_bound(y, 1.1 * eg * (fabs(u.y) + eu) + fabs(silu) * eu +
                                            arithmetic + 0x1p-120);
        }
        expect_near("h", row, i, (double)sy_f32_from_bf16(cuda[i]),
                    (double)sy_f32_from_bf16(cpu[i]), y, bound[0], bound[1]);
    }
}

static void
expect_y(const pair *down, const float *h, int64_t row, const float *cuda, const float *cpu) {
    int64_t k = down->cuda.k;
    for (int64_t i = 0; i < down->cuda.n; i++) {
        sum64 s = dot_values(down->value + i * k, h, k);
        expect_near("y", row, i, (double)cuda[i], (double)cpu[i], s.y, cuda_error(down, s),
                    cpu_error(down, s));
    }
}

static uint16_t *run_up(const expert_case *c, const sy_expert_rows *rows, int64_t n) {
    output h = make_output(NULL, n * c->inter * 2);
    MUST(cuda_be->ops->experts_up(cuda_be, &c->spec, &c->cuda, rows, h.device, NULL));
    return read_output(h);
}

static float *
run_down(const expert_case *c, const sy_expert_rows *rows, const uint16_t *h, int64_t n) {
    output y = make_output(NULL, n * c->hidden * 4);
    void *h_device = device_copy(h, n * c->inter * 2);
    MUST(cuda_be->ops->experts_down(cuda_be, &c->spec, &c->cuda, rows, h_device, y.device,
                                    NULL));
    return read_output(y);
}

/* One pair alone in its slot has the bits that it has among all. */
static void expect_pair_alone(const expert_case *c,
                              int slot,
                              int64_t pair_row,
                              const uint16_t *h,
                              const float *y) {
    int64_t first[N_SLOTS + 1];
    for (int s = 0; s <= N_SLOTS; s++)
        first[s] = s > slot;
    sy_expert_rows one = {.n_slots = N_SLOTS, .n_pairs = 1, .first = first};
    one.x = device_copy(c->x + pair_row * c->hidden, c->hidden * 2);
    begin_rows(1);
    assert_equal_bytes(run_up(c, &one, 1), h + pair_row * c->inter, 1, c->inter * 2, "h alone");
    assert_equal_bytes(run_down(c, &one, c->h + pair_row * c->inter, 1),
                       y + pair_row * c->hidden, 1, c->hidden * 4, "y alone");
}

static void check_rows_of_experts(expert_case *c, const int64_t *count) {
    for (int s = 0; s < N_SLOTS; s++)
        c->first[s + 1] = c->first[s] + count[s];
    int64_t n = c->first[N_SLOTS];
    c->x = random_bf16(n * c->hidden, 0.02f); /* so that silu is not always 0 or g */
    sy_expert_rows rows = {.n_slots = N_SLOTS, .n_pairs = n, .first = c->first};
    rows.x = device_copy(c->x, n * c->hidden * 2);
    begin_rows(0);
    uint16_t *h = run_up(c, &rows, n);
    c->h = host_block(n * c->inter * 2);
    c->y = host_block(n * c->hidden * 4);
    rows.x = c->x;
    MUST(cpu_be->ops->experts_up(cpu_be, &c->spec, &c->cpu, &rows, c->h, NULL));
    MUST(cpu_be->ops->experts_down(cpu_be, &c->spec, &c->cpu, &rows, c->h, c->y, NULL));
    float *y = run_down(c, &rows, c->h, n);
    float *x_values = widen(c->x, n * c->hidden), *h_values = widen(c->h, n * c->inter);
    for (int s = 0; s < N_SLOTS; s++)
        for (int64_t p = c->first[s]; p < c->first[s + 1]; p += 3) {
            expect_h(&c->up[s], x_values + p * c->hidden, p, h + p * c->inter,
                     c->h + p * c->inter);
            expect_y(&c->down[s], h_values + p * c->inter, p, y + p * c->hidden,
                     c->y + p * c->hidden);
            if (p % 4 == 0) expect_pair_alone(c, s, p, h, y);
        }
}

static void check_experts(const format_case *f, int64_t hidden, int64_t inter, bool many) {
    static const int64_t counts[][N_SLOTS] = {
        {1, 0, 2, 7, 1}, {0, 0, 0, 0, 0}, {8, 0, 16, 17, 33}, {0, 65, 0, 64, 1}};
    static expert_case c;
    describe(f, 2, inter, hidden, SY_LEAF);
    reserve_widths((int)hidden, (int)inter, 1, 2, 1);
    make_experts(&c, f, hidden, inter);
    for (int i = 0; i < (many ? 4 : 1); i++)
        check_rows_of_experts(&c, counts[many ? i : (int)(random64() % 4)]);
    free_pairs(N_SLOTS, c.up);
    free_pairs(N_SLOTS, c.down);
    end_case();
}

static void experts_of_every_format(void **state) {
    (void)state;
    random_state = 36;
    for (int f = 0; f < N_FORMATS; f++) {
        check_experts(&formats[f], random_in(1, 80), random_in(1, 80), false);
        check_experts(&formats[f], 100, 137, false); /* blocks of 128 outputs and their rest */
    }
    check_experts(&formats[0], 160, 272, true);
    check_experts(&formats[6], 96, 320, true);
    check_experts(&formats[8], 65, 33, true);
    check_experts(&formats[13], 33, 65, true);
    check_experts(&formats[15], 72, 257, true);
}

/* ---- normed rows: few are normed within the product ---- */

typedef struct normed_case {
    const sy_matrix *w[3];
    float *norm, *norm_device, *x; /* x [MOST_ROWS, k] */
    int64_t columns;
} normed_case;

static const float NORM_EPS = 1e-6f;

/* [n][outputs of all matrices] */
static void *run_normed(const void *arg, int64_t first, int64_t n) {
    const normed_case *c = arg;
    int64_t k = c->w[0]->k, ld[3] = {c->columns, c->columns, c->columns};
    output y = make_output(NULL, n * c->columns * 4);
    float *out[3], *at = y.device;
    for (int i = 0; i < 3; i++) {
        out[i] = at;
        at += c->w[i]->n;
    }
    begin_rows(n);
    MUST(sy_cuda_norm_product((sy_cuda *)(void *)cuda_be, c->norm_device, NORM_EPS, 3, c->w, n,
                              device_copy(c->x + first * k, n * k * 4), NULL, out, ld, 0));
    return read_output(y);
}

/* Three matrices of a step, of which the first two share a launch if their formats are equal. */
static void check_normed(const format_case *f, const format_case *last, int64_t k) {
    pair p[3];
    describe(f, 3, 20, k, k);
    reserve_widths((int)k, 1, 1, 2, 1);
    make_pairs(1, f, 1, 20, k, &p[0]);
    make_pairs(1, f, 1, 131, k, &p[1]);
    make_pairs(1, last, 1, 17, k, &p[2]);
    normed_case c = {.w = {&p[0].cuda, &p[1].cuda, &p[2].cuda},
                     .norm = random_norm(k),
                     .x = random_floats(MOST_ROWS * k, 30),
                     .columns = 20 + 131 + 17};
    c.norm_device = device_copy(c.norm, k * 4);
    float *found = run_normed(&c, 0, MOST_ROWS), *xn = host_block(k * 4);
    double *slack = host_block(k * 8);
    for (int64_t r = 0; r < MOST_ROWS; r += 13) {
        float *y = found + r * c.columns;
        norm64(c.x + r * k, c.norm, (double)NORM_EPS, k, xn, slack);
        for (int m = 0; m < 3; m++)
            for (int64_t i = 0; i < p[m].cuda.n; i++, y++) {
                sum64 s = dot_values(p[m].value + i * k, xn, k);
                double bound = cuda_error(&p[m], s);
                for (int64_t j = 0; j < k; j++)
                    bound += fabs(p[m].value[i * k + j]) * slack[j];
                expect_near("normed", r, i, (double)*y, s.y, s.y, bound, 0);
            }
    }
    expect_rows_alone_equal(run_normed, &c, found, c.columns * 4);
    free_pairs(3, p);
    end_case();
}

static void normed_rows_times_several_matrices(void **state) {
    (void)state;
    random_state = 37;
    for (int f = 0; f < N_FORMATS; f += 2)
        check_normed(&formats[f], &formats[(f + 1) % N_FORMATS], random_in(1, 300));
    check_normed(&formats[0], &formats[0], 700);
    check_normed(&formats[8], &formats[7], 129);
}

/* ---- heads ---- */

enum { HEADS = 3 };

typedef struct heads_case {
    sy_matrix m[HEADS];
    uint16_t *x; /* [MOST_ROWS, HEADS, k] */
} heads_case;

static void *run_heads(const void *arg, int64_t first, int64_t n) {
    const heads_case *c = arg;
    int64_t k = c->m[0].k, outputs = c->m[0].n;
    output y = make_output(NULL, n * HEADS * outputs * 2);
    begin_rows(n);
    MUST(sy_cuda_multiply_heads((sy_cuda *)(void *)cuda_be, c->m, HEADS, n,
                                device_copy(c->x + first * HEADS * k, n * HEADS * k * 2),
                                y.device, outputs));
    return read_output(y);
}

static void each_head_has_its_own_matrix(void **state) {
    (void)state;
    random_state = 38;
    for (int f = 0; f < N_FORMATS; f++) {
        pair p[HEADS];
        heads_case c;
        int64_t n = random_in(1, 150), k = random_in(1, 300);
        describe(&formats[f], 1, n, k, k);
        make_pairs(HEADS, &formats[f], 1, n, k, p);
        for (int h = 0; h < HEADS; h++)
            c.m[h] = p[h].cuda;
        c.x = random_bf16(MOST_ROWS * HEADS * k, 2);
        uint16_t *found = run_heads(&c, 0, MOST_ROWS);
        float *x = widen(c.x, MOST_ROWS * HEADS * k);
        for (int64_t r = 0; r < MOST_ROWS * HEADS; r += 19)
            for (int64_t i = 0; i < n; i++) {
                const pair *own = &p[r % HEADS];
                sum64 s = dot_values(own->value + i * k, x + r * k, k);
                expect_near("head", r, i, (double)sy_f32_from_bf16(found[r * n + i]), s.y, s.y,
                            bf16_bound(s.y, cuda_error(own, s)), 0);
            }
        expect_rows_alone_equal(run_heads, &c, found, HEADS * n * 2);
        free_pairs(HEADS, p);
        end_case();
    }
}

/* ---- packing ---- */

static void embedded_rows_are_code_times_scale_with_factor(void **state) {
    (void)state;
    random_state = 39;
    for (int f = 0; f < N_FORMATS; f++) {
        pair p;
        int32_t ids[40];
        int64_t n = random_in(40, 300), k = random_in(1, 300);
        describe(&formats[f], 1, n, k, 0);
        make_pairs(1, &formats[f], 1, n, k, &p);
        for (int i = 0; i < 40; i++)
            ids[i] = (int32_t)random_in(0, n - 1);
        sy_batch b = {.n_rows = 40, .ids = ids};
        float *cpu = host_block(40 * k * 4);
        MUST(cpu_be->ops->embed(cpu_be, &p.q.m, &b, cpu, NULL));
        output x = make_output(NULL, 43 * k * 4);
        begin_step(&b, 43, 0, NULL);
        MUST(cuda_be->ops->embed(cuda_be, &p.cuda, &b, x.device, NULL));
        float *found = read_output(x);
        assert_equal_bytes(found, cpu, 40, k * 4, "x");
        for (int64_t i = 40 * k; i < 43 * k; i++)
            assert_true(found[i] == 0);
        free_pairs(1, &p);
        end_case();
    }
}

/* What lies in device memory. */
static char *stored(const sy_matrix *m) {
    uint64_t bytes = cuda_be->ops->matrix_bytes(cuda_be, m);
    char *out = host_block((int64_t)bytes);
    MUST(cuda_be->ops->read(cuda_be, out, m->data, bytes, NULL));
    return out;
}

/* Through a stage's slots, pieces of 128 rows in any order, codes at an odd place. */
static void packing_from_slots_gives_the_same_bytes(void **state) {
    (void)state;
    enum { N = 300, K = 130, ROWS = 128, SLOT = 1 << 20 };
    const sy_device_ops *device = cuda_be->ops->device;
    random_state = 40;
    for (int f = 0; f < N_FORMATS; f++) {
        pair p;
        sy_stage *stage;
        describe(&formats[f], 2, N, K, 0);
        make_pairs(1, &formats[f], 2, N, K, &p);
        p.cuda = clean_copy(&p.cuda);
        pack_cuda(&p.q, &p.cuda);
        sy_matrix staged = clean_copy(&p.cuda);
        MUST(device->stage_open(cuda_be, 3, SLOT, &stage));
        for (int part = 0; part < 2; part++)
            for (int64_t row = 256; row >= 0; row -= ROWS) {
                char *slot;
                int64_t rows = sy_min(ROWS, N - row), at = 1;
                sy_weight_source src = source_at(&p.q, part, row);
                MUST(device->stage_take(stage, (void **)&slot));
                int64_t outputs = formats[f].quant.outputs;
                int64_t scale_rows = outputs == 1 ? rows : 1;
                memcpy(slot + at, src.codes, (size_t)(rows * p.q.code_row_bytes));
                src.codes = slot + at;
                at += rows * p.q.code_row_bytes + 2;
                memcpy(slot + at, src.scales,
                       (size_t)(scale_rows * p.q.groups * p.q.scale_bytes));
                src.scales = slot + at;
                at += scale_rows * p.q.groups * p.q.scale_bytes + 3;
                if (src.zeros != NULL) {
                    memcpy(slot + at, src.zeros, (size_t)(rows * p.q.groups));
                    src.zeros = (uint8_t *)slot + at;
                }
                MUST(cuda_be->ops->pack(cuda_be, &staged, part, row, rows, &src));
                device->stage_give(stage, slot);
            }
        MUST(device->stage_close(stage));
        assert_equal_bytes(stored(&staged), stored(&p.cuda), 1, (int64_t)p.q.bytes / 2,
                           "bytes");
        free_pairs(1, &p);
        end_case();
    }
}

/* More rows than a slot of the backend's own stage has room for. */
static void packing_in_pieces_gives_the_same_bytes(void **state) {
    (void)state;
    enum { K = 24000, N = 1030, AT_ONCE = 64 }; /* pieces of 320 rows, of E4M3 */
    static const int with[] = {0, 7, 13};
    random_state = 41;
    for (int f = 0; f < 3; f++) {
        quantised q = shape_quantised(&formats[with[f]], 1, N, K);
        describe(&formats[with[f]], 1, N, K, 0);
        fill_part(&q, &q.part[0], ORDINARY);
        sy_matrix whole = clean_copy(&q.m), pieces = clean_copy(&q.m);
        sy_weight_source src = source_at(&q, 0, 0);
        MUST(cuda_be->ops->pack(cuda_be, &whole, 0, 0, N, &src));
        for (int64_t row = 0; row < N; row += AT_ONCE) {
            src = source_at(&q, 0, row);
            MUST(cuda_be->ops->pack(cuda_be, &pieces, 0, row, sy_min(AT_ONCE, N - row), &src));
        }
        int64_t bytes = (int64_t)cuda_be->ops->matrix_bytes(cuda_be, &whole);
        assert_equal_bytes(stored(&whole), stored(&pieces), 1, bytes, "bytes");
        free_odd(q.part[0].codes);
        free_odd(q.part[0].scales);
        free_odd(q.part[0].zeros);
        end_case();
    }
}

/* Codes, scales and zero points of 4 bits as files hold them, and at most 5 % more. */
static void memory_is_that_of_codes_and_scales(void **state) {
    (void)state;
    static const int64_t shapes[][2] = {{7168, 2048}, {2880, 2880}, {2048, 7168}, {1408, 2048}};
    for (int f = 0; f < N_FORMATS; f++)
        for (int s = 0; s < 4; s++) {
            quantised q = shape_quantised(&formats[f], 2, shapes[s][0], shapes[s][1]);
            double codes = (double)(q.m.n * q.code_row_bytes);
            double scales = (double)(scale_rows(&q.m) * q.groups * q.scale_bytes);
            double zeros = q.m.quant.zeros ? (double)(q.m.n * q.groups) / 2 : 0;
            double share = (double)cuda_be->ops->matrix_bytes(cuda_be, &q.m) / 2 /
                           (codes + scales + zeros);
            if (!(share >= 1 && share < 1.05))
                fail_msg("%s, %lld x %lld: %g of the file's bytes", formats[f].name,
                         (long long)q.m.n, (long long)q.m.k, share);
        }
}

/* Both tables refuse a source, or neither, with the same words. */
static void expect_same_refusal(const pair *p, int part) {
    char text[512];
    sy_weight_source src = source_at(&p->q, part, 0);
    sy_status expected = cpu_be->ops->pack(cpu_be, &p->q.m, part, 0, p->q.m.n, &src);
    snprintf(text, sizeof text, "%s", expected == SY_OK ? "" : sy_last_error());
    sy_status found = cuda_be->ops->pack(cuda_be, &p->cuda, part, 0, p->cuda.n, &src);
    if (found != expected || (found != SY_OK && strcmp(text, sy_last_error()) != 0))
        fail_msg("%s: %s, \"%s\"; expected %s, \"%s\"", where, sy_status_name(found),
                 found == SY_OK ? "" : sy_last_error(), sy_status_name(expected), text);
}

static void what_the_cpu_refuses_is_refused_in_the_same_words(void **state) {
    (void)state;
    random_state = 42;
    for (int f = 0; f < N_FORMATS; f++)
        for (int turn = 0; turn < 6; turn++) {
            pair p;
            int parts = 1 + turn % 2, part = (int)random_in(0, parts - 1);
            describe(&formats[f], parts, 300, 200, 0);
            make_pairs(1, &formats[f], parts, 300, 200, &p);
            file_part *file = &p.q.part[part];
            int64_t n_scales = scale_rows(&p.q.m) * p.q.groups;
            for (int bad = 0; bad < 3; bad++) /* the first of several is named */
                memset(file->scales + random_in(0, n_scales - 1) * p.q.scale_bytes, 0xff,
                       turn == 5 ? 0 : (size_t)p.q.scale_bytes);
            if (file->zeros != NULL && turn > 2)
                file->zeros[random_in(0, 300 * p.q.groups - 1)] = (uint8_t)random_in(16, 255);
            expect_same_refusal(&p, part);
            static const float factors[] = {NAN, INFINITY, -INFINITY, 0, -0.0f, 1};
            p.q.m.quant.factor[part] = p.cuda.quant.factor[part] = factors[turn];
            expect_same_refusal(&p, part);
            free_pairs(1, &p);
            end_case();
        }
}

static void formats_that_no_kernel_knows_are_refused(void **state) {
    (void)state;
    static const struct {
        sy_dtype dtype;
        sy_quant quant;
    } bad[] = {
        {SY_F8_E4M3, {.scale = SY_F32, .group = 48, .outputs = 1}},
        {SY_F8_E4M3, {.scale = SY_F32, .group = 256, .outputs = 1}},
        {SY_F8_E4M3, {.scale = SY_F32, .group = -16, .outputs = 1}},
        {SY_I8, {.scale = SY_F32, .group = 128, .outputs = 64}},
        {SY_F8_E4M3, {.scale = SY_F32, .group = 128, .outputs = 1, .zeros = true}},
        {SY_F4, {.scale = SY_F64, .group = 32, .outputs = 1}},
        {SY_U4, {.scale = SY_U4, .group = 32, .outputs = 1}},
        {SY_F8_E5M2, {.scale = SY_F32, .group = 32, .outputs = 1}},
    };
    static const float data[64 * 32];
    const sy_ops *ops = cuda_be->ops;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sy_matrix m = {
            .dtype = bad[i].dtype, .parts = 1, .n = 64, .k = 32, .quant = bad[i].quant};
        sy_weight_source src = {bad[i].dtype, data, data, NULL};
        assert_true(ops->matrix_bytes(cuda_be, &m) == UINT64_MAX);
        assert_int_equal(ops->pack(cuda_be, &m, 0, 0, 64, &src), SY_ERR_UNSUPPORTED);
    }
    static const int64_t huge[][2] = {{(int64_t)1 << 40, (int64_t)1 << 40},
                                      {INT64_MAX, 64},
                                      {64, INT64_MAX},
                                      {INT64_MAX, 0},
                                      {INT64_MAX, INT64_MAX}};
    for (int f = 0; f < N_FORMATS; f++)
        for (int i = 0; i < 5; i++)
            for (int parts = 1; parts <= 2; parts++) {
                sy_matrix m = {.dtype = formats[f].dtype,
                               .parts = parts,
                               .n = huge[i][0],
                               .k = huge[i][1],
                               .quant = formats[f].quant};
                uint64_t bytes = ops->matrix_bytes(cuda_be, &m);
                if (bytes != UINT64_MAX && !(m.k == 0 && bytes % 64 == 0))
                    fail_msg("%s, %d: %llu bytes", formats[f].name, i,
                             (unsigned long long)bytes);
            }
    /* Another type than the matrix is declared with, and scales that are missing. */
    random_state = 43;
    pair p;
    make_pairs(1, &formats[13], 1, 64, 64, &p);
    sy_weight_source src = source_at(&p.q, 0, 0), other = src;
    other.dtype = SY_BF16;
    assert_int_equal(ops->pack(cuda_be, &p.cuda, 0, 0, 64, &other), SY_ERR_UNSUPPORTED);
    other = src;
    other.zeros = NULL;
    assert_int_equal(ops->pack(cuda_be, &p.cuda, 0, 0, 64, &other), SY_ERR_INTERNAL);
    other = src;
    other.scales = NULL;
    assert_int_equal(ops->pack(cuda_be, &p.cuda, 0, 0, 64, &other), SY_ERR_INTERNAL);
    free_pairs(1, &p);
    end_case();
}

static void quantised_types_are_stored_as_they_are(void **state) {
    (void)state;
    static const sy_dtype types[] = {SY_F8_E4M3, SY_I8, SY_F4, SY_U4};
    for (int i = 0; i < 4; i++)
        assert_int_equal(cuda_be->ops->stored_dtype(cuda_be, types[i]), types[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_at_every_place_has_its_value),
        cmocka_unit_test(codes_that_are_no_numbers_stay_none),
        cmocka_unit_test(embedded_rows_are_code_times_scale_with_factor),
        cmocka_unit_test(published_formats_at_every_row_count),
        cmocka_unit_test(every_kind_of_codes_scales_groups_and_factors),
        cmocka_unit_test(scales_that_are_denormal_are_zero),
        cmocka_unit_test(products_of_published_widths),
        cmocka_unit_test(experts_of_every_format),
        cmocka_unit_test(normed_rows_times_several_matrices),
        cmocka_unit_test(each_head_has_its_own_matrix),
        cmocka_unit_test(packing_from_slots_gives_the_same_bytes),
        cmocka_unit_test(packing_in_pieces_gives_the_same_bytes),
        cmocka_unit_test(memory_is_that_of_codes_and_scales),
        cmocka_unit_test(what_the_cpu_refuses_is_refused_in_the_same_words),
        cmocka_unit_test(formats_that_no_kernel_knows_are_refused),
        cmocka_unit_test(quantised_types_are_stored_as_they_are),
    };
    return cuda_main("quantised weights", tests, sizeof tests / sizeof *tests);
}
#else
int main(void) {
    printf("skipped: built without CUDA\n");
    return 77;
}
#endif
