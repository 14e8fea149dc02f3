/* Encoding speed on one thread.
 *
 *     bench_tokenizer DIRECTORY TEXT-FILE [DOCUMENT-BYTES]
 *
 * DIRECTORY holds a tokenizer. The text is cut into documents of about DOCUMENT-BYTES (20000)
 * at line ends; each is one call. Prints the best of five passes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "runtime/tokenizer.h"

static sy_status
pass(const sy_tokenizer *t, const char *text, size_t size, size_t document, size_t *n_ids) {
    sy_status st = SY_OK;
    sy_ids ids = {0};
    *n_ids = 0;
    for (size_t start = 0, end; start < size; start = end) {
        end = size - start > document ? start + document : size;
        const char *newline = memchr(text + end, '\n', size - end);
        end = newline != NULL ? (size_t)(newline + 1 - text) : size;
        ids.n = 0;
        SY_TRY(sy_tokenizer_encode(t, text + start, end - start, 0, &ids));
        *n_ids += ids.n;
    }
done:
    sy_ids_free(&ids);
    return st;
}

static sy_status bench(const char *directory, const char *path, size_t document) {
    sy_status st = SY_OK;
    sy_tokenizer *t = NULL;
    char *text = NULL;
    size_t size = 0, n_ids = 0;
    double best = 1e30, start = sy_now();
    SY_TRY(sy_tokenizer_load(directory, 0, &t));
    printf("load    %8.3f s\n", sy_now() - start);
    SY_TRY(sy_read_file(path, (uint64_t)1 << 30, &text, &size));
    for (int i = 0; i < 5; i++) {
        start = sy_now();
        SY_TRY(pass(t, text, size, document, &n_ids));
        double seconds = sy_now() - start;
        if (i == 0) printf("first   %8.2f MB/s\n", (double)size / seconds * 1e-6);
        if (seconds < best) best = seconds;
    }
    printf("encode  %8.2f MB/s  %zu bytes, %zu ids, %.2f bytes per id\n",
           (double)size / best * 1e-6, size, n_ids, (double)size / (double)(n_ids ? n_ids : 1));
done:
    free(text);
    sy_tokenizer_destroy(t);
    return st;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s DIRECTORY TEXT-FILE [DOCUMENT-BYTES]\n", argv[0]);
        return 2;
    }
    long document = argc > 3 ? strtol(argv[3], NULL, 10) : 20000;
    sy_status st = bench(argv[1], argv[2], document > 0 ? (size_t)document : 1);
    if (st != SY_OK) fprintf(stderr, "%s\n", sy_last_error());
    return sy_status_exit_code(st);
}
