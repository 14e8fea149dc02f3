/* The cost model: what random routing means for ranks, against counting and against the exchange's
 * own plan; steps computed by hand; bounds that no forecast exceeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "comm/plan.h"
#include "topology/forecast.h"
#include "topology/placement.h"
#include "topology/routing.h"

static void assert_near(double found, double expected, double share) {
    if (!(fabs(found - expected) <= share * fabs(expected)))
        fail_msg("expected %.9g within %.3g %%, found %.9g", expected, 100 * share, found);
}

/* ---- routing ---- */

static void the_largest_of_normal_variables_is_as_in_the_tables(void **state) {
    (void)state;
    assert_true(fabs(sy_largest_normal(1)) < 1e-9);
    assert_near(sy_largest_normal(2), 0.5641896, 1e-5); /* 1 / sqrt(pi) */
    assert_near(sy_largest_normal(3), 0.8462844, 1e-5);
    assert_near(sy_largest_normal(10), 1.5387527, 1e-5);
}

static void experts_touched_by_a_batch(void **state) {
    (void)state;
    assert_near(sy_routing_touched(256, 8, 1), 8, 1e-9);
    assert_near(sy_routing_touched(4, 2, 2), 3, 1e-9); /* 4 (1 - 1/4) */
    assert_near(sy_routing_touched(128, 4, 16), 51, 0.01);
    assert_near(sy_routing_touched(8, 8, 3), 8, 0);
    assert_true(sy_routing_touched(8, 2, 1e9) <= 8);
}

/* E[max] of one token by hypergeometric counting; published for these shapes. */
static void the_busiest_rank_of_one_token(void **state) {
    (void)state;
    static const struct {
        int experts, top_k, ranks;
        double most;
    } row[] = {{8, 2, 2, 40.0 / 28}, {256, 8, 2, 5.08}, {256, 8, 4, 3.51}, {256, 8, 8, 2.56},
               {128, 4, 2, 2.74},    {128, 4, 8, 1.62}, {128, 6, 4, 2.78}, {384, 8, 8, 2.58},
               {512, 10, 8, 3.00},   {8, 2, 8, 1},      {16, 4, 1, 4}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        double most, pairs;
        assert_int_equal(
            sy_routing_most_touched(row[i].experts, row[i].ranks, row[i].top_k, &most), SY_OK);
        assert_near(most, row[i].most, 0.003);
        assert_int_equal(
            sy_routing_most_pairs(row[i].experts, row[i].top_k, row[i].ranks, 1, &pairs),
            SY_OK);
        assert_near(pairs, row[i].most, 0.003);
    }
}

static void the_busiest_rank_of_many_tokens_nears_the_mean(void **state) {
    (void)state;
    /* Monte Carlo figures: busiest over mean for 256 experts, 8 chosen, 8 ranks. */
    static const struct {
        double tokens, ratio;
    } row[] = {{4, 1.75}, {16, 1.36}, {64, 1.18}, {256, 1.09}};
    double last = 9;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        double most;
        assert_int_equal(sy_routing_most_pairs(256, 8, 8, row[i].tokens, &most), SY_OK);
        double ratio = most / row[i].tokens;
        assert_near(ratio, row[i].ratio, 0.03);
        assert_true(ratio < last && ratio >= 1);
        last = ratio;
    }
}

static void every_expert_touched_is_the_fullest_rank(void **state) {
    (void)state;
    double most;
    assert_int_equal(sy_routing_most_touched(128, 3, 128, &most), SY_OK);
    assert_near(most, 43, 1e-9);
    assert_int_equal(sy_routing_most_touched(128, 3, 0, &most), SY_OK);
    assert_near(most, 0, 0);
    /* More experts than are counted exactly: still between the mean and all of them. */
    assert_int_equal(sy_routing_most_touched(4096, 8, 64, &most), SY_OK);
    assert_true(most > 8 && most < 20);
}

/* Rows home of a set of experts, walking the tree as comm/plan.h describes it. -2: none chosen, -1:
 * several ranks; else the one rank. */
static int walk_set(const int *rank_of, uint32_t set, int first, int end, int *rows) {
    if (end - first == 1) return set >> first & 1 ? rank_of[first] : -2;
    int middle = first + (end - first + 1) / 2;
    int a = walk_set(rank_of, set, first, middle, rows);
    int b = walk_set(rank_of, set, middle, end, rows);
    if (a == -2) return b;
    if (b == -2 || a == b) return a;
    *rows += (a >= 0) + (b >= 0);
    return -1;
}

