/* The facts about a model's text say what opening it says, and hostile files only cost an error. */
#include "base/test.h"

#include <math.h>

#include "text/golden.h"
#include "text/text.h"

static void put(const char *name, const char *text) {
    put_file(test_dir(), name, lm_str_of(text));
}

static lm_text_facts read_facts(void) {
    lm_err err = {0};
    lm_text_facts f = {0};
    expect_ok(lm_text_facts_read(&f, test_dir(), &err), err);
    return f;
}

static bool ends_with(const lm_text_facts *f, const char *token) {
    for (uint32_t i = 0; i < f->n_ends; i++)
        if (!strcmp(f->ends[i], token)) return true;
    return false;
}

static void expect_same(void) {
    lm_err err = {0};
    lm_text *t = NULL;
    lm_text_facts f = read_facts();
    expect_ok(lm_text_open(&t, test_dir(), &err), err);
    assert_int_equal(f.tools, t->tools);
    assert_int_equal(f.thinks, t->thinks);
    assert_int_equal(f.inserts, t->inserts);
    assert_int_equal(f.channels, t->channels);
    assert_int_equal(f.chat.len > 0, t->chat != NULL);
    if (t->chat) assert_true(lm_str_eq(lm_buf_view(&f.chat), lm_template_source(t->chat)));
    for (uint32_t i = 0; i < f.n_ends; i++)
        assert_true(lm_text_is_stop(t, lm_tokenizer_id(t->tokenizer, lm_str_of(f.ends[i]))));
    uint32_t written = 0; /* ends that are ordinary tokens have no text of their own */
    for (uint32_t i = 0; i < t->n_stop_ids; i++)
        written += lm_tokenizer_is_special(t->tokenizer, t->stop_ids[i]);
    assert_int_equal(f.n_ends, written);
    lm_text_close(t);
    lm_text_facts_release(&f);
}

static void facts_are_what_opening_finds(void **state) {
    (void)state;
    static const char *const tokenizers[] = {"byte_level", "byte_fallback", "metaspace", "whole_words",
                                             "word_end"};
    static const char *const templates[] = {"plain",
                                            "{{ tools }}",
                                            "{% if enable_thinking %}x{% endif %}",
                                            "<think>",
                                            "{{ m.reasoning_content }}",
                                            "{{ custom_tools }}[THINK]"};
    for (size_t i = 0; i < sizeof tokenizers / sizeof *tokenizers; i++) {
        char name[64];
        put_golden(test_dir(), tokenizers[i]);
        snprintf(name, sizeof name, "%s/chat_template.jinja", test_dir());
        remove(name);
        expect_same();
        for (size_t k = 0; k < sizeof templates / sizeof *templates; k++) {
            put("chat_template.jinja", templates[k]);
            expect_same();
        }
    }
}

static void ends_have_their_texts(void **state) {
    (void)state;
    put_golden(test_dir(), "byte_level");
    put("generation_config.json", "{\"eos_token_id\":[480,483,7,-1,99999999]}");
    put("config.json", "{\"eos_token_id\":480}");
    put("tokenizer_config.json", "{\"eos_token\":\"<|im_end|>\"}");
    lm_text_facts f = read_facts();
    assert_int_equal(f.n_ends, 3);
    assert_true(ends_with(&f, "<|endoftext|>") && ends_with(&f, "<|im_end|>") && ends_with(&f, "<think>"));
    lm_text_facts_release(&f);
}

