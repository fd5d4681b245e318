/* upload_test.c - bodies that the handler reads as they come. */
#include "base/test.h"
#include "http/http.h"
#include "http/raw_client.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>

#define LONG_BODY (8u << 20)

typedef struct bench {
    lm_server *server;
    atomic_uint ended, left; /* left: reads that were told that the client has gone */
    atomic_uint reading;     /* uploads whose handler has begun to read */
    atomic_bool go;          /* /slow reads on */
} bench;

static bool streams(void *ctx, const lm_http *x) {
    (void)ctx;
    return lm_str_eq(lm_http_method(x), LM_STR("POST")) && !lm_str_eq(lm_http_path(x), LM_STR("/whole"));
}

static void note_end(void *ctx, bool gone) {
    bench *b = ctx;
    (void)gone;
    atomic_fetch_add(&b->ended, 1);
}

/* Answers with the number of bytes, and the sum of them. */
static void read_all(bench *b, lm_http *x, bool slow) {
    uint8_t bytes[10000];
    uint64_t total = 0, sum = 0;
    lm_err err = {0};
    for (size_t n = 1; n;) {
        lm_status st = lm_http_body_read(x, bytes, slow && !total ? 1 : sizeof bytes, &n, &err);
        if (st != LM_OK) {
            assert_int_equal(st, LM_CANCELLED);
            atomic_fetch_add(&b->left, 1);
            return;
        }
        for (size_t i = 0; i < n; i++) sum += bytes[i];
        if (!total) atomic_fetch_add(&b->reading, 1);
        total += n;
        while (slow && !atomic_load(&b->go)) usleep(1000);
    }
    char text[100];
    snprintf(text, sizeof text, "%llu bytes, sum %llu, said %lld", (unsigned long long)total,
             (unsigned long long)sum, (long long)lm_http_body_length(x));
    lm_http_reply(x, 200, "text/plain", lm_str_of(text));
}

static void handle(void *ctx, lm_http *x) {
    bench *b = ctx;
    lm_str path = lm_http_path(x);
    lm_http_on_end(x, note_end, b);
    if (lm_str_eq(path, LM_STR("/read")))
        read_all(b, x, false);
    else if (lm_str_eq(path, LM_STR("/slow")))
        read_all(b, x, true);
    else
        lm_http_reply(x, 400, "text/plain", LM_STR("not here"));
}

static int open_bench(void **state) {
    bench *b = lm_alloc(sizeof *b);
    lm_err err = {0};
    lm_server_config c = {.host = "127.0.0.1",
                          .max_body = 1000,
                          .max_connections = 100,
                          .idle_seconds = 600,
                          .n_workers = 2,
                          .handle = handle,
                          .streams = streams,
                          .ctx = b};
    expect_ok(lm_server_open(&b->server, &c, &err), err);
    *state = b;
    return 0;
}

static int close_bench(void **state) {
    bench *b = *state;
    atomic_store(&b->go, true);
    lm_server_close(b->server);
    free(b);
    return 0;
}

static int post(const bench *b, const char *path, const char *headers) {
    char head[400];
    int fd = dial_port(lm_server_port(b->server));
    snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nHost: x\r\n%s\r\n", path, headers);
    say_text(fd, head);
    return fd;
}

static void expect_answer(int fd, const char *words) {
    char *t = hear(fd, words);
    if (!strstr(t, words)) fail_msg("'%s' is not in: %s", words, t);
    free(t);
    close(fd);
}

static char *long_body(void) {
    char *body = lm_alloc(LONG_BODY);
    memset(body, 3, LONG_BODY);
    return body;
}

static void a_body_of_any_length_comes_through(void **state) {
    char head[100], want[100];
    char *body = long_body();
    snprintf(head, sizeof head, "Content-Length: %u\r\n", LONG_BODY);
    snprintf(want, sizeof want, "%u bytes, sum %u, said %u", LONG_BODY, 3 * LONG_BODY, LONG_BODY);
    int fd = post(*state, "/read", head);
    say(fd, body, LONG_BODY);
    expect_answer(fd, want);
    free(body);
}

static void an_empty_and_a_chunked_body_end_where_they_end(void **state) {
    expect_answer(post(*state, "/read", "Content-Length: 0\r\n"), "0 bytes, sum 0, said 0");
    int fd = post(*state, "/read", "Transfer-Encoding: chunked\r\n");
    say_text(fd, "3\r\nabc\r\n");
    usleep(20000);
    say_text(fd, "1\r\nd\r\n0\r\n\r\n");
    expect_answer(fd, "4 bytes, sum 394, said -1");
}

