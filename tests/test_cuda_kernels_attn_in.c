/* The CUDA table's way from x to q and to the pages against the CPU's and against float64: norms,
 * clip, rotation, appending; batches, padding, and steps that were recorded.
 * timeout: 240 */
#include "kernels/device.h"
#include "tests/cuda_attention_fixture.h"

/* One attention block's weights in both tables. */
typedef struct block {
    world w;
    int64_t hidden, n_q, n_kv, context;
    twin q, k, v;
    sy_layer_weights cuda, cpu;
    float *norm, *q_norm, *k_norm;
    float *q_bias, *k_bias, *v_bias; /* zero without biases */
    sy_rope_table *rope, device_rope;
    float *x; /* [rows, hidden] */
    int32_t *ids;
} block;

enum { ROWS = 100 };

/* Sequences of `lengths` positions each, of which all are still to be computed. */
static block
make_block(sy_dtype t, const sy_attn_spec *a, int64_t hidden, int n, const int64_t *lengths) {
    block b = {.hidden = hidden};
    snprintf(where, sizeof where,
             "attn_in, %s, hidden %lld, %d heads, %d kv heads, D %d, rotary %d %d, norm %d, "
             "clip %g, "
             "bias %d, beta %g",
             sy_dtype_name(t), (long long)hidden, a->heads, a->kv_heads, a->head_dim,
             a->rope.dim, (int)a->rope.layout, (int)a->qk_norm, (double)a->qk_clip, a->qkv_bias,
             (double)a->query_beta);
    b.w.spec = (sy_layer_spec){.attn = *a, .norm_eps = 1e-6f};
    b.w.n_sequences = n;
    for (int s = 0; s < n; s++) {
        b.w.seq[s].length = lengths[s];
        b.context = sy_max(b.context, lengths[s]);
    }
    b.n_q = (int64_t)a->heads * a->head_dim, b.n_kv = (int64_t)a->kv_heads * a->head_dim;
    reserve_attention(a, (int)hidden, ROWS, b.context);
    b.q = make_twin(t, 1, b.n_q, hidden);
    b.k = make_twin(t, 1, b.n_kv, hidden);
    b.v = make_twin(t, 1, b.n_kv, hidden);
    b.norm = random_norm(hidden);
    for (int64_t i = 0; i < hidden && t == SY_F16; i++)
        b.norm[i] *= 1e-4f; /* those weights reach 65504 */
    b.q_norm = random_norm(b.n_q), b.k_norm = random_norm(b.n_kv);
    b.x = random_floats(ROWS * hidden, 20);
    b.cpu = (sy_layer_weights){.attn_norm = b.norm, .q_norm = b.q_norm, .k_norm = b.k_norm};
    b.cpu.q = b.q.cpu, b.cpu.k = b.k.cpu, b.cpu.v = b.v.cpu;
    b.cuda = (sy_layer_weights){.attn_norm = device_copy(b.norm, hidden * 4),
                                .q_norm = device_copy(b.q_norm, b.n_q * 4),
                                .k_norm = device_copy(b.k_norm, b.n_kv * 4)};
    b.q_bias = random_floats(b.n_q, a->qkv_bias ? 3 : 0);
    b.k_bias = random_floats(b.n_kv, a->qkv_bias ? 3 : 0);
    b.v_bias = random_floats(b.n_kv, a->qkv_bias ? 3 : 0);
    if (a->qkv_bias) {
        b.cpu.q_bias = b.q_bias, b.cpu.k_bias = b.k_bias, b.cpu.v_bias = b.v_bias;
        b.cuda.q_bias = device_copy(b.q_bias, b.n_q * 4);
        b.cuda.k_bias = device_copy(b.k_bias, b.n_kv * 4);
        b.cuda.v_bias = device_copy(b.v_bias, b.n_kv * 4);
    }
    b.cuda.q = b.q.cuda, b.cuda.k = b.k.cuda, b.cuda.v = b.v.cuda;
    MUST(sy_rope_table_create(b.context, &a->rope, &b.rope));
    b.device_rope = *b.rope;
    int64_t bytes = b.context * b.rope->half * 4;
    b.device_rope.cos = device_copy(b.rope->cos, bytes);
    b.device_rope.sin = device_copy(b.rope->sin, bytes);
    b.ids = host_block(ROWS * 4);
    memset(b.ids, 0, ROWS * 4);
    deal_pages(&b.w);
    return b;
}

