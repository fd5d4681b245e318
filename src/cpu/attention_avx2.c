/* One page of keys and values against a block of queries.
 *
 * Few queries (decode: the heads of one kv head): keys and values are turned from f16 in registers, once per
 * four queries. Many (a prompt): the page is turned to f32 once, keys across, and both products run as small
 * matrix products of 6 x 16. Between them the same running softmax. Scores lie in scratch as (n_q,
 * LM_KV_PAGE).
 */
#include "avx2.h"
#include "vector.h"

#include <math.h>

#define MANY   8 /* queries from which turning the page pays */
#define INLINE static inline __attribute__((always_inline))

/* ---- softmax ---------------------------------------------------------------------------------------------
 */

/* Scores of one query become weights; returns what the results so far are to be multiplied by. */
static float soften(float *scores, uint32_t n_keys, float softcap, float *m, float *l) {
    for (uint32_t j = n_keys; j % 8; j++) scores[j] = -INFINITY;
    __m256 top = _mm256_set1_ps(*m);
    if (softcap != 0) {
        __m256 scale = _mm256_set1_ps(-2 / softcap), cap = _mm256_set1_ps(softcap), one = _mm256_set1_ps(1);
        for (uint32_t j = 0; j < n_keys; j += 8) {
            /* tanh z = 2 / (1 + e^-2z) - 1; the padding stays below everything */
            __m256 x = _mm256_loadu_ps(scores + j), e = avx2_exp(_mm256_mul_ps(x, scale));
            __m256 t = _mm256_sub_ps(_mm256_div_ps(_mm256_set1_ps(2), _mm256_add_ps(one, e)), one);
            __m256 pad = _mm256_cmp_ps(x, _mm256_set1_ps(-INFINITY), _CMP_EQ_OQ);
            _mm256_storeu_ps(scores + j, _mm256_blendv_ps(_mm256_mul_ps(t, cap), x, pad));
        }
    }
    for (uint32_t j = 0; j < n_keys; j += 8) top = _mm256_max_ps(top, _mm256_loadu_ps(scores + j));
    float new_top = avx2_max(top);
    __m256 shift = _mm256_set1_ps(new_top), sum = _mm256_setzero_ps();
    for (uint32_t j = 0; j < n_keys; j += 8) {
        __m256 x = _mm256_sub_ps(_mm256_loadu_ps(scores + j), shift);
        __m256 live =
            _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_NLT_UQ); /* not below: padding goes, NaN stays */
        __m256 p = _mm256_and_ps(avx2_exp(x), live);
        _mm256_storeu_ps(scores + j, p);
        sum = _mm256_add_ps(sum, p);
    }
    float factor = new_top == *m ? 1 : expf(*m - new_top);
    *l = *l * factor + avx2_sum(sum);
    *m = new_top;
    return factor;
}

/* ---- few queries -----------------------------------------------------------------------------------------
 */

/* Dot products of nq queries with nk keys; nq, nk are constants after inlining. */
INLINE void few_dots(const float *q, const uint16_t *k, uint32_t dim, uint32_t nq, uint32_t nk,
                     float *scores) {
    __m256 sum[4][4];
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t j = 0; j < nk; j++) sum[i][j] = _mm256_setzero_ps();
    uint32_t d = 0;
    for (; d + 8 <= dim; d += 8) {
        __m256 x[4];
        for (uint32_t i = 0; i < nq; i++) x[i] = _mm256_loadu_ps(q + (size_t)i * dim + d);
        for (uint32_t j = 0; j < nk; j++) {
            __m256 key = avx2_load_f16(k + (size_t)j * dim + d);
            for (uint32_t i = 0; i < nq; i++) sum[i][j] = _mm256_fmadd_ps(x[i], key, sum[i][j]);
        }
    }
    for (uint32_t i = 0; i < nq; i++) {
        float *to = scores + (size_t)i * LM_KV_PAGE;
        if (nk == 4)
            _mm_storeu_ps(to, avx2_sum4(sum[i][0], sum[i][1], sum[i][2], sum[i][3]));
        else
            for (uint32_t j = 0; j < nk; j++) to[j] = avx2_sum(sum[i][j]);
        for (uint32_t t = d; t < dim; t++)
            for (uint32_t j = 0; j < nk; j++)
                to[j] += q[(size_t)i * dim + t] * _cvtsh_ss(k[(size_t)j * dim + t]);
    }
}

INLINE void few_scores(const float *q, const uint16_t *k, uint32_t n_keys, uint32_t dim, uint32_t nq,
                       float *scores) {
    uint32_t j = 0, step = nq <= 3 ? 4 : 2; /* sums that fit the sixteen registers */
    for (; j + step <= n_keys; j += step) {
        if (nq <= 3)
            few_dots(q, k + (size_t)j * dim, dim, nq, 4, scores + j);
        else
            few_dots(q, k + (size_t)j * dim, dim, nq, 2, scores + j);
    }
    for (; j < n_keys; j++) few_dots(q, k + (size_t)j * dim, dim, nq, 1, scores + j);
}

