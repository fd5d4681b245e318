/* One page of keys and values against a block of queries: the same two ways as attention_avx2.c, with four
 * lanes and twice the registers. Scores lie in scratch as (n_q, LM_KV_PAGE). */
#include "neon.h"
#include "vector.h"

#include <math.h>

#define MANY   8 /* queries from which turning the page to f32 pays */
#define INLINE static inline __attribute__((always_inline))

/* Scores of one query become weights; returns what the results so far are to be multiplied by. */
static float soften(float *scores, uint32_t n_keys, float softcap, float *m, float *l) {
    for (uint32_t j = n_keys; j % 4; j++) scores[j] = -INFINITY;
    if (softcap != 0) {
        for (uint32_t j = 0; j < n_keys; j += 4) {
            float32x4_t x = vld1q_f32(scores + j), e = neon_exp(vmulq_n_f32(x, -2 / softcap));
            float32x4_t t =
                vsubq_f32(vdivq_f32(vdupq_n_f32(2), vaddq_f32(vdupq_n_f32(1), e)), vdupq_n_f32(1));
            uint32x4_t pad = vceqq_f32(x, vdupq_n_f32(-INFINITY));
            vst1q_f32(scores + j, vbslq_f32(pad, x, vmulq_n_f32(t, softcap)));
        }
    }
    float32x4_t top = vdupq_n_f32(*m), sum = vdupq_n_f32(0);
    for (uint32_t j = 0; j < n_keys; j += 4) top = vmaxq_f32(top, vld1q_f32(scores + j));
    float new_top = vmaxvq_f32(top);
    for (uint32_t j = 0; j < n_keys; j += 4) {
        float32x4_t x = vsubq_f32(vld1q_f32(scores + j), vdupq_n_f32(new_top));
        uint32x4_t dead = vcltq_f32(x, vdupq_n_f32(-87.0f)); /* padding goes, NaN stays */
        float32x4_t p = vbslq_f32(dead, vdupq_n_f32(0), neon_exp(x));
        vst1q_f32(scores + j, p);
        sum = vaddq_f32(sum, p);
    }
    float factor = new_top == *m ? 1 : expf(*m - new_top);
    *l = *l * factor + vaddvq_f32(sum);
    *m = new_top;
    return factor;
}

/* ---- few queries: f16 turned in registers ----------------------------------------------------------------
 */

INLINE void few_dots(const float *q, const uint16_t *k, uint32_t dim, uint32_t nq, uint32_t nk,
                     float *scores) {
    float32x4_t sum[4][4];
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t j = 0; j < nk; j++) sum[i][j] = vdupq_n_f32(0);
    uint32_t d = 0;
    for (; d + 4 <= dim; d += 4) {
        float32x4_t x[4];
        for (uint32_t i = 0; i < nq; i++) x[i] = vld1q_f32(q + (size_t)i * dim + d);
        for (uint32_t j = 0; j < nk; j++) {
            float32x4_t key = neon_load_f16(k + (size_t)j * dim + d);
            for (uint32_t i = 0; i < nq; i++) sum[i][j] = vfmaq_f32(sum[i][j], x[i], key);
        }
    }
    for (uint32_t i = 0; i < nq; i++) {
        float *to = scores + (size_t)i * LM_KV_PAGE;
        for (uint32_t j = 0; j < nk; j++) {
            to[j] = vaddvq_f32(sum[i][j]);
            for (uint32_t t = d; t < dim; t++)
                to[j] += q[(size_t)i * dim + t] * neon_one_f16(k[(size_t)j * dim + t]);
        }
    }
}

INLINE void few_tile(const float *p, const uint16_t *v, uint32_t n_keys, uint32_t dim, uint32_t nq,
                     uint32_t nv, const float *factor, float *acc) {
    float32x4_t sum[4][4];
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t t = 0; t < nv; t++)
            sum[i][t] = vmulq_n_f32(vld1q_f32(acc + (size_t)i * dim + 4 * t), factor[i]);
    for (uint32_t j = 0; j < n_keys; j++) {
        float32x4_t x[4];
        for (uint32_t t = 0; t < nv; t++) x[t] = neon_load_f16(v + (size_t)j * dim + 4 * t);
        for (uint32_t i = 0; i < nq; i++)
            for (uint32_t t = 0; t < nv; t++)
                sum[i][t] = vfmaq_n_f32(sum[i][t], x[t], p[(size_t)i * LM_KV_PAGE + j]);
    }
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t t = 0; t < nv; t++) vst1q_f32(acc + (size_t)i * dim + 4 * t, sum[i][t]);
}

INLINE void few(const float *q, uint32_t nq, const uint16_t *k, const uint16_t *v, uint32_t n_keys,
                uint32_t dim, float softcap, float *m, float *l, float *acc, float *scores) {
    float factor[4];
    uint32_t j = 0, d = 0;
    for (; j + 4 <= n_keys; j += 4) few_dots(q, k + (size_t)j * dim, dim, nq, 4, scores + j);
    for (; j < n_keys; j++) few_dots(q, k + (size_t)j * dim, dim, nq, 1, scores + j);
    for (uint32_t i = 0; i < nq; i++)
        factor[i] = soften(scores + (size_t)i * LM_KV_PAGE, n_keys, softcap, &m[i], &l[i]);
    for (; d + 16 <= dim; d += 16) few_tile(scores, v + d, n_keys, dim, nq, 4, factor, acc + d);
    for (; d + 4 <= dim; d += 4) few_tile(scores, v + d, n_keys, dim, nq, 1, factor, acc + d);
    for (; d < dim; d++) {
        for (uint32_t i = 0; i < nq; i++) {
            float sum = acc[(size_t)i * dim + d] * factor[i];
            for (j = 0; j < n_keys; j++)
                sum += scores[(size_t)i * LM_KV_PAGE + j] * neon_one_f16(v[(size_t)j * dim + d]);
            acc[(size_t)i * dim + d] = sum;
        }
    }
}

