/* What a watchdog asks: is there work, and does it get on? */
#include <unistd.h>

#include "fake.h"

static gate at_step, at_load;

static void wait_at_step(uint32_t n) {
    (void)n;
    gate_pass(&at_step);
}

static void wait_at_load(void) {
    gate_pass(&at_load);
}

static lm_engine_pulse pulse_of(lm_engine *e) {
    lm_engine_pulse p;
    lm_engine_get_pulse(e, &p);
    return p;
}

static void nothing_to_do_is_no_hang(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(2);
    lm_engine_pulse p = pulse_of(e);
    assert_int_equal(p.n_steps + p.turn_ns + p.load_ns, 0);
    heard h;
    heard_init(&h);
    ask(e, raw_request("a"), &h);
    assert_int_equal(h.status, LM_OK);
    do p = pulse_of(e); /* the thread is between the last word and its rest */
    while (p.turn_ns);
    assert_true(p.n_steps > 0);
    assert_int_equal(p.load_ns, 0);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_step_that_does_not_end_is_seen(void **state) {
    (void)state;
    fake_reset();
    gate_init(&at_step, false);
    fake.step_hook = wait_at_step;
    lm_engine *e = open_engine(2);
    heard h;
    lm_err err = {0};
    heard_init(&h);
    expect_ok(submit_to(e, "m:latest", raw_request("a"), &h, &err), err);
    gate_await(&at_step, 1);
    uint64_t first = pulse_of(e).turn_ns, n_steps = pulse_of(e).n_steps;
    assert_true(first > 0);
    while (pulse_of(e).turn_ns < first + 20000000) usleep(1000); /* it grows as time passes */
    assert_int_equal(pulse_of(e).n_steps, n_steps);
    gate_open(&at_step);
    heard_wait(&h);
    lm_job_unref(h.job);
    while (pulse_of(e).turn_ns) usleep(1000);
    assert_true(pulse_of(e).n_steps > n_steps);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_load_counts_as_one(void **state) {
    (void)state;
    fake_reset();
    gate_init(&at_load, false);
    fake.load_hook = wait_at_load;
    lm_engine *e = open_engine(2);
    heard h;
    lm_err err = {0};
    heard_init(&h);
    expect_ok(submit_to(e, "m:latest", raw_request("a"), &h, &err), err);
    gate_await(&at_load, 1);
    lm_engine_pulse p = pulse_of(e);
    assert_true(p.load_ns > 0);
    assert_int_equal(p.turn_ns, 0);
    gate_open(&at_load);
    heard_wait(&h);
    lm_job_unref(h.job);
    assert_int_equal(pulse_of(e).load_ns, 0);
    lm_engine_close(e, 0);
    assert_all_gone();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_to_do_is_no_hang),
        cmocka_unit_test(a_step_that_does_not_end_is_seen),
        cmocka_unit_test(a_load_counts_as_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
