/* matmul_neon.h (private to cpu/matmul_neon*) - the NEON products of quantised matrices, compiled three
 * times: for every processor (matmul_neon.c), with the dot product instruction SDOT (matmul_neon_dot.c) and
 * with SMMLA, which multiplies 2 x 8 codes by 8 x 2 (matmul_neon_i8mm.c). LM_NEON_DOTPROD or LM_NEON_I8MM,
 * defined before this is included, says which; what the compiler may use does not: it may be told of more
 * than the set's name promises.
 *
 * Codes become signed bytes, 32 columns (a block) at a time: those of up to 6 bits are themselves, 8-bit ones
 * lose 128 (128 * scale moves into the bias), mxfp4 is twice its value. Nothing can saturate: sums are of 32
 * bits; without SDOT two products of at most 128 * 127 share 16 bits, then widen.
 *
 * One row of x: 8 rows of W at once, codes straight from the file into the products. More: a panel of W is
 * unpacked into scratch in the order in which the inner loop reads it, and serves all rows of x, 4 at a time.
 *
 * Every result is formed in one order whatever the number of rows and whatever the instruction: group after
 * group its bias times the sum of x, then block after block scale * d times the integer sum. So a sequence's
 * answer doesn't depend on which others decode beside it, nor on the processor.
 *
 * Scratch: codes (PANEL rows, CHUNK columns), then scales and biases (PANEL / 8, GROUPS, 8).
 */
#ifndef LM_CPU_MATMUL_NEON_H
#define LM_CPU_MATMUL_NEON_H

#include <arm_neon.h>

#include "cpu/matmul_form.h"

#define LM_INLINE static inline __attribute__((always_inline))

enum {
    TILE = 8,     /* rows of W side by side */
    ROWS = 4,     /* rows of x in registers, at most */
    CHUNK = 1024, /* columns */
    PANEL =
        32, /* rows of W unpacked together: with a chunk of 4 rows of x they stay in the first-level cache */
    GROUPS = CHUNK / 32,
    BLOCK_BYTES = TILE * LM_ACT_BLOCK,
    MXFP4 = 14 /* beside the numbers of bits */
};

void lm_matmul_neon_plain(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                          uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride);

/* ---- unpacking ------------------------------------------------------------------------------------------ */

/* 16 codes of 6 or 5 bits from 12 or 10 bytes of v, the first at `at`: each 16-bit lane gets the two bytes
 * that hold its two codes, shifts move one to the low byte and the other to the high byte. */
LM_INLINE uint8x16_t spread_6(uint8x16_t v, uint8_t at) {
    static const uint8_t from[16] = {0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11};
    static const int16_t even[8] = {0, -4, 0, -4, 0, -4, 0, -4}, odd[8] = {2, -2, 2, -2, 2, -2, 2, -2};
    uint16x8_t pair = vreinterpretq_u16_u8(vqtbl1q_u8(v, vaddq_u8(vld1q_u8(from), vdupq_n_u8(at))));
    return vreinterpretq_u8_u16(vorrq_u16(vandq_u16(vshlq_u16(pair, vld1q_s16(even)), vdupq_n_u16(0x003f)),
                                          vandq_u16(vshlq_u16(pair, vld1q_s16(odd)), vdupq_n_u16(0x3f00))));
}
LM_INLINE uint8x16_t spread_5(uint8x16_t v, uint8_t at) {
    static const uint8_t from[16] = {0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9};
    static const int16_t even[8] = {0, -2, -4, -6, 0, -2, -4, -6}, odd[8] = {3, 1, -1, -3, 3, 1, -1, -3};
    uint16x8_t pair = vreinterpretq_u16_u8(vqtbl1q_u8(v, vaddq_u8(vld1q_u8(from), vdupq_n_u8(at))));
    return vreinterpretq_u8_u16(vorrq_u16(vandq_u16(vshlq_u16(pair, vld1q_s16(even)), vdupq_n_u16(0x001f)),
                                          vandq_u16(vshlq_u16(pair, vld1q_s16(odd)), vdupq_n_u16(0x1f00))));
}

/* 32 codes of a row as bytes, in the order in which block_at gives those of x. Reads exactly 4 * bits bytes:
 * the last row of a file may end at the end of a mapping. */
