/* attn_in of grouped queries: norm, the q k v products, biases, q/k norm, clip, rotary, query
 * temperature and the append to the pages; and what all kinds of attention begin with. */
#include "kernels/cpu/attention.h"

#include "kernels/cpu/attend.h"

uint64_t sy_cpu_kv_page_bytes(const sy_backend *be, const sy_attn_spec *attn) {
    sy_kv_layout layout = sy_kv_layout_of(be, attn);
    uint64_t bytes;
    if (!sy_mul_u64((uint64_t)layout.head_bytes, (uint64_t)layout.n_heads, &bytes))
        return UINT64_MAX;
    return bytes;
}

sy_status sy_cpu_attention_check(const sy_attn_spec *attn) {
    if (attn->kind != SY_ATTN_MLA) return SY_OK;
    const char *missing = NULL;
    if (attn->qkv_bias) missing = "biases of q, k and v";
    if (attn->qk_norm != SY_QK_NORM_NONE) missing = "norms of q and k";
    if (attn->qk_clip != 0) missing = "a clip of q, k and v";
    if (attn->mla.value % 2 != 0) missing = "heads of an odd width";
    if (attn->rope.dim != 0 && attn->rope.dim != attn->mla.rope)
        missing = "a rotary part of another width than its embedding";
    if (missing == NULL) return SY_OK;
    return sy_fail(SY_ERR_UNSUPPORTED, "latent attention with %s is not supported", missing);
}

typedef struct grouped_in {
    sy_attn_in in;
    int64_t n_q, n_kv; /* A*D, kv*D */
    /* Shared scratch. */
    sy_norm_rows xn;  /* act [T, H] */
    float *q, *k, *v; /* products: [T, A*D], [T, kv*D], [T, kv*D] */
} grouped_in;

static void carve(sy_arena *arena, int64_t n_rows, grouped_in *job) {
    uint64_t rows = (uint64_t)n_rows, float_bytes = sizeof(float);
    sy_norm_rows_carve(arena, job->in.cpu, n_rows, job->in.hidden, &job->xn);
    job->q = sy_arena_take(arena, rows, (uint64_t)job->n_q * float_bytes);
    job->k = sy_arena_take(arena, rows, (uint64_t)job->n_kv * float_bytes);
    job->v = sy_arena_take(arena, rows, (uint64_t)job->n_kv * float_bytes);
}

/* Bias, q/k norm, clip and rotary of one row of q or k, in place. */
static void finish_heads(const sy_attn_in *in,
                         int n_heads,
                         const float *bias,
                         const float *norm,
                         int64_t position,
                         float *x) {
    const sy_attn_spec *attn = &in->spec->attn;
    const sy_vector_kernels *vec = &in->cpu->isa->vec;
    int64_t d = attn->head_dim, width = n_heads * d;
    if (bias != NULL) vec->add(width, bias, x);
    if (attn->qk_norm == SY_QK_NORM_WHOLE)
        vec->rms_norm_f32(width, x, norm, in->spec->norm_eps);
    else if (attn->qk_norm == SY_QK_NORM_PER_HEAD)
        for (int h = 0; h < n_heads; h++)
            vec->rms_norm_f32(d, x + h * d, norm, in->spec->norm_eps);
    if (attn->qk_clip > 0.0f) vec->clamp(width, attn->qk_clip, x);
    for (int h = 0; h < n_heads; h++)
        sy_attn_rotate(in, position, x + h * d);
}

static void finish_q(const grouped_in *job, int64_t row, int64_t position) {
    const sy_attn_in *in = &job->in;
    float *q = job->q + row * job->n_q;
    finish_heads(in, in->spec->attn.heads, in->w->q_bias, in->w->q_norm, position, q);
    float scale = sy_query_scale(&in->spec->attn, position);
    if (scale != 1.0f) in->cpu->isa->vec.scale(job->n_q, scale, q, q);
    sy_attn_store_act(in->cpu, job->n_q, q,
                      in->q_out + row * job->n_q * sy_act_bytes(&in->cpu->base));
}

static void finish_kv(const grouped_in *job, int thread, const sy_row_part *p) {
    const sy_attn_in *in = &job->in;
    const sy_attn_spec *attn = &in->spec->attn;
    const sy_vector_kernels *vec = &in->cpu->isa->vec;
    float *k = job->k + p->row * job->n_kv, *v = job->v + p->row * job->n_kv;
    finish_heads(in, attn->kv_heads, in->w->k_bias, in->w->k_norm, p->position, k);
    if (in->w->v_bias != NULL) vec->add(job->n_kv, in->w->v_bias, v);
    if (attn->qk_clip > 0.0f) vec->clamp(job->n_kv, attn->qk_clip, v);
    char *page = sy_kv_page(in->kv, p->span, p->position);
    int slot = (int)(p->position % SY_PAGE_TOKENS);
    if (in->cpu->base.act == SY_F32) {
        sy_kv_put_keys_f32(&in->layout, page, slot, k);
        sy_kv_put_values_f32(&in->layout, page, slot, v);
        return;
    }
    uint16_t *rounded =
        (uint16_t *)(void *)(in->cpu->scratch + thread * in->cpu->scratch_bytes);
    vec->round_bf16(job->n_kv, k, rounded);
    vec->round_bf16(job->n_kv, v, rounded + job->n_kv);
    sy_kv_put_keys_bf16(&in->layout, page, slot, rounded);
    sy_kv_put_values_bf16(&in->layout, page, slot, rounded + job->n_kv);
}

