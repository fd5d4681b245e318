/* need.c - what a model takes under an engine's settings, known before anything is loaded. */
#include "engine/internal.h"

#define MAX_BATCH 512 /* where the backend has no opinion */

lm_engine_config lm_engine_settle(const lm_engine_config *config) {
    lm_engine_config c = *config;
    if (!c.n_parallel) c.n_parallel = 1;
    if (!c.max_queue) c.max_queue = 512;
    if (!c.default_ctx) c.default_ctx = 4096;
    if (c.world) c.max_models = 1;
    return c;
}

uint32_t lm_engine_max_batch(const lm_engine_config *config) {
    lm_backend_info device;
    config->backend->info(&device);
    uint32_t most = device.max_batch ? device.max_batch : MAX_BATCH;
    return config->n_parallel > most ? config->n_parallel : most;
}

uint32_t lm_engine_ctx(const lm_engine_config *config, uint32_t num_ctx, uint32_t ctx_train) {
    uint32_t n = num_ctx ? num_ctx : config->default_ctx;
    if (ctx_train && n > ctx_train) n = ctx_train;
    return n < 4 ? 4 : n;
}

lm_status lm_engine_need_of(const lm_engine_config *config, const char *dir, uint32_t num_ctx,
                            lm_engine_need *out, lm_err *err) {
    lm_engine_config c = lm_engine_settle(config);
    lm_model_info info = {0};
    lm_status st = lm_model_inspect(dir, &info, err);
    if (st != LM_OK) return st;
    lm_engine_need need = {.n_ctx = lm_engine_ctx(&c, num_ctx, info.n_ctx_train),
                           .n_ctx_train = info.n_ctx_train,
                           .n_parallel = c.n_parallel};
    lm_model_config model = {
        .n_threads = c.n_threads,
        .features = c.cpu_features,
        .n_ctx = need.n_ctx,
        .n_parallel = c.n_parallel,
        .max_batch = lm_engine_max_batch(&c),
        .kv_type = c.kv_type,
        .world = c.world,
    };
    st = lm_model_need_of(c.backend, dir, &model, &need.model, err);
    if (st == LM_OK) *out = need;
    return st;
}
