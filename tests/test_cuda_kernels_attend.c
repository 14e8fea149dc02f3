/* The CUDA table's attention over pages against the CPU's and against float64, and bit for bit
 * over decode, chunks, batches, padding and what pages held before.
 * timeout: 240 */
#include "kernels/device.h"
#include "tests/cuda_attention_fixture.h"

enum { MOST_PIECES = 40 };
static const int32_t no_ids[2048];

/* q of some pieces, one below the other. */
static uint16_t *gather_q(const world *w, const piece *p, int n, int64_t *rows) {
    int64_t width = (int64_t)w->spec.attn.heads * w->spec.attn.head_dim, at = 0;
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
    int64_t rows, width = (int64_t)w->spec.attn.heads * w->spec.attn.head_dim;
    const uint16_t *q = gather_q(w, p, n, &rows);
    sy_span span[MOST_PIECES];
    sy_batch b = batch_of(w, p, n, span, no_ids);
    if (bound == 0) bound = rows;
    uint16_t *padded = host_block(bound * width * 2);
    memset(padded, POISON_BYTE, (size_t)(bound * width * 2));
    if (rows > 0) memcpy(padded, q, (size_t)(rows * width * 2));
    void *device_q = device_copy(padded, bound * width * 2);
    output o = make_output(NULL, bound * width * 2);
    begin_step(&b, bound, 0, NULL);
    b.n_rows = (int)bound;
    const float *sinks = NULL;
    if (w->sinks != NULL) sinks = device_copy(w->sinks, w->spec.attn.heads * 4);
    MUST(
        cuda_be->ops->attend(cuda_be, &w->spec, &b, device_q, &w->cuda, sinks, o.device, NULL));
    return read_output(o);
}

static uint16_t *attend_on_cpu(const world *w, const piece *p, int n) {
    int64_t rows, width = (int64_t)w->spec.attn.heads * w->spec.attn.head_dim;
    const uint16_t *q = gather_q(w, p, n, &rows);
    uint16_t *o = host_block(rows * width * 2);
    sy_span span[MOST_PIECES];
    sy_batch b = batch_of(w, p, n, span, no_ids);
    MUST(cpu_be->ops->attend(cpu_be, &w->spec, &b, q, &w->cpu, w->sinks, o, NULL));
    return o;
}

/* Reserves anew, which takes longer than a short case, only for other limits than last time. */
static void reserve(const sy_attn_spec *a, int64_t rows, int64_t context) {
    static int64_t last[5];
    const int64_t wanted[5] = {a->heads, a->kv_heads, a->head_dim, rows, context};
    if (memcmp(last, wanted, sizeof last) == 0) return;
    reserve_attention(a, 64, rows, context);
    memcpy(last, wanted, sizeof last);
}

static int64_t case_window; /* of the sequences that are made next, 0: none */
static bool case_sinks;

static void make_window_and_sinks(world *w) {
    w->spec.attn.window = case_window;
    w->spec.attn.sinks = case_sinks;
    if (case_sinks) w->sinks = random_floats(w->spec.attn.heads, 6);
}

static world one_sequence(int heads, int kv_heads, int d, int64_t length, uint16_t fill) {
    world w = {.spec.attn = attention_of(heads, kv_heads, d), .n_sequences = 1};
    w.seq[0].length = length;
    int64_t context = sy_round_up(length, SY_PAGE_TOKENS);
    reserve(&w.spec.attn, sy_min(context, 1300), context);
    snprintf(where, sizeof where,
             "attend, %d heads, %d kv heads, D %d, %lld tokens, window %lld, sinks %d", heads,
             kv_heads, d, (long long)length, (long long)case_window, case_sinks);
    make_window_and_sinks(&w);
    fill_pages(&w, fill);
    return w;
}

