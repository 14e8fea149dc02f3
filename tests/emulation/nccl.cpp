/* The NCCL stand-in. Each communicator is one piece of shared memory with a ring for each ordered
 * pair of ranks. It has no name: rank 0 makes it as a memfd, and the unique id says where the
 * others find its descriptor. Operations are state machines that the emulated device polls in
 * their turn on the stream, so other streams go on while one waits. */
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <memory>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <vector>

#include "inside.h"
#include "nccl.h"

enum { MOST_RANKS = 16, RING_BYTES = 64 * 1024 };
enum kind : uint64_t { POINT_TO_POINT = 0x70327032, GATHER = 0x67617468 };

struct ring {
    std::atomic<uint64_t> written, taken; /* bytes since the beginning */
    char data[RING_BYTES];
};

struct shared_part {
    std::atomic<int> joined;
    ring rings[MOST_RANKS][MOST_RANKS]; /* [from][to]; pages that nobody touches cost nothing */
};

/* Outlives its handle while an operation or a graph still refers to it. */
struct communicator {
    int rank, n_ranks, stall_at;
    shared_part *shared;
    std::atomic<bool> aborted{false};
    std::atomic<int> error{ncclSuccess};
    int fd = -1;     /* of the memory: rank 0 keeps it for the others to open */
    int started = 0; /* operations; of the device alone */
    cudaStream_t stream = nullptr;
    ~communicator() {
        munmap(shared, sizeof *shared);
        if (fd >= 0) close(fd);
    }
};

struct ncclComm {
    std::shared_ptr<communicator> state;
};

struct message_head {
    uint64_t kind, bytes;
};

/* One message under way, on one side. */
struct transfer {
    bool send;
    int peer;
    char *data;
    message_head head;
    bool head_done, done;
    uint64_t at, end; /* bytes moved; of a send: what the receiver must have taken */
};

static ring &ring_of(const communicator &c, const transfer &t) {
    return t.send ? c.shared->rings[c.rank][t.peer] : c.shared->rings[t.peer][c.rank];
}

static void put(ring &r, uint64_t at, const char *from, uint64_t n) {
    uint64_t begin = at % RING_BYTES, first = std::min<uint64_t>(n, RING_BYTES - begin);
    memcpy(r.data + begin, from, first);
    if (n > first) memcpy(r.data, from + first, n - first);
}

static void get(const ring &r, uint64_t at, char *to, uint64_t n) {
    uint64_t begin = at % RING_BYTES, first = std::min<uint64_t>(n, RING_BYTES - begin);
    memcpy(to, r.data + begin, first);
    if (n > first) memcpy(to + first, r.data, n - first);
}

static void go_on_sending(const communicator &c, transfer &t) {
    ring &r = ring_of(c, t);
    uint64_t written = r.written.load(std::memory_order_relaxed);
    uint64_t taken = r.taken.load(std::memory_order_acquire);
    if (!t.head_done) {
        if (RING_BYTES - (written - taken) < sizeof t.head) return;
        put(r, written, reinterpret_cast<const char *>(&t.head), sizeof t.head);
        written += sizeof t.head;
        t.head_done = true;
        t.end = written + t.head.bytes;
    }
    uint64_t n = std::min(RING_BYTES - (written - taken), t.head.bytes - t.at);
    put(r, written, t.data + t.at, n);
    t.at += n;
    r.written.store(written + n, std::memory_order_release);
    t.done = t.at == t.head.bytes && r.taken.load(std::memory_order_acquire) >= t.end;
}

static const char *kind_name(uint64_t kind) {
    return kind == POINT_TO_POINT ? "point to point" : kind == GATHER ? "gather" : "broken";
}

/* False if the other side means another message. */
static bool open_message(communicator &c, ring &r, uint64_t taken, transfer &t) {
    message_head theirs;
    get(r, taken, reinterpret_cast<char *>(&theirs), sizeof theirs);
    if (theirs.kind == t.head.kind && theirs.bytes == t.head.bytes) return true;
    emu_report(
        "nccl: rank %d sends %llu bytes (%s), rank %d receives %llu (%s): a device would "
        "hang or overwrite",
        t.peer, static_cast<unsigned long long>(theirs.bytes), kind_name(theirs.kind), c.rank,
        static_cast<unsigned long long>(t.head.bytes), kind_name(t.head.kind));
    c.error = ncclInvalidUsage;
    return false;
}

