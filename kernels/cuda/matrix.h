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

#ifdef __cplusplus
}
#endif
#endif
