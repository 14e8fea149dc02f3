/* JSON from hostile files, sizes, memory and float formats. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/checked.h"
#include "base/dtype.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/new_file.h"

/* ---- JSON ---- */

static sy_status parse(const char *text, json_t **out) {
    return sy_json_parse(text, strlen(text), "t", out);
}

static void refused(const char *text, const char *expected) {
    json_t *root;
    assert_int_equal(parse(text, &root), SY_ERR_FORMAT);
    assert_null(root);
    assert_non_null(strstr(sy_last_error(), "t: "));
    if (strstr(sy_last_error(), expected) == NULL)
        fail_msg("expected \"%s\" in \"%s\"", expected, sy_last_error());
}

static void json_depth_is_bounded_outside_strings_only(void **state) {
    (void)state;
    char text[2 * SY_JSON_MAX_DEPTH + 8];
    json_t *root;
    size_t n = SY_JSON_MAX_DEPTH;
    memset(text, '[', n);
    memset(text + n, ']', n);
    text[2 * n] = '\0';
    assert_int_equal(parse(text, &root), SY_OK);
    json_decref(root);
    memset(text, '[', n + 1);
    memset(text + n + 1, ']', n + 1);
    text[2 * n + 2] = '\0';
    refused(text, "nested deeper than 32 at byte 32");

    assert_int_equal(parse("[\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\\\"[[[\"]", &root),
                     SY_OK);
    json_decref(root);
    refused("]", "line 1");
    refused("", "line 1");
    refused("{\"a\": 1", "line 1");
    refused("{} {}", "line 1");
    refused("\"\\u0000\"", "\\u0000");
}

static void json_duplicate_keys_are_refused_as_decoded(void **state) {
    (void)state;
    refused("{\"a\": 1, \"a\": 1}", "duplicate");
    refused("{\"a\": 1, \"\\u0061\": 2}", "duplicate");
    refused("{\"x\": {\"a\": 1, \"b\": 0, \"a\": 1}}", "duplicate");
}

static void json_integers_beyond_64_bits_are_read_as_reals(void **state) {
    (void)state;
    json_t *root;
    int64_t n = 7;
    /* tokenizer_config.json of many models: model_max_length 10^30 */
    assert_int_equal(parse("{\"max\": 1000000000000000019884624838656, \"n\": 42}", &root),
                     SY_OK);
    assert_true(json_is_real(json_object_get(root, "max")));
    assert_int_equal(sy_json_get_int(root, "t", "n", 0, 100, &n), SY_OK);
    assert_int_equal(n, 42);
    assert_int_equal(sy_json_get_int(root, "t", "max", 0, INT64_MAX, &n), SY_ERR_FORMAT);
    assert_non_null(strstr(sy_last_error(), "t: \"max\": expected a whole number, found real"));
    assert_int_equal(n, 42);
    json_decref(root);
    assert_int_equal(parse("[9223372036854775807, 9223372036854775808]", &root), SY_OK);
    json_decref(root);
    /* 18 digits stay exact integers. */
    assert_int_equal(parse("[999999999999999999]", &root), SY_OK);
    assert_true(sy_json_integral(json_array_get(root, 0), &n));
    assert_int_equal(n, 999999999999999999);
    json_decref(root);
    refused("[1e999]", "real number");
}

static void json_numbers_are_whole_only_if_they_fit(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool integral;
        int64_t value;
    } table[] = {
        {"[5]", true, 5},       {"[5.0]", true, 5},
        {"[-0.0]", true, 0},    {"[1e18]", true, 1000000000000000000},
        {"[5.5]", false, 0},    {"[1e19]", false, 0},
        {"[-1e300]", false, 0}, {"[true]", false, 0},
        {"[\"5\"]", false, 0},  {"[null]", false, 0},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        json_t *root;
        int64_t n = -1;
        assert_int_equal(parse(table[i].text, &root), SY_OK);
        assert_int_equal(sy_json_integral(json_array_get(root, 0), &n), table[i].integral);
        if (table[i].integral) assert_int_equal(n, table[i].value);
        json_decref(root);
    }
}

