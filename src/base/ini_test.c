/* ini_test.c - what a line of a configuration file means. */
#include "base/ini.h"
#include "base/test.h"

typedef struct seen {
    lm_buf text;
    const char *refuse;
} seen;

static lm_status note(void *ctx, lm_str section, lm_str key, lm_str value, lm_err *err) {
    seen *s = ctx;
    if (s->refuse && lm_str_eq(key, lm_str_of(s->refuse))) return lm_fail(err, LM_INVALID, "no such key");
    lm_buf_printf(&s->text, "%.*s|%.*s|%.*s\n", LM_STR_ARG(section), LM_STR_ARG(key), LM_STR_ARG(value));
    return LM_OK;
}

static lm_status read_text(seen *s, const char *text, lm_err *err) {
    lm_buf_init(&s->text, 4096);
    return lm_ini_parse("a.ini", lm_str_of(text), note, s, err);
}

static void sections_keys_and_values_are_told_in_order(void **state) {
    (void)state;
    seen s = {0};
    lm_err err = {0};
    expect_ok(read_text(&s, "\xef\xbb\xbfk=v\r\n[ a b ]\n# no\n ; no\n  x = y = z \nempty =\n\n[c]", &err), err);
    assert_string_equal(s.text.ptr, "|k|v\na b||\na b|x|y = z\na b|empty|\nc||\n");
    lm_buf_release(&s.text);
}

static void errors_name_the_line(void **state) {
    (void)state;
    const struct {
        const char *text, *refuse, *words;
    } cases[] = {
        {"a = 1\nno sign\n", NULL, "a.ini line 2: expected: key = value"},
        {"= 1\n", NULL, "a.ini line 1: expected: key = value"},
        {"\n\n[open\n", NULL, "a.ini line 3: expected: [section]"},
        {"[s]\na = 1\nb = 2\n", "b", "a.ini line 3: no such key"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        seen s = {.refuse = cases[i].refuse};
        lm_err err = {0};
        expect_fail(read_text(&s, cases[i].text, &err), LM_INVALID, err, cases[i].words);
        lm_buf_release(&s.text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sections_keys_and_values_are_told_in_order),
        cmocka_unit_test(errors_name_the_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
