/* Kernels and host code with one fault each, planted or not. */
#include "faults.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cuda/ptx.h"

enum { N = 256, BLOCKS = 3 };

struct values {
    float v[N];
    int n;
};

typedef void (*kernel_fn)(float *out, const float *x);

#define TRY(call)                                                                              \
    do {                                                                                       \
        cudaError_t try_error = (call);                                                        \
        if (try_error != cudaSuccess && error == cudaSuccess) error = try_error;               \
    } while (0)

/* x[i] = i + 1 on the device, out [BLOCKS * N] of zeros. */
static cudaError_t launch_and_read(kernel_fn kernel, size_t shared, float *out_host) {
    cudaError_t error = cudaSuccess;
    float x_host[N], *x = NULL, *out = NULL;
    const size_t out_bytes = BLOCKS * N * sizeof *out;
    cudaLaunchConfig_t c = {};
    for (int i = 0; i < N; i++)
        x_host[i] = (float)(i + 1);
    TRY(cudaMalloc((void **)&x, sizeof x_host));
    TRY(cudaMalloc((void **)&out, out_bytes));
    TRY(cudaMemcpy(x, x_host, sizeof x_host, cudaMemcpyHostToDevice));
    TRY(cudaMemset(out, 0, out_bytes));
    c.gridDim = dim3(BLOCKS);
    c.blockDim = dim3(N);
    c.dynamicSmemBytes = shared;
    TRY(cudaLaunchKernelEx(&c, kernel, out, (const float *)x));
    TRY(cudaMemcpy(out_host, out, out_bytes, cudaMemcpyDeviceToHost));
    cudaFree(x);
    cudaFree(out);
    return error;
}

/* Runs a kernel that should leave want(i) in out[i] of the first block and the like. */
static cudaError_t run(kernel_fn kernel, size_t shared, float (*want)(int i), float *wrong) {
    float out[BLOCKS * N];
    cudaError_t error = launch_and_read(kernel, shared, out);
    *wrong = 0;
    for (int i = 0; error == cudaSuccess && i < BLOCKS * N; i++) {
        float d = out[i] - want(i);
        if (!(d == 0) && *wrong == *wrong) *wrong = d; /* a NaN stays */
    }
    return error;
}

#define RUN(kernel, shared, want)                                                              \
    (planted ? run(kernel<true>, shared, want, wrong) : run(kernel<false>, shared, want, wrong))

static float want_x(int i) {
    return (float)(i % N + 1);
}

static float want_sum(int i) {
    return i % N == 0 ? N * (N + 1) / 2.0f : 0.0f;
}

static float want_neighbour(int i) {
    return (float)((i % N ^ 1) + 1);
}

/* ---- in kernels ---- */

template <bool planted>
static __global__ void __launch_bounds__(N, 1) tree_sum(float *out, const float *x) {
    SY_SHARED_STRUCT(values, sh);
    int t = (int)threadIdx.x;
    sh->v[t] = x[t];
    __syncthreads();
    for (int d = N / 2; d > 0; d /= 2) {
        if (t < d) sh->v[t] += sh->v[t + d];
        if (!planted || d != 64) __syncthreads();
    }
    if (t == 0) out[blockIdx.x * N] = sh->v[0];
}

cudaError_t fault_missing_barrier(bool planted, float *wrong) {
    return RUN(tree_sum, sizeof(values), want_sum);
}

template <bool planted>
static __global__ void __launch_bounds__(N, 1) diverge(float *out, const float *x) {
    int t = (int)threadIdx.x;
    out[blockIdx.x * N + (unsigned)t] = x[t];
    if (!planted || t < N / 2)
        __syncthreads();
    else
        __syncthreads();
}

cudaError_t fault_divergent_barrier(bool planted, float *wrong) {
    return RUN(diverge, 0, want_x);
}

