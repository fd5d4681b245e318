/* matmul_avx2_many.c - products with AVX2 for many rows of x (prefill, several sequences decoding together).
 *
 * For a chunk of columns a panel of rows of W is unpacked into scratch, 16 rows side by side: 4 neighbouring
 * codes of row 0, of row 1, … of row 15, then the next 4 codes. One step of the inner loop loads such 64
 * bytes, broadcasts 4 codes of a row of x over them, and vpmaddubsw + vpaddw adds 2 x 2 products to 16 pairs
 * of 16-bit sums: 32 sums of 16 bits (6 rows of x by 16 of W) fill 12 registers. A block of 32 columns is 8
 * steps; how many may be added before 16 bits could saturate (32767) is decided by the codes:
 *
 *     2, 3, 4 bits  8 steps: 8 * 2 * 15 * 127 = 30480     6 bits  2 steps: 2 * 2 * 63 * 127 = 32004
 *     mxfp4         4 steps: 4 * 2 * 24 * 127 = 24384     8 bits  8 steps of each half of the code, apart:
 * 30480, 5 bits        4 steps: 4 * 2 * 31 * 127 = 31496             the upper half times 16 as it is widened
 *
 * Then the block's sums become floats, times the scale of W and that of x. The panel is unpacked once for all
 * rows of x.
 *
 * Scratch: codes (panel rows / 16, blocks, 8 steps, 16, 4), then scales and biases (panel rows / 16, groups,
 * 16).
 */
#include "cpu/matmul_panel.h"

enum {
    ROWS = 6,  /* rows of x in registers, at most */
    LEAST = 3, /* and at least; lm_matmul_avx2_many gets 5 and more */
};

/* What the inner loop needs to know about a form. */
typedef enum flavour { HALVES8, HALVES4, QUARTERS8, NATURAL8, NATURAL4, NATURAL2, NATURAL_SPLIT } flavour;

/* ---- the inner loop --------------------------------------------------------------------------------------- */

LM_INLINE lm_act_layout layout_of(flavour f) {
    return f == HALVES8 || f == HALVES4 ? LM_ACT_HALVES : f == QUARTERS8 ? LM_ACT_QUARTERS : LM_ACT_NATURAL;
}

/* sum = (first) or += products of w and a, neighbours added. As one piece, because compilers otherwise put
 * the multiplications of many steps first and have no registers left for their results. */
LM_INLINE void multiply_add(bool first, __m256i w, __m256i a, __m256i *sum) {
    __m256i product;
    if (first)
        __asm__("vpmaddubsw %1, %2, %0" : "=x"(*sum) : "x"(a), "x"(w));
    else
        __asm__("vpmaddubsw %2, %3, %1\n\tvpaddw %1, %0, %0" : "+x"(*sum), "=&x"(product) : "x"(a), "x"(w));
}

LM_INLINE __m256i broadcast4(const char *p) {
    int32_t v;
    memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

/* What was read before this is not kept in registers that the loop needs. */
#define FENCE() __asm__ volatile("" ::: "memory")

/* Adds steps first..first + steps of block i to 16-bit sums and widens them, times `by`, into sums of 32
 * bits. */
LM_INLINE void add_steps(flavour f, int rows, size_t i, size_t first, size_t steps, const uint8_t *codes,
                         const char *const *x, size_t at, int16_t by, bool add, __m256i (*sum)[2]) {
    __m256i part[ROWS][2];
    FENCE();
#pragma GCC unroll 8
    for (size_t s = first; s < first + steps; s++) {
        __m256i w0 = _mm256_load_si256((const __m256i *)(const void *)(codes + s * 64));
        __m256i w1 = _mm256_load_si256((const __m256i *)(const void *)(codes + s * 64 + 32));
#pragma GCC unroll 6
        for (int m = 0; m < rows; m++) {
            __m256i a = broadcast4(x[m] + at + step_offset(layout_of(f), i, s));
            multiply_add(s == first, w0, a, &part[m][0]);
            multiply_add(s == first, w1, a, &part[m][1]);
        }
    }
    const __m256i factor = _mm256_set1_epi16(by);
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++)
        for (int v = 0; v < 2; v++) {
            __m256i wide = _mm256_madd_epi16(part[m][v], factor);
            sum[m][v] = add ? _mm256_add_epi32(sum[m][v], wide) : wide;
        }
}

/* Where a block's numbers are: offsets in a row of x, and in the tile. */
typedef struct block_place {
    size_t at, d_at, sums_at; /* the unit's codes, its first block's scale, the group's sum */
    const float *scales;      /* (16) of the group */
    const float *biases;      /* (16) where the block is the group's first, else NULL */
} block_place;

/* Block i of a unit for `rows` rows of x: y += bias * sum of x̂ over the group, once, + scale * d * Σ code *
 * q. */
