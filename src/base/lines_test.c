#include "base/lines.h"
#include "base/test.h"

typedef struct seen {
    lm_buf text; /* the lines, each in brackets */
    uint32_t n, most;
} seen;

static bool take(void *ctx, lm_str line) {
    seen *s = ctx;
    lm_buf_printf(&s->text, "[" LM_STR_FMT "]", LM_STR_ARG(line));
    return ++s->n < s->most;
}

/* The same bytes in pieces of every size give the same lines. */
static void lines_do_not_depend_on_the_pieces_they_come_in(void **state) {
    (void)state;
    const char *text = "one\n\ntwo\r\nthree\nrest";
    for (size_t size = 1; size <= strlen(text); size++) {
        lm_lines l;
        lm_err err = {0};
        seen s = {.most = 100};
        lm_buf_init(&s.text, 1000);
        lm_lines_init(&l, 5);
        for (size_t i = 0; i < strlen(text); i += size) {
            size_t n = strlen(text) - i < size ? strlen(text) - i : size;
            expect_ok(lm_lines_add(&l, (lm_str){text + i, n}, take, &s, &err), err);
        }
        assert_string_equal(s.text.ptr, "[one][][two][three]");
        assert_true(lm_str_eq(lm_lines_rest(&l), LM_STR("rest")));
        lm_buf_release(&s.text);
        lm_lines_release(&l);
    }
}

static void a_line_without_an_end_is_refused(void **state) {
    (void)state;
    lm_lines l;
    lm_err err = {0};
    seen s = {.most = 100};
    lm_lines_init(&l, 8);
    expect_ok(lm_lines_add(&l, LM_STR("12345678"), take, &s, &err), err);
    expect_fail(lm_lines_add(&l, LM_STR("9"), take, &s, &err), LM_TOO_LARGE, err, "longer than 8 bytes");
    lm_lines_release(&l);
}

static void the_reader_ends_it(void **state) {
    (void)state;
    lm_lines l;
    seen s = {.most = 2};
    lm_buf_init(&s.text, 1000);
    lm_lines_init(&l, 100);
    assert_int_equal(lm_lines_add(&l, LM_STR("a\nb\nc\n"), take, &s, NULL), LM_CANCELLED);
    assert_string_equal(s.text.ptr, "[a][b]");
    lm_buf_release(&s.text);
    lm_lines_release(&l);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_do_not_depend_on_the_pieces_they_come_in),
        cmocka_unit_test(a_line_without_an_end_is_refused),
        cmocka_unit_test(the_reader_ends_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
