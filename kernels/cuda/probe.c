/* What a device can do at most, measured: a plain copy for the memory, cuBLAS for BF16 products.
 *
 * Each probe times passes of REPEATS operations by events and gives the median, so that another
 * process that takes the device for a while does not count. The data is made up and not zero: the
 * power that zeros save makes products look faster than they are. */
#include <math.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/hash.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/cuda.h"

enum { REPEATS = 8, MAX_PASSES = 256 };
#ifdef SY_CUDA_EMULATED /* as fast as one core copies and multiplies */
enum { COPY_BYTES = 1 << 20, PATTERN_BYTES = 64 << 10, GEMM_SIZE = 64 };
#else
enum { COPY_BYTES = 1 << 30, PATTERN_BYTES = 8 << 20, GEMM_SIZE = 4096 };
#endif
enum { LEAST_GEMM_SIZE = 64 };

/* What is repeated: enqueues one operation on cu->stream. */
typedef sy_status (*operation)(sy_cuda *cu, void *argument);

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds that the device takes for REPEATS operations. */
static sy_status
time_pass(sy_cuda *cu, const cudaEvent_t event[2], operation fn, void *argument, double *out) {
    sy_status st = SY_OK;
    float milliseconds = 0;
    SY_TRY(SY_CUDA(cu, cudaEventRecord(event[0], cu->stream)));
    for (int i = 0; i < REPEATS; i++)
        SY_TRY(fn(cu, argument));
    SY_TRY(SY_CUDA(cu, cudaEventRecord(event[1], cu->stream)));
    SY_TRY(SY_CUDA(cu, cudaEventSynchronize(event[1])));
    SY_TRY(SY_CUDA(cu, cudaEventElapsedTime(&milliseconds, event[0], event[1])));
    *out = (double)milliseconds * 1e-3;
done:
    return st;
}

/* The median of such passes for about `seconds`, after one that is not counted; seconds of one
 * operation. */
static sy_status
time_operation(sy_cuda *cu, double seconds, operation fn, void *argument, double *out) {
    sy_status st = SY_OK;
    cudaEvent_t event[2] = {NULL, NULL};
    double pass[MAX_PASSES], ignored, end;
    int n = 0;
    SY_TRY(SY_CUDA(cu, cudaEventCreate(&event[0])));
    SY_TRY(SY_CUDA(cu, cudaEventCreate(&event[1])));
    SY_TRY(time_pass(cu, event, fn, argument, &ignored));
    end = sy_now() + seconds;
    do {
        SY_TRY(time_pass(cu, event, fn, argument, &pass[n++]));
    } while (n < MAX_PASSES && sy_now() < end);
    qsort(pass, (size_t)n, sizeof *pass, ascending);
    *out = pass[n / 2] / REPEATS;
    if (!(*out > 0)) SY_FAIL(SY_ERR_DEVICE, "device %d: its events show no time", cu->device);
done:
    for (int i = 0; i < 2; i++)
        if (event[i] != NULL) cudaEventDestroy(event[i]);
    return st;
}

