/* Where the time goes: one step as it was, all steps by rank and by layer, steps by size. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "launcher/report_chart.h"
#include "launcher/report_html.h"
#include "launcher/report_phase.h"
#include "launcher/report_sections.h"

enum { WIDTH = 1020, LEFT = 66, RIGHT = 34, TOP = 6, BOTTOM = 40, PLOT = WIDTH - LEFT - RIGHT };
#define LEAST_SECONDS 1e-9
enum { MOST_LANES = 64, MOST_BARS = 128 };

double sy_report_kind_seconds(const sy_report *r, double *kind) {
    double all = 0;
    for (int k = 0; k < SY_PHASE_KINDS; k++)
        kind[k] = 0;
    for (int i = 0; i < r->n_ranks; i++)
        for (int p = 0; p < r->n_phases; p++) {
            kind[sy_phase_kind_of(r->phase_name[p])] += r->rank_time[i].phase[p];
            all += r->rank_time[i].phase[p];
        }
    return all;
}

static void put_legend(FILE *f, const bool *used) {
    fputs("<ul class=\"legend\">\n", f);
    for (int k = 0; k < SY_PHASE_KINDS; k++)
        if (used[k])
            fprintf(
                f,
                "<li><svg width=\"14\" height=\"14\" viewBox=\"0 0 14 14\" "
                "aria-hidden=\"true\"><rect class=\"g%d\" width=\"14\" height=\"14\"/></svg>"
                "%s</li>\n",
                k, sy_phase_kind_text(k));
    fputs("</ul>\n", f);
}

static void open_svg(FILE *f, double height, const char *describes) {
    fprintf(f,
            "<svg class=\"wide\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %.0f\" "
            "width=\"%d\" "
            "height=\"%.0f\" role=\"img\" aria-label=\"%s\">\n",
            WIDTH, height, WIDTH, height, describes);
}

/* A time axis below `bottom`; seconds is the whole width. */
static void put_time_axis(FILE *f, double bottom, double seconds, const char *title) {
    double step = sy_axis_step(seconds, 8);
    double scale = seconds >= 1 ? 1 : seconds >= 1e-3 ? 1e3 : 1e6;
    const char *unit = scale == 1 ? "s" : scale == 1e3 ? "ms" : "µs";
    for (double t = 0; t <= seconds * 1.0001; t += step) {
        double x = LEFT + t / seconds * PLOT;
        fprintf(f,
                "<path class=\"grid\" d=\"M%.1f %dV%.1f\"/><text x=\"%.1f\" y=\"%.1f\" "
                "text-anchor=\"middle\">%.4g</text>\n",
                x, TOP, bottom, x, bottom + 15, t * scale);
    }
    fprintf(f,
            "<text class=\"axis\" x=\"%d\" y=\"%.1f\" text-anchor=\"middle\">%s, %s</text>\n",
            LEFT + PLOT / 2, bottom + 33, title, unit);
}

/* ---- one step ---- */

/* For each pixel of a lane the kind that takes most of it, or -1. share [PLOT, kinds]. */
static int64_t fill_lane(const sy_report_timeline *t,
                         int64_t first,
                         int rank,
                         double *share,
                         signed char *pixel) {
    double scale = PLOT / t->length;
    memset(share, 0, (size_t)PLOT * SY_PHASE_KINDS * sizeof *share);
    int64_t i = first;
    for (; i < t->n && t->span[i].rank == rank; i++) {
        double from = t->span[i].begin * scale, to = t->span[i].end * scale;
        for (int x = (int)from; x < PLOT && x < to; x++)
            share[(size_t)x * SY_PHASE_KINDS + (size_t)t->span[i].kind] +=
                fmin(to, x + 1) - fmax(from, x);
    }
    for (int x = 0; x < PLOT; x++) {
        const double *s = share + (size_t)x * SY_PHASE_KINDS;
        int best = 0;
        for (int k = 1; k < SY_PHASE_KINDS; k++)
            if (s[k] > s[best]) best = k;
        pixel[x] = (signed char)(s[best] > 0.05 ? best : -1);
    }
    return i;
}

