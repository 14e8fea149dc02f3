/* Chains over scale groups with AVX-512: straight from the codes, and over a panel that was
 * unpacked to BF16. The layout is in quant.h. The including file defines pair_step(sums, w, x):
 * sums + w x for the pairs of 16 outputs and a pair of x, the odd element first.
 *
 * A tile of M rows keeps the 4 M sums of the current group in registers and adds them, scaled, to
 * y at the group's end; y stays in L1. As in gemm_tile.h every accumulator has a name and no tile
 * is inlined. Decoding a panel anew for each tile of 5 rows costs no more than storing it unpacked
 * and loading that (vdpbf16ps on Zen 5, 96 rows: 0.88 of peak against 0.84 for MXFP4, 0.93 against
 * 0.90 for FP8). Codes are fetched 8 KiB ahead, into the panels that follow: there is more to do
 * for a byte than the hardware's own fetching expects (1 row of MXFP4: 1.00 of read bandwidth
 * instead of 0.82). */
enum { GROUP_TILE_ROWS = 5, ZEROS_TILE_ROWS = 3, FETCH_AHEAD = 8192 };

/* As a number: the address may lie beyond the matrix, where fetching does nothing. */
#define FETCH(line)                                                                            \
    _mm_prefetch((const char *)((uintptr_t)at + FETCH_AHEAD + 64 * (line)), _MM_HINT_T0)

static inline __m512i pair_of_x(const uint16_t *x) {
    int32_t pair;
    memcpy(&pair, x, sizeof pair);
    return _mm512_set1_epi32(pair);
}

#define ROW_START(m)                                                                           \
    const uint16_t *x_##m = x + (m)*ldx;                                                       \
    float *y_##m = y + (m)*ldy;
#define GROUP_START(m)                                                                         \
    __m512 a_##m##_0 = _mm512_setzero_ps(), a_##m##_1 = a_##m##_0;                             \
    __m512 a_##m##_2 = a_##m##_0, a_##m##_3 = a_##m##_0;
