/* The attention op of every feature set against a naive one in double precision that keeps all keys and
 * values. */
#include "support.h"

#define MAX_TOKENS 512
#define MAX_SEQS   3

typedef struct shape {
    const char *name;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t window;
    float softcap;
    bool sinks, norms;
    uint32_t rope_dims; /* 0: no rotation */
    bool interleaved;
    float mscale;
    bool both_ways;
} shape;

static const shape shapes[] = {
    {"grouped heads", 9, 3, 64, 0, 0, false, false, 64, false, 1, false},
    {"one kv head", 4, 1, 32, 0, 0, false, false, 32, true, 1, false},
    {"no groups, odd width", 3, 3, 20, 0, 0, false, false, 12, false, 1, false},
    {"window and softcap", 4, 2, 48, 37, 5, false, false, 48, false, 1, false},
    {"window and softcap in groups of 32", 4, 2, 96, 37, 5, false, false, 96, false, 1, false},
    {"window of one page and sinks", 8, 2, 64, 64, 0, true, false, 64, false, 1.25f, false},
    {"norms without rotation", 6, 2, 40, 0, 0, false, true, 0, false, 1, false},
    {"norms and a partial turn", 14, 2, 128, 0, 0, false, true, 64, true, 0.75f, false},
    {"both ways", 12, 12, 32, 0, 0, false, false, 0, false, 1, true},
    {"both ways in groups, turned", 8, 2, 40, 0, 0, false, true, 40, false, 1, true},
};

/* One sequence's history: raw rows, as they went in. */
typedef struct history {
    lm_seq *seq;
    uint32_t len;
    double *k,
        *v; /* (MAX_TOKENS, n_kv_heads * head_dim), k normed and turned, rounded as the cache holds them */
} history;

typedef struct bed {
    const shape *sh;
    bool f16; /* the cache's numbers */
    lm_device *dev;
    lm_rope rope;
    float *inv_freq, *sinks, *q_norm, *k_norm;
    lm_vector *v_sinks, *v_q, *v_k;
    history seqs[MAX_SEQS];
} bed;

