/* matmul_avx512.h (private to cpu/matmul_avx512*) - the kernels behind lm_matmul_avx512, and what they share.
 *
 * matmul_avx512_test.c compiles the same files for a processor without AVX-512: there LM_AVX512_EMULATED is
 * defined and the intrinsics are SIMDe's.
 */
#ifndef LM_CPU_MATMUL_AVX512_H
#define LM_CPU_MATMUL_AVX512_H

#include "cpu/matmul_avx2.h"

enum {
    LM_AVX512_W = 4,    /* rows of W, */
    LM_AVX512_X = 4,    /* and rows of x in registers where columns are the lanes */
    LM_AVX512_FEW = 3,  /* up to so many rows of x it takes fewer instructions to add across the lanes of W's
                           rows once  for each than to lay W out in panels */
    LM_AVX512_SPAN = 8, /* groups whose scales are unpacked together */
};

lm_matmul_fn lm_matmul_avx512_direct; /* quantised, few rows of x */
lm_matmul_fn lm_matmul_avx512_many;   /* quantised, many */

/* The lanes of four registers added up, side by side. */
LM_INLINE __m128 sum_four(const __m512 v[4]) {
    __m256 half[4];
    for (int i = 0; i < 4; i++)
        half[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i]),
                                _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(v[i]), 1)));
    __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]), _mm256_hadd_ps(half[2], half[3]));
    return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

#endif
