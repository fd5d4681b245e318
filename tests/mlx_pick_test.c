/* mlx_pick_test.c - the tokens that MLX's graph chooses against the engine's own sampler, filter by filter.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/test.h"
#include "engine/sampler.h"
#include "engine/tests/logits.h"
#include "mlx/backend.h"

/* Large enough for the best of a few to be found by blocks, and no multiple of them. */
enum { VOCAB = 7001, ROWS = 32, N_TOKENS = 40, TOP = 5, MASK_WORDS = (VOCAB + 31) / 32 };

typedef struct bed {
    const lm_backend *be;
    lm_device *dev;
    lm_linear *table; /* whose rows are the logits: embedding row i gives row i of them */
    float *logits;    /* (ROWS, VOCAB) */
    lm_scratch scratch;
    int32_t tokens[N_TOKENS];
    uint32_t mask[MASK_WORDS];
} bed;

/* prepare: changes the logits; MLX may copy them when it gets them. */
static void open_bed(bed *b, void (*prepare)(float *logits)) {
    lm_err err = {0};
    *b = (bed){.logits = lm_alloc((size_t)ROWS * VOCAB * sizeof(float))};
    expect_ok(lm_mlx_load(LM_MLX_CPU, &b->be, &err), err);
    lm_device_config config = {.kv_bytes = 1 << 24, .max_batch = ROWS, .kv = {1, 1, 16}};
    expect_ok(b->be->open(&b->dev, &config, &err), err);
    fill_logits(b->logits, ROWS * VOCAB);
    if (prepare) prepare(b->logits);
    lm_matrix m = {.codes = b->logits,
                   .dtype = LM_F32,
                   .rows = ROWS,
                   .cols = VOCAB,
                   .n_experts = 1,
                   .row_bytes = VOCAB * sizeof(float)};
    expect_ok(b->be->linear(b->dev, &m, NULL, &b->table, &err), err);
    expect_ok(lm_scratch_init(&b->scratch, VOCAB, &err), err);
    for (uint32_t i = 0; i < N_TOKENS; i++) b->tokens[i] = (int32_t)(uniform() * VOCAB);
    for (uint32_t i = 0; i < VOCAB; i++)
        if (uniform() < 0.3) b->mask[i / 32] |= 1u << (i % 32);
}

static void close_bed(bed *b) {
    lm_scratch_release(&b->scratch);
    b->be->linear_free(b->table);
    b->be->close(b->dev);
    free(b->logits);
}

/* Rows of the logits through a step; the flight is the caller's. */
static lm_flight *launch(bed *b, lm_seq *seq, const int32_t *rows, uint32_t n, const lm_flight *before,
                         const lm_pick *how) {
    lm_err err = {0};
    lm_step *s = NULL;
    lm_flight *f = NULL;
    lm_slice slice = {seq, n};
    expect_ok(b->be->seq_reserve(seq, n, &err), err);
    expect_ok(b->be->begin(b->dev, &slice, 1, before, &s, &err), err);
    expect_ok(b->be->launch(s, b->be->embed(s, b->table, rows, n, 1), n, how, &f, &err), err);
    return f;
}

static lm_seq *open_seq(bed *b) {
    lm_err err = {0};
    lm_seq *seq = NULL;
    expect_ok(b->be->seq_open(b->dev, &seq, &err), err);
    return seq;
}

/* The sampler's own order, with another draw. */
static lm_pick pick_of(const bed *b, const lm_sampler *s, bool masked, float u) {
    lm_pick how;
    lm_sampler_order(s, b->tokens, N_TOKENS, masked ? b->mask : NULL, &how);
    how.uniform = u;
    return how;
}

