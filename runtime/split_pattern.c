/* Regular expressions of pre-tokenizers, which are written for Oniguruma's Ruby syntax, run by
 * PCRE2.
 *
 * The translation passes on what means the same in both, rewrites what has an exact equivalent,
 * and refuses the rest by name: a construct that is understood differently would change token
 * ids in silence. The differences:
 *   \s \S       PCRE2's also takes U+180E
 *   \p{Han} ... a script; PCRE2 means script extensions unless told otherwise
 *   \v          one character in Oniguruma, a class in PCRE2
 *   \w \b \h    other sets of characters
 *   ^ $ (?m)    lines in Ruby, the text's ends in PCRE2
 *   [a[b]] [a&&b]  sets of sets in Oniguruma, ordinary characters in PCRE2
 *   {,n} {n,m}+ {n}? \u  read differently */
#include "runtime/tokenizer_parts.h"

#include <stdlib.h>

#define SPACE "\\x09-\\x0d\\x{85}\\p{Z}"
/* Everything but white space, for use inside a class. */
#define NOT_SPACE                                                                              \
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"   \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"             \
    "\\x{3001}-\\x{10ffff}"

typedef struct translation {
    const char *pattern;
    size_t size, at;
    sy_text *out;
} translation;

static sy_status put(translation *t, const char *text) {
    return sy_text_append(t->out, text, strlen(text));
}
static sy_status copy(translation *t, size_t n) {
    sy_status st = sy_text_append(t->out, t->pattern + t->at, n);
    t->at += n;
    return st;
}
static bool follows(const translation *t, const char *text) {
    size_t n = strlen(text);
    return t->size - t->at >= n && memcmp(t->pattern + t->at, text, n) == 0;
}
/* What stands at the place that an error text speaks of, cut at a sensible length. */
static sy_status refuse(const translation *t, size_t at, size_t n, const char *why) {
    if (n > t->size - at) n = t->size - at;
    return sy_fail(SY_ERR_UNSUPPORTED, "regular expression: \"%.*s\" at byte %zu %s", (int)n,
                   t->pattern + at, at, why);
}

static bool is_one_of(const char *name, size_t size, const char *const *list) {
    for (; *list != NULL; list++)
        if (strlen(*list) == size && memcmp(*list, name, size) == 0) return true;
    return false;
}

/* \p{...} and \P{...}: general categories mean the same, scripts need the prefix. */
static sy_status property(translation *t) {
    static const char *const categories[] = {
        "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl",
        "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk",
        "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Cn", "Co", "Cs", NULL};
    static const char *const scripts[] = {
        "Han",       "Hiragana",  "Katakana",  "Hangul",  "Bopomofo",   "Latin",    "Greek",
        "Cyrillic",  "Armenian",  "Georgian",  "Arabic",  "Hebrew",     "Thai",     "Lao",
        "Khmer",     "Myanmar",   "Tibetan",   "Bengali", "Devanagari", "Gujarati", "Gurmukhi",
        "Kannada",   "Malayalam", "Oriya",     "Sinhala", "Tamil",      "Telugu",   "Ethiopic",
        "Mongolian", "Common",    "Inherited", NULL};
    size_t start = t->at, name = t->at + 3;
    bool negated = t->pattern[start + 1] == 'P';
    if (t->size - start < 4 || t->pattern[start + 2] != '{')
        return refuse(t, start, 4, "is not implemented: expected a property in braces");
    if (t->pattern[name] == '^') {
        negated = !negated;
        name++;
    }
    const char *close = memchr(t->pattern + name, '}', t->size - name);
    if (close == NULL) return refuse(t, start, 16, "has no closing brace");
    size_t length = (size_t)(close - (t->pattern + name));
    bool script = is_one_of(t->pattern + name, length, scripts);
    if (!script && !is_one_of(t->pattern + name, length, categories))
        return refuse(t, start, length < 40 ? length + 5 : 40, "is not implemented");
    sy_status st = put(t, negated ? "\\P{" : "\\p{");
    if (st == SY_OK && script) st = put(t, "sc:");
    if (st == SY_OK) st = sy_text_append(t->out, t->pattern + name, length + 1);
    t->at = name + length + 1;
    return st;
}

static bool is_hex(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}
static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* \x{H...} and, below 80, \xHH; larger ones are bytes of a character in Oniguruma. */
static sy_status hex_escape(translation *t) {
    size_t n = t->at + 2, digits = 0;
    bool braces = n < t->size && t->pattern[n] == '{';
    n += braces;
    while (n + digits < t->size && is_hex(t->pattern[n + digits]))
        digits++;
    if (!braces) {
        if (digits < 2 || t->pattern[n] > '7')
            return refuse(t, t->at, 4, "is not implemented: expected two digits below 80");
        return copy(t, 4);
    }
    if (digits < 1 || digits > 8 || n + digits >= t->size || t->pattern[n + digits] != '}')
        return refuse(t, t->at, 12, "is not a character code");
    return copy(t, n + digits + 1 - t->at);
}

