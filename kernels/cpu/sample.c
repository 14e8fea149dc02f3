/* Choosing the next token from a row of logits.
 *
 * Candidates have one order: falling probability, lowest id first among equals. Each filter
 * keeps a prefix of that order (top-k by count, top-p by mass, min-p by value), and the draw is
 * the candidate at which the running mass passes a uniform number, so one search serves all: it
 * finds where a running sum over the order reaches a target. The search never sorts. Positive
 * floats order as their bits do, so it is a radix search: sum the candidates by the upper bits,
 * walk the bins from the top to the one that holds the target, and repeat inside with the next
 * bits; what remains are equal values in the order of ids. */
#include <float.h>
#include <string.h>

#include "base/checked.h"
#include "base/hash.h"
#include "base/memory.h"
#include "kernels/cpu/cpu.h"

/* Probabilities below e^-87 of the largest are 0. */
static const float MIN_EXPONENT = -87.0f;

/* Probabilities are relative to the largest, which is 1, so their bits are below 2^30: three
 * digits of 10 bits. */
enum { DIGIT_BITS = 10, BINS = 1 << DIGIT_BITS, TOP_SHIFT = 2 * DIGIT_BITS };

/* The candidates of one row in the order of their ids. */
typedef struct candidates {
    int64_t n;
    float *p;        /* [V] > 0, relative to the largest */
    int32_t *id;     /* [V] */
    int32_t *member; /* [V] scratch of the search: indices of candidates */
    double *bin;     /* [BINS] scratch of the search */
    const sy_vector_kernels *vec;
} candidates;

static void carve(sy_arena *arena, int64_t vocab, candidates *c) {
    c->p = sy_arena_take(arena, (uint64_t)vocab, sizeof *c->p);
    c->id = sy_arena_take(arena, (uint64_t)vocab, sizeof *c->id);
    c->member = sy_arena_take(arena, (uint64_t)vocab, sizeof *c->member);
    c->bin = sy_arena_take(arena, BINS, sizeof *c->bin);
}

void sy_cpu_sample_scratch(const sy_cpu *cpu,
                           const sy_limits *l,
                           uint64_t *thread,
                           uint64_t *shared) {
    (void)cpu;
    sy_arena arena = {0};
    candidates unused;
    carve(&arena, l->vocab, &unused);
    *thread = arena.used;
    *shared = 0;
}

/* The first of the largest logits; 0 if all are NaN. */
static int32_t greedy(const sy_vector_kernels *vec, int64_t n, const float *logits) {
    float max = vec->max(n, logits);
    for (int64_t i = 0; i < n; i++)
        if (logits[i] == max) return (int32_t)i;
    return 0;
}

/* p = exp((logit - max) / temperature), candidates with p > 0 only. max is not -inf. */
static void
make_candidates(candidates *c, int64_t n, const float *logits, float max, float temperature) {
    float top = max > FLT_MAX ? FLT_MAX : max;
    for (int64_t i = 0; i < n; i++) {
        float logit = logits[i] > FLT_MAX ? FLT_MAX : logits[i];
        float x = (logit - top) / temperature;
        c->p[i] = x >= MIN_EXPONENT ? x : -__builtin_inff(); /* false for NaN */
    }
    c->vec->exp_sum(n, c->p, 0.0f);
    c->n = 0;
    for (int64_t i = 0; i < n; i++) {
        float p = c->p[i];
        c->p[c->n] = p;
        c->id[c->n] = (int32_t)i;
        c->n += p > 0.0f;
    }
}

/* A running sum over the order of candidates: of their p, or of 1 each. */
typedef struct search {
    bool by_count;
    bool pass; /* the sum must pass the target, not only reach it */
    double target;
    double before; /* the sum in front of the range that is searched */
} search;

static bool reached(const search *s, double sum) {
    return s->pass ? sum > s->target : sum >= s->target;
}

/* The bin in which the target is reached, walking downwards; the lowest bin that is not empty
 * if rounding keeps the sum below the target. Adds to s->before what lies above it. */
static uint32_t bin_of_target(search *s, const double *bin) {
    uint32_t last = 0;
    double before_last = s->before, sum = s->before;
    for (uint32_t b = BINS; b-- > 0;) {
        if (!(bin[b] > 0.0)) continue;
        last = b;
        before_last = sum;
        sum += bin[b];
        if (reached(s, sum)) break;
    }
    s->before = before_last;
    return last;
}

