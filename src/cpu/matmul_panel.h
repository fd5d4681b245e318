/* matmul_panel.h (private to cpu/matmul_avx2_many.c and matmul_avx512.c) - panels of W unpacked for products
 * with many rows of x; the top of matmul_avx2_many.c tells how they are used. Every function here needs AVX2.
 *
 * Scratch: codes (panel rows / 16, blocks, 8 steps [, 2 halves], 16, 4), then scales and biases (panel rows /
 * 16, GROUPS, 16).
 */
#ifndef LM_CPU_MATMUL_PANEL_H
#define LM_CPU_MATMUL_PANEL_H

#include "cpu/matmul_avx2.h"

enum {
    TILE = 16,    /* rows of W side by side */
    CHUNK = 512,  /* columns */
    PANEL = 128,  /* rows of W unpacked together */
    X_ROWS = 384, /* rows of x that stay in the second-level cache with the panel */
    SMALL = 32,   /* up to so many rows of x a panel is one tile, and its chunk as much longer: W is read in
                     longer runs */
    BLOCK_BYTES = TILE * LM_ACT_BLOCK,
    GROUPS = CHUNK / 32
};

typedef struct tile {
    const uint8_t *codes; /* (blocks, 8 steps [, 2 halves], 16, 4) */
    const float *scales;  /* (groups, 16) */
    const float *biases;  /* (groups, 16) */
    uint32_t blocks;      /* of 32 columns */
    uint32_t first;       /* column */
    uint32_t group_shift; /* log2 of blocks in a group */
} tile;

/* ---- unpacking ------------------------------------------------------------------------------------------- */

/* 8 rows' 32 codes -> 8 steps of 8 rows, `apart` bytes from step to step. */
LM_INLINE void put_steps(__m256i r[8], uint8_t *to, size_t apart) {
    transpose8(r);
    for (int s = 0; s < 8; s++) _mm256_store_si256((__m256i *)(void *)(to + s * apart), r[s]);
}

/* The two halves of 8-bit codes, side by side. */
LM_INLINE void put_split(__m256i r[8], uint8_t *to) {
    const __m256i low = _mm256_set1_epi8(15);
    transpose8(r);
    for (int s = 0; s < 8; s++) {
        _mm256_store_si256((__m256i *)(void *)(to + s * 64), _mm256_and_si256(r[s], low));
        _mm256_store_si256((__m256i *)(void *)(to + s * 64 + BLOCK_BYTES),
                           _mm256_and_si256(_mm256_srli_epi16(r[s], 4), low));
    }
}

/* Dwords 0-3 of both halves are block 0's steps, 4-7 are block 1's. */
LM_INLINE void put_halves(__m256i even[8], __m256i odd[8], uint8_t *to) {
    transpose8(even);
    transpose8(odd);
    for (int s = 0; s < 8; s++) {
        uint8_t *block = to + (s >> 2) * BLOCK_BYTES + (s & 3) * 64;
        _mm256_store_si256((__m256i *)(void *)block, even[s]);
        _mm256_store_si256((__m256i *)(void *)(block + 4 * 64), odd[s]);
    }
}

/* Codes of 8 rows of W, columns [first, first + 32 * blocks), to their half of the tile. `tail`: the blocks
 * after the last whole unit of the layout. `split`: 8-bit codes as two halves. */
LM_INLINE void unpack_rows(int bits, bool tail, const uint8_t *const row[8], uint32_t first, uint32_t blocks,
                           bool split, size_t ahead, uint8_t *to) {
    uint32_t real_bits = bits == LM_BITS_MXFP4 ? 4 : (uint32_t)bits;
    size_t at = (size_t)first * real_bits / 8;
    __m256i r[8], o[8], q[4][8];
    for (uint32_t b = 0; b < blocks;) {
        if (bits == 2 && !tail) {
            for (int i = 0; i < 8; i++) {
                __m256i four[4];
                _mm_prefetch((const char *)row[i] + at + ahead, _MM_HINT_T1);
                unpack_quarters(row[i] + at, four);
                for (int j = 0; j < 4; j++) q[j][i] = four[j];
            }
            for (int j = 0; j < 4; j++) {
                transpose8(q[j]);
                for (int s = 0; s < 8; s++)
                    _mm256_store_si256(
                        (__m256i *)(void *)(to + (s >> 1) * BLOCK_BYTES + (2 * j + (s & 1)) * 64), q[j][s]);
            }
            at += 32, b += 4, to += 4 * BLOCK_BYTES;
        } else if ((bits == 3 || bits == 4 || bits == LM_BITS_MXFP4) && !tail) {
            for (int i = 0; i < 8; i++) {
                _mm_prefetch((const char *)row[i] + at + ahead, _MM_HINT_T1);
                unpack_halves(bits, row[i] + at, &r[i], &o[i]);
            }
            put_halves(r, o, to);
            at += 8 * real_bits, b += 2, to += 2 * BLOCK_BYTES;
        } else {
            for (int i = 0; i < 8; i++) {
                _mm_prefetch((const char *)row[i] + at + ahead, _MM_HINT_T1);
                r[i] = bits == 2   ? unpack_quarters_tail(row[i] + at)
                       : bits == 5 ? unpack_5(row[i] + at)
                       : bits == 6 ? unpack_6(row[i] + at)
                       : bits == 8 ? load256(row[i] + at)
                                   : unpack_halves_tail(bits, row[i] + at);
            }
            if (bits == 8 && split)
                put_split(r, to), to += BLOCK_BYTES;
            else
                put_steps(r, to, 64);
            at += 4 * real_bits, b += 1, to += BLOCK_BYTES;
        }
    }
}

