/* The relay between a server of ours and stand-ins that fail in one thing at a time, on all wires. A request says in its query what its
 * backends do, one after the other: /?wire=0&plan=hang,good */
#include "base/test.h"
#include "http/raw_server.h"
#include "router/relay.h"

typedef struct bench {
    lm_server *server;
    lm_pump *pump;
    raw_server backend;
    uint16_t refusing;
    uint32_t
        limit_ms; /* of a backend that hangs: all others may take as long as a loaded machine makes them */
    const char *echo_from, *echo_to;
    atomic_uint over; /* relays that have ended */
    pthread_mutex_t lock;
    char log[256];       /* of the last one: how each attempt ended, "gone" */
    attempt last;        /* its last attempt */
    atomic_size_t sent;  /* by an endless stand-in */
    atomic_uint running; /* stand-ins that work on a request */
    bool alone;          /* there may be one at a time only */
} bench;

/* ---- stand-ins */

static const char *const good_events[][3] = {
    [WIRE_OLLAMA] = {"{\"model\":\"m\",\"response\":\"one\",\"done\":false}\n",
                     "{\"model\":\"m\",\"response\":\"two\",\"done\":false}\n",
                     "{\"model\":\"m\",\"done\":true}\n"},
    [WIRE_OPENAI] = {"data: {\"model\":\"m\",\"choices\":[{\"delta\":\"one\"}]}\n\n",
                     "data: {\"model\":\"m\",\"choices\":[{\"delta\":\"two\"}]}\n\n", "data: [DONE]\n\n"},
    [WIRE_RESPONSES] = {"event: response.created\ndata: {\"type\":\"response.created\",\"text\":\"one\"}\n\n",
                        "event: x\ndata: {\"type\":\"x\",\"text\":\"two\"}\n\n",
                        "event: response.completed\ndata: {\"type\":\"response.completed\"}\n\n"},
    [WIRE_ANTHROPIC] = {"event: message_start\ndata: {\"type\":\"message_start\",\"text\":\"one\"}\n\n",
                        "event: x\ndata: {\"type\":\"x\",\"text\":\"two\"}\n\n",
                        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"},
};
static const char *const error_events[] = {
    [WIRE_OLLAMA] = "{\"error\":\"their own words\"}\n",
    [WIRE_OPENAI] = "data: {\"error\":{\"message\":\"their own words\"}}\n\n",
    [WIRE_RESPONSES] =
        "data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"message\":\"their own words\"}}}\n\n",
    [WIRE_ANTHROPIC] =
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"message\":\"their own words\"}}\n\n",
};
static const char *const pings[] = {"\n", ": ping\n\n", ": ping\n\n",
                                    "event: ping\ndata: {\"type\":\"ping\"}\n\n"};

static void say_chunk(int fd, const char *text, size_t len) {
    char size[24];
    snprintf(size, sizeof size, "%zx\r\n", len);
    say_text(fd, size);
    say(fd, text, len);
    say_text(fd, "\r\n");
}

static void chunk(int fd, const char *text) {
    say_chunk(fd, text, strlen(text));
}

static void begin_stream(int fd, router_wire wire) {
    say_text(fd, "HTTP/1.1 200 OK\r\nServer: secret\r\nAccess-Control-Allow-Origin: *\r\nX-Request-Id: 42\r\n"
                 "Transfer-Encoding: chunked\r\nContent-Type: ");
    say_text(fd, wire == WIRE_OLLAMA ? "application/x-ndjson\r\n\r\n"
                                     : "text/event-stream; charset=utf-8\r\n\r\n");
}

static void say_status(int fd, const char *head, const char *type, const char *body) {
    char text[1024];
    snprintf(text, sizeof text, "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n%s", head,
             type, strlen(body), body);
    say_text(fd, text);
}

static bool endless(const raw_ask *q, router_wire wire) {
    bench *b = q->server->ctx;
    lm_buf line;
    lm_buf_init(&line, 1 << 16);
    lm_buf_text(&line, "2000\r\n{\"response\":\"");
    while (line.len < 6 + 8192 - 3) lm_buf_char(&line, 'y');
    lm_buf_text(&line, "\"}\n\r\n");
    begin_stream(q->fd, wire);
    for (ssize_t n = 1; n > 0;) {
        for (size_t done = 0; n > 0 && done < line.len; done += (size_t)(n > 0 ? n : 0)) {
            n = send(q->fd, line.ptr + done, line.len - done, MSG_NOSIGNAL);
            if (n > 0) atomic_fetch_add(&b->sent, (size_t)n);
        }
    }
    atomic_fetch_add(&q->server->n_left, 1);
    lm_buf_release(&line);
    return false;
}

enum { LARGE = RELAY_HOLD_MAX + 3000000 };

static bool large(const raw_ask *q, bool whole) {
    lm_buf b;
    lm_buf_init(&b, 2 * LARGE);
    lm_buf_printf(&b, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n",
                  LARGE);
    size_t head = b.len;
    lm_buf_text(&b, "{\"model\":\"there\",\"x\":\"");
    char many[4096];
    memset(many, 'x', sizeof many);
    while (b.len < head + LARGE - 2) {
        size_t left = head + LARGE - 2 - b.len;
        lm_buf_add(&b, many, left < sizeof many ? left : sizeof many);
    }
    lm_buf_text(&b, "\"}");
    say(q->fd, b.ptr, whole ? b.len : b.len - 1000);
    lm_buf_release(&b);
    return whole;
}

static bool act(const raw_ask *q, const char *what, router_wire wire) {
    int fd = q->fd;
    const char *const *good = good_events[wire];
#define IS(name) (!strcmp(what, name))
    if (IS("hang")) return raw_hang(q);
    if (IS("close")) return false;
    if (IS("half_head")) return say_text(fd, "HTTP/1.1 200 O"), false;
    if (IS("nonsense")) return say_text(fd, "nonsense, and no HTTP\r\n\r\n"), false;
    if (IS("429"))
        return say_status(fd, "429 Slow\r\nRetry-After: 7", "application/json", "{\"error\":\"full\"}"), true;
    if (IS("503")) return say_status(fd, "503 Busy\r\nRetry-After: 3", "text/plain", "busy"), true;
    if (IS("502")) return say_status(fd, "502 Bad", "text/html", "<h1>bad</h1>"), true;
    if (IS("500")) return say_status(fd, "500 Oh", "application/json", "{\"error\":\"broken\"}"), true;
    if (IS("404")) return say_status(fd, "404 No", "application/json", "{\"error\":\"no model\"}"), true;
    if (IS("no_path")) return say_status(fd, "404 No", "text/plain", "404 page not found"), true;
    if (IS("400")) return say_status(fd, "400 Bad", "application/json", "{\"error\":\"your fault\"}"), true;
    if (IS("html")) return say_status(fd, "200 OK", "text/html", "<html>"), true;
    if (IS("empty")) return say_text(fd, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), true;
    if (IS("whole"))
        return say_status(fd, "200 OK", "application/json; charset=utf-8",
                          "{\"model\":\"there\",\"done\":true}"),
               true;
    if (IS("whole_error"))
        return say_status(fd, "200 OK", "application/json", "{\"error\":\"inside\"}"), true;
    if (IS("whole_half")) return say_status(fd, "200 OK", "application/json", "{\"done\":tr"), true;
    if (IS("whole_short"))
        return say_text(fd,
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{}"),
               false;
    if (IS("large")) return large(q, true);
    if (IS("large_short")) return large(q, false);
    if (IS("endless")) return endless(q, wire);

    begin_stream(fd, wire);
    if (IS("stream_hang")) return raw_hang(q);
    if (IS("stream_close")) return false;
    if (IS("stream_empty")) return say_text(fd, "0\r\n\r\n"), true;
    if (IS("error")) return chunk(fd, pings[wire]), chunk(fd, error_events[wire]), raw_hang(q);
    if (IS("garbage")) return chunk(fd, wire == WIRE_OLLAMA ? "garbage\n" : "data: garbage\n\n"), raw_hang(q);
    if (IS("ping_close")) return chunk(fd, pings[wire]), false;
    size_t first = strlen(good[0]);
    if (IS("half_close")) return say_chunk(fd, good[0], first - 4), false;
    if (IS("half_end")) return say_chunk(fd, good[0], first - 4), say_text(fd, "0\r\n\r\n"), true;
    if (IS("drip")) {
        for (int i = 0; i < 3; i++)
            for (const char *p = good[i]; *p; p++) say_chunk(fd, p, 1), usleep(500);
        return say_text(fd, "0\r\n\r\n"), true;
    }
    chunk(fd, good[0]);
    if (IS("1_hang")) return raw_hang(q);
    if (IS("1_close")) return false;
    if (IS("1_end")) return say_text(fd, "0\r\n\r\n"), true;
    if (IS("1_half")) return say_chunk(fd, good[1], 10), false;
    if (IS("1_error")) return chunk(fd, error_events[wire]), raw_hang(q);
    if (IS("1_garbage")) return chunk(fd, wire == WIRE_OLLAMA ? "{{\n" : "data: {{\n\n"), raw_hang(q);
    chunk(fd, pings[wire]);
    chunk(fd, good[1]);
    chunk(fd, good[2]);
    if (IS("done_hang")) return raw_hang(q);
    if (IS("done_close")) return false;
    if (!IS("good")) abort();
    return say_text(fd, "0\r\n\r\n"), true;
#undef IS
}

/* "POST /WIRE/WHAT HTTP/1.1" */
static bool serve(void *ctx, const raw_ask *q) {
    bench *b = ctx;
    unsigned wire = 0;
    char method[16], what[32];
    if (sscanf(q->head, "%15s /%u/%31s ", method, &wire, what) != 3 || wire > WIRE_ANTHROPIC) abort();
    atomic_fetch_add(&b->running, 1);
    /* One that was given up learns of it before the next is asked, if only a moment before. */
    for (int ms = 0; b->alone && atomic_load(&b->running) > 1; ms++) {
        if (ms == PATIENCE_MS) abort();
        usleep(1000);
    }
    bool stays = act(q, what, (router_wire)wire);
    atomic_fetch_sub(&b->running, 1);
    return stays;
}

/* ---- the router's side */

typedef struct plan {
    bench *b;
    lm_http *x;
    router_wire wire;
    char steps[128], *at;
    char log[256];
    bool begun;
} plan;

static void ended(void *ctx, const attempt *a) {
    plan *p = ctx;
    static const char *const names[] = {"ok",       "refused", "timeout", "broke", "busy",
                                        "no_model", "failed",  "client",  "left"};
    size_t n = strlen(p->log);
    snprintf(p->log + n, sizeof p->log - n, "%s%s", n ? " " : "", names[a->end]);
    pthread_mutex_lock(&p->b->lock);
    strcpy(p->b->log, p->log);
    p->b->last = *a;
    pthread_mutex_unlock(&p->b->lock);
}

static bool next(void *ctx, relay_target *out, uint32_t *wait_ms) {
    plan *p = ctx;
    char *what = strsep(&p->at, ",");
    if (!what || !what[0]) return false;
    if (!strncmp(what, "wait", 4)) {
        *wait_ms = (uint32_t)atoi(what + 4);
        return true;
    }
    uint16_t port = strcmp(what, "refuse") ? p->b->backend.port : p->b->refusing;
    snprintf(out->url, sizeof out->url, "http://127.0.0.1:%u/%d/%s", port, p->wire, what);
    out->body = lm_http_body(p->x);
    out->first_ms = out->silent_ms = strstr(what, "hang") ? p->b->limit_ms : 0;
    out->echo_from = p->b->echo_from;
    out->echo_to = p->b->echo_to;
    return true;
}

static void commit(void *ctx, lm_http *x) {
    plan *p = ctx;
    if (p->begun) abort();
    p->begun = true;
    lm_http_set_header(x, "X-Mine", "yes");
}

static void over(void *ctx, bool gone) {
    plan *p = ctx;
    bench *b = p->b;
    if (gone) strcat(p->log, " gone");
    pthread_mutex_lock(&b->lock);
    strcpy(b->log, p->log);
    pthread_mutex_unlock(&b->lock);
    lm_http_unref(p->x);
    free(p);
    atomic_fetch_add(&b->over, 1);
}

static void handle(void *ctx, lm_http *x) {
    plan *p = lm_alloc(sizeof *p);
    *p = (plan){.b = ctx, .x = lm_http_ref(x)};
    lm_str wire = lm_http_query(x, "wire"), steps = lm_http_query(x, "plan");
    p->wire = (router_wire)(wire.len ? wire.ptr[0] - '0' : 0);
    snprintf(p->steps, sizeof p->steps, "%.*s", LM_STR_ARG(steps));
    p->at = p->steps;
    relay_job job = {.x = x,
                     .wire = p->wire,
                     .head = lm_str_eq(lm_http_method(x), LM_STR("HEAD")),
                     .ended = ended,
                     .next = next,
                     .commit = commit,
                     .over = over,
                     .none_status = 503,
                     .none_text = "nobody is there",
                     .ctx = p};
    relay_start(p->b->pump, &job);
}

static int open_bench(void **state) {
    bench *b = lm_alloc(sizeof *b);
    lm_err err = {0};
    pthread_mutex_init(&b->lock, NULL);
    raw_open(&b->backend, serve, b);
    b->refusing = raw_refusing_port();
    b->limit_ms = 100;
    lm_server_config c = {.host = "127.0.0.1",
                          .max_body = 100000,
                          .max_backlog = RELAY_BACKLOG,
                          .max_connections = 300,
                          .idle_seconds = 3600,
                          .n_workers = 2,
                          .handle = handle,
                          .ctx = b};
    expect_ok(lm_pump_open(&b->pump, &err), err);
    expect_ok(lm_server_open(&b->server, &c, &err), err);
    *state = b;
    return 0;
}

static int close_bench(void **state) {
    bench *b = *state;
    lm_server_close(b->server);
    lm_pump_close(b->pump);
    raw_close(&b->backend);
    pthread_mutex_destroy(&b->lock);
    free(b);
    return 0;
}

static int dial(const bench *b, const char *method, unsigned wire, const char *steps) {
    int fd = dial_port(lm_server_port(b->server));
    char request[512];
    snprintf(request, sizeof request,
             "%s /?wire=%u&plan=%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
             method, wire, steps);
    say_text(fd, request);
    return fd;
}

/* The whole answer, after the relay has ended; the caller frees. */
static char *ask(bench *b, unsigned wire, const char *steps) {
    unsigned before = atomic_load(&b->over);
    int fd = dial(b, "POST", wire, steps);
    char *t = hear(fd, NULL);
    close(fd);
    wait_for(&b->over, before + 1);
    return t;
}

static void expect_log(bench *b, const char *want) {
    pthread_mutex_lock(&b->lock);
    if (strcmp(b->log, want)) fail_msg("attempts ended '%s', not '%s'", b->log, want);
    pthread_mutex_unlock(&b->lock);
}

static void expect_in(const char *heard, const char *words) {
    if (!strstr(heard, words)) fail_msg("'%s' is not in: %.1500s", words, heard);
}

static void expect_not_in(const char *heard, const char *words) {
    if (strstr(heard, words)) fail_msg("'%s' is in: %.1500s", words, heard);
}

/* ---- before the first event */

static void a_good_stream_passes_with_its_harmless_headers(void **state) {
    bench *b = *state;
    for (unsigned wire = 0; wire < 4; wire++) {
        char *t = ask(b, wire, "good");
        expect_in(t, "HTTP/1.1 200 OK\r\n");
        expect_in(t, wire ? "Content-Type: text/event-stream" : "Content-Type: application/x-ndjson");
        expect_in(t, "X-Request-Id: 42\r\n");
        expect_in(t, "X-Mine: yes\r\n");
        expect_not_in(t, "secret");
        expect_not_in(t, "Access-Control");
        for (int i = 0; i < 3; i++) expect_in(t, good_events[wire][i]);
        expect_in(t, "\r\n0\r\n\r\n");
        free(t);
        expect_log(b, "ok");
        assert_true(b->last.first_ns && b->last.first_ns <= b->last.total_ns && b->last.committed);
    }
}

static void each_fault_before_the_first_event_is_tried_elsewhere(void **state) {
    bench *b = *state;
    static const struct {
        const char *what, *end;
    } faults[] = {
        {"refuse", "refused"},     {"hang", "timeout"},       {"close", "broke"},
        {"half_head", "broke"},    {"nonsense", "broke"},     {"429", "busy"},
        {"503", "busy"},           {"502", "failed"},         {"500", "failed"},
        {"404", "no_model"},       {"html", "broke"},         {"whole_error", "failed"},
        {"whole_half", "broke"},   {"whole_short", "broke"},  {"stream_hang", "timeout"},
        {"stream_close", "broke"}, {"stream_empty", "broke"}, {"error", "failed"},
        {"garbage", "broke"},      {"ping_close", "broke"},   {"half_close", "broke"},
        {"half_end", "broke"},
    };
    b->alone = true; /* never at two at the same time */
    for (unsigned wire = 0; wire < 4; wire++)
        for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
            char steps[64], log[64];
            snprintf(steps, sizeof steps, "%s,good", faults[i].what);
            snprintf(log, sizeof log, "%s ok", faults[i].end);
            char *t = ask(b, wire, steps);
            expect_in(t, "HTTP/1.1 200 OK\r\n");
            char *head_end = strstr(t, "\r\n\r\n");
            for (int k = 0; k < 3; k++) expect_in(head_end, good_events[wire][k]);
            expect_not_in(t, "error");
            free(t);
            expect_log(b, log);
        }
}

static void a_slow_drip_is_an_answer(void **state) {
    bench *b = *state;
    char *t = ask(b, WIRE_OLLAMA, "drip");
    for (int k = 0; k < 3; k++) expect_in(t, good_events[WIRE_OLLAMA][k]);
    free(t);
    expect_log(b, "ok");
}

static void what_the_request_itself_deserves_is_not_tried_elsewhere(void **state) {
    bench *b = *state;
    char *t = ask(b, WIRE_OLLAMA, "400,good");
    expect_in(t, "HTTP/1.1 400 ");
    expect_in(t, "\r\n\r\n{\"error\":\"your fault\"}");
    free(t);
    expect_log(b, "client");
}

static void when_nobody_is_left_the_last_error_is_told(void **state) {
    bench *b = *state;
    static const struct {
        const char *steps, *status, *says, *log;
    } rows[] = {
        {"500,429", "429", "{\"error\":\"full\"}", "failed busy"},
        {"429", "429", "Retry-After: 7\r\n", "busy"},
        {"503", "503", "\r\n\r\nbusy", "busy"},
        {"429,404", "429", "{\"error\":\"full\"}", "busy no_model"}, /* that one does not have it says less */
        {"404,404", "404", "{\"error\":\"no model\"}", "no_model no_model"},
        {"no_path,404", "404", "{\"error\":\"no model\"}",
         "no_model no_model"}, /* one that knows the path says more */
        {"404,no_path", "404", "{\"error\":\"no model\"}", "no_model no_model"},
        {"no_path", "404", "404 page not found", "no_model"},
        {"429,no_path", "429", "{\"error\":\"full\"}", "busy no_model"},
        {"404,refuse", "502", "no backend could answer: nothing answers at the server", "no_model refused"},
        {"hang", "504", "did not begin to answer within 0.1 s", "timeout"},
        {"error", "500", "their own words", "failed"},
        {"garbage", "502", "no answer of this kind", "broke"},
        {"whole_error", "500", "{\"error\":\"inside\"}", "failed"},
        {"half_close", "502", "closed the connection in the middle of its answer", "broke"},
        {"", "503", "{\"error\":\"nobody is there\"}", ""},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char *t = ask(b, WIRE_OLLAMA, rows[i].steps), want[32];
        snprintf(want, sizeof want, "HTTP/1.1 %s ", rows[i].status);
        expect_in(t, want);
        expect_in(t, rows[i].says);
        expect_in(t, "X-Mine: yes\r\n");
        expect_not_in(t, "127.0.0.1");
        free(t);
        expect_log(b, rows[i].log);
    }
}

static void an_error_has_the_form_of_its_wire(void **state) {
    bench *b = *state;
    static const char *const want[] = {
        "\r\n\r\n{\"error\":\"nobody is there\"}",
        "\r\n\r\n{\"error\":{\"message\":\"nobody is there\",\"type\":\"api_error\"",
        "\r\n\r\n{\"error\":{\"message\":\"nobody is there\",\"type\":\"api_error\"",
        "\r\n\r\n{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"nobody is "
        "there\"}}"};
    for (unsigned wire = 0; wire < 4; wire++) {
        char *t = ask(b, wire, "");
        expect_in(t, want[wire]);
        free(t);
    }
}

static void a_wait_for_the_busy_ones_is_kept(void **state) {
    bench *b = *state;
    free(ask(b, WIRE_OLLAMA, "429,wait50,wait1,good"));
    expect_log(b, "busy ok");
}

static void retry_after_is_read(void **state) {
    bench *b = *state;
    free(ask(b, WIRE_OLLAMA, "429"));
    assert_int_equal(b->last.retry_after_s, 7);
    assert_int_equal(b->last.status, 429);
}

/* ---- after it */

static void a_stream_that_dies_ends_with_an_honest_error(void **state) {
    bench *b = *state;
    static const struct {
        const char *what, *end, *says;
    } faults[] = {
        {"1_hang", "timeout", "the server sent nothing for 0.1 s"},
        {"1_close", "broke", "closed the connection in the middle of its answer"},
        {"1_end", "broke", "ended before its end"},
        {"1_half", "broke", "closed the connection in the middle of its answer"},
        {"1_garbage", "broke", "no answer of this kind"},
        {"1_error", "failed", "their own words"},
    };
    static const char *const form[] = {
        "{\"error\":\"", "data: {\"error\":{\"message\":\"",
        "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":\"",
        "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\""};
    for (unsigned wire = 0; wire < 4; wire++)
        for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
            char steps[64];
            snprintf(steps, sizeof steps, "%s,good", faults[i].what);
            unsigned asked = atomic_load(&b->backend.n_asked);
            char *t = ask(b, wire, steps);
            expect_in(t, "HTTP/1.1 200 OK\r\n");
            expect_in(t, good_events[wire][0]);
            expect_in(t, faults[i].says);
            if (strcmp(faults[i].what, "1_error")) expect_in(t, form[wire]);
            expect_not_in(t, good_events[wire][2]); /* no made-up end */
            expect_not_in(t, "two");
            if (!strstr(t, "\n\r\n0\r\n\r\n")) fail_msg("no end after whole events: %s", t);
            free(t);
            expect_log(b, faults[i].end);
            assert_int_equal(atomic_load(&b->backend.n_asked), asked + 1);
        }
}

