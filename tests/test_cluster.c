/* Cluster descriptions: the built-in ones, files, and what is refused with what and where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "topology/cluster.h"

static const char good[] =
    "{\"switchyard_cluster\": 1, \"name\": \"two boxes\",\n"
    " \"device\": {\"name\": \"box\", \"kind\": \"cpu\",\n"
    "  \"memory\": {\"bytes\": 1e9, \"source\": \"label\"},\n"
    "  \"usable\": {\"bytes\": 9e8, \"source\": \"label\"},\n"
    "  \"read_bandwidth\": {\"bytes_per_s\": 1e11, \"source\": \"probe\"},\n"
    "  \"read_share\": {\"share\": 0.8, \"source\": \"probe\"},\n"
    "  \"rates\": {\"bf16\": {\"flop_per_s\": 1e12, \"source\": \"probe\"}},\n"
    "  \"rate_share\": {\"share\": 0.5, \"source\": \"probe\"},\n"
    "  \"step_overhead\": {\"seconds\": 0, \"source\": \"none\"},\n"
    "  \"layer_overhead\": {\"seconds\": 1e-5, \"source\": \"guess\"},\n"
    "  \"kernels\": {\"nvfp4\": {\"decode\": {\"share\": 0.7, \"source\": \"probe\"}},\n"
    "   \"attention\": {\"prefill\": {\"share\": 0.3, \"source\": \"probe\"}}},\n"
    "  \"read_by_threads\": [{\"threads\": 2, \"bandwidth\": {\"bytes_per_s\": 5e10,\n"
    "   \"source\": \"probe\"}}]},\n"
    " \"devices_per_host\": 1, \"hosts\": 2,\n"
    " \"between_hosts\": {\"bandwidth\": {\"bytes_per_s\": 1e9, \"source\": \"cable\"},\n"
    "  \"latency\": {\"seconds\": 5e-5, \"source\": \"ping\"},\n"
    "  \"peer_latency\": {\"seconds\": 1e-5, \"source\": \"ping\"}, \"path\": \"mpi\"}}";

static sy_status parse(const char *text, sy_cluster **out) {
    return sy_cluster_parse(text, strlen(text), "box.json", out);
}

static void a_description_is_read_whole(void **state) {
    (void)state;
    sy_cluster *c;
    assert_int_equal(parse(good, &c), SY_OK);
    assert_string_equal(c->name, "two boxes");
    assert_string_equal(c->device, "box");
    assert_false(c->is_gpu);
    assert_int_equal(c->n_devices, 2);
    assert_true(c->memory.value == 1e9 && c->usable.value == 9e8);
    assert_string_equal(c->bandwidth.source, "probe");
    assert_true(c->grouped_share.value == 0.5); /* as rate_share, if not given */
    assert_true(c->kernel[SY_STORED_NVFP4].decode.value == 0.7);
    assert_null(c->kernel[SY_STORED_NVFP4].prefill.source);
    assert_true(c->attention.prefill.value == 0.3);
    assert_int_equal(c->n_threads, 1);
    assert_int_equal(c->threads[0].threads, 2);
    assert_null(c->in_host.bandwidth.source);
    assert_true(c->between_hosts.latency.value == 5e-5);
    assert_string_equal(c->between_hosts.path, "mpi");
    sy_cluster_destroy(c);
}

/* The good text with one piece replaced. */
static char *with(const char *from, const char *to) {
    const char *at = strstr(good, from);
    if (at == NULL) fail_msg("the text has no %s", from);
    size_t n = strlen(good) + strlen(to) + 1;
    char *text = malloc(n);
    snprintf(text, n, "%.*s%s%s", (int)(at - good), good, to, at + strlen(from));
    return text;
}

