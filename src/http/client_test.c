/* The client against the room's own server, and against sockets that do what no server should. */
#include "base/test.h"
#include "http/client.h"
#include "http/http.h"

#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

typedef struct fixture {
    lm_server *server;
    lm_client *client;
    _Atomic(lm_http *) held; /* the exchange of /hold or /drip: the test's reference */
    atomic_uint gone;
    char url[64];
} fixture;

static void note_end(void *ctx, bool gone) {
    fixture *f = ctx;
    if (gone) atomic_fetch_add(&f->gone, 1);
}

static void handle(void *ctx, lm_http *x) {
    fixture *f = ctx;
    lm_str path = lm_http_path(x);
    lm_http_on_end(x, note_end, f);
    if (lm_str_eq(path, LM_STR("/echo"))) {
        lm_str type = lm_http_header(x, "Content-Type");
        if (type.len) lm_http_set_header(x, "X-Type", type.ptr);
        lm_http_set_header(x, "X-Method", lm_http_method(x).ptr);
        lm_http_reply(x, 200, "Text/Plain; charset=utf-8", lm_http_body(x));
    } else if (lm_str_eq(path, LM_STR("/lines"))) {
        lm_http_stream(x, 200, "application/x-ndjson");
        for (int i = 0; i < 1000; i++) {
            char line[32];
            snprintf(line, sizeof line, "line %d\n", i);
            if (lm_http_write(x, lm_str_of(line)) != LM_OK) break;
        }
        lm_http_end(x);
    } else if (lm_str_eq(path, LM_STR("/drip"))) { /* one piece, and then silence */
        lm_http_stream(x, 200, "text/plain");
        (void)lm_http_write(x, LM_STR("drop"));
        atomic_store(&f->held, lm_http_ref(x));
    } else if (lm_str_eq(path, LM_STR("/hold"))) {
        atomic_store(&f->held, lm_http_ref(x));
    } else if (lm_str_eq(path, LM_STR("/there"))) {
        lm_http_set_header(x, "Location", "/echo");
        lm_http_reply(x, 302, "text/plain", LM_STR("there"));
    } else {
        lm_http_reply(x, 404, "application/json", LM_STR("{\"error\":\"no\"}"));
    }
}

static int open_fixture(void **state) {
    fixture *f = lm_alloc(sizeof *f);
    lm_err err = {0};
    lm_server_config c = {.host = "127.0.0.1",
                          .max_body = 1 << 20,
                          .max_connections = 50,
                          .idle_seconds = 60,
                          .n_workers = 2,
                          .handle = handle,
                          .ctx = f};
    expect_ok(lm_server_open(&f->server, &c, &err), err);
    expect_ok(lm_client_open(&f->client, &err), err);
    *state = f;
    return 0;
}

static int close_fixture(void **state) {
    fixture *f = *state;
    lm_client_close(f->client);
    lm_server_close(f->server);
    lm_http_unref(atomic_load(&f->held));
    free(f);
    return 0;
}

static const char *url_of(fixture *f, const char *path) {
    snprintf(f->url, sizeof f->url, "http://127.0.0.1:%u%s", lm_server_port(f->server), path);
    return f->url;
}

static lm_status ask(fixture *f, lm_ask q, lm_answer *a, lm_err *err) {
    if (!q.method) q.method = "GET";
    return lm_client_ask(f->client, &q, a, err);
}

/* ---- what a server says */

static void an_answer_has_status_type_headers_body_and_times(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    lm_ask q = {.method = "POST", .url = url_of(f, "/echo"), .body = LM_STR("{\"a\":1}")};
    expect_ok(ask(f, q, &a, &err), err);
    assert_int_equal(a.status, 200);
    assert_string_equal(a.content_type, "text/plain");
    assert_true(lm_str_eq(lm_answer_header(&a, "x-type"), LM_STR("application/json")));
    assert_true(lm_str_eq(lm_answer_header(&a, "X-METHOD"), LM_STR("POST")));
    assert_int_equal(lm_answer_header(&a, "X-Nothing").len, 0);
    assert_true(lm_str_eq(lm_buf_view(&a.body), q.body));
    assert_int_equal(a.n_body, q.body.len);
    assert_true(a.first_ns > 0 && a.first_ns <= a.total_ns);
    lm_answer_release(&a);
}

