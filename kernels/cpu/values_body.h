/* Panels of values out of a page's keys, for latent attention; a part of vector_body.h.
 *
 * In BF16 a 64-bit word of the keys holds columns 2i and 2i + 1 of tokens 2t and 2t + 1, and the
 * same four codes are one word of the values with the middle two exchanged. So the panels are a
 * transposition of words, here in blocks of 8 by 8 that the compiler turns into shuffles. */
#ifndef SY_KERNELS_CPU_VALUES_BODY_H
#define SY_KERNELS_CPU_VALUES_BODY_H

#include <stdint.h>
#include <string.h>

#include "kernels/cpu/isa.h"

/* Words of a row of keys and of a row of a value panel: 64 tokens or columns, in pairs. */
enum { VALUE_WORDS = 32, VALUE_BLOCK = 8 };

typedef uint64_t vec_words __attribute__((vector_size(64)));
typedef uint16_t vec_codes __attribute__((vector_size(64)));

static inline void swap_middle_codes(vec_words *w) {
    vec_codes c = (vec_codes)*w;
    c = __builtin_shufflevector(c, c, 0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15, 16,
                                18, 17, 19, 20, 22, 21, 23, 24, 26, 25, 27, 28, 30, 29, 31);
    *w = (vec_words)c;
}

/* Exchanges the upper right and the lower left quarter of each square of twice `distance`. */
#define EXCHANGE(w, distance)                                                                  \
    for (int i = 0; i < VALUE_BLOCK; i++)                                                      \
        if ((i & (distance)) == 0) {                                                           \
            vec_words upper = w[i], lower = w[i + (distance)];                                 \
            w[i] = __builtin_shufflevector(upper, lower, EXCHANGE_LEFT_##distance);            \
            w[i + (distance)] =                                                                \
                __builtin_shufflevector(upper, lower, EXCHANGE_RIGHT_##distance);              \
        }
#define EXCHANGE_LEFT_4 0, 1, 2, 3, 8, 9, 10, 11
#define EXCHANGE_RIGHT_4 4, 5, 6, 7, 12, 13, 14, 15
#define EXCHANGE_LEFT_2 0, 1, 8, 9, 4, 5, 12, 13
#define EXCHANGE_RIGHT_2 2, 3, 10, 11, 6, 7, 14, 15
#define EXCHANGE_LEFT_1 0, 8, 2, 10, 4, 12, 6, 14
#define EXCHANGE_RIGHT_1 1, 9, 3, 11, 5, 13, 7, 15

/* to[j][i] = from[i][j] for 8 by 8 words, rows VALUE_WORDS apart. */
static inline void transpose_block(const char *from, char *to) {
    enum { ROW_BYTES = VALUE_WORDS * 8 };
    vec_words w[VALUE_BLOCK];
    for (int i = 0; i < VALUE_BLOCK; i++) {
        memcpy(&w[i], from + i * ROW_BYTES, sizeof w[i]);
        swap_middle_codes(&w[i]);
    }
    EXCHANGE(w, 4)
    EXCHANGE(w, 2)
    EXCHANGE(w, 1)
    for (int i = 0; i < VALUE_BLOCK; i++)
        memcpy(to + i * ROW_BYTES, &w[i], sizeof w[i]);
}

/* The values of key pair i, for pairs that fill no block. */
static inline void transpose_pair(const uint16_t *keys, uint16_t *values) {
    for (int t = 0; t < SY_PANEL; t++) {
        uint16_t *to = values + t / 2 * (2 * SY_PANEL) + t % 2;
        to[0] = keys[2 * t];
        to[2] = keys[2 * t + 1];
    }
}

static void vec_values_of_keys_bf16(int64_t n_pairs, const uint16_t *keys, uint16_t *values) {
    for (int64_t i = 0; i < n_pairs;) {
        const uint16_t *from = keys + i * (2 * SY_PANEL);
        uint16_t *to = values + i / VALUE_WORDS * (SY_PANEL * SY_PANEL) + i % VALUE_WORDS * 4;
        if (n_pairs - i < VALUE_BLOCK) {
            transpose_pair(from, to);
            i++;
            continue;
        }
        for (int j = 0; j < VALUE_WORDS; j += VALUE_BLOCK)
            transpose_block((const char *)(from + 4 * j), (char *)(to + j * (2 * SY_PANEL)));
        i += VALUE_BLOCK;
    }
}

static void vec_values_of_keys_f32(int64_t n, const float *keys, float *values) {
    for (int64_t i = 0; i < n; i++) {
        float *to = values + i / SY_PANEL * (SY_PANEL * SY_PANEL) + i % SY_PANEL;
        for (int j = 0; j < SY_PANEL; j++)
            to[j * SY_PANEL] = keys[i * SY_PANEL + j];
    }
}

#endif
