/* What attention does to the rows of its products, in either form, before the core: norms, the
 * query's temperature, and where a token's place in the pages is. */
#ifndef SY_KERNELS_CUDA_ATTENTION_ROWS_H
#define SY_KERNELS_CUDA_ATTENTION_ROWS_H

#include <limits.h>

#include "kernels/cuda/attention.h"

enum {
    FINISH_WARPS = 8, /* heads of a block, one each */
    FINISH_THREADS = 32 * FINISH_WARPS
};

/* Where the tokens of a step go, from its record. */
typedef struct token_places {
    const int32_t *position, *span_of_row, *page_first, *page;
    char *pages;
    int64_t page_bytes;
} token_places;

static inline token_places token_places_of(const sy_cuda *cu, const sy_kv_layer *kv) {
    token_places t = {cu->step.position, cu->step.span_of_row, cu->step.page_first,
                      cu->step.page,     (char *)kv->data,     kv->page_bytes};
    return t;
}

/* The page of a row at its position, which is not negative. */
SY_DEVICE char *page_of_row(const token_places &t, int64_t row, int position) {
    int64_t first = t.page_first[t.span_of_row[row]];
    return t.pages + t.page[first + position / SY_PAGE_TOKENS] * t.page_bytes;
}

typedef struct temperature {
    float beta;
    int positions;
} temperature;

static inline temperature temperature_of(const sy_attn_spec *attn) {
    temperature t = {attn->query_positions < 1 ? 0.0f : attn->query_beta,
                     (int)sy_max(sy_min(attn->query_positions, INT_MAX), 1)};
    return t;
}

/* What q of a position is multiplied by, see sy_attn_spec; the logarithm is the device's. */
SY_DEVICE float query_scale(const temperature &t, int position) {
    if (t.beta == 0.0f) return 1.0f;
    return 1.0f + t.beta * logf((float)(1 + position / t.positions));
}

/* 1 / sqrt(mean(x^2) + eps) of x + bias [n] by the whole block: each thread adds up its own strided
 * share, lanes meet in a butterfly, warps are added ascending. */
SY_DEVICE float block_inverse_rms(const float *x, const float *bias, int n, float eps) {
    __shared__ float of_warp[FINISH_WARPS];
    float sum = 0.0f;
#pragma unroll 4
    for (int i = threadIdx.x; i < n; i += 32 * FINISH_WARPS) {
        float v = bias == NULL ? x[i] : x[i] + bias[i];
        sum = fmaf(v, v, sum);
    }
    sum = sy_warp_sum(sum);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    sum = 0.0f;
    for (int i = 0; i < FINISH_WARPS; i++)
        sum += of_warp[i];
    return 1.0f / sqrtf(sum / (float)n + eps);
}

/* The pair (a, b) turned by the angle whose cosine and sine these are. */
SY_DEVICE void turn(float *a, float *b, float cosine, float sine) {
    float low = *a * cosine - *b * sine;
    *b = *b * cosine + *a * sine;
    *a = low;
}

#endif