static void json_getters_keep_defaults_and_name_what_they_find(void **state) {
    (void)state;
    json_t *o;
    int64_t n = 3;
    double d = 0.5;
    bool b = true;
    const char *s = "default";
    assert_int_equal(parse("{\"i\": 9, \"r\": 2.5, \"b\": false, \"s\": \"x\", \"z\": null, "
                           "\"o\": {}, \"a\": []}",
                           &o),
                     SY_OK);
    assert_int_equal(sy_json_get_int(o, "w", "z", 0, 10, &n), SY_OK);
    assert_int_equal(sy_json_get_int(o, "w", "absent", 0, 10, &n), SY_OK);
    assert_int_equal(sy_json_get_real(o, "w", "z", &d), SY_OK);
    assert_int_equal(sy_json_get_bool(o, "w", "z", &b), SY_OK);
    assert_int_equal(sy_json_get_string(o, "w", "z", &s), SY_OK);
    assert_true(n == 3 && d == 0.5 && b && strcmp(s, "default") == 0);

    assert_int_equal(sy_json_get_int(o, "w", "i", 0, 10, &n), SY_OK);
    assert_int_equal(sy_json_get_real(o, "w", "i", &d), SY_OK);
    assert_int_equal(sy_json_get_bool(o, "w", "b", &b), SY_OK);
    assert_int_equal(sy_json_get_string(o, "w", "s", &s), SY_OK);
    assert_true(n == 9 && d == 9 && !b && strcmp(s, "x") == 0);

    static const char *const wrong[] = {"r", "b", "s", "o", "a"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_int_equal(sy_json_get_int(o, "w", wrong[i], 0, 10, &n), SY_ERR_FORMAT);
    assert_int_equal(sy_json_get_int(o, "w", "i", 0, 8, &n), SY_ERR_FORMAT);
    assert_string_equal(sy_last_error(), "w: \"i\": expected 0 to 8, found 9");
    assert_int_equal(sy_json_get_int(o, "w", "i", 10, 20, &n), SY_ERR_FORMAT);
    assert_int_equal(sy_json_get_real(o, "w", "b", &d), SY_ERR_FORMAT);
    assert_string_equal(sy_last_error(), "w: \"b\": expected a number, found false");
    assert_int_equal(sy_json_get_bool(o, "w", "i", &b), SY_ERR_FORMAT);
    assert_string_equal(sy_last_error(), "w: \"i\": expected true or false, found integer");
    assert_int_equal(sy_json_get_string(o, "w", "o", &s), SY_ERR_FORMAT);
    assert_string_equal(sy_last_error(), "w: \"o\": expected a string, found object");
    assert_true(n == 9 && d == 9 && !b && strcmp(s, "x") == 0);
    json_decref(o);
}

static void utf8_is_strict(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool valid;
    } table[] = {
        {"", true},
        {"a\x7f", true},
        {"\xc2\x80", true},
        {"\xdf\xbf", true},
        {"\xe0\xa0\x80", true},
        {"\xed\x9f\xbf", true},
        {"\xee\x80\x80", true},
        {"\xef\xbf\xbf", true},
        {"\xf0\x90\x80\x80", true},
        {"\xf4\x8f\xbf\xbf", true},
        {"\x80", false},
        {"\xbf", false},
        {"\xc0\x80", false},
        {"\xc1\xbf", false},
        {"\xc2", false},
        {"\xc2z", false},
        {"\xc2\xc2\x80", false},
        {"\xe0\x9f\xbf", false},
        {"\xe0\xa0", false},
        {"\xe0\xa0z", false},
        {"\xed\xa0\x80", false},
        {"\xed\xbf\xbf", false},
        {"\xf0\x8f\xbf\xbf", false},
        {"\xf0\x90\x80", false},
        {"\xf4\x90\x80\x80", false},
        {"\xf5\x80\x80\x80", false},
        {"\xf8\x88\x80\x80\x80", false},
        {"\xfe", false},
        {"\xff", false},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        /* A block of the exact size, so that a read beyond it is seen by a sanitizer. */
        size_t n = strlen(table[i].text);
        char *copy = malloc(n + 1);
        assert_non_null(copy);
        memcpy(copy, table[i].text, n);
        copy = realloc(copy, n == 0 ? 1 : n);
        assert_non_null(copy);
        if (sy_utf8_valid(copy, n) != table[i].valid) fail_msg("row %zu", i);
        free(copy);
    }
    refused("\"\xff\"", "not valid UTF-8");
}

