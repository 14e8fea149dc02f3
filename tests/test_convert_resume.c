/* A conversion that is ended at any time, by Ctrl-C, a kill or a full disk, goes on to the same
 * bytes; what lies where it writes and is not its own is left alone. timeout: 120 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/log.h"
#include "tests/convert_fixture.h"

/* Many shards, so that there is much to be interrupted. */
static sy_convert_options many_shards(const char *from, const char *target) {
    sy_convert_options o = wish(from, target, SY_CONVERT_NVFP4);
    o.all = true;
    o.shard_bytes = 200000;
    return o;
}

typedef struct breaker {
    int calls, at;
    bool kill;
} breaker;

static bool break_off(void *context, double share, uint64_t bytes) {
    breaker *b = context;
    (void)share;
    (void)bytes;
    if (b->calls++ != b->at) return true;
    if (b->kill) raise(SIGKILL);
    return false;
}

static void check_not_a_model(const char *target) {
    char partial[PATH_CHARS + 16];
    sy_model_spec *spec;
    sy_checkpoint *checkpoint;
    assert_false(exists(target));
    snprintf(partial, sizeof partial, "%s.partial", target);
    assert_int_not_equal(sy_spec_load(partial, &spec), SY_OK);
    assert_int_not_equal(sy_checkpoint_open(partial, &checkpoint), SY_OK);
}

static void an_interrupted_conversion_goes_on_to_the_same_bytes(void **state) {
    (void)state;
    char path[PATH_CHARS], whole[PATH_CHARS], out[PATH_CHARS];
    sy_convert_report report;
    data_path(path, sizeof path, "demo");
    in_scratch(whole, "whole");
    sy_convert_options o = many_shards(path, whole);
    MUST(convert(&o));
    in_scratch(out, "out");
    int n_stops = 0;
    for (int at = 0;; at += 37) { /* each time a little further */
        breaker b = {.at = at};
        o = many_shards(path, out);
        o.n_threads = 1 + at % 3;
        o.progress = break_off;
        o.context = &b;
        sy_status st = sy_convert(&o, &report);
        if (st == SY_OK) break;
        check_error(st, SY_ERR_INTERRUPTED, "the same command goes on");
        check_not_a_model(out);
        n_stops++;
    }
    assert_true(n_stops >= 3 && report.n_kept > 0);
    check_same_directories(whole, out);
}

static void a_killed_conversion_goes_on_to_the_same_bytes(void **state) {
    (void)state;
    char path[PATH_CHARS], whole[PATH_CHARS], out[PATH_CHARS];
    sy_convert_report report;
    data_path(path, sizeof path, "demo");
    in_scratch(whole, "whole");
    in_scratch(out, "out");
    sy_convert_options o = many_shards(path, whole);
    MUST(convert(&o));
    o.target = out;
    for (int at = 5; at < 200; at += 60) {
        pid_t child = fork();
        if (child == 0) {
            breaker b = {.at = at, .kill = true};
            o.n_threads = 1; /* which then asks after each chunk */
            o.progress = break_off;
            o.context = &b;
            convert(&o);
            _exit(0); /* not reached before the kill */
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        check_not_a_model(out);
    }
    MUST(sy_convert(&o, &report));
    assert_true(report.n_kept > 0);
    check_same_directories(whole, out);
}

/* Leaves out.partial with some shards done. */
static void begin(const char *from, const char *target) {
    breaker b = {.at = 120};
    sy_convert_options o = many_shards(from, target);
    o.n_threads = 1;
    o.progress = break_off;
    o.context = &b;
    check_error(convert(&o), SY_ERR_INTERRUPTED, "");
}

static void write_at(const char *path, off_t at, const char *bytes, size_t n) {
    int fd = open(path, O_WRONLY | O_CREAT, 0666);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, n, at), n);
    close(fd);
}

static void a_doubtful_shard_is_written_again(void **state) {
    (void)state;
    char path[PATH_CHARS], whole[PATH_CHARS], out[PATH_CHARS], shard[3][PATH_CHARS];
    sy_convert_report report;
    data_path(path, sizeof path, "demo");
    in_scratch(whole, "whole");
    sy_convert_options o = many_shards(path, whole);
    MUST(sy_convert(&o, &report));
    in_scratch(out, "out");
    begin(path, out);
    for (int i = 0; i < 3; i++)
        in_scratch(shard[i], "out.partial/model-%05d-of-%05d.safetensors", i + 1,
                   report.n_shards);
    assert_int_equal(truncate(shard[0], 1000), 0);
    write_at(shard[1], 100, "#", 1);                 /* within the header */
    assert_int_equal(rename(shard[2], shard[0]), 0); /* of a wrong size */
    write_at(in_scratch(shard[2], "out.partial/model-00009-of-00011.safetensors.tmp"), 0, "x",
             1);
    o.target = out;
    MUST(convert(&o));
    check_same_directories(whole, out);
}

