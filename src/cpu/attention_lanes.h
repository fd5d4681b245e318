/* attention_lanes.h (private to cpu/attention_avx2.c and attention_neon.c) - one page of keys and values
 * against a block of queries, over the few vector operations in which the two differ.
 *
 * Few queries (decode: the heads of one kv head): keys and values are turned from f16 in registers. Many (a
 * prompt): the page is turned to f32 once, keys across, and both products run as small matrix products of
 * TILE_Q queries by TILE_V vectors. Between them the same running softmax. Either way a score is summed from
 * the first element of the head to the last, and a result from the first key to the last: a query gets the
 * same bits alone and among others. Scores lie in scratch as (n_q, LM_KV_PAGE).
 *
 * Before this is included:
 *
 *     LANES          floats in a vec
 *     vec            v_load v_store v_set v_add v_sub v_mul v_div v_max v_exp
 *     v_fma          (sum, a, b): sum + a * b
 *     v_sum, v_top   over the lanes: the sum, the largest
 *     v_load_f16     LANES numbers of f16; one_f16: one
 *     v_alive        (x, p): p, but 0 where x is below -87; NaN stays
 *     v_unless_pad   (x, y): y, but x where x is -inf
 *     v_turn         LANES x LANES floats: rows to columns
 *     few_vectors    (queries): how many vecs of a value fit the registers beside them
 *     TILE_Q, TILE_V
 */
#ifndef LM_CPU_ATTENTION_LANES_H
#define LM_CPU_ATTENTION_LANES_H

#include "vector.h"

#include <math.h>

enum {
    MANY = 8,   /* queries from which turning the page pays */
    BLOCK = 96, /* queries whose factors are held at a time */
};

/* ---- softmax -------------------------------------------------------------------------------------------- */

/* Scores of one query become weights; returns what the results so far are to be multiplied by. */
static float soften(float *scores, uint32_t n_keys, float softcap, float *m, float *l) {
    for (uint32_t j = n_keys; j % LANES; j++) scores[j] = -INFINITY;
    vec top = v_set(*m), sum = v_set(0);
    if (softcap != 0) {
        vec scale = v_set(-2 / softcap), cap = v_set(softcap), one = v_set(1);
        for (uint32_t j = 0; j < n_keys; j += LANES) {
            /* tanh z = 2 / (1 + e^-2z) - 1; the padding stays below everything */
            vec x = v_load(scores + j), e = v_exp(v_mul(x, scale));
            vec t = v_sub(v_div(v_set(2), v_add(one, e)), one);
            v_store(scores + j, v_unless_pad(x, v_mul(t, cap)));
        }
    }
    for (uint32_t j = 0; j < n_keys; j += LANES) top = v_max(top, v_load(scores + j));
    float new_top = v_top(top);
    vec shift = v_set(new_top);
    for (uint32_t j = 0; j < n_keys; j += LANES) {
        vec x = v_sub(v_load(scores + j), shift), p = v_alive(x, v_exp(x));
        v_store(scores + j, p);
        sum = v_add(sum, p);
    }
    float factor = new_top == *m ? 1 : expf(*m - new_top);
    *l = *l * factor + v_sum(sum);
    *m = new_top;
    return factor;
}

/* ---- few queries ---------------------------------------------------------------------------------------- */

/* Dot products of nq queries, a constant after inlining, with the nk keys of one vec. */
INLINE void few_dots(const float *q, const uint16_t *k, uint32_t dim, uint32_t nq, uint32_t nk,
                     float *scores) {
    vec sum[MANY], r[LANES];
    for (uint32_t i = 0; i < nq; i++) sum[i] = v_set(0);
    for (uint32_t d = 0; d < dim; d += LANES) {
        uint32_t n = dim - d < LANES ? dim - d : LANES;
        if (n == LANES) {
            for (uint32_t j = 0; j < LANES; j++)
                r[j] = j < nk ? v_load_f16(k + (size_t)j * dim + d) : v_set(0);
            v_turn(r);
        } else {
            for (uint32_t t = 0; t < n; t++) {
                float across[LANES] = {0};
                for (uint32_t j = 0; j < nk; j++) across[j] = one_f16(k[(size_t)j * dim + d + t]);
                r[t] = v_load(across);
            }
        }
        for (uint32_t t = 0; t < n; t++)
            for (uint32_t i = 0; i < nq; i++) sum[i] = v_fma(sum[i], v_set(q[(size_t)i * dim + d + t]), r[t]);
    }
    for (uint32_t i = 0; i < nq; i++) v_store(scores + (size_t)i * LM_KV_PAGE, sum[i]);
}

