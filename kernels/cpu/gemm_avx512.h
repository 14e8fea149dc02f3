/* What the two AVX-512 tables share: 16 lanes, 32 registers. */
#include <immintrin.h>
#include <stddef.h>

#include "kernels/cpu/isa.h"

typedef __m512 vec;
enum { LANES = 16 };

static inline vec v_zero(void) {
    return _mm512_setzero_ps();
}
static inline vec v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, vec v) {
    _mm512_storeu_ps(p, v);
}
static inline vec v_splat(const float *p) {
    return _mm512_set1_ps(*p);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}

/* A BF16 value is the upper half of its float32. */
static inline void load_bf16(const uint16_t *w, vec *odd, vec *even) {
    __m512i pairs = _mm512_loadu_si512(w);
    *odd = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)));
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}

/* Gathers the even codes in the lower and the odd ones in the upper half, then widens; the
 * conversion is exact for denormals whatever MXCSR says. */
static inline void load_f16(const uint16_t *w, vec *odd, vec *even) {
    const __m512i split = _mm512_set_epi16(
        31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, /* upper half */
        30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    __m512i pairs = _mm512_permutexvar_epi16(split, _mm512_loadu_si512(w));
    *even = _mm512_cvtph_ps(_mm512_castsi512_si256(pairs));
    *odd = _mm512_cvtph_ps(_mm512_extracti64x4_epi64(pairs, 1));
}

static inline void load_f32(const float *w, vec *odd, vec *even) {
    *even = _mm512_loadu_ps(w);
    *odd = *even;
}

#define VECS_OF_1 4
#define VECS_OF_2 4
#define VECS_OF_3 4
#define VECS_OF_4 4
#include "kernels/cpu/gemm_fma.h"

/* 16 words of 16 rows: a 16 x 16 transpose in registers, so that each store fills a cache line.
 * Streaming stores keep loading at the speed of a plain copy. */
#define PACK_WORDS 16
static inline void pack_block(const char *src, int64_t stride, uint32_t *out) {
    __m512i r[16], t[16];
    for (int i = 0; i < 16; i++)
        r[i] = _mm512_loadu_si512(src + i * stride);
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    /* r[4g + c], 128-bit lane l: word 4l + c of the rows 4g .. 4g + 3 */
    for (int g = 0; g < 16; g += 4) {
        r[g] = _mm512_unpacklo_epi64(t[g], t[g + 2]);
        r[g + 1] = _mm512_unpackhi_epi64(t[g], t[g + 2]);
        r[g + 2] = _mm512_unpacklo_epi64(t[g + 1], t[g + 3]);
        r[g + 3] = _mm512_unpackhi_epi64(t[g + 1], t[g + 3]);
    }
    for (int c = 0; c < 4; c++) {
        __m512i low_even = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);
        __m512i low_odd = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
        __m512i high_even = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
        __m512i high_odd = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
        uint32_t *column = out + c * SY_PANEL;
        _mm512_stream_si512((void *)column, _mm512_shuffle_i32x4(low_even, high_even, 0x88));
        _mm512_stream_si512((void *)(column + 4 * SY_PANEL),
                            _mm512_shuffle_i32x4(low_odd, high_odd, 0x88));
        _mm512_stream_si512((void *)(column + 8 * SY_PANEL),
                            _mm512_shuffle_i32x4(low_even, high_even, 0xdd));
        _mm512_stream_si512((void *)(column + 12 * SY_PANEL),
                            _mm512_shuffle_i32x4(low_odd, high_odd, 0xdd));
    }
}
static inline void pack_fence(void) {
    _mm_sfence();
}
#include "kernels/cpu/pack_body.h"

static uint64_t read_block(const void *block, int64_t bytes) {
    const char *p = block;
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (int64_t i = 0; i + 256 <= bytes; i += 256) {
        a = _mm512_xor_si512(a, _mm512_loadu_si512(p + i));
        b = _mm512_xor_si512(b, _mm512_loadu_si512(p + i + 64));
        c = _mm512_xor_si512(c, _mm512_loadu_si512(p + i + 128));
        d = _mm512_xor_si512(d, _mm512_loadu_si512(p + i + 192));
    }
    a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
    uint64_t word[8];
    _mm512_storeu_si512(word, a);
    return word[0] ^ word[1] ^ word[2] ^ word[3] ^ word[4] ^ word[5] ^ word[6] ^ word[7];
}

/* Sixteen chains: more than the latency of an FMA times the units of any CPU. The empty asm makes
 * their starts unknown, so that equal chains are not merged. */
#define EACH_CHAIN(X)                                                                          \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define CHAIN_START(i)                                                                         \
    vec a##i = _mm512_setzero_ps();                                                            \
    __asm__ volatile("" : "+v"(a##i));
#define CHAIN_SUM(i) sum = _mm512_add_ps(sum, a##i);
enum { CHAINS = 16 };

static int64_t peak_f32(int64_t rounds, float *sink) {
    vec w = _mm512_set1_ps(0.5f), sum = _mm512_setzero_ps();
    EACH_CHAIN(CHAIN_START)
    for (int64_t r = 0; r < rounds; r++) {
#define CHAIN_STEP(i) a##i = v_fma(w, w, a##i);
        EACH_CHAIN(CHAIN_STEP)
#undef CHAIN_STEP
    }
    EACH_CHAIN(CHAIN_SUM)
    *sink = _mm512_cvtss_f32(sum);
    return rounds * CHAINS * LANES;
}