static void a_content_type_of_ones_own_replaces_json(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    const char *headers[] = {"content-type: text/x-mine", NULL};
    expect_ok(
        ask(f, (lm_ask){.method = "POST", .url = url_of(f, "/echo"), .headers = headers, .body = LM_STR("x")},
            &a, &err),
        err);
    assert_true(lm_str_eq(lm_answer_header(&a, "X-Type"), LM_STR("text/x-mine")));
    lm_answer_release(&a);
}

typedef struct source {
    lm_str text;
    size_t fails_at; /* 0: never */
    uint32_t begun;
} source;

static size_t give(void *ctx, uint64_t at, char *out, size_t room) {
    source *s = ctx;
    size_t left = s->text.len - (size_t)at;
    if (room > left) room = left;
    if (room > 7000) room = 7000; /* in pieces */
    s->begun += at == 0;
    if (s->fails_at && at >= s->fails_at) return 0;
    memcpy(out, s->text.ptr + at, room);
    return room;
}

static void a_body_may_be_read_as_it_goes_out(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    source s = {.text = {lm_alloc(200000), 200000}};
    for (size_t i = 0; i < s.text.len; i++) ((char *)(uintptr_t)s.text.ptr)[i] = (char)('a' + i % 23);
    lm_ask ask = {.method = "PUT", .url = url_of(f, "/echo"), .send = give, .n_send = s.text.len, .ctx = &s};
    expect_ok(lm_client_ask(f->client, &ask, &a, &err), err);
    assert_int_equal(a.status, 200);
    assert_true(lm_str_eq(lm_answer_header(&a, "X-Method"), LM_STR("PUT")));
    assert_true(lm_str_eq(lm_buf_view(&a.body), s.text));
    lm_answer_release(&a);
    s.fails_at = 100000;
    expect_fail(lm_client_ask(f->client, &ask, &a, &err), LM_IO, err, "cannot be read");
    lm_answer_release(&a);
    free((void *)(uintptr_t)s.text.ptr);
}

static void head_has_headers_and_no_body(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    expect_ok(ask(f, (lm_ask){.method = "HEAD", .url = url_of(f, "/lines")}, &a, &err), err);
    assert_int_equal(a.status, 200);
    assert_string_equal(a.content_type, "application/x-ndjson");
    assert_int_equal(a.n_body, 0);
    lm_answer_release(&a);
}

typedef struct taken {
    lm_buf bytes;
    unsigned n_pieces, stop_after;
} taken;

static bool take(void *ctx, lm_str piece) {
    taken *t = ctx;
    lm_buf_str(&t->bytes, piece);
    return !t->stop_after || ++t->n_pieces < t->stop_after;
}

static void a_stream_comes_in_pieces_and_whole(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    taken t = {0};
    lm_buf_init(&t.bytes, 1 << 20);
    expect_ok(ask(f, (lm_ask){.url = url_of(f, "/lines"), .on_body = take, .ctx = &t}, &a, &err), err);
    assert_int_equal(a.body.len, 0); /* it was handed on */
    assert_int_equal(a.n_body, t.bytes.len);
    assert_int_equal(strncmp(t.bytes.ptr, "line 0\nline 1\n", 14), 0);
    assert_string_equal(t.bytes.ptr + t.bytes.len - 9, "line 999\n");
    lm_buf_release(&t.bytes);
    lm_answer_release(&a);
}

static void the_body_of_an_error_is_kept_and_not_handed_on(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    taken t = {0};
    lm_buf_init(&t.bytes, 100);
    expect_ok(ask(f, (lm_ask){.url = url_of(f, "/nothing"), .on_body = take, .ctx = &t}, &a, &err), err);
    assert_int_equal(a.status, 404);
    assert_string_equal(a.body.ptr, "{\"error\":\"no\"}");
    assert_int_equal(t.bytes.len, 0);
    lm_answer_release(&a);
}

static void a_redirect_is_an_answer_and_not_followed(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    expect_ok(ask(f, (lm_ask){.url = url_of(f, "/there")}, &a, &err), err);
    assert_int_equal(a.status, 302);
    assert_string_equal(a.body.ptr, "there");
    lm_answer_release(&a);
}