static double mean_rows_by_counting(const int *rank_of, int experts, int top_k) {
    int n = 0, rows = 0;
    for (uint32_t set = 0; set < 1u << experts; set++) {
        if (__builtin_popcount(set) != top_k) continue;
        if (walk_set(rank_of, set, 0, experts, &rows) >= 0) rows++;
        n++;
    }
    return (double)rows / n;
}

static void rows_home_are_those_of_all_sets_counted(void **state) {
    (void)state;
    int rank_of[11];
    for (int trial = 0; trial < 60; trial++) {
        int experts = 1 + trial % 11, ranks = 1 + trial % 4, top_k = 1 + trial % experts;
        double rows;
        for (int e = 0; e < experts; e++)
            rank_of[e] = (int)(sy_hash_add((uint64_t)trial, (uint64_t)e) % (uint64_t)ranks);
        assert_int_equal(sy_routing_rows_home(experts, top_k, ranks, rank_of, &rows), SY_OK);
        assert_near(rows, mean_rows_by_counting(rank_of, experts, top_k), 1e-9);
    }
}

static double ranks_needed(int experts, int top_k, int ranks) {
    double needed;
    assert_int_equal(sy_routing_ranks_needed(experts, top_k, ranks, NULL, &needed), SY_OK);
    return needed;
}

static void rows_home_are_one_for_each_rank_where_ranks_are_subtrees(void **state) {
    (void)state;
    double rows;
    for (int ranks = 1; ranks <= 16; ranks *= 2) {
        assert_int_equal(sy_routing_rows_home(128, 8, ranks, NULL, &rows), SY_OK);
        assert_near(rows, ranks_needed(128, 8, ranks), 1e-9);
    }
    /* Three ranks are no subtrees: more rows than ranks. */
    assert_int_equal(sy_routing_rows_home(128, 8, 3, NULL, &rows), SY_OK);
    assert_true(rows > ranks_needed(128, 8, 3) + 0.5);
    /* The probability that a rank of two is needed by 8 of 256. */
    assert_near(ranks_needed(256, 8, 2) / 2, 0.997, 0.001);
    int rank_of[4] = {0, 1, 2, 0};
    assert_int_equal(sy_routing_rows_home(4, 2, 2, rank_of, &rows), SY_ERR_INTERNAL);
}

enum { ROWS = 4000, EXPERTS = 48, TOP_K = 6 };

/* The mean of what the exchange itself would send home for random tokens. */
static double mean_rows_of_the_exchange(const sy_placement_layer *layer, int ranks) {
    const sy_plan_shape shape = {.max_rows = ROWS,
                                 .n_ranks = ranks,
                                 .top_k = TOP_K,
                                 .max_slots = EXPERTS,
                                 .max_experts = EXPERTS};
    sy_plan plan;
    int32_t *expert = calloc(ROWS * TOP_K, sizeof *expert);
    float *weight = calloc(ROWS * TOP_K, sizeof *weight);
    int64_t rows = 0;
    for (int i = 0; i < ROWS; i++) {
        int deck[EXPERTS];
        for (int e = 0; e < EXPERTS; e++)
            deck[e] = e;
        for (int k = 0; k < TOP_K; k++) {
            int j = k + (int)(sy_hash_add((uint64_t)i, (uint64_t)k) % (uint64_t)(EXPERTS - k));
            int swap = deck[k];
            deck[k] = deck[j];
            deck[j] = swap;
            expert[i * TOP_K + k] = deck[k];
        }
    }
    assert_int_equal(sy_plan_create(&shape, 0, &plan), SY_OK);
    assert_int_equal(sy_plan_build(&plan, layer, ROWS, expert, weight), SY_OK);
    for (int r = 0; r < ranks; r++)
        rows += plan.n_segments[r];
    sy_plan_destroy(&plan);
    free(expert);
    free(weight);
    return (double)rows / ROWS;
}

