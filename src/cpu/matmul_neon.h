/* matmul_neon.h (private to cpu/matmul_neon*) - the NEON products, compiled once for every processor and once
 * with the dot product instruction (matmul_neon_dot.c); lm_matmul_neon chooses when it runs.
 *
 * A row of W is unpacked to signed bytes in scratch, in the order of the activation's layout, and used for
 * all rows of x, 4 at a time: codes of up to 6 bits are themselves, 8-bit ones lose 128 (128 * scale moves
 * into the bias), mxfp4 is twice its value. Nothing can saturate: SDOT sums in 32 bits, and without it
 * products of 16 bits (at most 128 * 127) are widened in pairs.
 *
 * Scratch: codes (cols), scales and biases as floats (cols / group each, up to a multiple of 4).
 */
#ifndef LM_CPU_MATMUL_NEON_H
#define LM_CPU_MATMUL_NEON_H

#include <arm_neon.h>

#include "cpu/matmul_form.h"

#define LM_INLINE static inline __attribute__((always_inline))

void lm_matmul_neon_plain(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                          uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride);
lm_matmul_fn lm_matmul_neon_base; /* quantised, any processor */
lm_matmul_fn lm_matmul_neon_dot;  /* quantised, with SDOT */

/* ---- unpacking ------------------------------------------------------------------------------------------
 */

/* 16 codes of 6 or 5 bits from the first 12 or 10 bytes of v: each 16-bit lane gets the two bytes that hold
 * its two codes, shifts move one to the low byte and the other to the high byte. */
LM_INLINE uint8x16_t spread_6(uint8x16_t v) {
    static const uint8_t from[16] = {0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11};
    static const int16_t even[8] = {0, -4, 0, -4, 0, -4, 0, -4}, odd[8] = {2, -2, 2, -2, 2, -2, 2, -2};
    uint16x8_t pair = vreinterpretq_u16_u8(vqtbl1q_u8(v, vld1q_u8(from)));
    return vreinterpretq_u8_u16(vorrq_u16(vandq_u16(vshlq_u16(pair, vld1q_s16(even)), vdupq_n_u16(0x003f)),
                                          vandq_u16(vshlq_u16(pair, vld1q_s16(odd)), vdupq_n_u16(0x3f00))));
}
LM_INLINE uint8x16_t spread_5(uint8x16_t v) {
    static const uint8_t from[16] = {0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9};
    static const int16_t even[8] = {0, -2, -4, -6, 0, -2, -4, -6}, odd[8] = {3, 1, -1, -3, 3, 1, -1, -3};
    uint16x8_t pair = vreinterpretq_u16_u8(vqtbl1q_u8(v, vld1q_u8(from)));
    return vreinterpretq_u8_u16(vorrq_u16(vandq_u16(vshlq_u16(pair, vld1q_s16(even)), vdupq_n_u16(0x001f)),
                                          vandq_u16(vshlq_u16(pair, vld1q_s16(odd)), vdupq_n_u16(0x1f00))));
}

/* 16 bytes of a row of which `left` remain; never reads beyond them. */
LM_INLINE uint8x16_t load16(const uint8_t *p, size_t left) {
    uint8_t part[16] = {0};
    if (left >= 16) return vld1q_u8(p);
    memcpy(part, p, left);
    return vld1q_u8(part);
}

/* Two nibbles a byte, 16 bytes -> even codes and odd codes. */
LM_INLINE void split_nibbles(bool mxfp4, uint8x16_t v, int8_t *even, int8_t *odd) {
    static const int8_t twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    uint8x16_t low = vandq_u8(v, vdupq_n_u8(15)), high = vshrq_n_u8(v, 4);
    int8x16_t table = vld1q_s8(twice);
    vst1q_s8(even, mxfp4 ? vqtbl1q_s8(table, low) : vreinterpretq_s8_u8(low));
    vst1q_s8(odd, mxfp4 ? vqtbl1q_s8(table, high) : vreinterpretq_s8_u8(high));
}

