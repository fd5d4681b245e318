/* Encoders against tests/embedding_reference.py: states of the tiny models that tests/golden/make_encoders.py
 * makes. Tolerances are relative to the largest expected number. */
#include "model_golden.h"

#include "cpu/cpu.h"
#include "mlx/backend.h"
#include "golden_backend.h"

#define EXACT 1e-4 /* f32 sums in another order: 1e-6 seen */
#define FAST  5e-2 /* 8-bit activations where weights are quantised, f16 keys and values */

enum { N_ROWS = PROMPT + 7 + 1 };

typedef struct encoder_case {
    char name[64];
    const int32_t *tokens; /* (PROMPT) */
    const float *states;   /* (3, width): of the middle, of the last token, the mean */
    uint32_t width;
} encoder_case;

static lm_weights *known(void) {
    lm_weights *w = NULL;
    lm_err err = {0};
    expect_ok(lm_weights_open(&w, LM_SOURCE_DIR "/tests/golden/encoders", &err), err);
    return w;
}

static bool next_encoder(const lm_weights *w, uint32_t *i, encoder_case *c) {
    for (; *i < lm_weights_count(w); (*i)++) {
        lm_view v, tokens;
        char of_tokens[96];
        const char *name = lm_weights_name(w, *i, &v), *dot = strrchr(name, '.');
        if (!dot || strcmp(dot, ".states") != 0) continue;
        snprintf(c->name, sizeof c->name, "%.*s", (int)(dot - name), name);
        snprintf(of_tokens, sizeof of_tokens, "%s.tokens", c->name);
        assert_true(lm_weights_find(w, of_tokens, &tokens));
        assert_int_equal(tokens.dims[0], PROMPT);
        c->tokens = tokens.data;
        c->states = v.data;
        c->width = (uint32_t)v.dims[1];
        (*i)++;
        return true;
    }
    return false;
}

static lm_model *open_encoder(const encoder_case *c, const char *features, uint32_t n_threads) {
    golden g;
    memcpy(g.name, c->name, sizeof g.name);
    lm_model *m =
        open_case_on(backend(), &g, features, n_threads, LM_KV_Q8_0); /* means nothing to an encoder */
    assert_true(lm_model_get_info(m)->encoder);
    assert_int_equal(lm_model_get_info(m)->width, c->width);
    return m;
}

/* Every row of the text: alone, or in front of and behind others. The caller frees. */
static float *states_of(lm_model *m, const encoder_case *c, bool alone) {
    uint32_t first = alone ? 0 : 1, rows[PROMPT];
    int32_t tokens[N_ROWS];
    lm_seq *before = open_seq(m), *text = open_seq(m), *behind = open_seq(m);
    for (uint32_t i = 0; i < N_ROWS; i++) tokens[i] = c->tokens[(i * 7) % PROMPT];
    memcpy(tokens + first, c->tokens, PROMPT * sizeof *tokens);
    for (uint32_t i = 0; i < PROMPT; i++) rows[i] = first + i;
    lm_slice slices[] = {{before, 1}, {text, PROMPT}, {behind, 7}};
    const float *out = NULL;
    lm_err err = {0};
    expect_ok(alone ? lm_model_states(m, &slices[1], 1, tokens, rows, PROMPT, &out, &err)
                    : lm_model_states(m, slices, 3, tokens, rows, PROMPT, &out, &err),
              err);
    float *copy = malloc(PROMPT * c->width * sizeof *copy);
    memcpy(copy, out, PROMPT * c->width * sizeof *copy);
    lm_seq *all[] = {before, text, behind};
    for (int i = 0; i < 3; i++) lm_model_seq_close(m, all[i]);
    return copy;
}

