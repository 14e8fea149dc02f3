/* Opening the CUDA backend, its memory, and the table of its steps. */
#include "kernels/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/hash.h"
#include "base/memory.h"
#include "kernels/cuda/dense_fast.h"
#include "kernels/cuda/open.h"

/* Slots for packing from ordinary memory: two take turns. */
enum { STAGE_SLOTS = 2, STAGE_BYTES = 8 << 20 };
/* Left to the system where device memory is the machine's own: the desktop, page cache, drivers. */
#define SYSTEM_RESERVE ((uint64_t)8 << 30)

sy_status sy_cuda_status(const sy_cuda *cu, cudaError_t error, const char *call) {
    if (error == cudaSuccess) return SY_OK;
    size_t n = strcspn(call, "(");
    sy_status st = error == cudaErrorMemoryAllocation ? SY_ERR_MEMORY : SY_ERR_DEVICE;
    (void)cudaGetLastError(); /* or the next launch would report it again */
    return sy_fail(st, "device %d (%s): %.*s: %s (%s)", cu->device, cu->name, (int)n, call,
                   cudaGetErrorString(error), cudaGetErrorName(error));
}

static void free_reserved(sy_cuda *cu) {
    if (cu->scratch != NULL) cudaFree(cu->scratch);
    cu->scratch = NULL;
    cu->scratch_bytes = 0;
    if (cu->attend_counter != NULL) cudaFree(cu->attend_counter);
    cu->attend_counter = NULL;
    cu->attend_counter_bytes = 0;
    sy_cuda_record_destroy(cu);
    sy_cuda_uploads_destroy(cu);
}

static void cuda_close(sy_backend *be) {
    if (be == NULL) return;
    sy_cuda *cu = sy_cuda_of(be);
    if (cu->stream != NULL) cudaStreamSynchronize(cu->stream);
    free_reserved(cu);
    (void)sy_cuda_set_fast(be, false);
    sy_cuda_stage_close(cu->stage);
    if (cu->stream != NULL) cudaStreamDestroy(cu->stream);
    free(cu);
}

static sy_status cuda_alloc(sy_backend *be, void *out, uint64_t bytes, const char *what) {
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    void *p = NULL;
    *(void **)out = NULL;
    if (bytes > PTRDIFF_MAX)
        SY_FAIL(SY_ERR_MEMORY, "%s: more bytes than can be addressed", what);
    SY_TRY(SY_CUDA(cu, cudaSetDevice(cu->device)));
    st = SY_CUDA(cu, cudaMalloc(&p, bytes > 0 ? (size_t)bytes : 1));
    if (st != SY_OK) {
        char text[32];
        sy_status_context("%s for %s", sy_format_bytes(text, sizeof text, bytes), what);
        goto done;
    }
    SY_TRY(SY_CUDA(cu, cudaMemsetAsync(p, 0, (size_t)bytes, cu->stream)));
    SY_TRY(SY_CUDA(cu, cudaStreamSynchronize(cu->stream)));
    *(void **)out = p;
    p = NULL;
done:
    if (p != NULL) cudaFree(p);
    return st;
}

static void cuda_free(sy_backend *be, void *ptr, uint64_t bytes) {
    (void)be;
    (void)bytes;
    if (ptr != NULL) cudaFree(ptr);
}

static sy_status copy(sy_cuda *cu, void *to, const void *from, uint64_t bytes, int kind) {
    sy_status st = SY_OK;
    if (bytes == 0) return SY_OK;
    if (cu->recording != NULL) SY_FAIL(SY_ERR_INTERNAL, "a copy that waits, in a recording");
    SY_TRY(SY_CUDA(cu, cudaSetDevice(cu->device)));
    SY_TRY(SY_CUDA(
        cu, cudaMemcpyAsync(to, from, (size_t)bytes, (enum cudaMemcpyKind)kind, cu->stream)));
    SY_TRY(SY_CUDA(cu, cudaStreamSynchronize(cu->stream)));
done:
    return st;
}

static sy_status
cuda_write(sy_backend *be, void *device, const void *host, uint64_t bytes, sy_stream *s) {
    (void)s;
    return copy(sy_cuda_of(be), device, host, bytes, cudaMemcpyHostToDevice);
}

static sy_status
cuda_read(sy_backend *be, void *host, const void *device, uint64_t bytes, sy_stream *s) {
    (void)s;
    return copy(sy_cuda_of(be), host, device, bytes, cudaMemcpyDeviceToHost);
}

typedef void (*scratch_fn)(const sy_cuda *cu, const sy_limits *l, uint64_t *bytes);

