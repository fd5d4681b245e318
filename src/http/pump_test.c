/* The pump against sockets that do what servers do, and what none should. */
#include "http/pump.h"
#include "http/http.h"
#include "http/raw_server.h"

typedef struct bench {
    lm_pump *pump;
    raw_server server;
} bench;

/* What became of a flow. */
typedef struct seen {
    char url[128];
    atomic_uint heads, ended;
    atomic_size_t n_body;
    atomic_bool refuse; /* on_body refuses pieces */
    atomic_uint refused;
    size_t refuse_after; /* and once so many bytes have come; 0: never */
    int status;
    uint32_t retry_after_s;
    char type[64], header[64];
    lm_buf body; /* the first MB */
    lm_status st;
    char text[200];
    bool leave; /* on_head says so */
} seen;

static bool on_head(void *ctx, const lm_answer *a) {
    seen *s = ctx;
    s->status = a->status;
    s->retry_after_s = a->retry_after_s;
    snprintf(s->type, sizeof s->type, "%.60s", a->content_type);
    snprintf(s->header, sizeof s->header, "%.*s", LM_STR_ARG(lm_answer_header(a, "X-Test")));
    atomic_fetch_add(&s->heads, 1);
    return !s->leave;
}

static bool on_body(void *ctx, lm_str piece) {
    seen *s = ctx;
    if (s->refuse_after && atomic_load(&s->n_body) >= s->refuse_after) {
        s->refuse_after = 0;
        atomic_store(&s->refuse, true);
    }
    if (atomic_load(&s->refuse)) {
        atomic_fetch_add(&s->refused, 1);
        return false;
    }
    if (s->body.len + piece.len < s->body.cap) lm_buf_str(&s->body, piece);
    atomic_fetch_add(&s->n_body, piece.len);
    return true;
}

static void on_end(void *ctx, lm_status st, const char *text) {
    seen *s = ctx;
    s->st = st;
    snprintf(s->text, sizeof s->text, "%s", text);
    atomic_fetch_add(&s->ended, 1);
}

static lm_flow_ask ask_of(seen *s, uint16_t port) {
    lm_buf_release(&s->body);
    lm_buf_init(&s->body, 1 << 20);
    snprintf(s->url, sizeof s->url, "http://127.0.0.1:%u/x", port);
    return (lm_flow_ask){
        .method = "GET", .url = s->url, .on_head = on_head, .on_body = on_body, .on_end = on_end, .ctx = s};
}

static lm_flow_ask post_of(seen *s, uint16_t port) {
    lm_flow_ask q = ask_of(s, port);
    q.method = "POST";
    q.body = LM_STR("{\"stream\":true}");
    return q;
}

/* Starts it and waits until it has ended. */
static void go(bench *b, const lm_flow_ask *q) {
    lm_flow *f = lm_pump_start(b->pump, q);
    wait_for(&((seen *)q->ctx)->ended, 1);
    lm_flow_unref(f);
}

static void over(seen *s) {
    lm_buf_release(&s->body);
}

static int open_pump(void **state) {
    bench *b = lm_alloc(sizeof *b);
    lm_err err = {0};
    expect_ok(lm_pump_open(&b->pump, &err), err);
    *state = b;
    return 0;
}

static int close_pump(void **state) {
    bench *b = *state;
    lm_pump_close(b->pump);
    if (b->server.port) raw_close(&b->server);
    free(b);
    return 0;
}

static void serve(bench *b, bool (*f)(void *ctx, const raw_ask *q)) {
    raw_open(&b->server, f, b);
}

/* ---- answers */

static bool say_echo(void *ctx, const raw_ask *q) {
    (void)ctx;
    char head[256];
    snprintf(head, sizeof head,
             "HTTP/1.1 200 OK\r\nContent-Type: Text/Plain; charset=utf-8\r\nX-Test: %u\r\nRetry-After: "
             "7\r\nContent-Length: %zu\r\n\r\n",
             q->nth, strlen(q->head) + strlen(q->body));
    say_text(q->fd, head);
    say_text(q->fd, q->head);
    say_text(q->fd, q->body);
    return true;
}

