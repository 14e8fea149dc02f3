#define _GNU_SOURCE /* sched_getaffinity */
#include "comm/comm.h"

#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/memory.h"
#include "base/pool.h"
#include "comm/mpi_wait.h"

enum { NAME_MAX_BYTES = 80 };

struct sy_comm {
    MPI_Comm world; /* MPI_COMM_NULL: one rank without MPI */
    bool owns_mpi;  /* has called MPI_Init_thread */
    int rank, size;
    sy_comm_options options;
    bool may_spin;
    int n_hosts;
    int *host;                         /* [R] */
    char (*host_name)[NAME_MAX_BYTES]; /* [R] */
    int next_tag;
};

/* What each rank tells the others at start. */
typedef struct rank_card {
    char name[64];
    int32_t real_host; /* lowest rank that shares memory with this one */
    int32_t n_threads;
    int32_t virtual_hosts; /* must be equal on all */
    int32_t no_shared_memory;
} rank_card;

int sy_comm_rank(const sy_comm *comm) {
    return comm->rank;
}

int sy_comm_size(const sy_comm *comm) {
    return comm->size;
}

int sy_comm_host(const sy_comm *comm, int rank) {
    return comm->host[rank];
}

int sy_comm_n_hosts(const sy_comm *comm) {
    return comm->n_hosts;
}

const char *sy_comm_host_name(const sy_comm *comm, int rank) {
    return comm->host_name[rank];
}

bool sy_comm_may_spin(const sy_comm *comm) {
    return comm->may_spin;
}

/* A virtual host is called "machine#number". */
bool sy_comm_same_machine(const sy_comm *comm, int rank_a, int rank_b) {
    const char *a = sy_comm_host_name(comm, rank_a), *b = sy_comm_host_name(comm, rank_b);
    size_t n = strcspn(a, "#");
    return n == strcspn(b, "#") && strncmp(a, b, n) == 0;
}

int sy_comm_machine_size(const sy_comm *comm, int rank) {
    int n = 0;
    for (int r = 0; r < sy_comm_size(comm); r++)
        n += sy_comm_same_machine(comm, rank, r);
    return n;
}

bool sy_comm_shares_memory(const sy_comm *comm, int rank_a, int rank_b) {
    if (rank_a == rank_b) return true;
    return !comm->options.no_shared_memory && comm->host[rank_a] == comm->host[rank_b];
}

MPI_Comm sy_comm_mpi(const sy_comm *comm) {
    return comm->world;
}

int sy_comm_take_tags(sy_comm *comm, int n) {
    int tag = comm->next_tag;
    comm->next_tag += n;
    return tag;
}

/* The number in an environment variable, 0 if there is none. */
static long environment_number(const char *name) {
    const char *text = getenv(name);
    return text == NULL ? 0 : strtol(text, NULL, 10);
}

/* Whether a launcher started this process. MPI_Init without one works, but starts a helper
 * process and takes a third of a second, which one rank has no use for. */
static bool has_launcher(void) {
    static const char *const mark[] = {
        "OMPI_COMM_WORLD_SIZE", "PMIX_RANK",  "PMI_RANK", "PMI_SIZE",
        "MPI_LOCALNRANKS",      "PALS_RANKID"};
    for (size_t i = 0; i < sizeof mark / sizeof mark[0]; i++)
        if (getenv(mark[i]) != NULL) return true;
    return false;
}

/* A launcher whose process interface MPI does not understand leaves every process in a world of
 * its own. SLURM_NTASKS counts only inside a step: a batch script has it too, and may well run
 * a single process. */
