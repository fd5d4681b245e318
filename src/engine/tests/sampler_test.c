/* sampler_test.c - every filter against a plain double-precision reference that sorts everything. */
#include <math.h>

#include "base/test.h"
#include "engine/sampler.h"
#include "engine/tests/logits.h"

#define MAX_VOCAB 152000

typedef struct ref_cand {
    double logit, p, score;
    int32_t id;
} ref_cand;

static int by_logit(const void *a, const void *b) {
    const ref_cand *x = a, *y = b;
    if (x->logit != y->logit) return x->logit > y->logit ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static int by_score(const void *a, const void *b) {
    const ref_cand *x = a, *y = b;
    if (x->score != y->score) return x->score < y->score ? -1 : 1;
    return x->id < y->id ? -1 : 1;
}

static void ref_softmax(ref_cand *c, uint32_t n, double t) {
    double max = -INFINITY, sum = 0;
    for (uint32_t i = 0; i < n; i++) max = fmax(max, c[i].logit);
    for (uint32_t i = 0; i < n; i++) sum += c[i].p = exp((c[i].logit - max) / t);
    for (uint32_t i = 0; i < n; i++) c[i].p /= sum;
}

/* The distribution as the papers and Ollama's documentation describe it. *margin: how far the nearest
 * decision was from falling the other way; cases nearer than rounding can settle are not compared. */
static uint32_t reference(const lm_options *o, const float *x, uint32_t n_vocab, const int32_t *tokens,
                          uint32_t n_tokens, const uint32_t *mask, ref_cand *c, double *margin) {
    uint32_t n = 0;
    *margin = 1;
    uint32_t window = o->repeat_last_n < 0 ? n_tokens : (uint32_t)o->repeat_last_n;
    if (window > n_tokens) window = n_tokens;
    for (uint32_t i = 0; i < n_vocab; i++) {
        if (mask && !(mask[i / 32] >> (i % 32) & 1)) continue;
        double logit = (double)x[i];
        int count = 0;
        for (uint32_t t = n_tokens - window; t < n_tokens; t++) count += tokens[t] == (int32_t)i;
        if (count) {
            logit = logit <= 0 ? logit * (double)o->repeat_penalty : logit / (double)o->repeat_penalty;
            logit -= count * (double)o->frequency_penalty + (double)o->presence_penalty;
        }
        c[n++] = (ref_cand){.logit = logit, .id = (int32_t)i};
    }
    qsort(c, n, sizeof(*c), by_logit);
    if (o->top_k > 0 && (uint32_t)o->top_k < n) {
        *margin = fmin(*margin, c[o->top_k - 1].logit - c[o->top_k].logit);
        n = (uint32_t)o->top_k;
    }
    if (o->typical_p < 1) {
        double entropy = 0, sum = 0;
        ref_softmax(c, n, 1);
        for (uint32_t i = 0; i < n; i++) entropy -= c[i].p > 0 ? c[i].p * log(c[i].p) : 0;
        for (uint32_t i = 0; i < n; i++) c[i].score = fabs(-log(c[i].p) - entropy);
        qsort(c, n, sizeof(*c), by_score);
        uint32_t kept = 0;
        while (kept < n && (kept == 0 || sum <= (double)o->typical_p)) {
            sum += c[kept++].p;
            *margin = fmin(*margin, fabs(sum - (double)o->typical_p));
        }
        if (kept < n) *margin = fmin(*margin, c[kept].score - c[kept - 1].score);
        n = kept;
        qsort(c, n, sizeof(*c), by_logit);
    }
    if (o->top_p < 1) {
        double sum = 0;
        ref_softmax(c, n, 1);
        uint32_t kept = 0;
        do {
            sum += c[kept++].p;
            *margin = fmin(*margin, fabs(sum - (double)o->top_p));
        } while (kept < n && sum < (double)o->top_p);
        if (kept < n) *margin = fmin(*margin, c[kept - 1].logit - c[kept].logit);
        n = kept;
    }
    if (o->min_p > 0) {
        double least = c[0].logit + log((double)o->min_p);
        uint32_t kept = 0;
        for (uint32_t i = 0; i < n; i++) {
            *margin = fmin(*margin, fabs(c[i].logit - least));
            if (c[i].logit >= least) c[kept++] = c[i];
        }
        n = kept;
    }
    ref_softmax(c, n, (double)o->temperature);
    return n;
}

static int by_id(const void *a, const void *b) {
    return ((const lm_cand *)a)->id - ((const lm_cand *)b)->id;
}

static int ref_by_id(const void *a, const void *b) {
    return ((const ref_cand *)a)->id - ((const ref_cand *)b)->id;
}

static uint32_t n_compared;

/* Runs one case through both; false when it was too near to call. */
static void compare(const lm_options *o, lm_scratch *w, const float *x, const int32_t *tokens,
                    uint32_t n_tokens, const uint32_t *mask, ref_cand *c) {
    lm_sampler s;
    lm_err err = {0};
    double margin = 0;
    uint32_t n = 0;
    lm_sampler_init(&s, o, n_tokens);
    uint32_t want = reference(o, x, w->n_vocab, tokens, n_tokens, mask, c, &margin);
    if (margin < 2e-6) return;
    expect_ok(lm_sampler_filter(&s, w, x, tokens, n_tokens, mask, &n, &err), err);
    if (n != want) fail_msg("vocab %u: %u candidates left, reference has %u", w->n_vocab, n, want);
    qsort(w->a, n, sizeof(lm_cand), by_id);
    qsort(c, want, sizeof(*c), ref_by_id);
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(w->a[i].id, c[i].id);
        if (fabs((double)w->a[i].p - c[i].p) > 1e-6 + 1e-4 * c[i].p) {
            fail_msg("token %d has p %g, reference %g", c[i].id, (double)w->a[i].p, c[i].p);
        }
    }
    n_compared++;
}