static void free_block(block *b) {
    free_twin(&b->q);
    free_twin(&b->k);
    free_twin(&b->v);
    sy_rope_table_destroy(b->rope);
    end_case();
}

/* What a step leaves: q of its rows and all pages. */
typedef struct stepped {
    uint16_t *q;
    char *pages;
} stepped;

/* The pieces' rows of x begin at `first`. The step is made for `bound` rows (0: theirs). */
static stepped
run_cuda(block *b, const piece *p, int n, int64_t first, int64_t bound, bool recorded) {
    sy_span span[8];
    sy_recording *recording = NULL;
    const sy_device_ops *device = cuda_be->ops->device;
    make_pages(&b->w, 0);
    send_pages(&b->w);
    sy_batch batch = batch_of(&b->w, p, n, span, b->ids);
    if (bound == 0) bound = batch.n_rows;
    float *padded = host_block(bound * b->hidden * 4);
    memset(padded, POISON_BYTE, (size_t)(bound * b->hidden * 4));
    if (batch.n_rows > 0)
        memcpy(padded, b->x + first * b->hidden, (size_t)(batch.n_rows * b->hidden * 4));
    void *x = device_copy(padded, bound * b->hidden * 4);
    output q = make_output(NULL, bound * b->n_q * 2);
    sy_batch empty = {0};
    begin_step(recorded ? &empty : &batch, bound, 0, NULL);
    sy_batch made_for = recorded ? empty : batch;
    made_for.n_rows = (int)bound;
    if (recorded) MUST(device->record_begin(cuda_be));
    MUST(cuda_be->ops->attn_in(cuda_be, &b->w.spec, &b->cuda, &b->device_rope, &made_for, x,
                               q.device, &b->w.cuda, NULL));
    if (recorded) {
        MUST(device->record_end(cuda_be, &recording));
        assert_true(device->record_size(recording).nodes >= 1);
        begin_step(&batch, bound, 0, NULL);
        MUST(device->replay(cuda_be, recording));
        MUST(device->synchronize(cuda_be, NULL));
        device->record_free(cuda_be, recording);
    }
    return (stepped){read_output(q), read_output(b->w.cuda_pages)};
}

static stepped run_cpu(block *b, const piece *p, int n, int64_t first) {
    sy_span span[8];
    sy_batch batch = batch_of(&b->w, p, n, span, b->ids);
    stepped s = {host_block(batch.n_rows * b->n_q * 2), b->w.cpu.data};
    MUST(cpu_be->ops->attn_in(cpu_be, &b->w.spec, &b->cpu, b->rope, &batch,
                              b->x + first * b->hidden, s.q, &b->w.cpu, NULL));
    return s;
}

/* A projected row in float64 with the error of each table. */
enum { MOST_WIDTH = 4096 };
typedef struct row64 {
    int64_t n;
    double y[MOST_WIDTH], error[2][MOST_WIDTH];
} row64;

static void
project64(const twin *m, const float *bias, const float *xn, const double *slack, row64 *r) {
    r->n = m->cpu.n;
    for (int64_t i = 0; i < r->n; i++) {
        const float *w = m->value + i * m->cpu.k;
        sum64 s = dot64(w, xn, m->cpu.k);
        double either = slack64(w, slack, m->cpu.k);
        r->y[i] = s.y + (double)bias[i];
        either += 0x1p-23 * (s.magnitude + fabs((double)bias[i]));
        r->error[0][i] = cuda_bound(m->cpu.k, s.magnitude, m->file_dtype) + either;
        r->error[1][i] = cpu_bound(m->cpu.k, s.magnitude) + either;
    }
}

