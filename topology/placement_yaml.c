#include "topology/placement_yaml.h"

#include <stdlib.h>
#include <string.h>

#include "base/checked.h"

enum { MOST_LAYERS = 4096, MOST_EXPERTS = 65536, MOST_SLOTS = 1 << 24, KEY_CHARS = 64 };

typedef struct yaml {
    const char *text;
    size_t size, at;
    int line;
    bool line_begins; /* only spaces since the last newline */
    int column;       /* of `at`, from 0 */
    const char *name;
} yaml;

static char peek(const yaml *y) {
    return y->at < y->size ? y->text[y->at] : '\0';
}

static void step(yaml *y) {
    char c = y->text[y->at++];
    if (c == '\n') {
        y->line++;
        y->column = 0;
        y->line_begins = true;
        return;
    }
    y->column++;
    if (c != ' ' && c != '\r') y->line_begins = false;
}

/* Passes spaces, ends of lines and comments. */
static void skip_space(yaml *y) {
    for (;;) {
        char c = peek(y);
        bool comment = c == '#' && (y->line_begins || y->at == 0 || y->text[y->at - 1] == ' ');
        if (comment) {
            while (y->at < y->size && peek(y) != '\n')
                step(y);
        } else if (y->at < y->size && (c == ' ' || c == '\n' || c == '\r')) {
            step(y);
        } else {
            return;
        }
    }
}

/* "line 3: expected a number, found "x"" */
static sy_status expected(const yaml *y, const char *what) {
    char found[24];
    size_t n = 0;
    while (n < sizeof found - 1 && y->at + n < y->size) {
        char c = y->text[y->at + n];
        if (c < ' ' || c == 127) break;
        found[n++] = c;
    }
    found[n] = '\0';
    if (y->at >= y->size)
        return sy_fail(SY_ERR_FORMAT, "%s, line %d: expected %s, found the end of the file",
                       y->name, y->line, what);
    return sy_fail(SY_ERR_FORMAT, "%s, line %d: expected %s, found \"%s\"", y->name, y->line,
                   what, found);
}

static bool take(yaml *y, char c) {
    skip_space(y);
    if (peek(y) != c || y->at >= y->size) return false;
    step(y);
    return true;
}

static bool at_digit(yaml *y) {
    skip_space(y);
    return peek(y) >= '0' && peek(y) <= '9';
}

static sy_status read_number(yaml *y, const char *what, int most, int *out) {
    int64_t value = 0;
    if (!at_digit(y)) return expected(y, what);
    for (; peek(y) >= '0' && peek(y) <= '9'; step(y)) {
        value = value * 10 + (peek(y) - '0');
        if (value > most)
            return sy_fail(SY_ERR_FORMAT, "%s, line %d: %s is above %d", y->name, y->line, what,
                           most);
    }
    char c = peek(y);
    bool ends = y->at >= y->size || strchr(" \r\n,:]}", c) != NULL;
    *out = (int)value;
    return ends && (c != '\0' || y->at >= y->size) ? SY_OK : expected(y, what);
}

/* A word of letters, digits, "_" and its colon. */
static sy_status read_key(yaml *y, char key[KEY_CHARS]) {
    size_t n = 0;
    skip_space(y);
    for (; n < KEY_CHARS - 1; step(y)) {
        char c = peek(y);
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
                      (n > 0 && c >= '0' && c <= '9');
        if (!letter) break;
        key[n++] = c;
    }
    key[n] = '\0';
    if (n == 0 || peek(y) != ':') return expected(y, "a key and a colon");
    step(y);
    return SY_OK;
}

/* Passes a plain value, which ends with its line, or in braces before "," and "}". */
static sy_status skip_plain(yaml *y, bool in_braces) {
    size_t begin;
    while (peek(y) == ' ')
        step(y);
    if (y->at >= y->size || strchr("{}[]&*!|>'\"%@`\n\r", peek(y)) != NULL)
        return expected(y, "a plain value");
    begin = y->at;
    while (y->at < y->size && peek(y) != '\n' &&
           !(in_braces && (peek(y) == ',' || peek(y) == '}')))
        step(y);
    return y->at > begin ? SY_OK : expected(y, "a plain value");
}

/* ---- lists ---- */

typedef struct numbers {
    int32_t *v;
    size_t n, room;
} numbers;

