/* Arbitrary bytes as text for tokenizers that have every component. The first byte chooses the
 * tokenizer and the flags. Checked: decoding gives the text back (its U+FFFD form) where nothing
 * normalises it, ids put out one by one decode as they do at once, and a text that falls into
 * words at its seams has the ids that it has as one word. */
#include <stdint.h>
#include <stdlib.h>

#include "runtime/tokenizer_read.h"
#include "runtime/utf8.h"

/* The first three are byte-level, two start from characters, the last has ranks. */
enum { N_KINDS = 6, FIRST_OF_TEXT = 3, RANKS = 5, LOSSLESS = 1 };

#define SPLIT_WORDS                                                                            \
    "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":"                    \
    "\"(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}"     \
    "\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}}"
#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"

static const char *const pre_tokenizers[FIRST_OF_TEXT] = {
    "{\"type\":\"Sequence\",\"pretokenizers\":[" SPLIT_WORDS "," BYTES "]}",
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true}",
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true}"
    ","
    "{\"type\":\"Split\",\"behavior\":\"MergedWithNext\",\"pattern\":{\"Regex\":"
    "\"(?:(?!x)\\\\p{Ll})*\"}},{\"type\":\"Split\",\"behavior\":\"Contiguous\",\"invert\":true,"
    "\"pattern\":{\"String\":\"-\"}},{\"type\":\"ByteLevel\"}]}"};

static const char added[] =
    "[{\"id\":259,\"content\":\"<s>\",\"special\":true,\"normalized\":false},"
    "{\"id\":260,\"content\":\"<sx\",\"normalized\":false,\"single_word\":true},"
    "{\"id\":261,\"content\":\"q\xcc\x81\",\"normalized\":true},"
    "{\"id\":262,\"content\":\"  \",\"normalized\":true}]";
static const char stripping[] =
    ",{\"id\":263,\"content\":\"<l>\",\"lstrip\":true,\"normalized\":false},"
    "{\"id\":264,\"content\":\"<r>\",\"rstrip\":true,\"normalized\":true}]";

static json_t *parse(const char *text) {
    json_t *value = json_loads(text, 0, NULL);
    if (value == NULL) abort();
    return value;
}

/* 256 bytes, "ab", "abab" and the two bytes that U+00E0..U+00FF start with. */
static json_t *make_model(void) {
    json_t *vocab = json_object();
    int32_t stand_in = 0x100;
    for (int b = 0; b < 256; b++) {
        char name[5] = {0};
        bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad);
        sy_utf8_encode(printable ? b : stand_in++, name);
        json_object_set_new(vocab, name, json_integer(b));
    }
    json_object_set_new(vocab, "ab", json_integer(256));
    json_object_set_new(vocab, "abab", json_integer(257));
    json_object_set_new(vocab, "aa", json_integer(258));
    json_t *model = json_object();
    json_object_set_new(model, "type", json_string("BPE"));
    json_object_set_new(model, "vocab", vocab);
    json_object_set_new(model, "merges", parse("[\"a b\",\"ab ab\",\"a a\"]"));
    return model;
}

static const char prepend[] =
    "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"_\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"_\"}]}";
static const char metaspace[] = "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_"
                                "scheme\":\"first\",\"split\":false}";
static const char fallback_decoder[] =
    "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"_\"},"
    "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
    "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}";

/* A few characters with merges, some of them across spaces; the 256 bytes. */
static json_t *make_text_model(void) {
    json_t *model =
        parse("{\"vocab\":{\"<unk>\":256,\"a\":257,\"b\":258,\"_\":259,\"\xc3\xa9\":260,"
              "\"ab\":261,\"_a\":262,\"b_\":263,\"_ab_\":264,\"aa\":265,\"__\":266},"
              "\"merges\":[\"a b\",\"_ a\",\"b _\",\"_a b_\",\"a a\",\"_ _\"],"
              "\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true}");
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        json_object_set_new(json_object_get(model, "vocab"), name, json_integer(b));
    }
    return model;
}

static sy_tokenizer *make_of_text(int kind) {
    sy_tokenizer *t = NULL;
    json_t *root = json_object();
    bool prepends = kind == FIRST_OF_TEXT;
    json_object_set_new(root, "model", make_text_model());
    json_object_set_new(root, prepends ? "normalizer" : "pre_tokenizer",
                        parse(prepends ? prepend : metaspace));
    json_object_set_new(root, "decoder", parse(prepends ? fallback_decoder : metaspace));
    json_object_set_new(root, "added_tokens",
                        parse("[{\"id\":267,\"content\":\"<s>\",\"special\":true}]"));
    if (sy_tokenizer_from_json(root, NULL, 0, &t) != SY_OK || t->seams.joined == NULL) abort();
    json_decref(root);
    return t;
}

