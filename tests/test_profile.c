/* Profiles: conserved counts on any ranks and with copies of experts, links, times, files.
 * ranks: 1 2 3 4
 * timeout: 120, labels: cuda */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/json.h"
#include "runtime/profile_files.h"
#include "tests/model_fixture.h"

static sy_comm *comm;
static bool root;

/* qwen3_moe: layers 0 and 2 have 11 experts, of which a token takes 3; layer 1 is dense. */
enum { N_REQUESTS = 5, N_PROMPT = 23, N_NEW = 6, CONTEXT = 64, E = 11, K = 3, LAYERS = 3 };

typedef enum layout { CONTIGUOUS, WITH_COPIES } layout;

/* Each rank holds its contiguous experts and, with copies, the first one of the rank behind it. */
static sy_placement *make_placement(const sy_model_spec *spec, int R, layout how) {
    int experts[SY_MAX_LAYERS];
    int32_t n_slots[64], slot_expert[64 * E];
    const int32_t *slots_of[SY_MAX_LAYERS], *expert_of[SY_MAX_LAYERS];
    sy_placement *p;
    int n = 0;
    for (int r = 0; r < R; r++) {
        int before = n, next = (r + 1) % R;
        for (int e = E * r / R; e < E * (r + 1) / R; e++)
            slot_expert[n++] = e;
        if (how == WITH_COPIES && next != r) slot_expert[n++] = E * next / R;
        n_slots[r] = n - before;
    }
    for (int l = 0; l < spec->n_layers; l++) {
        experts[l] = spec->layer[l].ffn.experts;
        slots_of[l] = n_slots;
        expert_of[l] = slot_expert;
    }
    MUST(sy_placement_from_slots(spec->n_layers, experts, R, slots_of, expert_of, &p));
    return p;
}

static void load(fixture *f, layout how) {
    char path[512];
    data_path(path, sizeof path, "tiny/qwen3_moe");
    MUST(sy_spec_load(path, &f->spec));
    MUST(sy_checkpoint_open(path, &f->checkpoint));
    f->placement = make_placement(f->spec, sy_comm_size(comm), how);
    MUST(sy_weights_load(f->be, f->spec, f->placement, sy_comm_rank(comm), f->checkpoint, 2,
                         NULL, NULL, NULL, &f->weights));
}

static void open_engine(fixture *f, layout how, sy_profile_options profile) {
    load(f, how);
    sy_engine_options o = {.max_context = CONTEXT,
                           .max_pages = 2,
                           .per_rank = 2,
                           .chunk = 8,
                           .max_outputs = 2,
                           .n_valid = f->spec->vocab,
                           .ignore_eos = true,
                           .hash_logits = true,
                           .profile = profile};
    fixture_engine(f, &o);
}

static void open_model(fixture *f, layout how, sy_profile_options profile) {
    *f = (fixture){.comm = comm};
    MUST(sy_pool_create(1, false, &f->pool));
    MUST(sy_cpu_open(SY_BF16, f->pool, NULL, &f->be));
    open_engine(f, how, profile);
}

static const sy_profile_options wanted = {.on = true, .events = 4000, .routes = 0};

static sy_profile *profile_of(const fixture *f) {
    return sy_engine_runner(f->engine)->profile;
}

static bool hash_token(void *context, int request, const sy_token *token) {
    uint64_t *sum = context; /* tokens come in another order on other ranks */
    *sum += sy_hash_add((uint64_t)request, token->logits_hash);
    return false;
}

static void make_ids(int32_t *ids, int first) {
    for (int i = 0; i < N_PROMPT; i++)
        ids[i] = (first + i * 7) % 150;
}

/* Returns a number that depends on all logits, on rank 0. */
static uint64_t generate(fixture *f, int first_id) {
    int32_t ids[N_PROMPT + N_REQUESTS];
    sy_request request[N_REQUESTS];
    uint64_t sum = 0;
    const sy_engine_events events = {hash_token, NULL, NULL, &sum};
    sy_engine_stats stats;
    make_ids(ids, first_id);
    for (int i = 0; i < N_REQUESTS; i++)
        request[i] = (sy_request){.prompt = ids,
                                  .n_prompt = N_PROMPT - i,
                                  .max_tokens = N_NEW,
                                  .sampling = {.top_p = 1}};
    MUST(sy_engine_generate(f->engine, request, N_REQUESTS, &events, &stats));
    return sum;
}

