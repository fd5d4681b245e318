/* manager_test.c - which models are loaded, when they go, and who waits for whom. */
#include <sched.h>
#include <unistd.h>

#include "engine/tests/fake.h"

static heard h, g;

/* Waits for something that other threads are about to do; a test that never gets there runs into ctest's
 * limit. */
#define await(cond)                                                                                          \
    while (!(cond)) usleep(500)

static lm_request *load_request(void) {
    lm_request *r = lm_request_new();
    r->kind = LM_REQUEST_LOAD;
    return r;
}

static void ask_model(lm_engine *e, const char *name, lm_request *r, heard *to) {
    lm_err err = {0};
    expect_ok(submit_to(e, name, r, to, &err), err);
    heard_wait(to);
}

static lm_engine *open_with(lm_engine_config config) {
    lm_engine *e = NULL;
    lm_err err = {0};
    expect_ok(lm_engine_open(&e, &config, &err), err);
    return e;
}

static bool is_loaded(lm_engine *e, const char *name) {
    lm_loaded all[8];
    uint32_t n = lm_engine_list(e, all, 8);
    for (uint32_t i = 0; i < n && i < 8; i++) {
        if (strcmp(all[i].name, name) == 0) return true;
    }
    return false;
}

static atomic_ullong now_ns;
static uint64_t test_clock(void) {
    return atomic_load(&now_ns);
}

static void advance(lm_engine *e, uint64_t ns) {
    atomic_fetch_add(&now_ns, ns);
    lm_engine_set_clock(e, test_clock); /* and a look at it */
}

#define SECOND 1000000000ull

static gate at_step;
static void wait_at_step(uint32_t n) {
    (void)n;
    gate_pass(&at_step);
}

/* ---- loading and staying */

