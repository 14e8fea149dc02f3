#include "kernels/cuda/describe.h"

#include <cuda_runtime.h>
#include <stdio.h>

sy_status sy_cuda_describe(int device, sy_cuda_facts *out) {
    struct cudaDeviceProp properties;
    *out = (sy_cuda_facts){.memory = 0};
    cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess) {
        (void)cudaGetLastError();
        return sy_fail(SY_ERR_DEVICE, "device %d: %s", device, cudaGetErrorString(error));
    }
    snprintf(out->name, sizeof out->name, "%.95s", properties.name);
    out->memory = properties.totalGlobalMem;
    out->integrated = properties.integrated != 0;
    return SY_OK;
}