static void a_changed_source_begins_anew(void **state) {
    (void)state;
    char path[PATH_CHARS], whole[PATH_CHARS], out[PATH_CHARS];
    sy_convert_report report;
    edited_model m;
    edited_open(&m, "demo");
    edited_write(&m);
    snprintf(path, sizeof path, "%s", m.directory);
    in_scratch(out, "out");
    begin(path, out);
    edited_tensor *t = edited_find(&m, "model.layers.0.mlp.experts.0.down_proj.weight");
    memset(t->data, 0, t->bytes);
    edited_write(&m);
    sy_convert_options o = many_shards(path, out);
    MUST(sy_convert(&o, &report));
    assert_int_equal(report.n_kept, 0);
    in_scratch(whole, "whole");
    o.target = whole;
    MUST(convert(&o));
    check_same_directories(whole, out);
    edited_close(&m);
}

static void what_is_not_this_conversion_is_left_alone(void **state) {
    (void)state;
    char path[PATH_CHARS], out[PATH_CHARS], partial[PATH_CHARS], file[PATH_CHARS];
    data_path(path, sizeof path, "demo");
    in_scratch(out, "out");
    in_scratch(partial, "out.partial");
    sy_convert_options o = many_shards(path, out);
    assert_int_equal(mkdir(out, 0777), 0);
    check_error(convert(&o), SY_ERR_USAGE, "exists already");
    assert_false(exists(partial));
    assert_int_equal(rmdir(out), 0);
    /* A directory with something else, also with names as a conversion has. */
    assert_int_equal(mkdir(partial, 0777), 0);
    write_at(in_scratch(file, "out.partial/model-00001-of-00002.safetensors"), 0, "x", 1);
    check_error(convert(&o), SY_ERR_USAGE, "is of no conversion");
    assert_true(exists(file));
    assert_int_equal(unlink(file), 0);
    begin(path, out);
    o.to = SY_CONVERT_FP8;
    check_error(convert(&o), SY_ERR_USAGE,
                "--to nvfp4 --all --shard-size 200000, not with --to fp8");
    o.to = SY_CONVERT_NVFP4;
    write_at(in_scratch(file, "out.partial/notes.txt"), 0, "x", 1);
    check_error(convert(&o), SY_ERR_USAGE, "notes.txt");
    assert_int_equal(unlink(file), 0);
    int fd = open(partial, O_RDONLY | O_DIRECTORY);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    check_error(convert(&o), SY_ERR_USAGE, "another conversion is writing");
    close(fd);
    MUST(convert(&o));
    /* A link to elsewhere. */
    in_scratch(file, "out2");
    o.target = file;
    assert_int_equal(symlink(out, in_scratch(partial, "out2.partial")), 0);
    check_error(convert(&o), SY_ERR_IO, "out2.partial");
}

static void a_damaged_note_of_what_is_done_is_an_error(void **state) {
    (void)state;
    static const char *const notes[] = {"", "[]", "{\"version\": \"x\"}", "{\"options\": 3}",
                                        "\x80"};
    char path[PATH_CHARS], out[PATH_CHARS], file[PATH_CHARS];
    data_path(path, sizeof path, "demo");
    in_scratch(out, "out");
    in_scratch(file, "out.partial");
    assert_int_equal(mkdir(file, 0777), 0);
    in_scratch(file, "out.partial/conversion.json");
    sy_convert_options o = many_shards(path, out);
    for (size_t i = 0; i < sizeof notes / sizeof *notes; i++) {
        unlink(file);
        write_at(file, 0, notes[i], strlen(notes[i]));
        assert_int_not_equal(convert(&o), SY_OK);
        assert_false(exists(out));
    }
}

static void a_full_disk_leaves_what_can_go_on(void **state) {
    (void)state;
    char path[PATH_CHARS], whole[PATH_CHARS], out[PATH_CHARS];
    data_path(path, sizeof path, "demo");
    in_scratch(whole, "whole");
    in_scratch(out, "out");
    sy_convert_options o = many_shards(path, whole);
    MUST(convert(&o));
    o.target = out;
    pid_t child = fork();
    if (child == 0) { /* the embedding's shard is larger than this */
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){400000, 400000});
        sy_status st = convert(&o);
        bool told = strstr(sy_last_error(), "File too large; the same command goes on") != NULL;
        _exit(st == SY_ERR_IO && told ? 7 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
    check_not_a_model(out);
    MUST(convert(&o));
    check_same_directories(whole, out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(an_interrupted_conversion_goes_on_to_the_same_bytes),
        TEST(a_killed_conversion_goes_on_to_the_same_bytes),
        TEST(a_doubtful_shard_is_written_again),
        TEST(a_changed_source_begins_anew),
        TEST(what_is_not_this_conversion_is_left_alone),
        TEST(a_damaged_note_of_what_is_done_is_an_error),
        TEST(a_full_disk_leaves_what_can_go_on),
    };
    sy_log_set_level(SY_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
