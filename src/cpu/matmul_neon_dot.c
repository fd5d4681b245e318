/* matmul_neon_dot.c - the NEON products with the dot product instruction; compiled with
 * -march=armv8.2-a+dotprod. */
#define LM_NEON_DOTPROD
#include "cpu/matmul_neon.h"

void lm_matmul_neon_dotprod(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                            uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                            void *scratch) {
    multiply(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride, scratch);
}
