/* Conversions in a directory of the test's own. */
#ifndef SY_TESTS_CONVERT_FIXTURE_H
#define SY_TESTS_CONVERT_FIXTURE_H

#include <dirent.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/dtype.h"
#include "runtime/convert.h"
#include "tests/checkpoint_fixture.h"

enum { PATH_CHARS = 512 };

static char scratch[64]; /* a directory for everything, emptied after each test */

static inline int make_scratch(void **state) {
    (void)state;
    strcpy(scratch, "/tmp/sy_convert_XXXXXX");
    return mkdtemp(scratch) == NULL;
}

static inline int remove_scratch(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", scratch);
    return system(command);
}

__attribute__((format(printf, 2, 3))) static inline const char *
in_scratch(char path[PATH_CHARS], const char *format, ...) {
    int n = snprintf(path, PATH_CHARS, "%s/", scratch);
    va_list args;
    va_start(args, format);
    vsnprintf(path + n, (size_t)(PATH_CHARS - n), format, args);
    va_end(args);
    return path;
}

static inline sy_convert_options
wish(const char *source, const char *target, sy_convert_format to) {
    return (sy_convert_options){.source = source,
                                .target = target,
                                .to = to,
                                .shard_bytes = 4000000000u,
                                .n_threads = 2};
}

static inline sy_status convert(const sy_convert_options *o) {
    sy_convert_report report;
    return sy_convert(o, &report);
}

static inline bool exists(const char *path) {
    struct stat info;
    return lstat(path, &info) == 0;
}

static inline char *read_whole(const char *path, size_t *n) {
    char *bytes;
    MUST(sy_read_file(path, (uint64_t)1 << 30, &bytes, n));
    return bytes;
}

static inline int count_files(const char *directory) {
    int n = 0;
    DIR *d = opendir(directory);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* Both have the same files with the same bytes. */
static inline void check_same_directories(const char *a, const char *b) {
    assert_int_equal(count_files(a), count_files(b));
    DIR *d = opendir(a);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char path[PATH_CHARS + 300];
        size_t n_a, n_b;
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", a, e->d_name);
        char *of_a = read_whole(path, &n_a);
        snprintf(path, sizeof path, "%s/%s", b, e->d_name);
        char *of_b = read_whole(path, &n_b);
        if (n_a != n_b || memcmp(of_a, of_b, n_a) != 0) fail_msg("%s differs", path);
        free(of_a);
        free(of_b);
    }
    closedir(d);
}

static inline void check_error(sy_status found, sy_status expected, const char *text) {
    if (found != expected || strstr(sy_last_error(), text) == NULL)
        fail_msg("%s: %s; expected %s with \"%s\"", sy_status_name(found), sy_last_error(),
                 sy_status_name(expected), text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_scratch, remove_scratch)

/* All bytes of a tensor, and a value of them. */
static inline char *read_tensor(const sy_checkpoint *c, const sy_tensor_entry *t) {
    char *bytes = malloc(t->bytes + 1);
    MUST(sy_checkpoint_read(c, t, 0, t->bytes, bytes));
    return bytes;
}

static inline double value_of(sy_dtype dtype, const char *bytes, uint64_t i) {
    uint16_t half;
    float f;
    memcpy(&half, bytes + 2 * i, sizeof half);
    if (dtype == SY_BF16) return (double)sy_f32_from_bf16(half);
    if (dtype == SY_F16) return (double)sy_f32_from_f16(half);
    assert_int_equal(dtype, SY_F32);
    memcpy(&f, bytes + 4 * i, sizeof f);
    return (double)f;
}

#endif