static void check_attend(int heads, int kv_heads, int d, int64_t length, int n) {
    world w = one_sequence(heads, kv_heads, d, length, 0x7f7f);
    piece p = {0, length - n, n};
    uint16_t *cuda = attend(&w, &p, 1, 0), *cpu = attend_on_cpu(&w, &p, 1);
    for (int t = 0; t < n; t += n < 10 || t + 9 >= n ? 1 : 9)
        for (int h = 0; h < heads; h++)
            expect_attended(&w, 0, length - n + t, h, cuda + (t * heads + h) * d,
                            cpu + (t * heads + h) * d);
    end_case();
}

static void attend_matches_float64_and_the_cpu(void **state) {
    (void)state;
    static const struct {
        int heads, kv_heads;
    } groups[] = {{2, 2}, {4, 2}, {8, 2}, {8, 1}, {7, 1}, {3, 3}};
    static const int dims[] = {6, 24, 64, 96, 128};
    static const int lengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 200};
    random_state = 41;
    for (int g = 0; g < 6; g++)
        for (int d = 0; d < 5; d++)
            for (int l = (g + d) % 2; l < 10; l += 2) {
                check_attend(groups[g].heads, groups[g].kv_heads, dims[d], lengths[l], 1);
                if (l % 3 == d % 3)
                    check_attend(groups[g].heads, groups[g].kv_heads, dims[d], lengths[l],
                                 (lengths[l] + 2) / 3);
            }
    check_attend(32, 4, 128, 300, 3); /* Qwen3-30B-A3B */
    check_attend(16, 16, 128, 130, 2);
    check_attend(2, 1, 256, 140, 3);
    check_attend(2, 1, 160, 70, 40);
    check_attend(2, 1, 64, 1023, 1);
    check_attend(2, 1, 64, 1024, 5);
    check_attend(2, 1, 64, 1025, 3);
    check_attend(2, 1, 16, 1500, 70);
    check_attend(4, 1, 16, 8800, 2); /* splits of 512 tokens */
    check_attend(20, 1, 16, 130, 3); /* a token has more query rows than a tile ... */
    check_attend(70, 1, 8, 60, 2);   /* ... than a block */
}

static void windows_and_sinks_match_float64_and_the_cpu(void **state) {
    (void)state;
    static const int64_t windows[] = {1, 2, 5, 63, 64, 65, 128, 300};
    static const int lengths[] = {1, 16, 64, 65, 129, 200, 330};
    random_state = 46;
    for (int i = 0; i < 8; i++)
        for (int l = 0; l < 7; l++) {
            case_window = windows[i];
            case_sinks = (i + l) % 2 == 0;
            int n = lengths[l] < 40 ? lengths[l] : l % 2 == 0 ? 1 : 70;
            n = (int)sy_min(n, lengths[l]);
            check_attend(8, 2, (i + l) % 3 == 0 ? 24 : 64, lengths[l], n);
        }
    case_window = 0;
    case_sinks = true;
    check_attend(4, 1, 96, 300, 3);
    check_attend(2, 1, 160, 140, 2); /* a head in two blocks */
    check_attend(2, 1, 16, 1500, 3); /* splits of one and of four pages */
    check_attend(20, 1, 16, 130, 3);
    case_window = 128;
    check_attend(64, 8, 64, 400, 2); /* gpt-oss */
    check_attend(16, 2, 64, 1200, 1);
    check_attend(16, 2, 64, 1160, 90);
    check_attend(20, 1, 16, 1100, 2);
    check_attend(2, 1, 160, 1100, 2);
    case_window = 700; /* ends within the splits of 256 */
    check_attend(4, 2, 16, 2200, 2);
    check_attend(4, 2, 16, 2200, 80);
    case_window = 0;
    case_sinks = false;
}

/* Each row of [begin, end) as the whole gave it, computed in chunks. */
static void expect_chunks(const world *w,
                          int seq,
                          int64_t begin,
                          int64_t end,
                          int chunk,
                          const uint16_t *all,
                          int64_t all_from) {
    int64_t row_bytes = (int64_t)w->spec.attn.heads * w->spec.attn.head_dim * 2;
    end = sy_min(end, w->seq[seq].length);
    for (int64_t t = begin; t < end; t += chunk) {
        piece p = {seq, t, (int)sy_min(chunk, end - t)};
        char what[80];
        snprintf(what, sizeof what, "positions %lld + %d in chunks of %d", (long long)t, p.n,
                 chunk);
        assert_equal_bytes(attend(w, &p, 1, 0), (const char *)all + (t - all_from) * row_bytes,
                           p.n, row_bytes, what);
    }
}

