#include "topology/routing.h"

#include <math.h>
#include <stdlib.h>

#include "base/checked.h"

/* Contiguous experts, as sy_placement_contiguous deals them out. */
static int first_expert(int experts, int ranks, int rank) {
    return (int)((int64_t)experts * rank / ranks);
}

static int slots_of(int experts, int ranks, int rank) {
    return first_expert(experts, ranks, rank + 1) - first_expert(experts, ranks, rank);
}

double sy_routing_touched(int experts, int top_k, double tokens) {
    if (top_k >= experts) return tokens > 0 ? experts : 0;
    return experts * -expm1(tokens * log1p(-(double)top_k / experts));
}

/* 1/2 erfc(-x / sqrt 2) */
static double normal_below(double x) {
    return 0.5 * erfc(-x * M_SQRT1_2);
}

/* Integral of 1 - F^n over the positive half less that of F^n over the negative one. */
double sy_largest_normal(int n) {
    enum { STEPS = 2000 };
    const double reach = 10, step = reach / STEPS;
    double sum = 0;
    for (int i = 0; i < STEPS; i++) {
        double x = (i + 0.5) * step;
        sum += 1 - pow(normal_below(x), n) - pow(normal_below(-x), n);
    }
    return sum * step;
}

/* The largest of the ranks' shares of n things, whose variance per rank is given: equal normal
 * variables with a fixed sum are 1 / (R - 1) less than independent, hence the factor. */
static double largest_share(int ranks, double mean, double variance) {
    if (ranks == 1) return mean;
    return mean + sqrt(variance * ranks / (ranks - 1)) * sy_largest_normal(ranks);
}

/* pmf[j] of j successes in m trials. */
static void binomial(int m, double p, double *pmf) {
    double log_p = log(p), log_q = log1p(-p);
    for (int j = 0; j <= m; j++)
        pmf[j] = exp(lgamma(m + 1.0) - lgamma(j + 1.0) - lgamma(m - j + 1.0) + j * log_p +
                     (m - j) * log_q);
}

/* Buffers of one evaluation: [E + 1] each. */
typedef struct touched_table {
    double *one, *sum, *next;
} touched_table;

/* The probability that no rank holds more than `most` of d touched experts. Given their sum, the
 * ranks' numbers are independent binomial variables of any one p; p = d / E keeps all of them well
 * within range. */
static double none_above(int experts, int ranks, int d, int most, touched_table *t) {
    double p = (double)d / experts;
    int reach = 0, slots = -1;
    t->sum[0] = 1;
    for (int r = 0; r < ranks; r++) {
        int m = slots_of(experts, ranks, r), top = (int)sy_min(m, most);
        if (m != slots) binomial(m, p, t->one);
        slots = m;
        int end = (int)sy_min(reach + top, d);
        for (int s = 0; s <= end; s++) {
            double x = 0;
            for (int j = (int)sy_max(0, s - reach); j <= sy_min(top, s); j++)
                x += t->one[j] * t->sum[s - j];
            t->next[s] = x;
        }
        reach = end;
        double *swap = t->sum;
        t->sum = t->next;
        t->next = swap;
    }
    if (reach < d) return 0;
    binomial(experts, p, t->next);
    return fmin(1, t->sum[d] / t->next[d]);
}

/* Sum over t of P(the largest is above t); below ceil(d / R) that is certain. */
static double most_of(int experts, int ranks, int d, touched_table *t) {
    if (d <= 0) return 0;
    if (d >= experts) return (double)sy_ceil_div(experts, ranks);
    int low = (int)sy_ceil_div(d, ranks), slots = (int)sy_ceil_div(experts, ranks);
    double sum = low;
    for (int most = low; most < sy_min(slots, d); most++) {
        double above = 1 - none_above(experts, ranks, d, most, t);
        if (above < 1e-10) break;
        sum += above;
    }
    return sum;
}

static double most_by_normal(int experts, int ranks, double d) {
    double share = 1.0 / ranks, slots = (double)sy_ceil_div(experts, ranks);
    double variance = d * share * (1 - share) * (experts - d) / (experts - 1.0);
    return fmin(fmin(slots, d), largest_share(ranks, d * share, variance));
}

void sy_routing_forget(sy_routing_memo *memo) {
    free(memo->most);
    *memo = (sy_routing_memo){0};
}

static sy_status fit_memo(sy_routing_memo *memo, int experts, int ranks) {
    if (memo->most != NULL && memo->experts == experts && memo->ranks == ranks) return SY_OK;
    sy_routing_forget(memo);
    memo->most = calloc((size_t)experts + 1, sizeof *memo->most);
    if (memo->most == NULL)
        return sy_fail(SY_ERR_MEMORY, "no memory for a forecast of routing");
    memo->experts = experts;
    memo->ranks = ranks;
    for (int d = 0; d <= experts; d++)
        memo->most[d] = NAN;
    return SY_OK;
}

sy_status sy_routing_most_touched_again(sy_routing_memo *memo,
                                        int experts,
                                        int ranks,
                                        double touched,
                                        double *out) {
    sy_status st = SY_OK;
    double d = fmin(fmax(touched, 0), experts);
    double *block = NULL;
    size_t n = (size_t)experts + 1;
    *out = d;
    if (ranks == 1) goto done;
    if (experts > SY_ROUTING_EXACT) {
        *out = most_by_normal(experts, ranks, d);
        goto done;
    }
    SY_TRY(fit_memo(memo, experts, ranks));
    int low = (int)floor(d), high = (int)ceil(d);
    for (int i = low; i <= high; i++) {
        if (!isnan(memo->most[i])) continue;
        if (block == NULL && (block = calloc(3 * n, sizeof *block)) == NULL)
            SY_FAIL(SY_ERR_MEMORY, "no memory for a forecast of routing");
        touched_table t = {block, block + n, block + 2 * n};
        memo->most[i] = most_of(experts, ranks, i, &t);
    }
    *out = memo->most[low] + (d - low) * (memo->most[high] - memo->most[low]);
done:
    free(block);
    return st;
}

