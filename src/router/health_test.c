/* health_test.c - the state machines, as tables and by random schedules. */
#include "router/health.h"

#include "base/test.h"

#define MS UINT64_C(1000000)
#define S  (1000 * MS)

static const health_rules rules = {
    .check_ns = 5 * S, .breaker_ns = 30 * S, .fall = 3, .rise = 2, .breaker_failures = 5};

/* One letter an event: checks o (good) f (failed) r (refused) b (busy); attempts O (good) R (refused) T (timed out)
 * K (broke) B (busy) N (no model) F (failed) C (client's mistake) L (client left). */
static void play(health *h, const char *events, uint64_t now) {
    static const char letters[] = "ORTKBNFCL";
    for (; *events; events++) {
        const char *at = strchr(letters, *events);
        if (at) {
            static const attempt_end ends[] = {ATTEMPT_OK,     ATTEMPT_REFUSED, ATTEMPT_TIMEOUT,
                                               ATTEMPT_BROKE,  ATTEMPT_BUSY,    ATTEMPT_NO_MODEL,
                                               ATTEMPT_FAILED, ATTEMPT_CLIENT,  ATTEMPT_LEFT};
            health_attempt(h, &rules, &(attempt){.end = ends[at - letters]}, now);
        } else {
            check_end end = *events == 'o'   ? CHECK_OK
                            : *events == 'f' ? CHECK_FAILED
                            : *events == 'r' ? CHECK_REFUSED
                                             : CHECK_BUSY;
            health_check(h, &rules, end, 0, now);
        }
    }
}

