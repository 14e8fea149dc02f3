#include "runtime/schedule.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/hash.h"
#include "runtime/kv.h"

/* One slot of one rank as rank 0 sees it. */
typedef struct slot_state {
    int request;                /* -1: free */
    int64_t n_prompt, position; /* rows that have been scheduled so far */
    int64_t pages;
    bool finished;     /* to be retired with the next record */
    uint64_t admitted; /* order of admission, for fairness of prefill */
} slot_state;

struct sy_schedule {
    sy_schedule_shape shape;
    const sy_request *request;
    int n_requests, next_request, n_running;
    slot_state *slot;    /* [n_ranks * per_rank] */
    int64_t *free_pages; /* [n_ranks] */
    uint64_t n_admitted, step;
    int64_t prefill_rows;
};

/* The start of a record travels in one message of this size; the rest, if any, in a second. */
enum { FIRST_MESSAGE = 1024 };

typedef struct record_header {
    uint64_t step, hash;
    int64_t n_prompt_ids;
    int32_t stop, n_retire, n_admit, n_work;
} record_header;

sy_status sy_record_create(int n_slots, int64_t max_prompt_ids, sy_step_record **out) {
    sy_status st = SY_OK;
    sy_step_record *p = calloc(1, sizeof *p);
    *out = NULL;
    if (p == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the step record");
    p->retire = calloc((size_t)n_slots, sizeof *p->retire);
    p->admit = calloc((size_t)n_slots, sizeof *p->admit);
    p->work = calloc((size_t)n_slots, sizeof *p->work);
    p->prompt_ids = calloc((size_t)max_prompt_ids + 1, sizeof *p->prompt_ids);
    if (p->retire == NULL || p->admit == NULL || p->work == NULL || p->prompt_ids == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for the step record");
    *out = p;
    p = NULL;
done:
    sy_record_destroy(p);
    return st;
}

void sy_record_destroy(sy_step_record *p) {
    if (p == NULL) return;
    free(p->retire);
    free(p->admit);
    free(p->work);
    free(p->prompt_ids);
    free(p);
}

/* The pieces of a record in the order in which they travel. */
typedef struct record_piece {
    void *data;
    size_t bytes;
} record_piece;

enum { N_PIECES = 4 };

static void record_pieces(const sy_step_record *p, record_piece piece[N_PIECES]) {
    piece[0] = (record_piece){p->retire, (size_t)p->n_retire * sizeof *p->retire};
    piece[1] = (record_piece){p->admit, (size_t)p->n_admit * sizeof *p->admit};
    piece[2] = (record_piece){p->work, (size_t)p->n_work * sizeof *p->work};
    piece[3] = (record_piece){p->prompt_ids, (size_t)p->n_prompt_ids * sizeof *p->prompt_ids};
}

static size_t record_bytes(const sy_step_record *p) {
    record_piece piece[N_PIECES];
    size_t bytes = 0;
    record_pieces(p, piece);
    for (int i = 0; i < N_PIECES; i++)
        bytes += piece[i].bytes;
    return bytes;
}

static void seal(sy_step_record *p) {
    record_piece piece[N_PIECES];
    record_pieces(p, piece);
    uint64_t hash = sy_hash_add(p->step, p->stop);
    for (int i = 0; i < N_PIECES; i++)
        hash = sy_hash_bytes(hash, piece[i].data, piece[i].bytes);
    p->hash = hash;
}

sy_status sy_record_broadcast(sy_comm *comm, sy_step_record *p) {
    sy_status st = SY_OK;
    bool root = sy_comm_rank(comm) == 0;
    char first[FIRST_MESSAGE];
    record_header h = {p->step,     p->hash,    p->n_prompt_ids, p->stop,
                       p->n_retire, p->n_admit, p->n_work};
    bool fits = record_bytes(p) <= sizeof first - sizeof h;
    record_piece piece[N_PIECES];
    memset(first, 0, sizeof first);
    if (root) {
        memcpy(first, &h, sizeof h);
        record_pieces(p, piece);
        size_t at = sizeof h;
        for (int i = 0; fits && i < N_PIECES; i++) {
            memcpy(first + at, piece[i].data, piece[i].bytes);
            at += piece[i].bytes;
        }
    }
    SY_TRY(sy_comm_broadcast(comm, first, sizeof first, 0));
    if (!root) {
        memcpy(&h, first, sizeof h);
        p->step = h.step;
        p->hash = h.hash;
        p->n_prompt_ids = h.n_prompt_ids;
        p->stop = h.stop != 0;
        p->n_retire = h.n_retire;
        p->n_admit = h.n_admit;
        p->n_work = h.n_work;
        fits = record_bytes(p) <= sizeof first - sizeof h;
    }
    record_pieces(p, piece);
    size_t at = sizeof h;
    for (int i = 0; i < N_PIECES; i++) {
        if (piece[i].bytes == 0) continue;
        if (!fits)
            SY_TRY(sy_comm_broadcast(comm, piece[i].data, piece[i].bytes, 0));
        else if (!root)
            memcpy(piece[i].data, first + at, piece[i].bytes);
        at += piece[i].bytes;
    }
done:
    return st;
}

sy_status sy_schedule_create(const sy_schedule_shape *shape,
                             const sy_request *requests,
                             int n_requests,
                             sy_schedule **out) {
    sy_status st = SY_OK;
    int n_slots = shape->n_ranks * shape->per_rank;
    sy_schedule *s = calloc(1, sizeof *s);
    *out = NULL;
    if (s == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the schedule");
    *s = (sy_schedule){.shape = *shape, .request = requests, .n_requests = n_requests};
    s->slot = calloc((size_t)n_slots, sizeof *s->slot);
    s->free_pages = calloc((size_t)shape->n_ranks, sizeof *s->free_pages);
    if (s->slot == NULL || s->free_pages == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for the schedule");
    for (int i = 0; i < n_slots; i++)
        s->slot[i].request = -1;
    for (int r = 0; r < shape->n_ranks; r++)
        s->free_pages[r] = shape->pages_per_rank;
    for (int i = 0; i < n_requests; i++) {
        int64_t total = requests[i].n_prompt + requests[i].max_tokens;
        if (requests[i].n_prompt < 1 || requests[i].max_tokens < 1 ||
            sy_kv_pages(total) > shape->pages_per_rank ||
            requests[i].n_prompt > shape->max_prompt_ids)
            SY_FAIL(SY_ERR_INTERNAL, "request %d does not fit the engine: %lld + %lld tokens",
                    i, (long long)requests[i].n_prompt, (long long)requests[i].max_tokens);
    }
    *out = s;
    s = NULL;
done:
    sy_schedule_destroy(s);
    return st;
}

void sy_schedule_destroy(sy_schedule *s) {
    if (s == NULL) return;
    free(s->slot);
    free(s->free_pages);
    free(s);
}

static int rank_of(const sy_schedule *s, int slot) {
    return slot / s->shape.per_rank;
}

static void retire_finished(sy_schedule *s, sy_step_record *plan) {
    for (int i = 0; i < s->shape.n_ranks * s->shape.per_rank; i++) {
        slot_state *slot = &s->slot[i];
        if (slot->request < 0 || !slot->finished) continue;
        plan->retire[plan->n_retire++] = i;
        s->free_pages[rank_of(s, i)] += slot->pages;
        *slot = (slot_state){.request = -1};
        s->n_running--;
    }
}

/* A free slot of the rank with most free pages that has `pages` of them, or -1. */
static int find_slot(const sy_schedule *s, int64_t pages) {
    int best = -1;
    for (int i = 0; i < s->shape.n_ranks * s->shape.per_rank; i++) {
        int r = rank_of(s, i);
        if (s->slot[i].request >= 0 || s->free_pages[r] < pages) continue;
        if (best < 0 || s->free_pages[r] > s->free_pages[rank_of(s, best)]) best = i;
    }
    return best;
}

static void admit_waiting(sy_schedule *s, sy_step_record *plan) {
    while (s->next_request < s->n_requests) {
        const sy_request *q = &s->request[s->next_request];
        int64_t total = q->n_prompt + q->max_tokens, pages = sy_kv_pages(total);
        int at = find_slot(s, pages);
        if (at < 0 || plan->n_prompt_ids + q->n_prompt > s->shape.max_prompt_ids) return;
        s->slot[at] = (slot_state){.request = s->next_request,
                                   .n_prompt = q->n_prompt,
                                   .pages = pages,
                                   .admitted = s->n_admitted++};
        s->free_pages[rank_of(s, at)] -= pages;
        plan->admit[plan->n_admit++] = (sy_step_admit){
            .slot = at, .n_prompt = q->n_prompt, .n_total = total, .sampling = q->sampling};
        memcpy(plan->prompt_ids + plan->n_prompt_ids, q->prompt,
               (size_t)q->n_prompt * sizeof *q->prompt);
        plan->n_prompt_ids += q->n_prompt;
        s->next_request++;
        s->n_running++;
    }
}

static void add_work(sy_schedule *s, sy_step_record *plan, int slot, int64_t n_rows) {
    slot_state *state = &s->slot[slot];
    state->position += n_rows;
    plan->work[plan->n_work++] =
        (sy_step_work){slot, (int32_t)n_rows, state->position >= state->n_prompt};
}

static int by_slot(const void *a, const void *b) {
    const sy_step_work *x = a, *y = b;
    return x->slot < y->slot ? -1 : x->slot > y->slot;
}

/* The work of one rank: decoding sequences, then prefill, oldest first. */
static void plan_rank(sy_schedule *s, sy_step_record *plan, int rank) {
    int first = rank * s->shape.per_rank, end = first + s->shape.per_rank;
    int64_t room = s->shape.chunk;
    for (int i = first; i < end && room > 0; i++) {
        slot_state *slot = &s->slot[i];
        if (slot->request < 0 || slot->position < slot->n_prompt) continue;
        add_work(s, plan, i, 1);
        room--;
    }
    uint64_t after = 0; /* admissions below this have been looked at */
    while (room > 0) {
        int oldest = -1;
        for (int i = first; i < end; i++) {
            const slot_state *slot = &s->slot[i];
            if (slot->request < 0 || slot->position >= slot->n_prompt || slot->admitted < after)
                continue;
            if (oldest < 0 || slot->admitted < s->slot[oldest].admitted) oldest = i;
        }
        if (oldest < 0) return;
        slot_state *slot = &s->slot[oldest];
        after = slot->admitted + 1;
        int64_t rows = sy_min(room, slot->n_prompt - slot->position);
        s->prefill_rows += rows;
        room -= rows;
        add_work(s, plan, oldest, rows);
    }
}

void sy_schedule_next(sy_schedule *s, sy_step_record *plan) {
    plan->n_retire = plan->n_admit = plan->n_work = 0;
    plan->n_prompt_ids = 0;
    plan->step = s->step++;
    s->prefill_rows = 0;
    retire_finished(s, plan);
    admit_waiting(s, plan);
    for (int r = 0; r < s->shape.n_ranks; r++)
        plan_rank(s, plan, r);
    qsort(plan->work, (size_t)plan->n_work, sizeof *plan->work, by_slot);
    plan->stop = s->n_running == 0;
    seal(plan);
}

int sy_schedule_request(const sy_schedule *s, int slot) {
    return s->slot[slot].request;
}

void sy_schedule_token(sy_schedule *s, int slot, bool finished) {
    s->slot[slot].finished = finished;
}

int64_t sy_schedule_prefill_rows(const sy_schedule *s) {
    return s->prefill_rows;
}
