/* Text to token ids and back, from a Hugging Face tokenizer.json: byte-level BPE.
 *
 * The object is immutable after load and may be used by several threads, each with its own
 * encoder scratch. Text is bytes with a length (NUL is an ordinary character); invalid UTF-8
 * counts as its U+FFFD-replaced form. A component that is not implemented is refused by name.
 *
 * Ids equal those of the Hugging Face library (tokenizers 0.23) on characters of Unicode 9.
 * Newer ones may differ, since three sets of tables meet (docs/tokenizer_differences.md lists
 * every such character):
 *   NFC             the library has Unicode 9, we have utf8proc's (2.8: Unicode 15). 108 marks
 *                   that came with Unicode 10 to 15 have combining class 0 there, so U+08CA
 *                   among other marks keeps its place; later compositions are absent, so
 *                   U+11935 U+11930 stays two characters.
 *   \p{L} and kin   the library has Unicode 16, PCRE2 10.42 has 14: 9272 code points differ in
 *                   L (CJK extensions are most), 120 in N, 773 in S, 36 in P, 93 in M.
 *                   Pre-token borders move beside such characters.
 *   (?i:'ff)        the library folds one character to several, as U+FB00 to ff; PCRE2 does
 *                   not. No published pattern is affected.
 * An added token with "normalized" decodes to its content here, there to the normal form. */
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
 * text that says so if there is no tokenizer.json. Every id in the file must be below max_id
 * (the size of the model's vocabulary, plus slack); 0 = 16 million. */
sy_status sy_tokenizer_load(const char *directory, int64_t max_id, sy_tokenizer **out);
void sy_tokenizer_destroy(sy_tokenizer *tokenizer); /* NULL is fine */

enum {
    SY_ENCODE_PLAIN = 0,
    /* What the post-processor puts around a text (BOS, ...); where it puts nothing in front,
     * BOS if tokenizer_config.json has add_bos_token and bos_token. */
    SY_ENCODE_ADD_SPECIAL = 1,
    /* Tokens marked special are ordinary text where they occur in it (user messages). Added
     * tokens that are not marked so, such as Qwen3's <think>, are still found. */
    SY_ENCODE_NO_SPECIALS = 2
};
/* Appends the ids of text[0..size) to *out; on failure *out is as before. Time grows with
 * n log n at most. SY_ERR_UNSUPPORTED if the text is longer than 64 MiB, or if the file's
 * regular expression exceeds its limits on it ("input refused: ..."). */
sy_status sy_tokenizer_encode(const sy_tokenizer *tokenizer,
                              const char *text,
                              size_t size,
                              unsigned flags,
                              sy_ids *out);

/* BOS that raw-text prompts get (the post-processor's, or tokenizer_config's add_bos_token);
 * -1 = none. */
int32_t sy_tokenizer_bos(const sy_tokenizer *tokenizer);
/* The id of an added or ordinary token by its exact content; -1 if there is none. */
int32_t sy_tokenizer_token_id(const sy_tokenizer *tokenizer, const char *content, size_t size);
/* Largest id that a token has, plus one. Ids in between may be without a token: they decode to
 * nothing. */
int32_t sy_tokenizer_n_ids(const sy_tokenizer *tokenizer);
bool sy_tokenizer_is_special(const sy_tokenizer *tokenizer, int32_t id);

typedef struct sy_text { /* growable bytes, no NUL behind; zero-initialise, sy_text_free */
    char *data;
    size_t n, capacity;
} sy_text;
void sy_text_free(sy_text *text);
sy_status sy_text_append(sy_text *text, const char *data, size_t n);
/* Appends the text of ids, always valid UTF-8; on failure *out is as before. skip_special leaves
 * out tokens marked special; ids without a token vanish. */
sy_status sy_tokenizer_decode(const sy_tokenizer *tokenizer,
                              const int32_t *ids,
                              size_t n,
                              bool skip_special,
                              sy_text *out);

/* Streaming decode: never splits a character over two outputs; bytes that can no longer become
 * a character come out as U+FFFD. All outputs in a row are what sy_tokenizer_decode gives.
 * Zero-initialise; no resources. */
typedef struct sy_decoder {
    unsigned char pending[4];
    int n_pending;
} sy_decoder;
sy_status sy_decoder_put(sy_decoder *decoder,
                         const sy_tokenizer *tokenizer,
                         int32_t id,
                         bool skip_special,
                         sy_text *out);
sy_status sy_decoder_finish(sy_decoder *decoder, sy_text *out);

#endif
