/* Every family against mlx-lm: logits and greedy tokens of tiny models made by tests/golden/make_models.py.
 * Tolerances are relative to the largest expected logit. */
#include "model_golden_check.h"

static lm_model *open_case(const golden *g, const char *features, uint32_t n_threads) {
    return open_case_on(backend(), g, features, n_threads, LM_KV_F16);
}

static int check_case(const golden *g, const char *features, bool exact) {
    return check_numbers(g, open_case(g, features, 2), features, exact);
}

static void every_family_and_form_computes_what_mlx_lm_does(void **state) {
    (void)state;
    lm_weights *w = expectations();
    golden g;
    int bad = 0, n = 0;
    for (uint32_t i = 0; next_case(w, &i, &g); n++) bad += check_case(&g, "reference", true);
    lm_weights_close(w);
    assert_true(n >= 50);
    assert_int_equal(bad, 0);
}

#ifndef LM_GOLDEN_MLX
static void the_fast_feature_sets_stay_close(void **state) {
    (void)state;
    lm_weights *w = expectations();
    golden g;
    int bad = 0, n_sets = 0;
    for (const char *const *f = lm_cpu_features(); *f; f++) {
        if (!strcmp(*f, "reference")) continue;
        n_sets++;
        for (uint32_t i = 0; next_case(w, &i, &g);) bad += check_case(&g, *f, false);
    }
    lm_weights_close(w);
    assert_true(n_sets > 0); /* "portable" runs everywhere */
    assert_int_equal(bad, 0);
}

static void logits_do_not_depend_on_how_a_prompt_came(void **state) {
    (void)state;
    lm_weights *w = expectations();
    golden g;
    int bad = 0;
    for (const char *const *f = lm_cpu_features(); *f; f++)
        for (uint32_t i = 0; next_case(w, &i, &g);)
            bad += check_bits(&g, open_case(&g, *f, 1), open_case(&g, *f, 3), *f);
    lm_weights_close(w);
    assert_int_equal(bad, 0);
}
#endif

/* Prefill in chunks without logits, then the rest. */
static int check_chunks(const golden *g, uint32_t chunk) {
    lm_model *m = open_case(g, "reference", 1);
    lm_seq *seq = open_seq(m);
    double off = INFINITY;
    for (uint32_t at = 0; at < PROMPT; at += chunk) {
        uint32_t n = PROMPT - at < chunk ? PROMPT - at : chunk;
        bool end = at + n == PROMPT;
        uint32_t row = n - 1;
        const float *logits = step(m, &(lm_slice){seq, n}, 1, g->tokens + at, &row, end);
        if (end)
            off = distance(g, logits, g->logits + g->n_vocab);
        else
            assert_null(logits);
    }
    lm_model_backend(m)->seq_close(seq);
    lm_model_close(m);
    if (off > EXACT) print_error("%s in chunks of %u: logits are off by %.2e\n", g->name, chunk, off);
    return off > EXACT;
}

static void prefill_in_chunks_gives_the_same(void **state) {
    (void)state;
    static const uint32_t chunks[] = {1, 7, 32};
    lm_weights *w = expectations();
    golden g;
    int bad = 0;
    for (uint32_t i = 0; next_case(w, &i, &g);)
        bad += check_chunks(&g, chunks[i % 3]) + check_chunks(&g, chunks[(i + 1) % 3]);
    lm_weights_close(w);
    assert_int_equal(bad, 0);
}

/* Three sequences in shared steps: one decodes its known continuation while another's prompt comes in pieces
 * and a third, reversed prompt is only there to disturb. Rows are asked for out of order. */
static int check_ragged(const golden *g) {
    lm_model *m = open_case(g, "reference", 2);
    lm_seq *a = open_seq(m), *b = open_seq(m), *noise = open_seq(m);
    int32_t reversed[PROMPT], batch[64];
    double off = 0;
    int bad = 0;

    for (int i = 0; i < PROMPT; i++) reversed[i] = g->tokens[PROMPT - 1 - i];
    step(m, &(lm_slice){a, PROMPT}, 1, g->tokens, NULL, 0);
    for (uint32_t i = 0; i < 8; i++) {
        lm_slice slices[3] = {{noise, 3}, {b, 5}, {a, 1}};
        uint32_t rows[2] = {8, 7};
        memcpy(batch, reversed + 3 * i, 3 * sizeof *batch);
        memcpy(batch + 3, g->tokens + 5 * i, 5 * sizeof *batch);
        batch[8] = g->tokens[PROMPT + i];
        const float *logits = step(m, slices, 3, batch, rows, 2);
        bad += best(logits, g->n_vocab) != g->tokens[PROMPT + i + 1];
        if (i == 7) off = distance(g, logits + g->n_vocab, g->logits + g->n_vocab);
    }
    lm_model_backend(m)->seq_close(a);
    lm_model_backend(m)->seq_close(b);
    lm_model_backend(m)->seq_close(noise);
    lm_model_close(m);
    if (bad) print_error("%s: %d tokens differ in a shared batch\n", g->name, bad);
    if (off > EXACT) print_error("%s: logits are off by %.2e in a shared batch\n", g->name, off);
    return bad || off > EXACT;
}

