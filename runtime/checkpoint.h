/* A checkpoint directory as published: its tensors over all files, wherever they lie.
 *
 * model.safetensors, or else model.safetensors.index.json with its shards. Shard names are plain
 * file names opened relative to the directory; symbolic links are followed (the Hugging Face
 * cache is made of them), and what is behind must be a regular file. All files stay open, so
 * that a file that is replaced later does not mix two checkpoints.
 *
 * With an index, every tensor that it names must lie in the shard that it says, and no name may
 * lie in two shards. Tensors that it does not name are left out, as other readers do, and
 * counted; a warning tells of them, and of a total_size that is wrong. */
#ifndef SY_RUNTIME_CHECKPOINT_H
#define SY_RUNTIME_CHECKPOINT_H

#include <stdint.h>

#include "base/status.h"
#include "runtime/safetensors.h"

typedef struct sy_checkpoint {
    char *directory;
    int n_files;
    char **file_name; /* [n_files], relative to the directory */
    int *fd;          /* [n_files], open for reading */
    int *direct_fd; /* [n_files], the same past the page cache; -1: not allowed, or not asked */
    uint64_t *file_bytes;
    int n_tensors;
    sy_tensor_entry *tensor; /* all tensors of all files, ordered by name */
    uint64_t tensor_bytes;   /* of the tensors above */
    int n_unlisted;          /* tensors in shards that the index does not name */
    char **names;            /* [n_files], storage behind the names */
} sy_checkpoint;

sy_status sy_checkpoint_open(const char *directory, sy_checkpoint **out);
void sy_checkpoint_close(sy_checkpoint *checkpoint); /* NULL is fine */

/* NULL if there is none. O(log n). */
const sy_tensor_entry *sy_checkpoint_find(const sy_checkpoint *checkpoint, const char *name);

/* Reads bytes [begin, begin + n) of a tensor; loops over short reads; an error names file and
 * tensor (also when the file has shrunk). Thread-safe. */
sy_status sy_checkpoint_read(const sy_checkpoint *checkpoint,
                             const sy_tensor_entry *tensor,
                             uint64_t begin,
                             uint64_t n,
                             void *dst);

enum { SY_DIRECT_ALIGNMENT = 4096 };
/* Opens the files once more, for sy_checkpoint_read_direct. Where a file system does not allow
 * that, reads go through the page cache. */
void sy_checkpoint_allow_direct(sy_checkpoint *checkpoint);
/* As sy_checkpoint_read, into a slot that is aligned to SY_DIRECT_ALIGNMENT and has room for
 * n + 2 * SY_DIRECT_ALIGNMENT bytes: past the page cache where that is allowed. *data is where in
 * the slot the bytes begin. Thread-safe. */
sy_status sy_checkpoint_read_direct(const sy_checkpoint *checkpoint,
                                    const sy_tensor_entry *tensor,
                                    uint64_t begin,
                                    uint64_t n,
                                    void *slot,
                                    const void **data);

#endif
