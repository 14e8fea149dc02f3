/* attn_out: x += o W_o^T + bias. Latent attention in its absorbed form first turns each head's o,
 * which is a latent, into the head's output; in the naive form it is that already. */
#include <string.h>

#include "kernels/cpu/attention.h"

typedef struct attn_out_job {
    sy_cpu *cpu;
    const sy_matrix *w;
    const float *bias; /* [H] or NULL */
    int64_t leaf, n_rows;
    const sy_head_products *heads; /* NULL: o is the heads' output */
    const sy_attn_spec *attn;
    const sy_batch *naive_batch; /* some of its spans are in the naive form; NULL: none */
    const char *o;               /* act [T, A*D]; MLA: shared scratch [T, A*value] */
    float *x;                    /* [T, H] */
    float *y;                    /* shared scratch [T, H] */
} attn_out_job;

/* Rows of the heads' output that o begins with. */
static void copy_outputs(const attn_out_job *job, int thread, int n_threads, sy_form_run run) {
    const sy_head_products *p = job->heads;
    int64_t act_bytes = sy_act_bytes(&job->cpu->base), begin, end;
    sy_pool_share(run.n_rows, thread, n_threads, &begin, &end);
    for (int64_t t = run.row + begin; t < run.row + end; t++)
        memcpy(p->out + t * p->out_row * act_bytes, p->x + t * p->x_row * act_bytes,
               (size_t)(p->out_row * act_bytes));
}

static void outputs_of_heads(const attn_out_job *job, int thread, int n_threads) {
    int64_t act_bytes = sy_act_bytes(&job->cpu->base);
    sy_form_run run;
    if (job->naive_batch == NULL) {
        sy_cpu_multiply_heads(job->cpu, thread, n_threads, job->heads);
        return;
    }
    for (int i = 0; sy_attn_next_run(job->cpu, job->attn, job->naive_batch, &i, &run);) {
        sy_head_products p = *job->heads;
        if (run.naive) {
            copy_outputs(job, thread, n_threads, run);
            continue;
        }
        p.n_rows = run.n_rows;
        p.x += run.row * p.x_row * act_bytes;
        p.out += run.row * p.out_row * act_bytes;
        sy_cpu_multiply_heads(job->cpu, thread, n_threads, &p);
    }
}

static void attn_out_phases(void *arg, int thread, int n_threads) {
    const attn_out_job *job = arg;
    const sy_vector_kernels *vec = &job->cpu->isa->vec;
    if (job->heads != NULL) {
        outputs_of_heads(job, thread, n_threads);
        sy_pool_barrier(job->cpu->pool);
    }
    int64_t begin, end, hidden = job->w->n;
    sy_pool_share(sy_cpu_panels(job->w), thread, n_threads, &begin, &end);
    if (begin == end) return;
    int64_t column = begin * SY_PANEL, n = sy_min(hidden, end * SY_PANEL) - column;
    sy_cpu_matmul(job->cpu, thread, job->w, begin, end, job->leaf, job->n_rows, job->o,
                  job->w->k, job->y, hidden);
    for (int64_t t = 0; t < job->n_rows; t++) {
        float *y = job->y + t * hidden + column;
        if (job->bias != NULL) vec->add(n, job->bias + column, y);
        vec->add(n, y, job->x + t * hidden + column);
    }
}

/* Shared scratch of a step: y, and what latent attention's heads put out. */
static void
carve(sy_arena *arena, int64_t n_rows, int64_t hidden, uint64_t head_bytes, attn_out_job *job) {
    job->y = sy_arena_take(arena, (uint64_t)n_rows, (uint64_t)hidden * sizeof(float));
    job->o = sy_arena_take(arena, (uint64_t)n_rows, head_bytes);
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
    const sy_attn_spec *a = &spec->attn;
    bool latent = a->kind == SY_ATTN_MLA;
    int64_t group = latent ? a->mla.value : (int64_t)a->heads / a->kv_heads * a->head_dim;
    attn_out_job job = {.cpu = cpu,
                        .w = &w->o,
                        .bias = w->o_bias,
                        .leaf = sy_round_up(SY_LEAF, group),
                        .n_rows = n_rows,
                        .attn = a,
                        .naive_batch = cpu->naive_batch,
                        .x = x};
    sy_arena need = {0}, arena = {.base = cpu->shared, .size = cpu->shared_bytes};
    uint64_t head_bytes = latent ? (uint64_t)(w->o.k * sy_act_bytes(be)) : 0;
    carve(&need, n_rows, w->o.n, head_bytes, &job);
    uint64_t thread_bytes = latent ? sy_cpu_multiply_heads_scratch(a->mla.value) : 0;
    if (job.naive_batch != NULL &&
        (cpu->naive_weights != w || job.naive_batch->n_rows != n_rows))
        return sy_fail(SY_ERR_INTERNAL,
                       "attn_out: another layer than that of attn_in before it");
    if (n_rows > cpu->limits.max_rows || need.used > cpu->shared_bytes ||
        thread_bytes > cpu->scratch_bytes)
        return sy_fail(SY_ERR_INTERNAL,
                       "attn_out: %lld rows, but scratch was reserved for %lld",
                       (long long)n_rows, (long long)cpu->limits.max_rows);
    carve(&arena, n_rows, w->o.n, head_bytes, &job);
    sy_head_products heads = {.w = w->v_up,
                              .heads = a->heads,
                              .n_rows = n_rows,
                              .x = o,
                              .x_row = sy_attn_o_width(a),
                              .x_head = a->mla.kv_rank,
                              .out = (char *)job.o,
                              .out_row = w->o.k,
                              .out_head = a->mla.value};
    if (latent)
        job.heads = &heads;
    else
        job.o = o;
    sy_pool_run(cpu->pool, attn_out_phases, &job);
    cpu->naive_weights = NULL;
    cpu->naive_batch = NULL;
    return SY_OK;
}

void sy_cpu_attn_out_scratch(const sy_cpu *cpu,
                             const sy_limits *l,
                             uint64_t *thread,
                             uint64_t *shared) {
    attn_out_job unused;
    sy_arena arena = {0};
    uint64_t head_bytes =
        (uint64_t)l->heads * (uint64_t)l->mla.value * (uint64_t)sy_act_bytes(&cpu->base);
    carve(&arena, l->max_rows, l->hidden, head_bytes, &unused);
    *thread = sy_cpu_multiply_heads_scratch(l->mla.value);
    *shared = arena.used;
}
