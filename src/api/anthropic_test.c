/* What a body of Anthropic's Messages API says, and in which words it is refused. */
#include <math.h>

#include "api/anthropic.h"
#include "api/pieces.h"
#include "base/test.h"

#define HEAD "{\"model\":\"M:x\",\"max_tokens\":9,"

static anthropic_request read_ok(const char *body) {
    anthropic_request r = {0};
    lm_err err = {0};
    expect_ok(anthropic_request_read(lm_str_of(body), ANTHROPIC_MESSAGES, &r, &err), err);
    assert_string_equal(err.text, "");
    return r;
}

static void refused(const char *body, const char *text) {
    anthropic_request r = {0};
    lm_err err = {0};
    expect_fail(anthropic_request_read(lm_str_of(body), ANTHROPIC_MESSAGES, &r, &err), LM_INVALID, err, text);
    assert_null(r.request);
}

/* Refused within an otherwise sound body. */
static void refused_with(const char *members, const char *text) {
    char body[2048];
    snprintf(body, sizeof body, HEAD "%s,\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", members);
    refused(body, text);
}

/* The messages of a body, in Ollama's form. */
static void becomes(const char *body, const char *want) {
    anthropic_request r = read_ok(body);
    char *got = json_dumps(r.request->messages, JSON_COMPACT);
    assert_string_equal(got, want);
    free(got);
    anthropic_request_release(&r);
}

static void strings_and_blocks_become_messages(void **state) {
    (void)state;
    becomes(HEAD "\"system\":\"s\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"},"
                 "{\"role\":\"Assistant\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\","
                 "\"text\":\"b\"}]}]}",
            "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"hi\"},"
            "{\"role\":\"assistant\",\"content\":\"ab\"}]");
    /* what is not known is left out, and so is a message of which nothing is left */
    becomes(HEAD "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"},"
                 "{\"type\":\"novelty\",\"data\":[]}]},{\"role\":\"assistant\",\"content\":"
                 "[{\"type\":\"redacted_thinking\",\"data\":\"zzz\"}]}]}",
            "[{\"role\":\"user\",\"content\":\"x\"}]");
    becomes(
        HEAD
        "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"document\",\"source\":{\"type\":\"text\","
        "\"data\":\"paper\"}},{\"type\":\"document\",\"source\":{\"type\":\"content\",\"content\":"
        "[{\"type\":\"text\",\"text\":\"!\"}]}}]}]}",
        "[{\"role\":\"user\",\"content\":\"paper!\"}]");
}

static void claude_codes_accounting_is_no_text_for_the_model(void **state) {
    (void)state;
    becomes(
        HEAD
        "\"system\":[{\"type\":\"text\",\"text\":\"x-anthropic-billing-header: cc_version=2.1; "
        "cch=eb6c6;\"},{\"type\":\"text\",\"text\":\"You are \",\"cache_control\":{\"type\":\"ephemeral\"}},"
        "{\"type\":\"text\",\"text\":\"kind.\"}],\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}",
        "[{\"role\":\"system\",\"content\":\"You are kind.\"},{\"role\":\"user\",\"content\":\"x\"}]");
}

static void and_neither_is_its_line_in_a_string(void **state) {
    (void)state;
    becomes(HEAD "\"system\":\"x-anthropic-billing-header: cch=eb6c6;\\nYou are kind.\",\"messages\":"
                 "[{\"role\":\"user\",\"content\":\"x\"}]}",
            "[{\"role\":\"system\",\"content\":\"You are kind.\"},{\"role\":\"user\",\"content\":\"x\"}]");
}

