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

sy_status sy_decoder_put(sy_decoder *decoder,
                         const sy_tokenizer *tokenizer,
                         int32_t id,
                         bool skip_special,
                         sy_text *out) {
    const sy_token *token = sy_vocabulary_token(&tokenizer->vocabulary, id);
    if (token == NULL || (skip_special && (token->flags & SY_TOKEN_SPECIAL))) return SY_OK;
    if (token->length == 0) return SY_OK;
    return put_bytes(decoder, tokenizer->vocabulary.bytes.data + token->offset, token->length,
                     out);
}

sy_status sy_decoder_finish(sy_decoder *decoder, sy_text *out) {
    bool cut_off = decoder->n_pending > 0;
    decoder->n_pending = 0;
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
