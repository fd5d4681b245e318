/* config.json: what is read, what is refused and in which words. */
#include "base/test.h"

#include <math.h>

#include "model/config.h"

#define LLAMA                                                                                                \
    "\"model_type\":\"llama\",\"hidden_size\":64,\"num_hidden_layers\":3,\"intermediate_size\":128,"         \
    "\"num_attention_heads\":4,\"rms_norm_eps\":1e-5,\"vocab_size\":100"

static lm_config parse(const char *text) {
    lm_config c = {0};
    lm_err err = {0};
    expect_ok(lm_config_parse(&c, lm_str_of(text), &err), err);
    return c;
}

static void refuse(const char *text, lm_status want, const char *words) {
    lm_config c = {0};
    lm_err err = {0};
    expect_fail(lm_config_parse(&c, lm_str_of(text), &err), want, err, words);
    assert_null(c.root);
}

static void what_is_left_out_has_the_familys_default(void **state) {
    (void)state;
    lm_config c = parse("{" LLAMA "}");
    assert_int_equal(c.n_kv_heads, 4);
    assert_int_equal(c.head_dim, 16);
    assert_float_equal(c.attention_scale, 0.25, 1e-6);
    assert_float_equal(c.ropes[0].base, 10000, 0);
    assert_int_equal(c.ropes[0].n_dims, 16);
    assert_int_equal(c.tied, -1);
    assert_int_equal(c.window, 0);
    assert_null(c.quant);
    lm_config_release(&c);

    c = parse("{\"model_type\":\"gemma3_text\"}");
    assert_int_equal(c.n_layers, 26);
    assert_int_equal(c.layers[4].window, 512);
    assert_int_equal(c.layers[5].window, 0);
    assert_int_equal(c.layers[4].rope, LM_ROPE_LOCAL);
    assert_int_equal(c.layers[5].rope, LM_ROPE_GLOBAL);
    assert_float_equal(c.embed_scale, 34, 0); /* sqrt(1152) = 33.94, in bfloat16 */
    lm_config_release(&c);
}

static void numbers_out_of_range_are_refused_by_name(void **state) {
    (void)state;
    static const struct {
        const char *member, *words;
    } cases[] = {
        {"\"hidden_size\":65537", "hidden_size is 65537, it must lie between 8 and 65536"},
        {"\"hidden_size\":-64", "hidden_size is -64"},
        {"\"hidden_size\":\"64\"", "hidden_size must be a whole number"},
        {"\"hidden_size\":1e300", "hidden_size must be a whole number"},
        {"\"num_hidden_layers\":1025", "num_hidden_layers is 1025"},
        {"\"num_hidden_layers\":0", "num_hidden_layers is 0"},
        {"\"num_attention_heads\":0", "num_attention_heads is 0"},
        {"\"num_attention_heads\":64", "a head of 1 elements"},
        {"\"num_key_value_heads\":3", "4 attention heads can't share 3 key/value heads"},
        {"\"num_key_value_heads\":8", "4 attention heads can't share 8 key/value heads"},
        {"\"head_dim\":7", "a head of 7 elements"},
        {"\"head_dim\":2048", "head_dim is 2048"},
        {"\"vocab_size\":99999999", "vocab_size is 99999999"},
        {"\"intermediate_size\":4294967296", "intermediate_size is 4294967296"},
        {"\"rms_norm_eps\":-1", "rms_norm_eps is -1"},
        {"\"rope_theta\":0", "rope_theta is 0"},
        {"\"rope_theta\":[]", "rope_theta must be a number"},
        {"\"partial_rotary_factor\":0.01", "partial_rotary_factor leaves nothing to turn"},
        {"\"tie_word_embeddings\":true,\"attention_bias\":3", "attention_bias must be true or false"},
        {"\"rope_scaling\":[]", "rope_scaling must be an object"},
        {"\"layer_types\":[\"full_attention\"]", "layer_types must be an array of 3 names"},
        {"\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\"]",
         "sliding_window is missing"},
        {"\"max_position_embeddings\":0", "max_position_embeddings is 0"},
        {"\"quantization\":4", "quantization must be an object"},
        {"\"quantization\":{\"group_size\":64}", "bits is missing"},
    };
    char text[1024];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text, "{" LLAMA ",%s}", cases[i].member);
        refuse(text, LM_CORRUPT, cases[i].words);
    }
    refuse("{\"model_type\":\"llama\"}", LM_CORRUPT, "hidden_size is missing");
    refuse("{}", LM_CORRUPT, "model_type is missing");
    refuse("[]", LM_CORRUPT, "must be an object");
    refuse("{\"model_type\":", LM_CORRUPT, "config.json");
}

