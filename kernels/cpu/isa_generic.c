/* The reference: plain C for any CPU, written for clarity. Every other table is compared with it. */
#include <math.h>
#include <stddef.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/pack_body.h"
#include "kernels/cpu/vector_body.h"

/* One step of 64 chains: acc[o] += w[o] * x, rounded once. */
static void multiply_add(const float *w, float x, float *acc) {
    for (int o = 0; o < SY_PANEL; o++)
        acc[o] = __builtin_fmaf(w[o], x, acc[o]);
}

static void start(float *acc, const float *y, bool first) {
    for (int o = 0; o < SY_PANEL; o++)
        acc[o] = first ? 0.0f : y[o];
}

typedef float (*widen_fn)(uint16_t code);

/* Pair by pair, the odd element first. */
static void
chain16(widen_fn widen, const uint16_t *panel, const float *x, int64_t k_pairs, float *acc) {
    float odd[SY_PANEL], even[SY_PANEL];
    for (int64_t p = 0; p < k_pairs; p++, panel += 2 * SY_PANEL) {
        for (int o = 0; o < SY_PANEL; o++) {
            even[o] = widen(panel[2 * o]);
            odd[o] = widen(panel[2 * o + 1]);
        }
        multiply_add(odd, x[2 * p + 1], acc);
        multiply_add(even, x[2 * p], acc);
    }
}

static float from_bf16(uint16_t code) {
    return sy_f32_from_bf16(code);
}

static void bf16_bf16(int64_t rows,
                      const uint16_t *panel,
                      const uint16_t *x,
                      int64_t ldx,
                      int64_t k_pairs,
                      float *y,
                      int64_t ldy,
                      bool first) {
    for (int64_t m = 0; m < rows; m++) {
        float acc[SY_PANEL];
        start(acc, y + m * ldy, first);
        for (int64_t p = 0; p < k_pairs; p++) {
            float pair[2] = {sy_f32_from_bf16(x[m * ldx + 2 * p]),
                             sy_f32_from_bf16(x[m * ldx + 2 * p + 1])};
            chain16(from_bf16, panel + p * 2 * SY_PANEL, pair, 1, acc);
        }
        memcpy(y + m * ldy, acc, sizeof acc);
    }
}

static void bf16_f32(int64_t rows,
                     const uint16_t *panel,
                     const float *x,
                     int64_t ldx,
                     int64_t k_pairs,
                     float *y,
                     int64_t ldy,
                     bool first) {
    for (int64_t m = 0; m < rows; m++) {
        float acc[SY_PANEL];
        start(acc, y + m * ldy, first);
        chain16(from_bf16, panel, x + m * ldx, k_pairs, acc);
        memcpy(y + m * ldy, acc, sizeof acc);
    }
}

static void f16_f32(int64_t rows,
                    const uint16_t *panel,
                    const float *x,
                    int64_t ldx,
                    int64_t k_pairs,
                    float *y,
                    int64_t ldy,
                    bool first) {
    for (int64_t m = 0; m < rows; m++) {
        float acc[SY_PANEL];
        start(acc, y + m * ldy, first);
        chain16(sy_f32_from_f16, panel, x + m * ldx, k_pairs, acc);
        memcpy(y + m * ldy, acc, sizeof acc);
    }
}

static void f32_f32(int64_t rows,
                    const float *panel,
                    const float *x,
                    int64_t ldx,
                    int64_t k,
                    float *y,
                    int64_t ldy,
                    bool first) {
    for (int64_t m = 0; m < rows; m++) {
        float acc[SY_PANEL];
        start(acc, y + m * ldy, first);
        for (int64_t i = 0; i < k; i++)
            multiply_add(panel + i * SY_PANEL, x[m * ldx + i], acc);
        memcpy(y + m * ldy, acc, sizeof acc);
    }
}

#include "kernels/cpu/quant_body.h"

static uint64_t read_block(const void *block, int64_t bytes) {
    const char *p = block;
    uint64_t sum[4] = {0};
    for (int64_t i = 0; i + 32 <= bytes; i += 32) {
        uint64_t word[4];
        memcpy(word, p + i, sizeof word);
        for (int j = 0; j < 4; j++)
            sum[j] += word[j];
    }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

static int64_t peak(int64_t rounds, float *sink) {
    float acc[SY_PANEL] = {0}, w[SY_PANEL];
    for (int o = 0; o < SY_PANEL; o++)
        w[o] = (float)o;
    for (int64_t i = 0; i < rounds; i++)
        multiply_add(w, 0.5f, acc);
    *sink = acc[0] + acc[SY_PANEL - 1];
    return rounds * SY_PANEL;
}

const sy_cpu_isa sy_isa_generic = {
    .name = "generic",
    .gemm = {.bf16_bf16 = bf16_bf16,
             .bf16_f32 = bf16_f32,
             .f16_f32 = f16_f32,
             .f32_f32 = f32_f32,
             SY_PACK_KERNELS},
    .quant = SY_QUANT_KERNELS,
    .vec = SY_VECTOR_KERNELS,
    .probe = {.read = read_block, .peak_bf16 = peak, .peak_f32 = peak},
};
