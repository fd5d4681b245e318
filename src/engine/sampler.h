/* sampler.h - from a row of logits to the next token, by Ollama's options in llama.cpp's order:
 * biases, penalties, grammar mask, top_k, typical_p, top_p, min_p, temperature, draw.
 *
 * The n-th draw of a sequence depends on its seed, n and its own logits alone, never on what else is in the
 * batch. Threads: a sampler belongs to its sequence; the scratch to the step thread of a model, which lends
 * it to each in turn.
 */
#ifndef LM_ENGINE_SAMPLER_H
#define LM_ENGINE_SAMPLER_H

#include "engine/engine.h"
#include "engine/select.h"

#define LM_TOP_MOST 20 /* log probabilities of other tokens than the chosen one */

/* Work space for one row, shared by all sequences of a model. */
typedef struct lm_scratch {
    uint32_t n_vocab;
    float *row;       /* (n_vocab) logits after biases, penalties and mask */
    lm_cand *a, *b;   /* (n_vocab) each */
    float *maxima;    /* 2 * (n_vocab / LM_SELECT_BLOCK + 1) */
    uint32_t *counts; /* (n_vocab) how often a token is in the penalty window; all zero between calls */
    int32_t top_ids[LM_TOP_MOST]; /* what the last lm_picked points to */
    float top_logprobs[LM_TOP_MOST];
} lm_scratch;

lm_status lm_scratch_init(lm_scratch *s, uint32_t n_vocab, lm_err *err) LM_CHECKED; /* LM_NO_MEMORY */
void lm_scratch_release(lm_scratch *s);

typedef struct lm_sampler {
    lm_options o;
    uint64_t seed;
    uint64_t n_drawn;
    uint32_t window;       /* tokens that the penalties look at, 0: none */
    const lm_bias *biases; /* (n_biases) the request's, which outlives the sampler; set after init */
    uint32_t n_biases;
} lm_sampler;

/* n_ctx stands for repeat_last_n = -1. A negative seed is replaced by a random one. */
void lm_sampler_init(lm_sampler *s, const lm_options *o, uint32_t n_ctx);

/* tokens: the sequence so far, for the penalties. mask: one bit a token, NULL when all are allowed.
 * LM_INTERNAL: no number above -infinity, or an infinite one. */
lm_status lm_sampler_pick(lm_sampler *s, lm_scratch *w, const float *logits, const int32_t *tokens,
                          uint32_t n_tokens, const uint32_t *mask, int32_t *id, lm_err *err) LM_CHECKED;

/* The same choice as an order for a backend that makes it itself; what it points to stays the caller's. The
 * last of the tokens may be LM_FROM_BEFORE. The draw is number s->n_drawn, which the caller counts. */
void lm_sampler_order(const lm_sampler *s, const int32_t *tokens, uint32_t n_tokens, const uint32_t *mask,
                      lm_pick *out);
/* What the backend has chosen, checked: LM_INTERNAL as above. */
lm_status lm_sampler_check(const lm_picked *p, bool masked, lm_err *err) LM_CHECKED;

/* What is left after the filters, with its probabilities (w->a), and how many: the distribution that pick
 * draws from. For pick and for tests. */
lm_status lm_sampler_filter(const lm_sampler *s, lm_scratch *w, const float *logits, const int32_t *tokens,
                            uint32_t n_tokens, const uint32_t *mask, uint32_t *n, lm_err *err) LM_CHECKED;

/* The first of n candidates in w->a at which the sum of probabilities exceeds u. */
int32_t lm_sampler_draw(const lm_scratch *w, uint32_t n, double u);

/* Fills p->logprob and the n_top best, in the model's own distribution (no penalties, mask or temperature),
 * for p->id. What p points to is valid until the next call. */
void lm_sampler_logprobs(lm_scratch *w, const float *logits, uint32_t n_top, lm_picked *p);

/* The n-th number of a seed, uniform in [0, 1). */
double lm_sampler_uniform(uint64_t seed, uint64_t n);

#endif
