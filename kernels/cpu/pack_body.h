/* Row-major weights to panels. A pair of 2-byte weights and a 4-byte weight are both one 32-bit
 * word, so one routine moves all formats: rows of words become columns of a [words][64] panel.
 *
 * The including file may define pack_block (with PACK_WORDS): that many words of 16 rows, with
 * streaming stores, and pack_fence. Sources have any alignment. */
#include <string.h>

#include "base/checked.h"
#include "base/dtype.h"

static inline uint32_t load_word(const char *src) {
    uint32_t word;
    memcpy(&word, src, sizeof word);
    return word;
}

/* Words [begin, end) of the rows [row0, row0 + 16); rows from n_rows on are zero. */
static void pack_words_plain(int64_t row0,
                             int64_t n_rows,
                             int64_t begin,
                             int64_t end,
                             const char *src,
                             int64_t stride,
                             uint32_t *panel) {
    for (int64_t i = begin; i < end; i++)
        for (int64_t r = row0; r < row0 + 16; r++)
            panel[i * SY_PANEL + r] = r < n_rows ? load_word(src + r * stride + 4 * i) : 0;
}

static void
pack_words(int64_t n_rows, int64_t n_words, const char *src, int64_t stride, uint32_t *panel) {
    for (int64_t row0 = 0; row0 < SY_PANEL; row0 += 16) {
        int64_t done = 0;
#ifdef PACK_WORDS
        if (row0 + 16 <= n_rows)
            for (; done + PACK_WORDS <= n_words; done += PACK_WORDS)
                pack_block(src + row0 * stride + 4 * done, stride,
                           panel + done * SY_PANEL + row0);
#endif
        pack_words_plain(row0, n_rows, done, n_words, src, stride, panel);
    }
#ifdef PACK_WORDS
    pack_fence();
#endif
}

static void
pack16(int64_t n_rows, int64_t k, const void *src, int64_t src_stride, uint16_t *panel) {
    const char *rows = src;
    pack_words(n_rows, k / 2, rows, src_stride, (uint32_t *)(void *)panel);
    if (k % 2 == 0) return;
    uint16_t *last = panel + k / 2 * 2 * SY_PANEL;
    memset(last, 0, 2 * SY_PANEL * sizeof *last);
    for (int64_t r = 0; r < n_rows; r++)
        memcpy(last + 2 * r, rows + r * src_stride + 2 * (k - 1), sizeof *last);
}

static void
pack_f32(int64_t n_rows, int64_t k, const void *src, int64_t src_stride, float *panel) {
    pack_words(n_rows, k, src, src_stride, (uint32_t *)(void *)panel);
}

/* sy_bf16_from_f32 without branches, so that the loop below becomes vector code. */
static inline uint16_t round_bits(uint32_t u) {
    uint32_t magnitude = u & 0x7fffffffu;
    uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    uint32_t nan = (u >> 16) | 0x40u;
    uint32_t zero = (u >> 16) & 0x8000u;
    uint32_t value = magnitude < 0x00800000u ? zero : rounded;
    return (uint16_t)(magnitude > 0x7f800000u ? nan : value);
}

static void pack_f32_to_bf16(int64_t n_rows,
                             int64_t k,
                             const void *src,
                             int64_t src_stride,
                             uint16_t *panel) {
    enum { PIECE = 256 };
    _Alignas(64) uint16_t rounded[SY_PANEL * PIECE];
    const char *rows = src;
    for (int64_t k0 = 0; k0 < k; k0 += PIECE) {
        int64_t n = sy_min(k - k0, PIECE);
        for (int64_t r = 0; r < n_rows; r++) {
            const char *row = rows + r * src_stride + 4 * k0;
            for (int64_t i = 0; i < n; i++)
                rounded[r * PIECE + i] = round_bits(load_word(row + 4 * i));
        }
        pack16(n_rows, n, rounded, PIECE * (int64_t)sizeof *rounded, panel + k0 * SY_PANEL);
    }
}

#define SY_PACK_KERNELS                                                                        \
    .pack16 = pack16, .pack_f32_to_bf16 = pack_f32_to_bf16, .pack_f32 = pack_f32
