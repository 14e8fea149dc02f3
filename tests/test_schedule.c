/* Who steps when, on which rank, and that the record of a step reaches every rank.
 * ranks: 1 3
 * timeout: 60 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/kv.h"
#include "runtime/schedule.h"
#include "tests/model_fixture.h"

static sy_comm *comm;

enum { MAX_REQUESTS = 40, MAX_SLOTS = 16, MAX_PROMPT = 400, MAX_IDS = 8192 };

/* A schedule with all that the tests want to know about it. */
typedef struct plan {
    sy_schedule_shape shape;
    sy_schedule *schedule;
    sy_step_record *record;
    int32_t ids[MAX_REQUESTS][MAX_PROMPT];
    sy_request request[MAX_REQUESTS];
    int n;
    /* What a rank would keep, built from the records alone. */
    int64_t position[MAX_SLOTS], n_prompt[MAX_SLOTS], pages[MAX_SLOTS];
    int request_of[MAX_SLOTS];
    int64_t generated[MAX_REQUESTS];
    int admitted; /* requests so far, in order */
} plan;

static void add(plan *p, int64_t n_prompt, int64_t max_tokens) {
    int i = p->n++;
    for (int64_t t = 0; t < n_prompt; t++)
        p->ids[i][t] = (int32_t)(1000 * i + t);
    p->request[i] = (sy_request){.prompt = p->ids[i],
                                 .n_prompt = n_prompt,
                                 .max_tokens = max_tokens,
                                 .sampling = {.seed = (uint64_t)i}};
}

static void begin(plan *p, int n_ranks, int per_rank, int64_t chunk, int64_t pages) {
    p->shape = (sy_schedule_shape){.n_ranks = n_ranks,
                                   .per_rank = per_rank,
                                   .chunk = chunk,
                                   .pages_per_rank = pages,
                                   .max_prompt_ids = MAX_IDS};
    MUST(sy_schedule_create(&p->shape, p->request, p->n, &p->schedule));
    MUST(sy_record_create(n_ranks * per_rank, MAX_IDS, &p->record));
    for (int s = 0; s < MAX_SLOTS; s++)
        p->request_of[s] = -1;
}

static void end(plan *p) {
    sy_schedule_destroy(p->schedule);
    sy_record_destroy(p->record);
}

static void check_admits(plan *p) {
    const int32_t *ids = p->record->prompt_ids;
    for (int i = 0; i < p->record->n_admit; i++) {
        const sy_step_admit *a = &p->record->admit[i];
        const sy_request *q = &p->request[p->admitted];
        assert_in_range(a->slot, 0, p->shape.n_ranks * p->shape.per_rank - 1);
        assert_int_equal(p->request_of[a->slot], -1); /* the slot is free */
        assert_int_equal(a->n_prompt, q->n_prompt);   /* first come, first served */
        assert_int_equal(a->n_total, q->n_prompt + q->max_tokens);
        assert_int_equal(a->sampling.seed, q->sampling.seed);
        assert_memory_equal(ids, q->prompt, (size_t)q->n_prompt * sizeof *ids);
        ids += a->n_prompt;
        p->request_of[a->slot] = p->admitted++;
        p->position[a->slot] = 0;
        p->n_prompt[a->slot] = a->n_prompt;
        p->pages[a->slot] = sy_kv_pages(a->n_total);
        assert_int_equal(sy_schedule_request(p->schedule, a->slot), p->request_of[a->slot]);
    }
    assert_int_equal(ids - p->record->prompt_ids, p->record->n_prompt_ids);
}

static void check_pages(const plan *p) {
    for (int r = 0; r < p->shape.n_ranks; r++) {
        int64_t used = 0;
        for (int s = r * p->shape.per_rank; s < (r + 1) * p->shape.per_rank; s++)
            if (p->request_of[s] >= 0) used += p->pages[s];
        assert_true(used <= p->shape.pages_per_rank);
    }
}

