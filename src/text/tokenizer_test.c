/* Ids and texts of three tiny tokenizers (byte-level BPE, SentencePiece BPE with byte fallback, Unigram with
 * metaspace) against what Python's tokenizers gives: tests/golden/make_text.py. */
#include "base/test.h"

#include "base/file.h"
#include "base/json.h"
#include "text/golden.h"
#include "text/text.h"

static const char *const names[] = {"byte_level", "byte_fallback", "metaspace", "word_end", "whole_words"};

static lm_tokenizer *open_golden(const char *name) {
    char dir[512];
    lm_err err = {0};
    lm_tokenizer *t = NULL;
    snprintf(dir, sizeof dir, GOLDEN "%s", name);
    expect_ok(lm_tokenizer_open(&t, dir, &err), err);
    return t;
}

/* Calls check for every line of the golden cases of this tokenizer; at least twenty must be there. */
static void each_case(const char *name, void (*check)(const lm_tokenizer *t, const json_t *c)) {
    char path[512];
    lm_err err = {0};
    lm_buf file;
    uint32_t n = 0;
    lm_tokenizer *t = open_golden(name);
    snprintf(path, sizeof path, GOLDEN "%s/cases.jsonl", name);
    lm_buf_init(&file, 1 << 20);
    expect_ok(lm_file_read(path, 1 << 20, &file, &err), err);
    for (char *line = file.ptr, *end; (end = strchr(line, '\n')); line = end + 1, n++) {
        json_t *c = NULL;
        expect_ok(lm_json_parse((lm_str){line, (size_t)(end - line)}, &c, &err), err);
        check(t, c);
        json_decref(c);
    }
    assert_true(n >= 20);
    lm_buf_release(&file);
    lm_tokenizer_close(t);
}

static lm_str str_of(const json_t *c, const char *key) {
    const json_t *s = json_object_get(c, key);
    return (lm_str){json_string_value(s), json_string_length(s)};
}

static void expect_ids(const json_t *want, const lm_tokens *got, lm_str text) {
    bool same = json_array_size(want) == got->n;
    for (uint32_t i = 0; same && i < got->n; i++)
        same = json_integer_value(json_array_get(want, i)) == got->ids[i];
    if (!same) fail_msg("other ids for '" LM_STR_FMT "'", LM_STR_ARG(text));
}

static void check_encoding(const lm_tokenizer *t, const json_t *c) {
    lm_err err = {0};
    lm_tokens ids = {0};
    expect_ok(lm_tokenizer_encode(t, str_of(c, "text"), false, &ids, &err), err);
    expect_ids(json_object_get(c, "ids"), &ids, str_of(c, "text"));
    ids.n = 0;
    expect_ok(lm_tokenizer_encode(t, str_of(c, "text"), true, &ids, &err), err);
    expect_ids(json_object_get(c, "special"), &ids, str_of(c, "text"));
    lm_tokens_release(&ids);
}

static void check_decoding(const lm_tokenizer *t, const json_t *c) {
    lm_err err = {0};
    lm_tokens ids = {0};
    lm_buf text;
    size_t i;
    json_t *id;
    json_array_foreach(json_object_get(c, "special"), i, id) {
        int32_t value = (int32_t)json_integer_value(id);
        expect_ok(lm_tokens_add(&ids, &value, 1, &err), err);
    }
    lm_buf_init(&text, 1 << 16);
    expect_ok(lm_tokenizer_decode(t, ids.ids, ids.n, false, &text, &err), err);
    assert_true(lm_str_eq(lm_buf_view(&text), str_of(c, "decoded")));
    lm_buf_clear(&text);
    expect_ok(lm_tokenizer_decode(t, ids.ids, ids.n, true, &text, &err), err);
    assert_true(lm_str_eq(lm_buf_view(&text), str_of(c, "shown")));
    lm_buf_release(&text);
    lm_tokens_release(&ids);
}

/* What the tokens add one by one is the decoded text, but for the leading space that SentencePiece decoders
 * strip. */