/* Rows that go through the model: the last token of a request is sampled, not fed back. */
static uint64_t expected_tokens(void) {
    uint64_t n = 0;
    for (int i = 0; i < N_REQUESTS; i++)
        n += (uint64_t)(N_PROMPT - i + N_NEW - 1);
    return n;
}

static void profile_label(fixture *f, const char *label, int first_id) {
    MUST(sy_profile_begin(profile_of(f), label));
    generate(f, first_id);
    MUST(sy_profile_collect(profile_of(f)));
}

/* ---- counts ---- */

static void check_counts(const sy_profile_data *d, const sy_profile_label *label, uint64_t n) {
    assert_int_equal(label->tokens, n);
    assert_int_equal(d->n_moe, 2);
    for (int moe = 0; moe < d->n_moe; moe++) {
        double experts[E], ranks[64];
        uint64_t slots = 0, by_expert = 0, by_rank = 0;
        for (int64_t s = d->slot_first[moe]; s < d->slot_first[moe + 1]; s++)
            slots += label->count[s];
        sy_profile_expert_counts(d, label, moe, experts);
        sy_profile_rank_counts(d, label, moe, ranks);
        for (int e = 0; e < E; e++)
            by_expert += (uint64_t)experts[e];
        for (int r = 0; r < d->n_ranks; r++)
            by_rank += (uint64_t)ranks[r];
        assert_int_equal(slots, n * K);
        assert_int_equal(by_expert, n * K);
        assert_int_equal(by_rank, n * K);
    }
}

static void counts_are_conserved_with_and_without_copies(void **state) {
    (void)state;
    double alone[2][E];
    for (int how = CONTIGUOUS; how <= WITH_COPIES; how++) {
        fixture f;
        open_model(&f, (layout)how, wanted);
        profile_label(&f, "a", 0);
        profile_label(&f, "b", 5);
        profile_label(&f, "a", 0);
        MUST(sy_profile_gather(profile_of(&f)));
        const sy_profile_data *d = sy_profile_get_data(profile_of(&f));
        assert_true(root == (d != NULL));
        for (int moe = 0; root && moe < 2; moe++) {
            double experts[E];
            assert_int_equal(d->n_labels, 2);
            assert_string_equal(d->label[0].name, "a");
            assert_string_equal(d->label[1].name, "b");
            check_counts(d, &d->label[0], 2 * expected_tokens());
            check_counts(d, &d->label[1], expected_tokens());
            check_counts(d, &d->total, 3 * expected_tokens());
            /* Where an expert's copies are does not change how often it is chosen. */
            sy_profile_expert_counts(d, &d->total, moe, experts);
            if (how == CONTIGUOUS)
                memcpy(alone[moe], experts, sizeof experts);
            else
                assert_memory_equal(alone[moe], experts, sizeof experts);
        }
        fixture_close(&f);
    }
}

static sy_status ignore_rows(void *context, int64_t n_rows, const float *rows) {
    (void)context;
    (void)n_rows;
    (void)rows;
    return SY_OK;
}

static void logits_of_a_sequence_are_counted_too(void **state) {
    (void)state;
    fixture f;
    int32_t ids[N_PROMPT];
    uint64_t *all, tokens, sum = 0;
    make_ids(ids, 0);
    open_model(&f, WITH_COPIES, (sy_profile_options){0});
    MUST(sy_engine_logits(f.engine, ids, N_PROMPT, NULL, ignore_rows, NULL));
    sy_loads *loads = sy_engine_runner(f.engine)->loads;
    MUST(sy_loads_gather(comm, loads, &all, &tokens));
    for (int i = 0; root && i < sy_comm_size(comm) * LAYERS * E; i++)
        sum += all[i];
    assert_int_equal(tokens, root ? N_PROMPT : 0);
    assert_int_equal(sum, tokens * K * 2);
    free(all);
    fixture_close(&f);
}