/* The norm of n values whose own errors are known; its arithmetic is good to 2^-20. */
static void norm_row64(row64 *r, int64_t at, int64_t n, const float *w, double eps) {
    double sum = 0, moved[2] = {0, 0};
    for (int64_t i = at; i < at + n; i++) {
        sum += r->y[i] * r->y[i];
        for (int side = 0; side < 2; side++)
            moved[side] += (fabs(r->y[i]) + r->error[side][i]) * r->error[side][i];
    }
    double square = sum / (double)n + eps, inverse = 1 / sqrt(square);
    for (int64_t i = at; i < at + n; i++) {
        double scale = inverse * fabs((double)w[i - at]);
        for (int side = 0; side < 2; side++) {
            double relative = 1.01 * moved[side] / (double)n / square + 0x1p-20;
            r->error[side][i] =
                scale * (r->error[side][i] + (fabs(r->y[i]) + r->error[side][i]) * relative);
        }
        r->y[i] *= inverse * (double)w[i - at];
    }
}

static void clip_row64(row64 *r, double clip) {
    for (int64_t i = 0; i < r->n && clip > 0; i++)
        r->y[i] = fmax(-clip, fmin(clip, r->y[i]));
}

static void rotate64(row64 *r,
                     int64_t at,
                     const float *cosine,
                     const float *sine,
                     int half,
                     sy_rope_layout layout) {
    for (int pair = 0; pair < half; pair++) {
        double c = (double)cosine[pair], s = (double)sine[pair];
        bool near = layout == SY_ROPE_INTERLEAVED;
        int64_t i = at + (near ? 2 * pair : pair), other = near ? i + 1 : i + half;
        double low = r->y[i], high = r->y[other];
        r->y[i] = low * c - high * s;
        r->y[other] = high * c + low * s;
        for (int side = 0; side < 2; side++) {
            double e0 = r->error[side][i], e1 = r->error[side][other];
            double rounding = 0x1p-22 * (fabs(low) + fabs(high));
            r->error[side][i] = fabs(c) * e0 + fabs(s) * e1 + rounding;
            r->error[side][other] = fabs(c) * e1 + fabs(s) * e0 + rounding;
        }
    }
}

static void finish64(const block *b, row64 *r, const float *norm, int64_t position) {
    const sy_attn_spec *a = &b->w.spec.attn;
    double eps = (double)b->w.spec.norm_eps;
    int half = a->rope.dim / 2;
    if (a->qk_norm == SY_QK_NORM_WHOLE) norm_row64(r, 0, r->n, norm, eps);
    for (int64_t at = 0; at < r->n && a->qk_norm == SY_QK_NORM_PER_HEAD; at += a->head_dim)
        norm_row64(r, at, a->head_dim, norm, eps);
    clip_row64(r, (double)a->qk_clip);
    for (int64_t at = 0; at < r->n; at += a->head_dim)
        rotate64(r, at, b->rope->cos + position * half, b->rope->sin + position * half, half,
                 a->rope.layout);
}

/* The logarithm of a table is good to a few ulp. */
static void warm64(const sy_attn_spec *a, row64 *r, int64_t position) {
    if (a->query_beta == 0) return;
    double scale = 1 + (double)a->query_beta *
                           log(1 + floor((double)position / (double)a->query_positions));
    for (int64_t i = 0; i < r->n; i++) {
        r->y[i] *= scale;
        for (int side = 0; side < 2; side++)
            r->error[side][i] = scale * r->error[side][i] + 0x1p-20 * fabs(r->y[i]);
    }
}

static void expect_rounded(const row64 *r,
                           int64_t i,
                           const char *what,
                           int64_t row,
                           uint16_t cuda,
                           uint16_t cpu) {
    expect_near(what, row, i, (double)sy_f32_from_bf16(cuda), (double)sy_f32_from_bf16(cpu),
                r->y[i], bf16_bound(r->y[i], r->error[0][i]),
                bf16_bound(r->y[i], r->error[1][i]));
}

