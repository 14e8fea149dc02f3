#include "runtime/weight_read.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/int4.h"
#include "runtime/weight_decode.h"

enum { BLOCK_ROWS = 128 };

static bool is_quantised(const sy_bind_item *item) {
    return sy_is_quantised(item->from.dtype);
}

/* Codes that are decoded, since the matrix is not kept in their format. */
static bool is_decoded(const sy_bind_item *item) {
    return is_quantised(item) && !sy_is_quantised(item->matrix->dtype);
}

/* What needs all rows at once. */
static bool is_whole(const sy_bind_item *item) {
    return item->from.across || item->from.order != SY_INT4_ROWS;
}

static sy_dtype given_dtype(const sy_bind_item *item) {
    return is_decoded(item) ? SY_F32 : item->from.dtype;
}

static int64_t n_scales(const sy_bind_item *item) {
    return sy_scales_of_row(&item->from.quant, item->columns);
}

static uint64_t scale_row_bytes(const sy_bind_item *item) {
    return (uint64_t)n_scales(item) * (uint64_t)sy_dtype_bits(item->from.quant.scale) / 8;
}

static int n_parts(const sy_bind_item *item) {
    return item->pair ? 2 : 1;
}

int64_t sy_weight_chunk_rows(const sy_bind_item *item, int64_t bytes) {
    const int64_t step = BLOCK_ROWS;
    if (item->vector != NULL || is_whole(item)) return item->rows;
    uint64_t row =
        sy_code_row_bytes(given_dtype(item), item->columns) * (uint64_t)n_parts(item);
    int64_t groups = bytes / ((int64_t)row * step);
    return sy_max(groups, 1) * step;
}

uint64_t sy_weight_bytes(const sy_bind_item *item, int64_t n_rows) {
    uint64_t row = sy_code_row_bytes(item->from.dtype, item->columns);
    if (is_quantised(item)) {
        if (item->from.quant.outputs == 1) row += scale_row_bytes(item);
        if (item->from.quant.zeros) row += (uint64_t)n_scales(item) / 2;
    }
    return row * (uint64_t)(n_rows * n_parts(item));
}

sy_weight_slot sy_weight_map(const sy_bind_item *item, int64_t n_rows) {
    sy_weight_slot map;
    uint64_t rows = (uint64_t)(n_rows * n_parts(item));
    bool scaled = is_quantised(item) && !is_decoded(item);
    map.scales = sy_code_row_bytes(given_dtype(item), item->columns) * rows;
    map.scales += 2 * SY_DIRECT_ALIGNMENT;
    map.zeros = map.scales + (scaled ? scale_row_bytes(item) * rows : 0);
    map.end =
        map.zeros + (scaled && item->from.quant.zeros ? (uint64_t)n_scales(item) * rows : 0);
    return map;
}

uint64_t sy_weight_slot_bytes(const sy_bind_item *item, int64_t n_rows) {
    return sy_weight_map(item, n_rows).end;
}

static sy_status take(void *out, uint64_t bytes) {
    void *p = malloc(bytes > 0 ? bytes : 1);
    memcpy(out, &p, sizeof p);
    return p != NULL ? SY_OK : sy_fail(SY_ERR_MEMORY, "no memory for reading weights");
}

/* Stored rows first, first + step, ... of a tensor, each row_bytes long, one behind the other. */
static sy_status read_rows(const sy_checkpoint *c,
                           const sy_tensor_entry *t,
                           int64_t first,
                           int64_t step,
                           int64_t n,
                           uint64_t row_bytes,
                           char *out) {
    sy_status st = SY_OK;
    char *all = NULL;
    uint64_t begin = (uint64_t)first * row_bytes;
    uint64_t bytes = ((uint64_t)(n - 1) * (uint64_t)step + 1) * row_bytes;
    if (n == 0) return SY_OK;
    if (step == 1) return sy_checkpoint_read(c, t, begin, bytes, out);
    SY_TRY(take(&all, bytes));
    SY_TRY(sy_checkpoint_read(c, t, begin, bytes, all));
    for (int64_t r = 0; r < n; r++)
        memcpy(out + (uint64_t)r * row_bytes, all + (uint64_t)(r * step) * row_bytes,
               row_bytes);
done:
    free(all);
    return st;
}

/* The scales of stored rows [first, ...): one for each, for each block of rows, or one in all. Where
 * the matrix wants one for each row and the file has them for blocks, they are repeated. */
