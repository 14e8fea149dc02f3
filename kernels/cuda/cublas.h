/* cuBLAS, looked up at run time: it is needed to measure what a device can do at most, and by fast
 * numerics; a machine without it runs everything else.
 *
 * The library is libcublas.so of CUDA 13 or 12 where the dynamic linker finds it, or the file that
 * SWITCHYARD_CUBLAS names. In the emulated build the stand-in of the emulation is called, unless
 * another library is named, which it cannot use. */
#ifndef SY_KERNELS_CUDA_CUBLAS_H
#define SY_KERNELS_CUDA_CUBLAS_H

#include <cublas_v2.h>

#include "kernels/cuda/cuda.h"

/* The functions that are used, with the signatures of cublas_v2.h. */
typedef struct sy_cublas {
    void *library; /* NULL: nothing to close */
    cublasStatus_t (*create)(cublasHandle_t *handle);
    cublasStatus_t (*destroy)(cublasHandle_t handle);
    cublasStatus_t (*set_stream)(cublasHandle_t handle, cudaStream_t stream);
    cublasStatus_t (*set_workspace)(cublasHandle_t handle, void *workspace, size_t bytes);
    cublasStatus_t (*gemm)(cublasHandle_t handle,
                           cublasOperation_t transpose_a,
                           cublasOperation_t transpose_b,
                           int m,
                           int n,
                           int k,
                           const void *alpha,
                           const void *a,
                           cudaDataType a_type,
                           int lda,
                           const void *b,
                           cudaDataType b_type,
                           int ldb,
                           const void *beta,
                           void *c,
                           cudaDataType c_type,
                           int ldc,
                           cublasComputeType_t compute,
                           cublasGemmAlgo_t algorithm);
} sy_cublas;

/* SY_ERR_UNSUPPORTED, naming what was tried, if the library or a function is not found. Once
 * loaded it stays in the process, since loading costs up to a second; close all the same. */
sy_status sy_cublas_open(sy_cublas *out);
void sy_cublas_close(sy_cublas *cublas);

/* SY_OK, or SY_ERR_DEVICE with the call, cuBLAS's number and the device. */
sy_status sy_cublas_status(const sy_cuda *cu, cublasStatus_t status, const char *call);

#endif
