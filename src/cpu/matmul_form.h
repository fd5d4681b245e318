/* matmul_form.h (private to cpu/matmul*, act*) - what the kernels share: the prepared activation and readers
 * of the weight forms.
 *
 * A prepared row of x is, for LM_ACT_F32, the floats as they are; for the 8-bit kinds
 *
 *     int8  codes[cols rounded up to 64]     in the order that the unpacked weights come out in ("layout")
 *     float scale[cols / 32, up to 16]       d of each block of 32 columns
 *     float sum[cols / group, up to 16]      d * Σ code over each group of the matrix: what its biases
 * multiply
 *
 * with zeros in all that is rounded up. Weights are unpacked with a shift and a mask, which leaves the codes
 * of one byte's place in 32 bytes, not neighbours; so the codes of x are permuted once instead, with all
 * blocks kept whole:
 *
 *     NATURAL   5, 6, 8 bits: as x
 *     HALVES    4, 3 bits and mxfp4: of each 64 columns first the 32 even ones, then the 32 odd ones;
 *               of a last 32: 16 even ones, 16 odd ones
 *     QUARTERS  2 bits: of each 128 columns those of remainder 0 mod 4 (32 of them), 1, 2, 3;
 *               of each last 32 after that: 8 of remainder 0, 1, 2, 3
 */
#ifndef LM_CPU_MATMUL_FORM_H
#define LM_CPU_MATMUL_FORM_H

#include <string.h>

#include "cpu/matmul.h"

enum { LM_ACT_BLOCK = 32 };

typedef enum lm_act_layout { LM_ACT_NATURAL, LM_ACT_HALVES, LM_ACT_QUARTERS } lm_act_layout;

/* Kinds: 0 is plain floats, 10 pairs of bf16 (matmul_avx512_bf16.c); the others are 1 + layout * 3 +
 * log2(group / 32). */
enum { LM_ACT_F32 = 0, LM_ACT_BF16 = 10 };

static inline uint32_t lm_act_group(uint32_t kind) {
    return 32u << ((kind - 1) % 3);
}
static inline lm_act_layout lm_act_layout_of(uint32_t kind) {
    return (lm_act_layout)((kind - 1) / 3);
}

static inline uint32_t lm_round_up(uint32_t n, uint32_t to) {
    return (n + to - 1) / to * to;
}

/* Byte offsets within a prepared row. */
static inline size_t lm_act_scales_at(uint32_t cols) {
    return lm_round_up(cols, 64);
}
static inline size_t lm_act_sums_at(uint32_t cols) {
    return lm_act_scales_at(cols) + lm_round_up(cols / LM_ACT_BLOCK, 16) * sizeof(float);
}

/* Where column k of x stands among the codes. */
static inline uint32_t lm_act_position(lm_act_layout layout, uint32_t cols, uint32_t k) {
    if (layout == LM_ACT_HALVES) {
        uint32_t base = k & ~63u, i = k & 63;
        return base + 64 <= cols ? base + (i & 1) * 32 + i / 2 : base + (i & 1) * 16 + i / 2;
    }
    if (layout == LM_ACT_QUARTERS) {
        uint32_t base = k & ~127u, i = k & 127;
        if (base + 128 <= cols) return base + (i & 3) * 32 + i / 4;
        base = k & ~31u, i = k & 31;
        return base + (i & 3) * 8 + i / 4;
    }
    return k;
}

/* Number i of an unaligned array of dtype F32, F16 or BF16. */
static inline float lm_number(lm_dtype dtype, const void *array, size_t i) {
    const unsigned char *p = array;
    uint16_t half;
    float f;
    if (dtype == LM_F32) {
        memcpy(&f, p + 4 * i, sizeof f);
        return f;
    }
    memcpy(&half, p + 2 * i, sizeof half);
    return dtype == LM_BF16 ? lm_bf16_to_f32(half) : lm_f16_to_f32(half);
}

/* mxfp4 as the integer kernels read it: twice an E2M1 number is whole, so code + 12 is in [0, 24] and the
 * value is half the block's scale times (code - 12). Entry 8 is minus zero. */
#define LM_MXFP4_LIST 12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0
enum { LM_MXFP4_ZERO = 12 };

/* Half the scale: 2^(e - 128), exact at the subnormal end too; 255 is NaN (OCP MX 1.0). */
static inline float lm_e8m0_half(uint8_t e) {
    union {
        uint32_t u;
        float f;
    } v;
    v.u = e == 255 ? 0x7fc00000u : e >= 2 ? (uint32_t)(e - 1) << 23 : e == 1 ? 0x00400000u : 0x00200000u;
    return v.f;
}

/* log2 of the blocks of 32 columns in a group. */
static inline uint32_t lm_group_shift(const lm_matrix *w) {
    return w->quant.group == 128 ? 2 : w->quant.group == 64 ? 1 : 0;
}

/* The arrays of one expert. */
typedef struct lm_expert {
    const unsigned char *codes;
    const unsigned char *scales;
    const unsigned char *biases;
    size_t scales_row; /* bytes of scales (and of biases) per row */
} lm_expert;

static inline lm_expert lm_expert_of(const lm_matrix *w, uint32_t expert) {
    lm_expert e = {0};
    size_t first = (size_t)expert * w->rows;
    e.codes = (const unsigned char *)w->codes + first * w->row_bytes;
    if (w->quant.kind != LM_QUANT_NONE) {
        size_t each = w->quant.kind == LM_QUANT_MXFP4 ? 1 : w->dtype == LM_F32 ? 4 : 2;
        e.scales_row = w->cols / w->quant.group * each;
        e.scales = (const unsigned char *)w->scales + first * e.scales_row;
        if (w->quant.kind == LM_QUANT_AFFINE)
            e.biases = (const unsigned char *)w->biases + first * e.scales_row;
    }
    return e;
}

#endif
