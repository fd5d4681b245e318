/* store_test.c - finding, listing and deleting models in directories as people and tools lay them out. */
#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/test.h"
#include "store/private.h"
#include "store/test_home.h"

/* Below the home of a test: .mlx-ollama/models, workspace/mlx, .cache/huggingface/hub. */
static char *at(const char *below) {
    char *path = lm_path_join(home, below);
    return path;
}

static void put(const char *below, const char *text) {
    char *path = at(below), *parent = lm_strdup(path);
    lm_err err = {0};
    *strrchr(parent, '/') = '\0';
    expect_ok(lm_dir_make(parent, &err), err);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    free(path);
    free(parent);
}

static void put_model(const char *below) {
    char file[600];
    snprintf(file, sizeof file, "%s/config.json", below);
    put(file, "{}");
    snprintf(file, sizeof file, "%s/model.safetensors", below);
    put(file, "weights");
}

static void put_age(const char *below, time_t seconds) {
    char *path = at(below);
    struct timespec times[2] = {{.tv_sec = seconds}, {.tv_sec = seconds}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    free(path);
}

/* As the Hugging Face tools lay a download out: files are links into blobs. */
static void put_hub(const char *repo, const char *revision, bool main) {
    char file[700], link[700];
    const char *names[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 2; i++) {
        snprintf(file, sizeof file, ".cache/huggingface/hub/%s/blobs/%s-%d", repo, revision, i);
        put(file, "blob");
        snprintf(file, sizeof file, ".cache/huggingface/hub/%s/snapshots/%s", repo, revision);
        char *dir = at(file);
        lm_err err = {0};
        expect_ok(lm_dir_make(dir, &err), err);
        snprintf(link, sizeof link, "%s/%s", dir, names[i]);
        snprintf(file, sizeof file, "../../blobs/%s-%d", revision, i);
        assert_int_equal(symlink(file, link), 0);
        free(dir);
    }
    snprintf(file, sizeof file, ".cache/huggingface/hub/%s/refs/main", repo);
    if (main) put(file, revision);
}

static lm_store *open_store(const char *root) {
    lm_store *s = NULL;
    lm_err err = {0};
    char *path = root ? at(root) : NULL;
    const char *roots[] = {path};
    lm_store_config config = {
        .roots = roots, .n_roots = root ? 1 : 0, .aliases = LM_SOURCE_DIR "/share/aliases.ini"};
    expect_ok(lm_store_open(&s, &config, &err), err);
    free(path);
    return s;
}

static void an_empty_machine_has_no_models(void **state) {
    (void)state;
    lm_store *s = open_store(NULL);
    assert_string_equal(listed(s), "");
    not_there(s, "qwen2.5-coder:7b");
    lm_entry e;
    lm_err err = {0};
    expect_fail(lm_store_find(s, "../etc", &e, &err), LM_INVALID, err, "invalid model name");
    lm_store_close(s);
}

static void a_plain_directory_of_the_own_store_is_found_without_regard_to_case(void **state) {
    (void)state;
    put_model(".mlx-ollama/models/registry.ollama.ai/library/SmolLM2/1.7B");
    lm_store *s = open_store(NULL);
    lm_entry e = find(s, "smollm2:1.7b");
    assert_string_equal(e.name, "SmolLM2:1.7B");
    assert_true(e.owned && !e.managed);
    assert_int_equal(e.size, 2 + 7);
    assert_string_equal(find(s, "registry.ollama.ai/library/SMOLLM2:1.7b").name, "SmolLM2:1.7B");
    assert_string_equal(find(s, "smollm2").name, "SmolLM2:1.7B"); /* the default tag */
    lm_store_close(s);
}

static void latest_is_meant_when_no_tag_is_written(void **state) {
    (void)state;
    put_model("workspace/mlx/thing");
    put_model(".mlx-ollama/models/registry.ollama.ai/library/qwen2.5-coder/latest");
    put_model(".mlx-ollama/models/registry.ollama.ai/library/qwen2.5-coder/7b");
    lm_store *s = open_store(NULL);
    assert_string_equal(find(s, "Thing:Latest").name, "thing:latest");
    assert_string_equal(find(s, "qwen2.5-coder").name, "qwen2.5-coder:latest"); /* before the default tag */
    not_there(s, "thing:7b");
    lm_store_close(s);
}

static void every_kind_of_place_is_listed_newest_first(void **state) {
    (void)state;
    put_model(".mlx-ollama/models/hf.co/org/pulled/latest");
    put_age(".mlx-ollama/models/hf.co/org/pulled/latest/config.json", 100);
    put_age(".mlx-ollama/models/hf.co/org/pulled/latest/model.safetensors", 400);
    put_model("disk/plain one");
    put_age("disk/plain one/config.json", 300);
    put_age("disk/plain one/model.safetensors", 300);
    put_model("disk/org/two");
    put_age("disk/org/two/config.json", 200);
    put_age("disk/org/two/model.safetensors", 200);
    put_hub("models--mlx-community--phi-4-4bit", "0123abc", true);
    for (int i = 0; i < 2; i++) {
        char path[200];
        snprintf(path, sizeof path,
                 ".cache/huggingface/hub/models--mlx-community--phi-4-4bit/blobs/0123abc-%d", i);
        put_age(path, 100);
    }
    lm_store *s = open_store("disk");
    assert_string_equal(listed(s), "hf.co/org/pulled:latest plain-one:latest org/two:latest "
                                   "mlx-community/phi-4-4bit:latest phi4:14b phi4:latest");
    assert_string_equal(find(s, "org/pulled").name, "hf.co/org/pulled:latest");
    assert_string_equal(find(s, "hf.co/org/two").name, "org/two:latest");
    assert_string_equal(find(s, "https://huggingface.co/MLX-community/Phi-4-4bit").name,
                        "mlx-community/phi-4-4bit:latest");
    assert_false(find(s, "phi4").owned);
    lm_store_close(s);
}

static void a_root_may_be_a_model_itself(void **state) {
    (void)state;
    put_model("one-model");
    put_model("one-model/sub");
    lm_store *s = open_store("one-model");
    assert_string_equal(listed(s), "one-model:latest");
    lm_store_close(s);
}

static void an_alias_leads_to_the_first_repository_on_this_disk(void **state) {
    (void)state;
    put("a.ini", "[aliases]\nm:1b = org/first, org/second\n[default-tags]\nm = 1b\n");
    put_hub("models--org--second", "aaa", true);
    lm_store *s = NULL;
    lm_err err = {0};
    char *table = at("a.ini");
    lm_store_config config = {.aliases = table};
    expect_ok(lm_store_open(&s, &config, &err), err);
    assert_non_null(strstr(find(s, "m").dir, "models--org--second/snapshots/aaa"));
    put_model("workspace/mlx/First"); /* a plain directory named like the repository */
    assert_non_null(strstr(find(s, "M:1B").dir, "workspace/mlx/First"));
    assert_non_null(strstr(listed(s), "m:1b"));
    put_model(".mlx-ollama/models/registry.ollama.ai/library/m/1b");
    assert_true(find(s, "m").owned); /* a model of that very name comes before any alias */
    assert_non_null(strstr(listed(s), "m:1b"));
    free(table);
    lm_store_close(s);
}

static void a_name_of_a_form_is_listed_only_where_there_is_no_other(void **state) {
    (void)state;
    put_hub("models--mlx-community--Llama-3.2-1B-Instruct-4bit", "aaa", true);
    put_hub("models--mlx-community--Llama-3.2-3B-Instruct-bf16", "bbb", true);
    lm_store *s = open_store(NULL);
    const char *names = listed(s);
    assert_non_null(strstr(names, "llama3.2:1b"));
    assert_null(strstr(names, "llama3.2:1b-instruct-q4_K_M"));
    assert_non_null(strstr(names, "llama3.2:3b-instruct-fp16"));
    assert_string_equal(find(s, "llama3.2:1b-instruct-q4_K_M").dir, find(s, "llama3.2:1b").dir);
    lm_store_close(s);
}

static void lm_studios_folders_are_looked_at(void **state) {
    (void)state;
    put_model(".lmstudio/models/mlx-community/One-4bit");
    put_model(".cache/lm-studio/models/org/Two");
    put_model(".cache/lm-studio/models/mlx-community/One-4bit");
    lm_store *s = open_store(NULL);
    assert_non_null(strstr(find(s, "mlx-community/one-4bit").dir, "/.lmstudio/models/"));
    assert_non_null(strstr(find(s, "hf.co/org/two").dir, "/.cache/lm-studio/models/org/Two"));
    assert_null(strstr(strstr(listed(s), "One-4bit") + 1, "One-4bit")); /* once */
    lm_store_close(s);
}

static void the_users_table_extends_the_installed_one(void **state) {
    (void)state;
    put(".config/mlx-ollama/aliases.ini", "[aliases]\nmine = org/repo\nphi4 = org/repo\n");
    put_hub("models--org--repo", "aaa", true);
    lm_store *s = NULL;
    lm_err err = {0};
    expect_ok(lm_store_open(&s, NULL, &err), err);
    assert_string_equal(find(s, "mine").name, "mine:latest");
    assert_string_equal(find(s, "phi4").name, "phi4:latest");
    lm_store_close(s);
    put(".config/mlx-ollama/aliases.ini", "[aliases]\nmine\n");
    expect_fail(lm_store_open(&s, NULL, &err), LM_INVALID, err, ".config/mlx-ollama/aliases.ini line 2");
}

static void incomplete_models_are_passed_over(void **state) {
    (void)state;
    put("workspace/mlx/no-weights/config.json", "{}");
    put("workspace/mlx/no-config/model.safetensors", "x");
    put("workspace/mlx/empty/config.json", "{}");
    put("workspace/mlx/empty/model.safetensors", "");
    put("workspace/mlx/two-of-three/config.json", "{}");
    put("workspace/mlx/two-of-three/model-00001-of-00003.safetensors", "x");
    put("workspace/mlx/two-of-three/model-00002-of-00003.safetensors", "x");
    put_model("workspace/mlx/dangling");
    char *link = at("workspace/mlx/dangling/extra.safetensors");
    assert_int_equal(symlink("nowhere", link), 0);
    free(link);
    lm_store *s = open_store(NULL);
    assert_string_equal(listed(s), "");
    put("workspace/mlx/two-of-three/model-00003-of-00003.safetensors", "x");
    assert_string_equal(listed(s), "two-of-three:latest");
    lm_store_close(s);
}

static void the_hub_cache_gives_main_or_the_newest_whole_snapshot(void **state) {
    (void)state;
    put_hub("models--org--repo", "old", false);
    put_hub("models--org--repo", "new", false);
    for (int i = 0; i < 2; i++) {
        char path[200];
        snprintf(path, sizeof path, ".cache/huggingface/hub/models--org--repo/blobs/old-%d", i);
        put_age(path, 1000);
    }
    put(".cache/huggingface/hub/models--org--half/snapshots/x/config.json", "{}");
    put(".cache/huggingface/hub/models--org--half/refs/main", "x");
    put(".cache/huggingface/hub/models--org--evil/refs/main", "../../../../../../etc");
    lm_store *s = open_store(NULL);
    assert_non_null(strstr(find(s, "org/repo").dir, "snapshots/new"));
    put(".cache/huggingface/hub/models--org--repo/refs/main", "old\n");
    assert_non_null(strstr(find(s, "org/repo").dir, "snapshots/old"));
    put(".cache/huggingface/hub/models--org--repo/refs/main", "gone");
    assert_non_null(strstr(find(s, "org/repo").dir, "snapshots/new"));
    assert_string_equal(listed(s), "org/repo:latest");
    lm_store_close(s);
}

static void loops_and_locked_doors_do_not_hold_us_up(void **state) {
    (void)state;
    put_model("workspace/mlx/org/repo");
    const char *links[][2] = {
        {"..", "workspace/mlx/org/up"}, {".", "workspace/mlx/self"}, {"x", "workspace/mlx/x"}};
    for (size_t i = 0; i < 3; i++) {
        char *link = at(links[i][1]);
        assert_int_equal(symlink(links[i][0], link), 0);
        free(link);
    }
    char *closed = at("workspace/mlx/closed"), *fifo = at("workspace/mlx/org/repo/pipe");
    assert_int_equal(mkdir(closed, 0), 0);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    lm_store *s = open_store(NULL);
    assert_string_equal(listed(s), "org/repo:latest");
    chmod(closed, 0700);
    free(closed);
    free(fifo);
    lm_store_close(s);
}

static void the_digest_changes_with_the_files(void **state) {
    (void)state;
    put_model("workspace/mlx/m");
    put_age("workspace/mlx/m/config.json", 100);
    lm_store *s = open_store(NULL);
    lm_entry a = find(s, "m"), b = find(s, "m");
    assert_string_equal(a.digest, b.digest);
    put_age("workspace/mlx/m/config.json", 200);
    b = find(s, "m");
    assert_string_not_equal(a.digest, b.digest);
    put("workspace/mlx/m/more.json", "");
    a = find(s, "m");
    assert_string_not_equal(a.digest, b.digest);
    lm_store_close(s);
}

static void deleting_an_owned_model_removes_its_files(void **state) {
    (void)state;
    const char *model = ".mlx-ollama/models/registry.ollama.ai/library/m";
    put_model(".mlx-ollama/models/registry.ollama.ai/library/m/1b");
    put_model(".mlx-ollama/models/registry.ollama.ai/library/m/2b");
    put(".mlx-ollama/models/work/1/left", "over");
    char *dir = at(model), *trash = at(".mlx-ollama/models/work/1"), *own = at(".mlx-ollama/models");
    lm_store *s = open_store(NULL);
    lm_err err = {0};
    expect_ok(lm_store_delete(s, "M:1B", &err), err);
    assert_string_equal(listed(s), "m:2b");
    assert_false(lm_path_is_dir(trash));
    expect_ok(lm_store_delete(s, "m:2b", &err), err);
    assert_false(lm_path_is_dir(dir)); /* no empty directories stay */
    assert_true(lm_path_is_dir(own));
    expect_fail(lm_store_delete(s, "m:2b", &err), LM_NOT_FOUND, err, "model 'm:2b' not found");
    expect_fail(lm_store_delete(s, "m:", &err), LM_INVALID, err, "invalid model name");
    free(dir);
    free(trash);
    free(own);
    lm_store_close(s);
}

static void deleting_a_linked_model_leaves_the_users_files(void **state) {
    (void)state;
    put_hub("models--mlx-community--phi-4-4bit", "abc", true);
    lm_store *s = open_store(NULL);
    lm_err err = {0};
    expect_ok(lm_store_delete(s, "phi4", &err), err);
    not_there(s, "phi4");
    assert_string_equal(listed(s), "mlx-community/phi-4-4bit:latest phi4:14b"); /* its other names */
    expect_ok(lm_store_delete(s, "MLX-community/phi-4-4bit", &err), err);
    assert_string_equal(listed(s), "");
    not_there(s, "hf.co/mlx-community/phi-4-4bit");
    lm_entry e;
    char *files = at(".cache/huggingface/hub/models--mlx-community--phi-4-4bit/snapshots/abc");
    assert_true(lm_look(files, &e));
    free(files);
    lm_store_close(s);

    s = open_store(NULL); /* and it stays forgotten */
    not_there(s, "phi4");
    put_model(".mlx-ollama/models/registry.ollama.ai/library/phi4/latest");
    assert_true(find(s, "phi4").owned);
    lm_store_close(s);
}

static void a_deleted_name_is_gone_from_every_place(void **state) {
    (void)state;
    put_model(".mlx-ollama/models/registry.ollama.ai/library/m/latest");
    put_model("workspace/mlx/m");
    put_model("disk/M");
    lm_store *s = open_store("disk");
    lm_err err = {0};
    expect_ok(lm_store_delete(s, "m", &err), err);
    not_there(s, "m");
    assert_string_equal(listed(s), "");
    char *kept = at("workspace/mlx/m/model.safetensors"), *kept2 = at("disk/M/config.json");
    assert_true(lm_path_is_file(kept));
    assert_true(lm_path_is_file(kept2));
    free(kept);
    free(kept2);
    lm_store_close(s);
}

int main(void) {
#define T(f) cmocka_unit_test_setup_teardown(f, fresh_home, no_home)
    const struct CMUnitTest tests[] = {
        T(an_empty_machine_has_no_models),
        T(a_plain_directory_of_the_own_store_is_found_without_regard_to_case),
        T(latest_is_meant_when_no_tag_is_written),
        T(every_kind_of_place_is_listed_newest_first),
        T(a_root_may_be_a_model_itself),
        T(an_alias_leads_to_the_first_repository_on_this_disk),
        T(a_name_of_a_form_is_listed_only_where_there_is_no_other),
        T(lm_studios_folders_are_looked_at),
        T(the_users_table_extends_the_installed_one),
        T(incomplete_models_are_passed_over),
        T(the_hub_cache_gives_main_or_the_newest_whole_snapshot),
        T(loops_and_locked_doors_do_not_hold_us_up),
        T(the_digest_changes_with_the_files),
        T(deleting_an_owned_model_removes_its_files),
        T(deleting_a_linked_model_leaves_the_users_files),
        T(a_deleted_name_is_gone_from_every_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
