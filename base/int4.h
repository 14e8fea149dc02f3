/* 4-bit integers as AWQ, GPTQ and compressed-tensors files hold them, in one order: rows of
 * outputs, eight codes of ascending inputs in a little-endian word, the first in the lowest bits;
 * scales and zero points [outputs, groups]. That is what an SY_U4 matrix is packed from.
 *
 * All arrays may stand at any alignment. A weight is (code - zero point) * scale. */
#ifndef SY_BASE_INT4_H
#define SY_BASE_INT4_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* One linear layer of a file; the caller has checked the tensors' shapes against n and k. */
typedef struct sy_int4_file {
    int64_t n, k;       /* outputs, inputs: multiples of 8 */
    int64_t group;      /* inputs that share a scale; divides k */
    int scale_bytes;    /* of an element: 2 or 4 */
    const void *codes;  /* qweight: AWQ I32 [k, n/8], GPTQ I32 [k/8, n] */
    const void *zeros;  /* qzeros: I32 [k/group, n/8] */
    const void *scales; /* [k/group, n] */
    /* GPTQ only */
    bool zeros_less_one; /* checkpoint format v1: a stored z means (z + 1) & 15 */
    const void *g_idx;   /* I32 [k], the group of each input, or NULL */
} sy_int4_file;

/* The same in the order of rows; the memory is the caller's. */
typedef struct sy_int4_rows {
    uint32_t *codes; /* [n, k/8]           */
    uint8_t *zeros;  /* [n, k/group]       */
    void *scales;    /* [n, k/group]       */
} sy_int4_rows;

/* AWQ of version "gemm". */
sy_status sy_int4_from_awq(const sy_int4_file *file, const sy_int4_rows *out);

/* GPTQ. A group index out of range is SY_ERR_FORMAT; groups that are not runs of `group` inputs in
 * ascending order (desc_act) are SY_ERR_UNSUPPORTED. */
sy_status sy_int4_from_gptq(const sy_int4_file *file, const sy_int4_rows *out);

/* Zero points of compressed-tensors, I32 [ceil(n/8), groups] packed along the outputs. */
void sy_int4_zeros_from_words(int64_t n, int64_t groups, const void *words, uint8_t *zeros);

#endif