static void check_bytes(const lm_tokenizer *t, const json_t *c) {
    lm_buf text;
    size_t i;
    json_t *id;
    lm_str want = str_of(c, "decoded");
    lm_buf_init(&text, 1 << 16);
    json_array_foreach(json_object_get(c, "special"), i, id) {
        lm_str bytes = lm_tokenizer_bytes(t, (int32_t)json_integer_value(id));
        lm_buf_str(&text, bytes);
    }
    lm_str got = lm_buf_view(&text);
    if (!lm_str_eq(got, want)) {
        assert_true(got.len >= 1 && got.ptr[0] == ' ');
        got = (lm_str){got.ptr + 1, got.len - 1};
        if (!lm_str_eq(got, want))
            fail_msg("bytes give '" LM_STR_FMT "', decoding '" LM_STR_FMT "'", LM_STR_ARG(got),
                     LM_STR_ARG(want));
    }
    lm_buf_release(&text);
}

static void ids_are_those_of_python(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) each_case(names[i], check_encoding);
}

static void decoded_texts_are_those_of_python(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) each_case(names[i], check_decoding);
}

static void token_bytes_add_up_to_the_decoded_text(void **state) {
    (void)state;
    each_case("byte_level", check_bytes);
    each_case("metaspace", check_bytes);
}

static void byte_tokens_are_single_bytes(void **state) {
    (void)state;
    lm_tokenizer *t = open_golden("byte_fallback");
    int32_t id = lm_tokenizer_id(t, LM_STR("<0xE2>"));
    assert_true(id > 0);
    lm_str bytes = lm_tokenizer_bytes(t, id);
    assert_int_equal(bytes.len, 1);
    assert_int_equal((uint8_t)bytes.ptr[0], 0xe2);
    id = lm_tokenizer_id(t, LM_STR("\xe2\x96\x81"
                                   "the"));
    assert_true(id > 0);
    assert_true(lm_str_eq(lm_tokenizer_bytes(t, id), LM_STR(" the")));
    lm_tokenizer_close(t);
}

static void tokens_are_found_by_name_and_special_ones_marked(void **state) {
    (void)state;
    lm_tokenizer *t = open_golden("byte_level");
    int32_t end = lm_tokenizer_id(t, LM_STR("<|im_end|>")), think = lm_tokenizer_id(t, LM_STR("<think>"));
    assert_true(end >= 0 && think >= 0);
    assert_true(lm_tokenizer_is_special(t, end));
    assert_false(lm_tokenizer_is_special(t, think));
    assert_true(lm_str_eq(lm_tokenizer_bytes(t, end), LM_STR("<|im_end|>")));
    assert_int_equal(lm_tokenizer_id(t, LM_STR("no such token")), -1);
    assert_int_equal(lm_tokenizer_id(t, LM_STR("\xff")), -1);
    assert_int_equal(lm_tokenizer_size(t), (uint32_t)lm_tokenizer_id(t, LM_STR("<|fim_middle|>")) + 1);
    assert_int_equal(lm_tokenizer_bytes(t, -1).len, 0);
    assert_int_equal(lm_tokenizer_bytes(t, INT32_MAX).len, 0);
    assert_false(lm_tokenizer_is_special(t, INT32_MAX));
    lm_tokenizer_close(t);
}

static void text_that_is_not_utf8_is_refused(void **state) {
    (void)state;
    lm_err err = {0};
    lm_tokens ids = {0};
    lm_tokenizer *t = open_golden("byte_level");
    expect_fail(lm_tokenizer_encode(t, LM_STR("ok\xff\xfe"), true, &ids, &err), LM_INVALID, err,
                "not valid UTF-8 at byte 2");
    assert_int_equal(ids.n, 0);
    lm_tokenizer_close(t);
}

static void unknown_ids_decode_to_nothing(void **state) {
    (void)state;
    lm_err err = {0};
    lm_buf text;
    const int32_t ids[] = {-1, INT32_MIN, 1 << 30, INT32_MAX};
    lm_tokenizer *t = open_golden("byte_level");
    lm_buf_init(&text, 100);
    expect_ok(lm_tokenizer_decode(t, ids, 4, false, &text, &err), err);
    assert_int_equal(text.len, 0);
    lm_buf_release(&text);
    lm_tokenizer_close(t);
}

/* ---- hostile files */

static lm_status open_with(lm_str json, lm_err *err) {
    lm_tokenizer *t = NULL;
    char *path = lm_path_join(test_dir(), "tokenizer.json");
    expect_ok(lm_file_write(path, json, err), *err);
    free(path);
    lm_status st = lm_tokenizer_open(&t, test_dir(), err);
    lm_tokenizer_close(t);
    return st;
}

