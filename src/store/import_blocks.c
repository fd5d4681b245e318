/* GGML blocks to MLX groups of 32.
 *
 * Both are affine, so most types convert code by code and only the scales are written differently:
 *     Q4_0  d * (q - 8)      scale d, bias -8 d          Q5_0  d * (q - 16)    scale d, bias -16 d
 *     Q4_1  d * q + m        scale d, bias m             Q5_1  d * q + m       scale d, bias m
 *     Q8_0  d * q, q signed  scale d, bias -128 d, code q + 128
 *     Q4_K  d sc * q - dmin m  (Q5_K alike): scale d sc, bias -dmin m, one pair for each 32 of the 256
 *     IQ4_NL  d * v[q], v a table of 16 signed bytes: 8 bits, as Q8_0 (IQ4_XS alike, with d sc for each 32)
 *     TQ1_0, TQ2_0  d * (q - 1): 2 bits, scale d, bias -d
 *     Q3_K  d sc * (q - 4), one sc for every 16. sc is -32..31 and q - 4 is -4..3, so that the products are
 *           whole numbers from -124 to 128, and 8 bits hold them: scale -d, bias 128 d, code 128 - product
 * d, m and dmin are f16 and the small factors integers below 64. A power of two times d is exact in f16. d *
 * sc needs up to 17 bits: f16 rounds it by at most 2^-11 of itself, never worse, since a product that falls
 * into the subnormals is a whole number of 2^-24 and so is d. What leaves the range of f16 is refused.
 *
 * Q2_K and Q6_K have one scale for every 16 elements, which no MLX form has, and no grid for two of them:
 * import_regrid.c. MXFP4 is MXFP4; only the order of the nibbles differs.
 *
 * The block layouts are those of ggml-common.h. Loops over 32 bytes are left to the compiler to vectorise. */
#include "store/import_private.h"

#include <string.h>

/* ---- codes */

/* Eight codes of a byte each, moved together into 8 * bits bits, the first one lowest. */
static inline uint64_t squeeze(uint64_t x, uint32_t bits) {
    const uint64_t pair = 0x0001000100010001u, quad = 0x0000000100000001u;
    if (bits == 8) return x;
    x = (x & pair * 0xff) | (x >> (8 - bits) & pair * ((1u << 2 * bits) - (1u << bits)));
    x = (x & quad * 0xffff) | (x >> (16 - 2 * bits) & quad * ((1u << 4 * bits) - (1u << 2 * bits)));
    return (x & 0xffffffffu) | x >> 32 << 4 * bits;
}

/* Packs 32 codes of `bits` bits into bits * 4 bytes, lowest bit first. */
static inline void pack(const uint8_t q[32], uint32_t bits, uint8_t *out) {
    for (int i = 0; i < 4; i++, out += bits) {
        uint64_t x;
        memcpy(&x, q + 8 * i, 8);
        x = squeeze(x, bits);
        memcpy(out, &x, bits);
    }
}

/* 16 bytes: element i in the low nibble of byte i, element i + 16 in its high one. */
static inline void nibbles(const uint8_t *p, uint8_t q[32]) {
    for (int i = 0; i < 16; i++) q[i] = p[i] & 15;
    for (int i = 0; i < 16; i++) q[i + 16] = p[i] >> 4;
}

static inline void fifth_bits(const uint8_t *p, uint8_t q[32]) { /* bit i of 32 belongs to element i */
    for (int i = 0; i < 32; i++) q[i] |= (uint8_t)((p[i / 8] >> (i % 8) & 1) << 4);
}

/* ---- blocks of 32 */

static bool q4_0(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *bias) {
    uint8_t q[32];
    float d = lm_block_f16(b);
    nibbles(b + 2, q);
    pack(q, 4, codes);
    return lm_block_put(scale, d) && lm_block_put(bias, -8 * d);
}