static void what_comes_behind_the_last_event_does_not_matter(void **state) {
    bench *b = *state;
    for (unsigned wire = 0; wire < 4; wire++) {
        char *t = ask(b, wire, "done_close");
        expect_in(t, good_events[wire][2]);
        expect_not_in(t, "error");
        free(t);
        expect_log(b, "ok");
    }
    b->limit_ms = 0;
    free(ask(b, WIRE_OLLAMA, "done_hang")); /* given up after a while, and still a good one */
    expect_log(b, "ok");
}

/* ---- answers that do not stream */

static void a_whole_answer_passes_and_names_the_clients_model(void **state) {
    bench *b = *state;
    b->echo_from = "there";
    b->echo_to = "here";
    char *t = ask(b, WIRE_OLLAMA, "whole");
    expect_in(t, "Content-Type: application/json; charset=utf-8\r\n");
    expect_in(t, "Content-Length: 28\r\n");
    expect_in(t, "\r\n\r\n{\"model\":\"here\",\"done\":true}");
    free(t);
    expect_log(b, "ok");
    t = ask(b, WIRE_OLLAMA, "empty");
    expect_in(t, "HTTP/1.1 200 OK\r\n");
    free(t);
    expect_log(b, "ok");
}

static void head_has_no_body(void **state) {
    bench *b = *state;
    int fd = dial(b, "HEAD", WIRE_OLLAMA, "whole");
    char *t = hear(fd, NULL);
    close(fd);
    wait_for(&b->over, 1);
    assert_string_equal(strstr(t, "\r\n\r\n"), "\r\n\r\n");
    expect_in(t, "HTTP/1.1 200 OK\r\n");
    free(t);
    expect_log(b, "ok");
}

