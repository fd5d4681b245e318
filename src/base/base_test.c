#include "base/test.h"

#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"

/* ---- status */

static void an_error_text_is_cut_between_characters(void **state) {
    (void)state;
    lm_err err = {0};
    char many[1200];
    for (size_t i = 0; i < sizeof many - 1; i += 2) memcpy(many + i, "\xc3\xa9", 2);
    many[1199] = '\0';
    many[1198] = '\0';
    assert_int_equal(lm_fail(&err, LM_INVALID, "x%s", many), LM_INVALID);
    bool bad = true;
    assert_int_equal(lm_utf8_valid(lm_str_of(err.text), &bad), strlen(err.text));
    assert_true(strlen(err.text) >= 500);
}

static void context_goes_before_the_text(void **state) {
    (void)state;
    lm_err err = {0};
    lm_fail(&err, LM_CORRUPT, "truncated at byte %d", 7);
    assert_int_equal(lm_fail_in(&err, LM_CORRUPT, "load %s", "a.safetensors"), LM_CORRUPT);
    assert_string_equal(err.text, "load a.safetensors: truncated at byte 7");
    lm_fail(&err, LM_IO, "again: %s", err.text); /* its own text as an argument */
    assert_string_equal(err.text, "again: load a.safetensors: truncated at byte 7");
    assert_int_equal(lm_status_http(LM_BUSY), 503);
    assert_string_equal(lm_status_name(LM_CORRUPT), "LM_CORRUPT");
}

/* ---- UTF-8 */

static void utf8_tells_incomplete_from_impossible(void **state) {
    (void)state;
    const struct {
        const char *bytes;
        size_t len, valid;
        bool bad;
    } cases[] = {
        {"abc", 3, 3, false},
        {"a\xc3", 2, 1, false},
        {"a\xc3\xa9", 3, 3, false},
        {"\xf0\x9f\x98", 3, 0, false},
        {"\xf0\x9f\x98\x80", 4, 4, false},
        {"\x80", 1, 0, true},
        {"\xc0\xaf", 2, 0, true},
        {"\xed\xa0\x80", 3, 0, true},
        {"\xed\xa0", 2, 0, true},
        {"\xf4\x90", 2, 0, true},
        {"\xff", 1, 0, true},
        {"\xe0\x80", 2, 0, true},
        {"", 0, 0, false},
        {"\xc3\x28", 2, 0, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool bad = !cases[i].bad;
        assert_int_equal(lm_utf8_valid((lm_str){cases[i].bytes, cases[i].len}, &bad), cases[i].valid);
        assert_int_equal(bad, cases[i].bad);
    }
}

/* ---- buffer */

/* RFC 4648 section 10, and in pieces of whole groups. */
static void base64_is_padded_at_the_end_alone(void **state) {
    (void)state;
    static const char *const pairs[][2] = {{"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"},
                                           {"\xff\xfe\xfb", "//77"}};
    lm_buf b;
    lm_buf_init(&b, 100);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        lm_buf_clear(&b);
        lm_buf_base64(&b, lm_str_of(pairs[i][0]));
        assert_true(lm_str_eq(lm_buf_view(&b), lm_str_of(pairs[i][1])));
    }
    lm_buf_clear(&b);
    lm_buf_base64(&b, LM_STR("foo"));
    lm_buf_base64(&b, LM_STR("ba"));
    assert_string_equal(b.ptr, "Zm9vYmE=");
    lm_buf_release(&b);
}

static void a_buffer_never_passes_its_cap(void **state) {
    (void)state;
    lm_buf b;
    lm_err err = {0};
    lm_buf_init(&b, 10);
    lm_buf_text(&b, "12345");
    lm_buf_printf(&b, "%d", 67890);
    expect_ok(lm_buf_status(&b, "text", &err), err);
    assert_string_equal(b.ptr, "1234567890");
    lm_buf_char(&b, 'x');
    expect_fail(lm_buf_status(&b, "the text", &err), LM_TOO_LARGE, err, "the text is larger than 10 bytes");
    assert_string_equal(b.ptr, "1234567890");
    lm_buf_clear(&b);
    lm_buf_printf(&b, "%s", "ok");
    assert_string_equal(b.ptr, "ok");
    lm_buf_release(&b);
}

