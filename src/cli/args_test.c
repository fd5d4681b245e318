#include "cli/args.h"

#include "base/test.h"
#include "cli/commands.h"

static const cli_option options[] = {{"json", 0, CLI_FLAG, NULL, "as JSON"},
                                     {"verbose", 'v', CLI_FLAG, NULL, "more"},
                                     {"host", 0, CLI_VALUE, "URL", "whom to ask"},
                                     {"think", 0, CLI_MAYBE, "LEVEL", "think first"},
                                     {NULL, 0, CLI_FLAG, NULL, NULL}};

static const cli_command command = {"show",    "sh",     "MODEL [WORD]", 1,     2,
                                    "Show it", "Notes.", options,        false, NULL};

static lm_status read_line(cli_args *a, lm_err *err, const char *line) {
    static char copy[500];
    static char *argv[20];
    int argc = 0;
    strcpy(copy, line);
    for (char *p = strtok(copy, " "); p; p = strtok(NULL, " ")) argv[argc++] = p;
    argv[argc] = NULL;
    return cli_args_read(&command, argc, argv, a, err);
}

static void operands_and_options_come_in_any_order(void **state) {
    (void)state;
    cli_args a;
    lm_err err = {0};
    expect_ok(read_line(&a, &err, "show --host :1 one -v --think=high two"), err);
    assert_int_equal(a.n_operands, 2);
    assert_string_equal(a.operand[0], "one");
    assert_string_equal(a.operand[1], "two");
    assert_string_equal(cli_value(&a, "host"), ":1");
    assert_string_equal(cli_value(&a, "think"), "high");
    assert_true(cli_flag(&a, "verbose"));
    assert_false(cli_flag(&a, "json"));
    assert_true(cli_has(&a, "json"));
    assert_false(cli_has(&a, "help"));
    cli_args_release(&a);
}

static void a_value_that_may_be_absent_stands_behind_an_equals_sign(void **state) {
    (void)state;
    cli_args a;
    lm_err err = {0};
    expect_ok(read_line(&a, &err, "show --think one --host=x --verbose=false"), err);
    assert_string_equal(cli_value(&a, "think"), "");
    assert_string_equal(cli_value(&a, "host"), "x");
    assert_string_equal(a.operand[0], "one");
    assert_false(cli_flag(&a, "verbose"));
    assert_non_null(cli_value(&a, "verbose"));
    cli_args_release(&a);
}

static void dashes_end_the_options(void **state) {
    (void)state;
    cli_args a;
    lm_err err = {0};
    expect_ok(read_line(&a, &err, "show -- --json -"), err);
    assert_string_equal(a.operand[0], "--json");
    assert_string_equal(a.operand[1], "-");
    assert_false(cli_flag(&a, "json"));
    cli_args_release(&a);
}

static void what_is_wrong_is_said_with_what_was_probably_meant(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"show x --jsno", "did you mean --json?"},
        {"show x --zzzzzz", "see ollama-to-mlx-router show --help"},
        {"show x -q", "has no option -q"},
        {"show x --host", "--host needs a value"},
        {"show", "too few operands"},
        {"show a b c", "too many operands"},
        {"show x --json=maybe", "true or false"},
        {"show x -vv", "has no option -vv"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cli_args a;
        lm_err err = {0};
        expect_fail(read_line(&a, &err, cases[i][0]), LM_INVALID, err, cases[i][1]);
        cli_args_release(&a);
    }
}

static void help_has_one_option_a_line(void **state) {
    (void)state;
    lm_buf b;
    lm_buf_init(&b, 10000);
    cli_command_help(&command, &b);
    assert_string_equal(b.ptr, "Usage: ollama-to-mlx-router show MODEL [WORD] [options]\n\n"
                               "Show it.\n\n"
                               "Also called sh.\n\n"
                               "  --json            as JSON\n"
                               "  --verbose, -v     more\n"
                               "  --host URL        whom to ask\n"
                               "  --think[=LEVEL]   think first\n"
                               "  --help, -h        show this text\n"
                               "\nNotes.\n");
    lm_buf_release(&b);
}

static void help_needs_no_operands(void **state) {
    (void)state;
    cli_args a;
    lm_err err = {0};
    expect_ok(read_line(&a, &err, "show -h"), err);
    assert_true(a.help);
    cli_args_release(&a);
}

/* All commands: their tables fit, no name comes twice, no line of their help is wider than a terminal. */
static void every_command_is_whole(void **state) {
    (void)state;
    for (const cli_command *c = cli_commands; c->name; c++) {
        lm_buf b;
        lm_buf_init(&b, 100000);
        cli_command_help(c, &b);
        for (const char *p = b.ptr; *p;) {
            size_t n = strcspn(p, "\n");
            if (n > 110) fail_msg("%s: %.*s", c->name, (int)n, p);
            p += n + (p[n] == '\n');
        }
        lm_buf_release(&b);
        assert_ptr_equal(cli_command_find(c->name), c);
        assert_non_null(c->run);
        for (const cli_option *o = c->options; o && o->name; o++)
            for (const cli_option *p = o + 1; p->name; p++)
                if (!strcmp(o->name, p->name) || (o->letter && o->letter == p->letter))
                    fail_msg("%s has --%s twice", c->name, o->name);
    }
    assert_null(cli_command_find("nonsense"));
    assert_string_equal(cli_command_find("ls")->name, "list");
}

static void a_mistyped_word_finds_its_neighbour(void **state) {
    (void)state;
    static const char *const names[] = {"llama3.2:1b", "qwen3", "qwen3-coder:30b", "smollm2:135m", NULL};
    static const char *const pairs[][2] = {{"lama3.2:1b", "llama3.2:1b"},
                                           {"qewn3", "qwen3"},
                                           {"smollm2:135", "smollm2:135m"},
                                           {"QWEN3", "qwen3"},
                                           {"qwen3-coder", "qwen3-coder:30b"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        assert_string_equal(cli_nearest(pairs[i][0], names), pairs[i][1]);
    assert_null(cli_nearest("gemma", names));
    assert_null(cli_nearest("x", names));
    assert_null(cli_nearest("", names));
    char longer[300];
    memset(longer, 'q', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    assert_null(cli_nearest(longer, names));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operands_and_options_come_in_any_order),
        cmocka_unit_test(a_value_that_may_be_absent_stands_behind_an_equals_sign),
        cmocka_unit_test(dashes_end_the_options),
        cmocka_unit_test(what_is_wrong_is_said_with_what_was_probably_meant),
        cmocka_unit_test(help_has_one_option_a_line),
        cmocka_unit_test(help_needs_no_operands),
        cmocka_unit_test(every_command_is_whole),
        cmocka_unit_test(a_mistyped_word_finds_its_neighbour),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