static void a_wrong_description_is_refused_by_what_and_where(void **state) {
    (void)state;
    static const struct {
        const char *from, *to, *says[2];
    } row[] = {
        {"\"switchyard_cluster\": 1", "\"switchyard_cluster\": 2", {"version 1", "found 2"}},
        {"\"switchyard_cluster\": 1, ", "", {"not a cluster description", "box.json"}},
        {"\"name\": \"two boxes\"",
         "\"name\": \"\"",
         {"\"name\" is missing or empty", "box.json"}},
        {"\"name\": \"two boxes\"", "\"name\": 7", {"name", "string"}},
        {"\"name\": \"box\"", "\"name\": \"a\\nb\"", {"control character", "device"}},
        {"\"kind\": \"cpu\"", "\"kind\": \"fpga\"", {"\"gpu\" or \"cpu\"", "fpga"}},
        {"{\"bytes\": 1e9, \"source\": \"label\"}", "1e9", {"device: memory", "found real"}},
        {"\"bytes\": 1e9", "\"bytes\": -1", {"device: memory", "found -1"}},
        {"\"bytes\": 1e9", "\"bytes\": 1e40", {"device: memory", "1e+40"}},
        {"\"bytes\": 1e9", "\"bytes\": true", {"device: memory", "true"}},
        {"\"bytes\": 1e9", "\"bites\": 1e9", {"\"bites\" is not known", "device: memory"}},
        {"\"bytes\": 1e9, \"source\": \"label\"",
         "\"bytes\": 1e9",
         {"device: memory", "\"source\" is missing"}},
        {"\"bytes\": 9e8", "\"bytes\": 2e9", {"more is usable", "device"}},
        {"\"share\": 0.8", "\"share\": 1.2", {"read_share", "from 1e-06 to 1"}},
        {"\"share\": 0.8", "\"share\": 0", {"read_share", "found 0"}},
        {"\"bf16\": {\"flop", "\"bf17\": {\"flop", {"\"bf17\" is not known", "rates"}},
        {"\"bf16\": {\"flop", "\"fp8\": {\"flop", {"rates: bf16", "found nothing"}},
        {"\"nvfp4\": {\"decode\"", "\"nvfp4\": {\"deocde\"", {"deocde", "kernels: nvfp4"}},
        {"\"seconds\": 1e-5, \"source\": \"guess\"",
         "\"seconds\": 61, \"source\": \"guess\"",
         {"layer_overhead", "61"}},
        {"\"threads\": 2", "\"threads\": 0", {"threads", "read_by_threads"}},
        {"\"threads\": 2, ", "", {"\"threads\" is missing", "read_by_threads"}},
        {"\"hosts\": 2", "\"hosts\": 0", {"hosts", "0"}},
        {"\"hosts\": 2", "\"hosts\": 5000", {"hosts", "4096"}},
        {"\"hosts\": 2,", "", {"\"hosts\" is missing", "box.json"}},
        {"\"devices_per_host\": 1", "\"devices_per_host\": 2", {"no \"in_host\" link", "2"}},
        {"\"devices_per_host\": 1, \"hosts\": 2",
         "\"devices_per_host\": 4096, \"hosts\": 2",
         {"more than 4096", "box.json"}},
        {"\"between_hosts\"", "\"in_host\"", {"no \"between_hosts\" link", "2 hosts"}},
        {"\"latency\": {\"seconds\": 5e-5, \"source\": \"ping\"},",
         "",
         {"between_hosts: latency", "found nothing"}},
        {"\"path\": \"mpi\"", "\"path\": 3", {"path", "between_hosts"}},
        {"\"hosts\": 2", "\"hosts\": 2, \"hosts\": 3", {"box.json", "duplicate"}},
        {"\"hosts\": 2",
         "\"hosts\": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]",
         {"box.json", ""}},
        {"\"hosts\": 2",
         "\"hosts\": 2, \"surprise\": 1",
         {"\"surprise\" is not known", "box.json"}},
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        char *text = with(row[i].from, row[i].to);
        sy_cluster *c;
        sy_status st = parse(text, &c);
        if (st != SY_ERR_FORMAT)
            fail_msg("row %zu: %s instead of a refusal of %s", i, sy_status_name(st),
                     row[i].to);
        assert_null(c);
        for (int k = 0; k < 2; k++)
            if (strstr(sy_last_error(), row[i].says[k]) == NULL)
                fail_msg("row %zu: \"%s\" says nothing of \"%s\"", i, sy_last_error(),
                         row[i].says[k]);
        free(text);
    }
}

static void damaged_bytes_never_pass_the_checks(void **state) {
    (void)state;
    size_t n = strlen(good);
    char *text = malloc(n + 1);
    for (uint64_t seed = 0; seed < 4000; seed++) {
        memcpy(text, good, n + 1);
        size_t size = n;
        for (uint64_t k = 0; k < 1 + seed % 4; k++) {
            uint64_t h = sy_hash_add(seed, k);
            text[h % n] = (char)(h >> 32);
        }
        if (seed % 3 == 0) size = sy_hash_add(seed, 99) % n;
        sy_cluster *c;
        if (sy_cluster_parse(text, size, "damaged", &c) == SY_OK) {
            /* Some damage is another description; then it is within the same limits. */
            assert_true(c->n_devices >= 1 && c->n_devices <= SY_CLUSTER_DEVICES_MAX);
            assert_true(c->usable.value > 0 && c->usable.value <= c->memory.value);
            assert_true(c->read_share.value > 0 && c->read_share.value <= 1);
            assert_non_null(c->bandwidth.source);
            sy_cluster_destroy(c);
        } else {
            assert_true(sy_last_error()[0] != '\0');
        }
    }
    free(text);
}

