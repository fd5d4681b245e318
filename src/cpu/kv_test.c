/* Sequences: what they share, what they copy, and that nothing of a failed step stays. The numbers in the
 * pages are seen through attention: an all-zero query gives every visible token the same weight, so the
 * output is the mean of the values. */
#include "support.h"

#define N_TOKENS 400

#ifdef LM_TEST_KV
enum { HEAD = 32 }; /* what a group of codes divides; equal numbers are exact in every form */
#else
enum { HEAD = 16 };
#endif
static const lm_kv_shape kv_shape = {3, 2, HEAD};

typedef struct bed {
    lm_device *dev;
    float *values, *zeros;
    lm_linear *table, *zero_table;
} bed;

#define WIDTH (2 * HEAD) /* n_kv_heads * head_dim, and of q */

static uint64_t page_bytes(uint32_t n) {
    uint64_t bytes = (uint64_t)3 * 2 * 2 * 64 * HEAD * 4; /* the reference's f32 */
    return n * ((bytes + 4095) / 4096 * 4096);
}

static bed open_bed(uint32_t n_pages) {
    bed b = {.dev = open_device("reference", 2, 256, kv_shape, page_bytes(n_pages))};
    b.values = test_malloc(N_TOKENS * WIDTH * sizeof(float));
    b.zeros = test_calloc(N_TOKENS * WIDTH, sizeof(float));
    for (uint32_t i = 0; i < N_TOKENS * WIDTH; i++) b.values[i] = (float)(i / WIDTH);
    lm_matrix m = f32_matrix(b.values, N_TOKENS, WIDTH), z = f32_matrix(b.zeros, N_TOKENS, WIDTH);
    b.table = open_linear(b.dev, &m, NULL);
    b.zero_table = open_linear(b.dev, &z, NULL);
    return b;
}

static void close_bed(bed *b) {
    lm_memory memory;
    be->memory(b->dev, &memory);
    assert_int_equal(memory.kv, 0); /* every page is back */
    be->linear_free(b->table);
    be->linear_free(b->zero_table);
    be->memory(b->dev, &memory);
    assert_int_equal(memory.weights, 0);
    be->close(b->dev);
    test_free(b->values);
    test_free(b->zeros);
}

/* Appends n tokens whose values are first, first + 1, ...; returns the mean that the last one sees in
 * layer 2. */
static float append(bed *b, lm_seq *seq, uint32_t first, uint32_t n, bool abandon) {
    lm_err err = {0};
    expect_ok(be->seq_reserve(seq, n, &err), err);
    lm_slice slice = {seq, n};
    lm_step *s = NULL;
    expect_ok(be->begin(b->dev, &slice, 1, NULL, &s, &err), err);
    int32_t ids[N_TOKENS];
    for (uint32_t i = 0; i < n; i++) ids[i] = (int32_t)(first + i);
    lm_tensor *out = NULL;
    for (uint32_t layer = 0; layer < 3; layer++) {
        lm_attention a = {.layer = layer, .n_heads = 2, .n_kv_heads = 2, .head_dim = HEAD, .scale = 0.25f};
        lm_tensor *q = be->embed(s, b->zero_table, ids, n, 1), *k = be->embed(s, b->table, ids, n, 1);
        out = be->attention(s, &a, q, k, be->embed(s, b->table, ids, n, 1));
    }
    const float *y = be->read(s, out);
    assert_non_null(y);
    float mean = y[(size_t)(n - 1) * WIDTH];
    for (uint32_t i = 1; i < WIDTH; i++)
        assert_close(y[(size_t)(n - 1) * WIDTH + i], (double)mean, 1e-3, "mean", i);
    expect_ok(be->end(s, abandon, &err), err);
    return mean;
}

static void expect_mean(float got, double want) {
    assert_close(got, want, 1e-3, "mean", 0);
}

