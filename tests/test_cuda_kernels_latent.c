/* The core of the CUDA table's latent attention against the CPU's and against float64, and bit for
 * bit over decode, chunks, batches, padding and what pages held before.
 * timeout: 240 */
#include "kernels/device.h"
#include "tests/cuda_attention_fixture.h"

enum { MOST_PIECES = 40 };
static const int32_t no_ids[2048];

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
    spec.attn = attention_of(4, 2, 256);
    MUST(cuda_be->ops->check(cuda_be, &spec));
    spec.attn.head_dim = 258;
    assert_int_equal(cuda_be->ops->check(cuda_be, &spec), SY_ERR_UNSUPPORTED);
    spec.attn.head_dim = 63;
    assert_int_equal(cuda_be->ops->check(cuda_be, &spec), SY_ERR_UNSUPPORTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attend_matches_float64_and_the_cpu),
        cmocka_unit_test(attend_of_published_sizes),
        cmocka_unit_test(decode_and_every_chunk_give_the_bits_of_one_prefill),
        cmocka_unit_test(rows_beside_others_and_padding_keep_their_bits),
        cmocka_unit_test(what_pages_held_before_does_not_matter),
        cmocka_unit_test(what_is_not_computed_is_refused),
    };
    return cuda_main("latent attention", tests, sizeof tests / sizeof *tests);
}
