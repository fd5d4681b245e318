/* attention_lanes.h with AVX2: eight lanes, sixteen registers. */
#include "avx2.h"

#define INLINE static inline __attribute__((always_inline))

typedef __m256 vec;
enum { LANES = 8, TILE_Q = 6, TILE_V = 2 };

INLINE uint32_t few_vectors(uint32_t nq) {
    return nq <= 3 ? 3 : 2;
}

INLINE vec v_load(const float *p) {
    return _mm256_loadu_ps(p);
}
INLINE void v_store(float *p, vec v) {
    _mm256_storeu_ps(p, v);
}
INLINE vec v_set(float x) {
    return _mm256_set1_ps(x);
}
INLINE vec v_add(vec a, vec b) {
    return _mm256_add_ps(a, b);
}
INLINE vec v_sub(vec a, vec b) {
    return _mm256_sub_ps(a, b);
}
INLINE vec v_mul(vec a, vec b) {
    return _mm256_mul_ps(a, b);
}
INLINE vec v_div(vec a, vec b) {
    return _mm256_div_ps(a, b);
}
INLINE vec v_fma(vec sum, vec a, vec b) {
    return _mm256_fmadd_ps(a, b, sum);
}
INLINE vec v_max(vec a, vec b) {
    return _mm256_max_ps(a, b);
}
INLINE vec v_exp(vec x) {
    return avx2_exp(x);
}
INLINE float v_sum(vec v) {
    return avx2_sum(v);
}
INLINE float v_top(vec v) {
    return avx2_max(v);
}
INLINE vec v_load_f16(const uint16_t *p) {
    return avx2_load_f16(p);
}
INLINE float one_f16(uint16_t x) {
    return _cvtsh_ss(x);
}
INLINE vec v_alive(vec x, vec p) {
    return _mm256_and_ps(p, _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_NLT_UQ));
}
INLINE vec v_unless_pad(vec x, vec y) {
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, _mm256_set1_ps(-__builtin_inff()), _CMP_EQ_OQ));
}
INLINE void v_turn(vec r[LANES]) {
    vec t[LANES];
    for (int j = 0; j < 8; j += 2) {
        t[j] = _mm256_unpacklo_ps(r[j], r[j + 1]);
        t[j + 1] = _mm256_unpackhi_ps(r[j], r[j + 1]);
    }
    for (int j = 0; j < 8; j += 4) {
        r[j] = _mm256_shuffle_ps(t[j], t[j + 2], 0x44);
        r[j + 1] = _mm256_shuffle_ps(t[j], t[j + 2], 0xee);
        r[j + 2] = _mm256_shuffle_ps(t[j + 1], t[j + 3], 0x44);
        r[j + 3] = _mm256_shuffle_ps(t[j + 1], t[j + 3], 0xee);
    }
    for (int j = 0; j < 4; j++) {
        t[j] = _mm256_permute2f128_ps(r[j], r[j + 4], 0x20);
        t[j + 4] = _mm256_permute2f128_ps(r[j], r[j + 4], 0x31);
    }
    for (int j = 0; j < 8; j++) r[j] = t[j];
}

#include "attention_lanes.h"

void lm_attend_avx2(const float *q, uint32_t n_q, const void *k, const void *v, uint32_t n_keys,
                    uint32_t head_dim, float softcap, float *m, float *l, float *acc, float *scratch) {
    attend(q, n_q, k, v, n_keys, head_dim, softcap, m, l, acc, scratch);
}
