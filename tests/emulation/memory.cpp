/* Device and pinned memory, and copies.
 *
 * Device memory is the host's own, of the exact size and full of ones when fresh (NaN as a float of
 * any kind). Under AddressSanitizer it is poisoned while the device does nothing, so that host code
 * that follows a device pointer is reported. */
#include <cstdio>
#include <cstdlib>
#include <map>

#include "inside.h"

typedef std::map<char *, size_t> blocks;

/* Never destroyed: the device's thread may outlive main. All under emu_lock. */
static blocks &device = *new blocks;
static blocks &pinned = *new blocks;
static uint64_t device_bytes;
static bool open_now;
static uint64_t version = 1; /* of `device` */

/* As the running kernel sees it; the device's thread only. */
static std::vector<emu_range> &frozen = *new std::vector<emu_range>;
static uint64_t frozen_version;

static void set_open(char *p, size_t bytes, bool open) {
#if EMU_ASAN
    if (open)
        __asan_unpoison_memory_region(p, bytes);
    else
        __asan_poison_memory_region(p, bytes);
#else
    (void)p, (void)bytes, (void)open;
#endif
}

void emu_open_memory(bool open) {
    if (open == open_now) return;
    open_now = open;
    for (auto &b : device)
        set_open(b.first, b.second, open);
}

const std::vector<emu_range> &emu_device_ranges(void) {
    return frozen;
}

void emu_freeze_ranges(void) {
    std::lock_guard<std::mutex> held(emu_lock);
    if (frozen_version == version) return;
    frozen_version = version;
    frozen.clear();
    for (auto &b : device)
        frozen.push_back({b.first, b.second});
}

int64_t emu_allocations(void) {
    std::lock_guard<std::mutex> held(emu_lock);
    return (int64_t)device.size();
}

/* The block of `b` that holds p, or its end. */
static blocks::iterator block_of(blocks &b, const void *p) {
    auto next = b.upper_bound((char *)p);
    if (next == b.begin()) return b.end();
    --next;
    return (char *)p < next->first + next->second ? next : b.end();
}

static bool within(const blocks::iterator &b, const void *p, size_t bytes) {
    return bytes <= (size_t)(b->first + b->second - (char *)p);
}

/* ---- allocation ---- */

cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    std::lock_guard<std::mutex> held(emu_lock);
    *total = emu_environment().memory;
    *available = *total > device_bytes ? *total - device_bytes : 0;
    return cudaSuccess;
}

static cudaError_t may_allocate(void) {
    std::lock_guard<std::mutex> held(emu_lock);
    if (emu_sticky != cudaSuccess) return emu_sticky;
    return emu_unsafe_call();
}

cudaError_t cudaMalloc(void **out, size_t bytes) {
    void *p = nullptr;
    cudaError_t error = may_allocate();
    *out = nullptr;
    if (error != cudaSuccess) return emu_error(error);
    if (bytes == 0) return cudaSuccess;
    size_t available, total;
    cudaMemGetInfo(&available, &total);
    if (emu_malloc_fails() || bytes > available || bytes > SIZE_MAX - EMU_GUARD ||
        posix_memalign(&p, 256, bytes + EMU_GUARD) != 0)
        return emu_error(cudaErrorMemoryAllocation);
    memset(p, 0xff, bytes + EMU_GUARD);
    std::lock_guard<std::mutex> held(emu_lock);
    device[(char *)p] = bytes;
    device_bytes += bytes;
    version++;
    set_open((char *)p, bytes, open_now);
    *out = p;
    return cudaSuccess;
}

static void check_guard(const char *begin, size_t bytes) {
    for (size_t i = 0; i < EMU_GUARD; i++) {
        if ((unsigned char)begin[bytes + i] == 0xff) continue;
        emu_report(
            "a write past the end of device memory: %zu bytes behind an allocation of %zu", i,
            bytes);
        return;
    }
}

/* Waits for the device, as it does on one. A broken device gives its error, but frees. */
static cudaError_t release(blocks *from, void *p) {
    {
        std::lock_guard<std::mutex> held(emu_lock);
        cudaError_t error = emu_unsafe_call();
        if (error != cudaSuccess) return error;
        if (from->count((char *)p) == 0) return cudaErrorInvalidValue;
    }
    emu_wait_idle();
    std::lock_guard<std::mutex> held(emu_lock);
    auto b = from->find((char *)p);
    if (b == from->end()) return cudaErrorInvalidValue;
    if (from == &device) {
        set_open(b->first, b->second, true);
        check_guard(b->first, b->second);
        device_bytes -= b->second;
        version++;
    }
    from->erase(b);
    free(p);
    return emu_sticky;
}