LM_INLINE void add_block(flavour f, int rows, size_t i, const uint8_t *codes, const char *const *x,
                         const block_place *p, float *y) {
    __m256i sum[ROWS][2];
    size_t steps = f == NATURAL2 ? 2 : f == NATURAL4 || f == HALVES4 ? 4 : 8;
#pragma GCC unroll 4
    for (size_t s = 0; s < 8; s += steps) add_steps(f, rows, i, s, steps, codes, x, p->at, 1, s > 0, sum);
    if (f == NATURAL_SPLIT) add_steps(f, rows, i, 0, 8, codes + BLOCK_BYTES, x, p->at, 16, true, sum);
    if (p->biases) {
        __m256 b0 = _mm256_load_ps(p->biases), b1 = _mm256_load_ps(p->biases + 8);
#pragma GCC unroll 6
        for (int m = 0; m < rows; m++) {
            __m256 xm = _mm256_broadcast_ss((const float *)(const void *)(x[m] + p->sums_at));
            _mm256_store_ps(y + m * TILE, _mm256_fmadd_ps(b0, xm, _mm256_load_ps(y + m * TILE)));
            _mm256_store_ps(y + m * TILE + 8, _mm256_fmadd_ps(b1, xm, _mm256_load_ps(y + m * TILE + 8)));
        }
    }
    __m256 s0 = _mm256_load_ps(p->scales), s1 = _mm256_load_ps(p->scales + 8);
#pragma GCC unroll 6
    for (int m = 0; m < rows; m++) {
        __m256 dm = _mm256_broadcast_ss((const float *)(const void *)(x[m] + p->d_at + i * sizeof(float)));
        __m256 y0 = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[m][0]), _mm256_mul_ps(s0, dm),
                                    _mm256_load_ps(y + m * TILE));
        __m256 y1 = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum[m][1]), _mm256_mul_ps(s1, dm),
                                    _mm256_load_ps(y + m * TILE + 8));
        _mm256_store_ps(y + m * TILE, y0);
        _mm256_store_ps(y + m * TILE + 8, y1);
        FENCE();
    }
}

/* y (rows, 16) of one tile; `add` to what is there. Only `width` of the 16 are stored. */
LM_INLINE void multiply_tile(flavour f, int rows, const tile *t, uint32_t cols, const char *acts,
                             size_t act_stride, float *out, size_t y_stride, uint32_t width, bool add) {
    const char *x[ROWS];
    /* Sums in memory: the loop has no registers for them, and a compiler that doesn't know where they are
     * can't try. */
    float sums[ROWS * TILE] __attribute__((aligned(32)));
    float *y = sums;
    __asm__("" : "+r"(y));
    for (int m = 0; m < rows; m++) {
        x[m] = acts + m * act_stride;
        if (add)
            memcpy(y + m * TILE, out + m * y_stride, width * sizeof(float));
        else
            memset(y + m * TILE, 0, TILE * sizeof(float));
    }
    size_t block_bytes = f == NATURAL_SPLIT ? 2 * BLOCK_BYTES : BLOCK_BYTES;
    uint32_t unit = unit_blocks(layout_of(f)), first = t->first / LM_ACT_BLOCK;
    const uint8_t *codes = t->codes;
    for (uint32_t b = 0; b < t->blocks; b += unit)
#pragma GCC unroll 4
        for (uint32_t i = 0; i < unit; i++, codes += block_bytes) {
            uint32_t g = (b + i) >> t->group_shift;
            bool opens = ((b + i) & ((1u << t->group_shift) - 1)) == 0;
            block_place p = {
                .at = t->first + (size_t)b * LM_ACT_BLOCK,
                .d_at = lm_act_scales_at(cols) + (first + b) * sizeof(float),
                .sums_at = lm_act_sums_at(cols) + ((first >> t->group_shift) + g) * sizeof(float),
                .scales = t->scales + g * TILE,
                .biases = opens ? t->biases + g * TILE : NULL,
            };
            add_block(f, rows, i, codes, x, &p, y);
        }
    for (int m = 0; m < rows; m++) memcpy(out + m * y_stride, y + m * TILE, width * sizeof(float));
}

typedef void tile_fn(const tile *t, uint32_t cols, const char *acts, size_t act_stride, float *out,
                     size_t y_stride, uint32_t width, bool add);

#define TILE_FN(f, rows)                                                                                     \
    static void f##_##rows(const tile *t, uint32_t cols, const char *acts, size_t act_stride, float *out,    \
                           size_t y_stride, uint32_t width, bool add) {                                      \
        multiply_tile(f, rows, t, cols, acts, act_stride, out, y_stride, width, add);                        \
    }