static void sequences_that_share_steps_do_not_touch_each_other(void **state) {
    (void)state;
    lm_weights *w = expectations();
    golden g;
    int bad = 0;
    for (uint32_t i = 0; next_case(w, &i, &g);) bad += check_ragged(&g);
    lm_weights_close(w);
    assert_int_equal(bad, 0);
}

#ifdef LM_GOLDEN_MLX
/* Tokens chosen on the device, each step handed over before the last one's token is read: the prompt in two
 * chunks, beside it the reversed prompt, then both decode. One wait for each step. */
static int check_ahead(const golden *g) {
    lm_model *m = open_case(g, NULL, 0);
    const lm_backend *be = lm_model_backend(m);
    lm_seq *a = open_seq(m), *b = open_seq(m);
    int32_t tokens[2 * PROMPT];
    lm_pick how[2] = {{.top_k = 1}, {.top_k = 1}};
    lm_picked picked[2];
    lm_flight *now = NULL, *next = NULL;
    lm_err err = {0};
    int bad = 0;
    uint64_t waits = be->n_waits(lm_model_device(m));

    expect_ok(
        lm_model_launch(m, (lm_slice[]){{a, PROMPT / 2}}, 1, g->tokens, NULL, 0, NULL, NULL, &now, &err),
        err);
    memcpy(tokens, g->tokens + PROMPT / 2, PROMPT / 2 * sizeof *tokens);
    for (int i = 0; i < 8; i++) tokens[PROMPT / 2 + i] = g->tokens[PROMPT - 1 - i];
    lm_slice slices[2] = {{a, PROMPT / 2}, {b, 8}};
    uint32_t rows[2] = {PROMPT / 2 - 1, PROMPT / 2 + 7};
    for (int i = 0; i <= GREEDY; i++) {
        if (i < GREEDY) expect_ok(lm_model_launch(m, slices, 2, tokens, rows, 2, now, how, &next, &err), err);
        expect_ok(lm_model_wait(m, now, picked, &err), err);
        if (i && picked[0].id != g->tokens[PROMPT + i - 1] && !bad++)
            print_error("%s ahead: token %d is %d, mlx-lm's is %d\n", g->name, i - 1, picked[0].id,
                        g->tokens[PROMPT + i - 1]);
        lm_model_flight_free(m, now);
        now = next;
        for (int k = 0; k < 2; k++) {
            slices[k].n_tokens = 1;
            tokens[k] = LM_FROM_BEFORE(k);
            rows[k] = (uint32_t)k;
        }
    }
    assert_int_equal(be->n_waits(lm_model_device(m)) - waits, GREEDY + 1);
    be->seq_close(a);
    be->seq_close(b);
    lm_model_close(m);
    return bad;
}

static void tokens_chosen_ahead_are_those_of_the_logits(void **state) {
    (void)state;
    lm_weights *w = expectations();
    golden g;
    int bad = 0;
    for (uint32_t i = 0; next_case(w, &i, &g);) bad += check_ahead(&g);
    lm_weights_close(w);
    assert_int_equal(bad, 0);
}
#endif

/* ---- states, for embeddings */

/* got (n, width) against want, relative to want's largest number. */
static double distance_of(const float *got, const float *want, uint64_t n) {
    double most = 0, largest = 0;
    for (uint64_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= most)) most = isfinite(d) ? d : (double)INFINITY;
        largest = fmax(largest, fabs((double)want[i]));
    }
    return most / largest;
}

static const float *states(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                           const uint32_t *rows, uint32_t n_rows) {
    const float *out = NULL;
    lm_err err = {0};
    expect_ok(lm_model_states(m, slices, n_slices, tokens, rows, n_rows, &out, &err), err);
    return out;
}

