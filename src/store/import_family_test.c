/* Families through the importer: layouts of the same tensors, what config.json and generation_config.json say
 * of one family or another, templates and stops. Rows of tensors are their own index, so that each is known
 * again. */
#include "store/import_make.h"

enum { WIDTH = 32, HEAD = 8, HEADS = 4, KV = 2, FF = 4, EXPERTS = 3 };

static const char *key_of(const char *arch, const char *key) {
    static char out[96];
    snprintf(out, sizeof out, "%s.%s", arch, key);
    return out;
}

static void words(gguf_make *m, uint32_t n, const char *const *texts) {
    gguf_make_str(m, "tokenizer.ggml.model", "gpt2");
    gguf_make_array(m, "tokenizer.ggml.tokens", 8, n);
    for (uint32_t i = 0; i < n; i++) gguf_make_text(&m->keys, texts[i]);
    gguf_make_array(m, "tokenizer.ggml.token_type", 5, n);
    for (uint32_t i = 0; i < n; i++) gguf_make_int(&m->keys, texts[i][0] == '<' ? 3 : 1, 4);
    gguf_make_array(m, "tokenizer.ggml.merges", 8, 0);
}

/* A file that is whole but for its blocks. */
static void start(gguf_make *m, const char *arch, uint32_t layers) {
    static const char *const tokens[] = {"a", "b", "<|endoftext|>", "<|im_end|>", "<|file_sep|>"};
    gguf_make_init(m);
    gguf_make_str(m, "general.architecture", arch);
    gguf_make_u32(m, key_of(arch, "block_count"), layers);
    gguf_make_u32(m, key_of(arch, "context_length"), 128);
    gguf_make_u32(m, key_of(arch, "embedding_length"), WIDTH);
    gguf_make_u32(m, key_of(arch, "feed_forward_length"), FF);
    gguf_make_u32(m, key_of(arch, "attention.head_count"), HEADS);
    gguf_make_u32(m, key_of(arch, "attention.head_count_kv"), KV);
    gguf_make_u32(m, key_of(arch, "attention.key_length"), HEAD);
    words(m, 5, tokens);
    gguf_make_u32(m, "tokenizer.ggml.eos_token_id", 2);
    tiny_tensor(m, "token_embd.weight", 5, WIDTH);
}

static char *imported(const gguf_make *m) {
    lm_err err = {0};
    char *in = put(m), *out = lm_path_join(test_dir(), "out");
    lm_status removed = lm_dir_remove(out, NULL);
    (void)removed;
    expect_ok(lm_import_gguf(in, out, NULL, NULL, &err), err);
    free(in);
    return out;
}

static json_t *config_of(const gguf_make *m, const char *file) {
    char *out = imported(m);
    json_t *config = load_json(out, file);
    free(out);
    return config;
}

