/* What is compiled once per instruction set: tables of inner kernels.
 *
 * kernels/cpu/isa_<name>.c sets the macros of its instruction set and includes the bodies
 * (gemm_*.h, pack_body.h, quant_*.h, vector_body.h); it exports one sy_cpu_isa. Everything around
 * these kernels is ordinary C compiled once. All tables give the same bits (kernels/ops.h, the order of sums):
 * gemm by construction, vector because its loops have a fixed order, use fused multiply-add only
 * where written (__builtin_fmaf) and call no libm function. */
#ifndef SY_KERNELS_CPU_ISA_H
#define SY_KERNELS_CPU_ISA_H

#include <stdbool.h>
#include <stdint.h>

#include "base/dtype.h"

enum { SY_PANEL = 64 }; /* outputs of a panel */

/* y[m][0..64) = (first ? 0 : y[m]) then one chain over K, for rows m of x; any number of rows.
 * Panels of 2-byte weights are [K/2][64][2] (k_pairs pairs), of 4-byte weights [K][64], 64-byte
 * aligned. ldx, ldy in elements. x of n pairs reads exactly 2 n elements of each row. */
typedef struct sy_gemm_kernels {
    void (*bf16_bf16)(int64_t rows,
                      const uint16_t *panel,
                      const uint16_t *x,
                      int64_t ldx,
                      int64_t k_pairs,
                      float *y,
                      int64_t ldy,
                      bool first);
    /* The same, and meanwhile brings the k_pairs * 256 bytes at `next` near: what will be read
     * after this, or NULL. NULL in tables that are too slow to gain from it. */
    void (*bf16_bf16_next)(int64_t rows,
                           const uint16_t *panel,
                           const uint16_t *x,
                           int64_t ldx,
                           int64_t k_pairs,
                           float *y,
                           int64_t ldy,
                           bool first,
                           const void *next);
    void (*bf16_f32)(int64_t rows,
                     const uint16_t *panel,
                     const float *x,
                     int64_t ldx,
                     int64_t k_pairs,
                     float *y,
                     int64_t ldy,
                     bool first);
    void (*f16_f32)(int64_t rows,
                    const uint16_t *panel,
                    const float *x,
                    int64_t ldx,
                    int64_t k_pairs,
                    float *y,
                    int64_t ldy,
                    bool first);
    void (*f32_f32)(int64_t rows,
                    const float *panel,
                    const float *x,
                    int64_t ldx,
                    int64_t k,
                    float *y,
                    int64_t ldy,
                    bool first);
    /* One panel from 64 (n_rows <= 64, the rest zero) row-major rows of k elements, row stride
     * src_stride bytes, any alignment. 16-bit codes are moved as they are; f32_to_bf16 rounds. */
    void (*pack16)(int64_t n_rows,
                   int64_t k,
                   const void *src,
                   int64_t src_stride,
                   uint16_t *panel);
    void (*pack_f32_to_bf16)(int64_t n_rows,
                             int64_t k,
                             const void *src,
                             int64_t src_stride,
                             uint16_t *panel);
    void (*pack_f32)(int64_t n_rows,
                     int64_t k,
                     const void *src,
                     int64_t src_stride,
                     float *panel);
} sy_gemm_kernels;

/* Scales of one scale group after the other: 64 each, or one. */
typedef struct sy_scale_run {
    sy_dtype dtype;
    bool each;         /* one for each output */
    const uint8_t *at; /* of the first group; NULL: they stand behind each group's codes */
    int64_t step;      /* bytes from group to group, if `at` is given */
} sy_scale_run;

/* Codes of a quantised panel over some K. */
typedef struct sy_quant_run {
    sy_dtype codes_dtype;
    const uint8_t *codes;
    int64_t k, group;    /* elements in whole units; the last group may be shorter */
    int64_t group_bytes; /* from group to group */
    sy_scale_run scales;
    bool has_zeros;
    const uint8_t
        *zeros; /* of the only group; NULL: zeros_behind bytes behind each group's codes */
    int64_t zeros_behind;
} sy_quant_run;

/* Quantised panels; their layout is in kernels/cpu/quant.h. */
typedef struct sy_quant_kernels {
    /* Codes of whole pairs or eights of K as a panel of BF16. zeros [64], or NULL: all 8. */
    void (*unpack_e4m3)(int64_t k_pairs, const uint8_t *codes, uint16_t *panel);
    void (*unpack_i8)(int64_t k_pairs, const uint8_t *codes, uint16_t *panel);
    void (*unpack_e2m1)(int64_t octets, const uint16_t *codes, uint16_t *panel);
    void (*unpack_u4)(int64_t octets,
                      const uint16_t *codes,
                      const uint8_t *zeros,
                      uint16_t *panel);
    /* Finite scales of a panel's group, in any type of sy_quant.scale, as 64 float32. */
    void (*widen_scales)(sy_dtype dtype, bool each, const void *scales, float *out);
    /* y[m] = fma(sum[m], scale, first ? 0 : y[m]) for m < rows, 64 values each, lds and ldy apart;
     * sum may be y. */
    void (*add_scaled)(int64_t rows,
                       const float *sum,
                       int64_t lds,
                       const float *scale,
                       float *y,
                       int64_t ldy,
                       bool first);
    /* For each group of group_pairs pairs, the last may be shorter: a chain from 0 as bf16_bf16 or
     * bf16_f32 does it, then add_scaled with the group's row of scales [.][64]. k_pairs > 0. */
    void (*groups_bf16)(int64_t rows,
                        const uint16_t *panel,
                        const uint16_t *x,
                        int64_t ldx,
                        int64_t k_pairs,
                        int64_t group_pairs,
                        const float *scales,
                        float *y,
                        int64_t ldy,
                        bool first);
    void (*groups_f32)(int64_t rows,
                       const uint16_t *panel,
                       const float *x,
                       int64_t ldx,
                       int64_t k_pairs,
                       int64_t group_pairs,
                       const float *scales,
                       float *y,
                       int64_t ldy,
                       bool first);
    /* groups_bf16 straight from the codes; NULL where unpacking first is as good. So it is for
     * codes of 8 bits beyond a number of rows. */
    int64_t direct_rows_8bit;
    void (*direct_bf16)(int64_t rows,
                        const sy_quant_run *run,
                        const uint16_t *x,
                        int64_t ldx,
                        float *y,
                        int64_t ldy,
                        bool first);
} sy_quant_kernels;

