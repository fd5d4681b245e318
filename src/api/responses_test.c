/* What bodies of the Responses API say: items become messages, groups of tools become tools. */
#include <stdlib.h>

#include "api/responses.h"
#include "base/test.h"

static responses_request read_ok(const char *body) {
    responses_request r = {0};
    lm_err err = {0};
    expect_ok(responses_request_read(lm_str_of(body), &r, &err), err);
    return r;
}

static void expect_json(const json_t *value, const char *text) {
    char *is = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    assert_string_equal(is, text);
    free(is);
}

static void expect_messages(const char *input, const char *messages) {
    lm_buf body;
    lm_buf_init(&body, 65536);
    lm_buf_printf(&body, "{\"model\":\"m\",\"input\":%s}", input);
    responses_request r = read_ok(body.ptr);
    expect_json(r.ask.request->messages, messages);
    responses_request_release(&r);
    lm_buf_release(&body);
}

static void items_of_one_turn_are_one_message(void **state) {
    (void)state;
    expect_messages("\"hi\"", "[{\"role\":\"user\",\"content\":\"hi\"}]");
    expect_messages(
        "[{\"role\":\"user\",\"content\":[{\"type\":\"input_text\",\"text\":\"a\"},{\"type\":\"input_text\","
        "\"text\":\"b\"}]},"
        "{\"type\":\"reasoning\",\"summary\":[{\"type\":\"summary_text\",\"text\":\"hm\"}],\"encrypted_"
        "content\":\"hm\"},"
        "{\"type\":\"message\",\"role\":\"assistant\",\"content\":[{\"type\":\"output_text\",\"text\":\"c\"}]"
        "},"
        "{\"type\":\"function_call\",\"call_id\":\"1\",\"name\":\"f\",\"arguments\":\"{\\\"z\\\":1,\\\"a\\\":"
        "2}\"},"
        "{\"type\":\"custom_tool_call\",\"call_id\":\"2\",\"name\":\"run\",\"namespace\":\"os\",\"input\":\" "
        "ls\\n\"},"
        "{\"type\":\"function_call_output\",\"call_id\":\"1\",\"output\":\"r\"},"
        "{\"type\":\"custom_tool_call_output\",\"call_id\":\"2\",\"output\":[{\"type\":\"input_text\","
        "\"text\":\"q\"}]}]",
        "[{\"role\":\"user\",\"content\":\"ab\"},{\"role\":\"assistant\",\"content\":\"c\",\"thinking\":"
        "\"hm\",\"tool_calls\":["
        "{\"function\":{\"name\":\"f\",\"arguments\":{\"z\":1,\"a\":2}},\"id\":\"1\"},"
        "{\"function\":{\"name\":\"os.run\",\"arguments\":{\"input\":\" ls\\n\"}},\"id\":\"2\"}]},"
        "{\"role\":\"tool\",\"content\":\"r\",\"tool_call_id\":\"1\",\"tool_name\":\"f\"},"
        "{\"role\":\"tool\",\"content\":\"q\",\"tool_call_id\":\"2\",\"tool_name\":\"os.run\"}]");
}

static void reasoning_goes_with_the_turn_that_follows(void **state) {
    (void)state;
    expect_messages(
        "[{\"role\":\"user\",\"content\":\"x\"},{\"type\":\"reasoning\",\"summary\":[],\"encrypted_content\":"
        "\"e\"},"
        "{\"type\":\"function_call\",\"call_id\":\"1\",\"name\":\"f\",\"arguments\":\"\"}]",
        "[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"e\","
        "\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{}},\"id\":\"1\"}]}]");
    expect_messages("[{\"type\":\"reasoning\",\"content\":[{\"type\":\"reasoning_text\",\"text\":\"t\"}]}]",
                    "[{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"t\"}]");
}

static void instructions_come_first(void **state) {
    (void)state;
    responses_request r =
        read_ok("{\"instructions\":\"s\",\"input\":[{\"role\":\"developer\",\"content\":\"d\"}]}");
    expect_json(r.ask.request->messages,
                "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"system\",\"content\":\"d\"}]");
    responses_request_release(&r);
}

static void groups_and_free_texts_become_functions(void **state) {
    (void)state;
    responses_request r =
        read_ok("{\"input\":\"x\",\"tools\":[{\"type\":\"namespace\",\"name\":\"n\",\"tools\":[{\"type\":"
                "\"function\",\"name\":\"f\","
                "\"description\":\"d\",\"parameters\":{\"type\":\"object\"}}]},{\"type\":\"web_search\"},"
                "{\"type\":\"custom\",\"name\":\"c\"}]}");
    expect_json(r.ask.request->tools, "[{\"type\":\"function\",\"function\":{\"name\":\"n.f\","
                                      "\"description\":\"d\",\"parameters\":{\"type\":"
                                      "\"object\"}}},{\"type\":\"function\",\"function\":{\"name\":\"c\","
                                      "\"parameters\":{\"type\":\"object\","
                                      "\"properties\":{\"input\":{\"type\":\"string\"}},\"required\":["
                                      "\"input\"],\"additionalProperties\":false}}}]");
    expect_json(r.tools, "{\"n.f\":{\"name\":\"f\",\"namespace\":\"n\",\"custom\":false},\"c\":{\"name\":"
                         "\"c\",\"custom\":true}}");
    assert_int_equal(json_array_size(json_object_get(r.echo, "tools")), 3);
    responses_request_release(&r);
}

static void an_answer_repeats_what_was_asked(void **state) {
    (void)state;
    responses_request r =
        read_ok("{\"input\":\"x\",\"temperature\":0.5,\"Metadata\":{\"k\":\"v\"},\"max_output_tokens\":5,"
                "\"text\":{\"format\":{\"type\":\"json_object\"},\"verbosity\":\"low\"}}");
    expect_json(json_object_get(r.echo, "temperature"), "0.5");
    expect_json(json_object_get(r.echo, "top_p"), "1.0");
    expect_json(json_object_get(r.echo, "metadata"), "{\"k\":\"v\"}");
    expect_json(json_object_get(r.echo, "text"), "{\"format\":{\"type\":\"json_object\"}}");
    assert_true(json_is_null(json_object_get(r.echo, "instructions")));
    assert_true(r.ask.request->constrained);
    expect_json(r.ask.options, "{\"temperature\":0.5,\"top_p\":1.0,\"num_predict\":5}");
    responses_request_release(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_of_one_turn_are_one_message),
        cmocka_unit_test(reasoning_goes_with_the_turn_that_follows),
        cmocka_unit_test(instructions_come_first),
        cmocka_unit_test(groups_and_free_texts_become_functions),
        cmocka_unit_test(an_answer_repeats_what_was_asked),
    };
    return cmocka_run_group_tests_name("api.responses", tests, NULL, NULL);
}
