#include "launcher/report_html.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include "launcher/report_style.h"

void sy_html_text(FILE *f, const char *text) {
    for (const unsigned char *p = (const unsigned char *)text; *p != '\0'; p++) {
        if (*p == '&')
            fputs("&amp;", f);
        else if (*p == '<')
            fputs("&lt;", f);
        else if (*p == '>')
            fputs("&gt;", f);
        else if (*p == '"')
            fputs("&quot;", f);
        else if (*p == '\'')
            fputs("&#39;", f);
        else if (*p == '\n' || *p == '\t')
            fputc(' ', f);
        else if (*p < 0x20 || *p == 0x7f)
            fputs("\xef\xbf\xbd", f);
        else
            fputc(*p, f);
    }
}

char *sy_html_cut(char *to, size_t size, const char *text) {
    size_t n = strnlen(text, size - 1);
    while (n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80) /* amid a character */
        n--;
    memcpy(to, text, n);
    to[n] = '\0';
    return to;
}

/* ---- numbers ---- */

sy_html_number sy_html_count(double n) {
    sy_html_number out = {{0}};
    char digits[40];
    if (!isfinite(n) || fabs(n) > 1e15) {
        snprintf(out.text, sizeof out.text, "%.3g", n);
        return out;
    }
    int length = snprintf(digits, sizeof digits, "%.0f", n), to = 0;
    for (int i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0 && digits[i - 1] != '-') out.text[to++] = ',';
        out.text[to++] = digits[i];
    }
    return out;
}

sy_html_number sy_html_bytes(double bytes) {
    static const char *const unit[] = {"B", "kB", "MB", "GB", "TB", "PB"};
    sy_html_number out;
    int u = 0;
    for (; bytes >= 1000 && u < 5; u++)
        bytes /= 1000;
    snprintf(out.text, sizeof out.text, "%.*f %s", u == 0 || bytes >= 100 ? 0 : 1, bytes,
             unit[u]);
    return out;
}

sy_html_number sy_html_seconds(double s) {
    sy_html_number out;
    double scale = s >= 1 || s == 0 ? 1 : s >= 1e-3 ? 1e3 : 1e6;
    const char *unit = scale == 1 ? "s" : scale == 1e3 ? "ms" : "µs";
    double x = s * scale;
    snprintf(out.text, sizeof out.text, "%.*f %s", x >= 100 ? 0 : x >= 10 ? 1 : 2, x, unit);
    return out;
}

/* ---- the page ---- */

void sy_html_begin(FILE *f, const char *title) {
    fputs("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
          "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
          "<meta name=\"color-scheme\" content=\"light dark\">\n<title>",
          f);
    sy_html_text(f, title);
    fputs("</title>\n<style>\n", f);
    for (const char *const *piece = sy_report_style; *piece != NULL; piece++)
        fputs(*piece, f);
    fputs("</style>\n</head>\n<body>\n<main>\n", f);
}

void sy_html_end(FILE *f) {
    fputs("</main>\n<div id=\"readout\" hidden></div>\n<script>\n", f);
    fputs(sy_report_script, f);
    fputs("</script>\n</body>\n</html>\n", f);
}

void sy_html_open_section(FILE *f, const char *id, const char *heading) {
    fprintf(f, "<section id=\"%s\">\n<h2>%s</h2>\n", id, heading);
}

void sy_html_close_section(FILE *f) {
    fputs("</section>\n", f);
}

void sy_html_open_figure(FILE *f, const char *caption, const char *note) {
    fprintf(f, "<figure>\n<figcaption><b>%s</b>", caption);
    if (note != NULL) fprintf(f, "<span>%s</span>", note);
    fputs("</figcaption>\n<div class=\"scroll\">\n", f);
}

void sy_html_close_figure(FILE *f) {
    fputs("</div>\n</figure>\n", f);
}

/* ---- tables ---- */

void sy_html_open_table(FILE *f, const char *const *headings) {
    fputs("<table>\n<thead><tr>", f);
    for (; *headings != NULL; headings++) {
        bool text = (*headings)[0] == '<';
        fprintf(f, "<th scope=\"col\"%s>%s</th>", text ? " class=\"t\"" : "", *headings + text);
    }
    fputs("</tr></thead>\n<tbody>\n", f);
}

void sy_html_close_table(FILE *f) {
    fputs("</tbody>\n</table>\n", f);
}

void sy_html_cell(FILE *f, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("<td>", f);
    vfprintf(f, format, args);
    fputs("</td>", f);
    va_end(args);
}

void sy_html_beside(FILE *f, double value, double uniform, int decimals) {
    fprintf(f, "<td>%.*f <i>%.*f</i></td>", decimals, value, decimals, uniform);
}