static double off_by(const encoder_case *c, const float *states) {
    double most = 0, largest = 0;
    for (uint32_t k = 0; k < c->width; k++) {
        double mean = 0;
        for (uint32_t r = 0; r < PROMPT; r++) mean += (double)states[r * c->width + k] / PROMPT;
        double got[] = {(double)states[MIDDLE * c->width + k], (double)states[(PROMPT - 1) * c->width + k],
                        mean};
        for (int i = 0; i < 3; i++) {
            double want = (double)c->states[(uint32_t)i * c->width + k], d = fabs(got[i] - want);
            if (!(d <= most)) most = isfinite(d) ? d : (double)INFINITY;
            largest = fmax(largest, fabs(want));
        }
    }
    return most / largest;
}

static int check_states(const encoder_case *c, const char *features, double tolerance) {
    lm_model *m = open_encoder(c, features, 2);
    float *alone = states_of(m, c, true), *among = states_of(m, c, false);
    double off = fmax(off_by(c, alone), off_by(c, among));
    if (off > tolerance) print_error("%s with %s: states are off by %.2e\n", c->name, features, off);
    if (getenv("LM_GOLDEN_SHOW")) print_message("%s with %s: %.2e\n", c->name, features, off);
    free(alone);
    free(among);
    lm_model_close(m);
    return off > tolerance;
}

static void every_encoder_computes_what_numpy_does(void **state) {
    (void)state;
    lm_weights *w = known();
    encoder_case c;
    int bad = 0, n = 0;
    for (uint32_t i = 0; next_encoder(w, &i, &c); n++) bad += check_states(&c, "reference", EXACT);
    lm_weights_close(w);
    assert_true(n >= 8);
    assert_int_equal(bad, 0);
}

#ifndef LM_GOLDEN_MLX
static void fast_sets_stay_close_and_company_changes_no_bit(void **state) {
    (void)state;
    lm_weights *w = known();
    encoder_case c;
    int bad = 0;
    for (const char *const *f = lm_cpu_features(); *f; f++)
        for (uint32_t i = 0; next_encoder(w, &i, &c);) {
            bad += check_states(&c, *f, strcmp(*f, "reference") ? FAST : EXACT);
            lm_model *m = open_encoder(&c, *f, 1), *busy = open_encoder(&c, *f, 3);
            float *alone = states_of(m, &c, true), *among = states_of(busy, &c, false);
            if (memcmp(alone, among, PROMPT * c.width * sizeof *alone) != 0) {
                print_error("%s with %s: other bits among others\n", c.name, *f);
                bad++;
            }
            free(alone);
            free(among);
            lm_model_close(m);
            lm_model_close(busy);
        }
    lm_weights_close(w);
    assert_int_equal(bad, 0);
}
#endif

static void an_encoder_reads_a_text_whole_and_gives_no_tokens(void **state) {
    (void)state;
    lm_weights *w = known();
    encoder_case c;
    uint32_t i = 0;
    assert_true(next_encoder(w, &i, &c));
    lm_model *m = open_encoder(&c, "reference", 1);
    lm_seq *seq = open_seq(m);
    const float *out = NULL;
    uint32_t row = 0;
    lm_err err = {0};
    lm_slice slice = {seq, 5};
    expect_fail(lm_model_step(m, &slice, 1, c.tokens, &row, 1, &out, &err), LM_INVALID, err,
                "gives no tokens");
    expect_ok(lm_model_states(m, &slice, 1, c.tokens, &row, 1, &out, &err), err);
    expect_fail(lm_model_states(m, &slice, 1, c.tokens, &row, 1, &out, &err), LM_INVALID, err, "in one step");
    lm_model_seq_close(m, seq);
    lm_model_close(m);
    lm_weights_close(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_encoder_computes_what_numpy_does),
#ifndef LM_GOLDEN_MLX
        cmocka_unit_test(fast_sets_stay_close_and_company_changes_no_bit),
#endif
        cmocka_unit_test(an_encoder_reads_a_text_whole_and_gives_no_tokens),
    };
    return cmocka_run_group_tests_name("golden encoders", tests, NULL, NULL);
}
