#include "launcher/session.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"
#include "base/memory.h"
#include "kernels/device.h"
#include "launcher/bind.h"
#include "launcher/device.h"
#include "launcher/output.h"
#include "topology/placement_file.h"

/* Seconds that a single advance of the main thread may take while the others wait for it. A rank
 * that swaps or reads from a slow disk is alive, so these are far above anything healthy. */
enum { LOAD_LIMIT = 600, STEP_LIMIT = 600 };
/* Deadlines after which an exchange between devices that all ranks wait for has failed. */
enum { EXCHANGE_DEADLINES = 12 };

/* A healthy rank on a busy machine may well be silent for a few tenths of a second. */
#define SHORTEST_DEADLINE 0.5

static sy_status check_numerics(const sy_session *s) {
    if (s->be->ops->device != NULL && sy_session_combine(s->options) == SY_COMBINE_REDUCED_BF16)
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "--numerics fast-bf16 is for --device cpu: sums travel between devices "
                       "as float32 (--numerics fast)");
    return SY_OK;
}

sy_status sy_session_open(const sy_options *options, sy_session *s) {
    sy_status st = SY_OK;
    *s = (sy_session){.options = options};
    if (options->deadline > 0 && options->deadline < SHORTEST_DEADLINE)
        SY_FAIL(SY_ERR_USAGE, "--deadline: expected 0 (off) or at least %.1f s, found %g",
                SHORTEST_DEADLINE, options->deadline);
    sy_comm_options comm = {.virtual_hosts = options->virtual_hosts,
                            .no_shared_memory = options->no_shared_memory,
                            .threads_per_rank = options->threads > 0 ? options->threads : 1};
    SY_TRY(sy_comm_create(&comm, &s->comm));
    s->rank = sy_comm_rank(s->comm);
    s->n_ranks = sy_comm_size(s->comm);
    sy_output_joined(s->rank, s->n_ranks, sy_comm_host_name(s->comm, s->rank));
    if (s->n_ranks > 1) {
        sy_liveness_options live = {options->deadline, sy_output_peer_lost, NULL};
        SY_TRY(sy_liveness_start(s->comm, &live, &s->live));
    }
    SY_TRY(sy_bind_rank(options, s->comm, &s->n_threads));
    SY_TRY(sy_comm_agree(s->comm,
                         sy_pool_create(s->n_threads, sy_comm_may_spin(s->comm), &s->pool)));
    SY_TRY(sy_device_open(options, s->comm, s->pool, &s->be));
    SY_TRY(sy_comm_agree(s->comm, check_numerics(s)));
    if (s->be->ops->device != NULL && s->rank == 0)
        SY_INFO("device   %s", sy_device_describe(s->be));
    SY_DEBUG("%d ranks on %d hosts, %d threads each, %s kernels", s->n_ranks,
             sy_comm_n_hosts(s->comm), s->n_threads, sy_device_describe(s->be));
done:
    return st;
}

/* "12", or "dense:1,moe:2" in either order, or "moe:2". Nine digits are more than any model has layers. */
static sy_status parse_layers(const char *text, int *n_dense, int *n_moe) {
    int used = 0;
    *n_dense = *n_moe = 0;
    if (text == NULL) return SY_OK;
    if (sscanf(text, "%9d%n", n_moe, &used) == 1 && text[used] == '\0' && *n_moe > 0)
        return SY_OK;
    *n_moe = 0;
    if (sscanf(text, "dense:%9d,moe:%9d%n", n_dense, n_moe, &used) == 2 && text[used] == '\0' &&
        *n_dense >= 0 && *n_moe > 0)
        return SY_OK;
    if (sscanf(text, "moe:%9d,dense:%9d%n", n_moe, n_dense, &used) == 2 && text[used] == '\0' &&
        *n_dense >= 0 && *n_moe > 0)
        return SY_OK;
    *n_dense = 0;
    if (sscanf(text, "moe:%9d%n", n_moe, &used) == 1 && text[used] == '\0' && *n_moe > 0)
        return SY_OK;
    return sy_fail(
        SY_ERR_USAGE,
        "--layers: expected a number, moe:N, or dense:N,moe:N with at least one MoE layer, "
        "found \"%s\"",
        text);
}

