/* The engine: requests in, tokens out, over all ranks.
 *
 * Every rank creates an engine over its own weights and then calls the same functions in the
 * same order; rank 0 brings the requests, decides each step and receives the tokens. All memory
 * is taken at create. */
#ifndef SY_RUNTIME_ENGINE_H
#define SY_RUNTIME_ENGINE_H

#include "comm/comm.h"
#include "comm/liveness.h"
#include "runtime/forward.h"
#include "runtime/schedule.h"
#include "runtime/stepper.h"

typedef struct sy_engine sy_engine;

/* What the engine works with; borrowed, outlives it. */
typedef struct sy_engine_parts {
    sy_comm *comm;
    sy_liveness *live; /* NULL: not watched */
    sy_backend *be;
    const sy_model_spec *spec;
    const sy_placement *placement;
    const sy_weights *weights;
} sy_engine_parts;

/* Equal on all ranks. */
typedef struct sy_engine_options {
    int64_t max_context; /* positions of a sequence */
    int64_t max_pages;   /* KV pages of a rank */
    int per_rank;        /* sequences of a rank at the same time */
    int64_t chunk;       /* most rows of a rank in a step, >= per_rank */
    int64_t max_outputs; /* rows of logits a rank makes in a step, >= per_rank */
    int64_t n_valid;     /* ids below this exist in the tokenizer and may be sampled */
    sy_combine_mode combine;
    bool ignore_eos;            /* benchmarks run to max_tokens */
    bool hash_logits;           /* sy_token.logits_hash is computed */
    bool no_graphs;             /* on a device: launch by launch, never a recorded step */
    sy_profile_options profile; /* .on: made, and steps launch by launch on a device */
    double exchange_deadline;   /* of a wait for other ranks' rows, see sy_exchange_shape */
} sy_engine_options;

/* Bytes of the memory that the backend computes in (a device's, else the host's) that an engine
 * needs on this rank besides the weights; UINT64_MAX on overflow. */
uint64_t sy_engine_bytes(const sy_engine_parts *parts, const sy_engine_options *options);

/* Collective. */
sy_status sy_engine_create(const sy_engine_parts *parts,
                           const sy_engine_options *options,
                           sy_engine **out);
void sy_engine_destroy(sy_engine *engine); /* NULL is fine */

typedef struct sy_token {
    int32_t id;
    bool is_end;          /* one of the model's end tokens; not part of the text */
    bool is_nan;          /* no logit of the row is a number: the request fails here */
    bool is_last;         /* is_end, is_nan, or max_tokens reached */
    uint64_t logits_hash; /* over the bits of the row it was sampled from */
} sy_token;

typedef struct sy_engine_events { /* on rank 0; may be NULL on others */
    /* A token of a request. Returns true to end the request here (a stop string, say). */
    bool (*token)(void *context, int request, const sy_token *token);
    /* Asked once a step; true ends all requests (Ctrl-C). NULL: never. */
    bool (*interrupted)(void *context);
    /* Prompt rows done of all prompt rows, while prefilling. NULL: not wanted. */
    void (*prefill)(void *context, int64_t done, int64_t of);
    void *context;
} sy_engine_events;

typedef struct sy_engine_stats { /* on rank 0 */
    uint64_t steps;
    int64_t prefill_tokens; /* rows of prompts, in steps that take prefill_seconds */
    int64_t mixed_tokens;   /* tokens that other sequences made in these same steps */
    int64_t decode_tokens;  /* tokens of steps without prompts, which take decode_seconds */
    double prefill_seconds, decode_seconds;
    bool interrupted;
} sy_engine_stats;

/* Runs all requests to their end. requests, n and events matter on rank 0 only. Collective. */
sy_status sy_engine_generate(sy_engine *engine,
                             const sy_request *requests,
                             int n,
                             const sy_engine_events *events,
                             sy_engine_stats *stats);

/* Logits of every position of one sequence, computed on rank 0 in chunks; ids, n and forced are
 * equal on all ranks. forced[i] is [n, K] for MoE layer i, or forced is NULL. rows is called on
 * rank 0 with float32 [n_rows, V] of ascending positions. Collective. */
typedef sy_status (*sy_logits_sink)(void *context, int64_t n_rows, const float *rows);
sy_status sy_engine_logits(sy_engine *engine,
                           const int32_t *ids,
                           int64_t n,
                           const int32_t *const *forced,
                           sy_logits_sink rows,
                           void *context);

void sy_engine_step_stats(const sy_engine *engine, sy_stepper_stats *out);
sy_runner *sy_engine_runner(sy_engine *engine); /* loads, profile, exchange statistics */

#endif
