/* matmul_avx2_direct.c - products with AVX2 for few rows of x: what a lone sequence decodes with.
 *
 * Decoding reads every weight once and does little with it, so the loop runs at the speed of memory when it
 * needs fewer instructions than the memory takes time: codes go from the file's bytes straight into
 * vpmaddubsw (unsigned codes times signed activations, neighbours added in 16 bits). It saturates at 32767;
 * the worst sums before vpmaddwd widens them to 32 bits are
 *
 *     2 bits  4 products of 2 *  3 * 127 =  3048        5 bits  2 of 2 *  31 * 127 = 15748
 *     3 bits  2          of 2 *  7 * 127 =  3556        6 bits  2 of 2 *  63 * 127 = 32004
 *     4 bits  2          of 2 * 15 * 127 =  7620        8 bits  1 of 2 * 128 * 127 = 32512 (|code - 128| <=
 * 128) mxfp4   2          of 2 * 24 * 127 = 12192
 *
 * Eight rows of W go together, a unit of columns at a time: 64, of 2 bits 128, at the end of some rows 32. A
 * row's part of it gives eight sums of 32 bits, so many to each block of 32 columns; horizontal additions
 * over the eight rows turn them into one register per block that holds the rows' sums side by side, and
 * floats begin there: scales and biases wait in that order too, eight groups (a "span") at a time. The last
 * eight groups of a row are read from its end backwards, so that no load is shorter than a register.
 */
enum { W_ROWS = 8, SPAN = 8, MOST_X = 4 };

#include "cpu/matmul_direct.h"

/* Eight rows of W, those beyond the last repeated. */
typedef struct w_rows {
    const uint8_t *codes[W_ROWS];
    float scales[SPAN][W_ROWS] __attribute__((aligned(32))),
        biases[SPAN][W_ROWS] __attribute__((aligned(32)));
    uint32_t row[W_ROWS];
    uint32_t base; /* first group of the span */
    size_t ahead;  /* bytes from a code to one that is worth asking for now */
} w_rows;

LM_INLINE uint32_t unit_columns(int bits, bool tail) {
    return tail ? 32 : bits == 2 ? 128 : 64;
}

/* ---- codes ------------------------------------------------------------------------------------------- */

/* 16 + 16 codes of 5 or 6 bits: some of the 32 at p into the lower half, of the 32 after them into the upper
 * one; `second` for the later 16 of both. Each 16-bit lane gets the two bytes that hold its two codes, a
 * multiplication moves them to the top, shifts part them. */
LM_INLINE __m256i unpack_spaced(int bits, bool second, const uint8_t *p) {
    if (bits == 5) {
        const __m128i spread = second ? _mm_setr_epi8(6, 7, 7, 8, 8, 9, 9, 10, 11, 12, 12, 13, 13, 14, 14, 15)
                                      : _mm_setr_epi8(0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9);
        const __m256i to_top = _mm256_set1_epi64x(0x0001000400100040); /* << 6, << 4, << 2, << 0 */
        __m256i v = two_lanes(p + (second ? 4 : 0), p + (second ? 24 : 20));
        v = _mm256_mullo_epi16(_mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(spread)), to_top);
        return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(v, 6), _mm256_set1_epi16(0x001f)),
                               _mm256_and_si256(_mm256_srli_epi16(v, 3), _mm256_set1_epi16(0x1f00)));
    }
    const __m128i spread = second ? _mm_setr_epi8(4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12, 13, 14, 14, 15)
                                  : _mm_setr_epi8(0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11);
    const __m256i to_top = _mm256_set1_epi32(0x00010010); /* << 4, << 0 */
    __m256i v = two_lanes(p + (second ? 8 : 0), p + (second ? 32 : 24));
    v = _mm256_mullo_epi16(_mm256_shuffle_epi8(v, _mm256_broadcastsi128_si256(spread)), to_top);
    return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi16(0x003f)),
                           _mm256_and_si256(_mm256_srli_epi16(v, 2), _mm256_set1_epi16(0x3f00)));
}

