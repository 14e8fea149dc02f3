/* attn_in of latent attention: what the pages keep of a token is one latent of c values and one
 * rotary key for all heads. In the absorbed form each head's q is turned into the latent's terms
 * (k_up) so that scores are its products with them; rows in the naive form (attend_naive.c) keep
 * their q. */
#include "kernels/cpu/attend.h"
#include "kernels/cpu/attention.h"

#include <string.h>

typedef struct latent_in {
    sy_attn_in in;
    int heads;       /* A                          */
    sy_mla_spec mla; /*                            */
    int64_t q_width; /* A * (nope + rope)          */
    int64_t key_dim; /* c + rope                   */
    /* Shared scratch. */
    sy_norm_rows xn;       /* act [T, H]                 */
    sy_norm_rows q_latent; /* act [T, q_rank]            */
    float *q_a;            /* [T, q_rank]                */
    float *kv_a;           /* [T, c + rope]              */
    float *q;              /* [T, A, nope + rope]        */
    char *q_nope;          /* act [T, A, nope]           */
} latent_in;

static void carve(sy_arena *arena, int64_t n_rows, latent_in *job) {
    uint64_t rows = (uint64_t)n_rows, act_bytes = (uint64_t)sy_act_bytes(&job->in.cpu->base);
    const sy_cpu *cpu = job->in.cpu;
    sy_norm_rows_carve(arena, cpu, n_rows, job->in.hidden, &job->xn);
    sy_norm_rows_carve(arena, cpu, n_rows, job->mla.q_rank, &job->q_latent);
    job->q_a = sy_arena_take(arena, rows, (uint64_t)job->mla.q_rank * sizeof(float));
    job->kv_a = sy_arena_take(arena, rows, (uint64_t)job->key_dim * sizeof(float));
    job->q = sy_arena_take(arena, rows, (uint64_t)job->q_width * sizeof(float));
    job->q_nope =
        sy_arena_take(arena, rows, (uint64_t)job->heads * (uint64_t)job->mla.nope * act_bytes);
}

/* The latent's norm, the rotary embedding of its key, and the append of both. */
static void finish_latent(void *arg, int thread, const sy_row_part *p) {
    const latent_in *job = arg;
    const sy_attn_in *in = &job->in;
    sy_cpu *cpu = in->cpu;
    float *latent = job->kv_a + p->row * job->key_dim;
    cpu->isa->vec.rms_norm_f32(job->mla.kv_rank, latent, in->w->kv_a_norm, job->mla.norm_eps);
    sy_attn_rotate(in, p->position, latent + job->key_dim - in->spec->attn.rope.dim);
    char *page = sy_kv_page(in->kv, p->span, p->position);
    int slot = (int)(p->position % SY_PAGE_TOKENS);
    if (cpu->base.act == SY_F32) {
        sy_kv_put_keys_f32(&in->layout, page, slot, latent);
        return;
    }
    uint16_t *rounded = (uint16_t *)(void *)(cpu->scratch + thread * cpu->scratch_bytes);
    cpu->isa->vec.round_bf16(job->key_dim, latent, rounded);
    sy_kv_put_keys_bf16(&in->layout, page, slot, rounded);
}

/* Rotary embedding and temperature of one head of q. In the absorbed form its rotary part takes
 * its place in the result and the other part waits for k_up. */
static void finish_head(void *arg, int thread, const sy_row_part *p) {
    (void)thread;
    const latent_in *job = arg;
    const sy_attn_in *in = &job->in;
    const sy_attn_spec *attn = &in->spec->attn;
    int64_t act_bytes = sy_act_bytes(&in->cpu->base), nope = job->mla.nope;
    int64_t d = nope + job->mla.rope, head = p->row * job->heads + p->part;
    float *q = job->q + head * d;
    sy_attn_rotate(in, p->position, q + d - attn->rope.dim);
    float scale = sy_query_scale(attn, p->position);
    if (scale != 1.0f) in->cpu->isa->vec.scale(d, scale, q, q);
    if (sy_cpu_takes_naive_form(in->cpu, attn, p->span)) {
        int64_t row = p->row * job->heads * job->key_dim;
        sy_attn_store_act(in->cpu, d, q, in->q_out + (row + p->part * d) * act_bytes);
        return;
    }
    sy_attn_store_act(in->cpu, nope, q, job->q_nope + head * nope * act_bytes);
    sy_attn_store_act(in->cpu, job->mla.rope, q + nope,
                      in->q_out + (head * job->key_dim + job->mla.kv_rank) * act_bytes);
}

