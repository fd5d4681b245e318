/* What OpenAI's bodies say, and in which words they are refused. */
#include <math.h>
#include <stdlib.h>

#include "api/calls.h"
#include "api/openai.h"
#include "base/test.h"

#define MESSAGES "\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]"
#define TOOLS                                                                                                \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":\"object\","    \
    "\"properties\":{\"x\":{\"$ref\":\"#/$defs/"                                                             \
    "d\"},\"y\":{\"$ref\":\"#\"},\"$ref\":{}},\"$defs\":{\"d\":{}}}}},"                                      \
    "{\"type\":\"function\",\"function\":{\"name\":\"g\"}}]"
#define CALL(name, arguments)                                                                                \
    "{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"" name "\"},\"arguments\":" arguments        \
    "},\"required\":[\"name\",\"arguments\"],\"additionalProperties\":false}"

static const lm_text_sampling silent = {NAN, NAN, NAN, NAN, NAN, NAN};

static openai_request read_ok(openai_form form, const char *body) {
    openai_request r = {0};
    lm_err err = {0};
    expect_ok(openai_request_read(lm_str_of(body), form, &r, &err), err);
    assert_string_equal(err.text, "");
    return r;
}

static void refused(openai_form form, const char *body, const char *text) {
    openai_request r = {0};
    lm_err err = {0};
    expect_fail(openai_request_read(lm_str_of(body), form, &r, &err), LM_INVALID, err, text);
    assert_null(r.ask.request);
}

static void expect_json(const json_t *value, const char *text) {
    char *is = json_dumps(value, JSON_COMPACT);
    assert_string_equal(is, text);
    free(is);
}

static lm_request *choice(openai_request *r, uint32_t i) {
    lm_request *q = NULL;
    lm_err err = {0};
    expect_ok(openai_request_choice(r, i, &q, &err), err);
    return q;
}

static void messages_become_ollamas(void **state) {
    (void)state;
    openai_request r = read_ok(
        OPENAI_CHAT,
        "{\"model\":\"m\",\"messages\":[{\"role\":\"developer\",\"content\":\"s\"},{\"role\":\"user\","
        "\"content\":["
        "{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}],\"name\":\"ada\"},{\"role\":"
        "\"assistant\",\"content\":null,\"reasoning\":\"hm\",\"tool_calls\":[{\"id\":\"1\",\"type\":"
        "\"function\","
        "\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"z\\\":1,\\\"a\\\":[]}\"}}]},{\"role\":\"tool\","
        "\"tool_call_id\":\"1\",\"content\":\"r\"},{\"role\":\"tool\",\"tool_call_id\":\"2\",\"content\":"
        "\"q\"}]}");
    expect_json(
        r.ask.request->messages,
        "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"a\\n\\nb\"},"
        "{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"hm\",\"tool_calls\":[{\"id\":\"1\","
        "\"function\":{\"name\":\"f\",\"arguments\":{\"z\":1,\"a\":[]}}}]},{\"role\":\"tool\","
        "\"content\":\"r\",\"tool_call_id\":\"1\",\"tool_name\":\"f\"},{\"role\":\"tool\",\"content\":\"q\","
        "\"tool_call_id\":\"2\"}]");
    assert_false(r.ask.stream || r.ask.images || r.forced);
    openai_request_release(&r);
}

static void the_last_call_with_an_id_names_its_result(void **state) {
    (void)state;
    openai_request r = read_ok(OPENAI_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"assistant\",\"tool_"
                                            "calls\":[{\"id\":\"1\",\"function\":{\"name\":"
                                            "\"f\",\"arguments\":\"\"}},{\"id\":\"1\",\"function\":{\"name\":"
                                            "\"g\",\"arguments\":{}}}]},{\"role\":"
                                            "\"tool\",\"tool_call_id\":\"1\",\"content\":\"r\"}]}");
    const json_t *result = json_array_get(r.ask.request->messages, 1);
    assert_string_equal(json_string_value(json_object_get(result, "tool_name")), "g");
    openai_request_release(&r);
}

