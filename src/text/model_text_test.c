/* What a model directory says, and the prompts that come of it. Directories are the tiny golden tokenizers
 * with other files written beside them. */
#include "base/test.h"

#include "base/json.h"
#include "text/golden.h"
#include "text/text.h"

static char *dir; /* of the running test */

static void put(const char *name, const char *text) {
    put_file(dir, name, lm_str_of(text));
}

/* An empty directory with one of the golden tokenizers in it. */
static void begin(const char *tokenizer) {
    static int n;
    char name[32];
    lm_err err = {0};
    snprintf(name, sizeof name, "m%d", n++);
    free(dir);
    dir = lm_path_join(test_dir(), name);
    expect_ok(lm_dir_make(dir, &err), err);
    put_golden(dir, tokenizer);
}

static lm_text *open_dir(void) {
    lm_err err = {0};
    lm_text *t = NULL;
    expect_ok(lm_text_open(&t, dir, &err), err);
    return t;
}

static int32_t id_of(const lm_text *t, const char *token) {
    return lm_tokenizer_id(t->tokenizer, lm_str_of(token));
}

static void a_tokenizer_alone_is_enough(void **state) {
    (void)state;
    begin("byte_level");
    lm_text *t = open_dir();
    assert_null(t->chat);
    assert_string_equal(t->bos, "");
    assert_int_equal(t->bos_id, -1);
    assert_false(t->tools);
    assert_true(t->inserts);
    assert_true(t->thinks);
    assert_false(t->channels);
    /* Known ends of a turn count without being named. */
    assert_true(lm_text_is_stop(t, id_of(t, "<|im_end|>")));
    assert_true(lm_text_is_stop(t, id_of(t, "<|endoftext|>")));
    assert_false(lm_text_is_stop(t, id_of(t, "<|im_start|>")));
    assert_false(lm_text_is_stop(t, -1));
    lm_text_close(t);
}

static void ends_come_from_every_file(void **state) {
    (void)state;
    begin("byte_fallback");
    put("tokenizer_config.json",
        "{\"bos_token\":{\"content\":\"<s>\",\"lstrip\":false},\"eos_token\":\"</s>\"}");
    put("generation_config.json", "{\"eos_token_id\":[7,9]}");
    put("config.json", "{\"eos_token_id\":8,\"text_config\":{\"eos_token_id\":[10,-1,99999999,\"x\",7]}}");
    lm_text *t = open_dir();
    assert_string_equal(t->bos, "<s>");
    assert_string_equal(t->eos, "</s>");
    assert_int_equal(t->bos_id, 1);
    assert_int_equal(t->n_stop_ids, 5);
    for (int32_t id = 7; id <= 10; id++) assert_true(lm_text_is_stop(t, id));
    assert_true(lm_text_is_stop(t, 2));
    assert_false(t->inserts);
    lm_text_close(t);
}

static void special_tokens_map_is_the_second_source(void **state) {
    (void)state;
    begin("byte_fallback");
    put("special_tokens_map.json", "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"}}");
    lm_text *t = open_dir();
    assert_string_equal(t->bos, "<s>");
    assert_true(lm_text_is_stop(t, 2));
    lm_text_close(t);
}

static void expect_template(const char *want) {
    lm_text *t = open_dir();
    assert_non_null(t->chat);
    assert_true(lm_str_eq(lm_template_source(t->chat), lm_str_of(want)));
    lm_text_close(t);
}

static void the_template_is_found_where_transformers_finds_it(void **state) {
    (void)state;
    begin("byte_level");
    put("tokenizer_config.json", "{\"chat_template\":\"one\"}");
    expect_template("one");
    put("tokenizer_config.json", "{\"chat_template\":[{\"name\":\"rag\",\"template\":\"r\"},{\"name\":"
                                 "\"default\",\"template\":\"two\"}]}");
    expect_template("two");
    put("chat_template.json", "{\"chat_template\":\"three\"}");
    expect_template("three");
    put("chat_template.jinja", "four");
    expect_template("four");
}

