/* matmul_test.c - every feature set that this machine can run, over all weight forms, against products in
 * double.
 *
 * Tolerances are derived, not tuned. With x̂ the 8-bit activation, a set must give W·x̂ up to the rounding of
 * its float sums: |y - W·x̂| <= 2^-24 * (cols/32 + 16) * Σ(|scale * code| + |bias|)|x̂|. And W·x̂ is W·x up to
 * half a step of the activation: |W·x̂ - W·x| <= Σ|w| d/2. Where all floats are small whole numbers, nothing
 * rounds and sets must agree with the portable one bit for bit.
 *
 * Weights end flush with their heap block and start at odd addresses, so that a sanitizer sees every stray
 * read.
 */
#include <math.h>

#include "base/test.h"
#include "cpu/cpu.h"
#include "cpu/kernels.h"
#include "cpu/matmul_form.h"

typedef struct kernel_set {
    const char *name;
    uint32_t (*act_kind)(const lm_matrix *w);
    void (*act_prepare)(uint32_t kind, const float *x, uint32_t cols, void *act);
    lm_matmul_fn *matmul;
    uint32_t step;
} kernel_set;

enum { MAX_SETS = 8 };

/* All sets of this machine, the portable one first. */
static uint32_t sets(kernel_set out[MAX_SETS]) {
    uint32_t n = 0;
    out[n++] = (kernel_set){"portable", lm_act_kind_portable, lm_act_prepare, lm_matmul_portable, 1};
#if defined(LM_AVX512_EMULATED)
    out[n++] =
        (kernel_set){"avx512 by SIMDe", lm_act_kind, lm_act_prepare_avx2, lm_matmul_avx512, LM_MATMUL_STEP};
    out[n++] = (kernel_set){"avx512-bf16 by SIMDe", lm_act_kind_avx512_bf16, lm_act_prepare_avx512_bf16,
                            lm_matmul_avx512_bf16, LM_MATMUL_STEP};
#else
    for (const char *const *f = lm_cpu_features(); *f; f++) {
        const lm_kernels *k = NULL;
        lm_err err = {0};
        if (strcmp(*f, "portable") == 0 || strcmp(*f, "reference") == 0) continue;
        expect_ok(lm_kernels_choose(*f, &k, &err), err);
        assert_true(n < MAX_SETS);
        out[n++] = (kernel_set){*f, k->act_kind, k->act_prepare, k->matmul, k->matmul_step};
    }
#endif
    return n;
}

static uint32_t seed = 1;
static uint32_t rnd(void) {
    seed = seed * 1664525u + 1013904223u;
    return seed >> 8;
}
static float uniform(void) {
    return (float)rnd() / (float)(1 << 23) - 1.0f;
} /* [-1, 1) */

/* ---- matrices ------------------------------------------------------------------------------------------- */

typedef struct form {
    lm_quant kind;
    uint32_t bits, group;
    lm_dtype dtype;
} form;

typedef struct test_matrix {
    lm_matrix m;
    unsigned char *codes, *scales, *biases; /* heap blocks, the arrays are their ends */
} test_matrix;

enum { ODD = 3 }; /* bytes before an array */

static unsigned char *block(size_t bytes, const void **array) {
    unsigned char *p = malloc(bytes + ODD);
    assert_non_null(p);
    *array = p + ODD;
    return p;
}

static void put_number(unsigned char *array, size_t i, lm_dtype dtype, float f) {
    uint16_t half = dtype == LM_BF16 ? lm_f32_to_bf16(f) : lm_f32_to_f16(f);
    if (dtype == LM_F32)
        memcpy(array + 4 * i, &f, 4);
    else
        memcpy(array + 2 * i, &half, 2);
}

static size_t number_bytes(lm_dtype t) {
    return t == LM_F32 ? 4 : 2;
}

