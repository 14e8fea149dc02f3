/* Text -> pre-tokens. Each pre-tokenizer component is a stage that cuts what the stage before it
 * gives out; pieces run through all stages one by one, so that no list of them is kept. A stage
 * sees its piece alone: look-behind and look-ahead end at the piece's borders. */
#include "runtime/tokenizer_parts.h"

#include <time.h>

#include "runtime/utf8.h"

/* The regular expression comes from a file, and each single match has its own limit; this one
 * bounds their sum. Published patterns need 0.1 s per MB. */
enum { CLOCK_EVERY = 32 };

static sy_status check_clock(sy_encoding *e) {
    struct timespec now;
    if (++e->n_matches % CLOCK_EVERY != 0) return SY_OK;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    if ((int64_t)now.tv_sec * 1000000000 + now.tv_nsec <= e->cpu_limit_ns) return SY_OK;
    return sy_fail(SY_ERR_UNSUPPORTED,
                   "input refused: the tokenizer's regular expression takes too long on it");
}

/* *found, and the match as offsets into text. A limit that is reached is an error, never "no
 * match". */
static sy_status find(sy_encoding *e,
                      int k,
                      const char *text,
                      size_t size,
                      size_t from,
                      bool *found,
                      size_t *start,
                      size_t *end) {
    const sy_stage *stage = &e->tokenizer->stage[k];
    pcre2_match_data *match = e->scratch->match[k];
    sy_status st = check_clock(e);
    if (st != SY_OK) return st;
    int rc;
    if (stage->jit) {
        rc = pcre2_jit_match(stage->code, (PCRE2_SPTR)text, size, from, 0, match,
                             e->scratch->limits);
    } else {
        rc = pcre2_match(stage->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, match,
                         e->scratch->limits);
    }
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* a group under a quantifier; the heap is larger */
        rc = pcre2_match(stage->code, (PCRE2_SPTR)text, size, from,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, e->scratch->limits);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH) return SY_OK;
    if (rc < 0) {
        PCRE2_UCHAR message[160];
        pcre2_get_error_message(rc, message, sizeof message);
        return sy_fail(SY_ERR_UNSUPPORTED,
                       "input refused: the tokenizer's regular expression fails on it: %s",
                       (char *)message);
    }
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(match);
    *start = bounds[0];
    *end = bounds[1];
    return SY_OK;
}

/* The piece that has been cut last and may still grow. */
typedef struct pending_piece {
    size_t start, end;
    bool any;
    bool after_match; /* the last range seen was a match */
} pending_piece;

static sy_status flush(sy_encoding *e, int k, const char *text, pending_piece *piece) {
    sy_status st = SY_OK;
    if (piece->any && piece->end > piece->start)
        st = sy_split_encode(e, k + 1, text + piece->start, piece->end - piece->start);
    piece->any = false;
    return st;
}

/* Takes the next range, a match or what lies between two. */
static sy_status add_range(sy_encoding *e,
                           int k,
                           const char *text,
                           pending_piece *piece,
                           size_t start,
                           size_t end,
                           bool is_match) {
    const sy_stage *stage = &e->tokenizer->stage[k];
    is_match = is_match != stage->invert;
    bool grow = false, drop = false;
    switch (stage->behavior) {
    case SY_SPLIT_ISOLATED:
        break;
    case SY_SPLIT_REMOVED:
        drop = is_match;
        break;
    case SY_SPLIT_CONTIGUOUS:
        grow = is_match == piece->after_match;
        break;
    case SY_SPLIT_MERGED_WITH_PREVIOUS:
        grow = is_match && !piece->after_match;
        break;
    case SY_SPLIT_MERGED_WITH_NEXT:
        grow = !is_match && piece->after_match;
        break;
    }
    piece->after_match = is_match;
    if (grow && piece->any) {
        piece->end = end;
        return SY_OK;
    }
    sy_status st = flush(e, k, text, piece);
    *piece = (pending_piece){start, end, !drop, is_match};
    return st;
}

static sy_status split(sy_encoding *e, int k, const char *text, size_t size) {
    sy_status st = SY_OK;
    pending_piece piece = {0};
    size_t previous = 0; /* end of the last match                  */
    size_t from = 0;     /* where to look for the next             */
    bool any_match = false;
    while (from <= size) {
        bool found;
        size_t start, end;
        SY_TRY(find(e, k, text, size, from, &found, &start, &end));
        if (!found) break;
        if (start == end && any_match && end == previous) {
            /* An empty match right behind the last one does not count; go on one character
             * later. */
            int32_t code;
            if (from >= size) break;
            from += sy_utf8_decode(text + from, size - from, &code);
            continue;
        }
        any_match = true;
        if (previous != start) SY_TRY(add_range(e, k, text, &piece, previous, start, false));
        SY_TRY(add_range(e, k, text, &piece, start, end, true));
        previous = from = end;
    }
    if (previous != size) SY_TRY(add_range(e, k, text, &piece, previous, size, false));
    SY_TRY(flush(e, k, text, &piece));
done:
    return st;
}

sy_status sy_split_encode(sy_encoding *e, int k, const char *text, size_t size) {
    sy_status st = SY_OK;
    if (k == e->tokenizer->n_stages) return sy_encode_pretoken(e, text, size);
    if (!e->tokenizer->stage[k].prefix_space) return split(e, k, text, size);
    if (text[0] == ' ') return sy_split_encode(e, k + 1, text, size);
    sy_text *prefixed = &e->scratch->prefixed[k];
    prefixed->n = 0;
    SY_TRY(sy_text_append(prefixed, " ", 1));
    SY_TRY(sy_text_append(prefixed, text, size));
    SY_TRY(sy_split_encode(e, k + 1, prefixed->data, prefixed->n));
done:
    return st;
}
