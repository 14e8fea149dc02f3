#include "runtime/json_scan.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

char sy_scan_peek(sy_scan *scan) {
    for (; scan->at < scan->size; scan->at++) {
        char c = scan->text[scan->at];
        if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return c;
    }
    return 0;
}

/* What stands at the cursor, for error texts. */
static const char *found(const sy_scan *scan, char buf[32]) {
    if (scan->at >= scan->size) return "the end";
    unsigned char c = (unsigned char)scan->text[scan->at];
    if (c == '{') return "an object";
    if (c == '[') return "an array";
    if (c == '"') return "a string";
    if (c == '-' || is_digit((char)c)) return "a number";
    if (c > ' ' && c < 0x7f)
        snprintf(buf, 32, "'%c'", c);
    else
        snprintf(buf, 32, "byte 0x%02x", c);
    return buf;
}

static sy_status expected(const sy_scan *scan, const char *what) {
    char buf[32];
    return sy_fail(SY_ERR_FORMAT, "%s byte %zu: expected %s, found %s", scan->what, scan->at,
                   what, found(scan, buf));
}

sy_status sy_scan_open(sy_scan *scan, char bracket) {
    if (sy_scan_peek(scan) != bracket)
        return expected(scan, bracket == '{' ? "an object" : "an array");
    scan->at++;
    return SY_OK;
}

sy_status sy_scan_more(sy_scan *scan, char closing, bool first, bool *more) {
    char c = sy_scan_peek(scan);
    *more = false;
    if (c == closing) {
        scan->at++;
        return SY_OK;
    }
    if (!first) {
        if (c != ',') return expected(scan, closing == '}' ? "',' or '}'" : "',' or ']'");
        scan->at++;
    }
    *more = true;
    return SY_OK;
}

