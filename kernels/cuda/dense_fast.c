/* Fast numerics on the host: cuBLAS's handle, its memory, and products a piece at a time. */
#include "kernels/cuda/dense_fast.h"

#include <limits.h>
#include <stdlib.h>

#include "base/checked.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/matrix.h"
#include "kernels/cuda/open.h"

/* Writing a matrix back costs 4 bytes of traffic for each weight, at 3 TB/s 1.3 ps: what 500 rows
 * save where our kernels run at 400 TFLOP/s and cuBLAS at 750 (calculated for an H100, not
 * measured). It is also what a rank prefills in one step unless told otherwise. */
enum { LEAST_ROWS = 512 };
/* Large enough for products that fill a device: 16384 outputs of 2048 inputs. */
enum { PIECE_BYTES = 64 << 20 };
/* What cuBLAS's documentation recommends for sm_90 and later, the most of all. */
enum { WORKSPACE_BYTES = 32 << 20 };
enum { TILE_N = 16 }; /* and the k of a step: fragment.h, which is C++ */

typedef struct sy_cuda_fast {
    sy_cublas cublas;
    cublasHandle_t handle; /* of cu->stream */
    int64_t least_rows;
    uint64_t piece_bytes;
} sy_cuda_fast;

/* Scratch: row-major weights, gate and up in f32, cuBLAS's workspace. */
typedef struct layout {
    uint64_t weights, sums; /* bytes */
    uint64_t total;
} layout;

/* ---- on and off ---- */

static void destroy(sy_cuda *cu) {
    sy_cuda_fast *fast = cu->fast;
    if (fast == NULL) return;
    if (fast->handle != NULL) fast->cublas.destroy(fast->handle);
    sy_cublas_close(&fast->cublas);
    free(fast);
    cu->fast = NULL;
}

