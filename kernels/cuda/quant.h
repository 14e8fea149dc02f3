/* Quantised matrices in device memory: their layout, and what packing asks of them.
 *
 * Like BF16 fragments (fragment.h), but 512 bytes hold more of K: a unit is 16 outputs x 32 k of
 * 8-bit codes, or 16 x 64 of 4-bit ones. Lane l = 4 g + t holds four words of 32 bits; a word has
 * codes of one output alone, so that two parts never share one.
 *
 *   8 bit  word 2 j + r: output g + 8 r, step j of the unit: k 16 j + 2 t, its byte 0, and + 1,
 *          byte 2; and k + 8 and + 9, bytes 1 and 3
 *   4 bit  word 2 j + r: output g + 8 r, steps 2 j and 2 j + 1: 4-bit field i of the lower half
 *          is k 32 j + 16 (i / 2) + 8 (i % 2) + 2 t, field i of the upper half k + 1
 *
 * so that a mask and a shift leave a pair of operand A in the halves of a register.
 *
 *   [tiles][units] x 512 bytes of codes
 *   scales in the file's type. One for each output: [tiles][groups][16], the outputs in the order
 *          0, 8, 1, 9, .. 7, 15; a lane takes those of g and g + 8 at once. Shared by outputs:
 *          [parts][blocks of outputs][groups], as in the file
 *   zeros  a byte each, as the scales of each output
 *   factor [2] float32, of each part: experts of one layer have their own
 *
 * Each region begins at a multiple of 64 bytes. Codes beyond n or k are 0. */
#ifndef SY_KERNELS_CUDA_QUANT_H
#define SY_KERNELS_CUDA_QUANT_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_BLOCK_OUTPUTS = 128 }; /* of a block that shares its scales */

typedef struct sy_cuda_quant_layout {
    int64_t units;   /* of a tile */
    int64_t groups;  /* of K; 1 where all of it shares a scale */
    int64_t blocks;  /* of outputs that share scales, in one part; 0: each has its own */
    uint64_t scales; /* where they begin: bytes */
    uint64_t zeros;
    uint64_t factors;
    uint64_t bytes; /* UINT64_MAX: too large, or a format that no kernel knows */
} sy_cuda_quant_layout;

sy_cuda_quant_layout sy_cuda_quant_layout_of(const sy_matrix *m);

/* Bytes of what a source has for rows [row0, row0 + n_rows): codes, scales, zero points. */
typedef struct sy_cuda_source_bytes {
    uint64_t codes, scales, zeros;
} sy_cuda_source_bytes;
sy_cuda_source_bytes
sy_cuda_source_bytes_of(const sy_matrix *m, sy_dtype src_dtype, int64_t row0, int64_t n_rows);

/* A source of rows from row0 on, less its first `n` rows. */
sy_weight_source
sy_cuda_source_from(const sy_matrix *m, const sy_weight_source *src, int64_t row0, int64_t n);

/* Whether two matrices differ in their sizes and factors alone. */
bool sy_cuda_same_format(const sy_matrix *a, const sy_matrix *b);

/* ---- quant_pack.cu ---- */

/* Rows [row0, row0 + n_rows) of a part; src points to device memory. */
sy_status sy_cuda_quant_pack(sy_cuda *cu,
                             const sy_matrix *m,
                             int part,
                             int64_t row0,
                             int64_t n_rows,
                             const sy_weight_source *src,
                             cudaStream_t stream);
/* x [rows, k] = row id[i] of a matrix of one part: code * scale, then the factor, each rounded. */
sy_status sy_cuda_quant_gather(sy_cuda *cu,
                               const sy_matrix *m,
                               int64_t n_rows,
                               const int32_t *id,
                               float *x);

#ifdef __cplusplus
}
#endif
#endif
