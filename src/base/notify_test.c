#include "base/notify.h"
#include "base/test.h"

#include <sys/socket.h>
#include <sys/un.h>

static int receiver(const char *path, size_t len) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, path, len);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    assert_true(fd >= 0);
    socklen_t n = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, n), 0);
    return fd;
}

static void expect_message(int fd, const char *want) {
    char got[100] = {0};
    assert_int_equal(recv(fd, got, sizeof got - 1, 0), strlen(want));
    assert_string_equal(got, want);
}

static void a_message_reaches_a_path_as_one_datagram(void **state) {
    (void)state;
    lm_err err = {0};
    char *path = lm_path_join(test_dir(), "notify");
    int fd = receiver(path, strlen(path) + 1);
    expect_ok(lm_notify_send(path, LM_STR("READY=1\nSTATUS=up"), &err), err);
    expect_message(fd, "READY=1\nSTATUS=up");
    close(fd);
    free(path);
}

#ifdef __linux__
static void a_message_reaches_an_abstract_socket(void **state) {
    (void)state;
    lm_err err = {0};
    char name[108] = {0}, address[108];
    int n = snprintf(address, sizeof address, "@%s", test_dir());
    memcpy(name + 1, address + 1, (size_t)n - 1);
    int fd = receiver(name, (size_t)n);
    expect_ok(lm_notify_send(address, LM_STR("WATCHDOG=1"), &err), err);
    expect_message(fd, "WATCHDOG=1");
    close(fd);
}
#endif

static void nobody_there_and_no_address_are_errors(void **state) {
    (void)state;
    lm_err err = {0};
    char longer[300];
    memset(longer, '/', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    expect_fail(lm_notify_send("/nowhere/at/all", LM_STR("READY=1"), &err), LM_IO, err, "/nowhere/at/all");
    expect_fail(lm_notify_send("relative", LM_STR("READY=1"), &err), LM_INVALID, err, "NOTIFY_SOCKET");
    expect_fail(lm_notify_send("", LM_STR("READY=1"), &err), LM_INVALID, err, "NOTIFY_SOCKET");
    expect_fail(lm_notify_send(longer, LM_STR("READY=1"), &err), LM_INVALID, err, "NOTIFY_SOCKET");
}

static void lines_come_apart_and_rubbish_is_passed_over(void **state) {
    (void)state;
    lm_str rest = LM_STR("READY=1\n\n=none\nrubbish\nSTATUS=a = b\nX_REQUESTS="), name, value;
    assert_true(lm_notify_next(&rest, &name, &value));
    assert_true(lm_str_eq(name, LM_STR("READY")) && lm_str_eq(value, LM_STR("1")));
    assert_true(lm_notify_next(&rest, &name, &value));
    assert_true(lm_str_eq(name, LM_STR("STATUS")) && lm_str_eq(value, LM_STR("a = b")));
    assert_true(lm_notify_next(&rest, &name, &value));
    assert_true(lm_str_eq(name, LM_STR("X_REQUESTS")) && value.len == 0);
    assert_false(lm_notify_next(&rest, &name, &value));
}

static void the_watchdog_is_for_the_process_that_it_names(void **state) {
    (void)state;
    char me[32];
    snprintf(me, sizeof me, "%d", (int)getpid());
    unsetenv("WATCHDOG_PID");
    unsetenv("WATCHDOG_USEC");
    assert_int_equal(lm_notify_watchdog_ns(), 0);
    setenv("WATCHDOG_USEC", "1500000", 1);
    assert_int_equal(lm_notify_watchdog_ns(), 1500000000);
    setenv("WATCHDOG_PID", me, 1);
    assert_int_equal(lm_notify_watchdog_ns(), 1500000000);
    setenv("WATCHDOG_PID", "1", 1);
    assert_int_equal(lm_notify_watchdog_ns(), 0);
    unsetenv("WATCHDOG_PID");
    setenv("WATCHDOG_USEC", "-5", 1);
    assert_int_equal(lm_notify_watchdog_ns(), 0);
    unsetenv("WATCHDOG_USEC");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_message_reaches_a_path_as_one_datagram, make_test_dir,
                                        remove_test_dir),
#ifdef __linux__
        cmocka_unit_test_setup_teardown(a_message_reaches_an_abstract_socket, make_test_dir, remove_test_dir),
#endif
        cmocka_unit_test(nobody_there_and_no_address_are_errors),
        cmocka_unit_test(lines_come_apart_and_rubbish_is_passed_over),
        cmocka_unit_test(the_watchdog_is_for_the_process_that_it_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
