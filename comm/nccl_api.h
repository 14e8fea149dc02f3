/* NCCL's entries, loaded at run time: a program built with its header starts on machines without
 * the library, which is wanted only where several ranks have devices. */
#ifndef SY_COMM_NCCL_API_H
#define SY_COMM_NCCL_API_H

#include <nccl.h>
#include <stddef.h>

#include "base/status.h"

typedef struct sy_nccl_api {
    ncclResult_t (*get_version)(int *version);
    ncclResult_t (*get_unique_id)(ncclUniqueId *id);
    ncclResult_t (*comm_init_rank_config)(ncclComm_t *comm,
                                          int n_ranks,
                                          ncclUniqueId id,
                                          int rank,
                                          ncclConfig_t *config);
    ncclResult_t (*comm_get_async_error)(ncclComm_t comm, ncclResult_t *error);
    ncclResult_t (*comm_finalize)(ncclComm_t comm);
    ncclResult_t (*comm_destroy)(ncclComm_t comm);
    ncclResult_t (*comm_abort)(ncclComm_t comm);
    ncclResult_t (*group_start)(void);
    ncclResult_t (*group_end)(void);
    ncclResult_t (*send)(const void *data,
                         size_t n,
                         ncclDataType_t type,
                         int peer,
                         ncclComm_t comm,
                         cudaStream_t stream);
    ncclResult_t (*receive)(void *data,
                            size_t n,
                            ncclDataType_t type,
                            int peer,
                            ncclComm_t comm,
                            cudaStream_t s);
    ncclResult_t (*all_gather)(const void *mine,
                               void *all,
                               size_t n,
                               ncclDataType_t type,
                               ncclComm_t comm,
                               cudaStream_t stream);
    const char *(*get_error_string)(ncclResult_t result);
    const char *(*get_last_error)(ncclComm_t comm);
    int version;    /* 22809 is 2.28.9 */
    char path[256]; /* of the library */
} sy_nccl_api;

/* Local. libnccl.so.2, or what the environment names in SWITCHYARD_NCCL. The library stays loaded
 * as long as the process, since it has threads of its own. SY_ERR_UNSUPPORTED if there is none
 * that can be used. */
sy_status sy_nccl_load(sy_nccl_api *api);

#endif
