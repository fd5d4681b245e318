/* Opening directories: what is in them, what is missing, and that claims cost nothing. No backend takes part;
 * the forward pass is tested by tests/model_golden.c. */
#include "base/test.h"

#include "base/file.h"
#include "base/json.h"
#include "model/model.h"

enum { WIDTH = 16, FFN = 24, VOCAB = 10 };

#define CONFIG                                                                                               \
    "\"hidden_size\":16,\"num_hidden_layers\":2,\"intermediate_size\":24,\"num_attention_heads\":2,"         \
    "\"num_key_value_heads\":1,\"rms_norm_eps\":1e-5,\"vocab_size\":10,\"max_position_embeddings\":512"

static void put(const char *name, lm_str bytes) {
    put_file(test_dir(), name, bytes);
}

static void put_config(const char *text) {
    put("config.json", lm_str_of(text));
}

/* A list of tensors, written as zeros. */
typedef struct file {
    json_t *header;
    size_t bytes;
} file;

static void add(file *f, const char *name, uint32_t rows, uint32_t cols) {
    size_t n = (size_t)rows * (cols ? cols : 1) * 2;
    json_t *shape = cols ? json_pack("[ii]", (int)rows, (int)cols) : json_pack("[i]", (int)rows);
    json_t *t = json_pack("{s:s,s:o,s:[II]}", "dtype", "BF16", "shape", shape, "data_offsets",
                          (json_int_t)f->bytes, (json_int_t)(f->bytes + n));
    json_object_set_new(f->header, name, t);
    f->bytes += n;
}

static void write_file(file *f) {
    char *text = json_dumps(f->header, JSON_COMPACT);
    size_t n = strlen(text);
    lm_buf b;
    lm_buf_init(&b, 1 << 20);
    for (int i = 0; i < 8; i++) lm_buf_char(&b, (char)(n >> 8 * i));
    lm_buf_text(&b, text);
    for (size_t i = 0; i < f->bytes; i++) lm_buf_char(&b, 0);
    put("model.safetensors", lm_buf_view(&b));
    lm_buf_release(&b);
    free(text);
    json_decref(f->header);
}

/* Two Llama layers but for the tensor `without` (NULL: whole). */
static file llama(const char *without, bool head) {
    file f = {.header = json_object()};
    char name[128];
    static const struct {
        const char *part;
        uint32_t rows, cols;
    } parts[] = {
        {"input_layernorm", WIDTH, 0},   {"post_attention_layernorm", WIDTH, 0},
        {"self_attn.q_proj", 16, WIDTH}, {"self_attn.k_proj", 8, WIDTH},
        {"self_attn.v_proj", 8, WIDTH},  {"self_attn.o_proj", WIDTH, 16},
        {"mlp.gate_proj", FFN, WIDTH},   {"mlp.up_proj", FFN, WIDTH},
        {"mlp.down_proj", WIDTH, FFN},
    };
    add(&f, "model.embed_tokens.weight", VOCAB, WIDTH);
    for (int l = 0; l < 2; l++) {
        for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
            snprintf(name, sizeof name, "model.layers.%d.%s.weight", l, parts[i].part);
            if (!without || strcmp(without, name)) add(&f, name, parts[i].rows, parts[i].cols);
        }
    }
    add(&f, "model.norm.weight", WIDTH, 0);
    if (head) add(&f, "lm_head.weight", VOCAB, WIDTH);
    return f;
}

static void put_llama(const char *without, bool head) {
    file f = llama(without, head);
    write_file(&f);
}

enum { LAYER = 2 * WIDTH + 16 * WIDTH * 2 + 8 * WIDTH * 2 + 3 * FFN * WIDTH };

static void inspecting_counts_without_loading(void **state) {
    (void)state;
    lm_err err = {0};
    lm_model_info info;
    put_config("{\"model_type\":\"llama\"," CONFIG "}");
    put_llama(NULL, false);
    expect_ok(lm_model_inspect(test_dir(), &info, &err), err);
    assert_string_equal(info.family, "llama");
    assert_string_equal(info.quantization, "BF16");
    assert_int_equal(info.n_params, VOCAB * WIDTH + 2 * LAYER + WIDTH);
    assert_int_equal(info.weight_bytes, 2 * info.n_params);
    assert_int_equal(info.kv_bytes_per_token, 2 * 2 * 2 * 8);
    assert_int_equal(info.head_dim, 8);
    assert_int_equal(info.n_ctx_train, 512);
}

