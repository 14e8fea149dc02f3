/* Ids -> text. The bytes of the tokens are one stream; characters are cut from it, whatever the
 * tokens' borders are. */
#include "runtime/tokenizer_parts.h"

#include "runtime/utf8.h"

static const char replacement[] = "\xef\xbf\xbd";

/* Completes the pending character with bytes from the front of p. Returns how many it took. */
static sy_status
put_pending(sy_decoder *d, const char *p, size_t n, size_t *taken, sy_text *out) {
    sy_status st = SY_OK;
    *taken = 0;
    while (d->n_pending > 0 && *taken < n) {
        int32_t code;
        d->pending[d->n_pending] = (unsigned char)p[*taken];
        sy_utf8_decode((char *)d->pending, (size_t)d->n_pending + 1, &code);
        if (code == SY_UTF8_INCOMPLETE) {
            d->n_pending++;
            ++*taken;
        } else if (code == SY_UTF8_BROKEN) {
            /* The new byte does not belong to it and starts something else. */
            d->n_pending = 0;
            SY_TRY(sy_text_append(out, replacement, 3));
        } else {
            SY_TRY(sy_text_append(out, (char *)d->pending, (size_t)d->n_pending + 1));
            d->n_pending = 0;
            ++*taken;
        }
    }
done:
    return st;
}

static sy_status put_bytes(sy_decoder *d, const char *p, size_t n, sy_text *out) {
    sy_status st = SY_OK;
    size_t taken;
    SY_TRY(put_pending(d, p, n, &taken, out));
    p += taken;
    n -= taken;
    /* A character that the end cuts off starts at most three bytes before it. */
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        int32_t code;
        if (((unsigned char)p[n - back] & 0xc0) == 0x80) continue;
        sy_utf8_decode(p + n - back, back, &code);
        if (code == SY_UTF8_INCOMPLETE) {
            n -= back;
            memcpy(d->pending, p + n, back);
            d->n_pending = (int)back;
        }
        break;
    }
    SY_TRY(sy_utf8_append_lossy(out, p, n));
done:
    return st;
}

/* Bytes of the first token, which loses every `without`. */
static sy_status
put_first(sy_decoder *d, const char *p, size_t n, const char *without, sy_text *out) {
    sy_status st = SY_OK;
    size_t gone = strlen(without), i = 0;
    while (i < n) {
        const char *hit = sy_find_text(p + i, n - i, without, gone);
        size_t end = hit != NULL ? (size_t)(hit - p) : n;
        SY_TRY(put_bytes(d, p + i, end - i, out));
        i = hit != NULL ? end + gone : end;
    }
done:
    return st;
}

/* Takes spaces away from the front of what has been put out since `from`, if that is the front of
 * the whole sequence. */
static void strip(sy_decoder *d, int most, size_t from, sy_text *out) {
    size_t n = 0;
    if (d->past_front || out->n == from) return;
    while (d->n_stripped < most && from + n < out->n && out->data[from + n] == ' ') {
        d->n_stripped++;
        n++;
    }
    if (n > 0) memmove(out->data + from, out->data + from + n, out->n - from - n);
    out->n -= n;
    d->past_front = d->n_stripped == most || out->n > from;
}

sy_status sy_decoder_put(sy_decoder *decoder,
                         const sy_tokenizer *tokenizer,
                         int32_t id,
                         bool skip_special,
                         sy_text *out) {
    sy_status st = SY_OK;
    const sy_vocabulary *v = &tokenizer->vocabulary;
    const sy_decoding *how = &tokenizer->decoding;
    const sy_token *token = sy_vocabulary_token(v, id);
    size_t before = out->n;
    if (token == NULL || (skip_special && (token->flags & SY_TOKEN_SPECIAL))) return SY_OK;
    bool first = !decoder->started;
    decoder->started = true;
    if (first && how->first_without[0] != '\0') {
        SY_TRY(put_first(decoder, v->bytes.data + token->offset, token->length,
                         how->first_without, out));
    } else {
        SY_TRY(put_bytes(decoder, v->bytes.data + token->text_offset, token->text_length, out));
    }
    if (how->strip > 0) strip(decoder, how->strip, before, out);
done:
    return st;
}

sy_status sy_decoder_finish(sy_decoder *decoder, sy_text *out) {
    bool cut_off = decoder->n_pending > 0;
    *decoder = (sy_decoder){0};
    return cut_off ? sy_text_append(out, replacement, 3) : SY_OK;
}

sy_status sy_tokenizer_decode(const sy_tokenizer *tokenizer,
                              const int32_t *ids,
                              size_t n,
                              bool skip_special,
                              sy_text *out) {
    sy_status st = SY_OK;
    sy_decoder decoder = {0};
    size_t before = out->n;
    for (size_t i = 0; i < n; i++)
        SY_TRY(sy_decoder_put(&decoder, tokenizer, ids[i], skip_special, out));
    SY_TRY(sy_decoder_finish(&decoder, out));
done:
    if (st != SY_OK) out->n = before;
    return st;
}
