/* switchyard convert MODEL OUT: a checkpoint in another precision. One plain process. */
#include <inttypes.h>
#include <stdio.h>

#include "base/log.h"
#include "base/memory.h"
#include "launcher/commands.h"
#include "launcher/output.h"
#include "runtime/convert.h"

static bool show(void *context, double share, uint64_t bytes) {
    char text[32];
    (void)context;
    sy_out_progress("converting", share, sy_format_bytes(text, sizeof text, bytes));
    return !sy_interrupted();
}

static sy_status print_json(const sy_convert_report *r) {
    return sy_out_printf("{\"source_bytes\": %" PRIu64 ", \"target_bytes\": %" PRIu64
                         ", \"tensors\": %d, \"shards\": %d, \"encoded\": %d, "
                         "\"kept_shards\": %d, \"written_bytes\": %" PRIu64
                         ", \"seconds\": %.3f}\n",
                         r->source_bytes, r->target_bytes, r->n_tensors, r->n_shards,
                         r->n_encoded, r->n_kept, r->written_bytes, r->seconds);
}

static sy_status print_text(const sy_options *o, const sy_convert_report *r) {
    char source[32], target[32];
    return sy_out_printf(
        "%s: %s in %d tensors, %d file%s; %d matrices in %s; the source has %s%s\n", o->target,
        sy_format_bytes(target, sizeof target, r->target_bytes), r->n_tensors, r->n_shards,
        r->n_shards == 1 ? "" : "s", r->n_encoded, o->to,
        sy_format_bytes(source, sizeof source, r->source_bytes),
        o->dry_run ? "; nothing was written" : "");
}

static void tell_speed(const sy_convert_report *r) {
    char read[32], rate[32];
    double seconds = r->seconds > 0 ? r->seconds : 1e-9;
    if (r->n_kept > 0) SY_INFO("%d of %d files were there already", r->n_kept, r->n_shards);
    SY_INFO("wrote %s in %.1f s, %s/s", sy_format_bytes(read, sizeof read, r->written_bytes),
            r->seconds,
            sy_format_bytes(rate, sizeof rate, (uint64_t)((double)r->written_bytes / seconds)));
}

sy_status sy_cmd_convert(const sy_options *o) {
    sy_status st = SY_OK;
    sy_convert_report report;
    sy_convert_options convert = {.source = o->model,
                                  .target = o->target,
                                  .all = o->all_matrices,
                                  .shard_bytes = (uint64_t)(o->shard_size * 1e9),
                                  .n_threads = o->convert_threads,
                                  .dry_run = o->dry_run,
                                  .progress = show};
    if (o->to == NULL) SY_FAIL(SY_ERR_USAGE, "convert needs --to FORMAT");
    if (!sy_convert_format_from_name(o->to, &convert.to))
        SY_FAIL(SY_ERR_INTERNAL, "no format \"%s\"", o->to);
    SY_TRY(sy_convert(&convert, &report));
    if (!o->dry_run) tell_speed(&report);
    SY_TRY(o->json ? print_json(&report) : print_text(o, &report));
    SY_TRY(sy_out_flush());
done:
    return st;
}
