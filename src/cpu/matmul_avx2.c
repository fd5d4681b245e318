/* matmul_avx2.c - products with AVX2, FMA and F16C: which kernel for which shape. */
#include "cpu/matmul_avx2.h"

/* Up to so many rows of x it costs less to add across a row's lanes once for each than to lay W out in panels
 * (lm-kernels; 8-bit codes need two passes there). */
static uint32_t most_direct(const lm_matrix *w) {
    return w->quant.bits == 8 ? 4 : 2;
}

void lm_matmul_avx2(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride, uint32_t n_rows,
                    uint32_t n0, uint32_t n1, float *y, size_t y_stride, void *scratch) {
    lm_matmul_fn *kernel = w->quant.kind == LM_QUANT_NONE ? lm_matmul_avx2_plain
                           : n_rows <= most_direct(w)     ? lm_matmul_avx2_direct
                                                          : lm_matmul_avx2_many;
    kernel(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride, scratch);
}
