/* The router: norm and logits by the matrix family, then softmax over all experts and the K best
 * of each row.
 *
 * A warp takes a row; lane l holds experts l, l + 32, l + 64, ... The scores have the bits that
 * the CPU's tables give for the same logits: 64 strided partial sums, two per lane, joined by
 * halving. They stay in the buffer of the logits, read from L1: E floats per row, K + 4 times at
 * most. The K best are taken one after another: the warp compares each lane's best, and the lane
 * that won looks for its next one. */
#include "base/checked.h"
#include "kernels/cuda/choose.h"
#include "kernels/cuda/launch.h"

enum { ROUTE_WARPS = 4, ROUTE_THREADS = 32 * ROUTE_WARPS };
enum { MAX_CHOICES = SY_MAX_TOP_K, CHOICES_PER_LANE = MAX_CHOICES / 32 };

struct route_table {
    int n_rows, n_experts, top_k;
    const int32_t *count;  /* of the step; count[SY_COUNT_ROWS] rows are there */
    const int32_t *forced; /* [T, K] or NULL */
    float *score;          /* [T, E]: logits at first */
    int32_t *expert;       /* [T, K] */
    float *weight;         /* [T, K] */
    bool renorm;
    float renorm_eps, routed_scale;
};

/* A score that stands for a NaN logit: below every other. */
SY_DEVICE float no_score(void) {
    return __uint_as_float(0xff800000u);
}

/* Logit -> score in place; each lane touches only its own experts. A logit that is NaN counts as
 * -inf and gets the score -inf, +inf counts as the largest finite number. */
SY_DEVICE void make_scores(float *s, int n, int lane) {
    float most = no_score();
    for (int i = lane; i < n; i += 32) {
        float v = fminf(s[i], FLT_MAX);
        if (s[i] == s[i]) most = fmaxf(most, v);
    }
    most = sy_warp_max(most);
    float even = 0.0f, odd = 0.0f; /* experts lane and lane + 32 of each 64 */
    for (int i = lane; i < n; i += 32) {
        float v = s[i];
        bool number = v == v;
        v = fminf(v, FLT_MAX);
        float term = v == no_score() ? 0.0f : sy_exact_exp(sy_flush(v - most));
        if (i & 32)
            odd += number ? term : 0.0f;
        else
            even += number ? term : 0.0f;
        s[i] = number ? term : no_score();
    }
    float sum = sy_warp_sum(even + odd);
    if (!(sum > 0.0f)) return;
    for (int i = lane; i < n; i += 32)
        if (s[i] >= 0.0f) s[i] = sy_flush(s[i] / sum);
}

/* The lane's best candidate below `limit`, 0 if there is none left. */
SY_DEVICE unsigned long long
lane_best(const float *s, int n, int lane, unsigned long long limit) {
    unsigned long long best = 0;
    for (int i = lane; i < n; i += 32) {
        unsigned long long c = sy_candidate(sy_ordered(s[i]), (uint32_t)i);
        if (c < limit && c > best) best = c;
    }
    return best;
}

static __global__ void __launch_bounds__(ROUTE_THREADS, 8) choose_experts(route_table t) {
    int64_t row = (int64_t)blockIdx.x * ROUTE_WARPS + threadIdx.x / 32;
    int lane = (int)threadIdx.x % 32, n = t.n_experts;
    if (row >= t.n_rows) return;
    int32_t *expert = t.expert + row * t.top_k;
    float *weight = t.weight + row * t.top_k;
    if (row >= t.count[SY_COUNT_ROWS]) {
        for (int i = lane; i < t.top_k; i += 32) {
            expert[i] = -1;
            weight[i] = 0.0f;
        }
        return;
    }
    float *s = t.score + row * n;
    make_scores(s, n, lane);
    __syncwarp(); /* scores that other lanes have written are read below */

    const int32_t *forced = t.forced == NULL ? NULL : t.forced + row * t.top_k;
    unsigned long long best = forced == NULL ? lane_best(s, n, lane, ~0ull) : 0;
    int chosen[CHOICES_PER_LANE] = {};
    float score[CHOICES_PER_LANE] = {}, sum = 0.0f; /* of choices lane, lane + 32 */
    for (int k = 0; k < t.top_k; k++) {
        int e;
        if (forced != NULL) {
            e = forced[k];
        } else {
            unsigned long long winner = sy_warp_largest(best);
            e = (int)sy_candidate_index(winner);
            if (best == winner) best = lane_best(s, n, lane, winner);
        }
        bool valid = e >= 0 && e < n && s[e] > 0.0f;
        float v = valid ? s[e] : 0.0f;
        sum += v;
#pragma unroll
        for (int i = 0; i < CHOICES_PER_LANE; i++)
            if (k == lane + 32 * i) {
                chosen[i] = e;
                score[i] = v;
            }
    }
    float divisor = t.renorm ? sum + t.renorm_eps : 1.0f;
    if (!(divisor > 0.0f)) divisor = 1.0f; /* no chosen expert has any weight */
#pragma unroll
    for (int i = 0; i < CHOICES_PER_LANE; i++) {
        int k = lane + 32 * i;
        if (k < t.top_k) {
            expert[k] = chosen[i];
            weight[k] = sy_flush(sy_flush(score[i] / divisor) * t.routed_scale);
        }
    }
}

