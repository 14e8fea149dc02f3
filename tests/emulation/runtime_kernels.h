/* Kernels with which test_runtime.c tries the emulated runtime (runtime.cu). */
#ifndef SY_EMULATION_RUNTIME_KERNELS_H
#define SY_EMULATION_RUNTIME_KERNELS_H

#include <cuda_runtime.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { INTRINSICS = 24 };

/* x[i] = x[i] * factor + 1 for i < n, by blocks of 64 threads. */
cudaError_t runtime_scale(int n, float factor, float *x, cudaStream_t s);
/* A launch of an empty kernel of this shape. */
cudaError_t runtime_launch(int blocks_x, int blocks_y, int threads, int shared);
cudaError_t runtime_allow_shared(int bytes);
/* out[i][thread]: what intrinsic i gives thread `thread` of a block of 64; see runtime.cu. */
cudaError_t runtime_intrinsics(unsigned long long *out);
/* y[i * stride] = x[i * stride] for i < n (n a multiple of 32); through a column of shared memory
 * if column is set: lane l uses word 32 l. */
cudaError_t runtime_copy_strided(int n, int stride, int column, const float *x, float *y);
/* sum of the bits of x [n] by a block, an atomic each. */
cudaError_t runtime_count_bits(int n, const unsigned *x, unsigned long long *sum);

#ifdef __cplusplus
}
#endif
#endif
