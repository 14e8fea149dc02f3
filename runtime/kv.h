/* The KV cache of this rank: a fixed number of pages of 64 tokens, handed out to sequences.
 *
 * A page id means the same page in every layer. The inner layout of a page belongs to the
 * backend; here are only ids. All memory is taken at create, zeroed. */
#ifndef SY_RUNTIME_KV_H
#define SY_RUNTIME_KV_H

#include "kernels/ops.h"
#include "runtime/spec.h"

typedef struct sy_kv {
    sy_backend *backend;
    int n_layers;
    sy_kv_layer *layer; /* [L] */
    void *block;
    uint64_t bytes;
    int32_t n_pages, n_free;
    int32_t *free_page; /* stack of free ids */
} sy_kv;

/* Pages that n_positions tokens need. */
static inline int64_t sy_kv_pages(int64_t n_positions) {
    return (n_positions + SY_PAGE_TOKENS - 1) / SY_PAGE_TOKENS;
}

/* Device bytes of a cache, for the memory budget; UINT64_MAX on overflow. */
uint64_t sy_kv_bytes(sy_backend *be, const sy_model_spec *spec, int64_t n_pages);

sy_status sy_kv_create(sy_backend *be, const sy_model_spec *spec, int64_t n_pages, sy_kv **out);
void sy_kv_destroy(sy_kv *kv); /* NULL is fine */

/* Takes n pages into page[0..n); SY_ERR_MEMORY, and takes none, if fewer are free. */
sy_status sy_kv_take(sy_kv *kv, int64_t n, int32_t *page);
void sy_kv_give_back(sy_kv *kv, int64_t n, const int32_t *page);

#endif