/* Row kernels in float32. `out16` / `outf`: exactly one is not NULL, the act type of the run. */
typedef struct sy_vector_kernels {
    /* out = x * (1 / sqrt(mean(x^2) + eps)) * w, rounded once; sum in 64 strided partials */
    void (*rms_norm)(int64_t n,
                     const float *x,
                     const float *w,
                     float eps,
                     uint16_t *out16,
                     float *outf);
    /* in place, float32: x * rsqrt * w */
    void (*rms_norm_f32)(int64_t n, float *x, const float *w, float eps);
    /* out = silu(g) * u, silu(g) = g / (1 + exp(-g)) */
    void (*silu_mul)(int64_t n, const float *g, const float *u, uint16_t *out16, float *outf);
    /* out = g * sigmoid(alpha * g) * (u + 1), with g cut at limit and u at both limits first */
    void (*swiglu_clamped)(int64_t n,
                           const float *g,
                           const float *u,
                           float alpha,
                           float limit,
                           uint16_t *out16,
                           float *outf);
    void (*sigmoid)(int64_t n, float *x); /* in place: 1 / (1 + exp(-x)) */
    /* HALF layout, in place on float32: pairs (i, i + half) for i < half */
    void (*rope_half)(int half, const float *cos, const float *sin, float *x);
    /* INTERLEAVED layout: pairs (2i, 2i + 1) */
    void (*rope_interleaved)(int half, const float *cos, const float *sin, float *x);
    /* Panels of values from a page's keys whose beginning the values are (kernels/cpu/kv_page.h):
     * [n_pairs][64 tokens][2] to [.][32 token pairs][64 columns][2], and [n][64 tokens] to
     * [.][64 tokens][64 columns]. Columns behind the last of the last panel are not written. */
    void (*values_of_keys_bf16)(int64_t n_pairs, const uint16_t *keys, uint16_t *values);
    void (*values_of_keys_f32)(int64_t n, const float *keys, float *values);
    void (*round_bf16)(int64_t n, const float *x, uint16_t *out);
    void (*widen_bf16)(int64_t n, const uint16_t *x, float *out);
    void (*add)(int64_t n, const float *a, float *x);              /* x += a */
    void (*scale)(int64_t n, float s, const float *a, float *out); /* out = s * a */
    void (*clamp)(int64_t n, float limit, float *x);
    /* p[i] = exp(x[i] - max), returns their sum in 64 strided partials; x == -inf gives 0 */
    float (*exp_sum)(int64_t n, float *x, float max);
    float (*max)(int64_t n, const float *x); /* -inf if n == 0; NaN counts as -inf */
} sy_vector_kernels;

/* Loops that find this machine's bounds, for printing shares of them (kernels/probe.h). */
typedef struct sy_probe_kernels {
    /* Reads the block front to back; the value only keeps the loads alive. */
    uint64_t (*read)(const void *block, int64_t bytes);
    /* `rounds` times a fixed number of independent multiply-adds on registers, with the
     * instruction of bf16_bf16 or of f32_f32. Returns the multiply-adds done. */
    int64_t (*peak_bf16)(int64_t rounds, float *sink);
    int64_t (*peak_f32)(int64_t rounds, float *sink);
} sy_probe_kernels;

typedef struct sy_cpu_isa {
    const char *name;
    sy_gemm_kernels gemm;
    sy_quant_kernels quant;
    sy_vector_kernels vec;
    sy_probe_kernels probe;
} sy_cpu_isa;

extern const sy_cpu_isa sy_isa_generic;
#if defined(__x86_64__)
extern const sy_cpu_isa sy_isa_avx2, sy_isa_avx512, sy_isa_avx512bf16;
#elif defined(__aarch64__)
extern const sy_cpu_isa sy_isa_neon;
#endif

/* NULL or "auto": the best this CPU runs. An unknown name or one that the CPU lacks: NULL, with
 * the error text set. */
const sy_cpu_isa *sy_cpu_isa_find(const char *name);

/* Whether bf16_bf16 of a table gives the bits of the order in kernels/ops.h on a fixed set of
 * cases that tell it from its neighbours: even element first, the pair summed before it is added,
 * denormals kept on input or output. vdpbf16ps is specified loosely enough to differ by vendor. */
bool sy_cpu_order_holds(const sy_gemm_kernels *kernels);

#endif