static void expect_one_prefill_in_chunks(void) {
    static const struct {
        int heads, kv_heads, d;
        int64_t length; /* splits of 256 tokens from 1024 on */
    } shapes[] = {
        {4, 2, 16, 1300}, {2, 1, 64, 1040}, {3, 1, 24, 1040}, /* 5 tokens to a tile */
        {20, 1, 16, 140},                                     /* 2 tiles to a token */
        {2, 1, 136, 140},                                     /* 2 blocks to a tile */
    };
    static const int chunks[] = {1, 2, 7, 17, 64, 65};
    random_state = 42;
    for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
        int64_t length = shapes[s].length;
        world w =
            one_sequence(shapes[s].heads, shapes[s].kv_heads, shapes[s].d, length, 0x7f7f);
        piece whole = {0, 0, (int)length};
        uint16_t *all = attend(&w, &whole, 1, 0);
        for (int c = 0; c < 6; c++) {
            bool few = chunks[c] < 17;
            expect_chunks(&w, 0, 0, few ? 20 : 200, chunks[c], all, 0);
            expect_chunks(&w, 0, 57, 70, chunks[c], all, 0);
            expect_chunks(&w, 0, few ? 1018 : 900, 1034, chunks[c], all, 0);
            expect_chunks(&w, 0, length - 8, length, chunks[c], all, 0);
        }
        end_case();
    }
    world w = one_sequence(2, 1, 16, 8250, 0x7f7f);
    piece end = {0, 8180, 70}; /* too many rows for splits side by side */
    uint16_t *all = attend(&w, &end, 1, 0);
    expect_chunks(&w, 0, 8189, 8195, 1, all, 8180);
    expect_chunks(&w, 0, 8180, 8204, 24, all, 8180);
    end_case();
}

static void decode_and_every_chunk_give_the_bits_of_one_prefill(void **state) {
    (void)state;
    expect_one_prefill_in_chunks();
}

static void windows_and_sinks_keep_the_bits_of_every_chunk(void **state) {
    (void)state;
    static const int64_t windows[] = {1, 128, 700};
    for (int i = 0; i < 3; i++) {
        case_window = windows[i];
        case_sinks = i != 0;
        expect_one_prefill_in_chunks();
    }
    case_window = 0;
    case_sinks = false;
}

static world many_sequences(void) {
    world w = {.spec.attn = attention_of(6, 2, 32), .n_sequences = 4};
    static const int64_t lengths[] = {1, 64, 201, 1100};
    for (int i = 0; i < 4; i++)
        w.seq[i].length = lengths[i];
    reserve(&w.spec.attn, 1400, 1100);
    snprintf(where, sizeof where, "attend, four sequences, window %lld, sinks %d",
             (long long)case_window, case_sinks);
    make_window_and_sinks(&w);
    fill_pages(&w, 0x7f7f);
    return w;
}

/* Decode rows and chunks of four sequences in one step, in several orders. */
static void expect_rows_beside_others(void) {
    random_state = 43;
    world w = many_sequences();
    int64_t row_bytes = 6 * 32 * 2;
    uint16_t *all[4];
    for (int s = 0; s < 4; s++)
        all[s] = attend(&w, &(piece){s, 0, (int)w.seq[s].length}, 1, 0);
    for (int round = 0; round < 9; round++) {
        piece p[MOST_PIECES];
        int n = (int)random_in(1, MOST_PIECES);
        int64_t at = 0;
        for (int i = 0; i < n; i++) {
            int s = (int)random_in(0, 3);
            int64_t rows = sy_min(round % 3 == 0 ? 1 : random_in(1, 30), w.seq[s].length);
            p[i] = (piece){s, random_in(0, w.seq[s].length - rows), (int)rows};
        }
        uint16_t *o = attend(&w, p, n, 0);
        for (int i = 0; i < n; i++) {
            assert_equal_bytes((char *)o + at * row_bytes,
                               (char *)all[p[i].seq] + p[i].position * row_bytes, p[i].n,
                               row_bytes, "rows beside others");
            at += p[i].n;
        }
    }
    end_case();
}

