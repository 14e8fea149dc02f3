#include "comm/roll_call.h"

#include <stdio.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/memory.h"
#include "comm/liveness_page.h"
#include "comm/mpi_wait.h"

typedef struct standing {
    int64_t made, done; /* -1: not known */
    int64_t passed;     /* within recorded steps */
} standing;

/* Calls that are remembered, to find the one in which two ranks went apart. */
enum { REMEMBERED = 32 };
/* Those of them that others are told: few, so that a transport sends an announcement at once, also
 * to a rank that takes none. */
enum { TOLD = 5 };

/* A call as one rank made it with another. */
typedef struct made_call {
    int64_t number; /* 0: none */
    sy_roll_kind kind;
    uint64_t send, receive; /* bytes to and from the other rank */
} made_call;

/* What a rank tells another. A message that nobody took may turn up in a later communicator that
 * MPI gave the same number, so each roll has a mark. */
typedef struct announcement {
    uint64_t mark;
    standing standing;
    made_call call[TOLD]; /* from the first that is not done on, or the latest */
} announcement;

struct sy_roll {
    sy_comm *comm;
    int tag;
    sy_page *page; /* NULL: not on this host. Of a slot, `progress` is made, `beat` is done and
                * phase[0] is passed. */
    uint64_t page_bytes;
    int *position; /* [R] */
    uint64_t mark;
    standing mine;
    standing *all;                 /* [R] */
    made_call (*made)[REMEMBERED]; /* [R]; call n at n % REMEMBERED */
    int64_t latest;                /* number of the last call */
    announcement *tell;            /* [R]; must stay while a send may be under way */
    announcement *heard;           /* [R]; of those that answered */
    MPI_Request *sends;            /* [R] */
    bool *answered;                /* [R] */
    int n_answered;                /* without this rank's own */
};

static uint64_t ranks_of(const sy_roll *roll) {
    return (uint64_t)sy_comm_size(roll->comm);
}

static sy_status create_tables(sy_roll *roll) {
    sy_status st = SY_OK;
    uint64_t n = ranks_of(roll);
    SY_TRY(sy_mem_alloc(&roll->position, n * sizeof *roll->position, "roll call"));
    SY_TRY(sy_mem_alloc(&roll->all, n * sizeof *roll->all, "roll call"));
    SY_TRY(sy_mem_alloc(&roll->made, n * sizeof *roll->made, "roll call"));
    SY_TRY(sy_mem_alloc(&roll->tell, n * sizeof *roll->tell, "roll call"));
    SY_TRY(sy_mem_alloc(&roll->heard, n * sizeof *roll->heard, "roll call"));
    SY_TRY(sy_mem_alloc(&roll->sends, n * sizeof(MPI_Request), "roll call"));
    for (uint64_t r = 0; r < n; r++)
        roll->sends[r] = MPI_REQUEST_NULL;
    SY_TRY(sy_mem_alloc(&roll->answered, n * sizeof *roll->answered, "roll call"));
done:
    return st;
}

sy_status sy_roll_create(sy_comm *comm, sy_roll **out) {
    sy_status st = SY_OK;
    sy_roll *roll = NULL;
    *out = NULL;
    st = sy_mem_alloc(&roll, sizeof *roll, "roll call");
    if (st == SY_OK) {
        roll->comm = comm;
        st = create_tables(roll);
    }
    SY_TRY(sy_comm_agree(comm, st));
    roll->tag = sy_comm_take_tags(comm, 1);
    roll->mark = (uint64_t)sy_now_ns();
    SY_TRY(sy_comm_broadcast(comm, &roll->mark, sizeof roll->mark, 0));
    SY_TRY(sy_page_open(comm, &roll->page, &roll->page_bytes, roll->position));
    *out = roll;
    roll = NULL;
done:
    sy_roll_destroy(roll);
    return st;
}

void sy_roll_destroy(sy_roll *roll) {
    if (roll == NULL) return;
    bool pending = false;
    uint64_t n = ranks_of(roll);
    for (uint64_t r = 0; roll->sends != NULL && r < n; r++) {
        int sent = 1;
        if (roll->sends[r] == MPI_REQUEST_NULL) continue;
        MPI_Test(&roll->sends[r], &sent, MPI_STATUS_IGNORE);
        pending |= !sent;
    }
    sy_page_close(roll->page, roll->page_bytes);
    sy_mem_free(roll->answered, n * sizeof *roll->answered);
    sy_mem_free(roll->heard, n * sizeof *roll->heard);
    sy_mem_free(roll->made, n * sizeof *roll->made);
    sy_mem_free(roll->all, n * sizeof *roll->all);
    sy_mem_free(roll->position, n * sizeof *roll->position);
    if (pending) return; /* MPI may still read `tell`; the process is about to end anyway */
    sy_mem_free(roll->tell, n * sizeof *roll->tell);
    sy_mem_free(roll->sends, n * sizeof(MPI_Request));
    sy_mem_free(roll, sizeof *roll);
}

