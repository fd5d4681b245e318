#include "base/json.h"
#include "base/test.h"
#include "router/lists.h"

/* Backends are preferred by their number, but "turned:latest" the other way round. */
static uint32_t prefer(void *ctx, const char *model, uint32_t order[LM_ROUTER_MAX_BACKENDS]) {
    (void)ctx;
    bool turned = !strncmp(model, "turned", 6);
    for (uint32_t i = 0; i < 2; i++) order[i] = turned ? 1 - i : i;
    return 2;
}

static void expect_merged(size_t kind, const char *a, const char *b, const char *want) {
    json_t *lists[2] = {0};
    lm_err err = {0};
    lm_buf text;
    lm_buf_init(&text, 100000);
    if (a) expect_ok(lm_json_parse(lm_str_of(a), &lists[0], &err), err);
    if (b) expect_ok(lm_json_parse(lm_str_of(b), &lists[1], &err), err);
    json_t *merged = lists_merge(lists, 2, kind, prefer, NULL);
    lm_json_write_value(&text, merged);
    assert_string_equal(text.ptr, want);
    json_decref(merged);
    json_decref(lists[0]);
    json_decref(lists[1]);
    lm_buf_release(&text);
}

static void the_newest_stands_first_whatever_its_zone(void **state) {
    (void)state;
    expect_merged(LIST_TAGS,
                  "[{\"name\":\"a:1\",\"modified_at\":\"2026-01-01T00:00:00Z\"},{\"name\":\"b:1\",\"modified_"
                  "at\":\"2026-03-01T01:00:00+02:00\"}]",
                  "[{\"name\":\"c:1\",\"modified_at\":\"2026-02-28T23:30:00.5Z\"},{\"name\":\"d:1\"}]",
                  "[{\"name\":\"c:1\",\"modified_at\":\"2026-02-28T23:30:00.5Z\"},{\"name\":\"b:1\","
                  "\"modified_at\":\"2026-03-01T01:00:00+02:00\"},"
                  "{\"name\":\"a:1\",\"modified_at\":\"2026-01-01T00:00:00Z\"},{\"name\":\"d:1\"}]");
}

static void a_name_that_two_have_stands_there_once_as_who_is_asked_has_it(void **state) {
    (void)state;
    expect_merged(LIST_TAGS,
                  "[{\"name\":\"M:latest\",\"digest\":\"a\"},{\"name\":\"turned:latest\",\"digest\":\"a\"}]",
                  "[{\"name\":\"m\",\"digest\":\"b\"},{\"name\":\"turned:latest\",\"digest\":\"b\"}]",
                  "[{\"name\":\"M:latest\",\"digest\":\"a\"},{\"name\":\"turned:latest\",\"digest\":\"b\"}]");
}

static void what_stays_loaded_longest_stands_first(void **state) {
    (void)state;
    expect_merged(LIST_PS, "[{\"name\":\"a:1\",\"expires_at\":\"2026-01-01T00:00:00Z\"}]",
                  "[{\"name\":\"b:1\",\"expires_at\":\"2318-03-10T10:00:00.123456789+01:00\"}]",
                  "[{\"name\":\"b:1\",\"expires_at\":\"2318-03-10T10:00:00.123456789+01:00\"},{\"name\":\"a:"
                  "1\",\"expires_at\":\"2026-01-01T00:00:00Z\"}]");
}

static void openai_lists_are_sorted_by_their_numbers(void **state) {
    (void)state;
    expect_merged(LIST_V1, "[{\"id\":\"a:1\",\"created\":5}]",
                  "[{\"id\":\"b:1\",\"created\":7},{\"id\":\"turned:latest\",\"created\":6}]",
                  "[{\"id\":\"b:1\",\"created\":7},{\"id\":\"turned:latest\",\"created\":6},{\"id\":\"a:1\","
                  "\"created\":5}]");
}

static void what_is_no_list_adds_nothing(void **state) {
    (void)state;
    expect_merged(LIST_TAGS, NULL, "[5,{},{\"name\":7},{\"name\":\"\"},{\"name\":\"///\"}]",
                  "[{\"name\":\"\"},{\"name\":\"///\"}]");
}

static void times_are_read_as_rfc_3339_writes_them(void **state) {
    (void)state;
    assert_int_equal(lists_time("1970-01-01T00:00:00Z"), 0);
    assert_int_equal(lists_time("2000-03-01T00:00:00Z"), INT64_C(951868800000000));
    assert_int_equal(lists_time("2026-01-31T09:08:07.5Z"), INT64_C(1769850487500000));
    assert_int_equal(lists_time("2026-01-31T10:08:07.5+01:00"), INT64_C(1769850487500000));
    assert_int_equal(lists_time("2318-03-10T10:00:00Z"), INT64_C(10987696800000000));
    static const char *const none[] = {
        "", "2026", "2026-13-01T00:00:00Z", "2026-01-01", "2026-01-01T00:00:00+1", "x", "2026-01-01T0"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) assert_true(lists_time(none[i]) == INT64_MIN);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_newest_stands_first_whatever_its_zone),
        cmocka_unit_test(a_name_that_two_have_stands_there_once_as_who_is_asked_has_it),
        cmocka_unit_test(what_stays_loaded_longest_stands_first),
        cmocka_unit_test(openai_lists_are_sorted_by_their_numbers),
        cmocka_unit_test(what_is_no_list_adds_nothing),
        cmocka_unit_test(times_are_read_as_rfc_3339_writes_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