static int by_logit(const void *a, const void *b) {
    const lm_cand *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

/* The sampler's distribution of row r, best first; how many candidates. */
static uint32_t expected(bed *b, const lm_sampler *s, uint32_t r, bool masked) {
    lm_err err = {0};
    uint32_t n = 0;
    expect_ok(lm_sampler_filter(s, &b->scratch, b->logits + (size_t)r * VOCAB, b->tokens, N_TOKENS,
                                masked ? b->mask : NULL, &n, &err),
              err);
    qsort(b->scratch.a, n, sizeof(lm_cand), by_logit);
    return n;
}

/* For rows of logits: a draw in the middle of candidates' shares, which must give those candidates; a draw
 * beyond all of them but for rounding must give the last. */
static void compare(bed *b, const lm_options *o, bool masked) {
    lm_sampler s;
    lm_sampler_init(&s, o, 4096);
    lm_pick how[ROWS];
    int32_t rows[ROWS], want[ROWS];
    lm_picked got[ROWS];
    lm_err err = {0};
    for (uint32_t r = 0; r < ROWS; r++) {
        uint32_t n = expected(b, &s, r, masked), chosen = 0;
        double sum = 0, least = uniform();
        while (chosen + 1 < n &&
               (sum + (double)b->scratch.a[chosen].p < least || b->scratch.a[chosen].p < 1e-5f))
            sum += (double)b->scratch.a[chosen++].p;
        rows[r] = (int32_t)r;
        want[r] = b->scratch.a[chosen].id;
        how[r] = pick_of(b, &s, masked, (float)(sum + (double)b->scratch.a[chosen].p / 2));
    }
    lm_seq *seq = open_seq(b);
    lm_flight *f = launch(b, seq, rows, ROWS, NULL, how);
    expect_ok(b->be->wait(f, got, &err), err);
    for (uint32_t r = 0; r < ROWS; r++) {
        if (got[r].id != want[r])
            fail_msg("row %u: token %d instead of %d (top_k %d, top_p %g, min_p %g, typical_p %g, mask %d)",
                     r, got[r].id, want[r], o->top_k, (double)o->top_p, (double)o->min_p,
                     (double)o->typical_p, masked);
        assert_true(isfinite(got[r].best));
    }
    b->be->flight_free(f);
    b->be->seq_close(seq);
}

static lm_options base_options(void) {
    lm_options o;
    lm_options_default(&o);
    o.seed = 1;
    return o;
}

static void each_filter_leaves_what_the_sampler_leaves(void **state) {
    (void)state;
    static const struct {
        int32_t top_k;
        float top_p, min_p, typical_p, temperature, repeat, presence, frequency;
    } cases[] = {
        {40, 0.9f, 0, 1, 0.8f, 1.1f, 0, 0},
        {0, 1, 0, 1, 1, 1, 0, 0},
        {0, 0.5f, 0, 1, 1, 1, 0, 0},
        {5, 1, 0, 1, 2, 1, 0, 0},
        {0, 1, 0.05f, 1, 0.7f, 1, 0, 0},
        {0, 1, 0, 0.5f, 1, 1, 0, 0},
        {100, 0.8f, 0.1f, 0.7f, 1.3f, 1.3f, 0.5f, 0.2f},
        {0, 1, 0, 1, 1, 1, 1.5f, 0},
        {0, 1, 0, 1, 1, 1, 0, 0.7f},
        {2000, 0.95f, 0, 1, 1, 1, 0, 0},
        {1, 1, 0, 1, 1, 1, 0, 0},
        {40, 0.9f, 0, 1, 0, 1.2f, 0, 0},
    };
    bed b;
    open_bed(&b, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int masked = 0; masked < 2; masked++) {
            lm_options o = base_options();
            o.top_k = cases[i].top_k;
            o.top_p = cases[i].top_p;
            o.min_p = cases[i].min_p;
            o.typical_p = cases[i].typical_p;
            o.temperature = cases[i].temperature;
            o.repeat_penalty = cases[i].repeat;
            o.presence_penalty = cases[i].presence;
            o.frequency_penalty = cases[i].frequency;
            if (o.temperature > 0) compare(&b, &o, masked);
            /* greedy: the same as the sampler's own pick */
            o.temperature = 0;
            lm_sampler s;
            lm_sampler_init(&s, &o, 4096);
            lm_pick how[ROWS];
            int32_t rows[ROWS];
            lm_picked got[ROWS];
            lm_err err = {0};
            for (uint32_t r = 0; r < ROWS; r++) {
                rows[r] = (int32_t)r;
                how[r] = pick_of(&b, &s, masked, 0.5f);
            }
            lm_seq *seq = open_seq(&b);
            lm_flight *f = launch(&b, seq, rows, ROWS, NULL, how);
            expect_ok(b.be->wait(f, got, &err), err);
            for (uint32_t r = 0; r < ROWS; r++) {
                int32_t id = -1;
                expect_ok(lm_sampler_pick(&s, &b.scratch, b.logits + (size_t)r * VOCAB, b.tokens, N_TOKENS,
                                          masked ? b.mask : NULL, &id, &err),
                          err);
                assert_int_equal(got[r].id, id);
            }
            b.be->flight_free(f);
            b.be->seq_close(seq);
        }
    }
    close_bed(&b);
}

