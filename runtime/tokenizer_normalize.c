/* What a normalizer does to a piece of text, step by step. */
#include "runtime/tokenizer_parts.h"

static sy_status check_size(const sy_encoding *e, size_t size) {
    if (size <= e->normal_limit) return SY_OK;
    return sy_fail(SY_ERR_UNSUPPORTED, "input refused: its normal form has more than %zu bytes",
                   e->normal_limit);
}

static sy_status replace(sy_encoding *e,
                         const sy_normal_step *step,
                         const char *text,
                         size_t size,
                         sy_text *buffer) {
    sy_status st = SY_OK;
    sy_match_walk walk = {0};
    size_t previous = 0;
    bool found = false;
    for (;;) {
        SY_TRY(sy_next_match(e, &step->pattern, text, size, &walk, &found));
        if (!found) break;
        SY_TRY(sy_text_append(buffer, text + previous, walk.start - previous));
        SY_TRY(sy_text_append(buffer, step->text.data, step->text.n));
        SY_TRY(check_size(e, buffer->n));
        previous = walk.end;
    }
    SY_TRY(sy_text_append(buffer, text + previous, size - previous));
    SY_TRY(check_size(e, buffer->n));
done:
    return st;
}

sy_status sy_normalize(sy_encoding *e,
                       const char *text,
                       size_t size,
                       const char **out,
                       size_t *out_size) {
    sy_status st = SY_OK;
    const sy_tokenizer *t = e->tokenizer;
    int free_buffer = 0; /* the other one may hold the text */
    for (int i = 0; i < t->n_normal && size > 0; i++) {
        const sy_normal_step *step = &t->normal[i];
        sy_text *buffer = &e->scratch->normalized[free_buffer];
        buffer->n = 0;
        if (step->kind == SY_NORMAL_NFC) {
            const char *before = text;
            SY_TRY(
                sy_nfc_normalize(&t->nfc, &e->scratch->nfc, text, size, buffer, &text, &size));
            if (text == before) continue;
        } else {
            if (step->kind == SY_NORMAL_PREPEND) {
                SY_TRY(sy_text_append(buffer, step->text.data, step->text.n));
                SY_TRY(sy_text_append(buffer, text, size));
            } else {
                SY_TRY(replace(e, step, text, size, buffer));
            }
            text = buffer->n > 0 ? buffer->data : "";
            size = buffer->n;
        }
        free_buffer = 1 - free_buffer;
    }
    *out = text;
    *out_size = size;
done:
    return st;
}
