/* logits.h (tests only) - rows of logits like a model's, the same in every run. */
#ifndef LM_ENGINE_TESTS_LOGITS_H
#define LM_ENGINE_TESTS_LOGITS_H

#include <stdint.h>

static uint64_t rng_state = 88172645463325252u;

static double uniform(void) {
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (double)(rng_state >> 11) * 0x1p-53;
}

/* Most tokens improbable, a few in front: like a model's. */
static void fill_logits(float *x, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) x[i] = (float)(uniform() * 8 - 6);
    for (uint32_t i = 0; i < n / 50 + 3; i++) x[(uint32_t)(uniform() * n)] = (float)(uniform() * 14);
}

#endif
