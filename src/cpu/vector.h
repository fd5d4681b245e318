/* vector.h (private to cpu/) - the part of lm_kernels that is not products: one set of functions per feature
 * set, the tables of kernels.c pick from here. kernels.h says what each promises. Nothing needs alignment or
 * a multiple of anything.
 *
 * Exactness: the reference sums and gates in double. The others use a polynomial e^x within 2 ulp (clamped to
 * [-87.3, 88.3]); what they compute is within 1e-6 of the reference, relative, or 1e-7 absolute.
 */
#ifndef LM_CPU_VECTOR_H
#define LM_CPU_VECTOR_H

#include "kernels.h"

#define LM_VECTOR_SET(name)                                                                                  \
    void lm_rms_norm_##name(const float *x, const float *weight, uint32_t n, float eps, float *out);         \
    void lm_add_scaled_##name(float *x, const float *y, float scale, uint32_t n);                            \
    void lm_glu_##name(lm_glu act, const float *gate, const float *up, uint32_t n, float *out);              \
    void lm_rope_##name(float *x, uint32_t n_dims, bool interleaved, const float *cos_sin);                  \
    void lm_to_f16_##name(const float *x, uint32_t n, uint16_t *out);                                        \
    void lm_attend_##name(const float *q, uint32_t n_q, const void *k, const void *v, uint32_t n_keys,       \
                          uint32_t head_dim, float softcap, float *m, float *l, float *acc, float *scratch)

/* Not worth a version for each set: the portable one serves all but the reference. */
void lm_layer_norm_reference(const float *x, const float *weight, const float *bias, uint32_t n, float eps,
                             float *out);
void lm_layer_norm_portable(const float *x, const float *weight, const float *bias, uint32_t n, float eps,
                            float *out);

LM_VECTOR_SET(reference);
LM_VECTOR_SET(portable);
#if defined(__x86_64__)
LM_VECTOR_SET(avx2); /* and FMA, F16C; the set for AVX-512 has them too */
#endif
#if defined(__aarch64__)
LM_VECTOR_SET(neon);
#endif

#endif
