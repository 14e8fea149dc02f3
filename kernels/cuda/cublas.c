#include "kernels/cuda/cublas.h"

#include <stdlib.h>
#include <string.h>

#ifndef SY_CUDA_EMULATED
#include <dlfcn.h>
#endif

sy_status sy_cublas_status(const sy_cuda *cu, cublasStatus_t status, const char *call) {
    if (status == CUBLAS_STATUS_SUCCESS) return SY_OK;
    sy_status st = status == CUBLAS_STATUS_ALLOC_FAILED ? SY_ERR_MEMORY : SY_ERR_DEVICE;
    return sy_fail(st, "device %d (%s): %s: cuBLAS status %d", cu->device, cu->name, call,
                   (int)status);
}

#ifdef SY_CUDA_EMULATED

sy_status sy_cublas_open(sy_cublas *out) {
    const char *path = getenv("SWITCHYARD_CUBLAS");
    *out = (sy_cublas){0};
    if (path != NULL && path[0] != '\0')
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "cuBLAS, as SWITCHYARD_CUBLAS names it: %s: the emulation has its own",
                       path);
    *out = (sy_cublas){.create = cublasCreate_v2,
                       .destroy = cublasDestroy_v2,
                       .set_stream = cublasSetStream_v2,
                       .set_workspace = cublasSetWorkspace_v2,
                       .gemm = cublasGemmEx};
    return SY_OK;
}

void sy_cublas_close(sy_cublas *cublas) {
    *cublas = (sy_cublas){0};
}

#else

enum { LOAD = RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE };

static const char *load_error(void) {
    const char *text = dlerror();
    return text != NULL ? text : "no reason given";
}

static sy_status load(void **library) {
    static const char *const names[] = {"libcublas.so.13", "libcublas.so.12"};
    const char *path = getenv("SWITCHYARD_CUBLAS");
    if (path != NULL && path[0] != '\0') {
        *library = dlopen(path, LOAD);
        if (*library != NULL) return SY_OK;
        return sy_fail(SY_ERR_UNSUPPORTED, "cuBLAS, as SWITCHYARD_CUBLAS names it: %s",
                       load_error());
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if ((*library = dlopen(names[i], LOAD)) != NULL) return SY_OK;
    return sy_fail(SY_ERR_UNSUPPORTED,
                   "no cuBLAS: neither libcublas.so.13 nor libcublas.so.12 was found where the "
                   "dynamic linker looks; SWITCHYARD_CUBLAS=FILE names one");
}

/* dlsym gives an object pointer: POSIX promises that it holds a function's address, C does not. */
static sy_status look_up(void *library, const char *name, void *function, size_t size) {
    void *symbol = dlsym(library, name);
    if (symbol == NULL)
        return sy_fail(SY_ERR_UNSUPPORTED, "cuBLAS has no %s: %s", name, load_error());
    memcpy(function, &symbol, size);
    return SY_OK;
}

sy_status sy_cublas_open(sy_cublas *out) {
    sy_status st = SY_OK;
    *out = (sy_cublas){0};
    _Static_assert(sizeof out->create == sizeof(void *), "functions are held like objects");
    SY_TRY(load(&out->library));
#define LOOK_UP(name, member) look_up(out->library, name, &out->member, sizeof out->member)
    SY_TRY(LOOK_UP("cublasCreate_v2", create));
    SY_TRY(LOOK_UP("cublasDestroy_v2", destroy));
    SY_TRY(LOOK_UP("cublasSetStream_v2", set_stream));
    SY_TRY(LOOK_UP("cublasSetWorkspace_v2", set_workspace));
    SY_TRY(LOOK_UP("cublasGemmEx", gemm));
#undef LOOK_UP
done:
    if (st != SY_OK) sy_cublas_close(out);
    return st;
}

void sy_cublas_close(sy_cublas *cublas) {
    if (cublas->library != NULL) dlclose(cublas->library);
    *cublas = (sy_cublas){0};
}

#endif
