/* Inside topology/placement*: the part of YAML in which TensorRT-LLM's placements are written. */
#ifndef SY_TOPOLOGY_PLACEMENT_YAML_H
#define SY_TOPOLOGY_PLACEMENT_YAML_H

#include "topology/placement_file.h"

/* Reads
 *     num_slots: 8
 *     initial_global_assignments:
 *       3: [0, 1, 2, ..]
 * with lists also one "- 0" a line, and mappings also in braces. Other keys with plain values are
 * passed over. What YAML has beyond this (anchors, tags, quotes, several documents) is refused.
 * Fills list->layer, ascending, with every layer at most once. */
sy_status sy_placement_yaml_parse(const char *text,
                                  size_t size,
                                  const char *name,
                                  sy_placement_list *list);

#endif
