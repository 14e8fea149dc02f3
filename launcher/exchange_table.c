#include "launcher/exchange_table.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "base/memory.h"
#include "comm/exchange_bench.h"
#include "launcher/output.h"
#include "runtime/spec.h"

/* Without a model: a middling shape, so that figures of different machines compare. */
enum { DEFAULT_HIDDEN = 2048, DEFAULT_EXPERTS = 64, DEFAULT_TOP_K = 8 };

static sy_status shape_of_model(const char *path, sy_exchange_bench_options *o) {
    sy_model_spec *spec;
    sy_status st = sy_spec_load(path, &spec);
    if (st != SY_OK) return st;
    o->hidden = spec->hidden;
    o->experts = o->top_k = 0;
    for (int l = 0; l < spec->n_layers; l++) {
        o->experts = (int)sy_max(o->experts, spec->layer[l].ffn.experts);
        o->top_k = (int)sy_max(o->top_k, spec->layer[l].ffn.top_k);
    }
    sy_spec_destroy(spec);
    return SY_OK;
}

static sy_status print_head(const char *format) {
    if (strcmp(format, "json") == 0) return SY_OK; /* one object a line */
    if (strcmp(format, "csv") == 0)
        return sy_out_printf("ranks,tokens_per_rank,bytes_sent,exchange_us,exchange_gb_per_s,"
                             "alltoallv_us,alltoallv_gb_per_s\n");
    return sy_out_printf("| ranks | tokens/rank | sent per rank | dispatch + combine | GB/s | "
                         "MPI_Alltoallv | GB/s |\n|---:|---:|---:|---:|---:|---:|---:|\n");
}

static sy_status print_row(const char *format, int n_ranks, const sy_exchange_bench_row *r) {
    char bytes[32];
    double us = r->exchange_s * 1e6, mpi_us = r->alltoallv_s * 1e6;
    if (strcmp(format, "json") == 0)
        return sy_out_printf("{\"ranks\": %d, \"tokens_per_rank\": %" PRId64
                             ", \"bytes_sent\": %" PRIu64 ", \"exchange_us\": %.2f, "
                             "\"exchange_gb_per_s\": %.3f, \"alltoallv_us\": %.2f, "
                             "\"alltoallv_gb_per_s\": %.3f}\n",
                             n_ranks, r->tokens, r->bytes, us, r->exchange_gbs, mpi_us,
                             r->alltoallv_gbs);
    if (strcmp(format, "csv") == 0)
        return sy_out_printf("%d,%" PRId64 ",%" PRIu64 ",%.2f,%.3f,%.2f,%.3f\n", n_ranks,
                             r->tokens, r->bytes, us, r->exchange_gbs, mpi_us,
                             r->alltoallv_gbs);
    return sy_out_printf("| %d | %" PRId64 " | %s | %.1f us | %.2f | %.1f us | %.2f |\n",
                         n_ranks, r->tokens, sy_format_bytes(bytes, sizeof bytes, r->bytes), us,
                         r->exchange_gbs, mpi_us, r->alltoallv_gbs);
}

static sy_status
print_rows(const char *format, int n_ranks, const sy_exchange_bench_row *row, int n_rows) {
    sy_status st = SY_OK;
    for (int i = 0; i < n_rows; i++)
        SY_TRY(print_row(format, n_ranks, &row[i]));
    SY_TRY(sy_out_flush());
done:
    return st;
}

static sy_status
print_end(const sy_session *s, const char *format, const sy_exchange_bench_options *o) {
    sy_status st = SY_OK;
    if (strcmp(format, "markdown") == 0)
        SY_TRY(
            sy_out_printf("\nhidden %d, %d experts, top-%d, %s rows; MPI sends the same bytes, "
                          "already packed.\n",
                          o->hidden, o->experts, o->top_k, sy_dtype_name(s->be->act)));
    SY_TRY(sy_out_flush());
done:
    return st;
}

/* The part of the table for the first n ranks. Collective over all: the others wait. */
static sy_status
sweep_tokens(sy_session *s, int n, const char *format, const sy_exchange_bench_options *o) {
    sy_status st = SY_OK;
    sy_comm *first = NULL;
    sy_exchange_bench_row row[SY_EXCHANGE_BENCH_ROWS];
    int n_rows = 0;
    sy_progress_phase(s->live, "measuring the exchange", 60);
    SY_TRY(sy_comm_create_first(s->comm, n, &first));
    if (first != NULL) st = sy_exchange_bench(first, s->be, o, row, &n_rows);
    if (st == SY_OK && s->rank == 0) st = print_rows(format, n, row, n_rows);
    sy_progress_wait(s->live);
    st = sy_comm_agree(s->comm, st);
    sy_progress_resume(s->live);
done:
    sy_comm_destroy(first);
    return st;
}

sy_status sy_exchange_table(sy_session *s) {
    sy_status st = SY_OK;
    const char *format = s->options->json ? "json" : s->options->format;
    sy_exchange_bench_options o = {.hidden = DEFAULT_HIDDEN,
                                   .experts = DEFAULT_EXPERTS,
                                   .top_k = DEFAULT_TOP_K,
                                   .seconds = 0.5,
                                   .live = s->live,
                                   .combine = sy_session_combine(s->options),
                                   .max_tokens = s->options->exchange_tokens};
    if (s->options->model != NULL)
        SY_TRY(sy_comm_agree(s->comm, shape_of_model(s->options->model, &o)));
    SY_TRY(sy_comm_agree(s->comm, s->rank == 0 ? print_head(format) : SY_OK));
    for (int n = s->n_ranks > 1 ? 2 : 1; n < s->n_ranks; n *= 2)
        SY_TRY(sweep_tokens(s, n, format, &o));
    SY_TRY(sweep_tokens(s, s->n_ranks, format, &o));
    SY_TRY(sy_comm_agree(s->comm, s->rank == 0 ? print_end(s, format, &o) : SY_OK));
done:
    return st;
}
