/* switchyard run: text in, text out. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "launcher/answer.h"
#include "launcher/commands.h"
#include "launcher/output.h"
#include "launcher/profiling.h"
#include "launcher/prompts.h"
#include "launcher/session.h"

enum { DEFAULT_PER_RANK = 8 }; /* sequences of a rank at the same time, if there are so many */

typedef struct request_state {
    sy_answer answer;
    size_t shown; /* bytes of answer.text that are on stdout */
    const char *finish;
    double first_token, last_token; /* seconds since the start of the run */
} request_state;

typedef struct run {
    const sy_options *options;
    sy_session *session;
    sy_prompts prompts;
    sy_request *request;
    request_state *state;
    double begin;
    int n_finished, next_shown; /* several prompts are shown in their order */
    int n_failed;               /* prompts whose logits were no numbers */
    sy_status out;              /* of writing results: a closed stdout ends the run */
    sy_error_text out_text;
} run;

static sy_sample_params sampling_of(const run *r, int i) {
    const sy_options *o = r->options;
    sy_sample_params p = {.temperature = (float)o->temperature,
                          .top_k = (int)o->top_k,
                          .top_p = (float)o->top_p,
                          .min_p = (float)o->min_p,
                          .seed = o->seed};
    const sy_sampling_defaults *d = &r->session->spec->sampling;
    if (o->sampling != NULL) { /* "model" */
        double model = d->do_sample == 0 ? 0 : d->temperature >= 0 ? d->temperature : 1;
        if (!o->temperature_given) p.temperature = (float)model;
        if (!o->top_k_given && d->top_k >= 0) p.top_k = (int)d->top_k;
        if (!o->top_p_given && d->top_p >= 0) p.top_p = (float)d->top_p;
        if (!o->min_p_given && d->min_p >= 0) p.min_p = (float)d->min_p;
    }
    if (r->prompts.n > 1) { /* a prompt keeps its text wherever it stands in the list */
        const sy_ids *ids = &r->prompts.prompt[i].ids;
        p.seed = sy_hash_bytes(o->seed, ids->id, ids->n * sizeof *ids->id);
    }
    return p;
}

/* Positions of the longest request, checked against the model and --ctx. */
static sy_status needed_context(const run *r, int64_t *out) {
    int64_t most = r->session->spec->max_position, longest = 0;
    const char *whose = "the model's context";
    if (r->options->ctx > 0 && r->options->ctx < most) {
        most = r->options->ctx;
        whose = "--ctx";
    }
    for (int i = 0; i < r->prompts.n; i++) {
        int64_t n = (int64_t)r->prompts.prompt[i].ids.n;
        if (n + r->options->max_tokens > most)
            return sy_fail(SY_ERR_USAGE,
                           "prompt %d has %" PRId64 " tokens; with --max-tokens %" PRId64
                           " that makes %" PRId64 ", beyond %s of %" PRId64,
                           i + 1, n, r->options->max_tokens, n + r->options->max_tokens, whose,
                           most);
        longest = sy_max(longest, n + r->options->max_tokens);
    }
    *out = longest;
    return SY_OK;
}

/* A path that cannot be written is better known before the text than after it. */
static sy_status check_writable(const char *path) {
    FILE *f = fopen(path, "a");
    if (f == NULL) return sy_fail(SY_ERR_IO, "%s: %s", path, strerror(errno));
    fclose(f);
    return SY_OK;
}

