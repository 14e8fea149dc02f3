#include "base/dtype.h"

#include <stddef.h>

static const struct {
    const char *spelling;
    int bits;
} dtype_table[SY_DTYPE_COUNT] = {
#define X(name, spelling, bits) {spelling, bits},
    SY_DTYPE_LIST(X)
#undef X
};

const char *sy_dtype_name(sy_dtype t) {
    return (unsigned)t < SY_DTYPE_COUNT ? dtype_table[t].spelling : "?";
}

int sy_dtype_bits(sy_dtype t) {
    return (unsigned)t < SY_DTYPE_COUNT ? dtype_table[t].bits : 0;
}

bool sy_dtype_from_name(const char *spelling, sy_dtype *out) {
    for (int i = 0; i < SY_DTYPE_COUNT; i++) {
        if (strcmp(spelling, dtype_table[i].spelling) == 0) {
            *out = (sy_dtype)i;
            return true;
        }
    }
    return false;
}

float sy_f32_from_f16(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t exponent = (h >> 10) & 0x1fu;
    uint32_t mantissa = h & 0x3ffu;
    if (exponent == 0x1f) return sy_f32_from_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent != 0) return sy_f32_from_bits(sign | (exponent + 112) << 23 | mantissa << 13);
    if (mantissa == 0) return sy_f32_from_bits(sign);
    int shift = __builtin_clz(mantissa) - 21; /* bring the leading one to bit 10 */
    uint32_t normal = (mantissa << shift) & 0x3ffu;
    return sy_f32_from_bits(sign | (uint32_t)(113 - shift) << 23 | normal << 13);
}
