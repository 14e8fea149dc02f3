/* A profile of all ranks together, as rank 0 has it in the end: what the files and the terminal
 * show. */
#ifndef SY_RUNTIME_PROFILE_DATA_H
#define SY_RUNTIME_PROFILE_DATA_H

#include <stdbool.h>
#include <stdint.h>

#include "comm/exchange.h"
#include "runtime/balance_metrics.h"
#include "runtime/profile.h"

enum { SY_PROFILE_LABEL_MAX = 64, SY_PROFILE_BUCKETS = 32, SY_PROFILE_TOP_PAIRS = 64 };

/* Of one rank. */
typedef struct sy_profile_times {
    uint64_t steps;
    uint64_t step_ns, between_ns;
    uint64_t events, dropped; /* of the trace */
} sy_profile_times;

/* Steps of similar size: bucket i has those whose fullest rank had more than 2^(i - 1) rows and at
 * most 2^i. */
typedef struct sy_profile_bucket {
    uint64_t steps, tokens, ns;
} sy_profile_bucket;

/* n tokens chose both experts a < b. */
typedef struct sy_profile_pair {
    int32_t a, b;
    uint64_t n;
} sy_profile_pair;

typedef struct sy_profile_label {
    char name[SY_PROFILE_LABEL_MAX];
    uint64_t tokens;
    uint64_t *count; /* [slots of all MoE layers] pairs that a slot computed */
    double *weight;  /* [n_moe, E] */
} sy_profile_label;

/* How even a layer's load is, beside what a uniform router would give for as many tokens. */
typedef struct sy_profile_balance {
    sy_balance experts, ranks, uniform_experts, uniform_ranks;
} sy_profile_balance;

typedef struct sy_profile_data {
    const sy_model_spec *spec;
    const sy_placement *placement;
    int n_ranks, n_moe, n_experts; /* E: most of any layer */
    int *layer;                    /* [n_moe] */
    int64_t *slot_first;           /* [n_moe + 1] into count */
    int n_labels;
    sy_profile_label *label;
    sy_profile_label total; /* of all labels */
    sy_exchange_peer *link; /* [R, R] row a, column b: between a and b as a counted it */

    /* from here on by sy_profile_gather */
    bool synchronised;
    sy_profile_times *times;                      /* [R] */
    uint64_t *phase_ns;                           /* [R, L + 1, SY_PHASES]; row L: no layer */
    sy_profile_bucket bucket[SY_PROFILE_BUCKETS]; /* ns: of rank 0 */
    int64_t *clock;                               /* [R, 2] see runtime/profile_clock.h */
    int *n_pairs;                                 /* [n_moe] */
    sy_profile_pair *pair; /* [n_moe, SY_PROFILE_TOP_PAIRS] most frequent first */
    bool pairs_counted;    /* false: too many experts for it */
    int64_t n_routes;      /* files of choices that were written */

    /* of the last sy_profile_balance_of: layers are mostly alike */
    int uniform_moe; /* -1: none */
    uint64_t uniform_tokens;
    sy_profile_balance uniform;
} sy_profile_data;

sy_status sy_profile_data_create(const sy_model_spec *spec,
                                 const sy_placement *placement,
                                 int n_ranks,
                                 sy_profile_data **out);
void sy_profile_data_destroy(sy_profile_data *data); /* NULL is fine */

/* What has been collected so far, on rank 0; NULL on the others. Owned by the profile. */
sy_profile_data *sy_profile_get_data(const sy_profile *profile);

/* Brings times and pairs of all ranks to rank 0; after the last collect. Collective. */
sy_status sy_profile_gather(sy_profile *profile);

static inline uint64_t
sy_profile_rank_phase_ns(const sy_profile_data *d, int rank, int layer, int phase) {
    int64_t row = (int64_t)rank * (d->spec->n_layers + 1) + layer;
    return d->phase_ns[row * SY_PHASES + phase];
}

/* A rank's time in a phase, in all layers and outside of them. */
uint64_t sy_profile_phase_total(const sy_profile_data *data, int rank, int phase);
/* A rank's time in the phases that wait for others. */
uint64_t sy_profile_wait_total(const sy_profile_data *data, int rank);
/* Experts' or ranks' pairs of a MoE layer (moe counts from 0): out [E of the layer] or [R]. */
void sy_profile_expert_counts(const sy_profile_data *data,
                              const sy_profile_label *label,
                              int moe,
                              double *out);
void sy_profile_rank_counts(const sy_profile_data *data,
                            const sy_profile_label *label,
                            int moe,
                            double *out);

/* Balance of a layer under a label (or data->total). */
sy_status sy_profile_balance_of(sy_profile_data *data,
                                const sy_profile_label *label,
                                int moe,
                                sy_profile_balance *out);

#endif
