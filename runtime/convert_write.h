/* The data of a conversion's shards: rows are read, widened to float32, encoded and written by all
 * threads, a chunk at a time. Used by convert.c. */
#ifndef SY_RUNTIME_CONVERT_WRITE_H
#define SY_RUNTIME_CONVERT_WRITE_H

#include "runtime/convert_plan.h"

typedef struct sy_converter sy_converter;

/* Threads and the memory that each works in, a few chunks; plan and options outlive it. */
sy_status sy_converter_create(const sy_convert_plan *plan,
                              const sy_convert_options *options,
                              sy_converter **out);
void sy_converter_destroy(sy_converter *converter); /* NULL is fine */

/* Counts a shard that is there already. */
void sy_converter_skip(sy_converter *converter, int shard);
/* Writes all data of a shard. SY_ERR_FORMAT names a value that is no number; SY_ERR_INTERRUPTED if
 * options->progress says so. */
sy_status sy_converter_write(sy_converter *converter, int shard, const sy_shard_writer *writer);

#endif
