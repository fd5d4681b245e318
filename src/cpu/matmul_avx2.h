/* matmul_avx2.h (private to cpu/matmul_avx2*) - reading the weight forms with AVX2.
 *
 * Every reader takes exactly the bytes of its unit, never one more: the last row of a file may end at the end
 * of a mapping. All loads are unaligned.
 */
#ifndef LM_CPU_MATMUL_AVX2_H
#define LM_CPU_MATMUL_AVX2_H

#include <immintrin.h>

#include "cpu/matmul_form.h"

#define LM_INLINE static inline __attribute__((always_inline))

/* Forms as the kernels tell them apart: the number of bits, and mxfp4. */
enum { LM_BITS_MXFP4 = 14 };
static inline uint32_t lm_avx2_bits(const lm_matrix *w) {
    return w->quant.kind == LM_QUANT_MXFP4 ? (uint32_t)LM_BITS_MXFP4 : w->quant.bits;
}

LM_INLINE __m256i load256(const void *p) {
    return _mm256_loadu_si256((const __m256i_u *)p);
}
LM_INLINE __m128i load128(const void *p) {
    return _mm_loadu_si128((const __m128i_u *)p);
}
LM_INLINE __m256i two_lanes(const void *low, const void *high) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load128(low)), load128(high), 1);
}

/* ---- codes: 32 bytes in the order of the activation's layout */

/* 4 bits and mxfp4, 64 columns from 32 bytes; 3 bits, 64 columns from 24 bytes; see unpack_pairs. */
LM_INLINE __m256i mxfp4_codes(__m256i nibbles) {
    const __m256i table = _mm256_broadcastsi128_si256(_mm_setr_epi8(LM_MXFP4_LIST));
    return _mm256_shuffle_epi8(table, nibbles);
}

/* 32 codes of 6 bits from 24 bytes, or the 32 pairs of 3-bit codes there. Each 16-bit lane gets the two bytes
 * that hold its two codes (12 bits, at bit 0 or 4), a multiplication moves them to the top, shifts part them.
 */
LM_INLINE __m256i unpack_6(const uint8_t *p) {
    const __m256i spread =
        _mm256_setr_epi8(0, 1, 1, 2, 3, 4, 4, 5, 6, 7, 7, 8, 9, 10, 10, 11,       /* of bytes 0..15 */
                         4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12, 13, 14, 14, 15); /* of 8..23 */
    const __m256i to_top = _mm256_set1_epi32(0x00010010);                         /* << 4, << 0 */
    __m256i v = _mm256_mullo_epi16(_mm256_shuffle_epi8(two_lanes(p, p + 8), spread), to_top);
    return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi16(0x003f)),
                           _mm256_and_si256(_mm256_srli_epi16(v, 2), _mm256_set1_epi16(0x3f00)));
}

/* 32 codes of 5 bits from 20 bytes, in the same way: 10 bits at bit 0, 2, 4 or 6. */
LM_INLINE __m256i unpack_5(const uint8_t *p) {
    const __m256i spread =
        _mm256_setr_epi8(0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 6, 7, 7, 8, 8, 9,           /* of bytes 0..15 */
                         6, 7, 7, 8, 8, 9, 9, 10, 11, 12, 12, 13, 13, 14, 14, 15); /* of 4..19 */
    const __m256i to_top = _mm256_set1_epi64x(0x0001000400100040); /* << 6, << 4, << 2, << 0 */
    __m256i v = _mm256_mullo_epi16(_mm256_shuffle_epi8(two_lanes(p, p + 4), spread), to_top);
    return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(v, 6), _mm256_set1_epi16(0x001f)),
                           _mm256_and_si256(_mm256_srli_epi16(v, 3), _mm256_set1_epi16(0x1f00)));
}

/* Bytes of 64 columns of the HALVES forms -> even and odd codes. */
LM_INLINE void unpack_halves(int bits, const uint8_t *p, __m256i *even, __m256i *odd) {
    if (bits == 3) {
        const __m256i mask = _mm256_set1_epi8(7);
        __m256i pairs = unpack_6(p);
        *even = _mm256_and_si256(pairs, mask);
        *odd = _mm256_and_si256(_mm256_srli_epi16(pairs, 3), mask);
        return;
    }
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i v = load256(p);
    *even = _mm256_and_si256(v, mask);
    *odd = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
    if (bits == LM_BITS_MXFP4) {
        *even = mxfp4_codes(*even);
        *odd = mxfp4_codes(*odd);
    }
}

/* The last 32 columns of a HALVES form: 16 even codes, 16 odd ones. */
LM_INLINE __m256i unpack_halves_tail(int bits, const uint8_t *p) {
    if (bits == 3) {
        uint8_t whole[24] = {0};
        __m256i even, odd;
        memcpy(whole, p, 12);
        unpack_halves(3, whole, &even, &odd);
        return _mm256_permute2x128_si256(even, odd, 0x20);
    }
    __m128i v = load128(p);
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1);
    both = _mm256_and_si256(both, _mm256_set1_epi8(15));
    return bits == LM_BITS_MXFP4 ? mxfp4_codes(both) : both;
}

/* 128 columns of 2 bits from 32 bytes. */
LM_INLINE void unpack_quarters(const uint8_t *p, __m256i q[4]) {
    const __m256i mask = _mm256_set1_epi8(3);
    __m256i v = load256(p);
    q[0] = _mm256_and_si256(v, mask);
    q[1] = _mm256_and_si256(_mm256_srli_epi16(v, 2), mask);
    q[2] = _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
    q[3] = _mm256_and_si256(_mm256_srli_epi16(v, 6), mask);
}

