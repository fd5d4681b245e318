#include "kernels.h"
#include "matmul.h"
#include "vector.h"

const lm_kernels lm_kernels_portable = {
    .name = "portable",
    .kv_f32 = false,
    .act_kind = lm_act_kind_portable,
    .act_bytes = lm_act_bytes,
    .act_prepare = lm_act_prepare,
    .matmul = lm_matmul_portable,
    .matmul_scratch = lm_matmul_scratch,
    .matmul_step = 1,
    .row = lm_matmul_row,
    .rms_norm = lm_rms_norm_portable,
    .add_scaled = lm_add_scaled_portable,
    .glu = lm_glu_portable,
    .rope = lm_rope_portable,
    .to_f16 = lm_to_f16_portable,
    .attend = lm_attend_portable,
};