static void pairs_and_weights_agree_with_the_counts(void **state) {
    (void)state;
    fixture f;
    open_model(&f, WITH_COPIES, wanted);
    profile_label(&f, "a", 0);
    MUST(sy_profile_gather(profile_of(&f)));
    const sy_profile_data *d = sy_profile_get_data(profile_of(&f));
    for (int moe = 0; root && moe < 2; moe++) {
        uint64_t n = 0;
        double experts[E], both[E] = {0}, weight = 0;
        const sy_profile_pair *pair = d->pair + moe * SY_PROFILE_TOP_PAIRS;
        sy_profile_expert_counts(d, &d->total, moe, experts);
        assert_true(d->pairs_counted);
        for (int i = 0; i < d->n_pairs[moe]; i++) { /* all 55 pairs of 11 experts have room */
            assert_true(pair[i].a < pair[i].b && pair[i].b < E && pair[i].a >= 0);
            if (i > 0) assert_true(pair[i].n <= pair[i - 1].n);
            n += pair[i].n;
            both[pair[i].a] += (double)pair[i].n;
            both[pair[i].b] += (double)pair[i].n;
        }
        assert_int_equal(n, d->total.tokens * K * (K - 1) / 2);
        for (int e = 0; e < E; e++) { /* who is chosen has K - 1 companions */
            assert_true(both[e] == experts[e] * (K - 1));
            weight += d->total.weight[moe * E + e];
        }
        /* norm_topk_prob: the weights of a token add up to 1. */
        assert_true(fabs(weight - (double)d->total.tokens) < 1e-3);
    }
    fixture_close(&f);
}

/* ---- links ---- */

static void check_traffic(sy_traffic a, sy_traffic b) {
    assert_int_equal(a.rows, b.rows);
    assert_int_equal(a.bytes, b.bytes);
}

static void both_ends_of_a_link_count_alike(void **state) {
    (void)state;
    fixture f;
    int R = sy_comm_size(comm);
    open_model(&f, WITH_COPIES, wanted);
    profile_label(&f, "a", 0);
    profile_label(&f, "b", 1);
    MUST(sy_profile_gather(profile_of(&f)));
    const sy_profile_data *d = sy_profile_get_data(profile_of(&f));
    for (int a = 0; root && a < R; a++) {
        sy_traffic sent = {0}, came = {0};
        for (int b = 0; b < R; b++) {
            const sy_exchange_peer *ab = &d->link[a * R + b], *ba = &d->link[b * R + a];
            check_traffic(ab->dispatch_sent, ba->dispatch_received);
            check_traffic(ab->combine_sent, ba->combine_received);
            assert_true((ab->dispatch_sent.bytes > 0) ==
                        (a != b && ab->dispatch_sent.rows > 0));
            sent.rows += ab->dispatch_sent.rows;
            came.rows += ab->combine_received.rows;
        }
        /* Each of a rank's tokens goes to one rank at least, and its results come back. */
        assert_true(sent.rows > 0 && came.rows >= sent.rows);
    }
    if (root && R == 1) {
        assert_int_equal(d->link[0].dispatch_sent.rows, 2 * d->total.tokens);
        assert_int_equal(d->link[0].dispatch_sent.bytes, 0);
    }
    fixture_close(&f);
}

/* ---- times ---- */

