/* What a body says, and in which words it is refused. */
#include <math.h>

#include "api/images.h"
#include "api/ollama.h"
#include "api/options.h"
#include "base/test.h"

static ollama_request read_ok(ollama_form form, const char *body) {
    ollama_request r = {0};
    lm_err err = {0};
    expect_ok(ollama_request_read(lm_str_of(body), form, &r, &err), err);
    assert_string_equal(err.text, "");
    return r;
}

static void refused(ollama_form form, const char *body, lm_status want, const char *text) {
    ollama_request r = {0};
    lm_err err = {0};
    expect_fail(ollama_request_read(lm_str_of(body), form, &r, &err), want, err, text);
    assert_null(r.request);
}

static void a_prompt_becomes_a_chat_with_its_system(void **state) {
    (void)state;
    ollama_request r =
        read_ok(OLLAMA_GENERATE, "{\"model\":\"M:x\",\"prompt\":\"hi\",\"system\":\"be brief\"}");
    assert_string_equal(r.model, "M:x");
    assert_true(r.stream);
    assert_int_equal(r.request->kind, LM_REQUEST_CHAT);
    assert_true(r.request->want_context);
    char *text = json_dumps(r.request->messages, JSON_COMPACT);
    assert_string_equal(
        text, "[{\"role\":\"system\",\"content\":\"be brief\"},{\"role\":\"user\",\"content\":\"hi\"}]");
    free(text);
    ollama_request_release(&r);
}

static void base64_is_refused_where_go_stops_reading_it(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int at; /* -1: nothing is wrong */
    } cases[] = {
        {"", -1},     {"aGk=", -1},       {"aA==", -1},
        {"aGkh", -1}, {"aG\nk\r=\n", -1}, {"\n", -1},
        {"@@@", 0},   {"aGk", 0},         {"aGkhaG", 4},
        {"aG*h", 2},  {"=", 0},           {"a===", 1},
        {"aA=", 3},   {"aA=b", 2},        {"aGk=a", 4},
        {"aGk==", 4}, {"aA==a", 4},       {"data:image/png;base64,aGk=", 4},
        {"aGk_", 3},  {"aGk\n", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lm_err err = {0};
        lm_status st = lm_base64_check(lm_str_of(cases[i].text), &err);
        if (cases[i].at < 0) {
            expect_ok(st, err);
            continue;
        }
        char want[60];
        snprintf(want, sizeof want, "illegal base64 data at input byte %d", cases[i].at);
        expect_fail(st, LM_INVALID, err, want);
    }
}

static void images_have_to_be_base64(void **state) {
    (void)state;
    ollama_request r =
        read_ok(OLLAMA_GENERATE, "{\"model\":\"m\",\"prompt\":\"p\",\"images\":[\"aGk=\",null]}");
    assert_true(r.images);
    ollama_request_release(&r);
    r = read_ok(OLLAMA_GENERATE, "{\"model\":\"m\",\"prompt\":\"p\",\"images\":[]}");
    assert_false(r.images);
    ollama_request_release(&r);
    refused(OLLAMA_GENERATE, "{\"prompt\":\"p\",\"images\":[\"data:image/png;base64,aGk=\"]}", LM_INVALID,
            "illegal base64 data at input byte 4");
    refused(OLLAMA_CHAT, "{\"messages\":[{\"images\":[5]}]}", LM_INVALID,
            "json: cannot unmarshal number into Go struct field ChatRequest.messages.images of type "
            "api.ImageData");
    refused(OLLAMA_CHAT, "{\"messages\":[null]}", LM_INVALID,
            "json: cannot unmarshal null into Go struct field ChatRequest.messages of type api.Message");
}

