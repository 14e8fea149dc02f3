#include "kernels/weight_source.h"

#include "base/checked.h"

/* Rows of a part as they are looked through. */
typedef struct checking {
    const sy_matrix *m;
    const sy_weight_source *src;
    int64_t groups, row0;
    int part;
} checking;

static sy_status bad_value(const checking *c, int64_t row, int64_t group, const char *what) {
    const char *part = c->m->parts == 2 ? (c->part == 0 ? "gate, " : "up, ") : "";
    return sy_fail(SY_ERR_FORMAT, "%soutput %lld, scale group %lld: %s", part,
                   (long long)(c->row0 + row), (long long)group, what);
}

/* Whether a scale is NaN or infinity. */
static bool not_finite(sy_dtype dtype, const uint8_t *scale) {
    switch (dtype) {
    case SY_F8_E8M0:
        return *scale == 0xff;
    case SY_F8_E4M3:
        return (*scale & 0x7f) == 0x7f;
    case SY_F16:
        return (scale[1] & 0x7c) == 0x7c;
    case SY_BF16:
        return (scale[1] & 0x7f) == 0x7f && (scale[0] & 0x80) != 0;
    default: /* SY_F32 */
        return (scale[3] & 0x7f) == 0x7f && (scale[2] & 0x80) != 0;
    }
}

static sy_status check_scales(const checking *c, int64_t row, int64_t n_rows) {
    int64_t outputs = c->m->quant.outputs, bytes = sy_dtype_bits(c->m->quant.scale) / 8;
    int64_t n = outputs == 1 ? n_rows : sy_min(n_rows, 1);
    for (int64_t r = row; r < row + n; r++) {
        int64_t at = outputs == 0   ? 0
                     : outputs == 1 ? r
                                    : (c->row0 + r) / outputs - c->row0 / outputs;
        const uint8_t *from = (const uint8_t *)c->src->scales + at * c->groups * bytes;
        for (int64_t g = 0; g < c->groups; g++)
            if (not_finite(c->m->quant.scale, from + g * bytes))
                return bad_value(c, r, g, "expected a finite scale, found NaN or infinity");
    }
    return SY_OK;
}

static sy_status check_zeros(const checking *c, int64_t row, int64_t n_rows) {
    for (int64_t r = row; r < row + n_rows; r++)
        for (int64_t g = 0; g < c->groups; g++)
            if (c->src->zeros[r * c->groups + g] > 15)
                return bad_value(c, r, g, "expected a zero point in 0..15");
    return SY_OK;
}

static sy_status check_factor(const sy_matrix *m, int part) {
    float f = m->quant.factor[part];
    if (m->quant.use_factor == SY_FACTOR_NONE) return SY_OK;
    if (not_finite(SY_F32, (const uint8_t *)&m->quant.factor[part]) ||
        (m->quant.use_factor == SY_FACTOR_OVER && f == 0))
        return sy_fail(SY_ERR_FORMAT, "expected a finite factor%s, found %g",
                       m->quant.use_factor == SY_FACTOR_OVER ? " to divide by" : "", (double)f);
    return SY_OK;
}

sy_status sy_check_quantised(const sy_matrix *m,
                             int part,
                             int64_t row0,
                             int64_t n_rows,
                             const sy_weight_source *src) {
    sy_status st = SY_OK;
    checking c = {m, src, m->quant.group > 0 ? sy_ceil_div(m->k, m->quant.group) : 1, row0,
                  part};
    SY_TRY(check_factor(m, part));
    if (m->k == 0) return SY_OK;
    if (n_rows > 0 && (src->scales == NULL || (m->quant.zeros && src->zeros == NULL)))
        SY_FAIL(SY_ERR_INTERNAL, "pack: quantised weights without scales or zero points");
    for (int64_t row = 0; row < n_rows; row += SY_PACK_ROWS) {
        int64_t n = sy_min(n_rows - row, SY_PACK_ROWS);
        SY_TRY(check_scales(&c, row, n));
        if (m->quant.zeros) SY_TRY(check_zeros(&c, row, n));
    }
done:
    return st;
}
