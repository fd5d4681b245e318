/* catalog_test.c - listings as servers write them, and as they should not. */
#include "router/catalog.h"

#include "base/test.h"

static catalog *read_tags(const char *text) {
    catalog *c = NULL;
    lm_err err = {0};
    expect_ok(catalog_read(&c, lm_str_of(text), &err), err);
    return c;
}

static const catalog_model *find(const catalog *c, const char *name) {
    lm_name n;
    lm_err err = {0};
    expect_ok(lm_name_parse(lm_str_of(name), &n, &err), err);
    return catalog_find(c, &n);
}

static void an_item_is_read_whole(void **state) {
    (void)state;
    catalog *c = read_tags(
        "{\"models\":[{\"name\":\"Qwen3:8b\",\"model\":\"Qwen3:8b\",\"modified_at\":\"2026-01-01T00:00:00Z\","
        "\"size\":5000000000,"
        "\"digest\":\"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\",\"details\":{"
        "\"format\":\"gguf\","
        "\"context_length\":40960},\"capabilities\":[\"completion\",\"tools\",\"thinking\",\"telepathy\"]},"
        "{\"model\":\"only-model\"},{\"name\":\"hf.co/Org/Repo:Q4\"}]}");
    const catalog_model *m = find(c, "qwen3:8B");
    assert_non_null(m);
    assert_string_equal(m->shown, "Qwen3:8b");
    assert_string_equal(m->format, "gguf");
    assert_string_equal(m->digest, "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef");
    assert_true(m->size == 5000000000u);
    assert_int_equal(m->n_ctx, 40960);
    assert_true(m->able_known);
    assert_int_equal(m->able, NEED_COMPLETION | NEED_TOOLS | NEED_THINKING);
    assert_false(m->loaded);
    assert_non_null(find(c, "only-model:latest"));
    assert_false(find(c, "only-model")->able_known);
    assert_non_null(find(c, "HF.co/org/repo:q4"));
    assert_null(find(c, "qwen3"));
    catalog_free(c);
}

static void what_is_loaded_is_marked(void **state) {
    (void)state;
    lm_err err = {0};
    catalog *c = read_tags("{\"models\":[{\"name\":\"a\"},{\"name\":\"b\"}]}");
    expect_ok(
        catalog_read_ps(
            c,
            LM_STR("{\"models\":[{\"name\":\"A:latest\",\"context_length\":8192,\"expires_at\":\"soon\"},"
                   "{\"name\":\"stranger\"},{\"name\":7},null]}"),
            &err),
        err);
    assert_true(find(c, "a")->loaded);
    assert_int_equal(find(c, "a")->n_ctx_loaded, 8192);
    assert_string_equal(find(c, "a")->expires, "soon");
    assert_false(find(c, "b")->loaded);
    catalog_free(c);
}

static void what_is_no_listing_is_refused(void **state) {
    (void)state;
    const char *bad[] = {
        "", "{", "[]", "7", "\"models\"", "{}", "{\"models\":{}}", "{\"models\":\"x\"}", "{\"models\":[}"};
    catalog *c = NULL, *empty = read_tags("{\"models\":null}");
    lm_err err = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        expect_fail(catalog_read(&c, lm_str_of(bad[i]), &err), LM_CORRUPT, err,
                    "/api/tags answered no list of models");
        expect_fail(catalog_read_ps(empty, lm_str_of(bad[i]), &err), LM_CORRUPT, err,
                    "/api/ps answered no list of models");
    }
    assert_int_equal(empty->n, 0);
    catalog_free(empty);
}

static void wrong_items_are_passed_over(void **state) {
    (void)state;
    catalog *c = read_tags(
        "{\"models\":[1,null,[],{},{\"name\":3},{\"name\":\"a b\"},{\"name\":\"../../etc\"},{\"name\":\"ok\","
        "\"size\":-1,\"digest\":7,\"details\":[],\"capabilities\":{\"tools\":1}},{\"name\":\"OK:latest\"}]}");
    assert_int_equal(c->n, 1);
    assert_int_equal(c->n_passed_over, 8);
    const catalog_model *m = find(c, "ok");
    assert_int_equal(m->size, 0);
    assert_string_equal(m->digest, "");
    assert_false(m->able_known);
    catalog_free(c);
}

static void there_is_an_end_to_it(void **state) {
    (void)state;
    lm_err err = {0};
    lm_buf b;
    catalog *c = NULL;
    lm_buf_init(&b, 4 * CATALOG_MAX_BODY);
    lm_buf_text(&b, "{\"models\":[");
    for (int i = 0; i < CATALOG_MAX_MODELS + 100; i++)
        lm_buf_printf(&b, "%s{\"name\":\"m%d\"}", i ? "," : "", i);
    lm_buf_text(&b, "]}");
    expect_ok(catalog_read(&c, lm_buf_view(&b), &err), err);
    assert_int_equal(c->n, CATALOG_MAX_MODELS);
    assert_int_equal(c->n_passed_over, 100);
    catalog_free(c);
    while (b.len <= CATALOG_MAX_BODY)
        lm_buf_text(&b, "                                                                ");
    expect_fail(catalog_read(&c, lm_buf_view(&b), &err), LM_CORRUPT, err, "larger than");
    lm_buf_release(&b);
}

static void abilities_and_context_come_from_show(void **state) {
    (void)state;
    catalog_show s;
    lm_err err = {0};
    expect_ok(
        catalog_read_show(
            LM_STR("{\"capabilities\":[\"embedding\"],\"model_info\":{\"general.architecture\":\"bert\","
                   "\"bert.context_length\":512}}"),
            &s, &err),
        err);
    assert_true(s.able_known);
    assert_int_equal(s.able, NEED_EMBEDDING);
    assert_int_equal(s.n_ctx, 512);
    expect_ok(catalog_read_show(LM_STR("{\"model_info\":{\"general.architecture\":7}}"), &s, &err), err);
    assert_false(s.able_known);
    assert_int_equal(s.n_ctx, 0);
    expect_fail(catalog_read_show(LM_STR("[]"), &s, &err), LM_CORRUPT, err,
                "/api/show answered no description");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_item_is_read_whole),
        cmocka_unit_test(what_is_loaded_is_marked),
        cmocka_unit_test(what_is_no_listing_is_refused),
        cmocka_unit_test(wrong_items_are_passed_over),
        cmocka_unit_test(there_is_an_end_to_it),
        cmocka_unit_test(abilities_and_context_come_from_show),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
