#include "base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

sy_status sy_read_file(const char *path, uint64_t max_bytes, char **out, size_t *out_size) {
    sy_status st = SY_OK;
    char *data = NULL;
    *out = NULL;
    *out_size = 0;
    /* O_NONBLOCK: opening a fifo must not wait for a writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) SY_FAIL(SY_ERR_IO, "%s: %s", path, strerror(errno));
    struct stat info;
    if (fstat(fd, &info) != 0) SY_FAIL(SY_ERR_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode)) SY_FAIL(SY_ERR_IO, "%s: expected a regular file", path);
    if ((uint64_t)info.st_size > max_bytes)
        SY_FAIL(SY_ERR_FORMAT,
                "%s: %lld bytes; at most %llu are accepted for this kind of file", path,
                (long long)info.st_size, (unsigned long long)max_bytes);

    size_t size = (size_t)info.st_size;
    data = malloc(size + 1);
    if (data == NULL) SY_FAIL(SY_ERR_MEMORY, "%s: no memory for %zu bytes", path, size);
    for (size_t have = 0; have < size;) {
        ssize_t n = read(fd, data + have, size - have);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) SY_FAIL(SY_ERR_IO, "%s: %s", path, strerror(errno));
        if (n == 0) SY_FAIL(SY_ERR_IO, "%s: ended after %zu of %zu bytes", path, have, size);
        have += (size_t)n;
    }
    data[size] = '\0';
    *out = data;
    *out_size = size;
    data = NULL;
done:
    free(data);
    if (fd >= 0) close(fd);
    return st;
}

bool sy_utf8_valid(const char *text, size_t size) {
    const unsigned char *p = (const unsigned char *)text, *end = p + size;
    while (p < end) {
        unsigned c = *p++;
        if (c < 0x80) continue;
        int more;
        unsigned lowest;
        if (c >= 0xc2 && c <= 0xdf)
            more = 1, lowest = 0x80, c &= 0x1f;
        else if (c >= 0xe0 && c <= 0xef)
            more = 2, lowest = 0x800, c &= 0x0f;
        else if (c >= 0xf0 && c <= 0xf4)
            more = 3, lowest = 0x10000, c &= 0x07;
        else
            return false;
        if (end - p < more) return false;
        for (; more > 0; more--, p++) {
            if ((*p & 0xc0) != 0x80) return false;
            c = c << 6 | (*p & 0x3fu);
        }
        if (c < lowest || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff)) return false;
    }
    return true;
}

/* What the parser must know in advance: depth within bounds, and whether an integer occurs
 * that 64 bits cannot hold. Brackets inside strings do not count. */
static sy_status prescan(const char *text, size_t size, const char *name, bool *has_big_int) {
    int depth = 0;
    int digits = 0; /* length of the run of digits that ends here */
    *has_big_int = false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        digits = c >= '0' && c <= '9' ? digits + 1 : 0;
        if (digits == 19)
            *has_big_int = true; /* may fit still; then a real is read, harmless */
        if (c == '"') {
            for (i++; i < size && text[i] != '"'; i++)
                if (text[i] == '\\') i++;
        } else if (c == '{' || c == '[') {
            if (++depth > SY_JSON_MAX_DEPTH)
                return sy_fail(SY_ERR_FORMAT, "%s: nested deeper than %d at byte %zu", name,
                               SY_JSON_MAX_DEPTH, i);
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return SY_OK;
}

sy_status sy_json_parse(const char *text, size_t size, const char *name, json_t **out) {
    *out = NULL;
    if (!sy_utf8_valid(text, size)) return sy_fail(SY_ERR_FORMAT, "%s: not valid UTF-8", name);
    bool has_big_int;
    sy_status st = prescan(text, size, name, &has_big_int);
    if (st != SY_OK) return st;

    size_t flags = JSON_REJECT_DUPLICATES | JSON_DECODE_ANY;
    if (has_big_int) flags |= JSON_DECODE_INT_AS_REAL;
    json_error_t error;
    *out = json_loadb(text, size, flags, &error);
    if (*out == NULL)
        return sy_fail(SY_ERR_FORMAT, "%s: line %d, column %d: %s", name, error.line,
                       error.column, error.text);
    return SY_OK;
}

sy_status sy_json_load(const char *path, uint64_t max_bytes, json_t **out) {
    char *text;
    size_t size;
    *out = NULL;
    sy_status st = sy_read_file(path, max_bytes, &text, &size);
    if (st != SY_OK) return st;
    size_t skip = size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    st = sy_json_parse(text + skip, size - skip, path, out);
    free(text);
    return st;
}

const char *sy_json_type_name(const json_t *value) {
    if (value == NULL) return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "object";
    case JSON_ARRAY:
        return "array";
    case JSON_STRING:
        return "string";
    case JSON_INTEGER:
        return "integer";
    case JSON_REAL:
        return "real";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    default:
        return "null";
    }
}

bool sy_json_integral(const json_t *value, int64_t *out) {
    if (json_is_integer(value)) {
        *out = json_integer_value(value);
        return true;
    }
    if (!json_is_real(value)) return false;
    double d = json_real_value(value);
    if (!(d >= -0x1p62 && d <= 0x1p62) || d != floor(d)) return false;
    *out = (int64_t)d;
    return true;
}

/* The member if it is there and not null. */
static const json_t *member(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}

sy_status sy_json_get_int(const json_t *object,
                          const char *where,
                          const char *key,
                          int64_t min,
                          int64_t max,
                          int64_t *out) {
    const json_t *value = member(object, key);
    int64_t n;
    if (value == NULL) return SY_OK;
    if (!sy_json_integral(value, &n))
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected a whole number, found %s", where,
                       key, sy_json_type_name(value));
    if (n < min || n > max)
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected %lld to %lld, found %lld", where,
                       key, (long long)min, (long long)max, (long long)n);
    *out = n;
    return SY_OK;
}

sy_status
sy_json_get_real(const json_t *object, const char *where, const char *key, double *out) {
    const json_t *value = member(object, key);
    if (value == NULL) return SY_OK;
    if (!json_is_number(value))
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected a number, found %s", where, key,
                       sy_json_type_name(value));
    *out = json_number_value(value);
    return SY_OK;
}

sy_status
sy_json_get_bool(const json_t *object, const char *where, const char *key, bool *out) {
    const json_t *value = member(object, key);
    if (value == NULL) return SY_OK;
    if (!json_is_boolean(value))
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected true or false, found %s", where,
                       key, sy_json_type_name(value));
    *out = json_is_true(value);
    return SY_OK;
}

sy_status
sy_json_get_string(const json_t *object, const char *where, const char *key, const char **out) {
    const json_t *value = member(object, key);
    if (value == NULL) return SY_OK;
    if (!json_is_string(value))
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\": expected a string, found %s", where, key,
                       sy_json_type_name(value));
    *out = json_string_value(value);
    return SY_OK;
}

bool sy_text_has_control(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c < 0x20 || c == 0x7f) return true;
        if (c == 0xc2 && i + 1 < n && (unsigned char)text[i + 1] < 0xa0) return true;
        if (c == 0xe2 && i + 2 < n && (unsigned char)text[i + 1] == 0x80 &&
            ((unsigned char)text[i + 2] | 1) == 0xa9)
            return true;
    }
    return false;
}

const char *sy_text_shown(const char *text) {
    return sy_text_has_control(text, strlen(text)) ? "control characters" : text;
}
