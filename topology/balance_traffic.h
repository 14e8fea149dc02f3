/* Inside topology/balance*: the traffic that a placement lets expect, as a sum that a small change
 * of the placement changes in few places; and the search for less of it.
 *
 * MODEL. A token chooses expert e with probability p(e) = K load / sum of loads, each apart from
 * the others, and a copy by chance. Rank r then receives the token unless it computes none of its
 * experts, and sends one row for each maximal subtree all of whose chosen experts it computed:
 * as many as there are chosen experts on r, less one for each node both of whose children have
 * chosen experts, all on r. With Z(v, r) = product over the experts of v of 1 - p x (share that
 * others compute), the probability that nothing chosen in v is computed elsewhere, and Z(v) the
 * one that nothing in v is chosen, a child is such with probability Z(v, r) - Z(v). */
#ifndef SY_TOPOLOGY_BALANCE_TRAFFIC_H
#define SY_TOPOLOGY_BALANCE_TRAFFIC_H

#include "topology/balance_search.h"

typedef struct sy_balance_traffic {
    int E, R, P, n_nodes;                           /* 2 E - 1; node 0 is the root */
    int32_t *parent, *left, *right, *first, *count; /* [nodes]; left = -1: a leaf */
    int32_t *leaf;                                  /* [E]: node of an expert */
    double *chosen;                                 /* [E]: p */
    double *none;                                   /* [nodes]: Z(v) */
    double *only;                                   /* [R, nodes]: Z(v, r) */
    double *joined;                                 /* [R]: expected nodes that save a row */
    double *rows;                                   /* [R]: expected chosen experts there */
    double *cost;                                   /* [R]: of a byte */
    double *sum; /* [nodes, P]: load of a copy of each of its experts */
    void *block;
    size_t bytes;
} sy_balance_traffic;

sy_status sy_balance_traffic_create(const sy_balance_problem *problem, sy_balance_traffic *out);
void sy_balance_traffic_destroy(sy_balance_traffic *t);

/* Costs of a byte from and to each rank, cost[R]; NULL: all equal, as after create. */
void sy_balance_traffic_set_cost(sy_balance_traffic *t, const double *cost);
/* Counts everything anew from a state. */
void sy_balance_traffic_count(sy_balance_traffic *t, const sy_balance_state *s);
/* Follows a change of what the rank computes of the expert. */
void sy_balance_traffic_update(sy_balance_traffic *t,
                               const sy_balance_state *s,
                               int expert,
                               int rank);
/* Cost per token in units of one byte for each of the H values of a row: x out in BF16 (2), rows
 * back in float32 (4). */
double sy_balance_traffic_of(const sy_balance_traffic *t, const sy_balance_state *s, int rank);
double sy_balance_traffic_total(const sy_balance_traffic *t, const sy_balance_state *s);

/* A node of the tree whose experts all have a copy on `rank` and none on the other rank changes
 * places with one of the other's of the same size. Both sets are disjoint. */
typedef struct sy_balance_exchange {
    int node, rank;
    int other_node, other_rank; /* other_node -1: there is room, and nothing comes back */
} sy_balance_exchange;

/* Applies an exchange to the state and follows it. Its reverse has the ranks changed. */
void sy_balance_exchange_apply(sy_balance_traffic *t,
                               sy_balance_state *s,
                               const sy_balance_exchange *x);

/* Makes exchanges that lessen the traffic while no rank's value exceeds `limit`; then, if `drop`,
 * takes off copies whose going does. At most `budget` exchanges are tried. */
void sy_balance_align(sy_balance_traffic *t,
                      sy_balance_state *s,
                      double limit,
                      bool drop,
                      int64_t budget);

/* From a state that is well aligned but uneven: exchanges until no value exceeds `limit`, those
 * preferred that cost little traffic. False if none is left that helps. */
bool sy_balance_even_out(sy_balance_traffic *t, sy_balance_state *s, double limit);

#endif
