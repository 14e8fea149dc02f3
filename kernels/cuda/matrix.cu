/* Matrices in fragments (fragment.h): their size, packing, and the rows of the embedding. And the
 * two steps of plain rows: the norm and the addition. */
#include "base/checked.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/product.h"
#include "kernels/cuda/quant.h"

enum { THREADS = 256, WARPS = THREADS / 32 };

sy_dtype sy_cuda_stored_dtype(const sy_backend *be, sy_dtype file_dtype) {
    (void)be;
    return file_dtype == SY_F32 ? SY_BF16 : file_dtype;
}

/* Outputs of one part in a tile. */
static int64_t tile_outputs(const sy_matrix *m) {
    return m->parts == 2 ? SY_TILE_N / 2 : SY_TILE_N;
}

int64_t sy_cuda_tiles(const sy_matrix *m) {
    return sy_ceil_div(m->n, tile_outputs(m));
}

uint64_t sy_cuda_matrix_bytes(const sy_backend *be, const sy_matrix *m) {
    (void)be;
    if (sy_is_quantised(m->dtype)) return sy_cuda_quant_layout_of(m).bytes;
    bool known = m->dtype == SY_BF16 || m->dtype == SY_F16;
    if (!known || m->n < 0 || m->k < 0 || m->parts < 1 || m->parts > 2) return UINT64_MAX;
    uint64_t steps = (uint64_t)sy_ceil_div(m->k, SY_STEP_K), bytes;
    if (!sy_mul_u64((uint64_t)sy_cuda_tiles(m), steps, &bytes) ||
        !sy_mul_u64(bytes, 16 * SY_FRAGMENT_LANES, &bytes))
        return UINT64_MAX;
    return bytes;
}

/* ---- packing ---- */

typedef struct packing {
    const uint16_t *src; /* [n_rows, k] in units of 2 bytes: the alignment that sources have */
    uint32_t *dst;       /* the first tile that is written */
    int64_t n_rows, k, steps;
    int parts, part;
    bool wide;  /* the source is float32 */
    bool pairs; /* two values of 16 bits may be read at once */
} packing;

/* Values (row, k) and (row, k + 1), zero beyond the source. */
SY_DEVICE uint32_t source_pair(const packing &p, int64_t row, int64_t k) {
    if (row >= p.n_rows || k >= p.k) return 0;
    int64_t at = row * p.k + k;
    bool both = k + 1 < p.k;
    if (p.pairs) return *(const uint32_t *)(const void *)(p.src + at);
    if (!p.wide) return p.src[at] | (both ? (uint32_t)p.src[at + 1] << 16 : 0);
    const uint16_t *src = p.src + 2 * at;
    float lo = __uint_as_float(src[0] | (uint32_t)src[1] << 16);
    float hi = both ? __uint_as_float(src[2] | (uint32_t)src[3] << 16) : 0.0f;
    return sy_pack_bf16(lo, hi);
}

/* A block per tile, a warp per fragment. Of a matrix of two parts each writes its own rows. */
__global__ void __launch_bounds__(THREADS, 1) pack_tiles(const __grid_constant__ packing p) {
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int64_t tile = blockIdx.x, row = tile * (SY_TILE_N / p.parts) + g;
    for (int64_t step = threadIdx.x / 32; step < p.steps; step += WARPS) {
        int64_t k = step * SY_STEP_K + 2 * t;
        uint32_t *dst = p.dst + ((tile * p.steps + step) * SY_FRAGMENT_LANES + lane) * 4;
        uint32_t left = source_pair(p, row, k), right = source_pair(p, row, k + 8);
        if (p.parts == 2) {
            dst[p.part] = left;
            dst[p.part + 2] = right;
            continue;
        }
        sy_store16(dst, make_uint4(left, source_pair(p, row + 8, k), right,
                                   source_pair(p, row + 8, k + 8)));
    }
}

sy_status sy_cuda_check_pack(const sy_matrix *m,
                             int part,
                             int64_t row0,
                             int64_t n_rows,
                             sy_dtype src_dtype) {
    if (part < 0 || part >= m->parts || m->parts > 2)
        return sy_fail(SY_ERR_INTERNAL, "pack: part %d of %d", part, m->parts);
    if (row0 < 0 || n_rows < 0 || row0 > m->n || n_rows > m->n - row0 ||
        row0 % SY_PACK_ROWS != 0 || (n_rows % SY_PACK_ROWS != 0 && row0 + n_rows != m->n))
        return sy_fail(SY_ERR_INTERNAL, "pack: rows %lld + %lld of %lld", (long long)row0,
                       (long long)n_rows, (long long)m->n);
    if (sy_cuda_matrix_bytes(NULL, m) == UINT64_MAX)
        return sy_fail(SY_ERR_UNSUPPORTED, "pack: CUDA has no kernels for %s weights%s",
                       sy_dtype_name(m->dtype),
                       sy_is_quantised(m->dtype) ? " with scales of this kind" : "");
    if (src_dtype != m->dtype && !(src_dtype == SY_F32 && m->dtype == SY_BF16))
        return sy_fail(SY_ERR_UNSUPPORTED, "pack: %s weights cannot be stored as %s",
                       sy_dtype_name(src_dtype), sy_dtype_name(m->dtype));
    return SY_OK;
}