sy_status sy_cuda_set_fast(sy_backend *be, bool fast) {
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    if (fast == (cu->fast != NULL)) return SY_OK;
    if (cu->scratch != NULL)
        return sy_fail(SY_ERR_INTERNAL, "numerics are chosen before scratch is reserved");
    if (!fast) {
        destroy(cu);
        return SY_OK;
    }
    cu->fast = calloc(1, sizeof *cu->fast);
    if (cu->fast == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for fast numerics");
    sy_cublas *cublas = &cu->fast->cublas;
    cu->fast->least_rows = LEAST_ROWS;
    cu->fast->piece_bytes = PIECE_BYTES;
    SY_TRY(sy_cublas_open(cublas));
    SY_TRY(SY_CUDA(cu, cudaSetDevice(cu->device)));
    SY_TRY(sy_cublas_status(cu, cublas->create(&cu->fast->handle), "cublasCreate"));
    SY_TRY(sy_cublas_status(cu, cublas->set_stream(cu->fast->handle, cu->stream),
                            "cublasSetStream"));
done:
    if (st != SY_OK) destroy(cu);
    return st;
}

void sy_cuda_fast_tune(sy_backend *be, int64_t least_rows, uint64_t piece_bytes) {
    sy_cuda_fast *fast = sy_cuda_of(be)->fast;
    fast->least_rows = least_rows;
    fast->piece_bytes = piece_bytes;
}

/* ---- scratch ---- */

static uint64_t least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

static uint64_t most(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* UINT64_MAX if it overflows. */
static uint64_t times(uint64_t a, uint64_t b) {
    uint64_t product;
    return sy_mul_u64(a, b, &product) ? product : UINT64_MAX;
}

/* At most a piece, a multiple of 256 bytes. */
static uint64_t piece(const sy_cuda_fast *fast, uint64_t bytes) {
    uint64_t limit = least(fast->piece_bytes, (uint64_t)PTRDIFF_MAX / 8);
    return (least(bytes, limit) + 255) / 256 * 256;
}

/* To whole tiles or steps. */
static uint64_t rounded(int64_t n) {
    return (uint64_t)sy_round_up(sy_max(n, 0), TILE_N);
}

static layout lay_out(const sy_cuda *cu, const sy_limits *l) {
    layout out = {0};
    uint64_t heads = times(rounded(l->heads), rounded(l->head_dim)),
             inter = rounded(l->max_inter);
    uint64_t k = most(most(heads, inter), rounded(l->hidden));
    uint64_t n = most(most(k, 2 * inter), rounded(l->vocab));
    out.weights = piece(cu->fast, times(times(n, k), sizeof(uint16_t)));
    out.sums = piece(cu->fast,
                     times(times(2 * inter, (uint64_t)sy_max(l->max_rows, 0)), sizeof(float)));
    out.total = out.weights + out.sums + WORKSPACE_BYTES;
    return out;
}

uint64_t sy_cuda_fast_scratch(const sy_cuda *cu, const sy_limits *l) {
    return cu->fast == NULL ? 0 : lay_out(cu, l).total;
}

/* Where fast numerics has its part of scratch. */
static sy_status find_scratch(const sy_cuda *cu, layout *out, char **base) {
    *out = lay_out(cu, &cu->limits);
    *base = NULL;
    if (cu->scratch == NULL || out->total > cu->scratch_bytes)
        return sy_fail(SY_ERR_INTERNAL, "fast numerics: no scratch was reserved");
    *base = cu->scratch + (cu->scratch_bytes - out->total) / 256 * 256;
    return SY_OK;
}

sy_status sy_cuda_fast_reserve(sy_cuda *cu) {
    sy_status st = SY_OK;
    layout part;
    char *base;
    if (cu->fast == NULL) return SY_OK;
    SY_TRY(find_scratch(cu, &part, &base));
    SY_TRY(sy_cublas_status(cu,
                            cu->fast->cublas.set_workspace(cu->fast->handle,
                                                           base + part.weights + part.sums,
                                                           WORKSPACE_BYTES),
                            "cublasSetWorkspace"));
done:
    return st;
}

/* ---- products ---- */

/* Tiles of m, and of their sums of n_rows rows if it has two parts, that fit a piece. */
static int64_t piece_tiles(const layout *part, const sy_matrix *m, int64_t n_rows) {
    uint64_t row = rounded(m->k) * sizeof(uint16_t);
    uint64_t tiles = part->weights / (TILE_N * row);
    if (m->parts == 2)
        tiles = least(tiles, part->sums / (TILE_N * sizeof(float) * (uint64_t)n_rows));
    return (int64_t)least(tiles, INT_MAX / TILE_N);
}

bool sy_cuda_fast_takes(const sy_cuda *cu, const sy_matrix *m, int64_t n_rows) {
    if (cu->fast == NULL || cu->recording != NULL || n_rows < sy_max(cu->fast->least_rows, 1))
        return false;
    if (m->dtype != SY_BF16 || m->n < 1 || m->k < 1 || m->k > SY_CUDA_MAX_K || n_rows > INT_MAX)
        return false;
    layout part = lay_out(cu, &cu->limits);
    return piece_tiles(&part, m, n_rows) > 0;
}

/* out [n_rows, ld] = x w^T + beta out for w [n, pitch] and x [n_rows, k], in cuBLAS's words, which
 * has columns for rows: out^T = (w^T)^T x^T. */
static sy_status multiply_piece(sy_cuda *cu,
                                int64_t n,
                                int64_t n_rows,
                                int64_t k,
                                const void *w,
                                const void *x,
                                float beta,
                                float *out,
                                int64_t ld) {
    const float one = 1;
    if (ld < n || ld > INT_MAX)
        return sy_fail(SY_ERR_INTERNAL, "product: %lld outputs in rows of %lld", (long long)n,
                       (long long)ld);
    return sy_cublas_status(cu,
                            cu->fast->cublas.gemm(cu->fast->handle, CUBLAS_OP_T, CUBLAS_OP_N,
                                                  (int)n, (int)n_rows, (int)k, &one, w,
                                                  CUDA_R_16BF, (int)rounded(k), x, CUDA_R_16BF,
                                                  (int)k, &beta, out, CUDA_R_32F, (int)ld,
                                                  CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                            "cublasGemmEx");
}

static sy_status check_taken(const sy_cuda *cu, const sy_matrix *m, int parts, int64_t n_rows) {
    if (m->parts == parts && sy_cuda_fast_takes(cu, m, n_rows)) return SY_OK;
    return sy_fail(SY_ERR_INTERNAL,
                   "fast numerics: %lld rows by %d parts of %lld x %lld %s are not for cuBLAS",
                   (long long)n_rows, m->parts, (long long)m->n, (long long)m->k,
                   sy_dtype_name(m->dtype));
}

sy_status sy_cuda_fast_multiply(sy_cuda *cu,
                                const sy_matrix *m,
                                int64_t n_rows,
                                const void *x,
                                float *out,
                                int64_t ld,
                                bool add) {
    sy_status st = SY_OK;
    layout part;
    char *base;
    SY_TRY(check_taken(cu, m, 1, n_rows));
    SY_TRY(find_scratch(cu, &part, &base));
    int64_t step = piece_tiles(&part, m, n_rows), tiles = sy_cuda_tiles(m);
    for (int64_t tile = 0; tile < tiles; tile += step) {
        int64_t n_tiles = sy_min(step, tiles - tile), first = tile * TILE_N;
        SY_TRY(sy_cuda_unpack_tiles(cu, m, tile, n_tiles, base));
        SY_TRY(multiply_piece(cu, sy_min(n_tiles * TILE_N, m->n - first), n_rows, m->k, base, x,
                              add ? 1.0f : 0.0f, out + first, ld));
    }
done:
    return st;
}

sy_status sy_cuda_fast_swiglu(sy_cuda *cu,
                              const sy_ffn_spec *ffn,
                              const sy_matrix *m,
                              int64_t n_rows,
                              const void *x,
                              void *h) {
    sy_status st = SY_OK;
    layout part;
    char *base;
    SY_TRY(check_taken(cu, m, 2, n_rows));
    SY_TRY(find_scratch(cu, &part, &base));
    float *sums = (float *)(void *)(base + part.weights);
    int64_t step = piece_tiles(&part, m, n_rows), tiles = sy_cuda_tiles(m);
    for (int64_t tile = 0; tile < tiles; tile += step) {
        int64_t n_tiles = sy_min(step, tiles - tile), first = tile * (TILE_N / 2);
        int64_t n_outputs = sy_min(n_tiles * (TILE_N / 2), m->n - first);
        SY_TRY(sy_cuda_unpack_tiles(cu, m, tile, n_tiles, base));
        SY_TRY(multiply_piece(cu, n_tiles * TILE_N, n_rows, m->k, base, x, 0.0f, sums,
                              n_tiles * TILE_N));
        SY_TRY(sy_cuda_swiglu_rows(cu, ffn, n_rows, n_tiles, n_outputs, sums,
                                   (uint16_t *)h + first, m->n));
    }
done:
    return st;
}