static void turn(const bed *b, const float *x, const float *norm, uint32_t position, double *out) {
    uint32_t n = b->sh->head_dim, half = b->sh->rope_dims / 2;
    double factor = 1, sum = 0;
    if (norm) {
        for (uint32_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
        factor = 1 / sqrt(sum / n + 1e-6);
    }
    for (uint32_t i = 0; i < n; i++) out[i] = x[i] * factor * (norm ? norm[i] : 1);
    for (uint32_t i = 0; i < half; i++) {
        uint32_t ia = b->sh->interleaved ? 2 * i : i, ib = b->sh->interleaved ? 2 * i + 1 : i + half;
        double angle = (double)((float)position * b->inv_freq[i]), c = cos(angle), s = sin(angle);
        double x0 = out[ia] * b->sh->mscale, x1 = out[ib] * b->sh->mscale;
        out[ia] = x0 * c - x1 * s;
        out[ib] = x0 * s + x1 * c;
    }
}

/* Codes of `bits` bits and back, as MLX's affine form has it: the end of the range that is farther from zero
 * is a whole number of steps away from it, so that zero is exact. */
static inline void hold_coded(double *x, uint32_t n, int bits) {
    float low = (float)x[0], high = low, most = (float)((1 << bits) - 1);
    for (uint32_t i = 0; i < n; i++) {
        low = fminf(low, (float)x[i]);
        high = fmaxf(high, (float)x[i]);
    }
    bool below = fabsf(low) > fabsf(high);
    float edge = below ? low : high, step = fmaxf((high - low) / most, 1e-7f) * (below ? 1 : -1);
    float whole = rintf(edge / step), bias = whole != 0 ? edge : 0;
    if (whole != 0) step = edge / whole;
    for (uint32_t i = 0; i < n; i++)
        x[i] = (double)step * fminf(fmaxf(rintf(((float)x[i] - bias) / step), 0), most) + (double)bias;
}

/* A head as the cache gives it back. */
static void hold(const bed *b, double *x) {
    uint32_t n = b->sh->head_dim, group = n % 64 ? 32 : 64;
    if (b->f16)
        for (uint32_t i = 0; i < n; i++) x[i] = (double)lm_f16_to_f32(lm_f32_to_f16((float)x[i]));
    for (uint32_t i = 0; TEST_KV != LM_KV_F16 && i < n; i += group)
        hold_coded(x + i, group, TEST_KV == LM_KV_Q8_0 ? 8 : 4);
}

/* end: of the keys that the query at `position` sees. */
static void naive(const bed *b, const history *h, const float *q_row, uint32_t position, uint32_t end,
                  double *out) {
    uint32_t dim = b->sh->head_dim, group = b->sh->n_heads / b->sh->n_kv_heads,
             kv_width = b->sh->n_kv_heads * dim;
    double *q = test_malloc(dim * sizeof *q), *p = test_malloc(end * sizeof *p);
    for (uint32_t head = 0; head < b->sh->n_heads; head++) {
        turn(b, q_row + head * dim, b->sh->norms ? b->q_norm : NULL, position, q);
        uint32_t first = b->sh->window && position + 1 > b->sh->window ? position + 1 - b->sh->window : 0;
        double top = b->sh->sinks ? b->sinks[head] : -1e300;
        for (uint32_t t = first; t < end; t++) {
            const double *k = h->k + (size_t)t * kv_width + head / group * dim;
            p[t] = 0;
            for (uint32_t d = 0; d < dim; d++) p[t] += q[d] * k[d];
            p[t] /= sqrt(dim);
            if (b->sh->softcap != 0) p[t] = b->sh->softcap * tanh(p[t] / b->sh->softcap);
            top = p[t] > top ? p[t] : top;
        }
        double sum = b->sh->sinks ? exp(b->sinks[head] - top) : 0;
        for (uint32_t t = first; t < end; t++) sum += p[t] = exp(p[t] - top);
        for (uint32_t d = 0; d < dim; d++) out[head * dim + d] = 0;
        for (uint32_t t = first; t < end; t++)
            for (uint32_t d = 0; d < dim; d++)
                out[head * dim + d] += p[t] / sum * h->v[(size_t)t * kv_width + head / group * dim + d];
    }
    test_free(q);
    test_free(p);
}

/* Rows given as numbers, by way of an embedding. */
static lm_tensor *rows_of(lm_step *s, const lm_linear *table, uint32_t n) {
    int32_t ids[MAX_TOKENS];
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)i;
    return be->embed(s, table, ids, n, 1);
}

