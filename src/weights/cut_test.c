/* A part of a matrix means the same numbers as that part of the whole, in every form. */
#include "base/test.h"
#include "weights/weights.h"

#include <stdlib.h>

enum { EXPERTS = 3, ROWS = 6, COLS = 256 };

typedef struct whole {
    lm_matrix m;
    uint8_t codes[EXPERTS * ROWS * COLS * 4];
    uint8_t scales[EXPERTS * ROWS * COLS / 32 * 4], biases[EXPERTS * ROWS * COLS / 32 * 4];
} whole;

static whole *make(lm_quant_spec quant, lm_dtype dtype, uint32_t n_experts) {
    whole *w = lm_alloc(sizeof *w);
    uint32_t seed = 12345;
    w->m = (lm_matrix){.quant = quant,
                       .dtype = dtype,
                       .n_experts = n_experts,
                       .rows = ROWS,
                       .cols = COLS,
                       .codes = w->codes};
    uint32_t bits = quant.kind == LM_QUANT_NONE ? 8 * lm_dtype_size(dtype) : quant.bits;
    w->m.row_bytes = COLS * bits / 8;
    for (size_t i = 0; i < sizeof w->codes; i++)
        w->codes[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
    if (quant.kind == LM_QUANT_NONE) { /* numbers, no NaNs */
        for (size_t i = 0; i < sizeof w->codes / 2; i++)
            ((uint16_t *)(void *)w->codes)[i] = (uint16_t)(0x3c00 + i % 1000);
        return w;
    }
    w->m.scales = w->scales;
    if (quant.kind == LM_QUANT_AFFINE) w->m.biases = w->biases;
    for (size_t i = 0; i < sizeof w->scales / 2; i++) {
        ((uint16_t *)(void *)w->scales)[i] = (uint16_t)(0x3400 + i);
        ((uint16_t *)(void *)w->biases)[i] = (uint16_t)(0x3000 + 3 * i);
    }
    if (quant.kind != LM_QUANT_AFFINE)
        for (size_t i = 0; i < sizeof w->scales; i++) w->scales[i] = (uint8_t)(120 + i % 10);
    return w;
}

static void expect_part(const lm_matrix *m, lm_cut part, bool copied) {
    lm_matrix cut;
    void *memory = NULL;
    lm_err err = {0};
    float want[COLS], got[COLS];
    expect_ok(lm_matrix_cut(m, &part, &cut, &memory, &err), err);
    assert_int_equal(memory != NULL, copied);
    assert_int_equal(cut.rows, part.n_rows);
    assert_int_equal(cut.cols, part.n_cols);
    for (uint32_t e = 0; e < m->n_experts; e++)
        for (uint32_t r = 0; r < part.n_rows; r++) {
            lm_matrix_row(m, e, part.first_row + r, want);
            lm_matrix_row(&cut, e, r, got);
            assert_memory_equal(got, want + part.first_col, part.n_cols * sizeof *got);
        }
    free(memory);
}

static void a_part_has_the_numbers_of_the_whole(void **state) {
    (void)state;
    static const struct {
        lm_quant_spec quant;
        lm_dtype dtype;
    } forms[] = {
        {{LM_QUANT_NONE, 0, 0}, LM_BF16},     {{LM_QUANT_NONE, 0, 0}, LM_F16},
        {{LM_QUANT_AFFINE, 4, 64}, LM_F16},   {{LM_QUANT_AFFINE, 3, 32}, LM_BF16},
        {{LM_QUANT_AFFINE, 8, 128}, LM_F16},  {{LM_QUANT_AFFINE, 6, 64}, LM_F16},
        {{LM_QUANT_AFFINE, 5, 128}, LM_BF16}, {{LM_QUANT_MXFP4, 4, 32}, LM_BF16},
    };
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        for (uint32_t experts = 1; experts <= EXPERTS; experts += 2) {
            whole *w = make(forms[i].quant, forms[i].dtype, experts);
            expect_part(&w->m, (lm_cut){0, ROWS, 0, COLS}, experts > 1);
            expect_part(&w->m, (lm_cut){2, 3, 0, COLS}, experts > 1);
            expect_part(&w->m, (lm_cut){0, ROWS, 0, 128}, true);
            expect_part(&w->m, (lm_cut){0, ROWS, 128, 128}, true);
            expect_part(&w->m, (lm_cut){1, 1, 128, 128}, true);
            free(w);
        }
}

static void parts_that_are_none_are_refused(void **state) {
    (void)state;
    whole *w = make((lm_quant_spec){LM_QUANT_AFFINE, 4, 64}, LM_F16, 1);
    static const lm_cut none[] = {{0, 0, 0, COLS},    {0, ROWS, 0, 0},          {0, ROWS + 1, 0, COLS},
                                  {1, ROWS, 0, COLS}, {UINT32_MAX, 2, 0, COLS}, {0, ROWS, 64, COLS}};
    lm_matrix cut;
    void *memory = NULL;
    lm_err err = {0};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++)
        expect_fail(lm_matrix_cut(&w->m, &none[i], &cut, &memory, &err), LM_INVALID, err,
                    "no part of 6 by 256");
    lm_cut through = {0, ROWS, 0, 96};
    expect_fail(lm_matrix_cut(&w->m, &through, &cut, &memory, &err), LM_UNSUPPORTED, err,
                "cut through groups of 64");
    free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_part_has_the_numbers_of_the_whole),
        cmocka_unit_test(parts_that_are_none_are_refused),
    };
    return cmocka_run_group_tests_name("weights.cut", tests, NULL, NULL);
}
