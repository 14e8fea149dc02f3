#include "launcher/answer.h"

#include <stdio.h>
#include <string.h>

/* Where the stop string begins that is complete first, or held's size; of two that end together
 * the longer one. Looked for by its end, so that the text does not depend on how it was cut into
 * tokens. */
static size_t find_stop(const sy_answer *a) {
    size_t first = a->held.n, first_end = a->held.n + 1;
    for (int i = 0; i < a->n_stops; i++) {
        size_t n = strlen(a->stop[i]);
        for (size_t at = 0; n > 0 && at + n <= a->held.n && at + n <= first_end; at++) {
            if (memcmp(a->held.data + at, a->stop[i], n) != 0) continue;
            if (at + n < first_end || at < first) first = at;
            first_end = at + n;
            break;
        }
    }
    return first;
}

/* Bytes at the end of held that are the beginning of some stop string. */
static size_t unsettled(const sy_answer *a) {
    for (size_t begin = 0; begin < a->held.n; begin++) {
        size_t rest = a->held.n - begin;
        for (int i = 0; i < a->n_stops; i++)
            if (rest < strlen(a->stop[i]) &&
                memcmp(a->held.data + begin, a->stop[i], rest) == 0)
                return rest;
    }
    return 0;
}

/* Moves the first n bytes of held to text. */
static sy_status show(sy_answer *a, size_t n) {
    if (n == 0) return SY_OK; /* held.data may be NULL */
    sy_status st = sy_text_append(&a->text, a->held.data, n);
    if (st != SY_OK) return st;
    memmove(a->held.data, a->held.data + n, a->held.n - n);
    a->held.n -= n;
    return SY_OK;
}

static sy_status settle(sy_answer *a) {
    if (a->held.n == 0) return SY_OK;
    size_t at = find_stop(a);
    if (at < a->held.n) {
        a->stopped = true;
        sy_status st = show(a, at);
        a->held.n = 0;
        return st;
    }
    return show(a, a->held.n - unsettled(a));
}

sy_status sy_answer_put(sy_answer *a, int32_t id, bool is_end) {
    sy_status st = SY_OK;
    SY_TRY(sy_ids_append(&a->ids, id));
    if (is_end) goto done;
    if (a->tokenizer == NULL) {
        char number[16];
        int n = snprintf(number, sizeof number, a->text.n == 0 ? "%d" : " %d", id);
        SY_TRY(sy_text_append(&a->text, number, (size_t)n));
    } else {
        SY_TRY(sy_decoder_put(&a->decoder, a->tokenizer, id, true, &a->held));
        SY_TRY(settle(a));
    }
done:
    return st;
}

sy_status sy_answer_finish(sy_answer *a) {
    sy_status st = SY_OK;
    if (a->stopped || a->tokenizer == NULL) goto done;
    SY_TRY(sy_decoder_finish(&a->decoder, &a->held));
    SY_TRY(settle(a));
    SY_TRY(show(a, a->held.n));
done:
    return st;
}

void sy_answer_free(sy_answer *a) {
    sy_ids_free(&a->ids);
    sy_text_free(&a->text);
    sy_text_free(&a->held);
}
