/* Inside runtime/: what a profile keeps on each rank, as recording (profile.c) and gathering
 * (profile_data.c) share it. */
#ifndef SY_RUNTIME_PROFILE_MEMORY_H
#define SY_RUNTIME_PROFILE_MEMORY_H

#include "base/memory.h"
#include "runtime/profile.h"
#include "runtime/profile_data.h"

/* A span of the trace, by this rank's clock. `phase` SY_PHASES is a whole step. */
typedef struct sy_profile_event {
    int64_t begin, end; /* ns */
    int32_t step;
    int32_t rows;  /* of a step */
    int16_t layer; /* -1: none */
    uint16_t phase;
} sy_profile_event;

struct sy_profile {
    sy_profile_parts parts;
    sy_profile_options options;
    int rank, n_ranks, n_moe, n_experts, top_k;
    bool synchronised; /* a device's work is waited for at each boundary */
    bool recording;    /* between begin and collect */
    char label[SY_PROFILE_LABEL_MAX];

    /* the current step */
    bool in_step;
    sy_profile_phase phase;
    int layer;
    int64_t step_begin, phase_begin, last_end; /* ns */
    int64_t *span_number;                      /* [max_spans] */

    /* since create */
    sy_profile_times times;
    sy_profile_bucket bucket[SY_PROFILE_BUCKETS];
    uint64_t *phase_ns;      /* [L + 1, SY_PHASES]; row L: no layer */
    uint64_t *pair;          /* [n_moe, E, E], a <= b, or NULL: too many experts */
    sy_profile_event *event; /* [options.events] */

    /* since begin */
    double *weight;         /* [n_moe, E] */
    sy_exchange_peer *mark; /* [R] what had travelled at begin */

    int16_t *moe_of_layer; /* [L], -1: dense */
    int32_t *expert;       /* [max_rows, K] a device's choice, read back */
    float *expert_weight;

    /* the choices of the first sequences, as far as they ran here */
    int64_t n_admitted;
    int64_t *kept_rows; /* [routes] */
    int32_t *kept_ids;  /* [routes, max_context] */
    uint16_t *kept;     /* [routes, n_moe, max_context, K] */
    char *kept_label;   /* [routes, SY_PROFILE_LABEL_MAX] */
    int64_t *clock;     /* [R, 2] offset and error of each rank's clock, on rank 0 */

    void *block;
    uint64_t bytes;
    sy_profile_data *data; /* rank 0 */
};

/* One row of K choices of a kept sequence. */
static inline uint16_t *
sy_profile_kept_row(const sy_profile *p, int64_t number, int moe, int64_t position) {
    int64_t row = (number * p->n_moe + moe) * p->parts.max_context + position;
    return p->kept + row * p->top_k;
}

#endif
