/* places_test.c - what is found in the stores of Ollama and LM Studio, whole, damaged and in the making. */
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/test.h"
#include "store/own.h"
#include "store/test_home.h"
#include "weights/weights.h"

/* ---- a store of Ollama's */

static void put_at(const char *path, lm_str bytes) {
    lm_err err = {0};
    char *parent = lm_strdup(path);
    *strrchr(parent, '/') = '\0';
    expect_ok(lm_dir_make(parent, &err), err);
    expect_ok(lm_file_write(path, bytes, &err), err);
    free(parent);
}

/* {"mediaType":..,"digest":..,"size":..,"name":..} of a new blob, appended to b. */
static void layer(lm_buf *b, const char *type, const char *name, lm_str bytes) {
    char hex[65], path[300];
    lm_blob_hex(bytes, hex);
    snprintf(path, sizeof path, "%s/blobs/sha256-%s", theirs, hex);
    put_at(path, bytes);
    if (b->len && b->ptr[b->len - 1] == '}') lm_buf_char(b, ',');
    lm_buf_printf(b, "{\"mediaType\":\"%s\",\"digest\":\"sha256:%s\",\"size\":%zu,\"name\":\"%s\"}", type,
                  hex, bytes.len, name);
}

static void text_layer(lm_buf *b, const char *type, const char *name, const char *text) {
    layer(b, type, name, lm_str_of(text));
}

/* The manifest over these layers. */
static void manifest(lm_buf *out, const char *config, const lm_buf *layers) {
    lm_buf_text(out, "{\"schemaVersion\":2,\"mediaType\":\"" LM_TYPE_MANIFEST "\",\"config\":");
    text_layer(out, LM_TYPE_CONFIG, "", config);
    lm_buf_printf(out, ",\"layers\":[%s]}", layers->ptr);
}

static void put_manifest(const char *below, lm_str text) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", theirs, below);
    put_at(path, text);
}

#define GGUF_CONFIG                                                                                          \
    "{\"model_format\":\"gguf\",\"model_family\":\"llama\",\"model_type\":\"7B\",\"file_type\":\"Q4_K_M\"}"
#define LIBRARY "manifests/registry.ollama.ai/library/"

static void put_gguf(const char *below, const char *bytes, const char *system) {
    lm_buf layers, text;
    lm_buf_init(&layers, 1u << 20);
    lm_buf_init(&text, 1u << 20);
    text_layer(&layers, LM_TYPE_MODEL, "", bytes);
    if (system) text_layer(&layers, LM_TYPE_IMAGE "system", "", system);
    manifest(&text, GGUF_CONFIG, &layers);
    put_manifest(below, lm_buf_view(&text));
    lm_buf_release(&layers);
    lm_buf_release(&text);
}

/* One tensor of four bytes, as Ollama has them. */
static void tensor_layer(lm_buf *b, const char *name) {
    lm_buf blob;
    lm_buf_init(&blob, 4096);
    char header[256];
    int n = snprintf(header, sizeof header,
                     "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", name);
    uint8_t length[8] = {(uint8_t)n};
    lm_buf_add(&blob, length, 8);
    lm_buf_text(&blob, header);
    lm_buf_add(&blob, "\0\0\0\0", 4);
    layer(b, LM_TYPE_TENSOR, name, lm_buf_view(&blob));
    lm_buf_release(&blob);
}

static void mlx_layers(lm_buf *layers) {
    lm_buf_init(layers, 1u << 20);
    tensor_layer(layers, "model.norm.weight");
    tensor_layer(layers, "lm_head.weight");
    tensor_layer(layers, "lm_head.weight"); /* once more: it is one blob */
    text_layer(layers, LM_TYPE_IMAGE "json", "config.json", "{\"model_type\":\"llama\"}");
    text_layer(layers, LM_TYPE_IMAGE "json", "model.safetensors.index.json", "{}");
    text_layer(layers, LM_TYPE_IMAGE "system", "", "be kind");
}

