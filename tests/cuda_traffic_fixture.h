/* A layer on the emulated device with memory for one step, and what the kernels of a step ask of
 * memory, as the emulation's access checker counts it. */
#ifndef SY_TESTS_CUDA_TRAFFIC_FIXTURE_H
#define SY_TESTS_CUDA_TRAFFIC_FIXTURE_H

#include "tests/cuda_fixture.h"
#include "tests/emulation/emulation.h"

/* ---- a layer whose weights are random bytes in one block, its pages in another ---- */

typedef struct shape {
    const char *name;
    int hidden, inter, heads, kv_heads, head_dim, experts, top_k, vocab;
    int64_t context; /* of every sequence in a decode step */
} shape;

enum { MOST_EXPERTS = 16, WEIGHTS = 1, PAGES = 2 };

typedef struct layer {
    const shape *of;
    sy_layer_spec spec;
    sy_layer_weights w;
    sy_matrix gate_up[MOST_EXPERTS], down[MOST_EXPERTS], table, lm_head;
    sy_rope_table rope;
    sy_kv_layer kv;
    int64_t kv_bytes;
    sy_device_placement placement;
    void *weights;
    int64_t weight_bytes;
    /* one step */
    int n_rows, n_spans;
    sy_span span[MOST_ROWS];
    sy_batch batch;
    int32_t ids[MOST_ROWS], output_row[MOST_ROWS];
    void *q, *o, *xn, *h;
    float *x, *y, *shared, *logits, *weight, *returned;
    int32_t *expert, *first, *active, *row, *pair;
} layer;

static inline void *room(int64_t bytes) {
    void *p;
    MUST(cuda_be->ops->alloc(cuda_be, &p, (uint64_t)bytes, "test"));
    hold(NULL, p, (uint64_t)bytes);
    return p;
}

static inline void *room_of_floats(int64_t n, float middle, float range) {
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = middle + uniform(range);
    void *device = device_copy(x, n * (int64_t)sizeof *x);
    free(x);
    return device;
}

static inline sy_matrix matrix_of(layer *l, int parts, int64_t n, int64_t k) {
    sy_matrix m = {.data = (char *)l->weights + l->weight_bytes,
                   .dtype = SY_BF16,
                   .parts = parts,
                   .n = n,
                   .k = k};
    uint64_t bytes = cuda_be->ops->matrix_bytes(cuda_be, &m);
    assert_true(bytes % 256 == 0);
    l->weight_bytes += (int64_t)bytes;
    return m;
}

/* With l->weights NULL this only finds how many bytes there are. */
static inline void lay_out_weights(layer *l) {
    const shape *s = l->of;
    int64_t q = (int64_t)s->heads * s->head_dim, kv = (int64_t)s->kv_heads * s->head_dim;
    l->weight_bytes = 0;
    l->table = matrix_of(l, 1, s->vocab, s->hidden);
    l->lm_head = matrix_of(l, 1, s->vocab, s->hidden);
    l->w.q = matrix_of(l, 1, q, s->hidden);
    l->w.k = matrix_of(l, 1, kv, s->hidden);
    l->w.v = matrix_of(l, 1, kv, s->hidden);
    l->w.o = matrix_of(l, 1, s->hidden, q);
    l->w.router = matrix_of(l, 1, s->experts, s->hidden);
    l->w.ffn_gate_up = matrix_of(l, 2, s->inter, s->hidden);
    l->w.ffn_down = matrix_of(l, 1, s->hidden, s->inter);
    for (int e = 0; e < s->experts; e++)
        l->gate_up[e] = matrix_of(l, 2, s->inter, s->hidden);
    for (int e = 0; e < s->experts; e++)
        l->down[e] = matrix_of(l, 1, s->hidden, s->inter);
}

static inline void make_weights(layer *l) {
    lay_out_weights(l);
    uint16_t *random = random_bf16(l->weight_bytes / 2, 0.1f);
    l->weights = device_copy(random, l->weight_bytes);
    lay_out_weights(l);
    l->w.gate_up = l->gate_up;
    l->w.down = l->down;
    l->w.n_slots = l->of->experts;
    l->w.attn_norm = room_of_floats(l->of->hidden, 1, 0.5f);
    l->w.ffn_norm = room_of_floats(l->of->hidden, 1, 0.5f);
    l->w.q_norm = room_of_floats(l->of->head_dim, 1, 0.5f);
    l->w.k_norm = room_of_floats(l->of->head_dim, 1, 0.5f);
}

