/* The page of a profile: what it says, that it is well-formed whatever the texts in the
 * profile, that a hostile file is refused, and that it stays small.
 *
 * timeout: 120
 *
 * With an argument, test_report DIR writes the files of a large made-up profile there
 * instead: 61 layers, 256 experts, 64 ranks. scripts/check_report.sh looks at it in a
 * browser. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "launcher/report.h"
#include "launcher/report_chart.h"
#include "launcher/report_html.h"
#include "launcher/report_phase.h"
#include "runtime/balance_metrics.h"

enum { LARGE_LAYERS = 61, LARGE_EXPERTS = 256, LARGE_RANKS = 64, LARGE_K = 8 };

/* ---- made-up profiles ---- */

typedef struct shape {
    int layers, experts, top_k, ranks, labels;
    int64_t tokens;            /* of a label */
    const char *model, *label; /* JSON strings without their quotation marks */
} shape;

static const shape small = {3, 8, 2, 2, 2, 1000, "tiny", "text"};

typedef struct output {
    char *data;
    size_t n;
    FILE *f;
} output;

static void output_open(output *t) {
    t->f = open_memstream(&t->data, &t->n);
    assert_non_null(t->f);
}

/* The caller frees the data. */
static char *output_close(output *t) {
    assert_int_equal(fclose(t->f), 0);
    return t->data;
}

