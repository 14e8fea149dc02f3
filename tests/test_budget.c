/* The memory budget on published configs, without their weights.
 * ranks: 1 2 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/memory.h"
#include "runtime/budget.h"
#include "tests/model_fixture.h"

static sy_comm *comm;

typedef struct planned {
    sy_pool *pool;
    sy_backend *be;
    sy_model_spec *spec;
    sy_placement *placement;
    sy_engine_parts parts;
    sy_engine_options options;
} planned;

static void open_config(planned *p, const char *config) {
    char path[512];
    MUST(sy_pool_create(1, false, &p->pool));
    MUST(sy_cpu_open(SY_BF16, p->pool, NULL, &p->be));
    MUST(sy_spec_load(data_path(path, sizeof path, "configs/%s", config), &p->spec));
    p->placement = contiguous(p->spec, sy_comm_size(comm));
    p->parts = (sy_engine_parts){
        .comm = comm, .be = p->be, .spec = p->spec, .placement = p->placement};
    p->options = (sy_engine_options){.max_context = 4096,
                                     .max_pages = 64,
                                     .per_rank = 1,
                                     .chunk = 512,
                                     .max_outputs = 1,
                                     .n_valid = p->spec->vocab};
}

static void close_config(planned *p) {
    sy_placement_destroy(p->placement);
    sy_spec_destroy(p->spec);
    p->be->ops->close(p->be);
    sy_pool_destroy(p->pool);
}

/* Bytes that the largest rank's share needs of the machine that all ranks of this test share,
 * where one part in 20 stays free. */
static sy_memory_left memory(uint64_t bytes) {
    return (sy_memory_left){.bytes = bytes};
}

static uint64_t machine_for(uint64_t bytes_per_rank) {
    return bytes_per_rank * (uint64_t)sy_comm_size(comm) / 19 * 20 + 4096;
}

static uint64_t weight_bytes(const planned *p, int rank) {
    uint64_t bytes;
    MUST(sy_weights_bytes(p->be, p->spec, p->placement, rank, NULL, &bytes));
    return bytes;
}

static void a_model_that_fits_is_left_as_it_is(void **state) {
    (void)state;
    planned p;
    sy_budget budget;
    open_config(&p, "qwen3-30b-a3b-v4.json");
    int last = sy_comm_size(comm) - 1;
    uint64_t needs = weight_bytes(&p, last) + sy_engine_bytes(&p.parts, &p.options);
    /* 30 billion parameters of two bytes */
    if (last == 0) assert_in_range(weight_bytes(&p, 0), 60000000000, 62000000000);
    assert_int_equal(
        sy_budget_fit(&p.parts, NULL, memory(machine_for(needs)), &p.options, &budget), SY_OK);
    assert_int_equal(p.options.chunk, 512);
    assert_int_equal(budget.weights, weight_bytes(&p, sy_comm_rank(comm)));
    assert_int_equal(budget.engine, sy_engine_bytes(&p.parts, &p.options));
    assert_true(budget.available >= needs && budget.available < needs + 8192);
    assert_int_equal(sy_budget_fit(&p.parts, NULL, memory(UINT64_MAX), &p.options, &budget),
                     SY_OK);
    close_config(&p);
}

static void the_chunk_shrinks_where_that_is_enough(void **state) {
    (void)state;
    planned p;
    sy_budget budget;
    open_config(&p, "qwen3-30b-a3b-v5.json");
    p.options.max_outputs = p.options.chunk; /* follows the chunk */
    sy_engine_options small = p.options;
    small.chunk = small.max_outputs = 64;
    uint64_t largest = weight_bytes(&p, sy_comm_size(comm) - 1);
    uint64_t has = machine_for(largest + sy_engine_bytes(&p.parts, &small));
    assert_true(sy_engine_bytes(&p.parts, &small) < sy_engine_bytes(&p.parts, &p.options));
    assert_int_equal(sy_budget_fit(&p.parts, NULL, memory(has), &p.options, &budget), SY_OK);
    assert_int_equal(p.options.chunk, 64);
    assert_int_equal(p.options.max_outputs, 64);

    /* What a step must hold for its sequences is kept. */
    p.options.chunk = 512;
    p.options.max_outputs = p.options.per_rank = 100;
    assert_int_equal(sy_budget_fit(&p.parts, NULL, memory(has * 2), &p.options, &budget),
                     SY_OK);
    assert_int_equal(p.options.chunk, 512);
    assert_int_equal(p.options.max_outputs, 100);
    close_config(&p);
}

/* The number behind "use at least" in the last error. */
static int advised_ranks(void) {
    int ranks = 0;
    const char *at = strstr(sy_last_error(), "use at least ");
    if (at == NULL || sscanf(at, "use at least %d ranks", &ranks) != 1)
        fail_msg("no advice in \"%s\"", sy_last_error());
    return ranks;
}