static sy_status read_scales(const sy_checkpoint *c,
                             const sy_bind_item *item,
                             int64_t first,
                             int64_t n_rows,
                             char *out) {
    sy_status st = SY_OK;
    const sy_piece *from = &item->from;
    uint64_t bytes = scale_row_bytes(item);
    char *blocks = NULL;
    int64_t row = first - from->base_row;
    if (from->has_single) {
        memcpy(out, from->single, bytes);
        return SY_OK;
    }
    if (from->quant.outputs == 0)
        return read_rows(c, from->scales, from->scale_row, 1, 1, bytes, out);
    if (from->quant.outputs == 1 && !from->spread)
        return read_rows(c, from->scales, from->scale_row + row, from->row_step, n_rows, bytes,
                         out);
    int64_t block = row / BLOCK_ROWS;
    int64_t n = (row + n_rows - 1) / BLOCK_ROWS - block + 1, at = from->scale_row + block;
    if (!from->spread) return read_rows(c, from->scales, at, 1, n, bytes, out);
    SY_TRY(take(&blocks, (uint64_t)n * bytes));
    SY_TRY(read_rows(c, from->scales, at, 1, n, bytes, blocks));
    for (int64_t r = 0; r < n_rows; r++)
        memcpy(out + (uint64_t)r * bytes,
               blocks + (uint64_t)((row + r) / BLOCK_ROWS - block) * bytes, bytes);
done:
    free(blocks);
    return st;
}

/* Zero points of stored rows [first, first + n): eight rows a word of the file. */
static sy_status read_zeros(const sy_checkpoint *c,
                            const sy_bind_item *item,
                            int64_t first,
                            int64_t n_rows,
                            uint8_t *out) {
    sy_status st = SY_OK;
    int64_t groups = n_scales(item), word = first / 8;
    int64_t n_words = (first + n_rows - 1) / 8 - word + 1;
    uint8_t *bytes = NULL;
    char *words = NULL;
    SY_TRY(take(&words, (uint64_t)(n_words * groups) * 4));
    SY_TRY(take(&bytes, (uint64_t)(n_words * 8 * groups)));
    SY_TRY(read_rows(c, item->from.zeros, word, 1, n_words, (uint64_t)groups * 4, words));
    sy_int4_zeros_from_words(n_words * 8, groups, words, bytes);
    memcpy(out, bytes + (first - word * 8) * groups, (size_t)(n_rows * groups));
done:
    free(words);
    free(bytes);
    return st;
}

/* Stored rows [first, first + 2 n): even ones to `out`, one behind the other, odd ones behind
 * those. */
static sy_status read_by_turns(const sy_checkpoint *c,
                               const sy_tensor_entry *t,
                               int64_t first,
                               int64_t n,
                               uint64_t row_bytes,
                               bool direct,
                               char *out) {
    sy_status st = SY_OK;
    uint64_t begin = (uint64_t)first * row_bytes, bytes = 2 * (uint64_t)n * row_bytes;
    char *memory = NULL;
    /* Of malloc, which keeps such memory for the next chunk, where aligned_alloc maps it anew. */
    SY_TRY(take(&memory, bytes + 3 * SY_DIRECT_ALIGNMENT));
    char *aligned = memory + (-(uintptr_t)memory & (SY_DIRECT_ALIGNMENT - 1));
    const void *read = aligned;
    if (direct)
        SY_TRY(sy_checkpoint_read_direct(c, t, begin, bytes, aligned, &read));
    else
        SY_TRY(sy_checkpoint_read(c, t, begin, bytes, aligned));
    for (int64_t r = 0; r < 2 * n; r++)
        memcpy(out + (uint64_t)(r % 2 * n + r / 2) * row_bytes,
               (const char *)read + (uint64_t)r * row_bytes, row_bytes);
done:
    free(memory);
    return st;
}

/* Both parts of a pair as they are stored, quantised with a scale for each row or not at all. */
static sy_status read_pair(const sy_checkpoint *c,
                           const sy_bind_item *item,
                           int64_t first,
                           int64_t n_rows,
                           bool direct,
                           char *slot,
                           sy_weight_source out[2]) {
    sy_status st = SY_OK;
    const sy_piece *from = &item->from;
    sy_weight_slot map = sy_weight_map(item, n_rows);
    uint64_t row = sy_code_row_bytes(from->dtype, from->width), scales = scale_row_bytes(item);
    for (int i = 0; i < 2; i++)
        out[i] = (sy_weight_source){.dtype = from->dtype,
                                    .codes = slot + (uint64_t)(i * n_rows) * row};
    SY_TRY(read_by_turns(c, from->codes, first, n_rows, row, direct, slot));
    if (!is_quantised(item)) goto done;
    int64_t scale_row = from->scale_row + first - from->base_row;
    SY_TRY(read_by_turns(c, from->scales, scale_row, n_rows, scales, false, slot + map.scales));
    for (int i = 0; i < 2; i++)
        out[i].scales = slot + map.scales + (uint64_t)(i * n_rows) * scales;
done:
    return st;
}

