#define _GNU_SOURCE /* O_DIRECT */
#include "runtime/checkpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "runtime/shard_index.h"

/* What a checkpoint's files are called: by Hugging Face, and by Mistral. */
typedef struct file_names {
    const char *single, *index;
} file_names;
static const file_names known_names[] = {
    {"model.safetensors", "model.safetensors.index.json"},
    {"consolidated.safetensors", "consolidated.safetensors.index.json"},
};
enum { N_KNOWN_NAMES = sizeof known_names / sizeof known_names[0] };

/* Most that one pread returns on Linux. */
#define MAX_READ ((uint64_t)0x7ffff000)

static int compare_name(const void *a, const void *b) {
    const sy_tensor_entry *x = a, *y = b;
    int order = strcmp(x->name, y->name);
    return order != 0 ? order : (x->file > y->file) - (x->file < y->file);
}

static sy_status create(const char *directory, int n_files, sy_checkpoint **out) {
    sy_checkpoint *c = calloc(1, sizeof *c);
    *out = c;
    if (c != NULL) {
        size_t n = (size_t)n_files;
        c->directory = strdup(directory);
        c->file_name = calloc(n + 1, sizeof *c->file_name);
        c->names = calloc(n + 1, sizeof *c->names);
        c->fd = calloc(n + 1, sizeof *c->fd);
        c->direct_fd = malloc((n + 1) * sizeof *c->direct_fd);
        c->file_bytes = calloc(n + 1, sizeof *c->file_bytes);
    }
    if (c == NULL || c->directory == NULL || c->file_name == NULL || c->names == NULL ||
        c->fd == NULL || c->direct_fd == NULL || c->file_bytes == NULL)
        return sy_fail(SY_ERR_MEMORY, "%s: no memory for %d files", directory, n_files);
    return SY_OK;
}

