/* The importer over GGUF files made here: every quantised form against golden values, the permutation of
 * heads, what config.json and tokenizer.json say, and that a failed or cancelled import leaves nothing. */
#include "base/test.h"

#include <math.h>

#include "base/file.h"
#include "base/json.h"
#include "store/import_make.h"

/* ---- blocks ---------------------------------------------------------------------------------------------- */

/* What a value may be off by: nothing where scales are taken over, 2^-11 of each part where f16 rounds a
 * product, half a step of the new grid where it is put onto another one. */
static float allowed(lm_ggml_type type, float step, float bias, uint32_t bits) {
    if (type == LM_GGML_Q4_K || type == LM_GGML_Q5_K || type == LM_GGML_IQ4_XS) {
        return 0x1p-11f * (fabsf(step) * (float)((1u << bits) - 1) + fabsf(bias)) + 1e-7f;
    }
    if (type == LM_GGML_Q6_K || type == LM_GGML_Q2_K) return 0.51f * fabsf(step);
    return 0;
}

static float golden_value(const lm_view *v, uint32_t i) {
    float f;
    memcpy(&f, (const uint8_t *)v->data + 4 * i, 4);
    return f;
}

/* Code i of a row of `bits` bits each. */
static uint32_t code_at(const uint8_t *codes, uint32_t bits, uint32_t i) {
    uint32_t at = i * bits, word = codes[at / 8] | (uint32_t)codes[at / 8 + 1] << 8;
    return word >> at % 8 & ((1u << bits) - 1);
}

static void check_type(const lm_weights *golden, lm_ggml_type type) {
    char name[64];
    lm_view blocks, values;
    lm_form form;
    uint8_t codes[1024 + 1] = {0};
    uint16_t scales[32], biases[32] = {0};
    float row[1024];
    snprintf(name, sizeof name, "%s.blocks", lm_ggml_name(type));
    assert_true(lm_weights_find(golden, name, &blocks));
    snprintf(name, sizeof name, "%s.values", lm_ggml_name(type));
    assert_true(lm_weights_find(golden, name, &values));
    assert_int_equal(values.dims[0], 1024);
    assert_true(lm_form_of(type, &form));
    assert_true(lm_blocks_convert(type, blocks.data, 1024, codes, scales, biases));

    lm_matrix m = {.quant = form.quant,
                   .dtype = form.dtype,
                   .n_experts = 1,
                   .rows = 1,
                   .cols = 1024,
                   .codes = codes,
                   .row_bytes = 1024 * form.quant.bits / 8,
                   .scales = scales,
                   .biases = biases};
    lm_matrix_row(&m, 0, 0, row);
    for (uint32_t i = 0; i < 1024; i++) {
        float want = golden_value(&values, i), bound = 0;
        if (form.quant.kind == LM_QUANT_AFFINE) {
            float step = lm_f16_to_f32(scales[i / 32]), bias = lm_f16_to_f32(biases[i / 32]);
            bound = allowed(type, step, bias, form.quant.bits);
            /* the nearest code of this grid, in every form: where scales are rounded the code is the file's
             */
            if (step != 0) assert_int_equal(code_at(codes, form.quant.bits, i), lrintf((want - bias) / step));
        }
        if (!(fabsf(row[i] - want) <= bound)) {
            fail_msg("%s element %u: %g, want %g within %g", lm_ggml_name(type), i, row[i], want, bound);
        }
    }
    if (type != LM_GGML_Q6_K && type != LM_GGML_Q2_K) return;
    for (uint32_t i = 0; i < 64; i++) { /* the first two groups have factors that one grid holds */
        float want = golden_value(&values, i);
        if (fabsf(row[i] - want) > 0x1p-10f * (type == LM_GGML_Q2_K ? 0.5f : fabsf(want)))
            fail_msg("%s element %u: %g, want %g", lm_ggml_name(type), i, row[i], want);
    }
}

