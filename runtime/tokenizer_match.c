/* Running a pattern over a text, within limits: the pattern comes from a file. */
#include "runtime/tokenizer_parts.h"

#include <time.h>

#include "runtime/utf8.h"

/* Each single match has a limit of its own (tokenizer.c); this one bounds their sum. Published
 * patterns need 0.1 s per MB. */
enum { CLOCK_EVERY = 32 };

static sy_status check_clock(sy_encoding *e) {
    struct timespec now;
    if (++e->n_matches % CLOCK_EVERY != 0) return SY_OK;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    if ((int64_t)now.tv_sec * 1000000000 + now.tv_nsec <= e->cpu_limit_ns) return SY_OK;
    return sy_fail(SY_ERR_UNSUPPORTED,
                   "input refused: the tokenizer's regular expression takes too long on it");
}

static sy_status find(sy_encoding *e,
                      const sy_pattern *pattern,
                      const char *text,
                      size_t size,
                      size_t from,
                      bool *found,
                      size_t *start,
                      size_t *end) {
    sy_scratch *s = e->scratch;
    sy_status st = check_clock(e);
    if (st != SY_OK) return st;
    int rc;
    if (pattern->jit) {
        rc = pcre2_jit_match(pattern->code, (PCRE2_SPTR)text, size, from, 0, s->match,
                             s->limits);
    } else {
        rc = pcre2_match(pattern->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK,
                         s->match, s->limits);
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* a group under a quantifier; the heap is larger */
        rc = pcre2_match(pattern->code, (PCRE2_SPTR)text, size, from,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, s->match, s->limits);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH) return SY_OK;
    if (rc < 0) {
        PCRE2_UCHAR message[160];
        pcre2_get_error_message(rc, message, sizeof message);
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "input refused: the tokenizer's regular expression fails on it: %s",
                       (char *)message);
    }
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(s->match);
    *start = bounds[0];
    *end = bounds[1];
    return SY_OK;
}

sy_status sy_next_match(sy_encoding *e,
                        const sy_pattern *pattern,
                        const char *text,
                        size_t size,
                        sy_match_walk *walk,
                        bool *found) {
    sy_status st = SY_OK;
    *found = false;
    while (walk->from <= size) {
        size_t start = 0, end = 0;
        SY_TRY(find(e, pattern, text, size, walk->from, found, &start, &end));
        if (!*found) break;
        if (start != end || !walk->any || end != walk->end) {
            *walk = (sy_match_walk){start, end, end, true};
            break;
        }
        /* An empty match right behind the last one does not count; on by a character. */
        int32_t code;
        *found = false;
        if (walk->from >= size) break;
        walk->from += sy_utf8_decode(text + walk->from, size - walk->from, &code);
    }
done:
    return st;
}
