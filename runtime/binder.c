#include "runtime/binder.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/hash.h"

void sy_binder_name(const sy_binder *b, char name[SY_NAME_CHARS], const char *format, ...) {
    int used = snprintf(name, SY_NAME_CHARS, "%slayers.%d.", b->prefix.body, b->layer);
    va_list args;
    va_start(args, format);
    vsnprintf(name + used, (size_t)(SY_NAME_CHARS - used), format, args);
    va_end(args);
}

uint64_t sy_binder_seed(const char *name) {
    return sy_hash_bytes(0, name, strlen(name));
}

const sy_tensor_entry *sy_binder_find(sy_binder *b, const char *name) {
    if (b->checkpoint == NULL) return NULL;
    const sy_tensor_entry *t = sy_checkpoint_find(b->checkpoint, name);
    if (t != NULL) b->used[t - b->checkpoint->tensor] = true;
    return t;
}

enum { WINDOW_ALIGNMENT = 4096 };

static sy_status move_window(sy_binder *b, const sy_tensor_entry *t) {
    uint64_t begin = t->offset / WINDOW_ALIGNMENT * WINDOW_ALIGNMENT;
    uint64_t bytes = sy_min(b->checkpoint->file_bytes[t->file] - begin, SY_BINDER_WINDOW);
    const sy_tensor_entry around = {
        .name = t->name, .file = t->file, .offset = begin, .bytes = bytes};
    b->window.file = t->file;
    b->window.begin = b->window.end = begin;
    sy_status st = sy_checkpoint_read(b->checkpoint, &around, 0, bytes, b->window.bytes);
    if (st == SY_OK) b->window.end = begin + bytes;
    return st;
}

sy_status sy_binder_read_small(sy_binder *b, const sy_tensor_entry *t, void *dst) {
    sy_status st = SY_OK;
    if (t->bytes > SY_BINDER_WINDOW - WINDOW_ALIGNMENT)
        SY_FAIL(SY_ERR_INTERNAL, "tensor \"%s\" is not small", t->name);
    if (b->window.file != t->file || t->offset < b->window.begin ||
        t->offset + t->bytes > b->window.end)
        SY_TRY(move_window(b, t));
    memcpy(dst, b->window.bytes + (t->offset - b->window.begin), t->bytes);
done:
    return st;
}

