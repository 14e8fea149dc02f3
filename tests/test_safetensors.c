/* The header of a safetensors file: what is accepted, and what is refused with which words.
 * Each file is built here, byte by byte. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/json.h"
#include "runtime/safetensors.h"

/* A temporary file without a name that holds the bytes. */
static FILE *file_of(const void *bytes, size_t n) {
    FILE *f = tmpfile();
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fflush(f), 0);
    return f;
}

static sy_status read_bytes(const void *bytes, size_t n, sy_safetensors **out) {
    FILE *f = file_of(bytes, n);
    sy_status st = sy_safetensors_read(fileno(f), "x.safetensors", out);
    fclose(f);
    return st;
}

/* Length, header, and n_data bytes 0, 1, 2, ... behind it. */
static char *
build(uint64_t length, const char *header, size_t n_header, size_t n_data, size_t *size) {
    *size = 8 + n_header + n_data;
    char *bytes = malloc(*size);
    assert_non_null(bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)(length >> (8 * i));
    memcpy(bytes + 8, header, n_header);
    for (size_t i = 0; i < n_data; i++)
        bytes[8 + n_header + i] = (char)i;
    return bytes;
}

static sy_status
read_header(const char *header, size_t n_header, size_t n_data, sy_safetensors **out) {
    size_t size;
    char *bytes = build(n_header, header, n_header, n_data, &size);
    sy_status st = read_bytes(bytes, size, out);
    free(bytes);
    return st;
}

typedef struct header_case {
    const char *header;
    size_t n_header;
    size_t n_data;
    const char *refusal; /* part of the error text */
} header_case;

#define H(text) text, sizeof(text) - 1
/* A header with one tensor "a", and one with two. */
#define ONE(entry) H("{\"a\":{" entry "}}")
#define TWO(a, b) H("{\"a\":{" a "},\"b\":{" b "}}")
#define U8(shape, offsets) "\"dtype\":\"U8\",\"shape\":" shape ",\"data_offsets\":" offsets
#define F32(shape, offsets) "\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":" offsets
#define TENSOR(name) "\"" name "\":{" U8("[1]", "[0,1]") "}"

static void expect_refused(const header_case *cases, size_t n) {
    for (size_t i = 0; i < n; i++) {
        sy_safetensors *table = NULL;
        sy_status st = read_header(cases[i].header, cases[i].n_header, cases[i].n_data, &table);
        const char *text = sy_last_error();
        if (st == SY_OK || strstr(text, cases[i].refusal) == NULL ||
            strncmp(text, "x.safetensors: ", 15) != 0)
            fail_msg("case %zu %.120s: expected \"x.safetensors: ...%s\", found %s \"%s\"", i,
                     cases[i].header, cases[i].refusal, sy_status_name(st), text);
        assert_null(table);
    }
}

static void expect_accepted(const header_case *cases, size_t n, int n_tensors) {
    for (size_t i = 0; i < n; i++) {
        sy_safetensors *table = NULL;
        if (read_header(cases[i].header, cases[i].n_header, cases[i].n_data, &table) != SY_OK)
            fail_msg("case %zu %.120s: expected success, found \"%s\"", i, cases[i].header,
                     sy_last_error());
        assert_int_equal(table->n_tensors, n_tensors);
        sy_safetensors_destroy(table);
    }
}
#define COUNT(array) (sizeof(array) / sizeof *(array))

static void good_file_gives_names_shapes_and_offsets(void **state) {
    (void)state;
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"w\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
        "\"a.b\":{\"data_offsets\":[0,4],\"shape\":[],\"dtype\":\"F32\"}}  \n\t\r ";
    size_t n = sizeof header - 1;
    sy_safetensors *table = NULL;
    assert_int_equal(read_header(header, n, 16, &table), SY_OK);
    assert_int_equal(table->n_tensors, 2);
    assert_int_equal(table->file_bytes, 8 + n + 16);
    const sy_tensor_entry *a = &table->tensor[0], *w = &table->tensor[1];
    assert_string_equal(a->name, "a.b");
    assert_int_equal(a->dtype, SY_F32);
    assert_int_equal(a->rank, 0);
    assert_int_equal(a->offset, 8 + n);
    assert_int_equal(a->bytes, 4);
    assert_string_equal(w->name, "w");
    assert_int_equal(w->rank, 2);
    assert_int_equal(w->shape[0], 2);
    assert_int_equal(w->shape[1], 3);
    assert_int_equal(w->offset, 8 + n + 4);
    assert_int_equal(w->bytes, 12);
    char buf[SY_SHAPE_TEXT_MAX];
    assert_string_equal(sy_tensor_describe(w, buf), "BF16 [2, 3]");
    sy_safetensors_destroy(table);
}