static sy_status escape(translation *t, bool in_class) {
    if (t->size - t->at < 2) return refuse(t, t->at, 1, "ends the pattern");
    char c = t->pattern[t->at + 1];
    switch (c) {
    case 's':
        t->at += 2;
        return put(t, in_class ? SPACE : "[" SPACE "]");
    case 'S':
        t->at += 2;
        return put(t, in_class ? NOT_SPACE : "[^" SPACE "]");
    case 'p':
    case 'P':
        return property(t);
    case 'x':
        return hex_escape(t);
    case 'v':
        t->at += 2;
        return put(t, "\\x0b");
    case 'd':
    case 'D':
    case 't':
    case 'n':
    case 'r':
    case 'f':
    case 'a':
    case 'e':
        return copy(t, 2);
    default:
        break;
    }
    bool alphanumeric = is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (alphanumeric || (unsigned char)c >= 0x80 || (unsigned char)c < 0x20)
        return refuse(t, t->at, 2, "is not implemented");
    return copy(t, 2);
}

static sy_status character_class(translation *t) {
    sy_status st = SY_OK;
    size_t start = t->at;
    SY_TRY(copy(t, follows(t, "[^") ? 2 : 1));
    if (follows(t, "]")) SY_TRY(refuse(t, start, 3, "is not implemented: an empty class"));
    while (t->at < t->size && t->pattern[t->at] != ']') {
        if (t->pattern[t->at] == '\\') {
            SY_TRY(escape(t, true));
            continue;
        }
        if (t->pattern[t->at] == '[' || follows(t, "&&"))
            SY_TRY(refuse(t, t->at, 2, "is not implemented: a set within a character class"));
        SY_TRY(copy(t, 1));
    }
    if (t->at == t->size) SY_TRY(refuse(t, start, 16, "has no closing bracket"));
    SY_TRY(copy(t, 1));
done:
    return st;
}

static sy_status group(translation *t) {
    static const char *const openings[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    if (!follows(t, "(?") && !follows(t, "(*")) return copy(t, 1);
    for (size_t i = 0; i < sizeof openings / sizeof *openings; i++)
        if (follows(t, openings[i])) return copy(t, strlen(openings[i]));
    return refuse(t, t->at, 4, "is not implemented");
}

/* {n}, {n,} and {n,m}, the last two also with a ? behind. */
static sy_status repeat(translation *t) {
    size_t i = t->at + 1;
    bool comma = false;
    if (i == t->size || !is_digit(t->pattern[i]))
        return refuse(t, t->at, 3, "is not implemented: expected a number of repetitions");
    while (i < t->size && is_digit(t->pattern[i]))
        i++;
    if (i < t->size && t->pattern[i] == ',') {
        comma = true;
        for (i++; i < t->size && is_digit(t->pattern[i]);)
            i++;
    }
    if (i == t->size || t->pattern[i] != '}')
        return refuse(t, t->at, 8, "is not a number of repetitions");
    i++;
    if (i < t->size && (t->pattern[i] == '+' || (t->pattern[i] == '?' && !comma)))
        return refuse(t, t->at, i + 1 - t->at, "is not implemented");
    return copy(t, i - t->at);
}

sy_status sy_pattern_translate(const char *pattern, size_t size, sy_text *out) {
    sy_status st = SY_OK;
    translation t = {pattern, size, 0, out};
    while (t.at < size) {
        switch (pattern[t.at]) {
        case '\\':
            SY_TRY(escape(&t, false));
            break;
        case '[':
            SY_TRY(character_class(&t));
            break;
        case '(':
            SY_TRY(group(&t));
            break;
        case '{':
            SY_TRY(repeat(&t));
            break;
        case '^':
        case '$':
            SY_TRY(refuse(&t, t.at, 1, "is not implemented"));
            break;
        default:
            SY_TRY(copy(&t, 1));
        }
    }
done:
    return st;
}

static sy_status compile(const char *pattern, size_t size, uint32_t options, sy_pattern *out) {
    sy_status st = SY_OK;
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a regular expression");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF); /* what "." does not match */
    out->code = pcre2_compile((PCRE2_SPTR)pattern, size, options, &error, &offset, context);
    if (out->code == NULL) {
        PCRE2_UCHAR text[160];
        pcre2_get_error_message(error, text, sizeof text);
        SY_FAIL(SY_ERR_FORMAT, "regular expression: %s, at byte %zu of \"%.*s\"", (char *)text,
                (size_t)offset, (int)(size < 200 ? size : 200), pattern);
    }
    /* Where there is no JIT compiler the interpreter does. */
    out->jit = pcre2_jit_compile(out->code, PCRE2_JIT_COMPLETE) == 0;
done:
    pcre2_compile_context_free(context);
    return st;
}

sy_status sy_pattern_compile(const char *pattern, size_t size, bool literal, sy_pattern *out) {
    sy_status st = SY_OK;
    sy_text translated = {0};
    *out = (sy_pattern){0};
    if (size > SY_MAX_PATTERN)
        SY_FAIL(SY_ERR_FORMAT, "a pattern of %zu bytes; at most %d are accepted", size,
                SY_MAX_PATTERN);
    if (literal) {
        SY_TRY(compile(pattern, size, PCRE2_UTF | PCRE2_LITERAL, out));
    } else {
        SY_TRY(sy_pattern_translate(pattern, size, &translated));
        SY_TRY(compile(translated.data != NULL ? translated.data : "", translated.n,
                       PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, out));
    }
done:
    sy_text_free(&translated);
    return st;
}

void sy_pattern_free(sy_pattern *pattern) {
    pcre2_code_free(pattern->code);
    *pattern = (sy_pattern){0};
}
