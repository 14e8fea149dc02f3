#include "launcher/report_json.h"

#include <inttypes.h>
#include <math.h>

static sy_status
missing(const char *where, const char *key, const char *expected, json_t *found) {
    return sy_fail(SY_ERR_FORMAT, "%s.%s: expected %s, found %s", where, key, expected,
                   found != NULL ? sy_json_type_name(found) : "nothing");
}

sy_status sy_report_object(const json_t *in, const char *where, const char *key, json_t **out) {
    *out = json_object_get(in, key);
    return json_is_object(*out) ? SY_OK : missing(where, key, "an object", *out);
}

sy_status sy_report_array(const json_t *in,
                          const char *where,
                          const char *key,
                          size_t min,
                          size_t max,
                          json_t **out) {
    *out = json_object_get(in, key);
    if (!json_is_array(*out)) return missing(where, key, "an array", *out);
    size_t n = json_array_size(*out);
    if (n >= min && n <= max) return SY_OK;
    if (min == max)
        return sy_fail(SY_ERR_FORMAT, "%s.%s: expected %zu entries, found %zu", where, key, min,
                       n);
    return sy_fail(SY_ERR_FORMAT, "%s.%s: expected %zu to %zu entries, found %zu", where, key,
                   min, max, n);
}

/* NaN is outside too. */
static bool in_range(double x) {
    return x >= 0 && x <= SY_REPORT_MOST;
}

sy_status sy_report_number(const json_t *in, const char *where, const char *key, double *out) {
    json_t *value = json_object_get(in, key);
    if (!json_is_number(value)) return missing(where, key, "a number", value);
    *out = json_number_value(value);
    if (in_range(*out)) return SY_OK;
    return sy_fail(SY_ERR_FORMAT, "%s.%s: %g is outside 0 to 2^53", where, key, *out);
}

sy_status sy_report_int(const json_t *in,
                        const char *where,
                        const char *key,
                        int64_t min,
                        int64_t max,
                        int *out) {
    int64_t n;
    json_t *value = json_object_get(in, key);
    if (!sy_json_integral(value, &n)) return missing(where, key, "an integer", value);
    if (n < min || n > max)
        return sy_fail(SY_ERR_FORMAT, "%s.%s: %" PRId64 " is outside %" PRId64 " to %" PRId64,
                       where, key, n, min, max);
    *out = (int)n;
    return SY_OK;
}

sy_status
sy_report_text(const json_t *in, const char *where, const char *key, const char **out) {
    json_t *value = json_object_get(in, key);
    if (!json_is_string(value)) return missing(where, key, "a string", value);
    *out = json_string_value(value);
    return SY_OK;
}

sy_status sy_report_numbers(const json_t *array,
                            const char *where,
                            const char *key,
                            size_t n,
                            double *out) {
    if (!json_is_array(array) || json_array_size(array) != n)
        return sy_fail(SY_ERR_FORMAT, "%s.%s: expected an array of %zu numbers", where, key, n);
    for (size_t i = 0; i < n; i++) {
        json_t *value = json_array_get(array, i);
        double x = json_is_number(value) ? json_number_value(value) : -1;
        if (!in_range(x))
            return sy_fail(SY_ERR_FORMAT,
                           "%s.%s, entry %zu: expected a number from 0 to 2^53, found %s",
                           where, key, i, sy_json_type_name(value));
        out[i] = x;
    }
    return SY_OK;
}

sy_status sy_report_indices(const json_t *in,
                            const char *where,
                            const char *key,
                            size_t n,
                            int64_t end,
                            int32_t *out) {
    sy_status st = SY_OK;
    json_t *array;
    SY_TRY(sy_report_array(in, where, key, n, n, &array));
    for (size_t i = 0; i < n; i++) {
        int64_t x;
        if (!sy_json_integral(json_array_get(array, i), &x) || x < 0 || x >= end)
            SY_FAIL(SY_ERR_FORMAT, "%s.%s, entry %zu: expected an integer from 0 to %" PRId64,
                    where, key, i, end - 1);
        out[i] = (int32_t)x;
    }
done:
    return st;
}