sy_status sy_cuda_pack_device(sy_cuda *cu,
                              const sy_matrix *m,
                              int part,
                              int64_t row0,
                              int64_t n_rows,
                              const void *src,
                              sy_dtype src_dtype,
                              cudaStream_t stream) {
    if ((uintptr_t)src % 2 != 0)
        return sy_fail(SY_ERR_INTERNAL, "pack: the source stands at an odd address");
    packing p = {};
    p.src = (const uint16_t *)src;
    p.n_rows = n_rows;
    p.k = m->k;
    p.steps = sy_ceil_div(m->k, SY_STEP_K);
    p.parts = m->parts;
    p.part = part;
    p.wide = src_dtype == SY_F32;
    p.pairs = !p.wide && m->k % 2 == 0 && (uintptr_t)src % 4 == 0;
    int64_t tiles = sy_ceil_div(n_rows, tile_outputs(m));
    p.dst = (uint32_t *)m->data + row0 / tile_outputs(m) * p.steps * SY_FRAGMENT_LANES * 4;
    if (tiles == 0 || p.steps == 0) return SY_OK;
    if (tiles > INT32_MAX)
        return sy_fail(SY_ERR_UNSUPPORTED, "pack: %lld rows at once", (long long)n_rows);
    cudaLaunchConfig_t config = sy_launch(cu, tiles, THREADS, 0);
    config.stream = stream;
    return SY_CUDA(cu, cudaLaunchKernelEx(&config, pack_tiles, p));
}

/* ---- embed ---- */

/* Row blockIdx.x of x [rows, k]: output id[row] of a matrix of one part, widened. */
template <bool F16>
__global__ void __launch_bounds__(THREADS, 1)
    gather_rows(float *x, const uint32_t *table, const int32_t *id, int64_t n, int64_t k) {
    int64_t row = id[blockIdx.x], steps = (k + SY_STEP_K - 1) / SY_STEP_K;
    const uint32_t *tile = table + row / SY_TILE_N * steps * SY_FRAGMENT_LANES * 4;
    bool known = row >= 0 && row < n;
    x += (int64_t)blockIdx.x * k;
    for (int64_t i = 2 * (int64_t)threadIdx.x; i < k; i += 2 * THREADS) {
        int column = (int)(i % SY_STEP_K);
        int64_t lane = row % 8 * 4 + column % 8 / 2, piece = row / 8 % 2 + column / 8 * 2;
        uint32_t two = known ? tile[(i / SY_STEP_K * SY_FRAGMENT_LANES + lane) * 4 + piece] : 0;
        float left = F16 ? sy_f16_float((uint16_t)two) : sy_bf16_lo(two);
        float right = F16 ? sy_f16_float((uint16_t)(two >> 16)) : sy_bf16_hi(two);
        if (k % 2 == 0 && (uintptr_t)x % 8 == 0) {
            sy_store8(x + i, make_uint2(__float_as_uint(left), __float_as_uint(right)));
            continue;
        }
        x[i] = left;
        if (i + 1 < k) x[i + 1] = right;
    }
}

sy_status sy_cuda_embed(sy_backend *be,
                        const sy_matrix *table,
                        const sy_batch *b,
                        float *x,
                        sy_stream *s) {
    (void)s;
    sy_cuda *cu = sy_cuda_of(be);
    for (int i = 0; i < b->n_rows && b->ids != NULL; i++) /* NULL: a step is recorded */
        if (b->ids[i] < 0 || b->ids[i] >= table->n)
            return sy_fail(SY_ERR_INTERNAL, "embed: token id %d of a vocabulary of %lld",
                           b->ids[i], (long long)table->n);
    if (sy_is_quantised(table->dtype))
        return sy_cuda_quant_gather(cu, table, cu->step.rows_bound, cu->step.id, x);
    if (table->parts != 1 || (table->dtype != SY_BF16 && table->dtype != SY_F16))
        return sy_fail(SY_ERR_INTERNAL, "embed: a table of %d parts of %s", table->parts,
                       sy_dtype_name(table->dtype));
    if (cu->step.rows_bound == 0 || table->k == 0) return SY_OK;
    cudaLaunchConfig_t config = sy_launch(cu, cu->step.rows_bound, THREADS, 0);
    const uint32_t *data = (const uint32_t *)table->data;
    return table->dtype == SY_F16
               ? SY_CUDA(cu, cudaLaunchKernelEx(&config, gather_rows<true>, x, data,
                                                cu->step.id, table->n, table->k))
               : SY_CUDA(cu, cudaLaunchKernelEx(&config, gather_rows<false>, x, data,
                                                cu->step.id, table->n, table->k));
}

