/* A tile of attention_core.cu and one page: what the blocks are given, the loads into shared
 * memory, the two products and the softmax between them, and where a state goes. */
#ifndef SY_KERNELS_CUDA_ATTENTION_TILE_H
#define SY_KERNELS_CUDA_ATTENTION_TILE_H

#include "kernels/cuda/attention_state.h"

enum {
    SPLIT_WARPS = 4, /* of a block that takes one tile */
    WHOLE_WARPS = 8, /* of a block that takes up to 64 query rows */
    WHOLE_ROWS = 64,
    TILE = 16,             /* query rows of a tile, M of the mma */
    PAGE = SY_PAGE_TOKENS, /* keys of a page */
    PAD = 8                /* values behind a row in shared memory: no bank conflicts */
};

typedef struct attend_job {
    const uint16_t *q;                                                    /* [rows, A*D] */
    const int32_t *position, *span_of_row, *span_row, *page_first, *page; /* step record */
    const char *pages;
    int64_t page_bytes;
    uint16_t *o; /* [rows, A*D] */
    /* Partial states, if splits are apart. */
    float2 *state;    /* m and l, [splits][rows][A] */
    float *state_o;   /* [splits][rows][A][D] */
    int32_t *arrived; /* [rows][kv heads] blocks of a piece that are done; 0 between launches */
    int rows;         /* bound of the step */
    int heads, kv_heads, group, d;
    float scale;        /* of the softmax, times log2(e) */
    int window;         /* keys that a row sees, itself the last; INT_MAX: all */
    const float *sinks; /* [A] or NULL */
} attend_job;

/* Consecutive tokens of a span, seen by one kv head: n = tokens * G query rows. */
typedef struct piece {
    int row;      /* of the first token in the step */
    int position; /* of the first token */
    int n;
    int kv_head;
    int column; /* the block's first value column: a head wider than 128 is cut in two */
    const int32_t *page;
} piece;

/* DK: D padded; DV: value columns of a block. Queries are kept in registers up to DK = 128. */
template <int DK> struct width {
    static constexpr int DV = DK > 128 ? DK / 2 : DK;
    static constexpr int SLICES = DK / DV;
    static constexpr bool Q_KEPT = DK <= 128;
};

/* Q_ROWS: the query rows of the block if they have a place of their own; 0: the place of the
 * keys serves, before the first page, and the queries stay in registers. */
template <int DK, int WARPS, int TILES, int Q_ROWS> struct __align__(16) attend_shared {
    uint16_t k[PAGE][DK + PAD];
    uint16_t v[PAGE][width<DK>::DV + PAD];
    uint16_t q[Q_ROWS > 0 ? Q_ROWS : 1][DK + PAD];
    uint16_t p[TILES][TILE][PAGE + PAD];
    float max[WARPS][TILE];
    float sum[WARPS][TILE][4]; /* by the lanes of a row */
};

/* The state of a lane's two rows, g and g + 8 of the tile; TILES tiles of 8 value columns. */
template <int TILES> struct row_state { float m[2], l[2], o[TILES][4]; };

/* Sum and maximum over the four lanes that share a row. */
SY_DEVICE float quad_sum(float v) {
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

SY_DEVICE float quad_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
    return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}

template <int TILES> SY_DEVICE void clear(row_state<TILES> *s) {
    s->m[0] = s->m[1] = minus_infinity();
    s->l[0] = s->l[1] = 0.0f;
#pragma unroll
    for (int i = 0; i < TILES; i++)
        for (int j = 0; j < 4; j++)
            s->o[i][j] = 0.0f;
}

/* ---- loads ---- */

/* Columns [column, column + COLUMNS) of the keys or values of one page and kv head, from
 * [64][D] at `from`. Tokens from n_tokens on and columns from D on become zero: they may hold
 * anything from a page's last use, and 0 * NaN is NaN. Rows of D values are whole 16-byte
 * pieces if D is a multiple of 8. */
template <int COLUMNS, int THREADS>
SY_DEVICE void
load_page(uint16_t (*to)[COLUMNS + PAD], const char *from, int n_tokens, int column, int d) {
    constexpr int PIECES = COLUMNS / 8, STEP = THREADS / PIECES; /* tokens at a time */
    int token = threadIdx.x / PIECES, c = threadIdx.x % PIECES * 8;
    const uint16_t *source = (const uint16_t *)(const void *)from;
    if (THREADS % PIECES != 0 && token >= STEP) return;
    if (d % 8 == 0) {
        int real = column + c < d ? n_tokens : 0;
        const uint16_t *at = source + token * d + column + c;
#pragma unroll 4
        for (; token < PAGE; token += STEP, at += STEP * d)
            sy_cp_async16(&to[token][c], token < real ? at : source, token < real ? 16 : 0);
        return;
    }
#pragma unroll 1
    for (; token < PAGE; token += STEP)
        for (int i = c; i < c + 8; i += 2) {
            uint32_t two = 0;
            if (token < n_tokens && column + i < d)
                two = *(const bf16_pair *)(const void *)(source + token * d + column + i);
            *(bf16_pair *)(void *)&to[token][i] = two;
        }
}

