#include "comm/link.h"

#include <assert.h>

#include "base/checked.h"
#include "base/memory.h"
#include "comm/link_memfd.h"
#include "comm/link_mpi.h"
#include "comm/mpi_wait.h"

/* While MPI messages are under way somebody has to drive MPI: sleeps stay below this. */
enum { MPI_SLEEP_MAX_NS = 50000 };
/* Without them a waiter sleeps until the bell rings; the limit only bounds a lost signal. */
#define BELL_SLICE_NS ((int64_t)1000000000)

struct sy_link {
    sy_comm *comm;
    sy_link_shape shape;
    sy_memfd_group *memfd;
    sy_mpi_peers *mpi;
    struct {
        uint64_t n_released; /* rounds that are over; the current one is n_released + 1 */
        int n_sent;          /* in the current round */
        bool waited;         /* the current round's messages are here */
        void *block;         /* if no peer reads it in place */
    } channel[SY_CHANNELS];
};

static int count_in_place(const sy_comm *comm) {
    int n = 0;
    for (int r = 0; r < sy_comm_size(comm); r++)
        n += r != sy_comm_rank(comm) && sy_comm_shares_memory(comm, sy_comm_rank(comm), r);
    return n;
}

uint64_t sy_link_bytes(const sy_comm *comm, const sy_link_shape *shape) {
    int in_place = count_in_place(comm), size = sy_comm_size(comm);
    uint64_t blocks, receives = sy_mpi_peers_bytes(size - 1 - in_place, shape), all;
    if (in_place > 0)
        blocks = sy_memfd_bytes(size, shape);
    else if (!sy_add_u64(shape->channel[0].block_bytes, shape->channel[1].block_bytes, &blocks))
        blocks = UINT64_MAX;
    if (blocks == UINT64_MAX || receives == UINT64_MAX || !sy_add_u64(blocks, receives, &all))
        return UINT64_MAX;
    return all;
}

/* Peers lay out their memory alike, or nothing of what follows makes sense. */
static sy_status check_identity(sy_comm *comm, const sy_link_shape *shape) {
    sy_status st = SY_OK;
    uint64_t *all = NULL, bytes = (uint64_t)sy_comm_size(comm) * sizeof *all;
    SY_TRY(sy_mem_alloc(&all, bytes, "link identities"));
    SY_TRY(sy_comm_all_gather(comm, &shape->identity, sizeof *all, all));
    for (int r = 0; r < sy_comm_size(comm); r++)
        if (all[r] != shape->identity)
            SY_FAIL(SY_ERR_COMM,
                    "rank %d makes its exchange for other shapes than rank %d (hash %016llx "
                    "against %016llx)",
                    r, sy_comm_rank(comm), (unsigned long long)all[r],
                    (unsigned long long)shape->identity);
done:
    sy_mem_free(all, bytes);
    return st;
}

static sy_status create_parts(sy_link *link) {
    sy_status st = SY_OK;
    sy_comm *comm = link->comm;
    int size = sy_comm_size(comm);
    bool *by_mpi = NULL;
    SY_TRY(sy_mem_alloc(&by_mpi, (uint64_t)size * sizeof *by_mpi, "link"));
    for (int r = 0; r < size; r++)
        by_mpi[r] = r != sy_comm_rank(comm) && !sy_memfd_has(link->memfd, r);
    SY_TRY(sy_mpi_peers_create(comm, &link->shape, by_mpi, &link->mpi));
    for (int c = 0; c < SY_CHANNELS && sy_memfd_peers(link->memfd) == 0; c++)
        SY_TRY(sy_mem_alloc(&link->channel[c].block, link->shape.channel[c].block_bytes,
                            "exchange block"));
done:
    sy_mem_free(by_mpi, (uint64_t)size * sizeof *by_mpi);
    return st;
}

sy_status sy_link_create(sy_comm *comm, const sy_link_shape *shape, sy_link **out) {
    sy_status st = SY_OK;
    sy_link *link = NULL;
    *out = NULL;
    SY_TRY(check_identity(comm, shape));
    SY_TRY(sy_mem_alloc(&link, sizeof *link, "link"));
    link->comm = comm;
    link->shape = *shape;
    SY_TRY(sy_memfd_create(comm, shape, &link->memfd));
    /* The agreement is also the barrier before the first send: all receives are posted. */
    SY_TRY(sy_comm_agree(comm, create_parts(link)));
    *out = link;
    link = NULL;
done:
    sy_link_destroy(link);
    return st;
}

void sy_link_destroy(sy_link *link) {
    if (link == NULL) return;
    for (int c = 0; c < SY_CHANNELS; c++)
        sy_mem_free(link->channel[c].block, link->shape.channel[c].block_bytes);
    sy_mpi_peers_destroy(link->mpi);
    sy_memfd_destroy(link->memfd);
    sy_mem_free(link, sizeof *link);
}