#ifndef LM_TEST_BACKEND /* counts pages */
static void a_fork_shares_the_past_and_not_the_future(void **state) {
    (void)state;
    bed b = open_bed(16);
    lm_err err = {0};
    lm_seq *a = open_seq(b.dev), *fork = NULL;
    expect_mean(append(&b, a, 0, 100, false), 49.5);
    expect_ok(be->seq_fork(a, 70, &fork, &err), err);
    assert_int_equal(be->seq_len(fork), 70);
    lm_memory memory;
    be->memory(b.dev, &memory);
    assert_int_equal(memory.kv, page_bytes(3)); /* one shared, one each */

    expect_mean(append(&b, fork, 300, 1, false), (69 * 35 + 300) / 71.0);
    expect_mean(append(&b, a, 200, 1, false), (99 * 50 + 200) / 101.0);
    expect_mean(append(&b, fork, 300, 1, false), (69 * 35 + 600) / 72.0);
    be->seq_close(a);
    expect_mean(append(&b, fork, 0, 100, false), (69 * 35 + 600 + 99 * 50) / 172.0);
    be->seq_close(fork);
    be->seq_close(NULL);
    close_bed(&b);
}

#endif

static void writing_after_a_trim_into_a_shared_page_copies_it(void **state) {
    (void)state;
    bed b = open_bed(16);
    lm_err err = {0};
    lm_seq *a = open_seq(b.dev), *fork = NULL;
    append(&b, a, 0, 128, false);
    expect_ok(be->seq_fork(a, 128, &fork, &err), err);
    be->seq_trim(a, 100);
    assert_int_equal(be->seq_len(a), 100);
    be->seq_trim(a, 500); /* longer than it is: nothing */
    assert_int_equal(be->seq_len(a), 100);
    expect_mean(append(&b, a, 399, 1, false), (99 * 50 + 399) / 101.0);
    expect_mean(append(&b, fork, 128, 1, false), 64);
    be->seq_close(a);
    be->seq_close(fork);
    close_bed(&b);
}

static void an_abandoned_step_leaves_the_sequence_as_it_was(void **state) {
    (void)state;
    bed b = open_bed(16);
    lm_seq *a = open_seq(b.dev);
    append(&b, a, 0, 60, false);
    append(&b, a, 300, 50, true);
    assert_int_equal(be->seq_len(a), 60);
    expect_mean(append(&b, a, 60, 1, false), 30);
    be->seq_trim(a, 0);
    expect_mean(append(&b, a, 7, 1, false), 7);
    be->seq_close(a);
    close_bed(&b);
}

static void a_failed_step_says_why_and_changes_nothing(void **state) {
    (void)state;
    bed b = open_bed(16);
    lm_err err = {0};
    lm_seq *a = open_seq(b.dev);
    append(&b, a, 0, 10, false);
    expect_ok(be->seq_reserve(a, 1, &err), err);
    lm_slice slice = {a, 1};
    lm_step *s = NULL;
    expect_ok(be->begin(b.dev, &slice, 1, NULL, &s, &err), err);
    int32_t id = N_TOKENS;
    lm_tensor *x = be->embed(s, b.table, &id, 1, 1);
    x = be->rms_norm(s, x, NULL, 1e-5f); /* does nothing any more */
    assert_null(be->read(s, be->keep(s, x)));
    expect_fail(be->end(s, false, &err), LM_INVALID, err, "token 400");
    assert_int_equal(be->seq_len(a), 10);
    expect_mean(append(&b, a, 10, 1, false), 5);
    be->seq_close(a);
    close_bed(&b);
}

#ifndef LM_TEST_BACKEND
static void a_full_cache_is_busy_until_a_page_is_free(void **state) {
    (void)state;
    bed b = open_bed(3);
    lm_err err = {0};
    lm_seq *a = open_seq(b.dev), *c = open_seq(b.dev), *fork = NULL;
    append(&b, a, 0, 65, false);
    expect_fail(be->seq_reserve(c, 65, &err), LM_BUSY, err,
                "needs 2 more pages of 64 tokens, 1 of 3 are free");
    expect_ok(be->seq_reserve(c, 64, &err), err);
    expect_fail(be->seq_fork(a, 1, &fork, &err), LM_BUSY, err, "0 of 3 are free");
    expect_ok(be->seq_fork(a, 64, &fork, &err), err); /* whole pages only */
    be->seq_close(fork);
    expect_fail(be->seq_fork(a, 66, &fork, &err), LM_INVALID, err, "66");
    be->seq_trim(a, 64);
    be->seq_close(c);
    c = open_seq(b.dev);
    expect_ok(be->seq_reserve(c, 65, &err), err);
    be->seq_close(a);
    be->seq_close(c);
    close_bed(&b);
}

#endif

