/* GGML blocks to MLX groups of 32.
 *
 * Both are affine, so most types convert code by code and only the scales are written differently:
 *     Q4_0  d * (q - 8)      scale d, bias -8 d          Q5_0  d * (q - 16)    scale d, bias -16 d
 *     Q4_1  d * q + m        scale d, bias m             Q5_1  d * q + m       scale d, bias m
 *     Q8_0  d * q, q signed  scale d, bias -128 d, code q + 128
 *     Q4_K  d sc * q - dmin m  (Q5_K alike): scale d sc, bias -dmin m, one pair for each 32 of the 256
 * d, m and dmin are f16 and the small factors integers below 64. A power of two times d is exact in f16. d *
 * sc needs up to 17 bits: f16 rounds it by at most 2^-11 of itself, never worse, since a product that falls
 * into the subnormals is a whole number of 2^-24 and so is d. What leaves the range of f16 is refused.
 *
 * Q6_K has one scale for every 16 elements, which no MLX form has: it becomes 8-bit codes, of whose grids the
 * one with the least error is taken. MXFP4 is MXFP4; only the order of the nibbles differs.
 *
 * The block layouts are those of ggml-common.h. */
#include "store/import_private.h"

#include <math.h>
#include <string.h>

static const struct {
    lm_ggml_type type;
    lm_form form;
} forms[] = {
    {LM_GGML_F32, {{LM_QUANT_NONE, 0, 0}, LM_F32}},     {LM_GGML_F16, {{LM_QUANT_NONE, 0, 0}, LM_F16}},
    {LM_GGML_BF16, {{LM_QUANT_NONE, 0, 0}, LM_BF16}},   {LM_GGML_Q4_0, {{LM_QUANT_AFFINE, 4, 32}, LM_F16}},
    {LM_GGML_Q4_1, {{LM_QUANT_AFFINE, 4, 32}, LM_F16}}, {LM_GGML_Q5_0, {{LM_QUANT_AFFINE, 5, 32}, LM_F16}},
    {LM_GGML_Q5_1, {{LM_QUANT_AFFINE, 5, 32}, LM_F16}}, {LM_GGML_Q8_0, {{LM_QUANT_AFFINE, 8, 32}, LM_F16}},
    {LM_GGML_Q4_K, {{LM_QUANT_AFFINE, 4, 32}, LM_F16}}, {LM_GGML_Q5_K, {{LM_QUANT_AFFINE, 5, 32}, LM_F16}},
    {LM_GGML_Q6_K, {{LM_QUANT_AFFINE, 8, 32}, LM_F16}}, {LM_GGML_MXFP4, {{LM_QUANT_MXFP4, 4, 32}, LM_U8}},
};

bool lm_form_of(lm_ggml_type type, lm_form *out) {
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (forms[i].type == type) {
            *out = forms[i].form;
            return true;
        }
    }
    return false;
}

static uint16_t load_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static float load_f16(const uint8_t *p) {
    return lm_f16_to_f32(load_u16(p));
}

/* Stores an f16; false when the value is not finite there. */
static bool put_f16(uint16_t *out, float v) {
    *out = lm_f32_to_f16(v);
    return (*out & 0x7c00) != 0x7c00;
}

/* Packs 32 codes of `bits` bits into bits * 4 bytes, lowest bit first. */
static void pack(const uint8_t q[32], uint32_t bits, uint8_t *out) {
    if (bits == 8) {
        memcpy(out, q, 32);
        return;
    }
    if (bits == 4) {
        for (int i = 0; i < 16; i++) out[i] = (uint8_t)(q[2 * i] | q[2 * i + 1] << 4);
        return;
    }
    for (int i = 0; i < 4; i++, q += 8, out += bits) { /* eight codes fill `bits` bytes */
        uint64_t word = 0;
        for (uint32_t k = 0; k < 8; k++) word |= (uint64_t)q[k] << (k * bits);
        for (uint32_t k = 0; k < bits; k++) out[k] = (uint8_t)(word >> 8 * k);
    }
}

/* ---- blocks of 32 */

