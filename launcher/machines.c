#include "launcher/machines.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "topology/machine_json.h"
#include "topology/machine_probe.h"
#ifdef SY_WITH_CUDA
#include "kernels/cuda/describe.h"
#include "kernels/cuda/open.h"
#endif

extern char **environ; /* shown as part of the machine; nothing here obeys it */

/* ---- one machine ---- */

/* An emulated device is a test double: only who asks for it by name gets it. */
#ifdef SY_CUDA_EMULATED
enum { EMULATED = 1 };
#else
enum { EMULATED = 0 };
#endif

#ifdef SY_WITH_CUDA
static int find_accelerators(sy_machine_accelerator *out) {
    int n = (int)sy_min(sy_cuda_device_count(), SY_MACHINE_DEVICES);
    for (int i = 0; i < n; i++) {
        sy_cuda_facts facts;
        out[i] = (sy_machine_accelerator){0};
        if (sy_cuda_pci_bus_id(i, out[i].pci, sizeof out[i].pci) != SY_OK) out[i].pci[0] = '\0';
        if (sy_cuda_describe(i, &facts) != SY_OK) continue;
        memcpy(out[i].name, facts.name, sizeof out[i].name);
        out[i].memory = facts.memory;
        out[i].unified = facts.integrated;
    }
    return n;
}
#else
static int find_accelerators(sy_machine_accelerator *out) {
    (void)out;
    return 0;
}
#endif

sy_status sy_machine_here(const sy_options *options, sy_machine *out) {
    sy_machine_accelerator accelerator[SY_MACHINE_DEVICES];
    sy_machine_sources sources = {
        .root = "", .environment = environ, .accelerator = accelerator};
    bool asked = strcmp(options->device, "cuda") == 0;
    if (asked || (!EMULATED && strcmp(options->device, "auto") == 0))
        sources.n_accelerators = find_accelerators(accelerator);
    return sy_machine_probe(&sources, out);
}

/* ---- all of them ---- */

/* The lowest rank on the machine of a rank describes it. */
static int speaker_of(const sy_comm *comm, int rank) {
    int first = 0;
    while (!sy_comm_same_machine(comm, first, rank))
        first++;
    return first;
}

/* This rank's machine as JSON text; "" on ranks that are not asked. Free with free(). */
static sy_status describe_here(const sy_options *options, const sy_comm *comm, char **text) {
    sy_status st = SY_OK;
    json_t *object = NULL;
    sy_machine *machine = NULL;
    *text = NULL;
    if (speaker_of(comm, sy_comm_rank(comm)) != sy_comm_rank(comm)) {
        *text = calloc(1, 1);
    } else {
        machine = calloc(1, sizeof *machine);
        if (machine == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for this machine's description");
        SY_TRY(sy_machine_here(options, machine));
        object = sy_machine_to_json(machine);
        if (object != NULL) *text = json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9));
    }
    if (*text == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for this machine's description");
done:
    json_decref(object);
    free(machine);
    return st;
}

/* Texts of all ranks, each in `bytes` bytes; empty ones are not machines. */
static sy_status read_texts(const sy_comm *comm,
                            const char *texts,
                            size_t bytes,
                            sy_machines *out,
                            int *machine_of) {
    sy_status st = SY_OK;
    json_t *object = NULL;
    int R = sy_comm_size(comm), n = 0;
    for (int r = 0; r < R; r++)
        n += texts[(size_t)r * bytes] != '\0';
    SY_TRY(sy_machines_alloc(n, out));
    for (int r = 0, m = 0; r < R; r++) {
        const char *text = texts + (size_t)r * bytes;
        machine_of[r] = text[0] != '\0' ? m : machine_of[speaker_of(comm, r)];
        if (text[0] == '\0') continue;
        char where[64];
        snprintf(where, sizeof where, "the description that rank %d sent", r);
        SY_TRY(sy_json_parse(text, strlen(text), where, &object));
        SY_TRY(sy_machine_from_json(object, where, &out->machine[m++]));
        json_decref(object);
        object = NULL;
    }
done:
    json_decref(object);
    return st;
}

/* All ranks send as many bytes as the longest text needs, its NUL included. */
static sy_status find_longest(sy_comm *comm, const char *text, size_t *bytes) {
    sy_status st = SY_OK;
    int R = sy_comm_size(comm);
    uint64_t mine = strlen(text) + 1, *all = calloc((size_t)R, sizeof *all);
    if (all == NULL) st = sy_fail(SY_ERR_MEMORY, "no memory for the machines' descriptions");
    SY_TRY(sy_comm_agree(comm, st));
    SY_TRY(sy_comm_all_gather(comm, &mine, sizeof mine, all));
    *bytes = 1;
    for (int r = 0; r < R; r++)
        if (all[r] > *bytes) *bytes = all[r];
done:
    free(all);
    return st;
}

sy_status sy_machines_gather(const sy_options *options,
                             sy_comm *comm,
                             sy_machines *out,
                             int **machine_of) {
    sy_status st = SY_OK;
    char *text = NULL, *padded = NULL, *all = NULL;
    bool root = sy_comm_rank(comm) == 0;
    size_t R = (size_t)sy_comm_size(comm), bytes = 0;
    *out = (sy_machines){0};
    *machine_of = NULL;
    SY_TRY(sy_comm_agree(comm, describe_here(options, comm, &text)));
    SY_TRY(find_longest(comm, text, &bytes));
    padded = calloc(1, bytes);
    if (root) all = calloc(R, bytes);
    if (root) *machine_of = calloc(R, sizeof **machine_of);
    if (padded == NULL || (root && (all == NULL || *machine_of == NULL)))
        st = sy_fail(SY_ERR_MEMORY, "no memory for the machines' descriptions");
    SY_TRY(sy_comm_agree(comm, st));
    memcpy(padded, text, strlen(text));
    SY_TRY(sy_comm_gather(comm, padded, bytes, all, 0));
    if (root) st = read_texts(comm, all, bytes, out, *machine_of);
    SY_TRY(sy_comm_agree(comm, st));
done:
    free(text);
    free(padded);
    free(all);
    if (st != SY_OK) {
        sy_machines_free(out);
        free(*machine_of);
        *machine_of = NULL;
    }
    return st;
}
