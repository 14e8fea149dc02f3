/* Sequences with keys and values that both tables hold in their own pages, and their attention in
 * float64. */
#ifndef SY_TESTS_CUDA_ATTENTION_FIXTURE_H
#define SY_TESTS_CUDA_ATTENTION_FIXTURE_H

#include "kernels/cpu/kv_page.h"
#include "tests/cuda_fixture.h"

enum { MOST_SEQUENCES = 4 };

typedef struct sequence {
    int64_t length;
    uint16_t *q;    /* [length, A*D]; MLA: [length, A, c + rope] */
    float *k, *v;   /* [kv][length][D], bf16 values; MLA: k alone, [length][c + rope] */
    int32_t *pages; /* not in the order of positions */
} sequence;

typedef struct world {
    sy_layer_spec spec;
    int n_sequences;
    sequence seq[MOST_SEQUENCES];
    float *sinks; /* [A] or NULL */
    int64_t n_pages;
    sy_kv_layer cpu, cuda;
    output cuda_pages; /* cuda.data with its guard */
} world;

/* Consecutive rows of one sequence. */
typedef struct piece {
    int seq;
    int64_t position;
    int n;
} piece;

/* Where element d of token `slot` of a kv head lies in a page: [kv][64][D] keys, then values. */
static inline int64_t cuda_key(const sy_attn_spec *a, int head, int slot, int d) {
    return ((int64_t)head * SY_PAGE_TOKENS + slot) * a->head_dim + d;
}
static inline int64_t cuda_value(const sy_attn_spec *a, int head, int slot, int d) {
    return cuda_key(a, a->kv_heads + head, slot, d);
}

/* The same in the CPU's pages (kernels/cpu/kv_page.h). */
static inline int64_t cpu_key(const sy_attn_spec *a, int head, int slot, int d) {
    sy_kv_layout l = sy_kv_layout_of(cpu_be, a);
    return head * (l.head_bytes / 2) + (d / 2 * 64 + slot) * 2 + d % 2;
}
static inline int64_t cpu_value(const sy_attn_spec *a, int head, int slot, int d) {
    sy_kv_layout l = sy_kv_layout_of(cpu_be, a);
    return head * (l.head_bytes / 2) + l.k_bytes / 2 + d / 64 * (l.panel_bytes / 2) +
           (slot / 2 * 64 + d % 64) * 2 + slot % 2;
}

static inline sy_attn_spec attention_of(int heads, int kv_heads, int head_dim) {
    return (sy_attn_spec){.heads = heads,
                          .kv_heads = kv_heads,
                          .head_dim = head_dim,
                          .rope.dim = head_dim,
                          .rope.attention_factor = 1,
                          .rope.theta = 10000,
                          .softmax_scale = 1.0f / sqrtf((float)head_dim)};
}

static inline sy_attn_spec
latent_of(int heads, int q_rank, int c, int rope, int nope, int value) {
    return (sy_attn_spec){.kind = SY_ATTN_MLA,
                          .heads = heads,
                          .kv_heads = 1,
                          .head_dim = nope + rope,
                          .mla = {q_rank, c, nope, rope, value, 1e-6f},
                          .rope = {.dim = rope, .theta = 10000, .attention_factor = 1},
                          .softmax_scale = 1.0f / sqrtf((float)(nope + rope))};
}

/* Where value d of a token's latent lies in a page of the CUDA table. */
static inline int64_t cuda_latent(const sy_attn_spec *a, int slot, int64_t d) {
    return slot * sy_round_up(sy_attn_cache_width(a), 8) + d;
}

/* Room for every row of the sequences in one step. */
static inline void
reserve_attention(const sy_attn_spec *a, int hidden, int64_t rows, int64_t context) {
    reserve_both(&(sy_limits){.max_rows = rows,
                              .max_pairs = 1,
                              .max_context = context,
                              .hidden = hidden,
                              .heads = a->heads,
                              .kv_heads = a->kv_heads,
                              .head_dim = a->head_dim,
                              .mla = a->mla,
                              .max_inter = 1,
                              .experts = 1,
                              .top_k = 1,
                              .vocab = 1});
}