static void put_lane(FILE *f, const signed char *pixel, double y, double height, bool *used) {
    for (int k = 0; k < SY_PHASE_KINDS; k++) {
        bool begun = false;
        for (int x = 0; x < PLOT;) {
            int n = 0;
            while (x + n < PLOT && pixel[x + n] == k)
                n++;
            if (n > 0) {
                if (!begun) fprintf(f, "<path class=\"g%d\" d=\"", k);
                fprintf(f, "M%d %.0fh%dv%.0fh-%dz", LEFT + x, y, n, height, n);
                begun = used[k] = true;
            }
            x += n > 0 ? n : 1;
        }
        if (begun) fputs("\"/>\n", f);
    }
}

static void put_timeline(FILE *f, const sy_report *r, const sy_report_timeline *t) {
    bool used[SY_PHASE_KINDS] = {false};
    int lanes = (int)sy_min(r->n_ranks, MOST_LANES);
    double step = lanes > 24 ? 9 : 24, height = lanes > 24 ? 8 : 20;
    double *share = calloc((size_t)PLOT * SY_PHASE_KINDS, sizeof *share);
    signed char *pixel = calloc(PLOT, 1);
    char caption[160], note[420];
    if (share == NULL || pixel == NULL) goto done;
    snprintf(caption, sizeof caption, "Time line of step %" PRId64, t->step);
    snprintf(note, sizeof note,
             "Each lane is a rank, its layers one after the other. Of the %s steps in the "
             "trace this "
             "is the one of median length%s%s. Grey is waiting: the rank without grey is the "
             "one the others wait "
             "for. trace.json has every step, for Perfetto.%s",
             sy_html_count((double)t->n_steps).text, t->rows > 0 ? "; tokens on rank 0: " : "",
             t->rows > 0 ? sy_html_count(t->rows).text : "",
             r->n_ranks > lanes ? " The first 64 ranks are shown." : "");
    sy_html_open_figure(f, caption, note);
    open_svg(f, TOP + lanes * step + BOTTOM, "Time line of one step, a lane for each rank");
    put_time_axis(f, TOP + lanes * step, t->length * 1e-6, "time since the step began");
    int64_t at = 0;
    for (int rank = 0; rank < lanes; rank++) {
        while (at < t->n && t->span[at].rank < rank)
            at++;
        at = fill_lane(t, at, rank, share, pixel);
        put_lane(f, pixel, TOP + rank * step, height, used);
        if (lanes <= 24 || rank % 4 == 0)
            fprintf(f, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">rank %d</text>\n",
                    LEFT - 6, TOP + rank * step + height / 2 + 4, rank);
    }
    fputs("</svg>\n", f);
    sy_html_close_figure(f);
    put_legend(f, used);
done:
    free(share);
    free(pixel);
}

/* ---- sums ---- */

/* A bar of the phases' seconds by kind. */
static void put_bar(FILE *f,
                    const sy_report *r,
                    const double *phase,
                    const char *name,
                    double y,
                    double height,
                    double most,
                    bool *used) {
    double kind[SY_PHASE_KINDS] = {0}, x = LEFT;
    for (int p = 0; p < r->n_phases; p++)
        kind[sy_phase_kind_of(r->phase_name[p])] += phase[p];
    for (int k = 0; k < SY_PHASE_KINDS; k++) {
        if (!(kind[k] > 0)) continue;
        double width = kind[k] / most * PLOT;
        fprintf(
            f,
            "<rect class=\"g%d\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"><title>"
            "%s, %s: %s</title></rect>\n",
            k, x, y, width, height, name, sy_phase_kind_name(k), sy_html_seconds(kind[k]).text);
        x += width;
        used[k] = true;
    }
}

typedef struct bars {
    int n;
    const char *word, *axis, *describes;
    bool layers; /* else ranks */
} bars;

