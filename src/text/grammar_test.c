/* Constrained generation: whatever is chosen among the allowed tokens, the document is JSON of the schema,
 * and it ends only when it is complete. */
#include "base/test.h"

#include "base/json.h"
#include "text/golden.h"
#include "text/text.h"

static lm_text *text;
static lm_grammar_factory *factory;
static uint32_t n_vocab, n_words;

static int open_factory(void **state) {
    (void)state;
    lm_err err = {0};
    if (lm_text_open(&text, GOLDEN "byte_level", &err) != LM_OK) return -1;
    n_vocab = lm_tokenizer_size(text->tokenizer) + 37; /* models often have more rows than tokens */
    n_words = (n_vocab + 31) / 32;
    return lm_grammar_factory_open(&factory, text, n_vocab, &err) == LM_OK ? 0 : -1;
}

static int close_factory(void **state) {
    (void)state;
    lm_grammar_factory_close(factory);
    lm_text_close(text);
    return 0;
}

static bool allowed(const uint32_t *mask, int32_t id) {
    return mask[id / 32] >> (id % 32) & 1;
}

/* Generates with random choices; closing characters are preferred when the document gets long. Appends to
 * out. */
static void generate(const char *schema, uint32_t seed, lm_buf *out) {
    lm_err err = {0};
    lm_matcher *m = NULL;
    uint32_t mask[64];
    assert_true(n_words <= 64);
    expect_ok(lm_matcher_open(&m, factory, lm_str_of(schema), &err), err);
    for (int step = 0;; step++) {
        int32_t ids[2048], n = 0;
        assert_true(step < 3000);
        expect_ok(lm_matcher_mask(m, mask, n_words, &err), err);
        bool may_stop = false;
        for (int32_t id = 0; id < (int32_t)n_vocab; id++) {
            if (!allowed(mask, id)) continue;
            if (lm_text_is_stop(text, id)) {
                may_stop = true;
                continue;
            }
            lm_str bytes = lm_tokenizer_bytes(text->tokenizer, id);
            assert_true(bytes.len > 0);
            assert_false(lm_tokenizer_is_special(text->tokenizer, id));
            if (step < 40 || strchr("\"}]", bytes.ptr[0]) || (bytes.len == 1 && strchr("0e", bytes.ptr[0])))
                ids[n++] = id;
            else if (n == 0)
                ids[0] = id;
        }
        if (lm_matcher_done(m)) assert_true(may_stop && n == 0);
        if (may_stop) break;
        if (!n) n = 1;
        seed = seed * 1664525 + 1013904223;
        int32_t id = ids[(seed >> 8) % (uint32_t)n];
        expect_ok(lm_matcher_take(m, id, &err), err);
        lm_buf_str(out, lm_tokenizer_bytes(text->tokenizer, id));
    }
    lm_matcher_close(m);
}

static void whatever_is_chosen_is_valid_json(void **state) {
    (void)state;
    lm_err err = {0};
    lm_buf out;
    uint32_t read = 0;
    lm_buf_init(&out, 1 << 20);
    for (uint32_t seed = 0; seed < 20; seed++) {
        json_t *v = NULL;
        lm_buf_clear(&out);
        generate("", seed, &out);
        /* A random number may be larger than any double; everything else has to be read. */
        if (lm_json_parse(lm_buf_view(&out), &v, &err) != LM_OK) {
            if (!strstr(err.text, "real number overflow")) fail_msg("%s in: %s", err.text, out.ptr);
            continue;
        }
        read++;
        assert_true(json_is_object(v));
        json_decref(v);
    }
    assert_true(read > 10);
    lm_buf_release(&out);
}

static void the_schema_is_obeyed(void **state) {
    (void)state;
    static const char schema[] = "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\","
                                 "\"maxLength\":8},\"age\":{\"type\":\"integer\","
                                 "\"minimum\":1,\"maximum\":99},\"unit\":{\"enum\":[\"c\",\"f\"]},\"tags\":{"
                                 "\"type\":\"array\",\"items\":{\"$ref\":"
                                 "\"#/$defs/"
                                 "tag\"},\"maxItems\":2}},\"required\":[\"name\",\"age\",\"unit\",\"tags\"],"
                                 "\"additionalProperties\":false,"
                                 "\"$defs\":{\"tag\":{\"type\":\"boolean\"}}}";
    lm_err err = {0};
    lm_buf out;
    lm_buf_init(&out, 1 << 20);
    for (uint32_t seed = 0; seed < 20; seed++) {
        json_t *v = NULL;
        lm_buf_clear(&out);
        generate(schema, seed, &out);
        expect_ok(lm_json_parse(lm_buf_view(&out), &v, &err), err);
        assert_int_equal(json_object_size(v), 4);
        assert_true(json_is_string(json_object_get(v, "name")));
        json_int_t age = json_integer_value(json_object_get(v, "age"));
        assert_in_range(age, 1, 99);
        const char *unit = json_string_value(json_object_get(v, "unit"));
        assert_true(!strcmp(unit, "c") || !strcmp(unit, "f"));
        size_t i;
        json_t *tag, *tags = json_object_get(v, "tags");
        assert_true(json_is_array(tags) && json_array_size(tags) <= 2);
        json_array_foreach(tags, i, tag) assert_true(json_is_boolean(tag));
        json_decref(v);
    }
    lm_buf_release(&out);
}

