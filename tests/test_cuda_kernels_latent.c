/* The CUDA table's latent attention against the CPU's: its core also against float64, and bit for
 * bit over decode, chunks, batches, padding, recordings and what pages held before; what stands
 * before and behind it by value, since roundings on the way may fall either way.
 * timeout: 240 */
#include "kernels/device.h"
#include "tests/cuda_attention_fixture.h"

enum { MOST_PIECES = 40, MOST_HEADS = 128 };
static const int32_t no_ids[2048];

static sy_attn_spec latent_of(int heads, int q_rank, int c, int rope, int nope, int value) {
    return (sy_attn_spec){.kind = SY_ATTN_MLA,
                          .heads = heads,
                          .kv_heads = 1,
                          .head_dim = nope + rope,
                          .mla = {q_rank, c, nope, rope, value, 1e-6f},
                          .rope = {.dim = rope, .theta = 10000, .attention_factor = 1},
                          .softmax_scale = 1.0f / sqrtf((float)(nope + rope))};
}

/* Where value d of a token's latent lies in a page of the CUDA table. */
static int64_t cuda_latent(const sy_attn_spec *a, int slot, int64_t d) {
    return slot * sy_round_up(sy_attn_cache_width(a), 8) + d;
}

/* ---- the core ---- */

/* Random q and latents at every position, in the pages of both tables. Scores are those of q and
 * keys of about 1, whatever their width. */
static void fill_latents(world *w, uint16_t fill) {
    const sy_attn_spec *a = &w->spec.attn;
    int64_t key = sy_attn_cache_width(a), stride = cuda_latent(a, 1, 0);
    deal_pages(w);
    make_pages(w, fill);
    for (int s = 0; s < w->n_sequences; s++) {
        sequence *q = &w->seq[s];
        q->q = random_bf16(q->length * a->heads * key, 2);
        q->k = widen(random_bf16(q->length * key, 2), q->length * key);
        for (int64_t t = 0; t < q->length; t++) {
            int slot = (int)(t % SY_PAGE_TOKENS);
            int64_t page = q->pages[t / SY_PAGE_TOKENS];
            uint16_t *cpu = (void *)((char *)w->cpu.data + page * w->cpu.page_bytes);
            uint16_t *cuda = (void *)((char *)w->cuda.data + page * w->cuda.page_bytes);
            for (int64_t i = 0; i < stride; i++) {
                uint16_t k = i < key ? sy_bf16_from_f32(q->k[t * key + i]) : 0;
                if (i < sy_round_up(key, 2)) cpu[cpu_key(a, 0, slot, (int)i)] = k;
                cuda[cuda_latent(a, slot, i)] = k;
            }
        }
    }
    send_pages(w);
}

static uint16_t *gather_q(const world *w, const piece *p, int n, int64_t *rows) {
    int64_t width = sy_attn_q_width(&w->spec.attn), at = 0;
    for (int i = 0; i < n; i++)
        at += p[i].n;
    *rows = at;
    uint16_t *q = host_block(at * width * 2);
    at = 0;
    for (int i = 0; i < n; i++) {
        memcpy(q + at * width, w->seq[p[i].seq].q + p[i].position * width,
               (size_t)(p[i].n * width * 2));
        at += p[i].n;
    }
    return q;
}

/* o of some pieces in one step of `bound` rows (0: as many as there are). */
static uint16_t *attend(const world *w, const piece *p, int n, int64_t bound) {
    const sy_attn_spec *a = &w->spec.attn;
    int64_t rows, q_bytes = sy_attn_q_width(a) * 2;
    const uint16_t *q = gather_q(w, p, n, &rows);
    sy_span span[MOST_PIECES];
    sy_batch b = batch_of(w, p, n, span, no_ids);
    if (bound == 0) bound = rows;
    char *padded = host_block(bound * q_bytes);
    memset(padded, POISON_BYTE, (size_t)(bound * q_bytes));
    if (rows > 0) memcpy(padded, q, (size_t)(rows * q_bytes));
    void *device_q = device_copy(padded, bound * q_bytes);
    const float *sinks = w->sinks == NULL ? NULL : device_copy(w->sinks, a->heads * 4);
    output o = make_output(NULL, bound * sy_attn_o_width(a) * 2);
    begin_step(&b, bound, 0, NULL);
    b.n_rows = (int)bound;
    MUST(
        cuda_be->ops->attend(cuda_be, &w->spec, &b, device_q, &w->cuda, sinks, o.device, NULL));
    return read_output(o);
}

