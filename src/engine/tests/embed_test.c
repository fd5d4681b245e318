/* embed_test.c - vectors: of one text and of many, beside answers, and what a fault or a hang-up costs. */
#include <math.h>

#include "engine/tests/fake.h"

static heard h, other;

static void expect_vector(const heard *got, uint32_t i, const float *want, uint32_t n) {
    assert_int_equal(got->vector_width, n);
    assert_true(i < got->n_vectors);
    for (uint32_t k = 0; k < n; k++) assert_true(fabsf(got->vectors[i * n + k] - want[k]) < 1e-6f);
}

static void expect_last(const heard *got, uint32_t i, const char *text) {
    float want[FAKE_WIDTH];
    fake_state(text, (uint32_t)strlen(text), want);
    expect_vector(got, i, want, FAKE_WIDTH);
}

static void mean_of(const char *text, float out[FAKE_WIDTH]) {
    uint32_t n = (uint32_t)strlen(text);
    double sum[FAKE_WIDTH] = {0};
    for (uint32_t t = 1; t <= n; t++) {
        float one[FAKE_WIDTH];
        fake_state(text, t, one);
        for (int k = 0; k < FAKE_WIDTH; k++) sum[k] += (double)one[k];
    }
    for (int k = 0; k < FAKE_WIDTH; k++) out[k] = (float)(sum[k] / n);
}

