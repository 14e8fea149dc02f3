#include "launcher/report.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/new_file.h"
#include "launcher/report_chart.h"
#include "launcher/report_html.h"
#include "launcher/report_sections.h"

/* ---- better placements ---- */

static void put_gain_table(FILE *f, const sy_report *r, const sy_report_gain *g) {
    static const char *const headings[] = {
        "layer", "as it ran", "random router", "same memory", "one more expert<br>per rank",
        NULL};
    fputs("<details><summary>Figures of all layers</summary>\n<div class=\"scroll\">\n", f);
    sy_html_open_table(f, headings);
    for (int l = 0; l < r->n_layers; l++) {
        if (isnan(g->now[l])) continue;
        fprintf(f, "<tr><td>%d</td><td>%.3f</td><td>%.3f</td><td>%.3f</td><td>%.3f</td></tr>\n",
                r->layer[l].layer, g->now[l], r->layer[l].load.ranks.uniform.max_over_mean,
                g->same[l], g->extra[l]);
    }
    fprintf(f,
            "<tr class=\"worst\"><td>all</td><td>%.3f</td><td></td><td>%.3f</td><td>%.3f</td>"
            "</tr>\n",
            g->now_all, g->same_all, g->extra_all);
    sy_html_close_table(f);
    fputs("</div></details>\n", f);
}

void sy_report_put_gain(FILE *f, const sy_report *r, const sy_report_gain *g) {
    int *number = sy_report_layer_numbers(r);
    double *chance = calloc((size_t)r->n_layers + 1, sizeof *chance);
    sy_html_open_section(f, "placement", "What better placements would give");
    if (number == NULL || chance == NULL) goto done;
    for (int l = 0; l < r->n_layers; l++)
        chance[l] = isnan(g->now[l]) ? NAN : r->layer[l].load.ranks.uniform.max_over_mean;
    const sy_line line[] = {{"as it ran", 0, false, g->now},
                            {"placed by these loads, same memory", 1, false, g->same},
                            {"one more expert per rank and layer", 2, false, g->extra},
                            {"uniformly random router, as it ran", 4, true, chance}};
    sy_lines lines = {r->n_layers,
                      4,
                      number,
                      line,
                      1,
                      "max/mean of the ranks",
                      "Line chart: max/mean of the ranks with other placements"};
    fprintf(
        f,
        "<p>All layers together: %.3f as it ran, %.3f with the experts placed by these loads "
        "in "
        "the same memory%s, %.3f with room for one more expert per rank and layer, which takes "
        "copies of hot experts.</p>\n",
        g->now_all, g->same_all, g->copies ? " (with copies, as it ran)" : "", g->extra_all);
    sy_html_open_figure(
        f, "Busiest rank over mean, by placement",
        "The search is that of <code>switchyard place</code>. It knows the loads of "
        "this very text; another text gains less, the more its choices differ.");
    sy_lines_draw(f, &lines);
    sy_html_close_figure(f);
    put_gain_table(f, r, g);
done:
    free(number);
    free(chance);
    sy_html_close_section(f);
}

static void put_no_gain(FILE *f) {
    sy_html_open_section(f, "placement", "What better placements would give");
    fputs("<p>With so many layers, experts and ranks they were not searched for: "
          "<code>switchyard place loads.json</code> does it.</p>\n",
          f);
    sy_html_close_section(f);
}

/* ---- about ---- */

static void put_fact(FILE *f, const char *name, const char *text) {
    fprintf(f, "<tr><td class=\"t\">%s</td><td class=\"t\">", name);
    sy_html_text(f, text);
    fputs("</td></tr>\n", f);
}

void sy_report_put_about(FILE *f, const sy_report *r) {
    static const char words[] =
        "<dl><dt>load</dt><dd>Tokens that an expert, or a rank&#8217;s experts together, "
        "computed; "
        "a token counts once for each expert that it chose.</dd>"
        "<dt>max/mean</dt><dd>The largest load over the mean load. 1 is even.</dd>"
        "<dt>(max-mean)/mean</dt><dd>The same less 1: 0 is even. Some tools call this the "
        "imbalance ratio.</dd>"
        "<dt>balancedness</dt><dd>mean/max: 1 is even. How busy the mean rank is while the "
        "busiest "
        "works.</dd>"
        "<dt>entropy</dt><dd>Of the shares, over its largest possible value: 1 is even, 0: all "
        "on one.</dd>"
        "<dt>uniformly random router</dt><dd>What chance gives: as many tokens, each choosing "
        "its experts at random. With few tokens even this looks uneven.</dd></dl>\n";
    char number[64];
    sy_html_open_section(f, "about", "About this run");
    fputs("<div class=\"scroll\"><table><tbody>\n", f);
    put_fact(f, "program", r->program);
    put_fact(f, "options", r->options);
    put_fact(f, "model", r->model);
    put_fact(f, "family", r->family);
    put_fact(f, "computes with", r->device);
    snprintf(number, sizeof number, "%d", r->threads);
    put_fact(f, "threads per rank", number);
    for (int i = 0; i < r->n_hosts && i < 32; i++)
        put_fact(f, "host", r->host_name[i]);
    fputs("</tbody></table></div>\n<figure><figcaption><b>Words</b></figcaption>\n", f);
    fputs(words, f);
    fputs(
        "</figure>\n<p>Beside this page: profile.json has all figures of it, loads.json is the "
        "input of <code>switchyard place</code>, loads.csv is for spreadsheets, trace.json for "
        "Perfetto. <code>switchyard report DIR</code> makes the page anew.</p>\n",
        f);
    sy_html_close_section(f);
}

/* ---- the page ---- */

void sy_report_print(FILE *f,
                     const sy_report *r,
                     const sy_report_gain *gain,
                     const sy_report_timeline *timeline) {
    char name[120], title[160];
    snprintf(title, sizeof title, "Expert load: %s", sy_html_cut(name, sizeof name, r->model));
    sy_html_begin(f, title);
    sy_report_put_summary(f, r, gain);
    sy_report_put_experts(f, r);
    sy_report_put_ranks(f, r);
    if (gain != NULL)
        sy_report_put_gain(f, r, gain);
    else if (r->n_ranks > 1 && sy_report_has_loads(r))
        put_no_gain(f);
    sy_report_put_labels(f, r);
    sy_report_put_links(f, r);
    sy_report_put_times(f, r, timeline);
    sy_report_put_about(f, r);
    sy_html_end(f);
}

static char *join(const char *dir, const char *name) {
    size_t n = strlen(dir) + strlen(name) + 2;
    char *path = malloc(n);
    if (path != NULL) snprintf(path, n, "%s/%s", dir, name);
    return path;
}

sy_status sy_report_write(const char *dir) {
    sy_status st = SY_OK;
    sy_report report = {0};
    sy_report_gain gain = {0};
    sy_report_timeline timeline = {0};
    sy_new_file file = {0};
    bool placed = false;
    char *profile = join(dir, "profile.json"), *trace = join(dir, "trace.json");
    if (profile == NULL || trace == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a path");
    SY_TRY(sy_report_load_file(profile, &report));
    SY_TRY(sy_report_trace_load(trace, report.n_ranks, &timeline));
    SY_TRY(sy_report_gain_find(&report, &gain, &placed));
    SY_TRY(sy_new_file_open(dir, "report.html", &file));
    sy_report_print(file.f, &report, placed ? &gain : NULL, &timeline);
done:
    if (file.f != NULL) st = sy_new_file_close(&file, st);
    sy_report_timeline_free(&timeline);
    sy_report_free(&report);
    free(profile);
    free(trace);
    return st;
}
