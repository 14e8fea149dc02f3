/* Inside launcher/report*: members of profile.json, checked. Each returns SY_ERR_FORMAT
 * naming `where` and the member. A member that is absent is an error unless the name says
 * otherwise. */
#ifndef SY_LAUNCHER_REPORT_JSON_H
#define SY_LAUNCHER_REPORT_JSON_H

#include "launcher/report_data.h"

#define SY_REPORT_MOST 9007199254740992.0 /* 2^53: what a double counts exactly */

sy_status sy_report_object(const json_t *in, const char *where, const char *key, json_t **out);
/* min <= length <= max */
sy_status sy_report_array(const json_t *in,
                          const char *where,
                          const char *key,
                          size_t min,
                          size_t max,
                          json_t **out);
/* From 0 to SY_REPORT_MOST. */
sy_status sy_report_number(const json_t *in, const char *where, const char *key, double *out);
/* An integer from min to max. */
sy_status sy_report_int(const json_t *in,
                        const char *where,
                        const char *key,
                        int64_t min,
                        int64_t max,
                        int *out);
sy_status
sy_report_text(const json_t *in, const char *where, const char *key, const char **out);
/* The numbers of an array, from 0 to SY_REPORT_MOST, exactly n. */
sy_status sy_report_numbers(const json_t *array,
                            const char *where,
                            const char *key,
                            size_t n,
                            double *out);
/* The same for integers from 0 to end - 1. */
sy_status sy_report_indices(const json_t *in,
                            const char *where,
                            const char *key,
                            size_t n,
                            int64_t end,
                            int32_t *out);

#endif