static bool q4_1(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *bias) {
    uint8_t q[32];
    nibbles(b + 4, q);
    pack(q, 4, codes);
    return lm_block_put(scale, lm_block_f16(b)) && lm_block_put(bias, lm_block_f16(b + 2));
}

static bool q5_0(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *bias) {
    uint8_t q[32];
    float d = lm_block_f16(b);
    nibbles(b + 6, q);
    fifth_bits(b + 2, q);
    pack(q, 5, codes);
    return lm_block_put(scale, d) && lm_block_put(bias, -16 * d);
}

static bool q5_1(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *bias) {
    uint8_t q[32];
    nibbles(b + 8, q);
    fifth_bits(b + 4, q);
    pack(q, 5, codes);
    return lm_block_put(scale, lm_block_f16(b)) && lm_block_put(bias, lm_block_f16(b + 2));
}

static bool q8_0(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *bias) {
    float d = lm_block_f16(b);
    for (int i = 0; i < 32; i++) codes[i] = b[2 + i] ^ 0x80;
    return lm_block_put(scale, d) && lm_block_put(bias, -128 * d);
}

/* The values that four bits stand for in IQ4_NL and IQ4_XS, each plus 128. */
static const uint8_t iq4[16] = {1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241};

static void iq4_codes(const uint8_t *p, uint8_t codes[32]) {
    for (int i = 0; i < 16; i++) {
        codes[i] = iq4[p[i] & 15];
        codes[i + 16] = iq4[p[i] >> 4];
    }
}

static bool iq4_nl(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *bias) {
    float d = lm_block_f16(b);
    iq4_codes(b + 2, codes);
    return lm_block_put(scale, d) && lm_block_put(bias, -128 * d);
}

static bool mxfp4(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *bias) {
    uint8_t q[32];
    (void)bias;
    *(uint8_t *)scale = b[0];
    nibbles(b + 1, q);
    pack(q, 4, codes);
    return b[0] != 255; /* E8M0 has NaN there */
}

static bool mxfp4_plain(const uint8_t *b, uint8_t *codes, uint16_t *scale, uint16_t *bias) {
    (void)bias;
    *(uint8_t *)scale = b[0];
    memcpy(codes, b + 1, 16);
    return b[0] != 255;
}

/* ---- blocks of 256: eight groups of 32 */

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

static bool k_scales(const uint8_t *b, uint16_t *scales, uint16_t *biases) {
    float d = lm_block_f16(b), dmin = lm_block_f16(b + 2);
    bool ok = true;
    for (int g = 0; g < 8; g++) {
        uint8_t sc, m;
        k_factors(b + 4, g, &sc, &m);
        ok &= lm_block_put(&scales[g], d * (float)sc) && lm_block_put(&biases[g], -(dmin * (float)m));
    }
    return ok;
}

/* d, dmin, 12 bytes of factors, 128 bytes of nibbles: 32 for two groups, the low ones are the first's. */
static bool q4_k(const uint8_t *b, uint8_t *codes, uint16_t *scales, uint16_t *biases) {
    const uint8_t *low = b + 16;
    uint8_t q[32];
    for (int g = 0; g < 8; g += 2, low += 32, codes += 32) {
        for (int i = 0; i < 32; i++) q[i] = low[i] & 15;
        pack(q, 4, codes);
        for (int i = 0; i < 32; i++) q[i] = low[i] >> 4;
        pack(q, 4, codes + 16);
    }
    return k_scales(b, scales, biases);
}

/* The same with 32 bytes of fifth bits before the nibbles: bit g of byte i belongs to element i of group g.
 */
static bool q5_k(const uint8_t *b, uint8_t *codes, uint16_t *scales, uint16_t *biases) {
    const uint8_t *high = b + 16, *low = b + 48;
    uint8_t q[32];
    for (int g = 0; g < 8; g++, codes += 20) {
        const uint8_t *half = low + g / 2 * 32;
        for (int i = 0; i < 32; i++) q[i] = (uint8_t)((half[i] >> g % 2 * 4 & 15) | (high[i] >> g & 1) << 4);
        pack(q, 5, codes);
    }
    return k_scales(b, scales, biases);
}

