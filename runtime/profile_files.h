/* The files of a profile; docs/profile.md documents their contents. */
#ifndef SY_RUNTIME_PROFILE_FILES_H
#define SY_RUNTIME_PROFILE_FILES_H

#include "runtime/profile_data.h"

/* What a profile does not know by itself. */
typedef struct sy_profile_about {
    const char *program;    /* name and version */
    const char *command;    /* "run" */
    const char *options;    /* a command line */
    const char *model_path; /* of which the last part is shown */
    const char *device;
    int n_threads;
    bool compare;   /* the labels with one another */
    bool all_pairs; /* coactivation.npy is wanted */
} sy_profile_about;

/* Makes the directory unless it is there, and checks that files can be made in it. Local. */
sy_status sy_profile_prepare_dir(const char *dir);

/* Writes all files; after sy_profile_gather. dir and about matter on rank 0 only. Collective. */
sy_status sy_profile_write(sy_profile *profile, const char *dir, const sy_profile_about *about);

#endif