static void rows_home_are_those_that_the_exchange_sends(void **state) {
    (void)state;
    static const int experts[] = {EXPERTS};
    for (int ranks = 2; ranks <= 7; ranks++) {
        int32_t scattered[EXPERTS], slots[16] = {0};
        const int32_t *all_slots[] = {slots}, *all_experts[] = {scattered};
        int rank_of[EXPERTS], n = 0;
        sy_placement *p;
        double rows;
        assert_int_equal(sy_placement_contiguous(1, experts, ranks, &p), SY_OK);
        assert_int_equal(sy_routing_rows_home(EXPERTS, TOP_K, ranks, NULL, &rows), SY_OK);
        assert_near(mean_rows_of_the_exchange(&p->layer[0], ranks), rows, 0.02);
        sy_placement_destroy(p);
        for (int r = 0; r < ranks; r++)
            for (int e = r; e < EXPERTS; e += ranks) {
                rank_of[e] = r;
                scattered[n++] = e;
                slots[r]++;
            }
        assert_int_equal(sy_placement_from_slots(1, experts, ranks, all_slots, all_experts, &p),
                         SY_OK);
        double before = rows;
        assert_int_equal(sy_routing_rows_home(EXPERTS, TOP_K, ranks, rank_of, &rows), SY_OK);
        assert_near(mean_rows_of_the_exchange(&p->layer[0], ranks), rows, 0.02);
        assert_true(rows > before); /* scattered experts cost rows */
        sy_placement_destroy(p);
    }
}

/* ---- steps ---- */

/* Powers of ten, so that the sums below can be followed: two dense layers and three with experts. */
static const sy_forecast_layer layers[] = {
    {.count = 2,
     .rest_bytes = 1e9,
     .rest_weights = 5e8,
     .kv_bytes = 1e3,
     .kv_shards = 2,
     .position_flops = 1e4},
    {.count = 3,
     .rest_bytes = 5e8,
     .rest_weights = 2.5e8,
     .expert_bytes = 1e7,
     .expert_weights = 5e6,
     .experts = 8,
     .top_k = 2,
     .kv_bytes = 1e3,
     .kv_shards = 2,
     .position_flops = 1e4,
     .window = 100},
};
static const sy_forecast_model model = {.n_layers = 2,
                                        .layer = layers,
                                        .hidden = 1000,
                                        .act_bytes = 2,
                                        .head_bytes = 2e8,
                                        .head_weights = 1e8};
static const sy_forecast_machine machine = {
    .peak_read = 2e11,
    .peak_rate = 2e13,
    .rest_read = 1e11,
    .expert_read = 5e10,
    .kv_read = 1e11,
    .rest_rate = 1e13,
    .expert_rate = 5e12,
    .attention_rate = 1e13,
    .step_overhead = 1e-4,
    .layer_overhead = 1e-5,
    .devices_per_host = 2,
    .in_host = {.bandwidth = 1e10, .latency = 1e-5, .peer_latency = 1e-6},
    .between_hosts = {.bandwidth = 1e9, .latency = 1e-4, .peer_latency = 1e-5}};

static void decode_of_one_rank_is_the_sum_of_its_terms(void **state) {
    (void)state;
    const sy_forecast_job job = {.ranks = 1, .batch = 1, .context = 1000, .chunk = 512};
    sy_forecast f;
    assert_int_equal(sy_forecast_decode(&model, &machine, &job, &f), SY_OK);
    assert_near(f.rest_s, (2 * 1e9 + 3 * 5e8 + 2e8) / 1e11, 1e-9);
    assert_near(f.experts_s, 3 * 2 * 1e7 / 5e10, 1e-9);
    assert_near(f.kv_s, (2 * 1000 + 3 * 100) * 1e3 / 1e11, 1e-9); /* a window of 100 */
    double attention = (2 * 1000 + 3 * 100) * 1e4;
    assert_near(f.compute_s,
                2 * (2 * 5e8 + 3 * 2.5e8 + 1e8) / 1e13 + 3 * 2 * 2 * 5e6 / 5e12 +
                    attention / 1e13,
                1e-9);
    assert_near(f.overhead_s, 1e-4 + 5e-5, 1e-9);
    assert_true(f.exchange_s == 0 && f.latency_s == 0);
    assert_near(f.seconds, f.overhead_s + f.rest_s + f.experts_s + f.kv_s, 1e-9);
    assert_near(f.tokens_per_s, 1 / f.seconds, 1e-9);
    assert_near(f.bound_per_s, 2e11 / (3.7e9 + 6e7 + 2.3e6), 1e-9);
    assert_near(f.imbalance, 1, 1e-9);
}