static sy_status check_world_size(int size) {
    static const struct {
        const char *count, *mark;
    } hint[] = {{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"},
                {"SLURM_NTASKS", "SLURM_STEP_ID"}};
    for (size_t i = 0; i < sizeof hint / sizeof hint[0]; i++) {
        long expected = getenv(hint[i].mark) == NULL ? 0 : environment_number(hint[i].count);
        if (size == 1 && expected > 1)
            return sy_fail(SY_ERR_COMM,
                           "MPI sees a single rank, but %s is %ld: the launcher and this "
                           "program's MPI do not understand each other (with srun try "
                           "--mpi=pmix; else use the mpirun of the same MPI)",
                           hint[i].count, expected);
    }
    return SY_OK;
}

static sy_status start_mpi(sy_comm *comm) {
    sy_status st = SY_OK;
    int provided = 0, initialised = 0;
    SY_TRY(sy_mpi_status(MPI_Initialized(&initialised), "MPI_Initialized"));
    if (initialised) {
        SY_TRY(sy_mpi_status(MPI_Query_thread(&provided), "MPI_Query_thread"));
    } else {
        SY_TRY(sy_mpi_status(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided),
                             "MPI_Init_thread"));
        comm->owns_mpi = true;
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    SY_TRY(sy_mpi_status(MPI_Comm_dup(MPI_COMM_WORLD, &comm->world), "MPI_Comm_dup"));
    MPI_Comm_set_errhandler(comm->world, MPI_ERRORS_RETURN);
    if (provided < MPI_THREAD_FUNNELED)
        SY_FAIL(SY_ERR_COMM, "MPI grants thread level %d, FUNNELED (%d) is needed", provided,
                MPI_THREAD_FUNNELED);
    SY_TRY(sy_mpi_status(MPI_Comm_rank(comm->world, &comm->rank), "MPI_Comm_rank"));
    SY_TRY(sy_mpi_status(MPI_Comm_size(comm->world, &comm->size), "MPI_Comm_size"));
done:
    return st;
}

/* The cores that the ranks of a real host may use together. Ranks may each be bound to cores of
 * their own, so the union of their masks counts; a CPU quota bounds it. */
static sy_status count_host_cores(MPI_Comm host, int *n_cores) {
    cpu_set_t mine, all;
    CPU_ZERO(&mine);
    if (sched_getaffinity(0, sizeof mine, &mine) != 0) {
        /* More cores than a cpu_set_t holds, or none to be told of: take what the pool sees. */
        int n = sy_cores_available();
        for (int i = 0; i < n && i < CPU_SETSIZE; i++)
            CPU_SET(i, &mine);
    }
    int rc = MPI_Allreduce(&mine, &all, (int)sizeof mine, MPI_BYTE, MPI_BOR, host);
    if (rc != MPI_SUCCESS) return sy_mpi_status(rc, "counting the cores of a host");
    *n_cores = CPU_COUNT(&all);
    int quota = sy_cores_available();
    if (quota < CPU_COUNT(&mine)) *n_cores = (int)sy_min(*n_cores, quota);
    return SY_OK;
}

static void host_name_here(char *name, size_t size) {
    if (gethostname(name, size) != 0) snprintf(name, size, "localhost");
    name[size - 1] = '\0';
}

/* Fills this rank's card and the number of cores of its host. */
static sy_status make_card(sy_comm *comm, rank_card *card, int *n_cores) {
    sy_status st = SY_OK;
    const sy_comm_options *options = &comm->options;
    MPI_Comm shared = MPI_COMM_NULL;
    memset(card, 0, sizeof *card);
    host_name_here(card->name, sizeof card->name);
    card->n_threads = (int32_t)sy_max(options->threads_per_rank, 1);
    card->virtual_hosts = options->virtual_hosts;
    card->no_shared_memory = options->no_shared_memory;
    card->real_host = comm->rank;
    *n_cores = sy_cores_available();
    if (comm->world == MPI_COMM_NULL) goto done;
    SY_TRY(sy_mpi_status(MPI_Comm_split_type(comm->world, MPI_COMM_TYPE_SHARED, comm->rank,
                                             MPI_INFO_NULL, &shared),
                         "MPI_Comm_split_type"));
    MPI_Comm_set_errhandler(shared, MPI_ERRORS_RETURN);
    SY_TRY(sy_mpi_status(
        MPI_Allreduce(&comm->rank, &card->real_host, 1, MPI_INT32_T, MPI_MIN, shared),
        "finding the ranks of a host"));
    SY_TRY(count_host_cores(shared, n_cores));
done:
    if (shared != MPI_COMM_NULL) MPI_Comm_free(&shared);
    return st;
}

/* Numbers the hosts in the order of their lowest ranks and cuts each into virtual ones: the
 * rank at position p of n is in block floor(p * H / n). */
static void number_hosts(sy_comm *comm, const rank_card *card) {
    for (int r = 0; r < comm->size; r++) {
        int n = 0, position = 0;
        for (int i = 0; i < comm->size; i++) {
            if (card[i].real_host != card[r].real_host) continue;
            position += i < r;
            n++;
        }
        int blocks = (int)sy_min(sy_max(card[r].virtual_hosts, 1), n);
        int block = (int)((int64_t)position * blocks / n);
        if (blocks > 1)
            snprintf(comm->host_name[r], NAME_MAX_BYTES, "%s#%d", card[r].name, block);
        else
            snprintf(comm->host_name[r], NAME_MAX_BYTES, "%s", card[r].name);
        /* A rank opens a new host unless an earlier one sits in the same block. Blocks are
         * contiguous, so the predecessor on the real host decides. */
        int before = -1;
        for (int i = 0; i < r; i++)
            if (card[i].real_host == card[r].real_host) before = i;
        bool same = before >= 0 && (int64_t)(position - 1) * blocks / n == block;
        comm->host[r] = same ? comm->host[before] : comm->n_hosts++;
    }
}

static sy_status check_cards(const sy_comm *comm, const rank_card *card) {
    for (int r = 1; r < comm->size; r++)
        if (card[r].virtual_hosts != card[0].virtual_hosts ||
            card[r].no_shared_memory != card[0].no_shared_memory)
            return sy_fail(SY_ERR_COMM,
                           "rank %d was started with other options than rank 0 (virtual hosts "
                           "%d against %d, shared memory %s against %s)",
                           r, card[r].virtual_hosts, card[0].virtual_hosts,
                           card[r].no_shared_memory ? "off" : "on",
                           card[0].no_shared_memory ? "off" : "on");
    return SY_OK;
}

/* A waiter may spin if no thread of this host's ranks has to share a core. */
static bool has_own_core(const sy_comm *comm, const rank_card *card, int n_cores) {
    int64_t threads = 0;
    for (int r = 0; r < comm->size; r++)
        if (card[r].real_host == card[comm->rank].real_host) threads += card[r].n_threads;
    return threads <= n_cores && card[comm->rank].n_threads <= sy_cores_available();
}

/* Who is where; comm has its options, world, rank and size. Collective. */
static sy_status meet_ranks(sy_comm *comm) {
    sy_status st = SY_OK;
    rank_card *card = NULL;
    rank_card mine;
    uint64_t cards_bytes = (uint64_t)comm->size * sizeof *card;
    int n_cores = 0;
    SY_TRY(sy_mem_alloc(&card, cards_bytes, "rank cards"));
    SY_TRY(sy_mem_alloc(&comm->host, (uint64_t)comm->size * sizeof *comm->host, "host table"));
    SY_TRY(sy_mem_alloc(&comm->host_name, (uint64_t)comm->size * NAME_MAX_BYTES, "host names"));
    SY_TRY(make_card(comm, &mine, &n_cores));
    SY_TRY(sy_comm_all_gather(comm, &mine, sizeof mine, card));
    SY_TRY(check_cards(comm, card));
    number_hosts(comm, card);
    comm->may_spin = has_own_core(comm, card, n_cores);
done:
    sy_mem_free(card, cards_bytes);
    return st;
}

static sy_status new_comm(const sy_comm_options *options, sy_comm **out) {
    sy_status st = sy_mem_alloc(out, sizeof **out, "communicator");
    if (st != SY_OK) return st;
    (*out)->options = *options;
    (*out)->world = MPI_COMM_NULL;
    (*out)->size = 1;
    return SY_OK;
}

sy_status sy_comm_create(const sy_comm_options *options, sy_comm **out) {
    sy_status st = SY_OK;
    sy_comm *comm = NULL;
    *out = NULL;
    if (options->virtual_hosts < 0)
        SY_FAIL(SY_ERR_USAGE, "virtual hosts: %d is negative", options->virtual_hosts);
    SY_TRY(new_comm(options, &comm));
    if (has_launcher()) SY_TRY(start_mpi(comm));
    SY_TRY(check_world_size(comm->size));
    SY_TRY(meet_ranks(comm));
    *out = comm;
    comm = NULL;
done:
    sy_comm_destroy(comm);
    return st;
}

sy_status sy_comm_create_planned(int rank, int size, int ranks_per_host, sy_comm **out) {
    sy_status st = SY_OK;
    const sy_comm_options options = {.threads_per_rank = 1};
    sy_comm *comm = NULL;
    *out = NULL;
    if (size < 1 || rank < 0 || rank >= size || ranks_per_host < 1)
        SY_FAIL(SY_ERR_INTERNAL, "planned rank %d of %d, %d to a host", rank, size,
                ranks_per_host);
    SY_TRY(new_comm(&options, &comm));
    comm->rank = rank;
    comm->size = size;
    SY_TRY(sy_mem_alloc(&comm->host, (uint64_t)size * sizeof *comm->host, "host table"));
    SY_TRY(sy_mem_alloc(&comm->host_name, (uint64_t)size * NAME_MAX_BYTES, "host names"));
    for (int r = 0; r < size; r++) {
        comm->host[r] = r / ranks_per_host;
        snprintf(comm->host_name[r], NAME_MAX_BYTES, "planned%d", comm->host[r]);
    }
    comm->n_hosts = (int)sy_ceil_div(size, ranks_per_host);
    *out = comm;
    comm = NULL;
done:
    sy_comm_destroy(comm);
    return st;
}

sy_status sy_comm_create_first(sy_comm *comm, int n, sy_comm **out) {
    sy_status st = SY_OK;
    sy_comm *first = NULL;
    MPI_Comm world = MPI_COMM_NULL;
    *out = NULL;
    if (n < 1 || n > comm->size)
        SY_FAIL(SY_ERR_INTERNAL, "the first %d of %d ranks", n, comm->size);
    if (comm->world != MPI_COMM_NULL)
        SY_TRY(sy_mpi_status(
            MPI_Comm_split(comm->world, comm->rank < n ? 0 : MPI_UNDEFINED, comm->rank, &world),
            "MPI_Comm_split"));
    if (comm->rank >= n) goto done;
    SY_TRY(new_comm(&comm->options, &first));
    first->world = world;
    if (world != MPI_COMM_NULL) MPI_Comm_set_errhandler(world, MPI_ERRORS_RETURN);
    world = MPI_COMM_NULL;
    first->rank = comm->rank;
    first->size = n;
    SY_TRY(meet_ranks(first));
    *out = first;
    first = NULL;
done:
    if (world != MPI_COMM_NULL) MPI_Comm_free(&world);
    sy_comm_destroy(first);
    return st;
}

void sy_comm_destroy(sy_comm *comm) {
    if (comm == NULL) return;
    if (comm->world != MPI_COMM_NULL) MPI_Comm_free(&comm->world);
    if (comm->owns_mpi) MPI_Finalize();
    sy_mem_free(comm->host, (uint64_t)comm->size * sizeof *comm->host);
    sy_mem_free(comm->host_name, (uint64_t)comm->size * NAME_MAX_BYTES);
    sy_mem_free(comm, sizeof *comm);
}

void sy_comm_abort(sy_comm *comm, int exit_code) {
    if (comm != NULL && comm->world != MPI_COMM_NULL) MPI_Abort(MPI_COMM_WORLD, exit_code);
    _exit(exit_code);
}

static sy_status wait_one(const sy_comm *comm, MPI_Request *request, const char *what) {
    return sy_mpi_wait_all(comm, 1, request, what);
}

sy_status sy_comm_broadcast(sy_comm *comm, void *data, size_t bytes, int root) {
    sy_status st = SY_OK;
    enum { PIECE = 1 << 30 }; /* counts are int */
    if (comm->size == 1) return SY_OK;
    for (size_t at = 0; at < bytes; at += PIECE) {
        MPI_Request request = MPI_REQUEST_NULL;
        int n = (int)sy_min((int64_t)(bytes - at), PIECE);
        SY_TRY(sy_mpi_status(
            MPI_Ibcast((char *)data + at, n, MPI_BYTE, root, comm->world, &request),
            "broadcast"));
        SY_TRY(wait_one(comm, &request, "broadcast"));
    }
done:
    return st;
}

static sy_status check_count(size_t bytes) {
    if (bytes <= INT_MAX) return SY_OK;
    return sy_fail(SY_ERR_INTERNAL, "gather of %zu bytes per rank, the most is %d", bytes,
                   INT_MAX);
}

sy_status sy_comm_gather(sy_comm *comm, const void *mine, size_t bytes, void *all, int root) {
    sy_status st = SY_OK;
    MPI_Request request = MPI_REQUEST_NULL;
    SY_TRY(check_count(bytes));
    if (comm->size == 1) {
        if (bytes > 0) memmove(all, mine, bytes);
        return SY_OK;
    }
    SY_TRY(sy_mpi_status(MPI_Igather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE,
                                     root, comm->world, &request),
                         "gather"));
    SY_TRY(wait_one(comm, &request, "gather"));
done:
    return st;
}