static void every_form_keeps_its_values(void **state) {
    (void)state;
    static const lm_ggml_type types[] = {LM_GGML_Q4_0,   LM_GGML_Q4_1,  LM_GGML_Q5_0, LM_GGML_Q5_1,
                                         LM_GGML_Q8_0,   LM_GGML_Q4_K,  LM_GGML_Q5_K, LM_GGML_Q6_K,
                                         LM_GGML_MXFP4,  LM_GGML_Q2_K,  LM_GGML_Q3_K, LM_GGML_IQ4_NL,
                                         LM_GGML_IQ4_XS, LM_GGML_TQ1_0, LM_GGML_TQ2_0};
    lm_err err = {0};
    lm_weights *golden = NULL;
    expect_ok(lm_weights_open(&golden, LM_SOURCE_DIR "/tests/golden/import", &err), err);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) check_type(golden, types[i]);
    lm_weights_close(golden);
}

static void a_scale_that_is_no_number_is_refused(void **state) {
    (void)state;
    uint8_t block[210] = {0};
    uint8_t codes[256];
    uint16_t scales[8], biases[8];
    assert_true(lm_blocks_convert(LM_GGML_Q4_0, block, 32, codes, scales, biases));
    block[1] = 0x7c; /* infinity */
    assert_false(lm_blocks_convert(LM_GGML_Q4_0, block, 32, codes, scales, biases));
    block[1] = 0x7b; /* 57344: 8 of it is beyond f16 */
    assert_false(lm_blocks_convert(LM_GGML_Q4_0, block, 32, codes, scales, biases));
    memset(block, 0xff, sizeof block); /* NaN */
    assert_false(lm_blocks_convert(LM_GGML_Q6_K, block, 256, codes, scales, biases));
    assert_false(lm_blocks_convert(LM_GGML_Q2_K, block, 256, codes, scales, biases));
    assert_false(lm_blocks_convert(LM_GGML_Q3_K, block, 256, codes, scales, biases));
    assert_false(lm_blocks_convert(LM_GGML_IQ4_XS, block, 256, codes, scales, biases));
    assert_false(lm_blocks_convert(LM_GGML_TQ1_0, block, 256, codes, scales, biases));
    assert_false(lm_blocks_convert(LM_GGML_MXFP4, block, 32, codes, scales, biases));
}

/* ---- whole files ----------------------------------------------------------------------------------------- */

/* A llama of one layer, two heads of 4, width 32: as small as Q8_0 rows allow. */
static const char *const words[] = {"a", "b", "ab", "\xc4\xa0", "<|im_end|>"};

static void tiny_vocab(gguf_make *m) {
    gguf_make_str(m, "tokenizer.ggml.model", "gpt2");
    gguf_make_str(m, "tokenizer.ggml.pre", "qwen2");
    gguf_make_array(m, "tokenizer.ggml.tokens", 8, 5);
    for (int i = 0; i < 5; i++) gguf_make_text(&m->keys, words[i]);
    gguf_make_array(m, "tokenizer.ggml.token_type", 5, 5);
    for (int i = 0; i < 5; i++) gguf_make_int(&m->keys, i == 4 ? 3 : 1, 4);
    gguf_make_array(m, "tokenizer.ggml.merges", 8, 1);
    gguf_make_text(&m->keys, "a b");
    gguf_make_u32(m, "tokenizer.ggml.eos_token_id", 4);
    gguf_make_str(m, "tokenizer.chat_template", "{{ messages }}");
}

