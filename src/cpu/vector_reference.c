/* The meaning of every function, in the order that the formulas are written in. */
#include "vector.h"

#include <math.h>

void lm_rms_norm_reference(const float *x, const float *weight, uint32_t n, float eps, float *out) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
    float factor = 1.0f / sqrtf((float)(sum / n) + eps);
    for (uint32_t i = 0; i < n; i++) out[i] = weight ? x[i] * factor * weight[i] : x[i] * factor;
}

void lm_layer_norm_reference(const float *x, const float *weight, const float *bias, uint32_t n, float eps,
                             float *out) {
    double sum = 0, square = 0;
    for (uint32_t i = 0; i < n; i++) sum += (double)x[i];
    double mean = sum / n;
    for (uint32_t i = 0; i < n; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean);
    double factor = 1 / sqrt(square / n + (double)eps);
    for (uint32_t i = 0; i < n; i++)
        out[i] = (float)(((double)x[i] - mean) * factor * (double)weight[i] + (double)bias[i]);
}

void lm_add_scaled_reference(float *x, const float *y, float scale, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) x[i] += scale * y[i];
}

static double clamp(double x, double lo, double hi) {
    return x < lo ? lo : x > hi ? hi : x;
}

/* In double: 1 + tanh and 1 + erf cancel for negative gates. */
static double glu(lm_glu act, double gate, double up) {
    switch (act) {
    case LM_GLU_SILU: return gate / (1 + exp(-gate)) * up;
    case LM_GLU_GELU_TANH:
        return 0.5 * gate * (1 + tanh(0.79788456080286536 * (gate + 0.044715 * gate * gate * gate))) * up;
    case LM_GLU_GELU: return 0.5 * gate * erfc(-gate * 0.70710678118654752) * up;
    case LM_GLU_OSS:
        gate = gate > 7 ? 7 : gate;
        return gate / (1 + exp(-1.702 * gate)) * (clamp(up, -7, 7) + 1);
    }
    return 0;
}

void lm_glu_reference(lm_glu act, const float *gate, const float *up, uint32_t n, float *out) {
    for (uint32_t i = 0; i < n; i++) out[i] = (float)glu(act, (double)gate[i], (double)up[i]);
}

void lm_rope_reference(float *x, uint32_t n_dims, bool interleaved, const float *cos_sin) {
    uint32_t half = n_dims / 2;
    for (uint32_t i = 0; i < half; i++) {
        float *a = interleaved ? x + 2 * i : x + i, *b = interleaved ? a + 1 : a + half;
        float c = cos_sin[i], s = cos_sin[half + i], old = *a;
        *a = old * c - *b * s;
        *b = old * s + *b * c;
    }
}

void lm_to_f16_reference(const float *x, uint32_t n, uint16_t *out) {
    for (uint32_t i = 0; i < n; i++) out[i] = lm_f32_to_f16(x[i]);
}

/* Keys and values are f32 here (kv_f32). */
void lm_attend_reference(const float *q, uint32_t n_q, const void *k, const void *v, uint32_t n_keys,
                         uint32_t head_dim, float softcap, float *m, float *l, float *acc, float *scratch) {
    const float *keys = k, *values = v;
    for (uint32_t i = 0; i < n_q; i++) {
        float top = m[i];
        for (uint32_t j = 0; j < n_keys; j++) {
            double dot = 0;
            for (uint32_t d = 0; d < head_dim; d++)
                dot += (double)q[(size_t)i * head_dim + d] * keys[(size_t)j * head_dim + d];
            scratch[j] = softcap != 0 ? softcap * tanhf((float)dot / softcap) : (float)dot;
            top = scratch[j] > top ? scratch[j] : top;
        }
        float factor = expf(m[i] - top);
        float *sum = acc + (size_t)i * head_dim;
        for (uint32_t d = 0; d < head_dim; d++) sum[d] *= factor;
        l[i] *= factor;
        m[i] = top;
        for (uint32_t j = 0; j < n_keys; j++) {
            float p = expf(scratch[j] - top);
            l[i] += p;
            for (uint32_t d = 0; d < head_dim; d++) sum[d] += p * values[(size_t)j * head_dim + d];
        }
    }
}
