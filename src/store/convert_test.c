/* Conversions of small files written here: what is refused, what is left out, what the config says. That the
 * bytes are MLX's is golden.convert's and weights.quantize_test's. */
#include "base/test.h"

#include <math.h>

#include "base/json.h"
#include "store/convert.h"
#include "weights/safetensors_write.h"

#define MIXTRAL "{\"model_type\":\"mixtral\",\"num_hidden_layers\":1,\"tie_word_embeddings\":false}"
#define LLAMA                                                                                                \
    "{\"model_type\":\"llama\",\"num_hidden_layers\":1,\"tie_word_embeddings\":true,\"vision_config\":{}}"
#define OSS "{\"model_type\":\"gpt_oss\",\"quantization_config\":{\"quant_method\":\"mxfp4\"}}"

typedef struct tensor {
    const char *name;
    lm_dtype dtype;
    uint32_t n_dims;
    uint64_t dims[4];
} tensor;

/* DIR/from with these tensors, whose bytes count up, and this config.json. */
static void put_model(const char *config, const tensor *tensors, uint32_t n) {
    lm_err err = {0};
    lm_writer *w = NULL;
    lm_tensor_spec specs[16] = {{0}};
    char *from = lm_path_join(test_dir(), "from"), *path = lm_path_join(from, "model.safetensors");
    expect_ok(lm_dir_remove(from, &err), err);
    expect_ok(lm_dir_make(from, &err), err);
    put_file(from, "config.json", lm_str_of(config));
    for (uint32_t i = 0; i < n; i++) {
        specs[i] =
            (lm_tensor_spec){.name = tensors[i].name, .dtype = tensors[i].dtype, .n_dims = tensors[i].n_dims};
        memcpy(specs[i].dims, tensors[i].dims, sizeof tensors[i].dims);
    }
    expect_ok(lm_writer_open(&w, path, specs, n, &err), err);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t bytes = lm_dtype_size(specs[i].dtype);
        for (uint32_t d = 0; d < specs[i].n_dims; d++) bytes *= specs[i].dims[d];
        uint8_t *data = calloc(1, bytes + 1);
        assert_non_null(data);
        for (uint64_t k = 0; k < bytes; k++)
            data[k] = (uint8_t)(k % 60 + i); /* small, finite numbers in every type */
        expect_ok(lm_writer_put(w, i, 0, data, bytes, &err), err);
        free(data);
    }
    expect_ok(lm_writer_finish(w, &err), err);
    free(from);
    free(path);
}

static lm_status convert(const char *form, lm_weights **out, json_t **config, lm_err *err) {
    lm_conversion how;
    char *from = lm_path_join(test_dir(), "from"), *to = lm_path_join(test_dir(), "to");
    char *path = lm_path_join(to, "config.json");
    expect_ok(lm_dir_remove(to, err), *err);
    expect_ok(lm_dir_make(to, err), *err);
    lm_status st = form ? lm_conversion_parse(form, &how, err) : LM_OK;
    if (st == LM_OK) st = lm_convert_dir(from, to, form ? &how : NULL, NULL, NULL, err);
    if (st == LM_OK && out) expect_ok(lm_weights_open(out, to, err), *err);
    if (st == LM_OK && config) expect_ok(lm_json_load(path, 1 << 20, config, err), *err);
    free(from);
    free(to);
    free(path);
    return st;
}

static void refused(lm_status want, const char *form, const char *words) {
    lm_err err = {0};
    expect_fail(convert(form, NULL, NULL, &err), want, err, words);
}

