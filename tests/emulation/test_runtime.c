/* The emulated runtime keeps CUDA's rules: errors, memory, events, captures, the functions that
 * kernels call. Faults of a program are test_faults.c. */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <cublas_v2.h>

#include "emulation.h"
#include "runtime_kernels.h"

#define CHECK(call) assert_string_equal(cudaGetErrorName(call), "cudaSuccess")
#define REFUSED(call, error) assert_string_equal(cudaGetErrorName(call), #error)

static int nothing_left_over(void **state) {
    (void)state;
    return emu_problems() == 0 && emu_allocations() == 0 && cudaGetLastError() == cudaSuccess
               ? 0
               : -1;
}

static float *zeros(int n) {
    float *p = NULL;
    CHECK(cudaMalloc((void **)&p, (size_t)n * sizeof *p));
    CHECK(cudaMemset(p, 0, (size_t)n * sizeof *p));
    return p;
}

static float read_float(const float *p) {
    float f;
    CHECK(cudaMemcpy(&f, p, sizeof f, cudaMemcpyDeviceToHost));
    return f;
}

/* ---- devices and memory ---- */

static void device_says_what_it_is(void **state) {
    (void)state;
    struct cudaDeviceProp p;
    struct cudaFuncAttributes f;
    char id[32], small[4];
    int n, value, device;
    CHECK(cudaGetDeviceCount(&n));
    CHECK(cudaGetDeviceProperties(&p, n - 1));
    assert_string_equal(p.name, "emulated");
    assert_true(p.major >= 8 && p.sharedMemPerBlockOptin == 99 * 1024);
    CHECK(cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, 0));
    assert_int_equal(value, p.multiProcessorCount);
    CHECK(cudaDeviceGetPCIBusId(id, sizeof id, 0));
    assert_string_equal(id, "fffe:00:00.0");
    REFUSED(cudaDeviceGetPCIBusId(small, sizeof small, 0), cudaErrorInvalidValue);
    REFUSED(cudaSetDevice(n), cudaErrorInvalidDevice);
    CHECK(cudaSetDevice(n - 1));
    CHECK(cudaGetDevice(&device));
    assert_int_equal(device, n - 1);
    CHECK(cudaFuncGetAttributes(&f, (const void *)(uintptr_t)&p));
    assert_int_equal(f.binaryVersion, 80);
    REFUSED(cudaGetLastError(), cudaErrorInvalidDevice);
    CHECK(cudaGetLastError());
}

static void fresh_memory_is_not_a_number_and_is_counted(void **state) {
    (void)state;
    size_t before, after, total;
    float *p;
    void *other = &p;
    CHECK(cudaMemGetInfo(&before, &total));
    CHECK(cudaMalloc((void **)&p, 1000));
    CHECK(cudaMemGetInfo(&after, &total));
    assert_int_equal(before - after, 1000);
    assert_true(isnan(read_float(p + 249)));
    REFUSED(cudaMalloc(&other, total), cudaErrorMemoryAllocation);
    assert_null(other);
    assert_int_equal(emu_allocations(), 1);
    CHECK(cudaFree(p));
    CHECK(cudaMemGetInfo(&after, &total));
    assert_int_equal(after, before);
    (void)cudaGetLastError();
}

static void free_refuses_what_was_not_allocated(void **state) {
    (void)state;
    int x;
    float *p = zeros(4);
    REFUSED(cudaFree(&x), cudaErrorInvalidValue);
    REFUSED(cudaFree(p + 1), cudaErrorInvalidValue);
    CHECK(cudaFree(p));
    REFUSED(cudaFree(p), cudaErrorInvalidValue);
    CHECK(cudaFree(NULL));
    (void)cudaGetLastError();
}

