/* AVX-512 (F, BW, DQ, VL) without BF16 products. */
#include "kernels/cpu/gemm_avx512.h"
#include "kernels/cpu/gemm_widen.h"
#include "kernels/cpu/quant_bw.h"
#include "kernels/cpu/quant_avx512.h"

static inline __m512 odd_of_pairs(__m512i pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(-65536)));
}
static inline __m512 even_of_pairs(__m512i pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
}
static inline __m512 pair_step(__m512 sums, __m512i w, __m512i x) {
    sums = _mm512_fmadd_ps(odd_of_pairs(w), odd_of_pairs(x), sums);
    return _mm512_fmadd_ps(even_of_pairs(w), even_of_pairs(x), sums);
}
#include "kernels/cpu/quant_tiles.h"
#include "kernels/cpu/quant_body.h"
#include "kernels/cpu/vector_body.h"

const sy_cpu_isa sy_isa_avx512 = {
    .name = "avx512",
    .gemm = {.bf16_bf16 = bf16_bf16,
             .bf16_f32 = bf16_f32,
             .f16_f32 = f16_f32,
             .f32_f32 = f32_f32,
             SY_PACK_KERNELS},
    .quant = SY_QUANT_KERNELS,
    .vec = SY_VECTOR_KERNELS,
    .probe = {.read = read_block, .peak_bf16 = peak_f32, .peak_f32 = peak_f32},
};
