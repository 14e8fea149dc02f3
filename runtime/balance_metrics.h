/* How even a load is, and how even chance alone would make it. Pure functions.
 *
 * The load is a list of numbers, tokens per expert or per rank; m is their mean, M the largest. What
 * others print under one name differs: vLLM's "balancedness" is m / M, TensorRT-LLM's imbalance
 * ratio is (M - m) / m, many papers give M / m. */
#ifndef SY_RUNTIME_BALANCE_METRICS_H
#define SY_RUNTIME_BALANCE_METRICS_H

#include <stdint.h>

#include "base/status.h"
#include "topology/placement.h"

typedef struct sy_balance {
    double max_over_mean;    /* M / m: 1 is even */
    double excess_over_mean; /* (M - m) / m: 0 is even */
    double balancedness;     /* m / M: 1 is even */
    double cv;               /* standard deviation (of all n) / m: 0 is even */
    double entropy;          /* of the shares, over log n: 1 is even, 0 is all on one */
    double unused;           /* how many are 0 */
} sy_balance;

/* x [n] >= 0, n >= 1. If all are 0, the load is even (and all are unused). */
void sy_balance_of(const double *x, int n, sy_balance *out);

/* The same, on average over simulated runs, for `tokens` tokens that each choose top_k different
 * experts of a layer uniformly at random; an expert's tokens are shared evenly among its copies. The
 * same arguments give the same result. ranks may be NULL. */
sy_status sy_balance_uniform(uint64_t tokens,
                             int top_k,
                             const sy_placement_layer *layer,
                             sy_balance *experts,
                             sy_balance *ranks);

/* The shares that two loads of n experts have in common: sum of min(p_i, q_i). 1 if either is
 * empty. */
double sy_balance_overlap(const double *x, const double *y, int n);
/* What the overlap would be, on average over simulated runs, if both were samples of the load
 * x + y. */
sy_status sy_balance_uniform_overlap(const double *x, const double *y, int n, double *out);

/* Of two groups of n_a and n_b tokens, a and b chose an expert: the difference of their shares over
 * its standard error, if both had the same true share. 0 where that cannot be said. */
double sy_balance_difference(double a, double n_a, double b, double n_b);

#endif