template <bool planted>
static __global__ void __launch_bounds__(N, 1) copy_async(float *out, const float *x) {
    SY_SHARED_STRUCT(values, sh);
    int t = (int)threadIdx.x;
    if (t < N / 4) sy_cp_async16(&sh->v[t * 4], x + t * 4, 16);
    sy_cp_async_commit();
    if (!planted) sy_cp_async_wait<0>();
    __syncthreads();
    out[blockIdx.x * N + (unsigned)t] = sh->v[t];
}

cudaError_t fault_missing_copy_wait(bool planted, float *wrong) {
    return RUN(copy_async, sizeof(values), want_x);
}

template <bool planted>
static __global__ void __launch_bounds__(N, 1) exchange(float *out, const float *x) {
    int t = (int)threadIdx.x;
    out[blockIdx.x * N + (unsigned)t] =
        __shfl_xor_sync(planted ? 0x0000ffffu : 0xffffffffu, x[t], 1);
}

cudaError_t fault_wrong_mask(bool planted, float *wrong) {
    return RUN(exchange, 0, want_neighbour);
}

template <bool planted>
static __global__ void __launch_bounds__(N, 1) exchange_some(float *out, const float *x) {
    int t = (int)threadIdx.x;
    float v = x[t];
    if (!planted || t % 32 != 31) v = __shfl_xor_sync(0xffffffffu, v, 1);
    __syncthreads();
    out[blockIdx.x * N + (unsigned)t] = v;
}

cudaError_t fault_absent_lane(bool planted, float *wrong) {
    return RUN(exchange_some, 0, want_neighbour);
}

template <bool planted>
static __global__ void __launch_bounds__(N, 1) copy_shared(float *out, const float *x) {
    __shared__ float v[N];
    int t = (int)threadIdx.x;
    if (!planted || t != N - 1) v[t] = x[t];
    __syncthreads();
    out[blockIdx.x * N + (unsigned)t] = v[t];
}

cudaError_t fault_uninitialised_shared(bool planted, float *wrong) {
    return RUN(copy_shared, 0, want_x);
}

template <bool planted>
static __global__ void __launch_bounds__(N, 1) read_shared(float *out, const float *x) {
    SY_SHARED_STRUCT(values, sh);
    int t = (int)threadIdx.x;
    sh->v[t] = x[t];
    __syncthreads();
    float v = sh->v[planted && t == N - 1 ? N : t];
    out[blockIdx.x * N + (unsigned)t] = v;
}

cudaError_t fault_past_shared(bool planted, float *wrong) {
    return RUN(read_shared, N * sizeof(float), want_x);
}

template <bool planted>
static __global__ void __launch_bounds__(N, 1) read_one_further(float *out, const float *x) {
    int t = (int)threadIdx.x;
    out[blockIdx.x * N + (unsigned)t] = x[planted && t == N - 1 ? N : t];
}

cudaError_t fault_read_past_end(bool planted, float *wrong) {
    return RUN(read_one_further, 0, want_x);
}

template <bool planted>
static __global__ void __launch_bounds__(N, 1) write_one_further(float *out, const float *x) {
    unsigned i = blockIdx.x * N + threadIdx.x;
    out[i] = x[threadIdx.x];
    if (planted && i == BLOCKS * N - 1) out[i + 1] = 1;
}

cudaError_t fault_write_past_end(bool planted, float *wrong) {
    return RUN(write_one_further, 0, want_x);
}

template <bool planted>
static __global__ void __launch_bounds__(N, 1) read_anywhere(float *out, const float *x) {
    int t = (int)threadIdx.x;
    size_t far = planted ? (size_t)1 << 44 : 0;
    out[blockIdx.x * N + (unsigned)t] = x[(size_t)t + far];
}

cudaError_t fault_illegal_address(bool planted, float *wrong) {
    return RUN(read_anywhere, 0, want_x);
}

