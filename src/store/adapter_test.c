/* adapter_test.c - adapters of each form into the one that is kept, and what of them is refused. That the
 * numbers mean the same as mlx-lm's: tests/adapter_golden.c. */
#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/test.h"
#include "store/adapter_private.h"
#include "store/own.h"
#include "weights/gguf_make.h"

#define Q    "base_model.model.model.layers.0.self_attn.q_proj"
#define GATE "base_model.model.model.layers.11.mlp.gate_proj"

/* A tensor of floats 0, 1, 2 ...; rows 0: a vector of cols. */
typedef struct made {
    const char *name;
    uint64_t rows, cols;
    lm_dtype dtype;
    uint64_t experts;
} made;

static void put_tensors(const char *dir, const made *list, uint32_t n) {
    lm_tensor_spec specs[8];
    lm_writer *w = NULL;
    lm_err err = {0};
    char *path = lm_path_join(dir, "in");
    unlink(path);
    for (uint32_t i = 0; i < n; i++) {
        specs[i] = (lm_tensor_spec){.name = list[i].name, .dtype = list[i].dtype};
        if (list[i].experts) specs[i].dims[specs[i].n_dims++] = list[i].experts;
        if (list[i].rows) specs[i].dims[specs[i].n_dims++] = list[i].rows;
        specs[i].dims[specs[i].n_dims++] = list[i].cols;
    }
    expect_ok(lm_writer_open(&w, path, specs, n, &err), err);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t count =
            (list[i].experts ? list[i].experts : 1) * (list[i].rows ? list[i].rows : 1) * list[i].cols;
        for (uint64_t k = 0; k < count; k++) {
            float f = (float)k;
            uint32_t size = lm_dtype_size(list[i].dtype);
            uint16_t h = lm_f32_to_f16(f);
            expect_ok(lm_writer_put(w, i, k * size, size == 2 ? (void *)&h : (void *)&f, size, &err), err);
        }
    }
    expect_ok(lm_writer_finish(w, &err), err);
    free(path);
}

/* in -> out; config NULL: none. */
static lm_status convert(const char *dir, const char *config, lm_err *err) {
    char *in = lm_path_join(dir, "in"), *out = lm_path_join(dir, "out"), *json = lm_path_join(dir, "config");
    unlink(out);
    if (config) put_file(dir, "config", lm_str_of(config));
    lm_status st = lm_import_adapter(in, config ? json : NULL, dir, out, err);
    if (st != LM_OK) assert_false(lm_path_is_file(out));
    free(in);
    free(out);
    free(json);
    return st;
}

static lm_weights *converted(const char *dir, const char *config) {
    lm_weights *w = NULL;
    lm_err err = {0};
    expect_ok(convert(dir, config, &err), err);
    expect_ok(lm_weights_open_file(&w, dir, "out", &err), err);
    return w;
}

static lm_view tensor(const lm_weights *w, const char *name) {
    lm_view v = {0};
    if (!lm_weights_find(w, name, &v)) fail_msg("%s is missing", name);
    return v;
}

static float number(const lm_view *v, uint64_t i) {
    float f;
    memcpy(&f, (const char *)v->data + 4 * i, sizeof f);
    return f;
}

static float scale_of(const lm_weights *w, const char *module) {
    char name[256];
    snprintf(name, sizeof name, "%s.scale", module);
    lm_view v = tensor(w, name);
    return number(&v, 0);
}

static const made two[] = {{Q ".lora_A.weight", 2, 3, LM_F32, 0},
                           {Q ".lora_B.weight", 5, 2, LM_F32, 0},
                           {GATE ".lora_A.weight", 4, 3, LM_F16, 0},
                           {GATE ".lora_B.weight", 6, 4, LM_F16, 0}};

static void expect_scales(const char *config, float q, float gate) {
    put_tensors(test_dir(), two, 4);
    lm_weights *w = converted(test_dir(), config);
    assert_true(fabsf(scale_of(w, "layers.0.self_attn.q_proj") - q) < 1e-6f);
    assert_true(fabsf(scale_of(w, "layers.11.mlp.gate_proj") - gate) < 1e-6f);
    lm_weights_close(w);
}