/* Writes text to a file of that name in a fresh folder that the caller removes with drop(). */
static void put(char path[64], const char *text, size_t n) {
    strcpy(path, "/tmp/sy_base_XXXXXX");
    assert_non_null(mkdtemp(path));
    strcat(path, "/f.json");
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static void drop(char path[64]) {
    unlink(path);
    *strrchr(path, '/') = '\0';
    rmdir(path);
}

static void json_files_may_begin_with_a_bom_and_must_be_regular_and_small(void **state) {
    (void)state;
    char path[64];
    json_t *root;
    put(path, "\xef\xbb\xbf[1]", 6);
    assert_int_equal(sy_json_load(path, 6, &root), SY_OK);
    assert_int_equal(json_array_size(root), 1);
    json_decref(root);
    assert_int_equal(sy_json_load(path, 5, &root), SY_ERR_FORMAT);
    assert_non_null(strstr(sy_last_error(), "6 bytes; at most 5"));
    assert_null(root);
    drop(path);

    put(path, "\xef\xbb", 2);
    assert_int_equal(sy_json_load(path, 100, &root), SY_ERR_FORMAT);
    drop(path);
    assert_int_equal(sy_json_load(path, 100, &root), SY_ERR_IO);
    assert_int_equal(sy_json_load("/tmp", 100, &root), SY_ERR_IO);
    assert_non_null(strstr(sy_last_error(), "expected a regular file"));
    assert_int_equal(sy_json_load("/dev/zero", 100, &root), SY_ERR_IO);

    put(path, "x", 1);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(sy_json_load(path, 100, &root), SY_ERR_IO); /* and does not wait */
    drop(path);
}

/* ---- sizes and memory ---- */

static void checked_arithmetic_tells_overflow(void **state) {
    (void)state;
    uint64_t u;
    int64_t i;
    assert_true(sy_mul_u64(UINT32_MAX, (uint64_t)UINT32_MAX + 2, &u) && u == UINT64_MAX);
    assert_false(sy_mul_u64((uint64_t)1 << 32, (uint64_t)1 << 32, &u));
    assert_true(sy_add_u64(UINT64_MAX, 0, &u) && u == UINT64_MAX);
    assert_false(sy_add_u64(UINT64_MAX, 1, &u));
    assert_true(sy_mul_i64(INT64_MIN, 1, &i) && i == INT64_MIN);
    assert_false(sy_mul_i64(INT64_MIN, -1, &i));
    assert_int_equal(sy_ceil_div(0, 64), 0);
    assert_int_equal(sy_ceil_div(1, 64), 1);
    assert_int_equal(sy_ceil_div(64, 64), 1);
    assert_int_equal(sy_ceil_div(65, 64), 2);
    assert_int_equal(sy_ceil_div(INT64_MAX, 2), INT64_MAX / 2 + 1);
    assert_int_equal(sy_round_up(65, 64), 128);
    assert_int_equal(sy_min(-1, 1), -1);
    assert_int_equal(sy_max(-1, 1), 1);
}

static void blocks_are_zeroed_and_aligned_and_huge_ones_are_refused(void **state) {
    (void)state;
    static const uint64_t sizes[] = {0,
                                     1,
                                     63,
                                     64,
                                     65,
                                     4096,
                                     ((uint64_t)4 << 20) - 1,
                                     (uint64_t)4 << 20,
                                     ((uint64_t)5 << 20) + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *p;
        assert_int_equal(sy_mem_alloc(&p, sizes[i], "a test"), SY_OK);
        assert_non_null(p);
        uint64_t align = sizes[i] >= (uint64_t)4 << 20 ? (uint64_t)2 << 20 : 64;
        assert_int_equal((uintptr_t)p % align, 0);
        for (uint64_t b = 0; b < sizes[i]; b++)
            if (p[b] != 0) fail_msg("byte %llu", (unsigned long long)b);
        memset(p, 0xa5, sizes[i]);
        sy_mem_free(p, sizes[i]);
    }
    static const uint64_t huge[] = {UINT64_MAX, (uint64_t)INT64_MAX, (uint64_t)1 << 60};
    for (size_t i = 0; i < sizeof huge / sizeof huge[0]; i++) {
        void *p = &p;
        assert_int_equal(sy_mem_alloc(&p, huge[i], "the moon"), SY_ERR_MEMORY);
        assert_null(p);
        assert_non_null(strstr(sy_last_error(), "the moon"));
    }
    sy_mem_free(NULL, 100);
    assert_true(sy_mem_available() > 0);
}

static void carve(sy_arena *arena, char *p[3]) {
    p[0] = sy_arena_take(arena, 3, 1);
    p[1] = sy_arena_take(arena, 0, 8);
    p[2] = sy_arena_take(arena, 17, 8);
}

static void an_arena_measures_what_it_carves(void **state) {
    (void)state;
    sy_arena measure = {0};
    char *p[3];
    carve(&measure, p);
    assert_true(p[0] == NULL && p[1] == NULL && p[2] == NULL);
    assert_int_equal(measure.used, 64 + 0 + 192);
    void *block;
    assert_int_equal(sy_mem_alloc(&block, measure.used, "a test"), SY_OK);
    sy_arena arena = {.base = block, .size = measure.used};
    carve(&arena, p);
    assert_ptr_equal(p[0], block);
    assert_ptr_equal(p[2], (char *)block + 64);
    assert_int_equal(arena.used, measure.used);
    sy_mem_free(block, measure.used);

    /* A size beyond 64 bits stays beyond all memory, whatever is added. */
    sy_arena over = {0};
    sy_arena_take(&over, UINT64_MAX, 2);
    sy_arena_take(&over, 1, 1);
    sy_arena_take(&over, UINT64_MAX / 2, 1);
    assert_true(over.used > UINT64_MAX - 64);
}

static void bytes_are_written_for_people(void **state) {
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } table[] = {
        {0, "0 B"},
        {999, "999 B"},
        {1000, "1.0 kB"},
        {999949, "999.9 kB"},
        {999950, "1.0 MB"},
        {61200000000, "61.2 GB"},
        {1000000000000, "1.0 TB"},
        {UINT64_MAX, "18.4 EB"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        char buf[24];
        assert_string_equal(sy_format_bytes(buf, sizeof buf, table[i].bytes), table[i].text);
    }
}

/* ---- float formats ---- */

static void dtype_names_go_both_ways(void **state) {
    (void)state;
    for (int t = 0; t < SY_DTYPE_COUNT; t++) {
        sy_dtype back = SY_DTYPE_COUNT;
        assert_true(sy_dtype_from_name(sy_dtype_name((sy_dtype)t), &back));
        assert_int_equal(back, t);
        assert_true(sy_dtype_bits((sy_dtype)t) > 0);
    }
    sy_dtype t = SY_F32;
    assert_false(sy_dtype_from_name("f32", &t));
    assert_false(sy_dtype_from_name("", &t));
    assert_string_equal(sy_dtype_name(SY_DTYPE_COUNT), "?");
    assert_int_equal(sy_dtype_bits(SY_DTYPE_COUNT), 0);
}

static void f16_widens_by_its_formula_for_every_pattern(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        int exponent = (int)(h >> 10 & 0x1f), mantissa = (int)(h & 0x3ff);
        float got = sy_f32_from_f16((uint16_t)h);
        if (exponent == 31 && mantissa != 0) {
            assert_true(isnan(got));
            continue;
        }
        double want = exponent == 31  ? (double)INFINITY
                      : exponent == 0 ? ldexp(mantissa, -24)
                                      : ldexp(1024 + mantissa, exponent - 25);
        if (h & 0x8000) want = -want;
        /* Compared as bits, so that the sign of zero counts. */
        if (sy_bits_from_f32(got) != sy_bits_from_f32((float)want)) fail_msg("%04x", h);
    }
}

