/* Packing weights: from pinned memory to the device in the file's order, there into fragments.
 *
 * Each slot of a stage has a counterpart in device memory and an event that says when the device
 * has done with both; all slots share one stream. The pack entry copies from a slot where it
 * lies; from ordinary memory it takes a slot of the backend's own stage and copies there first. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/cuda/cuda.h"
#include "kernels/cuda/quant.h"
#include "kernels/weight_source.h"

typedef struct slot {
    char *host, *device;
    cudaEvent_t done;
    bool taken, waited; /* waited: nothing is under way from here */
} slot;

struct sy_stage {
    sy_cuda *cu;
    int n;
    uint64_t slot_bytes;
    slot *slot;
    cudaStream_t stream;
    pthread_mutex_t lock;
    pthread_cond_t given;
    int next; /* slots are handed out in turn, so that the oldest is waited for */
};

static sy_status open_slots(sy_stage *stage) {
    sy_status st = SY_OK;
    sy_cuda *cu = stage->cu;
    SY_TRY(SY_CUDA(cu, cudaSetDevice(cu->device)));
    SY_TRY(SY_CUDA(cu, cudaStreamCreateWithFlags(&stage->stream, cudaStreamNonBlocking)));
    for (int i = 0; i < stage->n; i++) {
        slot *s = &stage->slot[i];
        s->waited = true;
        SY_TRY(SY_CUDA(cu, cudaHostAlloc((void **)&s->host, stage->slot_bytes, 0)));
        SY_TRY(SY_CUDA(cu, cudaMalloc((void **)&s->device, stage->slot_bytes)));
        SY_TRY(SY_CUDA(cu, cudaEventCreateWithFlags(&s->done, cudaEventDisableTiming)));
    }
done:
    return st;
}

