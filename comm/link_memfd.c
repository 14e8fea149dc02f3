#define _GNU_SOURCE /* memfd_create, seals */
#include "comm/link_memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "comm/fd_pass.h"

/* Blocks and the control page start on multiples of this: the largest page of our platforms. */
#define ALIGN ((uint64_t)65536)
enum { SPIN_NS = 5000 };
enum { SEALS = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL };

/* Written by peers; one cache line per channel. */
typedef struct control_page {
    struct {
        _Alignas(
            SY_CACHE_LINE) _Atomic uint64_t n_arrived; /* publications to the owner so far */
        sy_doorbell bell;                              /* value = complete rounds */
    } channel[SY_CHANNELS];
} control_page;

/* What the owner sent to one peer on one channel; written by the owner alone. */
typedef struct publication {
    _Alignas(SY_CACHE_LINE) _Atomic uint64_t round;
    _Atomic uint64_t offset, bytes;
} publication;

/* Offsets in a memfd. */
typedef struct layout {
    uint64_t publications, block[SY_CHANNELS], bytes;
} layout;

typedef struct member {
    bool in_group;
    int n_peers;      /* how many the member itself has in the group */
    void *control;    /* mapped for writing */
    const char *rest; /* the memfd from layout.publications on */
} member;

struct sy_memfd_group {
    int rank, n_ranks;
    sy_link_shape shape;
    layout at;
    char *own;      /* the whole own memfd, NULL if there is none */
    member *member; /* [R] */
};

static bool add_aligned(uint64_t *at, uint64_t bytes) {
    uint64_t end;
    if (!sy_add_u64(*at, bytes, &end) || !sy_add_u64(end, ALIGN - 1, &end)) return false;
    *at = end / ALIGN * ALIGN;
    return true;
}

static bool lay_out(int n_ranks, const sy_link_shape *shape, layout *out) {
    uint64_t at = 0;
    if (!add_aligned(&at, sizeof(control_page))) return false;
    out->publications = at;
    if (!add_aligned(&at, (uint64_t)n_ranks * SY_CHANNELS * sizeof(publication))) return false;
    for (int c = 0; c < SY_CHANNELS; c++) {
        out->block[c] = at;
        if (!add_aligned(&at, shape->channel[c].block_bytes)) return false;
    }
    out->bytes = at;
    return at <= INT64_MAX; /* off_t */
}

uint64_t sy_memfd_bytes(int n_ranks, const sy_link_shape *shape) {
    layout at;
    return lay_out(n_ranks, shape, &at) ? at.bytes : UINT64_MAX;
}

/* -1 with a warning where the kernel refuses. */
static int make_memfd(uint64_t bytes, char **map) {
    int fd = memfd_create("switchyard", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) goto fail;
    if (ftruncate(fd, (off_t)bytes) != 0 || fcntl(fd, F_ADD_SEALS, SEALS) != 0) goto fail;
    *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (*map != MAP_FAILED) return fd;
fail:
    *map = NULL;
    SY_WARN("no memory to share with the ranks of this host (%llu bytes): %s; using MPI",
            (unsigned long long)bytes, strerror(errno));
    if (fd >= 0) close(fd);
    return -1;
}

/* Without the seals and the full size a peer could shrink the file under our mapping, and the
 * next read would be a SIGBUS. */
static bool map_member(const sy_memfd_group *group, int rank, int fd, member *out) {
    struct stat info;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &info) != 0 ||
        (uint64_t)info.st_size != group->at.bytes) {
        SY_WARN("rank %d handed over something else than its memory; using MPI", rank);
        return false;
    }
    uint64_t rest_bytes = group->at.bytes - group->at.publications;
    void *control =
        mmap(NULL, group->at.publications, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    void *rest =
        mmap(NULL, rest_bytes, PROT_READ, MAP_SHARED, fd, (off_t)group->at.publications);
    if (control != MAP_FAILED && rest != MAP_FAILED) {
        out->control = control;
        out->rest = rest;
        return true;
    }
    SY_WARN("the memory of rank %d cannot be mapped: %s; using MPI", rank, strerror(errno));
    if (control != MAP_FAILED) munmap(control, group->at.publications);
    if (rest != MAP_FAILED) munmap(rest, rest_bytes);
    return false;
}