INLINE void few_scores(const float *q, const uint16_t *k, uint32_t n_keys, uint32_t dim, uint32_t nq,
                       float *scores) {
    uint32_t j = 0;
    for (; j + LANES <= n_keys; j += LANES) few_dots(q, k + (size_t)j * dim, dim, nq, LANES, scores + j);
    if (j < n_keys) few_dots(q, k + (size_t)j * dim, dim, nq, n_keys - j, scores + j);
}

/* nv vectors of each query's result. */
INLINE void few_tile(const float *p, const uint16_t *v, uint32_t n_keys, uint32_t dim, uint32_t nq,
                     uint32_t nv, const float *factor, float *acc) {
    vec sum[4][4];
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t t = 0; t < nv; t++)
            sum[i][t] = v_mul(v_load(acc + (size_t)i * dim + LANES * t), v_set(factor[i]));
    for (uint32_t j = 0; j < n_keys; j++) {
        vec x[4];
        for (uint32_t t = 0; t < nv; t++) x[t] = v_load_f16(v + (size_t)j * dim + LANES * t);
        for (uint32_t i = 0; i < nq; i++) {
            vec weight = v_set(p[(size_t)i * LM_KV_PAGE + j]);
            for (uint32_t t = 0; t < nv; t++) sum[i][t] = v_fma(sum[i][t], weight, x[t]);
        }
    }
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t t = 0; t < nv; t++) v_store(acc + (size_t)i * dim + LANES * t, sum[i][t]);
}

INLINE void few_values(const float *p, const uint16_t *v, uint32_t n_keys, uint32_t dim, uint32_t nq,
                       const float *factor, float *acc) {
    uint32_t d = 0, most = few_vectors(nq);
    for (; d + most * LANES <= dim; d += most * LANES)
        few_tile(p, v + d, n_keys, dim, nq, most, factor, acc + d);
    for (; d + 2 * LANES <= dim; d += 2 * LANES) few_tile(p, v + d, n_keys, dim, nq, 2, factor, acc + d);
    for (; d + LANES <= dim; d += LANES) few_tile(p, v + d, n_keys, dim, nq, 1, factor, acc + d);
    for (; d < dim; d++) {
        for (uint32_t i = 0; i < nq; i++) {
            float sum = acc[(size_t)i * dim + d] * factor[i];
            for (uint32_t j = 0; j < n_keys; j++)
                sum += p[(size_t)i * LM_KV_PAGE + j] * one_f16(v[(size_t)j * dim + d]);
            acc[(size_t)i * dim + d] = sum;
        }
    }
}

static void few(const float *q, uint32_t nq, const uint16_t *k, const uint16_t *v, uint32_t n_keys,
                uint32_t dim, float softcap, float *m, float *l, float *acc, float *scores) {
    float factor[MANY];
    switch (nq) {
    case 1: few_scores(q, k, n_keys, dim, 1, scores); break;
    case 2: few_scores(q, k, n_keys, dim, 2, scores); break;
    case 3: few_scores(q, k, n_keys, dim, 3, scores); break;
    case 4: few_scores(q, k, n_keys, dim, 4, scores); break;
    case 5: few_scores(q, k, n_keys, dim, 5, scores); break;
    case 6: few_scores(q, k, n_keys, dim, 6, scores); break;
    default: few_scores(q, k, n_keys, dim, 7, scores);
    }
    for (uint32_t i = 0; i < nq; i++)
        factor[i] = soften(scores + (size_t)i * LM_KV_PAGE, n_keys, softcap, &m[i], &l[i]);
    for (uint32_t i = 0, n; i < nq; i += n) {
        const float *p = scores + (size_t)i * LM_KV_PAGE;
        float *to = acc + (size_t)i * dim;
        uint32_t left = nq - i;
        n = left <= 2 ? left : left == 4 || left == 5 ? 4 : 3; /* 7 are 3 and 4 */
        switch (n) {
        case 1: few_values(p, v, n_keys, dim, 1, factor + i, to); break;
        case 2: few_values(p, v, n_keys, dim, 2, factor + i, to); break;
        case 3: few_values(p, v, n_keys, dim, 3, factor + i, to); break;
        default: few_values(p, v, n_keys, dim, 4, factor + i, to);
        }
    }
}

/* ---- many queries --------------------------------------------------------------------------------------- */

/* Keys to f32, across: (head_dim, LM_KV_PAGE), columns beyond n_keys 0 up to a whole vec. */
static void turn_keys(const uint16_t *k, uint32_t n_keys, uint32_t dim, float *out) {
    for (uint32_t j0 = 0; j0 < n_keys; j0 += LANES) {
        uint32_t d = 0;
        for (; d + LANES <= dim; d += LANES) {
            vec r[LANES];
            for (uint32_t j = 0; j < LANES; j++)
                r[j] = j0 + j < n_keys ? v_load_f16(k + (size_t)(j0 + j) * dim + d) : v_set(0);
            v_turn(r);
            for (uint32_t j = 0; j < LANES; j++) v_store(out + (size_t)(d + j) * LM_KV_PAGE + j0, r[j]);
        }
        for (; d < dim; d++)
            for (uint32_t j = 0; j < LANES; j++)
                out[(size_t)d * LM_KV_PAGE + j0 + j] =
                    j0 + j < n_keys ? one_f16(k[(size_t)(j0 + j) * dim + d]) : 0;
    }
}