static uint32_t next(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* Tokens of an expert: uneven, some never chosen; sums to tokens x top_k. */
static void make_counts(const shape *s, int layer, int label, double *count) {
    uint32_t seed = (uint32_t)(layer * 77 + label * 31 + 5);
    double all = 0, want = (double)s->tokens * s->top_k, used = 0;
    for (int e = 0; e < s->experts; e++) {
        double u = next(&seed) % 1000 / 1000.0;
        count[e] = e % 97 == 13 ? 0 : exp(2.2 * u * u - (e * 7 + layer) % 5 * 0.2 * label);
        all += count[e];
    }
    for (int e = 0; e < s->experts; e++) {
        count[e] = floor(count[e] / all * want);
        used += count[e];
    }
    count[0] += want - used;
}

static void print_measures(FILE *f, const sy_balance *b) {
    fprintf(
        f,
        "\"max_over_mean\": %.6g, \"excess_over_mean\": %.6g, \"balancedness\": %.6g, \"cv\": "
        "%.6g, \"entropy\": %.6g, \"unused\": %.6g",
        b->max_over_mean, b->excess_over_mean, b->balancedness, b->cv, b->entropy, b->unused);
}

static void print_balance(FILE *f, const char *name, const double *x, int n) {
    sy_balance b;
    const sy_balance uniform = {1.05, 0.05, 1 / 1.05, 0.02, 0.999, 0};
    sy_balance_of(x, n, &b);
    fprintf(f, ", \"%s\": {", name);
    print_measures(f, &b);
    fputs(", \"uniform\": {", f);
    print_measures(f, &uniform);
    fputs("}}", f);
}

static void print_load(FILE *f, const shape *s, const double *count) {
    double rank[LARGE_RANKS] = {0};
    fputs("\"counts\": [", f);
    for (int e = 0; e < s->experts; e++) {
        fprintf(f, "%s%.0f", e > 0 ? "," : "", count[e]);
        rank[e * s->ranks / s->experts] += count[e];
    }
    fputs("]", f);
    print_balance(f, "expert_balance", count, s->experts);
    print_balance(f, "rank_balance", rank, s->ranks);
}

static void print_layer(FILE *f, const shape *s, int layer) {
    double sum[LARGE_EXPERTS] = {0}, count[LARGE_EXPERTS];
    for (int i = 0; i < s->labels; i++) {
        make_counts(s, layer, i, count);
        for (int e = 0; e < s->experts; e++)
            sum[e] += count[e];
    }
    fprintf(f, "%s{\"layer\": %d, \"experts\": %d, \"top_k\": %d, \"slot_rank\": [",
            layer > 0 ? ",\n" : "", layer, s->experts, s->top_k);
    for (int e = 0; e < s->experts; e++)
        fprintf(f, "%s%d", e > 0 ? "," : "", e * s->ranks / s->experts);
    fputs("], \"slot_expert\": [", f);
    for (int e = 0; e < s->experts; e++)
        fprintf(f, "%s%d", e > 0 ? "," : "", e);
    fputs("], \"pairs\": [[0, 1, 25, 1.5], [1, 2, 9, 2.5]], ", f);
    print_load(f, s, sum);
    fputs("}", f);
}

static void print_labels(FILE *f, const shape *s) {
    double count[LARGE_EXPERTS];
    fputs("\"labels\": [", f);
    for (int i = 0; i < s->labels; i++) {
        fprintf(f, "%s{\"name\": \"%s%d\", \"tokens\": %" PRId64 ", \"layers\": [",
                i > 0 ? ",\n" : "", s->label, i, s->tokens);
        for (int l = 0; l < s->layers; l++) {
            make_counts(s, l, i, count);
            fprintf(f, "%s{\"layer\": %d, ", l > 0 ? ", " : "", l);
            print_load(f, s, count);
            fputs("}", f);
        }
        fputs("]}", f);
    }
    fputs("],\n\"comparisons\": [", f);
    bool first = true;
    for (int i = 0; i < s->labels; i++)
        for (int k = i + 1; k < s->labels; k++, first = false) {
            fprintf(f, "%s{\"a\": \"%s%d\", \"b\": \"%s%d\", \"layers\": [", first ? "" : ", ",
                    s->label, i, s->label, k);
            for (int l = 0; l < s->layers; l++)
                fprintf(f,
                        "%s{\"layer\": %d, \"overlap\": %.3f, \"uniform_overlap\": 0.97, "
                        "\"specialised\": [[1, 0.2, 0.1, %d.5], [2, 0.1, 0.3, -9]]}",
                        l > 0 ? ", " : "", l, 0.6 + 0.3 * sin(l), 5 + l);
            fputs("]}", f);
        }
    fputs("]", f);
}

static void print_links(FILE *f, const shape *s) {
    static const char *const name[] = {"dispatch_rows", "dispatch_bytes", "combine_rows",
                                       "combine_bytes"};
    for (int i = 0; i < 4; i++) {
        fprintf(f, "%s\"%s\": [", i > 0 ? ", " : "", name[i]);
        for (int a = 0; a < s->ranks; a++) {
            fputs(a > 0 ? ",[" : "[", f);
            for (int b = 0; b < s->ranks; b++)
                fprintf(f, "%s%d", b > 0 ? "," : "",
                        a == b && i % 2 == 1 ? 0 : (1 + (a * 3 + b * 7) % 11) * 100000);
            fputs("]", f);
        }
        fputs("]", f);
    }
}

static void print_times(FILE *f, const shape *s) {
    fputs("\"times\": {\"phases\": [\"attend\", \"experts_up\", \"wait_results\", \"head\", "
          "\"novel\"], \"ranks\": [",
          f);
    for (int r = 0; r < s->ranks; r++)
        fprintf(f,
                "%s{\"rank\": %d, \"steps\": 4, \"step_seconds\": 2, \"between_seconds\": 0, "
                "\"wait_seconds\": 0.5, \"phase_seconds\": [0.5, %.3f, %.3f, 0.1, 0.1]}",
                r > 0 ? ", " : "", r, 0.6 + 0.01 * (r % 17), 0.7 - 0.01 * (r % 17));
    fputs("], \"layers\": [", f);
    for (int l = 0; l < s->layers; l++) {
        fprintf(f, "%s{\"layer\": %d, \"phase_seconds\": [", l > 0 ? ", " : "", l);
        for (int r = 0; r < s->ranks; r++)
            fprintf(f, "%s[0.01, 0.02, %.3f, 0, 0]", r > 0 ? ", " : "", 0.001 * (l % 9));
        fputs("]}", f);
    }
    fputs("]},\n\"steps\": [{\"rows_from\": 1, \"rows_to\": 1, \"steps\": 3, \"tokens\": 30, "
          "\"seconds\": 0.3}, {\"rows_from\": 65, \"rows_to\": 128, \"steps\": 1, \"tokens\": "
          "900, \"seconds\": 1.7}]",
          f);
}

static char *make_profile(const shape *s) {
    output t = {0};
    output_open(&t);
    fprintf(
        t.f,
        "{\"version\": 1, \"switchyard\": \"0.1.0\", \"command\": \"profile\", \"options\": "
        "\"switchyard profile\",\n\"model\": {\"name\": \"%s\", \"family\": \"made_up\", "
        "\"layers\": %d},\n\"hosts\": [\"one\", \"two\"], \"ranks\": [",
        s->model, s->layers);
    for (int r = 0; r < s->ranks; r++)
        fprintf(t.f, "%s{\"rank\": %d, \"host\": %d}", r > 0 ? ", " : "", r,
                r >= (s->ranks + 1) / 2);
    fprintf(t.f,
            "],\n\"device\": \"cpu\", \"threads\": 1, \"synchronised\": false, \"tokens\": "
            "%" PRId64 ", \"seconds\": 2,\n\"layers\": [",
            s->tokens * s->labels);
    for (int l = 0; l < s->layers; l++)
        print_layer(t.f, s, l);
    fputs("],\n\"balance\": {\"ranks\": {\"max_over_mean\": 1.2, \"excess_over_mean\": 0.2, "
          "\"balancedness\": 0.83, \"cv\": 0.1, \"entropy\": 0.98, \"unused\": 0}, "
          "\"layerwise_balancedness\": 0.8},\n",
          t.f);
    print_labels(t.f, s);
    fputs(",\n\"links\": {", t.f);
    print_links(t.f, s);
    fputs("},\n", t.f);
    print_times(t.f, s);
    fputs("}\n", t.f);
    return output_close(&t);
}

/* Steps 0, 1, 2 of which step 1 has the median length on rank 0. */
static char *make_trace(const shape *s) {
    static const int length[] = {900, 500, 100};
    output t = {0};
    output_open(&t);
    fputs(
        "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [{\"name\": \"process_name\", \"ph\": "
        "\"M\", \"pid\": 0, \"args\": {\"name\": \"rank 0\"}}",
        t.f);
    for (int r = 0; r < s->ranks; r++)
        for (int step = 0, at = 0; step < 3; at += length[step++]) {
            fprintf(t.f,
                    ",\n{\"name\": \"step %d\", \"cat\": \"step\", \"ph\": \"X\", \"pid\": %d, "
                    "\"ts\": %d.250, \"dur\": %d, \"args\": {\"step\": %d, \"rows\": 7}}",
                    step, r, at, length[step], step);
            for (int l = 0; l < s->layers; l++) {
                double unit = (double)length[step] / s->layers;
                fprintf(
                    t.f,
                    ",\n{\"name\": \"attend\", \"cat\": \"phase\", \"ph\": \"X\", \"pid\": "
                    "%d, \"ts\": %.3f, \"dur\": %.3f, \"args\": {\"step\": %d, \"layer\": %d}}"
                    ",\n{\"name\": \"wait_results\", \"cat\": \"phase\", \"ph\": \"X\", "
                    "\"pid\": %d, \"ts\": %.3f, \"dur\": %.3f, \"args\": {\"step\": %d}}",
                    r, at + 0.25 + l * unit, unit * 0.7, step, l, r,
                    at + 0.25 + (l + 0.7) * unit, unit * 0.3, step);
            }
        }
    fputs("]}\n", t.f);
    return output_close(&t);
}

/* ---- pages ---- */

static char *page_of(const char *profile, const char *trace) {
    sy_report r;
    sy_report_gain gain;
    sy_report_timeline timeline = {0};
    bool placed;
    if (sy_report_parse(profile, strlen(profile), "profile.json", &r) != SY_OK)
        fail_msg("%s", sy_last_error());
    assert_int_equal(sy_report_gain_find(&r, &gain, &placed), SY_OK);
    if (trace != NULL) {
        char *copy = strdup(trace);
        assert_non_null(copy);
        if (sy_report_trace_parse(copy, strlen(copy), "trace.json", r.n_ranks, &timeline) !=
            SY_OK)
            fail_msg("%s", sy_last_error());
        free(copy);
    }
    output t = {0};
    output_open(&t);
    sy_report_print(t.f, &r, placed ? &gain : NULL, &timeline);
    sy_report_timeline_free(&timeline);
    sy_report_free(&r);
    return output_close(&t);
}

static char *page_of_shape(const shape *s) {
    char *profile = make_profile(s), *trace = make_trace(s), *page = page_of(profile, trace);
    free(profile);
    free(trace);
    return page;
}

/* ---- well-formed ---- */

enum { MOST_DEPTH = 64, MOST_NAME = 24 };

/* Reads a tag from '<' on; *name is its name, *closing and *empty its kind. Returns what
 * follows '>'. */
static const char *read_tag(const char *p, char *name, bool *closing, bool *empty) {
    size_t n = 0;
    *closing = *++p == '/';
    if (*closing) p++;
    for (; (*p >= 'a' && *p <= 'z') || (*p >= '0' && *p <= '9'); p++) {
        assert_true(n + 1 < MOST_NAME);
        name[n++] = *p;
    }
    name[n] = '\0';
    if (n == 0) fail_msg("no tag: %.60s", p);
    while (*p != '>' && *p != '/') {
        if (*p == '"') {
            p = strchr(p + 1, '"');
            assert_non_null(p);
        }
        if (*p == '<' || *p == '\0') fail_msg("tag %s has no end", name);
        p++;
    }
    *empty = *p == '/';
    if (*empty) p++;
    assert_int_equal(*p, '>');
    return p + 1;
}

/* Every element ends where it should, and no bare '<' or '&' is in the text. */
static void check_page(const char *page) {
    char open[MOST_DEPTH][MOST_NAME], name[MOST_NAME];
    int depth = 0;
    bool closing, empty;
    const char *p = page;
    assert_int_equal(strncmp(p, "<!DOCTYPE html>\n", 16), 0);
    assert_true(sy_utf8_valid(page, strlen(page)));
    for (p += 16; *p != '\0';) {
        if (*p == '&' && strcspn(p, ";") > 7) fail_msg("bare &: %.60s", p);
        if (*p != '<') {
            p++;
            continue;
        }
        p = read_tag(p, name, &closing, &empty);
        if (empty || strcmp(name, "meta") == 0 || strcmp(name, "br") == 0) continue;
        if (!closing) {
            assert_true(depth < MOST_DEPTH);
            strcpy(open[depth++], name);
            if (strcmp(name, "script") == 0) p = strstr(p, "</script>");
            if (strcmp(name, "style") == 0) p = strstr(p, "</style>");
            assert_non_null(p);
            continue;
        }
        if (depth == 0 || strcmp(open[depth - 1], name) != 0)
            fail_msg("</%s> closes <%s>: %.60s", name, depth > 0 ? open[depth - 1] : "", p);
        depth--;
    }
    assert_int_equal(depth, 0);
}

static void assert_says(const char *page, const char *words) {
    if (strstr(page, words) == NULL) fail_msg("the page lacks \"%s\"", words);
}

static void assert_lacks(const char *page, const char *words) {
    const char *at = strstr(page, words);
    if (at != NULL) fail_msg("the page has \"%.80s\"", at);
}

/* profile with the first `old` replaced; NULL if it is not there. */
static char *replaced(const char *profile, const char *old, const char *new) {
    const char *at = strstr(profile, old);
    if (at == NULL) return NULL;
    char *out = malloc(strlen(profile) + strlen(new) + 1);
    assert_non_null(out);
    memcpy(out, profile, (size_t)(at - profile));
    strcpy(out + (at - profile), new);
    strcat(out, at + strlen(old));
    return out;
}

/* ---- tests ---- */

static void test_a_page_is_well_formed_and_needs_nothing_else(void **state) {
    (void)state;
    char *page = page_of_shape(&small);
    check_page(page);
    assert_lacks(page, "src=");
    assert_lacks(page, "url(");
    assert_lacks(page, "<link");
    assert_lacks(page, "@import");
    assert_lacks(page, "nan");
    assert_lacks(page, "inf<");
    for (const char *p = page; (p = strstr(p, "http")) != NULL; p++)
        assert_int_equal(strncmp(p, "http://www.w3.org/2000/svg\"", 27), 0);
    assert_says(page, "max/mean");
    assert_says(page, "(max-mean)/mean");
    free(page);
}

static void test_texts_of_the_file_are_never_markup(void **state) {
    (void)state;
    shape s = small;
    s.model = "</title><script>alert(1)</script>&\\\"'\\u0007";
    s.label =
        "<img onerror=x>\xc3\xa9\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac"
        "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac"
        "\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac\xe2\x82\xac";
    char *page = page_of_shape(&s);
    check_page(page);
    assert_lacks(page, "<script>alert");
    assert_lacks(page, "<img");
    assert_lacks(page, "\x07");
    assert_says(page, "&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#39;");
    assert_says(page, "&lt;img onerror=x&gt;");
    free(page);
}

static void test_a_page_of_nothing_says_so(void **state) {
    (void)state;
    shape s = small;
    s.tokens = 0;
    char *page = page_of_shape(&s);
    check_page(page);
    assert_says(page, "No token went through a layer with experts");
    assert_lacks(page, "nan");
    assert_lacks(page, "id=\"placement\"");
    free(page);
    s = small;
    s.layers = 0;
    page = page_of_shape(&s);
    check_page(page);
    assert_says(page, "no layers with routed experts");
    assert_lacks(page, "nan");
    free(page);
}

static void test_one_rank_and_one_label_need_no_comparison(void **state) {
    (void)state;
    shape s = small;
    s.ranks = s.labels = 1;
    char *page = page_of_shape(&s);
    check_page(page);
    assert_says(page, "All experts are on one rank");
    assert_says(page, "so nothing travels");
    assert_lacks(page, "id=\"labels\"");
    assert_lacks(page, "id=\"placement\"");
    free(page);
}

/* data-v of the first map holds the hundredths of the mean that follow from the counts. */
static void test_the_map_shows_what_was_counted(void **state) {
    (void)state;
    double sum[LARGE_EXPERTS], count[LARGE_EXPERTS];
    char *page = page_of_shape(&small);
    const char *p = strstr(page, "data-v=\"");
    assert_non_null(p);
    p += strlen("data-v=\"");
    for (int l = 0; l < small.layers; l++) {
        memset(sum, 0, sizeof sum);
        for (int i = 0; i < small.labels; i++) {
            make_counts(&small, l, i, count);
            for (int e = 0; e < small.experts; e++)
                sum[e] += count[e];
        }
        double mean = (double)small.tokens * small.labels * small.top_k / small.experts;
        for (int e = 0; e < small.experts; e++) {
            char *end;
            assert_int_equal(strtol(p, &end, 10), lrint(100 * sum[e] / mean));
            p = end;
        }
    }
    assert_int_equal(*p, '"');
    free(page);
}

static char *draw(const sy_heat *heat) {
    output t = {0};
    output_open(&t);
    sy_heat_draw(t.f, heat);
    return output_close(&t);
}

/* Each colour begins where the one before it ends; nothing and no cell are apart. */
static void test_colours_follow_the_share_of_the_mean(void **state) {
    (void)state;
    static const double value[][11] = {{1, 25, 50, 70, 90, 110, 140, 200, 400, 0, NAN},
                                       {24, 49, 69, 89, 109, 139, 199, 399, 9999, 0, NAN}};
    const double mean = 100;
    for (int k = 0; k < 2; k++) {
        sy_heat heat = {.rows = 1,
                        .cols = 11,
                        .value = value[k],
                        .mean = &mean,
                        .row_word = "r",
                        .col_word = "c",
                        .row_axis = "r",
                        .col_axis = "c",
                        .unit = "u",
                        .describes = "d"};
        char *svg = draw(&heat), path[80];
        for (int i = 0; i < 10; i++) {
            snprintf(path, sizeof path, "<path class=\"c%c\" d=\"M%d 0h1v1h-1z\"/>",
                     i == 9 ? 'd' : '0' + i, i);
            assert_says(svg, path);
        }
        assert_lacks(svg, "M10 0");
        assert_says(svg, k == 0 ? "data-v=\"1 25 50 70 90 110 140 200 400 0 -1\""
                                : "data-v=\"24 49 69 89 109 139 199 399 9999 0 -1\"");
        free(svg);
    }
}

static void test_links_have_no_diagonal(void **state) {
    (void)state;
    char *page = page_of_shape(&small);
    assert_says(page, "data-v=\"-1 800000 400000 -1\"");
    free(page);
}

static void test_columns_without_room_become_one_with_the_largest(void **state) {
    (void)state;
    static const double value[] = {1, 30, 8, NAN, 0, 0, 2};
    const double mean = 10;
    sy_heat heat = {.rows = 1,
                    .cols = 7,
                    .value = value,
                    .mean = &mean,
                    .row_word = "r",
                    .col_word = "c",
                    .row_axis = "r",
                    .col_axis = "c",
                    .unit = "u",
                    .describes = "d",
                    .most_cells = 4};
    assert_int_equal(sy_heat_group(&heat), 2);
    char *svg = draw(&heat);
    assert_says(svg, "data-cols=\"4\" data-group=\"2\"");
    assert_says(svg, "data-v=\"300 80 0 20\"");
    free(svg);
}

/* Numbers that a profile may hold and that no run gives: the axes have to end. */
static void test_extreme_numbers_do_not_stall_the_page(void **state) {
    (void)state;
    static const struct {
        const char *old, *new;
    } change[] = {{"\"phase_seconds\": [0.5,", "\"phase_seconds\": [9e15,"},
                  {"[0.01, 0.02,", "[5e-324, 0.02,"},
                  {"\"max_over_mean\": 1.05", "\"max_over_mean\": 9e15"},
                  {"\"max_over_mean\": 1.05", "\"max_over_mean\": 5e-324"},
                  {"\"dispatch_bytes\": [[0,", "\"dispatch_bytes\": [[9e15,"},
                  {"\"seconds\": 2", "\"seconds\": 5e-324"},
                  {"\"seconds\": 0.3", "\"seconds\": 5e-324"},
                  {"\"overlap\": 0.", "\"overlap\": 9000."}};
    char *good = make_profile(&small);
    for (size_t i = 0; i < sizeof change / sizeof change[0]; i++) {
        char *changed = replaced(good, change[i].old, change[i].new);
        if (changed == NULL) fail_msg("no %s", change[i].old);
        char *page = page_of(changed, NULL);
        check_page(page);
        free(page);
        free(changed);
    }
    free(good);
}

static void test_times_of_almost_nothing_have_no_axis(void **state) {
    (void)state;
    sy_report r;
    char *profile = make_profile(&small);
    assert_int_equal(sy_report_parse(profile, strlen(profile), "p", &r), SY_OK);
    for (int i = 0; i < r.n_ranks; i++)
        for (int p = 0; p < r.n_phases; p++)
            r.rank_time[i].phase[p] = 5e-324;
    for (int l = 0; l < r.n_layer_times; l++)
        for (int p = 0; p < r.n_phases; p++)
            r.layer_time[l].phase[p] = 5e-324;
    output t = {0};
    output_open(&t);
    sy_report_print(t.f, &r, NULL, NULL);
    char *page = output_close(&t);
    check_page(page);
    assert_says(page, "they were not searched for");
    assert_says(page, "There is no time line");
    free(page);
    sy_report_free(&r);
    free(profile);
}

static void test_axes_step_by_1_2_or_5(void **state) {
    (void)state;
    static const double want[][2] = {{1, 0.2}, {0.9, 0.2}, {2.4, 0.5}, {60, 20}, {5e-4, 1e-4}};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        if (fabs(sy_axis_step(want[i][0], 5) / want[i][1] - 1) > 1e-9)
            fail_msg("0 to %g: %g", want[i][0], sy_axis_step(want[i][0], 5));
    assert_true(sy_axis_step(0, 5) > 0 && sy_axis_step(NAN, 5) > 0);
    assert_true(sy_axis_step(5e-324, 5) > 0 && sy_axis_step(INFINITY, 5) > 0);
}

static void test_a_better_placement_is_found_and_told(void **state) {
    (void)state;
    sy_report r;
    sy_report_gain gain;
    bool known;
    char *profile = make_profile(&small);
    assert_int_equal(sy_report_parse(profile, strlen(profile), "p", &r), SY_OK);
    const double loads[] = {300, 300, 300, 300, 100, 100, 100, 100};
    for (int l = 0; l < r.n_layers; l++) {
        memcpy(r.layer[l].load.expert, loads, sizeof loads);
        r.layer[l].load.rank[0] = 1200;
        r.layer[l].load.rank[1] = 400;
        r.layer[l].load.all = 1600;
    }
    assert_int_equal(sy_report_gain_find(&r, &gain, &known), SY_OK);
    assert_true(known);
    for (int l = 0; l < r.n_layers; l++) {
        assert_float_equal(gain.now[l], 1.5, 1e-9);
        assert_float_equal(gain.same[l], 1.0, 1e-9);
        assert_float_equal(gain.extra[l], 1.0, 0.01);
    }
    assert_float_equal(gain.now_all, 1.5, 1e-9);
    output t = {0};
    output_open(&t);
    sy_report_print(t.f, &r, &gain, NULL);
    char *page = output_close(&t);
    assert_says(page, "brings all layers from 1.50 to 1.00");
    assert_says(page, "about 33 %");
    free(page);
    sy_report_free(&r);
    free(profile);
}

/* One expert with most of the load: a rank has to hold it whole, unless there is room for a copy. */
static void test_room_for_copies_splits_a_hot_expert(void **state) {
    (void)state;
    sy_report r;
    sy_report_gain gain;
    bool known;
    shape s = small;
    s.layers = 1;
    char *profile = make_profile(&s);
    assert_int_equal(sy_report_parse(profile, strlen(profile), "p", &r), SY_OK);
    const double loads[] = {1300, 60, 40, 40, 40, 40, 40, 40};
    memcpy(r.layer[0].load.expert, loads, sizeof loads);
    r.layer[0].load.rank[0] = 1440;
    r.layer[0].load.rank[1] = 160;
    r.layer[0].load.all = 1600;
    assert_int_equal(sy_report_gain_find(&r, &gain, &known), SY_OK);
    assert_float_equal(gain.now[0], 1.8, 1e-9);
    assert_true(fabs(gain.same[0] - 1420 / 800.0) < 1e-9);
    assert_true(gain.extra[0] < 1.05);
    sy_report_free(&r);
    free(profile);
}

static void test_the_time_line_is_of_the_median_step(void **state) {
    (void)state;
    sy_report_timeline t;
    char *trace = make_trace(&small);
    assert_int_equal(sy_report_trace_parse(trace, strlen(trace), "trace", small.ranks, &t),
                     SY_OK);
    assert_int_equal(t.n_steps, 3);
    assert_int_equal(t.step, 1);
    assert_int_equal(t.n, small.ranks * small.layers * 2);
    assert_float_equal(t.length, 500, 0.01);
    assert_float_equal(t.rows, 7, 0);
    assert_int_equal(t.span[0].kind, SY_PHASE_ATTENTION);
    assert_int_equal(t.span[1].kind, SY_PHASE_WAITING);
    assert_true(fabs(t.span[1].begin - 500.0 / 3 * 0.7) < 0.01);
    sy_report_timeline_free(&t);
    free(trace);
}

static void test_a_hostile_trace_is_refused(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",
        "[]",
        "{\"traceEvents\": 3}",
        "{\"traceEvents\": [{\"ts\": \"1\"}]}",
        "{\"traceEvents\": [{\"ts\": 1e400}]}",
        "{\"traceEvents\": [{\"name\": \"a\", \"cat\": \"phase\", \"ph\": \"X\", \"pid\": 2}]}",
        "{\"traceEvents\": [{\"name\": \"a\", \"cat\": \"phase\", \"ph\": \"X\", \"dur\": "
        "-1}]}",
        "{\"traceEvents\": [{\"name\": \"a\", \"cat\": \"step\", \"ph\": \"X\", \"args\": "
        "{\"step\": -4}}]}",
        "{\"traceEvents\": []} x",
        "{\"traceEvents\": [\xff]}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        sy_report_timeline t;
        char *copy = strdup(bad[i]);
        assert_non_null(copy);
        if (sy_report_trace_parse(copy, strlen(copy), "trace", 2, &t) != SY_ERR_FORMAT)
            fail_msg("accepted: %s", bad[i]);
        sy_report_timeline_free(&t);
        free(copy);
    }
}

