#include "runtime/balance_metrics.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

enum { RUNS = 200 };
/* A simulation draws choice by choice up to this many in all runs, else it draws counts from the
 * normal distribution of the same mean and covariance. */
#define MOST_DRAWS 4000000.0
/* Counts that are rarer are drawn by Poisson's distribution. */
#define POISSON_BELOW 30.0

/* ---- measures ---- */

void sy_balance_of(const double *x, int n, sy_balance *out) {
    double sum = 0, most = 0, squares = 0, entropy = 0;
    int unused = 0;
    for (int i = 0; i < n; i++) {
        sum += x[i];
        if (x[i] > most) most = x[i];
        unused += x[i] == 0;
    }
    *out = (sy_balance){.max_over_mean = 1, .balancedness = 1, .entropy = 1, .unused = unused};
    if (sum <= 0) return;
    double mean = sum / n;
    for (int i = 0; i < n; i++) {
        squares += (x[i] - mean) * (x[i] - mean);
        if (x[i] > 0) entropy -= x[i] / sum * log(x[i] / sum);
    }
    out->max_over_mean = most / mean;
    out->excess_over_mean = (most - mean) / mean;
    out->balancedness = mean / most;
    out->cv = sqrt(squares / n) / mean;
    out->entropy = n > 1 ? entropy / log(n) : 1;
}

double sy_balance_overlap(const double *x, const double *y, int n) {
    double sum_x = 0, sum_y = 0, overlap = 0;
    for (int i = 0; i < n; i++) {
        sum_x += x[i];
        sum_y += y[i];
    }
    if (sum_x <= 0 || sum_y <= 0) return 1;
    for (int i = 0; i < n; i++)
        overlap += fmin(x[i] / sum_x, y[i] / sum_y);
    return overlap;
}

double sy_balance_difference(double a, double n_a, double b, double n_b) {
    if (n_a <= 0 || n_b <= 0) return 0;
    double share = (a + b) / (n_a + n_b);
    double variance = share * (1 - share) * (1 / n_a + 1 / n_b);
    return variance > 0 ? (a / n_a - b / n_b) / sqrt(variance) : 0;
}

/* ---- random numbers ---- */

typedef struct stream {
    uint64_t key, counter;
} stream;

/* In (0, 1). */
static double draw_uniform(stream *s) {
    return ((double)(sy_hash_add(s->key, s->counter++) >> 11) + 0.5) * 0x1p-53;
}

static double draw_normal(stream *s) {
    double radius = sqrt(-2 * log(draw_uniform(s)));
    return radius * cos(6.283185307179586 * draw_uniform(s));
}

/* How often something of this mean and variance happened. */
static double draw_count(stream *s, double mean, double variance) {
    if (mean >= POISSON_BELOW) return fmax(0, rint(mean + sqrt(variance) * draw_normal(s)));
    double limit = exp(-mean), product = draw_uniform(s);
    int n = 0;
    for (; product > limit; n++)
        product *= draw_uniform(s);
    return n;
}

/* ---- uniform routers ---- */

/* K different of E experts for each token, by a partial shuffle; order [E] stays a permutation. */
static void draw_choices(stream *s, uint64_t tokens, int K, int E, int *order, double *count) {
    for (uint64_t t = 0; t < tokens; t++) {
        for (int k = 0; k < K; k++) {
            int at = k + (int)(draw_uniform(s) * (E - k));
            int e = order[at];
            order[at] = order[k];
            order[k] = e;
            count[e]++;
        }
    }
}

/* The same for many tokens: counts have mean N p and variance N p (1 - p) with p = K / E, and add
 * up to N K, so that any two have covariance -variance / (E - 1). */
static void draw_counts(stream *s, double tokens, int K, int E, double *count) {
    double p = (double)K / E, mean = 0;
    double scale = E > 1 ? sqrt(tokens * p * (1 - p) * E / (E - 1)) : 0;
    for (int e = 0; e < E; e++) {
        count[e] = draw_normal(s);
        mean += count[e] / E;
    }
    for (int e = 0; e < E; e++)
        count[e] = fmax(0, tokens * p + scale * (count[e] - mean));
}

static void
share_among_copies(const sy_placement_layer *layer, const double *count, double *rank) {
    memset(rank, 0, (size_t)layer->n_ranks * sizeof *rank);
    for (int e = 0; e < layer->n_experts; e++) {
        int first = layer->home_first[e], copies = layer->home_first[e + 1] - first;
        for (int i = 0; i < copies; i++)
            rank[layer->home[first + i].rank] += count[e] / copies;
    }
}

static void add(sy_balance *sum, const sy_balance *b) {
    sum->max_over_mean += b->max_over_mean / RUNS;
    sum->excess_over_mean += b->excess_over_mean / RUNS;
    sum->balancedness += b->balancedness / RUNS;
    sum->cv += b->cv / RUNS;
    sum->entropy += b->entropy / RUNS;
    sum->unused += b->unused / RUNS;
}

sy_status sy_balance_uniform(uint64_t tokens,
                             int top_k,
                             const sy_placement_layer *layer,
                             sy_balance *experts,
                             sy_balance *ranks) {
    sy_status st = SY_OK;
    int E = layer->n_experts;
    stream s = {.key = 0x756e69666f726d}; /* any fixed number */
    bool each = (double)tokens * top_k * RUNS <= MOST_DRAWS;
    double *count = calloc((size_t)E, sizeof *count);
    double *rank = calloc((size_t)layer->n_ranks, sizeof *rank);
    int *order = calloc((size_t)E, sizeof *order);
    if (count == NULL || rank == NULL || order == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for a simulated router");
    for (int e = 0; e < E; e++)
        order[e] = e;
    *experts = (sy_balance){0};
    if (ranks != NULL) *ranks = (sy_balance){0};
    for (int run = 0; run < RUNS; run++) {
        sy_balance b;
        memset(count, 0, (size_t)E * sizeof *count);
        if (each)
            draw_choices(&s, tokens, top_k, E, order, count);
        else
            draw_counts(&s, (double)tokens, top_k, E, count);
        sy_balance_of(count, E, &b);
        add(experts, &b);
        if (ranks == NULL) continue;
        share_among_copies(layer, count, rank);
        sy_balance_of(rank, layer->n_ranks, &b);
        add(ranks, &b);
    }
done:
    free(count);
    free(rank);
    free(order);
    return st;
}

/* A sample of `total` pairs from the shares of both loads together. */
static void
draw_sample(stream *s, const double *x, const double *y, int n, double total, double *out) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += x[i] + y[i];
    for (int i = 0; i < n; i++) {
        double share = (x[i] + y[i]) / sum;
        out[i] = draw_count(s, total * share, total * share * (1 - share));
    }
}

sy_status sy_balance_uniform_overlap(const double *x, const double *y, int n, double *out) {
    sy_status st = SY_OK;
    double sum_x = 0, sum_y = 0;
    stream s = {.key = 0x6f7665726c6170};
    double *a = calloc(2 * (size_t)n, sizeof *a), *b = a == NULL ? NULL : a + n;
    if (a == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a simulated router");
    *out = 0;
    for (int i = 0; i < n; i++) {
        sum_x += x[i];
        sum_y += y[i];
    }
    for (int run = 0; run < RUNS && sum_x > 0 && sum_y > 0; run++) {
        draw_sample(&s, x, y, n, sum_x, a);
        draw_sample(&s, x, y, n, sum_y, b);
        *out += sy_balance_overlap(a, b, n) / RUNS;
    }
    if (sum_x <= 0 || sum_y <= 0) *out = 1;
done:
    free(a);
    return st;
}