static void calls_results_and_thinking_are_kept_in_order(void **state) {
    (void)state;
    becomes(
        HEAD
        "\"messages\":[{\"role\":\"user\",\"content\":\"q\"},"
        "{\"role\":\"assistant\",\"content\":[{\"type\":\"thinking\",\"thinking\":\"hm\",\"signature\":\"\"},"
        "{\"type\":\"text\",\"text\":\"I look.\"},"
        "{\"type\":\"tool_use\",\"id\":\"toolu_1\",\"name\":\"look\",\"input\":{\"z\":1,\"a\":[2]}},"
        "{\"type\":\"tool_use\",\"id\":\"toolu_2\",\"name\":\"see\",\"input\":{}}]},"
        "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"and?\"},"
        "{\"type\":\"tool_result\",\"tool_use_id\":\"toolu_1\",\"content\":\"sun\"},"
        "{\"type\":\"tool_result\",\"tool_use_id\":\"toolu_2\",\"is_error\":true,"
        "\"content\":[{\"type\":\"text\",\"text\":\"da\"},{\"type\":\"text\",\"text\":\"rk\"}]},"
        "{\"type\":\"tool_result\",\"tool_use_id\":\"toolu_3\",\"is_error\":true,\"content\":\"Error: no\"},"
        "{\"type\":\"tool_result\",\"tool_use_id\":\"toolu_1\"}]}]}",
        "[{\"role\":\"user\",\"content\":\"q\"},"
        "{\"role\":\"assistant\",\"content\":\"I look.\",\"thinking\":\"hm\",\"tool_calls\":["
        "{\"id\":\"toolu_1\",\"function\":{\"name\":\"look\",\"arguments\":{\"z\":1,\"a\":[2]}}},"
        "{\"id\":\"toolu_2\",\"function\":{\"name\":\"see\",\"arguments\":{}}}]},"
        "{\"role\":\"tool\",\"content\":\"sun\",\"tool_call_id\":\"toolu_1\",\"tool_name\":\"look\"},"
        "{\"role\":\"tool\",\"content\":\"Error: dark\",\"tool_call_id\":\"toolu_2\",\"tool_name\":\"see\"},"
        "{\"role\":\"tool\",\"content\":\"Error: no\",\"tool_call_id\":\"toolu_3\"},"
        "{\"role\":\"tool\",\"content\":\"\",\"tool_call_id\":\"toolu_1\",\"tool_name\":\"look\"},"
        "{\"role\":\"user\",\"content\":\"and?\"}]");
}

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}"

static void sampling_lies_over_what_the_makers_say(void **state) {
    (void)state;
    lm_err err = {0};
    lm_text_sampling makers = {.temperature = 0.3,
                               .top_k = 7,
                               .top_p = 0.5,
                               .min_p = NAN,
                               .typical_p = NAN,
                               .repetition_penalty = NAN};
    anthropic_request r =
        read_ok(HEAD "\"temperature\":1,\"stop_sequences\":[\"a\",\"b\"],\"stream\":true," MESSAGES);
    expect_ok(anthropic_request_options(&r, &makers, &err), err);
    assert_string_equal(r.model, "M:x");
    assert_true(r.stream);
    assert_int_equal(r.request->options.num_predict, 9);
    assert_true(r.request->options.temperature == 1.0f);
    assert_int_equal(r.request->options.top_k, 7);
    assert_true(r.request->options.top_p == 0.5f);
    assert_int_equal(r.request->n_stops, 2);
    assert_string_equal(r.request->stops[1], "b");
    anthropic_request_release(&r);
    r = read_ok(
        HEAD
        "\"top_p\":0.25,\"top_k\":3,\"metadata\":{\"user_id\":\"u\"},\"service_tier\":\"auto\"," MESSAGES);
    expect_ok(anthropic_request_options(&r, &makers, &err), err);
    assert_false(r.stream);
    assert_true(r.request->options.temperature == 0.3f);
    assert_int_equal(r.request->options.top_k, 3);
    assert_true(r.request->options.top_p == 0.25f);
    anthropic_request_release(&r);
}

