/* AVX-512 (F, BW, DQ, VL) without BF16 products. */
#include "kernels/cpu/gemm_avx512.h"
#include "kernels/cpu/gemm_widen.h"
#include "kernels/cpu/vector_body.h"

const sy_cpu_isa sy_isa_avx512 = {
    .name = "avx512",
    .gemm = {.bf16_bf16 = bf16_bf16,
             .bf16_f32 = bf16_f32,
             .f16_f32 = f16_f32,
             .f32_f32 = f32_f32,
             SY_PACK_KERNELS},
    .vec = SY_VECTOR_KERNELS,
    .probe = {.read = read_block, .peak_bf16 = peak_f32, .peak_f32 = peak_f32},
};