static void what_is_unknown_is_named_with_what_is_known(void **state) {
    (void)state;
    refuse("{\"model_type\":\"mamba\"}", LM_UNSUPPORTED, "\"mamba\" is not known; known are llama, mistral");
    refuse("{" LLAMA ",\"rope_scaling\":{\"type\":\"spiral\"}}", LM_UNSUPPORTED,
           "rope scaling \"spiral\" is not known; known are default, linear");
    refuse("{" LLAMA ",\"layer_types\":[\"full_attention\",\"linear_attention\",\"full_attention\"]}",
           LM_UNSUPPORTED, "layer 1 is of type \"linear_attention\"");
    refuse("{" LLAMA ",\"quantization\":{\"bits\":4,\"group_size\":16,\"mode\":\"int4\"}}", LM_UNSUPPORTED,
           "mode \"int4\" is not known");
    refuse("{" LLAMA ",\"quantization\":{\"bits\":4,\"group_size\":16,\"mode\":\"none\"}}", LM_UNSUPPORTED,
           "mode \"none\" is not known");
    refuse("{" LLAMA ",\"quantization\":{\"bits\":4,\"group_size\":32,\"mode\":\"nvfp4\"}}", LM_UNSUPPORTED,
           "4 bits in groups of 32 (nvfp4)");
    refuse("{" LLAMA ",\"quantization\":{\"bits\":4,\"mode\":\"mxfp8\"}}", LM_UNSUPPORTED,
           "4 bits in groups of 32 (mxfp8)");
    refuse("{" LLAMA ",\"quantization\":{\"bits\":7,\"group_size\":64}}", LM_UNSUPPORTED,
           "7 bits in groups of 64");
    refuse("{" LLAMA ",\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4}}", LM_UNSUPPORTED,
           "quantised by gptq, which");
}

#define BERT                                                                                                 \
    "\"hidden_size\":64,\"num_hidden_layers\":3,\"intermediate_size\":128,\"num_attention_heads\":4,"        \
    "\"vocab_size\":100,\"max_position_embeddings\":66"

#define NOMIC                                                                                                \
    "\"model_type\":\"nomic_bert\",\"n_embd\":64,\"n_layer\":2,\"n_inner\":128,\"n_head\":4,\"vocab_size\":" \
    "9,"

static void encoders_have_words_of_their_own(void **state) {
    (void)state;
    lm_config c = parse("{\"model_type\":\"bert\"," BERT "}");
    assert_int_equal(c.n_ctx_train, 66);
    assert_int_equal(c.n_types, 2);
    assert_int_equal(c.act, LM_GLU_GELU);
    assert_float_equal(c.norm_eps, 1e-12, 1e-15);
    assert_float_equal(c.attention_scale, 0.25, 1e-6);
    lm_config_release(&c);
    c = parse("{\"model_type\":\"xlm-roberta\",\"pad_token_id\":1,\"hidden_act\":\"gelu_new\"," BERT "}");
    assert_int_equal(c.n_ctx_train, 64); /* the first two places are the padding's */
    assert_int_equal(c.first_position, 2);
    assert_int_equal(c.act, LM_GLU_GELU_TANH);
    lm_config_release(&c);
    c = parse("{\"model_type\":\"distilbert\",\"dim\":64,\"n_layers\":2,\"hidden_dim\":99,\"n_heads\":2,"
              "\"vocab_size\":9,\"activation\":\"gelu\"}");
    assert_int_equal(c.ffn, 99);
    assert_int_equal(c.n_types, 0);
    assert_int_equal(c.n_ctx_train, 512);
    lm_config_release(&c);
    c = parse("{" NOMIC "\"activation_function\":\"swiglu\",\"rotary_emb_base\":1000}");
    assert_int_equal(c.n_ctx_train, 2048);
    assert_int_equal(c.ropes[LM_ROPE_GLOBAL].n_dims, 16);
    assert_float_equal(c.ropes[LM_ROPE_GLOBAL].base, 1000, 0);
    lm_config_release(&c);
    refuse("{" NOMIC "\"activation_function\":\"gelu\"}", LM_UNSUPPORTED, "only swiglu");
    refuse("{" NOMIC "\"activation_function\":\"swiglu\",\"moe_every_n_layers\":2}", LM_UNSUPPORTED,
           "experts");
    refuse("{" NOMIC "\"activation_function\":\"swiglu\",\"prenorm\":true}", LM_UNSUPPORTED, "prenorm");
    refuse("{\"model_type\":\"bert\"}", LM_CORRUPT, "hidden_size");
    refuse("{\"model_type\":\"bert\",\"hidden_act\":\"relu\"," BERT "}", LM_UNSUPPORTED,
           "\"relu\" is not known");
    refuse("{\"model_type\":\"bert\",\"position_embedding_type\":\"relative_key\"," BERT "}", LM_UNSUPPORTED,
           "relative_key");
    refuse("{\"model_type\":\"bert\",\"is_decoder\":true," BERT "}", LM_UNSUPPORTED, "is_decoder");
    refuse("{\"model_type\":\"roberta\",\"pad_token_id\":65," BERT "}", LM_CORRUPT, "no position");
    refuse("{\"model_type\":\"bert\",\"hidden_size\":66,\"num_hidden_layers\":1,\"intermediate_size\":8,"
           "\"num_attention_heads\":4,\"vocab_size\":9}",
           LM_CORRUPT, "attention heads in a width of 66");
}

