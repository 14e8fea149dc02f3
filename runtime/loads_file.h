/* Reading loads.json, version 1 (runtime/loads.h says what it holds). The file is hostile input:
 * every fault is named with its layer, expert and rank, what was expected and what was found.
 * Conservation is checked: in every layer the counts sum to tokens x top_k. Keys that are not
 * known are passed over, so that writers may add some. */
#ifndef SY_RUNTIME_LOADS_FILE_H
#define SY_RUNTIME_LOADS_FILE_H

#include <stdint.h>

#include "base/status.h"

enum { SY_LOADS_MODEL_MAX = 64 };
#define SY_LOADS_FILE_MAX ((uint64_t)512 << 20) /* bytes */

typedef struct sy_loads_layer {
    int layer, experts, top_k;
    uint64_t *count; /* [experts, n_ranks] */
} sy_loads_layer;

typedef struct sy_loads_file {
    char model[SY_LOADS_MODEL_MAX]; /* family */
    int n_ranks;
    uint64_t tokens;
    int n_layers; /* MoE layers, ascending */
    sy_loads_layer *layer;
} sy_loads_file;

sy_status sy_loads_read(const char *path, sy_loads_file **out);
void sy_loads_file_free(sy_loads_file *file); /* NULL is fine */

/* Tokens of an expert on all ranks. */
uint64_t sy_loads_of(const sy_loads_file *file, int index, int expert);

/* Whether two files count the same layers of the same model; an error says where they differ. Their
 * ranks may differ. The names are the files', for the text. */
sy_status sy_loads_match(const sy_loads_file *a,
                         const char *name_a,
                         const sy_loads_file *b,
                         const char *name_b);

#endif