/* Gives the length of the answer, and its last bytes. */
static size_t read_to_end(bench *b, const char *steps, char tail[8]) {
    unsigned before = atomic_load(&b->over);
    int fd = dial(b, "POST", WIRE_OLLAMA, steps);
    char bytes[65536 + 7] = "";
    size_t n = 0;
    for (ssize_t got; (got = recv(fd, bytes + 7, sizeof bytes - 7, 0)) > 0; n += (size_t)got)
        memmove(bytes, bytes + got, 7);
    close(fd);
    memcpy(tail, bytes, 7);
    tail[7] = '\0';
    wait_for(&b->over, before + 1);
    return n;
}

static void an_answer_too_large_to_hold_passes_whole_or_is_cut(void **state) {
    bench *b = *state;
    char tail[8];
    b->echo_from = "there";
    b->echo_to = "here, and longer";
    assert_true(read_to_end(b, "large", tail) > LARGE);
    assert_string_equal(tail, "\r\n0\r\n\r\n");
    expect_log(b, "ok");
    read_to_end(b, "large_short,good", tail);
    assert_string_not_equal(tail, "\r\n0\r\n\r\n");
    expect_log(b, "broke gone");
}

/* ---- clients */

/* Or its next request, which follows at once, would find its place taken and its conversation unknown. */
static void an_end_is_told_before_the_client_hears_it(void **state) {
    bench *b = *state;
    static const char *const plans[][2] = {{"good", "ok"},       {"done_hang", "ok"}, {"whole", "ok"},
                                           {"400", "client"},    {"1_close", "broke"}, {"1_error", "failed"},
                                           {"404,500", "no_model failed"}};
    b->limit_ms = 0;
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++)
        for (int round = strcmp(plans[i][0], "done_hang") ? 10 : 1; round-- > 0;) { /* that one lingers */
            pthread_mutex_lock(&b->lock);
            b->log[0] = '\0';
            pthread_mutex_unlock(&b->lock);
            unsigned before = atomic_load(&b->over);
            int fd = dial(b, "POST", WIRE_OLLAMA, plans[i][0]);
            free(hear(fd, NULL));
            expect_log(b, plans[i][1]);
            close(fd);
            wait_for(&b->over, before + 1);
        }
}

