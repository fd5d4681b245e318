/* Signing in to a registry, and what a hub says of large files. */
#include "base/test.h"
#include "hub/private.h"

#include <openssl/evp.h>

#define SHA      "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define KEY_HEAD "-----BEGIN OPENSSH PRIVATE KEY-----\n"
#define KEY_TAIL "\n-----END OPENSSH PRIVATE KEY-----\n"
/* The seed is 0, 1 .. 31. */
static const char key_text[] =
    KEY_HEAD "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW\n"
             "QyNTUxOQAAACADoQe/884Qvh1w3RjnS8CZZ+TWMJulDV8d3IZkElUxuAAAAJABAgMEAQID\n"
             "BAAAAAtzc2gtZWQyNTUxOQAAACADoQe/884Qvh1w3RjnS8CZZ+TWMJulDV8d3IZkElUxuA\n"
             "AAAEAAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHwOhB7/zzhC+HXDdGOdLwJln\n"
             "5NYwm6UNXx3chmQSVTG4AAAACWEgY29tbWVudAECAwQ=" KEY_TAIL;

/* ---- the key */

static void a_key_signs_as_openssl_does(void **state) {
    (void)state;
    lm_ssh_key key;
    lm_err err = {0};
    lm_buf b;
    lm_buf_init(&b, 4096);
    expect_ok(lm_ssh_key_parse(lm_str_of(key_text), &key, &err), err);
    for (int i = 0; i < 32; i++) assert_int_equal(key.seed[i], i);
    expect_ok(lm_ssh_sign(&key, LM_STR("GET,https://a/token?x=1,abc"), &b, &err), err);
    /* openssl pkeyutl -sign -rawin, and the second word of ssh-keygen -y */
    assert_string_equal(
        b.ptr, "AAAAC3NzaC1lZDI1NTE5AAAAIAOhB7/zzhC+HXDdGOdLwJln5NYwm6UNXx3chmQSVTG4:"
               "RsAi3D0gD2HNf+urNolqvNtDZPGNt76OHKyuNl5C3lsxU3awUJFqoxoZFw995ytBjMcjM81RYWiqE1C4m92BBg==");
    lm_buf_release(&b);
}