/* nv vectors of each query's result at column d. */
INLINE void few_tile(const float *p, const uint16_t *v, uint32_t n_keys, uint32_t dim, uint32_t nq,
                     uint32_t nv, const float *factor, float *acc) {
    __m256 sum[4][4];
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t t = 0; t < nv; t++)
            sum[i][t] =
                _mm256_mul_ps(_mm256_loadu_ps(acc + (size_t)i * dim + 8 * t), _mm256_set1_ps(factor[i]));
    for (uint32_t j = 0; j < n_keys; j++) {
        __m256 x[4];
        for (uint32_t t = 0; t < nv; t++) x[t] = avx2_load_f16(v + (size_t)j * dim + 8 * t);
        for (uint32_t i = 0; i < nq; i++) {
            __m256 weight = _mm256_broadcast_ss(p + (size_t)i * LM_KV_PAGE + j);
            for (uint32_t t = 0; t < nv; t++) sum[i][t] = _mm256_fmadd_ps(weight, x[t], sum[i][t]);
        }
    }
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t t = 0; t < nv; t++) _mm256_storeu_ps(acc + (size_t)i * dim + 8 * t, sum[i][t]);
}

INLINE void few_values(const float *p, const uint16_t *v, uint32_t n_keys, uint32_t dim, uint32_t nq,
                       const float *factor, float *acc) {
    uint32_t d = 0;
    if (nq <= 3)
        for (; d + 24 <= dim; d += 24) few_tile(p, v + d, n_keys, dim, nq, 3, factor, acc + d);
    for (; d + 16 <= dim; d += 16) few_tile(p, v + d, n_keys, dim, nq, 2, factor, acc + d);
    for (; d + 8 <= dim; d += 8) few_tile(p, v + d, n_keys, dim, nq, 1, factor, acc + d);
    for (; d < dim; d++) {
        for (uint32_t i = 0; i < nq; i++) {
            float sum = acc[(size_t)i * dim + d] * factor[i];
            for (uint32_t j = 0; j < n_keys; j++)
                sum += p[(size_t)i * LM_KV_PAGE + j] * _cvtsh_ss(v[(size_t)j * dim + d]);
            acc[(size_t)i * dim + d] = sum;
        }
    }
}

INLINE void few(const float *q, uint32_t nq, const uint16_t *k, const uint16_t *v, uint32_t n_keys,
                uint32_t dim, float softcap, float *m, float *l, float *acc, float *scores) {
    float factor[4];
    few_scores(q, k, n_keys, dim, nq, scores);
    for (uint32_t i = 0; i < nq; i++)
        factor[i] = soften(scores + (size_t)i * LM_KV_PAGE, n_keys, softcap, &m[i], &l[i]);
    few_values(scores, v, n_keys, dim, nq, factor, acc);
}

/* ---- many queries ----------------------------------------------------------------------------------------
 */

/* Keys to f32, across: (head_dim, LM_KV_PAGE), columns beyond n_keys 0. */
static void turn_keys(const uint16_t *k, uint32_t n_keys, uint32_t dim, float *out) {
    for (uint32_t j0 = 0; j0 < n_keys; j0 += 8) {
        uint32_t d = 0;
        for (; d + 8 <= dim; d += 8) {
            __m256 r[8], t[8];
            for (uint32_t j = 0; j < 8; j++)
                r[j] = j0 + j < n_keys ? avx2_load_f16(k + (size_t)(j0 + j) * dim + d) : _mm256_setzero_ps();
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
            for (uint32_t j = 0; j < 4; j++) {
                _mm256_storeu_ps(out + (size_t)(d + j) * LM_KV_PAGE + j0,
                                 _mm256_permute2f128_ps(r[j], r[j + 4], 0x20));
                _mm256_storeu_ps(out + (size_t)(d + j + 4) * LM_KV_PAGE + j0,
                                 _mm256_permute2f128_ps(r[j], r[j + 4], 0x31));
            }
        }
        for (; d < dim; d++)
            for (uint32_t j = 0; j < 8; j++)
                out[(size_t)d * LM_KV_PAGE + j0 + j] =
                    j0 + j < n_keys ? _cvtsh_ss(k[(size_t)(j0 + j) * dim + d]) : 0;
    }
}

static void turn_values(const uint16_t *v, size_t n, float *out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, avx2_load_f16(v + i));
    for (; i < n; i++) out[i] = _cvtsh_ss(v[i]);
}