/* Rows with all kinds of options in one step don't touch each other. */
static void rows_keep_their_own_options(void **state) {
    (void)state;
    bed b;
    open_bed(&b, NULL);
    lm_sampler s[ROWS];
    static const lm_bias biases[] = {{5, 30}, {VOCAB, 90}, {6, 28}, {-1, 90}, {0, -100}};
    lm_pick how[ROWS];
    int32_t rows[ROWS], want[ROWS];
    lm_picked got[ROWS];
    lm_err err = {0};
    for (uint32_t r = 0; r < ROWS; r++) {
        lm_options o = base_options();
        o.top_k = r % 3 == 0 ? 0 : (int32_t)(3 * r);
        o.top_p = r % 4 == 1 ? 0.6f : 1;
        o.min_p = r % 5 == 2 ? 0.1f : 0;
        o.typical_p = r % 7 == 3 ? 0.6f : 1;
        o.temperature = r % 6 == 4 ? 0 : 0.5f + (float)r / 20;
        o.repeat_penalty = r % 2 ? 1.3f : 1;
        bool masked = r % 8 == 5;
        lm_sampler_init(&s[r], &o, 4096);
        s[r].biases = r % 4 == 2 ? biases : NULL;
        s[r].n_biases = r % 4 == 2 ? sizeof biases / sizeof *biases : 0;
        rows[r] = (int32_t)r;
        float u = 0;
        if (o.temperature > 0) {
            expected(&b, &s[r], r, masked);
            u = b.scratch.a[0].p / 2;
            want[r] = b.scratch.a[0].id;
        } else {
            expect_ok(lm_sampler_pick(&s[r], &b.scratch, b.logits + (size_t)r * VOCAB, b.tokens, N_TOKENS,
                                      masked ? b.mask : NULL, &want[r], &err),
                      err);
        }
        how[r] = pick_of(&b, &s[r], masked, u);
    }
    lm_seq *seq = open_seq(&b);
    lm_flight *f = launch(&b, seq, rows, ROWS, NULL, how);
    expect_ok(b.be->wait(f, got, &err), err);
    for (uint32_t r = 0; r < ROWS; r++) assert_int_equal(got[r].id, want[r]);
    b.be->flight_free(f);
    b.be->seq_close(seq);
    close_bed(&b);
}

static void log_probabilities_are_the_models_own(void **state) {
    (void)state;
    bed b;
    open_bed(&b, NULL);
    lm_options o = base_options();
    lm_sampler s;
    lm_sampler_init(&s, &o, 4096);
    lm_pick how[3] = {pick_of(&b, &s, true, 0.3f), pick_of(&b, &s, false, 0.6f),
                      pick_of(&b, &s, false, 0.6f)};
    int32_t rows[3] = {0, 1, 2};
    how[0].logprobs = how[1].logprobs = true;
    how[0].n_top = TOP;
    lm_picked got[3];
    lm_err err = {0};
    lm_seq *seq = open_seq(&b);
    lm_flight *f = launch(&b, seq, rows, 3, NULL, how);
    expect_ok(b.be->wait(f, got, &err), err);
    for (uint32_t r = 0; r < 2; r++) {
        lm_picked want = {.id = got[r].id};
        lm_sampler_logprobs(&b.scratch, b.logits + (size_t)r * VOCAB, r ? 0 : TOP, &want);
        assert_true(fabsf(got[r].logprob - want.logprob) < 1e-4f);
        assert_int_equal(got[r].n_top, r ? 0 : TOP);
        for (uint32_t i = 0; i < got[r].n_top; i++) {
            assert_int_equal(got[r].top_ids[i], want.top_ids[i]);
            assert_true(fabsf(got[r].top_logprobs[i] - want.top_logprobs[i]) < 1e-4f);
        }
    }
    assert_int_equal(got[2].n_top, 0);
    b.be->flight_free(f);
    b.be->seq_close(seq);
    close_bed(&b);
}

