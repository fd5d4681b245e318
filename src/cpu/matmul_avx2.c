/* matmul_avx2.c - products with AVX2, FMA and F16C for 1 to 4 rows of x (decoding), and the choice of kernel.
 *
 * Decoding reads every weight once and does little with it, so the loop runs at the speed of memory when it
 * needs fewer instructions than the memory takes time: codes go from the file's bytes straight into
 * vpmaddubsw (unsigned codes times signed activations, neighbours added in 16 bits). It saturates at 32767;
 * the worst sums before vpmaddwd widens them to 32 bits are
 *
 *     2 bits  4 products of 2 *  3 * 127 =  3048        5 bits  1 of 2 *  31 * 127 =  7874
 *     3 bits  2          of 2 *  7 * 127 =  3556        6 bits  1 of 2 *  63 * 127 = 16002
 *     4 bits  2          of 2 * 15 * 127 =  7620        8 bits  1 of 2 * 128 * 127 = 32512 (|code - 128| <=
 * 128) mxfp4   2          of 2 * 24 * 127 = 12192
 *
 * Scales: a pass before the codes multiplies the row's scales with those of the activation's blocks, so that
 * the loop has one factor per block of 32; the biases' part is added there too, eight groups at a time.
 */
#include "cpu/matmul_avx2.h"

enum { MOST_FEW = 4, AHEAD = 1024 /* bytes of codes to ask for in advance */ };

/* ---- scales ------------------------------------------------------------------------------------------- */

/* One factor per block of 32 columns for the row of W and each row of x: factors (m, stride). Adds the
 * biases' share to sum[m], spread over its lanes. */
LM_INLINE void multiply_scales(const lm_matrix *w, const lm_expert *e, uint32_t n, const char *const *act,
                               int rows, float *factors, uint32_t stride, __m256 *sum) {
    uint32_t n_groups = w->cols / w->quant.group, per_group = w->quant.group / LM_ACT_BLOCK;
    size_t scales_at = lm_act_scales_at(w->cols), sums_at = lm_act_sums_at(w->cols);
    bool centred = w->quant.bits == 8;
    for (uint32_t g = 0; g < n_groups; g += 8) {
        __m256 s, b;
        load_scales(w, e, n, g, n_groups, centred, &s, &b);
        for (int m = 0; m < rows; m++) {
            const float *d = (const float *)(const void *)(act[m] + scales_at);
            const float *x = (const float *)(const void *)(act[m] + sums_at);
            float *to = factors + m * stride;
            uint32_t at = g * per_group;
            sum[m] = _mm256_fmadd_ps(b, _mm256_load_ps(x + g), sum[m]);
            if (per_group == 1) {
                _mm256_store_ps(to + at, _mm256_mul_ps(s, _mm256_load_ps(d + at)));
                continue;
            }
            /* Each scale serves 2 or 4 blocks; blocks beyond the row were rounded up with zeros, see below.
             */
            for (uint32_t part = 0; part < per_group; part++, at += 8) {
                const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3),
                              four = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
                __m256i index = per_group == 2 ? _mm256_add_epi32(twice, _mm256_set1_epi32((int)(4 * part)))
                                               : _mm256_add_epi32(four, _mm256_set1_epi32((int)(2 * part)));
                if (at >= w->cols / LM_ACT_BLOCK) break; /* d ends with its last whole or rounded-up eight */
                _mm256_store_ps(to + at,
                                _mm256_mul_ps(_mm256_permutevar8x32_ps(s, index), _mm256_load_ps(d + at)));
            }
        }
    }
}

/* ---- one row of W ----------------------------------------------------------------------------------------
 */

LM_INLINE __m256 widen(__m256i sums16) {
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(sums16, _mm256_set1_epi16(1)));
}

