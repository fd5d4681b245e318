#include "cli/modelfile.h"

#include "base/test.h"

static modelfile parsed(const char *text) {
    modelfile m = {0};
    lm_err err = {0};
    expect_ok(modelfile_parse(lm_str_of(text), &m, &err), err);
    return m;
}

static void expect_command(const modelfile *m, uint32_t i, modelfile_kind kind, const char *name,
                           const char *value, uint32_t line) {
    assert_true(i < m->n);
    assert_int_equal(m->commands[i].kind, kind);
    if (name)
        assert_string_equal(m->commands[i].name, name);
    else
        assert_null(m->commands[i].name);
    assert_string_equal(m->commands[i].value, value);
    assert_int_equal(m->commands[i].line, line);
}

static void commands_come_with_their_lines(void **state) {
    (void)state;
    modelfile m =
        parsed("# first\n\nfrom  llama3.2:1b \nPARAMETER  stop   a b\n  ADAPTER ./x#y\nMessage user hi: you\n"
               "license MIT\nREQUIRES 0.14.0\nrenderer r\nPARSER p");
    assert_int_equal(m.n, 8);
    expect_command(&m, 0, MODELFILE_FROM, NULL, "llama3.2:1b", 3);
    expect_command(&m, 1, MODELFILE_PARAMETER, "stop", "a b", 4);
    expect_command(&m, 2, MODELFILE_ADAPTER, NULL, "./x#y", 5);
    expect_command(&m, 3, MODELFILE_MESSAGE, "user", "hi: you", 6);
    expect_command(&m, 4, MODELFILE_LICENSE, NULL, "MIT", 7);
    expect_command(&m, 5, MODELFILE_REQUIRES, NULL, "0.14.0", 8);
    expect_command(&m, 6, MODELFILE_RENDERER, NULL, "r", 9);
    expect_command(&m, 7, MODELFILE_PARSER, NULL, "p", 10);
    modelfile_release(&m);
}

static void a_value_may_be_nothing(void **state) {
    (void)state;
    modelfile m = parsed("FROM \nSYSTEM  \r\nPARAMETER stop \t");
    expect_command(&m, 0, MODELFILE_FROM, NULL, "", 1);
    expect_command(&m, 1, MODELFILE_SYSTEM, NULL, "", 2);
    expect_command(&m, 2, MODELFILE_PARAMETER, "stop", "", 3);
    modelfile_release(&m);
}

static void quotes_go_over_lines(void **state) {
    (void)state;
    modelfile m =
        parsed("FROM \"a b\"\nSYSTEM \"\"\"one\n# two \"\"\n\n \"three\"\n\"\"\"\nTEMPLATE \"x\n y\"  "
               "\nLICENSE \"\"\n"
               "PARAMETER stop \"\"\"\"\"\"\nMESSAGE assistant \" spaced \"\nSYSTEM it's \"so\" here\n");
    expect_command(&m, 0, MODELFILE_FROM, NULL, "a b", 1);
    expect_command(&m, 1, MODELFILE_SYSTEM, NULL, "one\n# two \"\"\n\n \"three\"\n", 2);
    expect_command(&m, 2, MODELFILE_TEMPLATE, NULL, "x\n y", 7);
    expect_command(&m, 3, MODELFILE_LICENSE, NULL, "", 9);
    expect_command(&m, 4, MODELFILE_PARAMETER, "stop", "", 10);
    expect_command(&m, 5, MODELFILE_MESSAGE, "assistant", " spaced ", 11);
    expect_command(&m, 6, MODELFILE_SYSTEM, NULL, "it's \"so\" here", 12);
    modelfile_release(&m);
}

static void line_ends_of_other_systems_and_a_mark_of_utf8_are_taken(void **state) {
    (void)state;
    modelfile m = parsed("\xef\xbb\xbf"
                         "FROM x\r\nSYSTEM \"a\r\nb\"\r\n# c\rLICENSE y\r");
    expect_command(&m, 0, MODELFILE_FROM, NULL, "x", 1);
    expect_command(&m, 1, MODELFILE_SYSTEM, NULL, "a\r\nb", 2);
    expect_command(&m, 2, MODELFILE_LICENSE, NULL, "y", 5);
    modelfile_release(&m);
}

