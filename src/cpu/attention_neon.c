/* attention_lanes.h with NEON: four lanes, thirty-two registers. */
#include "neon.h"

#define INLINE static inline __attribute__((always_inline))

typedef float32x4_t vec;
enum { LANES = 4, TILE_Q = 4, TILE_V = 4 };

INLINE uint32_t few_vectors(uint32_t nq) {
    (void)nq;
    return 4;
}

INLINE vec v_load(const float *p) {
    return vld1q_f32(p);
}
INLINE void v_store(float *p, vec v) {
    vst1q_f32(p, v);
}
INLINE vec v_set(float x) {
    return vdupq_n_f32(x);
}
INLINE vec v_add(vec a, vec b) {
    return vaddq_f32(a, b);
}
INLINE vec v_sub(vec a, vec b) {
    return vsubq_f32(a, b);
}
INLINE vec v_mul(vec a, vec b) {
    return vmulq_f32(a, b);
}
INLINE vec v_div(vec a, vec b) {
    return vdivq_f32(a, b);
}
INLINE vec v_fma(vec sum, vec a, vec b) {
    return vfmaq_f32(sum, a, b);
}
INLINE vec v_max(vec a, vec b) {
    return vmaxq_f32(a, b);
}
INLINE vec v_exp(vec x) {
    return neon_exp(x);
}
INLINE float v_sum(vec v) {
    return vaddvq_f32(v);
}
INLINE float v_top(vec v) {
    return vmaxvq_f32(v);
}
INLINE vec v_load_f16(const uint16_t *p) {
    return neon_load_f16(p);
}
INLINE float one_f16(uint16_t x) {
    return neon_one_f16(x);
}
INLINE vec v_alive(vec x, vec p) {
    return vbslq_f32(vcltq_f32(x, vdupq_n_f32(-87.0f)), vdupq_n_f32(0), p);
}
INLINE vec v_unless_pad(vec x, vec y) {
    return vbslq_f32(vceqq_f32(x, vdupq_n_f32(-__builtin_inff())), x, y);
}
INLINE void v_turn(vec r[LANES]) {
    float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1])),
                b = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
    float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3])),
                d = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
    r[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    r[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    r[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    r[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

#include "attention_lanes.h"

void lm_attend_neon(const float *q, uint32_t n_q, const void *k, const void *v, uint32_t n_keys,
                    uint32_t head_dim, float softcap, float *m, float *l, float *acc, float *scratch) {
    attend(q, n_q, k, v, n_keys, head_dim, softcap, m, l, acc, scratch);
}
