/* Placements as files: our own JSON (docs/placement.md), TensorRT-LLM's YAML, and the JSON of
 * SGLang and vLLM. A file is hostile input: every fault is named with file, layer, rank, slot.
 *
 * A sy_placement_list is what a file says, with its text gone; sy_placement_list_place makes a
 * placement for a model and a number of ranks from it, or says what does not match. The foreign
 * forms tell neither model nor ranks: equally many slots of a row belong to each rank, and an
 * expert that a rank has twice, which they allow, is held once. */
#ifndef SY_TOPOLOGY_PLACEMENT_FILE_H
#define SY_TOPOLOGY_PLACEMENT_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "base/status.h"
#include "topology/placement.h"

/* Bytes that are read, and so written: some eight million slots. */
#define SY_PLACEMENT_FILE_MAX ((uint64_t)64 << 20)

typedef enum sy_placement_form {
    SY_PLACEMENT_ANY, /* told by the content; not for writing */
    SY_PLACEMENT_OURS,
    SY_PLACEMENT_TRTLLM,
    SY_PLACEMENT_SGLANG
} sy_placement_form;

typedef struct sy_placement_list_layer {
    int layer;        /* of the model, or of its MoE layers: see by_position */
    int experts;      /* 0: not told */
    int32_t *n_slots; /* [n_ranks]; NULL in foreign forms */
    int n_all;        /* slots of all ranks */
    int32_t *slot;    /* [n_all]: experts, rank by rank */
} sy_placement_list_layer;

enum { SY_PLACEMENT_MODEL_MAX = 64 };

typedef struct sy_placement_list {
    sy_placement_form form;
    char model[SY_PLACEMENT_MODEL_MAX]; /* family; "": not told */
    int n_ranks;                        /* 0: not told */
    int n_layers;                       /* listed */
    sy_placement_list_layer *layer;     /* ascending */
    bool by_position; /* layers are rows without numbers: of all layers, or of the MoE ones */
} sy_placement_list;

/* text[0..size) is not changed; `name` is the file's, for error texts. */
sy_status sy_placement_parse(const char *text,
                             size_t size,
                             const char *name,
                             sy_placement_form form,
                             sy_placement_list **out);
sy_status sy_placement_read(const char *path, sy_placement_form form, sy_placement_list **out);
void sy_placement_list_destroy(sy_placement_list *list); /* NULL is fine */

/* What a placement is for. */
typedef struct sy_placement_target {
    const char *model; /* family, or NULL */
    int n_layers;
    const int *experts; /* [n_layers]; 0 = dense */
    int n_ranks;
} sy_placement_target;

/* name: of the file. SY_ERR_FORMAT says what does not match. */
sy_status sy_placement_list_place(const sy_placement_list *list,
                                  const char *name,
                                  const sy_placement_target *target,
                                  sy_placement **out);

/* What the file alone implies about its model: [*n_layers] experts, a layer's largest number + 1
 * where it is not told, 0 for layers that are not listed. The caller frees *experts. */
sy_status sy_placement_list_shape(const sy_placement_list *list, int *n_layers, int **experts);

/* Writes a placement; the foreign forms need equally many slots on every rank in all layers.
 * form: any but SY_PLACEMENT_ANY. SY_ERR_UNSUPPORTED if the file would be
 * longer than what is read. What was at `path` stays until the new file is complete. */
sy_status sy_placement_write(const sy_placement *placement,
                             const char *model,
                             sy_placement_form form,
                             const char *path);

#endif
