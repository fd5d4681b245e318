/* matmul_avx2_one.c - products with AVX2 for one row of x: what a lone sequence decodes with.
 *
 * Four rows of W at a time: the activation is loaded once for all of them, and their sums are four chains
 * that don't wait for each other. A unit is what 32 bytes of codes unpack to (64 columns in the HALVES
 * layout, else 32); its integer sum is turned to float, multiplied by the activation's scales (D, spread over
 * the lanes once per call) and by the weight's scale, which comes out of a register that holds eight of them.
 * The last eight scales of a row are read from its end backwards, so that no load is shorter than a register.
 */
#include "cpu/matmul_avx2.h"

enum { ROWS = 4 };

typedef struct four {
    const uint8_t *codes[ROWS], *scales[ROWS], *biases[ROWS];
} four;

LM_INLINE bool in_halves(int bits) {
    return bits == 3 || bits == 4 || bits == LM_BITS_MXFP4;
}

/* Eight lanes of Σ code * q over one unit of one row. */
LM_INLINE __m256 unit_sums(int bits, const uint8_t *codes, __m256i a0, __m256i a1) {
    __m256i sums;
    if (in_halves(bits)) {
        __m256i even, odd;
        unpack_halves(bits, codes, &even, &odd);
        sums = _mm256_add_epi16(_mm256_maddubs_epi16(even, a0), _mm256_maddubs_epi16(odd, a1));
    } else if (bits == 8) { /* vpmaddubsw wants one side unsigned: |code - 128|, and q with its sign */
        __m256i v = _mm256_xor_si256(load256(codes), _mm256_set1_epi8((char)0x80));
        sums = _mm256_maddubs_epi16(_mm256_abs_epi8(v), _mm256_sign_epi8(a0, v));
    } else {
        sums = _mm256_maddubs_epi16(bits == 6 ? unpack_6(codes) : unpack_5(codes), a0);
    }
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(sums, _mm256_set1_epi16(1)));
}

/* Scales of groups base..base+7 into s; their biases times the groups' sums of x are added to sum. */
LM_INLINE void open_groups(int bits, const lm_matrix *w, const four *f, const float *x_sums, uint32_t base,
                           uint32_t first, uint32_t n_groups, __m256 *s, __m256 *sum) {
    __m256 x = _mm256_loadu_ps(x_sums + base);
    if (first) { /* those before were counted already */
        __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        __m256i counted = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)first), lane);
        x = _mm256_andnot_ps(_mm256_castsi256_ps(counted), x);
    }
    for (int i = 0; i < ROWS; i++) {
        __m256 b;
        if (bits == LM_BITS_MXFP4) {
            s[i] = load_e8m0_half(f->scales[i], base, n_groups);
            b = _mm256_mul_ps(s[i], _mm256_set1_ps(-(float)LM_MXFP4_ZERO));
        } else {
            s[i] = load_numbers(w->dtype, f->scales[i], base, n_groups);
            b = load_numbers(w->dtype, f->biases[i], base, n_groups);
            if (bits == 8) b = _mm256_fmadd_ps(s[i], _mm256_set1_ps(128.0f), b);
        }
        sum[i] = _mm256_fmadd_ps(b, x, sum[i]);
    }
}

/* One unit of the four rows; index picks each lane's scale. */
LM_INLINE void meet_unit(int bits, const four *f, size_t row_bytes, uint32_t unit, const char *act,
                         const float *d, __m256i index, const __m256 *s, __m256 *sum) {
    bool halves = in_halves(bits);
    uint32_t unit_bytes = halves ? (bits == 3 ? 24 : 32) : 4 * (uint32_t)bits;
    const char *a = act + (halves ? 64 : 32) * unit;
    __m256i a0 = load256(a), a1 = halves ? load256(a + 32) : a0;
    __m256 scale = halves ? _mm256_load_ps(d + 8 * unit) : _mm256_broadcast_ss(d + unit);
    for (int i = 0; i < ROWS; i++) {
        const uint8_t *codes = f->codes[i] + (size_t)unit * unit_bytes;
        _mm_prefetch((const char *)codes + ROWS * row_bytes, _MM_HINT_T0);
        __m256 part = _mm256_mul_ps(unit_sums(bits, codes, a0, a1), scale);
        sum[i] = _mm256_fmadd_ps(part, _mm256_permutevar8x32_ps(s[i], index), sum[i]);
    }
}

