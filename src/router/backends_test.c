/* backends_test.c - the handle against servers that are whatever a test wants: checks, recovery, breakers, threads. */
#include "router/backends.h"

#include "base/json.h"
#include "http/raw_server.h"
#include "router/test_config.h"

typedef struct stand_in {
    raw_server server;
    pthread_mutex_t lock; /* guards the texts */
    char tags[1024], ps[512], show[512];
    char status[64]; /* of every answer; "hang": none, "drop": half of one */
    char header[64];
    atomic_uint n_shows, n_tags;
} stand_in;

static void answer(const raw_ask *q, const char *status, const char *header, const char *body) {
    lm_buf b;
    lm_buf_init(&b, 1 << 16);
    lm_buf_printf(&b, "HTTP/1.1 %s\r\nContent-Type: application/json\r\n%sContent-Length: %zu\r\n\r\n%s",
                  status, header, strlen(body), body);
    say(q->fd, b.ptr, b.len);
    lm_buf_release(&b);
}

static bool serve(void *ctx, const raw_ask *q) {
    stand_in *s = ctx;
    char status[64], header[64], body[1024];
    bool tags = strstr(q->head, " /api/tags ") != NULL, show = strstr(q->head, " /api/show ") != NULL;
    if (tags) atomic_fetch_add(&s->n_tags, 1);
    if (show) atomic_fetch_add(&s->n_shows, 1);
    pthread_mutex_lock(&s->lock);
    snprintf(status, sizeof status, "%s", s->status);
    snprintf(header, sizeof header, "%s", s->header);
    snprintf(body, sizeof body, "%s",
             tags                           ? s->tags
             : show                         ? s->show
             : strstr(q->head, " /api/ps ") ? s->ps
                                            : "{\"version\":\"1.2.3\"}");
    pthread_mutex_unlock(&s->lock);
    if (!strcmp(status, "hang")) return raw_hang(q);
    if (!strcmp(status, "drop")) {
        say_text(q->fd, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"ver");
        return false;
    }
    if (strstr(q->head, "POST") && !show) fail_msg("a check must not load a model: %s", q->head);
    answer(q, status, header, body);
    return true;
}

static void put(stand_in *s, char *field, size_t room, const char *text) {
    pthread_mutex_lock(&s->lock);
    snprintf(field, room, "%s", text);
    pthread_mutex_unlock(&s->lock);
}
#define PUT(s, field, text) put(s, (s)->field, sizeof(s)->field, text)