static void every_text_gets_its_vector_in_order(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(2);
    ask(e, embed_request("first|second text|x|first|"), &h);
    assert_int_equal(h.status, LM_OK);
    assert_string_equal(h.order, "LD");
    assert_int_equal(h.n_vectors, 4);
    expect_last(&h, 0, "first");
    expect_last(&h, 1, "second text");
    expect_last(&h, 2, "x");
    expect_last(&h, 3, "first");
    assert_int_equal(h.metrics.n_prompt, 5 + 11 + 1 + 5);
    assert_int_equal(h.metrics.n_eval, 0);
    assert_int_equal(fake.n_steps, 1); /* all in one batch */
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_mean_is_over_every_token_and_cls_is_the_first(void **state) {
    (void)state;
    char text[200];
    float want[FAKE_WIDTH];
    memset(text, 'm', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    memcpy(text, "not all the same", 16);
    for (int cls = 0; cls < 2; cls++) {
        fake_reset();
        fake.pooling = cls ? LM_POOL_CLS : LM_POOL_MEAN;
        fake.max_batch = 32; /* the text is read in pieces */
        lm_engine *e = open_engine(2);
        char both[512];
        snprintf(both, sizeof both, "short|%s|", text);
        ask(e, embed_request(both), &h);
        assert_int_equal(h.status, LM_OK);
        if (cls)
            fake_state(text, 1, want);
        else
            mean_of(text, want);
        expect_vector(&h, 1, want, FAKE_WIDTH);
        assert_true(fake.n_steps > 5);
        lm_engine_close(e, 0);
    }
    assert_all_gone();
}

static void a_vector_is_cut_and_then_made_one_long(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(1);
    float want[FAKE_WIDTH];
    fake_state("text", 4, want);
    float length = sqrtf(want[0] * want[0] + want[1] * want[1] + want[2] * want[2]);
    for (int k = 0; k < 3; k++) want[k] /= length;
    lm_request *r = embed_request("text|");
    r->dimensions = 3;
    r->normalize = true;
    ask(e, r, &h);
    expect_vector(&h, 0, want, 3);
    r = embed_request("text|");
    r->dimensions = 1000; /* all there are */
    ask(e, r, &h);
    expect_last(&h, 0, "text");
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void what_is_too_long_loses_its_end_but_not_the_tokenizers(void **state) {
    (void)state;
    fake_reset();
    fake.ends = true;
    lm_engine *e = open_engine(1);
    lm_request *r = embed_request("0123456789|012|");
    r->options.num_ctx = 8;
    ask(e, r, &h);
    assert_int_equal(h.status, LM_OK);
    expect_last(&h, 0, "0123456$");
    expect_last(&h, 1, "012$");
    assert_int_equal(h.metrics.n_prompt, 12);
    r = embed_request("012|0123456789|");
    r->options.num_ctx = 8;
    r->truncate = false;
    ask(e, r, &h);
    assert_int_equal(h.status, LM_INVALID);
    assert_string_equal(h.error, "the input length exceeds the context length");
    lm_engine_close(e, 0);

    fake_reset();
    fake.embed_max = 5; /* the model's own limit */
    e = open_engine(1);
    ask(e, embed_request("0123456789|"), &h);
    expect_last(&h, 0, "01234");
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void tokens_are_taken_as_they_are(void **state) {
    (void)state;
    fake_reset();
    fake.ends = true;
    lm_engine *e = open_engine(1);
    for (int32_t last = 'c'; last <= FAKE_VOCAB; last += FAKE_VOCAB - 'c') {
        lm_request *r = lm_request_new();
        r->kind = LM_REQUEST_EMBED;
        r->n_inputs = 1;
        r->inputs = lm_alloc(sizeof *r->inputs);
        r->inputs[0] = (lm_input){.ids = lm_alloc(3 * sizeof(int32_t)), .n = 3};
        memcpy(r->inputs[0].ids, (int32_t[]){'a', 'b', last}, 3 * sizeof(int32_t));
        ask(e, r, &h);
        if (last == 'c')
            expect_last(&h, 0, "abc");
        else
            assert_int_equal(h.status, LM_INVALID);
    }
    ask(e, embed_request("|"), &h);
    assert_int_equal(h.status, LM_OK); /* '$' alone */
    lm_engine_close(e, 0);
    fake_reset();
    e = open_engine(1);
    ask(e, embed_request("|"), &h);
    assert_int_equal(h.status, LM_INVALID);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_model_that_gives_none_says_why(void **state) {
    (void)state;
    fake_reset();
    fake.no_embeddings = "it is too shy";
    lm_engine *e = open_engine(1);
    ask(e, embed_request("text|"), &h);
    assert_int_equal(h.status, LM_UNSUPPORTED);
    assert_string_equal(h.error, "\"m:latest\" does not support embeddings: it is too shy");
    lm_engine_close(e, 0);
    assert_all_gone();
}

#define INSTRUCTION "a long instruction that stands before every text: "

static void what_texts_begin_with_is_computed_once(void **state) {
    (void)state;
    fake_reset();
    fake.max_batch = 64;
    lm_engine *e = open_engine(2);
    ask(e, embed_request(INSTRUCTION "one|" INSTRUCTION "two|" INSTRUCTION "three|"), &h);
    expect_last(&h, 2, INSTRUCTION "three");
    uint32_t n = (uint32_t)strlen(INSTRUCTION);
    assert_true(h.metrics.n_cached >= n);
    uint32_t rows = fake.n_rows;
    ask(e, embed_request(INSTRUCTION "four|"), &h); /* the next request finds it, too */
    expect_last(&h, 0, INSTRUCTION "four");
    assert_true(fake.n_rows - rows < n);
    assert_true(h.metrics.n_prompt > n && h.metrics.n_cached >= n);
    lm_engine_close(e, 0);

    fake_reset();
    fake.pooling = LM_POOL_MEAN; /* needs every state */
    e = open_engine(2);
    ask(e, embed_request(INSTRUCTION "one|"), &h);
    ask(e, embed_request(INSTRUCTION "one|"), &h);
    assert_int_equal(h.metrics.n_cached, 0);
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void a_failed_step_costs_only_whose_fault_it_is(void **state) {
    (void)state;
    fake_reset();
    lm_engine *e = open_engine(2);
    atomic_store(&fake.fail_step, 1);
    ask(e, embed_request("one|two|three|"), &h);
    assert_int_equal(h.status, LM_OK); /* each alone */
    expect_last(&h, 1, "two");
    assert_int_equal(fake.n_steps, 4);
    atomic_store(&fake.fail_step, 1);
    ask(e, embed_request("one|"), &h);
    assert_int_equal(h.status, LM_INTERNAL);
    atomic_store(&fake.nan_at, 2);
    ask(e, embed_request("one|two|three|"), &h);
    assert_int_equal(h.status, LM_INTERNAL);
    assert_string_equal(h.error, "embedding contains NaN or Inf values");
    atomic_store(&fake.fail_seq_open, 2);
    ask(e, embed_request("something|new|here|"), &h);
    assert_int_equal(h.status, LM_OK); /* somebody's old keys and values were given up for it */
    atomic_store(&fake.fail_reserve, 2);
    ask(e, embed_request("something|else|here|"), &h);
    assert_int_equal(h.status, LM_INTERNAL);
    ask(e, embed_request("fine|"), &h);
    expect_last(&h, 0, "fine");
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void pages_that_are_short_make_it_slow_or_an_error(void **state) {
    (void)state;
    fake_reset();
    fake.n_pages = 3;
    lm_engine *e = open_engine(2);
    ask(e, embed_request("a text of more than sixteen tokens|another of more than sixteen|third|fourth|"),
        &h);
    assert_int_equal(h.status, LM_OK);
    expect_last(&h, 0, "a text of more than sixteen tokens");
    expect_last(&h, 3, "fourth");
    ask(e, embed_request("this text is longer than all of the three pages that there are|"), &h);
    assert_int_equal(h.status, LM_NO_MEMORY);
    ask(e, embed_request("a text|"), &h);
    expect_last(&h, 0, "a text");
    lm_engine_close(e, 0);
    assert_all_gone();
}

static void an_encoder_reads_texts_whole(void **state) {
    (void)state;
    fake_reset();
    fake.encoder = true;
    fake.pooling = LM_POOL_MEAN;
    fake.max_batch = 32;
    fake.ctx_train = 200;
    char text[180], both[1024];
    float want[FAKE_WIDTH];
    memset(text, 'w', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    lm_engine *e = open_engine(2);
    snprintf(both, sizeof both, "one|two|%s|%s|three|%s|four|", text, text, text);
    ask(e, embed_request(both), &h);
    assert_int_equal(h.status, LM_OK);
    mean_of(text, want);
    for (uint32_t i = 2; i < 6; i += i == 3 ? 2 : 1) expect_vector(&h, i, want, FAKE_WIDTH);
    mean_of("four", want);
    expect_vector(&h, 6, want, FAKE_WIDTH);
    assert_int_equal(fake.most_rows, 179);
    ask(e, raw_request("say>"), &h);
    assert_int_equal(h.status, LM_INVALID);
    assert_non_null(strstr(h.error, "does not support generate"));
    lm_engine_close(e, 0);

    fake_reset(); /* what is kept elsewhere for the next text is not, here */
    fake.encoder = true;
    e = open_engine(1);
    for (int i = 0; i < 2; i++) {
        ask(e, embed_request(INSTRUCTION "|" INSTRUCTION "|"), &h);
        expect_last(&h, 1, INSTRUCTION);
        assert_int_equal(h.metrics.n_cached, 0);
        assert_int_equal(fake.n_seqs_open, 0);
    }
    lm_engine_close(e, 0);
    assert_all_gone();
}

static lm_job *leaving;
static uint32_t leaves_at;
static gate known; /* open once `leaving` is */
static void leave(uint32_t n_step) {
    if (n_step != leaves_at) return;
    gate_pass(&known);
    lm_job_cancel(leaving);
}

static void a_client_who_leaves_stops_it_at_any_step(void **state) {
    (void)state;
    char texts[1024] = "";
    for (int i = 0; i < 12; i++)
        snprintf(texts + strlen(texts), sizeof texts - strlen(texts), "text number %d, of some length|", i);
    for (uint32_t at = 1; at <= 6; at++) {
        fake_reset();
        fake.max_batch = 32;
        lm_engine *e = open_engine(2);
        ask(e, embed_request("warm up|"), &h); /* loaded */
        leaves_at = fake.n_steps + at;
        gate_init(&known, false);
        fake.step_hook = leave;
        heard_init(&h);
        lm_model_ref ref = {.name = "m:latest", .dir = "/m/m:latest", .digest = "abc", .size = 1};
        lm_err err = {0};
        expect_ok(lm_engine_submit(e, &ref, embed_request(texts), heard_sink, &h, &leaving, &err), err);
        gate_open(&known);
        h.job = leaving;
        heard_wait(&h);
        assert_int_equal(h.status, LM_CANCELLED);
        fake.step_hook = NULL;
        ask(e, embed_request("still here|"), &h);
        expect_last(&h, 0, "still here");
        lm_engine_close(e, 0);
        assert_all_gone();
    }
}

static void answers_go_on_beside_it(void **state) {
    (void)state;
    for (int ahead = 0; ahead < 2; ahead++) {
        fake_reset();
        fake.ahead = ahead;
        fake.max_batch = 32;
        fake.script = "hello world, and more of it";
        lm_engine *e = open_engine(3);
        char texts[4096] = "";
        for (int i = 0; i < 40; i++)
            snprintf(texts + strlen(texts), sizeof texts - strlen(texts), "text number %d, of some length|",
                     i);
        static heard third;
        submit(e, embed_request(texts), &h);
        submit(e, raw_request("say>"), &other);
        submit(e, embed_request("one|two|"), &third);
        heard_wait(&third);
        heard_wait(&other);
        heard_wait(&h);
        assert_string_equal(other.text, "hello world, and more of it");
        expect_last(&third, 1, "two");
        assert_int_equal(h.n_vectors, 40);
        for (int i = 0; i < 40; i++) {
            char text[64];
            snprintf(text, sizeof text, "text number %d, of some length", i);
            expect_last(&h, (uint32_t)i, text);
        }
        lm_engine_close(e, 0);
        assert_all_gone();
    }
    fake.ahead = false;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_text_gets_its_vector_in_order),
        cmocka_unit_test(a_mean_is_over_every_token_and_cls_is_the_first),
        cmocka_unit_test(a_vector_is_cut_and_then_made_one_long),
        cmocka_unit_test(what_is_too_long_loses_its_end_but_not_the_tokenizers),
        cmocka_unit_test(tokens_are_taken_as_they_are),
        cmocka_unit_test(a_model_that_gives_none_says_why),
        cmocka_unit_test(what_texts_begin_with_is_computed_once),
        cmocka_unit_test(a_failed_step_costs_only_whose_fault_it_is),
        cmocka_unit_test(pages_that_are_short_make_it_slow_or_an_error),
        cmocka_unit_test(an_encoder_reads_texts_whole),
        cmocka_unit_test(a_client_who_leaves_stops_it_at_any_step),
        cmocka_unit_test(answers_go_on_beside_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
