/* Attention on the CPU: against float64, and bit for bit over chunkings, batches, threads,
 * instruction sets and what pages held before.
 * timeout: 120 */
#include <math.h>

#include "kernels/cpu/kv_page.h"
#include "tests/matrix_fixture.h"

/* A value of the act type, uniform in [-range, range). */
static float uniform(const sy_backend *be, float range) {
    float f = ((float)(random64() >> 40) * 0x1p-23f - 1.0f) * range;
    return be->act == SY_F32 ? f : sy_f32_from_bf16(sy_bf16_from_f32(f));
}

static void store(const sy_backend *be, void *to, int64_t i, float f) {
    if (be->act == SY_F32)
        ((float *)to)[i] = f;
    else
        ((uint16_t *)to)[i] = sy_bf16_from_f32(f);
}

/* Where element d of token `slot` lies in the keys (or values) of a kv head, from the header's
 * description of a page. */
static int64_t key_index(const sy_backend *be, int d, int slot) {
    return be->act == SY_F32 ? d * 64 + slot : (d / 2 * 64 + slot) * 2 + d % 2;
}

static int64_t value_index(const sy_backend *be, int d, int slot) {
    int64_t panel = (int64_t)(d / 64) * 64 * 64;
    return be->act == SY_F32 ? panel + slot * 64 + d % 64
                             : panel + (slot / 2 * 64 + d % 64) * 2 + slot % 2;
}

static int64_t padded_head(int d) { /* elements of one kv head in a page */
    return 64 * (int64_t)d + 64 * sy_round_up(d, 64);
}

/* The pages of a sequence, not in the order of their positions. */
static int32_t *make_page_ids(int n, int first_id) {
    int32_t *id = malloc((size_t)n * sizeof *id);
    for (int i = 0; i < n; i++)
        id[i] = first_id + (n - 1 - i);
    return id;
}

static sy_backend *open_reserved(sy_dtype act,
                                 int n_threads,
                                 const char *isa,
                                 const sy_attn_spec *attn,
                                 int hidden,
                                 int rows,
                                 int context) {
    sy_backend *be = open_cpu(act, n_threads, isa);
    if (be == NULL) return NULL;
    sy_limits l = {.max_rows = rows,
                   .max_pairs = 1,
                   .max_context = context,
                   .hidden = hidden,
                   .heads = attn->heads,
                   .kv_heads = attn->kv_heads,
                   .head_dim = attn->head_dim,
                   .max_inter = 1,
                   .experts = 1,
                   .top_k = 1,
                   .vocab = 1};
    assert_int_equal(be->ops->reserve(be, &l), SY_OK);
    return be;
}

/* One row of plain attention in float64, and the bound of what float32 and bf16 may lose:
 *   scores   a chain over D: relative error D 2^-24 of sum |q k|, which moves p by that factor,
 *            in numerator and denominator;
 *   exp      1.1 ulp, again twice; o and l: chains over the keys and two roundings a page;
 *   act bf16 rounding P costs 2^-8 of sum p |v| / l, the result 2^-8 of itself. */
static void check_row(const sy_backend *be,
                      const sy_attn_spec *attn,
                      const float *q,
                      const float *k,
                      const float *v,
                      int n_keys,
                      const void *o,
                      int64_t at) {
    int d = attn->head_dim;
    double *p = malloc((size_t)n_keys * sizeof *p), max = -INFINITY, sum = 0, delta = 0;
    for (int t = 0; t < n_keys; t++) {
        double dot = 0, magnitude = 0;
        for (int i = 0; i < d; i++) {
            dot += (double)q[i] * (double)k[t * d + i];
            magnitude += fabs((double)q[i] * (double)k[t * d + i]);
        }
        p[t] = dot * (double)attn->softmax_scale;
        max = fmax(max, p[t]);
        delta = fmax(delta, (d + 3) * 0x1p-24 * magnitude * (double)attn->softmax_scale);
    }
    for (int t = 0; t < n_keys; t++)
        sum += p[t] = exp(p[t] - max);
    for (int i = 0; i < d; i++) {
        double exact = 0, average = 0;
        for (int t = 0; t < n_keys; t++) {
            exact += p[t] * (double)v[t * d + i] / sum;
            average += p[t] * fabs((double)v[t * d + i]) / sum;
        }
        double bound = average * (2 * delta + (n_keys + 100) * 0x1p-23);
        if (be->act == SY_BF16) bound += (average + fabs(exact)) * 0x1.02p-8;
        double found = (double)act_value(be, o, at + i);
        if (!(fabs(found - exact) <= bound))
            fail_msg("%s, D %d, %d keys, element %d: %.9g, expected %.9g within %.3g",
                     sy_dtype_name(be->act), d, n_keys, i, found, exact, bound);
    }
    free(p);
}

