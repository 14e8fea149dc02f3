/* The parts that a tokenizer is made of; for the tokenizer's own source files and its tests.
 *
 *   vocabulary   token <-> id                                 tokenizer_vocabulary.c
 *   added        tokens found in the text as a whole          added_tokens.c
 *   normal       the text rewritten before it is split        tokenizer_normalize.c, _nfc.c
 *   stages       text -> pre-tokens                           split_pattern.c, tokenizer_split.c
 *   symbols      pre-token -> the ids that merging starts from  tokenizer_symbols.c
 *   bpe          ids -> fewer ids                             tokenizer_bpe.c
 *   decoding     id -> bytes of text                          tokenizer_decode.c
 *   scratch      everything that one call writes to           tokenizer.c
 *
 * What builds one from a file is in tokenizer_read.h. */
#ifndef SY_RUNTIME_TOKENIZER_PARTS_H
#define SY_RUNTIME_TOKENIZER_PARTS_H

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/status.h"
#include "runtime/tokenizer.h"

/* Bounds on what a file may ask for. */
enum {
    SY_MAX_STAGES = 16,            /* pre-tokenizer components                      */
    SY_MAX_NORMAL_STEPS = 16,      /* normalizer components                         */
    SY_MAX_PATTERN = 64 * 1024,    /* bytes of a regular expression                 */
    SY_MAX_REPLACEMENT = 64,       /* bytes that a normalizer puts in               */
    SY_MAX_ADDED_LENGTH = 1024,    /* bytes of an added token                       */
    SY_MAX_ADDED_BYTES = 4 << 20,  /* bytes of all added tokens: nodes of the tries */
    SY_MAX_RANKED_LENGTH = 512,    /* bytes of a token that has a rank, no merges   */
    SY_MAX_RANKED_MERGES = 1 << 22 /* splits of such tokens into two; 2^19 are usual */
};
#define SY_MAX_TEXT ((size_t)64 << 20)               /* bytes of a text to encode     */
#define SY_MAX_NORMAL_TEXT ((size_t)4 * SY_MAX_TEXT) /* ... and of its normal form  */

/* ---- hashing: seeded per tokenizer, since tables are filled with names from the file ---- */

static inline uint64_t sy_load_tail(const char *p, size_t n) { /* n in 0..7 */
    uint32_t a, b;
    if (n >= 4) {
        memcpy(&a, p, 4);
        memcpy(&b, p + n - 4, 4);
        return a | (uint64_t)b << 32;
    }
    if (n == 0) return 0;
    return (unsigned char)p[0] | (uint64_t)(unsigned char)p[n / 2] << 8 |
           (uint64_t)(unsigned char)p[n - 1] << 16;
}

static inline uint64_t sy_hash_token(uint64_t seed, const char *p, size_t n) {
    uint64_t h = seed ^ n;
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        h = (h ^ word) * 0x9fb21c651e98df25u;
        h ^= h >> 29;
    }
    return sy_mix64(h ^ sy_load_tail(p, n));
}

/* The first place of what[0..n), n > 0, in text[0..size); NULL if there is none. */
static inline const char *
sy_find_text(const char *text, size_t size, const char *what, size_t n) {
    const char *end = text + size, *hit;
    while ((size_t)(end - text) >= n) {
        hit = memchr(text, what[0], (size_t)(end - text) - n + 1);
        if (hit == NULL || memcmp(hit, what, n) == 0) return hit;
        text = hit + 1;
    }
    return NULL;
}

/* ---- the vocabulary ---- */

/* How a file spells its tokens. They are kept as bytes; the alphabet of 256 printable characters,
 * one per byte, exists only while the file is read. */
typedef enum sy_spelling {
    SY_SPELT_IN_ALPHABET, /* tokenizer.json with ByteLevel                                   */
    SY_SPELT_AS_TEXT, /* tokenizer.json without: text, which merging starts from by character */
    SY_SPELT_AS_BYTES /* tekken.json, tiktoken.model: bytes, added tokens apart from them */
} sy_spelling;

enum {
    SY_TOKEN_PRESENT = 1, /* some token has this id                                         */
    SY_TOKEN_LITERAL = 2, /* in the alphabet: has characters outside it and stands for its
                             UTF-8; as bytes: an added token, other bytes may be the same   */
    SY_TOKEN_WHOLE = 4,   /* a pre-token of exactly these bytes encodes to this id alone    */
    SY_TOKEN_SPECIAL = 8,
    SY_TOKEN_ADDED = 16 /* not in the model's own vocabulary: never part of a merge       */
};
typedef struct sy_token {
    uint32_t offset, length;           /* what it is looked up by, in sy_vocabulary.bytes */
    uint32_t text_offset, text_length; /* what it decodes to                              */
    uint32_t flags;
} sy_token;

