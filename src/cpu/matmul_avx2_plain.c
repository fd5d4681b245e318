/* matmul_avx2_plain.c - products of unquantised matrices (f32, f16, bf16) with AVX2, FMA and F16C.
 *
 * Many rows of x: 16 rows of W are turned in scratch into (columns, 16) floats, and 6 rows of x by 16 of W
 * stay in registers. Few: 8 x 8 numbers of W are turned in registers and used at once, in several chunks
 * abreast, so that there are sums to work on while each waits for its last addition. Both add up a chunk's
 * columns, one after the other, and then the chunks: a row of x gets the same bits from either.
 */
#include "cpu/matmul_avx2.h"

enum { TILE = 16, ROWS = 6, CHUNK = 64 /* columns */, FEW = 2, ABREAST = 4 };

/* Numbers k..k+7 of a row; those from cols on are zero. */
LM_INLINE __m256 row8(lm_dtype dtype, const uint8_t *row, uint32_t k, uint32_t cols) {
    return load_numbers(dtype, row, k, cols);
}

/* Rows [n, n + 16) of W (the last one repeated from n1 on), columns [first, end), as (columns, 16) floats. */
LM_INLINE void turn(lm_dtype dtype, const uint8_t *codes, uint64_t row_bytes, uint32_t n, uint32_t n1,
                    uint32_t first, uint32_t end, float *to) {
    for (uint32_t half = 0; half < 2; half++)
        for (uint32_t k = first; k < end; k += 8) {
            __m256i r[8];
            for (uint32_t i = 0; i < 8; i++) {
                uint32_t row = n + 8 * half + i < n1 ? n + 8 * half + i : n1 - 1;
                r[i] = _mm256_castps_si256(row8(dtype, codes + row * row_bytes, k, end));
            }
            transpose8(r);
            for (uint32_t i = 0; i < 8; i++)
                _mm256_store_si256((__m256i *)(void *)(to + (size_t)(k - first + i) * TILE + 8 * half), r[i]);
        }
}

LM_INLINE void multiply_tile(int rows, const float *w, uint32_t n, const float *x, size_t x_stride,
                             float *out, size_t y_stride, uint32_t width, bool add) {
    __m256 y[ROWS][2];
    float edge[TILE];
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++) y[m][0] = y[m][1] = _mm256_setzero_ps();
    for (uint32_t k = 0; k < n; k++) {
        __m256 w0 = _mm256_load_ps(w + (size_t)k * TILE), w1 = _mm256_load_ps(w + (size_t)k * TILE + 8);
#pragma GCC unroll 6
        for (int m = 0; m < rows; m++) {
            __m256 a = _mm256_broadcast_ss(x + m * x_stride + k);
            y[m][0] = _mm256_fmadd_ps(w0, a, y[m][0]);
            y[m][1] = _mm256_fmadd_ps(w1, a, y[m][1]);
        }
    }
    for (int m = 0; m < rows; m++) {
        float *to = out + m * y_stride;
        if (width < TILE) {
            _mm256_storeu_ps(edge, y[m][0]);
            _mm256_storeu_ps(edge + 8, y[m][1]);
            for (uint32_t i = 0; i < width; i++) to[i] = add ? to[i] + edge[i] : edge[i];
            continue;
        }
        _mm256_storeu_ps(to, add ? _mm256_add_ps(_mm256_loadu_ps(to), y[m][0]) : y[m][0]);
        _mm256_storeu_ps(to + 8, add ? _mm256_add_ps(_mm256_loadu_ps(to + 8), y[m][1]) : y[m][1]);
    }
}

static void multiply_rows(uint32_t rows, const float *w, uint32_t n, const float *x, size_t x_stride,
                          float *out, size_t y_stride, uint32_t width, bool add) {
    switch (rows) {
    case 1: multiply_tile(1, w, n, x, x_stride, out, y_stride, width, add); break;
    case 2: multiply_tile(2, w, n, x, x_stride, out, y_stride, width, add); break;
    case 3: multiply_tile(3, w, n, x, x_stride, out, y_stride, width, add); break;
    case 4: multiply_tile(4, w, n, x, x_stride, out, y_stride, width, add); break;
    case 5: multiply_tile(5, w, n, x, x_stride, out, y_stride, width, add); break;
    default: multiply_tile(6, w, n, x, x_stride, out, y_stride, width, add);
    }
}

/* Columns [k, k + 16) of 8 rows of W by `rows` rows of x, onto y. */
LM_INLINE void few_columns(lm_dtype dtype, int rows, const uint8_t *const row[8], uint32_t k, const float *x,
                           size_t x_stride, __m256 *y) {
    __m256i r[2][8];
    if (dtype == LM_F32) {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            r[0][i] = load256(row[i] + 4 * (size_t)k);
            r[1][i] = load256(row[i] + 4 * (size_t)k + 32);
        }
        transpose8(r[0]);
        transpose8(r[1]);
    } else {
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) r[0][i] = load256(row[i] + 2 * (size_t)k);
        transpose8_16(r[0]);
    }