static void damaged_files_are_named(void **state) {
    (void)state;
    static const char *const files[] = {"tokenizer_config.json", "special_tokens_map.json",
                                        "generation_config.json", "config.json", "chat_template.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        lm_err err = {0};
        lm_text *t = NULL;
        begin("byte_level");
        put(files[i], "{\"a\":");
        expect_fail(lm_text_open(&t, dir, &err), LM_CORRUPT, err, files[i]);
        put(files[i], "[1]");
        expect_fail(lm_text_open(&t, dir, &err), LM_CORRUPT, err, files[i]);
        assert_null(t);
    }
    lm_err err = {0};
    lm_text *t = NULL;
    begin("byte_level");
    put("chat_template.jinja", "{% if %}");
    expect_fail(lm_text_open(&t, dir, &err), LM_CORRUPT, err, "chat_template.jinja: ");
    expect_fail(lm_text_open(&t, "/nonexistent", &err), LM_NOT_FOUND, err, "tokenizer.json");
}

static void odd_values_are_ignored(void **state) {
    (void)state;
    begin("byte_level");
    put("tokenizer_config.json", "{\"bos_token\":null,\"eos_token\":3,\"chat_template\":null}");
    put("generation_config.json", "{\"eos_token_id\":\"2\"}");
    put("config.json", "{\"eos_token_id\":1e300,\"text_config\":[]}");
    lm_text *t = open_dir();
    assert_string_equal(t->eos, "");
    assert_null(t->chat);
    lm_text_close(t);
}

/* ---- prompts ---------------------------------------------------------------------------------------------- */

/* Shows the whole context, so that the translation of messages can be seen. */
#define SHOW                                                                                                 \
    "{{ messages | tojson }}|{{ tools | tojson }}|{{ add_generation_prompt }}|{{ enable_thinking }}|{{ "     \
    "reasoning_effort }}"

static void expect_chat(const lm_text *t, const char *messages, const char *tools, int thinking,
                        const char *level, const char *want) {
    lm_err err = {0};
    lm_buf out;
    lm_buf_init(&out, 1 << 20);
    lm_buf_text(&out, "before:");
    expect_ok(
        lm_text_render_chat(t, lm_str_of(messages), lm_str_of(tools), thinking, lm_str_of(level), &out, &err),
        err);
    assert_int_equal(strncmp(out.ptr, "before:", 7), 0);
    assert_string_equal(out.ptr + 7, want);
    lm_buf_release(&out);
}

static void messages_are_translated(void **state) {
    (void)state;
    begin("byte_level");
    put("chat_template.jinja", SHOW);
    lm_text *t = open_dir();
    expect_chat(t, "[{\"role\":\"user\",\"content\":\"hi\"}]", "", -1, "",
                "[{\"role\": \"user\", \"content\": \"hi\"}]|null|True||");
    expect_chat(t, "[{\"role\":\"user\"}]", "[]", 1, "high",
                "[{\"role\": \"user\", \"content\": \"\"}]|null|True|True|high");
    expect_chat(t, "[]", "[{\"type\":\"function\"}]", 0, "", "[]|[{\"type\": \"function\"}]|True|False|");
    expect_chat(t, "[{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"hm\",\"tool_calls\":[]}]", "",
                -1, "",
                "[{\"role\": \"assistant\", \"content\": \"\", \"thinking\": \"hm\", \"reasoning_content\": "
                "\"hm\"}]|null|True||");
    lm_text_close(t);
}

static void calls_get_ids_and_answers_name_them(void **state) {
    (void)state;
    begin("byte_level");
    put("chat_template.jinja",
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c.type }} {{ c.id }} {{ c.function.name }} "
        "{{ c.function.arguments.a }};{% endfor %}{% if m.role == 'tool' %}{{ m.name }}={{ m.tool_call_id "
        "}};{% endif %}{% endfor %}");
    lm_text *t = open_dir();
    expect_chat(
        t,
        "[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}},{"
        "\"function\":{"
        "\"name\":\"g\",\"arguments\":\"{\\\"a\\\":2}\"}},{\"id\":\"given\",\"function\":{\"name\":\"h\"}}]},"
        "{\"role\":\"tool\",\"tool_name\":\"g\",\"content\":\"x\"},{\"role\":\"tool\",\"content\":\"y\"},"
        "{\"role\":\"tool\",\"name\":\"h\",\"content\":\"z\"},{\"role\":\"tool\",\"content\":\"too many\"}]",
        "", -1, "",
        "function call00000 f 1;function call00001 g 2;function given h ;g=call00001;=call00000;h=given;=;");
    lm_text_close(t);
}

