#include "cli/text.h"

#include "base/test.h"
#include "cli/progress.h"
#include "cli/term.h"
#include "cli/wrap.h"

static void expect_clean(lm_str s, bool one_line, const char *want) {
    lm_buf b;
    lm_buf_init(&b, 1000);
    text_clean(&b, s, one_line);
    if (strcmp(b.ptr ? b.ptr : "", want)) fail_msg("%.*s gives %s", (int)s.len, s.ptr, b.ptr);
    lm_buf_release(&b);
}

/* The ways to drive a terminal: ESC sequences, their one-byte forms in C1, and the single characters. */
static void nothing_that_a_terminal_obeys_comes_through(void **state) {
    (void)state;
    expect_clean(LM_STR("a\033[2Jb\033]0;title\007c"), false, "a[2Jb]0;titlec");
    expect_clean(LM_STR("a\xc2\x9b"
                        "2Jb\xc2\x9d"
                        "0;x\xc2\x9c"),
                 false, "a2Jb0;x");
    expect_clean(LM_STR("a\rb\bc\177d\0e\016f"), false, "abcdef");
    expect_clean(LM_STR("a\tb\nc"), false, "a\tb\nc");
    expect_clean(LM_STR("a\tb\nc"), true, "a b c");
    expect_clean(LM_STR("ü\xc2\xa0漢🙂"), false, "ü\xc2\xa0漢🙂");
    expect_clean(LM_STR("a\xff\x9b"
                        "b\xe6\xbc"),
                 false,
                 "a\xef\xbf\xbd\xef\xbf\xbd"
                 "b\xef\xbf\xbd\xef\xbf\xbd");
    /* Every single byte, alone. */
    for (int c = 0; c < 256; c++) {
        char byte = (char)c;
        lm_buf b;
        lm_buf_init(&b, 100);
        text_clean(&b, (lm_str){&byte, 1}, false);
        for (size_t i = 0; i < b.len; i++)
            if ((uint8_t)b.ptr[i] < 0x20 || b.ptr[i] == 0x7f)
                assert_true(b.ptr[i] == '\n' || b.ptr[i] == '\t');
        lm_buf_release(&b);
    }
}

static void a_line_is_cut_between_characters(void **state) {
    (void)state;
    char out[8];
    text_clean_line("äöüä", out, sizeof out);
    assert_string_equal(out, "äöü");
    text_clean_line("", out, sizeof out);
    assert_string_equal(out, "");
}

static void widths_are_columns(void **state) {
    (void)state;
    assert_int_equal(text_width(LM_STR("abc")), 3);
    assert_int_equal(text_width(LM_STR("ü")), 1);
    assert_int_equal(text_width(LM_STR("u\xcc\x88")), 1); /* u and a combining diaeresis */
    assert_int_equal(text_width(LM_STR("漢字")), 4);
}

static void units_are_ollamas(void **state) {
    (void)state;
    static const struct {
        int64_t n;
        const char *want;
    } sizes[] = {
        {0, "0 B"},           {999, "999 B"},           {1000, "1 KB"},         {1500, "1.5 KB"},
        {9990000, "10.0 MB"}, {271000000, "271 MB"},    {1321000000, "1.3 GB"}, {42000000000, "42 GB"},
        {-5, "0 B"},          {INT64_MAX, "9223372 TB"}};
    char out[48];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        text_bytes(sizes[i].n, out);
        assert_string_equal(out, sizes[i].want);
    }
    text_count(134515008, out);
    assert_string_equal(out, "134.5M");
    text_count(1234567, out);
    assert_string_equal(out, "1.23M");
    text_count(7615616512, out);
    assert_string_equal(out, "7.6B");
    text_duration(1500000000, out);
    assert_string_equal(out, "1.5s");
    text_duration(131350000, out);
    assert_string_equal(out, "131.35ms");
    text_duration(INT64_C(3723000000000), out);
    assert_string_equal(out, "1h2m3s");
}

static void times_are_told_from_now(void **state) {
    (void)state;
    int64_t now;
    char out[48];
    assert_true(text_time("2026-03-01T12:00:00Z", &now));
    static const char *const pairs[][2] = {
        {"2026-03-01T12:00:00.9Z", "Less than a second ago"},
        {"2026-03-01T13:59:30+02:00", "30 seconds ago"},
        {"2026-03-01T12:04:30.5Z", "4 minutes from now"},
        {"2026-03-01T10:50:00Z", "About an hour ago"},
        {"2026-02-26T12:00:00Z", "3 days ago"},
        {"2025-09-01T12:00:00Z", "6 months ago"},
        {"2020-03-01T12:00:00Z", "6 years ago"},
        {"0001-01-01T00:00:00Z", "Never"},
        {"1601-01-01T00:00:00Z", "56 years ago"},
        {"2318-11-03T17:00:00Z", "Forever"},
        {"2099-11-03T17:00:00Z", "Forever"},
        {"yesterday", "Unknown"},
        {"", "Unknown"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        text_when(pairs[i][0], now, out);
        if (strcmp(out, pairs[i][1])) fail_msg("%s: %s, not %s", pairs[i][0], out, pairs[i][1]);
    }
}

static void columns_of_a_table_stand_below_each_other(void **state) {
    (void)state;
    table t;
    lm_buf b;
    lm_buf_init(&b, 1000);
    table_open(&t, 2);
    table_cell(&t, "NAME");
    table_cell(&t, "SIZE");
    table_cell(&t, "%s", "漢字\033[31m");
    table_cell(&t, "%d", 7);
    table_print(&t, "> ", &b);
    assert_string_equal(b.ptr, "> NAME        SIZE\n> 漢字[31m    7\n");
    table_release(&t);
    lm_buf_release(&b);
}

/* ---- words over the edge */

/* What a terminal shows of the bytes: CSI nD and CSI K are obeyed, everything else must be text. */
static void shown(lm_str s, char *out) {
    size_t line = 0, at = 0, end = 0;
    for (size_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '\033') {
            unsigned n = 1;
            char kind = 0;
            int used = 0;
            if (sscanf(s.ptr + i, "\033[%u%c%n", &n, &kind, &used) != 2) {
                assert_int_equal(sscanf(s.ptr + i, "\033[%c%n", &kind, &used), 1);
            }
            if (kind == 'D') at = at - line >= n ? at - n : line;
            if (kind == 'K') end = at;
            i += (size_t)used - 1;
        } else {
            out[at++] = s.ptr[i];
            if (at > end) end = at;
            if (s.ptr[i] == '\n') line = at;
        }
    }
    out[end] = '\0';
}