static void an_answer_comes_with_head_body_and_end(void **state) {
    bench *b = *state;
    seen s = {0};
    serve(b, say_echo);
    lm_flow_ask q = post_of(&s, b->server.port);
    const char *headers[] = {"X-Mine: 1", NULL};
    q.headers = headers;
    go(b, &q);
    assert_int_equal(s.st, LM_OK);
    assert_int_equal(s.status, 200);
    assert_string_equal(s.type, "text/plain");
    assert_int_equal(s.retry_after_s, 7);
    assert_non_null(strstr(s.body.ptr, "POST /x HTTP/1.1\r\n"));
    assert_non_null(strstr(s.body.ptr, "X-Mine: 1\r\n"));
    assert_non_null(strstr(s.body.ptr, "Content-Type: application/json\r\n"));
    assert_null(strstr(s.body.ptr, "Expect"));
    assert_non_null(strstr(s.body.ptr, "\r\n\r\n{\"stream\":true}"));
    over(&s);
}

static void a_connection_is_kept_for_the_next_request(void **state) {
    bench *b = *state;
    serve(b, say_echo);
    for (int i = 0; i < 5; i++) {
        seen s = {0};
        lm_flow_ask q = post_of(&s, b->server.port);
        go(b, &q);
        assert_int_equal(s.st, LM_OK);
        assert_int_equal(atoi(s.header), i);
        over(&s);
    }
    assert_int_equal(atomic_load(&b->server.n_connections), 1);
}

static void a_post_of_nothing_has_a_length(void **state) {
    bench *b = *state;
    seen s = {0};
    serve(b, say_echo);
    lm_flow_ask q = ask_of(&s, b->server.port);
    q.method = "POST";
    go(b, &q);
    assert_non_null(strstr(s.body.ptr, "Content-Length: 0\r\n"));
    over(&s);
}