/* 32 bytes of third bits, 64 of low bit pairs, 16 6-bit factors in 12 bytes, d. Elements as in Q2_K. */
static bool q3_k(const uint8_t *b, uint8_t *codes, uint16_t *scales, uint16_t *biases) {
    const uint8_t *high = b, *low = b + 32, *factors = b + 96;
    float d = lm_block_f16(b + 108);
    for (int g = 0; g < 8; g++, codes += 32) {
        const uint8_t *pairs = low + g / 4 * 32;
        for (int k = 0; k < 2; k++) {
            int at = 2 * g + k;
            int factor = at < 8 ? factors[at] & 15 : factors[at - 8] >> 4;
            factor = (factor | (factors[8 + at % 4] >> at / 4 * 2 & 3) << 4) - 32;
            for (int i = 16 * k; i < 16 * k + 16; i++) {
                int q = (pairs[i] >> g % 4 * 2 & 3) + (high[i] >> g & 1) * 4 - 4;
                codes[i] = (uint8_t)(128 - factor * q);
            }
        }
        if (!(lm_block_put(&scales[g], -d) && lm_block_put(&biases[g], 128 * d))) return false;
    }
    return true;
}

/* d, the high bit pairs of eight factors, their low nibbles, 128 bytes of nibbles. */
static bool iq4_xs(const uint8_t *b, uint8_t *codes, uint16_t *scales, uint16_t *biases) {
    float d = lm_block_f16(b);
    uint32_t high = (uint32_t)(b[2] | b[3] << 8);
    bool ok = true;
    for (int g = 0; g < 8; g++, codes += 32) {
        int factor = (b[4 + g / 2] >> g % 2 * 4 & 15) | (int)(high >> 2 * g & 3) << 4;
        ok &= lm_block_put(&scales[g], d * (float)(factor - 32));
        /* of the rounded scale, so that zero stays zero and the table keeps its proportions */
        ok &= lm_block_put(&biases[g], -128 * lm_f16_to_f32(scales[g]));
        iq4_codes(b + 8 + 16 * g, codes);
    }
    return ok;
}

static bool ternary(const uint8_t q[256], float d, uint8_t *codes, uint16_t *scales, uint16_t *biases) {
    bool ok = true;
    for (int g = 0; g < 8; g++) {
        pack(q + 32 * g, 2, codes + 8 * g);
        ok &= lm_block_put(&scales[g], d) && lm_block_put(&biases[g], -d);
    }
    return ok;
}

/* Five ternary digits to a byte, as a fraction of 256: three times what is left of it carries the next one
 * out. 32 bytes hold 160 elements, the first digits first; 16 hold 80; 4 hold four digits, 16 elements; then
 * d. */
static bool tq1_0(const uint8_t *b, uint8_t *codes, uint16_t *scales, uint16_t *biases) {
    static const struct { int from, bytes, digits; } runs[] = {{0, 32, 5}, {32, 16, 5}, {48, 4, 4}};
    uint8_t q[256], *to = q;
    for (int r = 0; r < 3; r++) {
        uint8_t left[32];
        memcpy(left, b + runs[r].from, (size_t)runs[r].bytes);
        for (int n = 0; n < runs[r].digits; n++) {
            for (int i = 0; i < runs[r].bytes; i++, to++) {
                *to = (uint8_t)(left[i] * 3 >> 8);
                left[i] = (uint8_t)(left[i] * 3);
            }
        }
    }
    return ternary(q, lm_block_f16(b + 52), codes, scales, biases);
}

