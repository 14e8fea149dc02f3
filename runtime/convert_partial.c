/* The directory of a conversion that is not done. Its conversion.json says which options and which
 * source its shards are of, and which of them are whole; it is replaced after each shard. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "runtime/convert_files.h"

static const char manifest_name[] = "conversion.json";
/* To be raised whenever equal options and sources would give other bytes than before. */
enum { CONVERSION_VERSION = 1 };

/* ---- what a conversion depends on ---- */

static sy_status hash_file(const sy_convert_plan *p, const char *name, uint64_t *hash) {
    char path[4096], *bytes = NULL;
    size_t n = 0;
    int used = snprintf(path, sizeof path, "%s/%s", p->checkpoint->directory, name);
    if (used < 0 || used >= (int)sizeof path)
        return sy_fail(SY_ERR_USAGE, "%s: the path is too long", p->checkpoint->directory);
    sy_status st = sy_read_file(path, SY_JSON_MAX_CONFIG, &bytes, &n);
    if (st == SY_OK) *hash = sy_hash_bytes(*hash, bytes, n);
    free(bytes);
    return st;
}

/* Names, sizes and times of the weight files, and the configuration's text. */
static sy_status find_identity(const sy_convert_plan *p, uint64_t *out) {
    sy_status st = SY_OK;
    const sy_checkpoint *c = p->checkpoint;
    *out = 0;
    for (int i = 0; i < c->n_files; i++) {
        struct stat info;
        if (fstat(c->fd[i], &info) != 0)
            SY_FAIL(SY_ERR_IO, "%s/%s: %s", c->directory, c->file_name[i], strerror(errno));
        *out = sy_hash_bytes(*out, c->file_name[i], strlen(c->file_name[i]));
        *out = sy_hash_add(*out, (uint64_t)info.st_size);
        *out = sy_hash_add(*out, (uint64_t)info.st_mtim.tv_sec);
        *out = sy_hash_add(*out, (uint64_t)info.st_mtim.tv_nsec);
    }
    SY_TRY(hash_file(p, sy_convert_config_name(p), out));
done:
    return st;
}

static sy_status describe_options(const sy_convert_options *o, char **out) {
    size_t n;
    FILE *f = open_memstream(out, &n);
    if (f == NULL) return sy_fail(SY_ERR_MEMORY, "no memory for the options' text");
    fprintf(f, "--to %s%s --shard-size %" PRIu64, sy_convert_format_name(o->to),
            o->all ? " --all" : "", o->shard_bytes);
    if (fclose(f) == 0) return SY_OK;
    free(*out);
    *out = NULL;
    return sy_fail(SY_ERR_MEMORY, "no memory for the options' text");
}

/* ---- conversion.json ---- */