static void spread_charges_both_ways_of_the_exchange(void **state) {
    (void)state;
    const sy_forecast_job job = {.ranks = 2, .batch = 2, .context = 0, .chunk = 512};
    sy_forecast f;
    assert_int_equal(sy_forecast_decode(&model, &machine, &job, &f), SY_OK);
    /* Two of eight, four on each of two ranks: a given rank is needed unless both are elsewhere. */
    double needed = 2 * (1 - 6.0 / 28);
    double per_row = needed / 2 * (1000 * 2 + 1000 * 4) + 2 * 16 / 2.0;
    assert_near(f.exchange_bytes, 3 * per_row, 1e-9);
    assert_near(f.exchange_s, 3 * per_row / 1e10, 1e-9);
    assert_near(f.latency_s, 3 * 2 * 1e-5, 1e-9); /* only MoE layers, both directions */
    assert_true(f.imbalance > 1);
    /* Four ranks are two hosts: one peer of three is near, and the far ones decide the latency. */
    const sy_forecast_job four = {.ranks = 4, .batch = 4, .context = 0, .chunk = 512};
    assert_int_equal(sy_forecast_decode(&model, &machine, &four, &f), SY_OK);
    assert_near(f.latency_s, 3 * 2 * (1e-4 + 1e-5), 1e-9);
    assert_near(f.exchange_s, f.exchange_bytes * (1 / 3.0 / 1e10 + 2 / 3.0 / 1e9), 1e-9);
    sy_forecast_machine shared = machine;
    shared.between_hosts.shared = true; /* two devices of a host at the same port */
    assert_int_equal(sy_forecast_decode(&model, &shared, &four, &f), SY_OK);
    assert_near(f.exchange_s, f.exchange_bytes * (1 / 3.0 / 1e10 + 4 / 3.0 / 1e9), 1e-9);
}

static void sequences_are_split_and_their_cache_with_them(void **state) {
    (void)state;
    sy_forecast one, five;
    sy_forecast_job job = {.ranks = 4, .batch = 4, .context = 1000, .chunk = 512};
    assert_int_equal(sy_forecast_decode(&model, &machine, &job, &one), SY_OK);
    job.batch = 5; /* one rank has two */
    assert_int_equal(sy_forecast_decode(&model, &machine, &job, &five), SY_OK);
    assert_near(five.kv_bytes, 2 * one.kv_bytes, 1e-9);
    assert_near(five.rest_bytes, one.rest_bytes, 1e-9);
}

static void shard_slices_the_rest_and_mirrors_the_tokens(void **state) {
    (void)state;
    const sy_forecast_job job = {
        .mode = SY_PARALLEL_SHARD, .ranks = 4, .batch = 2, .context = 1000, .chunk = 512};
    sy_forecast f;
    assert_int_equal(sy_forecast_decode(&model, &machine, &job, &f), SY_OK);
    assert_near(f.rest_bytes, 3.7e9 / 4, 1e-9);
    assert_near(f.kv_bytes, 2 * 2.3e6 / 2, 1e-9); /* two key-value heads serve four ranks */
    assert_near(f.exchange_bytes, 5 * 2 * 3 * 2 * 1000 * 4.0, 1e-9);
}

static void prefill_reads_the_weights_once_a_chunk(void **state) {
    (void)state;
    sy_forecast_job job = {.ranks = 1, .batch = 1, .prompt = 1024, .chunk = 512};
    sy_forecast f, longer;
    assert_int_equal(sy_forecast_prefill(&model, &machine, &job, &f), SY_OK);
    assert_near(f.rest_bytes, 2 * 3.5e9 + 2e8, 1e-9); /* the head for one row in all */
    assert_near(f.experts_bytes, 2 * 3 * 8 * 1e7, 1e-6);
    assert_near(f.overhead_s, 2 * 1.5e-4, 1e-9);
    assert_near(f.tokens_per_s, 1024 / f.seconds, 1e-9);
    job.prompt = 1025; /* a third step for one token */
    assert_int_equal(sy_forecast_prefill(&model, &machine, &job, &longer), SY_OK);
    assert_near(longer.overhead_s, 3 * 1.5e-4, 1e-9);
    assert_true(longer.tokens_per_s < f.tokens_per_s);
}

