/* matmul_neon.c - products with NEON: the choice of kernel, the one for every processor, and plain matrices.
 */
#include "cpu/matmul_neon.h"

#if defined(__linux__)
#include <sys/auxv.h>
#endif

/* SDOT is optional before Armv8.4; every Apple processor that runs macOS has it. */
static bool has_dot(void) {
#if defined(__linux__)
    enum { DOTPROD = 1 << 20 }; /* HWCAP_ASIMDDP */
    return getauxval(AT_HWCAP) & DOTPROD;
#else
    return true;
#endif
}

void lm_matmul_neon_base(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                         uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                         void *scratch) {
    matmul_quantised(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride, scratch);
}

/* ---- plain matrices: f32, f16, bf16
 * ------------------------------------------------------------------------ */

LM_INLINE float32x4_t row4(lm_dtype dtype, const uint8_t *row, uint32_t k) {
    uint32_t word[4];
    uint16_t half[4];
    if (dtype == LM_F32) {
        memcpy(word, row + (size_t)k * 4, 16);
        return vreinterpretq_f32_u32(vld1q_u32(word));
    }
    memcpy(half, row + (size_t)k * 2, 8);
    uint16x4_t v = vld1_u16(half);
    return dtype == LM_F16 ? vcvt_f32_f16(vreinterpret_f16_u16(v))
                           : vreinterpretq_f32_u32(vshll_n_u16(v, 16));
}

LM_INLINE void plain(lm_dtype dtype, int rows, const uint8_t *row, uint32_t cols, const char *acts,
                     size_t act_stride, float *y, size_t y_stride) {
    float32x4_t sum[4];
    uint32_t k = 0;
    for (int m = 0; m < rows; m++) sum[m] = vdupq_n_f32(0);
    for (; k + 4 <= cols; k += 4) {
        float32x4_t v = row4(dtype, row, k);
        for (int m = 0; m < rows; m++)
            sum[m] =
                vfmaq_f32(sum[m], v, vld1q_f32((const float *)(const void *)(acts + m * act_stride) + k));
    }
    for (int m = 0; m < rows; m++) {
        const float *x = (const float *)(const void *)(acts + m * act_stride);
        float rest = 0;
        for (uint32_t i = k; i < cols; i++) rest += lm_number(dtype, row, i) * x[i];
        y[m * y_stride] = vaddvq_f32(sum[m]) + rest;
    }
}

LM_INLINE void plain_rows(lm_dtype dtype, const uint8_t *row, uint32_t cols, const char *acts,
                          size_t act_stride, uint32_t n_rows, float *y, size_t y_stride) {
    uint32_t m = 0;
    for (; m + 4 <= n_rows; m += 4)
        plain(dtype, 4, row, cols, acts + m * act_stride, act_stride, y + m * y_stride, y_stride);
    for (; m < n_rows; m++)
        plain(dtype, 1, row, cols, acts + m * act_stride, act_stride, y + m * y_stride, y_stride);
}

void lm_matmul_neon_plain(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                          uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride) {
    const uint8_t *codes = lm_expert_of(w, expert).codes;
    for (uint32_t n = n0; n < n1; n++) {
        const uint8_t *row = codes + n * w->row_bytes;
        if (w->dtype == LM_F32)
            plain_rows(LM_F32, row, w->cols, acts, act_stride, n_rows, y + n, y_stride);
        else if (w->dtype == LM_F16)
            plain_rows(LM_F16, row, w->cols, acts, act_stride, n_rows, y + n, y_stride);
        else
            plain_rows(LM_BF16, row, w->cols, acts, act_stride, n_rows, y + n, y_stride);
    }
}

void lm_matmul_neon(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride, uint32_t n_rows,
                    uint32_t n0, uint32_t n1, float *y, size_t y_stride, void *scratch) {
    if (w->quant.kind == LM_QUANT_NONE)
        lm_matmul_neon_plain(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride);
    else if (has_dot())
        lm_matmul_neon_dot(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride, scratch);
    else
        lm_matmul_neon_base(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride, scratch);
}
