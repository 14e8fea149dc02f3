/* The router: norm and logits by the matrix family, then scores, and the K best of each row.
 *
 * A warp takes a row; lane l holds experts l, l + 32, l + 64, ... The scores have the bits that
 * the CPU's tables give for the same logits: 64 strided partial sums, two per lane, joined by
 * halving. They stay in the buffer of the logits, read from L1: E floats per row, K + 4 times at
 * most. What ranks the experts, where a bias or groups make it differ from the score, lies in a
 * buffer of its own. The K best are taken one after another: the warp compares each lane's best,
 * and the lane that won looks for its next one. */
#include "base/checked.h"
#include "kernels/cuda/choose.h"
#include "kernels/cuda/launch.h"

enum { ROUTE_WARPS = 4, ROUTE_THREADS = 32 * ROUTE_WARPS };
enum { MAX_CHOICES = SY_MAX_TOP_K, CHOICES_PER_LANE = MAX_CHOICES / 32 };
static_assert(CHOICES_PER_LANE == 2, "choices lane and lane + 32 of 64: as softmax sums them");

struct route_table {
    int n_rows, n_experts, top_k;
    const int32_t *count;            /* of the step; count[SY_COUNT_ROWS] rows are there */
    const int32_t *forced;           /* [T, K] or NULL */
    const float *bias, *choice_bias; /* [E] or NULL */
    float *score;                    /* [T, E]: logits at first */
    float *choice;                   /* [T, E], or NULL: the scores rank */
    float *group;                    /* [T, n_groups], or NULL: no groups */
    int32_t *expert;                 /* [T, K] */
    float *weight;                   /* [T, K] */
    sy_router_score kind;
    sy_group_score group_kind;
    int n_groups, groups_kept;
    bool renorm;
    float renorm_eps, routed_scale;
};

/* A score that stands for a NaN logit: below every other. */
SY_DEVICE float no_score(void) {
    return __uint_as_float(0xff800000u);
}

/* A NaN has no key of its own among the numbers, so it ranks behind -inf: an expert that cannot
 * be chosen. */
SY_DEVICE float no_choice(void) {
    return __uint_as_float(0x7fffffffu);
}

SY_DEVICE float nan_to_no_score(float v) {
    return v == v ? v : no_score();
}

/* e^(v - most), 0 for a v of -inf. */
SY_DEVICE float softmax_term(float v, float most) {
    return v == no_score() ? 0.0f : sy_exact_exp(sy_flush(v - most));
}

/* Logit + bias -> score in place; each lane touches only its own experts. A logit that is NaN
 * counts as -inf and gets the score -inf, +inf counts as the largest finite number. */
SY_DEVICE void make_scores(const route_table &t, float *s, int lane) {
    int n = t.n_experts;
    float most = no_score();
    for (int i = lane; i < n; i += 32) {
        float v = s[i];
        if (t.bias != NULL) v = sy_flush(sy_flush(v) + sy_flush(t.bias[i]));
        bool number = v == v;
        v = number ? fminf(v, FLT_MAX) : v;
        most = number ? fmaxf(most, v) : most;
        if (t.kind == SY_SCORE_SIGMOID) v = sy_flush(1.0f / (1.0f + sy_exact_exp(-v)));
        if (t.kind != SY_SCORE_SOFTMAX) v = number ? v : no_score();
        s[i] = v;
    }
    if (t.kind != SY_SCORE_SOFTMAX) return;
    most = sy_warp_max(most);
    float even = 0.0f, odd = 0.0f; /* experts lane and lane + 32 of each 64 */
    for (int i = lane; i < n; i += 32) {
        bool number = s[i] == s[i];
        float term = number ? softmax_term(s[i], most) : 0.0f;
        if (i & 32)
            odd += term;
        else
            even += term;
        s[i] = number ? term : no_score();
    }
    float sum = sy_warp_sum(even + odd);
    if (!(sum > 0.0f)) return;
    for (int i = lane; i < n; i += 32)
        if (s[i] >= 0.0f) s[i] = sy_flush(s[i] / sum);
}