static void a_decoder_that_reads_both_ways_is_refused(void **state) {
    (void)state;
    refuse("{\"model_type\":\"gemma3_text\",\"use_bidirectional_attention\":true}", LM_UNSUPPORTED,
           "both ways");
    refuse("{" LLAMA ",\"is_causal\":false}", LM_UNSUPPORTED, "both ways (is_causal: false)");
    lm_config c = parse("{" LLAMA ",\"is_causal\":true,\"use_bidirectional_attention\":false}");
    lm_config_release(&c);
}

static void each_family_of_the_list_is_found(void **state) {
    (void)state;
    char *names = lm_strdup(lm_family_names()), *rest = names;
    int n = 0;
    for (char *name = strtok_r(names, ", ", &rest); name; name = strtok_r(NULL, ", ", &rest)) {
        if (!strcmp(name, "and")) continue;
        assert_non_null(lm_family_find(name));
        n++;
    }
    assert_int_equal(n, 19);
    free(names);
}

static void windows_follow_layer_types_or_the_familys_rule(void **state) {
    (void)state;
    char text[1024];
    snprintf(text, sizeof text,
             "{" LLAMA ",\"sliding_window\":5,\"layer_types\":[\"full_attention\",\"sliding_attention\","
             "\"full_attention\"]}");
    lm_config c = parse(text);
    assert_int_equal(c.layers[0].window, 0);
    assert_int_equal(c.layers[1].window, 5);
    assert_int_equal(c.window, 5);
    lm_config_release(&c);

    snprintf(text, sizeof text, "{" LLAMA ",\"sliding_window\":5}"); /* Llama has none by itself */
    c = parse(text);
    assert_int_equal(c.window, 0);
    lm_config_release(&c);

#define SHAPE                                                                                                \
    "\"hidden_size\":64,\"num_hidden_layers\":3,\"intermediate_size\":128,\"num_attention_heads\":4,"        \
    "\"rms_norm_eps\":1e-5,\"vocab_size\":100,\"sliding_window\":5"
    c = parse("{\"model_type\":\"mistral\"," SHAPE "}");
    assert_int_equal(c.layers[2].window, 5);
    lm_config_release(&c);
    c = parse("{\"model_type\":\"gemma2\"," SHAPE "}");
    assert_int_equal(c.layers[0].window, 5);
    assert_int_equal(c.layers[1].window, 0);
    lm_config_release(&c);
    c = parse("{\"model_type\":\"qwen2\"," SHAPE ",\"use_sliding_window\":false}");
    assert_int_equal(c.window, 0);
    lm_config_release(&c);
    c = parse("{\"model_type\":\"qwen2\"," SHAPE ",\"use_sliding_window\":true,\"max_window_layers\":2}");
    assert_int_equal(c.layers[1].window, 0);
    assert_int_equal(c.layers[2].window, 5);
    lm_config_release(&c);
}

static void a_stretched_context_is_reported_as_such(void **state) {
    (void)state;
    lm_config c = parse("{" LLAMA ",\"max_position_embeddings\":32768,\"rope_scaling\":{\"type\":\"yarn\","
                        "\"factor\":4.0,\"original_max_position_embeddings\":32768}}");
    assert_int_equal(c.n_ctx_train, 131072);
    lm_config_release(&c);
    c = parse("{" LLAMA ",\"max_position_embeddings\":131072,\"rope_scaling\":{\"rope_type\":\"llama3\","
              "\"factor\":32.0,\"original_max_position_embeddings\":8192}}");
    assert_int_equal(c.n_ctx_train, 131072);
    lm_config_release(&c);
}

