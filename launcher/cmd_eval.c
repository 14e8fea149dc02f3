/* switchyard eval MODEL --text FILE: perplexity, and the distance from another model. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "launcher/commands.h"
#include "launcher/device.h"
#include "launcher/output.h"
#include "launcher/session.h"

#define MAX_TEXT ((uint64_t)64 << 20)

/* Sums over all scored tokens, in the order of the text. */
typedef struct sums {
    int64_t n, same_top;
    double nll, reference_nll, kl;
} sums;

/* One run over the text. Rank 0 alone has the rows. */
typedef struct evaluation {
    const sy_options *options;
    sy_session model,
        reference; /* the latter with --against; it borrows the ranks of the first */
    sy_options reference_options;
    size_t text_bytes;
    int32_t *ids;
    int64_t n_ids;
    float *reference_rows; /* rank 0: the reference's logits of a window, [window, V] */
    uint64_t reference_bytes;
    int64_t begin, n; /* the window */
    int64_t at;       /* the row that comes next in it */
    int64_t rows_done, rows_to_do;
    sums sums;
} evaluation;

static bool compares(const evaluation *e) {
    return e->options->against != NULL;
}

/* ---- scores ---- */

/* A row of logits: its largest, and the logarithm of the sum of all exponentials. */
typedef struct row_facts {
    int64_t top;
    double log_sum;
} row_facts;

static row_facts look_at(const float *row, int64_t V) {
    row_facts f = {0};
    double sum = 0;
    for (int64_t i = 1; i < V; i++)
        if (row[i] > row[f.top]) f.top = i;
    double most = (double)row[f.top];
    for (int64_t i = 0; i < V; i++)
        sum += exp((double)row[i] - most);
    f.log_sum = most + log(sum);
    return f;
}

/* KL(reference || model) of two rows. */
static double divergence(const float *reference,
                         double of_reference,
                         const float *row,
                         double of_row,
                         int64_t V) {
    double sum = 0;
    for (int64_t i = 0; i < V; i++) {
        double log_p = (double)reference[i] - of_reference;
        double p = exp(log_p);
        if (p > 0) sum += p * (log_p - ((double)row[i] - of_row));
    }
    return sum;
}

/* Scores the prediction of token `next`. */
static sy_status score(evaluation *e, const float *row, const float *reference, int32_t next) {
    int64_t V = e->model.spec->vocab;
    sums *s = &e->sums;
    row_facts f = look_at(row, V), g = {0};
    if (reference != NULL) g = look_at(reference, V);
    if (!isfinite(f.log_sum) || !isfinite(g.log_sum))
        return sy_fail(
            SY_ERR_FORMAT, "token %" PRId64 " of the text: logits of %s are no numbers",
            e->begin + e->at, isfinite(f.log_sum) ? e->options->against : e->options->model);
    s->n++;
    s->nll += f.log_sum - (double)row[next];
    if (reference == NULL) return SY_OK;
    s->reference_nll += g.log_sum - (double)reference[next];
    s->kl += divergence(reference, g.log_sum, row, f.log_sum, V);
    s->same_top += f.top == g.top;
    return SY_OK;
}

static sy_status advance(evaluation *e, int64_t n_rows) {
    e->rows_done += n_rows;
    sy_out_progress("evaluating", (double)e->rows_done / (double)e->rows_to_do, "");
    return sy_interrupted() ? sy_fail(SY_ERR_INTERRUPTED, "interrupted") : SY_OK;
}

/* Sinks of sy_engine_logits: rows of the window, ascending. */
static sy_status on_reference_rows(void *context, int64_t n_rows, const float *rows) {
    evaluation *e = context;
    size_t V = (size_t)e->model.spec->vocab;
    memcpy(e->reference_rows + (size_t)e->at * V, rows, (size_t)n_rows * V * sizeof *rows);
    e->at += n_rows;
    return advance(e, n_rows);
}

