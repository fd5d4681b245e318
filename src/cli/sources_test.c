#include "cli/sources.h"

#include <sys/stat.h>

#include "base/test.h"

static char *below(const char *name) {
    return lm_path_join(test_dir(), name);
}

static void make_dir(const char *name) {
    lm_err err = {0};
    char *path = below(name);
    expect_ok(lm_dir_make(path, &err), err);
    free(path);
}

static void put(const char *name, const char *text) {
    put_file(test_dir(), name, lm_str_of(text));
}

static void put_link(const char *name, const char *to) {
    char *path = below(name);
    assert_int_equal(symlink(to, path), 0);
    free(path);
}

/* "a b c", or what is wrong. */
static void expect_names(const char *dir, const char *want) {
    sources s = {0};
    lm_err err = {0};
    lm_buf b;
    char *path = below(dir);
    lm_buf_init(&b, 4096);
    expect_ok(sources_add(&s, path, &err), err);
    for (uint32_t i = 0; i < s.n; i++) lm_buf_printf(&b, "%s%s", i ? " " : "", s.files[i].name);
    assert_string_equal(b.ptr, want);
    lm_buf_release(&b);
    sources_release(&s);
    free(path);
}

static void expect_wrong(const char *dir, lm_status want, const char *words) {
    sources s = {0};
    lm_err err = {0};
    char *path = below(dir);
    expect_fail(sources_add(&s, path, &err), want, err, words);
    sources_release(&s);
    free(path);
}

static void values_are_seen_from_the_modelfile(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"x", ".", "x"},
        {"./x", "dir", "dir/./x"},
        {"/x", "dir", "/x"},
        {"~/x", "dir", "/h/x"},
        {"~nobody-has-this/x", "d", "d/~nobody-has-this/x"},
    };
    setenv("HOME", "/h", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = sources_path(cases[i][0], cases[i][1]);
        assert_string_equal(path, cases[i][2]);
        free(path);
    }
    assert_true(sources_is_path("./x") && sources_is_path("~x") && sources_is_path("x.gguf"));
    assert_false(sources_is_path("llama3.2:1b"));
}

static void the_first_form_that_is_there_is_taken_with_what_belongs_to_it(void **state) {
    (void)state;
    make_dir("m/1_Pooling/deep");
    make_dir("m/.git");
    static const char *const files[] = {
        "m/a.gguf",          "m/other.safetensors", "m/pytorch_model.bin",
        "m/config.json",     "m/tokenizer.model",   "m/chat_template.jinja",
        "m/README.md",       "m/LICENSE.txt",       "m/1_Pooling/config.json",
        "m/1_Pooling/x.txt", "m/.git/x.json",       "m/1_Pooling/deep/x.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) put(files[i], "x");
    put("m/empty.json", "");
    static const char rest[] =
        " config.json tokenizer.model chat_template.jinja LICENSE.txt 1_Pooling/config.json";
    char want[300];
    snprintf(want, sizeof want, "other.safetensors%s", rest);
    expect_names("m", want);
    put("m/adapters.safetensors", "x");
    snprintf(want, sizeof want, "adapters.safetensors%s", rest);
    expect_names("m", want);
    put("m/model-00002-of-00002.safetensors", "x");
    put("m/model-00001-of-00002.safetensors", "x");
    snprintf(want, sizeof want, "model-00001-of-00002.safetensors model-00002-of-00002.safetensors%s", rest);
    expect_names("m", want);
    make_dir("g");
    put("g/b.gguf", "x");
    put("g/a.gguf", "x");
    put("g/config.json", "{}");
    expect_names("g", "a.gguf b.gguf");
    expect_names("g/b.gguf", "b.gguf");
}

static void what_is_no_model_is_said(void **state) {
    (void)state;
    make_dir("e");
    expect_wrong("e", LM_INVALID, "has no model");
    expect_wrong("e/x", LM_NOT_FOUND, "there is no file");
    put("e/model.safetensors", "");
    expect_wrong("e", LM_INVALID, "has no model");
    put("e/model.safetensors", "version https://git-lfs.github.com/spec/v1\n");
    expect_wrong("e", LM_INVALID, "git lfs pull");
    expect_wrong("/dev/null", LM_NOT_FOUND, "there is no file");
    sources s = {0};
    lm_err err = {0};
    expect_fail(sources_add(&s, "/dev/null", &err), LM_INVALID, err, "neither a file nor a directory");
    sources_release(&s);
}

static void a_name_is_there_once(void **state) {
    (void)state;
    make_dir("one");
    make_dir("two");
    put("one/model.safetensors", "x");
    put("two/model.safetensors", "y");
    sources s = {0};
    lm_err err = {0};
    char *one = below("one"), *two = below("two");
    expect_ok(sources_add(&s, one, &err), err);
    expect_fail(sources_add(&s, two, &err), LM_INVALID, err, "have the same name");
    sources_release(&s);
    free(one);
    free(two);
}

static void links_stay_within_but_for_the_cache(void **state) {
    (void)state;
    make_dir("l/sub");
    put("outside", "x");
    put("l/kept", "x");
    put_link("l/model.safetensors", "kept");
    put_link("l/dangling.json", "nowhere");
    put_link("l/elsewhere", "/etc"); /* a directory behind a link is not entered */
    expect_names("l", "model.safetensors");
    put_link("l/config.json", "../outside");
    expect_wrong("l", LM_INVALID, "leads out of its directory");

    make_dir("hub/models--a--b/snapshots/1234");
    make_dir("hub/models--a--b/blobs");
    put("hub/models--a--b/blobs/abc", "x");
    put("hub/models--a--b/secret", "x");
    put_link("hub/models--a--b/snapshots/1234/model.safetensors", "../../blobs/abc");
    expect_names("hub/models--a--b/snapshots/1234", "model.safetensors");
    put_link("hub/models--a--b/snapshots/1234/config.json", "../../secret");
    expect_wrong("hub/models--a--b/snapshots/1234", LM_INVALID, "leads out of its directory");
}

static bool count(void *ctx, uint64_t done) {
    uint32_t *left = ctx;
    (void)done;
    return (*left)-- > 0;
}

static void a_digest_is_of_what_was_there(void **state) {
    (void)state;
    put("x.gguf", "abc");
    sources s = {0};
    lm_err err = {0};
    char *path = below("x.gguf");
    expect_ok(sources_add(&s, path, &err), err);
    uint32_t left = 9;
    expect_ok(source_hash(&s.files[0], count, &left, &err), err);
    assert_string_equal(s.files[0].digest,
                        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    left = 0;
    expect_fail(source_hash(&s.files[0], count, &left, &err), LM_CANCELLED, err, "interrupted");
    put("x.gguf", "abcd");
    left = 9;
    expect_fail(source_hash(&s.files[0], count, &left, &err), LM_IO, err, "changes while it is read");
    assert_int_equal(unlink(path), 0);
    expect_fail(source_hash(&s.files[0], count, &left, &err), LM_IO, err, "cannot be read");
    sources_release(&s);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_seen_from_the_modelfile),
        cmocka_unit_test_setup_teardown(the_first_form_that_is_there_is_taken_with_what_belongs_to_it,
                                        make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(what_is_no_model_is_said, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(a_name_is_there_once, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(links_stay_within_but_for_the_cache, make_test_dir, remove_test_dir),
        cmocka_unit_test_setup_teardown(a_digest_is_of_what_was_there, make_test_dir, remove_test_dir),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
