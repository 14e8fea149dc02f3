/* The CUDA table's matrix steps against the CPU's and against float64: experts, dense FFN and
 * output projection.
 * timeout: 240 */
#include "tests/cuda_fixture.h"

static const sy_dtype file_dtypes[] = {SY_BF16, SY_F16, SY_F32};

/* ---- one product and an addition: attn_out ---- */

typedef struct out_case {
    sy_layer_spec spec;
    sy_layer_weights cuda, cpu;
    int64_t hidden, k;
    uint16_t *o; /* [MOST_ROWS, k] */
    float *x;    /* [MOST_ROWS, hidden] */
} out_case;

static void *run_attn_out(const void *arg, int64_t first, int64_t n) {
    const out_case *c = arg;
    void *o = device_copy(c->o + first * c->k, n * c->k * 2);
    output x = make_output(c->x + first * c->hidden, n * c->hidden * 4);
    begin_rows(n);
    MUST(cuda_be->ops->attn_out(cuda_be, &c->spec, &c->cuda, n, o, x.device, NULL));
    return read_output(x);
}

static void
check_attn_out(sy_dtype t, int heads, int kv_heads, int head_dim, int64_t hidden, bool biased) {
    int64_t k = (int64_t)heads * head_dim;
    snprintf(where, sizeof where,
             "attn_out, %s, %d heads, %d kv heads, D %d, hidden %lld, bias %d",
             sy_dtype_name(t), heads, kv_heads, head_dim, (long long)hidden, biased);
    reserve_widths((int)hidden, 1, heads, head_dim, 1);
    twin w = make_twin(t, 1, hidden, k);
    out_case c = {.spec.attn = {.heads = heads, .kv_heads = kv_heads, .head_dim = head_dim},
                  .cuda.o = w.cuda,
                  .cpu.o = w.cpu,
                  .hidden = hidden,
                  .k = k,
                  .o = random_bf16(MOST_ROWS * k, 2),
                  .x = random_floats(MOST_ROWS * hidden, 8)};
    float *bias = random_floats(hidden, biased ? 4 : 0);
    c.spec.attn.o_bias = biased;
    c.cpu.o_bias = biased ? bias : NULL;
    c.cuda.o_bias = biased ? device_copy(bias, hidden * 4) : NULL;
    float *found = run_attn_out(&c, 0, MOST_ROWS), *values = widen(c.o, MOST_ROWS * k);
    float *cpu = host_block(MOST_ROWS * hidden * 4);
    memcpy(cpu, c.x, (size_t)(MOST_ROWS * hidden * 4));
    MUST(cpu_be->ops->attn_out(cpu_be, &c.spec, &c.cpu, MOST_ROWS, c.o, cpu, NULL));
    for (int64_t r = 0; r < MOST_ROWS; r += hidden * k < 10000 ? 1 : 43)
        for (int64_t i = 0; i < hidden; i++) {
            int64_t at = r * hidden + i;
            sum64 s = dot64(w.value + i * k, values + r * k, k);
            double y = s.y + (double)bias[i] + (double)c.x[at];
            double last = 0x1p-23 * (fabs(y) + s.magnitude + fabs((double)bias[i]));
            expect_near("x", r, i, (double)found[at], (double)cpu[at], y,
                        cuda_bound(k, s.magnitude, t) + last, cpu_bound(k, s.magnitude) + last);
        }
    expect_rows_alone_equal(run_attn_out, &c, found, hidden * 4);
    free_twin(&w);
    end_case();
}

static void attn_out_adds_the_projection(void **state) {
    (void)state;
    random_state = 21;
    for (int t = 0; t < 3; t++) {
        check_attn_out(file_dtypes[t], 2, 1, 16, 17, true);
        check_attn_out(file_dtypes[t], 3, 3, 6, 65, false);
        check_attn_out(file_dtypes[t], 24, 8, 24, 63,
                       false); /* leaves of 288: a slice and two steps */
        check_attn_out(file_dtypes[t], 15, 3, 60, 16,
                       false); /* leaves of 300 share steps of 16 */
    }
    check_attn_out(SY_BF16, 32, 4, 128, 40, true);
    check_attn_out(SY_F16, 14, 14, 42, 33, false); /* leaves of 294, not of whole steps */
    check_attn_out(SY_BF16, 90, 90, 6, 20, false); /* 258, 258 and 24 */
}

