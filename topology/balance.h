/* Where the experts of a layer should live, from how much each is used. Arithmetic over plain
 * arrays: no files, no communication, and nothing that depends on time or chance, so that equal
 * questions have equal answers.
 *
 * GOAL. The time of a rank is load / speed; its unit is the time that every rank would need if the
 * load could be divided at will. The imbalance of a placement is the time of its slowest rank,
 * which is max/mean where all ranks are equally fast: 1 is perfect. With several profiles it is
 * the worst of them, each counted by its own mean: a placement for shifting loads must be good
 * under all. Copies of an expert share its load evenly, as the exchange sees to (comm/plan.h).
 *
 * SECOND GOAL. Among placements of equal imbalance (as good as, see below) the one with the least
 * expected traffic is taken: bytes of x that go out, once per rank and token, and of rows that the
 * exact combine brings home, one per maximal subtree of the halving tree over [0, E) whose chosen
 * experts one rank computed. Aligned runs of experts on one rank make these subtrees large. */
#ifndef SY_TOPOLOGY_BALANCE_H
#define SY_TOPOLOGY_BALANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "topology/placement.h"

/* What is called equal: the result may be worse than the best that was found by this part of it,
 * and by this part of what was gained over the published packing (EPLB) in the same slots. */
#define SY_BALANCE_TOLERANCE 0.005
#define SY_BALANCE_GIVEN 0.25

typedef struct sy_balance_problem {
    int n_experts, n_ranks;
    int top_k;           /* K, for the expected traffic */
    int max_slots;       /* of a rank; max_slots x R >= E */
    int max_copies;      /* of an expert, >= 1; more than R are of no use */
    bool fill;           /* leave no slot empty */
    int n_profiles;      /* >= 1 */
    const double *load;  /* [n_profiles, E], >= 0: only ratios within a profile matter */
    const double *speed; /* [R], > 0; NULL: all equal */
    const double *cost;  /* [R], >= 0: what a byte from and to a rank costs; NULL: all equal */
    /* Asked after every few changes looked at: true ends the search. NULL: nobody asks. */
    bool (*stop)(void *context);
    void *stop_context;
} sy_balance_problem;

/* Contiguous slots, rank by rank, ascending by expert within a rank. */
typedef struct sy_balance_result {
    int32_t *n_slots;     /* [R] */
    int32_t *slot_expert; /* [sum of n_slots] */
    double imbalance;     /* of this placement */
    double
        bound; /* no placement within the given slots and copies is below this: the largest of
                     four arguments, see balance_bound.c */
} sy_balance_result;

/* Searches one layer; a fixed number of changes is looked at, so that this ends whatever the sizes.
 * SY_ERR_INTERRUPTED if the problem's stop said so. Free the result with sy_balance_free, also
 * after an error. Allocates. */
sy_status sy_balance_layer(const sy_balance_problem *problem, sy_balance_result *out);
void sy_balance_free(sy_balance_result *result);

/* The imbalance of any placement of the problem's experts and ranks; slots and copies may be more
 * than the problem allows. */
double sy_balance_imbalance(const sy_balance_problem *problem, const sy_placement_layer *layer);

#endif