static void tiny_model(gguf_make *m) {
    static const uint8_t q8[8 * 34] = {0, 0x3c, 1, 2, 0xff};
    gguf_make_init(m);
    gguf_make_str(m, "general.architecture", "llama");
    gguf_make_u32(m, "llama.block_count", 1);
    gguf_make_u32(m, "llama.context_length", 128);
    gguf_make_u32(m, "llama.embedding_length", 32);
    gguf_make_u32(m, "llama.feed_forward_length", 64);
    gguf_make_u32(m, "llama.attention.head_count", 2);
    gguf_make_u32(m, "llama.attention.key_length", 4);
    gguf_make_f32(m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_make_f32(m, "llama.rope.freq_base", 10000.0f);
    tiny_vocab(m);
    tiny_tensor(m, "token_embd.weight", 5, 32);
    tiny_tensor(m, "output_norm.weight", 1, 32);
    tiny_tensor(m, "blk.0.attn_q.weight", 8, 32);
    tiny_tensor(m, "blk.0.attn_q.bias", 1, 8);
    gguf_make_tensor(m, "blk.0.attn_v.weight", LM_GGML_Q8_0, 2, (uint64_t[]){32, 8}, q8, sizeof q8);
}

static void check_weights(const char *model) {
    lm_err err = {0};
    lm_weights *w = NULL;
    lm_matrix m;
    lm_view v;
    float row[32];
    expect_ok(lm_weights_open(&w, model, &err), err);
    lm_quant_spec none = {LM_QUANT_NONE, 0, 0}, q8 = {LM_QUANT_AFFINE, 8, 32};
    expect_ok(lm_weights_matrix(w, "model.layers.0.self_attn.q_proj", none, 1, 8, 32, &m, &err), err);
    static const int order[8] = {0, 2, 1, 3, 4, 6, 5, 7}; /* pairs back into halves, head by head */
    for (uint32_t r = 0; r < 8; r++) {
        lm_matrix_row(&m, 0, r, row);
        assert_true(row[0] == (float)(order[r] * 32));
        assert_true(row[31] == (float)(order[r] * 32 + 31));
    }
    assert_true(lm_weights_find(w, "model.layers.0.self_attn.q_proj.bias", &v));
    assert_int_equal(v.dtype, LM_F16); /* whole numbers are exact there */
    for (uint32_t i = 0; i < 8; i++) {
        uint16_t h;
        memcpy(&h, (const uint8_t *)v.data + 2 * i, 2);
        assert_true(lm_f16_to_f32(h) == (float)order[i]);
    }
    expect_ok(lm_weights_matrix(w, "model.layers.0.self_attn.v_proj", q8, 1, 8, 32, &m, &err), err);
    lm_matrix_row(&m, 0, 0, row);
    assert_true(row[0] == 1 && row[1] == 2 && row[2] == -1 && row[3] == 0);
    lm_weights_close(w);
}

static void a_model_becomes_a_directory_that_says_the_same(void **state) {
    (void)state;
    lm_err err = {0};
    gguf_make m;
    tiny_model(&m);
    char *in = put(&m), *out = lm_path_join(test_dir(), "out");
    expect_ok(lm_import_gguf(in, out, NULL, NULL, &err), err);
    check_weights(out);

    json_t *config = load_json(out, "config.json");
    assert_string_equal(json_string_value(json_object_get(config, "model_type")), "llama");
    assert_int_equal(json_integer_value(json_object_get(config, "vocab_size")), 5);
    assert_int_equal(json_integer_value(json_object_get(config, "num_key_value_heads")), 2);
    assert_int_equal(json_integer_value(json_object_get(config, "eos_token_id")), 4);
    assert_true(json_is_true(json_object_get(config, "tie_word_embeddings")));
    assert_true(json_is_true(json_object_get(config, "attention_bias")));
    assert_true(json_real_value(json_object_get(config, "rms_norm_eps")) == 1e-5);
    const json_t *q = json_object_get(config, "quantization");
    assert_int_equal(json_integer_value(json_object_get(q, "bits")), 8);
    assert_int_equal(json_integer_value(json_object_get(q, "group_size")), 32);
    assert_true(json_is_false(json_object_get(q, "model.embed_tokens")));
    assert_null(json_object_get(q, "model.norm"));
    json_decref(config);

    json_t *tokenizer = load_json(out, "tokenizer.json");
    const json_t *model = json_object_get(tokenizer, "model");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(model, "vocab"), "ab")), 2);
    assert_int_equal(json_array_size(json_object_get(model, "merges")), 1);
    const json_t *added = json_array_get(json_object_get(tokenizer, "added_tokens"), 0);
    assert_string_equal(json_string_value(json_object_get(added, "content")), "<|im_end|>");
    assert_string_equal(json_string_value(json_object_get(json_object_get(tokenizer, "normalizer"), "type")),
                        "NFC");
    json_decref(tokenizer);
    char *chat = lm_path_join(out, "chat_template.jinja");
    assert_true(lm_path_is_file(chat));
    free(chat);

    expect_fail(lm_import_gguf(in, out, NULL, NULL, &err), LM_INVALID, err, "exists already");
    free(in);
    free(out);
    gguf_make_release(&m);
}