static void put_mlx(const char *below) {
    lm_buf layers, text;
    mlx_layers(&layers);
    lm_buf_init(&text, 1u << 20);
    manifest(&text, "{\"model_format\":\"safetensors\",\"requires\":\"0.14.0\"}", &layers);
    put_manifest(below, lm_buf_view(&text));
    lm_buf_release(&layers);
    lm_buf_release(&text);
}

/* ---- our side */

static lm_store *open_store(lm_gguf_use gguf) {
    lm_store *s = NULL;
    lm_err err = {0};
    lm_store_config config = {.aliases = LM_SOURCE_DIR "/share/aliases.ini", .gguf = gguf};
    expect_ok(lm_store_open(&s, &config, &err), err);
    return s;
}

static void text_of(const char *dir, const char *name, const char *want) {
    lm_err err = {0};
    lm_buf text;
    lm_buf_init(&text, 4096);
    char *path = lm_path_join(dir, name);
    expect_ok(lm_file_read(path, 4096, &text, &err), err);
    lm_buf_char(&text, '\0');
    assert_string_equal(text.ptr, want);
    free(path);
    lm_buf_release(&text);
}

/* ---- tests */

static void a_model_in_tensors_runs_from_a_view_of_links(void **state) {
    (void)state;
    put_mlx(LIBRARY "Mine/4b");
    lm_store *s = open_store(LM_GGUF_ON_USE);
    lm_entry e = find(s, "mine:4B");
    assert_string_equal(e.name, "Mine:4b");
    assert_false(e.gguf || e.owned || e.managed);
    assert_non_null(strstr(e.dir, "/.mlx-ollama/models/linked/"));
    text_of(e.dir, "system", "be kind");
    text_of(e.dir, "requires", "0.14.0");
    char link[400] = "", *path = lm_path_join(e.dir, "lm_head.weight.safetensors");
    assert_true(readlink(path, link, sizeof link - 1) > 0);
    assert_memory_equal(link, theirs, strlen(theirs));
    lm_weights *w = NULL;
    lm_view v;
    lm_err err = {0};
    expect_ok(lm_weights_open(&w, e.dir, &err), err);
    assert_int_equal(lm_weights_count(w), 2);
    assert_true(lm_weights_find(w, "model.norm.weight", &v));
    lm_weights_close(w);

    assert_int_equal(unlink(path), 0); /* a damaged view is made again */
    e = find(s, "mine:4b");
    assert_true(lm_path_is_file(path));
    assert_string_equal(listed(s), "Mine:4b");
    free(path);

    char blob[400]; /* gone from Ollama: the view goes, too */
    snprintf(blob, sizeof blob, "%s/blobs", theirs);
    expect_ok(lm_dir_remove(blob, &err), err);
    not_there(s, "mine:4b");
    lm_store_prune(s);
    assert_false(lm_path_is_dir(e.dir));
    lm_store_close(s);
}

static void a_gguf_model_is_listed_with_what_ollama_says_of_it(void **state) {
    (void)state;
    put_gguf(LIBRARY "old/7b", "GGUF and more", "be brief");
    put_gguf("manifests/hf.co/org/repo/Q4_K_M", "GGUF of the hub", NULL);
    lm_store *s = open_store(LM_GGUF_ON_USE);
    lm_entry e = find(s, "OLD:7b");
    assert_true(e.gguf && !e.owned);
    assert_string_equal(e.family, "llama");
    assert_string_equal(e.parameters, "7B");
    assert_string_equal(e.quantization, "Q4_K_M");
    assert_int_equal(e.size, 13 + 8 + strlen(GGUF_CONFIG));
    text_of(e.dir, "system", "be brief");
    assert_non_null(strstr(e.file, "/.ollama/models/blobs/sha256-"));
    assert_true(find(s, "huggingface.co/org/repo:q4_k_m").gguf);
    assert_non_null(strstr(listed(s), "hf.co/org/repo:Q4_K_M"));
    lm_store_close(s);

    s = open_store(LM_GGUF_NEVER);
    not_there(s, "old:7b");
    assert_string_equal(listed(s), "");
    lm_store_close(s);

    s = open_store(LM_GGUF_ASK);
    lm_err err = {0};
    e = find(s, "old:7b");
    expect_fail(lm_store_ready(s, &e, NULL, NULL, &err), LM_INVALID, err, "mlx-ollama-bridge import old:7b");
    expect_fail(lm_store_copy(s, "old:7b", "new", NULL, NULL, &err), LM_INVALID, err, "import old:7b");
    lm_store_close(s);
}

