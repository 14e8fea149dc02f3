/* AVX-512 with vdpbf16ps, two multiply-adds a lane, and with the byte permutes of VBMI. */
#include "kernels/cpu/gemm_avx512.h"
#include "kernels/cpu/gemm_dp.h"
#include "kernels/cpu/quant_vbmi.h"
#include "kernels/cpu/quant_avx512.h"

static inline __m512 pair_step(__m512 sums, __m512i w, __m512i x) {
    return _mm512_dpbf16_ps(sums, (__m512bh)w, (__m512bh)x);
}
#include "kernels/cpu/quant_tiles.h"
#include "kernels/cpu/quant_body.h"
#include "kernels/cpu/vector_body.h"

static int64_t peak_bf16(int64_t rounds, float *sink) {
    __m512bh w = (__m512bh)_mm512_set1_epi32(0x3f003f00); /* 0.5 */
    vec sum = _mm512_setzero_ps();
    EACH_CHAIN(CHAIN_START)
    for (int64_t r = 0; r < rounds; r++) {
#define CHAIN_STEP(i) a##i = _mm512_dpbf16_ps(a##i, w, w);
        EACH_CHAIN(CHAIN_STEP)
#undef CHAIN_STEP
    }
    EACH_CHAIN(CHAIN_SUM)
    *sink = _mm512_cvtss_f32(sum);
    return rounds * CHAINS * LANES * 2;
}

const sy_cpu_isa sy_isa_avx512bf16 = {
    .name = "avx512bf16",
    .gemm = {.bf16_bf16 = bf16_bf16,
             .bf16_bf16_next = bf16_bf16_next,
             .bf16_f32 = bf16_f32,
             .f16_f32 = f16_f32,
             .f32_f32 = f32_f32,
             SY_PACK_KERNELS},
    .quant = SY_QUANT_KERNELS,
    .vec = SY_VECTOR_KERNELS,
    .probe = {.read = read_block, .peak_bf16 = peak_bf16, .peak_f32 = peak_f32},
};
