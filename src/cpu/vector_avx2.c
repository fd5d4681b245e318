/* Eight floats at a time; tails go through masked loads and stores, which touch no memory outside the row. */
#include "avx2.h"
#include "vector.h"

#include <math.h>

static inline __m256 load(const float *x, uint32_t n) {
    return n >= 8 ? _mm256_loadu_ps(x) : _mm256_maskload_ps(x, avx2_mask(n));
}

static inline void store(float *x, uint32_t n, __m256 v) {
    if (n >= 8)
        _mm256_storeu_ps(x, v);
    else
        _mm256_maskstore_ps(x, avx2_mask(n), v);
}

void lm_rms_norm_avx2(const float *x, const float *weight, uint32_t n, float eps, float *out) {
    __m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    uint32_t i = 0;
    for (; i + 32 <= n; i += 32) {
        for (int j = 0; j < 4; j++) {
            __m256 v = _mm256_loadu_ps(x + i + 8 * j);
            s[j] = _mm256_fmadd_ps(v, v, s[j]);
        }
    }
    for (; i < n; i += 8) {
        __m256 v = load(x + i, n - i);
        s[0] = _mm256_fmadd_ps(v, v, s[0]);
    }
    float sum = avx2_sum(_mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
    __m256 factor = _mm256_set1_ps(1.0f / sqrtf(sum / (float)n + eps));
    for (i = 0; i < n; i += 8) {
        __m256 v = _mm256_mul_ps(load(x + i, n - i), factor);
        store(out + i, n - i, weight ? _mm256_mul_ps(v, load(weight + i, n - i)) : v);
    }
}

void lm_add_scaled_avx2(float *x, const float *y, float scale, uint32_t n) {
    __m256 f = _mm256_set1_ps(scale);
    for (uint32_t i = 0; i < n; i += 8)
        store(x + i, n - i, _mm256_fmadd_ps(f, load(y + i, n - i), load(x + i, n - i)));
}

/* gate * sigmoid(factor), by e^-factor */
static inline __m256 gated(__m256 gate, __m256 factor) {
    __m256 e = avx2_exp(_mm256_sub_ps(_mm256_setzero_ps(), factor));
    return _mm256_div_ps(gate, _mm256_add_ps(_mm256_set1_ps(1), e));
}

static inline __m256 glu_silu(__m256 g, __m256 u) {
    return _mm256_mul_ps(gated(g, g), u);
}

/* 0.5 (1 + tanh z) is sigmoid(2 z). */
static inline __m256 glu_gelu_tanh(__m256 g, __m256 u) {
    __m256 cubic = _mm256_fmadd_ps(_mm256_mul_ps(g, g), _mm256_set1_ps(2 * 0.7978845608f * 0.044715f),
                                   _mm256_set1_ps(2 * 0.7978845608f));
    return _mm256_mul_ps(gated(g, _mm256_mul_ps(g, cubic)), u);
}

static inline __m256 glu_oss(__m256 g, __m256 u) {
    g = _mm256_min_ps(_mm256_set1_ps(7), g);
    u = _mm256_max_ps(_mm256_set1_ps(-7), _mm256_min_ps(_mm256_set1_ps(7), u));
    return _mm256_mul_ps(gated(g, _mm256_mul_ps(g, _mm256_set1_ps(1.702f))),
                         _mm256_add_ps(u, _mm256_set1_ps(1)));
}

void lm_glu_avx2(lm_glu act, const float *gate, const float *up, uint32_t n, float *out) {
    switch (act) {
    case LM_GLU_SILU:
        for (uint32_t i = 0; i < n; i += 8)
            store(out + i, n - i, glu_silu(load(gate + i, n - i), load(up + i, n - i)));
        break;
    case LM_GLU_GELU_TANH:
        for (uint32_t i = 0; i < n; i += 8)
            store(out + i, n - i, glu_gelu_tanh(load(gate + i, n - i), load(up + i, n - i)));
        break;
    case LM_GLU_OSS:
        for (uint32_t i = 0; i < n; i += 8)
            store(out + i, n - i, glu_oss(load(gate + i, n - i), load(up + i, n - i)));
        break;
    case LM_GLU_GELU: /* hardly any model has it: erff of the C library */
        lm_glu_reference(act, gate, up, n, out);
        break;
    }
}

static void rope_halves(float *x, uint32_t half, const float *cos_sin) {
    for (uint32_t i = 0; i < half; i += 8) {
        uint32_t n = half - i;
        __m256 a = load(x + i, n), b = load(x + half + i, n), c = load(cos_sin + i, n),
               s = load(cos_sin + half + i, n);
        store(x + i, n, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        store(x + half + i, n, _mm256_fmadd_ps(a, s, _mm256_mul_ps(b, c)));
    }
}

void lm_rope_avx2(float *x, uint32_t n_dims, bool interleaved, const float *cos_sin) {
    uint32_t half = n_dims / 2, i = 0;
    if (!interleaved) {
        rope_halves(x, half, cos_sin);
        return;
    }
    for (; i + 4 <= half; i += 4) {
        __m256 v = _mm256_loadu_ps(x + 2 * i), swapped = _mm256_permute_ps(v, 0xb1);
        const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
        __m256 c = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(cos_sin + i)), twice);
        __m256 s = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(cos_sin + half + i)), twice);
        _mm256_storeu_ps(x + 2 * i, _mm256_fmaddsub_ps(v, c, _mm256_mul_ps(swapped, s)));
    }
    for (; i < half; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = a * cos_sin[i] - b * cos_sin[half + i];
        x[2 * i + 1] = a * cos_sin[half + i] + b * cos_sin[i];
    }
}

void lm_to_f16_avx2(const float *x, uint32_t n, uint16_t *out) {
    uint32_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm_storeu_si128(
            (__m128i *)(void *)(out + i),
            _mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    for (; i < n; i++) out[i] = _cvtss_sh(x[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