static sy_status prepare(run *r, int64_t *context) {
    sy_status st = SY_OK;
    sy_session *s = r->session;
    if (r->options->loads != NULL) SY_TRY(check_writable(r->options->loads));
    SY_TRY(sy_prompts_read(r->options, s->tokenizer, s->spec->vocab, &r->prompts));
    SY_TRY(needed_context(r, context));
    r->request = calloc((size_t)r->prompts.n, sizeof *r->request);
    r->state = calloc((size_t)r->prompts.n, sizeof *r->state);
    if (r->request == NULL || r->state == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for %d prompts", r->prompts.n);
    for (int i = 0; i < r->prompts.n; i++) {
        const sy_ids *ids = &r->prompts.prompt[i].ids;
        r->request[i] = (sy_request){.prompt = ids->id,
                                     .n_prompt = (int64_t)ids->n,
                                     .max_tokens = r->options->max_tokens,
                                     .sampling = sampling_of(r, i)};
        r->state[i].answer = (sy_answer){.tokenizer = s->tokenizer,
                                         .stop = r->options->stop.text,
                                         .n_stops = r->options->stop.n};
    }
    SY_TRY(sy_profiling_prepare(r->options)); /* last: what is refused leaves no directory */
done:
    return st;
}

static void note_output(run *r, sy_status st) {
    if (st == SY_OK || r->out != SY_OK) return;
    r->out = st;
    sy_status_save(&r->out_text);
}

/* One object a line: see `switchyard run --help`. */
static sy_status print_json(const run *r, int i) {
    sy_status st = SY_OK;
    const request_state *q = &r->state[i];
    char *line = NULL;
    json_t *ids = json_array(), *prompt_ids = json_array();
    for (size_t k = 0; k < q->answer.ids.n; k++)
        json_array_append_new(ids, json_integer(q->answer.ids.id[k]));
    for (int64_t k = 0; k < r->request[i].n_prompt; k++)
        json_array_append_new(prompt_ids, json_integer(r->request[i].prompt[k]));
    json_t *text =
        json_stringn(q->answer.text.n > 0 ? q->answer.text.data : "", q->answer.text.n);
    json_t *o = json_pack("{s:i, s:o, s:o, s:o, s:s, s:{s:f, s:f}}", "prompt", i, "prompt_ids",
                          prompt_ids, "ids", ids, "text", text == NULL ? json_null() : text,
                          "finish_reason", q->finish, "timings", "first_token_s",
                          q->first_token, "last_token_s", q->last_token);
    if (o == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a result");
    line = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(6));
    if (line == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a result");
    SY_TRY(sy_out_printf("%s\n", line));
done:
    free(line);
    json_decref(o);
    return st;
}

/* Shows what is new of a request's text. */
static void show_text(run *r, int i) {
    request_state *q = &r->state[i];
    if (q->answer.text.n == q->shown) return;
    note_output(r, sy_out_write(q->answer.text.data + q->shown, q->answer.text.n - q->shown));
    q->shown = q->answer.text.n;
}

static void show_finished(run *r, int i) {
    if (r->options->json) {
        note_output(r, print_json(r, i));
    } else {
        if (r->prompts.n > 1) note_output(r, sy_out_printf("--- prompt %d ---\n", i + 1));
        show_text(r, i);
        note_output(r, sy_out_write("\n", 1));
    }
    note_output(r, sy_out_flush());
}

static void finish_request(run *r, int i, const char *reason) {
    request_state *q = &r->state[i];
    q->finish = reason;
    note_output(r, sy_answer_finish(&q->answer));
    r->n_finished++;
    while (r->next_shown < r->prompts.n && r->state[r->next_shown].finish != NULL)
        show_finished(r, r->next_shown++);
}

static bool on_token(void *context, int i, const sy_token *token) {
    run *r = context;
    request_state *q = &r->state[i];
    q->last_token = sy_now() - r->begin;
    if (q->answer.ids.n == 0) q->first_token = q->last_token;
    note_output(r, sy_answer_put(&q->answer, token->id, token->is_end || token->is_nan));
    if (token->is_nan) r->n_failed++;
    if (r->prompts.n == 1 && !r->options->json) show_text(r, i);
    bool stop = q->answer.stopped || token->is_last || r->out != SY_OK;
    if (stop)
        finish_request(r, i,
                       q->answer.stopped ? "stop_string"
                       : token->is_nan   ? "not_a_number"
                       : token->is_end   ? "end_token"
                       : token->is_last  ? "length"
                                         : "output_closed");
    return stop;
}

static bool on_step(void *context) {
    const run *r = context;
    return sy_interrupted() || r->out != SY_OK;
}

static void on_prefill(void *context, int64_t done, int64_t of) {
    char text[64];
    (void)context;
    snprintf(text, sizeof text, "%" PRId64 " of %" PRId64 " tokens", done, of);
    sy_out_progress("reading the prompt", (double)done / (double)of, text);
}

static void print_rates(const sy_engine_stats *stats) {
    if (stats->prefill_seconds > 0)
        SY_INFO("prefill  %" PRId64 " tokens in %.3f s, %.1f tokens/s", stats->prefill_tokens,
                stats->prefill_seconds, (double)stats->prefill_tokens / stats->prefill_seconds);
    if (stats->mixed_tokens > 0)
        SY_INFO("         and %" PRId64 " tokens of other prompts' answers in the same time",
                stats->mixed_tokens);
    if (stats->decode_seconds > 0)
        SY_INFO("decode   %" PRId64 " tokens in %.3f s, %.1f tokens/s", stats->decode_tokens,
                stats->decode_seconds, (double)stats->decode_tokens / stats->decode_seconds);
}

static void print_exchange(const sy_exchange_stats *all, int n_ranks) {
    uint64_t in_host = 0, between = 0;
    char a[32], b[32];
    for (int r = 0; r < n_ranks; r++) {
        in_host += all[r].bytes_in_host;
        between += all[r].bytes_between_hosts;
    }
    SY_INFO("exchange %s inside hosts, %s between hosts", sy_format_bytes(a, sizeof a, in_host),
            sy_format_bytes(b, sizeof b, between));
}

static void print_loads(const run *r, const uint64_t *all, int n_ranks) {
    uint64_t *total = calloc((size_t)n_ranks, sizeof *total), sum = 0;
    char line[1024];
    size_t used = 0;
    if (total == NULL) return;
    double imbalance =
        sy_loads_imbalance(sy_engine_runner(r->session->engine)->loads, all, n_ranks, total);
    for (int k = 0; k < n_ranks; k++)
        sum += total[k];
    line[0] = '\0';
    for (int k = 0; k < n_ranks && used + 16 < sizeof line; k++)
        used += (size_t)snprintf(line + used, sizeof line - used, " %.1f%%",
                                 sum == 0 ? 0 : 100 * (double)total[k] / (double)sum);
    SY_INFO("experts  load per rank%s; imbalance (max/mean) %.3f", line, imbalance);
    free(total);
}

/* Collective: what the ranks have counted, on rank 0's stderr and in --loads. */
static sy_status summarise(run *r, const sy_engine_stats *stats) {
    sy_status st = SY_OK;
    sy_session *s = r->session;
    sy_runner *runner = sy_engine_runner(s->engine);
    uint64_t *loads = NULL, tokens;
    sy_exchange_stats mine, *all = NULL;
    if (s->rank == 0 && (all = calloc((size_t)s->n_ranks, sizeof *all)) == NULL)
        st = sy_fail(SY_ERR_MEMORY, "no memory for the summary");
    SY_TRY(sy_comm_agree(s->comm, st));
    sy_exchange_get_stats(runner->exchange, &mine);
    SY_TRY(sy_comm_gather(s->comm, &mine, sizeof mine, all, 0));
    SY_TRY(sy_loads_gather(s->comm, runner->loads, &loads, &tokens));
    if (s->rank == 0) {
        print_rates(stats);
        print_exchange(all, s->n_ranks);
        print_loads(r, loads, s->n_ranks);
        if (r->options->loads != NULL)
            st = sy_loads_write(runner->loads, s->spec, loads, s->n_ranks, tokens,
                                r->options->loads);
    }
    SY_TRY(sy_comm_agree(s->comm, st));
done:
    free(all);
    free(loads);
    return st;
}

/* After the last step, on rank 0: requests that an interruption cut short; faults of stdout. */
static sy_status conclude(run *r, const sy_engine_stats *stats) {
    for (int i = 0; i < r->prompts.n; i++)
        if (r->state[i].finish == NULL && r->out == SY_OK) finish_request(r, i, "interrupted");
    if (r->out != SY_OK) {
        sy_status_restore(&r->out_text);
        return r->out;
    }
    if (stats->interrupted) return sy_fail(SY_ERR_INTERRUPTED, "interrupted");
    if (r->n_failed == 0) return SY_OK;
    return sy_fail(SY_ERR_FORMAT,
                   "%d of %d prompts ended because the model's logits are not numbers; its "
                   "weights may be damaged",
                   r->n_failed, r->prompts.n);
}

/* What rank 0 alone knows and the engine needs on all ranks. */
typedef struct run_shape {
    int64_t context;
    int64_t n_prompts;
} run_shape;

static sy_engine_options engine_wish(const run *r, const run_shape *shape) {
    int64_t per_rank =
        sy_min(sy_ceil_div(shape->n_prompts, r->session->n_ranks), DEFAULT_PER_RANK);
    return (sy_engine_options){.max_context = shape->context,
                               .max_pages = per_rank * sy_kv_pages(shape->context),
                               .per_rank = (int)per_rank,
                               .chunk = sy_max(r->options->chunk, per_rank),
                               .max_outputs = per_rank,
                               .profile = sy_profiling_wish(r->options)};
}

sy_status sy_cmd_run(const sy_options *options) {
    sy_status st = SY_OK, end = SY_OK;
    sy_session session;
    run r = {.options = options, .session = &session};
    run_shape shape = {0};
    sy_engine_stats stats = {0};
    const sy_engine_events events = {on_token, on_step, on_prefill, &r};

    SY_TRY(sy_session_open(options, &session));
    SY_TRY(sy_session_model(&session));
    if (session.rank == 0) {
        st = prepare(&r, &shape.context);
        shape.n_prompts = r.prompts.n;
    }
    SY_TRY(sy_comm_agree(session.comm, st));
    SY_TRY(sy_comm_broadcast(session.comm, &shape, sizeof shape, 0));
    SY_TRY(sy_session_engine(&session, engine_wish(&r, &shape)));

    SY_TRY(sy_profiling_begin(&session, "run"));
    r.begin = sy_now();
    SY_TRY(sy_session_step(
        &session, sy_engine_generate(session.engine, r.request, r.prompts.n, &events, &stats)));
    if (session.rank == 0) end = conclude(&r, &stats);
    SY_TRY(sy_comm_agree(session.comm, end == SY_ERR_INTERRUPTED ? SY_OK : end));
    SY_TRY(summarise(&r, &stats));
    SY_TRY(sy_profiling_collect(&session));
    SY_TRY(sy_profiling_finish(&session));
    SY_TRY(sy_comm_agree(session.comm, end));
done:
    for (int i = 0; r.state != NULL && i < r.prompts.n; i++)
        sy_answer_free(&r.state[i].answer);
    free(r.state);
    free(r.request);
    sy_prompts_free(&r.prompts);
    return sy_session_close(&session, st);
}