static void a_client_that_leaves_at_any_time_ends_the_backends_work(void **state) {
    bench *b = *state;
    static const char *const plans[] = {"hang,good",        "stream_hang,good",  "1_hang,good",
                                        "drip,good",        "endless,good",      "wait60000,good",
                                        "refuse,hang,good", "429,wait60000,good"};
    b->limit_ms = 0; /* nothing else ends them */
    unsigned n = 0;
    for (size_t i = 0; i < sizeof plans / sizeof *plans; i++)
        for (useconds_t us = 0; us < 30000; us = us * 2 + 500) {
            int fd = dial(b, "POST", WIRE_OLLAMA, plans[i]);
            usleep(us);
            close(fd);
            wait_for(&b->over, ++n); /* after its flow, if any, has ended */
            pthread_mutex_lock(&b->lock);
            bool ok = !strcmp(b->log, "ok") || !strcmp(b->log, "ok gone"); /* the drip had come to its end */
            if (!ok && !strstr(b->log, "gone")) fail_msg("%s: '%s'", plans[i], b->log);
            if (!ok && strstr(b->log, "ok")) fail_msg("%s: tried elsewhere: '%s'", plans[i], b->log);
            pthread_mutex_unlock(&b->lock);
        }
    for (int ms = 0; atomic_load(&b->running) && ms < PATIENCE_MS; ms++) usleep(1000);
    assert_int_equal(atomic_load(&b->running), 0);
}

