/* select.h - searches over a whole row of logits: the largest, the k largest, the sum of their exponentials.
 *
 * A row has up to a few hundred thousand numbers and is searched once a token and sequence, so these run over
 * blocks with plain loops that the compiler turns into SIMD. NaN never wins a comparison. Equal numbers: the
 * lower id first. Nothing here allocates.
 */
#ifndef LM_ENGINE_SELECT_H
#define LM_ENGINE_SELECT_H

#include "base/base.h"

#define LM_SELECT_BLOCK 64

typedef struct lm_cand {
    float logit;
    float key; /* what the heap orders by */
    float p;   /* probability, once computed */
    int32_t id;
} lm_cand;

/* Index of the largest number, -1 when none is above -infinity. */
int32_t lm_select_argmax(const float *x, uint32_t n);

/* The k largest (fewer when fewer are above -infinity) into out, best first; returns how many. out has room
 * for n, tmp for n, maxima for 2 * (n / LM_SELECT_BLOCK + 1). */
uint32_t lm_select_top(const float *x, uint32_t n, uint32_t k, lm_cand *out, lm_cand *tmp, float *maxima);

/* log(sum(exp(x))). The largest number of x is `max`, finite. */
double lm_select_logsumexp(const float *x, uint32_t n, float max);

/* A heap with the largest key (then the lowest id) on top. */
void lm_heap_make(lm_cand *h, uint32_t n);
lm_cand lm_heap_pop(lm_cand *h, uint32_t *n);

#endif