static void uneven_loads_make_the_hot_rank_the_slowest(void **state) {
    (void)state;
    static const double even[8] = {.25, .25, .25, .25, .25, .25, .25, .25};
    static const double uneven[8] = {1, 1, 0, 0, 0, 0, 0, 0};
    sy_forecast_layer one = layers[1];
    sy_forecast_model m = model;
    sy_forecast f[3];
    const sy_forecast_job job = {
        .ranks = 4, .batch = 64, .context = 10, .prompt = 64, .chunk = 64};
    m.n_layers = 1;
    m.layer = &one;
    for (int i = 0; i < 3; i++) {
        one.chosen = i == 0 ? NULL : i == 1 ? even : uneven;
        assert_int_equal(sy_forecast_prefill(&m, &machine, &job, &f[i]), SY_OK);
    }
    assert_near(f[1].seconds, f[0].seconds, 1e-6);
    assert_near(f[2].imbalance, 4, 1e-9); /* all pairs on the first of four ranks */
    assert_true(f[2].compute_s > f[0].compute_s);
    /* But only two experts are read, both by that rank. */
    assert_near(f[2].experts_bytes / f[0].experts_bytes, 1, 1e-6);
}

static void a_placement_is_charged_for_its_rows_and_its_fullest_rank(void **state) {
    (void)state;
    static const int scattered[8] = {0, 1, 0, 1, 0, 1, 0, 1},
                     uneven[8] = {0, 0, 0, 0, 0, 0, 0, 1};
    sy_forecast_layer one = layers[1];
    sy_forecast_model m = model;
    sy_forecast contiguous, f, elsewhere;
    sy_forecast_job job = {.ranks = 2, .batch = 64, .context = 10, .prompt = 64, .chunk = 64};
    double rows, rows_contiguous;
    one.top_k = 3; /* two of a rank's make two rows where they are scattered */
    m.n_layers = 1;
    m.layer = &one;
    assert_int_equal(sy_forecast_decode(&m, &machine, &job, &contiguous), SY_OK);
    one.rank_of = scattered;
    one.placed_ranks = 2;
    assert_int_equal(sy_forecast_decode(&m, &machine, &job, &f), SY_OK);
    assert_int_equal(sy_routing_rows_home(8, 3, 2, scattered, &rows), SY_OK);
    assert_int_equal(sy_routing_rows_home(8, 3, 2, NULL, &rows_contiguous), SY_OK);
    assert_true(rows > rows_contiguous + 0.1);
    assert_near(f.exchange_bytes - contiguous.exchange_bytes,
                3 * 32 * (rows - rows_contiguous) / 2 * 4000, 1e-9);
    assert_near(f.experts_bytes, contiguous.experts_bytes, 1e-6);
    one.rank_of = uneven;
    assert_int_equal(sy_forecast_decode(&m, &machine, &job, &f), SY_OK);
    assert_near(f.experts_bytes / (3 * 1e7), 7, 1e-6); /* seven of eight, all touched */
    /* On another number of ranks the placement says nothing. */
    job.ranks = 4;
    assert_int_equal(sy_forecast_decode(&m, &machine, &job, &f), SY_OK);
    one.rank_of = NULL;
    assert_int_equal(sy_forecast_decode(&m, &machine, &job, &elsewhere), SY_OK);
    assert_near(f.seconds, elsewhere.seconds, 1e-12);
}

/* A model and a machine of numbers drawn from a seed. */
static double draw(uint64_t seed, int i, double low, double high) {
    double u = (double)(sy_hash_add(seed, (uint64_t)i) >> 11) * 0x1p-53;
    return low * pow(high / low, u);
}

