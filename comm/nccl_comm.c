#include "comm/nccl_comm.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "comm/mpi_wait.h"
#include "comm/nccl_api.h"
#include "comm/nccl_log.h"
#include "comm/roll_call.h"
#include "kernels/device.h"

/* Events behind the last calls, to know how many of them the device has done. */
enum { EVENTS = 256 };
/* Returns of a lost proxy slot hang earlier builds on Arm (NVIDIA/nccl#2353). */
enum { ARM_HANG_FIXED = 22903 };
/* Seconds for the others to say where they are, and for an orderly end. */
static const double roll_seconds = 2.0, end_seconds = 2.0;
/* Seconds for a device whose steps hang to tell how far it has come. */
static const double look_seconds = 0.5;

typedef struct nccl_wire {
    sy_device_wire base;
    sy_nccl_api api;
    sy_nccl_log log;
    bool log_open; /* what it says is still to be told */
    sy_comm *comm;
    sy_backend *be;
    sy_roll *roll;
    ncclComm_t nccl; /* NULL: not yet, or aborted */
    cudaStream_t stream;
    double deadline;
    cudaEvent_t event[EVENTS];
    int64_t event_call[EVENTS]; /* the call that it stands behind; 0: none */
    int64_t n_events;
    int64_t done; /* calls known to be done */
    cudaStream_t side_stream;
    uint64_t *passed; /* pinned: a copy of base.passed */
} nccl_wire;

static nccl_wire *of(sy_device_wire *wire) {
    return (nccl_wire *)(void *)wire; /* base is its first member */
}

static int64_t made(const nccl_wire *w) {
    return w->base.calls + w->base.steps;
}

/* Counts what the device has done by the events, newest first. */
static void look_at_device(nccl_wire *w) {
    for (int64_t i = w->n_events; i > 0 && i > w->n_events - EVENTS; i--) {
        int at = (int)((i - 1) % EVENTS);
        if (w->event_call[at] <= w->done) break;
        if (cudaEventQuery(w->event[at]) != cudaSuccess) continue;
        w->done = w->event_call[at];
        break;
    }
    (void)cudaGetLastError(); /* "not ready" is no error to keep */
}

/* How far the device is in recorded steps, whose calls have no events. By a stream of its own:
 * that of the steps stands still. A device that does not even answer this has come nowhere. */
static int64_t look_into_steps(nccl_wire *w) {
    int64_t until = sy_now_ns() + (int64_t)(look_seconds * 1e9);
    if (w->base.passed == NULL || w->passed == NULL) return 0;
    if (cudaMemcpyAsync(w->passed, w->base.passed, sizeof *w->passed, cudaMemcpyDeviceToHost,
                        w->side_stream) != cudaSuccess)
        return 0;
    while (cudaStreamQuery(w->side_stream) == cudaErrorNotReady) {
        if (sy_now_ns() > until) {
            w->passed =
                NULL; /* the copy may still come: the page is left to the process's end */
            return 0;
        }
        sy_sleep_ns(100000);
    }
    return (int64_t)*w->passed;
}

static void show(nccl_wire *w) {
    sy_roll_show(w->roll, made(w), w->done);
}

static sy_status nccl_status(const nccl_wire *w, ncclResult_t result, const char *what) {
    if (result == ncclSuccess || result == ncclInProgress) return SY_OK;
    const char *more = w->nccl == NULL ? "" : w->api.get_last_error(w->nccl);
    return sy_fail(SY_ERR_COMM, "NCCL %s: %s%s%s", what, w->api.get_error_string(result),
                   more == NULL || more[0] == '\0' ? "" : "; ", more == NULL ? "" : more);
}

static void abort_nccl(nccl_wire *w) {
    if (w->nccl != NULL) (void)w->api.comm_abort(w->nccl);
    w->nccl = NULL;
}

/* A clock that stands still while this process does (Ctrl-Z, a suspended machine). */
typedef struct patient_clock {
    int64_t last_ns, waited_ns;
} patient_clock;

static double advance_clock(patient_clock *c) {
    int64_t now = sy_now_ns();
    if (c->last_ns != 0) c->waited_ns += sy_min(now - c->last_ns, 250000000);
    c->last_ns = now;
    return (double)c->waited_ns * 1e-9;
}