static void a_last_assistant_message_is_continued(void **state) {
    (void)state;
    begin("byte_level");
    put("chat_template.jinja", "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}"
                               "{% if add_generation_prompt %}<assistant>{% endif %}");
    lm_text *t = open_dir();
    expect_chat(t, "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"so \"}]", "",
                -1, "", "<user>q</><assistant>so ");
    expect_chat(t, "[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"\"}]", "",
                -1, "", "<user>q</><assistant></><assistant>");
    lm_text_close(t);
    put("chat_template.jinja", "drops it");
    t = open_dir();
    lm_err err = {0};
    lm_buf out;
    lm_buf_init(&out, 100);
    expect_fail(lm_text_render_chat(t, LM_STR("[{\"role\":\"assistant\",\"content\":\"so\"}]"), LM_STR(""),
                                    -1, LM_STR(""), &out, &err),
                LM_UNSUPPORTED, err, "cannot continue");
    lm_buf_release(&out);
    lm_text_close(t);
}

static void without_a_template_texts_are_joined(void **state) {
    (void)state;
    begin("byte_level");
    lm_text *t = open_dir();
    expect_chat(t, "[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"U\"}]", "", -1,
                "", "S\n\nU");
    lm_text_close(t);
}

static void bad_messages_are_refused(void **state) {
    (void)state;
    begin("byte_level");
    put("chat_template.jinja", "{{ raise_exception('no') if messages|length > 1 }}x");
    lm_text *t = open_dir();
    lm_err err = {0};
    lm_buf out;
    lm_buf_init(&out, 100);
#define CHAT(messages, tools)                                                                                \
    lm_text_render_chat(t, LM_STR(messages), LM_STR(tools), -1, LM_STR(""), &out, &err)
    expect_fail(CHAT("{}", ""), LM_INVALID, err, "messages must be an array");
    expect_fail(CHAT("[", ""), LM_INVALID, err, "messages");
    expect_fail(CHAT("[]", "3"), LM_INVALID, err, "tools");
    expect_fail(CHAT("[{}]", ""), LM_INVALID, err, "role");
    expect_fail(CHAT("[7]", ""), LM_INVALID, err, "role");
    expect_fail(CHAT("[{\"role\":\"user\"},{\"role\":\"user\"}]", ""), LM_INVALID, err, "no");
    lm_buf_release(&out);
    lm_text_close(t);
}

static void the_middle_is_filled_in_the_models_own_form(void **state) {
    (void)state;
    lm_err err = {0};
    lm_buf out;
    lm_buf_init(&out, 1000);
    begin("byte_level");
    lm_text *t = open_dir();
    expect_ok(lm_text_render_insert(t, LM_STR("def f("), LM_STR("return 1"), &out, &err), err);
    assert_string_equal(out.ptr, "<|fim_prefix|>def f(<|fim_suffix|>return 1<|fim_middle|>");
    lm_text_close(t);
    begin("byte_fallback");
    t = open_dir();
    expect_fail(lm_text_render_insert(t, LM_STR("a"), LM_STR("b"), &out, &err), LM_UNSUPPORTED, err,
                "leave out the suffix");
    lm_text_close(t);
    lm_buf_release(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_tokenizer_alone_is_enough),
        cmocka_unit_test(ends_come_from_every_file),
        cmocka_unit_test(special_tokens_map_is_the_second_source),
        cmocka_unit_test(the_template_is_found_where_transformers_finds_it),
        cmocka_unit_test(damaged_files_are_named),
        cmocka_unit_test(odd_values_are_ignored),
        cmocka_unit_test(messages_are_translated),
        cmocka_unit_test(calls_get_ids_and_answers_name_them),
        cmocka_unit_test(a_last_assistant_message_is_continued),
        cmocka_unit_test(without_a_template_texts_are_joined),
        cmocka_unit_test(bad_messages_are_refused),
        cmocka_unit_test(the_middle_is_filled_in_the_models_own_form),
    };
    int failed = cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
    free(dir);
    return failed;
}
