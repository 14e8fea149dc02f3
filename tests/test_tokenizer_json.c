/* Broken and hostile tokenizer.json files are refused with a text that names the fault; and what
 * is read beside them. */
#include "tests/tokenizer_cases.h"

static const char *const skeleton =
    "{\"version\":\"1.0\",\"added_tokens\":[],\"normalizer\":null,"
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},"
    "\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}";

#define SPLIT(pattern)                                                                         \
    "{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\","        \
    "\"behavior\":\"Isolated\",\"pattern\":" pattern "},{\"type\":\"ByteLevel\"}]}}"
#define METASPACE(members) "{\"pre_tokenizer\":{\"type\":\"Metaspace\"" members "}}"
#define NORMALIZER(members) "{\"normalizer\":{\"type\":" members "}}"
#define DECODERS(list) "{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[" list "]}}"
#define REPLACE(from, to)                                                                      \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"" from "\"},\"content\":\"" to "\"}"
#define STRIP(members) "{\"type\":\"Fuse\"},{\"type\":\"Strip\"," members "}"
#define LONG16(x) x x x x x x x x x x x x x x x x
#define LONG(x) LONG16(x x x x) x
#define ADDED(list) "{\"added_tokens\":[" list "]}"
#define TEMPLATE(single, specials)                                                             \
    "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":" single                  \
    ",\"special_tokens\":" specials "}}"