sy_status sy_comm_all_gather(sy_comm *comm, const void *mine, size_t bytes, void *all) {
    sy_status st = SY_OK;
    MPI_Request request = MPI_REQUEST_NULL;
    SY_TRY(check_count(bytes));
    if (comm->size == 1) {
        if (bytes > 0) memmove(all, mine, bytes);
        return SY_OK;
    }
    SY_TRY(sy_mpi_status(MPI_Iallgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE,
                                        comm->world, &request),
                         "all-gather"));
    SY_TRY(wait_one(comm, &request, "all-gather"));
done:
    return st;
}

sy_status sy_comm_barrier(sy_comm *comm) {
    sy_status st = SY_OK;
    MPI_Request request = MPI_REQUEST_NULL;
    if (comm->size == 1) return SY_OK;
    SY_TRY(sy_mpi_status(MPI_Ibarrier(comm->world, &request), "barrier"));
    SY_TRY(wait_one(comm, &request, "barrier"));
done:
    return st;
}

/* 0 for success; a rank that only saw a peer go wrong yields to one that knows the cause. */
static int severity(sy_status st) {
    switch (st) {
    case SY_OK:
        return 0;
    case SY_ERR_COMM:
    case SY_ERR_PEER:
        return 1;
    case SY_ERR_INTERRUPTED:
        return 3;
    default:
        return 2;
    }
}

