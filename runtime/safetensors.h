/* One safetensors file: a checked table of its tensors. The file is hostile input; every rule of
 * the format is enforced before any number is used, and no byte of tensor data is read here. */
#ifndef SY_RUNTIME_SAFETENSORS_H
#define SY_RUNTIME_SAFETENSORS_H

#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

enum { SY_TENSOR_MAX_RANK = 8 };

typedef struct sy_tensor_entry {
    const char *name; /* owned by the table */
    sy_dtype dtype;
    int rank;
    int64_t shape[SY_TENSOR_MAX_RANK];
    int file;        /* which file of the checkpoint; 0 here */
    uint64_t offset; /* of the first byte, from the start of the file */
    uint64_t bytes;
} sy_tensor_entry;

typedef struct sy_safetensors {
    int n_tensors;
    sy_tensor_entry *tensor; /* ordered by name (byte order) */
    uint64_t file_bytes;     /* size of the file when the header was read */
    char *names;             /* storage behind the names */
} sy_safetensors;

/* Reads and checks the header of an open regular file; `name` is put into error texts. */
sy_status sy_safetensors_read(int fd, const char *name, sy_safetensors **out);
void sy_safetensors_destroy(sy_safetensors *table);

#endif