static void pefts_strength_is_of_the_rank_and_of_the_pattern(void **state) {
    (void)state;
    expect_scales("{\"r\":2,\"lora_alpha\":8}", 4, 2);
    expect_scales("{\"lora_alpha\":8,\"use_rslora\":true}", 8 / sqrtf(2), 4);
    expect_scales("{\"lora_alpha\":8,\"alpha_pattern\":{\"q_proj\":2}}", 1, 2);
    expect_scales("{\"lora_alpha\":8,\"alpha_pattern\":{\"proj\":2,\"self_attn.q_proj\":3}}", 1.5f, 2);
    expect_scales("{\"lora_alpha\":8,\"alpha_pattern\":{\"^model.layers.1\":1,\"gate_proj\":2}}", 4, 0.25f);
    expect_scales("{\"lora_alpha\":8,\"alpha_pattern\":{\"layers.1.mlp.gate_proj\":1}}", 4, 2);
    expect_scales(
        "{\"lora_alpha\":8,\"rank_pattern\":{\"q_proj\":2},\"bias\":\"none\",\"peft_type\":\"LORA\"}", 4, 2);
    lm_weights *w = converted(test_dir(), "{\"lora_alpha\":8}");
    lm_view a = tensor(w, "layers.0.self_attn.q_proj.lora_a"),
            b = tensor(w, "layers.11.mlp.gate_proj.lora_b");
    assert_int_equal(a.dims[0], 2);
    assert_int_equal(a.dims[1], 3);
    for (uint64_t i = 0; i < 6; i++) assert_true(number(&a, i) == (float)i);
    assert_int_equal(b.dtype, LM_F16);
    assert_int_equal(b.dims[0], 6);
    assert_int_equal(lm_weights_count(w), 6);
    lm_weights_close(w);
}

static void mlx_lms_matrices_are_turned(void **state) {
    (void)state;
    const made mlx[] = {{"language_model.model.layers.0.self_attn.q_proj.lora_a", 3, 2, LM_F32, 0},
                        {"language_model.model.layers.0.self_attn.q_proj.lora_b", 2, 5, LM_F32, 0},
                        {"language_model.lm_head.lora_a", 3, 1, LM_F32, 0},
                        {"language_model.lm_head.lora_b", 1, 7, LM_F32, 0}};
    put_tensors(test_dir(), mlx, 4);
    lm_weights *w =
        converted(test_dir(), "{\"fine_tune_type\":\"lora\",\"lora_parameters\":{\"rank\":2,\"scale\":20}}");
    lm_view a = tensor(w, "layers.0.self_attn.q_proj.lora_a"),
            b = tensor(w, "layers.0.self_attn.q_proj.lora_b");
    assert_int_equal(a.dims[0], 2);
    assert_int_equal(b.dims[0], 5);
    for (uint64_t i = 0; i < 6; i++) assert_true(number(&a, i) == (float)(i % 3 * 2 + i / 3));
    for (uint64_t i = 0; i < 10; i++) assert_true(number(&b, i) == (float)(i % 2 * 5 + i / 2));
    assert_true(scale_of(w, "lm_head") == 20);
    lm_weights_close(w);
}

static void stacks_of_experts_stay_as_they_are(void **state) {
    (void)state;
    made list[] = {{"model.layers.0.mlp.switch_mlp.up_proj.lora_a", 2, 3, LM_F32, 4},
                   {"model.layers.0.mlp.switch_mlp.up_proj.lora_b", 5, 2, LM_F32, 4}};
    lm_err err = {0};
    put_tensors(test_dir(), list, 2);
    lm_weights *w = converted(test_dir(), "{\"lora_parameters\":{\"scale\":1}}");
    lm_view b = tensor(w, "layers.0.mlp.switch_mlp.up_proj.lora_b");
    assert_true(b.n_dims == 3 && b.dims[0] == 4 && b.dims[1] == 5 && b.dims[2] == 2);
    for (uint64_t i = 0; i < 40; i++) assert_true(number(&b, i) == (float)i);
    lm_weights_close(w);
    list[1].experts = 3;
    put_tensors(test_dir(), list, 2);
    expect_fail(convert(test_dir(), "{\"lora_parameters\":{\"scale\":1}}", &err), LM_CORRUPT, err,
                "4 and 3 experts");
}