static void thinking_is_off_on_or_bounded(void **state) {
    (void)state;
    anthropic_request r = read_ok(HEAD MESSAGES);
    assert_int_equal(r.request->thinking, -1);
    anthropic_request_release(&r);
    r = read_ok(HEAD "\"thinking\":{\"type\":\"disabled\"}," MESSAGES);
    assert_int_equal(r.request->thinking, 0);
    anthropic_request_release(&r);
    r = read_ok(HEAD "\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":2048}," MESSAGES);
    assert_int_equal(r.request->thinking, 1);
    assert_int_equal(r.request->think_budget, 2048);
    anthropic_request_release(&r);
    r = read_ok(HEAD "\"thinking\":{\"type\":\"adaptive\"},\"output_config\":{\"effort\":\"max\"}," MESSAGES);
    assert_int_equal(r.request->thinking, 1);
    assert_int_equal(r.request->think_budget, 0);
    assert_string_equal(r.request->think_level, "high");
    anthropic_request_release(&r);
    r = read_ok(HEAD "\"thinking\":{\"type\":\"between_tools\",\"display\":\"omitted\"}," MESSAGES);
    assert_int_equal(r.request->thinking, 0); /* nothing was called yet */
    assert_true(r.hide_thinking);
    anthropic_request_release(&r);
    r = read_ok(HEAD
                "\"thinking\":{\"type\":\"between_tools\"},\"messages\":[{\"role\":\"user\",\"content\":"
                "[{\"type\":\"tool_result\",\"tool_use_id\":\"t\"},{\"type\":\"text\",\"text\":\"go\"}]}]}");
    assert_int_equal(r.request->thinking, 1);
    anthropic_request_release(&r);
    refused_with("\"thinking\":{\"type\":\"loud\"}", "thinking.type");
    refused_with("\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":0}",
                 "budget_tokens: must be positive");
    refused_with("\"thinking\":{\"type\":\"enabled\",\"budget_tokens\":\"many\"}",
                 "thinking.budget_tokens of type int");
    refused_with("\"output_config\":{\"effort\":\"heroic\"}", "effort: must be");
}

static void an_answers_form_is_a_schema(void **state) {
    (void)state;
    anthropic_request r = read_ok(HEAD "\"output_config\":{\"format\":{\"type\":\"json_schema\",\"schema\":"
                                       "{\"type\":\"object\"}}}," MESSAGES);
    assert_true(r.request->constrained);
    assert_string_equal(r.request->schema, "{\"type\":\"object\"}");
    anthropic_request_release(&r);
    refused_with("\"output_config\":{\"format\":{\"type\":\"xml\"}}", "json_schema");
    refused_with("\"output_config\":{\"format\":{\"type\":\"json_schema\",\"schema\":\"{}\"}}",
                 "with a schema");
}

#define TOOLS                                                                                                \
    "\"tools\":[{\"name\":\"look\",\"description\":\"d\",\"input_schema\":{\"type\":\"object\","             \
    "\"properties\":{\"at\":"                                                                                \
    "{\"$ref\":\"#/$defs/"                                                                                   \
    "place\"}},\"$defs\":{\"place\":{\"enum\":[\"here\"]}}}},{\"type\":\"custom\",\"name\":\"see\"}]"

static void tools_become_functions(void **state) {
    (void)state;
    anthropic_request r = read_ok(HEAD TOOLS "," MESSAGES);
    char *text = json_dumps(r.request->tools, JSON_COMPACT);
    assert_string_equal(
        text, "[{\"type\":\"function\",\"function\":{\"name\":\"look\",\"description\":\"d\",\"parameters\":"
              "{\"type\":\"object\",\"properties\":{\"at\":{\"$ref\":\"#/$defs/place\"}},\"$defs\":"
              "{\"place\":{\"enum\":[\"here\"]}}}}},"
              "{\"type\":\"function\",\"function\":{\"name\":\"see\",\"parameters\":{\"type\":\"object\","
              "\"properties\":{}}}}]");
    free(text);
    assert_false(r.forced || r.one_call || r.request->constrained);
    anthropic_request_release(&r);
    refused_with("\"tools\":[{\"type\":\"web_search_20250305\",\"name\":\"web_search\"}]",
                 "web_search_20250305");
    refused_with("\"tools\":[{\"input_schema\":{}}]", "tools.0.name: field required");
    refused_with("\"tools\":[3]", "tools of type anthropic.Tool");
    refused_with("\"tools\":[{\"name\":\"f\",\"input_schema\":\"{}\"}]", "tools.input_schema of type object");
}

