/* Placements as files: round trips through all formats, and what is refused with which words. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "topology/placement_file.h"

static void expect_error(sy_status st, const char *text) {
    if (st == SY_OK) fail_msg("accepted; expected \"%s\"", text);
    if (strstr(sy_last_error(), text) == NULL)
        fail_msg("expected \"%s\" in \"%s\"", text, sy_last_error());
}

static void must(sy_status st) {
    if (st != SY_OK) fail_msg("%s: %s", sy_status_name(st), sy_last_error());
}

static sy_status parse(const char *text, sy_placement_form form, sy_placement_list **out) {
    return sy_placement_parse(text, strlen(text), "file", form, out);
}

/* Three layers, the middle one dense. */
enum { E = 5, R = 2 };
static const int shape[3] = {E, 0, E};

static sy_placement_target target_of(int n_ranks) {
    return (sy_placement_target){"qwen3_moe", 3, shape, n_ranks};
}

static sy_placement *place(const sy_placement_list *list, int n_ranks) {
    sy_placement_target target = target_of(n_ranks);
    sy_placement *p;
    must(sy_placement_list_place(list, "file", &target, &p));
    return p;
}

static void assert_layer(const sy_placement_layer *p, const int *n_slots, const int *slots) {
    for (int r = 0, at = 0; r < p->n_ranks; r++) {
        assert_int_equal(sy_placement_slots(p, r), n_slots[r]);
        for (int s = 0; s < n_slots[r]; s++)
            assert_int_equal(p->slot_expert[p->slot_first[r] + s], slots[at++]);
    }
}

/* ---- round trips ---- */

static int pick(uint64_t *n, int least, int most) {
    return least + (int)(sy_hash_add(3, (*n)++) % (uint64_t)(most - least + 1));
}

/* Random slots; `each` > 0: so many on every rank. */
static sy_placement *draw(uint64_t *n, int n_layers, int *experts, int n_ranks, int each) {
    int32_t **n_slots = calloc((size_t)n_layers, sizeof *n_slots);
    int32_t **slot = calloc((size_t)n_layers, sizeof *slot);
    sy_placement *p;
    for (int l = 0; l < n_layers; l++) {
        int n_experts = experts[l], at = 0;
        n_slots[l] = calloc((size_t)n_ranks, sizeof **n_slots);
        slot[l] = calloc((size_t)(n_experts * n_ranks) + 1, sizeof **slot);
        for (int r = 0; r < n_ranks && n_experts > 0; r++) {
            /* Runs of consecutive experts, one behind the other, so that none is left out. */
            int least = (n_experts + n_ranks - 1) / n_ranks;
            int first = r * least % n_experts;
            int count = each > 0 ? each : pick(n, least, n_experts);
            for (int i = 0; i < count; i++)
                slot[l][at++] = (first + i) % n_experts;
            n_slots[l][r] = count;
        }
    }
    must(sy_placement_from_slots(n_layers, experts, n_ranks, (const int32_t *const *)n_slots,
                                 (const int32_t *const *)slot, &p));
    for (int l = 0; l < n_layers; l++) {
        free(n_slots[l]);
        free(slot[l]);
    }
    free(n_slots);
    free(slot);
    return p;
}

static void assert_same(const sy_placement *a, const sy_placement *b) {
    assert_int_equal(a->n_layers, b->n_layers);
    for (int l = 0; l < a->n_layers; l++) {
        const sy_placement_layer *x = &a->layer[l], *y = &b->layer[l];
        assert_int_equal(x->n_experts, y->n_experts);
        if (x->n_experts == 0) continue;
        assert_int_equal(x->n_ranks, y->n_ranks);
        assert_memory_equal(x->slot_first, y->slot_first,
                            (size_t)(x->n_ranks + 1) * sizeof *x->slot_first);
        assert_memory_equal(x->slot_expert, y->slot_expert,
                            (size_t)x->slot_first[x->n_ranks] * sizeof *x->slot_expert);
    }
}