static sy_status append(sy_bind_list *list, const sy_bind_item *item) {
    if (list->n == list->capacity) {
        size_t capacity = list->capacity == 0 ? 256 : 2 * list->capacity;
        sy_bind_item *grown = realloc(list->item, capacity * sizeof *grown);
        if (grown == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the list of tensors");
        list->item = grown;
        list->capacity = capacity;
    }
    list->item[list->n++] = *item;
    return SY_OK;
}

static void shape_text(char *buf, size_t size, int rank, const int64_t *shape) {
    size_t used = (size_t)snprintf(buf, size, "[");
    for (int i = 0; i < rank && used < size; i++)
        used += (size_t)snprintf(buf + used, size - used, i == 0 ? "%" PRId64 : ", %" PRId64,
                                 shape[i]);
    if (used < size) snprintf(buf + used, size - used, "]");
}

sy_status sy_binder_fail(const sy_binder *b,
                         const sy_tensor_entry *t,
                         sy_status status,
                         const char *format,
                         ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return sy_fail(status, "%s/%s: tensor \"%s\": %s", b->checkpoint->directory,
                   b->checkpoint->file_name[t->file], t->name, text);
}

sy_status
sy_binder_refuse_dtype(const sy_binder *b, const sy_tensor_entry *t, const char *expected) {
    return sy_binder_fail(b, t, SY_ERR_UNSUPPORTED, "has dtype %s; expected %s",
                          sy_dtype_name(t->dtype), expected);
}

sy_status sy_binder_check_fp8_scale(const sy_binder *b, const sy_tensor_entry *s) {
    if (s->dtype == SY_F32 || s->dtype == SY_BF16 || s->dtype == SY_F16 ||
        s->dtype == SY_F8_E8M0)
        return SY_OK;
    return sy_binder_refuse_dtype(b, s, "F32, BF16, F16 or F8_E8M0");
}

sy_status sy_binder_check_block_size(const sy_binder *b, const sy_tensor_entry *codes) {
    const sy_quantization *q = &b->spec->quant;
    if (q->scales != SY_QUANT_PER_BLOCK || (q->block_rows == 128 && q->block_cols == 128))
        return SY_OK;
    return sy_binder_fail(b, codes, SY_ERR_UNSUPPORTED,
                          "the config has a scale for blocks of %d x %d; expected 128 x 128",
                          q->block_rows, q->block_cols);
}

sy_status sy_binder_check_shape(const sy_binder *b,
                                const sy_tensor_entry *t,
                                int rank,
                                const int64_t *shape) {
    if (t->rank == rank && memcmp(t->shape, shape, (size_t)rank * sizeof *shape) == 0)
        return SY_OK;
    char expected[128], found[256];
    shape_text(expected, sizeof expected, rank, shape);
    shape_text(found, sizeof found, t->rank, t->shape);
    return sy_binder_fail(b, t, SY_ERR_FORMAT, "expected shape %s, found %s", expected, found);
}

sy_status sy_binder_require(sy_binder *b,
                            const char *name,
                            int rank,
                            const int64_t *shape,
                            const sy_tensor_entry **out) {
    sy_status st = SY_OK;
    const sy_tensor_entry *t = sy_binder_find(b, name);
    *out = NULL;
    if (b->checkpoint == NULL) return SY_OK;
    if (t == NULL)
        SY_FAIL(SY_ERR_FORMAT, "%s: tensor \"%s\" is missing", b->checkpoint->directory, name);
    SY_TRY(sy_binder_check_shape(b, t, rank, shape));
    if (t->dtype != SY_F32 && t->dtype != SY_F16 && t->dtype != SY_BF16)
        SY_TRY(sy_binder_refuse_dtype(b, t, "F32, F16 or BF16"));
    *out = t;
done:
    return st;
}

sy_status sy_binder_check_cut(const sy_binder *b, const sy_piece *whole) {
    if (whole->order == SY_INT4_ROWS) return SY_OK;
    return sy_binder_fail(b, whole->codes, SY_ERR_UNSUPPORTED,
                          "this weight is used in parts, which is not supported in the formats "
                          "of AWQ and GPTQ");
}

sy_piece sy_piece_from(const sy_piece *whole, int64_t row0) {
    sy_piece piece = *whole;
    piece.row0 += row0;
    if (piece.quant.outputs > 1 && (piece.row0 - piece.base_row) % piece.quant.outputs != 0) {
        piece.quant.outputs = 1;
        piece.spread = true;
    }
    return piece;
}

sy_piece sy_piece_of_expert(const sy_piece *first, int64_t expert, const sy_stack_rows *rows) {
    sy_piece piece = *first;
    *(piece.across ? &piece.column0 : &piece.row0) += expert * rows->codes;
    piece.base_row += expert * rows->codes;
    piece.scale_row += expert * rows->scales;
    return piece;
}

sy_status sy_binder_take(sy_binder *b,
                         int parts,
                         int64_t n,
                         int64_t k,
                         const sy_piece *from,
                         bool plain,
                         sy_matrix *m) {
    bool quantised = sy_is_quantised(from->dtype) && !plain;
    *m = (sy_matrix){.parts = parts, .n = n, .k = k};
    if (quantised) {
        m->dtype = from->dtype;
        m->quant = from->quant;
    } else {
        sy_dtype dtype = sy_is_quantised(from->dtype) ? SY_F32 : from->dtype;
        m->dtype = b->be->ops->stored_dtype(b->be, dtype);
    }
    uint64_t bytes = b->be->ops->matrix_bytes(b->be, m);
    if (bytes == UINT64_MAX && quantised && from->codes != NULL)
        return sy_binder_fail(b, from->codes, SY_ERR_UNSUPPORTED,
                              "--device %s does not compute with %s weights and such scales",
                              b->be->ops->name, sy_dtype_name(m->dtype));
    m->data = sy_arena_take(b->arena, bytes, 1);
    return SY_OK;
}

sy_status
sy_binder_fill(sy_binder *b, sy_matrix *m, int part, const sy_piece *from, bool routed) {
    if (b->list == NULL) return SY_OK;
    m->quant.factor[part] = from->quant.factor[0];
    return append(b->list, &(sy_bind_item){.from = *from,
                                           .matrix = m,
                                           .part = part,
                                           .rows = m->n,
                                           .columns = m->k,
                                           .routed = routed});
}

sy_status sy_binder_fill_pair(sy_binder *b, sy_matrix *m, const sy_piece *gate) {
    sy_status st = SY_OK;
    if (b->list == NULL) goto done;
    SY_TRY(sy_binder_fill(b, m, 0, gate, true));
    b->list->item[b->list->n - 1].pair = true;
done:
    return st;
}

sy_status sy_binder_matrix(sy_binder *b,
                           sy_weight_kind kind,
                           const char *module,
                           int64_t n,
                           int64_t k,
                           sy_matrix *m) {
    sy_status st = SY_OK;
    sy_piece whole;
    SY_TRY(sy_binder_weight(b, kind, module, n, k, &whole));
    SY_TRY(sy_binder_take(b, 1, n, k, &whole, false, m));
    SY_TRY(sy_binder_fill(b, m, 0, &whole, false));
done:
    return st;
}

float *sy_binder_take_vector(sy_binder *b, int64_t n) {
    return sy_arena_take(b->arena, (uint64_t)n, sizeof(float));
}

sy_status
sy_binder_fill_vector(sy_binder *b, float *v, int64_t n, const sy_piece *from, float dummy) {
    if (b->list == NULL) return SY_OK;
    return append(
        b->list,
        &(sy_bind_item){.from = *from, .vector = v, .rows = n, .columns = 1, .dummy = dummy});
}

sy_status
sy_binder_vector(sy_binder *b, const char *name, int64_t n, float dummy, const float **out) {
    sy_status st = SY_OK;
    sy_piece whole = {
        .seed = sy_binder_seed(name), .width = 1, .row_step = 1, .dtype = SY_BF16};
    SY_TRY(sy_binder_require(b, name, 1, &n, &whole.codes));
    if (whole.codes != NULL) whole.dtype = whole.codes->dtype;
    float *v = sy_binder_take_vector(b, n);
    *out = v;
    SY_TRY(sy_binder_fill_vector(b, v, n, &whole, dummy));
done:
    return st;
}