static void long_printf_text_arrives_whole(void **state) {
    (void)state;
    lm_buf b;
    lm_buf_init(&b, 100000);
    char many[5000];
    memset(many, 'y', sizeof many - 1);
    many[4999] = '\0';
    lm_buf_printf(&b, "<%s>", many);
    assert_int_equal(b.len, 5001);
    assert_int_equal(b.ptr[5000], '>');
    lm_buf_release(&b);
}

/* ---- clock */

static void durations_read_as_in_go(void **state) {
    (void)state;
    const struct {
        const char *text;
        int64_t ns;
        const char *error;
    } cases[] = {
        {"300ms", 300000000, NULL},
        {"5m", 300000000000, NULL},
        {"1h30m", 5400000000000, NULL},
        {"-1m", -60000000000, NULL},
        {"1.5s", 1500000000, NULL},
        {"0", 0, NULL},
        {"300", 0, "time: missing unit in duration \"300\""},
        {"-1", 0, "time: missing unit in duration \"-1\""},
        {"", 0, "time: invalid duration \"\""},
        {"abc", 0, "time: invalid duration \"abc\""},
        {"3x", 0, "time: unknown unit \"x\" in duration \"3x\""},
        {"5m3", 0, "time: missing unit in duration \"5m3\""},
        {".s", 0, "time: invalid duration \".s\""},
        {"99999999999h", 9200000000000000000, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lm_err err = {0};
        int64_t ns = -7;
        lm_status st = lm_duration_parse(lm_str_of(cases[i].text), &ns, &err);
        assert_int_equal(st, cases[i].error ? LM_INVALID : LM_OK);
        if (cases[i].error) assert_string_equal(err.text, cases[i].error);
        assert_int_equal(ns, cases[i].error ? -7 : cases[i].ns);
    }
}

static void times_are_written_as_go_writes_them(void **state) {
    (void)state;
    char text[40];
    lm_time_rfc3339(0, text);
    assert_string_equal(text, "1970-01-01T00:00:00Z");
    lm_time_rfc3339(1767258487120000000, text);
    assert_string_equal(text, "2026-01-01T09:08:07.12Z");
    lm_time_rfc3339(-1, text);
    assert_string_equal(text, "1969-12-31T23:59:59.999999999Z");
}

/* ---- JSON */

static void json_refuses_what_is_not_json(void **state) {
    (void)state;
    const char *bad[] = {"", "{", "{\"a\":1,}", "[1] x", "\"\\ud800\"", "\"\xff\"", "1e999", "nul"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lm_err err = {0};
        json_t *v = NULL;
        assert_int_equal(lm_json_parse(lm_str_of(bad[i]), &v, &err), LM_INVALID);
        assert_null(v);
        assert_non_null(strstr(err.text, "line 1"));
    }
}

static void json_refuses_deep_nesting(void **state) {
    (void)state;
    lm_err err = {0};
    json_t *v = NULL;
    char text[2001];
    memset(text, '[', 1000);
    memset(text + 1000, ']', 1000);
    text[2000] = '\0';
    expect_fail(lm_json_parse(lm_str_of(text), &v, &err), LM_INVALID, err, "nested deeper than 512");
    expect_ok(lm_json_parse((lm_str){text + 600, 800}, &v, &err), err);
    json_decref(v);
}

static void json_members_are_checked(void **state) {
    (void)state;
    lm_err err = {0};
    json_t *v = NULL;
    expect_ok(
        lm_json_parse(LM_STR("{\"i\":3.0,\"n\":null,\"s\":\"t\",\"neg\":-1,\"big\":1e300,\"half\":0.5}"), &v,
                      &err),
        err);
    int64_t i = 9;
    uint32_t u = 8;
    float f = 7;
    bool b = true;
    const char *s = "untouched";
    expect_ok(lm_json_get_int(v, "i", &i, &err), err);
    assert_int_equal(i, 3);
    expect_ok(lm_json_get_int(v, "n", &i, &err), err);
    expect_ok(lm_json_get_str(v, "absent", &s, &err), err);
    assert_string_equal(s, "untouched");
    expect_fail(lm_json_get_int(v, "half", &i, &err), LM_INVALID, err, "half must be an integer");
    expect_fail(lm_json_get_int(v, "big", &i, &err), LM_INVALID, err, "big must be an integer");
    expect_fail(lm_json_get_u32(v, "neg", &u, &err), LM_INVALID, err, "neg must be between 0");
    expect_fail(lm_json_get_float(v, "big", &f, &err), LM_INVALID, err, "big must be a finite number");
    expect_fail(lm_json_get_bool(v, "i", &b, &err), LM_INVALID, err, "i must be true or false");
    expect_fail(lm_json_get_str(v, "i", &s, &err), LM_INVALID, err, "i must be a string");
    assert_int_equal(u, 8);
    json_decref(v);
}

static void json_strings_are_always_valid(void **state) {
    (void)state;
    lm_buf b;
    lm_err err = {0};
    json_t *v = NULL;
    lm_buf_init(&b, 1000);
    lm_json_write_string(&b, (lm_str){"a\"\\\n\x01\0\xff\xc3\xa9\xc3", 11});
    expect_ok(lm_json_parse(lm_buf_view(&b), &v, &err), err);
    assert_int_equal(json_string_length(v), 15);
    assert_memory_equal(json_string_value(v), "a\"\\\n\x01\0\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd", 14);
    json_decref(v);
    lm_buf_release(&b);
}

static void json_numbers_read_back_the_same(void **state) {
    (void)state;
    const double numbers[] = {0, 1, -1.5, 0.1, 1e20, 1.0 / 3, 5e-324, 1.7976931348623157e308};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        lm_buf b;
        lm_buf_init(&b, 100);
        lm_json_write_double(&b, numbers[i]);
        assert_true(strtod(b.ptr, NULL) == numbers[i]);
        lm_buf_release(&b);
    }
}

