/* GGML blocks with one scale for every 16 elements onto grids of 256 steps for 32.
 *
 * Q6_K  d sc (q - 32)          q of 6 bits, sc a signed byte
 * Q2_K  d sc q - dmin m        q of 2 bits, sc and m of 4 bits each
 *
 * The two halves of a group have steps and offsets of their own, and MLX has one of each for the whole. Of
 * several grids the one with the least sum of squared errors is taken; where one step divides the other, or
 * nearly, it holds both as well as f16 can say the step.
 *
 * Why 8 bits for Q2_K's two: measured on a real model, an evenly spread grid of 4, 5, 6, 8 bits adds 22, 12,
 * 5 and 1.3 % of the error that Q2_K itself has (root of the mean square), and the perplexity shall not move.
 */
#include "store/import_private.h"

#include <math.h>
#include <string.h>

typedef struct grid {
    float q[32]; /* codes */
    uint16_t scale, bias;
    float error; /* sum of squares */
} grid;

/* Rounds to the nearest whole number, half to even, as rintf does: above 2^23 floats have no fraction. For
 * |v| below 2^22, and without a call that stops the compiler from vectorising. */
static inline float nearest(float v) {
    return (v + 0x1.8p23f) - 0x1.8p23f;
}

/* Puts x on the grid of this scale and bias, as f16 has them, and keeps it in *best when it lies closer. */
static void try_grid(const float x[32], float scale, float bias, grid *best) {
    grid t;
    float sums[8] = {0};
    if (!lm_block_put(&t.scale, scale) || !lm_block_put(&t.bias, bias)) return;
    float s = lm_f16_to_f32(t.scale), b = lm_f16_to_f32(t.bias), inverse = s != 0.0f ? 1.0f / s : 0.0f;
    for (int i = 0; i < 32; i += 8) {
        for (int k = 0; k < 8; k++) {
            float code = (x[i + k] - b) * inverse;
            code = code > 0.0f ? code : 0.0f;
            code = nearest(code < 255.0f ? code : 255.0f);
            float miss = x[i + k] - (s * code + b);
            t.q[i + k] = code;
            sums[k] += miss * miss;
        }
    }
    t.error = ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
    if (t.error < best->error) *best = t;
}

static bool put_grid(const grid *g, uint8_t *codes, uint16_t *scale, uint16_t *bias) {
    if (!(g->error < INFINITY)) return false;
    for (int i = 0; i < 32; i++) codes[i] = (uint8_t)g->q[i];
    *scale = g->scale;
    *bias = g->bias;
    return true;
}

static float rounded(float v) {
    return lm_f16_to_f32(lm_f32_to_f16(v));
}

/* x[i] = s[i / 16] * (a whole number from -32 to 31). Through zero where that is good, else spread evenly. */
static bool regrid_signed(const float x[32], const float s[2], uint8_t *codes, uint16_t *scale,
                          uint16_t *bias) {
    float least = 0, most = 0;
    grid best = {.error = INFINITY};
    if (!isfinite(s[0]) || !isfinite(s[1])) return false;
    for (int i = 0; i < 32; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    float widest = (most > -least ? most : -least) * 0x1p-12f;
    float enough = 32 * widest * widest; /* as close as f16 scales come */
    for (int k = 0; k < 2 && best.error > enough; k++) {
        for (int part = 1; part <= 4 && best.error > enough; part++) {
            /* rounded first, so that 128 times it is exact and zero stays zero */
            float step = rounded(fabsf(s[k]) / (float)part);
            if (step == 0 || least < -128 * step || most > 127 * step) continue;
            try_grid(x, step, -128 * step, &best);
        }
    }
    if (best.error > enough) try_grid(x, (most - least) / 255, least, &best);
    return put_grid(&best, codes, scale, bias);
}

/* 128 bytes of low nibbles, 64 of high bit pairs, 16 signed factors, d; halves of 128 elements follow each
 * other. In each, group g of 4 has its nibbles in the low (g < 2) or high half of 32 bytes, and its pairs at
 * bit 2 g of 32 others. */
bool lm_block_q6_k(const uint8_t *b, uint8_t *codes, uint16_t *scales, uint16_t *biases) {
    float d = lm_block_f16(b + 208);
    for (int g = 0; g < 8; g++, codes += 32) {
        int half = g / 4, quarter = g % 4;
        const uint8_t *low = b + half * 64 + quarter % 2 * 32;
        const uint8_t *high = b + 128 + half * 32;
        float x[32], s[2];
        for (int k = 0; k < 2; k++) s[k] = d * (float)(int8_t)b[192 + 2 * g + k];
        for (int i = 0; i < 32; i++) {
            int q = (low[i] >> quarter / 2 * 4 & 15) | (high[i] >> 2 * quarter & 3) << 4;
            x[i] = s[i / 16] * (float)(q - 32);
        }
        if (!regrid_signed(x, s, codes, &scales[g], &biases[g])) return false;
    }
    return true;
}

/* x[i] = s[i / 16] * (0 .. 3) + m[i / 16]. With equal offsets the step d itself holds both halves; otherwise
 * a part of it, anchored at one of the offsets. */
static bool regrid_offset(const float x[32], float d, const float m[2], uint8_t *codes, uint16_t *scale,
                          uint16_t *bias) {
    float least = x[0], most = x[0];
    grid best = {.error = INFINITY};
    if (!isfinite(d) || !isfinite(m[0]) || !isfinite(m[1])) return false;
    for (int i = 1; i < 32; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    float widest = (most > -least ? most : -least) * 0x1p-12f;
    float enough = 32 * widest * widest;
    d = fabsf(d);
    for (int part = 1; part <= 5 && best.error > enough && d > 0; part++) {
        float step = rounded(d / (float)part);
        for (int k = 0; k < 2 && best.error > enough && step > 0; k++) {
            float down = ceilf((m[k] - least) / step); /* steps from the anchor to the lowest number */
            if (!(down < 256) || !(most - least < 255 * step)) continue;
            try_grid(x, step, m[k] - down * step, &best);
        }
    }
    if (best.error > enough) try_grid(x, (most - least) / 255, least, &best);
    return put_grid(&best, codes, scale, bias);
}

/* 16 bytes of factors, 64 of bit pairs, d, dmin; halves of 128 elements follow each other, in each group g of
 * 4 has bit 2 g of 32 bytes. */
bool lm_block_q2_k(const uint8_t *b, uint8_t *codes, uint16_t *scales, uint16_t *biases) {
    float d = lm_block_f16(b + 80), dmin = lm_block_f16(b + 82);
    for (int g = 0; g < 8; g++, codes += 32) {
        const uint8_t *pairs = b + 16 + g / 4 * 32;
        float x[32], s[2], m[2];
        for (int k = 0; k < 2; k++) {
            s[k] = d * (float)(b[2 * g + k] & 15);
            m[k] = -(dmin * (float)(b[2 * g + k] >> 4));
        }
        for (int i = 0; i < 32; i++) x[i] = s[i / 16] * (float)(pairs[i] >> g % 4 * 2 & 3) + m[i / 16];
        if (!regrid_offset(x, d, m, codes, &scales[g], &biases[g])) return false;
    }
    return true;
}
