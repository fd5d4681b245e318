#include "base/test.h"
#include "hub/private.h"

#define COMMIT "0123456789abcdef0123456789abcdef01234567"
#define SHA    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define GIT(n) "{\"rfilename\":\"" n "\",\"size\":3,\"blobId\":\"" COMMIT "\"}"
#define LFS(n)                                                                                               \
    "{\"rfilename\":\"" n "\",\"size\":3,\"blobId\":\"x\",\"lfs\":{\"sha256\":\"" SHA "\",\"size\":7}}"
#define LIST(f) "{\"sha\":\"" COMMIT "\",\"siblings\":[" f "]}"

static lm_status parse(const char *text, lm_listing *l, lm_err *err) {
    return lm_listing_parse(lm_str_of(text), l, err);
}

static void a_listing_gives_what_a_model_needs(void **state) {
    (void)state;
    lm_listing l;
    lm_err err = {0};
    bool gguf = true;
    expect_ok(
        parse(LIST(GIT("config.json") "," LFS("model.safetensors") "," GIT("README.md") "," GIT(
                  "tokenizer."
                  "json") "," GIT("onnx/config.json") "," GIT("1_Pooling/config.json") "," LFS("pytorch_"
                                                                                               "model.bin")),
              &l, &err),
        err);
    assert_int_equal(l.n, 4);
    assert_string_equal(l.commit, COMMIT);
    assert_string_equal(l.files[0].oid, COMMIT);
    assert_int_equal(l.files[0].size, 3);
    assert_string_equal(l.files[1].digest, "sha256:" SHA);
    assert_int_equal(l.files[1].size, 7);
    expect_ok(lm_listing_choose(&l, "latest", &gguf, &err), err);
    assert_false(gguf);
    assert_int_equal(l.n, 4);
    lm_listing_release(&l);
}

static void names_that_lead_elsewhere_are_left_out(void **state) {
    (void)state;
    const char *const names[] = {"../config.json",
                                 "/config.json",
                                 "a/config.json",
                                 ".tokenizer.json",
                                 "-tokenizer",
                                 "tokenizer\\\\..\\\\x",
                                 "tokenizer\\n.json",
                                 "tokenizer\\u0000.json",
                                 "tokenizer\\u00e9.json",
                                 ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char text[600];
        lm_listing l;
        lm_err err = {0};
        snprintf(text, sizeof text, LIST("{\"rfilename\":\"%s\",\"size\":1,\"blobId\":\"" COMMIT "\"}"),
                 names[i]);
        expect_ok(parse(text, &l, &err), err);
        assert_int_equal(l.n, 0);
        lm_listing_release(&l);
    }
}

static void listings_that_lie_are_refused(void **state) {
    (void)state;
    const char *const texts[] = {
        "",
        "[]",
        "{}",
        "{\"sha\":\"x\",\"siblings\":[]}",
        "{\"sha\":\"" COMMIT "\"}",
        LIST("{\"rfilename\":\"config.json\",\"blobId\":\"" COMMIT "\"}"),
        LIST("{\"rfilename\":\"config.json\",\"size\":-1,\"blobId\":\"" COMMIT "\"}"),
        LIST("{\"rfilename\":\"config.json\",\"size\":9000000000000000000,\"blobId\":\"" COMMIT "\"}"),
        LIST("{\"rfilename\":\"config.json\",\"size\":1}"),
        LIST("{\"rfilename\":\"config.json\",\"size\":1,\"blobId\":\"../x\"}"),
        LIST("{\"rfilename\":\"x.safetensors\",\"lfs\":{\"size\":1,\"sha256\":\"zz\"}}"),
        LIST(GIT("config.json") "," GIT("CONFIG.json") "," GIT("config.json")),
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        lm_listing l;
        lm_err err = {0};
        expect_fail(parse(texts[i], &l, &err), LM_CORRUPT, err, "listing of files");
    }
}

static void a_form_of_gguf_is_chosen_by_its_tag(void **state) {
    (void)state;
    const struct {
        const char *tag, *want;
    } cases[] = {{"latest", "a.Q4_K_M.gguf"}, {"q8_0", "a.Q8_0.gguf"}, {"F16", NULL}};
    for (size_t i = 0; i < 3; i++) {
        lm_listing l;
        lm_err err = {0};
        bool gguf = false;
        expect_ok(
            parse(LIST(LFS("a.Q8_0.gguf") "," LFS("mmproj-Q4_K_M.gguf") "," LFS("a.Q4_K_M.gguf")), &l, &err),
            err);
        if (cases[i].want) {
            expect_ok(lm_listing_choose(&l, cases[i].tag, &gguf, &err), err);
            assert_true(gguf);
            assert_int_equal(l.n, 1);
            assert_string_equal(l.files[0].name, cases[i].want);
        } else {
            expect_fail(lm_listing_choose(&l, cases[i].tag, &gguf, &err), LM_NOT_FOUND, err, "F16");
        }
        lm_listing_release(&l);
    }
}

static void all_parts_of_a_gguf_file_come_in_their_order(void **state) {
    (void)state;
    lm_listing l;
    lm_err err = {0};
    bool gguf = false;
    expect_ok(
        parse(LIST(LFS("Q4_K_M/a-Q4_K_M-00002-of-00002.gguf") "," LFS("a-Q8_0.gguf") "," LFS(
                  "Q4_K_M/mmproj-Q4_K_M-00001-of-00002.gguf") "," LFS("Q4_K_M/a-Q4_K_M-00001-of-00002.gguf")),
              &l, &err),
        err);
    expect_ok(lm_listing_choose(&l, "latest", &gguf, &err), err);
    assert_true(gguf);
    assert_int_equal(l.n, 2);
    assert_string_equal(l.files[0].name, "Q4_K_M/a-Q4_K_M-00001-of-00002.gguf");
    assert_string_equal(l.files[1].name, "Q4_K_M/a-Q4_K_M-00002-of-00002.gguf");
    lm_listing_release(&l);
}

