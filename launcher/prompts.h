/* The prompts of a run as token ids, from -p, -f, --prompts, --ids or stdin. Rank 0 only. */
#ifndef SY_LAUNCHER_PROMPTS_H
#define SY_LAUNCHER_PROMPTS_H

#include "launcher/options.h"
#include "runtime/tokenizer.h"

typedef struct sy_prompt {
    char *text; /* NULL if ids were given */
    size_t n_text;
    sy_ids ids;
} sy_prompt;

typedef struct sy_prompts {
    sy_prompt *prompt;
    int n;
} sy_prompts;

/* tokenizer NULL: only --ids works. Ids are checked against vocab. An empty prompt (no text, no
 * BOS) is refused. */
sy_status sy_prompts_read(const sy_options *options,
                          const sy_tokenizer *tokenizer,
                          int vocab,
                          sy_prompts *out);
void sy_prompts_free(sy_prompts *prompts);

#endif