static void file_without_room_for_the_header_is_refused(void **state) {
    (void)state;
    static const struct {
        uint64_t length;
        const char *refusal;
    } cases[] = {{0, "found 0 bytes"},
                 {100, "expected 100 bytes, found 2"},
                 {3, "expected 3 bytes, found 2"},
                 {(uint64_t)1 << 63, "the file names 9223372036854775808"},
                 {UINT64_MAX, "the file names 18446744073709551615"},
                 {100000001, "the file names 100000001"},
                 {SY_JSON_MAX_HEADER + 1, "expected at most 33554432"}};
    sy_safetensors *table = NULL;
    assert_int_equal(read_bytes("", 0, &table), SY_ERR_FORMAT);
    assert_non_null(strstr(sy_last_error(), "at least 8 bytes"));
    assert_int_equal(read_bytes("\2\0\0\0\0\0\0", 7, &table), SY_ERR_FORMAT);
    assert_non_null(strstr(sy_last_error(), "found 7"));
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t size;
        char *bytes = build(cases[i].length, "{}", 2, 0, &size);
        assert_int_equal(read_bytes(bytes, size, &table), SY_ERR_FORMAT);
        if (strstr(sy_last_error(), cases[i].refusal) == NULL)
            fail_msg("expected \"%s\", found \"%s\"", cases[i].refusal, sy_last_error());
        free(bytes);
    }
    int pipe_end[2];
    assert_int_equal(pipe(pipe_end), 0);
    assert_int_equal(sy_safetensors_read(pipe_end[0], "p", &table), SY_ERR_IO);
    assert_non_null(strstr(sy_last_error(), "p: expected a regular file"));
    close(pipe_end[0]);
    close(pipe_end[1]);
}

static void empty_object_is_a_file_without_tensors(void **state) {
    (void)state;
    static const header_case good[] = {{H("{}"), 0, NULL},
                                       {H("{}   "), 0, NULL},
                                       {H("{} \n\t\r"), 0, NULL},
                                       {H("{ }"), 0, NULL},
                                       {H("{\"__metadata__\":{}}"), 0, NULL},
                                       {H("{\"__metadata__\":null}"), 0, NULL}};
    static const header_case bad[] = {
        {H("{}"), 1, "end at byte 0 of the data, expected 1"},
        {H("{}\0\0"), 0, "found byte 0x00"},
        {H("{}x"), 0, "found 'x'"},
        {H("{}{}"), 0, "found an object"},
        {H(" {}"), 0, "expected '{' as its first byte, found 0x20"},
        {H("\xef\xbb\xbf{}"), 0, "found 0xef"},
        {H("[]"), 0, "found 0x5b"},
        {H("null"), 0, "expected '{'"},
        {H("\"x\""), 0, "expected '{'"},
        {H("{"), 0, "found the end"},
        {H("{\"a\""), 0, "expected ':'"},
        {H("{,}"), 0, "expected a string"},
        {H("{\"a"), 0, "at the end of a string"}};
    expect_accepted(good, COUNT(good), 0);
    expect_refused(bad, COUNT(bad));
}