/* whole: scales 1, biases small integers; else random floats. */
static test_matrix make_matrix(form f, uint32_t rows, uint32_t cols, bool whole) {
    test_matrix t = {0};
    t.m = (lm_matrix){
        .quant = {f.kind, f.bits, f.group}, .dtype = f.dtype, .n_experts = 2, .rows = rows, .cols = cols};
    size_t n = 2 * (size_t)rows;
    t.m.row_bytes = f.kind == LM_QUANT_NONE ? cols * number_bytes(f.dtype) : (uint64_t)cols * f.bits / 8;
    t.codes = block(n * t.m.row_bytes, &t.m.codes);
    if (f.kind == LM_QUANT_NONE) {
        for (size_t i = 0; i < n * cols; i++)
            put_number(t.codes + ODD, i, f.dtype, whole ? (float)(rnd() % 15) - 7.0f : uniform());
        return t;
    }
    for (size_t i = 0; i < n * t.m.row_bytes; i++) t.codes[ODD + i] = (unsigned char)rnd();
    size_t groups = n * (cols / f.group);
    if (f.kind == LM_QUANT_MXFP4) {
        t.scales = block(groups, &t.m.scales);
        for (size_t i = 0; i < groups; i++)
            t.scales[ODD + i] = (unsigned char)(whole ? 128 : 118 + rnd() % 12);
        return t;
    }
    t.scales = block(groups * number_bytes(f.dtype), &t.m.scales);
    t.biases = block(groups * number_bytes(f.dtype), &t.m.biases);
    for (size_t i = 0; i < groups; i++) {
        float scale = whole ? 1.0f : uniform() * 0.05f;
        put_number(t.scales + ODD, i, f.dtype, scale);
        put_number(t.biases + ODD, i, f.dtype,
                   whole ? (float)(rnd() % 9) - 4.0f
                         : scale * (float)(1 << f.bits) * -0.5f + uniform() * 0.01f);
    }
    return t;
}

static void free_matrix(test_matrix *t) {
    free(t->codes);
    free(t->scales);
    free(t->biases);
}

static const form plain_forms[] = {
    {LM_QUANT_NONE, 0, 0, LM_F32}, {LM_QUANT_NONE, 0, 0, LM_F16}, {LM_QUANT_NONE, 0, 0, LM_BF16}};

/* Calls each(form) for every quantised form: 6 widths x 3 groups x 3 scale types, and mxfp4. */
static void for_quantised(void (*each)(form f)) {
    static const uint32_t bits[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 128};
    static const lm_dtype types[] = {LM_F16, LM_BF16, LM_F32};
    for (uint32_t b = 0; b < 6; b++)
        for (uint32_t g = 0; g < 3; g++)
            for (uint32_t t = 0; t < 3; t++) each((form){LM_QUANT_AFFINE, bits[b], groups[g], types[t]});
    each((form){LM_QUANT_MXFP4, 4, 32, LM_U8});
}

/* ---- running ------------------------------------------------------------------------------------------- */

typedef struct run {
    char *acts;
    size_t act_stride;
    float *y;
    size_t y_stride;
    void *scratch;
} run;

static const float UNTOUCHED = 12345.5f;

/* Prepares n_rows rows of x for w and multiplies with rows [n0, n1) of expert 1; y rows are rows + 5 wide. */
static run run_set(const kernel_set *s, const lm_matrix *w, const float *x, uint32_t n_rows, uint32_t n0,
                   uint32_t n1) {
    run r = {0};
    uint32_t kind = s->act_kind(w);
    r.act_stride = lm_act_bytes(kind, w->cols);
    assert_int_equal(r.act_stride % 64, 0);
    r.acts = aligned_alloc(64, n_rows * r.act_stride);
    r.scratch = aligned_alloc(64, (lm_matmul_scratch(w->cols) + 63) / 64 * 64);
    r.y_stride = w->rows + 5;
    r.y = malloc(n_rows * r.y_stride * sizeof(float));
    assert_true(r.acts && r.scratch && r.y);
    memset(r.acts, 0x5a, n_rows * r.act_stride);
    memset(r.scratch, 0x5a, lm_matmul_scratch(w->cols));
    for (uint32_t m = 0; m < n_rows; m++)
        s->act_prepare(kind, x + (size_t)m * w->cols, w->cols, r.acts + m * r.act_stride);
    for (size_t i = 0; i < n_rows * r.y_stride; i++) r.y[i] = UNTOUCHED;
    s->matmul(w, 1, r.acts, r.act_stride, n_rows, n0, n1, r.y, r.y_stride, r.scratch);
    for (uint32_t m = 0; m < n_rows; m++)
        for (uint32_t n = 0; n < r.y_stride; n++)
            if (n < n0 || n >= n1) assert_true(r.y[m * r.y_stride + n] == UNTOUCHED);
    return r;
}

