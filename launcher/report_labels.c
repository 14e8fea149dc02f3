/* Kinds of text beside one another: how far their experts differ, and which specialise. */
#include <math.h>
#include <stdlib.h>

#include "base/checked.h"
#include "launcher/report_chart.h"
#include "launcher/report_html.h"
#include "launcher/report_sections.h"

enum { MULTIPLE_WIDTH = 510, MULTIPLE_CELLS = 12000, MOST_MULTIPLES = 8 };
enum { MOST_LINES = 5, MOST_SPECIAL = 12, MOST_COMPARED = 28, NAME = 140 };
#define CLEAR_Z 4.0 /* standard errors; thousands of experts reach 3 by chance */

typedef struct special {
    int comparison, l;
    const sy_report_special *of;
} special;

static void pair_name(const sy_report *r, const sy_report_comparison *c, char *out) {
    char a[NAME / 2 - 4], b[NAME / 2 - 4];
    snprintf(out, NAME, "%s and %s", sy_html_cut(a, sizeof a, r->label[c->a].name),
             sy_html_cut(b, sizeof b, r->label[c->b].name));
}

/* Total variation: the part of the choices that would have to move. */
static double distance(double overlap) {
    return fmax(0, 1 - overlap);
}

/* ---- distances ---- */

static void put_distances(FILE *f, const sy_report *r, const int *number, double *y) {
    size_t L = (size_t)r->n_layers;
    int n = (int)sy_min(r->n_comparisons, MOST_LINES - 1);
    sy_line line[MOST_LINES];
    char name[MOST_LINES][NAME];
    for (int i = 0; i < n; i++) {
        const sy_report_comparison *c = &r->comparison[i];
        for (size_t l = 0; l < L; l++)
            y[(size_t)i * L + l] = distance(c->overlap[l]);
        pair_name(r, c, name[i]);
        line[i] = (sy_line){name[i], i, false, y + (size_t)i * L};
    }
    double *chance = y + (size_t)n * L;
    for (size_t l = 0; l < L; l++) {
        chance[l] = 0;
        for (int i = 0; i < n; i++)
            chance[l] = fmax(chance[l], distance(r->comparison[i].uniform_overlap[l]));
    }
    line[n] = (sy_line){n > 1 ? "chance alone (the largest of the pairs)" : "chance alone", 4,
                        true, chance};
    sy_lines lines = {r->n_layers,
                      n + 1,
                      number,
                      line,
                      0,
                      "distance",
                      "Line chart: distance between the labels in each layer"};
    sy_html_open_figure(
        f, "Distance between the labels&#8217; choices",
        "Total variation: the part of one label&#8217;s choices that would have to "
        "move to other experts to look like the other label&#8217;s. 0: the same "
        "experts, 1: none in common. Two samples of one text differ too, by the "
        "dashed line.");
    sy_lines_draw(f, &lines);
    if (r->n_comparisons > n) fputs("<p>The first four pairs of labels are drawn.</p>\n", f);
    sy_html_close_figure(f);
}

/* ---- maps ---- */

static void
put_multiple(FILE *f, const sy_report *r, const sy_report_label *label, const int *number) {
    size_t cols = (size_t)r->most_experts, L = (size_t)r->n_layers;
    double *value = calloc(L * cols + 1, sizeof *value), *mean = calloc(L + 1, sizeof *mean);
    if (value == NULL || mean == NULL) goto done;
    for (size_t l = 0; l < L; l++) {
        size_t E = (size_t)r->layer[l].n_experts;
        for (size_t e = 0; e < cols; e++)
            value[l * cols + e] = e < E ? label->load[l].expert[e] : NAN;
        mean[l] = label->load[l].all / (double)E;
    }
    fputs("<div><h3>", f);
    sy_html_text(f, label->name);
    fprintf(f, ", %s tokens</h3>\n", sy_html_count(label->tokens).text);
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
                    .describes = "Heat map of one label: tokens of each expert in each layer",
                    .width = MULTIPLE_WIDTH,
                    .most_cells = MULTIPLE_CELLS};
    sy_heat_draw(f, &heat);
    fputs("</div>\n", f);
done:
    free(value);
    free(mean);
}

static void put_multiples(FILE *f, const sy_report *r, const int *number) {
    int n = (int)sy_min(r->n_labels, MOST_MULTIPLES);
    sy_html_open_figure(f, "Tokens per expert and layer, label by label",
                        "Each in terms of the label&#8217;s own mean of the layer, in the "
                        "colours of the map of "
                        "all. A cell that is orange in one map and blue in another is a "
                        "specialist. Where there "
                        "are many experts a cell is the busiest of some neighbours.");
    fputs("<div class=\"multiples\">\n", f);
    for (int i = 0; i < n; i++)
        put_multiple(f, r, &r->label[i], number);
    fputs("</div>\n", f);
    sy_html_close_figure(f);
    sy_heat_ratio_legend(f, true);
    if (r->n_labels > n) fputs("<p>The first eight labels are drawn.</p>\n", f);
}

/* ---- specialists ---- */

static int by_most(const void *a, const void *b) {
    const special *x = a, *y = b;
    double p = fabs(x->of->z), q = fabs(y->of->z);
    if (p != q) return p > q ? -1 : 1;
    if (x->l != y->l) return x->l < y->l ? -1 : 1;
    return x->of->expert < y->of->expert ? -1 : x->of->expert > y->of->expert;
}