/* One span of n_rows queries that ends at position `length`, on pages written by hand. */
static void check_attend(sy_dtype act, int group, int d, int length, int n_rows) {
    sy_layer_spec spec = {.attn = {.heads = 2 * group,
                                   .kv_heads = 2,
                                   .head_dim = d,
                                   .softmax_scale = 1.0f / sqrtf((float)d)}};
    sy_backend *be = open_reserved(act, 2, NULL, &spec.attn, 64, n_rows, length);
    int64_t elem = sy_act_bytes(be), head = padded_head(d);
    int n_pages = (length + 63) / 64, width = 2 * group * d;
    sy_kv_layer kv = {.page_bytes = (int64_t)be->ops->kv_page_bytes(be, &spec.attn)};
    assert_int_equal(kv.page_bytes, 2 * head * elem);
    uint64_t kv_bytes = (uint64_t)(n_pages * kv.page_bytes);
    assert_int_equal(sy_mem_alloc(&kv.data, kv_bytes, "pages"), SY_OK);
    int32_t *id = make_page_ids(n_pages, 0);
    float *k = malloc(sizeof(float) * 2 * (size_t)(length * d));
    float *v = malloc(sizeof(float) * 2 * (size_t)(length * d));
    for (int h = 0; h < 2; h++)
        for (int t = 0; t < length; t++) {
            char *keys = (char *)kv.data + id[t / 64] * kv.page_bytes + h * head * elem;
            for (int i = 0; i < d; i++) {
                float *ki = &k[(h * length + t) * d + i], *vi = &v[(h * length + t) * d + i];
                store(be, keys, key_index(be, i, t % 64), *ki = uniform(be, 2));
                store(be, keys + 64 * d * elem, value_index(be, i, t % 64),
                      *vi = uniform(be, 2));
            }
        }
    float *q = malloc(sizeof(float) * (size_t)(n_rows * width));
    char *q_act = malloc((size_t)(n_rows * width * elem)),
         *o = malloc((size_t)(n_rows * width * elem));
    for (int i = 0; i < n_rows * width; i++)
        store(be, q_act, i, q[i] = uniform(be, 2));
    sy_span span = {.n_rows = n_rows, .position = length - n_rows, .pages = id};
    sy_batch b = {.n_rows = n_rows, .n_spans = 1, .span = &span};
    assert_int_equal(be->ops->attend(be, &spec, &b, q_act, &kv, NULL, o, NULL), SY_OK);
    for (int t = 0; t < n_rows; t++)
        for (int a = 0; a < 2 * group; a++) {
            int64_t at = t * width + a * d, from = (int64_t)(a / group) * length * d;
            check_row(be, &spec.attn, q + at, k + from, v + from, length - n_rows + t + 1, o,
                      at);
        }
    free(k), free(v), free(q), free(q_act), free(o), free(id), sy_mem_free(kv.data, kv_bytes);
    close_cpu(be);
}

