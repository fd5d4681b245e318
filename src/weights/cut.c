/* A part of a matrix, or of each matrix of a stack: what one of several machines holds of it. */
#include "weights/weights.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One of a matrix's arrays: rows of row_bytes, of which bytes [from, from + n) are wanted. */
typedef struct strip {
    const uint8_t *data;
    uint64_t row_bytes, from, n;
} strip;

static strip strip_of(const void *data, uint64_t row_bytes, uint64_t from, uint64_t to) {
    return (strip){data, data ? row_bytes : 0, data ? from : 0, data ? to - from : 0};
}

static uint64_t whole_pages(uint64_t bytes) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

static void copy(uint8_t *to, const strip *s, const lm_matrix *m, const lm_cut *p) {
    for (uint64_t e = 0; e < m->n_experts; e++) {
        const uint8_t *from = s->data + (e * m->rows + p->first_row) * s->row_bytes + s->from;
        if (s->n == s->row_bytes) {
            memcpy(to, from, p->n_rows * s->n);
            to += p->n_rows * s->n;
            continue;
        }
        for (uint32_t r = 0; r < p->n_rows; r++, to += s->n) memcpy(to, from + r * s->row_bytes, s->n);
    }
}

lm_status lm_matrix_cut(const lm_matrix *m, const lm_cut *p, lm_matrix *out, void **memory, lm_err *err) {
    bool plain = m->quant.kind == LM_QUANT_NONE;
    uint64_t unit = plain ? 1 : m->quant.group, end = (uint64_t)p->first_col + p->n_cols;
    if (!p->n_rows || !p->n_cols || (uint64_t)p->first_row + p->n_rows > m->rows || end > m->cols)
        return lm_fail(err, LM_INVALID, "rows %u + %u and columns %u + %u are no part of %u by %u",
                       p->first_row, p->n_rows, p->first_col, p->n_cols, m->rows, m->cols);
    if (p->first_col % unit || end % unit)
        return lm_fail(err, LM_UNSUPPORTED,
                       "columns %u to %llu cut through groups of %u numbers with one scale", p->first_col,
                       (unsigned long long)end, m->quant.group);

    /* codes have whole words at a group's end */
    uint64_t bits = plain ? 8 * lm_dtype_size(m->dtype) : m->quant.bits;
    uint64_t scale = m->quant.kind == LM_QUANT_AFFINE ? lm_dtype_size(m->dtype) : 1;
    strip codes = strip_of(m->codes, m->row_bytes, p->first_col * bits / 8, end * bits / 8);
    strip scales =
        strip_of(m->scales, m->cols / unit * scale, p->first_col / unit * scale, end / unit * scale);
    strip biases =
        strip_of(m->biases, m->cols / unit * scale, p->first_col / unit * scale, end / unit * scale);
    lm_matrix cut = *m;
    cut.rows = p->n_rows;
    cut.cols = p->n_cols;
    cut.row_bytes = codes.n;
    if (m->n_experts == 1 && p->n_cols == m->cols) {
        cut.codes = codes.data + p->first_row * codes.row_bytes;
        if (m->scales) cut.scales = scales.data + p->first_row * scales.row_bytes;
        if (m->biases) cut.biases = biases.data + p->first_row * biases.row_bytes;
        *memory = NULL;
        *out = cut;
        return LM_OK;
    }
    uint64_t rows = (uint64_t)m->n_experts * p->n_rows;
    uint64_t n_codes = whole_pages(rows * codes.n), n_scales = whole_pages(rows * scales.n);
    uint64_t all = n_codes + n_scales + whole_pages(rows * biases.n);
    void *copied = NULL;
    if (posix_memalign(&copied, (size_t)sysconf(_SC_PAGESIZE), all))
        return lm_fail(err, LM_NO_MEMORY, "no memory for %llu bytes of weights", (unsigned long long)all);
    uint8_t *at = copied;
    copy(at, &codes, m, p);
    cut.codes = at;
    if (m->scales) {
        copy(at + n_codes, &scales, m, p);
        cut.scales = at + n_codes;
    }
    if (m->biases) {
        copy(at + n_codes + n_scales, &biases, m, p);
        cut.biases = at + n_codes + n_scales;
    }
    *memory = copied;
    *out = cut;
    return LM_OK;
}