static void turn_values(const uint16_t *v, size_t n, float *out) {
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(out + i, v_load_f16(v + i));
    for (; i < n; i++) out[i] = one_f16(v[i]);
}

/* c (nq, LANES nv) = a (nq, n) · b (n, LANES nv), onto what c holds times factor (NULL: 0). */
INLINE void tile(const float *a, size_t a_stride, const float *b, size_t b_stride, uint32_t n, uint32_t nq,
                 uint32_t nv, const float *factor, float *c, size_t c_stride) {
    vec sum[TILE_Q][TILE_V];
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t t = 0; t < nv; t++)
            sum[i][t] = factor ? v_mul(v_load(c + i * c_stride + LANES * t), v_set(factor[i])) : v_set(0);
    for (uint32_t j = 0; j < n; j++) {
        vec x[TILE_V];
        for (uint32_t t = 0; t < nv; t++) x[t] = v_load(b + j * b_stride + LANES * t);
        for (uint32_t i = 0; i < nq; i++) {
            vec s = v_set(a[i * a_stride + j]);
            for (uint32_t t = 0; t < nv; t++) sum[i][t] = v_fma(sum[i][t], s, x[t]);
        }
    }
    for (uint32_t i = 0; i < nq; i++)
        for (uint32_t t = 0; t < nv; t++) v_store(c + i * c_stride + LANES * t, sum[i][t]);
}

INLINE void tile_row(const float *a, size_t a_stride, const float *b, size_t b_stride, uint32_t n,
                     uint32_t nq, uint32_t width, const float *factor, float *c, size_t c_stride) {
    uint32_t d = 0, most = TILE_V * LANES;
    for (; d + most <= width; d += most)
        tile(a, a_stride, b + d, b_stride, n, nq, TILE_V, factor, c + d, c_stride);
    for (; d + LANES <= width; d += LANES)
        tile(a, a_stride, b + d, b_stride, n, nq, 1, factor, c + d, c_stride);
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
    for (; i + TILE_Q <= n_q; i += TILE_Q)
        tile_row(a + i * a_stride, a_stride, b, b_stride, n, TILE_Q, width, factor ? factor + i : NULL,
                 c + i * c_stride, c_stride);
    for (; i + 2 <= n_q; i += 2)
        tile_row(a + i * a_stride, a_stride, b, b_stride, n, 2, width, factor ? factor + i : NULL,
                 c + i * c_stride, c_stride);
    if (i < n_q)
        tile_row(a + i * a_stride, a_stride, b, b_stride, n, 1, width, factor ? factor + i : NULL,
                 c + i * c_stride, c_stride);
}

static void many(const float *q, uint32_t n_q, const uint16_t *k, const uint16_t *v, uint32_t n_keys,
                 uint32_t dim, float softcap, float *m, float *l, float *acc, float *scratch) {
    float *keys = scratch, *values = keys + (size_t)dim * LM_KV_PAGE,
          *scores = values + (size_t)dim * LM_KV_PAGE;
    turn_keys(k, n_keys, dim, keys);
    turn_values(v, (size_t)n_keys * dim, values);
    uint32_t padded = (n_keys + LANES - 1) / LANES * LANES;
    for (uint32_t i = 0; i < n_q; i += BLOCK) {
        float factor[BLOCK];
        uint32_t n = n_q - i < BLOCK ? n_q - i : BLOCK;
        product(q + (size_t)i * dim, dim, keys, LM_KV_PAGE, dim, n, padded, NULL, scores, LM_KV_PAGE);
        for (uint32_t j = 0; j < n; j++)
            factor[j] = soften(scores + (size_t)j * LM_KV_PAGE, n_keys, softcap, &m[i + j], &l[i + j]);
        product(scores, LM_KV_PAGE, values, dim, n_keys, n, dim, factor, acc + (size_t)i * dim, dim);
    }
}

INLINE void attend(const float *q, uint32_t n_q, const uint16_t *k, const uint16_t *v, uint32_t n_keys,
                   uint32_t dim, float softcap, float *m, float *l, float *acc, float *scratch) {
    if (n_q >= MANY) {
        many(q, n_q, k, v, n_keys, dim, softcap, m, l, acc, scratch);
        return;
    }
    few(q, n_q, k, v, n_keys, dim, softcap, m, l, acc, scratch);
}

#endif