static void a_model_is_loaded_by_the_first_request_and_stays(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    ask(e, load_request(), &h);
    assert_string_equal(h.order, "LD");
    assert_int_equal(h.reason, LM_DONE_LOAD);
    ask(e, raw_request("one"), &h);
    ask(e, raw_request("two"), &h);
    assert_int_equal(h.status, LM_OK);
    assert_int_equal(fake.n_loads, 1);
    assert_int_equal(fake.n_text_loads, 1);
    lm_loaded one;
    memset(&one, 0, sizeof(one));
    assert_int_equal(lm_engine_list(e, &one, 1), 1);
    assert_string_equal(one.name, "m:latest");
    assert_string_equal(one.digest, "abc");
    assert_int_equal(one.n_ctx, 256);
    assert_int_equal(one.size, fake.small + 1024);
    assert_true(one.expires_wall_ns == INT64_MAX);
    assert_int_equal(lm_engine_list(e, NULL, 0), 1);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_model_on_a_gpu_is_listed_with_its_memory(void **state) {
    (void)state;
    for (int gpu = 0; gpu < 2; gpu++) {
        fake_reset();
        fake.gpu = gpu;
        lm_engine *e = open_engine(1);
        ask(e, load_request(), &h);
        lm_loaded one;
        assert_int_equal(lm_engine_list(e, &one, 1), 1);
        assert_int_equal(one.size, fake.small + 1024);
        assert_int_equal(one.size_device, gpu ? one.size : 0);
        lm_engine_close(e, 0);
        assert_all_gone();
    }
}

static void what_a_model_needs_is_known_without_an_engine(void **state) {
    (void)state;
    fake_reset();
    lm_engine_config config = {.backend = &fake_backend};
    lm_engine_need need = {0};
    lm_err err = {0};
    fake.ctx_train = 0;
    expect_ok(lm_engine_need_of(&config, "dir", 0, &need, &err), err);
    assert_int_equal(need.n_ctx, 4096);
    assert_int_equal(need.n_parallel, 1);
    assert_int_equal(need.model.weights, fake.small);
    config.default_ctx = 512;
    config.n_parallel = 3;
    expect_ok(lm_engine_need_of(&config, "dir", 0, &need, &err), err);
    assert_int_equal(need.n_ctx, 512);
    assert_int_equal(need.n_parallel, 3);
    fake.ctx_train = 128;
    expect_ok(lm_engine_need_of(&config, "dir", 1024, &need, &err), err);
    assert_int_equal(need.n_ctx, 128); /* no more than it was trained on */
    atomic_store(&fake.missing, true);
    assert_int_equal(lm_engine_need_of(&config, "dir", 0, &need, &err), LM_NOT_FOUND);
    fake_reset();
}

static void steps_are_as_long_as_the_device_likes(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(3);
    assert_int_equal(lm_engine_max_batch(&e->config), 512);
    fake.max_batch = 2048;
    assert_int_equal(lm_engine_max_batch(&e->config), 2048);
    fake.max_batch = 2; /* every sequence has its row */
    assert_int_equal(lm_engine_max_batch(&e->config), 3);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void the_backend_is_told_when_nothing_runs(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(2);
    ask(e, load_request(), &h);
    assert_int_equal(fake.n_idle, 0);
    ask(e, raw_request("one"), &h);
    await(fake.n_idle == 1);
    ask(e, raw_request("two"), &h);
    await(fake.n_idle == 2);
    lm_engine_close(e, 0);
    assert_int_equal(fake.n_idle, 2);
    assert_all_gone();
}

static void an_idle_model_goes_when_its_keep_alive_is_over(void **state) {
    (void)state;
    fake_reset();
    lm_engine_config config = default_config(1);
    config.keep_alive_ns = 300 * SECOND;
    lm_engine *e = open_with(config);
    advance(e, SECOND);
    ask(e, raw_request("one"), &h);
    advance(e, 299 * SECOND);
    ask(e, raw_request("two"), &h); /* starts the time anew */
    advance(e, 299 * SECOND);
    ask(e, raw_request("three"), &h);
    assert_int_equal(fake.n_loads, 1);
    advance(e, 300 * SECOND);
    await(fake.n_models_open == 0 && fake.n_texts_open == 0);
    assert_int_equal(fake.n_pages_used, 0);
    assert_int_equal(lm_engine_list(e, NULL, 0), 0);
    ask(e, raw_request("four"), &h);
    assert_int_equal(fake.n_loads, 2);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void the_last_requests_keep_alive_wins(void **state) {
    (void)state;
    fake_reset();
    lm_engine_config config = default_config(1);
    config.keep_alive_ns = 10 * SECOND;
    lm_engine *e = open_with(config);
    advance(e, SECOND);
    lm_request *r = raw_request("one");
    r->keep_alive_ns = -1;
    ask(e, r, &h);
    ask(e, raw_request("two"), &h); /* says nothing: it stays for ever */
    advance(e, 1000000 * SECOND);
    ask(e, raw_request("three"), &h);
    assert_int_equal(fake.n_loads, 1);
    r = raw_request("four");
    r->keep_alive_ns = INT64_MAX; /* no overflow */
    ask(e, r, &h);
    advance(e, 1000000 * SECOND);
    ask(e, raw_request("five"), &h);
    assert_int_equal(fake.n_loads, 1);
    r = raw_request("six");
    r->keep_alive_ns = 0;
    ask(e, r, &h);
    assert_int_equal(h.status, LM_OK);
    await(fake.n_models_open == 0);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_working_model_does_not_expire(void **state) {
    (void)state;
    fake_reset();
    gate_init(&at_step, false);
    fake.step_hook = wait_at_step;
    lm_engine_config config = default_config(1);
    config.keep_alive_ns = SECOND;
    lm_engine *e = open_with(config);
    submit(e, raw_request("one"), &h);
    gate_await(&at_step, 1);
    advance(e, 100 * SECOND);
    advance(e, 100 * SECOND);
    assert_int_equal(lm_engine_list(e, NULL, 0), 1);
    gate_open(&at_step);
    heard_wait(&h);
    assert_int_equal(h.status, LM_OK);
    assert_int_equal(strlen(h.text), 50);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void only_a_larger_context_or_another_digest_loads_anew(void **state) {
    (void)state;
    fake_reset();
    fake.ctx_train = 1000;
    lm_engine *e = open_engine(1);
    uint32_t sizes[] = {100, 50, 100, 200, 150, 5000, 1000, 2000};
    uint32_t loads[] = {1, 1, 1, 2, 2, 3, 3, 3}; /* what the model was trained on is the most */
    for (int i = 0; i < 8; i++) {
        lm_request *r = raw_request("x");
        r->options.num_ctx = sizes[i];
        ask(e, r, &h);
        assert_int_equal(h.status, LM_OK);
        assert_int_equal(fake.n_loads, loads[i]);
    }
    lm_model_ref ref = {.name = "m:latest", .dir = "/m/m:latest", .digest = "other"};
    lm_err err = {0};
    heard_init(&h);
    expect_ok(lm_engine_submit(e, &ref, raw_request("x"), heard_sink, &h, &h.job, &err), err);
    heard_wait(&h);
    assert_int_equal(fake.n_loads, 4);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_directory_that_vanishes_does_not_disturb_a_loaded_model(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    ask(e, raw_request("one"), &h);
    atomic_store(&fake.missing, 1);
    ask(e, raw_request("two"), &h);
    assert_int_equal(h.status, LM_OK);
    lm_request *r = raw_request("three");
    r->options.num_ctx = 1000; /* would have to be loaded again */
    ask(e, r, &h);
    assert_int_equal(h.status, LM_NOT_FOUND);
    assert_non_null(strstr(h.error, "no such directory"));
    ask(e, raw_request("four"), &h); /* what is loaded was not given up for it */
    assert_int_equal(h.status, LM_OK);
    assert_int_equal(fake.n_loads, 1);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void unloading_waits_for_running_answers(void **state) {
    (void)state;
    fake_reset();
    gate_init(&at_step, false);
    fake.step_hook = wait_at_step;
    lm_engine *e = open_engine(1);
    lm_err err = {0};
    expect_fail(lm_engine_unload(e, "m:latest", &err), LM_NOT_FOUND, err, "not loaded");
    submit(e, raw_request("one"), &h);
    gate_await(&at_step, 1);
    expect_ok(lm_engine_unload(e, "m:latest", &err), err);
    assert_int_equal(lm_engine_list(e, NULL, 0), 1); /* still working */
    submit(e, raw_request("two"), &g);               /* waits for the next load */
    gate_open(&at_step);
    heard_wait(&h);
    assert_int_equal(h.status, LM_OK);
    assert_int_equal(strlen(h.text), 50);
    heard_wait(&g);
    assert_int_equal(g.status, LM_OK);
    assert_int_equal(fake.n_loads, 2);
    expect_ok(lm_engine_unload(e, "m:latest", &err), err);
    assert_int_equal(lm_engine_list(e, NULL, 0), 0); /* idle: gone for whoever asks, at once */
    await(fake.n_models_open == 0);
    lm_engine_close(e, 0);
    assert_all_gone();
}

/* ---- room */

static void two_requests_for_two_models_are_both_served_where_one_fits(void **state) {
    (void)state;
    fake_reset();
    static heard many[8];
    lm_engine_config config = default_config(2);
    config.max_models = 1;
    lm_engine *e = open_with(config);
    lm_err err = {0};
    for (int i = 0; i < 8; i++)
        expect_ok(submit_to(e, i % 2 ? "a" : "b", raw_request("x"), &many[i], &err), err);
    for (int i = 0; i < 8; i++) {
        heard_wait(&many[i]);
        assert_int_equal(many[i].status, LM_OK);
        assert_int_equal(strlen(many[i].text), 50);
    }
    assert_int_equal(lm_engine_list(e, NULL, 0), 1);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void who_waits_for_room_is_not_overtaken_for_ever(void **state) {
    (void)state;
    fake_reset();
    gate_init(&at_step, false);
    fake.step_hook = wait_at_step;
    static heard a1, b, a2;
    lm_engine_config config = default_config(1);
    config.max_models = 1;
    lm_engine *e = open_with(config);
    lm_err err = {0};
    expect_ok(submit_to(e, "a", raw_request("1"), &a1, &err), err);
    gate_await(&at_step, 1);
    expect_ok(submit_to(e, "b", raw_request("2"), &b, &err), err);
    await(fake.n_estimates == 2); /* b's turn has begun: a has to go */
    expect_ok(submit_to(e, "a", raw_request("3"), &a2, &err), err);
    gate_open(&at_step);
    heard_wait(&a1);
    heard_wait(&b);
    heard_wait(&a2);
    assert_int_equal(fake.n_loads, 3); /* a, b, a: the second request for a did not keep a loaded */
    assert_int_equal(b.status, LM_OK);
    assert_int_equal(a2.status, LM_OK);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void the_model_idle_longest_makes_room(void **state) {
    (void)state;
    fake_reset();
    lm_engine_config config = default_config(1);
    config.memory_budget = 3 * fake.small + 3 * 1024;
    lm_engine *e = open_with(config);
    advance(e, SECOND);
    ask_model(e, "a", raw_request("x"), &h);
    advance(e, SECOND);
    ask_model(e, "b", raw_request("x"), &h);
    advance(e, SECOND);
    ask_model(e, "c", raw_request("x"), &h);
    advance(e, SECOND);
    ask_model(e, "a", raw_request("x"), &h);
    advance(e, SECOND);
    assert_int_equal(fake.n_loads, 3);
    ask_model(e, "d", raw_request("x"), &h);
    assert_int_equal(h.status, LM_OK);
    assert_true(is_loaded(e, "a"));
    assert_false(is_loaded(e, "b"));
    assert_true(is_loaded(e, "c"));
    assert_true(is_loaded(e, "d"));
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_model_that_can_not_fit_is_refused_with_numbers_and_costs_nobody_anything(void **state) {
    (void)state;
    fake_reset();
    fake.big = 5ull << 30;
    lm_engine *e = open_engine(2);
    ask_model(e, "small", raw_request("x"), &h);
    for (int i = 0; i < 2; i++) {
        ask_model(e, "big", raw_request("x"), &h);
        assert_int_equal(h.status, LM_NO_MEMORY);
        assert_non_null(
            strstr(h.error, "model requires more system memory (5.0 GiB) than is available (1.0 GiB)"));
        assert_non_null(strstr(h.error, "2 sequences of 256 tokens"));
    }
    assert_int_equal(fake.n_estimates, 3); /* computed again each time: a refusal never sticks */
    assert_true(is_loaded(e, "small"));
    fake.big = 1 << 20;
    ask_model(e, "big", raw_request("x"), &h);
    assert_int_equal(h.status, LM_OK);
    assert_true(is_loaded(e, "small"));
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_failed_load_is_tried_afresh_by_the_next_request(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    ask_model(e, "other", raw_request("x"), &h);
    for (int i = 0; i < 3; i++) {
        atomic_store(i % 2 ? &fake.fail_text : &fake.fail_load, 1);
        ask(e, raw_request("x"), &h);
        assert_int_equal(h.status, i % 2 ? LM_NOT_FOUND : LM_CORRUPT);
        assert_non_null(strstr(h.error, "injected"));
        assert_string_equal(h.order, "E");
    }
    ask(e, raw_request("x"), &h);
    assert_int_equal(h.status, LM_OK);
    assert_true(is_loaded(e, "other"));
    lm_engine_close(e, 0);
    assert_all_gone();
}

/* ---- the queue */

static void a_full_queue_says_busy_in_ollamas_words(void **state) {
    (void)state;
    fake_reset();
    static heard many[8];
    gate_init(&at_step, false);
    fake.step_hook = wait_at_step;
    lm_engine_config config = default_config(2);
    config.max_queue = 3;
    lm_engine *e = open_with(config);
    lm_err err = {0};
    for (int i = 0; i < 5; i++)
        expect_ok(submit_to(e, "m", raw_request("x"), &many[i], &err), err); /* 2 run, 3 wait */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(submit_to(e, "m", raw_request("x"), &many[5], &err), LM_BUSY);
        assert_string_equal(err.text, "server busy, please try again.  maximum pending requests exceeded");
    }
    gate_await(&at_step, 1);
    lm_engine_stats stats;
    lm_engine_get_stats(e, &stats);
    assert_int_equal(stats.n_running + stats.n_waiting, 5);
    assert_int_equal(stats.n_requests, 8);
    assert_int_equal(stats.n_failed, 3);
    lm_job_cancel(many[4].job); /* makes a place in the queue */
    heard_wait(&many[4]);
    expect_ok(submit_to(e, "m", raw_request("x"), &many[5], &err), err);
    gate_open(&at_step);
    for (int i = 0; i < 6; i++) {
        if (i != 4) heard_wait(&many[i]);
        assert_int_equal(many[i].status, i == 4 ? LM_CANCELLED : LM_OK);
    }
    lm_engine_close(e, 0);
    assert_all_gone();
}

/* ---- closing */

static void *close_slowly(void *e) {
    lm_engine_close(e, -1);
    return NULL;
}

static void closing_lets_running_answers_finish_and_takes_nothing_new(void **state) {
    (void)state;
    fake_reset();
    gate_init(&at_step, false);
    fake.step_hook = wait_at_step;
    lm_engine *e = open_engine(1);
    submit(e, raw_request("one"), &h);
    gate_await(&at_step, 1);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, close_slowly, e), 0);
    lm_err err = {0};
    static heard more[64];
    int n = 0;
    while (n < 64 && submit_to(e, "m:latest", raw_request("x"), &more[n], &err) == LM_OK) {
        n++;
        usleep(2000);
    }
    if (n == 64) fail_msg("closing never began");
    assert_string_equal(err.text, "the server is shutting down");
    gate_open(&at_step);
    assert_int_equal(pthread_join(t, NULL), 0);
    heard_wait(&h);
    assert_int_equal(h.status, LM_OK);
    assert_int_equal(strlen(h.text), 50);
    for (int i = 0; i < n; i++) heard_wait(&more[i]);
    assert_all_gone();
}

static void closing_at_once_cancels_what_runs_and_what_waits(void **state) {
    (void)state;
    fake_reset();
    static heard many[4];
    gate_init(&at_step, true);
    fake.script = "x\3";
    lm_engine *e = open_engine(1);
    for (int i = 0; i < 4; i++) {
        lm_request *r = raw_request(">");
        r->options.num_predict = -1;
        r->options.num_ctx = 1 << 16;
        submit(e, r, &many[i]);
    }
    await(fake.n_steps > 2);
    lm_job *late = many[3].job;
    many[3].job = NULL;
    lm_engine_close(e, 0);
    for (int i = 0; i < 4; i++) {
        assert_true(many[i].done); /* before close returned */
        assert_int_equal(many[i].status, LM_CANCELLED);
    }
    lm_job_cancel(late); /* a handle may outlive the engine */
    lm_job_unref(late);
    for (int i = 0; i < 3; i++) heard_wait(&many[i]);
    assert_all_gone();
}

/* ---- everything at once */

typedef struct storm {
    lm_engine *e;
    uint32_t seed;
    uint32_t n_ok, n_cancelled, n_busy, n_unloads;
} storm;

static uint32_t roll(uint32_t *s, uint32_t n) {
    *s = *s * 1664525u + 1013904223u;
    return (*s >> 8) % n;
}

static void *blow(void *arg) {
    storm *s = arg;
    static const char *const names[] = {"a", "b", "c"};
    heard *mine = malloc(sizeof(*mine));
    for (int i = 0; i < 60; i++) {
        char prompt[600];
        uint32_t n = roll(&s->seed, 500) + 1;
        memset(prompt, 'a' + (int)roll(&s->seed, 3), n);
        prompt[n] = 0;
        lm_request *r = raw_request(prompt);
        r->options.num_ctx = roll(&s->seed, 8) ? 0 : 300 + roll(&s->seed, 300);
        r->keep_alive_ns = roll(&s->seed, 10) ? LM_KEEP_ALIVE_DEFAULT : 0;
        r->options.num_predict = (int32_t)roll(&s->seed, 30);
        lm_err err = {0};
        lm_status st = submit_to(s->e, names[roll(&s->seed, 3)], r, mine, &err);
        if (st == LM_BUSY) {
            s->n_busy++;
            continue;
        }
        if (!roll(&s->seed, 3)) lm_job_cancel(mine->job);
        if (!roll(&s->seed, 15))
            s->n_unloads += lm_engine_unload(s->e, names[roll(&s->seed, 3)], &err) == LM_OK;
        lm_loaded some[2];
        (void)lm_engine_list(s->e, some, 2);
        heard_wait(mine);
        if (mine->status == LM_OK) s->n_ok++;
        if (mine->status == LM_CANCELLED) s->n_cancelled++;
    }
    free(mine);
    return NULL;
}

static void many_clients_many_models_and_hang_ups_leave_nothing_behind(void **state) {
    (void)state;
    fake_reset();
    lm_engine_config config = default_config(2);
    config.max_models = 2;
    config.max_queue = 3;
    lm_engine *e = open_with(config);
    storm s[6];
    pthread_t t[6];
    for (uint32_t i = 0; i < 6; i++) {
        s[i] = (storm){.e = e, .seed = i + 1};
        assert_int_equal(pthread_create(&t[i], NULL, blow, &s[i]), 0);
    }
    uint32_t ok = 0, all = 0;
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(pthread_join(t[i], NULL), 0);
        ok += s[i].n_ok;
        all += s[i].n_ok + s[i].n_cancelled + s[i].n_busy;
    }
    assert_int_equal(all, 360);
    assert_true(ok > 0);
    lm_engine_stats stats;
    lm_engine_get_stats(e, &stats);
    assert_int_equal(stats.n_running + stats.n_waiting, 0);
    assert_int_equal(stats.n_requests, 360);
    lm_engine_close(e, 0);
    assert_all_gone();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_is_loaded_by_the_first_request_and_stays),
        cmocka_unit_test(a_model_on_a_gpu_is_listed_with_its_memory),
        cmocka_unit_test(what_a_model_needs_is_known_without_an_engine),
        cmocka_unit_test(steps_are_as_long_as_the_device_likes),
        cmocka_unit_test(the_backend_is_told_when_nothing_runs),
        cmocka_unit_test(an_idle_model_goes_when_its_keep_alive_is_over),
        cmocka_unit_test(the_last_requests_keep_alive_wins),
        cmocka_unit_test(a_working_model_does_not_expire),
        cmocka_unit_test(only_a_larger_context_or_another_digest_loads_anew),
        cmocka_unit_test(a_directory_that_vanishes_does_not_disturb_a_loaded_model),
        cmocka_unit_test(unloading_waits_for_running_answers),
        cmocka_unit_test(two_requests_for_two_models_are_both_served_where_one_fits),
        cmocka_unit_test(who_waits_for_room_is_not_overtaken_for_ever),
        cmocka_unit_test(the_model_idle_longest_makes_room),
        cmocka_unit_test(a_model_that_can_not_fit_is_refused_with_numbers_and_costs_nobody_anything),
        cmocka_unit_test(a_failed_load_is_tried_afresh_by_the_next_request),
        cmocka_unit_test(a_full_queue_says_busy_in_ollamas_words),
        cmocka_unit_test(closing_lets_running_answers_finish_and_takes_nothing_new),
        cmocka_unit_test(closing_at_once_cancels_what_runs_and_what_waits),
        cmocka_unit_test(many_clients_many_models_and_hang_ups_leave_nothing_behind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