static void raw_and_suffix_choose_their_kinds(void **state) {
    (void)state;
    ollama_request r = read_ok(OLLAMA_GENERATE, "{\"model\":\"m\",\"prompt\":\"p\",\"raw\":true}");
    assert_int_equal(r.request->kind, LM_REQUEST_RAW);
    assert_string_equal(r.request->prompt, "p");
    assert_false(r.request->want_context);
    ollama_request_release(&r);
    r = read_ok(OLLAMA_GENERATE, "{\"model\":\"m\",\"prompt\":\"p\",\"suffix\":\"s\"}");
    assert_int_equal(r.request->kind, LM_REQUEST_INSERT);
    assert_string_equal(r.request->suffix, "s");
    assert_true(r.insert);
    ollama_request_release(&r);
    r = read_ok(OLLAMA_GENERATE, "{\"model\":\"m\"}");
    assert_int_equal(r.request->kind, LM_REQUEST_LOAD);
    assert_true(r.empty);
    ollama_request_release(&r);
    refused(OLLAMA_GENERATE, "{\"model\":\"m\",\"prompt\":\"p\",\"raw\":true,\"system\":\"s\"}", LM_INVALID,
            "raw mode does not support template, system, or context");
    refused(OLLAMA_GENERATE, "{\"model\":\"m\",\"prompt\":\"p\",\"raw\":true,\"template\":\"{{ .Prompt }}\"}",
            LM_INVALID, "raw mode does not support template, system, or context");
    r = read_ok(OLLAMA_GENERATE, "{\"model\":\"m\",\"prompt\":\"p\",\"template\":\"{{ .Prompt }}\"}");
    assert_string_equal(r.request->template, "{{ .Prompt }}");
    ollama_request_release(&r);
}

static void field_names_match_without_case(void **state) {
    (void)state;
    ollama_request r =
        read_ok(OLLAMA_CHAT,
                "{\"MODEL\":\"m\",\"Messages\":[{\"Role\":\"USER\",\"CONTENT\":\"x\"}],\"Stream\":false}");
    assert_false(r.stream);
    char *text = json_dumps(r.request->messages, JSON_COMPACT);
    assert_string_equal(text, "[{\"role\":\"user\",\"content\":\"x\"}]");
    free(text);
    ollama_request_release(&r);
}

static void null_is_absent_and_the_unknown_is_ignored(void **state) {
    (void)state;
    ollama_request r = read_ok(
        OLLAMA_CHAT, "{\"model\":\"m\",\"messages\":null,\"stream\":null,\"options\":null,\"think\":null,"
                     "\"format\":null,\"keep_alive\":null,\"tools\":null,\"novelty\":{\"x\":[]}}");
    assert_true(r.stream && r.empty);
    assert_int_equal(r.request->thinking, -1);
    assert_true(r.request->keep_alive_ns == LM_KEEP_ALIVE_DEFAULT);
    ollama_request_release(&r);
    r = read_ok(OLLAMA_CHAT, "null");
    assert_string_equal(r.model, "");
    ollama_request_release(&r);
}

static void tool_calls_and_their_results_are_kept_in_order(void **state) {
    (void)state;
    ollama_request r = read_ok(OLLAMA_CHAT, "{\"model\":\"m\",\"tools\":[{\"type\":\"function\"}],"
                                            "\"messages\":[{\"role\":\"assistant\",\"content\":\"\","
                                            "\"thinking\":\"hm\",\"tool_calls\":[{\"id\":\"call_1\","
                                            "\"function\":{\"index\":0,\"name\":\"f\",\"arguments\":"
                                            "{\"z\":1,\"a\":2}}}]},{\"role\":\"tool\",\"tool_name\":\"f\","
                                            "\"tool_call_id\":\"call_1\",\"content\":\"3\"}]}");
    char *text = json_dumps(r.request->messages, JSON_COMPACT);
    assert_string_equal(
        text,
        "[{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"hm\",\"tool_calls\":[{\"id\":\"call_1\","
        "\"function\":{\"name\":\"f\",\"arguments\":{\"z\":1,\"a\":2}}}]},"
        "{\"role\":\"tool\",\"content\":\"3\",\"tool_name\":\"f\",\"tool_call_id\":\"call_1\"}]");
    free(text);
    assert_int_equal(json_array_size(r.request->tools), 1);
    ollama_request_release(&r);
}

