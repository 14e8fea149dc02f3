/* Row kernels in float32, written once in plain C and compiled once per instruction set: an
 * isa_<name>.c includes this file and takes the table from SY_VECTOR_KERNELS.
 *
 * Every table gives the same bits, because nothing here depends on the width of a vector: the
 * elements of a row are independent of each other, a sum over a row is 64 strided partial sums
 * joined by halving, a fused multiply-add stands only where __builtin_fmaf is written (the
 * build says -ffp-contract=off), and no function of libm is called. */
#ifndef SY_KERNELS_CPU_VECTOR_BODY_H
#define SY_KERNELS_CPU_VECTOR_BODY_H

#include <stdint.h>

#include "base/dtype.h"
#include "kernels/cpu/exact_math.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/values_body.h"

enum { VEC_PARTIALS = 64 };

/* partial[j] += partial[j + half] for halves that are constants where this is inlined. */
static inline void vec_fold_sum(float *partial, int half) {
    for (int j = 0; j < half; j++)
        partial[j] = partial[j] + partial[half + j];
}

static inline float vec_sum_partials(float *partial) {
    vec_fold_sum(partial, 32);
    vec_fold_sum(partial, 16);
    vec_fold_sum(partial, 8);
    vec_fold_sum(partial, 4);
    vec_fold_sum(partial, 2);
    return partial[0] + partial[1];
}

static inline void vec_fold_max(float *partial, int half) {
    for (int j = 0; j < half; j++)
        partial[j] = partial[half + j] > partial[j] ? partial[half + j] : partial[j];
}

/* 1 / sqrt(mean(x^2) + eps); the mean of an empty row is 0. */
static inline float vec_inverse_rms(int64_t n, const float *x, float eps) {
    float partial[VEC_PARTIALS] = {0};
    int64_t i = 0;
    for (; i + VEC_PARTIALS <= n; i += VEC_PARTIALS)
        for (int j = 0; j < VEC_PARTIALS; j++)
            partial[j] += x[i + j] * x[i + j];
    for (int j = 0; j < (int)(n - i); j++)
        partial[j] += x[i + j] * x[i + j];
    float mean = n > 0 ? vec_sum_partials(partial) / (float)n : 0.0f;
    return 1.0f / __builtin_sqrtf(mean + eps);
}

static void vec_rms_norm(int64_t n,
                         const float *x,
                         const float *w,
                         float eps,
                         uint16_t *out16,
                         float *outf) {
    float inverse = vec_inverse_rms(n, x, eps);
    if (out16 != NULL)
        for (int64_t i = 0; i < n; i++)
            out16[i] = sy_bf16_round(x[i] * inverse * w[i]);
    else
        for (int64_t i = 0; i < n; i++)
            outf[i] = x[i] * inverse * w[i];
}

static void vec_rms_norm_f32(int64_t n, float *x, const float *w, float eps) {
    float inverse = vec_inverse_rms(n, x, eps);
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] * inverse * w[i];
}

static inline float vec_silu(float g) {
    return g / (1.0f + sy_exp_f32(-g));
}

static void
vec_silu_mul(int64_t n, const float *g, const float *u, uint16_t *out16, float *outf) {
    if (out16 != NULL)
        for (int64_t i = 0; i < n; i++)
            out16[i] = sy_bf16_round(vec_silu(g[i]) * u[i]);
    else
        for (int64_t i = 0; i < n; i++)
            outf[i] = vec_silu(g[i]) * u[i];
}

/* g = min(g, limit), u = clamp(u, -limit, limit), then (g * sigmoid(alpha * g)) * (u + 1). The
 * limits are comparisons, which are false for a NaN, so on every instruction set a NaN stays a
 * NaN (the minimum instructions of x86 and ARM differ there). A g of -inf gives NaN, as -inf * 0
 * does and as in silu. */
static inline float vec_clamped_value(float g, float u, float alpha, float limit) {
    float gate = g > limit ? limit : g;
    float up = u < -limit ? -limit : u;
    up = up > limit ? limit : up;
    return gate / (1.0f + sy_exp_f32(-alpha * gate)) * (up + 1.0f);
}

static void vec_swiglu_clamped(int64_t n,
                               const float *g,
                               const float *u,
                               float alpha,
                               float limit,
                               uint16_t *out16,
                               float *outf) {
    if (out16 != NULL)
        for (int64_t i = 0; i < n; i++)
            out16[i] = sy_bf16_round(vec_clamped_value(g[i], u[i], alpha, limit));
    else
        for (int64_t i = 0; i < n; i++)
            outf[i] = vec_clamped_value(g[i], u[i], alpha, limit);
}

