/* sticky_test.c - a conversation goes where it was. */
#include "router/sticky.h"

#include "base/test.h"

static router_facts talk(uint64_t who, uint32_t n) {
    router_facts f = {.n_prefixes = n};
    for (uint32_t i = 0; i < n; i++) f.prefixes[i] = i ? who * 1000003 + i : 77; /* the same system prompt */
    return f;
}

static void the_next_turn_goes_where_the_last_one_was(void **state) {
    (void)state;
    sticky *s = sticky_open();
    uint32_t depth = 9;
    router_facts first = talk(1, 2), second = talk(1, 4), other = talk(2, 4);
    assert_int_equal(sticky_find(s, &first, 5, &depth), -1);
    assert_int_equal(depth, 0);
    sticky_note(s, &first, 3, 5);
    assert_int_equal(sticky_find(s, &second, 6, &depth), 3);
    assert_int_equal(depth, 2);
    assert_int_equal(sticky_find(s, &other, 6, &depth), -1); /* a system prompt alone holds nobody */
    sticky_note(s, &second, 1, 6);                           /* it had to go elsewhere */
    assert_int_equal(sticky_find(s, &second, 7, &depth), 1);
    assert_int_equal(depth, 4);
    sticky_close(s);
}

static void a_question_of_one_message_is_known_again(void **state) {
    (void)state;
    sticky *s = sticky_open();
    uint32_t depth;
    router_facts one = {.n_prefixes = 1, .prefixes = {5}}, none = {0};
    sticky_note(s, &one, 2, 0);
    sticky_note(s, &none, 2, 0);
    assert_int_equal(sticky_find(s, &one, 1, &depth), 2);
    assert_int_equal(sticky_find(s, &none, 1, &depth), -1);
    sticky_close(s);
}

static void it_is_forgotten_after_its_time(void **state) {
    (void)state;
    sticky *s = sticky_open();
    uint32_t depth;
    router_facts f = talk(1, 3);
    sticky_note(s, &f, 0, 100);
    assert_int_equal(sticky_find(s, &f, 100 + STICKY_TTL_NS, &depth), 0);
    assert_int_equal(sticky_find(s, &f, 101 + STICKY_TTL_NS, &depth), -1);
    sticky_close(s);
}

static void the_table_is_bounded_and_the_least_used_goes(void **state) {
    (void)state;
    sticky *s = sticky_open();
    uint32_t depth;
    router_facts kept = talk(1, 2);
    sticky_note(s, &kept, 7, 0);
    for (uint64_t i = 2; i < 2 * STICKY_MAX; i++) {
        router_facts f = talk(i, 2);
        sticky_note(s, &f, (uint32_t)(i % 16), i);
        if (i % 100 == 0) sticky_note(s, &kept, 7, i);
    }
    assert_int_equal(sticky_count(s), STICKY_MAX);
    assert_int_equal(sticky_find(s, &kept, 2 * STICKY_MAX, &depth), 7);
    router_facts old = talk(2, 2), young = talk(2 * STICKY_MAX - 1, 2);
    assert_int_equal(sticky_find(s, &old, 2 * STICKY_MAX, &depth), -1);
    assert_int_equal(sticky_find(s, &young, 2 * STICKY_MAX, &depth), (2 * STICKY_MAX - 1) % 16);
    sticky_close(s);
}

/* Against a plain list, by chance. */
static void it_agrees_with_a_list_that_forgets_nothing(void **state) {
    (void)state;
    sticky *s = sticky_open();
    static int where[500];
    uint64_t r = 12345;
    for (int i = 0; i < 500; i++) where[i] = -1;
    for (uint64_t now = 0; now < 20000; now++) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        uint32_t who = (uint32_t)(r >> 33) % 500, depth;
        router_facts f = {.n_prefixes = 1, .prefixes = {who * UINT64_C(16384)}}; /* all in few chains */
        assert_int_equal(sticky_find(s, &f, now, &depth), where[who]);
        where[who] = (int)(r >> 60);
        sticky_note(s, &f, (uint32_t)where[who], now);
    }
    sticky_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_next_turn_goes_where_the_last_one_was),
        cmocka_unit_test(a_question_of_one_message_is_known_again),
        cmocka_unit_test(it_is_forgotten_after_its_time),
        cmocka_unit_test(the_table_is_bounded_and_the_least_used_goes),
        cmocka_unit_test(it_agrees_with_a_list_that_forgets_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
