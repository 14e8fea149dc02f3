#include "base/new_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* file->path is set. The last part of a name keeps clear of the longest name of a file (255). */
static sy_status open_partial(sy_new_file *file) {
    sy_status st = SY_OK;
    const char *slash = strrchr(file->path, '/'),
               *name = slash != NULL ? slash + 1 : file->path;
    int dir = (int)(name - file->path);
    size_t n = strlen(file->path) + 32;
    file->partial = malloc(n);
    if (file->partial == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a path");
    snprintf(file->partial, n, "%.*s.%.200s.%ld", dir, file->path, name, (long)getpid());
    int fd = -1;
    for (int attempt = 0; fd < 0 && attempt < 2; attempt++) {
        fd = open(file->partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        /* A process of this number died while it wrote. */
        if (fd < 0 && (errno != EEXIST || unlink(file->partial) != 0)) break;
    }
    if (fd < 0) SY_FAIL(SY_ERR_IO, "%s: %s", file->path, strerror(errno));
    file->f = fdopen(fd, "w");
    if (file->f == NULL) {
        close(fd);
        unlink(file->partial);
        SY_FAIL(SY_ERR_IO, "%s: %s", file->path, strerror(errno));
    }
done:
    return st;
}

sy_status sy_new_file_open(const char *dir, const char *name, sy_new_file *file) {
    sy_status st = SY_OK;
    size_t n = strlen(dir) + strlen(name) + 2;
    *file = (sy_new_file){.path = malloc(n)};
    if (file->path == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a path");
    snprintf(file->path, n, "%s/%s", dir, name);
    SY_TRY(open_partial(file));
done:
    if (st != SY_OK) sy_new_file_close(file, st);
    return st;
}

sy_status sy_new_file_open_path(const char *path, sy_new_file *file) {
    sy_status st = SY_OK;
    struct stat info;
    *file = (sy_new_file){.path = realpath(path, NULL)};
    bool exists = file->path != NULL;
    if (!exists) file->path = strdup(path);
    if (file->path == NULL) SY_FAIL(SY_ERR_MEMORY, "no memory for a path");
    if (exists && stat(file->path, &info) == 0 && !S_ISREG(info.st_mode)) {
        file->f = fopen(path, "w");
        if (file->f == NULL) SY_FAIL(SY_ERR_IO, "%s: %s", path, strerror(errno));
    } else {
        SY_TRY(open_partial(file));
    }
done:
    if (st != SY_OK) sy_new_file_close(file, st);
    return st;
}

sy_status sy_new_file_close(sy_new_file *file, sy_status st) {
    bool bad = false;
    errno = 0;
    if (file->f != NULL) {
        bool renames = file->partial != NULL;
        bad = fflush(file->f) != 0 || ferror(file->f) != 0;
        int reason = errno;
        bad = fclose(file->f) != 0 || bad;
        if (reason != 0) errno = reason;
        bad = bad || (renames && st == SY_OK && rename(file->partial, file->path) != 0);
        if (bad && st == SY_OK)
            st = sy_fail(SY_ERR_IO, "%s: %s", file->path,
                         errno != 0 ? strerror(errno) : "could not be written");
        if (renames && st != SY_OK) unlink(file->partial);
    }
    free(file->path);
    free(file->partial);
    *file = (sy_new_file){0};
    return st;
}