sy_status sy_routing_most_touched(int experts, int ranks, double touched, double *out) {
    sy_routing_memo memo = {0};
    sy_status st = sy_routing_most_touched_again(&memo, experts, ranks, touched, out);
    sy_routing_forget(&memo);
    return st;
}

sy_status sy_routing_most_pairs(int experts, int top_k, int ranks, double tokens, double *out) {
    double share = 1.0 / ranks;
    *out = tokens * top_k;
    if (ranks == 1 || tokens <= 0) return SY_OK;
    if (tokens <= 1) {
        sy_status st = sy_routing_most_touched(experts, ranks, top_k, out);
        *out *= tokens;
        return st;
    }
    double spread = experts > 1 ? (double)(experts - top_k) / (experts - 1) : 0;
    double variance = tokens * top_k * share * (1 - share) * spread;
    double even = tokens * top_k / experts * (double)sy_ceil_div(experts, ranks);
    *out = fmin(tokens * top_k,
                fmax(even, largest_share(ranks, tokens * top_k * share, variance)));
    return SY_OK;
}

/* C(n, K) / C(E, K): the probability that all K experts are among n given ones. */
static double all_among(int experts, int top_k, int n) {
    double p = 1;
    for (int i = 0; i < top_k && p > 0; i++)
        p *= n - i > 0 ? (double)(n - i) / (experts - i) : 0;
    return p;
}

static int rank_at(int experts, int ranks, const int *rank_of, int e) {
    return rank_of != NULL ? rank_of[e] : (int)((((int64_t)e + 1) * ranks - 1) / experts);
}

/* rank [E], whichever way it was told. */
static sy_status list_ranks(int experts, int ranks, const int *rank_of, int **out) {
    int *rank = calloc((size_t)experts, sizeof *rank);
    *out = rank;
    if (rank == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a forecast of the combine");
    for (int e = 0; e < experts; e++) {
        rank[e] = rank_at(experts, ranks, rank_of, e);
        if (rank[e] < 0 || rank[e] >= ranks)
            return sy_fail(SY_ERR_INTERNAL, "expert %d lies on rank %d of %d", e, rank[e],
                           ranks);
    }
    return SY_OK;
}

sy_status
sy_routing_ranks_needed(int experts, int top_k, int ranks, const int *rank_of, double *out) {
    sy_status st = SY_OK;
    int *rank = NULL, *slots = calloc((size_t)ranks, sizeof *slots);
    if (slots == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a forecast of the combine");
    SY_TRY(list_ranks(experts, ranks, rank_of, &rank));
    for (int e = 0; e < experts; e++)
        slots[rank[e]]++;
    *out = 0;
    for (int r = 0; r < ranks; r++)
        *out += 1 - all_among(experts, top_k, experts - slots[r]);
done:
    free(rank);
    free(slots);
    return st;
}

/* among[n] = all_among(E, K, n). A walk over the tree; `here` counts the experts of each rank in a
 * range, and `left` those of its left half. */
typedef struct tree_walk {
    int experts;
    const int *rank_of;
    const double *among;
    int *here, *left;
    double rows;
} tree_walk;

static void count_range(const tree_walk *w, int *count, int first, int end, int by) {
    for (int e = first; e < end; e++)
        count[w->rank_of[e]] += by;
}

/* P(a range holds experts of the token, all on one rank, and `half` of it holds some): over the
 * ranks, that all K lie outside or on the rank, less that they do so and avoid the half. */
static double alone_with(const tree_walk *w, int first, int end, const int *half) {
    int outside = w->experts - (end - first);
    double p = 0;
    for (int e = first; e < end; e++) {
        int r = w->rank_of[e], n = w->here[r];
        if (n < 0) continue; /* its rank was counted */
        p += w->among[outside + n] - w->among[outside + n - half[r]];
        w->here[r] = -n;
    }
    for (int e = first; e < end; e++)
        w->here[w->rank_of[e]] = abs(w->here[w->rank_of[e]]);
    return p;
}

/* A range sends a row if it is alone and its parent is not. */
static void walk(tree_walk *w, int first, int end) {
    int middle = first + (end - first + 1) / 2;
    count_range(w, w->here, first, end, 1);
    w->rows += alone_with(w, first, end, w->here);
    if (end - first > 1) {
        count_range(w, w->left, first, middle, 1);
        w->rows -= alone_with(w, first, end, w->left);
        count_range(w, w->left, first, middle, -1);
        count_range(w, w->left, middle, end, 1);
        w->rows -= alone_with(w, first, end, w->left);
        count_range(w, w->left, middle, end, -1);
    }
    count_range(w, w->here, first, end, -1);
    if (end - first == 1) return;
    walk(w, first, middle);
    walk(w, middle, end);
}

sy_status
sy_routing_rows_home(int experts, int top_k, int ranks, const int *rank_of, double *out) {
    sy_status st = SY_OK;
    size_t E = (size_t)experts, R = (size_t)ranks;
    double *among = calloc(E + 1, sizeof *among);
    int *place = NULL, *count = calloc(2 * R, sizeof *count);
    if (among == NULL || count == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for a forecast of the combine");
    SY_TRY(list_ranks(experts, ranks, rank_of, &place));
    for (int n = 0; n <= experts; n++)
        among[n] = all_among(experts, top_k, n);
    tree_walk w = {experts, place, among, count, count + R, 0};
    walk(&w, 0, experts);
    *out = w.rows;
done:
    free(among);
    free(place);
    free(count);
    return st;
}