static int32_t leads_to(uint32_t row) {
    return (int32_t)((row * 7 + 3) % ROWS);
}

static void chain(float *logits) {
    for (uint32_t r = 0; r < ROWS; r++) logits[(size_t)r * VOCAB + (uint32_t)leads_to(r)] = 100;
}

/* A chain of steps, each fed by tokens that nobody has read: row i of the logits has its peak at leads_to(i).
 */
static void tokens_go_from_step_to_step_on_the_device(void **state) {
    (void)state;
    bed b;
    open_bed(&b, chain);
    int32_t next[ROWS];
    for (uint32_t r = 0; r < ROWS; r++) next[r] = leads_to(r);
    lm_options o = base_options();
    o.temperature = 0;
    o.repeat_penalty = 1;
    lm_sampler s;
    lm_sampler_init(&s, &o, 4096);
    lm_pick how[2] = {pick_of(&b, &s, false, 0), pick_of(&b, &s, false, 0)};
    lm_err err = {0};
    lm_seq *seq = open_seq(&b);
    lm_flight *f[4];
    lm_picked got[2];
    f[0] = launch(&b, seq, (int32_t[]){1, 2}, 2, NULL, how);
    f[1] = launch(&b, seq, (int32_t[]){LM_FROM_BEFORE(0), LM_FROM_BEFORE(1)}, 2, f[0], how);
    f[2] = launch(&b, seq, (int32_t[]){LM_FROM_BEFORE(1), 5}, 2, f[1], how);
    f[3] = launch(&b, seq, (int32_t[]){LM_FROM_BEFORE(0)}, 1, f[2], NULL); /* chosen later */
    assert_int_equal(b.be->seq_len(seq), 7);
    uint64_t before = b.be->n_waits(b.dev);
    int32_t first[2] = {next[1], next[2]}, second[2] = {next[first[0]], next[first[1]]};
    for (int i = 0; i < 3; i++) {
        expect_ok(b.be->wait(f[i], got, &err), err);
        const int32_t *want = i == 0 ? first : i == 1 ? second : (int32_t[]){next[second[1]], next[5]};
        assert_int_equal(got[0].id, want[0]);
        assert_int_equal(got[1].id, want[1]);
    }
    expect_fail(b.be->wait(f[3], got, &err), LM_INVALID, err, "chosen");
    expect_ok(b.be->pick(f[3], how, &err), err);
    expect_ok(b.be->wait(f[3], got, &err), err);
    assert_int_equal(got[0].id, next[next[second[1]]]);
    assert_int_equal(b.be->n_waits(b.dev) - before, 4); /* one a step */
    expect_fail(b.be->pick(f[3], how, &err), LM_INVALID, err, "already");
    for (int i = 0; i < 4; i++) b.be->flight_free(f[i]);
    b.be->seq_close(seq);
    close_bed(&b);
}

/* Row 0 leads to row 1, row 1 to itself, unless it is punished for that. */
static void repeats(float *logits) {
    for (uint32_t r = 0; r < 2; r++) {
        logits[(size_t)r * VOCAB + 1] = 100;
        logits[(size_t)r * VOCAB + 9] = 90;
    }
}

