/* The router: norm, logits, scores, and the K best experts of each row with their weights.
 *
 * What ranks the experts (score + choice bias, within the kept groups) and what weighs them (the
 * score alone) are kept apart: a choice bias never reaches a weight. */
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
    float *own_choice; /* shared scratch: choice [E] and group [E] for each thread */
    int64_t own_choice_floats;
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
    job->own_choice_floats = sy_round_up(2 * experts, SY_CACHE_LINE / (int64_t)sizeof(float));
    job->own_choice = sy_arena_take(arena, (uint64_t)sy_pool_threads(cpu->pool),
                                    (uint64_t)job->own_choice_floats * sizeof(float));
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

static void nan_to_minus_inf(int n, float *x) {
    for (int i = 0; i < n; i++)
        x[i] = x[i] == x[i] ? x[i] : -__builtin_inff();
}

/* In place; -inf gives 0, and a row of nothing else is all 0. No x is a NaN. */
static void softmax(const sy_cpu *cpu, int n, float *x) {
    float sum = cpu->isa->vec.exp_sum(n, x, cpu->isa->vec.max(n, x));
    if (sum > 0.0f)
        for (int i = 0; i < n; i++)
            x[i] /= sum;
}

/* Makes the scores of a row in place of its logits. A logit that is NaN counts as -inf and gets
 * the score -inf, so that it is chosen after every other; +inf counts as the largest finite
 * number. SY_SCORE_SOFTMAX_CHOSEN leaves the logits: they become scores when the choice is known.
 * `copy` is work space [E]. */
static void scores_of_logits(const route_job *job, float *s, float *copy) {
    const sy_ffn_spec *ffn = &job->spec->ffn;
    const sy_vector_kernels *vec = &job->cpu->isa->vec;
    int n = ffn->experts;
    if (ffn->router_bias) vec->add(n, job->w->router_bias, s);
    bool any_nan = false;
    for (int i = 0; i < n; i++) {
        any_nan |= s[i] != s[i];
        s[i] = s[i] > FLT_MAX ? FLT_MAX : s[i];
    }
    if (any_nan) {
        memcpy(copy, s, (size_t)n * sizeof *s);
        nan_to_minus_inf(n, s);
    }
    if (ffn->score == SY_SCORE_SOFTMAX) softmax(job->cpu, n, s);
    if (ffn->score == SY_SCORE_SIGMOID) vec->sigmoid(n, s);
    if (any_nan)
        for (int i = 0; i < n; i++)
            s[i] = copy[i] != copy[i] ? -__builtin_inff() : s[i];
}

/* The k best so far, by falling score. */
typedef struct best_list {
    int k, n;
    float *score;
    int32_t *index;
} best_list;

/* Takes s[begin .. end) into account, ranges in ascending order: insertion from the left, where a
 * later one must be strictly better to pass, so that among equals the lowest index is first. No
 * s is a NaN. */
static void take_best(best_list *list, const float *s, int begin, int end) {
    float *best = list->score;
    int32_t *chosen = list->index;
    int k = list->k, n = list->n;
    for (int i = begin; i < end; i++) {
        if (n == k && !(s[i] > best[k - 1])) continue;
        int at = n < k ? n++ : k - 1;
        for (; at > 0 && s[i] > best[at - 1]; at--) {
            best[at] = best[at - 1];
            chosen[at] = chosen[at - 1];
        }
        best[at] = s[i];
        chosen[at] = i;
    }
    list->n = n;
}

/* What a group of `size` experts is ranked by. */
static float score_of_group(const sy_ffn_spec *ffn, const float *choice, int size) {
    float first = -__builtin_inff(), second = first;
    for (int i = 0; i < size; i++) {
        float lower = choice[i] > first ? first : choice[i];
        first = choice[i] > first ? choice[i] : first;
        second = lower > second ? lower : second;
    }
    if (ffn->group_score == SY_GROUP_MAX || size == 1) return first;
    float sum = first + second;
    return sum == sum ? sum : -__builtin_inff(); /* of inf and -inf */
}

/* Whether fewer than `kept` groups rank before group g: a better score, or the same and a lower
 * index. */
static bool group_is_kept(const float *group, int n_groups, int g, int kept) {
    int before = 0;
    for (int i = 0; i < n_groups; i++)
        before += (group[i] > group[g]) | ((group[i] == group[g]) & (i < g));
    return before < kept;
}

