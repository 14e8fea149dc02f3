/* What both cores of attention do alike: which pages a row sees, the softmax state (m, l, o) of a
 * row, and how the states of splits are joined. */
#ifndef SY_KERNELS_CUDA_ATTENTION_STATE_H
#define SY_KERNELS_CUDA_ATTENTION_STATE_H

#include "kernels/cuda/attention.h"

enum { MAX_SPLIT_ROWS = 64, MAX_STATE_BYTES = 1 << 26 /* of all partial states */ };

/* Two neighbours in memory, read or written at once. */
typedef uint32_t __attribute__((may_alias)) bf16_pair;

/* The pages and the splits that the row at a position sees a key of; window: keys that it sees,
 * itself the last. */
SY_DEVICE int first_page_of(int window, int position) {
    return max(position - window + 1, 0) / SY_PAGE_TOKENS;
}

template <bool LATENT> SY_DEVICE int first_split_of(int window, int position) {
    return split_of_page<LATENT>(first_page_of(window, position));
}

template <bool LATENT> SY_DEVICE int last_split_of(int position) {
    return split_of_page<LATENT>(position / SY_PAGE_TOKENS);
}

SY_DEVICE float minus_infinity(void) {
    return __uint_as_float(0xff800000u);
}

/* What is subtracted from scores whose maximum is m. Where all are -inf it is 0, for -inf -
 * -inf would be NaN; 2^(-inf - 0) = 0 is right. */
SY_DEVICE float finite_max(float m) {
    return m == minus_infinity() ? 0.0f : m;
}

/* (m, l) joined with the state (m2, l2) of a later split; *keep and *add are what the vectors
 * are multiplied by: o = o keep + o2 add. The empty state is (-inf, 0, 0). */
SY_DEVICE void join_states(float *m, float *l, float m2, float l2, float *keep, float *add) {
    float joined = fmaxf(*m, m2), base = finite_max(joined);
    *keep = sy_exp2(*m - base);
    *add = sy_exp2(m2 - base);
    *m = joined;
    *l = fmaf(l2, *add, *l * *keep);
}

SY_DEVICE float join_value(float o, float keep, float o2, float add) {
    return fmaf(o2, add, o * keep);
}

/* o / l as bf16. Adding 0 turns -0 into +0: the sign of a zero is what the values of tokens
 * behind a row's position could otherwise change. */
SY_DEVICE uint32_t final_pair(float o0, float o1, float inverse) {
    return sy_pack_bf16(o0 * inverse + 0.0f, o1 * inverse + 0.0f);
}

/* What the vector of a row's whole state (m, l) is multiplied by: 1 / l, or, with a sink, which is
 * a further score without a value, the same of the state that it is joined to. */
SY_DEVICE float final_scale(const float *sinks, int head, float m, float l) {
    if (sinks == NULL) return __fdividef(1.0f, l);
    float keep, add;
    join_states(&m, &l, sinks[head] * 1.44269504088896341f, 1.0f, &keep, &add);
    return __fdividef(keep, l);
}

/* Raises a running maximum to that of the next page; what l and o are to be multiplied by. */
SY_DEVICE float raise_max(float *m, float page_max) {
    float old = *m;
    *m = fmaxf(old, page_max);
    return sy_exp2(old - finite_max(*m));
}

/* True in the last of so many blocks to get here, which count themselves in *arrived; it sees what
 * the others have written. The count is 0 again when the launch ends. */
SY_DEVICE bool last_to_arrive(int32_t *arrived, int blocks) {
    int last = 0;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(arrived, 1) == blocks - 1;
        if (last) *arrived = 0;
    }
    if (!__syncthreads_or(last)) return false;
    __threadfence();
    return true;
}

#endif
