/* The ops around attention, every feature set against a naive formula in double precision, and that what is
 * cached with an activation (its prepared forms) never outlives its numbers. */
#include "support.h"

static const lm_kv_shape kv_shape = {1, 1, 8};

#define WIDTH   64
#define INTER   96
#define EXPERTS 5
#define ROWS    130

typedef struct bed {
    lm_device *dev;
    lm_seq *seq;
    lm_linear *table;
    float *x; /* (ROWS, WIDTH): what the table embeds */
} bed;

static bed open_bed(const char *features) {
    bed b = {.dev = open_device(features, 2, ROWS, kv_shape, 1 << 22)};
    b.x = random_floats(ROWS * WIDTH, 1);
    lm_matrix m = f32_matrix(b.x, ROWS, WIDTH);
    b.table = open_linear(b.dev, &m, NULL);
    b.seq = open_seq(b.dev);
    return b;
}

static void close_bed(bed *b) {
    be->seq_close(b->seq);
    be->linear_free(b->table);
    be->close(b->dev);
    test_free(b->x);
}

static lm_step *begin(bed *b, uint32_t n, lm_tensor **x) {
    lm_err err = {0};
    lm_step *s = NULL;
    expect_ok(be->seq_reserve(b->seq, n, &err), err);
    lm_slice slice = {b->seq, n};
    expect_ok(be->begin(b->dev, &slice, 1, NULL, &s, &err), err);
    int32_t ids[ROWS];
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)i;
    *x = be->embed(s, b->table, ids, n, 1);
    return s;
}

static const float *must_read(lm_step *s, const lm_tensor *t) {
    const float *y = be->read(s, t);
    if (!y) {
        lm_err err = {0};
        expect_ok(be->end(s, true, &err), err);
    }
    return y;
}

static void end(lm_step *s) {
    lm_err err = {0};
    expect_ok(be->end(s, true, &err), err);
}

static double dot(const float *x, const float *w, const float *bias, uint32_t n, uint32_t row) {
    double sum = bias ? (double)bias[row] : 0;
    for (uint32_t i = 0; i < n; i++) sum += (double)x[i] * w[(size_t)row * n + i];
    return sum;
}

static double silu(double x) {
    return x / (1 + exp(-x));
}

/* act(gate) * up, then down, one row in double; hidden rounded to f32 as the ops hand it on. */
typedef struct expert {
    const float *gate, *up, *down, *gate_bias, *down_bias;
} expert;

static void naive_mlp(const expert *e, const float *x, double *out) {
    float hidden[INTER];
    for (uint32_t i = 0; i < INTER; i++)
        hidden[i] = (float)(silu(dot(x, e->gate, e->gate_bias, WIDTH, i)) * dot(x, e->up, NULL, WIDTH, i));
    for (uint32_t i = 0; i < WIDTH; i++) out[i] = dot(hidden, e->down, e->down_bias, INTER, i);
}

static void linears_share_an_input_and_add_their_bias(void **state) {
    (void)state;
    float *w0 = random_floats(50 * WIDTH, 1), *w1 = random_floats(17 * WIDTH, 1),
          *bias = random_floats(50, 3);
    for (const char *const *f = test_features(); *f; f++) {
        static const uint32_t counts[] = {1, 2, 9, ROWS};
        bed b = open_bed(*f);
        lm_matrix m0 = f32_matrix(w0, 50, WIDTH), m1 = f32_matrix(w1, 17, WIDTH);
        const lm_linear *w[2] = {open_linear(b.dev, &m0, bias), open_linear(b.dev, &m1, NULL)};
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            lm_tensor *x, *y[2];
            lm_step *s = begin(&b, counts[c], &x);
            be->linears(s, x, w, 2, y);
            const float *y0 = must_read(s, y[0]), *y1 = must_read(s, y[1]);
            for (uint32_t r = 0; r < counts[c]; r++) {
                for (uint32_t i = 0; i < 50; i++)
                    assert_close(y0[r * 50 + i], dot(b.x + r * WIDTH, w0, bias, WIDTH, i), 1e-4, *f, i);
                for (uint32_t i = 0; i < 17; i++)
                    assert_close(y1[r * 17 + i], dot(b.x + r * WIDTH, w1, NULL, WIDTH, i), 1e-4, *f, i);
            }
            end(s);
        }
        for (int i = 0; i < 2; i++) {
            lm_linear *mine;
            memcpy(&mine, &w[i], sizeof mine);
            be->linear_free(mine);
        }
        close_bed(&b);
    }
    test_free(w0);
    test_free(w1);
    test_free(bias);
}

