/* Unicode normal form C over utf8proc's tables.
 *
 * Nearly all text is normal already. A code point is *inert* here if its canonical combining
 * class is 0 and it neither changes under NFC nor composes with what stands before it: text may
 * be cut in front of it and the parts normalised on their own (UAX #15, section 9). Only runs
 * from the inert code point before a non-inert one up to the next inert one are rewritten.
 *
 * utf8proc_decompose sorts combining marks in quadratic time, which a text of marks alone would
 * turn into minutes; the sort here is linear.
 *
 * Known difference: the Hugging Face library has the tables of Unicode 9, utf8proc those of 14
 * or later. Characters that are newer than Unicode 9 may compose here and not there. */
#include "runtime/tokenizer_parts.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "runtime/utf8.h"

enum {
    FIRST_MARK = 0x300,     /* everything below is inert                                  */
    FIRST_MARK_LEAD = 0xcc, /* the lead byte of U+0300: no smaller byte starts anything else */
    MAX_DECOMPOSITION = 32  /* code points of one code point; 18 is the longest known     */
};

static bool is_inert(const sy_nfc *nfc, int32_t code) {
    return code < SY_NFC_TABLE && (nfc->inert[code >> 3] >> (code & 7) & 1);
}
static void clear_inert(sy_nfc *nfc, int32_t code) {
    if (code < SY_NFC_TABLE) nfc->inert[code >> 3] &= (uint8_t) ~(1u << (code & 7));
}

/* True if composing the full canonical decomposition gives the code point back. */
static bool survives(int32_t code, const int32_t *parts, int n) {
    int32_t work[MAX_DECOMPOSITION];
    memcpy(work, parts, (size_t)n * sizeof *work);
    return utf8proc_normalize_utf32(work, n, UTF8PROC_STABLE | UTF8PROC_COMPOSE) == 1 &&
           work[0] == code;
}

