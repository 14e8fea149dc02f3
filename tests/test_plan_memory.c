/* What plan says that a rank holds, against what its process holds after a run that has used all of
 * its KV cache: 20 shapes with made-up weights, each on one number of ranks, or on all with
 * SY_ALL_SHAPES in the environment. Pages that ranks share count once.
 * ranks: 1 2 3 4
 * timeout: 400 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <math.h>

#include "runtime/plan.h"
#include "tests/model_fixture.h"

static sy_comm *comm;

typedef struct shape {
    const char *config;
    int moe, experts, vocab; /* layers; 0 experts: the model's */
    int64_t context;
    int per_rank;
    int64_t chunk;
    const char *precision;
} shape;

/* clang-format off */
static const shape shapes[] = {
    {"qwen3-30b-a3b-v4.json", 2, 16, 4096, 128, 1, 64, NULL},
    {"qwen3-30b-a3b-v4.json", 1, 32, 1024, 1024, 1, 256, NULL},
    {"qwen3-30b-a3b-v4.json", 1, 13, 1000, 100, 3, 16, NULL},
    {"qwen3-30b-a3b-v5.json", 2, 24, 2048, 256, 1, 256, "fp8"},
    {"qwen3-30b-a3b-v5.json", 2, 32, 2048, 256, 2, 512, "mxfp4"},
    {"qwen3-30b-a3b-v5.json", 2, 32, 2048, 256, 1, 64, "nvfp4"},
    {"olmoe-1b-7b-v4.json", 2, 12, 8192, 512, 1, 256, NULL},
    {"olmoe-1b-7b-v5.json", 1, 64, 512, 512, 4, 16, "nvfp4"},
    {"gpt-oss-20b-v4.json", 2, 8, 4096, 256, 1, 64, NULL},
    {"gpt-oss-20b-v5.json", 2, 16, 1024, 512, 1, 128, NULL},
    {"gpt-oss-120b-v4.json", 1, 24, 2048, 128, 2, 64, NULL},
    {"sarvam-30b-v4.json", 1, 12, 1024, 256, 1, 256, NULL},
    {"sarvam-105b-v4.json", 1, 9, 1024, 256, 1, 32, NULL},
    {"deepseek-v2-lite-v4.json", 2, 16, 2048, 512, 1, 128, NULL},
    {"deepseek-v2-lite-v5.json", 1, 10, 2048, 1024, 2, 16, NULL},
    {"deepseek-v3-v4.json", 1, 8, 1024, 64, 1, 16, NULL},
    {"glm-4.5-air-v4.json", 1, 8, 1024, 256, 1, 32, NULL},
    {"minimax-m2-v4.json", 2, 8, 1024, 512, 1, 256, NULL},
    {"kimi-k2-v5.json", 1, 8, 512, 64, 1, 16, NULL},
    {"mistral-small-4.json", 1, 8, 1024, 256, 1, 32, NULL},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };
/* clang-format on */

/* A number of kB in this process's smaps_rollup, in bytes. */
static uint64_t process_bytes(const char *key) {
    char line[128];
    unsigned long long kb = 0;
    FILE *f = fopen("/proc/self/smaps_rollup", "r");
    if (f == NULL) return 0;
    while (fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, key, strlen(key)) == 0) sscanf(line + strlen(key), "%llu", &kb);
    fclose(f);
    return (uint64_t)kb * 1024;
}

typedef struct prepared {
    fixture f;
    sy_plan_precision precision;
    sy_engine_options options;
} prepared;

/* The model of a shape, on this rank's share of the machine, without weights. */
static void prepare(prepared *p, const shape *s) {
    char path[512];
    *p = (prepared){.f.comm = comm};
    MUST(sy_pool_create(1, false, &p->f.pool));
    MUST(sy_cpu_open(SY_BF16, p->f.pool, NULL, &p->f.be));
    MUST(sy_spec_load(data_path(path, sizeof path, "configs/%s", s->config), &p->f.spec));
    MUST(sy_spec_cut(p->f.spec, 0, s->moe, s->vocab, s->experts));
    MUST(sy_plan_precision_make(p->f.spec, s->precision, &p->precision));
    p->f.spec->quant = p->precision.experts.quant; /* what dummy weights are made of */
    p->f.spec->dtype = p->precision.experts.dtype;
    p->f.placement = contiguous(p->f.spec, sy_comm_size(comm));
    p->options = (sy_engine_options){.max_context = s->context,
                                     .max_pages = s->per_rank * sy_kv_pages(s->context),
                                     .per_rank = s->per_rank,
                                     .chunk = s->chunk,
                                     .max_outputs = s->per_rank,
                                     .n_valid = p->f.spec->vocab};
}

static bool on_token(void *context, int request, const sy_token *token) {
    (void)context;
    (void)request;
    (void)token;
    return false;
}

