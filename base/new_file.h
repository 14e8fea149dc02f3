/* A file that appears whole or not at all: written under a temporary name beside its place, then
 * renamed. */
#ifndef SY_BASE_NEW_FILE_H
#define SY_BASE_NEW_FILE_H

#include <stdio.h>

#include "base/status.h"

typedef struct sy_new_file {
    FILE *f;
    char *path, *partial; /* partial: the temporary name; NULL: written in place */
} sy_new_file;

/* To become dir/name, in place of what is there. */
sy_status sy_new_file_open(const char *dir, const char *name, sy_new_file *file);
/* To become `path`; a link is followed. What is there and no regular file (a terminal, a pipe) is
 * written to in place. */
sy_status sy_new_file_open_path(const char *path, sy_new_file *file);
/* With SY_OK puts the file into its place, else takes it away; returns st, or what failed. A file
 * that was not opened is fine. */
sy_status sy_new_file_close(sy_new_file *file, sy_status st);

#endif
