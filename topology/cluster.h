/* What a cluster can do, as data: the memory, bandwidth and rates of its devices, the links between
 * them, and for every constant the source that says so. No model is known here.
 *
 * A description is a file (docs/plan.md has the format) or one of the built-in ones, which hold the
 * figures that vendors and measurements have published. All devices of a cluster are alike, and so
 * are its hosts. Units: bytes, bytes/s, FLOP/s (two per multiply-add), seconds, shares in (0, 1]. */
#ifndef SY_TOPOLOGY_CLUSTER_H
#define SY_TOPOLOGY_CLUSTER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

/* source NULL: the description does not have it. Texts live as long as their cluster. */
typedef struct sy_constant {
    double value;
    const char *source;
} sy_constant;

/* One direction of the link of a device, or of a host whose devices share it. */
typedef struct sy_cluster_link {
    sy_constant bandwidth;
    sy_constant latency;      /* of an exchange of short messages between two */
    sy_constant peer_latency; /* more for every peer beyond the first */
    bool shared;              /* one for all devices of a host, not one for each */
    const char *path;         /* "memfd", "mpi", "nccl": what was measured; may be NULL */
} sy_cluster_link;

/* Operands of a matrix product. */
#define SY_OPERAND_LIST(X)                                                                     \
    X(SY_OPERAND_F32, "f32")                                                                   \
    X(SY_OPERAND_BF16, "bf16")                                                                 \
    X(SY_OPERAND_FP8, "fp8")                                                                   \
    X(SY_OPERAND_FP4, "fp4")                                                                   \
    X(SY_OPERAND_INT8, "int8")
typedef enum sy_operand {
#define X(name, text) name,
    SY_OPERAND_LIST(X)
#undef X
        SY_OPERAND_COUNT
} sy_operand;

/* Stored formats of weights, as far as kernels differ in speed. */
#define SY_STORED_LIST(X)                                                                      \
    X(SY_STORED_BF16, "bf16")                                                                  \
    X(SY_STORED_FP8, "fp8")                                                                    \
    X(SY_STORED_Q8, "q8")                                                                      \
    X(SY_STORED_INT4, "int4")                                                                  \
    X(SY_STORED_MXFP4, "mxfp4")                                                                \
    X(SY_STORED_NVFP4, "nvfp4")
typedef enum sy_stored {
#define X(name, text) name,
    SY_STORED_LIST(X)
#undef X
        SY_STORED_COUNT
} sy_stored;

const char *sy_operand_name(sy_operand operand);
const char *sy_stored_name(sy_stored stored);

/* What kernels reach: of the read bandwidth in decode, of the rate in prefill. Shares and not
 * rates, since what a machine gives drifts and a probe beside the run tells it anew. */
typedef struct sy_kernel_shares {
    sy_constant decode, prefill;
} sy_kernel_shares;

typedef struct sy_thread_bandwidth {
    int threads;
    sy_constant bandwidth;
} sy_thread_bandwidth;

enum { SY_CLUSTER_THREADS = 16, SY_CLUSTER_NAME_MAX = 64, SY_CLUSTER_DEVICES_MAX = 4096 };

typedef struct sy_cluster {
    char name[SY_CLUSTER_NAME_MAX];
    const char *device; /* "NVIDIA GB10" */
    bool is_gpu;
    int n_devices, devices_per_host; /* the last host may have fewer */

    sy_constant memory, usable; /* of a device; usable: less what the system and its page cache
                                   need, for weights, KV cache and buffers */
    sy_constant bandwidth;      /* at which a device reads its memory, at most */
    sy_constant read_share;     /* of it, what kernels reach */
    sy_constant rate[SY_OPERAND_COUNT]; /* dense; source NULL: no such instructions */
    sy_constant rate_share;             /* of it, what matrix products reach */
    sy_constant grouped_share;          /* the same for products of many experts */
    sy_constant step_overhead;          /* of a step, whatever the model */
    sy_constant layer_overhead;         /* of a layer: launches, barriers */

    /* Measured, where known: more telling than the shares above. */
    sy_kernel_shares kernel[SY_STORED_COUNT];
    sy_kernel_shares attention;
    int n_threads;
    sy_thread_bandwidth threads[SY_CLUSTER_THREADS];

    sy_cluster_link in_host, between_hosts; /* bandwidth.source NULL: there is none */

    struct json_t *owner; /* of the texts, of a description from a file */
} sy_cluster;

/* NAME or NAME:N: a built-in cluster of N of them, linked as its kind is. Else a path. On an error
 * the text says what and where. Destroy with sy_cluster_destroy. */
sy_status sy_cluster_load(const char *name_or_path, sy_cluster **out);
/* A description from text; `where` is put into error texts. */
sy_status sy_cluster_parse(const char *text, size_t size, const char *where, sy_cluster **out);
void sy_cluster_destroy(sy_cluster *cluster); /* NULL is fine */

/* The description as JSON, which parse reads again; whole hosts, if it has several. Release with
 * json_decref. */
struct json_t *sy_cluster_describe(const sy_cluster *cluster);

/* The i-th built-in description, of one unit of it; NULL past the last. */
typedef struct sy_builtin_cluster {
    const char *text;  /* one line for people */
    bool unit_is_host; /* NAME:N means N hosts, not N devices */
    sy_cluster cluster;
} sy_builtin_cluster;
const sy_builtin_cluster *sy_cluster_builtin(int i);

/* Calls `row` for every constant that the description has, in the order of the file format, with
 * its name there ("device.read_bandwidth"). */
typedef sy_status (*sy_cluster_visitor)(void *context,
                                        const char *name,
                                        const char *unit,
                                        const sy_constant *constant);
sy_status sy_cluster_visit(const sy_cluster *cluster, sy_cluster_visitor row, void *context);

#endif
