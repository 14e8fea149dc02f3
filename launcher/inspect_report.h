/* What inspect prints: the facts of a model for people, and as one JSON object. */
#ifndef SY_LAUNCHER_INSPECT_REPORT_H
#define SY_LAUNCHER_INSPECT_REPORT_H

#include "runtime/inspect.h"

/* Both write to standard output (launcher/output.h). */
sy_status sy_inspect_print_text(const sy_model_facts *facts);
sy_status sy_inspect_print_json(const sy_model_facts *facts);

/* Whether two layers compute the same, weights aside. */
bool sy_same_layer(const sy_layer_spec *a, const sy_layer_spec *b);

/* Words of both reports. */
const char *sy_qk_norm_name(sy_qk_norm norm);            /* "per_head" */
const char *sy_router_score_name(sy_router_score score); /* "sigmoid" */
const char *sy_group_score_name(sy_group_score score);   /* "top2" */

#endif