template <bool planted>
static __global__ void __launch_bounds__(N, 1) count_up(float *out, const float *x) {
    SY_SHARED_STRUCT(values, sh);
    int t = (int)threadIdx.x;
    if (t == 0) sh->n = 0;
    __syncthreads();
    if (planted)
        sh->n += (int)x[t];
    else
        atomicAdd(&sh->n, (int)x[t]);
    __syncthreads();
    if (t == 0) out[blockIdx.x * N] = (float)sh->n;
}

cudaError_t fault_read_modify_write(bool planted, float *wrong) {
    return RUN(count_up, sizeof(values), want_sum);
}

template <bool planted>
static __global__ void __launch_bounds__(N, 1) write_rows(float *out, const float *x) {
    unsigned row = planted && blockIdx.x == BLOCKS - 1 ? 0 : blockIdx.x;
    out[row * N + threadIdx.x] = x[threadIdx.x];
}

cudaError_t fault_two_blocks(bool planted, float *wrong) {
    cudaError_t error = RUN(write_rows, 0, want_x);
    *wrong = 0; /* the fault is what both blocks wrote to row 0, whatever the result */
    return error;
}

/* ---- in host code ---- */

static __global__ void __launch_bounds__(N, 1) twice(float *out, const float *x) {
    out[threadIdx.x] = 2 * x[threadIdx.x];
}

static cudaError_t launch_twice(float *out, const float *x, cudaStream_t s) {
    cudaLaunchConfig_t c = {};
    c.gridDim = dim3(1);
    c.blockDim = dim3(N);
    c.stream = s;
    return cudaLaunchKernelEx(&c, twice, out, x);
}

struct host_setup {
    float *in, *result; /* pinned */
    float *x, *out;     /* device */
    cudaStream_t a, b;
    cudaEvent_t copied;
};

static cudaError_t open_setup(host_setup *h) {
    cudaError_t error = cudaSuccess;
    const size_t bytes = N * sizeof(float);
    memset(h, 0, sizeof *h);
    TRY(cudaHostAlloc((void **)&h->in, bytes, cudaHostAllocDefault));
    TRY(cudaHostAlloc((void **)&h->result, bytes, cudaHostAllocDefault));
    TRY(cudaMalloc((void **)&h->x, bytes));
    TRY(cudaMalloc((void **)&h->out, bytes));
    TRY(cudaStreamCreateWithFlags(&h->a, cudaStreamNonBlocking));
    TRY(cudaStreamCreateWithFlags(&h->b, cudaStreamNonBlocking));
    TRY(cudaEventCreateWithFlags(&h->copied, cudaEventDisableTiming));
    for (int i = 0; error == cudaSuccess && i < N; i++)
        h->in[i] = (float)(i + 1);
    return error;
}

static void close_setup(host_setup *h) {
    cudaEventDestroy(h->copied);
    cudaStreamDestroy(h->a);
    cudaStreamDestroy(h->b);
    cudaFree(h->x);
    cudaFree(h->out);
    cudaFreeHost(h->in);
    cudaFreeHost(h->result);
}

/* Time in which a device that is not late would have done what it was given. */
static void dawdle(void) {
    usleep(2000);
}