static void attend_matches_float64(void **state) {
    (void)state;
    static const int groups[] = {1, 2, 4, 7}, dims[] = {16, 24, 64, 96, 128};
    static const int lengths[] = {1, 63, 64, 65, 511, 512, 513, 700};
    random_state = 1;
    for (int act = 0; act < 2; act++)
        for (int g = 0; g < 4; g++)
            for (int d = 0; d < 5; d++)
                for (int l = 0; l < 8; l++) {
                    sy_dtype t = act == 0 ? SY_BF16 : SY_F32;
                    check_attend(t, groups[g], dims[d], lengths[l], 1);
                    if ((g + d + l) % 3 == 0)
                        check_attend(t, groups[g], dims[d], lengths[l], (lengths[l] + 8) / 9);
                }
    check_attend(SY_BF16, 80, 16, 130, 5); /* more heads than rows of a tile */
    check_attend(SY_F32, 3, 200, 600, 20);
}

/* Everything that the three steps of attention need, with random weights. */
typedef struct layer {
    sy_layer_spec spec;
    sy_layer_weights w;
    test_matrix q, k, v, o;
    float *norms; /* attn_norm, q_norm, k_norm */
    sy_rope_table *rope;
    int hidden;
} layer;

static layer make_layer(sy_backend *be, const sy_layer_spec *spec, int hidden, int context) {
    const sy_attn_spec *a = &spec->attn;
    int n_q = a->heads * a->head_dim, n_kv = a->kv_heads * a->head_dim;
    layer l = {.spec = *spec, .hidden = hidden};
    random_state = 5;
    l.q = make_matrix(be, SY_BF16, 1, n_q, hidden, ORDINARY);
    l.k = make_matrix(be, SY_BF16, 1, n_kv, hidden, ORDINARY);
    l.v = make_matrix(be, SY_BF16, 1, n_kv, hidden, ORDINARY);
    l.o = make_matrix(be, SY_BF16, 1, hidden, n_q, ORDINARY);
    l.norms = malloc(sizeof(float) * (size_t)(hidden + n_q + n_kv));
    for (int i = 0; i < hidden + n_q + n_kv; i++)
        l.norms[i] = 0.5f + (float)(random64() >> 40) * 0x1p-24f;
    l.w = (sy_layer_weights){.attn_norm = l.norms,
                             .q_norm = l.norms + hidden,
                             .k_norm = l.norms + hidden + n_q,
                             .q = l.q.m,
                             .k = l.k.m,
                             .v = l.v.m,
                             .o = l.o.m};
    assert_int_equal(sy_rope_table_create(context, &a->rope, &l.rope),
                     SY_OK);
    return l;
}

static void free_layer(sy_backend *be, layer *l) {
    free_matrix(be, &l->q), free_matrix(be, &l->k);
    free_matrix(be, &l->v), free_matrix(be, &l->o);
    free(l->norms);
    sy_rope_table_destroy(l->rope);
}

enum { CONTEXT = 704, N_SEQUENCES = 3, HIDDEN = 80 };
static const int sequence_length[N_SEQUENCES] = {700, 131, 64};

static sy_layer_spec small_spec(void) {
    return (sy_layer_spec){.norm_eps = 1e-5f,
                           .attn = {.heads = 6,
                                    .kv_heads = 2,
                                    .head_dim = 24,
                                    .qk_norm = SY_QK_NORM_PER_HEAD,
                                    .qk_clip = 2.5f,
                                    .rope.dim = 16,
                                    .rope.attention_factor = 1,
                                    .rope.theta = 10000.0,
                                    .softmax_scale = 0.2f}};
}

/* How a run is cut into steps. */
typedef struct schedule {
    sy_dtype act;
    const char *isa;
    int n_threads;
    int chunk;               /* tokens of a sequence in a step */
    bool together;           /* the sequences share each step, else one after the other */
    unsigned char page_fill; /* what pages held before */
} schedule;