static void a_head_of_its_own_counts_where_there_is_one(void **state) {
    (void)state;
    lm_err err = {0};
    lm_model_info info;
    put_config("{\"model_type\":\"llama\"," CONFIG "}");
    put_llama(NULL, true);
    expect_ok(lm_model_inspect(test_dir(), &info, &err), err);
    assert_int_equal(info.n_params, 2 * VOCAB * WIDTH + 2 * LAYER + WIDTH);

    put_config("{\"model_type\":\"llama\",\"tie_word_embeddings\":true," CONFIG
               "}"); /* then it is not used */
    expect_ok(lm_model_inspect(test_dir(), &info, &err), err);
    assert_int_equal(info.n_params, VOCAB * WIDTH + 2 * LAYER + WIDTH);

    put_config("{\"model_type\":\"llama\",\"tie_word_embeddings\":false," CONFIG "}");
    put_llama(NULL, false);
    expect_fail(lm_model_inspect(test_dir(), &info, &err), LM_CORRUPT, err, "lm_head.weight");
}

static void a_missing_tensor_is_named(void **state) {
    (void)state;
    static const char *const names[] = {"model.layers.1.self_attn.k_proj.weight",
                                        "model.layers.0.mlp.down_proj.weight",
                                        "model.layers.1.input_layernorm.weight"};
    lm_err err = {0};
    lm_model_info info;
    put_config("{\"model_type\":\"llama\"," CONFIG "}");
    for (size_t i = 0; i < 3; i++) {
        put_llama(names[i], false);
        expect_fail(lm_model_inspect(test_dir(), &info, &err), LM_CORRUPT, err, names[i]);
    }
    file f = {.header = json_object()};
    add(&f, "something.else", 4, 4);
    write_file(&f);
    expect_fail(lm_model_inspect(test_dir(), &info, &err), LM_CORRUPT, err, "model.embed_tokens.weight");
}

static void biases_that_the_family_needs_are_asked_for(void **state) {
    (void)state;
    lm_err err = {0};
    lm_model_info info;
    put_llama(NULL, false);
    put_config("{\"model_type\":\"qwen2\"," CONFIG "}");
    expect_fail(lm_model_inspect(test_dir(), &info, &err), LM_CORRUPT, err,
                "model.layers.0.self_attn.q_proj.bias is missing");
    put_config("{\"model_type\":\"llama\",\"mlp_bias\":true," CONFIG "}");
    expect_fail(lm_model_inspect(test_dir(), &info, &err), LM_CORRUPT, err,
                "model.layers.0.mlp.down_proj.bias is missing");
}

static void shapes_must_be_those_of_the_config(void **state) {
    (void)state;
    lm_err err = {0};
    lm_model_info info;
    file f = llama("model.layers.0.self_attn.v_proj.weight", false);
    add(&f, "model.layers.0.self_attn.v_proj.weight", 16, 8);
    write_file(&f);
    put_config("{\"model_type\":\"llama\"," CONFIG "}");
    expect_fail(lm_model_inspect(test_dir(), &info, &err), LM_CORRUPT, err,
                "model.layers.0.self_attn.v_proj is (16, 8), the model's config needs (8, 16)");

    f = llama("model.layers.1.post_attention_layernorm.weight", false);
    add(&f, "model.layers.1.post_attention_layernorm.weight", 8, 0);
    write_file(&f);
    expect_fail(lm_model_inspect(test_dir(), &info, &err), LM_CORRUPT, err,
                "must be 16 floating-point numbers");
}

/* Every number at its limit and next to no file: an error at once, not gigabytes. */
static void claims_without_data_cost_nothing(void **state) {
    (void)state;
    lm_err err = {0};
    lm_model_info info;
    put_llama(NULL, false);
    put_config(
        "{\"model_type\":\"llama\",\"hidden_size\":65536,\"num_hidden_layers\":1024,\"intermediate_size\":"
        "1048576,\"num_attention_heads\":1024,\"rms_norm_eps\":1e-5,\"vocab_size\":4194304}");
    expect_fail(lm_model_inspect(test_dir(), &info, &err), LM_CORRUPT, err, "model.embed_tokens");
}