/* One row at its position against float64. */
static void check_row(const block *b,
                      int seq,
                      int64_t position,
                      int64_t row,
                      const stepped *cuda,
                      const stepped *cpu) {
    static row64 r;
    const sy_attn_spec *a = &b->w.spec.attn;
    float *xn = host_block(b->hidden * 4);
    double *slack = host_block(b->hidden * 8);
    int64_t page = b->w.seq[seq].pages[position / 64];
    int slot = (int)(position % 64), d = a->head_dim;
    const uint16_t *on_cuda = (void *)(cuda->pages + page * b->w.cuda.page_bytes);
    const uint16_t *on_cpu = (void *)(cpu->pages + page * b->w.cpu.page_bytes);
    norm64(b->x + row * b->hidden, b->norm, (double)b->w.spec.norm_eps, b->hidden, xn, slack);
    project64(&b->q, b->q_bias, xn, slack, &r);
    finish64(b, &r, b->q_norm, position);
    warm64(a, &r, position);
    for (int64_t i = 0; i < b->n_q; i++)
        expect_rounded(&r, i, "q", row, cuda->q[row * b->n_q + i], cpu->q[row * b->n_q + i]);
    project64(&b->k, b->k_bias, xn, slack, &r);
    finish64(b, &r, b->k_norm, position);
    for (int i = 0; i < b->n_kv; i++)
        expect_rounded(&r, i, "k", row, on_cuda[cuda_key(a, i / d, slot, i % d)],
                       on_cpu[cpu_key(a, i / d, slot, i % d)]);
    project64(&b->v, b->v_bias, xn, slack, &r);
    clip_row64(&r, (double)a->qk_clip);
    for (int i = 0; i < b->n_kv; i++)
        expect_rounded(&r, i, "v", row, on_cuda[cuda_value(a, i / d, slot, i % d)],
                       on_cpu[cpu_value(a, i / d, slot, i % d)]);
}

/* Pages after a step hold the rows of the pieces and are otherwise zero, as they were. */
static void
expect_only_these_positions(const block *b, const piece *p, int n, const stepped *s) {
    const sy_attn_spec *a = &b->w.spec.attn;
    int64_t bytes = kv_bytes(&b->w, cuda_be);
    char *rest = host_block(bytes);
    memcpy(rest, s->pages, (size_t)bytes);
    for (int i = 0; i < n; i++)
        for (int64_t t = p[i].position; t < p[i].position + p[i].n; t++) {
            int64_t page = b->w.seq[p[i].seq].pages[t / 64];
            uint16_t *at = (void *)(rest + page * b->w.cuda.page_bytes);
            for (int h = 0; h < a->kv_heads; h++)
                for (int d = 0; d < a->head_dim; d++)
                    at[cuda_key(a, h, (int)(t % 64), d)] =
                        at[cuda_value(a, h, (int)(t % 64), d)] = 0;
        }
    for (int64_t i = 0; i < bytes; i++)
        if (rest[i] != 0)
            fail_msg("%s: byte %lld of page %lld was written for no row", where,
                     (long long)(i % b->w.cuda.page_bytes),
                     (long long)(i / b->w.cuda.page_bytes));
}

static void check_attn_in(sy_dtype t, const sy_attn_spec *a, int64_t hidden) {
    static const int64_t lengths[] = {70, 90};
    block b = make_block(t, a, hidden, 2, lengths);
    piece p[3] = {{0, 60, 7}, {1, 0, 1}, {1, 30, 60}};
    stepped cuda = run_cuda(&b, p, 3, 0, 0, false), cpu = run_cpu(&b, p, 3, 0);
    int64_t row = 0;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < p[i].n; k++, row++)
            if (i < 2 || k % 19 == 0)
                check_row(&b, p[i].seq, p[i].position + k, row, &cuda, &cpu);
    expect_only_these_positions(&b, p, 3, &cuda);
    free_block(&b);
}

static void q_k_and_v_match_float64_and_the_cpu(void **state) {
    (void)state;
    static const sy_dtype dtypes[] = {SY_BF16, SY_F16, SY_F32};
    random_state = 51;
    for (int t = 0; t < 3; t++)
        for (int norm = SY_QK_NORM_NONE; norm <= SY_QK_NORM_WHOLE; norm++) {
            sy_attn_spec a = attention_of(6, 2, 24);
            a.qk_norm = (sy_qk_norm)norm;
            check_attn_in(dtypes[t], &a, 17);
            a.qk_clip = 1.25f;
            a.rope.dim = 16;
            check_attn_in(dtypes[t], &a, 63);
            a = attention_of(8, 1, 64);
            a.qk_norm = (sy_qk_norm)norm;
            check_attn_in(dtypes[t], &a, 65);
        }
    sy_attn_spec a = attention_of(32, 4, 128); /* Qwen3-30B-A3B, hidden cut */
    a.qk_norm = SY_QK_NORM_PER_HEAD;
    check_attn_in(SY_BF16, &a, 96);
    a = attention_of(16, 16, 128); /* OLMoE */
    a.qk_norm = SY_QK_NORM_WHOLE;
    check_attn_in(SY_BF16, &a, 40);
    a = attention_of(4, 1, 128);
    a.qk_norm = SY_QK_NORM_PER_HEAD;
    check_attn_in(SY_BF16, &a, 2048);
    a = attention_of(2, 2, 10);
    a.rope.dim = 0;
    check_attn_in(SY_BF16, &a, 300);
}

