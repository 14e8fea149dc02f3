/* What stands before and behind the core of latent attention: the CUDA table's attn_in and attn_out
 * against the CPU's by value, since roundings on the way may fall either way, and bit for bit over
 * batches, padding, passes and recordings.
 * timeout: 240 */
#include "kernels/device.h"
#include "tests/cuda_attention_fixture.h"

enum { MOST_HEADS = 32 };
static const int32_t no_ids[2048];

enum { ROWS = 100, MANY_ROWS = 530 /* more than a pass takes */ };

typedef struct block {
    world w;
    int64_t hidden;
    twin q_a, q, kv_a, o, k_up[MOST_HEADS], v_up[MOST_HEADS];
    sy_matrix cpu_k_up[MOST_HEADS], cpu_v_up[MOST_HEADS], cuda_k_up[MOST_HEADS],
        cuda_v_up[MOST_HEADS];
    sy_layer_weights cuda, cpu;
    sy_rope_table *rope, device_rope;
    int rows;
    float *x; /* [rows, hidden] */
} block;

static float *small_norm(int64_t n, float range) {
    float *x = random_norm(n);
    for (int64_t i = 0; i < n; i++)
        x[i] *= range;
    return x;
}

static void make_products(block *b, sy_dtype t, const sy_attn_spec *a) {
    const sy_mla_spec *m = &a->mla;
    int64_t q_k = m->q_rank > 0 ? m->q_rank : b->hidden;
    if (m->q_rank > 0) b->q_a = make_twin(t, 1, m->q_rank, b->hidden);
    b->q = make_twin(t, 1, (int64_t)a->heads * (m->nope + m->rope), q_k);
    b->kv_a = make_twin(t, 1, m->kv_rank + m->rope, b->hidden);
    b->o = make_twin(t, 1, b->hidden, (int64_t)a->heads * m->value);
    make_twins(a->heads, t, 1, m->kv_rank, m->nope, b->k_up);
    make_twins(a->heads, t, 1, m->value, m->kv_rank, b->v_up);
    for (int h = 0; h < a->heads; h++) {
        b->cpu_k_up[h] = b->k_up[h].cpu, b->cpu_v_up[h] = b->v_up[h].cpu;
        b->cuda_k_up[h] = b->k_up[h].cuda, b->cuda_v_up[h] = b->v_up[h].cuda;
    }
}

static void
make_block(block *b, sy_dtype t, const sy_attn_spec *a, int64_t hidden, int rows, bool o_bias) {
    const int64_t lengths[2] = {rows, rows + 30};
    const sy_mla_spec *m = &a->mla;
    memset(b, 0, sizeof *b);
    b->hidden = hidden;
    snprintf(
        where, sizeof where,
        "latent attention's %s products, hidden %lld, %d heads, %d to q, c %d, rope %d (%d "
        "turned, %d), nope %d, value %d, beta %g",
        sy_dtype_name(t), (long long)hidden, a->heads, m->q_rank, m->kv_rank, m->rope,
        a->rope.dim, (int)a->rope.layout, m->nope, m->value, (double)a->query_beta);
    b->w.spec = (sy_layer_spec){.attn = *a, .norm_eps = 1e-6f};
    b->w.n_sequences = 2;
    for (int s = 0; s < 2; s++)
        b->w.seq[s].length = lengths[s];
    reserve_attention(a, (int)hidden, rows, lengths[1]);
    make_products(b, t, a);
    /* F16 weights reach 65504; the norms keep what follows within its range. */
    float range = t == SY_F16 ? 1e-4f : 1;
    float *norm = small_norm(hidden, range), *bias = random_floats(hidden, o_bias ? 4 : 0);
    float *q_norm = small_norm(sy_max(m->q_rank, 1), range);
    float *kv_norm = small_norm(m->kv_rank, range);
    b->cpu = (sy_layer_weights){.attn_norm = norm, .q_a_norm = q_norm, .kv_a_norm = kv_norm};
    b->cpu.q_a = b->q_a.cpu, b->cpu.q = b->q.cpu, b->cpu.kv_a = b->kv_a.cpu;
    b->cpu.o = b->o.cpu, b->cpu.k_up = b->cpu_k_up, b->cpu.v_up = b->cpu_v_up;
    b->cuda = (sy_layer_weights){.attn_norm = device_copy(norm, hidden * 4),
                                 .q_a_norm = device_copy(q_norm, sy_max(m->q_rank, 1) * 4),
                                 .kv_a_norm = device_copy(kv_norm, m->kv_rank * 4)};
    b->cuda.q_a = b->q_a.cuda, b->cuda.q = b->q.cuda, b->cuda.kv_a = b->kv_a.cuda;
    b->cuda.o = b->o.cuda, b->cuda.k_up = b->cuda_k_up, b->cuda.v_up = b->cuda_v_up;
    if (o_bias) b->cpu.o_bias = bias, b->cuda.o_bias = device_copy(bias, hidden * 4);
    b->x = random_floats(rows * hidden, 20);
    MUST(sy_rope_table_create(lengths[1], &a->rope, &b->rope));
    b->device_rope = *b->rope;
    int64_t bytes = lengths[1] * b->rope->half * 4;
    b->device_rope.cos = device_copy(b->rope->cos, bytes);
    b->device_rope.sin = device_copy(b->rope->sin, bytes);
    deal_pages(&b->w);
}