/* Registers of codes in a unit. */
LM_INLINE int unit_parts(int bits, bool tail) {
    return tail ? 1 : bits == 2 ? 4 : 2;
}

LM_INLINE void unpack_unit(int bits, bool tail, const uint8_t *p, __m256i v[4]) {
    const __m256i flip = _mm256_set1_epi8((char)0x80);
    if (bits == 8) { /* code - 128 */
        v[0] = _mm256_xor_si256(tail ? load256(p) : two_lanes(p, p + 32), flip);
        if (!tail) v[1] = _mm256_xor_si256(two_lanes(p + 16, p + 48), flip);
    } else if (bits == 5 || bits == 6) {
        v[0] = tail ? bits == 5 ? unpack_5(p) : unpack_6(p) : unpack_spaced(bits, false, p);
        if (!tail) v[1] = unpack_spaced(bits, true, p);
    } else if (bits == 2) {
        if (tail)
            v[0] = unpack_quarters_tail(p);
        else
            unpack_quarters(p, v);
    } else if (tail) {
        v[0] = unpack_halves_tail(bits, p);
    } else {
        unpack_halves(bits, p, &v[0], &v[1]);
    }
}

/* The activation's codes in the same order. */
LM_INLINE void load_x(int bits, bool tail, const char *x, __m256i a[4]) {
    if (!tail && bits >= 5 && bits <= 8) {
        a[0] = two_lanes(x, x + 32);
        a[1] = two_lanes(x + 16, x + 48);
        return;
    }
    for (int i = 0; i < unit_parts(bits, tail); i++) a[i] = load256(x + 32 * i);
}

/* How often two lanes of a row's 16-bit sums may still be added before they are widened. */
LM_INLINE int free_additions(int bits, bool tail) {
    if (tail) return 0;
    return bits <= 4 ? 2 : bits == 5 || bits == LM_BITS_MXFP4 ? 1 : 0;
}

LM_INLINE __m256i widen(__m256i sums) {
    return _mm256_madd_epi16(sums, _mm256_set1_epi16(1));
}

/* Sixteen lanes of 16 bits, or where those may not be added any more, eight of 32: Σ code * q of a row of W.
 */
LM_INLINE __m256i row_sums(int bits, bool tail, const __m256i v[4], const __m256i a[4]) {
    if (bits == 8) { /* vpmaddubsw wants one side unsigned: |code - 128|, and q with its sign */
        __m256i s = widen(_mm256_maddubs_epi16(_mm256_abs_epi8(v[0]), _mm256_sign_epi8(a[0], v[0])));
        if (tail) return s;
        return _mm256_add_epi32(
            s, widen(_mm256_maddubs_epi16(_mm256_abs_epi8(v[1]), _mm256_sign_epi8(a[1], v[1]))));
    }
    __m256i s = _mm256_maddubs_epi16(v[0], a[0]);
    for (int i = 1; i < unit_parts(bits, tail); i++)
        s = _mm256_add_epi16(s, _mm256_maddubs_epi16(v[i], a[i]));
    return free_additions(bits, tail) ? s : widen(s);
}

/* Four rows' sums -> in each half of a register one sum of 32 bits per row. */
LM_INLINE __m256i gather_four(int additions, const __m256i t[4]) {
    __m256i p[2];
    for (int i = 0; i < 2; i++) {
        __m256i low = _mm256_unpacklo_epi32(t[2 * i], t[2 * i + 1]);
        __m256i high = _mm256_unpackhi_epi32(t[2 * i], t[2 * i + 1]);
        p[i] = additions ? _mm256_add_epi16(low, high) : _mm256_add_epi32(low, high);
        if (additions == 1) p[i] = widen(p[i]);
    }
    __m256i low = _mm256_unpacklo_epi64(p[0], p[1]), high = _mm256_unpackhi_epi64(p[0], p[1]);
    return additions == 2 ? widen(_mm256_add_epi16(low, high)) : _mm256_add_epi32(low, high);
}