static bool cancel(void *ctx, uint64_t done, uint64_t total) {
    (void)total;
    uint32_t *left = ctx;
    assert_true(done > 0);
    return (*left)-- > 0;
}

static void a_cancelled_import_leaves_nothing(void **state) {
    (void)state;
    gguf_make m;
    tiny_model(&m);
    char *in = put(&m), *out = lm_path_join(test_dir(), "out");
    for (uint32_t after = 0; after < 4; after++) {
        lm_err err = {0};
        uint32_t left = after;
        expect_fail(lm_import_gguf(in, out, cancel, &left, &err), LM_CANCELLED, err, "cancelled");
        leaves_nothing(out);
    }
    free(in);
    free(out);
    gguf_make_release(&m);
}

static void what_can_not_be_imported_is_named(void **state) {
    (void)state;
    gguf_make m;

    gguf_make_init(&m);
    gguf_make_str(&m, "general.architecture", "rwkv7");
    expect_refused(&m, LM_UNSUPPORTED, "architecture rwkv7 is not supported; known are llama, qwen2");
    gguf_make_release(&m);

    tiny_model(&m);
    gguf_make_tensor(&m, "blk.0.ssm_conv1d.weight", LM_GGML_F32, 1, (uint64_t[]){1}, "abcd", 4);
    expect_refused(&m, LM_UNSUPPORTED, "blk.0.ssm_conv1d.weight has no place");
    gguf_make_release(&m);

    tiny_model(&m);
    char iq[66] = {0};
    gguf_make_tensor(&m, "blk.0.attn_k.weight", LM_GGML_IQ2_XXS, 2, (uint64_t[]){256, 1}, iq, sizeof iq);
    expect_refused(&m, LM_UNSUPPORTED, "of type IQ2_XXS");
    gguf_make_release(&m);

    tiny_model(&m);
    m.keys.ptr[8] = 'X'; /* the first key gets another name: Xeneral.architecture */
    expect_refused(&m, LM_CORRUPT, "names no general.architecture");
    gguf_make_release(&m);

    gguf_make_init(&m);
    gguf_make_str(&m, "general.architecture", "qwen2");
    expect_refused(&m, LM_CORRUPT, "holds no token_embd.weight");
    tiny_tensor(&m, "token_embd.weight", 5, 32);
    expect_refused(&m, LM_CORRUPT, "qwen2.block_count is missing");
    gguf_make_release(&m);
}

/* A good model apart from its vocabulary, which `spoil` writes. */
static void expect_vocab_refused(void (*spoil)(gguf_make *), lm_status want, const char *text) {
    gguf_make m;
    gguf_make_init(&m);
    gguf_make_str(&m, "general.architecture", "llama");
    gguf_make_u32(&m, "llama.block_count", 1);
    gguf_make_u32(&m, "llama.context_length", 128);
    gguf_make_u32(&m, "llama.embedding_length", 32);
    gguf_make_u32(&m, "llama.feed_forward_length", 64);
    gguf_make_u32(&m, "llama.attention.head_count", 2);
    tiny_tensor(&m, "token_embd.weight", 5, 32);
    spoil(&m);
    expect_refused(&m, want, text);
    gguf_make_release(&m);
}

static void three_tokens(gguf_make *m, const char *third, const char *pre) {
    gguf_make_str(m, "tokenizer.ggml.model", "gpt2");
    gguf_make_str(m, "tokenizer.ggml.pre", pre);
    gguf_make_array(m, "tokenizer.ggml.tokens", 8, 3);
    gguf_make_text(&m->keys, "a");
    gguf_make_text(&m->keys, "b");
    gguf_make_text(&m->keys, third);
}