/* Rows of a rank stay within the chunk; while there is prefill work, every decoding sequence of
 * that rank steps too. */
static void check_work(plan *p) {
    int64_t rows[MAX_SLOTS] = {0}, prefill = 0;
    bool steps[MAX_SLOTS] = {false}, decoding[MAX_SLOTS];
    for (int s = 0; s < MAX_SLOTS; s++)
        decoding[s] = p->request_of[s] >= 0 && p->position[s] >= p->n_prompt[s];
    for (int i = 0; i < p->record->n_work; i++) {
        const sy_step_work *w = &p->record->work[i];
        if (i > 0) assert_true(p->record->work[i - 1].slot < w->slot);
        assert_true(p->request_of[w->slot] >= 0 && w->n_rows > 0);
        steps[w->slot] = true;
        rows[w->slot / p->shape.per_rank] += w->n_rows;
        if (decoding[w->slot]) {
            assert_int_equal(w->n_rows, 1);
        } else {
            prefill += w->n_rows;
            assert_true(p->position[w->slot] + w->n_rows <= p->n_prompt[w->slot]);
        }
        p->position[w->slot] += w->n_rows;
        assert_int_equal(w->output, p->position[w->slot] >= p->n_prompt[w->slot]);
    }
    assert_int_equal(sy_schedule_prefill_rows(p->schedule), prefill);
    for (int s = 0; s < p->shape.n_ranks * p->shape.per_rank; s++)
        if (decoding[s]) assert_true(steps[s]);
    for (int r = 0; r < p->shape.n_ranks; r++) {
        int64_t waiting = 0;
        assert_true(rows[r] <= p->shape.chunk);
        for (int s = r * p->shape.per_rank; s < (r + 1) * p->shape.per_rank; s++)
            if (p->request_of[s] >= 0 && p->position[s] < p->n_prompt[s]) waiting++;
        if (waiting > 0) assert_int_equal(rows[r], p->shape.chunk); /* none idles */
    }
}

/* One step: the record, its checks, and a token for each output. False: no more steps. */
static bool step(plan *p) {
    sy_schedule_next(p->schedule, p->record);
    for (int i = 0; i < p->record->n_retire; i++) {
        int s = p->record->retire[i], request = p->request_of[s];
        assert_true(request >= 0);
        assert_int_equal(p->generated[request], p->request[request].max_tokens);
        p->request_of[s] = -1;
    }
    check_admits(p);
    check_pages(p);
    check_work(p);
    if (p->record->stop) return false;
    assert_true(p->record->n_work > 0);
    for (int i = 0; i < p->record->n_work; i++) {
        const sy_step_work *w = &p->record->work[i];
        if (!w->output) continue;
        int request = p->request_of[w->slot];
        p->generated[request]++;
        sy_schedule_token(p->schedule, w->slot,
                          p->generated[request] >= p->request[request].max_tokens);
    }
    return true;
}

static void run_to_end(plan *p) {
    int steps = 0;
    while (step(p))
        assert_true(++steps < 10000);
    assert_int_equal(p->admitted, p->n);
    for (int i = 0; i < p->n; i++)
        assert_int_equal(p->generated[i], p->request[i].max_tokens);
    for (int s = 0; s < MAX_SLOTS; s++)
        assert_int_equal(p->request_of[s], -1);
    /* Once stopped it stays so, and holds nothing back. */
    sy_schedule_next(p->schedule, p->record);
    assert_true(p->record->stop && p->record->n_work == 0 && p->record->n_retire == 0);
}

static void many_requests_over_few_slots_all_end(void **state) {
    (void)state;
    for (int ranks = 1; ranks <= 4; ranks++) {
        for (int per_rank = 1; per_rank <= 4; per_rank++) {
            for (int64_t chunk = per_rank; chunk <= 200; chunk = 3 * chunk + 1) {
                static plan p;
                memset(&p, 0, sizeof p);
                for (int i = 0; i < MAX_REQUESTS; i++)
                    add(&p, 1 + i * 37 % 190, 1 + i * 7 % 11);
                begin(&p, ranks, per_rank, chunk, 4); /* less than a worst case per slot */
                run_to_end(&p);
                end(&p);
            }
        }
    }
}

