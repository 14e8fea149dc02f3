/* What the files of the attention family share: where a sequence is cut into splits, and how the
 * partial states of the splits lie in scratch.
 *
 * A split is a run of whole pages whose ends depend on absolute positions alone: 64 tokens
 * below 1024, 256 below 8192, 512 beyond, so that few rows occupy a device at short contexts
 * and the partial states cost little at long ones. Latent attention, whose states are as large as
 * the latents of hundreds of tokens and which has many heads to occupy a device, takes 256 below
 * 2048, 1024 below 16384, 4096 beyond. Where a split begins never depends on the length of the
 * sequence, on the batch or on the device, hence a row has the same bits in every step. */
#ifndef SY_KERNELS_CUDA_ATTENTION_H
#define SY_KERNELS_CUDA_ATTENTION_H

#include "base/checked.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/ptx.h"

enum { ATTN_MAX_HEAD_DIM = SY_CUDA_MAX_HEAD_DIM };

/* Pages of a split: FIRST each below page FIRST_END, SECOND below SECOND_END, THIRD beyond. */
template <bool LATENT> struct split_sizes {
    static constexpr int FIRST = LATENT ? 4 : 1, SECOND = LATENT ? 16 : 4,
                         THIRD = LATENT ? 64 : 8;
    static constexpr int FIRST_END = (LATENT ? 2048 : 1024) / SY_PAGE_TOKENS,
                         SECOND_END = (LATENT ? 16384 : 8192) / SY_PAGE_TOKENS;
    /* The first of the splits that are as large as SECOND, and as THIRD. */
    static constexpr int SECOND_FROM = FIRST_END / FIRST,
                         THIRD_FROM = SECOND_FROM + (SECOND_END - FIRST_END) / SECOND;
};

/* The split that holds a page (page = position / 64). */
template <bool LATENT> static __host__ __device__ inline int split_of_page(int page) {
    using sizes = split_sizes<LATENT>;
    if (page < sizes::FIRST_END) return page / sizes::FIRST;
    if (page < sizes::SECOND_END)
        return sizes::SECOND_FROM + (page - sizes::FIRST_END) / sizes::SECOND;
    return sizes::THIRD_FROM + (page - sizes::SECOND_END) / sizes::THIRD;
}

/* The first page of a split; of split + 1: the page behind it. */
template <bool LATENT> static __host__ __device__ inline int split_first_page(int split) {
    using sizes = split_sizes<LATENT>;
    if (split < sizes::SECOND_FROM) return split * sizes::FIRST;
    if (split < sizes::THIRD_FROM)
        return sizes::FIRST_END + (split - sizes::SECOND_FROM) * sizes::SECOND;
    return sizes::SECOND_END + (split - sizes::THIRD_FROM) * sizes::THIRD;
}

/* Splits of a sequence of max_context positions, at least 1. */
template <bool LATENT> static inline int64_t attend_splits(int64_t max_context) {
    if (max_context > INT32_MAX) max_context = INT32_MAX;
    int64_t last = (max_context - 1) / SY_PAGE_TOKENS;
    return max_context > 0 ? split_of_page<LATENT>((int)last) + 1 : 1;
}

/* Steps of at most this many rows run their splits side by side; their partial states are what
 * attend needs scratch for. 0 if one split is all there can be. */
int64_t sy_cuda_attend_split_rows(const sy_limits *l);

/* Bytes of the partial states, float m, l [splits][rows][A] and o [splits][rows][A][D];
 * UINT64_MAX on overflow. */
uint64_t
sy_cuda_attend_bytes(int64_t n_splits, int64_t n_rows, int64_t heads, int64_t head_dim);

/* ---- attention_latent.cu: the core of latent attention ---- */

/* Values from one token's latent to the next in a page: whole pieces of 16 bytes. */
static inline int64_t latent_stride(const sy_mla_spec *mla) {
    return sy_round_up((int64_t)mla->kv_rank + mla->rope, 8);
}

sy_status sy_cuda_attend_latent(sy_cuda *cu,
                                const sy_attn_spec *attn,
                                const void *q,
                                const sy_kv_layer *kv,
                                const float *sinks,
                                void *o);
uint64_t sy_cuda_attend_latent_scratch(const sy_limits *l);
uint64_t sy_cuda_attend_latent_counters(const sy_limits *l);
sy_status sy_cuda_attend_latent_prepare(sy_cuda *cu);

/* ---- attention_mla.cu: what stands before and behind it; n_rows within the step's bound ---- */

sy_status sy_cuda_latent_in(sy_cuda *cu,
                            const sy_layer_spec *spec,
                            const sy_layer_weights *w,
                            const sy_rope_table *rope,
                            const float *x,
                            void *q,
                            const sy_kv_layer *kv);
sy_status sy_cuda_latent_out(sy_cuda *cu,
                             const sy_layer_spec *spec,
                             const sy_layer_weights *w,
                             int64_t n_rows,
                             const void *o,
                             float *x);
uint64_t sy_cuda_latent_scratch(const sy_limits *l);

#endif
