#include "runtime/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/json.h"
#include "runtime/json_scan.h"

/* A header while it is read. Names are decoded in place and moved to the front of the text,
 * which never overtakes the cursor: a name takes more bytes as JSON than decoded. */
typedef struct header {
    sy_scan scan;
    uint64_t data_bytes; /* of the file, behind the header */
    sy_tensor_entry *entry;
    size_t n, capacity;
    size_t names_used;
} header;

char *sy_tensor_describe(const sy_tensor_entry *tensor, char buf[SY_SHAPE_TEXT_MAX]) {
    int used = snprintf(buf, SY_SHAPE_TEXT_MAX, "%s [", sy_dtype_name(tensor->dtype));
    for (int i = 0; i < tensor->rank; i++)
        used += snprintf(buf + used, SY_SHAPE_TEXT_MAX - (size_t)used, "%s%" PRId64,
                         i > 0 ? ", " : "", tensor->shape[i]);
    snprintf(buf + used, SY_SHAPE_TEXT_MAX - (size_t)used, "]");
    return buf;
}

static sy_status read_dtype(sy_scan *scan, sy_dtype *out) {
    sy_scan_text text;
    sy_status st = sy_scan_string(scan, &text);
    if (st != SY_OK) return st;
    if (text.has_control || !sy_dtype_from_name(text.data, out))
        return sy_fail(SY_ERR_FORMAT,
                       "dtype: expected one like BF16, F32 or U8, found \"%.32s\"",
                       text.has_control ? "?" : text.data);
    if (sy_dtype_bits(*out) < 8)
        return sy_fail(
            SY_ERR_UNSUPPORTED,
            "dtype %s is not supported: the format does not say how elements of less "
            "than a byte are packed",
            text.data);
    return SY_OK;
}

static sy_status read_shape(sy_scan *scan, sy_tensor_entry *entry) {
    sy_status st = SY_OK;
    bool more;
    entry->rank = 0;
    SY_TRY(sy_scan_open(scan, '['));
    for (bool first = true;; first = false) {
        uint64_t extent;
        SY_TRY(sy_scan_more(scan, ']', first, &more));
        if (!more) break;
        if (entry->rank == SY_TENSOR_MAX_RANK)
            SY_FAIL(SY_ERR_FORMAT, "shape: expected at most %d dimensions, found more",
                    SY_TENSOR_MAX_RANK);
        SY_TRY(sy_scan_uint(scan, &extent));
        if (extent > INT64_MAX)
            SY_FAIL(SY_ERR_FORMAT, "shape: expected extents of at most 2^63-1, found %" PRIu64,
                    extent);
        entry->shape[entry->rank++] = (int64_t)extent;
    }
done:
    return st;
}

static sy_status read_offsets(sy_scan *scan, uint64_t data_bytes, sy_tensor_entry *entry) {
    sy_status st = SY_OK;
    uint64_t offset[2];
    int n = 0;
    bool more;
    SY_TRY(sy_scan_open(scan, '['));
    for (bool first = true;; first = false) {
        SY_TRY(sy_scan_more(scan, ']', first, &more));
        if (!more) break;
        if (n == 2) SY_FAIL(SY_ERR_FORMAT, "data_offsets: expected two numbers, found more");
        SY_TRY(sy_scan_uint(scan, &offset[n++]));
    }
    if (n != 2) SY_FAIL(SY_ERR_FORMAT, "data_offsets: expected two numbers, found %d", n);
    if (offset[1] < offset[0])
        SY_FAIL(SY_ERR_FORMAT,
                "data_offsets: expected an end of at least %" PRIu64 ", found %" PRIu64,
                offset[0], offset[1]);
    if (offset[1] > data_bytes)
        SY_FAIL(SY_ERR_FORMAT,
                "data_offsets: expected an end within the %" PRIu64
                " bytes of data in the file, found %" PRIu64,
                data_bytes, offset[1]);
    entry->offset = offset[0];
    entry->bytes = offset[1] - offset[0];
done:
    return st;
}