static void biases_interleaved_pairs_and_temperature_match_float64_and_the_cpu(void **state) {
    (void)state;
    random_state = 55;
    for (int norm = SY_QK_NORM_NONE; norm <= SY_QK_NORM_WHOLE; norm++)
        for (int layout = SY_ROPE_HALF; layout <= SY_ROPE_INTERLEAVED; layout++) {
            sy_attn_spec a = attention_of(6, 2, 24);
            a.qk_norm = (sy_qk_norm)norm;
            a.rope.layout = (sy_rope_layout)layout;
            a.qkv_bias = true;
            check_attn_in(SY_BF16, &a, 63);
            a.rope.dim = 10; /* of 24 */
            a.qk_clip = 1.25f;
            a.query_beta = 0.4f;
            a.query_positions = 8;
            check_attn_in(SY_F16, &a, 65);
            a = attention_of(8, 1, 128);
            a.rope.dim = 64; /* half of it: GLM-4.5 */
            a.rope.layout = (sy_rope_layout)layout;
            a.qkv_bias = norm != SY_QK_NORM_WHOLE;
            a.query_beta = 0.1f;
            a.query_positions = 1;
            check_attn_in(SY_BF16, &a, 40);
        }
    sy_attn_spec a = attention_of(64, 8, 64); /* gpt-oss, hidden cut */
    a.qkv_bias = true;
    check_attn_in(SY_BF16, &a, 90);
    a = attention_of(2, 1, 16);
    a.rope.dim = 2;
    a.query_beta = 0.1f; /* no position reaches the second span */
    a.query_positions = INT64_C(1) << 40;
    check_attn_in(SY_BF16, &a, 30);
}

/* The keys and values of one position, one below the other. */
static uint16_t *position_of(const block *b, const stepped *s, int seq, int64_t t) {
    const sy_attn_spec *a = &b->w.spec.attn;
    uint16_t *kv = host_block(2 * b->n_kv * 2);
    const uint16_t *page =
        (void *)(s->pages + b->w.seq[seq].pages[t / 64] * b->w.cuda.page_bytes);
    for (int64_t i = 0; i < b->n_kv; i++) {
        int h = (int)(i / a->head_dim), d = (int)(i % a->head_dim);
        kv[i] = page[cuda_key(a, h, (int)(t % 64), d)];
        kv[b->n_kv + i] = page[cuda_value(a, h, (int)(t % 64), d)];
    }
    return kv;
}

/* Rows [first, first + n) of x at their positions, in a step of `bound` rows, as in `all`. */
static void
expect_part(block *b, const stepped *all, int64_t first, int n, int64_t bound, bool recorded) {
    piece p = {0, first, n};
    stepped s = run_cuda(b, &p, n > 0, first, bound, recorded);
    char what[96];
    snprintf(what, sizeof what, "rows %lld + %d of a step of %lld%s", (long long)first, n,
             (long long)bound, recorded ? ", recorded" : "");
    assert_equal_bytes(s.q, all->q + first * b->n_q, n, b->n_q * 2, what);
    for (int64_t t = first; t < first + n; t++)
        assert_equal_bytes(position_of(b, &s, 0, t), position_of(b, all, 0, t), 1,
                           2 * b->n_kv * 2, what);
    expect_only_these_positions(b, &p, n > 0, &s);
}