static void placements_survive_all_formats(void **state) {
    (void)state;
    uint64_t n = 0;
    for (int i = 0; i < 60; i++) {
        sy_placement_form form = (sy_placement_form)(SY_PLACEMENT_OURS + i % 3);
        char path[] = "/tmp/sy_placement_XXXXXX";
        int experts[4], n_ranks = pick(&n, 1, 6), n_experts = pick(&n, 1, 20);
        for (int l = 0; l < 4; l++)
            experts[l] = l == 3 || pick(&n, 0, 2) > 0 ? n_experts : 0;
        int least = (n_experts + n_ranks - 1) / n_ranks;
        int each = form == SY_PLACEMENT_OURS ? 0 : pick(&n, least, n_experts);
        sy_placement *p = draw(&n, 4, experts, n_ranks, each), *q;
        sy_placement_list *list;
        sy_placement_target target = {"family", 4, experts, n_ranks};
        close(mkstemp(path));
        must(sy_placement_write(p, "family", form, path));
        must(sy_placement_read(path, SY_PLACEMENT_ANY, &list));
        assert_int_equal(list->form, form);
        must(sy_placement_list_place(list, path, &target, &q));
        assert_same(p, q);
        unlink(path);
        sy_placement_list_destroy(list);
        sy_placement_destroy(p);
        sy_placement_destroy(q);
    }
}

static void a_file_implies_its_model(void **state) {
    (void)state;
    sy_placement_list *list;
    int n_layers, *experts;
    must(parse("initial_global_assignments: {1: [0, 1, 2, 0], 3: [2, 1, 0, 6]}\n",
               SY_PLACEMENT_ANY, &list));
    must(sy_placement_list_shape(list, &n_layers, &experts));
    assert_int_equal(n_layers, 4);
    assert_true(experts[0] == 0 && experts[1] == 3 && experts[2] == 0 && experts[3] == 7);
    free(experts);
    sy_placement_list_destroy(list);
}

/* ---- ours ---- */

static void our_format_keeps_ranks_of_different_size(void **state) {
    (void)state;
    sy_placement_list *list;
    must(parse(
        "{\"kind\": \"placement\", \"version\": 1, \"model\": \"qwen3_moe\", \"ranks\": 2, "
        "\"note\": [1], \"layers\": ["
        "{\"layer\": 0, \"experts\": 5, \"slots\": [[4, 0, 1, 2, 3], []]},"
        "{\"layer\": 2, \"experts\": 5, \"slots\": [[0, 1], [1, 2, 3, 4]]}]}",
        SY_PLACEMENT_ANY, &list));
    sy_placement *p = place(list, R);
    assert_layer(&p->layer[0], (int[]){5, 0}, (int[]){4, 0, 1, 2, 3});
    assert_int_equal(p->layer[1].n_experts, 0);
    assert_layer(&p->layer[2], (int[]){2, 4}, (int[]){0, 1, 1, 2, 3, 4});
    sy_placement_destroy(p);
    sy_placement_list_destroy(list);
}

#define HEAD                                                                                   \
    "{\"kind\": \"placement\", \"version\": 1, \"model\": \"qwen3_moe\", \"ranks\": 2, "
#define LAYER0 "{\"layer\": 0, \"experts\": 5, \"slots\": [[0, 1, 2], [3, 4]]}"
#define LAYER2 "{\"layer\": 2, \"experts\": 5, \"slots\": [[0, 1, 2], [3, 4]]}"