static void free_run(run *r) {
    free(r->acts);
    free(r->scratch);
    free(r->y);
}

static const uint32_t row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 128};
enum { N_ROW_COUNTS = 12, MOST_ROWS = 128 };

static const char *name_of(form f) {
    static char text[80];
    snprintf(text, sizeof text, "kind %d bits %u group %u %s", (int)f.kind, f.bits, f.group,
             lm_dtype_name(f.dtype));
    return text;
}

/* ---- against doubles ------------------------------------------------------------------------------------ */

typedef struct expected {
    double *with_rounded, *slack; /* (MOST_ROWS, rows): W·x̂, and the rounding that float sums may add */
    double *exact, *step;         /* W·x, and Σ|w| d/2 */
} expected;

/* x̂ of one row from its natural-order preparation; d per block. */
static void rounded_activation(const float *x, uint32_t cols, uint32_t group, float *out, float *d) {
    lm_matrix w = {.quant = {LM_QUANT_AFFINE, 8, group}, .cols = cols};
    uint32_t kind = lm_act_kind_portable(&w);
    char *act = aligned_alloc(64, lm_act_bytes(kind, cols));
    assert_non_null(act);
    lm_act_prepare(kind, x, cols, act);
    memcpy(d, act + lm_act_scales_at(cols), cols / LM_ACT_BLOCK * sizeof(float));
    for (uint32_t k = 0; k < cols; k++) out[k] = d[k / LM_ACT_BLOCK] * (float)(int8_t)act[k];
    free(act);
}

static expected expect(const lm_matrix *w, const float *x) {
    size_t n = (size_t)MOST_ROWS * w->rows;
    uint32_t cols = w->cols, group = w->quant.kind == LM_QUANT_NONE ? 1 : w->quant.group;
    bool plain = w->quant.kind == LM_QUANT_NONE;
    expected e = {calloc(n, 8), calloc(n, 8), calloc(n, 8), calloc(n, 8)};
    float *row = malloc(w->rows * (size_t)cols * 4), *large = malloc(w->rows * (size_t)cols * 4);
    float *xr = malloc(cols * 4), *d = malloc(cols * 4);
    assert_true(e.with_rounded && e.slack && e.exact && e.step && row && large && xr && d);
    lm_expert ex = lm_expert_of(w, 1);
    for (uint32_t i = 0; i < w->rows; i++) {
        lm_matmul_row(w, 1, i, row + (size_t)i * cols);
        for (uint32_t k = 0; k < cols; k++) { /* |scale * code| + |bias| <= |w| + 2 |bias| */
            float bias = 0, v = fabsf(row[(size_t)i * cols + k]);
            if (w->quant.kind == LM_QUANT_MXFP4)
                bias = 12 * lm_e8m0_half(ex.scales[i * ex.scales_row + k / group]);
            if (w->quant.kind == LM_QUANT_AFFINE)
                bias = fabsf(lm_number(w->dtype, ex.biases + i * ex.scales_row, k / group));
            large[(size_t)i * cols + k] = v + 2 * bias;
        }
    }
    for (uint32_t m = 0; m < MOST_ROWS; m++) {
        const float *xm = x + (size_t)m * cols;
        if (plain)
            memcpy(xr, xm, cols * 4), memset(d, 0, cols * 4);
        else
            rounded_activation(xm, cols, group, xr, d);
        for (uint32_t i = 0; i < w->rows; i++) {
            size_t at = (size_t)m * w->rows + i;
            for (uint32_t k = 0; k < cols; k++) {
                double v = (double)row[(size_t)i * cols + k];
                e.with_rounded[at] += v * (double)xr[k];
                e.exact[at] += v * (double)xm[k];
                e.slack[at] += (double)large[(size_t)i * cols + k] * fabs((double)xr[k]);
                e.step[at] += fabs(v) * (double)(plain ? 0 : d[k / LM_ACT_BLOCK]) * 0.5;
            }
            e.slack[at] *= ldexp(cols / 32.0 + 16, -24);
        }
    }
    free(row), free(large), free(xr), free(d);
    return e;
}

