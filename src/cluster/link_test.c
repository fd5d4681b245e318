/* The link over real sockets on the loopback: who gets in, what goes through, who is missed. */
#include "base/test.h"
#include "cluster/frame.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECRET  "a secret of some length"
#define WAIT_NS INT64_C(20000000000)

typedef struct world {
    lm_link *zero, *others[LM_MAX_RANKS];
    pthread_t thread;
    lm_status accepted;
    lm_err err;
    atomic_uint n_lost, lost_rank;
    char text[512];
    char refused[512]; /* the accepting thread's, until it is joined */
    uint32_t n_refused;
} world;

static void note_lost(void *ctx, uint32_t rank, const char *text) {
    world *w = ctx;
    atomic_store(&w->lost_rank, rank);
    snprintf(w->text, sizeof w->text, "%s", text);
    atomic_fetch_add(&w->n_lost, 1);
}

static void note_refused(void *ctx, const char *why) {
    world *w = ctx;
    snprintf(w->refused, sizeof w->refused, "%s", why);
    w->n_refused++;
}

static void *accept_main(void *arg) {
    world *w = arg;
    w->accepted = lm_link_accept(w->zero, WAIT_NS, NULL, NULL, &w->err);
    return NULL;
}

static lm_link_config config_of(world *w, uint32_t rank, uint32_t size, uint16_t port, const char *secret) {
    return (lm_link_config){.address = "127.0.0.1",
                            .port = port,
                            .rank = rank,
                            .size = size,
                            .secret = secret,
                            .lost = note_lost,
                            .refused = note_refused,
                            .ctx = w};
}

static void listen_for(world *w, uint32_t size) {
    lm_link_config c = config_of(w, 0, size, 0, SECRET);
    *w = (world){.accepted = LM_INTERNAL};
    expect_ok(lm_link_listen(&w->zero, &c, &w->err), w->err);
    assert_int_equal(pthread_create(&w->thread, NULL, accept_main, w), 0);
}

static lm_status join(world *w, uint32_t rank, uint32_t size, const char *secret, lm_link **out,
                      lm_err *err) {
    lm_link_config c = config_of(w, rank, size, lm_link_port(w->zero), secret);
    return lm_link_join(out, &c, WAIT_NS, err);
}

static void meet(world *w, uint32_t size) {
    lm_err err = {0};
    listen_for(w, size);
    for (uint32_t r = size - 1; r > 0; r--) expect_ok(join(w, r, size, SECRET, &w->others[r], &err), err);
    pthread_join(w->thread, NULL);
    expect_ok(w->accepted, w->err);
}

static int dial(const world *w) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(lm_link_port(w->zero))};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

/* True when the other side closes without having said a word. */
static bool is_sent_away(int fd) {
    char c;
    ssize_t n = recv(fd, &c, 1, 0);
    close(fd);
    return n <= 0;
}

/* Frames reach every rank, whole and in order. */
static void frames_reach_everybody_in_order(void **state) {
    (void)state;
    world w;
    lm_err err = {0};
    lm_str got;
    meet(&w, 4);
    char *large = lm_alloc(1 << 20);
    for (int i = 0; i < 1 << 20; i++) large[i] = (char)(i * 7);
    expect_ok(lm_link_tell(w.zero, "one", 3, &err), err);
    expect_ok(lm_link_tell(w.zero, large, 1 << 20, &err), err);
    expect_ok(lm_link_tell(w.zero, "", 0, &err), err);
    for (uint32_t r = 1; r < 4; r++) {
        expect_ok(lm_link_next(w.others[r], &got, &err), err);
        assert_true(lm_str_eq(got, LM_STR("one")));
        expect_ok(lm_link_next(w.others[r], &got, &err), err);
        assert_true(got.len == 1 << 20 && !memcmp(got.ptr, large, got.len));
        expect_ok(lm_link_next(w.others[r], &got, &err), err);
        assert_int_equal(got.len, 0);
    }
    free(large);
    lm_link_close(w.zero);
    for (uint32_t r = 1; r < 4; r++) {
        assert_int_equal(lm_link_next(w.others[r], &got, &err), LM_CANCELLED);
        lm_link_close(w.others[r]);
    }
    assert_int_equal(atomic_load(&w.n_lost), 0);
}