template <int DK, int THREADS, class shared>
SY_DEVICE void
load_keys(const attend_job &job, shared *sh, const piece &p, int page, int last) {
    const char *at = job.pages + p.page[page] * job.page_bytes;
    at += (int64_t)p.kv_head * PAGE * job.d * (int64_t)sizeof(uint16_t);
    load_page<DK, THREADS>(sh->k, at, last - page * PAGE + 1, 0, job.d);
    sy_cp_async_commit();
}

template <int DK, int THREADS, class shared>
SY_DEVICE void
load_values(const attend_job &job, shared *sh, const piece &p, int page, int last) {
    const char *at = job.pages + p.page[page] * job.page_bytes;
    at += (int64_t)(job.kv_heads + p.kv_head) * PAGE * job.d * (int64_t)sizeof(uint16_t);
    load_page<width<DK>::DV, THREADS>(sh->v, at, last - page * PAGE + 1, p.column, job.d);
    sy_cp_async_commit();
}

/* The number, row * A + head, of query row r of a piece ... */
SY_DEVICE int64_t query_number(const attend_job &job, const piece &p, int r) {
    int64_t row = p.row + r / job.group;
    return row * job.heads + p.kv_head * job.group + r % job.group;
}

/* ... and where it lies in q and o. */
SY_DEVICE int64_t query_offset(const attend_job &job, const piece &p, int r) {
    return query_number(job, p, r) * job.d;
}

/* Query rows [r0, r0 + n_rows) of the piece, zero behind its last and behind D. */
template <int DK, int THREADS>
SY_DEVICE void load_queries(const attend_job &job,
                            uint16_t (*to)[DK + PAD],
                            const piece &p,
                            int r0,
                            int n_rows) {
#pragma unroll 1
    for (int i = threadIdx.x; i < n_rows * (DK / 2); i += THREADS) {
        int r = i / (DK / 2), c = i % (DK / 2) * 2;
        uint32_t two = 0;
        if (r0 + r < p.n && c < job.d)
            two = *(const bf16_pair *)(const void *)(job.q + query_offset(job, p, r0 + r) + c);
        *(bf16_pair *)(void *)&to[r][c] = two;
    }
}

/* ---- one page ---- */

/* s = q K^T for 8 * TILES keys from `key`. q: the tile's rows in shared memory, or kept in
 * fragments. */
template <int DK, int TILES>
SY_DEVICE void scores(float (*s)[4],
                      const uint32_t (*kept)[4],
                      const uint16_t (*q)[DK + PAD],
                      const uint16_t (*k)[DK + PAD],
                      int key) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < TILES; i++)
        for (int j = 0; j < 4; j++)
            s[i][j] = 0.0f;
#pragma unroll
    for (int step = 0; step < DK / 32; step++) {
        uint32_t a[2][4];
        if constexpr (width<DK>::Q_KEPT) {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                a[0][j] = kept[2 * step][j];
                a[1][j] = kept[2 * step + 1][j];
            }
        } else {
            sy_ldmatrix_x4(a[0], &q[lane % 16][32 * step + lane / 16 * 8]);
            sy_ldmatrix_x4(a[1], &q[lane % 16][32 * step + 16 + lane / 16 * 8]);
        }
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            uint32_t b[4];
            sy_ldmatrix_x4(b, &k[key + 8 * i + lane % 8][32 * step + lane / 8 * 8]);
            sy_mma_bf16(s[i], a[0], b);
            sy_mma_bf16(s[i], a[1], b + 2);
        }
    }
}

/* Scales the scores and masks the keys behind each row's position or before its window; mx: the
 * lane's maxima. */
template <int TILES>
SY_DEVICE void
mask(float (*s)[4], float scale, int window, int key, const int position[2], float mx[2]) {
    mx[0] = mx[1] = minus_infinity();
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int back = position[j / 2] - (key + 8 * i + j % 2); /* negative: too large below */
            bool seen = (unsigned)back < (unsigned)window;
            s[i][j] = seen ? s[i][j] * scale : minus_infinity();
            mx[j / 2] = fmaxf(mx[j / 2], s[i][j]);
        }
}

/* p = 2^(s - m), as bf16 in pairs of keys: packed[i][r] of the i-th 8 keys of row r. share:
 * the lane's part of each row's sum of p before it is rounded, 16 keys at a time. */
template <int TILES>
SY_DEVICE void
weights(const float (*s)[4], const float m[2], uint32_t (*packed)[2], float share[2]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float base = finite_max(m[r]);
#pragma unroll
        for (int i = 0; i < TILES; i += 2) {
            float p0 = sy_exp2(s[i][2 * r] - base), p1 = sy_exp2(s[i][2 * r + 1] - base);
            float p2 = sy_exp2(s[i + 1][2 * r] - base);
            float p3 = sy_exp2(s[i + 1][2 * r + 1] - base);
            float sum = p0 + p1 + p2 + p3;
            packed[i][r] = sy_pack_bf16(p0, p1);
            packed[i + 1][r] = sy_pack_bf16(p2, p3);
            share[r] = i == 0 ? sum : share[r] + sum;
        }
    }
}

