/* quantize.c - see quantize.h for the arithmetic. Loops run over a group that lies in an array of floats and
 * hold no branches, so that compilers make vector code of them. */
#include "weights/quantize.h"
#include "weights/bits.h"

#include <float.h>
#include <math.h>
#include <string.h>

#define GROUP_MAX 128

typedef struct group {
    float x[GROUP_MAX];
    uint8_t codes[GROUP_MAX];
    uint32_t n;
} group;

/* To the nearest even integer, |f| < 2^22: the sum has no bits below 1. */
static float round_even(float f) {
    return (f + 0x1.8p23f) - 0x1.8p23f;
}

/* ---- numbers in */

/* Exact; exponents and fractions of f16 move to their places in f32, whose bias is 112 larger. */
static void load_f16(const uint8_t *from, uint32_t n, float *x) {
    for (uint32_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, from + 2 * i, 2);
        float magnitude = float_of((uint32_t)(h & 0x7fff) << 13) * 0x1p112f;
        uint32_t special = (h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0; /* which are lost in that */
        x[i] = float_of(bits_of(magnitude) | special | (uint32_t)(h & 0x8000) << 16);
    }
}

static void load_bf16(const uint8_t *from, uint32_t n, float *x) {
    for (uint32_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, from + 2 * i, 2);
        x[i] = lm_bf16_to_f32(h);
    }
}

static void load(lm_dtype dtype, const uint8_t *from, uint32_t n, float *x) {
    switch (dtype) {
    case LM_F16: load_f16(from, n, x); break;
    case LM_BF16: load_bf16(from, n, x); break;
    default: memcpy(x, from, n * sizeof *x);
    }
}

static void store(lm_dtype dtype, float f, void *to, uint64_t i) {
    uint16_t h = dtype == LM_F16 ? lm_f32_to_f16(f) : lm_f32_to_bf16(f);
    if (dtype == LM_F32)
        memcpy((uint8_t *)to + 4 * i, &f, 4);
    else
        memcpy((uint8_t *)to + 2 * i, &h, 2);
}

static float rounded(lm_dtype dtype, float f) {
    if (dtype == LM_F16) return lm_f16_to_f32(lm_f32_to_f16(f));
    return dtype == LM_BF16 ? lm_bf16_to_f32(lm_f32_to_bf16(f)) : f;
}

/* ---- codes out: a stream of bits, lowest first. Eight codes are `bits` bytes. */
static void pack(const group *g, uint32_t bits, uint8_t *out) {
    if (bits == 8) {
        memcpy(out, g->codes, g->n);
        return;
    }
    for (uint32_t i = 0; i < g->n; i += 8, out += bits) {
        uint64_t word = 0;
        for (uint32_t k = 0; k < 8; k++) word |= (uint64_t)g->codes[i + k] << k * bits;
        for (uint32_t k = 0; k < bits; k++) out[k] = (uint8_t)(word >> 8 * k);
    }
}

/* ---- affine */

static bool affine(group *g, uint32_t bits, float *ret_scale, float *ret_bias) {
    float low = FLT_MAX, high = -FLT_MAX, bins = (float)((1u << bits) - 1);
    uint32_t strange = 0;
    for (uint32_t i = 0; i < g->n; i++) {
        float f = g->x[i];
        low = f < low ? f : low;
        high = f > high ? f : high;
        strange |= (bits_of(f) & 0x7f800000u) == 0x7f800000u;
    }
    if (strange) return false;
    bool from_low = fabsf(low) > fabsf(high);
    float scale = (high - low) / bins, edge = from_low ? low : high, bias = 0;
    if (scale < 1e-7f) scale = 1e-7f;
    if (scale > FLT_MAX) return false;
    if (!from_low) scale = -scale;
    float k = rintf(edge / scale);
    if (k != 0) {
        scale = edge / k;
        bias = edge;
    }
    for (uint32_t i = 0; i < g->n; i++) {
        float code = (g->x[i] - bias) / scale;
        code = code < 0.0f ? 0.0f : code; /* before rounding: the limits are whole numbers */
        code = code > bins ? bins : code;
        g->codes[i] = (uint8_t)(int32_t)round_even(code);
    }
    *ret_scale = scale;
    *ret_bias = bias;
    return true;
}

/* ---- floating-point forms */