LM_INLINE void unpack_block(int bits, const uint8_t *p, int8x16_t out[2]) {
    static const int8_t twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
    static const int8_t first[16] = {0, 0, 0, 0, 0, 0, 0, 0, -2, -2, -2, -2, -2, -2, -2, -2};
    static const int8_t second[16] = {-4, -4, -4, -4, -4, -4, -4, -4, -6, -6, -6, -6, -6, -6, -6, -6};
    uint8x16_t low, high;
    if (bits == 2) { /* remainder 0 mod 4, 1, 2, 3 */
        uint8x8_t v = vld1_u8(p);
        low = vandq_u8(vshlq_u8(vcombine_u8(v, v), vld1q_s8(first)), vdupq_n_u8(3));
        high = vandq_u8(vshlq_u8(vcombine_u8(v, v), vld1q_s8(second)), vdupq_n_u8(3));
    } else if (bits == 3) { /* even, odd: out of 16 pairs */
        uint32_t end;
        memcpy(&end, p + 8, sizeof end);
        uint8x16_t pairs = spread_6(vcombine_u8(vld1_u8(p), vcreate_u8(end)), 0);
        low = vandq_u8(pairs, vdupq_n_u8(7));
        high = vshrq_n_u8(pairs, 3);
    } else if (bits == 5) {
        low = spread_5(vld1q_u8(p), 0);
        high = spread_5(vld1q_u8(p + 4), 6);
    } else if (bits == 6) {
        low = spread_6(vld1q_u8(p), 0);
        high = spread_6(vld1q_u8(p + 8), 4);
    } else if (bits == 8) {
        low = veorq_u8(vld1q_u8(p), vdupq_n_u8(0x80));
        high = veorq_u8(vld1q_u8(p + 16), vdupq_n_u8(0x80));
    } else { /* 4 bits and mxfp4: even, odd */
        uint8x16_t v = vld1q_u8(p);
        low = vandq_u8(v, vdupq_n_u8(15));
        high = vshrq_n_u8(v, 4);
        if (bits == MXFP4) {
            int8x16_t table = vld1q_s8(twice);
            low = vreinterpretq_u8_s8(vqtbl1q_s8(table, low));
            high = vreinterpretq_u8_s8(vqtbl1q_s8(table, high));
        }
    }
    out[0] = vreinterpretq_s8_u8(low);
    out[1] = vreinterpretq_s8_u8(high);
}

/* Block b of a prepared row p: two runs of 16 bytes, or four of 8 for QUARTERS. */
LM_INLINE void block_at(lm_act_layout layout, uint32_t cols, uint32_t b, const int8_t *p, int8x16_t out[2]) {
    uint32_t k = b * LM_ACT_BLOCK;
    if (layout == LM_ACT_QUARTERS && (b | 3u) * LM_ACT_BLOCK < cols) {
        p += (k & ~127u) + (b & 3) * 8;
        out[0] = vcombine_s8(vld1_s8(p), vld1_s8(p + 32));
        out[1] = vcombine_s8(vld1_s8(p + 64), vld1_s8(p + 96));
    } else if (layout == LM_ACT_HALVES && (b | 1u) * LM_ACT_BLOCK < cols) {
        p += (k & ~63u) + (b & 1) * 16;
        out[0] = vld1q_s8(p);
        out[1] = vld1q_s8(p + 32);
    } else {
        out[0] = vld1q_s8(p + k);
        out[1] = vld1q_s8(p + k + 16);
    }
}

/* out = four columns of four rows */
LM_INLINE void transpose4(uint32x4_t r[4]) {
    uint64x2_t a = vreinterpretq_u64_u32(vtrn1q_u32(r[0], r[1]));
    uint64x2_t b = vreinterpretq_u64_u32(vtrn2q_u32(r[0], r[1]));
    uint64x2_t c = vreinterpretq_u64_u32(vtrn1q_u32(r[2], r[3]));
    uint64x2_t d = vreinterpretq_u64_u32(vtrn2q_u32(r[2], r[3]));
    r[0] = vreinterpretq_u32_u64(vtrn1q_u64(a, c));
    r[1] = vreinterpretq_u32_u64(vtrn1q_u64(b, d));
    r[2] = vreinterpretq_u32_u64(vtrn2q_u64(a, c));
    r[3] = vreinterpretq_u32_u64(vtrn2q_u64(b, d));
}