static void a_slow_client_stops_its_backend_and_nobody_else(void **state) {
    bench *b = *state;
    int fd = dial(b, "POST", WIRE_OLLAMA, "endless");
    for (int ms = 0; !atomic_load(&b->sent) && ms < PATIENCE_MS; ms++) usleep(1000);
    size_t before = 0;
    do {
        before = atomic_load(&b->sent);
        usleep(200000);
    } while (atomic_load(&b->sent) != before);
    assert_int_equal(atomic_load(&b->over), 0);
    free(ask(b, WIRE_OPENAI, "good")); /* others are served */
    expect_log(b, "ok");
    char bytes[65536];
    for (size_t n = 0; n < 32u << 20;) { /* and it goes on where it was, with nothing lost */
        ssize_t got = recv(fd, bytes, sizeof bytes, 0);
        if (got <= 0) fail_msg("the stream ended after %zu bytes", n);
        n += (size_t)got;
    }
    assert_true(atomic_load(&b->sent) > before);
    close(fd);
    wait_for(&b->over, 2);
    expect_log(b, "left gone");
    wait_for(&b->backend.n_left, 1);
}

static void many_at_once_get_their_own(void **state) {
    bench *b = *state;
    enum { N = 200 };
    int fd[N];
    for (unsigned i = 0; i < N; i++) fd[i] = dial(b, "POST", i % 4, i % 3 ? "429,1_end" : "close,good");
    for (unsigned i = 0; i < N; i++) {
        char *t = hear(fd[i], NULL);
        expect_in(t, good_events[i % 4][0]);
        expect_in(t, i % 3 ? "ended before its end" : good_events[i % 4][2]);
        free(t);
        close(fd[i]);
    }
    wait_for(&b->over, N);
}