static void free_block(block *b) {
    if (b->w.spec.attn.mla.q_rank > 0) free_twin(&b->q_a);
    free_twin(&b->q);
    free_twin(&b->kv_a);
    free_twin(&b->o);
    for (int h = 0; h < b->w.spec.attn.heads; h++) {
        free_twin(&b->k_up[h]);
        free_twin(&b->v_up[h]);
    }
    sy_rope_table_destroy(b->rope);
    end_case();
}

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
    sy_batch batch = batch_of(&b->w, p, n, span, no_ids), empty = {0};
    if (bound == 0) bound = batch.n_rows;
    float *padded = host_block(bound * b->hidden * 4);
    memset(padded, POISON_BYTE, (size_t)(bound * b->hidden * 4));
    if (batch.n_rows > 0)
        memcpy(padded, b->x + first * b->hidden, (size_t)(batch.n_rows * b->hidden * 4));
    void *x = device_copy(padded, bound * b->hidden * 4);
    output q = make_output(NULL, bound * sy_attn_q_width(&b->w.spec.attn) * 2);
    sy_batch made_for = recorded ? empty : batch;
    begin_step(recorded ? &empty : &batch, bound, 0, NULL);
    made_for.n_rows = (int)bound;
    if (recorded) MUST(device->record_begin(cuda_be));
    MUST(cuda_be->ops->attn_in(cuda_be, &b->w.spec, &b->cuda, &b->device_rope, &made_for, x,
                               q.device, &b->w.cuda, NULL));
    if (recorded) {
        MUST(device->record_end(cuda_be, &recording));
        begin_step(&batch, bound, 0, NULL);
        MUST(device->replay(cuda_be, recording));
        MUST(device->synchronize(cuda_be, NULL));
        device->record_free(cuda_be, recording);
    }
    return (stepped){read_output(q), read_output(b->w.cuda_pages)};
}

/* The latent of a position as a table's pages hold it. */
static uint16_t *latent_at(const block *b, const char *pages, bool cuda, int seq, int64_t t) {
    const sy_attn_spec *a = &b->w.spec.attn;
    int64_t key = sy_attn_cache_width(a), page = b->w.seq[seq].pages[t / SY_PAGE_TOKENS];
    int slot = (int)(t % SY_PAGE_TOKENS);
    const uint16_t *from =
        (const void *)(pages + page * (cuda ? b->w.cuda.page_bytes : b->w.cpu.page_bytes));
    uint16_t *out = host_block(key * 2);
    for (int64_t i = 0; i < key; i++)
        out[i] = from[cuda ? cuda_latent(a, slot, i) : cpu_key(a, 0, slot, (int)i)];
    return out;
}

/* Values that went through the same roundings: a rounding that falls the other way moves what
 * follows by a bf16 of one input of many, so nearly all are alike and none is far off. */
static int64_t n_alike, n_values;

static void
expect_close(const char *what, const uint16_t *cuda, const uint16_t *cpu, int64_t n) {
    double square = 0;
    for (int64_t i = 0; i < n; i++) {
        double v = (double)sy_f32_from_bf16(cpu[i]);
        square += v * v;
    }
    double rms = sqrt(square / (double)sy_max(n, 1));
    for (int64_t i = 0; i < n; i++) {
        double a = (double)sy_f32_from_bf16(cuda[i]), b = (double)sy_f32_from_bf16(cpu[i]);
        if (!(fabs(a - b) <= 0x1p-6 * (fabs(b) + rms)))
            fail_msg("%s: %s[%lld]: CUDA %.9g, CPU %.9g, rms %.3g", where, what, (long long)i,
                     a, b, rms);
        n_alike += cuda[i] == cpu[i];
        n_values++;
    }
}

