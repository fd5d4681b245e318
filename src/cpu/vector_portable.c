/* Plain C whose loops a compiler can turn into whatever vectors the machine has. */
#include "vector.h"

#include <math.h>
#include <string.h>

/* e^x as avx2.h does it. */
static inline float exp_fast(float x) {
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.3f ? 88.3f : x;
    float shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to an integer in the low bits */
    int32_t bits;
    memcpy(&bits, &shifted, 4);
    float n = shifted - 12582912.0f, r = x - n * 0.693145752f;
    r -= n * 1.42860677e-6f;
    float p = 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t scale = (uint32_t)(bits - 0x4b400000 + 127) << 23;
    float two_n;
    memcpy(&two_n, &scale, 4);
    return x == x ? p * two_n : x;
}

/* Eight sums side by side, joined in one order. */
static float join_sums(const float *sums) {
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

void lm_rms_norm_portable(const float *x, const float *weight, uint32_t n, float eps, float *out) {
    float sums[8] = {0};
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (uint32_t j = 0; j < 8; j++) sums[j] += x[i + j] * x[i + j];
    float sum = join_sums(sums);
    for (; i < n; i++) sum += x[i] * x[i];
    float factor = 1.0f / sqrtf(sum / (float)n + eps);
    if (weight)
        for (i = 0; i < n; i++) out[i] = x[i] * factor * weight[i];
    else
        for (i = 0; i < n; i++) out[i] = x[i] * factor;
}

void lm_layer_norm_portable(const float *x, const float *weight, const float *bias, uint32_t n, float eps,
                            float *out) {
    float sums[8] = {0}, squares[8] = {0};
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (uint32_t j = 0; j < 8; j++) sums[j] += x[i + j];
    float sum = join_sums(sums);
    for (; i < n; i++) sum += x[i];
    float mean = sum / (float)n;
    for (i = 0; i + 8 <= n; i += 8)
        for (uint32_t j = 0; j < 8; j++) squares[j] += (x[i + j] - mean) * (x[i + j] - mean);
    float square = join_sums(squares);
    for (; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    float factor = 1.0f / sqrtf(square / (float)n + eps);
    for (i = 0; i < n; i++) out[i] = (x[i] - mean) * factor * weight[i] + bias[i];
}

void lm_add_scaled_portable(float *x, const float *y, float scale, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) x[i] += scale * y[i];
}

static inline float glu_oss(float gate, float up) {
    gate = gate > 7 ? 7 : gate;
    up = up < -7 ? -7 : up > 7 ? 7 : up;
    return gate / (1 + exp_fast(-1.702f * gate)) * (up + 1);
}

void lm_glu_portable(lm_glu act, const float *gate, const float *up, uint32_t n, float *out) {
    switch (act) {
    case LM_GLU_SILU:
        for (uint32_t i = 0; i < n; i++) out[i] = gate[i] / (1 + exp_fast(-gate[i])) * up[i];
        break;
    case LM_GLU_GELU_TANH: /* 0.5 (1 + tanh z) is sigmoid(2 z) */
        for (uint32_t i = 0; i < n; i++) {
            float z = 0.7978845608f * gate[i] * (1 + 0.044715f * gate[i] * gate[i]);
            out[i] = gate[i] / (1 + exp_fast(-2 * z)) * up[i];
        }
        break;
    case LM_GLU_OSS:
        for (uint32_t i = 0; i < n; i++) out[i] = glu_oss(gate[i], up[i]);
        break;
    case LM_GLU_GELU: lm_glu_reference(act, gate, up, n, out); break;
    }
}

void lm_rope_portable(float *x, uint32_t n_dims, bool interleaved, const float *cos_sin) {
    lm_rope_reference(x, n_dims, interleaved, cos_sin);
}

void lm_to_f16_portable(const float *x, uint32_t n, uint16_t *out) {
    lm_to_f16_reference(x, n, out);
}

/* ---- attention ------------------------------------------------------------------------------------------- */

static float soften(float *scores, uint32_t n_keys, float softcap, float *m, float *l) {
    float top = *m, sum = 0;
    if (softcap != 0)
        for (uint32_t j = 0; j < n_keys; j++)
            scores[j] = softcap * (2 / (1 + exp_fast(-2 / softcap * scores[j])) - 1);
    for (uint32_t j = 0; j < n_keys; j++) top = scores[j] > top ? scores[j] : top;
    for (uint32_t j = 0; j < n_keys; j++) {
        float x = scores[j] - top;
        scores[j] = x < -87.0f ? 0 : exp_fast(x);
        sum += scores[j];
    }
    float factor = top == *m ? 1 : expf(*m - top);
    *l = *l * factor + sum;
    *m = top;
    return factor;
}

/* The page to f32 once: keys across, so that the inner loop runs over keys, values as they are. */
void lm_attend_portable(const float *q, uint32_t n_q, const void *k, const void *v, uint32_t n_keys,
                        uint32_t head_dim, float softcap, float *m, float *l, float *acc, float *scratch) {
    const uint16_t *k16 = k, *v16 = v;
    float *keys = scratch, *values = keys + (size_t)head_dim * LM_KV_PAGE,
          *scores = values + (size_t)head_dim * LM_KV_PAGE;
    for (uint32_t j = 0; j < n_keys; j++)
        for (uint32_t d = 0; d < head_dim; d++)
            keys[(size_t)d * LM_KV_PAGE + j] = lm_f16_to_f32(k16[(size_t)j * head_dim + d]);
    for (size_t i = 0; i < (size_t)n_keys * head_dim; i++) values[i] = lm_f16_to_f32(v16[i]);
    for (uint32_t i = 0; i < n_q; i++) {
        const float *x = q + (size_t)i * head_dim;
        float *to = acc + (size_t)i * head_dim;
        for (uint32_t j = 0; j < n_keys; j++) scores[j] = 0;
        for (uint32_t d = 0; d < head_dim; d++)
            for (uint32_t j = 0; j < n_keys; j++) scores[j] += x[d] * keys[(size_t)d * LM_KV_PAGE + j];
        float factor = soften(scores, n_keys, softcap, &m[i], &l[i]);
        for (uint32_t d = 0; d < head_dim; d++) to[d] *= factor;
        for (uint32_t j = 0; j < n_keys; j++)
            for (uint32_t d = 0; d < head_dim; d++) to[d] += scores[j] * values[(size_t)j * head_dim + d];
    }
}