static void put_row(FILE *f, const sy_report *r, const special *s) {
    double E = r->layer[s->l].n_experts, p = s->of->p, q = s->of->q;
    fputs("<tr>", f);
    sy_html_cell(f, "%d", r->layer[s->l].layer);
    sy_html_cell(f, "%d", s->of->expert);
    sy_html_cell(f, "%.2f", p * E);
    sy_html_cell(f, "%.2f", q * E);
    if (p > 0 && q > 0)
        sy_html_cell(f, "%.1f times", p > q ? p / q : q / p);
    else
        sy_html_cell(f, "only here");
    sy_html_cell(f, "%.1f", fabs(s->of->z));
    fputs("</tr>\n", f);
}

/* Those of list[n] that the first (else the second) label of comparison c chooses more
 * often. */
static void
put_side(FILE *f, const sy_report *r, int c, bool first, const special *list, int n) {
    const sy_report_comparison *of = &r->comparison[c];
    int shown = 0;
    for (int i = 0; i < n && shown < MOST_SPECIAL; i++)
        shown += (list[i].of->z > 0) == first && fabs(list[i].of->z) >= CLEAR_Z;
    fputs("<h3>", f);
    sy_html_text(f, r->label[first ? of->a : of->b].name);
    fputs(" more than ", f);
    sy_html_text(f, r->label[first ? of->b : of->a].name);
    fputs("</h3>\n", f);
    if (shown == 0) {
        fputs("<p>No expert stands clearly out.</p>\n", f);
        return;
    }
    fputs("<table><thead><tr><th>layer</th><th>expert</th><th>", f);
    sy_html_text(f, r->label[of->a].name);
    fputs(",<br>times mean</th><th>", f);
    sy_html_text(f, r->label[of->b].name);
    fputs(
        ",<br>times mean</th><th>more<br>often by</th><th>standard<br>errors</th></tr></thead>"
        "<tbody>\n",
        f);
    shown = 0;
    for (int i = 0; i < n && shown < MOST_SPECIAL; i++)
        if ((list[i].of->z > 0) == first && fabs(list[i].of->z) >= CLEAR_Z) {
            put_row(f, r, &list[i]);
            shown++;
        }
    fputs("</tbody></table>\n", f);
}

static void put_specialists(FILE *f, const sy_report *r, int c) {
    const sy_report_comparison *of = &r->comparison[c];
    size_t all = 0;
    for (int l = 0; l < r->n_layers; l++)
        all += (size_t)of->n_special[l];
    special *list = calloc(all + 1, sizeof *list);
    int n = 0;
    if (list == NULL) return;
    for (int l = 0; l < r->n_layers; l++)
        for (int i = 0; i < of->n_special[l]; i++)
            list[n++] = (special){c, l, &of->list[l][i]};
    qsort(list, (size_t)n, sizeof *list, by_most);
    fputs("<div class=\"multiples\">\n<div>", f);
    put_side(f, r, c, true, list, n);
    fputs("</div>\n<div>", f);
    put_side(f, r, c, false, list, n);
    fputs("</div>\n</div>\n", f);
    free(list);
}

static void put_table(FILE *f, const sy_report *r) {
    fputs("<details><summary>Distances of all layers</summary>\n<div class=\"scroll\">\n"
          "<table><thead><tr><th>layer</th>",
          f);
    int n = (int)sy_min(r->n_comparisons, MOST_COMPARED);
    for (int i = 0; i < n; i++) {
        char name[NAME];
        pair_name(r, &r->comparison[i], name);
        fputs("<th>", f);
        sy_html_text(f, name);
        fputs("</th>", f);
    }
    fputs("</tr></thead><tbody>\n", f);
    for (int l = 0; l < r->n_layers; l++) {
        fprintf(f, "<tr><td>%d</td>", r->layer[l].layer);
        for (int i = 0; i < n; i++)
            sy_html_beside(f, distance(r->comparison[i].overlap[l]),
                           distance(r->comparison[i].uniform_overlap[l]), 3);
        fputs("</tr>\n", f);
    }
    fputs("</tbody></table>\n</div>\n<p>Small: what chance alone gives.</p></details>\n", f);
}

void sy_report_put_labels(FILE *f, const sy_report *r) {
    if (r->n_labels < 2 || !sy_report_has_loads(r)) return;
    sy_html_open_section(f, "labels", "Kinds of text");
    int *number = sy_report_layer_numbers(r);
    double *y = calloc((size_t)MOST_LINES * (size_t)r->n_layers + 1, sizeof *y);
    if (number != NULL && y != NULL) {
        if (r->n_comparisons > 0) put_distances(f, r, number, y);
        put_multiples(f, r, number);
        sy_html_open_figure(
            f, "Which experts specialise",
            "Most clearly first. Times mean: how often the label&#8217;s tokens "
            "choose the expert, 1 being the mean of its layer. Standard errors: how "
            "far the difference is beyond what chance gives; below 4 it is not "
            "shown.");
        for (int c = 0; c < r->n_comparisons && c < MOST_LINES; c++)
            put_specialists(f, r, c);
        sy_html_close_figure(f);
        if (r->n_comparisons > 0) put_table(f, r);
    }
    free(number);
    free(y);
    sy_html_close_section(f);
}