sy_status sy_cuda_stage_open(sy_backend *be, int n_slots, uint64_t slot_bytes, sy_stage **out) {
    sy_status st = SY_OK;
    sy_stage *stage = calloc(1, sizeof *stage);
    *out = NULL;
    if (stage == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a loading stage");
    pthread_mutex_init(&stage->lock, NULL);
    pthread_cond_init(&stage->given, NULL);
    stage->cu = sy_cuda_of(be);
    stage->n = n_slots;
    stage->slot_bytes = slot_bytes;
    stage->slot = calloc((size_t)n_slots, sizeof *stage->slot);
    if (stage->slot == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a loading stage");
    SY_TRY(open_slots(stage));
    stage->cu->loading = stage;
    *out = stage;
    stage = NULL;
done:
    if (stage != NULL) { /* the first fault is the one to report */
        sy_error_text text;
        sy_status_context("slots for reading weights");
        sy_status_save(&text);
        sy_cuda_stage_close(stage);
        sy_status_restore(&text);
    }
    return st;
}

sy_status sy_cuda_stage_close(sy_stage *stage) {
    sy_status st = SY_OK;
    if (stage == NULL) return SY_OK;
    sy_cuda *cu = stage->cu;
    if (cu->loading == stage) cu->loading = NULL;
    if (stage->stream != NULL) st = SY_CUDA(cu, cudaStreamSynchronize(stage->stream));
    for (int i = 0; stage->slot != NULL && i < stage->n; i++) {
        slot *s = &stage->slot[i];
        if (s->done != NULL) cudaEventDestroy(s->done);
        if (s->device != NULL) cudaFree(s->device);
        if (s->host != NULL) cudaFreeHost(s->host);
    }
    if (stage->stream != NULL) cudaStreamDestroy(stage->stream);
    free(stage->slot);
    pthread_cond_destroy(&stage->given);
    pthread_mutex_destroy(&stage->lock);
    free(stage);
    return st;
}

/* The next slot in turn that nobody holds. */
static slot *find_free(sy_stage *stage) {
    for (int i = 0; i < stage->n; i++) {
        slot *s = &stage->slot[(stage->next + i) % stage->n];
        if (s->taken) continue;
        stage->next = (int)(s - stage->slot + 1) % stage->n;
        return s;
    }
    return NULL;
}

sy_status sy_cuda_stage_take(sy_stage *stage, void **out) {
    sy_status st = SY_OK;
    sy_cuda *cu = stage->cu;
    slot *s;
    pthread_mutex_lock(&stage->lock);
    while ((s = find_free(stage)) == NULL)
        pthread_cond_wait(&stage->given, &stage->lock);
    s->taken = true;
    pthread_mutex_unlock(&stage->lock);
    /* A reader thread is new to CUDA: it names its device first. */
    st = SY_CUDA(cu, cudaSetDevice(cu->device));
    if (st == SY_OK && !s->waited) st = SY_CUDA(cu, cudaEventSynchronize(s->done));
    s->waited = st == SY_OK;
    if (st != SY_OK) sy_cuda_stage_give(stage, s->host);
    *out = s->host;
    return st;
}

static slot *slot_of(const sy_stage *stage, const void *at) {
    for (int i = 0; stage != NULL && i < stage->n; i++) {
        slot *s = &stage->slot[i];
        const char *p = at;
        if (p >= s->host && p < s->host + stage->slot_bytes) return s;
    }
    return NULL;
}

void sy_cuda_stage_give(sy_stage *stage, void *at) {
    slot *s = slot_of(stage, at);
    if (s == NULL) return;
    pthread_mutex_lock(&stage->lock);
    s->taken = false;
    pthread_cond_signal(&stage->given);
    pthread_mutex_unlock(&stage->lock);
}

/* Output rows [row0, row0 + n) of a part. */
typedef struct rows {
    const sy_matrix *m;
    int part;
    int64_t row0, n;
} rows;

/* The slot that all of a source stands in, or NULL. */
static slot *slot_of_source(const sy_stage *stage, const rows *r, const sy_weight_source *src) {
    sy_cuda_source_bytes bytes = sy_cuda_source_bytes_of(r->m, src->dtype, r->row0, r->n);
    slot *s = slot_of(stage, src->codes);
    bool scales = bytes.scales == 0 || slot_of(stage, src->scales) == s;
    bool zeros = bytes.zeros == 0 || slot_of(stage, src->zeros) == s;
    return scales && zeros ? s : NULL;
}

/* Copies from a slot to the same place of its counterpart on the device; *out: there. */
static sy_status
copy_slot(sy_stage *stage, slot *s, const void *from, uint64_t bytes, const void **out) {
    if (bytes == 0) return SY_OK;
    char *to = s->device + ((const char *)from - s->host);
    *out = to;
    s->waited = false;
    return SY_CUDA(stage->cu,
                   cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stage->stream));
}

/* Packs rows whose bytes stand in a slot. */
static sy_status
pack_slot(sy_stage *stage, slot *s, const rows *r, const sy_weight_source *src) {
    sy_status st = SY_OK;
    sy_cuda *cu = stage->cu;
    sy_cuda_source_bytes bytes = sy_cuda_source_bytes_of(r->m, src->dtype, r->row0, r->n);
    const void *codes = NULL, *scales = NULL, *zeros = NULL;
    SY_TRY(copy_slot(stage, s, src->codes, bytes.codes, &codes));
    SY_TRY(copy_slot(stage, s, src->scales, bytes.scales, &scales));
    SY_TRY(copy_slot(stage, s, src->zeros, bytes.zeros, &zeros));
    s->waited = false;
    if (sy_is_quantised(r->m->dtype))
        SY_TRY(sy_cuda_quant_pack(
            cu, r->m, r->part, r->row0, r->n,
            &(sy_weight_source){src->dtype, codes, scales, (const uint8_t *)zeros},
            stage->stream));
    else
        SY_TRY(sy_cuda_pack_device(cu, r->m, r->part, r->row0, r->n, codes, src->dtype,
                                   stage->stream));
done:
    if (!s->waited) {
        sy_status recorded = SY_CUDA(cu, cudaEventRecord(s->done, stage->stream));
        if (st == SY_OK) st = recorded;
    }
    return st;
}

enum { ALIGNMENT = 16 }; /* in a slot */

static uint64_t aligned(uint64_t bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* Copies what a source has for its rows into a slot; *out: there. */
static void
fill_slot(const rows *r, const sy_weight_source *src, char *to, sy_weight_source *out) {
    sy_cuda_source_bytes bytes = sy_cuda_source_bytes_of(r->m, src->dtype, r->row0, r->n);
    char *scales = to + aligned(bytes.codes), *zeros = scales + aligned(bytes.scales);
    *out = (sy_weight_source){src->dtype, to, scales, (const uint8_t *)zeros};
    if (bytes.codes > 0) memcpy(to, src->codes, bytes.codes);
    if (bytes.scales > 0) memcpy(scales, src->scales, bytes.scales);
    if (bytes.zeros > 0) memcpy(zeros, src->zeros, bytes.zeros);
}

/* The same from anywhere, in pieces that fit into a slot, and done on return. */
static sy_status pack_ordinary(sy_cuda *cu, const rows *r, const sy_weight_source *src) {
    sy_status st = SY_OK;
    sy_stage *stage = cu->stage;
    /* Scales of blocks: pieces of more rows have at most as many blocks for each 64 of them. */
    sy_cuda_source_bytes group = sy_cuda_source_bytes_of(r->m, src->dtype, 0, SY_PACK_ROWS);
    uint64_t bytes = aligned(group.codes) + aligned(group.scales) + aligned(group.zeros);
    int64_t step = r->n;
    if (bytes > stage->slot_bytes)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%d rows of %lld bytes exceed a loading slot",
                (int)SY_PACK_ROWS, (long long)(bytes / SY_PACK_ROWS));
    if (bytes > 0) step = (int64_t)(stage->slot_bytes / bytes) * SY_PACK_ROWS;
    for (int64_t at = 0; at < r->n; at += step) {
        rows piece = {r->m, r->part, r->row0 + at, sy_min(step, r->n - at)};
        sy_weight_source from = sy_cuda_source_from(r->m, src, r->row0, at), in_slot;
        void *host;
        SY_TRY(sy_cuda_stage_take(stage, &host));
        slot *s = slot_of(stage, host);
        fill_slot(&piece, &from, host, &in_slot);
        st = pack_slot(stage, s, &piece, &in_slot);
        if (st == SY_OK) st = SY_CUDA(cu, cudaEventSynchronize(s->done));
        sy_cuda_stage_give(stage, host);
        if (st != SY_OK) goto done;
    }
done:
    return st;
}

sy_status sy_cuda_pack(sy_backend *be,
                       const sy_matrix *m,
                       int part,
                       int64_t row0,
                       int64_t n_rows,
                       const sy_weight_source *src) {
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    const rows r = {m, part, row0, n_rows};
    SY_TRY(sy_cuda_check_pack(m, part, row0, n_rows, src->dtype));
    if (sy_is_quantised(m->dtype)) SY_TRY(sy_check_quantised(m, part, row0, n_rows, src));
    if (n_rows == 0 || (m->k == 0 && !sy_is_quantised(m->dtype))) return SY_OK;
    slot *s = slot_of_source(cu->loading, &r, src);
    st = s != NULL ? pack_slot(cu->loading, s, &r, src) : pack_ordinary(cu, &r, src);
done:
    return st;
}