static void rows_keep_their_bits_in_every_step(void **state) {
    (void)state;
    static const int64_t length = ROWS;
    static const int counts[] = {1, 2, 4, 5, 8, 9, 17, 32, 33, 65};
    static const struct {
        int heads, kv_heads, d;
        int64_t hidden;
    } shapes[] = {{6, 2, 24, 63}, {4, 1, 64, 300}, {2, 2, 16, 520}};
    random_state = 52;
    for (int i = 0; i < 3; i++) {
        sy_attn_spec a = attention_of(shapes[i].heads, shapes[i].kv_heads, shapes[i].d);
        a.qk_norm = (sy_qk_norm)(i % 3);
        a.qkv_bias = i != 0;
        a.rope.layout = i == 1 ? SY_ROPE_INTERLEAVED : SY_ROPE_HALF;
        a.query_beta = 0.2f;
        a.query_positions = 16;
        block b = make_block(i == 1 ? SY_F16 : SY_BF16, &a, shapes[i].hidden, 1, &length);
        stepped all = run_cuda(&b, &(piece){0, 0, ROWS}, 1, 0, 0, false);
        for (int c = 0; c < 10; c++)
            expect_part(&b, &all, random_in(0, ROWS - counts[c]), counts[c], 0, false);
        expect_part(&b, &all, 63, 1, 0, false);
        expect_part(&b, &all, 64, 1, 0, false);
        free_block(&b);
    }
}

/* Padding writes to no page and changes no other row; recorded steps are made without knowing
 * which rows will be there. */
static void padded_and_recorded_steps_give_the_same_bits(void **state) {
    (void)state;
    static const int64_t length = ROWS;
    static const int steps[][2] = {{0, 1}, {1, 1}, {1, 2}, {3, 8}, {8, 16}, {9, 64}, {64, 96}};
    random_state = 53;
    sy_attn_spec a = attention_of(6, 2, 24);
    a.qk_norm = SY_QK_NORM_PER_HEAD;
    a.qkv_bias = true;
    a.query_beta = 0.2f;
    a.query_positions = 16;
    block b = make_block(SY_BF16, &a, 65, 1, &length);
    stepped all = run_cuda(&b, &(piece){0, 0, ROWS}, 1, 0, 0, false);
    for (int i = 0; i < 7; i++)
        for (int recorded = 0; recorded < 2; recorded++)
            expect_part(&b, &all, random_in(0, ROWS - steps[i][0]), steps[i][0], steps[i][1],
                        recorded != 0);
    free_block(&b);
}

/* Beside layers with latents a step of this kind takes its rows in several passes. */
static void passes_of_few_rows_give_the_same_bits(void **state) {
    (void)state;
    static const int64_t length = ROWS;
    random_state = 56;
    sy_attn_spec a = attention_of(6, 2, 24);
    block b = make_block(SY_BF16, &a, 65, 1, &length);
    stepped all = run_cuda(&b, &(piece){0, 0, ROWS}, 1, 0, 0, false);
    a.mla = (sy_mla_spec){.kv_rank = 8, .nope = 4, .rope = 2, .value = 4};
    reserve_attention(&a, 65, ROWS, length);
    expect_part(&b, &all, 0, ROWS, 0, false);
    expect_part(&b, &all, 3, 70, 90, true);
    free_block(&b);
}

static void an_empty_step_writes_nothing(void **state) {
    (void)state;
    static const int64_t length = 10;
    random_state = 54;
    sy_attn_spec a = attention_of(2, 1, 16);
    block b = make_block(SY_BF16, &a, 17, 1, &length);
    stepped s = run_cuda(&b, NULL, 0, 0, 0, false);
    expect_only_these_positions(&b, NULL, 0, &s);
    free_block(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(q_k_and_v_match_float64_and_the_cpu),
        cmocka_unit_test(biases_interleaved_pairs_and_temperature_match_float64_and_the_cpu),
        cmocka_unit_test(rows_keep_their_bits_in_every_step),
        cmocka_unit_test(padded_and_recorded_steps_give_the_same_bits),
        cmocka_unit_test(passes_of_few_rows_give_the_same_bits),
        cmocka_unit_test(an_empty_step_writes_nothing),
    };
    return cuda_main("attention input", tests, sizeof tests / sizeof *tests);
}
