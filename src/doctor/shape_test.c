/* Shapes see every difference, and only those; the cases are written as they must be; framing is read as it came. */
#include "base/test.h"
#include "doctor/conform.h"
#include "doctor/frames.h"
#include "doctor/shape.h"

typedef struct seen {
    uint32_t n;
    char where[300], expected[300], got[300]; /* of the last one */
} seen;

static void see(void *ctx, const char *where, const char *expected, const char *got) {
    seen *s = ctx;
    s->n++;
    snprintf(s->where, sizeof s->where, "%s", where);
    snprintf(s->expected, sizeof s->expected, "%s", expected);
    snprintf(s->got, sizeof s->got, "%s", got);
}

static seen compare(const char *shape_text, const char *value_text) {
    seen s = {0};
    json_t *shape = json_loads(shape_text, JSON_DECODE_ANY, NULL);
    json_t *value = value_text ? json_loads(value_text, JSON_DECODE_ANY, NULL) : NULL;
    assert_non_null(shape);
    if (value_text) assert_non_null(value);
    uint32_t n = shape_compare(shape, value, "x", see, &s);
    assert_int_equal(n, s.n);
    json_decref(shape);
    json_decref(value);
    return s;
}

static void expect_same(const char *shape, const char *value) {
    seen s = compare(shape, value);
    if (s.n) fail_msg("%s and %s: %s, %s, %s", shape, value ? value : "nothing", s.where, s.expected, s.got);
}

static void expect_difference(const char *shape, const char *value, const char *where, const char *expected,
                              const char *got) {
    seen s = compare(shape, value);
    if (s.n != 1) fail_msg("%s and %s: %u differences", shape, value ? value : "nothing", s.n);
    assert_string_equal(s.where, where);
    if (!strstr(s.expected, expected)) fail_msg("expected %s, not %s", expected, s.expected);
    assert_string_equal(s.got, got);
}

