#include "runtime/file_print.h"

#include <inttypes.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"

void sy_npy_print_header(FILE *f, const char *descr, const int64_t *dims, int n) {
    char dict[256];
    size_t used = (size_t)snprintf(dict, sizeof dict,
                                   "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    for (int i = 0; i < n && used < sizeof dict - 32; i++)
        used += (size_t)snprintf(dict + used, sizeof dict - used, "%" PRId64 ", ", dims[i]);
    used += (size_t)snprintf(dict + used, sizeof dict - used, "), }");
    /* Ten bytes come before it; padded with spaces to a multiple of 64 that ends in a newline. */
    int length = (int)sy_round_up(10 + (int64_t)used + 1, 64) - 10;
    fwrite("\x93NUMPY\x01\x00", 1, 8, f);
    fputc(length & 0xff, f);
    fputc(length >> 8, f);
    fprintf(f, "%-*s\n", length - 1, dict);
}

void sy_json_print_text(FILE *f, const char *text) {
    bool valid = sy_utf8_valid(text, strlen(text));
    fputc('"', f);
    for (const char *p = text; *p != '\0'; p++) {
        unsigned char c = (unsigned char)*p;
        if (c == '"' || c == '\\')
            fprintf(f, "\\%c", c);
        else if (c < 0x20)
            fprintf(f, "\\u%04x", c);
        else
            fputc(c >= 0x80 && !valid ? '?' : c, f);
    }
    fputc('"', f);
}