/* 2 factors -> 4 lanes each; 4 factors -> 2 lanes each. */
LM_INLINE __m256 spread2(const float *f) {
    double two;
    memcpy(&two, f, 8);
    return _mm256_permutevar_ps(_mm256_castpd_ps(_mm256_set1_pd(two)),
                                _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}
LM_INLINE __m256 spread4(const float *f) {
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(f)),
                                    _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}

LM_INLINE void dot_halves(int bits, const uint8_t *codes, uint32_t cols, const char *const *act, int rows,
                          const float *factors, uint32_t stride, __m256 *sum) {
    uint32_t unit = bits == 3 ? 24 : 32, n = cols / 64;
    for (uint32_t u = 0; u < n; u++, codes += unit) {
        __m256i even, odd;
        _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
        unpack_halves(bits, codes, &even, &odd);
        for (int m = 0; m < rows; m++) {
            const char *a = act[m] + 64 * u;
            __m256i s = _mm256_add_epi16(_mm256_maddubs_epi16(even, load256(a)),
                                         _mm256_maddubs_epi16(odd, load256(a + 32)));
            sum[m] = _mm256_fmadd_ps(widen(s), spread2(factors + m * stride + 2 * u), sum[m]);
        }
    }
    if (cols % 64 == 0) return;
    __m256i last = unpack_halves_tail(bits, codes);
    for (int m = 0; m < rows; m++) {
        __m256i s = _mm256_maddubs_epi16(last, load256(act[m] + 64 * n));
        sum[m] = _mm256_fmadd_ps(widen(s), _mm256_set1_ps(factors[m * stride + 2 * n]), sum[m]);
    }
}

LM_INLINE void dot_quarters(const uint8_t *codes, uint32_t cols, const char *const *act, int rows,
                            const float *factors, uint32_t stride, __m256 *sum) {
    uint32_t n = cols / 128;
    for (uint32_t u = 0; u < n; u++, codes += 32) {
        __m256i q[4];
        _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
        unpack_quarters(codes, q);
        for (int m = 0; m < rows; m++) {
            const char *a = act[m] + 128 * u;
            __m256i s = _mm256_add_epi16(_mm256_maddubs_epi16(q[0], load256(a)),
                                         _mm256_maddubs_epi16(q[1], load256(a + 32)));
            __m256i t = _mm256_add_epi16(_mm256_maddubs_epi16(q[2], load256(a + 64)),
                                         _mm256_maddubs_epi16(q[3], load256(a + 96)));
            sum[m] =
                _mm256_fmadd_ps(widen(_mm256_add_epi16(s, t)), spread4(factors + m * stride + 4 * u), sum[m]);
        }
    }
    for (uint32_t b = 4 * n; b < cols / LM_ACT_BLOCK; b++, codes += 8) {
        __m256i last = unpack_quarters_tail(codes);
        for (int m = 0; m < rows; m++) {
            __m256i s = _mm256_maddubs_epi16(last, load256(act[m] + LM_ACT_BLOCK * b));
            sum[m] = _mm256_fmadd_ps(widen(s), _mm256_set1_ps(factors[m * stride + b]), sum[m]);
        }
    }
}

/* 5, 6 and 8 bits, one block. For 8 bits vpmaddubsw gets |code - 128| and the activation with that sign. */
LM_INLINE void dot_block(int bits, const uint8_t *codes, const char *const *act, int rows, uint32_t b,
                         const float *factors, uint32_t stride, __m256 *sum) {
    __m256i v = bits == 8   ? _mm256_xor_si256(load256(codes), _mm256_set1_epi8((char)0x80))
                : bits == 6 ? unpack_6(codes)
                            : unpack_5(codes);
    __m256i size = bits == 8 ? _mm256_abs_epi8(v) : v;
    for (int m = 0; m < rows; m++) {
        __m256i a = load256(act[m] + LM_ACT_BLOCK * b);
        if (bits == 8) a = _mm256_sign_epi8(a, v);
        sum[m] = _mm256_fmadd_ps(widen(_mm256_maddubs_epi16(size, a)),
                                 _mm256_set1_ps(factors[m * stride + b]), sum[m]);
    }
}

