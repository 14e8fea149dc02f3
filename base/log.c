#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

static struct {
    sy_log_level level;
    int rank, n_ranks;
    sy_log_sink sink;
    void *context;
} logger = {SY_LOG_INFO, 0, 1, NULL, NULL};

sy_log_level sy_log_set_level(sy_log_level level) {
    sy_log_level before = logger.level;
    logger.level = level;
    return before;
}

void sy_log_set_rank(int rank, int n_ranks) {
    logger.rank = rank;
    logger.n_ranks = n_ranks;
}

void sy_log_set_sink(sy_log_sink sink, void *context) {
    logger.sink = sink;
    logger.context = context;
}

void sy_log(sy_log_level level, const char *format, ...) {
    if (level > logger.level) return;
    if (level == SY_LOG_INFO && logger.rank != 0) return;

    char line[2048];
    int used = 0;
    if (logger.n_ranks > 1 && level != SY_LOG_INFO)
        used = snprintf(line, sizeof line, "[rank %d] ", logger.rank);
    va_list args;
    va_start(args, format);
    vsnprintf(line + used, sizeof line - (size_t)used, format, args);
    va_end(args);

    if (logger.sink != NULL) {
        logger.sink(level, line, logger.context);
    } else {
        fprintf(stderr, "%s%s\n", level == SY_LOG_WARNING ? "warning: " : "", line);
    }
}