static void phases_fill_the_steps(void **state) {
    (void)state;
    fixture f;
    open_model(&f, CONTIGUOUS, wanted);
    profile_label(&f, "a", 0);
    generate(&f, 3); /* not between begin and collect: not recorded */
    MUST(sy_profile_gather(profile_of(&f)));
    const sy_profile_data *d = sy_profile_get_data(profile_of(&f));
    for (int r = 0; root && r < d->n_ranks; r++) {
        uint64_t sum = 0, tokens = 0, steps = 0;
        for (int i = 0; i < SY_PHASES; i++)
            sum += sy_profile_phase_total(d, r, i);
        assert_int_equal(sum, d->times[r].step_ns); /* without gaps, so exactly */
        assert_int_equal(d->times[r].steps, d->times[0].steps);
        assert_true(d->clock[2 * r] == 0 && d->clock[2 * r + 1] == 0); /* of one machine */
        assert_true(sy_profile_phase_total(d, r, SY_PHASE_EXPERTS_UP) > 0);
        for (int l = 0; l < LAYERS; l++) {
            assert_true(sy_profile_rank_phase_ns(d, r, l, SY_PHASE_ATTEND) > 0);
            assert_true((sy_profile_rank_phase_ns(d, r, l, SY_PHASE_DENSE) > 0) == (l == 1));
            assert_true((sy_profile_rank_phase_ns(d, r, l, SY_PHASE_ROUTE) > 0) == (l != 1));
            /* What follows a wait is told apart from it. */
            assert_true((sy_profile_rank_phase_ns(d, r, l, SY_PHASE_GATHER) > 0) == (l != 1));
            assert_true((sy_profile_rank_phase_ns(d, r, l, SY_PHASE_HOME_SUM) > 0) == (l != 1));
        }
        assert_true(sy_profile_wait_total(d, r) < d->times[r].step_ns);
        for (int i = 0; i < SY_PROFILE_BUCKETS; i++) {
            tokens += d->bucket[i].tokens;
            steps += d->bucket[i].steps;
        }
        assert_int_equal(tokens, expected_tokens());
        assert_int_equal(steps, d->times[0].steps);
    }
    fixture_close(&f);
}

static const sy_ops *real_ops; /* the table's functions have no other way to it */

static sy_status slow_attend(sy_backend *be,
                             const sy_layer_spec *spec,
                             const sy_batch *batch,
                             const void *q,
                             const sy_kv_layer *kv,
                             const float *sinks,
                             void *out,
                             sy_stream *s) {
    usleep(20000);
    return real_ops->attend(be, spec, batch, q, kv, sinks, out, s);
}

static void a_slow_rank_is_waited_for_by_the_others(void **state) {
    (void)state;
    int last = sy_comm_size(comm) - 1;
    fixture f;
    open_model(&f, CONTIGUOUS, wanted);
    sy_ops ops = *f.be->ops;
    real_ops = f.be->ops;
    ops.attend = slow_attend;
    if (sy_comm_rank(comm) == last) f.be->ops = &ops;
    profile_label(&f, "a", 0);
    f.be->ops = real_ops;
    MUST(sy_profile_gather(profile_of(&f)));
    const sy_profile_data *d = sy_profile_get_data(profile_of(&f));
    for (int r = 0; root && r <= last; r++) {
        double slow = 0.02 * 1e9 * (double)d->times[r].steps; /* ns, of one layer */
        double waited = (double)sy_profile_phase_total(d, r, SY_PHASE_WAIT_TOKENS);
        double attended = (double)sy_profile_phase_total(d, r, SY_PHASE_ATTEND);
        if (r == last)
            assert_true(attended >= LAYERS * slow); /* and it waits for nobody as long */
        else /* before each of the two layers with experts */
            assert_true(waited > LAYERS * slow / 2);
        if (r < last) assert_true(attended < LAYERS * slow);
    }
    fixture_close(&f);
}

/* ---- files ---- */

static json_t *read_json(const char *dir, const char *name) {
    char path[512];
    json_t *value;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    MUST(sy_json_load(path, SY_JSON_MAX_TOKENIZER, &value));
    return value;
}

static double number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static double sum_of(const json_t *list) {
    double sum = 0;
    assert_true(json_is_array(list));
    for (size_t i = 0; i < json_array_size(list); i++)
        sum += json_number_value(json_array_get(list, i));
    return sum;
}

