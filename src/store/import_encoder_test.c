/* Encoders through the importer: names of tensors, config.json, pooling, and the two kinds of vocabulary that
 * only they have. */
#include "store/import_make.h"

static void shape(gguf_make *m, const char *arch) {
    static const struct {
        const char *key;
        uint32_t value;
    } keys[] = {{"block_count", 1},          {"context_length", 16},      {"embedding_length", 8},
                {"feed_forward_length", 16}, {"attention.head_count", 2}, {"pooling_type", 1}};
    gguf_make_init(m);
    gguf_make_str(m, "general.architecture", arch);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char key[64];
        snprintf(key, sizeof key, "%s.%s", arch, keys[i].key);
        gguf_make_u32(m, key, keys[i].value);
    }
}

static void strings(gguf_make *m, const char *key, uint32_t n, const char *const *texts) {
    gguf_make_array(m, key, 8, n);
    for (uint32_t i = 0; i < n; i++) gguf_make_text(&m->keys, texts[i]);
}

static const char *const words[] = {"[PAD]",  "[UNK]",       "[CLS]", "[SEP]",
                                    "[MASK]", "\u2581hello", "s",     "\u2581["};
enum { N_WORDS = sizeof words / sizeof *words };

static void wordpiece(gguf_make *m, uint32_t n, const char *const *tokens) {
    gguf_make_str(m, "tokenizer.ggml.model", "bert");
    strings(m, "tokenizer.ggml.tokens", n, tokens);
}

static void norm(gguf_make *m, const char *stem) {
    char name[96];
    snprintf(name, sizeof name, "%s.weight", stem);
    tiny_tensor(m, name, 1, 8);
    snprintf(name, sizeof name, "%s.bias", stem);
    tiny_tensor(m, name, 1, 8);
}

static void bert(gguf_make *m, bool types) {
    shape(m, "bert");
    wordpiece(m, N_WORDS, words);
    tiny_tensor(m, "token_embd.weight", N_WORDS, 8);
    tiny_tensor(m, "position_embd.weight", 16, 8);
    if (types) tiny_tensor(m, "token_types.weight", 2, 8);
    norm(m, "token_embd_norm");
    tiny_tensor(m, "blk.0.attn_q.weight", 8, 8);
    norm(m, "blk.0.layer_output_norm");
}

static char *imported(const gguf_make *m) {
    lm_err err = {0};
    char *in = put(m), *out = lm_path_join(test_dir(), "out");
    expect_ok(lm_import_gguf(in, out, NULL, NULL, &err), err);
    free(in);
    return out;
}

static void has_tensors(const char *dir, const char *const *names) {
    lm_err err = {0};
    lm_weights *w = NULL;
    lm_view v;
    expect_ok(lm_weights_open(&w, dir, &err), err);
    for (; *names; names++) {
        if (!lm_weights_find(w, *names, &v)) fail_msg("no tensor %s", *names);
    }
    lm_weights_close(w);
}