void sy_roll_show(sy_roll *roll, int64_t made, int64_t done) {
    roll->mine.made = made;
    roll->mine.done = done;
    if (roll->page == NULL) return;
    sy_slot *slot = &roll->page->slot[roll->position[sy_comm_rank(roll->comm)]];
    atomic_store_explicit(&slot->progress, (uint64_t)made, memory_order_relaxed);
    atomic_store_explicit(&slot->beat, (uint64_t)done, memory_order_relaxed);
}

void sy_roll_show_passed(sy_roll *roll, int64_t passed) {
    roll->mine.passed = passed;
    if (roll->page == NULL) return;
    sy_slot *slot = &roll->page->slot[roll->position[sy_comm_rank(roll->comm)]];
    atomic_store_explicit(&slot->phase[0], (uint64_t)passed, memory_order_relaxed);
}

void sy_roll_note(sy_roll *roll,
                  int64_t number,
                  sy_roll_kind kind,
                  int peer,
                  uint64_t send,
                  uint64_t receive) {
    roll->made[peer][number % REMEMBERED] = (made_call){number, kind, send, receive};
    roll->latest = number;
}

static void tell_calls(const sy_roll *roll, int peer, made_call call[TOLD]) {
    int64_t first = sy_max(sy_min(roll->mine.done, roll->latest - TOLD + 1), 1);
    for (int i = 0; i < TOLD; i++) {
        const made_call *c = &roll->made[peer][(first + i) % REMEMBERED];
        call[i] = c->number == first + i ? *c : (made_call){0};
    }
}

static void tell_all(sy_roll *roll) {
    for (int r = 0; r < sy_comm_size(roll->comm); r++) {
        announcement *a = &roll->tell[r];
        if (r == sy_comm_rank(roll->comm)) continue;
        a->mark = roll->mark;
        a->standing = roll->mine;
        tell_calls(roll, r, a->call);
        MPI_Isend(a, (int)sizeof *a, MPI_BYTE, r, roll->tag, sy_comm_mpi(roll->comm),
                  &roll->sends[r]);
    }
}

/* Takes what has come. */
static void hear(sy_roll *roll) {
    MPI_Status status;
    MPI_Comm mpi = sy_comm_mpi(roll->comm);
    int arrived = 0;
    while (MPI_Iprobe(MPI_ANY_SOURCE, roll->tag, mpi, &arrived, &status) == MPI_SUCCESS &&
           arrived) {
        announcement theirs;
        int r = status.MPI_SOURCE;
        if (MPI_Recv(&theirs, (int)sizeof theirs, MPI_BYTE, r, roll->tag, mpi,
                     MPI_STATUS_IGNORE) != MPI_SUCCESS)
            return;
        if (theirs.mark != roll->mark || roll->answered[r]) continue;
        roll->heard[r] = theirs;
        roll->all[r] = theirs.standing;
        roll->answered[r] = true;
        roll->n_answered++;
    }
}

bool sy_roll_called(sy_roll *roll) {
    hear(roll);
    return roll->n_answered > 0;
}

static void hear_all(sy_roll *roll, double seconds) {
    int64_t until = sy_now_ns() + (int64_t)(seconds * 1e9);
    sy_patience patience = {0};
    for (;;) {
        hear(roll);
        if (roll->n_answered == sy_comm_size(roll->comm) - 1 || sy_now_ns() > until) return;
        int64_t ns = sy_patience_next(&patience, false);
        if (ns > 0) sy_sleep_ns(ns);
    }
}

/* What the page says of the ranks that did not answer. */
static void look_up_silent(sy_roll *roll) {
    for (int r = 0; r < sy_comm_size(roll->comm); r++) {
        if (roll->answered[r]) continue;
        roll->all[r] = (standing){-1, -1, 0};
        if (roll->page == NULL || roll->position[r] < 0) continue;
        sy_slot *slot = &roll->page->slot[roll->position[r]];
        roll->all[r].made =
            (int64_t)atomic_load_explicit(&slot->progress, memory_order_relaxed);
        roll->all[r].done = (int64_t)atomic_load_explicit(&slot->beat, memory_order_relaxed);
        roll->all[r].passed =
            (int64_t)atomic_load_explicit(&slot->phase[0], memory_order_relaxed);
    }
}

static bool behind(standing a, standing b) {
    if (a.made != b.made) return a.made < b.made;
    return a.done != b.done ? a.done < b.done : a.passed < b.passed;
}

/* Of several other ranks nobody is known to wait. */
static bool alone(const sy_roll *roll) {
    int me = sy_comm_rank(roll->comm), size = sy_comm_size(roll->comm);
    for (int r = 0; r < size; r++)
        if (r != me && roll->all[r].made >= 0) return false;
    return size > 2;
}