/* 16 bytes: element i in the low nibble of byte i, element i + 16 in its high one. */
static void nibbles(const uint8_t *p, uint8_t q[32]) {
    for (int i = 0; i < 16; i++) {
        q[i] = p[i] & 15;
        q[i + 16] = p[i] >> 4;
    }
}

static void fifth_bits(const uint8_t *p, uint8_t q[32]) { /* bit i of 32 belongs to element i */
    for (int i = 0; i < 32; i++) q[i] |= (uint8_t)((p[i / 8] >> (i % 8) & 1) << 4);
}

static bool small_block(lm_ggml_type type, const uint8_t *b, uint8_t q[32], uint16_t *scale, uint16_t *bias) {
    float d = load_f16(b);
    bool ok = put_f16(scale, d);
    switch (type) {
    case LM_GGML_Q4_0: nibbles(b + 2, q); return put_f16(bias, -8 * d) && ok;
    case LM_GGML_Q4_1: nibbles(b + 4, q); return put_f16(bias, load_f16(b + 2)) && ok;
    case LM_GGML_Q5_0:
        nibbles(b + 6, q);
        fifth_bits(b + 2, q);
        return put_f16(bias, -16 * d) && ok;
    case LM_GGML_Q5_1:
        nibbles(b + 8, q);
        fifth_bits(b + 4, q);
        return put_f16(bias, load_f16(b + 2)) && ok;
    default: /* Q8_0 */
        for (int i = 0; i < 32; i++) q[i] = b[2 + i] ^ 0x80;
        return put_f16(bias, -128 * d) && ok;
    }
}

/* ---- blocks of 256 */

/* The 6-bit scale and minimum of group g of 8, out of 12 bytes: bytes 0..3 and 4..7 hold those of groups 0..3
 * in their low six bits; bytes 8..11 hold the low nibbles of groups 4..7, whose high two bits lie above the
 * first eight bytes' six. */
static void k_factors(const uint8_t *p, int g, uint8_t *sc, uint8_t *m) {
    if (g < 4) {
        *sc = p[g] & 63;
        *m = p[g + 4] & 63;
    } else {
        *sc = (uint8_t)((p[g + 4] & 15) | (p[g - 4] >> 6) << 4);
        *m = (uint8_t)((p[g + 4] >> 4) | (p[g] >> 6) << 4);
    }
}

/* Group g of a Q4_K or Q5_K block: d, dmin, 12 bytes of factors, (32 bytes of fifth bits,) 128 bytes of
 * nibbles. */
static bool k_group(lm_ggml_type type, const uint8_t *b, int g, uint8_t q[32], uint16_t *scale,
                    uint16_t *bias) {
    const uint8_t *high = b + 16, *low = type == LM_GGML_Q5_K ? b + 48 : b + 16;
    uint8_t sc, m;
    k_factors(b + 4, g, &sc, &m);
    for (int i = 0; i < 32; i++) {
        q[i] = low[g / 2 * 32 + i] >> (g % 2 * 4) & 15;
        if (type == LM_GGML_Q5_K) q[i] |= (uint8_t)((high[i] >> g & 1) << 4);
    }
    bool ok = put_f16(scale, load_f16(b) * (float)sc);
    return put_f16(bias, -(load_f16(b + 2) * (float)m)) && ok;
}

/* Elements 32 g .. 32 g + 31 of a Q6_K block as whole numbers q - 32, with the two scales that hold for 16
 * each. Layout: 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, d; halves of 128 elements
 * follow each other. */
static void q6_group(const uint8_t *b, int g, int8_t q[32], float s[2]) {
    int half = g / 4, quarter = g % 4;
    const uint8_t *low = b + half * 64 + quarter % 2 * 32;
    const uint8_t *high = b + 128 + half * 32;
    float d = load_f16(b + 208);
    for (int i = 0; i < 32; i++) {
        int nibble = quarter < 2 ? low[i] & 15 : low[i] >> 4;
        q[i] = (int8_t)((nibble | (high[i] >> 2 * quarter & 3) << 4) - 32);
    }
    for (int k = 0; k < 2; k++) s[k] = d * (float)(int8_t)b[192 + 2 * g + k];
}

