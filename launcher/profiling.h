/* What the commands that can be profiled share. Without --profile (or, in `profile`, always wanted)
 * all of it does nothing. */
#ifndef SY_LAUNCHER_PROFILING_H
#define SY_LAUNCHER_PROFILING_H

#include "launcher/session.h"
#include "runtime/profile_files.h"

/* For the engine. */
sy_profile_options sy_profiling_wish(const sy_options *options);
/* Makes the directory and sees whether files can be written. Rank 0, before the model is read. */
sy_status sy_profiling_prepare(const sy_options *options);

/* Around what is recorded; begin is local, collect collective. */
sy_status sy_profiling_begin(sy_session *session, const char *label);
sy_status sy_profiling_collect(sy_session *session);
/* Gathers the rest. Collective. */
sy_status sy_profiling_gather(sy_session *session);
/* Writes the files, where a directory was given, after gathering. Collective. */
sy_status sy_profiling_write(sy_session *session);
/* Both. Collective. */
sy_status sy_profiling_finish(sy_session *session);

/* profile.json on stdout. Rank 0, after gathering. */
sy_status sy_profiling_print_json(sy_session *session);

#endif
