/* Inside launcher/report*: charts as SVG, drawn without measuring text. Sizes are CSS
 * pixels; a chart that is wider than the page scrolls in its figure. */
#ifndef SY_LAUNCHER_REPORT_CHART_H
#define SY_LAUNCHER_REPORT_CHART_H

#include <stdbool.h>
#include <stdio.h>

/* A matrix in colours. Neighbouring columns are drawn as one, with the largest of their values,
 * where there would be too many cells for a page. */
typedef struct sy_heat {
    int rows, cols;
    const double *value; /* [rows, cols]; NAN: no cell */
    const int *row_name; /* [rows], or NULL: from 0 */
    const double *mean;  /* [rows]: shown in terms of the row's mean; NULL: of the largest */
    const char *row_word, *col_word; /* "layer", "expert": under the pointer */
    const char *row_axis, *col_axis; /* titles of the axes */
    const char *unit;                /* "tokens" */
    const char *describes;           /* for those who cannot see it */
    int width, most_cells;           /* 0: usual */
} sy_heat;

void sy_heat_draw(FILE *f, const sy_heat *heat);
/* How many columns are drawn as one. */
int sy_heat_group(const sy_heat *heat);
/* What the colours of a share of the mean say; without `never`, less the one for 0. */
void sy_heat_ratio_legend(FILE *f, bool never);
/* The same for amounts up to `most`. */
void sy_heat_amount_legend(FILE *f, double most, bool bytes);

typedef struct sy_line {
    const char *name; /* in the legend */
    int colour;       /* 0 to 4 */
    bool dashed;
    const double *y; /* [n]; NAN: no point */
} sy_line;

/* Figures of layers, one line each. */
typedef struct sy_lines {
    int n, n_lines;
    const int *layer; /* [n]: numbers of the layers, ascending */
    const sy_line *line;
    double from;      /* where the axis begins, if no point is below it */
    const char *axis; /* what y is */
    const char *describes;
} sy_lines;

void sy_lines_draw(FILE *f, const sy_lines *lines);

/* Steps for an axis from 0 to `most`: 1, 2 or 5 times a power of ten; at most `steps` of
 * them. */
double sy_axis_step(double most, int steps);

#endif
