/* switchyard place: from expert loads to a placement. One plain process; no model is read. */
#include "launcher/cmd_place.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "launcher/commands.h"
#include "launcher/output.h"
#include "launcher/place_report.h"
#include "runtime/loads_file.h"
#include "topology/placement_file.h"

const char sy_place_help[] =
    "Reads loads as run --loads and profile write them, and places each layer's experts on "
    "the\n"
    "ranks so that the slowest rank is as fast as possible; of placements that are equally "
    "good\n"
    "it takes the one with the fewest rows between ranks. Several files are several profiles "
    "of\n"
    "the same model: the worst of them counts. Copies of an expert share its tokens evenly.\n"
    "Results do not depend on the placement.\n"
    "\n"
    "max/mean is the time of the slowest rank over the mean, (max - mean)/mean and "
    "balancedness\n"
    "(mean/max) say the same; all layers together: the sum of the largest over the sum of the\n"
    "means. The bound is proven: no placement in the same slots is below it. Rows and copies "
    "per\n"
    "token are those that travel, counted for tokens drawn by the loads.\n"
    "\n"
    "--json prints one object:\n"
    "  model, profiles, tokens, ranks, hosts, max_slots, max_copies, against, out\n"
    "  bound, gap     of all layers; gap = max_over_mean / bound - 1\n"
    "  before, after  max_over_mean, max_minus_mean_over_mean, balancedness, per_token "
    "(copies,\n"
    "                 rows, host_pairs, host_copies, host_rows), slots, extra_copies and\n"
    "                 worst_layer (layer, max_over_mean)\n"
    "  layers         one object each: layer, experts, top_k, bound, gap, before, after";

typedef struct placing {
    const sy_options *options;
    sy_loads_file **profile; /* [n_profiles] */
    int n_profiles, n_ranks, n_hosts;
    double *speed; /* [R], or NULL */
    double *cost;  /* [R], or NULL */
    int32_t *host; /* [R], or NULL */
    int n_layers;  /* of the model, as far as the loads tell */
    int *experts;  /* [n_layers] */
    sy_placement *before, *after;
    sy_balance_result *result; /* [n_layers] */
    sy_place_report report;
} placing;

static sy_placement_form form_of(const char *word) {
    if (strcmp(word, "trtllm") == 0) return SY_PLACEMENT_TRTLLM;
    return strcmp(word, "sglang") == 0 ? SY_PLACEMENT_SGLANG : SY_PLACEMENT_OURS;
}

/* ---- what is given ---- */

