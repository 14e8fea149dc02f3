/* Measured loads for a forecast: from counts to shares, checked against the model. */
#include <math.h>
#include <stdlib.h>

#include "runtime/loads_file.h"
#include "runtime/plan_model.h"

void sy_plan_loads_destroy(sy_plan_loads *loads) {
    if (loads == NULL) return;
    for (int l = 0; loads->chosen != NULL && l < loads->n_layers; l++)
        free(loads->chosen[l]);
    free(loads->chosen);
    free(loads->experts);
    free(loads);
}

static sy_status
check_layer(const char *path, const sy_loads_layer *layer, const sy_model_spec *spec) {
    int experts = 0, top_k = 0;
    if (layer->layer < spec->n_layers) {
        experts = spec->layer[layer->layer].ffn.experts;
        top_k = spec->layer[layer->layer].ffn.top_k;
    }
    if (layer->experts == experts && layer->top_k == top_k) return SY_OK;
    return sy_fail(SY_ERR_FORMAT,
                   "%s, layer %d: %d of %d experts per token, the model has %d of %d: loads of "
                   "another model",
                   path, layer->layer, layer->top_k, layer->experts, top_k, experts);
}

/* The shares of a layer's experts among its tokens. */
static sy_status take_layer(const sy_loads_file *file, int index, sy_plan_loads *loads) {
    const sy_loads_layer *layer = &file->layer[index];
    double *chosen = calloc((size_t)layer->experts, sizeof *chosen);
    if (chosen == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the loads");
    for (int e = 0; e < layer->experts; e++)
        chosen[e] = fmin(1, (double)sy_loads_of(file, index, e) / (double)file->tokens);
    loads->chosen[layer->layer] = chosen;
    loads->experts[layer->layer] = layer->experts;
    return SY_OK;
}

sy_status sy_plan_loads_read(const char *path, const sy_model_spec *spec, sy_plan_loads **out) {
    sy_status st = SY_OK;
    sy_loads_file *file = NULL;
    sy_plan_loads *loads = calloc(1, sizeof *loads);
    *out = NULL;
    if (loads == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the loads");
    loads->n_layers = spec->n_layers;
    loads->experts = calloc((size_t)spec->n_layers, sizeof *loads->experts);
    loads->chosen = calloc((size_t)spec->n_layers, sizeof *loads->chosen);
    if (loads->experts == NULL || loads->chosen == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for the loads");
    SY_TRY(sy_loads_read(path, &file));
    if (file->tokens == 0) SY_FAIL(SY_ERR_FORMAT, "%s: loads of no tokens", path);
    for (int i = 0; i < file->n_layers; i++) {
        SY_TRY(check_layer(path, &file->layer[i], spec));
        SY_TRY(take_layer(file, i, loads));
    }
    *out = loads;
    loads = NULL;
done:
    sy_loads_file_free(file);
    sy_plan_loads_destroy(loads);
    return st;
}
