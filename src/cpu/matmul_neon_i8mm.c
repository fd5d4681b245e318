/* matmul_neon_i8mm.c - the NEON products with the matrix instruction for two and more rows of x; one row has
 * no second one to share it with and takes the dot product. Compiled with -march=armv8.2-a+dotprod+i8mm. */
#define LM_NEON_I8MM
#include "cpu/matmul_neon.h"

void lm_matmul_neon_i8mm(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                         uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                         void *scratch) {
    if (w->quant.kind == LM_QUANT_NONE || n_rows == 1)
        lm_matmul_neon_dotprod(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride, scratch);
    else
        multiply_many(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride, scratch);
}
