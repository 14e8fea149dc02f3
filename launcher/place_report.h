/* Inside launcher/: what switchyard place prints about two placements of the same experts. */
#ifndef SY_LAUNCHER_PLACE_REPORT_H
#define SY_LAUNCHER_PLACE_REPORT_H

#include "topology/balance.h"
#include "topology/token_traffic.h"

/* One placement of one layer. */
typedef struct sy_place_figures {
    double imbalance; /* max/mean of the times of the ranks; the worst profile's */
    sy_token_traffic traffic;
    int slots; /* in use, over all ranks */
    int extra; /* of them, copies beyond one of each expert */
} sy_place_figures;

typedef struct sy_place_layer {
    int layer, experts, top_k;
    double bound;
    sy_place_figures before, after;
} sy_place_layer;

typedef struct sy_place_report {
    const char *model;
    const char *before; /* what it is compared with: a file, or NULL: contiguous experts */
    int n_profiles, n_ranks, n_hosts, max_slots, max_copies;
    uint64_t tokens; /* of all profiles */
    int n_layers;
    sy_place_layer *layer;
    const char *out; /* the file that was written, or NULL */
} sy_place_report;

/* The figures of a placement; the problem has the layer's loads and speeds. mean_load[E] is the
 * profiles' mean, host[R] as in sy_token_traffic_measure. */
sy_status sy_place_measure(const sy_balance_problem *problem,
                           const double *mean_load,
                           const int32_t *host,
                           const sy_placement_layer *layer,
                           sy_place_figures *out);

sy_status sy_place_print_text(const sy_place_report *report);
sy_status sy_place_print_json(const sy_place_report *report);

#endif