/* ---- many queries: the page turned to f32 once -----------------------------------------------------------
 */

/* c (nq, 4 nv) = a (nq, n) · b (n, 4 nv), onto what c holds times factor (NULL: 0). */
INLINE void tile(const float *a, size_t a_stride, const float *b, size_t b_stride, uint32_t n, uint32_t nq,
                 uint32_t nv, const float *factor, float *c, size_t c_stride) {
    float32x4_t sum[4][4];
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t t = 0; t < nv; t++)
            sum[i][t] = factor ? vmulq_n_f32(vld1q_f32(c + i * c_stride + 4 * t), factor[i]) : vdupq_n_f32(0);
    for (uint32_t j = 0; j < n; j++) {
        float32x4_t x[4];
        for (uint32_t t = 0; t < nv; t++) x[t] = vld1q_f32(b + j * b_stride + 4 * t);
        for (uint32_t i = 0; i < nq; i++)
            for (uint32_t t = 0; t < nv; t++) sum[i][t] = vfmaq_n_f32(sum[i][t], x[t], a[i * a_stride + j]);
    }
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t t = 0; t < nv; t++) vst1q_f32(c + i * c_stride + 4 * t, sum[i][t]);
}

INLINE void tile_row(const float *a, size_t a_stride, const float *b, size_t b_stride, uint32_t n,
                     uint32_t nq, uint32_t width, const float *factor, float *c, size_t c_stride) {
    uint32_t d = 0;
    for (; d + 16 <= width; d += 16) tile(a, a_stride, b + d, b_stride, n, nq, 4, factor, c + d, c_stride);
    for (; d + 4 <= width; d += 4) tile(a, a_stride, b + d, b_stride, n, nq, 1, factor, c + d, c_stride);
    for (; d < width; d++) {
        for (uint32_t i = 0; i < nq; i++) {
            float sum = factor ? c[i * c_stride + d] * factor[i] : 0;
            for (uint32_t j = 0; j < n; j++) sum += a[i * a_stride + j] * b[j * b_stride + d];
            c[i * c_stride + d] = sum;
        }
    }
}

static void product(const float *a, size_t a_stride, const float *b, size_t b_stride, uint32_t n,
                    uint32_t n_q, uint32_t width, const float *factor, float *c, size_t c_stride) {
    uint32_t i = 0;
    for (; i + 4 <= n_q; i += 4)
        tile_row(a + i * a_stride, a_stride, b, b_stride, n, 4, width, factor ? factor + i : NULL,
                 c + i * c_stride, c_stride);
    for (; i < n_q; i++)
        tile_row(a + i * a_stride, a_stride, b, b_stride, n, 1, width, factor ? factor + i : NULL,
                 c + i * c_stride, c_stride);
}

#define BLOCK 96 /* queries whose factors are held at a time */

static void many(const float *q, uint32_t n_q, const uint16_t *k, const uint16_t *v, uint32_t n_keys,
                 uint32_t dim, float softcap, float *m, float *l, float *acc, float *scratch) {
    float *keys = scratch, *values = keys + (size_t)dim * LM_KV_PAGE,
          *scores = values + (size_t)dim * LM_KV_PAGE;
    for (uint32_t j = 0; j < n_keys; j++)
        for (uint32_t d = 0; d < dim; d++)
            keys[(size_t)d * LM_KV_PAGE + j] = neon_one_f16(k[(size_t)j * dim + d]);
    for (size_t i = 0; i < (size_t)n_keys * dim; i++) values[i] = neon_one_f16(v[i]);
    for (uint32_t i = 0; i < n_q; i += BLOCK) {
        float factor[BLOCK];
        uint32_t n = n_q - i < BLOCK ? n_q - i : BLOCK;
        product(q + (size_t)i * dim, dim, keys, LM_KV_PAGE, dim, n, n_keys, NULL, scores, LM_KV_PAGE);
        for (uint32_t j = 0; j < n; j++)
            factor[j] = soften(scores + (size_t)j * LM_KV_PAGE, n_keys, softcap, &m[i + j], &l[i + j]);
        product(scores, LM_KV_PAGE, values, dim, n_keys, n, dim, factor, acc + (size_t)i * dim, dim);
    }
}

void lm_attend_neon(const float *q, uint32_t n_q, const void *k, const void *v, uint32_t n_keys,
                    uint32_t head_dim, float softcap, float *m, float *l, float *acc, float *scratch) {
    if (n_q >= MANY) {
        many(q, n_q, k, v, n_keys, head_dim, softcap, m, l, acc, scratch);
        return;
    }
    uint32_t i = 0;
    for (; i + 4 <= n_q; i += 4)
        few(q + (size_t)i * head_dim, 4, k, v, n_keys, head_dim, softcap, m + i, l + i,
            acc + (size_t)i * head_dim, scratch);
    q += (size_t)i * head_dim;
    acc += (size_t)i * head_dim;
    if (n_q - i == 3) few(q, 3, k, v, n_keys, head_dim, softcap, m + i, l + i, acc, scratch);
    if (n_q - i == 2) few(q, 2, k, v, n_keys, head_dim, softcap, m + i, l + i, acc, scratch);
    if (n_q - i == 1) few(q, 1, k, v, n_keys, head_dim, softcap, m + i, l + i, acc, scratch);
}