#pragma GCC unroll 16
    for (int t = 0; t < 16; t++) {
        __m256 column = dtype == LM_F32 ? _mm256_castsi256_ps(r[t / 8][t % 8])
                        : t < 8         ? widen_number(dtype, _mm256_castsi256_si128(r[0][t]))
                                        : widen_number(dtype, _mm256_extracti128_si256(r[0][t - 8], 1));
#pragma GCC unroll 2
        for (int m = 0; m < rows; m++)
            y[m] = _mm256_fmadd_ps(column, _mm256_broadcast_ss(x + m * x_stride + k + t), y[m]);
    }
}

/* Fewer than 16 of them. */
static void few_last(lm_dtype dtype, int rows, const uint8_t *const row[8], uint32_t k, uint32_t end,
                     const float *x, size_t x_stride, __m256 *y) {
    for (; k < end; k++) {
        float column[8];
        for (int i = 0; i < 8; i++) column[i] = lm_number(dtype, row[i], k);
        for (int m = 0; m < rows; m++)
            y[m] = _mm256_fmadd_ps(_mm256_loadu_ps(column), _mm256_broadcast_ss(x + m * x_stride + k), y[m]);
    }
}

/* The sums of `chunks` chunks from column k on, of 8 rows of W by `rows` rows of x. */
LM_INLINE void few_chunks(lm_dtype dtype, int rows, const uint8_t *const row[8], uint32_t k, uint32_t chunks,
                          uint32_t cols, const float *x, size_t x_stride, __m256 (*y)[FEW]) {
    for (uint32_t c = 0; c < chunks; c++)
        for (int m = 0; m < rows; m++) y[c][m] = _mm256_setzero_ps();
    for (uint32_t at = 0; at < CHUNK; at += 16)
#pragma GCC unroll 4
        for (uint32_t c = 0; c < chunks; c++) {
            uint32_t first = k + c * CHUNK + at;
            if (first + 16 <= cols)
                few_columns(dtype, rows, row, first, x, x_stride, y[c]);
            else if (first < cols)
                few_last(dtype, rows, row, first, cols, x, x_stride, y[c]);
        }
}

LM_INLINE void few(lm_dtype dtype, int rows, const lm_matrix *w, const uint8_t *codes, const char *acts,
                   size_t act_stride, uint32_t n0, uint32_t n1, float *out, size_t y_stride) {
    const float *x = (const float *)(const void *)acts;
    const uint32_t span = ABREAST * CHUNK;
    for (uint32_t n = n0; n < n1; n += 8) {
        const uint8_t *row[8];
        __m256 sum[FEW] = {_mm256_setzero_ps(), _mm256_setzero_ps()}, y[ABREAST][FEW];
        uint32_t width = n1 - n < 8 ? n1 - n : 8;
        for (uint32_t i = 0; i < 8; i++) row[i] = codes + (n + (i < width ? i : width - 1)) * w->row_bytes;
        for (uint32_t k = 0; k < w->cols; k += span) {
            uint32_t chunks = ABREAST;
            if (k + span <= w->cols) {
                few_chunks(dtype, rows, row, k, ABREAST, k + span, x, act_stride / sizeof(float), y);
            } else {
                chunks = (w->cols - k + CHUNK - 1) / CHUNK;
                few_chunks(dtype, rows, row, k, chunks, w->cols, x, act_stride / sizeof(float), y);
            }
            for (uint32_t c = 0; c < chunks; c++)
                for (int m = 0; m < rows; m++) sum[m] = k + c ? _mm256_add_ps(sum[m], y[c][m]) : y[c][m];
        }
        for (int m = 0; m < rows; m++) {
            float eight[8];
            _mm256_storeu_ps(eight, sum[m]);
            memcpy(out + m * y_stride + n, eight, width * sizeof(float));
        }
    }
}

#define FEW_OF(dtype)                                                                                        \
    if (n_rows == 1)                                                                                         \
        few(dtype, 1, w, codes, acts, act_stride, n0, n1, y, y_stride);                                      \
    else                                                                                                     \
        few(dtype, 2, w, codes, acts, act_stride, n0, n1, y, y_stride);                                      \
    break

void lm_matmul_avx2_plain(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                          uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                          void *scratch) {
    const uint8_t *codes = lm_expert_of(w, expert).codes;
    if (n_rows <= FEW) {
        switch (w->dtype) {
        case LM_F32: FEW_OF(LM_F32);
        case LM_F16: FEW_OF(LM_F16);
        default: FEW_OF(LM_BF16);
        }
        return;
    }
    for (uint32_t n = n0; n < n1; n += TILE) {
        uint32_t width = n + TILE <= n1 ? TILE : n1 - n;
        for (uint32_t k = 0; k < w->cols; k += CHUNK) {
            uint32_t end = k + CHUNK < w->cols ? k + CHUNK : w->cols;
            if (w->dtype == LM_F32)
                turn(LM_F32, codes, w->row_bytes, n, n1, k, end, scratch);
            else if (w->dtype == LM_F16)
                turn(LM_F16, codes, w->row_bytes, n, n1, k, end, scratch);
            else
                turn(LM_BF16, codes, w->row_bytes, n, n1, k, end, scratch);
            for (uint32_t m = 0; m < n_rows; m += ROWS) {
                const float *x = (const float *)(const void *)((const char *)acts + m * act_stride) + k;
                multiply_rows(n_rows - m < ROWS ? n_rows - m : ROWS, scratch, end - k, x,
                              act_stride / sizeof(float), y + m * y_stride + n, y_stride, width, k > 0);
            }
        }
    }
}
