/* matmul_neon.c - products with the NEON that every 64-bit ARM processor has, and plain matrices for all
 * sets.
 */
#include <math.h>

#include "cpu/matmul_neon.h"

/* ---- plain matrices: f32, f16, bf16
 * ------------------------------------------------------------------------
 *
 * 4 rows of W by 4 of x in registers; each product keeps four partial sums over the columns, in the same
 * order whatever the number of rows.
 */

enum { W_ROWS = 4 };

LM_INLINE void plain(lm_dtype dtype, int rows, const uint8_t *const *row, uint32_t cols, const char *acts,
                     size_t act_stride, float *y, size_t y_stride, uint32_t width) {
    float32x4_t sum[W_ROWS][ROWS];
    const float *x[ROWS];
    size_t each = dtype == LM_F32 ? 4 : 2;
    uint32_t k = 0;
    for (int m = 0; m < rows; m++) {
        x[m] = (const float *)(const void *)(acts + m * act_stride);
        for (int n = 0; n < W_ROWS; n++) sum[n][m] = vdupq_n_f32(0);
    }
    for (; k + 4 <= cols; k += 4) {
        float32x4_t v[ROWS];
        for (int m = 0; m < rows; m++) v[m] = vld1q_f32(x[m] + k);
        for (int n = 0; n < W_ROWS; n++) {
            float32x4_t w = numbers4(dtype, row[n] + k * each, 4);
            for (int m = 0; m < rows; m++) sum[n][m] = vfmaq_f32(sum[n][m], w, v[m]);
        }
    }
    for (uint32_t n = 0; n < width; n++)
        for (int m = 0; m < rows; m++) {
            float rest = 0;
            for (uint32_t i = k; i < cols; i++) rest = fmaf(lm_number(dtype, row[n], i), x[m][i], rest);
            y[m * y_stride + n] = vaddvq_f32(sum[n][m]) + rest;
        }
}

LM_INLINE void plain_rows(lm_dtype dtype, const uint8_t *const *row, uint32_t cols, const char *acts,
                          size_t act_stride, uint32_t n_rows, float *y, size_t y_stride, uint32_t width) {
    for (uint32_t m = 0; m < n_rows; m += ROWS, acts += ROWS * act_stride, y += ROWS * y_stride)
        switch (n_rows - m) {
        case 1: plain(dtype, 1, row, cols, acts, act_stride, y, y_stride, width); break;
        case 2: plain(dtype, 2, row, cols, acts, act_stride, y, y_stride, width); break;
        case 3: plain(dtype, 3, row, cols, acts, act_stride, y, y_stride, width); break;
        default: plain(dtype, 4, row, cols, acts, act_stride, y, y_stride, width);
        }
}

void lm_matmul_neon_plain(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                          uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride) {
    const uint8_t *codes = lm_expert_of(w, expert).codes;
    for (uint32_t n = n0; n < n1; n += W_ROWS) {
        const uint8_t *row[W_ROWS];
        uint32_t width = n1 - n < W_ROWS ? n1 - n : W_ROWS;
        for (uint32_t i = 0; i < W_ROWS; i++) row[i] = codes + (i < width ? n + i : n1 - 1) * w->row_bytes;
        if (w->dtype == LM_F32)
            plain_rows(LM_F32, row, w->cols, acts, act_stride, n_rows, y + n, y_stride, width);
        else if (w->dtype == LM_F16)
            plain_rows(LM_F16, row, w->cols, acts, act_stride, n_rows, y + n, y_stride, width);
        else
            plain_rows(LM_BF16, row, w->cols, acts, act_stride, n_rows, y + n, y_stride, width);
    }
}

void lm_matmul_neon(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride, uint32_t n_rows,
                    uint32_t n0, uint32_t n1, float *y, size_t y_stride, void *scratch) {
    multiply(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride, scratch);
}
