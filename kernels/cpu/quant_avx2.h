/* Unpacking of quantised panels with AVX2; the layout is in quant.h. Both bytes of a BF16 are
 * looked up by byte shuffles, which give 0 for an index with its upper bit set. */
#define QUANT_HAS_UNPACK

#include "kernels/cpu/quant_values.h"

/* Values of 4-bit codes: lower and upper bytes of BF16. */
typedef struct table_4bit {
    __m256i low, high;
} table_4bit;

static inline table_4bit table_of(const uint16_t bf16[16]) {
    const __m128i split = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    __m128i a = _mm_shuffle_epi8(_mm_loadu_si128((const void *)bf16), split);
    __m128i b = _mm_shuffle_epi8(_mm_loadu_si128((const void *)(bf16 + 8)), split);
    return (table_4bit){_mm256_broadcastsi128_si256(_mm_unpacklo_epi64(a, b)),
                        _mm256_broadcastsi128_si256(_mm_unpackhi_epi64(a, b))};
}

/* Words with a code in their lower 4 bits to BF16. */
static inline __m256i look_up(table_4bit table, __m256i codes) {
    __m256i low =
        _mm256_shuffle_epi8(table.low, codes); /* the upper byte, entry 0, is masked */
    __m256i high = _mm256_shuffle_epi8(table.high, codes);
    low = _mm256_and_si256(low, _mm256_set1_epi16(0xff));
    return _mm256_or_si256(low, _mm256_slli_epi16(high, 8));
}

static inline void
unpack_4bit(int64_t octets, const uint16_t *codes, table_4bit table, uint16_t *panel) {
    const __m256i mask = _mm256_set1_epi16(15);
    for (int64_t b = 0; b < octets; b++, codes += 2 * SY_PANEL, panel += 8 * SY_PANEL)
        for (int i = 0; i < 2 * SY_PANEL; i += 16) {
            __m256i w = _mm256_loadu_si256((const void *)(codes + i));
            for (int pair = 0; pair < 4; pair++, w = _mm256_srli_epi16(w, 4))
                _mm256_storeu_si256((void *)(panel + pair * 2 * SY_PANEL + i),
                                    look_up(table, _mm256_and_si256(w, mask)));
        }
}

static void unpack_e2m1(int64_t octets, const uint16_t *codes, uint16_t *panel) {
    unpack_4bit(octets, codes, table_of(e2m1_values), panel);
}

/* Words less their lower `shift` bits, as signed integers of at most 8 bits: the upper half of the
 * float32 that each is, which has no more. */
static inline __m256i bf16_of_integers(__m256i words, int shift) {
    __m256 even =
        _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(words, 16), 16 + shift));
    __m256 odd = _mm256_cvtepi32_ps(_mm256_srai_epi32(words, 16 + shift));
    return _mm256_blend_epi16(_mm256_srli_epi32(_mm256_castps_si256(even), 16),
                              _mm256_castps_si256(odd), 0xaa);
}

static void
unpack_u4(int64_t octets, const uint16_t *codes, const uint8_t *zeros, uint16_t *panel) {
    if (zeros == NULL) {
        unpack_4bit(octets, codes, table_of(u4_values), panel);
        return;
    }
    const __m256i mask = _mm256_set1_epi16(15);
    for (int i = 0; i < 2 * SY_PANEL; i += 16) {
        __m256i zero = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)(zeros + i / 2)));
        zero = _mm256_or_si256(zero, _mm256_slli_epi32(zero, 16)); /* of both words */
        for (int64_t b = 0; b < octets; b++) {
            __m256i w = _mm256_loadu_si256((const void *)(codes + b * 2 * SY_PANEL + i));
            uint16_t *to = panel + b * 8 * SY_PANEL + i;
            for (int pair = 0; pair < 4; pair++, w = _mm256_srli_epi16(w, 4))
                _mm256_storeu_si256(
                    (void *)(to + pair * 2 * SY_PANEL),
                    bf16_of_integers(_mm256_sub_epi16(_mm256_and_si256(w, mask), zero), 0));
        }
    }
}

/* Codes in the upper bytes of words: exponent and fraction are moved to their place, and the codes
 * of denormals and NaN are mended. */
static inline __m256i bf16_of_upper_bytes(__m256i codes) {
    const __m256i small =
        _mm256_setr_epi8(/* upper bytes of code 0..7 times 2^-9, lower bytes */
                         0, 0x3b, 0x3b, 0x3b, 0x3c, 0x3c, 0x3c, 0x3c, 0, 0, -0x80, -0x40, 0,
                         0x20, 0x40, 0x60, 0, 0x3b, 0x3b, 0x3b, 0x3c, 0x3c, 0x3c, 0x3c, 0, 0,
                         -0x80, -0x40, 0, 0x20, 0x40, 0x60);
    __m256i magnitude = _mm256_and_si256(codes, _mm256_set1_epi16(0x7f00));
    __m256i is_small = _mm256_cmpgt_epi16(_mm256_set1_epi16(0x800), magnitude);
    __m256i is_nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f00));
    __m256i value =
        _mm256_add_epi16(_mm256_srli_epi16(magnitude, 4), _mm256_set1_epi16(0x3c00));
    /* index of the upper byte: the code; of the lower one: the code and 8 */
    __m256i index = _mm256_or_si256(magnitude, _mm256_srli_epi16(magnitude, 8));
    index = _mm256_or_si256(index, _mm256_set1_epi16(8));
    value = _mm256_blendv_epi8(value, _mm256_shuffle_epi8(small, index), is_small);
    value = _mm256_blendv_epi8(value, _mm256_set1_epi16(0x7fc0), is_nan);
    return _mm256_or_si256(value, _mm256_and_si256(codes, _mm256_set1_epi16((short)0x8000)));
}

/* 32 bytes are lanes 0 and 1, or 2 and 3, of the 64 bytes of 32 outputs. */
#define UNPACK_8BIT(name, OF_UPPER_BYTES)                                                      \
    static void name(int64_t k_pairs, const uint8_t *codes, uint16_t *panel) {                 \
        const __m256i zero = _mm256_setzero_si256();                                           \
        for (int64_t i = 0; i < 4 * k_pairs; i++, codes += 32) {                               \
            __m256i c = _mm256_loadu_si256((const void *)codes);                               \
            uint16_t *to = panel + i / 2 * SY_PANEL + i % 2 * 16;                              \
            _mm256_storeu_si256((void *)to, OF_UPPER_BYTES(_mm256_unpacklo_epi8(zero, c)));    \
            _mm256_storeu_si256((void *)(to + 32),                                             \
                                OF_UPPER_BYTES(_mm256_unpackhi_epi8(zero, c)));                \
        }                                                                                      \
    }
#define INTEGERS_OF_UPPER_BYTES(words) bf16_of_integers(words, 8)
UNPACK_8BIT(unpack_e4m3, bf16_of_upper_bytes)
UNPACK_8BIT(unpack_i8, INTEGERS_OF_UPPER_BYTES)
#undef UNPACK_8BIT
#undef INTEGERS_OF_UPPER_BYTES