/* x as two bf16 leaves 2^-16 of it behind and has four roundings where there is one for floats; as a multiple
 * of the slack that floats have. */
static double split_slack(uint32_t cols) {
    return 1 + (ldexp(1, -16) + ldexp(3 * cols / 32.0, -24)) / ldexp(cols / 32.0 + 16, -24);
}

static void check_against_doubles(form f, uint32_t rows, uint32_t cols) {
    kernel_set set[MAX_SETS];
    test_matrix t = make_matrix(f, rows, cols, false);
    float *x = malloc((size_t)MOST_ROWS * cols * 4);
    assert_non_null(x);
    for (size_t i = 0; i < (size_t)MOST_ROWS * cols; i++) x[i] = uniform() * (rnd() % 50 ? 1.0f : 20.0f);
    expected e = expect(&t.m, x);
    for (uint32_t s = 0, n_sets = sets(set); s < n_sets; s++) {
        double more = set[s].act_kind(&t.m) == LM_ACT_BF16 ? split_slack(cols) : 1;
        for (uint32_t c = 0; c < N_ROW_COUNTS; c++) {
            uint32_t n0 = c % 3 == 2 && rows > set[s].step ? set[s].step : 0;
            run r = run_set(&set[s], &t.m, x, row_counts[c], n0, rows);
            for (uint32_t m = 0; m < row_counts[c]; m++)
                for (uint32_t n = n0; n < rows; n++) {
                    size_t at = (size_t)m * rows + n;
                    double y = (double)r.y[m * r.y_stride + n], slack = e.slack[at] * more;
                    if (!(fabs(y - e.with_rounded[at]) <= slack))
                        fail_msg("%s, %s, %u x %u, %u rows: y[%u][%u] is %.9g, W·x̂ is %.9g ± %.3g",
                                 set[s].name, name_of(f), rows, cols, row_counts[c], m, n, y,
                                 e.with_rounded[at], slack);
                    if (!(fabs(y - e.exact[at]) <= slack + e.step[at] * (1 + 1e-6)))
                        fail_msg("%s, %s: y[%u][%u] is %.9g, W·x is %.9g ± %.3g", set[s].name, name_of(f), m,
                                 n, y, e.exact[at], e.step[at]);
                }
            free_run(&r);
        }
    }
    free(e.with_rounded), free(e.slack), free(e.exact), free(e.step);
    free(x);
    free_matrix(&t);
}

static void check_shapes(form f) {
    uint32_t unit = f.group > 32 ? f.group : 32;
    static const uint32_t sizes[] = {32, 64, 96, 128, 160, 224, 1056, 2112};
    static const uint32_t rows[] = {1, 17, 16, 7, 33, 5, 19, 3};
    for (uint32_t i = 0; i < 8; i++)
        if (i < 6 || f.dtype == LM_F16 || f.dtype == LM_U8)
            check_against_doubles(f, rows[i], lm_round_up(sizes[i], unit));
}

static void every_set_multiplies_every_quantised_form_within_its_derived_tolerance(void **state) {
    (void)state;
    for_quantised(check_shapes);
}

static void every_set_multiplies_plain_matrices_of_any_width(void **state) {
    (void)state;
    static const uint32_t sizes[] = {1, 7, 8, 31, 40, 65, 576, 1100};
    static const uint32_t rows[] = {3, 16, 17, 1, 33, 20, 18, 5};
    for (uint32_t f = 0; f < 3; f++)
        for (uint32_t i = 0; i < 8; i++) check_against_doubles(plain_forms[f], rows[i], sizes[i]);
}

/* ---- exactness ------------------------------------------------------------------------------------------ */

typedef enum fill { RANDOM, ALL_MOST, ALL_LEAST, ALTERNATE, BY_PAIRS } fill;

