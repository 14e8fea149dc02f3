/* A profile read back from profile.json (docs/profile.md), as arrays. The file is hostile
 * input: every number that becomes an index or a size is checked, and a fault is named by
 * its member.
 *
 * All memory belongs to the sy_report; sy_report_free releases it. Texts come from the file
 * as they are and have to be escaped wherever they go. */
#ifndef SY_LAUNCHER_REPORT_DATA_H
#define SY_LAUNCHER_REPORT_DATA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "base/status.h"

#define SY_REPORT_MAX_FILE ((uint64_t)64 << 20) /* bytes of profile.json */
enum { SY_REPORT_MAX_RANKS = 1024, SY_REPORT_MAX_LAYERS = 1024, SY_REPORT_MAX_EXPERTS = 65536 };

/* How even a load is: names as in the file. */
typedef struct sy_report_measures {
    double max_over_mean, excess_over_mean, balancedness, cv, entropy, unused;
} sy_report_measures;

typedef struct sy_report_balance {
    sy_report_measures is;
    sy_report_measures uniform; /* of a uniformly random router */
} sy_report_balance;

/* Two experts that tokens chose together. */
typedef struct sy_report_pair {
    int a, b;
    double tokens, lift;
} sy_report_pair;

/* Loads of a layer: of all labels together, or of one. E and R are those of the layer and the
 * profile. */
typedef struct sy_report_load {
    double *expert; /* [E]: tokens */
    double *rank;   /* [R]: tokens */
    double all;     /* their sum: pairs of a token and one of its experts */
    sy_report_balance experts, ranks;
} sy_report_load;

typedef struct sy_report_layer {
    int layer; /* number in the model */
    int n_experts, top_k, n_slots;
    int32_t *slot_rank, *slot_expert; /* [n_slots] */
    int32_t *home;                    /* [E]: first rank that holds it, -1: none */
    sy_report_load load;
    sy_report_pair *pair;
    int n_pairs;
} sy_report_layer;

typedef struct sy_report_label {
    const char *name;
    double tokens;
    sy_report_load *load; /* [n_layers of the report] */
} sy_report_label;

/* An expert that one label's tokens choose more often: shares p of a's and q of b's pairs. */
typedef struct sy_report_special {
    int expert;
    double p, q, z;
} sy_report_special;

typedef struct sy_report_comparison {
    int a, b;                 /* labels */
    double *overlap;          /* [n_layers]: sum of min(p, q) */
    double *uniform_overlap;  /* [n_layers] */
    int *n_special;           /* [n_layers] */
    sy_report_special **list; /* [n_layers][n_special] */
} sy_report_comparison;

typedef struct sy_report_rank_time {
    double steps, step_seconds, between_seconds, wait_seconds;
    double *phase; /* [n_phases]: seconds */
} sy_report_rank_time;

typedef struct sy_report_layer_time {
    int layer;
    double *phase; /* [n_phases]: seconds, mean of the ranks */
} sy_report_layer_time;

typedef struct sy_report_steps {
    double rows_from, rows_to, steps, tokens, seconds;
} sy_report_steps;

typedef struct sy_report {
    json_t *root;   /* owns the texts */
    void *block;    /* list of all memory, newest first */
    uint64_t bytes; /* taken so far */

    const char *program, *command, *options, *model, *family, *device;
    int model_layers, n_ranks, n_hosts, threads;
    bool synchronised;
    double tokens, seconds;
    int *host; /* [R] */
    const char **host_name;

    int n_layers; /* with routed experts */
    int most_experts;
    sy_report_layer *layer;
    sy_report_measures all_ranks; /* ranks' pairs, all layers together */
    double layerwise_balancedness;

    int n_labels, n_comparisons;
    sy_report_label *label;
    sy_report_comparison *comparison;

    double *dispatch_rows, *dispatch_bytes, *combine_rows,
        *combine_bytes; /* [R, R]: from, to */

    int n_phases;
    const char **phase_name;
    sy_report_rank_time *rank_time; /* [R] */
    int n_layer_times, n_steps;
    sy_report_layer_time *layer_time;
    sy_report_steps *step;
} sy_report;

/* name: for error texts. Free the report also after an error. */
sy_status sy_report_parse(const char *text, size_t size, const char *name, sy_report *out);
sy_status sy_report_load_file(const char *path, sy_report *out);
void sy_report_free(sy_report *report);

/* Zeroed memory that lives as long as the report; n x size is checked. */
sy_status sy_report_take(sy_report *report, uint64_t n, size_t size, void *out);

#endif
