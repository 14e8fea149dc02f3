/* A tile of attention_latent.cu and one page: what the blocks are given, the loads, the two products
 * and the softmax between them, and where a state goes. */
#ifndef SY_KERNELS_CUDA_ATTENTION_LATENT_H
#define SY_KERNELS_CUDA_ATTENTION_LATENT_H

#include "kernels/cuda/attention_state.h"

enum {
    WARPS = 8,
    THREADS = 32 * WARPS,
    TILE = 16, /* query rows, M of the mma */
    PAGE = SY_PAGE_TOKENS,
    HALF = PAGE / 2,  /* keys that arrive together */
    QUARTERS = 4,     /* of a key, as the warps share them */
    PAD = 8,          /* values behind a row in shared memory: no bank conflicts */
    ROWS_OF_WARP = 2, /* in the softmax */
    MOST_BLOCKS = 128 /* rows times tiles for which splits run side by side */
};
static_assert(HALF == 32 && TILE == WARPS * ROWS_OF_WARP && WARPS == 2 * QUARTERS,
              "a lane for each key, a warp for each two rows, two warps for each quarter");

typedef struct latent_job {
    const uint16_t *q;                                                    /* [rows, A, key] */
    const int32_t *position, *span_of_row, *span_row, *page_first, *page; /* step record */
    const char *pages;                                                    /* [64][stride] */
    int64_t page_bytes;
    uint16_t *o; /* [rows, A, d] */
    /* Partial states, if splits are apart. */
    float2 *state;    /* m and l, [splits][rows][A] */
    float *state_o;   /* [splits][rows][A][d] */
    int32_t *arrived; /* [rows][tiles] blocks of a tile that are done; 0 between launches */
    int rows;         /* bound of the step */
    int heads, key, stride, d;
    int tokens; /* of a tile's piece, and the tiles that its query rows make */
    int tiles;
    float scale;        /* of the softmax, times log2(e) */
    int window;         /* keys that a row sees, itself the last; INT_MAX: all */
    const float *sinks; /* [A] or NULL */
} latent_job;

/* The query rows [first, first + TILE) of some consecutive tokens, of n in all; row r is head
 * r % A of token r / A, and stands in q and o at number + r. */
typedef struct latent_tile {
    int row, position; /* of the first token */
    int n, first;
    int64_t number;
    const int32_t *page;
} latent_tile;

template <int DK> struct __align__(16) latent_shared {
    uint16_t kv[2][HALF][DK + PAD]; /* the halves of a page */
    float score[QUARTERS][TILE][PAGE + PAD];
    uint16_t p[TILE][PAGE + PAD];
    float decay[TILE]; /* of the page's o */
    float keep[TILE], add[TILE];
    float scale[TILE]; /* 1 / l in the end */
};

SY_DEVICE int position_of(const latent_job &job, const latent_tile &t, int r) {
    return t.position + min(t.first + r, t.n - 1) / job.heads;
}

/* Keys [64 page + 32 half, + 32) of the sequence; those behind `last` and columns behind the key
 * become zero, as what they hold may be anything. */
template <int DK>
SY_DEVICE void load_half(const latent_job &job,
                         latent_shared<DK> *sh,
                         const latent_tile &t,
                         int page,
                         int half,
                         int last) {
    constexpr int PIECES = DK / 8;
    static_assert(HALF * PIECES % THREADS == 0, "equal shares");
    const char *at_page = job.pages + t.page[page] * job.page_bytes;
    const uint16_t *from = (const uint16_t *)(const void *)at_page;
    from += half * HALF * job.stride;
#pragma unroll 3
    for (int i = 0; i < HALF * PIECES / THREADS; i++) {
        int at = i * THREADS + (int)threadIdx.x, token = at / PIECES, c = at % PIECES * 8;
        bool there = page * PAGE + half * HALF + token <= last && c < job.stride;
        sy_cp_async16(&sh->kv[half][token][c], there ? from + token * job.stride + c : from,
                      there ? 16 : 0);
    }
    sy_cp_async_commit();
}

/* Values k and k + 1 of a row of n, zero behind its end. */
SY_DEVICE uint32_t pair_of_row(const uint16_t *row, int k, int n) {
    if (k >= n) return 0;
    if (n % 2 == 0) return *(const bf16_pair *)(const void *)(row + k);
    return row[k] | (k + 1 < n ? (uint32_t)row[k + 1] << 16 : 0);
}

