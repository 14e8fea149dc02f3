/* report.html: a profile as a page for people, made of the files in its directory. */
#ifndef SY_LAUNCHER_REPORT_H
#define SY_LAUNCHER_REPORT_H

#include <stdio.h>

#include "launcher/report_gain.h"
#include "launcher/report_trace.h"

/* Reads dir/profile.json and, where it is, dir/trace.json, and writes dir/report.html. */
sy_status sy_report_write(const char *dir);

/* The page; gain and timeline may be NULL: then it does without their sections. */
void sy_report_print(FILE *f,
                     const sy_report *report,
                     const sy_report_gain *gain,
                     const sy_report_timeline *timeline);

#endif