static sy_status load_spec(sy_session *s) {
    sy_status st = SY_OK;
    const sy_options *o = s->options;
    int n_dense, n_moe;
    SY_TRY(sy_spec_load(o->model, &s->spec));
    if (!o->dummy_weights) {
        if (o->layers != NULL || o->vocab > 0 || o->experts > 0)
            SY_FAIL(SY_ERR_USAGE, "--layers, --vocab and --experts need --dummy-weights");
    } else {
        SY_TRY(parse_layers(o->layers, &n_dense, &n_moe));
        SY_TRY(sy_spec_cut(s->spec, n_dense, n_moe, o->vocab, o->experts));
    }
done:
    return st;
}

/* The text of --placement, from rank 0 to all: hosts may have other files of that name. The caller
 * frees *text. Collective. */
static sy_status share_placement(sy_session *s, char **text, uint64_t *size) {
    sy_status st = SY_OK;
    size_t n = 0;
    *text = NULL;
    if (s->rank == 0) st = sy_read_file(s->options->placement, SY_PLACEMENT_FILE_MAX, text, &n);
    SY_TRY(sy_comm_agree(s->comm, st));
    *size = n;
    SY_TRY(sy_comm_broadcast(s->comm, size, sizeof *size, 0));
    if (s->rank != 0) *text = malloc((size_t)*size + 1);
    if (*text == NULL) st = sy_fail(SY_ERR_MEMORY, "no memory for a placement");
    SY_TRY(sy_comm_agree(s->comm, st));
    SY_TRY(sy_comm_broadcast(s->comm, *text, (size_t)*size, 0));
done:
    return st;
}

static sy_status
read_placement(sy_session *s, const char *text, size_t size, const int *experts) {
    sy_status st = SY_OK;
    const char *name = s->options->placement;
    sy_placement_list *list = NULL;
    sy_placement_target target = {s->spec->family, s->spec->n_layers, experts, s->n_ranks};
    SY_TRY(sy_placement_parse(text, size, name, SY_PLACEMENT_ANY, &list));
    SY_TRY(sy_placement_list_place(list, name, &target, &s->placement));
done:
    sy_placement_list_destroy(list);
    return st;
}

/* As --placement says, or contiguous. Collective. */
static sy_status place_experts(sy_session *s) {
    sy_status st = SY_OK;
    int n = s->spec->n_layers, *experts = calloc((size_t)n, sizeof *experts);
    char *text = NULL;
    uint64_t size = 0;
    if (experts == NULL) st = sy_fail(SY_ERR_MEMORY, "no memory for a placement");
    SY_TRY(sy_comm_agree(s->comm, st));
    for (int l = 0; l < n; l++)
        experts[l] = s->spec->layer[l].ffn.experts;
    if (s->options->placement != NULL) {
        SY_TRY(share_placement(s, &text, &size));
        st = read_placement(s, text, (size_t)size, experts);
    } else {
        st = sy_placement_contiguous(n, experts, s->n_ranks, &s->placement);
    }
    SY_TRY(sy_comm_agree(s->comm, st));
done:
    free(text);
    free(experts);
    return st;
}

static sy_status load_tokenizer(sy_session *s) {
    if (sy_tokenizer_file(s->options->model) == NULL) return SY_OK;
    return sy_tokenizer_load(s->options->model, s->spec->vocab, &s->tokenizer);
}

/* An end token that tokenizer_config.json names only by its text; or, where the configuration
 * names none at all, that of the tokenizer. */
static sy_status add_named_eos(sy_session *s) {
    const char *name = s->spec->eos_token;
    if (s->tokenizer == NULL) return SY_OK;
    if (s->spec->n_eos == 0 && sy_tokenizer_eos(s->tokenizer) >= 0)
        return sy_spec_add_eos(s->spec, sy_tokenizer_eos(s->tokenizer), "tokenizer");
    if (name[0] == '\0') return SY_OK;
    int32_t id = sy_tokenizer_token_id(s->tokenizer, name, strlen(name));
    return id < 0 ? SY_OK : sy_spec_add_eos(s->spec, id, "tokenizer_config.json: eos_token");
}

