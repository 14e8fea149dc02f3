/* bf16_bf16 with vdpbf16ps: of each pair the odd element first, one rounding each, denormals
 * flushed, whatever MXCSR says; that is the order of kernels/ops.h in one instruction.
 *
 * A tile of M rows keeps 4 M accumulators, 4 weight vectors and one pair of x in registers: 29 of
 * 32 at M = 6. Accumulators have names and tiles are never inlined for the reason in gemm_tile.h.
 * A step reads 256 bytes of the panel and 4 of each row, loads ascending. */
enum { DP_ROWS = 6 };

static inline __m512bh dp_weights(const uint16_t *w) {
    return (__m512bh)_mm512_loadu_si512(w);
}

static inline __m512bh dp_pair(const uint16_t *x) {
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
}

#define ROW_START(m)                                                                           \
    const uint16_t *x_##m = x + (m)*ldx;                                                       \
    float *y_##m = y + (m)*ldy;                                                                \
    __m512 a_##m##_0 = first ? _mm512_setzero_ps() : _mm512_loadu_ps(y_##m);                   \
    __m512 a_##m##_1 = first ? _mm512_setzero_ps() : _mm512_loadu_ps(y_##m + 16);              \
    __m512 a_##m##_2 = first ? _mm512_setzero_ps() : _mm512_loadu_ps(y_##m + 32);              \
    __m512 a_##m##_3 = first ? _mm512_setzero_ps() : _mm512_loadu_ps(y_##m + 48);