#define ROW_STEP(m)                                                                            \
    {                                                                                          \
        __m512i pair = pair_of_x(x_##m + k);                                                   \
        a_##m##_0 = pair_step(a_##m##_0, w0, pair);                                            \
        a_##m##_1 = pair_step(a_##m##_1, w1, pair);                                            \
        a_##m##_2 = pair_step(a_##m##_2, w2, pair);                                            \
        a_##m##_3 = pair_step(a_##m##_3, w3, pair);                                            \
    }
#define ADD_SCALED(m, v)                                                                       \
    _mm512_storeu_ps(                                                                          \
        y_##m + 16 * v,                                                                        \
        _mm512_fmadd_ps(a_##m##_##v, s##v,                                                     \
                        fresh ? _mm512_setzero_ps() : _mm512_loadu_ps(y_##m + 16 * v)));
#define GROUP_FINISH(m) ADD_SCALED(m, 0) ADD_SCALED(m, 1) ADD_SCALED(m, 2) ADD_SCALED(m, 3)

#define EACH_1(X) X(0)
#define EACH_2(X) EACH_1(X) X(1)
#define EACH_3(X) EACH_2(X) X(2)
#define EACH_4(X) EACH_3(X) X(3)
#define EACH_5(X) EACH_4(X) X(4)

/* K [k, group_end) of a group, by what the panel holds. `at` moves on behind the codes. */
#define BF16_PANEL(rows)                                                                       \
    for (; k < group_end; k += 2, at += 256) {                                                 \
        __m512i w0 = _mm512_loadu_si512(at), w1 = _mm512_loadu_si512(at + 64);                 \
        __m512i w2 = _mm512_loadu_si512(at + 128), w3 = _mm512_loadu_si512(at + 192);          \
        EACH_##rows(ROW_STEP)                                                                  \
    }
#define EIGHT_BIT_CODES(rows, TO_BF16)                                                         \
    for (; k < group_end; k += 2, at += 128) {                                                 \
        __m512i w0, w1, w2, w3;                                                                \
        FETCH(0), FETCH(1);                                                                    \
        TO_BF16(_mm512_loadu_si512(at), &w0, &w1);                                             \
        TO_BF16(_mm512_loadu_si512(at + 64), &w2, &w3);                                        \
        EACH_##rows(ROW_STEP)                                                                  \
    }
#define E4M3_PANEL(rows) EIGHT_BIT_CODES(rows, e4m3_to_bf16)
#define I8_PANEL(rows) EIGHT_BIT_CODES(rows, i8_to_bf16)
#define NEXT_PAIR(rows, INDEX)                                                                 \
    {                                                                                          \
        __m512i w0 = _mm512_permutexvar_epi16(INDEX(c0, z0), table);                           \
        __m512i w1 = _mm512_permutexvar_epi16(INDEX(c1, z1), table);                           \
        __m512i w2 = _mm512_permutexvar_epi16(INDEX(c2, z2), table);                           \
        __m512i w3 = _mm512_permutexvar_epi16(INDEX(c3, z3), table);                           \
        EACH_##rows(ROW_STEP)                                                                  \
    }                                                                                          \
    k += 2, c0 = _mm512_srli_epi16(c0, 4), c1 = _mm512_srli_epi16(c1, 4);                      \
    c2 = _mm512_srli_epi16(c2, 4), c3 = _mm512_srli_epi16(c3, 4);
#define FOUR_BIT_CODES(rows, INDEX)                                                            \
    for (; k < group_end; at += 256) {                                                         \
        __m512i c0 = _mm512_loadu_si512(at), c1 = _mm512_loadu_si512(at + 64);                 \
        __m512i c2 = _mm512_loadu_si512(at + 128), c3 = _mm512_loadu_si512(at + 192);          \
        FETCH(0), FETCH(1), FETCH(2), FETCH(3);                                                \
        NEXT_PAIR(rows, INDEX)                                                                 \
        NEXT_PAIR(rows, INDEX)                                                                 \
        NEXT_PAIR(rows, INDEX)                                                                 \
        NEXT_PAIR(rows, INDEX)                                                                 \
    }

#define CODE_ITSELF(c, z) (c)
#define FOUR_BIT_PANEL(rows) FOUR_BIT_CODES(rows, CODE_ITSELF)

/* With zero points: the table is that of differences, see unpack_u4. */
#define CODE_LESS_ZERO(c, z) _mm512_add_epi16(_mm512_and_si512(c, _mm512_set1_epi16(15)), z)
#define ZEROS_PANEL(rows)                                                                      \
    const uint8_t *zeros = run->zeros;                                                         \
    if (zeros == NULL) zeros = at + (group_end - k) * (SY_PANEL / 2) + run->zeros_behind;      \
    __m512i z0 = indices_of_zero(zeros, 0), z1 = indices_of_zero(zeros, 1);                    \
    __m512i z2 = indices_of_zero(zeros, 2), z3 = indices_of_zero(zeros, 3);                    \
    FOUR_BIT_CODES(rows, CODE_LESS_ZERO)

#define GROUP_TILE(name, rows, PANEL)                                                          \
    static __attribute__((noinline)) void name##_##rows(                                       \
        const sy_quant_run *run, __m512i table, const uint16_t *x, int64_t ldx, float *y,      \
        int64_t ldy, bool fresh) {                                                             \
        EACH_##rows(ROW_START);                                                                \
        const uint8_t *begin = run->codes, *scales = run->scales.at;                           \
        const sy_dtype type = run->scales.dtype;                                               \
        const bool each = run->scales.each;                                                    \
        (void)table;                                                                           \
        for (int64_t k = 0; k < run->k;) {                                                     \
            int64_t group_end = sy_min(k + run->group, run->k);                                \
            const uint8_t *at = begin;                                                         \
            EACH_##rows(GROUP_START);                                                          \
            PANEL(rows);                                                                       \
            const uint8_t *behind = scales == NULL ? at : scales;                              \
            __m512 s0 = scales_of_16(type, each, behind, 0);                                   \
            __m512 s1 = scales_of_16(type, each, behind, 1);                                   \
            __m512 s2 = scales_of_16(type, each, behind, 2);                                   \
            __m512 s3 = scales_of_16(type, each, behind, 3);                                   \
            EACH_##rows(GROUP_FINISH);                                                         \
            fresh = false;                                                                     \
            begin += run->group_bytes;                                                         \
            if (scales != NULL) scales += run->scales.step;                                    \
        }                                                                                      \
    }

typedef void (*group_tile)(const sy_quant_run *run,
                           __m512i table,
                           const uint16_t *x,
                           int64_t ldx,
                           float *y,
                           int64_t ldy,
                           bool fresh);

#define GROUP_TILES(name, PANEL)                                                               \
    GROUP_TILE(name, 1, PANEL)                                                                 \
    GROUP_TILE(name, 2, PANEL)                                                                 \
    GROUP_TILE(name, 3, PANEL)
#define MORE_GROUP_TILES(name, PANEL)                                                          \
    GROUP_TILES(name, PANEL)                                                                   \
    GROUP_TILE(name, 4, PANEL)                                                                 \
    GROUP_TILE(name, 5, PANEL)

MORE_GROUP_TILES(bf16_groups, BF16_PANEL)
MORE_GROUP_TILES(e4m3_groups, E4M3_PANEL)
MORE_GROUP_TILES(i8_groups, I8_PANEL)
MORE_GROUP_TILES(four_bit_groups, FOUR_BIT_PANEL)
GROUP_TILES(zeros_groups, ZEROS_PANEL)

#define TILES_OF(name) name##_1, name##_2, name##_3
static const group_tile bf16_group_tiles[GROUP_TILE_ROWS] = {TILES_OF(bf16_groups),
                                                             bf16_groups_4, bf16_groups_5};
static const group_tile e4m3_group_tiles[GROUP_TILE_ROWS] = {TILES_OF(e4m3_groups),
                                                             e4m3_groups_4, e4m3_groups_5};
static const group_tile i8_group_tiles[GROUP_TILE_ROWS] = {TILES_OF(i8_groups), i8_groups_4,
                                                           i8_groups_5};
static const group_tile four_bit_group_tiles[GROUP_TILE_ROWS] = {
    TILES_OF(four_bit_groups), four_bit_groups_4, four_bit_groups_5};
static const group_tile zeros_group_tiles[ZEROS_TILE_ROWS] = {TILES_OF(zeros_groups)};

static void run_groups(const group_tile *tiles,
                       int64_t most,
                       __m512i table,
                       int64_t rows,
                       const sy_quant_run *run,
                       const uint16_t *x,
                       int64_t ldx,
                       float *y,
                       int64_t ldy,
                       bool first) {
    for (int64_t m = 0, height; m < rows; m += height) {
        height = tile_height(rows - m, most);
        tiles[height - 1](run, table, x + m * ldx, ldx, y + m * ldy, ldy, first);
    }
}

#define QUANT_DIRECT_BF16 direct_bf16
static void direct_bf16(int64_t rows,
                        const sy_quant_run *run,
                        const uint16_t *x,
                        int64_t ldx,
                        float *y,
                        int64_t ldy,
                        bool first) {
    const group_tile *tiles = four_bit_group_tiles;
    int64_t most = GROUP_TILE_ROWS;
    __m512i table = table_of(run->codes_dtype == SY_F4 ? e2m1_values : u4_values);
    if (run->codes_dtype == SY_F8_E4M3) {
        tiles = e4m3_group_tiles;
    } else if (run->codes_dtype == SY_I8) {
        tiles = i8_group_tiles;
    } else if (run->has_zeros) {
        tiles = zeros_group_tiles;
        most = ZEROS_TILE_ROWS;
        table = table_differences();
    }
    run_groups(tiles, most, table, rows, run, x, ldx, y, ldy, first);
}

#define QUANT_HAS_GROUPS_BF16
static void groups_bf16(int64_t rows,
                        const uint16_t *panel,
                        const uint16_t *x,
                        int64_t ldx,
                        int64_t k_pairs,
                        int64_t group_pairs,
                        const float *scales,
                        float *y,
                        int64_t ldy,
                        bool first) {
    sy_quant_run run = {.codes_dtype = SY_BF16,
                        .codes = (const void *)panel,
                        .k = 2 * k_pairs,
                        .group = 2 * group_pairs,
                        .group_bytes = group_pairs * 4 * SY_PANEL,
                        .scales = {.dtype = SY_F32,
                                   .each = true,
                                   .at = (const void *)scales,
                                   .step = SY_PANEL * (int64_t)sizeof *scales}};
    run_groups(bf16_group_tiles, GROUP_TILE_ROWS, _mm512_setzero_si512(), rows, &run, x, ldx, y,
               ldy, first);
}

#undef FETCH
#undef ROW_START
#undef ROW_STEP
#undef EACH_1
#undef EACH_2
#undef EACH_3
#undef EACH_4
#undef EACH_5
