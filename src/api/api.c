#include "api/private.h"

#include <stdlib.h>
#include <string.h>

/* ---- one call */

lm_call *lm_call_ref(lm_call *call) {
    pthread_mutex_lock(&call->lock);
    call->refs++;
    pthread_mutex_unlock(&call->lock);
    return call;
}

static void enter_list(lm_call *call) {
    lm_api *api = call->api;
    pthread_mutex_lock(&api->lock);
    call->next = api->calls;
    if (call->next) call->next->prev = call;
    api->calls = call;
    pthread_mutex_unlock(&api->lock);
}

static void leave_list(lm_call *call) {
    lm_api *api = call->api;
    pthread_mutex_lock(&api->lock);
    if (call->next) call->next->prev = call->prev;
    if (call->prev)
        call->prev->next = call->next;
    else
        api->calls = call->next;
    pthread_mutex_unlock(&api->lock);
}

void lm_call_unref(lm_call *call) {
    pthread_mutex_lock(&call->lock);
    uint32_t left = --call->refs;
    pthread_mutex_unlock(&call->lock);
    if (left) return;
    leave_list(call);
    while (call->jobs) {
        lm_call_job *first = call->jobs;
        call->jobs = first->next;
        lm_job_unref(first->job);
        free(first);
    }
    lm_http_unref(call->x);
    free(call->model);
    free(call->error);
    pthread_mutex_destroy(&call->lock);
    free(call);
}

void lm_call_note_model(lm_call *call, const char *model) {
    pthread_mutex_lock(&call->lock);
    free(call->model);
    call->model = lm_strdup(model);
    pthread_mutex_unlock(&call->lock);
}

void lm_call_note_metrics(lm_call *call, const lm_metrics *m) {
    pthread_mutex_lock(&call->lock);
    call->n_prompt = m->n_prompt;
    call->n_eval = m->n_eval;
    call->first_ns = m->n_eval ? m->first_ns : 0;
    call->eval_ns = m->eval_ns;
    pthread_mutex_unlock(&call->lock);
}

void lm_call_note_error(lm_call *call, lm_str text) {
    pthread_mutex_lock(&call->lock);
    free(call->error);
    call->error = lm_str_dup(text);
    pthread_mutex_unlock(&call->lock);
}

void lm_call_cancel(lm_call *call) {
    pthread_mutex_lock(&call->lock);
    call->gone = true;
    lm_call_job *jobs = call->jobs; /* they stay until the call is freed */
    pthread_mutex_unlock(&call->lock);
    for (; jobs; jobs = jobs->next) lm_job_cancel(jobs->job);
}

bool lm_call_gone(lm_call *call) {
    pthread_mutex_lock(&call->lock);
    bool gone = call->gone;
    pthread_mutex_unlock(&call->lock);
    return gone || lm_http_gone(call->x);
}

/* ---- long work */

#define MAX_TASKS 16

typedef struct task {
    lm_call *call;
    void (*work)(lm_call *call, void *arg);
    void *arg;
} task;

static void task_over(lm_api *api) {
    pthread_mutex_lock(&api->lock);
    if (--api->n_tasks == 0) pthread_cond_broadcast(&api->idle);
    pthread_mutex_unlock(&api->lock);
}

static void *run_task(void *arg) {
    task *t = arg;
    lm_api *api = t->call->api;
    t->work(t->call, t->arg);
    lm_call_unref(t->call);
    free(t);
    task_over(api);
    return NULL;
}