#define ROW_STEP(m)                                                                            \
    {                                                                                          \
        __m512bh pair = dp_pair(x_##m + 2 * p);                                                \
        a_##m##_0 = _mm512_dpbf16_ps(a_##m##_0, w0, pair);                                     \
        a_##m##_1 = _mm512_dpbf16_ps(a_##m##_1, w1, pair);                                     \
        a_##m##_2 = _mm512_dpbf16_ps(a_##m##_2, w2, pair);                                     \
        a_##m##_3 = _mm512_dpbf16_ps(a_##m##_3, w3, pair);                                     \
    }
#define ROW_FINISH(m)                                                                          \
    _mm512_storeu_ps(y_##m, a_##m##_0);                                                        \
    _mm512_storeu_ps(y_##m + 16, a_##m##_1);                                                   \
    _mm512_storeu_ps(y_##m + 32, a_##m##_2);                                                   \
    _mm512_storeu_ps(y_##m + 48, a_##m##_3);

#define EACH_1(X) X(0)
#define EACH_2(X) EACH_1(X) X(1)
#define EACH_3(X) EACH_2(X) X(2)
#define EACH_4(X) EACH_3(X) X(3)
#define EACH_5(X) EACH_4(X) X(4)
#define EACH_6(X) EACH_5(X) X(5)

/* Tiles that also fetch the piece of a panel that comes next: memory then works while the second
 * and later tiles of this one compute from L1 or L2. `ahead` moves on by `step` bytes a pair. One
 * tile alone reads at the speed of memory, and fetching ahead only slows it down. An address is a
 * number here: behind the last panel it may lie outside the matrix, where fetching does nothing. */
#define NO_FETCH (void)ahead, (void)step;
#define FETCH_ONE _mm_prefetch((const char *)(ahead + (uintptr_t)(p * step)), _MM_HINT_T1);
#define FETCH_TWO                                                                              \
    FETCH_ONE                                                                                  \
    _mm_prefetch((const char *)(ahead + (uintptr_t)(p * step) + 64), _MM_HINT_T1);

#define DP_TILE(rows, suffix, FETCH)                                                           \
    static __attribute__((noinline)) void dp_tile_##rows##suffix(                              \
        const uint16_t *w, const uint16_t *x, int64_t ldx, int64_t k_pairs, float *y,          \
        int64_t ldy, bool first, uintptr_t ahead, int64_t step) {                              \
        EACH_##rows(ROW_START) for (int64_t p = 0; p < k_pairs; p++, w += 2 * SY_PANEL) {      \
            __m512bh w0 = dp_weights(w), w1 = dp_weights(w + 32);                              \
            __m512bh w2 = dp_weights(w + 64), w3 = dp_weights(w + 96);                         \
            FETCH                                                                              \
            EACH_##rows(ROW_STEP)                                                              \
        }                                                                                      \
        EACH_##rows(ROW_FINISH)                                                                \
    }

DP_TILE(1, , NO_FETCH)
DP_TILE(2, , NO_FETCH)
DP_TILE(3, , NO_FETCH)
DP_TILE(4, , NO_FETCH)
DP_TILE(5, , NO_FETCH)
DP_TILE(6, , NO_FETCH)
DP_TILE(4, _fetch_two, FETCH_TWO)
DP_TILE(5, _fetch_two, FETCH_TWO)
DP_TILE(6, _fetch_two, FETCH_TWO)
DP_TILE(4, _fetch_one, FETCH_ONE)
DP_TILE(5, _fetch_one, FETCH_ONE)
DP_TILE(6, _fetch_one, FETCH_ONE)

typedef void (*dp_tile)(const uint16_t *w,
                        const uint16_t *x,
                        int64_t ldx,
                        int64_t k_pairs,
                        float *y,
                        int64_t ldy,
                        bool first,
                        uintptr_t ahead,
                        int64_t step);

/* By lines fetched a pair, then by rows: two tiles or more have at least 3 rows each. */
static const dp_tile dp_tiles[3][DP_ROWS + 1] = {
    {NULL, dp_tile_1, dp_tile_2, dp_tile_3, dp_tile_4, dp_tile_5, dp_tile_6},
    {NULL, NULL, NULL, NULL, dp_tile_4_fetch_one, dp_tile_5_fetch_one, dp_tile_6_fetch_one},
    {NULL, NULL, NULL, NULL, dp_tile_4_fetch_two, dp_tile_5_fetch_two, dp_tile_6_fetch_two},
};

/* Lines to fetch a pair. The whole next piece is spread over all tiles of this one: from four
 * tiles on a line a pair or less, two for three tiles. Two tiles are too short to hide a piece;
 * half of it is fetched (on Zen 5, 12 rows: about 0.65 of read bandwidth instead of 0.60, and no
 * clear difference at 8), where each has at least 4 rows. */
static int lines_ahead(int64_t rows, int64_t n_tiles) {
    if (n_tiles < 2 || rows < 8) return 0;
    return n_tiles == 3 ? 2 : 1;
}

static void bf16_bf16_next(int64_t rows,
                           const uint16_t *panel,
                           const uint16_t *x,
                           int64_t ldx,
                           int64_t k_pairs,
                           float *y,
                           int64_t ldy,
                           bool first,
                           const void *next) {
    int64_t n_tiles = sy_ceil_div(rows, DP_ROWS);
    int lines = next == NULL ? 0 : lines_ahead(rows, n_tiles);
    int64_t step = lines == 0 ? 0 : sy_min(sy_ceil_div(4 * SY_PANEL, n_tiles), lines * 64);
    uintptr_t ahead = (uintptr_t)next;
    for (int64_t m = 0, height; m < rows; m += height, ahead += (uintptr_t)(k_pairs * step)) {
        height = tile_height(rows - m, DP_ROWS);
        dp_tiles[lines][height](panel, x + m * ldx, ldx, k_pairs, y + m * ldy, ldy, first,
                                ahead, step);
    }
}

static void bf16_bf16(int64_t rows,
                      const uint16_t *panel,
                      const uint16_t *x,
                      int64_t ldx,
                      int64_t k_pairs,
                      float *y,
                      int64_t ldy,
                      bool first) {
    bf16_bf16_next(rows, panel, x, ldx, k_pairs, y, ldy, first, NULL);
}

#undef NO_FETCH
#undef FETCH_ONE
#undef FETCH_TWO
#undef ROW_START
#undef ROW_STEP
#undef ROW_FINISH
#undef EACH_1
#undef EACH_2
#undef EACH_3
#undef EACH_4
#undef EACH_5
#undef EACH_6
#undef DP_TILE
