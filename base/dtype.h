/* Element types as safetensors files name them, and the conversions between float formats.
 * Block-quantised types are dtypes like others; their scales are tensors of their own. SY_U4 is in
 * no such file: checkpoints pack eight of these integers into an I32. */
#ifndef SY_BASE_DTYPE_H
#define SY_BASE_DTYPE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* name in C, spelling in a safetensors header, bits per element */
/* clang-format off */
#define SY_DTYPE_LIST(X)                                                                         \
    X(SY_F32, "F32", 32)                                                                         \
    X(SY_F16, "F16", 16)                                                                         \
    X(SY_BF16, "BF16", 16)                                                                       \
    X(SY_F64, "F64", 64)                                                                         \
    X(SY_F8_E4M3, "F8_E4M3", 8)                                                                  \
    X(SY_F8_E5M2, "F8_E5M2", 8)                                                                  \
    X(SY_F8_E8M0, "F8_E8M0", 8)                                                                  \
    X(SY_F8_E4M3FNUZ, "F8_E4M3FNUZ", 8)                                                          \
    X(SY_F8_E5M2FNUZ, "F8_E5M2FNUZ", 8)                                                          \
    X(SY_F6_E2M3, "F6_E2M3", 6)                                                                  \
    X(SY_F6_E3M2, "F6_E3M2", 6)                                                                  \
    X(SY_F4, "F4", 4)                                                                            \
    X(SY_C64, "C64", 64)                                                                         \
    X(SY_I64, "I64", 64)                                                                         \
    X(SY_U64, "U64", 64)                                                                         \
    X(SY_I32, "I32", 32)                                                                         \
    X(SY_U32, "U32", 32)                                                                         \
    X(SY_I16, "I16", 16)                                                                         \
    X(SY_U16, "U16", 16)                                                                         \
    X(SY_I8, "I8", 8)                                                                            \
    X(SY_U8, "U8", 8)                                                                            \
    X(SY_BOOL, "BOOL", 8)                                                                        \
    X(SY_U4, "U4", 4)
/* clang-format on */

typedef enum sy_dtype {
#define X(name, spelling, bits) name,
    SY_DTYPE_LIST(X)
#undef X
        SY_DTYPE_COUNT
} sy_dtype;

const char *sy_dtype_name(sy_dtype t); /* "BF16"; "?" out of range */
int sy_dtype_bits(sy_dtype t);         /* 0 out of range           */
/* False if the spelling is not exactly one of the list. */
bool sy_dtype_from_name(const char *spelling, sy_dtype *out);

static inline float sy_f32_from_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}
static inline uint32_t sy_bits_from_f32(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static inline float sy_f32_from_bf16(uint16_t b) {
    return sy_f32_from_bits((uint32_t)b << 16);
}

/* Round to nearest even; denormal inputs become zero, as vcvtneps2bf16 does; NaN stays NaN. */
static inline uint16_t sy_bf16_from_f32(float f) {
    uint32_t u = sy_bits_from_f32(f);
    uint32_t magnitude = u & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40u);
    if (magnitude < 0x00800000u) return (uint16_t)((u >> 16) & 0x8000u);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/* All exact, denormals included. */
float sy_f32_from_f16(uint16_t h);
float sy_f32_from_e4m3(uint8_t code); /* the finite kind: 0x7f and 0xff are NaN, no infinity */
float sy_f32_from_e2m1(uint8_t code); /* the lower 4 bits; no NaN, no infinity */
float sy_f32_from_e8m0(uint8_t code); /* 2^(code - 127); 0xff is NaN; 0 is a denormal float32 */

#endif