bool sy_link_in_place(const sy_link *link, int peer) {
    return sy_memfd_has(link->memfd, peer);
}

void *sy_link_block(const sy_link *link, sy_channel channel) {
    void *block = link->channel[channel].block;
    return block != NULL ? block : sy_memfd_own_block(link->memfd, channel);
}

/* The channels take turns; see link.h for what rests on it. */
static sy_status check_turn(const sy_link *link, sy_channel channel) {
    uint64_t dispatched = link->channel[SY_CHANNEL_DISPATCH].n_released;
    uint64_t combined = link->channel[SY_CHANNEL_COMBINE].n_released;
    bool dispatch_turn = dispatched == combined;
    assert(dispatch_turn || dispatched == combined + 1);
    if (dispatch_turn == (channel == SY_CHANNEL_DISPATCH)) return SY_OK;
    return sy_fail(SY_ERR_INTERNAL,
                   "exchange: dispatch and combine do not take turns "
                   "(%llu and %llu rounds are over)",
                   (unsigned long long)dispatched, (unsigned long long)combined);
}

sy_status
sy_link_send(sy_link *link, sy_channel channel, int peer, const void *data, uint64_t bytes) {
    sy_status st = SY_OK;
    uint64_t unit = link->shape.channel[channel].unit_bytes;
    SY_TRY(check_turn(link, channel));
    if (link->channel[channel].waited || peer == sy_comm_rank(link->comm) ||
        bytes % unit != 0 || bytes > link->shape.channel[channel].message_bytes)
        SY_FAIL(SY_ERR_INTERNAL, "exchange: a message of %llu bytes to rank %d is out of place",
                (unsigned long long)bytes, peer);
    if (sy_memfd_has(link->memfd, peer)) {
        const char *block = sy_link_block(link, channel);
        uint64_t offset = (uint64_t)((const char *)data - block);
        assert(sy_memfd_extent_valid(offset, bytes, link->shape.channel[channel].block_bytes,
                                     link->shape.channel[channel].message_bytes, unit));
        sy_memfd_publish(link->memfd, channel, peer, offset, bytes,
                         link->channel[channel].n_released + 1);
    } else {
        SY_TRY(sy_mpi_peers_send(link->mpi, channel, peer, data, bytes));
    }
    link->channel[channel].n_sent++;
done:
    return st;
}

sy_status sy_link_wait(sy_link *link, sy_channel channel) {
    sy_status st = SY_OK;
    uint64_t round = link->channel[channel].n_released + 1;
    bool may_spin = sy_comm_may_spin(link->comm);
    sy_patience patience = {0};
    SY_TRY(check_turn(link, channel));
    if (link->channel[channel].n_sent != sy_comm_size(link->comm) - 1)
        SY_FAIL(SY_ERR_INTERNAL, "exchange: %d messages sent before waiting, not %d",
                link->channel[channel].n_sent, sy_comm_size(link->comm) - 1);
    for (;;) {
        bool mpi_done;
        SY_TRY(sy_mpi_peers_test(link->mpi, channel, &mpi_done));
        bool here = sy_memfd_arrived(link->memfd, channel, round, may_spin,
                                     mpi_done ? BELL_SLICE_NS : 0);
        if (mpi_done && here) break;
        if (mpi_done) continue;
        int64_t ns = sy_min(sy_patience_next(&patience, may_spin), MPI_SLEEP_MAX_NS);
        if (ns == 0) continue;
        if (here)
            sy_sleep_ns(ns);
        else
            sy_memfd_arrived(link->memfd, channel, round, false, ns);
    }
    link->channel[channel].waited = true;
done:
    return st;
}

sy_status
sy_link_received(const sy_link *link, sy_channel channel, int peer, sy_link_message *out) {
    *out = (sy_link_message){0};
    if (!link->channel[channel].waited)
        return sy_fail(SY_ERR_INTERNAL, "exchange: nothing has been received yet");
    if (!sy_memfd_has(link->memfd, peer)) {
        sy_mpi_peers_message(link->mpi, channel, peer, &out->data, &out->bytes);
        return SY_OK;
    }
    out->block = sy_memfd_block(link->memfd, peer, channel);
    return sy_memfd_message(link->memfd, channel, peer, link->channel[channel].n_released + 1,
                            &out->data, &out->bytes);
}

sy_status sy_link_release(sy_link *link, sy_channel channel) {
    sy_status st = SY_OK;
    if (!link->channel[channel].waited)
        SY_FAIL(SY_ERR_INTERNAL, "exchange: messages are released before they are here");
    SY_TRY(sy_mpi_peers_post(link->mpi, channel));
    link->channel[channel].waited = false;
    link->channel[channel].n_sent = 0;
    link->channel[channel].n_released++;
done:
    return st;
}
