/* model_golden_check.h (tests only) - one model of tests/golden against what mlx-lm computes with it. What
 * these take is closed by them; `what` names it in messages. Each returns 1 when something is wrong. */
#ifndef LM_TESTS_MODEL_GOLDEN_CHECK_H
#define LM_TESTS_MODEL_GOLDEN_CHECK_H

#include "golden_backend.h"
#include "model_golden.h"

#define EXACT 1e-4 /* the reference kernels: f32 sums in another order, 6e-6 seen */

/* 8-bit activations, f16 keys and values: root mean square of the difference over that of the logits, 3 to 7
 * in a hundred seen. Attention over random weights is sharp and magnifies rounding; on trained ones
 * perplexity is what counts (tests/perplexity.py). */
#define FAST     1e-1
#define FAST_MOE 2e-1 /* a router may choose another expert when two are nearly equal */

/* The whole prompt in one step, then greedy tokens one by one. */
static inline int check_numbers(const golden *g, lm_model *m, const char *what, bool exact) {
    lm_seq *seq = open_seq(m);
    uint32_t rows[2] = {MIDDLE, PROMPT - 1};
    int bad = 0;
    double tolerance = exact ? EXACT : is_moe(m) ? FAST_MOE : FAST;
    assert_int_equal(lm_model_get_info(m)->n_vocab, g->n_vocab);
    const float *logits = step(m, &(lm_slice){seq, PROMPT}, 1, g->tokens, rows, 2);
    const float *last = logits + g->n_vocab, *want = g->logits + g->n_vocab;
    double off = exact ? fmax(distance(g, logits, g->logits), distance(g, last, want))
                       : fmax(distance_rms(g, logits, g->logits), distance_rms(g, last, want));
    if (off > tolerance) {
        print_error("%s with %s: logits are off by %.2e, %.0e is allowed\n", g->name, what, off, tolerance);
        bad = 1;
    } else if (getenv("LM_GOLDEN_SHOW")) {
        print_message("%s with %s: %.2e\n", g->name, what, off);
    }
    for (int i = 0; exact && i < GREEDY; i++) {
        int32_t token = best(last, g->n_vocab);
        uint32_t row = 0;
        if (token != g->tokens[PROMPT + i]) {
            print_error("%s with %s: token %d is %d, mlx-lm's is %d\n", g->name, what, i, token,
                        g->tokens[PROMPT + i]);
            bad = 1;
            break;
        }
        last = step(m, &(lm_slice){seq, 1}, 1, &token, &row, 1);
    }
    lm_model_backend(m)->seq_close(seq);
    lm_model_close(m);
    return bad;
}

/* The last logits of the prompt, bit for bit: in one step, and in pieces with another sequence beside them,
 * on a second instance of the model with other threads. A seed means the same answer whatever is cached and
 * whoever else is served. */
static inline int check_bits(const golden *g, lm_model *m, lm_model *busy, const char *what) {
    lm_seq *whole = open_seq(m), *cut = open_seq(busy), *other = open_seq(busy);
    uint32_t row = PROMPT - 1, vocab = g->n_vocab;
    float *want = test_malloc(vocab * sizeof *want);
    memcpy(want, step(m, &(lm_slice){whole, PROMPT}, 1, g->tokens, &row, 1), vocab * sizeof *want);
    const float *got = NULL;
    for (uint32_t from = 0, n; from < PROMPT; from += n) {
        static const uint32_t lengths[] = {1, 2, 9, 4, 17, 6};
        n = lengths[from % 6] < PROMPT - from ? lengths[from % 6] : PROMPT - from;
        lm_slice slices[] = {{other, 1}, {cut, n}};
        int32_t tokens[PROMPT + 1] = {g->tokens[from]};
        memcpy(tokens + 1, g->tokens + from, n * sizeof *tokens);
        row = n;
        got = step(busy, slices, 2, tokens, &row, 1);
    }
    int bad = memcmp(want, got, vocab * sizeof *want) != 0;
    if (bad) print_error("%s with %s: other bits in pieces\n", g->name, what);
    test_free(want);
    lm_model_backend(m)->seq_close(whole);
    lm_model_backend(busy)->seq_close(cut);
    lm_model_backend(busy)->seq_close(other);
    lm_model_close(m);
    lm_model_close(busy);
    return bad;
}

#endif