/* What a group is ranked by; every lane gets it. c is the choice scores of its `size` experts. */
SY_DEVICE float score_of_group(const float *c, int size, sy_group_score kind, int lane) {
    float first = no_score(), second = no_score();
    for (int i = lane; i < size; i += 32) {
        second = fmaxf(second, fminf(c[i], first));
        first = fmaxf(first, c[i]);
    }
    for (int distance = 16; distance > 0; distance /= 2) {
        float other = __shfl_xor_sync(0xffffffffu, first, distance);
        second = fmaxf(second, __shfl_xor_sync(0xffffffffu, second, distance));
        second = fmaxf(second, fminf(first, other));
        first = fmaxf(first, other);
    }
    if (kind == SY_GROUP_MAX || size == 1) return first;
    return nan_to_no_score(sy_flush(first + second)); /* NaN: of inf and -inf */
}

/* Experts of groups that are not kept cannot be chosen. A group is kept if fewer than groups_kept
 * rank before it: a better score, or the same and a lower index. */
SY_DEVICE void keep_groups(const route_table &t, float *choice, float *group, int lane) {
    int size = t.n_experts / t.n_groups;
    for (int g = 0; g < t.n_groups; g++) {
        float v = score_of_group(choice + g * size, size, t.group_kind, lane);
        if (lane == 0) group[g] = v;
    }
    __syncwarp();
    for (int g = 0; g < t.n_groups; g++) {
        int before = 0;
        for (int base = 0; base < t.n_groups; base += 32) {
            int i = base + lane;
            bool precedes =
                i < t.n_groups && (group[i] > group[g] || (group[i] == group[g] && i < g));
            before += __popc(__ballot_sync(0xffffffffu, precedes));
        }
        for (int i = lane; i < size && before >= t.groups_kept; i += 32)
            choice[g * size + i] = no_choice();
    }
}

