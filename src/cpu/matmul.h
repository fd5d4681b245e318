/* matmul.h (private to cpu/) - the product part of lm_kernels (kernels.h says what each function promises),
 * one matmul per feature set; the tables of kernels.c pick from here.
 *
 *     set          act_kind                act_prepare                matmul                 matmul_step
 *     reference    lm_act_kind_reference   lm_act_prepare             lm_matmul_reference    1
 *     portable     lm_act_kind_portable    lm_act_prepare             lm_matmul_portable     1
 *     avx2         lm_act_kind             lm_act_prepare_avx2        lm_matmul_avx2         LM_MATMUL_STEP
 *     avx512       lm_act_kind             lm_act_prepare_avx2        lm_matmul_avx512       LM_MATMUL_STEP
 *     avx512-bf16  lm_act_kind_avx512_bf16 lm_act_prepare_avx512_bf16 lm_matmul_avx512_bf16  LM_MATMUL_STEP
 *     neon         lm_act_kind             lm_act_prepare_neon        lm_matmul_neon         LM_MATMUL_STEP
 *     neon-dotprod lm_act_kind             lm_act_prepare_neon        lm_matmul_neon_dotprod LM_MATMUL_STEP
 *     neon-i8mm    lm_act_kind             lm_act_prepare_neon        lm_matmul_neon_i8mm    LM_MATMUL_STEP
 *
 * act_bytes, matmul_scratch and row are the same for all. Acts must start on 64 bytes and act_stride must be
 * a multiple of 64; y, codes, scales and biases need no alignment at all.
 *
 * Arithmetic of every set but the reference, for quantised matrices: x̂ = d[b] * q with q in [-127, 127] and
 * d[b] = max|x| / 127 per block b of 32 columns, then y = Σ_g bias * (Σ x̂ in g) + Σ_b scale * d[b] * (Σ code
 * * q), the inner sum exact in integers. The float sums are formed from the first column to the last, a
 * group's bias before its blocks, so that a row of x gives the same bits alone and among any others. The sets
 * of one kind of processor give the same bits too. Plain matrices (f32, f16, bf16) use x as it is, but for
 * bf16 ones of avx512-bf16, which take it as the sum of two bf16 (within 2^-16 of it). A block with an
 * infinity or NaN in it makes the rows' results NaN.
 *
 * Shapes: cols of a quantised matrix is a multiple of its group; cols of a plain one is free.
 */
#ifndef LM_CPU_MATMUL_H
#define LM_CPU_MATMUL_H

#include "weights/weights.h"

#define LM_MATMUL_STEP 16

uint32_t lm_act_kind_reference(const lm_matrix *w);
uint32_t lm_act_kind_portable(const lm_matrix *w);
uint32_t lm_act_kind(const lm_matrix *w);
size_t lm_act_bytes(uint32_t kind, uint32_t cols);
void lm_act_prepare(uint32_t kind, const float *x, uint32_t cols, void *act);

size_t lm_matmul_scratch(uint32_t cols);
void lm_matmul_row(const lm_matrix *w, uint32_t expert, uint32_t row, float *out);

typedef void lm_matmul_fn(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                          uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                          void *scratch);
lm_matmul_fn lm_matmul_reference;
lm_matmul_fn lm_matmul_portable;

#if defined(__x86_64__)
void lm_act_prepare_avx2(uint32_t kind, const float *x, uint32_t cols, void *act);
lm_matmul_fn lm_matmul_avx2;
lm_matmul_fn lm_matmul_avx512; /* AVX-512 F, BW, VL, DQ and VNNI */
uint32_t lm_act_kind_avx512_bf16(const lm_matrix *w);
void lm_act_prepare_avx512_bf16(uint32_t kind, const float *x, uint32_t cols, void *act);
lm_matmul_fn lm_matmul_avx512_bf16; /* and BF16 */
#endif
#if defined(__aarch64__)
void lm_act_prepare_neon(uint32_t kind, const float *x, uint32_t cols, void *act);
lm_matmul_fn lm_matmul_neon;         /* any processor */
lm_matmul_fn lm_matmul_neon_dotprod; /* SDOT */
lm_matmul_fn lm_matmul_neon_i8mm;    /* SDOT and SMMLA */
#endif

#endif
