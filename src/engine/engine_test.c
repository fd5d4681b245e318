/* engine_test.c - the engine over the real rooms: a tiny Llama with random weights, a real tokenizer and
 * template.
 *
 * Runs on the portable kernels, whose rows do not depend on what else is in the batch: what the engine does
 * with batches and prefixes must then not change a single character.
 */
#include <math.h>
#include <pthread.h>
#include <unistd.h>

#include "base/file.h"
#include "base/test.h"
#include "cpu/cpu.h"
#include "engine/engine.h"
#include "weights/safetensors_write.h"

enum { VOCAB = 490, WIDTH = 64, LAYERS = 2, HEADS = 4, KV_HEADS = 2, HEAD = 16, INNER = 128 };

/* ---- a model directory */

static char dir[64] = "/tmp/lm-engine-XXXXXX";

static float noise(void) {
    static uint64_t s = 1;
    s = s * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(s >> 40) / (1 << 24) - 0.5);
}

typedef struct shape {
    const char *name;
    uint64_t rows, cols; /* cols 0: a vector */
} shape;

static void write_weights(const char *path) {
    static const shape per_layer[] = {
        {"input_layernorm.weight", WIDTH, 0},
        {"self_attn.q_proj.weight", HEADS * HEAD, WIDTH},
        {"self_attn.k_proj.weight", KV_HEADS * HEAD, WIDTH},
        {"self_attn.v_proj.weight", KV_HEADS * HEAD, WIDTH},
        {"self_attn.o_proj.weight", WIDTH, HEADS * HEAD},
        {"post_attention_layernorm.weight", WIDTH, 0},
        {"mlp.gate_proj.weight", INNER, WIDTH},
        {"mlp.up_proj.weight", INNER, WIDTH},
        {"mlp.down_proj.weight", WIDTH, INNER},
    };
    enum { PER = sizeof(per_layer) / sizeof(*per_layer), ALL = PER * LAYERS + 2 };
    static char names[ALL][80];
    lm_tensor_spec specs[ALL];
    memset(specs, 0, sizeof(specs));
    uint32_t n = 0;
    for (uint32_t l = 0; l < LAYERS; l++) {
        for (uint32_t i = 0; i < PER; i++, n++) {
            snprintf(names[n], sizeof(names[n]), "model.layers.%u.%s", l, per_layer[i].name);
            specs[n] =
                (lm_tensor_spec){.name = names[n], .dtype = LM_F32, .n_dims = per_layer[i].cols ? 2 : 1};
            specs[n].dims[0] = per_layer[i].rows;
            specs[n].dims[1] = per_layer[i].cols;
        }
    }
    specs[n] = (lm_tensor_spec){
        .name = "model.embed_tokens.weight", .dtype = LM_F32, .n_dims = 2, .dims = {VOCAB, WIDTH}};
    n++;
    specs[n] = (lm_tensor_spec){.name = "model.norm.weight", .dtype = LM_F32, .n_dims = 1, .dims = {WIDTH}};
    n++;
    lm_writer *w = NULL;
    lm_err err = {0};
    expect_ok(lm_writer_open(&w, path, specs, n, &err), err);
    for (uint32_t i = 0; i < n; i++) {
        bool matrix = specs[i].n_dims == 2;
        size_t count = specs[i].dims[0] * (matrix ? specs[i].dims[1] : 1);
        float *x = malloc(count * sizeof(*x));
        float size = matrix ? 4.0f / sqrtf((float)specs[i].dims[1]) : 0.0f;
        for (size_t k = 0; k < count; k++) x[k] = matrix ? noise() * size : 1.0f;
        expect_ok(lm_writer_put(w, i, 0, x, count * sizeof(*x), &err), err);
        free(x);
    }
    expect_ok(lm_writer_finish(w, &err), err);
}

static void write_text(const char *name, const char *text) {
    char path[256];
    lm_err err = {0};
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    expect_ok(lm_file_write(path, lm_str_of(text), &err), err);
}

static int make_model(void **state) {
    (void)state;
    lm_err err = {0};
    assert_non_null(mkdtemp(dir));
    write_text(
        "config.json",
        "{\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
        "\"num_key_value_heads\":2,\"head_dim\":16,\"intermediate_size\":128,\"vocab_size\":490,"
        "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"max_position_embeddings\":2048,"
        "\"tie_word_embeddings\":true,\"eos_token_id\":482}");
    write_text(
        "tokenizer_config.json",
        "{\"eos_token\":\"<|im_end|>\",\"chat_template\":\"{% for m in messages %}<|im_start|>{{ m.role }}\\n"
        "{{ m.content }}<|im_end|>\\n{% endfor %}<|im_start|>assistant\\n\"}");
    lm_buf tokenizer;
    lm_buf_init(&tokenizer, 1 << 20);
    expect_ok(
        lm_file_read(LM_SOURCE_DIR "/tests/golden/text/byte_level/tokenizer.json", 1 << 20, &tokenizer, &err),
        err);
    write_text("tokenizer.json", tokenizer.ptr);
    lm_buf_release(&tokenizer);
    char path[256];
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);
    write_weights(path);
    return 0;
}