/* The K experts of a row from its scores; `space` is work space [2 E]. Experts of a group that is not kept are passed over,
 * not given a low score, so that not even a NaN in a kept group lets one in. */
static void choose(const route_job *job, const float *s, float *space, int32_t *expert) {
    const sy_ffn_spec *ffn = &job->spec->ffn;
    int n = ffn->experts, n_groups = ffn->n_groups;
    float best[SY_MAX_TOP_K], *choice = space, *group = space + n;
    best_list list = {.k = ffn->top_k, .score = best, .index = expert};
    if (ffn->choice_bias) {
        memcpy(choice, s, (size_t)n * sizeof *s);
        job->cpu->isa->vec.add(n, job->w->choice_bias, choice);
        nan_to_minus_inf(n, choice);
        s = choice;
    }
    if (n_groups <= 1) {
        take_best(&list, s, 0, n);
        return;
    }
    int size = n / n_groups;
    for (int g = 0; g < n_groups; g++)
        group[g] = score_of_group(ffn, s + g * size, size);
    for (int g = 0; g < n_groups; g++)
        if (group_is_kept(group, n_groups, g, ffn->groups_kept))
            take_best(&list, s, g * size, (g + 1) * size);
}

/* The weights of a row's K experts from the scores; one that does not exist, or whose score is
 * no positive number, weighs nothing. */
static void weigh(const route_job *job, const float *s, const int32_t *expert, float *weight) {
    const sy_ffn_spec *ffn = &job->spec->ffn;
    int k = ffn->top_k;
    for (int i = 0; i < k; i++) {
        bool there = expert[i] >= 0 && expert[i] < ffn->experts;
        weight[i] = there ? s[expert[i]] : -__builtin_inff();
    }
    if (ffn->score == SY_SCORE_SOFTMAX_CHOSEN) softmax(job->cpu, k, weight);
    float sum = 0.0f;
    for (int i = 0; i < k; i++) {
        weight[i] = weight[i] > 0.0f ? weight[i] : 0.0f;
        sum += weight[i];
    }
    float divisor = ffn->renorm ? sum + ffn->renorm_eps : 1.0f;
    if (!(divisor > 0.0f)) divisor = 1.0f; /* no chosen expert has any weight */
    for (int i = 0; i < k; i++)
        weight[i] = weight[i] / divisor * ffn->routed_scale;
}

static void choose_row(const route_job *job, int thread, int64_t row) {
    int n = job->spec->ffn.experts, k = job->spec->ffn.top_k;
    float *s = job->logits + row * n,
          *space = job->own_choice + thread * job->own_choice_floats;
    int32_t *expert = job->expert + row * k;
    scores_of_logits(job, s, space);
    if (job->forced != NULL)
        memcpy(expert, job->forced + row * k, (size_t)k * sizeof *expert);
    else
        choose(job, s, space, expert);
    weigh(job, s, expert, job->weight + row * k);
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
        choose_row(job, thread, t);
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
    if (thread == 0) choose_row(job, 0, 0);
}

/* The config was checked when it was read; this keeps a spec made otherwise inside the arrays. */
static sy_status check_router(const sy_ffn_spec *f, const sy_layer_weights *w) {
    sy_status st = SY_OK;
    if (f->top_k < 1 || f->top_k > SY_MAX_TOP_K || f->top_k > f->experts ||
        f->experts > SY_MAX_EXPERTS)
        SY_FAIL(SY_ERR_INTERNAL, "router of %d experts, %d per token: out of range", f->experts,
                f->top_k);
    if (f->n_groups > 1 &&
        (f->experts % f->n_groups != 0 || f->groups_kept < 1 || f->groups_kept > f->n_groups ||
         f->experts / f->n_groups * f->groups_kept < f->top_k))
        SY_FAIL(SY_ERR_INTERNAL,
                "router of %d experts, %d per token, in %d groups of which %d are kept: out of "
                "range",
                f->experts, f->top_k, f->n_groups, f->groups_kept);
    if ((f->router_bias && w->router_bias == NULL) ||
        (f->choice_bias && w->choice_bias == NULL))
        SY_FAIL(SY_ERR_INTERNAL, "router: a bias is missing");
done:
    return st;
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
    sy_status st = check_router(&spec->ffn, w);
    if (st != SY_OK) return st;
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