static void a_choice_of_tools_is_kept(void **state) {
    (void)state;
    anthropic_request r = read_ok(HEAD TOOLS ",\"tool_choice\":{\"type\":\"none\"}," MESSAGES);
    assert_null(r.request->tools);
    anthropic_request_release(&r);
    r = read_ok(HEAD TOOLS
                ",\"tool_choice\":{\"type\":\"auto\",\"disable_parallel_tool_use\":true}," MESSAGES);
    assert_true(r.one_call && !r.forced);
    anthropic_request_release(&r);
    r = read_ok(HEAD TOOLS ",\"tool_choice\":{\"type\":\"any\"}," MESSAGES);
    assert_true(r.forced && r.request->constrained);
    json_t *schema = json_loads(r.request->schema, 0, NULL), *any = json_object_get(schema, "anyOf");
    assert_int_equal(json_array_size(any), 2);
    /* what the schema refers to is found where it lies now */
    assert_non_null(strstr(r.request->schema, "\"#/anyOf/0/properties/arguments/$defs/place\""));
    json_decref(schema);
    anthropic_request_release(&r);
    r = read_ok(HEAD TOOLS ",\"tool_choice\":{\"type\":\"tool\",\"name\":\"see\"}," MESSAGES);
    assert_string_equal(
        r.request->schema,
        "{\"anyOf\":[{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"see\"},\"arguments\":"
        "{\"type\":\"object\",\"properties\":{}}},\"required\":[\"name\",\"arguments\"],"
        "\"additionalProperties\":false}]}");
    assert_int_equal(json_array_size(r.request->tools), 2); /* the model is shown all of them */
    anthropic_request_release(&r);
    refused(HEAD TOOLS ",\"tool_choice\":{\"type\":\"tool\",\"name\":\"hear\"}," MESSAGES,
            "no tool with the name \"hear\"");
    refused_with("\"tool_choice\":{\"type\":\"any\"}", "no tools to choose from");
    refused_with("\"tool_choice\":{\"type\":\"perhaps\"}", "tool_choice.type");
    refused(HEAD TOOLS
            ",\"tool_choice\":{\"type\":\"any\"},\"output_config\":{\"format\":{\"type\":\"json_schema\","
            "\"schema\":{}}}," MESSAGES,
            "forces a call");
}

static void what_is_missing_is_named_in_ollamas_words(void **state) {
    (void)state;
    refused("", "missing request body");
    refused("[]", "json: cannot unmarshal array into Go value of type api.MessagesRequest");
    refused("{\"max_tokens\":9," MESSAGES, "model is required");
    refused("{\"model\":\"m\"," MESSAGES, "max_tokens is required and must be positive");
    refused("{\"model\":\"m\",\"max_tokens\":-1," MESSAGES, "max_tokens is required and must be positive");
    refused("{\"model\":\"m\",\"max_tokens\":\"9\"," MESSAGES, "max_tokens of type int");
    refused("{\"model\":\"m\",\"max_tokens\":9}", "messages is required");
    refused("{\"model\":\"m\",\"max_tokens\":9,\"messages\":[]}", "messages is required");
    refused("{\"model\":\"m\",\"max_tokens\":9,\"messages\":\"hi\"}",
            "messages of type []anthropic.MessageParam");
    refused("{\"model\":\"m\",\"max_tokens\":9,\"messages\":[\"hi\"]}",
            "messages of type anthropic.MessageParam");
    refused("{\"model\":\"m\",\"max_tokens\":9,\"messages\":[{\"role\":\"user\",\"content\":[]}]}",
            "no content");
    refused_with("\"temperature\":\"hot\"", "temperature of type float64");
    refused_with("\"temperature\":-1", "temperature: must be between 0 and 2");
    refused_with("\"top_p\":1.5", "top_p: must be between 0 and 1");
    refused_with("\"top_k\":-3", "top_k: must be");
    refused_with("\"stop_sequences\":\"x\"", "stop_sequences of type []string");
    refused_with("\"stop_sequences\":[1]", "stop_sequences of type string");
    refused_with("\"system\":3", "system of type");
    refused_with("\"system\":[{\"type\":\"image\"}]", "system.0");
    refused_with("\"stream\":\"yes\"", "stream of type bool");
    refused_with("\"mcp_servers\":[{\"url\":\"http://x\"}]", "mcp_servers: not available here");
    anthropic_request r = read_ok(HEAD "\"thread\":{\"type\":\"create\"},\"mcp_servers\":[]," MESSAGES);
    assert_true(r.threaded); /* refused where its answer can say more than a text */
    anthropic_request_release(&r);
}