/* gate and up apart, and as one weight. */
static void mlp_is_the_formula_apart_and_fused(void **state) {
    (void)state;
    float *both = random_floats(2 * INTER * WIDTH, 0.3f), *down = random_floats(INTER * WIDTH, 0.3f);
    for (const char *const *f = test_features(); *f; f++) {
        bed b = open_bed(*f);
        lm_matrix mg = f32_matrix(both, INTER, WIDTH), mu = f32_matrix(both + INTER * WIDTH, INTER, WIDTH),
                  mf = f32_matrix(both, 2 * INTER, WIDTH), md = f32_matrix(down, WIDTH, INTER);
        lm_linear *g = open_linear(b.dev, &mg, NULL), *u = open_linear(b.dev, &mu, NULL),
                  *fu = open_linear(b.dev, &mf, NULL), *d = open_linear(b.dev, &md, NULL);
        lm_mlp apart = {.gate = g, .up = u, .down = d, .act = LM_GLU_SILU},
               fused = {.fused = fu, .down = d, .act = LM_GLU_SILU};
        expert e = {both, both + INTER * WIDTH, down, NULL, NULL};
        static const uint32_t counts[] = {1, 3, ROWS};
        for (size_t c = 0; c < 3; c++) {
            lm_tensor *x;
            lm_step *s = begin(&b, counts[c], &x);
            const float *y0 = must_read(s, be->mlp(s, x, &apart)), *y1 = must_read(s, be->mlp(s, x, &fused));
            for (uint32_t r = 0; r < counts[c]; r++) {
                double want[WIDTH];
                naive_mlp(&e, b.x + r * WIDTH, want);
                for (uint32_t i = 0; i < WIDTH; i++) {
                    assert_close(y0[r * WIDTH + i], want[i], 1e-4, *f, i);
                    assert_close(y1[r * WIDTH + i], want[i], 1e-4, *f, i);
                }
            }
            end(s);
        }
        be->linear_free(g);
        be->linear_free(u);
        be->linear_free(fu);
        be->linear_free(d);
        close_bed(&b);
    }
    test_free(both);
    test_free(down);
}

typedef struct mixture {
    float *router, *gate, *up, *down, *gate_bias, *down_bias;
    lm_linear *l_router, *l_gate, *l_up, *l_down;
} mixture;

static void naive_moe(const mixture *m, const lm_moe *moe, const float *x, double *out) {
    double logits[EXPERTS], all = 0, chosen = 0;
    bool taken[EXPERTS] = {false};
    for (uint32_t e = 0; e < EXPERTS; e++) all += exp(logits[e] = dot(x, m->router, NULL, WIDTH, e));
    for (uint32_t i = 0; i < WIDTH; i++) out[i] = 0;
    for (int pass = 0; pass < 2; pass++) { /* first the sum of the chosen, then their parts */
        memset(taken, 0, sizeof taken);
        for (uint32_t k = 0; k < moe->top_k; k++) {
            uint32_t best = EXPERTS;
            for (uint32_t e = 0; e < EXPERTS; e++)
                if (!taken[e] && (best == EXPERTS || logits[e] > logits[best])) best = e;
            taken[best] = true;
            if (pass == 0) {
                chosen += exp(logits[best]);
                continue;
            }
            double part[WIDTH],
                weight = exp(logits[best]) / (moe->softmax_first && !moe->renorm ? all : chosen);
            expert e = {m->gate + (size_t)best * INTER * WIDTH, m->up + (size_t)best * INTER * WIDTH,
                        m->down + (size_t)best * INTER * WIDTH, m->gate_bias + best * INTER,
                        m->down_bias + best * WIDTH};
            naive_mlp(&e, x, part);
            for (uint32_t i = 0; i < WIDTH; i++) out[i] += weight * part[i];
        }
    }
}