static sy_status on_rows(void *context, int64_t n_rows, const float *rows) {
    evaluation *e = context;
    size_t V = (size_t)e->model.spec->vocab;
    for (int64_t i = 0; i < n_rows; i++, e->at++) {
        if (e->at + 1 >= e->n) continue; /* what follows the window is not its to predict */
        const float *reference =
            e->reference_rows != NULL ? e->reference_rows + (size_t)e->at * V : NULL;
        sy_status st = score(e, rows + (size_t)i * V, reference, e->ids[e->begin + e->at + 1]);
        if (st != SY_OK) return st;
    }
    return advance(e, n_rows);
}

/* ---- the text ---- */

static sy_status
encode(const sy_session *s, const char *path, const char *text, size_t size, sy_ids *out) {
    if (s->tokenizer == NULL)
        return sy_fail(SY_ERR_USAGE, "%s has no tokenizer, so it cannot read a text", path);
    return sy_tokenizer_encode(s->tokenizer, text, size, SY_ENCODE_PLAIN, out);
}

static sy_status check_same_ids(const sy_ids *a, const sy_ids *b) {
    size_t i = 0;
    while (i < a->n && i < b->n && a->id[i] == b->id[i])
        i++;
    if (i == a->n && i == b->n) return SY_OK;
    return sy_fail(SY_ERR_USAGE,
                   "the two tokenizers cut the text differently, from token %zu on: the models "
                   "cannot be compared",
                   i);
}

/* Rank 0. */
static sy_status read_text(evaluation *e, sy_ids *ids) {
    sy_status st = SY_OK;
    char *text = NULL;
    sy_ids other = {0};
    int64_t V = e->model.spec->vocab;
    SY_TRY(sy_read_file(e->options->text_file, MAX_TEXT, &text, &e->text_bytes));
    SY_TRY(encode(&e->model, e->options->model, text, e->text_bytes, ids));
    if (compares(e)) {
        SY_TRY(encode(&e->reference, e->options->against, text, e->text_bytes, &other));
        SY_TRY(check_same_ids(ids, &other));
    }
    if (ids->n < 2)
        SY_FAIL(SY_ERR_USAGE, "%s has %zu tokens; at least 2 are needed to predict one",
                e->options->text_file, ids->n);
    for (size_t i = 0; i < ids->n; i++)
        if (ids->id[i] < 0 || ids->id[i] >= V)
            SY_FAIL(SY_ERR_FORMAT,
                    "the tokenizer gives id %" PRId32 ", beyond the model's %" PRId64,
                    ids->id[i], V);
done:
    sy_ids_free(&other);
    free(text);
    return st;
}

/* All ranks get the ids. */
static sy_status share_text(evaluation *e) {
    sy_status st = SY_OK;
    sy_comm *comm = e->model.comm;
    sy_ids ids = {0};
    if (e->model.rank == 0) st = read_text(e, &ids);
    SY_TRY(sy_comm_agree(comm, st));
    e->n_ids = (int64_t)ids.n;
    SY_TRY(sy_comm_broadcast(comm, &e->n_ids, sizeof e->n_ids, 0));
    e->ids = malloc((size_t)e->n_ids * sizeof *e->ids);
    if (e->ids == NULL) st = sy_fail(SY_ERR_MEMORY, "no memory for the text's ids");
    SY_TRY(sy_comm_agree(comm, st));
    if (e->model.rank == 0) memcpy(e->ids, ids.id, ids.n * sizeof *e->ids);
    SY_TRY(sy_comm_broadcast(comm, e->ids, (size_t)e->n_ids * sizeof *e->ids, 0));
done:
    sy_ids_free(&ids);
    return st;
}

/* ---- models ---- */