LM_INLINE void dot_natural(int bits, const uint8_t *codes, uint32_t cols, const char *const *act, int rows,
                           const float *factors, uint32_t stride, __m256 *sum) {
    __m256 other[MOST_FEW]; /* a second chain of additions: one alone would wait for its own latency */
    uint32_t n = cols / LM_ACT_BLOCK, b = 0;
    for (int m = 0; m < rows; m++) other[m] = _mm256_setzero_ps();
    for (; b + 2 <= n; b += 2, codes += 8 * bits) {
        _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T0);
        dot_block(bits, codes, act, rows, b, factors, stride, sum);
        dot_block(bits, codes + 4 * bits, act, rows, b + 1, factors, stride, other);
    }
    if (b < n) dot_block(bits, codes, act, rows, b, factors, stride, sum);
    for (int m = 0; m < rows; m++) sum[m] = _mm256_add_ps(sum[m], other[m]);
}

LM_INLINE void few(int bits, int rows, const lm_matrix *w, uint32_t expert, const void *acts,
                   size_t act_stride, uint32_t n0, uint32_t n1, float *y, size_t y_stride, float *factors) {
    lm_expert e = lm_expert_of(w, expert);
    uint32_t stride = lm_round_up(w->cols / LM_ACT_BLOCK, 32);
    const char *act[MOST_FEW];
    for (int m = 0; m < rows; m++) act[m] = (const char *)acts + m * act_stride;
    for (uint32_t n = n0; n < n1; n++) {
        __m256 sum[MOST_FEW];
        const uint8_t *codes = e.codes + n * w->row_bytes;
        for (int m = 0; m < rows; m++) sum[m] = _mm256_setzero_ps();
        multiply_scales(w, &e, n, act, rows, factors, stride, sum);
        if (bits == 2)
            dot_quarters(codes, w->cols, act, rows, factors, stride, sum);
        else if (bits == 5 || bits == 6 || bits == 8)
            dot_natural(bits, codes, w->cols, act, rows, factors, stride, sum);
        else
            dot_halves(bits, codes, w->cols, act, rows, factors, stride, sum);
        for (int m = 0; m < rows; m++) y[m * y_stride + n] = sum_floats(sum[m]);
    }
}

/* ---- choice ------------------------------------------------------------------------------------------- */

#define FEW(bits)                                                                                            \
    switch (n_rows) {                                                                                        \
    case 1: few(bits, 1, w, expert, acts, act_stride, n0, n1, y, y_stride, scratch); break;                  \
    case 2: few(bits, 2, w, expert, acts, act_stride, n0, n1, y, y_stride, scratch); break;                  \
    case 3: few(bits, 3, w, expert, acts, act_stride, n0, n1, y, y_stride, scratch); break;                  \
    default: few(bits, 4, w, expert, acts, act_stride, n0, n1, y, y_stride, scratch); break;                 \
    }                                                                                                        \
    break

void lm_matmul_avx2_few(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                        uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride, void *scratch) {
    switch (w->quant.kind == LM_QUANT_MXFP4 ? (uint32_t)LM_BITS_MXFP4 : w->quant.bits) {
    case 2: FEW(2);
    case 3: FEW(3);
    case 4: FEW(4);
    case 5: FEW(5);
    case 6: FEW(6);
    case 8: FEW(8);
    default: FEW(LM_BITS_MXFP4);
    }
}

void lm_matmul_avx2(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride, uint32_t n_rows,
                    uint32_t n0, uint32_t n1, float *y, size_t y_stride, void *scratch) {
    lm_matmul_fn *kernel = w->quant.kind == LM_QUANT_NONE ? lm_matmul_avx2_plain
                           : n_rows == 1                  ? lm_matmul_avx2_one
                           : n_rows <= MOST_FEW           ? lm_matmul_avx2_few
                                                          : lm_matmul_avx2_many;
    kernel(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride, scratch);
}