/* Four numbers as floats, of which n are there; the rest is zero. */
LM_INLINE float32x4_t numbers4(lm_dtype dtype, const uint8_t *p, uint32_t n) {
    uint8_t part[16] = {0};
    uint16x4_t half;
    if (n < 4) p = memcpy(part, p, n * (dtype == LM_F32 ? 4 : 2));
    if (dtype == LM_F32) return vreinterpretq_f32_u8(vld1q_u8(p));
    half = vreinterpret_u16_u8(vld1_u8(p));
    return dtype == LM_F16 ? vcvt_f32_f16(vreinterpret_f16_u16(half))
                           : vreinterpretq_f32_u32(vshll_n_u16(half, 16));
}

LM_INLINE float32x4_t e8m0_halves(const uint8_t *p, uint32_t n) {
    float part[4] = {0};
    for (uint32_t i = 0; i < 4 && i < n; i++) part[i] = lm_e8m0_half(p[i]);
    return vld1q_f32(part);
}

/* Scales and biases of 8 rows, groups [g, g + n): (groups, 8), groups rounded up to 4. */
LM_INLINE void unpack_scales(int bits, const lm_matrix *w, const lm_expert *e, const uint32_t row[TILE],
                             uint32_t g, uint32_t n, float *scales, float *biases) {
    size_t each = bits == MXFP4 ? 1 : w->dtype == LM_F32 ? 4 : 2;
    for (uint32_t i = 0; i < n; i += 4)
        for (uint32_t q = 0; q < TILE; q += 4) {
            uint32x4_t s[4], b[4];
            for (uint32_t r = 0; r < 4; r++) {
                size_t at = row[q + r] * e->scales_row + (g + i) * each;
                float32x4_t sr, br = vdupq_n_f32(0);
                if (bits == MXFP4) {
                    sr = e8m0_halves(e->scales + at, n - i);
                } else {
                    sr = numbers4(w->dtype, e->scales + at, n - i);
                    br = numbers4(w->dtype, e->biases + at, n - i);
                }
                if (bits == 8) br = vfmaq_n_f32(br, sr, 128.0f);
                s[r] = vreinterpretq_u32_f32(sr);
                b[r] = vreinterpretq_u32_f32(br);
            }
            transpose4(s);
            transpose4(b);
            for (uint32_t k = 0; k < 4; k++) {
                vst1q_f32(scales + (i + k) * TILE + q, vreinterpretq_f32_u32(s[k]));
                vst1q_f32(biases + (i + k) * TILE + q, vreinterpretq_f32_u32(b[k]));
            }
        }
}

/* Rows n..n+7 of W, repeating the last one below n1. */
LM_INLINE void rows_of_tile(uint32_t n, uint32_t n1, uint32_t row[TILE]) {
    for (uint32_t i = 0; i < TILE; i++) row[i] = n + i < n1 ? n + i : n1 - 1;
}

/* ---- one block of a tile times 1 to 4 rows of x
 * --------------------------------------------------------------
 *
 * Sums stand in W_VECTORS vectors for the 8 rows of W times x_vectors(rows) for those of x:
 *     i8mm    rows 2i, 2i + 1 of W by rows 2j, 2j + 1 of x (odd numbers of rows repeat the last one)
 *     others  rows 4i to 4i + 3 of W for row j of x
 */
#if defined(LM_NEON_I8MM)
enum { W_VECTORS = 4 };

LM_INLINE int x_vectors(int rows) {
    return (rows + 1) / 2;
}

LM_INLINE int8x16_t low_halves(int8x16_t a, int8x16_t b) {
    return vreinterpretq_s8_s64(vtrn1q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}
LM_INLINE int8x16_t high_halves(int8x16_t a, int8x16_t b) {
    return vreinterpretq_s8_s64(vtrn2q_s64(vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b)));
}

/* Two rows' block as four times 2 x 8 codes. */
LM_INLINE void pair_up(const int8x16_t a[2], const int8x16_t b[2], int8x16_t out[4]) {
    out[0] = low_halves(a[0], b[0]);
    out[1] = high_halves(a[0], b[0]);
    out[2] = low_halves(a[1], b[1]);
    out[3] = high_halves(a[1], b[1]);
}

