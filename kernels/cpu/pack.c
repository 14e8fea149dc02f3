/* The memory of matrices, and row-major weights into their panels. */
#include "base/checked.h"
#include "kernels/cpu/matrix.h"
#include "kernels/cpu/quant.h"

sy_dtype sy_cpu_stored_dtype(const sy_backend *be, sy_dtype file_dtype) {
    return be->act == SY_BF16 && file_dtype == SY_F32 ? SY_BF16 : file_dtype;
}

/* Whether the kernels know the scales; the codes are known. */
static bool scales_are_known(const sy_matrix *m) {
    const sy_quant *q = &m->quant;
    bool type = q->scale == SY_F32 || q->scale == SY_F16 || q->scale == SY_BF16 ||
                q->scale == SY_F8_E8M0 || q->scale == SY_F8_E4M3;
    bool group =
        q->group == 0 || q->group == 16 || q->group == 32 || q->group == 64 || q->group == 128;
    bool outputs = q->outputs == 0 || q->outputs == 1 || q->outputs == 128;
    return type && group && outputs && (!q->zeros || m->dtype == SY_U4);
}

uint64_t sy_cpu_matrix_bytes(const sy_backend *be, const sy_matrix *m) {
    (void)be;
    bool quantised = sy_is_quantised(m->dtype);
    bool known = quantised ? scales_are_known(m)
                           : m->dtype == SY_F32 || m->dtype == SY_BF16 || m->dtype == SY_F16;
    /* A panel has less than 2^10 bytes for each element of K. */
    if (!known || m->n < 0 || m->k < 0 || m->k > INT64_MAX >> 11 || m->parts < 1 ||
        m->parts > 2)
        return UINT64_MAX;
    uint64_t panels = (uint64_t)sy_ceil_div(m->n, SY_PANEL) * (uint64_t)m->parts, bytes;
    int64_t of_one = quantised ? sy_quant_layout_of(m).panel_bytes
                               : sy_panel_elements(m) * sy_element_bytes(m);
    return sy_mul_u64(panels, (uint64_t)of_one, &bytes) ? bytes : UINT64_MAX;
}

static sy_status check_pack(const sy_backend *be,
                            const sy_matrix *m,
                            int part,
                            int64_t row0,
                            int64_t n_rows,
                            sy_dtype src_dtype) {
    if (part < 0 || part >= m->parts)
        return sy_fail(SY_ERR_INTERNAL, "pack: part %d of %d", part, m->parts);
    if (row0 < 0 || n_rows < 0 || row0 > m->n || n_rows > m->n - row0 ||
        row0 % SY_PACK_ROWS != 0 || (n_rows % SY_PACK_ROWS != 0 && row0 + n_rows != m->n))
        return sy_fail(SY_ERR_INTERNAL, "pack: rows %lld + %lld of %lld", (long long)row0,
                       (long long)n_rows, (long long)m->n);
    if (src_dtype != m->dtype && !(src_dtype == SY_F32 && m->dtype == SY_BF16))
        return sy_fail(SY_ERR_UNSUPPORTED, "pack: %s weights cannot be stored as %s",
                       sy_dtype_name(src_dtype), sy_dtype_name(m->dtype));
    if (sy_cpu_matrix_bytes(be, m) == UINT64_MAX)
        return sy_fail(SY_ERR_UNSUPPORTED, "pack: the CPU has no kernels for %s weights%s",
                       sy_dtype_name(m->dtype),
                       sy_is_quantised(m->dtype) ? " with scales of this kind" : "");
    return SY_OK;
}

sy_status sy_cpu_pack(sy_backend *be,
                      const sy_matrix *m,
                      int part,
                      int64_t row0,
                      int64_t n_rows,
                      const sy_weight_source *src) {
    sy_status st = check_pack(be, m, part, row0, n_rows, src->dtype);
    if (st != SY_OK) return st;
    if (sy_is_quantised(m->dtype)) return sy_quant_pack(m, part, row0, n_rows, src);
    const sy_gemm_kernels *gemm = &sy_cpu_of(be)->isa->gemm;
    int64_t stride = m->k * sy_dtype_bits(src->dtype) / 8;
    for (int64_t r = 0; r < n_rows; r += SY_PANEL) {
        int64_t rows = sy_min(n_rows - r, SY_PANEL);
        const char *from = (const char *)src->codes + r * stride;
        void *panel = sy_panel_at(m, (row0 + r) / SY_PANEL * m->parts + part, 0);
        if (m->dtype == SY_F32)
            gemm->pack_f32(rows, m->k, from, stride, panel);
        else if (src->dtype == SY_F32)
            gemm->pack_f32_to_bf16(rows, m->k, from, stride, panel);
        else
            gemm->pack16(rows, m->k, from, stride, panel);
    }
    return SY_OK;
}
