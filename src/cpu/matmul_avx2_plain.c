/* matmul_avx2_plain.c - products of unquantised matrices (f32, f16, bf16) with AVX2, FMA and F16C.
 *
 * 16 rows of W are turned in scratch into (columns, 16) floats, and 6 rows of x by 16 of W stay in registers.
 * One row of x goes the same way: its sums are the same then, and the memory is what it waits for.
 */
#include "cpu/matmul_avx2.h"

enum { TILE = 16, ROWS = 6, CHUNK = 256 /* columns */ };

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

void lm_matmul_avx2_plain(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                          uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                          void *scratch) {
    const uint8_t *codes = lm_expert_of(w, expert).codes;
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