/* Round to nearest even from the distance to both neighbours, in double (exact here). */
static uint16_t nearest_bf16(float f) {
    uint16_t below = (uint16_t)(sy_bits_from_f32(f) >> 16), above = (uint16_t)(below + 1);
    double low = fabs((double)f - (double)sy_f32_from_bf16(below));
    /* Beyond the largest finite value the next step counts as if it were a number. */
    double up =
        (above & 0x7fff) == 0x7f80 ? ldexp(1, 128) : fabs((double)sy_f32_from_bf16(above));
    double high = up - fabs((double)f);
    if (low < high) return below;
    if (high < low) return above;
    return below % 2 == 0 ? below : above;
}

static void bf16_rounds_to_nearest_even_and_flushes_denormals(void **state) {
    (void)state;
    static const uint32_t low[] = {0, 1, 0x7fff, 0x8000, 0x8001, 0xffff, 0x4321};
    for (uint32_t high = 0; high < 0x10000; high++) {
        for (size_t i = 0; i < sizeof low / sizeof low[0]; i++) {
            uint32_t bits = high << 16 | low[i], magnitude = bits & 0x7fffffff;
            uint16_t got = sy_bf16_from_f32(sy_f32_from_bits(bits)), want;
            if (magnitude > 0x7f800000) { /* NaN: stays one, quiet, with its sign */
                if ((got & 0x7fc0) != 0x7fc0 || (got & 0x8000) != (high & 0x8000))
                    fail_msg("NaN %08x -> %04x", bits, got);
                continue;
            }
            if (magnitude < 0x00800000)
                want = (uint16_t)(high & 0x8000);
            else if (magnitude == 0x7f800000)
                want = (uint16_t)high;
            else
                want = nearest_bf16(sy_f32_from_bits(bits));
            if (got != want) fail_msg("%08x -> %04x, expected %04x", bits, got, want);
        }
    }
}