static void every_filter_and_their_combinations_match_the_reference(void **state) {
    (void)state;
    static const uint32_t vocabs[] = {1, 2, 31, 64, 65, 1000, 5001};
    lm_err err = {0};
    ref_cand *c = malloc(MAX_VOCAB * sizeof(*c));
    float *x = malloc(MAX_VOCAB * sizeof(*x));
    uint32_t *mask = malloc(MAX_VOCAB / 8 + 4);
    int32_t tokens[100];
    n_compared = 0;
    for (uint32_t v = 0; v < sizeof(vocabs) / sizeof(*vocabs); v++) {
        lm_scratch w;
        expect_ok(lm_scratch_init(&w, vocabs[v], &err), err);
        for (uint32_t round = 0; round < 256; round++) {
            lm_options o;
            lm_options_default(&o);
            o.seed = 1;
            o.top_k = round & 1 ? (int32_t)(uniform() * 80) : 0;
            o.top_p = round & 2 ? (float)uniform() : 1;
            o.min_p = round & 4 ? (float)(uniform() * 0.2) : 0;
            o.typical_p = round & 8 ? (float)uniform() : 1;
            o.temperature = (float)(uniform() * 2 + 0.05);
            if (round & 16) {
                o.repeat_penalty = (float)(0.7 + uniform());
                o.presence_penalty = (float)(uniform() * 4 - 2);
                o.frequency_penalty = (float)(uniform() - 0.5);
                o.repeat_last_n = (int32_t)(uniform() * 120) - 1;
            }
            fill_logits(x, vocabs[v]);
            for (uint32_t i = 0; i < 100; i++) tokens[i] = (int32_t)(uniform() * vocabs[v]);
            for (uint32_t i = 0; i < vocabs[v] / 32 + 1; i++)
                mask[i] = (uint32_t)(uniform() * 4294967296.0) | 1u;
            compare(&o, &w, x, tokens, 100, round & 32 ? mask : NULL, c);
        }
        lm_scratch_release(&w);
    }
    assert_true(n_compared > 1500); /* ties and near ties are rare */
    free(mask);
    free(x);
    free(c);
}

static void whatever_the_penalties_are_a_token_is_chosen(void **state) {
    (void)state;
    const float extremes[] = {0.0f, -0.0f, 1e-45f, -1e-45f, 1.0f, 3e38f, -3e38f};
    const size_t n = sizeof extremes / sizeof *extremes;
    lm_err err = {0};
    lm_scratch w;
    float x[40];
    int32_t tokens[40], id;
    for (int32_t i = 0; i < 40; i++) tokens[i] = i;
    fill_logits(x, 40);
    expect_ok(lm_scratch_init(&w, 40, &err), err);
    for (size_t i = 0; i < n * n * n; i++) {
        lm_options o;
        lm_sampler s;
        lm_options_default(&o);
        o.repeat_penalty = extremes[i % n];
        o.presence_penalty = extremes[i / n % n];
        o.frequency_penalty = extremes[i / n / n];
        o.temperature = i % 2 ? 0 : 1e-45f;
        lm_sampler_init(&s, &o, 100);
        expect_ok(lm_sampler_pick(&s, &w, x, tokens, 40, NULL, &id, &err), err);
        assert_in_range(id, 0, 39);
    }
    lm_scratch_release(&w);
}