/* The index of the candidate at which the target is reached (n > 0). */
static int64_t find(const candidates *c, search s) {
    int64_t n = c->n;
    int shift = TOP_SHIFT;
    for (bool all = true; shift >= 0; shift -= DIGIT_BITS, all = false) {
        memset(c->bin, 0, BINS * sizeof *c->bin);
        for (int64_t i = 0; i < n; i++) {
            float p = c->p[all ? i : c->member[i]];
            c->bin[(sy_bits_from_f32(p) >> shift) & (BINS - 1)] += s.by_count ? 1.0 : (double)p;
        }
        uint32_t digit = bin_of_target(&s, c->bin);
        int64_t kept = 0;
        for (int64_t i = 0; i < n; i++) {
            int32_t m = all ? (int32_t)i : c->member[i];
            c->member[kept] = m;
            kept += ((sy_bits_from_f32(c->p[m]) >> shift) & (BINS - 1)) == digit;
        }
        n = kept;
    }
    int64_t i = 0;
    for (double sum = s.before; i < n - 1; i++) {
        sum += s.by_count ? 1.0 : (double)c->p[c->member[i]];
        if (reached(&s, sum)) break;
    }
    return c->member[i];
}

/* Keeps the candidates up to and including the one at index `last`, in their order. */
static void keep_up_to(candidates *c, int64_t last) {
    float p_last = c->p[last];
    int64_t kept = 0;
    for (int64_t i = 0; i < c->n; i++) {
        float p = c->p[i];
        int32_t id = c->id[i];
        c->p[kept] = p;
        c->id[kept] = id;
        kept += (p > p_last) | ((p == p_last) & (i <= last)); /* no branch: a coin toss */
    }
    c->n = kept;
}

static void keep_from_value(candidates *c, float least) {
    int64_t kept = 0;
    for (int64_t i = 0; i < c->n; i++) {
        float p = c->p[i];
        int32_t id = c->id[i];
        c->p[kept] = p;
        c->id[kept] = id;
        kept += p >= least;
    }
    c->n = kept;
}

static double mass(const candidates *c) {
    double partial[8] = {0}; /* independent chains, in a fixed order */
    for (int64_t i = 0; i < c->n; i++)
        partial[i % 8] += (double)c->p[i];
    return ((partial[0] + partial[4]) + (partial[2] + partial[6])) +
           ((partial[1] + partial[5]) + (partial[3] + partial[7]));
}

static int32_t
sample_row(candidates *c, int64_t n, const float *logits, const sy_sample_params *params) {
    float max = c->vec->max(n, logits);
    /* A temperature that is denormal counts as 0 here, since denormals are flushed. */
    if (!(params->temperature > 0.0f) || max == -__builtin_inff())
        return greedy(c->vec, n, logits);
    make_candidates(c, n, logits, max, params->temperature);
    if (params->top_k > 0 && params->top_k < c->n)
        keep_up_to(c, find(c, (search){.by_count = true, .target = params->top_k}));
    if (params->top_p < 1.0f)
        keep_up_to(c, find(c, (search){.target = (double)params->top_p * mass(c)}));
    if (params->min_p > 0.0f) keep_from_value(c, params->min_p < 1.0f ? params->min_p : 1.0f);

    uint64_t key = sy_hash_add(sy_hash_add(0, params->seed), params->sample);
    double u = sy_uniform(key, params->position);
    return c->id[find(c, (search){.target = u * mass(c), .pass = true})];
}

typedef struct sample_job {
    const sy_cpu *cpu;
    int64_t n, vocab, n_valid;
    const float *logits;
    const sy_sample_params *params;
    int32_t *token;
} sample_job;

static void sample_share(void *arg, int thread, int n_threads) {
    const sample_job *job = arg;
    const sy_cpu *cpu = job->cpu;
    sy_arena arena = {.base = cpu->scratch + thread * cpu->scratch_bytes,
                      .size = cpu->scratch_bytes};
    candidates c = {.vec = &cpu->isa->vec};
    carve(&arena, job->vocab, &c);
    int64_t begin, end;
    sy_pool_share(job->n, thread, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        const float *logits = job->logits + i * job->vocab;
        int32_t id = sample_row(&c, job->n_valid, logits, &job->params[i]);
        job->token[i] = logits[id] == logits[id] ? id : -1;
    }
}

sy_status sy_cpu_sample(sy_backend *be,
                        int64_t n,
                        int64_t vocab,
                        int64_t n_valid,
                        const float *logits,
                        const sy_sample_params *params,
                        int32_t *token,
                        sy_stream *stream) {
    (void)stream;
    n_valid = sy_min(n_valid, vocab);
    if (n_valid < 1)
        return sy_fail(SY_ERR_INTERNAL, "sample: no token may be chosen (of %lld logits)",
                       (long long)vocab);
    if (vocab > sy_cpu_of(be)->limits.vocab)
        return sy_fail(SY_ERR_INTERNAL, "sample: %lld logits, but scratch was reserved for %d",
                       (long long)vocab, sy_cpu_of(be)->limits.vocab);
    sample_job job = {.cpu = sy_cpu_of(be),
                      .n = n,
                      .vocab = vocab,
                      .n_valid = n_valid,
                      .logits = logits,
                      .params = params,
                      .token = token};
    if (n > 1) sy_pool_run(job.cpu->pool, sample_share, &job);
    if (n == 1) sy_pool_run_alone(sample_share, &job);
    return SY_OK;
}
