/* prepare_test.c - how a prompt comes about and what happens to one that is too long. */
#include "engine/tests/fake.h"

static heard h;

static lm_request *shown(lm_request *r) {
    r->render_only = true;
    return r;
}

#define TALK                                                                                                 \
    "[{\"role\":\"system\",\"content\":\"be good\"},"                                                        \
    "{\"role\":\"user\",\"content\":\"first question\"},"                                                    \
    "{\"role\":\"assistant\",\"content\":\"first answer\"},"                                                 \
    "{\"role\":\"user\",\"content\":\"second question\"},"                                                   \
    "{\"role\":\"assistant\",\"content\":\"second answer\"},"                                                \
    "{\"role\":\"user\",\"content\":\"third\"}]"

static lm_request *talk(uint32_t num_ctx) {
    lm_request *r = chat_request(TALK);
    r->options.num_ctx = num_ctx;
    r->options.num_predict = 1;
    return r;
}

static void rendering_only_shows_the_prompt_and_computes_nothing(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    ask(e, shown(talk(0)), &h);
    assert_int_equal(h.status, LM_OK);
    assert_string_equal(
        h.text,
        "s:be good\nu:first question\na:first answer\nu:second question\na:second answer\nu:third\n>");
    lm_request *r = lm_request_new();
    r->kind = LM_REQUEST_INSERT;
    r->prompt = lm_strdup("before");
    r->suffix = lm_strdup("after");
    ask(e, shown(r), &h);
    assert_string_equal(h.text, "PbeforeSafter>");
    assert_int_equal(fake.n_steps, 0);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void counting_takes_all_of_a_prompt_and_computes_nothing(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    lm_request *r = talk(20); /* far too small for it */
    r->count_only = true;
    r->truncate = false;
    ask(e, r, &h);
    assert_int_equal(h.status, LM_OK);
    assert_int_equal(h.metrics.n_prompt, 85);
    assert_int_equal(h.metrics.n_eval, 0);
    assert_string_equal(h.text, "");
    assert_int_equal(fake.n_steps, 0);
    lm_engine_stats stats;
    lm_engine_get_stats(e, &stats);
    assert_int_equal(stats.n_prompt_tokens, 0);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_long_chat_loses_its_oldest_messages_but_not_the_system_nor_the_last(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    static const char *const expect[] = {
        "s:be good\nu:first question\na:first answer\nu:second question\na:second answer\nu:third\n>",
        "s:be good\na:first answer\nu:second question\na:second answer\nu:third\n>",
        "s:be good\nu:second question\na:second answer\nu:third\n>",
        "s:be good\na:second answer\nu:third\n>",
        "s:be good\nu:third\n>",
    };
    for (uint32_t limit = 100; limit >= strlen(expect[4]); limit--) {
        uint32_t want = 0;
        while (strlen(expect[want]) > limit) want++;
        ask(e, shown(talk(limit)), &h);
        assert_string_equal(h.text, expect[want]); /* as much as fits */
    }
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_tools_answer_is_not_torn_from_its_call(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    const char *messages = "[{\"role\":\"user\",\"content\":\"a long question that has to go away\"},"
                           "{\"role\":\"assistant\",\"content\":\"call\",\"tool_calls\":[{\"function\":{}}]},"
                           "{\"role\":\"tool\",\"content\":\"one\"},"
                           "{\"role\":\"tool\",\"content\":\"two\"}]";
    lm_request *r = chat_request(messages);
    r->options.num_ctx = 30;
    ask(e, shown(r), &h);
    assert_string_equal(h.text, "a:call\nt:one\nt:two\n>");
    r = chat_request(messages);
    r->options.num_ctx = 14; /* too small even for that: cut in the end, but by tokens */
    ask(e, shown(r), &h);
    assert_string_equal(h.text, "a:call\nt:one\nt:two\n>");
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_long_raw_prompt_keeps_its_beginning_and_its_end(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    lm_request *r = raw_request("0123456789abcdefghijklmnopqrstuvwxyz");
    r->options.num_ctx = 16;
    r->options.num_keep = 4;
    r->options.num_predict = 1;
    r->want_context = true;
    ask(e, r, &h);
    assert_int_equal(h.metrics.n_prompt, 16);
    const char *want = "0123opqrstuvwxyz";
    for (int i = 0; i < 16; i++) assert_int_equal(h.context[i], want[i]);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void prompts_that_may_not_be_cut_are_refused_in_ollamas_words(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    for (int kind = 0; kind < 2; kind++) {
        lm_request *r = kind ? talk(0) : raw_request("a prompt of more than twelve tokens");
        r->options.num_ctx = 12;
        r->truncate = false;
        ask(e, r, &h);
        assert_int_equal(h.status, LM_INVALID);
        assert_string_equal(h.error, "the input length exceeds the context length");
        r = kind ? talk(0) : raw_request("a prompt of more than twelve tokens");
        r->options.num_ctx = 12;
        r->shift = false;
        ask(e, r, &h);
        assert_int_equal(h.status, LM_INVALID);
        assert_non_null(
            strstr(h.error, "the prompt is longer than the context length currently available to the model"));
    }
    ask(e, raw_request(""), &h);
    assert_int_equal(h.status, LM_INVALID);
    assert_string_equal(h.error, "the prompt is empty");
    assert_int_equal(fake.n_steps, 0);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_request_has_ollamas_defaults(void **state) {
    (void)state;
    lm_request *r = lm_request_new();
    assert_int_equal(r->options.num_predict, -1);
    assert_int_equal(r->options.num_keep, 4);
    assert_int_equal(r->options.top_k, 40);
    assert_true(r->options.temperature == 0.8f && r->options.top_p == 0.9f &&
                r->options.repeat_penalty == 1.0f);
    assert_true(r->truncate && r->shift && r->thinking == -1);
    lm_request_free(r);
    lm_request_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rendering_only_shows_the_prompt_and_computes_nothing),
        cmocka_unit_test(counting_takes_all_of_a_prompt_and_computes_nothing),
        cmocka_unit_test(a_long_chat_loses_its_oldest_messages_but_not_the_system_nor_the_last),
        cmocka_unit_test(a_tools_answer_is_not_torn_from_its_call),
        cmocka_unit_test(a_long_raw_prompt_keeps_its_beginning_and_its_end),
        cmocka_unit_test(prompts_that_may_not_be_cut_are_refused_in_ollamas_words),
        cmocka_unit_test(a_request_has_ollamas_defaults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
