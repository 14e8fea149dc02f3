/* A tokenizer whose tokens are known: id b is the byte b, and a few ids above 255 are words. */
#ifndef SY_TESTS_TOKENIZER_FIXTURE_H
#define SY_TESTS_TOKENIZER_FIXTURE_H

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime/tokenizer.h"

enum { FIRST_WORD = 256 };

/* The character that stands for a byte in a byte-level vocabulary: printable bytes for
 * themselves, the others counted up from U+0100. */
static inline int byte_character(int byte) {
    int n = 0;
    for (int b = 0; b < 256; b++) {
        bool printable = (b > 32 && b < 127) || (b > 160 && b != 173);
        if (b == byte) return printable ? b : 256 + n;
        n += !printable;
    }
    return 0;
}

static inline void append_character(char *text, int code) {
    size_t n = strlen(text);
    if (code < 0x80) {
        text[n++] = (char)code;
    } else {
        text[n++] = (char)(0xc0 | code >> 6);
        text[n++] = (char)(0x80 | (code & 0x3f));
    }
    text[n] = '\0';
}

/* words: raw bytes of the ids from FIRST_WORD on, NULL-terminated; end: the content of one more
 * token, marked special, with the next id. NULL on failure. */
static inline sy_tokenizer *make_tokenizer(const char *const *words, const char *end) {
    char directory[] = "/tmp/sy_tokenizer_XXXXXX", path[64];
    json_t *vocab = json_object();
    int n = FIRST_WORD;
    for (int b = 0; b < 256; b++) {
        char text[8] = "";
        append_character(text, byte_character(b));
        json_object_set_new(vocab, text, json_integer(b));
    }
    for (; *words != NULL; words++) {
        char text[256] = "";
        for (const char *p = *words; *p != '\0'; p++)
            append_character(text, byte_character((unsigned char)*p));
        json_object_set_new(vocab, text, json_integer(n++));
    }
    json_t *root = json_pack(
        "{s:s, s:[{s:i, s:s, s:b, s:b, s:b, s:b, s:b}], s:n, s:{s:s, s:b, s:b}, s:n, s:{s:s}, "
        "s:{s:s, s:o, s:[]}}",
        "version", "1.0", "added_tokens", "id", n, "content", end, "single_word", 0, "lstrip",
        0, "rstrip", 0, "normalized", 0, "special", 1, "normalizer", "pre_tokenizer", "type",
        "ByteLevel", "add_prefix_space", 0, "use_regex", 0, "post_processor", "decoder", "type",
        "ByteLevel", "model", "type", "BPE", "vocab", vocab, "merges");
    sy_tokenizer *t = NULL;
    if (root == NULL || mkdtemp(directory) == NULL) return NULL;
    snprintf(path, sizeof path, "%s/tokenizer.json", directory);
    if (json_dump_file(root, path, 0) != 0 || sy_tokenizer_load(directory, 0, &t) != SY_OK)
        fprintf(stderr, "make_tokenizer: %s\n", sy_last_error());
    unlink(path);
    rmdir(directory);
    json_decref(root);
    return t;
}

#endif
