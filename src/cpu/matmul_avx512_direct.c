/* matmul_avx512_direct.c - products with AVX-512 VNNI for few rows of x (decoding): codes go from the file's
 * bytes straight into the dot product.
 *
 * Four rows of W times up to four of x at a time. A unit is what one register of codes holds, in the order of
 * the activation's layout, so that x is loaded as it lies: 64 columns, or 128 in two registers for 2 bits.
 * vpdpbusd adds 4 products to each of 16 sums of 32 bits, which cannot saturate; they become floats, times
 * the scale of W and the d of x of the block that each lane belongs to ("map").
 *
 * The lanes and the order of each sum don't depend on the number of rows: a sequence gets the same numbers
 * alone and beside others.
 */
#include "cpu/matmul_avx512.h"

typedef struct four {
    const uint8_t *codes[LM_AVX512_W];
    uint32_t row[LM_AVX512_W];
} four;

typedef struct some_x {
    const char *codes[LM_AVX512_X];
    const float *d[LM_AVX512_X], *sums[LM_AVX512_X];
} some_x;

LM_INLINE bool in_halves(int bits) {
    return bits == 3 || bits == 4 || bits == LM_BITS_MXFP4;
}

LM_INLINE uint32_t blocks_of_unit(int bits) {
    return bits == 2 ? 4 : 2;
}

LM_INLINE uint32_t block_bytes_of(int bits) {
    return 4 * (bits == LM_BITS_MXFP4 ? 4 : (uint32_t)bits);
}

/* Twice v, its lower copy shifted right by `low` bits, its upper one by `high`, then masked. */
LM_INLINE __m512i shifted(__m256i v, int low, int high, char mask) {
    const __m512i by = _mm512_set_epi64(high, high, high, high, low, low, low, low);
    return _mm512_and_si512(_mm512_srlv_epi64(_mm512_broadcast_i64x4(v), by), _mm512_set1_epi8(mask));
}

LM_INLINE __m512i side_by_side(__m256i low, __m256i high) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* A unit's codes; the second register is for 2 bits alone. */
LM_INLINE void unit_codes(int bits, const uint8_t *p, __m512i out[2]) {
    if (bits == 2) {
        out[0] = shifted(load256(p), 0, 2, 3);
        out[1] = shifted(load256(p), 4, 6, 3);
    } else if (bits == 3) {
        out[0] = shifted(unpack_6(p), 0, 3, 7);
    } else if (bits == 5) {
        out[0] = side_by_side(unpack_5(p), unpack_5(p + 20));
    } else if (bits == 6) {
        out[0] = side_by_side(unpack_6(p), unpack_6(p + 24));
    } else if (bits == 8) {
        out[0] = _mm512_loadu_si512(p);
    } else {
        out[0] = shifted(load256(p), 0, 4, 15);
        if (bits == LM_BITS_MXFP4) {
            const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(LM_MXFP4_LIST));
            out[0] = _mm512_shuffle_epi8(table, out[0]);
        }
    }
}

/* The 32 codes of a block that no unit is left for, the rest zero. */
LM_INLINE __m512i block_codes(int bits, const uint8_t *p) {
    __m256i v = bits == 2   ? unpack_quarters_tail(p)
                : bits == 5 ? unpack_5(p)
                : bits == 6 ? unpack_6(p)
                : bits == 8 ? load256(p)
                            : unpack_halves_tail(bits, p);
    return side_by_side(v, _mm256_setzero_si256());
}

/* Which of a unit's blocks each lane belongs to. */
LM_INLINE __m512i lane_map(int bits) {
    if (bits == 2) return _mm512_set_epi32(3, 3, 2, 2, 1, 1, 0, 0, 3, 3, 2, 2, 1, 1, 0, 0);
    if (in_halves(bits)) return _mm512_set_epi32(1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0);
    return _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0);
}

/* Numbers g..g+15 of a row of scales or biases as floats; those beyond the row count for nothing: their sums
 * of x are zero. */