static const char *text_of(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void tensor3(gguf_make *m, const char *name, uint32_t n, uint32_t rows, uint32_t cols) {
    float *values = lm_alloc((size_t)n * rows * cols * sizeof *values);
    for (uint32_t i = 0; i < n * rows * cols; i++) values[i] = (float)(i / cols);
    gguf_make_tensor(m, name, LM_GGML_F32, 3, (uint64_t[]){cols, rows, n}, values,
                     (size_t)n * rows * cols * 4);
    free(values);
}

/* The first number of row i of a tensor, whatever its shape. */
static float first_of(const lm_weights *w, const char *name, uint64_t i, uint64_t cols) {
    lm_view v;
    float f;
    if (!lm_weights_find(w, name, &v)) fail_msg("no tensor %s", name);
    if (v.dtype == LM_F16) {
        uint16_t h;
        memcpy(&h, (const uint8_t *)v.data + 2 * i * cols, 2);
        return lm_f16_to_f32(h);
    }
    memcpy(&f, (const uint8_t *)v.data + 4 * i * cols, 4);
    return f;
}

static void ollama_s_gpt_oss_is_parted(void **state) {
    (void)state;
    static const uint8_t plain[17] = {127, 0x10, 0x32}; /* elements 0, 1, 2, 3, 0 ... */
    lm_err err = {0};
    lm_weights *w = NULL;
    lm_view v;
    gguf_make m;
    start(&m, "gptoss", 1);
    gguf_make_u32(&m, "gptoss.expert_count", EXPERTS);
    gguf_make_u32(&m, "gptoss.expert_used_count", 2);
    gguf_make_f32(&m, "gptoss.rope.scaling.factor", 32);
    gguf_make_u32(&m, "gptoss.rope.scaling.original_context_length", 64);
    uint32_t rows = (HEADS + 2 * KV) * HEAD;
    tiny_tensor(&m, "blk.0.attn_qkv.weight", rows, WIDTH);
    tiny_tensor(&m, "blk.0.attn_qkv.bias", 1, rows);
    tiny_tensor(&m, "blk.0.attn_sinks", 1, HEADS);
    tiny_tensor(&m, "blk.0.ffn_norm.weight", 1, WIDTH);
    tensor3(&m, "blk.0.ffn_gate_up_exps.weight", EXPERTS, 2 * FF, WIDTH);
    tiny_tensor(&m, "blk.0.ffn_gate_up_exps.bias", EXPERTS, 2 * FF);
    gguf_make_tensor(&m, "blk.0.attn_out.weight", LM_GGML_MXFP4_PLAIN, 2, (uint64_t[]){32, 1}, plain,
                     sizeof plain);
    char *out = imported(&m);
    expect_ok(lm_weights_open(&w, out, &err), err);

    const char *a = "model.layers.0.self_attn.k_proj.weight", *b = "model.layers.0.self_attn.v_proj.bias";
    assert_true(first_of(w, a, 1, WIDTH) == (float)((HEADS * HEAD + 1) * WIDTH));
    assert_true(first_of(w, b, 2, 1) == (float)((HEADS + KV) * HEAD + 2));
    assert_true(lm_weights_find(w, a, &v) && v.dims[0] == KV * HEAD && v.dims[1] == WIDTH);
    assert_true(first_of(w, "model.layers.0.self_attn.sinks", 3, 1) == 3);
    assert_true(lm_weights_find(w, "model.layers.0.post_attention_layernorm.weight", &v));

    a = "model.layers.0.mlp.experts.gate_proj.weight";
    b = "model.layers.0.mlp.experts.up_proj.bias";
    assert_true(lm_weights_find(w, a, &v) && v.dims[0] == EXPERTS && v.dims[1] == FF && v.dims[2] == WIDTH);
    assert_true(lm_weights_find(w, b, &v) && v.dims[0] == EXPERTS && v.dims[1] == FF);
    for (uint32_t i = 0; i < EXPERTS * FF; i++) {
        assert_true(first_of(w, a, i, WIDTH) == (float)(2 * i));
        assert_true(first_of(w, b, i, 1) == (float)(2 * i + 1));
    }
    assert_true(lm_weights_find(w, "model.layers.0.self_attn.o_proj.weight", &v));
    assert_memory_equal(v.data, plain + 1, 16); /* MLX's own order */
    lm_weights_close(w);

    json_t *config = load_json(out, "config.json");
    const json_t *rope = json_object_get(config, "rope_scaling");
    assert_string_equal(text_of(config, "model_type"), "gpt_oss");
    assert_string_equal(text_of(rope, "type"), "yarn");
    assert_true(json_is_false(json_object_get(rope, "truncate")));
    json_decref(config);
    json_t *tokenizer =
        load_json(out, "tokenizer.json"); /* cut as this architecture's text is, not as GPT-2's */
    const json_t *cut = json_object_get(json_object_get(tokenizer, "pre_tokenizer"), "pretokenizers");
    assert_non_null(strstr(text_of(json_object_get(json_array_get(cut, 0), "pattern"), "Regex"), "\\p{Lu}"));
    json_decref(tokenizer);
    free(out);
    gguf_make_release(&m);
}

static void mixture(gguf_make *m) {
    start(m, "llama", 1);
    gguf_make_u32(m, "llama.expert_count", EXPERTS);
    gguf_make_u32(m, "llama.expert_used_count", 2);
}

static void experts_that_come_one_by_one_are_stacked(void **state) {
    (void)state;
    lm_err err = {0};
    lm_weights *w = NULL;
    lm_matrix x;
    uint8_t block[34] = {0, 0x3c}; /* Q8_0: 1.0, then one number of 32 */
    float row[32];
    gguf_make m;
    mixture(&m);
    for (int i = EXPERTS - 1; i >= 0; i--) { /* in any order */
        char name[64];
        snprintf(name, sizeof name, "blk.0.ffn_up.%d.weight", i);
        block[2] = (uint8_t)(i + 1);
        gguf_make_tensor(&m, name, LM_GGML_Q8_0, 2, (uint64_t[]){32, 1}, block, sizeof block);
    }
    char *out = imported(&m);
    expect_ok(lm_weights_open(&w, out, &err), err);
    lm_quant_spec q8 = {LM_QUANT_AFFINE, 8, 32};
    const char *path = "model.layers.0.block_sparse_moe.switch_mlp.up_proj";
    expect_ok(lm_weights_matrix(w, path, q8, EXPERTS, 1, 32, &x, &err), err);
    for (uint32_t i = 0; i < EXPERTS; i++) {
        lm_matrix_row(&x, i, 0, row);
        assert_true(row[0] == (float)(i + 1) && row[1] == 0);
    }
    lm_weights_close(w);
    free(out);
    gguf_make_release(&m);
}

static void layouts_that_lie_are_refused(void **state) {
    (void)state;
    gguf_make m;

    mixture(&m);
    tiny_tensor(&m, "blk.0.ffn_up.0.weight", 2, WIDTH);
    tiny_tensor(&m, "blk.0.ffn_up.2.weight", 2, WIDTH);
    expect_refused(&m, LM_CORRUPT,
                   "has 2 of the 3 experts of model.layers.0.block_sparse_moe.switch_mlp.up_proj.weight");
    tiny_tensor(&m, "blk.0.ffn_up.3.weight", 2, WIDTH);
    expect_refused(&m, LM_CORRUPT, "blk.0.ffn_up.3.weight is none of the 3 experts");
    gguf_make_release(&m);

    mixture(&m);
    tiny_tensor(&m, "blk.0.ffn_up.0.weight", 2, WIDTH);
    tiny_tensor(&m, "blk.0.ffn_up.1.weight", 3, WIDTH);
    expect_refused(&m, LM_UNSUPPORTED, "blk.0.ffn_up.0.weight and blk.0.ffn_up.1.weight differ");
    gguf_make_release(&m);

    mixture(&m);
    tiny_tensor(&m, "blk.0.ffn_up.01.weight", 2, WIDTH);
    expect_refused(&m, LM_UNSUPPORTED, "blk.0.ffn_up.01.weight has no place");
    gguf_make_release(&m);

    mixture(&m);
    for (int i = 0; i < EXPERTS; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.0.ffn_up.%d.weight", i);
        tiny_tensor(&m, name, 2, WIDTH);
    }
    tensor3(&m, "blk.0.ffn_up_exps.weight", EXPERTS, 2, WIDTH);
    expect_refused(&m, LM_CORRUPT,
                   "two tensors of the file are model.layers.0.block_sparse_moe.switch_mlp.up_proj.weight");
    gguf_make_release(&m);

    start(&m, "gptoss", 1);
    gguf_make_u32(&m, "gptoss.expert_count", EXPERTS);
    tiny_tensor(&m, "blk.0.attn_qkv.weight", 63, WIDTH);
    expect_refused(&m, LM_CORRUPT, "blk.0.attn_qkv.weight has 63 rows, which can't be parted");
    gguf_make_release(&m);

    gguf_make_init(&m); /* heads whose rows would wrap around to as many as there are */
    gguf_make_str(&m, "general.architecture", "gptoss");
    gguf_make_u32(&m, "gptoss.expert_count", EXPERTS);
    gguf_make_u32(&m, "gptoss.attention.head_count", 871528256);
    gguf_make_u32(&m, "gptoss.attention.head_count_kv", 3000000000);
    gguf_make_u32(&m, "gptoss.attention.key_length", 2684518405);
    tiny_tensor(&m, "blk.0.attn_qkv.weight", 64, WIDTH);
    expect_refused(&m, LM_CORRUPT, "blk.0.attn_qkv.weight has 64 rows, which can't be parted");
    gguf_make_release(&m);

    start(&m, "qwen2", 1);
    tiny_tensor(&m, "blk.0.attn_q", 2, WIDTH);
    expect_refused(&m, LM_UNSUPPORTED, "blk.0.attn_q has no place");
    gguf_make_release(&m);
}

/* ---- config.json */

static void a_llama_with_a_window_is_a_mistral(void **state) {
    (void)state;
    gguf_make m;
    start(&m, "llama", 1);
    json_t *config = config_of(&m, "config.json");
    assert_string_equal(text_of(config, "model_type"), "llama");
    json_decref(config);
    gguf_make_u32(&m, "llama.attention.sliding_window", 64);
    config = config_of(&m, "config.json");
    assert_string_equal(text_of(config, "model_type"), "mistral");
    assert_string_equal(json_string_value(json_array_get(json_object_get(config, "architectures"), 0)),
                        "MistralForCausalLM");
    assert_int_equal(json_integer_value(json_object_get(config, "sliding_window")), 64);
    json_decref(config);
    gguf_make_release(&m);

    start(&m, "mistral3", 1);
    gguf_make_f32(&m, "mistral3.rope.scaling.factor", 0); /* there was none */
    tiny_tensor(&m, "v.patch_conv.weight", 2, 2);
    config = config_of(&m, "config.json");
    assert_string_equal(text_of(config, "model_type"), "mistral");
    assert_true(json_is_null(json_object_get(config, "sliding_window")));
    assert_true(json_is_null(json_object_get(config, "rope_scaling")));
    json_decref(config);
    gguf_make_f32(&m, "mistral3.rope.scaling_beta", 0.1f);
    char *out = lm_path_join(test_dir(), "out");
    lm_err err = {0};
    expect_ok(lm_dir_remove(out, &err), err);
    expect_refused(&m, LM_UNSUPPORTED, "scales queries by position");
    free(out);
    gguf_make_release(&m);
}

static const char *layer_type(const json_t *config, size_t i) {
    return json_string_value(json_array_get(json_object_get(config, "layer_types"), i));
}

static void gemma_3_s_layers_are_as_the_file_says(void **state) {
    (void)state;
    gguf_make m;
    start(&m, "gemma3", 7);
    json_t *config = config_of(&m, "config.json");
    assert_string_equal(layer_type(config, 4), "sliding_attention");
    assert_string_equal(layer_type(config, 5), "full_attention");
    json_decref(config);
    gguf_make_array(&m, "gemma3.attention.sliding_window_pattern", 7, 7);
    for (int i = 0; i < 7; i++) gguf_make_int(&m.keys, i != 2, 1);
    config = config_of(&m, "config.json");
    assert_string_equal(layer_type(config, 2), "full_attention");
    assert_string_equal(layer_type(config, 5), "sliding_attention");
    json_decref(config);
    gguf_make_release(&m);
}

static void gemma_3_s_picture_token_has_no_row(void **state) {
    (void)state;
    static const char *const tokens[] = {"a",        "b", "<|endoftext|>", "<|im_end|>", "<|file_sep|>",
                                         "<picture>"};
    gguf_make m;
    gguf_make_init(&m);
    tiny_tensor(&m, "token_embd.weight", 5, WIDTH);
    gguf_make_str(&m, "general.architecture", "gemma3");
    gguf_make_u32(&m, "gemma3.block_count", 1);
    gguf_make_u32(&m, "gemma3.context_length", 128);
    gguf_make_u32(&m, "gemma3.embedding_length", WIDTH);
    gguf_make_u32(&m, "gemma3.feed_forward_length", FF);
    gguf_make_u32(&m, "gemma3.attention.head_count", HEADS);
    gguf_make_f32(&m, "gemma3.rope.global.freq_base", 500000);
    words(&m, 6, tokens);
    char *out = imported(&m);
    json_t *tokenizer = load_json(out, "tokenizer.json"), *config = load_json(out, "config.json");
    assert_int_equal(json_object_size(json_object_get(json_object_get(tokenizer, "model"), "vocab")), 5);
    assert_true(json_real_value(json_object_get(config, "rope_theta")) == 500000);
    json_decref(tokenizer);
    json_decref(config);
    free(out);
    gguf_make_release(&m);
}

static void of_a_mixture_the_dense_layers_are_named(void **state) {
    (void)state;
    gguf_make m;
    start(&m, "qwen3moe", 3);
    gguf_make_u32(&m, "qwen3moe.expert_count", EXPERTS);
    gguf_make_u32(&m, "qwen3moe.expert_used_count", 2);
    tensor3(&m, "blk.0.ffn_up_exps.weight", EXPERTS, 6, WIDTH);
    tensor3(&m, "blk.2.ffn_up_exps.weight", EXPERTS, 6, WIDTH);
    json_t *config = config_of(&m, "config.json");
    const json_t *dense = json_object_get(config, "mlp_only_layers");
    assert_int_equal(json_array_size(dense), 1);
    assert_int_equal(json_integer_value(json_array_get(dense, 0)), 1);
    assert_int_equal(json_integer_value(json_object_get(config, "moe_intermediate_size")), 6);
    json_decref(config);
    gguf_make_release(&m);
}

static void what_a_family_here_can_not_do_is_refused(void **state) {
    (void)state;
    gguf_make m;
    start(&m, "olmo2", 1);
    gguf_make_u32(&m, "olmo2.attention.sliding_window", 64);
    expect_refused(&m, LM_UNSUPPORTED, "OLMo 3");
    gguf_make_release(&m);

    start(&m, "qwen3", 1);
    gguf_make_u32(&m, "qwen3.rope.dimension_count", HEAD / 2);
    expect_refused(&m, LM_UNSUPPORTED, "heads of 8 elements of which 4 turn");
    gguf_make_release(&m);

    start(&m, "gemma3", 1);
    gguf_make_bool(&m, "gemma3.attention.causal", false);
    expect_refused(&m, LM_UNSUPPORTED, "reads both ways");
    gguf_make_release(&m);

    start(&m, "gemma3", 2);
    gguf_make_array(&m, "gemma3.attention.sliding_window_pattern", 7, 3);
    for (int i = 0; i < 3; i++) gguf_make_int(&m.keys, 1, 1);
    expect_refused(&m, LM_CORRUPT, "has 3 values for 2 layers");
    gguf_make_release(&m);
}

/* ---- what the text room reads */

static void stops_and_sampling_reach_the_generation(void **state) {
    (void)state;
    gguf_make m;
    start(&m, "qwen2", 1);
    gguf_make_u32(&m, "tokenizer.ggml.eot_token_id", 3);
    gguf_make_f32(&m, "general.sampling.temp", 0.7f);
    gguf_make_u32(&m, "general.sampling.top_k", 20);
    json_t *g = config_of(&m, "generation_config.json");
    const json_t *stops = json_object_get(g, "eos_token_id");
    assert_int_equal(json_array_size(stops), 3); /* and what follows a filled gap */
    for (int i = 0; i < 3; i++) assert_int_equal(json_integer_value(json_array_get(stops, (size_t)i)), 2 + i);
    assert_true(json_real_value(json_object_get(g, "temperature")) == 0.7);
    assert_int_equal(json_integer_value(json_object_get(g, "top_k")), 20);
    assert_true(json_is_true(json_object_get(g, "do_sample")));
    json_decref(g);
    gguf_make_release(&m);
}

static void llama_3_is_known_by_its_tokens(void **state) {
    (void)state;
    static const char *const tokens[] = {"a", "b", "<|end_of_text|>", "<|start_header_id|>", "<|eot_id|>"};
    gguf_make m;
    gguf_make_init(&m);
    tiny_tensor(&m, "token_embd.weight", 5, WIDTH);
    gguf_make_str(&m, "general.architecture", "llama");
    gguf_make_u32(&m, "llama.block_count", 1);
    gguf_make_u32(&m, "llama.context_length", 128);
    gguf_make_u32(&m, "llama.embedding_length", WIDTH);
    gguf_make_u32(&m, "llama.feed_forward_length", FF);
    gguf_make_u32(&m, "llama.attention.head_count", HEADS);
    gguf_make_str(&m, "tokenizer.ggml.pre", "default");
    gguf_make_u32(&m, "tokenizer.ggml.eos_token_id", 2);
    gguf_make_str(&m, "tokenizer.ggml.model", "gpt2");
    gguf_make_array(&m, "tokenizer.ggml.tokens", 8, 5);
    for (int i = 0; i < 5; i++) gguf_make_text(&m.keys, tokens[i]);
    gguf_make_array(&m, "tokenizer.ggml.merges", 8, 0);
    char *out = imported(&m); /* no token types: the end of a turn is one all the same */
    json_t *tokenizer = load_json(out, "tokenizer.json"), *g = load_json(out, "generation_config.json");
    const json_t *cut = json_object_get(json_object_get(tokenizer, "pre_tokenizer"), "pretokenizers");
    assert_non_null(
        strstr(text_of(json_object_get(json_array_get(cut, 0), "pattern"), "Regex"), "\\p{N}{1,3}"));
    assert_int_equal(json_array_size(json_object_get(tokenizer, "added_tokens")), 2);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(g, "eos_token_id"), 1)), 4);
    json_decref(tokenizer);
    json_decref(g);
    free(out);
    gguf_make_release(&m);
}

