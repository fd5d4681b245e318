#include "kernels.h"
#include "matmul.h"
#include "vector.h"

const lm_kernels lm_kernels_reference = {
    .name = "reference",
    .kv_f32 = true,
    .act_kind = lm_act_kind_reference,
    .act_bytes = lm_act_bytes,
    .act_prepare = lm_act_prepare,
    .matmul = lm_matmul_reference,
    .matmul_scratch = lm_matmul_scratch,
    .matmul_step = 1,
    .row = lm_matmul_row,
    .rms_norm = lm_rms_norm_reference,
    .add_scaled = lm_add_scaled_reference,
    .glu = lm_glu_reference,
    .rope = lm_rope_reference,
    .to_f16 = lm_to_f16_reference,
    .attend = lm_attend_reference,
};
