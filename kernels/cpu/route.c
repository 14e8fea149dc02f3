/* The router: norm, logits, softmax over all experts, and the K best of each row. */
#include <float.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "kernels/cpu/cpu.h"

typedef struct route_job {
    sy_cpu *cpu;
    const sy_layer_spec *spec;
    const sy_layer_weights *w;
    int64_t n_rows;
    const float *x;        /* [T, H] */
    char *xn;              /* act [T, H] */
    const int32_t *forced; /* [T, K] or NULL */
    int32_t *expert;       /* [T, K] */
    float *weight;         /* [T, K] */
    float *logits;         /* shared scratch [T, E] */
    char *own_xn;          /* shared scratch, act: a row of H for each thread */
    int64_t own_xn_bytes;
} route_job;

static void carve(sy_arena *arena,
                  const sy_cpu *cpu,
                  int64_t n_rows,
                  int64_t hidden,
                  int64_t experts,
                  route_job *job) {
    job->own_xn_bytes = sy_round_up(hidden * sy_act_bytes(&cpu->base), SY_CACHE_LINE);
    job->logits = sy_arena_take(arena, (uint64_t)n_rows, (uint64_t)experts * sizeof(float));
    job->own_xn =
        sy_arena_take(arena, (uint64_t)sy_pool_threads(cpu->pool), (uint64_t)job->own_xn_bytes);
}

void sy_cpu_route_scratch(const sy_cpu *cpu,
                          const sy_limits *l,
                          uint64_t *thread,
                          uint64_t *shared) {
    sy_arena arena = {0};
    route_job unused;
    carve(&arena, cpu, l->max_rows, l->hidden, l->experts, &unused);
    *thread = 0;
    *shared = arena.used;
}

static void norm_row(const sy_cpu *cpu,
                     int64_t hidden,
                     const float *w,
                     float eps,
                     const float *x,
                     void *out) {
    bool wide = cpu->base.act == SY_F32;
    cpu->isa->vec.rms_norm(hidden, x, w, eps, wide ? NULL : out, wide ? out : NULL);
}

/* Softmax in place. A logit that is NaN counts as -inf and gets the score -inf, so that it is
 * chosen after every other; +inf counts as the largest finite number. */
static void scores_of_logits(const sy_cpu *cpu, int n, float *s) {
    bool any_nan = false;
    for (int i = 0; i < n; i++) {
        any_nan |= s[i] != s[i];
        s[i] = s[i] > FLT_MAX ? FLT_MAX : s[i];
    }
    uint64_t nan[(SY_MAX_EXPERTS + 63) / 64];
    if (any_nan) {
        memset(nan, 0, (size_t)sy_ceil_div(n, 64) * sizeof *nan);
        for (int i = 0; i < n; i++) {
            if (s[i] == s[i]) continue;
            nan[i / 64] |= (uint64_t)1 << (i % 64);
            s[i] = -__builtin_inff();
        }
    }
    float sum = cpu->isa->vec.exp_sum(n, s, cpu->isa->vec.max(n, s));
    if (sum > 0.0f)
        for (int i = 0; i < n; i++)
            s[i] /= sum;
    if (any_nan)
        for (int i = 0; i < n; i++)
            if (nan[i / 64] >> (i % 64) & 1) s[i] = -__builtin_inff();
}

/* The k best of n scores by falling score, the lowest index first among equals: insertion from
 * the left, where a later one must be strictly better to pass. */
static void choose(int n, const float *s, int k, int32_t *chosen) {
    float best[SY_MAX_TOP_K];
    int n_best = 0;
    for (int i = 0; i < n; i++) {
        if (n_best == k && !(s[i] > best[k - 1])) continue;
        int at = n_best < k ? n_best++ : k - 1;
        for (; at > 0 && s[i] > best[at - 1]; at--) {
            best[at] = best[at - 1];
            chosen[at] = chosen[at - 1];
        }
        best[at] = s[i];
        chosen[at] = i;
    }
}

static void choose_row(const route_job *job, int64_t row) {
    const sy_ffn_spec *ffn = &job->spec->ffn;
    int n = ffn->experts, k = ffn->top_k;
    float *s = job->logits + row * n;
    int32_t *expert = job->expert + row * k;
    float *weight = job->weight + row * k;
    scores_of_logits(job->cpu, n, s);
    if (job->forced != NULL)
        memcpy(expert, job->forced + row * k, (size_t)k * sizeof *expert);
    else
        choose(n, s, k, expert);

    float sum = 0.0f;
    for (int i = 0; i < k; i++) {
        bool valid = expert[i] >= 0 && expert[i] < n && s[expert[i]] > 0.0f;
        weight[i] = valid ? s[expert[i]] : 0.0f;
        sum += weight[i];
    }
    float divisor = ffn->renorm ? sum + ffn->renorm_eps : 1.0f;
    if (!(divisor > 0.0f)) divisor = 1.0f; /* no chosen expert has any weight */
    for (int i = 0; i < k; i++)
        weight[i] = weight[i] / divisor * ffn->routed_scale;
}