static void test_a_hostile_profile_is_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *old, *new, *told;
    } bad[] = {
        {"\"version\": 1", "\"version\": \"1\"", "version"},
        {"\"host\": 0", "\"host\": 2", "host"},
        {"\"host\": 0", "\"host\": -1", "host"},
        {"\"hosts\": [\"one\", \"two\"]", "\"hosts\": []", "hosts"},
        {"\"experts\": 8", "\"experts\": 7", "layers[0]"},
        {"\"experts\": 8", "\"experts\": 1e18", "experts"},
        {"\"top_k\": 2", "\"top_k\": 9", "top_k"},
        {"\"slot_rank\": [0", "\"slot_rank\": [2", "slot_rank"},
        {"\"slot_expert\": [0", "\"slot_expert\": [8", "slot_expert"},
        {"\"slot_expert\": [0", "\"slot_expert\": [0.5", "slot_expert"},
        {"\"counts\": [", "\"counts\": [-1,", "counts"},
        {"\"counts\": [", "\"counts\": [null,", "counts"},
        {"\"counts\": [", "\"counts\": [0.", "counts"},
        {"\"counts\":", "\"count\":", "counts"},
        {"[0, 1, 25, 1.5]", "[0, 8, 25, 1.5]", "pairs"},
        {"\"layer\": 1,", "\"layer\": 0,", "ascend"},
        {"\"max_over_mean\":", "\"max\":", "max_over_mean"},
        {"\"a\": \"text0\"", "\"a\": \"other\"", "comparisons"},
        {"[1, 0.2, 0.1,", "[8, 0.2, 0.1,", "specialised"},
        {"\"dispatch_rows\": [[", "\"dispatch_rows\": [[1,", "dispatch_rows"},
        {"\"phases\": [", "\"phases\": [7,", "phases"},
        {"\"phase_seconds\": [", "\"phase_seconds\": [1,", "phase_seconds"},
        {"\"rows_from\": 1", "\"rows_from\": true", "rows_from"},
    };
    char *good = make_profile(&small);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        sy_report r;
        char *text = replaced(good, bad[i].old, bad[i].new);
        assert_non_null(text);
        sy_status st = sy_report_parse(text, strlen(text), "profile.json", &r);
        if (st != SY_ERR_FORMAT || strstr(sy_last_error(), bad[i].told) == NULL)
            fail_msg("%s -> %s: %s", bad[i].old, bad[i].new,
                     st == SY_OK ? "accepted" : sy_last_error());
        sy_report_free(&r);
        free(text);
    }
    free(good);
}