/* The tokens [begin, begin + n) of some sequences in one step; out: x after attn_out. */
static void run_step(sy_backend *be,
                     const layer *l,
                     const sy_kv_layer *kv,
                     int32_t *const *ids,
                     int first,
                     int last,
                     int begin,
                     int chunk,
                     float *const *x,
                     float *const *out) {
    sy_span span[N_SEQUENCES];
    sy_batch b = {.span = span};
    for (int s = first; s < last; s++) {
        int n = (int)sy_max(0, sy_min(chunk, sequence_length[s] - begin));
        if (n == 0) continue;
        span[b.n_spans++] = (sy_span){b.n_rows, n, begin, ids[s]};
        b.n_rows += n;
    }
    if (b.n_rows == 0) return;
    int64_t width = (int64_t)l->spec.attn.heads * l->spec.attn.head_dim;
    float *rows = malloc(sizeof(float) * (size_t)(b.n_rows * l->hidden));
    char *q = malloc((size_t)(b.n_rows * width * 4)),
         *o = malloc((size_t)(b.n_rows * width * 4));
    size_t row_bytes = sizeof(float) * (size_t)l->hidden;
    for (int pass = 0; pass < 2; pass++) {
        for (int s = first, i = 0; s < last; s++) {
            if (begin >= sequence_length[s]) continue;
            float *mine = rows + (int64_t)span[i].first_row * l->hidden;
            if (pass == 0)
                memcpy(mine, x[s] + begin * l->hidden, row_bytes * (size_t)span[i].n_rows);
            else
                memcpy(out[s] + begin * l->hidden, mine, row_bytes * (size_t)span[i].n_rows);
            i++;
        }
        if (pass == 1) break;
        assert_int_equal(be->ops->attn_in(be, &l->spec, &l->w, l->rope, &b, rows, q, kv, NULL),
                         SY_OK);
        assert_int_equal(be->ops->attend(be, &l->spec, &b, q, kv, NULL, o, NULL), SY_OK);
        assert_int_equal(be->ops->attn_out(be, &l->spec, &l->w, b.n_rows, o, rows, NULL),
                         SY_OK);
    }
    free(rows), free(q), free(o);
}

/* Runs all sequences and returns x after attention, [sequence][position][H] in one block; NULL
 * if this machine lacks the instruction set. */
static float *run_schedule(const schedule *how) {
    sy_layer_spec spec = small_spec();
    sy_backend *be = open_reserved(how->act, how->n_threads, how->isa, &spec.attn, HIDDEN,
                                   N_SEQUENCES * CONTEXT, CONTEXT);
    if (be == NULL) return NULL;
    layer l = make_layer(be, &spec, HIDDEN, CONTEXT);
    sy_kv_layer kv = {.page_bytes = (int64_t)be->ops->kv_page_bytes(be, &spec.attn)};
    int pages_each = CONTEXT / 64;
    size_t kv_bytes = (size_t)(kv.page_bytes * pages_each * N_SEQUENCES);
    assert_int_equal(sy_mem_alloc(&kv.data, kv_bytes, "pages"), SY_OK);
    memset(kv.data, how->page_fill, kv_bytes);
    float *result = calloc((size_t)N_SEQUENCES * CONTEXT * HIDDEN, sizeof(float));
    float *input = malloc(sizeof(float) * (size_t)N_SEQUENCES * CONTEXT * HIDDEN);
    float *x[N_SEQUENCES], *out[N_SEQUENCES];
    int32_t *ids[N_SEQUENCES];
    random_state = 77;
    for (int i = 0; i < N_SEQUENCES * CONTEXT * HIDDEN; i++)
        input[i] = random_float(ORDINARY);
    for (int s = 0; s < N_SEQUENCES; s++) {
        x[s] = input + (int64_t)s * CONTEXT * HIDDEN;
        out[s] = result + (int64_t)s * CONTEXT * HIDDEN;
        ids[s] = make_page_ids(pages_each, s * pages_each);
    }
    for (int begin = 0; begin < CONTEXT; begin += how->chunk) {
        if (how->together)
            run_step(be, &l, &kv, ids, 0, N_SEQUENCES, begin, how->chunk, x, out);
        else
            for (int s = 0; s < N_SEQUENCES; s++)
                run_step(be, &l, &kv, ids, s, s + 1, begin, how->chunk, x, out);
    }
    for (int s = 0; s < N_SEQUENCES; s++)
        free(ids[s]);
    free(input);
    sy_mem_free(kv.data, kv_bytes);
    free_layer(be, &l);
    close_cpu(be);
    return result;
}

