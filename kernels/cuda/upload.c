/* Small tables on their way to the device: a ring of pinned memory with a ring of device memory
 * of the same layout behind it.
 *
 * The ring has two halves. Device memory is written in stream order, so a half may be used anew
 * at once; pinned memory only when the copies out of it are done, which the half's event tells. */
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "kernels/cuda/cuda.h"

enum { ALIGNMENT = 256 };

struct sy_cuda_uploads {
    char *host, *device;
    uint64_t half; /* bytes */
    uint64_t used; /* of the current half */
    int current;
    cudaEvent_t copied[2];
};

/* The largest tables are those of the exchange: refs and leaves of all pairs. */
static uint64_t half_bytes(const sy_limits *l) {
    uint64_t bytes = ((uint64_t)8 << 20) + 64 * (uint64_t)sy_max(l->max_pairs, 0);
    return bytes / ALIGNMENT * ALIGNMENT;
}

uint64_t sy_cuda_uploads_bytes(const sy_limits *limits) {
    return 2 * half_bytes(limits);
}

sy_status sy_cuda_uploads_create(sy_cuda *cu) {
    sy_status st = SY_OK;
    struct sy_cuda_uploads *u = calloc(1, sizeof *u);
    if (u == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for uploads");
    cu->uploads = u;
    u->half = half_bytes(&cu->limits);
    SY_TRY(SY_CUDA(cu, cudaHostAlloc((void **)&u->host, 2 * u->half, 0)));
    SY_TRY(SY_CUDA(cu, cudaMalloc((void **)&u->device, 2 * u->half)));
    for (int i = 0; i < 2; i++)
        SY_TRY(SY_CUDA(cu, cudaEventCreateWithFlags(&u->copied[i], cudaEventDisableTiming)));
done:
    if (st != SY_OK) sy_status_context("the ring of uploads");
    return st;
}

void sy_cuda_uploads_destroy(sy_cuda *cu) {
    struct sy_cuda_uploads *u = cu->uploads;
    if (u == NULL) return;
    for (int i = 0; i < 2; i++)
        if (u->copied[i] != NULL) cudaEventDestroy(u->copied[i]);
    if (u->host != NULL) cudaFreeHost(u->host);
    if (u->device != NULL) cudaFree(u->device);
    free(u);
    cu->uploads = NULL;
}

static sy_status next_half(sy_cuda *cu, struct sy_cuda_uploads *u) {
    sy_status st = SY_OK;
    SY_TRY(SY_CUDA(cu, cudaEventRecord(u->copied[u->current], cu->stream)));
    u->current ^= 1;
    u->used = 0;
    SY_TRY(SY_CUDA(cu, cudaEventSynchronize(u->copied[u->current])));
done:
    return st;
}

sy_status sy_cuda_upload(sy_cuda *cu, const void *host, uint64_t bytes, void *out) {
    sy_status st = SY_OK;
    struct sy_cuda_uploads *u = cu->uploads;
    if (u == NULL) SY_FAIL(SY_ERR_INTERNAL, "an upload before sy_ops.reserve");
    if (cu->recording != NULL) SY_FAIL(SY_ERR_INTERNAL, "an upload within a recording");
    if (bytes > u->half)
        SY_FAIL(SY_ERR_INTERNAL, "an upload of %llu bytes, the ring takes %llu",
                (unsigned long long)bytes, (unsigned long long)u->half);
    uint64_t room = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (u->used + room > u->half) SY_TRY(next_half(cu, u));
    uint64_t at = (uint64_t)u->current * u->half + u->used;
    u->used += room;
    if (bytes > 0) {
        memcpy(u->host + at, host, bytes);
        SY_TRY(SY_CUDA(cu, cudaMemcpyAsync(u->device + at, u->host + at, bytes,
                                           cudaMemcpyHostToDevice, cu->stream)));
    }
    *(void **)out = u->device + at;
done:
    return st;
}