static void describe(const sy_roll *roll, char *text, size_t size) {
    int last = 0, first = 0;
    for (int r = 1; r < sy_comm_size(roll->comm); r++) {
        if (behind(roll->all[r], roll->all[last])) last = r;
        if (behind(roll->all[first], roll->all[r])) first = r;
    }
    const standing *l = &roll->all[last], *f = &roll->all[first];
    const char *host = sy_comm_host_name(roll->comm, last);
    const char *silent = roll->answered[last] ? "" : " and does not answer";
    if (alone(roll)) {
        int me = sy_comm_rank(roll->comm);
        const standing *mine = &roll->mine;
        snprintf(text, size,
                 "the device of rank %d on host %s is behind: it has done %lld exchanges of "
                 "%lld, and no other rank waits for rows",
                 me, sy_comm_host_name(roll->comm, me), (long long)mine->done,
                 (long long)mine->made);
    } else if (l->made < 0)
        snprintf(text, size, "rank %d on host %s does not answer", last, host);
    else if (l->made < f->made)
        snprintf(text, size,
                 "rank %d on host %s is behind%s: it has made %lld exchanges between devices, "
                 "rank %d %lld",
                 last, host, silent, (long long)l->made, first, (long long)f->made);
    else if (l->done < f->done)
        snprintf(text, size,
                 "the device of rank %d on host %s is behind%s: it has done %lld exchanges of "
                 "%lld, rank %d's %lld",
                 last, host, silent, (long long)l->done, (long long)l->made, first,
                 (long long)f->done);
    else if (l->passed < f->passed)
        snprintf(
            text, size,
            "the device of rank %d on host %s is behind%s: within recorded steps rows have "
            "come to it %lld times, to rank %d's %lld times",
            last, host, silent, (long long)l->passed, first, (long long)f->passed);
    else
        snprintf(
            text, size,
            "the devices of all ranks stand in the same exchange, number %lld: the network "
            "between them, or NCCL, hangs",
            (long long)l->done + 1);
}

static bool differ(const made_call *mine, const made_call *theirs) {
    return mine->kind != theirs->kind || mine->send != theirs->receive ||
           mine->receive != theirs->send;
}

/* The own call that another rank's is to be compared with; NULL if it is not remembered. */
static const made_call *counterpart(const sy_roll *roll, int r, const made_call *theirs) {
    if (theirs->number <= 0) return NULL;
    const made_call *mine = &roll->made[r][theirs->number % REMEMBERED];
    return mine->number == theirs->number ? mine : NULL;
}

static void describe_call(const made_call *c, int with, char *text, size_t size) {
    if (c->kind == SY_ROLL_GATHER)
        snprintf(text, size, "gathers %llu bytes of each", (unsigned long long)c->send);
    else
        snprintf(text, size, "sends rank %d %llu bytes and expects %llu", with,
                 (unsigned long long)c->send, (unsigned long long)c->receive);
}

/* How this rank's calls compare with those of the ranks that answered. */
typedef struct comparison {
    int n_compared, n_apart;
    int other; /* a rank with which the first of the differing calls was made; -1: none differs */
    const made_call *mine, *theirs; /* that call */
} comparison;

/* Calls are told in ascending order: the first that differs counts. */
static void compare_with(const sy_roll *roll, int r, comparison *c) {
    bool compared = false;
    for (int i = 0; i < TOLD; i++) {
        const made_call *theirs = &roll->heard[r].call[i];
        const made_call *mine = counterpart(roll, r, theirs);
        if (mine == NULL) continue;
        compared = true;
        if (!differ(mine, theirs)) continue;
        c->n_apart++;
        if (c->other < 0 || mine->number < c->mine->number) {
            c->other = r;
            c->mine = mine;
            c->theirs = theirs;
        }
        break;
    }
    c->n_compared += compared;
}

static comparison compare_calls(const sy_roll *roll) {
    comparison c = {.other = -1};
    for (int r = 0; r < sy_comm_size(roll->comm); r++)
        if (r != sy_comm_rank(roll->comm) && roll->answered[r]) compare_with(roll, r, &c);
    return c;
}

/* Whether ranks made different calls. A rank that differs from most of the others, or the only
 * one of several that differs from this one, went apart; between two nobody can say which. */
static bool describe_parting(const sy_roll *roll, char *text, size_t size) {
    comparison c = compare_calls(roll);
    int me = sy_comm_rank(roll->comm);
    if (c.other < 0) return false;
    bool mine = c.n_compared > 1 && 2 * c.n_apart > c.n_compared;
    bool known = mine || (c.n_compared > 1 && 2 * c.n_apart < c.n_compared);
    int first = mine ? me : c.other, second = mine ? c.other : me;
    char what[2][96];
    describe_call(mine ? c.mine : c.theirs, second, what[0], sizeof what[0]);
    describe_call(mine ? c.theirs : c.mine, first, what[1], sizeof what[1]);
    snprintf(text, size,
             "rank %d on host %s %s: as call %lld between devices it %s, where rank %d %s",
             first, sy_comm_host_name(roll->comm, first),
             known ? "goes its own way" : "does not call as this one does",
             (long long)c.mine->number, what[0], second, what[1]);
    return true;
}

void sy_roll_call(sy_roll *roll, double seconds, char *text, size_t size) {
    int me = sy_comm_rank(roll->comm);
    roll->all[me] = roll->mine;
    roll->answered[me] = true;
    tell_all(roll);
    hear_all(roll, seconds);
    look_up_silent(roll);
    if (!describe_parting(roll, text, size)) describe(roll, text, size);
}