static void expect_same(const float *expected, const schedule *how) {
    float *found = run_schedule(how);
    if (found == NULL) return;
    char what[120];
    snprintf(what, sizeof what, "%s on %s, %d threads, chunks of %d, %s, pages of %02x",
             sy_dtype_name(how->act), how->isa, how->n_threads, how->chunk,
             how->together ? "together" : "alone", how->page_fill);
    assert_same_bits(found, expected, (int64_t)N_SEQUENCES * CONTEXT * HIDDEN, what);
    free(found);
}

static void chunks_batches_and_threads_do_not_change_a_bit(void **state) {
    (void)state;
    static const int chunks[] = {1, 7, 64, 100, CONTEXT};
    for (int act = 0; act < 2; act++) {
        sy_dtype t = act == 0 ? SY_BF16 : SY_F32;
        float *expected = run_schedule(&(schedule){t, "auto", 1, CONTEXT, false, 0});
        for (int i = 0; i < 5; i++)
            for (int n_threads = 1; n_threads <= 3; n_threads++)
                expect_same(expected,
                            &(schedule){t, "auto", n_threads, chunks[i], i % 2 == 0, 0});
        expect_same(expected, &(schedule){t, "auto", 2, 1, false, 0});
        free(expected);
    }
}

static void every_table_gives_the_same_attention(void **state) {
    (void)state;
    for (int act = 0; act < 2; act++) {
        sy_dtype t = act == 0 ? SY_BF16 : SY_F32;
        float *expected = run_schedule(&(schedule){t, "auto", 1, CONTEXT, true, 0});
        for (int i = 0; i < N_ISA; i++)
            expect_same(expected, &(schedule){t, isa_names[i], 2, 90, true, 0});
        free(expected);
    }
}

static void what_pages_held_before_does_not_matter(void **state) {
    (void)state;
    /* 0x7f7f is the largest finite BF16 value, 0xffff a NaN, 0xbf small and negative */
    static const unsigned char fills[] = {0x7f, 0xff, 0xbf};
    for (int act = 0; act < 2; act++) {
        sy_dtype t = act == 0 ? SY_BF16 : SY_F32;
        float *expected = run_schedule(&(schedule){t, "auto", 1, CONTEXT, false, 0});
        for (int i = 0; i < 3; i++) {
            expect_same(expected, &(schedule){t, "auto", 2, 13, true, fills[i]});
            expect_same(expected, &(schedule){t, "auto", 2, 64, true, fills[i]});
        }
        free(expected);
    }
}

/* q, k and v of one row in float64, from the definitions. */
static void project(const sy_backend *be,
                    const layer *l,
                    const test_matrix *m,
                    int n,
                    const float *x,
                    double *out) {
    double sum = 0;
    for (int i = 0; i < l->hidden; i++)
        sum += (double)x[i] * (double)x[i];
    double inverse = 1 / sqrt(sum / l->hidden + (double)l->spec.norm_eps);
    for (int r = 0; r < n; r++) {
        out[r] = 0;
        for (int i = 0; i < l->hidden; i++) {
            float xn = (float)((double)x[i] * inverse * (double)l->w.attn_norm[i]);
            if (be->act == SY_BF16) xn = sy_f32_from_bf16(sy_bf16_from_f32(xn));
            out[r] += (double)xn * (double)weight_value(m, 0, r, i);
        }
    }
}

static void norm_f64(double *x, int n, const float *w, double eps) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    double inverse = 1 / sqrt(sum / n + eps);
    for (int i = 0; i < n; i++)
        x[i] *= inverse * (double)w[i];
}

