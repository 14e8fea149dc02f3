/* What the files of the matrix family share on the host. */
#ifndef SY_KERNELS_CUDA_MATRIX_H
#define SY_KERNELS_CUDA_MATRIX_H

#include "kernels/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SY_CUDA_MAX_K = 1 << 30 }; /* so that indices of k are int */

/* Tiles of 16 outputs, or of 8 outputs of two parts. */
int64_t sy_cuda_tiles(const sy_matrix *m);

/* xn [n_rows, k] bf16 = RMS norm of row row[i] of x [., k] (row i if NULL); device memory. */
sy_status sy_cuda_norm_rows(sy_cuda *cu,
                            const float *weight,
                            float eps,
                            int64_t n_rows,
                            int64_t k,
                            const int32_t *row,
                            const float *x,
                            void *xn);

/* out bf16 [n_rows, heads, ld] = x bf16 [n_rows, heads, k] times each head's own matrix [n, k] of
 * `heads`, which lie at equal distances; one chain over k. */
sy_status sy_cuda_multiply_heads(sy_cuda *cu,
                                 const sy_matrix *m,
                                 int heads,
                                 int64_t n_rows,
                                 const void *x,
                                 void *out,
                                 int64_t ld);

/* x += o W_o^T + bias; leaves are the smallest whole number of groups of `group` values that has
 * SY_LEAF. */
sy_status sy_cuda_project_out(sy_cuda *cu,
                              const sy_layer_weights *w,
                              int64_t group,
                              int64_t n_rows,
                              const void *o,
                              float *x);

/* Every row of x [n_rows, n] += y [n]; device memory. */
sy_status sy_cuda_add_to_rows(sy_cuda *cu, int64_t n_rows, int64_t n, const float *y, float *x);

#ifdef __cplusplus
}
#endif
#endif
