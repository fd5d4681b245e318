/* LoRA adapters against mlx-lm: the tiny models and adapters of tests/golden/make_adapters.py, each adapter
 * in every form that is read. Quantised and fused matrices, families that GGUF re-orders, mixtures whose
 * attention is adapted. */
#include "model_golden_check.h"

#include <limits.h>
#include <unistd.h>

#include "base/file.h"
#include "store/store.h"

static const struct {
    const char *dir, *weights, *config;
} forms[] = {{"mlx", "adapters.safetensors", "adapter_config.json"},
             {"peft", "adapter_model.safetensors", "adapter_config.json"},
             {"gguf", "adapter.gguf", NULL}};
enum { MLX_FORM, PEFT_FORM, GGUF_FORM, FORMS };

static char *at(const char *dir, const char *name) {
    static char path[FORMS][PATH_MAX + 64];
    static int turn;
    char *out = path[turn++ % FORMS];
    snprintf(out, sizeof path[0], "%s/%s", dir, name);
    return out;
}

/* A directory with the model of g and the adapter in that form; "" where there is none in it. */
static void make_adapted(const golden *g, int form, char dir[1024]) {
    char from[1024], base[1024], full[PATH_MAX];
    lm_err err = {0};
    snprintf(base, sizeof base, "%s/%s", models_dir(), g->name);
    snprintf(from, sizeof from, "%s/adapters/%s/%s", models_dir(), g->name, forms[form].dir);
    snprintf(dir, 1024, "/tmp/lm-adapted-XXXXXX");
    if (!lm_path_is_file(at(from, forms[form].weights))) {
        if (form == MLX_FORM)
            fail_msg("%s is missing. Make it: python3 " LM_SOURCE_DIR "/tests/golden/make_models.py %s", from,
                     models_dir());
        dir[0] = '\0';
        return;
    }
    assert_non_null(mkdtemp(dir));
    assert_non_null(realpath(base, full));
    assert_int_equal(symlink(at(full, "config.json"), at(dir, "config.json")), 0);
    assert_int_equal(symlink(at(full, "model.safetensors"), at(dir, "model.safetensors")), 0);
    expect_ok(lm_import_adapter(at(from, forms[form].weights),
                                forms[form].config ? at(from, forms[form].config) : NULL, base,
                                at(dir, "adapter"), &err),
              err);
}

static lm_model *open_adapted(const char *dir, const char *features, uint32_t n_threads) {
    lm_model *m = NULL;
    lm_err err = {0};
    lm_model_config config = {
        .n_threads = n_threads, .features = features, .n_ctx = N_CTX, .n_parallel = 4, .max_batch = 64};
    expect_ok(lm_model_open(&m, backend(), dir, &config, &err), err);
    return m;
}

static lm_weights *expected_adapted(void) {
    lm_weights *w = NULL;
    lm_err err = {0};
    expect_ok(lm_weights_open(&w, LM_SOURCE_DIR "/tests/golden/adapters", &err), err);
    return w;
}

static int check_adapted(const golden *g, const char *dir, int form, const char *features, bool exact) {
    char what[64];
    snprintf(what, sizeof what, "%s's adapter, %s", forms[form].dir, features);
    return check_numbers(g, open_adapted(dir, features, 2), what, exact);
}

static void adapted_models_compute_what_mlx_lm_does_whatever_the_form(void **state) {
    (void)state;
    lm_weights *w = expected_adapted();
    golden g;
    int bad = 0, n[FORMS] = {0};
    for (uint32_t i = 0; next_case(w, &i, &g);) {
        for (int form = 0; form < FORMS; form++) {
            char dir[1024];
            lm_err err = {0};
            make_adapted(&g, form, dir);
            if (!dir[0]) continue;
            n[form]++;
            bad += check_adapted(&g, dir, form, "reference", true);
            expect_ok(lm_dir_remove(dir, &err), err);
        }
    }
    lm_weights_close(w);
    assert_true(n[MLX_FORM] >= 17 && n[PEFT_FORM] >= 14 && n[GGUF_FORM] >= 17);
    assert_int_equal(bad, 0);
}