LM_INLINE void unpack_halves(const lm_matrix *w, const uint8_t *from, int8_t *to) {
    bool mxfp4 = w->quant.kind == LM_QUANT_MXFP4;
    uint32_t bits = w->quant.bits, whole = w->cols & ~63u;
    const uint8_t *end = from + w->row_bytes;
    for (uint32_t k = 0; k < w->cols; k += 32, from += 4 * bits) {
        /* even codes of block k / 32, then its odd ones: see LM_ACT_HALVES */
        int8_t *even = k < whole ? to + (k & ~63u) + (k & 32) / 2 : to + k,
               *odd = even + (k < whole ? 32 : 16);
        uint8x16_t v = load16(from, (size_t)(end - from));
        if (bits == 4) {
            split_nibbles(mxfp4, v, even, odd);
            continue;
        }
        uint8x16_t pairs = spread_6(v); /* of 3-bit codes, 16 from 12 bytes */
        vst1q_s8(even, vreinterpretq_s8_u8(vandq_u8(pairs, vdupq_n_u8(7))));
        vst1q_s8(odd, vreinterpretq_s8_u8(vshrq_n_u8(pairs, 3)));
    }
}

LM_INLINE void unpack_quarters(const uint8_t *from, uint32_t cols, int8_t *to) {
    uint32_t whole = cols & ~127u;
    for (uint32_t k = 0; k < cols; k += 32, from += 8) {
        int8_t *at = k < whole ? to + (k & ~127u) + (k & 127) / 4 : to + k;
        size_t apart = k < whole ? 32 : 8;
        uint8x8_t v = vld1_u8(from), mask = vdup_n_u8(3);
        vst1_s8(at, vreinterpret_s8_u8(vand_u8(v, mask)));
        vst1_s8(at + apart, vreinterpret_s8_u8(vand_u8(vshr_n_u8(v, 2), mask)));
        vst1_s8(at + 2 * apart, vreinterpret_s8_u8(vand_u8(vshr_n_u8(v, 4), mask)));
        vst1_s8(at + 3 * apart, vreinterpret_s8_u8(vshr_n_u8(v, 6)));
    }
}

LM_INLINE void unpack_natural(const lm_matrix *w, const uint8_t *from, int8_t *to) {
    uint32_t bits = w->quant.bits;
    const uint8_t *end = from + w->row_bytes;
    for (uint32_t k = 0; k < w->cols; k += 16, from += 2 * bits) {
        uint8x16_t v = load16(from, (size_t)(end - from));
        v = bits == 8 ? veorq_u8(v, vdupq_n_u8(0x80)) : bits == 6 ? spread_6(v) : spread_5(v);
        vst1q_s8(to + k, vreinterpretq_s8_u8(v));
    }
}

LM_INLINE void unpack_scales(const lm_matrix *w, const lm_expert *e, uint32_t n, float *scales,
                             float *biases) {
    const uint8_t *s = e->scales + n * e->scales_row;
    for (uint32_t g = 0; g < w->cols / w->quant.group; g++) {
        if (w->quant.kind == LM_QUANT_MXFP4) {
            scales[g] = lm_e8m0_half(s[g]);
            biases[g] = 0;
            continue;
        }
        scales[g] = lm_number(w->dtype, s, g);
        biases[g] = lm_number(w->dtype, e->biases + n * e->scales_row, g);
        if (w->quant.bits == 8) biases[g] += 128.0f * scales[g];
    }
}

/* ---- sums ---------------------------------------------------------------------------------------------- */

LM_INLINE int32x4_t dot16(int32x4_t sum, int8x16_t w, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
    return vdotq_s32(sum, w, x);
#else
    sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    return vpadalq_s16(sum, vmull_s8(vget_high_s8(w), vget_high_s8(x)));
#endif
}