static void options_are_openais_over_the_makers(void **state) {
    (void)state;
    lm_err err = {0};
    lm_text_sampling makers = {.temperature = 0.6,
                               .top_k = 20,
                               .top_p = 0.8,
                               .min_p = NAN,
                               .typical_p = NAN,
                               .repetition_penalty = NAN};
    openai_request r = read_ok(OPENAI_CHAT, "{" MESSAGES "}");
    expect_ok(ollama_request_options(&r.ask, &makers, &err), err);
    const lm_options *o = &r.ask.request->options;
    assert_true(o->temperature == 1.0f && o->top_p == 1.0f && o->top_k == 20 && o->num_predict == -1);
    openai_request_release(&r);
    r = read_ok(OPENAI_CHAT,
                "{" MESSAGES ",\"temperature\":0,\"top_p\":0.5,\"seed\":18446744073709551615,\"stop\":"
                "\"end\",\"max_tokens\":5,\"max_completion_tokens\":7,\"frequency_penalty\":-1,"
                "\"presence_penalty\":1.5}");
    expect_ok(ollama_request_options(&r.ask, &makers, &err), err);
    o = &r.ask.request->options;
    assert_true(o->temperature == 0.0f && o->top_p == 0.5f && o->seed == INT64_MAX && o->num_predict == 7);
    assert_true(o->frequency_penalty == -1.0f && o->presence_penalty == 1.5f);
    assert_int_equal(r.ask.request->n_stops, 1);
    assert_string_equal(r.ask.request->stops[0], "end");
    openai_request_release(&r);
}

static void formats_constrain(void **state) {
    (void)state;
    openai_request r = read_ok(OPENAI_CHAT, "{" MESSAGES ",\"response_format\":{\"type\":\"json_object\"}}");
    assert_true(r.ask.request->constrained);
    assert_null(r.ask.request->schema);
    openai_request_release(&r);
    r = read_ok(OPENAI_CHAT,
                "{" MESSAGES ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":"
                "\"n\",\"strict\":true,\"schema\":{\"type\":\"object\"}}}}");
    assert_string_equal(r.ask.request->schema, "{\"type\":\"object\"}");
    openai_request_release(&r);
    refused(OPENAI_CHAT, "{" MESSAGES ",\"response_format\":{\"type\":\"json_schema\"}}",
            "must be a JSON Schema");
    refused(OPENAI_CHAT, "{" MESSAGES ",\"response_format\":\"json\"}", "openai.ResponseFormat");
}

static void tool_choice_is_a_grammar_or_hides_the_tools(void **state) {
    (void)state;
    openai_request r = read_ok(OPENAI_CHAT, "{" MESSAGES "," TOOLS ",\"parallel_tool_calls\":false}");
    assert_int_equal(json_array_size(r.ask.request->tools), 2);
    assert_true(r.one_call && !r.forced && !r.ask.request->constrained);
    openai_request_release(&r);
    r = read_ok(OPENAI_CHAT, "{" MESSAGES "," TOOLS ",\"tool_choice\":\"none\"}");
    assert_null(r.ask.request->tools);
    openai_request_release(&r);
    r = read_ok(OPENAI_CHAT, "{" MESSAGES "," TOOLS ",\"tool_choice\":\"required\"}");
    assert_true(r.forced && r.ask.request->constrained);
    assert_string_equal(
        r.ask.request->schema,
        "{\"anyOf\":[" CALL(
            "f",
            "{\"type\":\"object\",\"properties\":{\"x\":{\"$ref\":\"#/anyOf/0/"
            "properties/arguments/$defs/d\"},\"y\":{\"$ref\":\"#/anyOf/0/"
            "properties/arguments\"},\"$ref\":{}},\"$defs\":{\"d\":{}}}") "," CALL("g", "{\"type\":"
                                                                                        "\"object\"}") "]}");
    assert_int_equal(json_array_size(r.ask.request->tools), 2);
    openai_request_release(&r);
    r = read_ok(OPENAI_CHAT, "{" MESSAGES "," TOOLS
                             ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"g\"}}}");
    assert_string_equal(r.ask.request->schema, "{\"anyOf\":[" CALL("g", "{\"type\":\"object\"}") "]}");
    openai_request_release(&r);
    refused(OPENAI_CHAT,
            "{" MESSAGES "," TOOLS ",\"tool_choice\":{\"type\":\"function\",\"function\":{\"name\":\"h\"}}}",
            "there is no tool with the name \"h\"");
    refused(OPENAI_CHAT, "{" MESSAGES ",\"tool_choice\":\"required\"}",
            "tool_choice: there are no tools to choose from");
    refused(OPENAI_CHAT, "{" MESSAGES "," TOOLS ",\"tool_choice\":7}", "tool_choice must be");
}

