/* The device's properties, errors, and the environment. */
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <unistd.h>

#include "inside.h"

enum { MAJOR = 8, MINOR = 0, PROCESSORS = 4, L2_BYTES = 4 << 20, PCI_DOMAIN = 0xfffe };
enum { EXIT_WITH_PROBLEMS = 86 };

cudaError_t emu_sticky;
static thread_local cudaError_t last_error;
static thread_local int current_device;
/* To the one that fails; 0: none. */
static std::atomic<int64_t> mallocs_left, launches_left, graphs_left;

/* ---- the environment ---- */

static uint64_t number(const char *name, uint64_t otherwise) {
    const char *text = getenv(name);
    char *end;
    if (text == nullptr || *text == '\0') return otherwise;
    uint64_t n = strtoull(text, &end, 10);
    if (*end == '\0') return n;
    fprintf(stderr, "emu: %s=%s is no number\n", name, text);
    exit(2);
}

static void at_exit(int status, void *) {
    emu_check_exit();
    int64_t n = emu_allocations();
    if (n > 0) emu_report("%lld device allocations were never freed", (long long)n);
    if (status != 0 || emu_problems() == 0) return;
    fprintf(stderr, "emu: %d problems\n", emu_problems());
    fflush(nullptr);
    _exit(EXIT_WITH_PROBLEMS);
}

/* "n", or "n@r" for rank r alone; 0 where it is not given or another rank's. */
static int64_t for_this_rank(const char *name) {
    const char *text = getenv(name), *rank = getenv("OMPI_COMM_WORLD_RANK");
    int n = 0, only = -1;
    if (text == nullptr || sscanf(text, "%d@%d", &n, &only) < 1) return 0;
    return only < 0 || (rank != nullptr && atoi(rank) == only) ? n : 0;
}

static emu_settings read_environment(void) {
    emu_settings s;
    s.seed = number("SY_EMU_SEED", 0);
    s.memory = number("SY_EMU_MEMORY", (uint64_t)4 << 30);
    s.devices = (int)number("SY_EMU_DEVICES", 1);
    s.stats = number("SY_EMU_STATS", 0) != 0;
    mallocs_left = (int64_t)number("SY_EMU_FAIL_MALLOC", 0);
    launches_left = (int64_t)number("SY_EMU_FAIL_LAUNCH", 0);
    graphs_left = for_this_rank("SY_EMU_FAIL_GRAPH");
    on_exit(at_exit, nullptr);
    return s;
}

const emu_settings &emu_environment(void) {
    static const emu_settings settings = read_environment();
    return settings;
}

static bool counts_down(std::atomic<int64_t> *left) {
    emu_environment();
    return left->load() > 0 && left->fetch_sub(1) == 1;
}

bool emu_malloc_fails(void) {
    return counts_down(&mallocs_left);
}

bool emu_launch_fails(void) {
    return counts_down(&launches_left);
}

bool emu_graph_fails(void) {
    return counts_down(&graphs_left);
}

void emu_fail_malloc(int64_t n) {
    emu_environment();
    mallocs_left = n;
}

void emu_fail_launch(int64_t n) {
    emu_environment();
    launches_left = n;
}