static void go_on_receiving(communicator &c, transfer &t) {
    ring &r = ring_of(c, t);
    uint64_t taken = r.taken.load(std::memory_order_relaxed);
    uint64_t written = r.written.load(std::memory_order_acquire);
    if (!t.head_done) {
        if (written - taken < sizeof t.head || !open_message(c, r, taken, t)) return;
        taken += sizeof t.head;
        t.head_done = true;
    }
    uint64_t n = std::min(written - taken, t.head.bytes - t.at);
    get(r, taken, t.data + t.at, n);
    t.at += n;
    r.taken.store(taken + n, std::memory_order_release);
    t.done = t.at == t.head.bytes;
}

/* Moves what can be moved; true if all is done. Messages of one ring keep their order. */
static bool go_on(communicator &c, std::vector<transfer> &transfers) {
    bool all = true, busy[2][MOST_RANKS] = {};
    for (transfer &t : transfers) {
        if (t.done) continue;
        if (!busy[t.send][t.peer] && c.error == ncclSuccess) {
            if (t.send)
                go_on_sending(c, t);
            else
                go_on_receiving(c, t);
        }
        busy[t.send][t.peer] = !t.done;
        all = all && t.done;
    }
    return all;
}

/* The calls of one group. A graph runs it many times, each time from `fresh`. */
struct operation {
    std::shared_ptr<communicator> comm;
    std::vector<transfer> fresh, going;
    std::vector<std::pair<char *, std::pair<const char *, size_t>>> copies; /* own blocks */
    bool running = false, stalls = false;

    void begin() {
        running = true;
        going = fresh;
        stalls = ++comm->started == comm->stall_at;
        for (auto &copy : copies)
            if (copy.first != copy.second.first)
                memmove(copy.first, copy.second.first, copy.second.second);
    }
    bool poll() {
        if (!running) {
            if (comm->aborted) return true;
            begin();
        }
        bool done = comm->aborted || (go_on(*comm, going) && !stalls);
        if (!done) return false;
        running = false;
        return true;
    }
};

static thread_local int depth;
static thread_local std::shared_ptr<operation> group;
static thread_local cudaStream_t group_stream;
static thread_local ncclResult_t group_fault;

/* The operation that a call adds to; ended by finish_call. */
static ncclResult_t begin_call(ncclComm_t comm, cudaStream_t stream) {
    if (comm == nullptr) return ncclInvalidArgument;
    if (comm->state->shared->joined < comm->state->n_ranks) return ncclInvalidUsage;
    if (group == nullptr) {
        group = std::make_shared<operation>();
        group->comm = comm->state;
        group_stream = stream;
    } else if (group->comm != comm->state || group_stream != stream) {
        emu_report("nccl: the stand-in knows one communicator and one stream per group");
        return ncclInvalidUsage;
    }
    return ncclSuccess;
}

static ncclResult_t submit(void) {
    std::shared_ptr<operation> op = std::move(group);
    ncclResult_t fault = group_fault;
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    group = nullptr;
    group_fault = ncclSuccess;
    if (fault != ncclSuccess || op == nullptr) return fault;
    cudaStreamIsCapturing(group_stream, &capture);
    if (capture != cudaStreamCaptureStatusNone && getenv("SY_EMU_NCCL_NO_CAPTURE") != nullptr)
        return ncclInvalidUsage;
    op->comm->stream = group_stream;
    cudaError_t error = emu_enqueue(group_stream, [op] { return op->poll(); });
    return error == cudaSuccess ? ncclSuccess : ncclUnhandledCudaError;
}

static ncclResult_t finish_call(ncclResult_t result) {
    if (result != ncclSuccess && group_fault == ncclSuccess) group_fault = result;
    if (depth > 0) return result;
    return submit();
}

static size_t size_of(ncclDataType_t type) {
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return sizes[type];
}

static transfer make(bool send, int peer, const void *data, kind k, size_t bytes) {
    transfer t = {};
    t.send = send;
    t.peer = peer;
    t.data = static_cast<char *>(const_cast<void *>(data));
    t.head = {k, bytes};
    return t;
}

static ncclResult_t point_to_point(bool send,
                                   const void *data,
                                   size_t n,
                                   ncclDataType_t type,
                                   int peer,
                                   ncclComm_t comm,
                                   cudaStream_t stream) {
    ncclResult_t result = begin_call(comm, stream);
    if (result == ncclSuccess &&
        (peer < 0 || peer >= comm->state->n_ranks || (data == nullptr && n > 0)))
        result = ncclInvalidArgument;
    if (result == ncclSuccess)
        group->fresh.push_back(make(send, peer, data, POINT_TO_POINT, n * size_of(type)));
    return finish_call(result);
}

