#include "runtime/stepper.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/log.h"
#include "kernels/device.h"

/* Rows of the recorded steps. */
static const int64_t bucket_rows[] = {1, 2, 4, 8, 16, 24, 32, 48, SY_STEP_MOST_RECORDED};
enum { MOST_BUCKETS = sizeof bucket_rows / sizeof *bucket_rows };
/* Seconds that a recorded exchange may take to prove itself. */
#define PROBE_DEADLINE 10.0

struct sy_stepper {
    sy_runner *runner;
    sy_comm *comm;
    sy_stepper_options options;
    int n_buckets; /* recorded */
    sy_recording *recording[MOST_BUCKETS];
    uint64_t *device_load; /* [L, stride]: rows of each slot, then how many slots had rows */
    int64_t stride;
    uint64_t *host_load; /* a copy */
    sy_stepper_stats stats;
};

static int count_buckets(int64_t max_rows) {
    int n = 0;
    while (n < MOST_BUCKETS && bucket_rows[n] <= max_rows)
        n++;
    return n;
}

int64_t sy_stepper_capacity(const sy_backend *be, int64_t max_rows, bool record) {
    int n = count_buckets(max_rows);
    return be->ops->device == NULL || !record || n == 0 ? 0 : bucket_rows[n - 1];
}

static int64_t outputs_of(const sy_stepper *s, int64_t rows) {
    return sy_min(rows, s->options.max_outputs);
}

/* A step of a bucket's size none of whose rows is there. */
static sy_status begin_empty(sy_stepper *s, int64_t rows, sy_step *step) {
    sy_status st = SY_OK;
    sy_runner *r = s->runner;
    *step = (sy_step){.batch = {.n_rows = 0}};
    SY_TRY(sy_exchange_set_capacity(r->exchange, rows));
    SY_TRY(r->be->ops->device->begin_step(r->be, &step->batch, rows, 0, outputs_of(s, rows),
                                          NULL, r->stream));
    step->batch.n_rows = (int)rows;
    step->n_outputs = outputs_of(s, rows);
done:
    return st;
}

static sy_status record_bucket(sy_stepper *s, int i) {
    sy_status st = SY_OK;
    sy_runner *r = s->runner;
    const sy_device_ops *device = r->be->ops->device;
    sy_step step;
    sy_error_text first;
    SY_TRY(begin_empty(s, bucket_rows[i], &step));
    SY_TRY(device->record_begin(r->be));
    st = sy_forward(r, &step);
    if (st != SY_OK) sy_status_save(&first);
    sy_status ended = device->record_end(r->be, &s->recording[i]);
    if (st != SY_OK) sy_status_restore(&first); /* the end may have failed in consequence */
    if (st == SY_OK) st = ended;
done:
    return st;
}

/* The same launch by launch: kernels are loaded, and NCCL connects for these sizes, here and not
 * within a recording. */
static sy_status run_empty(sy_stepper *s, int i) {
    sy_status st = SY_OK;
    sy_step step;
    SY_TRY(begin_empty(s, bucket_rows[i], &step));
    SY_TRY(sy_forward(s->runner, &step));
    SY_TRY(sy_exchange_synchronize(s->runner->exchange));
done:
    return st;
}