/* ---- experts ---- */

enum { N_SLOTS = 5 };

typedef struct expert_case {
    sy_dtype dtype;
    sy_layer_spec spec;
    int64_t hidden, inter, first[N_SLOTS + 1];
    twin up[N_SLOTS], down[N_SLOTS];
    sy_matrix cuda_up[N_SLOTS], cuda_down[N_SLOTS], cpu_up[N_SLOTS], cpu_down[N_SLOTS];
    sy_layer_weights cuda, cpu;
    float *up_bias, *down_bias; /* [N_SLOTS][2][F], [N_SLOTS][H] */
    uint16_t *x, *h; /* [P, H]; [P, F], what the CPU made: input of down on both sides */
    float *y;        /* [P, H], of the CPU */
} expert_case;

/* clamped: and with biases, as gpt-oss has both. */
static void
make_experts(expert_case *c, sy_dtype t, int64_t hidden, int64_t inter, bool clamped) {
    memset(c, 0, sizeof *c);
    c->dtype = t;
    c->hidden = hidden;
    c->inter = inter;
    c->spec.ffn = (sy_ffn_spec){.kind = SY_FFN_MOE, .inter = (int)inter};
    make_twins(N_SLOTS, t, 2, inter, hidden, c->up);
    make_twins(N_SLOTS, t, 1, hidden, inter, c->down);
    for (int s = 0; s < N_SLOTS; s++) {
        c->cuda_up[s] = c->up[s].cuda;
        c->cpu_up[s] = c->up[s].cpu;
        c->cuda_down[s] = c->down[s].cuda;
        c->cpu_down[s] = c->down[s].cpu;
    }
    c->cuda =
        (sy_layer_weights){.n_slots = N_SLOTS, .gate_up = c->cuda_up, .down = c->cuda_down};
    c->cpu = (sy_layer_weights){.n_slots = N_SLOTS, .gate_up = c->cpu_up, .down = c->cpu_down};
    c->up_bias = random_floats(N_SLOTS * 2 * inter, clamped ? 2 : 0);
    c->down_bias = random_floats(N_SLOTS * hidden, clamped ? 2 : 0);
    if (!clamped) return;
    c->spec.ffn.act = SY_ACT_SWIGLU_CLAMPED;
    c->spec.ffn.act_alpha = 1.702f;
    c->spec.ffn.act_limit = 1.5f; /* low enough that many values meet it */
    c->spec.ffn.expert_bias = true;
    c->cpu.gate_up_bias = c->up_bias;
    c->cpu.down_bias = c->down_bias;
    c->cuda.gate_up_bias = device_copy(c->up_bias, N_SLOTS * 2 * inter * 4);
    c->cuda.down_bias = device_copy(c->down_bias, N_SLOTS * hidden * 4);
}

static void free_experts(expert_case *c) {
    for (int s = 0; s < N_SLOTS; s++) {
        free_twin(&c->up[s]);
        free_twin(&c->down[s]);
    }
    end_case();
}

/* h = g sigmoid(alpha g) u, whose derivative in g is at most 1.1 u; exp2 and division are good to
 * a few ulp of their argument. bias: [2][n]. */
static void expect_h(const char *what,
                     const sy_ffn_spec *ffn,
                     const twin *up,
                     const float *bias,
                     const float *x,
                     int64_t row,
                     const uint16_t *cuda,
                     const uint16_t *cpu) {
    int64_t k = up->cpu.k, n = up->cpu.n;
    for (int64_t i = 0; i < n; i++) {
        sum64 g = dot64(up->value + i * k, x, k), u = dot64(up->value + (n + i) * k, x, k);
        bool clamped = ffn->act == SY_ACT_SWIGLU_CLAMPED;
        double alpha = clamped ? (double)ffn->act_alpha : 1;
        double limit = clamped ? (double)ffn->act_limit : INFINITY;
        g.y += (double)bias[i];
        u.y += (double)bias[n + i];
        g.magnitude += fabs((double)bias[i]);
        u.magnitude += fabs((double)bias[n + i]);
        g.y = fmin(g.y, limit);
        u.y = fmax(fmin(u.y, limit), -limit) + (clamped ? 1 : 0);
        double silu = g.y / (1 + exp(-alpha * g.y)), y = silu * u.y, bound[2];
        for (int side = 0; side < 2; side++) {
            double eg = side == 0 ? cuda_bound(k, g.magnitude, up->file_dtype)
                                  : cpu_bound(k, g.magnitude);
            double eu = side == 0 ? cuda_bound(k, u.magnitude, up->file_dtype)
                                  : cpu_bound(k, u.magnitude);
            double arithmetic = (alpha * fabs(g.y) + 8) * 0x1p-22 * fabs(y);
            bound[side] = bf16_bound(y, 1.1 * eg * (fabs(u.y) + eu) + fabs(silu) * eu +
                                            arithmetic + 0x1p-120);
        }
        expect_near(what, row, i, (double)sy_f32_from_bf16(cuda[i]),
                    (double)sy_f32_from_bf16(cpu[i]), y, bound[0], bound[1]);
    }
}