static void check_in(block *b) {
    const sy_attn_spec *a = &b->w.spec.attn;
    static const piece p[3] = {{0, 60, 7}, {1, 0, 1}, {1, 30, 60}};
    int64_t key = sy_attn_cache_width(a), row = 0;
    stepped cuda = run_cuda(b, p, 3, 0, 0, false);
    sy_span span[8];
    sy_batch batch = batch_of(&b->w, p, 3, span, no_ids);
    uint16_t *q = host_block(batch.n_rows * a->heads * key * 2);
    MUST(cpu_be->ops->attn_in(cpu_be, &b->w.spec, &b->cpu, b->rope, &batch, b->x, q, &b->w.cpu,
                              NULL));
    n_alike = n_values = 0;
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < p[i].n; k++, row++) {
            for (int h = 0; h < a->heads; h++) {
                int64_t at = (row * a->heads + h) * key;
                expect_close("q of the latent", cuda.q + at, q + at, a->mla.kv_rank);
                expect_close("rotary q", cuda.q + at + a->mla.kv_rank, q + at + a->mla.kv_rank,
                             a->mla.rope);
            }
            uint16_t *on_cuda = latent_at(b, cuda.pages, true, p[i].seq, p[i].position + k);
            uint16_t *on_cpu = latent_at(b, b->w.cpu.data, false, p[i].seq, p[i].position + k);
            expect_close("latent", on_cuda, on_cpu, a->mla.kv_rank);
            expect_close("rotary key", on_cuda + a->mla.kv_rank, on_cpu + a->mla.kv_rank,
                         a->mla.rope);
        }
    if (n_alike * 10 < n_values * 9)
        fail_msg("%s: only %lld of %lld values are the CPU's", where, (long long)n_alike,
                 (long long)n_values);
}

/* Rows [first, first + n) of x at their positions, in a step of `bound` rows, as in `all`. */
static void
expect_part(block *b, const stepped *all, int64_t first, int n, int64_t bound, bool recorded) {
    int64_t q_width = sy_attn_q_width(&b->w.spec.attn), bytes = kv_bytes(&b->w, cuda_be);
    int64_t key_bytes = sy_attn_cache_width(&b->w.spec.attn) * 2;
    piece p = {0, first, n};
    stepped s = run_cuda(b, &p, n > 0, first, bound, recorded);
    char what[96];
    snprintf(what, sizeof what, "rows %lld + %d of a step of %lld%s", (long long)first, n,
             (long long)bound, recorded ? ", recorded" : "");
    assert_equal_bytes(s.q, all->q + first * q_width, n, q_width * 2, what);
    char *rest = host_block(bytes);
    memcpy(rest, s.pages, (size_t)bytes);
    for (int64_t t = first; t < first + n; t++) {
        assert_equal_bytes(latent_at(b, s.pages, true, 0, t),
                           latent_at(b, all->pages, true, 0, t), 1, key_bytes, what);
        int64_t page = b->w.seq[0].pages[t / SY_PAGE_TOKENS];
        char *at = rest + page * b->w.cuda.page_bytes;
        memset(at + cuda_latent(&b->w.spec.attn, (int)(t % SY_PAGE_TOKENS), 0) * 2, 0,
               (size_t)key_bytes);
    }
    for (int64_t i = 0; i < bytes; i++)
        if (rest[i] != 0)
            fail_msg("%s: %s: byte %lld was written for no row", where, what, (long long)i);
}

static void check_parts_of_steps(block *b) {
    static const int steps[][2] = {{0, 1}, {1, 1}, {1, 2}, {4, 4}, {5, 8}, {9, 33}, {64, 96}};
    stepped all = run_cuda(b, &(piece){0, 0, ROWS}, 1, 0, 0, false);
    for (int i = 0; i < 7; i++)
        for (int recorded = 0; recorded < 2; recorded++)
            expect_part(b, &all, random_in(0, ROWS - steps[i][0]), steps[i][0], steps[i][1],
                        recorded != 0);
}

typedef struct out_run {
    const block *b;
    const uint16_t *o; /* [rows, A*c] */
    const float *x;    /* [rows, hidden] */
} out_run;

static void *run_out(const void *arg, int64_t first, int64_t n) {
    const out_run *r = arg;
    int64_t width = sy_attn_o_width(&r->b->w.spec.attn), hidden = r->b->hidden;
    void *o = device_copy(r->o + first * width, n * width * 2);
    output x = make_output(r->x + first * hidden, n * hidden * 4);
    begin_step(&(sy_batch){.n_rows = (int)n, .ids = no_ids}, n, 0, NULL);
    MUST(cuda_be->ops->attn_out(cuda_be, &r->b->w.spec, &r->b->cuda, n, o, x.device, NULL));
    return read_output(x);
}