/* Four rows' block: (2 pairs of rows, 4 steps, 2, 8) */
LM_INLINE void put_quad(const int8x16_t r[4][2], int8_t *to) {
    int8x16_t v[4];
    for (int p = 0; p < 2; p++) {
        pair_up(r[2 * p], r[2 * p + 1], v);
        for (int s = 0; s < 4; s++) vst1q_s8(to + p * 64 + s * 16, v[s]);
    }
}

LM_INLINE void load_x(lm_act_layout layout, int rows, uint32_t cols, uint32_t b, const int8_t *const *x,
                      int8x16_t *v) {
    for (int j = 0; j < x_vectors(rows); j++) {
        int8x16_t one[2], other[2];
        block_at(layout, cols, b, x[2 * j], one);
        block_at(layout, cols, b, x[2 * j + 1], other);
        pair_up(one, other, v + 4 * j);
    }
}

LM_INLINE void block_sums(int rows, const int8_t *codes, const int8x16_t *v, int32x4_t (*sum)[ROWS]) {
    for (int i = 0; i < W_VECTORS; i++)
        for (int j = 0; j < x_vectors(rows); j++) sum[i][j] = vdupq_n_s32(0);
    for (int s = 0; s < 4; s++)
        for (int i = 0; i < W_VECTORS; i++) {
            int8x16_t w = vld1q_s8(codes + i * 64 + s * 16);
            for (int j = 0; j < x_vectors(rows); j++) sum[i][j] = vmmlaq_s32(sum[i][j], w, v[4 * j + s]);
        }
}

LM_INLINE float32x4_t w_vector(const float *eight, int i) {
    float32x4_t four = vld1q_f32(eight + (i & ~1) * 2);
    return i & 1 ? vzip2q_f32(four, four) : vzip1q_f32(four, four);
}
LM_INLINE float32x4_t x_vector(const float *const *of_row, size_t at, int j) {
    return vzip1q_f32(vdupq_n_f32(of_row[2 * j][at]), vdupq_n_f32(of_row[2 * j + 1][at]));
}

LM_INLINE void to_vectors(int rows, float (*from)[TILE], float32x4_t (*y)[ROWS]) {
    for (int j = 0; j < x_vectors(rows); j++)
        for (int i = 0; i < W_VECTORS; i += 2) {
            float32x4_t a = vld1q_f32(from[2 * j] + 2 * i), b = vld1q_f32(from[2 * j + 1] + 2 * i);
            y[i][j] = vzip1q_f32(a, b);
            y[i + 1][j] = vzip2q_f32(a, b);
        }
}
LM_INLINE void from_vectors(int rows, float32x4_t (*y)[ROWS], float (*to)[TILE]) {
    for (int j = 0; j < x_vectors(rows); j++)
        for (int i = 0; i < W_VECTORS; i += 2) {
            vst1q_f32(to[2 * j] + 2 * i, vuzp1q_f32(y[i][j], y[i + 1][j]));
            vst1q_f32(to[2 * j + 1] + 2 * i, vuzp2q_f32(y[i][j], y[i + 1][j]));
        }
}

#else
enum { W_VECTORS = 2 };

LM_INLINE int x_vectors(int rows) {
    return rows;
}

/* Four lanes that add up to Σ w * x over a block of one row. */
LM_INLINE int32x4_t dot_block(const int8x16_t w[2], const int8x16_t x[2]) {
#if defined(LM_NEON_DOTPROD)
    return vdotq_s32(vdotq_s32(vdupq_n_s32(0), w[0], x[0]), w[1], x[1]);
#else
    int32x4_t sum = vdupq_n_s32(0);
    for (int i = 0; i < 2; i++) {
        int16x8_t two = vmull_s8(vget_low_s8(w[i]), vget_low_s8(x[i]));
        sum = vpadalq_s16(sum, vmlal_high_s8(two, w[i], x[i]));
    }
    return sum;
#endif
}

LM_INLINE int32x4_t add_lanes(const int32x4_t s[4]) {
    return vpaddq_s32(vpaddq_s32(s[0], s[1]), vpaddq_s32(s[2], s[3]));
}

LM_INLINE void load_x(lm_act_layout layout, int rows, uint32_t cols, uint32_t b, const int8_t *const *x,
                      int8x16_t *v) {
    for (int j = 0; j < rows; j++) block_at(layout, cols, b, x[j], v + 2 * j);
}

