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
 *
 * An import spends most of its time here, so there is a search in floats, four numbers at a time, which is
 * right for everything, and a fast one for Q6_K's usual numbers. */
#include "store/import_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- floats */

typedef float f4 __attribute__((vector_size(16), may_alias));
typedef int32_t i4 __attribute__((vector_size(16)));

typedef struct group {
    _Alignas(16) float x[32];
} group;

typedef struct grid {
    float scale, bias; /* as f16 has them */
    float error;       /* sum of squares; INFINITY: none yet */
} grid;

static inline f4 choose(i4 mask, f4 yes, f4 no) {
    return (f4)((mask & (i4)yes) | (~mask & (i4)no));
}

static inline f4 all(float v) {
    return (f4){v, v, v, v};
}

static inline f4 codes_of(f4 x, float inverse, float bias) {
    f4 code = (x - bias) * inverse;
    code = choose(code > all(0), code, all(0));
    code = choose(code < all(255), code, all(255));
    return (code + 0x1.8p23f) - 0x1.8p23f; /* floats of that size have no fraction: rounds half to even */
}

static float inverse_of(float scale) {
    return scale != 0.0f ? 1.0f / scale : 0.0f;
}

static inline float rounded(float v) {
    uint16_t bits;
    return lm_block_put(&bits, v) ? lm_block_f32(bits) : INFINITY;
}

/* Keeps the grid of this scale and bias, as f16 has them, in *best when the group lies closer to it. */
static void try_grid(const group *g, float scale, float bias, grid *best) {
    const f4 *x = (const f4 *)g->x;
    f4 squares = all(0);
    grid t = {.scale = rounded(scale), .bias = rounded(bias)};
    if (!isfinite(t.scale) || !isfinite(t.bias)) return;
    float inverse = inverse_of(t.scale);
    for (int i = 0; i < 8; i++) {
        f4 miss = x[i] - (codes_of(x[i], inverse, t.bias) * t.scale + t.bias);
        squares += miss * miss;
    }
    t.error = (squares[0] + squares[2]) + (squares[1] + squares[3]);
    if (t.error < best->error) *best = t;
}

/* Puts the group onto it; false: there is none. */
static bool put_grid(const group *g, const grid *best, uint8_t *codes, uint16_t *scale, uint16_t *bias) {
    float code[32];
    if (!(best->error < INFINITY) || !lm_block_put(scale, best->scale) || !lm_block_put(bias, best->bias))
        return false;
    float inverse = inverse_of(best->scale);
    for (int i = 0; i < 8; i++) {
        f4 four = codes_of(((const f4 *)g->x)[i], inverse, best->bias);
        memcpy(code + 4 * i, &four, sizeof four);
    }
    for (int i = 0; i < 32; i++) codes[i] = (uint8_t)(int)code[i];
    return true;
}

static void range_of(const group *g, float *least, float *most) {
    *least = *most = g->x[0];
    for (int i = 1; i < 32; i++) {
        *least = g->x[i] < *least ? g->x[i] : *least;
        *most = g->x[i] > *most ? g->x[i] : *most;
    }
}

/* As close as f16 scales come. */
static float enough_for(float least, float most) {
    float widest = (most > -least ? most : -least) * 0x1p-12f;
    return 32 * widest * widest;
}

/* ---- Q6_K */

/* x[i] = s[i / 16] * (a whole number from -32 to 31). Through zero, by whole parts of either step, where all
 * of x is within reach; else spread evenly. */
static void search_floats(const group *g, const float s[2], grid *best) {
    float least, most;
    range_of(g, &least, &most);
    least = least < 0 ? least : 0;
    most = most > 0 ? most : 0;
    float enough = enough_for(least, most);
    for (int k = 0; k < 2; k++) {
        for (int part = 1; part <= 8 && best->error > enough; part++) {
            /* rounded first, so that 128 times it is exact and zero stays zero */
            float step = rounded(fabsf(s[k]) / (float)part);
            if (step == 0 || least < -128 * step || most > 127 * step) break;
            try_grid(g, step, -128 * step, best);
        }
    }
    if (best->error > enough || best->error == INFINITY) try_grid(g, (most - least) / 255, least, best);
}