static void json_floats_are_short_and_read_back_the_same(void **state) {
    (void)state;
    static const struct {
        float v;
        const char *text;
    } known[] = {{0, "0"},
                 {1, "1"},
                 {-0.5f, "-0.5"},
                 {0.1f, "0.1"},
                 {100, "100"},
                 {123456.7f, "123456.7"},
                 {0.0123f, "0.0123"},
                 {1e-5f, "0.00001"},
                 {-2.5e-7f, "-2.5e-07"},
                 {9.9999999e8f, "1e+09"},
                 {0.9999999f, "0.9999999"}};
    lm_buf b;
    lm_buf_init(&b, 1000);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        lm_buf_clear(&b);
        lm_json_write_float(&b, known[i].v);
        assert_string_equal(b.ptr, known[i].text);
    }
    uint32_t bits = 1;
    for (int i = 0; i < 200000; i++) {
        float v;
        bits = bits * 1664525u + 1013904223u;
        memcpy(&v, &bits, sizeof v);
        if (i % 2) v = (float)(int32_t)bits / 2147483648.0f; /* what vectors are made of */
        lm_buf_clear(&b);
        lm_json_write_float(&b, v);
        if (!isfinite(v)) {
            assert_string_equal(b.ptr, "null");
        } else {
            char *end = NULL;
            assert_true((float)strtod(b.ptr, &end) == v && !*end);
            assert_true(b.len <= 17);
        }
    }
    lm_buf_release(&b);
}

static void json_values_keep_their_key_order(void **state) {
    (void)state;
    lm_buf b;
    lm_err err = {0};
    json_t *v = NULL;
    const char *text = "{\"z\":[1,2.5,null,true,\"\xc3\xa9\"],\"a\":{\"b\":{}}}";
    expect_ok(lm_json_parse(lm_str_of(text), &v, &err), err);
    lm_buf_init(&b, 1000);
    lm_json_write_value(&b, v);
    assert_string_equal(b.ptr, text);
    json_decref(v);
    lm_buf_release(&b);
}

static void a_real_stays_a_real_where_a_value_is_passed_on(void **state) {
    (void)state;
    lm_buf b;
    lm_err err = {0};
    json_t *v = NULL, *again = NULL;
    expect_ok(lm_json_parse(LM_STR("[1.0,-0.0,1,2.5,1e300,1e5,{\"a\":[3.0]}]"), &v, &err), err);
    lm_buf_init(&b, 1000);
    lm_json_write_value(&b, v);
    assert_string_equal(b.ptr, "[1,-0,1,2.5,1e+300,1e+05,{\"a\":[3]}]");
    lm_buf_clear(&b);
    lm_json_write_same(&b, v);
    assert_string_equal(b.ptr, "[1.0,-0.0,1,2.5,1e+300,1e+05,{\"a\":[3.0]}]");
    expect_ok(lm_json_parse(lm_buf_view(&b), &again, &err), err);
    assert_true(json_equal(v, again));
    json_decref(v);
    json_decref(again);
    lm_buf_release(&b);
}

/* ---- files */

