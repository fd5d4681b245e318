/* backend_test.c - the MLX module: that it is found or says what to do, its memory, its errors. What it
 * computes is tested by cpu/'s tests of the ops and by golden.mlx. */
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
}

static void without_a_gpu_asking_for_one_is_an_error(void **state) {
    (void)state;
    const lm_backend *gpu = NULL;
    lm_err err = {0};
    if (!load() || lm_mlx_load(LM_MLX_GPU, &gpu, &err) == LM_OK) skip();
    assert_null(gpu);
    expect_fail(lm_mlx_load(LM_MLX_GPU, &gpu, &err), LM_UNSUPPORTED, err, "--device cpu");
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
        cmocka_unit_test(a_device_without_a_shape_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
