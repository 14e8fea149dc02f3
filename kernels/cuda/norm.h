/* The RMS norm of a row of float32, for kernels of any number of warps: the sum of squares is that
 * of eight warps, each with every 256th value per lane, whoever computes them. */
#ifndef SY_KERNELS_CUDA_NORM_H
#define SY_KERNELS_CUDA_NORM_H

#include "kernels/cuda/ptx.h"

enum { SY_NORM_WARPS = 8 };

/* Share `warp` of the squares of a row, on all lanes. */
SY_DEVICE float sy_norm_share(const float *x, int k, int warp) {
    float sum = 0.0f;
#pragma unroll 8
    for (int i = warp * 32 + (int)threadIdx.x % 32; i < k; i += SY_NORM_WARPS * 32)
        sum = fmaf(x[i], x[i], sum);
    return sy_warp_sum(sum);
}

/* 1 / sqrt(mean(x^2) + eps) from the shares; the mean of an empty row is 0. */
SY_DEVICE float sy_norm_inverse(const float *share, int k, float eps) {
    float sum = share[0];
    for (int i = 1; i < SY_NORM_WARPS; i++)
        sum += share[i];
    float mean = k > 0 ? sum / (float)k : 0.0f;
    return 1.0f / sqrtf(mean + eps);
}

/* The value before it is rounded to bf16. */
SY_DEVICE float sy_norm_value(float x, float inverse, float weight) {
    return x * inverse * weight;
}

#endif