/* Below -88 exp(-x) is infinite and the result 0. A NaN stays a NaN. */
static void vec_sigmoid(int64_t n, float *x) {
    for (int64_t i = 0; i < n; i++)
        x[i] = 1.0f / (1.0f + sy_exp_f32(-x[i]));
}

static void vec_rope_half(int half, const float *cos, const float *sin, float *x) {
    float *restrict low = x;
    float *restrict high = x + half;
    for (int i = 0; i < half; i++) {
        float a = low[i], b = high[i];
        low[i] = a * cos[i] - b * sin[i];
        high[i] = b * cos[i] + a * sin[i];
    }
}

static void vec_rope_interleaved(int half, const float *cos, const float *sin, float *x) {
    for (int i = 0; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos[i] - b * sin[i];
        x[2 * i + 1] = b * cos[i] + a * sin[i];
    }
}

static void vec_round_bf16(int64_t n, const float *x, uint16_t *out) {
    for (int64_t i = 0; i < n; i++)
        out[i] = sy_bf16_round(x[i]);
}

static void vec_widen_bf16(int64_t n, const uint16_t *x, float *out) {
    for (int64_t i = 0; i < n; i++)
        out[i] = sy_f32_from_bf16(x[i]);
}

static void vec_add(int64_t n, const float *a, float *x) {
    for (int64_t i = 0; i < n; i++)
        x[i] += a[i];
}

static void vec_scale(int64_t n, float s, const float *a, float *out) {
    for (int64_t i = 0; i < n; i++)
        out[i] = s * a[i];
}

/* A NaN stays a NaN. */
static void vec_clamp(int64_t n, float limit, float *x) {
    for (int64_t i = 0; i < n; i++) {
        float v = x[i] < -limit ? -limit : x[i];
        x[i] = v > limit ? limit : v;
    }
}

static inline float vec_softmax_term(float x, float max) {
    float e = sy_exp_f32(x - max);
    return x == -__builtin_inff() ? 0.0f : e;
}

static float vec_exp_sum(int64_t n, float *x, float max) {
    float partial[VEC_PARTIALS] = {0};
    int64_t i = 0;
    for (; i + VEC_PARTIALS <= n; i += VEC_PARTIALS) {
        float *block = x + i;
        for (int j = 0; j < VEC_PARTIALS; j++)
            block[j] = vec_softmax_term(block[j], max);
        for (int j = 0; j < VEC_PARTIALS; j++)
            partial[j] += block[j];
    }
    for (int j = 0; j < (int)(n - i); j++) {
        x[i + j] = vec_softmax_term(x[i + j], max);
        partial[j] += x[i + j];
    }
    return vec_sum_partials(partial);
}

/* A comparison with NaN is false, so a NaN never replaces a partial maximum. */
static float vec_max(int64_t n, const float *x) {
    float partial[VEC_PARTIALS];
    for (int j = 0; j < VEC_PARTIALS; j++)
        partial[j] = -__builtin_inff();
    int64_t i = 0;
    for (; i + VEC_PARTIALS <= n; i += VEC_PARTIALS)
        for (int j = 0; j < VEC_PARTIALS; j++)
            partial[j] = x[i + j] > partial[j] ? x[i + j] : partial[j];
    for (int j = 0; j < (int)(n - i); j++)
        partial[j] = x[i + j] > partial[j] ? x[i + j] : partial[j];
    vec_fold_max(partial, 32);
    vec_fold_max(partial, 16);
    vec_fold_max(partial, 8);
    vec_fold_max(partial, 4);
    vec_fold_max(partial, 2);
    vec_fold_max(partial, 1);
    return partial[0];
}

/* The initialiser of a sy_vector_kernels. */
#define SY_VECTOR_KERNELS                                                                      \
    {                                                                                          \
        .rms_norm = vec_rms_norm, .rms_norm_f32 = vec_rms_norm_f32, .silu_mul = vec_silu_mul,  \
        .swiglu_clamped = vec_swiglu_clamped, .sigmoid = vec_sigmoid,                          \
        .rope_half = vec_rope_half, .rope_interleaved = vec_rope_interleaved,                  \
        .values_of_keys_bf16 = vec_values_of_keys_bf16,                                        \
        .values_of_keys_f32 = vec_values_of_keys_f32, .round_bf16 = vec_round_bf16,            \
        .widen_bf16 = vec_widen_bf16, .add = vec_add, .scale = vec_scale, .clamp = vec_clamp,  \
        .exp_sum = vec_exp_sum, .max = vec_max                                                 \
    }

#endif
