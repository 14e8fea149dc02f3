/* Heat maps: one path for each colour, over runs of equal cells, so that a map of 61 x 256
 * cells takes some 100 kB. */
#include <math.h>

#include "base/checked.h"
#include "launcher/report_chart.h"
#include "launcher/report_html.h"

enum {
    LEFT = 58,
    TOP = 6,
    BOTTOM = 42,
    USUAL_WIDTH = 1020,
    SHRINKS = 640, /* wider ones are scaled down on a narrow page, with larger letters */
    USUAL_CELLS = 40000,
    MOST_COLUMNS = 1020,
    RATIO_COLOURS = 9,
    AMOUNT_COLOURS = 8,
    NEVER = RATIO_COLOURS,
    NO_CELL = -1
};

/* Upper ends of the colours of a share of the mean, but the last. */
static const double ratio_end[RATIO_COLOURS - 1] = {0.25, 0.5, 0.7, 0.9, 1.1, 1.4, 2, 4};

typedef struct drawing {
    const sy_heat *heat;
    int group, cols; /* columns drawn as one; drawn columns */
    double w, h;     /* of a cell */
    double most;     /* largest value of an amount */
    bool lined;      /* cells are large enough to be told apart by a line */
} drawing;

int sy_heat_group(const sy_heat *heat) {
    int64_t most = heat->most_cells > 0 ? heat->most_cells : USUAL_CELLS;
    int64_t cols = sy_max(sy_min(most / sy_max(heat->rows, 1), MOST_COLUMNS), 1);
    return (int)sy_max(sy_ceil_div(heat->cols, cols), 1);
}

/* The largest of the columns that are drawn as one; NAN if there is none. */
static double value_of(const drawing *d, int row, int col) {
    const sy_heat *heat = d->heat;
    double most = NAN;
    for (int c = col * d->group; c < (col + 1) * d->group && c < heat->cols; c++) {
        double x = heat->value[(size_t)row * (size_t)heat->cols + (size_t)c];
        if (!(x <= most)) most = isnan(x) ? most : x;
    }
    return most;
}

static double ratio_of(const drawing *d, int row, double x) {
    double mean = d->heat->mean[row];
    return mean > 0 ? x / mean : 0;
}

static int colour_of(const drawing *d, int row, int col) {
    double x = value_of(d, row, col);
    if (isnan(x)) return NO_CELL;
    if (d->heat->mean == NULL) {
        int level = d->most > 0 ? (int)(x / d->most * AMOUNT_COLOURS) : 0;
        return (int)sy_min(level, AMOUNT_COLOURS - 1);
    }
    if (x == 0) return NEVER;
    double ratio = ratio_of(d, row, x);
    int colour = 0;
    while (colour < RATIO_COLOURS - 1 && ratio >= ratio_end[colour])
        colour++;
    return colour;
}

/* ---- cells ---- */

static void put_colour(FILE *f, const drawing *d, int colour) {
    bool begun = false;
    for (int row = 0; row < d->heat->rows; row++)
        for (int col = 0; col < d->cols;) {
            int n = 0;
            while (col + n < d->cols && colour_of(d, row, col + n) == colour) {
                n++;
                if (d->lined) break;
            }
            if (n == 0) {
                col++;
                continue;
            }
            if (!begun && d->heat->mean == NULL)
                fprintf(f, "<path class=\"s%d\" d=\"", colour);
            else if (!begun)
                fprintf(f, "<path class=\"c%c\" d=\"", colour == NEVER ? 'd' : '0' + colour);
            begun = true;
            fprintf(f, "M%d %dh%dv1h-%dz", col, row, n, n);
            col += n;
        }
    if (begun) fputs("\"/>\n", f);
}

static void put_cells(FILE *f, const drawing *d) {
    fprintf(f, "<g class=\"cells%s\" transform=\"translate(%d,%d) scale(%.4g,%.4g)\">\n",
            d->lined ? " lined" : "", LEFT, TOP, d->w, d->h);
    int colours = d->heat->mean != NULL ? RATIO_COLOURS + 1 : AMOUNT_COLOURS;
    for (int colour = 0; colour < colours; colour++)
        put_colour(f, d, colour);
    fputs("</g>\n", f);
}

/* ---- axes ---- */

/* So that the labels, each `pixels` wide, stand apart. */
static int label_step(int n, double cell, int pixels) {
    static const int nice[] = {1,  2,  4,   5,   8,   10,  16,  20, 32,
                               50, 64, 100, 128, 200, 256, 500, 512};
    for (size_t i = 0; i < sizeof nice / sizeof nice[0]; i++)
        if (nice[i] * cell >= pixels) return nice[i];
    return (int)sy_max(n, 1);
}

static int name_of_row(const sy_heat *heat, int row) {
    return heat->row_name != NULL ? heat->row_name[row] : row;
}

