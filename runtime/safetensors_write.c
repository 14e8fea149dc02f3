#define _GNU_SOURCE /* fallocate */
#include "runtime/safetensors_write.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/json.h"

#define MAX_WRITE ((uint64_t)1 << 30)
enum { NAME_CHARS = 300 };

/* Offsets from the start of the data, largest elements first. */
static sy_status place(sy_tensor_entry *tensor, int n, uint64_t *data_bytes) {
    uint64_t at = 0;
    int placed = 0;
    for (int bits = 64; bits >= 8; bits /= 2)
        for (int i = 0; i < n; i++) {
            if (sy_dtype_bits(tensor[i].dtype) != bits) continue;
            tensor[i].offset = at;
            placed++;
            if (!sy_add_u64(at, tensor[i].bytes, &at) || at > INT64_MAX)
                return sy_fail(SY_ERR_UNSUPPORTED, "a file of more than 2^63 bytes");
        }
    if (placed != n)
        return sy_fail(SY_ERR_INTERNAL, "a tensor whose elements are no whole bytes");
    *data_bytes = at;
    return SY_OK;
}

static json_t *describe(const sy_tensor_entry *t) {
    json_t *shape = json_array();
    for (int i = 0; i < t->rank; i++)
        json_array_append_new(shape, json_integer(t->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", sy_dtype_name(t->dtype), "shape", shape,
                     "data_offsets", (json_int_t)t->offset, (json_int_t)(t->offset + t->bytes));
}

static char *header_text(const sy_tensor_entry *tensor, int n) {
    json_t *header = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    bool whole = header != NULL;
    for (int i = 0; i < n && whole; i++)
        whole = json_object_set_new(header, tensor[i].name, describe(&tensor[i])) == 0;
    char *text = whole ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    return text;
}

sy_status sy_shard_layout(sy_tensor_entry *tensor, int n, sy_shard_header *out) {
    sy_status st = SY_OK;
    uint64_t data_bytes = 0;
    char *text = NULL;
    *out = (sy_shard_header){0};
    SY_TRY(place(tensor, n, &data_bytes));
    text = header_text(tensor, n);
    if (text == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the header of %d tensors", n);
    uint64_t length = strlen(text), padded = (length + 7) / 8 * 8;
    if (padded > SY_JSON_MAX_HEADER)
        SY_FAIL(SY_ERR_UNSUPPORTED,
                "a file of %d tensors has a header of %" PRIu64 " bytes, more than %" PRIu64, n,
                padded, SY_JSON_MAX_HEADER);
    out->n = 8 + padded;
    out->file_bytes = out->n + data_bytes;
    out->bytes = malloc((size_t)out->n);
    if (out->bytes == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a header");
    for (int i = 0; i < 8; i++)
        out->bytes[i] = (char)(padded >> 8 * i & 0xff);
    memcpy(out->bytes + 8, text, (size_t)length);
    memset(out->bytes + 8 + length, ' ', (size_t)(padded - length));
    for (int i = 0; i < n; i++)
        tensor[i].offset += out->n;
done:
    free(text);
    return st;
}

void sy_shard_header_free(sy_shard_header *header) {
    free(header->bytes);
    *header = (sy_shard_header){0};
}

static void temporary_name(const char *name, char temporary[NAME_CHARS]) {
    snprintf(temporary, NAME_CHARS, "%s.tmp", name);
}

static sy_status failed(const sy_shard_writer *w) {
    return sy_fail(SY_ERR_IO, "%s/%s: %s", w->directory, w->name, strerror(errno));
}

/* Takes the room on the disk where the file system can do that without writing. */
static sy_status reserve(const sy_shard_writer *w, uint64_t bytes) {
    int failure;
    do
        failure = fallocate(w->fd, 0, 0, (off_t)bytes) == 0 ? 0 : errno;
    while (failure == EINTR);
    if (failure == 0 || failure == EOPNOTSUPP || failure == ENOSYS || failure == EINVAL)
        return SY_OK;
    errno = failure;
    return failed(w);
}

/* A new file under the temporary name, in place of one that may be left from before. */
static sy_status
create(int directory_fd, const char *directory, const char *name, sy_shard_writer *out) {
    char temporary[NAME_CHARS];
    *out = (sy_shard_writer){-1, directory_fd, directory, name};
    temporary_name(name, temporary);
    if (unlinkat(directory_fd, temporary, 0) != 0 && errno != ENOENT) return failed(out);
    out->fd = openat(directory_fd, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return out->fd >= 0 ? SY_OK : failed(out);
}

sy_status sy_shard_create(int directory_fd,
                          const char *directory,
                          const char *name,
                          const sy_shard_header *header,
                          sy_shard_writer *out) {
    sy_status st = create(directory_fd, directory, name, out);
    if (st == SY_OK) st = reserve(out, header->file_bytes);
    if (st == SY_OK) st = sy_shard_write(out, 0, header->bytes, header->n);
    return st == SY_OK ? SY_OK : sy_shard_finish(out, st);
}

sy_status
sy_shard_write(const sy_shard_writer *w, uint64_t offset, const void *data, uint64_t n) {
    for (uint64_t done = 0; done < n;) {
        uint64_t most = n - done < MAX_WRITE ? n - done : MAX_WRITE;
        ssize_t put =
            pwrite(w->fd, (const char *)data + done, (size_t)most, (off_t)(offset + done));
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return failed(w);
        done += (uint64_t)put;
    }
    return SY_OK;
}

sy_status sy_shard_finish(sy_shard_writer *w, sy_status st) {
    char temporary[NAME_CHARS];
    temporary_name(w->name, temporary);
    if (w->fd < 0) return st;
    if (st == SY_OK && fdatasync(w->fd) != 0) st = failed(w);
    if (close(w->fd) != 0 && st == SY_OK) st = failed(w);
    w->fd = -1;
    if (st == SY_OK && renameat(w->directory_fd, temporary, w->directory_fd, w->name) != 0)
        st = failed(w);
    if (st != SY_OK)
        unlinkat(w->directory_fd, temporary, 0);
    else if (fsync(w->directory_fd) != 0 && errno != EINVAL) /* not all file systems can */
        st = failed(w);
    return st;
}

sy_status sy_write_whole_file(int directory_fd,
                              const char *directory,
                              const char *name,
                              const void *bytes,
                              size_t n) {
    sy_shard_writer w;
    sy_status st = create(directory_fd, directory, name, &w);
    if (st != SY_OK) return st;
    return sy_shard_finish(&w, sy_shard_write(&w, 0, bytes, n));
}