static void what_is_kept_is_read_again(void **state) {
    (void)state;
    lm_err err = {0};
    put_tensors(test_dir(), two, 4);
    lm_weights_close(converted(test_dir(), "{\"lora_alpha\":8}"));
    char *in = lm_path_join(test_dir(), "in"), *out = lm_path_join(test_dir(), "out");
    assert_int_equal(rename(out, in), 0);
    lm_weights *first = NULL, *again = converted(test_dir(), NULL);
    expect_ok(lm_weights_open_file(&first, test_dir(), "in", &err), err);
    assert_int_equal(lm_weights_count(first), lm_weights_count(again));
    for (uint32_t i = 0; i < lm_weights_count(first); i++) {
        lm_view v, same;
        const char *name = lm_weights_name(first, i, &v);
        same = tensor(again, name);
        assert_int_equal(v.bytes, same.bytes);
        assert_memory_equal(v.data, same.data, v.bytes);
    }
    lm_weights_close(first);
    lm_weights_close(again);
    free(in);
    free(out);
}

static void expect_refused(const char *config, lm_status status, const char *words) {
    lm_err err = {0};
    expect_fail(convert(test_dir(), config, &err), status, err, words);
}

static void a_config_that_means_another_computation_is_refused(void **state) {
    (void)state;
    put_tensors(test_dir(), two, 4);
    expect_refused(NULL, LM_INVALID, "adapter_config.json is missing");
    expect_refused("[]", LM_CORRUPT, "no JSON object");
    expect_refused("{}", LM_CORRUPT, "lora_alpha");
    expect_refused("{\"lora_alpha\":1e300}", LM_CORRUPT, "finite");
    expect_refused("{\"lora_alpha\":8,\"use_dora\":true}", LM_UNSUPPORTED, "use_dora (DoRA)");
    expect_refused("{\"lora_alpha\":8,\"fine_tune_type\":\"dora\"}", LM_UNSUPPORTED, "\"dora\"");
    expect_refused("{\"lora_alpha\":8,\"fine_tune_type\":\"full\"}", LM_UNSUPPORTED, "\"full\"");
    expect_refused("{\"lora_alpha\":8,\"peft_type\":\"ADALORA\"}", LM_UNSUPPORTED, "ADALORA");
    expect_refused("{\"lora_alpha\":8,\"bias\":\"lora_only\"}", LM_UNSUPPORTED, "biases");
    expect_refused("{\"lora_alpha\":8,\"modules_to_save\":[\"lm_head\"]}", LM_UNSUPPORTED, "modules_to_save");
    expect_refused("{\"lora_alpha\":8,\"layer_replication\":[[0,4]]}", LM_UNSUPPORTED, "layer_replication");
    expect_refused("{\"lora_alpha\":8,\"init_lora_weights\":\"pissa_niter_4\"}", LM_UNSUPPORTED,
                   "pissa_niter_4");
    expect_refused("{\"lora_alpha\":8,\"alpha_pattern\":{\".*_proj\":2}}", LM_UNSUPPORTED, "alpha_pattern");
}

static void expect_tensor_refused(const made *first, lm_status status, const char *words) {
    made list[3] = {*first, two[2], two[3]};
    put_tensors(test_dir(), list, 3);
    expect_refused("{\"lora_alpha\":8,\"lora_parameters\":{\"scale\":1}}", status, words);
}

