/* Quantised weights from the order of files to that of quant.h, on the device; and rows of a
 * quantised embedding. Sources stand at any address, so they are read by bytes. */
#include "base/checked.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/quant_sum.h"

enum { THREADS = 256, WARPS = THREADS / 32 };

/* ---- packing ---- */

typedef struct packing {
    const uint8_t *src; /* [n_rows] rows of row_bytes */
    uint32_t *dst;      /* the first tile that is written */
    int64_t n_rows, row_bytes, k, units;
    int parts, part;
    bool four_bits;
} packing;

/* The code of (row, k), 0 beyond the source. */
SY_DEVICE uint32_t source_code(const packing &p, int64_t row, int64_t k) {
    if (row >= p.n_rows || k >= p.k) return 0;
    const uint8_t *from = p.src + row * p.row_bytes;
    if (!p.four_bits) return from[k];
    return from[k / 2] >> k % 2 * 4 & 15u;
}

/* Word `word` of a unit that begins with k, for lanes of column pair t. */
SY_DEVICE uint32_t source_word(const packing &p, int64_t row, int64_t k, int word, int t) {
    int step = p.four_bits ? word / 2 * 2 : word / 2, fields = p.four_bits ? 4 : 2;
    uint32_t out = 0;
    k += step * SY_STEP_K + 2 * t;
    for (int i = 0; i < fields; i++) {
        int64_t at = k + i / 2 * SY_STEP_K + i % 2 * 8;
        int shift = p.four_bits ? 4 * i : 8 * i;
        out |= source_code(p, row, at) << shift | source_code(p, row, at + 1) << (16 + shift);
    }
    return out;
}

/* A block per tile, a warp per unit. Of a matrix of two parts each writes its own words. */
static __global__ void __launch_bounds__(THREADS, 1)
    pack_units(const __grid_constant__ packing p) {
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int64_t tile = blockIdx.x, row = tile * (SY_TILE_N / p.parts) + g;
    int64_t unit_k = (p.four_bits ? 4 : 2) * SY_STEP_K;
    for (int64_t unit = threadIdx.x / 32; unit < p.units; unit += WARPS) {
        uint32_t *dst = p.dst + ((tile * p.units + unit) * SY_FRAGMENT_LANES + lane) * 4;
        int64_t k = unit * unit_k;
        if (p.parts == 2) {
            dst[p.part] = source_word(p, row, k, 0, t);
            dst[p.part + 2] = source_word(p, row, k, 2, t);
            continue;
        }
        sy_store16(dst,
                   make_uint4(source_word(p, row, k, 0, t), source_word(p, row + 8, k, 1, t),
                              source_word(p, row, k, 2, t), source_word(p, row + 8, k, 3, t)));
    }
}

/* What belongs to the codes: [n_rows, groups] values of `size` bytes to [tiles][groups][16]. */
typedef struct spreading {
    const uint8_t *src;
    uint8_t *dst; /* of the first tile that is written */
    int64_t n_rows, groups;
    int size, parts, part;
} spreading;

/* A block per tile, a thread per value. */
static __global__ void __launch_bounds__(THREADS, 1)
    spread_values(const __grid_constant__ spreading p) {
    int64_t tile = blockIdx.x;
    for (int64_t i = threadIdx.x; i < p.groups * SY_TILE_N; i += THREADS) {
        int64_t group = i / SY_TILE_N, place = i % SY_TILE_N;
        if (p.parts == 2 && place % 2 != p.part) continue;
        int64_t row = tile * (SY_TILE_N / p.parts) + place / 2 +
                      (p.parts == 1 ? place % 2 * (SY_TILE_N / 2) : 0);
        const uint8_t *from = p.src + (row * p.groups + group) * p.size;
        uint8_t *to = p.dst + (tile * p.groups * SY_TILE_N + i) * p.size;
        for (int byte = 0; byte < p.size; byte++)
            to[byte] = row < p.n_rows ? from[byte] : (uint8_t)0;
    }
}

static __global__ void __launch_bounds__(32, 1) store_factor(float *to, float factor) {
    if (threadIdx.x == 0) *to = factor;
}

