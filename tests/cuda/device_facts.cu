/* What the CUDA runtime says about device 0, and which code a kernel of this program runs as there:
 * machine code that was compiled for it, or PTX that the driver had to translate.
 * Exit code: 0, 1 after an error, 77 without a device. */
#include <cuda_runtime.h>

#include <stdio.h>

static __global__ void __launch_bounds__(32, 8) one_thread(int *out) {
    if (threadIdx.x == 0) *out = 1;
}

static int failed(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return 0;
    fprintf(stderr, "device_facts: %s: %s\n", what, cudaGetErrorString(error));
    return 1;
}

/* "13.0" of 13000. */
static void print_version(const char *name, int version) {
    printf("%-22s %d.%d\n", name, version / 1000, version % 1000 / 10);
}

static int attribute(enum cudaDeviceAttr which) {
    int value = -1;
    if (cudaDeviceGetAttribute(&value, which, 0) != cudaSuccess) (void)cudaGetLastError();
    return value;
}

int main(void) {
    int devices = 0, driver = 0, runtime = 0;
    size_t available = 0, total = 0;
    struct cudaDeviceProp p;
    struct cudaFuncAttributes code;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("skipped: no CUDA device\n");
        return 77;
    }
    if (failed(cudaGetDeviceProperties(&p, 0), "cudaGetDeviceProperties") ||
        failed(cudaDriverGetVersion(&driver), "cudaDriverGetVersion") ||
        failed(cudaRuntimeGetVersion(&runtime), "cudaRuntimeGetVersion") ||
        failed(cudaMemGetInfo(&available, &total), "cudaMemGetInfo") ||
        failed(cudaFuncGetAttributes(&code, (const void *)one_thread), "cudaFuncGetAttributes"))
        return 1;
    printf("%-22s %s, compute capability %d.%d, %d visible\n", "device", p.name, p.major,
           p.minor, devices);
    print_version("driver", driver);
    print_version("runtime", runtime);
    printf("%-22s %d\n", "multiprocessors", p.multiProcessorCount);
    printf("%-22s %.2f GB of %.2f GB\n", "memory free", (double)available * 1e-9,
           (double)total * 1e-9);
    printf("%-22s %d bytes\n", "L2 cache", attribute(cudaDevAttrL2CacheSize));
    printf("%-22s %d bytes\n", "shared memory a block",
           attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin));
    printf("%-22s %s\n", "memory is the host's", p.integrated ? "yes" : "no");
    printf("%-22s %d, from PTX %d\n", "binary version", code.binaryVersion, code.ptxVersion);
#ifndef SY_CUDA_EMULATED
    if (code.binaryVersion != 10 * p.major + p.minor) {
        printf("the driver translated PTX: no machine code for this device was compiled in\n");
        return 1;
    }
#endif
    return 0;
}
