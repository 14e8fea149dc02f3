/* Checkpoints whose weights are a formula: tests/data/tiny/<family>/tensors.json names the
 * tensors, and value i of one is offset + q * 2^-shift, where q in -range..range comes from a hash
 * of (seed, name, i). They are written out as safetensors files into a directory of a test's own.
 *
 * tensors.json also has the hash of all values' bytes as scripts/tiny_models/formula.py computes
 * them; what is written always agrees with it. Local: under MPI each rank writes its own. */
#ifndef SY_TESTS_SEEDED_CHECKPOINT_H
#define SY_TESTS_SEEDED_CHECKPOINT_H

#include <stddef.h>

#include "base/dtype.h"
#include "base/status.h"

typedef struct sy_seeded_options {
    sy_dtype
        dtype; /* SY_F32, SY_BF16 or SY_F16: of the weights that have no other dtype pinned */
    int n_shards;       /* with 2 and more, as many files and an index; at most the tensors */
    const char *config; /* the file that becomes config.json; NULL: the files as they are */
} sy_seeded_options;

/* Writes a checkpoint into the existing directory `target`: *.safetensors, and the configuration
 * files beside tensors.json in `source`. */
sy_status
sy_seeded_write(const char *source, const char *target, const sy_seeded_options *options);

/* The same into a new directory under $TMPDIR or /tmp, whose name is put into directory[size]. */
sy_status sy_seeded_create(const char *source,
                           const sy_seeded_options *options,
                           char *directory,
                           size_t size);

/* Removes a directory that sy_seeded_create made, with all its files. */
void sy_seeded_remove(const char *directory);

#endif
