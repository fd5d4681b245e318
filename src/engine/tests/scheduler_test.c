/* scheduler_test.c - what a request gets, alone and among others, and what a fault or a hang-up costs. */
#include "engine/tests/fake.h"

static heard h; /* large; one test at a time */

static void a_request_streams_its_text_and_ends_once(void **state) {
    (void)state;
    fake_reset();
    fake.script = "hello world";
    lm_engine *e = open_engine(1);
    ask(e, raw_request("say>"), &h);
    assert_int_equal(h.status, LM_OK);
    assert_string_equal(h.text, "hello world");
    assert_string_equal(h.order, "LTD");
    assert_int_equal(h.reason, LM_DONE_STOP);
    assert_int_equal(h.metrics.n_prompt, 4);
    assert_int_equal(h.metrics.n_eval,
                     12); /* the stop token is one that was predicted, as in llama.cpp's server */
    assert_true(h.metrics.total_ns >= h.metrics.prompt_ns + h.metrics.eval_ns);
    assert_true(h.metrics.first_ns > 0 && h.metrics.prompt_ns > 0);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void num_predict_bounds_the_answer(void **state) {
    (void)state;
    fake_reset();
    fake.script = "x\3";
    lm_engine *e = open_engine(1);
    for (int32_t n = 0; n < 5; n++) {
        lm_request *r = raw_request("say>");
        r->options.num_predict = n;
        ask(e, r, &h);
        assert_int_equal(h.status, LM_OK);
        assert_int_equal(h.reason, LM_DONE_LENGTH);
        assert_int_equal(strlen(h.text), n);
        assert_int_equal(h.metrics.n_eval, n);
    }
    lm_request *r = raw_request("say>");
    r->options.num_predict = -1; /* ten times the context */
    r->options.num_ctx = 16;
    ask(e, r, &h);
    assert_int_equal(h.reason, LM_DONE_LENGTH);
    assert_int_equal(strlen(h.text), 160);
    r = raw_request("say>");
    r->options.num_predict = -2; /* until it is full: 4 prompt tokens and one token that is never read */
    r->options.num_ctx = 16;
    ask(e, r, &h);
    assert_int_equal(h.reason, LM_DONE_LENGTH);
    assert_int_equal(strlen(h.text), 13);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void stop_strings_end_the_answer_and_are_never_shown(void **state) {
    (void)state;
    fake_reset();
    fake.script = "one two STOP three";
    lm_engine *e = open_engine(1);
    lm_request *r = raw_request("say>");
    r->n_stops = 2;
    r->stops = lm_alloc(2 * sizeof(char *));
    r->stops[0] = lm_strdup("never");
    r->stops[1] = lm_strdup("STOP");
    r->logprobs = true;
    r->top_logprobs = 3;
    ask(e, r, &h);
    assert_string_equal(h.text, "one two ");
    assert_int_equal(h.reason, LM_DONE_STOP);
    assert_string_equal(h.stop, "STOP");
    assert_int_equal(h.n_logprobs, 8); /* of what was shown, nothing of what was held back for good */
    for (int i = 0; i < 8; i++) assert_int_equal(h.logprob_ids[i], "one two "[i]);
    assert_true(h.top_ok);

    r = raw_request("say>"); /* what only looks like a stop string comes out in the end, with its tokens */
    fake.script = "one STO";
    r->n_stops = 1;
    r->stops = lm_alloc(sizeof(char *));
    r->stops[0] = lm_strdup("STOP");
    r->logprobs = true;
    ask(e, r, &h);
    assert_string_equal(h.text, "one STO");
    assert_string_equal(h.stop, "");
    assert_int_equal(h.n_logprobs, 7);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void thinking_and_tool_calls_are_events_of_their_own(void **state) {
    (void)state;
    fake_reset();
    fake.thinks = true;
    fake.script = "\1let me see\2the answer <tool>{\"a\":1}</tool>";
    lm_engine *e = open_engine(1);
    lm_request *r = chat_request("[{\"role\":\"user\",\"content\":\"hi\"}]");
    r->tools = json_loads("[{\"type\":\"odd\"}]", 0, NULL); /* has no grammar */
    r->logprobs = true;
    ask(e, r, &h);
    assert_int_equal(h.status, LM_OK);
    assert_string_equal(h.thinking, "let me see");
    assert_string_equal(h.text, "the answer ");
    assert_string_equal(h.tool, "{\"a\":1}");
    assert_string_equal(h.order, "LKTCD");
    assert_int_equal(h.metrics.n_prompt, strlen("TOOLS\nu:hi\n>"));

    r = chat_request("[{\"role\":\"user\",\"content\":\"hi\"}]");
    r->thinking = 0;
    ask(e, r, &h); /* nobody parses: it is shown as it is */
    assert_string_equal(h.thinking, "");
    assert_string_equal(h.text, "<think>let me see</think>the answer <tool>{\"a\":1}</tool>");
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_format_is_enforced_and_begins_after_the_thinking(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    lm_request *r = raw_request("json>");
    r->constrained = true;
    r->options.temperature = 0.8f;
    ask(e, r, &h);
    assert_int_equal(h.status, LM_OK);
    assert_int_equal(strlen(h.text), 5);
    assert_int_equal(strspn(h.text, "0123456789"), 5);
    assert_int_equal(h.reason, LM_DONE_STOP);

    r = raw_request("json>");
    r->constrained = true;
    r->schema = lm_strdup("bad");
    ask(e, r, &h);
    assert_int_equal(h.status, LM_INVALID);
    lm_engine_close(e, 0);

    fake_reset();
    fake.thinks = true;
    fake.script = "\1letters\2more letters";
    e = open_engine(1);
    r = chat_request("[{\"role\":\"user\",\"content\":\"hi\"}]");
    r->constrained = true;
    ask(e, r, &h);
    assert_int_equal(h.status, LM_OK);
    assert_string_equal(h.thinking, "letters");
    assert_int_equal(strlen(h.text), 5);
    assert_int_equal(strspn(h.text, "0123456789"), 5);

    fake.script = "no thinking at all"; /* then the format rules from the first token */
    r = chat_request("[{\"role\":\"user\",\"content\":\"hi\"}]");
    r->constrained = true;
    ask(e, r, &h);
    assert_string_equal(h.thinking, "");
    assert_int_equal(strspn(h.text, "0123456789"), 5);

    fake.script = "letters\2more"; /* the prompt itself ends inside a thinking block */
    r = raw_request("><think>");
    r->thinking = 1;
    r->constrained = true;
    fake.script = "<think>letters\2more";
    ask(e, r, &h);
    assert_string_equal(h.thinking, "letters");
    assert_int_equal(strspn(h.text, "0123456789"), 5);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_call_that_has_begun_is_kept_to_its_grammar(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    for (int stop = 0; stop < 2; stop++) {
        fake.script = stop ? "digits: <tool>1bcde</tool> and <tool>2ghij</tool> or 1 letter."
                           : "digits: <tool>abcde</tool> and <tool>fghij</tool> or 1 letter.";
        lm_request *r = chat_request("[{\"role\":\"user\",\"content\":\"hi\"}]");
        r->tools = json_loads("[{\"type\":\"function\"}]", 0, NULL);
        r->options.temperature = 0.8f;
        if (stop) { /* holds the tag back until the digit behind it is there, which then has to be looked at */
            r->n_stops = 1;
            r->stops = lm_alloc(sizeof(char *));
            r->stops[0] = lm_strdup("<tool>....");
        }
        ask(e, r, &h);
        assert_int_equal(h.status, LM_OK);
        assert_string_equal(h.text, "digits:  and  or 1 letter.");
        assert_string_equal(h.order, "LTCTCTD");
        assert_int_equal(strspn(h.tool, "0123456789"), 10); /* both calls' */
        assert_int_equal(strlen(h.tool), 10);
    }
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void what_a_grammar_rules_is_whole_when_the_tokens_run_out(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(2);
    uint32_t grown = 0, at_the_border = 0;
    for (int32_t n = 1; n < 40; n++)
        for (int seed = 0; seed < 6; seed++) {
            lm_request *r = raw_request("json>");
            r->constrained = true;
            r->schema = lm_strdup("grows");
            r->options.temperature = 3;
            r->options.top_k = 0;
            r->options.seed = 6 * n + seed;
            r->options.num_predict = n;
            r->logprobs = true;
            ask(e, r, &h);
            assert_int_equal(h.status, LM_OK);
            uint32_t nines = 0, len = (uint32_t)strlen(h.text);
            for (uint32_t i = 0; i < len; i++) nines += h.text[i] == '9';
            assert_true(h.metrics.n_eval <= (uint32_t)n);
            assert_int_equal(h.n_logprobs, len);
            if (n < 5) { /* there is no document of so few tokens */
                assert_int_equal(h.reason, LM_DONE_LENGTH);
                continue;
            }
            assert_int_equal(h.reason, LM_DONE_STOP);
            assert_int_equal(len, 5 + 3 * nines);
            grown += nines > 0;
            at_the_border += len + 3 > (uint32_t)n;
        }
    if (grown < 20 || at_the_border < 20) fail_msg("%u grown, %u at the border", grown, at_the_border);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void thinking_leaves_room_for_the_document(void **state) {
    (void)state;
    fake_reset();
    fake.thinks = true;
    fake.script = "\1hm\3";
    lm_engine *e = open_engine(1);
    for (int32_t n = 20; n < 30; n++) {
        lm_request *r = chat_request("[{\"role\":\"user\",\"content\":\"hi\"}]");
        r->constrained = true;
        r->options.num_predict = n;
        ask(e, r, &h);
        assert_int_equal(h.reason, LM_DONE_STOP);
        assert_int_equal(strlen(h.text), 5);
        assert_true(strlen(h.thinking) > 0);
    }
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void thinking_ends_with_its_budget(void **state) {
    (void)state;
    fake_reset();
    fake.thinks = true;
    const char *script = "\1let me see, and see again";
    lm_engine *e = open_engine(1);
    for (uint32_t budget = 1; budget < 15; budget++) {
        fake.script = script;
        lm_request *r = chat_request("[{\"role\":\"user\",\"content\":\"hi\"}]");
        r->think_budget = budget; /* the token that opens the block counts */
        ask(e, r, &h);
        assert_int_equal(h.status, LM_OK);
        assert_int_equal(strlen(h.thinking), budget - 1);
        assert_memory_equal(h.thinking, script + 1, budget - 1);
        assert_string_equal(h.text, script + budget + 1); /* the end took the place of one token */
    }
    fake.script = "\1so\2yes"; /* over before its budget is */
    lm_request *r = chat_request("[{\"role\":\"user\",\"content\":\"hi\"}]");
    r->think_budget = 4;
    ask(e, r, &h);
    assert_string_equal(h.thinking, "so");
    assert_string_equal(h.text, "yes");
    fake.script = "no thinking at all";
    r = chat_request("[{\"role\":\"user\",\"content\":\"hi\"}]");
    r->think_budget = 3;
    ask(e, r, &h);
    assert_string_equal(h.text, "no thinking at all");
    lm_engine_close(e, 0);
    assert_all_gone();
}

/* What comes after a shift depends on every token that is left, so this compares with a sequence that was
 * computed from nothing: the window as it should be, as a prompt of its own. */
static void a_full_context_is_shifted_exactly(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    lm_request *r = raw_request("abcdefghijkl");
    r->options.num_ctx = 32;
    r->options.num_keep = 4;
    r->options.num_predict =
        21 + 14; /* 12 + 20 fill the context, the next needs a shift; then 14 of the new window */
    ask(e, r, &h);
    assert_int_equal(h.status, LM_OK);
    char whole[256], window[256];
    snprintf(whole, sizeof(whole), "abcdefghijkl%.21s", h.text); /* 33 tokens: the last did not fit */
    /* 32 were there: 4 kept, 14 of the other 28 dropped, then the 33rd */
    snprintf(window, sizeof(window), "%.4s%s", whole, whole + 18);
    char rest[256];
    snprintf(rest, sizeof(rest), "%.200s", h.text + 21);
    r = raw_request(window);
    r->options.num_ctx = 64;
    r->options.num_predict = 14;
    lm_engine_close(e, 0);
    e = open_engine(1); /* nothing cached */
    ask(e, r, &h);
    assert_string_equal(h.text, rest);

    r = raw_request("abcdefghijkl");
    r->options.num_ctx = 32;
    r->shift = false;
    ask(e, r, &h);
    assert_int_equal(h.reason, LM_DONE_LENGTH);
    assert_int_equal(strlen(h.text), 21);
    lm_engine_close(e, 0);
    assert_all_gone();
}

/* A random mixture of prompts, some longer than a chunk. */
static lm_request *mixed_request(uint32_t i) {
    char prompt[2000];
    uint32_t n = i % 3 == 0 ? 700 + i * 37 : 5 + i * 3;
    for (uint32_t k = 0; k < n; k++) prompt[k] = (char)('a' + (k * (i + 3) + i) % 26);
    prompt[n] = 0;
    lm_request *r = raw_request(prompt);
    r->options.temperature = 1.0f;
    r->options.seed = 100 + i;
    r->options.num_ctx = 2048;
    r->options.num_predict = 20 + (int32_t)i;
    r->options.repeat_penalty = 1.1f;
    return r;
}

static void a_seed_gives_the_same_answer_alone_and_in_a_batch_of_eight(void **state) {
    (void)state;
    fake_reset();
    static heard alone[8], together[8];
    lm_engine *e = open_engine(1);
    for (uint32_t i = 0; i < 8; i++) ask(e, mixed_request(i), &alone[i]);
    lm_engine_close(e, 0);
    fake_reset();
    e = open_engine(8);
    for (uint32_t i = 0; i < 8; i++) submit(e, mixed_request(i), &together[i]);
    for (uint32_t i = 0; i < 8; i++) heard_wait(&together[i]);
    assert_true(fake.most_slices > 1); /* they did run together */
    for (uint32_t i = 0; i < 8; i++) {
        assert_int_equal(alone[i].status, LM_OK);
        assert_string_equal(alone[i].text, together[i].text);
        assert_int_equal(strlen(alone[i].text), 20 + i);
    }
    lm_engine_close(e, 0);
    assert_all_gone();
}

static gate at_step;
static uint32_t gated_step;

static void wait_at_step(uint32_t n) {
    if (n == gated_step) gate_pass(&at_step);
}

static void a_long_prompt_does_not_starve_a_running_answer(void **state) {
    (void)state;
    fake_reset();
    static heard a, b;
    char prompt[1500];
    memset(prompt, 'p', sizeof(prompt) - 1);
    prompt[sizeof(prompt) - 1] = 0;
    fake.step_hook = wait_at_step;
    gate_init(&at_step, false);
    gated_step = 3;
    lm_engine *e = open_engine(2);
    lm_request *r = raw_request("short");
    r->options.num_predict = 200;
    submit(e, r, &a);
    gate_await(&at_step, 1); /* it decodes */
    r = raw_request(prompt);
    r->options.num_ctx = 2048;
    r->options.num_predict = 1;
    lm_err err = {0};
    lm_model_ref ref = {.name = "m:latest", .dir = "/m/m:latest", .digest = "abc"};
    r->options.num_ctx = 0; /* the loaded context is 256: truncated to it */
    heard_init(&b);
    expect_ok(lm_engine_submit(e, &ref, r, heard_sink, &b, &b.job, &err), err);
    atomic_store(&fake.most_rows, 0);
    gate_open(&at_step);
    heard_wait(&b);
    assert_true(atomic_load(&fake.most_rows) <=
                257); /* never more of the prompt than one chunk beside a decoding row */
    heard_wait(&a);
    assert_int_equal(strlen(a.text), 200);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_chunk_takes_as_long_as_others_can_wait(void **state) {
    (void)state;
    assert_int_equal(lm_chunk_rows(0, 512, true), 64); /* not measured yet */
    assert_int_equal(lm_chunk_rows(1e3, 512, true), 256);
    assert_int_equal(lm_chunk_rows(2e6, 512, true), 64);
    assert_int_equal(lm_chunk_rows(1e9, 512, true), 16);
    assert_int_equal(lm_chunk_rows(1e3, 8, true), 8);
    assert_int_equal(lm_chunk_rows(0, 512, false), 128);
    assert_int_equal(lm_chunk_rows(1e3, 512, false), 512);
    assert_int_equal(lm_chunk_rows(5e6, 512, false), 128);
    assert_int_equal(lm_chunk_rows(1e9, 512, false), 64);
}

#ifdef LM_COUNT_ALLOCATIONS
/* The linker sends every allocation of the program through here. */
static atomic_uint n_allocations;
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void *__wrap_malloc(size_t n) {
    atomic_fetch_add(&n_allocations, 1);
    return __real_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size) {
    atomic_fetch_add(&n_allocations, 1);
    return __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n) {
    atomic_fetch_add(&n_allocations, 1);
    return __real_realloc(p, n);
}

static uint32_t allocations_at[16];
static void count_allocations(uint32_t n) {
    if (n < 16) allocations_at[n] = atomic_load(&n_allocations);
}

static void decoding_allocates_nothing(void **state) {
    (void)state;
    fake_reset();
    fake.thinks = true;
    fake.step_hook = count_allocations;
    lm_engine *e = open_engine(2);
    lm_request *r =
        raw_request("exactly sixteen>"); /* the fake's next page is for the first token, then none for 15 */
    r->options.temperature = 0.8f;
    r->options.repeat_penalty = 1.1f;
    r->logprobs = true;
    r->top_logprobs = 5;
    r->thinking = 1;
    r->options.num_predict = 16;
    r->n_stops = 1;
    r->stops = lm_alloc(sizeof(char *));
    r->stops[0] = lm_strdup("abc");
    r->options.seed = 3;
    ask(e, r, &h);
    assert_int_equal(h.status, LM_OK);
    assert_int_equal(h.metrics.n_eval, 16);
    assert_true(allocations_at[4] > 0);
    assert_int_equal(allocations_at[15], allocations_at[4]);
    lm_engine_close(e, 0);
    assert_all_gone();
}
#endif

static void a_conversation_computes_only_what_is_new(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    char talk[4000] = "system prompt of some length, always the same. first question>";
    char answers[6][64];
    for (int turn = 0; turn < 6; turn++) {
        uint32_t before = fake.n_rows, n_prompt = (uint32_t)strlen(talk);
        lm_request *r = raw_request(talk);
        r->options.num_ctx = 2000;
        r->options.num_predict = 30;
        ask(e, r, &h);
        assert_int_equal(h.metrics.n_prompt, n_prompt);
        if (turn == 0) {
            assert_int_equal(h.metrics.n_cached, 0);
        } else { /* all but the answer's last token, which was never read, and what was added */
            assert_int_equal(h.metrics.n_cached, n_prompt - (uint32_t)strlen("next question>") - 1);
        }
        assert_int_equal(fake.n_rows - before, n_prompt - h.metrics.n_cached + 29);
        snprintf(answers[turn], sizeof(answers[turn]), "%.60s", h.text);
        strcat(talk, h.text);
        strcat(talk, "next question>");
    }
    lm_engine_close(e, 0);
    /* The same without any cache: identical. */
    snprintf(talk, sizeof(talk), "system prompt of some length, always the same. first question>");
    for (int turn = 0; turn < 6; turn++) {
        e = open_engine(1);
        lm_request *r = raw_request(talk);
        r->options.num_ctx = 2000;
        r->options.num_predict = 30;
        ask(e, r, &h);
        assert_int_equal(h.metrics.n_cached, 0);
        assert_string_equal(h.text, answers[turn]);
        strcat(talk, h.text);
        strcat(talk, "next question>");
        lm_engine_close(e, 0);
    }
    assert_all_gone();
}

static void the_same_prompt_again_still_computes_its_last_token(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    char first[64];
    ask(e, raw_request("exactly this"), &h);
    snprintf(first, sizeof(first), "%.60s", h.text);
    for (int i = 0; i < 3; i++) {
        ask(e, raw_request("exactly this"), &h);
        assert_int_equal(h.metrics.n_cached, strlen("exactly this") - 1);
        assert_string_equal(h.text, first);
    }
    ask(e, raw_request("exactly"), &h); /* a part of what is there */
    assert_int_equal(h.metrics.n_cached, 6);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void two_conversations_share_their_beginning_and_keep_their_ends(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(2);
    const char *system =
        "a system prompt that is long enough to be worth sharing, more than any page of the cache: ";
    char a[400], b[400];
    snprintf(a, sizeof(a), "%sfirst user says something long>", system);
    snprintf(b, sizeof(b), "%ssecond user says another thing>", system);
    ask(e, raw_request(a), &h);
    ask(e, raw_request(b), &h);
    assert_int_equal(h.metrics.n_cached, strlen(system));
    assert_true(fake.n_forks > 0);
    ask(e, raw_request(a), &h); /* the first one's own end is still there */
    assert_int_equal(h.metrics.n_cached, strlen(a) - 1);
    ask(e, raw_request(b), &h);
    assert_int_equal(h.metrics.n_cached, strlen(b) - 1);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void idle_prefixes_give_way_when_pages_run_out(void **state) {
    (void)state;
    fake_reset();
    fake.n_pages = 12; /* 192 tokens */
    lm_engine *e = open_engine(2);
    for (int i = 0; i < 8; i++) {
        char prompt[160];
        memset(prompt, 'a' + i, 120);
        prompt[120] = 0;
        ask(e, raw_request(prompt), &h);
        assert_int_equal(h.status, LM_OK);
        assert_int_equal(strlen(h.text), 50);
    }
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void sequences_that_need_more_pages_than_there_are_fail_one_by_one(void **state) {
    (void)state;
    fake_reset();
    fake.n_pages = 12;
    lm_engine *e = open_engine(4);
    static heard many[4];
    for (int i = 0; i < 4; i++) {
        char prompt[160];
        memset(prompt, 'a' + i, 60);
        prompt[60] = 0;
        lm_request *r = raw_request(prompt);
        r->options.num_predict = 100;
        submit(e, r, &many[i]);
    }
    int served = 0;
    for (int i = 0; i < 4; i++) {
        heard_wait(&many[i]);
        if (many[i].status == LM_OK) {
            served++;
            assert_int_equal(strlen(many[i].text), 100);
        } else {
            assert_int_equal(many[i].status, LM_NO_MEMORY);
            assert_non_null(strstr(many[i].error, "num_ctx"));
        }
    }
    assert_true(served >= 1);
    lm_engine_close(e, 0);
    assert_all_gone();
}

/* ---- cancelling */

static uint32_t cancel_step;
static lm_job *cancel_job;

static void cancel_at_step(uint32_t n) {
    if (n == cancel_step) lm_job_cancel(cancel_job);
}

static void a_client_that_leaves_at_any_step_gives_everything_back(void **state) {
    (void)state;
    static heard other, third;
    uint32_t n = 1, total = 0;
    do {
        fake_reset();
        gate_init(&at_step, false);
        lm_engine *e = open_engine(2);
        char prompt[1200];
        memset(prompt, 'q', sizeof(prompt) - 1);
        prompt[sizeof(prompt) - 1] = 0;
        lm_request *r = raw_request(prompt);
        r->options.num_ctx = 4096;
        r->options.num_predict = 8;
        cancel_step = n;
        fake.load_hook = NULL;
        fake.step_hook = NULL;
        lm_request *load = lm_request_new();
        load->kind = LM_REQUEST_LOAD;
        load->options.num_ctx = 4096;
        ask(e, load, &third);
        fake.step_hook = cancel_at_step; /* nothing runs now */
        lm_err err = {0};
        lm_model_ref ref = {.name = "m:latest", .dir = "/m/m:latest", .digest = "abc"};
        heard_init(&h);
        pthread_mutex_lock(&h.lock); /* the LOADED event waits, and with it everything after */
        expect_ok(lm_engine_submit(e, &ref, r, heard_sink, &h, &h.job, &err), err);
        cancel_job = h.job;
        pthread_mutex_unlock(&h.lock);
        heard_wait(&h);
        total = fake.n_steps;
        if (h.status == LM_CANCELLED) {
            assert_int_equal(total, n); /* not one step more */
            assert_string_equal(h.error, "request canceled");
        } else {
            assert_int_equal(h.status, LM_OK);
        }
        fake.step_hook = NULL;
        ask(e, raw_request("and the next"), &other); /* the engine serves on */
        assert_int_equal(other.status, LM_OK);
        assert_int_equal(strlen(other.text), 50);
        lm_engine_stats stats;
        lm_engine_get_stats(e, &stats);
        assert_int_equal(stats.n_running + stats.n_waiting, 0);
        assert_int_equal(stats.n_cancelled, h.status == LM_CANCELLED);
        lm_engine_close(e, 0);
        assert_all_gone();
        n++;
    } while (h.status == LM_CANCELLED);
    assert_true(n > 10); /* 3 chunks and 8 tokens */
}

static gate at_load;

static void wait_at_load(void) {
    gate_pass(&at_load);
}

static void a_client_may_leave_while_its_model_loads(void **state) {
    (void)state;
    fake_reset();
    gate_init(&at_load, false);
    fake.load_hook = wait_at_load;
    lm_engine *e = open_engine(1);
    submit(e, raw_request("one"), &h);
    gate_await(&at_load, 1);
    lm_job_cancel(h.job);
    heard_wait(&h); /* at once: the load still stands at the gate */
    assert_int_equal(h.status, LM_CANCELLED);
    assert_string_equal(h.order, "E");
    gate_open(&at_load);
    ask(e, raw_request("two"), &h);
    assert_int_equal(h.status, LM_OK);
    assert_int_equal(fake.n_loads, 1);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_client_may_leave_the_queue(void **state) {
    (void)state;
    fake_reset();
    static heard first, queued[5];
    gate_init(&at_step, false);
    gated_step = 2;
    fake.step_hook = wait_at_step;
    lm_engine *e = open_engine(1);
    submit(e, raw_request("one"), &first);
    gate_await(&at_step, 1);
    for (int i = 0; i < 5; i++) submit(e, raw_request("queued"), &queued[i]);
    lm_job_cancel(queued[2].job);
    lm_job_cancel(queued[4].job);
    heard_wait(&queued[2]); /* while the step still stands at the gate */
    heard_wait(&queued[4]);
    assert_int_equal(queued[2].status, LM_CANCELLED);
    gate_open(&at_step);
    heard_wait(&first);
    for (int i = 0; i < 4; i++) {
        if (i != 2) heard_wait(&queued[i]);
        assert_int_equal(queued[i].status, i == 2 ? LM_CANCELLED : LM_OK);
    }
    lm_engine_close(e, 0);
    assert_all_gone();
}

/* ---- ahead */

/* When step n is handed over, the tokens of step n - 1 have not been waited for. */
static void one_ahead(uint32_t n) {
    LM_ASSERT(atomic_load(&fake.n_waits) == (n < 2 ? 0 : n - 2));
}

static void each_token_is_waited_for_once_while_the_next_step_is_on_its_way(void **state) {
    (void)state;
    fake_reset();
    if (!fake.ahead) skip();
    lm_engine *e = open_engine(2);
    fake.step_hook = one_ahead;
    ask(e, raw_request("x"), &h);
    assert_int_equal(h.metrics.n_eval, 50);
    assert_int_equal(fake.n_waits, 50);
    assert_int_equal(fake.n_flights, 50); /* that the 50th is the last was known before */
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void an_end_that_nobody_foresaw_wastes_one_row(void **state) {
    (void)state;
    fake_reset();
    if (!fake.ahead) skip();
    fake.script = "short";
    lm_engine *e = open_engine(2);
    ask(e, raw_request("first>"), &h);
    assert_string_equal(h.text, "short");
    assert_int_equal(fake.n_flights, 7); /* five letters, the end, and one beyond it */
    ask(e, raw_request("first>short and more>"), &h);
    assert_int_equal(h.metrics.n_cached, strlen("first>short")); /* the wasted row is not kept */
    lm_engine_close(e, 0);
    assert_all_gone();
}

/* ---- faults */

/* Strikes at the n-th call for every n until a run passes untouched; the engine must serve on each time. At
 * most `most` answers may fail, 0: it strikes before there are any. */
static void inject(atomic_int *fault, uint32_t most) {
    static heard many[3];
    bool struck = true;
    for (int n = 1; struck; n++) {
        fake_reset();
        atomic_store(fault, n);
        lm_engine *e = open_engine(3);
        for (uint32_t i = 0; i < 3; i++) {
            lm_request *r = mixed_request(i);
            r->options.num_predict = 6;
            submit(e, r, &many[i]);
        }
        uint32_t failed = 0;
        for (uint32_t i = 0; i < 3; i++) {
            heard_wait(&many[i]);
            if (many[i].status == LM_OK) {
                assert_int_equal(strlen(many[i].text), 6);
            } else {
                failed++;
                assert_true(strlen(many[i].error) > 0);
            }
        }
        struck = atomic_load(fault) <= 0;
        if (!struck || most) assert_true(failed <= (struck ? most : 0));
        atomic_store(fault, 0);
        atomic_store(&fake.busy_for, 0);
        ask(e, raw_request("next"), &h);
        assert_int_equal(h.status, LM_OK);
        assert_int_equal(strlen(h.text), 50);
        lm_engine_close(e, 0);
        assert_all_gone();
        LM_ASSERT(n < 200);
    }
}

static void a_failing_step_costs_nobody_more_than_its_own_request(void **state) {
    (void)state;
    inject(&fake.fail_step, 1);
}

/* What the device breaks off takes the answers that were in that step with it, and nothing else. */
static void a_failing_flight_costs_the_answers_in_it(void **state) {
    (void)state;
    if (!fake.ahead) skip();
    inject(&fake.fail_wait, UINT32_MAX);
    inject(&fake.fail_pick, UINT32_MAX);
}

static void a_failing_load_costs_only_those_who_waited_for_it(void **state) {
    (void)state;
    inject(&fake.fail_load, 0);
}

static void a_failing_tokenizer_costs_only_those_who_waited_for_it(void **state) {
    (void)state;
    inject(&fake.fail_text, 0);
}

static void busy_pages_cost_no_answer_or_one(void **state) {
    (void)state;
    inject(&fake.busy_reserve, 0);
}

static void a_failing_reserve_costs_one_answer(void **state) {
    (void)state;
    inject(&fake.fail_reserve, 1);
}

static void a_failing_sequence_costs_one_answer(void **state) {
    (void)state;
    inject(&fake.fail_seq_open, 1);
}

static void a_row_without_numbers_costs_one_answer(void **state) {
    (void)state;
    inject(&fake.nan_at, 1);
}

static void a_failing_fork_costs_nothing(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(2);
    ask(e, raw_request("a common beginning and then this end, long enough"), &h);
    atomic_store(&fake.fail_fork, 1);
    ask(e, raw_request("a common beginning and then another end, also long"), &h);
    assert_int_equal(h.status, LM_OK);
    assert_int_equal(h.metrics.n_cached, strlen("a common beginning and then "));
    assert_int_equal(fake.n_forks, 0);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void the_context_of_an_answer_continues_it(void **state) {
    (void)state;
    fake_reset();
    fake.bos = true;
    lm_engine *e = open_engine(1);
    lm_request *r = raw_request("begin>");
    r->want_context = true;
    ask(e, r, &h);
    assert_int_equal(h.n_context, 1 + 6 + 49 + 1); /* BOS, prompt, answer */
    assert_int_equal(h.context[0], FAKE_BOS);
    assert_int_equal(h.context[7], h.text[0]);
    r = raw_request("more>");
    r->n_context = h.n_context;
    r->context = lm_alloc(h.n_context * sizeof(int32_t));
    memcpy(r->context, h.context, h.n_context * sizeof(int32_t));
    ask(e, r, &h);
    assert_int_equal(h.metrics.n_prompt, 57 + 5); /* no second BOS */
    assert_int_equal(h.metrics.n_cached, 56);
    r = raw_request("more>");
    r->n_context = 1;
    r->context = lm_alloc(sizeof(int32_t));
    r->context[0] = 99999;
    ask(e, r, &h);
    assert_int_equal(h.status, LM_INVALID);
    assert_non_null(strstr(h.error, "99999"));
    lm_engine_close(e, 0);
    assert_all_gone();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_streams_its_text_and_ends_once),
        cmocka_unit_test(num_predict_bounds_the_answer),
        cmocka_unit_test(stop_strings_end_the_answer_and_are_never_shown),
        cmocka_unit_test(thinking_and_tool_calls_are_events_of_their_own),
        cmocka_unit_test(a_format_is_enforced_and_begins_after_the_thinking),
        cmocka_unit_test(a_call_that_has_begun_is_kept_to_its_grammar),
        cmocka_unit_test(what_a_grammar_rules_is_whole_when_the_tokens_run_out),
        cmocka_unit_test(thinking_leaves_room_for_the_document),
        cmocka_unit_test(thinking_ends_with_its_budget),
        cmocka_unit_test(a_full_context_is_shifted_exactly),
        cmocka_unit_test(a_seed_gives_the_same_answer_alone_and_in_a_batch_of_eight),
        cmocka_unit_test(a_long_prompt_does_not_starve_a_running_answer),
        cmocka_unit_test(a_chunk_takes_as_long_as_others_can_wait),
#ifdef LM_COUNT_ALLOCATIONS
        cmocka_unit_test(decoding_allocates_nothing),
#endif
        cmocka_unit_test(a_conversation_computes_only_what_is_new),
        cmocka_unit_test(the_same_prompt_again_still_computes_its_last_token),
        cmocka_unit_test(two_conversations_share_their_beginning_and_keep_their_ends),
        cmocka_unit_test(idle_prefixes_give_way_when_pages_run_out),
        cmocka_unit_test(sequences_that_need_more_pages_than_there_are_fail_one_by_one),
        cmocka_unit_test(a_client_that_leaves_at_any_step_gives_everything_back),
        cmocka_unit_test(a_client_may_leave_while_its_model_loads),
        cmocka_unit_test(a_client_may_leave_the_queue),
        cmocka_unit_test(each_token_is_waited_for_once_while_the_next_step_is_on_its_way),
        cmocka_unit_test(an_end_that_nobody_foresaw_wastes_one_row),
        cmocka_unit_test(a_failing_flight_costs_the_answers_in_it),
        cmocka_unit_test(a_failing_step_costs_nobody_more_than_its_own_request),
        cmocka_unit_test(a_failing_load_costs_only_those_who_waited_for_it),
        cmocka_unit_test(a_failing_tokenizer_costs_only_those_who_waited_for_it),
        cmocka_unit_test(busy_pages_cost_no_answer_or_one),
        cmocka_unit_test(a_failing_reserve_costs_one_answer),
        cmocka_unit_test(a_failing_sequence_costs_one_answer),
        cmocka_unit_test(a_row_without_numbers_costs_one_answer),
        cmocka_unit_test(a_failing_fork_costs_nothing),
        cmocka_unit_test(the_context_of_an_answer_continues_it),
    };
    /* Over a backend that computes at once, and over one that computes ahead. */
    int failed = cmocka_run_group_tests_name("at once", tests, NULL, NULL);
    fake.ahead = true;
    return failed + cmocka_run_group_tests_name("ahead", tests, NULL, NULL);
}
