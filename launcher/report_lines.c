/* Lines over the layers, with a dot for each layer that says its numbers. */
#include <math.h>

#include "launcher/report_chart.h"
#include "launcher/report_html.h"

enum {
    WIDTH = 1020,
    HEIGHT = 262,
    LEFT = 66,
    RIGHT = 16,
    TOP = 12,
    BOTTOM = 44,
    MOST_DOTS = 130
};

typedef struct plot {
    const sy_lines *lines;
    double low, high; /* of y */
    int first, last;  /* layers */
} plot;

double sy_axis_step(double most, int steps) {
    if (!(most > 1e-15) || !isfinite(most)) return 1;
    double step = pow(10, floor(log10(most / steps)));
    while (most / step > steps * (1 + 1e-9)) {
        double lead = step / pow(10, floor(log10(step) + 1e-9));
        step *= lead < 1.5 ? 2 : lead < 3 ? 2.5 : 2;
    }
    return step;
}

static double x_of(const plot *p, int layer) {
    double span = p->last - p->first;
    double share = span > 0 ? (layer - p->first) / span : 0.5;
    return LEFT + 10 + share * (WIDTH - LEFT - RIGHT - 20);
}

static double y_of(const plot *p, double y) {
    return TOP + (p->high - y) / (p->high - p->low) * (HEIGHT - TOP - BOTTOM);
}

static void find_range(plot *p, double *step) {
    const sy_lines *l = p->lines;
    p->low = p->high = l->from;
    for (int i = 0; i < l->n_lines; i++)
        for (int k = 0; k < l->n; k++) {
            if (!isfinite(l->line[i].y[k])) continue;
            p->low = fmin(p->low, l->line[i].y[k]);
            p->high = fmax(p->high, l->line[i].y[k]);
        }
    *step = sy_axis_step(fmax(p->high - p->low, 0.02), 5);
    p->low = floor(p->low / *step + 1e-9) * *step;
    p->high = ceil(p->high / *step - 1e-9) * *step;
    if (p->high <= p->low) p->high = p->low + *step;
}

static void put_axes(FILE *f, const plot *p, double step) {
    int decimals = step >= 1 ? 0 : step >= 0.1 - 1e-9 ? 1 : step >= 0.01 - 1e-9 ? 2 : 3;
    for (double y = p->low; y <= p->high + step / 2; y += step)
        fprintf(f,
                "<path class=\"grid\" d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" "
                "text-anchor=\"end\">%.*f</text>\n",
                LEFT, y_of(p, y), WIDTH - RIGHT, LEFT - 7, y_of(p, y) + 4, decimals, y);
    int span = p->last - p->first, every = (int)fmax(1, ceil(sy_axis_step(span, 26)));
    for (int layer = p->first; layer <= p->last; layer++)
        if ((layer - p->first) % every == 0)
            fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>\n",
                    x_of(p, layer), HEIGHT - BOTTOM + 17, layer);
    fprintf(f,
            "<text class=\"axis\" x=\"%d\" y=\"%d\" text-anchor=\"middle\">layer</text>\n"
            "<text class=\"axis\" transform=\"translate(13,%d) rotate(-90)\" "
            "text-anchor=\"middle\">%s</text>\n",
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, (HEIGHT - BOTTOM + TOP) / 2,
            p->lines->axis);
}

static void put_line(FILE *f, const plot *p, const sy_line *line) {
    const sy_lines *l = p->lines;
    bool down = false;
    fprintf(f, "<path class=\"line l%d%s\" d=\"", line->colour, line->dashed ? " dashed" : "");
    for (int k = 0; k < l->n; k++) {
        if (!isfinite(line->y[k])) {
            down = false;
            continue;
        }
        fprintf(f, "%c%.1f %.1f", down ? 'L' : 'M', x_of(p, l->layer[k]), y_of(p, line->y[k]));
        down = true;
    }
    fputs("\"/>\n", f);
    if (line->dashed && l->n > 1) return;
    for (int k = 0; k < l->n && l->n <= MOST_DOTS; k++)
        if (isfinite(line->y[k])) {
            fprintf(
                f,
                "<circle class=\"dot l%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3.2\"><title>layer %d, ",
                line->colour, x_of(p, l->layer[k]), y_of(p, line->y[k]), l->layer[k]);
            sy_html_text(f, line->name);
            fprintf(f, ": %.3f</title></circle>\n", line->y[k]);
        }
}

static void put_legend(FILE *f, const sy_lines *l) {
    fputs("<ul class=\"legend\">\n", f);
    for (int i = 0; i < l->n_lines; i++) {
        fprintf(
            f,
            "<li><svg width=\"26\" height=\"10\" viewBox=\"0 0 26 10\" aria-hidden=\"true\">"
            "<path class=\"line l%d%s\" d=\"M1 5H25\"/></svg>",
            l->line[i].colour, l->line[i].dashed ? " dashed" : "");
        sy_html_text(f, l->line[i].name);
        fputs("</li>\n", f);
    }
    fputs("</ul>\n", f);
}

void sy_lines_draw(FILE *f, const sy_lines *l) {
    double step;
    if (l->n <= 0) return;
    plot p = {.lines = l, .first = l->layer[0], .last = l->layer[l->n - 1]};
    find_range(&p, &step);
    fprintf(f,
            "<svg class=\"wide\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
            "width=\"%d\" "
            "height=\"%d\" role=\"img\" aria-label=\"%s\">\n",
            WIDTH, HEIGHT, WIDTH, HEIGHT, l->describes);
    put_axes(f, &p, step);
    for (int i = l->n_lines; i-- > 0;) /* the first on top */
        put_line(f, &p, &l->line[i]);
    fputs("</svg>\n", f);
    put_legend(f, l);
}
