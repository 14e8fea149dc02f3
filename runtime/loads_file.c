#include "runtime/loads_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/json.h"
#include "runtime/json_scan.h"

enum { MOST_RANKS = 4096, MOST_LAYERS = 4096, MOST_EXPERTS = 65536 };

void sy_loads_file_free(sy_loads_file *file) {
    if (file == NULL) return;
    for (int i = 0; i < file->n_layers; i++)
        free(file->layer[i].count);
    free(file->layer);
    free(file);
}

uint64_t sy_loads_of(const sy_loads_file *file, int index, int expert) {
    const uint64_t *count = file->layer[index].count + (size_t)expert * (size_t)file->n_ranks;
    uint64_t sum = 0;
    for (int r = 0; r < file->n_ranks; r++)
        sum += count[r];
    return sum;
}

/* ---- one pass over the text ----
 *
 * The keys of an object may come in any order, so a layer's counts are kept as a list of rows as
 * long as they are, and checked when all is read. */

typedef struct counts {
    uint64_t *v;
    size_t n, room;
    size_t row; /* values of the first row, and so of all */
    int n_rows;
} counts;

typedef struct loads_reader {
    const char *path;
    sy_scan scan;
    sy_loads_file *file;
    bool has_version, has_ranks, has_tokens, has_layers;
    size_t *row; /* [n_layers]: length of a layer's rows */
    int *n_rows; /* [n_layers] */
} loads_reader;

static sy_status
read_number(loads_reader *r, const char *key, uint64_t min, uint64_t max, uint64_t *out) {
    sy_status st = sy_scan_uint(&r->scan, out);
    if (st != SY_OK) {
        sy_status_context("\"%s\"", key);
        return st;
    }
    if (*out < min || *out > max)
        return sy_fail(SY_ERR_FORMAT,
                       "\"%s\": expected %" PRIu64 " to %" PRIu64 ", found %" PRIu64, key, min,
                       max, *out);
    return SY_OK;
}

