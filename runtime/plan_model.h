/* A model as the cost model of topology/forecast.h wants it: bytes and FLOPs of its layers, by the
 * published precision or by another one that a plan asks for; and a cluster's constants as rates for
 * that precision. */
#ifndef SY_RUNTIME_PLAN_MODEL_H
#define SY_RUNTIME_PLAN_MODEL_H

#include "runtime/spec.h"
#include "topology/cluster.h"
#include "topology/forecast.h"
#include "topology/placement.h"

/* How often experts are chosen, from a loads.json (runtime/loads.h). */
typedef struct sy_plan_loads {
    int n_layers;    /* of the model */
    int *experts;    /* [n_layers]; 0: a dense layer, or one that the file leaves out */
    double **chosen; /* [n_layers][experts]: share of the tokens that choose each */
} sy_plan_loads;

/* Checked against the model; errors say what and where. */
sy_status sy_plan_loads_read(const char *path, const sy_model_spec *spec, sy_plan_loads **out);
void sy_plan_loads_destroy(sy_plan_loads *loads); /* NULL is fine */

/* Formats of the weights: the model twice over, equal but for its precision. Shallow copies, which
 * the caller's spec outlives. */
typedef struct sy_plan_precision {
    sy_model_spec experts; /* what the routed experts are as in */
    sy_model_spec rest;    /* and all else */
} sy_plan_precision;

/* name: "EXPERTS" or "EXPERTS+REST", of bf16, fp8, q8, int4 and, for experts alone, mxfp4 and nvfp4;
 * REST is fp8 for fp8, else bf16. Embedding, lm_head, routers and norms stay in BF16. NULL: as
 * published. F32 weights count as BF16, which they become in memory. SY_ERR_USAGE. */
sy_status
sy_plan_precision_make(const sy_model_spec *spec, const char *name, sy_plan_precision *out);

typedef struct sy_plan_model {
    sy_forecast_model forecast; /* its layers are owned */
    sy_forecast_layer *layer;
    int *rank_of;            /* behind layer[].rank_of, owned; NULL: contiguous */
    sy_stored rest, experts; /* the format that most of their bytes have */
} sy_plan_model;

/* loads and placement may be NULL; loads outlives the model. Of an expert with copies the first
 * counts. */
sy_status sy_plan_model_create(const sy_plan_precision *precision,
                               const sy_plan_loads *loads,
                               const sy_placement *placement,
                               sy_plan_model **out);
void sy_plan_model_destroy(sy_plan_model *model); /* NULL is fine */

/* The cluster's constants for this model. Products are of BF16 operands: that is what the kernels
 * do with every stored format under --activations bf16. */
void sy_plan_machine(const sy_cluster *cluster,
                     const sy_plan_model *model,
                     sy_forecast_machine *out);

#endif