static void the_first_bad_answer_names_its_rank(void **state) {
    (void)state;
    world w;
    lm_err err = {0};
    meet(&w, 3);
    expect_ok(lm_link_tell(w.zero, "load", 4, &err), err);
    expect_ok(lm_link_answer(w.others[1], LM_OK, "", &err), err);
    expect_ok(lm_link_answer(w.others[2], LM_NOT_FOUND, "no such model", &err), err);
    expect_fail(lm_link_answers(w.zero, WAIT_NS, &err), LM_NOT_FOUND, err, "rank 2: no such model");
    expect_ok(lm_link_tell(w.zero, "load", 4, &err), err);
    expect_ok(lm_link_answer(w.others[2], LM_OK, "", &err), err);
    expect_ok(lm_link_answer(w.others[1], LM_OK, "", &err), err);
    expect_ok(lm_link_answers(w.zero, WAIT_NS, &err), err);
    expect_ok(lm_link_tell(w.zero, "load", 4, &err), err);
    expect_ok(lm_link_answer(w.others[1], LM_OK, "", &err), err);
    expect_fail(lm_link_answers(w.zero, 10000000, &err), LM_BUSY, err,
                "rank 2 was lost: it did not answer in time");
    lm_link_close(w.zero);
    for (uint32_t r = 1; r < 3; r++) lm_link_close(w.others[r]);
}

static void wait_for_loss(world *w, uint32_t n) {
    uint64_t end = lm_now_ns() + (uint64_t)WAIT_NS;
    while (atomic_load(&w->n_lost) < n && lm_now_ns() < end) usleep(1000);
    assert_true(atomic_load(&w->n_lost) >= n);
}

static void who_gives_up_is_lost_with_the_reason(void **state) {
    (void)state;
    world w;
    lm_err err = {0};
    uint32_t ranks[LM_MAX_RANKS];
    meet(&w, 3);
    assert_int_equal(lm_link_lost(w.zero, ranks, &err), 0);
    lm_link_give_up(w.others[2], "the device is on fire");
    wait_for_loss(&w, 1);
    assert_string_equal(w.text, "rank 2 was lost: the device is on fire; restart the server");
    assert_int_equal(lm_link_lost(w.zero, ranks, &err), 1);
    assert_int_equal(ranks[0], 2);
    expect_fail(lm_link_tell(w.zero, "x", 1, &err), LM_BUSY, err, "rank 2 was lost");
    expect_fail(lm_link_answers(w.zero, WAIT_NS, &err), LM_BUSY, err, "rank 2 was lost");
    lm_str got;
    assert_int_equal(lm_link_next(w.others[1], &got, &err), LM_CANCELLED); /* it is sent away */
    lm_link_close(w.zero);
    for (uint32_t r = 1; r < 3; r++) lm_link_close(w.others[r]);
}

static void *close_later(void *link) {
    usleep(50000);
    lm_link_close(link);
    return NULL;
}

/* The work breaks off before the link has seen that the connection is closed. */
static void who_is_gone_is_to_blame_and_not_who_felt_it(void **state) {
    (void)state;
    world w;
    pthread_t other;
    meet(&w, 2);
    assert_int_equal(pthread_create(&other, NULL, close_later, w.others[1]), 0);
    lm_link_broke(w.zero, "a peer does not answer");
    wait_for_loss(&w, 1);
    assert_int_equal(atomic_load(&w.lost_rank), 1);
    pthread_join(other, NULL);
    lm_link_close(w.zero);

    meet(&w, 2);
    lm_link_broke(w.zero, "the device is on fire");
    wait_for_loss(&w, 1);
    assert_string_equal(w.text, "rank 0 was lost: the device is on fire; restart the server");
    lm_link_close(w.zero);
    lm_link_close(w.others[1]);
}

static void a_wrong_secret_is_refused_by_both_sides(void **state) {
    (void)state;
    world w;
    lm_err err = {0};
    lm_link *none = NULL;
    listen_for(&w, 2);
    expect_fail(join(&w, 1, 2, "another secret, of some length", &none, &err), LM_DENIED, err,
                "another secret");
    expect_fail(join(&w, 1, 2, "short", &none, &err), LM_INVALID, err, "16 characters");
    expect_fail(join(&w, 1, 3, SECRET, &none, &err), LM_DENIED, err, "another number of ranks");
    expect_fail(join(&w, 5, 9, SECRET, &none, &err), LM_IO, err, "closed"); /* no such rank */
    expect_ok(join(&w, 1, 2, SECRET, &w.others[1], &err), err);
    pthread_join(w.thread, NULL);
    expect_ok(w.accepted, w.err);
    lm_link_close(w.zero);
    lm_link_close(w.others[1]);
}

static void garbage_and_large_frames_are_sent_away(void **state) {
    (void)state;
    world w;
    lm_err err = {0};
    static const char *const garbage[] = {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\xff\xff\xff\xff\x01",
                                          "\x00\x00\x00\x7f\x06", "\x2c\x00\x00\x00\x63"};
    static const size_t n[] = {27, 5, 5, 5};
    listen_for(&w, 2);
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        int fd = dial(&w);
        assert_int_equal(send(fd, garbage[i], n[i], 0), n[i]);
        assert_true(is_sent_away(fd));
    }
    /* the right form, but another program: 44 bytes of hello with a wrong magic */
    char hello[LM_FRAME_HEAD + 44] = {44, 0, 0, 0, LM_LINK_HELLO, 'x'};
    int fd = dial(&w);
    assert_int_equal(send(fd, hello, sizeof hello, 0), sizeof hello);
    assert_true(is_sent_away(fd));
    close(dial(&w)); /* and one who says nothing */
    expect_ok(join(&w, 1, 2, SECRET, &w.others[1], &err), err);
    pthread_join(w.thread, NULL);
    expect_ok(w.accepted, w.err);
    assert_int_equal(w.n_refused, 6);
    lm_link_close(w.zero);
    lm_link_close(w.others[1]);
}

