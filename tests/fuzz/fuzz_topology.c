/* Saved machines. What is accepted is written and read again without a change, takes ranks with
 * sound bindings, and gives advice. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "topology/advice.h"
#include "topology/machine_json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { RANKS = 9 };

static void require(bool condition) {
    if (!condition) abort();
}

static void check_round_trip(const sy_machines *machines) {
    sy_machines again;
    json_t *first = NULL, *second = NULL;
    require(sy_machines_to_json(machines, &first) == SY_OK);
    require(sy_machines_from_json(first, "again", &again) == SY_OK);
    require(sy_machines_to_json(&again, &second) == SY_OK);
    require(json_equal(first, second));
    json_decref(first);
    json_decref(second);
    sy_machines_free(&again);
}

static void check_binding(const sy_machines *machines, const sy_binding *b) {
    for (int r = 0; r < b->n_ranks; r++) {
        const sy_bound_rank *rank = &b->rank[r];
        require(rank->machine >= 0 && rank->machine < machines->n);
        const sy_machine *m = &machines->machine[rank->machine];
        require(rank->device >= -1 && rank->device < m->n_devices);
        require(rank->nic >= -1 && rank->nic < m->n_nics);
        require(rank->bound == (rank->n_cores > 0));
        require(memchr(rank->reason, '\0', sizeof rank->reason) != NULL);
        for (int s = 0; s < r; s++)
            require(b->rank[s].machine != rank->machine ||
                    !sy_cpus_overlap(&b->rank[s].cpus, &rank->cpus));
    }
}

static void use(const sy_machines *machines) {
    int machine_of[RANKS];
    sy_binding binding;
    sy_advice *advice = NULL;
    sy_binding_spread(machines, RANKS, machine_of);
    require(sy_binding_plan(machines, RANKS, machine_of, true, &binding) == SY_OK);
    check_binding(machines, &binding);
    require(sy_advice_make(machines, &binding, &advice) == SY_OK);
    for (int i = 0; i < advice->n; i++) {
        char where[64];
        require(advice->item[i].text[0] != '\0' && advice->item[i].cure[0] != '\0');
        sy_advice_where(&advice->item[i], machines, where, sizeof where);
    }
    free(advice);
    sy_binding_free(&binding);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *document = NULL;
    sy_machines machines = {0};
    if (sy_json_parse((const char *)data, size, "fuzz", &document) == SY_OK &&
        sy_machines_from_json(document, "fuzz", &machines) == SY_OK) {
        check_round_trip(&machines);
        use(&machines);
    }
    sy_machines_free(&machines);
    json_decref(document);
    return 0;
}