/* Rows are independent: each thread takes its rows through all stages. */
static void route_rows(void *arg, int thread, int n_threads) {
    route_job *job = arg;
    sy_cpu *cpu = job->cpu;
    const sy_matrix *router = &job->w->router;
    int64_t hidden = router->k, row_bytes = hidden * sy_act_bytes(&cpu->base), begin, end;
    sy_pool_share(job->n_rows, thread, n_threads, &begin, &end);
    if (begin == end) return;
    for (int64_t t = begin; t < end; t++)
        norm_row(cpu, hidden, job->w->ffn_norm, job->spec->norm_eps, job->x + t * hidden,
                 job->xn + t * row_bytes);
    sy_cpu_matmul(cpu, thread, router, 0, sy_cpu_panels(router), SY_LEAF, end - begin,
                  job->xn + begin * row_bytes, hidden, job->logits + begin * router->n,
                  router->n);
    for (int64_t t = begin; t < end; t++)
        choose_row(job, t);
}

/* One row: the panels of the router are shared out, and each thread norms the row for itself,
 * which is cheaper than one more barrier. */
static void route_single(void *arg, int thread, int n_threads) {
    route_job *job = arg;
    sy_cpu *cpu = job->cpu;
    const sy_matrix *router = &job->w->router;
    char *xn = thread == 0 ? job->xn : job->own_xn + thread * job->own_xn_bytes;
    int64_t begin, end;
    sy_pool_share(sy_cpu_panels(router), thread, n_threads, &begin, &end);
    if (begin < end || thread == 0)
        norm_row(cpu, router->k, job->w->ffn_norm, job->spec->norm_eps, job->x, xn);
    if (begin < end)
        sy_cpu_matmul(cpu, thread, router, begin, end, SY_LEAF, 1, xn, router->k, job->logits,
                      router->n);
    sy_pool_barrier(cpu->pool);
    if (thread == 0) choose_row(job, 0);
}

sy_status sy_cpu_route(sy_backend *be,
                       const sy_layer_spec *spec,
                       const sy_layer_weights *w,
                       int64_t n_rows,
                       const float *x,
                       void *xn,
                       const int32_t *forced,
                       int32_t *expert,
                       float *weight,
                       sy_stream *stream) {
    (void)stream;
    sy_cpu *cpu = sy_cpu_of(be);
    if (n_rows == 0) return SY_OK;
    if (spec->ffn.top_k < 1 || spec->ffn.top_k > SY_MAX_TOP_K ||
        spec->ffn.top_k > spec->ffn.experts || spec->ffn.experts > SY_MAX_EXPERTS)
        return sy_fail(SY_ERR_INTERNAL, "router of %d experts, %d per token: out of range",
                       spec->ffn.experts, spec->ffn.top_k);
    route_job job = {.cpu = cpu,
                     .spec = spec,
                     .w = w,
                     .n_rows = n_rows,
                     .x = x,
                     .xn = xn,
                     .forced = forced,
                     .expert = expert,
                     .weight = weight};
    sy_arena need = {0}, arena = {.base = cpu->shared, .size = cpu->shared_bytes};
    carve(&need, cpu, n_rows, w->router.k, w->router.n, &job);
    if (need.used > cpu->shared_bytes)
        return sy_fail(SY_ERR_INTERNAL, "route: %lld rows, but scratch was reserved for %lld",
                       (long long)n_rows, (long long)cpu->limits.max_rows);
    carve(&arena, cpu, n_rows, w->router.k, w->router.n, &job);
    sy_pool_run(cpu->pool, n_rows == 1 ? route_single : route_rows, &job);
    return SY_OK;
}

typedef struct norm_job {
    const sy_cpu *cpu;
    const float *w;
    float eps;
    int64_t n_rows, hidden;
    const float *x;
    char *out;
} norm_job;

static void norm_rows(void *arg, int thread, int n_threads) {
    norm_job *job = arg;
    int64_t row_bytes = job->hidden * sy_act_bytes(&job->cpu->base), begin, end;
    sy_pool_share(job->n_rows, thread, n_threads, &begin, &end);
    for (int64_t t = begin; t < end; t++)
        norm_row(job->cpu, job->hidden, job->w, job->eps, job->x + t * job->hidden,
                 job->out + t * row_bytes);
}

sy_status sy_cpu_ffn_in(sy_backend *be,
                        const sy_layer_spec *spec,
                        const sy_layer_weights *w,
                        int64_t n_rows,
                        const float *x,
                        void *xn,
                        sy_stream *stream) {
    (void)stream;
    sy_cpu *cpu = sy_cpu_of(be);
    norm_job job = {.cpu = cpu,
                    .w = w->ffn_norm,
                    .eps = spec->norm_eps,
                    .n_rows = n_rows,
                    .hidden = w->ffn_gate_up.k,
                    .x = x,
                    .out = xn};
    if (n_rows > 1) sy_pool_run(cpu->pool, norm_rows, &job);
    if (n_rows == 1) sy_pool_run_alone(norm_rows, &job);
    return SY_OK;
}
