/* Experts: the map of all, how uneven each layer is, which are hot and which are never
 * chosen. */
#include <math.h>
#include <stdlib.h>

#include "launcher/report_chart.h"
#include "launcher/report_html.h"
#include "launcher/report_sections.h"

enum { MOST_HOT = 15, MOST_PAIRS = 10, MOST_NAMED = 40 };

typedef struct ranked {
    int l, index; /* index in report.layer; expert, or pair */
    double by;
} ranked;

/* ---- the map ---- */

static void
put_map(FILE *f, const sy_report *r, double *value, double *mean, const int *number) {
    size_t cols = (size_t)r->most_experts;
    for (int l = 0; l < r->n_layers; l++) {
        const sy_report_layer *layer = &r->layer[l];
        for (size_t e = 0; e < cols; e++)
            value[(size_t)l * cols + e] =
                e < (size_t)layer->n_experts ? layer->load.expert[e] : NAN;
        mean[l] = layer->load.all / layer->n_experts;
    }
    sy_heat heat = {.rows = r->n_layers,
                    .cols = r->most_experts,
                    .value = value,
                    .row_name = number,
                    .mean = mean,
                    .row_word = "layer",
                    .col_word = "expert",
                    .row_axis = "layer",
                    .col_axis = "expert",
                    .unit = "tokens",
                    .describes = "Heat map: tokens of each expert in each layer"};
    static const char how[] =
        "A row is a layer, a cell one of its experts. Orange has more tokens than the "
        "layer&#8217;s mean, blue fewer: even routing would be one quiet tone. Experts of "
        "different layers have nothing to do with one another, whatever their numbers.";
    char note[600];
    int group = sy_heat_group(&heat), used = snprintf(note, sizeof note, "%s", how);
    if (group > 1 && used < (int)sizeof note)
        snprintf(note + used, sizeof note - (size_t)used,
                 " For want of room a cell is the busiest of %d neighbours.", group);
    sy_html_open_figure(f, "Tokens per expert and layer, in terms of the layer&#8217;s mean",
                        note);
    sy_heat_draw(f, &heat);
    sy_html_close_figure(f);
    sy_heat_ratio_legend(f, true);
}

/* ---- figures of layers ---- */

static void put_lines(FILE *f, const sy_report *r, const int *number, double *y) {
    size_t L = (size_t)r->n_layers;
    double *busiest = y, *chance = y + L, *entropy = y + 2 * L, *even = y + 3 * L;
    for (size_t l = 0; l < L; l++) {
        const sy_report_load *load = &r->layer[l].load;
        bool any = load->all > 0;
        busiest[l] = any ? load->experts.is.max_over_mean : NAN;
        chance[l] = any ? load->experts.uniform.max_over_mean : NAN;
        entropy[l] = any ? load->experts.is.entropy : NAN;
        even[l] = any ? load->experts.uniform.entropy : NAN;
    }
    const sy_line loads[] = {{"busiest expert, max/mean", 0, false, busiest},
                             {"uniformly random router", 4, true, chance}};
    const sy_line entropies[] = {{"entropy of the router’s choices", 1, false, entropy},
                                 {"uniformly random router", 4, true, even}};
    sy_lines lines = {r->n_layers,
                      2,
                      number,
                      loads,
                      1,
                      "max/mean of the experts",
                      "Line chart: max/mean of the experts in each layer"};
    sy_html_open_figure(
        f, "How far the busiest expert of a layer is above the mean",
        "1 would be perfectly even. The dashed line is what a router gives that "
        "chooses at random, for as many tokens: only what is above it says "
        "something about the model.");
    sy_lines_draw(f, &lines);
    sy_html_close_figure(f);
    lines.line = entropies;
    lines.from = 1;
    lines.axis = "entropy, 1 = even";
    lines.describes = "Line chart: entropy of the experts in each layer";
    sy_html_open_figure(f, "Entropy of the experts&#8217; shares",
                        "1: all experts of the layer are used alike, 0: one takes all. Unlike "
                        "max/mean it looks at all experts, not at the busiest alone.");
    sy_lines_draw(f, &lines);
    sy_html_close_figure(f);
}