static void check_balance(const json_t *layer, const char *key) {
    static const char *const keys[] = {
        "max_over_mean", "excess_over_mean", "balancedness", "cv", "entropy", "unused"};
    const json_t *b = json_object_get(layer, key), *u = json_object_get(b, "uniform");
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        assert_true(number(b, keys[i]) >= 0);
        assert_true(number(u, keys[i]) >= 0);
    }
    assert_true(number(b, "max_over_mean") >= 1 && number(b, "balancedness") <= 1);
}

static void check_summary(const char *dir, int n_labels) {
    json_t *p = read_json(dir, "profile.json");
    double tokens = number(p, "tokens");
    const json_t *layers = json_object_get(p, "layers"), *labels = json_object_get(p, "labels");
    assert_true(tokens == (double)expected_tokens() * n_labels);
    assert_int_equal(number(p, "version"), 1);
    assert_int_equal(json_array_size(json_object_get(p, "ranks")), sy_comm_size(comm));
    assert_int_equal(json_array_size(layers), 2);
    assert_int_equal(json_array_size(labels), n_labels);
    assert_int_equal(json_array_size(json_object_get(p, "comparisons")),
                     n_labels * (n_labels - 1) / 2);
    for (size_t i = 0; i < 2; i++) {
        const json_t *layer = json_array_get(layers, i);
        double by_label = 0, weight = 0;
        assert_true(sum_of(json_object_get(layer, "counts")) == tokens * K);
        check_balance(layer, "expert_balance");
        check_balance(layer, "rank_balance");
        for (size_t k = 0; k < json_array_size(labels); k++) {
            const json_t *of =
                json_array_get(json_object_get(json_array_get(labels, k), "layers"), i);
            by_label += sum_of(json_object_get(of, "counts"));
            weight += sum_of(json_object_get(of, "weights"));
        }
        assert_true(by_label == tokens * K);
        assert_true(fabs(weight - sum_of(json_object_get(layer, "weights"))) < 1e-3);
    }
    const json_t *ranks = json_object_get(json_object_get(p, "times"), "ranks");
    for (size_t r = 0; r < json_array_size(ranks); r++) {
        const json_t *rank = json_array_get(ranks, r);
        double phases = sum_of(json_object_get(rank, "phase_seconds"));
        double steps = number(rank, "step_seconds");
        assert_true(steps > 0 && fabs(phases - steps) < 1e-6 * steps + 1e-8);
    }
    json_decref(p);
}

static void check_loads(const char *dir, int n_labels) {
    json_t *p = read_json(dir, "loads.json");
    const json_t *layers = json_object_get(p, "layers");
    assert_true(json_is_string(json_object_get(p, "label")) == (n_labels == 1));
    for (size_t i = 0; i < json_array_size(layers); i++) {
        const json_t *counts = json_object_get(json_array_get(layers, i), "counts");
        double sum = 0;
        assert_int_equal(json_array_size(counts), E);
        for (size_t e = 0; e < E; e++) {
            assert_int_equal(json_array_size(json_array_get(counts, e)), sy_comm_size(comm));
            sum += sum_of(json_array_get(counts, e));
        }
        assert_true(sum == number(p, "tokens") * K);
    }
    json_decref(p);
}

/* One rank's spans of one category must follow one another. Times have three decimals. */
static void check_track(const json_t *events, int rank, const char *category, double *steps) {
    double last_end = -1;
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(events); i++) {
        const json_t *e = json_array_get(events, i);
        const char *cat = json_string_value(json_object_get(e, "cat"));
        if (cat == NULL || strcmp(cat, category) != 0 || number(e, "pid") != rank) continue;
        double begin = number(e, "ts"), end = begin + number(e, "dur");
        int step = (int)number(json_object_get(e, "args"), "step");
        assert_true(begin >= last_end - 0.002 && end >= begin);
        assert_true(step >= 0 && step < 1000);
        if (strcmp(category, "step") == 0) {
            steps[2 * step] = begin;
            steps[2 * step + 1] = end;
        } else if (steps[2 * step + 1] > 0) {
            assert_true(begin >= steps[2 * step] - 0.002 && end <= steps[2 * step + 1] + 0.002);
        }
        last_end = end;
        n++;
    }
    assert_true(n > 0);
}

