/* What better placements would give to the loads of a profile. The imbalance is max/mean:
 * the tokens of the busiest rank over the mean of the ranks, layer by layer. */
#ifndef SY_LAUNCHER_REPORT_GAIN_H
#define SY_LAUNCHER_REPORT_GAIN_H

#include "launcher/report_data.h"

typedef struct sy_report_gain {
    double *now;   /* [n_layers]: as it ran; NAN where nothing was counted */
    double *same;  /* a placement in as many slots as the fullest rank had */
    double *extra; /* one slot more on each rank, for copies */
    double *load;  /* mean of the ranks: the weight of a layer */
    double now_all, same_all, extra_all; /* sum of the largest over sum of the means */
    bool copies;                         /* the placement as it ran has copies */
} sy_report_gain;

/* Memory is the report's. *known is false where there is nothing to place (one rank, no layers, no
 * tokens), and where the search would take too long for a page. */
sy_status sy_report_gain_find(sy_report *report, sy_report_gain *out, bool *known);

#endif
