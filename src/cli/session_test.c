#include "cli/session.h"

#include <sys/stat.h>

#include "base/json.h"
#include "base/test.h"
#include "cli/history.h"
#include "cli/images.h"
#include "cli/lines.h"

static void expect_json(json_t *o, const char *want) {
    char *text = json_dumps(o, JSON_COMPACT | JSON_SORT_KEYS);
    assert_string_equal(text, want);
    free(text);
    json_decref(o);
}

/* ---- requests */

static void set(session *s, const char *name, const char *value) {
    lm_err err = {0};
    expect_ok(session_set_option(s, name, &value, 1, &err), err);
}

static void a_request_says_only_what_was_set(void **state) {
    (void)state;
    session s;
    lm_err err = {0};
    session_open(&s, "m");
    session_say(&s, "user", "hi", NULL);
    expect_json(session_chat_request(&s),
                "{\"messages\":[{\"content\":\"hi\",\"role\":\"user\"}],\"model\":\"m\",\"stream\":true}");
    set(&s, "seed", "7");
    set(&s, "temperature", "0.5");
    expect_ok(session_set_think(&s, "high", &err), err);
    expect_ok(session_set_format(&s, " {\"type\": \"object\"} ", &err), err);
    expect_ok(session_set_keep_alive(&s, "-1", &err), err);
    session_set_system(&s, "be kind");
    expect_json(session_generate_request(&s, "p", NULL),
                "{\"format\":{\"type\":\"object\"},\"keep_alive\":-1,\"model\":\"m\",\"options\":{\"seed\":7,"
                "\"temperature\":0.5},"
                "\"prompt\":\"p\",\"stream\":true,\"system\":\"be kind\",\"think\":\"high\"}");
    session_close(&s);
}

static void a_saved_session_has_what_was_set_and_said(void **state) {
    (void)state;
    session s;
    session_open(&s, "m");
    set(&s, "num_ctx", "4096");
    session_set_system(&s, "one");
    session_set_system(&s, "two"); /* replaces the one that had no say */
    session_say(&s, "user", "hi", NULL);
    session_say(&s, "assistant", "ho", NULL);
    expect_json(session_save_request(&s, "copy"),
                "{\"from\":\"m\",\"messages\":[{\"content\":\"two\",\"role\":\"system\"},{\"content\":\"hi\","
                "\"role\":\"user\"},"
                "{\"content\":\"ho\",\"role\":\"assistant\"}],\"model\":\"copy\",\"parameters\":{\"num_ctx\":"
                "4096},\"stream\":true,"
                "\"system\":\"two\"}");
    session_clear(&s);
    assert_int_equal(json_array_size(s.messages), 1);
    json_t *shown = json_pack("{s:{s:s}, s:[s, s]}", "details", "parent_model", "base", "capabilities",
                              "completion", "thinking");
    session_learn(&s, shown);
    json_decref(shown);
    assert_true(json_is_true(s.think)); /* as ollama does for a model that can */
    json_t *o = session_save_request(&s, "copy");
    assert_string_equal(json_string_value(json_object_get(o, "from")), "base");
    json_decref(o);
    session_close(&s);
}

static void settings_that_make_no_sense_are_refused(void **state) {
    (void)state;
    session s;
    lm_err err = {0};
    const char *word = "warm", *two[] = {"1", "2"};
    session_open(&s, "m");
    expect_fail(session_set_option(&s, "temperature", &word, 1, &err), LM_INVALID, err, "is a number");
    expect_fail(session_set_option(&s, "num_ctx", &word, 1, &err), LM_INVALID, err, "whole number");
    expect_fail(session_set_option(&s, "use_mmap", &word, 1, &err), LM_INVALID, err, "true or false");
    expect_fail(session_set_option(&s, "seed", two, 2, &err), LM_INVALID, err, "one value");
    expect_fail(session_set_option(&s, "temperatur", &word, 1, &err), LM_INVALID, err,
                "did you mean temperature?");
    expect_fail(session_set_option(&s, "xyzzy", &word, 1, &err), LM_INVALID, err, "one of num_ctx, num_predict,");
    expect_ok(session_set_option(&s, "stop", two, 2, &err), err);
    expect_json(json_incref(json_object_get(s.options, "stop")), "[\"1\",\"2\"]");
    expect_fail(session_set_think(&s, "hard", &err), LM_INVALID, err, "low, medium");
    expect_fail(session_set_format(&s, "yaml", &err), LM_INVALID, err, "JSON schema");
    expect_fail(session_set_format(&s, "[1]", &err), LM_INVALID, err, "JSON schema");
    expect_fail(session_set_keep_alive(&s, "soon", &err), LM_INVALID, err, "like 5m");
    expect_fail(session_set_keep_alive(&s, "", &err), LM_INVALID, err, "like 5m");
    session_close(&s);
}

/* ---- several lines */

/* Lines parted by |, a paste's lines ended by +. */
static void expect_message(const char *typed, const char *want) {
    lines l;
    char copy[500], *message = NULL;
    strcpy(copy, typed);
    lines_open(&l);
    for (char *p = strtok(copy, "|"); p; p = strtok(NULL, "|")) {
        size_t n = strlen(p);
        bool more = p[n - 1] == '+';
        if (more) p[n - 1] = '\0';
        assert_null(message);
        if (!lines_take(&l, p, more, &message)) assert_true(lines_waits(&l));
    }
    assert_non_null(message);
    assert_string_equal(message, want);
    assert_false(lines_waits(&l));
    free(message);
    lines_close(&l);
}

