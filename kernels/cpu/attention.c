/* Attention around its core: norm, the q k v products, q/k norm, clip, rotary and the append to
 * the pages in front of it, the output product behind it. The core is attend.c. */
#include <string.h>

#include "base/memory.h"
#include "kernels/cpu/kv_page.h"

uint64_t sy_cpu_kv_page_bytes(const sy_backend *be, const sy_attn_spec *attn) {
    uint64_t bytes;
    if (!sy_mul_u64((uint64_t)sy_kv_layout_of(be, attn->head_dim).head_bytes,
                    (uint64_t)attn->kv_heads, &bytes))
        return UINT64_MAX;
    return bytes;
}

typedef struct attn_in_job {
    sy_cpu *cpu;
    const sy_layer_spec *spec;
    const sy_layer_weights *w;
    const sy_rope_table *rope;
    const sy_batch *b;
    const float *x; /* [T, H] */
    char *q_out;    /* act [T, A*D] */
    const sy_kv_layer *kv;
    sy_kv_layout layout;
    int64_t hidden, n_q, n_kv; /* H, A*D, kv*D */
    /* Shared scratch. With one row each thread norms it for itself into its own row of xn,
     * which is cheaper than a barrier; with more the rows are shared out. */
    char *xn; /* act [max(T, threads), H] */
    int64_t xn_row_bytes;
    float *q, *k, *v; /* products: [T, A*D], [T, kv*D], [T, kv*D] */
} attn_in_job;

static void
carve_attn_in(sy_arena *arena, const sy_cpu *cpu, int64_t n_rows, attn_in_job *job) {
    uint64_t rows = (uint64_t)n_rows, float_bytes = sizeof(float);
    uint64_t xn_rows = (uint64_t)sy_max(n_rows, sy_pool_threads(cpu->pool));
    job->xn_row_bytes = job->hidden * sy_act_bytes(&cpu->base);
    job->xn = sy_arena_take(arena, xn_rows, (uint64_t)job->xn_row_bytes);
    job->q = sy_arena_take(arena, rows, (uint64_t)job->n_q * float_bytes);
    job->k = sy_arena_take(arena, rows, (uint64_t)job->n_kv * float_bytes);
    job->v = sy_arena_take(arena, rows, (uint64_t)job->n_kv * float_bytes);
}

static void norm_input(const attn_in_job *job, int64_t row, char *out) {
    bool wide = job->cpu->base.act == SY_F32;
    job->cpu->isa->vec.rms_norm(job->hidden, job->x + row * job->hidden, job->w->attn_norm,
                                job->spec->norm_eps, wide ? NULL : (void *)out,
                                wide ? (void *)out : NULL);
}

/* A page that begins anew may hold anything from its last use. Keys of tokens that do not exist
 * yet are masked, but their values are multiplied by P = 0, and 0 * NaN is NaN: values are
 * cleared, so that a broken sequence can never reach into another one. */
static void clear_new_pages(const attn_in_job *job, int64_t row_begin, int64_t row_end) {
    for (int i = 0; i < job->b->n_spans; i++) {
        const sy_span *span = &job->b->span[i];
        int64_t begin = sy_max(row_begin, span->first_row);
        int64_t end = sy_min(row_end, (int64_t)span->first_row + span->n_rows);
        for (int64_t row = begin; row < end; row++) {
            int64_t position = span->position + row - span->first_row;
            if (position % SY_PAGE_TOKENS != 0) continue;
            char *page = sy_kv_page(job->kv, span, position);
            for (int h = 0; h < job->spec->attn.kv_heads; h++)
                memset(page + h * job->layout.head_bytes + job->layout.k_bytes, 0,
                       (size_t)(job->layout.head_bytes - job->layout.k_bytes));
        }
    }
}

