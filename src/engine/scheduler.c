/* scheduler.c - the step thread of a model.
 *
 * Every turn of the loop is one forward pass over a ragged batch. Jobs come and go between steps only: the
 * lock is taken there for a moment, never while computing.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/core.h"

#define PREFIX_SLOTS_LEAST 4

static lm_status open_core(lm_core *c, lm_err *err) {
    lm_runner *r = c->r;
    lm_model_config config = {
        .n_threads = c->e->config.n_threads,
        .features = c->e->cpu_features,
        .n_ctx = r->n_ctx,
        .n_parallel = c->n_places,
        .max_batch = c->max_batch,
        .kv_type = c->e->config.kv_type,
        .world = c->e->config.world,
    };
    lm_status st = lm_batch_init(c->now, c->n_places, c->max_batch, err);
    if (st == LM_OK) st = lm_batch_init(c->next, c->n_places, c->max_batch, err);
    if (st == LM_OK) st = lm_model_open(&c->model, c->e->config.backend, r->dir, &config, err);
    if (st != LM_OK) return st;
    c->b = lm_model_backend(c->model);
    r->info = *lm_model_get_info(c->model);
    r->model = c->model;
    c->n_vocab = r->info.n_vocab;
    bool longer = r->info.encoder && r->n_ctx > c->max_batch; /* it reads texts whole */
    if ((st = lm_embed_batch_init(&c->embed, longer ? r->n_ctx : c->max_batch, err)) != LM_OK) return st;
    lm_prefix_init(&c->prefix, c->model, c->n_places > PREFIX_SLOTS_LEAST ? c->n_places : PREFIX_SLOTS_LEAST);
    return lm_scratch_init(&c->scratch, c->n_vocab, err);
}

static void close_core(lm_core *c) {
    lm_prefix_release(&c->prefix);
    lm_scratch_release(&c->scratch);
    lm_model_close(c->model);
    lm_batch_release(c->now);
    lm_batch_release(c->next);
    lm_embed_batch_release(&c->embed);
    free(c->running);
    free(c->picked);
}

static void init_core(lm_core *c, lm_runner *r) {
    *c = (lm_core){.r = r, .e = r->engine};
    c->n_places = c->e->config.n_parallel;
    c->max_batch = lm_engine_max_batch(&c->e->config);
    c->now = &c->batches[0];
    c->next = &c->batches[1];
    c->running = lm_alloc(c->n_places * sizeof(*c->running));
    c->picked = lm_alloc(c->n_places * sizeof(*c->picked));
}

/* Under the lock: says how the load went and what it took. */
static void report(lm_core *c, lm_status st, const lm_err *err) {
    lm_runner *r = c->r;
    r->core_open = true;
    r->core = c;
    if (st != LM_OK) {
        r->load_err = *err;
        r->load_err.status = st;
    } else {
        r->split = lm_model_split(c->model);
        lm_memory m = {0};
        c->b->memory(lm_model_device(c->model), &m);
        uint64_t measured = m.weights + m.kv_room + m.scratch;
        /* What a step takes beside them is not known yet: the estimate has it. */
        if (m.scratch || measured > r->bytes) r->bytes = measured;
        lm_backend_info device;
        c->b->info(&device);
        r->device_bytes = device.gpu ? r->bytes : 0;
    }
    pthread_cond_broadcast(&r->front_cond);
}

void *lm_step_main(void *arg) {
    lm_runner *r = arg;
    lm_engine *e = r->engine;
    lm_core c;
    lm_err err = {0};
    init_core(&c, r);
    lm_status st = open_core(&c, &err);

    pthread_mutex_lock(&e->lock);
    report(&c, st, &err);
    for (;;) {
        while (!c.n_running && !r->ready.n && !r->quit) pthread_cond_wait(&r->step_cond, &e->lock);
        if (r->quit) break;
        r->step_since_ns = lm_now_ns();
        lm_sequence *fresh[64];
        uint32_t n_fresh = 0;
        while (n_fresh < 64 && c.n_running + n_fresh < c.n_places && r->ready.n) {
            lm_job *j = lm_list_pop(&r->ready);
            j->running = true;
            r->n_running++;
            fresh[n_fresh++] = j->seq;
        }
        pthread_mutex_unlock(&e->lock);
        for (uint32_t i = 0; i < n_fresh; i++) lm_core_admit(&c, fresh[i]);
        if (c.n_running) lm_core_step(&c);
        if (!c.n_running) lm_core_rest(&c);
        pthread_mutex_lock(&e->lock);
        r->step_since_ns = 0;
        e->n_steps++;
    }
    pthread_mutex_unlock(&e->lock);

    LM_ASSERT(c.n_running == 0);
    close_core(&c);
    pthread_mutex_lock(&e->lock);
    r->step_gone = true;
    lm_engine_poke(e);
    pthread_mutex_unlock(&e->lock);
    return NULL;
}