static void put_table(FILE *f, const sy_report *r) {
    static const char *const headings[] = {
        "layer",   "max/mean", "(max-mean)/mean",   "balancedness<br>mean/max",
        "entropy", "dead",     "hottest<br>expert", "its<br>tokens",
        NULL};
    fputs("<details><summary>Figures of all layers</summary>\n<div class=\"scroll\">\n", f);
    sy_html_open_table(f, headings);
    for (int l = 0; l < r->n_layers; l++) {
        const sy_report_layer *layer = &r->layer[l];
        const sy_report_measures *is = &layer->load.experts.is,
                                 *uniform = &layer->load.experts.uniform;
        int hot = 0;
        for (int e = 1; e < layer->n_experts; e++)
            if (layer->load.expert[e] > layer->load.expert[hot]) hot = e;
        fputs("<tr>", f);
        sy_html_cell(f, "%d", layer->layer);
        if (layer->load.all > 0) {
            sy_html_beside(f, is->max_over_mean, uniform->max_over_mean, 3);
            sy_html_beside(f, is->excess_over_mean, uniform->excess_over_mean, 3);
            sy_html_beside(f, is->balancedness, uniform->balancedness, 3);
            sy_html_beside(f, is->entropy, uniform->entropy, 4);
            fprintf(f, "<td>%.0f <i>%.1f</i></td>", is->unused, uniform->unused);
            sy_html_cell(f, "%d", hot);
            sy_html_cell(f, "%s", sy_html_count(layer->load.expert[hot]).text);
        } else {
            fputs("<td class=\"t\" colspan=\"7\">nothing was counted</td>", f);
        }
        fputs("</tr>\n", f);
    }
    sy_html_close_table(f);
    fputs("</div>\n<p>Small: a uniformly random router, for as many tokens.</p></details>\n",
          f);
}

/* ---- hot, dead, together ---- */

static int by_most(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->by != y->by) return x->by > y->by ? -1 : 1;
    if (x->l != y->l) return x->l < y->l ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

static void put_hot(FILE *f, const sy_report *r, const ranked *hot, int n) {
    static const char *const headings[] = {
        "layer", "expert", "tokens", "times<br>mean", "share of<br>tokens", "rank", NULL};
    sy_html_open_figure(
        f, "The hottest experts of all layers",
        "The share of tokens is how many of all tokens chose the expert; a rank "
        "that holds several of these works for all others. Small: the busiest "
        "expert of a uniformly random router.");
    sy_html_open_table(f, headings);
    for (int i = 0; i < n; i++) {
        const sy_report_layer *layer = &r->layer[hot[i].l];
        double x = layer->load.expert[hot[i].index];
        double tokens = layer->load.all / layer->top_k;
        fputs("<tr>", f);
        sy_html_cell(f, "%d", layer->layer);
        sy_html_cell(f, "%d", hot[i].index);
        sy_html_cell(f, "%s", sy_html_count(x).text);
        sy_html_beside(f, hot[i].by, layer->load.experts.uniform.max_over_mean, 2);
        sy_html_cell(f, "%.1f %%", 100 * x / tokens);
        int copies = 0;
        for (int s = 0; s < layer->n_slots; s++)
            copies += layer->slot_expert[s] == hot[i].index;
        if (copies > 1)
            sy_html_cell(f, "%d copies", copies);
        else
            sy_html_cell(f, "%d", layer->home[hot[i].index]);
        fputs("</tr>\n", f);
    }
    sy_html_close_table(f);
    sy_html_close_figure(f);
}