static void the_connection_is_kept(void **state) {
    fixture *f = *state;
    lm_err err = {0};
    for (int i = 0; i < 3; i++) {
        lm_answer a;
        expect_ok(ask(f, (lm_ask){.url = url_of(f, "/echo")}, &a, &err), err);
        assert_int_equal(a.connected_ns > 0, i == 0);
        lm_answer_release(&a);
    }
}

static void a_proxy_of_the_environment_is_not_for_this_machine(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    setenv("http_proxy", "http://192.0.2.1:9", 1); /* nobody */
    lm_status st = ask(f, (lm_ask){.url = url_of(f, "/echo"), .total_ms = 20000}, &a, &err);
    unsetenv("http_proxy");
    expect_ok(st, err);
    lm_answer_release(&a);
}

/* ---- limits */

static void an_answer_over_the_limit_is_refused(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    expect_fail(ask(f, (lm_ask){.url = url_of(f, "/lines"), .max_body = 100}, &a, &err), LM_TOO_LARGE, err,
                "larger");
    lm_answer_release(&a);
    taken t = {0};
    lm_buf_init(&t.bytes, 1 << 20);
    lm_ask q = {.url = url_of(f, "/lines"), .max_body = 100, .on_body = take, .ctx = &t};
    expect_fail(ask(f, q, &a, &err), LM_TOO_LARGE, err, "larger");
    assert_true(t.bytes.len <= 100);
    lm_buf_release(&t.bytes);
    lm_answer_release(&a);
    expect_ok(ask(f, (lm_ask){.url = url_of(f, "/echo")}, &a, &err), err); /* the client is still good */
    lm_answer_release(&a);
}

static void silence_and_the_whole_have_their_limits(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    expect_fail(ask(f, (lm_ask){.url = url_of(f, "/drip"), .silent_ms = 150}, &a, &err), LM_TIMEOUT, err,
                "sent nothing for 0.1");
    assert_int_equal(a.status, 200);
    assert_string_equal(a.body.ptr, "drop");
    lm_answer_release(&a);
    lm_http_unref(atomic_exchange(&f->held, NULL));
    expect_fail(ask(f, (lm_ask){.url = url_of(f, "/hold"), .total_ms = 150}, &a, &err), LM_TIMEOUT, err,
                "took longer than 0.1");
    assert_int_equal(a.status, 0);
    lm_answer_release(&a);
}

/* ---- leaving */

static void a_callback_may_leave(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    taken t = {.stop_after = 1};
    lm_buf_init(&t.bytes, 1 << 20);
    expect_fail(ask(f, (lm_ask){.url = url_of(f, "/drip"), .on_body = take, .ctx = &t}, &a, &err),
                LM_CANCELLED, err, "in the middle");
    assert_string_equal(t.bytes.ptr, "drop");
    lm_buf_release(&t.bytes);
    lm_answer_release(&a);
    for (int i = 0; i < 20000 && !atomic_load(&f->gone); i++) usleep(1000);
    assert_int_equal(atomic_load(&f->gone), 1); /* the server noticed */
}

static bool third_time(void *ctx) {
    return ++*(int *)ctx < 3;
}

static void waiting_may_leave(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    int turns = 0;
    expect_fail(ask(f, (lm_ask){.url = url_of(f, "/hold"), .on_wait = third_time, .ctx = &turns}, &a, &err),
                LM_CANCELLED, err, "cancelled");
    assert_int_equal(turns, 3);
    lm_answer_release(&a);
}

static void *cancel_when_held(void *arg) {
    fixture *f = arg;
    while (!atomic_load(&f->held)) usleep(1000);
    lm_client_cancel(f->client);
    return NULL;
}

static void another_thread_ends_a_request(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, cancel_when_held, f), 0);
    expect_fail(ask(f, (lm_ask){.url = url_of(f, "/hold")}, &a, &err), LM_CANCELLED, err, "cancelled");
    pthread_join(t, NULL);
    lm_answer_release(&a);
    expect_ok(ask(f, (lm_ask){.url = url_of(f, "/echo")}, &a, &err), err); /* it was that one's end only */
    lm_answer_release(&a);
}

/* ---- nobody, and worse */

