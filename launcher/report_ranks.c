/* Ranks: the load of each in each layer, and what travels between them. */
#include <math.h>
#include <stdlib.h>

#include "launcher/report_chart.h"
#include "launcher/report_html.h"
#include "launcher/report_sections.h"

enum { MATRIX_WIDTH = 500, MOST_MATRIX_CELLS = 16384 };

/* ---- loads ---- */

static void
put_map(FILE *f, const sy_report *r, double *value, double *mean, const int *number) {
    size_t R = (size_t)r->n_ranks;
    for (int l = 0; l < r->n_layers; l++) {
        for (size_t i = 0; i < R; i++)
            value[(size_t)l * R + i] = r->layer[l].load.rank[i];
        mean[l] = r->layer[l].load.all / (double)R;
    }
    sy_heat heat = {.rows = r->n_layers,
                    .cols = r->n_ranks,
                    .value = value,
                    .row_name = number,
                    .mean = mean,
                    .row_word = "layer",
                    .col_word = "rank",
                    .row_axis = "layer",
                    .col_axis = "rank",
                    .unit = "tokens for its experts",
                    .describes = "Heat map: load of each rank in each layer"};
    sy_html_open_figure(
        f, "Load per rank and layer, in terms of the mean of the ranks",
        "A load counts each token once for each expert that the rank computes for it. All "
        "ranks wait "
        "for the busiest, so the strongest orange of a row is what its layer costs.");
    sy_heat_draw(f, &heat);
    sy_html_close_figure(f);
    sy_heat_ratio_legend(f, true);
}

static void put_lines(FILE *f, const sy_report *r, const int *number, double *y) {
    size_t L = (size_t)r->n_layers;
    for (size_t l = 0; l < L; l++) {
        bool any = r->layer[l].load.all > 0;
        y[l] = any ? r->layer[l].load.ranks.is.max_over_mean : NAN;
        y[L + l] = any ? r->layer[l].load.ranks.uniform.max_over_mean : NAN;
    }
    const sy_line line[] = {{"busiest rank, max/mean", 0, false, y},
                            {"uniformly random router", 4, true, y + L}};
    sy_lines lines = {r->n_layers,
                      2,
                      number,
                      line,
                      1,
                      "max/mean of the ranks",
                      "Line chart: max/mean of the ranks in each layer"};
    sy_html_open_figure(f, "How far the busiest rank of a layer is above the mean",
                        "At 1.5 a layer&#8217;s experts take one and a half times as long as "
                        "with an even load. (max-mean)/mean is the same less 1.");
    sy_lines_draw(f, &lines);
    sy_html_close_figure(f);
}

static void put_table(FILE *f, const sy_report *r) {
    static const char *const headings[] = {"layer",
                                           "busiest<br>rank",
                                           "max/mean",
                                           "(max-mean)/mean",
                                           "balancedness<br>mean/max",
                                           "coefficient of<br>variation",
                                           "entropy",
                                           NULL};
    int worst = sy_report_worst_layer(r);
    fputs("<details><summary>Figures of all layers</summary>\n<div class=\"scroll\">\n", f);
    sy_html_open_table(f, headings);
    for (int l = 0; l < r->n_layers; l++) {
        const sy_report_load *load = &r->layer[l].load;
        const sy_report_measures *is = &load->ranks.is, *uniform = &load->ranks.uniform;
        int busiest = 0;
        for (int i = 1; i < r->n_ranks; i++)
            if (load->rank[i] > load->rank[busiest]) busiest = i;
        fprintf(f, "<tr%s><td>%d</td>", l == worst ? " class=\"worst\"" : "",
                r->layer[l].layer);
        if (load->all > 0) {
            sy_html_cell(f, "%d", busiest);
            sy_html_beside(f, is->max_over_mean, uniform->max_over_mean, 3);
            sy_html_beside(f, is->excess_over_mean, uniform->excess_over_mean, 3);
            sy_html_beside(f, is->balancedness, uniform->balancedness, 3);
            sy_html_beside(f, is->cv, uniform->cv, 3);
            sy_html_beside(f, is->entropy, uniform->entropy, 4);
        } else {
            fputs("<td class=\"t\" colspan=\"6\">nothing was counted</td>", f);
        }
        fputs("</tr>\n", f);
    }
    fprintf(f,
            "<tr><td>all</td><td></td><td>%.3f</td><td>%.3f</td><td>%.3f</td><td>%.3f</td>"
            "<td>%.4f</td></tr>\n",
            r->all_ranks.max_over_mean, r->all_ranks.excess_over_mean,
            r->all_ranks.balancedness, r->all_ranks.cv, r->all_ranks.entropy);
    sy_html_close_table(f);
    fputs("</div>\n<p>Small: a uniformly random router, for as many tokens. The last row is of "
          "each "
          "rank&#8217;s sum over the layers, in which busy and idle layers cancel out.</p>"
          "</details>\n",
          f);
}