static void an_embedder_of_a_decoder_s_family_pools(void **state) {
    (void)state;
    gguf_make m;
    start(&m, "qwen3", 1);
    gguf_make_u32(&m, "qwen3.pooling_type", 3);
    json_t *pooling = config_of(&m, "1_Pooling/config.json");
    assert_true(json_is_true(json_object_get(pooling, "pooling_mode_lasttoken")));
    assert_int_equal(json_integer_value(json_object_get(pooling, "word_embedding_dimension")), WIDTH);
    json_decref(pooling);
    gguf_make_release(&m);
}

static void templates_keep_their_names(void **state) {
    (void)state;
    gguf_make m;
    start(&m, "qwen2", 1);
    gguf_make_str(&m, "tokenizer.chat_template", "plain");
    gguf_make_str(&m, "tokenizer.chat_template.tool_use", "with tools");
    gguf_make_array(&m, "tokenizer.chat_templates", 8, 1);
    gguf_make_text(&m.keys, "tool_use");
    json_t *config = config_of(&m, "tokenizer_config.json");
    const json_t *list = json_object_get(config, "chat_template");
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(text_of(json_array_get(list, 0), "name"), "default");
    assert_string_equal(text_of(json_array_get(list, 1), "template"), "with tools");
    json_decref(config);
    gguf_make_release(&m);

    start(&m, "qwen2", 1);
    gguf_make_array(&m, "tokenizer.chat_templates", 8, 1);
    gguf_make_text(&m.keys, "../up");
    char *out = lm_path_join(test_dir(), "out");
    lm_err err = {0};
    expect_ok(lm_dir_remove(out, &err), err);
    expect_refused(&m, LM_CORRUPT, "name 0 is none");
    free(out);
    gguf_make_release(&m);
}

#define IN_DIR(name) cmocka_unit_test_setup_teardown(name, make_test_dir, remove_test_dir)

int main(void) {
    const struct CMUnitTest tests[] = {
        IN_DIR(ollama_s_gpt_oss_is_parted),
        IN_DIR(experts_that_come_one_by_one_are_stacked),
        IN_DIR(layouts_that_lie_are_refused),
        IN_DIR(a_llama_with_a_window_is_a_mistral),
        IN_DIR(gemma_3_s_layers_are_as_the_file_says),
        IN_DIR(gemma_3_s_picture_token_has_no_row),
        IN_DIR(of_a_mixture_the_dense_layers_are_named),
        IN_DIR(what_a_family_here_can_not_do_is_refused),
        IN_DIR(stops_and_sampling_reach_the_generation),
        IN_DIR(llama_3_is_known_by_its_tokens),
        IN_DIR(an_embedder_of_a_decoder_s_family_pools),
        IN_DIR(templates_keep_their_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
