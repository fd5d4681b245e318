/* Another rank is gone: whoever asked hears why, whatever the step thread is doing, and the end is not waited
 * for in vain. */
#include <string.h>
#include <unistd.h>

#include "fake.h"

#define TEXT "rank 1 (10.0.0.2) was lost: the connection was closed; restart the server"

/* The runner whose step thread is left behind keeps its other thread, too; nobody joins it. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) {
    return "report_thread_leaks=0";
}

static gate at_step, at_failing; /* each for one test: a thread that is left behind may still look at it */
static lm_engine *losing;

static void wait_at_step(uint32_t n) {
    (void)n;
    gate_pass(&at_step);
}

static void wait_at_failing(uint32_t n) {
    (void)n;
    gate_pass(&at_failing);
}

/* On the step thread, between two steps. */
static void losing_sink(void *ctx, const lm_event *event) {
    if (event->kind == LM_EVENT_TEXT) lm_engine_lose(losing, 1, TEXT);
    heard_sink(ctx, event);
}

static lm_engine *open_ranks(uint32_t n_parallel) {
    static const lm_world world = {.rank = 0, .size = 2, .split = LM_SPLIT_PIPELINE};
    lm_engine_config config = default_config(n_parallel);
    config.world = &world;
    lm_engine *e = NULL;
    lm_err err = {0};
    expect_ok(lm_engine_open(&e, &config, &err), err);
    return e;
}

static lm_request *endless(void) {
    lm_request *r = raw_request("x");
    r->options.num_predict = 1000000;
    r->options.num_ctx = 64;
    return r;
}

static void expect_lost(heard *h) {
    heard_wait(h);
    assert_int_equal(h->status, LM_BUSY);
    assert_string_equal(h->error, TEXT);
}

static void expect_refused(lm_engine *e) {
    heard h;
    lm_err err = {0};
    heard_init(&h);
    expect_fail(submit_to(e, "m:latest", endless(), &h, &err), LM_BUSY, err, TEXT);
    lm_engine_stats s;
    lm_engine_get_stats(e, &s);
    assert_true(s.lost);
    assert_int_equal(s.lost_rank, 1);
    assert_string_equal(s.lost_text, TEXT);
    assert_int_equal(s.n_running + s.n_waiting, 0);
}

static void a_server_of_several_ranks_says_so(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_ranks(2);
    lm_engine_stats s;
    lm_engine_get_stats(e, &s);
    assert_int_equal(s.world_size, 2);
    assert_int_equal(s.split, LM_SPLIT_PIPELINE);
    assert_false(s.lost);
    lm_engine_close(e, 0);
    e = open_engine(2);
    lm_engine_get_stats(e, &s);
    assert_int_equal(s.world_size, 0);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void one_model_at_a_time(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_ranks(1);
    heard h;
    heard_init(&h);
    ask(e, raw_request("a"), &h);
    lm_err err = {0};
    heard_init(&h);
    expect_ok(submit_to(e, "n:latest", raw_request("a"), &h, &err), err);
    heard_wait(&h);
    assert_int_equal(h.status, LM_OK);
    lm_job_unref(h.job);
    assert_int_equal(lm_engine_list(e, NULL, 0), 1);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_loss_while_nothing_runs_refuses_what_comes(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_ranks(2);
    heard h;
    heard_init(&h);
    ask(e, raw_request("a"), &h);
    assert_int_equal(h.status, LM_OK);
    lm_engine_lose(e, 1, TEXT);
    lm_engine_lose(e, 2, "the first one counts");
    expect_refused(e);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_loss_in_mid_answer_ends_it(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = losing = open_ranks(2);
    lm_model_ref ref = {.name = "m:latest", .dir = "/m/m:latest", .digest = "abc", .size = 1};
    lm_err err = {0};
    heard h;
    heard_init(&h);
    expect_ok(lm_engine_submit(e, &ref, endless(), losing_sink, &h, &h.job, &err), err);
    expect_lost(&h);
    expect_refused(e);
    lm_engine_close(e, 0);
    lm_job_unref(h.job);
    assert_all_gone();
}

static void nobody_waits_for_a_thread_that_does_not_come_back(void **state) {
    (void)state;
    fake_reset();
    gate_init(&at_step, false);
    lm_engine *e = open_ranks(2);
    heard running[2], ready, elsewhere;
    lm_err err = {0};
    fake.step_hook = wait_at_step;
    for (int i = 0; i < 2; i++) {
        heard_init(&running[i]);
        submit(e, endless(), &running[i]);
    }
    gate_await(&at_step, 1);
    heard_init(&ready); /* no place is free */
    submit(e, endless(), &ready);
    heard_init(&elsewhere); /* waits for the room of the first model */
    expect_ok(submit_to(e, "n:latest", endless(), &elsewhere, &err), err);
    lm_engine_lose(e, 1, TEXT);
    expect_lost(&running[0]);
    expect_lost(&running[1]);
    expect_lost(&ready);
    expect_lost(&elsewhere);
    expect_refused(e);
    lm_engine_close(e, 0); /* returns */

    uint32_t steps = atomic_load(&fake.n_steps);
    gate_open(&at_step);
    usleep(50000); /* should it do anything now, the sanitizers have time to see it */
    assert_int_equal(atomic_load(&fake.n_steps), steps);
    lm_job_unref(running[0].job);
    lm_job_unref(running[1].job);
    lm_job_unref(ready.job);
    lm_job_unref(elsewhere.job);
}

static void *lose_later(void *e) {
    gate_await(&at_failing, 1);
    gate_open(&at_failing);
    usleep(50000); /* the step has failed by now */
    lm_engine_lose(e, 1, TEXT);
    return NULL;
}

static void a_backend_that_knows_it_before_the_link_waits_for_the_link(void **state) {
    (void)state;
    memset(&fake, 0, sizeof(fake)); /* the test before has left a thread behind, and what it holds */
    fake_reset();
    gate_init(&at_failing, false);
    lm_engine *e = open_ranks(2);
    heard h;
    heard_init(&h);
    fake.step_hook = wait_at_failing;
    fake.fail_step = 1;
    pthread_t other;
    assert_int_equal(pthread_create(&other, NULL, lose_later, e), 0);
    submit(e, endless(), &h);
    expect_lost(&h);
    pthread_join(other, NULL);
    expect_refused(e);
    lm_engine_close(e, 0);
    lm_job_unref(h.job);
}

static void a_fault_that_is_nobodys_loss_keeps_its_reason(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_ranks(2);
    heard h;
    heard_init(&h);
    fake.fail_step = 1;
    ask(e, endless(), &h);
    assert_int_equal(h.status, LM_INTERNAL);
    fake.fail_step = 0;
    ask(e, raw_request("a"), &h);
    assert_int_equal(h.status, LM_OK);
    lm_engine_close(e, 0);
    assert_all_gone();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_server_of_several_ranks_says_so),
        cmocka_unit_test(one_model_at_a_time),
        cmocka_unit_test(a_loss_while_nothing_runs_refuses_what_comes),
        cmocka_unit_test(a_loss_in_mid_answer_ends_it),
        cmocka_unit_test(a_fault_that_is_nobodys_loss_keeps_its_reason),
        cmocka_unit_test(nobody_waits_for_a_thread_that_does_not_come_back),
        cmocka_unit_test(a_backend_that_knows_it_before_the_link_waits_for_the_link),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
