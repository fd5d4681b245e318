/* The engine's memory contract over MLX: what a load would take is known before it, keys and values in fewer
 * bits count less, a model that has to go makes room, and what MLX counts is back when all are gone. */
#include <limits.h>
#include <pthread.h>
#include <unistd.h>

#include "base/file.h"
#include "engine/engine.h"
#include "mlx/backend.h"
#include "model_golden.h"

enum { CTX = 256, PARALLEL = 2 };

static char dir[64] = "/tmp/lm-mlx-engine-XXXXXX";

static void write_text(const char *name, const char *text) {
    char path[256];
    lm_err err = {0};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    expect_ok(lm_file_write(path, lm_str_of(text), &err), err);
}

static void link_to(const char *name, const char *format, const char *where) {
    char path[256], to[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    snprintf(to, sizeof to, format, where);
    assert_int_equal(symlink(to, path), 0);
}

/* A golden model with a tokenizer beside it. */
static int make_model(void **state) {
    (void)state;
    assert_non_null(mkdtemp(dir));
    char absolute[PATH_MAX];
    assert_non_null(realpath(models_dir(), absolute));
    link_to("config.json", "%s/qwen3-q4/config.json", absolute);
    link_to("model.safetensors", "%s/qwen3-q4/model.safetensors", absolute);
    link_to("tokenizer.json", LM_SOURCE_DIR "/tests/golden/text/byte_level/%s", "tokenizer.json");
    write_text("tokenizer_config.json", "{\"eos_token\":\"<|im_end|>\"}");
    return 0;
}

static int drop_model(void **state) {
    (void)state;
    lm_err err = {0};
    return lm_dir_remove(dir, &err) == LM_OK ? 0 : -1;
}

static const lm_backend *mlx_backend(void) {
    const lm_backend *mlx = NULL;
    lm_err err = {0};
    expect_ok(lm_mlx_load(LM_MLX_CPU, &mlx, &err), err);
    return mlx;
}

/* ---- asking */

typedef struct heard {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    bool done;
    lm_status status;
    char text[512];
} heard;

static void sink(void *ctx, const lm_event *event) {
    heard *h = ctx;
    if (event->kind != LM_EVENT_DONE && event->kind != LM_EVENT_ERROR) return;
    pthread_mutex_lock(&h->lock);
    h->done = true;
    h->status = event->kind == LM_EVENT_DONE ? LM_OK : event->status;
    if (event->kind == LM_EVENT_ERROR) snprintf(h->text, sizeof h->text, "%.*s", LM_STR_ARG(event->text));
    pthread_cond_signal(&h->cond);
    pthread_mutex_unlock(&h->lock);
}

/* Loads the model under a name; *text holds the error. */
static lm_status load(lm_engine *e, const char *name, char text[512]) {
    heard h = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    lm_err err = {0};
    lm_job *job = NULL;
    lm_request *r = lm_request_new();
    r->kind = LM_REQUEST_LOAD;
    lm_model_ref ref = {.name = name, .dir = dir, .digest = name, .size = 1};
    expect_ok(lm_engine_submit(e, &ref, r, sink, &h, &job, &err), err);
    pthread_mutex_lock(&h.lock);
    while (!h.done) pthread_cond_wait(&h.cond, &h.lock);
    pthread_mutex_unlock(&h.lock);
    lm_job_unref(job);
    snprintf(text, 512, "%s", h.text);
    return h.status;
}

static lm_engine *open_engine(uint64_t budget, lm_kv_type type) {
    lm_engine_config config = {.backend = mlx_backend(),
                               .n_parallel = PARALLEL,
                               .default_ctx = CTX,
                               .keep_alive_ns = -1,
                               .memory_budget = budget,
                               .kv_type = type};
    lm_engine *e = NULL;
    lm_err err = {0};
    expect_ok(lm_engine_open(&e, &config, &err), err);
    return e;
}

static uint64_t estimate(lm_kv_type type) {
    lm_backend_info info;
    mlx_backend()->info(&info);
    lm_model_config config = {
        .n_ctx = CTX, .n_parallel = PARALLEL, .max_batch = info.max_batch, .kv_type = type};
    uint64_t bytes = 0;
    lm_err err = {0};
    expect_ok(lm_model_estimate(mlx_backend(), dir, &config, &bytes, &err), err);
    return bytes;
}

static uint64_t held_by_mlx(void) {
    lm_device *dev = NULL;
    lm_err err = {0};
    lm_memory m;
    lm_device_config config = {.kv_bytes = 1 << 20, .max_batch = 1, .kv = {1, 1, 32}};
    expect_ok(mlx_backend()->open(&dev, &config, &err), err);
    mlx_backend()->memory(dev, &m);
    mlx_backend()->close(dev);
    return m.active + m.cache;
}

/* ---- tests */

static void a_model_beyond_the_budget_is_refused_before_it_is_loaded(void **state) {
    (void)state;
    char text[512];
    uint64_t before = held_by_mlx();
    lm_engine *e = open_engine(estimate(LM_KV_F16) - 1, LM_KV_F16);
    assert_int_equal(load(e, "one", text), LM_NO_MEMORY);
    assert_non_null(strstr(text, "requires more system memory"));
    assert_int_equal(held_by_mlx(), before);
    lm_engine_close(e, 0);
    e = open_engine(estimate(LM_KV_F16), LM_KV_F16);
    assert_int_equal(load(e, "one", text), LM_OK);
    lm_engine_close(e, 0);
}

static void keys_and_values_in_fewer_bits_leave_room_for_a_model(void **state) {
    (void)state;
    char text[512];
    uint64_t plain = estimate(LM_KV_F16), eight = estimate(LM_KV_Q8_0), four = estimate(LM_KV_Q4_0);
    assert_true(four < eight && eight < plain);
    lm_engine *e = open_engine(eight, LM_KV_F16);
    assert_int_equal(load(e, "one", text), LM_NO_MEMORY);
    lm_engine_close(e, 0);
    e = open_engine(eight, LM_KV_Q8_0);
    assert_int_equal(load(e, "one", text), LM_OK);
    lm_engine_close(e, 0);
    e = open_engine(four, LM_KV_Q4_0);
    assert_int_equal(load(e, "one", text), LM_OK);
    lm_engine_close(e, 0);
}

static void an_idle_model_makes_room_and_gives_its_memory_back(void **state) {
    (void)state;
    char text[512];
    uint64_t first = held_by_mlx();
    lm_engine *e = open_engine(estimate(LM_KV_F16) * 3 / 2, LM_KV_F16);
    for (int i = 0; i < 10; i++) {
        lm_loaded loaded[4];
        const char *name = i % 2 ? "one" : "two";
        assert_int_equal(load(e, name, text), LM_OK);
        assert_int_equal(lm_engine_list(e, loaded, 4), 1);
        assert_string_equal(loaded[0].name, name);
        assert_int_equal(loaded[0].size, estimate(LM_KV_F16));
        assert_int_equal(loaded[0].size_device, 0);
    }
    lm_engine_close(e, 0);
    assert_in_range(held_by_mlx(), 0, first + 200000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_model_beyond_the_budget_is_refused_before_it_is_loaded),
        cmocka_unit_test(keys_and_values_in_fewer_bits_leave_room_for_a_model),
        cmocka_unit_test(an_idle_model_makes_room_and_gives_its_memory_back),
    };
    return cmocka_run_group_tests_name("the engine over MLX", tests, make_model, drop_model);
}
