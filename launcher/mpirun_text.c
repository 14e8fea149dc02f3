/* What Open MPI's mpirun writes on stderr besides the lines of the ranks. */
#include <stdio.h>
#include <string.h>

#include "launcher/mpirun.h"

void sy_mpirun_text_init(sy_mpirun_text *text) {
    *text = (sy_mpirun_text){.rank = -1};
}

static bool is_dashes(const char *line) {
    size_t n = strspn(line, "-");
    return n >= 40 && line[n] == '\0';
}

/* "[host:1234] ..." of Open MPI's libraries and daemons. */
static bool has_origin(const char *line) {
    if (line[0] != '[') return false;
    const char *colon = strchr(line, ':'), *end = strchr(line, ']');
    if (colon == NULL || end == NULL || end <= colon + 1) return false;
    return strspn(colon + 1, "0123456789") == (size_t)(end - colon - 1);
}

static bool starts_with(const char *line, const char *prefix) {
    return strncmp(line, prefix, strlen(prefix)) == 0;
}

/* The first rank that ended wrongly; what is found first stays. */
static void learn(sy_mpirun_text *text, const char *line) {
    int rank, number;
    char host[128];
    if (sscanf(line,
               "mpirun noticed that process rank %d with PID %*d on node %127s exited on "
               "signal %d",
               &rank, host, &number) == 3) {
        if (text->rank >= 0 && text->rank != rank) return;
        text->rank = rank;
        text->signal = number;
        snprintf(text->host, sizeof text->host, "%s", host);
    } else if (sscanf(line, " Process name: [[%*d,%*d],%d]", &rank) == 1) {
        if (text->rank < 0) text->rank = rank;
    } else if (sscanf(line, " Exit code: %d", &number) == 1) {
        if (text->exit_code == 0) text->exit_code = number;
    }
}

sy_mpirun_line sy_mpirun_text_line(sy_mpirun_text *text, const char *line) {
    if (is_dashes(line)) {
        text->in_banner = !text->in_banner;
        return SY_LINE_MPIRUN;
    }
    bool after_mpirun = text->after_mpirun;
    text->after_mpirun = starts_with(line, "mpirun: ");
    if (after_mpirun && line[0] == '\0') return SY_LINE_NOISE;
    if (starts_with(line, "mpirun: Forwarding signal ")) return SY_LINE_NOISE;
    if (text->in_banner || has_origin(line) || starts_with(line, "mpirun: ")) {
        learn(text, line);
        return SY_LINE_MPIRUN;
    }
    return SY_LINE_FOREIGN;
}
