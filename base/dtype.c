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

float sy_f32_from_e4m3(uint8_t code) {
    uint32_t sign = (uint32_t)(code & 0x80u) << 24;
    uint32_t magnitude = code & 0x7fu;
    if (magnitude == 0x7f) return sy_f32_from_bits(sign | 0x7fc00000u);
    if (magnitude >= 8) return sy_f32_from_bits(sign | ((magnitude << 20) + (120u << 23)));
    float f = (float)magnitude * 0x1p-9f;
    return sign == 0 ? f : -f;
}

float sy_f32_from_e2m1(uint8_t code) {
    static const float magnitude[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    float f = magnitude[code & 7u];
    return (code & 8u) == 0 ? f : -f;
}

float sy_f32_from_e8m0(uint8_t code) {
    if (code == 0xff) return sy_f32_from_bits(0x7fc00000u);
    return sy_f32_from_bits(code == 0 ? 0x00400000u : (uint32_t)code << 23);
}
