/* switchyard calibrate: this machine's constants, as a cluster description for plan. */
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "base/new_file.h"
#include "comm/exchange_bench.h"
#include "launcher/commands.h"
#include "launcher/device.h"
#include "launcher/output.h"
#include "launcher/session.h"
#include "runtime/calibrate.h"

enum { PHASE_LIMIT = 120, HIDDEN = 2048, EXPERTS = 128, TOP_K = 8, LINK_TOKENS = 256 };

typedef struct calibrate {
    sy_session *session;
    sy_calibration mine, *all; /* [R] on rank 0 */
    sy_cluster cluster;
    char source[160], assumed[64];
} calibrate;

static bool on_progress(void *context, double share) {
    calibrate *c = context;
    sy_progress(c->session->live);
    if (c->session->rank == 0) sy_out_progress("measuring", share, "");
    return !sy_interrupted();
}

/* The exchange over the first n ranks, as a link's numbers. One exchange is half a round trip. */
typedef struct link_numbers {
    double latency, bandwidth;
} link_numbers;

static sy_status measure_exchange(calibrate *c, int n, link_numbers *out) {
    sy_status st = SY_OK;
    sy_session *s = c->session;
    sy_comm *first = NULL;
    sy_exchange_bench_row row[SY_EXCHANGE_BENCH_ROWS];
    const sy_exchange_bench_options o = {.hidden = HIDDEN,
                                         .experts = EXPERTS,
                                         .top_k = TOP_K,
                                         .combine = SY_COMBINE_EXACT,
                                         .max_tokens = LINK_TOKENS,
                                         .seconds = 0.2,
                                         .live = s->live};
    int rows = 0;
    *out = (link_numbers){0};
    sy_progress_phase(s->live, "measuring the exchange", PHASE_LIMIT);
    SY_TRY(sy_comm_create_first(s->comm, n, &first));
    if (first != NULL) st = sy_exchange_bench(first, s->be, &o, row, &rows);
    sy_progress_wait(s->live);
    SY_TRY(sy_comm_agree(s->comm, st));
    sy_progress_resume(s->live);
    if (rows == 0) goto done;
    double rest = row[rows - 1].exchange_s - row[0].exchange_s;
    out->latency = row[0].exchange_s / 2;
    out->bandwidth = rest > 0 ? (double)(row[rows - 1].bytes - row[0].bytes) / rest : 0;
done:
    sy_comm_destroy(first);
    return st;
}

static sy_constant measured(const calibrate *c, double value) {
    return (sy_constant){.value = value, .source = c->source};
}

/* n ranks, two of which alone give the latency between a pair. Collective. */
static sy_status measure_link(calibrate *c, int n, const char *path, sy_cluster_link *out) {
    sy_status st = SY_OK;
    link_numbers pair, all;
    SY_TRY(measure_exchange(c, 2, &pair));
    all = pair;
    if (n > 2) SY_TRY(measure_exchange(c, n, &all));
    if (c->session->rank != 0) goto done;
    if (all.bandwidth <= 0)
        SY_FAIL(SY_ERR_COMM,
                "calibrate: the exchange of %d tokens took no longer than that of "
                "one: the machine is too busy to measure",
                LINK_TOKENS);
    double more = n > 2 ? fmax(0, (all.latency - pair.latency) / (n - 2)) : 0;
    *out = (sy_cluster_link){.bandwidth = measured(c, all.bandwidth),
                             .latency = measured(c, pair.latency),
                             .peer_latency = measured(c, more),
                             .path = path};
    if (n == 2) out->peer_latency.source = "two ranks: not measured";
done:
    return sy_comm_agree(c->session->comm, st);
}

static int ranks_of_first_host(const sy_comm *comm) {
    int n = 0;
    while (n < sy_comm_size(comm) && sy_comm_host(comm, n) == sy_comm_host(comm, 0))
        n++;
    return n;
}

/* Links inside and between hosts. Where hosts have several ranks, the latter is measured over all
 * ranks together. Collective. */
static sy_status measure_links(calibrate *c) {
    sy_status st = SY_OK;
    sy_session *s = c->session;
    int here = ranks_of_first_host(s->comm);
    const char *path = s->options->no_shared_memory ? "mpi" : "memfd";
    if (here > 1) SY_TRY(measure_link(c, here, path, &c->cluster.in_host));
    if (here < s->n_ranks) {
        if (here > 1 && s->rank == 0) sy_out_progress("measuring", 1, "");
        SY_TRY(measure_link(c, s->n_ranks, "mpi", &c->cluster.between_hosts));
    }
done:
    return st;
}

/* The least of the ranks' values at an offset: a step waits for the slowest. 0 if any lacks it. */
static double slowest(const calibrate *c, size_t offset) {
    double least = INFINITY;
    for (int r = 0; r < c->session->n_ranks; r++) {
        double x;
        memcpy(&x, (const char *)&c->all[r] + offset, sizeof x);
        least = fmin(least, x);
    }
    return least;
}
#define SLOWEST(c, field) slowest((c), offsetof(sy_calibration, field))