static void what_runs_as_it_is_comes_before_what_must_be_imported(void **state) {
    (void)state;
    put_gguf(LIBRARY "llama3.2/latest", "GGUF one", NULL);
    put_gguf(LIBRARY "llama3.2/3b", "GGUF one", NULL);
    put_gguf(LIBRARY "llama3.2/1b-instruct-q4_K_M", "GGUF two", NULL);
    put_gguf(LIBRARY "own/latest", "GGUF three", NULL);
    lm_store *s = open_store(LM_GGUF_ON_USE);
    assert_true(find(s, "llama3.2").gguf && find(s, "own").gguf);
    char *dir = lm_path_join(home, "workspace/mlx/mlx-community/Llama-3.2-3B-Instruct-4bit");
    lm_err err = {0};
    expect_ok(lm_dir_make(dir, &err), err);
    put_file(dir, "config.json", LM_STR("{}"));
    put_file(dir, "model.safetensors", LM_STR("weights"));
    free(dir);
    assert_false(find(s, "llama3.2:3b").gguf); /* an alias of what is there now */
    assert_string_equal(find(s, "llama3.2").name, "llama3.2:3b");
    const char *names = listed(s);
    assert_null(strstr(names, "llama3.2:latest"));
    assert_non_null(strstr(names, "llama3.2:1b-instruct-q4_K_M"));
    assert_null(strstr(strstr(names, "llama3.2:3b") + 1, "llama3.2:3b"));

    dir = lm_path_join(home, ".mlx-ollama/models/registry.ollama.ai/library/own/latest");
    expect_ok(lm_dir_make(dir, &err), err);
    put_file(dir, "config.json", LM_STR("{}"));
    put_file(dir, "model.safetensors", LM_STR("weights"));
    free(dir);
    assert_true(find(s, "own").owned);
    assert_null(strstr(strstr(listed(s), "own:latest") + 1, "own:latest"));
    expect_ok(lm_store_delete(s, "own", &err), err); /* here and there, and Ollama keeps its files */
    not_there(s, "own");
    char path[400];
    snprintf(path, sizeof path, "%s/" LIBRARY "own/latest", theirs);
    assert_true(lm_path_is_file(path));
    lm_store_close(s);
}