/* One step in which sequence i gets counts[i] tokens (0: takes no part); every output row is compared. */
static void step(bed *b, const uint32_t *counts, double tolerance) {
    const shape *sh = b->sh;
    lm_err err = {0};
    lm_slice slices[MAX_SEQS];
    uint32_t n_slices = 0, n = 0, q_width = sh->n_heads * sh->head_dim,
             kv_width = sh->n_kv_heads * sh->head_dim;
    for (uint32_t i = 0; i < MAX_SEQS; i++) {
        if (!counts[i]) continue;
        expect_ok(be->seq_reserve(b->seqs[i].seq, counts[i], &err), err);
        slices[n_slices++] = (lm_slice){b->seqs[i].seq, counts[i]};
        n += counts[i];
    }
    float *q = random_floats((size_t)n * q_width, 2), *k = random_floats((size_t)n * kv_width, 2),
          *v = random_floats((size_t)n * kv_width, 1);
    lm_matrix mq = f32_matrix(q, n, q_width), mk = f32_matrix(k, n, kv_width),
              mv = f32_matrix(v, n, kv_width);
    lm_linear *tq = open_linear(b->dev, &mq, NULL), *tk = open_linear(b->dev, &mk, NULL),
              *tv = open_linear(b->dev, &mv, NULL);

    lm_step *s = NULL;
    expect_ok(be->begin(b->dev, slices, n_slices, NULL, &s, &err), err);
    lm_attention a = {.layer = 1,
                      .n_heads = sh->n_heads,
                      .n_kv_heads = sh->n_kv_heads,
                      .head_dim = sh->head_dim,
                      .scale = 1 / sqrtf((float)sh->head_dim),
                      .window = sh->window,
                      .softcap = sh->softcap,
                      .sinks = sh->sinks ? b->v_sinks : NULL,
                      .rope = sh->rope_dims ? &b->rope : NULL,
                      .q_norm = sh->norms ? b->v_q : NULL,
                      .k_norm = sh->norms ? b->v_k : NULL,
                      .norm_eps = 1e-6f,
                      .both_ways = sh->both_ways};
    lm_tensor *out = be->attention(s, &a, rows_of(s, tq, n), rows_of(s, tk, n), rows_of(s, tv, n));
    const float *got = be->read(s, out);
    double *want = test_malloc(q_width * sizeof *want);
    for (uint32_t i = 0, row = 0; i < MAX_SEQS; i++) {
        history *h = &b->seqs[i];
        uint32_t from = h->len;
        for (uint32_t t = 0; t < counts[i]; t++, h->len++) {
            for (uint32_t head = 0; head < sh->n_kv_heads; head++) {
                size_t at = (size_t)h->len * kv_width + head * sh->head_dim;
                turn(b, k + (size_t)(row + t) * kv_width + head * sh->head_dim, sh->norms ? b->k_norm : NULL,
                     h->len, h->k + at);
                for (uint32_t d = 0; d < sh->head_dim; d++)
                    h->v[at + d] = v[(size_t)(row + t) * kv_width + head * sh->head_dim + d];
                hold(b, h->k + at);
                hold(b, h->v + at);
            }
        }
        for (uint32_t t = 0; t < counts[i]; t++, row++) {
            if (row % 5 && t + 1 < counts[i]) continue; /* a sample: the naive way is slow */
            naive(b, h, q + (size_t)row * q_width, from + t, sh->both_ways ? h->len : from + t + 1, want);
            assert_non_null(got);
            for (uint32_t d = 0; d < q_width; d++)
                assert_close(got[(size_t)row * q_width + d], want[d], tolerance, sh->name,
                             (size_t)row * q_width + d);
        }
    }
    expect_ok(be->end(s, false, &err), err);
    for (uint32_t i = 0; i < MAX_SEQS; i++) assert_int_equal(be->seq_len(b->seqs[i].seq), b->seqs[i].len);
    be->linear_free(tq);
    be->linear_free(tk);
    be->linear_free(tv);
    test_free(want);
    test_free(q);
    test_free(k);
    test_free(v);
}

