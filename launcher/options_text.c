/* Options as text: the line of effective values, and the nearest word to a misspelt one. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "launcher/option_table.h"

/* Writes a word so that a shell reads it back as one. */
static void print_quoted(FILE *f, const char *text) {
    const char *plain =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+.,:/=@%";
    if (text[0] != '\0' && text[strspn(text, plain)] == '\0') {
        fputs(text, f);
        return;
    }
    fputc('\'', f);
    for (; *text != '\0'; text++) {
        if (*text == '\'')
            fputs("'\\''", f);
        else
            fputc(*text, f);
    }
    fputc('\'', f);
}

static void print_text(FILE *f, const char *name, const char *value) {
    if (value == NULL) return;
    fprintf(f, " --%s ", name);
    print_quoted(f, value);
}

static void print_value(FILE *f, const sy_option *row, const sy_options *options) {
    const void *field = (const char *)options + row->offset;
    switch (row->kind) {
    case SY_OPTION_FLAG:
        if (*(const bool *)field) fprintf(f, " --%s", row->name);
        break;
    case SY_OPTION_INT:
        if (row->initial == NULL && *(const int *)field == 0) break;
        fprintf(f, " --%s %d", row->name, *(const int *)field);
        break;
    case SY_OPTION_INT64:
        fprintf(f, " --%s %" PRId64, row->name, *(const int64_t *)field);
        break;
    case SY_OPTION_UINT64:
        fprintf(f, " --%s %" PRIu64, row->name, *(const uint64_t *)field);
        break;
    case SY_OPTION_REAL:
        fprintf(f, " --%s %g", row->name, *(const double *)field);
        break;
    case SY_OPTION_TEXT:
    case SY_OPTION_CHOICE:
    case SY_OPTION_LIST:
        print_text(f, row->name, *(const char *const *)field);
        break;
    case SY_OPTION_REPEAT:
        for (int i = 0; i < ((const sy_texts *)field)->n; i++)
            print_text(f, row->name, ((const sy_texts *)field)->text[i]);
        break;
    }
}

sy_status sy_options_describe(const sy_options *options, char **line) {
    size_t n;
    FILE *f = open_memstream(line, &n);
    if (f == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the line of options");
    fprintf(f, "switchyard %s", options->command->name);
    if (options->model != NULL) {
        fputc(' ', f);
        print_quoted(f, options->model);
    }
    if (options->target != NULL) {
        fputc(' ', f);
        print_quoted(f, options->target);
    }
    for (int i = 0; i < options->files.n; i++) {
        fputc(' ', f);
        print_quoted(f, options->files.text[i]);
    }
    for (const sy_option *row = sy_option_table; row->name != NULL; row++)
        if (sy_option_applies(row, options->command)) print_value(f, row, options);
    if (fclose(f) != 0) {
        free(*line);
        *line = NULL;
        return sy_fail(SY_ERR_MEMORY, "no memory for the line of options");
    }
    return SY_OK;
}

enum { MAX_WORD = 31 };

/* Edits (insertion, deletion, substitution, exchange of neighbours) from one word to another;
 * MAX_WORD + 1 if a word is longer than MAX_WORD. */
static int edit_distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    if (n > MAX_WORD || m > MAX_WORD) return MAX_WORD + 1;
    int d[MAX_WORD + 1][MAX_WORD + 1];
    for (size_t i = 0; i <= n; i++) {
        for (size_t j = 0; j <= m; j++) {
            if (i == 0 || j == 0) {
                d[i][j] = (int)(i + j);
                continue;
            }
            int change = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            int64_t best = sy_min(change, sy_min(d[i - 1][j], d[i][j - 1]) + 1);
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped) best = sy_min(best, d[i - 2][j - 2] + 1);
            d[i][j] = (int)best;
        }
    }
    return d[n][m];
}

const char *sy_nearest_word(const char *word, const char *const *candidates, int n) {
    const char *best = NULL;
    int limit = (int)strlen(word) / 3 + 1;
    for (int i = 0; i < n; i++) {
        int distance = edit_distance(word, candidates[i]);
        if (distance > limit) continue;
        best = candidates[i];
        limit = distance - 1; /* the first of equals stays */
    }
    return best;
}
