/* The files of a conversion that hold no weights: configuration, index, what is copied; and the
 * directory they lie in until all is done. Used by convert.c. */
#ifndef SY_RUNTIME_CONVERT_FILES_H
#define SY_RUNTIME_CONVERT_FILES_H

#include "runtime/convert_plan.h"

/* OUT.partial, open and locked. */
typedef struct sy_partial {
    char *target, *path; /* OUT without a slash at its end; OUT.partial */
    int fd;
    char *options;     /* what decides on the result, as text */
    uint64_t identity; /* of the source's files */
    bool *finished;    /* [n_shards] */
    int n_kept;        /* finished when it was opened */
} sy_partial;

/* Creates or opens the directory. Shards that a conversion with equal options and source has
 * finished are found; what else is left of it is removed. SY_ERR_USAGE if the target exists, if
 * the directory holds what no conversion has written or another one's, or if one is running. */
sy_status sy_partial_open(const sy_convert_plan *plan,
                          const sy_convert_options *options,
                          sy_partial *out);
/* Notes that a shard is whole. */
sy_status sy_partial_finished(sy_partial *partial, const sy_convert_plan *plan, int shard);
/* Gives the directory its name. */
sy_status sy_partial_publish(sy_partial *partial);
void sy_partial_close(sy_partial *partial); /* zeroed is fine */

/* Copies what goes with the weights, then writes the configuration and the index. */
sy_status sy_convert_write_files(const sy_convert_plan *plan, const sy_partial *partial);
/* Whether sy_convert_write_files may write a file of this name. */
bool sy_convert_is_file(const char *name);
/* The name of the configuration that the source has and the target gets. */
const char *sy_convert_config_name(const sy_convert_plan *plan);

#endif
