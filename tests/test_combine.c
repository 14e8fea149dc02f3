/* Moving rows, and the combine tree, bit for bit against a recursive definition. */
#include <math.h>

#include "tests/matrix_fixture.h"

static sy_backend *open_reserved(int n_threads, const char *isa) {
    sy_backend *be = open_cpu(SY_BF16, n_threads, isa);
    if (be == NULL) return NULL;
    sy_limits l = {.max_rows = 1,
                   .max_pairs = 1,
                   .max_context = 64,
                   .hidden = 64,
                   .heads = 1,
                   .kv_heads = 1,
                   .head_dim = 2,
                   .max_inter = 1,
                   .experts = 1,
                   .top_k = 1,
                   .vocab = 1};
    assert_int_equal(be->ops->reserve(be, &l), SY_OK);
    return be;
}

/* The value of a subtree over the experts [low, high) for one column: a table with one slot per
 * expert, walked down to single experts. False if no leaf is in it. */
typedef struct slot {
    bool there;
    float value;
} slot;

static bool plain_tree(const slot *slots, int low, int high, float *value) {
    if (high - low == 1) {
        *value = slots[low].value;
        return slots[low].there;
    }
    int middle = low + (high - low + 1) / 2;
    float left, right;
    bool has_left = plain_tree(slots, low, middle, &left);
    bool has_right = plain_tree(slots, middle, high, &right);
    *value = has_left && has_right ? left + right : has_left ? left : right;
    return has_left || has_right;
}

enum { MAX_E = 300, N_CHUNKS = 3, CHUNK_ROWS = 40, MAX_WIDTH = 1100, N_ROWS = 9 };

typedef struct tree_case {
    int n_experts, max_leaves, width;
    bool weighted, shared, accumulate;
} tree_case;

typedef struct tree_data {
    float *chunk[N_CHUNKS], *shared, *out, *expected;
    int64_t first[N_ROWS + 1];
    sy_tree_leaf leaf[N_ROWS * SY_MAX_TOP_K];
} tree_data;

/* Between 0 and max_leaves distinct experts per row, ascending. */
static void random_leaves(const tree_case *c, tree_data *d) {
    for (int i = 0; i < N_ROWS; i++) {
        int most = (int)sy_min(c->max_leaves, c->n_experts);
        int left = i == 0 ? 0 : i == 1 ? most : (int)random_in(0, most);
        d->first[i + 1] = d->first[i] + left;
        sy_tree_leaf *leaf = &d->leaf[d->first[i]];
        for (int e = 0; e < c->n_experts && left > 0; e++) {
            if (random_in(1, c->n_experts - e) > left) continue;
            *leaf++ = (sy_tree_leaf){.ref = {(int32_t)random_in(0, N_CHUNKS - 1),
                                             (int32_t)random_in(0, CHUNK_ROWS - 1)},
                                     .expert = e,
                                     .weight = random_float(ORDINARY)};
            left--;
        }
    }
}

static void plain_unpack(const tree_case *c, tree_data *d) {
    slot slots[MAX_E];
    for (int i = 0; i < N_ROWS; i++)
        for (int j = 0; j < c->width; j++) {
            memset(slots, 0, sizeof slots);
            for (int64_t l = d->first[i]; l < d->first[i + 1]; l++) {
                const sy_tree_leaf *leaf = &d->leaf[l];
                float v = d->chunk[leaf->ref.chunk][leaf->ref.row * c->width + j];
                if (c->weighted) v = leaf->weight * v;
                slots[leaf->expert] = (slot){true, v};
            }
            float value;
            if (!plain_tree(slots, 0, c->n_experts, &value)) value = 0;
            int at = i * c->width + j;
            if (c->shared) value = value + d->shared[at];
            d->expected[at] = c->accumulate ? d->expected[at] + value : value;
        }
}

static float *random_block(int64_t n) {
    float *x = malloc(sizeof(float) * (size_t)n);
    for (int64_t i = 0; i < n; i++)
        x[i] = random_float(ORDINARY);
    return x;
}

