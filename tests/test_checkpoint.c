/* Checkpoint directories: one file or shards with an index, what is read from them, and which
 * contradictions are refused. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "runtime/checkpoint.h"
#include "runtime/shard_index.h"

#define INDEX "model.safetensors.index.json"

/* A temporary directory and the names put into it. */
typedef struct dir {
    char path[64];
    char name[8][64];
    int n;
} dir;

static void dir_make(dir *d) {
    memset(d, 0, sizeof *d);
    snprintf(d->path, sizeof d->path, "/tmp/sy_test_checkpoint_XXXXXX");
    assert_non_null(mkdtemp(d->path));
}

static const char *dir_path(dir *d, const char *name, char buf[160]) {
    snprintf(buf, 160, "%s/%s", d->path, name);
    return buf;
}

/* Remembers a name for removal and gives its path. */
static const char *dir_add(dir *d, const char *name, char buf[160]) {
    assert_true(d->n < 8);
    snprintf(d->name[d->n++], sizeof d->name[0], "%s", name);
    return dir_path(d, name, buf);
}

static void dir_drop(dir *d) {
    char buf[160];
    for (int i = d->n - 1; i >= 0; i--) {
        const char *path = dir_path(d, d->name[i], buf);
        if (unlink(path) != 0) rmdir(path);
    }
    assert_int_equal(rmdir(d->path), 0);
}