static void
finish_f64(const layer *l, double *x, int heads, const float *norm, int64_t position) {
    const sy_attn_spec *a = &l->spec.attn;
    int d = a->head_dim, half = a->rope.dim / 2;
    if (a->qk_norm == SY_QK_NORM_WHOLE) norm_f64(x, heads * d, norm, (double)l->spec.norm_eps);
    for (int h = 0; h < heads; h++, x += d) {
        if (a->qk_norm == SY_QK_NORM_PER_HEAD) norm_f64(x, d, norm, (double)l->spec.norm_eps);
        for (int i = 0; i < d && a->qk_clip > 0; i++)
            x[i] = fmax(-(double)a->qk_clip, fmin((double)a->qk_clip, x[i]));
        for (int i = 0; i < half; i++) {
            double c = (double)l->rope->cos[position * half + i];
            double s = (double)l->rope->sin[position * half + i], low = x[i],
                   high = x[i + half];
            x[i] = low * c - high * s;
            x[i + half] = high * c + low * s;
        }
    }
}

/* Sums of 80 products of size up to 64: float32 and, in bf16, xn values that may round the other
 * way (2^-8 of a term) and the one rounding of the result. */
static void expect_near(const sy_backend *be,
                        float found,
                        double exact,
                        double scale,
                        const char *what,
                        int i) {
    double bound = be->act == SY_F32 ? scale * 1e-5 : scale * 1e-3 + fabs(exact) * 0x1.02p-8;
    if (!(fabs((double)found - exact) <= bound))
        fail_msg("%s %d: %.9g, expected %.9g within %.3g", what, i, (double)found, exact,
                 bound);
}

static void check_attn_in(sy_dtype act, sy_qk_norm norm, float clip, int rotary_dim) {
    enum { ROWS = 5, POSITION = 62 };
    sy_layer_spec spec = small_spec();
    spec.attn.qk_norm = norm;
    spec.attn.qk_clip = clip;
    spec.attn.rope.dim = rotary_dim;
    sy_backend *be = open_reserved(act, 2, NULL, &spec.attn, HIDDEN, ROWS, CONTEXT);
    layer l = make_layer(be, &spec, HIDDEN, CONTEXT);
    int n_q = 6 * 24, n_kv = 2 * 24;
    sy_kv_layer kv = {.page_bytes = (int64_t)be->ops->kv_page_bytes(be, &spec.attn)};
    uint64_t kv_bytes = 2 * (uint64_t)kv.page_bytes;
    assert_int_equal(sy_mem_alloc(&kv.data, kv_bytes, "pages"), SY_OK);
    int32_t ids[2] = {1, 0};
    float x[ROWS * HIDDEN];
    for (int i = 0; i < ROWS * HIDDEN; i++)
        x[i] = random_float(ORDINARY);
    char q[ROWS * 6 * 24 * 4];
    sy_span span = {0, ROWS, POSITION, ids};
    sy_batch b = {.n_rows = ROWS, .n_spans = 1, .span = &span};
    assert_int_equal(be->ops->attn_in(be, &spec, &l.w, l.rope, &b, x, q, &kv, NULL), SY_OK);
    for (int t = 0; t < ROWS; t++) {
        double qr[6 * 24], kr[2 * 24], vr[2 * 24], scale = 0;
        project(be, &l, &l.q, n_q, x + t * HIDDEN, qr);
        project(be, &l, &l.k, n_kv, x + t * HIDDEN, kr);
        project(be, &l, &l.v, n_kv, x + t * HIDDEN, vr);
        for (int i = 0; i < n_kv; i++)
            scale = fmax(scale, fabs(vr[i]));
        finish_f64(&l, qr, 6, l.w.q_norm, POSITION + t);
        finish_f64(&l, kr, 2, l.w.k_norm, POSITION + t);
        double qk_scale = norm == SY_QK_NORM_NONE ? scale : 4;
        for (int i = 0; i < n_q; i++)
            expect_near(be, act_value(be, q, t * n_q + i), qr[i], qk_scale, "q", i);
        char *page = (char *)kv.data + ids[(POSITION + t) / 64] * kv.page_bytes;
        int slot = (POSITION + t) % 64;
        for (int i = 0; i < n_kv; i++) {
            int64_t head = i / 24 * padded_head(24);
            double v = clip > 0 ? fmax(-(double)clip, fmin((double)clip, vr[i])) : vr[i];
            expect_near(be, act_value(be, page, head + key_index(be, i % 24, slot)), kr[i],
                        qk_scale, "k", i);
            expect_near(be, act_value(be, page, head + 64 * 24 + value_index(be, i % 24, slot)),
                        v, scale, "v", i);
        }
    }
    sy_mem_free(kv.data, kv_bytes);
    free_layer(be, &l);
    close_cpu(be);
}

