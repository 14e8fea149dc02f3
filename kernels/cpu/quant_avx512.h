/* Unpacking of quantised panels with AVX-512; the layout is in quant.h. The including file defines
 * e4m3_to_bf16 and i8_to_bf16: the codes of 32 outputs as two vectors of 16 outputs, a pair of K
 * each. */
#define QUANT_HAS_UNPACK

#include "kernels/cpu/quant_values.h"

/* 16 entries twice, since vpermw looks at five bits of an index: of a word of four 4-bit codes all
 * can be looked up after a shift, without a mask. */
static inline __m512i table_of(const uint16_t values[16]) {
    return _mm512_broadcast_i64x4(_mm256_loadu_si256((const void *)values));
}

static inline void
unpack_4bit(int64_t octets, const uint16_t *codes, __m512i table, uint16_t *panel) {
    for (int64_t b = 0; b < octets; b++, codes += 2 * SY_PANEL, panel += 8 * SY_PANEL)
        for (int i = 0; i < 2 * SY_PANEL; i += 32) {
            __m512i w = _mm512_loadu_si512(codes + i);
            uint16_t *to = panel + i;
            _mm512_storeu_si512(to, _mm512_permutexvar_epi16(w, table));
            w = _mm512_srli_epi16(w, 4);
            _mm512_storeu_si512(to + 2 * SY_PANEL, _mm512_permutexvar_epi16(w, table));
            w = _mm512_srli_epi16(w, 4);
            _mm512_storeu_si512(to + 4 * SY_PANEL, _mm512_permutexvar_epi16(w, table));
            w = _mm512_srli_epi16(w, 4);
            _mm512_storeu_si512(to + 6 * SY_PANEL, _mm512_permutexvar_epi16(w, table));
        }
}

static void unpack_e2m1(int64_t octets, const uint16_t *codes, uint16_t *panel) {
    unpack_4bit(octets, codes, table_of(e2m1_values), panel);
}

/* Entry i: i - 15, so that an index is code + 15 - zero. */
static inline __m512i table_differences(void) {
    static const uint16_t difference[32] = {
        0xc170, 0xc160, 0xc150, 0xc140, 0xc130, 0xc120, 0xc110, 0xc100, 0xc0e0, 0xc0c0, 0xc0a0,
        0xc080, 0xc040, 0xc000, 0xbf80, 0,      0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0,
        0x40e0, 0x4100, 0x4110, 0x4120, 0x4130, 0x4140, 0x4150, 0x4160, 0x4170, 0x4180};
    return _mm512_loadu_si512(difference);
}

/* 15 - zero for both words of 16 outputs from 16 v on. */
static inline __m512i indices_of_zero(const uint8_t *zeros, int v) {
    __m512i zero = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)(zeros + 16 * v)));
    zero = _mm512_or_si512(zero, _mm512_slli_epi32(zero, 16));
    return _mm512_sub_epi16(_mm512_set1_epi16(15), zero);
}

static void
unpack_u4(int64_t octets, const uint16_t *codes, const uint8_t *zeros, uint16_t *panel) {
    if (zeros == NULL) {
        unpack_4bit(octets, codes, table_of(u4_values), panel);
        return;
    }
    const __m512i table = table_differences(), mask = _mm512_set1_epi16(15);
    for (int v = 0; v < 4; v++) {
        __m512i more = indices_of_zero(zeros, v);
        for (int64_t b = 0; b < octets; b++) {
            __m512i w = _mm512_loadu_si512(codes + b * 2 * SY_PANEL + 32 * v);
            uint16_t *to = panel + b * 8 * SY_PANEL + 32 * v;
            for (int pair = 0; pair < 4; pair++, w = _mm512_srli_epi16(w, 4)) {
                __m512i index = _mm512_add_epi16(_mm512_and_si512(w, mask), more);
                _mm512_storeu_si512(to + pair * 2 * SY_PANEL,
                                    _mm512_permutexvar_epi16(index, table));
            }
        }
    }
}

#define UNPACK_8BIT(name, TO_BF16)                                                             \
    static void name(int64_t k_pairs, const uint8_t *codes, uint16_t *panel) {                 \
        for (int64_t i = 0; i < 2 * k_pairs; i++, codes += SY_PANEL, panel += SY_PANEL) {      \
            __m512i low, high;                                                                 \
            TO_BF16(_mm512_loadu_si512(codes), &low, &high);                                   \
            _mm512_storeu_si512(panel, low);                                                   \
            _mm512_storeu_si512(panel + 32, high);                                             \
        }                                                                                      \
    }
UNPACK_8BIT(unpack_e4m3, e4m3_to_bf16)
UNPACK_8BIT(unpack_i8, i8_to_bf16)
#undef UNPACK_8BIT

/* 16 scales from output 16 v on, or the same one for all. A zero E8M0 is a denormal: flushed. */
static inline __m512 scales_of_16(sy_dtype dtype, bool each, const void *scales, int v) {
    const char *at = scales;
    __m128i bytes = each ? _mm_loadu_si128((const void *)(at + 16 * v)) : _mm_set1_epi8(*at);
    __m256i words;
    switch (dtype) {
    case SY_F8_E8M0:
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(bytes), 23));
    case SY_F8_E4M3: /* a half float less its upper bit of exponent: 2^-8 of the value */
        words = _mm256_slli_epi16(_mm256_cvtepi8_epi16(bytes), 7);
        words = _mm256_and_si256(words, _mm256_set1_epi16((short)0xbf80));
        return _mm512_mul_ps(_mm512_cvtph_ps(words), _mm512_set1_ps(256));
    case SY_F32:
        if (!each) return _mm512_set1_ps(*(const float *)scales);
        return _mm512_loadu_ps((const float *)scales + 16 * v);
    default:
        words = each ? _mm256_loadu_si256((const void *)(at + 32 * v))
                     : _mm256_set1_epi16(*(const int16_t *)scales);
        if (dtype == SY_F16) return _mm512_cvtph_ps(words);
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16));
    }
}

#define QUANT_HAS_SCALES
static void widen_scales(sy_dtype dtype, bool each, const void *scales, float *out) {
    for (int v = 0; v < 4; v++)
        _mm512_storeu_ps(out + 16 * v, scales_of_16(dtype, each, scales, v));
}