static void wrong_types_are_refused_in_gos_words(void **state) {
    (void)state;
    refused(OLLAMA_GENERATE, "", LM_INVALID, "missing request body");
    refused(OLLAMA_GENERATE, " \n", LM_INVALID, "missing request body");
    refused(OLLAMA_GENERATE, "{\"model\":", LM_INVALID, "invalid JSON");
    refused(OLLAMA_GENERATE, "[1]", LM_INVALID,
            "json: cannot unmarshal array into Go value of type api.GenerateRequest");
    refused(OLLAMA_GENERATE, "{\"model\":1}", LM_INVALID,
            "json: cannot unmarshal number into Go struct field GenerateRequest.model of type string");
    refused(OLLAMA_CHAT, "{\"model\":\"m\",\"stream\":\"no\"}", LM_INVALID,
            "json: cannot unmarshal string into Go struct field ChatRequest.stream of type bool");
    refused(OLLAMA_CHAT, "{\"model\":\"m\",\"messages\":\"hi\"}", LM_INVALID,
            "ChatRequest.messages of type []api.Message");
    refused(OLLAMA_CHAT, "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[]}]}", LM_INVALID,
            "struct field ChatRequest.messages.content of type string");
    refused(OLLAMA_CHAT,
            "{\"model\":\"m\",\"messages\":[{\"role\":\"a\",\"tool_calls\":[{\"function\":{\"arguments\":\"{}"
            "\"}}]}]}",
            LM_INVALID, "string into Go struct field ChatRequest.messages.tool_calls.function.arguments");
    refused(OLLAMA_CHAT, "{\"model\":\"m\",\"options\":7}", LM_INVALID, "map[string]interface {}");
    refused(OLLAMA_GENERATE, "{\"model\":\"m\",\"prompt\":\"a\\u0000b\",\"raw\":true}", LM_INVALID, "NUL");
    refused(OLLAMA_GENERATE, "{\"model\":\"m\",\"prompt\":\"p\",\"context\":[1,-2]}", LM_INVALID,
            "context must hold");
}

static void top_logprobs_have_a_range(void **state) {
    (void)state;
    ollama_request r = read_ok(OLLAMA_CHAT, "{\"model\":\"m\",\"logprobs\":true,\"top_logprobs\":20}");
    assert_true(r.request->logprobs);
    assert_int_equal(r.request->top_logprobs, 20);
    ollama_request_release(&r);
    refused(OLLAMA_CHAT, "{\"model\":\"m\",\"top_logprobs\":21}", LM_INVALID,
            "top_logprobs must be between 0 and 20");
    refused(OLLAMA_CHAT, "{\"model\":\"m\",\"top_logprobs\":-1}", LM_INVALID,
            "top_logprobs must be between 0 and 20");
}

/* ---- the parts with rules of their own */

static int64_t keep_alive(const char *json) {
    json_t *v = json_loads(json, JSON_DECODE_ANY, NULL);
    int64_t ns = 12345;
    lm_err err = {0};
    expect_ok(lm_keep_alive_read(v, &ns, &err), err);
    json_decref(v);
    return ns;
}

static void keep_alive_takes_seconds_and_durations(void **state) {
    (void)state;
    assert_int_equal(keep_alive("0"), 0);
    assert_int_equal(keep_alive("300"), INT64_C(300000000000));
    assert_int_equal(keep_alive("0.5"), 500000000);
    assert_int_equal(keep_alive("-1"), -1);
    assert_int_equal(keep_alive("1e300"), INT64_MAX);
    assert_int_equal(keep_alive("\"1h30m\""), INT64_C(5400000000000));
    assert_int_equal(keep_alive("\"-1m\""), -1);
    refused(OLLAMA_CHAT, "{\"model\":\"m\",\"keep_alive\":\"300\"}", LM_INVALID,
            "time: missing unit in duration \"300\"");
    refused(OLLAMA_CHAT, "{\"model\":\"m\",\"keep_alive\":{}}", LM_INVALID, "Unsupported type");
}

static void think_is_a_flag_or_a_level(void **state) {
    (void)state;
    ollama_request r = read_ok(OLLAMA_CHAT, "{\"model\":\"m\",\"think\":false}");
    assert_int_equal(r.request->thinking, 0);
    ollama_request_release(&r);
    r = read_ok(OLLAMA_CHAT, "{\"model\":\"m\",\"think\":\"low\"}");
    assert_int_equal(r.request->thinking, 1);
    assert_string_equal(r.request->think_level, "low");
    ollama_request_release(&r);
    refused(OLLAMA_CHAT, "{\"model\":\"m\",\"think\":\"deep\"}", LM_INVALID, "invalid think value: \"deep\"");
    refused(OLLAMA_CHAT, "{\"model\":\"m\",\"think\":3}", LM_INVALID, "think must be a boolean or string");
}

