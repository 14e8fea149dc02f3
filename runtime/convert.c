#include "runtime/convert.h"

#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "runtime/convert_files.h"
#include "runtime/convert_write.h"

static const char *const format_names[SY_CONVERT_FORMATS] = {"bf16", "fp8", "q8", "mxfp4",
                                                             "nvfp4"};

const char *sy_convert_format_name(sy_convert_format format) {
    return (unsigned)format < SY_CONVERT_FORMATS ? format_names[format] : "?";
}

bool sy_convert_format_from_name(const char *name, sy_convert_format *out) {
    for (int i = 0; i < SY_CONVERT_FORMATS; i++)
        if (strcmp(name, format_names[i]) == 0) {
            *out = (sy_convert_format)i;
            return true;
        }
    return false;
}

static void tell_oddities(const sy_convert_plan *p) {
    if (p->n_extra_layer_tensors > 0)
        SY_INFO("left out %d tensors of layers for predicting several tokens",
                p->n_extra_layer_tensors);
    if (p->n_short_groups > 0)
        SY_WARN("the rows of %d matrices are no whole groups; other programs may refuse them",
                p->n_short_groups);
}

/* Compressing file systems may have more room than they say, so this is no error. */
static void check_room(const sy_partial *partial, const sy_convert_plan *p) {
    struct statvfs info;
    char need[32], has[32];
    uint64_t missing = 0;
    for (int i = 0; i < p->n_shards; i++)
        if (!partial->finished[i]) missing += p->shard[i].header.file_bytes;
    if (fstatvfs(partial->fd, &info) != 0) return;
    uint64_t room = (uint64_t)info.f_bavail * info.f_frsize;
    if (room < missing)
        SY_WARN("%s needs %s, and the disk has %s left", partial->path,
                sy_format_bytes(need, sizeof need, missing),
                sy_format_bytes(has, sizeof has, room));
}

static sy_status write_shard(sy_converter *converter,
                             const sy_convert_plan *p,
                             const sy_partial *partial,
                             int shard) {
    sy_shard_writer writer;
    const sy_convert_shard *s = &p->shard[shard];
    sy_status st = sy_shard_create(partial->fd, partial->path, s->name, &s->header, &writer);
    if (st != SY_OK) return st;
    return sy_shard_finish(&writer, sy_converter_write(converter, shard, &writer));
}

static sy_status write_shards(const sy_convert_plan *p,
                              const sy_convert_options *options,
                              sy_partial *partial,
                              sy_convert_report *report) {
    sy_status st = SY_OK;
    sy_converter *converter = NULL;
    SY_TRY(sy_converter_create(p, options, &converter));
    for (int i = 0; i < p->n_shards; i++)
        if (partial->finished[i]) sy_converter_skip(converter, i);
    for (int i = 0; i < p->n_shards; i++) {
        if (partial->finished[i]) continue;
        SY_TRY(write_shard(converter, p, partial, i));
        SY_TRY(sy_partial_finished(partial, p, i));
        report->written_bytes += p->shard[i].header.file_bytes;
    }
done:
    sy_converter_destroy(converter);
    return st;
}

/* What the user can do about a conversion that stops here. */
static sy_status advise(sy_status st, const sy_partial *partial) {
    sy_error_text text;
    if (st != SY_ERR_IO && st != SY_ERR_INTERRUPTED) return st;
    sy_status_save(&text);
    return sy_fail(st, "%.700s; the same command goes on with what is in %.200s", text.text,
                   partial->path);
}

static sy_status write_target(const sy_convert_plan *p,
                              const sy_convert_options *options,
                              sy_convert_report *report) {
    sy_status st = SY_OK;
    sy_partial partial = {.fd = -1};
    SY_TRY(sy_partial_open(p, options, &partial));
    report->n_kept = partial.n_kept;
    check_room(&partial, p);
    st = write_shards(p, options, &partial, report);
    if (st == SY_OK) st = sy_convert_write_files(p, &partial);
    if (st == SY_OK) st = sy_partial_publish(&partial);
    if (st != SY_OK) st = advise(st, &partial);
    if (st == SY_OK && options->progress != NULL)
        options->progress(options->context, 1, p->bytes);
done:
    sy_partial_close(&partial);
    return st;
}

sy_status sy_convert(const sy_convert_options *options, sy_convert_report *report) {
    sy_status st = SY_OK;
    sy_model_spec *spec = NULL;
    sy_checkpoint *checkpoint = NULL;
    sy_convert_plan *plan = NULL;
    double begin = sy_now();
    *report = (sy_convert_report){0};
    SY_TRY(sy_spec_load(options->source, &spec));
    SY_TRY(sy_checkpoint_open(options->source, &checkpoint));
    SY_TRY(sy_convert_plan_make(spec, checkpoint, options, &plan));
    report->source_bytes = checkpoint->tensor_bytes;
    report->target_bytes = plan->bytes;
    report->n_tensors = plan->n_out;
    report->n_shards = plan->n_shards;
    report->n_encoded = plan->n_encoded;
    tell_oddities(plan);
    if (!options->dry_run) SY_TRY(write_target(plan, options, report));
    report->seconds = sy_now() - begin;
done:
    sy_convert_plan_destroy(plan);
    sy_checkpoint_close(checkpoint);
    sy_spec_destroy(spec);
    return st;
}