static void experts_kept_apart_name_the_remedy(void **state) {
    (void)state;
    lm_err err = {0};
    lm_model_info info;
    file f = llama(NULL, false);
    add(&f, "model.layers.0.block_sparse_moe.experts.0.w1.weight", FFN, WIDTH);
    write_file(&f);
    put_config("{\"model_type\":\"mixtral\",\"num_local_experts\":2,\"num_experts_per_tok\":1," CONFIG "}");
    expect_fail(lm_model_inspect(test_dir(), &info, &err), LM_UNSUPPORTED, err,
                "create a model from it");
}

/* As much of a backend as an estimate asks. */
static uint64_t eighty_or_twenty(const lm_device_config *config) {
    assert_int_equal(config->kv.n_layers * config->kv.n_kv_heads * config->kv.head_dim, 16);
    return config->kv_type == LM_KV_Q4_0 ? 20 : 80;
}
static const lm_backend counting = {.name = "counting", .kv_token_bytes = eighty_or_twenty};

static void an_estimate_grows_with_what_is_asked_for(void **state) {
    (void)state;
    lm_err err = {0};
    lm_model_config config = {.n_ctx = 1024, .n_parallel = 1, .max_batch = 64};
    uint64_t one = 0, four = 0, wide = 0, small = 0;
    put_config("{\"model_type\":\"llama\"," CONFIG "}");
    put_llama(NULL, false);
    expect_ok(lm_model_estimate(&counting, test_dir(), &config, &one, &err), err);
    config.n_parallel = 4;
    expect_ok(lm_model_estimate(&counting, test_dir(), &config, &four, &err), err);
    assert_true(four - one >= 3 * 1024 * 80); /* kv of three more sequences */
    lm_model_need need = {0};
    lm_model_info info;
    expect_ok(lm_model_need_of(&counting, test_dir(), &config, &need, &err), err);
    expect_ok(lm_model_inspect(test_dir(), &info, &err), err);
    assert_int_equal(need.weights, info.weight_bytes);
    assert_int_equal(need.kv, 4 * (1024 + 256) * 80);
    assert_int_equal(need.weights + need.kv + need.scratch, four);
    config.kv_type = LM_KV_Q4_0;
    expect_ok(lm_model_estimate(&counting, test_dir(), &config, &small, &err), err);
    /* Of one sequence and layer (2 * 4 = 8 elements) keys and values as numbers come on top. */
    assert_int_equal(four - small, 4 * (1024 + 256) * 60 - 2 * 1024 * 8 * 4);
    config.max_batch = 512;
    expect_ok(lm_model_estimate(&counting, test_dir(), &config, &wide, &err), err);
    assert_true(wide > small);
    config.n_ctx = 0;
    expect_fail(lm_model_estimate(&counting, test_dir(), &config, &one, &err), LM_INVALID, err, "context 0");
}

static void a_directory_that_is_not_there_is_not_found(void **state) {
    (void)state;
    lm_err err = {0};
    lm_model_info info;
    assert_int_equal(lm_model_inspect("/nonexistent/model", &info, &err), LM_NOT_FOUND);
    put_config("{\"model_type\":\"llama\"," CONFIG "}");
    assert_int_equal(lm_model_inspect(test_dir(), &info, &err), LM_NOT_FOUND); /* a config without weights */
    put_config("{\"model_type\":");
    expect_fail(lm_model_inspect(test_dir(), &info, &err), LM_CORRUPT, err, "config.json");
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, make_test_dir, remove_test_dir)

/* ---- several ranks */

static uint64_t four_each(const lm_device_config *config) {
    return 4ull * config->kv.n_layers * config->kv.n_kv_heads * config->kv.head_dim;
}
static const lm_backend sharing = {.name = "sharing", .kv_token_bytes = four_each};

static uint64_t share_of(uint32_t rank, uint32_t size, lm_split split) {
    lm_world world = {.rank = rank, .size = size, .split = split};
    lm_model_config with = {.n_ctx = 256, .n_parallel = 1, .max_batch = 64, .world = &world};
    lm_err err = {0};
    uint64_t bytes = 0;
    expect_ok(lm_model_estimate(&sharing, test_dir(), &with, &bytes, &err), err);
    return bytes;
}