static void check_tree(sy_backend *be, const tree_case *c) {
    static tree_data d;
    int64_t n = (int64_t)N_ROWS * c->width;
    for (int i = 0; i < N_CHUNKS; i++)
        d.chunk[i] = random_block((int64_t)CHUNK_ROWS * c->width);
    d.shared = random_block(n);
    d.out = random_block(n);
    d.expected = malloc(sizeof(float) * (size_t)n);
    memcpy(d.expected, d.out, sizeof(float) * (size_t)n);
    random_leaves(c, &d);
    plain_unpack(c, &d);
    sy_tree_job job = {.n_rows = N_ROWS,
                       .width = c->width,
                       .n_experts = c->n_experts,
                       .first = d.first,
                       .leaf = d.leaf,
                       .chunk = (const float *const *)d.chunk,
                       .weighted = c->weighted,
                       .shared = c->shared ? d.shared : NULL,
                       .out = d.out,
                       .accumulate = c->accumulate};
    assert_int_equal(be->ops->unpack(be, &job, NULL), SY_OK);
    char what[100];
    snprintf(what, sizeof what, "E %d, up to %d leaves, width %d", c->n_experts, c->max_leaves,
             c->width);
    assert_same_bits(d.out, d.expected, n, what);
    for (int i = 0; i < N_CHUNKS; i++)
        free(d.chunk[i]);
    free(d.shared), free(d.out), free(d.expected);
}

static void unpack_equals_the_recursive_tree(void **state) {
    (void)state;
    static const int experts[] = {1, 2, 3, 4, 5, 7, 8, 13, 60, 64, 128, 255, 256, 257, 300};
    static const int widths[] = {1, 64, 511, 512, 513, MAX_WIDTH};
    for (int i = 0; i < N_ISA; i++)
        for (int n_threads = 1; n_threads <= 3; n_threads++) {
            sy_backend *be = open_reserved(n_threads, isa_names[i]);
            if (be == NULL) continue;
            random_state = (uint64_t)(100 * i + n_threads);
            for (int e = 0; e < 15; e++)
                for (int k = 1; k <= 16; k *= 2) {
                    int flags = (int)random_in(0, 7), w = widths[random_in(0, 5)];
                    check_tree(be, &(tree_case){experts[e], k, w, (flags & 1) != 0,
                                                (flags & 2) != 0, (flags & 4) != 0});
                }
            check_tree(be, &(tree_case){300, SY_MAX_TOP_K, 100, true, true, true});
            check_tree(be, &(tree_case){64, 64, 100, false, false, false});
            close_cpu(be);
        }
}

/* A row sent for a whole subtree stands at any expert of that subtree. */
static void a_subtree_row_may_name_any_of_its_experts(void **state) {
    (void)state;
    sy_backend *be = open_reserved(1, NULL);
    float rows[3] = {1e8f, -1e8f, 1.0f}, out[4];
    const float *chunk[1] = {rows};
    /* Experts 4..7 were summed elsewhere; 0 and 2 stand alone: (r0 + r1) + r2 = 1. */
    int64_t first[5];
    sy_tree_leaf leaf[12];
    for (int i = 0; i < 4; i++) {
        first[i] = 3 * i;
        for (int j = 0; j < 3; j++)
            leaf[3 * i + j] = (sy_tree_leaf){.ref = {0, j}, .expert = j == 2 ? 4 + i : 2 * j};
    }
    first[4] = 12;
    sy_tree_job job = {.n_rows = 4,
                       .width = 1,
                       .n_experts = 8,
                       .first = first,
                       .leaf = leaf,
                       .chunk = chunk,
                       .out = out};
    assert_int_equal(be->ops->unpack(be, &job, NULL), SY_OK);
    for (int i = 0; i < 4; i++)
        assert_true(out[i] == 1.0f);
    /* The other grouping, r0 + (r1 + r2), loses the 1. */
    leaf[1].expert = 5, leaf[2].expert = 6;
    job.n_rows = 1;
    assert_int_equal(be->ops->unpack(be, &job, NULL), SY_OK);
    assert_true(out[0] == 0.0f);
    close_cpu(be);
}