#if defined(LM_NEON_DOTPROD)
/* Four rows' block: (8 steps, 4 rows, 4) */
LM_INLINE void put_quad(const int8x16_t r[4][2], int8_t *to) {
    for (int h = 0; h < 2; h++) {
        uint32x4_t v[4];
        for (int i = 0; i < 4; i++) v[i] = vreinterpretq_u32_s8(r[i][h]);
        transpose4(v);
        for (int s = 0; s < 4; s++) vst1q_s8(to + h * 64 + s * 16, vreinterpretq_s8_u32(v[s]));
    }
}

LM_INLINE void block_sums(int rows, const int8_t *codes, const int8x16_t *v, int32x4_t (*sum)[ROWS]) {
    for (int i = 0; i < W_VECTORS; i++, codes += 128) {
        for (int j = 0; j < rows; j++) sum[i][j] = vdupq_n_s32(0);
        for (int h = 0; h < 2; h++) {
            const int8_t *at = codes + h * 64;
            int8x16_t w0 = vld1q_s8(at), w1 = vld1q_s8(at + 16), w2 = vld1q_s8(at + 32),
                      w3 = vld1q_s8(at + 48);
            for (int j = 0; j < rows; j++) {
                int32x4_t s = vdotq_laneq_s32(sum[i][j], w0, v[2 * j + h], 0);
                s = vdotq_laneq_s32(s, w1, v[2 * j + h], 1);
                s = vdotq_laneq_s32(s, w2, v[2 * j + h], 2);
                sum[i][j] = vdotq_laneq_s32(s, w3, v[2 * j + h], 3);
            }
        }
    }
}
#else
/* Four rows' block: (4 rows, 32) */
LM_INLINE void put_quad(const int8x16_t r[4][2], int8_t *to) {
    for (int i = 0; i < 4; i++)
        for (int h = 0; h < 2; h++) vst1q_s8(to + i * 32 + h * 16, r[i][h]);
}

LM_INLINE void block_sums(int rows, const int8_t *codes, const int8x16_t *v, int32x4_t (*sum)[ROWS]) {
    for (int i = 0; i < W_VECTORS; i++)
        for (int j = 0; j < rows; j++) {
            int32x4_t s[4];
            for (int r = 0; r < 4; r++) {
                int8x16_t w[2] = {vld1q_s8(codes + i * 128 + r * 32),
                                  vld1q_s8(codes + i * 128 + r * 32 + 16)};
                s[r] = dot_block(w, v + 2 * j);
            }
            sum[i][j] = add_lanes(s);
        }
}
#endif

LM_INLINE float32x4_t w_vector(const float *eight, int i) {
    return vld1q_f32(eight + 4 * i);
}
LM_INLINE float32x4_t x_vector(const float *const *of_row, size_t at, int j) {
    return vdupq_n_f32(of_row[j][at]);
}

LM_INLINE void to_vectors(int rows, float (*from)[TILE], float32x4_t (*y)[ROWS]) {
    for (int j = 0; j < rows; j++)
        for (int i = 0; i < W_VECTORS; i++) y[i][j] = vld1q_f32(from[j] + 4 * i);
}
LM_INLINE void from_vectors(int rows, float32x4_t (*y)[ROWS], float (*to)[TILE]) {
    for (int j = 0; j < rows; j++)
        for (int i = 0; i < W_VECTORS; i++) vst1q_f32(to[j] + 4 * i, y[i][j]);
}
#endif

/* y += scale * d * Σ code * q for each of a block's sums. */
LM_INLINE void add_block(int rows, int32x4_t (*sum)[ROWS], const float32x4_t *scale, const float *const *d,
                         uint32_t b, float32x4_t (*y)[ROWS]) {
    for (int j = 0; j < x_vectors(rows); j++) {
        float32x4_t dj = x_vector(d, b, j);
        for (int i = 0; i < W_VECTORS; i++)
            y[i][j] = vfmaq_f32(y[i][j], vcvtq_f32_s32(sum[i][j]), vmulq_f32(scale[i], dj));
    }
}

/* ---- many rows of x -------------------------------------------------------------------------------------- */

typedef struct tile {
    const int8_t *codes;  /* (blocks, 2, put_quad's 128) */
    const float *scales;  /* (groups, 8) */
    const float *biases;  /* (groups, 8) */
    uint32_t blocks;      /* of 32 columns */
    uint32_t first;       /* block */
    uint32_t group_shift; /* log2 of blocks in a group */
} tile;