static lm_linear *open_stack(lm_device *dev, const float *data, uint32_t rows, uint32_t cols,
                             const float *bias) {
    lm_matrix m = f32_matrix(data, rows, cols);
    m.n_experts = EXPERTS;
    return open_linear(dev, &m, bias);
}

static void moe_mixes_the_best_experts(void **state) {
    (void)state;
    mixture m = {.router = random_floats(EXPERTS * WIDTH, 1),
                 .gate = random_floats(EXPERTS * INTER * WIDTH, 0.3f),
                 .up = random_floats(EXPERTS * INTER * WIDTH, 0.3f),
                 .down = random_floats(EXPERTS * INTER * WIDTH, 0.3f),
                 .gate_bias = random_floats(EXPERTS * INTER, 1),
                 .down_bias = random_floats(EXPERTS * WIDTH, 1)};
    for (const char *const *f = test_features(); *f; f++) {
        bed b = open_bed(*f);
        lm_matrix mr = f32_matrix(m.router, EXPERTS, WIDTH);
        m.l_router = open_linear(b.dev, &mr, NULL);
        m.l_gate = open_stack(b.dev, m.gate, INTER, WIDTH, m.gate_bias);
        m.l_up = open_stack(b.dev, m.up, INTER, WIDTH, NULL);
        m.l_down = open_stack(b.dev, m.down, WIDTH, INTER, m.down_bias);
        for (int form = 0; form < 3; form++) {
            lm_moe moe = {.router = m.l_router,
                          .experts = {.gate = m.l_gate, .up = m.l_up, .down = m.l_down, .act = LM_GLU_SILU},
                          .n_experts = EXPERTS,
                          .top_k = form + 1,
                          .softmax_first = form > 0,
                          .renorm = form == 2};
            static const uint32_t counts[] = {1, 4, ROWS};
            for (size_t c = 0; c < 3; c++) {
                lm_tensor *x;
                lm_step *s = begin(&b, counts[c], &x);
                const float *y = must_read(s, be->moe(s, x, &moe));
                for (uint32_t r = 0; r < counts[c]; r++) {
                    double want[WIDTH];
                    naive_moe(&m, &moe, b.x + r * WIDTH, want);
                    for (uint32_t i = 0; i < WIDTH; i++) assert_close(y[r * WIDTH + i], want[i], 1e-4, *f, i);
                }
                end(s);
            }
        }
        be->linear_free(m.l_router);
        be->linear_free(m.l_gate);
        be->linear_free(m.l_up);
        be->linear_free(m.l_down);
        close_bed(&b);
    }
    float *all[] = {m.router, m.gate, m.up, m.down, m.gate_bias, m.down_bias};
    for (size_t i = 0; i < 6; i++) test_free(all[i]);
}