static sy_status spread(sy_cuda *cu,
                        const sy_matrix *m,
                        const sy_cuda_quant_layout *l,
                        int part,
                        int64_t row0,
                        int64_t n_rows,
                        const void *src,
                        uint64_t region,
                        int size,
                        cudaStream_t stream) {
    int64_t of_tile = SY_TILE_N / m->parts, tile = row0 / of_tile;
    spreading p = {(const uint8_t *)src,
                   (uint8_t *)m->data + region + tile * l->groups * SY_TILE_N * size,
                   n_rows,
                   l->groups,
                   size,
                   m->parts,
                   part};
    cudaLaunchConfig_t config = sy_launch(cu, sy_ceil_div(n_rows, of_tile), THREADS, 0);
    config.stream = stream;
    return SY_CUDA(cu, cudaLaunchKernelEx(&config, spread_values, p));
}

static sy_status pack_codes(sy_cuda *cu,
                            const sy_matrix *m,
                            const sy_cuda_quant_layout *l,
                            int part,
                            int64_t row0,
                            int64_t n_rows,
                            const void *src,
                            cudaStream_t stream) {
    int64_t of_tile = SY_TILE_N / m->parts;
    packing p = {};
    p.src = (const uint8_t *)src;
    p.dst = (uint32_t *)m->data + row0 / of_tile * l->units * SY_FRAGMENT_LANES * 4;
    p.n_rows = n_rows;
    p.row_bytes = (int64_t)sy_cuda_source_bytes_of(m, m->dtype, row0, 1).codes;
    p.k = m->k;
    p.units = l->units;
    p.parts = m->parts;
    p.part = part;
    p.four_bits = sy_dtype_bits(m->dtype) == 4;
    cudaLaunchConfig_t config = sy_launch(cu, sy_ceil_div(n_rows, of_tile), THREADS, 0);
    config.stream = stream;
    return SY_CUDA(cu, cudaLaunchKernelEx(&config, pack_units, p));
}

sy_status sy_cuda_quant_pack(sy_cuda *cu,
                             const sy_matrix *m,
                             int part,
                             int64_t row0,
                             int64_t n_rows,
                             const sy_weight_source *src,
                             cudaStream_t stream) {
    sy_status st = SY_OK;
    sy_cuda_quant_layout l = sy_cuda_quant_layout_of(m);
    sy_cuda_source_bytes bytes = sy_cuda_source_bytes_of(m, m->dtype, row0, n_rows);
    char *data = (char *)m->data;
    int scale_size = sy_dtype_bits(m->quant.scale) / 8;
    if (l.bytes == UINT64_MAX)
        SY_FAIL(SY_ERR_INTERNAL, "pack: %s of no known layout", sy_dtype_name(m->dtype));
    if (n_rows == 0) return SY_OK;
    if (n_rows > INT32_MAX)
        SY_FAIL(SY_ERR_UNSUPPORTED, "pack: %lld rows at once", (long long)n_rows);
    if (row0 == 0) {
        cudaLaunchConfig_t config = sy_launch(cu, 1, 32, 0);
        config.stream = stream;
        SY_TRY(SY_CUDA(cu, cudaLaunchKernelEx(&config, store_factor,
                                              (float *)(void *)(data + l.factors) + part,
                                              m->quant.factor[part])));
    }
    if (m->k == 0) return SY_OK;
    SY_TRY(pack_codes(cu, m, &l, part, row0, n_rows, src->codes, stream));
    if (m->quant.zeros)
        SY_TRY(spread(cu, m, &l, part, row0, n_rows, src->zeros, l.zeros, 1, stream));
    if (l.blocks == 0) {
        SY_TRY(
            spread(cu, m, &l, part, row0, n_rows, src->scales, l.scales, scale_size, stream));
    } else {
        int64_t block = m->quant.outputs == 0 ? 0 : row0 / SY_BLOCK_OUTPUTS;
        char *to = data + l.scales + (part * l.blocks + block) * l.groups * scale_size;
        SY_TRY(SY_CUDA(cu, cudaMemcpyAsync(to, src->scales, bytes.scales,
                                           cudaMemcpyDeviceToDevice, stream)));
    }
done:
    return st;
}

/* ---- rows of an embedding ---- */

typedef struct gathering {
    const uint8_t *codes;
    const char *scales;
    const uint8_t *zeros;
    const float *factor;
    int64_t n, k, units, groups;
    int group; /* values of K that share a scale; 0: all */
    int outputs;
    sy_dtype dtype, scale;
    sy_factor use_factor;
    bool has_zeros;
} gathering;

