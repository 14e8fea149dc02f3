/* switchyard profile: texts or prompts through a model, and what its experts and ranks did. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "base/log.h"
#include "launcher/commands.h"
#include "launcher/output.h"
#include "launcher/profile_view.h"
#include "launcher/profiling.h"
#include "launcher/prompts.h"
#include "launcher/session.h"

#define MAX_TEXT ((uint64_t)64 << 20)
enum { PER_RANK = 8, MOST_LABELS = 16 };

/* What runs under one label. All ranks know the name, rank 0 alone the rest. */
typedef struct section {
    char name[SY_PROFILE_LABEL_MAX];
    const char *file; /* of a text, or NULL: --prompts */
    sy_ids ids;       /* of the text */
    sy_request *request;
    int n_requests;
} section;

typedef struct profiling {
    const sy_options *options;
    sy_session session;
    section section[MOST_LABELS];
    int n_sections;
    sy_prompts prompts;
    int64_t work, done; /* rows of prompts and tokens to generate; before this section */
    int64_t generated;  /* tokens of this section */
    const char *label;  /* of this section */
} profiling;

/* Rank 0 tells the others. */
typedef struct run_shape {
    int64_t context, most_requests;
} run_shape;

/* ---- what is asked for ---- */

static sy_status add_section(profiling *p, const char *name, size_t n, const char *file) {
    if (n == 0 || n >= SY_PROFILE_LABEL_MAX)
        return sy_fail(SY_ERR_USAGE, "--label: a name has 1 to %d bytes, found %zu",
                       SY_PROFILE_LABEL_MAX - 1, n);
    if (p->n_sections == MOST_LABELS)
        return sy_fail(SY_ERR_USAGE, "--label: at most %d", MOST_LABELS);
    if (!sy_utf8_valid(name, n)) return sy_fail(SY_ERR_USAGE, "--label: a name is not UTF-8");
    section *s = &p->section[p->n_sections];
    *s = (section){.file = file};
    memcpy(s->name, name, n);
    for (int i = 0; i < p->n_sections; i++)
        if (strcmp(p->section[i].name, s->name) == 0)
            return sy_fail(SY_ERR_USAGE, "--label: the name %s is given twice", s->name);
    p->n_sections++;
    return SY_OK;
}

static sy_status find_sections(profiling *p) {
    sy_status st = SY_OK;
    const sy_options *o = p->options;
    for (int i = 0; i < o->label.n; i++) {
        const char *text = o->label.text[i], *equals = strchr(text, '=');
        if (equals == NULL || equals[1] == '\0')
            SY_FAIL(SY_ERR_USAGE, "--label: expected NAME=FILE, found \"%s\"", text);
        SY_TRY(add_section(p, text, (size_t)(equals - text), equals + 1));
    }
    if (o->text_file != NULL) SY_TRY(add_section(p, "text", 4, o->text_file));
    if (o->prompts_file != NULL) SY_TRY(add_section(p, "prompts", 7, NULL));
    if (p->n_sections == 0)
        SY_FAIL(SY_ERR_USAGE, "profile needs --text FILE, --prompts FILE or --label NAME=FILE");
done:
    return st;
}

/* ---- requests, on rank 0 ---- */

static sy_status take_requests(section *s, int64_t n) {
    s->request = calloc((size_t)n, sizeof *s->request);
    s->n_requests = (int)n;
    return s->request != NULL ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory for the prompts");
}

/* Windows of a text; one token behind each is sampled, since a request makes one at least. */
static sy_status read_text(profiling *p, section *s) {
    sy_status st = SY_OK;
    char *text = NULL;
    size_t size;
    int64_t V = p->session.spec->vocab, window = p->options->window;
    if (p->session.tokenizer == NULL)
        SY_FAIL(SY_ERR_USAGE, "%s has no tokenizer, so it cannot read a text",
                p->options->model);
    SY_TRY(sy_read_file(s->file, MAX_TEXT, &text, &size));
    SY_TRY(sy_tokenizer_encode(p->session.tokenizer, text, size, SY_ENCODE_PLAIN, &s->ids));
    if (s->ids.n == 0) SY_FAIL(SY_ERR_USAGE, "%s is empty", s->file);
    for (size_t i = 0; i < s->ids.n; i++)
        if (s->ids.id[i] < 0 || s->ids.id[i] >= V)
            SY_FAIL(SY_ERR_FORMAT,
                    "the tokenizer gives id %" PRId32 ", beyond the model's %" PRId64,
                    s->ids.id[i], V);
    int64_t n = (int64_t)s->ids.n;
    SY_TRY(take_requests(s, sy_ceil_div(n, window)));
    for (int i = 0; i < s->n_requests; i++)
        s->request[i] = (sy_request){.prompt = s->ids.id + i * window,
                                     .n_prompt = sy_min(window, n - i * window),
                                     .max_tokens = 1,
                                     .sampling = {.top_p = 1}};
done:
    free(text);
    return st;
}

static sy_status read_prompts(profiling *p, section *s) {
    sy_status st = SY_OK;
    SY_TRY(
        sy_prompts_read(p->options, p->session.tokenizer, p->session.spec->vocab, &p->prompts));
    SY_TRY(take_requests(s, p->prompts.n));
    for (int i = 0; i < s->n_requests; i++) {
        const sy_ids *ids = &p->prompts.prompt[i].ids;
        s->request[i] = (sy_request){.prompt = ids->id,
                                     .n_prompt = (int64_t)ids->n,
                                     .max_tokens = p->options->max_tokens,
                                     .sampling = {.top_p = 1}};
    }
done:
    return st;
}