static void no_requests_stop_at_once(void **state) {
    (void)state;
    static plan p;
    begin(&p, 2, 2, 4, 4);
    assert_false(step(&p));
    end(&p);
}

static void decode_goes_before_prefill_and_the_oldest_prefill_first(void **state) {
    (void)state;
    static plan p;
    add(&p, 1, 9);  /* decodes from step 1 on */
    add(&p, 20, 2); /* takes the other 8 rows of a step until it is done */
    add(&p, 5, 2);
    begin(&p, 1, 3, 9, 8);
    assert_true(step(&p));
    assert_int_equal(p.record->n_work, 2);
    assert_int_equal(p.record->work[0].n_rows, 1);
    assert_int_equal(p.record->work[1].n_rows, 8);
    assert_true(step(&p));
    assert_int_equal(p.record->n_work, 2);
    assert_int_equal(p.record->work[1].n_rows, 8);
    assert_true(step(&p)); /* the last 4 rows of the second, then 4 of the third */
    assert_int_equal(p.record->n_work, 3);
    assert_int_equal(p.record->work[0].n_rows, 1);
    assert_int_equal(p.record->work[1].n_rows, 4);
    assert_true(p.record->work[1].output);
    assert_int_equal(p.record->work[2].n_rows, 4);
    assert_false(p.record->work[2].output);
    run_to_end(&p);
    end(&p);
}

static void requests_spread_over_the_ranks_with_most_free_pages(void **state) {
    (void)state;
    static plan p;
    for (int i = 0; i < 3; i++)
        add(&p, 10, 2);
    begin(&p, 3, 2, 4, 8);
    assert_true(step(&p));
    assert_int_equal(p.record->n_admit, 3);
    bool used[3] = {false};
    for (int i = 0; i < 3; i++)
        used[p.record->admit[i].slot / 2] = true;
    assert_true(used[0] && used[1] && used[2]);
    run_to_end(&p);
    end(&p);
}

static void a_request_waits_until_pages_are_given_back(void **state) {
    (void)state;
    static plan p;
    add(&p, 64, 64);  /* 2 pages */
    add(&p, 100, 28); /* 2 pages */
    add(&p, 1, 1);    /* 1 page, and does not overtake */
    begin(&p, 1, 3, 128, 3);
    assert_true(step(&p));
    assert_int_equal(p.record->n_admit, 1);
    for (int i = 1; i < 64; i++) {
        assert_true(step(&p));
        assert_int_equal(p.record->n_admit, 0);
    }
    assert_true(step(&p)); /* the first is retired, both others come in */
    assert_int_equal(p.record->n_retire, 1);
    assert_int_equal(p.record->n_admit, 2);
    run_to_end(&p);
    end(&p);
}

static void a_request_that_can_never_fit_is_refused_at_create(void **state) {
    (void)state;
    static const struct {
        int64_t n_prompt, max_tokens;
    } wrong[] = {{0, 5}, {5, 0}, {129, 64}, {1, 200}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        static plan p;
        memset(&p, 0, sizeof p);
        add(&p, wrong[i].n_prompt, wrong[i].max_tokens);
        sy_schedule_shape shape = {1, 1, 8, 3, MAX_IDS};
        assert_int_equal(sy_schedule_create(&shape, p.request, 1, &p.schedule),
                         SY_ERR_INTERNAL);
        assert_null(p.schedule);
    }
    static plan p;
    add(&p, 100, 5);
    sy_schedule_shape shape = {1, 1, 8, 3, 99};
    assert_int_equal(sy_schedule_create(&shape, p.request, 1, &p.schedule), SY_ERR_INTERNAL);
}