static void content(const char *blocks, const char *text) {
    char body[1024];
    snprintf(body, sizeof body, HEAD "\"messages\":[{\"role\":\"user\",\"content\":%s}]}", blocks);
    refused(body, text);
}

static void a_bad_block_is_named_by_its_place(void **state) {
    (void)state;
    content("3", "messages.0.content: must be a string or an array");
    content("[3]", "messages.content of type anthropic.ContentBlock");
    content("[{}]", "messages.0.content.0: type: field required");
    content("[{\"type\":\"text\"}]", "messages.0.content.0: text: field required");
    content("[{\"type\":\"tool_use\",\"name\":\"f\"}]", "tool_use block missing required 'id' field");
    content("[{\"type\":\"tool_use\",\"id\":\"f\"}]", "tool_use block missing required 'name' field");
    content("[{\"type\":\"tool_use\",\"id\":\"f\",\"name\":\"g\",\"input\":\"{}\"}]",
            "input: must be an object");
    content("[{\"type\":\"tool_result\",\"content\":\"x\"}]", "tool_use_id");
    content("[{\"type\":\"tool_result\",\"tool_use_id\":\"x\",\"content\":3}]", "content: must be");
    content("[{\"type\":\"image\"}]", "invalid image source");
    content("[{\"type\":\"image\",\"source\":{\"type\":\"url\",\"url\":\"http://x\"}}]", "Only base64");
    content("[{\"type\":\"document\",\"source\":{\"type\":\"base64\",\"data\":\"x\"}}]",
            "no other kind can be read");
    refused(HEAD "\"messages\":[{\"role\":\"robot\",\"content\":\"x\"}]}",
            "messages.0.role: must be user or assistant");
    refused(HEAD "\"messages\":[{\"role\":4,\"content\":\"x\"}]}", "messages.role of type string");
    anthropic_request r =
        read_ok(HEAD "\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"source\":"
                     "{\"type\":\"base64\",\"media_type\":\"image/png\",\"data\":\"aGk=\"}},"
                     "{\"type\":\"text\",\"text\":\"what?\"}]}]}");
    assert_true(r.images); /* a model has to be found first, to say that it cannot see */
    anthropic_request_release(&r);
}

static void counting_needs_no_max_tokens(void **state) {
    (void)state;
    anthropic_request r = {0};
    lm_err err = {0};
    expect_ok(anthropic_request_read(LM_STR("{\"model\":\"m\"," MESSAGES), ANTHROPIC_COUNT, &r, &err), err);
    assert_true(r.request->count_only);
    anthropic_request_release(&r);
    expect_fail(anthropic_request_read(LM_STR("{\"model\":\"m\"}"), ANTHROPIC_COUNT, &r, &err), LM_INVALID,
                err, "messages is required");
}

static void ids_differ(void **state) {
    (void)state;
    char a[32], b[32];
    lm_hex_id("msg", a);
    lm_hex_id("msg", b);
    assert_int_equal(strlen(a), 28);
    assert_memory_equal(a, "msg_", 4);
    assert_string_not_equal(a, b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(strings_and_blocks_become_messages),
        cmocka_unit_test(claude_codes_accounting_is_no_text_for_the_model),
        cmocka_unit_test(and_neither_is_its_line_in_a_string),
        cmocka_unit_test(calls_results_and_thinking_are_kept_in_order),
        cmocka_unit_test(sampling_lies_over_what_the_makers_say),
        cmocka_unit_test(thinking_is_off_on_or_bounded),
        cmocka_unit_test(an_answers_form_is_a_schema),
        cmocka_unit_test(tools_become_functions),
        cmocka_unit_test(a_choice_of_tools_is_kept),
        cmocka_unit_test(what_is_missing_is_named_in_ollamas_words),
        cmocka_unit_test(a_bad_block_is_named_by_its_place),
        cmocka_unit_test(counting_needs_no_max_tokens),
        cmocka_unit_test(ids_differ),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
