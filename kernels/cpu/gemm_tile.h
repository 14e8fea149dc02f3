/* One micro-kernel: TILE_ROWS rows of x against all 64 outputs of a panel, float32 FMAs.
 *
 * Included once for each (weight type, rows) by gemm_fma.h, with
 *   TILE_NAME    the function                   TILE_ROWS  1..4 rows
 *   TILE_WEIGHT  the element type in memory     TILE_LOAD  (const TILE_WEIGHT *, vec *odd, vec *even)
 *   TILE_STEP    K elements of a step: 2 (a pair) or 1 (then only `even` is used)
 *   TILE_VECS    vectors side by side; 64 outputs take 64 / (TILE_VECS * LANES) passes
 *
 * Every accumulator is a variable of its own and the function is never inlined: gcc 12 keeps
 * accumulators that are array elements in memory, and spills some of them when the loop is merged
 * into a larger function. */

/* Repeats X(row, vector) over the vectors of a row, and V(X, row) over the rows. */
#define VECS_1(X, m) X(m, 0)
#define VECS_2(X, m) VECS_1(X, m) X(m, 1)
#define VECS_4(X, m) VECS_2(X, m) X(m, 2) X(m, 3)
#define VECS_8(X, m) VECS_4(X, m) X(m, 4) X(m, 5) X(m, 6) X(m, 7)
#define VECS_16(X, m)                                                                          \
    VECS_8(X, m) X(m, 8) X(m, 9) X(m, 10) X(m, 11) X(m, 12) X(m, 13) X(m, 14) X(m, 15)
#define ROWS_1(X, j) X(0, j)
#define ROWS_2(X, j) ROWS_1(X, j) X(1, j)
#define ROWS_3(X, j) ROWS_2(X, j) X(2, j)
#define ROWS_4(X, j) ROWS_3(X, j) X(3, j)
#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define EACH_VEC(X, m) PASTE(VECS_, TILE_VECS)(X, m)
#define EACH_ROW(X, j) PASTE(ROWS_, TILE_ROWS)(X, j)

static __attribute__((noinline)) void TILE_NAME(const TILE_WEIGHT *panel,
                                                const float *x,
                                                int64_t ldx,
                                                int64_t steps,
                                                float *y,
                                                int64_t ldy,
                                                bool first) {
    for (int column = 0; column < SY_PANEL; column += TILE_VECS * LANES) {
        const TILE_WEIGHT *w = panel + column * TILE_STEP;
#define X_ROW(m, j) const float *x_##m = x + (m)*ldx;
        EACH_ROW(X_ROW, 0)
#define START(m, j)                                                                            \
    vec a_##m##_##j = first ? v_zero() : v_load(y + (m)*ldy + column + (j)*LANES);
#define START_ROW(m, j) EACH_VEC(START, m)
        EACH_ROW(START_ROW, 0)
        for (int64_t s = 0; s < steps; s++, w += TILE_STEP * SY_PANEL) {
#if TILE_ROWS <= 2
            /* Few accumulators: keep x in registers and take the weights one by one. */
#define X_VALUES(m, j)                                                                         \
    vec odd_x_##m = v_splat(x_##m + s * TILE_STEP + TILE_STEP - 1);                            \
    vec even_x_##m = v_splat(x_##m + s * TILE_STEP);                                           \
    (void)odd_x_##m;
            EACH_ROW(X_VALUES, 0)
#define MULTIPLY(m, j)                                                                         \
    if (TILE_STEP == 2) a_##m##_##j = v_fma(odd, odd_x_##m, a_##m##_##j);                      \
    a_##m##_##j = v_fma(even, even_x_##m, a_##m##_##j);
#define WEIGHTS(m, j)                                                                          \
    {                                                                                          \
        vec odd, even;                                                                         \
        TILE_LOAD(w + (j)*LANES * TILE_STEP, &odd, &even);                                     \
        EACH_ROW(MULTIPLY, j)                                                                  \
    }
            EACH_VEC(WEIGHTS, 0)
#undef X_VALUES
#else
            /* Many accumulators: keep the weights in registers and take x value by value. */
#define WEIGHTS(m, j)                                                                          \
    vec odd_##j, even_##j;                                                                     \
    TILE_LOAD(w + (j)*LANES * TILE_STEP, &odd_##j, &even_##j);                                 \
    (void)odd_##j;
            EACH_VEC(WEIGHTS, 0)
#define MULTIPLY_ODD(m, j) a_##m##_##j = v_fma(odd_##j, value, a_##m##_##j);
#define MULTIPLY(m, j) a_##m##_##j = v_fma(even_##j, value, a_##m##_##j);
#define ROW(m, j)                                                                              \
    {                                                                                          \
        vec value;                                                                             \
        if (TILE_STEP == 2) {                                                                  \
            value = v_splat(x_##m + s * TILE_STEP + TILE_STEP - 1);                            \
            EACH_VEC(MULTIPLY_ODD, m)                                                          \
        }                                                                                      \
        value = v_splat(x_##m + s * TILE_STEP);                                                \
        EACH_VEC(MULTIPLY, m)                                                                  \
    }
            EACH_ROW(ROW, 0)
#undef MULTIPLY_ODD
#undef ROW
#endif
#undef WEIGHTS
#undef MULTIPLY
        }
#define FINISH(m, j) v_store(y + (m)*ldy + column + (j)*LANES, a_##m##_##j);
#define FINISH_ROW(m, j) EACH_VEC(FINISH, m)
        EACH_ROW(FINISH_ROW, 0)
#undef X_ROW
#undef START
#undef START_ROW
#undef FINISH
#undef FINISH_ROW
    }
}

#undef VECS_1
#undef VECS_2
#undef VECS_4
#undef VECS_8
#undef VECS_16
#undef ROWS_1
#undef ROWS_2
#undef ROWS_3
#undef ROWS_4
#undef PASTE_
#undef PASTE
#undef EACH_VEC
#undef EACH_ROW
#undef TILE_NAME
#undef TILE_ROWS
#undef TILE_VECS