static int drop_model(void **state) {
    (void)state;
    lm_err err = {0};
    return lm_dir_remove(dir, &err) == LM_OK ? 0 : -1;
}

/* ---- asking */

typedef struct heard {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    lm_buf text;
    bool done;
    lm_status status;
    lm_done_reason reason;
    lm_metrics metrics;
    uint32_t n_logprobs;
    lm_job *job;
} heard;

static void sink(void *ctx, const lm_event *event) {
    heard *h = ctx;
    pthread_mutex_lock(&h->lock);
    if (event->kind == LM_EVENT_TEXT || event->kind == LM_EVENT_ERROR) lm_buf_str(&h->text, event->text);
    h->n_logprobs += event->n_logprobs;
    if (event->kind == LM_EVENT_DONE || event->kind == LM_EVENT_ERROR) {
        h->status = event->kind == LM_EVENT_DONE ? LM_OK : event->status;
        h->reason = event->reason;
        h->metrics = event->metrics;
        h->done = true;
        pthread_cond_broadcast(&h->cond);
    }
    pthread_mutex_unlock(&h->lock);
}

static void submit(lm_engine *e, lm_request *r, heard *h) {
    memset(h, 0, sizeof(*h));
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->cond, NULL);
    lm_buf_init(&h->text, 1 << 20);
    lm_buf_text(&h->text, "");
    lm_model_ref ref = {.name = "tiny:latest", .dir = dir, .digest = "0"};
    lm_err err = {0};
    expect_ok(lm_engine_submit(e, &ref, r, sink, h, &h->job, &err), err);
}

static void wait_for(heard *h) {
    pthread_mutex_lock(&h->lock);
    while (!h->done) pthread_cond_wait(&h->cond, &h->lock);
    pthread_mutex_unlock(&h->lock);
    lm_job_unref(h->job);
    if (h->status != LM_OK) fail_msg("%s: %s", lm_status_name(h->status), h->text.ptr);
}

static lm_engine *open_engine(uint32_t n_parallel) {
    lm_engine_config config = {
        .backend = &lm_cpu_backend,
        .cpu_features = "portable",
        .n_threads = 2,
        .n_parallel = n_parallel,
        .default_ctx = 512,
        .keep_alive_ns = -1,
    };
    lm_engine *e = NULL;
    lm_err err = {0};
    expect_ok(lm_engine_open(&e, &config, &err), err);
    return e;
}

static lm_request *chat(const json_t *messages, int32_t n) {
    lm_request *r = lm_request_new();
    r->kind = LM_REQUEST_CHAT;
    r->messages = json_deep_copy(messages);
    r->options.temperature = 0;
    r->options.num_predict = n;
    return r;
}

static void say(json_t *messages, const char *role, const char *content) {
    json_array_append_new(messages, json_pack("{ssss}", "role", role, "content", content));
}

/* ---- tests */

static void a_conversation_is_the_same_with_and_without_its_prefix(void **state) {
    (void)state;
    heard with, without;
    lm_engine *e = open_engine(1);
    json_t *talk = json_array();
    say(talk, "system", "You are a helpful assistant.");
    for (int turn = 0; turn < 4; turn++) {
        char question[64];
        snprintf(question, sizeof(question), "Question number %d, what is it?", turn);
        say(talk, "user", question);
        submit(e, chat(talk, 20), &with);
        wait_for(&with);
        lm_engine *fresh = open_engine(1);
        submit(fresh, chat(talk, 20), &without);
        wait_for(&without);
        lm_engine_close(fresh, 0);
        assert_string_equal(with.text.ptr, without.text.ptr);
        assert_int_equal(without.metrics.n_cached, 0);
        assert_int_equal(with.metrics.n_prompt, without.metrics.n_prompt);
        if (turn) assert_true(with.metrics.n_cached > 0);
        /* Random text: printable, so that it comes back as the same tokens or nearly so */
        say(talk, "assistant", "I do not know.");
        lm_buf_release(&with.text);
        lm_buf_release(&without.text);
    }
    json_decref(talk);
    lm_engine_close(e, 0);
}

