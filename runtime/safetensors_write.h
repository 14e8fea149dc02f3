/* Writing a safetensors file: its header from a list of tensors, then their bytes at known places,
 * in any order and by several threads.
 *
 * A file is written under a temporary name, "<name>.tmp", and takes its own once all of it is on
 * the disk: under that name it is whole or not there. */
#ifndef SY_RUNTIME_SAFETENSORS_WRITE_H
#define SY_RUNTIME_SAFETENSORS_WRITE_H

#include "runtime/safetensors.h"

/* What stands in front of the data, and how long all of it is. */
typedef struct sy_shard_header {
    char *bytes; /* owned; sy_shard_header_free */
    uint64_t n;  /* a multiple of 8 */
    uint64_t file_bytes;
} sy_shard_header;

/* Places n tensors with name, dtype, shape and bytes one behind the other and sets their offsets:
 * those of larger elements first, so that each begins at a multiple of its element's size, else in
 * the given order. Names are checked by whoever made them up. SY_ERR_UNSUPPORTED if the header
 * would be larger than readers accept. */
sy_status sy_shard_layout(sy_tensor_entry *tensor, int n, sy_shard_header *out);
void sy_shard_header_free(sy_shard_header *header);

typedef struct sy_shard_writer {
    int fd, directory_fd;
    const char *directory, *name; /* borrowed */
} sy_shard_writer;

/* Creates the file with its header; where the file system can tell, a disk that is too full for all
 * of it is found here. */
sy_status sy_shard_create(int directory_fd,
                          const char *directory,
                          const char *name,
                          const sy_shard_header *header,
                          sy_shard_writer *out);
/* Thread-safe; errors name the file. */
sy_status
sy_shard_write(const sy_shard_writer *writer, uint64_t offset, const void *data, uint64_t n);
/* With st SY_OK brings the file to the disk and gives it its name; else removes what was written.
 * Returns st, or what went wrong here. */
sy_status sy_shard_finish(sy_shard_writer *writer, sy_status st);

/* A small file in the same way. */
sy_status sy_write_whole_file(int directory_fd,
                              const char *directory,
                              const char *name,
                              const void *bytes,
                              size_t n);

#endif