/* Logits of max_rows rows; UINT64_MAX on overflow. */
static uint64_t logits_bytes(int64_t rows, int64_t experts) {
    uint64_t n, bytes;
    if (!sy_mul_u64((uint64_t)rows, (uint64_t)experts, &n) ||
        !sy_mul_u64(n, sizeof(float), &bytes))
        return UINT64_MAX;
    return bytes;
}

extern "C" void sy_cuda_route_scratch(const sy_cuda *cu, const sy_limits *l, uint64_t *bytes) {
    (void)cu;
    *bytes = logits_bytes(sy_max(l->max_rows, 0), sy_max(l->experts, 0));
}

static sy_status check_route(const sy_cuda *cu,
                             const sy_layer_spec *spec,
                             const sy_layer_weights *w,
                             int64_t n_rows) {
    const sy_ffn_spec *ffn = &spec->ffn;
    uint64_t reserved = 0;
    if (cu->step.count == NULL) return sy_fail(SY_ERR_INTERNAL, "route outside a step");
    if (ffn->top_k < 1 || ffn->top_k > SY_MAX_TOP_K || ffn->top_k > ffn->experts ||
        ffn->experts > SY_MAX_EXPERTS || w->router.n != ffn->experts)
        return sy_fail(SY_ERR_INTERNAL, "router of %d experts, %d per token: out of range",
                       ffn->experts, ffn->top_k);
    sy_cuda_route_scratch(cu, &cu->limits, &reserved);
    if (n_rows > INT_MAX || logits_bytes(n_rows, ffn->experts) > reserved)
        return sy_fail(SY_ERR_INTERNAL, "route: %lld rows, but scratch was reserved for %lld",
                       (long long)n_rows, (long long)cu->limits.max_rows);
    return SY_OK;
}

extern "C" sy_status sy_cuda_route(sy_backend *be,
                                   const sy_layer_spec *spec,
                                   const sy_layer_weights *w,
                                   int64_t n_rows,
                                   const float *x,
                                   void *xn,
                                   const int32_t *forced,
                                   int32_t *expert,
                                   float *weight,
                                   sy_stream *s) {
    (void)s;
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    const sy_ffn_spec *ffn = &spec->ffn;
    const sy_matrix *router = &w->router;
    float *logits = (float *)(void *)cu->scratch;
    int64_t ld = ffn->experts;
    cudaLaunchConfig_t config;
    route_table t = {};
    if (n_rows <= 0) return SY_OK;
    SY_TRY(check_route(cu, spec, w, n_rows));
    if (forced != NULL)
        SY_TRY(sy_cuda_upload(cu, forced, (uint64_t)n_rows * ffn->top_k * sizeof *forced,
                              &t.forced));
    SY_TRY(sy_cuda_norm_product(cu, w->ffn_norm, spec->norm_eps, 1, &router, n_rows, x, xn,
                                &logits, &ld, SY_LEAF));
    t.n_rows = (int)n_rows;
    t.n_experts = ffn->experts;
    t.top_k = ffn->top_k;
    t.count = cu->step.count;
    t.score = logits;
    t.expert = expert;
    t.weight = weight;
    t.renorm = ffn->renorm;
    t.renorm_eps = ffn->renorm_eps;
    t.routed_scale = ffn->routed_scale;
    config = sy_launch(cu, sy_ceil_div(n_rows, ROUTE_WARPS), ROUTE_THREADS, 0);
    st = SY_CUDA(cu, cudaLaunchKernelEx(&config, choose_experts, t));
done:
    return st;
}
