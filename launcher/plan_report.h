/* What plan prints: the table for people, and as one JSON object. */
#ifndef SY_LAUNCHER_PLAN_REPORT_H
#define SY_LAUNCHER_PLAN_REPORT_H

#include "runtime/plan.h"

typedef struct sy_plan_report {
    const char *model, *precision; /* precision NULL: as published */
    const sy_plan_precision *weights;
    const sy_cluster *cluster;
    sy_plan_wish wish;
    bool has_loads, has_placement;
    const sy_plan_table *table;
} sy_plan_report;

/* All write to standard output (launcher/output.h). */
sy_status sy_plan_print_text(const sy_plan_report *report);
sy_status sy_plan_print_json(const sy_plan_report *report);
sy_status sy_plan_list_clusters(bool json);

#endif