static void bad_name_is_refused(void **state) {
    (void)state;
    static char long_name[SY_TENSOR_NAME_MAX + 200];
    static const header_case bad[] = {
        {H("{" TENSOR("\xff") "}"), 1, "expected UTF-8"},
        {H("{" TENSOR("\xc0\xaf") "}"), 1, "expected UTF-8"},
        {H("{" TENSOR("\xed\xa0\x80") "}"), 1, "expected UTF-8"},
        {H("{" TENSOR("\\ud800") "}"), 1, "surrogates"},
        {H("{" TENSOR("\\udc00\\ud800") "}"), 1, "surrogates"},
        {H("{" TENSOR("\\ud800\\u0041") "}"), 1, "surrogates"},
        {H("{" TENSOR("\\u00g0") "}"), 1, "four hexadecimal digits"},
        {H("{" TENSOR("\\x") "}"), 1, "an escape sequence"},
        {H("{" TENSOR("a\\u0000b") "}"), 1, "NUL or control"},
        {H("{" TENSOR("a\\nb") "}"), 1, "NUL or control"},
        {H("{" TENSOR("a\x7f") "}"), 1, "NUL or control"},
        {H("{" TENSOR("\\u009b0m") "}"), 1, "NUL or control"},
        {H("{" TENSOR("a\1") "}"), 1, "control character within a string"},
        {H("{" TENSOR("a\0b") "}"), 1, "control character within a string"},
        {H("{" TENSOR("") "}"), 1, "name is empty"}};
    static const header_case good[] = {{H("{" TENSOR("\\ud83d\\ude00") "}"), 1, NULL},
                                       {H("{" TENSOR("../../etc/passwd") "}"), 1, NULL},
                                       {H("{" TENSOR("\\u00e9\\\\\\\"\\/") "}"), 1, NULL}};
    expect_refused(bad, COUNT(bad));
    expect_accepted(good, COUNT(good), 1);

    for (int n = SY_TENSOR_NAME_MAX; n <= SY_TENSOR_NAME_MAX + 1; n++) {
        int size =
            snprintf(long_name, sizeof long_name, "{\"%0*d\":{" U8("[1]", "[0,1]") "}}", n, 0);
        header_case edge = {long_name, (size_t)size, 1, "expected a name of at most 512"};
        if (n <= SY_TENSOR_NAME_MAX)
            expect_accepted(&edge, 1, 1);
        else
            expect_refused(&edge, 1);
    }
}

static void decoded_name_is_what_is_kept(void **state) {
    (void)state;
    static const char header[] = "{" TENSOR("\\u0061\\ud83d\\ude00\\t") "}";
    static const char clean[] = "{" TENSOR("\\u0061\\ud83d\\ude00\\u00E9") "}";
    sy_safetensors *table = NULL;
    assert_int_equal(read_header(header, sizeof header - 1, 1, &table), SY_ERR_FORMAT);
    assert_int_equal(read_header(clean, sizeof clean - 1, 1, &table), SY_OK);
    assert_string_equal(table->tensor[0].name, "a\xf0\x9f\x98\x80\xc3\xa9");
    sy_safetensors_destroy(table);
}

static void name_that_occurs_twice_is_refused(void **state) {
    (void)state;
    static const header_case bad[] = {
        {H("{" TENSOR("a") "," TENSOR("a") "}"), 1, "\"a\" occurs twice"},
        {H("{" TENSOR("a") ",\"a\":{\"dtype\":\"I8\",\"shape\":[1],\"data_offsets\":[0,1]}}"),
         1, "\"a\" occurs twice"},
        {H("{" TENSOR("a") ",\"a\":{" U8("[1]", "[1,2]") "}}"), 2, "\"a\" occurs twice"},
        {H("{" TENSOR("a") "," TENSOR("\\u0061") "}"), 1, "\"a\" occurs twice"},
        {ONE("\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]"), 1,
         "tensor \"a\": \"dtype\" occurs twice"},
        {ONE("\"dtype\":\"U8\",\"shape\":[1],\"\\u0073hape\":[1],\"data_offsets\":[0,1]"), 1,
         "\"shape\" occurs twice"},
        {H("{\"__metadata__\":{},\"__metadata__\":{}}"), 0, "\"__metadata__\" occurs twice"},
        {H("{\"__metadata__\":{\"k\":\"1\",\"j\":\"\",\"k\":\"2\"}}"), 0,
         "\"k\" occurs twice"}};
    expect_refused(bad, COUNT(bad));
}