static void files_appear_whole_or_not_at_all(void **state) {
    (void)state;
    lm_err err = {0};
    lm_buf b;
    char dir[] = "/tmp/lm-base-test-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *path = lm_path_join(dir, "one");
    char *below = lm_path_join(dir, "deep/er/x");
    expect_ok(lm_file_write(path, LM_STR("hello"), &err), err);
    expect_ok(lm_file_write(path, LM_STR("hello again"), &err), err);
    lm_buf_init(&b, 100);
    expect_ok(lm_file_read(path, 100, &b, &err), err);
    assert_string_equal(b.ptr, "hello again");
    lm_buf_release(&b);
    expect_fail(lm_file_read(path, 5, &b, &err), LM_TOO_LARGE, err, "larger than 5 bytes");
    lm_buf_release(&b);

    expect_fail(lm_file_write(below, LM_STR("x"), &err), LM_NOT_FOUND, err, "deep/er/x");
    expect_ok(lm_dir_make(below, &err), err);
    assert_true(lm_path_is_dir(below));
    lm_map map = {0};
    expect_ok(lm_map_open(&map, path, &err), err);
    assert_int_equal(map.size, 11);
    expect_ok(lm_dir_remove(dir, &err), err);
    assert_memory_equal(map.data, "hello again", 11); /* the map outlives the file */
    lm_map_close(&map);
    expect_fail(lm_map_open(&map, path, &err), LM_NOT_FOUND, err, "one");
    expect_ok(lm_dir_remove(dir, &err), err);
    free(path);
    free(below);
}

static void removing_never_follows_links(void **state) {
    (void)state;
    lm_err err = {0};
    char dir[] = "/tmp/lm-base-test-XXXXXX", kept[] = "/tmp/lm-base-kept-XXXXXX";
    assert_non_null(mkdtemp(dir));
    assert_non_null(mkdtemp(kept));
    char *file = lm_path_join(kept, "file"), *link = lm_path_join(dir, "link");
    expect_ok(lm_file_write(file, LM_STR("x"), &err), err);
    assert_int_equal(symlink(kept, link), 0);
    expect_ok(lm_dir_remove(dir, &err), err);
    assert_true(lm_path_is_file(file));
    expect_ok(lm_dir_remove(kept, &err), err);
    free(file);
    free(link);
}

static void numbers_are_digits_within_their_limits(void **state) {
    (void)state;
    const struct {
        const char *text;
        uint64_t least, most;
        bool ok;
        uint64_t n;
    } cases[] = {
        {"0", 0, 9, true, 0},
        {"007", 0, 7, true, 7},
        {"8", 0, 7, false, 0},
        {"3", 4, 7, false, 0},
        {"18446744073709551615", 0, UINT64_MAX, true, UINT64_MAX},
        {"18446744073709551616", 0, UINT64_MAX, false, 0},
        {"99999999999999999999999", 0, UINT64_MAX, false, 0},
        {"", 0, 9, false, 0},
        {"-1", 0, 9, false, 0},
        {"+1", 0, 9, false, 0},
        {" 1", 0, 9, false, 0},
        {"1x", 0, 9, false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint64_t n = 77;
        assert_int_equal(lm_str_number(lm_str_of(cases[i].text), cases[i].least, cases[i].most, &n),
                         cases[i].ok);
        assert_true(n == (cases[i].ok ? cases[i].n : 77));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_error_text_is_cut_between_characters),
        cmocka_unit_test(context_goes_before_the_text),
        cmocka_unit_test(utf8_tells_incomplete_from_impossible),
        cmocka_unit_test(base64_is_padded_at_the_end_alone),
        cmocka_unit_test(a_buffer_never_passes_its_cap),
        cmocka_unit_test(long_printf_text_arrives_whole),
        cmocka_unit_test(durations_read_as_in_go),
        cmocka_unit_test(times_are_written_as_go_writes_them),
        cmocka_unit_test(json_refuses_what_is_not_json),
        cmocka_unit_test(json_refuses_deep_nesting),
        cmocka_unit_test(json_members_are_checked),
        cmocka_unit_test(json_strings_are_always_valid),
        cmocka_unit_test(json_numbers_read_back_the_same),
        cmocka_unit_test(json_floats_are_short_and_read_back_the_same),
        cmocka_unit_test(json_values_keep_their_key_order),
        cmocka_unit_test(a_real_stays_a_real_where_a_value_is_passed_on),
        cmocka_unit_test(files_appear_whole_or_not_at_all),
        cmocka_unit_test(removing_never_follows_links),
        cmocka_unit_test(numbers_are_digits_within_their_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