LM_INLINE void four_rows(int bits, uint32_t group, const lm_matrix *w, const lm_expert *e, uint32_t n,
                         const char *act, const float *x_sums, const float *d, float *y) {
    uint32_t n_groups = w->cols / group;
    size_t row_bytes = w->row_bytes;
    four f;
    __m256 sum[ROWS], s[ROWS];
    for (uint32_t i = 0; i < ROWS; i++) {
        f.codes[i] = e->codes + (n + i) * row_bytes;
        f.scales[i] = e->scales + (n + i) * e->scales_row;
        f.biases[i] = bits == LM_BITS_MXFP4 ? NULL : e->biases + (n + i) * e->scales_row;
        sum[i] = _mm256_setzero_ps();
    }
    /* Of the groups of a unit, or the units of a group: one of the two is 1. */
    uint32_t unit_columns = in_halves(bits) ? 64 : 32;
    uint32_t groups_per = group < unit_columns ? unit_columns / group : 1;
    uint32_t units_per = group < unit_columns ? 1 : group / unit_columns;
    const __m256i step = _mm256_set1_epi32((int)groups_per);
    for (uint32_t g = 0; g < n_groups; g += 8) {
        uint32_t base = g + 8 <= n_groups || n_groups < 8 ? g : n_groups - 8, first = g - base;
        uint32_t end = n_groups - base < 8 ? n_groups - base : 8;
        open_groups(bits, w, &f, x_sums, base, first, n_groups, s, sum);
        __m256i index = groups_per == 2 ? _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1) : _mm256_setzero_si256();
        index = _mm256_add_epi32(index, _mm256_set1_epi32((int)first));
        uint32_t unit = (base + first) / groups_per * units_per;
        for (uint32_t j = first; j < end; j += groups_per) {
            for (uint32_t k = 0; k < units_per; k++)
                meet_unit(bits, &f, row_bytes, unit++, act, d, index, s, sum);
            index = _mm256_add_epi32(index, step);
        }
    }
    __m256 t = _mm256_hadd_ps(_mm256_hadd_ps(sum[0], sum[1]), _mm256_hadd_ps(sum[2], sum[3]));
    _mm_storeu_ps(y, _mm_add_ps(_mm256_castps256_ps128(t), _mm256_extractf128_ps(t, 1)));
}

/* The activation's scales over the lanes of a unit's sums: of 64 columns in halves, four lanes each. */
static void spread_scales(const float *d, uint32_t cols, float *out) {
    for (uint32_t u = 0; u < cols / 64; u++, out += 8)
        _mm256_store_ps(out, _mm256_set_m128(_mm_set1_ps(d[2 * u + 1]), _mm_set1_ps(d[2 * u])));
}

#define LOOP(bits, group)                                                                                    \
    for (; n + ROWS <= n1; n += ROWS) four_rows(bits, group, w, &e, n, act, x_sums, d, y + n);               \
    break

#define GROUPS(bits)                                                                                         \
    switch (w->quant.group) {                                                                                \
    case 32: LOOP(bits, 32);                                                                                 \
    case 64: LOOP(bits, 64);                                                                                 \
    default: LOOP(bits, 128);                                                                                \
    }                                                                                                        \
    break

void lm_matmul_avx2_one(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                        uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride, void *scratch) {
    lm_expert e = lm_expert_of(w, expert);
    const char *act = acts;
    const float *d = (const float *)(const void *)(act + lm_act_scales_at(w->cols));
    const float *x_sums = (const float *)(const void *)(act + lm_act_sums_at(w->cols));
    int bits = w->quant.kind == LM_QUANT_MXFP4 ? LM_BITS_MXFP4 : (int)w->quant.bits;
    uint32_t n = n0;
    if (in_halves(bits) && w->cols % 64 == 0) {
        spread_scales(d, w->cols, scratch);
        d = scratch;
        switch (bits) {
        case 3: GROUPS(3);
        case 4: GROUPS(4);
        default: LOOP(LM_BITS_MXFP4, 32);
        }
    } else if (bits > 4 && !in_halves(bits)) {
        switch (bits) {
        case 5: GROUPS(5);
        case 6: GROUPS(6);
        default: GROUPS(8);
        }
    }
    /* What is left of the rows, and the forms that are rare: 2 bits, half a unit at the end of a row. */
    if (n < n1) lm_matmul_avx2_few(w, expert, acts, act_stride, n_rows, n, n1, y, y_stride, scratch);
}