/* What is no weight is the same for two ranks with as many heads and layers. */
static void a_rank_estimates_its_own_share(void **state) {
    (void)state;
    put_config("{\"model_type\":\"llama\"," CONFIG "}");
    put_llama(NULL, false);
    enum { BOTH = 2 * 8 * WIDTH + 2 * WIDTH, HALVES = 16 * WIDTH * 2 + 3 * FFN * WIDTH };
    /* tensor: rank 0 has the last norm, which the others don't need */
    assert_int_equal(share_of(0, 2, LM_SPLIT_TENSOR) - share_of(1, 2, LM_SPLIT_TENSOR), 2 * WIDTH);
    /* pipeline: a layer each; the tied embedding is needed at both ends, the last norm at one */
    assert_int_equal(share_of(0, 2, LM_SPLIT_PIPELINE) - share_of(1, 2, LM_SPLIT_PIPELINE), 2 * WIDTH);
    /* one key/value head: both have all of it, for half the layers in a pipeline */
    int64_t kv = 512 * 4 * 8; /* of a layer: 256 tokens, and as many to spare */
    int64_t tensor = (int64_t)share_of(0, 2, LM_SPLIT_TENSOR),
            pipeline = (int64_t)share_of(0, 2, LM_SPLIT_PIPELINE);
    assert_int_equal(tensor - pipeline, 2 * (2 * BOTH + HALVES) - 2 * LAYER + kv);
    assert_int_equal(share_of(0, 2, LM_SPLIT_AUTO), tensor);
    /* three ranks: two heads cannot be dealt out, two layers neither */
    lm_world world = {.rank = 0, .size = 3, .split = LM_SPLIT_AUTO};
    lm_model_config with = {.n_ctx = 256, .n_parallel = 1, .max_batch = 64, .world = &world};
    lm_err err = {0};
    uint64_t bytes = 0;
    expect_fail(lm_model_estimate(&sharing, test_dir(), &with, &bytes, &err), LM_UNSUPPORTED, err,
                "2 layers cannot be dealt out to 3 ranks");
}

static void a_rank_refuses_what_does_not_fit_its_own_memory(void **state) {
    (void)state;
    put_config("{\"model_type\":\"llama\"," CONFIG "}");
    put_llama(NULL, false);
    lm_world world = {.rank = 1, .size = 2};
    lm_follower *f = lm_follower_new(&sharing, &world, 1000);
    /* open; tensor, threads, context, parallel, batch, kv; layers, width, vocabulary, bytes */
    const uint32_t numbers[] = {LM_SPLIT_TENSOR, 1, 256, 1, 64, LM_KV_F16, 2, WIDTH, VOCAB, 0, 0};
    lm_buf frame;
    lm_buf_init(&frame, 8192);
    lm_buf_char(&frame, 1);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        for (int byte = 0; byte < 4; byte++) lm_buf_char(&frame, (char)(numbers[i] >> 8 * byte));
    lm_buf_text(&frame, test_dir());
    bool answers = false;
    lm_err err = {0};
    expect_fail(lm_follower_do(f, frame.ptr, frame.len, &answers, &err), LM_NO_MEMORY, err,
                "this rank's share");
    assert_true(answers);
    lm_buf_text(&frame, "/nowhere");
    expect_fail(lm_follower_do(f, frame.ptr, frame.len, &answers, &err), LM_NOT_FOUND, err,
                "a model must lie at the same path on every host");
    lm_buf_release(&frame);
    lm_follower_free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_DIR(inspecting_counts_without_loading),
        IN_DIR(a_head_of_its_own_counts_where_there_is_one),
        IN_DIR(a_missing_tensor_is_named),
        IN_DIR(biases_that_the_family_needs_are_asked_for),
        IN_DIR(shapes_must_be_those_of_the_config),
        IN_DIR(claims_without_data_cost_nothing),
        IN_DIR(experts_kept_apart_name_the_remedy),
        IN_DIR(an_estimate_grows_with_what_is_asked_for),
        IN_DIR(a_directory_that_is_not_there_is_not_found),
        IN_DIR(a_rank_estimates_its_own_share),
        IN_DIR(a_rank_refuses_what_does_not_fit_its_own_memory),
    };
    return cmocka_run_group_tests_name("model directories", tests, NULL, NULL);
}