static void format_is_json_or_a_schema(void **state) {
    (void)state;
    ollama_request r = read_ok(OLLAMA_CHAT, "{\"model\":\"m\",\"format\":\"json\"}");
    assert_true(r.request->constrained);
    assert_null(r.request->schema);
    ollama_request_release(&r);
    r = read_ok(OLLAMA_CHAT, "{\"model\":\"m\",\"format\":{\"type\":\"object\",\"properties\":{}}}");
    assert_string_equal(r.request->schema, "{\"type\":\"object\",\"properties\":{}}");
    ollama_request_release(&r);
    r = read_ok(OLLAMA_CHAT, "{\"model\":\"m\",\"format\":\"\"}");
    assert_false(r.request->constrained);
    ollama_request_release(&r);
    refused(OLLAMA_CHAT, "{\"model\":\"m\",\"format\":\"xml\"}", LM_INVALID,
            "invalid format: \"xml\"; expected \"json\" or a valid JSON Schema object");
}

/* Makers who say nothing. */
static const lm_text_sampling silent = {NAN, NAN, NAN, NAN, NAN, NAN};

static void options_are_typed_and_others_ignored(void **state) {
    (void)state;
    ollama_request r = read_ok(
        OLLAMA_CHAT, "{\"model\":\"m\",\"options\":{\"num_ctx\":1,\"num_predict\":7.9,\"temperature\":1,"
                     "\"top_k\":1e12,\"seed\":9007199254740993,\"stop\":[\"a\",\"\",\"b\"],\"mirostat\":2,"
                     "\"tfs_z\":\"x\",\"num_gpu\":99,\"use_mmap\":true,\"min_p\":null}}");
    lm_err err = {0};
    expect_ok(ollama_request_options(&r, &silent, &err), err);
    const lm_options *o = &r.request->options;
    assert_int_equal(o->num_ctx, 4);
    assert_int_equal(o->num_predict, 7);
    assert_true(o->temperature == 1.0f);
    assert_int_equal(o->top_k, INT32_MAX);
    assert_true(o->seed == INT64_C(9007199254740993));
    assert_int_equal(r.request->n_stops, 2);
    assert_string_equal(r.request->stops[1], "b");
    ollama_request_release(&r);
}