LM_INLINE void unpack_tile(int bits, const lm_matrix *w, const lm_expert *e, uint32_t n, uint32_t n1,
                           const tile *t, int8_t *codes, float *scales, float *biases) {
    uint32_t row[TILE], block_bytes = 4 * (bits == MXFP4 ? 4 : (uint32_t)bits);
    rows_of_tile(n, n1, row);
    for (uint32_t q = 0; q < TILE; q += 4) {
        const uint8_t *from[4];
        for (uint32_t r = 0; r < 4; r++)
            from[r] = e->codes + row[q + r] * w->row_bytes + (size_t)t->first * block_bytes;
        for (uint32_t b = 0; b < t->blocks; b++) {
            int8x16_t block[4][2];
            for (int r = 0; r < 4; r++) unpack_block(bits, from[r] + b * block_bytes, block[r]);
            put_quad(block, codes + b * BLOCK_BYTES + q * LM_ACT_BLOCK);
        }
    }
    unpack_scales(bits, w, e, row, t->first >> t->group_shift, t->blocks >> t->group_shift, scales, biases);
}

/* y (rows, 8) of one tile; `add` to what is there. Only the first `width` of 8 are stored. */
LM_INLINE void multiply_tile(lm_act_layout layout, int rows, const tile *t, uint32_t cols, const char *acts,
                             size_t act_stride, float *out, size_t y_stride, uint32_t width, bool add) {
    const int8_t *x[ROWS];
    const float *d[ROWS], *sums[ROWS];
    float here[ROWS][TILE] = {{0}};
    float32x4_t y[W_VECTORS][ROWS];
    size_t bytes = width == TILE ? sizeof *here : width * sizeof(float);
    for (int m = 0; m < ROWS; m++) {
        const char *row = acts + (m < rows ? m : rows - 1) * act_stride;
        x[m] = (const int8_t *)row;
        d[m] = (const float *)(const void *)(row + lm_act_scales_at(cols));
        sums[m] = (const float *)(const void *)(row + lm_act_sums_at(cols));
        if (add && m < rows) memcpy(here[m], out + m * y_stride, bytes);
    }
    to_vectors(rows, here, y);
    const int8_t *codes = t->codes;
    uint32_t b = t->first, end = b + t->blocks, per_group = 1u << t->group_shift;
    for (uint32_t g = 0; b < end; g++) {
        float32x4_t scale[W_VECTORS];
        for (int i = 0; i < W_VECTORS; i++) {
            float32x4_t bias = w_vector(t->biases + g * TILE, i);
            scale[i] = w_vector(t->scales + g * TILE, i);
            for (int j = 0; j < x_vectors(rows); j++)
                y[i][j] = vfmaq_f32(y[i][j], bias, x_vector(sums, b >> t->group_shift, j));
        }
        for (uint32_t k = 0; k < per_group; k++, b++, codes += BLOCK_BYTES) {
            int8x16_t v[2 * ROWS];
            int32x4_t sum[W_VECTORS][ROWS];
            load_x(layout, rows, cols, b, x, v);
            block_sums(rows, codes, v, sum);
            add_block(rows, sum, scale, d, b, y);
        }
    }
    from_vectors(rows, y, here);
    for (int m = 0; m < rows; m++) memcpy(out + m * y_stride, here[m], bytes);
}

LM_INLINE void multiply_rows(lm_act_layout layout, uint32_t rows, const tile *t, uint32_t cols,
                             const char *acts, size_t act_stride, float *out, size_t y_stride, uint32_t width,
                             bool add) {
    switch (rows) {
    case 1: multiply_tile(layout, 1, t, cols, acts, act_stride, out, y_stride, width, add); break;
    case 2: multiply_tile(layout, 2, t, cols, acts, act_stride, out, y_stride, width, add); break;
    case 3: multiply_tile(layout, 3, t, cols, acts, act_stride, out, y_stride, width, add); break;
    default: multiply_tile(layout, 4, t, cols, acts, act_stride, out, y_stride, width, add);
    }
}