/* Bit pairs, in Q2_K's order, and d. */
static bool tq2_0(const uint8_t *b, uint8_t *codes, uint16_t *scales, uint16_t *biases) {
    uint8_t q[256];
    for (int i = 0; i < 256; i++) q[i] = b[i / 128 * 32 + i % 32] >> i / 32 % 4 * 2 & 3;
    return ternary(q, lm_block_f16(b + 64), codes, scales, biases);
}

/* ---- all of them */

static const struct {
    lm_ggml_type type;
    lm_form form;
    lm_block_convert *convert; /* NULL: numbers are copied */
} forms[] = {
    {LM_GGML_F32, {{LM_QUANT_NONE, 0, 0}, LM_F32}, NULL},
    {LM_GGML_F16, {{LM_QUANT_NONE, 0, 0}, LM_F16}, NULL},
    {LM_GGML_BF16, {{LM_QUANT_NONE, 0, 0}, LM_BF16}, NULL},
    {LM_GGML_Q4_0, {{LM_QUANT_AFFINE, 4, 32}, LM_F16}, q4_0},
    {LM_GGML_Q4_1, {{LM_QUANT_AFFINE, 4, 32}, LM_F16}, q4_1},
    {LM_GGML_Q5_0, {{LM_QUANT_AFFINE, 5, 32}, LM_F16}, q5_0},
    {LM_GGML_Q5_1, {{LM_QUANT_AFFINE, 5, 32}, LM_F16}, q5_1},
    {LM_GGML_Q8_0, {{LM_QUANT_AFFINE, 8, 32}, LM_F16}, q8_0},
    {LM_GGML_Q2_K, {{LM_QUANT_AFFINE, 8, 32}, LM_F16}, lm_block_q2_k},
    {LM_GGML_Q3_K, {{LM_QUANT_AFFINE, 8, 32}, LM_F16}, q3_k},
    {LM_GGML_Q4_K, {{LM_QUANT_AFFINE, 4, 32}, LM_F16}, q4_k},
    {LM_GGML_Q5_K, {{LM_QUANT_AFFINE, 5, 32}, LM_F16}, q5_k},
    {LM_GGML_Q6_K, {{LM_QUANT_AFFINE, 8, 32}, LM_F16}, lm_block_q6_k},
    {LM_GGML_IQ4_NL, {{LM_QUANT_AFFINE, 8, 32}, LM_F16}, iq4_nl},
    {LM_GGML_IQ4_XS, {{LM_QUANT_AFFINE, 8, 32}, LM_F16}, iq4_xs},
    {LM_GGML_TQ1_0, {{LM_QUANT_AFFINE, 2, 32}, LM_F16}, tq1_0},
    {LM_GGML_TQ2_0, {{LM_QUANT_AFFINE, 2, 32}, LM_F16}, tq2_0},
    {LM_GGML_MXFP4, {{LM_QUANT_MXFP4, 4, 32}, LM_U8}, mxfp4},
    {LM_GGML_MXFP4_PLAIN, {{LM_QUANT_MXFP4, 4, 32}, LM_U8}, mxfp4_plain},
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

bool lm_blocks_convert(lm_ggml_type type, const uint8_t *src, uint64_t n, uint8_t *codes, void *scales,
                       uint16_t *biases) {
    uint32_t size = lm_ggml_block(type), i = 0;
    while (i < sizeof forms / sizeof *forms && forms[i].type != type) i++;
    LM_ASSERT(i < sizeof forms / sizeof *forms && forms[i].convert && n % size == 0);
    const lm_form *form = &forms[i].form;
    uint32_t scale_bytes = size / 32 * lm_dtype_size(form->dtype), code_bytes = size * form->quant.bits / 8;
    uint8_t *scale = scales;
    bool ok = true;
    for (uint64_t at = 0; at < n; at += size) {
        ok &= forms[i].convert(src, codes, (uint16_t *)(void *)scale, biases);
        src += lm_ggml_block_bytes(type);
        codes += code_bytes;
        scale += scale_bytes;
        biases += size / 32;
    }
    return ok;
}
