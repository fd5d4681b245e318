/* engine.c - the public face: open and close, submit, unload, list, counters. */
#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/internal.h"

static uint64_t machine_memory(void) {
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

lm_status lm_engine_open(lm_engine **out, const lm_engine_config *config, lm_err *err) {
    if (!config->backend) return lm_fail(err, LM_INVALID, "the engine needs a backend");
    lm_engine *e = lm_alloc(sizeof(*e));
    atomic_init(&e->refs, 1);
    e->config = lm_engine_settle(config);
    lm_backend_info device;
    config->backend->info(&device);
    if (!e->config.memory_budget) e->config.memory_budget = device.memory;
    if (!e->config.memory_budget) e->config.memory_budget = machine_memory() / 4 * 3;
    if (!e->config.memory_budget) e->config.memory_budget = UINT64_MAX;
    e->cpu_features = config->cpu_features ? lm_strdup(config->cpu_features) : NULL;
    e->config.cpu_features = e->cpu_features;
    e->clock = lm_now_ns;
    LM_ASSERT(pthread_mutex_init(&e->lock, NULL) == 0);
    lm_cond_init(&e->dispatch);
    lm_cond_init(&e->idle);
    if (pthread_create(&e->dispatcher, NULL, lm_dispatcher_main, e) != 0) {
        lm_engine_unref(e);
        return lm_fail(err, LM_NO_MEMORY, "the system gives no more threads: raise its limit (ulimit -u)");
    }
    *out = e;
    return LM_OK;
}

void lm_engine_set_clock(lm_engine *e, uint64_t (*clock)(void)) {
    pthread_mutex_lock(&e->lock);
    e->clock = clock ? clock : lm_now_ns;
    lm_engine_poke(e);
    pthread_mutex_unlock(&e->lock);
}

void lm_engine_close(lm_engine *e, int64_t drain_ns) {
    if (!e) return;
    pthread_mutex_lock(&e->lock);
    e->closing = true;
    uint64_t start = lm_now_ns();
    while (e->n_live) {
        uint64_t passed = lm_now_ns() - start;
        if (drain_ns >= 0 && passed >= (uint64_t)drain_ns) break;
        lm_cond_wait(&e->idle, &e->lock, drain_ns < 0 ? -1 : drain_ns - (int64_t)passed);
    }
    for (lm_job *j = e->live; j; j = j->live_next) atomic_store(&j->cancelled, true);
    e->stopping = true;
    lm_engine_poke(e);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->dispatcher, NULL);
    if (!e->runners) lm_engine_unref(e); /* else a thread was left behind that may look at it again */
}

/* ---- submit */

/* Jobs of a model that fit into its places run; those beyond wait. Under the lock. */
static uint32_t waiting_with(const lm_engine *e, const char *name) {
    uint32_t waiting = 0;
    for (const lm_job *j = e->live; j; j = j->live_next) waiting += !j->running;
    uint32_t same = 0, same_running = 0;
    for (const lm_job *j = e->live; j; j = j->live_next) {
        if (strcmp(j->name, name) != 0) continue;
        same++;
        same_running += j->running;
    }
    /* A job that finds a free place doesn't wait, though it is not running yet. */
    if (same < e->config.n_parallel) return 0;
    uint32_t on_the_way = e->config.n_parallel > same_running ? e->config.n_parallel - same_running : 0;
    return waiting + 1 > on_the_way ? waiting + 1 - on_the_way : 0;
}

lm_status lm_engine_submit(lm_engine *e, const lm_model_ref *model, lm_request *request, lm_sink *sink,
                           void *ctx, lm_job **job, lm_err *err) {
    lm_job *j = lm_job_new(e, model, request, sink, ctx);
    lm_status st = LM_OK;
    pthread_mutex_lock(&e->lock);
    e->stats.n_requests++;
    if (e->lost) {
        st = lm_fail(err, LM_BUSY, "%s", e->lost_text);
    } else if (e->closing) {
        st = lm_fail(err, LM_BUSY, "the server is shutting down");
    } else if (waiting_with(e, j->name) > e->config.max_queue) {
        st = lm_fail(err, LM_BUSY, "server busy, please try again.  maximum pending requests exceeded");
    } else {
        j->live_next = e->live;
        if (e->live) e->live->live_prev = j;
        e->live = j;
        e->n_live++;
        lm_list_push(&e->pending, j);
        *job = j;
        lm_engine_poke(e);
    }
    if (st != LM_OK) e->stats.n_failed++;
    pthread_mutex_unlock(&e->lock);
    if (st != LM_OK) {
        lm_job_unref(j); /* both references are ours */
        lm_job_unref(j);
    }
    return st;
}

/* ---- models */