static void attn_in_matches_float64(void **state) {
    (void)state;
    for (int act = 0; act < 2; act++)
        for (int norm = SY_QK_NORM_NONE; norm <= SY_QK_NORM_WHOLE; norm++) {
            sy_dtype t = act == 0 ? SY_BF16 : SY_F32;
            check_attn_in(t, (sy_qk_norm)norm, 0, 24);
            check_attn_in(t, (sy_qk_norm)norm, 1.25f, 16);
            check_attn_in(t, (sy_qk_norm)norm, 0, 0);
        }
}

/* The leaf is whole kv-head groups of at least 256 values: 72 -> 288, 300 -> 300, 256 -> 256. */
static void attn_out_sums_leaves_of_whole_groups(void **state) {
    (void)state;
    static const struct {
        int heads, kv_heads, head_dim, leaf;
    } cases[] = {{24, 8, 24, 288}, {20, 4, 60, 300}, {16, 8, 128, 256}, {4, 4, 16, 256}};
    for (int i = 0; i < 4; i++) {
        sy_layer_spec spec = {.attn = {.heads = cases[i].heads,
                                       .kv_heads = cases[i].kv_heads,
                                       .head_dim = cases[i].head_dim}};
        enum { ROWS = 3 };
        sy_backend *be = open_reserved(SY_F32, 2, NULL, &spec.attn, 100, ROWS, 64);
        int64_t k = (int64_t)cases[i].heads * cases[i].head_dim, leaf = cases[i].leaf;
        test_matrix o = make_matrix(be, SY_BF16, 1, 100, k, ORDINARY);
        sy_layer_weights w = {.o = o.m};
        float *in = make_rows(be, ROWS, k, ORDINARY), x[ROWS * 100], expected[ROWS * 100];
        for (int j = 0; j < ROWS * 100; j++) {
            x[j] = random_float(ORDINARY);
            expected[j] = x[j] + plain_dot(be, &o, 0, j % 100, in, j / 100, leaf, 0,
                                           sy_ceil_div(k, leaf));
        }
        assert_int_equal(be->ops->attn_out(be, &spec, &w, ROWS, in, x, NULL), SY_OK);
        assert_same_bits(x, expected, ROWS * 100, "attn_out");
        free(in);
        free_matrix(be, &o);
        close_cpu(be);
    }
}