static sy_status create_load(sy_stepper *s) {
    sy_status st = SY_OK;
    sy_runner *r = s->runner;
    uint64_t n = (uint64_t)r->spec->n_layers;
    s->stride = r->loads->n_experts + 1; /* a rank has at most E slots */
    s->host_load = calloc((size_t)(n * (uint64_t)s->stride), sizeof *s->host_load);
    if (s->host_load == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for expert loads");
    SY_TRY(r->be->ops->alloc(r->be, &s->device_load,
                             n * (uint64_t)s->stride * sizeof *s->device_load, "expert loads"));
    r->device_load = s->device_load;
    r->device_load_stride = s->stride;
done:
    return st;
}

static void forget_bucket(sy_stepper *s, int i) {
    sy_backend *be = s->runner->be;
    if (s->recording[i] != NULL) be->ops->device->record_free(be, s->recording[i]);
    s->recording[i] = NULL;
}

static void warn_of_launches(const sy_stepper *s) {
    char which[48] = "";
    if (s->n_buckets > 0)
        snprintf(which, sizeof which, " of more than %d rows",
                 (int)bucket_rows[s->n_buckets - 1]);
    SY_WARN("no memory to record steps%s, which makes them slower: %s", which, sy_last_error());
}

/* Buckets are recorded one by one, smallest first, until a rank has no memory for the next; the
 * last one that fitted is given up too, to leave some for what is loaded later. */
static sy_status record_buckets(sy_stepper *s, int n) {
    sy_status st = SY_OK;
    for (int i = 0; i < n; i++) {
        SY_TRY(sy_comm_agree(s->comm, record_bucket(s, i)));
        sy_status room = s->recording[i] != NULL ? SY_OK : SY_ERR_MEMORY;
        sy_status all = sy_comm_agree(s->comm, room);
        if (all == SY_ERR_MEMORY) {
            forget_bucket(s, i);
            if (i > 0) forget_bucket(s, --s->n_buckets);
            if (sy_comm_rank(s->comm) == 0) warn_of_launches(s);
            return SY_OK;
        }
        SY_TRY(all);
        s->n_buckets = i + 1;
    }
done:
    return st;
}

static sy_status record_all(sy_stepper *s) {
    sy_status st = SY_OK;
    sy_runner *r = s->runner;
    bool captured = true;
    SY_TRY(sy_exchange_probe_capture(r->exchange, PROBE_DEADLINE, &captured));
    SY_TRY(sy_exchange_set_captured(r->exchange, captured));
    if (!captured)
        SY_INFO("NCCL cannot be recorded here: each step is several graphs with NCCL between");
    int n = count_buckets(s->options.max_rows);
    for (int i = 0; i < n; i++)
        SY_TRY(sy_comm_agree(s->comm, run_empty(s, i)));
    SY_TRY(record_buckets(s, n));
    if (s->n_buckets == 0) goto done;
    sy_recording_size size = r->be->ops->device->record_size(s->recording[0]);
    s->stats.nodes_per_step = size.nodes;
    s->stats.graphs_per_step = size.graphs;
done:
    return st;
}

sy_status sy_stepper_create(sy_runner *runner,
                            sy_comm *comm,
                            const sy_stepper_options *options,
                            sy_stepper **out) {
    sy_status st = SY_OK;
    sy_stepper *s = calloc(1, sizeof *s);
    *out = NULL;
    if (s == NULL) {
        st = sy_fail(SY_ERR_MEMORY, "no memory for the steps");
    } else {
        *s = (sy_stepper){.runner = runner, .comm = comm, .options = *options};
        if (runner->be->ops->device != NULL) st = create_load(s);
    }
    SY_TRY(sy_comm_agree(comm, st));
    if (sy_stepper_capacity(runner->be, options->max_rows, options->record) > 0)
        SY_TRY(record_all(s));
    *out = s;
    s = NULL;
done:
    sy_stepper_destroy(s);
    return st;
}

void sy_stepper_destroy(sy_stepper *s) {
    if (s == NULL) return;
    sy_backend *be = s->runner->be;
    for (int i = 0; i < MOST_BUCKETS; i++)
        forget_bucket(s, i);
    be->ops->free(be, s->device_load,
                  (uint64_t)s->runner->spec->n_layers * (uint64_t)s->stride *
                      sizeof *s->device_load);
    s->runner->device_load = NULL;
    free(s->host_load);
    free(s);
}

/* The smallest bucket that holds the step on every rank; a function of what all ranks know, so
 * that all choose alike. -1: none. */
static int find_bucket(const sy_stepper *s, const sy_step *step) {
    if (step->replayed) return -1;
    for (int i = 0; i < s->n_buckets; i++)
        if (step->most_rows <= bucket_rows[i])
            return step->most_outputs <= outputs_of(s, bucket_rows[i]) ? i : -1;
    return -1;
}

/* What the steps themselves check where they see the ids. */
static sy_status check_ids(const sy_stepper *s, const sy_batch *batch) {
    for (int i = 0; i < batch->n_rows; i++)
        if (batch->ids[i] < 0 || batch->ids[i] >= s->runner->spec->vocab)
            return sy_fail(SY_ERR_INTERNAL, "token id %d of a vocabulary of %d", batch->ids[i],
                           s->runner->spec->vocab);
    return SY_OK;
}

static sy_status run_recorded(sy_stepper *s, const sy_step *step, int i) {
    sy_status st = SY_OK;
    sy_runner *r = s->runner;
    const sy_device_ops *device = r->be->ops->device;
    SY_TRY(check_ids(s, &step->batch));
    SY_TRY(device->begin_step(r->be, &step->batch, bucket_rows[i], step->n_outputs,
                              outputs_of(s, bucket_rows[i]), step->output_row, r->stream));
    SY_TRY(device->replay(r->be, s->recording[i]));
    sy_exchange_count_fixed(r->exchange, bucket_rows[i], s->stats.recorded_steps);
    s->stats.recorded_steps++;
done:
    return st;
}

static sy_status run_launches(sy_stepper *s, const sy_step *step) {
    sy_status st = SY_OK;
    sy_runner *r = s->runner;
    const sy_device_ops *device = r->be->ops->device;
    SY_TRY(sy_exchange_set_capacity(r->exchange, 0));
    SY_TRY(device->begin_step(r->be, &step->batch, step->batch.n_rows, step->n_outputs,
                              step->n_outputs, step->output_row, r->stream));
    SY_TRY(sy_forward(r, step));
    s->stats.other_steps++;
done:
    return st;
}

sy_status sy_stepper_run(sy_stepper *s, const sy_step *step) {
    sy_status st = SY_OK;
    sy_runner *r = s->runner;
    if (r->be->ops->device == NULL) return sy_forward(r, step);
    int i = find_bucket(s, step);
    SY_TRY(i >= 0 ? run_recorded(s, step, i) : run_launches(s, step));
    /* The device may wait for the others' tokens until here. */
    sy_progress_wait(r->live);
    SY_TRY(sy_exchange_synchronize(r->exchange));
    sy_progress_resume(r->live);
done:
    return st;
}

sy_status sy_stepper_loads(sy_stepper *s) {
    sy_status st = SY_OK;
    sy_runner *r = s->runner;
    uint64_t n = (uint64_t)r->spec->n_layers * (uint64_t)s->stride;
    if (s->device_load == NULL) return SY_OK;
    SY_TRY(r->be->ops->read(r->be, s->host_load, s->device_load, n * sizeof *s->host_load,
                            r->stream));
    for (int l = 0; l < r->spec->n_layers; l++)
        if (r->spec->layer[l].ffn.kind == SY_FFN_MOE)
            sy_loads_add(r->loads, l, s->host_load + (uint64_t)l * (uint64_t)s->stride);
    for (uint64_t i = 0; i < n; i++)
        s->host_load[i] = 0;
    SY_TRY(r->be->ops->write(r->be, s->device_load, s->host_load, n * sizeof *s->host_load,
                             r->stream));
done:
    return st;
}

void sy_stepper_get_stats(const sy_stepper *s, sy_stepper_stats *out) {
    *out = s->stats;
}