typedef struct sy_vocabulary {
    sy_spelling spelling;
    sy_token *token; /* [n_ids]; flags 0 where no token has the id                */
    int64_t n_ids;   /* one more than the largest id in use                       */
    int64_t id_room; /* allocated length of token[]                               */
    int64_t n_tokens;
    sy_text bytes;
    uint32_t *slot; /* open addressing by bytes and literal flag: id + 1, 0 empty */
    uint64_t mask;  /* slots - 1; at most half are used                           */
    uint64_t seed;
} sy_vocabulary;

/* Room for ids 0..id_room-1 and n_tokens tokens. */
sy_status sy_vocabulary_init(sy_vocabulary *v,
                             sy_spelling spelling,
                             int64_t id_room,
                             int64_t n_tokens,
                             uint64_t seed);
void sy_vocabulary_free(sy_vocabulary *v);

/* Adds a token by its published spelling, or by its bytes. Its id must be free and below
 * id_room. The content must be new; _add_bytes checks that. */
sy_status sy_vocabulary_add(sy_vocabulary *v, const char *content, size_t size, int64_t id);
sy_status sy_vocabulary_add_bytes(sy_vocabulary *v,
                                  const char *bytes,
                                  size_t size,
                                  bool literal,
                                  int64_t id);

/* -1 if absent: by published spelling (scratch is a buffer to work in), and by bytes. */
sy_status sy_vocabulary_find(const sy_vocabulary *v,
                             const char *content,
                             size_t size,
                             sy_text *scratch,
                             int32_t *id);
int32_t
sy_vocabulary_find_bytes(const sy_vocabulary *v, const char *bytes, size_t size, bool literal);

static inline const sy_token *sy_vocabulary_token(const sy_vocabulary *v, int64_t id) {
    if (id < 0 || id >= v->n_ids || !(v->token[id].flags & SY_TOKEN_PRESENT)) return NULL;
    return &v->token[id];
}

/* ---- added tokens ---- */

typedef struct sy_added_token {
    int32_t id;
    bool special, single_word, lstrip, rstrip;
} sy_added_token;

typedef struct sy_added_set { /* a byte trie whose edges are one hash table */
    sy_added_token *token;    /* [n]                                        */
    uint32_t n, room;
    int32_t *end_of; /* [n_nodes]: the token that ends at this node, or -1 */
    uint32_t n_nodes, node_room;
    uint64_t *edge; /* (parent << 8 | byte) << 32 | child; 0 empty; child is never 0 */
    uint64_t edge_mask;
    uint64_t seed;
    bool starts[256]; /* bytes that some token starts with */
} sy_added_set;

/* Room for n tokens of n_bytes bytes in all. */
sy_status sy_added_init(sy_added_set *set, size_t n, size_t n_bytes, uint64_t seed);
void sy_added_free(sy_added_set *set);
void sy_added_insert(sy_added_set *set, const char *content, size_t size, sy_added_token token);

/* Walks over the text as a sequence of gaps and tokens. */
typedef struct sy_added_scan {
    const sy_added_set *set;
    const pcre2_code *word; /* matches one \w character; NULL if no token needs it */
    pcre2_match_data *word_match;
    const char *text; /* valid UTF-8 */
    size_t size;
    bool no_specials;
    size_t at;        /* next byte to look for a token from                        */
    size_t start;     /* end of what has been given out                            */
    size_t white_end; /* end of the white space run that was last looked through   */
} sy_added_scan;
typedef struct sy_added_hit {
    size_t gap_start, gap_end; /* ordinary text before the token; may be empty */
    int32_t id;                /* -1: there is no further token                */
} sy_added_hit;
void sy_added_next(sy_added_scan *scan, sy_added_hit *hit);

/* ---- NFC ---- */

typedef struct sy_nfc { /* which code points start a piece that NFC leaves alone so far */
    uint8_t *inert;     /* bitmap [SY_NFC_TABLE / 8] */
} sy_nfc;
enum { SY_NFC_TABLE = 0x30000 };
typedef struct sy_nfc_scratch {
    int32_t *code;
    size_t room;
} sy_nfc_scratch;
sy_status sy_nfc_init(sy_nfc *nfc);
void sy_nfc_free(sy_nfc *nfc);
/* *out_text, *out_size = NFC of valid UTF-8: the text itself where it is normal already, else
 * `buffer`, which is overwritten. */
