#include "kernels.h"
#include "matmul.h"
#include "vector.h"

const lm_kernels lm_kernels_neon = {
    .name = "neon",
    .kv_f32 = false,
    .act_kind = lm_act_kind,
    .act_bytes = lm_act_bytes,
    .act_prepare = lm_act_prepare_neon,
    .matmul = lm_matmul_neon,
    .matmul_scratch = lm_matmul_scratch,
    .matmul_step = LM_MATMUL_STEP,
    .row = lm_matmul_row,
    .rms_norm = lm_rms_norm_neon,
    .add_scaled = lm_add_scaled_neon,
    .glu = lm_glu_neon,
    .rope = lm_rope_neon,
    .to_f16 = lm_to_f16_neon,
    .attend = lm_attend_neon,
};
