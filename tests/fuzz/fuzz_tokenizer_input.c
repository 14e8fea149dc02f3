/* Arbitrary bytes as text for tokenizers that have every component. The first byte chooses the
 * tokenizer and the flags. Checked: decoding gives the text back (its U+FFFD form) where nothing
 * normalises it, and ids put out one by one decode as they do at once. */
#include <stdint.h>
#include <stdlib.h>

#include "runtime/tokenizer_parts.h"
#include "runtime/utf8.h"

enum { N_KINDS = 3 };

#define SPLIT_WORDS                                                                            \
    "{\"type\":\"Split\",\"behavior\":\"Isolated\",\"pattern\":{\"Regex\":"                    \
    "\"(?i:'s|'t)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}"     \
    "\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"}}"
#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"

static const char *const pre_tokenizers[N_KINDS] = {
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

static sy_tokenizer *make_tokenizer(int kind) {
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
    unsigned flags = data[0] / N_KINDS % 4;
    check(tokenizers[kind], kind == 1, (const char *)data + 1, size - 1, flags);
    return 0;
}