/* The text, in pieces of any size, as a terminal of so many columns shows it. */
static void expect_wrapped(const char *text, uint32_t columns, const char *want) {
    for (size_t size = 1; size <= 7; size++) {
        wrap w = {0};
        lm_buf b;
        char got[1000];
        lm_buf_init(&b, 10000);
        for (size_t i = 0; i < strlen(text);) {
            size_t n = strlen(text) - i < size ? strlen(text) - i : size;
            while (lm_utf8_valid((lm_str){text + i, n}, NULL) != n) n++;
            wrap_text(&w, (lm_str){text + i, n}, columns, &b);
            i += n;
        }
        shown(lm_buf_view(&b), got);
        if (strcmp(got, want)) fail_msg("pieces of %zu: \"%s\", not \"%s\"", size, got, want);
        lm_buf_release(&b);
    }
}

static void words_that_do_not_fit_go_to_the_next_line(void **state) {
    (void)state;
    expect_wrapped("aaa bbb ccc", 10, "aaa bbb \nccc");
    expect_wrapped("aaa bbb ccc", 0, "aaa bbb ccc");
    expect_wrapped("aaa\nbbb", 10, "aaa\nbbb");
    expect_wrapped("abcdefghijklmnop", 10, "abcdefghi\njklmnop");
    expect_wrapped("ab abcdefghijklmnop", 10, "ab \nabcdefghi\njklmnop");
    expect_wrapped("123456789 b", 10, "123456789\nb");
    expect_wrapped("123456789   b", 10, "123456789\nb");
    expect_wrapped("123456789 \nb", 10, "123456789\nb");
    expect_wrapped("  x\n    y", 10, "  x\n    y");
}

static void wide_characters_count_twice(void **state) {
    (void)state;
    wrap w = {0};
    lm_buf b;
    lm_buf_init(&b, 1000);
    wrap_text(&w, LM_STR("漢字漢字漢字"), 10, &b);
    assert_string_equal(b.ptr, "漢字漢字\n漢字");
    lm_buf_release(&b);
}

/* ---- bars */

static void a_bar_is_as_wide_as_the_terminal(void **state) {
    (void)state;
    char name[] = "pulling 0123456789ab:", digest[] = "sha256:0123";
    progress_bar bar = {.name = name, .digest = digest, .total = 1000000000, .done = 250000000};
    for (uint32_t columns = 1; columns < 200; columns++) {
        for (int step = 0; step < 3; step++) {
            lm_buf b;
            lm_buf_init(&b, 10000);
            bar.done = step * 500000000;
            progress_line(&bar, UINT64_C(10000000000), columns, &b);
            if (columns > 40 && text_width(lm_buf_view(&b)) > columns)
                fail_msg("%u columns: %s", columns, b.ptr);
            lm_buf_release(&b);
        }
    }
    lm_buf b;
    lm_buf_init(&b, 10000);
    bar.done = 250000000;
    progress_line(&bar, UINT64_C(10000000000), 80, &b);
    assert_non_null(strstr(b.ptr, "pulling 0123456789ab:  25% ▕██"));
    assert_non_null(strstr(b.ptr, "250 MB/  1 GB"));
    assert_non_null(strstr(b.ptr, "25 MB/s     30s"));
    lm_buf_release(&b);
}

static int with_locale(void **state) {
    (void)state;
    term_open();
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_that_a_terminal_obeys_comes_through),
        cmocka_unit_test(a_line_is_cut_between_characters),
        cmocka_unit_test(widths_are_columns),
        cmocka_unit_test(units_are_ollamas),
        cmocka_unit_test(times_are_told_from_now),
        cmocka_unit_test(columns_of_a_table_stand_below_each_other),
        cmocka_unit_test(words_that_do_not_fit_go_to_the_next_line),
        cmocka_unit_test(wide_characters_count_twice),
        cmocka_unit_test(a_bar_is_as_wide_as_the_terminal),
    };
    return cmocka_run_group_tests(tests, with_locale, NULL);
}
