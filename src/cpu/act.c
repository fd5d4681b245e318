/* act.c - activations prepared in plain C, and the sizes that every feature set shares. */
#include <math.h>

#include "cpu/matmul_form.h"

static uint32_t quantised_kind(lm_act_layout layout, uint32_t group) {
    return 1 + (uint32_t)layout * 3 + (group == 128 ? 2 : group == 64 ? 1 : 0);
}

uint32_t lm_act_kind_reference(const lm_matrix *w) {
    (void)w;
    return LM_ACT_F32;
}

uint32_t lm_act_kind_portable(const lm_matrix *w) {
    return w->quant.kind == LM_QUANT_NONE ? LM_ACT_F32 : quantised_kind(LM_ACT_NATURAL, w->quant.group);
}

uint32_t lm_act_kind(const lm_matrix *w) {
    if (w->quant.kind == LM_QUANT_NONE) return LM_ACT_F32;
    lm_act_layout layout = w->quant.bits == 2                         ? LM_ACT_QUARTERS
                           : w->quant.bits == 3 || w->quant.bits == 4 ? LM_ACT_HALVES
                                                                      : LM_ACT_NATURAL;
    return quantised_kind(layout, w->quant.group);
}

size_t lm_act_bytes(uint32_t kind, uint32_t cols) {
    if (kind == LM_ACT_F32) return ((size_t)cols * sizeof(float) + 63) / 64 * 64;
    if (kind == LM_ACT_BF16) return (size_t)lm_round_up(cols, 32) * 2 * sizeof(uint16_t);
    return lm_act_sums_at(cols) + lm_round_up(cols / lm_act_group(kind), 16) * sizeof(float);
}

/* Codes and scale of one block; the rounding is to nearest even, as the vector instructions do. */
static float quantise_block(const float *x, int8_t *q) {
    float most = 0;
    bool finite = true;
    for (uint32_t i = 0; i < LM_ACT_BLOCK; i++) {
        float a = fabsf(x[i]);
        if (!isfinite(a)) finite = false;
        if (a > most) most = a;
    }
    /* Below this 127 / most overflows; such a block counts as zero. */
    if (!finite || most < 1e-35f) {
        memset(q, 0, LM_ACT_BLOCK);
        return finite ? 0.0f : NAN;
    }
    float to = 127.0f / most;
    for (uint32_t i = 0; i < LM_ACT_BLOCK; i++) q[i] = (int8_t)lrintf(x[i] * to);
    return most / 127.0f;
}

void lm_act_prepare(uint32_t kind, const float *x, uint32_t cols, void *act) {
    if (kind == LM_ACT_F32) {
        memcpy(act, x, (size_t)cols * sizeof(float));
        return;
    }
    lm_act_layout layout = lm_act_layout_of(kind);
    uint32_t group = lm_act_group(kind);
    int8_t *codes = act;
    float *scales = (float *)(void *)((char *)act + lm_act_scales_at(cols));
    float *sums = (float *)(void *)((char *)act + lm_act_sums_at(cols));

    memset(codes + cols, 0, lm_act_bytes(kind, cols) - cols);
    for (uint32_t k = 0; k < cols; k += LM_ACT_BLOCK) {
        int8_t q[LM_ACT_BLOCK];
        int32_t sum = 0;
        float d = quantise_block(x + k, q);
        for (uint32_t i = 0; i < LM_ACT_BLOCK; i++) {
            codes[lm_act_position(layout, cols, k + i)] = q[i];
            sum += q[i];
        }
        scales[k / LM_ACT_BLOCK] = d;
        float part = d * (float)sum; /* a statement of its own: no set may fuse it */
        sums[k / group] += part;
    }
}