static void tensors_that_are_no_part_of_lora_are_refused_by_name(void **state) {
    (void)state;
    expect_tensor_refused(&(made){Q ".lora_A.weight", 2, 3, LM_F32, 0}, LM_CORRUPT,
                          "only a part of layers.0");
    expect_tensor_refused(&(made){Q ".lora_magnitude_vector", 0, 5, LM_F32, 0}, LM_UNSUPPORTED, "DoRA");
    expect_tensor_refused(&(made){"model.layers.0.self_attn.q_proj.m", 0, 5, LM_F32, 0}, LM_UNSUPPORTED,
                          "DoRA");
    expect_tensor_refused(&(made){"base_model.model.lm_head.weight", 4, 3, LM_F32, 0}, LM_UNSUPPORTED,
                          "lm_head.weight");
    expect_tensor_refused(&(made){"model.embed_tokens.lora_a", 4, 3, LM_F32, 0}, LM_UNSUPPORTED,
                          "embed_tokens");
    expect_tensor_refused(&(made){"model.embed_tokens.lora_embedding_A", 4, 3, LM_F32, 0}, LM_UNSUPPORTED,
                          "embed_tokens");
    expect_tensor_refused(&(made){"vision_tower.layers.0.q_proj.lora_a", 4, 3, LM_F32, 0}, LM_UNSUPPORTED,
                          "vision");
    expect_tensor_refused(&(made){Q ".lora_A.weight", 0, 3, LM_F32, 0}, LM_UNSUPPORTED, "1 dimensions");
    expect_tensor_refused(&(made){Q ".lora_A.weight", 2, 3, LM_I32, 0}, LM_UNSUPPORTED, "type I32");
    expect_tensor_refused(&(made){"layers.11.mlp.gate_proj.lora_A.weight", 2, 3, LM_F32, 0}, LM_CORRUPT,
                          "twice");
    made list[] = {two[0], {Q ".lora_B.weight", 5, 3, LM_F32, 0}};
    put_tensors(test_dir(), list, 2);
    expect_refused("{\"lora_alpha\":8}", LM_CORRUPT, "rank 2 and 3");
    put_tensors(test_dir(), list, 0);
    expect_refused("{\"lora_alpha\":8}", LM_CORRUPT, "changes nothing");
}

/* ---- GGUF */

typedef struct pair {
    const char *a, *b;
    lm_ggml_type type;
} pair;

/* A is (2, 3), B is (8, 2): 0, 1, 2 ... */
static lm_status read_gguf(lm_loras *out, lm_gguf **g, const char *kind, const char *arch, float alpha,
                           pair p, const lm_model_info *base, lm_err *err) {
    float numbers[16];
    uint64_t a_dims[] = {3, 2}, b_dims[] = {2, 8};
    uint16_t small[16];
    gguf_make m;
    lm_buf file;
    for (int i = 0; i < 16; i++) numbers[i] = (float)i, small[i] = lm_f32_to_f16((float)i);
    gguf_make_init(&m);
    lm_buf_init(&file, 1 << 20);
    gguf_make_str(&m, "general.type", kind);
    gguf_make_str(&m, "general.architecture", arch);
    gguf_make_str(&m, "adapter.type", "lora");
    gguf_make_f32(&m, "adapter.lora.alpha", alpha);
    size_t size = p.type == LM_GGML_F16 ? 2 : 4;
    const void *data = p.type == LM_GGML_F16 ? (void *)small : (void *)numbers;
    if (p.a) gguf_make_tensor(&m, p.a, p.type, 2, a_dims, data, 6 * size);
    if (p.b) gguf_make_tensor(&m, p.b, p.type, 2, b_dims, data, 16 * size);
    gguf_make_join(&m, 3, &file);
    put_file(test_dir(), "in.gguf", lm_buf_view(&file));
    char *path = lm_path_join(test_dir(), "in.gguf");
    lm_status st = lm_gguf_open(g, path, err);
    free(path);
    gguf_make_release(&m);
    lm_buf_release(&file);
    if (st == LM_OK) st = lm_loras_gguf(out, *g, base, err);
    if (st == LM_OK) st = lm_loras_check(out, err);
    return st;
}

