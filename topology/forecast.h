/* How fast a model would run: a cost model over plain numbers, and nothing else.
 *
 * A step reads weights and keys and values, multiplies, and exchanges rows. With several ranks the
 * slowest counts: experts are chosen at random, so the busiest rank reads and computes more than
 * the mean, by an expectation that is computed here and not guessed. docs/plan.md has the formulas.
 *
 *   step = step overhead + layers * layer overhead
 *        + max(rest + experts + KV, compute) + exchange + latency
 *
 * Units: bytes, FLOP (two per multiply-add), seconds. */
#ifndef SY_TOPOLOGY_FORECAST_H
#define SY_TOPOLOGY_FORECAST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* Equal layers. Weights are counted as elements for FLOPs and as stored bytes for reading. */
typedef struct sy_forecast_layer {
    int count;
    double rest_bytes, rest_weights; /* of what every token visits: attention, router, shared
                                            expert or dense FFN */
    double expert_bytes, expert_weights; /* of one expert */
    int experts, top_k;                  /* 0: a dense layer */
    double kv_bytes;                     /* of a token's keys and values, or latents */
    int kv_shards;                       /* parts that shard can split them into */
    double position_flops;               /* of one query over one position */
    int64_t window;                      /* positions that a query sees; 0: all */
    /* [experts]: the share of tokens that choose each, from measured loads; NULL: all alike.
     * Where layers of a kind differ in this they are listed one by one. */
    const double *chosen;
    /* [experts]: the rank of each on placed_ranks ranks; NULL: contiguous, as on any other number. */
    const int *rank_of;
    int placed_ranks;
} sy_forecast_layer;

typedef struct sy_forecast_model {
    int n_layers; /* entries of layer */
    const sy_forecast_layer *layer;
    int hidden;
    double act_bytes;                /* of an element of a row that travels to experts */
    double head_bytes, head_weights; /* once for each row of logits */
} sy_forecast_model;

typedef struct sy_forecast_link {
    double bandwidth; /* bytes/s, one direction */
    double latency, peer_latency;
    bool shared;
} sy_forecast_link;

typedef struct sy_forecast_machine {
    double peak_read, peak_rate;                   /* what the hardware could */
    double rest_read, expert_read, kv_read;        /* bytes/s that kernels reach */
    double rest_rate, expert_rate, attention_rate; /* FLOP/s that kernels reach */
    double step_overhead, layer_overhead;
    int devices_per_host;
    sy_forecast_link in_host, between_hosts;
} sy_forecast_machine;

typedef enum sy_parallel {
    SY_PARALLEL_SPREAD, /* sequences split, experts split, the rest on every rank */
    SY_PARALLEL_SHARD   /* the rest sliced too, hidden states mirrored */
} sy_parallel;

typedef struct sy_forecast_job {
    sy_parallel mode;
    int ranks;
    int64_t batch;   /* sequences at the same time, over all ranks */
    int64_t context; /* positions before the token, in decode */
    int64_t prompt;  /* tokens of each prompt, in prefill */
    int64_t chunk;   /* most rows of a rank in a step */
} sy_forecast_job;

/* Of the busiest rank, per step in decode, for all prompts in prefill. */
typedef struct sy_forecast {
    double rest_s, experts_s, kv_s; /* reading */
    double compute_s;               /* multiplying; overlaps with reading */
    double exchange_s, latency_s;   /* bytes, and messages whatever their length */
    double overhead_s;
    double seconds;                             /* the sum, as above */
    double rest_bytes, experts_bytes, kv_bytes; /* read */
    double exchange_bytes;                      /* sent to other ranks, or received if more */
    double
        imbalance; /* expert bytes (decode) or pairs (prefill) of the busiest over the mean */
    double tokens_per_s; /* of all ranks together */
    double bound_per_s;  /* at full bandwidth and rate, perfect balance, no exchange */
} sy_forecast;

/* SY_ERR_USAGE where a number is out of range, SY_ERR_MEMORY. */
sy_status sy_forecast_decode(const sy_forecast_model *model,
                             const sy_forecast_machine *machine,
                             const sy_forecast_job *job,
                             sy_forecast *out);
sy_status sy_forecast_prefill(const sy_forecast_model *model,
                              const sy_forecast_machine *machine,
                              const sy_forecast_job *job,
                              sy_forecast *out);

#endif
