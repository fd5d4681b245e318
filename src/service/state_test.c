#include "base/test.h"
#include "service/service.h"

static void what_is_noted_is_read_again(void **state) {
    (void)state;
    lm_err err = {0};
    char path[200];
    snprintf(path, sizeof path, "%s/below/state.json", test_dir());
    service_state s = {.phase = PHASE_WAITING,
                       .supervisor = 12,
                       .bridge = 34,
                       .supervisor_began = UINT64_C(1) << 40,
                       .bridge_began = 5,
                       .since_ns = 6,
                       .n_starts = 7,
                       .n_failures = 8,
                       .n_reloads = 9,
                       .n_requests = 10,
                       .stop_ns = 11,
                       .url = "http://127.0.0.1:1",
                       .trouble = "it \"ended\"\n",
                       .reload = "failed: x"};
    service_state got;
    expect_ok(service_state_write(path, &s, &err), err);
    expect_ok(service_state_read(path, &got, &err), err);
    assert_memory_equal(&s, &got, sizeof s);
}

static void rubbish_is_no_state(void **state) {
    (void)state;
    static const char *const texts[] = {
        "", "[]", "{}", "null", "{\"phase\": \"happy\"}", "{\"phase\": 1}", "{\"phase\": \"ready\"", "\xff"};
    lm_err err = {0};
    service_state got;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        expect_fail(service_state_parse(lm_str_of(texts[i]), &got, &err), LM_CORRUPT, err, "no state");
    expect_ok(service_state_parse(
                  LM_STR("{\"phase\": \"ready\", \"bridge\": -5, \"supervisor\": 99999999999, \"url\": 7, "
                         "\"stop_ns\": 9000000000000000000}"),
                  &got, &err),
              err);
    assert_int_equal(got.bridge, 0); /* nothing that kill(2) would take for a group */
    assert_int_equal(got.supervisor, 0);
    assert_string_equal(got.url, "");
    assert_true(got.stop_ns <= 7200 * SERVICE_SECOND_NS);
}

static void none_is_not_found(void **state) {
    (void)state;
    lm_err err = {0};
    service_state got;
    expect_fail(service_state_read("/nowhere/state.json", &got, &err), LM_NOT_FOUND, err, "/nowhere");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_is_noted_is_read_again, make_test_dir, remove_test_dir),
        cmocka_unit_test(rubbish_is_no_state),
        cmocka_unit_test(none_is_not_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