static void what_is_not_whole_is_passed_over(void **state) {
    (void)state;
    lm_buf text, layers;
    char path[400], hex[65];
    put_gguf(LIBRARY "gone/latest", "GGUF gone", NULL);
    lm_blob_hex(LM_STR("GGUF gone"), hex);
    snprintf(path, sizeof path, "%s/blobs/sha256-%s", theirs, hex);
    assert_int_equal(unlink(path), 0);
    put_gguf(LIBRARY "growing/latest", "GGUF that comes", NULL); /* a pull of this moment */
    lm_blob_hex(LM_STR("GGUF that comes"), hex);
    snprintf(path, sizeof path, "%s/blobs/sha256-%s", theirs, hex);
    put_at(path, LM_STR("GGUF that"));
    put_gguf(LIBRARY "other/latest", "ggjt and not GGUF", NULL);
    put_manifest(LIBRARY "damaged/latest", LM_STR("{\"schemaVersion\":2,\"layers\":["));
    put_manifest(LIBRARY "empty/latest", LM_STR(""));
    put_manifest(LIBRARY "no name/la test", LM_STR("{}"));
    put_manifest(LIBRARY "-x/latest", LM_STR("{}"));
    put_manifest("manifests/a/file", LM_STR("not a directory"));
    snprintf(path, sizeof path, "%s/manifests/registry.ollama.ai/library/loop", theirs);
    assert_int_equal(symlink("../library", path), 0);
    snprintf(path, sizeof path, "%s/manifests/self", theirs);
    assert_int_equal(symlink("self", path), 0);

    lm_buf_init(&text, 1u << 20); /* a tensor whose name leads out of the view */
    mlx_layers(&layers);
    tensor_layer(&layers, "../evil");
    manifest(&text, "{}", &layers);
    put_manifest(LIBRARY "evil/latest", lm_buf_view(&text));
    lm_buf_release(&layers);

    lm_buf_clear(&text); /* JSON that is not what its digest says, in a model that nobody has seen before */
    mlx_layers(&layers);
    text_layer(&layers, LM_TYPE_IMAGE "json", "tokenizer.json", "{\"a\":1}");
    lm_blob_hex(LM_STR("{\"a\":1}"), hex);
    snprintf(path, sizeof path, "%s/blobs/sha256-%s", theirs, hex);
    put_at(path, LM_STR("{\"a\":2}"));
    manifest(&text, "{}", &layers);
    put_manifest(LIBRARY "lying/latest", lm_buf_view(&text));
    lm_buf_release(&layers);
    lm_buf_release(&text);

    lm_store *s = open_store(LM_GGUF_ON_USE);
    assert_string_equal(listed(s), "");
    put_gguf(LIBRARY "growing/latest", "GGUF that comes", NULL);
    assert_string_equal(listed(s), "growing:latest");
    lm_store_close(s);
}

/* Newer versions of Ollama: links to manifests that are blobs, and lists of them. */
static void manifests_may_be_links_and_lists(void **state) {
    (void)state;
    lm_buf layers, mlx, gguf, list;
    char path[400], target[200], hex[65];
    lm_buf_init(&mlx, 1u << 20);
    lm_buf_init(&gguf, 1u << 20);
    lm_buf_init(&list, 1u << 20);
    mlx_layers(&layers);
    manifest(&mlx, "{}", &layers);
    lm_buf_release(&layers);
    lm_buf_init(&layers, 1u << 20);
    text_layer(&layers, LM_TYPE_MODEL, "", "GGUF of a list");
    manifest(&gguf, GGUF_CONFIG, &layers);
    lm_blob_hex(lm_buf_view(&mlx), hex);
    snprintf(path, sizeof path, "%s/blobs/sha256-%s", theirs, hex);
    put_at(path, lm_buf_view(&mlx));
    lm_buf_printf(
        &list,
        "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.ollama.manifest.list.v2+json\",\"manifests\":"
        "[%.*s,\"runner\":\"ollama\"},{\"mediaType\":\"" LM_TYPE_MANIFEST
        "\",\"digest\":\"sha256:%s\",\"runner\":\"mlx\"},{\"digest\":\"sha256:00\"},17]}",
        (int)gguf.len - 1, gguf.ptr, hex);
    lm_blob_hex(lm_buf_view(&list), hex);
    snprintf(path, sizeof path, "%s/blobs/sha256-%s", theirs, hex);
    put_at(path, lm_buf_view(&list));
    snprintf(path, sizeof path, "%s/manifests-v2/registry.ollama.ai/library/both", theirs);
    lm_err err = {0};
    expect_ok(lm_dir_make(path, &err), err);
    strcat(path, "/latest");
    snprintf(target, sizeof target, "../../../../blobs/sha256-%s", hex);
    assert_int_equal(symlink(target, path), 0);
    put_gguf(LIBRARY "both/latest", "GGUF of before", NULL);

    lm_store *s = open_store(LM_GGUF_ON_USE);
    lm_entry e = find(s, "both");
    assert_false(e.gguf);
    assert_string_equal(e.digest, hex);
    assert_string_equal(listed(s), "both:latest");
    lm_blob_hex(lm_buf_view(&mlx), hex); /* the part for MLX is not here: what is, is the GGUF file */
    snprintf(path, sizeof path, "%s/blobs/sha256-%s", theirs, hex);
    assert_int_equal(unlink(path), 0);
    e = find(s, "both");
    assert_true(e.gguf);
    text_of(home, e.file + strlen(home) + 1, "GGUF of a list");
    lm_store_close(s);
    lm_buf_release(&layers);
    lm_buf_release(&mlx);
    lm_buf_release(&gguf);
    lm_buf_release(&list);
}

