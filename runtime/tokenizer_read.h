/* Building a tokenizer from files; for the readers and the tests.
 *
 *   tokenizer_load.c        which file a directory has, and BOS
 *   tokenizer_json.c        tokenizer.json: vocabulary and merges
 *   tokenizer_components.c  ... its normalizer and pre_tokenizer
 *   tokenizer_output.c      ... its post_processor and decoder
 *   tokenizer_tekken.c      tekken.json
 *   tokenizer_tiktoken.c    tiktoken.model
 *   tokenizer_ranks.c       what the last two have in common
 *
 * Files are hostile input: ids, references and sizes are checked, and what would change ids in
 * silence is refused. */
#ifndef SY_RUNTIME_TOKENIZER_READ_H
#define SY_RUNTIME_TOKENIZER_READ_H

#include "base/json.h"
#include "runtime/tokenizer_parts.h"

/* Largest max_id, and what 0 stands for. */
#define SY_DEFAULT_MAX_ID ((int64_t)16000000)
#define SY_LARGEST_MAX_ID ((int64_t)1 << 30)
static inline int64_t sy_clamp_max_id(int64_t max_id) {
    if (max_id <= 0) return SY_DEFAULT_MAX_ID;
    return max_id < SY_LARGEST_MAX_ID ? max_id : SY_LARGEST_MAX_ID;
}

/* Each builds a tokenizer from a file's content; config (tokenizer_config.json) may be NULL. */
sy_status sy_tokenizer_from_json(const json_t *root,
                                 const json_t *config,
                                 int64_t max_id,
                                 sy_tokenizer **out);
/* The text is overwritten. */
sy_status sy_tokenizer_from_tekken(char *text, size_t size, int64_t max_id, sy_tokenizer **out);
sy_status sy_tokenizer_from_tiktoken(const char *text,
                                     size_t size,
                                     const json_t *config,
                                     int64_t max_id,
                                     sy_tokenizer **out);

/* BOS: what `before` begins with; or else, as Hugging Face's Llama classes do, the configured
 * token if add_bos_token is set. */
sy_status sy_read_bos(const json_t *config, sy_tokenizer *t);

/* ---- tokenizer.json ---- */

sy_status sy_read_normalizer(const json_t *root, sy_tokenizer *t);
/* Sets the spelling of the vocabulary, too: the alphabet if there is a ByteLevel. */
sy_status sy_read_pre_tokenizer(const json_t *root, sy_tokenizer *t);
sy_status sy_read_post_processor(const json_t *root, int64_t max_id, sy_tokenizer *t);
/* What each token stands for; all tokens must be there. */
sy_status sy_read_decoder(const json_t *root, sy_tokenizer *t);
sy_status sy_read_added_tokens(const json_t *list, int64_t max_id, sy_tokenizer *t);

sy_status sy_unsupported_type(const char *where, const json_t *component);
bool sy_has_type(const json_t *component, const char *type);
/* The list of a Sequence; anything else is an error. */
sy_status sy_sequence_list(const json_t *sequence,
                           const char *where,
                           const char *key,
                           const json_t **list);
/* A member that is one character, NUL-terminated in out. */
sy_status
sy_json_get_character(const json_t *object, const char *where, const char *key, char out[5]);
/* The members of a Metaspace, which is a pre_tokenizer and a decoder. */
sy_status sy_read_metaspace(const json_t *component,
                            const char *where,
                            char replacement[5],
                            sy_prefix_when *prefix,
                            bool *split);
/* An id: a whole number from 0 to max_id - 1. */
sy_status sy_check_id(const json_t *value, const char *content, int64_t max_id, int64_t *id);

/* ---- added tokens, in the order of the file ---- */

typedef struct sy_added_entry {
    sy_added_token token;
    bool normalized;
    size_t offset, size; /* what is looked for, in `bytes` */
} sy_added_entry;
typedef struct sy_added_list {
    sy_added_entry *entry;
    size_t n, room;
    sy_text bytes;
    sy_encoding normalizing; /* one for all, so that its limit of time holds for all */
} sy_added_list;
/* content, or its normal form if `normalized`, is found in the text from now on. */
sy_status sy_added_list_put(sy_added_list *list,
                            sy_tokenizer *t,
                            const char *content,
                            size_t size,
                            bool normalized,
                            sy_added_token token);
sy_status sy_added_list_build(const sy_added_list *list, sy_tokenizer *t);
void sy_added_list_free(sy_added_list *list);

/* ---- ranks ---- */

/* Adds the token that is the base64 text; its rank is the order of its id. */
sy_status sy_ranks_add(sy_tokenizer *t, const char *base64, size_t size, int64_t id);
/* After all are there: single bytes, merges. All 256 bytes must be tokens. */
sy_status sy_ranks_finish(sy_tokenizer *t);
/* The one pre-tokenizer stage: pieces are what the pattern matches, the rest is dropped. */
sy_status sy_ranks_pattern(sy_tokenizer *t, const char *pattern, size_t size);
/* An added token; `special` is for decoding only, as text all of them are alike. */
sy_status sy_ranks_add_special(sy_tokenizer *t,
                               sy_added_list *list,
                               const char *content,
                               size_t size,
                               bool special,
                               int64_t id);

#endif