static void check_trace(const char *dir, bool full) {
    json_t *t = read_json(dir, "trace.json");
    const json_t *events = json_object_get(t, "traceEvents");
    double dropped = number(json_object_get(t, "otherData"), "dropped_events");
    assert_true((dropped > 0) == full);
    for (int r = 0; r < sy_comm_size(comm); r++) {
        double steps[2000] = {0};
        if (!full) check_track(events, r, "step", steps);
        check_track(events, r, "phase", steps);
    }
    json_decref(t);
}

/* A directory of rank 0's. */
static char directory[] = "/tmp/sy_profile_XXXXXX";

static void remove_directory(void) {
    DIR *d = opendir(directory);
    char path[512];
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        snprintf(path, sizeof path, "%s/%s", directory, e->d_name);
        unlink(path);
    }
    if (d != NULL) closedir(d);
    rmdir(directory);
}

static void make_directory(void) {
    strcpy(directory + sizeof directory - 7, "XXXXXX");
    if (root) assert_non_null(mkdtemp(directory));
}

static const sy_profile_about about = {.program = "test",
                                       .command = "profile",
                                       .options = "a \"quoted\" \\ line",
                                       .model_path = "/models/tiny\x01/",
                                       .device = "cpu",
                                       .n_threads = 1,
                                       .compare = true,
                                       .all_pairs = true};