static sy_status append(counts *c, uint64_t value) {
    if (c->n == c->room) {
        size_t room = c->room > 0 ? 2 * c->room : 256;
        uint64_t *more = realloc(c->v, room * sizeof *more);
        if (more == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for expert loads");
        c->v = more;
        c->room = room;
    }
    c->v[c->n++] = value;
    return SY_OK;
}

static sy_status read_row(loads_reader *r, counts *c) {
    sy_status st = SY_OK;
    size_t begin = c->n;
    bool more;
    uint64_t value;
    SY_TRY(sy_scan_open(&r->scan, '['));
    for (bool first = true;; first = false) {
        SY_TRY(sy_scan_more(&r->scan, ']', first, &more));
        if (!more) break;
        SY_TRY(sy_scan_uint(&r->scan, &value));
        SY_TRY(append(c, value));
    }
    if (c->n_rows == 0) c->row = c->n - begin;
    if (c->n - begin != c->row)
        SY_FAIL(SY_ERR_FORMAT, "expert %d: expected %zu ranks as for expert 0, found %zu",
                c->n_rows, c->row, c->n - begin);
    if (++c->n_rows > MOST_EXPERTS)
        SY_FAIL(SY_ERR_FORMAT, "more than %d experts", MOST_EXPERTS);
done:
    return st;
}

static sy_status read_counts(loads_reader *r, counts *c) {
    sy_status st = SY_OK;
    bool more;
    SY_TRY(sy_scan_open(&r->scan, '['));
    for (bool first = true;; first = false) {
        SY_TRY(sy_scan_more(&r->scan, ']', first, &more));
        if (!more) break;
        SY_TRY(read_row(r, c));
    }
done:
    return st;
}

/* Members of one layer; -1 and NULL where they are missing. */
static sy_status read_layer_members(loads_reader *r, sy_loads_layer *layer, counts *c) {
    sy_status st = SY_OK;
    bool more, has_counts = false;
    sy_scan_text key;
    uint64_t n;
    SY_TRY(sy_scan_open(&r->scan, '{'));
    for (bool first = true;; first = false) {
        SY_TRY(sy_scan_more(&r->scan, '}', first, &more));
        if (!more) break;
        SY_TRY(sy_scan_key(&r->scan, &key));
        if (strcmp(key.data, "layer") == 0 && layer->layer < 0) {
            SY_TRY(read_number(r, "layer", 0, MOST_LAYERS - 1, &n));
            layer->layer = (int)n;
        } else if (strcmp(key.data, "experts") == 0 && layer->experts < 0) {
            SY_TRY(read_number(r, "experts", 1, MOST_EXPERTS, &n));
            layer->experts = (int)n;
        } else if (strcmp(key.data, "top_k") == 0 && layer->top_k < 0) {
            SY_TRY(read_number(r, "top_k", 1, MOST_EXPERTS, &n));
            layer->top_k = (int)n;
        } else if (strcmp(key.data, "counts") == 0 && !has_counts) {
            has_counts = true;
            st = read_counts(r, c);
            if (st != SY_OK) sy_status_context("layers[%d]", r->file->n_layers);
            SY_TRY(st);
        } else {
            SY_TRY(sy_scan_skip(&r->scan));
        }
    }
    if (layer->layer < 0 || layer->experts < 0 || layer->top_k < 0 || !has_counts)
        SY_FAIL(SY_ERR_FORMAT, "layers[%d]: \"%s\" is missing", r->file->n_layers,
                layer->layer < 0     ? "layer"
                : layer->experts < 0 ? "experts"
                : layer->top_k < 0   ? "top_k"
                                     : "counts");
done:
    return st;
}

static sy_status keep_layer(loads_reader *r, const sy_loads_layer *layer, counts *c) {
    sy_loads_file *file = r->file;
    size_t n = (size_t)file->n_layers + 1;
    if (n > MOST_LAYERS) return sy_fail(SY_ERR_FORMAT, "more than %d layers", MOST_LAYERS);
    sy_loads_layer *more = realloc(file->layer, n * sizeof *more);
    if (more != NULL) file->layer = more;
    size_t *row = realloc(r->row, n * sizeof *row);
    if (row != NULL) r->row = row;
    int *n_rows = realloc(r->n_rows, n * sizeof *n_rows);
    if (n_rows != NULL) r->n_rows = n_rows;
    if (more == NULL || row == NULL || n_rows == NULL)
        return sy_fail(SY_ERR_MEMORY, "no memory for expert loads");
    more[n - 1] = *layer;
    more[n - 1].count = c->v;
    row[n - 1] = c->row;
    n_rows[n - 1] = c->n_rows;
    file->n_layers++;
    c->v = NULL;
    return SY_OK;
}

static sy_status read_layers(loads_reader *r) {
    sy_status st = SY_OK;
    counts c = {0};
    bool more;
    r->has_layers = true;
    SY_TRY(sy_scan_open(&r->scan, '['));
    for (bool first = true;; first = false) {
        sy_loads_layer layer = {.layer = -1, .experts = -1, .top_k = -1};
        SY_TRY(sy_scan_more(&r->scan, ']', first, &more));
        if (!more) break;
        SY_TRY(read_layer_members(r, &layer, &c));
        SY_TRY(keep_layer(r, &layer, &c));
        c = (counts){0};
    }
done:
    free(c.v);
    return st;
}

static sy_status read_model(loads_reader *r) {
    sy_scan_text text;
    sy_status st = sy_scan_string(&r->scan, &text);
    if (st != SY_OK) return st;
    if (text.has_control || text.n >= sizeof r->file->model)
        return sy_fail(SY_ERR_FORMAT, "\"model\": expected a name of at most %zu bytes",
                       sizeof r->file->model - 1);
    memcpy(r->file->model, text.data, text.n + 1);
    return SY_OK;
}

static sy_status read_members(loads_reader *r) {
    sy_status st = SY_OK;
    bool more;
    sy_scan_text key;
    uint64_t n;
    SY_TRY(sy_scan_open(&r->scan, '{'));
    for (bool first = true;; first = false) {
        SY_TRY(sy_scan_more(&r->scan, '}', first, &more));
        if (!more) break;
        SY_TRY(sy_scan_key(&r->scan, &key));
        if (strcmp(key.data, "version") == 0 && !r->has_version) {
            SY_TRY(read_number(r, "version", 1, 1, &n));
            r->has_version = true;
        } else if (strcmp(key.data, "model") == 0 && r->file->model[0] == '\0') {
            SY_TRY(read_model(r));
        } else if (strcmp(key.data, "ranks") == 0 && !r->has_ranks) {
            SY_TRY(read_number(r, "ranks", 1, MOST_RANKS, &n));
            r->file->n_ranks = (int)n;
            r->has_ranks = true;
        } else if (strcmp(key.data, "tokens") == 0 && !r->has_tokens) {
            SY_TRY(read_number(r, "tokens", 0, UINT64_MAX / MOST_EXPERTS, &r->file->tokens));
            r->has_tokens = true;
        } else if (strcmp(key.data, "layers") == 0 && !r->has_layers) {
            SY_TRY(read_layers(r));
        } else {
            SY_TRY(sy_scan_skip(&r->scan));
        }
    }
    SY_TRY(sy_scan_end(&r->scan));
done:
    return st;
}

/* ---- what must hold of all that was read ---- */

static sy_status check_layer(const loads_reader *r, int index) {
    const sy_loads_file *f = r->file;
    const sy_loads_layer *layer = &f->layer[index];
    uint64_t sum = 0, wanted = f->tokens * (uint64_t)layer->top_k;
    if (index > 0 && layer->layer <= layer[-1].layer)
        return sy_fail(SY_ERR_FORMAT, "%s: layer %d is listed behind layer %d", r->path,
                       layer->layer, layer[-1].layer);
    if (layer->top_k > layer->experts)
        return sy_fail(SY_ERR_FORMAT, "%s, layer %d: top_k is %d of %d experts", r->path,
                       layer->layer, layer->top_k, layer->experts);
    if (r->n_rows[index] != layer->experts)
        return sy_fail(SY_ERR_FORMAT, "%s, layer %d: expected counts of %d experts, found %d",
                       r->path, layer->layer, layer->experts, r->n_rows[index]);
    if (r->row[index] != (size_t)f->n_ranks)
        return sy_fail(SY_ERR_FORMAT,
                       "%s, layer %d: expected counts of %d ranks for each expert, found %zu",
                       r->path, layer->layer, f->n_ranks, r->row[index]);
    for (int e = 0; e < layer->experts; e++) {
        uint64_t mine = 0;
        bool fits = true;
        for (int k = 0; k < f->n_ranks; k++)
            fits = fits &&
                   sy_add_u64(mine, layer->count[(size_t)e * r->row[index] + (size_t)k], &mine);
        if (!fits || mine > f->tokens)
            return sy_fail(SY_ERR_FORMAT,
                           "%s, layer %d, expert %d: expected at most %" PRIu64
                           " tokens, all there are, found %" PRIu64 "%s",
                           r->path, layer->layer, e, f->tokens, mine, fits ? "" : " and more");
        sum += mine; /* at most tokens x experts, which fits */
    }
    if (sum != wanted)
        return sy_fail(SY_ERR_FORMAT,
                       "%s, layer %d: the counts sum to %" PRIu64 ", expected %" PRIu64
                       " (%" PRIu64 " tokens x top_k %d)",
                       r->path, layer->layer, sum, wanted, f->tokens, layer->top_k);
    return SY_OK;
}

static sy_status check_all(const loads_reader *r) {
    const char *missing = !r->has_version             ? "version"
                          : r->file->model[0] == '\0' ? "model"
                          : !r->has_ranks             ? "ranks"
                          : !r->has_tokens            ? "tokens"
                          : !r->has_layers            ? "layers"
                                                      : NULL;
    if (missing != NULL)
        return sy_fail(SY_ERR_FORMAT, "%s: \"%s\" is missing: not expert loads", r->path,
                       missing);
    if (r->file->n_layers == 0)
        return sy_fail(SY_ERR_FORMAT, "%s: no layer with experts is listed", r->path);
    for (int i = 0; i < r->file->n_layers; i++) {
        sy_status st = check_layer(r, i);
        if (st != SY_OK) return st;
    }
    return SY_OK;
}

sy_status sy_loads_read(const char *path, sy_loads_file **out) {
    sy_status st = SY_OK;
    char *text = NULL;
    size_t size;
    loads_reader r = {.path = path, .file = calloc(1, sizeof *r.file)};
    *out = NULL;
    if (r.file == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for expert loads");
    SY_TRY(sy_read_file(path, SY_LOADS_FILE_MAX, &text, &size));
    if (!sy_utf8_valid(text, size)) SY_FAIL(SY_ERR_FORMAT, "%s: not valid UTF-8", path);
    r.scan = (sy_scan){.text = text, .size = size, .what = "at"};
    st = read_members(&r);
    if (st != SY_OK) sy_status_context("%s", path);
    SY_TRY(st);
    SY_TRY(check_all(&r));
    *out = r.file;
    r.file = NULL;
done:
    sy_loads_file_free(r.file);
    free(r.row);
    free(r.n_rows);
    free(text);
    return st;
}

sy_status sy_loads_match(const sy_loads_file *a,
                         const char *name_a,
                         const sy_loads_file *b,
                         const char *name_b) {
    if (strcmp(a->model, b->model) != 0)
        return sy_fail(SY_ERR_FORMAT, "%s: loads of a model \"%s\", those of %s are of \"%s\"",
                       name_b, b->model, name_a, a->model);
    if (a->n_layers != b->n_layers)
        return sy_fail(SY_ERR_FORMAT, "%s: %d layers with experts, expected %d as in %s",
                       name_b, b->n_layers, a->n_layers, name_a);
    for (int i = 0; i < a->n_layers; i++) {
        const sy_loads_layer *x = &a->layer[i], *y = &b->layer[i];
        if (x->layer != y->layer || x->experts != y->experts || x->top_k != y->top_k)
            return sy_fail(SY_ERR_FORMAT,
                           "%s: layer %d with %d experts, top_k %d; expected layer %d with %d, "
                           "top_k %d as in %s",
                           name_b, y->layer, y->experts, y->top_k, x->layer, x->experts,
                           x->top_k, name_a);
    }
    return SY_OK;
}