static void malformed_files_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *json, *text;
    } table[] = {
        {"", "file: line 1"},
        {"[]", "file: expected an object, found array"},
        {"{}", "file: not a placement"},
        {"{\"version\": 1, \"model\": \"x\", \"ranks\": 1, \"tokens\": 9, \"layers\": []}",
         "not a placement: expected \"kind\": \"placement\""},
        {"{\"kind\": \"placement\"}", "file: \"version\" is missing"},
        {"{\"kind\": 3}", "\"kind\": expected a string, found integer"},
        {"{\"kind\": \"placement\", \"version\": 2}", "\"version\": expected 1 to 1, found 2"},
        {"{\"kind\": \"placement\", \"version\": 1, \"ranks\": 0}",
         "\"ranks\": expected 1 to 4096, found 0"},
        {"{\"kind\": \"placement\", \"version\": 1, \"ranks\": 1.5}",
         "expected a whole number"},
        {HEAD "\"layers\": 7}", "\"layers\": expected an array, found integer"},
        {HEAD "\"layers\": []}", "\"layers\": expected 1 to 4096 values, found 0"},
        {HEAD "\"layers\": [3]}", "layers[0]: expected an object, found integer"},
        {HEAD "\"layers\": [{\"experts\": 5}]}", "layers[0]: \"layer\" is missing"},
        {HEAD "\"layers\": [{\"layer\": 7}]}", "layer 7: \"experts\" is missing"},
        {HEAD "\"layers\": [{\"layer\": 0, \"experts\": 5, \"slots\": [[0]]}]}",
         "layer 0: \"slots\": expected a list for each of 2 ranks, found 1"},
        {HEAD "\"layers\": [{\"layer\": 0, \"experts\": 5, \"slots\": [[0], 4]}]}",
         "layer 0, rank 1: expected a list of at most 5 experts"},
        {HEAD "\"layers\": [{\"layer\": 0, \"experts\": 2, \"slots\": [[0, 1, 0], [1]]}]}",
         "layer 0, rank 0: expected a list of at most 2 experts"},
        {HEAD "\"layers\": [{\"layer\": 0, \"experts\": 5, \"slots\": [[0, \"1\"], []]}]}",
         "layer 0, rank 0, slot 1: expected an expert's number, found string"},
        {HEAD "\"layers\": [{\"layer\": 0, \"experts\": 5, \"slots\": [[0, 1e9], []]}]}",
         "slot 1: expected an expert from 0 to 65535, found 1000000000"},
        {HEAD "\"layers\": [{\"layer\": 0, \"experts\": 5, \"slots\": [[0, -1], []]}]}",
         "found -1"},
        {HEAD "\"layers\": [" LAYER2 "," LAYER0 "]}", "layer 0 is listed behind layer 2"},
        {HEAD "\"layers\": [" LAYER0 "," LAYER0 "]}", "layer 0 is listed behind layer 0"},
        {"{\"physical_to_logical_map\": 3}", "expected an array, found integer"},
        {"{\"physical_to_logical_map\": [3]}",
         "physical_to_logical_map[0]: expected a list of experts, found integer"},
        {"{\"physical_to_logical_map\": [[0], []]}", "map[1]: expected a list of experts"},
        {"{\"physical_to_logical_map\": [[0, null]]}", "map[0], slot 1: expected an expert"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        sy_placement_list *list;
        expect_error(parse(table[i].json, SY_PLACEMENT_ANY, &list), table[i].text);
        assert_null(list);
    }
}

