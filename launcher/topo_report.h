/* What switchyard topo prints, in its three forms. */
#ifndef SY_LAUNCHER_TOPO_REPORT_H
#define SY_LAUNCHER_TOPO_REPORT_H

#include <jansson.h>

#include "topology/advice.h"
#include "topology/binding.h"
#include "topology/machine.h"

typedef struct sy_topo_report {
    const sy_machines *machines;
    const sy_binding *binding;
    const sy_advice *advice;
    /* [machines]: why --bind auto leaves the ranks there unbound (sy_binding_obstacle), or NULL */
    const char *const *obstacle;
} sy_topo_report;

/* To stdout: a tree of each machine (alike ones once), the ranks, the advice. */
sy_status sy_topo_print_tree(const sy_topo_report *report);
/* machines, ranks and advice as one object. */
sy_status sy_topo_to_json(const sy_topo_report *report, json_t **out);
/* A picture, as text to be freed by the caller. */
sy_status sy_topo_draw_svg(const sy_topo_report *report, char **out);

#endif