/* Appends a file's entries to the common table and keeps the storage of their names. */
static sy_status take_tensors(sy_checkpoint *c, sy_safetensors *table, int file) {
    size_t have = (size_t)c->n_tensors, more = (size_t)table->n_tensors;
    if (more > (size_t)(INT32_MAX - c->n_tensors))
        return sy_fail(SY_ERR_FORMAT, "%s: more than 2^31 tensors", c->directory);
    sy_tensor_entry *grown = realloc(c->tensor, (have + more + 1) * sizeof *grown);
    if (grown == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for %zu tensors", have + more);
    c->tensor = grown;
    if (more > 0) memcpy(grown + have, table->tensor, more * sizeof *grown);
    for (size_t i = have; i < have + more; i++)
        grown[i].file = file;
    c->n_tensors += (int)more;
    c->names[file] = table->names;
    table->names = NULL;
    return SY_OK;
}

/* O_NONBLOCK: opening a fifo must not wait for a writer; sy_safetensors_read refuses it then. */
static sy_status open_file(sy_checkpoint *c, int directory_fd, const char *name) {
    sy_status st = SY_OK;
    sy_safetensors *table = NULL;
    int file = c->n_files;
    int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        SY_FAIL(SY_ERR_IO, "%s/%s: %s%s", c->directory, name, strerror(errno),
                errno == EMFILE ? " (see ulimit -n)" : "");
    c->file_name[file] = strdup(name);
    if (c->file_name[file] == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the name of a file");
    st = sy_safetensors_read(fd, name, &table);
    if (st != SY_OK) {
        sy_status_context("%s", c->directory);
        goto done;
    }
    SY_TRY(take_tensors(c, table, file));
    c->fd[file] = fd;
    c->direct_fd[file] = -1;
    c->file_bytes[file] = table->file_bytes;
    c->n_files++;
    fd = -1;
done:
    if (fd >= 0) close(fd);
    if (st != SY_OK) {
        free(c->file_name[file]);
        c->file_name[file] = NULL;
    }
    sy_safetensors_destroy(table);
    return st;
}

static sy_status order_tensors(sy_checkpoint *c) {
    const sy_tensor_entry *t = c->tensor;
    if (c->n_tensors > 1)
        qsort(c->tensor, (size_t)c->n_tensors, sizeof *c->tensor, compare_name);
    for (int i = 1; i < c->n_tensors; i++)
        if (strcmp(t[i - 1].name, t[i].name) == 0)
            return sy_fail(SY_ERR_FORMAT, "%s: tensor \"%s\" occurs in %s and in %s",
                           c->directory, t[i].name, c->file_name[t[i - 1].file],
                           c->file_name[t[i].file]);
    return SY_OK;
}

/* Every tensor of the index must be where it says. Both lists are ordered by name. */
static sy_status
check_index(const sy_checkpoint *c, const sy_shard_index *index, const char *index_path) {
    for (int i = 0; i < index->n_entries; i++) {
        const sy_shard_entry *e = &index->entry[i];
        const sy_tensor_entry *t = sy_checkpoint_find(c, e->tensor);
        if (t != NULL && t->file == e->file) continue;
        return sy_fail(SY_ERR_FORMAT, "%s names tensor \"%s\" in %s, found %s%s", index_path,
                       e->tensor, e->shard, t != NULL ? "it in " : "no such tensor there",
                       t != NULL ? c->file_name[t->file] : "");
    }
    return SY_OK;
}

/* Leaves out what the index does not name: a stale shard, or a hidden tensor. */
static void
drop_unlisted(sy_checkpoint *c, const sy_shard_index *index, const char *index_path) {
    int kept = 0;
    const char *example = NULL;
    for (int i = 0; i < c->n_tensors; i++) {
        if (sy_shard_index_find(index, c->tensor[i].name) >= 0)
            c->tensor[kept++] = c->tensor[i];
        else if (example == NULL)
            example = c->tensor[i].name;
    }
    c->n_unlisted = c->n_tensors - kept;
    c->n_tensors = kept;
    if (example != NULL)
        SY_WARN("left out %d tensor%s that %s does not name, such as \"%s\"", c->n_unlisted,
                c->n_unlisted == 1 ? "" : "s", index_path, example);
}

static void sum_bytes(sy_checkpoint *c) {
    c->tensor_bytes = 0; /* cannot overflow: each file's ranges lie within the file */
    for (int i = 0; i < c->n_tensors; i++)
        c->tensor_bytes += c->tensor[i].bytes;
}

static sy_status open_sharded(const char *directory,
                              int directory_fd,
                              const char *index_path,
                              sy_checkpoint **out) {
    sy_status st = SY_OK;
    sy_checkpoint *c = NULL;
    sy_shard_index *index = NULL;
    SY_TRY(sy_shard_index_load(index_path, &index));
    SY_TRY(create(directory, index->n_shards, &c));
    for (int i = 0; i < index->n_shards; i++)
        SY_TRY(open_file(c, directory_fd, index->shard[i]));
    SY_TRY(order_tensors(c));
    SY_TRY(check_index(c, index, index_path));
    drop_unlisted(c, index, index_path);
    sum_bytes(c);
    if (index->has_total && index->total_size != c->tensor_bytes)
        SY_WARN("%s says %" PRIu64 " bytes of tensors, found %" PRIu64, index_path,
                index->total_size, c->tensor_bytes);
    *out = c;
    c = NULL;
done:
    sy_shard_index_destroy(index);
    sy_checkpoint_close(c);
    return st;
}

static sy_status
open_single(const char *directory, int directory_fd, const char *name, sy_checkpoint **out) {
    sy_status st = SY_OK;
    sy_checkpoint *c = NULL;
    SY_TRY(create(directory, 1, &c));
    SY_TRY(open_file(c, directory_fd, name));
    SY_TRY(order_tensors(c));
    sum_bytes(c);
    *out = c;
    c = NULL;
done:
    sy_checkpoint_close(c);
    return st;
}

static sy_status
is_there(const char *directory, int directory_fd, const char *name, bool *out) {
    struct stat info;
    *out = fstatat(directory_fd, name, &info, 0) == 0;
    if (*out || errno == ENOENT) return SY_OK;
    return sy_fail(SY_ERR_IO, "%s/%s: %s", directory, name, strerror(errno));
}

static sy_status
open_index(const char *directory, int directory_fd, const char *name, sy_checkpoint **out) {
    size_t size = strlen(directory) + strlen(name) + 2;
    char *path = malloc(size);
    if (path == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for a path");
    snprintf(path, size, "%s/%s", directory, name);
    sy_status st = open_sharded(directory, directory_fd, path, out);
    free(path);
    return st;
}

sy_status sy_checkpoint_open(const char *directory, sy_checkpoint **out) {
    sy_status st = SY_OK;
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *out = NULL;
    if (fd < 0) SY_FAIL(SY_ERR_IO, "%s: %s", directory, strerror(errno));
    for (int i = 0; i < N_KNOWN_NAMES && *out == NULL; i++) {
        const file_names *names = &known_names[i];
        bool single = false, index = false;
        SY_TRY(is_there(directory, fd, names->single, &single));
        if (single) SY_TRY(open_single(directory, fd, names->single, out));
        if (!single) SY_TRY(is_there(directory, fd, names->index, &index));
        if (index) SY_TRY(open_index(directory, fd, names->index, out));
    }
    if (*out == NULL)
        SY_FAIL(SY_ERR_IO,
                "%s: expected model.safetensors or consolidated.safetensors, or the same with "
                ".index.json, found none",
                directory);
done:
    if (fd >= 0) close(fd);
    return st;
}

void sy_checkpoint_close(sy_checkpoint *c) {
    if (c == NULL) return;
    for (int i = 0; i < c->n_files; i++) {
        close(c->fd[i]);
        if (c->direct_fd[i] >= 0) close(c->direct_fd[i]);
        free(c->file_name[i]);
    }
    /* A file that was refused may have left its names behind the last whole one. */
    for (int i = 0; c->names != NULL && i <= c->n_files; i++)
        free(c->names[i]);
    free(c->file_name);
    free(c->names);
    free(c->fd);
    free(c->direct_fd);
    free(c->file_bytes);
    free(c->tensor);
    free(c->directory);
    free(c);
}

const sy_tensor_entry *sy_checkpoint_find(const sy_checkpoint *c, const char *name) {
    int low = 0, high = c->n_tensors;
    while (low < high) {
        int middle = low + (high - low) / 2, order = strcmp(name, c->tensor[middle].name);
        if (order == 0) return &c->tensor[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

static sy_status
check_range(const sy_checkpoint *c, const sy_tensor_entry *tensor, uint64_t begin, uint64_t n) {
    if (begin <= tensor->bytes && n <= tensor->bytes - begin) return SY_OK;
    return sy_fail(SY_ERR_INTERNAL,
                   "%s: tensor \"%s\": expected a range within %" PRIu64
                   " bytes, found %" PRIu64 " from %" PRIu64,
                   c->file_name[tensor->file], tensor->name, tensor->bytes, n, begin);
}

/* Reads up to `room` bytes from `offset` of a file, `least` of them at least. */
static sy_status read_file_at(const sy_checkpoint *c,
                              const sy_tensor_entry *tensor,
                              int fd,
                              uint64_t offset,
                              uint64_t least,
                              uint64_t room,
                              void *dst) {
    const char *file = c->file_name[tensor->file];
    for (uint64_t have = 0; have < least;) {
        uint64_t want = room - have < MAX_READ ? room - have : MAX_READ;
        ssize_t got = pread(fd, (char *)dst + have, (size_t)want, (off_t)(offset + have));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0)
            return sy_fail(SY_ERR_IO, "%s/%s: tensor \"%s\": %s", c->directory, file,
                           tensor->name, strerror(errno));
        if (got == 0)
            return sy_fail(SY_ERR_IO,
                           "%s/%s: tensor \"%s\": expected %" PRIu64 " bytes, found %" PRIu64
                           ": the file has shrunk since its header was read",
                           c->directory, file, tensor->name, least, have);
        have += (uint64_t)got;
    }
    return SY_OK;
}

sy_status sy_checkpoint_read(const sy_checkpoint *c,
                             const sy_tensor_entry *tensor,
                             uint64_t begin,
                             uint64_t n,
                             void *dst) {
    sy_status st = check_range(c, tensor, begin, n);
    if (st != SY_OK) return st;
    return read_file_at(c, tensor, c->fd[tensor->file], tensor->offset + begin, n, n, dst);
}

void sy_checkpoint_allow_direct(sy_checkpoint *c) {
    for (int i = 0; i < c->n_files; i++) {
        char path[64]; /* the open file itself, whatever its name says by now */
        snprintf(path, sizeof path, "/proc/self/fd/%d", c->fd[i]);
        if (c->direct_fd[i] < 0) c->direct_fd[i] = open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    }
}

sy_status sy_checkpoint_read_direct(const sy_checkpoint *c,
                                    const sy_tensor_entry *tensor,
                                    uint64_t begin,
                                    uint64_t n,
                                    void *slot,
                                    const void **data) {
    sy_status st = check_range(c, tensor, begin, n);
    if (st != SY_OK) return st;
    int fd = c->direct_fd[tensor->file];
    uint64_t offset = tensor->offset + begin, before = offset % SY_DIRECT_ALIGNMENT;
    uint64_t room =
        (before + n + SY_DIRECT_ALIGNMENT - 1) / SY_DIRECT_ALIGNMENT * SY_DIRECT_ALIGNMENT;
    /* Whole blocks around the range; the file's end may cut the last one short. Tensors may begin
     * at odd offsets, where the values would stand at odd addresses. */
    if (fd >= 0 && before % 4 == 0 &&
        read_file_at(c, tensor, fd, offset - before, before + n, room, slot) == SY_OK) {
        *data = (const char *)slot + before;
        return SY_OK;
    }
    *data = slot; /* not allowed, or a fault that the ordinary way will name */
    return sy_checkpoint_read(c, tensor, begin, n, slot);
}