#ifndef LM_TEST_BACKEND /* nothing is prepared there, and nothing changes in place */
static void a_changed_activation_is_prepared_again(void **state) {
    (void)state;
    float *w = random_floats(32 * WIDTH, 1);
    for (const char *const *f = test_features(); *f; f++) {
        bed b = open_bed(*f);
        lm_matrix m = f32_matrix(w, 32, 32);
        lm_linear *lin = open_linear(b.dev, &m, NULL);
        const lm_linear *list[1] = {lin};
        lm_tensor *x, *y;
        lm_step *s = begin(&b, 5, &x);
        lm_tensor *left = be->columns(s, x, 0, 32), *right = be->columns(s, x, 32, 32);
        for (int pass = 0; pass < 3; pass++) {
            /* pass 1: x doubled through its own handle, pass 2: what stays after keep */
            if (pass == 1) be->scale(s, x, 2, 0);
            if (pass == 2) {
                x = be->keep(s, x);
                be->add(s, x, x, 1);
                left = be->columns(s, x, 0, 32);
                right = be->columns(s, x, 32, 32);
            }
            double factor = 1 << pass;
            for (int side = 0; side < 2; side++) {
                be->linears(s, side ? right : left, list, 1, &y);
                const float *got = must_read(s, y);
                for (uint32_t r = 0; r < 5; r++)
                    for (uint32_t i = 0; i < 32; i++)
                        assert_close(got[r * 32 + i],
                                     factor * dot(b.x + r * WIDTH + 32 * side, w, NULL, 32, i), 1e-3, *f, i);
            }
        }
        end(s);
        be->linear_free(lin);
        close_bed(&b);
    }
    test_free(w);
}

#endif

static void an_mlp_without_a_gate_is_its_activation_alone(void **state) {
    (void)state;
    float *up = random_floats(INTER * WIDTH, 0.3f), *down = random_floats(INTER * WIDTH, 0.3f),
          *bias = random_floats(INTER, 1);
    for (const char *const *f = test_features(); *f; f++) {
        bed b = open_bed(*f);
        lm_matrix mu = f32_matrix(up, INTER, WIDTH), md = f32_matrix(down, WIDTH, INTER);
        lm_linear *u = open_linear(b.dev, &mu, bias), *d = open_linear(b.dev, &md, NULL);
        lm_mlp m = {.up = u, .down = d, .act = LM_GLU_GELU};
        lm_tensor *x;
        lm_step *s = begin(&b, ROWS, &x);
        const float *y = must_read(s, be->mlp(s, x, &m));
        for (uint32_t r = 0; r < ROWS; r++) {
            float hidden[INTER];
            for (uint32_t i = 0; i < INTER; i++) {
                double h = dot(b.x + r * WIDTH, up, bias, WIDTH, i);
                hidden[i] = (float)(0.5 * h * (1 + erf(h / sqrt(2))));
            }
            for (uint32_t i = 0; i < WIDTH; i++)
                assert_close(y[r * WIDTH + i], dot(hidden, down, NULL, INTER, i), 1e-4, *f, i);
        }
        end(s);
        be->linear_free(u);
        be->linear_free(d);
        close_bed(&b);
    }
    test_free(up);
    test_free(down);
    test_free(bias);
}

static void layer_norm_takes_the_mean_away(void **state) {
    (void)state;
    float *weight = random_floats(WIDTH, 1), *bias = random_floats(WIDTH, 1);
    for (const char *const *f = test_features(); *f; f++) {
        bed b = open_bed(*f);
        lm_vector *w = open_vector(b.dev, weight, WIDTH), *v = open_vector(b.dev, bias, WIDTH);
        lm_tensor *x;
        lm_step *s = begin(&b, ROWS, &x);
        const float *y = must_read(s, be->layer_norm(s, x, w, v, 1e-5f));
        for (uint32_t r = 0; r < ROWS; r++) {
            const float *row = b.x + r * WIDTH;
            double mean = 0, square = 0;
            for (uint32_t i = 0; i < WIDTH; i++) mean += (double)row[i] / WIDTH;
            for (uint32_t i = 0; i < WIDTH; i++)
                square += ((double)row[i] - mean) * ((double)row[i] - mean) / WIDTH;
            for (uint32_t i = 0; i < WIDTH; i++)
                assert_close(y[r * WIDTH + i],
                             ((double)row[i] - mean) / sqrt(square + 1e-5) * (double)weight[i] +
                                 (double)bias[i],
                             1e-5, *f, i);
        }
        end(s);
        be->vector_free(w);
        be->vector_free(v);
        close_bed(&b);
    }
    test_free(weight);
    test_free(bias);
}