static int count_files(void) {
    DIR *d = opendir(directory);
    int n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

/* Quotation marks and commas of a label survive; the first copies of layer 0 come first. */
static void check_csv(void) {
    char path[512], *text;
    size_t n;
    static const char expected[] = "label,layer,expert,rank,tokens,expert_weight\n"
                                   "\"prose, \"\"old\"\"\",0,0,0,";
    snprintf(path, sizeof path, "%s/loads.csv", directory);
    MUST(sy_read_file(path, SY_JSON_MAX_CONFIG, &text, &n));
    assert_memory_equal(text, expected, sizeof expected - 1);
    free(text);
}

/* All pairs of 2 layers x 11 x 11 behind a head of whole 64 bytes that names the shape. */
static void check_pairs(uint64_t tokens) {
    char path[512], *text;
    size_t n;
    uint64_t sum = 0, count;
    snprintf(path, sizeof path, "%s/coactivation.npy", directory);
    MUST(sy_read_file(path, SY_JSON_MAX_CONFIG, &text, &n));
    size_t head = 10 + (size_t)(unsigned char)text[8] + 256 * (size_t)(unsigned char)text[9];
    assert_memory_equal(text, "\x93NUMPY\x01\x00", 8);
    assert_true(head % 64 == 0 && text[head - 1] == '\n');
    assert_non_null(strstr(text + 10, "'descr': '<u8'"));
    assert_non_null(strstr(text + 10, "(2, 11, 11, )"));
    assert_int_equal(n - head, 2 * E * E * sizeof sum);
    for (size_t at = head; at < n; at += sizeof count) {
        memcpy(&count, text + at, sizeof count);
        sum += count;
    }
    assert_int_equal(sum, 2 * tokens * (K + K * (K - 1) / 2)); /* the diagonal and the pairs */
    free(text);
}

static void files_are_whole_and_agree(void **state) {
    (void)state;
    fixture f;
    sy_profile_options o = wanted;
    o.routes = 3;
    make_directory();
    open_model(&f, WITH_COPIES, o);
    profile_label(&f, "prose, \"old\"", 0);
    profile_label(&f, "b", 5);
    MUST(sy_profile_gather(profile_of(&f)));
    if (root) MUST(sy_profile_prepare_dir(directory));
    MUST(sy_profile_write(profile_of(&f), directory, &about));
    if (root) {
        check_summary(directory, 2);
        check_loads(directory, 2);
        check_trace(directory, false);
        check_csv();
        check_pairs(2 * expected_tokens());
        /* loads, csv, trace, profile, pairs, three routes, and no temporary ones */
        assert_int_equal(count_files(), 8);
        remove_directory();
    }
    fixture_close(&f);
}

static void a_full_trace_drops_what_comes_later(void **state) {
    (void)state;
    fixture f;
    sy_profile_options o = wanted;
    o.events = 40;
    make_directory();
    open_model(&f, CONTIGUOUS, o);
    profile_label(&f, "a", 0);
    MUST(sy_profile_gather(profile_of(&f)));
    MUST(sy_profile_write(profile_of(&f), directory, &about));
    const sy_profile_data *d = sy_profile_get_data(profile_of(&f));
    if (root) {
        for (int r = 0; r < d->n_ranks; r++)
            assert_true(d->times[r].events == 40 && d->times[r].dropped > 0);
        check_summary(directory, 1);
        check_loads(directory, 1);
        check_trace(directory, true);
        remove_directory();
    }
    fixture_close(&f);
}

typedef struct rows {
    float *at;
    int64_t n, V;
} rows;

static sy_status take_rows(void *context, int64_t n_rows, const float *from) {
    rows *r = context;
    memcpy(r->at + r->n * r->V, from, (size_t)(n_rows * r->V) * sizeof *from);
    r->n += n_rows;
    return SY_OK;
}

static void kept_choices_can_be_replayed(void **state) {
    (void)state;
    fixture f;
    sy_routes *routes = NULL;
    int32_t ids[CONTEXT] = {0};
    int64_t n = 0;
    sy_profile_options o = wanted;
    o.routes = 2;
    make_directory();
    open_model(&f, CONTIGUOUS, o);
    profile_label(&f, "a", 0);
    MUST(sy_profile_gather(profile_of(&f)));
    MUST(sy_profile_write(profile_of(&f), directory, &about));
    MUST(sy_comm_broadcast(comm, directory, sizeof directory, 0));
    json_t *file = read_json(directory, "routes-1.json");
    const json_t *list = json_object_get(file, "ids");
    n = (int64_t)json_array_size(list);
    assert_int_equal(n, N_PROMPT - 1 + N_NEW - 1); /* of the second request */
    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, (size_t)i));
    json_decref(file);
    char path[512];
    snprintf(path, sizeof path, "%s/routes-1.json", directory);
    MUST(sy_routes_load(path, f.spec, n, &routes));
    rows free_rows = {.V = f.spec->vocab}, forced_rows = free_rows;
    size_t bytes = (size_t)n * (size_t)f.spec->vocab * sizeof(float);
    free_rows.at = malloc(bytes);
    forced_rows.at = malloc(bytes);
    assert_true(free_rows.at != NULL && forced_rows.at != NULL);
    MUST(sy_engine_logits(f.engine, ids, n, NULL, take_rows, &free_rows));
    MUST(sy_engine_logits(f.engine, ids, n, (const int32_t *const *)routes->expert, take_rows,
                          &forced_rows));
    if (root) assert_memory_equal(free_rows.at, forced_rows.at, bytes);
    /* And the choices are what decides: with one of them changed the logits differ. */
    int32_t other = 0, *first = routes->expert[0];
    while (other == first[0] || other == first[1] || other == first[2])
        other++;
    first[0] = other;
    forced_rows.n = 0;
    MUST(sy_engine_logits(f.engine, ids, n, (const int32_t *const *)routes->expert, take_rows,
                          &forced_rows));
    if (root) assert_memory_not_equal(free_rows.at, forced_rows.at, bytes);
    free(free_rows.at);
    free(forced_rows.at);
    sy_routes_destroy(routes);
    MUST(sy_comm_barrier(comm));
    if (root) remove_directory();
    fixture_close(&f);
}

static void a_profile_changes_no_result(void **state) {
    (void)state;
    fixture f;
    open_model(&f, CONTIGUOUS, (sy_profile_options){0});
    uint64_t plain = generate(&f, 0);
    assert_null(profile_of(&f));
    fixture_close(&f);
    open_model(&f, CONTIGUOUS, wanted);
    MUST(sy_profile_begin(profile_of(&f), "a"));
    assert_true(generate(&f, 0) == plain);
    fixture_close(&f);
}

