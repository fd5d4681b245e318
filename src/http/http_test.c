/* The server against raw sockets: what real clients send, and what broken or hostile ones do. */
#include "base/test.h"
#include "http/http.h"
#include "http/raw_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- the handler under test */

typedef struct bench {
    lm_server *server;
    atomic_uint handled, ended, gone;
    atomic_uint writers;     /* running */
    atomic_uint cut;         /* writers that were told TOO_LARGE */
    atomic_uint rooms;       /* calls of on_room */
    atomic_bool paused;      /* a polite writer has waited */
    _Atomic(lm_http *) held; /* the exchange of /hold: the test's reference */
} bench;

static void note_end(void *ctx, bool gone) {
    bench *b = ctx;
    if (gone) atomic_fetch_add(&b->gone, 1);
    atomic_fetch_add(&b->ended, 1);
}

typedef struct writer {
    lm_http *x;
    bench *b;
    unsigned n; /* lines; 0: until told to stop */
    unsigned pause_us;
} writer;

static void *write_lines(void *arg) {
    writer *w = arg;
    for (unsigned i = 0; w->n == 0 || i < w->n; i++) {
        char line[128];
        snprintf(line, sizeof line, "line %u of a stream that may be read slowly, quickly, or not at all\n",
                 i);
        lm_status st = lm_http_write(w->x, lm_str_of(line));
        if (st == LM_TOO_LARGE && lm_http_too_slow(w->x)) atomic_fetch_add(&w->b->cut, 1);
        if (st != LM_OK) break;
        if (w->pause_us) usleep(w->pause_us);
    }
    lm_http_end(w->x);
    lm_http_unref(w->x);
    atomic_fetch_sub(&w->b->writers, 1);
    free(w);
    return NULL;
}

static void start_writer_of(bench *b, lm_http *x, unsigned n, unsigned pause_us, void *(*run)(void *)) {
    writer *w = lm_alloc(sizeof *w);
    *w = (writer){lm_http_ref(x), b, n, pause_us};
    atomic_fetch_add(&b->writers, 1);
    lm_http_stream(x, 200, "application/x-ndjson");
    pthread_t t;
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    assert_int_equal(pthread_create(&t, &detached, run, w), 0);
    pthread_attr_destroy(&detached);
}

static void start_writer(bench *b, lm_http *x, unsigned n, unsigned pause_us) {
    start_writer_of(b, x, n, pause_us, write_lines);
}

/* ---- a source that waits for room instead of being cut */

enum { POLITE_LINES = 200000, POLITE_HIGH = 64 << 10, POLITE_LOW = 16 << 10 };

static void note_room(void *ctx) {
    bench *b = ctx;
    atomic_fetch_add(&b->rooms, 1);
}

static void *write_politely(void *arg) {
    writer *w = arg;
    unsigned asked = 0;
    for (unsigned i = 0; i < w->n; i++) {
        if (lm_http_waiting(w->x) > POLITE_HIGH) {
            atomic_store(&w->b->paused, true);
            if (!lm_http_on_room(w->x, POLITE_LOW, note_room, w->b)) break; /* which the reader misses */
            asked++;
            while (atomic_load(&w->b->rooms) < asked) usleep(100);
        }
        char line[32];
        snprintf(line, sizeof line, "line %06u of a long one\n", i);
        if (lm_http_write(w->x, lm_str_of(line)) != LM_OK) break;
    }
    lm_http_end(w->x);
    lm_http_unref(w->x);
    atomic_fetch_sub(&w->b->writers, 1);
    free(w);
    return NULL;
}

