/* Inside topology/balance*: the search for even times. */
#ifndef SY_TOPOLOGY_BALANCE_SEARCH_H
#define SY_TOPOLOGY_BALANCE_SEARCH_H

#include "topology/balance_state.h"

typedef struct sy_balance_search {
    int64_t n_tried;            /* changes looked at so far */
    double *more, *less, *rise; /* [P] scratch */
} sy_balance_search;

sy_status sy_balance_search_create(int n_profiles, sy_balance_search *out);
void sy_balance_search_destroy(sy_balance_search *search);

/* Two ways to begin. Both give a copy for every spare slot to the expert whose copies have the
 * largest load; then all copies by falling load go to the rank that is done first with them.
 *
 * greedy: with the largest load of all profiles, and never two copies of an expert on one rank.
 * published: as the published algorithm (EPLB) does: with the loads' sum over the profiles, sum[E],
 * and wherever the times say. Copies of an expert on one rank then become one, as they would in
 * the exchange. *claimed is the imbalance, by that sum, which it counts on before.
 *
 * What stood in the state is lost. SY_ERR_INTERRUPTED if the search is to end. */
sy_status sy_balance_greedy(sy_balance_state *s);
sy_status sy_balance_published(sy_balance_state *s, const double *sum, double *claimed);

/* Improves the slowest rank by the best single change (a copy moves, two change places, a copy
 * comes, goes, or takes another's slot) until none helps or SY_BALANCE_MOST_LOOKS changes were
 * looked at. */
void sy_balance_descend(sy_balance_search *search, sy_balance_state *s);

/* Disturbs and descends again, keeping the best state in *s, until `budget` changes were looked
 * at or the value `goal` is reached. `spare` is any state of the same problem. */
void sy_balance_explore(sy_balance_search *search,
                        sy_balance_state *s,
                        sy_balance_state *spare,
                        double goal,
                        int64_t budget);

#endif