static void a_forced_call_is_found_in_an_answer(void **state) {
    (void)state;
    char *name = NULL, *arguments = NULL;
    assert_true(lm_forced_call(LM_STR(" {\"name\": \"f\", \"arguments\": {\"z\": 1, \"a\": 2}}\n"), &name,
                               &arguments));
    assert_string_equal(name, "f");
    assert_string_equal(arguments, "{\"z\":1,\"a\":2}");
    free(name);
    free(arguments);
    assert_false(lm_forced_call(LM_STR("{\"name\": \"f\", \"argu"), &name, &arguments));
    assert_false(lm_forced_call(LM_STR("[1]"), &name, &arguments));
    assert_false(lm_forced_call(LM_STR("{\"name\":\"f\",\"arguments\":\"{}\"}"), &name, &arguments));
    assert_false(lm_forced_call((lm_str){0}, &name, &arguments));
}

static void efforts_are_levels(void **state) {
    (void)state;
    const struct {
        const char *effort, *level;
        int thinking;
    } cases[] = {{"none", "", 0},     {"minimal", "low", 1}, {"low", "low", 1},    {"medium", "medium", 1},
                 {"high", "high", 1}, {"max", "high", 1},    {"xhigh", "high", 1}, {"ultra", "high", 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[200];
        snprintf(body, sizeof body,
                 i % 2 ? "{" MESSAGES ",\"reasoning_effort\":\"%s\"}"
                       : "{" MESSAGES ",\"reasoning\":{\"effort\":\"%s\"}}",
                 cases[i].effort);
        openai_request r = read_ok(OPENAI_CHAT, body);
        assert_int_equal(r.ask.request->thinking, cases[i].thinking);
        assert_string_equal(r.ask.request->think_level, cases[i].level);
        openai_request_release(&r);
    }
    openai_request r = read_ok(OPENAI_CHAT, "{" MESSAGES "}");
    assert_int_equal(r.ask.request->thinking, -1);
    openai_request_release(&r);
    refused(OPENAI_CHAT, "{" MESSAGES ",\"reasoning_effort\":\"deep\"}", "invalid reasoning value: 'deep'");
}

static void each_answer_has_a_seed_of_its_own(void **state) {
    (void)state;
    lm_err err = {0};
    openai_request r = read_ok(OPENAI_CHAT, "{" MESSAGES ",\"n\":3,\"seed\":7,\"stop\":[\"a\",\"b\"]}");
    expect_ok(ollama_request_options(&r.ask, &silent, &err), err);
    assert_int_equal(r.n_choices, 3);
    for (uint32_t i = 0; i < 3; i++) {
        lm_request *q = choice(&r, i);
        assert_true(q->options.seed == 7 + i && q->n_stops == 2 && q->messages != r.ask.request->messages);
        expect_json(q->messages, "[{\"role\":\"user\",\"content\":\"x\"}]");
        lm_request_free(q);
    }
    openai_request_release(&r);
}

static void biases_are_each_answers_own(void **state) {
    (void)state;
    openai_request r =
        read_ok(OPENAI_CHAT, "{" MESSAGES ",\"n\":2,\"logit_bias\":{\"50256\":-100,\"0\":1.5}}");
    for (uint32_t i = 0; i < 2; i++) {
        lm_request *q = choice(&r, i);
        assert_int_equal(q->n_biases, 2);
        assert_true(q->biases[0].id == 50256 && q->biases[0].add == -100);
        assert_true(q->biases[1].id == 0 && q->biases[1].add == 1.5f);
        lm_request_free(q);
    }
    openai_request_release(&r);
    refused(OPENAI_CHAT, "{" MESSAGES ",\"logit_bias\":{\"-1\":1}}", "logit_bias must map token ids");
    refused(OPENAI_CHAT, "{" MESSAGES ",\"logit_bias\":{\"1\":\"x\"}}", "logit_bias must map token ids");
    refused(OPENAI_CHAT, "{" MESSAGES ",\"logit_bias\":{\"99999999999\":1}}", "logit_bias must map");
}

static void best_of_is_not_less_than_n_and_no_stream(void **state) {
    (void)state;
    openai_request r = read_ok(OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":\"x\",\"n\":2,\"best_of\":5}");
    assert_true(r.n_choices == 5 && r.n_shown == 2 && r.ask.request->logprobs && !r.logprobs);
    openai_request_release(&r);
    r = read_ok(OPENAI_CHAT, "{" MESSAGES ",\"best_of\":5}");
    assert_true(r.n_choices == 1 && r.n_shown == 1);
    openai_request_release(&r);
    refused(OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":\"x\",\"n\":2,\"best_of\":1}", "at least n");
    refused(OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":\"x\",\"stream\":true,\"best_of\":2}",
            "streamed");
    refused(OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":\"x\",\"best_of\":200}", "between 1 and 128");
}

static void prompts_are_texts_or_tokens(void **state) {
    (void)state;
    openai_request r = read_ok(OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":[\"a\",[1,2]],\"n\":2}");
    assert_int_equal(r.n_choices, 4);
    lm_request *q = choice(&r, 1);
    assert_int_equal(q->kind, LM_REQUEST_CHAT);
    expect_json(q->messages, "[{\"role\":\"user\",\"content\":\"a\"}]");
    lm_request_free(q);
    q = choice(&r, 2);
    assert_int_equal(q->kind, LM_REQUEST_RAW);
    assert_string_equal(q->prompt, "");
    assert_true(q->n_context == 2 && q->context[0] == 1 && q->context[1] == 2);
    lm_request_free(q);
    openai_request_release(&r);
    r = read_ok(OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":\"p\",\"suffix\":\"s\",\"logprobs\":0}");
    q = choice(&r, 0);
    assert_int_equal(q->kind, LM_REQUEST_INSERT);
    assert_string_equal(q->suffix, "s");
    assert_true(q->logprobs && q->top_logprobs == 0 && r.ask.insert);
    lm_request_free(q);
    openai_request_release(&r);
    static const char *const bad[] = {
        "null",  "\"\"", "[]",           "5",      "{}",      "[[]]", "[1,\"a\"]", "[\"a\",1]",
        "[1.5]", "[-1]", "[4294967296]", "[null]", "[[[1]]]",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char body[100];
        snprintf(body, sizeof body, "{\"model\":\"m\",\"prompt\":%s}", bad[i]);
        refused(OPENAI_COMPLETION, body, "prompt must");
    }
    refused(OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":\"a\\u0000\",\"suffix\":\"s\"}", "NUL");
    refused(OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":[1],\"suffix\":\"s\"}", "suffix is for");
    refused(OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":[1],\"echo\":true}", "echo is for");
    refused(OPENAI_COMPLETION, "{\"model\":\"m\",\"prompt\":\"x\",\"logprobs\":21}", "logprobs must be");
}

static void what_many_answers_would_copy_is_bounded(void **state) {
    (void)state;
    openai_request r = {0};
    lm_err err = {0};
    lm_buf b;
    lm_buf_init(&b, 20u << 20);
    lm_buf_text(&b, "{" MESSAGES ",\"n\":128,\"x\":\"");
    for (int i = 0; i < 3 << 10; i++) {
        char block[1025];
        memset(block, 'x', 1024);
        lm_buf_add(&b, block, 1024);
    }
    lm_buf_text(&b, "\"}");
    expect_fail(openai_request_read(lm_buf_view(&b), OPENAI_CHAT, &r, &err), LM_TOO_LARGE, err,
                "one at a time");
    lm_buf_release(&b);
}

static void errors_have_openais_form(void **state) {
    (void)state;
    const struct {
        lm_status st;
        const char *type;
    } cases[] = {{LM_INVALID, "invalid_request_error"}, {LM_UNSUPPORTED, "invalid_request_error"},
                 {LM_NOT_FOUND, "not_found_error"},     {LM_BUSY, "api_error"},
                 {LM_TOO_LARGE, "api_error"},           {LM_CORRUPT, "api_error"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char want[200];
        lm_buf b;
        lm_buf_init(&b, 1000);
        openai_write_error(&b, cases[i].st, "a \"b\"");
        snprintf(want, sizeof want,
                 "{\"error\":{\"message\":\"a \\\"b\\\"\",\"type\":\"%s\",\"param\":null,\"code\":null}}",
                 cases[i].type);
        assert_string_equal(b.ptr, want);
        lm_buf_release(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_become_ollamas),
        cmocka_unit_test(the_last_call_with_an_id_names_its_result),
        cmocka_unit_test(options_are_openais_over_the_makers),
        cmocka_unit_test(formats_constrain),
        cmocka_unit_test(tool_choice_is_a_grammar_or_hides_the_tools),
        cmocka_unit_test(a_forced_call_is_found_in_an_answer),
        cmocka_unit_test(efforts_are_levels),
        cmocka_unit_test(each_answer_has_a_seed_of_its_own),
        cmocka_unit_test(biases_are_each_answers_own),
        cmocka_unit_test(best_of_is_not_less_than_n_and_no_stream),
        cmocka_unit_test(prompts_are_texts_or_tokens),
        cmocka_unit_test(what_many_answers_would_copy_is_bounded),
        cmocka_unit_test(errors_have_openais_form),
    };
    return cmocka_run_group_tests_name("api.openai", tests, NULL, NULL);
}