/* The page ids of all sequences, shuffled; two pages belong to none. */
static inline void deal_pages(world *w) {
    w->n_pages = 2;
    for (int s = 0; s < w->n_sequences; s++)
        w->n_pages += sy_ceil_div(w->seq[s].length, SY_PAGE_TOKENS);
    int32_t *id = host_block(w->n_pages * 4), *next = id;
    for (int32_t i = 0; i < w->n_pages; i++)
        id[i] = i;
    for (int64_t i = w->n_pages - 1; i > 0; i--) {
        int64_t j = random_in(0, i);
        int32_t t = id[i];
        id[i] = id[j], id[j] = t;
    }
    for (int s = 0; s < w->n_sequences; s++) {
        w->seq[s].pages = next;
        next += sy_ceil_div(w->seq[s].length, SY_PAGE_TOKENS);
    }
}

static inline int64_t kv_bytes(const world *w, sy_backend *be) {
    return w->n_pages * (int64_t)be->ops->kv_page_bytes(be, &w->spec.attn);
}

/* Both tables' pages, every 2 bytes of them `fill`, as if other sequences had been there. */
static inline void make_pages(world *w, uint16_t fill) {
    sy_kv_layer *kv[2] = {&w->cpu, &w->cuda};
    for (int side = 0; side < 2; side++) {
        sy_backend *be = side == 0 ? cpu_be : cuda_be;
        int64_t bytes = kv_bytes(w, be);
        uint16_t *p = NULL;
        assert_int_equal(posix_memalign((void **)&p, 64, (size_t)bytes), 0);
        hold(p, NULL, 0);
        for (int64_t i = 0; i < bytes / 2; i++)
            p[i] = fill;
        *kv[side] = (sy_kv_layer){p, (int64_t)be->ops->kv_page_bytes(be, &w->spec.attn)};
    }
}

static inline void send_pages(world *w) {
    w->cuda_pages = make_output(w->cuda.data, kv_bytes(w, cuda_be));
    w->cuda.data = w->cuda_pages.device;
}

/* Random q, k and v at every position, written into the pages of both tables by hand. Positions
 * behind the last keep what the pages held. */
static inline void fill_pages(world *w, uint16_t fill) {
    const sy_attn_spec *a = &w->spec.attn;
    int d = a->head_dim;
    deal_pages(w);
    make_pages(w, fill);
    for (int s = 0; s < w->n_sequences; s++) {
        sequence *q = &w->seq[s];
        q->q = random_bf16(q->length * a->heads * d, 2);
        q->k = widen(random_bf16(a->kv_heads * q->length * d, 2), a->kv_heads * q->length * d);
        q->v = widen(random_bf16(a->kv_heads * q->length * d, 2), a->kv_heads * q->length * d);
        for (int h = 0; h < a->kv_heads; h++)
            for (int64_t t = 0; t < q->length; t++) {
                int slot = (int)(t % SY_PAGE_TOKENS);
                int64_t page = q->pages[t / SY_PAGE_TOKENS];
                uint16_t *cpu = (void *)((char *)w->cpu.data + page * w->cpu.page_bytes);
                uint16_t *cuda = (void *)((char *)w->cuda.data + page * w->cuda.page_bytes);
                for (int i = 0; i < d; i++) {
                    uint16_t k = sy_bf16_from_f32(q->k[(h * q->length + t) * d + i]);
                    uint16_t v = sy_bf16_from_f32(q->v[(h * q->length + t) * d + i]);
                    cpu[cpu_key(a, h, slot, i)] = cuda[cuda_key(a, h, slot, i)] = k;
                    cpu[cpu_value(a, h, slot, i)] = cuda[cuda_value(a, h, slot, i)] = v;
                }
            }
    }
    send_pages(w);
}

/* The batch of some pieces; spans [n]. */
static inline sy_batch
batch_of(const world *w, const piece *p, int n, sy_span *span, const int32_t *ids) {
    sy_batch b = {.n_spans = n, .span = span, .ids = ids};
    for (int i = 0; i < n; i++) {
        span[i] = (sy_span){b.n_rows, p[i].n, p[i].position, w->seq[p[i].seq].pages};
        b.n_rows += p[i].n;
    }
    return b;
}