static void odd_leaf_lists_end_and_bad_counts_are_refused(void **state) {
    (void)state;
    sy_backend *be = open_reserved(2, NULL);
    float row = 1, out[2] = {-1, -1};
    const float *chunk[1] = {&row};
    sy_tree_leaf leaf[80] = {{.ref = {0, 0}}};
    int64_t first[2] = {0, 64};
    sy_tree_job job = {.n_rows = 1,
                       .width = 1,
                       .n_experts = 3,
                       .first = first,
                       .leaf = leaf,
                       .chunk = chunk,
                       .out = out};
    /* All leaves at one expert, then outside [0, E), then in no order: each counted once. */
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 64; j++)
            leaf[j].expert = i == 0 ? 1 : i == 1 ? 1000 + j : i == 2 ? -5 : (j * 7) % 3;
        assert_int_equal(be->ops->unpack(be, &job, NULL), SY_OK);
        assert_true(out[0] == 64.0f);
    }
    first[1] = 65;
    assert_int_equal(be->ops->unpack(be, &job, NULL), SY_ERR_INTERNAL);
    first[0] = 1, first[1] = 0;
    assert_int_equal(be->ops->unpack(be, &job, NULL), SY_ERR_INTERNAL);
    job.n_rows = 0;
    assert_int_equal(be->ops->unpack(be, &job, NULL), SY_OK);
    assert_true(out[1] == -1.0f);
    close_cpu(be);
}

static void pack_rows_gathers_from_chunks(void **state) {
    (void)state;
    enum { ROWS = 100, BYTES = 37 };
    char a[20 * BYTES], b[30 * BYTES], dst[ROWS * BYTES + 1];
    const void *chunk[2] = {a, b};
    sy_row_ref ref[ROWS];
    for (size_t i = 0; i < sizeof a; i++)
        a[i] = (char)random64();
    for (size_t i = 0; i < sizeof b; i++)
        b[i] = (char)random64();
    for (int i = 0; i < ROWS; i++) {
        ref[i].chunk = (int32_t)random_in(0, 1);
        ref[i].row = (int32_t)random_in(0, ref[i].chunk == 0 ? 19 : 29);
    }
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        sy_backend *be = open_reserved(n_threads, NULL);
        memset(dst, 0x5a, sizeof dst);
        assert_int_equal(be->ops->pack_rows(be, ROWS, BYTES, ref, chunk, dst, NULL), SY_OK);
        for (int i = 0; i < ROWS; i++)
            assert_memory_equal(dst + i * BYTES,
                                (ref[i].chunk == 0 ? a : b) + ref[i].row * BYTES, BYTES);
        assert_int_equal(dst[ROWS * BYTES], 0x5a);
        assert_int_equal(be->ops->pack_rows(be, 0, BYTES, NULL, NULL, NULL, NULL), SY_OK);
        close_cpu(be);
    }
}

static void add_adds_every_element_once(void **state) {
    (void)state;
    for (int n_threads = 1; n_threads <= 3; n_threads++) {
        sy_backend *be = open_reserved(n_threads, NULL);
        float y[7 * 33], x[7 * 33 + 1];
        for (int i = 0; i < 7 * 33; i++)
            y[i] = (float)i, x[i] = 0.25f;
        x[7 * 33] = -3;
        assert_int_equal(be->ops->add(be, 7, 33, y, x, NULL), SY_OK);
        for (int i = 0; i < 7 * 33; i++)
            assert_true(x[i] == (float)i + 0.25f);
        assert_true(x[7 * 33] == -3.0f);
        assert_int_equal(be->ops->add(be, 0, 33, NULL, NULL, NULL), SY_OK);
        close_cpu(be);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unpack_equals_the_recursive_tree),
        cmocka_unit_test(a_subtree_row_may_name_any_of_its_experts),
        cmocka_unit_test(odd_leaf_lists_end_and_bad_counts_are_refused),
        cmocka_unit_test(pack_rows_gathers_from_chunks),
        cmocka_unit_test(add_adds_every_element_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