/* Whole activations that quantise to themselves: each block has a ±127. */
static void fill_whole(float *x, size_t n, fill how) {
    for (size_t i = 0; i < n; i++) {
        float v = (float)(rnd() % 255) - 127.0f;
        if (i % LM_ACT_BLOCK == 5) v = 127.0f;
        if (how == ALL_MOST) v = 127;
        if (how == ALL_LEAST) v = -127;
        if (how == ALTERNATE) v = i & 1 ? -127.0f : 127.0f;
        if (how == BY_PAIRS) v = i & 2 ? -127.0f : 127.0f;
        x[i] = v;
    }
}

static void check_exact(form f) {
    kernel_set set[MAX_SETS];
    uint32_t n_sets = sets(set), cols = 384, rows = 35;
    float *x = malloc((size_t)MOST_ROWS * cols * 4);
    assert_non_null(x);
    for (int codes = -1; codes < 2; codes++) { /* random, all least, all most */
        test_matrix t = make_matrix(f, rows, cols, true);
        if (codes >= 0) memset(t.codes + ODD, codes ? 0xff : 0, 2 * rows * t.m.row_bytes);
        if (codes == 1 && f.kind == LM_QUANT_MXFP4) memset(t.codes + ODD, 0x77, 2 * rows * t.m.row_bytes);
        for (fill how = RANDOM; how <= BY_PAIRS; how++) {
            fill_whole(x, (size_t)MOST_ROWS * cols, how);
            for (uint32_t c = 0; c < N_ROW_COUNTS; c++) {
                run want = run_set(&set[0], &t.m, x, row_counts[c], 0, rows);
                for (uint32_t s = 1; s < n_sets; s++) {
                    run got = run_set(&set[s], &t.m, x, row_counts[c], 0, rows);
                    for (size_t i = 0; i < row_counts[c] * want.y_stride; i++)
                        if (got.y[i] != want.y[i])
                            fail_msg("%s, %s, codes %d, fill %d, %u rows: y[%zu] is %.9g, portable has %.9g",
                                     set[s].name, name_of(f), codes, (int)how, row_counts[c], i,
                                     (double)got.y[i], (double)want.y[i]);
                    free_run(&got);
                }
                free_run(&want);
            }
        }
        free_matrix(&t);
    }
    free(x);
}

static void sets_agree_bit_for_bit_on_whole_numbers_and_nothing_saturates(void **state) {
    (void)state;
    for_quantised(check_exact);
}

static void more_rows_than_one_pass_takes_and_a_remainder_are_all_multiplied(void **state) {
    (void)state;
    static const form some[] = {{LM_QUANT_AFFINE, 4, 64, LM_F16}, {LM_QUANT_AFFINE, 8, 32, LM_BF16}};
    static const uint32_t many[] = {385, 390, 391, 775};
    kernel_set set[MAX_SETS];
    uint32_t n_sets = sets(set), cols = 64, rows = 149; /* two panels of W too */
    float *x = malloc(775 * (size_t)cols * 4);
    assert_non_null(x);
    fill_whole(x, 775 * (size_t)cols, RANDOM);
    for (uint32_t f = 0; f < 2; f++) {
        test_matrix t = make_matrix(some[f], rows, cols, true);
        for (uint32_t c = 0; c < 4; c++) {
            run want = run_set(&set[0], &t.m, x, many[c], 0, rows);
            for (uint32_t s = 1; s < n_sets; s++) {
                run got = run_set(&set[s], &t.m, x, many[c], 0, rows);
                assert_int_equal(memcmp(got.y, want.y, many[c] * want.y_stride * sizeof(float)), 0);
                free_run(&got);
            }
            free_run(&want);
        }
        free_matrix(&t);
    }
    free(x);
}