/* Members that replace those of the skeleton, and a part of the message that must come. */
static const struct {
    const char *change, *message;
} hostile[] = {
    {"{\"pre_tokenizer\":{\"type\":\"Whitespace\"}}",
     "pre_tokenizer type \"Whitespace\" is not implemented"},
    {"{\"pre_tokenizer\":null}", "decoder: expected ByteLevel where the pre_tokenizer has it"},
    {"{\"pre_tokenizer\":7}", "expected an object"},
    {"{\"pre_tokenizer\":{\"type\":\"Sequence\"}}", "expected an array"},
    {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[]}}", "only there"},
    {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
     "{\"type\":\"Digits\"}]}}",
     "after ByteLevel"},
    {"{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"use_regex\":1}}", "expected true or false"},
    {SPLIT("{\"Regex\":\"(a\"}"), "regular expression"},
    {SPLIT("{\"Regex\":\"\\\\w+\"}"), "\\w"},
    {SPLIT("{\"Regex\":\"a**\"}"), "regular expression"},
    {SPLIT("{\"Glob\":\"a\"}"), "pattern"},
    {SPLIT("{\"Regex\":\"a\",\"String\":\"a\"}"), "pattern"},
    {SPLIT("\"a\""), "pattern"},
    {SPLIT("{\"Regex\":\"(((a{999}){999}){999}){999}\"}"), "regular expression"},
    {"{\"normalizer\":{\"type\":\"Lowercase\"}}", "normalizer type \"Lowercase\""},
    {"{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFKC\"}]}}", "NFKC"},
    {"{\"normalizer\":[]}", "normalizer"},
    {"{\"post_processor\":{\"type\":\"BertProcessing\"}}", "BertProcessing"},
    {TEMPLATE("[]", "{}"), "lacks the Sequence"},
    {TEMPLATE("[{\"Sequence\":{\"id\":\"B\"}}]", "{}"), "single"},
    {TEMPLATE("[{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}]", "{}"),
     "no ids for \"x\""},
    {TEMPLATE("[{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}]",
              "{\"x\":{\"ids\":[4294967296]}}"),
     "expected ids"},
    {"{\"decoder\":null}", "decoder"},
    {"{\"decoder\":{\"type\":\"WordPiece\"}}", "decoder type \"WordPiece\""},
    {"{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[]}}", "decoder: expected ByteLevel"},
    {METASPACE(""), "Metaspace: \"replacement\": expected a string of one character"},
    {METASPACE(",\"replacement\":\"__\""), "one character"},
    {METASPACE(",\"replacement\":\"\\u0000\""), "one character"},
    {METASPACE(",\"replacement\":\"_\",\"prepend_scheme\":\"last\""), "\"last\" is not known"},
    {METASPACE(
         ",\"replacement\":\"_\",\"prepend_scheme\":\"first\",\"add_prefix_space\":false"),
     "contradicts"},
    {"{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"_\"},\"pre_tokenizer\":"
     "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\"}}",
     "\"first\" is not implemented behind"},
    {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
     "{\"type\":\"Metaspace\",\"replacement\":\"_\"},"
     "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"first\"}]}}",
     "\"first\" is not implemented behind"},
    {NORMALIZER("\"Replace\",\"pattern\":{\"Regex\":\"x*\"},\"content\":\"a\""),
     "may match nothing"},
    {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"x\"},\"content\":\"\"},"
     "\"added_tokens\":[{\"id\":3,\"content\":\"xx\"}]}",
     "\"xx\": the normalizer leaves nothing of it"},
    {SPLIT("{\"String\":\"\"}"), "not empty"},
    {NORMALIZER("\"Prepend\""), "Prepend: \"prepend\": expected a string, found nothing"},
    {NORMALIZER("\"Prepend\",\"prepend\":\"" LONG("a") "\""), "65 bytes; at most 64"},
    {NORMALIZER("\"Replace\",\"content\":\"a\""), "Replace: \"pattern\""},
    {NORMALIZER("\"Replace\",\"pattern\":{\"String\":\"a\"}"), "\"content\": expected"},
    {NORMALIZER("\"Replace\",\"pattern\":{\"Regex\":\"\\\\w\"},\"content\":\"a\""), "\\w"},
    {NORMALIZER(
         "\"Sequence\",\"normalizers\":[" LONG16("{\"type\":\"NFC\"},") "{\"type\":\"NFC\"}]"),
     "more than 16 components"},
    {DECODERS("{\"type\":\"ByteLevel\"},{\"type\":\"Fuse\"}"), "Fuse at this place"},
    {DECODERS("{\"type\":\"Fuse\"},{\"type\":\"ByteFallback\"}"), "ByteFallback at this place"},
    {DECODERS("{\"type\":\"ByteFallback\"}," REPLACE("a", "b")), "Replace at this place"},
    {DECODERS("{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}"),
     "Strip at this place"},
    {DECODERS(STRIP("\"content\":\" \",\"start\":1,\"stop\":1")), "spaces at the start"},
    {DECODERS(STRIP("\"content\":\"x\",\"start\":1,\"stop\":0")), "spaces at the start"},
    {DECODERS(STRIP("\"content\":\" \",\"start\":-1,\"stop\":0")), "start"},
    {DECODERS("{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"},\"content\":\"\"}"),
     "\"Regex\" is not implemented"},
    {DECODERS(REPLACE("", "b")), "not empty"},
    {DECODERS(LONG16(REPLACE("a", "b") ",") REPLACE("a", "b")), "Replace at this place"},
    {"{\"version\":\"2.0\"}", "version"},
    {"{\"verzion\":\"1.0\"}", "unknown key \"verzion\""},
    {"{\"added_tokens\":{}}", "added_tokens"},
    {ADDED("{\"id\":9,\"content\":\"x\"}"), "its id would be 3"},
    {ADDED("{\"id\":1,\"content\":\"a\"}"), "its id would be 0"},
    {ADDED("{\"id\":3,\"content\":\"x\"},{\"id\":3,\"content\":\"x\"}"), "twice"},
    {ADDED("{\"id\":3}"), "content"},
    {ADDED("{\"id\":-1,\"content\":\"x\"}"), "found -1"},
    {ADDED("{\"id\":3,\"content\":\"x\",\"special\":\"yes\"}"), "special"},
    {ADDED("3"), "content"},
    {"{\"model\":null}", "model"},
    {"{\"model\":{\"type\":\"Unigram\"}}", "model type \"Unigram\""},
    {"{\"model\":{\"type\":\"BPE\"}}", "vocab"},
    {"{\"model\":{\"vocab\":[],\"merges\":[]}}", "vocab"},
    {"{\"model\":{\"vocab\":{\"a\":0}}}", "merges"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "two tokens have the id 0"},
    {"{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", "found -1"},
    {"{\"model\":{\"vocab\":{\"a\":1.0},\"merges\":[]}}", "found real"},
    {"{\"model\":{\"vocab\":{\"a\":20000000},\"merges\":[]}}", "found 20000000"},
    {"{\"model\":{\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", "found string"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}", "\"ab\" is not in"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"ab\":1},\"merges\":[\"a b\"]}}", "\"b\" is not in"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", "two parts"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a  a\"]}}", "two parts"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a\",[\"a\",\"a\"]]}}", "either"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[[\"a\",\"a\",\"a\"]]}}", "either"},
    {"{\"model\":{\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[[\"a\",1]]}}", "either"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}", "dropout"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"byte_fallback\":true}}",
     "\"byte_fallback\" with ByteLevel"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}", "</w>"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"continuing_subword_prefix\":\"##\"}}",
     "##"},
    {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"<unk>\"}}", "<unk>"},
};