lm_status lm_call_detach(lm_call *call, void (*work)(lm_call *call, void *arg), void *arg, lm_err *err) {
    lm_api *api = call->api;
    if (atomic_load(&api->refusing)) return lm_fail(err, LM_BUSY, "the server is shutting down");
    pthread_mutex_lock(&api->lock);
    bool room = api->n_tasks < MAX_TASKS;
    if (room) api->n_tasks++;
    pthread_mutex_unlock(&api->lock);
    if (!room) return lm_fail(err, LM_BUSY, "%d uploads and creates run already: try again", MAX_TASKS);

    task *t = lm_alloc(sizeof *t);
    *t = (task){lm_call_ref(call), work, arg};
    pthread_t thread;
    if (pthread_create(&thread, NULL, run_task, t) == 0) {
        pthread_detach(thread);
        return LM_OK;
    }
    free(t);
    lm_call_unref(call);
    task_over(api);
    return lm_fail(err, LM_BUSY, "the system's limit of threads is reached: try again");
}

/* Takes a reference when there is somebody to cancel. api->lock is held, so that the call cannot be freed
 * meanwhile: one whose last reference has just been given back is still in the list, but has none to take. */
static bool call_wants_cancel(lm_call *call) {
    pthread_mutex_lock(&call->lock);
    bool wants = call->refs > 0 && !call->gone;
    if (wants) call->refs++;
    pthread_mutex_unlock(&call->lock);
    return wants;
}

lm_status lm_call_submit(lm_call *call, const lm_entry *model, lm_request *request, lm_sink *sink, void *ctx,
                         lm_err *err) {
    if (atomic_load(&call->api->refusing)) {
        lm_request_free(request);
        return lm_fail(err, LM_BUSY, "the server is shutting down");
    }
    lm_model_ref ref = {.name = model->name, .dir = model->dir, .digest = model->digest, .size = model->size};
    lm_job *job = NULL;
    lm_status st = lm_engine_submit(call->api->config.engine, &ref, request, sink, ctx, &job, err);
    if (st != LM_OK) return st;
    lm_call_job *one = lm_alloc(sizeof *one);
    one->job = job;
    pthread_mutex_lock(&call->lock);
    one->next = call->jobs;
    call->jobs = one;
    bool gone = call->gone;
    pthread_mutex_unlock(&call->lock);
    if (gone) lm_job_cancel(job);
    return LM_OK;
}

/* ---- answers */

void lm_reply_text(lm_call *call, int status, const char *text) {
    lm_http_reply(call->x, status, TYPE_TEXT, lm_str_of(text));
}

void lm_reply_empty(lm_call *call, int status) {
    lm_http_reply(call->x, status, NULL, (lm_str){0});
}

void lm_reply_json(lm_call *call, int status, const lm_buf *json) {
    lm_err err = {0};
    if (lm_buf_status(json, "the answer", &err) == LM_OK) {
        lm_http_reply(call->x, status, TYPE_JSON, lm_buf_view(json));
    } else {
        lm_call_note_error(call, lm_str_of(err.text));
        lm_http_reply(
            call->x, 500, TYPE_JSON,
            LM_STR("{\"error\":\"the answer is too large: use stream, or a smaller num_predict\"}"));
    }
}

/* ---- dispatch */

static void call_over(void *ctx, bool gone) {
    lm_call *call = ctx;
    if (gone) lm_call_cancel(call);
    if (lm_http_too_slow(call->x)) lm_call_note_error(call, LM_STR("the client read too slowly"));
    const lm_api_config *config = &call->api->config;
    if (config->log) {
        pthread_mutex_lock(&call->lock);
        lm_api_record r = {.method = lm_http_method(call->x),
                           .path = lm_http_path(call->x),
                           .peer = lm_http_peer(call->x),
                           .status = lm_http_status(call->x),
                           .ns = lm_now_ns() - lm_http_started_ns(call->x),
                           .bytes_out = lm_http_bytes_out(call->x),
                           .gone = gone,
                           .model = lm_str_of(call->model),
                           .error = lm_str_of(call->error),
                           .n_prompt = call->n_prompt,
                           .n_eval = call->n_eval,
                           .first_ns = call->first_ns,
                           .eval_ns = call->eval_ns};
        config->log(config->log_ctx, &r);
        pthread_mutex_unlock(&call->lock);
    }
    lm_call_unref(call);
}

