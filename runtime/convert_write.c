#include "runtime/convert_write.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/dtype.h"
#include "base/pool.h"
#include "runtime/weight_decode.h"
#include "runtime/weight_encode.h"
#include "runtime/weight_read.h"

/* Bytes of float32 values, and of tensors that are copied, that a thread works on at a time: in
 * the caches, and with enough chunks in one expert for all threads. */
enum { CHUNK_BYTES = 1 << 20, COPY_BYTES = 4 << 20, MOST_THREADS = 64 };

/* The memory of one thread, each block as large as its largest chunk. */
typedef struct scratch {
    char *slot;    /* as read */
    float *values; /* [rows, k] */
    char *codes, *scales;
    float largest; /* magnitude seen while a factor is looked for */
    sy_status st;  /* of the first chunk that failed */
    int64_t failed_chunk;
    sy_error_text error;
} scratch;

typedef struct block_sizes {
    uint64_t slot, values, codes, scales;
} block_sizes;

struct sy_converter {
    const sy_convert_plan *plan;
    const sy_convert_options *options;
    sy_pool *pool;
    scratch thread[MOST_THREADS];
    block_sizes sizes;
    _Atomic uint64_t done_bytes; /* of tensors, in all shards */
};

/* One pass over a job. */
typedef struct pass {
    sy_converter *converter;
    const sy_convert_job *job;
    const sy_shard_writer *writer;
    bool only_look; /* for the largest magnitude; nothing is written */
    float global;   /* NVFP4: the factor */
    int64_t n_chunks;
    _Atomic int64_t next;
    atomic_bool stop, interrupted;
} pass;

/* ---- chunks ---- */

/* What has to be read as a whole, or is written as one. */
static bool is_whole(const sy_convert_matrix *m) {
    return m->from.across || m->across || m->from.order != SY_INT4_ROWS;
}

static int64_t chunk_rows(const sy_convert_matrix *m) {
    if (is_whole(m)) return m->n;
    int64_t block = SY_FP8_BLOCK * m->k * (int64_t)sizeof(float);
    return sy_min(m->n, SY_FP8_BLOCK * sy_max(1, CHUNK_BYTES / sy_max(block, 1)));
}

static int64_t chunks_of(const sy_convert_matrix *m) {
    return m->n == 0 || m->k == 0 ? 0 : sy_ceil_div(m->n, chunk_rows(m));
}

/* What weight_read.h reads: the piece in its own format. `m->from` outlives the item. */
static sy_bind_item as_item(const sy_convert_matrix *m, sy_matrix *as_stored) {
    *as_stored = (sy_matrix){
        .dtype = m->from.dtype, .parts = 1, .n = m->n, .k = m->k, .quant = m->from.quant};
    return (sy_bind_item){.from = m->from, .matrix = as_stored, .rows = m->n, .columns = m->k};
}

static uint64_t code_row_bytes(const sy_convert_matrix *m) {
    uint64_t k = (uint64_t)m->k;
    switch (m->to) {
    case SY_CONVERT_BF16:
        return 2 * k;
    case SY_CONVERT_MXFP4:
    case SY_CONVERT_NVFP4:
        return (k + 1) / 2;
    default:
        return k;
    }
}

/* Of the scales of one row; FP8: of a block of 128 rows. */
static uint64_t scale_row_bytes(const sy_convert_matrix *m) {
    switch (m->to) {
    case SY_CONVERT_FP8:
        return (uint64_t)sy_ceil_div(m->k, SY_FP8_BLOCK) * sizeof(float);
    case SY_CONVERT_Q8:
        return (uint64_t)sy_ceil_div(m->k, SY_Q8_GROUP) * sizeof(uint16_t);
    case SY_CONVERT_MXFP4:
        return (uint64_t)sy_ceil_div(m->k, SY_MXFP4_GROUP);
    case SY_CONVERT_NVFP4:
        return (uint64_t)sy_ceil_div(m->k, SY_NVFP4_GROUP);
    default:
        return 0;
    }
}

static void raise_to(uint64_t *most, uint64_t bytes) {
    if (bytes > *most) *most = bytes;
}

