#include <stdio.h>

#include "launcher/topo_report.h"
#include "topology/machine_json.h"

static json_t *index_or_null(int i) {
    return i >= 0 ? json_integer(i) : json_null();
}

static json_t *ranks_json(const sy_topo_report *report) {
    json_t *list = json_array();
    for (int r = 0; r < report->binding->n_ranks; r++) {
        const sy_bound_rank *rank = &report->binding->rank[r];
        char cpus[SY_CPUS_TEXT_MAX];
        json_t *o = json_object();
        json_object_set_new(o, "rank", json_integer(r));
        json_object_set_new(o, "machine", json_integer(rank->machine));
        json_object_set_new(o, "device", index_or_null(rank->device));
        json_object_set_new(o, "nic", index_or_null(rank->nic));
        const char *obstacle = report->obstacle[rank->machine];
        json_object_set_new(o, "bound", json_boolean(obstacle == NULL));
        json_object_set_new(o, "obstacle",
                            obstacle != NULL ? json_string(obstacle) : json_null());
        json_object_set_new(o, "cores", json_integer(rank->n_cores));
        json_object_set_new(o, "cpus",
                            json_string(sy_cpus_text(&rank->cpus, cpus, sizeof cpus)));
        json_object_set_new(o, "reason", json_string(rank->reason));
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *advice_json(const sy_topo_report *report) {
    json_t *list = json_array();
    for (int i = 0; i < report->advice->n; i++) {
        const sy_advice_item *item = &report->advice->item[i];
        json_t *o = json_object(), *machines = json_array();
        for (int m = 0; m < report->machines->n; m++)
            if (sy_advice_concerns(item, m)) json_array_append_new(machines, json_integer(m));
        json_object_set_new(o, "level",
                            json_string(item->level == SY_ADVICE_WARNING ? "warning" : "note"));
        json_object_set_new(o, "topic", json_string(item->topic));
        json_object_set_new(o, "machines", machines);
        json_object_set_new(o, "text", json_string(item->text));
        json_object_set_new(o, "cure", json_string(item->cure));
        json_array_append_new(list, o);
    }
    return list;
}

sy_status sy_topo_to_json(const sy_topo_report *report, json_t **out) {
    sy_status st = sy_machines_to_json(report->machines, out);
    if (st != SY_OK) return st;
    json_object_set_new(*out, "ranks", ranks_json(report));
    json_object_set_new(*out, "advice", advice_json(report));
    return SY_OK;
}
