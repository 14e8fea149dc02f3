/* What the parts of the emulation share. Not for kernels, and not for tests (emulation.h).
 *
 *   stack.h        switching from one thread's stack to another's
 *   block.cpp      the threads of one block: order, barriers, warp instructions
 *   launch.cpp     kernels: checks of a launch, the blocks of a grid
 *   stream.cpp     streams, events, and the OS thread that is "the device"
 *   graph.cpp      capture and graphs
 *   memory.cpp     device and pinned memory, copies
 *   device.cpp     properties, errors, the environment
 *   report.cpp     problems, and names of places in the code
 *   cublas.cpp, nccl.cpp     stand-ins for these libraries
 *   check.cpp, traffic.cpp   the access checker; no_check.cpp stands in where there is none */
#ifndef SY_EMULATION_INSIDE_H
#define SY_EMULATION_INSIDE_H

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "emulation.h"

#if defined(__SANITIZE_ADDRESS__)
#define EMU_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMU_ASAN 1
#endif
#endif
#ifndef EMU_ASAN
#define EMU_ASAN 0
#endif
#if EMU_ASAN
#include <sanitizer/asan_interface.h>
#endif

enum { EMU_MAX_THREADS = 1024, EMU_MAX_SHARED = 99 * 1024, EMU_DEFAULT_SHARED = 48 * 1024 };
/* Shared memory is mapped with room behind it, so that what is past its end is nobody else's. */
enum { EMU_SHARED_ROOM = 256 * 1024 };
/* Bytes of ones behind device memory and behind a launch's shared memory: what is read there is
 * NaN, what is written is found when the memory is freed. AddressSanitizer has guards of its own. */
enum { EMU_GUARD = EMU_ASAN ? 0 : 256 };

/* ---- device.cpp ---- */
struct emu_settings {
    uint64_t seed, memory;
    int devices;
    bool stats;
};
const emu_settings &emu_environment(void);
/* Remembers an error for cudaGetLastError, and gives it back. */
cudaError_t emu_error(cudaError_t error);
/* What a kernel's fault leaves behind for good; cudaSuccess at first. Under emu_lock. */
extern cudaError_t emu_sticky;
uint64_t emu_mix(uint64_t x);
/* True when a count of emu_fail_malloc or emu_fail_launch has come down to this call. */
bool emu_malloc_fails(void);
bool emu_launch_fails(void);
bool emu_graph_fails(void);

/* ---- report.cpp ---- */
void emu_report(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "gemm", and "gemm (matrix.cu:120)" of a return address. Slow at first sight of an address. */
std::string emu_kernel_name(const void *kernel);
std::string emu_place(const void *return_address);
/* "kernel gemm, block (0,1,0), thread (5,0,0), seed 3" of the running thread. */
std::string emu_where(void);

/* ---- block.cpp ---- */
struct emu_run {
    const void *kernel;
    int n_threads;
    size_t shared_bytes;
    uint64_t launch;
    uint64_t first_block, block; /* every block that ever ran has its number */
    uint32_t epoch;              /* barriers that this block has passed */
};
extern emu_run emu_now;
extern char *emu_shared; /* EMU_SHARED_ROOM bytes */
/* The static shared arrays of all kernels of the program; 0 bytes if there are none. */
extern char *emu_static_shared;
extern size_t emu_static_shared_bytes;
/* Called once, on the device's thread. All thread-local variables of the program are overwritten
 * there before each block: device_code.h, __shared__. */
void emu_block_prepare(void);
bool emu_on_device(void); /* is this the device's thread? */
/* Runs one block of emu_now; cudaSuccess, or the error of the kernel that was abandoned. */
cudaError_t emu_run_block(const std::function<void()> &body, uint64_t order);

/* ---- memory.cpp ---- */
struct emu_range {
    char *begin;
    size_t bytes;
};
/* Device memory in ascending order, as it was when the running kernel began. */
const std::vector<emu_range> &emu_device_ranges(void);
void emu_freeze_ranges(void); /* takes emu_lock */
/* For AddressSanitizer, device memory exists while the device runs. Under emu_lock. */
void emu_open_memory(bool open);

/* ---- stream.cpp, graph.cpp ---- */
extern std::mutex &emu_lock;
/* fn returns true when done, false to be called again (it waits for somebody else). */
typedef std::shared_ptr<const std::function<bool()>> emu_work;
cudaError_t emu_enqueue(cudaStream_t stream, std::function<bool()> fn);
/* Waits until all streams are empty, whatever captures. */
void emu_wait_idle(void);
/* Waits until a stream has done what it was given so far. */
void emu_wait_stream(cudaStream_t stream);
/* An error if the calling thread must not make an unsafe call now because of a capture, which is
 * then invalid. Under emu_lock. */
cudaError_t emu_unsafe_call(void);

struct emu_graph {
    std::vector<emu_work> work;
};

struct emu_capture {
    emu_graph *graph;
    cudaStreamCaptureMode mode;
    uint64_t owner; /* number of the thread that began it */
    bool invalid;
};
uint64_t emu_thread_number(void);

/* The capture of a stream, NULL if it is not capturing. Under emu_lock. */
emu_capture *&emu_capture_of(cudaStream_t stream);
/* All streams that there are. Under emu_lock. */
const std::vector<cudaStream_t> &emu_streams(void);
bool emu_known_stream(cudaStream_t stream); /* NULL, the default stream, is known */
/* Appends to a stream's queue, or to its capture. Under emu_lock. */
cudaError_t emu_append(cudaStream_t stream, const emu_work *work, size_t n);

/* ---- the access checker ---- */
void emu_check_launch(void);
void emu_check_block_begin(void);
void emu_check_block_end(void);
void emu_check_exit(void); /* prints the table of SY_EMU_STATS */

#endif
