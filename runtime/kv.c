#include "runtime/kv.h"

#include <stdlib.h>

#include "base/checked.h"

uint64_t sy_kv_bytes(sy_backend *be, const sy_model_spec *spec, int64_t n_pages) {
    uint64_t total = 0;
    for (int l = 0; l < spec->n_layers; l++) {
        uint64_t page = be->ops->kv_page_bytes(be, &spec->layer[l].attn), bytes;
        if (!sy_mul_u64(page, (uint64_t)n_pages, &bytes) || !sy_add_u64(total, bytes, &total))
            return UINT64_MAX;
    }
    return total;
}

sy_status
sy_kv_create(sy_backend *be, const sy_model_spec *spec, int64_t n_pages, sy_kv **out) {
    sy_status st = SY_OK;
    sy_kv *kv = calloc(1, sizeof *kv);
    *out = NULL;
    if (kv == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the KV cache");
    kv->backend = be;
    if (n_pages > INT32_MAX)
        SY_FAIL(SY_ERR_MEMORY, "the KV cache would need %lld pages; at most %d are possible",
                (long long)n_pages, INT32_MAX);
    kv->n_layers = spec->n_layers;
    kv->n_pages = kv->n_free = (int32_t)n_pages;
    kv->layer = calloc((size_t)spec->n_layers, sizeof *kv->layer);
    kv->free_page = calloc((size_t)n_pages + 1, sizeof *kv->free_page);
    if (kv->layer == NULL || kv->free_page == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for the KV cache");
    for (int32_t i = 0; i < kv->n_pages; i++)
        kv->free_page[i] = kv->n_pages - 1 - i;

    uint64_t bytes = sy_kv_bytes(be, spec, n_pages);
    SY_TRY(be->ops->alloc(be, &kv->block, bytes, "KV cache"));
    kv->bytes = bytes;
    char *at = kv->block;
    for (int l = 0; l < spec->n_layers; l++) {
        uint64_t page = be->ops->kv_page_bytes(be, &spec->layer[l].attn);
        kv->layer[l] = (sy_kv_layer){at, (int64_t)page};
        at += page * (uint64_t)n_pages;
    }
    *out = kv;
    kv = NULL;
done:
    sy_kv_destroy(kv);
    return st;
}

void sy_kv_destroy(sy_kv *kv) {
    if (kv == NULL) return;
    kv->backend->ops->free(kv->backend, kv->block, kv->bytes);
    free(kv->layer);
    free(kv->free_page);
    free(kv);
}

sy_status sy_kv_take(sy_kv *kv, int64_t n, int32_t *page) {
    if (n > kv->n_free)
        return sy_fail(SY_ERR_MEMORY, "the KV cache has %d free pages, %lld are needed",
                       kv->n_free, (long long)n);
    for (int64_t i = 0; i < n; i++)
        page[i] = kv->free_page[--kv->n_free];
    return SY_OK;
}

void sy_kv_give_back(sy_kv *kv, int64_t n, const int32_t *page) {
    for (int64_t i = n - 1; i >= 0; i--)
        kv->free_page[kv->n_free++] = page[i];
}
