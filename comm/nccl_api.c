#define _GNU_SOURCE /* dladdr */
#include "comm/nccl_api.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ncclCommInitRankConfig is there from 2.14 on; non-blocking communicators work well since 2.18. */
enum { OLDEST_VERSION = 21800 };

#ifdef SY_CUDA_EMULATED

static sy_status find_entries(sy_nccl_api *api) {
    *api = (sy_nccl_api){.get_version = ncclGetVersion,
                         .get_unique_id = ncclGetUniqueId,
                         .comm_init_rank_config = ncclCommInitRankConfig,
                         .comm_get_async_error = ncclCommGetAsyncError,
                         .comm_finalize = ncclCommFinalize,
                         .comm_destroy = ncclCommDestroy,
                         .comm_abort = ncclCommAbort,
                         .group_start = ncclGroupStart,
                         .group_end = ncclGroupEnd,
                         .send = ncclSend,
                         .receive = ncclRecv,
                         .all_gather = ncclAllGather,
                         .get_error_string = ncclGetErrorString,
                         .get_last_error = ncclGetLastError};
    snprintf(api->path, sizeof api->path, "emulated");
    return SY_OK;
}

#else
#include <dlfcn.h>
#include <stddef.h>

static const struct {
    const char *name;
    size_t offset;
} entries[] = {
    {"ncclGetVersion", offsetof(sy_nccl_api, get_version)},
    {"ncclGetUniqueId", offsetof(sy_nccl_api, get_unique_id)},
    {"ncclCommInitRankConfig", offsetof(sy_nccl_api, comm_init_rank_config)},
    {"ncclCommGetAsyncError", offsetof(sy_nccl_api, comm_get_async_error)},
    {"ncclCommFinalize", offsetof(sy_nccl_api, comm_finalize)},
    {"ncclCommDestroy", offsetof(sy_nccl_api, comm_destroy)},
    {"ncclCommAbort", offsetof(sy_nccl_api, comm_abort)},
    {"ncclGroupStart", offsetof(sy_nccl_api, group_start)},
    {"ncclGroupEnd", offsetof(sy_nccl_api, group_end)},
    {"ncclSend", offsetof(sy_nccl_api, send)},
    {"ncclRecv", offsetof(sy_nccl_api, receive)},
    {"ncclAllGather", offsetof(sy_nccl_api, all_gather)},
    {"ncclGetErrorString", offsetof(sy_nccl_api, get_error_string)},
    {"ncclGetLastError", offsetof(sy_nccl_api, get_last_error)},
};

static sy_status find_entries(sy_nccl_api *api) {
    const char *name = getenv("SWITCHYARD_NCCL");
    if (name == NULL || name[0] == '\0') name = "libnccl.so.2";
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "several ranks with GPUs need NVIDIA's NCCL, which cannot be loaded: %s "
                       "(install the package libnccl2, or name the file in SWITCHYARD_NCCL)",
                       dlerror());
    void *entry = NULL;
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++) {
        entry = dlsym(library, entries[i].name);
        if (entry == NULL)
            return sy_fail(SY_ERR_UNSUPPORTED, "%s has no %s: NCCL 2.18 or later is needed",
                           name, entries[i].name);
        memcpy((char *)api + entries[i].offset, &entry, sizeof entry);
    }
    Dl_info info;
    bool known = dladdr(entry, &info) != 0 && info.dli_fname != NULL;
    snprintf(api->path, sizeof api->path, "%s", known ? info.dli_fname : name);
    return SY_OK;
}
#endif

sy_status sy_nccl_load(sy_nccl_api *api) {
    sy_status st = SY_OK;
    memset(api, 0, sizeof *api);
    SY_TRY(find_entries(api));
    ncclResult_t result = api->get_version(&api->version);
    if (result != ncclSuccess)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%s does not tell its version: %s", api->path,
                api->get_error_string(result));
    if (api->version < OLDEST_VERSION)
        SY_FAIL(SY_ERR_UNSUPPORTED, "%s is NCCL %d.%d.%d, 2.18 or later is needed", api->path,
                api->version / 10000, api->version / 100 % 100, api->version % 100);
done:
    return st;
}