typedef enum outcome { DONE, NOT_YET, FAILED } outcome;

/* Polls until done; ends early if NCCL fails, another rank gives up or time is over. `why` is set
 * to what happened then. */
static bool poll_until(nccl_wire *w,
                       outcome (*look)(nccl_wire *),
                       double deadline,
                       char *why,
                       size_t size) {
    patient_clock clock = {0};
    sy_patience patience = {0};
    for (;;) {
        outcome seen = look(w);
        ncclResult_t error = ncclSuccess;
        if (seen == DONE) return true;
        if (seen == FAILED) {
            snprintf(why, size, "%s", sy_last_error());
            return false;
        }
        int64_t ns = sy_patience_next(&patience, sy_comm_may_spin(w->comm));
        if (ns == 0) continue;
        if (w->api.comm_get_async_error(w->nccl, &error) == ncclSuccess &&
            nccl_status(w, error, "reports") != SY_OK) {
            snprintf(why, size, "%s", sy_last_error());
            return false;
        }
        if (sy_roll_called(w->roll)) {
            snprintf(why, size, "another rank has given up waiting");
            return false;
        }
        if (advance_clock(&clock) > deadline) {
            snprintf(why, size, "the other ranks' rows have not come for %.3g s", deadline);
            return false;
        }
        sy_sleep_ns(ns);
    }
}

/* The end of a wait in vain: who is behind, and nothing under way any more. */
static sy_status give_up(nccl_wire *w, const char *why, bool quiet) {
    char who[384];
    look_at_device(w);
    show(w);
    if (quiet) {
        abort_nccl(w);
        return sy_fail(SY_ERR_PEER, "%s", why);
    }
    sy_roll_show_passed(w->roll, look_into_steps(w));
    sy_roll_call(w->roll, roll_seconds, who, sizeof who);
    abort_nccl(w);
    return sy_fail(SY_ERR_PEER, "%s: %s", why, who);
}

static outcome look_at_stream(nccl_wire *w) {
    return cudaStreamQuery(w->stream) == cudaErrorNotReady ? NOT_YET : DONE;
}

static sy_status nccl_wait(sy_device_wire *wire, double deadline, bool quiet) {
    sy_status st = SY_OK;
    nccl_wire *w = of(wire);
    char why[512];
    if (w->nccl == NULL) SY_FAIL(SY_ERR_COMM, "NCCL has been aborted");
    show(w);
    if (!poll_until(w, look_at_stream, deadline, why, sizeof why))
        return give_up(w, why, quiet);
    SY_TRY(w->be->ops->device->synchronize(w->be, NULL)); /* the device's own faults */
    w->done = made(w);
    show(w);
    if (w->log_open) sy_nccl_log_report(&w->log);
    w->log_open = false;
done:
    return st;
}

static outcome look_at_nccl(nccl_wire *w) {
    ncclResult_t state = ncclSuccess;
    ncclResult_t result = w->api.comm_get_async_error(w->nccl, &state);
    if (result == ncclSuccess) result = state;
    if (result == ncclInProgress) return NOT_YET;
    return nccl_status(w, result, "failed") == SY_OK ? DONE : FAILED;
}

/* Waits for a call that NCCL goes on with in a thread of its own. */
static sy_status settle(nccl_wire *w, ncclResult_t result, const char *what) {
    sy_status st = SY_OK;
    char why[512];
    SY_TRY(nccl_status(w, result, what));
    if (result != ncclInProgress) return SY_OK;
    if (!poll_until(w, look_at_nccl, w->deadline, why, sizeof why)) {
        st = give_up(w, why, false);
        sy_status_context("%s", what);
    }
done:
    return st;
}

/* A mark behind the call; none in a capture, whose calls run later and more than once. */
static sy_status count_call(nccl_wire *w) {
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    int at = (int)(w->n_events % EVENTS);
    w->base.calls++;
    if (cudaStreamIsCapturing(w->stream, &capture) != cudaSuccess ||
        capture != cudaStreamCaptureStatusNone)
        return SY_OK;
    cudaError_t error = cudaEventRecord(w->event[at], w->stream);
    if (error != cudaSuccess)
        return sy_fail(SY_ERR_DEVICE, "an event behind NCCL: %s", cudaGetErrorString(error));
    w->event_call[at] = made(w);
    w->n_events++;
    return SY_OK;
}

