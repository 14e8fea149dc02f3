/* Quantised matrices on the host: their layout, and that of what they are packed from. */
#include "kernels/cuda/quant.h"

#include "base/checked.h"
#include "kernels/cuda/matrix.h"

enum { STEP_K = 16, LANE_BYTES = 16, LANES = 32, TILE_N = 16 }; /* fragment.h, which is C++ */

static bool is_known(const sy_matrix *m) {
    const sy_quant *q = &m->quant;
    bool type = q->scale == SY_F32 || q->scale == SY_F16 || q->scale == SY_BF16 ||
                q->scale == SY_F8_E8M0 || q->scale == SY_F8_E4M3;
    bool group =
        q->group == 0 || q->group == 16 || q->group == 32 || q->group == 64 || q->group == 128;
    bool outputs = q->outputs == 0 || q->outputs == 1 || q->outputs == SY_BLOCK_OUTPUTS;
    return sy_is_quantised(m->dtype) && type && group && outputs &&
           (!q->zeros || m->dtype == SY_U4);
}

/* *at = count * size more than before, in whole 64 bytes. */
static bool add_region(uint64_t *at, uint64_t count, uint64_t size) {
    uint64_t bytes;
    if (!sy_mul_u64(count, size, &bytes) || !sy_add_u64(bytes, 63, &bytes)) return false;
    return sy_add_u64(*at, bytes - bytes % 64, at);
}

sy_cuda_quant_layout sy_cuda_quant_layout_of(const sy_matrix *m) {
    sy_cuda_quant_layout l = {.bytes = UINT64_MAX};
    if (!is_known(m) || m->n < 0 || m->k < 0 || m->parts < 1 || m->parts > 2) return l;
    const sy_quant *q = &m->quant;
    const int64_t unit_k = LANE_BYTES * 8 / sy_dtype_bits(m->dtype) * LANES / TILE_N;
    l.units = sy_ceil_div(m->k, unit_k);
    l.groups = q->group > 0 ? sy_ceil_div(m->k, q->group) : 1;
    if (q->outputs == 0) l.blocks = 1;
    if (q->outputs == SY_BLOCK_OUTPUTS) l.blocks = sy_ceil_div(m->n, SY_BLOCK_OUTPUTS);
    uint64_t tiles = (uint64_t)sy_cuda_tiles(m), scales, of_outputs, at = 0, codes;
    uint64_t scale_bytes = (uint64_t)sy_dtype_bits(q->scale) / 8;
    bool fits = sy_mul_u64(tiles, (uint64_t)l.units, &codes) &&
                sy_mul_u64(tiles, TILE_N, &of_outputs) &&
                sy_mul_u64(of_outputs, (uint64_t)l.groups, &of_outputs) &&
                sy_mul_u64((uint64_t)(m->parts * l.blocks), (uint64_t)l.groups, &scales);
    if (l.blocks == 0) scales = of_outputs;
    fits = fits && add_region(&at, codes, LANE_BYTES * LANES);
    l.scales = at;
    fits = fits && add_region(&at, scales, scale_bytes);
    l.zeros = at;
    fits = fits && (!q->zeros || add_region(&at, of_outputs, 1));
    l.factors = at;
    fits = fits && add_region(&at, 2, sizeof(float));
    if (fits && at <= INT64_MAX) l.bytes = at;
    return l;
}

bool sy_cuda_same_format(const sy_matrix *a, const sy_matrix *b) {
    const sy_quant *p = &a->quant, *q = &b->quant;
    if (a->dtype != b->dtype) return false;
    return !sy_is_quantised(a->dtype) ||
           (p->scale == q->scale && p->group == q->group && p->outputs == q->outputs &&
            p->zeros == q->zeros && p->use_factor == q->use_factor);
}

/* Rows of a source's scales for its rows [row0, row0 + n_rows). */
static int64_t scale_rows(const sy_matrix *m, int64_t row0, int64_t n_rows) {
    int64_t outputs = m->quant.outputs;
    if (outputs <= 1) return outputs == 1 ? n_rows : 1;
    return sy_ceil_div(row0 + n_rows, outputs) - row0 / outputs;
}

sy_cuda_source_bytes
sy_cuda_source_bytes_of(const sy_matrix *m, sy_dtype src_dtype, int64_t row0, int64_t n_rows) {
    sy_cuda_source_bytes out = {0};
    int64_t k = m->k, row = k * (sy_dtype_bits(src_dtype) / 8);
    if (src_dtype == SY_F4) row = sy_ceil_div(k, 2);
    if (src_dtype == SY_U4) row = sy_ceil_div(k, 8) * 4;
    out.codes = (uint64_t)(row * n_rows);
    if (!sy_is_quantised(m->dtype) || n_rows == 0) return out;
    int64_t groups = m->quant.group > 0 ? sy_ceil_div(k, m->quant.group) : 1;
    out.scales =
        (uint64_t)(scale_rows(m, row0, n_rows) * groups * (sy_dtype_bits(m->quant.scale) / 8));
    if (m->quant.zeros) out.zeros = (uint64_t)(n_rows * groups);
    return out;
}

sy_weight_source
sy_cuda_source_from(const sy_matrix *m, const sy_weight_source *src, int64_t row0, int64_t n) {
    sy_weight_source out = *src;
    sy_cuda_source_bytes before = sy_cuda_source_bytes_of(m, src->dtype, row0, n);
    out.codes = (const char *)src->codes + before.codes;
    if (n == 0 || before.scales == 0) return out;
    int64_t outputs = m->quant.outputs;
    if (outputs > 1) /* a block may go on behind these rows */
        before.scales = before.scales / (uint64_t)scale_rows(m, row0, n) *
                        (uint64_t)((row0 + n) / outputs - row0 / outputs);
    if (outputs > 0) out.scales = (const char *)src->scales + before.scales;
    if (m->quant.zeros) out.zeros = src->zeros + before.zeros;
    return out;
}
