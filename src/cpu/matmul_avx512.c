/* matmul_avx512.c - products with AVX-512 VNNI.
 *
 * Many rows of x: panels as in matmul_avx2_many.c, but a step is one register (4 codes of 16 rows of W) and
 * one vpdpbusd, which adds 4 products at a time to sums of 32 bits: nothing can saturate (a block's sum is at
 * most 32 * 255 * 127), 8-bit codes need no halves, and 8 rows of x by 16 of W fill 8 registers with sums and
 * 8 with floats. Each result is formed in the order of the AVX2 kernels. Few
 * rows of x: matmul_avx512_direct.c. Plain matrices are AVX2's, but for bf16 where the
 * processor multiplies them itself (matmul_avx512_bf16.c).
 */
#include "cpu/matmul_avx512.h"
#include "cpu/matmul_panel.h"

enum { ROWS = 8, SCRATCH_CODES = CHUNK * PANEL };

LM_INLINE __m512i broadcast4(const char *p) {
    int32_t v;
    memcpy(&v, p, 4);
    return _mm512_set1_epi32(v);
}

/* y (rows, 16) of one tile; `add` to what is there. Only the first `width` of 16 are stored. */
LM_INLINE void multiply_tile(lm_act_layout layout, int rows, const tile *t, uint32_t cols, const char *acts,
                             size_t act_stride, float *out, size_t y_stride, uint32_t width, bool add) {
    float edge[TILE] = {0};
    size_t scales_at = lm_act_scales_at(cols) + t->first / LM_ACT_BLOCK * sizeof(float);
    size_t sums_at = lm_act_sums_at(cols) + (t->first / LM_ACT_BLOCK >> t->group_shift) * sizeof(float);
    uint32_t unit = unit_blocks(layout);
    const uint8_t *codes = t->codes;
    __m512 y[ROWS];
    for (int m = 0; m < rows; m++) {
        const float *from = out + m * y_stride;
        if (add && width < TILE) from = memcpy(edge, from, width * sizeof(float));
        y[m] = add ? _mm512_loadu_ps(from) : _mm512_setzero_ps();
    }
    for (uint32_t b = 0; b < t->blocks; b++, codes += BLOCK_BYTES) {
        const char *x = acts + t->first + b / unit * unit * LM_ACT_BLOCK;
        uint32_t g = b >> t->group_shift;
        if ((b & ((1u << t->group_shift) - 1)) == 0) {
            __m512 bias = _mm512_loadu_ps(t->biases + g * TILE);
            for (int m = 0; m < rows; m++) {
                const float *sums = (const float *)(const void *)(acts + m * act_stride + sums_at);
                y[m] = _mm512_fmadd_ps(bias, _mm512_set1_ps(sums[g]), y[m]);
            }
        }
        __m512i sum[ROWS];
        for (int m = 0; m < rows; m++) sum[m] = _mm512_setzero_si512();
#pragma GCC unroll 8
        for (size_t s = 0; s < 8; s++) {
            __m512i w = _mm512_loadu_si512(codes + s * 64);
            size_t at = step_offset(layout, b % unit, s);
#pragma GCC unroll 8
            for (int m = 0; m < rows; m++)
                sum[m] = _mm512_dpbusd_epi32(sum[m], w, broadcast4(x + m * act_stride + at));
        }
        __m512 scale = _mm512_loadu_ps(t->scales + g * TILE);
        for (int m = 0; m < rows; m++) {
            const float *d = (const float *)(const void *)(acts + m * act_stride + scales_at);
            y[m] =
                _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[m]), _mm512_mul_ps(scale, _mm512_set1_ps(d[b])), y[m]);
        }
    }
    for (int m = 0; m < rows; m++) {
        float *to = out + m * y_stride;
        _mm512_storeu_ps(width < TILE ? edge : to, y[m]);
        if (width < TILE) memcpy(to, edge, width * sizeof(float));
    }
}

