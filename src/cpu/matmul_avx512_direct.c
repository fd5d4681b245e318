/* matmul_avx512_direct.c - products with AVX-512 VNNI for few rows of x (decoding): codes go from the file's
 * bytes straight into the dot product.
 *
 * Sixteen rows of W go together, a unit of columns at a time: what one register of codes holds in the order
 * of the activation's layout, so that x is loaded as it lies, 64 columns, or 128 in two registers for 2 bits;
 * 32 at the end of some rows. vpdpbusd adds 4 products to each of 16 sums of 32 bits, which cannot saturate.
 * Additions over the sixteen rows turn their sums into one register per block of 32 columns, the rows side by
 * side; floats begin there, in the order that all kernels of AVX2 and AVX-512 have: group after group its
 * bias, block after block its sum. So a sequence gets the same numbers alone and beside others.
 */
#include "cpu/matmul_avx512.h"

enum { W_ROWS = 16, MOST_X = LM_AVX512_FEW, MOST_BLOCKS = 4 };

#include "cpu/matmul_direct.h"

/* Sixteen rows of W, those beyond the last repeated. */
typedef struct w_rows {
    const uint8_t *codes[W_ROWS];
    float scales[LM_AVX512_SPAN][W_ROWS] __attribute__((aligned(64)));
    float biases[LM_AVX512_SPAN][W_ROWS] __attribute__((aligned(64)));
    uint32_t row[W_ROWS];
    uint32_t base; /* first group of the span */
} w_rows;

/* ---- codes ------------------------------------------------------------------------------------------- */

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

/* A unit, or a block on its own. */
LM_INLINE void codes_at(int bits, bool whole, const uint8_t *row, uint32_t b, __m512i out[2]) {
    const uint8_t *p = row + (size_t)b * block_bytes_of(bits);
    if (whole)
        unit_codes(bits, p, out);
    else
        out[0] = block_codes(bits, p);
}

LM_INLINE void load_x(int bits, bool whole, const char *x, uint32_t b, __m512i out[2]) {
    const char *p = x + (size_t)b * LM_ACT_BLOCK;
    out[0] = whole ? _mm512_loadu_si512(p) : side_by_side(load256(p), _mm256_setzero_si256());
    if (whole && bits == 2) out[1] = _mm512_loadu_si512(p + 64);
}

LM_INLINE __m512i row_sums(int bits, bool whole, const __m512i codes[2], const __m512i x[2]) {
    __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), codes[0], x[0]);
    return whole && bits == 2 ? _mm512_dpbusd_epi32(sum, codes[1], x[1]) : sum;
}

/* ---- sums of sixteen rows side by side ------------------------------------------------------------------- */

LM_INLINE __m512i as_ints(__m512 v) {
    return _mm512_castps_si512(v);
}
LM_INLINE __m512 as_floats(__m512i v) {
    return _mm512_castsi512_ps(v);
}

/* Per quarter of a register: four rows' sums over its four lanes. */
LM_INLINE __m512i four_of(const __m512i t[4]) {
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(t[0], t[1]), _mm512_unpackhi_epi32(t[0], t[1]));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(t[2], t[3]), _mm512_unpackhi_epi32(t[2], t[3]));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

/* The same where lanes 0, 1 of a quarter belong to one block, 2, 3 to the next. */
LM_INLINE void four_of_two(const __m512i t[4], __m512i *one, __m512i *next) {
    __m512 ab = as_floats(_mm512_unpacklo_epi64(t[0], t[1])),
           cd = as_floats(_mm512_unpacklo_epi64(t[2], t[3]));
    __m512 e = as_floats(_mm512_unpackhi_epi64(t[0], t[1])), f = as_floats(_mm512_unpackhi_epi64(t[2], t[3]));
    *one =
        _mm512_add_epi32(as_ints(_mm512_shuffle_ps(ab, cd, 0x88)), as_ints(_mm512_shuffle_ps(ab, cd, 0xdd)));
    *next = _mm512_add_epi32(as_ints(_mm512_shuffle_ps(e, f, 0x88)), as_ints(_mm512_shuffle_ps(e, f, 0xdd)));
}

/* q[i]: rows 4i to 4i + 3 in each quarter. Two of its quarters add up to the first block, the other two to
 * the second: 0, 2 and 1, 3 when apart, else 0, 1 and 2, 3. */
LM_INLINE void two_blocks(bool apart, const __m512i q[4], __m512i *first, __m512i *second) {
    __m512i half[2];
    for (int i = 0; i < 2; i++) {
        __m512i a = q[2 * i], b = q[2 * i + 1];
        half[i] = apart
                      ? _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x44), _mm512_shuffle_i32x4(a, b, 0xee))
                      : _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
    }
    *first = _mm512_shuffle_i32x4(half[0], half[1], 0x88);
    *second = _mm512_shuffle_i32x4(half[0], half[1], 0xdd);
}

/* Rows' sums -> one register of sixteen rows per block of the unit. */
LM_INLINE void gather_sums(int bits, bool whole, const __m512i t[W_ROWS], __m512i block[MOST_BLOCKS]) {
    __m512i q[4], r[4];
    if (bits == 2 && whole) {
        for (int i = 0; i < 4; i++) four_of_two(t + 4 * i, &q[i], &r[i]);
        two_blocks(true, q, &block[0], &block[2]);
        two_blocks(true, r, &block[1], &block[3]);
        return;
    }
    for (int i = 0; i < 4; i++) q[i] = four_of(t + 4 * i);
    two_blocks(whole && in_halves(bits), q, &block[0], &block[1]);
}

