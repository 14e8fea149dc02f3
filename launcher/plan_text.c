/* A plan for people. */
#include <inttypes.h>

#include "base/memory.h"
#include "launcher/output.h"
#include "launcher/plan_report.h"

static const char *bytes_text(char buf[24], uint64_t bytes) {
    return bytes == UINT64_MAX ? "beyond 64 bits" : sy_format_bytes(buf, 24, bytes);
}

/* "MXFP4, one scale for 32 (mxfp4), the rest BF16" */
static sy_status print_model(const sy_plan_report *r) {
    const sy_model_spec *e = &r->weights->experts, *rest = &r->weights->rest;
    char quant[SY_QUANTIZATION_TEXT_MAX];
    if (r->precision != NULL)
        return sy_out_printf("model    %s, weights %s by --precision\n", e->family,
                             r->precision);
    if (e->quant.method == SY_QUANT_NONE)
        return sy_out_printf("model    %s, weights %s\n", e->family, sy_dtype_name(e->dtype));
    return sy_out_printf("model    %s, weights %s, the rest %s\n", e->family,
                         sy_quantization_text(&e->quant, quant), sy_dtype_name(rest->dtype));
}

static sy_status print_head(const sy_plan_report *r) {
    const sy_cluster *c = r->cluster;
    char memory[24], usable[24];
    sy_status st = SY_OK;
    SY_TRY(print_model(r));
    SY_TRY(sy_out_printf("cluster  %s: %d x %s, %s each, %s usable\n", c->name, c->n_devices,
                         c->device, bytes_text(memory, (uint64_t)c->memory.value),
                         bytes_text(usable, (uint64_t)c->usable.value)));
    SY_TRY(sy_out_printf("run      %" PRId64 " sequence%s of %" PRId64
                         " tokens, experts chosen %s%s\n",
                         r->wish.batch, r->wish.batch == 1 ? "" : "s", r->wish.context,
                         r->has_loads ? "as in the measured loads" : "uniformly at random",
                         r->has_placement ? ", placed by --placement" : ""));
done:
    return st;
}

static sy_status print_part(const char *name, uint64_t bytes) {
    char text[24];
    return sy_out_printf("  %-9s %14s\n", name, bytes_text(text, bytes));
}

static sy_status print_memory(const sy_plan_row *row) {
    sy_status st = SY_OK;
    SY_TRY(sy_out_printf("\nmemory of the fullest of %d rank%s, prefill chunk %" PRId64 "\n",
                         row->ranks, row->ranks == 1 ? "" : "s", row->chunk));
    SY_TRY(print_part("experts", row->memory.experts));
    SY_TRY(print_part("rest", row->memory.rest));
    SY_TRY(print_part("KV cache", row->memory.kv));
    SY_TRY(print_part("workspace", row->memory.buffers));
    SY_TRY(print_part("process", row->memory.process));
    SY_TRY(print_part("total", row->total));
    if (row->expected < row->total) SY_TRY(print_part("expected", row->expected));
    SY_TRY(print_part("usable", row->usable));
    SY_TRY(print_part("reserve", row->reserve));
    SY_TRY(sy_out_printf("  %s\n", row->fits ? "fits" : "does not fit"));
done:
    return st;
}

static sy_status print_term(const char *name, double a, double b) {
    return sy_out_printf("  %-22s %12.3f %12.3f\n", name, 1e3 * a, 1e3 * b);
}