/* 32 columns of 2 bits from 8 bytes, each remainder's 8 codes together. */
LM_INLINE __m256i unpack_quarters_tail(const uint8_t *p) {
    int64_t word;
    memcpy(&word, p, 8);
    __m256i v = _mm256_srlv_epi64(_mm256_set1_epi64x(word), _mm256_setr_epi64x(0, 2, 4, 6));
    return _mm256_and_si256(v, _mm256_set1_epi8(3));
}

/* ---- scales ------------------------------------------------------------------------------------------- */

/* Numbers i..i+7 of a row's scales or biases as floats; those from n on are zero. */
LM_INLINE __m256 load_numbers(lm_dtype dtype, const uint8_t *row, uint32_t i, uint32_t n) {
    uint8_t part[32];
    uint32_t each = dtype == LM_F32 ? 4 : 2;
    const uint8_t *p = row + (size_t)i * each;
    if (i + 8 > n) {
        memset(part, 0, sizeof part);
        memcpy(part, p, (size_t)(n - i) * each);
        p = part;
    }
    if (dtype == LM_F32) return _mm256_loadu_ps((const float *)(const void *)p);
    if (dtype == LM_F16) return _mm256_cvtph_ps(load128(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p)), 16));
}

/* Half of 8 E8M0 scales. */
LM_INLINE __m256 load_e8m0_half(const uint8_t *row, uint32_t i, uint32_t n) {
    uint64_t word = 0x0101010101010101u; /* any number will do where there is none */
    memcpy(&word, row + i, i + 8 > n ? n - i : 8);
    __m256i e = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((int64_t)word));
    __m256i v = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i small = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    v = _mm256_blendv_epi8(v, small, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e));
    v = _mm256_blendv_epi8(v, _mm256_set1_epi32(0x7fc00000), _mm256_cmpeq_epi32(e, _mm256_set1_epi32(255)));
    return _mm256_castsi256_ps(v);
}

/* ---- turns ------------------------------------------------------------------------------------------- */

/* 8 x 8 matrix of 32-bit lanes: out of 8 rows, 8 columns. */
LM_INLINE void transpose8(__m256i r[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        a[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm256_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm256_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm256_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm256_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
        r[i + 4] = _mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
    }
}

/* 8 x 8 numbers of 16 bits in each half: out of 8 rows, 8 columns. */
LM_INLINE void transpose8_16(__m256i r[8]) {
    __m256i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_epi16(r[2 * i], r[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            b[i + 2 * j] = _mm256_unpacklo_epi32(a[i + j], a[i + j + 2]);
            b[i + 2 * j + 1] = _mm256_unpackhi_epi32(a[i + j], a[i + j + 2]);
        }
    for (int i = 0; i < 4; i++) {
        r[2 * i] = _mm256_unpacklo_epi64(b[i], b[i + 4]);
        r[2 * i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 4]);
    }
}

LM_INLINE __m256 widen_number(lm_dtype dtype, __m128i v) {
    return dtype == LM_F16 ? _mm256_cvtph_ps(v)
                           : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}

/* Scales and biases of groups g..g+7 of eight rows of W: number i of group g + j at scales[j * stride + i].
 * Of groups from n_groups on they are numbers that mean nothing. All on 32 bytes, stride a multiple of 8. */
LM_INLINE void load_span(const lm_matrix *w, const lm_expert *e, const uint32_t row[8], uint32_t g,
                         uint32_t n_groups, float *scales, float *biases, size_t stride) {
    __m256i r[8], b[8];
    bool whole = g + 8 <= n_groups;
    if (w->quant.kind == LM_QUANT_AFFINE && w->dtype != LM_F32) {
        for (int i = 0; i < 8; i++) {
            const uint8_t *s = e->scales + row[i] * e->scales_row + 2 * g;
            const uint8_t *z = e->biases + row[i] * e->scales_row + 2 * g;
            uint8_t part[2][16] = {{0}};
            if (!whole) {
                s = memcpy(part[0], s, 2 * (n_groups - g));
                z = memcpy(part[1], z, 2 * (n_groups - g));
            }
            r[i] = two_lanes(s, z);
        }
        transpose8_16(r);
        for (int j = 0; j < 8; j++) {
            _mm256_store_ps(scales + j * stride, widen_number(w->dtype, _mm256_castsi256_si128(r[j])));
            _mm256_store_ps(biases + j * stride, widen_number(w->dtype, _mm256_extracti128_si256(r[j], 1)));
        }
        return;
    }
    for (int i = 0; i < 8; i++) {
        const uint8_t *s = e->scales + row[i] * e->scales_row;
        if (w->quant.kind == LM_QUANT_MXFP4) {
            __m256 v = load_e8m0_half(s, g, n_groups);
            r[i] = _mm256_castps_si256(v);
            b[i] = _mm256_castps_si256(_mm256_mul_ps(v, _mm256_set1_ps(-(float)LM_MXFP4_ZERO)));
        } else {
            r[i] = _mm256_castps_si256(load_numbers(w->dtype, s, g, n_groups));
            b[i] =
                _mm256_castps_si256(load_numbers(w->dtype, e->biases + row[i] * e->scales_row, g, n_groups));
        }
    }
    transpose8(r);
    transpose8(b);
    for (int j = 0; j < 8; j++) {
        _mm256_store_ps(scales + j * stride, _mm256_castsi256_ps(r[j]));
        _mm256_store_ps(biases + j * stride, _mm256_castsi256_ps(b[j]));
    }
}

/* The kernels behind lm_matmul_avx2, by shape; arguments as there. */
lm_matmul_fn lm_matmul_avx2_direct; /* quantised, 1 to 4 rows of x */
lm_matmul_fn lm_matmul_avx2_many;   /* quantised, 3 and more */
lm_matmul_fn lm_matmul_avx2_plain;  /* f32, f16, bf16 */

#endif