static void plain_ops_do_what_they_say(void **state) {
    (void)state;
    float *weight = random_floats(WIDTH, 1);
    for (const char *const *f = test_features(); *f; f++) {
        bed b = open_bed(*f);
        lm_vector *v = open_vector(b.dev, weight, WIDTH);
        lm_tensor *x;
        lm_step *s = begin(&b, ROWS, &x);
        const uint32_t index[3] = {129, 0, 77};
        const float *normed = must_read(s, be->rms_norm(s, x, v, 1e-5f));
        const float *picked = must_read(s, be->rows(s, be->columns(s, x, 10, 20), index, 3));
        const float *cut = must_read(s, be->columns(s, x, 10, 20));
        for (uint32_t r = 0; r < ROWS; r++) {
            double sum = 0;
            for (uint32_t i = 0; i < WIDTH; i++) sum += (double)b.x[r * WIDTH + i] * b.x[r * WIDTH + i];
            for (uint32_t i = 0; i < WIDTH; i++)
                assert_close(normed[r * WIDTH + i], b.x[r * WIDTH + i] / sqrt(sum / WIDTH + 1e-5) * weight[i],
                             1e-5, *f, i);
            for (uint32_t i = 0; i < 20; i++) assert_true(cut[r * 20 + i] == b.x[r * WIDTH + 10 + i]);
        }
        for (uint32_t r = 0; r < 3; r++)
            for (uint32_t i = 0; i < 20; i++)
                assert_true(picked[r * 20 + i] == b.x[index[r] * WIDTH + 10 + i]);
        lm_tensor *capped = be->scale(s, be->rms_norm(s, x, NULL, 0), 3, 2);
        const float *y = must_read(s, capped);
        for (uint32_t i = 0; i < ROWS * WIDTH; i++) assert_true(fabsf(y[i]) <= 2);
        end(s);
        be->vector_free(v);
        close_bed(&b);
    }
    test_free(weight);
}

static void mistakes_of_a_graph_fail_the_step(void **state) {
    (void)state;
    bed b = open_bed("reference");
    float *w = random_floats(32 * 32, 1);
    lm_matrix m = f32_matrix(w, 32, 32);
    lm_linear *lin = open_linear(b.dev, &m, NULL);
    const lm_linear *list[1] = {lin};
    lm_err err = {0};
    lm_tensor *x, *y;
    lm_step *s = begin(&b, 2, &x);
    be->linears(s, x, list, 1, &y);
    assert_null(y);
    expect_fail(be->end(s, false, &err), LM_INTERNAL, err,
#ifdef LM_TEST_BACKEND
                "shape"); /* the library's own text */
#else
                "32 columns times rows of 64");
#endif
    s = begin(&b, 2, &x);
    assert_null(be->columns(s, x, 60, 10));
    expect_fail(be->end(s, false, &err), LM_INTERNAL, err, "columns");
    assert_int_equal(be->seq_len(b.seq), 0);
    be->linear_free(lin);
    close_bed(&b);
    test_free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linears_share_an_input_and_add_their_bias),
        cmocka_unit_test(mlp_is_the_formula_apart_and_fused),
        cmocka_unit_test(an_mlp_without_a_gate_is_its_activation_alone),
        cmocka_unit_test(layer_norm_takes_the_mean_away),
        cmocka_unit_test(moe_mixes_the_best_experts),
#ifndef LM_TEST_BACKEND
        cmocka_unit_test(a_changed_activation_is_prepared_again),
#endif
        cmocka_unit_test(plain_ops_do_what_they_say),
        cmocka_unit_test(mistakes_of_a_graph_fail_the_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