static void multiply_rows_of(lm_act_layout layout, uint32_t rows, const tile *t, uint32_t cols,
                             const char *acts, size_t act_stride, float *out, size_t y_stride, uint32_t width,
                             bool add) {
    if (layout == LM_ACT_HALVES)
        multiply_rows(LM_ACT_HALVES, rows, t, cols, acts, act_stride, out, y_stride, width, add);
    else if (layout == LM_ACT_QUARTERS)
        multiply_rows(LM_ACT_QUARTERS, rows, t, cols, acts, act_stride, out, y_stride, width, add);
    else
        multiply_rows(LM_ACT_NATURAL, rows, t, cols, acts, act_stride, out, y_stride, width, add);
}

static void unpack_tile_of(int bits, const lm_matrix *w, const lm_expert *e, uint32_t n, uint32_t n1,
                           const tile *t, int8_t *codes, float *scales, float *biases) {
    switch (bits) {
    case 2: unpack_tile(2, w, e, n, n1, t, codes, scales, biases); break;
    case 3: unpack_tile(3, w, e, n, n1, t, codes, scales, biases); break;
    case 4: unpack_tile(4, w, e, n, n1, t, codes, scales, biases); break;
    case 5: unpack_tile(5, w, e, n, n1, t, codes, scales, biases); break;
    case 6: unpack_tile(6, w, e, n, n1, t, codes, scales, biases); break;
    case 8: unpack_tile(8, w, e, n, n1, t, codes, scales, biases); break;
    default: unpack_tile(MXFP4, w, e, n, n1, t, codes, scales, biases);
    }
}

LM_INLINE int bits_of(const lm_matrix *w) {
    return w->quant.kind == LM_QUANT_MXFP4 ? MXFP4 : (int)w->quant.bits;
}

/* Rows [n, n_end) of W, columns of t. */
static void multiply_panel(const lm_matrix *w, const lm_expert *e, tile t, const char *acts,
                           size_t act_stride, uint32_t n_rows, uint32_t n, uint32_t n_end, float *y,
                           size_t y_stride, int8_t *scratch) {
    lm_act_layout layout = lm_act_layout_of(lm_act_kind(w));
    float *scales = (float *)(void *)(scratch + PANEL * CHUNK), *biases = scales + PANEL * GROUPS;
    uint32_t n_tiles = (n_end - n + TILE - 1) / TILE;
    for (uint32_t i = 0; i < n_tiles; i++)
        unpack_tile_of(bits_of(w), w, e, n + i * TILE, n_end, &t, scratch + i * TILE * CHUNK,
                       scales + i * TILE * GROUPS, biases + i * TILE * GROUPS);
    for (uint32_t m = 0; m < n_rows; m += ROWS)
        for (uint32_t i = 0; i < n_tiles; i++) {
            uint32_t column = n + i * TILE, width = column + TILE <= n_end ? TILE : n_end - column;
            t.codes = scratch + i * TILE * CHUNK;
            t.scales = scales + i * TILE * GROUPS;
            t.biases = biases + i * TILE * GROUPS;
            multiply_rows_of(layout, n_rows - m < ROWS ? n_rows - m : ROWS, &t, w->cols,
                             acts + m * act_stride, act_stride, y + m * y_stride + column, y_stride, width,
                             t.first > 0);
        }
}

static void multiply_many(const lm_matrix *w, uint32_t expert, const char *acts, size_t act_stride,
                          uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                          void *scratch) {
    lm_expert e = lm_expert_of(w, expert);
    tile t = {.group_shift = lm_group_shift(w)};
    uint32_t blocks = w->cols / LM_ACT_BLOCK;
    for (uint32_t n = n0; n < n1; n += PANEL) {
        uint32_t n_end = n + PANEL < n1 ? n + PANEL : n1;
        for (t.first = 0; t.first < blocks; t.first += t.blocks) {
            t.blocks = blocks - t.first < GROUPS ? blocks - t.first : GROUPS;
            multiply_panel(w, &e, t, acts, act_stride, n_rows, n, n_end, y, y_stride, scratch);
        }
    }
}

/* ---- one row of x ----------------------------------------------------------------------------------------- */

