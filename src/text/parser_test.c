/* Answers in every form, cut into pieces in every way: what comes out must not depend on the cuts, and no
 * piece of a tag may ever be seen. */
#include "text/parser_cases.h"

#define QWEN "{% if tools %}<tool_call>{% endif %}<think>"

static void thinking_is_split_off_and_trimmed(void **state) {
    (void)state;
    lm_text *t = open_model(QWEN, NULL);
    assert_true(t->thinks);
    expect_parts(t, true, false, false, "<think>\nLet me see.\n\n2+2\n</think>\n\nIt is 4.\n",
                 "T(Let me see.\n\n2+2)C(It is 4.\n)");
    expect_parts(t, true, false, false, "  <think>a</think>b", "T(a)C(b)");
    expect_parts(t, true, false, false, "<think>\n\n</think>\n\nplain", "C(plain)");
    expect_parts(t, true, false, false, "no thoughts <think>here</think>",
                 "C(no thoughts <think>here</think>)");
    expect_parts(t, true, false, false, "<think>never ends", "T(never ends)");
    expect_parts(t, true, false, false, "<think>almost </thin", "T(almost </thin)");
    expect_parts(t, true, false, false, "<thin", "C(<thin)");
    expect_parts(t, true, false, false, "<think>a</think><think>b</think>", "T(a)C(<think>b</think>)");
    expect_parts(t, true, true, false, "inside already\n</think>\nout", "T(inside already)C(out)");
    expect_parts(t, false, false, false, "<think>a</think>b", "C(<think>a</think>b)");
    lm_text_close(t);
}

static void the_state_of_thinking_is_known(void **state) {
    (void)state;
    findings f = {0};
    lm_err err = {0};
    lm_parser *p = NULL;
    lm_text *t = open_model(QWEN, NULL);
    lm_buf_init(&f.text, 1000);
    expect_ok(lm_parser_open(&p, t, true, false, (lm_str){0}, &err), err);
    assert_false(lm_parser_in_thinking(p));
    lm_parser_push(p, LM_STR("<think>"), note, &f);
    lm_parser_push(p, LM_STR("a"), note, &f);
    assert_true(lm_parser_in_thinking(p));
    lm_parser_push(p, LM_STR("</think>"), note, &f);
    assert_false(lm_parser_in_thinking(p));
    lm_parser_close(p);
    expect_ok(lm_parser_open(&p, t, true, true, (lm_str){0}, &err), err);
    assert_true(lm_parser_in_thinking(p));
    lm_parser_close(p);
    lm_buf_release(&f.text);
    lm_text_close(t);
}

static void tagged_json_calls_are_found(void **state) {
    (void)state;
    lm_text *t = open_model(QWEN, NULL);
    assert_true(t->tools);
    expect_parts(t, false, false, true,
                 "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, 2.5, \"x\"]}}\n</tool_call>",
                 "F(f {\"a\":[1,2.5,\"x\"]})");
    expect_parts(t, false, false, true,
                 "Sure.\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": "
                 "{}}\n</tool_call>\n<tool_call>\n{\"name\": \"g\", "
                 "\"arguments\": {\"b\": null}}\n</tool_call>\n",
                 "C(Sure.)F(f {})F(g {\"b\":null})");
    expect_parts(t, true, false, true,
                 "<think>\nhm\n</think>\n\n<tool_call>{\"name\":\"f\"}</tool_call> done",
                 "T(hm)F(f {})C(done)");
    expect_parts(t, false, false, true,
                 "<tool_call>{\"name\":\"f\",\"arguments\":{\"s\":\"</tool_call>\"}}</tool_call>",
                 "F(f {\"s\":\"</tool_call>\"})");
    expect_parts(t, false, false, true,
                 "<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}</tool_call>", "F(f {\"a\":1})");
    expect_parts(t, false, false, true, "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":1}}",
                 "F(f {\"a\":1})");
    expect_parts(t, false, false, true, "a < b <tool", "C(a < b <tool)");
    lm_text_close(t);
}

