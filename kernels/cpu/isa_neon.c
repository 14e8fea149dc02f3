/* Armv8 NEON: 4 lanes, 32 registers, FMLA. BFDOT and BFMMLA add in another order, so they have
 * no place here. Flushing of denormals is FPCR.FZ, set by the pool. */
#if defined(__aarch64__)
#include <arm_neon.h>
#include <stddef.h>

#include "kernels/cpu/isa.h"

typedef float32x4_t vec;
enum { LANES = 4 };

static inline vec v_zero(void) {
    return vdupq_n_f32(0);
}
static inline vec v_load(const float *p) {
    return vld1q_f32(p);
}
static inline void v_store(float *p, vec v) {
    vst1q_f32(p, v);
}
static inline vec v_splat(const float *p) {
    return vld1q_dup_f32(p);
}
static inline vec v_fma(vec a, vec b, vec c) {
    return vfmaq_f32(c, a, b);
}

/* A BF16 value is the upper half of its float32. */
static inline void load_bf16(const uint16_t *w, vec *odd, vec *even) {
    uint32x4_t pairs = vreinterpretq_u32_u16(vld1q_u16(w));
    *odd = vreinterpretq_f32_u32(vandq_u32(pairs, vdupq_n_u32(0xffff0000u)));
    *even = vreinterpretq_f32_u32(vshlq_n_u32(pairs, 16));
}

static inline void load_f16(const uint16_t *w, vec *odd, vec *even) {
    uint32x4_t pairs = vreinterpretq_u32_u16(vld1q_u16(w));
    *odd = vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(pairs, 16)));
    *even = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(pairs)));
}

static inline void load_f32(const float *w, vec *odd, vec *even) {
    *even = vld1q_f32(w);
    *odd = *even;
}

#define VECS_OF_1 16
#define VECS_OF_2 8
#define VECS_OF_3 4
#define VECS_OF_4 4
#include "kernels/cpu/gemm_fma.h"
#include "kernels/cpu/gemm_widen.h"
#include "kernels/cpu/pack_body.h"
#include "kernels/cpu/quant_body.h"
#include "kernels/cpu/vector_body.h"

static uint64_t read_block(const void *block, int64_t bytes) {
    const uint64_t *p = block;
    uint64x2_t a = vdupq_n_u64(0), b = a, c = a, d = a;
    for (int64_t i = 0; i + 64 <= bytes; i += 64, p += 8) {
        a = veorq_u64(a, vld1q_u64(p));
        b = veorq_u64(b, vld1q_u64(p + 2));
        c = veorq_u64(c, vld1q_u64(p + 4));
        d = veorq_u64(d, vld1q_u64(p + 6));
    }
    return vgetq_lane_u64(veorq_u64(veorq_u64(a, b), veorq_u64(c, d)), 0);
}

/* Sixteen chains; the empty asm makes their starts unknown, so that they are not merged. */
#define EACH_CHAIN(X)                                                                          \
    X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define CHAIN_START(i)                                                                         \
    vec a##i = vdupq_n_f32(0);                                                                 \
    __asm__ volatile("" : "+w"(a##i));
#define CHAIN_STEP(i) a##i = v_fma(w, w, a##i);
#define CHAIN_SUM(i) sum = vaddq_f32(sum, a##i);

static int64_t peak(int64_t rounds, float *sink) {
    vec w = vdupq_n_f32(0.5f), sum = vdupq_n_f32(0);
    EACH_CHAIN(CHAIN_START)
    for (int64_t r = 0; r < rounds; r++) {
        EACH_CHAIN(CHAIN_STEP)
    }
    EACH_CHAIN(CHAIN_SUM)
    *sink = vgetq_lane_f32(sum, 0);
    return rounds * 16 * LANES;
}

const sy_cpu_isa sy_isa_neon = {
    .name = "neon",
    .gemm = {.bf16_bf16 = bf16_bf16,
             .bf16_f32 = bf16_f32,
             .f16_f32 = f16_f32,
             .f32_f32 = f32_f32,
             SY_PACK_KERNELS},
    .quant = SY_QUANT_KERNELS,
    .vec = SY_VECTOR_KERNELS,
    .probe = {.read = read_block, .peak_bf16 = peak, .peak_f32 = peak},
};
#else
/* ISO C wants a translation unit to declare something. */
typedef int sy_isa_neon_is_absent;
#endif