/* Added before anything else, so that a biased token competes as if the model had said so. */
static void biases_come_before_everything_else(void **state) {
    (void)state;
    enum { N = 1000 };
    static const lm_bias biases[] = {{7, 50}, {N, 100}, {-1, 100}, {8, -100}};
    lm_err err = {0};
    lm_scratch w;
    lm_sampler s;
    lm_options o;
    float x[N], by_hand[N];
    uint32_t mask[N / 32 + 1];
    int32_t tokens[] = {7, 9}, id = -1, want = -1;
    lm_options_default(&o);
    o.repeat_penalty = 1.2f;
    expect_ok(lm_scratch_init(&w, N, &err), err);
    memset(mask, 0xff, sizeof mask);
    mask[0] = 1u << 8 | 1u << 9;
    for (int seed = 0; seed < 50; seed++) {
        const uint32_t *allowed = seed % 2 ? mask : NULL;
        o.seed = seed;
        o.temperature = seed % 5 ? 1 : 0;
        fill_logits(x, N);
        memcpy(by_hand, x, sizeof x);
        by_hand[7] += 50;
        by_hand[8] -= 100;
        lm_sampler_init(&s, &o, 100);
        expect_ok(lm_sampler_pick(&s, &w, by_hand, tokens, 2, allowed, &want, &err), err);
        lm_sampler_init(&s, &o, 100);
        s.biases = biases;
        s.n_biases = 4;
        expect_ok(lm_sampler_pick(&s, &w, x, tokens, 2, allowed, &id, &err), err);
        assert_int_equal(id, want);
        if (!allowed) assert_int_equal(id, 7);
    }
    lm_scratch_release(&w);
}

static void a_large_vocabulary_with_ollamas_defaults_matches_the_reference(void **state) {
    (void)state;
    lm_err err = {0};
    lm_scratch w;
    ref_cand *c = malloc(MAX_VOCAB * sizeof(*c));
    float *x = malloc(MAX_VOCAB * sizeof(*x));
    expect_ok(lm_scratch_init(&w, 151936, &err), err);
    n_compared = 0;
    for (int i = 0; i < 20; i++) {
        lm_options o;
        lm_options_default(&o);
        fill_logits(x, 151936);
        compare(&o, &w, x, NULL, 0, NULL, c);
    }
    assert_true(n_compared > 10);
    lm_scratch_release(&w);
    free(x);
    free(c);
}

static void top_takes_the_lower_id_of_equals_and_skips_nan(void **state) {
    (void)state;
    lm_err err = {0};
    lm_scratch w;
    enum { N = 20000 };
    float *x = malloc(N * sizeof(*x));
    expect_ok(lm_scratch_init(&w, N, &err), err);
    for (uint32_t i = 0; i < N; i++) x[i] = 1.5f;
    assert_int_equal(lm_select_argmax(x, N), 0);
    assert_int_equal(lm_select_top(x, N, 40, w.a, w.b, w.maxima), 40);
    for (int i = 0; i < 40; i++) assert_int_equal(w.a[i].id, i);
    for (uint32_t i = 0; i < N; i += 2) x[i] = NAN;
    x[19999] = 2.5f;
    assert_int_equal(lm_select_argmax(x, N), 19999);
    assert_int_equal(lm_select_top(x, N, 3, w.a, w.b, w.maxima), 3);
    assert_int_equal(w.a[0].id, 19999);
    assert_int_equal(w.a[1].id, 1);
    assert_int_equal(w.a[2].id, 3);
    for (uint32_t i = 0; i < N; i++) x[i] = -INFINITY;
    x[777] = -1e30f;
    assert_int_equal(lm_select_argmax(x, N), 777);
    assert_int_equal(lm_select_top(x, N, 5, w.a, w.b, w.maxima), 1);
    lm_scratch_release(&w);
    free(x);
}

static void the_largest_is_found_at_every_position(void **state) {
    (void)state;
    enum { N = 2113 };
    float x[N];
    for (uint32_t n = 1; n <= N; n = n < 130 ? n + 1 : n + 97) {
        for (uint32_t at = 0; at < n; at++) {
            for (uint32_t i = 0; i < n; i++) x[i] = -3.0f - (float)(i % 7);
            x[at] = -2.0f;
            assert_int_equal(lm_select_argmax(x, n), (int32_t)at);
        }
    }
}

