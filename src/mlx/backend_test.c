/* backend_test.c - the MLX module: that it is found or says what to do, its memory, its errors. What it
 * computes is tested by cpu/'s tests of the ops and by golden.mlx. */
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/test.h"
#include "mlx/backend.h"

static const lm_kv_shape shape = {2, 1, 16};
enum { TOKEN_BYTES = 2 * 2 * 16 * 4, ROOM = 256 };

/* NULL: this build has no module. */
static const lm_backend *load(void) {
    const lm_backend *mlx = NULL;
    lm_err err = {0};
    lm_status st = lm_mlx_load(LM_MLX_CPU, &mlx, &err);
    if (st == LM_NOT_FOUND) return NULL;
    expect_ok(st, err);
    return mlx;
}

static void a_build_without_it_says_what_to_do(void **state) {
    (void)state;
    const lm_backend *mlx = NULL;
    lm_err err = {0};
    if (load()) skip();
    expect_fail(lm_mlx_load(LM_MLX_GPU, &mlx, &err), LM_NOT_FOUND, err, "--backend cpu");
    assert_null(mlx);
}

static void it_says_what_it_computes_on(void **state) {
    (void)state;
    const lm_backend *mlx = load();
    if (!mlx) skip();
    lm_backend_info info = {.gpu = true};
    mlx->info(&info);
    assert_string_equal(mlx->name, "mlx");
    assert_false(info.gpu);
    assert_string_equal(info.device, "cpu");
    assert_true(info.kv_quantised);
    assert_int_equal(info.max_batch, 512);
}

static void without_a_gpu_asking_for_one_is_an_error(void **state) {
    (void)state;
    const lm_backend *gpu = NULL;
    lm_err err = {0};
    if (!load() || lm_mlx_load(LM_MLX_GPU, &gpu, &err) == LM_OK) skip();
    assert_null(gpu);
    expect_fail(lm_mlx_load(LM_MLX_GPU, &gpu, &err), LM_UNSUPPORTED, err, "--device cpu");
    expect_fail(lm_mlx_load_at(LM_MLX_GPU, 3, &gpu, &err), LM_UNSUPPORTED, err, "finds no GPU");
    expect_fail(lm_mlx_load_at(LM_MLX_CPU, 1, &gpu, &err), LM_UNSUPPORTED, err, "1 CPUs here");
    assert_null(gpu);
}

static void sequences_stay_within_their_bytes(void **state) {
    (void)state;
    const lm_backend *mlx = load();
    if (!mlx) skip();
    lm_err err = {0};
    lm_device *dev = NULL;
    lm_device_config config = {.kv_bytes = 2 * ROOM * TOKEN_BYTES, .max_batch = 8, .kv = shape};
    expect_ok(mlx->open(&dev, &config, &err), err);
    lm_seq *a = NULL, *b = NULL, *fork = NULL;
    lm_memory m;
    expect_ok(mlx->seq_open(dev, &a, &err), err);
    expect_ok(mlx->seq_open(dev, &b, &err), err);
    expect_ok(mlx->seq_reserve(a, 1, &err), err);
    expect_ok(mlx->seq_reserve(b, ROOM, &err), err);
    mlx->memory(dev, &m);
    assert_int_equal(m.kv, 2 * ROOM * TOKEN_BYTES);
    expect_fail(mlx->seq_reserve(b, ROOM + 1, &err), LM_BUSY, err, "no room");
    expect_fail(mlx->seq_fork(a, 0, &fork, &err), LM_BUSY, err, "no room");
    assert_null(fork);
    mlx->seq_close(b);
    expect_ok(mlx->seq_fork(a, 0, &fork, &err), err);
    mlx->seq_close(fork);
    mlx->seq_close(a);
    mlx->memory(dev, &m);
    assert_int_equal(m.kv, 0);
    mlx->close(dev);
}