/* The tile's queries as operand A: the warp's quarter, DK / 64 steps. */
template <int DK>
SY_DEVICE void load_queries(const latent_job &job, const latent_tile &t, uint32_t (*q)[4]) {
    int lane = (int)threadIdx.x % 32, quarter = (int)threadIdx.x / 64;
#pragma unroll
    for (int step = 0; step < DK / 64; step++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int r = t.first + lane / 4 + i % 2 * 8;
            int k = quarter * (DK / 4) + 16 * step + lane % 4 * 2 + i / 2 * 8;
            q[step][i] =
                r < t.n ? pair_of_row(job.q + (t.number + r) * job.key, k, job.key) : 0;
        }
}

/* The warp's quarter of the scores of 16 keys of a half, into shared memory. */
template <int DK>
SY_DEVICE void score_half(latent_shared<DK> *sh, int half, const uint32_t (*q)[4]) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int quarter = warp / 2, key = warp % 2 * 16;
    float s[2][4] = {};
    const uint16_t *own =
        &sh->kv[half][key + lane / 16 * 8 + lane % 8][quarter * (DK / 4) + lane / 8 % 2 * 8];
#pragma unroll
    for (int step = 0; step < DK / 64; step++) {
        uint32_t b[4];
        sy_ldmatrix_x4(b, own + 16 * step);
        sy_mma_bf16(s[0], q[step], b);
        sy_mma_bf16(s[1], q[step], b + 2);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int column = half * HALF + key + 8 * i + lane % 4 * 2;
            sy_store8(
                &sh->score[quarter][lane / 4 + 8 * r][column],
                make_uint2(__float_as_uint(s[i][2 * r]), __float_as_uint(s[i][2 * r + 1])));
        }
}

/* The (m, l) of the warp's two rows, alike on all lanes. */
typedef struct row_sums {
    float m[ROWS_OF_WARP], l[ROWS_OF_WARP];
} row_sums;

SY_DEVICE void clear(row_sums *s) {
    s->m[0] = s->m[1] = minus_infinity();
    s->l[0] = s->l[1] = 0.0f;
}

/* The score of a row and key of the page, its quarters joined; -inf for a key that the row at the
 * position does not see. */
template <int DK>
SY_DEVICE float score_of(const latent_job &job,
                         const latent_shared<DK> *sh,
                         int row,
                         int position,
                         int page,
                         int key) {
    float s = (sh->score[0][row][key] + sh->score[1][row][key]) +
              (sh->score[2][row][key] + sh->score[3][row][key]);
    int back = position - (page * PAGE + key); /* negative: too large below */
    return (unsigned)back < (unsigned)job.window ? s * job.scale : minus_infinity();
}

/* Scores to p; the state takes up the page. */
template <int DK>
SY_DEVICE void soften_page(const latent_job &job,
                           latent_shared<DK> *sh,
                           const latent_tile &t,
                           int page,
                           row_sums *state) {
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < ROWS_OF_WARP; i++) {
        int row = (int)threadIdx.x / 32 * ROWS_OF_WARP + i, position = position_of(job, t, row);
        float s0 = score_of(job, sh, row, position, page, lane);
        float s1 = score_of(job, sh, row, position, page, HALF + lane);
        float decay = raise_max(&state->m[i], sy_warp_max(fmaxf(s0, s1)));
        float base = finite_max(state->m[i]), p0 = sy_exp2(s0 - base), p1 = sy_exp2(s1 - base);
        state->l[i] = fmaf(state->l[i], decay, sy_warp_sum(p0 + p1));
        sh->p[row][lane] = sy_float_bf16(p0);
        sh->p[row][HALF + lane] = sy_float_bf16(p1);
        if (lane == 0) sh->decay[row] = decay;
    }
}