static void no_forecast_exceeds_its_bound_and_better_machines_are_faster(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        sy_forecast_layer l = {.count = (int)draw(seed, 1, 1, 99),
                               .rest_bytes = draw(seed, 2, 1e3, 1e10),
                               .rest_weights = draw(seed, 3, 1e3, 1e10),
                               .expert_bytes = draw(seed, 4, 1e3, 1e9),
                               .expert_weights = draw(seed, 5, 1e3, 1e9),
                               .experts = (int)draw(seed, 6, 8, 300),
                               .top_k = (int)draw(seed, 7, 1, 8),
                               .kv_bytes = draw(seed, 8, 16, 1e5),
                               .kv_shards = (int)draw(seed, 9, 1, 64),
                               .position_flops = draw(seed, 10, 16, 1e6)};
        sy_forecast_model m = model;
        sy_forecast_machine fast = machine, slow = machine;
        sy_forecast_job job = {.mode = seed % 2 ? SY_PARALLEL_SPREAD : SY_PARALLEL_SHARD,
                               .ranks = (int)draw(seed, 11, 1, 17),
                               .batch = (int64_t)draw(seed, 12, 1, 500),
                               .context = (int64_t)draw(seed, 13, 1, 1e5),
                               .prompt = (int64_t)draw(seed, 14, 1, 1e5),
                               .chunk = (int64_t)draw(seed, 15, 1, 2048)};
        sy_forecast a, b;
        m.n_layers = 1;
        m.layer = &l;
        fast.rest_read = fast.expert_read = fast.kv_read = fast.peak_read;
        fast.in_host.latency = fast.between_hosts.latency = 0;
        slow.in_host.bandwidth = slow.between_hosts.bandwidth = 1e8;
        for (int prefill = 0; prefill < 2; prefill++) {
            sy_status (*f)(const sy_forecast_model *, const sy_forecast_machine *,
                           const sy_forecast_job *, sy_forecast *) =
                prefill ? sy_forecast_prefill : sy_forecast_decode;
            assert_int_equal(f(&m, &fast, &job, &a), SY_OK);
            assert_int_equal(f(&m, &slow, &job, &b), SY_OK);
            assert_true(isfinite(a.seconds) && a.seconds > 0);
            assert_true(a.tokens_per_s <= a.bound_per_s * (1 + 1e-9));
            assert_true(b.tokens_per_s <= a.tokens_per_s * (1 + 1e-9));
            assert_true(a.imbalance >= 1 - 1e-9);
            job.context *= 2; /* a longer context is never faster */
            assert_int_equal(f(&m, &fast, &job, &b), SY_OK);
            assert_true(b.seconds >= a.seconds * (1 - 1e-9));
        }
    }
}

static void numbers_out_of_range_are_refused(void **state) {
    (void)state;
    const sy_forecast_job good = {.ranks = 2, .batch = 1, .prompt = 1, .chunk = 1};
    sy_forecast f;
    assert_int_equal(sy_forecast_decode(&model, &machine, &good, &f), SY_OK);
    for (int i = 0; i < 6; i++) {
        sy_forecast_job job = good;
        if (i == 0) job.ranks = 0;
        if (i == 1) job.ranks = 5000;
        if (i == 2) job.batch = 0;
        if (i == 3) job.context = -1;
        if (i == 4) job.chunk = 0;
        if (i == 5) job.prompt = -1;
        assert_int_equal(sy_forecast_decode(&model, &machine, &job, &f), SY_ERR_USAGE);
    }
    sy_forecast_job job = good;
    job.prompt = INT64_MAX;
    job.batch = INT64_MAX;
    assert_int_equal(sy_forecast_prefill(&model, &machine, &job, &f), SY_ERR_USAGE);
    for (int i = 0; i < 5; i++) {
        sy_forecast_machine m = machine;
        if (i == 0) m.rest_read = 0;
        if (i == 1) m.expert_rate = NAN;
        if (i == 2) m.kv_read = 3e11; /* faster than the hardware */
        if (i == 3) m.in_host.bandwidth = 0;
        if (i == 4) m.devices_per_host = 0;
        assert_int_equal(sy_forecast_decode(&model, &m, &good, &f), SY_ERR_USAGE);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_largest_of_normal_variables_is_as_in_the_tables),
        cmocka_unit_test(experts_touched_by_a_batch),
        cmocka_unit_test(the_busiest_rank_of_one_token),
        cmocka_unit_test(the_busiest_rank_of_many_tokens_nears_the_mean),
        cmocka_unit_test(every_expert_touched_is_the_fullest_rank),
        cmocka_unit_test(rows_home_are_those_of_all_sets_counted),
        cmocka_unit_test(rows_home_are_one_for_each_rank_where_ranks_are_subtrees),
        cmocka_unit_test(rows_home_are_those_that_the_exchange_sends),
        cmocka_unit_test(decode_of_one_rank_is_the_sum_of_its_terms),
        cmocka_unit_test(spread_charges_both_ways_of_the_exchange),
        cmocka_unit_test(sequences_are_split_and_their_cache_with_them),
        cmocka_unit_test(shard_slices_the_rest_and_mirrors_the_tokens),
        cmocka_unit_test(prefill_reads_the_weights_once_a_chunk),
        cmocka_unit_test(uneven_loads_make_the_hot_rank_the_slowest),
        cmocka_unit_test(a_placement_is_charged_for_its_rows_and_its_fullest_rank),
        cmocka_unit_test(no_forecast_exceeds_its_bound_and_better_machines_are_faster),
        cmocka_unit_test(numbers_out_of_range_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
