/* What a token sends under a placement, counted for tokens whose experts are drawn by load.
 *
 * The rules are those of the exchange (comm/plan.h): row i of rank h uses the copy at (h + i)
 * modulo the number of copies; a rank sends one row home for each maximal subtree of the tree that
 * halves [0, E) (left half ceil(n/2)) in which all chosen experts of the token are computed by it. */
#ifndef SY_TOPOLOGY_TOKEN_TRAFFIC_H
#define SY_TOPOLOGY_TOKEN_TRAFFIC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "topology/placement.h"

/* Means per token. A token's rows are computed on its own rank, too; those never travel, and are
 * counted in none of these. */
typedef struct sy_token_traffic {
    double copies; /* ranks that the token is sent to */
    double rows;   /* rows that the exact combine brings home */
    double host_copies, host_rows,
        host_pairs; /* to and from other hosts; pairs (token, expert) */
} sy_token_traffic;

/* rank[K]: where row `row` of rank `home` has its experts computed. */
void sy_token_ranks(const sy_placement_layer *layer,
                    int home,
                    int64_t row,
                    int top_k,
                    const int32_t *expert,
                    int32_t *rank);

/* opens[i] = whether expert i is the first of a segment; the experts ascend. */
void sy_token_segments(int n_experts,
                       int top_k,
                       const int32_t *expert,
                       const int32_t *rank,
                       bool *opens);

/* chosen[E]: from loads (ratios only), the probabilities with which top_k distinct experts are
 * drawn: they sum to top_k, and none is above 1. */
void sy_token_chances(int n_experts, int top_k, const double *load, double *chosen);

/* expert[K] ascending: draw number `number`; the same for every placement. Each expert is drawn
 * with its chance exactly (systematic sampling in a random order). order[E] is scratch. */
void sy_token_draw(int n_experts,
                   int top_k,
                   const double *chosen,
                   uint64_t number,
                   int32_t *order,
                   int32_t *expert);

/* n_tokens tokens, home on all ranks by turns. host[R]: which host a rank is on, NULL: one. */
sy_status sy_token_traffic_measure(const sy_placement_layer *layer,
                                   int top_k,
                                   const double *load,
                                   const int32_t *host,
                                   int n_tokens,
                                   sy_token_traffic *out);

#endif