static void a_wrong_option_is_told_late_and_as_500(void **state) {
    (void)state;
    const char *const cases[][2] = {
        {"{\"num_ctx\":\"8\"}", "option \"num_ctx\" must be of type integer"},
        {"{\"temperature\":\"hot\"}", "option \"temperature\" must be of type float32"},
        {"{\"stop\":\"x\"}", "option \"stop\" must be of type array"},
        {"{\"stop\":[1]}", "option \"stop\" must be of an array of strings"},
        {"{\"use_mmap\":1}", "option \"use_mmap\" must be of type boolean"},
        {"{\"num_thread\":[]}", "option \"num_thread\" must be of type integer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[200];
        snprintf(body, sizeof body, "{\"model\":\"m\",\"options\":%s}", cases[i][0]);
        ollama_request r = read_ok(OLLAMA_CHAT, body);
        lm_err err = {0};
        assert_int_equal(lm_status_http(ollama_request_options(&r, &silent, &err)), 500);
        assert_string_equal(err.text, cases[i][1]);
        ollama_request_release(&r);
    }
}

static void requests_count_more_than_makers_and_makers_more_than_defaults(void **state) {
    (void)state;
    lm_err err = {0};
    lm_text_sampling makers = {.temperature = 0.6,
                               .top_k = 20,
                               .top_p = NAN,
                               .min_p = 0.05,
                               .typical_p = NAN,
                               .repetition_penalty = 1.1};
    ollama_request r = read_ok(OLLAMA_CHAT, "{\"model\":\"m\",\"options\":{\"top_k\":7,\"seed\":3}}");
    expect_ok(ollama_request_options(&r, &makers, &err), err);
    const lm_options *o = &r.request->options;
    assert_true(o->temperature == 0.6f && o->min_p == 0.05f && o->repeat_penalty == 1.1f);
    assert_true(o->top_k == 7 && o->seed == 3);
    assert_true(o->top_p == 0.9f && o->typical_p == 1.0f && o->repeat_last_n == 64);
    ollama_request_release(&r);
    r = read_ok(OLLAMA_GENERATE, "{\"model\":\"m\"}");
    expect_ok(ollama_request_options(&r, &silent, &err), err);
    assert_true(r.request->options.temperature == 0.8f && r.request->options.top_k == 40);
    ollama_request_release(&r);
}

/* Clients cut texts in the middle of a character; Go's decoder puts U+FFFD there, so we do. */
static void broken_characters_become_replacements(void **state) {
    (void)state;
    const char *const cases[][2] = {
        {"a\\ud83d b", "a\xef\xbf\xbd b"},
        {"\\ude00", "\xef\xbf\xbd"},
        {"\\ud83d\\ud83d\\ude00", "\xef\xbf\xbd\xf0\x9f\x98\x80"},
        {"\\ud83d\\u0041", "\xef\xbf\xbd"
                           "A"},
        {"\\\\ud83d", "\\ud83d"},
        {"\xc3\xa9\\ud83d", "\xc3\xa9\xef\xbf\xbd"},
        {"x\xff\xfey", "x\xef\xbf\xbd\xef\xbf\xbdy"},
        {"\xe2\x82", "\xef\xbf\xbd\xef\xbf\xbd"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char body[200];
        snprintf(body, sizeof body, "{\"model\":\"m\",\"raw\":true,\"prompt\":\"%s\"}", cases[i][0]);
        ollama_request r = read_ok(OLLAMA_GENERATE, body);
        assert_string_equal(r.request->prompt, cases[i][1]);
        ollama_request_release(&r);
    }
    refused(OLLAMA_GENERATE, "{\"model\":\"m\",\"prompt\":\"\\ud83d", LM_INVALID, "JSON");
}

static void a_seed_of_64_random_bits_is_a_seed(void **state) {
    (void)state;
    lm_err err = {0};
    ollama_request r =
        read_ok(OLLAMA_GENERATE, "{\"model\":\"m\",\"prompt\":\"12345678901234567890\",\"raw\":true,"
                                 "\"options\":{\"seed\":18446744073709551615,\"top_p\":"
                                 "0.50000000000000000000000,\"top_k\":3}}");
    expect_ok(ollama_request_options(&r, &silent, &err), err);
    assert_true(r.request->options.seed == INT64_MAX && r.request->options.top_p == 0.5f);
    assert_string_equal(r.request->prompt, "12345678901234567890");
    ollama_request_release(&r);
}

static void parameters_are_counted_as_ollama_counts_them(void **state) {
    (void)state;
    const struct {
        uint64_t n;
        const char *text;
    } cases[] = {{134515008, "134.52M"}, {7615616512, "7.6B"}, {8000000000, "8B"},
                 {494000000, "494M"},    {26155000, "26.16M"}, {999, "999"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[16];
        lm_facts_human(cases[i].n, out);
        assert_string_equal(out, cases[i].text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_becomes_a_chat_with_its_system),
        cmocka_unit_test(base64_is_refused_where_go_stops_reading_it),
        cmocka_unit_test(images_have_to_be_base64),
        cmocka_unit_test(raw_and_suffix_choose_their_kinds),
        cmocka_unit_test(field_names_match_without_case),
        cmocka_unit_test(null_is_absent_and_the_unknown_is_ignored),
        cmocka_unit_test(tool_calls_and_their_results_are_kept_in_order),
        cmocka_unit_test(wrong_types_are_refused_in_gos_words),
        cmocka_unit_test(top_logprobs_have_a_range),
        cmocka_unit_test(keep_alive_takes_seconds_and_durations),
        cmocka_unit_test(think_is_a_flag_or_a_level),
        cmocka_unit_test(format_is_json_or_a_schema),
        cmocka_unit_test(options_are_typed_and_others_ignored),
        cmocka_unit_test(a_wrong_option_is_told_late_and_as_500),
        cmocka_unit_test(requests_count_more_than_makers_and_makers_more_than_defaults),
        cmocka_unit_test(broken_characters_become_replacements),
        cmocka_unit_test(a_seed_of_64_random_bits_is_a_seed),
        cmocka_unit_test(parameters_are_counted_as_ollama_counts_them),
    };
    return cmocka_run_group_tests_name("api.request", tests, NULL, NULL);
}