static void the_connection_can_be_used_again(void **state) {
    int fd = post(*state, "/read", "Content-Length: 2\r\n");
    say_text(fd, "ab");
    free(hear(fd, "sum 195, said 2"));
    say_text(fd, "POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na");
    expect_answer(fd, "sum 97, said 1");
}

/* What is not read waits at the client's, not in the server's memory. */
static void a_client_is_held_back_while_nobody_reads(void **state) {
    bench *b = *state;
    char head[100];
    char *body = long_body();
    size_t sent = 0;
    snprintf(head, sizeof head, "Content-Length: %u\r\n", 64 * LONG_BODY);
    int fd = post(b, "/slow", head);
    assert_int_equal(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
    for (int quiet = 0; quiet < 20;) { /* until nothing more is taken for a while */
        ssize_t n = send(fd, body, LONG_BODY, MSG_NOSIGNAL);
        quiet = n > 0 ? 0 : quiet + 1;
        sent += n > 0 ? (size_t)n : 0;
        if (n <= 0) usleep(10000);
    }
    assert_int_equal(atomic_load(&b->reading), 1);
    assert_true(sent < 63 * (size_t)LONG_BODY); /* the system's own buffers hold a few megabytes */
    atomic_store(&b->go, true);
    assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
    for (size_t left = 64 * (size_t)LONG_BODY - sent; left;) {
        size_t n = left < LONG_BODY ? left : LONG_BODY;
        say(fd, body, n);
        left -= n;
    }
    expect_answer(fd, "536870912 bytes");
    free(body);
}

static void an_early_answer_reaches_a_client_that_is_still_sending(void **state) {
    char head[100];
    char *body = long_body();
    snprintf(head, sizeof head, "Content-Length: %u\r\n", LONG_BODY);
    int fd = post(*state, "/no", head);
    say(fd, body, LONG_BODY);
    expect_answer(fd, "not here");
    free(body);
}

static void a_client_that_asks_first_need_not_send(void **state) {
    expect_answer(post(*state, "/no", "Content-Length: 5\r\nExpect: 100-continue\r\n"), "not here");
    int fd = post(*state, "/read", "Content-Length: 2\r\nExpect: 100-continue\r\n");
    free(hear(fd, "100 Continue"));
    say_text(fd, "ab");
    expect_answer(fd, "sum 195, said 2");
}

static void a_client_that_leaves_in_the_middle_is_told_to_the_reader(void **state) {
    bench *b = *state;
    int fd = post(b, "/read", "Content-Length: 100\r\n");
    say_text(fd, "some");
    wait_for(&b->reading, 1);
    close(fd);
    wait_for(&b->left, 1);
    wait_for(&b->ended, 1);
}

static void a_client_that_leaves_before_the_body_is_told_too(void **state) {
    bench *b = *state;
    close(post(b, "/read", "Content-Length: 100\r\n"));
    wait_for(&b->left, 1);
    wait_for(&b->ended, 1);
}

static void closing_the_server_ends_a_read(void **state) {
    bench *b = *state;
    int fd = post(b, "/read", "Content-Length: 100\r\n");
    say_text(fd, "some");
    wait_for(&b->reading, 1);
    lm_server_close(b->server);
    b->server = NULL;
    assert_int_equal(atomic_load(&b->left), 1);
    close(fd);
}

static void other_bodies_keep_their_limit(void **state) {
    int fd = post(*state, "/whole", "Content-Length: 5\r\n");
    say_text(fd, "hello");
    expect_answer(fd, "400");
}

#define with_bench(f) cmocka_unit_test_setup_teardown(f, open_bench, close_bench)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_bench(a_body_of_any_length_comes_through),
        with_bench(an_empty_and_a_chunked_body_end_where_they_end),
        with_bench(the_connection_can_be_used_again),
        with_bench(a_client_is_held_back_while_nobody_reads),
        with_bench(an_early_answer_reaches_a_client_that_is_still_sending),
        with_bench(a_client_that_asks_first_need_not_send),
        with_bench(a_client_that_leaves_in_the_middle_is_told_to_the_reader),
        with_bench(a_client_that_leaves_before_the_body_is_told_too),
        with_bench(closing_the_server_ends_a_read),
        with_bench(other_bodies_keep_their_limit),
    };
    return cmocka_run_group_tests_name("upload", tests, NULL, NULL);
}
