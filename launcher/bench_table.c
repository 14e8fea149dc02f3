#include "launcher/bench_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "launcher/output.h"

typedef struct spread {
    double median, least, most;
} spread;

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static spread spread_of(const double *value, int n) {
    double sorted[SY_BENCH_MAX_REPETITIONS];
    if (n == 0) return (spread){0};
    memcpy(sorted, value, (size_t)n * sizeof *value);
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    return (spread){(sorted[(n - 1) / 2] + sorted[n / 2]) / 2, sorted[0], sorted[n - 1]};
}

static bool is_format(const char *format, const char *name) {
    return strcmp(format, name) == 0;
}

sy_status sy_bench_print_head(const char *format) {
    if (is_format(format, "json")) return SY_OK; /* one object a line */
    if (is_format(format, "csv"))
        return sy_out_printf("model,weight_bytes,ranks,threads,test,batch,tokens,"
                             "tokens_per_s_median,tokens_per_s_min,tokens_per_s_max,"
                             "bytes_per_token,gb_per_s,bound_per_s,share,device\n");
    return sy_out_printf(
        "| model | weights/rank | ranks x threads | test | batch | tokens/s | min - max | "
        "read/token | GB/s | share of bound |\n"
        "|---|---:|---|---|---:|---:|---:|---:|---:|---:|\n");
}

static sy_status print_markdown(const sy_model_spec *spec,
                                const sy_weights *weights,
                                const sy_bench_row *r,
                                spread rate,
                                spread gb,
                                spread bound,
                                spread share) {
    char size[32], read[32], reached[32] = "", limit[64];
    if (!r->is_prefill) snprintf(reached, sizeof reached, "%.1f", gb.median);
    if (!(bound.least > 0))
        snprintf(limit, sizeof limit, "not probed");
    else if (r->is_prefill)
        snprintf(limit, sizeof limit, "%.2f of %.0f GFLOP/s", share.median,
                 bound.median * 1e-9);
    else
        snprintf(limit, sizeof limit, "%.2f of %.1f GB/s", share.median, bound.median * 1e-9);
    return sy_out_printf(
        "| %s | %s | %d x %d | %s %" PRId64 " | %" PRId64
        " | %.2f | %.2f - %.2f | %s | %s | %s |\n",
        spec->family, sy_format_bytes(size, sizeof size, weights->bytes), r->n_ranks,
        r->n_threads, r->is_prefill ? "prefill" : "decode", r->n_tokens, r->n_batch,
        rate.median, rate.least, rate.most,
        r->is_prefill ? "" : sy_format_bytes(read, sizeof read, (uint64_t)r->bytes_per_token),
        reached, limit);
}

static const char *test_name(const sy_bench_row *r) {
    return r->is_prefill ? "prefill" : "decode";
}

/* "0.4321", or `unknown` where the bound was not probed. */
static const char *
share_text(char *buf, size_t size, spread bound, spread share, const char *unknown) {
    if (!(bound.least > 0)) return unknown;
    snprintf(buf, size, "%.4f", share.median);
    return buf;
}

static sy_status print_csv(const sy_model_spec *spec,
                           const sy_weights *weights,
                           const sy_bench_row *r,
                           spread rate,
                           spread gb,
                           spread bound,
                           spread share) {
    char text[32];
    return sy_out_printf("%s,%" PRIu64 ",%d,%d,%s,%" PRId64 ",%" PRId64
                         ",%.3f,%.3f,%.3f,%.0f,%.3f,%.0f,%s,\"%s\"\n",
                         spec->family, weights->bytes, r->n_ranks, r->n_threads, test_name(r),
                         r->n_batch, r->n_tokens, rate.median, rate.least, rate.most,
                         r->bytes_per_token, gb.median, bound.median,
                         share_text(text, sizeof text, bound, share, ""), r->device);
}

static sy_status print_json(const sy_model_spec *spec,
                            const sy_weights *weights,
                            const sy_bench_row *r,
                            spread rate,
                            spread gb,
                            spread bound,
                            spread share) {
    char text[32];
    return sy_out_printf(
        "{\"model\": \"%s\", \"weight_bytes\": %" PRIu64
        ", \"ranks\": %d, \"threads\": %d, \"test\": \"%s\", \"batch\": %" PRId64
        ", \"tokens\": %" PRId64 ", \"tokens_per_s\": {\"median\": %.3f, \"min\": %.3f, "
        "\"max\": %.3f}, \"bytes_per_token\": %.0f, \"gb_per_s\": %.3f, "
        "\"bound_per_s\": %.0f, \"share\": %s, \"device\": \"%s\"}\n",
        spec->family, weights->bytes, r->n_ranks, r->n_threads, test_name(r), r->n_batch,
        r->n_tokens, rate.median, rate.least, rate.most, r->bytes_per_token, gb.median,
        bound.median, share_text(text, sizeof text, bound, share, "null"), r->device);
}

sy_status sy_bench_print_row(const char *format,
                             const sy_model_spec *spec,
                             const sy_weights *weights,
                             const sy_bench_row *r) {
    spread rate = spread_of(r->rate, r->n_repetitions);
    spread gb = spread_of(r->gb_per_s, r->n_repetitions);
    spread bound = spread_of(r->bound, r->n_repetitions);
    spread share = spread_of(r->share, r->n_repetitions);
    sy_status st;
    if (is_format(format, "csv"))
        st = print_csv(spec, weights, r, rate, gb, bound, share);
    else if (is_format(format, "json"))
        st = print_json(spec, weights, r, rate, gb, bound, share);
    else
        st = print_markdown(spec, weights, r, rate, gb, bound, share);
    return st == SY_OK ? sy_out_flush() : st;
}

sy_status sy_bench_print_end(const char *format, const sy_bench_row *row) {
    if (!is_format(format, "markdown")) return SY_OK;
    return sy_out_printf(
        "\nComputed on: %s. Each test ran once to warm up, then as often as -r says; figures\n"
        "are medians. The bound of decode is %s,\nthat of prefill %s, "
        "both probed just before each\nrepetition, on all ranks at once.\n",
        row->device,
        row->on_device ? "what a copy within the device's memory reads and writes"
                       : "the read bandwidth",
        row->on_device ? "the rate of cuBLAS on a large BF16 product" : "the multiply rate");
}