static const char *text_of(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static json_int_t number_of(const json_t *o, const char *key) {
    return json_integer_value(json_object_get(o, key));
}

static void a_bert_file_becomes_an_embedder_s_directory(void **state) {
    (void)state;
    gguf_make m;
    bert(&m, true);
    char *out = imported(&m);
    has_tensors(out, (const char *const[]){
                         "embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight",
                         "embeddings.token_type_embeddings.weight", "embeddings.LayerNorm.bias",
                         "encoder.layer.0.attention.self.query.weight",
                         "encoder.layer.0.output.LayerNorm.weight", NULL});
    json_t *config = load_json(out, "config.json");
    assert_string_equal(text_of(config, "model_type"), "bert");
    assert_int_equal(number_of(config, "hidden_size"), 8);
    assert_int_equal(number_of(config, "max_position_embeddings"), 16);
    assert_int_equal(number_of(config, "type_vocab_size"), 2);
    assert_int_equal(number_of(config, "vocab_size"), N_WORDS);
    assert_int_equal(number_of(config, "pad_token_id"), 0);
    json_decref(config);

    json_t *modules = load_json(out, "modules.json");
    assert_int_equal(json_array_size(modules), 3);
    assert_string_equal(text_of(json_array_get(modules, 1), "path"), "1_Pooling");
    assert_string_equal(text_of(json_array_get(modules, 2), "type"),
                        "sentence_transformers.models.Normalize");
    json_decref(modules);
    json_t *pooling = load_json(out, "1_Pooling/config.json");
    assert_true(json_is_true(json_object_get(pooling, "pooling_mode_mean_tokens")));
    assert_true(json_is_false(json_object_get(pooling, "pooling_mode_cls_token")));
    json_decref(pooling);
    free(out);
    gguf_make_release(&m);
}

static void without_token_types_it_is_distilbert(void **state) {
    (void)state;
    gguf_make m;
    bert(&m, false);
    char *out = imported(&m);
    has_tensors(out, (const char *const[]){"transformer.layer.0.attention.q_lin.weight",
                                           "transformer.layer.0.output_layer_norm.bias", NULL});
    json_t *config = load_json(out, "config.json");
    assert_string_equal(text_of(config, "model_type"), "distilbert");
    assert_int_equal(number_of(config, "dim"), 8);
    json_decref(config);
    free(out);
    gguf_make_release(&m);
}

static void nomic_s_heads_turn_and_its_mlp_has_a_gate(void **state) {
    (void)state;
    gguf_make m;
    shape(&m, "nomic-bert");
    wordpiece(&m, N_WORDS, words);
    tiny_tensor(&m, "token_embd.weight", N_WORDS, 8);
    tiny_tensor(&m, "token_types.weight", 2, 8);
    norm(&m, "token_embd_norm");
    tiny_tensor(&m, "blk.0.attn_qkv.weight", 24, 8);
    tiny_tensor(&m, "blk.0.ffn_gate.weight", 16, 8);
    tiny_tensor(&m, "blk.0.ffn_up.weight", 16, 8);
    char *out = imported(&m);
    has_tensors(out, (const char *const[]){"emb_ln.weight", "encoder.layers.0.attn.Wqkv.weight",
                                           "encoder.layers.0.mlp.fc12.weight",
                                           "encoder.layers.0.mlp.fc11.weight", NULL});
    json_t *config = load_json(out, "config.json");
    assert_int_equal(number_of(config, "max_trained_positions"), 16);
    assert_true(json_real_value(json_object_get(config, "rotary_emb_base")) == 1000);
    assert_string_equal(text_of(config, "activation_function"), "swiglu");
    json_decref(config);
    free(out);
    gguf_make_release(&m);
}

static void what_is_no_encoder_for_embeddings_is_refused(void **state) {
    (void)state;
    gguf_make m;

    shape(&m, "bert");
    m.keys.ptr[m.keys.len - 4] = 4; /* pooling_type */
    wordpiece(&m, N_WORDS, words);
    tiny_tensor(&m, "token_embd.weight", N_WORDS, 8);
    tiny_tensor(&m, "position_embd.weight", 16, 8);
    expect_refused(&m, LM_UNSUPPORTED, "a reranker");
    gguf_make_release(&m);

    bert(&m, true);
    gguf_make_bool(&m, "bert.attention.causal", true);
    expect_refused(&m, LM_UNSUPPORTED, "reads from left to right");
    gguf_make_release(&m);

    bert(&m, true);
    gguf_make_u32(&m, "bert.attention.key_length", 8);
    expect_refused(&m, LM_CORRUPT, "2 heads of 8 elements in a width of 8");
    gguf_make_release(&m);

    shape(&m, "bert");
    wordpiece(&m, N_WORDS, words);
    tiny_tensor(&m, "token_embd.weight", N_WORDS, 8);
    tiny_tensor(&m, "position_embd.weight", 15, 8);
    expect_refused(&m, LM_CORRUPT, "position_embd.weight has 15 rows, context_length says 16");
    gguf_make_release(&m);
}

/* ---- vocabularies */

/* tokenizer.json of a file that has nothing else. */
static json_t *tokenizer_of(const gguf_make *m) {
    lm_err err = {0};
    lm_gguf *g = NULL;
    char *in = put(m);
    expect_ok(lm_gguf_open(&g, in, &err), err);
    expect_ok(lm_import_tokenizer(g, test_dir(), &err), err);
    lm_gguf_close(g);
    free(in);
    return load_json(test_dir(), "tokenizer.json");
}

static json_int_t vocab_id(const json_t *tokenizer, const char *token) {
    const json_t *vocab = json_object_get(json_object_get(tokenizer, "model"), "vocab");
    const json_t *id = json_object_get(vocab, token);
    return id ? json_integer_value(id) : -1;
}

static void a_word_s_pieces_get_their_marks_back(void **state) {
    (void)state;
    gguf_make m;
    gguf_make_init(&m);
    wordpiece(&m, N_WORDS, words);
    json_t *t = tokenizer_of(&m);
    assert_int_equal(vocab_id(t, "hello"), 5);
    assert_int_equal(vocab_id(t, "##s"), 6);
    assert_int_equal(vocab_id(t, "["), 7);
    assert_int_equal(vocab_id(t, "[CLS]"), 2);
    assert_int_equal(json_array_size(json_object_get(t, "added_tokens")), 5);
    const json_t *single = json_object_get(json_object_get(t, "post_processor"), "single");
    assert_string_equal(text_of(json_object_get(json_array_get(single, 0), "SpecialToken"), "id"), "[CLS]");
    assert_string_equal(text_of(json_object_get(json_array_get(single, 2), "SpecialToken"), "id"), "[SEP]");
    assert_true(json_is_true(json_object_get(json_object_get(t, "normalizer"), "lowercase")));
    json_decref(t);
    gguf_make_release(&m);
}

static void capitals_in_a_vocabulary_keep_the_text_s(void **state) {
    (void)state;
    for (uint32_t lower = 1; lower <= 100;
         lower += 99) { /* one of two; one of 101, as a vocabulary in Chinese may have */
        char made[100][8];
        const char *tokens[104] = {"[UNK]", "[CLS]", "[SEP]", "\u2581Hello"};
        gguf_make m;
        for (uint32_t i = 0; i < lower; i++) {
            snprintf(made[i], sizeof made[i], "w%u", i);
            tokens[4 + i] = made[i];
        }
        gguf_make_init(&m);
        wordpiece(&m, 4 + lower, tokens);
        json_t *t = tokenizer_of(&m);
        const json_t *normalizer = json_object_get(t, "normalizer");
        assert_int_equal(json_is_true(json_object_get(normalizer, "lowercase")), lower == 100);
        json_decref(t);
        gguf_make_release(&m);
    }
}

static void roberta_s_text_has_both_ends(void **state) {
    (void)state;
    static const char *const tokens[] = {"<s>", "<pad>", "</s>", "a"};
    gguf_make m;
    gguf_make_init(&m);
    gguf_make_str(&m, "tokenizer.ggml.model", "gpt2");
    gguf_make_str(&m, "tokenizer.ggml.pre", "roberta-bpe");
    strings(&m, "tokenizer.ggml.tokens", 4, tokens);
    gguf_make_array(&m, "tokenizer.ggml.merges", 8, 0);
    gguf_make_u32(&m, "tokenizer.ggml.bos_token_id", 0);
    gguf_make_u32(&m, "tokenizer.ggml.eos_token_id", 2);
    json_t *t = tokenizer_of(&m);
    const json_t *single = json_object_get(json_object_get(t, "post_processor"), "single");
    assert_string_equal(text_of(json_object_get(json_array_get(single, 0), "SpecialToken"), "id"), "<s>");
    assert_string_equal(text_of(json_object_get(json_array_get(single, 2), "SpecialToken"), "id"), "</s>");
    json_decref(t);
    gguf_make_release(&m);
}

static void unigram(gguf_make *m, uint32_t unknown) {
    static const char *const pieces[] = {"<s>", "<pad>", "</s>", "<unk>", "\u2581a", "[PAD5]"};
    static const float scores[] = {0, 0, 0, 0, -1.5f, -10000};
    static const int types[] = {3, 3, 3, 2, 1, 5};
    gguf_make_init(m);
    gguf_make_str(m, "tokenizer.ggml.model", "t5");
    strings(m, "tokenizer.ggml.tokens", 6, pieces);
    gguf_make_array(m, "tokenizer.ggml.scores", 6, 6);
    for (int i = 0; i < 6; i++) {
        uint32_t u;
        memcpy(&u, &scores[i], 4);
        gguf_make_int(&m->keys, u, 4);
    }
    gguf_make_array(m, "tokenizer.ggml.token_type", 5, 6);
    for (int i = 0; i < 6; i++) gguf_make_int(&m->keys, (uint64_t)types[i], 4);
    gguf_make_u32(m, "tokenizer.ggml.bos_token_id", 0);
    gguf_make_u32(m, "tokenizer.ggml.eos_token_id", 2);
    gguf_make_u32(m, "tokenizer.ggml.unknown_token_id", unknown);
}

static void pieces_keep_their_probabilities_and_the_table_its_bytes(void **state) {
    (void)state;
    gguf_make m;
    unigram(&m, 3);
    gguf_make_array(&m, "tokenizer.ggml.precompiled_charsmap", 0, 4);
    for (int i = 0; i < 4; i++) gguf_make_int(&m.keys, (const uint8_t[]){0, 255, 16, 77}[i], 1);
    gguf_make_bool(&m, "tokenizer.ggml.remove_extra_whitespaces", false);
    json_t *t = tokenizer_of(&m);
    assert_string_equal(text_of(json_object_get(t, "normalizer"), "precompiled_charsmap"), "AP8QTQ==");
    const json_t *model = json_object_get(t, "model"), *vocab = json_object_get(model, "vocab");
    assert_int_equal(number_of(model, "unk_id"), 3);
    assert_int_equal(json_array_size(vocab), 5); /* no filler */
    assert_true(json_number_value(json_array_get(json_array_get(vocab, 4), 1)) == -1.5);
    const json_t *cuts = json_object_get(json_object_get(t, "pre_tokenizer"), "pretokenizers");
    assert_int_equal(json_array_size(cuts), 1); /* blanks stay as they are */
    assert_string_equal(text_of(json_array_get(cuts, 0), "prepend_scheme"), "always");
    const json_t *pair = json_object_get(json_object_get(t, "post_processor"), "pair");
    assert_string_equal(text_of(json_object_get(json_array_get(pair, 3), "SpecialToken"), "id"), "</s>");
    json_decref(t);
    gguf_make_release(&m);
}

static void a_table_of_letters_is_base64_already(void **state) {
    (void)state;
    gguf_make m;
    unigram(&m, 3);
    gguf_make_array(&m, "tokenizer.ggml.precompiled_charsmap", 8, 8);
    for (const char *c = "AP8QTQ=="; *c; c++) gguf_make_text(&m.keys, (char[]){*c, 0});
    json_t *t = tokenizer_of(&m);
    assert_string_equal(text_of(json_object_get(t, "normalizer"), "precompiled_charsmap"), "AP8QTQ==");
    json_decref(t);
    gguf_make_release(&m);
}

static void expect_tokenizer_refused(const gguf_make *m, const char *text) {
    lm_err err = {0};
    lm_gguf *g = NULL;
    char *in = put(m);
    expect_ok(lm_gguf_open(&g, in, &err), err);
    expect_fail(lm_import_tokenizer(g, test_dir(), &err), LM_CORRUPT, err, text);
    lm_gguf_close(g);
    free(in);
}

static void vocabularies_that_lie_are_refused(void **state) {
    (void)state;
    gguf_make m;
    unigram(&m, UINT32_MAX); /* none, but a piece of that type */
    json_t *t = tokenizer_of(&m);
    assert_int_equal(number_of(json_object_get(t, "model"), "unk_id"), 3);
    json_decref(t);
    gguf_make_array(&m, "tokenizer.ggml.precompiled_charsmap", 5, 1);
    gguf_make_int(&m.keys, 256, 4);
    expect_tokenizer_refused(&m, "holds 256: not a byte");
    gguf_make_release(&m);

    gguf_make_init(&m);
    wordpiece(&m, 2, (const char *const[]){"\u2581a", "[CLS]"});
    expect_tokenizer_refused(&m, "no [UNK]");
    gguf_make_release(&m);

    gguf_make_init(&m); /* both mean ##a */
    wordpiece(&m, 2, (const char *const[]){"a", "\u2581##a"});
    expect_tokenizer_refused(&m, "tokens 0 and 1 are the same");
    gguf_make_release(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_bert_file_becomes_an_embedder_s_directory, make_test_dir,
                                        remove_test_dir),
        cmocka_unit_test_setup_teardown(without_token_types_it_is_distilbert, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(nomic_s_heads_turn_and_its_mlp_has_a_gate, make_test_dir,
                                        remove_test_dir),
        cmocka_unit_test_setup_teardown(what_is_no_encoder_for_embeddings_is_refused, make_test_dir,
                                        remove_test_dir),
        cmocka_unit_test_setup_teardown(a_word_s_pieces_get_their_marks_back, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(capitals_in_a_vocabulary_keep_the_text_s, make_test_dir,
                                        remove_test_dir),
        cmocka_unit_test_setup_teardown(roberta_s_text_has_both_ends, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(a_table_of_letters_is_base64_already, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(pieces_keep_their_probabilities_and_the_table_its_bytes,
                                        make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(vocabularies_that_lie_are_refused, make_test_dir, remove_test_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
