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

/* Packs rows whose bytes stand in a slot. */
static sy_status pack_slot(sy_stage *stage,
                           slot *s,
                           const char *src,
                           uint64_t bytes,
                           const sy_matrix *m,
                           int part,
                           int64_t row0,
                           int64_t n_rows,
                           sy_dtype src_dtype) {
    sy_status st = SY_OK;
    sy_cuda *cu = stage->cu;
    char *device = s->device + (src - s->host);
    SY_TRY(SY_CUDA(cu,
                   cudaMemcpyAsync(device, src, bytes, cudaMemcpyHostToDevice, stage->stream)));
    s->waited = false;
    SY_TRY(sy_cuda_pack_device(cu, m, part, row0, n_rows, device, src_dtype, stage->stream));
done:
    if (!s->waited) {
        sy_status recorded = SY_CUDA(cu, cudaEventRecord(s->done, stage->stream));
        if (st == SY_OK) st = recorded;
    }
    return st;
}

/* The same from anywhere, in pieces that fit into a slot, and done on return. */
static sy_status pack_ordinary(sy_cuda *cu,
                               const sy_matrix *m,
                               int part,
                               int64_t row0,
                               int64_t n_rows,
                               const char *src,
                               sy_dtype src_dtype,
                               int64_t row_bytes) {
    sy_status st = SY_OK;
    sy_stage *stage = cu->stage;
    int64_t groups = (int64_t)stage->slot_bytes / (row_bytes * SY_PACK_ROWS);
    if (groups == 0)
        SY_FAIL(SY_ERR_UNSUPPORTED, "rows of %lld bytes: %d of them exceed a loading slot",
                (long long)row_bytes, (int)SY_PACK_ROWS);
    for (int64_t at = 0; at < n_rows; at += groups * SY_PACK_ROWS) {
        int64_t n = sy_min(groups * SY_PACK_ROWS, n_rows - at);
        uint64_t bytes = (uint64_t)(n * row_bytes);
        void *host;
        SY_TRY(sy_cuda_stage_take(stage, &host));
        memcpy(host, src + at * row_bytes, bytes);
        slot *s = slot_of(stage, host);
        st = pack_slot(stage, s, host, bytes, m, part, row0 + at, n, src_dtype);
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
    sy_cuda *cu = sy_cuda_of(be);
    if (sy_is_quantised(m->dtype) || sy_is_quantised(src->dtype))
        return sy_fail(
            SY_ERR_UNSUPPORTED,
            "--device cuda has no kernels for quantised weights (%s); --device cpu does",
            sy_dtype_name(src->dtype));
    int64_t row_bytes = m->k * sy_dtype_bits(src->dtype) / 8;
    if (n_rows == 0 || m->k == 0) return SY_OK;
    slot *s = slot_of(cu->loading, src->codes);
    if (s != NULL)
        return pack_slot(cu->loading, s, src->codes, (uint64_t)(n_rows * row_bytes), m, part,
                         row0, n_rows, src->dtype);
    return pack_ordinary(cu, m, part, row0, n_rows, src->codes, src->dtype, row_bytes);
}
