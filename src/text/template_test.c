/* Templates as transformers runs them: the golden prompts of tests/golden/make_text.py, and templates that
 * mean harm. */
#include "base/test.h"

#include <time.h>

#include "base/file.h"
#include "base/json.h"
#include "text/golden.h"
#include "text/text.h"

/* Renders and compares; want NULL means that it must fail with these words. */
static void expect_render(const char *source, const char *context, const char *want, const char *words) {
    lm_err err = {0};
    lm_template *t = NULL;
    lm_buf out;
    lm_buf_init(&out, 1 << 26);
    expect_ok(lm_template_open(&t, lm_str_of(source), &err), err);
    if (want) {
        expect_ok(lm_template_render(t, lm_str_of(context), &out, &err), err);
        assert_string_equal(out.ptr ? out.ptr : "", want);
    } else {
        expect_fail(lm_template_render(t, lm_str_of(context), &out, &err), LM_INVALID, err, words);
        assert_int_equal(out.len, 0);
    }
    lm_buf_release(&out);
    lm_template_close(t);
}

static void prompts_are_those_of_transformers(void **state) {
    (void)state;
    lm_err err = {0};
    json_t *all = NULL, *source;
    const char *name;
    uint32_t n = 0, n_failing = 0;
    expect_ok(lm_json_load(GOLDEN "templates.json", 4 << 20, &all, &err), err);
    json_t *contexts = json_object_get(all, "contexts"), *renders = json_object_get(all, "renders");
    json_object_foreach(json_object_get(all, "templates"), name, source) {
        lm_template *t = NULL;
        size_t i;
        json_t *want;
        lm_str text = {json_string_value(source), json_string_length(source)};
        expect_ok(lm_template_open(&t, text, &err), err);
        assert_true(lm_str_eq(lm_template_source(t), text));
        json_array_foreach(json_object_get(renders, name), i, want) {
            lm_buf out;
            lm_buf_init(&out, 1 << 20);
            char *context = json_dumps(json_array_get(contexts, i), JSON_COMPACT);
            lm_status st = lm_template_render(t, lm_str_of(context), &out, &err);
            n++;
            if (json_is_null(want)) { /* transformers refuses as well */
                if (st == LM_OK) fail_msg("%s, conversation %zu: rendered '%s'", name, i, out.ptr);
                n_failing++;
            } else if (st != LM_OK) {
                fail_msg("%s, conversation %zu: %s", name, i, err.text);
            } else if (!lm_str_eq(lm_buf_view(&out),
                                  (lm_str){json_string_value(want), json_string_length(want)})) {
                fail_msg("%s, conversation %zu:\n%s\n--- want ---\n%s", name, i, out.ptr,
                         json_string_value(want));
            }
            free(context);
            lm_buf_release(&out);
        }
        lm_template_close(t);
    }
    assert_true(n >= 100);
    assert_true(n_failing > 0);
    json_decref(all);
}

static void a_refusal_carries_the_templates_own_words(void **state) {
    (void)state;
    expect_render("{% if not messages %}\n{{ raise_exception('Conversation is empty!') }}{% endif %}",
                  "{\"messages\":[]}", NULL, "Conversation is empty!");
    lm_err err = {0};
    lm_template *t = NULL;
    lm_buf out;
    lm_buf_init(&out, 100);
    expect_ok(
        lm_template_open(
            &t, LM_STR("{% macro m() %}{{ raise_exception('Only this') }}{% endmacro %}{{ m() }}"), &err),
        err);
    assert_int_equal(lm_template_render(t, LM_STR("{}"), &out, &err), LM_INVALID);
    assert_string_equal(err.text, "Only this");
    lm_template_close(t);
    lm_buf_release(&out);
}

static void errors_name_the_line(void **state) {
    (void)state;
    lm_err err = {0};
    lm_template *t = NULL;
    expect_fail(lm_template_open(&t, LM_STR("a\nb\n{% if %}"), &err), LM_INVALID, err, "line 3");
    expect_fail(lm_template_open(&t, LM_STR("{% for x in %}"), &err), LM_INVALID, err, "line 1");
    expect_fail(lm_template_open(&t, LM_STR("bad \xff utf8"), &err), LM_INVALID, err, "UTF-8");
    assert_null(t);
    expect_render("x\n{{ a.b.c }}", "{}", NULL, "line 2");
    expect_render("{{ x }}", "[1]", NULL, "not a JSON object");
    expect_render("{{ x }}", "{\"x\":", NULL, "context");
}

static void strftime_now_is_the_local_time(void **state) {
    (void)state;
    char want[2][64];
    lm_err err = {0};
    lm_template *t = NULL;
    lm_buf out;
    lm_buf_init(&out, 100);
    expect_ok(lm_template_open(&t, LM_STR("{{ strftime_now('%d %b %Y') }}"), &err), err);
    /* The day may change in between: one of both must be it. */
    time_t before = time(NULL);
    expect_ok(lm_template_render(t, LM_STR("{}"), &out, &err), err);
    time_t after = time(NULL);
    strftime(want[0], sizeof want[0], "%d %b %Y", localtime(&before));
    strftime(want[1], sizeof want[1], "%d %b %Y", localtime(&after));
    assert_true(!strcmp(out.ptr, want[0]) || !strcmp(out.ptr, want[1]));
    lm_template_close(t);
    lm_buf_release(&out);
}