sy_status sy_nfc_normalize(const sy_nfc *nfc,
                           sy_nfc_scratch *scratch,
                           const char *text,
                           size_t size,
                           sy_text *buffer,
                           const char **out_text,
                           size_t *out_size);

/* ---- patterns ---- */

typedef struct sy_pattern {
    pcre2_code *code;
    bool jit;
} sy_pattern;

/* Compiles a pattern written for Oniguruma so that PCRE2 finds the same matches; what may mean
 * something else there is refused by name. literal: the pattern is plain text. */
sy_status sy_pattern_compile(const char *pattern, size_t size, bool literal, sy_pattern *out);
void sy_pattern_free(sy_pattern *pattern);
/* The translation alone, for tests. */
sy_status sy_pattern_translate(const char *pattern, size_t size, sy_text *out);

/* ---- what is done to the text before it is split ---- */

typedef enum sy_normal_kind {
    SY_NORMAL_NFC,
    SY_NORMAL_PREPEND, /* text in front of each piece that is not empty */
    SY_NORMAL_REPLACE  /* text in place of each match                   */
} sy_normal_kind;
typedef struct sy_normal_step {
    sy_normal_kind kind;
    sy_text text;
    sy_pattern pattern;
    bool moves; /* may put in or take away characters, rather than exchange one for one */
} sy_normal_step;

/* ---- splitting ---- */

typedef enum sy_split_behavior {
    SY_SPLIT_REMOVED,
    SY_SPLIT_ISOLATED,
    SY_SPLIT_MERGED_WITH_PREVIOUS,
    SY_SPLIT_MERGED_WITH_NEXT,
    SY_SPLIT_CONTIGUOUS
} sy_split_behavior;

typedef enum sy_stage_kind {
    SY_STAGE_SPLIT,  /* cuts the piece            */
    SY_STAGE_REWRITE /* cuts nothing: rewrites it */
} sy_stage_kind;
typedef enum sy_prefix_when {
    SY_PREFIX_NEVER,
    SY_PREFIX_FIRST,
    SY_PREFIX_ALWAYS
} sy_prefix_when;

typedef struct sy_stage {
    sy_stage_kind kind;
    /* Split: */
    sy_pattern pattern;
    bool invert;
    sy_split_behavior behavior;
    /* Rewrite: every space becomes `space`, which is also put in front of pieces that do not
     * start with it: of all, or of one that starts the text. */
    char space[5];
    sy_prefix_when prefix;
} sy_stage;

/* ---- symbols and BPE ---- */

typedef struct sy_symbols {
    bool by_character;     /* else by byte                                          */
    int32_t id[256];       /* of a byte; by character: of those below 128. -1: none */
    bool byte_fallback;    /* a character without an id becomes the ids of its bytes */
    int32_t fallback[256]; /* -1: none, then the whole character is unknown         */
    int32_t unknown;       /* id of what is unknown; -1: it is dropped              */
    bool fuse_unknown;     /* one id for a run of it                                */
} sy_symbols;

/* The ids of a pre-token before merging, into id[0..size). Returns how many. */
size_t sy_first_ids(const sy_symbols *symbols,
                    const sy_vocabulary *v,
                    const char *bytes,
                    size_t size,
                    int32_t *id);

/* Where no token has two characters side by side, no merge can join them, and a pre-token may be
 * cut between them without a change of ids. So a text that is one pre-token falls into words. */
typedef struct sy_seams {
    uint64_t *joined; /* a set bit: a token may have this pair of characters; NULL: unknown */
} sy_seams;
sy_status sy_seams_init(sy_seams *seams, const sy_vocabulary *v);
void sy_seams_free(sy_seams *seams);
/* Bytes up to the first seam, or to the end. text is valid UTF-8 and not empty. */
size_t sy_seams_next(const sy_seams *seams, const char *text, size_t size);

typedef struct sy_pair {
    uint32_t left, right; /* ids; left UINT32_MAX: empty */
    uint32_t rank;        /* the lowest is merged first  */
    uint32_t result;
} sy_pair;

typedef struct sy_bpe {
    sy_pair *pair; /* open addressing */
    uint64_t mask;
    uint64_t seed;
} sy_bpe;

typedef struct sy_bpe_scratch {
    int32_t *first; /* [first_room]: what sy_first_ids writes */
    struct sy_symbol *symbol;
    struct sy_candidate *heap;
    size_t first_room, symbol_room, heap_room;
} sy_bpe_scratch;