/* The same search in whole numbers. q times (a factor over a step), in 16.16 bits, has in its low half how
 * far the number is from the nearest step. What f16 rounds is left out. */

typedef int16_t s8 __attribute__((vector_size(16), may_alias));
typedef uint16_t u8 __attribute__((vector_size(16)));
typedef uint32_t u4 __attribute__((vector_size(16)));

/* The sum of squares of that over one half, in (2^-8 steps)^2. ratio: factor over step; from: of a step. */
static inline float squares_of(const s8 q[2], float ratio, float from) {
    const int16_t times = (int16_t)(int32_t)(ratio * 65536.0f + (ratio < 0 ? -0.5f : 0.5f));
    const int16_t begin = (int16_t)((int32_t)(from * 65536.0f) - 128);
    /* below 2^7, squares below 2^14 */
    s8 a = (s8)((u8)q[0] * (uint16_t)times - (uint16_t)begin) >> 8;
    s8 b = (s8)((u8)q[1] * (uint16_t)times - (uint16_t)begin) >> 8;
    u4 both = (u4)((u8)a * (u8)a + (u8)b * (u8)b);
    both = (both & 0xffff) + (both >> 16);
    return (float)(int32_t)(both[0] + both[1] + both[2] + both[3]);
}

typedef struct pick {
    float step, bias; /* in units of d */
    float error;
} pick;

/* Grids through zero by whole parts of one half's factor, which hold that half: how far off is the other one?
 */
static inline void pick_part(const s8 other[2], int factor, int its_factor, int least, int most, pick *best) {
    factor = abs(factor);
    float ratio = factor ? (float)its_factor / (float)factor : 0;
    for (int part = 1; part <= 8 && factor; part++) {
        float step = (float)factor / (float)part;
        if (most * part > 127 * factor || -least * part > 128 * factor) break;
        float error = squares_of(other, ratio * (float)part, 0) * (step * step);
        if (error < best->error) *best = (pick){step, -128 * step, error};
    }
}

static inline void pick_even(const s8 q[4], const int factor[2], int least, int most, pick *best) {
    float step = (float)(most - least) / 255, per = most > least ? 1 / step : 0, total = 0;
    /* a multiple of the step between the numbers' own zero and the lowest one, or rather what is left of it
     */
    float from = (float)least * per - (float)(int)((float)least * per);
    for (int k = 0; k < 2; k++) total += squares_of(q + 2 * k, (float)factor[k] * per, from);
    float error = total * (step * step);
    if (error < best->error) *best = (pick){step, (float)least, error};
}

static inline s8 choose_whole(s8 mask, s8 yes, s8 no) {
    return (mask & yes) | (~mask & no);
}

static inline void grow(const s8 q[2], int factor, int *least, int *most) {
    s8 low = choose_whole(q[0] < q[1], q[0], q[1]), high = choose_whole(q[0] < q[1], q[1], q[0]);
    int smallest = low[0], largest = high[0];
    for (int i = 1; i < 8; i++) {
        smallest = low[i] < smallest ? low[i] : smallest;
        largest = high[i] > largest ? high[i] : largest;
    }
    int a = smallest * factor, b = largest * factor;
    if (a > b) a = b, b = smallest * factor;
    *least = a < *least ? a : *least;
    *most = b > *most ? b : *most;
}

static inline void search_whole(const s8 q[4], const int factor[2], float d, grid *out) {
    int least = 0, most = 0;
    pick best = {.error = INFINITY};
    grow(q, factor[0], &least, &most);
    grow(q + 2, factor[1], &least, &most);
    pick_part(q + 2, factor[0], factor[1], least, most, &best);
    pick_part(q, factor[1], factor[0], least, most, &best);
    pick_even(q, factor, least, most, &best);
    float step = rounded(best.step * d);
    *out = (grid){step, best.bias == -128 * best.step ? -128 * step : rounded(best.bias * d), 0};
}

