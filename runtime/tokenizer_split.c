/* Text -> pre-tokens. Each pre-tokenizer component is a stage that cuts or rewrites what the
 * stage before it gives out; pieces run through all stages one by one, so that no list of them is
 * kept. A stage sees its piece alone: look-behind and look-ahead end at the piece's borders. */
#include "runtime/tokenizer_parts.h"

/* The piece that has been cut last and may still grow. */
typedef struct pending_piece {
    bool first; /* the stage's piece starts the whole text */
    size_t start, end;
    bool any;
    bool after_match; /* the last range seen was a match */
} pending_piece;

static sy_status flush(sy_encoding *e, int k, const char *text, pending_piece *piece) {
    sy_status st = SY_OK;
    if (piece->any && piece->end > piece->start)
        st = sy_split_encode(e, k + 1, text + piece->start, piece->end - piece->start,
                             piece->first && piece->start == 0);
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
    *piece = (pending_piece){piece->first, start, end, !drop, is_match};
    return st;
}

static sy_status split(sy_encoding *e, int k, const char *text, size_t size, bool first) {
    sy_status st = SY_OK;
    pending_piece piece = {.first = first};
    sy_match_walk walk = {0};
    size_t previous = 0; /* end of the last match */
    bool found = false;
    for (;;) {
        SY_TRY(sy_next_match(e, &e->tokenizer->stage[k].pattern, text, size, &walk, &found));
        if (!found) break;
        if (previous != walk.start)
            SY_TRY(add_range(e, k, text, &piece, previous, walk.start, false));
        SY_TRY(add_range(e, k, text, &piece, walk.start, walk.end, true));
        previous = walk.end;
    }
    if (previous != size) SY_TRY(add_range(e, k, text, &piece, previous, size, false));
    SY_TRY(flush(e, k, text, &piece));
done:
    return st;
}

static bool starts_with(const char *text, size_t size, const char *prefix) {
    size_t n = strlen(prefix);
    return size >= n && memcmp(text, prefix, n) == 0;
}

/* Spaces become the stage's character, which also comes in front where it shall. */
static sy_status
rewrite(const sy_stage *stage, const char *text, size_t size, bool first, sy_text *out) {
    sy_status st = SY_OK;
    bool wanted =
        stage->prefix == SY_PREFIX_ALWAYS || (stage->prefix == SY_PREFIX_FIRST && first);
    out->n = 0;
    if (wanted && text[0] != ' ' && !starts_with(text, size, stage->space))
        SY_TRY(sy_text_append(out, stage->space, strlen(stage->space)));
    for (size_t i = 0; i < size;) {
        const char *space = memchr(text + i, ' ', size - i);
        size_t end = space != NULL ? (size_t)(space - text) : size;
        SY_TRY(sy_text_append(out, text + i, end - i));
        if (space != NULL) SY_TRY(sy_text_append(out, stage->space, strlen(stage->space)));
        i = end + (space != NULL);
    }
done:
    return st;
}

sy_status sy_split_encode(sy_encoding *e, int k, const char *text, size_t size, bool first) {
    sy_status st = SY_OK;
    if (k == e->tokenizer->n_stages) return sy_encode_pretoken(e, text, size);
    const sy_stage *stage = &e->tokenizer->stage[k];
    if (stage->kind == SY_STAGE_SPLIT) return split(e, k, text, size, first);
    sy_text *rewritten = &e->scratch->rewritten[k];
    SY_TRY(rewrite(stage, text, size, first, rewritten));
    SY_TRY(sy_split_encode(e, k + 1, rewritten->data, rewritten->n, first));
done:
    return st;
}