static void nobody_there_is_not_found(void **state) {
    fixture *f = *state;
    lm_answer a;
    lm_err err = {0};
    int fd = socket(AF_INET, SOCK_STREAM,
                    0); /* bound and not listening: refused, and nobody else can take the port */
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    snprintf(f->url, sizeof f->url, "http://127.0.0.1:%u/", ntohs(at.sin_port));
    expect_fail(ask(f, (lm_ask){.url = f->url}, &a, &err), LM_NOT_FOUND, err, "nothing answers");
    assert_int_equal(a.status, 0);
    lm_answer_release(&a);
    close(fd);
}

static void what_is_no_address_is_said(void **state) {
    fixture *f = *state;
    lm_err err = {0};
    const char *urls[] = {"ftp://127.0.0.1/", "file:///etc/passwd", "http://", "http://a b/"};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        lm_answer a;
        expect_fail(ask(f, (lm_ask){.url = urls[i]}, &a, &err), LM_INVALID, err, "http://");
        lm_answer_release(&a);
    }
}

typedef struct liar {
    int fd;
    const char *says;
} liar;

/* One connection: the words after the first bytes of a request, then the end. */
static void *lie(void *arg) {
    liar *l = arg;
    int fd = accept(l->fd, NULL, NULL);
    char bytes[4096];
    if (fd >= 0 && recv(fd, bytes, sizeof bytes, 0) > 0)
        (void)send(fd, l->says, strlen(l->says), MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    /* Lets the client close first; one that took a head that is cut off for a whole one keeps the connection. */
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (poll(&p, 1, 300) > 0 && recv(fd, bytes, sizeof bytes, 0) > 0) continue;
    close(fd);
    return NULL;
}

static void expect_broken(fixture *f, const char *says, lm_status want, const char *words) {
    liar l = {.fd = socket(AF_INET, SOCK_STREAM, 0), .says = says};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    assert_int_equal(bind(l.fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(l.fd, 1), 0);
    assert_int_equal(getsockname(l.fd, (struct sockaddr *)&at, &len), 0);
    pthread_t t;
    assert_int_equal(pthread_create(&t, NULL, lie, &l), 0);
    snprintf(f->url, sizeof f->url, "http://127.0.0.1:%u/", ntohs(at.sin_port));
    lm_answer a;
    lm_err err = {0};
    expect_fail(ask(f, (lm_ask){.url = f->url}, &a, &err), want, err, words);
    lm_answer_release(&a);
    pthread_join(t, NULL);
    close(l.fd);
}

static void broken_answers_are_told_apart(void **state) {
    expect_broken(*state, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfive!", LM_IO, "in the middle");
    expect_broken(*state, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfive!\r\n", LM_IO,
                  "in the middle");
    expect_broken(*state, "HTTP/1.1 200 OK\r\nContent-Le", LM_IO, "in the middle");
    expect_broken(*state, "HTTP/1.1 100 Continue\r\n\r\n", LM_IO, "without an answer");
    expect_broken(*state, "", LM_IO, "without an answer");
    expect_broken(*state, "220 mail.example ESMTP\r\n", LM_CORRUPT, "does not speak HTTP");
}

int main(void) {
#define with_fixture(test) cmocka_unit_test_setup_teardown(test, open_fixture, close_fixture)
    const struct CMUnitTest tests[] = {
        with_fixture(an_answer_has_status_type_headers_body_and_times),
        with_fixture(a_content_type_of_ones_own_replaces_json),
        with_fixture(a_body_may_be_read_as_it_goes_out),
        with_fixture(head_has_headers_and_no_body),
        with_fixture(a_stream_comes_in_pieces_and_whole),
        with_fixture(the_body_of_an_error_is_kept_and_not_handed_on),
        with_fixture(a_redirect_is_an_answer_and_not_followed),
        with_fixture(the_connection_is_kept),
        with_fixture(a_proxy_of_the_environment_is_not_for_this_machine),
        with_fixture(an_answer_over_the_limit_is_refused),
        with_fixture(silence_and_the_whole_have_their_limits),
        with_fixture(a_callback_may_leave),
        with_fixture(waiting_may_leave),
        with_fixture(another_thread_ends_a_request),
        with_fixture(nobody_there_is_not_found),
        with_fixture(what_is_no_address_is_said),
        with_fixture(broken_answers_are_told_apart),
    };
    return cmocka_run_group_tests_name("http.client", tests, NULL, NULL);
}