static sy_status read_profiles(placing *g) {
    sy_status st = SY_OK;
    const sy_texts *files = &g->options->files;
    g->n_profiles = files->n;
    g->profile = calloc((size_t)files->n, sizeof(sy_loads_file *));
    if (g->profile == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for expert loads");
    for (int i = 0; i < files->n; i++) {
        SY_TRY(sy_loads_read(files->text[i], &g->profile[i]));
        if (g->profile[i]->tokens == 0)
            SY_FAIL(SY_ERR_FORMAT, "%s: no token was counted", files->text[i]);
        if (i > 0)
            SY_TRY(
                sy_loads_match(g->profile[0], files->text[0], g->profile[i], files->text[i]));
    }
    g->n_ranks = g->options->place_ranks > 0 ? g->options->place_ranks : g->profile[0]->n_ranks;
    g->n_layers = g->profile[0]->layer[g->profile[0]->n_layers - 1].layer + 1;
    g->experts = calloc((size_t)g->n_layers, sizeof *g->experts);
    if (g->experts == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
    for (int i = 0; i < g->profile[0]->n_layers; i++)
        g->experts[g->profile[0]->layer[i].layer] = g->profile[0]->layer[i].experts;
done:
    return st;
}

/* "1,1,2,1": a positive number for each rank. */
static sy_status read_speeds(placing *g) {
    const char *text = g->options->speeds;
    if (text == NULL) return SY_OK;
    g->speed = calloc((size_t)g->n_ranks, sizeof *g->speed);
    if (g->speed == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for --speeds");
    for (int r = 0; r < g->n_ranks; r++) {
        char *end;
        double value = strtod(text, &end);
        if (end == text || !(value >= 1e-3 && value <= 1e3))
            return sy_fail(SY_ERR_USAGE,
                           "--speeds: expected %d numbers from 0.001 to 1000, number %d is "
                           "\"%.20s\"",
                           g->n_ranks, r + 1, text);
        bool last = r + 1 == g->n_ranks;
        if (*end != (last ? '\0' : ','))
            return sy_fail(SY_ERR_USAGE,
                           "--speeds: expected a number for each of %d ranks in "
                           "\"%s\"",
                           g->n_ranks, g->options->speeds);
        g->speed[r] = value;
        text = end + 1;
    }
    return SY_OK;
}

/* One number: hosts of so many ranks, of which the last may have fewer; several: of each host. A
 * byte to or from a rank costs what part of the tokens is at home on other hosts. */
static sy_status read_hosts(placing *g) {
    sy_status st = SY_OK;
    int64_t *sizes = NULL, n = 0;
    g->n_hosts = 1;
    if (g->options->ranks_per_host == NULL) goto done;
    SY_TRY(
        sy_parse_int_list(g->options->ranks_per_host, "--ranks-per-host", 1, 4096, &sizes, &n));
    g->host = calloc((size_t)g->n_ranks, sizeof *g->host);
    g->cost = calloc((size_t)g->n_ranks, sizeof *g->cost);
    if (g->host == NULL || g->cost == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for --ranks-per-host");
    int64_t at = 0, host = 0;
    for (; at < g->n_ranks && (n == 1 || host < n); host++) {
        int64_t size = sizes[n == 1 ? 0 : host], end = at + size;
        if (end > g->n_ranks && n > 1) break;
        end = sy_min(end, g->n_ranks);
        for (int64_t r = at; r < end; r++) {
            g->host[r] = (int32_t)host;
            g->cost[r] = 1 - (double)(end - at) / g->n_ranks;
        }
        at = end;
    }
    if (at != g->n_ranks || (n > 1 && host != n))
        SY_FAIL(SY_ERR_USAGE, "--ranks-per-host: \"%s\" does not sum to %d ranks",
                g->options->ranks_per_host, g->n_ranks);
    g->n_hosts = (int)host;
    if (g->n_hosts == 1) { /* all traffic is within it, and counts alike */
        free(g->cost);
        g->cost = NULL;
    }
done:
    free(sizes);
    return st;
}

static sy_status read_before(placing *g) {
    sy_status st = SY_OK;
    const char *path = g->options->place_against;
    sy_placement_list *list = NULL;
    sy_placement_target target = {g->profile[0]->model, g->n_layers, g->experts, g->n_ranks};
    if (path == NULL) {
        st = sy_placement_contiguous(g->n_layers, g->experts, g->n_ranks, &g->before);
        goto done;
    }
    SY_TRY(sy_placement_read(path, SY_PLACEMENT_ANY, &list));
    SY_TRY(sy_placement_list_place(list, path, &target, &g->before));
done:
    sy_placement_list_destroy(list);
    return st;
}

/* ---- placing ---- */

static bool is_interrupted(void *context) {
    (void)context;
    return sy_interrupted();
}

/* The layer's question; load [P, E] and mean [E] are filled. */
static sy_balance_problem
layer_problem(const placing *g, int index, double *load, double *mean) {
    const sy_options *o = g->options;
    const sy_loads_layer *layer = &g->profile[0]->layer[index];
    int E = layer->experts, least = (int)sy_ceil_div(E, g->n_ranks);
    memset(mean, 0, (size_t)E * sizeof *mean);
    for (int p = 0; p < g->n_profiles; p++) {
        double all = (double)g->profile[p]->tokens;
        for (int e = 0; e < E; e++) {
            double n = (double)sy_loads_of(g->profile[p], index, e);
            load[(size_t)p * (size_t)E + (size_t)e] = n;
            mean[e] += n / all;
        }
    }
    /* Foreign forms have equally many slots on every rank: copies fill what would stay empty. */
    bool fill = strcmp(o->place_format, "switchyard") != 0;
    bool may_copy = o->place_slots > 0 || (fill && E % g->n_ranks != 0);
    int copies = o->max_copies > 0 ? o->max_copies : may_copy ? g->n_ranks : 1;
    return (sy_balance_problem){.n_experts = E,
                                .n_ranks = g->n_ranks,
                                .top_k = layer->top_k,
                                .max_slots = o->place_slots > 0 ? o->place_slots : least,
                                .max_copies = (int)sy_min(copies, g->n_ranks),
                                .fill = fill,
                                .n_profiles = g->n_profiles,
                                .load = load,
                                .speed = g->speed,
                                .cost = g->cost,
                                .stop = is_interrupted};
}

static sy_status place_layer(placing *g, int index, double *load, double *mean) {
    const sy_loads_layer *layer = &g->profile[0]->layer[index];
    sy_balance_problem problem = layer_problem(g, index, load, mean);
    sy_balance_result *result = &g->result[layer->layer];
    sy_place_layer *report = &g->report.layer[index];
    sy_status st = sy_balance_layer(&problem, result);
    if (st != SY_OK && st != SY_ERR_INTERRUPTED) sy_status_context("layer %d", layer->layer);
    if (st != SY_OK) return st;
    g->report.max_slots = (int)sy_max(g->report.max_slots, problem.max_slots);
    g->report.max_copies = problem.max_copies;
    *report = (sy_place_layer){.layer = layer->layer,
                               .experts = layer->experts,
                               .top_k = layer->top_k,
                               .bound = result->bound};
    return sy_place_measure(&problem, mean, g->host, &g->before->layer[layer->layer],
                            &report->before);
}

/* The results as one placement. */
static sy_status join_layers(placing *g) {
    sy_status st = SY_OK;
    size_t L = (size_t)g->n_layers;
    const int32_t **n_slots = calloc(L, sizeof *n_slots), **slot = calloc(L, sizeof *slot);
    if (n_slots == NULL || slot == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
    for (size_t l = 0; l < L; l++) {
        n_slots[l] = g->result[l].n_slots;
        slot[l] = g->result[l].slot_expert;
    }
    SY_TRY(
        sy_placement_from_slots(g->n_layers, g->experts, g->n_ranks, n_slots, slot, &g->after));
done:
    free(n_slots);
    free(slot);
    return st;
}

static sy_status place_all(placing *g) {
    sy_status st = SY_OK;
    const sy_loads_file *first = g->profile[0];
    int most = 0;
    for (int i = 0; i < first->n_layers; i++)
        most = (int)sy_max(most, first->layer[i].experts);
    double *load = calloc((size_t)g->n_profiles * (size_t)most, sizeof *load);
    double *mean = calloc((size_t)most, sizeof *mean);
    g->result = calloc((size_t)g->n_layers, sizeof *g->result);
    g->report.layer = calloc((size_t)g->n_layers, sizeof *g->report.layer);
    g->report.n_layers = first->n_layers;
    if (load == NULL || mean == NULL || g->result == NULL || g->report.layer == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
    for (int i = 0; i < first->n_layers; i++) {
        SY_TRY(place_layer(g, i, load, mean));
        if (sy_interrupted()) SY_FAIL(SY_ERR_INTERRUPTED, "interrupted");
        sy_out_progress("placing experts", (i + 1.0) / first->n_layers, "");
    }
    SY_TRY(join_layers(g));
    for (int i = 0; i < first->n_layers; i++) {
        if (sy_interrupted()) SY_FAIL(SY_ERR_INTERRUPTED, "interrupted");
        sy_balance_problem problem = layer_problem(g, i, load, mean);
        SY_TRY(sy_place_measure(&problem, mean, g->host,
                                &g->after->layer[first->layer[i].layer],
                                &g->report.layer[i].after));
    }
done:
    free(load);
    free(mean);
    return st;
}

static sy_status report_all(placing *g) {
    const sy_options *o = g->options;
    sy_place_report *r = &g->report;
    r->model = g->profile[0]->model;
    r->before = o->place_against;
    r->n_profiles = g->n_profiles;
    r->n_ranks = g->n_ranks;
    r->n_hosts = g->n_hosts;
    r->out = o->place_out;
    for (int p = 0; p < g->n_profiles; p++)
        r->tokens += g->profile[p]->tokens;
    sy_status st = o->json ? sy_place_print_json(r) : sy_place_print_text(r);
    return st == SY_OK ? sy_out_flush() : st;
}

static void close_placing(placing *g) {
    for (int i = 0; g->profile != NULL && i < g->n_profiles; i++)
        sy_loads_file_free(g->profile[i]);
    for (int l = 0; g->result != NULL && l < g->n_layers; l++)
        sy_balance_free(&g->result[l]);
    free(g->profile);
    free(g->result);
    free(g->speed);
    free(g->cost);
    free(g->host);
    free(g->experts);
    free(g->report.layer);
    sy_placement_destroy(g->before);
    sy_placement_destroy(g->after);
}

static sy_status place_loads(const sy_options *o) {
    sy_status st = SY_OK;
    placing g = {.options = o};
    SY_TRY(read_profiles(&g));
    SY_TRY(read_speeds(&g));
    SY_TRY(read_hosts(&g));
    SY_TRY(read_before(&g));
    SY_TRY(place_all(&g));
    if (o->place_out != NULL)
        SY_TRY(sy_placement_write(g.after, g.profile[0]->model, form_of(o->place_format),
                                  o->place_out));
    SY_TRY(report_all(&g));
done:
    close_placing(&g);
    return st;
}

/* ---- converting ---- */

static sy_status convert(const sy_options *o) {
    sy_status st = SY_OK;
    sy_placement_list *list = NULL;
    sy_placement *placement = NULL;
    int n_layers, *experts = NULL;
    SY_TRY(sy_placement_read(o->place_from, SY_PLACEMENT_ANY, &list));
    int n_ranks = o->place_ranks > 0 ? o->place_ranks : list->n_ranks;
    if (n_ranks == 0)
        SY_FAIL(SY_ERR_USAGE, "%s does not tell the number of ranks: give --ranks",
                o->place_from);
    SY_TRY(sy_placement_list_shape(list, &n_layers, &experts));
    sy_placement_target target = {NULL, n_layers, experts, n_ranks};
    SY_TRY(sy_placement_list_place(list, o->place_from, &target, &placement));
    SY_TRY(sy_placement_write(placement, list->model, form_of(o->place_format), o->place_out));
done:
    free(experts);
    sy_placement_destroy(placement);
    sy_placement_list_destroy(list);
    return st;
}

/* Options that would silently do nothing. */
static sy_status check_effect(const sy_options *o) {
    const struct {
        bool given;
        const char *name;
    } of_placing[] = {{o->place_slots != 0, "--slots"},
                      {o->max_copies != 0, "--max-copies"},
                      {o->ranks_per_host != NULL, "--ranks-per-host"},
                      {o->speeds != NULL, "--speeds"},
                      {o->place_against != NULL, "--against"},
                      {o->json, "--json"}};
    for (size_t i = 0; o->place_from != NULL && i < sizeof of_placing / sizeof *of_placing; i++)
        if (of_placing[i].given)
            return sy_fail(SY_ERR_USAGE, "%s has no effect with --from, which places nothing",
                           of_placing[i].name);
    if (o->place_out == NULL && o->place_format_given)
        return sy_fail(SY_ERR_USAGE, "--format says how to write a file: it needs --out FILE");
    return SY_OK;
}

static bool is_same_file(const char *a, const char *b) {
    struct stat x, y;
    return a != NULL && b != NULL && stat(a, &x) == 0 && stat(b, &y) == 0 &&
           S_ISREG(x.st_mode) && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Nothing that is read is written over. */
static sy_status check_out(const sy_options *o) {
    bool same = is_same_file(o->place_out, o->place_from) ||
                is_same_file(o->place_out, o->place_against);
    for (int i = 0; i < o->files.n && !same; i++)
        same = is_same_file(o->place_out, o->files.text[i]);
    if (same) return sy_fail(SY_ERR_USAGE, "--out %s is a file that is read", o->place_out);
    return SY_OK;
}

sy_status sy_cmd_place(const sy_options *o) {
    bool converts = o->place_from != NULL;
    if (converts && o->files.n > 0)
        return sy_fail(SY_ERR_USAGE, "--from takes a placement, and no loads beside it");
    if (converts && o->place_out == NULL)
        return sy_fail(SY_ERR_USAGE, "--from needs --out FILE");
    if (!converts && o->files.n == 0)
        return sy_fail(SY_ERR_USAGE,
                       "no loads given: switchyard place LOADS.json, as written by "
                       "switchyard run --loads");
    sy_status st = check_effect(o);
    if (st == SY_OK) st = check_out(o);
    if (st != SY_OK) return st;
    return converts ? convert(o) : place_loads(o);
}
