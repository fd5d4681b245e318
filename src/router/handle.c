/* handle.c - every request's beginning: who may ask, what it is, and what the router answers itself. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "router/proxy.h"

/* ---- generations */

generation *generation_ref(router *r) {
    pthread_mutex_lock(&r->lock);
    generation *g = r->now;
    g->refs++;
    pthread_mutex_unlock(&r->lock);
    return g;
}

/* Closing waits for threads: that is the main thread's work, which waits for signals. */
void generation_unref(router *r, generation *g) {
    pthread_mutex_lock(&r->lock);
    bool last = --g->refs == 0;
    if (last) {
        g->next = r->retired;
        r->retired = g;
    }
    pthread_mutex_unlock(&r->lock);
    if (last) (void)kill(getpid(), SIGUSR2);
}

/* ---- calls */

call *call_open(router *r, lm_http *x) {
    call *c = lm_alloc(sizeof *c);
    c->router = r;
    atomic_fetch_add(&r->n_calls, 1);
    c->gen = generation_ref(r);
    uint32_t n_backends = backends_config(c->gen->backends)->n_backends;
    c->list = lm_alloc(2 * (n_backends + 1) * sizeof *c->list); /* list[0] is there in any case */
    c->round = c->list + n_backends + 1;
    c->x = lm_http_ref(x);
    c->began_ns = lm_now_ns();
    /* Not to be guessed from the one before, and never twice: an odd factor maps counters one to one. */
    uint64_t id = (r->id_seed + atomic_fetch_add(&r->n_ids, 1)) * UINT64_C(0x9E3779B97F4A7C15);
    snprintf(c->id, sizeof c->id, "%016llx", (unsigned long long)(id ^ id >> 31));
    lm_buf_init(&c->body, SIZE_MAX / 2);
    return c;
}

static metrics_result result_of(const call *c, bool gone) {
    if (gone) return RESULT_GONE;
    int status = lm_http_status(c->x);
    bool ended_well = !c->n_log || c->log[c->n_log - 1].how.end == ATTEMPT_OK;
    return status < 400 && ended_well ? RESULT_OK : RESULT_ERROR;
}

void call_close(call *c, bool gone) {
    bool forwarded =
        c->facts.route != ROUTE_OWN && c->facts.route != ROUTE_UNKNOWN && c->facts.route != ROUTE_MERGE;
    if (forwarded)
        metrics_request(&c->router->metrics, c->n_log ? c->log[c->n_log - 1].backend : "none",
                        result_of(c, gone));
    record_write(c, gone);
    facts_release(&c->facts);
    lm_buf_release(&c->body);
    generation_unref(c->router, c->gen);
    lm_http_unref(c->x);
    atomic_fetch_sub(&c->router->n_calls, 1);
    free(c->list);
    free(c);
}

static void at_end(void *ctx, bool gone) {
    call_close(ctx, gone);
}

void call_close_at_end(call *c) {
    lm_http_on_end(c->x, at_end, c);
}

/* What is said of a backend is for people and programs on the other side: one line, plain, no address. */
static void set_text(lm_http *x, const char *name, const char *value) {
    char line[1024];
    size_t n = 0;
    for (; value[n] && n < sizeof line - 1; n++)
        line[n] = value[n] < ' ' || (unsigned char)value[n] >= 127 ? '?' : value[n];
    line[n] = '\0';
    lm_http_set_header(x, name, line);
}

void call_set_headers(call *c, const candidate *k) {
    char number[16];
    set_text(c->x, "X-Router-Request-Id", c->id);
    snprintf(number, sizeof number, "%u", c->n_log + c->taken);
    set_text(c->x, "X-Router-Attempts", number);
    if (!k) return;
    set_text(c->x, "X-Router-Backend", backends_config(c->gen->backends)->backends[k->backend].name);
    if (k->model[0]) set_text(c->x, "X-Router-Model", k->model);
    if (k->reason[0]) set_text(c->x, "X-Router-Reason", k->reason);
}

static void reply(call *c, int status, const char *type, lm_str body) {
    lm_http_reply(c->x, status, type, body);
    call_close_at_end(c);
}

