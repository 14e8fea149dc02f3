/* Does the run fit into memory? Computed and checked before anything large is allocated.
 *
 * The ranks of one machine share what it has left. If the wish does not fit, the prefill chunk
 * is halved (the exchange's worst case, one expert that takes all, grows with it) before the run
 * is refused; a refusal says what each part needs and how many ranks would do. */
#ifndef SY_RUNTIME_BUDGET_H
#define SY_RUNTIME_BUDGET_H

#include "runtime/checkpoint.h"
#include "runtime/engine.h"

/* What a rank holds, in bytes: weights of its routed experts and of all else, KV cache, buffers of
 * steps and of the exchange at their worst, and the process itself with its libraries. */
typedef struct sy_memory_parts {
    uint64_t experts, rest, kv, buffers, process;
} sy_memory_parts;

/* Local, as all of these: for parts->comm's rank, which may be a planned one. count fills all parts;
 * count_engine those that the options decide. parts->weights is not used. */
sy_status sy_budget_count(const sy_engine_parts *parts,
                          const sy_checkpoint *checkpoint,
                          const sy_engine_options *options,
                          sy_memory_parts *out);
void sy_budget_count_engine(const sy_engine_parts *parts,
                            const sy_engine_options *options,
                            sy_memory_parts *out);
uint64_t sy_budget_total(const sy_memory_parts *parts); /* UINT64_MAX on overflow */
/* Halves the prefill chunk, and max_outputs if it follows; false if it is as small as may be. */
bool sy_budget_shrink(sy_engine_options *options);

typedef struct sy_budget {
    uint64_t weights, engine; /* bytes of this rank */
    uint64_t available;       /* this rank's share of its memory */
} sy_budget;

/* What a rank's memory has left, and which memory it is: ranks of a machine share what has equal
 * identities (0: the machine's own). bytes UINT64_MAX: unknown, nothing is refused. */
typedef struct sy_memory_left {
    uint64_t bytes, identity;
    uint64_t limit; /* most that the rank may hold, whatever is left; 0: none */
} sy_memory_left;

/* Collective. Shrinks options->chunk (and max_outputs with it, where it follows the chunk) until
 * the ranks of every memory fit, and every rank its limit; SY_ERR_MEMORY on all ranks if they
 * never do. parts->weights is not used. */
sy_status sy_budget_fit(const sy_engine_parts *parts,
                        const sy_checkpoint *checkpoint,
                        sy_memory_left left,
                        sy_engine_options *options,
                        sy_budget *out);

#endif