static void bad_directories_and_labels_are_refused(void **state) {
    (void)state;
    fixture f;
    char file[] = "/tmp/sy_profile_file_XXXXXX", longest[SY_PROFILE_LABEL_MAX + 1];
    open_model(&f, CONTIGUOUS, wanted);
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_int_equal(sy_profile_begin(profile_of(&f), ""), SY_ERR_USAGE);
    assert_int_equal(sy_profile_begin(profile_of(&f), longest), SY_ERR_USAGE);
    MUST(sy_profile_begin(profile_of(&f), longest + 1));
    MUST(sy_profile_collect(profile_of(&f)));
    close(mkstemp(file));
    assert_int_equal(sy_profile_prepare_dir(file), SY_ERR_IO);
    assert_int_equal(sy_profile_prepare_dir(""), SY_ERR_USAGE);
    assert_int_equal(sy_profile_prepare_dir("/nonexistent/below"), SY_ERR_IO);
    assert_int_equal(sy_profile_prepare_dir("/proc"), SY_ERR_IO);
    unlink(file);
    /* A directory that goes away meanwhile is an error on all ranks, and not a hang. */
    MUST(sy_profile_gather(profile_of(&f)));
    assert_int_equal(sy_profile_write(profile_of(&f), "/nonexistent", &about), SY_ERR_IO);
    fixture_close(&f);
}

static void a_device_gives_the_same_counts(void **state) {
    (void)state;
    fixture cpu, cuda;
    if (!have_cuda() || sy_comm_size(comm) > 2) {
        if (root && sy_comm_size(comm) == 1) print_message("no CUDA device: skipped\n");
        skip();
    }
    cuda = (fixture){.comm = comm};
    MUST(open_cuda(SY_BF16, &cuda.be));
    open_engine(&cuda, WITH_COPIES, wanted);
    profile_label(&cuda, "a", 0);
    MUST(sy_profile_gather(profile_of(&cuda)));
    open_model(&cpu, WITH_COPIES, wanted);
    profile_label(&cpu, "a", 0);
    MUST(sy_profile_gather(profile_of(&cpu)));
    const sy_profile_data *d = sy_profile_get_data(profile_of(&cuda));
    if (root) {
        check_counts(d, &d->total, expected_tokens());
        assert_true(d->synchronised);
        for (int r = 0; r < d->n_ranks; r++) {
            uint64_t sum = 0;
            for (int i = 0; i < SY_PHASES; i++)
                sum += sy_profile_phase_total(d, r, i);
            assert_int_equal(sum, d->times[r].step_ns);
            for (int b = 0; b < d->n_ranks; b++) {
                const sy_exchange_peer *out = &d->link[r * d->n_ranks + b];
                const sy_exchange_peer *in = &d->link[b * d->n_ranks + r];
                check_traffic(out->dispatch_sent, in->dispatch_received);
                check_traffic(out->combine_sent, in->combine_received);
            }
        }
    }
    fixture_close(&cpu);
    fixture_close(&cuda);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_conserved_with_and_without_copies),
        cmocka_unit_test(logits_of_a_sequence_are_counted_too),
        cmocka_unit_test(pairs_and_weights_agree_with_the_counts),
        cmocka_unit_test(both_ends_of_a_link_count_alike),
        cmocka_unit_test(phases_fill_the_steps),
        cmocka_unit_test(a_slow_rank_is_waited_for_by_the_others),
        cmocka_unit_test(files_are_whole_and_agree),
        cmocka_unit_test(a_full_trace_drops_what_comes_later),
        cmocka_unit_test(kept_choices_can_be_replayed),
        cmocka_unit_test(a_profile_changes_no_result),
        cmocka_unit_test(bad_directories_and_labels_are_refused),
        cmocka_unit_test(a_device_gives_the_same_counts),
    };
    MUST(sy_comm_create(&(sy_comm_options){.threads_per_rank = 1}, &comm));
    root = sy_comm_rank(comm) == 0;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    if (failed != 0) sy_comm_abort(comm, 1);
    sy_comm_destroy(comm);
    return 0;
}
