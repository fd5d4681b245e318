#include "weights/weights.h"
#include "weights/bits.h"

#include <string.h>

static const struct {
    const char *name;
    uint32_t size;
} types[] = {
    [LM_F32] = {"F32", 4},   [LM_F16] = {"F16", 2},    [LM_BF16] = {"BF16", 2}, [LM_U32] = {"U32", 4},
    [LM_I32] = {"I32", 4},   [LM_U8] = {"U8", 1},      [LM_I8] = {"I8", 1},     [LM_U16] = {"U16", 2},
    [LM_I16] = {"I16", 2},   [LM_I64] = {"I64", 8},    [LM_U64] = {"U64", 8},   [LM_F64] = {"F64", 8},
    [LM_BOOL] = {"BOOL", 1}, [LM_F8] = {"F8_E4M3", 1},
};

uint32_t lm_dtype_size(lm_dtype t) {
    return types[t].size;
}

const char *lm_dtype_name(lm_dtype t) {
    return types[t].name;
}

float lm_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 0x1f;
    uint32_t fraction = h & 0x3ff;

    if (exponent == 0x1f) return float_of(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    /* Zero and subnormals: fraction * 2^-24, exact in f32. */
    return float_of(sign | bits_of((float)fraction * 0x1p-24f));
}

uint16_t lm_f32_to_f16(float f) {
    uint32_t u = bits_of(f);
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000);
    uint32_t magnitude = u & 0x7fffffffu;

    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x3ff)); /* stays a NaN */
    if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00);   /* 65520 and up round to infinity */
    if (magnitude < 0x38800000u) {
        /* Below 2^-14. Adding 0.5 leaves the value, rounded to a multiple of 2^-24, in the low bits of the
         * sum. */
        return (uint16_t)(sign | (bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u));
    }
    /* Half of the unit in the last place, less one when the kept part is even: ties go to even. */
    magnitude += 0xfffu + (magnitude >> 13 & 1);
    return (uint16_t)(sign | (magnitude - 0x38000000u) >> 13);
}

uint16_t lm_f32_to_bf16(float f) {
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(u >> 16 | 0x40); /* stays a NaN */
    return (uint16_t)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
}