static sy_status find_sizes(sy_converter *c) {
    for (int i = 0; i < c->plan->n_matrices; i++) {
        const sy_convert_matrix *m = &c->plan->matrix[i];
        sy_matrix as_stored;
        sy_bind_item item = as_item(m, &as_stored);
        uint64_t rows = (uint64_t)chunk_rows(m), values;
        /* All else is smaller than the values, of which there can be too many for any memory. */
        if (!sy_mul_u64(rows, (uint64_t)m->k, &values) || values > SIZE_MAX / 64)
            return sy_fail(SY_ERR_MEMORY, "tensor \"%s\" is too large", m->from.codes->name);
        raise_to(&c->sizes.slot, sy_weight_slot_bytes(&item, (int64_t)rows));
        raise_to(&c->sizes.values, values * sizeof(float));
        raise_to(&c->sizes.codes, rows * code_row_bytes(m));
        raise_to(&c->sizes.scales, rows * scale_row_bytes(m));
    }
    for (int i = 0; i < c->plan->n_jobs; i++)
        if (c->plan->job[i].copied != NULL) raise_to(&c->sizes.slot, COPY_BYTES);
    return SY_OK;
}

/* ---- reading ---- */

static sy_status not_a_number(const sy_converter *c,
                              const sy_convert_matrix *m,
                              int64_t row,
                              int64_t column,
                              double value,
                              const char *expected) {
    const sy_tensor_entry *t = m->from.codes;
    int64_t stored_row = m->from.row0 + row * m->from.row_step, stored_column = column;
    if (m->from.across) {
        stored_column = stored_row;
        stored_row = m->from.column0 + column;
    }
    return sy_fail(SY_ERR_FORMAT,
                   "%s/%s: tensor \"%s\", row %lld, column %lld (rows of all experts counted "
                   "through): expected %s, found %g",
                   c->plan->checkpoint->directory, c->plan->checkpoint->file_name[t->file],
                   t->name, (long long)stored_row, (long long)stored_column, expected, value);
}

/* Rows from row0 on as float32 in s->values. */
static sy_status read_values(const sy_converter *c,
                             scratch *s,
                             const sy_convert_matrix *m,
                             int64_t row0,
                             int64_t n) {
    sy_status st = SY_OK;
    sy_matrix as_stored;
    sy_weight_source source;
    sy_bind_item item = as_item(m, &as_stored);
    SY_TRY(sy_weight_read(c->plan->checkpoint, &item, row0, n, false, s->slot, &source));
    if (source.dtype == SY_F32) {
        memcpy(s->values, source.codes, (size_t)(n * m->k) * sizeof(float));
    } else if (source.dtype == SY_BF16) {
        const unsigned char *p = source.codes; /* may stand at an odd address */
        for (int64_t i = 0; i < n * m->k; i++) {
            uint16_t half;
            memcpy(&half, p + 2 * i, sizeof half);
            s->values[i] = sy_f32_from_bf16(half);
        }
    } else {
        sy_weight_decode(&source, &m->from.quant, row0, n, m->k, s->values);
    }
    int64_t bad = sy_find_not_finite(s->values, n * m->k);
    if (bad >= 0)
        SY_TRY(not_a_number(c, m, row0 + bad / m->k, bad % m->k, (double)s->values[bad],
                            "a finite number"));
done:
    return st;
}

/* ---- encoding ---- */

/* Values between BF16's largest and float32's would become infinite. */
static sy_status check_bf16(const sy_converter *c,
                            const scratch *s,
                            const sy_convert_matrix *m,
                            int64_t row0,
                            int64_t n) {
    if (m->from.dtype != SY_F32) return SY_OK;
    for (int64_t i = 0; i < n * m->k; i++)
        if (fabsf(s->values[i]) >= 0x1.ffp127f)
            return not_a_number(c, m, row0 + i / m->k, i % m->k, (double)s->values[i],
                                "a number that BF16 can hold");
    return SY_OK;
}

/* BF16 [k, n] of values [n, k], tile by tile: either side alone would be in the caches. */
static void encode_across(const float *values, int64_t n, int64_t k, uint16_t *out) {
    enum { TILE = 32 };
    for (int64_t row0 = 0; row0 < n; row0 += TILE)
        for (int64_t column0 = 0; column0 < k; column0 += TILE)
            for (int64_t column = column0; column < sy_min(column0 + TILE, k); column++)
                for (int64_t row = row0; row < sy_min(row0 + TILE, n); row++)
                    out[column * n + row] = sy_bf16_from_f32(values[row * k + column]);
}

static void encode(scratch *s, const sy_convert_matrix *m, int64_t n, float global) {
    uint8_t *codes = (uint8_t *)s->codes, *scales = (uint8_t *)s->scales;
    void *wide_codes = s->codes, *wide_scales = s->scales;
    switch (m->to) {
    case SY_CONVERT_FP8:
        sy_encode_fp8(s->values, n, m->k, codes, wide_scales);
        break;
    case SY_CONVERT_Q8:
        sy_encode_q8(s->values, n, m->k, wide_codes, wide_scales);
        break;
    case SY_CONVERT_MXFP4:
        sy_encode_mxfp4(s->values, n, m->k, codes, scales);
        break;
    case SY_CONVERT_NVFP4:
        sy_encode_nvfp4(s->values, n, m->k, global, codes, scales);
        break;
    default:
        if (m->across)
            encode_across(s->values, n, m->k, wide_codes);
        else
            sy_encode_bf16(s->values, n * m->k, wide_codes);
    }
}