/* Four hexadecimal digits; -1 if they are not. */
static int hex4(const sy_scan *scan, size_t at) {
    int value = 0;
    if (scan->size - at < 4) return -1;
    for (size_t i = at; i < at + 4; i++) {
        char c = scan->text[i];
        int digit = is_digit(c)            ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

static char *put_utf8(char *to, unsigned c) {
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
        *to++ = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *to++ = (char)(0xe0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
        *to++ = (char)(0x80 | (c & 0x3f));
    } else {
        *to++ = (char)(0xf0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 0x3f));
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
        *to++ = (char)(0x80 | (c & 0x3f));
    }
    return to;
}

/* The cursor is behind the backslash. What an escape decodes to is never longer than it, so
 * that decoding in place is safe: \uXXXX gives at most 3 bytes, a surrogate pair 4. */
static sy_status decode_escape(sy_scan *scan, char **to) {
    static const char letter[] = "\"\\/bfnrt", meaning[] = "\"\\/\b\f\n\r\t";
    char c = scan->at < scan->size ? scan->text[scan->at] : 0;
    const char *simple = c != 0 ? strchr(letter, c) : NULL;
    if (simple != NULL) {
        *(*to)++ = meaning[simple - letter];
        scan->at++;
        return SY_OK;
    }
    if (c != 'u') return expected(scan, "an escape sequence");
    int high = hex4(scan, scan->at + 1), low = -1;
    if (high < 0) return expected(scan, "four hexadecimal digits behind \\u");
    scan->at += 5;
    if (high >= 0xd800 && high <= 0xdbff && scan->size - scan->at >= 6 &&
        scan->text[scan->at] == '\\' && scan->text[scan->at + 1] == 'u')
        low = hex4(scan, scan->at + 2);
    unsigned code = (unsigned)high;
    if (high >= 0xd800 && high <= 0xdfff) {
        if (high > 0xdbff || low < 0xdc00 || low > 0xdfff)
            return sy_fail(SY_ERR_FORMAT,
                           "%s byte %zu: expected a pair of surrogates, found one", scan->what,
                           scan->at);
        scan->at += 6;
        code = 0x10000u + ((unsigned)(high - 0xd800) << 10) + (unsigned)(low - 0xdc00);
    }
    *to = put_utf8(*to, code);
    return SY_OK;
}

sy_status sy_scan_string(sy_scan *scan, sy_scan_text *out) {
    if (sy_scan_peek(scan) != '"') return expected(scan, "a string");
    scan->at++;
    char *start = scan->text + scan->at, *to = start;
    for (;;) {
        if (scan->at >= scan->size) return expected(scan, "'\"' at the end of a string");
        char c = scan->text[scan->at];
        if ((unsigned char)c < 0x20)
            return expected(scan, "no control character within a string");
        scan->at++;
        if (c == '"') break;
        if (c == '\\') {
            sy_status st = decode_escape(scan, &to);
            if (st != SY_OK) return st;
        } else {
            *to++ = c;
        }
    }
    *to = '\0'; /* at the latest on the closing quote */
    out->data = start;
    out->n = (size_t)(to - start);
    out->has_control = sy_text_has_control(start, out->n);
    return SY_OK;
}

sy_status sy_scan_key(sy_scan *scan, sy_scan_text *out) {
    sy_status st = sy_scan_string(scan, out);
    if (st != SY_OK) return st;
    if (sy_scan_peek(scan) != ':') return expected(scan, "':'");
    scan->at++;
    return SY_OK;
}

sy_status sy_scan_uint(sy_scan *scan, uint64_t *out) {
    static const char what[] = "an unsigned integer written as one";
    char c = sy_scan_peek(scan);
    uint64_t value = 0;
    size_t at = scan->at;
    if (!is_digit(c)) return expected(scan, what);
    for (; at < scan->size && is_digit(scan->text[at]); at++) {
        if (__builtin_mul_overflow(value, 10u, &value) ||
            __builtin_add_overflow(value, (uint64_t)(scan->text[at] - '0'), &value))
            return sy_fail(
                SY_ERR_FORMAT,
                "%s byte %zu: expected an integer of at most 2^64-1, found a larger one",
                scan->what, scan->at);
    }
    if (c == '0' && at - scan->at > 1)
        return sy_fail(SY_ERR_FORMAT, "%s byte %zu: expected %s, found a leading zero",
                       scan->what, scan->at, what);
    if (at < scan->size && strchr(".eE", scan->text[at]) != NULL && scan->text[at] != '\0')
        return sy_fail(SY_ERR_FORMAT, "%s byte %zu: expected %s, found a real number",
                       scan->what, scan->at, what);
    scan->at = at;
    *out = value;
    return SY_OK;
}

static size_t digits(const sy_scan *scan, size_t at) {
    while (at < scan->size && is_digit(scan->text[at]))
        at++;
    return at;
}

static sy_status skip_number(sy_scan *scan) {
    size_t at = scan->at, end;
    if (scan->text[at] == '-') at++;
    end = digits(scan, at);
    bool good = end > at && !(scan->text[at] == '0' && end - at > 1);
    at = end;
    if (good && at < scan->size && scan->text[at] == '.') {
        end = digits(scan, at + 1);
        good = end > at + 1;
        at = end;
    }
    if (good && at < scan->size && (scan->text[at] == 'e' || scan->text[at] == 'E')) {
        at++;
        if (at < scan->size && (scan->text[at] == '+' || scan->text[at] == '-')) at++;
        end = digits(scan, at);
        good = end > at;
        at = end;
    }
    if (!good)
        return sy_fail(SY_ERR_FORMAT, "%s byte %zu: malformed number", scan->what, scan->at);
    scan->at = at;
    return SY_OK;
}

static sy_status skip_scalar(sy_scan *scan) {
    static const char *const words[] = {"true", "false", "null"};
    char c = sy_scan_peek(scan);
    sy_scan_text text;
    if (c == '"') return sy_scan_string(scan, &text);
    if (c == '-' || is_digit(c)) return skip_number(scan);
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if (scan->size - scan->at >= n && memcmp(scan->text + scan->at, words[i], n) == 0) {
            scan->at += n;
            return SY_OK;
        }
    }
    return expected(scan, "a value");
}

sy_status sy_scan_skip(sy_scan *scan) {
    sy_status st = SY_OK;
    char closing[SY_JSON_MAX_DEPTH];
    int depth = 0;
    bool first = true; /* in the innermost bracket */
    do {
        bool more = true;
        if (depth > 0) {
            SY_TRY(sy_scan_more(scan, closing[depth - 1], first, &more));
            first = false;
            if (!more) {
                depth--;
                continue;
            }
            sy_scan_text key;
            if (closing[depth - 1] == '}') SY_TRY(sy_scan_key(scan, &key));
        }
        char c = sy_scan_peek(scan);
        if (c != '{' && c != '[') {
            SY_TRY(skip_scalar(scan));
            continue;
        }
        if (depth == SY_JSON_MAX_DEPTH)
            SY_FAIL(SY_ERR_FORMAT, "%s byte %zu: nested deeper than %d", scan->what, scan->at,
                    SY_JSON_MAX_DEPTH);
        closing[depth++] = c == '{' ? '}' : ']';
        first = true;
        scan->at++;
    } while (depth > 0);
done:
    return st;
}

sy_status sy_scan_end(sy_scan *scan) {
    sy_scan_peek(scan);
    if (scan->at < scan->size)
        return expected(scan, "nothing but whitespace behind the object");
    return SY_OK;
}