/* Whether the path without the slash at its end is one of ours. */
static bool fits_without_slash(const lm_api *api, lm_str path) {
    if (path.len < 2 || path.ptr[path.len - 1] != '/') return false;
    lm_str want = {path.ptr, path.len - 1};
    for (const lm_route *const *table = api->config.tables; *table; table++)
        for (const lm_route *r = *table; r->path; r++)
            if (lm_str_eq(lm_str_of(r->path), want)) return true;
    return false;
}

static bool route_fits(const lm_route *r, lm_str path) {
    size_t n = strlen(r->path);
    if (n && r->path[n - 1] == '*') return path.len >= n && !memcmp(path.ptr, r->path, n - 1);
    return lm_str_eq((lm_str){r->path, n}, path);
}

static void dispatch(lm_call *call) {
    lm_str method = lm_http_method(call->x), path = lm_http_path(call->x);
    lm_buf allowed;
    lm_buf_init(&allowed, 256);
    for (const lm_route *const *table = call->api->config.tables; *table; table++) {
        for (const lm_route *r = *table; r->path; r++) {
            if (!route_fits(r, path)) continue;
            if (lm_str_eq(lm_str_of(r->method), method)) {
                r->handler(call);
                goto done;
            }
            lm_buf_printf(&allowed, "%s%s", allowed.len ? ", " : "", r->method);
        }
    }
    lm_http_no_route(call->x, allowed.ptr, fits_without_slash(call->api, path));
done:
    lm_buf_release(&allowed);
}

bool lm_api_streams(void *ctx, const lm_http *x) {
    (void)ctx;
    return lm_str_eq(lm_http_method(x), LM_STR("POST")) &&
           lm_str_starts(lm_http_path(x), LM_STR("/api/blobs/"));
}

void lm_api_handle(void *ctx, lm_http *x) {
    lm_api *api = ctx;
    lm_call *call = lm_alloc(sizeof *call);
    call->api = api;
    call->x = lm_http_ref(x);
    call->refs = 2; /* ours, and call_over's */
    pthread_mutex_init(&call->lock, NULL);
    enter_list(call);
    lm_http_on_end(x, call_over, call);
    if (lm_guard_pass(api->guard, x)) dispatch(call);
    lm_call_unref(call);
}

/* ---- life */

lm_status lm_api_open(lm_api **out, const lm_api_config *config, lm_err *err) {
    lm_api *api = lm_alloc(sizeof *api);
    api->config = *config;
    lm_status st = lm_guard_open(&api->guard, config->host, config->origins, err);
    if (st != LM_OK) {
        free(api);
        return st;
    }
    pthread_mutex_init(&api->lock, NULL);
    pthread_cond_init(&api->idle, NULL);
    api->facts = lm_facts_cache_open();
    *out = api;
    return LM_OK;
}

void lm_api_close(lm_api *api) {
    if (!api) return;
    pthread_mutex_lock(&api->lock);
    while (api->n_tasks) pthread_cond_wait(&api->idle, &api->lock);
    pthread_mutex_unlock(&api->lock);
    lm_facts_cache_close(api->facts);
    lm_guard_close(api->guard);
    pthread_cond_destroy(&api->idle);
    pthread_mutex_destroy(&api->lock);
    free(api);
}

void lm_api_refuse(lm_api *api) {
    atomic_store(&api->refusing, true);
}

/* One at a time and from the start: a call that is cancelled may leave the list at any moment. */
void lm_api_cancel_all(lm_api *api) {
    for (;;) {
        pthread_mutex_lock(&api->lock);
        lm_call *call = api->calls;
        while (call && !call_wants_cancel(call)) call = call->next;
        pthread_mutex_unlock(&api->lock);
        if (!call) return;
        lm_call_cancel(call);
        lm_call_unref(call);
    }
}