/* What the roll call compares if ranks wait in vain. */
static void note_exchange(nccl_wire *w, int n, const sy_device_wire_part *part) {
    for (int r = 0; r < sy_comm_size(w->comm); r++)
        sy_roll_note(w->roll, w->base.calls + 1, SY_ROLL_ROWS, r, 0, 0);
    for (int i = 0; i < n; i++)
        sy_roll_note(w->roll, w->base.calls + 1, SY_ROLL_ROWS, part[i].peer, part[i].send_bytes,
                     part[i].receive_bytes);
}

static void note_gather(nccl_wire *w, int n, const sy_device_wire_gather *gather) {
    uint64_t bytes = 0;
    for (int i = 0; i < n; i++)
        bytes += gather[i].bytes;
    for (int r = 0; r < sy_comm_size(w->comm); r++)
        sy_roll_note(w->roll, w->base.calls + 1, SY_ROLL_GATHER, r, bytes, bytes);
}

static ncclResult_t first_fault(ncclResult_t a, ncclResult_t b) {
    return a != ncclSuccess && a != ncclInProgress ? a : b;
}

/* A group is always ended, or the next one would be within it. */
static sy_status end_group(nccl_wire *w, ncclResult_t within, const char *what) {
    sy_status st = SY_OK;
    ncclResult_t ended = w->api.group_end();
    SY_TRY(settle(w, first_fault(within, ended), what));
    SY_TRY(count_call(w));
done:
    return st;
}

static sy_status nccl_exchange(sy_device_wire *wire, int n, const sy_device_wire_part *part) {
    nccl_wire *w = of(wire);
    if (w->nccl == NULL) return sy_fail(SY_ERR_COMM, "NCCL has been aborted");
    note_exchange(w, n, part);
    ncclResult_t result = w->api.group_start();
    for (int i = 0; i < n && result == ncclSuccess; i++) {
        const sy_device_wire_part *p = &part[i];
        if (p->send_bytes > 0)
            result =
                w->api.send(p->send, p->send_bytes, ncclUint8, p->peer, w->nccl, w->stream);
        if (p->receive_bytes > 0)
            result = first_fault(result, w->api.receive(p->receive, p->receive_bytes, ncclUint8,
                                                        p->peer, w->nccl, w->stream));
        if (result == ncclInProgress) result = ncclSuccess;
    }
    return end_group(w, result, "exchange of rows");
}

static sy_status
nccl_all_gather(sy_device_wire *wire, int n, const sy_device_wire_gather *gather) {
    nccl_wire *w = of(wire);
    if (w->nccl == NULL) return sy_fail(SY_ERR_COMM, "NCCL has been aborted");
    note_gather(w, n, gather);
    ncclResult_t result = w->api.group_start();
    for (int i = 0; i < n && result == ncclSuccess; i++) {
        const sy_device_wire_gather *g = &gather[i];
        result = w->api.all_gather(g->mine, g->all, g->bytes, ncclUint8, w->nccl, w->stream);
        if (result == ncclInProgress) result = ncclSuccess;
    }
    return end_group(w, result, "gathering of rows");
}

/* In order only if nothing is under way, and then not for long. */
static void end_nccl(nccl_wire *w) {
    char why[512];
    if (w->nccl == NULL) return;
    bool idle = poll_until(w, look_at_stream, end_seconds, why, sizeof why);
    if (!idle || nccl_status(w, w->api.comm_finalize(w->nccl), "end") != SY_OK ||
        !poll_until(w, look_at_nccl, end_seconds, why, sizeof why)) {
        abort_nccl(w);
        return;
    }
    (void)w->api.comm_destroy(w->nccl);
    w->nccl = NULL;
}

static void nccl_destroy(sy_device_wire *wire) {
    nccl_wire *w = of(wire);
    if (wire == NULL) return;
    end_nccl(w);
    for (int i = 0; i < EVENTS; i++)
        if (w->event[i] != NULL) cudaEventDestroy(w->event[i]);
    if (w->passed != NULL) cudaFreeHost(w->passed);
    if (w->side_stream != NULL) cudaStreamDestroy(w->side_stream);
    if (w->log_open) sy_nccl_log_close(&w->log);
    sy_roll_destroy(w->roll);
    sy_mem_free(w, sizeof *w);
}

