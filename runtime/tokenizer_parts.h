/* The parts that a tokenizer is made of; for the tokenizer's own source files and its tests.
 *
 *   vocabulary   token <-> id                            tokenizer_vocabulary.c
 *   added        tokens found in the text as a whole     added_tokens.c
 *   nfc          Unicode normal form C                   tokenizer_nfc.c
 *   stages       text -> pre-tokens                      split_pattern.c, tokenizer_split.c
 *   bpe          bytes of a pre-token -> ids             tokenizer_bpe.c
 *   scratch      everything that one call writes to      tokenizer.c
 *
 * Tokens are kept as bytes. A published byte-level vocabulary spells them in an alphabet of 256
 * printable characters, one per byte; that spelling exists only while the file is read. */
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
    SY_MAX_STAGES = 16,          /* pre-tokenizer components                      */
    SY_MAX_PATTERN = 64 * 1024,  /* bytes of a regular expression                 */
    SY_MAX_ADDED_LENGTH = 1024,  /* bytes of an added token                       */
    SY_MAX_ADDED_BYTES = 4 << 20 /* bytes of all added tokens: nodes of the tries */
};
#define SY_MAX_TEXT ((size_t)64 << 20) /* bytes of a text to encode */

/* ---- hashing: seeded per tokenizer, since tables are filled with names from the file ---- */

uint64_t sy_random_seed(void);

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

/* ---- the vocabulary ---- */

enum {
    SY_TOKEN_PRESENT = 1, /* some token has this id                                        */
    SY_TOKEN_LITERAL = 2, /* has characters outside the byte alphabet: stands for its UTF-8 */
    SY_TOKEN_WHOLE = 4,   /* a pre-token of exactly these bytes encodes to this id alone   */
    SY_TOKEN_SPECIAL = 8
};
typedef struct sy_token {
    uint32_t offset, length; /* into sy_vocabulary.bytes */
    uint32_t flags;
} sy_token;

typedef struct sy_vocabulary {
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
sy_status
sy_vocabulary_init(sy_vocabulary *v, int64_t id_room, int64_t n_tokens, uint64_t seed);
void sy_vocabulary_free(sy_vocabulary *v);

/* Adds a token by its published spelling. Its id must be free and below id_room, its content
 * new. */
sy_status sy_vocabulary_add(sy_vocabulary *v, const char *content, size_t size, int64_t id);

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

/* ---- splitting ---- */

typedef enum sy_split_behavior {
    SY_SPLIT_REMOVED,
    SY_SPLIT_ISOLATED,
    SY_SPLIT_MERGED_WITH_PREVIOUS,
    SY_SPLIT_MERGED_WITH_NEXT,
    SY_SPLIT_CONTIGUOUS
} sy_split_behavior;

typedef struct sy_stage {
    bool prefix_space; /* only puts a space in front; the other fields are unused */
    pcre2_code *code;
    bool jit;
    bool invert;
    sy_split_behavior behavior;
} sy_stage;

/* Compiles a pattern written for Oniguruma so that PCRE2 finds the same matches; what may mean
 * something else there is refused by name. literal: the pattern is plain text. */
sy_status sy_pattern_compile(const char *pattern,
                             size_t size,
                             bool literal,
                             pcre2_code **code,
                             bool *jit);
/* The translation alone, for tests. */
sy_status sy_pattern_translate(const char *pattern, size_t size, sy_text *out);

/* ---- BPE ---- */

typedef struct sy_pair {
    uint32_t left, right; /* ids; left UINT32_MAX: empty */
    uint32_t rank;        /* the lowest is merged first  */
    uint32_t result;
} sy_pair;

typedef struct sy_bpe {
    sy_pair *pair; /* open addressing */
    uint64_t mask;
    uint64_t seed;
    int32_t byte_id[256]; /* -1: the vocabulary lacks the byte */
    int32_t unknown;      /* id for such bytes; -1: they are dropped */
    bool fuse_unknown;    /* one id for a run of them */
} sy_bpe;

typedef struct sy_bpe_scratch {
    struct sy_symbol *symbol;
    struct sy_candidate *heap;
    size_t symbol_room, heap_room;
} sy_bpe_scratch;

sy_status sy_bpe_init(sy_bpe *bpe, size_t n_pairs, uint64_t seed);
void sy_bpe_free(sy_bpe *bpe);
void sy_bpe_scratch_free(sy_bpe_scratch *scratch);
void sy_bpe_add(sy_bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t result);
/* Appends the ids of one pre-token. */
sy_status sy_bpe_encode(const sy_bpe *bpe,
                        sy_bpe_scratch *scratch,
                        const char *bytes,
                        size_t size,
                        sy_ids *out);

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
    pcre2_match_data *match[SY_MAX_STAGES];
    pcre2_match_data *word_match;
    pcre2_match_context *limits;
    pcre2_jit_stack *jit_stack;
    sy_cache_entry *cache;
    sy_bpe_scratch bpe;
    sy_nfc_scratch nfc;
    sy_text valid, normalized, prefixed[SY_MAX_STAGES];
} sy_scratch;

typedef struct sy_scratch_pool {
    pthread_mutex_t lock;
    sy_scratch *idle;
    int n_idle;
} sy_scratch_pool;
sy_status sy_scratch_pool_create(sy_scratch_pool **out);

struct sy_tokenizer {
    uint64_t seed;
    sy_vocabulary vocabulary;
    sy_added_set added_raw, added_normalized;
    pcre2_code *word; /* one \w character, as Rust's regex crate defines it; NULL: not needed */
    bool use_nfc;
    sy_nfc nfc;
    sy_stage stage[SY_MAX_STAGES];
    int n_stages;
    sy_bpe bpe;
    sy_ids before, after; /* what the post-processor puts around a text */
    int32_t bos;
    sy_scratch_pool *pool;
};

/* One call of encode. */
typedef struct sy_encoding {
    const sy_tokenizer *tokenizer;
    sy_scratch *scratch;
    sy_ids *out;
    unsigned n_matches; /* since the start; the clock is read every few of them */
    int64_t cpu_limit_ns;
} sy_encoding;

/* Splits text by stages k.. and encodes the pre-tokens. */
sy_status sy_split_encode(sy_encoding *e, int k, const char *text, size_t size);
/* Encodes one pre-token (cache, whole-token look-up, BPE). */
sy_status sy_encode_pretoken(sy_encoding *e, const char *bytes, size_t size);

/* Builds a tokenizer from parsed files; config (tokenizer_config.json) may be NULL. */
sy_status sy_tokenizer_from_json(const json_t *root,
                                 const json_t *config,
                                 int64_t max_id,
                                 sy_tokenizer **out);
/* The parts of that which read normalizer, pre_tokenizer, post_processor and decoder. */
sy_status sy_read_components(const json_t *root, int64_t max_id, sy_tokenizer *t);
sy_status sy_unsupported_type(const char *where, const json_t *component);

#endif