static sy_status check_models(const evaluation *e) {
    const sy_options *o = e->options;
    int64_t window = o->window, most = e->model.spec->max_position;
    if (compares(e)) most = sy_min(most, e->reference.spec->max_position);
    if (window > most)
        return sy_fail(SY_ERR_USAGE,
                       "--ctx: %" PRId64 " tokens are beyond the model's context of %" PRId64,
                       window, most);
    if (compares(e) && e->reference.spec->vocab != e->model.spec->vocab)
        return sy_fail(SY_ERR_USAGE,
                       "%s has a vocabulary of %d and %s one of %d: they cannot be compared",
                       o->model, e->model.spec->vocab, o->against, e->reference.spec->vocab);
    return SY_OK;
}

/* A second model on the ranks of the first. It has a backend of its own, whose scratch is of its
 * own size. */
static sy_status open_reference(evaluation *e) {
    sy_status st = SY_OK;
    const sy_session *m = &e->model;
    sy_session *r = &e->reference;
    e->reference_options = *e->options;
    e->reference_options.model = e->options->against;
    e->reference_options.placement = NULL; /* it is for the model that is judged */
    *r = (sy_session){.options = &e->reference_options,
                      .comm = m->comm,
                      .rank = m->rank,
                      .n_ranks = m->n_ranks,
                      .live = m->live,
                      .pool = m->pool,
                      .n_threads = m->n_threads};
    SY_TRY(sy_device_open(r->options, r->comm, r->pool, &r->be));
    SY_TRY(sy_session_model(r));
done:
    return st;
}

/* The ranks are the first session's to close. */
static sy_status close_reference(evaluation *e, sy_status st) {
    sy_session *r = &e->reference;
    if (r->broken) e->model.broken = true;
    r->broken = false;
    r->comm = NULL;
    r->live = NULL;
    r->pool = NULL;
    return sy_session_close(r, st);
}

static sy_status open_models(evaluation *e) {
    sy_status st = SY_OK;
    SY_TRY(sy_session_open(e->options, &e->model));
    if (e->options->text_file == NULL) SY_FAIL(SY_ERR_USAGE, "eval needs --text FILE");
    SY_TRY(sy_session_model(&e->model));
    if (compares(e)) SY_TRY(open_reference(e));
    SY_TRY(sy_comm_agree(e->model.comm, check_models(e)));
done:
    return st;
}

static sy_status take_reference_rows(evaluation *e) {
    char need[32], has[32];
    uint64_t available = sy_mem_available();
    uint64_t row = (uint64_t)e->model.spec->vocab * sizeof(float);
    int64_t rows = sy_min(e->options->window, e->n_ids);
    if (!sy_mul_u64((uint64_t)rows, row, &e->reference_bytes) ||
        e->reference_bytes > available) {
        e->reference_bytes = 0;
        return sy_fail(SY_ERR_MEMORY,
                       "logits of %" PRId64
                       " tokens need %s, %s available; use a smaller --ctx",
                       rows, sy_format_bytes(need, sizeof need, (uint64_t)rows * row),
                       sy_format_bytes(has, sizeof has, available));
    }
    return sy_mem_alloc(&e->reference_rows, e->reference_bytes, "logits to compare with");
}

static sy_status read_weights(evaluation *e) {
    sy_status st = SY_OK;
    int64_t window = sy_min(e->options->window, e->n_ids);
    sy_engine_options wish = {.max_context = window,
                              .max_pages = sy_kv_pages(window),
                              .per_rank = 1,
                              .chunk = sy_min(e->options->chunk, window)};
    wish.max_outputs = wish.chunk;
    SY_TRY(sy_session_engine(&e->model, wish));
    if (!compares(e)) goto done;
    st = sy_session_engine(&e->reference, wish);
    if (st == SY_ERR_MEMORY)
        sy_status_context("%s, with %s in memory", e->options->against, e->options->model);
    SY_TRY(st);
    if (e->model.rank == 0) st = take_reference_rows(e);
    SY_TRY(sy_comm_agree(e->model.comm, st));
done:
    return st;
}

/* ---- windows ---- */