static uint16_t *attend_on_cpu(const world *w, const piece *p, int n) {
    int64_t rows;
    const uint16_t *q = gather_q(w, p, n, &rows);
    uint16_t *o = host_block(rows * sy_attn_o_width(&w->spec.attn) * 2);
    sy_span span[MOST_PIECES];
    sy_batch b = batch_of(w, p, n, span, no_ids);
    MUST(cpu_be->ops->attend(cpu_be, &w->spec, &b, q, &w->cpu, w->sinks, o, NULL));
    return o;
}

typedef struct shape {
    int heads, c, rope;
    int64_t length, window;
    bool sinks;
} shape;

static world
make_world(const shape *s, int n_sequences, const int64_t *lengths, uint16_t fill) {
    world w = {.spec.attn = latent_of(s->heads, 0, s->c, s->rope, 8, 8)};
    int64_t longest = 0;
    w.n_sequences = n_sequences;
    w.spec.attn.window = s->window;
    w.spec.attn.sinks = s->sinks;
    w.spec.attn.softmax_scale = 0.7f / sqrtf((float)(s->c + s->rope));
    for (int i = 0; i < n_sequences; i++) {
        w.seq[i].length = lengths[i];
        longest = sy_max(longest, lengths[i]);
    }
    reserve_attention(&w.spec.attn, 64, sy_min(sy_round_up(longest, 64), 1400),
                      sy_round_up(longest, 64));
    snprintf(where, sizeof where,
             "latent attention, %d heads, c %d + %d, %lld tokens, window %lld, sinks %d",
             s->heads, s->c, s->rope, (long long)longest, (long long)s->window, s->sinks);
    if (s->sinks) w.sinks = random_floats(s->heads, 6);
    fill_latents(&w, fill);
    return w;
}

static void check_attend(const shape *s, int n) {
    world w = make_world(s, 1, &s->length, 0x7f7f);
    piece p = {0, s->length - n, n};
    uint16_t *cuda = attend(&w, &p, 1, 0), *cpu = attend_on_cpu(&w, &p, 1);
    for (int t = 0; t < n; t += n < 10 || t + 9 >= n ? 1 : 9)
        for (int h = 0; h<s->heads; h += s->heads> 20 && h + 7 < s->heads ? 7 : 1)
            expect_attended(&w, 0, s->length - n + t, h, cuda + (t * s->heads + h) * s->c,
                            cpu + (t * s->heads + h) * s->c);
    end_case();
}

static void attend_matches_float64_and_the_cpu(void **state) {
    (void)state;
    static const struct {
        int heads, c, rope;
    } sizes[] = {{1, 1, 0}, {3, 5, 2}, {4, 16, 8}, {7, 31, 2}, {16, 48, 16}, {20, 40, 6}};
    static const int lengths[] = {1, 2, 31, 32, 33, 63, 64, 65, 130, 260};
    random_state = 71;
    for (int i = 0; i < 6; i++)
        for (int l = 0; l < 10; l++) {
            shape s = {sizes[i].heads, sizes[i].c, sizes[i].rope, lengths[l], 0, l % 3 == 1};
            if (l % 4 == 3) s.window = 1 + (i * 37 + l * 13) % 90;
            check_attend(&s, 1);
            check_attend(&s, (lengths[l] + 1) / 2);
        }
}

static void attend_of_published_sizes(void **state) {
    (void)state;
    random_state = 72;
    check_attend(&(shape){16, 512, 64, 300, 0, false}, 2);  /* DeepSeek-V2-Lite */
    check_attend(&(shape){16, 512, 64, 70, 0, false}, 70);  /* ... in a chunk */
    check_attend(&(shape){128, 512, 64, 140, 0, false}, 1); /* DeepSeek-V3 */
    check_attend(&(shape){32, 256, 64, 330, 0, false}, 2);  /* Mistral Small 4 */
    check_attend(&(shape){17, 300, 21, 100, 0, true}, 3);   /* odd and wide */
    check_attend(&(shape){2, 511, 1, 65, 40, true}, 9);
    check_attend(&(shape){4, 16, 8, 3200, 0, false}, 3); /* splits of 256 and of 1024 */
    check_attend(&(shape){2, 8, 2, 17000, 0, true}, 1);  /* and of 4096 */
    check_attend(&(shape){2, 8, 2, 2300, 900, true}, 90);
}

