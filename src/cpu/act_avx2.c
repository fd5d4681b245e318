/* act_avx2.c - activations prepared with AVX2: the same bytes as act.c. */
#include <immintrin.h>
#include <math.h>

#include "cpu/matmul_form.h"

static inline int32_t sum_lanes(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

/* The largest |x| of a block as bits: ordered like integers, with NaN above infinity above all numbers. */
static inline uint32_t most_bits(__m256 a, __m256 b, __m256 c, __m256 d) {
    const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
    __m256i m = _mm256_max_epu32(_mm256_max_epu32(_mm256_and_si256(_mm256_castps_si256(a), no_sign),
                                                  _mm256_and_si256(_mm256_castps_si256(b), no_sign)),
                                 _mm256_max_epu32(_mm256_and_si256(_mm256_castps_si256(c), no_sign),
                                                  _mm256_and_si256(_mm256_castps_si256(d), no_sign)));
    __m128i h = _mm_max_epu32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    h = _mm_max_epu32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_max_epu32(h, _mm_shuffle_epi32(h, 0xb1));
    return (uint32_t)_mm_cvtsi128_si32(h);
}

/* 32 codes in natural order; *d and *sum as in act.c. */
static inline __m256i quantise_block(const float *x, float *d, int32_t *sum) {
    __m256 a = _mm256_loadu_ps(x), b = _mm256_loadu_ps(x + 8), c = _mm256_loadu_ps(x + 16),
           e = _mm256_loadu_ps(x + 24);
    union {
        uint32_t u;
        float f;
    } most = {most_bits(a, b, c, e)};
    if (most.u >= 0x7f800000u || most.f < 1e-35f) {
        *d = most.u >= 0x7f800000u ? NAN : 0.0f;
        *sum = 0;
        return _mm256_setzero_si256();
    }
    __m256 to = _mm256_set1_ps(127.0f / most.f);
    __m256i ab = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(a, to)),
                                    _mm256_cvtps_epi32(_mm256_mul_ps(b, to)));
    __m256i ce = _mm256_packs_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(c, to)),
                                    _mm256_cvtps_epi32(_mm256_mul_ps(e, to)));
    __m256i sums = _mm256_madd_epi16(_mm256_add_epi16(ab, ce), _mm256_set1_epi16(1));
    *d = most.f / 127.0f;
    *sum = sum_lanes(sums);
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(ab, ce), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* Block b of the row to where the layout wants its parts. */
static inline void place_block(lm_act_layout layout, uint32_t cols, uint32_t b, __m256i q, int8_t *codes) {
    const __m256i by_two = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2, 4, 6,
                                            8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m256i by_four = _mm256_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15, 0, 4, 8,
                                             12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    int8_t *whole = codes + b * LM_ACT_BLOCK;
    if (layout == LM_ACT_HALVES) {
        q = _mm256_permute4x64_epi64(_mm256_shuffle_epi8(q, by_two), 0xd8);
        int8_t *unit = codes + (b & ~1u) * LM_ACT_BLOCK;
        if (((b | 1u) + 1) * LM_ACT_BLOCK <= cols) {
            _mm_storeu_si128((__m128i_u *)(unit + (b & 1) * 16), _mm256_castsi256_si128(q));
            _mm_storeu_si128((__m128i_u *)(unit + (b & 1) * 16 + 32), _mm256_extracti128_si256(q, 1));
            return;
        }
    } else if (layout == LM_ACT_QUARTERS) {
        q = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(q, by_four),
                                        _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        int8_t *unit = codes + (b & ~3u) * LM_ACT_BLOCK + (b & 3) * 8;
        if (((b | 3u) + 1) * LM_ACT_BLOCK <= cols) {
            int64_t part[4];
            _mm256_storeu_si256((__m256i_u *)part, q);
            for (uint32_t j = 0; j < 4; j++) memcpy(unit + 32 * j, &part[j], 8);
            return;
        }
    }
    _mm256_storeu_si256((__m256i_u *)whole, q);
}

void lm_act_prepare_avx2(uint32_t kind, const float *x, uint32_t cols, void *act) {
    if (kind == LM_ACT_F32) {
        memcpy(act, x, (size_t)cols * sizeof(float));
        return;
    }
    lm_act_layout layout = lm_act_layout_of(kind);
    uint32_t per_group = lm_act_group(kind) / LM_ACT_BLOCK;
    int8_t *codes = act;
    float *scales = (float *)(void *)((char *)act + lm_act_scales_at(cols));
    float *sums = (float *)(void *)((char *)act + lm_act_sums_at(cols));

    memset(codes + cols, 0, lm_act_bytes(kind, cols) - cols);
    for (uint32_t b = 0; b < cols / LM_ACT_BLOCK; b++) {
        int32_t sum;
        __m256i q = quantise_block(x + b * LM_ACT_BLOCK, &scales[b], &sum);
        place_block(layout, cols, b, q, codes);
        float part = scales[b] * (float)sum;
        sums[b / per_group] += part;
    }
}
