/* Inside topology/balance*: a placement under search, with the times of its ranks. */
#ifndef SY_TOPOLOGY_BALANCE_STATE_H
#define SY_TOPOLOGY_BALANCE_STATE_H

#include <stdbool.h>
#include <stddef.h>

#include "topology/balance.h"

/* One block of memory holds all arrays, so that a state is saved by a copy. */
typedef struct sy_balance_state {
    int E, R, P;     /* experts, ranks, profiles */
    int cap;         /* slots of a rank */
    int most;        /* copies of an expert */
    double *weight;  /* [E, P]: load in units of the mean time, constant */
    double *speed;   /* [R], constant */
    double *share;   /* [E, P]: weight / n_copies */
    double *time;    /* [R, P] */
    double *value;   /* [R]: the largest of its times */
    int32_t *n_held; /* [R] */
    int32_t *held;   /* [R, cap]: experts, in no order */
    int32_t *at;     /* [R, E]: index in held, -1 if the rank has no copy */
    int32_t *n_copies;
    int32_t *holder; /* [E, most]: ranks, in no order */
    void *block;
    size_t bytes;
    bool (*stop)(void *context); /* the problem's */
    void *stop_context;
} sy_balance_state;

/* Changes that one descent, or one part of the search for less traffic, may look at: a second or
 * two. Layers of published models need far fewer. */
enum { SY_BALANCE_MOST_LOOKS = 100000000 };

/* An empty state: no expert is anywhere. */
sy_status sy_balance_state_create(const sy_balance_problem *problem, sy_balance_state *out);
void sy_balance_state_destroy(sy_balance_state *s);
/* Both of one problem. */
void sy_balance_state_copy(sy_balance_state *to, const sy_balance_state *from);
void sy_balance_state_clear(sy_balance_state *s);

static inline bool sy_balance_holds(const sy_balance_state *s, int rank, int expert) {
    return s->at[(size_t)rank * (size_t)s->E + (size_t)expert] >= 0;
}
/* Whether the search is to end. */
static inline bool sy_balance_stopped(const sy_balance_state *s) {
    return s->stop != NULL && s->stop(s->stop_context);
}
static inline bool sy_balance_full(const sy_balance_state *s, int rank) {
    return s->n_held[rank] >= s->cap;
}
static inline const double *sy_balance_share(const sy_balance_state *s, int expert) {
    return s->share + (size_t)expert * (size_t)s->P;
}
static inline const double *sy_balance_time(const sy_balance_state *s, int rank) {
    return s->time + (size_t)rank * (size_t)s->P;
}

/* The rank must have an empty slot and no copy yet; the expert fewer than `most`. */
void sy_balance_add(sy_balance_state *s, int expert, int rank);
/* The expert's last copy may go too, if one is added before the state is used. */
void sy_balance_remove(sy_balance_state *s, int expert, int rank);
/* A copy changes its rank; `to` has an empty slot and no copy. */
void sy_balance_move(sy_balance_state *s, int expert, int from, int to);
/* e of rank a and f of rank b change places; neither rank has the other's already. */
void sy_balance_swap(sy_balance_state *s, int e, int a, int f, int b);

int sy_balance_slowest(const sy_balance_state *s);
/* Sums all times anew, without the rounding that many small changes leave. */
void sy_balance_recount(sy_balance_state *s);

/* The value that a rank would have with `less` taken off and `more` put on; either may be NULL. */
double sy_balance_value_with(const sy_balance_state *s,
                             int rank,
                             const double *less,
                             const double *more);

/* sy_balance_bound of the state's loads, speeds, slots and copies; scratch [2 E + R + 1]. */
double sy_balance_state_bound(const sy_balance_state *s, double *scratch);

#endif
