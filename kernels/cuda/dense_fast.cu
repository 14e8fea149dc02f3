/* The two kernels around cuBLAS's products: fragments back to rows, and the SwiGLU of its sums. */
#include "base/checked.h"
#include "kernels/cuda/dense_fast.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/product.h"

enum { THREADS = 256, WARPS = THREADS / 32, TILE_OUTPUTS = SY_TILE_N / 2 };

/* Lanes t = 0..3 of a quad hold four words each; afterwards lane t holds word t of all four. */
SY_DEVICE uint4 transpose_quad(uint4 v, int t) {
    bool odd = t % 2 != 0, upper = t >= 2;
    uint32_t left = __shfl_xor_sync(0xffffffffu, odd ? v.x : v.y, 1);
    uint32_t right = __shfl_xor_sync(0xffffffffu, odd ? v.z : v.w, 1);
    v = odd ? make_uint4(left, v.y, right, v.w) : make_uint4(v.x, left, v.z, right);
    left = __shfl_xor_sync(0xffffffffu, upper ? v.x : v.z, 2);
    right = __shfl_xor_sync(0xffffffffu, upper ? v.y : v.w, 2);
    return upper ? make_uint4(left, right, v.z, v.w) : make_uint4(v.x, v.y, left, right);
}

/* A block per tile, a warp per fragment. The four lanes of a quad hold columns 2 t, + 1 of rows g,
 * g + 8, and then columns + 8 of both: transposed, each has eight columns of one row. */
static __global__ void __launch_bounds__(THREADS, 4)
    unpack_tiles(uint16_t *dst, const uint4 *tiles, int steps) {
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int64_t tile = blockIdx.x, row = tile * SY_TILE_N + g + t % 2 * 8;
    const uint4 *src = tiles + tile * steps * SY_FRAGMENT_LANES + lane;
    uint16_t *out = dst + row * steps * SY_STEP_K + t / 2 * 8;
#pragma unroll 4
    for (int step = (int)threadIdx.x / 32; step < steps; step += WARPS) {
        uint4 v = sy_load16(src + (int64_t)step * SY_FRAGMENT_LANES);
        sy_store16(out + (int64_t)step * SY_STEP_K, transpose_quad(v, t));
    }
}

sy_status sy_cuda_unpack_tiles(sy_cuda *cu,
                               const sy_matrix *m,
                               int64_t tile,
                               int64_t n_tiles,
                               void *dst) {
    int64_t steps = sy_ceil_div(m->k, SY_STEP_K);
    if (steps > INT_MAX / SY_STEP_K)
        return sy_fail(SY_ERR_INTERNAL, "unpack: %lld inputs", (long long)m->k);
    if (n_tiles == 0 || steps == 0) return SY_OK;
    sy_status st = sy_check_blocks(n_tiles, "unpack");
    if (st != SY_OK) return st;
    cudaLaunchConfig_t config = sy_launch(cu, n_tiles, THREADS, 0);
    const uint4 *tiles = (const uint4 *)m->data + tile * steps * SY_FRAGMENT_LANES;
    return SY_CUDA(
        cu, cudaLaunchKernelEx(&config, unpack_tiles, (uint16_t *)dst, tiles, (int)steps));
}

typedef struct swiglu_job {
    const float *sums; /* [rows, pitch]: 8 gates, their 8 ups, the next 8 gates */
    uint16_t *h;       /* [rows, ld] */
    int64_t pitch, ld;
    int n_outputs;
    int row_blocks; /* of one row */
    sy_activation activation;
} swiglu_job;

/* A thread per output. */
static __global__ void __launch_bounds__(THREADS, 4)
    swiglu_rows(const __grid_constant__ swiglu_job job) {
    int row = (int)blockIdx.x / job.row_blocks;
    int i = ((int)blockIdx.x - row * job.row_blocks) * THREADS + (int)threadIdx.x;
    if (i >= job.n_outputs) return;
    const float *gate = job.sums + row * job.pitch + i / TILE_OUTPUTS * SY_TILE_N;
    gate += i % TILE_OUTPUTS;
    job.h[row * job.ld + i] =
        sy_float_bf16(sy_swiglu(job.activation, gate[0], gate[TILE_OUTPUTS]));
}

sy_status sy_cuda_swiglu_rows(sy_cuda *cu,
                              const sy_ffn_spec *ffn,
                              int64_t n_rows,
                              int64_t n_tiles,
                              int64_t n_outputs,
                              const float *sums,
                              void *h,
                              int64_t ld) {
    int64_t row_blocks = sy_ceil_div(n_outputs, THREADS), blocks;
    if (n_tiles < 0 || n_tiles > INT_MAX / SY_TILE_N || n_outputs < 0 ||
        n_outputs > n_tiles * TILE_OUTPUTS || !sy_mul_i64(n_rows, row_blocks, &blocks))
        return sy_fail(SY_ERR_INTERNAL, "SwiGLU: %lld outputs of %lld tiles",
                       (long long)n_outputs, (long long)n_tiles);
    if (blocks == 0) return SY_OK;
    sy_status st = sy_check_blocks(blocks, "SwiGLU");
    if (st != SY_OK) return st;
    swiglu_job job = {};
    job.sums = sums;
    job.h = (uint16_t *)h;
    job.pitch = n_tiles * SY_TILE_N;
    job.ld = ld;
    job.n_outputs = (int)n_outputs;
    job.row_blocks = (int)row_blocks;
    job.activation = sy_activation_of(ffn);
    cudaLaunchConfig_t config = sy_launch(cu, blocks, THREADS, 0);
    return SY_CUDA(cu, cudaLaunchKernelEx(&config, swiglu_rows, job));
}
