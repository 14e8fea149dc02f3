/* What a model is made of, in numbers: parameters, and bytes by part, by dtype and by rank.
 *
 * From a checkpoint directory the bytes are those of its tensors as stored; from a config.json
 * alone they follow from the shapes, as if every weight were BF16. No weights are read. */
#ifndef SY_RUNTIME_INSPECT_H
#define SY_RUNTIME_INSPECT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "runtime/checkpoint.h"
#include "runtime/spec.h"

#define SY_PART_LIST(X)                                                                        \
    X(SY_PART_EMBEDDING, "embedding")                                                          \
    X(SY_PART_LM_HEAD, "lm_head")                                                              \
    X(SY_PART_ATTENTION, "attention")                                                          \
    X(SY_PART_DENSE_FFN, "dense_ffn")                                                          \
    X(SY_PART_ROUTER, "router")                                                                \
    X(SY_PART_SHARED, "shared")                                                                \
    X(SY_PART_ROUTED, "routed")                                                                \
    X(SY_PART_NORMS, "norms")                                                                  \
    X(SY_PART_OTHER, "other") /* tensors whose name says nothing to us */

typedef enum sy_part {
#define X(name, text) name,
    SY_PART_LIST(X)
#undef X
        SY_PART_COUNT
} sy_part;

const char *sy_part_name(sy_part part); /* "attention"; "?" out of range */

typedef struct sy_tally {
    uint64_t tensors, bytes;
} sy_tally;

typedef struct sy_model_facts {
    sy_model_spec *spec; /* owned */
    sy_param_counts params;
    bool from_files; /* false: a config alone; then files and tensors are all 0 */
    bool has_tokenizer;
    int n_files, n_unlisted;
    uint64_t file_bytes;
    uint64_t elements; /* of all tensors */
    sy_tally all;
    sy_tally part[SY_PART_COUNT];
    sy_tally dtype[SY_DTYPE_COUNT];
    uint64_t kv_bytes; /* keys and values of one token over all layers, in BF16 */
    int n_ranks;
    uint64_t
        *rank_bytes; /* [n_ranks]: the rank's share of routed experts (contiguous, rank r has
                             experts [E*r/R, E*(r+1)/R) of each layer) and all of the rest */
} sy_model_facts;

/* path: a checkpoint directory or a config.json; n_ranks >= 1. */
sy_status sy_inspect(const char *path, int n_ranks, sy_model_facts **out);
void sy_inspect_free(sy_model_facts *facts); /* NULL is fine */

/* Which part a tensor belongs to, by its name; *layer and *expert are -1 where it has none. */
sy_part sy_part_of(const char *name, int *layer, int *expert);

#endif