static const lm_model_info llama = {.family = "llama", .n_heads = 2, .n_kv_heads = 1};

static void ggufs_rows_go_back_to_their_heads(void **state) {
    (void)state;
    static const struct {
        pair p;
        const char *name;
        float rows[8];
    } cases[] = {
        {{"blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b", LM_GGML_F32},
         "q_proj",
         {0, 2, 1, 3, 4, 6, 5, 7}},
        {{"blk.0.attn_k.weight.lora_a", "blk.0.attn_k.weight.lora_b", LM_GGML_F32},
         "k_proj",
         {0, 2, 4, 6, 1, 3, 5, 7}},
        {{"blk.0.attn_v.weight.lora_a", "blk.0.attn_v.weight.lora_b", LM_GGML_F32},
         "v_proj",
         {0, 1, 2, 3, 4, 5, 6, 7}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lm_loras l = {0};
        lm_gguf *g = NULL;
        lm_weights *w = NULL;
        lm_err err = {0};
        char name[100], *out = lm_path_join(test_dir(), "out");
        expect_ok(read_gguf(&l, &g, "adapter", "llama", 6, cases[i].p, &llama, &err), err);
        unlink(out);
        expect_ok(lm_loras_write(&l, out, &err), err);
        expect_ok(lm_weights_open_file(&w, test_dir(), "out", &err), err);
        snprintf(name, sizeof name, "layers.0.self_attn.%s", cases[i].name);
        assert_true(scale_of(w, name) == 3);
        snprintf(name, sizeof name, "layers.0.self_attn.%s.lora_b", cases[i].name);
        lm_view b = tensor(w, name);
        for (uint64_t r = 0; r < 8; r++) assert_true(number(&b, 2 * r) == 2 * cases[i].rows[r]);
        lm_weights_close(w);
        lm_loras_release(&l);
        lm_gguf_close(g);
        free(out);
    }
}

static void expect_gguf_refused(const char *kind, const char *arch, pair p, const char *words) {
    lm_loras l = {0};
    lm_gguf *g = NULL;
    lm_err err = {0};
    assert_int_not_equal(read_gguf(&l, &g, kind, arch, 1, p, &llama, &err), LM_OK);
    if (!strstr(err.text, words)) fail_msg("\"%s\" does not say \"%s\"", err.text, words);
    lm_loras_release(&l);
    lm_gguf_close(g);
}

static void other_gguf_files_are_refused(void **state) {
    (void)state;
    pair v = {"blk.0.attn_v.weight.lora_a", "blk.0.attn_v.weight.lora_b", LM_GGML_F16};
    expect_gguf_refused("model", "llama", v, "general.type is \"model\"");
    expect_gguf_refused("adapter", "qwen2", v, "not that of a llama model");
    expect_gguf_refused("adapter", "gpt2", v, "not that of a llama model");
    v.b = NULL;
    expect_gguf_refused("adapter", "llama", v, "only a part of");
    v.a = "token_embd.weight.lora_a";
    expect_gguf_refused("adapter", "llama", v, "model.embed_tokens");
    v.a = "blk.0.attn_norm.weight";
    expect_gguf_refused("adapter", "llama", v, "no part of LoRA");
    v.a = "blk.0.attn_q.bias.lora_a";
    expect_gguf_refused("adapter", "llama", v, "can't be adapted");
    v = (pair){"blk.0.attn_v.weight.lora_a", "blk.0.attn_v.weight.lora_b", LM_GGML_I32};
    expect_gguf_refused("adapter", "llama", v, "of type I32");
    lm_model_info odd = llama;
    odd.n_heads = 3;
    lm_loras l = {0};
    lm_gguf *g = NULL;
    lm_err err = {0};
    pair q = {"blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b", LM_GGML_F16};
    expect_fail(read_gguf(&l, &g, "adapter", "llama", 0, q, &odd, &err), LM_CORRUPT, err, "3 heads");
    assert_true(l.items[0].scale == 1); /* an alpha of 0 */
    lm_loras_release(&l);
    lm_gguf_close(g);
}

/* ---- files */

static char gguf[LM_DIGEST_SIZE], other[LM_DIGEST_SIZE];

/* What of these files is an adapter; all of them are `other` but those of a name with an 'x', which hold a
 * GGUF file. */
static lm_status source_of(lm_store *s, const char *names, lm_adapter_source *out, lm_err *err) {
    lm_named_blob files[4];
    char text[200], *save = NULL;
    uint32_t n = 0;
    snprintf(text, sizeof text, "%s", names);
    for (char *name = strtok_r(text, " ", &save); name; name = strtok_r(NULL, " ", &save)) {
        files[n].name = name;
        memcpy(files[n++].digest, strchr(name, 'x') ? gguf : other, LM_DIGEST_SIZE);
    }
    return lm_adapter_source_of(s, files, n, out, err);
}

static void the_files_of_an_adapter_are_found_among_what_lies_beside_them(void **state) {
    (void)state;
    char own[200];
    snprintf(own, sizeof own, "%s/own", test_dir());
    lm_store_config config = {.own_dir = own, .aliases = LM_SOURCE_DIR "/share/aliases.ini"};
    lm_store *s = NULL;
    lm_err err = {0};
    lm_adapter_source source;
    bool existing;
    int users = -1;
    expect_ok(lm_store_open(&s, &config, &err), err);
    expect_ok(lm_own_use(own, &users, &err), err);
    expect_ok(lm_blob_put(own, LM_STR("GGUF and more"), gguf, &existing, &err), err);
    expect_ok(lm_blob_put(own, LM_STR("something else"), other, &existing, &err), err);

    static const char *const tensors[] = {
        "adapter_config.json adapters.safetensors 0000100_adapters.safetensors",
        "a/adapter_model.safetensors adapter_config.json", "adapter_config.json mine.safetensors README.md",
        "model.safetensors adapter_config.json"};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        expect_ok(source_of(s, tensors[i], &source, &err), err);
        assert_false(source.gguf);
        assert_string_equal(source.weights, other);
        assert_string_equal(source.config, other);
    }
    expect_ok(source_of(s, "sha256-1", &source, &err), err); /* as /api/show names it */
    assert_true(!source.gguf && !source.config[0]);
    expect_ok(source_of(s, "x.gguf", &source, &err), err);
    assert_true(source.gguf && !strcmp(source.weights, gguf));
    expect_ok(source_of(s, "x", &source, &err), err);
    assert_true(source.gguf);
    expect_fail(source_of(s, "x xx", &source, &err), LM_INVALID, err,
                "only one adapter is currently supported");
    expect_fail(source_of(s, "1.safetensors 2.safetensors", &source, &err), LM_INVALID, err,
                "only one adapter");
    expect_fail(source_of(s, "adapter_config.json", &source, &err), LM_INVALID, err, "unknown type");
    expect_fail(source_of(s, "1 2", &source, &err), LM_INVALID, err, "unknown type");
    memset(other + 7, '0', 64);
    expect_fail(source_of(s, "a.safetensors", &source, &err), LM_NOT_FOUND, err, "upload it first");
    close(users);
    lm_store_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pefts_strength_is_of_the_rank_and_of_the_pattern),
        cmocka_unit_test(mlx_lms_matrices_are_turned),
        cmocka_unit_test(stacks_of_experts_stay_as_they_are),
        cmocka_unit_test(what_is_kept_is_read_again),
        cmocka_unit_test(a_config_that_means_another_computation_is_refused),
        cmocka_unit_test(tensors_that_are_no_part_of_lora_are_refused_by_name),
        cmocka_unit_test(ggufs_rows_go_back_to_their_heads),
        cmocka_unit_test(other_gguf_files_are_refused),
        cmocka_unit_test(the_files_of_an_adapter_are_found_among_what_lies_beside_them),
    };
    return cmocka_run_group_tests_name("adapters", tests, make_test_dir, remove_test_dir);
}
