#define _GNU_SOURCE /* memfd_create */
#include "comm/liveness_page.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm/fd_pass.h"

void sy_slot_set_phase(sy_slot *slot, const char *phase) {
    char text[SY_PHASE_CHARS] = "";
    size_t n = strnlen(phase, SY_PHASE_CHARS - 1);
    memcpy(text, phase, n);
    for (int i = 0; i < SY_PHASE_WORDS; i++) {
        uint64_t word;
        memcpy(&word, text + 8 * i, sizeof word);
        atomic_store_explicit(&slot->phase[i], word, memory_order_relaxed);
    }
}

/* A phase read while it changes is garbled, but then the rank is not standing still. */
void sy_slot_read(sy_slot *slot, sy_beat *out) {
    out->progress = atomic_load_explicit(&slot->progress, memory_order_acquire);
    out->limit_ms = atomic_load_explicit(&slot->limit_ms, memory_order_relaxed);
    for (int i = 0; i < SY_PHASE_WORDS; i++) {
        uint64_t word = atomic_load_explicit(&slot->phase[i], memory_order_relaxed);
        memcpy(out->phase + 8 * i, &word, sizeof word);
    }
    out->phase[SY_PHASE_CHARS - 1] = '\0';
    out->beat = atomic_load_explicit(&slot->beat, memory_order_acquire);
    out->flags = atomic_load_explicit(&slot->flags, memory_order_acquire);
}

/* A descriptor of the page on the lowest rank of a host, -1 elsewhere or on failure. */
static int create_memfd(uint64_t bytes) {
    int fd = memfd_create("switchyard-liveness", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, (off_t)bytes) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static sy_page *map_page(int fd, uint64_t bytes) {
    struct stat info;
    if (fd < 0 || fstat(fd, &info) != 0 || (uint64_t)info.st_size != bytes) return NULL;
    void *page = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return page == MAP_FAILED ? NULL : page;
}

/* Hands the leader's descriptor around and maps it; *page stays NULL where that failed. */
static sy_status
share(sy_comm *comm, int leader, uint64_t bytes, const int *position, sy_page **page) {
    sy_status st = SY_OK;
    int me = sy_comm_rank(comm), n_ranks = sy_comm_size(comm);
    int fd = -1;
    bool *wanted = calloc((size_t)n_ranks, sizeof *wanted);
    int *received = malloc((size_t)n_ranks * sizeof *received);
    for (int r = 0; received != NULL && r < n_ranks; r++)
        received[r] = -1;
    bool ready = wanted != NULL && received != NULL;
    SY_TRY(sy_comm_agree(comm, ready ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory to watch")));
    if (me == leader) fd = create_memfd(bytes);
    for (int r = 0; r < n_ranks; r++)
        wanted[r] = r != me && position[r] >= 0 && (r == leader || me == leader);
    SY_TRY(sy_fd_pass(comm, fd, wanted, received));
    *page = map_page(me == leader ? fd : received[leader], bytes);
done:
    if (fd >= 0) close(fd);
    for (int r = 0; received != NULL && r < n_ranks; r++)
        if (received[r] >= 0) close(received[r]);
    free(received);
    free(wanted);
    return st;
}

sy_status sy_page_open(sy_comm *comm, sy_page **out, uint64_t *bytes, int *position) {
    sy_status st = SY_OK;
    sy_page *page = NULL;
    int me = sy_comm_rank(comm), n_ranks = sy_comm_size(comm), leader = me, n_here = 0;
    unsigned char mine = 0;
    unsigned char *all = calloc((size_t)n_ranks, 1);
    *bytes = 0;
    SY_TRY(sy_comm_agree(comm, all != NULL ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory")));
    for (int r = 0; r < n_ranks; r++) {
        position[r] = sy_comm_shares_memory(comm, me, r) ? n_here++ : -1;
        if (position[r] == 0) leader = r;
    }
    *bytes = sizeof(sy_page) + (uint64_t)n_here * sizeof(sy_slot);
    SY_TRY(share(comm, leader, *bytes, position, &page));
    mine = page != NULL;
    SY_TRY(sy_comm_all_gather(comm, &mine, 1, all));
    bool usable = n_here > 1;
    for (int r = 0; r < n_ranks; r++)
        if (position[r] >= 0 && !all[r]) usable = false;
    for (int r = 0; r < n_ranks; r++)
        if (!usable) position[r] = -1;
    *out = NULL;
    if (usable) {
        *out = page;
        page = NULL;
    }
done:
    sy_page_close(page, *bytes);
    free(all);
    return st;
}

void sy_page_close(sy_page *page, uint64_t bytes) {
    if (page != NULL) munmap(page, bytes);
}