/* Copy on stream a, kernel and copy back on stream b: what each of the faults leaves out. */
static cudaError_t two_streams(bool reuse, bool no_event, bool no_wait, float *wrong) {
    host_setup h;
    const size_t bytes = N * sizeof(float);
    cudaError_t error = open_setup(&h);
    *wrong = 0;
    for (int i = 0; error == cudaSuccess && i < N; i++)
        h.result[i] = -1;
    TRY(cudaMemcpyAsync(h.x, h.in, bytes, cudaMemcpyHostToDevice, h.a));
    TRY(cudaEventRecord(h.copied, h.a));
    if (!reuse) TRY(cudaEventSynchronize(h.copied));
    dawdle();
    for (int i = 0; error == cudaSuccess && i < N && !no_event; i++)
        h.in[i] = 99;
    if (no_event) { /* a fresh copy, and nothing says that the kernel comes after it */
        TRY(cudaMemsetAsync(h.x, 0, bytes, h.a));
        TRY(cudaStreamSynchronize(h.a));
        TRY(cudaMemcpyAsync(h.x, h.in, bytes, cudaMemcpyHostToDevice, h.a));
    } else {
        TRY(cudaStreamWaitEvent(h.b, h.copied, 0));
    }
    TRY(launch_twice(h.out, h.x, h.b));
    TRY(cudaMemcpyAsync(h.result, h.out, bytes, cudaMemcpyDeviceToHost, h.b));
    if (!no_wait) TRY(cudaStreamSynchronize(h.b));
    dawdle();
    for (int i = 0; error == cudaSuccess && i < N; i++) {
        float d = h.result[i] - 2 * (float)(i + 1);
        if (!(d == 0)) *wrong = d;
    }
    close_setup(&h);
    return error;
}

cudaError_t fault_pinned_reuse(bool planted, float *wrong) {
    return two_streams(planted, false, false, wrong);
}

cudaError_t fault_missing_event(bool planted, float *wrong) {
    return two_streams(false, planted, false, wrong);
}

cudaError_t fault_missing_wait(bool planted, float *wrong) {
    return two_streams(false, false, planted, wrong);
}

cudaError_t fault_host_touch(bool planted, float *wrong) {
    float out[N], *x = NULL;
    cudaError_t error = cudaSuccess;
    *wrong = 0;
    TRY(cudaMalloc((void **)&x, sizeof out));
    TRY(cudaMemset(x, 0, sizeof out));
    TRY(cudaMemcpy(out, x, sizeof out, cudaMemcpyDeviceToHost));
    if (error == cudaSuccess) *wrong = planted ? *(volatile float *)&x[N - 1] : out[N - 1];
    cudaFree(x);
    return error;
}

static cudaError_t capture(void (*within)(host_setup *), float *wrong) {
    host_setup h;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    const size_t bytes = N * sizeof(float);
    cudaError_t error = open_setup(&h);
    *wrong = 0;
    TRY(cudaMemcpyAsync(h.x, h.in, bytes, cudaMemcpyHostToDevice, h.a));
    TRY(cudaStreamBeginCapture(h.a, cudaStreamCaptureModeThreadLocal));
    TRY(launch_twice(h.out, h.x, h.a));
    if (within != NULL) within(&h); /* does not look at the error: the capture's end tells */
    TRY(cudaStreamEndCapture(h.a, &graph));
    if (error == cudaSuccess) {
        TRY(cudaGraphInstantiate(&exec, graph, 0));
        TRY(cudaGraphLaunch(exec, h.a));
        TRY(cudaMemcpyAsync(h.result, h.out, bytes, cudaMemcpyDeviceToHost, h.a));
        TRY(cudaStreamSynchronize(h.a));
        *wrong = h.result[N - 1] - 2.0f * N;
        cudaGraphExecDestroy(exec);
        cudaGraphDestroy(graph);
    }
    close_setup(&h);
    return error;
}

static void allocate(host_setup *) {
    void *p;
    if (cudaMalloc(&p, 16) == cudaSuccess) cudaFree(p);
}

static void wait(host_setup *h) {
    cudaStreamSynchronize(h->a);
}

cudaError_t fault_allocation_in_capture(bool planted, float *wrong) {
    return capture(planted ? allocate : NULL, wrong);
}

cudaError_t fault_wait_in_capture(bool planted, float *wrong) {
    return capture(planted ? wait : NULL, wrong);
}

cudaError_t fault_never_freed(bool planted, float *wrong) {
    void *p = NULL;
    cudaError_t error = cudaMalloc(&p, 1);
    *wrong = 0;
    if (!planted) cudaFree(p);
    return error;
}