/* Rows' sums -> one register of eight rows per block of the unit. */
LM_INLINE void gather_sums(int bits, bool tail, const __m256i t[W_ROWS], __m256i block[4]) {
    __m256i q[2], r[2];
    if (bits == 2 && !tail) { /* lanes 0, 1 of each half are one block, 2, 3 the other */
        for (int i = 0; i < 2; i++) {
            __m256i ab = _mm256_hadd_epi32(widen(t[4 * i]), widen(t[4 * i + 1]));
            __m256i cd = _mm256_hadd_epi32(widen(t[4 * i + 2]), widen(t[4 * i + 3]));
            q[i] = _mm256_castps_si256(
                _mm256_shuffle_ps(_mm256_castsi256_ps(ab), _mm256_castsi256_ps(cd), 0x88));
            r[i] = _mm256_castps_si256(
                _mm256_shuffle_ps(_mm256_castsi256_ps(ab), _mm256_castsi256_ps(cd), 0xdd));
        }
        block[0] = _mm256_permute2x128_si256(q[0], q[1], 0x20);
        block[1] = _mm256_permute2x128_si256(r[0], r[1], 0x20);
        block[2] = _mm256_permute2x128_si256(q[0], q[1], 0x31);
        block[3] = _mm256_permute2x128_si256(r[0], r[1], 0x31);
        return;
    }
    for (int i = 0; i < 2; i++) q[i] = gather_four(free_additions(bits, tail), t + 4 * i);
    block[0] = _mm256_permute2x128_si256(q[0], q[1], 0x20);
    block[1] = _mm256_permute2x128_si256(q[0], q[1], 0x31);
    if (tail) block[0] = _mm256_add_epi32(block[0], block[1]);
}

/* ---- one unit ---------------------------------------------------------------------------------------- */

/* y of the eight rows of W and row m of x, before and after the unit at column k. */
LM_INLINE __m256 add_unit(int bits, bool tail, const direct *t, const w_rows *r, const __m256i *sums,
                          uint32_t m, uint32_t k, __m256 y) {
    uint32_t columns = unit_columns(bits, tail), b = k / LM_ACT_BLOCK;
    const char *x = t->x + m * t->x_stride;
    const float *d = (const float *)(const void *)(x + t->d_at) + b;
    const float *xs = (const float *)(const void *)(x + t->sums_at);
    __m256i block[4];
    gather_sums(bits, tail, sums, block);
#pragma GCC unroll 4
    for (uint32_t i = 0; i < columns / LM_ACT_BLOCK; i++) {
        uint32_t g = (b + i) >> t->group_shift;
        if (((b + i) & ((1u << t->group_shift) - 1)) == 0)
            y = _mm256_fmadd_ps(_mm256_load_ps(r->biases[g - r->base]), _mm256_broadcast_ss(xs + g), y);
        if (bits == 8)
            block[i] = _mm256_add_epi32(
                block[i], _mm256_set1_epi32(t->scratch[m * (t->w->cols / LM_ACT_BLOCK) + b + i]));
        __m256 scale = _mm256_mul_ps(_mm256_load_ps(r->scales[g - r->base]), _mm256_broadcast_ss(d + i));
        y = _mm256_fmadd_ps(_mm256_cvtepi32_ps(block[i]), scale, y);
    }
    return y;
}

LM_INLINE size_t codes_at(int bits, uint32_t k) {
    return (size_t)k * (bits == LM_BITS_MXFP4 ? 4 : (uint32_t)bits) / 8;
}

LM_INLINE __m256 meet_one(int bits, bool tail, const direct *t, const w_rows *r, uint32_t k, __m256 y) {
    __m256i a[4], sums[W_ROWS];
    load_x(bits, tail, t->x + k, a);
#pragma GCC unroll 8
    for (int i = 0; i < W_ROWS; i++) {
        __m256i v[4];
        const uint8_t *codes = r->codes[i] + codes_at(bits, k);
        _mm_prefetch((const char *)codes + r->ahead, _MM_HINT_T1);
        unpack_unit(bits, tail, codes, v);
        sums[i] = row_sums(bits, tail, v, a);
    }
    return add_unit(bits, tail, t, r, sums, 0, k, y);
}