static bool say_head_only(void *ctx, const raw_ask *q) {
    (void)ctx;
    say_text(q->fd, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-Test: head\r\n\r\n");
    return true;
}

static void head_ends_with_its_head(void **state) {
    bench *b = *state;
    seen s = {0};
    serve(b, say_head_only);
    lm_flow_ask q = ask_of(&s, b->server.port);
    q.method = "HEAD";
    go(b, &q);
    assert_int_equal(s.st, LM_OK);
    assert_string_equal(s.header, "head");
    assert_int_equal(atomic_load(&s.heads), 1);
    assert_int_equal(atomic_load(&s.n_body), 0);
    over(&s);
}

static bool say_steps(void *ctx, const raw_ask *q) {
    (void)ctx;
    say_text(q->fd, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\nX-Test: no\r\n\r\n"
                    "HTTP/1.1 503 Busy\r\nX-Test: yes\r\nTransfer-Encoding: chunked\r\n"
                    "Retry-After: Fri, 31 Dec 2999 23:59:59 GMT\r\n\r\n");
    for (const char *p = "5\r\nhello\r\n3\r\n, w\r\n4\r\norld\r\n0\r\nTrailer-One: 1\r\n\r\n"; *p; p++) {
        say(q->fd, p, 1);
        usleep(300);
    }
    return true;
}

static void a_chunked_answer_in_single_bytes_after_interim_ones_is_put_together(void **state) {
    bench *b = *state;
    seen s = {0};
    serve(b, say_steps);
    lm_flow_ask q = post_of(&s, b->server.port);
    go(b, &q);
    assert_int_equal(s.st, LM_OK);
    assert_int_equal(s.status, 503);
    assert_int_equal(atomic_load(&s.heads), 1);
    assert_string_equal(s.header, "yes");
    assert_string_equal(s.body.ptr, "hello, world");
    assert_true(s.retry_after_s > 3600 && s.retry_after_s <= 86400); /* a date */
    over(&s);
}

/* ---- faults */

static void what_nobody_answers_is_not_found(void **state) {
    bench *b = *state;
    seen s = {0};
    lm_flow_ask q = post_of(&s, raw_refusing_port());
    go(b, &q);
    assert_int_equal(s.st, LM_NOT_FOUND);
    assert_null(strstr(s.text, "127.0.0.1"));
    over(&s);
    static const char *const bad[] = {"ftp://127.0.0.1/", "127.0.0.1:", "http://", "file:///etc/passwd"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        seen t = {0};
        q = ask_of(&t, 1);
        q.url = bad[i];
        go(b, &q);
        if (t.st != LM_INVALID && t.st != LM_NOT_FOUND) fail_msg("%s: %s", bad[i], t.text);
        over(&t);
    }
}

static bool say_nothing(void *ctx, const raw_ask *q) {
    (void)ctx;
    return raw_hang(q);
}

static void a_server_that_hangs_is_given_up(void **state) {
    bench *b = *state;
    seen s = {0};
    serve(b, say_nothing);
    lm_flow_ask q = post_of(&s, b->server.port);
    q.first_ms = 60;
    q.silent_ms = 1;
    go(b, &q);
    assert_int_equal(s.st, LM_TIMEOUT);
    assert_non_null(strstr(s.text, "did not begin to answer within 0.1 s"));
    wait_for(&b->server.n_left, 1); /* and told so */
    over(&s);
}

static bool say_some_and_hang(void *ctx, const raw_ask *q) {
    (void)ctx;
    say_text(q->fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    return raw_hang(q);
}

static void silence_in_a_body_is_given_up(void **state) {
    bench *b = *state;
    seen s = {0};
    serve(b, say_some_and_hang);
    lm_flow_ask q = post_of(&s, b->server.port);
    q.first_ms = 60000;
    q.silent_ms = 60;
    go(b, &q);
    assert_int_equal(s.st, LM_TIMEOUT);
    assert_non_null(strstr(s.text, "sent nothing for 0.1 s"));
    assert_string_equal(s.body.ptr, "hello");
    wait_for(&b->server.n_left, 1);
    over(&s);
}

static bool drip(void *ctx, const raw_ask *q) {
    (void)ctx;
    say_text(q->fd, "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n");
    for (int i = 0; i < 30; i++) {
        usleep(50000);
        say(q->fd, "x", 1);
    }
    return true;
}

static void a_slow_drip_is_no_silence(void **state) {
    bench *b = *state;
    seen s = {0};
    serve(b, drip);
    lm_flow_ask q = post_of(&s, b->server.port);
    q.silent_ms = 1200; /* the whole takes longer */
    go(b, &q);
    assert_int_equal(s.st, LM_OK);
    assert_int_equal(s.body.len, 30);
    over(&s);
}

static const char *const broken[] = {
    "",
    "nonsense\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Le",
    "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
};

static bool say_broken(void *ctx, const raw_ask *q) {
    (void)ctx;
    say_text(q->fd, broken[atomic_load(&q->server->n_asked) - 1]);
    return false;
}

static void an_answer_that_breaks_is_no_answer(void **state) {
    bench *b = *state;
    serve(b, say_broken);
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        seen s = {0};
        lm_flow_ask q = post_of(&s, b->server.port);
        go(b, &q);
        if (s.st != LM_IO && s.st != LM_CORRUPT) fail_msg("case %zu: %s %s", i, lm_status_name(s.st), s.text);
        over(&s);
    }
    assert_int_equal(atomic_load(&b->server.n_asked), sizeof broken / sizeof *broken);
}

static bool say_endless_head(void *ctx, const raw_ask *q) {
    (void)ctx;
    char line[1024];
    memset(line, 'y', sizeof line);
    memcpy(line, "X: ", 3);
    memcpy(line + sizeof line - 2, "\r\n", 2);
    say_text(q->fd, "HTTP/1.1 200 OK\r\n");
    for (int i = 0; i < 4096; i++) say(q->fd, line, sizeof line);
    return raw_hang(q);
}

static void a_head_without_an_end_is_bounded(void **state) {
    bench *b = *state;
    seen s = {0};
    serve(b, say_endless_head);
    lm_flow_ask q = post_of(&s, b->server.port);
    go(b, &q);
    assert_true(s.st == LM_CORRUPT || s.st == LM_IO);
    assert_int_equal(atomic_load(&s.heads), 0);
    over(&s);
}

static bool die_the_second_time(void *ctx, const raw_ask *q) {
    if (q->nth == 0) return say_echo(ctx, q);
    return false; /* read, and closed without a word */
}

static void a_post_is_not_sent_again_when_a_kept_connection_closes(void **state) {
    bench *b = *state;
    serve(b, die_the_second_time);
    seen first = {0}, second = {0};
    lm_flow_ask q = post_of(&first, b->server.port);
    go(b, &q);
    assert_int_equal(first.st, LM_OK);
    q = post_of(&second, b->server.port);
    go(b, &q);
    assert_int_equal(second.st, LM_IO);
    assert_non_null(strstr(second.text, "closed the connection without an answer"));
    assert_int_equal(atomic_load(&b->server.n_asked), 2);
    over(&first);
    over(&second);
}

static void a_get_is_sent_again_when_a_kept_connection_closes(void **state) {
    bench *b = *state;
    serve(b, die_the_second_time);
    for (int i = 0; i < 2; i++) {
        seen s = {0};
        lm_flow_ask q = ask_of(&s, b->server.port);
        go(b, &q);
        assert_int_equal(s.st, LM_OK);
        over(&s);
    }
    assert_int_equal(atomic_load(&b->server.n_asked), 3);
    assert_int_equal(atomic_load(&b->server.n_connections), 2);
}

static bool answer_and_close(void *ctx, const raw_ask *q) {
    say_echo(ctx, q);
    return false;
}

static void a_kept_connection_that_was_closed_meanwhile_does_no_harm(void **state) {
    bench *b = *state;
    serve(b, answer_and_close);
    for (unsigned i = 0; i < 20; i++) {
        seen s = {0};
        lm_flow_ask q = post_of(&s, b->server.port);
        go(b, &q);
        assert_int_equal(s.st, LM_OK);
        over(&s);
        for (int ms = 0; atomic_load(&b->server.n_open) && ms < PATIENCE_MS; ms++) usleep(1000);
    }
}

/* ---- the consumer's side */

static bool say_endlessly(void *ctx, const raw_ask *q) {
    (void)ctx;
    char bytes[16384];
    memset(bytes, 'z', sizeof bytes);
    say_text(q->fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    while (send(q->fd, "4000\r\n", 6, MSG_NOSIGNAL) > 0) {
        size_t done = 0;
        for (ssize_t n = 1; n > 0 && done < sizeof bytes; done += (size_t)(n > 0 ? n : 0)) {
            n = send(q->fd, bytes + done, sizeof bytes - done, MSG_NOSIGNAL);
            if (n > 0) atomic_fetch_add((atomic_size_t *)q->server->ctx, (size_t)n);
        }
        if (done < sizeof bytes || send(q->fd, "\r\n", 2, MSG_NOSIGNAL) <= 0) break;
    }
    atomic_fetch_add(&q->server->n_left, 1);
    return false;
}

static void a_paused_flow_holds_its_sender_back(void **state) {
    bench *b = *state;
    atomic_size_t sent = 0;
    raw_open(&b->server, say_endlessly, &sent);
    seen s = {.refuse_after = 100000};
    lm_flow_ask q = post_of(&s, b->server.port);
    q.silent_ms = 50; /* does not count while it stands still */
    lm_flow *f = lm_pump_start(b->pump, &q);
    wait_for(&s.refused, 1);
    size_t before = 0;
    do { /* until the sender's side is full */
        before = atomic_load(&sent);
        usleep(150000);
    } while (atomic_load(&sent) != before);
    size_t taken = atomic_load(&s.n_body);
    assert_int_equal(atomic_load(&s.ended), 0);
    assert_true(before < taken + (64u << 20));       /* what sockets hold; an endless one is without end */
    for (int i = 0; i < 100; i++) lm_flow_resume(f); /* refused again, without harm */
    usleep(20000);
    assert_int_equal(atomic_load(&s.n_body), taken);
    atomic_store(&s.refuse, false);
    lm_flow_resume(f);
    for (int i = 0; i < PATIENCE_MS && atomic_load(&s.n_body) < taken + (1u << 20); i++) usleep(1000);
    assert_true(atomic_load(&s.n_body) >= taken + (1u << 20));
    lm_flow_cancel(f);
    wait_for(&s.ended, 1);
    assert_int_equal(s.st, LM_CANCELLED);
    for (size_t i = 0; i < s.body.len; i++)
        if (s.body.ptr[i] != 'z') fail_msg("byte %zu is %d", i, s.body.ptr[i]);
    wait_for(&b->server.n_left, 1);
    lm_flow_unref(f);
    over(&s);
}

enum { COUNTED = 20000 };

static bool say_numbers(void *ctx, const raw_ask *q) {
    (void)ctx;
    say_text(q->fd, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    lm_buf b;
    lm_buf_init(&b, 1 << 20);
    for (int i = 0; i < COUNTED; i++) {
        lm_buf_printf(&b, "7\r\n%06d\n\r\n", i);
        if (b.len < 3000 && i + 1 < COUNTED) continue;
        say(q->fd, b.ptr, b.len);
        lm_buf_clear(&b);
    }
    lm_buf_release(&b);
    say_text(q->fd, "0\r\n\r\n");
    return true;
}

/* Refuses every other piece, and takes it as soon as it comes again. */
typedef struct stubborn {
    seen seen;
    lm_pump *pump;
    const lm_flow_ask *ask;
    lm_flow *flow;
    bool refused;
} stubborn;

/* On the pump's thread, so that flow is there before on_body wants it. */
static void start_stubborn(void *ctx) {
    stubborn *s = ctx;
    s->flow = lm_pump_start(s->pump, s->ask);
}

static bool take_the_second_time(void *ctx, lm_str piece) {
    stubborn *s = ctx;
    s->refused = !s->refused;
    if (s->refused) {
        lm_flow_resume(s->flow);
        return false;
    }
    lm_buf_str(&s->seen.body, piece);
    return true;
}

static void pieces_that_were_refused_come_again_whole_and_in_order(void **state) {
    bench *b = *state;
    serve(b, say_numbers);
    stubborn s = {0};
    atomic_uint *ended = &s.seen.ended;
    lm_flow_ask q = post_of(&s.seen, b->server.port);
    q.on_body = take_the_second_time;
    s.pump = b->pump;
    s.ask = &q;
    lm_pump_later(b->pump, 0, start_stubborn, &s);
    wait_for(ended, 1);
    assert_int_equal(s.seen.st, LM_OK);
    assert_int_equal(s.seen.body.len, COUNTED * 7);
    for (int i = 0; i < COUNTED; i++)
        if (atoi(s.seen.body.ptr + (size_t)i * 7) != i) fail_msg("line %d is missing", i);
    lm_flow_unref(s.flow);
    over(&s.seen);
}

static void on_head_may_leave(void **state) {
    bench *b = *state;
    serve(b, say_some_and_hang);
    seen s = {.leave = true};
    lm_flow_ask q = post_of(&s, b->server.port);
    go(b, &q);
    assert_int_equal(s.st, LM_CANCELLED);
    assert_int_equal(atomic_load(&s.n_body), 0);
    wait_for(&b->server.n_left, 1);
    over(&s);
}

static void a_flow_may_be_cancelled_at_any_time_from_another_thread(void **state) {
    bench *b = *state;
    serve(b, say_some_and_hang);
    for (useconds_t wait_us = 0; wait_us < 4000; wait_us += 100) {
        seen s = {0};
        lm_flow_ask q = post_of(&s, b->server.port);
        lm_flow *f = lm_pump_start(b->pump, &q);
        usleep(wait_us);
        lm_flow_cancel(f);
        wait_for(&s.ended, 1);
        assert_int_equal(s.st, LM_CANCELLED);
        lm_flow_cancel(f); /* too late: nothing */
        lm_flow_resume(f);
        lm_flow_unref(f);
        over(&s);
    }
}

static void closing_ends_what_runs(void **state) {
    bench *b = *state;
    serve(b, say_some_and_hang);
    enum { N = 50 };
    seen s[N] = {0};
    for (int i = 0; i < N; i++) {
        lm_flow_ask q = post_of(&s[i], b->server.port);
        lm_flow_unref(lm_pump_start(b->pump, &q));
        if (i == N / 2) usleep(10000);
    }
    lm_pump_close(b->pump);
    b->pump = NULL;
    for (int i = 0; i < N; i++) {
        assert_int_equal(atomic_load(&s[i].ended), 1);
        assert_int_equal(s[i].st, LM_CANCELLED);
        over(&s[i]);
    }
}

/* ---- timers */

typedef struct order {
    lm_pump *pump;
    char text[16];
    unsigned n;
    atomic_uint done;
} order;

typedef struct mark {
    order *order;
    char c;
} mark;

static void note_mark(void *ctx) {
    mark *m = ctx;
    m->order->text[m->order->n++] = m->c;
    atomic_fetch_add(&m->order->done, 1);
}

static void note_and_again(void *ctx) {
    mark *m = ctx;
    note_mark(m);
    m->c = 'e';
    lm_pump_later(m->order->pump, 0, note_mark, m);
}

static void timers_run_in_the_order_of_their_time(void **state) {
    bench *b = *state;
    order o = {.pump = b->pump};
    mark a = {&o, 'a'}, c = {&o, 'c'}, d = {&o, 'd'}, z = {&o, 'b'};
    lm_pump_later(b->pump, 300, note_mark, &d);
    lm_pump_later(b->pump, 100, note_mark, &c);
    lm_pump_later(b->pump, 0, note_mark, &a);
    lm_pump_later(b->pump, 0, note_mark, &z);
    wait_for(&o.done, 4);
    assert_string_equal(o.text, "abcd");
    mark again = {&o, 'f'};
    lm_pump_later(b->pump, 3600000, note_and_again, &again);
    lm_pump_close(b->pump); /* at once then */
    b->pump = NULL;
    assert_string_equal(o.text, "abcdfe");
}

/* ---- many */

enum { MANY = 1000, MANY_LINES = 5 };

typedef struct crowd {
    pthread_mutex_t lock;
    lm_http *held[MANY];
    atomic_uint n;
} crowd;

static void hold(void *ctx, lm_http *x) {
    crowd *c = ctx;
    lm_http_stream(x, 200, "text/plain");
    lm_http_write(x, LM_STR("begun\n"));
    pthread_mutex_lock(&c->lock);
    c->held[atomic_load(&c->n)] = lm_http_ref(x);
    pthread_mutex_unlock(&c->lock);
    atomic_fetch_add(&c->n, 1);
}

static void a_thousand_flows_at_once_lose_nothing(void **state) {
    bench *b = *state;
    crowd *c = lm_alloc(sizeof *c);
    pthread_mutex_init(&c->lock, NULL);
    lm_server *server = NULL;
    lm_err err = {0};
    lm_server_config config = {.host = "127.0.0.1",
                               .max_body = 1000,
                               .max_connections = MANY + 10,
                               .idle_seconds = 3600,
                               .n_workers = 1,
                               .handle = hold,
                               .ctx = c};
    expect_ok(lm_server_open(&server, &config, &err), err);
    seen *s = lm_alloc(MANY * sizeof *s);
    for (int i = 0; i < MANY; i++) {
        lm_flow_ask q = post_of(&s[i], lm_server_port(server));
        lm_flow_unref(lm_pump_start(b->pump, &q));
    }
    wait_for(&c->n, MANY); /* all at the same time */
    for (int line = 0; line < MANY_LINES; line++)
        for (int i = 0; i < MANY; i++) lm_http_write(c->held[i], LM_STR("a line\n"));
    for (int i = 0; i < MANY; i++) {
        lm_http_end(c->held[i]);
        lm_http_unref(c->held[i]);
    }
    for (int i = 0; i < MANY; i++) {
        wait_for(&s[i].ended, 1);
        assert_int_equal(s[i].st, LM_OK);
        assert_int_equal(s[i].body.len, 6 + MANY_LINES * 7);
        over(&s[i]);
    }
    free(s);
    lm_server_close(server);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

#define with_pump(f) cmocka_unit_test_setup_teardown(f, open_pump, close_pump)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_pump(an_answer_comes_with_head_body_and_end),
        with_pump(a_connection_is_kept_for_the_next_request),
        with_pump(a_post_of_nothing_has_a_length),
        with_pump(head_ends_with_its_head),
        with_pump(a_chunked_answer_in_single_bytes_after_interim_ones_is_put_together),
        with_pump(what_nobody_answers_is_not_found),
        with_pump(a_server_that_hangs_is_given_up),
        with_pump(silence_in_a_body_is_given_up),
        with_pump(a_slow_drip_is_no_silence),
        with_pump(an_answer_that_breaks_is_no_answer),
        with_pump(a_head_without_an_end_is_bounded),
        with_pump(a_post_is_not_sent_again_when_a_kept_connection_closes),
        with_pump(a_get_is_sent_again_when_a_kept_connection_closes),
        with_pump(a_kept_connection_that_was_closed_meanwhile_does_no_harm),
        with_pump(a_paused_flow_holds_its_sender_back),
        with_pump(pieces_that_were_refused_come_again_whole_and_in_order),
        with_pump(on_head_may_leave),
        with_pump(a_flow_may_be_cancelled_at_any_time_from_another_thread),
        with_pump(closing_ends_what_runs),
        with_pump(timers_run_in_the_order_of_their_time),
        with_pump(a_thousand_flows_at_once_lose_nothing),
    };
    return cmocka_run_group_tests_name("pump", tests, NULL, NULL);
}
