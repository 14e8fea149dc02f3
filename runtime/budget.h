/* Does the run fit into memory? Computed and checked before anything large is allocated.
 *
 * The ranks of one machine share what it has left. If the wish does not fit, the prefill chunk
 * is halved (the exchange's worst case, one expert that takes all, grows with it) before the run
 * is refused; a refusal says what each part needs and how many ranks would do. */
#ifndef SY_RUNTIME_BUDGET_H
#define SY_RUNTIME_BUDGET_H

#include "runtime/checkpoint.h"
#include "runtime/engine.h"

typedef struct sy_budget {
    uint64_t weights, engine; /* bytes of this rank */
    uint64_t available;       /* this rank's share of its memory */
} sy_budget;

/* What a rank's memory has left, and which memory it is: ranks of a machine share what has equal
 * identities (0: the machine's own). bytes UINT64_MAX: unknown, nothing is refused. */
typedef struct sy_memory_left {
    uint64_t bytes, identity;
} sy_memory_left;

/* Collective. Shrinks options->chunk (and max_outputs with it, where it follows the chunk) until
 * the ranks of every memory fit; SY_ERR_MEMORY on all ranks if they never do. parts->weights is
 * not used. */
sy_status sy_budget_fit(const sy_engine_parts *parts,
                        const sy_checkpoint *checkpoint,
                        sy_memory_left left,
                        sy_engine_options *options,
                        sy_budget *out);

#endif
