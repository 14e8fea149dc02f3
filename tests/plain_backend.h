/* A backend of four entries for tests of the exchange, in the plainest C: alloc, free, pack_rows
 * and unpack. It is an implementation of sy_tree_job of its own, beside those in kernels/. */
#ifndef SY_TESTS_PLAIN_BACKEND_H
#define SY_TESTS_PLAIN_BACKEND_H

#include <string.h>

#include "base/memory.h"
#include "kernels/ops.h"

static sy_status plain_alloc(sy_backend *be, void *out, uint64_t bytes, const char *what) {
    (void)be;
    return sy_mem_alloc(out, bytes, what);
}

static void plain_free(sy_backend *be, void *ptr, uint64_t bytes) {
    (void)be;
    sy_mem_free(ptr, bytes);
}

static sy_status plain_pack_rows(sy_backend *be,
                                 int64_t n_rows,
                                 int64_t row_bytes,
                                 const sy_row_ref *ref,
                                 const void *const *chunk,
                                 void *dst,
                                 sy_stream *s) {
    (void)be;
    (void)s;
    for (int64_t i = 0; i < n_rows; i++)
        memcpy((char *)dst + i * row_bytes,
               (const char *)chunk[ref[i].chunk] + ref[i].row * row_bytes, (size_t)row_bytes);
    return SY_OK;
}

/* The sum over leaf[0..n) at column h within the subtree [lo, lo + width); n > 0. */
static float plain_subtree(const sy_tree_job *job,
                           const sy_tree_leaf *leaf,
                           int64_t n,
                           int lo,
                           int width,
                           int64_t h) {
    if (n == 1) {
        float value = job->chunk[leaf->ref.chunk][leaf->ref.row * (int64_t)job->width + h];
        return job->weighted ? leaf->weight * value : value;
    }
    int left = (width + 1) / 2;
    int64_t n_left = 0;
    while (n_left < n && leaf[n_left].expert < lo + left)
        n_left++;
    if (n_left == n) return plain_subtree(job, leaf, n, lo, left, h);
    if (n_left == 0) return plain_subtree(job, leaf, n, lo + left, width - left, h);
    return plain_subtree(job, leaf, n_left, lo, left, h) +
           plain_subtree(job, leaf + n_left, n - n_left, lo + left, width - left, h);
}

static sy_status plain_unpack(sy_backend *be, const sy_tree_job *job, sy_stream *s) {
    (void)be;
    (void)s;
    for (int64_t i = 0; i < job->n_rows; i++) {
        const sy_tree_leaf *leaf = job->leaf + job->first[i];
        int64_t n = job->first[i + 1] - job->first[i];
        for (int64_t h = 0; h < job->width; h++) {
            float sum = n == 0 ? 0.0f : plain_subtree(job, leaf, n, 0, job->n_experts, h);
            float *out = &job->out[i * job->width + h];
            if (job->shared != NULL) sum += job->shared[i * job->width + h];
            *out = job->accumulate ? *out + sum : sum;
        }
    }
    return SY_OK;
}

static const sy_ops plain_ops = {.name = "plain",
                                 .alloc = plain_alloc,
                                 .free = plain_free,
                                 .pack_rows = plain_pack_rows,
                                 .unpack = plain_unpack};

static inline sy_backend plain_backend(sy_dtype act) {
    return (sy_backend){.ops = &plain_ops, .act = act};
}

#endif