static void kinds_are_what_they_say(void **state) {
    (void)state;
    static const struct {
        const char *kind, *good, *bad;
    } all[] = {
        {"\"<str>\"", "\"\"", "1"},
        {"\"<text>\"", "\"a\"", "\"\""},
        {"\"<int>\"", "0", "-1"},
        {"\"<int>\"", "5", "5.0"},
        {"\"<count>\"", "1", "0"},
        {"\"<ns>\"", "123456789", "0"},
        {"\"<ns>\"", "1", "1.5"},
        {"\"<num>\"", "-0.5", "\"1\""},
        {"\"<bool>\"", "false", "0"},
        {"\"<any>\"", "null", NULL},
        {"\"<object>\"", "{}", "[]"},
        {"\"<array>\"", "[]", "null"},
        {"\"<time>\"", "\"2026-01-31T09:08:07+01:00\"", "\"2026-01-31\""},
        {"\"<utc>\"", "\"2026-01-31T09:08:07.5Z\"", "\"2026-01-31T09:08:07+01:00\""},
        {"\"<digest>\"", "\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\"",
         "\"sha256:0123\""},
        {"\"<tagged>\"", "\"llama3.2:latest\"", "\"llama3.2\""},
        {"\"<tagged>\"", "\"host:80/a/b:c\"", "\"host:80/a/b\""},
        {"\"<of stop length>\"", "\"length\"", "\"lengths\""},
        {"\"<of stop length>\"", "\"stop\"", "1"},
        {"\"<begins chatcmpl->\"", "\"chatcmpl-7\"", "\"cmpl-7\""},
        {"\"<has a b>\"", "\"x a b\"", "\"a  b\""},
        {"\"<has a \\\"b\\\">\"", "\"a \\\"b\\\" c\"", "7"},
        {"\"a < b >\"", "\"a < b >\"", "\"a\""},
        {"null", "null", NULL},
        {"true", "true", "false"},
        {"{\"<json>\": {\"a\": \"<bool>\"}}", "\"{\\\"a\\\": true}\"", "\"{\\\"a\\\": 1}\""},
        {"{\"<json>\": {\"a\": \"<bool>\"}}", "\"{\\\"a\\\": true}\"", "{\"a\": true}"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        expect_same(all[i].kind, all[i].good);
        if (compare(all[i].kind, all[i].bad).n != 1)
            fail_msg("%s takes %s", all[i].kind, all[i].bad ? all[i].bad : "nothing");
        if (compare(all[i].kind, NULL).n != 1) fail_msg("%s takes nothing", all[i].kind);
    }
}

static void objects_have_their_keys_in_order_and_no_others(void **state) {
    (void)state;
    static const char shape[] = "{\"a\": 1, \"b\": \"<str?>\", \"c\": \"<bool>\"}";
    expect_same(shape, "{\"a\": 1, \"b\": \"\", \"c\": true}");
    expect_same(shape, "{\"a\": 1, \"c\": true}");
    expect_difference(shape, "{\"a\": 1, \"b\": null, \"c\": true}", "x.b", "a text", "null");
    expect_difference(shape, "{\"a\": 1}", "x.c", "true or false", "nothing");
    expect_difference(shape, "{\"a\": 1, \"c\": true, \"d\": {}}", "x.d", "no such field", "{}");
    expect_difference(shape, "{\"c\": true, \"a\": 1}", "x", "c behind a", "it stands before");
    expect_difference(shape, "[]", "x", "an object", "[]");
    expect_same("{\"a\": 1, \"...\": true}", "{\"z\": 0, \"a\": 1}");
    expect_same("{\"<any order>\": true, \"a\": 1, \"b\": 2}", "{\"b\": 2, \"a\": 1}");
    expect_difference("{\"<any order>\": true, \"a\": 1}", "{\"z\": 0, \"a\": 1}", "x.z", "no such field",
                      "0");
    expect_difference("{\"a\": {\"b\": [{\"c\": 1}]}}", "{\"a\": {\"b\": [{\"c\": 2}]}}", "x.a.b[0].c", "1",
                      "2");
    assert_int_equal(compare("{\"a\": 1, \"b\": 2}", "{\"c\": 3}").n, 3); /* each is told */
}

static void arrays_are_of_one_shape_or_of_given_values(void **state) {
    (void)state;
    expect_same("[\"<int>\"]", "[1, 2, 3]");
    expect_difference("[\"<int>\"]", "[]", "x", "not empty", "[]");
    expect_difference("[\"<int>\"]", "[1, \"a\", \"b\"]", "x[1]", "an integer",
                      "\"a\""); /* the first is enough */
    expect_same("[\"<int>\", \"...\"]", "[]");
    expect_difference("[\"<int>\", \"...\"]", "null", "x", "an array", "null");
    expect_same("[1, \"a\"]", "[1, \"a\"]");
    expect_difference("[1, \"a\"]", "[1]", "x", "an array of 2 values", "[1]");
    expect_same("[]", "[]");
    expect_difference("[]", "[1]", "x", "an empty array", "[1]");
}

static void long_values_are_cut(void **state) {
    (void)state;
    char value[2000];
    memset(value, 'v', sizeof value);
    value[0] = value[sizeof value - 2] = '"';
    value[sizeof value - 1] = '\0';
    seen s = compare("1", value);
    assert_int_equal(s.n, 1);
    assert_true(strlen(s.got) <= 200 && !strcmp(s.got + strlen(s.got) - 3, "..."));
}

/* ---- names */

static void expect_filled(const char *template, const char *filled, const char *unknown) {
    json_t *values = json_pack("{s:s, s:[i]}", "model", "m:1", "ids", 7);
    json_t *t = json_loads(template, JSON_DECODE_ANY, NULL);
    char name[64] = "";
    json_t *got = shape_fill(t, values, name);
    if (filled) {
        json_t *want = json_loads(filled, JSON_DECODE_ANY, NULL);
        assert_true(json_equal(got, want));
        json_decref(want);
    } else {
        assert_null(got);
        assert_string_equal(name, unknown);
    }
    json_decref(values);
    json_decref(t);
    json_decref(got);
}

static void names_are_filled_in(void **state) {
    (void)state;
    expect_filled("{\"a\": [\"$model\", 1], \"b\": \"'$model' not found\"}",
                  "{\"a\": [\"m:1\", 1], \"b\": \"'m:1' not found\"}", NULL);
    expect_filled("\"$ids\"", "[7]", NULL);
    expect_filled("\"$\"", "\"$\"", NULL);
    expect_filled("\"5$ or $5\"", "\"5$ or $5\"", NULL);
    expect_filled("{\"a\": [\"$model\", \"$nobody\"]}", NULL, "nobody");
    expect_filled("\"with $nobody in it\"", NULL, "nobody");
    expect_filled("\"ids are no text: $ids\"", NULL, "ids");
}

/* ---- framing */

static void expect_frames(json_t *(*read)(lm_str, char[200]), const char *body, const char *values,
                          const char *words) {
    char wrong[200];
    json_t *got = read(lm_str_of(body), wrong), *want = json_loads(values, 0, NULL);
    assert_non_null(want);
    if (!json_equal(got, want)) fail_msg("%s: %s", body, wrong);
    if (words ? !strstr(wrong, words) : wrong[0] != '\0') fail_msg("%s: %s", body, wrong);
    json_decref(got);
    json_decref(want);
}

static void lines_are_one_value_each(void **state) {
    (void)state;
    expect_frames(frames_of_lines, "{\"a\":1}\n2\n", "[{\"a\":1},2]", NULL);
    expect_frames(frames_of_lines, "", "[]", NULL);
    expect_frames(frames_of_lines, "1\n2", "[1]", "line 2, the last, has no end");
    expect_frames(frames_of_lines, "1\n\n2\n", "[1]", "line 2 is empty");
    expect_frames(frames_of_lines, "1\ndata: 2\n", "[1]", "line 2 is no JSON: data: 2");
}

static void events_have_names_and_data(void **state) {
    (void)state;
    expect_frames(frames_of_events, "event: a\ndata: {\"x\":1}\n\n: comment\ndata: [DONE]\n\n",
                  "[{\"event\":\"a\",\"data\":{\"x\":1}},{\"data\":\"[DONE]\"}]", NULL);
    expect_frames(frames_of_events, "data:1\r\n\r\n", "[{\"data\":1}]", NULL);
    expect_frames(frames_of_events, "data: [1,\ndata: 2]\n\n", "[{\"data\":[1,2]}]", NULL);
    expect_frames(frames_of_events, "data: 1\n", "[]", "no empty line");
    expect_frames(frames_of_events, "{\"x\":1}\n", "[]", "no field of an event");
}

/* ---- the cases */

static void each_case_is_well_formed_and_has_a_name_of_its_own(void **state) {
    (void)state;
    json_t *cases = conform_cases(), *ids = json_object(), *one;
    size_t i;
    char wrong[200];
    assert_true(json_array_size(cases) > 100);
    json_array_foreach(cases, i, one) {
        const char *id = json_string_value(json_object_get(one, "id"));
        if (!conform_case_is_valid(one, wrong)) fail_msg("%s: %s", id ? id : "?", wrong);
        const char *after = json_string_value(json_object_get(one, "after"));
        if (json_object_get(ids, id)) fail_msg("%s: twice", id);
        if (after && !json_object_get(ids, after)) fail_msg("%s: %s does not stand before it", id, after);
        json_object_set_new(ids, id, json_true());
    }
    json_decref(ids);
    json_decref(cases);
    static const char *const bad[] = {
        "{\"path\": \"/\"}",
        "{\"id\": \"a\", \"path\": \"/\", \"josn\": 1}",
        "{\"id\": \"a\", \"path\": \"/\", \"needs\": \"luck\"}",
        "{\"id\": \"a\", \"path\": \"/\", \"json\": {\"b\": [\"<sting>\"]}}",
        "{\"id\": \"a\", \"path\": \"/\", \"lines\": {\"first\": 1, \"last\": 1}}",
        "{\"id\": \"a\", \"path\": \"/\", \"events\": {\"each\": 1}}",
        "{\"id\": \"a\", \"path\": \"/\", \"events\": {\"named\": {\"b\": \"<sting>\"}, \"last\": 1}}",
        "{\"id\": \"a\", \"path\": \"/\", \"lines\": {\"before\": \"<sting>\", \"last\": 1}}"};
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        json_t *c = json_loads(bad[k], 0, NULL);
        if (conform_case_is_valid(c, wrong)) fail_msg("%s is taken", bad[k]);
        json_decref(c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds_are_what_they_say),
        cmocka_unit_test(objects_have_their_keys_in_order_and_no_others),
        cmocka_unit_test(arrays_are_of_one_shape_or_of_given_values),
        cmocka_unit_test(long_values_are_cut),
        cmocka_unit_test(names_are_filled_in),
        cmocka_unit_test(lines_are_one_value_each),
        cmocka_unit_test(events_have_names_and_data),
        cmocka_unit_test(each_case_is_well_formed_and_has_a_name_of_its_own),
    };
    return cmocka_run_group_tests_name("doctor.shape", tests, NULL, NULL);
}