/* The same for all rows of x: the codes are unpacked once. */
LM_INLINE void meet_some(int bits, bool tail, const direct *t, const w_rows *r, uint32_t k, float *y,
                         size_t y_stride) {
    __m256i codes[W_ROWS][4];
#pragma GCC unroll 8
    for (int i = 0; i < W_ROWS; i++) {
        const uint8_t *from = r->codes[i] + codes_at(bits, k);
        _mm_prefetch((const char *)from + r->ahead, _MM_HINT_T1);
        unpack_unit(bits, tail, from, codes[i]);
    }
    __asm__ volatile("" ::: "memory");
    for (uint32_t m = 0; m < t->xs; m++) {
        __m256i a[4], sums[W_ROWS];
        load_x(bits, tail, t->x + m * t->x_stride + k, a);
#pragma GCC unroll 8
        for (int i = 0; i < W_ROWS; i++) sums[i] = row_sums(bits, tail, codes[i], a);
        float *to = y + m * y_stride;
        _mm256_storeu_ps(to, add_unit(bits, tail, t, r, sums, m, k, _mm256_loadu_ps(to)));
    }
}

/* ---- eight rows of W --------------------------------------------------------------------------------- */

LM_INLINE __m256 meet(int bits, bool tail, bool one, const direct *t, const w_rows *r, uint32_t k, float *y,
                      __m256 sum) {
    if (one) return meet_one(bits, tail, t, r, k, sum);
    meet_some(bits, tail, t, r, k, y, W_ROWS);
    return sum;
}

/* Rows [n, n + width) of W into y, (xs, 8) floats. */
LM_INLINE void meet_rows(int bits, bool one, const direct *t, uint32_t n, uint32_t width, float *y) {
    w_rows r;
    r.ahead = W_ROWS * t->w->row_bytes;
    direct_take(t, n, width, r.row, r.codes);
    __m256 sum = _mm256_setzero_ps();
    uint32_t unit = unit_columns(bits, false), n_groups = t->n_groups;
    for (uint32_t g = 0; g < n_groups; g += SPAN) {
        r.base = g + SPAN <= n_groups || n_groups < SPAN ? g : n_groups - SPAN;
        load_span(t->w, &t->e, r.row, r.base, n_groups, r.scales[0], r.biases[0], W_ROWS);
        uint32_t k = (g << t->group_shift) * LM_ACT_BLOCK;
        uint32_t end = g + SPAN < n_groups ? ((g + SPAN) << t->group_shift) * LM_ACT_BLOCK : t->w->cols;
        for (; k + unit <= end; k += unit) sum = meet(bits, false, one, t, &r, k, y, sum);
        for (; k < end; k += 32) sum = meet(bits, true, one, t, &r, k, y, sum);
    }
    if (one) _mm256_store_ps(y, sum);
}

DIRECT_FORMS

/* 128 * Σ q of each block, what codes less 128 leave out: (xs, blocks) in scratch. */
static void centre_sums(const direct *t) {
    const __m256i by = _mm256_set1_epi16(128);
    uint32_t blocks = t->w->cols / LM_ACT_BLOCK;
    for (uint32_t m = 0; m < t->xs; m++)
        for (uint32_t b = 0; b < blocks; b++) {
            __m256i q = load256(t->x + m * t->x_stride + b * LM_ACT_BLOCK);
            __m256i s = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), q), by);
            __m128i h = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
            h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
            h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1));
            t->scratch[m * blocks + b] = _mm_cvtsi128_si32(h);
        }
}

void lm_matmul_avx2_direct(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                           uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                           void *scratch) {
    direct t = direct_of(w, expert, acts, act_stride, n_rows, scratch);
    if (w->quant.bits == 8) centre_sums(&t);
    direct_run(direct_forms[lm_avx2_bits(w)][n_rows > 1], &t, n0, n1, y, y_stride);
}
