/* Quantised weights from the order of files to panels (quant.h). */
#include <string.h>

#include "kernels/cpu/quant.h"
#include "kernels/weight_source.h"

float sy_quant_scale(sy_dtype dtype, const void *scales, int64_t i) {
    const char *p = scales;
    float f;
    uint16_t h;
    switch (dtype) {
    case SY_F8_E8M0:
        return sy_f32_from_e8m0((uint8_t)p[i]);
    case SY_F8_E4M3:
        return sy_f32_from_e4m3((uint8_t)p[i]);
    case SY_F32:
        memcpy(&f, p + 4 * i, sizeof f);
        return f;
    default:
        memcpy(&h, p + 2 * i, sizeof h);
        return dtype == SY_BF16 ? sy_f32_from_bf16(h) : sy_f32_from_f16(h);
    }
}

/* Rows [row0, row0 + n_rows) of a part on their way into its panel `panel`. */
typedef struct packing {
    const sy_matrix *m;
    const sy_weight_source *src;
    sy_quant_layout layout;
    int64_t groups; /* scales in a row of the source's */
    int part;
    int64_t row0;   /* output of the source's first row */
    int64_t first;  /* row of the source that the panel begins with */
    int64_t n_rows; /* that the source has for the panel, at most 64 */
    int64_t panel;  /* stored */
} packing;

static sy_quant_group group_of(const packing *p, int64_t group) {
    return sy_quant_group_at(p->m, &p->layout, p->panel, group);
}

/* The row of the source's scales for a row of the panel. */
static int64_t scale_row(const packing *p, int64_t row) {
    int64_t outputs = p->m->quant.outputs, at = p->first + row;
    if (outputs == 0) return 0;
    return outputs == 1 ? at : (p->row0 + at) / outputs - p->row0 / outputs;
}

static void pack_scales(const packing *p) {
    sy_dtype t = p->m->quant.scale;
    size_t bytes = (size_t)sy_dtype_bits(t) / 8;
    int64_t n = p->m->quant.outputs == 1 ? p->n_rows : sy_min(p->n_rows, 1);
    for (int64_t g = 0; g < p->groups; g++)
        memset(group_of(p, g).scales, 0, (size_t)p->layout.scales_bytes);
    for (int64_t r = 0; r < n; r++) {
        const uint8_t *from =
            (const uint8_t *)p->src->scales + scale_row(p, r) * p->groups * (int64_t)bytes;
        for (int64_t g = 0; g < p->groups; g++, from += bytes)
            memcpy((char *)group_of(p, g).scales + (size_t)r * bytes, from, bytes);
    }
}

enum { MIDDLE = 8 }; /* the zero point of 4-bit integers without one */

static void pack_zeros(const packing *p) {
    for (int64_t g = 0; g < p->groups; g++)
        memset(group_of(p, g).zeros, MIDDLE, SY_PANEL);
    for (int64_t r = 0; r < p->n_rows; r++) {
        const uint8_t *from = p->src->zeros + (p->first + r) * p->groups;
        for (int64_t g = 0; g < p->groups; g++)
            group_of(p, g).zeros[r] = from[g];
    }
}

/* Words of 32 bits that are turned at once: a cache line of each row. */
enum { TURN_WORDS = 16 };
typedef uint32_t turned_words[TURN_WORDS][SY_PANEL];

/* Bytes [at, at + n) of the panel's rows as columns of words, n <= 64; zero where none are. */
static void
turn_words(const packing *p, int64_t row_bytes, int64_t at, int64_t n, turned_words out) {
    const char *from = (const char *)p->src->codes + p->first * row_bytes + at;
    for (int64_t r = 0; r < SY_PANEL; r++, from += row_bytes) {
        uint32_t line[TURN_WORDS] = {0};
        if (r < p->n_rows && n == (int64_t)sizeof line) {
            memcpy(line, from, sizeof line);
            /* 64 rows are more streams than the hardware follows. */
            __builtin_prefetch((const void *)((uintptr_t)from + 2 * sizeof line));
        } else if (r < p->n_rows) {
            memcpy(line, from, (size_t)n);
        }
        for (int i = 0; i < TURN_WORDS; i++)
            out[i][r] = line[i];
    }
}

/* The lower or upper halves of the words of 64 outputs, a pair of K each, in the order of quant.h:
 * four outputs that stay together are 8 bytes. */