static inline void make_spec(layer *l) {
    const shape *s = l->of;
    l->spec = (sy_layer_spec){.attn = {.heads = s->heads,
                                       .kv_heads = s->kv_heads,
                                       .head_dim = s->head_dim,
                                       .qk_norm = SY_QK_NORM_PER_HEAD,
                                       .rope.dim = s->head_dim,
                                       .softmax_scale = 0.1f},
                              .ffn = {.kind = SY_FFN_MOE,
                                      .inter = s->inter,
                                      .experts = s->experts,
                                      .top_k = s->top_k,
                                      .renorm = true,
                                      .routed_scale = 1},
                              .norm_eps = 1e-6f};
    MUST(cuda_be->ops->reserve(cuda_be, &(sy_limits){.max_rows = MOST_ROWS,
                                                     .max_pairs = MOST_ROWS * s->top_k,
                                                     .max_context = s->context,
                                                     .hidden = s->hidden,
                                                     .heads = s->heads,
                                                     .kv_heads = s->kv_heads,
                                                     .head_dim = s->head_dim,
                                                     .max_inter = s->inter,
                                                     .experts = s->experts,
                                                     .top_k = s->top_k,
                                                     .vocab = s->vocab}));
}

static inline void make_placement(layer *l) {
    int n = l->of->experts;
    int32_t first[MOST_EXPERTS + 1], home[MOST_EXPERTS][2];
    for (int e = 0; e <= n; e++)
        first[e] = e;
    for (int e = 0; e < n; e++)
        home[e][0] = 0, home[e][1] = e;
    l->placement = (sy_device_placement){.n_experts = n, .n_ranks = 1, .n_slots = n};
    l->placement.home_first = device_copy(first, (n + 1) * 4);
    l->placement.home = device_copy(home, n * 8);
}

/* Decode: a sequence for each row, at the last position of the context. Prefill: the last rows of
 * one sequence. */
static inline void make_batch(layer *l, int n_rows, bool decode) {
    const shape *s = l->of;
    int64_t pages = sy_ceil_div(s->context, SY_PAGE_TOKENS);
    l->n_rows = n_rows;
    l->n_spans = decode ? n_rows : 1;
    int32_t *page = host_block(l->n_spans * pages * 4);
    for (int64_t i = 0; i < l->n_spans * pages; i++)
        page[i] = (int32_t)(l->n_spans * pages - 1 - i);
    for (int i = 0; i < l->n_spans; i++)
        l->span[i] = (sy_span){i, decode ? 1 : n_rows, s->context - (decode ? 1 : n_rows),
                               page + i * pages};
    for (int i = 0; i < n_rows; i++)
        l->ids[i] = (int32_t)random_in(0, s->vocab - 1), l->output_row[i] = i;
    l->batch = (sy_batch){n_rows, l->n_spans, l->span, l->ids};
    l->kv.page_bytes = (int64_t)cuda_be->ops->kv_page_bytes(cuda_be, &l->spec.attn);
    l->kv_bytes = l->n_spans * pages * l->kv.page_bytes;
    l->kv.data = device_copy(random_bf16(l->kv_bytes / 2, 2), l->kv_bytes);
    l->rope = (sy_rope_table){s->context, s->head_dim / 2,
                              room_of_floats(s->context * s->head_dim / 2, 0, 1),
                              room_of_floats(s->context * s->head_dim / 2, 0, 1)};
}

static inline void make_layer(layer *l, const shape *s, int n_rows, bool decode) {
    *l = (layer){.of = s};
    snprintf(where, sizeof where, "%s, %d rows", s->name, n_rows);
    make_spec(l);
    make_weights(l);
    make_placement(l);
    make_batch(l, n_rows, decode);
    int64_t q = (int64_t)s->heads * s->head_dim, pairs = (int64_t)n_rows * s->top_k;
    l->q = room(n_rows * q * 2);
    l->o = room(n_rows * q * 2);
    l->xn = room((int64_t)n_rows * s->hidden * 2);
    l->x = room((int64_t)n_rows * s->hidden * 4);
    l->shared = room((int64_t)n_rows * s->hidden * 4);
    l->h = room(sy_max(pairs, n_rows) * s->inter * 2);
    l->y = room(pairs * s->hidden * 4);
    l->returned = room((int64_t)n_rows * s->hidden * 4);
    l->logits = room((int64_t)n_rows * s->vocab * 4);
    l->weight = room(pairs * 4);
    l->expert = room(pairs * 4);
    l->row = room(pairs * 4);
    l->pair = room(pairs * 4);
    l->first = room((s->experts + 1) * 4);
    l->active = room((s->experts + 1) * 4);
}

/* ---- what was counted ---- */

/* The most that each kind of access may need, over what the same bytes need at least: sectors of
 * global memory, passes of shared memory. */
typedef struct limits {
    double global_read, global_write, shared_read, shared_write;
} limits;

static inline bool begins(const char *s, const char *with) {
    return strncmp(s, with, strlen(with)) == 0;
}