/* What the code of (row, k) stands for; `place` of the row in its tile is as in quant.h. */
SY_DEVICE float code_value(const gathering &m, int64_t row, int64_t k, int64_t group) {
    bool four_bits = m.dtype == SY_F4 || m.dtype == SY_U4;
    int64_t unit_k = four_bits ? 64 : 32, tile = row / SY_TILE_N;
    int g = (int)(row % 8), r = (int)(row / 8 % 2), step = (int)(k % unit_k / SY_STEP_K);
    int column = (int)(k % SY_STEP_K), t = column % 8 / 2, second = column / 8;
    int word = four_bits ? step / 2 * 2 + r : step * 2 + r;
    int bit = column % 2 * 16 + (four_bits ? (step % 2 * 2 + second) * 4 : second * 8);
    int64_t lane = ((tile * m.units + k / unit_k) * SY_FRAGMENT_LANES + 4 * g + t) * 16;
    uint32_t code = m.codes[lane + word * 4 + bit / 8];
    if (four_bits) code = code >> bit % 8 & 15u;
    if (m.dtype == SY_I8) return (float)(int8_t)code;
    if (m.dtype == SY_U4) {
        int zero = SY_MIDDLE;
        if (m.has_zeros) zero = m.zeros[(tile * m.groups + group) * SY_TILE_N + 2 * g + r];
        return (float)((int)code - zero);
    }
    if (m.dtype == SY_F4) return sy_bf16_lo(sy_e2m1_pair(code, 0));
    return sy_bf16_lo(sy_e4m3_pair(code << 8));
}

/* Row blockIdx.x of x [rows, k]: output id[row], zeros where there is none. */
static __global__ void __launch_bounds__(THREADS, 1)
    gather_quantised(float *x, const int32_t *id, const __grid_constant__ gathering m) {
    int64_t row = id[blockIdx.x], tile = row / SY_TILE_N;
    bool known = row >= 0 && row < m.n;
    x += (int64_t)blockIdx.x * m.k;
    for (int64_t k = threadIdx.x; k < m.k; k += THREADS) {
        if (!known) {
            x[k] = 0.0f;
            continue;
        }
        int64_t group = m.group > 0 ? k / m.group : 0;
        int64_t at = group;
        if (m.outputs == 1)
            at = (tile * m.groups + group) * SY_TILE_N + row % 8 * 2 + row / 8 % 2;
        if (m.outputs > 1) at = row / m.outputs * m.groups + group;
        float scale = sy_scale_float(m.scale, sy_scale_bits(m.scale, m.scales, at));
        float v = code_value(m, row, k, group) * scale;
        if (m.use_factor == SY_FACTOR_TIMES) v *= m.factor[0];
        if (m.use_factor == SY_FACTOR_OVER) v /= m.factor[0];
        x[k] = v;
    }
}

sy_status sy_cuda_quant_gather(sy_cuda *cu,
                               const sy_matrix *m,
                               int64_t n_rows,
                               const int32_t *id,
                               float *x) {
    sy_cuda_quant_layout l = sy_cuda_quant_layout_of(m);
    if (l.bytes == UINT64_MAX || m->parts != 1)
        return sy_fail(SY_ERR_INTERNAL, "embed: a table of %d parts of %s", m->parts,
                       sy_dtype_name(m->dtype));
    if (n_rows == 0 || m->k == 0) return SY_OK;
    const char *data = (const char *)m->data;
    gathering g = {};
    g.codes = (const uint8_t *)data;
    g.scales = data + l.scales;
    g.zeros = (const uint8_t *)data + l.zeros;
    g.factor = (const float *)(const void *)(data + l.factors);
    g.n = m->n;
    g.k = m->k;
    g.units = l.units;
    g.groups = l.groups;
    g.group = m->quant.group;
    g.outputs = m->quant.outputs;
    g.dtype = m->dtype;
    g.scale = m->quant.scale;
    g.use_factor = m->quant.use_factor;
    g.has_zeros = m->quant.zeros;
    cudaLaunchConfig_t config = sy_launch(cu, n_rows, THREADS, 0);
    return SY_CUDA(cu, cudaLaunchKernelEx(&config, gather_quantised, x, id, g));
}
