/* What a kernel may say: qualifiers, vector types, launches, barriers, warp instructions, atomics,
 * arithmetic. Included by cuda_runtime.h, for C++ only.
 *
 * A CUDA thread is a stack of its own that runs until it must wait for others: at a barrier, or at
 * a warp instruction, which the last lane to arrive carries out for all lanes. Types are as strict
 * as nvcc's: what compiles here should compile there. */
#ifndef SY_EMULATED_DEVICE_CODE_H
#define SY_EMULATED_DEVICE_CODE_H

/* Standard headers use some of the names below themselves, so they come first. */
#include <functional>
#include <tuple>
#include <type_traits>
#include <utility>

#define __host__
#define __device__
#define __global__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
/* One block runs at a time, so one array serves all blocks. It lies where the emulation can fill
 * it with garbage before each block: among the thread-local variables of the device's thread, or in
 * a section of its own (which gcc ignores within templates). */
#ifdef __clang__
#define __shared__ static __attribute__((section("sy_shared")))
#else
#define __shared__ static thread_local
#endif

/* ---- vector types ---- */

#define EMU_VECTOR(type, name)                                                                 \
    struct __align__(sizeof(type) * 2) name##2 {                                               \
        type x, y;                                                                             \
    };                                                                                         \
    struct name##3 {                                                                           \
        type x, y, z;                                                                          \
    };                                                                                         \
    struct __align__(sizeof(type) * 4 < 16 ? sizeof(type) * 4 : 16) name##4 {                  \
        type x, y, z, w;                                                                       \
    };                                                                                         \
    static inline name##2 make_##name##2(type x, type y) {                                     \
        return {x, y};                                                                         \
    }                                                                                          \
    static inline name##3 make_##name##3(type x, type y, type z) {                             \
        return {x, y, z};                                                                      \
    }                                                                                          \
    static inline name##4 make_##name##4(type x, type y, type z, type w) {                     \
        return {x, y, z, w};                                                                   \
    }
EMU_VECTOR(signed char, char)
EMU_VECTOR(unsigned char, uchar)
EMU_VECTOR(short, short)
EMU_VECTOR(unsigned short, ushort)
EMU_VECTOR(int, int)
EMU_VECTOR(unsigned, uint)
EMU_VECTOR(float, float)
EMU_VECTOR(long long, longlong)
EMU_VECTOR(unsigned long long, ulonglong)
#undef EMU_VECTOR

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

/* ---- launches ---- */

enum cudaLaunchAttributeID {
    cudaLaunchAttributeIgnore = 0,
    cudaLaunchAttributeCooperative = 2,
    cudaLaunchAttributeClusterDimension = 4,
    cudaLaunchAttributeProgrammaticStreamSerialization = 6,
    cudaLaunchAttributePriority = 8
};

union cudaLaunchAttributeValue {
    char pad[64];
    int cooperative, programmaticStreamSerializationAllowed, priority;
};

struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    cudaLaunchAttributeValue val;
};

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

cudaError_t emu_launch(const cudaLaunchConfig_t *config,
                       const void *kernel,
                       std::function<void()> thread_body);

template <class... Parameters, class... Arguments>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config,
                                             void (*kernel)(Parameters...),
                                             Arguments &&...arguments) {
    static_assert(sizeof(std::tuple<Parameters...>) <= 4096,
                  "kernel parameters: 4 KiB at most");
    std::tuple<Parameters...> copy(static_cast<Parameters>(arguments)...);
    return emu_launch(config, (const void *)kernel,
                      [kernel, copy] { std::apply(kernel, copy); });
}

template <class Kernel>
static inline cudaError_t
cudaFuncSetAttribute(Kernel *kernel, cudaFuncAttribute attribute, int value) {
    return cudaFuncSetAttribute((const void *)kernel, attribute, value);
}

template <class Kernel>
static inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes *out, Kernel *kernel) {
    return cudaFuncGetAttributes(out, (const void *)kernel);
}

template <class T> static inline cudaError_t cudaMalloc(T **out, size_t bytes) {
    return cudaMalloc((void **)out, bytes);
}

/* ---- the running thread ---- */

struct emu_copy {
    void *dst;
    const void *src;
    int bytes, valid;
};

struct alignas(64) emu_thread {
    uint3 tid;
    int id, warp, lane;      /* id: within the block, x fastest */
    struct emu_stack *stack; /* NULL: not started */
    const char *file;        /* where it waits */
    int line;
    enum { running, at_barrier, at_warp_instruction } waits;
    /* cp.async: what was issued, and how much of that each committed group covers. */
    int n_copies, n_groups;
    int group_end[16];
    emu_copy copies[64];
};

extern emu_thread *emu_self;
extern uint3 blockIdx;
extern dim3 blockDim, gridDim;
#define threadIdx (emu_self->tid)
static constexpr int warpSize = 32;

/* Last parameters of whatever waits or may fail: where it was called. */
#define EMU_AT const char *file = __builtin_FILE(), int line = __builtin_LINE()

/* One warp instruction. Every lane of mask hands in its operands; fn, run once all have arrived,
 * computes for the lanes of mask (arg[lane]). emu_warp_aligned: for all 32 lanes, none of which
 * may have left the kernel. */
typedef void (*emu_warp_fn)(unsigned mask, void **arg);
void emu_warp(unsigned mask, emu_warp_fn fn, void *arg, const char *file, int line);
void emu_warp_aligned(emu_warp_fn fn, void *arg, const char *file, int line);
/* A barrier of the block's threads; the sum of what they handed in. */
int emu_barrier(int value, const char *file, int line);
[[noreturn]] void emu_fail(const char *what, const char *file, int line);
void *emu_dynamic_shared(void);

/* For the access checker: an access by a model of an instruction (kind: 0 read, 1 write, 3 atomic);
 * lanes of a warp are ordered; a fence was passed. */
void emu_touch(const void *p, int bytes, int kind, const void *pc);
void emu_syncwarp_mark(unsigned mask);
void emu_fence_mark(void);

#include "device_intrinsics.h"
#endif