extern "C" {

ncclResult_t ncclGetVersion(int *version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    int fd = memfd_create("emulated-nccl", MFD_CLOEXEC);
    memset(id, 0, sizeof *id);
    if (fd < 0 || ftruncate(fd, sizeof(shared_part)) != 0) return ncclSystemError;
    snprintf(id->internal, sizeof id->internal, "/proc/%d/fd/%d", static_cast<int>(getpid()),
             fd);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out,
                                    int n_ranks,
                                    ncclUniqueId id,
                                    int rank,
                                    ncclConfig_t *config) {
    *out = nullptr;
    if (n_ranks < 1 || n_ranks > MOST_RANKS || rank < 0 || rank >= n_ranks)
        return ncclInvalidArgument;
    id.internal[sizeof id.internal - 1] = '\0';
    int fd = open(id.internal, O_RDWR | O_CLOEXEC);
    struct stat info;
    void *shared = MAP_FAILED;
    if (fd >= 0 && fstat(fd, &info) == 0 && info.st_size == sizeof(shared_part))
        shared = mmap(nullptr, sizeof(shared_part), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0) close(fd);
    if (shared == MAP_FAILED) return ncclSystemError;
    auto state = std::make_shared<communicator>();
    state->rank = rank;
    state->n_ranks = n_ranks;
    state->shared = static_cast<shared_part *>(shared);
    int stall_rank = -1, stall_at = 0;
    const char *stall = getenv("SY_EMU_NCCL_STALL");
    if (stall != nullptr) sscanf(stall, "%d,%d", &stall_rank, &stall_at);
    state->stall_at = stall_rank == rank ? stall_at : 0;
    int maker = 0, maker_fd = -1;
    if (sscanf(id.internal, "/proc/%d/fd/%d", &maker, &maker_fd) == 2 && maker == getpid())
        state->fd = maker_fd;
    state->shared->joined++;
    *out = new ncclComm{state};
    if (config != nullptr && config->blocking == 0) return ncclInProgress;
    while (state->shared->joined < n_ranks)
        sched_yield();
    return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
    if (comm == nullptr) return ncclInvalidArgument;
    *error = static_cast<ncclResult_t>(comm->state->error.load());
    if (*error == ncclSuccess && comm->state->shared->joined < comm->state->n_ranks)
        *error = ncclInProgress;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    return comm == nullptr ? ncclInvalidArgument : ncclSuccess;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    if (comm == nullptr) return ncclInvalidArgument;
    if (comm->state->stream != nullptr) emu_wait_stream(comm->state->stream);
    delete comm;
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    if (comm == nullptr) return ncclInvalidArgument;
    comm->state->aborted = true;
    return ncclCommDestroy(comm);
}

ncclResult_t ncclGroupStart(void) {
    depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void) {
    if (depth == 0) return ncclInvalidUsage;
    return --depth > 0 ? ncclSuccess : submit();
}

ncclResult_t ncclSend(const void *data,
                      size_t n,
                      ncclDataType_t type,
                      int peer,
                      ncclComm_t comm,
                      cudaStream_t stream) {
    return point_to_point(true, data, n, type, peer, comm, stream);
}

ncclResult_t ncclRecv(void *data,
                      size_t n,
                      ncclDataType_t type,
                      int peer,
                      ncclComm_t comm,
                      cudaStream_t stream) {
    return point_to_point(false, data, n, type, peer, comm, stream);
}

ncclResult_t ncclAllGather(const void *mine,
                           void *all,
                           size_t n,
                           ncclDataType_t type,
                           ncclComm_t comm,
                           cudaStream_t stream) {
    ncclResult_t result = begin_call(comm, stream);
    size_t bytes = n * size_of(type);
    if (result == ncclSuccess && n > 0 && (mine == nullptr || all == nullptr))
        result = ncclInvalidArgument;
    if (result != ncclSuccess) return finish_call(result);
    const communicator &c = *comm->state;
    char *to = static_cast<char *>(all);
    for (int r = 0; r < c.n_ranks && n > 0; r++) {
        if (r == c.rank) {
            group->copies.push_back({to + r * bytes, {static_cast<const char *>(mine), bytes}});
            continue;
        }
        group->fresh.push_back(make(true, r, mine, GATHER, bytes));
        group->fresh.push_back(make(false, r, to + r * bytes, GATHER, bytes));
    }
    return finish_call(ncclSuccess);
}

const char *ncclGetErrorString(ncclResult_t result) {
    switch (result) {
    case ncclSuccess:
        return "no error";
    case ncclUnhandledCudaError:
        return "unhandled cuda error";
    case ncclSystemError:
        return "unhandled system error";
    case ncclInternalError:
        return "internal error";
    case ncclInvalidArgument:
        return "invalid argument";
    case ncclInvalidUsage:
        return "invalid usage";
    case ncclRemoteError:
        return "remote process exited or there was a network error";
    case ncclInProgress:
        return "NCCL operation in progress";
    }
    return "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm) {
    (void)comm;
    return "";
}
}