typedef struct grid {
    uint8_t q[32];
    uint16_t scale, bias;
    float error; /* sum of squares */
} grid;

/* Puts x on the grid of this scale and bias, as f16 has them, and keeps it in *best when it lies closer. */
static void try_grid(const float x[32], float scale, float bias, grid *best) {
    grid t;
    if (!put_f16(&t.scale, scale) || !put_f16(&t.bias, bias)) return;
    float s = lm_f16_to_f32(t.scale), b = lm_f16_to_f32(t.bias), inverse = s != 0.0f ? 1.0f / s : 0.0f;
    t.error = 0;
    for (int i = 0; i < 32; i++) {
        float code = rintf((x[i] - b) * inverse);
        code = code < 0 ? 0 : code > 255 ? 255 : code;
        float miss = x[i] - (s * code + b);
        t.q[i] = (uint8_t)code;
        t.error += miss * miss;
    }
    if (t.error < best->error) *best = t;
}

/* Two grids of 16 onto one of 256 steps. Where one step divides the other, or nearly, a grid through zero
 * holds both as well as f16 can say the step; else the evenly spread one is usually the closest. */
static bool q6_requant(const int8_t q[32], const float s[2], uint8_t out[32], uint16_t *scale,
                       uint16_t *bias) {
    float x[32], least = 0, most = 0;
    grid best = {.error = INFINITY};
    if (!isfinite(s[0]) || !isfinite(s[1])) return false;
    for (int i = 0; i < 32; i++) {
        x[i] = s[i / 16] * (float)q[i];
        least = fminf(least, x[i]);
        most = fmaxf(most, x[i]);
    }
    float widest = fmaxf(most, -least) * 0x1p-12f;
    float enough = 32 * widest * widest; /* as close as f16 scales come */
    for (int k = 0; k < 2 && best.error > enough; k++) {
        for (int part = 1; part <= 4 && best.error > enough; part++) {
            /* rounded first, so that 128 times it is exact and zero stays zero */
            float step = lm_f16_to_f32(lm_f32_to_f16(fabsf(s[k]) / (float)part));
            if (step == 0 || least < -128 * step || most > 127 * step) continue;
            try_grid(x, step, -128 * step, &best);
        }
    }
    if (best.error > enough) try_grid(x, (most - least) / 255, least, &best);
    memcpy(out, best.q, 32);
    *scale = best.scale;
    *bias = best.bias;
    return best.error < INFINITY;
}

/* ---- all of them */

static bool convert_mxfp4(const uint8_t *src, uint64_t n, uint8_t *codes, uint8_t *exponents) {
    for (uint64_t i = 0; i < n / 32; i++, src += 17, codes += 16) {
        uint8_t q[32];
        exponents[i] = src[0];
        nibbles(src + 1, q);
        pack(q, 4, codes);
        if (src[0] == 255) return false; /* E8M0 has NaN there */
    }
    return true;
}

bool lm_blocks_convert(lm_ggml_type type, const uint8_t *src, uint64_t n, uint8_t *codes, uint16_t *scales,
                       uint16_t *biases) {
    lm_form form;
    LM_ASSERT(lm_form_of(type, &form) && form.quant.kind != LM_QUANT_NONE && n % lm_ggml_block(type) == 0);
    if (type == LM_GGML_MXFP4) return convert_mxfp4(src, n, codes, (uint8_t *)scales);

    uint32_t groups = lm_ggml_block(type) / 32; /* in a block */
    bool ok = true;
    for (uint64_t at = 0; at < n; at += 32, codes += form.quant.bits * 4, scales++, biases++) {
        const uint8_t *b = src + at / lm_ggml_block(type) * lm_ggml_block_bytes(type);
        int g = (int)(at / 32 % groups);
        uint8_t q[32];
        if (type == LM_GGML_Q6_K) {
            int8_t whole[32];
            float s[2];
            q6_group(b, g, whole, s);
            ok &= q6_requant(whole, s, q, scales, biases);
        } else if (groups == 8) {
            ok &= k_group(type, b, g, q, scales, biases);
        } else {
            ok &= small_block(type, b, q, scales, biases);
        }
        pack(q, form.quant.bits, codes);
    }
    return ok;
}