static void a_refusal_says_what_is_needed_and_how_many_ranks_would_do(void **state) {
    (void)state;
    planned p;
    sy_budget budget;
    char weights[32], engine[32];
    int R = sy_comm_size(comm);
    open_config(&p, "mixtral-8x22b-v4.json");
    uint64_t has = (uint64_t)R * 100000000000; /* 100 GB for each rank */
    assert_int_equal(sy_budget_fit(&p.parts, NULL, memory(has), &p.options, &budget),
                     SY_ERR_MEMORY);
    /* The refusal is about the smallest chunk that was tried. */
    assert_int_equal(p.options.chunk, 16);
    sy_format_bytes(weights, sizeof weights, weight_bytes(&p, R - 1));
    sy_format_bytes(engine, sizeof engine, sy_engine_bytes(&p.parts, &p.options));
    const char *const parts[] = {
        "needs ",        " on rank ", weights, engine, ", 95.0 GB available; ",
        "use at least ", " ranks"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (strstr(sy_last_error(), parts[i]) == NULL)
            fail_msg("expected \"%s\" in \"%s\"", parts[i], sy_last_error());

    /* The advice is the fewest ranks: one fewer does not hold the weights. */
    int advised = advised_ranks();
    assert_true(advised > R);
    for (int n = advised - 1; n <= advised; n++) {
        sy_placement *placement = contiguous(p.spec, n);
        uint64_t bytes;
        MUST(sy_weights_bytes(p.be, p.spec, placement, n - 1, NULL, &bytes));
        bytes += sy_engine_bytes(&p.parts, &p.options);
        assert_int_equal(bytes <= 95000000000, n == advised);
        sy_placement_destroy(placement);
    }
    close_config(&p);
}

static void where_ranks_do_not_help_the_context_is_named(void **state) {
    (void)state;
    planned p;
    sy_budget budget;
    open_config(&p, "olmoe-1b-7b-v5.json");
    p.options.max_pages = 1 << 20; /* 64 million tokens */
    assert_int_equal(
        sy_budget_fit(&p.parts, NULL, memory((uint64_t)64 << 30), &p.options, &budget),
        SY_ERR_MEMORY);
    assert_non_null(strstr(sy_last_error(), "use shorter or fewer sequences"));
    close_config(&p);
}

static void one_rank_with_less_decides_for_all(void **state) {
    (void)state;
    planned p;
    sy_budget budget;
    open_config(&p, "qwen3-235b-a22b-v4.json");
    int R = sy_comm_size(comm);
    /* An odd number of experts, so that the last rank needs more; the first one finds less. */
    MUST(sy_spec_cut(p.spec, 0, 0, 0, 127));
    sy_placement_destroy(p.placement);
    p.placement = contiguous(p.spec, R);
    p.parts.placement = p.placement;
    uint64_t has = sy_comm_rank(comm) == 0 ? (uint64_t)R * 1000000000 : UINT64_MAX;
    char on_rank[32];
    snprintf(on_rank, sizeof on_rank, " on rank %d (", R - 1);
    assert_int_equal(sy_budget_fit(&p.parts, NULL, memory(has), &p.options, &budget),
                     SY_ERR_MEMORY);
    assert_non_null(strstr(sy_last_error(), on_rank));
    assert_non_null(strstr(sy_last_error(), ", 950.0 MB available; "));
    close_config(&p);
}

/* The limit counts the process too; it holds whatever is left of the machine's memory. */
static void a_limit_is_kept_to_the_byte(void **state) {
    (void)state;
    planned p;
    sy_budget budget;
    sy_memory_parts parts;
    open_config(&p, "olmoe-1b-7b-v5.json");
    MUST(sy_budget_count(&p.parts, NULL, &p.options, &parts));
    assert_int_equal(parts.experts + parts.rest, weight_bytes(&p, sy_comm_rank(comm)));
    assert_int_equal(parts.kv + parts.buffers, sy_engine_bytes(&p.parts, &p.options));
    /* 16 layers of 64 experts, three matrices of 2048 x 1024 in BF16 */
    assert_int_equal(parts.experts,
                     (uint64_t)16 * 64 * 3 * 2048 * 1024 * 2 / (uint64_t)sy_comm_size(comm));
    sy_memory_left left = {.bytes = UINT64_MAX, .limit = sy_budget_total(&parts)};
    assert_int_equal(sy_budget_fit(&p.parts, NULL, left, &p.options, &budget), SY_OK);
    assert_int_equal(p.options.chunk, 512);
    left.limit--; /* one byte less, and the chunk gives way */
    assert_int_equal(sy_budget_fit(&p.parts, NULL, left, &p.options, &budget), SY_OK);
    assert_int_equal(p.options.chunk, 256);
    while (sy_budget_shrink(&p.options))
        ;
    sy_budget_count_engine(&p.parts, &p.options, &parts);
    left.limit = sy_budget_total(&parts);
    assert_int_equal(sy_budget_fit(&p.parts, NULL, left, &p.options, &budget), SY_OK);
    left.limit--;
    assert_int_equal(sy_budget_fit(&p.parts, NULL, left, &p.options, &budget), SY_ERR_MEMORY);
    assert_non_null(strstr(sy_last_error(), "allowed by --memory"));
    close_config(&p);
}

static void sizes_saturate(void **state) {
    (void)state;
    planned p;
    sy_budget budget;
    open_config(&p, "mixtral-8x7b-v5.json");
    p.options.max_pages = INT64_MAX;
    assert_true(sy_engine_bytes(&p.parts, &p.options) == UINT64_MAX);
    assert_int_equal(
        sy_budget_fit(&p.parts, NULL, memory((uint64_t)1 << 60), &p.options, &budget),
        SY_ERR_MEMORY);
    p.options.max_pages = 64;
    p.options.chunk = INT64_MAX / 4;
    assert_true(sy_engine_bytes(&p.parts, &p.options) == UINT64_MAX);
    close_config(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_that_fits_is_left_as_it_is),
        cmocka_unit_test(the_chunk_shrinks_where_that_is_enough),
        cmocka_unit_test(a_refusal_says_what_is_needed_and_how_many_ranks_would_do),
        cmocka_unit_test(where_ranks_do_not_help_the_context_is_named),
        cmocka_unit_test(one_rank_with_less_decides_for_all),
        cmocka_unit_test(a_limit_is_kept_to_the_byte),
        cmocka_unit_test(sizes_saturate),
    };
    MUST(sy_comm_create(&(sy_comm_options){.threads_per_rank = 1}, &comm));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed != 0) sy_comm_abort(comm, 1);
    sy_comm_destroy(comm);
    return 0;
}
