/* Go templates against the answers of Go and of Ollama's template package
 * (tests/golden/text/go_templates.json, made by tests/gotmpl/compare.py), and what no other program can be
 * asked: bounds, and models that bring a template. */
#include "base/test.h"

#include "base/json.h"
#include "text/go_ask.h"
#include "text/golden.h"
#include "text/private.h"

#define MAX_GOLDEN (8u << 20)

static void expect_answer(lm_str source, lm_status st, const lm_buf *out, const lm_err *err,
                          const json_t *want) {
    const json_t *text = json_object_get(want, "text"), *error = json_object_get(want, "error");
    if (text && (st != LM_OK || !lm_str_eq(lm_buf_view(out), go_str(text))))
        fail_msg("%.*s\n  here: %s\n  Go:   %s", LM_STR_ARG(source), st == LM_OK ? out->ptr : err->text,
                 json_string_value(text));
    /* Of a node that is long our text has less. */
    if (error && (st != LM_INVALID ||
                  (json_string_length(error) < 300 && strcmp(err->text, json_string_value(error)))))
        fail_msg("%.*s\n  here: %s\n  Go:   %s", LM_STR_ARG(source), st == LM_OK ? "no error" : err->text,
                 json_string_value(error));
}

static json_t *golden(void) {
    json_t *all = NULL;
    lm_err err = {0};
    expect_ok(lm_json_load(GOLDEN "go_templates.json", MAX_GOLDEN, &all, &err), err);
    return all;
}

static void templates_over_data_are_as_in_go(void **state) {
    (void)state;
    json_t *all = golden(), *plain = json_object_get(all, "plain");
    lm_buf out;
    lm_buf_init(&out, MAX_GOLDEN);
    assert_true(json_array_size(plain) > 150);
    for (size_t i = 0; i < json_array_size(plain); i++) {
        const json_t *one = json_array_get(plain, i);
        lm_str source = go_str(json_array_get(one, 0));
        lm_go_template *t = NULL;
        lm_err err = {0};
        lm_buf_clear(&out);
        lm_status st = lm_go_template_open(&t, source, &err);
        if (st == LM_OK) st = lm_go_template_run(t, json_object_get(all, "data"), &out, &err);
        expect_answer(source, st, &out, &err, json_array_get(one, 1));
        lm_go_template_close(t);
    }
    lm_buf_release(&out);
    json_decref(all);
}

static void chats_are_rendered_as_by_ollama(void **state) {
    (void)state;
    json_t *all = golden(), *chats = json_object_get(all, "chats"),
           *templates = json_object_get(all, "templates");
    lm_buf out;
    lm_buf_init(&out, MAX_GOLDEN);
    assert_true(json_array_size(templates) > 30 && json_array_size(chats) > 15);
    for (size_t i = 0; i < json_array_size(templates); i++) {
        const json_t *one = json_array_get(templates, i);
        for (size_t k = 0; k < json_array_size(chats); k++) {
            lm_str source = go_str(json_array_get(one, 0));
            lm_err err = {0};
            lm_buf_clear(&out);
            lm_status st = go_ask(source, json_array_get(chats, k), &out, &err);
            expect_answer(source, st, &out, &err, json_array_get(json_array_get(one, 1), k));
        }
    }
    lm_buf_release(&out);
    json_decref(all);
}

/* ---- bounds ---------------------------------------------------------------------------------------------- */

static void expect_refusal(const char *source, size_t room, const char *words) {
    lm_go_template *t = NULL;
    lm_err err = {0};
    lm_buf out;
    lm_buf_init(&out, room);
    lm_buf_text(&out, "before");
    lm_status st = lm_go_template_open(&t, lm_str_of(source), &err);
    if (st == LM_OK)
        st = lm_go_template_chat(t, LM_STR("[{\"role\":\"user\",\"content\":\"hi\"}]"), (lm_str){0}, -1,
                                 (lm_str){0}, &out, &err);
    if (st == LM_OK || !strstr(err.text, words)) fail_msg("%.60s: %s", source, err.text);
    assert_string_equal(out.ptr, "before"); /* nothing half is left */
    lm_go_template_close(t);
    lm_buf_release(&out);
}

static void what_never_ends_is_ended(void **state) {
    (void)state;
    expect_refusal("{{ range 2000000000 }}{{ end }}", 1 << 20, "too many steps");
    expect_refusal("{{ define \"x\" }}{{ template \"x\" . }}{{ end }}{{ template \"x\" .Messages }}", 1 << 20,
                   "template depth");
    expect_refusal("{{ range 1000000 }}0123456789{{ end }}", 1 << 20, "too long");
    expect_refusal("{{ $x := \"0123456789\" }}{{ range 100 }}{{ $x = printf \"%s%s\" $x $x }}{{ end }}",
                   1 << 20, "more text than");
}