static void handle(void *ctx, lm_http *x) {
    bench *b = ctx;
    lm_err err = {0};
    lm_str path = lm_http_path(x);
    lm_http_on_end(x, note_end, b);
    if (lm_http_body_status(x, &err) != LM_OK) {
        lm_http_reply(x, lm_status_http(err.status), "text/plain", lm_str_of(err.text));
    } else if (lm_str_eq(path, LM_STR("/echo"))) {
        lm_http_set_header(x, "X-Test", "yes");
        lm_http_reply(x, 200, "application/octet-stream", lm_http_body(x));
    } else if (lm_str_eq(path, LM_STR("/seen"))) {
        lm_buf t;
        lm_buf_init(&t, 1 << 16);
        lm_buf_printf(&t, "%.*s a=%.*s host=%.*s peer=%.*s", LM_STR_ARG(lm_http_method(x)),
                      LM_STR_ARG(lm_http_query(x, "a")), LM_STR_ARG(lm_http_header(x, "HOST")),
                      LM_STR_ARG(lm_http_peer(x)));
        lm_http_reply(x, 200, "text/plain", lm_buf_view(&t));
        lm_buf_release(&t);
    } else if (lm_str_eq(path, LM_STR("/query"))) {
        lm_buf t;
        lm_buf_init(&t, 1 << 16);
        lm_http_write_query(x, &t);
        lm_http_reply(x, 200, "text/plain", lm_buf_view(&t));
        lm_buf_release(&t);
    } else if (lm_str_eq(path, LM_STR("/lines"))) {
        start_writer(b, x, 1000, 0);
    } else if (lm_str_eq(path, LM_STR("/slow"))) {
        start_writer(b, x, 0, 1000);
    } else if (lm_str_eq(path, LM_STR("/flood"))) {
        start_writer(b, x, 0, 0);
    } else if (lm_str_eq(path, LM_STR("/polite"))) {
        start_writer_of(b, x, POLITE_LINES, 0, write_politely);
    } else if (lm_str_eq(path, LM_STR("/hold"))) {
        atomic_store(&b->held, lm_http_ref(x));
    } else if (!lm_str_eq(path, LM_STR("/drop"))) {
        lm_buf t;
        lm_buf_init(&t, 1 << 16);
        lm_buf_printf(&t, "no %zu:", path.len);
        lm_buf_str(&t, path);
        lm_http_reply(x, 404, "text/plain", lm_buf_view(&t));
        lm_buf_release(&t);
    }
    atomic_fetch_add(&b->handled, 1);
}

static int open_with_idle_time(void **state, uint32_t idle_seconds) {
    bench *b = lm_alloc(sizeof *b);
    lm_err err = {0};
    lm_server_config c = {.host = "127.0.0.1",
                          .max_body = 100000,
                          .max_backlog = 1 << 20,
                          .max_connections = 1500,
                          .idle_seconds = idle_seconds,
                          .n_workers = 2,
                          .handle = handle,
                          .ctx = b};
    expect_ok(lm_server_open(&b->server, &c, &err), err);
    *state = b;
    return 0;
}

static int open_bench(void **state) {
    return open_with_idle_time(state, 2);
}

/* Longer than a test may run. */
static int open_patient_bench(void **state) {
    return open_with_idle_time(state, 3600);
}

static int close_bench(void **state) {
    bench *b = *state;
    lm_server_close(b->server);
    lm_http_unref(atomic_load(&b->held));
    while (atomic_load(&b->writers))
        usleep(1000); /* they find out by themselves that their client has gone */
    free(b);
    return 0;
}

static int dial(const bench *b) {
    return dial_port(lm_server_port(b->server));
}

static char *ask(const bench *b, const char *request) {
    int fd = dial(b);
    say_text(fd, request);
    char *heard = hear(fd, NULL);
    close(fd);
    return heard;
}

/* ---- requests */

static void a_get_is_answered_with_its_headers(void **state) {
    char *t = ask(*state, "GET /seen?a=b%20c+d HTTP/1.1\r\nHost: me:1\r\nConnection: close\r\n\r\n");
    assert_non_null(strstr(t, "HTTP/1.1 200 OK\r\n"));
    assert_non_null(strstr(t, "Content-Type: text/plain\r\n"));
    expect_text(t, "\r\n\r\nGET a=b c d host=me:1 peer=127.0.0.1");
}

