/* Experts whose gate and up rows lie by turns (gpt-oss): both parts come from one reading, plain or
 * past the page cache, and no weight of the checkpoint is read twice. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "runtime/weight_read.h"
#include "tests/seeded_checkpoint.h"
#include "tests/weight_fixture.h"

#define STACK "model.layers.1.mlp.experts.gate_up_proj"
enum { F = 64, H = 32, CODE_ROW = H / 2, SCALE_ROW = H / 32 };

/* Whether rows of the pair can be read past the page cache: its file has to allow that. */
static bool can_read_direct(const loaded *l, const sy_bind_item *item) {
    assert_int_equal(item->from.codes->offset % 4,
                     0); /* what sy_checkpoint_read_direct needs */
    return l->checkpoint->direct_fd[item->from.codes->file] >= 0;
}

/* The pair of one expert, as bind_ffn.c enters it. */
static void open_pair(loaded *l, edited_model *e, int expert, sy_matrix *m, sy_bind_item *out) {
    edited_open(e, "tiny/quantised_mxfp4");
    MUST(load(e, l));
    *m = (sy_matrix){.dtype = SY_F4,
                     .parts = 2,
                     .n = F,
                     .k = H,
                     .quant = {.scale = SY_F8_E8M0, .group = 32, .outputs = 1}};
    *out = (sy_bind_item){.from = {.codes = sy_checkpoint_find(l->checkpoint, STACK "_blocks"),
                                   .scales = sy_checkpoint_find(l->checkpoint, STACK "_scales"),
                                   .width = H,
                                   .row0 = (int64_t)expert * 2 * F,
                                   .row_step = 2,
                                   .dtype = SY_F4,
                                   .quant = m->quant},
                          .matrix = m,
                          .pair = true,
                          .rows = F,
                          .columns = H};
    assert_non_null(out->from.codes);
    assert_non_null(out->from.scales);
}

static void rows_by_turns_are_parted(void **state) {
    (void)state;
    bool skipped = false;
    for (int direct = 0; direct < 2; direct++) {
        enum { EXPERT = 3, ROW0 = 16, N = 40 };
        edited_model e;
        loaded l;
        sy_matrix m;
        sy_bind_item item;
        sy_weight_source source[2];
        open_pair(&l, &e, EXPERT, &m, &item);
        if (direct) sy_checkpoint_allow_direct(l.checkpoint);
        skipped = direct && !can_read_direct(&l, &item);
        uint64_t bytes = sy_weight_slot_bytes(&item, N);
        char *slot = aligned_alloc(SY_DIRECT_ALIGNMENT,
                                   (bytes / SY_DIRECT_ALIGNMENT + 1) * SY_DIRECT_ALIGNMENT);
        assert_non_null(slot);
        MUST(sy_weight_read(l.checkpoint, &item, ROW0, N, direct, slot, source));
        const char *codes = edited_find(&e, STACK "_blocks")->data;
        const char *scales = edited_find(&e, STACK "_scales")->data;
        for (int part = 0; part < 2; part++)
            for (int r = 0; r < N; r++) {
                int stored = EXPERT * 2 * F + 2 * (ROW0 + r) + part;
                assert_memory_equal((const char *)source[part].codes + r * CODE_ROW,
                                    codes + stored * CODE_ROW, CODE_ROW);
                assert_memory_equal((const char *)source[part].scales + r * SCALE_ROW,
                                    scales + stored * SCALE_ROW, SCALE_ROW);
            }
        assert_int_equal(sy_weight_bytes(&item, N), 2 * N * (CODE_ROW + SCALE_ROW));
        free(slot);
        unload(&l);
        edited_close(&e);
    }
    if (skipped) {
        print_message("skipped: files in /tmp cannot be read past the page cache\n");
        skip();
    }
}

/* Bytes that this process has got from read calls so far; -1 where that is not counted. */
static int64_t bytes_read_so_far(void) {
    char line[64];
    long long n = -1;
    FILE *file = fopen("/proc/self/io", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "rchar: %lld", &n) == 1) break;
    if (file != NULL) fclose(file);
    return n;
}

/* The few bytes of biases that lie by turns are read for gate and for up. */
static int64_t bytes_of_biases(const sy_checkpoint *c) {
    int64_t bytes = 0;
    for (int i = 0; i < c->n_tensors; i++)
        if (strstr(c->tensor[i].name, "gate_up_proj_bias") != NULL)
            bytes += (int64_t)c->tensor[i].bytes;
    return bytes;
}

static void expect_read_once(const char *directory) {
    loaded l;
    edited_model e = {.n = 0};
    snprintf(e.directory, sizeof e.directory, "%s", directory);
    MUST(load_written(&e, &l));
    int64_t slack = bytes_of_biases(l.checkpoint) + 512; /* and what counting reads itself */
    int64_t begin = bytes_read_so_far();
    sy_weights_destroy(l.weights);
    MUST(sy_weights_load(l.be, l.spec, l.placement, 0, l.checkpoint, 2, NULL, NULL, NULL,
                         &l.weights));
    int64_t n = bytes_read_so_far() - begin;
    if (n > (int64_t)l.checkpoint->tensor_bytes + slack)
        fail_msg("%s: %lld bytes are read, its tensors have %llu", directory, (long long)n,
                 (unsigned long long)l.checkpoint->tensor_bytes);
    assert_true(n > (int64_t)l.checkpoint->tensor_bytes / 2);
    unload(&l);
}

static void no_weight_is_read_twice(void **state) {
    (void)state;
    char source[512], directory[512];
    if (bytes_read_so_far() < 0) {
        print_message("skipped: /proc/self/io does not tell\n");
        skip();
    }
    edited_model e;
    edited_open(&e, "tiny/quantised_mxfp4");
    edited_write(&e);
    expect_read_once(e.directory);
    edited_close(&e);
    data_path(source, sizeof source, "tiny/gpt_oss"); /* stacks [E, H, 2F] in BF16 */
    MUST(sy_seeded_create(source, &(sy_seeded_options){SY_BF16, 1, NULL}, directory,
                          sizeof directory));
    expect_read_once(directory);
    sy_seeded_remove(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_by_turns_are_parted),
        cmocka_unit_test(no_weight_is_read_twice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
