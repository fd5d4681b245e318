/* matmul_portable.c - products in plain C with the arithmetic of the vector kernels: 8-bit activations, exact
 * integer sums per block of 32, floats between the blocks. A row of W is unpacked once and used for all rows
 * of x. */
#include "cpu/matmul_form.h"

/* ---- unpacking: one row of W into one byte per code, natural order ---------------------------------------- */

/* The row is one stream of bits from the lowest up; 8 codes are `bits` whole bytes. */
static void unpack_codes(const unsigned char *from, uint32_t bits, uint32_t cols, uint8_t *to) {
    uint64_t mask = (1u << bits) - 1;
    for (uint32_t k = 0; k < cols; k += 8, from += bits) {
        uint64_t stream = 0;
        for (uint32_t i = 0; i < bits; i++) stream |= (uint64_t)from[i] << (8 * i);
        for (uint32_t i = 0; i < 8; i++) to[k + i] = (uint8_t)(stream >> (bits * i) & mask);
    }
}

static void unpack_row(const lm_matrix *w, const unsigned char *from, uint8_t *to) {
    static const uint8_t mxfp4[16] = {LM_MXFP4_LIST};
    unpack_codes(from, w->quant.bits, w->cols, to);
    if (w->quant.kind == LM_QUANT_MXFP4)
        for (uint32_t k = 0; k < w->cols; k++) to[k] = mxfp4[to[k]];
}

static void unpack_scales(const lm_matrix *w, const lm_expert *e, uint32_t n, float *scales, float *biases) {
    const unsigned char *s = e->scales + n * e->scales_row;
    for (uint32_t g = 0; g < w->cols / w->quant.group; g++) {
        if (w->quant.kind == LM_QUANT_MXFP4) {
            scales[g] = lm_e8m0_half(s[g]);
            biases[g] = -(float)LM_MXFP4_ZERO * scales[g];
        } else {
            scales[g] = lm_number(w->dtype, s, g);
            biases[g] = lm_number(w->dtype, e->biases + n * e->scales_row, g);
        }
    }
}

/* ---- sums ---------------------------------------------------------------------------------------------- */

static float dot_quantised(const uint8_t *codes, const float *scales, const float *biases, const void *act,
                           uint32_t cols, uint32_t group) {
    const int8_t *q = act;
    const float *d = (const float *)(const void *)((const char *)act + lm_act_scales_at(cols));
    const float *sums = (const float *)(const void *)((const char *)act + lm_act_sums_at(cols));
    float y = 0;
    for (uint32_t g = 0; g < cols / group; g++) y += biases[g] * sums[g];
    for (uint32_t b = 0; b < cols / LM_ACT_BLOCK; b++) {
        int32_t sum = 0; /* at most 32 * 255 * 127 */
        for (uint32_t i = 0; i < LM_ACT_BLOCK; i++)
            sum += codes[b * LM_ACT_BLOCK + i] * q[b * LM_ACT_BLOCK + i];
        y += scales[b * LM_ACT_BLOCK / group] * d[b] * (float)sum;
    }
    return y;
}

/* Eight partial sums, so that a compiler may use vectors without reordering anything. */
static float dot_plain(const float *row, const float *x, uint32_t cols) {
    float part[8] = {0}, y = 0;
    uint32_t k = 0;
    for (; k + 8 <= cols; k += 8)
        for (uint32_t i = 0; i < 8; i++) part[i] += row[k + i] * x[k + i];
    for (uint32_t i = 0; i < 8; i++) y += part[i];
    for (; k < cols; k++) y += row[k] * x[k];
    return y;
}

static void matmul_plain(const lm_matrix *w, uint32_t expert, const char *acts, size_t act_stride,
                         uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride, float *row) {
    lm_expert e = lm_expert_of(w, expert);
    for (uint32_t n = n0; n < n1; n++) {
        for (uint32_t k = 0; k < w->cols; k++) row[k] = lm_number(w->dtype, e.codes + n * w->row_bytes, k);
        for (uint32_t m = 0; m < n_rows; m++)
            y[m * y_stride + n] =
                dot_plain(row, (const float *)(const void *)(acts + m * act_stride), w->cols);
    }
}

void lm_matmul_portable(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                        uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride, void *scratch) {
    const char *act = acts;
    if (w->quant.kind == LM_QUANT_NONE) {
        matmul_plain(w, expert, act, act_stride, n_rows, n0, n1, y, y_stride, scratch);
        return;
    }
    lm_expert e = lm_expert_of(w, expert);
    uint32_t n_groups = w->cols / w->quant.group;
    float *scales = scratch;                         /* (n_groups) */
    float *biases = scales + n_groups;               /* (n_groups) */
    uint8_t *codes = (uint8_t *)(biases + n_groups); /* (cols) */
    for (uint32_t n = n0; n < n1; n++) {
        unpack_row(w, e.codes + n * w->row_bytes, codes);
        unpack_scales(w, &e, n, scales, biases);
        for (uint32_t m = 0; m < n_rows; m++)
            y[m * y_stride + n] =
                dot_quantised(codes, scales, biases, act + m * act_stride, w->cols, w->quant.group);
    }
}

/* Enough for a row as floats with its scales, and for the tiles of the vector kernels. */
size_t lm_matmul_scratch(uint32_t cols) {
    return (size_t)lm_round_up(cols, 64) * sizeof(float) * 8 + 262144;
}