/* Fills a block with BF16 numbers of magnitude [0.5, 1): a piece is uploaded, then doubled. */
static sy_status fill(sy_backend *be, char *block, uint64_t bytes) {
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    uint64_t done = sy_min(bytes, (uint64_t)PATTERN_BYTES);
    uint16_t *pattern = malloc(PATTERN_BYTES);
    if (pattern == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for what a probe copies");
    for (size_t i = 0; i < PATTERN_BYTES / sizeof *pattern; i++)
        pattern[i] = (uint16_t)((sy_hash_add(5, i) & 0x807f) | 0x3f00);
    SY_TRY(be->ops->write(be, block, pattern, done, NULL));
    for (uint64_t n; done < bytes; done += n) {
        n = sy_min(done, bytes - done);
        SY_TRY(SY_CUDA(cu, cudaMemcpyAsync(block + done, block, (size_t)n,
                                           cudaMemcpyDeviceToDevice, cu->stream)));
    }
done:
    free(pattern);
    return st;
}

static sy_status may_probe(const sy_cuda *cu) {
    if (cu->recording == NULL) return SY_OK;
    return sy_fail(SY_ERR_INTERNAL, "a probe within a recording");
}

/* A quarter of what is free: the caller's own memory may still grow. */
static uint64_t bytes_for_probe(sy_backend *be) {
    uint64_t identity;
    return be->ops->device->memory_available(be, &identity) / 4;
}

typedef struct copy_job {
    char *to, *from;
    uint64_t bytes;
} copy_job;

static sy_status copy_once(sy_cuda *cu, void *argument) {
    const copy_job *job = argument;
    return SY_CUDA(cu, cudaMemcpyAsync(job->to, job->from, (size_t)job->bytes,
                                       cudaMemcpyDeviceToDevice, cu->stream));
}

sy_status sy_cuda_probe_bandwidth(sy_backend *be, double seconds, double *bytes_per_second) {
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    double each;
    char *block = NULL;
    uint64_t bytes = sy_min(bytes_for_probe(be), (uint64_t)COPY_BYTES) / 4096 * 4096;
    *bytes_per_second = 0;
    SY_TRY(may_probe(cu));
    if (bytes == 0) SY_FAIL(SY_ERR_MEMORY, "device %d: no memory for a probe", cu->device);
    SY_TRY(be->ops->alloc(be, &block, bytes, "the probe of the bandwidth"));
    SY_TRY(fill(be, block, bytes));
    copy_job job = {block + bytes / 2, block, bytes / 2};
    SY_TRY(time_operation(cu, seconds, copy_once, &job, &each));
    *bytes_per_second = 2 * (double)job.bytes / each; /* read once, written once */
done:
    be->ops->free(be, block, bytes);
    return st;
}

typedef struct gemm_job {
    sy_cublas cublas;
    cublasHandle_t handle;
    int n;
    char *a, *b, *c; /* [n, n] bf16 */
} gemm_job;

static sy_status gemm_once(sy_cuda *cu, void *argument) {
    const gemm_job *job = argument;
    const float one = 1, zero = 0;
    int n = job->n;
    cublasStatus_t status = job->cublas.gemm(
        job->handle, CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, job->a, CUDA_R_16BF, n, job->b,
        CUDA_R_16BF, n, &zero, job->c, CUDA_R_16BF, n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    return sy_cublas_status(cu, status, "cublasGemmEx");
}

/* The largest square product whose three matrices fit. */
static int gemm_size(uint64_t bytes) {
    int n = GEMM_SIZE;
    while (n > LEAST_GEMM_SIZE && 6 * (uint64_t)n * (uint64_t)n > bytes)
        n /= 2;
    return n;
}

sy_status sy_cuda_probe_gemm(sy_backend *be, double seconds, double *flops) {
    sy_status st = SY_OK;
    sy_cuda *cu = sy_cuda_of(be);
    gemm_job job = {.n = gemm_size(bytes_for_probe(be))};
    uint64_t matrix = 2 * (uint64_t)job.n * (uint64_t)job.n;
    char *block = NULL;
    double each;
    *flops = 0;
    SY_TRY(may_probe(cu));
    SY_TRY(sy_cublas_open(&job.cublas));
    SY_TRY(SY_CUDA(cu, cudaSetDevice(cu->device)));
    SY_TRY(sy_cublas_status(cu, job.cublas.create(&job.handle), "cublasCreate"));
    SY_TRY(
        sy_cublas_status(cu, job.cublas.set_stream(job.handle, cu->stream), "cublasSetStream"));
    SY_TRY(be->ops->alloc(be, &block, 3 * matrix, "the probe of the multiply rate"));
    SY_TRY(fill(be, block, 2 * matrix));
    job.a = block;
    job.b = block + matrix;
    job.c = block + 2 * matrix;
    SY_TRY(time_operation(cu, seconds, gemm_once, &job, &each));
    *flops = 2 * pow(job.n, 3) / each;
done:
    if (job.handle != NULL) job.cublas.destroy(job.handle);
    sy_cublas_close(&job.cublas);
    be->ops->free(be, block, 3 * matrix);
    return st;
}