static void a_rank_joins_once(void **state) {
    (void)state;
    world w;
    lm_err err = {0};
    lm_link *twin = NULL;
    listen_for(&w, 3);
    expect_ok(join(&w, 1, 3, SECRET, &w.others[1], &err), err);
    expect_ok(join(&w, 1, 3, SECRET, &twin, &err), err); /* it only hears of it afterwards */
    expect_ok(join(&w, 2, 3, SECRET, &w.others[2], &err), err);
    pthread_join(w.thread, NULL);
    expect_ok(w.accepted, w.err);
    assert_int_equal(w.n_refused, 1);
    assert_string_equal(w.refused, "rank 1 is here already");
    wait_for_loss(&w, 1); /* the twin's */
    lm_str got;
    expect_ok(lm_link_tell(w.zero, "one", 3, &err), err);
    expect_ok(lm_link_next(w.others[1], &got, &err), err);
    lm_link_close(w.zero);
    lm_link_close(twin);
    for (uint32_t r = 1; r < 3; r++) lm_link_close(w.others[r]);
}

static void who_does_not_come_is_named(void **state) {
    (void)state;
    world w;
    lm_err err = {0};
    lm_link_config c = config_of(&w, 0, 4, 0, SECRET);
    w = (world){0};
    expect_ok(lm_link_listen(&w.zero, &c, &err), err);
    expect_fail(lm_link_accept(w.zero, 1, NULL, NULL, &err), LM_TIMEOUT, err, "rank 1, 2, 3 did not join");
    lm_link_close(w.zero);
}

static lm_status not_worth_it(void *ctx, lm_err *err) {
    (void)ctx;
    return lm_fail(err, LM_IO, "rank 1 has ended already");
}

static void waiting_ends_when_it_is_in_vain(void **state) {
    (void)state;
    world w;
    lm_err err = {0};
    lm_link_config c = config_of(&w, 0, 2, 0, SECRET);
    w = (world){0};
    expect_ok(lm_link_listen(&w.zero, &c, &err), err);
    expect_fail(lm_link_accept(w.zero, WAIT_NS, not_worth_it, NULL, &err), LM_IO, err, "has ended already");
    lm_link_close(w.zero);
}

static void frames_are_cut_from_a_stream(void **state) {
    (void)state;
    lm_frame f;
    lm_err err = {0};
    lm_str bytes = {"\x03\x00\x00\x00\x06"
                    "abcd",
                    9};
    expect_ok(lm_frame_parse((lm_str){bytes.ptr, 0}, 100, &f, &err), err);
    assert_int_equal(f.total, 0);
    for (size_t n = 1; n < 8; n++) {
        expect_ok(lm_frame_parse((lm_str){bytes.ptr, n}, 100, &f, &err), err);
        assert_int_equal(f.total, 0);
    }
    expect_ok(lm_frame_parse(bytes, 100, &f, &err), err);
    assert_int_equal(f.total, 8);
    assert_int_equal(f.kind, LM_LINK_DATA);
    assert_true(lm_str_eq(f.body, LM_STR("abc")));
    expect_fail(lm_frame_parse(bytes, 2, &f, &err), LM_CORRUPT, err, "a frame of 3 bytes, 2 are allowed");
    expect_fail(lm_frame_parse((lm_str){"\0\0\0\0\0", 5}, 2, &f, &err), LM_CORRUPT, err, "kind 0");
    expect_fail(lm_frame_parse((lm_str){"\0\0\0\0\x0a", 5}, 2, &f, &err), LM_CORRUPT, err, "kind 10");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_cut_from_a_stream),
        cmocka_unit_test(frames_reach_everybody_in_order),
        cmocka_unit_test(the_first_bad_answer_names_its_rank),
        cmocka_unit_test(who_gives_up_is_lost_with_the_reason),
        cmocka_unit_test(who_is_gone_is_to_blame_and_not_who_felt_it),
        cmocka_unit_test(a_wrong_secret_is_refused_by_both_sides),
        cmocka_unit_test(garbage_and_large_frames_are_sent_away),
        cmocka_unit_test(a_rank_joins_once),
        cmocka_unit_test(who_does_not_come_is_named),
        cmocka_unit_test(waiting_ends_when_it_is_in_vain),
    };
    return cmocka_run_group_tests_name("cluster.link", tests, NULL, NULL);
}
