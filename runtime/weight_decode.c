#include "runtime/weight_decode.h"

#include <string.h>

#include "base/checked.h"

uint64_t sy_code_row_bytes(sy_dtype dtype, int64_t k) {
    uint64_t bytes;
    if (dtype == SY_F4) return (uint64_t)sy_ceil_div(k, 2);
    if (dtype == SY_U4) return (uint64_t)sy_ceil_div(k, 8) * 4;
    if (!sy_mul_u64((uint64_t)k, (uint64_t)sy_dtype_bits(dtype) / 8, &bytes)) return UINT64_MAX;
    return bytes;
}

int64_t sy_scales_of_row(const sy_quant *quant, int64_t k) {
    return quant->group == 0 ? 1 : sy_ceil_div(k, quant->group);
}

float sy_value_at(sy_dtype dtype, const void *values, int64_t i) {
    const unsigned char *p = values;
    uint16_t half;
    float f;
    switch (dtype) {
    case SY_F32:
        memcpy(&f, p + 4 * i, sizeof f);
        return f;
    case SY_BF16:
        memcpy(&half, p + 2 * i, sizeof half);
        return sy_f32_from_bf16(half);
    case SY_F16:
        memcpy(&half, p + 2 * i, sizeof half);
        return sy_f32_from_f16(half);
    case SY_F8_E8M0:
        return sy_f32_from_e8m0(p[i]);
    case SY_F8_E4M3:
        return sy_f32_from_e4m3(p[i]);
    default:
        return 0;
    }
}

/* The number that code i of a row stands for, before its scale. */
static float code_at(sy_dtype dtype, const unsigned char *row, int64_t i, int zero) {
    if (dtype == SY_F8_E4M3) return sy_f32_from_e4m3(row[i]);
    if (dtype == SY_I8) return (float)(int8_t)row[i];
    int code = row[i / 2] >> (i % 2 * 4) & 15; /* words are little-endian: bytes in order */
    return dtype == SY_F4 ? sy_f32_from_e2m1((uint8_t)code) : (float)(code - zero);
}

static float apply_factor(const sy_quant *quant, float x) {
    if (quant->use_factor == SY_FACTOR_TIMES) return x * quant->factor[0];
    return quant->use_factor == SY_FACTOR_OVER ? x / quant->factor[0] : x;
}

static void decode_row(const sy_weight_source *source,
                       const sy_quant *quant,
                       int64_t scale_row,
                       int64_t row,
                       int64_t k,
                       float *out) {
    const unsigned char *codes = source->codes;
    int64_t n_scales = sy_scales_of_row(quant, k);
    codes += (uint64_t)row * sy_code_row_bytes(source->dtype, k);
    for (int64_t i = 0; i < k; i++) {
        int64_t g = quant->group == 0 ? 0 : i / quant->group;
        int zero = source->zeros == NULL ? 8 : source->zeros[row * n_scales + g];
        float scale = sy_value_at(quant->scale, source->scales, scale_row * n_scales + g);
        out[i] = apply_factor(quant, code_at(source->dtype, codes, i, zero) * scale);
    }
}

void sy_weight_decode(const sy_weight_source *source,
                      const sy_quant *quant,
                      int64_t row0,
                      int64_t n_rows,
                      int64_t k,
                      float *out) {
    if (!sy_is_quantised(source->dtype)) {
        for (int64_t i = 0; i < n_rows * k; i++)
            out[i] = sy_value_at(source->dtype, source->codes, i);
        return;
    }
    for (int64_t r = 0; r < n_rows; r++) {
        int64_t scale_row = quant->outputs == 0 ? 0 : r;
        if (quant->outputs > 1) scale_row = (row0 + r) / quant->outputs - row0 / quant->outputs;
        decode_row(source, quant, scale_row, r, k, out + r * k);
    }
}
