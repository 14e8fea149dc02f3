/* The dense products of fast numerics: where a step has many rows, cuBLAS makes them.
 *
 * cuBLAS reads row-major matrices and chooses its kernel, and with it the order of the sum, by the
 * shape: a row's result depends on how many others there are, which exact numerics forbids. A
 * matrix in fragments is written back to row-major bf16 a piece at a time, in scratch. The router
 * and the experts stay with our own kernels, and so do matrices in half precision, which bf16
 * cannot hold, and quantised ones, whose scales it would round. */
#ifndef SY_KERNELS_CUDA_DENSE_FAST_H
#define SY_KERNELS_CUDA_DENSE_FAST_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The shape of the work that follows: products of at least so many rows are cuBLAS's, and scratch
 * for a piece of a matrix takes at most so many bytes, that for gate and up as many again. Before
 * reserve, with fast numerics on; there are defaults. */
void sy_cuda_fast_tune(sy_backend *be, int64_t least_rows, uint64_t piece_bytes);

/* At the end of the backend's scratch, a multiple of 256 bytes; 0 in exact numerics. */
uint64_t sy_cuda_fast_scratch(const sy_cuda *cu, const sy_limits *l);
/* Once cu->scratch is there: gives cuBLAS its workspace, so that no step allocates. */
sy_status sy_cuda_fast_reserve(sy_cuda *cu);

/* Whether a product of n_rows rows with m is cuBLAS's. Never in exact numerics or a recording, nor
 * where not even one tile of m, or of its results, fits a piece. */
bool sy_cuda_fast_takes(const sy_cuda *cu, const sy_matrix *m, int64_t n_rows);

/* What remains is for products that are taken. out f32 [n_rows, ld] = x m^T, or += if `add`; x
 * bf16 [n_rows, k], m of one part. */
sy_status sy_cuda_fast_multiply(sy_cuda *cu,
                                const sy_matrix *m,
                                int64_t n_rows,
                                const void *x,
                                float *out,
                                int64_t ld,
                                bool add);
/* h bf16 [n_rows, n] = the activation of x gate^T and x up^T; m of two parts. */
sy_status sy_cuda_fast_swiglu(sy_cuda *cu,
                              const sy_ffn_spec *ffn,
                              const sy_matrix *m,
                              int64_t n_rows,
                              const void *x,
                              void *h);

/* ---- dense_fast.cu ---- */

/* Tiles [tile, tile + n_tiles) of a bf16 matrix as rows: dst bf16 [16 n_tiles, 16 ceil(k / 16)],
 * 16-byte aligned; of two parts 8 rows of gate and the same 8 of up take turns. */
sy_status
sy_cuda_unpack_tiles(sy_cuda *cu, const sy_matrix *m, int64_t tile, int64_t n_tiles, void *dst);

/* h bf16 [n_rows, ld] from sums f32 [n_rows, 16 n_tiles] of such tiles: outputs [0, n_outputs),
 * n_outputs <= 8 n_tiles. */
sy_status sy_cuda_swiglu_rows(sy_cuda *cu,
                              const sy_ffn_spec *ffn,
                              int64_t n_rows,
                              int64_t n_tiles,
                              int64_t n_outputs,
                              const float *sums,
                              void *h,
                              int64_t ld);

#ifdef __cplusplus
}
#endif
#endif