static void hostile_files_are_refused_with_a_message(void **state) {
    (void)state;
    json_t *base = parse(skeleton, strlen(skeleton));
    sy_tokenizer *t = NULL;
    if (sy_tokenizer_from_json(base, NULL, 0, &t) != SY_OK)
        fail_msg("the skeleton itself is refused: %s", sy_last_error());
    sy_tokenizer_destroy(t);
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        json_t *root = json_deep_copy(base);
        json_t *change = parse(hostile[i].change, strlen(hostile[i].change));
        json_object_update(root, change);
        sy_status st = sy_tokenizer_from_json(root, NULL, 0, &t);
        if (st != SY_ERR_FORMAT && st != SY_ERR_UNSUPPORTED)
            fail_msg("%s: %s", hostile[i].change, sy_status_name(st));
        if (strstr(sy_last_error(), hostile[i].message) == NULL)
            fail_msg("%s: the message is \"%s\"", hostile[i].change, sy_last_error());
        assert_null(t);
        json_decref(root);
        json_decref(change);
    }
    json_decref(base);
}

static json_t *skeleton_with(const char *change) {
    json_t *root = parse(skeleton, strlen(skeleton)), *members = parse(change, strlen(change));
    json_object_update(root, members);
    json_decref(members);
    return root;
}

static void an_added_token_of_excessive_length_is_refused(void **state) {
    (void)state;
    json_t *root = skeleton_with("{\"added_tokens\":[{\"id\":3,\"content\":\"x\"}]}");
    char *content = malloc(SY_MAX_ADDED_LENGTH + 2);
    assert_non_null(content);
    memset(content, 'x', SY_MAX_ADDED_LENGTH + 1);
    content[SY_MAX_ADDED_LENGTH + 1] = '\0';
    json_object_set_new(json_array_get(json_object_get(root, "added_tokens"), 0), "content",
                        json_string(content));
    sy_tokenizer *t = NULL;
    assert_int_equal(sy_tokenizer_from_json(root, NULL, 0, &t), SY_ERR_FORMAT);
    content[SY_MAX_ADDED_LENGTH] = '\0';
    json_object_set_new(json_array_get(json_object_get(root, "added_tokens"), 0), "content",
                        json_string(content));
    assert_int_equal(sy_tokenizer_from_json(root, NULL, 0, &t), SY_OK);
    sy_ids ids = encode(t, content, SY_MAX_ADDED_LENGTH, 0);
    assert_int_equal(ids.n, 1);
    assert_int_equal(ids.id[0], 3);
    sy_ids_free(&ids);
    sy_tokenizer_destroy(t);
    json_decref(root);
    free(content);
}

static void max_id_bounds_the_ids(void **state) {
    (void)state;
    json_t *root = parse(skeleton, strlen(skeleton));
    sy_tokenizer *t = NULL;
    assert_int_equal(sy_tokenizer_from_json(root, NULL, 3, &t), SY_OK);
    assert_int_equal(sy_tokenizer_n_ids(t), 3);
    sy_tokenizer_destroy(t);
    assert_int_equal(sy_tokenizer_from_json(root, NULL, 2, &t), SY_ERR_FORMAT);
    json_decref(root);
}

