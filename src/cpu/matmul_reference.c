/* matmul_reference.c - products as they are defined: f32 activations, weights dequantised one row at a time,
 * sums in double. What every other set is measured against; nothing here is meant to be fast. */
#include "cpu/matmul_form.h"

void lm_matmul_row(const lm_matrix *w, uint32_t expert, uint32_t row, float *out) {
    lm_matrix_row(w, expert, row, out);
}

void lm_matmul_reference(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                         uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                         void *scratch) {
    float *row = scratch; /* (cols) */
    for (uint32_t n = n0; n < n1; n++) {
        lm_matrix_row(w, expert, n, row);
        for (uint32_t m = 0; m < n_rows; m++) {
            const float *x = (const float *)(const void *)((const char *)acts + m * act_stride);
            double sum = 0;
            for (uint32_t k = 0; k < w->cols; k++) sum += (double)row[k] * (double)x[k];
            y[m * y_stride + n] = (float)sum;
        }
    }
}
