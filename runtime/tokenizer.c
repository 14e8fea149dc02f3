#include "runtime/tokenizer_parts.h"

#include <limits.h>
#include <stdlib.h>
#include <time.h>

#include "runtime/utf8.h"

/* ---- growable arrays ---- */

static sy_status grow(void **data, size_t *capacity, size_t needed, size_t element) {
    if (needed <= *capacity) return SY_OK;
    size_t room = *capacity < 64 ? 64 : *capacity + *capacity / 2;
    if (room < needed) room = needed;
    void *larger = room <= SIZE_MAX / element ? realloc(*data, room * element) : NULL;
    if (larger == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for %zu elements", room);
    *data = larger;
    *capacity = room;
    return SY_OK;
}

void sy_ids_free(sy_ids *ids) {
    free(ids->id);
    *ids = (sy_ids){0};
}

sy_status sy_ids_append(sy_ids *ids, int32_t id) {
    if (ids->n == ids->capacity) {
        void *data = ids->id;
        sy_status st = grow(&data, &ids->capacity, ids->n + 1, sizeof *ids->id);
        if (st != SY_OK) return st;
        ids->id = data;
    }
    ids->id[ids->n++] = id;
    return SY_OK;
}

void sy_text_free(sy_text *text) {
    free(text->data);
    *text = (sy_text){0};
}

sy_status sy_text_append(sy_text *text, const char *data, size_t n) {
    if (n == 0) return SY_OK;
    if (n > SIZE_MAX - text->n) return sy_fail(SY_ERR_MEMORY, "no memory for %zu bytes", n);
    void *room = text->data;
    sy_status st = grow(&room, &text->capacity, text->n + n, 1);
    if (st != SY_OK) return st;
    text->data = room;
    memcpy(text->data + text->n, data, n);
    text->n += n;
    return SY_OK;
}

/* ---- scratch: what one call of encode writes to; idle ones are kept with their caches ---- */

enum { MAX_IDLE = 16, JIT_STACK_START = 32 * 1024, JIT_STACK_MAX = 1024 * 1024 };
enum { HEAP_LIMIT_KIB = 64 * 1024, MATCH_LIMIT = 10000000 };

static void scratch_free(sy_scratch *s) {
    if (s == NULL) return;
    for (int k = 0; k < SY_MAX_STAGES; k++) {
        pcre2_match_data_free(s->match[k]);
        sy_text_free(&s->prefixed[k]);
    }
    pcre2_match_data_free(s->word_match);
    pcre2_match_context_free(s->limits);
    if (s->jit_stack != NULL) pcre2_jit_stack_free(s->jit_stack);
    free(s->cache);
    sy_bpe_scratch_free(&s->bpe);
    free(s->nfc.code);
    sy_text_free(&s->valid);
    sy_text_free(&s->normalized);
    free(s);
}

static sy_status scratch_create(const sy_tokenizer *t, sy_scratch **out) {
    sy_status st = SY_OK;
    sy_scratch *s = calloc(1, sizeof *s);
    if (s == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory to encode text");
    s->cache = calloc(SY_CACHE_SLOTS, sizeof *s->cache);
    s->limits = pcre2_match_context_create(NULL);
    if (s->cache == NULL || s->limits == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory to encode text");
    pcre2_set_match_limit(s->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(s->limits, HEAP_LIMIT_KIB);
    /* NULL where PCRE2 has no JIT; its matches then use 32 KiB of our own stack. */
    s->jit_stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL);
    if (s->jit_stack != NULL) pcre2_jit_stack_assign(s->limits, NULL, s->jit_stack);
    for (int k = 0; k < t->n_stages; k++) {
        if (t->stage[k].code == NULL) continue;
        s->match[k] = pcre2_match_data_create(1, NULL);
        if (s->match[k] == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory to encode text");
    }
    s->word_match = pcre2_match_data_create(1, NULL);
    if (s->word_match == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory to encode text");
    *out = s;
    s = NULL;
done:
    scratch_free(s);
    return st;
}

sy_status sy_scratch_pool_create(sy_scratch_pool **out) {
    *out = calloc(1, sizeof **out);
    if (*out == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a tokenizer");
    pthread_mutex_init(&(*out)->lock, NULL);
    return SY_OK;
}

static sy_status scratch_take(const sy_tokenizer *t, sy_scratch **out) {
    sy_scratch_pool *pool = t->pool;
    pthread_mutex_lock(&pool->lock);
    *out = pool->idle;
    if (*out != NULL) {
        pool->idle = (*out)->next;
        pool->n_idle--;
    }
    pthread_mutex_unlock(&pool->lock);
    return *out != NULL ? SY_OK : scratch_create(t, out);
}

/* Gives back memory that an unusually long text needed. */
static void scratch_trim(sy_scratch *s) {
    enum { KEEP = 1 << 20 };
    if (s->valid.capacity > KEEP) sy_text_free(&s->valid);
    if (s->normalized.capacity > KEEP) sy_text_free(&s->normalized);
    for (int k = 0; k < SY_MAX_STAGES; k++)
        if (s->prefixed[k].capacity > KEEP) sy_text_free(&s->prefixed[k]);
    if (s->bpe.symbol_room > KEEP / 64) sy_bpe_scratch_free(&s->bpe);
    if (s->nfc.room > KEEP / 4) {
        free(s->nfc.code);
        s->nfc = (sy_nfc_scratch){0};
    }
}

static void scratch_give(const sy_tokenizer *t, sy_scratch *s) {
    sy_scratch_pool *pool = t->pool;
    scratch_trim(s);
    pthread_mutex_lock(&pool->lock);
    if (pool->n_idle < MAX_IDLE) {
        s->next = pool->idle;
        pool->idle = s;
        pool->n_idle++;
        s = NULL;
    }
    pthread_mutex_unlock(&pool->lock);
    scratch_free(s);
}

static void scratch_pool_destroy(sy_scratch_pool *pool) {
    if (pool == NULL) return;
    while (pool->idle != NULL) {
        sy_scratch *s = pool->idle;
        pool->idle = s->next;
        scratch_free(s);
    }
    pthread_mutex_destroy(&pool->lock);
    free(pool);
}

/* ---- encoding ---- */

sy_status sy_encode_pretoken(sy_encoding *e, const char *bytes, size_t size) {
    sy_status st = SY_OK;
    const sy_tokenizer *t = e->tokenizer;
    sy_cache_entry *entry = NULL;
    if (size <= SY_CACHE_KEY) {
        entry = &e->scratch->cache[sy_hash_token(t->seed, bytes, size) % SY_CACHE_SLOTS];
        if (entry->size == size && memcmp(entry->key, bytes, size) == 0) {
            for (int i = 0; i < entry->n; i++)
                SY_TRY(sy_ids_append(e->out, entry->id[i]));
            return SY_OK;
        }
    }
    size_t before = e->out->n;
    int32_t id = sy_vocabulary_find_bytes(&t->vocabulary, bytes, size, false);
    if (id >= 0 && (t->vocabulary.token[id].flags & SY_TOKEN_WHOLE)) {
        SY_TRY(sy_ids_append(e->out, id));
    } else {
        SY_TRY(sy_bpe_encode(&t->bpe, &e->scratch->bpe, bytes, size, e->out));
    }
    size_t n = e->out->n - before;
    if (entry != NULL && n <= SY_CACHE_IDS) {
        entry->size = (uint8_t)size;
        entry->n = (uint8_t)n;
        memcpy(entry->key, bytes, size);
        if (n > 0) memcpy(entry->id, e->out->id + before, n * sizeof *entry->id);
    }
done:
    return st;
}

typedef sy_status (*encode_fn)(sy_encoding *e, const char *text, size_t size, bool no_specials);

/* Cuts text at the added tokens of a set; what lies between goes to `rest`. */
static sy_status encode_around(sy_encoding *e,
                               const sy_added_set *set,
                               const char *text,
                               size_t size,
                               bool no_specials,
                               encode_fn rest) {
    sy_status st = SY_OK;
    sy_added_scan scan = {.set = set,
                          .word = e->tokenizer->word,
                          .word_match = e->scratch->word_match,
                          .text = text,
                          .size = size,
                          .no_specials = no_specials};
    if (set->n == 0) return rest(e, text, size, no_specials);
    for (;;) {
        sy_added_hit hit;
        sy_added_next(&scan, &hit);
        if (hit.gap_end > hit.gap_start)
            SY_TRY(rest(e, text + hit.gap_start, hit.gap_end - hit.gap_start, no_specials));
        if (hit.id < 0) break;
        SY_TRY(sy_ids_append(e->out, hit.id));
    }
done:
    return st;
}

static sy_status
encode_ordinary(sy_encoding *e, const char *text, size_t size, bool no_specials) {
    (void)no_specials;
    return sy_split_encode(e, 0, text, size);
}

static sy_status
encode_unnormalized(sy_encoding *e, const char *text, size_t size, bool no_specials) {
    sy_status st = SY_OK;
    if (e->tokenizer->use_nfc)
        SY_TRY(sy_nfc_normalize(&e->tokenizer->nfc, &e->scratch->nfc, text, size,
                                &e->scratch->normalized, &text, &size));
    SY_TRY(encode_around(e, &e->tokenizer->added_normalized, text, size, no_specials,
                         encode_ordinary));
done:
    return st;
}

static sy_status append_all(sy_ids *out, const sy_ids *ids) {
    sy_status st = SY_OK;
    for (size_t i = 0; i < ids->n && st == SY_OK; i++)
        st = sy_ids_append(out, ids->id[i]);
    return st;
}

/* 5 s, and 4 s per MB, of this thread's time. */
static int64_t cpu_limit(size_t size) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec + 5000000000 + (int64_t)size * 4000;
}

sy_status sy_tokenizer_encode(const sy_tokenizer *tokenizer,
                              const char *text,
                              size_t size,
                              unsigned flags,
                              sy_ids *out) {
    sy_status st = SY_OK;
    size_t before = out->n;
    sy_encoding e = {.tokenizer = tokenizer, .out = out};
    if (size > SY_MAX_TEXT)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "input refused: a text of %zu bytes; at most %zu are encoded", size,
                SY_MAX_TEXT);
    if (size == 0) text = ""; /* NULL is fine then */
    SY_TRY(scratch_take(tokenizer, &e.scratch));
    e.cpu_limit_ns = cpu_limit(size);
    if (!sy_utf8_valid(text, size)) {
        e.scratch->valid.n = 0;
        SY_TRY(sy_utf8_append_lossy(&e.scratch->valid, text, size));
        text = e.scratch->valid.data;
        size = e.scratch->valid.n;
    }
    if (flags & SY_ENCODE_ADD_SPECIAL) SY_TRY(append_all(out, &tokenizer->before));
    if (size > 0)
        SY_TRY(encode_around(&e, &tokenizer->added_raw, text, size,
                             (flags & SY_ENCODE_NO_SPECIALS) != 0, encode_unnormalized));
    if (flags & SY_ENCODE_ADD_SPECIAL) SY_TRY(append_all(out, &tokenizer->after));
done:
    if (e.scratch != NULL) scratch_give(tokenizer, e.scratch);
    if (st != SY_OK) out->n = before;
    return st;
}

/* ---- the object ---- */

void sy_tokenizer_destroy(sy_tokenizer *t) {
    if (t == NULL) return;
    scratch_pool_destroy(t->pool);
    sy_vocabulary_free(&t->vocabulary);
    sy_added_free(&t->added_raw);
    sy_added_free(&t->added_normalized);
    pcre2_code_free(t->word);
    sy_nfc_free(&t->nfc);
    for (int k = 0; k < t->n_stages; k++)
        pcre2_code_free(t->stage[k].code);
    sy_bpe_free(&t->bpe);
    sy_ids_free(&t->before);
    sy_ids_free(&t->after);
    free(t);
}

int32_t sy_tokenizer_bos(const sy_tokenizer *tokenizer) {
    return tokenizer->bos;
}

int32_t sy_tokenizer_token_id(const sy_tokenizer *tokenizer, const char *content, size_t size) {
    sy_text scratch = {0};
    int32_t id = -1;
    if (sy_vocabulary_find(&tokenizer->vocabulary, content, size, &scratch, &id) != SY_OK)
        id = -1;
    sy_text_free(&scratch);
    return id;
}

int32_t sy_tokenizer_n_ids(const sy_tokenizer *tokenizer) {
    return (int32_t)tokenizer->vocabulary.n_ids;
}

bool sy_tokenizer_is_special(const sy_tokenizer *tokenizer, int32_t id) {
    const sy_token *token = sy_vocabulary_token(&tokenizer->vocabulary, id);
    return token != NULL && (token->flags & SY_TOKEN_SPECIAL) != 0;
}