/* The product goes left to right, so that a leading 0 hides an overflow, as in the reference. */
static sy_status check_size(const sy_tensor_entry *entry) {
    char shape[SY_SHAPE_TEXT_MAX];
    uint64_t bits = 1;
    bool fits = true;
    for (int i = 0; i < entry->rank; i++)
        fits = fits && sy_mul_u64(bits, (uint64_t)entry->shape[i], &bits);
    if (!fits || !sy_mul_u64(bits, (uint64_t)sy_dtype_bits(entry->dtype), &bits))
        return sy_fail(SY_ERR_FORMAT, "%s: the size overflows 64 bits",
                       sy_tensor_describe(entry, shape));
    if (bits / 8 != entry->bytes)
        return sy_fail(SY_ERR_FORMAT,
                       "%s: expected data_offsets that span %" PRIu64 " bytes, found %" PRIu64,
                       sy_tensor_describe(entry, shape), bits / 8, entry->bytes);
    return SY_OK;
}

/* {"dtype": "BF16", "shape": [..], "data_offsets": [begin, end]}, in any order; other keys are
 * ignored, as the format asks. */
static sy_status read_entry(header *h, sy_tensor_entry *entry) {
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    sy_status st = SY_OK;
    unsigned seen = 0;
    bool more;
    SY_TRY(sy_scan_open(&h->scan, '{'));
    for (bool first = true;; first = false) {
        sy_scan_text key;
        SY_TRY(sy_scan_more(&h->scan, '}', first, &more));
        if (!more) break;
        SY_TRY(sy_scan_key(&h->scan, &key));
        int which = 0;
        while (which < 3 && (key.has_control || strcmp(key.data, keys[which]) != 0))
            which++;
        if (which == 3) {
            SY_TRY(sy_scan_skip(&h->scan));
            continue;
        }
        if (seen & 1u << which) SY_FAIL(SY_ERR_FORMAT, "\"%s\" occurs twice", keys[which]);
        seen |= 1u << which;
        if (which == 0) SY_TRY(read_dtype(&h->scan, &entry->dtype));
        if (which == 1) SY_TRY(read_shape(&h->scan, entry));
        if (which == 2) SY_TRY(read_offsets(&h->scan, h->data_bytes, entry));
    }
    for (int i = 0; i < 3; i++)
        if (!(seen & 1u << i)) SY_FAIL(SY_ERR_FORMAT, "expected \"%s\", found none", keys[i]);
    SY_TRY(check_size(entry));
done:
    return st;
}

static int compare_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Strings by strings, or null. Nothing of it is kept; a key that occurs twice is refused, since
 * readers would differ in which one counts. */
