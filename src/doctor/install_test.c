/* Which models fit, in numbers. */
#include "base/test.h"
#include "doctor/install.h"

#define GB UINT64_C(1000000000)

static const need two[] = {{"small:1b", 2 * GB, ""}, {"large:70b", 40 * GB, " (39.0 weights, 1.0 more)"}};

static void all_that_fit_are_counted(void **state) {
    (void)state;
    doctor_result r = {0};
    judge_needs(two, 2, 64 * GB, "memory", "buy some", &r);
    assert_int_equal(r.state, DOCTOR_PASSED);
    assert_string_equal(
        r.detail, "64.0 GB of memory: all 2 models fit, the largest needs 40.0 GB (39.0 weights, 1.0 more)");
    assert_string_equal(r.remedy, "");
}

static void one_that_does_not_fit_is_advice(void **state) {
    (void)state;
    doctor_result r = {0};
    judge_needs(two, 2, 16 * GB, "memory", "buy some", &r);
    assert_int_equal(r.state, DOCTOR_PASSED);
    assert_string_equal(r.detail, "16.0 GB of memory: 1 of 2 models fit");
    assert_string_equal(r.remedy, "too large: large:70b needs 40.0 GB (39.0 weights, 1.0 more)");
}

static void none_that_fits_is_a_failure(void **state) {
    (void)state;
    doctor_result r = {0};
    judge_needs(two, 2, GB, "memory", "buy some", &r);
    assert_int_equal(r.state, DOCTOR_FAILED);
    assert_string_equal(r.remedy, "buy some");
    assert_non_null(strstr(r.detail, "small:1b needs 2.0 GB, large:70b needs 40.0 GB"));
}

static void many_long_names_are_cut(void **state) {
    (void)state;
    need many[200];
    char name[400];
    memset(name, 'n', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    for (int i = 0; i < 200; i++) many[i] = (need){.name = name, .bytes = 2 * GB};
    doctor_result r = {0};
    judge_needs(many, 200, GB, "memory", "buy some", &r);
    assert_int_equal(r.state, DOCTOR_FAILED);
    assert_true(strlen(r.detail) < sizeof r.detail);
}

static void a_full_disk_is_a_failure(void **state) {
    (void)state;
    doctor_result r = {0};
    judge_space("/models", GB / 2, NULL, 0, &r);
    assert_int_equal(r.state, DOCTOR_FAILED);
    assert_string_equal(r.detail, "0.5 GB are free for /models");
    assert_int_not_equal(r.remedy[0], 0);
    judge_space("/models", 0, two, 2, &r);
    assert_int_equal(r.state, DOCTOR_FAILED);
    judge_space("/models", 20 * GB, two, 2, &r);
    assert_int_equal(r.state, DOCTOR_PASSED);
    assert_non_null(strstr(r.remedy, "large:70b"));
    judge_space("/models", 20 * GB, NULL, 0, &r);
    assert_string_equal(r.detail, "20.0 GB are free for /models");
}

static void the_disk_of_a_directory_that_is_not_made_yet_is_known(void **state) {
    (void)state;
    uint64_t here = 0, there = 0;
    assert_true(disk_free("/tmp", &here));
    assert_true(disk_free("/tmp/no/such/directory", &there));
    assert_true(here && there);
    assert_true(disk_free("", &there));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_that_fit_are_counted),
        cmocka_unit_test(one_that_does_not_fit_is_advice),
        cmocka_unit_test(none_that_fits_is_a_failure),
        cmocka_unit_test(many_long_names_are_cut),
        cmocka_unit_test(a_full_disk_is_a_failure),
        cmocka_unit_test(the_disk_of_a_directory_that_is_not_made_yet_is_known),
    };
    return cmocka_run_group_tests_name("doctor.install", tests, NULL, NULL);
}
