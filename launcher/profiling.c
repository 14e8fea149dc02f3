#include "launcher/profiling.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "launcher/device.h"
#include "launcher/output.h"
#include "launcher/report.h"
#include "launcher/version.h"
#include "runtime/profile_print.h"

enum { WRITE_LIMIT = 3600 }; /* s: a long trace of many ranks on a slow disk */

static bool is_profile_command(const sy_options *o) {
    return strcmp(o->command->name, "profile") == 0;
}

sy_profile_options sy_profiling_wish(const sy_options *o) {
    return (sy_profile_options){.on = o->profile_dir != NULL || is_profile_command(o),
                                .events = o->profile_events,
                                .routes = o->profile_routes};
}

sy_status sy_profiling_prepare(const sy_options *o) {
    if (o->profile_dir != NULL) return sy_profile_prepare_dir(o->profile_dir);
    if (o->profile_routes == 0 && !o->profile_pairs) return SY_OK;
    return sy_fail(SY_ERR_USAGE, "%s: where to? It needs --%s DIR",
                   o->profile_pairs ? "--profile-pairs" : "--profile-routes",
                   is_profile_command(o) ? "out" : "profile");
}

static sy_profile *profile_of(const sy_session *s) {
    return sy_engine_runner(s->engine)->profile;
}

sy_status sy_profiling_begin(sy_session *s, const char *label) {
    return profile_of(s) == NULL ? SY_OK : sy_profile_begin(profile_of(s), label);
}

sy_status sy_profiling_collect(sy_session *s) {
    return profile_of(s) == NULL ? SY_OK : sy_profile_collect(profile_of(s));
}

/* *line is what about->options points to; the caller frees it. */
static sy_status describe(const sy_session *s, sy_profile_about *about, char **line) {
    *about = (sy_profile_about){.program = sy_version_text(),
                                .command = s->options->command->name,
                                .model_path = s->options->model,
                                .device = sy_device_describe(s->be),
                                .n_threads = s->n_threads,
                                .compare = is_profile_command(s->options),
                                .all_pairs = s->options->profile_pairs};
    sy_status st = sy_options_describe(s->options, line);
    about->options = *line;
    return st;
}

static void tell(const sy_session *s) {
    const sy_profile_data *d = sy_profile_get_data(profile_of(s));
    uint64_t dropped = 0;
    for (int r = 0; r < d->n_ranks; r++)
        dropped += d->times[r].dropped;
    SY_INFO("profile  written to %s", s->options->profile_dir);
    if (d->synchronised)
        SY_INFO("         its times include waiting for the GPU after each phase");
    if (dropped > 0)
        SY_INFO("         the trace lacks %" PRIu64 " later events (--profile-events)",
                dropped);
    if (s->options->profile_pairs && !d->pairs_counted)
        SY_WARN("pairs of so many experts are not counted: no coactivation.npy");
}

/* A profile of more ranks than a page can show is still a profile. */
static sy_status write_report(const sy_session *s) {
    sy_status st = sy_report_write(s->options->profile_dir);
    if (st != SY_ERR_UNSUPPORTED) return st;
    SY_WARN("no report.html: %s", sy_last_error());
    return SY_OK;
}

sy_status sy_profiling_gather(sy_session *s) {
    if (profile_of(s) == NULL) return SY_OK;
    sy_progress_phase(s->live, "gathering the profile", WRITE_LIMIT);
    return sy_profile_gather(profile_of(s));
}

sy_status sy_profiling_write(sy_session *s) {
    sy_status st = SY_OK;
    sy_profile_about about = {0};
    char *line = NULL;
    if (profile_of(s) == NULL || s->options->profile_dir == NULL) return SY_OK;
    sy_progress_phase(s->live, "writing the profile", WRITE_LIMIT);
    SY_TRY(sy_comm_agree(s->comm, describe(s, &about, &line)));
    SY_TRY(sy_profile_write(profile_of(s), s->options->profile_dir, &about));
    if (s->rank == 0) st = write_report(s);
    SY_TRY(sy_comm_agree(s->comm, st));
    if (s->rank == 0) tell(s);
done:
    free(line);
    return st;
}

sy_status sy_profiling_finish(sy_session *s) {
    sy_status st = sy_profiling_gather(s);
    return st == SY_OK ? sy_profiling_write(s) : st;
}

sy_status sy_profiling_print_json(sy_session *s) {
    sy_status st = SY_OK;
    sy_profile_about about;
    sy_profile_options wish = sy_profiling_wish(s->options);
    char *line = NULL, *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    if (f == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the profile");
    SY_TRY(describe(s, &about, &line));
    SY_TRY(
        sy_profile_print_json(f, sy_profile_get_data(profile_of(s)), s->comm, &wish, &about));
    int closed = fclose(f);
    f = NULL;
    if (closed != 0) SY_FAIL(SY_ERR_MEMORY, "no memory for the profile");
    SY_TRY(sy_out_write(text, n));
done:
    if (f != NULL) fclose(f);
    free(text);
    free(line);
    return st;
}
