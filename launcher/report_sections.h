/* Inside launcher/report*: the page's sections, in their order. Each writes nothing but
 * words where it has nothing to show. */
#ifndef SY_LAUNCHER_REPORT_SECTIONS_H
#define SY_LAUNCHER_REPORT_SECTIONS_H

#include "launcher/report.h"

void sy_report_put_summary(FILE *f, const sy_report *r, const sy_report_gain *gain);
void sy_report_put_experts(FILE *f, const sy_report *r);
void sy_report_put_ranks(FILE *f, const sy_report *r);
void sy_report_put_gain(FILE *f, const sy_report *r, const sy_report_gain *gain);
void sy_report_put_labels(FILE *f, const sy_report *r);
void sy_report_put_links(FILE *f, const sy_report *r);
void sy_report_put_times(FILE *f, const sy_report *r, const sy_report_timeline *timeline);
void sy_report_put_about(FILE *f, const sy_report *r);

/* Layers' numbers, one after the other; NULL without memory, when the page does without what
 * needs them. The caller frees. */
int *sy_report_layer_numbers(const sy_report *r);

/* True if any layer has counted anything. */
bool sy_report_has_loads(const sy_report *r);
/* The layer whose busiest rank exceeds the mean most; -1: none has counted anything. */
int sy_report_worst_layer(const sy_report *r);
/* Seconds in steps by kind of phase, all ranks together; returns their sum. kind
 * [SY_PHASE_KINDS] */
double sy_report_kind_seconds(const sy_report *r, double *kind);

#endif