/* Scales and biases of 8 rows, groups [g, g + n), to their half of the tile. */
static inline void unpack_scales(const lm_matrix *w, const lm_expert *e, const uint32_t row[8], uint32_t g,
                                 uint32_t n, float *scales, float *biases) {
    for (uint32_t i = 0; i < n; i += 8)
        load_span(w, e, row, g + i, w->cols / w->quant.group, scales + i * TILE, biases + i * TILE, TILE);
}

/* Rows [n, n + 16) of W, repeating the last row below n1. */
static inline void unpack_tile(const lm_matrix *w, const lm_expert *e, uint32_t n, uint32_t n1, bool tail,
                               bool split, const tile *t, uint8_t *codes, float *scales, float *biases) {
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t index[8];
        const uint8_t *row[8];
        for (uint32_t i = 0; i < 8; i++) {
            index[i] = n + 8 * half + i < n1 ? n + 8 * half + i : n1 - 1;
            row[i] = e->codes + index[i] * w->row_bytes;
        }
        uint8_t *to = codes + 32 * half;
        switch (lm_avx2_bits(w)) {
        case 2:
            if (tail)
                unpack_rows(2, true, row, t->first, t->blocks, split, TILE * w->row_bytes, to);
            else
                unpack_rows(2, false, row, t->first, t->blocks, split, TILE * w->row_bytes, to);
            break;
        case 3:
            if (tail)
                unpack_rows(3, true, row, t->first, t->blocks, split, TILE * w->row_bytes, to);
            else
                unpack_rows(3, false, row, t->first, t->blocks, split, TILE * w->row_bytes, to);
            break;
        case 4:
            if (tail)
                unpack_rows(4, true, row, t->first, t->blocks, split, TILE * w->row_bytes, to);
            else
                unpack_rows(4, false, row, t->first, t->blocks, split, TILE * w->row_bytes, to);
            break;
        case 5: unpack_rows(5, false, row, t->first, t->blocks, split, TILE * w->row_bytes, to); break;
        case 6: unpack_rows(6, false, row, t->first, t->blocks, split, TILE * w->row_bytes, to); break;
        case 8: unpack_rows(8, false, row, t->first, t->blocks, split, TILE * w->row_bytes, to); break;
        default:
            if (tail)
                unpack_rows(LM_BITS_MXFP4, true, row, t->first, t->blocks, split, TILE * w->row_bytes, to);
            else
                unpack_rows(LM_BITS_MXFP4, false, row, t->first, t->blocks, split, TILE * w->row_bytes, to);
        }
        unpack_scales(w, e, index, t->first / w->quant.group, t->blocks >> t->group_shift, scales + 8 * half,
                      biases + 8 * half);
    }
}

/* ---- where the steps are ---------------------------------------------------------------------------------- */

/* Byte offset among the codes of x of step s of block i of a unit. */
LM_INLINE size_t step_offset(lm_act_layout layout, size_t i, size_t s) {
    if (layout == LM_ACT_HALVES) return i * 16 + (s & 3) * 4 + (s >> 2) * 32;
    if (layout == LM_ACT_QUARTERS) return i * 8 + (s & 1) * 4 + (s >> 1) * 32;
    return s * 4;
}

/* Blocks in a unit of the layout. */
LM_INLINE uint32_t unit_blocks(lm_act_layout layout) {
    return layout == LM_ACT_HALVES ? 2 : layout == LM_ACT_QUARTERS ? 4 : 1;
}

#endif