/* Relative error of one p, from the errors of its score and of the exponential: scores are
 * scaled and their maximum subtracted in float32, exp2 is good to 2^-22. */
static inline double error_of_p(double score_error, double score, double max) {
    return expm1(score_error) + (fabs(score) + fabs(max)) * 0x1p-23 + 0x1p-22;
}

/* One row and head. P is rounded to bf16 before the second product, which moves it by at most
 * 2^-8 of itself; the output is rounded once more. */
static inline void expect_attended(const world *w,
                                   int seq,
                                   int64_t position,
                                   int head,
                                   const uint16_t *cuda,
                                   const uint16_t *cpu) {
    const sy_attn_spec *a = &w->spec.attn;
    const sequence *s = &w->seq[seq];
    bool latent = a->kind == SY_ATTN_MLA;
    int kv = latent ? 0 : head / (a->heads / a->kv_heads);
    int d = (int)(sy_attn_o_width(a) / a->heads), dk = (int)(sy_attn_q_width(a) / a->heads);
    int64_t n = position + 1, first = a->window > 0 ? sy_max(n - a->window, 0) : 0;
    const float *k = s->k + kv * s->length * dk;
    const float *v = latent ? k : s->v + kv * s->length * d;
    float q[1024];
    double *p = malloc((size_t)n * sizeof *p), *error[2], max = -INFINITY, sum = 0;
    double scale = (double)a->softmax_scale, sum_error[2] = {0, 0};
    error[0] = malloc((size_t)n * sizeof(double)),
    error[1] = malloc((size_t)n * sizeof(double));
    for (int i = 0; i < dk; i++)
        q[i] = sy_f32_from_bf16(s->q[(position * a->heads + head) * dk + i]);
    for (int64_t t = first; t < n; t++) {
        sum64 dot = dot64(q, k + t * dk, dk);
        p[t] = dot.y * scale;
        error[0][t] = cuda_bound(dk, dot.magnitude, SY_BF16) * scale;
        error[1][t] = cpu_bound(dk, dot.magnitude) * scale;
        max = fmax(max, p[t]);
    }
    if (w->sinks != NULL) {
        max = fmax(max, (double)w->sinks[head]);
        sum = exp((double)w->sinks[head] - max);
        for (int side = 0; side < 2; side++)
            sum_error[side] = sum * error_of_p(0, (double)w->sinks[head], max);
    }
    for (int64_t t = first; t < n; t++) {
        double e = exp(p[t] - max);
        for (int side = 0; side < 2; side++) {
            error[side][t] = error_of_p(error[side][t], p[t], max);
            sum_error[side] += e * error[side][t];
        }
        sum += p[t] = e;
    }
    for (int i = 0; i < d; i++) {
        double exact = 0, average = 0, bound[2] = {0, 0};
        for (int64_t t = first; t < n; t++) {
            double pv = p[t] * (double)v[t * (latent ? dk : d) + i] / sum;
            exact += pv;
            average += fabs(pv);
            for (int side = 0; side < 2; side++)
                bound[side] += fabs(pv) * error[side][t];
        }
        double pages = (double)sy_ceil_div(n - first, SY_PAGE_TOKENS) + 1;
        double chain[2] = {(double)(n - first) / 16 + 4 * pages + 8,
                           (double)(n - first) / 4 + 4 * pages + 8};
        for (int side = 0; side < 2; side++)
            bound[side] = bf16_bound(exact, bound[side] + fabs(exact) * sum_error[side] / sum +
                                                average * (chain[side] * 0x1p-22 + 0x1.02p-8));
        char what[64];
        snprintf(what, sizeof what, "sequence %d, head %d, o", seq, head);
        expect_near(what, position, i, (double)sy_f32_from_bf16(cuda[i]),
                    (double)sy_f32_from_bf16(cpu[i]), exact, bound[0], bound[1]);
    }
    free(p), free(error[0]), free(error[1]);
}

#endif