/* 2208 columns: more than a chunk, and a remainder of every layout. */
static void check_alone_and_together(form f) {
    kernel_set set[MAX_SETS];
    uint32_t n_sets = sets(set), cols = lm_round_up(2208, f.group > 32 ? f.group : 32), rows = 21;
    test_matrix t = make_matrix(f, rows, cols, false);
    float *x = malloc((size_t)MOST_ROWS * cols * 4);
    assert_non_null(x);
    for (size_t i = 0; i < (size_t)MOST_ROWS * cols; i++) x[i] = uniform();
    for (uint32_t s = 0; s < n_sets; s++) {
        for (uint32_t c = 1; c < N_ROW_COUNTS && row_counts[c] <= 33; c++) {
            run together = run_set(&set[s], &t.m, x, row_counts[c], 0, rows);
            for (uint32_t m = 0; m < row_counts[c]; m++) {
                run alone = run_set(&set[s], &t.m, x + (size_t)m * cols, 1, 0, rows);
                for (uint32_t n = 0; n < rows; n++)
                    if (alone.y[n] != together.y[m * together.y_stride + n])
                        fail_msg("%s, %s: y[%u][%u] is %.9g alone, %.9g among %u rows", set[s].name,
                                 name_of(f), m, n, (double)alone.y[n],
                                 (double)together.y[m * together.y_stride + n], row_counts[c]);
                free_run(&alone);
            }
            free_run(&together);
        }
    }
    free(x);
    free_matrix(&t);
}

static void a_row_gives_the_same_numbers_alone_and_among_others(void **state) {
    (void)state;
    static const uint32_t bits[] = {2, 3, 4, 5, 6, 8};
    for (uint32_t b = 0; b < 6; b++)
        for (uint32_t g = 32; g <= 128; g *= 2)
            check_alone_and_together((form){LM_QUANT_AFFINE, bits[b], g, LM_BF16});
    check_alone_and_together((form){LM_QUANT_MXFP4, 4, 32, LM_U8});
    for (uint32_t i = 0; i < 3; i++) check_alone_and_together(plain_forms[i]);
}

/* What a processor can do more of changes its speed, not its answers. */
static void check_sets_alike(form f) {
    kernel_set set[MAX_SETS];
    uint32_t n_sets = sets(set), cols = lm_round_up(1152 + 32, f.group), rows = 37;
#if defined(LM_AVX512_EMULATED)
    set[n_sets++] = (kernel_set){"avx2", lm_act_kind, lm_act_prepare_avx2, lm_matmul_avx2, LM_MATMUL_STEP};
#endif
    test_matrix t = make_matrix(f, rows, cols, false);
    float *x = malloc((size_t)13 * cols * 4);
    assert_non_null(x);
    for (size_t i = 0; i < (size_t)13 * cols; i++) x[i] = uniform();
    for (uint32_t n_rows = 1; n_rows <= 13; n_rows += n_rows < 5 ? 1 : 4)
        for (uint32_t s = 2; s < n_sets; s++) {
            run one = run_set(&set[1], &t.m, x, n_rows, 0, rows),
                other = run_set(&set[s], &t.m, x, n_rows, 0, rows);
            if (memcmp(one.y, other.y, n_rows * one.y_stride * sizeof(float)) != 0)
                fail_msg("%s, %u rows: %s and %s differ", name_of(f), n_rows, set[1].name, set[s].name);
            free_run(&one), free_run(&other);
        }
    free(x);
    free_matrix(&t);
}

static void all_sets_of_a_kind_of_processor_give_the_same_numbers(void **state) {
    (void)state;
    for_quantised(check_sets_alike);
}

static void the_portable_set_is_exact_on_whole_numbers(void **state) {
    (void)state;
    form f = {LM_QUANT_AFFINE, 8, 32, LM_F32};
    kernel_set set[MAX_SETS];
    sets(set);
    enum { COLS = 64 };
    test_matrix t = make_matrix(f, 2, COLS, true);
    float x[COLS], w[COLS];
    fill_whole(x, COLS, RANDOM);
    run r = run_set(&set[0], &t.m, x, 1, 0, 2);
    for (uint32_t n = 0; n < 2; n++) {
        double sum = 0;
        lm_matmul_row(&t.m, 1, n, w);
        for (uint32_t k = 0; k < COLS; k++) sum += (double)w[k] * (double)x[k];
        assert_true((double)r.y[n] == sum);
    }
    free_run(&r);
    free_matrix(&t);
}

/* ---- activations ----------------------------------------------------------------------------------------- */