#ifndef LM_GOLDEN_MLX
static void every_feature_set_stays_close_and_gives_the_same_bits_in_any_batch(void **state) {
    (void)state;
    lm_weights *w = expected_adapted();
    golden g;
    int bad = 0;
    for (uint32_t i = 0; next_case(w, &i, &g);) {
        char dir[1024];
        lm_err err = {0};
        make_adapted(&g, MLX_FORM, dir);
        for (const char *const *f = lm_cpu_features(); *f; f++) {
            if (strcmp(*f, "reference")) bad += check_adapted(&g, dir, MLX_FORM, *f, false);
            bad += check_bits(&g, open_adapted(dir, *f, 1), open_adapted(dir, *f, 3), *f);
        }
        expect_ok(lm_dir_remove(dir, &err), err);
    }
    lm_weights_close(w);
    assert_int_equal(bad, 0);
}
#endif

/* As if `dir` held an adapter for another model. */
static void expect_misfit(const golden *g, const char *other, const char *words) {
    char dir[1024], target[1024];
    lm_model_info info;
    lm_err err = {0};
    make_adapted(g, PEFT_FORM, dir);
    snprintf(target, sizeof target, "%s/%s", models_dir(), other);
    char full[PATH_MAX];
    assert_non_null(realpath(target, full));
    static const char *const files[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(unlink(at(dir, files[i])), 0);
        assert_int_equal(symlink(at(full, files[i]), at(dir, files[i])), 0);
    }
    lm_status st = lm_model_inspect(dir, &info, &err);
    assert_true(st == LM_CORRUPT || st == LM_UNSUPPORTED);
    assert_non_null(strstr(err.text, words));
    expect_ok(lm_dir_remove(dir, &err), err);
}

static void an_adapter_of_another_model_is_refused_by_what_does_not_fit(void **state) {
    (void)state;
    expect_misfit(&(golden){.name = "qwen2-q4-g64"}, "llama-f32", "made for another model");
    expect_misfit(&(golden){.name = "qwen2-q4-g64"}, "phi3-q4",
                  "no matrix of this model that can be adapted");
    expect_misfit(&(golden){.name = "llama-q4-g32"}, "mixtral-q4", "mlp.");
    expect_misfit(&(golden){.name = "llama-f32"}, "bert-f32", "an adapter for an encoder");
}

static void a_load_is_estimated_with_its_adapter(void **state) {
    (void)state;
    char dir[1024], base[1024];
    lm_model_config config = {.n_ctx = N_CTX, .n_parallel = 1, .max_batch = 64};
    lm_model_info with, without;
    uint64_t more = 0, less = 0;
    lm_err err = {0};
    make_adapted(&(golden){.name = "llama-q4-g32"}, PEFT_FORM, dir);
    snprintf(base, sizeof base, "%s/llama-q4-g32", models_dir());
    expect_ok(lm_model_inspect(dir, &with, &err), err);
    expect_ok(lm_model_inspect(base, &without, &err), err);
    assert_int_equal(with.n_params, without.n_params); /* what it is called by */
    lm_weights *w = NULL;
    expect_ok(lm_weights_open_file(&w, dir, LM_ADAPTER_FILE, &err), err);
    uint64_t bytes = lm_weights_bytes(w);
    lm_weights_close(w);
    assert_true(bytes > 100000 && with.weight_bytes == without.weight_bytes + bytes);
    expect_ok(lm_model_estimate(backend(), dir, &config, &more, &err), err);
    expect_ok(lm_model_estimate(backend(), base, &config, &less, &err), err);
    assert_true(more > less + bytes);
    expect_ok(lm_dir_remove(dir, &err), err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adapted_models_compute_what_mlx_lm_does_whatever_the_form),
#ifndef LM_GOLDEN_MLX
        cmocka_unit_test(every_feature_set_stays_close_and_gives_the_same_bits_in_any_batch),
#endif
        cmocka_unit_test(an_adapter_of_another_model_is_refused_by_what_does_not_fit),
        cmocka_unit_test(a_load_is_estimated_with_its_adapter),
    };
    return cmocka_run_group_tests_name("golden adapters", tests, NULL, NULL);
}