static void what_does_not_fit_the_model_is_refused(void **state) {
    (void)state;
    static const int other[3] = {6, 0, 6}, short_one[1] = {E};
    static const struct {
        const char *file;
        sy_placement_target target;
        const char *text;
    } table[] = {
        {HEAD "\"layers\": [" LAYER0 "," LAYER2 "]}",
         {"qwen3_moe", 3, shape, 4},
         "file: the placement is for 2 ranks, here are 4"},
        {HEAD "\"layers\": [" LAYER0 "," LAYER2 "]}",
         {"mixtral", 3, shape, 2},
         "for a model \"qwen3_moe\", this is \"mixtral\""},
        {HEAD "\"layers\": [" LAYER0 "," LAYER2 "]}",
         {"qwen3_moe", 3, other, 2},
         "layer 0: placed are 5 experts, the model has 6"},
        {HEAD "\"layers\": [" LAYER0 "," LAYER2 "]}",
         {"qwen3_moe", 1, short_one, 2},
         "layer 2: the model has 1 layers"},
        {HEAD "\"layers\": [" LAYER0 "]}",
         {"qwen3_moe", 3, shape, 2},
         "layer 2, which has 5 experts, is not listed"},
        {HEAD "\"layers\": [" LAYER0
              ", {\"layer\": 1, \"experts\": 5, \"slots\": [[0, 1, 2, 3, 4], []]}]}",
         {"qwen3_moe", 3, shape, 2},
         "layer 1 has no experts in this model"},
        {HEAD "\"layers\": [" LAYER0
              ", {\"layer\": 2, \"experts\": 5, \"slots\": [[0, 1], [3, 4]]}]}",
         {"qwen3_moe", 3, shape, 2},
         "file: placement, layer 2: no rank holds expert 2"},
        {HEAD "\"layers\": [" LAYER0
              ", {\"layer\": 2, \"experts\": 5, \"slots\": [[0, 1, 2, 1], [3, 4]]}]}",
         {"qwen3_moe", 3, shape, 2},
         "layer 2: rank 0 holds expert 1 twice"},
        {HEAD "\"layers\": [" LAYER0
              ", {\"layer\": 2, \"experts\": 5, \"slots\": [[0, 1, 2, 5], [3, 4]]}]}",
         {"qwen3_moe", 3, shape, 2},
         "layer 2: expert 5 is not in 0..4"},
        {"initial_global_assignments: {0: [0,1,2,3,4], 2: [0,1,2,3,4]}",
         {"qwen3_moe", 3, shape, 2},
         "layer 0: 5 slots cannot be shared out to 2 ranks evenly"},
        {"{\"physical_to_logical_map\": [[0,1,2,3,4,0]]}",
         {"qwen3_moe", 3, shape, 2},
         "expected a row for each of 3 layers, or of 2 with experts, found 1"},
        {"{\"physical_to_logical_map\": [[0,1,2,3,4,0],[0,1,2,3,0,0]]}",
         {"qwen3_moe", 3, shape, 2},
         "file: placement, layer 2: no rank holds expert 4"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        sy_placement_list *list;
        sy_placement *p;
        must(parse(table[i].file, SY_PLACEMENT_ANY, &list));
        expect_error(sy_placement_list_place(list, "file", &table[i].target, &p),
                     table[i].text);
        assert_null(p);
        sy_placement_list_destroy(list);
    }
}

/* ---- other systems' ---- */

static void yaml_is_read_in_its_published_forms(void **state) {
    (void)state;
    static const char *const table[] = {
        "num_slots: 6\ninitial_global_assignments:\n  0: [0, 1, 2, 3, 4, 0]\n"
        "  2: [4, 3, 2,\n      1, 0, 3]\nlayer_updates_per_iter: 0\n",
        "# made by hand\n---\nlayer_updates_per_iter: 0 # off\ninitial_global_assignments:\n"
        "  2:\n  - 4\n  - 3\n  - 2\n  - 1\n  - 0\n  - 3\n"
        "  0:\n    - 0\n    - 1\n    - 2\n    - 3\n    - 4\n    - 0\nnum_slots: 6\n",
        "{initial_global_assignments: {0: [0, 1, 2, 3, 4, 0], 2: [4, 3, 2, 1, 0, 3,]}, "
        "layer_updates_per_iter: 0, num_slots: 6}",
        "initial_global_assignments:\r\n  0: [0,1,2,3,4,0]\r\n  2: [4,3,2,1,0,3]\r\n",
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        sy_placement_list *list;
        must(parse(table[i], SY_PLACEMENT_ANY, &list));
        assert_int_equal(list->form, SY_PLACEMENT_TRTLLM);
        sy_placement *p = place(list, R);
        assert_layer(&p->layer[0], (int[]){3, 3}, (int[]){0, 1, 2, 3, 4, 0});
        assert_layer(&p->layer[2], (int[]){3, 3}, (int[]){4, 3, 2, 1, 0, 3});
        sy_placement_destroy(p);
        sy_placement_list_destroy(list);
    }
}

static void yaml_beyond_that_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *yaml, *text;
    } table[] = {
        {"num_slots: 6\n", "expected \"initial_global_assignments\", found none"},
        {"", "expected \"initial_global_assignments\", found none"},
        {"initial_global_assignments:\n", "expected a layer's number, found the end"},
        {"initial_global_assignments: {}\n", "expected a layer's number"},
        {"initial_global_assignments: &a {0: [1]}\n", "line 1: expected a layer's number"},
        {"initial_global_assignments:\n  a: [1]\n", "line 2: expected a layer's number"},
        {"initial_global_assignments:\n  0 [1]\n", "expected \":\""},
        {"initial_global_assignments:\n  0: {}\n", "expected a list of experts"},
        {"initial_global_assignments:\n  0: [1, x]\n",
         "line 2: expected an expert's number, found \"x]\""},
        {"initial_global_assignments:\n  0: [1 2]\n", "expected \",\" or \"]\""},
        {"initial_global_assignments:\n  0: [1, 2\n", "found the end of the file"},
        {"initial_global_assignments:\n  0: [1.5]\n", "expected an expert's number"},
        {"initial_global_assignments:\n  0: [-1]\n", "expected an expert's number"},
        {"initial_global_assignments:\n  0: [99999999999999999999]\n",
         "line 2: an expert's number is above 65535"},
        {"initial_global_assignments:\n  4096: [1]\n", "a layer's number is above 4095"},
        {"initial_global_assignments:\n  0: [1]\n  0: [1]\n", "layer 0 is listed twice"},
        {"initial_global_assignments: {0: [1]}\ninitial_global_assignments: {1: [1]}\n",
         "comes twice"},
        {"initial_global_assignments:\n  0: [1]\nnum_slots: 2\n",
         "layer 0: num_slots is 2, but 1 are listed"},
        {"initial_global_assignments:\n  0: [1]\nother: {x: 1}\n", "expected a plain value"},
        {"initial_global_assignments:\n  0: [1]\n...\n", "expected a key and a colon"},
        {"  initial_global_assignments:\n  0: [1]\n", "expected a key at the begin"},
        {"{initial_global_assignments: {0: [1]}} x", "expected the end of the file"},
        {"{initial_global_assignments: {0: [1]}", "found the end of the file"},
        {"initial_global_assignments:\n\t0: [1]\n", "expected a layer's number"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        sy_placement_list *list;
        expect_error(parse(table[i].yaml, SY_PLACEMENT_TRTLLM, &list), table[i].text);
        assert_null(list);
    }
}