static sy_status run(evaluation *e, sy_session *s, sy_logits_sink sink) {
    e->at = 0;
    return sy_session_step(s,
                           sy_engine_logits(s->engine, e->ids + e->begin, e->n, NULL, sink, e));
}

static sy_status run_windows(evaluation *e) {
    sy_status st = SY_OK;
    e->rows_to_do = e->n_ids * (compares(e) ? 2 : 1);
    for (e->begin = 0; e->begin + 1 < e->n_ids; e->begin += e->n) {
        e->n = sy_min(e->options->window, e->n_ids - e->begin);
        if (compares(e)) SY_TRY(run(e, &e->reference, on_reference_rows));
        SY_TRY(run(e, &e->model, on_rows));
    }
    if (e->model.rank == 0) sy_out_progress("evaluating", 1, "");
done:
    return st;
}

/* ---- results ---- */

/* A path as a JSON string, to be freed; names that are no UTF-8 become null. */
static sy_status json_text(const char *text, char **out) {
    json_t *string = json_string(text);
    *out = string != NULL ? json_dumps(string, JSON_ENCODE_ANY) : strdup("null");
    json_decref(string);
    return *out != NULL ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory for a path");
}

static sy_status print_json(const evaluation *e) {
    sy_status st = SY_OK;
    const sums *s = &e->sums;
    double n = (double)s->n;
    char *model = NULL, *against = NULL;
    SY_TRY(json_text(e->options->model, &model));
    SY_TRY(sy_out_printf("{\"model\": %s, \"text_bytes\": %zu, \"tokens\": %" PRId64
                         ", \"scored_tokens\": %" PRId64 ", \"ctx\": %" PRId64
                         ", \"nll\": %.10g, \"perplexity\": %.10g",
                         model, e->text_bytes, e->n_ids, s->n, e->options->window, s->nll / n,
                         exp(s->nll / n)));
    if (compares(e)) {
        SY_TRY(json_text(e->options->against, &against));
        SY_TRY(sy_out_printf(", \"against\": %s, \"against_nll\": %.10g, "
                             "\"against_perplexity\": %.10g, \"kl\": %.10g, "
                             "\"same_top_1\": %.10g",
                             against, s->reference_nll / n, exp(s->reference_nll / n),
                             s->kl / n, (double)s->same_top / n));
    }
    SY_TRY(sy_out_printf("}\n"));
done:
    free(model);
    free(against);
    return st;
}

static sy_status print_text(const evaluation *e) {
    sy_status st = SY_OK;
    const sums *s = &e->sums;
    double n = (double)s->n;
    SY_TRY(sy_out_printf("perplexity %.6g (%" PRId64 " of %" PRId64
                         " tokens scored, windows of %" PRId64 ")\n",
                         exp(s->nll / n), s->n, e->n_ids, e->options->window));
    if (!compares(e)) goto done;
    SY_TRY(sy_out_printf("perplexity of %s: %.6g\n", e->options->against,
                         exp(s->reference_nll / n)));
    SY_TRY(sy_out_printf("KL divergence from it: %.6g nats a token\n", s->kl / n));
    SY_TRY(sy_out_printf("same likeliest token: %.4f %%\n", 100 * (double)s->same_top / n));
done:
    return st;
}

static sy_status print(const evaluation *e) {
    sy_status st = e->options->json ? print_json(e) : print_text(e);
    return st == SY_OK ? sy_out_flush() : st;
}

sy_status sy_cmd_eval(const sy_options *options) {
    sy_status st = SY_OK;
    evaluation e = {.options = options};
    SY_TRY(open_models(&e));
    SY_TRY(share_text(&e));
    SY_TRY(read_weights(&e));
    SY_TRY(run_windows(&e));
    if (e.model.rank == 0) st = print(&e);
    SY_TRY(sy_comm_agree(e.model.comm, st));
done:
    free(e.ids);
    sy_mem_free(e.reference_rows, e.reference_bytes);
    if (e.reference.options != NULL) st = close_reference(&e, st);
    return sy_session_close(&e.model, st);
}