static void check_prepared(form f) {
    kernel_set set[MAX_SETS];
    uint32_t n_sets = sets(set);
    for (uint32_t cols = f.group; cols <= 512; cols += f.group) {
        float *x = malloc(cols * 4);
        assert_non_null(x);
        for (uint32_t i = 0; i < cols; i++) x[i] = uniform() * ldexpf(1, (int)(rnd() % 20) - 10);
        if (cols > 64) memset(x + 32, 0, 128), x[70] = 1e-40f; /* a block of zeros, a subnormal */
        lm_matrix w = {.quant = {f.kind, f.bits, f.group}, .dtype = f.dtype, .cols = cols};
        for (uint32_t s = 1; s < n_sets; s++) {
            uint32_t kind = set[s].act_kind(&w);
            size_t bytes = lm_act_bytes(kind, cols);
            char *want = aligned_alloc(64, bytes), *got = aligned_alloc(64, bytes);
            assert_true(want && got);
            memset(want, 0x11, bytes), memset(got, 0x22, bytes);
            lm_act_prepare(kind, x, cols, want);
            set[s].act_prepare(kind, x, cols, got);
            if (memcmp(want, got, bytes) != 0)
                fail_msg("%s, %s, %u columns differ", set[s].name, name_of(f), cols);
            free(want), free(got);
        }
        free(x);
    }
}

static void every_set_prepares_the_same_activation_bytes(void **state) {
    (void)state;
    for_quantised(check_prepared);
}

static void check_not_finite(form f) {
    kernel_set set[MAX_SETS];
    uint32_t cols = 256, rows = 18;
    float x[256 * 5];
    test_matrix t = make_matrix(f, rows, cols, false);
    for (uint32_t i = 0; i < 256 * 5; i++) x[i] = uniform();
    x[256 + 40] = NAN, x[512 + 255] = INFINITY, x[768] = -INFINITY;
    for (uint32_t s = 0, n_sets = sets(set); s < n_sets; s++)
        for (uint32_t n_rows = 4; n_rows <= 5; n_rows++) {
            run r = run_set(&set[s], &t.m, x, n_rows, 0, rows);
            for (uint32_t n = 0; n < rows; n++)
                for (uint32_t m = 0; m < n_rows; m++) {
                    bool finite = m == 0 || m == 4;
                    if (!isfinite(r.y[m * r.y_stride + n]) == finite)
                        fail_msg("%s, %s: row %u gives %g", set[s].name, name_of(f), m,
                                 (double)r.y[m * r.y_stride + n]);
                }
            free_run(&r);
        }
    free_matrix(&t);
}

static void infinities_and_nans_stay_visible_and_in_their_own_row(void **state) {
    (void)state;
    for_quantised(check_not_finite);
    for (uint32_t i = 0; i < 3; i++) check_not_finite(plain_forms[i]);
}

static void matrices_of_one_form_share_a_preparation_and_others_do_not(void **state) {
    (void)state;
    lm_matrix a = {.quant = {LM_QUANT_AFFINE, 4, 64}, .dtype = LM_F16, .rows = 8, .cols = 256}, b = a;
    b.rows = 16, b.dtype = LM_BF16;
    assert_int_equal(lm_act_kind(&a), lm_act_kind(&b));
    b.quant.group = 32;
    assert_int_not_equal(lm_act_kind(&a), lm_act_kind(&b));
    b.quant.group = 64, b.quant.bits = 8;
    assert_int_not_equal(lm_act_kind(&a), lm_act_kind(&b));
    assert_int_equal(lm_act_kind_portable(&a), lm_act_kind_portable(&b));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_set_multiplies_every_quantised_form_within_its_derived_tolerance),
        cmocka_unit_test(every_set_multiplies_plain_matrices_of_any_width),
        cmocka_unit_test(sets_agree_bit_for_bit_on_whole_numbers_and_nothing_saturates),
        cmocka_unit_test(more_rows_than_one_pass_takes_and_a_remainder_are_all_multiplied),
        cmocka_unit_test(a_row_gives_the_same_numbers_alone_and_among_others),
        cmocka_unit_test(all_sets_of_a_kind_of_processor_give_the_same_numbers),
        cmocka_unit_test(the_portable_set_is_exact_on_whole_numbers),
        cmocka_unit_test(every_set_prepares_the_same_activation_bytes),
        cmocka_unit_test(infinities_and_nans_stay_visible_and_in_their_own_row),
        cmocka_unit_test(matrices_of_one_form_share_a_preparation_and_others_do_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