static void experts_are_stacked_in_the_order_of_their_numbers(void **state) {
    (void)state;
    lm_err err = {0};
    lm_weights *w = NULL;
    lm_view v;
    static const tensor t[] = {
        {"l.block_sparse_moe.experts.1.w1.weight", LM_F16, 2, {3, 32}},
        {"l.block_sparse_moe.experts.10.w1.weight", LM_F16, 2, {3, 32}},
        {"l.block_sparse_moe.experts.0.w1.weight", LM_F16, 2, {3, 32}},
        {"l.block_sparse_moe.gate.weight", LM_F16, 2, {3, 32}},
    };
    put_model(MIXTRAL, t, 4);
    refused(LM_CORRUPT, NULL, "3 tensors belong to single experts, 2 of them");
    tensor fit[4];
    memcpy(fit, t, sizeof t);
    fit[1].name = "l.block_sparse_moe.experts.2.w1.weight";
    put_model(MIXTRAL, fit, 4);
    expect_ok(convert(NULL, &w, NULL, &err), err);
    assert_int_equal(lm_weights_count(w), 2);
    assert_true(lm_weights_find(w, "l.block_sparse_moe.switch_mlp.gate_proj.weight", &v));
    assert_int_equal(v.n_dims, 3);
    assert_int_equal(v.dims[0], 3);
    assert_int_equal(v.dims[1], 3);
    assert_int_equal(((const uint8_t *)v.data)[0], 2);   /* the third of the file */
    assert_int_equal(((const uint8_t *)v.data)[192], 0); /* the first */
    assert_int_equal(((const uint8_t *)v.data)[384], 1);
    lm_weights_close(w);
    fit[1].dims[0] = 4;
    put_model(MIXTRAL, fit, 4);
    refused(LM_CORRUPT, NULL, "another shape than expert 0's");
    for (uint32_t i = 0; i < 3; i++) {
        static const tensor odd[] = {{"l.experts.00.w1.weight", LM_F16, 2, {3, 32}},
                                     {"model.language_model.l.experts.0.w1.weight", LM_F16, 2, {3, 32}},
                                     {"l.experts.4294967296.w1.weight", LM_F16, 2, {3, 32}}};
        put_model(i == 1 ? "{\"model_type\":\"gemma3\"}" : MIXTRAL, &odd[i], 1);
        if (i < 2)
            refused(LM_CORRUPT, NULL, "there is no tensor");
        else
            expect_ok(convert(NULL, NULL, NULL, &err),
                      err); /* no number of an expert: a tensor like any other */
    }
    fit[1] = (tensor){"l.block_sparse_moe.switch_mlp.gate_proj.weight", LM_F16, 1, {1}};
    put_model(MIXTRAL, fit, 4);
    refused(LM_CORRUPT, NULL, "two tensors would both become l.block_sparse_moe.switch_mlp.gate_proj.weight");
}

static void packed_experts_need_the_shape_that_gpt_oss_has(void **state) {
    (void)state;
    lm_err err = {0};
    lm_weights *w = NULL;
    lm_view v;
    tensor t[] = {{"l.mlp.experts.gate_up_proj_blocks", LM_U8, 4, {2, 6, 3, 16}}};
    put_model(OSS, t, 1);
    expect_ok(convert(NULL, &w, NULL, &err), err);
    assert_true(lm_weights_find(w, "l.mlp.experts.up_proj.weight", &v));
    assert_int_equal(v.dtype, LM_U32);
    assert_int_equal(v.dims[1], 3);
    assert_int_equal(v.dims[2], 12);
    assert_int_equal(((const uint8_t *)v.data)[0], 48); /* of row 1 */
    lm_weights_close(w);
    static const tensor wrong[] = {
        {"l.mlp.experts.gate_up_proj_blocks", LM_U8, 4, {2, 5, 3, 16}},
        {"l.mlp.experts.gate_up_proj_blocks", LM_U8, 4, {2, 6, 3, 15}},
        {"l.mlp.experts.gate_up_proj_blocks", LM_U8, 3, {2, 6, 48}},
        {"l.mlp.experts.down_proj_blocks", LM_F16, 4, {2, 6, 3, 16}},
        {"l.mlp.experts.gate_up_proj_bias", LM_U8, 2, {2, 6}},
        {"l.mlp.experts.gate_up_proj_scales", LM_U8, 3, {2, 0, 3}},
    };
    for (uint32_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        put_model(OSS, &wrong[i], 1);
        refused(LM_CORRUPT, NULL, "not of the shape that gpt-oss has");
    }
    t[0] = (tensor){"l.mlp.experts.gate_up_proj", LM_BF16, 3, {2, 6, 48}};
    put_model(OSS, t, 1);
    refused(LM_UNSUPPORTED, NULL, "packed as MXFP4");
}

