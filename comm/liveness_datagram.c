#include "comm/liveness_datagram.h"

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"

enum { MAX_ADDRESSES = 8 };
#define MAGIC 0x53795742u

/* Ranks run on machines of one byte order, as MPI's byte counts assume too. */
typedef struct datagram {
    uint32_t magic, kind;
    uint64_t secret;
    int32_t rank;
    uint32_t padding;
    sy_beat beat;
} datagram;

/* How the others reach a rank; addresses and port in network order. */
typedef struct address_card {
    uint64_t network; /* equal: the same kernel and network namespace, so loopback serves */
    uint32_t address[MAX_ADDRESSES];
    int32_t n_addresses;
    uint16_t port;
    uint16_t padding;
} address_card;

typedef struct far_rank {
    bool used;
    bool learned; /* `to` is where its datagrams come from */
    struct sockaddr_in to;
    address_card card;
} far_rank;

struct sy_datagrams {
    int fd, me, n_ranks;
    uint64_t secret;
    far_rank *rank; /* [n_ranks] */
};

/* Identity of this machine's network: boot id and network namespace. 0: unknown. */
static uint64_t network_identity(void) {
    char boot[64];
    struct stat info;
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "re");
    if (f == NULL) return 0;
    size_t n = fread(boot, 1, sizeof boot, f);
    fclose(f);
    if (n == 0 || stat("/proc/self/ns/net", &info) != 0) return 0;
    return sy_hash_add(sy_hash_bytes(1, boot, n), (uint64_t)info.st_ino);
}

static void list_addresses(address_card *card) {
    struct ifaddrs *list = NULL;
    if (getifaddrs(&list) != 0) return;
    for (const struct ifaddrs *i = list; i != NULL; i = i->ifa_next) {
        bool usable = i->ifa_addr != NULL && i->ifa_addr->sa_family == AF_INET &&
                      (i->ifa_flags & IFF_UP) != 0 && (i->ifa_flags & IFF_LOOPBACK) == 0;
        if (!usable || card->n_addresses == MAX_ADDRESSES) continue;
        struct sockaddr_in address;
        memcpy(&address, i->ifa_addr, sizeof address);
        card->address[card->n_addresses++] = address.sin_addr.s_addr;
    }
    freeifaddrs(list);
}

/* Whether all far ranks are reached over loopback, as virtual hosts are. */
static bool all_on_this_machine(const sy_datagrams *d) {
    uint64_t mine = d->rank[d->me].card.network;
    for (int r = 0; r < d->n_ranks; r++)
        if (d->rank[r].card.network != mine) return false;
    return mine != 0;
}

static sy_status bind_socket(sy_datagrams *d, address_card *card) {
    struct sockaddr_in here = {.sin_family = AF_INET};
    socklen_t size = sizeof here;
    here.sin_addr.s_addr = htonl(all_on_this_machine(d) ? INADDR_LOOPBACK : INADDR_ANY);
    d->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (d->fd < 0 || bind(d->fd, (struct sockaddr *)&here, sizeof here) != 0 ||
        getsockname(d->fd, (struct sockaddr *)&here, &size) != 0)
        return sy_fail(SY_ERR_COMM, "a UDP socket for liveness: %s", strerror(errno));
    card->port = here.sin_port;
    return SY_OK;
}

/* Collective: cards of all ranks into d->rank. */
static sy_status
exchange_cards(sy_comm *comm, sy_datagrams *d, const address_card *mine, address_card *all) {
    sy_status st = SY_OK;
    SY_TRY(sy_comm_all_gather(comm, mine, sizeof *mine, all));
    for (int r = 0; r < d->n_ranks; r++)
        d->rank[r].card = all[r];
    for (int r = 0; r < d->n_ranks; r++)
        if (all[r].n_addresses < 0 || all[r].n_addresses > MAX_ADDRESSES)
            SY_FAIL(SY_ERR_COMM, "rank %d sent a malformed address", r);
done:
    return st;
}

