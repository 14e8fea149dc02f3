/* Inside runtime/: the contents of the larger files of a profile. */
#ifndef SY_RUNTIME_PROFILE_PRINT_H
#define SY_RUNTIME_PROFILE_PRINT_H

#include <stdio.h>

#include "runtime/profile_files.h"

/* profile.json, last of all, since it says what else there is. Local to rank 0. */
sy_status sy_profile_print_json(FILE *f,
                                sy_profile_data *data,
                                const sy_comm *comm,
                                const sy_profile_options *options,
                                const sy_profile_about *about);

/* The trace; f matters on rank 0 only. Collective. */
sy_status sy_profile_print_trace(FILE *f, const sy_profile *profile);

/* The choices of a sequence; f on rank 0 only. `rank` is the one it ran on. Collective. */
sy_status sy_profile_print_routes(FILE *f,
                                  const sy_profile *profile,
                                  int64_t number,
                                  int rank,
                                  int64_t rows);

#endif