static void begin_checks_its_slices(void **state) {
    (void)state;
    bed b = open_bed(16);
    lm_err err = {0};
    lm_seq *a = open_seq(b.dev);
    lm_slice slices[2] = {{a, 1}, {a, 1}};
    lm_step *s = NULL;
    expect_fail(be->begin(b.dev, slices, 1, NULL, &s, &err), LM_INVALID, err, "reserve");
    expect_ok(be->seq_reserve(a, 300, &err), err);
    expect_fail(be->begin(b.dev, slices, 2, NULL, &s, &err), LM_INVALID, err, "twice");
    slices[0].n_tokens = 257;
    expect_fail(be->begin(b.dev, slices, 1, NULL, &s, &err), LM_TOO_LARGE, err, "opened for 256");
    slices[0].n_tokens = 0;
    expect_fail(be->begin(b.dev, slices, 1, NULL, &s, &err), LM_INVALID, err, "without tokens");
    be->seq_close(a);
    close_bed(&b);
}

/* Random walk: many sequences fork, grow, shrink and end; each remembers what it holds. */
static void pages_survive_a_random_walk(void **state) {
    (void)state;
    enum { SEQS = 6 };
    bed b = open_bed(24);
    lm_err err = {0};
    lm_seq *seqs[SEQS] = {0};
    uint32_t held[SEQS][N_TOKENS], lens[SEQS] = {0};
    for (uint32_t round = 0; round < 600; round++) {
        uint32_t i = random_u32() % SEQS, j = random_u32() % SEQS, n = 1 + random_u32() % 70;
        if (!seqs[i]) {
            if (seqs[j]) {
                uint32_t at = random_u32() % (lens[j] + 1);
                if (be->seq_fork(seqs[j], at, &seqs[i], &err) != LM_OK) continue;
                memcpy(held[i], held[j], at * sizeof(uint32_t));
                lens[i] = at;
            } else {
                seqs[i] = open_seq(b.dev);
                lens[i] = 0;
            }
        } else if (random_u32() % 8 == 0) {
            be->seq_close(seqs[i]);
            seqs[i] = NULL;
        } else if (random_u32() % 5 == 0) {
            lens[i] = random_u32() % (lens[i] + 1);
            be->seq_trim(seqs[i], lens[i]);
        } else if (lens[i] + n < N_TOKENS && be->seq_reserve(seqs[i], n, &err) == LM_OK) {
            uint32_t first = random_u32() % (N_TOKENS - n);
            bool abandon = random_u32() % 4 == 0;
            float mean = append(&b, seqs[i], first, n, abandon);
            double sum = 0;
            for (uint32_t t = 0; t < n; t++) held[i][lens[i] + t] = first + t;
            for (uint32_t t = 0; t < lens[i] + n; t++) sum += held[i][t];
            expect_mean(mean, sum / (lens[i] + n));
            if (!abandon) lens[i] += n;
        }
    }
    for (uint32_t i = 0; i < SEQS; i++) be->seq_close(seqs[i]);
    close_bed(&b);
}

#ifndef LM_TEST_BACKEND
static void a_cache_that_holds_no_page_is_refused(void **state) {
    (void)state;
    lm_err err = {0};
    lm_device *dev = NULL;
    lm_device_config config = {
        .n_threads = 1, .features = "reference", .kv_bytes = 1000, .max_batch = 1, .kv = kv_shape};
    expect_fail(lm_cpu_backend.open(&dev, &config, &err), LM_NO_MEMORY, err, "not even one page");
    config.kv.head_dim = 0;
    expect_fail(lm_cpu_backend.open(&dev, &config, &err), LM_INVALID, err, "head");
    config.kv.head_dim = 16;
    config.kv_bytes = UINT64_MAX;
    lm_status st = lm_cpu_backend.open(&dev, &config, &err);
    assert_true(st == LM_NO_MEMORY);
    assert_null(dev);
}

#endif

int main(void) {
    const struct CMUnitTest tests[] = {
#ifndef LM_TEST_BACKEND
        cmocka_unit_test(a_fork_shares_the_past_and_not_the_future),
        cmocka_unit_test(a_full_cache_is_busy_until_a_page_is_free),
        cmocka_unit_test(a_cache_that_holds_no_page_is_refused),
#endif
        cmocka_unit_test(writing_after_a_trim_into_a_shared_page_copies_it),
        cmocka_unit_test(an_abandoned_step_leaves_the_sequence_as_it_was),
        cmocka_unit_test(a_failed_step_says_why_and_changes_nothing),
        cmocka_unit_test(begin_checks_its_slices),
        cmocka_unit_test(pages_survive_a_random_walk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
