#include "launcher/device.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/log.h"
#include "kernels/device.h"
#include "topology/locality.h"
#ifdef SY_WITH_CUDA
#include "kernels/cuda/open.h"
#endif

/* An emulated device is a test double: only who asks for it by name gets it. */
#ifdef SY_CUDA_EMULATED
enum { EMULATED = 1 };
#else
enum { EMULATED = 0 };
#endif

enum { MOST_DEVICES = 64, NAME_BYTES = 128, REASON_BYTES = 256 };

/* What a rank tells the others: its devices in the order in which it would take them. */
typedef struct offer {
    int32_t n;
    int32_t device[MOST_DEVICES];
} offer;

static sy_dtype activations(const sy_options *options) {
    return strcmp(options->activations, "f32") == 0 ? SY_F32 : SY_BF16;
}

#ifdef SY_WITH_CUDA
/* Near devices first, each kind in the runtime's order. */
static void find_devices(offer *out) {
    char id[MOST_DEVICES][32] = {{0}};
    const char *ids[MOST_DEVICES];
    bool near[MOST_DEVICES];
    int n = (int)sy_min(sy_cuda_device_count(), MOST_DEVICES);
    for (int i = 0; i < n; i++) {
        ids[i] = id[i];
        if (sy_cuda_pci_bus_id(i, id[i], sizeof id[i]) != SY_OK) id[i][0] = '\0';
    }
    sy_locality_near(n, ids, near);
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < n; i++)
            if (near[i] == (pass == 0)) out->device[out->n++] = i;
}

static sy_status open_cuda(sy_dtype act, int device, sy_backend **out) {
    return sy_cuda_open(act, device, out);
}

static sy_status set_fast(sy_backend *be, bool fast) {
    return sy_cuda_set_fast(be, fast);
}
#else
static void find_devices(offer *out) {
    out->n = 0;
    (void)sy_fail(SY_ERR_UNSUPPORTED,
                  "this switchyard was built without CUDA; rebuild it where "
                  "nvcc is found, or use --device cpu");
}

static sy_status open_cuda(sy_dtype act, int device, sy_backend **out) {
    (void)act;
    (void)device;
    *out = NULL;
    return sy_fail(SY_ERR_INTERNAL, "no CUDA in this program");
}

static sy_status set_fast(sy_backend *be, bool fast) {
    (void)be;
    (void)fast;
    return sy_fail(SY_ERR_INTERNAL, "no CUDA in this program");
}
#endif

/* The ranks of a machine choose in turn, each the first of its list that the fewest have. */
static int choose_device(const sy_comm *comm, const offer *offers, int rank) {
    int users[MOST_DEVICES] = {0}, chosen = 0;
    for (int r = 0; r <= rank; r++) {
        if (!sy_comm_same_machine(comm, r, rank)) continue;
        chosen = offers[r].device[0];
        for (int i = 1; i < offers[r].n; i++)
            if (users[offers[r].device[i]] < users[chosen]) chosen = offers[r].device[i];
        users[chosen]++;
    }
    return chosen;
}

/* Equal bits over rank counts are promised for one kind of device. */
static sy_status compare_names(sy_comm *comm, sy_backend *be) {
    sy_status st = SY_OK;
    int R = sy_comm_size(comm);
    char mine[NAME_BYTES] = "", (*all)[NAME_BYTES] = calloc((size_t)R, sizeof *all);
    if (all == NULL) st = sy_fail(SY_ERR_MEMORY, "no memory for the devices' names");
    SY_TRY(sy_comm_agree(comm, st));
    strncpy(mine, be->ops->device->device_name(be), sizeof mine - 1);
    SY_TRY(sy_comm_all_gather(comm, mine, sizeof mine, all));
    for (int r = 1; r < R; r++) {
        if (strcmp(all[r], all[0]) == 0 || sy_comm_rank(comm) != 0) continue;
        SY_WARN("rank 0 computes on %s, rank %d on %s: runs on other numbers of ranks may give "
                "other bits",
                all[0], r, all[r]);
        break;
    }
done:
    free(all);
    return st;
}

