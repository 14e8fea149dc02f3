/* The shape of a launch: blocks along x only, since y and z end at 65535. */
#ifndef SY_KERNELS_CUDA_LAUNCH_H
#define SY_KERNELS_CUDA_LAUNCH_H

#include <cuda_runtime.h>
#include <limits.h>

#include "kernels/cuda/cuda.h"

static inline cudaLaunchConfig_t
sy_launch(const sy_cuda *cu, int64_t blocks, int threads, size_t shared_bytes) {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)blocks);
    config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = cu->stream;
    return config;
}

/* SY_OK if a grid may have so many blocks. */
static inline sy_status sy_check_blocks(int64_t blocks, const char *what) {
    if (blocks >= 1 && blocks <= INT_MAX) return SY_OK;
    return sy_fail(SY_ERR_INTERNAL, "%s: a grid of %lld blocks", what, (long long)blocks);
}

#endif
