/* model_golden.h (tests only) - the tiny models that tests/golden/make_models.py writes, and what mlx-lm
 * computes with them.
 *
 * The directory of models is named by LM_GOLDEN_MODELS. Distances are relative to the largest expected logit.
 */
#ifndef LM_TESTS_MODEL_GOLDEN_H
#define LM_TESTS_MODEL_GOLDEN_H

#include <math.h>

#include "base/test.h"
#include "model/model.h"

enum { PROMPT = 40, GREEDY = 12, MIDDLE = PROMPT / 2, N_CTX = 64 };

typedef struct golden {
    char name[64];
    const int32_t *tokens; /* (PROMPT + GREEDY) */
    const float *logits;   /* (2, n_vocab): after MIDDLE + 1 tokens, after PROMPT */
    uint32_t n_vocab;
    float largest;
} golden;

static inline const char *models_dir(void) {
    const char *dir = getenv("LM_GOLDEN_MODELS");
    if (!dir || !*dir) {
        fail_msg("LM_GOLDEN_MODELS is not set. Make the models first (python3 with numpy):\n"
                 "  python3 " LM_SOURCE_DIR "/tests/golden/make_models.py build/golden && export "
                 "LM_GOLDEN_MODELS=$PWD/build/golden");
    }
    return dir;
}

/* Case i of the file of expectations, false after the last. */
static inline bool next_case(const lm_weights *w, uint32_t *i, golden *g) {
    for (; *i < lm_weights_count(w); (*i)++) {
        lm_view v, tokens;
        const char *name = lm_weights_name(w, *i, &v);
        const char *dot = strrchr(name, '.');
        if (!dot || strcmp(dot, ".logits")) continue;
        char of_tokens[96];
        snprintf(g->name, sizeof g->name, "%.*s", (int)(dot - name), name);
        snprintf(of_tokens, sizeof of_tokens, "%s.tokens", g->name);
        assert_true(lm_weights_find(w, of_tokens, &tokens));
        assert_int_equal(tokens.dims[0], PROMPT + GREEDY);
        g->tokens = tokens.data;
        g->logits = v.data;
        g->n_vocab = (uint32_t)v.dims[1];
        g->largest = 0;
        for (uint64_t n = 0; n < 2ull * g->n_vocab; n++) g->largest = fmaxf(g->largest, fabsf(g->logits[n]));
        (*i)++;
        return true;
    }
    return false;
}

static inline lm_weights *expectations(void) {
    lm_weights *w = NULL;
    lm_err err = {0};
    expect_ok(lm_weights_open(&w, LM_SOURCE_DIR "/tests/golden/models", &err), err);
    return w;
}

static inline lm_model *open_case_on(const lm_backend *backend, const golden *g, const char *features,
                                     uint32_t n_threads, lm_kv_type kv_type) {
    lm_model *m = NULL;
    lm_err err = {0};
    char dir[1024];
    lm_model_config config = {.n_threads = n_threads,
                              .features = features,
                              .n_ctx = N_CTX,
                              .n_parallel = 4,
                              .max_batch = 64,
                              .kv_type = kv_type};
    snprintf(dir, sizeof dir, "%s/%s", models_dir(), g->name);
    lm_status st = lm_model_open(&m, backend, dir, &config, &err);
    if (st == LM_NOT_FOUND)
        fail_msg("%s\nMake the models: python3 " LM_SOURCE_DIR "/tests/golden/make_models.py %s", err.text,
                 models_dir());
    expect_ok(st, err);
    return m;
}

static inline lm_seq *open_seq(lm_model *m) {
    lm_seq *seq = NULL;
    lm_err err = {0};
    expect_ok(lm_model_backend(m)->seq_open(lm_model_device(m), &seq, &err), err);
    return seq;
}

static inline const float *step(lm_model *m, const lm_slice *slices, uint32_t n_slices, const int32_t *tokens,
                                const uint32_t *rows, uint32_t n_rows) {
    const float *logits = NULL;
    lm_err err = {0};
    expect_ok(lm_model_step(m, slices, n_slices, tokens, rows, n_rows, &logits, &err), err);
    return logits;
}

/* Largest difference, relative; NaN counts as infinite. */
static inline double distance(const golden *g, const float *got, const float *want) {
    double most = 0;
    for (uint32_t i = 0; i < g->n_vocab; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d <= most)) most = isfinite(d) ? d : (double)INFINITY;
    }
    return most / g->largest;
}

static inline double distance_rms(const golden *g, const float *got, const float *want) {
    double off = 0, all = 0;
    for (uint32_t i = 0; i < g->n_vocab; i++) {
        double d = (double)got[i] - want[i];
        off += d * d;
        all += (double)want[i] * want[i];
    }
    return isfinite(off) ? sqrt(off / all) : (double)INFINITY;
}

static inline int32_t best(const float *logits, uint32_t n) {
    uint32_t at = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[at]) at = i;
    return (int32_t)at;
}

static inline bool is_moe(const lm_model *m) {
    return lm_model_get_info(m)->n_experts > 0;
}

#endif