/* What ROOM tokens take in each form of keys and values, heads of `dim` elements. */
static uint64_t room_bytes(const lm_backend *mlx, uint32_t dim, lm_kv_type type) {
    lm_err err = {0};
    lm_device *dev = NULL;
    lm_device_config config = {
        .kv_bytes = 1 << 24, .max_batch = 8, .kv = {.n_layers = 2, .n_kv_heads = 3, .head_dim = dim}};
    config.kv_type = type;
    expect_ok(mlx->open(&dev, &config, &err), err);
    lm_seq *seq = NULL, *fork = NULL;
    lm_memory m;
    expect_ok(mlx->seq_open(dev, &seq, &err), err);
    expect_ok(mlx->seq_reserve(seq, ROOM, &err), err);
    mlx->memory(dev, &m);
    uint64_t bytes = m.kv;
    assert_int_equal(bytes, ROOM * mlx->kv_token_bytes(&config));
    expect_ok(mlx->seq_reserve(seq, 2 * ROOM, &err), err);
    expect_ok(mlx->seq_fork(seq, 0, &fork, &err), err);
    mlx->memory(dev, &m);
    assert_int_equal(m.kv, 4 * bytes);
    mlx->seq_close(fork);
    mlx->seq_close(seq);
    mlx->memory(dev, &m);
    assert_int_equal(m.kv, 0);
    mlx->close(dev);
    return bytes;
}

static void quantised_keys_and_values_take_a_fraction(void **state) {
    (void)state;
    const lm_backend *mlx = load();
    if (!mlx) skip();
    uint64_t heads = 2 * 2 * 3 * ROOM; /* keys and values, layers, heads */
    /* f32 numbers here, and f32 scales and biases: 4 bytes each. */
    assert_int_equal(room_bytes(mlx, 128, LM_KV_F16), heads * 128 * 4);
    assert_int_equal(room_bytes(mlx, 128, LM_KV_Q8_0), heads * (128 + 2 * 2 * 4));
    assert_int_equal(room_bytes(mlx, 128, LM_KV_Q4_0), heads * (64 + 2 * 2 * 4));
    assert_int_equal(room_bytes(mlx, 96, LM_KV_Q8_0), heads * (96 + 3 * 2 * 4)); /* groups of 32 */
}

/* That the figures are those of the arrays: what MLX counts grows by as much. */
static void mlx_counts_what_is_accounted_for(void **state) {
    (void)state;
    const lm_backend *mlx = load();
    if (!mlx) skip();
    for (int type = 0; type < LM_KV_TYPES; type++) {
        lm_err err = {0};
        lm_device *dev = NULL;
        enum { LAYERS = 8, TOKENS = 16 * ROOM, WIDTH = 128 };
        lm_device_config config = {.kv_bytes = UINT64_MAX / 2, .max_batch = 8, .kv = {LAYERS, 1, WIDTH}};
        config.kv_type = (lm_kv_type)type;
        expect_ok(mlx->open(&dev, &config, &err), err);
        float *numbers = test_malloc(WIDTH * sizeof *numbers);
        for (int i = 0; i < WIDTH; i++) numbers[i] = (float)i / WIDTH;
        lm_matrix m = {.dtype = LM_F32,
                       .n_experts = 1,
                       .rows = 1,
                       .cols = WIDTH,
                       .codes = numbers,
                       .row_bytes = WIDTH * 4};
        lm_linear *table = NULL;
        expect_ok(mlx->linear(dev, &m, NULL, &table, &err), err);
        lm_seq *seq = NULL;
        lm_memory before, after;
        mlx->memory(dev, &before);
        expect_ok(mlx->seq_open(dev, &seq, &err), err);
        expect_ok(mlx->seq_reserve(seq, TOKENS, &err), err);
        lm_step *s = NULL;
        expect_ok(mlx->begin(dev, &(lm_slice){seq, 1}, 1, NULL, &s, &err), err);
        for (uint32_t l = 0; l < LAYERS; l++) {
            lm_attention a = {.layer = l, .n_heads = 1, .n_kv_heads = 1, .head_dim = WIDTH, .scale = 1};
            lm_tensor *x = mlx->embed(s, table, &(int32_t){0}, 1, 1);
            mlx->attention(s, &a, x, x, x);
        }
        expect_ok(mlx->end(s, false, &err), err);
        mlx->idle(dev);
        mlx->memory(dev, &after);
        uint64_t want = TOKENS * mlx->kv_token_bytes(&config), got = after.active - before.active;
        /* Zeros that all layers began with may still be there, and what a row takes. */
        uint64_t slack = want / LAYERS + 65536;
        if (got < want || got > want + slack)
            fail_msg("%s: MLX counts %llu bytes, accounted for are %llu", lm_kv_type_name(config.kv_type),
                     (unsigned long long)got, (unsigned long long)want);
        assert_int_equal(after.kv, want);
        assert_int_equal(after.cache, 0);
        mlx->seq_close(seq);
        mlx->linear_free(table);
        mlx->close(dev);
        test_free(numbers);
    }
}

