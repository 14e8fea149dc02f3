/* One safetensors file: a checked table of its tensors. The file is hostile input; every rule of
 * the format is enforced before any number is used, and no byte of tensor data is read here.
 *
 * The file: u64 little-endian N; N bytes of JSON, an object that maps a tensor's name to its
 * dtype, shape and range of bytes; then the data, which the ranges cover without hole or
 * overlap. Stricter than the format where that costs nothing: see sy_safetensors_read. */
#ifndef SY_RUNTIME_SAFETENSORS_H
#define SY_RUNTIME_SAFETENSORS_H

#include <stdint.h>

#include "base/dtype.h"
#include "base/status.h"

enum { SY_TENSOR_MAX_RANK = 8, SY_TENSOR_NAME_MAX = 512 };

typedef struct sy_tensor_entry {
    const char *name; /* owned by the table */
    sy_dtype dtype;
    int rank;
    int64_t shape[SY_TENSOR_MAX_RANK];
    int file;        /* which file of the checkpoint; 0 here */
    uint64_t offset; /* of the first byte, from the start of the file; aligned to nothing */
    uint64_t bytes;
} sy_tensor_entry;

typedef struct sy_safetensors {
    int n_tensors;
    sy_tensor_entry *tensor; /* ordered by name (byte order) */
    uint64_t file_bytes;     /* size of the file when the header was read */
    char *names;             /* storage behind the names */
} sy_safetensors;

/* Reads and checks the header of an open file, which must be a regular one; `name` is put into
 * error texts. Refused beyond the rules of the format: headers over SY_JSON_MAX_HEADER, a header
 * that does not begin with '{', a name that occurs twice (as decoded), is empty, longer than
 * SY_TENSOR_NAME_MAX or holds control characters, more than SY_TENSOR_MAX_RANK dimensions,
 * entries that are no objects, and the 4 and 6 bit dtypes. Needs at most 12 times the header's
 * size in memory, and time in n log n. */
sy_status sy_safetensors_read(int fd, const char *name, sy_safetensors **out);
void sy_safetensors_destroy(sy_safetensors *table); /* NULL is fine */

/* "BF16 [4096, 128]" in buf; returns buf. */
enum { SY_SHAPE_TEXT_MAX = 208 };
char *sy_tensor_describe(const sy_tensor_entry *tensor, char buf[SY_SHAPE_TEXT_MAX]);

#endif