static void rows_without_a_finite_number_are_refused(void **state) {
    (void)state;
    lm_err err = {0};
    lm_scratch w;
    lm_sampler s;
    lm_options o;
    float x[100];
    int32_t id = -7;
    uint32_t mask[4] = {0};
    lm_options_default(&o);
    expect_ok(lm_scratch_init(&w, 100, &err), err);
    for (int greedy = 0; greedy < 2; greedy++) {
        o.temperature = greedy ? 0.0f : 1.0f;
        lm_sampler_init(&s, &o, 10);
        for (int i = 0; i < 100; i++) x[i] = NAN;
        expect_fail(lm_sampler_pick(&s, &w, x, NULL, 0, NULL, &id, &err), LM_INTERNAL, err,
                    "no finite numbers");
        x[3] = INFINITY;
        expect_fail(lm_sampler_pick(&s, &w, x, NULL, 0, NULL, &id, &err), LM_INTERNAL, err,
                    "no finite numbers");
        x[3] = 0;
        expect_fail(lm_sampler_pick(&s, &w, x, NULL, 0, mask, &id, &err), LM_INTERNAL, err, "output format");
        mask[0] = 8;
        expect_ok(lm_sampler_pick(&s, &w, x, NULL, 0, mask, &id, &err), err);
        assert_int_equal(id, 3);
        mask[0] = 0;
    }
    lm_scratch_release(&w);
}

static void draws_follow_the_distribution(void **state) {
    (void)state;
    lm_err err = {0};
    lm_scratch w;
    lm_sampler s;
    lm_options o;
    enum { N = 5, DRAWS = 40000 };
    float x[N] = {1.0f, 2.0f, 0.5f, -1.0f, 2.5f};
    uint32_t seen[N] = {0};
    double sum = 0;
    lm_options_default(&o);
    o.seed = 42;
    o.temperature = 1;
    o.top_k = 0;
    o.top_p = 1;
    expect_ok(lm_scratch_init(&w, N, &err), err);
    lm_sampler_init(&s, &o, 10);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = -1;
        expect_ok(lm_sampler_pick(&s, &w, x, NULL, 0, NULL, &id, &err), err);
        seen[id]++;
    }
    for (int i = 0; i < N; i++) sum += exp((double)x[i]);
    for (int i = 0; i < N; i++) {
        double p = exp((double)x[i]) / sum;
        double sigma = sqrt(p * (1 - p) / DRAWS);
        assert_true(fabs(seen[i] / (double)DRAWS - p) <
                    5 * sigma); /* a fixed seed: the same draws every time */
    }
    lm_scratch_release(&w);
}

static void a_seed_gives_the_same_draws_and_another_seed_others(void **state) {
    (void)state;
    uint32_t same = 0;
    for (uint64_t n = 0; n < 1000; n++) {
        double u = lm_sampler_uniform(7, n);
        assert_true(u >= 0 && u < 1);
        same += u == lm_sampler_uniform(8, n);
    }
    assert_true(same < 2);
    lm_sampler a, b;
    lm_options o;
    lm_options_default(&o);
    lm_sampler_init(&a, &o, 1);
    lm_sampler_init(&b, &o, 1);
    assert_true(a.seed != b.seed); /* -1: random */
    o.seed = 0;
    lm_sampler_init(&a, &o, 1);
    assert_int_equal(a.seed, 0);
}

static void logprobs_are_those_of_the_untouched_row(void **state) {
    (void)state;
    lm_err err = {0};
    lm_scratch w;
    enum { N = 151936 };
    float *x = malloc(N * sizeof(*x));
    expect_ok(lm_scratch_init(&w, N, &err), err);
    fill_logits(x, N);
    x[5] = 20.25f;
    x[6] = 20.0f;
    double sum = 0;
    for (uint32_t i = 0; i < N; i++) sum += exp((double)x[i] - 20.25);
    lm_picked p = {.id = 77};
    lm_sampler_logprobs(&w, x, 3, &p);
    assert_true(fabs((double)p.logprob - ((double)x[77] - 20.25 - log(sum))) < 2e-5);
    assert_int_equal(p.n_top, 3);
    assert_int_equal(p.top_ids[0], 5);
    assert_int_equal(p.top_ids[1], 6);
    assert_true(fabs((double)p.top_logprobs[0] + log(sum)) < 1e-6);
    assert_true(p.top_logprobs[1] >= p.top_logprobs[2]);
    lm_scratch_release(&w);
    free(x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_filter_and_their_combinations_match_the_reference),
        cmocka_unit_test(whatever_the_penalties_are_a_token_is_chosen),
        cmocka_unit_test(biases_come_before_everything_else),
        cmocka_unit_test(a_large_vocabulary_with_ollamas_defaults_matches_the_reference),
        cmocka_unit_test(top_takes_the_lower_id_of_equals_and_skips_nan),
        cmocka_unit_test(the_largest_is_found_at_every_position),
        cmocka_unit_test(rows_without_a_finite_number_are_refused),
        cmocka_unit_test(draws_follow_the_distribution),
        cmocka_unit_test(a_seed_gives_the_same_draws_and_another_seed_others),
        cmocka_unit_test(logprobs_are_those_of_the_untouched_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
