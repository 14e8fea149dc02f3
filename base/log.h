/* Messages for the person who runs the program: stderr, one line each, prefixed with the rank
 * when there are several. Information comes from rank 0 only, warnings and errors from all.
 * The level, rank and sink are set once at start, before other threads run. */
#ifndef SY_BASE_LOG_H
#define SY_BASE_LOG_H

typedef enum sy_log_level {
    SY_LOG_ERROR,
    SY_LOG_WARNING,
    SY_LOG_INFO,
    SY_LOG_DEBUG
} sy_log_level;

/* A sink receives one finished line without its newline. NULL restores stderr. */
typedef void (*sy_log_sink)(sy_log_level level, const char *line, void *context);

sy_log_level sy_log_set_level(sy_log_level level); /* returns the one before */
void sy_log_set_rank(int rank, int n_ranks);
void sy_log_set_sink(sy_log_sink sink, void *context);

void sy_log(sy_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define SY_INFO(...) sy_log(SY_LOG_INFO, __VA_ARGS__)
#define SY_WARN(...) sy_log(SY_LOG_WARNING, __VA_ARGS__)
#define SY_DEBUG(...) sy_log(SY_LOG_DEBUG, __VA_ARGS__)

#endif
