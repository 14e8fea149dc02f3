/* What a model needs and how fast it would run, on every number of ranks of a cluster: the rows
 * behind `switchyard plan`. Memory is counted by the run's own budget (runtime/budget.h), speed by
 * topology/forecast.h. Nothing is started and no weights are read. */
#ifndef SY_RUNTIME_PLAN_H
#define SY_RUNTIME_PLAN_H

#include "runtime/budget.h"
#include "runtime/plan_model.h"

/* How the model would be run. */
typedef struct sy_plan_wish {
    int64_t
        context; /* positions of a sequence; prefill is of that many tokens, decode behind them */
    int64_t batch; /* sequences at the same time, over all ranks */
    int64_t chunk; /* most prefill rows of a rank in a step; shrinks to fit */
} sy_plan_wish;

typedef struct sy_plan_row {
    int ranks;
    bool is_there;                   /* the cluster has as many devices */
    sy_memory_parts memory;          /* of the fullest rank */
    uint64_t total, reserve, usable; /* reserve: of the device, not to be used; all in bytes */
    uint64_t
        expected; /* of total, what a run on a CPU touches: buffers for the worst exchange, one
                          rank with all tokens of all, stay partly untouched where experts are
                          chosen evenly */
    bool fits;
    int64_t chunk; /* as it fits; as wished where none does */
    sy_forecast decode, prefill;
    sy_forecast shard_decode, shard_prefill; /* of a mode that is not built yet */
} sy_plan_row;

enum { SY_PLAN_RANKS = 16 };
/* Gains below this share are not worth another machine. */
#define SY_PLAN_WORTH 0.10

typedef struct sy_plan_table {
    int n; /* 1 .. SY_PLAN_RANKS ranks, as far as links are known, and all devices of the cluster */
    sy_plan_row row[SY_PLAN_RANKS + 1];
    int whole; /* the row of all devices */
    int best;  /* of those that are there: the fewest ranks whose decode is within SY_PLAN_WORTH
                     of the best; -1: none fits */
    int fastest;  /* of those that are there, by decode; -1: none fits */
    int smallest; /* the fewest ranks that fit, there or not; -1: none */
} sy_plan_table;

/* be: what the sizes are those of. loads may be NULL, and so may placement, which is one for all
 * devices of the cluster; other numbers of ranks have contiguous experts. */
sy_status sy_plan_make(const sy_plan_precision *precision,
                       sy_backend *be,
                       const sy_cluster *cluster,
                       const sy_plan_wish *wish,
                       const sy_plan_loads *loads,
                       const sy_placement *placement,
                       sy_plan_table *out);

/* One sentence or two: how many ranks, in which mode, and whether more help. */
enum { SY_PLAN_ADVICE_MAX = 640 };
void sy_plan_advise(const sy_plan_table *table, char out[SY_PLAN_ADVICE_MAX]);

#endif
