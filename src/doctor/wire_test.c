/* What is said of servers' words, and of figures. */
#include "base/test.h"
#include "doctor/bench.h"

#include <math.h>

/* ---- results */

static void servers_words_are_one_harmless_line(void **state) {
    (void)state;
    doctor_result r;
    assert_false(doctor_failed(&r, "do this", "said: %s", "a\nb\x1b[31mc\xff\xc3\xa4"));
    assert_string_equal(r.detail, "said: a b [31mc?\xc3\xa4");
    assert_string_equal(r.remedy, "do this");
    assert_int_equal(r.state, DOCTOR_FAILED);
    char umlauts[1201] = "";
    for (int i = 0; i < 600; i++) strcat(umlauts, "ü");
    doctor_passed(&r, "x%s", umlauts);
    assert_int_equal(strlen(r.detail), 511); /* cut between characters */
    assert_string_equal(r.remedy, "");
    doctor_passed(&r, "%s", umlauts);
    assert_int_equal(strlen(r.detail), 510);
}

/* ---- fields */

static void expect_fields(const char *json, const char *spec, const char *words) {
    json_t *o = json_loads(json, JSON_DECODE_ANY, NULL);
    doctor_result r = {0};
    bool ok = wire_fields("X", o, spec, &r);
    json_decref(o);
    if (ok != !words) fail_msg("%s with %s: %s", json, spec, r.detail);
    if (words && !strstr(r.detail, words)) fail_msg("%s with %s: %s", json, spec, r.detail);
    if (words) assert_int_not_equal(r.remedy[0], 0);
}

static void fields_are_of_their_kind(void **state) {
    (void)state;
    expect_fields("{\"a\":\"x\",\"b\":true,\"c\":1,\"d\":1.5,\"e\":[],\"f\":{}}", "a:s b:b c:i d:n e:a f:o",
                  NULL);
    expect_fields("{\"a\":1}", "a:s", "X: the field a must be a string");
    expect_fields("{\"a\":1.0}", "a:i", "must be an integer");
    expect_fields("{\"a\":null}", "a:o", "must be an object");
    expect_fields("{}", "a:s", "the field a is missing");
    expect_fields("{}", "a:s?", NULL);
    expect_fields("{\"a\":1}", "a:s?", "must be a string");
    expect_fields("[]", "a:s?", "none");
}

static void times_are_rfc_3339(void **state) {
    (void)state;
    expect_fields("{\"t\":\"2026-01-31T09:08:07.123456789Z\"}", "t:t", NULL);
    expect_fields("{\"t\":\"2026-01-31T09:08:07+02:00\"}", "t:t", NULL);
    expect_fields("{\"t\":\"2026-01-31T09:08:07\"}", "t:t", "must be a time");
    expect_fields("{\"t\":\"2026-01-31 09:08:07Z\"}", "t:t", "must be a time");
    expect_fields("{\"t\":\"2026-01-31T09:08:07Zx\"}", "t:t", "must be a time");
    expect_fields("{\"t\":1767}", "t:t", "must be a time");
}

/* ---- figures */

typedef struct table {
    bench b;
    bench_run runs[N_PEERS + 1][3];
} table;

static int open_table(void **state) {
    table *t = lm_alloc(sizeof *t);
    static const char *const names[] = {"mlx-ollama", "Ollama", "mlx-lm", "router"}, *const keys[] = {
                                                                                         "mlx_ollama",
                                                                                         "ollama", "mlx_lm",
                                                                                         "router"};
    for (int i = 0; i < N_PEERS + 1; i++) {
        t->b.peers[i] = (bench_peer){.name = names[i], .key = keys[i], .runs = t->runs[i], .n_runs = 3};
        for (int k = 0; k < 3; k++) {
            t->runs[i][k].prompt_tokens = 700;
            for (int f = 0; f < N_FIGURES; f++) t->runs[i][k].figure[f] = NAN;
        }
    }
    *state = t;
    return 0;
}

static int close_table(void **state) {
    free(*state);
    return 0;
}

static void set(table *t, int who, bench_figure f, double a, double b, double c) {
    t->runs[who][0].figure[f] = a;
    t->runs[who][1].figure[f] = b;
    t->runs[who][2].figure[f] = c;
}

static void the_median_counts_what_was_measured(void **state) {
    table *t = *state;
    set(t, OURS, FIGURE_LOAD, 9, 1, 2);
    assert_true(bench_median(&t->b.peers[OURS], FIGURE_LOAD) == 2);
    set(t, OURS, FIGURE_LOAD, 9, NAN, 2);
    assert_true(bench_median(&t->b.peers[OURS], FIGURE_LOAD) == 5.5);
    set(t, OURS, FIGURE_LOAD, NAN, NAN, NAN);
    assert_true(isnan(bench_median(&t->b.peers[OURS], FIGURE_LOAD)));
}

static json_t *figure(const json_t *doc, const char *key) {
    json_t *list = json_object_get(doc, "figures"), *o;
    size_t i;
    json_array_foreach(list, i, o) {
        if (!strcmp(json_string_value(json_object_get(o, "figure")), key)) return o;
    }
    fail_msg("no figure %s", key);
    return NULL;
}