static void gguf_files_of_lm_studio_go_by_repository_and_form(void **state) {
    (void)state;
    const char *files[] = {"Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf",  "Qwen3-4B-GGUF/Qwen3-4B-Q8_0.gguf",
                           "Qwen3-4B-GGUF/mmproj-model-f16.gguf", "torn/t-Q8_0-00001-of-00002.gguf",
                           "Qwen3-4B-GGUF/.hidden-Q4_0.gguf",     "big/m-Q4_K_M-00001-of-00002.gguf",
                           "big/m-Q4_K_M-00002-of-00002.gguf",    "Other one/strange name (1).gguf"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[400];
        snprintf(path, sizeof path, "%s/.lmstudio/models/lmstudio-community/%s", home, files[i]);
        put_at(path, LM_STR("GGUF"));
    }
    lm_store *s = open_store(LM_GGUF_ON_USE);
    lm_entry e = find(s, "lmstudio-community/qwen3-4b-gguf:q8_0");
    assert_true(e.gguf);
    assert_string_equal(e.name, "lmstudio-community/Qwen3-4B-GGUF:Q8_0");
    assert_string_equal(e.quantization, "Q8_0");
    assert_string_equal(find(s, "hf.co/lmstudio-community/Qwen3-4B-GGUF").name,
                        "lmstudio-community/Qwen3-4B-GGUF:Q4_K_M");
    const char *names = listed(s);
    assert_non_null(strstr(names, "lmstudio-community/Other-one:strange-name--1-"));
    assert_non_null(strstr(names, "lmstudio-community/big:Q4_K_M"));
    assert_null(strstr(names, "torn"));
    assert_null(strstr(names, "mmproj"));
    e = find(s, "lmstudio-community/big");
    assert_int_equal(e.size, 8);
    assert_non_null(strstr(e.file, "/m-Q4_K_M-00001-of-00002.gguf"));
    not_there(s, "lmstudio-community/torn");
    lm_store_close(s);
}

static void a_thousand_models_are_listed(void **state) {
    (void)state;
    for (int i = 0; i < 1000; i++) {
        char below[200], bytes[40];
        snprintf(below, sizeof below, LIBRARY "m%d/latest", i);
        snprintf(bytes, sizeof bytes, "GGUF %d", i);
        put_gguf(below, bytes, "be kind");
    }
    lm_store *s = open_store(LM_GGUF_ON_USE);
    lm_entry *entries = NULL;
    uint32_t n = 0;
    lm_err err = {0};
    for (int turn = 0; turn < 2; turn++) {
        uint64_t before = lm_now_ns();
        expect_ok(lm_store_list(s, &entries, &n, &err), err);
        print_message("1000 GGUF models listed in %.1f ms\n", (double)(lm_now_ns() - before) / 1e6);
        assert_int_equal(n, 1000);
        free(entries);
    }
    lm_store_close(s);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, fresh_home, no_home)
    const struct CMUnitTest tests[] = {
        T(a_model_in_tensors_runs_from_a_view_of_links),
        T(a_gguf_model_is_listed_with_what_ollama_says_of_it),
        T(what_runs_as_it_is_comes_before_what_must_be_imported),
        T(what_is_not_whole_is_passed_over),
        T(manifests_may_be_links_and_lists),
        T(gguf_files_of_lm_studio_go_by_repository_and_form),
        T(a_thousand_models_are_listed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