static void unmap_member(const sy_memfd_group *group, member *m) {
    if (m->control != NULL) munmap(m->control, group->at.publications);
    if (m->rest != NULL)
        munmap((void *)(uintptr_t)m->rest, group->at.bytes - group->at.publications);
    m->control = NULL;
    m->rest = NULL;
}

/* A pair is in the group if both sides have mapped each other. mapped [R, R]: row r is what rank
 * r could map. */
static void settle_members(sy_memfd_group *group, const bool *mapped) {
    int n = group->n_ranks;
    for (int a = 0; a < n; a++) {
        member *m = &group->member[a];
        m->n_peers = 0;
        for (int b = 0; b < n; b++)
            m->n_peers += mapped[a * n + b] && mapped[b * n + a];
        m->in_group = mapped[a * n + group->rank] && mapped[group->rank * n + a];
        if (!m->in_group) unmap_member(group, m);
    }
}

static sy_status
join(sy_comm *comm, sy_memfd_group *group, int own_fd, bool *wanted, bool *mapped, int *fd) {
    sy_status st = SY_OK;
    int n = group->n_ranks;
    bool *all = mapped + n; /* [R, R] behind the own row [R] */
    for (int r = 0; r < n; r++)
        wanted[r] = r != group->rank && sy_comm_shares_memory(comm, group->rank, r);
    SY_TRY(sy_fd_pass(comm, own_fd, wanted, fd));
    for (int r = 0; r < n; r++)
        mapped[r] = fd[r] >= 0 && own_fd >= 0 && map_member(group, r, fd[r], &group->member[r]);
    SY_TRY(sy_comm_all_gather(comm, mapped, (size_t)n * sizeof *mapped, all));
    settle_members(group, all);
done:
    for (int r = 0; r < n; r++)
        if (fd[r] >= 0) close(fd[r]);
    return st;
}

sy_status sy_memfd_create(sy_comm *comm, const sy_link_shape *shape, sy_memfd_group **out) {
    sy_status st = SY_OK;
    sy_memfd_group *group = NULL;
    int n = sy_comm_size(comm), own_fd = -1, *fd = NULL;
    bool *wanted = NULL, *mapped = NULL, has_peer = false;
    *out = NULL;
    SY_TRY(sy_mem_alloc(&group, sizeof *group, "shared memory"));
    group->rank = sy_comm_rank(comm);
    group->n_ranks = n;
    group->shape = *shape;
    SY_TRY(sy_mem_alloc(&group->member, (uint64_t)n * sizeof(member), "shared memory"));
    SY_TRY(sy_mem_alloc(&fd, (uint64_t)n * sizeof *fd, "shared memory"));
    SY_TRY(sy_mem_alloc(&wanted, (uint64_t)n * sizeof *wanted, "shared memory"));
    SY_TRY(sy_mem_alloc(&mapped, (uint64_t)(n + 1) * (uint64_t)n * sizeof *mapped,
                        "shared memory"));
    if (!lay_out(n, shape, &group->at))
        SY_FAIL(SY_ERR_MEMORY, "no shared memory: the exchange buffers exceed 2^63 bytes");
    for (int r = 0; r < n; r++)
        has_peer |= r != group->rank && sy_comm_shares_memory(comm, group->rank, r);
    if (has_peer) own_fd = make_memfd(group->at.bytes, &group->own);
    if (n > 1) SY_TRY(join(comm, group, own_fd, wanted, mapped, fd));
    *out = group;
    group = NULL;
done:
    if (own_fd >= 0) close(own_fd); /* the mapping stays */
    sy_mem_free(mapped, (uint64_t)(n + 1) * (uint64_t)n * sizeof *mapped);
    sy_mem_free(wanted, (uint64_t)n * sizeof *wanted);
    sy_mem_free(fd, (uint64_t)n * sizeof *fd);
    sy_memfd_destroy(group);
    return st;
}

void sy_memfd_destroy(sy_memfd_group *group) {
    if (group == NULL) return;
    for (int r = 0; group->member != NULL && r < group->n_ranks; r++)
        unmap_member(group, &group->member[r]);
    if (group->own != NULL) munmap(group->own, group->at.bytes);
    sy_mem_free(group->member, (uint64_t)group->n_ranks * sizeof(member));
    sy_mem_free(group, sizeof *group);
}

bool sy_memfd_has(const sy_memfd_group *group, int peer) {
    return group->member[peer].in_group;
}

int sy_memfd_peers(const sy_memfd_group *group) {
    return group->member[group->rank].n_peers;
}

