#include "runtime/weights.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/hash.h"
#include "base/memory.h"
#include "kernels/device.h"
#include "runtime/bind.h"
#include "runtime/weight_decode.h"
#include "runtime/weight_dummy.h"
#include "runtime/weight_read.h"

/* One read is about this long: enough to keep a disk busy, little enough to stay in cache. */
#define READ_BYTES ((int64_t)2 << 20)

/* A stretch of output rows of one item: the unit that a reader thread takes. */
typedef struct load_chunk {
    const sy_bind_item *item;
    int64_t row0, n_rows;
} load_chunk;

typedef struct loader {
    sy_backend *be;
    const sy_checkpoint *checkpoint; /* NULL: dummy weights */
    uint64_t dummy_seed;
    const load_chunk *chunk;
    int64_t n_chunks;
    sy_stage *stage;        /* NULL: the backend packs from ordinary memory */
    uint64_t staging_bytes; /* of one thread */
    uint64_t total_bytes;
    sy_load_progress progress;
    void *context;

    _Atomic int64_t next;
    _Atomic uint64_t bytes, routed_bytes;
    _Atomic int failed; /* the first thread that fails stores its status and text */
    sy_status status;
    sy_error_text text;
} loader;

static bool is_dummy(const sy_bind_item *item) {
    return item->from.codes == NULL;
}