/* Fast numerics has cuBLAS make the dense products of large steps, on all ranks or on none. */
static sy_status choose_products(const sy_options *options, sy_comm *comm, sy_backend *be) {
    sy_status st;
    int R = sy_comm_size(comm), without = -1;
    char mine[REASON_BYTES] = "", (*all)[REASON_BYTES] = NULL;
    if (strcmp(options->numerics, "exact") == 0) return SY_OK;
    st = set_fast(be, true);
    if (st == SY_ERR_UNSUPPORTED) {
        strncpy(mine, sy_last_error(), sizeof mine - 1);
        st = SY_OK;
    }
    if (st == SY_OK && (all = calloc((size_t)R, sizeof *all)) == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for what the ranks say of cuBLAS");
    SY_TRY(sy_comm_agree(comm, st));
    SY_TRY(sy_comm_all_gather(comm, mine, sizeof mine, all));
    for (int r = R - 1; r >= 0; r--)
        if (all[r][0] != '\0') without = r;
    if (without < 0) goto done;
    SY_TRY(set_fast(be, false));
    if (sy_comm_rank(comm) == 0)
        SY_WARN("dense products stay with switchyard's own kernels: rank %d: %s", without,
                all[without]);
done:
    free(all);
    return st;
}

static sy_status open_on_device(const sy_options *options,
                                sy_comm *comm,
                                const offer *offers,
                                sy_backend **out) {
    sy_status st = SY_OK;
    int device = choose_device(comm, offers, sy_comm_rank(comm));
    SY_TRY(sy_comm_agree(comm, open_cuda(activations(options), device, out)));
    SY_TRY(compare_names(comm, *out));
    SY_TRY(choose_products(options, comm, *out));
done:
    return st;
}

static sy_status
open_cpu(const sy_options *options, sy_comm *comm, sy_pool *pool, sy_backend **out) {
    sy_status st = SY_OK;
    SY_TRY(sy_comm_agree(comm, sy_cpu_open(activations(options), pool, options->isa, out)));
    sy_cpu_set_fast(*out, strcmp(options->numerics, "exact") != 0);
done:
    return st;
}

/* Whether to use CUDA; a function of what all ranks know. */
static sy_status
decide(const sy_options *options, sy_comm *comm, const offer *offers, bool *cuda) {
    bool asked = strcmp(options->device, "cuda") == 0;
    int without = -1, with = -1;
    for (int r = sy_comm_size(comm) - 1; r >= 0; r--)
        *(offers[r].n == 0 ? &without : &with) = r;
    *cuda = asked || (without < 0 && activations(options) == SY_BF16 && !EMULATED);
    if (!*cuda && with >= 0 && without >= 0 && !EMULATED && sy_comm_rank(comm) == 0)
        SY_WARN("rank %d has a CUDA device, rank %d has none: all compute on the CPU", with,
                without);
    if (!asked || offers[sy_comm_rank(comm)].n > 0) return SY_OK;
    sy_status_context("--device cuda");
    return SY_ERR_UNSUPPORTED;
}

sy_status
sy_device_open(const sy_options *options, sy_comm *comm, sy_pool *pool, sy_backend **out) {
    sy_status st = SY_OK;
    bool cuda = false;
    offer mine = {0}, *offers = calloc((size_t)sy_comm_size(comm), sizeof *offers);
    *out = NULL;
    if (offers == NULL) st = sy_fail(SY_ERR_MEMORY, "no memory for the list of devices");
    SY_TRY(sy_comm_agree(comm, st));
    if (strcmp(options->device, "cpu") != 0) {
        find_devices(&mine);
        SY_TRY(sy_comm_all_gather(comm, &mine, sizeof mine, offers));
        SY_TRY(sy_comm_agree(comm, decide(options, comm, offers, &cuda)));
    }
    if (cuda)
        SY_TRY(open_on_device(options, comm, offers, out));
    else
        SY_TRY(open_cpu(options, comm, pool, out));
done:
    free(offers);
    return st;
}

const char *sy_device_describe(const sy_backend *be) {
    if (be->ops->device == NULL) return sy_cpu_isa_name(be);
    return be->ops->device->device_name((sy_backend *)be);
}