static void run_shape(const char *features, const shape *sh, uint32_t n_threads) {
    /* A key on the edge between two f16 may be rounded to the other one. */
    bool f16 = strcmp(features, "reference") != 0;
    double tolerance = f16 ? 5e-4 : 2e-5;
    /* The same of two codes, which lie farther apart. */
    if (TEST_KV != LM_KV_F16) tolerance = TEST_KV == LM_KV_Q8_0 ? 2e-3 : 3e-2;
    bed b = {.sh = sh, .f16 = f16};
    lm_kv_shape kv = {2, sh->n_kv_heads, sh->head_dim};
    b.dev = open_device(features, n_threads, MAX_TOKENS, kv, 64 << 20);
    b.inv_freq = random_floats(sh->rope_dims / 2, 1);
    for (uint32_t i = 0; i < sh->rope_dims / 2; i++)
        b.inv_freq[i] = powf(10000, -2.0f * (float)i / (float)sh->rope_dims);
    b.rope = (lm_rope){sh->rope_dims, sh->interleaved, b.inv_freq, sh->mscale};
    b.sinks = random_floats(sh->n_heads, 3);
    b.q_norm = random_floats(sh->head_dim, 1);
    b.k_norm = random_floats(sh->head_dim, 1);
    b.v_sinks = open_vector(b.dev, b.sinks, sh->n_heads);
    b.v_q = open_vector(b.dev, b.q_norm, sh->head_dim);
    b.v_k = open_vector(b.dev, b.k_norm, sh->head_dim);
    for (uint32_t i = 0; i < MAX_SEQS; i++) {
        b.seqs[i].seq = open_seq(b.dev);
        b.seqs[i].k = test_malloc((size_t)MAX_TOKENS * sh->n_kv_heads * sh->head_dim * sizeof(double));
        b.seqs[i].v = test_malloc((size_t)MAX_TOKENS * sh->n_kv_heads * sh->head_dim * sizeof(double));
    }

    static const uint32_t steps[][MAX_SEQS] = {
        {1, 0, 0},   {1, 70, 0}, {63, 1, 1}, {130, 0, 64}, {1, 1, 1}, {7, 130, 0},
        {1, 150, 5}, {0, 1, 0},  {0, 1, 1},  {0, 64, 1},   {1, 1, 1},
    };
    static const uint32_t whole[MAX_SEQS] = {1, 64, 230};
    if (sh->both_ways) step(&b, whole, tolerance); /* a text is one slice of one step */
    for (size_t i = 0; i < sizeof steps / sizeof *steps && !sh->both_ways; i++) step(&b, steps[i], tolerance);

    for (uint32_t i = 0; i < MAX_SEQS; i++) {
        be->seq_close(b.seqs[i].seq);
        test_free(b.seqs[i].k);
        test_free(b.seqs[i].v);
    }
    be->vector_free(b.v_sinks);
    be->vector_free(b.v_q);
    be->vector_free(b.v_k);
    be->close(b.dev);
    test_free(b.inv_freq);
    test_free(b.sinks);
    test_free(b.q_norm);
    test_free(b.k_norm);
}