static void put_text(dir *d, const char *name, const char *text) {
    char buf[160];
    FILE *f = fopen(dir_add(d, name, buf), "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

/* A safetensors file of U8 tensors of 4 bytes each, whose bytes count up from `fill` through the
 * file; names, comma-separated. */
static void put_file(dir *d, const char *name, const char *tensors, int fill) {
    char header[1024] = "{", list[256], buf[160];
    int n = 0, used = 1;
    snprintf(list, sizeof list, "%s", tensors);
    char *rest = list;
    for (char *t; (t = strtok_r(rest, ",", &rest)) != NULL; n++)
        used += snprintf(header + used, sizeof header - (size_t)used,
                         "%s\"%s\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[%d,%d]}",
                         n > 0 ? "," : "", t, 4 * n, 4 * n + 4);
    header[used++] = '}';
    FILE *f = fopen(dir_add(d, name, buf), "w");
    assert_non_null(f);
    for (int i = 0; i < 8; i++)
        fputc(i < 2 ? used >> (8 * i) & 0xff : 0, f);
    assert_int_equal(fwrite(header, 1, (size_t)used, f), used);
    for (int i = 0; i < 4 * n; i++)
        fputc(fill + i, f);
    assert_int_equal(fclose(f), 0);
}

static void expect_refused(const dir *d, sy_status status, const char *const *parts, int n) {
    sy_checkpoint *c = NULL;
    sy_status st = sy_checkpoint_open(d->path, &c);
    for (int i = 0; i < n; i++)
        if (st != status || strstr(sy_last_error(), parts[i]) == NULL)
            fail_msg("expected %s with \"%s\", found %s \"%s\"", sy_status_name(status),
                     parts[i], sy_status_name(st), sy_last_error());
    assert_null(c);
}
#define REFUSED(d, status, ...)                                                                \
    do {                                                                                       \
        const char *const parts[] = {__VA_ARGS__};                                             \
        expect_refused((d), (status), parts, (int)(sizeof parts / sizeof *parts));             \
    } while (0)

static sy_checkpoint *expect_opened(const char *path) {
    sy_checkpoint *c = NULL;
    if (sy_checkpoint_open(path, &c) != SY_OK) fail_msg("%s", sy_last_error());
    return c;
}

/* Log lines of one test, joined. */
static void collect(sy_log_level level, const char *line, void *context) {
    char *all = context;
    size_t used = strlen(all);
    if (level <= SY_LOG_WARNING) snprintf(all + used, 1024 - used, "%s\n", line);
}

static void one_file_gives_its_tensors(void **state) {
    (void)state;
    dir d;
    unsigned char bytes[4] = {0};
    dir_make(&d);
    put_file(&d, "model.safetensors", "b,a", 7);
    sy_checkpoint *c = expect_opened(d.path);
    assert_int_equal(c->n_files, 1);
    assert_int_equal(c->n_tensors, 2);
    assert_int_equal(c->tensor_bytes, 8);
    assert_int_equal(c->n_unlisted, 0);
    assert_string_equal(c->tensor[0].name, "a");
    assert_string_equal(c->file_name[0], "model.safetensors");
    const sy_tensor_entry *b = sy_checkpoint_find(c, "b");
    assert_non_null(b);
    assert_null(sy_checkpoint_find(c, "ab"));
    assert_null(sy_checkpoint_find(c, ""));
    assert_int_equal(sy_checkpoint_read(c, b, 1, 3, bytes + 1), SY_OK);
    assert_memory_equal(bytes, "\0\10\11\12", 4); /* b is first in the file: 7, 8, 9, 10 */
    assert_int_equal(sy_checkpoint_read(c, b, 4, 0, NULL), SY_OK);
    assert_int_equal(sy_checkpoint_read(c, b, 2, 3, bytes), SY_ERR_INTERNAL);
    assert_int_equal(sy_checkpoint_read(c, b, UINT64_MAX, 2, bytes), SY_ERR_INTERNAL);
    sy_checkpoint_close(c);
    dir_drop(&d);
}

static void shards_are_joined_by_their_index(void **state) {
    (void)state;
    dir d;
    char warnings[1024] = "";
    unsigned char bytes[4];
    dir_make(&d);
    put_file(&d, "s-1.safetensors", "c,a", 1);
    put_file(&d, "s-2.safetensors", "b", 2);
    put_text(
        &d, INDEX,
        "\xef\xbb\xbf{\"metadata\":{\"total_parameters\":3,\"total_size\":12},\"extra\":[1],"
        "\"weight_map\":{\"a\":\"s-1.safetensors\",\"b\":\"s-2.safetensors\","
        "\"c\":\"s-1.safetensors\"}}");
    sy_log_set_sink(collect, warnings);
    sy_checkpoint *c = expect_opened(d.path);
    sy_log_set_sink(NULL, NULL);
    assert_string_equal(warnings, "");
    assert_int_equal(c->n_files, 2);
    assert_int_equal(c->n_tensors, 3);
    static const int last[] = {1 + 7, 2 + 3, 1 + 3}; /* of a and c in the first shard, b */
    for (int i = 0; i < 3; i++) {
        const char name[2] = {(char)('a' + i), 0};
        assert_string_equal(c->tensor[i].name, name);
        assert_ptr_equal(sy_checkpoint_find(c, name), &c->tensor[i]);
        assert_int_equal(sy_checkpoint_read(c, &c->tensor[i], 0, 4, bytes), SY_OK);
        assert_int_equal(bytes[3], last[i]);
    }
    sy_checkpoint_close(c);
    dir_drop(&d);
}

static void symbolic_links_are_followed(void **state) {
    (void)state;
    dir d, blobs;
    char target[160], link[160];
    dir_make(&d);
    dir_make(&blobs);
    put_file(&blobs, "0123", "a", 3);
    assert_int_equal(
        symlink(dir_path(&blobs, "0123", target), dir_add(&d, "model.safetensors", link)), 0);
    sy_checkpoint *c = expect_opened(d.path);
    assert_int_equal(c->n_tensors, 1);
    sy_checkpoint_close(c);
    dir_drop(&d);
    dir_drop(&blobs);
}

static void directory_without_weights_names_what_was_looked_for(void **state) {
    (void)state;
    dir d;
    dir_make(&d);
    REFUSED(&d, SY_ERR_IO, d.path, "model.safetensors or consolidated.safetensors",
            "found none");
    dir_drop(&d);
    sy_checkpoint *c = NULL;
    assert_int_equal(sy_checkpoint_open("/nonexistent/x", &c), SY_ERR_IO);
    assert_non_null(strstr(sy_last_error(), "/nonexistent/x"));
}

static void unlisted_tensors_are_left_out_and_counted(void **state) {
    (void)state;
    dir d;
    char warnings[1024] = "";
    dir_make(&d);
    put_file(&d, "s.safetensors", "a,b,c", 1);
    put_text(&d, INDEX,
             "{\"metadata\":{\"total_size\":99},\"weight_map\":{\"b\":\"s.safetensors\"}}");
    sy_log_set_sink(collect, warnings);
    sy_checkpoint *c = expect_opened(d.path);
    sy_log_set_sink(NULL, NULL);
    assert_int_equal(c->n_unlisted, 2);
    assert_int_equal(c->n_tensors, 1);
    assert_int_equal(c->tensor_bytes, 4);
    assert_string_equal(c->tensor[0].name, "b");
    assert_non_null(strstr(warnings, "left out 2 tensors"));
    assert_non_null(strstr(warnings, "\"a\""));
    assert_non_null(strstr(warnings, "says 99 bytes of tensors, found 4"));
    sy_checkpoint_close(c);
    dir_drop(&d);
}

static void total_size_that_is_no_count_is_ignored(void **state) {
    (void)state;
    static const char *const sizes[] = {"4.5e9", "-1", "\"4\"", "null", "99999999999999999999"};
    for (int i = 0; i < 5; i++) {
        dir d;
        char text[160];
        dir_make(&d);
        put_file(&d, "s.safetensors", "a", 1);
        snprintf(text, sizeof text,
                 "{\"weight_map\":{\"a\":\"s.safetensors\"},\"metadata\":{\"total_size\":%s}}",
                 sizes[i]);
        put_text(&d, INDEX, text);
        sy_checkpoint_close(expect_opened(d.path));
        dir_drop(&d);
    }
}

static void shard_name_that_is_no_plain_file_name_is_refused(void **state) {
    (void)state;
    static const char *const names[] = {"\"../x.safetensors\"",
                                        "\"/etc/x.safetensors\"",
                                        "\"a\\u0000b.safetensors\"",
                                        "\"\"",
                                        "\".\"",
                                        "\"..\"",
                                        "\".safetensors\"",
                                        "\"model.bin\"",
                                        "\"a\\\\b.safetensors\"",
                                        "\"a\\nb.safetensors\""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        dir d;
        char text[200];
        dir_make(&d);
        put_file(&d, "x.safetensors", "a", 1);
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":%s}}", names[i]);
        put_text(&d, INDEX, text);
        REFUSED(&d, SY_ERR_FORMAT, INDEX, "tensor \"a\": expected a plain file name");
        dir_drop(&d);
    }
}

static void malformed_index_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *refusal;
    } cases[] = {
        {"{}", "expected \"weight_map\", found none"},
        {"[]", "expected an object, found an array"},
        {"{\"weight_map\":[\"a\",\"s.safetensors\"]}", "expected an object, found an array"},
        {"{\"weight_map\":{\"a\":7}}", "expected a string, found a number"},
        {"{\"weight_map\":{\"a\":\"s.safetensors\",\"\\u0061\":\"s.safetensors\"}}",
         "tensor \"a\" occurs twice"},
        {"{\"weight_map\":{},\"weight_map\":{}}", "\"weight_map\" occurs twice"},
        {"{\"metadata\":{},\"metadata\":{},\"weight_map\":{}}", "\"metadata\" occurs twice"},
        {"{\"weight_map\":{\"\":\"s.safetensors\"}}", "expected a tensor name"},
        {"{\"weight_map\":{\"a\\u0007\":\"s.safetensors\"}}", "control characters"},
        {"{\"weight_map\":{\"a\":\"s.safetensors\"}", "found the end"},
        {"{\"weight_map\":{\"a\":\"s.safetensors\"}}}", "nothing but whitespace"},
        {"{\"weight_map\":{\"\xff\":\"s.safetensors\"}}", "expected UTF-8"},
        {"{\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "nested deeper than 32"},
        {"", "expected an object, found the end"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dir d;
        dir_make(&d);
        put_file(&d, "s.safetensors", "a", 1);
        put_text(&d, INDEX, cases[i].text);
        REFUSED(&d, SY_ERR_FORMAT, INDEX, cases[i].refusal);
        dir_drop(&d);
    }
}

static void index_and_shards_that_disagree_are_refused(void **state) {
    (void)state;
    dir d;
    dir_make(&d);
    put_file(&d, "s-1.safetensors", "a", 1);
    put_file(&d, "s-2.safetensors", "b", 2);
    put_text(&d, INDEX,
             "{\"weight_map\":{\"a\":\"s-1.safetensors\",\"b\":\"s-2.safetensors\","
             "\"c\":\"s-2.safetensors\"}}");
    REFUSED(&d, SY_ERR_FORMAT, "\"c\" in s-2.safetensors, found no such tensor");
    dir_drop(&d);

    dir_make(&d);
    put_file(&d, "s-1.safetensors", "a", 1);
    put_file(&d, "s-2.safetensors", "b", 2);
    put_text(&d, INDEX,
             "{\"weight_map\":{\"a\":\"s-2.safetensors\",\"b\":\"s-1.safetensors\"}}");
    REFUSED(&d, SY_ERR_FORMAT, "\"a\" in s-2.safetensors, found it in s-1.safetensors");
    dir_drop(&d);

    dir_make(&d);
    put_file(&d, "s-1.safetensors", "a,b", 1);
    put_file(&d, "s-2.safetensors", "b,c", 2);
    put_text(&d, INDEX,
             "{\"weight_map\":{\"a\":\"s-1.safetensors\",\"b\":\"s-2.safetensors\","
             "\"c\":\"s-2.safetensors\"}}");
    REFUSED(&d, SY_ERR_FORMAT, "\"b\" occurs in s-1.safetensors and in s-2.safetensors");
    dir_drop(&d);

    dir_make(&d);
    put_file(&d, "s-1.safetensors", "a", 1);
    put_text(&d, INDEX,
             "{\"weight_map\":{\"a\":\"s-1.safetensors\",\"b\":\"s-2.safetensors\"}}");
    REFUSED(&d, SY_ERR_IO, "s-2.safetensors: No such file");
    dir_drop(&d);
}

static void shard_that_is_broken_is_named(void **state) {
    (void)state;
    dir d;
    dir_make(&d);
    put_file(&d, "s-1.safetensors", "a", 1);
    put_text(&d, "s-2.safetensors", "short");
    put_text(&d, INDEX,
             "{\"weight_map\":{\"a\":\"s-1.safetensors\",\"b\":\"s-2.safetensors\"}}");
    REFUSED(&d, SY_ERR_FORMAT, d.path, "s-2.safetensors: expected at least 8 bytes");
    dir_drop(&d);
}

/* A fifo without a writer would block a plain open for ever. */
static void fifo_or_directory_in_place_of_a_file_is_refused(void **state) {
    (void)state;
    static const char index[] = "{\"weight_map\":{\"a\":\"s.safetensors\"}}";
    static const char *const places[] = {"model.safetensors", "s.safetensors", INDEX};
    for (int i = 0; i < 6; i++) {
        dir d;
        char buf[160];
        const char *place = places[i % 3];
        dir_make(&d);
        assert_int_equal(i < 3 ? mkfifo(dir_add(&d, place, buf), 0600)
                               : mkdir(dir_add(&d, place, buf), 0700),
                         0);
        if (i % 3 == 1) put_text(&d, INDEX, index);
        alarm(10);
        REFUSED(&d, SY_ERR_IO, place, "expected a regular file");
        alarm(0);
        dir_drop(&d);
    }
}

static void file_that_shrinks_after_open_is_an_error_of_the_read(void **state) {
    (void)state;
    dir d;
    char buf[160];
    unsigned char bytes[8];
    dir_make(&d);
    put_file(&d, "model.safetensors", "a,b", 7);
    sy_checkpoint *c = expect_opened(d.path);
    assert_int_equal(
        truncate(dir_path(&d, "model.safetensors", buf), (off_t)(c->file_bytes[0] - 3)), 0);
    assert_int_equal(sy_checkpoint_read(c, &c->tensor[0], 0, 4, bytes), SY_OK);
    assert_int_equal(sy_checkpoint_read(c, &c->tensor[1], 0, 4, bytes), SY_ERR_IO);
    assert_non_null(strstr(sy_last_error(),
                           "model.safetensors: tensor \"b\": expected 4 bytes, "
                           "found 1"));
    sy_checkpoint_close(c);
    dir_drop(&d);
}

/* The demo model is large enough that ranges begin and end anywhere in a block. Where the file
 * system refuses O_DIRECT the same bytes come through the page cache. */
static void direct_reads_give_the_same_bytes(void **state) {
    (void)state;
    char path[512];
    const char *root = getenv("SY_TEST_DATA");
    snprintf(path, sizeof path, "%s/demo", root == NULL ? "tests/data" : root);
    sy_checkpoint *c = expect_opened(path);
    void *slot = aligned_alloc(SY_DIRECT_ALIGNMENT, 64 << 10);
    unsigned char *expected = malloc(32 << 10);
    sy_checkpoint_allow_direct(c);
    for (int i = 0; i < c->n_tensors; i++) {
        const sy_tensor_entry *t = &c->tensor[i];
        uint64_t n = t->bytes < 32 << 10 ? t->bytes : 32 << 10, begin = (t->bytes - n) / 3;
        const void *data = NULL;
        assert_int_equal(sy_checkpoint_read(c, t, begin, n, expected), SY_OK);
        assert_int_equal(sy_checkpoint_read_direct(c, t, begin, n, slot, &data), SY_OK);
        assert_memory_equal(data, expected, n);
        assert_int_equal(sy_checkpoint_read_direct(c, t, t->bytes, 1, slot, &data),
                         SY_ERR_INTERNAL);
        n = n < 100 ? n : 100; /* the end of the last tensor is the end of the file */
        assert_int_equal(sy_checkpoint_read(c, t, t->bytes - n, n, expected), SY_OK);
        assert_int_equal(sy_checkpoint_read_direct(c, t, t->bytes - n, n, slot, &data), SY_OK);
        assert_memory_equal(data, expected, n);
    }
    free(expected);
    free(slot);
    sy_checkpoint_close(c);
}

static void file_that_shrinks_after_open_is_an_error_of_a_direct_read(void **state) {
    (void)state;
    dir d;
    char buf[160];
    const void *data;
    dir_make(&d);
    put_file(&d, "model.safetensors", "a,b", 7);
    sy_checkpoint *c = expect_opened(d.path);
    void *slot = aligned_alloc(SY_DIRECT_ALIGNMENT, 3 * SY_DIRECT_ALIGNMENT);
    sy_checkpoint_allow_direct(c);
    assert_int_equal(
        truncate(dir_path(&d, "model.safetensors", buf), (off_t)(c->file_bytes[0] - 3)), 0);
    assert_int_equal(sy_checkpoint_read_direct(c, &c->tensor[0], 0, 4, slot, &data), SY_OK);
    for (uint64_t odd = 0; odd < 4;
         odd++) { /* bytes of files stand anywhere, values must not */
        assert_int_equal(sy_checkpoint_read_direct(c, &c->tensor[0], odd, 1, slot, &data),
                         SY_OK);
        assert_int_equal((uintptr_t)data % 2, 0);
    }
    assert_int_equal(sy_checkpoint_read_direct(c, &c->tensor[1], 0, 4, slot, &data), SY_ERR_IO);
    assert_non_null(strstr(sy_last_error(), "tensor \"b\": expected 4 bytes, found 1"));
    free(slot);
    sy_checkpoint_close(c);
    dir_drop(&d);
}

static void file_that_is_replaced_after_open_is_read_as_it_was(void **state) {
    (void)state;
    dir d;
    char buf[160], other[160];
    unsigned char bytes[4];
    dir_make(&d);
    put_file(&d, "model.safetensors", "a", 7);
    sy_checkpoint *c = expect_opened(d.path);
    put_file(&d, "other", "a", 9);
    assert_int_equal(
        rename(dir_path(&d, "other", other), dir_path(&d, "model.safetensors", buf)), 0);
    assert_int_equal(sy_checkpoint_read(c, &c->tensor[0], 0, 4, bytes), SY_OK);
    assert_int_equal(bytes[0], 7);
    sy_checkpoint_close(c);
    dir_drop(&d);
}

static void published_layouts_open(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int n_files;
    } models[] = {{"tiny/qwen3_moe", 1},     {"tiny/qwen3_moe_f32_sharded", 3},
                  {"tiny/mixtral", 1},       {"tiny/olmoe", 1},
                  {"tiny/qwen3_moe_f16", 1}, {"tiny/qwen3_moe_fused", 1}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", getenv("SY_TEST_DATA"), models[i].name);
        sy_checkpoint *c = expect_opened(path);
        assert_int_equal(c->n_files, models[i].n_files);
        assert_int_equal(c->n_unlisted, 0);
        const sy_tensor_entry *norm = sy_checkpoint_find(c, "model.norm.weight");
        assert_non_null(norm);
        assert_int_equal(norm->rank, 1);
        sy_checkpoint_close(c);
    }
}