sy_status sy_comm_agree(sy_comm *comm, sy_status mine) {
    sy_status st = SY_OK;
    struct {
        int32_t status;
        sy_error_text error;
    } verdict = {0};
    if (comm->size == 1) return mine;
    /* The largest key names the worst status and, among equals, the lowest rank. */
    int32_t key = severity(mine) * comm->size + (comm->size - 1 - comm->rank), worst = 0;
    MPI_Request request = MPI_REQUEST_NULL;
    SY_TRY(sy_mpi_status(
        MPI_Iallreduce(&key, &worst, 1, MPI_INT32_T, MPI_MAX, comm->world, &request), "agree"));
    SY_TRY(wait_one(comm, &request, "agree"));
    if (worst < comm->size) return SY_OK;
    int speaker = comm->size - 1 - worst % comm->size;
    if (speaker == comm->rank) {
        verdict.status = (int32_t)mine;
        sy_status_save(&verdict.error);
    }
    SY_TRY(sy_comm_broadcast(comm, &verdict, sizeof verdict, speaker));
    verdict.error.text[SY_ERROR_TEXT_MAX - 1] = '\0';
    sy_status_restore(&verdict.error);
    sy_status_context("rank %d", speaker);
    st = (sy_status)verdict.status;
done:
    return st;
}