static sy_status append(numbers *list, int value) {
    if (list->n == list->room) {
        size_t room = list->room > 0 ? 2 * list->room : 64;
        int32_t *more = realloc(list->v, room * sizeof *more);
        if (more == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a placement");
        list->v = more;
        list->room = room;
    }
    list->v[list->n++] = value;
    return SY_OK;
}

static sy_status read_bracketed(yaml *y, numbers *list) {
    sy_status st = SY_OK;
    int value;
    while (!take(y, ']')) {
        if (list->n > 0 && !take(y, ',')) {
            st = expected(y, "\",\" or \"]\"");
            goto done;
        }
        if (take(y, ']')) break; /* a comma may follow the last */
        SY_TRY(read_number(y, "an expert's number", MOST_EXPERTS - 1, &value));
        SY_TRY(append(list, value));
    }
done:
    return st;
}

static sy_status read_dashed(yaml *y, numbers *list) {
    sy_status st = SY_OK;
    int value;
    while (take(y, '-')) {
        if (peek(y) != ' ') {
            st = expected(y, "a space behind \"-\"");
            goto done;
        }
        SY_TRY(read_number(y, "an expert's number", MOST_EXPERTS - 1, &value));
        SY_TRY(append(list, value));
    }
    if (list->n == 0) st = expected(y, "a list of experts");
done:
    return st;
}

/* ---- layers ---- */

static sy_status add_layer(yaml *y, sy_placement_list *list, int number, numbers *slots) {
    if (list->n_layers >= MOST_LAYERS)
        return sy_fail(SY_ERR_FORMAT, "%s: more than %d layers", y->name, MOST_LAYERS);
    for (int i = 0; i < list->n_layers; i++)
        if (list->layer[i].layer == number)
            return sy_fail(SY_ERR_FORMAT, "%s, line %d: layer %d is listed twice", y->name,
                           y->line, number);
    sy_placement_list_layer *more =
        realloc(list->layer, (size_t)(list->n_layers + 1) * sizeof *more);
    if (more == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a placement");
    list->layer = more;
    more[list->n_layers++] =
        (sy_placement_list_layer){.layer = number, .n_all = (int)slots->n, .slot = slots->v};
    *slots = (numbers){0};
    return SY_OK;
}

/* "3: [0, 1]" or "3:" and dashed lines. */
static sy_status read_layer(yaml *y, sy_placement_list *list, bool in_braces) {
    sy_status st = SY_OK;
    numbers slots = {0};
    int number;
    SY_TRY(read_number(y, "a layer's number", MOST_LAYERS - 1, &number));
    if (!take(y, ':')) {
        st = expected(y, "\":\" behind a layer's number");
        goto done;
    }
    bool bracketed = take(y, '[');
    if (!bracketed && in_braces) {
        st = expected(y, "\"[\"");
        goto done;
    }
    SY_TRY(bracketed ? read_bracketed(y, &slots) : read_dashed(y, &slots));
    SY_TRY(add_layer(y, list, number, &slots));
done:
    free(slots.v);
    return st;
}

static sy_status read_layers(yaml *y, sy_placement_list *list) {
    sy_status st = SY_OK;
    if (list->n_layers > 0)
        SY_FAIL(SY_ERR_FORMAT, "%s, line %d: initial_global_assignments comes twice", y->name,
                y->line);
    if (take(y, '{')) {
        while (!take(y, '}')) {
            if (list->n_layers > 0 && !take(y, ',')) {
                st = expected(y, "\",\" or \"}\"");
                goto done;
            }
            SY_TRY(read_layer(y, list, true));
        }
    } else {
        while (at_digit(y) && y->column > 0)
            SY_TRY(read_layer(y, list, false));
    }
    if (list->n_layers == 0) st = expected(y, "a layer's number");
done:
    return st;
}

/* ---- the whole ---- */

static int by_number(const void *a, const void *b) {
    return ((const sy_placement_list_layer *)a)->layer -
           ((const sy_placement_list_layer *)b)->layer;
}

static sy_status read_entry(yaml *y, sy_placement_list *list, bool in_braces, int *n_slots) {
    char key[KEY_CHARS];
    sy_status st = read_key(y, key);
    if (st != SY_OK) return st;
    if (strcmp(key, "num_slots") == 0)
        return read_number(y, "the number of slots", MOST_SLOTS, n_slots);
    if (strcmp(key, "initial_global_assignments") == 0) return read_layers(y, list);
    return skip_plain(y, in_braces);
}

static sy_status read_document(yaml *y, sy_placement_list *list, int *n_slots) {
    sy_status st = SY_OK;
    skip_space(y);
    if (y->column == 0 && y->size - y->at >= 3 && memcmp(y->text + y->at, "---", 3) == 0)
        for (int i = 0; i < 3; i++)
            step(y);
    bool in_braces = take(y, '{');
    for (bool first = true;; first = false) {
        skip_space(y);
        if (in_braces && take(y, '}')) break;
        if (!in_braces && y->at >= y->size) break;
        if (in_braces && !first && !take(y, ',')) {
            st = expected(y, "\",\" or \"}\"");
            goto done;
        }
        skip_space(y);
        if (!in_braces && y->column > 0) {
            st = expected(y, "a key at the begin of a line");
            goto done;
        }
        SY_TRY(read_entry(y, list, in_braces, n_slots));
    }
    skip_space(y);
    if (y->at < y->size) st = expected(y, "the end of the file");
done:
    return st;
}

sy_status sy_placement_yaml_parse(const char *text,
                                  size_t size,
                                  const char *name,
                                  sy_placement_list *list) {
    sy_status st = SY_OK;
    yaml y = {.text = text, .size = size, .line = 1, .line_begins = true, .name = name};
    int n_slots = 0;
    SY_TRY(read_document(&y, list, &n_slots));
    if (list->n_layers == 0)
        SY_FAIL(SY_ERR_FORMAT, "%s: expected \"initial_global_assignments\", found none", name);
    for (int i = 0; i < list->n_layers; i++)
        if (n_slots > 0 && list->layer[i].n_all != n_slots)
            SY_FAIL(SY_ERR_FORMAT, "%s, layer %d: num_slots is %d, but %d are listed", name,
                    list->layer[i].layer, n_slots, list->layer[i].n_all);
    qsort(list->layer, (size_t)list->n_layers, sizeof *list->layer, by_number);
done:
    return st;
}
