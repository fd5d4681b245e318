/* act_neon.c - activations prepared with NEON: the same bytes as act.c. */
#include <arm_neon.h>
#include <math.h>

#include "cpu/matmul_form.h"

/* 32 codes in natural order; *d and *sum as in act.c. */
static inline int8x16x2_t quantise_block(const float *x, float *d, int32_t *sum) {
    float32x4_t v[8];
    uint32x4_t most =
        vdupq_n_u32(0); /* |x| as bits: ordered like integers, NaN above infinity above all numbers */
    int8x16x2_t q = {{vdupq_n_s8(0), vdupq_n_s8(0)}};
    for (int i = 0; i < 8; i++) {
        v[i] = vld1q_f32(x + 4 * i);
        most = vmaxq_u32(most, vreinterpretq_u32_f32(vabsq_f32(v[i])));
    }
    union {
        uint32_t u;
        float f;
    } top = {vmaxvq_u32(most)};
    *sum = 0;
    if (top.u >= 0x7f800000u || top.f < 1e-35f) {
        *d = top.u >= 0x7f800000u ? NAN : 0.0f;
        return q;
    }
    float to = 127.0f / top.f;
    int16x8_t half[4];
    for (int i = 0; i < 4; i++)
        half[i] = vcombine_s16(vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(v[2 * i], to))),
                               vmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(v[2 * i + 1], to))));
    q.val[0] = vcombine_s8(vmovn_s16(half[0]), vmovn_s16(half[1]));
    q.val[1] = vcombine_s8(vmovn_s16(half[2]), vmovn_s16(half[3]));
    *d = top.f / 127.0f;
    *sum = vaddlvq_s16(vaddq_s16(vaddq_s16(half[0], half[1]), vaddq_s16(half[2], half[3])));
    return q;
}

/* Block b of the row to where the layout wants its parts. */
static inline void place_block(lm_act_layout layout, uint32_t cols, uint32_t b, int8x16x2_t q,
                               int8_t *codes) {
    int8_t *low = codes + b * LM_ACT_BLOCK, *high = low + 16;
    if (layout != LM_ACT_NATURAL) {
        int8x16_t even = vuzp1q_s8(q.val[0], q.val[1]), odd = vuzp2q_s8(q.val[0], q.val[1]);
        q.val[0] = even;
        q.val[1] = odd;
    }
    if (layout == LM_ACT_HALVES && ((b | 1u) + 1) * LM_ACT_BLOCK <= cols) {
        low = codes + (b & ~1u) * LM_ACT_BLOCK + (b & 1) * 16;
        high = low + 32;
    }
    if (layout == LM_ACT_QUARTERS) {
        int8x16_t first = vuzp1q_s8(q.val[0], q.val[1]),
                  second = vuzp2q_s8(q.val[0], q.val[1]); /* 0 | 1, 2 | 3 */
        bool whole = ((b | 3u) + 1) * LM_ACT_BLOCK <= cols;
        int8_t *to = whole ? codes + (b & ~3u) * LM_ACT_BLOCK + (b & 3) * 8 : low;
        size_t apart = whole ? 32 : 8;
        vst1_s8(to, vget_low_s8(first));
        vst1_s8(to + apart, vget_high_s8(first));
        vst1_s8(to + 2 * apart, vget_low_s8(second));
        vst1_s8(to + 3 * apart, vget_high_s8(second));
        return;
    }
    vst1q_s8(low, q.val[0]);
    vst1q_s8(high, q.val[1]);
}

void lm_act_prepare_neon(uint32_t kind, const float *x, uint32_t cols, void *act) {
    if (kind == LM_ACT_F32) {
        memcpy(act, x, (size_t)cols * sizeof(float));
        return;
    }
    lm_act_layout layout = lm_act_layout_of(kind);
    uint32_t per_group = lm_act_group(kind) / LM_ACT_BLOCK;
    int8_t *codes = act;
    float *scales = (float *)(void *)((char *)act + lm_act_scales_at(cols));
    float *sums = (float *)(void *)((char *)act + lm_act_sums_at(cols));

    memset(codes + cols, 0, lm_act_bytes(kind, cols) - cols);
    for (uint32_t b = 0; b < cols / LM_ACT_BLOCK; b++) {
        int32_t sum;
        int8x16x2_t q = quantise_block(x + b * LM_ACT_BLOCK, &scales[b], &sum);
        place_block(layout, cols, b, q, codes);
        float part = scales[b] * (float)sum; /* a statement of its own: no set may fuse it */
        sums[b / per_group] += part;
    }
}