static void what_no_layer_reads_is_left_out_and_empty_tensors_stay(void **state) {
    (void)state;
    lm_err err = {0};
    lm_weights *w = NULL;
    json_t *config = NULL;
    lm_view v;
    static const tensor t[] = {
        {"model.embed_tokens.weight", LM_F32, 2, {5, 64}},
        {"lm_head.weight", LM_F32, 2, {5, 64}},
        {"model.layers.0.self_attn.rotary_emb.inv_freq", LM_F32, 1, {8}},
        {"none.weight", LM_F32, 2, {0, 64}},
        {"ids", LM_I64, 1, {3}},
        {"one", LM_F32, 0, {0}},
        {"odd.weight", LM_F32, 2, {2, 40}},
    };
    put_model(LLAMA, t, 7);
    expect_ok(convert("q4_k_s", &w, &config, &err), err);
    assert_int_equal(lm_weights_count(w), 3 + 4);
    assert_true(lm_weights_find(w, "model.embed_tokens.scales", &v));
    assert_true(lm_weights_find(w, "none.weight", &v));
    assert_int_equal(v.bytes, 0);
    assert_true(lm_weights_find(w, "odd.weight", &v)); /* no whole groups */
    assert_int_equal(v.dtype, LM_F32);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(config, "quantization"), "bits")), 4);
    assert_null(json_object_get(config, "vision_config"));
    json_decref(config);
    lm_weights_close(w);
}

static void gemma_3_gives_its_text_whichever_way_round_its_parts_are(void **state) {
    (void)state;
    lm_err err = {0};
    lm_weights *w = NULL;
    lm_view v;
    lm_form_info is;
    static const char *const names[2][4] = {{"language_model.model.norm.weight",
                                             "language_model.lm_head.weight", "vision_tower.x",
                                             "multi_modal_projector.y"},
                                            {"model.language_model.norm.weight", "lm_head.weight",
                                             "model.vision_tower.x", "model.multi_modal_projector.y"}};
    char *from = lm_path_join(test_dir(), "from");
    for (uint32_t i = 0; i < 2; i++) {
        tensor t[4];
        for (uint32_t k = 0; k < 4; k++) t[k] = (tensor){names[i][k], LM_BF16, 1, {4}};
        put_model("{\"model_type\":\"gemma3\",\"text_config\":{\"tie_word_embeddings\":true}}", t, 4);
        expect_ok(lm_convert_look(from, &is, &err), err);
        assert_int_equal(is.foreign, i == 1); /* mlx-lm knows the older way only */
        assert_string_equal(is.form, "BF16");
        expect_ok(convert(NULL, &w, NULL, &err), err);
        assert_int_equal(lm_weights_count(w), 2);
        assert_true(lm_weights_find(w, names[0][0], &v) && lm_weights_find(w, names[0][1], &v));
        lm_weights_close(w);
    }
    free(from);
}

static void damaged_numbers_and_those_beyond_a_type_are_told(void **state) {
    (void)state;
    lm_err err = {0};
    char *path = lm_path_join(test_dir(), "from/model.safetensors");
    static const tensor t[] = {{"model.embed_tokens.weight", LM_F32, 2, {5, 64}}};
    put_model(LLAMA, t, 1);
    lm_buf file;
    lm_buf_init(&file, 1 << 20);
    expect_ok(lm_file_read(path, 1 << 20, &file, &err), err);
    float big = 1e6f, strange = NAN;
    memcpy(file.ptr + file.len - 4, &big, 4);
    expect_ok(lm_file_write(path, lm_buf_view(&file), &err), err);
    refused(LM_INVALID, "f16", "too large for F16: choose bf16 or f32");
    expect_ok(convert("bf16", NULL, NULL, &err), err);
    expect_ok(convert("8bit", NULL, NULL, &err), err);
    memcpy(file.ptr + file.len - 4, &strange, 4);
    expect_ok(lm_file_write(path, lm_buf_view(&file), &err), err);
    refused(LM_CORRUPT, "8bit", "not finite");
    refused(LM_CORRUPT, "nvfp4", "not finite");
    lm_buf_release(&file);
    free(path);
}

static void what_cannot_be_converted_is_refused_before_anything_is_written(void **state) {
    (void)state;
    static const tensor f8[] = {{"a.weight", LM_F8, 2, {5, 64}}};
    static const tensor scales[] = {{"a.weight", LM_U32, 2, {5, 8}}, {"a.scales", LM_F16, 2, {5, 1}}};
    put_model(LLAMA, f8, 1);
    refused(LM_UNSUPPORTED, "4bit", "FP8");
    put_model(LLAMA, scales, 2);
    refused(LM_INVALID, "4bit", "quantization is only supported for F16 and F32 models");
    put_model("{\"model_type\":\"llama\",\"quantization_config\":{\"quant_method\":\"gptq\"}}", scales, 1);
    refused(LM_UNSUPPORTED, NULL, "quantised by gptq");
    put_model("[]", scales, 1);
    refused(LM_CORRUPT, NULL, "not an object");
    refused(LM_INVALID, "Q4_0", "unsupported quantization type Q4_0 - supported types are F32");
    char *made = lm_path_join(test_dir(), "to/config.json");
    assert_false(lm_path_is_file(made));
    free(made);
}