static void penalties_see_tokens_that_nobody_has_read(void **state) {
    (void)state;
    bed b;
    open_bed(&b, repeats);
    lm_options o = base_options();
    o.temperature = 0;
    o.repeat_penalty = 2;
    lm_sampler s;
    lm_sampler_init(&s, &o, 4096);
    int32_t recent[3] = {500, 501, LM_FROM_BEFORE(0)};
    lm_pick how = pick_of(&b, &s, false, 0);
    how.recent = recent;
    how.n_recent = 2;
    lm_err err = {0};
    lm_seq *seq = open_seq(&b);
    lm_picked got;
    lm_flight *f = launch(&b, seq, (int32_t[]){0}, 1, NULL, &how);
    how.n_recent = 3;
    lm_flight *g = launch(&b, seq, (int32_t[]){LM_FROM_BEFORE(0)}, 1, f, &how);
    expect_ok(b.be->wait(f, &got, &err), err);
    assert_int_equal(got.id, 1);
    expect_ok(b.be->wait(g, &got, &err), err);
    assert_int_equal(got.id, 9);
    b.be->flight_free(f);
    b.be->flight_free(g);
    b.be->seq_close(seq);
    close_bed(&b);
}

static void no_numbers(float *logits) {
    logits[VOCAB + 3] = NAN;
    logits[2 * VOCAB + 3] = INFINITY;
}

static void a_row_without_numbers_is_told(void **state) {
    (void)state;
    bed b;
    open_bed(&b, no_numbers);
    lm_options o = base_options();
    lm_sampler s;
    lm_sampler_init(&s, &o, 4096);
    memset(b.mask, 0, sizeof b.mask);
    lm_pick how[3] = {pick_of(&b, &s, true, 0), pick_of(&b, &s, false, 0), pick_of(&b, &s, false, 0)};
    lm_err err = {0};
    lm_seq *seq = open_seq(&b);
    lm_picked got[3];
    lm_flight *f = launch(&b, seq, (int32_t[]){0, 1, 2}, 3, NULL, how);
    expect_ok(b.be->wait(f, got, &err), err);
    for (int i = 0; i < 3; i++) {
        assert_false(isfinite(got[i].best));
        assert_in_range(got[i].id, 0, VOCAB - 1);
    }
    b.be->flight_free(f);
    b.be->seq_close(seq);
    close_bed(&b);
}

static void a_token_of_no_step_is_refused(void **state) {
    (void)state;
    bed b;
    open_bed(&b, NULL);
    lm_err err = {0};
    lm_step *step = NULL;
    lm_flight *f = NULL;
    lm_seq *seq = open_seq(&b);
    lm_slice slice = {seq, 1};
    lm_pick how = {.top_k = 1, .top_p = 1, .typical_p = 1, .repeat_penalty = 1};
    expect_ok(b.be->seq_reserve(seq, 1, &err), err);
    expect_ok(b.be->begin(b.dev, &slice, 1, NULL, &step, &err), err);
    int32_t token = LM_FROM_BEFORE(0);
    lm_tensor *x = b.be->embed(step, b.table, &token, 1, 1);
    assert_null(x);
    assert_int_not_equal(b.be->launch(step, x, 1, &how, &f, &err), LM_OK);
    assert_null(f);
    assert_int_equal(b.be->seq_len(seq), 0);
    lm_flight *good = launch(&b, seq, (int32_t[]){0}, 1, NULL, &how);
    expect_ok(b.be->begin(b.dev, &slice, 1, good, &step, &err), err);
    token = LM_FROM_BEFORE(1);
    assert_null(b.be->embed(step, b.table, &token, 1, 1));
    assert_int_not_equal(b.be->end(step, true, &err), LM_OK);
    assert_int_equal(b.be->seq_len(seq), 1);
    b.be->flight_free(good);
    b.be->seq_close(seq);
    close_bed(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_filter_leaves_what_the_sampler_leaves),
        cmocka_unit_test(rows_keep_their_own_options),
        cmocka_unit_test(log_probabilities_are_the_models_own),
        cmocka_unit_test(tokens_go_from_step_to_step_on_the_device),
        cmocka_unit_test(penalties_see_tokens_that_nobody_has_read),
        cmocka_unit_test(a_row_without_numbers_is_told),
        cmocka_unit_test(a_token_of_no_step_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
