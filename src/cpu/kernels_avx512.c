/* The products with AVX-512 VNNI; the small kernels are those of AVX2, which such a processor has too. */
#include "kernels.h"
#include "matmul.h"
#include "vector.h"

const lm_kernels lm_kernels_avx512 = {
    .name = "avx512",
    .kv_f32 = false,
    .act_kind = lm_act_kind,
    .act_bytes = lm_act_bytes,
    .act_prepare = lm_act_prepare_avx2,
    .matmul = lm_matmul_avx512,
    .matmul_scratch = lm_matmul_scratch,
    .matmul_step = LM_MATMUL_STEP,
    .row = lm_matmul_row,
    .rms_norm = lm_rms_norm_avx2,
    .add_scaled = lm_add_scaled_avx2,
    .glu = lm_glu_avx2,
    .rope = lm_rope_avx2,
    .to_f16 = lm_to_f16_avx2,
    .attend = lm_attend_avx2,
};