/* Steps that f16 has with all of its bits, and so many times over. */
static bool is_usual(const int factor[2], float d) {
    float size = fabsf(d);
    int small = abs(factor[0]) < abs(factor[1]) ? abs(factor[0]) : abs(factor[1]);
    int large = abs(factor[0]) + abs(factor[1]) - small;
    return (float)small * size >= 0x1p-11f && (float)large * size < 256;
}

/* 128 bytes of low nibbles, 64 of high bit pairs, 16 signed factors, d; halves of 128 elements follow each
 * other. In each, group g of 4 has its nibbles in the low (g < 2) or high half of 32 bytes, and its pairs at
 * bit 2 g of 32 others. */
bool lm_block_q6_k(const uint8_t *b, uint8_t *codes, uint16_t *scales, uint16_t *biases) {
    float d = lm_block_f16(b + 208);
    if (!isfinite(d)) return false;
    for (int g = 0; g < 8; g++, codes += 32) {
        int half = g / 4, quarter = g % 4;
        const uint8_t *low = b + half * 64 + quarter % 2 * 32;
        const uint8_t *high = b + 128 + half * 32;
        int factor[2] = {(int8_t)b[192 + 2 * g], (int8_t)b[193 + 2 * g]};
        float s[2] = {d * (float)factor[0], d * (float)factor[1]};
        _Alignas(16) int16_t q[32];
        group x;
        grid best = {.error = INFINITY};
        for (int i = 0; i < 32; i++)
            q[i] = (int16_t)(((low[i] >> quarter / 2 * 4 & 15) | (high[i] >> 2 * quarter & 3) << 4) - 32);
        for (int i = 0; i < 16; i++) x.x[i] = s[0] * (float)q[i];
        for (int i = 16; i < 32; i++) x.x[i] = s[1] * (float)q[i];
        if (is_usual(factor, d))
            search_whole((const s8 *)q, factor, d, &best);
        else
            search_floats(&x, s, &best);
        if (!put_grid(&x, &best, codes, &scales[g], &biases[g])) return false;
    }
    return true;
}

/* ---- Q2_K */

/* x[i] = s[i / 16] * (0 .. 3) + m[i / 16], s being multiples of d: steps of a whole part of d hold each half,
 * anchored at one of the offsets; where m is the same in both, they hold all of it. */
static void search_offsets(const group *g, float d, const float m[2], grid *best) {
    float least, most;
    range_of(g, &least, &most);
    float enough = enough_for(least, most);
    for (int part = 1; part <= 8 && best->error > enough; part++) {
        float step = rounded(fabsf(d) / (float)part);
        if (step == 0 || most - least > 254 * step) break;
        for (int k = 0; k < 2 && best->error > enough; k++) {
            float down = ceilf((m[k] - least) / step); /* steps from the anchor to the lowest number */
            if (down < 256) try_grid(g, step, m[k] - down * step, best);
        }
    }
    if (best->error > enough) try_grid(g, (most - least) / 255, least, best);
}

/* 16 bytes of factors, 64 of bit pairs, d, dmin; halves of 128 elements follow each other, in each group g of
 * 4 has bit 2 g of 32 bytes. */
bool lm_block_q2_k(const uint8_t *b, uint8_t *codes, uint16_t *scales, uint16_t *biases) {
    float d = lm_block_f16(b + 80), dmin = lm_block_f16(b + 82);
    if (!isfinite(d) || !isfinite(dmin)) return false;
    for (int g = 0; g < 8; g++, codes += 32) {
        const uint8_t *pairs = b + 16 + g / 4 * 32;
        float s[2], m[2];
        group x;
        grid best = {.error = INFINITY};
        for (int k = 0; k < 2; k++) {
            s[k] = d * (float)(b[2 * g + k] & 15);
            m[k] = -(dmin * (float)(b[2 * g + k] >> 4));
        }
        for (int i = 0; i < 16; i++) x.x[i] = s[0] * (float)(pairs[i] >> g % 4 * 2 & 3) + m[0];
        for (int i = 16; i < 32; i++) x.x[i] = s[1] * (float)(pairs[i] >> g % 4 * 2 & 3) + m[1];
        search_offsets(&x, d, m, &best);
        if (!put_grid(&x, &best, codes, &scales[g], &biases[g])) return false;
    }
    return true;
}