static void bos_comes_from_the_configuration_when_no_template_adds_it(void **state) {
    (void)state;
    static const struct {
        const char *config;
        int32_t bos;
    } table[] = {
        {"{}", -1},
        {"{\"bos_token\":\"<s>\"}", -1},
        {"{\"add_bos_token\":true}", -1},
        {"{\"add_bos_token\":true,\"bos_token\":null}", -1},
        {"{\"add_bos_token\":false,\"bos_token\":\"<s>\"}", -1},
        {"{\"add_bos_token\":true,\"bos_token\":\"<s>\"}", 3},
        {"{\"add_bos_token\":true,\"bos_token\":{\"content\":\"<s>\"}}", 3},
    };
    json_t *root = skeleton_with(ADDED("{\"id\":3,\"content\":\"<s>\",\"special\":true}"));
    sy_tokenizer *t = NULL;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        json_t *config = parse(table[i].config, strlen(table[i].config));
        assert_int_equal(sy_tokenizer_from_json(root, config, 0, &t), SY_OK);
        assert_int_equal(sy_tokenizer_bos(t), table[i].bos);
        sy_ids ids = encode(t, "ab", 2, SY_ENCODE_ADD_SPECIAL);
        assert_int_equal(ids.n, table[i].bos < 0 ? 1 : 2);
        if (ids.n == 2) assert_int_equal(ids.id[0], 3);
        sy_ids_free(&ids);
        sy_tokenizer_destroy(t);
        json_decref(config);
    }
    static const char unknown[] = "{\"add_bos_token\":true,\"bos_token\":\"<b>\"}";
    json_t *config = parse(unknown, sizeof unknown - 1);
    assert_int_equal(sy_tokenizer_from_json(root, config, 0, &t), SY_ERR_FORMAT);
    assert_non_null(strstr(sy_last_error(), "<b>"));
    json_decref(config);
    json_decref(root);
}

static void touch(const char *directory, const char *name, const char *content) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(content, f);
    fclose(f);
}

static void the_first_of_three_files_is_read(void **state) {
    (void)state;
    static const char *const names[] = {"tiktoken.model", "tekken.json", "tokenizer.json"};
    char directory[] = "/tmp/sy-tokenizer-XXXXXX", path[128];
    sy_tokenizer *t = NULL;
    assert_non_null(mkdtemp(directory));
    for (int i = 0; i < 3; i++) {
        touch(directory, names[i], "{}");
        assert_string_equal(sy_tokenizer_file(directory), names[i]);
        sy_status st = sy_tokenizer_load(directory, 0, &t);
        snprintf(path, sizeof path, "%s/%s: ", directory, names[i]);
        if (st == SY_OK || strstr(sy_last_error(), path) == NULL)
            fail_msg("%s: the message is \"%s\"", names[i], sy_last_error());
    }
    touch(directory, "tokenizer.json", skeleton);
    assert_int_equal(sy_tokenizer_load(directory, 0, &t), SY_OK);
    sy_tokenizer_destroy(t);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
    rmdir(directory);
}

static void a_directory_without_tokenizer_says_so(void **state) {
    (void)state;
    char path[1024];
    sy_tokenizer *t = NULL;
    data_path(path, sizeof path, "published");
    assert_int_equal(sy_tokenizer_load(path, 0, &t), SY_ERR_IO);
    assert_non_null(strstr(sy_last_error(), "there is no tokenizer.json, tekken.json or"));
    assert_null(t);
    assert_null(sy_tokenizer_file(path));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_files_are_refused_with_a_message),
        cmocka_unit_test(an_added_token_of_excessive_length_is_refused),
        cmocka_unit_test(max_id_bounds_the_ids),
        cmocka_unit_test(bos_comes_from_the_configuration_when_no_template_adds_it),
        cmocka_unit_test(the_first_of_three_files_is_read),
        cmocka_unit_test(a_directory_without_tokenizer_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
