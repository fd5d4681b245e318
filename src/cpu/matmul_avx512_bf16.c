/* matmul_avx512_bf16.c - products of bf16 matrices with AVX512_BF16.
 *
 * vdpbf16ps multiplies pairs of bf16 and adds them to floats. W is read as it lies in the file; a number x is
 * the sum of two bf16, high and low, which leaves at most 2^-16 of it behind, and takes two instructions for
 * 32 columns. The instruction rounds to nearest and takes numbers below 2^-126 for zero. What is beyond
 * bf16's range (3.39e38) counts as infinite: the row becomes NaN.
 *
 * A prepared row (LM_ACT_BF16) holds for every 32 columns the 32 high parts, then the 32 low ones; the last
 * are filled up with zeros. Four rows of W times up to four of x stay in registers. A span of columns is
 * added up before the next, so that a band of W and the span of x stay in the first-level cache, whatever the
 * number of rows: a row gives the same numbers alone and beside others.
 */
#include "cpu/matmul_avx512.h"

enum { UNIT = 32, SPAN = 1024 /* columns */, BAND = 16 /* rows of W */ };

#if !defined(LM_AVX512_EMULATED)
LM_INLINE __m512 dot_pairs(__m512 sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
#endif

/* ---- activations --------------------------------------------------------------------------------------- */

uint32_t lm_act_kind_avx512_bf16(const lm_matrix *w) {
    return w->quant.kind == LM_QUANT_NONE && w->dtype == LM_BF16 ? LM_ACT_BF16 : lm_act_kind(w);
}

/* To nearest, ties to even; a NaN keeps a bit that says so. */
static inline uint16_t to_bf16(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    uint32_t rounded = (u + 0x7fff + (u >> 16 & 1)) >> 16, nan = u >> 16 | 0x40;
    return (uint16_t)((u & 0x7fffffff) > 0x7f800000 ? nan : rounded);
}

static inline float from_bf16(uint16_t x) {
    uint32_t u = (uint32_t)x << 16;
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static void split(const float *x, uint32_t n, uint16_t *high, uint16_t *low) {
    for (uint32_t i = 0; i < n; i++) {
        high[i] = to_bf16(x[i]);
        low[i] = to_bf16(x[i] - from_bf16(high[i]));
    }
}

void lm_act_prepare_avx512_bf16(uint32_t kind, const float *x, uint32_t cols, void *act) {
    uint16_t *to = act;
    uint32_t k = 0;
    if (kind != LM_ACT_BF16) {
        lm_act_prepare_avx2(kind, x, cols, act);
        return;
    }
    for (; k + UNIT <= cols; k += UNIT, to += 2 * UNIT) split(x + k, UNIT, to, to + UNIT);
    if (k == cols) return;
    memset(to, 0, 2 * UNIT * sizeof *to);
    split(x + k, cols - k, to, to + UNIT);
}

/* ---- products ------------------------------------------------------------------------------------------ */

/* Columns [first, end) of four rows of W times those of `rows` of x: y (rows, 4), added to what is there from
 * the second span on. */
LM_INLINE void dot_tile(int rows, const uint8_t *const *row, const char *acts, size_t act_stride,
                        uint32_t first, uint32_t end, float *y, size_t y_stride, uint32_t width) {
    __m512 sum[LM_AVX512_X][LM_AVX512_W];
    for (int m = 0; m < rows; m++)
        for (int i = 0; i < LM_AVX512_W; i++) sum[m][i] = _mm512_setzero_ps();
    for (uint32_t k = first; k < end; k += UNIT) {
        __m512i w[LM_AVX512_W];
        for (int i = 0; i < LM_AVX512_W; i++) {
            uint16_t part[UNIT] = {0};
            const void *p = row[i] + (size_t)k * 2;
            if (k + UNIT > end) p = memcpy(part, p, (end - k) * 2);
            w[i] = _mm512_loadu_si512(p);
        }
        for (int m = 0; m < rows; m++) {
            const char *x = acts + m * act_stride + (size_t)k * 4;
            __m512i high = _mm512_loadu_si512(x), low = _mm512_loadu_si512(x + 64);
            for (int i = 0; i < LM_AVX512_W; i++)
                sum[m][i] = dot_pairs(dot_pairs(sum[m][i], low, w[i]), high, w[i]);
        }
    }
    for (int m = 0; m < rows; m++) {
        float sums[LM_AVX512_W];
        _mm_storeu_ps(sums, sum_four(sum[m]));
        for (uint32_t i = 0; i < width; i++)
            y[m * y_stride + i] = first ? y[m * y_stride + i] + sums[i] : sums[i];
    }
}

/* Four rows of W from n on. */
static void dot_rows(const lm_matrix *w, const uint8_t *codes, const char *acts, size_t act_stride,
                     uint32_t rows, uint32_t n, uint32_t n_end, uint32_t first, uint32_t end, float *y,
                     size_t y_stride) {
    const uint8_t *row[LM_AVX512_W];
    uint32_t width = n_end - n < LM_AVX512_W ? n_end - n : LM_AVX512_W;
    for (uint32_t i = 0; i < LM_AVX512_W; i++)
        row[i] = codes + (i < width ? n + i : n_end - 1) * w->row_bytes;
    switch (rows) {
    case 1: dot_tile(1, row, acts, act_stride, first, end, y + n, y_stride, width); break;
    case 2: dot_tile(2, row, acts, act_stride, first, end, y + n, y_stride, width); break;
    case 3: dot_tile(3, row, acts, act_stride, first, end, y + n, y_stride, width); break;
    default: dot_tile(4, row, acts, act_stride, first, end, y + n, y_stride, width);
    }
}

static void multiply_bf16(const lm_matrix *w, uint32_t expert, const char *acts, size_t act_stride,
                          uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride) {
    const uint8_t *codes = lm_expert_of(w, expert).codes;
    for (uint32_t n = n0; n < n1; n += BAND) {
        uint32_t n_end = n + BAND < n1 ? n + BAND : n1;
        for (uint32_t k = 0; k < w->cols; k += SPAN) {
            uint32_t end = k + SPAN < w->cols ? k + SPAN : w->cols;
            for (uint32_t m = 0; m < n_rows; m += LM_AVX512_X)
                for (uint32_t i = n; i < n_end; i += LM_AVX512_W)
                    dot_rows(w, codes, acts + m * act_stride, act_stride,
                             n_rows - m < LM_AVX512_X ? n_rows - m : LM_AVX512_X, i, n_end, k, end,
                             y + m * y_stride, y_stride);
        }
    }
}

void lm_matmul_avx512_bf16(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                           uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                           void *scratch) {
    if (w->quant.kind == LM_QUANT_NONE && w->dtype == LM_BF16)
        multiply_bf16(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride);
    else
        lm_matmul_avx512(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride, scratch);
}