/* Weights, engine, and sequences that fill every page. */
static void run(prepared *p, const shape *s) {
    int n = s->per_rank * sy_comm_size(comm);
    int64_t n_prompt = s->context - 1;
    int32_t *ids = calloc((size_t)(n_prompt + n), sizeof *ids);
    sy_request *requests = calloc((size_t)n, sizeof *requests);
    const sy_engine_events events = {.token = on_token};
    sy_engine_stats stats;
    MUST(sy_weights_dummy(p->f.be, p->f.spec, p->f.placement, sy_comm_rank(comm), 1, 1, NULL,
                          NULL, &p->f.weights));
    fixture_engine(&p->f, &p->options);
    for (int64_t i = 0; i < n_prompt + n; i++)
        ids[i] = (int32_t)(sy_hash_add(3, (uint64_t)i) % (uint64_t)s->vocab);
    for (int i = 0; i < n; i++)
        requests[i] = (sy_request){ids + i, n_prompt, 1, {.top_p = 1}};
    MUST(sy_engine_generate(p->f.engine, requests, n, &events, &stats));
    free(ids);
    free(requests);
}

/* The row of the plan for as many ranks as there are here, on `cluster`. */
static sy_plan_row plan_row(prepared *p, const shape *s, const char *cluster_name) {
    sy_cluster *cluster;
    sy_plan_table table;
    int R = sy_comm_size(comm);
    sy_plan_wish wish = {
        .context = s->context, .batch = (int64_t)s->per_rank * R, .chunk = s->chunk};
    MUST(sy_cluster_load(cluster_name, &cluster));
    MUST(sy_plan_make(&p->precision, p->f.be, cluster, &wish, NULL, NULL, &table));
    sy_cluster_destroy(cluster);
    assert_int_equal(table.row[R - 1].ranks, R);
    assert_int_equal(table.row[R - 1].chunk, s->chunk);
    return table.row[R - 1];
}

/* What the run's own budget counts for this rank. */
static uint64_t budget_bytes(const prepared *p) {
    sy_memory_parts parts;
    sy_engine_parts e = {
        .comm = comm, .be = p->f.be, .spec = p->f.spec, .placement = p->f.placement};
    MUST(sy_budget_count(&e, NULL, &p->options, &parts));
    return sy_budget_total(&parts);
}

/* Larger of 2 % and 32 MiB. */
static double tolerance(double planned) {
    return fmax(0.02 * planned, 32.0 * 1024 * 1024);
}

/* Runs a shape; false if this rank holds something else than was planned for it. The plan is of the
 * fullest rank, the last; others may have an expert less. */
static bool holds_what_was_planned(const shape *s, const char *cluster, double *worst) {
    const double mib = 1048576;
    prepared p;
    prepare(&p, s);
    sy_plan_row row = plan_row(&p, s, cluster);
    uint64_t budget = budget_bytes(&p);
    if (sy_comm_rank(comm) == sy_comm_size(comm) - 1) assert_int_equal(row.total, budget);
    double planned = (double)budget - (double)(row.total - row.expected);
    run(&p, s);
    MUST(sy_comm_barrier(comm)); /* all ranks have touched what they share */
    double held = (double)process_bytes("Pss:"), off = held - planned;
    MUST(sy_comm_barrier(comm));
    if (sy_comm_rank(comm) == 0 || fabs(off) > tolerance(planned) / 2)
        printf(
            "%-26s rank %d of %d: planned %7.1f MiB, expected %7.1f, held %7.1f, off %+6.1f\n",
            s->config, sy_comm_rank(comm), sy_comm_size(comm), (double)budget / mib,
            planned / mib, held / mib, off / mib);
    if (fabs(off) > fabs(*worst)) *worst = off;
    fixture_close(&p.f);
    return fabs(off) <= tolerance(planned);
}

static void a_rank_holds_what_was_planned(void **state) {
    (void)state;
    double worst = 0;
    int n_bad = 0;
    bool all = getenv("SY_ALL_SHAPES") != NULL;
    for (int i = all ? 0 : (sy_comm_size(comm) - 1) % 4; i < SHAPES; i += all ? 1 : 4)
        n_bad += !holds_what_was_planned(&shapes[i], "station-a100", &worst);
    printf("rank %d of %d: largest deviation %+.1f MiB\n", sy_comm_rank(comm),
           sy_comm_size(comm), worst / 1048576);
    assert_int_equal(n_bad, 0);
}

/* Between hosts rows travel into buffers of the receiver's own. */
static void so_does_a_rank_alone_on_its_host(void **state) {
    (void)state;
    static const int chosen[] = {1, 3, 9};
    sy_comm *before = comm;
    const sy_comm_options options = {.threads_per_rank = 1,
                                     .virtual_hosts = sy_comm_size(comm)};
    double worst = 0;
    int n_bad = 0;
    MUST(sy_comm_create(&options, &comm));
    for (size_t i = 0; i < sizeof chosen / sizeof *chosen; i++)
        n_bad += !holds_what_was_planned(&shapes[chosen[i]], "spark:4", &worst);
    sy_comm_destroy(comm);
    comm = before;
    assert_int_equal(n_bad, 0);
}

/* A sanitizer's shadow memory is not part of the plan. */
static const char *why_not(void) {
#if defined(__SANITIZE_ADDRESS__)
    return "under a sanitizer";
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
    return "under a sanitizer";
#endif
#endif
    return process_bytes("Pss:") == 0 ? "there is no /proc/self/smaps_rollup" : NULL;
}

int main(void) {
    const sy_comm_options options = {.threads_per_rank = 1};
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_rank_holds_what_was_planned),
                                       cmocka_unit_test(so_does_a_rank_alone_on_its_host)};
    if (why_not() != NULL) {
        printf("skipped: %s\n", why_not());
        return 77;
    }
    MUST(sy_comm_create(&options, &comm));
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    sy_comm_destroy(comm);
    return failed;
}