cudaError_t cudaFree(void *p) {
    if (p == nullptr) return cudaSuccess;
    cudaError_t error = release(&device, p);
    return error == cudaSuccess ? error : emu_error(error);
}

cudaError_t cudaHostAlloc(void **out, size_t bytes, unsigned) {
    void *p = nullptr;
    cudaError_t error = may_allocate();
    *out = nullptr;
    if (error != cudaSuccess) return emu_error(error);
    if (bytes == 0) return cudaSuccess;
    if (posix_memalign(&p, 4096, bytes) != 0) return emu_error(cudaErrorMemoryAllocation);
    memset(p, 0xff, bytes);
    std::lock_guard<std::mutex> held(emu_lock);
    pinned[(char *)p] = bytes;
    *out = p;
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **out, size_t bytes) {
    return cudaHostAlloc(out, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void *p) {
    if (p == nullptr) return cudaSuccess;
    cudaError_t error = release(&pinned, p);
    return error == cudaSuccess ? error : emu_error(error);
}

/* ---- copies ---- */

enum side { PAGEABLE, PINNED, DEVICE };

/* Where [p, p + bytes) is; false if it is neither here nor there. */
static bool find_side(const void *p, size_t bytes, side *out) {
    auto d = block_of(device, p), h = block_of(pinned, p);
    *out = d != device.end() ? DEVICE : h != pinned.end() ? PINNED : PAGEABLE;
    if (*out == DEVICE) return within(d, p, bytes);
    if (*out == PINNED) return within(h, p, bytes);
    return true;
}

static bool direction_is_right(cudaMemcpyKind kind, side to, side from) {
    if (kind == cudaMemcpyDefault) return true;
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    return to_device == (to == DEVICE) && from_device == (from == DEVICE);
}

static cudaError_t
find_sides(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, side *t, side *f) {
    std::lock_guard<std::mutex> held(emu_lock);
    if (!find_side(to, bytes, t) || !find_side(from, bytes, f)) return cudaErrorInvalidValue;
    /* A device would take a wrong direction for an address of its own: nothing good comes of it. */
    return direction_is_right(kind, *t, *f) ? cudaSuccess : cudaErrorInvalidValue;
}

/* Ordinary memory goes through a staging buffer on its way: out of it before the call returns;
 * into it, the call returns when all is done. Only pinned memory is read late. */
cudaError_t cudaMemcpyAsync(void *to,
                            const void *from,
                            size_t bytes,
                            cudaMemcpyKind kind,
                            cudaStream_t stream) {
    side t, f;
    cudaError_t error = find_sides(to, from, bytes, kind, &t, &f);
    if (error != cudaSuccess) return emu_error(error);
    bool pageable = (t == PAGEABLE || f == PAGEABLE) && bytes > 0;
    if (pageable) {
        cudaStreamCaptureStatus status;
        error = cudaStreamIsCapturing(stream, &status);
        if (error == cudaSuccess && status != cudaStreamCaptureStatusNone)
            error = cudaErrorStreamCaptureUnsupported; /* it would wait */
        if (error != cudaSuccess) return emu_error(error);
    }
    if (f == PAGEABLE && t == DEVICE) {
        auto staged =
            std::make_shared<std::vector<char>>((const char *)from, (const char *)from + bytes);
        return emu_enqueue(stream, [to, staged] {
            if (!staged->empty()) memcpy(to, staged->data(), staged->size());
            return true;
        });
    }
    error = emu_enqueue(stream, [to, from, bytes] {
        if (bytes > 0) memmove(to, from, bytes);
        return true;
    });
    if (error == cudaSuccess && pageable) emu_wait_stream(stream);
    return error;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
    cudaError_t error = may_allocate(); /* the same calls are unsafe in a capture */
    if (error != cudaSuccess) return emu_error(error);
    error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    return error == cudaSuccess ? cudaStreamSynchronize(nullptr) : error;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    side where;
    {
        std::lock_guard<std::mutex> held(emu_lock);
        if (bytes > 0 && (!find_side(p, bytes, &where) || where != DEVICE))
            return emu_error(cudaErrorInvalidValue);
    }
    return emu_enqueue(stream, [p, value, bytes] {
        if (bytes > 0) memset(p, value, bytes);
        return true;
    });
}

cudaError_t cudaMemset(void *p, int value, size_t bytes) {
    cudaError_t error = may_allocate();
    if (error != cudaSuccess) return emu_error(error);
    return cudaMemsetAsync(p, value, bytes, nullptr);
}