/* Stored rows as they are: codes with their scales and zero points. */
static sy_status read_stored(const sy_checkpoint *c,
                             const sy_bind_item *item,
                             int64_t first,
                             int64_t n_rows,
                             const sy_weight_slot *map,
                             bool direct,
                             char *slot,
                             sy_weight_source *out) {
    sy_status st = SY_OK;
    const sy_piece *from = &item->from;
    uint64_t row = sy_code_row_bytes(from->dtype, from->width);
    *out = (sy_weight_source){.dtype = from->dtype, .codes = slot};
    if (direct && from->row_step == 1)
        SY_TRY(sy_checkpoint_read_direct(c, from->codes, (uint64_t)first * row,
                                         (uint64_t)n_rows * row, slot, &out->codes));
    else
        SY_TRY(read_rows(c, from->codes, first, from->row_step, n_rows, row, slot));
    if (!is_quantised(item)) goto done;
    SY_TRY(read_scales(c, item, first, n_rows, slot + map->scales));
    out->scales = slot + map->scales;
    if (!from->quant.zeros) goto done;
    out->zeros = (const uint8_t *)slot + map->zeros;
    SY_TRY(read_zeros(c, item, first, n_rows, (uint8_t *)slot + map->zeros));
done:
    return st;
}

/* What is packed has its scales checked there. Decoded weights have theirs checked here. */
static sy_status check_scales(const sy_checkpoint *c,
                              const sy_piece *from,
                              const void *scales,
                              int64_t first_row,
                              int64_t n_rows) {
    int64_t rows = from->quant.outputs == 1 ? n_rows : 1, at = from->scale_row;
    int64_t columns = sy_scales_of_row(&from->quant, from->width);
    if (from->quant.outputs == 1) at += first_row;
    if (from->quant.outputs > 1) {
        at += first_row / BLOCK_ROWS;
        rows = (first_row + n_rows - 1) / BLOCK_ROWS - first_row / BLOCK_ROWS + 1;
    }
    for (int64_t i = 0; i < rows * columns; i++) {
        float scale = sy_value_at(from->quant.scale, scales, i);
        if (isfinite(scale)) continue;
        return sy_fail(SY_ERR_FORMAT,
                       "%s/%s: tensor \"%s\": expected finite scales, found %g in row %lld, "
                       "column %lld",
                       c->directory, c->file_name[from->scales->file], from->scales->name,
                       (double)scale, (long long)(at + i / columns), (long long)(i % columns));
    }
    return SY_OK;
}

/* Values of stored rows as float32 [n_rows, width], whatever their format. */
static sy_status read_decoded(const sy_checkpoint *c,
                              const sy_bind_item *item,
                              int64_t first,
                              int64_t n_rows,
                              float *out) {
    sy_status st = SY_OK;
    char *slot = NULL;
    sy_weight_source source;
    sy_bind_item stored = *item;
    sy_matrix as_stored = {.dtype = item->from.dtype, .quant = item->from.quant};
    stored.matrix = &as_stored;
    stored.rows = n_rows;
    stored.columns = item->from.width;
    sy_weight_slot map = sy_weight_map(&stored, n_rows);
    SY_TRY(take(&slot, map.end));
    SY_TRY(read_stored(c, &stored, first, n_rows, &map, false, slot, &source));
    SY_TRY(check_scales(c, &item->from, source.scales, first - item->from.base_row, n_rows));
    sy_weight_decode(&source, &item->from.quant, first - item->from.base_row, n_rows,
                     item->from.width, out);
done:
    free(slot);
    return st;
}

/* out[r][c] = stored row column0 + c, value row0 + r * row_step; elements of `size` bytes. */
static void gather_across(const sy_bind_item *item,
                          const char *stored,
                          int64_t row0,
                          size_t size,
                          char *out) {
    const sy_piece *from = &item->from;
    for (int64_t r = 0; r < item->rows; r++)
        for (int64_t c = 0; c < item->columns; c++, out += size)
            memcpy(out, stored + (uint64_t)(c * from->width + row0 + r * from->row_step) * size,
                   size);
}