static void events_lead_to_states(void **state) {
    (void)state;
    const struct {
        const char *events;
        backend_state want;
    } cases[] = {
        {"", BACKEND_UNKNOWN},
        {"o", BACKEND_HEALTHY}, /* the first good check is enough */
        {"O", BACKEND_UNKNOWN}, /* its models were not looked up */
        {"r", BACKEND_DOWN},    /* refused: at once */
        {"f", BACKEND_UNKNOWN},
        {"ff", BACKEND_UNKNOWN},
        {"fff", BACKEND_DOWN},
        {"of", BACKEND_DEGRADED},
        {"off", BACKEND_DEGRADED},
        {"offf", BACKEND_DOWN},
        {"offo", BACKEND_DEGRADED},
        {"offoo", BACKEND_DEGRADED},
        {"offooo", BACKEND_HEALTHY}, /* `fall` good ones in a row */
        {"offofofofof", BACKEND_DEGRADED},
        {"oR", BACKEND_DOWN},
        {"oK", BACKEND_DEGRADED},
        {"oKKKKK", BACKEND_DEGRADED},
        {"oKKf", BACKEND_DOWN}, /* attempts count, but a check decides */
        {"oKKoKK", BACKEND_DEGRADED},
        {"oT", BACKEND_DEGRADED},
        {"oTTTTTTTT", BACKEND_DEGRADED}, /* slow models do not take a server down */
        {"oFFFFFFFFFF", BACKEND_HEALTHY},
        {"oNNNLLLCCC", BACKEND_HEALTHY},
        {"ro", BACKEND_DOWN},
        {"roo", BACKEND_WARMING},
        {"rooo", BACKEND_HEALTHY},
        {"rooO", BACKEND_HEALTHY},
        {"rofoo", BACKEND_WARMING},
        {"rofo", BACKEND_DOWN},
        {"rOOOO", BACKEND_DOWN}, /* old streams that still end well do not bring it back */
        {"roOo", BACKEND_WARMING},
        {"roof", BACKEND_DEGRADED},
        {"roor", BACKEND_DOWN},
        {"rooT", BACKEND_DEGRADED},
        {"oB", BACKEND_BUSY},
        {"ob", BACKEND_BUSY},
        {"obB", BACKEND_BUSY},
        {"rB", BACKEND_DOWN},
        {"bbbbbb", BACKEND_UNKNOWN}, /* busy is an answer, but no list of models */
        {"obbbbbb", BACKEND_BUSY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        health h;
        health_init(&h, i, 1000);
        play(&h, cases[i].events, 1000);
        backend_state got = health_state(&h, 1000, NULL);
        if (got != cases[i].want)
            fail_msg("'%s' gives %s, not %s", cases[i].events, backend_state_name(got),
                     backend_state_name(cases[i].want));
    }
}

static void busy_lasts_as_long_as_the_server_said_and_has_a_limit(void **state) {
    (void)state;
    health h;
    uint64_t left = 1;
    health_init(&h, 1, 0);
    play(&h, "o", 0);
    health_attempt(&h, &rules, &(attempt){.end = ATTEMPT_BUSY}, 0); /* not said for how long: a moment */
    assert_int_equal(health_state(&h, HEALTH_MOMENT_NS - 1, NULL), BACKEND_BUSY);
    assert_int_equal(health_state(&h, HEALTH_MOMENT_NS, NULL), BACKEND_HEALTHY);
    health_attempt(&h, &rules, &(attempt){.end = ATTEMPT_BUSY, .retry_after_s = 20}, 0);
    health_attempt(&h, &rules, &(attempt){.end = ATTEMPT_BUSY, .retry_after_s = 2},
                   0); /* the longer one holds */
    assert_int_equal(health_state(&h, 20 * S - 1, &left), BACKEND_BUSY);
    assert_int_equal(left, 1);
    assert_int_equal(health_state(&h, 20 * S, &left), BACKEND_HEALTHY);
    assert_int_equal(left, 0);
    health_attempt(&h, &rules, &(attempt){.end = ATTEMPT_BUSY, .retry_after_s = UINT32_MAX}, 0);
    assert_int_equal(health_state(&h, HEALTH_MAX_BUSY_S * S, &left), BACKEND_HEALTHY);
}

static void checks_of_one_that_is_down_come_ever_slower_but_not_too_slow(void **state) {
    (void)state;
    health h;
    uint64_t now = 7, waits[12];
    health_init(&h, 42, now);
    assert_int_equal(h.next_check_ns, now);
    for (int i = 0; i < 12; i++) {
        health_check(&h, &rules, CHECK_REFUSED, 0, now);
        waits[i] = h.next_check_ns - now;
        now = h.next_check_ns;
    }
    const uint64_t want[] = {1, 2, 4, 8, 16, 30, 30, 30, 30, 30, 30, 30};
    for (int i = 0; i < 12; i++) assert_in_range(waits[i], want[i] * S / 10 * 9, want[i] * S / 10 * 11);
    bool differ = false;
    for (int i = 6; i < 12; i++) differ = differ || waits[i] != waits[5];
    assert_true(differ);                      /* jitter */
    health_check(&h, &rules, CHECK_OK, 0, 0); /* it answers: the next check is soon */
    assert_in_range(h.next_check_ns, 900 * MS, 1100 * MS);
}

static void trouble_brings_the_next_check_nearer(void **state) {
    (void)state;
    health h;
    health_init(&h, 5, 0);
    play(&h, "o", 0);
    assert_in_range(h.next_check_ns, 4500 * MS, 5500 * MS);
    play(&h, "K", 100 * MS);
    assert_in_range(h.next_check_ns, 1000 * MS, 1200 * MS);
    health_init(&h, 5, 0);
    play(&h, "oN", 0); /* what we knew of its models is old */
    assert_int_equal(h.next_check_ns, 0);
}

/* ---- breaker */

static void it_opens_after_failures_in_a_row_and_lets_one_probe(void **state) {
    (void)state;
    breaker b = {0};
    for (int i = 0; i < 4; i++) breaker_give(&b, &rules, ATTEMPT_FAILED, breaker_take(&b), 0);
    breaker_give(&b, &rules, ATTEMPT_OK, false, 0);
    for (int i = 0; i < 4; i++) breaker_give(&b, &rules, ATTEMPT_TIMEOUT, false, 0);
    assert_true(breaker_lets(&b, 0));
    breaker_give(&b, &rules, ATTEMPT_BROKE, false, 0);
    assert_false(breaker_lets(&b, 30 * S - 1));
    assert_true(breaker_lets(&b, 30 * S));
    assert_true(breaker_take(&b));
    assert_false(breaker_lets(&b, 31 * S));              /* exactly one */
    breaker_give(&b, &rules, ATTEMPT_OK, false, 31 * S); /* an old one that ends well is no probe */
    assert_false(breaker_lets(&b, 31 * S));
    breaker_give(&b, &rules, ATTEMPT_FAILED, true, 31 * S);
    assert_false(breaker_lets(&b, 61 * S - 1));
    assert_true(breaker_take(&b));
    breaker_give(&b, &rules, ATTEMPT_LEFT, true, 62 * S); /* says nothing: another may try */
    assert_true(breaker_lets(&b, 62 * S));
    assert_true(breaker_take(&b));
    breaker_give(&b, &rules, ATTEMPT_OK, true, 63 * S);
    assert_false(b.open);
    assert_int_equal(b.bad, 0);
}

static uint64_t next_random(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* Whatever comes in whatever order: what the header promises holds. */
static void promises_hold_in_random_schedules(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        uint64_t r = seed * 7919, now = 0;
        uint32_t good_checks = 0, bad = 0;
        health h;
        health_init(&h, seed, 0);
        backend_state before = BACKEND_UNKNOWN;
        for (int i = 0; i < 400; i++) {
            now += next_random(&r) % (3 * S);
            bool check = next_random(&r) % 2;
            if (check) {
                check_end end = (check_end)(next_random(&r) % 4);
                health_check(&h, &rules, end, (uint32_t)(next_random(&r) % 3), now);
                good_checks = end == CHECK_OK ? good_checks + 1 : end == CHECK_BUSY ? good_checks : 0;
                bad = end == CHECK_OK ? 0 : end == CHECK_BUSY ? bad : bad + 1;
                if (end == CHECK_REFUSED || (end == CHECK_FAILED && bad >= rules.fall))
                    assert_int_equal(h.state, BACKEND_DOWN);
                assert_true(h.next_check_ns > now && h.next_check_ns <= now + 33 * S);
            } else {
                attempt a = {.end = (attempt_end)(next_random(&r) % 9)};
                health_attempt(&h, &rules, &a, now);
                bool good = a.end == ATTEMPT_OK || a.end == ATTEMPT_CLIENT;
                if (a.end == ATTEMPT_REFUSED) assert_int_equal(h.state, BACKEND_DOWN);
                if (a.end == ATTEMPT_REFUSED || a.end == ATTEMPT_BROKE) {
                    bad++;
                    good_checks = 0;
                }
                if (good && before != BACKEND_DOWN) bad = 0;
                if (a.end != ATTEMPT_REFUSED) /* only checks bring it back, or take it down */
                    assert_int_equal(h.state == BACKEND_DOWN, before == BACKEND_DOWN);
            }
            if (before == BACKEND_DOWN && h.state != BACKEND_DOWN) {
                assert_int_equal(h.state, BACKEND_WARMING);
                assert_true(good_checks >= rules.rise);
            }
            if (before == BACKEND_HEALTHY && h.state == BACKEND_HEALTHY) assert_int_equal(h.bad, 0);
            before = h.state;
        }
    }
}

static void an_open_breaker_never_lets_two(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        uint64_t r = seed * 104729, now = 0;
        breaker b = {0};
        bool running[20] = {0}, probes[20] = {0};
        uint32_t n_probes = 0;
        for (int i = 0; i < 600; i++) {
            now += next_random(&r) % (4 * S);
            uint32_t k = (uint32_t)(next_random(&r) % 20);
            if (!running[k]) {
                bool open = b.open, lets = breaker_lets(&b, now);
                if (open && lets) assert_int_equal(n_probes, 0);
                if (open && now < b.until_ns) assert_false(lets);
                if (!lets) continue;
                running[k] = true;
                probes[k] = breaker_take(&b);
                assert_int_equal(probes[k], open);
                n_probes += probes[k];
            } else {
                breaker_give(&b, &rules, (attempt_end)(next_random(&r) % 9), probes[k], now);
                n_probes -= probes[k];
                running[k] = probes[k] = false;
            }
            assert_true(n_probes <= 1);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_lead_to_states),
        cmocka_unit_test(busy_lasts_as_long_as_the_server_said_and_has_a_limit),
        cmocka_unit_test(checks_of_one_that_is_down_come_ever_slower_but_not_too_slow),
        cmocka_unit_test(trouble_brings_the_next_check_nearer),
        cmocka_unit_test(it_opens_after_failures_in_a_row_and_lets_one_probe),
        cmocka_unit_test(promises_hold_in_random_schedules),
        cmocka_unit_test(an_open_breaker_never_lets_two),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
