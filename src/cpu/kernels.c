/* The table of each feature set: its products, and the small kernels of its kind of processor. */
#include "kernels.h"
#include "matmul.h"
#include "vector.h"

#define SET(title, products, act, prepare, step, rest, exact)                                                \
    {                                                                                                        \
        .name = title, .kv_f32 = exact, .act_kind = act, .act_bytes = lm_act_bytes, .act_prepare = prepare,  \
        .matmul = products, .matmul_scratch = lm_matmul_scratch, .matmul_step = step, .row = lm_matmul_row,  \
        .rms_norm = lm_rms_norm_##rest,                                                                      \
        .layer_norm = exact ? lm_layer_norm_reference : lm_layer_norm_portable,                              \
        .add_scaled = lm_add_scaled_##rest, .glu = lm_glu_##rest, .rope = lm_rope_##rest,                    \
        .to_f16 = lm_to_f16_##rest, .attend = lm_attend_##rest,                                              \
    }

const lm_kernels lm_kernels_reference =
    SET("reference", lm_matmul_reference, lm_act_kind_reference, lm_act_prepare, 1, reference, true);
const lm_kernels lm_kernels_portable =
    SET("portable", lm_matmul_portable, lm_act_kind_portable, lm_act_prepare, 1, portable, false);

#if defined(__x86_64__)
#define X86(title, products, act, prepare) SET(title, products, act, prepare, LM_MATMUL_STEP, avx2, false)
const lm_kernels lm_kernels_avx2 = X86("avx2", lm_matmul_avx2, lm_act_kind, lm_act_prepare_avx2);
const lm_kernels lm_kernels_avx512 = X86("avx512", lm_matmul_avx512, lm_act_kind, lm_act_prepare_avx2);
const lm_kernels lm_kernels_avx512_bf16 =
    X86("avx512-bf16", lm_matmul_avx512_bf16, lm_act_kind_avx512_bf16, lm_act_prepare_avx512_bf16);
#endif

#if defined(__aarch64__)
#define ARM(title, products)                                                                                 \
    SET(title, products, lm_act_kind, lm_act_prepare_neon, LM_MATMUL_STEP, neon, false)
const lm_kernels lm_kernels_neon = ARM("neon", lm_matmul_neon);
const lm_kernels lm_kernels_neon_dotprod = ARM("neon-dotprod", lm_matmul_neon_dotprod);
const lm_kernels lm_kernels_neon_i8mm = ARM("neon-i8mm", lm_matmul_neon_i8mm);
#endif