/* ---- rows ---- */

/* xn [rows, k] bf16 = norm of row row[i] of x (row i if NULL). A block per row. */
__global__ void __launch_bounds__(THREADS, 4) norm_row(uint16_t *xn,
                                                       const float *x,
                                                       const float *weight,
                                                       const int32_t *row,
                                                       float eps,
                                                       int k) {
    __shared__ float share[SY_NORM_WARPS];
    static_assert((int)WARPS == (int)SY_NORM_WARPS, "a warp per share");
    int64_t i = blockIdx.x;
    x += (row == NULL ? i : row[i]) * (int64_t)k;
    float own = sy_norm_share(x, k, (int)threadIdx.x / 32);
    if (threadIdx.x % 32 == 0) share[threadIdx.x / 32] = own;
    __syncthreads();
    float inverse = sy_norm_inverse(share, k, eps);
    for (int j = (int)threadIdx.x; j < k; j += THREADS)
        xn[i * k + j] = sy_float_bf16(sy_norm_value(x[j], inverse, weight[j]));
}

sy_status sy_cuda_norm_rows(sy_cuda *cu,
                            const float *weight,
                            float eps,
                            int64_t n_rows,
                            int64_t k,
                            const int32_t *row,
                            const float *x,
                            void *xn) {
    if (n_rows < 0 || n_rows > INT32_MAX || k < 0 || k > SY_CUDA_MAX_K)
        return sy_fail(SY_ERR_INTERNAL, "norm: %lld rows of %lld", (long long)n_rows,
                       (long long)k);
    if (n_rows == 0 || k == 0) return SY_OK;
    cudaLaunchConfig_t config = sy_launch(cu, n_rows, THREADS, 0);
    return SY_CUDA(
        cu, cudaLaunchKernelEx(&config, norm_row, (uint16_t *)xn, x, weight, row, eps, (int)k));
}

__global__ void __launch_bounds__(THREADS, 4) add_values(float *x, const float *y, int64_t n) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < n) x[i] += y[i];
}

sy_status sy_cuda_add(sy_backend *be,
                      int64_t n_rows,
                      int64_t width,
                      const float *y,
                      float *x,
                      sy_stream *s) {
    (void)s;
    sy_cuda *cu = sy_cuda_of(be);
    int64_t n, blocks;
    if (n_rows < 0 || width < 0 || !sy_mul_i64(n_rows, width, &n) ||
        (blocks = sy_ceil_div(n, THREADS)) > INT32_MAX)
        return sy_fail(SY_ERR_INTERNAL, "add: %lld rows of %lld", (long long)n_rows,
                       (long long)width);
    if (n == 0) return SY_OK;
    cudaLaunchConfig_t config = sy_launch(cu, blocks, THREADS, 0);
    return SY_CUDA(cu, cudaLaunchKernelEx(&config, add_values, x, y, n));
}

/* x [rows, n] += y [n] */
__global__ void __launch_bounds__(THREADS, 4)
    add_to_rows(float *x, const float *y, int64_t values, int64_t n) {
    int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i < values) x[i] += y[i % n];
}

sy_status
sy_cuda_add_to_rows(sy_cuda *cu, int64_t n_rows, int64_t n, const float *y, float *x) {
    int64_t values, blocks;
    if (n_rows < 0 || n < 0 || !sy_mul_i64(n_rows, n, &values) ||
        (blocks = sy_ceil_div(values, THREADS)) > INT32_MAX)
        return sy_fail(SY_ERR_INTERNAL, "add: %lld rows of %lld", (long long)n_rows,
                       (long long)n);
    if (values == 0) return SY_OK;
    cudaLaunchConfig_t config = sy_launch(cu, blocks, THREADS, 0);
    return SY_CUDA(cu, cudaLaunchKernelEx(&config, add_to_rows, x, y, values, n));
}