static void a_document_given_is_followed_and_the_end_known(void **state) {
    (void)state;
    lm_err err = {0};
    lm_matcher *m = NULL;
    lm_tokens ids = {0};
    uint32_t mask[64];
    int32_t stop = lm_tokenizer_id(text->tokenizer, LM_STR("<|im_end|>"));
    expect_ok(lm_matcher_open(
                  &m, factory,
                  LM_STR("{\"type\":\"object\",\"properties\":{\"a\":{\"const\":\"b\"}},\"required\":[\"a\"],"
                         "\"additionalProperties\":false}"),
                  &err),
              err);
    expect_ok(lm_tokenizer_encode(text->tokenizer, LM_STR("{\"a\": \"b\"}"), false, &ids, &err), err);
    for (uint32_t i = 0; i < ids.n; i++) {
        assert_false(lm_matcher_done(m));
        expect_ok(lm_matcher_mask(m, mask, n_words, &err), err);
        assert_true(allowed(mask, ids.ids[i]));
        assert_false(allowed(mask, stop));
        expect_ok(lm_matcher_take(m, ids.ids[i], &err), err);
    }
    assert_true(lm_matcher_done(m));
    expect_ok(lm_matcher_mask(m, mask, n_words, &err), err);
    assert_true(allowed(mask, stop));
    assert_false(allowed(mask, ids.ids[0]));
    lm_matcher_close(m);
    lm_tokens_release(&ids);
}

static void white_space_cannot_go_on_for_ever(void **state) {
    (void)state;
    lm_err err = {0};
    lm_matcher *m = NULL;
    uint32_t mask[64];
    int32_t space =
        lm_tokenizer_id(text->tokenizer, LM_STR("\xc4\xa0")); /* as byte-level vocabularies write it */
    int32_t brace = lm_tokenizer_id(text->tokenizer, LM_STR("{"));
    assert_true(space >= 0 && brace >= 0);
    expect_ok(lm_matcher_open(&m, factory, LM_STR(""), &err), err);
    expect_ok(lm_matcher_take(m, brace, &err), err);
    int n = 0;
    for (; n < 200; n++) {
        expect_ok(lm_matcher_mask(m, mask, n_words, &err), err);
        if (!allowed(mask, space)) break;
        expect_ok(lm_matcher_take(m, space, &err), err);
    }
    assert_true(n < 100);
    lm_matcher_close(m);
}

static void what_cannot_be_enforced_is_refused(void **state) {
    (void)state;
    lm_err err = {0};
    lm_matcher *m = NULL;
    expect_fail(lm_matcher_open(&m, factory, LM_STR("{"), &err), LM_INVALID, err, "not JSON");
    expect_fail(lm_matcher_open(&m, factory, LM_STR("[]"), &err), LM_INVALID, err, "not a JSON object");
    expect_fail(lm_matcher_open(&m, factory, LM_STR("{\"type\":\"nonsense\"}"), &err), LM_INVALID, err,
                "cannot be enforced");
    expect_fail(lm_matcher_open(&m, factory, LM_STR("{\"$ref\":\"http://localhost/x.json\"}"), &err),
                LM_INVALID, err, "cannot be enforced");
    expect_fail(lm_matcher_open(&m, factory, LM_STR("\xff"), &err), LM_INVALID, err, "not JSON");
    assert_null(m);
}

static void a_token_that_is_not_allowed_is_an_error_and_no_crash(void **state) {
    (void)state;
    lm_err err = {0};
    static const int32_t bad[] = {-1, 1 << 30, 0};
    for (int i = 0; i < 3; i++) {
        lm_matcher *m = NULL;
        expect_ok(lm_matcher_open(&m, factory, LM_STR(""), &err), err);
        assert_int_not_equal(
            lm_matcher_take(m, i == 2 ? lm_tokenizer_id(text->tokenizer, LM_STR("x")) : bad[i], &err), LM_OK);
        lm_matcher_close(m);
    }
}

static void a_vocabulary_of_nonsense_size_is_refused(void **state) {
    (void)state;
    lm_err err = {0};
    lm_grammar_factory *f = NULL;
    expect_fail(lm_grammar_factory_open(&f, text, 0, &err), LM_INVALID, err, "cannot be right");
    expect_fail(lm_grammar_factory_open(&f, text, UINT32_MAX, &err), LM_INVALID, err, "cannot be right");
    assert_null(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_is_chosen_is_valid_json),
        cmocka_unit_test(the_schema_is_obeyed),
        cmocka_unit_test(a_document_given_is_followed_and_the_end_known),
        cmocka_unit_test(white_space_cannot_go_on_for_ever),
        cmocka_unit_test(what_cannot_be_enforced_is_refused),
        cmocka_unit_test(a_token_that_is_not_allowed_is_an_error_and_no_crash),
        cmocka_unit_test(a_vocabulary_of_nonsense_size_is_refused),
    };
    return cmocka_run_group_tests(tests, open_factory, close_factory);
}