static void what_is_no_usable_key_is_refused(void **state) {
    (void)state;
    lm_ssh_key key;
    lm_err err = {0};
    const char *const none[] = {"",
                                "x",
                                KEY_HEAD,
                                KEY_HEAD KEY_TAIL,
                                KEY_HEAD "!!!!" KEY_TAIL,
                                KEY_HEAD "AAAA" KEY_TAIL,
                                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        expect_fail(lm_ssh_key_parse(lm_str_of(none[i]), &key, &err), LM_CORRUPT, err, "the key is no key");
    /* cut at any place, with any letter changed: refused, or the same seed */
    for (size_t n = 0; n < sizeof key_text - 1; n++) {
        char *text = lm_strdup(key_text);
        text[n] = text[n] == 'A' ? 'B' : 'A';
        (void)!lm_ssh_key_parse(lm_str_of(text), &key, &err);
        text[n] = '\0';
        if (n < sizeof KEY_HEAD + 250)
            expect_fail(lm_ssh_key_parse(lm_str_of(text), &key, &err), LM_CORRUPT, err, "the key is");
        free(text);
    }
}

/* ---- what is asked for */

static void a_challenge_says_where_and_for_what(void **state) {
    (void)state;
    lm_challenge c;
    assert_true(lm_challenge_parse(
        LM_STR("Bearer realm=\"https://h/token\",service=\"s\",scope=\"repository:a/b:pull,push\""), &c));
    assert_string_equal(c.realm, "https://h/token");
    assert_string_equal(c.service, "s");
    assert_string_equal(c.scope, "repository:a/b:pull,push");
    assert_true(lm_challenge_parse(LM_STR("bearer scope=\"realm=x\", realm=https://h/t"), &c));
    assert_string_equal(c.realm, "https://h/t");
    assert_string_equal(c.scope, "realm=x");
    assert_string_equal(c.service, "");
    const char *const none[] = {"",
                                "Bearer",
                                "Bearer ",
                                "Basic realm=\"x\"",
                                "Bearer service=\"s\"",
                                "Bearer realm=\"\"",
                                "Bearer realm=\"a\nb\"",
                                "Bearer xrealm=\"y\""};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        assert_false(lm_challenge_parse(lm_str_of(none[i]), &c));
}

/* ---- large files */

#define BATCH(more) "{\"objects\":[{\"oid\":\"" SHA "\",\"size\":10" more "}]}"

static lm_status parse(const char *text, lm_lfs *out, lm_err *err) {
    lm_remote f = {.digest = "sha256:" SHA, .size = 10, .fd = -1, .name = "model.safetensors"};
    lm_remote *files[] = {&f};
    return lm_lfs_parse(lm_str_of(text), "https://hub/x", files, 1, out, err);
}

static void a_batch_says_where_large_files_go(void **state) {
    (void)state;
    lm_lfs l;
    lm_err err = {0};
    expect_ok(parse(BATCH(""), &l, &err), err);
    assert_null(l.href);
    lm_lfs_release(&l);
    expect_ok(parse(BATCH(",\"actions\":{\"upload\":{\"href\":\"https://cdn/"
                          "a\",\"header\":{\"X\":\"y\",\"Authorization\":\"z\"}},"
                          "\"verify\":{\"href\":\"/verify\"}}"),
                    &l, &err),
              err);
    assert_string_equal(l.href, "https://cdn/a");
    assert_string_equal(l.verify, "https://hub/verify");
    assert_int_equal(l.n_headers, 1);
    assert_string_equal(l.headers[0], "X: y");
    lm_lfs_release(&l);
    expect_ok(parse(BATCH(",\"actions\":{\"upload\":{\"href\":\"https://hub/"
                          "done\",\"header\":{\"chunk_size\":\"4\",\"00002\":\"https://cdn/2\","
                          "\"00001\":\"https://cdn/1\",\"00003\":\"https://cdn/3\"}}}"),
                    &l, &err),
              err);
    assert_int_equal(l.n_parts, 3);
    assert_int_equal(l.chunk, 4);
    assert_string_equal(l.parts[1], "https://cdn/2");
    lm_lfs_release(&l);
}

static void batches_that_lie_are_refused(void **state) {
    (void)state;
    lm_err err = {0};
    const char *const bad[] = {
        "",
        "[]",
        "{}",
        "{\"objects\":[]}",
        "{\"objects\":[{\"oid\":5}]}",
        BATCH(",\"actions\":{\"upload\":{}}"),
        BATCH(",\"actions\":{\"upload\":{\"href\":\"http://plain/\"}}"), /* from https */
        BATCH(",\"actions\":{\"upload\":{\"href\":\"file:///etc/passwd\"}}"),
        BATCH(",\"actions\":{\"upload\":{\"href\":\"https://a\",\"header\":{\"A\":\"b\\r\\nC: d\"}}}"),
        BATCH(",\"actions\":{\"upload\":{\"href\":\"https://a\",\"header\":{\"A:b\":\"c\"}}}"),
        BATCH(",\"actions\":{\"upload\":{\"href\":\"https://a\",\"header\":{\"chunk_size\":\"0\"}}}"),
        BATCH(",\"actions\":{\"upload\":{\"href\":\"https://"
              "a\",\"header\":{\"chunk_size\":\"4\",\"00001\":\"https://b\"}}}"),
        BATCH(",\"actions\":{\"upload\":{\"href\":\"https://a\"},\"verify\":{\"href\":7}}"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lm_lfs l;
        expect_fail(parse(bad[i], &l, &err), LM_CORRUPT, err, "hub");
        assert_null(l.href);
    }
    lm_lfs l;
    expect_fail(parse(BATCH(",\"error\":{\"code\":413,\"message\":\"no quota\"}"), &l, &err), LM_DENIED, err,
                "no quota");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_signs_as_openssl_does),
        cmocka_unit_test(what_is_no_usable_key_is_refused),
        cmocka_unit_test(a_challenge_says_where_and_for_what),
        cmocka_unit_test(a_batch_says_where_large_files_go),
        cmocka_unit_test(batches_that_lie_are_refused),
    };
    return cmocka_run_group_tests_name("hub.push", tests, NULL, NULL);
}
