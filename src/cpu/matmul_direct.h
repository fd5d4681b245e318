/* matmul_direct.h (private to cpu/matmul_avx2_direct.c and matmul_avx512_direct.c) - what the products for
 * few rows of x share around their arithmetic: where the numbers are, the run over the rows of W, the
 * instances.
 *
 * A file defines W_ROWS, the rows of W that it takes at a time, and MOST_X, the rows of x that it serves,
 * before this is included, and then
 *
 *     meet_rows(bits, one, t, n, width, y)    rows [n, n + width) of W by all rows of x into y, (xs, W_ROWS)
 *                                             zeroed floats; bits and one (row of x) are constants
 *
 * before it says DIRECT_FORMS.
 */
#ifndef LM_CPU_MATMUL_DIRECT_H
#define LM_CPU_MATMUL_DIRECT_H

#include "cpu/matmul_avx2.h"

typedef struct direct {
    const lm_matrix *w;
    lm_expert e;
    uint32_t n_groups, group_shift; /* log2 of blocks in a group */
    uint32_t xs;                    /* rows of x */
    const char *x;
    size_t x_stride, d_at, sums_at;
    int32_t *scratch;
} direct;

typedef void direct_rows(const direct *t, uint32_t n, uint32_t width, float *y);

static inline direct direct_of(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                               uint32_t n_rows, void *scratch) {
    return (direct){.w = w,
                    .e = lm_expert_of(w, expert),
                    .n_groups = w->cols / w->quant.group,
                    .group_shift = lm_group_shift(w),
                    .xs = n_rows,
                    .x = acts,
                    .x_stride = act_stride,
                    .d_at = lm_act_scales_at(w->cols),
                    .sums_at = lm_act_sums_at(w->cols),
                    .scratch = scratch};
}

/* Numbers and codes of W_ROWS rows of W from n on, those beyond width repeating the last. */
LM_INLINE void direct_take(const direct *t, uint32_t n, uint32_t width, uint32_t row[W_ROWS],
                           const uint8_t *codes[W_ROWS]) {
    for (uint32_t i = 0; i < W_ROWS; i++) {
        row[i] = n + (i < width ? i : width - 1);
        codes[i] = t->e.codes + row[i] * t->w->row_bytes;
    }
}

static inline void direct_run(direct_rows *rows, const direct *t, uint32_t n0, uint32_t n1, float *y,
                              size_t y_stride) {
    float part[MOST_X][W_ROWS] __attribute__((aligned(64)));
    for (uint32_t n = n0; n < n1; n += W_ROWS) {
        uint32_t width = n1 - n < W_ROWS ? n1 - n : W_ROWS;
        memset(part, 0, t->xs * sizeof part[0]);
        rows(t, n, width, part[0]);
        for (uint32_t m = 0; m < t->xs; m++) memcpy(y + m * y_stride + n, part[m], width * sizeof(float));
    }
}

#define DIRECT_FORM(bits)                                                                                    \
    static void one_##bits(const direct *t, uint32_t n, uint32_t width, float *y) {                          \
        meet_rows(bits, true, t, n, width, y);                                                               \
    }                                                                                                        \
    static void some_##bits(const direct *t, uint32_t n, uint32_t width, float *y) {                         \
        meet_rows(bits, false, t, n, width, y);                                                              \
    }
#define DIRECT_ENTRY(bits) [bits] = {one_##bits, some_##bits}

/* direct_forms[bits][more than one row of x]; 14 is LM_BITS_MXFP4. */
#define DIRECT_FORMS                                                                                         \
    DIRECT_FORM(2)                                                                                           \
    DIRECT_FORM(3)                                                                                           \
    DIRECT_FORM(4)                                                                                           \
    DIRECT_FORM(5)                                                                                           \
    DIRECT_FORM(6)                                                                                           \
    DIRECT_FORM(8)                                                                                           \
    DIRECT_FORM(14)                                                                                          \
    static direct_rows *const direct_forms[LM_BITS_MXFP4 + 1][2] = {                                         \
        DIRECT_ENTRY(2), DIRECT_ENTRY(3), DIRECT_ENTRY(4), DIRECT_ENTRY(5),                                  \
        DIRECT_ENTRY(6), DIRECT_ENTRY(8), DIRECT_ENTRY(14)};

#endif