/* The largest need of the families that take scratch from its beginning, and behind it that of
 * the matrix family, whose products the others call. */
static uint64_t scratch_bytes(const sy_cuda *cu, const sy_limits *limits) {
    static const scratch_fn front[] = {sy_cuda_attention_scratch, sy_cuda_route_scratch,
                                       sy_cuda_sample_scratch};
    uint64_t most = 0, matrix = 0, total;
    for (size_t i = 0; i < sizeof front / sizeof *front; i++) {
        uint64_t bytes = 0;
        front[i](cu, limits, &bytes);
        if (bytes > most) most = bytes;
    }
    sy_cuda_matrix_scratch(cu, limits, &matrix);
    if (most > PTRDIFF_MAX || !sy_add_u64((most + 255) / 256 * 256, matrix, &total) ||
        total > PTRDIFF_MAX)
        return UINT64_MAX;
    return (total + 255) / 256 * 256;
}

static uint64_t cuda_reserve_bytes(sy_backend *be, const sy_limits *limits) {
    const sy_cuda *cu = sy_cuda_of(be);
    uint64_t scratch = scratch_bytes(cu, limits), record = sy_cuda_record_bytes(limits), total;
    bool ok = scratch != UINT64_MAX && record != UINT64_MAX &&
              sy_add_u64(scratch, record, &total) &&
              sy_add_u64(total, sy_cuda_uploads_bytes(limits), &total) &&
              sy_add_u64(total, sy_cuda_attention_counters(limits), &total);
    return ok ? total : UINT64_MAX;
}

static sy_status cuda_reserve(sy_backend *be, const sy_limits *limits) {
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    free_reserved(cu);
    cu->limits = *limits;
    uint64_t bytes = scratch_bytes(cu, limits);
    if (bytes == UINT64_MAX)
        SY_FAIL(SY_ERR_MEMORY, "the scratch for %lld tokens a step overflows",
                (long long)limits->max_rows);
    SY_TRY(cuda_alloc(be, &cu->scratch, bytes, "scratch of the steps"));
    cu->scratch_bytes = bytes;
    SY_TRY(sy_cuda_fast_reserve(cu));
    bytes = sy_cuda_attention_counters(limits);
    SY_TRY(cuda_alloc(be, &cu->attend_counter, bytes, "counters of attention"));
    cu->attend_counter_bytes = bytes;
    SY_TRY(sy_cuda_record_create(cu));
    SY_TRY(sy_cuda_uploads_create(cu));
done:
    if (st != SY_OK) free_reserved(cu);
    return st;
}

static sy_status cuda_synchronize(sy_backend *be, sy_stream *s) {
    (void)s;
    sy_cuda *cu = sy_cuda_of(be);
    return SY_CUDA(cu, cudaStreamSynchronize(cu->stream));
}

static uint64_t cuda_memory_available(sy_backend *be, uint64_t *identity) {
    sy_cuda *cu = sy_cuda_of(be);
    size_t available = 0, total = 0;
    const cudaUUID_t *id = &cu->properties.uuid; /* GPU instances (MIG) have each their own */
    cudaSetDevice(cu->device);
    if (cudaMemGetInfo(&available, &total) != cudaSuccess) available = 0;
    *identity = sy_hash_bytes(0, id, sizeof *id);
    if (!cu->properties.integrated) return available;
    /* What the driver calls free there leaves out the page cache; MemAvailable knows better. */
    uint64_t system = sy_mem_available();
    return system > SYSTEM_RESERVE ? system - SYSTEM_RESERVE : 0;
}

static const char *cuda_device_name(sy_backend *be) {
    return sy_cuda_of(be)->name;
}

static void *cuda_native_stream(sy_backend *be) {
    return sy_cuda_of(be)->stream;
}

static const sy_device_ops device_ops = {
    .begin_step = sy_cuda_begin_step,
    .plan = sy_cuda_plan,
    .local_sums = sy_cuda_local_sums,
    .home_sums = sy_cuda_home_sums,
    .combine_alone = sy_cuda_combine_alone,
    .synchronize = cuda_synchronize,
    .memory_available = cuda_memory_available,
    .reserve_bytes = cuda_reserve_bytes,
    .device_name = cuda_device_name,
    .native_stream = cuda_native_stream,
    .record_begin = sy_cuda_record_begin,
    .outside = sy_cuda_outside,
    .record_end = sy_cuda_record_end,
    .replay = sy_cuda_replay,
    .record_free = sy_cuda_record_free,
    .record_size = sy_cuda_record_size,
    .stage_open = sy_cuda_stage_open,
    .stage_take = sy_cuda_stage_take,
    .stage_give = sy_cuda_stage_give,
    .stage_close = sy_cuda_stage_close,
    .probe_bandwidth = sy_cuda_probe_bandwidth,
    .probe_gemm = sy_cuda_probe_gemm,
};

