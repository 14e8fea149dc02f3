#include "comm/link_mpi.h"

#include <limits.h>
#include <mpi.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "comm/mpi_wait.h"

/* How long destroy gives MPI to take back a posted receive. */
#define CANCEL_LIMIT_NS ((int64_t)1000000000)

typedef struct mpi_channel {
    MPI_Datatype unit; /* unit_bytes bytes */
    int tag;
    bool done;
    uint64_t buffer_bytes; /* of one peer */
    char *buffer;          /* [n] */
    uint64_t *received;    /* [n] bytes of this round */
    MPI_Request *request;  /* [2 n]: receives, then sends */
} mpi_channel;

struct sy_mpi_peers {
    sy_comm *comm;
    sy_link_shape shape;
    int n;
    int *rank;          /* [n] */
    int *index;         /* [R], -1 where not a peer */
    MPI_Status *status; /* [2 n] */
    mpi_channel channel[SY_CHANNELS];
};

static bool buffer_size(const sy_link_shape *shape, int c, uint64_t *bytes) {
    if (!sy_add_u64(shape->channel[c].message_bytes, SY_CACHE_LINE - 1, bytes)) return false;
    *bytes = *bytes / SY_CACHE_LINE * SY_CACHE_LINE;
    return true;
}

uint64_t sy_mpi_peers_bytes(int n_peers, const sy_link_shape *shape) {
    uint64_t all = 0, bytes;
    for (int c = 0; c < SY_CHANNELS; c++)
        if (!buffer_size(shape, c, &bytes) || !sy_mul_u64(bytes, (uint64_t)n_peers, &bytes) ||
            !sy_add_u64(all, bytes, &all))
            return UINT64_MAX;
    return all;
}

static sy_status open_channel(sy_mpi_peers *peers, int c) {
    sy_status st = SY_OK;
    mpi_channel *ch = &peers->channel[c];
    uint64_t unit = peers->shape.channel[c].unit_bytes, all_bytes, n = (uint64_t)peers->n;
    if (unit > INT_MAX || peers->shape.channel[c].message_bytes / unit > INT_MAX ||
        !buffer_size(&peers->shape, c, &ch->buffer_bytes) ||
        !sy_mul_u64(ch->buffer_bytes, n, &all_bytes))
        SY_FAIL(SY_ERR_MEMORY, "messages of %llu bytes are too long to receive",
                (unsigned long long)peers->shape.channel[c].message_bytes);
    SY_TRY(sy_mem_alloc(&ch->received, n * sizeof *ch->received, "receive sizes"));
    SY_TRY(sy_mem_alloc(&ch->request, 2 * n * sizeof *ch->request, "requests"));
    for (int i = 0; i < 2 * peers->n; i++)
        ch->request[i] = MPI_REQUEST_NULL;
    SY_TRY(sy_mem_alloc(&ch->buffer, all_bytes, "receive buffers"));
    SY_TRY(sy_mpi_status(MPI_Type_contiguous((int)unit, MPI_BYTE, &ch->unit),
                         "MPI_Type_contiguous"));
    SY_TRY(sy_mpi_status(MPI_Type_commit(&ch->unit), "MPI_Type_commit"));
    SY_TRY(sy_mpi_peers_post(peers, (sy_channel)c));
done:
    return st;
}

sy_status sy_mpi_peers_create(sy_comm *comm,
                              const sy_link_shape *shape,
                              const bool *is_peer,
                              sy_mpi_peers **out) {
    sy_status st = SY_OK;
    sy_mpi_peers *peers = NULL;
    int size = sy_comm_size(comm), tag = sy_comm_take_tags(comm, SY_CHANNELS);
    *out = NULL;
    SY_TRY(sy_mem_alloc(&peers, sizeof *peers, "MPI peers"));
    peers->comm = comm;
    peers->shape = *shape;
    for (int c = 0; c < SY_CHANNELS; c++) {
        peers->channel[c].tag = tag + c;
        peers->channel[c].unit = MPI_DATATYPE_NULL;
    }
    SY_TRY(sy_mem_alloc(&peers->index, (uint64_t)size * sizeof *peers->index, "MPI peers"));
    SY_TRY(sy_mem_alloc(&peers->rank, (uint64_t)size * sizeof *peers->rank, "MPI peers"));
    for (int r = 0; r < size; r++) {
        peers->index[r] = is_peer[r] ? peers->n : -1;
        if (is_peer[r]) peers->rank[peers->n++] = r;
    }
    SY_TRY(sy_mem_alloc(&peers->status, 2 * (uint64_t)peers->n * sizeof *peers->status,
                        "MPI peers"));
    for (int c = 0; c < SY_CHANNELS && peers->n > 0; c++)
        SY_TRY(open_channel(peers, c));
    *out = peers;
    peers = NULL;
done:
    sy_mpi_peers_destroy(peers);
    return st;
}