/* What is odd about the files is the same for every rank: rank 0 says it. */
static sy_status open_checkpoint(sy_session *s) {
    struct stat info;
    if (stat(s->options->model, &info) == 0 && !S_ISDIR(info.st_mode))
        return sy_fail(
            SY_ERR_USAGE,
            "%s: expected a checkpoint directory (a bare config.json serves inspect, "
            "and bench with --dummy-weights)",
            s->options->model);
    sy_log_level level = sy_log_set_level(SY_LOG_ERROR);
    if (s->rank == 0) sy_log_set_level(level);
    sy_status st = sy_checkpoint_open(s->options->model, &s->checkpoint);
    sy_log_set_level(level);
    return st;
}

static sy_status model_local(sy_session *s) {
    sy_status st = SY_OK;
    SY_TRY(load_spec(s));
    if (!s->options->dummy_weights) SY_TRY(open_checkpoint(s));
    if (s->rank == 0) SY_TRY(load_tokenizer(s));
    SY_TRY(add_named_eos(s));
done:
    return st;
}

sy_status sy_session_model(sy_session *s) {
    sy_status st = SY_OK;
    sy_progress_phase(s->live, "reading the model's description", LOAD_LIMIT);
    SY_TRY(sy_comm_agree(s->comm, model_local(s)));
    SY_TRY(place_experts(s));
done:
    return st;
}

static bool show_loading(void *context, double share, uint64_t bytes) {
    sy_session *s = context;
    char text[32];
    sy_progress(s->live);
    if (s->rank == 0)
        sy_out_progress("reading weights", share, sy_format_bytes(text, sizeof text, bytes));
    return !sy_interrupted();
}

static sy_status load_weights(sy_session *s, sy_load_report *report) {
    int n_readers = (int)sy_min(8, sy_max(2, 2 * s->n_threads));
    if (s->options->dummy_weights)
        return sy_weights_dummy(s->be, s->spec, s->placement, s->rank, s->options->seed,
                                s->n_threads, show_loading, s, &s->weights);
    if (s->be->ops->device != NULL) sy_checkpoint_allow_direct(s->checkpoint);
    return sy_weights_load(s->be, s->spec, s->placement, s->rank, s->checkpoint, n_readers,
                           show_loading, s, report, &s->weights);
}

/* What each rank has read and how fast; with many ranks one line would not hold them all. */
static void print_reports(const sy_session *s) {
    char line[512] = "", all[32], routed[32], rate[32];
    size_t used = 0;
    for (int r = 0; r < s->n_ranks; r++) {
        const sy_load_report *p = &s->reports[r];
        double seconds = p->seconds > 0 ? p->seconds : 1e-9;
        sy_format_bytes(all, sizeof all, p->bytes_read);
        sy_format_bytes(rate, sizeof rate, (uint64_t)((double)p->bytes_read / seconds));
        SY_DEBUG("rank %d read %s (routed experts %s) at %s/s", r, all,
                 sy_format_bytes(routed, sizeof routed, p->routed_bytes), rate);
        if (r < 8 && used < sizeof line - 1)
            used += (size_t)snprintf(line + used, sizeof line - used, "%s%s at %s/s",
                                     r == 0 ? "" : ", ", all, rate);
    }
    SY_INFO("weights  read per rank: %s%s", line, s->n_ranks > 8 ? ", ... (-v shows all)" : "");
}

static sy_status gather_reports(sy_session *s, const sy_load_report *mine) {
    sy_status st = SY_OK;
    if (s->rank == 0) {
        s->reports = calloc((size_t)s->n_ranks, sizeof *s->reports);
        if (s->reports == NULL) st = sy_fail(SY_ERR_MEMORY, "no memory for the load report");
    }
    SY_TRY(sy_comm_agree(s->comm, st));
    SY_TRY(sy_comm_gather(s->comm, mine, sizeof *mine, s->reports, 0));
    if (s->rank == 0) print_reports(s);
    if (s->rank == 0 && s->reports[0].rounded > 0)
        SY_INFO("%llu float32 matrices are rounded to bfloat16 (--activations f32 keeps them)",
                (unsigned long long)s->reports[0].rounded);
done:
    return st;
}