static void set_share(const calibrate *c, size_t offset, sy_constant *out) {
    double share = slowest(c, offset);
    if (share > 0) *out = measured(c, share);
}

/* The description, on rank 0. */
static void fill_cluster(calibrate *c) {
    const sy_session *s = c->session;
    sy_cluster *k = &c->cluster;
    uint64_t left = sy_mem_available(), ranks = (uint64_t)sy_comm_machine_size(s->comm, 0);
    double bytes = (double)(left == UINT64_MAX ? (uint64_t)1 << 40 : left) / (double)ranks;
    snprintf(k->name, sizeof k->name, "calibrated");
    k->device = sy_device_describe(s->be);
    k->devices_per_host = ranks_of_first_host(s->comm);
    k->n_devices = s->n_ranks;
    k->memory = measured(c, bytes);
    k->usable = measured(c, bytes * 0.95); /* as the memory budget does */
    k->bandwidth = measured(c, SLOWEST(c, bandwidth));
    k->rate[SY_OPERAND_BF16] = measured(c, SLOWEST(c, rate));
    k->layer_overhead = measured(c, c->all[0].layer_overhead);
    k->step_overhead = (sy_constant){0, "part of the layers' overhead"};
    for (int i = 0; i < SY_STORED_COUNT; i++) {
        set_share(c, offsetof(sy_calibration, decode) + (size_t)i * sizeof(double),
                  &k->kernel[i].decode);
        set_share(c, offsetof(sy_calibration, prefill) + (size_t)i * sizeof(double),
                  &k->kernel[i].prefill);
    }
    set_share(c, offsetof(sy_calibration, attention_decode), &k->attention.decode);
    set_share(c, offsetof(sy_calibration, attention_prefill), &k->attention.prefill);
    /* What has no share of its own is taken for BF16; a format that fell to noise, for half. */
    const sy_constant half = {0.5, c->assumed};
    k->read_share = k->kernel[SY_STORED_BF16].decode.source != NULL
                        ? k->kernel[SY_STORED_BF16].decode
                        : half;
    k->rate_share = k->kernel[SY_STORED_BF16].prefill.source != NULL
                        ? k->kernel[SY_STORED_BF16].prefill
                        : half;
    k->grouped_share = k->rate_share;
    k->n_threads = c->all[0].n_threads;
    for (int i = 0; i < k->n_threads; i++)
        k->threads[i] =
            (sy_thread_bandwidth){c->all[0].threads[i], measured(c, c->all[0].bandwidth_of[i])};
}

static sy_status write_file(const char *path, const char *text) {
    sy_new_file file;
    sy_status st = sy_new_file_open_path(path, &file);
    if (st != SY_OK) return st;
    fprintf(file.f, "%s\n", text);
    return sy_new_file_close(&file, SY_OK);
}

static sy_status print_cluster(const calibrate *c) {
    sy_status st = SY_OK;
    json_t *file = sy_cluster_describe(&c->cluster);
    char *text = json_dumps(file, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    const char *path = c->session->options->out;
    if (text == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for the JSON text");
    else if (path != NULL)
        st = write_file(path, text);
    else
        st = sy_out_printf("%s\n", text);
    free(text);
    json_decref(file);
    return st;
}

static sy_status check(const sy_session *s) {
    if (s->be->ops->device != NULL)
        return sy_fail(
            SY_ERR_UNSUPPORTED,
            "calibrate measures CPU ranks (--device cpu); for GPUs there are built-in "
            "descriptions");
    if (s->be->act != SY_BF16)
        return sy_fail(SY_ERR_UNSUPPORTED, "calibrate measures --activations bf16");
    return SY_OK;
}

sy_status sy_cmd_calibrate(const sy_options *options) {
    sy_status st = SY_OK;
    sy_session session;
    calibrate c = {.session = &session, .assumed = "assumption: could not be measured"};
    SY_TRY(sy_session_open(options, &session));
    SY_TRY(sy_comm_agree(session.comm, check(&session)));
    snprintf(c.source, sizeof c.source, "calibrate: %d ranks of %d threads, %s, on %.60s",
             session.n_ranks, session.n_threads, sy_device_describe(session.be),
             sy_comm_host_name(session.comm, 0));
    if (session.rank == 0 && (c.all = calloc((size_t)session.n_ranks, sizeof *c.all)) == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for the measurements");
    SY_TRY(sy_comm_agree(session.comm, st));
    sy_progress_phase(session.live, "calibrating", PHASE_LIMIT);
    st = sy_calibrate(session.be, session.pool, on_progress, &c, &c.mine);
    sy_progress_wait(session.live);
    SY_TRY(sy_comm_agree(session.comm, st));
    sy_progress_resume(session.live);
    SY_TRY(sy_comm_gather(session.comm, &c.mine, sizeof c.mine, c.all, 0));
    SY_TRY(measure_links(&c));
    if (session.rank == 0) {
        sy_out_progress("measuring", 1, "");
        fill_cluster(&c);
        st = print_cluster(&c);
    }
    SY_TRY(sy_comm_agree(session.comm, st));
done:
    free(c.all);
    return sy_session_close(&session, st);
}