/* Cut short and with bytes changed at random: refused, or a page that is well-formed. */
static void test_a_damaged_profile_never_breaks_the_page(void **state) {
    (void)state;
    static const char digits[] = "0123456789-e.,[]{}\"n";
    char *good = make_profile(&small);
    size_t n = strlen(good);
    uint32_t seed = 1;
    int accepted = 0;
    for (int i = 0; i < 400; i++) {
        sy_report r;
        char *text = strdup(good);
        assert_non_null(text);
        if (i % 4 == 0) text[next(&seed) % n] = '\0';
        for (int k = 0; i % 4 != 0 && k < i % 4; k++)
            text[next(&seed) % n] = digits[next(&seed) % (sizeof digits - 1)];
        bool read = sy_report_parse(text, strlen(text), "p", &r) == SY_OK;
        sy_report_free(&r);
        if (read) {
            char *page = page_of(text, NULL);
            check_page(page);
            free(page);
            accepted++;
        }
        free(text);
    }
    assert_true(accepted > 10);
    free(good);
}

static const shape large = {LARGE_LAYERS, LARGE_EXPERTS,  LARGE_K, LARGE_RANKS, 2,
                            20000,        "Large-61x256", "kind"};

static void test_61_layers_of_256_experts_on_64_ranks_stay_below_3_megabytes(void **state) {
    (void)state;
    char *page = page_of_shape(&large);
    check_page(page);
    print_message("large page: %zu bytes\n", strlen(page));
    assert_true(strlen(page) < 3000000);
    assert_says(page, "data-rows=\"61\" data-cols=\"256\"");
    assert_says(page, "data-rows=\"61\" data-cols=\"64\"");
    assert_says(page, "data-rows=\"64\" data-cols=\"64\"");
    free(page);
}