static void store_8bit_pair(const uint32_t words[SY_PANEL], int shift, uint8_t *out) {
    for (int quad = 0; quad < SY_PANEL / 4; quad++) {
        int block = quad / 8, half = quad / 4 % 2, lane = quad % 4;
        uint16_t pair[4];
        for (int j = 0; j < 4; j++)
            pair[j] = (uint16_t)(words[4 * quad + j] >> shift);
        memcpy(out + block * 64 + lane * 16 + half * 8, pair, sizeof pair);
    }
}

static void pack_8bit(const packing *p) {
    turned_words words;
    int64_t k = p->m->k;
    for (int64_t begin = 0; begin < k; begin += 4 * TURN_WORDS) {
        int64_t n = sy_min(k - begin, 4 * TURN_WORDS);
        turn_words(p, k, begin, n, words);
        for (int64_t i = 0; i < n; i += 2) {
            int64_t g = (begin + i) / p->layout.group;
            uint8_t *to = group_of(p, g).codes + (begin + i - g * p->layout.group) * SY_PANEL;
            store_8bit_pair(words[i / 4], i % 4 == 0 ? 0 : 16, to);
        }
    }
}

/* 4-bit fields 0, 2, 4, 6 of a word, side by side. */
static uint32_t even_fields(uint32_t w) {
    w &= 0x0f0f0f0fu;
    w = (w | w >> 4) & 0x00ff00ffu;
    return (w | w >> 8) & 0xffffu;
}

/* In words of eight codes: from element `there` < 8 on, the code of 0. */
static void
pad_eights(const packing *p, uint32_t words[SY_PANEL], int64_t there, const uint8_t *zeros) {
    uint32_t kept = ((uint32_t)1 << 4 * there) - 1;
    for (int64_t r = 0; r < SY_PANEL; r++) {
        uint32_t nothing = p->m->dtype == SY_F4 ? 0 : zeros != NULL ? zeros[r] : MIDDLE;
        words[r] = (words[r] & kept) | (nothing * 0x11111111u & ~kept);
    }
}

static void store_eights(const uint32_t words[SY_PANEL], uint8_t *out) {
    uint32_t stored[SY_PANEL];
    for (int64_t r = 0; r < SY_PANEL; r++)
        stored[r] = even_fields(words[r]) | even_fields(words[r] >> 4) << 16;
    memcpy(out, stored, sizeof stored);
}

static void pack_4bit(const packing *p) {
    turned_words words;
    int64_t k = p->m->k, data_bytes = sy_ceil_div(k, 2);
    int64_t row_bytes = p->m->dtype == SY_U4 ? sy_ceil_div(k, 8) * 4 : data_bytes;
    for (int64_t begin = 0; begin < k; begin += 8 * TURN_WORDS) {
        turn_words(p, row_bytes, begin / 2, sy_min(data_bytes - begin / 2, 4 * TURN_WORDS),
                   words);
        for (int64_t i = 0; i < TURN_WORDS && begin + 8 * i < k; i++) {
            int64_t at = begin + 8 * i, number = at / p->layout.group;
            sy_quant_group g = group_of(p, number);
            if (k - at < 8) pad_eights(p, words[i], k - at, g.zeros);
            store_eights(words[i], g.codes + (at - number * p->layout.group) * SY_PANEL / 2);
        }
    }
}

static void pack_panel(const packing *p) {
    pack_scales(p);
    if (p->m->quant.zeros) pack_zeros(p);
    if (sy_quant_is_8bit(p->m->dtype))
        pack_8bit(p);
    else
        pack_4bit(p);
}

sy_status sy_quant_pack(const sy_matrix *m,
                        int part,
                        int64_t row0,
                        int64_t n_rows,
                        const sy_weight_source *src) {
    sy_status st = SY_OK;
    packing p = {.m = m,
                 .src = src,
                 .layout = sy_quant_layout_of(m),
                 .groups = m->quant.group > 0 ? sy_ceil_div(m->k, m->quant.group) : 1,
                 .part = part,
                 .row0 = row0};
    SY_TRY(sy_check_quantised(m, part, row0, n_rows, src));
    if (m->k == 0) return SY_OK;
    for (; p.first < n_rows; p.first += SY_PANEL) {
        p.n_rows = sy_min(n_rows - p.first, SY_PANEL);
        p.panel = (row0 + p.first) / SY_PANEL * m->parts + part;
        pack_panel(&p);
    }
done:
    return st;
}
