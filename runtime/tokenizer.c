#include "runtime/tokenizer_parts.h"

#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
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
    for (int k = 0; k < SY_MAX_STAGES; k++)
        sy_text_free(&s->rewritten[k]);
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->limits);
    if (s->jit_stack != NULL) pcre2_jit_stack_free(s->jit_stack);
    free(s->cache);
    sy_bpe_scratch_free(&s->bpe);
    free(s->nfc.code);
    sy_text_free(&s->valid);
    for (int i = 0; i < 2; i++)
        sy_text_free(&s->normalized[i]);
    free(s);
}

static sy_status scratch_create(sy_scratch **out) {
    sy_status st = SY_OK;
    sy_scratch *s = calloc(1, sizeof *s);
    if (s == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory to encode text");
    s->cache = calloc(SY_CACHE_SLOTS, sizeof *s->cache);
    s->limits = pcre2_match_context_create(NULL);
    s->match = pcre2_match_data_create(1, NULL);
    if (s->cache == NULL || s->limits == NULL || s->match == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory to encode text");
    pcre2_set_match_limit(s->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(s->limits, HEAP_LIMIT_KIB);
    /* NULL where PCRE2 has no JIT; its matches then use 32 KiB of our own stack. */
    s->jit_stack = pcre2_jit_stack_create(JIT_STACK_START, JIT_STACK_MAX, NULL);
    if (s->jit_stack != NULL) pcre2_jit_stack_assign(s->limits, NULL, s->jit_stack);
    *out = s;
    s = NULL;
done:
    scratch_free(s);
    return st;
}

static sy_status scratch_pool_create(sy_scratch_pool **out) {
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
    return *out != NULL ? SY_OK : scratch_create(out);
}

/* Gives back memory that an unusually long text needed. */
static void scratch_trim(sy_scratch *s) {
    enum { KEEP = 1 << 20 };
    if (s->valid.capacity > KEEP) sy_text_free(&s->valid);
    for (int i = 0; i < 2; i++)
        if (s->normalized[i].capacity > KEEP) sy_text_free(&s->normalized[i]);
    for (int k = 0; k < SY_MAX_STAGES; k++)
        if (s->rewritten[k].capacity > KEEP) sy_text_free(&s->rewritten[k]);
    if (s->bpe.first_room > KEEP / 64) sy_bpe_scratch_free(&s->bpe);
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

/* 5 s, and 4 s per MB, of this thread's time. */
static int64_t cpu_limit(size_t size) {
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec + 5000000000 + (int64_t)size * 4000;
}

sy_status sy_encoding_open(sy_encoding *e, const sy_tokenizer *t, size_t size) {
    *e = (sy_encoding){
        .tokenizer = t, .normal_limit = SY_MAX_NORMAL_TEXT, .cpu_limit_ns = cpu_limit(size)};
    return scratch_take(t, &e->scratch);
}

void sy_encoding_close(sy_encoding *e) {
    if (e->scratch != NULL) scratch_give(e->tokenizer, e->scratch);
    e->scratch = NULL;
}

static sy_status merge(sy_encoding *e, const char *bytes, size_t size) {
    sy_status st = SY_OK;
    const sy_tokenizer *t = e->tokenizer;
    sy_bpe_scratch *scratch = &e->scratch->bpe;
    SY_TRY(sy_bpe_reserve(scratch, size));
    size_t n = sy_first_ids(&t->symbols, &t->vocabulary, bytes, size, scratch->first);
    SY_TRY(sy_bpe_encode(&t->bpe, scratch, n, e->out));
done:
    return st;
}

static sy_status encode_word(sy_encoding *e, const char *bytes, size_t size) {
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
        SY_TRY(merge(e, bytes, size));
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

sy_status sy_encode_pretoken(sy_encoding *e, const char *bytes, size_t size) {
    sy_status st = SY_OK;
    const sy_seams *seams = &e->tokenizer->seams;
    if (seams->joined == NULL) return encode_word(e, bytes, size);
    for (size_t i = 0, n; i < size; i += n) {
        n = sy_seams_next(seams, bytes + i, size - i);
        SY_TRY(encode_word(e, bytes + i, n));
    }
done:
    return st;
}

/* A piece of text; first: it starts the whole text. */
typedef sy_status (*encode_fn)(sy_encoding *e, const char *text, size_t size, bool first);

/* Cuts text at the added tokens of a set; what lies between goes to `rest`. */
static sy_status encode_around(sy_encoding *e,
                               const sy_added_set *set,
                               const char *text,
                               size_t size,
                               bool first,
                               encode_fn rest) {
    sy_status st = SY_OK;
    sy_added_scan scan = {.set = set,
                          .word = e->tokenizer->word,
                          .word_match = e->scratch->match,
                          .text = text,
                          .size = size,
                          .no_specials = (e->flags & SY_ENCODE_NO_SPECIALS) != 0};
    if (set->n == 0) return rest(e, text, size, first);
    for (;;) {
        sy_added_hit hit;
        sy_added_next(&scan, &hit);
        if (hit.gap_end > hit.gap_start)
            SY_TRY(rest(e, text + hit.gap_start, hit.gap_end - hit.gap_start,
                        first && hit.gap_start == 0));
        if (hit.id < 0) break;
        SY_TRY(sy_ids_append(e->out, hit.id));
    }
done:
    return st;
}

static sy_status encode_ordinary(sy_encoding *e, const char *text, size_t size, bool first) {
    return sy_split_encode(e, 0, text, size, first);
}

static sy_status
encode_unnormalized(sy_encoding *e, const char *text, size_t size, bool first) {
    sy_status st = SY_OK;
    const sy_tokenizer *t = e->tokenizer;
    SY_TRY(sy_normalize(e, text, size, &text, &size));
    if (size > 0)
        SY_TRY(encode_around(e, &t->added_normalized, text, size, first, encode_ordinary));
done:
    return st;
}

/* Valid text that is not empty. */
static sy_status encode_text(sy_encoding *e, const char *text, size_t size) {
    sy_status st = SY_OK;
    const sy_tokenizer *t = e->tokenizer;
    bool scan = !t->added_on_request || (e->flags & SY_ENCODE_TEMPLATE);
    size_t chunk_state = 0;
    for (size_t i = 0, n; i < size; i += n) {
        n = t->chunk != NULL ? t->chunk(text + i, size - i, &chunk_state) : size;
        if (scan) {
            SY_TRY(encode_around(e, &t->added_raw, text + i, n, i == 0, encode_unnormalized));
        } else {
            SY_TRY(encode_unnormalized(e, text + i, n, i == 0));
        }
    }
done:
    return st;
}

static sy_status append_all(sy_ids *out, const sy_ids *ids) {
    sy_status st = SY_OK;
    for (size_t i = 0; i < ids->n && st == SY_OK; i++)
        st = sy_ids_append(out, ids->id[i]);
    return st;
}

sy_status sy_tokenizer_encode(const sy_tokenizer *tokenizer,
                              const char *text,
                              size_t size,
                              unsigned flags,
                              sy_ids *out) {
    sy_status st = SY_OK;
    size_t before = out->n;
    sy_encoding e = {0};
    if (size > SY_MAX_TEXT)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "input refused: a text of %zu bytes; at most %zu are encoded", size,
                SY_MAX_TEXT);
    if (size == 0) text = ""; /* NULL is fine then */
    SY_TRY(sy_encoding_open(&e, tokenizer, size));
    e.out = out;
    e.flags = flags;
    if (!sy_utf8_valid(text, size)) {
        e.scratch->valid.n = 0;
        SY_TRY(sy_utf8_append_lossy(&e.scratch->valid, text, size));
        text = e.scratch->valid.data;
        size = e.scratch->valid.n;
    }
    if (flags & SY_ENCODE_ADD_SPECIAL) SY_TRY(append_all(out, &tokenizer->before));
    SY_TRY(encode_text(&e, text, size));
    if (flags & SY_ENCODE_ADD_SPECIAL) SY_TRY(append_all(out, &tokenizer->after));
done:
    sy_encoding_close(&e);
    if (st != SY_OK) out->n = before;
    return st;
}

/* ---- the object ---- */

static uint64_t random_seed(void) {
    uint64_t seed;
    if (getentropy(&seed, sizeof seed) != 0) seed = sy_mix64((uint64_t)sy_now_ns());
    return seed;
}

sy_status sy_tokenizer_new(sy_tokenizer **out) {
    sy_status st = SY_OK;
    sy_tokenizer *t = calloc(1, sizeof *t);
    *out = NULL;
    if (t == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a tokenizer");
    t->seed = random_seed();
    t->bos = t->eos = t->symbols.unknown = -1;
    for (int b = 0; b < 256; b++)
        t->symbols.id[b] = t->symbols.fallback[b] = -1;
    SY_TRY(scratch_pool_create(&t->pool));
    *out = t;
    t = NULL;
done:
    sy_tokenizer_destroy(t);
    return st;
}

void sy_tokenizer_destroy(sy_tokenizer *t) {
    if (t == NULL) return;
    scratch_pool_destroy(t->pool);
    sy_vocabulary_free(&t->vocabulary);
    sy_added_free(&t->added_raw);
    sy_added_free(&t->added_normalized);
    pcre2_code_free(t->word);
    sy_nfc_free(&t->nfc);
    for (int i = 0; i < t->n_normal; i++) {
        sy_text_free(&t->normal[i].text);
        sy_pattern_free(&t->normal[i].pattern);
    }
    for (int k = 0; k < t->n_stages; k++)
        sy_pattern_free(&t->stage[k].pattern);
    sy_seams_free(&t->seams);
    sy_bpe_free(&t->bpe);
    sy_ids_free(&t->before);
    sy_ids_free(&t->after);
    free(t);
}

int32_t sy_tokenizer_bos(const sy_tokenizer *tokenizer) {
    return tokenizer->bos;
}

int32_t sy_tokenizer_eos(const sy_tokenizer *tokenizer) {
    return tokenizer->eos;
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
