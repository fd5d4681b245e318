/* The MLX backend over the tiny models of every family: held against the CPU's exact set row by row, with
 * keys and values in 8 and 4 bits, and that what a model took is given back. Against mlx-lm it is held by
 * golden.mlx. */
#include "cpu/cpu.h"
#include "mlx/backend.h"
#include "model_golden.h"

#define SAME 1e-4 /* f32 sums in another order, of the largest logit */

/* Keys and values in fewer bits: root mean square of the difference over that of the logits, of each model,
 * and which share of all greedy tokens stays the same. Attention over random weights is sharp, so that a
 * rounded key moves it far more than in a trained model. */
static const struct {
    lm_kv_type type;
    double off, moe_off; /* a router may choose another expert */
    double same;
} quantised[] = {{LM_KV_Q8_0, 0.06, 0.2, 0.95}, {LM_KV_Q4_0, 0.8, 1.1, 0.5}};

static const lm_backend *mlx_backend(void) {
    const lm_backend *mlx = NULL;
    lm_err err = {0};
    expect_ok(lm_mlx_load(LM_MLX_CPU, &mlx, &err), err);
    return mlx;
}

static void close_all(lm_model *m, lm_seq *const *seqs, int n) {
    for (int i = 0; i < n; i++) lm_model_backend(m)->seq_close(seqs[i]);
    lm_model_close(m);
}

/* ---- against the CPU */

/* The prompt in two steps, then greedy tokens; after each step all its rows are compared. */
static int check_against_cpu(const golden *g, double *most) {
    lm_model *ours = open_case_on(&lm_cpu_backend, g, "reference", 2, LM_KV_F16);
    lm_model *mlx = open_case_on(mlx_backend(), g, NULL, 2, LM_KV_F16);
    lm_seq *a = open_seq(ours), *b = open_seq(mlx);
    int32_t token = 0;
    int bad = 0;
    double off = 0;
    for (uint32_t at = 0, n; at < PROMPT + GREEDY && !bad; at += n) {
        n = at == 0 ? 23 : at < PROMPT ? PROMPT - 23 : 1;
        uint32_t rows[PROMPT];
        for (uint32_t i = 0; i < n; i++) rows[i] = i;
        const int32_t *ids = at < PROMPT ? g->tokens + at : &token;
        const float *want = step(ours, &(lm_slice){a, n}, 1, ids, rows, n);
        const float *got = step(mlx, &(lm_slice){b, n}, 1, ids, rows, n);
        for (uint32_t i = 0; i < n; i++)
            off = fmax(off, distance(g, got + (size_t)i * g->n_vocab, want + (size_t)i * g->n_vocab));
        const size_t last = (size_t)(n - 1) * g->n_vocab;
        token = best(want + last, g->n_vocab);
        if (token != best(got + last, g->n_vocab)) {
            print_error("%s: after %u tokens MLX chooses %d, the CPU %d\n", g->name, at + n,
                        best(got + last, g->n_vocab), token);
            bad = 1;
        }
    }
    if (off > SAME) {
        print_error("%s: logits are off by %.2e\n", g->name, off);
        bad = 1;
    }
    *most = fmax(*most, off);
    close_all(ours, &a, 1);
    close_all(mlx, &b, 1);
    return bad;
}

static void every_family_and_form_computes_what_the_cpu_does(void **state) {
    (void)state;
    lm_weights *w = expectations();
    golden g;
    int bad = 0, n = 0;
    double most = 0;
    for (uint32_t i = 0; next_case(w, &i, &g); n++) bad += check_against_cpu(&g, &most);
    lm_weights_close(w);
    print_message("%d models, logits within %.1e\n", n, most);
    assert_true(n >= 50);
    assert_int_equal(bad, 0);
}

/* ---- keys and values in fewer bits */

/* Logits after the prompt and after each of its known continuation's tokens: (GREEDY, n_vocab). The prompt
 * comes in one step (way 0), in small ones beside another sequence (1), or is trimmed and forked on the way
 * (2). */
static void continuation(lm_model *m, const golden *g, int way, float *out) {
    const lm_backend *b = lm_model_backend(m);
    lm_seq *seq = open_seq(m), *other = open_seq(m);
    lm_err err = {0};
    uint32_t at = 0, n, row;
    const float *logits = NULL;
    if (way == 2) { /* half of it, something else, back again, and on in a copy */
        step(m, &(lm_slice){seq, MIDDLE}, 1, g->tokens, NULL, 0);
        step(m, &(lm_slice){seq, 9}, 1, g->tokens, NULL, 0);
        b->seq_trim(seq, MIDDLE - 3);
        lm_seq *fork = NULL;
        expect_ok(b->seq_fork(seq, MIDDLE - 5, &fork, &err), err);
        step(m, &(lm_slice){seq, 7}, 1, g->tokens, NULL, 0); /* what the fork must not see */
        b->seq_close(seq);
        seq = fork;
        at = MIDDLE - 5;
    }
    for (; at < PROMPT; at += n) {
        n = way == 0 ? PROMPT : PROMPT - at < 5 ? PROMPT - at : 5;
        lm_slice slices[] = {{seq, n}, {other, 2}};
        int32_t ids[PROMPT + 2] = {0};
        memcpy(ids, g->tokens + at, n * sizeof *ids);
        row = n - 1;
        logits = step(m, slices, way == 1 ? 2 : 1, ids, &row, 1);
    }
    row = 0;
    for (uint32_t i = 0;; i++) {
        memcpy(out + (size_t)i * g->n_vocab, logits, g->n_vocab * sizeof *out);
        if (i + 1 == GREEDY) break;
        logits = step(m, &(lm_slice){seq, 1}, 1, g->tokens + PROMPT + i, &row, 1);
    }
    b->seq_close(seq);
    b->seq_close(other);
}

