/* The text of one request while it grows: decoding that never splits a character, and stop
 * strings, of which nothing is shown. */
#ifndef SY_LAUNCHER_ANSWER_H
#define SY_LAUNCHER_ANSWER_H

#include "runtime/tokenizer.h"

typedef struct sy_answer {
    const sy_tokenizer *tokenizer; /* NULL: ids are the text */
    const char *const *stop;       /* borrowed */
    int n_stops;
    sy_decoder decoder;
    sy_ids ids;   /* what was generated, an end token included */
    sy_text text; /* what may be shown so far */
    sy_text held; /* the start of what may become a stop string */
    bool stopped; /* a stop string was met */
} sy_answer;

/* Adds a token; an end token (is_end) adds to the ids only. What may be shown is appended to
 * text. */
sy_status sy_answer_put(sy_answer *answer, int32_t id, bool is_end);
/* No more tokens: shows what was held back, unless a stop string was met. */
sy_status sy_answer_finish(sy_answer *answer);
void sy_answer_free(sy_answer *answer);

#endif