static void what_is_no_call_is_shown_as_it_came(void **state) {
    (void)state;
    lm_text *t = open_model(QWEN, NULL);
    static const char *const same[] = {
        "<tool_call>not { json</tool_call> and on",
        "<tool_call>{\"name\": 3}</tool_call>",
        "<tool_call>{\"name\":\"f\",\"arguments\":[1]}</tool_call>",
        "<tool_call></tool_call>",
        "<tool_call>{\"name\":\"f\",\"argu",
        "{\"answer\": 42}",
        "{\"name\": \"no call\"",
        "{ }",
        "{",
        "{\"name\": \"Bob\", \"parameters\": 7} text",
        "[1, 2]",
        "x {\"name\": \"f\", \"arguments\": {}}",
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        char want[256];
        snprintf(want, sizeof want, "C(%s)", same[i]);
        expect_parts(t, false, false, true, same[i], want);
    }
    expect_parts(t, false, false, false, "<tool_call>{\"name\":\"f\"}</tool_call>",
                 "C(<tool_call>{\"name\":\"f\"}</tool_call>)");
    lm_text_close(t);
}

static void bare_json_calls_are_found_at_the_beginning(void **state) {
    (void)state;
    lm_text *t = open_model("{{ tools }}<|python_tag|>", (const char *[]){"<|python_tag|>", NULL});
    expect_parts(t, false, false, true, "{\"name\": \"f\", \"parameters\": {\"a\": \"b\"}}",
                 "F(f {\"a\":\"b\"})");
    expect_parts(t, false, false, true,
                 "\n{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
                 "F(f {})F(g {})");
    expect_parts(t, false, false, true,
                 "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {\"a\": 1}}", "F(f {\"a\":1})");
    expect_parts(t, false, false, true,
                 "{\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":{}}}", "F(f {})");
    expect_parts(t, false, false, true, "<|python_tag|>{\"name\": \"f\", \"parameters\": {\"q\": \"{\"}}",
                 "F(f {\"q\":\"{\"})");
    expect_parts(t, false, false, true, "<|python_tag|>print(1)", "C(<|python_tag|>print(1))");
    lm_text_close(t);
}

static void lists_of_calls_are_found(void **state) {
    (void)state;
    lm_text *t = open_model("{{ tools }}[TOOL_CALLS]", (const char *[]){"[TOOL_CALLS]", NULL});
    expect_parts(t, false, false, true,
                 "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"123456789\"}, "
                 "{\"name\": \"g\", \"arguments\": {}}]",
                 "F(f {\"a\":1})F(g {})");
    expect_parts(t, false, false, true, "[TOOL_CALLS]f[ARGS]{\"a\": 1}[TOOL_CALLS]g[ARGS]{}",
                 "F(f {\"a\":1})F(g {})");
    expect_parts(t, false, false, true, "[TOOL_CALLS] [1, 2]", "C([TOOL_CALLS] [1, 2])");
    lm_text_close(t);
}

static void calls_written_as_tags_are_found(void **state) {
    (void)state;
    lm_text *t = open_model(QWEN, NULL);
    expect_parts(t, false, false, true,
                 "<tool_call>\n<function=f>\n<parameter=city>\nNew "
                 "York\n</parameter>\n<parameter=n>\n3\n</parameter>\n"
                 "<parameter=code>\nif a:\n  b\n</parameter>\n</function>\n</tool_call>",
                 "F(f {\"city\":\"New York\",\"n\":3,\"code\":\"if a:\\n  b\"})");
    expect_parts(t, false, false, true,
                 "<tool_call>f\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>n</arg_key>\n"
                 "<arg_value>[1]</arg_value>\n</tool_call>",
                 "F(f {\"city\":\"Paris\",\"n\":[1]})");
    lm_text_close(t);
}