/* The bytes alone, and the tokens "ab" and "abab". */
static sy_tokenizer *make_of_ranks(void) {
    static const char digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[4096];
    size_t n = 0;
    sy_tokenizer *t = NULL;
    for (int b = 0; b < 256; b++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%c%c== %d\n", digits[b >> 2],
                              digits[b << 4 & 63], b);
    n += (size_t)snprintf(text + n, sizeof text - n, "YWI= 256\nYWJhYg== 257\n");
    if (sy_tokenizer_from_tiktoken(text, n, NULL, 0, &t) != SY_OK) abort();
    return t;
}

static sy_tokenizer *make_tokenizer(int kind) {
    if (kind == RANKS) return make_of_ranks();
    if (kind >= FIRST_OF_TEXT) return make_of_text(kind);
    sy_tokenizer *t = NULL;
    char list[1024];
    json_t *root = json_object();
    json_object_set_new(root, "model", make_model());
    json_object_set_new(root, "pre_tokenizer", parse(pre_tokenizers[kind]));
    json_object_set_new(root, "decoder", parse("{\"type\":\"ByteLevel\"}"));
    snprintf(list, sizeof list, "%.*s%s", (int)sizeof added - 2, added,
             kind == 2 ? stripping : "]");
    json_object_set_new(root, "added_tokens", parse(list));
    if (kind == 0) json_object_set_new(root, "normalizer", parse("{\"type\":\"NFC\"}"));
    if (sy_tokenizer_from_json(root, NULL, 0, &t) != SY_OK) abort();
    json_decref(root);
    return t;
}

static bool same(const sy_text *a, const sy_text *b) {
    return a->n == b->n && (a->n == 0 || memcmp(a->data, b->data, a->n) == 0);
}

/* The ids without the help of seams. */
static void check_seams(sy_tokenizer *t, const char *text, size_t size, unsigned flags) {
    sy_ids with = {0}, without = {0};
    sy_seams seams = t->seams;
    if (sy_tokenizer_encode(t, text, size, flags, &with) != SY_OK) goto done; /* refused */
    t->seams.joined = NULL;
    if (sy_tokenizer_encode(t, text, size, flags, &without) != SY_OK) abort();
    if (with.n != without.n || (with.n > 0 && memcmp(with.id, without.id, with.n * 4) != 0))
        abort();
done:
    t->seams = seams;
    sy_ids_free(&with);
    sy_ids_free(&without);
}

static void
check(const sy_tokenizer *t, bool lossless, const char *text, size_t size, unsigned flags) {
    sy_ids ids = {0};
    sy_text whole = {0}, streamed = {0}, lossy = {0};
    sy_decoder decoder = {0};
    if (sy_tokenizer_encode(t, text, size, flags, &ids) != SY_OK) goto done; /* refused */
    if (sy_tokenizer_decode(t, ids.id, ids.n, false, &whole) != SY_OK) abort();
    for (size_t i = 0; i < ids.n; i++)
        if (sy_decoder_put(&decoder, t, ids.id[i], false, &streamed) != SY_OK) abort();
    if (sy_decoder_finish(&decoder, &streamed) != SY_OK) abort();
    if (sy_utf8_append_lossy(&lossy, text, size) != SY_OK) abort();
    if (!same(&whole, &streamed) || (lossless && !same(&whole, &lossy))) abort();
done:
    sy_ids_free(&ids);
    sy_text_free(&whole);
    sy_text_free(&streamed);
    sy_text_free(&lossy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static sy_tokenizer *tokenizers[N_KINDS];
    if (tokenizers[0] == NULL)
        for (int k = 0; k < N_KINDS; k++)
            tokenizers[k] = make_tokenizer(k);
    if (size == 0) return 0;
    int kind = data[0] % N_KINDS;
    unsigned flags = data[0] / N_KINDS % 8;
    const char *text = (const char *)data + 1;
    bool lossless = kind == LOSSLESS || kind == RANKS;
    check(tokenizers[kind], lossless, text, size - 1, flags);
    if (tokenizers[kind]->seams.joined != NULL)
        check_seams(tokenizers[kind], text, size - 1, flags);
    return 0;
}