static void only_control_characters_are_left_out_of_a_value(void **state) {
    (void)state;
    modelfile m = {0};
    lm_err err = {0};
    lm_str text = LM_STR("FROM a\0b\x1b\xc2\x9b"
                         "c\x7f\nSYSTEM \tGrün 👩‍💻\tx\n");
    expect_ok(modelfile_parse(text, &m, &err), err);
    expect_command(&m, 0, MODELFILE_FROM, NULL, "abc", 1);
    expect_command(&m, 1, MODELFILE_SYSTEM, NULL, "Grün 👩‍💻\tx", 2);
    modelfile_release(&m);
}

static void a_bad_line_is_named_with_its_number(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", "there is no FROM line"},
        {"SYSTEM x\n", "there is no FROM line"},
        {"FROM x\n\nSYTSEM y\n", "line 3: \"SYTSEM\" is no command: did you mean SYSTEM?"},
        {"FROM x\nand more of it\n", "line 2: \"and\" is no command. One of FROM,"},
        {"FROM x\n{{ .Prompt }}\n", "line 2: \"{{\" is no command"},
        {"FROM=x\n", "line 1: \"FROM=x\" is no command"},
        {"FROM", "line 1: FROM needs a value"},
        {"FROM x\nSYSTEM\n", "line 2: SYSTEM needs a value"},
        {"FROM x\nPARAMETER\n", "line 2: PARAMETER needs a value"},
        {"FROM x\nPARAMETER \n", "line 2: a PARAMETER needs a name and a value"},
        {"FROM x\nPARAMETER top_k\n", "line 2: PARAMETER top_k needs a value"},
        {"FROM x\nPARAMETER top-k 4\n", "line 2: \"top-k\" is no name of a parameter"},
        {"FROM x\nMESSAGE tool hi\n", "line 2: a MESSAGE is of system, user or assistant, not of \"tool\""},
        {"FROM x\nMESSAGE userhi\n", "not of \"userhi\""},
        {"FROM x\nMESSAGE user\n", "line 2: MESSAGE user needs a value"},
        {"FROM x\nSYSTEM \"\"\"a\nb\"\n", "line 2: the quotes that begin here do not end"},
        {"FROM \"x\n", "line 1: the quotes that begin here do not end"},
        {"FROM x\nSYSTEM a\xff\n", "line 2: bytes that are no UTF-8 text"},
        {"\xff\xfe"
         "F",
         "it is UTF-16: save it as UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        modelfile m = {0};
        lm_err err = {0};
        expect_fail(modelfile_parse(lm_str_of(cases[i][0]), &m, &err), LM_INVALID, err, cases[i][1]);
        assert_null(m.commands);
    }
}

/* Trimming it all again at each line end would take minutes. */
static void a_text_of_a_million_line_ends_is_read_through_once(void **state) {
    (void)state;
    size_t n = 2u << 20;
    char *text = malloc(n);
    memset(text, '\n', n);
    memcpy(text, "FROM \"x", 7);
    text[n - 1] = '"';
    modelfile m = {0};
    lm_err err = {0};
    expect_ok(modelfile_parse((lm_str){text, n}, &m, &err), err);
    assert_int_equal(strlen(m.commands[0].value), n - 7);
    modelfile_release(&m);
    free(text);
}

static void what_is_too_large_is_refused(void **state) {
    (void)state;
    size_t n = MODELFILE_MAX_BYTES;
    char *text = malloc(n);
    memset(text, '\n', n);
    modelfile m = {0};
    lm_err err = {0};
    expect_fail(modelfile_parse((lm_str){text, n}, &m, &err), LM_TOO_LARGE, err, "16 MiB");
    for (size_t i = 0; i + 7 <= n; i += 7) memcpy(text + i, "FROM x\n", 7);
    expect_fail(modelfile_parse((lm_str){text, n - 7}, &m, &err), LM_TOO_LARGE, err, "line 16385: more than");
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commands_come_with_their_lines),
        cmocka_unit_test(a_value_may_be_nothing),
        cmocka_unit_test(quotes_go_over_lines),
        cmocka_unit_test(line_ends_of_other_systems_and_a_mark_of_utf8_are_taken),
        cmocka_unit_test(only_control_characters_are_left_out_of_a_value),
        cmocka_unit_test(a_bad_line_is_named_with_its_number),
        cmocka_unit_test(a_text_of_a_million_line_ends_is_read_through_once),
        cmocka_unit_test(what_is_too_large_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
