/* Kernels: checks of a launch, and the blocks of a grid. */
#include <cstdio>
#include <map>

#include "inside.h"

static std::mutex &lock = *new std::mutex;
/* Dynamic shared memory that a kernel may have: cudaFuncSetAttribute. */
static std::map<const void *, int> &allowed = *new std::map<const void *, int>;

static size_t allowed_shared(const void *kernel) {
    std::lock_guard<std::mutex> held(lock);
    auto found = allowed.find(kernel);
    return found != allowed.end() ? (size_t)found->second : (size_t)EMU_DEFAULT_SHARED;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    if (kernel == nullptr) return emu_error(cudaErrorInvalidDeviceFunction);
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        value > EMU_MAX_SHARED)
        return emu_error(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> held(lock);
    allowed[kernel] = value;
    return cudaSuccess;
}

/* What a compiler for sm_80 might have made of it. */
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, const void *kernel) {
    if (kernel == nullptr) return emu_error(cudaErrorInvalidDeviceFunction);
    memset(out, 0, sizeof *out);
    out->maxThreadsPerBlock = EMU_MAX_THREADS;
    out->numRegs = 64;
    out->ptxVersion = out->binaryVersion = 80;
    out->maxDynamicSharedSizeBytes = (int)allowed_shared(kernel);
    return cudaSuccess;
}

static cudaError_t check(const cudaLaunchConfig_t *c, const void *kernel) {
    const dim3 &g = c->gridDim, &b = c->blockDim;
    uint64_t threads = (uint64_t)b.x * b.y * b.z;
    if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
    if (threads == 0 || threads > EMU_MAX_THREADS || b.x > 1024 || b.y > 1024 || b.z > 64 ||
        g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535)
        return cudaErrorInvalidConfiguration;
    if (c->dynamicSmemBytes > allowed_shared(kernel)) return cudaErrorInvalidValue;
    for (unsigned i = 0; i < c->numAttrs; i++)
        if (c->attrs[i].id == cudaLaunchAttributeCooperative ||
            c->attrs[i].id == cudaLaunchAttributeClusterDimension)
            return cudaErrorNotSupported; /* blocks run one after another */
    return cudaSuccess;
}

static uint64_t gcd(uint64_t a, uint64_t b) {
    while (b != 0) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Of the launch's shared memory what was asked for exists, and no more. */
static void open_shared(size_t bytes) {
#if EMU_ASAN
    __asan_poison_memory_region(emu_shared, EMU_SHARED_ROOM);
    __asan_unpoison_memory_region(emu_shared, bytes);
#else
    (void)bytes;
#endif
}

static cudaError_t run_grid(const cudaLaunchConfig_t &c, const std::function<void()> &body) {
    const uint64_t seed = emu_environment().seed;
    uint64_t x = c.gridDim.x, y = c.gridDim.y, n = x * y * c.gridDim.z;
    /* Block i * step + offset mod n, step coprime to n: all blocks in another order. */
    uint64_t step = 1, offset = 0, random = emu_mix(seed ^ emu_mix(emu_now.launch));
    if (seed != 0 && n > 1) {
        offset = random % n;
        step = (random >> 32) % n | 1;
        while (gcd(step, n) != 1)
            step++;
    }
    for (uint64_t i = 0, block = offset; i < n; i++, block = (block + step) % n) {
        blockIdx = {(unsigned)(block % x), (unsigned)(block / x % y),
                    (unsigned)(block / x / y)};
        cudaError_t error = emu_run_block(body, emu_mix(random ^ block));
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

static bool
run_kernel(const cudaLaunchConfig_t &c, const void *kernel, const std::function<void()> &body) {
    cudaError_t error = cudaErrorIllegalAddress;
    emu_now.kernel = kernel;
    emu_now.launch++;
    emu_now.first_block = emu_now.block + 1;
    emu_now.n_threads = (int)(c.blockDim.x * c.blockDim.y * c.blockDim.z);
    emu_now.shared_bytes = c.dynamicSmemBytes;
    blockDim = c.blockDim;
    gridDim = c.gridDim;
    open_shared(c.dynamicSmemBytes);
    emu_check_launch();
    if (emu_launch_fails())
        fprintf(stderr, "emu: kernel %s fails, as SY_EMU_FAIL_LAUNCH wants it\n",
                emu_kernel_name(kernel).c_str());
    else
        error = run_grid(c, body);
    if (error != cudaSuccess) {
        std::lock_guard<std::mutex> held(emu_lock);
        emu_sticky = error;
    }
    return true;
}

cudaError_t
emu_launch(const cudaLaunchConfig_t *config, const void *kernel, std::function<void()> body) {
    cudaError_t error = check(config, kernel);
    if (error != cudaSuccess) return emu_error(error);
    cudaLaunchConfig_t c = *config;
    c.attrs = nullptr;
    c.numAttrs = 0;
    return emu_enqueue(c.stream, [c, kernel, body] { return run_kernel(c, kernel, body); });
}