/* Each row of [begin, end) as the whole gave it, computed in chunks. */
static void expect_chunks(const world *w,
                          int64_t begin,
                          int64_t end,
                          int chunk,
                          const uint16_t *all,
                          int64_t all_from) {
    int64_t row_bytes = sy_attn_o_width(&w->spec.attn) * 2;
    end = sy_min(end, w->seq[0].length);
    for (int64_t t = begin; t < end; t += chunk) {
        piece p = {0, t, (int)sy_min(chunk, end - t)};
        char what[80];
        snprintf(what, sizeof what, "positions %lld + %d in chunks of %d", (long long)t, p.n,
                 chunk);
        assert_equal_bytes(attend(w, &p, 1, 0), (const char *)all + (t - all_from) * row_bytes,
                           p.n, row_bytes, what);
    }
}

static void decode_and_every_chunk_give_the_bits_of_one_prefill(void **state) {
    (void)state;
    static const shape shapes[] = {
        {3, 5, 2, 600, 0, true},    {4, 24, 8, 600, 0, false},  {16, 48, 16, 560, 0, false},
        {20, 40, 6, 300, 0, false}, {4, 24, 8, 700, 130, true}, {2, 16, 2, 700, 1, false},
    };
    static const int chunks[] = {1, 2, 7, 17, 65};
    random_state = 73;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t length = shapes[s].length;
        world w = make_world(&shapes[s], 1, &length, 0x7f7f);
        piece whole = {0, 0, (int)length};
        uint16_t *all = attend(&w, &whole, 1, 0);
        for (int c = 0; c < 5; c++) {
            expect_chunks(&w, 0, chunks[c] < 17 ? 12 : 120, chunks[c], all, 0);
            expect_chunks(&w, 57, 70, chunks[c], all, 0);
            expect_chunks(&w, 250, 262, chunks[c], all, 0);
            expect_chunks(&w, length - 8, length, chunks[c], all, 0);
        }
        end_case();
    }
    shape v2_lite = {16, 512, 64, 290, 0, false};
    world w = make_world(&v2_lite, 1, &v2_lite.length, 0x7f7f);
    piece end = {0, 190, 100}; /* too many rows for splits side by side */
    uint16_t *all = attend(&w, &end, 1, 0);
    expect_chunks(&w, 253, 258, 1, all, 190);
    expect_chunks(&w, 200, 230, 15, all, 190);
    end_case();
}

static void rows_beside_others_and_padding_keep_their_bits(void **state) {
    (void)state;
    static const int64_t lengths[] = {1, 64, 201, 700};
    static const int bounds[][2] = {{0, 1}, {1, 2}, {3, 8}, {9, 64}, {20, 130}};
    static const shape s = {6, 24, 8, 0, 0, true};
    random_state = 74;
    world w = make_world(&s, 4, lengths, 0x7f7f);
    int64_t row_bytes = sy_attn_o_width(&w.spec.attn) * 2, at;
    uint16_t *all[4];
    for (int i = 0; i < 4; i++)
        all[i] = attend(&w, &(piece){i, 0, (int)lengths[i]}, 1, 0);
    for (int round = 0; round < 9; round++) {
        piece p[MOST_PIECES];
        int n = (int)random_in(1, MOST_PIECES);
        for (int i = 0; i < n; i++) {
            int seq = (int)random_in(0, 3);
            int64_t rows = sy_min(round % 3 == 0 ? 1 : random_in(1, 30), lengths[seq]);
            p[i] = (piece){seq, random_in(0, lengths[seq] - rows), (int)rows};
        }
        char *o = (char *)attend(&w, p, n, 0);
        at = 0;
        for (int i = 0; i < n; at += p[i].n, i++)
            assert_equal_bytes(o + at * row_bytes,
                               (char *)all[p[i].seq] + p[i].position * row_bytes, p[i].n,
                               row_bytes, "rows beside others");
    }
    char *zeros = calloc(130, (size_t)row_bytes);
    for (int i = 0; i < 5; i++) {
        int n = bounds[i][0], bound = bounds[i][1];
        piece p[MOST_PIECES];
        for (int r = 0; r < n; r++)
            p[r] = (piece){3, 400 - 19 * (r + 1), 1};
        char *o = (char *)attend(&w, p, n, bound);
        for (int r = 0; r < n; r++)
            assert_equal_bytes(o + r * row_bytes, (char *)all[3] + p[r].position * row_bytes, 1,
                               row_bytes, "a row of a step with padding");
        assert_equal_bytes(o + n * row_bytes, zeros, bound - n, row_bytes, "padding");
    }
    free(zeros);
    end_case();
}