static sy_status store_vector(loader *l, const sy_bind_item *item, const sy_weight_source *v) {
    uint64_t bytes = (uint64_t)item->rows * sizeof(float);
    float *wide = malloc(bytes);
    if (wide == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a vector");
    for (int64_t i = 0; i < item->rows; i++)
        wide[i] = sy_value_at(v->dtype, v->codes, i);
    sy_status st = l->be->ops->write(l->be, item->vector, wide, bytes, NULL);
    free(wide);
    return st;
}

static sy_status load_one(loader *l, const load_chunk *c, char *slot) {
    sy_status st = SY_OK;
    const sy_bind_item *item = c->item;
    uint64_t bytes = sy_weight_bytes(item, c->n_rows);
    sy_weight_source source[2];
    if (is_dummy(item))
        sy_weight_dummy(item, l->dummy_seed, c->row0, c->n_rows, slot, source);
    else
        SY_TRY(sy_weight_read(l->checkpoint, item, c->row0, c->n_rows, l->stage != NULL, slot,
                              source));
    if (item->vector != NULL)
        SY_TRY(store_vector(l, item, source));
    else
        st = l->be->ops->pack(l->be, item->matrix, item->part, c->row0, c->n_rows, &source[0]);
    if (st == SY_OK && item->pair)
        st = l->be->ops->pack(l->be, item->matrix, 1, c->row0, c->n_rows, &source[1]);
    /* What a backend refuses in a weight has a place in the files. */
    if (st == SY_ERR_FORMAT && !is_dummy(item))
        sy_weight_name_tensor(l->checkpoint, item->from.codes);
    SY_TRY(st);
    atomic_fetch_add(&l->bytes, bytes);
    if (item->routed) atomic_fetch_add(&l->routed_bytes, bytes);
done:
    return st;
}

static sy_status report_progress(loader *l) {
    if (l->progress == NULL) return SY_OK;
    uint64_t bytes = atomic_load(&l->bytes);
    if (l->progress(l->context, (double)bytes / (double)l->total_bytes, bytes)) return SY_OK;
    return sy_fail(SY_ERR_INTERRUPTED, "interrupted while reading weights");
}

/* Where a chunk is read to: a slot of the device's stage, or the thread's own memory. */
static sy_status load_next(loader *l, int64_t i, void *own) {
    sy_status st = SY_OK;
    const sy_device_ops *device = l->be->ops->device;
    void *slot = own;
    if (l->stage != NULL) SY_TRY(device->stage_take(l->stage, &slot));
    st = load_one(l, &l->chunk[i], slot);
    if (l->stage != NULL) device->stage_give(l->stage, slot);
done:
    return st;
}

static void reader_main(void *arg, int thread, int n_threads) {
    (void)n_threads;
    loader *l = arg;
    sy_status st = SY_OK;
    void *own = l->stage == NULL ? malloc(l->staging_bytes) : NULL;
    if (l->stage == NULL && own == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for reading weights");
    while (!atomic_load_explicit(&l->failed, memory_order_relaxed)) {
        int64_t i = atomic_fetch_add(&l->next, 1);
        if (i >= l->n_chunks) break;
        SY_TRY(load_next(l, i, own));
        if (thread == 0) SY_TRY(report_progress(l));
    }
done:
    free(own);
    if (st != SY_OK && atomic_exchange(&l->failed, 1) == 0) {
        l->status = st;
        sy_status_save(&l->text);
    }
}

/* Where the first byte of a chunk is in its tensor, about. */
static uint64_t offset_of(const load_chunk *c) {
    const sy_piece *from = &c->item->from;
    int64_t row = from->across ? from->column0 : from->row0 + c->row0 * from->row_step;
    return from->codes->offset + (uint64_t)row * sy_code_row_bytes(from->dtype, from->width);
}

static int by_file_offset(const void *a, const void *b) {
    const load_chunk *x = a, *y = b;
    int fx = x->item->from.codes->file, fy = y->item->from.codes->file;
    if (fx != fy) return fx < fy ? -1 : 1;
    uint64_t ox = offset_of(x), oy = offset_of(y);
    if (ox != oy) return ox < oy ? -1 : 1;
    return x->row0 < y->row0 ? -1 : x->row0 > y->row0;
}

/* Cuts the items into chunks, in the order of the files. */
static sy_status make_chunks(const sy_bind_list *list,
                             bool from_files,
                             load_chunk **out,
                             int64_t *n_chunks,
                             uint64_t *staging,
                             uint64_t *total) {
    int64_t n = 0;
    *staging = *total = 0;
    for (size_t i = 0; i < list->n; i++)
        n += sy_ceil_div(list->item[i].rows, sy_weight_chunk_rows(&list->item[i], READ_BYTES));
    load_chunk *chunk = calloc((size_t)n + 1, sizeof *chunk);
    if (chunk == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the list of reads");
    n = 0;
    for (size_t i = 0; i < list->n; i++) {
        const sy_bind_item *item = &list->item[i];
        int64_t step = sy_weight_chunk_rows(item, READ_BYTES);
        for (int64_t row = 0; row < item->rows; row += step) {
            int64_t rows = sy_min(step, item->rows - row);
            chunk[n++] = (load_chunk){item, row, rows};
            *total += sy_weight_bytes(item, rows);
            uint64_t slot = sy_weight_slot_bytes(item, rows);
            if (slot > *staging) *staging = slot;
        }
    }
    if (from_files) qsort(chunk, (size_t)n, sizeof *chunk, by_file_offset);
    *out = chunk;
    *n_chunks = n;
    return SY_OK;
}

static void
count_experts(const sy_model_spec *spec, const sy_placement *placement, int rank, size_t *out) {
    *out = 0;
    for (int l = 0; l < spec->n_layers; l++)
        if (spec->layer[l].ffn.kind == SY_FFN_MOE)
            *out += 2 * (size_t)sy_placement_slots(&placement->layer[l], rank);
}

static size_t count_heads(const sy_model_spec *spec) {
    size_t n = 0;
    for (int l = 0; l < spec->n_layers; l++)
        if (spec->layer[l].attn.kind == SY_ATTN_MLA) n += 2 * (size_t)spec->layer[l].attn.heads;
    return n;
}

/* The host side of the weights, without their memory. */
static sy_status create_empty(sy_backend *be,
                              const sy_model_spec *spec,
                              const sy_placement *placement,
                              int rank,
                              sy_weights **out) {
    sy_status st = SY_OK;
    size_t n_experts;
    count_experts(spec, placement, rank, &n_experts);
    sy_weights *w = calloc(1, sizeof *w);
    if (w == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the table of weights");
    w->backend = be;
    w->layer = calloc((size_t)sy_max(spec->n_layers, 0), sizeof *w->layer);
    w->expert = calloc(n_experts + 1, sizeof *w->expert);
    w->head = calloc(count_heads(spec) + 1, sizeof *w->head);
    if (w->layer == NULL || w->expert == NULL || w->head == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for the table of weights");
    *out = w;
    w = NULL;
done:
    sy_weights_destroy(w);
    return st;
}

sy_status sy_weights_bytes(sy_backend *be,
                           const sy_model_spec *spec,
                           const sy_placement *placement,
                           int rank,
                           const sy_checkpoint *checkpoint,
                           uint64_t *out) {
    sy_status st = SY_OK;
    sy_weights *w = NULL;
    sy_arena measure = {0};
    SY_TRY(create_empty(be, spec, placement, rank, &w));
    SY_TRY(sy_bind(be, spec, placement, rank, checkpoint, &measure, w, NULL));
    *out = measure.used;
done:
    sy_weights_destroy(w);
    return st;
}

static uint64_t count_rounded(const sy_bind_list *list) {
    uint64_t n = 0;
    for (size_t i = 0; i < list->n; i++) {
        const sy_bind_item *item = &list->item[i];
        bool rounded = item->matrix != NULL && item->from.dtype == SY_F32 &&
                       item->matrix->dtype == SY_BF16;
        if (rounded) n += item->pair ? 2 : 1;
    }
    return n;
}

/* What is to be held by a rank, and where it comes from. */
typedef struct load_source {
    sy_backend *be;
    const sy_model_spec *spec;
    const sy_placement *placement;
    int rank;
    const sy_checkpoint *checkpoint; /* NULL: made up from dummy_seed */
    uint64_t dummy_seed;
} load_source;

/* The weights with their memory, still empty, and the list of what fills it. */
static sy_status lay_out(const load_source *from, sy_bind_list *list, sy_weights **out) {
    sy_status st = SY_OK;
    sy_backend *be = from->be;
    sy_weights *w = NULL;
    SY_TRY(create_empty(be, from->spec, from->placement, from->rank, &w));
    SY_TRY(sy_weights_bytes(be, from->spec, from->placement, from->rank, from->checkpoint,
                            &w->bytes));
    SY_TRY(be->ops->alloc(be, &w->block, w->bytes, "weights"));
    sy_arena arena = {.base = w->block, .size = w->bytes};
    SY_TRY(sy_bind(be, from->spec, from->placement, from->rank, from->checkpoint, &arena, w,
                   list));
    *out = w;
    w = NULL;
done:
    sy_weights_destroy(w);
    return st;
}

/* All chunks, by n_threads threads at the same time. */
static sy_status read_all(loader *l, int n_threads) {
    sy_status st = SY_OK;
    const sy_device_ops *device = l->be->ops->device;
    sy_pool *readers = NULL;
    SY_TRY(sy_pool_create(n_threads, false, &readers));
    if (device != NULL) /* two slots a thread: one is read into, one is packed from */
        SY_TRY(device->stage_open(l->be, 2 * n_threads, l->staging_bytes, &l->stage));
    sy_pool_run(readers, reader_main, l);
    sy_status closed = device != NULL ? device->stage_close(l->stage) : SY_OK;
    if (atomic_load(&l->failed)) {
        sy_status_restore(&l->text);
        st = l->status;
        goto done;
    }
    SY_TRY(closed);
    SY_TRY(report_progress(l));
done:
    sy_pool_destroy(readers);
    return st;
}

static sy_status load(const load_source *from,
                      int n_threads,
                      sy_load_progress progress,
                      void *context,
                      sy_load_report *report,
                      sy_weights **out) {
    sy_status st = SY_OK;
    sy_weights *w = NULL;
    sy_bind_list list = {0};
    load_chunk *chunks = NULL;
    double begin = sy_now();
    loader l = {.be = from->be,
                .checkpoint = from->checkpoint,
                .dummy_seed = from->dummy_seed,
                .progress = progress,
                .context = context};
    *out = NULL;
    SY_TRY(lay_out(from, &list, &w));
    SY_TRY(make_chunks(&list, from->checkpoint != NULL, &chunks, &l.n_chunks, &l.staging_bytes,
                       &l.total_bytes));
    l.chunk = chunks;
    SY_TRY(read_all(&l, n_threads));
    if (report != NULL)
        *report = (sy_load_report){.bytes_read = atomic_load(&l.bytes),
                                   .routed_bytes = atomic_load(&l.routed_bytes),
                                   .seconds = sy_now() - begin,
                                   .rounded = count_rounded(&list)};
    *out = w;
    w = NULL;
done:
    free(chunks);
    free(list.item);
    sy_weights_destroy(w);
    return st;
}

sy_status sy_weights_load(sy_backend *be,
                          const sy_model_spec *spec,
                          const sy_placement *placement,
                          int rank,
                          const sy_checkpoint *checkpoint,
                          int n_readers,
                          sy_load_progress progress,
                          void *context,
                          sy_load_report *report,
                          sy_weights **out) {
    const load_source from = {be, spec, placement, rank, checkpoint, 0};
    return load(&from, n_readers, progress, context, report, out);
}

sy_status sy_weights_dummy(sy_backend *be,
                           const sy_model_spec *spec,
                           const sy_placement *placement,
                           int rank,
                           uint64_t seed,
                           int n_makers,
                           sy_load_progress progress,
                           void *context,
                           sy_weights **out) {
    const load_source from = {be, spec, placement, rank, NULL, seed};
    return load(&from, n_makers, progress, context, NULL, out);
}

void sy_weights_destroy(sy_weights *w) {
    if (w == NULL) return;
    w->backend->ops->free(w->backend, w->block, w->bytes);
    free(w->layer);
    free(w->expert);
    free(w->head);
    free(w);
}