/* Takes back the posted receives. False if MPI may still write into the buffer. */
static bool cancel_requests(sy_mpi_peers *peers, mpi_channel *ch) {
    sy_patience patience = {0};
    int64_t limit = sy_now_ns() + CANCEL_LIMIT_NS;
    int all_done = 0;
    for (int i = 0; i < peers->n; i++)
        if (ch->request[i] != MPI_REQUEST_NULL) MPI_Cancel(&ch->request[i]);
    while (MPI_Testall(2 * peers->n, ch->request, &all_done, MPI_STATUSES_IGNORE) ==
               MPI_SUCCESS &&
           !all_done && sy_now_ns() < limit) {
        int64_t ns = sy_patience_next(&patience, false);
        if (ns > 0) sy_sleep_ns(ns);
    }
    return all_done;
}

static void close_channel(sy_mpi_peers *peers, mpi_channel *ch) {
    uint64_t n = (uint64_t)peers->n;
    bool quiet = true;
    if (ch->request != NULL) quiet = cancel_requests(peers, ch);
    if (ch->unit != MPI_DATATYPE_NULL) MPI_Type_free(&ch->unit);
    if (quiet) {
        sy_mem_free(ch->buffer, ch->buffer_bytes * n);
        sy_mem_free(ch->request, 2 * n * sizeof *ch->request);
    } else {
        SY_WARN("a message of a rank was still under way at the end");
    }
    sy_mem_free(ch->received, n * sizeof *ch->received);
}

void sy_mpi_peers_destroy(sy_mpi_peers *peers) {
    if (peers == NULL) return;
    for (int c = 0; c < SY_CHANNELS; c++)
        close_channel(peers, &peers->channel[c]);
    uint64_t size = (uint64_t)sy_comm_size(peers->comm);
    sy_mem_free(peers->status, 2 * (uint64_t)peers->n * sizeof *peers->status);
    sy_mem_free(peers->rank, size * sizeof *peers->rank);
    sy_mem_free(peers->index, size * sizeof *peers->index);
    sy_mem_free(peers, sizeof *peers);
}

sy_status sy_mpi_peers_post(sy_mpi_peers *peers, sy_channel channel) {
    sy_status st = SY_OK;
    mpi_channel *ch = &peers->channel[channel];
    uint64_t units =
        peers->shape.channel[channel].message_bytes / peers->shape.channel[channel].unit_bytes;
    ch->done = false;
    for (int i = 0; i < peers->n; i++)
        SY_TRY(sy_mpi_status(MPI_Irecv(ch->buffer + (uint64_t)i * ch->buffer_bytes, (int)units,
                                       ch->unit, peers->rank[i], ch->tag,
                                       sy_comm_mpi(peers->comm), &ch->request[i]),
                             "posting a receive"));
done:
    return st;
}

sy_status sy_mpi_peers_send(sy_mpi_peers *peers,
                            sy_channel channel,
                            int rank,
                            const void *data,
                            uint64_t bytes) {
    mpi_channel *ch = &peers->channel[channel];
    uint64_t units = bytes / peers->shape.channel[channel].unit_bytes;
    int rc = MPI_Isend(data, (int)units, ch->unit, rank, ch->tag, sy_comm_mpi(peers->comm),
                       &ch->request[peers->n + peers->index[rank]]);
    return sy_mpi_status(rc, "sending to a rank");
}

/* The error of the first failed request, naming its peer. */
static sy_status name_failure(const sy_mpi_peers *peers, int rc) {
    if (rc != MPI_ERR_IN_STATUS) return sy_mpi_status(rc, "waiting for the other ranks");
    for (int i = 0; i < 2 * peers->n; i++) {
        int error = peers->status[i].MPI_ERROR;
        if (error == MPI_SUCCESS || error == MPI_ERR_PENDING) continue;
        sy_status st = sy_mpi_status(error, i < peers->n ? "receiving" : "sending");
        sy_status_context("rank %d", peers->rank[i % peers->n]);
        return st;
    }
    return sy_mpi_status(rc, "waiting for the other ranks");
}

sy_status sy_mpi_peers_test(sy_mpi_peers *peers, sy_channel channel, bool *done) {
    mpi_channel *ch = &peers->channel[channel];
    *done = ch->done;
    if (peers->n == 0) *done = true;
    if (*done) return SY_OK;
    int all_done = 0;
    int rc = MPI_Testall(2 * peers->n, ch->request, &all_done, peers->status);
    if (rc != MPI_SUCCESS) return name_failure(peers, rc);
    if (!all_done) return SY_OK;
    for (int i = 0; i < peers->n; i++) {
        int units = 0;
        rc = MPI_Get_count(&peers->status[i], ch->unit, &units);
        if (rc != MPI_SUCCESS || units == MPI_UNDEFINED)
            return sy_fail(SY_ERR_COMM, "rank %d sent a broken number of bytes",
                           peers->rank[i]);
        ch->received[i] = (uint64_t)units * peers->shape.channel[channel].unit_bytes;
    }
    *done = ch->done = true;
    return SY_OK;
}

void sy_mpi_peers_message(const sy_mpi_peers *peers,
                          sy_channel channel,
                          int rank,
                          const void **data,
                          uint64_t *bytes) {
    const mpi_channel *ch = &peers->channel[channel];
    int i = peers->index[rank];
    *data = ch->buffer + (uint64_t)i * ch->buffer_bytes;
    *bytes = ch->received[i];
}