/* The warps of a tile show each other p and their shares of its sum ... */
template <int TILES, class shared>
SY_DEVICE void share_weights(shared *sh,
                             int tile,
                             int part,
                             const uint32_t (*packed)[2],
                             const float share[2]) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = lane / 4 + 8 * r, key = 8 * TILES * part + lane % 4 * 2;
        sh->sum[warp][row][lane % 4] = share[r];
#pragma unroll
        for (int i = 0; i < TILES; i++)
            *(bf16_pair *)(void *)&sh->p[tile][row][key + 8 * i] = packed[i][r];
    }
}

/* ... and take all of them. a: p as operand A of four steps of 16 keys. */
template <int PARTS, class shared>
SY_DEVICE void gather_weights(const shared *sh, int tile, uint32_t (*a)[4], float share[2]) {
    int lane = threadIdx.x % 32;
    const float(*sum)[TILE][4] = sh->sum + PARTS * tile;
#pragma unroll
    for (int i = 0; i < 4; i++)
        sy_ldmatrix_x4(a[i], &sh->p[tile][lane % 16][16 * i + lane / 16 * 8]);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = lane / 4 + 8 * r, t = lane % 4;
        share[r] = sum[0][row][t] + sum[1][row][t];
        if (PARTS == 4) share[r] += sum[2][row][t] + sum[3][row][t];
    }
}

/* o = o decay + P V for the warp's 8 * TILES columns from `column`; p: four steps of 16 keys.
 */
template <int DK, int TILES>
SY_DEVICE void add_values(row_state<TILES> *state,
                          const float decay[2],
                          const uint32_t (*p)[4],
                          const uint16_t (*v)[width<DK>::DV + PAD],
                          int column) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        float *o = state->o[i];
        uint32_t b[4];
        o[0] *= decay[0];
        o[1] *= decay[0];
        o[2] *= decay[1];
        o[3] *= decay[1];
        sy_ldmatrix_x4_trans(b, &v[lane][column + 8 * i]);
        sy_mma_bf16(o, p[0], b);
        sy_mma_bf16(o, p[1], b + 2);
        sy_ldmatrix_x4_trans(b, &v[32 + lane][column + 8 * i]);
        sy_mma_bf16(o, p[2], b);
        sy_mma_bf16(o, p[3], b + 2);
    }
}

/* ---- what becomes of a state ---- */

template <int TILES> SY_DEVICE void join(row_state<TILES> *total, row_state<TILES> *split) {
    float keep[2], add[2];
    for (int r = 0; r < 2; r++)
        join_states(&total->m[r], &total->l[r], split->m[r], split->l[r], &keep[r], &add[r]);
#pragma unroll
    for (int i = 0; i < TILES; i++)
        for (int j = 0; j < 4; j++)
            total->o[i][j] =
                join_value(total->o[i][j], keep[j / 2], split->o[i][j], add[j / 2]);
}

/* The lane's two rows of the tile at r0, columns from `column` of the head, into o. only: -1, or
 * the rows that see no split but this one; others are joined later. */
template <int TILES>
SY_DEVICE void store_output(const attend_job &job,
                            const piece &p,
                            int r0,
                            int column,
                            int only,
                            const row_state<TILES> *s) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = r0 + lane / 4 + 8 * r;
        if (row >= p.n) continue;
        int position = p.position + row / job.group;
        if (only >= 0 && (first_split_of<false>(job.window, position) != only ||
                          last_split_of<false>(position) != only))
            continue;
        int head = p.kv_head * job.group + row % job.group;
        float inverse = final_scale(job.sinks, head, s->m[r], s->l[r]);
        uint16_t *to = job.o + query_offset(job, p, row);
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            int c = column + 8 * i + lane % 4 * 2;
            if (c >= job.d) continue;
            *(bf16_pair *)(void *)(to + c) =
                final_pair(s->o[i][2 * r], s->o[i][2 * r + 1], inverse);
        }
    }
}

/* The same into scratch, for rows that see this split and more than one. */
template <int TILES>
SY_DEVICE void store_state(const attend_job &job,
                           const piece &p,
                           int r0,
                           int column,
                           int split,
                           const row_state<TILES> *s) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int row = r0 + lane / 4 + 8 * r;
        if (row >= p.n) continue;
        int position = p.position + row / job.group;
        int first = first_split_of<false>(job.window, position),
            last = last_split_of<false>(position);
        if (first == last || split < first || split > last) continue;
        int64_t at = split * ((int64_t)job.rows * job.heads) + query_number(job, p, row);
        if (column == 0 && lane % 4 == 0) job.state[at] = make_float2(s->m[r], s->l[r]);
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            int c = column + 8 * i + lane % 4 * 2;
            if (c >= job.d) continue;
            *(float2 *)(void *)(job.state_o + at * job.d + c) =
                make_float2(s->o[i][2 * r], s->o[i][2 * r + 1]);
        }
    }
}

#endif