#define TILE_FNS(f) TILE_FN(f, 3) TILE_FN(f, 4) TILE_FN(f, 5) TILE_FN(f, 6)
TILE_FNS(HALVES8)
TILE_FNS(HALVES4)
TILE_FNS(QUARTERS8)
TILE_FNS(NATURAL8)
TILE_FNS(NATURAL4)
TILE_FNS(NATURAL2)
TILE_FNS(NATURAL_SPLIT)

#define TILE_ROW(f) [f] = {f##_3, f##_4, f##_5, f##_6}
static tile_fn *const tile_fns[][ROWS - LEAST + 1] = {
    TILE_ROW(HALVES8),  TILE_ROW(HALVES4),  TILE_ROW(QUARTERS8),    TILE_ROW(NATURAL8),
    TILE_ROW(NATURAL4), TILE_ROW(NATURAL2), TILE_ROW(NATURAL_SPLIT)};

/* ---- the whole ---------------------------------------------------------------------------------------- */

static flavour flavour_of(const lm_matrix *w, bool tail) {
    if (w->quant.kind == LM_QUANT_MXFP4) return tail ? NATURAL4 : HALVES4;
    switch (w->quant.bits) {
    case 2: return tail ? NATURAL8 : QUARTERS8;
    case 5: return NATURAL4;
    case 6: return NATURAL2;
    case 8: return NATURAL_SPLIT;
    default: return tail ? NATURAL8 : HALVES8;
    }
}

/* Rows [n, n_end) of W, columns of t. */
static void multiply_panel(const lm_matrix *w, const lm_expert *e, bool tail, tile t, const char *acts,
                           size_t act_stride, uint32_t n_rows, uint32_t n, uint32_t n_end, float *y,
                           size_t y_stride, uint8_t *scratch) {
    flavour f = flavour_of(w, tail);
    size_t tile_codes = (size_t)t.blocks * BLOCK_BYTES * (f == NATURAL_SPLIT ? 2 : 1);
    uint32_t n_tiles = (n_end - n + TILE - 1) / TILE;
    float *scales = (float *)(void *)(scratch + (size_t)CHUNK * 2 * PANEL); /* (tiles, GROUPS, 16) */
    float *biases = scales + PANEL * GROUPS;
    for (uint32_t i = 0; i < n_tiles; i++)
        unpack_tile(w, e, n + i * TILE, n_end, tail, f == NATURAL_SPLIT, &t, scratch + i * tile_codes,
                    scales + i * GROUPS * TILE, biases + i * GROUPS * TILE);
    for (uint32_t m0 = 0, m1; m0 < n_rows; m0 = m1) {
        m1 = m0 + X_ROWS + ROWS <= n_rows ? m0 + X_ROWS : n_rows;
        for (uint32_t i = 0; i < n_tiles; i++) {
            uint32_t column = n + i * TILE, width = column + TILE <= n_end ? TILE : n_end - column, rows;
            t.codes = scratch + i * tile_codes;
            t.scales = scales + i * GROUPS * TILE;
            t.biases = biases + i * GROUPS * TILE;
            for (uint32_t m = m0; m < m1; m += rows) {
                /* The rest evenly: 7 rows are 4 and 3, 8 are 4 and 4; never fewer than LEAST. */
                uint32_t left = m1 - m;
                rows = left <= ROWS ? left : left >= 2 * ROWS ? ROWS : (left + 1) / 2;
                tile_fns[f][rows - LEAST](&t, w->cols, acts + m * act_stride, act_stride,
                                          y + m * y_stride + column, y_stride, width, t.first > 0);
            }
        }
    }
}

void lm_matmul_avx2_many(const lm_matrix *w, uint32_t expert, const void *acts, size_t act_stride,
                         uint32_t n_rows, uint32_t n0, uint32_t n1, float *y, size_t y_stride,
                         void *scratch) {
    lm_expert e = lm_expert_of(w, expert);
    uint32_t unit = w->quant.kind == LM_QUANT_MXFP4 || w->quant.bits == 4 || w->quant.bits == 3 ? 64
                    : w->quant.bits == 2                                                        ? 128
                                                                                                : 32;
    uint32_t whole = w->cols / unit * unit; /* columns before the tail */
    tile t = {.group_shift = lm_group_shift(w)};
    uint32_t panel = n_rows <= SMALL ? TILE : PANEL, chunk = CHUNK * PANEL / panel;
    for (uint32_t n = n0; n < n1; n += panel) {
        uint32_t n_end = n + panel < n1 ? n + panel : n1;
        for (t.first = 0; t.first < w->cols; t.first += t.blocks * LM_ACT_BLOCK) {
            bool tail = t.first == whole;
            uint32_t end = tail ? w->cols : t.first + chunk < whole ? t.first + chunk : whole;
            t.blocks = (end - t.first) / LM_ACT_BLOCK;
            multiply_panel(w, &e, tail, t, acts, act_stride, n_rows, n, n_end, y, y_stride, scratch);
        }
    }
}