/* The thread's part of q, k and v: their panels are one list, shared out in one piece each. */
static void multiply_share(const attn_in_job *job, int thread, int n_threads, const char *xn) {
    const sy_matrix *matrix[3] = {&job->w->q, &job->w->k, &job->w->v};
    float *product[3] = {job->q, job->k, job->v};
    int64_t total = 0, begin, end;
    for (int i = 0; i < 3; i++)
        total += sy_cpu_panels(matrix[i]);
    sy_pool_share(total, thread, n_threads, &begin, &end);
    for (int i = 0; i < 3; i++) {
        int64_t n = sy_cpu_panels(matrix[i]);
        int64_t from = sy_max(begin, 0), to = sy_min(end, n);
        if (from < to)
            sy_cpu_matmul(job->cpu, thread, matrix[i], from, to, 0, job->b->n_rows, xn,
                          job->hidden, product[i], matrix[i]->n);
        begin -= n;
        end -= n;
    }
}

/* q/k norm, clip and rotary of one row of q or k, in place. */
static void finish_heads(const attn_in_job *job,
                         int n_heads,
                         const float *norm,
                         int64_t position,
                         float *x) {
    const sy_attn_spec *attn = &job->spec->attn;
    const sy_vector_kernels *vec = &job->cpu->isa->vec;
    int64_t d = attn->head_dim, width = n_heads * d;
    if (attn->qk_norm == SY_QK_NORM_WHOLE)
        vec->rms_norm_f32(width, x, norm, job->spec->norm_eps);
    else if (attn->qk_norm == SY_QK_NORM_PER_HEAD)
        for (int h = 0; h < n_heads; h++)
            vec->rms_norm_f32(d, x + h * d, norm, job->spec->norm_eps);
    if (attn->qk_clip > 0.0f) vec->clamp(width, attn->qk_clip, x);
    if (attn->rope.dim == 0) return;
    const float *cos = job->rope->cos + position * job->rope->half;
    const float *sin = job->rope->sin + position * job->rope->half;
    for (int h = 0; h < n_heads; h++)
        vec->rope_half(job->rope->half, cos, sin, x + h * d);
}

static void append_bf16(const attn_in_job *job,
                        char *page,
                        int slot,
                        const uint16_t *k,
                        const uint16_t *v) {
    int d = job->spec->attn.head_dim;
    for (int h = 0; h < job->spec->attn.kv_heads; h++, k += d, v += d) {
        char *head = page + h * job->layout.head_bytes;
        for (int i = 0; i < d; i += 2)
            memcpy(head + (i * (int64_t)SY_PAGE_TOKENS + slot * 2) * 2, k + i, 4);
        uint16_t *values = (uint16_t *)(void *)(head + job->layout.k_bytes);
        for (int i = 0; i < d; i++)
            values[i / SY_PANEL * (SY_PAGE_TOKENS * SY_PANEL) + slot / 2 * (2 * SY_PANEL) +
                   i % SY_PANEL * 2 + slot % 2] = v[i];
    }
}

static void
append_f32(const attn_in_job *job, char *page, int slot, const float *k, const float *v) {
    int d = job->spec->attn.head_dim;
    for (int h = 0; h < job->spec->attn.kv_heads; h++, k += d, v += d) {
        char *head = page + h * job->layout.head_bytes;
        float *keys = (float *)(void *)head;
        float *values = (float *)(void *)(head + job->layout.k_bytes);
        for (int i = 0; i < d; i++) {
            keys[i * SY_PAGE_TOKENS + slot] = k[i];
            values[i / SY_PANEL * (SY_PAGE_TOKENS * SY_PANEL) + slot * SY_PANEL +
                   i % SY_PANEL] = v[i];
        }
    }
}

static void finish_q(const attn_in_job *job, int64_t row, int64_t position) {
    float *q = job->q + row * job->n_q;
    finish_heads(job, job->spec->attn.heads, job->w->q_norm, position, q);
    char *out = job->q_out + row * job->n_q * sy_act_bytes(&job->cpu->base);
    if (job->cpu->base.act == SY_F32)
        memcpy(out, q, (size_t)job->n_q * sizeof *q);
    else
        job->cpu->isa->vec.round_bf16(job->n_q, q, (uint16_t *)(void *)out);
}