static sy_status read_across(const sy_checkpoint *c,
                             const sy_bind_item *item,
                             char *slot,
                             sy_weight_source *out) {
    sy_status st = SY_OK;
    const sy_piece *from = &item->from;
    sy_dtype dtype = given_dtype(item);
    size_t size = (size_t)sy_dtype_bits(dtype) / 8;
    char *stored = NULL;
    SY_TRY(take(&stored, (uint64_t)(item->columns * from->width) * size));
    if (is_decoded(item))
        SY_TRY(read_decoded(c, item, from->column0, item->columns, (float *)(void *)stored));
    else
        SY_TRY(read_rows(c, from->codes, from->column0, 1, item->columns,
                         (uint64_t)from->width * size, stored));
    for (int i = 0; i < n_parts(item); i++) {
        char *part = slot + (uint64_t)(i * item->rows * item->columns) * size;
        gather_across(item, stored, from->row0 + i, size, part);
        out[i] = (sy_weight_source){.dtype = dtype, .codes = part};
    }
done:
    free(stored);
    return st;
}

void sy_weight_name_tensor(const sy_checkpoint *c, const sy_tensor_entry *t) {
    sy_status_context("%s/%s: tensor \"%s\"", c->directory, c->file_name[t->file], t->name);
}

/* Whether GPTQ's stored zero points are less one. The config's word for that is not to be trusted,
 * but of symmetric weights all zero points are 8: stored as 7, or as they are. */
static sy_status zeros_less_one(const sy_piece *from, const char *zeros, bool *out) {
    unsigned char first = (unsigned char)zeros[0];
    *out = from->order == SY_INT4_GPTQ;
    if (!from->symmetric) return SY_OK;
    for (uint64_t i = 0; i < from->zeros->bytes; i++)
        if ((unsigned char)zeros[i] != first || (first != 0x77 && first != 0x88))
            return sy_fail(SY_ERR_FORMAT,
                           "expected zero points of 7 or of 8 throughout, as symmetric weights "
                           "have, found 0x%02x at byte %llu",
                           (unsigned char)zeros[i], (unsigned long long)i);
    *out = first == 0x77;
    return SY_OK;
}

/* All of a weight whose file has rows of inputs. */
static sy_status read_by_inputs(const sy_checkpoint *c,
                                const sy_bind_item *item,
                                const sy_weight_slot *map,
                                char *slot,
                                sy_weight_source *out) {
    sy_status st = SY_OK;
    const sy_piece *from = &item->from;
    const sy_tensor_entry *tensor[4] = {from->codes, from->scales, from->zeros, from->groups};
    char *file[4] = {NULL};
    for (int i = 0; i < 4; i++) {
        if (tensor[i] == NULL) continue;
        SY_TRY(take(&file[i], tensor[i]->bytes));
        SY_TRY(sy_checkpoint_read(c, tensor[i], 0, tensor[i]->bytes, file[i]));
    }
    bool less_one = false;
    if (from->order != SY_INT4_AWQ) st = zeros_less_one(from, file[2], &less_one);
    if (st != SY_OK) sy_weight_name_tensor(c, from->zeros);
    SY_TRY(st);
    sy_int4_file layout = {.n = item->rows,
                           .k = item->columns,
                           .group = from->quant.group == 0 ? item->columns : from->quant.group,
                           .scale_bytes = sy_dtype_bits(from->quant.scale) / 8,
                           .codes = file[0],
                           .scales = file[1],
                           .zeros = file[2],
                           .zeros_less_one = less_one,
                           .g_idx = file[3]};
    sy_int4_rows rows = {(uint32_t *)(void *)slot, (uint8_t *)slot + map->zeros,
                         slot + map->scales};
    st = from->order == SY_INT4_AWQ ? sy_int4_from_awq(&layout, &rows)
                                    : sy_int4_from_gptq(&layout, &rows);
    if (st != SY_OK) sy_weight_name_tensor(c, from->codes);
    *out = (sy_weight_source){SY_U4, rows.codes, rows.scales, rows.zeros};
done:
    for (int i = 0; i < 4; i++)
        free(file[i]);
    return st;
}

sy_status sy_weight_read(const sy_checkpoint *checkpoint,
                         const sy_bind_item *item,
                         int64_t row0,
                         int64_t n_rows,
                         bool direct,
                         char *slot,
                         sy_weight_source *out) {
    const sy_piece *from = &item->from;
    sy_weight_slot map = sy_weight_map(item, n_rows);
    int64_t first = from->row0 + row0 * from->row_step;
    if (from->across) return read_across(checkpoint, item, slot, out);
    if (item->pair) return read_pair(checkpoint, item, first, n_rows, direct, slot, out);
    if (from->order != SY_INT4_ROWS) return read_by_inputs(checkpoint, item, &map, slot, out);
    if (is_decoded(item)) {
        *out = (sy_weight_source){.dtype = SY_F32, .codes = slot};
        return read_decoded(checkpoint, item, first, n_rows, (float *)(void *)slot);
    }
    return read_stored(checkpoint, item, first, n_rows, &map, direct, slot, out);
}
