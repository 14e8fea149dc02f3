/* model.safetensors.index.json. What is accepted must be ordered, hold only plain file names,
 * and be JSON for jansson too. */
#define _GNU_SOURCE /* memfd_create */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "json_oracle.h"
#include "runtime/shard_index.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_index(const sy_shard_index *index) {
    for (int i = 0; i < index->n_entries; i++) {
        const sy_shard_entry *e = &index->entry[i];
        if (i > 0 && strcmp(e[-1].tensor, e->tensor) >= 0) abort();
        if (e->file < 0 || e->file >= index->n_shards) abort();
        if (strcmp(index->shard[e->file], e->shard) != 0) abort();
        if (strchr(e->shard, '/') != NULL || strlen(e->shard) < 13) abort();
        if (sy_shard_index_find(index, e->tensor) != i) abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char path[64];
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || (size > 0 && write(fd, data, size) != (ssize_t)size)) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    sy_shard_index *index = NULL;
    if (sy_shard_index_load(path, &index) == SY_OK) {
        size_t bom = size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
        check_index(index);
        check_json((const char *)data + bom, size - bom);
    }
    sy_shard_index_destroy(index);
    close(fd);
    return 0;
}
