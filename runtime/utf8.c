#include "runtime/utf8.h"

/* How many bytes a lead byte announces (0: not a lead byte), and the bounds of the byte after
 * it, which exclude overlong forms, surrogates and values beyond U+10FFFF (Unicode, table 3-7). */
static int lead_length(unsigned char lead, unsigned char *low, unsigned char *high) {
    *low = 0x80;
    *high = 0xbf;
    if (lead >= 0xc2 && lead <= 0xdf) return 2;
    if (lead >= 0xe0 && lead <= 0xef) {
        if (lead == 0xe0) *low = 0xa0;
        if (lead == 0xed) *high = 0x9f;
        return 3;
    }
    if (lead >= 0xf0 && lead <= 0xf4) {
        if (lead == 0xf0) *low = 0x90;
        if (lead == 0xf4) *high = 0x8f;
        return 4;
    }
    return 0;
}

size_t sy_utf8_decode(const char *text, size_t size, int32_t *code) {
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80) {
        *code = p[0];
        return 1;
    }
    unsigned char low, high;
    int length = lead_length(p[0], &low, &high);
    if (length == 0) {
        *code = SY_UTF8_BROKEN;
        return 1;
    }
    int32_t value = p[0] & (0x7f >> length);
    for (int i = 1; i < length; i++) {
        if ((size_t)i == size) {
            *code = SY_UTF8_INCOMPLETE;
            return size;
        }
        if (p[i] < low || p[i] > high) {
            *code = SY_UTF8_BROKEN;
            return (size_t)i;
        }
        value = value << 6 | (p[i] & 0x3f);
        low = 0x80;
        high = 0xbf;
    }
    *code = value;
    return (size_t)length;
}

size_t sy_utf8_encode(int32_t code, char out[4]) {
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        out[0] = (char)(0xc0 | code >> 6);
        out[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        out[0] = (char)(0xe0 | code >> 12);
        out[1] = (char)(0x80 | (code >> 6 & 0x3f));
        out[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | code >> 18);
    out[1] = (char)(0x80 | (code >> 12 & 0x3f));
    out[2] = (char)(0x80 | (code >> 6 & 0x3f));
    out[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

sy_status sy_utf8_append_lossy(sy_text *out, const char *text, size_t size) {
    sy_status st = SY_OK;
    if (size == 0) return SY_OK; /* text may be NULL */
    size_t done_until = 0;       /* text[done_until..i) is valid and not yet appended */
    for (size_t i = 0; i < size;) {
        int32_t code;
        size_t n = sy_utf8_decode(text + i, size - i, &code);
        if (code < 0) {
            SY_TRY(sy_text_append(out, text + done_until, i - done_until));
            SY_TRY(sy_text_append(out, "\xef\xbf\xbd", 3));
            done_until = i + n;
        }
        i += n;
    }
    SY_TRY(sy_text_append(out, text + done_until, size - done_until));
done:
    return st;
}

bool sy_is_white_space(int32_t code) {
    return (code >= 0x09 && code <= 0x0d) || code == 0x20 || code == 0x85 || code == 0xa0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

size_t sy_white_space_prefix(const char *text, size_t size) {
    size_t i = 0;
    while (i < size) {
        int32_t code;
        size_t n = sy_utf8_decode(text + i, size - i, &code);
        if (!sy_is_white_space(code)) break;
        i += n;
    }
    return i;
}

size_t sy_white_space_suffix(const char *text, size_t size) {
    size_t end = size;
    while (end > 0) {
        size_t start = end - 1;
        while (start > 0 && ((unsigned char)text[start] & 0xc0) == 0x80)
            start--;
        int32_t code;
        sy_utf8_decode(text + start, end - start, &code);
        if (!sy_is_white_space(code)) break;
        end = start;
    }
    return size - end;
}