static sy_status prepare(profiling *p, run_shape *out) {
    sy_status st = SY_OK;
    int64_t most = p->session.spec->max_position;
    for (int i = 0; i < p->n_sections; i++) {
        section *s = &p->section[i];
        SY_TRY(s->file != NULL ? read_text(p, s) : read_prompts(p, s));
        out->most_requests = sy_max(out->most_requests, s->n_requests);
        for (int k = 0; k < s->n_requests; k++) {
            int64_t n = s->request[k].n_prompt + s->request[k].max_tokens;
            if (n > most)
                SY_FAIL(SY_ERR_USAGE,
                        "%" PRId64 " tokens with %" PRId64
                        " to generate are beyond the model's context of %" PRId64
                        "; use a smaller %s",
                        s->request[k].n_prompt, s->request[k].max_tokens, most,
                        s->file != NULL ? "--ctx" : "--max-tokens");
            out->context = sy_max(out->context, n);
            p->work += n;
        }
    }
    SY_TRY(sy_profiling_prepare(p->options)); /* last: what is refused leaves no directory */
done:
    return st;
}

/* ---- running ---- */

static void show_progress(const profiling *p, int64_t rows) {
    sy_out_progress("profiling", (double)(p->done + p->generated + rows) / (double)p->work,
                    p->label);
}

static bool on_token(void *context, int request, const sy_token *token) {
    profiling *p = context;
    (void)request;
    (void)token;
    p->generated++;
    return false;
}

static bool on_step(void *context) {
    (void)context;
    return sy_interrupted();
}

static void on_prefill(void *context, int64_t done, int64_t of) {
    (void)of;
    show_progress(context, done);
}

/* Interrupted or not: what has run counts. */
static sy_status run_section(profiling *p, section *s, bool *interrupted) {
    sy_status st = SY_OK;
    sy_engine_stats stats = {0};
    const sy_engine_events events = {on_token, on_step, on_prefill, p};
    p->label = s->name;
    p->generated = 0;
    SY_TRY(sy_profiling_begin(&p->session, s->name));
    SY_TRY(sy_session_step(&p->session, sy_engine_generate(p->session.engine, s->request,
                                                           s->n_requests, &events, &stats)));
    SY_TRY(sy_profiling_collect(&p->session));
    for (int i = 0; i < s->n_requests; i++)
        p->done += s->request[i].n_prompt + s->request[i].max_tokens;
    *interrupted = stats.interrupted;
    SY_TRY(sy_comm_broadcast(p->session.comm, interrupted, sizeof *interrupted, 0));
done:
    return st;
}

static sy_status open_engine(profiling *p, const run_shape *shape) {
    int64_t per_rank = sy_min(sy_ceil_div(shape->most_requests, p->session.n_ranks), PER_RANK);
    sy_engine_options wish = {.max_context = shape->context,
                              .max_pages = per_rank * sy_kv_pages(shape->context),
                              .per_rank = (int)per_rank,
                              .chunk = sy_max(p->options->chunk, per_rank),
                              .max_outputs = per_rank,
                              .profile = sy_profiling_wish(p->options)};
    return sy_session_engine(&p->session, wish);
}

static bool wants_color(const sy_options *o) {
    if (strcmp(o->color, "auto") == 0) return sy_out_is_terminal();
    return strcmp(o->color, "always") == 0;
}

static sy_status show(profiling *p) {
    sy_status st = SY_OK;
    sy_profile *profile = sy_engine_runner(p->session.engine)->profile;
    sy_out_progress("profiling", 1, "");
    if (p->options->json)
        SY_TRY(sy_profiling_print_json(&p->session));
    else
        SY_TRY(sy_profile_show(sy_profile_get_data(profile), p->session.comm,
                               wants_color(p->options)));
    SY_TRY(sy_out_flush());
    if (p->options->profile_dir == NULL)
        SY_INFO("no files were written; --out DIR keeps the profile");
done:
    return st;
}

sy_status sy_cmd_profile(const sy_options *options) {
    sy_status st = SY_OK;
    profiling p = {.options = options};
    run_shape shape = {0};
    sy_error_text why;
    bool interrupted = false;
    SY_TRY(sy_session_open(options, &p.session));
    SY_TRY(sy_comm_agree(p.session.comm, find_sections(&p)));
    SY_TRY(sy_session_model(&p.session));
    if (p.session.rank == 0) st = prepare(&p, &shape);
    SY_TRY(sy_comm_agree(p.session.comm, st));
    SY_TRY(sy_comm_broadcast(p.session.comm, &shape, sizeof shape, 0));
    SY_TRY(open_engine(&p, &shape));
    for (int i = 0; i < p.n_sections && !interrupted; i++)
        SY_TRY(run_section(&p, &p.section[i], &interrupted));
    SY_TRY(sy_profiling_gather(&p.session));
    /* What was measured is shown even if its files could not be written. */
    sy_status written = sy_profiling_write(&p.session);
    if (written == SY_ERR_COMM || written == SY_ERR_PEER) SY_TRY(written);
    sy_status_save(&why);
    if (p.session.rank == 0) st = show(&p);
    if (st == SY_OK && written == SY_OK && interrupted)
        st = sy_fail(SY_ERR_INTERRUPTED, "interrupted");
    SY_TRY(sy_comm_agree(p.session.comm, st));
    sy_status_restore(&why); /* on which the ranks agree already */
    st = written;
done:
    for (int i = 0; i < p.n_sections; i++) {
        sy_ids_free(&p.section[i].ids);
        free(p.section[i].request);
    }
    sy_prompts_free(&p.prompts);
    return sy_session_close(&p.session, st);
}