static void a_ratio_above_one_is_faster_and_of_memory_a_share(void **state) {
    table *t = *state;
    set(t, OURS, FIGURE_LOAD, 0.1, 0.1, 0.1);
    set(t, OLLAMA, FIGURE_LOAD, 0.5, 0.5, 0.5);
    set(t, OURS, FIGURE_ANSWER, 30, 30, 30);
    set(t, OLLAMA, FIGURE_ANSWER, 20, 20, 20);
    set(t, OURS, FIGURE_MEMORY, 1e9, 1e9, 1e9);
    set(t, OLLAMA, FIGURE_MEMORY, 4e9, 4e9, 4e9);
    assert_true(fabs(bench_ratio(&t->b, OLLAMA, FIGURE_LOAD) - 5) < 1e-9);
    assert_true(fabs(bench_ratio(&t->b, OLLAMA, FIGURE_ANSWER) - 1.5) < 1e-9);
    assert_true(fabs(bench_ratio(&t->b, OLLAMA, FIGURE_MEMORY) - 0.25) < 1e-9);
    json_t *o = bench_json(&t->b);
    assert_true(json_is_true(json_object_get(figure(o, "load_to_first_token"), "kept")));
    assert_true(json_is_false(json_object_get(figure(o, "answer"), "kept"))); /* 1.5 of 2 */
    assert_true(json_is_true(json_object_get(figure(o, "memory"), "kept")));
    assert_true(json_is_null(json_object_get(figure(o, "code_review"), "kept"))); /* not measured */
    json_decref(o);
}

static void who_is_absent_has_no_figures_and_a_reason(void **state) {
    table *t = *state;
    set(t, OURS, FIGURE_LOAD, 0.7, 0.7, 0.7);
    set(t, OURS, FIGURE_FIRST, 0.1, 0.1, 0.1);
    t->b.peers[OLLAMA].n_runs = 0;
    strcpy(t->b.peers[OLLAMA].absent, "nobody there");
    json_t *o = bench_json(&t->b);
    assert_true(json_is_null(json_object_get(figure(o, "load_to_first_token"), "ollama")));
    assert_true(json_is_null(json_object_get(figure(o, "load_to_first_token"), "ratio_ollama")));
    assert_true(json_is_false(json_object_get(figure(o, "load_to_first_token"), "kept"))); /* over 0.5 s */
    assert_true(json_is_null(json_object_get(figure(o, "first_token"), "kept")));
    json_decref(o);
    lm_buf out;
    lm_buf_init(&out, 1 << 16);
    bench_write_markdown(&t->b, &out);
    assert_non_null(strstr(
        out.ptr, "| model load to first token | under 0.5 s, 4-6x Ollama | 0.70 s | – | – | no | – | – |"));
    assert_non_null(strstr(out.ptr, "Ollama is absent: nobody there\n"));
    lm_buf_release(&out);
}

static void other_numbers_of_tokens_are_said(void **state) {
    table *t = *state;
    lm_buf out;
    lm_buf_init(&out, 1 << 16);
    t->runs[OLLAMA][0].prompt_tokens = 710; /* a template's few */
    bench_write_markdown(&t->b, &out);
    assert_null(strstr(out.ptr, "other numbers"));
    lm_buf_clear(&out);
    t->runs[OLLAMA][0].prompt_tokens = 400;
    bench_write_markdown(&t->b, &out);
    assert_non_null(strstr(out.ptr, "Ollama had other numbers of tokens: prompt 400"));
    assert_null(strstr(out.ptr, "mlx-lm had other"));
    lm_buf_release(&out);
}

static void one_more_has_columns_of_its_own(void **state) {
    table *t = *state;
    t->b.n_more = 1;
    set(t, OURS, FIGURE_LOAD, 1, 1, 1);
    set(t, N_PEERS, FIGURE_LOAD, 2, 2, 2);
    json_t *o = bench_json(&t->b);
    assert_true(json_number_value(json_object_get(figure(o, "load_to_first_token"), "router")) == 2);
    assert_true(json_number_value(json_object_get(figure(o, "load_to_first_token"), "ratio_router")) == 2);
    assert_non_null(json_object_get(json_object_get(o, "peers"), "router"));
    json_decref(o);
    lm_buf out;
    lm_buf_init(&out, 1 << 16);
    bench_write_markdown(&t->b, &out);
    assert_non_null(
        strstr(out.ptr, "| mlx-lm | ratio | router | ratio |\n|---|---|---|---|---|---|---|---|---|---|\n"));
    assert_non_null(strstr(out.ptr, " 1.00 s | – | – | no | – | – | 2.00 s | 2.00x |\n"));
    lm_buf_release(&out);
}

int main(void) {
#define with_table(test) cmocka_unit_test_setup_teardown(test, open_table, close_table)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(servers_words_are_one_harmless_line),
        cmocka_unit_test(fields_are_of_their_kind),
        cmocka_unit_test(times_are_rfc_3339),
        with_table(the_median_counts_what_was_measured),
        with_table(a_ratio_above_one_is_faster_and_of_memory_a_share),
        with_table(who_is_absent_has_no_figures_and_a_reason),
        with_table(one_more_has_columns_of_its_own),
        with_table(other_numbers_of_tokens_are_said),
    };
    return cmocka_run_group_tests_name("doctor.wire", tests, NULL, NULL);
}