static void expect_y(const twin *down,
                     const float *bias,
                     const float *h,
                     int64_t row,
                     const float *cuda,
                     const float *cpu) {
    int64_t k = down->cpu.k;
    for (int64_t i = 0; i < down->cpu.n; i++) {
        sum64 s = dot64(down->value + i * k, h, k);
        s.y += (double)bias[i];
        s.magnitude += fabs((double)bias[i]);
        expect_near("y", row, i, (double)cuda[i], (double)cpu[i], s.y,
                    cuda_bound(k, s.magnitude, down->file_dtype), cpu_bound(k, s.magnitude));
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
                              int64_t pair,
                              const uint16_t *h,
                              const float *y) {
    int64_t first[N_SLOTS + 1];
    for (int s = 0; s <= N_SLOTS; s++)
        first[s] = s > slot;
    sy_expert_rows one = {.n_slots = N_SLOTS, .n_pairs = 1, .first = first};
    one.x = device_copy(c->x + pair * c->hidden, c->hidden * 2);
    begin_rows(1);
    assert_equal_bytes(run_up(c, &one, 1), h + pair * c->inter, 1, c->inter * 2, "h alone");
    assert_equal_bytes(run_down(c, &one, c->h + pair * c->inter, 1), y + pair * c->hidden, 1,
                       c->hidden * 4, "y alone");
}

/* The same pairs as the device's own exchange describes them: rows gathered through `row`, and a
 * bound on their number in place of the number. */
static void expect_device_rows(const expert_case *c, const uint16_t *h, const float *y) {
    enum { SHOWN = 400 };
    int64_t n = c->first[N_SLOTS], bound = n + 29;
    int32_t first[N_SLOTS + 1], active[1 + N_SLOTS] = {0}, *row = host_block(bound * 4);
    uint16_t *shown = random_bf16(SHOWN * c->hidden, 2);
    uint16_t *h_padded = host_block(bound * c->inter * 2);
    assert_true(n < SHOWN / 2);
    for (int s = 0; s <= N_SLOTS; s++) {
        first[s] = (int32_t)c->first[s];
        if (s < N_SLOTS && c->first[s + 1] > c->first[s]) active[1 + active[0]++] = s;
    }
    memset(row, 0x7f, (size_t)bound * 4); /* behind the pairs: rows far outside */
    for (int64_t p = 0; p < n; p++) {
        row[p] = (int32_t)(p * 2 + (p & 1));
        memcpy(shown + row[p] * c->hidden, c->x + p * c->hidden, (size_t)c->hidden * 2);
    }
    memset(h_padded, POISON_BYTE, (size_t)(bound * c->inter * 2));
    memcpy(h_padded, c->h, (size_t)(n * c->inter * 2));
    sy_device_rows device = {.first = device_copy(first, sizeof first),
                             .active = device_copy(active, sizeof active),
                             .row = device_copy(row, bound * 4)};
    sy_expert_rows rows = {.n_slots = N_SLOTS,
                           .n_pairs = bound,
                           .x = device_copy(shown, SHOWN * c->hidden * 2),
                           .device = &device};
    begin_rows(1);
    assert_equal_bytes(run_up(c, &rows, bound), h, n, c->inter * 2, "h of gathered rows");
    assert_equal_bytes(run_down(c, &rows, h_padded, bound), y, n, c->hidden * 4,
                       "y of gathered rows");
}

static void check_rows_of_experts(expert_case *c, const int64_t *count) {
    for (int s = 0; s < N_SLOTS; s++)
        c->first[s + 1] = c->first[s] + count[s];
    int64_t n = c->first[N_SLOTS];
    snprintf(where, sizeof where,
             "experts, %s, act %d, hidden %lld, inter %lld, rows %d %d %d %d %d",
             sy_dtype_name(c->dtype), (int)c->spec.ffn.act, (long long)c->hidden,
             (long long)c->inter, (int)count[0], (int)count[1], (int)count[2], (int)count[3],
             (int)count[4]);
    /* Small enough that silu is not always 0 or g. */
    c->x = random_bf16(n * c->hidden, 0.5f);
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
    int64_t every = c->hidden * c->inter < 20000 ? 1 : 17;
    for (int s = 0; s < N_SLOTS; s++)
        for (int64_t p = c->first[s]; p < c->first[s + 1]; p += every) {
            expect_h("h", &c->spec.ffn, &c->up[s], c->up_bias + s * 2 * c->inter,
                     x_values + p * c->hidden, p, h + p * c->inter, c->h + p * c->inter);
            expect_y(&c->down[s], c->down_bias + s * c->hidden, h_values + p * c->inter, p,
                     y + p * c->hidden, c->y + p * c->hidden);
            if (p % 3 == 0) expect_pair_alone(c, s, p, h, y);
        }
    expect_device_rows(c, h, y);
}

static void check_experts(sy_dtype t, int64_t hidden, int64_t inter, bool clamped) {
    static const int64_t counts[][N_SLOTS] = {{1, 0, 2, 7, 1},
                                              {0, 0, 0, 0, 0},
                                              {8, 9, 16, 17, 33},
                                              {0, 65, 0, 64, 1},
                                              {0, 0, 0, 130, 0}};
    static expert_case c;
    bool wide = hidden * inter > 20000;
    reserve_widths((int)hidden, (int)inter, 1, 2, 1);
    make_experts(&c, t, hidden, inter, clamped);
    for (int i = 0; i < (wide ? 1 : 5); i++)
        check_rows_of_experts(&c, counts[i]);
    free_experts(&c);
}

static void experts_of_small_and_odd_widths(void **state) {
    (void)state;
    random_state = 22;
    for (int t = 0; t < 3; t++) {
        check_experts(file_dtypes[t], 17, 3, false);
        check_experts(file_dtypes[t], 63, 48, false);
        check_experts(file_dtypes[t], 65, 8, false);
    }
    check_experts(SY_BF16, 33, 257, false); /* down: two leaves, the second of one value */
    check_experts(SY_BF16, 272, 16, false); /* up: a slice and a step */
    check_experts(SY_F16, 1, 1, false);
}

static void experts_with_biases_and_a_clamped_activation(void **state) {
    (void)state;
    random_state = 25;
    for (int t = 0; t < 3; t++)
        check_experts(file_dtypes[t], 65, 27, true);
    check_experts(SY_BF16, 33, 257, true);
    check_experts(SY_BF16, 17, 3, true);
    check_experts(SY_BF16, 96, 720, true);
}

static void biases_that_are_missing_are_refused(void **state) {
    (void)state;
    const int64_t first[2] = {0, 1};
    sy_layer_spec spec = {.ffn = {.kind = SY_FFN_MOE, .expert_bias = true}};
    sy_layer_weights w = {.n_slots = 1};
    sy_expert_rows rows = {.n_slots = 1, .n_pairs = 1, .first = first};
    assert_int_equal(cuda_be->ops->experts_up(cuda_be, &spec, &w, &rows, NULL, NULL),
                     SY_ERR_INTERNAL);
    assert_int_equal(cuda_be->ops->experts_down(cuda_be, &spec, &w, &rows, NULL, NULL, NULL),
                     SY_ERR_INTERNAL);
}

static void experts_of_published_widths(void **state) {
    (void)state;
    random_state = 23;
    check_experts(SY_BF16, 2048, 64, false);
    check_experts(SY_BF16, 96, 768, false);
    check_experts(SY_F16, 1030, 48, false);
    check_experts(SY_F32, 48, 1408, false);
    check_experts(SY_BF16, 17, 4500, false); /* 18 leaves */
}

/* ---- dense FFN ---- */

typedef struct dense_case {
    sy_layer_spec spec;
    sy_layer_weights cuda, cpu;
    int64_t hidden, inter;
    uint16_t *x;
    uint16_t **h; /* of the last run */
} dense_case;

static void *run_dense(const void *arg, int64_t first, int64_t n) {
    const dense_case *c = arg;
    void *x = device_copy(c->x + first * c->hidden, n * c->hidden * 2);
    output h = make_output(NULL, n * c->inter * 2), y = make_output(NULL, n * c->hidden * 4);
    begin_rows(n);
    MUST(cuda_be->ops->dense_ffn(cuda_be, &c->spec, &c->cuda, n, x, h.device, y.device, NULL));
    *c->h = read_output(h);
    return read_output(y);
}

/* y is judged from the h that each table left in its scratch, h itself as the experts' is. */
static void check_dense(sy_dtype t, int64_t hidden, int64_t inter, bool clamped) {
    snprintf(where, sizeof where, "dense FFN, %s, hidden %lld, inter %lld", sy_dtype_name(t),
             (long long)hidden, (long long)inter);
    reserve_widths((int)hidden, (int)inter, 1, 2, 1);
    twin up = make_twin(t, 2, inter, hidden), down = make_twin(t, 1, hidden, inter);
    uint16_t *last_h = NULL;
    dense_case c = {.spec.ffn = {.kind = SY_FFN_DENSE, .inter = (int)inter},
                    .cuda = {.ffn_gate_up = up.cuda, .ffn_down = down.cuda},
                    .cpu = {.ffn_gate_up = up.cpu, .ffn_down = down.cpu},
                    .hidden = hidden,
                    .inter = inter,
                    .x = random_bf16(MOST_ROWS * hidden, 0.5f),
                    .h = &last_h};
    if (clamped) {
        c.spec.ffn.act = SY_ACT_SWIGLU_CLAMPED;
        c.spec.ffn.act_alpha = 1.702f;
        c.spec.ffn.act_limit = 1.5f;
    }
    float *no_bias = random_floats(2 * inter, 0);
    float *y = run_dense(&c, 0, MOST_ROWS), *values = widen(c.x, MOST_ROWS * hidden);
    uint16_t *h = last_h, *cpu_h = host_block(MOST_ROWS * inter * 2);
    float *cpu_y = host_block(MOST_ROWS * hidden * 4), *h_values = widen(h, MOST_ROWS * inter);
    MUST(cpu_be->ops->dense_ffn(cpu_be, &c.spec, &c.cpu, MOST_ROWS, c.x, cpu_h, cpu_y, NULL));
    float *cpu_values = widen(cpu_h, MOST_ROWS * inter);
    for (int64_t r = 0; r < MOST_ROWS; r += hidden * inter < 5000 ? 1 : 43) {
        expect_h("h", &c.spec.ffn, &up, no_bias, values + r * hidden, r, h + r * inter,
                 cpu_h + r * inter);
        for (int64_t i = 0; i < hidden; i++) {
            const float *w = down.value + i * inter;
            sum64 s = dot64(w, h_values + r * inter, inter);
            sum64 of_cpu = dot64(w, cpu_values + r * inter, inter);
            double d = (double)cpu_y[r * hidden + i] - of_cpu.y;
            expect_near("y", r, i, (double)y[r * hidden + i], s.y + d, s.y,
                        cuda_bound(inter, s.magnitude, t), cpu_bound(inter, of_cpu.magnitude));
        }
    }
    expect_rows_alone_equal(run_dense, &c, y, hidden * 4);
    free_twin(&up);
    free_twin(&down);
    end_case();
}

static void dense_ffn_is_gate_up_and_down(void **state) {
    (void)state;
    random_state = 24;
    for (int t = 0; t < 3; t++) {
        check_dense(file_dtypes[t], 17, 3, true);
        check_dense(file_dtypes[t], 65, 48, false);
    }
    check_dense(SY_BF16, 63, 530, false);
    check_dense(SY_BF16, 520, 24, true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attn_out_adds_the_projection),
        cmocka_unit_test(experts_of_small_and_odd_widths),
        cmocka_unit_test(experts_with_biases_and_a_clamped_activation),
        cmocka_unit_test(biases_that_are_missing_are_refused),
        cmocka_unit_test(experts_of_published_widths),
        cmocka_unit_test(dense_ffn_is_gate_up_and_down),
    };
    return cuda_main("matrix steps", tests, sizeof tests / sizeof *tests);
}