void sy_report_put_ranks(FILE *f, const sy_report *r) {
    size_t L = (size_t)r->n_layers;
    sy_html_open_section(f, "ranks", "Ranks");
    double *value = calloc(L * (size_t)r->n_ranks + 1, sizeof *value);
    double *y = calloc(2 * L + 1, sizeof *y);
    int *number = sy_report_layer_numbers(r);
    if (r->n_ranks == 1) {
        fputs("<p>There is one rank, which computes all experts: no load is uneven between "
              "ranks. "
              "Run the profile with <code>-n</code> to see what several ranks would get.</p>\n",
              f);
    } else if (!sy_report_has_loads(r)) {
        fputs("<p>No rank has computed an expert, so there is nothing to show.</p>\n", f);
    } else if (value == NULL || y == NULL || number == NULL) {
        fputs("<p>There was not enough memory to draw this section.</p>\n", f);
    } else {
        put_map(f, r, value, y, number);
        put_lines(f, r, number, y);
        put_table(f, r);
    }
    free(value);
    free(y);
    free(number);
    sy_html_close_section(f);
}

/* ---- links ---- */

static double largest(const double *x, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, x[i]);
    return most;
}

/* Sums over the links within a host and between hosts. */
static void
split_by_host(const sy_report *r, const double *x, double *within, double *between) {
    *within = *between = 0;
    for (int a = 0; a < r->n_ranks; a++)
        for (int b = 0; b < r->n_ranks; b++)
            if (a != b)
                *(r->host[a] == r->host[b] ? within : between) +=
                    x[(size_t)a * (size_t)r->n_ranks + (size_t)b];
}

/* The diagonal, which does not travel, has no cells. value [R, R] is for the drawing. */
static void
put_matrix(FILE *f, const sy_report *r, const double *x, const char *heading, double *value) {
    size_t R = (size_t)r->n_ranks;
    for (size_t i = 0; i < R * R; i++)
        value[i] = i % (R + 1) == 0 ? NAN : x[i];
    sy_heat heat = {.rows = r->n_ranks,
                    .cols = r->n_ranks,
                    .value = value,
                    .row_word = "from rank",
                    .col_word = "to rank",
                    .row_axis = "from rank",
                    .col_axis = "to rank",
                    .unit = "bytes",
                    .describes = heading,
                    .width = MATRIX_WIDTH,
                    .most_cells = MOST_MATRIX_CELLS};
    fprintf(f, "<div><h3>%s</h3>\n", heading);
    sy_heat_draw(f, &heat);
    sy_heat_amount_legend(f, largest(x, R * R), true);
    fputs("</div>\n", f);
}

static void put_totals(FILE *f, const sy_report *r) {
    static const char *const headings[] = {
        "<", "stayed on<br>the rank", "to ranks of<br>the host", "to other<br>hosts", NULL};
    const struct {
        const char *name;
        const double *x;
        bool bytes;
    } kind[] = {{"tokens sent to experts, rows", r->dispatch_rows, false},
                {"the same in bytes", r->dispatch_bytes, true},
                {"results sent home, rows", r->combine_rows, false},
                {"the same in bytes", r->combine_bytes, true}};
    sy_html_open_table(f, headings);
    for (size_t i = 0; i < sizeof kind / sizeof kind[0]; i++) {
        double within, between, stayed = 0;
        split_by_host(r, kind[i].x, &within, &between);
        for (size_t a = 0; a < (size_t)r->n_ranks; a++)
            stayed += kind[i].x[a * (size_t)r->n_ranks + a];
        const double cell[] = {stayed, within, between};
        fprintf(f, "<tr><td class=\"t\">%s</td>", kind[i].name);
        for (int c = 0; c < 3; c++)
            sy_html_cell(f, "%s",
                         c == 0 && kind[i].bytes ? "&#8211;"
                         : kind[i].bytes         ? sy_html_bytes(cell[c]).text
                                                 : sy_html_count(cell[c]).text);
        fputs("</tr>\n", f);
    }
    sy_html_close_table(f);
}

void sy_report_put_links(FILE *f, const sy_report *r) {
    size_t R = (size_t)r->n_ranks;
    sy_html_open_section(f, "links", "Traffic between the ranks");
    double *value = calloc(R * R, sizeof *value);
    if (R == 1) {
        fputs("<p>There is one rank, so nothing travels.</p>\n", f);
    } else if (value == NULL) {
        fputs("<p>There was not enough memory to draw this section.</p>\n", f);
    } else {
        sy_html_open_figure(
            f, "Bytes from rank to rank, whole run",
            "A token goes once to each rank that holds any of its experts; results "
            "come home along the same links. The stronger the colour, the more; "
            "a strong column is a rank whose experts many others need. What stays "
            "on its rank (the diagonal) does not travel.");
        fputs("<div class=\"multiples\">\n", f);
        put_matrix(f, r, r->dispatch_bytes, "Tokens to their experts (dispatch)", value);
        put_matrix(f, r, r->combine_bytes, "Results on their way home (combine)", value);
        fputs("</div>\n", f);
        sy_html_close_figure(f);
        sy_html_open_figure(f, "Sums over all links", NULL);
        put_totals(f, r);
        sy_html_close_figure(f);
    }
    free(value);
    sy_html_close_section(f);
}
