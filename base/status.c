#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local sy_error_text last_error;

static const struct {
    const char *name;
    int exit_code;
    const char *text;
} status_table[SY_STATUS_COUNT] = {
#define X(name, exit_code, text) {#name, exit_code, text},
    SY_STATUS_LIST(X)
#undef X
};

static int in_range(sy_status st) {
    return (int)st >= 0 && (int)st < SY_STATUS_COUNT;
}

const char *sy_status_name(sy_status st) {
    return in_range(st) ? status_table[st].name : "unknown status";
}

const char *sy_status_text(sy_status st) {
    return in_range(st) ? status_table[st].text : "unknown status";
}

int sy_status_exit_code(sy_status st) {
    return in_range(st) ? status_table[st].exit_code : 1;
}

sy_status sy_fail(sy_status st, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(last_error.text, sizeof last_error.text, format, args);
    va_end(args);
    return st;
}

void sy_status_context(const char *format, ...) {
    char joined[SY_ERROR_TEXT_MAX];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(joined, sizeof joined, format, args);
    va_end(args);
    if (n < 0 || n >= (int)sizeof joined - 3) return;
    size_t used = (size_t)n;
    joined[used++] = ':';
    joined[used++] = ' ';
    size_t rest = strlen(last_error.text);
    if (rest > sizeof joined - used - 1)
        rest = sizeof joined - used - 1; /* cut, never overrun */
    memcpy(joined + used, last_error.text, rest);
    joined[used + rest] = '\0';
    memcpy(last_error.text, joined, used + rest + 1);
}

const char *sy_last_error(void) {
    return last_error.text;
}

void sy_status_save(sy_error_text *out) {
    *out = last_error;
}

void sy_status_restore(const sy_error_text *saved) {
    last_error = *saved;
}