static void quotes_hold_lines_together(void **state) {
    (void)state;
    expect_message("one", "one");
    expect_message("\"\"\"|one|two|\"\"\"", "one\ntwo");
    expect_message("\"\"\"one|two\"\"\"", "one\ntwo");
    expect_message("\"\"\"one\"\"\"", "one");
    expect_message("\"\"\"|  one|\"\"\"", "  one");
    expect_message("one+|two+|three", "one\ntwo\nthree");
    expect_message("\"\"\"+|one+|two\"\"\"", "one\ntwo");
    expect_message("\"\"\"\"\"\"", "");
}

static void an_open_message_can_be_forgotten(void **state) {
    (void)state;
    lines l;
    char *message = NULL;
    lines_open(&l);
    assert_false(lines_take(&l, "\"\"\"one", false, &message));
    assert_true(lines_waits(&l));
    lines_forget(&l);
    assert_false(lines_waits(&l));
    assert_true(lines_take(&l, "two", false, &message));
    assert_string_equal(message, "two");
    free(message);
    lines_close(&l);
}

/* ---- pictures */

static void expect_images(const char *text, const char *rest, size_t n) {
    char *got = NULL;
    json_t *images = NULL;
    lm_err err = {0};
    expect_ok(images_take(text, &got, &images, &err), err);
    assert_string_equal(got, rest);
    assert_int_equal(json_array_size(images), n);
    free(got);
    json_decref(images);
}

static void paths_of_pictures_become_pictures(void **state) {
    (void)state;
    char text[1000];
    lm_err err = {0};
    put_file(test_dir(), "a b.png", LM_STR("\x89PNG\r\n\x1a\n"));
    put_file(test_dir(), "c.JPG", LM_STR("\xff\xd8\xff"));
    put_file(test_dir(), "no.webp", LM_STR("RIFF is not all"));
    snprintf(text, sizeof text, "what is in %s/a\\ b.png and %s/c.JPG?", test_dir(), test_dir());
    expect_images(text, "what is in  and ?", 2);
    snprintf(text, sizeof text, "'%s/a b.png' what?", test_dir());
    expect_images(text, "what?", 1);
    snprintf(text, sizeof text, "%s/absent.png, and 1/2.png or a.jpg", test_dir());
    expect_images(text, text, 0);
    snprintf(text, sizeof text, "%s/no.webp", test_dir());
    char *rest;
    json_t *images;
    expect_fail(images_take(text, &rest, &images, &err), LM_INVALID, err, "no JPEG, PNG or WebP");
    snprintf(text, sizeof text, "%s/c.JPG", test_dir());
    expect_ok(images_take(text, &rest, &images, &err), err);
    assert_string_equal(json_string_value(json_array_get(images, 0)), "/9j/");
    free(rest);
    json_decref(images);
}

/* ---- history */

typedef struct entries {
    uint32_t n;
    char first[100], last[100];
} entries;

static void count(void *ctx, const char *line) {
    entries *e = ctx;
    if (!e->n++) snprintf(e->first, sizeof e->first, "%s", line);
    snprintf(e->last, sizeof e->last, "%s", line);
}

static void history_is_for_its_owner_and_goes_on(void **state) {
    (void)state;
    lm_err err = {0};
    struct stat s;
    char *path = lm_path_join(test_dir(), "deep/history");
    entries e = {0};
    history_read(path, count, &e);
    assert_int_equal(e.n, 0);
    expect_ok(history_add(path, "one", &err), err);
    expect_ok(history_add(path, "zwölf", &err), err);
    expect_ok(history_add(path, "not\nkept", &err), err);
    assert_int_equal(stat(path, &s), 0);
    assert_int_equal(s.st_mode & 0777, 0600);
    history_read(path, count, &e);
    assert_int_equal(e.n, 2);
    assert_string_equal(e.last, "zwölf");
    free(path);
}

static void history_is_cut_when_it_has_grown(void **state) {
    (void)state;
    lm_buf b;
    lm_buf_init(&b, 1u << 20);
    for (int i = 0; i < 2500; i++) lm_buf_printf(&b, "entry %d\n", i);
    lm_buf_text(&b, "half an ent");
    put_file(test_dir(), "history", lm_buf_view(&b));
    lm_buf_release(&b);
    char *path = lm_path_join(test_dir(), "history");
    for (int round = 0; round < 2; round++) { /* what it was cut to reads the same */
        entries e = {0};
        history_read(path, count, &e);
        assert_int_equal(e.n, HISTORY_MAX);
        assert_string_equal(e.first, "entry 1500");
        assert_string_equal(e.last, "entry 2499");
    }
    free(path);
}

static void a_history_that_is_a_link_is_not_written(void **state) {
    (void)state;
    lm_err err = {0};
    char *path = lm_path_join(test_dir(), "link"), *target = lm_path_join(test_dir(), "target");
    assert_int_equal(symlink(target, path), 0);
    expect_fail(history_add(path, "one", &err), LM_IO, err, "cannot be written");
    assert_false(lm_path_is_file(target));
    free(path);
    free(target);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_says_only_what_was_set),
        cmocka_unit_test(a_saved_session_has_what_was_set_and_said),
        cmocka_unit_test(settings_that_make_no_sense_are_refused),
        cmocka_unit_test(quotes_hold_lines_together),
        cmocka_unit_test(an_open_message_can_be_forgotten),
        cmocka_unit_test(paths_of_pictures_become_pictures),
        cmocka_unit_test(history_is_for_its_owner_and_goes_on),
        cmocka_unit_test(history_is_cut_when_it_has_grown),
        cmocka_unit_test(a_history_that_is_a_link_is_not_written),
    };
    return cmocka_run_group_tests(tests, make_test_dir, remove_test_dir);
}