static void an_empty_step_and_too_many_rows_are_harmless(void **state) {
    (void)state;
    sy_layer_spec spec = small_spec();
    sy_backend *be = open_reserved(SY_BF16, 2, NULL, &spec.attn, HIDDEN, 4, CONTEXT);
    layer l = make_layer(be, &spec, HIDDEN, CONTEXT);
    sy_batch b = {0};
    assert_int_equal(be->ops->attn_in(be, &spec, &l.w, l.rope, &b, NULL, NULL, NULL, NULL),
                     SY_OK);
    assert_int_equal(be->ops->attend(be, &spec, &b, NULL, NULL, NULL, NULL, NULL), SY_OK);
    assert_int_equal(be->ops->attn_out(be, &spec, &l.w, 0, NULL, NULL, NULL), SY_OK);
    sy_span span = {.n_rows = 600};
    b = (sy_batch){.n_rows = 600, .n_spans = 1, .span = &span};
    assert_int_equal(be->ops->attn_in(be, &spec, &l.w, l.rope, &b, NULL, NULL, NULL, NULL),
                     SY_ERR_INTERNAL);
    assert_int_equal(be->ops->attn_out(be, &spec, &l.w, 600, NULL, NULL, NULL),
                     SY_ERR_INTERNAL);
    span = (sy_span){.n_rows = 1, .position = CONTEXT};
    b = (sy_batch){.n_rows = 1, .n_spans = 1, .span = &span};
    assert_int_equal(be->ops->attn_in(be, &spec, &l.w, l.rope, &b, NULL, NULL, NULL, NULL),
                     SY_ERR_INTERNAL);
    sy_attn_spec huge = {.kv_heads = 2147483647, .head_dim = 2147483646};
    assert_true(be->ops->kv_page_bytes(be, &huge) == UINT64_MAX);
    free_layer(be, &l);
    close_cpu(be);
}

/* The smallest normal number, negative, times a weight below 1 is flushed to -0. After it, P = 0
 * times the values of later tokens leaves -0 only if all of those are negative. */
static void values_behind_a_row_do_not_change_the_sign_of_a_zero(void **state) {
    (void)state;
    sy_layer_spec spec = {
        .attn = {.heads = 1, .kv_heads = 1, .head_dim = 2, .softmax_scale = 1}};
    for (int act = 0; act < 2; act++) {
        sy_backend *be =
            open_reserved(act == 0 ? SY_BF16 : SY_F32, 1, NULL, &spec.attn, 2, 1, 64);
        sy_kv_layer kv = {.page_bytes = (int64_t)be->ops->kv_page_bytes(be, &spec.attn)};
        assert_int_equal(sy_mem_alloc(&kv.data, (uint64_t)kv.page_bytes, "page"), SY_OK);
        char *values = (char *)kv.data + 64 * 2 * sy_act_bytes(be);
        float q_f32[2] = {1, 0};
        uint16_t q_bf16[2] = {sy_bf16_from_f32(1), 0};
        const void *q = act == 0 ? (const void *)q_bf16 : q_f32;
        store(be, kv.data, key_index(be, 0, 1), -1);
        uint32_t o[2][2] = {{1, 1}, {2, 2}};
        int32_t id = 0;
        sy_span span = {0, 1, 1, &id};
        sy_batch b = {.n_rows = 1, .n_spans = 1, .span = &span};
        for (int sign = 0; sign < 2; sign++) {
            for (int i = 0; i < 2; i++)
                for (int slot = 0; slot < 64; slot++)
                    store(be, values, value_index(be, i, slot),
                          slot == 0   ? -0.0f
                          : slot == 1 ? -0x1p-126f
                          : sign == 0 ? 1.0f
                                      : -1.0f);
            assert_int_equal(be->ops->attend(be, &spec, &b, q, &kv, NULL, o[sign], NULL), SY_OK);
        }
        assert_memory_equal(o[0], o[1], 2 * (size_t)sy_act_bytes(be));
        sy_mem_free(kv.data, (uint64_t)kv.page_bytes);
        close_cpu(be);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attend_matches_float64),
        cmocka_unit_test(attn_in_matches_float64),
        cmocka_unit_test(attn_out_sums_leaves_of_whole_groups),
        cmocka_unit_test(chunks_batches_and_threads_do_not_change_a_bit),
        cmocka_unit_test(every_table_gives_the_same_attention),
        cmocka_unit_test(what_pages_held_before_does_not_matter),
        cmocka_unit_test(values_behind_a_row_do_not_change_the_sign_of_a_zero),
        cmocka_unit_test(an_empty_step_and_too_many_rows_are_harmless),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