static void stand_in_open(stand_in *s, const char *models) {
    memset(s, 0, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    snprintf(s->tags, sizeof s->tags, "{\"models\":[%s]}", models);
    snprintf(s->ps, sizeof s->ps, "{\"models\":[]}");
    snprintf(s->show, sizeof s->show,
             "{\"capabilities\":[\"completion\"],\"model_info\":{\"general.architecture\":\"llama\","
             "\"llama.context_length\":8192}}");
    snprintf(s->status, sizeof s->status, "200 OK");
    raw_open(&s->server, serve, s);
}

static void stand_in_close(stand_in *s) {
    raw_close(&s->server);
    pthread_mutex_destroy(&s->lock);
}

/* ---- a router over them */

static lm_aliases aliases; /* empty */

/* Checked often, and not waited for long. */
static lm_router_config config_of(uint16_t ollama, uint16_t mlx) {
    lm_router_config c = two_backends(ollama, mlx);
    c.check_ms = 100;
    c.check_timeout_ms = c.connect_ms = 400;
    c.max_wait_ms = 60000;
    return c;
}

static backends *open_over(const lm_router_config *c) {
    backends *b = NULL;
    lm_err err = {0};
    expect_ok(backends_open_quiet(&b, c, &aliases, &err), err);
    backends_wait_first(b, PATIENCE_MS);
    return b;
}

static router_facts about(const char *model) {
    router_facts f = {.route = ROUTE_INFER};
    snprintf(f.model, sizeof f.model, "%s", model);
    return f;
}

static char *state_of(backends *b, int i) {
    json_t *all = backends_json(b);
    char *s = lm_strdup(json_string_value(
        json_object_get(json_array_get(json_object_get(all, "backends"), (size_t)i), "state")));
    json_decref(all);
    return s;
}

static void wait_for_state(backends *b, int i, const char *want) {
    for (int k = 0; k < PATIENCE_MS; k++) {
        char *s = state_of(b, i);
        bool ok = !strcmp(s, want);
        free(s);
        if (ok) return;
        usleep(1000);
    }
    char *s = state_of(b, i);
    fail_msg("backend %d is %s, not %s", i, s, want);
}

/* What is said of a backend, once it has these words. */
static void wait_for_words(backends *b, int i, const char *words) {
    char *text = NULL;
    for (int k = 0; k < PATIENCE_MS; k++) {
        json_t *all = backends_json(b);
        free(text);
        text = json_dumps(json_array_get(json_object_get(all, "backends"), (size_t)i), JSON_COMPACT);
        json_decref(all);
        if (strstr(text, words)) {
            free(text);
            return;
        }
        usleep(1000);
    }
    fail_msg("'%s' is not in %s", words, text);
}

/* The first candidate for a model that is, or becomes, this backend and usable. */
static candidate wait_for_first(backends *b, const router_facts *f, uint32_t want) {
    candidate c[LM_ROUTER_MAX_BACKENDS];
    for (int k = 0; k < PATIENCE_MS; k++) {
        backends_choose(b, f, c);
        if (c[0].usable && c[0].backend == want) return c[0];
        usleep(1000);
    }
    fail_msg("backend %u does not come first for %s: %s", want, f->model, c[0].reason);
    return c[0];
}

static void end(backends *b, const candidate *c, const router_facts *f, attempt_end how) {
    backends_give(b, c, f, &(attempt){.end = how});
}

static const char model_a[] =
    "{\"name\":\"a:latest\",\"model\":\"a:latest\",\"size\":5,\"modified_at\":\"2026-01-01T00:00:00Z\","
    "\"digest\":\"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\","
    "\"details\":{\"format\":\"gguf\"}}";

/* ---- tests */

static void what_checks_find_is_told(void **state) {
    (void)state;
    stand_in o;
    stand_in_open(&o, model_a);
    PUT(&o, ps,
        "{\"models\":[{\"name\":\"a:latest\",\"expires_at\":\"2026-01-01T00:05:00Z\",\"context_length\":4096}"
        "]}");
    lm_router_config c = config_of(o.server.port, raw_refusing_port());
    backends *b = open_over(&c);
    wait_for_state(b, 0, "healthy");
    wait_for_state(b, 1, "down");
    wait_for_words(b, 0, "\"version\":\"1.2.3\"");
    wait_for_words(b, 0, "\"name\":\"a:latest\",\"size\":5,\"digest\":\"0123456789abcdef");
    wait_for_words(b, 0,
                   "\"capabilities\":[\"completion\"],\"context_length\":8192,\"loaded\":true,\"expires_at\":"
                   "\"2026-01-01T00:05:00Z\"");
    wait_for_words(b, 1, "\"error\":\"nobody listens there\"");
    unsigned n = atomic_load(&o.n_tags);
    wait_for(&o.server.n_asked, atomic_load(&o.server.n_asked)); /* some more rounds */
    for (int i = 0; i < PATIENCE_MS && atomic_load(&o.n_tags) < n + 3; i++) usleep(1000);
    assert_int_equal(atomic_load(&o.n_shows), 1); /* once for a digest */
    PUT(&o, tags,
        "{\"models\":[{\"name\":\"a\",\"digest\":\"\"},{\"name\":\"b\",\"capabilities\":[\"embedding\"]}]}");
    wait_for_words(b, 0, "\"name\":\"b\"");
    wait_for_words(b, 0, "\"capabilities\":[\"embedding\"]");
    for (int i = 0; i < PATIENCE_MS && atomic_load(&o.n_shows) < 2; i++) usleep(1000);
    assert_int_equal(atomic_load(&o.n_shows), 2); /* the other digest; b said what it can */
    backends_close(b);
    stand_in_close(&o);
}

static void one_that_hangs_holds_nobody_back(void **state) {
    (void)state;
    stand_in o, m;
    stand_in_open(&o, "");
    stand_in_open(&m, model_a);
    PUT(&o, status, "hang");
    lm_router_config c = config_of(o.server.port, m.server.port);
    c.check_timeout_ms = 60000;
    backends *b = NULL;
    lm_err err = {0};
    expect_ok(backends_open_quiet(&b, &c, &aliases, &err), err);
    wait_for_state(b, 1, "healthy");
    char *s = state_of(b, 0);
    assert_string_equal(s, "unknown");
    free(s);
    backends_close(b); /* and does not wait a minute */
    stand_in_close(&o);
    stand_in_close(&m);
}

static void it_falls_and_rises_with_its_models_looked_up_anew(void **state) {
    (void)state;
    stand_in o, m;
    stand_in_open(&o, model_a);
    stand_in_open(&m, model_a);
    lm_router_config c = config_of(o.server.port, m.server.port);
    backends *b = open_over(&c);
    router_facts a = about("a"), other = about("b");
    wait_for_state(b, 1, "healthy");
    PUT(&m, status, "500 Oops");
    wait_for_state(b, 1, "down");
    wait_for_words(b, 1, "\"error\":\"answers 500 to /api/version\"");
    assert_string_equal(wait_for_first(b, &a, 0).model, "a");
    PUT(&m, tags, "{\"models\":[{\"name\":\"b\"}]}");
    PUT(&m, status, "200 OK");
    candidate first = wait_for_first(b, &other, 1);
    assert_true(first.listed); /* the moment it is asked again, it is asked for what it has */
    wait_for_state(b, 1, "healthy");
    backends_close(b);
    stand_in_close(&o);
    stand_in_close(&m);
}

static void wrong_answers_count_as_failures_and_are_named(void **state) {
    (void)state;
    stand_in o, m;
    stand_in_open(&o, model_a);
    stand_in_open(&m, "");
    lm_router_config c = config_of(o.server.port, m.server.port);
    backends *b = open_over(&c);
    wait_for_state(b, 0, "healthy");
    const struct {
        const char *status, *header, *tags, *ps, *words;
    } cases[] = {
        {"401 No", "", "", "", "refuses us (401): set api_key in its section"},
        {"302 There", "Location: /x\r\n", "", "", "answers 302 to /api/version"},
        {"drop", "", "", "", "the connection broke"},
        {"hang", "", "", "", "no answer within 0.4 s"},
        {"200 OK", "", "<html>", "", "/api/tags answered no list of models"},
        {"200 OK", "", "[]", "", "/api/tags answered no list of models: no"},
        {"200 OK", "", "{\"models\":7}", "", "/api/tags answered no list of models"},
        {"200 OK", "", "{\"models\":[", "", "/api/tags answered no list of models"},
        {"200 OK", "", "{\"models\":null}", "{\"models\":{}}", "/api/ps answered no list of models"},
        {"503 Busy", "Retry-After: 0\r\n", "", "", "busy (503)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        PUT(&o, header, cases[i].header);
        PUT(&o, tags, cases[i].tags);
        PUT(&o, ps, cases[i].ps);
        PUT(&o, status, cases[i].status);
        wait_for_words(b, 0, cases[i].words);
    }
    PUT(&o, header, "");
    PUT(&o, status, "200 OK");
    PUT(&o, ps,
        "{\"models\":[1,{\"name\":\"gone\"},{\"name\":\"x\",\"context_length\":-5,\"expires_at\":9}]}");
    PUT(&o, tags,
        "{\"models\":[1,{},{\"name\":\"no "
        "name\"},{\"name\":\"x\",\"size\":\"big\",\"details\":3},{\"name\":\"X:latest\"}]}");
    wait_for_words(b, 0, "\"models_passed_over\":4");
    wait_for_words(b, 0, "\"name\":\"x\",\"size\":0,\"details\":3");
    backends_close(b);
    stand_in_close(&o);
    stand_in_close(&m);
}

static void attempts_are_counted_and_open_the_breaker_of_their_model_alone(void **state) {
    (void)state;
    stand_in o, m;
    stand_in_open(&o, "{\"name\":\"a\"},{\"name\":\"b\"}");
    stand_in_open(&m, "{\"name\":\"a\"},{\"name\":\"b\"}");
    lm_router_config c = config_of(o.server.port, m.server.port);
    c.backends[1].max_requests = 1;
    c.breaker_ms = 60000;
    backends *b = open_over(&c);
    router_facts a = about("a"), other = about("b");
    wait_for_state(b, 0, "healthy");
    wait_for_state(b, 1, "healthy");
    candidate first = wait_for_first(b, &a, 1), again = first;
    assert_true(backends_take(b, &first));
    assert_false(backends_take(b, &again)); /* full */
    wait_for_words(b, 1, "\"running\":1");
    assert_int_equal(wait_for_first(b, &a, 0).backend, 0);
    for (int i = 0; i < 3; i++) {
        if (i) assert_true(backends_take(b, &first));
        end(b, &first, &a, ATTEMPT_FAILED);
    }
    assert_false(backends_take(b, &first));
    assert_int_equal(wait_for_first(b, &a, 0).backend, 0);
    assert_int_equal(wait_for_first(b, &other, 1).backend, 1);
    wait_for_words(b, 1, "\"breaker\":\"open\"");
    backends_close(b);

    c.breaker_ms = 1;
    b = open_over(&c);
    wait_for_state(b, 1, "healthy");
    first = wait_for_first(b, &a, 1);
    for (int i = 0; i < 3; i++) {
        assert_true(backends_take(b, &first));
        assert_false(first.probe);
        end(b, &first, &a, ATTEMPT_FAILED);
    }
    usleep(2000);
    assert_true(backends_take(b, &first));
    assert_true(first.probe);
    end(b, &first, &a, ATTEMPT_OK);
    assert_true(backends_take(b, &first));
    assert_false(first.probe);
    end(b, &first, &a, ATTEMPT_OK);
    backends_close(b);
    stand_in_close(&o);
    stand_in_close(&m);
}

static void a_refused_attempt_takes_it_down_and_a_good_one_makes_it_sticky(void **state) {
    (void)state;
    stand_in o, m;
    stand_in_open(&o, "{\"name\":\"a\"}");
    stand_in_open(&m, "{\"name\":\"a\"}");
    lm_router_config c = config_of(o.server.port, m.server.port);
    c.check_ms = 60000; /* no check comes between */
    backends *b = open_over(&c);
    router_facts a = about("a");
    a.n_prefixes = 2;
    a.prefixes[0] = 5;
    a.prefixes[1] = 6;
    candidate all[LM_ROUTER_MAX_BACKENDS];
    wait_for_state(b, 0, "healthy");
    wait_for_state(b, 1, "healthy");
    assert_int_equal(backends_choose(b, &a, all), 2);
    assert_int_equal(all[0].backend, 1);
    assert_true(backends_take(b, &all[1]));
    end(b, &all[1], &a, ATTEMPT_OK); /* Ollama served it, for once */
    backends_choose(b, &a, all);
    assert_int_equal(all[0].backend, 0);
    assert_non_null(strstr(all[0].reason, "the conversation was here"));
    assert_non_null(strstr(all[0].reason, "loaded"));
    assert_true(backends_take(b, &all[0]));
    end(b, &all[0], &a, ATTEMPT_REFUSED);
    backends_choose(b, &a, all);
    assert_int_equal(all[0].backend, 1);
    assert_false(all[1].usable);
    assert_true(all[1].wait_ms > 0);
    assert_false(backends_take(b, &all[1]));
    backends_close(b);
    stand_in_close(&o);
    stand_in_close(&m);
}

static void the_users_order_is_seen_soon_after_it_was_written(void **state) {
    (void)state;
    stand_in o, m;
    lm_err err = {0};
    stand_in_open(&o, "{\"name\":\"a\"}");
    stand_in_open(&m, "{\"name\":\"a\"}");
    lm_router_config c = config_of(o.server.port, m.server.port);
    backends *b = open_over(&c);
    router_facts a = about("A:latest");
    wait_for_first(b, &a, 1);
    expect_ok(lm_order_set(NULL, LM_ORDER_OLLAMA, &err), err);
    wait_for_first(b, &a, 0);
    expect_ok(lm_order_set("a", LM_ORDER_MLX, &err), err);
    wait_for_first(b, &a, 1);
    json_t *why = backends_explain(b, &a);
    assert_string_equal(json_string_value(json_object_get(why, "chosen")), "mlx");
    char *text = json_dumps(why, JSON_COMPACT);
    assert_non_null(strstr(text, "\"reason\":\"mlx is preferred\""));
    free(text);
    json_decref(why);
    put_file(test_dir(), "mlx-ollama/switch.ini", LM_STR("nonsense")); /* the old order stays */
    usleep(600000);
    wait_for_first(b, &a, 1);
    backends_close(b);
    stand_in_close(&o);
    stand_in_close(&m);
}

static void writes_go_to_the_owner_and_new_models_to_who_can_have_them(void **state) {
    (void)state;
    stand_in o, m;
    lm_err err = {0};
    stand_in_open(&o, "{\"name\":\"a\"},{\"name\":\"both\"}");
    stand_in_open(&m, "{\"name\":\"b\"},{\"name\":\"both\"}");
    lm_router_config c = config_of(o.server.port, m.server.port);
    backends *b = open_over(&c);
    wait_for_state(b, 0, "healthy");
    wait_for_state(b, 1, "healthy");
    assert_int_equal(backends_owner(b, "A:latest"), 0);
    assert_int_equal(backends_owner(b, "b"), 1);
    assert_int_equal(backends_owner(b, "both"), 1);
    assert_int_equal(backends_owner(b, "c"), -1);
    assert_int_equal(backends_owner(b, "//"), -1);
    assert_int_equal(backends_for_new(b, "some/model"), 0);
    assert_int_equal(backends_for_new(b, ""), 0); /* blobs have no name */
    assert_int_equal(backends_for_new(b, "//"), -1);
    assert_int_equal(backends_for_new(b, "mlx-community/x"), 1);
    assert_int_equal(backends_for_new(b, "hf.co/mlx-community/x"), 1);
    expect_ok(lm_order_set(NULL, LM_ORDER_MLX, &err), err);
    for (int i = 0; i < PATIENCE_MS && backends_for_new(b, "some/model") != 1; i++) usleep(1000);
    assert_int_equal(backends_for_new(b, "some/model"), 1);
    PUT(&m, status, "500 Oops");
    wait_for_state(b, 1, "down");
    assert_int_equal(backends_for_new(b, "some/model"), 0);
    assert_int_equal(backends_for_new(b, "mlx-community/x"), -1);
    assert_int_equal(backends_owner(b, "both"), 0);
    assert_int_equal(backends_owner(b, "b"), 1); /* down, but it is there that it lies */
    backends_close(b);
    stand_in_close(&o);
    stand_in_close(&m);
}

/* ---- threads */

typedef struct crowd {
    backends *b;
    uint64_t seed;
} crowd;

static void *crowd_run(void *arg) {
    crowd *w = arg;
    uint64_t r = w->seed;
    for (int i = 0; i < 400; i++) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        router_facts f = about(r >> 60 & 1 ? "a" : "b");
        candidate c[LM_ROUTER_MAX_BACKENDS];
        f.n_prefixes = 2;
        f.prefixes[0] = 1;
        f.prefixes[1] = r >> 50;
        uint32_t n = backends_choose(w->b, &f, c);
        for (uint32_t k = 0; k < n && c[k].usable; k++) {
            if (!backends_take(w->b, &c[k])) continue;
            if (i % 16 == 0) usleep(500);
            end(w->b, &c[k], &f,
                (attempt_end)((r >> 40) % 9 == 1 ? ATTEMPT_OK
                                                 : (r >> 40) % 9)); /* refused would take it down */
            break;
        }
        if (i % 50 == 0) json_decref(backends_json(w->b));
        if (i % 70 == 0) backends_look_again(w->b, (uint32_t)i % 3);
    }
    return NULL;
}

static void many_ask_while_checks_run_and_every_place_is_given_back(void **state) {
    (void)state;
    stand_in o, m;
    stand_in_open(&o, "{\"name\":\"a\"},{\"name\":\"b\"}");
    stand_in_open(&m, "{\"name\":\"a\"},{\"name\":\"b\"}");
    lm_router_config c = config_of(o.server.port, m.server.port);
    c.backends[0].max_requests = 3;
    c.check_ms = 100;
    backends *b = open_over(&c);
    pthread_t threads[8];
    crowd crowds[8];
    for (int i = 0; i < 8; i++) {
        crowds[i] = (crowd){b, (uint64_t)i * 999331 + 1};
        assert_int_equal(pthread_create(&threads[i], NULL, crowd_run, &crowds[i]), 0);
    }
    for (int i = 0; i < 20; i++) {
        PUT(&m, status, i % 4 == 3 ? "503 Busy" : "200 OK");
        PUT(&o, tags,
            i % 2 ? "{\"models\":[{\"name\":\"a\"}]}" : "{\"models\":[{\"name\":\"b\"},{\"name\":\"a\"}]}");
        usleep(10000);
    }
    for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
    wait_for_words(b, 0, "\"running\":0");
    wait_for_words(b, 1, "\"running\":0");
    backends_close(b);
    stand_in_close(&o);
    stand_in_close(&m);
}

static int set_up(void **state) {
    if (make_test_dir(state)) return -1;
    return setenv("XDG_STATE_HOME", test_dir(), 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, remove_test_dir)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(what_checks_find_is_told),
        TEST(one_that_hangs_holds_nobody_back),
        TEST(it_falls_and_rises_with_its_models_looked_up_anew),
        TEST(wrong_answers_count_as_failures_and_are_named),
        TEST(attempts_are_counted_and_open_the_breaker_of_their_model_alone),
        TEST(a_refused_attempt_takes_it_down_and_a_good_one_makes_it_sticky),
        TEST(the_users_order_is_seen_soon_after_it_was_written),
        TEST(writes_go_to_the_owner_and_new_models_to_who_can_have_them),
        TEST(many_ask_while_checks_run_and_every_place_is_given_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