/* c (nq, 8 nv) = a (nq, n) · b (n, 8 nv), onto what c holds times factor (NULL: 0). */
INLINE void tile(const float *a, size_t a_stride, const float *b, size_t b_stride, uint32_t n, uint32_t nq,
                 uint32_t nv, const float *factor, float *c, size_t c_stride) {
    __m256 sum[6][2];
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t t = 0; t < nv; t++)
            sum[i][t] =
                factor ? _mm256_mul_ps(_mm256_loadu_ps(c + i * c_stride + 8 * t), _mm256_set1_ps(factor[i]))
                       : _mm256_setzero_ps();
    for (uint32_t j = 0; j < n; j++) {
        __m256 x[2];
        for (uint32_t t = 0; t < nv; t++) x[t] = _mm256_loadu_ps(b + j * b_stride + 8 * t);
        for (uint32_t i = 0; i < nq; i++) {
            __m256 s = _mm256_broadcast_ss(a + i * a_stride + j);
            for (uint32_t t = 0; t < nv; t++) sum[i][t] = _mm256_fmadd_ps(s, x[t], sum[i][t]);
        }
    }
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t t = 0; t < nv; t++) _mm256_storeu_ps(c + i * c_stride + 8 * t, sum[i][t]);
}

INLINE void tile_row(const float *a, size_t a_stride, const float *b, size_t b_stride, uint32_t n,
                     uint32_t nq, uint32_t width, const float *factor, float *c, size_t c_stride) {
    uint32_t d = 0;
    for (; d + 16 <= width; d += 16) tile(a, a_stride, b + d, b_stride, n, nq, 2, factor, c + d, c_stride);
    for (; d + 8 <= width; d += 8) tile(a, a_stride, b + d, b_stride, n, nq, 1, factor, c + d, c_stride);
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
    for (; i + 6 <= n_q; i += 6)
        tile_row(a + i * a_stride, a_stride, b, b_stride, n, 6, width, factor ? factor + i : NULL,
                 c + i * c_stride, c_stride);
    for (; i + 2 <= n_q; i += 2)
        tile_row(a + i * a_stride, a_stride, b, b_stride, n, 2, width, factor ? factor + i : NULL,
                 c + i * c_stride, c_stride);
    if (i < n_q)
        tile_row(a + i * a_stride, a_stride, b, b_stride, n, 1, width, factor ? factor + i : NULL,
                 c + i * c_stride, c_stride);
}

#define BLOCK 96 /* queries whose factors are held at a time */

static void many(const float *q, uint32_t n_q, const uint16_t *k, const uint16_t *v, uint32_t n_keys,
                 uint32_t dim, float softcap, float *m, float *l, float *acc, float *scratch) {
    float *keys = scratch, *values = keys + (size_t)dim * LM_KV_PAGE,
          *scores = values + (size_t)dim * LM_KV_PAGE;
    turn_keys(k, n_keys, dim, keys);
    turn_values(v, (size_t)n_keys * dim, values);
    uint32_t padded = (n_keys + 7) / 8 * 8;
    for (uint32_t i = 0; i < n_q; i += BLOCK) {
        float factor[BLOCK];
        uint32_t n = n_q - i < BLOCK ? n_q - i : BLOCK;
        product(q + (size_t)i * dim, dim, keys, LM_KV_PAGE, dim, n, padded, NULL, scores, LM_KV_PAGE);
        for (uint32_t j = 0; j < n; j++)
            factor[j] = soften(scores + (size_t)j * LM_KV_PAGE, n_keys, softcap, &m[i + j], &l[i + j]);
        product(scores, LM_KV_PAGE, values, dim, n_keys, n, dim, factor, acc + (size_t)i * dim, dim);
    }
}

void lm_attend_avx2(const float *q, uint32_t n_q, const void *k, const void *v, uint32_t n_keys,
                    uint32_t head_dim, float softcap, float *m, float *l, float *acc, float *scratch) {
    if (n_q >= MANY) {
        many(q, n_q, k, v, n_keys, head_dim, softcap, m, l, acc, scratch);
        return;
    }
    for (uint32_t i = 0; i < n_q;) {
        const float *x = q + (size_t)i * head_dim;
        float *to = acc + (size_t)i * head_dim;
        switch (n_q - i) {
        case 1:
            few(x, 1, k, v, n_keys, head_dim, softcap, m + i, l + i, to, scratch);
            i += 1;
            break;
        case 2:
            few(x, 2, k, v, n_keys, head_dim, softcap, m + i, l + i, to, scratch);
            i += 2;
            break;
        case 3:
        case 6:
        case 7:
            few(x, 3, k, v, n_keys, head_dim, softcap, m + i, l + i, to, scratch);
            i += 3;
            break;
        default:
            few(x, 4, k, v, n_keys, head_dim, softcap, m + i, l + i, to, scratch);
            i += 4;
            break;
        }
    }
}