/* Whatever backends do, one after the other, the client gets what the first says that answers, and no word of the others. */
static void any_schedule_of_faults_gives_a_right_answer(void **state) {
    bench *b = *state;
    enum { ROUNDS = 30, AT_ONCE = 20, STEPS = 4 };
    static const char *const kinds[] = {
        "refuse",  "close",      "half_head",   "nonsense",   "429",          "503",          "500",
        "404",     "html",       "whole_error", "whole_half", "stream_close", "stream_empty", "error",
        "garbage", "ping_close", "half_close",  "half_end",   "good",         "drip",         "done_close",
        "1_close", "1_end",      "1_error",     "400"};
    enum { FIRST_GOOD = 18, FIRST_DYING = 21, FIRST_REFUSED = 24, N_KINDS = sizeof kinds / sizeof *kinds };
    uint32_t noise = 7;
    for (int round = 0; round < ROUNDS; round++) {
        int fd[AT_ONCE], found[AT_ONCE];
        unsigned wire[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++) {
            char steps[128] = "";
            found[i] = -1;
            for (int k = 0; k < STEPS; k++) {
                noise = noise * 1664525 + 1013904223;
                int kind = (int)((noise >> 8) % N_KINDS);
                snprintf(steps + strlen(steps), sizeof steps - strlen(steps), "%s%s", k ? "," : "",
                         kinds[kind]);
                if (found[i] < 0 && kind >= FIRST_GOOD) found[i] = kind;
            }
            wire[i] = noise >> 28 & 3;
            fd[i] = dial(b, "POST", wire[i], steps);
        }
        for (int i = 0; i < AT_ONCE; i++) {
            char *t = hear(fd[i], NULL);
            const char *const *good = good_events[wire[i]];
            close(fd[i]);
            expect_in(t, found[i] < 0                ? "HTTP/1.1 "
                         : found[i] == FIRST_REFUSED ? "HTTP/1.1 400 "
                                                     : "HTTP/1.1 200 OK\r\n");
            if (found[i] < 0 || found[i] == FIRST_REFUSED) {
                expect_not_in(t, "HTTP/1.1 200 ");
                expect_not_in(t, "one");
            } else if (found[i] >= FIRST_DYING) {
                expect_in(t, good[0]);
                expect_in(t, "error");
                expect_not_in(t, good[2]);
            } else {
                expect_not_in(t, "error");
                for (int k = 0; k < 3; k++) {
                    char *at = strstr(t, good[k]);
                    if (!at || strstr(at + 1, good[k])) fail_msg("not once: %s in %s", good[k], t);
                }
            }
            free(t);
        }
    }
    wait_for(&b->over, ROUNDS * AT_ONCE);
}