uint64_t emu_mix(uint64_t x) { /* the finalizer of splitmix64 */
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* ---- errors ---- */

cudaError_t emu_error(cudaError_t error) {
    last_error = error;
    return error;
}

static cudaError_t sticky(void) {
    std::lock_guard<std::mutex> held(emu_lock);
    return emu_sticky;
}

cudaError_t cudaPeekAtLastError(void) {
    cudaError_t broken = sticky();
    return broken != cudaSuccess ? broken : last_error;
}

cudaError_t cudaGetLastError(void) {
    cudaError_t error = cudaPeekAtLastError();
    last_error = cudaSuccess;
    return error;
}

#define ERRORS(X)                                                                              \
    X(cudaSuccess, "no error")                                                                 \
    X(cudaErrorInvalidValue, "invalid argument")                                               \
    X(cudaErrorMemoryAllocation, "out of memory")                                              \
    X(cudaErrorInvalidConfiguration, "invalid configuration argument")                         \
    X(cudaErrorInvalidMemcpyDirection, "invalid copy direction for memcpy")                    \
    X(cudaErrorInvalidDeviceFunction, "invalid device function")                               \
    X(cudaErrorNoDevice, "no CUDA-capable device is detected")                                 \
    X(cudaErrorInvalidDevice, "invalid device ordinal")                                        \
    X(cudaErrorInvalidResourceHandle, "invalid resource handle")                               \
    X(cudaErrorIllegalState, "the operation cannot be performed in the present state")         \
    X(cudaErrorNotReady, "device not ready")                                                   \
    X(cudaErrorIllegalAddress, "an illegal memory access was encountered")                     \
    X(cudaErrorLaunchFailure, "unspecified launch failure")                                    \
    X(cudaErrorNotSupported, "operation not supported")                                        \
    X(cudaErrorStreamCaptureUnsupported, "operation not permitted when stream is capturing")   \
    X(cudaErrorStreamCaptureInvalidated,                                                       \
      "operation failed due to a previous error during capture")                               \
    X(cudaErrorStreamCaptureIsolation,                                                         \
      "dependency created on uncaptured work in another stream")                               \
    X(cudaErrorCapturedEvent, "operation not permitted on an event last recorded in a "        \
                              "capturing stream")                                              \
    X(cudaErrorStreamCaptureWrongThread,                                                       \
      "attempt to terminate a thread-local capture sequence from another thread")

const char *cudaGetErrorName(cudaError_t error) {
    switch (error) {
#define NAME(value, text)                                                                      \
    case value:                                                                                \
        return #value;
        ERRORS(NAME)
#undef NAME
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
#define TEXT(value, text)                                                                      \
    case value:                                                                                \
        return text;
        ERRORS(TEXT)
#undef TEXT
    }
    return "unrecognized error code";
}

/* ---- devices ---- */

static bool exists(int device) {
    return device >= 0 && device < emu_environment().devices;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = emu_environment().devices;
    return *count > 0 ? cudaSuccess : emu_error(cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int *device) {
    *device = current_device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    if (!exists(device)) return emu_error(cudaErrorInvalidDevice);
    current_device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *out, int device) {
    if (!exists(device)) return emu_error(cudaErrorInvalidDevice);
    memset(out, 0, sizeof *out);
    snprintf(out->name, sizeof out->name, "emulated");
    out->totalGlobalMem = emu_environment().memory;
    out->sharedMemPerBlock = EMU_DEFAULT_SHARED;
    out->sharedMemPerBlockOptin = EMU_MAX_SHARED;
    out->warpSize = 32;
    out->maxThreadsPerBlock = EMU_MAX_THREADS;
    out->major = MAJOR;
    out->minor = MINOR;
    out->multiProcessorCount = PROCESSORS;
    out->l2CacheSize = L2_BYTES;
    out->pciDomainID = PCI_DOMAIN; /* no machine has such a device to be near to */
    out->pciBusID = device;
    out->uuid.bytes[0] = (char)(1 + device);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device) {
    cudaDeviceProp p;
    cudaError_t error = cudaGetDeviceProperties(&p, device);
    if (error != cudaSuccess) return error;
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = p.maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = (int)p.sharedMemPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)p.sharedMemPerBlockOptin;
        break;
    case cudaDevAttrWarpSize:
        *value = p.warpSize;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = p.multiProcessorCount;
        break;
    case cudaDevAttrIntegrated:
        *value = p.integrated;
        break;
    case cudaDevAttrPciBusId:
        *value = p.pciBusID;
        break;
    case cudaDevAttrPciDeviceId:
        *value = p.pciDeviceID;
        break;
    case cudaDevAttrPciDomainId:
        *value = p.pciDomainID;
        break;
    case cudaDevAttrL2CacheSize:
        *value = p.l2CacheSize;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p.major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p.minor;
        break;
    default:
        return emu_error(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *buf, int buf_size, int device) {
    if (!exists(device)) return emu_error(cudaErrorInvalidDevice);
    int n = snprintf(buf, (size_t)buf_size, "%04x:%02x:00.0", (unsigned)PCI_DOMAIN,
                     (unsigned)device & 255u);
    return n < buf_size ? cudaSuccess : emu_error(cudaErrorInvalidValue);
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = CUDART_VERSION;
    return cudaSuccess;
}
