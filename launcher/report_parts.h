/* Inside launcher/report*: what report_data.c and report_parts.c read for one another. */
#ifndef SY_LAUNCHER_REPORT_PARTS_H
#define SY_LAUNCHER_REPORT_PARTS_H

#include "launcher/report_data.h"

sy_status sy_report_measures_read(const json_t *in, const char *where, sy_report_measures *out);
/* A load of the layer from an object with counts and balances. */
sy_status sy_report_read_load(sy_report *report,
                              const json_t *in,
                              const char *where,
                              const sy_report_layer *layer,
                              sy_report_load *out);
/* Labels, comparisons, links, times and steps; layers and ranks are there. */
sy_status sy_report_read_parts(sy_report *report);

#endif