const void *sy_memfd_block(const sy_memfd_group *group, int rank, sy_channel channel) {
    return group->member[rank].rest + (group->at.block[channel] - group->at.publications);
}

void *sy_memfd_own_block(const sy_memfd_group *group, sy_channel channel) {
    return sy_memfd_peers(group) == 0 ? NULL : group->own + group->at.block[channel];
}

void sy_memfd_publish(sy_memfd_group *group,
                      sy_channel channel,
                      int peer,
                      uint64_t offset,
                      uint64_t bytes,
                      uint64_t round) {
    publication *p = (publication *)(group->own + group->at.publications) +
                     (size_t)channel * (size_t)group->n_ranks + peer;
    atomic_store_explicit(&p->offset, offset, memory_order_relaxed);
    atomic_store_explicit(&p->bytes, bytes, memory_order_relaxed);
    atomic_store_explicit(&p->round, round, memory_order_release);
    const member *to = &group->member[peer];
    control_page *control = to->control;
    uint64_t before = atomic_fetch_add_explicit(&control->channel[channel].n_arrived, 1,
                                                memory_order_acq_rel);
    if ((before + 1) % (uint64_t)to->n_peers == 0)
        sy_doorbell_ring(&control->channel[channel].bell);
}

/* Looks again and again for a few microseconds: what a message from a running peer takes. Longer
 * is a loss where a foreign process keeps the peer from its core. */
static uint32_t spin(const sy_doorbell *bell, uint32_t round) {
    uint32_t value = atomic_load_explicit(&bell->value, memory_order_acquire);
    int64_t limit = sy_now_ns() + SPIN_NS;
    while (value != round && sy_now_ns() < limit) {
        for (int i = 0; i < 8 && value != round; i++)
            value = atomic_load_explicit(&bell->value, memory_order_acquire);
    }
    return value;
}

bool sy_memfd_arrived(sy_memfd_group *group,
                      sy_channel channel,
                      uint64_t round,
                      bool may_spin,
                      int64_t timeout_ns) {
    if (sy_memfd_peers(group) == 0) return true;
    sy_doorbell *bell = &((control_page *)(void *)group->own)->channel[channel].bell;
    uint32_t value = atomic_load_explicit(&bell->value, memory_order_acquire);
    if (value != (uint32_t)round && timeout_ns > 0 && may_spin)
        value = spin(bell, (uint32_t)round);
    if (value != (uint32_t)round && timeout_ns > 0)
        value = sy_doorbell_wait(bell, value, false, timeout_ns);
    return value == (uint32_t)round;
}

bool sy_memfd_extent_valid(uint64_t offset,
                           uint64_t bytes,
                           uint64_t block_bytes,
                           uint64_t message_bytes,
                           uint64_t unit_bytes) {
    return bytes <= message_bytes && bytes % unit_bytes == 0 && offset <= block_bytes &&
           bytes <= block_bytes - offset && offset % unit_bytes == 0;
}

sy_status sy_memfd_message(const sy_memfd_group *group,
                           sy_channel channel,
                           int peer,
                           uint64_t round,
                           const void **data,
                           uint64_t *bytes) {
    publication *p = (publication *)(uintptr_t)group->member[peer].rest +
                     (size_t)channel * (size_t)group->n_ranks + group->rank;
    uint64_t found = atomic_load_explicit(&p->round, memory_order_acquire);
    uint64_t offset = atomic_load_explicit(&p->offset, memory_order_relaxed);
    uint64_t block_bytes = group->shape.channel[channel].block_bytes;
    *bytes = atomic_load_explicit(&p->bytes, memory_order_relaxed);
    *data = NULL;
    if (found != round)
        return sy_fail(SY_ERR_COMM, "rank %d is in round %llu of the exchange, not %llu", peer,
                       (unsigned long long)found, (unsigned long long)round);
    if (!sy_memfd_extent_valid(offset, *bytes, block_bytes,
                               group->shape.channel[channel].message_bytes,
                               group->shape.channel[channel].unit_bytes))
        return sy_fail(SY_ERR_COMM,
                       "rank %d published %llu bytes at offset %llu of a block of %llu", peer,
                       (unsigned long long)*bytes, (unsigned long long)offset,
                       (unsigned long long)block_bytes);
    *data = (const char *)sy_memfd_block(group, peer, channel) + offset;
    return SY_OK;
}