static void put_dead(FILE *f, const sy_report *r) {
    double dead = 0, chance = 0;
    for (int l = 0; l < r->n_layers; l++) {
        dead += r->layer[l].load.experts.is.unused;
        chance += r->layer[l].load.experts.uniform.unused;
    }
    fputs("<figure><figcaption><b>Dead experts</b><span>Experts that no token chose.</span>"
          "</figcaption>\n",
          f);
    if (dead == 0) {
        fputs("<p>There are none: every expert was chosen at least once.</p></figure>\n", f);
        return;
    }
    fprintf(f, "<p>%s in all; a random router would have left %.1f for as few tokens.</p>\n",
            sy_html_count(dead).text, chance);
    fputs("<details><summary>Their numbers</summary>\n<div class=\"scroll\">\n", f);
    static const char *const headings[] = {"layer", "dead", "<experts", NULL};
    sy_html_open_table(f, headings);
    for (int l = 0; l < r->n_layers; l++) {
        const sy_report_layer *layer = &r->layer[l];
        int n = 0;
        for (int e = 0; e < layer->n_experts; e++)
            n += layer->load.expert[e] == 0;
        if (n == 0) continue;
        fprintf(f, "<tr><td>%d</td><td>%d</td><td class=\"t\">", layer->layer, n);
        for (int e = 0, shown = 0; e < layer->n_experts && shown < MOST_NAMED; e++)
            if (layer->load.expert[e] == 0) fprintf(f, "%s%d", shown++ > 0 ? ", " : "", e);
        fprintf(f, "%s</td></tr>\n", n > MOST_NAMED ? ", &#8230;" : "");
    }
    sy_html_close_table(f);
    fputs("</div></details></figure>\n", f);
}

static void put_together(FILE *f, const sy_report *r, ranked *pair) {
    int n = 0;
    for (int l = 0; l < r->n_layers; l++)
        for (int i = 0; i < r->layer[l].n_pairs; i++)
            pair[n++] = (ranked){l, i, r->layer[l].pair[i].lift};
    if (n == 0) return;
    qsort(pair, (size_t)n, sizeof *pair, by_most);
    static const char *const headings[] = {
        "layer", "experts", "tokens with both", "times as often as by chance", "ranks", NULL};
    fputs("<details><summary>Experts that are chosen together</summary>\n<p>Of each "
          "layer&#8217;s "
          "most frequent pairs those that meet most beyond chance. On one rank such a pair "
          "saves a copy of the token.</p>\n<div class=\"scroll\">\n",
          f);
    sy_html_open_table(f, headings);
    for (int i = 0; i < n && i < MOST_PAIRS; i++) {
        const sy_report_layer *layer = &r->layer[pair[i].l];
        const sy_report_pair *p = &layer->pair[pair[i].index];
        fputs("<tr>", f);
        sy_html_cell(f, "%d", layer->layer);
        sy_html_cell(f, "%d and %d", p->a, p->b);
        sy_html_cell(f, "%s", sy_html_count(p->tokens).text);
        sy_html_cell(f, "%.2f", p->lift);
        sy_html_cell(f, "%d and %d", layer->home[p->a], layer->home[p->b]);
        fputs("</tr>\n", f);
    }
    sy_html_close_table(f);
    fputs("</div></details>\n", f);
}

static int find_hot(const sy_report *r, ranked *out) {
    int n = 0;
    for (int l = 0; l < r->n_layers; l++)
        for (int e = 0; e < r->layer[l].n_experts; e++) {
            double mean = r->layer[l].load.all / r->layer[l].n_experts;
            if (mean > 0) out[n++] = (ranked){l, e, r->layer[l].load.expert[e] / mean};
        }
    qsort(out, (size_t)n, sizeof *out, by_most);
    return n < MOST_HOT ? n : MOST_HOT;
}

void sy_report_put_experts(FILE *f, const sy_report *r) {
    size_t L = (size_t)r->n_layers, cells = L * (size_t)r->most_experts, pairs = 0;
    for (size_t l = 0; l < L; l++)
        pairs += (size_t)r->layer[l].n_pairs;
    sy_html_open_section(f, "experts", "Experts");
    double *value = calloc(cells + 1, sizeof *value), *y = calloc(4 * L + 1, sizeof *y);
    ranked *list = calloc((cells > pairs ? cells : pairs) + 1, sizeof *list);
    int *number = sy_report_layer_numbers(r);
    if (!sy_report_has_loads(r)) {
        fputs("<p>No token chose an expert, so there is nothing to show.</p>\n", f);
    } else if (value == NULL || y == NULL || list == NULL || number == NULL) {
        fputs("<p>There was not enough memory to draw this section.</p>\n", f);
    } else {
        put_map(f, r, value, y, number);
        put_lines(f, r, number, y);
        put_table(f, r);
        int n = find_hot(r, list);
        put_hot(f, r, list, n);
        put_dead(f, r);
        put_together(f, r, list);
    }
    free(value);
    free(y);
    free(list);
    free(number);
    sy_html_close_section(f);
}