static void cut_files_are_refused_and_never_crash(void **state) {
    (void)state;
    static const struct {
        const char *text;
        sy_placement_form form;
    } table[] = {
        {HEAD "\"layers\": [" LAYER0 "," LAYER2 "]}", SY_PLACEMENT_OURS},
        {"{\"physical_to_logical_map\": [[0,1,2,3,4,0],[0,1,2,3,0,0]]}", SY_PLACEMENT_SGLANG},
        {"{initial_global_assignments: {0: [0, 1], 2: [4, 3]}, num_slots: 2}",
         SY_PLACEMENT_TRTLLM},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        size_t size = strlen(table[i].text);
        for (size_t n = 0; n < size; n++) {
            /* An exact block, so that a sanitizer sees reads behind the end. */
            char *cut = malloc(n + (n == 0));
            sy_placement_list *list;
            assert_non_null(cut);
            memcpy(cut, table[i].text, n);
            if (sy_placement_parse(cut, n, "file", table[i].form, &list) == SY_OK)
                fail_msg("format %d was accepted when cut at %zu", (int)table[i].form, n);
            free(cut);
        }
    }
}

static void rows_of_moe_layers_alone_are_understood(void **state) {
    (void)state;
    sy_placement_list *list;
    must(parse("{\"physical_to_logical_map\": [[0,1,2,3,4,0], [4,3,2,1,0,3]]}",
               SY_PLACEMENT_ANY, &list));
    sy_placement *p = place(list, R);
    assert_layer(&p->layer[0], (int[]){3, 3}, (int[]){0, 1, 2, 3, 4, 0});
    assert_layer(&p->layer[2], (int[]){3, 3}, (int[]){4, 3, 2, 1, 0, 3});
    sy_placement_destroy(p);
    sy_placement_list_destroy(list);
}

static void an_expert_that_a_rank_has_twice_is_held_once(void **state) {
    (void)state;
    sy_placement_list *list;
    must(parse("initial_global_assignments: {0: [0,1,0,2,0,1, 3,4,4,4,1,0], "
               "2: [0,1,2,3,4,0, 0,0,0,0,0,0]}",
               SY_PLACEMENT_ANY, &list));
    sy_placement *p = place(list, R);
    assert_layer(&p->layer[0], (int[]){3, 4}, (int[]){0, 1, 2, 3, 4, 1, 0});
    assert_layer(&p->layer[2], (int[]){5, 1}, (int[]){0, 1, 2, 3, 4, 0});
    sy_placement_destroy(p);
    sy_placement_list_destroy(list);
}

/* ---- writing ---- */

static void uneven_slots_are_not_written_for_other_systems(void **state) {
    (void)state;
    sy_placement_list *list;
    char path[] = "/tmp/sy_placement_XXXXXX";
    must(parse(HEAD "\"layers\": [" LAYER0 "," LAYER2 "]}", SY_PLACEMENT_ANY, &list));
    sy_placement *p = place(list, R);
    close(mkstemp(path));
    expect_error(sy_placement_write(p, "m", SY_PLACEMENT_TRTLLM, path),
                 "layer 0, rank 1 has 2, expected 3");
    expect_error(sy_placement_write(p, "m", SY_PLACEMENT_OURS, "/nonexistent/p.json"),
                 "/nonexistent/p.json: No such file");
    expect_error(sy_placement_write(p, "m", SY_PLACEMENT_OURS, "/dev/full"),
                 "/dev/full: No space left");
    assert_int_equal(access("/dev/full", F_OK), 0);
    unlink(path);
    sy_placement_destroy(p);
    sy_placement_list_destroy(list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(placements_survive_all_formats),
        cmocka_unit_test(a_file_implies_its_model),
        cmocka_unit_test(our_format_keeps_ranks_of_different_size),
        cmocka_unit_test(malformed_files_are_refused_by_name),
        cmocka_unit_test(what_does_not_fit_the_model_is_refused),
        cmocka_unit_test(yaml_is_read_in_its_published_forms),
        cmocka_unit_test(yaml_beyond_that_is_refused),
        cmocka_unit_test(cut_files_are_refused_and_never_crash),
        cmocka_unit_test(rows_of_moe_layers_alone_are_understood),
        cmocka_unit_test(an_expert_that_a_rank_has_twice_is_held_once),
        cmocka_unit_test(uneven_slots_are_not_written_for_other_systems),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
