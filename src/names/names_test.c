/* names_test.c - the grammar of model names and the alias table. */
#include <sys/stat.h>

#include "base/file.h"
#include "base/test.h"
#include "names/names.h"

static lm_name parsed(const char *text) {
    lm_name n;
    lm_err err = {0};
    if (lm_name_parse(lm_str_of(text), &n, &err) != LM_OK) fail_msg("%s: %s", text, err.text);
    return n;
}

static void names_fill_in_host_namespace_and_tag(void **state) {
    (void)state;
    const struct {
        const char *text, *full, *brief;
    } cases[] = {
        {"llama3.2", "registry.ollama.ai/library/llama3.2:latest", "llama3.2:latest"},
        {"llama3.2:1b", "registry.ollama.ai/library/llama3.2:1b", "llama3.2:1b"},
        {"Qwen2.5-Coder:7B", "registry.ollama.ai/library/Qwen2.5-Coder:7B", "Qwen2.5-Coder:7B"},
        {"mlx-community/phi-4-4bit", "registry.ollama.ai/mlx-community/phi-4-4bit:latest",
         "mlx-community/phi-4-4bit:latest"},
        {"hf.co/org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M", "hf.co/org/repo:Q4_K_M"},
        {"https://hf.co/org/repo", "hf.co/org/repo:latest", "hf.co/org/repo:latest"},
        {"localhost:5000/me/own:x", "localhost:5000/me/own:x", "localhost:5000/me/own:x"},
        {"localhost:5000/me/own", "localhost:5000/me/own:latest", "localhost:5000/me/own:latest"},
        {"registry.ollama.ai/library/_m", "registry.ollama.ai/library/_m:latest", "_m:latest"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lm_name n = parsed(cases[i].text);
        char text[700];
        lm_name_full(&n, text);
        assert_string_equal(text, cases[i].full);
        lm_name_short(&n, text);
        assert_string_equal(text, cases[i].brief);
    }
}

static void malformed_names_are_refused(void **state) {
    (void)state;
    const char *bad[] = {"",         ":",       "a:",         ":b",        "/a",       "a/",
                         "a//b",     "../a",    "a/../b",     "a b",       "a:b:c",    ".hidden",
                         "-dash",    "a/b/c/d", "org.x/repo", "m:../../x", "m\nn",     "a:b/c:d:e",
                         "\xc3\xa4", "a@b",     "a\\b",       "h/n/..",    "https://", "a:-b"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        lm_name n;
        lm_err err = {0};
        if (lm_name_parse(lm_str_of(bad[i]), &n, &err) == LM_OK)
            fail_msg("'%s' was taken for a name", bad[i]);
        assert_string_equal(err.text, "invalid model name");
    }
    lm_name n;
    assert_int_equal(lm_name_parse((lm_str){"a\0b", 3}, &n, NULL), LM_INVALID);
}

static void parts_may_be_80_letters_and_hosts_350(void **state) {
    (void)state;
    char text[1000], part[700];
    lm_name n;
    memset(part, 'a', sizeof part);
    snprintf(text, sizeof text, "%.350s/%.80s/%.80s:%.80s", part, part, part, part);
    assert_int_equal(lm_name_parse(lm_str_of(text), &n, NULL), LM_OK);
    lm_name_full(&n, part);
    assert_string_equal(part, text);
    memset(part, 'a', sizeof part);
    snprintf(text, sizeof text, "%.81s", part);
    assert_int_equal(lm_name_parse(lm_str_of(text), &n, NULL), LM_INVALID);
    snprintf(text, sizeof text, "%.351s/a/b", part);
    assert_int_equal(lm_name_parse(lm_str_of(text), &n, NULL), LM_INVALID);
}

static void names_differ_in_more_than_case(void **state) {
    (void)state;
    lm_name a = parsed("Phi4"), b = parsed("phi4:LATEST"), c = parsed("phi4:14b");
    assert_true(lm_name_same(&a, &b));
    assert_false(lm_name_same(&a, &c));
}

static void directory_names_become_parts(void **state) {
    (void)state;
    char out[84];
    assert_true(lm_name_part("My Model (4 bit)", false, out));
    assert_string_equal(out, "My-Model--4-bit-");
    assert_true(lm_name_part("org.name", true, out));
    assert_string_equal(out, "org-name");
    assert_false(lm_name_part("...", false, out));
}

/* ---- aliases */

#define TABLE LM_SOURCE_DIR "/share/aliases.ini"

static lm_status read_text(lm_aliases *a, const char *text, lm_err *err) {
    char path[100];
    snprintf(path, sizeof path, "%s/a.ini", test_dir());
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return lm_aliases_read(a, path, err);
}

static void the_shipped_table_holds_the_promised_names(void **state) {
    (void)state;
    const char *want[][2] = {
        {"qwen2.5-coder:7b", "mlx-community/Qwen2.5-Coder-7B-Instruct-4bit:latest"},
        {"qwen2.5-coder:32b", "mlx-community/Qwen2.5-Coder-32B-Instruct-4bit:latest"},
        {"qwen3:7b", "mlx-community/Qwen3-7B-Instruct-4bit:latest"},
        {"qwen3:14b", "mlx-community/Qwen3-14B-Instruct-4bit:latest"},
        {"deepseek-r1:8b", "mlx-community/DeepSeek-R1-Distill-Llama-8B:latest"},
        {"phi4", "mlx-community/phi-4-4bit:latest"},
        {"mistral:7b", "mlx-community/Mistral-7B-Instruct-v0.3-4bit:latest"},
        {"dolphin-llama3:8b", "mlx-community/Dolphin3.0-Llama3.1-8B:latest"},
        {"smollm2:135m", "mlx-community/SmolLM2-135M-Instruct-4bit:latest"},
        {"qwen2.5-coder:0.5b", "mlx-community/Qwen2.5-Coder-0.5B-Instruct-4bit:latest"},
    };
    lm_aliases a = {0};
    lm_err err = {0};
    expect_ok(lm_aliases_read(&a, TABLE, &err), err);
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        lm_name n = parsed(want[i][0]);
        const lm_alias *alias = lm_aliases_find(&a, &n);
        char text[700];
        if (!alias) fail_msg("%s is not in the table", want[i][0]);
        lm_name_short(&alias->repos[0], text);
        assert_string_equal(text, want[i][1]);
        assert_true(alias->n_repos >= 2); /* the first may not be on the hub */
        assert_true(alias->shipped && !alias->form);
    }
    lm_name bare = parsed("QWEN2.5-coder"), form = parsed("llama3.2:1b-instruct-q4_K_M");
    assert_string_equal(lm_aliases_default_tag(&a, &bare), "7b");
    assert_true(lm_aliases_find(&a, &form)->form);
    lm_aliases_release(&a);
}

