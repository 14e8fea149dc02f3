/* Kernels with which test_runtime.c tries the emulated runtime. */
#include "runtime_kernels.h"

#include "kernels/cuda/ptx.h"

static cudaLaunchConfig_t config(int blocks, int threads) {
    cudaLaunchConfig_t c = {};
    c.gridDim = dim3((unsigned)blocks);
    c.blockDim = dim3((unsigned)threads);
    return c;
}

static __global__ void __launch_bounds__(64, 1) scale(int n, float factor, float *x) {
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < n) x[i] = fmaf(x[i], factor, 1.0f);
}

cudaError_t runtime_scale(int n, float factor, float *x, cudaStream_t s) {
    cudaLaunchConfig_t c = config((n + 63) / 64, 64);
    c.stream = s;
    return cudaLaunchKernelEx(&c, scale, n, factor, x);
}

static __global__ void __launch_bounds__(1024, 1) empty(int) {}

cudaError_t runtime_launch(int blocks_x, int blocks_y, int threads, int shared) {
    cudaLaunchConfig_t c = config(blocks_x, threads);
    c.gridDim.y = (unsigned)blocks_y;
    c.dynamicSmemBytes = (size_t)shared;
    return cudaLaunchKernelEx(&c, empty, 0);
}

cudaError_t runtime_allow_shared(int bytes) {
    return cudaFuncSetAttribute(empty, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

static __global__ void __launch_bounds__(64, 1) intrinsics(unsigned long long *out) {
    __shared__ int counter;
    __shared__ unsigned long long large;
    __shared__ unsigned flags, highest, ring;
    const unsigned all = 0xffffffffu;
    unsigned t = threadIdx.x, lane = t % 32, n = 0;
    if (t == 0) {
        counter = 0;
        large = 0;
        flags = highest = ring = 0;
    }
    int voted = __syncthreads_count(t % 3 == 0);
#define OUT(value) out[n++ * 64 + t] = (unsigned long long)(value)
    OUT(__shfl_sync(all, (int)t, 5));                            /* 0 */
    OUT(__shfl_sync(all, (int)t, 3, 8));                         /* 1 */
    OUT(__shfl_xor_sync(all, t, 9));                             /* 2 */
    OUT(__shfl_down_sync(all, t, 4, 16));                        /* 3 */
    OUT(__shfl_up_sync(all, (unsigned long long)t << 40, 2));    /* 4 */
    OUT(__ballot_sync(all, lane % 5 == 0));                      /* 5 */
    OUT(__any_sync(all, t == 40) * 2 + __all_sync(all, t < 40)); /* 6 */
    OUT(__match_any_sync(all, lane % 7));                        /* 7 */
    OUT(__reduce_add_sync(all, lane));                           /* 8 */
    OUT(__reduce_max_sync(all, (int)lane - 40));                 /* 9 */
    /* Halves of the warp by themselves, at the same instruction and at different ones. */
    unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    OUT(__shfl_xor_sync(half, t, 15)); /* 10 */
    unsigned sum;
    if (lane < 16)
        sum = __reduce_add_sync(0x0000ffffu, lane);
    else
        sum = __reduce_add_sync(0xffff0000u, 100u);
    __syncwarp();
    OUT(sum); /* 11 */
    atomicAdd(&counter, (int)t - 10);
    atomicAdd(&large, (1ull << 40) + t);
    atomicOr(&flags, 1u << lane);
    atomicMax(&highest, t * 3);
    atomicInc(&ring, 9u);
    __syncthreads();
    OUT(counter);                                                            /* 12 */
    OUT(large);                                                              /* 13 */
    OUT(flags);                                                              /* 14 */
    OUT(highest);                                                            /* 15 */
    OUT(ring);                                                               /* 16 */
    OUT(voted);                                                              /* 17 */
    OUT(__popc(t * 0x01010101u) * 100 + __ffs((int)t) * 10 + __clz((int)t)); /* 18 */
    OUT(__umul64hi((unsigned long long)t << 60, 48));                        /* 19 */
    OUT(__float2int_rn((float)t + 0.5f));                                    /* 20: to even */
    OUT(__float2int_rz(-1.5f * (float)t) + 1000);                            /* 21 */
    OUT(__byte_perm(0x33221100u + t, 0x77665544u, 0x7510));                  /* 22 */
    OUT(__float2int_rn(t < 32 ? 3e9f : -3e9f));                              /* 23 */
#undef OUT
}

cudaError_t runtime_intrinsics(unsigned long long *out) {
    cudaLaunchConfig_t c = config(1, 64);
    return cudaLaunchKernelEx(&c, intrinsics, out);
}

struct column {
    float v[32][32];
};

static __global__ void __launch_bounds__(32, 1)
    copy_strided(int stride, const float *x, float *y) {
    size_t i = (size_t)(blockIdx.x * 32 + threadIdx.x) * (size_t)stride;
    y[i] = x[i];
}

static __global__ void __launch_bounds__(32, 1)
    copy_by_column(int stride, const float *x, float *y) {
    SY_SHARED_STRUCT(column, sh);
    size_t i = (size_t)(blockIdx.x * 32 + threadIdx.x) * (size_t)stride;
    sh->v[threadIdx.x][0] = x[i];
    __syncwarp();
    y[i] = sh->v[threadIdx.x][0];
}

cudaError_t runtime_copy_strided(int n, int stride, int by_column, const float *x, float *y) {
    cudaLaunchConfig_t c = config(n / 32, 32);
    c.dynamicSmemBytes = by_column ? sizeof(column) : 0;
    return cudaLaunchKernelEx(&c, by_column ? copy_by_column : copy_strided, stride, x, y);
}

static __global__ void __launch_bounds__(1024, 1)
    count_bits(int n, const unsigned *x, unsigned long long *sum) {
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
        atomicAdd(sum, (unsigned long long)__popc(x[i]));
}

cudaError_t runtime_count_bits(int n, const unsigned *x, unsigned long long *sum) {
    cudaLaunchConfig_t c = config(1, 1024);
    return cudaLaunchKernelEx(&c, count_bits, n, x, sum);
}