/* All constants of a description, in order. */
enum { MOST_CONSTANTS = 64 };
typedef struct seen {
    int n;
    double value[MOST_CONSTANTS];
} seen;

static sy_status
has_source(void *context, const char *name, const char *unit, const sy_constant *constant) {
    seen *all = context;
    assert_true(strlen(name) > 4 && unit[0] != '\0');
    assert_true(constant->source != NULL && strlen(constant->source) >= 9);
    assert_true(all->n < MOST_CONSTANTS);
    all->value[all->n++] = constant->value;
    return SY_OK;
}

static void every_built_in_constant_has_a_source_and_is_a_valid_file(void **state) {
    (void)state;
    const sy_builtin_cluster *b;
    int n_clusters = 0;
    for (; (b = sy_cluster_builtin(n_clusters)) != NULL; n_clusters++) {
        seen all = {0}, again = {0};
        assert_int_equal(sy_cluster_visit(&b->cluster, has_source, &all), SY_OK);
        assert_true(all.n >= 10);
        json_t *file = sy_cluster_describe(&b->cluster);
        char *text = json_dumps(file, 0);
        sy_cluster *c;
        if (parse(text, &c) != SY_OK) fail_msg("%s: %s", b->cluster.name, sy_last_error());
        assert_string_equal(c->name, b->cluster.name);
        assert_int_equal(c->n_devices, b->cluster.n_devices);
        assert_int_equal(sy_cluster_visit(c, has_source, &again), SY_OK);
        assert_int_equal(again.n, all.n);
        for (int k = 0; k < all.n; k++)
            assert_true(again.value[k] == all.value[k]);
        sy_cluster_destroy(c);
        free(text);
        json_decref(file);
    }
    assert_true(n_clusters >= 9);
    assert_null(sy_cluster_builtin(-1));
}

static void a_name_with_a_number_is_so_many(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int devices, per_host;
    } row[] = {{"spark", 1, 1},           {"spark:4", 4, 1},      {"h100:8", 8, 8},
               {"h100:12", 12, 8},        {"station-a100", 4, 4}, {"station-a100:1", 4, 4},
               {"station-gb300:2", 2, 1}, {"spark:4096", 4096, 1}};
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        sy_cluster *c;
        assert_int_equal(sy_cluster_load(row[i].name, &c), SY_OK);
        assert_int_equal(c->n_devices, row[i].devices);
        assert_int_equal(c->devices_per_host, row[i].per_host);
        sy_cluster_destroy(c);
    }
    static const char *const wrong[] = {"spark:",
                                        "spark:0",
                                        "spark:-1",
                                        "spark:x",
                                        "spark:1.5",
                                        "spark:4097",
                                        "spark:99999999999999999999",
                                        "station-a100:2",
                                        "rtx-pro-6000:9"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        sy_cluster *c;
        assert_int_equal(sy_cluster_load(wrong[i], &c), SY_ERR_USAGE);
        assert_null(c);
    }
}

static void a_path_that_is_no_description_is_an_error_of_files(void **state) {
    (void)state;
    sy_cluster *c;
    assert_int_equal(sy_cluster_load("no-such-cluster", &c), SY_ERR_IO);
    assert_non_null(strstr(sy_last_error(), "--cluster list"));
    assert_true(sy_cluster_load("/", &c) != SY_OK);
    assert_true(sy_cluster_load("", &c) != SY_OK);
    assert_null(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_description_is_read_whole),
        cmocka_unit_test(a_wrong_description_is_refused_by_what_and_where),
        cmocka_unit_test(damaged_bytes_never_pass_the_checks),
        cmocka_unit_test(every_built_in_constant_has_a_source_and_is_a_valid_file),
        cmocka_unit_test(a_name_with_a_number_is_so_many),
        cmocka_unit_test(a_path_that_is_no_description_is_an_error_of_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