/* How many entries a section of the table has, duplicates counted. */
static uint32_t lines_of(const char *text, const char *section) {
    const char *p = strstr(text, section);
    uint32_t n = 0;
    assert_non_null(p);
    for (p = strchr(p + 1, '\n'); p && p[1] != '['; p = strchr(p + 1, '\n'))
        n += p[1] && p[1] != '#' && p[1] != '\n';
    return n;
}

static void the_shipped_table_is_in_form(void **state) {
    (void)state;
    lm_aliases a = {0};
    lm_err err = {0};
    lm_buf text;
    lm_buf_init(&text, 1u << 20);
    expect_ok(lm_aliases_read(&a, TABLE, &err), err);
    expect_ok(lm_file_read(TABLE, 1u << 20, &text, &err), err);
    lm_buf_char(&text, '\0');
    assert_int_equal(lines_of(text.ptr, "\n[aliases]"), a.n); /* no name twice */
    assert_int_equal(lines_of(text.ptr, "\n[default-tags]"), a.n_tags);
    assert_true(a.n > 100);
    for (uint32_t i = 0; i < a.n; i++) {
        const lm_alias *alias = &a.items[i];
        assert_string_equal(alias->name.ns, LM_DEFAULT_NS);
        assert_true(alias->n_repos > 0);
        for (uint32_t k = 0; k < alias->n_repos; k++) {
            assert_string_equal(alias->repos[k].host, LM_DEFAULT_HOST);
            assert_string_equal(alias->repos[k].tag, LM_DEFAULT_TAG);
            for (uint32_t j = 0; j < k; j++) assert_false(lm_name_same(&alias->repos[j], &alias->repos[k]));
        }
    }
    /* A default tag that leads nowhere would be a name that can never be found. */
    for (uint32_t i = 0; i < a.n_tags; i++)
        if (!lm_aliases_find(&a, &a.tags[i].name))
            fail_msg("%s:%s is no alias", a.tags[i].name.model, a.tags[i].name.tag);
    lm_buf_release(&text);
    lm_aliases_release(&a);
}

