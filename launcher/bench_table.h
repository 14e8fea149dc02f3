/* The table of `switchyard bench`: markdown, csv or json, a row per test. */
#ifndef SY_LAUNCHER_BENCH_TABLE_H
#define SY_LAUNCHER_BENCH_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "runtime/spec.h"
#include "runtime/weights.h"

enum { SY_BENCH_MAX_REPETITIONS = 100 };

typedef struct sy_bench_row {
    bool is_prefill;
    int64_t n_batch, n_tokens; /* sequences; prompt or generated tokens of each */
    int n_ranks, n_threads, n_repetitions;
    const char *device;     /* what computes: the name of a GPU, or the CPU's instruction set */
    bool on_device;         /* a GPU, or the emulation of one */
    double bytes_per_token; /* weights read, decode only */
    double rate[SY_BENCH_MAX_REPETITIONS];     /* tokens/s over all sequences */
    double gb_per_s[SY_BENCH_MAX_REPETITIONS]; /* decode only */
    double bound[SY_BENCH_MAX_REPETITIONS]; /* bytes/s or FLOP/s probed just before; 0: not */
    double share[SY_BENCH_MAX_REPETITIONS]; /* of that bound */
} sy_bench_row;

/* format: "markdown", "csv" or "json". */
sy_status sy_bench_print_head(const char *format);
sy_status sy_bench_print_row(const char *format,
                             const sy_model_spec *spec,
                             const sy_weights *weights,
                             const sy_bench_row *row);
/* row: the last one, for what the bounds are. */
sy_status sy_bench_print_end(const char *format, const sy_bench_row *row);

#endif