static void what_is_no_model_is_refused(void **state) {
    (void)state;
    lm_listing l;
    lm_err err = {0};
    bool gguf;
    expect_ok(parse(LIST(GIT("config.json")), &l, &err), err);
    expect_fail(lm_listing_choose(&l, "latest", &gguf, &err), LM_UNSUPPORTED, err, "no model");
    lm_listing_release(&l);
    expect_ok(parse(LIST(LFS("a-00002-of-00002.gguf")), &l, &err), err);
    expect_fail(lm_listing_choose(&l, "latest", &gguf, &err), LM_CORRUPT, err, "has no part 1");
    lm_listing_release(&l);
    expect_ok(parse(LIST(LFS("a-00001-of-00002.gguf") "," LFS("b-00002-of-00002.gguf")), &l, &err), err);
    expect_fail(lm_listing_choose(&l, "latest", &gguf, &err), LM_CORRUPT, err, "has no part 2");
    lm_listing_release(&l);
    expect_ok(parse(LIST(LFS("a-00001-of-00000.gguf") "," LFS("a-00000-of-00001.gguf")), &l, &err), err);
    expect_fail(lm_listing_choose(&l, "latest", &gguf, &err), LM_CORRUPT, err, "has more");
    lm_listing_release(&l);
}

static void a_manifest_gives_its_layers(void **state) {
    (void)state;
    lm_listing l;
    lm_err err = {0};
    expect_ok(
        lm_oci_parse(LM_STR("{\"layers\":[{\"mediaType\":\"t\",\"digest\":\"sha256:" SHA "\",\"size\":5}]}"),
                     &l, &err),
        err);
    assert_int_equal(l.n, 1);
    assert_string_equal(l.files[0].digest, "sha256:" SHA);
    assert_int_equal(l.files[0].size, 5);
    lm_listing_release(&l);
    const char *const bad[] = {"",
                               "{}",
                               "{\"layers\":[]}",
                               "{\"layers\":[1]}",
                               "{\"layers\":[{\"mediaType\":\"t\",\"digest\":\"sha256:..\",\"size\":5}]}",
                               "{\"layers\":[{\"mediaType\":\"t\",\"digest\":\"sha256:" SHA
                               "\",\"size\":-5}]}",
                               "{\"layers\":[{\"digest\":\"sha256:" SHA "\",\"size\":5}]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_fail(lm_oci_parse(lm_str_of(bad[i]), &l, &err), LM_CORRUPT, err, "not a manifest");
}

static void git_and_sha256_agree_with_their_tools(void **state) {
    (void)state;
    char digest[LM_DIGEST_SIZE];
    lm_err err = {0};
    lm_origin o = {0};
    put_file(test_dir(), "f", LM_STR("hello\n"));
    char *path = lm_path_join(test_dir(), "f");
    /* printf 'hello\n' | git hash-object --stdin; printf 'hello\n' | sha256sum */
    expect_ok(lm_hub_hash(path, 6, "ce013625030ba8dba906f756967f9e9ca394464a", digest, &o, &err), err);
    assert_string_equal(digest, "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03");
    expect_fail(lm_hub_hash(path, 6, COMMIT, digest, &o, &err), LM_CORRUPT, err, "digest mismatch");
    free(path);
}

static void only_the_same_origin_sees_a_token(void **state) {
    (void)state;
    assert_true(lm_url_same_origin("https://a/x", "https://A:443/y"));
    assert_false(lm_url_same_origin("https://a/", "http://a/"));
    assert_false(lm_url_same_origin("https://a/", "https://a:444/"));
    assert_false(lm_url_same_origin("https://a/", "https://a.b/"));
    assert_false(lm_url_same_origin("https://a/", "https://a@b/"));
}

static void one_is_sent_on_to_http_and_https_alone(void **state) {
    (void)state;
    lm_err err = {0};
    char *url = NULL;
    expect_ok(lm_url_join("https://a/b/c?d", LM_STR("/e"), &url, &err), err);
    assert_string_equal(url, "https://a/e");
    free(url);
    expect_ok(lm_url_join("http://a/", LM_STR("https://b/c"), &url, &err), err);
    assert_string_equal(url, "https://b/c");
    free(url);
    const char *const bad[] = {"", "http://b/", "file:///etc/passwd", "ftp://b/", "gopher://b/"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect_fail(lm_url_join("https://a/", lm_str_of(bad[i]), &url, &err), LM_INVALID, err,
                    "not followed");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_listing_gives_what_a_model_needs),
        cmocka_unit_test(names_that_lead_elsewhere_are_left_out),
        cmocka_unit_test(listings_that_lie_are_refused),
        cmocka_unit_test(a_form_of_gguf_is_chosen_by_its_tag),
        cmocka_unit_test(all_parts_of_a_gguf_file_come_in_their_order),
        cmocka_unit_test(what_is_no_model_is_refused),
        cmocka_unit_test(a_manifest_gives_its_layers),
        cmocka_unit_test_setup_teardown(git_and_sha256_agree_with_their_tools, make_test_dir,
                                        remove_test_dir),
        cmocka_unit_test(only_the_same_origin_sees_a_token),
        cmocka_unit_test(one_is_sent_on_to_http_and_https_alone),
    };
    return cmocka_run_group_tests_name("hub.hub", tests, NULL, NULL);
}