/* ---- new files ---- */

static void holds(const char *path, const char *expected) {
    char *text;
    size_t n;
    assert_int_equal(sy_read_file(path, 1000, &text, &n), SY_OK);
    assert_string_equal(text, expected);
    free(text);
}

static void write_new(const char *path, const char *text, sy_status end) {
    sy_new_file file;
    assert_int_equal(sy_new_file_open_path(path, &file), SY_OK);
    fputs(text, file.f);
    assert_int_equal(sy_new_file_close(&file, end), end);
}

static void a_new_file_is_whole_or_what_was_there_stays(void **state) {
    (void)state;
    char dir[] = "/tmp/sy_base_XXXXXX", path[64], link[64], left[64];
    sy_new_file file;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/f", dir);
    snprintf(link, sizeof link, "%s/link", dir);
    snprintf(left, sizeof left, "%s/.f.%ld", dir, (long)getpid());
    write_new(path, "one", SY_OK);
    holds(path, "one");
    write_new(path, "two", SY_ERR_IO);
    holds(path, "one");
    /* What a process of the same number left behind is no obstacle. */
    FILE *f = fopen(left, "w");
    assert_non_null(f);
    fputs("a longer leftover", f);
    fclose(f);
    write_new(path, "three", SY_OK);
    holds(path, "three");
    assert_int_equal(access(left, F_OK), -1);
    assert_int_equal(symlink("f", link), 0);
    write_new(link, "four", SY_OK);
    holds(path, "four");
    if (access("/dev/full", W_OK) == 0) { /* a device is not replaced */
        assert_int_equal(sy_new_file_open_path("/dev/full", &file), SY_OK);
        fputs("five", file.f);
        assert_int_equal(sy_new_file_close(&file, SY_OK), SY_ERR_IO);
        struct stat info;
        assert_int_equal(stat("/dev/full", &info), 0);
        assert_true(S_ISCHR(info.st_mode));
    }
    unlink(link);
    unlink(path);
    assert_int_equal(rmdir(dir), 0); /* nothing else is left */
    assert_int_equal(sy_new_file_open_path(path, &file), SY_ERR_IO);
    assert_non_null(strstr(sy_last_error(), path));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_depth_is_bounded_outside_strings_only),
        cmocka_unit_test(json_duplicate_keys_are_refused_as_decoded),
        cmocka_unit_test(json_integers_beyond_64_bits_are_read_as_reals),
        cmocka_unit_test(json_numbers_are_whole_only_if_they_fit),
        cmocka_unit_test(json_getters_keep_defaults_and_name_what_they_find),
        cmocka_unit_test(utf8_is_strict),
        cmocka_unit_test(json_files_may_begin_with_a_bom_and_must_be_regular_and_small),
        cmocka_unit_test(checked_arithmetic_tells_overflow),
        cmocka_unit_test(blocks_are_zeroed_and_aligned_and_huge_ones_are_refused),
        cmocka_unit_test(an_arena_measures_what_it_carves),
        cmocka_unit_test(bytes_are_written_for_people),
        cmocka_unit_test(dtype_names_go_both_ways),
        cmocka_unit_test(f16_widens_by_its_formula_for_every_pattern),
        cmocka_unit_test(a_new_file_is_whole_or_what_was_there_stays),
        cmocka_unit_test(bf16_rounds_to_nearest_even_and_flushes_denormals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
