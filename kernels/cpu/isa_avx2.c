/* AVX2 with FMA and F16C: 8 lanes, 16 registers. */
#include <immintrin.h>
#include <stddef.h>

#include "kernels/cpu/isa.h"

typedef __m256 vec;
enum { LANES = 8 };

static inline vec v_zero(void) {
    return _mm256_setzero_ps();
}
static inline vec v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
static inline void v_store(float *p, vec v) {
    _mm256_storeu_ps(p, v);
}
static inline vec v_splat(const float *p) {
    return _mm256_broadcast_ss(p);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
}

/* A BF16 value is the upper half of its float32. */
static inline void load_bf16(const uint16_t *w, vec *odd, vec *even) {
    __m256i pairs = _mm256_loadu_si256((const void *)w);
    *odd = _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(-65536)));
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}

/* Gathers the even codes in the lower and the odd ones in the upper 128 bits, then widens. */
static inline void load_f16(const uint16_t *w, vec *odd, vec *even) {
    const __m256i split =
        _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9,
                         12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    __m256i pairs = _mm256_shuffle_epi8(_mm256_loadu_si256((const void *)w), split);
    pairs = _mm256_permute4x64_epi64(pairs, _MM_SHUFFLE(3, 1, 2, 0));
    *even = _mm256_cvtph_ps(_mm256_castsi256_si128(pairs));
    *odd = _mm256_cvtph_ps(_mm256_extracti128_si256(pairs, 1));
}

static inline void load_f32(const float *w, vec *odd, vec *even) {
    *even = _mm256_loadu_ps(w);
    *odd = *even;
}

#define VECS_OF_1 8
#define VECS_OF_2 4
#define VECS_OF_3 2
#define VECS_OF_4 2
#include "kernels/cpu/gemm_fma.h"
#include "kernels/cpu/gemm_widen.h"
#include "kernels/cpu/pack_body.h"
#include "kernels/cpu/quant_avx2.h"
#include "kernels/cpu/quant_body.h"
#include "kernels/cpu/vector_body.h"

static uint64_t read_block(const void *block, int64_t bytes) {
    const char *p = block;
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (int64_t i = 0; i + 128 <= bytes; i += 128) {
        a = _mm256_xor_si256(a, _mm256_loadu_si256((const void *)(p + i)));
        b = _mm256_xor_si256(b, _mm256_loadu_si256((const void *)(p + i + 32)));
        c = _mm256_xor_si256(c, _mm256_loadu_si256((const void *)(p + i + 64)));
        d = _mm256_xor_si256(d, _mm256_loadu_si256((const void *)(p + i + 96)));
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (uint64_t)_mm256_extract_epi64(a, 0);
}

/* Ten chains cover the latency of an FMA; the empty asm makes their starts unknown, so that they
 * are not merged. */
#define EACH_CHAIN(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9)
#define CHAIN_START(i)                                                                         \
    vec a##i = _mm256_setzero_ps();                                                            \
    __asm__ volatile("" : "+x"(a##i));
#define CHAIN_STEP(i) a##i = v_fma(w, w, a##i);
#define CHAIN_SUM(i) sum = _mm256_add_ps(sum, a##i);

static int64_t peak(int64_t rounds, float *sink) {
    vec w = _mm256_set1_ps(0.5f), sum = _mm256_setzero_ps();
    EACH_CHAIN(CHAIN_START)
    for (int64_t r = 0; r < rounds; r++) {
        EACH_CHAIN(CHAIN_STEP)
    }
    EACH_CHAIN(CHAIN_SUM)
    *sink = _mm256_cvtss_f32(sum);
    return rounds * 10 * LANES;
}

const sy_cpu_isa sy_isa_avx2 = {
    .name = "avx2",
    .gemm = {.bf16_bf16 = bf16_bf16,
             .bf16_f32 = bf16_f32,
             .f16_f32 = f16_f32,
             .f32_f32 = f32_f32,
             SY_PACK_KERNELS},
    .quant = SY_QUANT_KERNELS,
    .vec = SY_VECTOR_KERNELS,
    .probe = {.read = read_block, .peak_bf16 = peak, .peak_f32 = peak},
};