LM_INLINE __m512 numbers16(const lm_matrix *w, const uint8_t *row, uint32_t g, uint32_t n_groups) {
    __m256 half[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (uint32_t h = 0; h < 2 && g + 8 * h < n_groups; h++)
        half[h] = w->quant.kind == LM_QUANT_MXFP4 ? load_e8m0_half(row, g + 8 * h, n_groups)
                                                  : load_numbers(w->dtype, row, g + 8 * h, n_groups);
    return _mm512_castsi512_ps(side_by_side(_mm256_castps_si256(half[0]), _mm256_castps_si256(half[1])));
}

/* Scales of groups g..g+15 into s; their biases times the groups' sums of x are added to sum. */
LM_INLINE void open_groups(int bits, int rows, const lm_matrix *w, const lm_expert *e, const four *f,
                           const some_x *x, uint32_t g, uint32_t n_groups, __m512 *s,
                           __m512 (*sum)[LM_AVX512_W]) {
    for (int i = 0; i < LM_AVX512_W; i++) {
        size_t at = f->row[i] * e->scales_row;
        s[i] = numbers16(w, e->scales + at, g, n_groups);
        __m512 b = bits == LM_BITS_MXFP4 ? _mm512_mul_ps(s[i], _mm512_set1_ps(-(float)LM_MXFP4_ZERO))
                                         : numbers16(w, e->biases + at, g, n_groups);
        for (int m = 0; m < rows; m++)
            sum[m][i] = _mm512_fmadd_ps(b, _mm512_loadu_ps(x->sums[m] + g), sum[m][i]);
    }
}

/* A unit, or a block on its own, from block b on: group picks each lane's scale, map its d. */
LM_INLINE void meet(int bits, bool whole, int rows, const four *f, const some_x *x, uint32_t b,
                    size_t row_bytes, __m512i group, __m512i map, const __m512 *s,
                    __m512 (*sum)[LM_AVX512_W]) {
    size_t at = (size_t)b * block_bytes_of(bits);
    __m512i a[LM_AVX512_X][2];
    __m512 d[LM_AVX512_X];
    for (int m = 0; m < rows; m++) {
        const char *p = x->codes[m] + (size_t)b * LM_ACT_BLOCK;
        a[m][0] = whole ? _mm512_loadu_si512(p) : side_by_side(load256(p), _mm256_setzero_si256());
        if (whole && bits == 2) a[m][1] = _mm512_loadu_si512(p + 64);
        /* Four of them, of which a unit may need two: behind the last there are the sums. */
        d[m] = _mm512_permutexvar_ps(map, _mm512_castps128_ps512(_mm_loadu_ps(x->d[m] + b)));
    }
    for (int i = 0; i < LM_AVX512_W; i++) {
        const uint8_t *p = f->codes[i] + at;
        __m512i c[2];
        _mm_prefetch((const char *)p + LM_AVX512_W * row_bytes, _MM_HINT_T0);
        if (whole)
            unit_codes(bits, p, c);
        else
            c[0] = block_codes(bits, p);
        __m512 scale = _mm512_permutexvar_ps(group, s[i]);
        for (int m = 0; m < rows; m++) {
            __m512i part = _mm512_dpbusd_epi32(_mm512_setzero_si512(), c[0], a[m][0]);
            if (whole && bits == 2) part = _mm512_dpbusd_epi32(part, c[1], a[m][1]);
            sum[m][i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(part), _mm512_mul_ps(scale, d[m]), sum[m][i]);
        }
    }
}

/* y (rows, 4) of four rows of W; only the first `width` of 4 are stored. */
LM_INLINE void four_rows(int bits, int rows, const lm_matrix *w, const lm_expert *e, const four *f,
                         const some_x *x, float *y, size_t y_stride, uint32_t width) {
    uint32_t n_groups = w->cols / w->quant.group, n_blocks = w->cols / LM_ACT_BLOCK,
             unit = blocks_of_unit(bits);
    uint32_t shift = w->quant.group == 128 ? 2 : w->quant.group == 64 ? 1 : 0;
    const __m128i by = _mm_cvtsi32_si128((int)shift);
    const __m512i map = lane_map(bits);
    __m512 sum[LM_AVX512_X][LM_AVX512_W], s[LM_AVX512_W];
    for (int m = 0; m < rows; m++)
        for (int i = 0; i < LM_AVX512_W; i++) sum[m][i] = _mm512_setzero_ps();
    for (uint32_t g = 0; g < n_groups; g += 16) {
        uint32_t first = g << shift, b = first, end = (g + 16) << shift;
        if (end > n_blocks) end = n_blocks;
        open_groups(bits, rows, w, e, f, x, g, n_groups, s, sum);
        for (; b + unit <= end; b += unit) {
            __m512i block = _mm512_add_epi32(map, _mm512_set1_epi32((int)(b - first)));
            meet(bits, true, rows, f, x, b, w->row_bytes, _mm512_srl_epi32(block, by), map, s, sum);
        }
        for (; b < end; b++) {
            __m512i group = _mm512_set1_epi32((int)(b - first) >> shift);
            meet(bits, false, rows, f, x, b, w->row_bytes, group, _mm512_setzero_si512(), s, sum);
        }
    }
    for (int m = 0; m < rows; m++) {
        float four_sums[LM_AVX512_W];
        _mm_storeu_ps(four_sums, sum_four(sum[m]));
        memcpy(y + m * y_stride, four_sums, width * sizeof(float));
    }
}

LM_INLINE void few_rows(int bits, const lm_matrix *w, uint32_t expert, const char *acts, size_t act_stride,
                        uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride) {
    lm_expert e = lm_expert_of(w, expert);
    for (uint32_t n = n0; n < n1; n += LM_AVX512_W) {
        uint32_t width = n1 - n < LM_AVX512_W ? n1 - n : LM_AVX512_W;
        four f;
        for (uint32_t i = 0; i < LM_AVX512_W; i++) {
            f.row[i] = i < width ? n + i : n1 - 1;
            f.codes[i] = e.codes + f.row[i] * w->row_bytes;
        }
        for (uint32_t m = 0; m < n_rows; m += LM_AVX512_X) {
            uint32_t rows = n_rows - m < LM_AVX512_X ? n_rows - m : LM_AVX512_X;
            float *to = y + m * y_stride + n;
            some_x x;
            for (uint32_t i = 0; i < rows; i++) {
                x.codes[i] = acts + (m + i) * act_stride;
                x.d[i] = (const float *)(const void *)(x.codes[i] + lm_act_scales_at(w->cols));
                x.sums[i] = (const float *)(const void *)(x.codes[i] + lm_act_sums_at(w->cols));
            }
            switch (rows) {
            case 1: four_rows(bits, 1, w, &e, &f, &x, to, y_stride, width); break;
            case 2: four_rows(bits, 2, w, &e, &f, &x, to, y_stride, width); break;
            case 3: four_rows(bits, 3, w, &e, &f, &x, to, y_stride, width); break;
            default: four_rows(bits, 4, w, &e, &f, &x, to, y_stride, width);
            }
        }
    }
}

void lm_matmul_avx512_direct(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                             uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                             void *scratch) {
    (void)scratch;
    switch (w->quant.kind == LM_QUANT_MXFP4 ? (uint32_t)LM_BITS_MXFP4 : w->quant.bits) {
    case 2: few_rows(2, w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride); break;
    case 3: few_rows(3, w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride); break;
    case 4: few_rows(4, w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride); break;
    case 5: few_rows(5, w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride); break;
    case 6: few_rows(6, w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride); break;
    case 8: few_rows(8, w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride); break;
    default: few_rows(LM_BITS_MXFP4, w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride);
    }
}