static void finish_kv(const attn_in_job *job,
                      int thread,
                      int64_t row,
                      const sy_span *span,
                      int64_t position) {
    const sy_vector_kernels *vec = &job->cpu->isa->vec;
    float *k = job->k + row * job->n_kv, *v = job->v + row * job->n_kv;
    finish_heads(job, job->spec->attn.kv_heads, job->w->k_norm, position, k);
    if (job->spec->attn.qk_clip > 0.0f) vec->clamp(job->n_kv, job->spec->attn.qk_clip, v);
    char *page = sy_kv_page(job->kv, span, position);
    int slot = (int)(position % SY_PAGE_TOKENS);
    if (job->cpu->base.act == SY_F32) {
        append_f32(job, page, slot, k, v);
        return;
    }
    uint16_t *rounded =
        (uint16_t *)(void *)(job->cpu->scratch + thread * job->cpu->scratch_bytes);
    vec->round_bf16(job->n_kv, k, rounded);
    vec->round_bf16(job->n_kv, v, rounded + job->n_kv);
    append_bf16(job, page, slot, rounded, rounded + job->n_kv);
}

/* Units are (row, q) and (row, k and v), so that one row occupies two threads. */
static void finish_share(const attn_in_job *job, int thread, int n_threads) {
    int64_t begin, end;
    sy_pool_share(2 * (int64_t)job->b->n_rows, thread, n_threads, &begin, &end);
    for (int i = 0; i < job->b->n_spans; i++) {
        const sy_span *span = &job->b->span[i];
        int64_t first = 2 * (int64_t)span->first_row, last = first + 2 * (int64_t)span->n_rows;
        for (int64_t unit = sy_max(begin, first); unit < sy_min(end, last); unit++) {
            int64_t row = unit / 2, position = span->position + row - span->first_row;
            if (unit % 2 == 0)
                finish_q(job, row, position);
            else
                finish_kv(job, thread, row, span, position);
        }
    }
}

static void attn_in_phases(void *arg, int thread, int n_threads) {
    const attn_in_job *job = arg;
    int64_t begin, end;
    sy_pool_share(job->b->n_rows, thread, n_threads, &begin, &end);
    clear_new_pages(job, begin, end);
    const char *xn = job->xn;
    if (job->b->n_rows == 1) {
        xn = job->xn + thread * job->xn_row_bytes;
        norm_input(job, 0, job->xn + thread * job->xn_row_bytes);
    } else {
        for (int64_t t = begin; t < end; t++)
            norm_input(job, t, job->xn + t * job->xn_row_bytes);
        sy_pool_barrier(job->cpu->pool);
    }
    multiply_share(job, thread, n_threads, xn);
    sy_pool_barrier(job->cpu->pool);
    finish_share(job, thread, n_threads);
}

sy_status sy_cpu_attn_in(sy_backend *be,
                         const sy_layer_spec *spec,
                         const sy_layer_weights *w,
                         const sy_rope_table *rope,
                         const sy_batch *b,
                         const float *x,
                         void *q,
                         const sy_kv_layer *kv,
                         sy_stream *stream) {
    (void)stream;
    if (b->n_rows == 0) return SY_OK;
    sy_cpu *cpu = sy_cpu_of(be);
    attn_in_job job = {.cpu = cpu,
                       .spec = spec,
                       .w = w,
                       .rope = rope,
                       .b = b,
                       .x = x,
                       .q_out = q,
                       .kv = kv,
                       .layout = sy_kv_layout_of(be, spec->attn.head_dim),
                       .hidden = w->q.k,
                       .n_q = w->q.n,
                       .n_kv = w->k.n};
    for (int i = 0; i < b->n_spans && spec->attn.rope.dim > 0; i++) {
        int64_t end = b->span[i].position + b->span[i].n_rows;
        if (end > rope->n_positions)
            return sy_fail(SY_ERR_INTERNAL,
                           "attn_in: position %lld, but the rotary table ends at %lld",
                           (long long)end - 1, (long long)rope->n_positions);
    }
    sy_arena need = {0}, arena = {.base = cpu->shared, .size = cpu->shared_bytes};
    carve_attn_in(&need, cpu, b->n_rows, &job);
    if (need.used > cpu->shared_bytes)
        return sy_fail(SY_ERR_INTERNAL, "attn_in: %d rows, but scratch was reserved for %lld",
                       b->n_rows, (long long)cpu->limits.max_rows);
    carve_attn_in(&arena, cpu, b->n_rows, &job);
    sy_pool_run(cpu->pool, attn_in_phases, &job);
    return SY_OK;
}