static void rows_beside_other_sequences_keep_their_bits(void **state) {
    (void)state;
    expect_rows_beside_others();
    case_window = 100;
    case_sinks = true;
    expect_rows_beside_others();
    case_window = 0;
    case_sinks = false;
}

static void padding_attends_to_nothing(void **state) {
    (void)state;
    static const int bounds[][2] = {{0, 1}, {1, 2}, {3, 8}, {9, 64}, {20, 130}};
    random_state = 44;
    world w = many_sequences();
    int64_t width = 6 * 32;
    uint16_t *all = attend(&w, &(piece){3, 0, 400}, 1, 0);
    uint16_t *zeros = calloc(130, (size_t)width * 2);
    for (int i = 0; i < 5; i++) {
        int n = bounds[i][0], bound = bounds[i][1];
        piece p[MOST_PIECES];
        for (int r = 0; r < n; r++)
            p[r] = (piece){3, 400 - 19 * (r + 1), 1};
        uint16_t *o = attend(&w, p, n, bound);
        for (int r = 0; r < n; r++)
            assert_equal_bytes(o + r * width, all + p[r].position * width, 1, width * 2,
                               "a row of a step with padding");
        assert_equal_bytes(o + n * width, zeros, bound - n, width * 2, "padding");
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
        int64_t bytes = lengths[l] * 4 * 32 * 2;
        for (int f = 0; f < 5; f++) {
            random_state = 45;
            world w = one_sequence(4, 2, 32, lengths[l], fills[f]);
            uint16_t *o = attend(&w, &(piece){0, 0, (int)lengths[l]}, 1, 0);
            uint16_t *last = attend(&w, &(piece){0, lengths[l] - 1, 1}, 1, 0);
            char what[64];
            snprintf(what, sizeof what, "pages of %04x", fills[f]);
            if (first == NULL) {
                first = malloc((size_t)bytes);
                memcpy(first, o, (size_t)bytes);
            }
            assert_equal_bytes(o, first, lengths[l], 4 * 32 * 2, what);
            assert_equal_bytes(last, first + (lengths[l] - 1) * 4 * 32, 1, 4 * 32 * 2, what);
            end_case();
        }
        free(first);
    }
}

static void a_page_holds_keys_and_values_and_ends_at_256_bytes(void **state) {
    (void)state;
    static const int shapes[][2] = {{1, 2}, {2, 24}, {4, 128}, {8, 64}, {1, 66}};
    for (int i = 0; i < 5; i++) {
        sy_attn_spec a = attention_of(shapes[i][0], shapes[i][0], shapes[i][1]);
        int64_t bytes = sy_round_up(2 * 64 * (int64_t)shapes[i][0] * shapes[i][1] * 2, 256);
        assert_int_equal(cuda_be->ops->kv_page_bytes(cuda_be, &a), bytes);
    }
    sy_attn_spec huge = {.kv_heads = 2147483647, .head_dim = 2147483646};
    assert_true(cuda_be->ops->kv_page_bytes(cuda_be, &huge) == UINT64_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_page_holds_keys_and_values_and_ends_at_256_bytes),
        cmocka_unit_test(attend_matches_float64_and_the_cpu),
        cmocka_unit_test(windows_and_sinks_match_float64_and_the_cpu),
        cmocka_unit_test(decode_and_every_chunk_give_the_bits_of_one_prefill),
        cmocka_unit_test(windows_and_sinks_keep_the_bits_of_every_chunk),
        cmocka_unit_test(rows_beside_other_sequences_keep_their_bits),
        cmocka_unit_test(padding_attends_to_nothing),
        cmocka_unit_test(what_pages_held_before_does_not_matter),
    };
    return cuda_main("attention", tests, sizeof tests / sizeof *tests);
}