static void put_axes(FILE *f, const drawing *d) {
    const sy_heat *heat = d->heat;
    double width = d->w * d->cols, height = d->h * heat->rows;
    int step = label_step(heat->rows, d->h, width > SHRINKS ? 18 : 13);
    for (int row = 0; row < heat->rows; row += step)
        fprintf(f, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%d</text>\n", LEFT - 6,
                TOP + (row + 0.5) * d->h + 4, name_of_row(heat, row));
    step = label_step(d->cols, d->w, 34);
    for (int col = 0; col < d->cols; col += step)
        fprintf(f, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%d</text>\n",
                LEFT + (col + 0.5) * d->w, TOP + height + 15, col * d->group);
    fprintf(f,
            "<text class=\"axis\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%s</text>\n"
            "<text class=\"axis\" transform=\"translate(13,%.1f) rotate(-90)\" "
            "text-anchor=\"middle\">%s</text>\n",
            LEFT + width / 2, TOP + height + 34, heat->col_axis, TOP + height / 2,
            heat->row_axis);
}

/* ---- for the script ---- */

static void put_values(FILE *f, const drawing *d) {
    const sy_heat *heat = d->heat;
    fprintf(f,
            " data-rows=\"%d\" data-cols=\"%d\" data-group=\"%d\" data-x=\"%d\" data-y=\"%d\" "
            "data-w=\"%.4g\" data-h=\"%.4g\" data-row=\"%s\" data-col=\"%s\" data-unit=\"%s\"",
            heat->rows, d->cols, d->group, LEFT, TOP, d->w, d->h, heat->row_word,
            heat->col_word, heat->unit);
    fputs(" data-names=\"", f);
    for (int row = 0; row < heat->rows; row++)
        fprintf(f, "%s%d", row > 0 ? " " : "", name_of_row(heat, row));
    if (heat->mean != NULL) fputs("\" data-means=\"", f);
    for (int row = 0; heat->mean != NULL && row < heat->rows; row++)
        fprintf(f, "%s%.6g", row > 0 ? " " : "", heat->mean[row]);
    fputs("\" data-v=\"", f);
    for (int row = 0; row < heat->rows; row++)
        for (int col = 0; col < d->cols; col++) {
            double x = value_of(d, row, col);
            const char *space = row > 0 || col > 0 ? " " : "";
            if (isnan(x))
                fprintf(f, "%s-1", space);
            else
                fprintf(f, "%s%.0f", space, heat->mean != NULL ? 100 * ratio_of(d, row, x) : x);
        }
    fputs("\"", f);
}

void sy_heat_draw(FILE *f, const sy_heat *heat) {
    drawing d = {.heat = heat, .group = sy_heat_group(heat)};
    if (heat->rows <= 0 || heat->cols <= 0) return;
    d.cols = (int)sy_ceil_div(heat->cols, d.group);
    double room = (heat->width > 0 ? heat->width : USUAL_WIDTH) - LEFT - 4;
    d.w = fmin(fmax(floor(room / d.cols * 4) / 4, 1), 56);
    d.h = fmin(fmax(floor(room * 0.5 / heat->rows), 6), 28);
    d.lined = d.w >= 8 && d.h >= 8;
    for (int row = 0; row < heat->rows; row++)
        for (int col = 0; col < d.cols; col++)
            d.most = fmax(d.most, value_of(&d, row, col));
    double width = fmax(LEFT + d.w * d.cols + 4, 200), height = TOP + d.h * heat->rows + BOTTOM;
    fprintf(
        f,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
        "height=\"%.0f\"%s role=\"img\" aria-label=\"%s\"",
        width, height, width, height, width > SHRINKS ? " class=\"wide\"" : "",
        heat->describes);
    put_values(f, &d);
    fputs(">\n", f);
    put_cells(f, &d);
    put_axes(f, &d);
    fputs("</svg>\n", f);
}

/* ---- legends ---- */

static void put_swatch(FILE *f, const char *class, const char *text) {
    fprintf(f,
            "<li><svg width=\"14\" height=\"14\" viewBox=\"0 0 14 14\" aria-hidden=\"true\">"
            "<rect class=\"%s\" width=\"14\" height=\"14\"/><rect class=\"frame\" x=\".5\" "
            "y=\".5\" width=\"13\" height=\"13\"/></svg>%s</li>\n",
            class, text);
}

void sy_heat_ratio_legend(FILE *f, bool never) {
    static const char *const text[RATIO_COLOURS] = {"below 0.25", "0.25 to 0.5", "0.5 to 0.7",
                                                    "0.7 to 0.9", "0.9 to 1.1",  "1.1 to 1.4",
                                                    "1.4 to 2",   "2 to 4",      "4 or more"};
    char class[] = "c0";
    fputs("<ul class=\"legend\">\n<li>times the mean:</li>\n", f);
    if (never) put_swatch(f, "cd", "nothing");
    for (int colour = 0; colour < RATIO_COLOURS; colour++) {
        class[1] = (char)('0' + colour);
        put_swatch(f, class, text[colour]);
    }
    fputs("</ul>\n", f);
}

void sy_heat_amount_legend(FILE *f, double most, bool bytes) {
    char class[] = "s0", text[120];
    fputs("<ul class=\"legend\">\n", f);
    for (int level = 0; level < AMOUNT_COLOURS && most > 0; level++) {
        double from = most * level / AMOUNT_COLOURS, to = most * (level + 1) / AMOUNT_COLOURS;
        sy_html_number a = bytes ? sy_html_bytes(from) : sy_html_count(from);
        sy_html_number b = bytes ? sy_html_bytes(to) : sy_html_count(to);
        snprintf(text, sizeof text, "%s to %s", a.text, b.text);
        class[1] = (char)('0' + level);
        put_swatch(f, class, text);
    }
    fputs("</ul>\n", f);
}