sy_combine_mode sy_session_combine(const sy_options *o) {
    if (strcmp(o->numerics, "fast-bf16") == 0) return SY_COMBINE_REDUCED_BF16;
    return strcmp(o->numerics, "fast") == 0 ? SY_COMBINE_REDUCED : SY_COMBINE_EXACT;
}

/* What the steps' memory has left: the device's, or this process's share of the machine's. */
static sy_memory_left memory_left(const sy_session *s) {
    sy_memory_left left = {.bytes = sy_mem_available(),
                           .limit = (uint64_t)(s->options->memory * 1e9)};
    if (s->be->ops->device != NULL)
        left.bytes = s->be->ops->device->memory_available(s->be, &left.identity);
    return left;
}

/* Seconds that rows on their way between devices may take: far more than a healthy step, since all
 * ranks are alive while this clock runs. The default deadline gives two minutes. */
static double exchange_deadline(const sy_options *o) {
    return o->deadline > 0 ? EXCHANGE_DEADLINES * o->deadline : (double)INFINITY;
}

sy_status sy_session_engine(sy_session *s, sy_engine_options wish) {
    sy_status st = SY_OK;
    sy_load_report report = {0};
    int64_t n_valid = s->spec->vocab;
    if (s->tokenizer != NULL) n_valid = sy_min(n_valid, sy_tokenizer_n_ids(s->tokenizer));
    SY_TRY(sy_comm_broadcast(s->comm, &n_valid, sizeof n_valid, 0));
    wish.n_valid = n_valid;
    wish.combine = sy_session_combine(s->options);

    sy_engine_parts parts = {.comm = s->comm,
                             .live = s->live,
                             .be = s->be,
                             .spec = s->spec,
                             .placement = s->placement};
    wish.no_graphs = s->options->no_graphs;
    wish.exchange_deadline = exchange_deadline(s->options);
    SY_TRY(sy_budget_fit(&parts, s->checkpoint, memory_left(s), &wish, &s->budget));
    sy_progress_phase(s->live, "reading weights", LOAD_LIMIT);
    st = load_weights(s, &report);
    sy_progress_wait(s->live); /* from here on a rank that still reads is waited for */
    SY_TRY(sy_comm_agree(s->comm, st));
    sy_progress_resume(s->live);
    if (s->rank == 0) sy_out_progress("reading weights", 1, "");
    if (!s->options->dummy_weights) SY_TRY(gather_reports(s, &report));
    parts.weights = s->weights;
    s->engine_options = wish;
    SY_TRY(sy_engine_create(&parts, &wish, &s->engine));
    sy_progress_phase(s->live, "generating", STEP_LIMIT);
done:
    return st;
}

sy_status sy_session_step(sy_session *s, sy_status st) {
    /* What the ranks agree upon within the engine: refused requests, a full disk, Ctrl-C. Any
     * other fault is one rank's own, in the middle of a step. */
    bool agreed =
        st == SY_OK || st == SY_ERR_USAGE || st == SY_ERR_IO || st == SY_ERR_INTERRUPTED;
    s->broken = !agreed;
    return st;
}

sy_status sy_session_close(sy_session *s, sy_status st) {
    if (s->broken && s->n_ranks > 1) {
        sy_output_final(st, sy_last_error());
        sy_liveness_abandon(s->live); /* the others' end is our doing */
        sy_comm_abort(s->comm, sy_status_exit_code(st));
    }
    sy_error_text text;
    sy_status_save(&text);
    sy_engine_destroy(s->engine);
    sy_weights_destroy(s->weights);
    free(s->reports);
    sy_tokenizer_destroy(s->tokenizer);
    sy_placement_destroy(s->placement);
    sy_checkpoint_close(s->checkpoint);
    sy_spec_destroy(s->spec);
    if (s->be != NULL) s->be->ops->close(s->be);
    sy_pool_destroy(s->pool);
    sy_liveness_stop(s->live);
    sy_comm_destroy(s->comm);
    sy_status_restore(&text);
    return st;
}