static void later_entries_win(void **state) {
    (void)state;
    lm_aliases a = {0};
    lm_err err = {0};
    char text[700];
    expect_ok(read_text(&a, "\xef\xbb\xbf[aliases]\r\nm:1b = o/one , o/two\r\n; note\n[default-tags]\nm = 1b",
                        &err),
              err);
    expect_ok(read_text(&a, "[aliases]\nM:1B = me/mine\n[default-tags]\nm=2b\n", &err), err);
    assert_int_equal(a.n, 1);
    assert_int_equal(a.items[0].n_repos, 1);
    lm_name_short(&a.items[0].repos[0], text);
    assert_string_equal(text, "me/mine:latest");
    assert_false(a.items[0].shipped);
    assert_int_equal(a.n_tags, 1);
    lm_name bare = parsed("m");
    assert_string_equal(lm_aliases_default_tag(&a, &bare), "2b");
    lm_aliases_release(&a);
}

static void errors_name_file_and_line(void **state) {
    (void)state;
    const struct {
        const char *text, *words;
    } cases[] = {
        {"a = b/c\n", "a.ini line 1: write [aliases]"},
        {"[aliases]\n\n# fine\nno equals sign\n", "a.ini line 4: expected: key = value"},
        {"[aliases]\na =\n", "a.ini line 2: expected: name = value"},
        {"[other]\n", "a.ini line 1: unknown section [other]"},
        {"[aliases]\na/b/c/d = x/y\n", "a.ini line 2: 'a/b/c/d' is not a model name"},
        {"[aliases]\na = plain\n", "'plain' is not a repository"},
        {"[aliases]\na = x/y,,x/z\n", "'' is not a repository"},
        {"[aliases]\na = o/1,o/2,o/3,o/4,o/5,o/6,o/7,o/8,o/9\n", "more than 8 repositories"},
        {"[default-tags]\nm:7b = 7b\n", "is not a model name without a tag"},
        {"[default-tags]\nm = ../x\n", "'../x' is not a tag"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lm_aliases a = {0};
        lm_err err = {0};
        expect_fail(read_text(&a, cases[i].text, &err), LM_INVALID, err, cases[i].words);
        lm_aliases_release(&a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_fill_in_host_namespace_and_tag),
        cmocka_unit_test(malformed_names_are_refused),
        cmocka_unit_test(parts_may_be_80_letters_and_hosts_350),
        cmocka_unit_test(names_differ_in_more_than_case),
        cmocka_unit_test(directory_names_become_parts),
        cmocka_unit_test(the_shipped_table_holds_the_promised_names),
        cmocka_unit_test(the_shipped_table_is_in_form),
        cmocka_unit_test(later_entries_win),
        cmocka_unit_test(errors_name_file_and_line),
    };
    return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