void call_reply_json(call *c, int status, const char *type, const json_t *value) {
    lm_buf b;
    lm_buf_init(&b, 64u << 20);
    lm_json_write_same(&b, value);
    reply(c, b.failed ? 500 : status, type,
          b.failed ? LM_STR("{\"error\":\"the answer is too large\"}") : lm_buf_view(&b));
    lm_buf_release(&b);
}

void call_reply_error(call *c, int status, const char *text) {
    lm_buf b;
    lm_buf_init(&b, 4096);
    snprintf(c->error, sizeof c->error, "%s", text);
    relay_error_body(c->facts.wire, status, text, &b);
    reply(c, status, TYPE_JSON, lm_buf_view(&b));
    lm_buf_release(&b);
}

/* ---- the router's own */

/* What the first of those that are up says of itself. */
static void say_version(call *c) {
    candidate list[LM_ROUTER_MAX_BACKENDS];
    router_facts any = {.route = ROUTE_PASS};
    uint32_t n = backends_choose(c->gen->backends, &any, list);
    json_t *status = backends_states(c->gen->backends);
    const char *version = NULL;
    for (uint32_t i = 0; i < n && !version; i++)
        if (list[i].usable)
            version = json_string_value(json_object_get(
                json_array_get(json_object_get(status, "backends"), list[i].backend), "version"));
    json_t *answer = json_pack("{s:s}", "version", version && version[0] ? version : LM_OLLAMA_VERSION);
    call_reply_json(c, 200, TYPE_JSON, answer);
    json_decref(answer);
    json_decref(status);
}

static json_t *about_router(call *c) {
    return json_pack("{s:b,s:s,s:b,s:I}", "running", 1, "version", LM_VERSION, "hygiene",
                     backends_config(c->gen->backends)->hygiene, "open",
                     (json_int_t)atomic_load(&c->router->n_calls));
}

/* As the bridge: what a backend has to do with a cloud is not the router's. */
static void say_cloud(call *c) {
    reply(c, 200, TYPE_JSON, LM_STR("{\"cloud\":{\"disabled\":true,\"source\":\"config\"}}"));
}

static void say_health(call *c) {
    json_t *status = backends_states(c->gen->backends), *states = json_object(), *b;
    size_t i, up = 0, n = 0;
    json_array_foreach(json_object_get(status, "backends"), i, b) {
        const char *name = json_string_value(json_object_get(b, "name")),
                   *state = json_string_value(json_object_get(b, "state"));
        if (!name || !state) continue;
        json_object_set_new(states, name, json_string(state));
        n++;
        up += strcmp(state, "down") != 0 && strcmp(state, "unknown") != 0;
    }
    json_t *answer = json_pack("{s:s,s:s,s:o,s:I}", "status",
                               up == n ? "ok"
                               : up    ? "degraded"
                                       : "down",
                               "version", LM_VERSION, "backends", states, "open",
                               (json_int_t)atomic_load(&c->router->n_calls));
    call_reply_json(c, up ? 200 : 503, TYPE_JSON, answer);
    json_decref(answer);
    json_decref(status);
}

static void say_status(call *c) {
    json_t *status = backends_json(c->gen->backends);
    json_object_set_new(status, "router", about_router(c));
    call_reply_json(c, 200, TYPE_JSON, status);
    json_decref(status);
}

static void say_metrics(call *c) {
    lm_buf b;
    lm_buf_init(&b, 4u << 20);
    json_t *status = backends_states(c->gen->backends);
    metrics_write(&c->router->metrics, status, atomic_load(&c->router->n_calls), &b);
    reply(c, 200, "text/plain; version=0.0.4; charset=utf-8", lm_buf_view(&b));
    json_decref(status);
    lm_buf_release(&b);
}

