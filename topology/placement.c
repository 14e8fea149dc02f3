#include "topology/placement.h"

#include <stdlib.h>
#include <string.h>

/* Fills home_first and home of a layer whose slots are set, by counting. */
static sy_status index_homes(sy_placement_layer *layer, int index) {
    sy_status st = SY_OK;
    int E = layer->n_experts, n_slots = layer->slot_first[layer->n_ranks];
    for (int s = 0; s < n_slots; s++) {
        int e = layer->slot_expert[s];
        if (e < 0 || e >= E)
            SY_FAIL(SY_ERR_FORMAT, "placement, layer %d: expert %d is not in 0..%d", index, e,
                    E - 1);
        layer->home_first[e + 1]++;
    }
    for (int e = 0; e < E; e++) {
        if (layer->home_first[e + 1] == 0)
            SY_FAIL(SY_ERR_FORMAT, "placement, layer %d: no rank holds expert %d", index, e);
        layer->home_first[e + 1] += layer->home_first[e];
    }
    /* home_first[e] serves as the cursor of e and ends as the begin of e + 1: shift back. */
    for (int r = 0; r < layer->n_ranks; r++) {
        for (int s = layer->slot_first[r]; s < layer->slot_first[r + 1]; s++) {
            int e = layer->slot_expert[s], at = layer->home_first[e]++;
            layer->home[at] = (sy_home){r, s - layer->slot_first[r]};
        }
    }
    memmove(layer->home_first + 1, layer->home_first, (size_t)E * sizeof *layer->home_first);
    layer->home_first[0] = 0;
    for (int e = 0; e < E; e++) {
        for (int i = layer->home_first[e] + 1; i < layer->home_first[e + 1]; i++) {
            if (layer->home[i].rank == layer->home[i - 1].rank)
                SY_FAIL(SY_ERR_FORMAT, "placement, layer %d: rank %d holds expert %d twice",
                        index, layer->home[i].rank, e);
        }
    }
done:
    return st;
}

sy_status sy_placement_from_slots(int n_layers,
                                  const int *experts,
                                  int n_ranks,
                                  const int32_t *const *n_slots,
                                  const int32_t *const *slot_expert,
                                  sy_placement **out) {
    sy_status st = SY_OK;
    *out = NULL;
    sy_placement *p = calloc(1, sizeof *p);
    if (p == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
    p->layer = calloc((size_t)n_layers, sizeof *p->layer);
    if (p->layer == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
    p->n_layers = n_layers;
    for (int l = 0; l < n_layers; l++) {
        sy_placement_layer *layer = &p->layer[l];
        layer->n_experts = experts[l];
        layer->n_ranks = n_ranks;
        if (experts[l] == 0) continue;
        layer->slot_first = calloc((size_t)n_ranks + 1, sizeof *layer->slot_first);
        layer->home_first = calloc((size_t)experts[l] + 1, sizeof *layer->home_first);
        if (layer->slot_first == NULL || layer->home_first == NULL)
            SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
        for (int r = 0; r < n_ranks; r++) {
            if (n_slots[l][r] < 0 || n_slots[l][r] > experts[l])
                SY_FAIL(SY_ERR_FORMAT,
                        "placement, layer %d: rank %d: expected 0 to %d slots, found %d", l, r,
                        experts[l], n_slots[l][r]);
            layer->slot_first[r + 1] = layer->slot_first[r] + n_slots[l][r];
        }
        size_t total = (size_t)layer->slot_first[n_ranks];
        layer->slot_expert = calloc(total + 1, sizeof *layer->slot_expert);
        layer->home = calloc(total + 1, sizeof *layer->home);
        if (layer->slot_expert == NULL || layer->home == NULL)
            SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
        memcpy(layer->slot_expert, slot_expert[l], total * sizeof *layer->slot_expert);
        SY_TRY(index_homes(layer, l));
    }
    *out = p;
    p = NULL;
done:
    sy_placement_destroy(p);
    return st;
}

sy_status
sy_placement_contiguous(int n_layers, const int *experts, int n_ranks, sy_placement **out) {
    sy_status st = SY_OK;
    int most = 0;
    for (int l = 0; l < n_layers; l++)
        most = experts[l] > most ? experts[l] : most;
    /* All layers with the same number of experts share one list. */
    const int32_t **n_slots = calloc((size_t)n_layers, sizeof *n_slots);
    const int32_t **list = calloc((size_t)n_layers, sizeof *list);
    int32_t *counts = calloc((size_t)n_layers * (size_t)n_ranks, sizeof *counts);
    int32_t *ascending = calloc((size_t)most + 1, sizeof *ascending);
    *out = NULL;
    if (n_slots == NULL || list == NULL || counts == NULL || ascending == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for a placement");
    for (int e = 0; e < most; e++)
        ascending[e] = e;
    for (int l = 0; l < n_layers; l++) {
        int32_t *count = counts + (size_t)l * (size_t)n_ranks;
        for (int r = 0; r < n_ranks; r++) {
            int64_t E = experts[l];
            count[r] = (int32_t)(E * (r + 1) / n_ranks - E * r / n_ranks);
        }
        n_slots[l] = count;
        list[l] = ascending;
    }
    SY_TRY(sy_placement_from_slots(n_layers, experts, n_ranks, n_slots, list, out));
done:
    free(n_slots);
    free(list);
    free(counts);
    free(ascending);
    return st;
}

void sy_placement_destroy(sy_placement *p) {
    if (p == NULL) return;
    for (int l = 0; l < p->n_layers; l++) {
        free(p->layer[l].slot_first);
        free(p->layer[l].slot_expert);
        free(p->layer[l].home_first);
        free(p->layer[l].home);
    }
    free(p->layer);
    free(p);
}
