/* Four floats at a time; what is left at the end of a row goes one by one through the same formulas. */
#include "neon.h"
#include "vector.h"

#include <math.h>

void lm_rms_norm_neon(const float *x, const float *weight, uint32_t n, float eps, float *out) {
    float32x4_t s[4] = {vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0), vdupq_n_f32(0)};
    uint32_t i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int j = 0; j < 4; j++) {
            float32x4_t v = vld1q_f32(x + i + 4 * j);
            s[j] = vfmaq_f32(s[j], v, v);
        }
    }
    float sum = vaddvq_f32(vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3])));
    for (; i < n; i++) sum += x[i] * x[i];
    float factor = 1.0f / sqrtf(sum / (float)n + eps);
    for (i = 0; i + 4 <= n; i += 4) {
        float32x4_t v = vmulq_n_f32(vld1q_f32(x + i), factor);
        vst1q_f32(out + i, weight ? vmulq_f32(v, vld1q_f32(weight + i)) : v);
    }
    for (; i < n; i++) out[i] = weight ? x[i] * factor * weight[i] : x[i] * factor;
}

void lm_add_scaled_neon(float *x, const float *y, float scale, uint32_t n) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(x + i, vfmaq_n_f32(vld1q_f32(x + i), vld1q_f32(y + i), scale));
    for (; i < n; i++) x[i] = fmaf(scale, y[i], x[i]);
}

/* gate * sigmoid(factor), by e^-factor */
static inline float32x4_t gated(float32x4_t gate, float32x4_t factor) {
    return vdivq_f32(gate, vaddq_f32(vdupq_n_f32(1), neon_exp(vnegq_f32(factor))));
}

static inline float32x4_t glu_one(lm_glu act, float32x4_t g, float32x4_t u) {
    switch (act) {
    case LM_GLU_GELU_TANH: { /* 0.5 (1 + tanh z) is sigmoid(2 z) */
        float32x4_t cubic =
            vfmaq_n_f32(vdupq_n_f32(2 * 0.7978845608f), vmulq_f32(g, g), 2 * 0.7978845608f * 0.044715f);
        return vmulq_f32(gated(g, vmulq_f32(g, cubic)), u);
    }
    case LM_GLU_OSS:
        g = vminq_f32(vdupq_n_f32(7), g);
        u = vmaxq_f32(vdupq_n_f32(-7), vminq_f32(vdupq_n_f32(7), u));
        return vmulq_f32(gated(g, vmulq_n_f32(g, 1.702f)), vaddq_f32(u, vdupq_n_f32(1)));
    default: return vmulq_f32(gated(g, g), u);
    }
}

void lm_glu_neon(lm_glu act, const float *gate, const float *up, uint32_t n, float *out) {
    if (act == LM_GLU_GELU) { /* hardly any model has it: the C library's */
        lm_glu_reference(act, gate, up, n, out);
        return;
    }
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) vst1q_f32(out + i, glu_one(act, vld1q_f32(gate + i), vld1q_f32(up + i)));
    for (; i < n; i++) out[i] = vgetq_lane_f32(glu_one(act, vdupq_n_f32(gate[i]), vdupq_n_f32(up[i])), 0);
}

void lm_rope_neon(float *x, uint32_t n_dims, bool interleaved, const float *cos_sin) {
    uint32_t half = n_dims / 2, i = 0;
    for (; i + 4 <= half; i += 4) {
        float32x4_t c = vld1q_f32(cos_sin + i), s = vld1q_f32(cos_sin + half + i);
        float32x4x2_t v;
        if (interleaved)
            v = vld2q_f32(x + 2 * i);
        else
            v = (float32x4x2_t){{vld1q_f32(x + i), vld1q_f32(x + half + i)}};
        float32x4x2_t t = {
            {vfmsq_f32(vmulq_f32(v.val[0], c), v.val[1], s), vfmaq_f32(vmulq_f32(v.val[1], c), v.val[0], s)}};
        if (interleaved) {
            vst2q_f32(x + 2 * i, t);
        } else {
            vst1q_f32(x + i, t.val[0]);
            vst1q_f32(x + half + i, t.val[1]);
        }
    }
    for (; i < half; i++) {
        float *a = interleaved ? x + 2 * i : x + i, *b = interleaved ? a + 1 : a + half;
        float old = *a;
        *a = old * cos_sin[i] - *b * cos_sin[half + i];
        *b = old * cos_sin[half + i] + *b * cos_sin[i];
    }
}

void lm_to_f16_neon(const float *x, uint32_t n, uint16_t *out) {
    uint32_t i = 0;
    for (; i + 4 <= n; i += 4) vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
    for (; i < n; i++) out[i] = lm_f32_to_f16(x[i]);
}
