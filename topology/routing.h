/* What random routing means for ranks: expectations over tokens that choose K of E experts, every
 * set being equally likely. Exact where that is affordable, and said where it is not. */
#ifndef SY_TOPOLOGY_ROUTING_H
#define SY_TOPOLOGY_ROUTING_H

#include <stdint.h>

#include "base/status.h"

/* Experts that at least one of n tokens chooses: E (1 - (1 - K/E)^n). */
double sy_routing_touched(int experts, int top_k, double tokens);

/* The largest number of `touched` experts that one of R ranks holds, experts being dealt out
 * contiguously and every set of that many being equally likely; between whole numbers
 * interpolated. Exact up to SY_ROUTING_EXACT experts, beyond by the maximum of normal variables.
 * SY_ERR_MEMORY. */
enum { SY_ROUTING_EXACT = 512 };
sy_status sy_routing_most_touched(int experts, int ranks, double touched, double *out);

/* The same, remembering what was computed for whole numbers: layers alike ask for much the same.
 * A zeroed memo is empty; free with sy_routing_forget. */
typedef struct sy_routing_memo {
    int experts, ranks;
    double *most; /* [experts + 1], NAN: not known */
} sy_routing_memo;
sy_status sy_routing_most_touched_again(sy_routing_memo *memo,
                                        int experts,
                                        int ranks,
                                        double touched,
                                        double *out);
void sy_routing_forget(sy_routing_memo *memo);

/* (token, expert) pairs of the busiest rank for n tokens: exact for one token, by the maximum of
 * normal variables beyond. */
sy_status sy_routing_most_pairs(int experts, int top_k, int ranks, double tokens, double *out);

/* Ranks that hold at least one of a token's experts. rank_of as below. */
sy_status
sy_routing_ranks_needed(int experts, int top_k, int ranks, const int *rank_of, double *out);

/* Rows that come home for a token in an exact combine: the maximal subtrees of [0, E), halved
 * recursively (left half ceil(n/2)), in which all of its experts lie on one rank; of all ranks,
 * the own one included. rank_of [E]: where each expert lies; NULL: contiguous over `ranks`. */
sy_status
sy_routing_rows_home(int experts, int top_k, int ranks, const int *rank_of, double *out);

/* The expectation of the largest of n independent standard normal variables. */
double sy_largest_normal(int n);

#endif
