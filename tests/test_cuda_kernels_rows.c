/* The CUDA table's rows on their way: gathering, and the combine tree, bit for bit as the CPU's.
 * timeout: 120 */
#include "tests/cuda_fixture.h"

enum { N_CHUNKS = 3, CHUNK_ROWS = 40 };

static void reserve_rows(int64_t rows) {
    reserve_both(&(sy_limits){.max_rows = rows,
                              .max_pairs = rows * SY_MAX_TOP_K,
                              .max_context = 64,
                              .hidden = 64,
                              .heads = 1,
                              .kv_heads = 1,
                              .head_dim = 2,
                              .max_inter = 1,
                              .experts = 300,
                              .top_k = SY_MAX_TOP_K,
                              .vocab = 1});
}

static void check_pack_rows(int64_t n, int64_t row_bytes) {
    char *host[N_CHUNKS], *expected = host_block(n * row_bytes);
    const void *chunk[N_CHUNKS];
    sy_row_ref *ref = host_block(n * (int64_t)sizeof *ref);
    snprintf(where, sizeof where, "pack_rows, %lld rows of %lld bytes", (long long)n,
             (long long)row_bytes);
    for (int c = 0; c < N_CHUNKS; c++) {
        host[c] = host_block((c + 1) * 10 * row_bytes);
        for (int64_t i = 0; i < (c + 1) * 10 * row_bytes; i++)
            host[c][i] = (char)random64();
        chunk[c] = device_copy(host[c], (c + 1) * 10 * row_bytes);
    }
    for (int64_t i = 0; i < n; i++) {
        ref[i].chunk = (int32_t)random_in(0, N_CHUNKS - 1);
        ref[i].row = (int32_t)random_in(0, (ref[i].chunk + 1) * 10 - 1);
        memcpy(expected + i * row_bytes, host[ref[i].chunk] + ref[i].row * row_bytes,
               (size_t)row_bytes);
    }
    output dst = make_output(NULL, n * row_bytes);
    MUST(cuda_be->ops->pack_rows(cuda_be, n, row_bytes, ref, chunk, dst.device, NULL));
    assert_equal_bytes(read_output(dst), expected, n, row_bytes, "dst");
    end_case();
}

static void pack_rows_gathers_from_chunks(void **state) {
    (void)state;
    static const int widths[] = {1, 2, 4, 6, 16, 34, 37, 64, 126, 4096};
    random_state = 71;
    reserve_rows(600);
    for (int i = 0; i < N_ROW_COUNTS; i++)
        for (int w = 0; w < 10; w++)
            check_pack_rows(row_counts[i], widths[w]);
    check_pack_rows(600, 96);
}

typedef struct tree_case {
    int64_t n_rows;
    int n_experts, max_leaves, width;
    bool weighted, shared, accumulate;
} tree_case;

/* Between 0 and max_leaves distinct experts per row, ascending. */
static sy_tree_leaf *random_leaves(const tree_case *c, int64_t *first) {
    int most = (int)sy_min(c->max_leaves, c->n_experts);
    sy_tree_leaf *leaf = host_block(c->n_rows * most * (int64_t)sizeof *leaf), *next = leaf;
    first[0] = 0;
    for (int64_t i = 0; i < c->n_rows; i++) {
        int left = i == 0 ? most : i == 1 ? 0 : (int)random_in(0, most);
        first[i + 1] = first[i] + left;
        for (int e = 0; e < c->n_experts && left > 0; e++) {
            if (random_in(1, c->n_experts - e) > left) continue;
            *next++ = (sy_tree_leaf){.ref = {(int32_t)random_in(0, N_CHUNKS - 1),
                                             (int32_t)random_in(0, CHUNK_ROWS - 1)},
                                     .expert = e,
                                     .weight = uniform(2)};
            left--;
        }
    }
    return leaf;
}

static void check_unpack(const tree_case *c) {
    const float *host[N_CHUNKS], *device[N_CHUNKS];
    int64_t n = c->n_rows * c->width, *first = host_block((c->n_rows + 1) * 8);
    snprintf(where, sizeof where,
             "unpack, %lld rows of %d, %d experts, up to %d leaves, weighted %d, shared %d, "
             "accumulate %d",
             (long long)c->n_rows, c->width, c->n_experts, c->max_leaves, c->weighted,
             c->shared, c->accumulate);
    for (int i = 0; i < N_CHUNKS; i++) {
        host[i] = random_floats((int64_t)CHUNK_ROWS * c->width, 4);
        device[i] = device_copy(host[i], (int64_t)CHUNK_ROWS * c->width * 4);
    }
    float *shared = random_floats(n, 4), *x = random_floats(n, 4),
          *expected = host_block(n * 4);
    if (n > 0) memcpy(expected, x, (size_t)n * 4);
    output out = make_output(c->accumulate ? x : NULL, n * 4);
    sy_tree_job job = {.n_rows = c->n_rows,
                       .width = c->width,
                       .n_experts = c->n_experts,
                       .first = first,
                       .leaf = random_leaves(c, first),
                       .chunk = host,
                       .weighted = c->weighted,
                       .shared = c->shared ? shared : NULL,
                       .out = expected,
                       .accumulate = c->accumulate};
    MUST(cpu_be->ops->unpack(cpu_be, &job, NULL));
    job.chunk = device;
    job.shared = c->shared ? device_copy(shared, n * 4) : NULL;
    job.out = out.device;
    MUST(cuda_be->ops->unpack(cuda_be, &job, NULL));
    assert_equal_bytes(read_output(out), expected, c->n_rows, c->width * 4, "out");
    end_case();
}

