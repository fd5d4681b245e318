/* quant.c - the names and shapes of the quantised forms. */
#include "weights/weights.h"

lm_quant_spec lm_quant_float_spec(lm_quant kind) {
    switch (kind) {
    case LM_QUANT_MXFP4: return (lm_quant_spec){kind, 4, 32};
    case LM_QUANT_MXFP8: return (lm_quant_spec){kind, 8, 32};
    case LM_QUANT_NVFP4: return (lm_quant_spec){kind, 4, 16};
    default: return (lm_quant_spec){0};
    }
}

const char *lm_quant_mode(lm_quant kind) {
    static const char *const names[LM_QUANT_KINDS] = {"none", "affine", "mxfp4", "mxfp8", "nvfp4"};
    return names[kind];
}

bool lm_quant_known(lm_quant_spec q) {
    if (lm_quant_is_float(q.kind)) {
        lm_quant_spec only = lm_quant_float_spec(q.kind);
        return q.bits == only.bits && q.group == only.group;
    }
    bool bits = (q.bits >= 2 && q.bits <= 6) || q.bits == 8;
    return q.kind == LM_QUANT_AFFINE && bits && (q.group == 32 || q.group == 64 || q.group == 128);
}
