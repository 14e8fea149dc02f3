/* What counting and profiling cost: the same work with and without, in turns, on dummy weights.
 *
 *   bench_profile MODEL counts|full [PAIRS [LAYERS [PROMPT [GEN]]]]
 *
 * MODEL is a directory with a config.json, or the file; its layers are cut to LAYERS (2) and its
 * vocabulary to 4096, so that what is measured is layers. A run is one prompt of PROMPT tokens (64)
 * and GEN more (16) on one thread. Within each pair the order is drawn. Printed is the median of
 * (CPU time with) / (CPU time without) - 1 over the pairs, with its 95 % interval from the order of
 * the pairs, which a few disturbed ones do not move. */
#include <math.h>
#include <time.h>

#include "base/memory.h"
#include "tests/model_fixture.h"

enum { VOCAB = 4096 };

typedef struct bench {
    fixture f;
    bool full; /* a whole profile, else the counting of loads */
    int64_t n_prompt, n_gen;
    int32_t *ids;
} bench;

static bool ignore_token(void *context, int request, const sy_token *token) {
    (void)context;
    (void)request;
    (void)token;
    return false;
}

static void open_bench(bench *b, const char *model, int layers) {
    fixture *f = &b->f;
    sy_runner *r;
    MUST(sy_comm_create(&(sy_comm_options){.threads_per_rank = 1}, &f->comm));
    MUST(sy_pool_create(1, false, &f->pool));
    MUST(sy_cpu_open(SY_BF16, f->pool, NULL, &f->be));
    MUST(sy_spec_load(model, &f->spec));
    MUST(sy_spec_cut(f->spec, 0, layers, VOCAB, 0));
    f->placement = contiguous(f->spec, 1);
    MUST(sy_weights_dummy(f->be, f->spec, f->placement, 0, 1, 2, NULL, NULL, &f->weights));
    int64_t context = b->n_prompt + b->n_gen;
    sy_engine_options o = {.max_context = context,
                           .max_pages = sy_kv_pages(context),
                           .per_rank = 1,
                           .chunk = b->n_prompt,
                           .max_outputs = 1,
                           .n_valid = f->spec->vocab,
                           .ignore_eos = true,
                           .profile = {.on = b->full, .events = SY_PROFILE_EVENTS}};
    fixture_engine(f, &o);
    r = sy_engine_runner(f->engine);
    r->loads->off = !b->full;
    b->ids = calloc((size_t)b->n_prompt, sizeof *b->ids);
    if (b->ids == NULL) abort();
    for (int64_t i = 0; i < b->n_prompt; i++)
        b->ids[i] = (int32_t)(sy_hash_add(1, (uint64_t)i) % VOCAB);
}

static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double run(bench *b, bool with) {
    sy_runner *r = sy_engine_runner(b->f.engine);
    const sy_engine_events events = {ignore_token, NULL, NULL, NULL};
    sy_engine_stats stats;
    sy_request request = {b->ids, b->n_prompt, b->n_gen, {.top_p = 1}};
    if (b->full && with) MUST(sy_profile_begin(r->profile, "bench"));
    if (!b->full) r->loads->off = !with;
    double begin = cpu_seconds();
    MUST(sy_engine_generate(b->f.engine, &request, 1, &events, &stats));
    double seconds = cpu_seconds() - begin;
    if (b->full && with) MUST(sy_profile_collect(r->profile));
    return seconds;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: %s MODEL counts|full [PAIRS [LAYERS [PROMPT [GEN]]]]\n",
                argv[0]);
        return 2;
    }
    int pairs = argc > 3 ? atoi(argv[3]) : 100;
    bench b = {.full = strcmp(argv[2], "full") == 0,
               .n_prompt = argc > 5 ? atoi(argv[5]) : 64,
               .n_gen = argc > 6 ? atoi(argv[6]) : 16};
    open_bench(&b, argv[1], argc > 4 ? atoi(argv[4]) : 2);
    double seconds = 0, *ratio = calloc((size_t)pairs + 1, sizeof *ratio);
    if (pairs < 10 || ratio == NULL) return 2;
    run(&b, true);
    run(&b, false);
    for (int i = 0; i < pairs; i++) {
        bool first = sy_hash_add(2, (uint64_t)i) >> 63;
        double time[2];
        time[first] = run(&b, first);
        time[!first] = run(&b, !first);
        ratio[i] = time[1] / time[0] - 1;
        seconds += time[0];
    }
    qsort(ratio, (size_t)pairs, sizeof *ratio, ascending);
    int half = (int)ceil(0.98 * sqrt(pairs)); /* 1.96 standard deviations of a coin's count */
    printf("%s: %+.3f %% (95 %%: %+.3f to %+.3f), %d pairs of %.1f ms of CPU time\n", argv[2],
           100 * ratio[pairs / 2], 100 * ratio[pairs / 2 - half],
           100 * ratio[(pairs - 1) / 2 + half], pairs, 1e3 * seconds / pairs);
    free(ratio);
    sy_comm *comm = b.f.comm;
    fixture_close(&b.f);
    free(b.ids);
    sy_comm_destroy(comm);
    return 0;
}
