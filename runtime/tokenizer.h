/* Text to token ids and back: byte-pair encoding from a Hugging Face tokenizer.json, Mistral's
 * tekken.json or a tiktoken.model (the Kimi models').
 *
 * The object is immutable after load and may be used by several threads, each with its own
 * encoder scratch. Text is bytes with a length (NUL is an ordinary character); invalid UTF-8
 * counts as its U+FFFD-replaced form. A component that is not implemented is refused by name.
 *
 * Ids equal those of the library that each format comes from: tokenizers 0.23 (tokenizer.json),
 * mistral-common (tekken.json), tiktoken as Kimi's own code calls it, with its cuts in long texts
 * (tiktoken.model). That holds for characters of Unicode 9. Newer ones may differ, since the
 * tables of several versions meet (docs/tokenizer_differences.md lists every such character for
 * the first):
 *   NFC             tokenizers has Unicode 9, we have utf8proc's (2.8: Unicode 15). 108 marks
 *                   that came with Unicode 10 to 15 have combining class 0 there, so U+08CA
 *                   among other marks keeps its place; later compositions are absent, so
 *                   U+11935 U+11930 stays two characters.
 *   \p{L} and kin   tokenizers has Unicode 16, PCRE2 10.42 has 14: 9272 code points differ in
 *                   L (CJK extensions are most), 120 in N, 773 in S, 36 in P, 93 in M.
 *                   Pre-token borders move beside such characters.
 *   (?i:'ff)        tokenizers folds one character to several, as U+FB00 to ff; PCRE2 does
 *                   not. No published pattern is affected.
 * Decoded text differs from that of tokenizers in two cases: an added token with "normalized"
 * decodes to its content here, there to the normal form; and <0xHH> tokens that make no
 * characters give one U+FFFD per broken sequence here, there one per byte of the whole run. */
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

/* The file of a directory that sy_tokenizer_load reads: the first that is there of
 * tokenizer.json, tekken.json and tiktoken.model; NULL if there is none. */
const char *sy_tokenizer_file(const char *directory);
/* directory: holds one of these and, optionally, tokenizer_config.json. SY_ERR_IO with a text
 * that says so if there is none. Every id in the file must be below max_id (the size of the
 * model's vocabulary, plus slack); 0 = 16 million. */
sy_status sy_tokenizer_load(const char *directory, int64_t max_id, sy_tokenizer **out);
void sy_tokenizer_destroy(sy_tokenizer *tokenizer); /* NULL is fine */

enum {
    /* As the library of the format encodes text by itself: tokenizers and Kimi's code look for
     * added tokens in it, mistral-common does not. */
    SY_ENCODE_PLAIN = 0,
    /* What the post-processor puts around a text (BOS, ...); where it puts nothing in front,
     * BOS if tokenizer_config.json has add_bos_token and bos_token. */
    SY_ENCODE_ADD_SPECIAL = 1,
    /* Tokens marked special are ordinary text where they occur in it (user messages). Added
     * tokens that tokenizer.json does not mark so, such as Qwen3's <think>, are still found; in
     * the other formats none is. */
    SY_ENCODE_NO_SPECIALS = 2,
    /* For the text of a chat template: special tokens are found in every format. */
    SY_ENCODE_TEMPLATE = 4
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
/* What ends a text, where the tokenizer's own file tells it: "</s>" of tekken.json, beside which
 * there is no configuration that would; -1 = it does not. */
int32_t sy_tokenizer_eos(const sy_tokenizer *tokenizer);
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
    unsigned char pending[4]; /* bytes of a character that is not complete */
    int n_pending;
    int n_stripped;           /* spaces left out at the front                    */
    bool started, past_front; /* a token has come; text that stays has been put out */
} sy_decoder;
sy_status sy_decoder_put(sy_decoder *decoder,
                         const sy_tokenizer *tokenizer,
                         int32_t id,
                         bool skip_special,
                         sy_text *out);
sy_status sy_decoder_finish(sy_decoder *decoder, sy_text *out);

#endif