/* The parts of a row are q, and k and v, so that one row occupies two threads. */
static void finish_part(void *arg, int thread, const sy_row_part *p) {
    if (p->part == 0)
        finish_q(arg, p->row, p->position);
    else
        finish_kv(arg, thread, p);
}

static void grouped_phases(void *arg, int thread, int n_threads) {
    grouped_in *job = arg;
    const sy_attn_in *in = &job->in;
    const sy_layer_weights *w = in->w;
    sy_attn_clear_pages(in, thread, n_threads);
    const char *xn = sy_norm_rows_make(&job->xn, in->cpu, thread, n_threads, in->b->n_rows,
                                       in->x, w->attn_norm, in->spec->norm_eps);
    sy_product products[3] = {{&w->q, job->q}, {&w->k, job->k}, {&w->v, job->v}};
    sy_cpu_multiply_share(in->cpu, thread, n_threads, products, 3, in->b->n_rows, xn);
    sy_pool_barrier(in->cpu->pool);
    sy_attn_share_parts(in->b, 2, thread, n_threads, finish_part, job);
}

/* Of a thread's own scratch: k and v of a row, rounded. */
static uint64_t thread_bytes(const grouped_in *job) {
    return 2 * (uint64_t)job->n_kv * sizeof(uint16_t);
}

static sy_status grouped_attn_in(const sy_attn_in *in) {
    sy_cpu *cpu = in->cpu;
    grouped_in job = {.in = *in, .n_q = in->w->q.n, .n_kv = in->w->k.n};
    sy_arena need = {0}, arena = {.base = cpu->shared, .size = cpu->shared_bytes};
    carve(&need, in->b->n_rows, &job);
    if (need.used > cpu->shared_bytes || thread_bytes(&job) > cpu->scratch_bytes)
        return sy_fail(SY_ERR_INTERNAL, "attn_in: %d rows, but scratch was reserved for %lld",
                       in->b->n_rows, (long long)cpu->limits.max_rows);
    carve(&arena, in->b->n_rows, &job);
    sy_pool_run(cpu->pool, grouped_phases, &job);
    return SY_OK;
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
    bool latent = spec->attn.kind == SY_ATTN_MLA;
    sy_attn_in in = {.cpu = sy_cpu_of(be),
                     .spec = spec,
                     .w = w,
                     .rope = rope,
                     .b = b,
                     .x = x,
                     .q_out = q,
                     .kv = kv,
                     .layout = sy_kv_layout_of(be, &spec->attn),
                     .hidden = latent ? w->kv_a.k : w->q.k};
    for (int i = 0; i < b->n_spans && spec->attn.rope.dim > 0; i++) {
        int64_t end = b->span[i].position + b->span[i].n_rows;
        if (end > rope->n_positions)
            return sy_fail(SY_ERR_INTERNAL,
                           "attn_in: position %lld, but the rotary table ends at %lld",
                           (long long)end - 1, (long long)rope->n_positions);
    }
    return latent ? sy_cpu_latent_in(&in) : grouped_attn_in(&in);
}

/* Sizes whose products below stay far from overflow. */
static bool fits(const sy_mla_spec *mla) {
    enum { MOST = 1 << 24 };
    const int sizes[] = {mla->q_rank, mla->kv_rank, mla->nope, mla->rope, mla->value};
    for (int i = 0; i < 5; i++)
        if (sizes[i] < 0 || sizes[i] > MOST) return false;
    return true;
}

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

void sy_cpu_attention_scratch(const sy_cpu *cpu,
                              const sy_limits *l,
                              uint64_t *thread,
                              uint64_t *shared) {
    grouped_in job = {.in = {.cpu = (sy_cpu *)cpu, .hidden = l->hidden},
                      .n_q = (int64_t)l->heads * l->head_dim,
                      .n_kv = (int64_t)l->kv_heads * l->head_dim};
    sy_arena in = {0};
    uint64_t thread_need = 0, shared_need = 0;
    if (!fits(&l->mla)) {
        *thread = *shared = UINT64_MAX;
        return;
    }
    carve(&in, l->max_rows, &job);
    sy_cpu_attend_scratch(cpu, l, thread, shared);
    *thread = larger(*thread, thread_bytes(&job));
    *shared = larger(*shared, in.used);
    sy_cpu_attn_out_scratch(cpu, l, &thread_need, &shared_need);
    *thread = larger(*thread, thread_need);
    *shared = larger(*shared, shared_need);
    if (l->mla.kv_rank == 0) return;
    sy_cpu_latent_in_scratch(cpu, l, &thread_need, &shared_need);
    *thread = larger(*thread, thread_need);
    *shared = larger(*shared, shared_need);
}