static lm_request *story(uint32_t i) {
    char prompt[3000] = "Once upon a time";
    for (uint32_t k = 0; k < (i % 3) * 90; k++) strcat(prompt, k % 2 ? " the fox ran" : " and then");
    lm_request *r = lm_request_new();
    r->kind = LM_REQUEST_RAW;
    r->prompt = lm_strdup(prompt);
    r->options.seed = i;
    r->options.num_ctx = 1024;
    r->options.num_predict = 16 + (int32_t)i;
    r->logprobs = true;
    r->top_logprobs = 2;
    return r;
}

static void a_seed_gives_the_same_text_alone_and_among_eight(void **state) {
    (void)state;
    static heard alone[8], together[8];
    lm_engine *e = open_engine(1);
    for (uint32_t i = 0; i < 8; i++) {
        submit(e, story(i), &alone[i]);
        wait_for(&alone[i]);
    }
    lm_engine_close(e, 0);
    e = open_engine(8);
    for (uint32_t i = 0; i < 8; i++) submit(e, story(i), &together[i]);
    for (uint32_t i = 0; i < 8; i++) {
        wait_for(&together[i]);
        assert_string_equal(alone[i].text.ptr, together[i].text.ptr);
        assert_int_equal(alone[i].metrics.n_eval, together[i].metrics.n_eval);
        assert_int_equal(alone[i].n_logprobs, together[i].n_logprobs);
        lm_buf_release(&alone[i].text);
        lm_buf_release(&together[i].text);
    }
    lm_engine_close(e, 0);
}

static void a_schema_is_obeyed_by_a_model_that_knows_nothing(void **state) {
    (void)state;
    heard h;
    lm_engine *e = open_engine(1);
    for (int64_t seed = 0; seed < 3; seed++) {
        lm_request *r = lm_request_new();
        r->kind = LM_REQUEST_RAW;
        r->prompt = lm_strdup("A person:");
        r->options.seed = seed;
        r->options.num_predict = 200;
        r->constrained = true;
        r->schema = lm_strdup("{\"type\":\"object\",\"properties\":{\"old\":{\"type\":\"boolean\"},\"age\":{"
                              "\"enum\":[1,22,333]}},"
                              "\"required\":[\"old\",\"age\"],\"additionalProperties\":false}");
        submit(e, r, &h);
        wait_for(&h);
        json_t *parsed = json_loads(h.text.ptr, 0, NULL);
        if (!parsed) fail_msg("not JSON: %s", h.text.ptr);
        assert_true(json_is_boolean(json_object_get(parsed, "old")));
        json_int_t age = json_integer_value(json_object_get(parsed, "age"));
        assert_true(age == 1 || age == 22 || age == 333);
        assert_int_equal(h.reason, LM_DONE_STOP);
        json_decref(parsed);
        lm_buf_release(&h.text);
    }
    lm_engine_close(e, 0);
}

static void a_context_shift_goes_on_without_an_end(void **state) {
    (void)state;
    heard h;
    lm_engine *e = open_engine(1);
    lm_request *r = story(0);
    r->options.num_ctx = 64;
    r->options.num_predict = 300;
    r->options.temperature = 0;
    submit(e, r, &h);
    wait_for(&h);
    assert_true(h.metrics.n_eval == 300 || h.reason == LM_DONE_STOP);
    lm_buf_release(&h.text);
    lm_engine_close(e, 0);
}

static void hang_ups_at_any_moment_leave_an_engine_that_works(void **state) {
    (void)state;
    heard h;
    lm_engine *e = open_engine(2);
    for (uint32_t i = 0; i < 12; i++) {
        submit(e, story(2), &h);
        if (i) usleep(i * 700);
        lm_job_cancel(h.job);
        pthread_mutex_lock(&h.lock);
        while (!h.done) pthread_cond_wait(&h.cond, &h.lock);
        pthread_mutex_unlock(&h.lock);
        lm_job_unref(h.job);
        assert_true(h.status == LM_CANCELLED || h.status == LM_OK);
        lm_buf_release(&h.text);
    }
    submit(e, story(1), &h);
    wait_for(&h);
    lm_buf_release(&h.text);
    lm_engine_close(e, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_conversation_is_the_same_with_and_without_its_prefix),
        cmocka_unit_test(a_seed_gives_the_same_text_alone_and_among_eight),
        cmocka_unit_test(a_schema_is_obeyed_by_a_model_that_knows_nothing),
        cmocka_unit_test(a_context_shift_goes_on_without_an_end),
        cmocka_unit_test(hang_ups_at_any_moment_leave_an_engine_that_works),
    };
    return cmocka_run_group_tests(tests, make_model, drop_model);
}