static void every_feature_set_attends_as_the_naive_formula(void **state) {
    (void)state;
    for (const char *const *f = test_features(); *f; f++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            if (TEST_KV == LM_KV_F16 || shapes[i].head_dim % 32 == 0) run_shape(*f, &shapes[i], 2);
}

static void one_thread_and_four_give_the_same(void **state) {
    (void)state;
    run_shape("reference", &shapes[0], 1);
    run_shape("reference", &shapes[4], 4);
}

#ifndef LM_TEST_BACKEND
/* ---- the same bits, however the rows came ---- */

enum { LONG = 530, LATE = 2 }; /* some segments of pages and a rest; the last rows, which are compared */

typedef struct rows {
    float *q, *k, *v; /* (LONG, width) */
} rows;

/* One step over slices of those rows of `r` that follow what each sequence has; the last row's result to
 * `last`. */
static void step_rows(lm_device *dev, const shape *sh, const rows *r, const lm_slice *slices,
                      uint32_t n_slices, float *last) {
    uint32_t q_width = sh->n_heads * sh->head_dim, kv_width = sh->n_kv_heads * sh->head_dim, n = 0;
    int32_t ids[LONG + 8];
    lm_err err = {0};
    for (uint32_t i = 0; i < n_slices; i++) {
        expect_ok(be->seq_reserve(slices[i].seq, slices[i].n_tokens, &err), err);
        for (uint32_t t = 0; t < slices[i].n_tokens; t++)
            ids[n++] = (int32_t)(be->seq_len(slices[i].seq) + t);
    }
    lm_matrix mq = f32_matrix(r->q, LONG, q_width), mk = f32_matrix(r->k, LONG, kv_width),
              mv = f32_matrix(r->v, LONG, kv_width);
    lm_linear *tq = open_linear(dev, &mq, NULL), *tk = open_linear(dev, &mk, NULL),
              *tv = open_linear(dev, &mv, NULL);
    lm_step *s = NULL;
    expect_ok(be->begin(dev, slices, n_slices, NULL, &s, &err), err);
    lm_attention a = {.n_heads = sh->n_heads,
                      .n_kv_heads = sh->n_kv_heads,
                      .head_dim = sh->head_dim,
                      .scale = 0.125f,
                      .window = sh->window,
                      .softcap = sh->softcap};
    const float *got = be->read(s, be->attention(s, &a, be->embed(s, tq, ids, n, 1),
                                                 be->embed(s, tk, ids, n, 1), be->embed(s, tv, ids, n, 1)));
    assert_non_null(got);
    memcpy(last, got + (size_t)(n - 1) * q_width, q_width * sizeof *last);
    expect_ok(be->end(s, false, &err), err);
    be->linear_free(tq);
    be->linear_free(tk);
    be->linear_free(tv);
}

/* A row of a long sequence: in the step of the whole prompt, after it alone, and beside others on more
 * threads. */
static void check_bits(const char *features, const shape *sh) {
    uint32_t q_width = sh->n_heads * sh->head_dim, kv_width = sh->n_kv_heads * sh->head_dim;
    rows r = {random_floats((size_t)LONG * q_width, 2), random_floats((size_t)LONG * kv_width, 2),
              random_floats((size_t)LONG * kv_width, 1)};
    lm_kv_shape kv = {1, sh->n_kv_heads, sh->head_dim};
    lm_device *one = open_device(features, 1, LONG + 8, kv, 64 << 20);
    lm_device *four = open_device(features, 4, LONG + 8, kv, 64 << 20);
    lm_seq *alone = open_seq(one), *among = open_seq(four), *other = open_seq(four);
    float *whole = random_floats(q_width, 1), *last = random_floats(q_width, 1);
    step_rows(one, sh, &r, &(lm_slice){alone, LONG - LATE}, 1, last);
    step_rows(four, sh, &r, &(lm_slice){among, 300}, 1, last);
    step_rows(four, sh, &r, &(lm_slice){other, 70}, 1, last);
    step_rows(four, sh, &r, (lm_slice[]){{other, 3}, {among, LONG - LATE - 300}}, 2, last);
    for (uint32_t i = 0; i < LATE; i++) {
        lm_seq *fresh = open_seq(four);
        step_rows(four, sh, &r, &(lm_slice){fresh, LONG - LATE + i + 1}, 1, whole);
        be->seq_close(fresh);
        step_rows(one, sh, &r, &(lm_slice){alone, 1}, 1, last);
        assert_memory_equal(last, whole, q_width * sizeof *last);
        /* Every other time without company, so that its pages are dealt out. */
        lm_slice slices[] = {{other, 1}, {among, 1}};
        step_rows(four, sh, &r, slices + i % 2, 2 - i % 2, last);
        assert_memory_equal(last, whole, q_width * sizeof *last);
    }
    be->seq_close(alone);
    be->seq_close(among);
    be->seq_close(other);
    be->close(one);
    be->close(four);
    test_free(r.q), test_free(r.k), test_free(r.v), test_free(whole), test_free(last);
}

static void a_row_gets_the_same_bits_however_it_came(void **state) {
    (void)state;
    /* The best set's attention is that of the others that need intrinsics. */
    const char *const sets[] = {test_features()[0], "portable", "reference"};
#if defined(__x86_64__)
    const size_t n_sets = 3;
#else
    const size_t n_sets = 1; /* emulated, plain C takes minutes, and it is the same everywhere */
#endif
    for (size_t f = 0; f < n_sets; f++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i += 3) check_bits(sets[f], &shapes[i]);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_feature_set_attends_as_the_naive_formula),
        cmocka_unit_test(one_thread_and_four_give_the_same),
#ifndef LM_TEST_BACKEND
        cmocka_unit_test(a_row_gets_the_same_bits_however_it_came),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