#if !defined(LM_NEON_I8MM)
/* Columns of t of 8 rows of W: y[0..1] += their products with one row. */
LM_INLINE void one_chunk(int bits, const tile *t, const uint8_t *const *row, uint32_t cols, const char *act,
                         float32x4_t (*y)[ROWS]) {
    lm_act_layout layout = bits == 2                                 ? LM_ACT_QUARTERS
                           : bits == 3 || bits == 4 || bits == MXFP4 ? LM_ACT_HALVES
                                                                     : LM_ACT_NATURAL;
    uint32_t block_bytes = 4 * (bits == MXFP4 ? 4 : (uint32_t)bits);
    const float *d = (const float *)(const void *)(act + lm_act_scales_at(cols));
    const float *sums = (const float *)(const void *)(act + lm_act_sums_at(cols));
    uint32_t b = t->first, end = b + t->blocks, per_group = 1u << t->group_shift;
    for (uint32_t g = 0; b < end; g++) {
        float32x4_t scale[W_VECTORS];
        for (int i = 0; i < W_VECTORS; i++) {
            scale[i] = w_vector(t->scales + g * TILE, i);
            y[i][0] = vfmaq_f32(y[i][0], w_vector(t->biases + g * TILE, i),
                                x_vector(&sums, b >> t->group_shift, 0));
        }
        for (uint32_t k = 0; k < per_group; k++, b++) {
            int8x16_t x[2], codes[2];
            int32x4_t s[4], sum[W_VECTORS][ROWS];
            block_at(layout, cols, b, (const int8_t *)act, x);
            for (int i = 0; i < W_VECTORS; i++) {
                for (int r = 0; r < 4; r++) {
                    unpack_block(bits, row[4 * i + r] + (size_t)b * block_bytes, codes);
                    s[r] = dot_block(codes, x);
                }
                sum[i][0] = add_lanes(s);
            }
            add_block(1, sum, scale, &d, b, y);
        }
    }
}

LM_INLINE void multiply_one(int bits, const lm_matrix *w, uint32_t expert, const char *act, uint32_t n0,
                            uint32_t n1, float *y, float *scratch) {
    lm_expert e = lm_expert_of(w, expert);
    uint32_t blocks = w->cols / LM_ACT_BLOCK;
    float *scales = scratch, *biases = scales + TILE * GROUPS;
    tile t = {.scales = scales, .biases = biases, .group_shift = lm_group_shift(w)};
    for (uint32_t n = n0; n < n1; n += TILE) {
        uint32_t index[TILE], width = n + TILE <= n1 ? TILE : n1 - n;
        const uint8_t *row[TILE];
        float here[1][TILE] = {{0}};
        float32x4_t sum[W_VECTORS][ROWS];
        rows_of_tile(n, n1, index);
        for (uint32_t i = 0; i < TILE; i++) row[i] = e.codes + index[i] * w->row_bytes;
        to_vectors(1, here, sum);
        for (t.first = 0; t.first < blocks; t.first += t.blocks) {
            t.blocks = blocks - t.first < GROUPS ? blocks - t.first : GROUPS;
            unpack_scales(bits, w, &e, index, t.first >> t.group_shift, t.blocks >> t.group_shift, scales,
                          biases);
            one_chunk(bits, &t, row, w->cols, act, sum);
        }
        from_vectors(1, sum, here);
        memcpy(y + n, here[0], width * sizeof(float));
    }
}

static void multiply_one_of(const lm_matrix *w, uint32_t expert, const char *act, uint32_t n0, uint32_t n1,
                            float *y, float *scratch) {
    switch (bits_of(w)) {
    case 2: multiply_one(2, w, expert, act, n0, n1, y, scratch); break;
    case 3: multiply_one(3, w, expert, act, n0, n1, y, scratch); break;
    case 4: multiply_one(4, w, expert, act, n0, n1, y, scratch); break;
    case 5: multiply_one(5, w, expert, act, n0, n1, y, scratch); break;
    case 6: multiply_one(6, w, expert, act, n0, n1, y, scratch); break;
    case 8: multiply_one(8, w, expert, act, n0, n1, y, scratch); break;
    default: multiply_one(MXFP4, w, expert, act, n0, n1, y, scratch);
    }
}

/* The whole product in the instruction set that this file is compiled for. */
static void multiply(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                     uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride, void *scratch) {
    if (w->quant.kind == LM_QUANT_NONE)
        lm_matmul_neon_plain(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride);
    else if (n_rows == 1)
        multiply_one_of(w, expert, acts, n0, n1, y, scratch);
    else
        multiply_many(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride, scratch);
}

#endif

#endif