static void metadata_other_than_strings_is_refused(void **state) {
    (void)state;
    static const header_case bad[] = {
        {H("{\"__metadata__\":{\"k\":1}}"), 0,
         "__metadata__: header byte 21: expected a string"},
        {H("{\"__metadata__\":{\"k\":null}}"), 0, "expected a string"},
        {H("{\"__metadata__\":{\"k\":{}}}"), 0, "expected a string, found an object"},
        {H("{\"__metadata__\":[\"k\",\"v\"]}"), 0, "expected an object, found an array"},
        {H("{\"__metadata__\":7}"), 0, "expected an object, found a number"},
        {H("{\"__metadata__\":nul}"), 0, "expected a value"},
        /* A writer that calls a tensor so makes a file that nobody can read. */
        {H("{" TENSOR("__metadata__") "}"), 1, "found an array"}};
    static const header_case good[] = {
        {H("{" TENSOR("a") ",\"__metadata__\":{\"k\":\"\\u0000 v\"}}"), 1, NULL}};
    expect_refused(bad, COUNT(bad));
    expect_accepted(good, COUNT(good), 1);
}

static void incomplete_or_foreign_entry_is_refused(void **state) {
    (void)state;
    static const header_case bad[] = {
        {ONE("\"shape\":[1],\"data_offsets\":[0,1]"), 1, "tensor \"a\": expected \"dtype\""},
        {ONE("\"dtype\":\"U8\",\"data_offsets\":[0,1]"), 1, "expected \"shape\""},
        {ONE("\"dtype\":\"U8\",\"shape\":[1]"), 1, "expected \"data_offsets\""},
        {H("{\"a\":null}"), 0, "expected an object"},
        {H("{\"a\":[\"U8\",[1],[0,1]]}"), 1, "expected an object, found an array"},
        {ONE("\"dtype\":\"F7\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "found \"F7\""},
        {ONE("\"dtype\":\"u8\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "found \"u8\""},
        {ONE("\"dtype\":\"I4\",\"shape\":[2],\"data_offsets\":[0,1]"), 1, "found \"I4\""},
        {ONE("\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,1]"), 1, "expected a string"},
        {ONE("\"dtype\":{\"U8\":null},\"shape\":[1],\"data_offsets\":[0,1]"), 1,
         "found an object"},
        {ONE("\"dtype\":\"U8\\u0000\",\"shape\":[1],\"data_offsets\":[0,1]"), 1, "dtype"},
        {ONE("\"dtype\":\"U8\",\"shape\":7,\"data_offsets\":[0,1]"), 1, "expected an array"},
        {ONE(U8("[1]", "[0,1]") ","), 1, "expected a string"},
        {ONE(U8("[1,]", "[0,1]")), 1, "unsigned integer"},
        {ONE("\"x\":[1,],\" y\":1," U8("[1]", "[0,1]")), 1, "expected a value"},
        {ONE("\"x\":{\"k\" 1}," U8("[1]", "[0,1]")), 1, "expected ':'"},
        {ONE("\"x\":01," U8("[1]", "[0,1]")), 1, "malformed number"},
        {ONE("\"x\":1.," U8("[1]", "[0,1]")), 1, "malformed number"},
        {ONE("\"x\":1e," U8("[1]", "[0,1]")), 1, "malformed number"},
        {ONE("\"x\":NaN," U8("[1]", "[0,1]")), 1, "expected a value"},
        {ONE("\"x\":[[}]," U8("[1]", "[0,1]")), 1, "found '}'"}};
    static const header_case good[] = {
        {ONE("\"x\":{\"y\":[1,-2.5e+7,true,false,null,\"\\u0000\",{}]}," U8("[1]", "[0,1]")), 1,
         NULL},
        {ONE("\"x\":[],\"x\":{}," U8("[1]", "[0,1]")), 1, NULL}};
    expect_refused(bad, COUNT(bad));
    expect_accepted(good, COUNT(good), 1);
}

/* An ignored value nested n deep. */
static sy_status read_nested(int n) {
    char header[1024], brackets[402] = "";
    sy_safetensors *table = NULL;
    assert_true(n <= 200);
    memset(brackets, '[', (size_t)n);
    memset(brackets + n, ']', (size_t)n);
    int size =
        snprintf(header, sizeof header, "{\"a\":{\"x\":%s,%s}}", brackets, U8("[1]", "[0,1]"));
    sy_status st = read_header(header, (size_t)size, 1, &table);
    sy_safetensors_destroy(table);
    return st;
}

static void deep_nesting_is_refused(void **state) {
    (void)state;
    assert_int_equal(read_nested(SY_JSON_MAX_DEPTH), SY_OK);
    assert_int_equal(read_nested(SY_JSON_MAX_DEPTH + 1), SY_ERR_FORMAT);
    assert_non_null(strstr(sy_last_error(), "nested deeper than 32"));
    assert_int_equal(read_nested(200), SY_ERR_FORMAT);
}

static void number_that_is_not_written_as_unsigned_integer_is_refused(void **state) {
    (void)state;
    static const header_case bad[] = {
        {ONE(U8("[1.0]", "[0,1]")), 1,
         "tensor \"a\": header byte 28: expected an unsigned integer "
         "written as one, found a real number"},
        {ONE(U8("[1e0]", "[0,1]")), 1, "found a real number"},
        {ONE(U8("[1E0]", "[0,1]")), 1, "found a real number"},
        {ONE(U8("[-1]", "[0,1]")), 1, "unsigned integer"},
        {ONE(U8("[-0]", "[0,0]")), 0, "unsigned integer"},
        {ONE(U8("[01]", "[0,1]")), 1, "a leading zero"},
        {ONE(U8("[00]", "[0,0]")), 0, "a leading zero"},
        {ONE(U8("[+1]", "[0,1]")), 1, "found '+'"},
        {ONE(U8("[\"1\"]", "[0,1]")), 1, "found a string"},
        {ONE(U8("[null]", "[0,1]")), 1, "found 'n'"},
        {ONE(U8("[true]", "[0,1]")), 1, "found 't'"},
        {ONE(U8("[18446744073709551616]", "[0,0]")), 0, "at most 2^64-1, found a larger one"},
        {ONE(U8("[100000000000000000000000]", "[0,0]")), 0, "at most 2^64-1"},
        {ONE(U8("[18446744073709551615]", "[0,0]")), 0, "found 18446744073709551615"},
        {ONE(U8("[9223372036854775808]", "[0,0]")), 0, "at most 2^63-1"},
        {ONE(U8("[0]", "[0,0.0]")), 0, "found a real number"},
        {ONE(U8("[0]", "[-0,0]")), 0, "unsigned integer"},
        {ONE(U8("[1]", "[0]")), 1, "expected two numbers, found 1"},
        {ONE(U8("[1]", "[0,1,1]")), 1, "expected two numbers, found more"},
        {ONE(U8("[1]", "[1,0]")), 1, "expected an end of at least 1, found 0"},
        {ONE(U8("[1]", "[18446744073709551615,0]")), 1, "expected an end of at least"},
        {ONE(U8("[1]", "[0,18446744073709551615]")), 1, "within the 1 bytes of data"}};
    expect_refused(bad, COUNT(bad));
}

static void size_that_overflows_is_refused(void **state) {
    (void)state;
    static const header_case bad[] = {
        {ONE(U8("[9223372036854775807]", "[0,0]")), 0,
         "U8 [9223372036854775807]: the size overflows"},
        {ONE(U8("[4294967296,4294967296]", "[0,0]")), 0, "the size overflows"},
        {ONE(U8("[4294967296,4294967296,0]", "[0,0]")), 0, "the size overflows"},
        {ONE("\"dtype\":\"F64\",\"shape\":[1152921504606846976],\"data_offsets\":[0,0]"), 0,
         "the size overflows"},
        {ONE(U8("[1,1,1,1,1,1,1,1,1]", "[0,1]")), 1, "at most 8 dimensions"},
        {ONE(F32("[]", "[0,0]")), 0,
         "F32 []: expected data_offsets that span 4 bytes, found 0"},
        {ONE(F32("[3]", "[0,8]")), 8,
         "F32 [3]: expected data_offsets that span 12 bytes, found 8"},
        {ONE(U8("[2]", "[0,1]")), 1, "span 2 bytes, found 1"}};
    /* The product is taken from the left, as the reference does: a leading 0 ends the growth. */
    static const header_case good[] = {{ONE(U8("[0,4294967296,4294967296]", "[0,0]")), 0, NULL},
                                       {ONE(F32("[]", "[0,4]")), 4, NULL},
                                       {ONE(U8("[1,1,1,1,1,1,1,1]", "[0,1]")), 1, NULL}};
    expect_refused(bad, COUNT(bad));
    expect_accepted(good, COUNT(good), 1);
}

static void rank_5000_is_refused(void **state) {
    (void)state;
    size_t capacity = 12000;
    char *header = malloc(capacity);
    assert_non_null(header);
    int n = snprintf(header, capacity, "{\"a\":{\"dtype\":\"U8\",\"shape\":[1");
    for (int i = 1; i < 5000; i++)
        n += snprintf(header + n, capacity - (size_t)n, ",1");
    n += snprintf(header + n, capacity - (size_t)n, "],\"data_offsets\":[0,1]}}");
    header_case c = {header, (size_t)n, 1, "at most 8 dimensions"};
    expect_refused(&c, 1);
    free(header);
}

static void dtype_below_a_byte_is_refused_as_unsupported(void **state) {
    (void)state;
    static const struct {
        const char *dtype, *shape;
        int bytes;
    } cases[] = {{"F4", "[3]", 0},
                 {"F4", "[2,3]", 3},
                 {"F6_E2M3", "[3]", 0},
                 {"F6_E2M3", "[4]", 3},
                 {"F6_E3M2", "[4]", 3}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        char header[200];
        sy_safetensors *table = NULL;
        int n = snprintf(header, sizeof header,
                         "{\"a\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[0,%d]}}",
                         cases[i].dtype, cases[i].shape, cases[i].bytes);
        assert_int_equal(read_header(header, (size_t)n, (size_t)cases[i].bytes, &table),
                         SY_ERR_UNSUPPORTED);
        assert_non_null(strstr(sy_last_error(), "is not supported"));
    }
}

static void every_dtype_of_whole_bytes_is_read(void **state) {
    (void)state;
    for (int t = 0; t < SY_DTYPE_COUNT; t++) {
        char header[200];
        int bits = sy_dtype_bits((sy_dtype)t);
        if (bits < 8) continue;
        sy_safetensors *table = NULL;
        int n = snprintf(header, sizeof header,
                         "{\"a\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%d]}}",
                         sy_dtype_name((sy_dtype)t), 3 * bits / 8);
        assert_int_equal(read_header(header, (size_t)n, (size_t)(3 * bits / 8), &table), SY_OK);
        assert_int_equal(table->tensor[0].dtype, t);
        assert_int_equal(table->tensor[0].bytes, 3 * bits / 8);
        sy_safetensors_destroy(table);
    }
}

static void ranges_must_tile_the_data(void **state) {
    (void)state;
    static const header_case bad[] = {
        {ONE(U8("[1]", "[1,2]")), 2,
         "\"a\": expected to begin at byte 0 of the data, where the header ends, found 1 (a "
         "hole)"},
        {TWO(U8("[1]", "[0,1]"), U8("[1]", "[2,3]")), 3,
         "\"b\": expected to begin at byte 1 of the data, where \"a\" ends, found 2 (a hole)"},
        {TWO(U8("[2]", "[0,2]"), U8("[2]", "[1,3]")), 3, "found 1 (an overlap)"},
        {TWO(U8("[2]", "[0,2]"), U8("[2]", "[0,2]")), 2, "found 0 (an overlap)"},
        {TWO(U8("[3]", "[0,3]"), U8("[1]", "[1,2]")), 3, "an overlap"},
        {TWO(U8("[1]", "[0,1]"), U8("[0,3]", "[7,7]")), 1, "within the 1 bytes"},
        {TWO(U8("[8]", "[0,8]"), U8("[0,3]", "[7,7]")), 8, "found 7 (an overlap)"},
        {ONE(U8("[4]", "[0,4]")), 3, "within the 3 bytes of data in the file, found 4"},
        {ONE(U8("[4]", "[0,4]")), 5, "(last: \"a\") end at byte 4 of the data, expected 5"}};
    static const header_case good[] = {{TWO(U8("[0,3]", "[0,0]"), U8("[1]", "[0,1]")), 1, NULL},
                                       {TWO(U8("[1]", "[0,1]"), U8("[0,3]", "[0,0]")), 1, NULL},
                                       {TWO(U8("[0,3]", "[1,1]"), U8("[1]", "[0,1]")), 1, NULL},
                                       {TWO(U8("[0]", "[0,0]"), U8("[3,0]", "[0,0]")), 0, NULL},
                                       {TWO(U8("[2]", "[1,3]"), U8("[1]", "[0,1]")), 3, NULL}};
    expect_refused(bad, COUNT(bad));
    expect_accepted(good, COUNT(good), 2);
}

static void unaligned_tensor_has_its_true_offset(void **state) {
    (void)state;
    static const char header[] =
        "{\"a\":{" U8("[1]", "[0,1]") "},\"b\":{" F32("[1]", "[1,5]") "}}";
    sy_safetensors *table = NULL;
    assert_int_equal(read_header(header, sizeof header - 1, 5, &table), SY_OK);
    assert_int_equal(table->tensor[1].offset, 8 + sizeof header - 1 + 1);
    assert_int_equal(table->tensor[1].bytes, 4);
    sy_safetensors_destroy(table);
}

/* Peak memory and processor time of one read, measured in a process of its own. */
typedef struct cost {
    double seconds, megabytes;
    int status;
} cost;

static double processor_seconds(const struct rusage *u) {
    return (double)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) +
           (double)(u->ru_utime.tv_usec + u->ru_stime.tv_usec) * 1e-6;
}

static cost measure(FILE *file) {
    int channel[2];
    cost result = {0, 0, -1};
    assert_int_equal(pipe(channel), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct rusage before, after;
        sy_safetensors *table = NULL;
        getrusage(RUSAGE_SELF, &before);
        result.status = (int)sy_safetensors_read(fileno(file), "big", &table);
        getrusage(RUSAGE_SELF, &after);
        result.seconds = processor_seconds(&after) - processor_seconds(&before);
        result.megabytes = (double)(after.ru_maxrss - before.ru_maxrss) / 1e3;
        sy_safetensors_destroy(table);
        ssize_t written = write(channel[1], &result, sizeof result);
        _exit(written == sizeof result ? 0 : 1);
    }
    close(channel[1]);
    assert_int_equal(read(channel[0], &result, sizeof result), sizeof result);
    close(channel[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    return result;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define INSTRUMENTED 1
#elif defined(__has_feature)
#define INSTRUMENTED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define INSTRUMENTED 0
#endif

/* A header that is written into a file piece by piece: a large buffer here would leave memory
 * behind that the measured process then reuses unseen. */
static FILE *begin_header(void) {
    FILE *f = tmpfile();
    assert_non_null(f);
    assert_int_equal(fwrite("\0\0\0\0\0\0\0\0", 1, 8, f), 8);
    return f;
}

static long end_header(FILE *f) {
    long n = ftell(f) - 8;
    rewind(f);
    for (int i = 0; i < 8; i++)
        fputc((int)((uint64_t)n >> (8 * i) & 0xff), f);
    assert_int_equal(fflush(f), 0);
    return n;
}

/* The bound that a hostile file must not break: 0.2 s + 60 ms and 12 MB for each MB of header.
 * Instrumented builds are slower and larger by design, and only check the outcome. */
static void check_cost(const char *title, FILE *f, sy_status status) {
    double mb = (double)end_header(f) / 1e6;
    cost c = measure(f);
    print_message("%s: header %.1f MB, %.3f s, %.1f MB of memory\n", title, mb, c.seconds,
                  c.megabytes);
    assert_int_equal(c.status, status);
#if !INSTRUMENTED
    if (c.seconds > 0.2 + 0.06 * mb) fail_msg("%s: took %.3f s", title, c.seconds);
    if (c.megabytes > 12 * mb + 1) fail_msg("%s: took %.1f MB", title, c.megabytes);
#endif
}

/* 138240 names as of a large model, with empty tensors, padded to 19.2 MB. */
static FILE *write_many_names(void) {
    static const char *const part[] = {"gate", "up", "down"};
    FILE *f = begin_header();
    for (int i = 0; i < 138240; i++)
        fprintf(
            f,
            "%c\"model.layers.%d.mlp.experts.%d.%s_proj.weight_packed\":{\"dtype\":\"BF16\","
            "\"shape\":[7168,0],\"data_offsets\":[0,0]}",
            i == 0 ? '{' : ',', i / 1152, i % 1152 / 3, part[i % 3]);
    fputc('}', f);
    fprintf(f, "%*s", (int)(19200000 + 8 - ftell(f)), "");
    return f;
}

static void header_of_138240_names_is_quick_and_small(void **state) {
    (void)state;
    FILE *f = write_many_names();
    check_cost("138240 names", f, SY_OK);
    fseek(f, -1, SEEK_END);
    fputc('x', f);
    check_cost("138240 names, refused at the last byte", f, SY_ERR_FORMAT);
    fclose(f);
}

static void header_of_100000_empty_tensors_is_quick_and_small(void **state) {
    (void)state;
    enum { N = 100000 };
    FILE *f = begin_header();
    for (int i = 0; i < N; i++)
        fprintf(f, "%c\"%d\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}",
                i == 0 ? '{' : ',', (int)((int64_t)i * 7919 % N));
    fputc('}', f);
    check_cost("100000 empty tensors", f, SY_OK);
    fclose(f);
}

/* Metadata of many tiny pairs, and an ignored key that holds many tiny arrays. */
static void hostile_fillers_are_quick_and_small(void **state) {
    (void)state;
    FILE *f = begin_header();
    fprintf(f, "{\"__metadata__\":{\"\":\"\"");
    for (int i = 0; i < 1600000; i++)
        fprintf(f, ",\"%x\":\"\"", i);
    fprintf(f, "}}");
    check_cost("tiny metadata", f, SY_OK);
    fclose(f);
    f = begin_header();
    fprintf(f, "{\"a\":{\"x\":[[]");
    for (int i = 0; i < 6000000; i++)
        fputs(",[]", f);
    fprintf(f, "],%s}}", U8("[0]", "[0,0]"));
    check_cost("tiny arrays", f, SY_OK);
    fclose(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_file_gives_names_shapes_and_offsets),
        cmocka_unit_test(file_without_room_for_the_header_is_refused),
        cmocka_unit_test(empty_object_is_a_file_without_tensors),
        cmocka_unit_test(bad_name_is_refused),
        cmocka_unit_test(decoded_name_is_what_is_kept),
        cmocka_unit_test(name_that_occurs_twice_is_refused),
        cmocka_unit_test(metadata_other_than_strings_is_refused),
        cmocka_unit_test(incomplete_or_foreign_entry_is_refused),
        cmocka_unit_test(deep_nesting_is_refused),
        cmocka_unit_test(number_that_is_not_written_as_unsigned_integer_is_refused),
        cmocka_unit_test(size_that_overflows_is_refused),
        cmocka_unit_test(rank_5000_is_refused),
        cmocka_unit_test(dtype_below_a_byte_is_refused_as_unsupported),
        cmocka_unit_test(every_dtype_of_whole_bytes_is_read),
        cmocka_unit_test(ranges_must_tile_the_data),
        cmocka_unit_test(unaligned_tensor_has_its_true_offset),
        cmocka_unit_test(header_of_138240_names_is_quick_and_small),
        cmocka_unit_test(header_of_100000_empty_tensors_is_quick_and_small),
        cmocka_unit_test(hostile_fillers_are_quick_and_small)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
