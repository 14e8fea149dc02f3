/* Arbitrary bytes as a placement of any format: refused with a text, or one that places every
 * expert of the model that it implies, on no rank twice. */
#include <stdint.h>
#include <stdlib.h>

#include "topology/placement_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_layer(const sy_placement_layer *p) {
    for (int e = 0; e < p->n_experts; e++) {
        if (p->home_first[e + 1] <= p->home_first[e]) abort();
        for (int i = p->home_first[e]; i < p->home_first[e + 1]; i++) {
            sy_home home = p->home[i];
            if (p->slot_expert[p->slot_first[home.rank] + home.slot] != e) abort();
            if (i > p->home_first[e] && p->home[i - 1].rank >= home.rank) abort();
        }
    }
}

static void use(const sy_placement_list *list, int n_ranks) {
    int n_layers, *experts;
    sy_placement *p;
    if (sy_placement_list_shape(list, &n_layers, &experts) != SY_OK) abort();
    sy_placement_target target = {NULL, n_layers, experts, n_ranks};
    if (sy_placement_list_place(list, "fuzz", &target, &p) == SY_OK)
        for (int l = 0; l < n_layers; l++)
            if (experts[l] > 0) check_layer(&p->layer[l]);
    sy_placement_destroy(p);
    free(experts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    sy_placement_list *list;
    sy_placement_form form = SY_PLACEMENT_ANY;
    if (size > 0 && data[0] == '#') form = SY_PLACEMENT_TRTLLM;
    if (sy_placement_parse((const char *)data, size, "fuzz", form, &list) == SY_OK)
        use(list, list->n_ranks > 0 ? list->n_ranks : 1 + (int)(size % 4));
    else if (sy_last_error()[0] == '\0')
        abort();
    sy_placement_list_destroy(list);
    return 0;
}