static void sampling_is_what_the_makers_say(void **state) {
    (void)state;
    put_golden(test_dir(), "byte_level");
    put("generation_config.json", "{\"do_sample\":true,\"temperature\":0.6,\"top_k\":20,\"top_p\":0.95,"
                                  "\"repetition_penalty\":1.05,\"min_p\":null}");
    lm_text_facts f = read_facts();
    assert_true(f.sampling.temperature == 0.6 && f.sampling.top_k == 20 && f.sampling.top_p == 0.95);
    assert_true(f.sampling.repetition_penalty == 1.05);
    assert_true(isnan(f.sampling.min_p) && isnan(f.sampling.typical_p));
    lm_text_facts_release(&f);

    static const char *const nothing[] = {
        "{}", "{\"do_sample\":false,\"temperature\":0.6,\"top_p\":0.9}",
        "{\"temperature\":-1,\"top_p\":2,\"top_k\":\"40\",\"repetition_penalty\":0}"};
    for (size_t i = 0; i < sizeof nothing / sizeof *nothing; i++) {
        put("generation_config.json", nothing[i]);
        f = read_facts();
        assert_true(isnan(f.sampling.temperature) && isnan(f.sampling.top_p) && isnan(f.sampling.top_k));
        assert_true(isnan(f.sampling.repetition_penalty));
        lm_text_facts_release(&f);
    }
}

/* Words of the vocabulary, of strings or of inner objects are no added tokens. */
static void only_the_list_of_added_tokens_counts(void **state) {
    (void)state;
    static const char *const files[] = {
        "{\"a\":\"\\\"added_tokens\\\":[]\",\"model\":{\"added_tokens\":[{\"id\":1,\"content\":\"<think>\"}],"
        "\"vocab\":{\"<think>\":1}}}",
        "[{\"added_tokens\":[{\"id\":1,\"content\":\"<think>\"}]}]",
        "{\"added_tokens\":\"<think>\"}",
        "{\"added_tokens\":[1,null,{},{\"content\":7},{\"id\":1}]}",
        "{\"added_tokens\":[{\"id\":1,\"content\":\"<think>\\u0000\"}]}",
        "{\"added_tokens\"",
        "{\"added_tokens\":",
        "{\"x\":1 \"added_tokens\":[{\"id\":1,\"content\":\"<think>\"}]}",
        "{\"x\\",
        "{",
        "",
        "}",
    };
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        put("tokenizer.json", files[i]);
        lm_text_facts f = read_facts();
        assert_false(f.thinks);
        assert_int_equal(f.n_ends, 0);
        lm_text_facts_release(&f);
    }
    put("tokenizer.json",
        " {\n \"v\" : [ { \"}\" : \"]\\\\\" } ] , \"added_tokens\" :\t[ {\"id\": 1,\"content\": "
        "\"<think>\"} ] , \"rest\"");
    lm_text_facts f = read_facts();
    assert_true(f.thinks);
    lm_text_facts_release(&f);
}

static void damaged_files_are_named(void **state) {
    (void)state;
    lm_err err = {0};
    lm_text_facts f = {0};
    put("tokenizer.json", "{\"added_tokens\":[{]}");
    expect_fail(lm_text_facts_read(&f, test_dir(), &err), LM_CORRUPT, err, "added_tokens");
    put_golden(test_dir(), "byte_level");
    put("generation_config.json", "{");
    expect_fail(lm_text_facts_read(&f, test_dir(), &err), LM_CORRUPT, err, "generation_config.json");
    put("generation_config.json", "{}");
    put("chat_template.jinja", "{% if %}");
    expect_fail(lm_text_facts_read(&f, test_dir(), &err), LM_CORRUPT, err, "chat_template.jinja: ");
    expect_fail(lm_text_facts_read(&f, "/nonexistent", &err), LM_NOT_FOUND, err, "tokenizer.json");
    assert_null(f.chat.ptr);
}

#define IN_A_DIRECTORY(test) cmocka_unit_test_setup_teardown(test, make_test_dir, remove_test_dir)

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_A_DIRECTORY(facts_are_what_opening_finds),    IN_A_DIRECTORY(ends_have_their_texts),
        IN_A_DIRECTORY(sampling_is_what_the_makers_say), IN_A_DIRECTORY(only_the_list_of_added_tokens_counts),
        IN_A_DIRECTORY(damaged_files_are_named),
    };
    return cmocka_run_group_tests_name("text.facts", tests, NULL, NULL);
}