static sy_status read_metadata(sy_scan *scan) {
    sy_status st = SY_OK;
    char **keys = NULL;
    size_t n = 0, capacity = 0;
    bool more;
    if (sy_scan_peek(scan) == 'n') return sy_scan_skip(scan);
    SY_TRY(sy_scan_open(scan, '{'));
    for (bool first = true;; first = false) {
        sy_scan_text key, value;
        SY_TRY(sy_scan_more(scan, '}', first, &more));
        if (!more) break;
        SY_TRY(sy_scan_key(scan, &key));
        if (key.has_control) SY_FAIL(SY_ERR_FORMAT, "a key holds a control character");
        SY_TRY(sy_scan_string(scan, &value));
        if (n == capacity) {
            capacity = capacity + capacity / 2 + 16;
            char **grown = realloc(keys, capacity * sizeof *keys);
            if (grown == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %zu keys", capacity);
            keys = grown;
        }
        keys[n++] = key.data;
    }
    if (n > 1) qsort(keys, n, sizeof *keys, compare_text);
    for (size_t i = 1; i < n; i++)
        if (strcmp(keys[i - 1], keys[i]) == 0)
            SY_FAIL(SY_ERR_FORMAT, "the key \"%.100s\" occurs twice", keys[i]);
done:
    free(keys);
    return st;
}

/* Appends an entry with this name. */
static sy_status add_entry(header *h, const sy_scan_text *name, sy_tensor_entry **out) {
    if (name->n == 0) return sy_fail(SY_ERR_FORMAT, "a tensor's name is empty");
    if (name->has_control)
        return sy_fail(SY_ERR_FORMAT, "tensor %zu: its name holds a NUL or control character",
                       h->n);
    if (name->n > SY_TENSOR_NAME_MAX)
        return sy_fail(
            SY_ERR_FORMAT,
            "tensor %zu: expected a name of at most %d bytes, found %zu: \"%.60s...\"", h->n,
            SY_TENSOR_NAME_MAX, name->n, name->data);
    if (h->n == h->capacity) {
        size_t capacity = h->capacity + h->capacity / 2 + 64;
        sy_tensor_entry *grown = realloc(h->entry, capacity * sizeof *grown);
        if (grown == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for %zu tensors", capacity);
        h->entry = grown;
        h->capacity = capacity;
    }
    *out = &h->entry[h->n++];
    memset(*out, 0, sizeof **out);
    (*out)->name = memmove(h->scan.text + h->names_used, name->data, name->n + 1);
    h->names_used += name->n + 1;
    return SY_OK;
}

static sy_status read_members(header *h) {
    sy_status st = SY_OK;
    bool more, has_metadata = false;
    SY_TRY(sy_scan_open(&h->scan, '{'));
    for (bool first = true;; first = false) {
        sy_scan_text name;
        SY_TRY(sy_scan_more(&h->scan, '}', first, &more));
        if (!more) break;
        SY_TRY(sy_scan_key(&h->scan, &name));
        if (!name.has_control && strcmp(name.data, "__metadata__") == 0) {
            if (has_metadata) SY_FAIL(SY_ERR_FORMAT, "\"__metadata__\" occurs twice");
            has_metadata = true;
            st = read_metadata(&h->scan);
            if (st != SY_OK) sy_status_context("__metadata__");
        } else {
            sy_tensor_entry *entry = NULL;
            SY_TRY(add_entry(h, &name, &entry));
            st = read_entry(h, entry);
            if (st != SY_OK) sy_status_context("tensor \"%s\"", entry->name);
        }
        if (st != SY_OK) goto done;
    }
    SY_TRY(sy_scan_end(&h->scan));
done:
    return st;
}

static int compare_name(const void *a, const void *b) {
    return strcmp(((const sy_tensor_entry *)a)->name, ((const sy_tensor_entry *)b)->name);
}

static sy_status order_by_name(header *h) {
    if (h->n > 1) qsort(h->entry, h->n, sizeof *h->entry, compare_name);
    for (size_t i = 1; i < h->n; i++)
        if (compare_name(&h->entry[i - 1], &h->entry[i]) == 0)
            return sy_fail(SY_ERR_FORMAT, "tensor \"%s\" occurs twice", h->entry[i].name);
    return SY_OK;
}

/* By begin; at one begin the empty tensors come first. */
static int compare_range(const void *a, const void *b) {
    const sy_tensor_entry *x = *(const sy_tensor_entry *const *)a;
    const sy_tensor_entry *y = *(const sy_tensor_entry *const *)b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* One owner per byte: each range begins where the one before it ends, and the last one ends the
 * file. */
static sy_status check_ranges(const header *h) {
    sy_status st = SY_OK;
    uint64_t at = 0;
    const sy_tensor_entry **order = malloc((h->n + 1) * sizeof *order);
    if (order == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %zu tensors", h->n);
    for (size_t i = 0; i < h->n; i++)
        order[i] = &h->entry[i];
    if (h->n > 1) qsort(order, h->n, sizeof *order, compare_range);
    for (size_t i = 0; i < h->n; i++) {
        if (order[i]->offset != at)
            SY_FAIL(SY_ERR_FORMAT,
                    "tensor \"%s\": expected to begin at byte %" PRIu64 " of the data, where "
                    "%s%s%s ends, found %" PRIu64 " (%s)",
                    order[i]->name, at, i > 0 ? "\"" : "the header",
                    i > 0 ? order[i - 1]->name : "", i > 0 ? "\"" : "", order[i]->offset,
                    order[i]->offset > at ? "a hole" : "an overlap");
        at += order[i]->bytes;
    }
    if (at != h->data_bytes)
        SY_FAIL(SY_ERR_FORMAT,
                "the tensors%s%s%s end at byte %" PRIu64 " of the data, expected %" PRIu64
                ", the end of the file",
                h->n > 0 ? " (last: \"" : "", h->n > 0 ? order[h->n - 1]->name : "",
                h->n > 0 ? "\")" : "", at, h->data_bytes);
done:
    free(order);
    return st;
}

/* Hands the entries over to a table that keeps the names and not the rest of the header. */
static sy_status
finish(header *h, uint64_t data_offset, uint64_t file_bytes, sy_safetensors **out) {
    sy_safetensors *table = calloc(1, sizeof *table);
    char *names = malloc(h->names_used + 1);
    if (table == NULL || names == NULL) {
        free(table);
        free(names);
        return sy_fail(SY_ERR_MEMORY, "no memory for the names of %zu tensors", h->n);
    }
    memcpy(names, h->scan.text, h->names_used);
    for (size_t i = 0; i < h->n; i++) {
        h->entry[i].name = names + (h->entry[i].name - h->scan.text);
        h->entry[i].offset += data_offset;
    }
    table->n_tensors = (int)h->n;
    table->tensor = h->entry;
    table->file_bytes = file_bytes;
    table->names = names;
    h->entry = NULL;
    *out = table;
    return SY_OK;
}

static sy_status read_bytes(int fd, void *dst, size_t n, uint64_t offset) {
    for (size_t have = 0; have < n;) {
        ssize_t got = pread(fd, (char *)dst + have, n - have, (off_t)(offset + have));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return sy_fail(SY_ERR_IO, "%s", strerror(errno));
        if (got == 0)
            return sy_fail(SY_ERR_IO, "expected %zu bytes of header, found %zu", n, have);
        have += (size_t)got;
    }
    return SY_OK;
}

static sy_status read_length(int fd, uint64_t file_bytes, uint64_t *out) {
    unsigned char raw[8];
    if (file_bytes < sizeof raw)
        return sy_fail(SY_ERR_FORMAT,
                       "expected at least 8 bytes of a safetensors file, found %" PRIu64,
                       file_bytes);
    sy_status st = read_bytes(fd, raw, sizeof raw, 0);
    if (st != SY_OK) return st;
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | raw[i];
    *out = n;
    if (n > SY_JSON_MAX_HEADER)
        return sy_fail(SY_ERR_FORMAT,
                       "header: expected at most %" PRIu64 " bytes, the file names %" PRIu64
                       " (not a safetensors file?)",
                       SY_JSON_MAX_HEADER, n);
    if (n > file_bytes - sizeof raw)
        return sy_fail(SY_ERR_FORMAT,
                       "header: expected %" PRIu64 " bytes, found %" PRIu64
                       " to the file's end",
                       n, file_bytes - sizeof raw);
    if (n == 0) return sy_fail(SY_ERR_FORMAT, "header: expected a JSON object, found 0 bytes");
    return SY_OK;
}

sy_status sy_safetensors_read(int fd, const char *name, sy_safetensors **out) {
    sy_status st = SY_OK;
    header h = {.scan = {.what = "header"}};
    uint64_t n = 0;
    struct stat info;
    *out = NULL;
    if (fstat(fd, &info) != 0) SY_FAIL(SY_ERR_IO, "%s", strerror(errno));
    if (!S_ISREG(info.st_mode)) SY_FAIL(SY_ERR_IO, "expected a regular file");
    uint64_t file_bytes = (uint64_t)info.st_size;
    SY_TRY(read_length(fd, file_bytes, &n));
    h.data_bytes = file_bytes - 8 - n;
    h.scan.size = (size_t)n;
    h.scan.text = malloc((size_t)n);
    if (h.scan.text == NULL)
        SY_FAIL(SY_ERR_MEMORY, "no memory for %" PRIu64 " bytes of header", n);
    SY_TRY(read_bytes(fd, h.scan.text, (size_t)n, 8));
    if (h.scan.text[0] != '{')
        SY_FAIL(SY_ERR_FORMAT, "header: expected '{' as its first byte, found 0x%02x",
                (unsigned char)h.scan.text[0]);
    if (!sy_utf8_valid(h.scan.text, h.scan.size))
        SY_FAIL(SY_ERR_FORMAT, "header: expected UTF-8, found other bytes");
    SY_TRY(read_members(&h));
    SY_TRY(order_by_name(&h));
    SY_TRY(check_ranges(&h));
    SY_TRY(finish(&h, 8 + n, file_bytes, out));
done:
    free(h.scan.text);
    free(h.entry);
    if (st != SY_OK) sy_status_context("%s", name);
    return st;
}

void sy_safetensors_destroy(sy_safetensors *table) {
    if (table == NULL) return;
    free(table->tensor);
    free(table->names);
    free(table);
}