sy_status sy_nfc_init(sy_nfc *nfc) {
    nfc->inert = malloc(SY_NFC_TABLE / 8);
    if (nfc->inert == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the NFC table");
    memset(nfc->inert, 0xff, SY_NFC_TABLE / 8);
    for (int32_t code = FIRST_MARK; code < SY_NFC_TABLE; code++) {
        /* Hangul syllables are inert; the vowels and finals that join them are not. */
        if (code >= 0xac00 && code <= 0xd7a3) continue;
        const utf8proc_property_t *property = utf8proc_get_property(code);
        if (property->combining_class != 0) clear_inert(nfc, code);
        if (property->decomp_seqindex == UINT16_MAX || property->decomp_type != 0) continue;
        int32_t parts[MAX_DECOMPOSITION];
        int boundary = 0;
        utf8proc_ssize_t n = utf8proc_decompose_char(code, parts, MAX_DECOMPOSITION,
                                                     UTF8PROC_DECOMPOSE, &boundary);
        if (n < 1 || n > MAX_DECOMPOSITION || !survives(code, parts, (int)n)) {
            clear_inert(nfc, code);
            continue;
        }
        for (int i = 1; i < n; i++)
            clear_inert(nfc, parts[i]);
    }
    for (int32_t code = 0x1161; code <= 0x1175; code++)
        clear_inert(nfc, code);
    for (int32_t code = 0x11a8; code <= 0x11c2; code++)
        clear_inert(nfc, code);
    return SY_OK;
}

void sy_nfc_free(sy_nfc *nfc) {
    free(nfc->inert);
    nfc->inert = NULL;
}

/* Stable sort of code[0..n) by combining class, all of them not 0. `spare` has room for n. */
static void sort_marks(int32_t *code, size_t n, int32_t *spare) {
    size_t start[257] = {0};
    for (size_t i = 0; i < n; i++)
        start[utf8proc_get_property(code[i])->combining_class + 1]++;
    for (int c = 0; c < 256; c++)
        start[c + 1] += start[c];
    for (size_t i = 0; i < n; i++)
        spare[start[utf8proc_get_property(code[i])->combining_class]++] = code[i];
    memcpy(code, spare, n * sizeof *code);
}

static void order_marks(int32_t *code, size_t n, int32_t *spare) {
    for (size_t i = 0; i < n;) {
        size_t run = 0;
        while (i + run < n && utf8proc_get_property(code[i + run])->combining_class != 0)
            run++;
        if (run > 1) sort_marks(code + i, run, spare);
        i += run + 1;
    }
}

static sy_status reserve_codes(sy_nfc_scratch *scratch, size_t n) {
    if (n <= scratch->room) return SY_OK;
    size_t room = n < 256 ? 256 : n + n / 2;
    int32_t *code = realloc(scratch->code, room * sizeof *code);
    if (code == NULL) return sy_fail(SY_ERR_MEMORY, "no memory to normalise %zu characters", n);
    scratch->code = code;
    scratch->room = room;
    return SY_OK;
}

/* Appends NFC(text) by decomposing, ordering and composing all of it. */
static sy_status
append_normalized(sy_nfc_scratch *scratch, const char *text, size_t size, sy_text *out) {
    sy_status st = SY_OK;
    size_t n = 0;
    for (size_t i = 0; i < size;) {
        int32_t code;
        int boundary = 0;
        i += sy_utf8_decode(text + i, size - i, &code);
        SY_TRY(reserve_codes(scratch, n + MAX_DECOMPOSITION));
        utf8proc_ssize_t parts = utf8proc_decompose_char(
            code, scratch->code + n, MAX_DECOMPOSITION, UTF8PROC_DECOMPOSE, &boundary);
        if (parts < 1 || parts > MAX_DECOMPOSITION)
            SY_FAIL(SY_ERR_INTERNAL, "U+%04X has no decomposition", (unsigned)code);
        n += (size_t)parts;
    }
    SY_TRY(reserve_codes(scratch, 2 * n));
    order_marks(scratch->code, n, scratch->code + n);
    utf8proc_ssize_t composed = utf8proc_normalize_utf32(scratch->code, (utf8proc_ssize_t)n,
                                                         UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (composed < 0) SY_FAIL(SY_ERR_INTERNAL, "%s", utf8proc_errmsg(composed));
    for (utf8proc_ssize_t i = 0; i < composed; i++) {
        char bytes[4];
        SY_TRY(sy_text_append(out, bytes, sy_utf8_encode(scratch->code[i], bytes)));
    }
done:
    return st;
}

sy_status sy_nfc_normalize(const sy_nfc *nfc,
                           sy_nfc_scratch *scratch,
                           const char *text,
                           size_t size,
                           sy_text *buffer,
                           const char **out_text,
                           size_t *out_size) {
    sy_status st = SY_OK;
    size_t copied = 0; /* text[0..copied) has gone to the buffer       */
    size_t inert = 0;  /* where the last inert character starts        */
    buffer->n = 0;
    for (size_t i = 0; i < size;) {
        if ((unsigned char)text[i] < FIRST_MARK_LEAD) { /* also a continuation byte */
            if (((unsigned char)text[i] & 0xc0) != 0x80) inert = i;
            i++;
            continue;
        }
        int32_t code;
        size_t n = sy_utf8_decode(text + i, size - i, &code);
        if (is_inert(nfc, code)) {
            inert = i;
            i += n;
            continue;
        }
        for (i += n; i < size; i += n) {
            n = sy_utf8_decode(text + i, size - i, &code);
            if (is_inert(nfc, code)) break;
        }
        SY_TRY(sy_text_append(buffer, text + copied, inert - copied));
        SY_TRY(append_normalized(scratch, text + inert, i - inert, buffer));
        copied = inert = i;
    }
    if (copied == 0) {
        *out_text = text;
        *out_size = size;
        goto done;
    }
    SY_TRY(sy_text_append(buffer, text + copied, size - copied));
    *out_text = buffer->data;
    *out_size = buffer->n;
done:
    return st;
}
