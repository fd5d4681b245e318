#include "base/test.h"
#include "service/service.h"

static service_config c;

static void parse(const char *text) {
    lm_err err = {0};
    service_config_release(&c);
    expect_ok(service_config_parse("s.ini", lm_str_of(text), &c, &err), err);
}

static void refuse(const char *text, const char *words) {
    lm_err err = {0};
    service_config other = {0};
    expect_fail(service_config_parse("s.ini", lm_str_of(text), &other, &err), LM_INVALID, err, words);
    assert_null(other.path);
}

static void an_empty_file_is_the_defaults(void **state) {
    (void)state;
    parse("");
    assert_int_equal(service_number(&c, SET_PORT), 11435);
    assert_string_equal(service_text(&c, SET_HOST), "127.0.0.1");
    assert_string_equal(service_text(&c, SET_LOG), "/tmp/mlx-bridge.log");
    assert_string_equal(service_text(&c, SET_ERROR_LOG), "/tmp/mlx-bridge-error.log");
    assert_string_equal(service_text(&c, SET_PID), "/tmp/mlx-bridge.pid");
    assert_int_equal(service_number(&c, SET_ROTATE), 10 << 20);
    assert_int_equal(service_number(&c, SET_DRAIN), 30 * SERVICE_SECOND_NS);
    assert_int_equal(c.v[SET_PORT].line, 0);
}

static void values_say_on_which_line_they_stand(void **state) {
    (void)state;
    parse("\xef\xbb\xbf# hello\r\n\r\n[bridge]\r\nport = 4000\r\n\r\ndrain = 1m30s\r\n[supervisor]\nwatchdog "
          "= 0\nhealth=5\n");
    assert_int_equal(service_number(&c, SET_PORT), 4000);
    assert_int_equal(c.v[SET_PORT].line, 4);
    assert_int_equal(service_number(&c, SET_DRAIN), 90 * SERVICE_SECOND_NS);
    assert_int_equal(c.v[SET_DRAIN].line, 6);
    assert_int_equal(service_number(&c, SET_WATCHDOG), 0);
    assert_int_equal(service_number(&c, SET_HEALTH), 5 * SERVICE_SECOND_NS);
    parse("[supervisor]\nbackoff = 50ms\n[logs]\nrotate = 64KB\n");
    assert_int_equal(service_number(&c, SET_BACKOFF), 50000000);
    assert_int_equal(service_number(&c, SET_ROTATE), 65536);
}

static void mistakes_are_named_with_file_and_line(void **state) {
    (void)state;
    refuse("[bridge]\n\nport = many\n", "s.ini line 3: port is \"many\"");
    refuse("[bridge]\nport = 0\n", "from 1 to 65535");
    refuse("[bridge]\nport = 70000\n", "from 1 to 65535");
    refuse("[bridge]\nprot = 1\n", "s.ini line 2: there is no setting \"prot\" in [bridge]");
    refuse("[logs]\nport = 1\n", "port belongs into [bridge]");
    refuse("[brigde]\n", "there is no section [brigde]");
    refuse("[bridge]\nhost = a b\n", "one word");
    refuse("[bridge]\ndrain = soon\n", "90s, 5m or 1h30m");
    refuse("[bridge]\ndrain = -1s\n", "drain is \"-1s\"");
    refuse("[bridge]\ndrain = 2h\n", "from 0s to 3600s");
    refuse("[logs]\nlog = here.log\n", "whole path");
    refuse("[logs]\nlogs = attic\n", "there are tmp, state");
    refuse("[logs]\nrotate = 1KB\n", "from 65536 bytes on");
    refuse("[logs]\nrotate = 99999999999999GB\n", "size");
    refuse("[units]\nsocket = maybe\n", "auto, yes and no");
    refuse("[bridge]\noptions = \"open\n", "not closed");
    refuse("[environment]\n1A = x\n", "no name of a variable");
    refuse("[environment]\nA B = x\n", "no name of a variable");
    refuse("[supervisor]\nbackoff = 1m\nbackoff-max = 1s\n", "shorter");
    refuse("port = 1\n", "belongs into [bridge]");
}