static void unpack_gives_the_bits_of_the_cpu(void **state) {
    (void)state;
    static const int experts[] = {1, 2, 3, 4, 5, 7, 8, 13, 60, 64, 128, 255, 256, 257, 300};
    static const int widths[] = {1, 3, 64, 65, 130, 512, 513};
    random_state = 72;
    reserve_rows(MOST_ROWS);
    for (int e = 0; e < 15; e++)
        for (int k = 1; k <= 16; k *= 2) {
            int flags = (int)random_in(0, 7);
            check_unpack(&(tree_case){row_counts[random_in(1, 8)], experts[e], k,
                                      widths[random_in(0, 6)], (flags & 1) != 0,
                                      (flags & 2) != 0, (flags & 4) != 0});
        }
    for (int i = 0; i < N_ROW_COUNTS; i++)
        check_unpack(&(tree_case){row_counts[i], 60, 4, 48, true, i % 2 == 0, i % 3 == 0});
    check_unpack(&(tree_case){7, 300, SY_MAX_TOP_K, 100, true, true, true});
    check_unpack(&(tree_case){7, 64, 64, 2048, false, false, false});
}

/* A row that was sent for a whole subtree stands at any expert of that subtree. */
static void a_subtree_row_may_name_any_of_its_experts(void **state) {
    (void)state;
    reserve_rows(8);
    static const float rows[3] = {1e8f, -1e8f, 1.0f};
    const float *chunk[1] = {device_copy(rows, sizeof rows)};
    int64_t first[6] = {0, 3, 6, 9, 12, 15};
    sy_tree_leaf leaf[15];
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 3; j++)
            leaf[3 * i + j] = (sy_tree_leaf){.ref = {0, j}, .expert = j == 2 ? 4 + i : 2 * j};
    leaf[12].expert = 0, leaf[13].expert = 5, leaf[14].expert = 6; /* r0 + (r1 + r2) */
    output out = make_output(NULL, 5 * 4);
    sy_tree_job job = {.n_rows = 5,
                       .width = 1,
                       .n_experts = 8,
                       .first = first,
                       .leaf = leaf,
                       .chunk = chunk,
                       .out = out.device};
    MUST(cuda_be->ops->unpack(cuda_be, &job, NULL));
    const float *found = read_output(out);
    for (int i = 0; i < 5; i++)
        assert_true(found[i] == (i < 4 ? 1.0f : 0.0f));
    end_case();
}

static void bad_counts_are_refused(void **state) {
    (void)state;
    reserve_rows(8);
    static const float row = 1;
    const float *chunk[1] = {device_copy(&row, 4)};
    int64_t first[2] = {0, SY_MAX_TOP_K + 1};
    sy_tree_leaf leaf[SY_MAX_TOP_K + 1] = {{.ref = {0, 0}}};
    output out = make_output(NULL, 4);
    sy_tree_job job = {.n_rows = 1,
                       .width = 1,
                       .n_experts = 3,
                       .first = first,
                       .leaf = leaf,
                       .chunk = chunk,
                       .out = out.device};
    assert_int_equal(cuda_be->ops->unpack(cuda_be, &job, NULL), SY_ERR_INTERNAL);
    first[0] = 1, first[1] = 0;
    assert_int_equal(cuda_be->ops->unpack(cuda_be, &job, NULL), SY_ERR_INTERNAL);
    job.n_rows = 0;
    MUST(cuda_be->ops->unpack(cuda_be, &job, NULL));
    const uint32_t *found = read_output(out);
    assert_true(found[0] == 0xffffffffu);
    end_case();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pack_rows_gathers_from_chunks),
        cmocka_unit_test(unpack_gives_the_bits_of_the_cpu),
        cmocka_unit_test(a_subtree_row_may_name_any_of_its_experts),
        cmocka_unit_test(bad_counts_are_refused),
    };
    return cuda_main("rows and trees", tests, sizeof tests / sizeof *tests);
}