static void test_numbers_are_written_for_people(void **state) {
    (void)state;
    assert_string_equal(sy_html_count(0).text, "0");
    assert_string_equal(sy_html_count(999).text, "999");
    assert_string_equal(sy_html_count(1234567).text, "1,234,567");
    assert_string_equal(sy_html_bytes(999).text, "999 B");
    assert_string_equal(sy_html_bytes(28.6e6).text, "28.6 MB");
    assert_string_equal(sy_html_bytes(9e20).text, "900000 PB");
    assert_string_equal(sy_html_seconds(0.0123).text, "12.3 ms");
    assert_string_equal(sy_html_seconds(1.5).text, "1.50 s");
    char cut[4];
    assert_string_equal(sy_html_cut(cut, sizeof cut, "a\xe2\x82\xac"), "a");
    assert_string_equal(sy_html_cut(cut, sizeof cut, "\xe2\x82\xac"), "\xe2\x82\xac");
}

/* ---- files for the browser ---- */

static int write_file(const char *dir, const char *name, char *data) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    bool bad = f == NULL || fputs(data, f) < 0;
    if (f != NULL) bad = fclose(f) != 0 || bad;
    free(data);
    if (bad) perror(path);
    return bad;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_page_is_well_formed_and_needs_nothing_else),
        cmocka_unit_test(test_texts_of_the_file_are_never_markup),
        cmocka_unit_test(test_a_page_of_nothing_says_so),
        cmocka_unit_test(test_one_rank_and_one_label_need_no_comparison),
        cmocka_unit_test(test_the_map_shows_what_was_counted),
        cmocka_unit_test(test_colours_follow_the_share_of_the_mean),
        cmocka_unit_test(test_links_have_no_diagonal),
        cmocka_unit_test(test_columns_without_room_become_one_with_the_largest),
        cmocka_unit_test(test_extreme_numbers_do_not_stall_the_page),
        cmocka_unit_test(test_times_of_almost_nothing_have_no_axis),
        cmocka_unit_test(test_axes_step_by_1_2_or_5),
        cmocka_unit_test(test_a_better_placement_is_found_and_told),
        cmocka_unit_test(test_room_for_copies_splits_a_hot_expert),
        cmocka_unit_test(test_the_time_line_is_of_the_median_step),
        cmocka_unit_test(test_a_hostile_trace_is_refused),
        cmocka_unit_test(test_a_hostile_profile_is_refused_by_name),
        cmocka_unit_test(test_a_damaged_profile_never_breaks_the_page),
        cmocka_unit_test(test_61_layers_of_256_experts_on_64_ranks_stay_below_3_megabytes),
        cmocka_unit_test(test_numbers_are_written_for_people),
    };
    if (argc == 2)
        return write_file(argv[1], "profile.json", make_profile(&large)) ||
               write_file(argv[1], "trace.json", make_trace(&large));
    return cmocka_run_group_tests(tests, NULL, NULL);
}