static void a_query_can_be_written_as_it_came(void **state) {
    static const char *const cases[][2] = {
        {"", ""},
        {"?", ""},
        {"?beta=true", "beta=true"},
        {"?b=1&a=x%20y+z&c&b=2", "b=1&a=x%20y%20z&c=&b=2"},
        {"?%26%3d=%0d%0a%00%c3%bc", "%26%3D=%0D%0A%00%C3%BC"},
        {"?u=http://h:1/~a_b-c.d@e", "u=http://h:1/~a_b-c.d@e"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char request[300], want[300];
        snprintf(request, sizeof request, "GET /query%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                 cases[i][0]);
        snprintf(want, sizeof want, "\r\n\r\n%s", cases[i][1]);
        char *t = ask(*state, request);
        assert_non_null(strstr(t, "HTTP/1.1 200 OK\r\n"));
        assert_string_equal(strstr(t, "\r\n\r\n"), want);
        free(t);
    }
}

static void a_body_comes_back_and_keep_alive_holds(void **state) {
    int fd = dial(*state);
    for (int i = 0; i < 3; i++) {
        say_text(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello");
        expect_text(hear(fd, "\r\n\r\nhello"), "X-Test: yes\r\n");
    }
    close(fd);
}

static void head_gives_the_length_and_no_body(void **state) {
    int fd = dial(*state);
    say_text(fd, "HEAD /seen HTTP/1.1\r\nHost: x\r\n\r\n");
    char *t = hear(fd, "\r\n\r\n");
    assert_string_equal(strstr(t, "\r\n\r\n"), "\r\n\r\n");
    expect_text(t, "Content-Length: ");
    say_text(fd, "HEAD /lines HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    t = hear(fd, NULL);
    assert_string_equal(strstr(t, "\r\n\r\n"), "\r\n\r\n");
    free(t);
    close(fd);
    bench *b = *state;
    wait_for(&b->ended, 2);
    assert_int_equal(atomic_load(&b->gone), 0);
}

static void a_chunked_upload_is_put_together(void **state) {
    expect_text(
        ask(*state,
            "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
        "\r\n\r\nabcde");
}

static void expect_100_continue_is_answered(void **state) {
    int fd = dial(*state);
    say_text(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: "
                 "close\r\n\r\n");
    expect_text(hear(fd, "\r\n\r\n"), "100 Continue");
    say_text(fd, "ok");
    expect_text(hear(fd, NULL), "\r\n\r\nok");
    close(fd);
}

static void a_body_over_the_limit_is_refused_before_it_is_sent(void **state) {
    expect_text(
        ask(*state,
            "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\nExpect: 100-continue\r\n\r\n"),
        "413");
}

static void a_body_over_the_limit_is_swallowed_and_refused(void **state) {
    enum { LEN = 300000 };
    char *body = lm_alloc(LEN);
    memset(body, 'x', LEN);
    int fd = dial(*state);
    say_text(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\nConnection: close\r\n\r\n");
    say(fd, body, LEN);
    char *t = hear(fd, NULL);
    assert_non_null(strstr(t, "HTTP/1.1 413 "));
    expect_text(t, "request body is larger than 100000 bytes");
    close(fd);

    fd = dial(*state);
    say_text(
        fd,
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n493e0\r\n");
    say(fd, body, LEN);
    say_text(fd, "\r\n0\r\n\r\n");
    expect_text(hear(fd, NULL), "HTTP/1.1 413 ");
    close(fd);
    free(body);
}

static void the_largest_body_passes_whole(void **state) {
    enum { LEN = 100000 };
    char *body = lm_alloc(LEN + 1);
    for (int i = 0; i < LEN; i++) body[i] = (char)('a' + i % 26);
    int fd = dial(*state);
    say_text(fd, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n");
    say(fd, body, LEN);
    char *t = hear(fd, NULL);
    assert_string_equal(strstr(t, "\r\n\r\n") + 4, body);
    free(t);
    free(body);
    close(fd);
}

static void a_nul_in_a_path_does_not_end_it(void **state) {
    expect_text(ask(*state, "GET /echo%00x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "no 7:/echo");
}

static void an_absolute_form_target_is_its_path(void **state) {
    expect_text(ask(*state, "GET http://h:1/seen?a=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
                "GET a=1");
}

static void garbage_is_refused_and_the_next_client_is_served(void **state) {
    expect_text(ask(*state, "\x16\x03\x01 nonsense\r\n\r\n"), "400");
    expect_text(ask(*state, "GET /seen HTTP/1.0\r\n\r\n"), "200 OK");
}

static void a_head_that_is_too_large_is_refused(void **state) {
    lm_buf r;
    lm_buf_init(&r, 1 << 20);
    lm_buf_text(&r, "GET /seen HTTP/1.1\r\nHost: x\r\nX: ");
    for (int i = 0; i < 40000; i++) lm_buf_char(&r, 'y');
    lm_buf_text(&r, "\r\n\r\n");
    int fd = dial(*state);
    say(fd, r.ptr, r.len);
    expect_text(hear(fd, NULL), "HTTP/1.1 431 ");
    close(fd);
    lm_buf_release(&r);
}

/* ---- answers */

/* The text of a chunked answer, in place. */
static char *dechunk(char *heard) {
    char *from = strstr(heard, "\r\n\r\n"), *to = heard;
    assert_non_null(from);
    from += 4;
    for (;;) {
        size_t n = strtoul(from, &from, 16);
        if (strncmp(from, "\r\n", 2) || strlen(from) < n + 4) fail_msg("broken chunk at: %.20s", from);
        if (n == 0) break;
        memmove(to, from + 2, n);
        to += n;
        from += n + 4;
    }
    *to = '\0';
    return heard;
}

static void expect_lines(const char *text) {
    for (int i = 0; i < 1000; i++) {
        char want[128];
        int n = snprintf(want, sizeof want,
                         "line %d of a stream that may be read slowly, quickly, or not at all\n", i);
        if (strncmp(text, want, (size_t)n)) fail_msg("line %d is: %.70s", i, text);
        text += n;
    }
    assert_string_equal(text, "");
}

static void a_stream_arrives_whole_and_in_order(void **state) {
    bench *b = *state;
    int fd = dial(b);
    say_text(fd, "GET /lines HTTP/1.1\r\nHost: x\r\n\r\n");
    char *t = hear(fd, "\r\n0\r\n\r\n");
    assert_non_null(strstr(t, "Transfer-Encoding: chunked\r\n"));
    assert_non_null(strstr(t, "Content-Type: application/x-ndjson\r\n"));
    expect_lines(dechunk(t));
    free(t);
    /* the connection is alive */
    say_text(fd, "GET /seen HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    expect_text(hear(fd, NULL), "200 OK");
    close(fd);
    wait_for(&b->ended, 2);
    assert_int_equal(atomic_load(&b->gone), 0);
}

static void an_http_1_0_client_gets_a_stream_without_chunks(void **state) {
    char *t = ask(*state, "GET /lines HTTP/1.0\r\n\r\n");
    assert_null(strstr(t, "chunked"));
    expect_lines(strstr(t, "\r\n\r\n") + 4);
    free(t);
}

static void an_answer_that_is_cut_has_no_end(void **state) {
    bench *b = *state;
    int fd = dial(b);
    say_text(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_for(&b->handled, 1);
    lm_http *x = atomic_load(&b->held);
    lm_http_stream(x, 200, "text/plain");
    lm_http_write(x, LM_STR("half of i"));
    free(hear(fd, "half of i"));
    lm_http_cut(x);
    char *rest = hear(fd, NULL);
    assert_null(strstr(rest, "0\r\n\r\n"));
    free(rest);
    wait_for(&b->gone, 1);
    assert_int_equal(lm_http_write(x, LM_STR("t")), LM_CANCELLED);
    lm_http_end(x);
    lm_http_cut(x);
    close(fd);
}

static void a_dropped_exchange_is_answered_500(void **state) {
    expect_text(ask(*state, "GET /drop HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "HTTP/1.1 500 ");
}

static void an_answer_may_come_from_another_thread_later(void **state) {
    bench *b = *state;
    int fd = dial(b);
    say_text(fd, "GET /hold HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    wait_for(&b->handled, 1);
    assert_int_equal(lm_server_open_exchanges(b->server), 1);
    lm_http_reply(atomic_load(&b->held), 201, NULL, LM_STR("late"));
    lm_http_reply(atomic_load(&b->held), 500, NULL, LM_STR("twice"));
    expect_text(hear(fd, NULL), "\r\n\r\nlate");
    close(fd);
    wait_for(&b->ended, 1);
    assert_int_equal(lm_http_status(atomic_load(&b->held)), 201);
    assert_int_equal(lm_http_bytes_out(atomic_load(&b->held)), 4);
    assert_int_equal(lm_server_open_exchanges(b->server), 0);
}

/* ---- clients who leave */

static void a_client_who_leaves_while_nothing_flows_is_noticed(void **state) {
    bench *b = *state;
    int fd = dial(b);
    say_text(fd, "POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi");
    wait_for(&b->handled, 1);
    assert_false(lm_http_gone(atomic_load(&b->held)));
    close(fd);
    wait_for(&b->gone, 1);
    assert_true(lm_http_gone(atomic_load(&b->held)));
    assert_int_equal(lm_server_open_exchanges(b->server), 0);
    /* its owner may still answer, into the void */
    lm_http_stream(atomic_load(&b->held), 200, "text/plain");
    assert_int_equal(lm_http_write(atomic_load(&b->held), LM_STR("x")), LM_CANCELLED);
    lm_http_end(atomic_load(&b->held));
}

static void a_client_who_leaves_with_a_request_waiting_behind_is_noticed(void **state) {
    bench *b = *state;
    int fd = dial(b);
    say_text(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\nGET /seen HTTP/1.1\r\n");
    wait_for(&b->handled, 1);
    close(fd);
    wait_for(&b->gone, 1);
}

static void a_client_who_leaves_in_a_stream_ends_it(void **state) {
    bench *b = *state;
    for (unsigned n = 1; n <= 20; n++) {
        int fd = dial(b);
        say_text(fd, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
        for (unsigned i = 0; i < n * 37; i++) { /* leave after byte n * 37 */
            char c;
            struct pollfd p = {.fd = fd, .events = POLLIN};
            assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
            assert_int_equal(recv(fd, &c, 1, 0), 1);
        }
        close(fd);
        wait_for(&b->gone, n);
    }
    assert_int_equal(lm_server_open_exchanges(b->server), 0);
}

static void a_reader_that_takes_nothing_is_cut_off(void **state) {
    bench *b = *state;
    int fd = dial(b);
    say_text(fd, "GET /flood HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_for(&b->cut, 1);
    wait_for(&b->gone, 1);
    close(fd);
}

static void wait_until_paused(bench *b) {
    for (int i = 0; i < PATIENCE_MS && !atomic_load(&b->paused); i++) usleep(1000);
    assert_true(atomic_load(&b->paused));
}

static void a_source_that_waits_for_room_is_not_cut_and_loses_nothing(void **state) {
    bench *b = *state;
    int fd = dial(b);
    say_text(fd, "GET /polite HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until_paused(b);
    char *t = dechunk(hear(fd, "\r\n0\r\n\r\n")), *at = t;
    for (int i = 0; i < POLITE_LINES; i++) {
        char want[32];
        int n = snprintf(want, sizeof want, "line %06d of a long one\n", i);
        if (strncmp(at, want, (size_t)n)) fail_msg("line %d is: %.30s", i, at);
        at += n;
    }
    assert_string_equal(at, "");
    free(t);
    say_text(fd, "GET /seen HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); /* the connection is alive */
    expect_text(hear(fd, NULL), "200 OK");
    close(fd);
    wait_for(&b->ended, 2);
    assert_int_equal(atomic_load(&b->gone), 0);
    assert_int_equal(atomic_load(&b->cut), 0);
}

static void a_source_that_waits_is_woken_when_its_client_leaves(void **state) {
    bench *b = *state;
    int fd = dial(b);
    say_text(fd, "GET /polite HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until_paused(b);
    close(fd);
    wait_for(&b->gone, 1);
    for (int i = 0; i < PATIENCE_MS && atomic_load(&b->writers); i++) usleep(1000);
    assert_int_equal(atomic_load(&b->writers), 0);
}

static void a_source_that_waits_is_woken_when_the_server_closes(void **state) {
    bench *b = *state;
    int fd = dial(b);
    say_text(fd, "GET /polite HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until_paused(b);
    lm_server_close(b->server);
    b->server = NULL;
    assert_int_equal(atomic_load(&b->gone), 1);
    for (int i = 0; i < PATIENCE_MS && atomic_load(&b->writers); i++) usleep(1000);
    assert_int_equal(atomic_load(&b->writers), 0);
    close(fd);
}

static void room_is_told_at_once_where_there_is_some(void **state) {
    bench *b = *state;
    int fd = dial(b);
    say_text(fd, "HEAD /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_for(&b->handled, 1);
    lm_http *x = atomic_load(&b->held);
    assert_true(lm_http_on_room(x, 1, note_room, b)); /* not begun */
    assert_int_equal(atomic_load(&b->rooms), 1);
    lm_http_stream(x, 200, "text/plain");
    assert_int_equal(lm_http_write(x, LM_STR("what nobody gets after HEAD")), LM_OK);
    assert_int_equal(lm_http_waiting(x), 0);
    assert_true(lm_http_on_room(x, 1, note_room, b));
    assert_int_equal(atomic_load(&b->rooms), 2);
    lm_http_end(x);
    free(hear(fd, "\r\n\r\n"));
    wait_for(&b->ended, 1);
    assert_true(lm_http_on_room(x, 1, note_room, b)); /* over */
    assert_int_equal(atomic_load(&b->rooms), 3);
    close(fd);
}

/* Below 0 there is never room: it waits for the end, and a second one is refused. */
static void only_one_waits_for_room(void **state) {
    bench *b = *state;
    int fd = dial(b);
    say_text(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_for(&b->handled, 1);
    lm_http *x = atomic_load(&b->held);
    assert_true(lm_http_on_room(x, 0, note_room, b));
    assert_false(lm_http_on_room(x, 100, note_room, b));
    assert_int_equal(atomic_load(&b->rooms), 0);
    lm_http_reply(x, 200, NULL, LM_STR("whole"));
    expect_text(hear(fd, "whole"), "200 OK");
    wait_for(&b->ended, 1);
    assert_int_equal(atomic_load(&b->rooms), 1);
    close(fd);
}

static void half_a_request_is_given_up_after_the_idle_time(void **state) {
    bench *b = *state;
    int head = dial(b), body = dial(b);
    say_text(head, "POST /echo HTT");
    say_text(body, "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
    free(hear(head, NULL)); /* returns when the server closes */
    free(hear(body, NULL));
    close(head);
    close(body);
    assert_int_equal(atomic_load(&b->handled), 0);
    expect_text(ask(b, "GET /seen HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "200 OK");
}

/* Data and the end in one go, over and over: an end that comes together with data must be seen as well. */
static void half_a_request_and_the_end_is_closed_at_once(void **state) {
    enum { AT_ONCE = 40 };
    bench *b = *state;
    static const char whole[] = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 40\r\n\r\n0123456789";
    for (size_t round = 0; round < 8; round++) {
        int fd[AT_ONCE];
        for (size_t i = 0; i < AT_ONCE; i++) {
            size_t n = 1 + (i + round * AT_ONCE) % (sizeof whole - 1);
            fd[i] = dial(b);
            assert_int_equal(send(fd[i], whole, n / 2, MSG_NOSIGNAL), n / 2);
            assert_int_equal(send(fd[i], whole + n / 2, n - n / 2, MSG_NOSIGNAL), n - n / 2);
            assert_int_equal(shutdown(fd[i], SHUT_WR), 0);
        }
        for (size_t i = 0; i < AT_ONCE; i++) {
            char byte;
            assert_int_equal(recv(fd[i], &byte, 1, 0), 0); /* hangs, and the idle time is long, when unseen */
            close(fd[i]);
        }
    }
    assert_int_equal(atomic_load(&b->handled), 0);
}

static void a_thousand_idle_connections_do_not_keep_others_out(void **state) {
    enum { N = 1000 };
    bench *b = *state;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max < 8192 ? limit.rlim_max : 8192;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < 2 * N + 100) skip();
    int fd[N];
    for (int i = 0; i < N; i++) fd[i] = dial(b);
    expect_text(ask(b, "GET /seen HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "200 OK");
    for (int i = 0; i < N; i++) close(fd[i]);
}

/* ---- the server's end */

static void a_quiesced_server_finishes_what_runs_and_takes_nothing_new(void **state) {
    bench *b = *state;
    int fd = dial(b);
    say_text(fd, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_for(&b->handled, 1);
    lm_server_quiesce(b->server);
    lm_server_quiesce(b->server);
    int late = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(lm_server_port(b->server))};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(late, (struct sockaddr *)&a, sizeof a), -1);
    close(late);
    lm_http_reply(atomic_load(&b->held), 200, "text/plain", LM_STR("done"));
    char *t = hear(fd, NULL);
    assert_non_null(strstr(t, "Connection: close\r\n"));
    expect_text(t, "\r\n\r\ndone");
    close(fd);
    wait_for(&b->ended, 1);
    assert_int_equal(atomic_load(&b->gone), 0);
}

static void closing_cuts_held_and_streaming_exchanges(void **state) {
    bench *b = *state;
    int held = dial(b), streaming = dial(b);
    say_text(held, "GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    say_text(streaming, "GET /slow HTTP/1.1\r\nHost: x\r\n\r\n");
    free(hear(streaming, "line 3 "));
    wait_for(&b->handled, 2);
    lm_server_close(b->server);
    b->server = NULL;
    assert_int_equal(atomic_load(&b->gone), 2);
    free(hear(held, NULL));
    free(hear(streaming, NULL));
    close(held);
    close(streaming);
}

static void a_port_in_use_is_named_with_its_remedy(void **state) {
    bench *b = *state;
    lm_server *second = NULL;
    lm_err err = {0};
    lm_server_config c = {.host = "127.0.0.1",
                          .port = lm_server_port(b->server),
                          .max_body = 1,
                          .max_connections = 4,
                          .idle_seconds = 1,
                          .n_workers = 1,
                          .handle = handle,
                          .ctx = b};
    expect_fail(lm_server_open(&second, &c, &err), LM_IO, err, "--port");
    assert_non_null(strstr(err.text, "in use"));
    c.host = "192.0.2.1";
    expect_fail(lm_server_open(&second, &c, &err), LM_IO, err, "no address of this machine");
    assert_null(second);
}

#define with_bench(f)         cmocka_unit_test_setup_teardown(f, open_bench, close_bench)
#define with_patient_bench(f) cmocka_unit_test_setup_teardown(f, open_patient_bench, close_bench)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_bench(a_get_is_answered_with_its_headers),
        with_bench(a_query_can_be_written_as_it_came),
        with_bench(a_body_comes_back_and_keep_alive_holds),
        with_bench(head_gives_the_length_and_no_body),
        with_bench(a_chunked_upload_is_put_together),
        with_bench(expect_100_continue_is_answered),
        with_bench(a_body_over_the_limit_is_refused_before_it_is_sent),
        with_bench(a_body_over_the_limit_is_swallowed_and_refused),
        with_bench(the_largest_body_passes_whole),
        with_bench(a_nul_in_a_path_does_not_end_it),
        with_bench(an_absolute_form_target_is_its_path),
        with_bench(garbage_is_refused_and_the_next_client_is_served),
        with_bench(a_head_that_is_too_large_is_refused),
        with_bench(a_stream_arrives_whole_and_in_order),
        with_bench(an_http_1_0_client_gets_a_stream_without_chunks),
        with_bench(an_answer_that_is_cut_has_no_end),
        with_bench(a_dropped_exchange_is_answered_500),
        with_bench(an_answer_may_come_from_another_thread_later),
        with_bench(a_client_who_leaves_while_nothing_flows_is_noticed),
        with_bench(a_client_who_leaves_with_a_request_waiting_behind_is_noticed),
        with_bench(a_client_who_leaves_in_a_stream_ends_it),
        with_bench(a_reader_that_takes_nothing_is_cut_off),
        with_patient_bench(a_source_that_waits_for_room_is_not_cut_and_loses_nothing),
        with_patient_bench(a_source_that_waits_is_woken_when_its_client_leaves),
        with_patient_bench(a_source_that_waits_is_woken_when_the_server_closes),
        with_bench(room_is_told_at_once_where_there_is_some),
        with_bench(only_one_waits_for_room),
        with_bench(half_a_request_is_given_up_after_the_idle_time),
        with_patient_bench(half_a_request_and_the_end_is_closed_at_once),
        with_bench(a_thousand_idle_connections_do_not_keep_others_out),
        with_bench(a_quiesced_server_finishes_what_runs_and_takes_nothing_new),
        with_bench(closing_cuts_held_and_streaming_exchanges),
        with_bench(a_port_in_use_is_named_with_its_remedy),
    };
    return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
