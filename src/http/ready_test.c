#include "http/ready.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/test.h"

enum { MANY = 60 };

static int open_ready(void) {
    int ready = lm_ready_open();
    assert_true(ready >= 0);
    return ready;
}

static void open_pair(int pair[2]) {
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
}

static void close_pair(const int pair[2]) {
    close(pair[0]);
    close(pair[1]);
}

static void what_is_not_taken_is_told_again(void **state) {
    (void)state;
    int ready = open_ready(), pair[2];
    ready_socket told[4];
    char byte;
    open_pair(pair);
    assert_true(lm_ready_watch(ready, pair[0], READY_IN));
    assert_int_equal(lm_ready_wait(ready, 0, told, 4), 0);
    assert_int_equal(write(pair[1], "x", 1), 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(lm_ready_wait(ready, -1, told, 4), 1);
        assert_int_equal(told[0].fd, pair[0]);
        assert_int_equal(told[0].what, READY_IN);
    }
    assert_int_equal(read(pair[0], &byte, 1), 1);
    assert_int_equal(lm_ready_wait(ready, 0, told, 4), 0);
    close_pair(pair);
    close(ready);
}

static void an_end_counts_as_something_to_read(void **state) {
    (void)state;
    int ready = open_ready(), pair[2];
    ready_socket told[4];
    open_pair(pair);
    assert_true(lm_ready_watch(ready, pair[0], READY_IN));
    close(pair[1]);
    assert_int_equal(lm_ready_wait(ready, -1, told, 4), 1);
    assert_true(told[0].what & READY_IN);
    close(pair[0]);
    close(ready);
}

static void what_is_watched_for_changes_and_ends(void **state) {
    (void)state;
    int ready = open_ready(), pair[2];
    ready_socket told[4];
    open_pair(pair);
    assert_int_equal(write(pair[1], "x", 1), 1);
    assert_true(lm_ready_watch(ready, pair[0], READY_OUT));
    assert_int_equal(lm_ready_wait(ready, -1, told, 4), 1);
    assert_int_equal(told[0].what, READY_OUT);
    assert_true(lm_ready_watch(ready, pair[0], READY_IN));
    assert_int_equal(lm_ready_wait(ready, -1, told, 4), 1);
    assert_int_equal(told[0].what, READY_IN);
    for (int i = 0; i < 2; i++) { /* ending what has ended does no harm */
        assert_true(lm_ready_watch(ready, pair[0], 0));
        assert_int_equal(lm_ready_wait(ready, 0, told, 4), 0);
    }
    assert_true(lm_ready_watch(ready, pair[0], READY_IN));
    assert_int_equal(lm_ready_wait(ready, -1, told, 4), 1);
    close_pair(pair);
    close(ready);
}

static void a_closed_socket_is_refused(void **state) {
    (void)state;
    int ready = open_ready(), pair[2];
    open_pair(pair);
    close_pair(pair);
    assert_false(lm_ready_watch(ready, pair[0], READY_IN));
    assert_int_equal(errno, EBADF);
    assert_true(lm_ready_watch(ready, pair[0], 0));
    close(ready);
}

/* More than there is room for: everyone's turn comes. */
static void of_many_nobody_is_forgotten(void **state) {
    (void)state;
    int ready = open_ready(), pairs[MANY][2];
    for (int i = 0; i < MANY; i++) {
        open_pair(pairs[i]);
        assert_true(lm_ready_watch(ready, pairs[i][0], READY_IN));
        assert_int_equal(write(pairs[i][1], "x", 1), 1);
    }
    for (int left = MANY; left > 0;) {
        ready_socket told[7];
        char byte;
        size_t n = lm_ready_wait(ready, -1, told, 7);
        assert_in_range(n, 1, 7);
        for (size_t i = 0; i < n; i++) assert_int_equal(read(told[i].fd, &byte, 1), 1);
        left -= (int)n;
    }
    for (int i = 0; i < MANY; i++) close_pair(pairs[i]);
    close(ready);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_taken_is_told_again),
        cmocka_unit_test(an_end_counts_as_something_to_read),
        cmocka_unit_test(what_is_watched_for_changes_and_ends),
        cmocka_unit_test(a_closed_socket_is_refused),
        cmocka_unit_test(of_many_nobody_is_forgotten),
    };
    return cmocka_run_group_tests_name("http.ready", tests, NULL, NULL);
}