static void channels_are_told_apart(void **state) {
    (void)state;
    lm_text *t = open_model(
        "x", (const char *[]){"<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|call|>", NULL});
    assert_true(t->channels && t->thinks);
    assert_false(lm_text_is_stop(t, lm_tokenizer_id(t->tokenizer, LM_STR("<|end|>"))));
    assert_true(lm_text_is_stop(t, lm_tokenizer_id(t->tokenizer, LM_STR("<|call|>"))));
    expect_parts(
        t, true, false, true,
        "<|channel|>analysis<|message|>Hm, 4.<|end|><|start|>assistant<|channel|>final<|message|>It is <4>.",
        "T(Hm, 4.)C(It is <4>.)");
    expect_parts(
        t, true, false, true,
        "<|channel|>analysis<|message|>Call.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
        "<|constrain|>json<|message|>{\"a\": 1}<|call|>",
        "T(Call.)F(f {\"a\":1})");
    expect_parts(t, true, false, true, " to=functions.f<|channel|>commentary json<|message|>{}", "F(f {})");
    expect_parts(t, true, false, true, "<|channel|>commentary<|message|>I will look.<|end|>",
                 "C(I will look.)");
    expect_parts(t, true, false, true, "Out of form.", "C(Out of form.)");
    expect_parts(t, true, false, false, "<|channel|>final", "");
    expect_parts(t, true, false, false, "assitsant says <|message|>x", "C(assitsant says <|message|>x)");
    expect_parts(t, true, false, false, "Well<|message|>x", "C(Well<|message|>x)");
    lm_text_close(t);
}

static void pieces_of_tags_never_change_anything(void **state) {
    (void)state;
    static const char *const pieces[] = {"<",
                                         "<tool_call>",
                                         "</tool_call>",
                                         "<think>",
                                         "</think>",
                                         "{\"name\":\"f\"}",
                                         "{",
                                         "}",
                                         "\n",
                                         " ",
                                         "x",
                                         "\"",
                                         "<tool",
                                         "_call>",
                                         "[",
                                         "]",
                                         "[TOOL_CALLS]",
                                         "<|python_tag|>"};
    lm_text *t = open_model(QWEN "[TOOL_CALLS]<|python_tag|>", NULL);
    findings whole = {0}, cut = {0};
    uint32_t seed = 99;
    lm_buf_init(&whole.text, 1 << 16);
    lm_buf_init(&cut.text, 1 << 16);
    for (int round = 0; round < 4000; round++) {
        char answer[400] = "";
        for (int i = 0; i < 12; i++) {
            seed = seed * 1664525 + 1013904223;
            strcat(answer, pieces[(seed >> 16) % (sizeof pieces / sizeof *pieces)]);
        }
        size_t n = strlen(answer), a = 1 + seed % n;
        parse_cut(t, true, false, true, answer, n, n, &whole);
        parse_cut(t, true, false, true, answer, a, a + (n - a) / 2, &cut);
        if (!lm_str_eq(lm_buf_view(&whole.text), lm_buf_view(&cut.text)))
            fail_msg("'%s' cut at %zu:\n%s\n%s", answer, a, cut.text.ptr, whole.text.ptr);
        parse_cut(t, true, false, true, answer, 0, 0, &cut);
        if (!lm_str_eq(lm_buf_view(&whole.text), lm_buf_view(&cut.text)))
            fail_msg("'%s' byte by byte:\n%s\n%s", answer, cut.text.ptr, whole.text.ptr);
    }
    lm_buf_release(&whole.text);
    lm_buf_release(&cut.text);
    lm_text_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(thinking_is_split_off_and_trimmed),
        cmocka_unit_test(the_state_of_thinking_is_known),
        cmocka_unit_test(tagged_json_calls_are_found),
        cmocka_unit_test(what_is_no_call_is_shown_as_it_came),
        cmocka_unit_test(bare_json_calls_are_found_at_the_beginning),
        cmocka_unit_test(lists_of_calls_are_found),
        cmocka_unit_test(calls_written_as_tags_are_found),
        cmocka_unit_test(channels_are_told_apart),
        cmocka_unit_test(pieces_of_tags_never_change_anything),
    };
    return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