LM_INLINE void multiply_rows(lm_act_layout layout, uint32_t rows, const tile *t, uint32_t cols,
                             const char *acts, size_t act_stride, float *out, size_t y_stride, uint32_t width,
                             bool add) {
    switch (rows) {
    case 1: multiply_tile(layout, 1, t, cols, acts, act_stride, out, y_stride, width, add); break;
    case 2: multiply_tile(layout, 2, t, cols, acts, act_stride, out, y_stride, width, add); break;
    case 3: multiply_tile(layout, 3, t, cols, acts, act_stride, out, y_stride, width, add); break;
    case 4: multiply_tile(layout, 4, t, cols, acts, act_stride, out, y_stride, width, add); break;
    case 5: multiply_tile(layout, 5, t, cols, acts, act_stride, out, y_stride, width, add); break;
    case 6: multiply_tile(layout, 6, t, cols, acts, act_stride, out, y_stride, width, add); break;
    case 7: multiply_tile(layout, 7, t, cols, acts, act_stride, out, y_stride, width, add); break;
    default: multiply_tile(layout, 8, t, cols, acts, act_stride, out, y_stride, width, add);
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

/* Rows [n, n_end) of W, columns of t. */
static void multiply_panel(const lm_matrix *w, const lm_expert *e, lm_act_layout layout, bool tail, tile t,
                           const char *acts, size_t act_stride, uint32_t n_rows, uint32_t n, uint32_t n_end,
                           float *y, size_t y_stride, uint8_t *scratch) {
    size_t tile_codes = (size_t)t.blocks * BLOCK_BYTES;
    uint32_t n_tiles = (n_end - n + TILE - 1) / TILE;
    float *scales = (float *)(void *)(scratch + SCRATCH_CODES), *biases = scales + PANEL * GROUPS;
    for (uint32_t i = 0; i < n_tiles; i++)
        unpack_tile(w, e, n + i * TILE, n_end, tail, false, &t, scratch + i * tile_codes,
                    scales + i * GROUPS * TILE, biases + i * GROUPS * TILE);
    for (uint32_t m0 = 0; m0 < n_rows; m0 += X_ROWS) {
        uint32_t m1 = m0 + X_ROWS < n_rows ? m0 + X_ROWS : n_rows;
        for (uint32_t i = 0; i < n_tiles; i++) {
            uint32_t column = n + i * TILE, width = column + TILE <= n_end ? TILE : n_end - column;
            t.codes = scratch + i * tile_codes;
            t.scales = scales + i * GROUPS * TILE;
            t.biases = biases + i * GROUPS * TILE;
            for (uint32_t m = m0; m < m1; m += ROWS)
                multiply_rows_of(tail ? LM_ACT_NATURAL : layout, m1 - m < ROWS ? m1 - m : ROWS, &t, w->cols,
                                 acts + m * act_stride, act_stride, y + m * y_stride + column, y_stride,
                                 width, t.first > 0);
        }
    }
}

void lm_matmul_avx512_many(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                           uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                           void *scratch) {
    lm_expert e = lm_expert_of(w, expert);
    lm_act_layout layout = lm_act_layout_of(lm_act_kind(w));
    uint32_t unit = unit_blocks(layout) * LM_ACT_BLOCK,
             whole = w->cols / unit * unit; /* columns before the tail */
    tile t = {.group_shift = lm_group_shift(w)};
    for (uint32_t n = n0; n < n1; n += PANEL) {
        uint32_t n_end = n + PANEL < n1 ? n + PANEL : n1;
        for (t.first = 0; t.first < w->cols; t.first += t.blocks * LM_ACT_BLOCK) {
            bool tail = t.first == whole;
            uint32_t end = tail ? w->cols : t.first + CHUNK < whole ? t.first + CHUNK : whole;
            t.blocks = (end - t.first) / LM_ACT_BLOCK;
            multiply_panel(w, &e, layout, tail, t, acts, act_stride, n_rows, n, n_end, y, y_stride, scratch);
        }
    }
}

void lm_matmul_avx512(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                      uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride, void *scratch) {
    lm_matmul_fn *kernel = w->quant.kind == LM_QUANT_NONE ? lm_matmul_avx2
                           : n_rows <= LM_AVX512_FEW      ? lm_matmul_avx512_direct
                                                          : lm_matmul_avx512_many;
    kernel(w, expert, acts, act_stride, n_rows, n0, n1, y, y_stride, scratch);
}