/* Every row of a prompt that comes in two pieces, the second one beside another sequence. */
static int check_states(const lm_weights *w, const golden *g) {
    lm_view v;
    char name[96];
    snprintf(name, sizeof name, "%s.states", g->name);
    assert_true(lm_weights_find(w, name, &v));
    lm_model *m = open_case(g, "reference", 2);
    lm_seq *a = open_seq(m), *b = open_seq(m);
    uint32_t width = (uint32_t)v.dims[1], rows[PROMPT];
    assert_int_equal(lm_model_get_info(m)->width, width);
    float *got = test_malloc(3 * width * sizeof *got);
    double *sum = test_calloc(width, sizeof *sum);
    int32_t tokens[PROMPT];
    for (uint32_t piece = 0; piece < 2; piece++) {
        lm_slice slices[2] = {{b, 1}, {a, piece ? PROMPT - 17 : 17}};
        uint32_t first = piece ? 17 : 0, n = slices[1].n_tokens;
        tokens[0] = g->tokens[3];
        memcpy(tokens + 1, g->tokens + first, n * sizeof *tokens);
        for (uint32_t i = 0; i < n; i++) rows[i] = i + 1;
        const float *out = states(m, slices, 2, tokens, rows, n);
        for (uint32_t i = 0; i < n; i++) {
            for (uint32_t k = 0; k < width; k++) sum[k] += (double)out[i * width + k] / PROMPT;
            if (first + i == MIDDLE) memcpy(got, out + i * width, width * sizeof *got);
            if (first + i == PROMPT - 1) memcpy(got + width, out + i * width, width * sizeof *got);
        }
    }
    for (uint32_t k = 0; k < width; k++) got[2 * width + k] = (float)sum[k];
    double off = distance_of(got, v.data, 3ull * width);
    test_free(got);
    test_free(sum);
    lm_model_backend(m)->seq_close(a);
    lm_model_backend(m)->seq_close(b);
    lm_model_close(m);
    if (off > EXACT) print_error("%s: states are off by %.2e\n", g->name, off);
    return off > EXACT;
}

static void states_are_what_mlx_lm_gives_the_head(void **state) {
    (void)state;
    lm_weights *w = expectations();
    golden g;
    int bad = 0;
    for (uint32_t i = 0; next_case(w, &i, &g);) bad += check_states(w, &g);
    lm_weights_close(w);
    assert_int_equal(bad, 0);
}

static void expect_refused(lm_model *m, const lm_slice *slices, uint32_t n, const int32_t *tokens,
                           const uint32_t *rows, uint32_t n_rows, const char *words) {
    const float *untouched = (const float *)tokens, *logits = untouched;
    lm_err err = {0};
    expect_fail(lm_model_step(m, slices, n, tokens, rows, n_rows, &logits, &err), LM_INVALID, err, words);
    assert_ptr_equal(logits, untouched);
    for (uint32_t i = 0; i < n; i++) assert_int_equal(lm_model_backend(m)->seq_len(slices[i].seq), 0);
}

static void a_bad_step_is_refused_and_changes_nothing(void **state) {
    (void)state;
    golden g = {.name = "llama-f32"};
    lm_model *m = open_case(&g, "reference", 1);
    lm_seq *a = open_seq(m), *b = open_seq(m);
    int32_t tokens[N_CTX + 1] = {1, 2, 3};
    uint32_t rows[2] = {0, 3};

    expect_refused(m, &(lm_slice){a, 0}, 1, tokens, NULL, 0, "a slice of no tokens");
    expect_refused(m, (lm_slice[]){{a, 1}, {a, 1}}, 2, tokens, NULL, 0, "one sequence is in two slices");
    expect_refused(m, &(lm_slice){a, N_CTX + 1}, 1, tokens, NULL, 0,
                   "65 tokens after 0 don't fit the context of 64");
    expect_refused(m, (lm_slice[]){{a, 40}, {b, 40}}, 2, tokens, NULL, 0, "a step of 80 tokens, 1 to 64");
    expect_refused(m, &(lm_slice){a, 3}, 1, tokens, rows, 2, "logits of row 3 of 3");
    expect_refused(m, &(lm_slice){a, 1}, 1, tokens, rows, 2, "logits of 2 rows of 1");
    tokens[2] = 131;
    expect_refused(m, &(lm_slice){a, 3}, 1, tokens, NULL, 0, "token 131 is not in the vocabulary of 131");
    tokens[2] = -1;
    expect_refused(m, &(lm_slice){a, 3}, 1, tokens, NULL, 0, "token -1 is not in the vocabulary");
    lm_model_backend(m)->seq_close(a);
    lm_model_backend(m)->seq_close(b);
    lm_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_family_and_form_computes_what_mlx_lm_does),
        cmocka_unit_test(prefill_in_chunks_gives_the_same),
        cmocka_unit_test(sequences_that_share_steps_do_not_touch_each_other),
#ifdef LM_GOLDEN_MLX
        cmocka_unit_test(tokens_chosen_ahead_are_those_of_the_logits),
#endif
        cmocka_unit_test(states_are_what_mlx_lm_gives_the_head),
        cmocka_unit_test(a_bad_step_is_refused_and_changes_nothing),
#ifndef LM_GOLDEN_MLX
        cmocka_unit_test(the_fast_feature_sets_stay_close),
        cmocka_unit_test(logits_do_not_depend_on_how_a_prompt_came),
#endif
    };
    return cmocka_run_group_tests_name("golden models", tests, NULL, NULL);
}