static sy_status write_rows(const pass *p,
                            const scratch *s,
                            const sy_convert_matrix *m,
                            int64_t row0,
                            int64_t n) {
    sy_status st = SY_OK;
    const sy_tensor_entry *out = p->converter->plan->out;
    uint64_t row = (uint64_t)(m->out_row0 + row0);
    uint64_t code_bytes = code_row_bytes(m), scale_bytes = scale_row_bytes(m);
    SY_TRY(sy_shard_write(p->writer, out[m->codes].offset + row * code_bytes, s->codes,
                          (uint64_t)n * code_bytes));
    if (m->scales < 0) goto done;
    if (m->to == SY_CONVERT_FP8) {
        row /= SY_FP8_BLOCK;
        n = sy_ceil_div(n, SY_FP8_BLOCK);
    }
    SY_TRY(sy_shard_write(p->writer, out[m->scales].offset + row * scale_bytes, s->scales,
                          (uint64_t)n * scale_bytes));
done:
    return st;
}

static sy_status
do_rows(pass *p, scratch *s, const sy_convert_matrix *m, int64_t row0, int64_t n) {
    sy_status st = SY_OK;
    sy_converter *c = p->converter;
    SY_TRY(read_values(c, s, m, row0, n));
    if (p->only_look) {
        if (m->to == SY_CONVERT_NVFP4)
            s->largest = fmaxf(s->largest, sy_largest_magnitude(s->values, n * m->k));
        goto done;
    }
    if (m->to == SY_CONVERT_BF16) SY_TRY(check_bf16(c, s, m, row0, n));
    encode(s, m, n, p->global);
    SY_TRY(write_rows(p, s, m, row0, n));
    atomic_fetch_add(&c->done_bytes, (uint64_t)n * code_row_bytes(m));
done:
    return st;
}

/* ---- passes ---- */

static sy_status copy_chunk(pass *p, scratch *s, int64_t chunk) {
    sy_status st = SY_OK;
    const sy_tensor_entry *from = p->job->copied;
    const sy_tensor_entry *to = &p->converter->plan->out[p->job->out];
    uint64_t begin = (uint64_t)chunk * COPY_BYTES;
    uint64_t n = from->bytes - begin < COPY_BYTES ? from->bytes - begin : COPY_BYTES;
    SY_TRY(sy_checkpoint_read(p->converter->plan->checkpoint, from, begin, n, s->slot));
    SY_TRY(sy_shard_write(p->writer, to->offset + begin, s->slot, n));
    atomic_fetch_add(&p->converter->done_bytes, n);
done:
    return st;
}

static sy_status do_chunk(pass *p, scratch *s, int64_t chunk) {
    if (p->job->copied != NULL) return copy_chunk(p, s, chunk);
    const sy_convert_matrix *m = &p->converter->plan->matrix[p->job->first];
    while (chunk >= chunks_of(m))
        chunk -= chunks_of(m++);
    int64_t rows = chunk_rows(m), row0 = chunk * rows;
    return do_rows(p, s, m, row0, sy_min(rows, m->n - row0));
}

static bool report(sy_converter *c) {
    const sy_convert_options *o = c->options;
    uint64_t done = atomic_load(&c->done_bytes);
    double of = c->plan->bytes > 0 ? (double)c->plan->bytes : 1;
    /* The end is reported once all is in its place. */
    return o->progress == NULL || o->progress(o->context, fmin((double)done / of, 0.999), done);
}

/* On every thread, the caller's being 0: that one also asks whether to go on. */
static void work(void *arg, int thread, int n_threads) {
    pass *p = arg;
    scratch *s = &p->converter->thread[thread];
    (void)n_threads;
    while (!atomic_load(&p->stop)) {
        int64_t chunk = atomic_fetch_add(&p->next, 1);
        if (chunk >= p->n_chunks) break;
        s->st = do_chunk(p, s, chunk);
        if (s->st != SY_OK) {
            s->failed_chunk = chunk;
            sy_status_save(&s->error);
            atomic_store(&p->stop, true);
        } else if (thread == 0 && !report(p->converter)) {
            atomic_store(&p->interrupted, true);
            atomic_store(&p->stop, true);
        }
    }
}