static void copies_are_checked_for_direction_and_range(void **state) {
    (void)state;
    float host[8] = {0}, *p = zeros(8);
    REFUSED(cudaMemcpy(p, host, sizeof host, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
    REFUSED(cudaMemcpy(host, p, sizeof host, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
    REFUSED(cudaMemcpy(p + 1, host, sizeof host, cudaMemcpyHostToDevice),
            cudaErrorInvalidValue);
    REFUSED(cudaMemset(p, 0, 33), cudaErrorInvalidValue);
    REFUSED(cudaMemset(host, 0, 4), cudaErrorInvalidValue);
    CHECK(cudaMemcpy(host, p, sizeof host, cudaMemcpyDefault));
    CHECK(cudaFree(p));
    (void)cudaGetLastError();
}

static void ordinary_memory_may_be_reused_once_the_copy_returns(void **state) {
    (void)state;
    float host = 5, *p = zeros(1);
    cudaStream_t s;
    CHECK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CHECK(cudaMemcpyAsync(p, &host, sizeof host, cudaMemcpyHostToDevice, s));
    host = 6;
    CHECK(cudaMemcpyAsync(&host, p, sizeof host, cudaMemcpyDeviceToHost, s));
    assert_true(host == 5);
    CHECK(cudaStreamDestroy(s));
    REFUSED(cudaStreamSynchronize(s), cudaErrorInvalidResourceHandle);
    CHECK(cudaFree(p));
    (void)cudaGetLastError();
}

/* ---- faults on request ---- */

static void nth_allocation_fails_on_request(void **state) {
    (void)state;
    void *a, *b, *c;
    emu_fail_malloc(2);
    CHECK(cudaMalloc(&a, 8));
    REFUSED(cudaMalloc(&b, 8), cudaErrorMemoryAllocation);
    CHECK(cudaMalloc(&c, 8));
    CHECK(cudaFree(a));
    CHECK(cudaFree(c));
    (void)cudaGetLastError();
}

static void failed_kernel_breaks_the_device_for_good(void **state) {
    (void)state;
    float *p = zeros(1);
    void *other;
    emu_fail_launch(2);
    CHECK(runtime_scale(1, 1, p, NULL));
    CHECK(cudaDeviceSynchronize());
    CHECK(runtime_scale(1, 1, p, NULL)); /* the launch itself cannot know */
    REFUSED(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
    REFUSED(runtime_scale(1, 1, p, NULL), cudaErrorIllegalAddress);
    REFUSED(cudaMalloc(&other, 8), cudaErrorIllegalAddress);
    REFUSED(cudaGetLastError(), cudaErrorIllegalAddress);
    REFUSED(cudaGetLastError(), cudaErrorIllegalAddress);
    REFUSED(cudaFree(p), cudaErrorIllegalAddress);
    assert_int_equal(emu_allocations(), 0); /* freed all the same */
    emu_forget_problems();
    CHECK(cudaDeviceSynchronize());
}

/* ---- launches ---- */

static void launches_of_impossible_shape_are_refused(void **state) {
    (void)state;
    REFUSED(runtime_launch(1, 1, 0, 0), cudaErrorInvalidConfiguration);
    REFUSED(runtime_launch(0, 1, 32, 0), cudaErrorInvalidConfiguration);
    REFUSED(runtime_launch(1, 1, 1025, 0), cudaErrorInvalidConfiguration);
    REFUSED(runtime_launch(1, 65536, 32, 0), cudaErrorInvalidConfiguration);
    REFUSED(runtime_launch(1, 1, 32, 48 * 1024 + 1), cudaErrorInvalidValue);
    REFUSED(runtime_allow_shared(99 * 1024 + 1), cudaErrorInvalidValue);
    CHECK(runtime_allow_shared(99 * 1024));
    (void)cudaGetLastError();
    CHECK(runtime_launch(1, 1, 32, 99 * 1024));
    CHECK(runtime_launch(1, 65535, 1, 0));
    CHECK(runtime_launch(70000, 1, 1, 0));
    CHECK(cudaDeviceSynchronize());
}

/* ---- events ---- */

static void events_order_streams_and_tell_the_time(void **state) {
    (void)state;
    cudaStream_t a, b;
    cudaEvent_t begin, end, untimed;
    float *p = zeros(64), ms = -1;
    CHECK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
    CHECK(cudaStreamCreate(&b));
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    CHECK(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
    CHECK(cudaEventQuery(begin)); /* never recorded: done */
    for (int i = 0; i < 4; i++) { /* x -> 2 x + 1 -> 3 of that + 1, on streams in turn */
        CHECK(cudaEventRecord(begin, a));
        CHECK(runtime_scale(64, 2, p, a));
        CHECK(cudaEventRecord(untimed, a));
        CHECK(cudaStreamWaitEvent(b, untimed, 0));
        CHECK(runtime_scale(64, 3, p, b));
        CHECK(cudaEventRecord(end, b));
        CHECK(cudaStreamWaitEvent(a, end, 0));
    }
    while (cudaEventQuery(end) == cudaErrorNotReady) {
    }
    CHECK(cudaEventElapsedTime(&ms, begin, end));
    assert_true(ms > 0 && ms < 60000);
    REFUSED(cudaEventElapsedTime(&ms, begin, untimed), cudaErrorInvalidResourceHandle);
    while (cudaStreamQuery(a) == cudaErrorNotReady) {
    }
    assert_true(read_float(p + 63) == 4 + 4 * 6 + 4 * 36 + 4 * 216);
    CHECK(cudaEventDestroy(begin));
    CHECK(cudaEventDestroy(end));
    CHECK(cudaEventDestroy(untimed));
    REFUSED(cudaEventRecord(end, a), cudaErrorInvalidResourceHandle);
    CHECK(cudaStreamDestroy(a));
    CHECK(cudaStreamDestroy(b));
    CHECK(cudaFree(p));
    (void)cudaGetLastError();
}

/* ---- captures ---- */

static void captured_launches_run_at_each_replay(void **state) {
    (void)state;
    cudaStream_t s;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaGraphNode_t nodes[3];
    enum cudaStreamCaptureStatus status;
    size_t n = 0;
    float *p = zeros(8);
    CHECK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    REFUSED(cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal), cudaErrorIllegalState);
    CHECK(runtime_scale(8, 2, p, s));
    CHECK(runtime_scale(8, 3, p, s));
    CHECK(cudaStreamIsCapturing(s, &status));
    assert_int_equal(status, cudaStreamCaptureStatusActive);
    CHECK(cudaStreamEndCapture(s, &graph));
    CHECK(cudaStreamIsCapturing(s, &status));
    assert_int_equal(status, cudaStreamCaptureStatusNone);
    CHECK(cudaGraphGetNodes(graph, NULL, &n));
    assert_int_equal(n, 2);
    n = 3;
    CHECK(cudaGraphGetNodes(graph, nodes, &n));
    assert_int_equal(n, 2);
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaGraphUpload(exec, s));
    CHECK(cudaStreamSynchronize(s));
    assert_true(read_float(p) == 0); /* recorded, not run */
    CHECK(cudaGraphLaunch(exec, s));
    CHECK(cudaGraphLaunch(exec, s));
    CHECK(cudaGraphExecDestroy(exec)); /* under way: fine */
    CHECK(cudaStreamSynchronize(s));
    assert_true(read_float(p) == 4 * 6 + 4);
    CHECK(cudaStreamDestroy(s));
    CHECK(cudaFree(p));
    (void)cudaGetLastError();
}

static void *allocate_and_free(void *mode) {
    void *p = NULL;
    enum cudaStreamCaptureMode m = *(enum cudaStreamCaptureMode *)mode;
    cudaThreadExchangeStreamCaptureMode(&m);
    cudaError_t error = cudaMalloc(&p, 64);
    if (error == cudaSuccess) error = cudaFree(p);
    return (void *)(uintptr_t)error;
}

static void *end_capture(void *stream) {
    cudaGraph_t graph;
    return (void *)(uintptr_t)cudaStreamEndCapture(stream, &graph);
}

/* Begins a capture, has fn run by another thread, and ends it; what fn gave. */
static cudaError_t elsewhere(enum cudaStreamCaptureMode mode,
                             void *(*fn)(void *),
                             void *argument,
                             cudaError_t *of_end) {
    cudaStream_t s;
    cudaGraph_t graph = NULL;
    pthread_t thread;
    void *result;
    CHECK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CHECK(cudaStreamBeginCapture(s, mode));
    assert_int_equal(pthread_create(&thread, NULL, fn, argument != NULL ? argument : s), 0);
    pthread_join(thread, &result);
    *of_end = cudaStreamEndCapture(s, &graph);
    if (graph != NULL) CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamDestroy(s));
    (void)cudaGetLastError();
    return (cudaError_t)(uintptr_t)result;
}

static void other_threads_may_allocate_unless_a_capture_is_global(void **state) {
    (void)state;
    enum cudaStreamCaptureMode global = cudaStreamCaptureModeGlobal;
    enum cudaStreamCaptureMode relaxed = cudaStreamCaptureModeRelaxed;
    enum cudaStreamCaptureMode local = cudaStreamCaptureModeThreadLocal;
    cudaError_t end;
    CHECK(elsewhere(local, allocate_and_free, &global, &end));
    CHECK(end);
    REFUSED(elsewhere(global, allocate_and_free, &global, &end),
            cudaErrorStreamCaptureUnsupported);
    REFUSED(end, cudaErrorStreamCaptureInvalidated);
    CHECK(elsewhere(global, allocate_and_free, &relaxed, &end));
    CHECK(end);
    REFUSED(elsewhere(local, end_capture, NULL, &end), cudaErrorStreamCaptureWrongThread);
    REFUSED(end, cudaErrorStreamCaptureInvalidated);
}

typedef cudaError_t (*call_fn)(cudaStream_t s, cudaEvent_t e, void *device);

static cudaError_t call_malloc(cudaStream_t s, cudaEvent_t e, void *device) {
    void *p;
    (void)s, (void)e, (void)device;
    return cudaMalloc(&p, 8);
}
static cudaError_t call_host_alloc(cudaStream_t s, cudaEvent_t e, void *device) {
    void *p;
    (void)s, (void)e, (void)device;
    return cudaHostAlloc(&p, 8, 0);
}
static cudaError_t call_free(cudaStream_t s, cudaEvent_t e, void *device) {
    (void)s, (void)e;
    return cudaFree(device);
}
static cudaError_t call_device_synchronize(cudaStream_t s, cudaEvent_t e, void *device) {
    (void)s, (void)e, (void)device;
    return cudaDeviceSynchronize();
}
static cudaError_t call_stream_synchronize(cudaStream_t s, cudaEvent_t e, void *device) {
    (void)e, (void)device;
    return cudaStreamSynchronize(s);
}
static cudaError_t call_query(cudaStream_t s, cudaEvent_t e, void *device) {
    (void)e, (void)device;
    return cudaStreamQuery(s);
}
static cudaError_t call_copy(cudaStream_t s, cudaEvent_t e, void *device) {
    float host = 0;
    (void)s, (void)e;
    return cudaMemcpy(device, &host, sizeof host, cudaMemcpyHostToDevice);
}

static void calls_that_a_capture_forbids_make_it_invalid(void **state) {
    (void)state;
    static const call_fn calls[] = {
        call_malloc, call_host_alloc,         call_free,
        call_query,  call_device_synchronize, call_stream_synchronize,
        call_copy};
    cudaStream_t s;
    cudaEvent_t e;
    cudaGraph_t graph;
    float *p = zeros(1);
    CHECK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
    CHECK(cudaEventCreate(&e));
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
        CHECK(runtime_scale(1, 1, p, s));
        REFUSED(calls[i](s, e, p), cudaErrorStreamCaptureUnsupported);
        REFUSED(runtime_scale(1, 1, p, s), cudaErrorStreamCaptureInvalidated);
        REFUSED(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);
        assert_null(graph);
        CHECK(cudaStreamSynchronize(s));
    }
    /* An event from before the capture, and one of the capture outside of it. */
    CHECK(cudaEventRecord(e, s));
    CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    REFUSED(cudaStreamWaitEvent(s, e, 0), cudaErrorStreamCaptureIsolation);
    REFUSED(cudaStreamEndCapture(s, &graph), cudaErrorStreamCaptureInvalidated);
    CHECK(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal));
    CHECK(cudaEventRecord(e, s));
    REFUSED(cudaEventSynchronize(e), cudaErrorCapturedEvent);
    CHECK(cudaStreamEndCapture(s, &graph));
    CHECK(cudaGraphDestroy(graph));
    REFUSED(cudaStreamEndCapture(s, &graph), cudaErrorIllegalState);
    CHECK(cudaEventDestroy(e));
    CHECK(cudaStreamDestroy(s));
    CHECK(cudaFree(p));
    (void)cudaGetLastError();
}

/* ---- what kernels call ---- */

static unsigned long long expected_intrinsic(int i, unsigned t) {
    unsigned lane = t % 32, warp = t - lane, same = 0;
    for (unsigned l = lane % 7; l < 32; l += 7)
        same |= 1u << l;
    switch (i) {
    case 0:
        return warp + 5;
    case 1:
        return warp + lane / 8 * 8 + 3;
    case 2:
        return t ^ 9;
    case 3:
        return lane % 16 + 4 < 16 ? t + 4 : t;
    case 4:
        return (unsigned long long)(lane >= 2 ? t - 2 : t) << 40;
    case 5:
        return 0x42108421u;
    case 6:
        return warp == 32 ? 2 : 1;
    case 7:
        return same;
    case 8:
        return 31 * 32 / 2;
    case 9:
        return (unsigned long long)-9LL;
    case 10:
        return t ^ 15;
    case 11:
        return lane < 16 ? 120 : 1600;
    case 12:
        return 64 * 63 / 2 - 640;
    case 13:
        return (64ull << 40) + 64 * 63 / 2;
    case 14:
        return 0xffffffffu;
    case 15:
        return 63 * 3;
    case 16:
        return 64 % 10;
    case 17:
        return 22;
    case 18:
        return (unsigned)__builtin_popcount(t * 0x01010101u) * 100u +
               (unsigned)__builtin_ffs((int)t) * 10u +
               (t == 0 ? 32u : (unsigned)__builtin_clz(t));
    case 19:
        return (t % 16) * 3;
    case 20:
        return t + t % 2;
    case 21:
        return 1000 - 3 * t / 2;
    case 22:
        return (0x77550000u | ((0x1100u + t) & 0xffffu));
    case 23:
        return t < 32 ? 0x7fffffff : (unsigned long long)(-0x7fffffffLL - 1);
    default:
        return 0;
    }
}

static void functions_of_kernels_give_what_cuda_says(void **state) {
    (void)state;
    unsigned long long out[INTRINSICS][64], *device;
    CHECK(cudaMalloc((void **)&device, sizeof out));
    CHECK(runtime_intrinsics(device));
    CHECK(cudaMemcpy(out, device, sizeof out, cudaMemcpyDeviceToHost));
    CHECK(cudaFree(device));
    for (int i = 0; i < INTRINSICS; i++)
        for (unsigned t = 0; t < 64; t++)
            if (out[i][t] != expected_intrinsic(i, t))
                fail_msg("intrinsic %d, thread %u: %llx instead of %llx", i, t, out[i][t],
                         expected_intrinsic(i, t));
}

static void atomics_of_a_large_block_all_count(void **state) {
    (void)state;
    enum { N = 5000 };
    unsigned *x, host[N];
    unsigned long long *sum, got, want = 0;
    for (unsigned i = 0; i < N; i++) {
        host[i] = i * 2654435761u;
        want += (unsigned)__builtin_popcount(host[i]);
    }
    CHECK(cudaMalloc((void **)&x, sizeof host));
    CHECK(cudaMalloc((void **)&sum, sizeof got));
    CHECK(cudaMemcpy(x, host, sizeof host, cudaMemcpyHostToDevice));
    CHECK(cudaMemset(sum, 0, sizeof got));
    CHECK(runtime_count_bits(N, x, sum));
    CHECK(cudaMemcpy(&got, sum, sizeof got, cudaMemcpyDeviceToHost));
    assert_int_equal(got, want);
    CHECK(cudaFree(x));
    CHECK(cudaFree(sum));
}

/* ---- counts ---- */

static void traffic_is_counted_in_sectors_and_passes(void **state) {
    (void)state;
    enum { N = 128, STRIDE = 16 };
    float *x = zeros(N * STRIDE), *y = zeros(N * STRIDE);
    emu_stats near, far, column, none;
    if (!emu_checks_accesses()) {
        assert_false(emu_stats_for("copy", &none));
        CHECK(cudaFree(x));
        CHECK(cudaFree(y));
        print_message("kernels are built without the access checker\n");
        skip();
    }
    emu_stats_reset();
    CHECK(runtime_copy_strided(N, 1, 0, x, y));
    assert_true(emu_stats_for("copy_strided", &near));
    emu_stats_reset();
    CHECK(runtime_copy_strided(N, STRIDE, 0, x, y));
    CHECK(runtime_copy_strided(N, 1, 1, x, y));
    assert_true(emu_stats_for("copy_strided", &far));
    assert_true(emu_stats_for("copy_by_column", &column));
    assert_false(emu_stats_for("no such kernel", &none));
    assert_int_equal(near.launches, 1);
    assert_int_equal(near.global_read.bytes, N * 4);
    assert_int_equal(near.global_read.requests, N / 32);
    assert_int_equal(near.global_read.units, N * 4 / 32);
    assert_int_equal(near.global_read.ideal, N * 4 / 32);
    assert_int_equal(near.shared_read.requests, 0);
    assert_int_equal(far.global_write.bytes, N * 4);
    assert_int_equal(far.global_write.units, N);
    assert_int_equal(far.global_write.ideal, N * 4 / 32);
    assert_int_equal(column.shared_write.units, N); /* each lane's word in the same bank */
    assert_int_equal(column.shared_write.ideal, N / 32);
    CHECK(cudaFree(x));
    CHECK(cudaFree(y));
}

/* ---- cuBLAS ---- */

static void product_of_cublas_is_the_product(void **state) {
    (void)state;
    enum { M = 3, N = 4, K = 5 };
    float a[K * M], b[N * K], c[N * M], want, one = 1, half = 0.5f;
    cublasHandle_t h;
    for (int i = 0; i < K * M; i++)
        a[i] = (float)(i % 7 - 3);
    for (int i = 0; i < N * K; i++)
        b[i] = (float)(i % 5 - 2);
    for (int i = 0; i < N * M; i++)
        c[i] = 8;
    float *da = zeros(K * M), *db = zeros(N * K), *dc = zeros(N * M);
    CHECK(cudaMemcpy(da, a, sizeof a, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(db, b, sizeof b, cudaMemcpyHostToDevice));
    CHECK(cudaMemcpy(dc, c, sizeof c, cudaMemcpyHostToDevice));
    assert_int_equal(cublasCreate(&h), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(cublasSetStream(h, NULL), CUBLAS_STATUS_SUCCESS);
    assert_int_equal(cublasSetMathMode(h, CUBLAS_DEFAULT_MATH), CUBLAS_STATUS_SUCCESS);
    /* Row-major C = A B^T, A [M, K], B [N, K], is column-major C^T = B A^T. */
    assert_int_equal(cublasGemmEx(h, CUBLAS_OP_T, CUBLAS_OP_N, N, M, K, &one, db, CUDA_R_32F, K,
                                  da, CUDA_R_32F, K, &half, dc, CUDA_R_32F, N,
                                  CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                     CUBLAS_STATUS_SUCCESS);
    assert_int_equal(cublasGemmEx(h, CUBLAS_OP_T, CUBLAS_OP_N, N, M, K, &one, db, CUDA_R_32F,
                                  K - 1, da, CUDA_R_32F, K, &half, dc, CUDA_R_32F, N,
                                  CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
                     CUBLAS_STATUS_INVALID_VALUE);
    CHECK(cudaMemcpy(c, dc, sizeof c, cudaMemcpyDeviceToHost));
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            want = 4;
            for (int k = 0; k < K; k++)
                want += a[i * K + k] * b[j * K + k];
            assert_true(c[i * N + j] == want);
        }
    assert_int_equal(cublasDestroy(h), CUBLAS_STATUS_SUCCESS);
    CHECK(cudaFree(da));
    CHECK(cudaFree(db));
    CHECK(cudaFree(dc));
}

#define TEST(fn) cmocka_unit_test_teardown(fn, nothing_left_over)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(device_says_what_it_is),
        TEST(fresh_memory_is_not_a_number_and_is_counted),
        TEST(free_refuses_what_was_not_allocated),
        TEST(copies_are_checked_for_direction_and_range),
        TEST(ordinary_memory_may_be_reused_once_the_copy_returns),
        TEST(nth_allocation_fails_on_request),
        TEST(failed_kernel_breaks_the_device_for_good),
        TEST(launches_of_impossible_shape_are_refused),
        TEST(events_order_streams_and_tell_the_time),
        TEST(captured_launches_run_at_each_replay),
        TEST(other_threads_may_allocate_unless_a_capture_is_global),
        TEST(calls_that_a_capture_forbids_make_it_invalid),
        TEST(functions_of_kernels_give_what_cuda_says),
        TEST(atomics_of_a_large_block_all_count),
        TEST(traffic_is_counted_in_sectors_and_passes),
        TEST(product_of_cublas_is_the_product),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