static const sy_ops cuda_ops = {
    .name = "cuda",
    .device = &device_ops,
    .close = cuda_close,
    .check = sy_cuda_check,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .write = cuda_write,
    .read = cuda_read,
    .stored_dtype = sy_cuda_stored_dtype,
    .matrix_bytes = sy_cuda_matrix_bytes,
    .pack = sy_cuda_pack,
    .kv_page_bytes = sy_cuda_kv_page_bytes,
    .reserve = cuda_reserve,
    .embed = sy_cuda_embed,
    .attn_in = sy_cuda_attn_in,
    .attend = sy_cuda_attend,
    .attn_out = sy_cuda_attn_out,
    .route = sy_cuda_route,
    .pack_rows = sy_cuda_pack_rows,
    .experts_up = sy_cuda_experts_up,
    .experts_down = sy_cuda_experts_down,
    .unpack = sy_cuda_unpack,
    .dense_ffn = sy_cuda_dense_ffn,
    .ffn_in = sy_cuda_ffn_in,
    .add = sy_cuda_add,
    .head = sy_cuda_head,
    .sample = sy_cuda_sample,
};

int sy_cuda_device_count(void) {
    int n = 0;
    cudaError_t error = cudaGetDeviceCount(&n);
    if (error == cudaSuccess && n > 0) return n;
    (void)cudaGetLastError();
    (void)sy_fail(SY_ERR_UNSUPPORTED, "no CUDA device: %s",
                  error == cudaSuccess ? "none is visible" : cudaGetErrorString(error));
    return 0;
}

sy_status sy_cuda_pci_bus_id(int device, char *buf, int buf_size) {
    cudaError_t error = cudaDeviceGetPCIBusId(buf, buf_size, device);
    if (error == cudaSuccess) return SY_OK;
    (void)cudaGetLastError();
    return sy_fail(SY_ERR_DEVICE, "device %d: its PCI address: %s", device,
                   cudaGetErrorString(error));
}

static sy_status name_device(sy_cuda *cu) {
    sy_status st = SY_OK;
    snprintf(cu->name, sizeof cu->name, "not opened");
    SY_TRY(SY_CUDA(cu, cudaSetDevice(cu->device)));
    SY_TRY(SY_CUDA(cu, cudaGetDeviceProperties(&cu->properties, cu->device)));
#ifdef SY_CUDA_EMULATED
    cu->emulated = true;
    snprintf(cu->name, sizeof cu->name, "emulated");
#else
    snprintf(cu->name, sizeof cu->name, "%s, sm_%d%d", cu->properties.name,
             cu->properties.major, cu->properties.minor);
    if (cu->properties.major < 8)
        SY_FAIL(SY_ERR_UNSUPPORTED, "device %d (%s): the kernels need sm_80 or later",
                cu->device, cu->name);
#endif
done:
    return st;
}

sy_status sy_cuda_open(sy_dtype act, int device, sy_backend **out) {
    sy_status st = SY_OK;
    sy_cuda *cu = NULL;
    *out = NULL;
    if (act != SY_BF16)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "CUDA devices compute with bf16 activations, not %s (--device cpu has f32)",
                sy_dtype_name(act));
    int n = sy_cuda_device_count();
    if (n == 0) return SY_ERR_UNSUPPORTED;
    if (device < 0 || device >= n)
        SY_FAIL(SY_ERR_UNSUPPORTED, "CUDA device %d: this machine has %d", device, n);
    cu = calloc(1, sizeof *cu);
    if (cu == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the CUDA backend");
    cu->base = (sy_backend){.ops = &cuda_ops, .act = act};
    cu->device = device;
    SY_TRY(name_device(cu));
    SY_TRY(SY_CUDA(cu, cudaStreamCreateWithFlags(&cu->stream, cudaStreamNonBlocking)));
    SY_TRY(sy_cuda_attention_prepare(cu));
    SY_TRY(sy_cuda_stage_open(&cu->base, STAGE_SLOTS, STAGE_BYTES, &cu->stage));
    cu->loading = NULL; /* that one is for ordinary memory */
    *out = &cu->base;
    cu = NULL;
done:
    if (cu != NULL) cuda_close(&cu->base);
    return st;
}
