/* The products with AVX-512 VNNI, and with BF16 too; the small kernels are those of AVX2, which such a
 * processor has as well. */
#include "kernels.h"
#include "matmul.h"
#include "vector.h"

#define AVX512(title, kind, prepare, product)                                                                \
    {                                                                                                        \
        .name = title, .kv_f32 = false, .act_kind = kind, .act_bytes = lm_act_bytes, .act_prepare = prepare, \
        .matmul = product, .matmul_scratch = lm_matmul_scratch, .matmul_step = LM_MATMUL_STEP,               \
        .row = lm_matmul_row, .rms_norm = lm_rms_norm_avx2, .add_scaled = lm_add_scaled_avx2,                \
        .glu = lm_glu_avx2, .rope = lm_rope_avx2, .to_f16 = lm_to_f16_avx2, .attend = lm_attend_avx2,        \
    }

const lm_kernels lm_kernels_avx512 = AVX512("avx512", lm_act_kind, lm_act_prepare_avx2, lm_matmul_avx512);
const lm_kernels lm_kernels_avx512_bf16 =
    AVX512("avx512-bf16", lm_act_kind_avx512_bf16, lm_act_prepare_avx512_bf16, lm_matmul_avx512_bf16);