static void large_weights_come_in_several_files_with_an_index(void **state) {
    (void)state;
    lm_err err = {0};
    lm_weights *w = NULL;
    lm_convert_plan *p = NULL;
    json_t *index = NULL;
    lm_conversion how;
    static const tensor t[] = {{"a.weight", LM_F32, 2, {5, 64}},
                               {"b.weight", LM_F32, 2, {50, 64}},
                               {"c.weight", LM_F32, 2, {5, 64}},
                               {"d", LM_F32, 1, {9}}};
    char *from = lm_path_join(test_dir(), "from"), *to = lm_path_join(test_dir(), "to");
    char *path = lm_path_join(to, "model.safetensors.index.json"),
         *single = lm_path_join(to, "model.safetensors");
    put_model(LLAMA, t, 4);
    expect_ok(lm_dir_make(to, &err), err);
    expect_ok(lm_conversion_parse("8bit", &how, &err), err);
    expect_ok(lm_convert_plan_open(&p, from, &how, &err), err);
    assert_true(p->shard_max == UINT64_C(5) << 30);
    p->shard_max = 1000; /* a: 5 * (64 + 8) bytes; b is more; c and d fit together */
    expect_ok(lm_convert_write(p, to, NULL, NULL, &err), err);
    lm_convert_plan_close(p);
    assert_false(lm_path_is_file(single));
    expect_ok(lm_json_load(path, 1 << 20, &index, &err), err);
    const json_t *map = json_object_get(index, "weight_map");
    assert_int_equal(json_object_size(map), 3 * 3 + 1);
    assert_string_equal(json_string_value(json_object_get(map, "a.biases")),
                        "model-00001-of-00003.safetensors");
    assert_string_equal(json_string_value(json_object_get(map, "b.weight")),
                        "model-00002-of-00003.safetensors");
    assert_string_equal(json_string_value(json_object_get(map, "d")), "model-00003-of-00003.safetensors");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(index, "metadata"), "total_size")),
                     60 * 72 + 36);
    expect_ok(lm_weights_open(&w, to, &err), err); /* which holds the index against the files */
    assert_int_equal(lm_weights_bytes(w), 60 * 72 + 36);
    lm_weights_close(w);
    json_decref(index);
    free(from);
    free(to);
    free(path);
    free(single);
}

static bool stop(void *ctx, uint64_t done, uint64_t total) {
    uint32_t *calls = ctx;
    assert_true(done <= total);
    return ++*calls < 2;
}

static void a_cancelled_conversion_leaves_no_weights(void **state) {
    (void)state;
    lm_err err = {0};
    lm_conversion how;
    uint32_t calls = 0;
    static const tensor t[] = {
        {"a.weight", LM_F32, 2, {5, 64}}, {"b.weight", LM_F32, 2, {5, 64}}, {"c.weight", LM_F32, 2, {5, 64}}};
    char *from = lm_path_join(test_dir(), "from"), *to = lm_path_join(test_dir(), "to");
    char *made = lm_path_join(to, "model.safetensors");
    put_model(LLAMA, t, 3);
    expect_ok(lm_dir_make(to, &err), err);
    expect_ok(lm_conversion_parse("mxfp8", &how, &err), err);
    expect_fail(lm_convert_dir(from, to, &how, stop, &calls, &err), LM_CANCELLED, err, "cancelled");
    assert_int_equal(calls, 2);
    assert_false(lm_path_is_file(made));
    free(from);
    free(to);
    free(made);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, make_test_dir, remove_test_dir)
    const struct CMUnitTest tests[] = {
        T(experts_are_stacked_in_the_order_of_their_numbers),
        T(packed_experts_need_the_shape_that_gpt_oss_has),
        T(what_no_layer_reads_is_left_out_and_empty_tensors_stay),
        T(gemma_3_gives_its_text_whichever_way_round_its_parts_are),
        T(damaged_numbers_and_those_beyond_a_type_are_told),
        T(what_cannot_be_converted_is_refused_before_anything_is_written),
        T(large_weights_come_in_several_files_with_an_index),
        T(a_cancelled_conversion_leaves_no_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