/* Block b: two runs of 16 bytes, or four of 8 for QUARTERS. */
LM_INLINE void block_at(lm_act_layout layout, uint32_t cols, uint32_t b, const int8_t *p, int8x16_t out[2]) {
    uint32_t k = b * LM_ACT_BLOCK;
    if (layout == LM_ACT_QUARTERS && (b | 3u) * LM_ACT_BLOCK < cols) {
        p += (k & ~127u) + (b & 3) * 8;
        out[0] = vcombine_s8(vld1_s8(p), vld1_s8(p + 32));
        out[1] = vcombine_s8(vld1_s8(p + 64), vld1_s8(p + 96));
    } else if (layout == LM_ACT_HALVES && (b | 1u) * LM_ACT_BLOCK < cols) {
        p += (k & ~63u) + (b & 1) * 16;
        out[0] = vld1q_s8(p);
        out[1] = vld1q_s8(p + 32);
    } else {
        out[0] = vld1q_s8(p + k);
        out[1] = vld1q_s8(p + k + 16);
    }
}

LM_INLINE void dot_row(lm_act_layout layout, int rows, const lm_matrix *w, const int8_t *codes,
                       const float *scales, const float *biases, const char *acts, size_t act_stride,
                       float *y, size_t y_stride) {
    uint32_t cols = w->cols, shift = w->quant.group == 128 ? 2 : w->quant.group == 64 ? 1 : 0;
    size_t scales_at = lm_act_scales_at(cols), sums_at = lm_act_sums_at(cols);
    float32x4_t sum[4];
    float bias[4];
    for (int m = 0; m < rows; m++) {
        const float *x = (const float *)(const void *)(acts + m * act_stride + sums_at);
        sum[m] = vdupq_n_f32(0);
        bias[m] = 0;
        for (uint32_t g = 0; g < cols / w->quant.group; g++) bias[m] += biases[g] * x[g];
    }
    for (uint32_t b = 0; b < cols / LM_ACT_BLOCK; b++) {
        int8x16_t wv[2], xv[2];
        block_at(layout, cols, b, codes, wv);
        for (int m = 0; m < rows; m++) {
            const char *act = acts + m * act_stride;
            const float *d = (const float *)(const void *)(act + scales_at);
            block_at(layout, cols, b, (const int8_t *)act, xv);
            int32x4_t s = dot16(dot16(vdupq_n_s32(0), wv[0], xv[0]), wv[1], xv[1]);
            sum[m] = vfmaq_n_f32(sum[m], vcvtq_f32_s32(s), scales[b >> shift] * d[b]);
        }
    }
    for (int m = 0; m < rows; m++) y[m * y_stride] = vaddvq_f32(sum[m]) + bias[m];
}

LM_INLINE void dot_rows(lm_act_layout layout, const lm_matrix *w, const int8_t *codes, const float *scales,
                        const float *biases, const char *acts, size_t act_stride, uint32_t n_rows, float *y,
                        size_t y_stride) {
    uint32_t m = 0;
    for (; m + 4 <= n_rows; m += 4)
        dot_row(layout, 4, w, codes, scales, biases, acts + m * act_stride, act_stride, y + m * y_stride,
                y_stride);
    for (; m < n_rows; m++)
        dot_row(layout, 1, w, codes, scales, biases, acts + m * act_stride, act_stride, y + m * y_stride,
                y_stride);
}

LM_INLINE void matmul_quantised(const lm_matrix *w, uint32_t expert, const char *acts, size_t act_stride,
                                uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                                void *scratch) {
    lm_expert e = lm_expert_of(w, expert);
    int8_t *codes = scratch;
    float *scales = (float *)(void *)(codes + lm_round_up(w->cols, 64));
    float *biases = scales + lm_round_up(w->cols / w->quant.group, 4);
    for (uint32_t n = n0; n < n1; n++) {
        const uint8_t *from = e.codes + n * w->row_bytes;
        unpack_scales(w, &e, n, scales, biases);
        if (w->quant.bits == 2) {
            unpack_quarters(from, w->cols, codes);
            dot_rows(LM_ACT_QUARTERS, w, codes, scales, biases, acts, act_stride, n_rows, y + n, y_stride);
        } else if (w->quant.bits <= 4) {
            unpack_halves(w, from, codes);
            dot_rows(LM_ACT_HALVES, w, codes, scales, biases, acts, act_stride, n_rows, y + n, y_stride);
        } else {
            unpack_natural(w, from, codes);
            dot_rows(LM_ACT_NATURAL, w, codes, scales, biases, acts, act_stride, n_rows, y + n, y_stride);
        }
    }
}

#endif