static void put_bars(FILE *f, const sy_report *r, const bars *b) {
    bool used[SY_PHASE_KINDS] = {false};
    double most = 0, step = b->n > 24 ? 9 : 22, height = step - (b->n > 24 ? 1 : 4);
    for (int i = 0; i < b->n; i++) {
        const double *phase = b->layers ? r->layer_time[i].phase : r->rank_time[i].phase;
        double all = 0;
        for (int p = 0; p < r->n_phases; p++)
            all += phase[p];
        most = fmax(most, all);
    }
    if (!(most > LEAST_SECONDS)) return;
    open_svg(f, TOP + b->n * step + BOTTOM, b->describes);
    put_time_axis(f, TOP + b->n * step, most, b->axis);
    for (int i = 0; i < b->n; i++) {
        char name[48];
        int number = b->layers ? r->layer_time[i].layer : i;
        snprintf(name, sizeof name, "%s %d", b->word, number);
        put_bar(f, r, b->layers ? r->layer_time[i].phase : r->rank_time[i].phase, name,
                TOP + i * step, height, most, used);
        if (b->n <= 24 || i % 4 == 0)
            fprintf(f, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>\n", LEFT - 6,
                    TOP + i * step + height / 2 + 4, name);
    }
    fputs("</svg>\n", f);
    put_legend(f, used);
}

static void put_steps(FILE *f, const sy_report *r) {
    static const char *const headings[] = {"tokens of the<br>fullest rank",
                                           "steps",
                                           "tokens",
                                           "time of<br>all",
                                           "time of<br>one",
                                           "tokens/s",
                                           NULL};
    sy_html_open_figure(f, "Steps by size", "Small steps generate, large ones read prompts.");
    sy_html_open_table(f, headings);
    for (int i = 0; i < r->n_steps; i++) {
        const sy_report_steps *s = &r->step[i];
        fputs("<tr>", f);
        if (s->rows_from == s->rows_to)
            sy_html_cell(f, "%s", sy_html_count(s->rows_from).text);
        else
            sy_html_cell(f, "%s to %s", sy_html_count(s->rows_from).text,
                         sy_html_count(s->rows_to).text);
        sy_html_cell(f, "%s", sy_html_count(s->steps).text);
        sy_html_cell(f, "%s", sy_html_count(s->tokens).text);
        sy_html_cell(f, "%s", sy_html_seconds(s->seconds).text);
        sy_html_cell(f, "%s", s->steps > 0 ? sy_html_seconds(s->seconds / s->steps).text : "-");
        sy_html_cell(f, "%s",
                     s->seconds > 0 ? sy_html_count(s->tokens / s->seconds).text : "-");
        fputs("</tr>\n", f);
    }
    sy_html_close_table(f);
    sy_html_close_figure(f);
}

void sy_report_put_times(FILE *f, const sy_report *r, const sy_report_timeline *timeline) {
    double kind[SY_PHASE_KINDS], all = sy_report_kind_seconds(r, kind);
    int ranks = (int)sy_min(r->n_ranks, MOST_BARS),
        layers = (int)sy_min(r->n_layer_times, MOST_BARS);
    sy_html_open_section(f, "times", "Time");
    if (!(all > 0)) {
        fputs("<p>No step was timed.</p>\n", f);
        sy_html_close_section(f);
        return;
    }
    if (r->synchronised)
        fputs("<p>The profile waited for the GPU at each boundary between phases, so steps are "
              "slower here than without a profile.</p>\n",
              f);
    if (timeline != NULL && timeline->n > 0)
        put_timeline(f, r, timeline);
    else
        fputs(
            "<p>There is no time line: trace.json is absent, too large or holds no step.</p>\n",
            f);
    bars b = {ranks, "rank", "time in steps, whole run", "Bars: time of each rank by phase",
              false};
    sy_html_open_figure(
        f, "All steps, by rank",
        r->n_ranks > ranks
            ? "The first 128 ranks are shown."
            : "A rank waits while others work longer and while rows travel. Where "
              "all ranks wait long at the same time, something "
              "else holds them up: other programs on their cores, "
              "or a slow network.");
    put_bars(f, r, &b);
    sy_html_close_figure(f);
    b = (bars){layers, "layer", "time, mean of the ranks, whole run",
               "Bars: time of each layer by phase", true};
    if (layers > 0) {
        sy_html_open_figure(f, "All steps, by layer",
                            r->n_layer_times > layers
                                ? "The first 128 layers are shown."
                                : "The ends of a step belong to no layer and are not in it.");
        put_bars(f, r, &b);
        sy_html_close_figure(f);
    }
    put_steps(f, r);
    sy_html_close_section(f);
}
