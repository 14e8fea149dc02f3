/* What the two files of the attention family share: where a sequence is cut into splits, and
 * how the partial states of the splits lie in scratch.
 *
 * A split is a run of whole pages whose ends depend on absolute positions alone: 64 tokens
 * below 1024, 256 below 8192, 512 beyond, so that few rows occupy a device at short contexts
 * and the partial states cost little at long ones. Where a split begins never depends on the
 * length of the sequence, on the batch or on the device, hence a row has the same bits in
 * every step. */
#ifndef SY_KERNELS_CUDA_ATTENTION_H
#define SY_KERNELS_CUDA_ATTENTION_H

#include "base/checked.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/ptx.h"

enum {
    ATTN_MAX_HEAD_DIM = 256,
    SPLIT_SHORT_PAGES = 1024 / SY_PAGE_TOKENS,  /* below this page a split is 1 page  */
    SPLIT_MIDDLE_PAGES = 8192 / SY_PAGE_TOKENS, /* below this page a split is 4 pages */
    SPLIT_MIDDLE = 4,
    SPLIT_LONG = 8, /* pages of a split beyond */
    SPLIT_MIDDLE_FIRST = SPLIT_SHORT_PAGES,
    SPLIT_LONG_FIRST =
        SPLIT_MIDDLE_FIRST + (SPLIT_MIDDLE_PAGES - SPLIT_SHORT_PAGES) / SPLIT_MIDDLE
};

/* The split that holds a page (page = position / 64). */
static __host__ __device__ inline int split_of_page(int page) {
    if (page < SPLIT_SHORT_PAGES) return page;
    if (page < SPLIT_MIDDLE_PAGES)
        return SPLIT_MIDDLE_FIRST + (page - SPLIT_SHORT_PAGES) / SPLIT_MIDDLE;
    return SPLIT_LONG_FIRST + (page - SPLIT_MIDDLE_PAGES) / SPLIT_LONG;
}

/* The first page of a split; of split + 1: the page behind it. */
static __host__ __device__ inline int split_first_page(int split) {
    if (split < SPLIT_MIDDLE_FIRST) return split;
    if (split < SPLIT_LONG_FIRST)
        return SPLIT_SHORT_PAGES + (split - SPLIT_MIDDLE_FIRST) * SPLIT_MIDDLE;
    return SPLIT_MIDDLE_PAGES + (split - SPLIT_LONG_FIRST) * SPLIT_LONG;
}

/* Splits of a sequence of max_context positions, at least 1. */
static inline int64_t attend_splits(int64_t max_context) {
    if (max_context > INT32_MAX) max_context = INT32_MAX;
    return max_context > 0 ? split_of_page((int)((max_context - 1) / SY_PAGE_TOKENS)) + 1 : 1;
}

/* Steps of at most this many rows run their splits side by side; their partial states are what
 * attend needs scratch for. 0 if one split is all there can be. */
int64_t sy_cuda_attend_split_rows(const sy_limits *l);

/* Bytes of the partial states, float m, l [splits][rows][A] and o [splits][rows][A][D];
 * UINT64_MAX on overflow. */
uint64_t
sy_cuda_attend_bytes(int64_t n_splits, int64_t n_rows, int64_t heads, int64_t head_dim);

#endif