static void no_tokens(gguf_make *m) {
    gguf_make_str(m, "tokenizer.ggml.model", "gpt2");
}
static void same_tokens(gguf_make *m) {
    three_tokens(m, "a", "qwen2");
}
static void bad_utf8(gguf_make *m) {
    three_tokens(m, "\xff", "qwen2");
}
static void unknown_pre(gguf_make *m) {
    three_tokens(m, "ab", "kimi-k2");
}
static void no_merges(gguf_make *m) {
    three_tokens(m, "ab", "qwen2");
}
static void odd_merge(gguf_make *m) {
    three_tokens(m, "ab", "qwen2");
    gguf_make_array(m, "tokenizer.ggml.merges", 8, 1);
    gguf_make_text(&m->keys, "a c");
}
static void eos_beyond(gguf_make *m) {
    three_tokens(m, "ab", "qwen2");
    gguf_make_u32(m, "tokenizer.ggml.eos_token_id", 3);
}
static void many_tokens(gguf_make *m) {
    gguf_make_str(m, "tokenizer.ggml.model", "gpt2");
    gguf_make_array(m, "tokenizer.ggml.tokens", 8, 6);
    for (int i = 0; i < 6; i++) gguf_make_text(&m->keys, (char[]){(char)('a' + i), 0});
}
static void few_types(gguf_make *m) {
    three_tokens(m, "ab", "qwen2");
    gguf_make_array(m, "tokenizer.ggml.token_type", 5, 1);
    gguf_make_int(&m->keys, 1, 4);
}

static void vocabularies_that_lie_are_refused(void **state) {
    (void)state;
    expect_vocab_refused(no_tokens, LM_CORRUPT, "holds 0 tokens");
    expect_vocab_refused(same_tokens, LM_CORRUPT, "tokens 0 and 2 are the same");
    expect_vocab_refused(bad_utf8, LM_CORRUPT, "token 2 is not valid UTF-8");
    expect_vocab_refused(unknown_pre, LM_UNSUPPORTED, "pre-tokenizer 'kimi-k2'");
    expect_vocab_refused(no_merges, LM_CORRUPT, "no tokenizer.ggml.merges");
    expect_vocab_refused(odd_merge, LM_CORRUPT, "merge 0 is not of two tokens");
    expect_vocab_refused(eos_beyond, LM_CORRUPT, "eos_token_id is 3, the vocabulary has 3");
    expect_vocab_refused(many_tokens, LM_CORRUPT, "has 6 tokens, token_embd.weight 5 rows");
    expect_vocab_refused(few_types, LM_CORRUPT, "1 entries for 3 tokens");
}

static void scores_become_merges_best_first(void **state) {
    (void)state;
    static const char *const pieces[] = {"<unk>", "a", "b", "ab", "aba", "ba"};
    static const float scores[] = {0, -1, -2, -3, -5, -4};
    lm_err err = {0};
    lm_gguf *g = NULL;
    lm_vocab v;
    lm_buf b;
    gguf_make m;
    gguf_make_init(&m);
    gguf_make_str(&m, "tokenizer.ggml.model", "llama");
    gguf_make_array(&m, "tokenizer.ggml.tokens", 8, 6);
    for (int i = 0; i < 6; i++) gguf_make_text(&m.keys, pieces[i]);
    gguf_make_array(&m, "tokenizer.ggml.scores", 6, 6);
    for (int i = 0; i < 6; i++) {
        uint32_t u;
        memcpy(&u, &scores[i], 4);
        gguf_make_int(&m.keys, u, 4);
    }
    char *in = put(&m);
    expect_ok(lm_gguf_open(&g, in, &err), err);
    expect_ok(lm_vocab_open(&v, g, &err), err);
    lm_buf_init(&b, 4096);
    expect_ok(lm_spm_merges(&v, &b, &err), err);
    /* ab (-3), ba (-4), then aba (-5) with the longer left part first */
    assert_string_equal(b.ptr, "\n[\"a\",\"b\"],\n[\"b\",\"a\"],\n[\"ab\",\"a\"],\n[\"a\",\"ba\"]");
    lm_buf_release(&b);
    lm_vocab_release(&v);
    lm_gguf_close(g);
    gguf_make_release(&m);
    free(in);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_form_keeps_its_values),
        cmocka_unit_test(a_scale_that_is_no_number_is_refused),
        cmocka_unit_test_setup_teardown(a_model_becomes_a_directory_that_says_the_same, make_test_dir,
                                        remove_test_dir),
        cmocka_unit_test_setup_teardown(a_cancelled_import_leaves_nothing, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(what_can_not_be_imported_is_named, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(vocabularies_that_lie_are_refused, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(scores_become_merges_best_first, make_test_dir, remove_test_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