/* Values of mlx-lm 0.32.2's Llama3RoPE and YarnRoPE (1 / freqs) for the numbers below. */
static void scaled_frequencies_are_those_of_the_reference(void **state) {
    (void)state;
    float f[8];
    lm_rope rope;
    lm_config c =
        parse("{" LLAMA ",\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":32.0,"
              "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}}");
    static const float llama3[8] = {1.0f,           0.19392276f,    0.037606031f,   0.0072926651f,
                                    0.00042955668f, 8.5702559e-06f, 1.6619674e-06f, 3.2229329e-07f};
    lm_rope_make(&c.ropes[0], 4096, f, &rope);
    assert_int_equal(rope.n_dims, 16);
    for (int i = 0; i < 8; i++) assert_float_equal(f[i] / llama3[i], 1, 1e-5);
    lm_config_release(&c);

    c = parse("{" LLAMA ",\"rope_theta\":150000,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":32.0,"
              "\"beta_fast\":32.0,\"beta_slow\":1.0,\"original_max_position_embeddings\":4096}}");
    static const float yarn[8] = {1.0f,           0.225418f,      0.050813273f,  0.0077554653f,
                                  0.00091445434f, 1.8188337e-05f, 4.099978e-06f, 9.2420896e-07f};
    lm_rope_make(&c.ropes[0], 4096, f, &rope);
    for (int i = 0; i < 8; i++) assert_float_equal(f[i] / yarn[i], 1, 1e-5);
    assert_float_equal(rope.mscale, 1.346574, 1e-5);
    lm_config_release(&c);
}

static void hostile_rope_factors_are_refused(void **state) {
    (void)state;
    refuse("{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", LM_CORRUPT, "factor is missing");
    refuse("{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", LM_CORRUPT, "factor is 0");
    refuse("{" LLAMA ",\"rope_scaling\":{\"type\":\"longrope\",\"long_factor\":[1,2]}}", LM_CORRUPT,
           "long_factor holds 2 numbers, the model needs 8");
    refuse("{" LLAMA ",\"rope_scaling\":{\"type\":\"su\",\"long_factor\":[1,1,1,1,1,1,1,0]}}", LM_CORRUPT,
           "long_factor must hold numbers");
    refuse("{" LLAMA ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4}}",
           LM_CORRUPT, "high_freq_factor must be above");
}

static void mixtures_check_their_experts(void **state) {
    (void)state;
#define MIXTRAL                                                                                              \
    "\"model_type\":\"mixtral\",\"hidden_size\":64,\"num_hidden_layers\":3,\"intermediate_size\":128,"       \
    "\"num_attention_heads\":4,\"vocab_size\":100"
    refuse("{" MIXTRAL ",\"num_experts_per_tok\":2}", LM_CORRUPT, "num_local_experts is missing");
    refuse("{" MIXTRAL ",\"num_experts_per_tok\":9,\"num_local_experts\":8}", LM_CORRUPT,
           "num_experts_per_tok is 9, but there are 8 experts");
    refuse("{" MIXTRAL ",\"num_experts_per_tok\":2,\"num_local_experts\":1000000}", LM_CORRUPT,
           "num_local_experts is 1000000");
    lm_config c = parse("{" MIXTRAL ",\"num_experts_per_tok\":2,\"num_local_experts\":8}");
    assert_true(c.layers[0].moe);
    assert_int_equal(c.expert_ffn, 128);
    lm_config_release(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_left_out_has_the_familys_default),
        cmocka_unit_test(numbers_out_of_range_are_refused_by_name),
        cmocka_unit_test(what_is_unknown_is_named_with_what_is_known),
        cmocka_unit_test(encoders_have_words_of_their_own),
        cmocka_unit_test(a_decoder_that_reads_both_ways_is_refused),
        cmocka_unit_test(each_family_of_the_list_is_found),
        cmocka_unit_test(windows_follow_layer_types_or_the_familys_rule),
        cmocka_unit_test(a_stretched_context_is_reported_as_such),
        cmocka_unit_test(scaled_frequencies_are_those_of_the_reference),
        cmocka_unit_test(hostile_rope_factors_are_refused),
        cmocka_unit_test(mixtures_check_their_experts),
    };
    return cmocka_run_group_tests_name("config.json", tests, NULL, NULL);
}
