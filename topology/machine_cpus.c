#include "topology/machine_cpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORDS = SY_CPUS_MAX / 64 };

void sy_cpus_add(sy_cpus *cpus, int cpu) {
    cpus->word[cpu / 64] |= (uint64_t)1 << (cpu % 64);
}

bool sy_cpus_has(const sy_cpus *cpus, int cpu) {
    return (cpus->word[cpu / 64] >> (cpu % 64) & 1) != 0;
}

int sy_cpus_count(const sy_cpus *cpus) {
    int n = 0;
    for (int i = 0; i < WORDS; i++)
        n += __builtin_popcountll(cpus->word[i]);
    return n;
}

bool sy_cpus_equal(const sy_cpus *a, const sy_cpus *b) {
    return memcmp(a, b, sizeof *a) == 0;
}

bool sy_cpus_overlap(const sy_cpus *a, const sy_cpus *b) {
    for (int i = 0; i < WORDS; i++)
        if ((a->word[i] & b->word[i]) != 0) return true;
    return false;
}

int sy_cpus_next(const sy_cpus *cpus, int from) {
    for (int cpu = from; cpu < SY_CPUS_MAX; cpu++) {
        uint64_t rest = cpus->word[cpu / 64] >> (cpu % 64);
        if (rest != 0) return cpu + __builtin_ctzll(rest);
        cpu |= 63; /* the next word begins one further */
    }
    return -1;
}

/* "first-last" or "first"; the bytes it takes. */
static size_t range_text(char buf[16], int first, int last, bool comma) {
    const char *mark = comma ? "," : "";
    int n = first == last ? snprintf(buf, 16, "%s%d", mark, first)
                          : snprintf(buf, 16, "%s%d-%d", mark, first, last);
    return (size_t)n;
}

char *sy_cpus_text(const sy_cpus *cpus, char *buf, size_t size) {
    static const char more[] = ",..";
    size_t used = 0;
    buf[0] = '\0';
    for (int first = sy_cpus_next(cpus, 0); first >= 0;) {
        int last = first;
        while (last + 1 < SY_CPUS_MAX && sy_cpus_has(cpus, last + 1))
            last++;
        char piece[16];
        size_t n = range_text(piece, first, last, used > 0);
        first = sy_cpus_next(cpus, last + 1);
        size_t spare = first >= 0 ? sizeof more : 1;
        if (used + n + spare > size) {
            if (used + sizeof more <= size) memcpy(buf + used, more, sizeof more);
            break;
        }
        memcpy(buf + used, piece, n + 1);
        used += n;
    }
    return buf;
}

/* Up to four digits; false if there is none, or more than SY_CPUS_MAX allows. */
static bool read_number(const char **at, int *out) {
    int n = 0, digits = 0;
    for (; **at >= '0' && **at <= '9'; ++*at, digits++) {
        if (digits == 4) return false;
        n = 10 * n + (**at - '0');
    }
    *out = n;
    return digits > 0 && n < SY_CPUS_MAX;
}

sy_status
sy_cpu_list_parse(const char *text, const char *what, int most, int16_t *cpu, int *n) {
    const char *at = text;
    *n = 0;
    while (*at != '\0' && *at != '\n') {
        int first, last;
        if (!read_number(&at, &first)) goto malformed;
        last = first;
        if (*at == '-') {
            at++;
            if (!read_number(&at, &last) || last < first) goto malformed;
        }
        if (last - first >= most - *n)
            return sy_fail(SY_ERR_FORMAT, "%s: expected at most %d CPUs, found more", what,
                           most);
        for (int c = first; c <= last; c++)
            cpu[(*n)++] = (int16_t)c;
        if (*at != ',') break;
        at++;
        if (*at == '\0' || *at == '\n') goto malformed;
    }
    if (*at == '\n') at++;
    if (*at == '\0') return SY_OK;
malformed:
    return sy_fail(SY_ERR_FORMAT,
                   "%s: expected a list of CPUs below %d such as \"0-3,8\", found \"%.40s\"",
                   what, SY_CPUS_MAX, text);
}

bool sy_cpu_list_text(const int16_t *cpu, int n, char *buf, size_t size) {
    size_t used = 0;
    if (size == 0) return false;
    buf[0] = '\0';
    for (int i = 0, end; i < n; i = end) {
        for (end = i + 1; end < n && cpu[end] == cpu[end - 1] + 1; end++)
            continue;
        char piece[16];
        size_t length = range_text(piece, cpu[i], cpu[end - 1], i > 0);
        if (used + length + 1 > size) return false;
        memcpy(buf + used, piece, length + 1);
        used += length;
    }
    return true;
}