/* Largest finite values, infinities and NaN behind the last token and in pages of nobody. */
static void what_pages_held_before_does_not_matter(void **state) {
    (void)state;
    static const uint16_t fills[] = {0, 0x7f7f, 0xff7f, 0x7f80, 0xffff};
    static const int64_t lengths[] = {1, 50, 65, 150};
    for (int l = 0; l < 4; l++) {
        uint16_t *first = NULL;
        shape s = {5, 21, 4, lengths[l], 0, false};
        int64_t row_bytes = 5 * 21 * 2, bytes = lengths[l] * row_bytes;
        for (int f = 0; f < 5; f++) {
            random_state = 75;
            world w = make_world(&s, 1, &lengths[l], fills[f]);
            uint16_t *o = attend(&w, &(piece){0, 0, (int)lengths[l]}, 1, 0);
            uint16_t *last = attend(&w, &(piece){0, lengths[l] - 1, 1}, 1, 0);
            char what[64];
            snprintf(what, sizeof what, "pages of %04x", fills[f]);
            if (first == NULL) {
                first = malloc((size_t)bytes);
                memcpy(first, o, (size_t)bytes);
            }
            assert_equal_bytes(o, first, lengths[l], row_bytes, what);
            assert_equal_bytes(last, (char *)first + (lengths[l] - 1) * row_bytes, 1, row_bytes,
                               what);
            end_case();
        }
        free(first);
    }
}

/* ---- before and behind the core ---- */

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

static void what_is_not_computed_is_refused(void **state) {
    (void)state;
    sy_layer_spec spec = {.attn = latent_of(128, 1536, 512, 64, 128, 128)};
    MUST(cuda_be->ops->check(cuda_be, &spec));
    spec.attn.mla.kv_rank = 513;
    assert_int_equal(cuda_be->ops->check(cuda_be, &spec), SY_ERR_UNSUPPORTED);
    spec.attn.mla.kv_rank = 512;
    spec.attn.mla.rope = 66;
    assert_int_equal(cuda_be->ops->check(cuda_be, &spec), SY_ERR_UNSUPPORTED);
    spec.attn.mla.rope = 64;
    spec.attn.qkv_bias = true;
    assert_int_equal(cuda_be->ops->check(cuda_be, &spec), SY_ERR_UNSUPPORTED);
    spec.attn.qkv_bias = false;
    spec.attn.qk_clip = 8;
    assert_int_equal(cuda_be->ops->check(cuda_be, &spec), SY_ERR_UNSUPPORTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attend_matches_float64_and_the_cpu),
        cmocka_unit_test(attend_of_published_sizes),
        cmocka_unit_test(decode_and_every_chunk_give_the_bits_of_one_prefill),
        cmocka_unit_test(rows_beside_others_and_padding_keep_their_bits),
        cmocka_unit_test(what_pages_held_before_does_not_matter),
        cmocka_unit_test(steps_before_and_behind_match_the_cpu_and_keep_their_bits),
        cmocka_unit_test(passes_of_some_hundred_rows_give_the_same_bits),
        cmocka_unit_test(steps_of_published_sizes),
        cmocka_unit_test(what_is_not_computed_is_refused),
    };
    return cuda_main("latent attention", tests, sizeof tests / sizeof *tests);
}