static void admits_wait_where_a_record_cannot_carry_their_prompts(void **state) {
    (void)state;
    static plan p;
    for (int i = 0; i < 4; i++)
        add(&p, 100, 3);
    begin(&p, 2, 2, 100, 8);
    p.shape.max_prompt_ids = 250;
    sy_schedule_destroy(p.schedule);
    MUST(sy_schedule_create(&p.shape, p.request, p.n, &p.schedule));
    assert_true(step(&p));
    assert_int_equal(p.record->n_admit, 2);
    assert_true(step(&p));
    assert_int_equal(p.record->n_admit, 2);
    run_to_end(&p);
    end(&p);
}

/* ---- the record on all ranks ---- */

static uint64_t record_hash(const sy_step_record *r) {
    uint64_t hash = sy_hash_add(r->step, r->stop);
    hash = sy_hash_bytes(hash, r->retire, (size_t)r->n_retire * sizeof *r->retire);
    hash = sy_hash_bytes(hash, r->admit, (size_t)r->n_admit * sizeof *r->admit);
    hash = sy_hash_bytes(hash, r->work, (size_t)r->n_work * sizeof *r->work);
    return sy_hash_bytes(hash, r->prompt_ids, (size_t)r->n_prompt_ids * sizeof *r->prompt_ids);
}

/* Rank 0's records of a whole run; every rank must find in each what its own copy of the same
 * schedule says. */
static void compare_records(plan *p) {
    sy_step_record *received;
    uint64_t steps = 0;
    bool root = sy_comm_rank(comm) == 0;
    MUST(sy_record_create(p->shape.n_ranks * p->shape.per_rank, MAX_IDS, &received));
    for (bool more = true; more; steps++) {
        more = step(p);
        sy_step_record *r = root ? p->record : received;
        MUST(sy_record_broadcast(comm, r));
        assert_int_equal(r->step, steps);
        assert_int_equal(r->stop, !more);
        assert_int_equal(r->hash, p->record->hash);
        assert_int_equal(record_hash(r), r->hash);
        assert_int_equal(r->n_retire, p->record->n_retire);
        assert_int_equal(r->n_admit, p->record->n_admit);
        assert_int_equal(r->n_work, p->record->n_work);
        assert_int_equal(r->n_prompt_ids, p->record->n_prompt_ids);
    }
    sy_record_destroy(received);
}

static void a_record_reaches_all_ranks_whatever_its_size(void **state) {
    (void)state;
    static plan p;
    /* A small record; prompts around one first message of 1024 bytes; and far beyond it. */
    add(&p, 3, 2);
    for (int64_t n = 180; n < 260; n += 4)
        add(&p, n, 1);
    for (int i = 0; i < 8; i++)
        add(&p, 390, 2);
    begin(&p, 1, 1, 400, 8);
    compare_records(&p);
    end(&p);

    memset(&p, 0, sizeof p);
    for (int i = 0; i < 16; i++)
        add(&p, 300, 3);
    begin(&p, 4, 4, 64, 24); /* all admitted with one record of 19 kB */
    compare_records(&p);
    end(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_requests_over_few_slots_all_end),
        cmocka_unit_test(no_requests_stop_at_once),
        cmocka_unit_test(decode_goes_before_prefill_and_the_oldest_prefill_first),
        cmocka_unit_test(requests_spread_over_the_ranks_with_most_free_pages),
        cmocka_unit_test(a_request_waits_until_pages_are_given_back),
        cmocka_unit_test(a_request_that_can_never_fit_is_refused_at_create),
        cmocka_unit_test(admits_wait_where_a_record_cannot_carry_their_prompts),
        cmocka_unit_test(a_record_reaches_all_ranks_whatever_its_size),
    };
    MUST(sy_comm_create(&(sy_comm_options){.threads_per_rank = 1}, &comm));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed != 0) sy_comm_abort(comm, 1);
    sy_comm_destroy(comm);
    return 0;
}
