/* What a model is made of, in numbers: parameters, and bytes by part, by dtype and by rank.
 *
 * From a checkpoint directory the bytes are those of its tensors as stored; from a config.json
 * or params.json alone (or a directory without weight files) they follow from the shapes and the
 * published precision, sy_published_bytes. No weights are read. */
#ifndef SY_RUNTIME_INSPECT_H
#define SY_RUNTIME_INSPECT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"
#include "runtime/checkpoint.h"
#include "runtime/spec_shapes.h"
#include "runtime/tensor_names.h"

typedef struct sy_tally {
    uint64_t tensors, bytes;
} sy_tally;

enum { SY_SPLIT_COUNT = 3 };
typedef struct sy_rank_split {
    int ranks;      /* 2, 4, 8 */
    uint64_t bytes; /* of the fullest rank */
} sy_rank_split;

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
    sy_tally skipped
        [SY_SKIP_COUNT]; /* in the files, of use to no forward pass; in no rank's share */
    uint64_t kv_bytes; /* keys and values, or latents, of one token over all layers, in BF16 */
    sy_rank_split split[SY_SPLIT_COUNT];
    int n_ranks;
    bool placed; /* experts by a placement, else contiguous */
    uint64_t
        *rank_bytes; /* [n_ranks]: the routed experts that the rank holds and all of the rest */
} sy_model_facts;

/* path: as in sy_spec_load; n_ranks >= 1. placement: a file that says which rank holds which
 * experts, or NULL: contiguous ones. */
sy_status
sy_inspect(const char *path, int n_ranks, const char *placement, sy_model_facts **out);
void sy_inspect_free(sy_model_facts *facts); /* NULL is fine */

/* Which part a tensor belongs to, by its name; *layer and *expert are -1 where it has none. */
sy_part sy_part_of(const char *name, int *layer, int *expert);

#endif
