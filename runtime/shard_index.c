#include "runtime/shard_index.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "runtime/json_scan.h"
#include "runtime/safetensors.h"

enum { SHARD_NAME_MAX = 255 }; /* a file name on Linux */

static sy_status check_shard_name(const sy_scan_text *name) {
    static const char suffix[] = ".safetensors";
    size_t end = sizeof suffix - 1;
    bool plain = !name->has_control && name->n > end && name->n <= SHARD_NAME_MAX &&
                 strpbrk(name->data, "/\\") == NULL &&
                 strcmp(name->data + name->n - end, suffix) == 0;
    if (plain) return SY_OK;
    return sy_fail(SY_ERR_FORMAT,
                   "expected a plain file name NAME.safetensors, found \"%.80s\"",
                   name->has_control ? "(with control characters)" : name->data);
}

static sy_status
append(sy_shard_index *index, size_t *capacity, const char *tensor, const char *shard) {
    if ((size_t)index->n_entries == *capacity) {
        size_t more = *capacity + *capacity / 2 + 64;
        sy_shard_entry *grown = realloc(index->entry, more * sizeof *grown);
        if (grown == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for %zu tensors", more);
        index->entry = grown;
        *capacity = more;
    }
    index->entry[index->n_entries++] = (sy_shard_entry){.tensor = tensor, .shard = shard};
    return SY_OK;
}

static sy_status read_weight_map(sy_scan *scan, sy_shard_index *index) {
    sy_status st = SY_OK;
    size_t capacity = 0;
    bool more;
    SY_TRY(sy_scan_open(scan, '{'));
    for (bool first = true;; first = false) {
        sy_scan_text tensor, shard;
        SY_TRY(sy_scan_more(scan, '}', first, &more));
        if (!more) break;
        SY_TRY(sy_scan_key(scan, &tensor));
        if (tensor.n == 0 || tensor.n > SY_TENSOR_NAME_MAX || tensor.has_control)
            SY_FAIL(
                SY_ERR_FORMAT,
                "entry %d: expected a tensor name of 1 to %d bytes without control characters",
                index->n_entries, SY_TENSOR_NAME_MAX);
        st = sy_scan_string(scan, &shard);
        if (st == SY_OK) st = check_shard_name(&shard);
        if (st == SY_OK) st = append(index, &capacity, tensor.data, shard.data);
        if (st != SY_OK) {
            sy_status_context("tensor \"%s\"", tensor.data);
            goto done;
        }
    }
done:
    return st;
}

/* total_size is often wrong, or a real number after hand edits: it is told, never trusted. */
static sy_status read_metadata(sy_scan *scan, sy_shard_index *index) {
    sy_status st = SY_OK;
    bool more;
    if (sy_scan_peek(scan) != '{') return sy_scan_skip(scan);
    SY_TRY(sy_scan_open(scan, '{'));
    for (bool first = true;; first = false) {
        sy_scan_text key;
        SY_TRY(sy_scan_more(scan, '}', first, &more));
        if (!more) break;
        SY_TRY(sy_scan_key(scan, &key));
        size_t at = scan->at;
        if (!key.has_control && strcmp(key.data, "total_size") == 0) {
            index->has_total = sy_scan_uint(scan, &index->total_size) == SY_OK;
            if (index->has_total) continue;
            scan->at = at;
        }
        SY_TRY(sy_scan_skip(scan));
    }
done:
    return st;
}

static sy_status read_members(sy_scan *scan, sy_shard_index *index) {
    static const char *const keys[] = {"weight_map", "metadata"};
    sy_status st = SY_OK;
    bool more, seen[2] = {false, false};
    SY_TRY(sy_scan_open(scan, '{'));
    for (bool first = true;; first = false) {
        sy_scan_text key;
        SY_TRY(sy_scan_more(scan, '}', first, &more));
        if (!more) break;
        SY_TRY(sy_scan_key(scan, &key));
        int which = 0;
        while (which < 2 && (key.has_control || strcmp(key.data, keys[which]) != 0))
            which++;
        if (which < 2 && seen[which])
            SY_FAIL(SY_ERR_FORMAT, "\"%s\" occurs twice", keys[which]);
        if (which < 2) seen[which] = true;
        if (which == 0) {
            st = read_weight_map(scan, index);
            if (st != SY_OK) sy_status_context("\"weight_map\"");
        }
        if (which == 1) st = read_metadata(scan, index);
        if (which == 2) st = sy_scan_skip(scan);
        if (st != SY_OK) goto done;
    }
    SY_TRY(sy_scan_end(scan));
    if (!seen[0]) SY_FAIL(SY_ERR_FORMAT, "expected \"weight_map\", found none");
done:
    return st;
}

static int compare_tensor(const void *a, const void *b) {
    return strcmp(((const sy_shard_entry *)a)->tensor, ((const sy_shard_entry *)b)->tensor);
}

static int compare_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Orders the entries, lists each shard once, and gives each entry its shard's number. */
static sy_status arrange(sy_shard_index *index) {
    size_t n = (size_t)index->n_entries;
    if (n > 1) qsort(index->entry, n, sizeof *index->entry, compare_tensor);
    for (size_t i = 1; i < n; i++)
        if (compare_tensor(&index->entry[i - 1], &index->entry[i]) == 0)
            return sy_fail(SY_ERR_FORMAT, "tensor \"%s\" occurs twice", index->entry[i].tensor);

    index->shard = malloc((n + 1) * sizeof *index->shard);
    if (index->shard == NULL)
        return sy_fail(SY_ERR_MEMORY, "no memory for the names of shards");
    for (size_t i = 0; i < n; i++)
        index->shard[i] = index->entry[i].shard;
    if (n > 1) qsort(index->shard, n, sizeof *index->shard, compare_text);
    for (size_t i = 0; i < n; i++)
        if (index->n_shards == 0 ||
            strcmp(index->shard[index->n_shards - 1], index->shard[i]) != 0)
            index->shard[index->n_shards++] = index->shard[i];
    for (size_t i = 0; i < n; i++) {
        const char **at = bsearch(&index->entry[i].shard, index->shard, (size_t)index->n_shards,
                                  sizeof *index->shard, compare_text);
        index->entry[i].file = (int)(at - index->shard);
    }
    return SY_OK;
}

sy_status sy_shard_index_load(const char *path, sy_shard_index **out) {
    sy_status st = SY_OK;
    size_t size;
    *out = NULL;
    sy_shard_index *index = calloc(1, sizeof *index);
    if (index == NULL) SY_FAIL(SY_ERR_MEMORY, "%s: no memory", path);
    SY_TRY(sy_read_file(path, SY_JSON_MAX_HEADER, &index->text, &size));
    size_t bom = size >= 3 && memcmp(index->text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    sy_scan scan = {.text = index->text + bom, .size = size - bom, .what = "at"};
    st = sy_utf8_valid(scan.text, scan.size)
             ? read_members(&scan, index)
             : sy_fail(SY_ERR_FORMAT, "expected UTF-8, found other bytes");
    if (st == SY_OK) st = arrange(index);
    if (st != SY_OK) {
        sy_status_context("%s", path);
        goto done;
    }
    *out = index;
    index = NULL;
done:
    sy_shard_index_destroy(index);
    return st;
}

void sy_shard_index_destroy(sy_shard_index *index) {
    if (index == NULL) return;
    free(index->entry);
    free(index->shard);
    free(index->text);
    free(index);
}

int sy_shard_index_find(const sy_shard_index *index, const char *tensor) {
    sy_shard_entry key = {.tensor = tensor};
    if (index->n_entries == 0) return -1;
    const sy_shard_entry *at = bsearch(&key, index->entry, (size_t)index->n_entries,
                                       sizeof *index->entry, compare_tensor);
    return at == NULL ? -1 : (int)(at - index->entry);
}