typedef struct attn_out_job {
    sy_cpu *cpu;
    const sy_matrix *w;
    int64_t leaf, n_rows;
    const char *o; /* act [T, A*D] */
    float *x;      /* [T, H] */
    float *y;      /* shared scratch [T, H] */
} attn_out_job;

static void attn_out_share(void *arg, int thread, int n_threads) {
    const attn_out_job *job = arg;
    int64_t begin, end, hidden = job->w->n;
    sy_pool_share(sy_cpu_panels(job->w), thread, n_threads, &begin, &end);
    if (begin == end) return;
    int64_t column = begin * SY_PANEL, n = sy_min(hidden, end * SY_PANEL) - column;
    sy_cpu_matmul(job->cpu, thread, job->w, begin, end, job->leaf, job->n_rows, job->o,
                  job->w->k, job->y, hidden);
    for (int64_t t = 0; t < job->n_rows; t++)
        job->cpu->isa->vec.add(n, job->y + t * hidden + column, job->x + t * hidden + column);
}

sy_status sy_cpu_attn_out(sy_backend *be,
                          const sy_layer_spec *spec,
                          const sy_layer_weights *w,
                          int64_t n_rows,
                          const void *o,
                          float *x,
                          sy_stream *stream) {
    (void)stream;
    if (n_rows == 0) return SY_OK;
    sy_cpu *cpu = sy_cpu_of(be);
    if (n_rows > cpu->limits.max_rows || w->o.n > cpu->limits.hidden)
        return sy_fail(SY_ERR_INTERNAL,
                       "attn_out: %lld rows, but scratch was reserved for %lld",
                       (long long)n_rows, (long long)cpu->limits.max_rows);
    int64_t group = (int64_t)spec->attn.heads / spec->attn.kv_heads * spec->attn.head_dim;
    attn_out_job job = {.cpu = cpu,
                        .w = &w->o,
                        .leaf = sy_round_up(SY_LEAF, group),
                        .n_rows = n_rows,
                        .o = o,
                        .x = x,
                        .y = (float *)(void *)cpu->shared};
    sy_pool_run(cpu->pool, attn_out_share, &job);
    return SY_OK;
}

void sy_cpu_attention_scratch(const sy_cpu *cpu,
                              const sy_limits *l,
                              uint64_t *thread,
                              uint64_t *shared) {
    attn_in_job job = {.hidden = l->hidden,
                       .n_q = (int64_t)l->heads * l->head_dim,
                       .n_kv = (int64_t)l->kv_heads * l->head_dim};
    sy_arena in = {0}, out = {0};
    carve_attn_in(&in, cpu, l->max_rows, &job);
    sy_arena_take(&out, (uint64_t)l->max_rows, (uint64_t)l->hidden * sizeof(float));
    sy_cpu_attend_scratch(cpu, l, thread, shared);
    uint64_t append = 2 * (uint64_t)job.n_kv * sizeof(uint16_t);
    *thread = *thread > append ? *thread : append;
    *shared = *shared > in.used ? *shared : in.used;
    *shared = *shared > out.used ? *shared : out.used;
}