typedef struct tally {
    int n, n_bad, n_tokens, n_same;
    double most;
} tally;

static void check_quantised(const golden *g, size_t q, tally *t) {
    lm_kv_type type = quantised[q].type;
    lm_model *plain = open_case_on(mlx_backend(), g, NULL, 1, LM_KV_F16);
    if (lm_model_get_info(plain)->head_dim % 32) { /* no group of MLX's: backend_test has the error */
        lm_model_close(plain);
        return;
    }
    double allowed = is_moe(plain) ? quantised[q].moe_off : quantised[q].off;
    lm_model *few = open_case_on(mlx_backend(), g, NULL, 1, type);
    float *want = test_malloc((size_t)GREEDY * g->n_vocab * sizeof *want);
    float *got = test_malloc((size_t)GREEDY * g->n_vocab * sizeof *got);
    continuation(plain, g, 0, want);
    for (int way = 0; way < 3; way++) {
        double off = 0;
        continuation(few, g, way, got);
        for (uint32_t i = 0; i < GREEDY; i++) {
            const float *x = got + (size_t)i * g->n_vocab, *y = want + (size_t)i * g->n_vocab;
            off += distance_rms(g, x, y) / GREEDY;
            t->n_tokens++;
            t->n_same += best(x, g->n_vocab) == g->tokens[PROMPT + i];
        }
        t->most = fmax(t->most, off);
        if (off > allowed) {
            print_error("%s with %s, way %d: logits are off by %.3f, %.3f is allowed\n", g->name,
                        lm_kv_type_name(type), way, off, allowed);
            t->n_bad++;
        }
    }
    t->n++;
    test_free(want);
    test_free(got);
    lm_model_close(plain);
    lm_model_close(few);
}

static void fewer_bits_of_keys_and_values_stay_close(void **state) {
    (void)state;
    for (size_t q = 0; q < sizeof quantised / sizeof *quantised; q++) {
        lm_weights *w = expectations();
        golden g;
        tally t = {0};
        for (uint32_t i = 0; next_case(w, &i, &g);) check_quantised(&g, q, &t);
        lm_weights_close(w);
        print_message("%s: %d models, off by %.3f at most, %d of %d greedy tokens the same\n",
                      lm_kv_type_name(quantised[q].type), t.n, t.most, t.n_same, t.n_tokens);
        assert_true(t.n >= 30);
        assert_int_equal(t.n_bad, 0);
        assert_true(t.n_same >= quantised[q].same * t.n_tokens);
    }
}

/* ---- memory */

static uint64_t held_by_mlx(lm_memory *m) {
    const lm_backend *mlx = mlx_backend();
    lm_device *dev = NULL;
    lm_err err = {0};
    lm_device_config config = {.kv_bytes = 1 << 20, .max_batch = 1, .kv = {1, 1, 32}};
    expect_ok(mlx->open(&dev, &config, &err), err);
    mlx->memory(dev, m);
    mlx->close(dev);
    return m->active + m->cache;
}

static void a_closed_model_gives_its_memory_back(void **state) {
    (void)state;
    static const char *const names[] = {"llama-bf16", "gemma3-q4", "gpt-oss-mxfp4"};
    lm_weights *w = expectations();
    lm_memory m;
    uint64_t first = 0;
    for (int round = 0; round < 11; round++) {
        golden g;
        for (uint32_t i = 0; next_case(w, &i, &g);) {
            bool wanted = false;
            for (size_t k = 0; k < sizeof names / sizeof *names; k++) wanted |= !strcmp(names[k], g.name);
            if (!wanted) continue;
            lm_model *model = open_case_on(mlx_backend(), &g, NULL, 1, (lm_kv_type)(round % LM_KV_TYPES));
            lm_memory open;
            lm_model_backend(model)->memory(lm_model_device(model), &open);
            assert_true(open.active + open.cache > first); /* there is something to give back */
            float *out = test_malloc((size_t)GREEDY * g.n_vocab * sizeof *out);
            continuation(model, &g, 2, out);
            test_free(out);
            lm_model_close(model);
        }
        uint64_t now = held_by_mlx(&m);
        if (!round) first = now; /* what is compiled and kept once */
        if (now > first + 200000)
            fail_msg("round %d: %llu bytes, %llu after the first", round, (unsigned long long)now,
                     (unsigned long long)first);
    }
    assert_in_range(first, 0, 300000);
    assert_int_equal(m.cache, 0);
    assert_true(m.peak > first);
    lm_weights_close(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_family_and_form_computes_what_the_cpu_does),
        cmocka_unit_test(fewer_bits_of_keys_and_values_stay_close),
        cmocka_unit_test(a_closed_model_gives_its_memory_back),
    };
    return cmocka_run_group_tests_name("golden models over MLX", tests, NULL, NULL);
}
