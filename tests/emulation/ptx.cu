/* Each instruction of kernels/cuda/ptx.h on operands out of memory, for test_ptx.c. */
#include "ptx_kernels.h"

#include "kernels/cuda/ptx.h"

enum { LANES = 32 };

static cudaLaunchConfig_t config(int blocks) {
    cudaLaunchConfig_t c = {};
    c.gridDim = dim3((unsigned)blocks);
    c.blockDim = dim3(LANES);
    return c;
}

static __global__ void __launch_bounds__(LANES, 1) run_mma(ptx_mma_operands *lanes) {
    ptx_mma_operands *own = lanes + (size_t)blockIdx.x * LANES + threadIdx.x;
    uint32_t a[4], b[2];
    float c[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        a[i] = own->a[i];
        c[i] = own->c[i];
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
        b[i] = own->b[i];
    sy_mma_bf16(c, a, b);
#pragma unroll
    for (int i = 0; i < 4; i++)
        own->c[i] = c[i];
}

cudaError_t ptx_run_mma(int n, ptx_mma_operands *lanes) {
    cudaLaunchConfig_t c = config(n);
    return cudaLaunchKernelEx(&c, run_mma, lanes);
}

/* Rows of 16 bytes lie 48 bytes apart, so that a row and its neighbour cannot be confused. */
struct padded_rows {
    uint16_t v[LANES][24];
};

template <bool trans>
static __global__ void __launch_bounds__(LANES, 1)
    run_ldmatrix(const uint16_t *rows, const int *row_of, uint32_t *out) {
    __shared__ __align__(16) padded_rows sh;
    int lane = (int)threadIdx.x;
    for (int i = 0; i < 24; i++)
        sh.v[lane][i] = i < 8 ? rows[lane * 8 + i] : (uint16_t)0xdead;
    __syncthreads();
    uint32_t r[4];
    if (trans)
        sy_ldmatrix_x4_trans(r, sh.v[row_of[lane]]);
    else
        sy_ldmatrix_x4(r, sh.v[row_of[lane]]);
#pragma unroll
    for (int i = 0; i < 4; i++)
        out[lane * 4 + i] = r[i];
}

cudaError_t
ptx_run_ldmatrix(int trans, const uint16_t *rows, const int *row_of, uint32_t *out) {
    cudaLaunchConfig_t c = config(1);
    return trans ? cudaLaunchKernelEx(&c, run_ldmatrix<true>, rows, row_of, out)
                 : cudaLaunchKernelEx(&c, run_ldmatrix<false>, rows, row_of, out);
}

static __global__ void __launch_bounds__(LANES, 1)
    run_copies(const uint8_t *from, const int *valid, uint8_t *out) {
    __shared__ __align__(16) uint8_t sh[2][LANES * 16];
    int lane = (int)threadIdx.x;
    for (int i = 0; i < 16; i++)
        sh[0][lane * 16 + i] = sh[1][lane * 16 + i] = 0x55;
    __syncthreads();
    for (int group = 0; group < 2; group++) {
        uint8_t *to = &sh[group][lane * 16];
        const uint8_t *source = from + group * LANES * 16 + lane * 16;
        if (group == 0)
            sy_cp_async16(to, source, valid[lane]);
        else
            sy_cp_async16<true>(to, source, valid[LANES + lane]);
        sy_cp_async_commit();
    }
    sy_cp_async_wait<1>();
    __syncthreads();
    for (int i = lane; i < LANES * 16; i += LANES)
        out[i] = sh[0][i];
    sy_cp_async_wait<0>();
    __syncthreads();
    for (int i = lane; i < LANES * 16; i += LANES) {
        out[LANES * 16 + i] = sh[0][i];
        out[2 * LANES * 16 + i] = sh[1][i];
    }
}

cudaError_t ptx_run_copies(const uint8_t *from, const int *valid, uint8_t *out) {
    cudaLaunchConfig_t c = config(1);
    return cudaLaunchKernelEx(&c, run_copies, from, valid, out);
}

/* ---- numbers: block b takes values [32 b, 32 b + 32) ---- */

static int blocks_of(int n) {
    return (n + LANES - 1) / LANES;
}

static __global__ void __launch_bounds__(LANES, 1)
    run_to_bf16(int n, const float *x, uint16_t *out) {
    int i = (int)(blockIdx.x * LANES + threadIdx.x);
    if (i < n) out[i] = sy_float_bf16(x[i]);
}

cudaError_t ptx_run_to_bf16(int n, const float *x, uint16_t *out) {
    cudaLaunchConfig_t c = config(blocks_of(n));
    return cudaLaunchKernelEx(&c, run_to_bf16, n, x, out);
}

static __global__ void __launch_bounds__(LANES, 1)
    run_from_bf16(int n, const uint16_t *x, float *out, float *lo, float *hi) {
    int i = (int)(blockIdx.x * LANES + threadIdx.x);
    if (i >= n) return;
    uint32_t two = (uint32_t)x[i] | (uint32_t)x[(i + 1) % n] << 16;
    out[i] = sy_bf16_float(x[i]);
    lo[i] = sy_bf16_lo(two);
    hi[i] = sy_bf16_hi(two);
}

cudaError_t ptx_run_from_bf16(int n, const uint16_t *x, float *out, float *lo, float *hi) {
    cudaLaunchConfig_t c = config(blocks_of(n));
    return cudaLaunchKernelEx(&c, run_from_bf16, n, x, out, lo, hi);
}

static __global__ void __launch_bounds__(LANES, 1)
    run_pack(int n, const float *lo, const float *hi, uint32_t *out) {
    int i = (int)(blockIdx.x * LANES + threadIdx.x);
    if (i < n) out[i] = sy_pack_bf16(lo[i], hi[i]);
}

cudaError_t ptx_run_pack(int n, const float *lo, const float *hi, uint32_t *out) {
    cudaLaunchConfig_t c = config(blocks_of(n));
    return cudaLaunchKernelEx(&c, run_pack, n, lo, hi, out);
}

static __global__ void __launch_bounds__(LANES, 1) run_fma_bf16x2(int n,
                                                                  const uint32_t *a,
                                                                  const uint32_t *b,
                                                                  const uint32_t *c,
                                                                  uint32_t *out) {
    int i = (int)(blockIdx.x * LANES + threadIdx.x);
    if (i < n) out[i] = sy_fma_bf16x2(a[i], b[i], c[i]);
}

cudaError_t ptx_run_fma_bf16x2(int n,
                               const uint32_t *a,
                               const uint32_t *b,
                               const uint32_t *c,
                               uint32_t *out) {
    cudaLaunchConfig_t launch = config(blocks_of(n));
    return cudaLaunchKernelEx(&launch, run_fma_bf16x2, n, a, b, c, out);
}

static __global__ void __launch_bounds__(LANES, 1) run_exp2(int n, const float *x, float *out) {
    int i = (int)(blockIdx.x * LANES + threadIdx.x);
    if (i < n) out[i] = sy_exp2(x[i]);
}

cudaError_t ptx_run_exp2(int n, const float *x, float *out) {
    cudaLaunchConfig_t c = config(blocks_of(n));
    return cudaLaunchKernelEx(&c, run_exp2, n, x, out);
}

static __global__ void __launch_bounds__(LANES, 1)
    run_warp(const float *x, float *sum, float *max_) {
    size_t i = (size_t)blockIdx.x * LANES + threadIdx.x;
    sum[i] = sy_warp_sum(x[i]);
    max_[i] = sy_warp_max(x[i]);
}

cudaError_t ptx_run_warp(int n, const float *x, float *sum, float *max) {
    cudaLaunchConfig_t c = config(n);
    return cudaLaunchKernelEx(&c, run_warp, x, sum, max);
}

static __global__ void __launch_bounds__(LANES, 1)
    run_moves(const uint8_t *from, uint8_t *out) {
    __shared__ __align__(16) uint8_t sh[LANES * 16];
    int lane = (int)threadIdx.x;
    sy_policy once = sy_evict_first();
    sy_store16(out + lane * 16, sy_load16(from + lane * 16));
    sy_store16(out + 512 + lane * 16, sy_load_weights((const uint4 *)(from + lane * 16), once));
    for (int i = lane; i < 64; i += LANES) {
        sy_store8(out + 1024 + i * 8, sy_load8(from + i * 8));
        sy_store8(sh + i * 8, sy_load8(from + i * 8));
    }
    __syncthreads();
    for (int i = 63 - lane; i >= 0; i -= LANES) /* by another lane than wrote it */
        sy_store8(out + 1536 + i * 8, sy_load8(sh + i * 8));
}

cudaError_t ptx_run_moves(const uint8_t *from, uint8_t *out) {
    cudaLaunchConfig_t c = config(1);
    return cudaLaunchKernelEx(&c, run_moves, from, out);
}