/* Whole sectors and no bank conflict, but for what cannot be otherwise, or is too little to care. */
static inline limits limits_of(const char *step, const char *kernel) {
    limits m = {1.05, 1.05, 1, 1};
    bool h = begins(step, "experts_up") || begins(step, "dense_ffn") || begins(step, "latent");
    if (begins(kernel, "gather_rows")) /* a fragment holds two rows by turns */
        m.global_read = 2;
    if (begins(kernel,
               "pack_tiles")) /* when loading: 16 bytes of a row at a time; 4 of each 8 */
        m.global_read = 2, m.global_write = 4;
    if (begins(kernel, "finish_qkv")) /* neighbours in v, which g++ takes one by one */
        m.global_read = 1.1, m.global_write = 1.2;
    if (begins(kernel,
               "attend_")) /* 16 bytes of a row of o; states by float2, which g++ splits */
        m.global_write = 2;
    if (begins(kernel, "attend_latent")) /* and of q, once a block */
        m.global_read = 1.25;
    if (begins(kernel, "finish_latent")) /* both values of a pair, by both lanes */
        m.global_read = 1.3, m.global_write = 1.2;
    if (begins(kernel, "multiply_") && h) /* eight values in bf16 are half a sector */
        m.global_write = 2;
    if (begins(kernel, "choose_experts")) /* lanes that won look again, alone; scores of few */
        m.global_read = 1.2;
    if (begins(kernel, "plan_slots")) /* few bytes: look-ups, and the lists of the slots */
        m.global_read = 3, m.global_write = 4;
    if (begins(kernel, "sum_segments") || begins(kernel, "sum_at_home")) /* look-ups */
        m.global_read = 1.1;
    if (begins(kernel, "choose_tokens")) /* a histogram */
        m.shared_write = 1.5;
    return m;
}

static inline double ratio(emu_traffic t) {
    return t.ideal == 0 ? 1 : (double)t.units / (double)t.ideal;
}

static inline void expect_ratio(const char *step,
                                const char *kernel,
                                const char *what,
                                emu_traffic t,
                                double most) {
    if (ratio(t) > most)
        fail_msg(
            "%s: %s: %s: %s: %llu, ideal are %llu: %.3f times as many, expected at most %.3f",
            where, step, kernel, what, (unsigned long long)t.units, (unsigned long long)t.ideal,
            ratio(t), most);
}

/* Bytes, added up over the kernels of a step. */
typedef struct total {
    uint64_t launches, read, weights, pages, written, pages_written;
} total;

static inline void add_total(total *to, const total *t) {
    to->launches += t->launches;
    to->read += t->read;
    to->weights += t->weights;
    to->pages += t->pages;
    to->written += t->written;
    to->pages_written += t->pages_written;
}

static inline total total_of(const char *kernel) {
    emu_stats all, weights, pages;
    emu_stats_for(kernel, &all);
    emu_stats_in(kernel, WEIGHTS, &weights);
    emu_stats_in(kernel, PAGES, &pages);
    return (total){all.launches,
                   all.global_read.bytes,
                   weights.global_read.bytes,
                   pages.global_read.bytes,
                   all.global_write.bytes,
                   pages.global_write.bytes};
}

static inline void print_head(void) {
    printf(
        "\n%s\n\n"
        "| step | kernel | launches | bytes read | of weights | of keys and values | written "
        "| sectors / ideal, read | written | passes / ideal, read | written |\n"
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n",
        where);
}

static inline void print_total(const char *step, const char *kernel, const total *t) {
    printf("| %s | %s | %llu | %llu | %llu | %llu | %llu |", step, kernel,
           (unsigned long long)t->launches, (unsigned long long)t->read,
           (unsigned long long)t->weights, (unsigned long long)t->pages,
           (unsigned long long)t->written);
}

static inline void begin_count(const layer *l) {
    emu_stats_reset();
    emu_stats_area(WEIGHTS, l->weights, (uint64_t)l->weight_bytes);
    emu_stats_area(PAGES, l->kv.data, (uint64_t)l->kv_bytes);
}

static inline total end_count(const char *step) {
    total sum = {0};
    MUST(cuda_be->ops->device->synchronize(cuda_be, NULL));
    assert_non_null(emu_stats_kernel(0));
    for (int i = 0; emu_stats_kernel(i) != NULL; i++) {
        char name[256];
        emu_stats s;
        snprintf(name, sizeof name, "%s", emu_stats_kernel(i));
        limits most = limits_of(step, name);
        total t = total_of(name);
        emu_stats_for(name, &s);
        print_total(step, name, &t);
        printf(" %.2f | %.2f | %.2f | %.2f |\n", ratio(s.global_read), ratio(s.global_write),
               ratio(s.shared_read), ratio(s.shared_write));
        expect_ratio(step, name, "sectors read", s.global_read, most.global_read);
        expect_ratio(step, name, "sectors written", s.global_write, most.global_write);
        expect_ratio(step, name, "passes of reads", s.shared_read, most.shared_read);
        expect_ratio(step, name, "passes of writes", s.shared_write, most.shared_write);
        add_total(&sum, &t);
    }
    if (emu_problems() != 0) fail_msg("%s: %s: %s", where, step, emu_problem(0));
    return sum;
}

#endif
