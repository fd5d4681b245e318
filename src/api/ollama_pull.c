/* /api/pull and /api/push: the hub's work (hub/), told as Ollama tells it. */
#include <stdlib.h>

#include "api/ollama.h"
#include "api/progress.h"
#include "hub/hub.h"

bool ollama_remote_read(lm_call *call, const char *type, const char *nameless, ollama_remote *out) {
    ollama_named n = {0};
    lm_name name;
    lm_err err = {0};
    ollama_remote r = {.progress = {.call = call, .stream = true}};
    lm_status st = ollama_named_read(call, type, &n, &err);
    if (st == LM_OK) {
        lm_fields f = lm_fields_of(n.body, type);
        lm_field_bool(&f, "stream", &r.progress.stream);
        lm_field_bool(&f, "insecure", &r.insecure);
        st = f.st;
        err = f.err;
    }
    if (st == LM_OK && !n.model[0]) st = lm_fail(&err, LM_INVALID, "%s", nameless);
    if (st == LM_OK) st = lm_name_parse(lm_str_of(n.model), &name, &err);
    if (st == LM_OK) {
        r.model = n.model;
        n.model = NULL;
        *out = r;
    } else {
        ollama_error(call, st, err.text);
    }
    ollama_named_release(&n);
    return st == LM_OK;
}

void ollama_remote_release(ollama_remote *r) {
    free(r->model);
}

static void tell_status(void *ctx, const char *text) {
    ollama_progress_status(ctx, text);
}

static void tell_pulled(void *ctx, const char *digest, uint64_t total, uint64_t completed) {
    ollama_progress_layer(ctx, "pulling", digest, total, completed);
}

static void tell_pushed(void *ctx, const char *digest, uint64_t total, uint64_t completed) {
    ollama_progress_layer(ctx, "pushing", digest, total, completed);
}

static bool goes_on(void *ctx) {
    const ollama_progress *p = ctx;
    return !lm_call_gone(p->call);
}

lm_status ollama_pull_model(ollama_progress *p, const char *name, bool insecure, lm_err *err) {
    lm_pull pull = {.name = name,
                    .insecure = insecure,
                    .status = tell_status,
                    .bytes = tell_pulled,
                    .go_on = goes_on,
                    .ctx = p};
    return lm_hub_pull(p->call->api->config.store, &pull, err);
}

static lm_status push_model(ollama_progress *p, const char *name, bool insecure, lm_err *err) {
    lm_pull push = {.name = name,
                    .insecure = insecure,
                    .status = tell_status,
                    .bytes = tell_pushed,
                    .go_on = goes_on,
                    .ctx = p};
    return lm_hub_push(p->call->api->config.store, &push, err);
}

static void end(ollama_remote *r, lm_status st, const char *text) {
    if (st == LM_OK || st == LM_CANCELLED)
        ollama_progress_end(&r->progress, st, text);
    else
        ollama_progress_refuse(&r->progress, text);
    ollama_remote_release(r);
    free(r);
}

static void run_pull(lm_call *call, void *arg) {
    ollama_remote *r = arg;
    lm_err err = {0};
    (void)call;
    lm_status st = ollama_pull_model(&r->progress, r->model, r->insecure, &err);
    end(r, st, err.text);
}

static void run_push(lm_call *call, void *arg) {
    ollama_remote *r = arg;
    lm_err err = {0};
    (void)call;
    lm_status st = push_model(&r->progress, r->model, r->insecure, &err);
    end(r, st, err.text);
}

static void begin(lm_call *call, const char *type, const char *nameless,
                  void (*run)(lm_call *call, void *arg)) {
    ollama_remote *r = lm_alloc(sizeof *r);
    lm_err err = {0};
    if (!ollama_remote_read(call, type, nameless, r)) {
        free(r);
        return;
    }
    lm_status st = lm_call_detach(call, run, r, &err);
    if (st == LM_OK) return;
    ollama_error(call, st, err.text);
    ollama_remote_release(r);
    free(r);
}

void ollama_pull(lm_call *call) {
    begin(call, "PullRequest", "invalid model name", run_pull);
}

void ollama_push(lm_call *call) {
    begin(call, "PushRequest", "model is required", run_push);
}