/* GET ?model=NAME: a plain chat with it. POST: a request's body; ?path=/v1/messages says whose, /api/chat when it does not. */
static void say_explain(call *c) {
    router_facts f;
    lm_str model = lm_http_query(c->x, "model"), path = lm_http_query(c->x, "path");
    if (!path.len) path = LM_STR("/api/chat");
    if (lm_str_eq(lm_http_method(c->x), LM_STR("GET"))) {
        lm_buf body;
        lm_buf_init(&body, 8192);
        lm_buf_text(&body, "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"model\":");
        lm_json_write_string(&body, model);
        lm_buf_char(&body, '}');
        facts_of(&f, LM_STR("POST"), path, lm_buf_view(&body));
        lm_buf_release(&body);
    } else {
        facts_of(&f, LM_STR("POST"), path, lm_http_body(c->x));
        if (model.len && model.len < sizeof f.model && !f.model[0]) {
            snprintf(f.model, sizeof f.model, "%.*s", LM_STR_ARG(model));
            facts_count(&f);
        }
    }
    if (f.route != ROUTE_INFER || !f.model[0]) {
        call_reply_error(c, 400,
                         f.route != ROUTE_INFER ? "path must be one that models answer, /api/chat for example"
                                                : "say which model: ?model=NAME, or a body that names it");
    } else {
        json_t *answer = backends_explain(c->gen->backends, &f);
        call_reply_json(c, 200, TYPE_JSON, answer);
        json_decref(answer);
    }
    facts_release(&f);
}

static void answer_own(call *c) {
    static const struct {
        const char *path;
        void (*answer)(call *c);
    } own[] = {{"/api/version", say_version},
               {"/api/status", say_cloud},
               {"/health", say_health},
               {"/metrics", say_metrics},
               {"/router/status", say_status},
               {"/router/explain", say_explain}};
    lm_str path = lm_http_path(c->x);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (!lm_str_eq(path, lm_str_of(own[i].path))) continue;
        own[i].answer(c);
        return;
    }
    reply(c, 200, "text/plain; charset=utf-8", LM_STR("Ollama is running"));
}

static void answer_unknown(call *c) {
    lm_buf allowed;
    lm_str path = lm_http_path(c->x);
    lm_buf_init(&allowed, 256);
    facts_allowed(path, &allowed);
    bool without = false;
    if (!allowed.len && path.len > 1 && path.ptr[path.len - 1] == '/') {
        facts_allowed((lm_str){path.ptr, path.len - 1}, &allowed);
        without = allowed.len > 0;
        lm_buf_clear(&allowed);
    }
    lm_http_no_route(c->x, allowed.ptr, without);
    lm_buf_release(&allowed);
    call_close_at_end(c);
}

/* ---- dispatch */

/* Uploads are as long as a disk is large. */
bool router_streams(void *ctx, const lm_http *x) {
    (void)ctx;
    return lm_str_eq(lm_http_method(x), LM_STR("POST")) &&
           lm_str_starts(lm_http_path(x), LM_STR("/api/blobs/"));
}

static void clean(call *c) {
    if (!backends_config(c->gen->backends)->hygiene || c->facts.route != ROUTE_INFER || !c->facts.body)
        return;
    hygiene_clean(c->facts.body, c->facts.wire, &c->hygiene);
    if (!c->hygiene.changed) return;
    facts_count(&c->facts);
    metrics_hygiene(&c->router->metrics, &c->hygiene);
}

void router_handle(void *ctx, lm_http *x) {
    router *r = ctx;
    lm_err err = {0};
    call *c = call_open(r, x);
    if (!lm_guard_pass(c->gen->guard, x)) {
        c->facts.route = ROUTE_OWN;
        call_close_at_end(c);
        return;
    }
    lm_status st = router_streams(NULL, x) ? LM_OK : lm_http_body_status(x, &err);
    facts_read(&c->facts, x);
    if (st != LM_OK) {
        call_reply_error(c, lm_status_http(st), err.text);
        return;
    }
    if (!pass_read_query(c)) {
        char text[100];
        snprintf(text, sizeof text, "the query of this request is longer than %d bytes: shorten it",
                 CALL_MAX_QUERY);
        call_reply_error(c, 414, text);
        return;
    }
    clean(c);
    switch (c->facts.route) {
    case ROUTE_INFER:
    case ROUTE_MODEL: pass_infer(c); break;
    case ROUTE_MERGE: merge_handle(c); break;
    case ROUTE_WRITE: writes_handle(c); break;
    case ROUTE_PASS: pass_first_ollama(c); break;
    case ROUTE_OWN: answer_own(c); break;
    case ROUTE_UNKNOWN: answer_unknown(c); break;
    }
}