static void places_and_homes_make_whole_paths(void **state) {
    (void)state;
    setenv("HOME", "/home/somebody", 1);
    unsetenv("XDG_STATE_HOME");
    parse("[logs]\nlogs = state\nerror-log = ~/e.log\n");
    assert_string_equal(service_text(&c, SET_LOG), "/home/somebody/.mlx-ollama/mlx-bridge.log");
    assert_string_equal(service_text(&c, SET_ERROR_LOG), "/home/somebody/e.log");
    assert_string_equal(service_text(&c, SET_STATE), "/home/somebody/.mlx-ollama/service.json");
    parse("");
    assert_string_equal(service_text(&c, SET_STATE), "/home/somebody/.mlx-ollama/service.json");
}

static void options_come_apart_as_in_a_shell(void **state) {
    (void)state;
    parse("[bridge]\noptions = --root \"/a b/c\" '' x\\ y 'it\"s'\noptions = --verbose\n");
    const char *want[] = {"--root", "/a b/c", "", "x y", "it\"s", "--verbose"};
    assert_int_equal(c.n_options, 6);
    for (int i = 0; i < 6; i++) assert_string_equal(c.options[i], want[i]);
    assert_null(c.options[6]);
}

static void what_a_bridge_knows_only_from_its_start_makes_it_another(void **state) {
    (void)state;
    service_config old = {0};
    lm_err err = {0};
    expect_ok(service_config_parse("s.ini", LM_STR("[environment]\nA = 1\n"), &old, &err), err);
    parse("[environment]\nA = 1\n[supervisor]\nhealth = 1s\n[logs]\nrotate = 1MB\n");
    assert_false(service_config_other_bridge(&old, &c));
    parse("[environment]\nA = 2\n");
    assert_true(service_config_other_bridge(&old, &c));
    parse("[environment]\nA = 1\n[bridge]\noptions = --verbose\n");
    assert_true(service_config_other_bridge(&old, &c));
    parse("[environment]\nA = 1\n[bridge]\nport = 4000\n");
    assert_true(service_config_other_bridge(&old, &c));
    service_config_release(&old);
}

/* Uncommented, what --init writes is the defaults. */
static void the_template_says_the_defaults(void **state) {
    (void)state;
    lm_buf text, bare;
    lm_buf_init(&text, 65536);
    lm_buf_init(&bare, 65536);
    service_config_template(&text);
    parse(text.ptr);
    for (char *line = text.ptr, *end; *line; line = end) {
        end = strchr(line, '\n') + 1;
        bool setting = !strncmp(line, "# ", 2) && strspn(line + 2, "abcdefghijklmnopqrstuvwxyz-") > 2 &&
                       !strncmp(line + 2 + strspn(line + 2, "abcdefghijklmnopqrstuvwxyz-"), " = ", 3);
        if (setting) line += 2;
        lm_buf_add(&bare, line, (size_t)(end - line));
    }
    parse(bare.ptr);
    for (int k = 0; k < SET_COUNT; k++) assert_true(c.v[k].line > 0);
    service_config plain = {0};
    lm_err err = {0};
    expect_ok(service_config_parse("s.ini", LM_STR(""), &plain, &err), err);
    for (int k = 0; k < SET_COUNT; k++) assert_string_equal(c.v[k].text, plain.v[k].text);
    service_config_release(&plain);
    lm_buf_release(&text);
    lm_buf_release(&bare);
}

static int release(void **state) {
    (void)state;
    service_config_release(&c);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_file_is_the_defaults),
        cmocka_unit_test(values_say_on_which_line_they_stand),
        cmocka_unit_test(mistakes_are_named_with_file_and_line),
        cmocka_unit_test(places_and_homes_make_whole_paths),
        cmocka_unit_test(options_come_apart_as_in_a_shell),
        cmocka_unit_test(what_a_bridge_knows_only_from_its_start_makes_it_another),
        cmocka_unit_test(the_template_says_the_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, release);
}