static void heads_that_no_group_divides_name_the_remedy(void **state) {
    (void)state;
    const lm_backend *mlx = load();
    if (!mlx) skip();
    lm_err err = {0};
    lm_device *dev = NULL;
    lm_device_config config = {.kv_bytes = 1 << 20, .max_batch = 8, .kv = {1, 1, 80}};
    config.kv_type = LM_KV_Q4_0;
    assert_int_equal(mlx->kv_token_bytes(&config), 0);
    expect_fail(mlx->open(&dev, &config, &err), LM_UNSUPPORTED, err, "--kv-cache-type f16");
    assert_null(dev);
}

static void quantised_weights_are_in_memory_once(void **state) {
    (void)state;
    const lm_backend *mlx = load();
    if (!mlx) skip();
    enum { ROWS = 8192, COLS = 8192 };
    const uint64_t code_bytes = (uint64_t)ROWS * COLS / 2, scale_bytes = (uint64_t)ROWS * COLS / 128 * 2;
    FILE *f = tmpfile(); /* holes: nothing is written, and reading gives zeros */
    assert_non_null(f);
    assert_int_equal(ftruncate(fileno(f), (off_t)(code_bytes + 2 * scale_bytes + 4096)), 0);
    uint8_t *map = mmap(NULL, code_bytes + 2 * scale_bytes + 4096, PROT_READ, MAP_PRIVATE, fileno(f), 0);
    assert_true(map != MAP_FAILED);
    lm_err err = {0};
    lm_device *dev = NULL;
    lm_device_config config = {.kv_bytes = 1 << 20, .max_batch = 8, .kv = shape};
    expect_ok(mlx->open(&dev, &config, &err), err);
    /* As in a file: not on a page's edge. */
    lm_matrix m = {.quant = {LM_QUANT_AFFINE, 4, 128},
                   .dtype = LM_F16,
                   .n_experts = 1,
                   .rows = ROWS,
                   .cols = COLS,
                   .codes = map + 264,
                   .row_bytes = COLS / 2,
                   .scales = map + 264 + code_bytes};
    m.biases = map + 264 + code_bytes + scale_bytes;
    lm_linear *w = NULL;
    lm_memory before, after;
    mlx->memory(dev, &before);
    expect_ok(mlx->linear(dev, &m, NULL, &w, &err), err);
    mlx->idle(dev);
    mlx->memory(dev, &after);
    /* Scales and biases become f32 on this device: twice their bytes. The codes are the mapped file, or one
     * copy. */
    lm_backend_info info;
    mlx->info(&info);
    uint64_t most = 4 * scale_bytes + (info.copies_weights ? code_bytes : 0);
    assert_in_range(after.active - before.active, 0, most + 65536);
    assert_int_equal(after.weights - before.weights, code_bytes + 4 * scale_bytes);
    mlx->linear_free(w);
    mlx->close(dev);
    munmap(map, code_bytes + 2 * scale_bytes + 4096);
    fclose(f);
}

static void a_device_without_a_shape_is_refused(void **state) {
    (void)state;
    const lm_backend *mlx = load();
    if (!mlx) skip();
    lm_err err = {0};
    lm_device *dev = NULL;
    lm_device_config config = {.kv_bytes = 1 << 20, .max_batch = 8};
    expect_fail(mlx->open(&dev, &config, &err), LM_INVALID, err, "layers");
    assert_null(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_build_without_it_says_what_to_do),
        cmocka_unit_test(it_says_what_it_computes_on),
        cmocka_unit_test(without_a_gpu_asking_for_one_is_an_error),
        cmocka_unit_test(sequences_stay_within_their_bytes),
        cmocka_unit_test(quantised_keys_and_values_take_a_fraction),
        cmocka_unit_test(mlx_counts_what_is_accounted_for),
        cmocka_unit_test(heads_that_no_group_divides_name_the_remedy),
        cmocka_unit_test(quantised_weights_are_in_memory_once),
        cmocka_unit_test(a_device_without_a_shape_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