static void index_of_138240_names_loads_quickly(void **state) {
    (void)state;
    dir d;
    char buf[160];
    dir_make(&d);
    FILE *f = fopen(dir_add(&d, INDEX, buf), "w");
    assert_non_null(f);
    for (int i = 0; i < 138240; i++)
        fprintf(
            f,
            "%s\"model.layers.%d.mlp.experts.%d.weight\":\"model-%05d-of-00163.safetensors\"",
            i == 0 ? "{\"weight_map\":{" : ",", i / 1152, i % 1152, i % 163 + 1);
    fputs("}}", f);
    assert_int_equal(fclose(f), 0);
    sy_shard_index *index = NULL;
    assert_int_equal(sy_shard_index_load(buf, &index), SY_OK);
    assert_int_equal(index->n_entries, 138240);
    assert_int_equal(index->n_shards, 163);
    int at = sy_shard_index_find(index, "model.layers.0.mlp.experts.162.weight");
    assert_string_equal(index->entry[at].shard, "model-00163-of-00163.safetensors");
    assert_int_equal(index->entry[at].file, 162);
    assert_int_equal(sy_shard_index_find(index, "model"), -1);
    sy_shard_index_destroy(index);
    dir_drop(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_file_gives_its_tensors),
        cmocka_unit_test(shards_are_joined_by_their_index),
        cmocka_unit_test(symbolic_links_are_followed),
        cmocka_unit_test(directory_without_weights_names_what_was_looked_for),
        cmocka_unit_test(unlisted_tensors_are_left_out_and_counted),
        cmocka_unit_test(total_size_that_is_no_count_is_ignored),
        cmocka_unit_test(shard_name_that_is_no_plain_file_name_is_refused),
        cmocka_unit_test(malformed_index_is_refused),
        cmocka_unit_test(index_and_shards_that_disagree_are_refused),
        cmocka_unit_test(shard_that_is_broken_is_named),
        cmocka_unit_test(fifo_or_directory_in_place_of_a_file_is_refused),
        cmocka_unit_test(file_that_shrinks_after_open_is_an_error_of_the_read),
        cmocka_unit_test(direct_reads_give_the_same_bytes),
        cmocka_unit_test(file_that_shrinks_after_open_is_an_error_of_a_direct_read),
        cmocka_unit_test(file_that_is_replaced_after_open_is_read_as_it_was),
        cmocka_unit_test(published_layouts_open),
        cmocka_unit_test(index_of_138240_names_loads_quickly)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