/* ---- one unit ---------------------------------------------------------------------------------------- */

/* y of the sixteen rows of W and row m of x, before and after the unit at block b. */
LM_INLINE __m512 add_unit(int bits, bool whole, const direct *t, const w_rows *r, const __m512i *sums,
                          uint32_t m, uint32_t b, __m512 y) {
    const char *x = t->x + m * t->x_stride;
    const float *d = (const float *)(const void *)(x + t->d_at);
    const float *x_sums = (const float *)(const void *)(x + t->sums_at);
    __m512i block[MOST_BLOCKS];
    gather_sums(bits, whole, sums, block);
    for (uint32_t i = 0; i < (whole ? blocks_of_unit(bits) : 1); i++) {
        uint32_t g = (b + i) >> t->group_shift;
        if (((b + i) & ((1u << t->group_shift) - 1)) == 0)
            y = _mm512_fmadd_ps(_mm512_loadu_ps(r->biases[g - r->base]), _mm512_set1_ps(x_sums[g]), y);
        __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(r->scales[g - r->base]), _mm512_set1_ps(d[b + i]));
        y = _mm512_fmadd_ps(_mm512_cvtepi32_ps(block[i]), scale, y);
    }
    return y;
}

LM_INLINE __m512 meet_one(int bits, bool whole, const direct *t, const w_rows *r, uint32_t b, __m512 y) {
    __m512i x[2], codes[2], sums[W_ROWS];
    size_t ahead = W_ROWS * t->w->row_bytes;
    load_x(bits, whole, t->x, b, x);
#pragma GCC unroll 16
    for (int i = 0; i < W_ROWS; i++) {
        _mm_prefetch((const char *)r->codes[i] + (size_t)b * block_bytes_of(bits) + ahead, _MM_HINT_T1);
        codes_at(bits, whole, r->codes[i], b, codes);
        sums[i] = row_sums(bits, whole, codes, x);
    }
    return add_unit(bits, whole, t, r, sums, 0, b, y);
}

/* The same for all rows of x: the codes are unpacked once. y: (xs, 16) */
LM_INLINE void meet_some(int bits, bool whole, const direct *t, const w_rows *r, uint32_t b, float *y) {
    __m512i codes[W_ROWS][2];
    size_t ahead = W_ROWS * t->w->row_bytes;
#pragma GCC unroll 16
    for (int i = 0; i < W_ROWS; i++) {
        _mm_prefetch((const char *)r->codes[i] + (size_t)b * block_bytes_of(bits) + ahead, _MM_HINT_T1);
        codes_at(bits, whole, r->codes[i], b, codes[i]);
    }
    for (uint32_t m = 0; m < t->xs; m++, y += W_ROWS) {
        __m512i x[2], sums[W_ROWS];
        load_x(bits, whole, t->x + m * t->x_stride, b, x);
#pragma GCC unroll 16
        for (int i = 0; i < W_ROWS; i++) sums[i] = row_sums(bits, whole, codes[i], x);
        _mm512_storeu_ps(y, add_unit(bits, whole, t, r, sums, m, b, _mm512_loadu_ps(y)));
    }
}

/* ---- sixteen rows of W ------------------------------------------------------------------------------- */

LM_INLINE __m512 meet(int bits, bool whole, bool one, const direct *t, const w_rows *r, uint32_t b, float *y,
                      __m512 sum) {
    if (one) return meet_one(bits, whole, t, r, b, sum);
    meet_some(bits, whole, t, r, b, y);
    return sum;
}

/* Rows [n, n + width) of W into y, (xs, 16) floats. */
LM_INLINE void meet_rows(int bits, bool one, const direct *t, uint32_t n, uint32_t width, float *y) {
    const lm_matrix *w = t->w;
    uint32_t unit = blocks_of_unit(bits), n_blocks = w->cols / LM_ACT_BLOCK;
    w_rows r;
    direct_take(t, n, width, r.row, r.codes);
    __m512 sum = _mm512_setzero_ps();
    for (r.base = 0; r.base < t->n_groups; r.base += LM_AVX512_SPAN) {
        for (uint32_t h = 0; h < W_ROWS; h += 8)
            load_span(w, &t->e, r.row + h, r.base, t->n_groups, r.scales[0] + h, r.biases[0] + h, W_ROWS);
        uint32_t b = r.base << t->group_shift, end = (r.base + LM_AVX512_SPAN) << t->group_shift;
        if (end > n_blocks) end = n_blocks;
        for (; b + unit <= end; b += unit) sum = meet(bits, true, one, t, &r, b, y, sum);
        for (; b < end; b++) sum = meet(bits, false, one, t, &r, b, y, sum);
    }
    if (one) _mm512_storeu_ps(y, sum);
}

DIRECT_FORMS

void lm_matmul_avx512_direct(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                             uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                             void *scratch) {
    direct t = direct_of(w, expert, acts, act_stride, n_rows, scratch);
    direct_run(direct_forms[lm_avx2_bits(w)][n_rows > 1], &t, n0, n1, y, y_stride);
}