static const sy_device_wire_ops nccl_ops = {.exchange = nccl_exchange,
                                            .all_gather = nccl_all_gather,
                                            .wait = nccl_wait,
                                            .destroy = nccl_destroy};

static bool spans_machines(const sy_comm *comm) {
    for (int r = 1; r < sy_comm_size(comm); r++)
        if (!sy_comm_same_machine(comm, 0, r)) return true;
    return false;
}

static void warn_of_version(const nccl_wire *w) {
#ifdef __aarch64__
    if (w->api.version < ARM_HANG_FIXED)
        SY_WARN("%s is NCCL %d.%d.%d: some builds before 2.29.3 hang on Arm after minutes; use "
                "the system's own library, or a later one (SWITCHYARD_NCCL=path)",
                w->api.path, w->api.version / 10000, w->api.version / 100 % 100,
                w->api.version % 100);
#endif
    SY_DEBUG("NCCL %d.%d.%d from %s", w->api.version / 10000, w->api.version / 100 % 100,
             w->api.version % 100, w->api.path);
}

/* What each rank does for itself. */
static sy_status prepare(nccl_wire *w) {
    sy_status st = SY_OK;
    if (spans_machines(w->comm)) {
        sy_nccl_log_open(&w->log);
        w->log_open = true;
    }
    SY_TRY(sy_nccl_load(&w->api));
    warn_of_version(w);
    w->stream = w->be->ops->device->native_stream(w->be);
    for (int i = 0; i < EVENTS; i++) {
        cudaError_t error = cudaEventCreateWithFlags(&w->event[i], cudaEventDisableTiming);
        if (error != cudaSuccess)
            SY_FAIL(SY_ERR_DEVICE, "events for NCCL: %s", cudaGetErrorString(error));
    }
    cudaError_t error = cudaStreamCreateWithFlags(&w->side_stream, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = cudaHostAlloc((void **)&w->passed, sizeof *w->passed, cudaHostAllocDefault);
    if (error != cudaSuccess)
        SY_FAIL(error == cudaErrorMemoryAllocation ? SY_ERR_MEMORY : SY_ERR_DEVICE,
                "a stream to look at NCCL's: %s", cudaGetErrorString(error));
done:
    return st;
}

static sy_status init_nccl(nccl_wire *w) {
    sy_status st = SY_OK;
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    int me = sy_comm_rank(w->comm);
    memset(&id, 0, sizeof id);
    if (me == 0) st = nccl_status(w, w->api.get_unique_id(&id), "makes no id");
    SY_TRY(sy_comm_agree(w->comm, st));
    SY_TRY(sy_comm_broadcast(w->comm, &id, sizeof id, 0));
    config.blocking = 0;
    ncclResult_t result =
        w->api.comm_init_rank_config(&w->nccl, sy_comm_size(w->comm), id, me, &config);
    st = nccl_status(w, result, "does not start");
    if (st != SY_OK) { /* the others would wait for this rank until their time is over */
        char why[512];
        snprintf(why, sizeof why, "%s", sy_last_error());
        (void)give_up(w, why, false);
        st = sy_fail(SY_ERR_COMM, "%s", why);
    } else {
        st = settle(w, result, "start of NCCL");
    }
    SY_TRY(sy_comm_agree(w->comm, st));
done:
    return st;
}

sy_status sy_nccl_open(sy_comm *comm, sy_backend *be, double deadline, sy_device_wire **out) {
    sy_status st = SY_OK;
    nccl_wire *w = NULL;
    *out = NULL;
    st = sy_mem_alloc(&w, sizeof *w, "NCCL");
    if (st == SY_OK) {
        w->base.ops = &nccl_ops;
        w->comm = comm;
        w->be = be;
        w->deadline = deadline;
        w->log.fd = -1;
        st = prepare(w);
    }
    SY_TRY(sy_comm_agree(comm, st));
    SY_TRY(sy_roll_create(comm, &w->roll));
    SY_TRY(init_nccl(w));
    *out = &w->base;
    w = NULL;
done:
    if (w != NULL) nccl_destroy(&w->base);
    return st;
}