static void a_missing_file_is_not_found(void **state) {
    (void)state;
    lm_err err = {0};
    lm_tokenizer *t = NULL;
    expect_fail(lm_tokenizer_open(&t, "/nonexistent", &err), LM_NOT_FOUND, err, "tokenizer.json");
    assert_null(t);
}

static void damaged_files_give_one_clear_error(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "null",
        "\xff\xfe",
        "{}",
        "{\"model\":{}}",
        "{\"version\":\"9.9\",\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a b\"]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\",\"b\"]]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":4294967295},\"merges\":[]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999},\"merges\":[]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}",
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[[\"a\",\"b\"]]}}",
        "{\"model\":{\"type\":\"BPE\",\"continuing_subword_prefix\":\"####\",\"vocab\":{\"a\":0,\"b\":1},"
        "\"merges\":[[\"a\",\"b\"]]}}",
        "{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}",
        "{\"model\":{\"type\":\"Nonsense\",\"vocab\":{\"a\":0}}}",
        "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(((\"},\"behavior\":\"Isolated\","
        "\"invert\":false},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]}}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lm_err err = {0};
        lm_status st = open_with(lm_str_of(bad[i]), &err);
        if (st == LM_OK) fail_msg("accepted: %s", bad[i]);
        assert_true(strlen(err.text) > 5);
    }
}

static void every_truncation_of_a_good_file_is_refused(void **state) {
    (void)state;
    lm_err err = {0};
    lm_buf file;
    lm_buf_init(&file, 1 << 20);
    expect_ok(lm_file_read(GOLDEN "byte_level/tokenizer.json", 1 << 20, &file, &err), err);
    for (size_t n = 0; n < file.len; n += 97) {
        lm_status st = open_with((lm_str){file.ptr, n}, &err);
        assert_int_not_equal(st, LM_OK);
    }
    lm_buf_release(&file);
}

static void changed_bytes_never_crash(void **state) {
    (void)state;
    lm_err err = {0};
    lm_buf file;
    lm_tokens ids = {0};
    uint32_t seed = 12345, opened = 0;
    lm_buf_init(&file, 1 << 20);
    expect_ok(lm_file_read(GOLDEN "byte_fallback/tokenizer.json", 1 << 20, &file, &err), err);
    char *path = lm_path_join(test_dir(), "tokenizer.json");
    for (int round = 0; round < 300; round++) {
        seed = seed * 1664525 + 1013904223;
        size_t at = seed % file.len;
        char old = file.ptr[at];
        file.ptr[at] = "0\"{}[],:x9"[(seed >> 24) % 10];
        lm_tokenizer *t = NULL;
        expect_ok(lm_file_write(path, lm_buf_view(&file), &err), err);
        if (lm_tokenizer_open(&t, test_dir(), &err) == LM_OK) {
            opened++;
            lm_status st = lm_tokenizer_encode(t, LM_STR("The quick brown fox, 中文"), true, &ids, &err);
            assert_true(st == LM_OK || err.text[0]);
            lm_tokenizer_close(t);
        }
        file.ptr[at] = old;
    }
    assert_true(opened > 0);
    free(path);
    lm_tokens_release(&ids);
    lm_buf_release(&file);
}

static void token_lists_grow_and_release(void **state) {
    (void)state;
    lm_err err = {0};
    lm_tokens t = {0};
    for (int32_t i = 0; i < 1000; i++) expect_ok(lm_tokens_add(&t, &i, 1, &err), err);
    assert_int_equal(t.n, 1000);
    for (int32_t i = 0; i < 1000; i++) assert_int_equal(t.ids[i], i);
    lm_tokens_release(&t);
    assert_null(t.ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_those_of_python),
        cmocka_unit_test(decoded_texts_are_those_of_python),
        cmocka_unit_test(token_bytes_add_up_to_the_decoded_text),
        cmocka_unit_test(byte_tokens_are_single_bytes),
        cmocka_unit_test(tokens_are_found_by_name_and_special_ones_marked),
        cmocka_unit_test(text_that_is_not_utf8_is_refused),
        cmocka_unit_test(unknown_ids_decode_to_nothing),
        cmocka_unit_test(a_missing_file_is_not_found),
        cmocka_unit_test(damaged_files_give_one_clear_error),
        cmocka_unit_test(every_truncation_of_a_good_file_is_refused),
        cmocka_unit_test(changed_bytes_never_crash),
        cmocka_unit_test(token_lists_grow_and_release),
    };
    return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
