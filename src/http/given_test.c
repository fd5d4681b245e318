/* Sockets that somebody else has opened: taken once, by whom they are meant for, and never shut down for others. */
#include "base/test.h"
#include "http/http.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

static uint16_t port;

static int listening(void) {
    lm_err err = {0};
    int fd = -1;
    expect_ok(lm_listen("127.0.0.1", 0, &fd, &port, &err), err);
    return fd;
}

static bool connects(void) {
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool ok = !connect(fd, (struct sockaddr *)&a, sizeof a);
    close(fd);
    return ok;
}

static void answer(void *ctx, lm_http *x) {
    (void)ctx;
    lm_http_reply(x, 200, "text/plain", LM_STR("yes"));
}

static lm_server *serve(int fd) {
    lm_server_config config = {.host = "127.0.0.1",
                               .listen_fd = fd,
                               .max_body = 1000,
                               .max_connections = 10,
                               .idle_seconds = 10,
                               .handle = answer};
    lm_server *s = NULL;
    lm_err err = {0};
    expect_ok(lm_server_open(&s, &config, &err), err);
    return s;
}

static void a_shared_socket_listens_on_when_the_server_has_gone(void **state) {
    (void)state;
    int ours = listening(), theirs = dup(ours);
    lm_server *s = serve(theirs);
    assert_int_equal(lm_server_port(s), port);
    assert_true(connects());
    lm_server_quiesce(s);
    assert_true(connects());
    lm_server_close(s);
    assert_true(connects());
    s = serve(dup(ours));
    lm_server_close(s); /* without having been quiesced */
    assert_true(connects());
    close(ours);
    assert_false(connects());
}

static void what_is_no_listening_socket_is_refused(void **state) {
    (void)state;
    lm_err err = {0};
    char host[64];
    uint16_t ignored;
    int ends[2], udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(pipe(ends), 0);
    expect_fail(lm_listen_address(ends[0], host, &ignored, &err), LM_INVALID, err, "no TCP socket");
    expect_fail(lm_listen_address(udp, host, &ignored, &err), LM_INVALID, err, "no TCP socket");
    expect_fail(lm_listen_address(9999, host, &ignored, &err), LM_INVALID, err, "no TCP socket");
#ifdef __linux__
    expect_fail(lm_listen_address(tcp, host, &ignored, &err), LM_INVALID, err, "no listening");
#endif
    close(ends[0]);
    close(ends[1]);
    close(udp);
    close(tcp);
}

static void set_variables(const char *pid, const char *n) {
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", n, 1);
}

static void a_given_socket_is_for_the_process_that_is_named_and_taken_once(void **state) {
    (void)state;
    lm_err err = {0};
    char me[32];
    int fd = -1;
    snprintf(me, sizeof me, "%d", (int)getpid());
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    expect_fail(lm_listen_given("bridge", &fd, &err), LM_NOT_FOUND, err, "no socket");
    set_variables("1", "1");
    expect_fail(lm_listen_given("bridge", &fd, &err), LM_NOT_FOUND, err, "no socket");
    set_variables(me, "2");
    expect_fail(lm_listen_given("bridge", &fd, &err), LM_INVALID, err, "one socket is expected");
    set_variables(me, "1");
    expect_ok(lm_listen_given("bridge", &fd, &err), err);
    assert_int_equal(fd, 3);
    assert_null(getenv("LISTEN_PID"));
    expect_fail(lm_listen_given("bridge", &fd, &err), LM_NOT_FOUND, err, "no socket");
}

static void an_address_is_told_in_digits(void **state) {
    (void)state;
    lm_err err = {0};
    char host[64];
    uint16_t got = 0;
    int fd = listening();
    expect_ok(lm_listen_address(fd, host, &got, &err), err);
    assert_string_equal(host, "127.0.0.1");
    assert_int_equal(got, port);
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_shared_socket_listens_on_when_the_server_has_gone),
        cmocka_unit_test(what_is_no_listening_socket_is_refused),
        cmocka_unit_test(a_given_socket_is_for_the_process_that_is_named_and_taken_once),
        cmocka_unit_test(an_address_is_told_in_digits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