sy_status sy_bpe_init(sy_bpe *bpe, size_t n_pairs, uint64_t seed);
void sy_bpe_free(sy_bpe *bpe);
sy_status sy_bpe_reserve(sy_bpe_scratch *scratch, size_t n_first);
void sy_bpe_scratch_free(sy_bpe_scratch *scratch);
void sy_bpe_add(sy_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t result);
/* Merges scratch->first[0..n) and appends what comes of it. */
sy_status sy_bpe_encode(const sy_bpe *bpe, sy_bpe_scratch *scratch, size_t n, sy_ids *out);

/* ---- decoding ---- */

/* Beside what each token stands for (sy_token.text_*): */
typedef struct sy_decoding {
    int strip;             /* at most so many spaces at the start of a sequence are left out  */
    char first_without[5]; /* the first token loses each such character; "": nothing */
} sy_decoding;

/* ---- the whole ---- */

/* A pre-token seen before, with its ids. Direct-mapped: a newcomer takes the place. */
enum { SY_CACHE_SLOTS = 1 << 14, SY_CACHE_KEY = 30, SY_CACHE_IDS = 8 };
typedef struct sy_cache_entry {
    uint8_t size; /* bytes of the key; 0 = empty */
    uint8_t n;
    char key[SY_CACHE_KEY];
    int32_t id[SY_CACHE_IDS];
} sy_cache_entry;

typedef struct sy_scratch {
    struct sy_scratch *next; /* in the pool of idle ones */
    pcre2_match_data *match;
    pcre2_match_context *limits;
    pcre2_jit_stack *jit_stack;
    sy_cache_entry *cache;
    sy_bpe_scratch bpe;
    sy_nfc_scratch nfc;
    sy_text valid, normalized[2], rewritten[SY_MAX_STAGES];
} sy_scratch;

typedef struct sy_scratch_pool {
    pthread_mutex_t lock;
    sy_scratch *idle;
    int n_idle;
} sy_scratch_pool;

struct sy_tokenizer {
    uint64_t seed;
    sy_vocabulary vocabulary;
    sy_added_set added_raw, added_normalized;
    bool added_on_request; /* found under SY_ENCODE_TEMPLATE only */
    pcre2_code *word; /* one \w character, as Rust's regex crate defines it; NULL: not needed */
    sy_nfc nfc;       /* if a step uses it */
    sy_normal_step normal[SY_MAX_NORMAL_STEPS];
    int n_normal;
    sy_stage stage[SY_MAX_STAGES];
    int n_stages;
    sy_symbols symbols;
    sy_seams seams;
    sy_bpe bpe;
    sy_decoding decoding;
    sy_ids before, after; /* what the post-processor puts around a text */
    int32_t bos, eos;     /* -1: none, or not told by the tokenizer's file */
    /* Bytes at the front of a text that are encoded on their own, at least one; the state is 0 at
     * the start of the text. NULL: all of it is one. */
    size_t (*chunk)(const char *text, size_t size, size_t *state);
    sy_scratch_pool *pool;
};

/* An empty tokenizer; what it lacks may be left out. */
sy_status sy_tokenizer_new(sy_tokenizer **out);

/* One call of encode. */
typedef struct sy_encoding {
    const sy_tokenizer *tokenizer;
    sy_scratch *scratch;
    sy_ids *out;
    unsigned flags;
    size_t normal_limit; /* bytes that a piece may grow to by normalising */
    unsigned n_matches;  /* since the start; the clock is read every few of them */
    int64_t cpu_limit_ns;
} sy_encoding;
/* size: bytes of text that are going to be worked on. */
sy_status sy_encoding_open(sy_encoding *e, const sy_tokenizer *t, size_t size);
void sy_encoding_close(sy_encoding *e);

/* Matches of a pattern from left to right, an empty one right behind the last left out, as
 * Oniguruma's scan finds them. Zero-initialise. A limit that is reached is an error ("input
 * refused: ..."), never "no match". */
typedef struct sy_match_walk {
    size_t start, end; /* the match found last */
    size_t from;
    bool any;
} sy_match_walk;
sy_status sy_next_match(sy_encoding *e,
                        const sy_pattern *pattern,
                        const char *text,
                        size_t size,
                        sy_match_walk *walk,
                        bool *found);

/* *out, *out_size = the text after all normalizer steps, in e's scratch or the text itself. */
sy_status
sy_normalize(sy_encoding *e, const char *text, size_t size, const char **out, size_t *out_size);
/* Splits text by stages k.. and encodes the pre-tokens. first: it starts the whole text. */
sy_status sy_split_encode(sy_encoding *e, int k, const char *text, size_t size, bool first);
/* Encodes one pre-token (seams, cache, whole-token look-up, BPE). */
sy_status sy_encode_pretoken(sy_encoding *e, const char *bytes, size_t size);

#endif