/* o = o decay, for the lane's two rows. */
template <int DK, int TILES>
SY_DEVICE void decay_output(const latent_shared<DK> *sh, float (*o)[4]) {
    int lane = (int)threadIdx.x % 32;
    float decay[2] = {sh->decay[lane / 4], sh->decay[lane / 4 + 8]};
#pragma unroll
    for (int i = 0; i < TILES; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            o[i][j] *= decay[j / 2];
}

/* o += P V of one half for the warp's 8 * TILES columns. */
template <int DK, int TILES>
SY_DEVICE void add_half(const latent_shared<DK> *sh, int half, float (*o)[4]) {
    int lane = (int)threadIdx.x % 32, column = (int)threadIdx.x / 32 * 8 * TILES;
    uint32_t a[2][4];
    sy_ldmatrix_x4(a[0], &sh->p[lane % 16][half * HALF + lane / 16 * 8]);
    sy_ldmatrix_x4(a[1], &sh->p[lane % 16][half * HALF + 16 + lane / 16 * 8]);
#pragma unroll
    for (int i = 0; i < TILES; i++) {
        uint32_t b[4];
        sy_ldmatrix_x4_trans(b, &sh->kv[half][lane][column + 8 * i]);
        sy_mma_bf16(o[i], a[0], b);
        sy_mma_bf16(o[i], a[1], b + 2);
    }
}

/* ---- what becomes of a state ---- */

SY_DEVICE bool only_in(const latent_job &job, int position, int split) {
    return first_split_of<true>(job.window, position) == split &&
           last_split_of<true>(position) == split;
}

/* The final factors of the rows whose whole state this is. */
template <int DK>
SY_DEVICE void show_scales(const latent_job &job,
                           latent_shared<DK> *sh,
                           const latent_tile &t,
                           const row_sums *s) {
    if (threadIdx.x % 32 != 0) return;
#pragma unroll
    for (int i = 0; i < ROWS_OF_WARP; i++) {
        int row = (int)threadIdx.x / 32 * ROWS_OF_WARP + i;
        int head = (t.first + row) % job.heads;
        sh->scale[row] = final_scale(job.sinks, head, s->m[i], s->l[i]);
    }
}

/* o of the tile's rows, those that see no other split if `only` is not negative. */
template <int DK, int TILES>
SY_DEVICE void store_output(const latent_job &job,
                            const latent_shared<DK> *sh,
                            const latent_tile &t,
                            int only,
                            const float (*o)[4]) {
    int lane = (int)threadIdx.x % 32, column = (int)threadIdx.x / 32 * 8 * TILES;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = lane / 4 + 8 * half;
        if (t.first + row >= t.n) continue;
        if (only >= 0 && !only_in(job, position_of(job, t, row), only)) continue;
        float scale = sh->scale[row];
        uint16_t *to = job.o + (t.number + t.first + row) * job.d;
#pragma unroll
        for (int i = 0; i < TILES; i++) {
            int c = column + 8 * i + lane % 4 * 2;
            uint32_t two = final_pair(o[i][2 * half], o[i][2 * half + 1], scale);
            if (job.d % 2 == 0 && c < job.d) *(bf16_pair *)(void *)(to + c) = two;
            if (job.d % 2 != 0 && c < job.d) to[c] = (uint16_t)two;
            if (job.d % 2 != 0 && c + 1 < job.d) to[c + 1] = (uint16_t)(two >> 16);
        }
    }
}

/* The state of the rows that see this split and others, into scratch. */
template <int TILES>
SY_DEVICE void store_state(const latent_job &job,
                           const latent_tile &t,
                           int split,
                           const row_sums *s,
                           const float (*o)[4]) {
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    int64_t base = split * ((int64_t)job.rows * job.heads) + t.number + t.first;
#pragma unroll
    for (int i = 0; i < ROWS_OF_WARP; i++) {
        int row = warp * ROWS_OF_WARP + i;
        if (lane == 0 && t.first + row < t.n)
            job.state[base + row] = make_float2(s->m[i], s->l[i]);
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = lane / 4 + 8 * half, position = position_of(job, t, row);
        if (t.first + row >= t.n || only_in(job, position, split)) continue;
        if (split < first_split_of<true>(job.window, position) ||
            split > last_split_of<true>(position))
            continue;
        float *to = job.state_o + (base + row) * job.d;
#pragma unroll
        for (int i = 0; i < TILES; i++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                int c = (warp * TILES + i) * 8 + lane % 4 * 2 + j;
                if (c < job.d) to[c] = o[i][2 * half + j];
            }
    }
}

/* Joins the states of the tile's rows that have more than one, ascending. */
SY_DEVICE void join_splits(const latent_job &job, const latent_tile &t) {
    enum { AHEAD = 8 }; /* states under way at a time */
    int64_t stride = (int64_t)job.rows * job.heads;
    int n = min((int)TILE, t.n - t.first) * job.d;
#pragma unroll 1
    for (int item = (int)threadIdx.x; item < n; item += THREADS) {
        int row = item / job.d, c = item - row * job.d, position = position_of(job, t, row);
        int begin = first_split_of<true>(job.window, position);
        int last = last_split_of<true>(position);
        if (begin == last) continue;
        int64_t number = t.number + t.first + row;
        float m = minus_infinity(), l = 0.0f, o = 0.0f;
#pragma unroll 1
        for (int first = begin; first <= last; first += AHEAD) {
            float2 state[AHEAD];
            float value[AHEAD];
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                int64_t at = min(first + i, last) * stride + number;
                state[i] = job.state[at];
                value[i] = job.state_o[at * job.d + c];
            }
#pragma unroll
            for (int i = 0; i < AHEAD; i++) {
                float keep, add;
                if (first + i > last) break;
                join_states(&m, &l, state[i].x, state[i].y, &keep, &add);
                o = join_value(o, keep, value[i], add);
            }
        }
        float scale = final_scale(job.sinks, (t.first + row) % job.heads, m, l);
        job.o[number * job.d + c] = (uint16_t)final_pair(o, 0.0f, scale);
    }
}

#endif