static sy_status allocate(sy_comm *comm, sy_datagrams **out) {
    sy_datagrams *d = calloc(1, sizeof *d);
    if (d == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for liveness");
    *out = d;
    d->fd = -1;
    d->me = sy_comm_rank(comm);
    d->n_ranks = sy_comm_size(comm);
    d->rank = calloc((size_t)d->n_ranks, sizeof *d->rank);
    return d->rank != NULL ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory for liveness");
}

sy_status sy_datagrams_open(sy_comm *comm, const bool *far, sy_datagrams **out) {
    sy_status st = SY_OK;
    sy_datagrams *d = NULL;
    address_card mine = {0}, *all = NULL;
    uint64_t secret = 0;
    st = allocate(comm, &d);
    all = calloc((size_t)sy_comm_size(comm), sizeof *all);
    if (st == SY_OK && all == NULL) st = sy_fail(SY_ERR_MEMORY, "no memory for liveness");
    if (st == SY_OK && getrandom(&secret, sizeof secret, 0) != (ssize_t)sizeof secret)
        st = sy_fail(SY_ERR_IO, "getrandom: %s", strerror(errno));
    SY_TRY(sy_comm_agree(comm, st));
    SY_TRY(sy_comm_broadcast(comm, &secret, sizeof secret, 0));
    d->secret = secret;
    mine.network = network_identity();
    list_addresses(&mine);
    SY_TRY(exchange_cards(comm, d, &mine, all)); /* decides where the socket is bound */
    SY_TRY(sy_comm_agree(comm, bind_socket(d, &mine)));
    SY_TRY(exchange_cards(comm, d, &mine, all)); /* tells the port */
    for (int r = 0; r < d->n_ranks; r++)
        d->rank[r].used = far[r];
    *out = d;
    d = NULL;
done:
    sy_datagrams_close(d);
    free(all);
    return st;
}

void sy_datagrams_close(sy_datagrams *d) {
    if (d == NULL) return;
    if (d->fd >= 0) close(d->fd);
    free(d->rank);
    free(d);
}

int sy_datagrams_fd(const sy_datagrams *d) {
    return d->fd;
}

static void
send_to(const sy_datagrams *d, const struct sockaddr_in *to, const datagram *packet) {
    ssize_t n = sendto(d->fd, packet, sizeof *packet, MSG_NOSIGNAL, (const struct sockaddr *)to,
                       sizeof *to);
    (void)n; /* lost on the way or lost here: the next beat is on its way soon */
}

static void send_to_all(sy_datagrams *d, uint32_t kind, const sy_beat *beat) {
    datagram packet = {.magic = MAGIC, .kind = kind, .secret = d->secret, .rank = d->me};
    if (beat != NULL) packet.beat = *beat;
    for (int r = 0; r < d->n_ranks; r++) {
        const far_rank *other = &d->rank[r];
        if (!other->used) continue;
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = other->card.port};
        if (other->learned) {
            send_to(d, &other->to, &packet);
        } else if (other->card.network != 0 &&
                   other->card.network == d->rank[d->me].card.network) {
            to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
            send_to(d, &to, &packet);
        } else {
            for (int i = 0; i < other->card.n_addresses; i++) {
                to.sin_addr.s_addr = other->card.address[i];
                send_to(d, &to, &packet);
            }
        }
    }
}

void sy_datagrams_send_beat(sy_datagrams *d, const sy_beat *beat) {
    send_to_all(d, SY_DATAGRAM_BEAT, beat);
}

void sy_datagrams_send_end(sy_datagrams *d) {
    for (int i = 0; i < 3; i++)
        send_to_all(d, SY_DATAGRAM_END, NULL);
}

sy_datagram_kind sy_datagrams_receive(sy_datagrams *d, int *rank, sy_beat *beat) {
    for (;;) {
        datagram packet;
        struct sockaddr_in from;
        socklen_t size = sizeof from;
        ssize_t n =
            recvfrom(d->fd, &packet, sizeof packet, MSG_TRUNC, (struct sockaddr *)&from, &size);
        /* ECONNREFUSED and the like report an earlier send and leave the queue as it was. */
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return SY_DATAGRAM_NONE;
        bool ours = n == (ssize_t)sizeof packet && size == sizeof from &&
                    packet.magic == MAGIC && packet.secret == d->secret && packet.rank >= 0 &&
                    packet.rank < d->n_ranks && d->rank[packet.rank].used &&
                    (packet.kind == SY_DATAGRAM_BEAT || packet.kind == SY_DATAGRAM_END);
        if (!ours) continue;
        d->rank[packet.rank].to = from;
        d->rank[packet.rank].learned = true;
        *rank = packet.rank;
        *beat = packet.beat;
        return (sy_datagram_kind)packet.kind;
    }
}
