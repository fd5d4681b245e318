/* Products by what the processor multiplies with; the small kernels are the same for all of them. */
#include "kernels.h"
#include "matmul.h"
#include "vector.h"

#define NEON(title, product)                                                                                 \
    {                                                                                                        \
        .name = title, .kv_f32 = false, .act_kind = lm_act_kind, .act_bytes = lm_act_bytes,                  \
        .act_prepare = lm_act_prepare_neon, .matmul = product, .matmul_scratch = lm_matmul_scratch,          \
        .matmul_step = LM_MATMUL_STEP, .row = lm_matmul_row, .rms_norm = lm_rms_norm_neon,                   \
        .add_scaled = lm_add_scaled_neon, .glu = lm_glu_neon, .rope = lm_rope_neon,                          \
        .to_f16 = lm_to_f16_neon, .attend = lm_attend_neon,                                                  \
    }

const lm_kernels lm_kernels_neon = NEON("neon", lm_matmul_neon);
const lm_kernels lm_kernels_neon_dotprod = NEON("neon-dotprod", lm_matmul_neon_dotprod);
const lm_kernels lm_kernels_neon_i8mm = NEON("neon-i8mm", lm_matmul_neon_i8mm);