/* Of several chunks that failed the first is told of. */
static sy_status run_pass(pass *p) {
    sy_converter *c = p->converter;
    const scratch *failed = NULL;
    int n_threads = sy_pool_threads(c->pool);
    for (int i = 0; i < n_threads; i++) {
        c->thread[i].st = SY_OK;
        c->thread[i].largest = 0;
    }
    atomic_store(&p->next, 0);
    sy_pool_run(c->pool, work, p);
    for (int i = 0; i < n_threads; i++) {
        const scratch *s = &c->thread[i];
        if (s->st != SY_OK && (failed == NULL || s->failed_chunk < failed->failed_chunk))
            failed = s;
    }
    if (failed != NULL) {
        sy_status_restore(&failed->error);
        return failed->st;
    }
    return atomic_load(&p->interrupted) ? sy_fail(SY_ERR_INTERRUPTED, "interrupted") : SY_OK;
}

/* The factor that a job's NVFP4 matrices share, from a first look at all of them. */
static sy_status find_factor(pass *p) {
    sy_converter *c = p->converter;
    const sy_convert_plan *plan = c->plan;
    float largest = 0;
    sy_status st = SY_OK;
    p->only_look = true;
    SY_TRY(run_pass(p));
    p->only_look = false;
    for (int i = 0; i < sy_pool_threads(c->pool); i++)
        largest = fmaxf(largest, c->thread[i].largest);
    p->global = sy_nvfp4_global(largest);
    for (int i = p->job->first; i < p->job->first + p->job->n; i++) {
        const sy_convert_matrix *m = &plan->matrix[i];
        if (m->factor < 0) continue;
        SY_TRY(sy_shard_write(p->writer, plan->out[m->factor].offset, &p->global,
                              sizeof p->global));
    }
done:
    return st;
}

static sy_status do_job(sy_converter *c, const sy_convert_job *job, const sy_shard_writer *w) {
    sy_status st = SY_OK;
    pass p = {.converter = c, .job = job, .writer = w};
    bool has_factor = false;
    if (job->copied != NULL)
        p.n_chunks = (int64_t)((job->copied->bytes + COPY_BYTES - 1) / COPY_BYTES);
    for (int i = job->first; job->copied == NULL && i < job->first + job->n; i++) {
        p.n_chunks += chunks_of(&c->plan->matrix[i]);
        has_factor = has_factor || c->plan->matrix[i].factor >= 0;
    }
    if (has_factor) SY_TRY(find_factor(&p));
    SY_TRY(run_pass(&p));
done:
    return st;
}

sy_status sy_converter_write(sy_converter *c, int shard, const sy_shard_writer *writer) {
    sy_status st = SY_OK;
    const sy_convert_shard *s = &c->plan->shard[shard];
    for (int j = s->first_job; j < s->first_job + s->n_jobs; j++)
        SY_TRY(do_job(c, &c->plan->job[j], writer));
done:
    return st;
}

void sy_converter_skip(sy_converter *c, int shard) {
    const sy_convert_shard *s = &c->plan->shard[shard];
    atomic_fetch_add(&c->done_bytes, s->header.file_bytes - s->header.n);
}

static sy_status take(void *out, uint64_t bytes, int thread) {
    void *p = aligned_alloc(64, (size_t)((bytes + 64) / 64 * 64));
    memcpy(out, &p, sizeof p);
    return p != NULL
               ? SY_OK
               : sy_fail(SY_ERR_MEMORY, "no memory for thread %d of a conversion", thread);
}

sy_status sy_converter_create(const sy_convert_plan *plan,
                              const sy_convert_options *options,
                              sy_converter **out) {
    sy_status st = SY_OK;
    sy_converter *c = calloc(1, sizeof *c);
    int n_threads = (int)sy_max(1, sy_min(options->n_threads, MOST_THREADS));
    *out = c;
    if (c == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a conversion");
    c->plan = plan;
    c->options = options;
    SY_TRY(find_sizes(c));
    for (int i = 0; i < n_threads; i++) {
        SY_TRY(take(&c->thread[i].slot, c->sizes.slot, i));
        SY_TRY(take(&c->thread[i].values, c->sizes.values, i));
        SY_TRY(take(&c->thread[i].codes, c->sizes.codes, i));
        SY_TRY(take(&c->thread[i].scales, c->sizes.scales, i));
    }
    SY_TRY(sy_pool_create(n_threads, false, &c->pool));
done:
    if (st != SY_OK) {
        sy_converter_destroy(c);
        *out = NULL;
    }
    return st;
}

void sy_converter_destroy(sy_converter *c) {
    if (c == NULL) return;
    sy_pool_destroy(c->pool);
    for (int i = 0; i < MOST_THREADS; i++) {
        free(c->thread[i].slot);
        free(c->thread[i].values);
        free(c->thread[i].codes);
        free(c->thread[i].scales);
    }
    free(c);
}