static char *repeated(const char *piece, size_t n, const char *middle, const char *end) {
    lm_buf b;
    lm_buf_init(&b, 8 << 20);
    for (size_t i = 0; i < n; i++) lm_buf_text(&b, piece);
    lm_buf_text(&b, middle);
    for (size_t i = 0; i < n; i++) lm_buf_text(&b, end);
    return lm_buf_take(&b);
}

static void sources_that_are_too_deep_or_too_large_are_refused(void **state) {
    (void)state;
    char *deep = repeated("{{ if 1 }}", 5000, "", "{{ end }}");
    expect_refusal(deep, 1 << 20, "depth exceeded");
    free(deep);
    lm_buf b;
    lm_buf_init(&b, 8 << 20);
    lm_buf_text(&b, "{{ ");
    char *parens = repeated("(", 100000, "1", ")");
    lm_buf_text(&b, parens);
    lm_buf_text(&b, " }}");
    expect_refusal(b.ptr, 1 << 20, "depth exceeded");
    free(parens);
    lm_buf_release(&b);
    char *large = repeated("x", 2 << 20, "", "");
    expect_refusal(large, 4 << 20, "larger than");
    free(large);
}

static void a_check_says_that_it_is_the_template(void **state) {
    (void)state;
    lm_err err = {0};
    expect_ok(lm_go_template_check(LM_STR("{{ .Prompt }}"), &err), err);
    expect_fail(lm_go_template_check(LM_STR("a\n{{ .Prompt "), &err), LM_INVALID, err,
                "template error: template: :2: unclosed action");
}

/* ---- models ---------------------------------------------------------------------------------------------- */

static void put(const char *name, const char *text) {
    put_file(test_dir(), name, lm_str_of(text));
}

static void a_model_is_what_its_template_says(void **state) {
    (void)state;
    lm_err err = {0};
    lm_text *t = NULL;
    lm_text_facts facts = {0};
    lm_buf out;
    put_golden(test_dir(), "byte_level"); /* has tokens to think and to fill in the middle */
    put("chat_template.jinja", "jinja");
    put("template", "{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}");
    expect_ok(lm_text_open(&t, test_dir(), &err), err);
    assert_false(t->tools || t->thinks || t->inserts);
    lm_buf_init(&out, 1 << 20);
    expect_ok(lm_text_render_chat(t, LM_STR("[{\"role\":\"user\",\"content\":\"hi\"}]"), (lm_str){0}, -1,
                                  (lm_str){0}, &out, &err),
              err);
    assert_string_equal(out.ptr, "<user>hi");
    expect_fail(lm_text_render_insert(t, LM_STR("a"), LM_STR("b"), &out, &err), LM_UNSUPPORTED, err,
                "suffix");
    lm_text_close(t);

    put("template", "{{ if .Suffix }}[{{ .Prompt }}|{{ .Suffix }}]{{ end }}{{ .Tools }}{{ range .Messages }}"
                    "{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}");
    expect_ok(lm_text_open(&t, test_dir(), &err), err);
    assert_true(t->tools && t->thinks && t->inserts);
    lm_buf_clear(&out);
    expect_ok(lm_text_render_insert(t, LM_STR("a"), LM_STR("b"), &out, &err), err);
    assert_string_equal(out.ptr, "[a|b]<no value>");
    lm_text_close(t);
    expect_ok(lm_text_facts_read(&facts, test_dir(), &err), err);
    assert_true(facts.tools && facts.thinks && facts.inserts);
    assert_true(lm_str_starts(lm_buf_view(&facts.chat), LM_STR("{{ if .Suffix }}")));
    lm_text_facts_release(&facts);

    put("template", "{{ if }}");
    expect_fail(lm_text_open(&t, test_dir(), &err), LM_CORRUPT, err,
                "/template: template: :1: missing value for if");
    lm_buf_release(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(templates_over_data_are_as_in_go),
        cmocka_unit_test(chats_are_rendered_as_by_ollama),
        cmocka_unit_test(what_never_ends_is_ended),
        cmocka_unit_test(sources_that_are_too_deep_or_too_large_are_refused),
        cmocka_unit_test(a_check_says_that_it_is_the_template),
        cmocka_unit_test(a_model_is_what_its_template_says),
    };
    return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
