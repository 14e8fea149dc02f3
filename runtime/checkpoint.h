/* A checkpoint directory as published: its tensors over all files, wherever they lie.
 *
 * model.safetensors, or model.safetensors.index.json with its shards. Shard names are plain file
 * names opened relative to the directory; symbolic links are followed (the Hugging Face cache
 * is made of them), and what is behind must be a regular file. */
#ifndef SY_RUNTIME_CHECKPOINT_H
#define SY_RUNTIME_CHECKPOINT_H

#include <stdint.h>

#include "base/status.h"
#include "runtime/safetensors.h"

typedef struct sy_checkpoint {
    char *directory;
    int n_files;
    char **file_name;     /* relative to the directory */
    int *fd;              /* open for reading */
    uint64_t *file_bytes;
    int n_tensors;
    sy_tensor_entry *tensor; /* all tensors of all files, ordered by name */
    uint64_t tensor_bytes;
    int n_unlisted;          /* tensors in shards that the index does not name (reported) */
    char *names;
} sy_checkpoint;

sy_status sy_checkpoint_open(const char *directory, sy_checkpoint **out);
void sy_checkpoint_close(sy_checkpoint *checkpoint); /* NULL is fine */

/* NULL if there is none. O(log n). */
const sy_tensor_entry *sy_checkpoint_find(const sy_checkpoint *checkpoint, const char *name);

/* Reads bytes [begin, begin + n) of a tensor; loops over short reads; an error names file and
 * tensor (also when the file has shrunk). Thread-safe. */
sy_status sy_checkpoint_read(const sy_checkpoint *checkpoint, const sy_tensor_entry *tensor,
                             uint64_t begin, uint64_t n, void *dst);

#endif