/* What ranks the experts of a row whose scores are s [E]. */
SY_DEVICE const float *
make_choice(const route_table &t, int64_t row, const float *s, int lane) {
    if (t.choice == NULL) return s;
    float *choice = t.choice + row * t.n_experts;
    for (int i = lane; i < t.n_experts; i += 32) {
        float bias = t.choice_bias == NULL ? 0.0f : sy_flush(t.choice_bias[i]);
        choice[i] = nan_to_no_score(sy_flush(sy_flush(s[i]) + bias));
    }
    __syncwarp(); /* read by other lanes from here on */
    if (t.group == NULL) return choice;
    keep_groups(t, choice, t.group + row * t.n_groups, lane);
    __syncwarp();
    return choice;
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

/* The experts of a row: lane l gets choices l and l + 32. */
SY_DEVICE void take_experts(const route_table &t,
                            const float *choice,
                            const int32_t *forced,
                            int lane,
                            int chosen[CHOICES_PER_LANE]) {
    int n = t.n_experts;
    unsigned long long best = forced == NULL ? lane_best(choice, n, lane, ~0ull) : 0;
    for (int k = 0; k < t.top_k; k++) {
        int e;
        if (forced != NULL) {
            e = forced[k];
        } else {
            unsigned long long winner = sy_warp_largest(best);
            e = (int)sy_candidate_index(winner);
            if (best == winner) best = lane_best(choice, n, lane, winner);
        }
#pragma unroll
        for (int i = 0; i < CHOICES_PER_LANE; i++)
            if (k == lane + 32 * i) chosen[i] = e;
    }
}

/* The weights of the lane's choices (l and l + 32) from their scores v; one that is not there is
 * -inf. */
SY_DEVICE void weigh(const route_table &t, float v[CHOICES_PER_LANE]) {
    if (t.kind == SY_SCORE_SOFTMAX_CHOSEN) {
        float most = sy_warp_max(fmaxf(v[0], v[1]));
        v[0] = softmax_term(v[0], most);
        v[1] = softmax_term(v[1], most);
        float sum = sy_warp_sum(v[0] + v[1]);
        if (sum > 0.0f) {
            v[0] = sy_flush(v[0] / sum);
            v[1] = sy_flush(v[1] / sum);
        }
    }
    v[0] = v[0] > 0.0f ? v[0] : 0.0f;
    v[1] = v[1] > 0.0f ? v[1] : 0.0f;
    float sum = 0.0f; /* in the order of the choices */
    for (int k = 0; k < t.top_k; k++)
        sum += __shfl_sync(0xffffffffu, k < 32 ? v[0] : v[1], k % 32);
    float divisor = t.renorm ? sum + t.renorm_eps : 1.0f;
    if (!(divisor > 0.0f)) divisor = 1.0f; /* no chosen expert has any weight */
    v[0] = sy_flush(sy_flush(v[0] / divisor) * t.routed_scale);
    v[1] = sy_flush(sy_flush(v[1] / divisor) * t.routed_scale);
}

static __global__ void __launch_bounds__(ROUTE_THREADS, 8)
    choose_experts(const __grid_constant__ route_table t) {
    int64_t row = (int64_t)blockIdx.x * ROUTE_WARPS + threadIdx.x / 32;
    int lane = (int)threadIdx.x % 32, n = t.n_experts;
    if (row >= t.n_rows) return;
    bool there = row < t.count[SY_COUNT_ROWS];
    int chosen[CHOICES_PER_LANE] = {-1, -1};
    float v[CHOICES_PER_LANE] = {};
    if (there) {
        float *s = t.score + row * n;
        make_scores(t, s, lane);
        __syncwarp(); /* scores that other lanes have written are read below */
        const int32_t *forced = t.forced == NULL ? NULL : t.forced + row * t.top_k;
        take_experts(t, forced == NULL ? make_choice(t, row, s, lane) : s, forced, lane,
                     chosen);
#pragma unroll
        for (int i = 0; i < CHOICES_PER_LANE; i++) {
            bool valid = lane + 32 * i < t.top_k && chosen[i] >= 0 && chosen[i] < n;
            v[i] = valid ? s[chosen[i]] : no_score();
        }
        weigh(t, v);
    }
#pragma unroll
    for (int i = 0; i < CHOICES_PER_LANE; i++) {
        int k = lane + 32 * i;
        if (k >= t.top_k) continue;
        t.expert[row * t.top_k + k] = chosen[i];
        t.weight[row * t.top_k + k] = v[i];
    }
}

/* Scores, choice scores and scores of groups, [rows, E] each; UINT64_MAX on overflow. */
static uint64_t scores_bytes(int64_t rows, int64_t experts) {
    uint64_t n, bytes;
    if (!sy_mul_u64((uint64_t)rows, (uint64_t)experts, &n) ||
        !sy_mul_u64(n, 3 * sizeof(float), &bytes))
        return UINT64_MAX;
    return bytes;
}

extern "C" void sy_cuda_route_scratch(const sy_cuda *cu, const sy_limits *l, uint64_t *bytes) {
    (void)cu;
    *bytes = scores_bytes(sy_max(l->max_rows, 0), sy_max(l->experts, 0));
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
    if (ffn->n_groups > 1 && (ffn->experts % ffn->n_groups != 0 || ffn->groups_kept < 1 ||
                              ffn->groups_kept > ffn->n_groups ||
                              ffn->experts / ffn->n_groups * ffn->groups_kept < ffn->top_k))
        return sy_fail(SY_ERR_INTERNAL,
                       "router of %d experts, %d per token, in %d groups of which %d are kept: "
                       "out of range",
                       ffn->experts, ffn->top_k, ffn->n_groups, ffn->groups_kept);
    if ((ffn->router_bias && w->router_bias == NULL) ||
        (ffn->choice_bias && w->choice_bias == NULL))
        return sy_fail(SY_ERR_INTERNAL, "router: a bias is missing");
    sy_cuda_route_scratch(cu, &cu->limits, &reserved);
    if (n_rows > INT_MAX || scores_bytes(n_rows, ffn->experts) > reserved)
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
    t.bias = ffn->router_bias ? w->router_bias : NULL;
    t.choice_bias = ffn->choice_bias ? w->choice_bias : NULL;
    t.score = logits;
    if (ffn->choice_bias || ffn->n_groups > 1) t.choice = logits + n_rows * ld;
    if (ffn->n_groups > 1) t.group = logits + 2 * n_rows * ld;
    t.kind = ffn->score;
    t.group_kind = ffn->group_score;
    t.n_groups = ffn->n_groups;
    t.groups_kept = ffn->groups_kept;
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