static void closing_server_and_pump_ends_what_runs(void **state) {
    bench *b = *state;
    static const char *const plans[] = {"hang", "1_hang", "endless", "wait60000,good"};
    b->limit_ms = 0;
    int fd[4];
    for (int i = 0; i < 4; i++) fd[i] = dial(b, "POST", WIRE_OLLAMA, plans[i]);
    usleep(30000);
    lm_server_close(b->server);
    lm_pump_close(b->pump);
    b->server = NULL;
    b->pump = NULL;
    assert_int_equal(atomic_load(&b->over), 4);
    for (int i = 0; i < 4; i++) close(fd[i]);
}

#define with_bench(f) cmocka_unit_test_setup_teardown(f, open_bench, close_bench)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_bench(a_good_stream_passes_with_its_harmless_headers),
        with_bench(each_fault_before_the_first_event_is_tried_elsewhere),
        with_bench(a_slow_drip_is_an_answer),
        with_bench(what_the_request_itself_deserves_is_not_tried_elsewhere),
        with_bench(when_nobody_is_left_the_last_error_is_told),
        with_bench(an_error_has_the_form_of_its_wire),
        with_bench(a_wait_for_the_busy_ones_is_kept),
        with_bench(retry_after_is_read),
        with_bench(a_stream_that_dies_ends_with_an_honest_error),
        with_bench(what_comes_behind_the_last_event_does_not_matter),
        with_bench(a_whole_answer_passes_and_names_the_clients_model),
        with_bench(head_has_no_body),
        with_bench(an_answer_too_large_to_hold_passes_whole_or_is_cut),
        with_bench(an_end_is_told_before_the_client_hears_it),
        with_bench(a_client_that_leaves_at_any_time_ends_the_backends_work),
        with_bench(a_slow_client_stops_its_backend_and_nobody_else),
        with_bench(many_at_once_get_their_own),
        with_bench(any_schedule_of_faults_gives_a_right_answer),
        with_bench(closing_server_and_pump_ends_what_runs),
    };
    return cmocka_run_group_tests_name("relay", tests, NULL, NULL);
}
