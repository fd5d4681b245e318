/* status_test.c - what the command line asks for: of a running router, of the backends themselves; and measuring. */
#include "router/router.h"

#include "base/json.h"
#include "http/raw_server.h"
#include "router/order.h"
#include "router/test_config.h"

/* A server of Ollama's wire with one model, whose tokens come as quickly as it says. */
typedef struct stand_in {
    raw_server server;
    const char *model, *details;
    unsigned delay_ms; /* between tokens */
    const char *fail;  /* status line of every generate; NULL: fine */
    bool in_stream;    /* an error inside the stream */
    atomic_uint n_loads, n_unloads, n_answers;
    const char *router; /* this body for /router/..., NULL: 404 */
} stand_in;

static void answer(int fd, const char *status, const char *body) {
    lm_buf b;
    lm_buf_init(&b, 1 << 16);
    lm_buf_printf(&b, "HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                  status, strlen(body), body);
    say(fd, b.ptr, b.len);
    lm_buf_release(&b);
}

static void chunk(int fd, const char *text) {
    char out[300];
    snprintf(out, sizeof out, "%zx\r\n%s\r\n", strlen(text), text);
    say_text(fd, out);
}

static bool generate(stand_in *s, const raw_ask *q) {
    if (s->fail) {
        answer(q->fd, s->fail, "{\"error\":\"it does not fit\"}");
        return true;
    }
    if (!strstr(q->body, "\"prompt\"")) {
        atomic_fetch_add(strstr(q->body, "\"keep_alive\":0") ? &s->n_unloads : &s->n_loads, 1);
        answer(q->fd, "200 OK", "{\"done\":true}");
        return true;
    }
    atomic_fetch_add(&s->n_answers, 1);
    say_text(q->fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 8; i++) {
        usleep(s->delay_ms * 1000);
        chunk(q->fd, i == 4 && s->in_stream ? "{\"error\":\"out of memory\"}\n"
                                            : "{\"response\":\"a\",\"done\":false}\n");
    }
    chunk(q->fd, "{\"response\":\"\",\"done\":true,\"prompt_eval_count\":200,\"eval_count\":8}\n");
    say_text(q->fd, "0\r\n\r\n");
    return true;
}

static bool serve(void *ctx, const raw_ask *q) {
    stand_in *s = ctx;
    char body[512] = "{\"version\":\"1.2.3\"}";
    if (strstr(q->head, "/api/generate")) return generate(s, q);
    if (strstr(q->head, "/router/")) {
        answer(q->fd, s->router ? "200 OK" : "404 Not Found", s->router ? s->router : "404 page not found");
        return true;
    }
    if (strstr(q->head, "/api/tags"))
        snprintf(
            body, sizeof body,
            "{\"models\":[{\"name\":\"%s\",\"size\":7,\"capabilities\":[\"completion\"],\"details\":{%s}}]}",
            s->model, s->details ? s->details : "");
    if (strstr(q->head, "/api/ps")) snprintf(body, sizeof body, "{\"models\":[]}");
    answer(q->fd, "200 OK", body);
    return true;
}

static void stand_in_open(stand_in *s, const char *model) {
    memset(s, 0, sizeof *s);
    s->model = model;
    raw_open(&s->server, serve, s);
}

static lm_router_config config_of(uint16_t router, uint16_t ollama, uint16_t mlx) {
    lm_router_config c = two_backends(ollama, mlx);
    c.port = router;
    return c;
}

static void expect_words(json_t *json, const char *words) {
    char *text = json_dumps(json, JSON_COMPACT);
    if (!strstr(text, words)) fail_msg("'%s' is not in %s", words, text);
    free(text);
    json_decref(json);
}

static void status_is_the_running_routers(void **state) {
    (void)state;
    stand_in r;
    lm_err err = {0};
    json_t *out = NULL;
    stand_in_open(&r, "");
    r.router = "{\"router\":{\"version\":\"9\"},\"backends\":[],\"order\":\"mlx\"}";
    lm_router_config c = config_of(r.server.port, raw_refusing_port(), raw_refusing_port());
    expect_ok(lm_router_status(&c, &out, &err), err);
    assert_string_equal(json_string_value(json_object_get(out, "order")), "mlx");
    expect_words(out, "\"running\":true");
    raw_close(&r.server);
}

static void without_a_router_the_backends_are_asked(void **state) {
    (void)state;
    stand_in o, r;
    lm_err err = {0};
    json_t *out = NULL;
    stand_in_open(&o, "a:latest");
    stand_in_open(&r, ""); /* something else at the router's address */
    uint16_t routers[2] = {raw_refusing_port(), r.server.port};
    for (int i = 0; i < 2; i++) {
        lm_router_config c = config_of(routers[i], o.server.port, raw_refusing_port());
        expect_ok(lm_router_status(&c, &out, &err), err);
        json_incref(out);
        json_incref(out);
        json_incref(out);
        expect_words(out, "\"running\":false");
        expect_words(out, "\"state\":\"healthy\",\"version\":\"1.2.3\"");
        expect_words(out, "\"state\":\"down\",\"latency_ms\":null,\"error\":\"nobody listens there\"");
        expect_words(out, "\"name\":\"a:latest\",\"size\":7");
        expect_ok(lm_router_explain(&c, "A", NULL, &out, &err), err);
        json_incref(out);
        expect_words(out, "\"chosen\":\"ollama\"");
        expect_words(out, "{\"backend\":\"mlx\",\"kind\":\"mlx\",\"ok\":false,\"renamed\":false,\"reason\":"
                          "\"never reached\"");
        json_t *body = json_pack("{s:[{s:{s:s}}]}", "tools", "function", "name", "f");
        expect_ok(lm_router_explain(&c, "a", body, &out, &err), err);
        expect_words(out, "\"needs\":[\"completion\",\"tools\"]");
        json_decref(body);
    }
    raw_close(&o.server);
    raw_close(&r.server);
}

static void say_nothing(void *ctx, const char *line) {
    assert_non_null(line);
    ++*(int *)ctx;
}

static void each_backend_is_measured_and_the_quickest_is_noted(void **state) {
    (void)state;
    stand_in o, m;
    lm_err err = {0};
    json_t *out = NULL;
    int lines = 0;
    stand_in_open(&o, "a:latest");
    stand_in_open(&m, "A");
    o.delay_ms = 1;
    m.delay_ms = 40; /* by far: no chance decides */
    lm_router_config c = config_of(raw_refusing_port(), o.server.port, m.server.port);
    expect_ok(lm_router_bench(&c, NULL, true, say_nothing, &lines, &out, &err), err);
    assert_true(lines >= 4);
    json_incref(out);
    json_incref(out);
    expect_words(out, "\"best\":\"ollama\"");
    expect_words(out, "\"prompt_tokens\":200,\"tokens\":8}");
    expect_words(out, "\"chosen\":true");
    assert_int_equal(atomic_load(&o.n_loads), 1);
    assert_int_equal(atomic_load(&o.n_answers), 4);
    assert_int_equal(atomic_load(&o.n_unloads), 1); /* it was not loaded before */
    assert_int_equal(atomic_load(&m.n_unloads), 1);
    orders now = {0};
    lm_name name;
    expect_ok(lm_name_parse(LM_STR("a"), &name, &err), err);
    expect_ok(orders_read(&now, &err), err);
    assert_string_equal(orders_measured(&now, &name), "ollama");
    orders_release(&now);
    raw_close(&o.server);
    raw_close(&m.server);
}

static void what_cannot_be_measured_is_said_and_decides_nothing(void **state) {
    (void)state;
    stand_in o, m;
    lm_err err = {0};
    json_t *out = NULL;
    const char *one[] = {"a", NULL}, *none[] = {"b", NULL};
    stand_in_open(&o, "a:latest");
    stand_in_open(&m, "a");
    lm_router_config c = config_of(raw_refusing_port(), o.server.port, m.server.port);
    o.fail = "500 Oops";
    m.in_stream = true;
    expect_ok(lm_router_bench(&c, one, true, NULL, NULL, &out, &err), err);
    json_incref(out);
    json_incref(out);
    expect_words(out, "\"error\":\"answers 500: it does not fit\"");
    expect_words(out, "\"error\":\"out of memory\"");
    expect_words(out, "\"best\":null,\"why\":\"none could be measured\"");
    expect_fail(lm_router_bench(&c, none, true, NULL, NULL, &out, &err), LM_NOT_FOUND, err,
                "model 'b' not found");
    m.details = "\"format\":\"gguf\"";
    expect_fail(lm_router_bench(&c, NULL, true, NULL, NULL, &out, &err), LM_NOT_FOUND, err,
                "nothing to compare");
    assert_int_equal(atomic_load(&m.n_answers),
                     1); /* nothing was imported for a comparison that nobody asked for by name */
    orders now = {0};
    expect_ok(orders_read(&now, &err), err);
    assert_int_equal(now.n, 0);
    orders_release(&now);
    raw_close(&o.server);
    raw_close(&m.server);
}

static int set_up(void **state) {
    if (make_test_dir(state)) return -1;
    return setenv("XDG_STATE_HOME", test_dir(), 1) || setenv("XDG_CONFIG_HOME", test_dir(), 1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, remove_test_dir)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(status_is_the_running_routers),
        TEST(without_a_router_the_backends_are_asked),
        TEST(each_backend_is_measured_and_the_quickest_is_noted),
        TEST(what_cannot_be_measured_is_said_and_decides_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
