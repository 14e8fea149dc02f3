/* switchyard plan --cluster list: what is built in, with sources. */
#include <jansson.h>
#include <stdlib.h>

#include "launcher/output.h"
#include "launcher/plan_report.h"

static sy_status
print_constant(void *context, const char *name, const char *unit, const sy_constant *c) {
    (void)context;
    return sy_out_printf("  %-30s %10.4g %-12s %s\n", name, c->value, unit, c->source);
}

static sy_status list_text(void) {
    sy_status st = SY_OK;
    const sy_builtin_cluster *b;
    for (int i = 0; (b = sy_cluster_builtin(i)) != NULL; i++) {
        SY_TRY(sy_out_printf("%s%s\n%s\n", i > 0 ? "\n" : "", b->cluster.name, b->text));
        SY_TRY(sy_cluster_visit(&b->cluster, print_constant, NULL));
    }
done:
    return st;
}

static sy_status list_json(void) {
    json_t *list = json_array();
    const sy_builtin_cluster *b;
    for (int i = 0; (b = sy_cluster_builtin(i)) != NULL; i++)
        json_array_append_new(list, sy_cluster_describe(&b->cluster));
    char *text = json_dumps(list, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
    sy_status st = text != NULL ? sy_out_printf("%s\n", text)
                                : sy_fail(SY_ERR_MEMORY, "no memory for the JSON text");
    free(text);
    json_decref(list);
    return st;
}

sy_status sy_plan_list_clusters(bool json) {
    return json ? list_json() : list_text();
}
