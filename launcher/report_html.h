/* Inside launcher/report*: pieces of the page. Nothing here fails by itself; the stream's error
 * shows when the file is closed. */
#ifndef SY_LAUNCHER_REPORT_HTML_H
#define SY_LAUNCHER_REPORT_HTML_H

#include <stddef.h>
#include <stdio.h>

/* Text from a file, so that no reader takes it for markup; control characters become U+FFFD. */
void sy_html_text(FILE *f, const char *text);
/* Copies at most size - 1 bytes of UTF-8, whole characters only. Returns to. */
char *sy_html_cut(char *to, size_t size, const char *text);

/* Numbers for people, into a text that is returned: "12,345", "3.4 MB", "1.23 ms". */
typedef struct sy_html_number {
    char text[40];
} sy_html_number;
sy_html_number sy_html_count(double n);
sy_html_number sy_html_bytes(double bytes);
sy_html_number sy_html_seconds(double seconds);

/* Everything around the sections. */
void sy_html_begin(FILE *f, const char *title);
void sy_html_end(FILE *f);

/* A section with a heading; close it with sy_html_close_section. id: a plain word. */
void sy_html_open_section(FILE *f, const char *id, const char *heading);
void sy_html_close_section(FILE *f);

/* A chart or table in a frame that scrolls by itself where the page is narrow. The caption says
 * what is shown, the note how to read it; neither is escaped. */
void sy_html_open_figure(FILE *f, const char *caption, const char *note);
void sy_html_close_figure(FILE *f);

/* A table with a row of headings; each begins with '<' if its column is text, and stands right
 * above numbers else. NULL ends them. */
void sy_html_open_table(FILE *f, const char *const *headings);
void sy_html_close_table(FILE *f);
void sy_html_cell(FILE *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* "1.23" with the random router's figure small behind it. */
void sy_html_beside(FILE *f, double value, double uniform, int decimals);

#endif
