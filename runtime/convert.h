/* A checkpoint in another precision: a new directory with the same model.
 *
 * Weights are read as float32 a few rows at a time, whatever their format, and written as
 * safetensors shards. All that is written lies in OUT.partial, which becomes OUT at the end, so
 * OUT is a whole model or not there. A conversion that was ended goes on where it was: finished
 * shards are kept if they, the source and the options are the same (OUT.partial/conversion.json
 * tells). Equal sources and options give equal bytes, ended in between or not, on any number of
 * threads. Local. */
#ifndef SY_RUNTIME_CONVERT_H
#define SY_RUNTIME_CONVERT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"

/* docs/formats.md has the tensors of each. */
typedef enum sy_convert_format {
    SY_CONVERT_BF16,
    SY_CONVERT_FP8,
    SY_CONVERT_Q8,
    SY_CONVERT_MXFP4,
    SY_CONVERT_NVFP4,
    SY_CONVERT_FORMATS
} sy_convert_format;

const char *sy_convert_format_name(sy_convert_format format); /* "fp8" */
/* False if the name is none. */
bool sy_convert_format_from_name(const char *name, sy_convert_format *out);

typedef struct sy_convert_options {
    const char *source, *target; /* directories */
    sy_convert_format to;
    bool all;             /* attention, dense and shared FFN as well as routed experts */
    uint64_t shard_bytes; /* most bytes of tensors in a shard, unless one alone has more */
    int n_threads;
    bool dry_run; /* plan only: fill the report, write nothing */
    /* Called from the calling thread with the share done in [0, 1] and the bytes of tensors
     * written. False ends with SY_ERR_INTERRUPTED. May be NULL. */
    bool (*progress)(void *context, double share, uint64_t bytes);
    void *context;
} sy_convert_options;

typedef struct sy_convert_report {
    uint64_t source_bytes, target_bytes; /* of tensors */
    int n_tensors, n_shards;             /* of the target */
    int n_encoded;                       /* matrices in the format asked for */
    int n_kept;                          /* shards that were there already */
    uint64_t written_bytes;              /* in this call */
    double seconds;
} sy_convert_report;

/* SY_ERR_USAGE if the target exists or its .partial is another conversion's, or in use. */
sy_status sy_convert(const sy_convert_options *options, sy_convert_report *report);

#endif
