/* model.safetensors.index.json: which shard holds which tensor. Used by checkpoint.c.
 *
 * The file is hostile input: shard names are checked to be plain file names ending in
 * .safetensors before anything is opened, and no tree of the file is built. */
#ifndef SY_RUNTIME_SHARD_INDEX_H
#define SY_RUNTIME_SHARD_INDEX_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

typedef struct sy_shard_entry {
    const char *tensor;
    const char *shard;
    int file; /* index into shard[] below */
} sy_shard_entry;

typedef struct sy_shard_index {
    int n_entries;
    sy_shard_entry *entry; /* ordered by tensor, each tensor once */
    int n_shards;
    const char **shard;  /* each shard once, ordered by name */
    bool has_total;      /* metadata.total_size is an unsigned integer */
    uint64_t total_size; /* what it says; informative */
    char *text;          /* storage behind the names */
} sy_shard_index;

/* path names a file that is there. */
sy_status sy_shard_index_load(const char *path, sy_shard_index **out);
void sy_shard_index_destroy(sy_shard_index *index); /* NULL is fine */

/* Index of a tensor's entry; -1 if it is not named. */
int sy_shard_index_find(const sy_shard_index *index, const char *tensor);

#endif