/* The nope parts of q times k_up, for the rows in the absorbed form. */
static void absorb(const latent_in *job, int thread, int n_threads) {
    const sy_attn_in *in = &job->in;
    int64_t act_bytes = sy_act_bytes(&in->cpu->base);
    sy_head_products p = {.w = in->w->k_up,
                          .heads = job->heads,
                          .x_row = (int64_t)job->heads * job->mla.nope,
                          .x_head = job->mla.nope,
                          .out_row = job->heads * job->key_dim,
                          .out_head = job->key_dim};
    sy_form_run run;
    for (int i = 0; sy_attn_next_run(in->cpu, &in->spec->attn, in->b, &i, &run);) {
        if (run.naive) continue;
        p.n_rows = run.n_rows;
        p.x = job->q_nope + run.row * p.x_row * act_bytes;
        p.out = in->q_out + run.row * p.out_row * act_bytes;
        sy_cpu_multiply_heads(in->cpu, thread, n_threads, &p);
    }
}

static void latent_phases(void *arg, int thread, int n_threads) {
    latent_in *job = arg;
    const sy_attn_in *in = &job->in;
    const sy_layer_weights *w = in->w;
    sy_cpu *cpu = in->cpu;
    int64_t n_rows = in->b->n_rows;
    bool compressed = job->mla.q_rank > 0;
    sy_attn_clear_pages(in, thread, n_threads);
    const char *xn = sy_norm_rows_make(&job->xn, cpu, thread, n_threads, n_rows, in->x,
                                       w->attn_norm, in->spec->norm_eps);
    sy_product products[2] = {{compressed ? &w->q_a : &w->q, compressed ? job->q_a : job->q},
                              {&w->kv_a, job->kv_a}};
    sy_cpu_multiply_share(cpu, thread, n_threads, products, 2, n_rows, xn);
    sy_pool_barrier(cpu->pool);
    sy_attn_share_parts(in->b, 1, thread, n_threads, finish_latent, job);
    if (compressed) {
        const char *latent = sy_norm_rows_make(&job->q_latent, cpu, thread, n_threads, n_rows,
                                               job->q_a, w->q_a_norm, job->mla.norm_eps);
        sy_product q = {&w->q, job->q};
        sy_cpu_multiply_share(cpu, thread, n_threads, &q, 1, n_rows, latent);
        sy_pool_barrier(cpu->pool);
    }
    sy_attn_share_parts(in->b, job->heads, thread, n_threads, finish_head, job);
    sy_pool_barrier(cpu->pool);
    absorb(job, thread, n_threads);
}

static latent_in sized(const sy_attn_in *in, int heads, const sy_mla_spec *mla) {
    return (latent_in){.in = *in,
                       .heads = heads,
                       .mla = *mla,
                       .q_width = heads * ((int64_t)mla->nope + mla->rope),
                       .key_dim = (int64_t)mla->kv_rank + mla->rope};
}

/* Of a thread's own scratch: a rounded latent, then a product of k_up. */
static uint64_t thread_bytes(const latent_in *job) {
    uint64_t append = (uint64_t)job->key_dim * sizeof(uint16_t);
    uint64_t up = sy_cpu_multiply_heads_scratch(job->mla.kv_rank);
    return append > up ? append : up;
}

sy_status sy_cpu_latent_in(const sy_attn_in *in) {
    sy_cpu *cpu = in->cpu;
    latent_in job = sized(in, in->spec->attn.heads, &in->spec->attn.mla);
    sy_arena need = {0}, arena = {.base = cpu->shared, .size = cpu->shared_bytes};
    carve(&need, in->b->n_rows, &job);
    if (need.used > cpu->shared_bytes || thread_bytes(&job) > cpu->scratch_bytes)
        return sy_fail(SY_ERR_INTERNAL, "attn_in: %d rows, but scratch was reserved for %lld",
                       in->b->n_rows, (long long)cpu->limits.max_rows);
    carve(&arena, in->b->n_rows, &job);
    sy_pool_run(cpu->pool, latent_phases, &job);
    bool naive = sy_cpu_any_naive_form(cpu, &in->spec->attn, in->b);
    cpu->naive_weights = naive ? in->w : NULL;
    cpu->naive_batch = naive ? in->b : NULL;
    return SY_OK;
}

void sy_cpu_latent_in_scratch(const sy_cpu *cpu,
                              const sy_limits *l,
                              uint64_t *thread,
                              uint64_t *shared) {
    sy_attn_in in = {.cpu = (sy_cpu *)cpu, .hidden = l->hidden};
    latent_in job = sized(&in, l->heads, &l->mla);
    sy_arena arena = {0};
    carve(&arena, l->max_rows, &job);
    *thread = thread_bytes(&job);
    *shared = arena.used;
}
