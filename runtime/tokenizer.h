/* Text to token ids and back, from a Hugging Face tokenizer.json: byte-level BPE.
 *
 * The object is immutable after load and may be used by several threads, each with its own
 * encoder scratch. Text is bytes with a length (NUL is an ordinary character); invalid UTF-8
 * counts as its U+FFFD-replaced form. A component that is not implemented is refused by name. */
#ifndef SY_RUNTIME_TOKENIZER_H
#define SY_RUNTIME_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

typedef struct sy_tokenizer sy_tokenizer;

typedef struct sy_ids { /* growable array; zero-initialise, free with sy_ids_free */
    int32_t *id;
    size_t n, capacity;
} sy_ids;
void sy_ids_free(sy_ids *ids);
sy_status sy_ids_append(sy_ids *ids, int32_t id);

/* directory: holds tokenizer.json and, optionally, tokenizer_config.json. SY_ERR_IO with a
 * text that says so if there is no tokenizer.json. max_id bounds the ids that the file may
 * use (the model's vocabulary plus slack); 0 = 16 million. */
sy_status sy_tokenizer_load(const char *directory, int64_t max_id, sy_tokenizer **out);
void sy_tokenizer_destroy(sy_tokenizer *tokenizer); /* NULL is fine */

enum {
    SY_ENCODE_PLAIN = 0,
    SY_ENCODE_ADD_SPECIAL = 1,  /* what the post-processor adds (BOS, ...) */
    SY_ENCODE_NO_SPECIALS = 2   /* special tokens in the text are ordinary text (user messages) */
};
/* Appends the ids of text[0..size) to *out. */
sy_status sy_tokenizer_encode(const sy_tokenizer *tokenizer, const char *text, size_t size,
                              unsigned flags, sy_ids *out);

/* BOS that raw-text prompts get (the post-processor's, or tokenizer_config's add_bos_token);
 * -1 = none. */
int32_t sy_tokenizer_bos(const sy_tokenizer *tokenizer);
/* The id of an added or ordinary token by its exact content; -1 if there is none. */
int32_t sy_tokenizer_token_id(const sy_tokenizer *tokenizer, const char *content, size_t size);
/* Largest id + 1 that decodes to something. */
int32_t sy_tokenizer_n_ids(const sy_tokenizer *tokenizer);
bool sy_tokenizer_is_special(const sy_tokenizer *tokenizer, int32_t id);

/* Appends the bytes of ids to a growable buffer (malloc'd *text of *size bytes, *capacity). */
typedef struct sy_text {
    char *data;
    size_t n, capacity;
} sy_text;
void sy_text_free(sy_text *text);
sy_status sy_text_append(sy_text *text, const char *data, size_t n);
sy_status sy_tokenizer_decode(const sy_tokenizer *tokenizer, const int32_t *ids, size_t n,
                              bool skip_special, sy_text *out);

/* Streaming decode: never splits a character over two outputs; bytes that can no longer become
 * a character come out as U+FFFD. Zero-initialise; no resources. */
typedef struct sy_decoder {
    unsigned char pending[4];
    int n_pending;
} sy_decoder;
sy_status sy_decoder_put(sy_decoder *decoder, const sy_tokenizer *tokenizer, int32_t id,
                         bool skip_special, sy_text *out);
sy_status sy_decoder_finish(sy_decoder *decoder, sy_text *out);

#endif