/* The terms of both forecasts, for the whole cluster. */
static sy_status print_terms(const sy_plan_row *row) {
    const sy_forecast *d = &row->decode, *p = &row->prefill;
    char read[24], sent[24], all_sent[24];
    sy_status st = SY_OK;
    SY_TRY(sy_out_printf("\nforecast on %d rank%s%s, milliseconds  %s\n", row->ranks,
                         row->ranks == 1 ? "" : "s", row->ranks > 1 ? ", spread" : "",
                         row->fits ? "" : "(if it did fit)"));
    SY_TRY(sy_out_printf("  %-22s %12s %12s\n", "", "decode step", "prefill"));
    SY_TRY(print_term("weights: rest", d->rest_s, p->rest_s));
    SY_TRY(print_term("weights: experts", d->experts_s, p->experts_s));
    SY_TRY(print_term("KV cache", d->kv_s, p->kv_s));
    SY_TRY(print_term("compute (overlaps)", d->compute_s, p->compute_s));
    SY_TRY(print_term("exchange: bytes", d->exchange_s, p->exchange_s));
    SY_TRY(print_term("exchange: latency", d->latency_s, p->latency_s));
    SY_TRY(print_term("overheads", d->overhead_s, p->overhead_s));
    SY_TRY(print_term("total", d->seconds, p->seconds));
    SY_TRY(
        sy_out_printf("  %-22s %12.1f %12.1f\n", "tokens/s", d->tokens_per_s, p->tokens_per_s));
    SY_TRY(sy_out_printf("  %-22s %11.0f%% %11.0f%%\n", "of the hardware bound",
                         100 * d->tokens_per_s / d->bound_per_s,
                         100 * p->tokens_per_s / p->bound_per_s));
    SY_TRY(sy_out_printf("  %-22s %12.2f %12.2f\n", "busiest rank / mean", d->imbalance,
                         p->imbalance));
    SY_TRY(sy_out_printf(
        "  the busiest rank reads %s for a decode step and exchanges %s; in prefill %s\n",
        bytes_text(read, (uint64_t)(d->rest_bytes + d->experts_bytes + d->kv_bytes)),
        bytes_text(sent, (uint64_t)d->exchange_bytes),
        bytes_text(all_sent, (uint64_t)p->exchange_bytes)));
done:
    return st;
}

static sy_status print_row(const sy_plan_table *t, int i) {
    const sy_plan_row *row = &t->row[i];
    char total[24];
    return sy_out_printf(
        "  %5d%s %12s  %-4s %10.1f %5.0f%% %12.0f %5.0f%% %12.1f\n", row->ranks,
        row->is_there ? " " : "*", bytes_text(total, row->total), row->fits ? "yes" : "no",
        row->decode.tokens_per_s, 100 * row->decode.tokens_per_s / row->decode.bound_per_s,
        row->prefill.tokens_per_s, 100 * row->prefill.tokens_per_s / row->prefill.bound_per_s,
        row->shard_decode.tokens_per_s);
}

static sy_status print_table(const sy_plan_report *r) {
    const sy_plan_table *t = r->table;
    sy_status st = SY_OK;
    bool beyond = false;
    SY_TRY(sy_out_printf("\nby number of ranks, tokens/s and share of the hardware bound\n"));
    SY_TRY(sy_out_printf("  %5s  %12s  %-4s %17s %19s %12s\n", "ranks", "bytes each", "fits",
                         "decode", "prefill", "shard decode"));
    for (int i = 0; i < t->n; i++) {
        SY_TRY(print_row(t, i));
        beyond |= !t->row[i].is_there;
    }
    if (beyond) SY_TRY(sy_out_printf("  *: as if the cluster had so many, linked alike\n"));
    SY_TRY(sy_out_printf("  shard, the mode for few sequences, is not built yet: its column is "
                         "what it would give\n"));
done:
    return st;
}

sy_status sy_plan_print_text(const sy_plan_report *r) {
    sy_status st = SY_OK;
    const sy_plan_row *whole = &r->table->row[r->table->whole];
    char advice[SY_PLAN_ADVICE_MAX];
    SY_TRY(print_head(r));
    SY_TRY(print_memory(whole));
    SY_TRY(print_terms(whole));
    SY_TRY(print_table(r));
    sy_plan_advise(r->table, advice);
    SY_TRY(sy_out_printf("\nrecommended: %s\n", advice));
done:
    return st;
}