/* E4M3 without infinities: at most 448. */
static uint8_t to_e4m3(float f) {
    uint32_t u = bits_of(f), magnitude = u & 0x7fffffffu;
    uint32_t normal = ((magnitude + 0x7ffffu + (magnitude >> 20 & 1)) >> 20) - (120u << 3);
    float low = float_of(magnitude) < 1.0f ? float_of(magnitude) : 1.0f;
    uint32_t subnormal = (uint32_t)(int32_t)round_even(low * 512.0f);
    uint32_t code = magnitude < 0x3c800000u ? subnormal : normal; /* 2^-6 */
    code = code > 0x7e ? 0x7e : code;
    return (uint8_t)(code | (u >> 24 & 0x80));
}

static float from_e4m3(uint8_t code) {
    uint32_t exponent = code >> 3 & 15, fraction = code & 7;
    return exponent ? float_of((exponent + 120) << 23 | fraction << 20) : (float)fraction * 0x1p-9f;
}

/* 0, 0.5, 1, 1.5, 2, 3, 4, 6: how many of the middles between them lie below. */
static uint8_t to_e2m1(float f) {
    float a = fabsf(f);
    int code = (a > 0.25f) + (a > 0.75f) + (a > 1.25f) + (a > 1.75f) + (a > 2.5f) + (a > 3.5f) + (a > 5.0f);
    return (uint8_t)(code | (f < 0 && code > 0 ? 8 : 0));
}

static bool largest(const group *g, float *out) {
    uint32_t most = 0; /* magnitudes order as their bits do */
    for (uint32_t i = 0; i < g->n; i++) {
        uint32_t u = bits_of(g->x[i]) & 0x7fffffffu;
        most = u > most ? u : most;
    }
    *out = float_of(most);
    return most < 0x7f800000u;
}

/* The exponent of the smallest power of two that is not below f; 0 for 0. */
static int power_above(float f) {
    int exponent = 0;
    if (f == 0) return 0;
    float fraction = frexpf(f, &exponent); /* in [0.5, 1) */
    return fraction == 0.5f ? exponent - 1 : exponent;
}

static bool floating(group *g, lm_quant kind, lm_dtype dtype, uint8_t *ret_scale) {
    float most, scale;
    if (!largest(g, &most)) return false;
    most = rounded(dtype, most / (kind == LM_QUANT_MXFP8 ? 448.0f : 6.0f));
    if (kind == LM_QUANT_NVFP4) {
        *ret_scale = to_e4m3(most);
        scale = from_e4m3(*ret_scale);
    } else {
        int exponent = power_above(most);
        if (exponent < -127) exponent = -127;
        *ret_scale = (uint8_t)(exponent + 127);
        scale = ldexpf(1.0f, exponent);
    }
    if (scale == 0) { /* nvfp4 of numbers that are too small for it */
        memset(g->codes, 0, g->n);
        return true;
    }
    if (kind == LM_QUANT_MXFP8)
        for (uint32_t i = 0; i < g->n; i++) g->codes[i] = to_e4m3(g->x[i] / scale);
    else
        for (uint32_t i = 0; i < g->n; i++) g->codes[i] = to_e2m1(g->x[i] / scale);
    return true;
}

bool lm_quantize(lm_quant_spec spec, lm_dtype dtype, const void *numbers, uint64_t n, void *codes,
                 void *scales, void *biases) {
    LM_ASSERT(lm_quant_known(spec) && n % spec.group == 0);
    LM_ASSERT(dtype == LM_F32 || dtype == LM_F16 || dtype == LM_BF16);
    const uint8_t *from = numbers;
    uint8_t *to = codes;
    group g = {.n = spec.group};
    for (uint64_t i = 0; i < n / spec.group; i++) {
        float scale, bias;
        load(dtype, from, g.n, g.x);
        if (spec.kind == LM_QUANT_AFFINE) {
            if (!affine(&g, spec.bits, &scale, &bias)) return false;
            store(dtype, scale, scales, i);
            store(dtype, bias, biases, i);
        } else if (!floating(&g, spec.kind, dtype, (uint8_t *)scales + i)) {
            return false;
        }
        pack(&g, spec.bits, to);
        from += (uint64_t)g.n * lm_dtype_size(dtype);
        to += g.n * spec.bits / 8;
    }
    return true;
}

bool lm_numbers_cast(lm_dtype from, const void *numbers, uint64_t n, lm_dtype to, void *out) {
    const uint8_t *p = numbers;
    float x[GROUP_MAX];
    for (uint64_t i = 0; i < n; i += GROUP_MAX) {
        uint32_t some = n - i < GROUP_MAX ? (uint32_t)(n - i) : GROUP_MAX;
        load(from, p + i * lm_dtype_size(from), some, x);
        for (uint32_t k = 0; k < some; k++) {
            if (isfinite(x[k]) && !isfinite(rounded(to, x[k]))) return false;
            store(to, x[k], out, i + k);
        }
    }
    return true;
}
