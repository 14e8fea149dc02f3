/* Recorded choices of the router, to be replayed: so that two runs with different rounding can be
 * compared without the jumps of a near tie.
 *
 * routes.json, version 1: {"version": 1, "top_k": K, "layers": [{"layer": l, "experts":
 * [[e, ... K of them], ... one row per token]}, ... every MoE layer, ascending]} */
#ifndef SY_RUNTIME_ROUTES_H
#define SY_RUNTIME_ROUTES_H

#include "base/status.h"
#include "runtime/spec.h"

typedef struct sy_routes {
    int n_layers;     /* MoE layers */
    int64_t n_tokens; /* rows of each */
    int32_t **expert; /* [n_layers][n_tokens * K] */
} sy_routes;

/* Checks layers, K, expert ids and that there is a row for each of n_tokens. */
sy_status
sy_routes_load(const char *path, const sy_model_spec *spec, int64_t n_tokens, sy_routes **out);
void sy_routes_destroy(sy_routes *routes); /* NULL is fine */

#endif