lm_status lm_engine_unload(lm_engine *e, const char *name, lm_err *err) {
    lm_status st = LM_NOT_FOUND;
    pthread_mutex_lock(&e->lock);
    for (lm_runner *r = e->runners; r; r = r->next) {
        if (strcmp(r->name, name) != 0 || r->state == LM_RUNNER_CLOSING) continue;
        r->draining = true;
        lm_engine_poke(e);
        st = LM_OK;
    }
    pthread_mutex_unlock(&e->lock);
    return st == LM_OK ? LM_OK : lm_fail(err, LM_NOT_FOUND, "model '%s' is not loaded", name);
}

/* Gone already for whoever asks: on its way out and nobody's job in it. */
static bool leaves(const lm_runner *r) {
    return r->state == LM_RUNNER_CLOSING || r->state == LM_RUNNER_FAILED || (r->draining && !r->n_jobs);
}

static void describe(const lm_engine *e, const lm_runner *r, lm_loaded *out) {
    *out = (lm_loaded){.size = r->bytes, .size_device = r->device_bytes, .n_ctx = r->n_ctx};
    strncpy(out->name, r->name, sizeof(out->name) - 1);
    strncpy(out->dir, r->dir, sizeof(out->dir) - 1);
    memcpy(out->digest, r->digest, sizeof(out->digest));
    out->n_running = r->n_running;
    out->n_waiting = r->n_jobs - r->n_running;
    out->expires_wall_ns = INT64_MAX;
    if (r->keep_alive_ns >= 0) {
        uint64_t now = e->clock(), used = r->n_jobs ? now : r->used_ns;
        int64_t left = r->keep_alive_ns - (int64_t)(now - used), wall = lm_wall_ns();
        out->expires_wall_ns = left > INT64_MAX - wall ? INT64_MAX : wall + left;
    }
}

uint32_t lm_engine_list(lm_engine *e, lm_loaded *out, uint32_t room) {
    uint32_t n = 0;
    pthread_mutex_lock(&e->lock);
    for (lm_runner *r = e->runners; r; r = r->next) {
        if (leaves(r)) continue;
        lm_loaded one;
        describe(e, r, &one);
        n++;
        /* Insertion into what is there already, latest expiry first; what falls off the end is only counted.
         */
        uint32_t filled = n - 1 < room ? n - 1 : room, at = filled;
        while (at > 0 && out[at - 1].expires_wall_ns < one.expires_wall_ns) at--;
        if (at >= room) continue;
        uint32_t move = (filled < room ? filled : room - 1) - at;
        memmove(&out[at + 1], &out[at], move * sizeof(*out));
        out[at] = one;
    }
    pthread_mutex_unlock(&e->lock);
    return n;
}

void lm_engine_lose(lm_engine *e, uint32_t rank, const char *text) {
    pthread_mutex_lock(&e->lock);
    if (!e->lost) {
        e->lost = true;
        e->lost_rank = rank;
        snprintf(e->lost_text, sizeof(e->lost_text), "%s", text);
        lm_engine_poke(e);
        for (lm_runner *r = e->runners; r; r = r->next) pthread_cond_signal(&r->step_cond); /* lm_core_leave */
    }
    pthread_mutex_unlock(&e->lock);
}

static void longest(uint64_t *most, uint64_t since_ns, uint64_t now_ns) {
    if (since_ns && now_ns - since_ns > *most) *most = now_ns - since_ns;
}

void lm_engine_get_pulse(lm_engine *e, lm_engine_pulse *out) {
    pthread_mutex_lock(&e->lock);
    *out = (lm_engine_pulse){.n_steps = e->n_steps};
    uint64_t now = lm_now_ns();
    for (const lm_runner *r = e->runners; r; r = r->next) {
        if (r->state == LM_RUNNER_LOADING) {
            longest(&out->load_ns, r->load_since_ns, now);
            continue;
        }
        longest(&out->turn_ns, r->step_since_ns, now);
        longest(&out->turn_ns, r->front_since_ns, now);
    }
    pthread_mutex_unlock(&e->lock);
}

void lm_engine_get_stats(lm_engine *e, lm_engine_stats *out) {
    pthread_mutex_lock(&e->lock);
    *out = e->stats;
    out->backend = e->config.backend->name;
    out->memory_budget = e->config.memory_budget;
    out->kv_type = e->config.kv_type;
    e->config.backend->info(&out->device);
    if (e->config.cpu_features)
        snprintf(out->device.device, sizeof out->device.device, "%s", e->config.cpu_features);
    if (e->config.world) {
        out->world_size = e->config.world->size;
        out->split = e->config.world->split;
    }
    out->lost = e->lost;
    out->lost_rank = e->lost_rank;
    snprintf(out->lost_text, sizeof(out->lost_text), "%s", e->lost_text);
    for (const lm_runner *r = e->runners; r; r = r->next) {
        if (out->world_size && r->state == LM_RUNNER_READY) out->split = r->split;
        out->n_running += r->n_running;
        out->n_models += !leaves(r);
    }
    out->n_waiting = e->n_live - out->n_running;
    pthread_mutex_unlock(&e->lock);
}