static sy_status write_manifest(const sy_partial *partial, const sy_convert_plan *p) {
    sy_status st = SY_OK;
    char identity[24], *text = NULL;
    json_t *shards = json_object(), *manifest = NULL;
    snprintf(identity, sizeof identity, "%016" PRIx64, partial->identity);
    for (int i = 0; i < p->n_shards; i++)
        if (partial->finished[i])
            json_object_set_new(shards, p->shard[i].name,
                                json_integer((json_int_t)p->shard[i].header.file_bytes));
    manifest = json_pack("{s:i, s:s, s:s, s:O}", "version", CONVERSION_VERSION, "options",
                         partial->options, "source", identity, "shards", shards);
    text = manifest != NULL ? json_dumps(manifest, JSON_INDENT(1)) : NULL;
    if (text == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for %s", manifest_name);
    SY_TRY(sy_write_whole_file(partial->fd, partial->path, manifest_name, text, strlen(text)));
done:
    free(text);
    json_decref(shards);
    json_decref(manifest);
    return st;
}

/* Whether a shard is there as planned: its size, and its header byte by byte. */
static bool is_whole(const sy_partial *partial, const sy_convert_shard *s) {
    struct stat info;
    char *found = malloc((size_t)s->header.n);
    int fd = openat(partial->fd, s->name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    bool whole = found != NULL && fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode) &&
                 (uint64_t)info.st_size == s->header.file_bytes &&
                 pread(fd, found, (size_t)s->header.n, 0) == (ssize_t)s->header.n &&
                 memcmp(found, s->header.bytes, (size_t)s->header.n) == 0;
    if (fd >= 0) close(fd);
    free(found);
    return whole;
}

static void find_finished(sy_partial *partial, const sy_convert_plan *p, const json_t *shards) {
    for (int i = 0; i < p->n_shards; i++) {
        const sy_convert_shard *s = &p->shard[i];
        int64_t bytes = -1;
        const json_t *noted = json_object_get(shards, s->name);
        partial->finished[i] = noted != NULL && sy_json_integral(noted, &bytes) &&
                               (uint64_t)bytes == s->header.file_bytes && is_whole(partial, s);
        partial->n_kept += partial->finished[i];
    }
}

static sy_status read_manifest(sy_partial *partial, const sy_convert_plan *p, bool *is_ours) {
    sy_status st = SY_OK;
    char identity[24], *path = NULL;
    const char *options = "", *source = "";
    int64_t version = 0;
    json_t *manifest = NULL;
    size_t size = strlen(partial->path) + sizeof manifest_name + 1;
    *is_ours = faccessat(partial->fd, manifest_name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    if (!*is_ours) goto done;
    path = malloc(size);
    if (path == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a path");
    snprintf(path, size, "%s/%s", partial->path, manifest_name);
    SY_TRY(sy_json_load(path, SY_JSON_MAX_CONFIG, &manifest));
    SY_TRY(sy_json_get_int(manifest, path, "version", 0, INT32_MAX, &version));
    SY_TRY(sy_json_get_string(manifest, path, "options", &options));
    SY_TRY(sy_json_get_string(manifest, path, "source", &source));
    if (strcmp(options, partial->options) != 0)
        SY_FAIL(SY_ERR_USAGE,
                "%s is of a conversion with %s, not with %s; remove it, or name another OUT",
                partial->path, options, partial->options);
    snprintf(identity, sizeof identity, "%016" PRIx64, partial->identity);
    if (version == CONVERSION_VERSION && strcmp(source, identity) == 0)
        find_finished(partial, p, json_object_get(manifest, "shards"));
    else
        SY_WARN("%s is of another source, or the source has changed: begins anew",
                partial->path);
done:
    json_decref(manifest);
    free(path);
    return st;
}

/* ---- the directory ---- */

/* "model-00001-of-00002.safetensors", of any numbers. */
static bool is_shard_name(const char *name) {
    int a, b, used = 0;
    bool known = sscanf(name, "model-%5d-of-%5d.safetensors%n", &a, &b, &used) == 2 ||
                 sscanf(name, "consolidated-%5d-of-%5d.safetensors%n", &a, &b, &used) == 2;
    return known && used > 0 && name[used] == '\0';
}

/* Whether a conversion may have left a file of this name, under it or as a temporary one. */
static bool may_be_left(const char *name) {
    char plain[256];
    size_t n = strlen(name);
    bool temporary = n > 4 && strcmp(name + n - 4, ".tmp") == 0;
    snprintf(plain, sizeof plain, "%.*s", (int)(temporary ? n - 4 : n), name);
    return is_shard_name(plain) || sy_convert_is_file(plain) ||
           (temporary && strcmp(plain, manifest_name) == 0);
}

static bool is_finished(const sy_partial *partial, const sy_convert_plan *p, const char *name) {
    for (int i = 0; i < p->n_shards; i++)
        if (partial->finished[i] && strcmp(p->shard[i].name, name) == 0) return true;
    return false;
}

/* Removes what a conversion has left that is of no use now; all else is refused first. */
static sy_status
clear(const sy_partial *partial, const sy_convert_plan *p, bool is_ours, bool remove) {
    sy_status st = SY_OK;
    struct dirent *entry;
    int fd = dup(partial->fd);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    if (directory == NULL) {
        if (fd >= 0) close(fd);
        return sy_fail(SY_ERR_IO, "%s: %s", partial->path, strerror(errno));
    }
    rewinddir(directory);
    while ((entry = readdir(directory)) != NULL) {
        const char *name = entry->d_name;
        if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) continue;
        if (strcmp(name, manifest_name) == 0 || is_finished(partial, p, name)) continue;
        bool first_words = strcmp(name, "conversion.json.tmp") == 0; /* killed at its begin */
        if (!first_words && (!is_ours || !may_be_left(name)))
            SY_FAIL(SY_ERR_USAGE,
                    "%s holds \"%s\", which is of no conversion; remove it, or "
                    "name another OUT",
                    partial->path, name);
        if (remove && unlinkat(partial->fd, name, 0) != 0)
            SY_FAIL(SY_ERR_IO, "%s/%s: %s", partial->path, name, strerror(errno));
    }
done:
    closedir(directory);
    return st;
}

static sy_status name_directories(const char *target, sy_partial *out) {
    size_t n = strlen(target);
    while (n > 1 && target[n - 1] == '/')
        n--;
    out->target = strndup(target, n);
    out->path = malloc(n + sizeof ".partial");
    if (out->target == NULL || out->path == NULL)
        return sy_fail(SY_ERR_MEMORY, "no memory for a path");
    snprintf(out->path, n + sizeof ".partial", "%s.partial", out->target);
    return SY_OK;
}

static sy_status open_directory(sy_partial *out) {
    struct stat info;
    if (lstat(out->target, &info) == 0)
        return sy_fail(SY_ERR_USAGE, "%s exists already", out->target);
    if (mkdir(out->path, 0777) != 0 && errno != EEXIST)
        return sy_fail(SY_ERR_IO, "%s: %s", out->path, strerror(errno));
    out->fd = open(out->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (out->fd < 0) return sy_fail(SY_ERR_IO, "%s: %s", out->path, strerror(errno));
    if (flock(out->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
        return sy_fail(SY_ERR_USAGE, "%s: another conversion is writing there", out->path);
    return SY_OK;
}

sy_status
sy_partial_open(const sy_convert_plan *p, const sy_convert_options *options, sy_partial *out) {
    sy_status st = SY_OK;
    bool is_ours = false;
    *out = (sy_partial){.fd = -1};
    out->finished = calloc((size_t)p->n_shards + 1, sizeof *out->finished);
    if (out->finished == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for the list of shards");
    SY_TRY(describe_options(options, &out->options));
    SY_TRY(find_identity(p, &out->identity));
    SY_TRY(name_directories(options->target, out));
    SY_TRY(open_directory(out));
    SY_TRY(read_manifest(out, p, &is_ours));
    SY_TRY(clear(out, p, is_ours, false));
    SY_TRY(clear(out, p, is_ours, true));
    SY_TRY(write_manifest(out, p));
done:
    if (st != SY_OK) sy_partial_close(out);
    return st;
}

sy_status sy_partial_finished(sy_partial *partial, const sy_convert_plan *p, int shard) {
    partial->finished[shard] = true;
    return write_manifest(partial, p);
}

sy_status sy_partial_publish(sy_partial *partial) {
    if (rename(partial->path, partial->target) != 0)
        return sy_fail(SY_ERR_IO, "%s: cannot become %s: %s", partial->path, partial->target,
                       strerror(errno));
    /* Were it removed before and the process killed in between, nothing would go on here. */
    unlinkat(partial->fd, manifest_name, 0);
    fsync(partial->fd);
    return SY_OK;
}

void sy_partial_close(sy_partial *partial) {
    if (partial->fd > 0) close(partial->fd);
    free(partial->target);
    free(partial->path);
    free(partial->options);
    free(partial->finished);
    *partial = (sy_partial){.fd = -1};
}