static void used_variables_are_known(void **state) {
    (void)state;
    lm_err err = {0};
    lm_template *t = NULL;
    expect_ok(lm_template_open(
                  &t,
                  LM_STR("tools {# tools #}{% if messages[0].documents %}{{ 'enable_thinking' }}{% endif %}"
                         "{%- if custom_tools is defined %}{% set builtin = custom_tools %}{% endif %}"),
                  &err),
              err);
    assert_true(lm_template_uses(t, "messages"));
    assert_true(lm_template_uses(t, "custom_tools"));
    assert_false(lm_template_uses(t, "tools"));
    assert_false(lm_template_uses(t, "documents"));
    assert_false(lm_template_uses(t, "enable_thinking"));
    assert_false(lm_template_uses(t, ""));
    lm_template_close(t);
}

/* ---- templates that mean harm ----------------------------------------------------------------------------- */

static void endless_work_runs_out_of_fuel(void **state) {
    (void)state;
    expect_render("{% for i in range(99999) %}{% for j in range(99999) %}{{ j }}{% endfor %}{% endfor %}",
                  "{}", NULL, "does not come to an end");
    expect_render("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "{}", NULL, "chat template");
    expect_render("{{ 'x' * 100000000000 }}", "{}", NULL, "chat template");
}

static void memory_is_bounded(void **state) {
    (void)state;
    expect_render("{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s "
                  "%}{% endfor %}",
                  "{}", NULL, "does not come to an end");
    /* Lists that double are not counted by the engine: the allocator stops them, and for good. */
    lm_err err = {0};
    lm_template *t = NULL;
    lm_buf out;
    lm_buf_init(&out, 100);
    lm_str source =
        LM_STR("{% set ns = namespace(l=[1,2,3,4]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}"
               "{% endfor %}{{ ns.l | length }}");
    expect_ok(lm_template_open(&t, source, &err), err);
    expect_fail(lm_template_render(t, LM_STR("{}"), &out, &err), LM_INVALID, err,
                "more memory than any prompt");
    expect_fail(lm_template_render(t, LM_STR("{}"), &out, &err), LM_INVALID, err,
                "more memory than any prompt");
    lm_template_close(t);
    lm_buf_release(&out);
}

static void deep_values_do_not_exhaust_the_stack(void **state) {
    (void)state;
    expect_render(
        "{% set ns = namespace(v=1) %}{% for i in range(100000) %}{% set ns.v = [ns.v] %}{% endfor %}done",
        "{}", "done", NULL);
    expect_render(
        "{% set ns = namespace(v=1) %}{% for i in range(100000) %}{% set ns.v = [ns.v] %}{% endfor %}"
        "{{ ns.v }}",
        "{}", NULL, "nested too deeply");
    expect_render(
        "{% set ns = namespace(v=1) %}{% for i in range(100000) %}{% set ns.v = {'a': ns.v} %}{% endfor %}"
        "{{ ns.v | tojson }}",
        "{}", NULL, "nested too deeply");
    expect_render(
        "{% set ns = namespace(v=1) %}{% for i in range(100000) %}{% set ns.v = [ns.v] %}{% endfor %}"
        "{{ (ns.v ~ 'x') | length }} {{ ns.v == [1] }}",
        "{}", "200002 False", NULL);
    /* As deep as the work for one prompt reaches: everything is dropped on the way out. */
    static const char *const ways[] = {"[ns.v]", "{'a': ns.v}", "(ns.v,)"};
    for (int way = 0; way < 3; way++) {
        char source[300];
        snprintf(source, sizeof source,
                 "{%% set ns = namespace(v=1) %%}{%% for i in range(5000) %%}{%% for j in range(5000) %%}{%% "
                 "set ns.v = %s %%}"
                 "{%% endfor %%}{%% endfor %%}",
                 ways[way]);
        expect_render(source, "{}", NULL, "chat template");
    }
    char deep[4000];
    size_t n = 0;
    for (int i = 0; i < 900; i++) n += (size_t)snprintf(deep + n, sizeof deep - n, "((");
    lm_err err = {0};
    lm_template *t = NULL;
    char source[5000];
    snprintf(source, sizeof source, "{{ %s", deep);
    expect_fail(lm_template_open(&t, lm_str_of(source), &err), LM_INVALID, err, "chat template");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_are_those_of_transformers),
        cmocka_unit_test(a_refusal_carries_the_templates_own_words),
        cmocka_unit_test(errors_name_the_line),
        cmocka_unit_test(strftime_now_is_the_local_time),
        cmocka_unit_test(used_variables_are_known),
        cmocka_unit_test(endless_work_runs_out_of_fuel),
        cmocka_unit_test(memory_is_bounded),
        cmocka_unit_test(deep_values_do_not_exhaust_the_stack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
