/* bf16_bf16 for an instruction set without BF16 products: x is widened a piece of K at a time,
 * then bf16_f32. The pieces of a chain continue one another, so the order is the same. */
enum { WIDEN_PAIRS = 256 };

static void bf16_bf16(int64_t rows,
                      const uint16_t *panel,
                      const uint16_t *x,
                      int64_t ldx,
                      int64_t k_pairs,
                      float *y,
                      int64_t ldy,
                      bool first) {
    _Alignas(64) float wide[FMA_ROWS * 2 * WIDEN_PAIRS];
    for (int64_t m = 0, height; m < rows; m += height) {
        height = tile_height(rows - m, FMA_ROWS);
        /* At least one round, so that an empty product is zero. */
        int64_t p = 0;
        do {
            int64_t n = sy_min(k_pairs - p, WIDEN_PAIRS);
            for (int64_t i = 0; i < height; i++)
                for (int64_t k = 0; k < 2 * n; k++)
                    wide[i * 2 * WIDEN_PAIRS + k] =
                        sy_f32_from_bf16(x[(m + i) * ldx + 2 * p + k]);
            bf16_tiles[height - 1](panel + p * 2 * SY_PANEL, wide, 2 * WIDEN_PAIRS, n,
                                   y + m * ldy, ldy, first && p == 0);
            p += n;
        } while (p < k_pairs);
    }
}