static void check_out(block *b) {
    const sy_attn_spec *a = &b->w.spec.attn;
    int64_t n = MOST_ROWS * b->hidden;
    reserve_attention(a, (int)b->hidden, MOST_ROWS, 64);
    out_run r = {b, random_bf16(MOST_ROWS * sy_attn_o_width(a), 0.01f), random_floats(n, 1)};
    float *cuda = run_out(&r, 0, MOST_ROWS), *cpu = host_block(n * 4);
    memcpy(cpu, r.x, (size_t)n * 4);
    MUST(cpu_be->ops->attn_out(cpu_be, &b->w.spec, &b->cpu, MOST_ROWS, r.o, cpu, NULL));
    double square = 0;
    for (int64_t i = 0; i < n; i++) {
        double moved = (double)cpu[i] - (double)r.x[i];
        square += moved * moved;
    }
    double rms = sqrt(square / (double)n);
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)cuda[i] - (double)cpu[i]) <= 0x1p-7 * rms))
            fail_msg("%s: x[%lld]: CUDA %.9g, CPU %.9g, rms %.3g", where, (long long)i,
                     (double)cuda[i], (double)cpu[i], rms);
    expect_rows_alone_equal(run_out, &r, cuda, b->hidden * 4);
}

static void check_block(sy_dtype t, const sy_attn_spec *a, int64_t hidden, bool parts) {
    static block b;
    make_block(&b, t, a, hidden, ROWS, parts);
    check_in(&b);
    if (parts) check_parts_of_steps(&b);
    check_out(&b);
    free_block(&b);
}

static void steps_before_and_behind_match_the_cpu_and_keep_their_bits(void **state) {
    (void)state;
    static const sy_dtype dtypes[] = {SY_BF16, SY_F16, SY_F32};
    random_state = 76;
    for (int i = 0; i < 3; i++) {
        sy_attn_spec a = latent_of(3, 9, 5, 2, 3, 6); /* all odd */
        check_block(dtypes[i], &a, 17, true);
        a = latent_of(4, 0, 16, 8, 8, 12);
        a.rope.layout = SY_ROPE_INTERLEAVED;
        check_block(dtypes[i], &a, 40, i == 0);
        a = latent_of(20, 90, 40, 16, 24, 30); /* q_rank beyond the hidden width */
        a.rope.layout = i == 1 ? SY_ROPE_INTERLEAVED : SY_ROPE_HALF;
        a.query_beta = 0.1f;
        a.query_positions = 16;
        check_block(dtypes[i], &a, 65, i == 1);
    }
    sy_attn_spec a = latent_of(5, 12, 24, 10, 6, 8);
    a.rope.dim = 4; /* the last four of ten */
    check_block(SY_BF16, &a, 33, true);
    a.rope.dim = 0;
    check_block(SY_BF16, &a, 33, false);
}

/* Rows on both sides of a pass's end have the bits that they have alone. */
static void passes_of_some_hundred_rows_give_the_same_bits(void **state) {
    (void)state;
    static block b;
    random_state = 78;
    sy_attn_spec a = latent_of(3, 9, 12, 2, 3, 6);
    make_block(&b, SY_BF16, &a, 17, MANY_ROWS, true);
    stepped all = run_cuda(&b, &(piece){0, 0, MANY_ROWS}, 1, 0, 0, false);
    expect_part(&b, &all, 500, 30, 0, false);
    expect_part(&b, &all, 0, 3, MANY_ROWS, true);
    out_run r = {&b, random_bf16(MANY_ROWS * sy_attn_o_width(&a), 1),
                 random_floats(MANY_ROWS * b.hidden, 1)};
    char *x = run_out(&r, 0, MANY_ROWS);
    int64_t row_bytes = b.hidden * 4;
    assert_equal_bytes(run_out(&r, 500, 30), x + 500 * row_bytes, 30, row_bytes, "x in passes");
    assert_equal_bytes(run_out(&r, 0, 9), x, 9, row_bytes, "x in passes");
    free_block(&b);
}

static void steps_of_published_sizes(void **state) {
    (void)state;
    random_state = 77;
    sy_attn_spec a = latent_of(16, 0, 512, 64, 128, 128); /* DeepSeek-V2-Lite, hidden cut */
    a.rope.layout = SY_ROPE_INTERLEAVED;
    check_block(SY_BF16, &a, 96, false);
    a = latent_of(32, 96, 256, 64, 64, 128); /* Mistral Small 4, cut */
    a.rope.layout = SY_ROPE_INTERLEAVED;
    a.query_beta = 0.1f;
    a.query_positions = 32;
    check_block(SY_BF16, &a, 64, false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_before_and_behind_match_the_cpu_and_keep_their_bits),
        cmocka_unit_test(passes_of_some_hundred_rows_give_the_same_bits),
        cmocka_unit_test(steps_of_published_sizes),
    };
    return cuda_main("latent attention's products", tests, sizeof tests / sizeof *tests);
}
