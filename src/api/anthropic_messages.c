/* POST /v1/messages and /v1/messages/count_tokens: the checks that need the model, then the engine. */
#include "api/anthropic.h"
#include "api/ollama.h"
#include "api/pieces.h"

/* What the request wants and the model cannot; settles thinking and the options where nothing was said. A
 * model that does not think is asked all the same, as Ollama does here. */
static lm_status meet_model(lm_call *call, anthropic_request *r, const lm_entry *model, lm_err *err) {
    lm_request *q = r->request;
    lm_facts facts;
    lm_facts_get(call->api->facts, model, &facts);
    if (lm_facts_generates(&facts, r->model, "chat", err) != LM_OK) return LM_INVALID;
    if (q->tools && !facts.tools) return lm_facts_lack(r->model, "tools", err);
    if (r->images) return lm_facts_lack(r->model, "vision", err);
    if (!facts.thinking) {
        q->thinking = -1;
        q->think_level[0] = '\0';
    } else if (q->thinking < 0) {
        q->thinking = 1;
    }
    lm_modelfile m = {0};
    lm_status st = lm_modelfile_read(&m, model->dir, err);
    r->params = json_incref(m.params);
    if (st == LM_OK) st = anthropic_request_options(r, &facts.sampling, err);
    if (st == LM_OK) ollama_apply_modelfile(&m, q->messages, false);
    lm_modelfile_release(&m);
    return st;
}

static lm_status start(lm_call *call, const char *id, anthropic_request *r, const lm_entry *model,
                       lm_err *err) {
    anthropic_run *run = anthropic_run_new(call, id, r);
    lm_request *q = r->request;
    r->request = NULL; /* the engine's now, whatever comes of it */
    lm_status st = lm_call_submit(call, model, q, anthropic_sink, run, err);
    if (st != LM_OK) anthropic_run_free(run);
    return st;
}

static lm_api_handler messages, count_tokens;

static void answer(lm_call *call, anthropic_form form) {
    anthropic_request r = {0};
    lm_entry model;
    lm_err err = {0};
    bool later = false;
    char id[32];
    lm_hex_id("req", id);
    lm_status st = lm_http_body_status(call->x, &err);
    if (st == LM_OK) st = anthropic_request_read(lm_http_body(call->x), form, &r, &err);
    if (st == LM_OK && r.threaded) {
        lm_http_set_header(call->x, "request-id", id);
        anthropic_error_threaded(call, id);
        goto done;
    }
    if (st == LM_OK) {
        lm_call_note_model(call, r.model);
        st = lm_store_find(call->api->config.store, r.model, &model, &err);
    }
    if (st == LM_OK)
        st = lm_call_ready(call, &model, form == ANTHROPIC_COUNT ? count_tokens : messages, &later, &err);
    if (later) goto done;
    lm_http_set_header(call->x, "request-id", id);
    lm_http_body_drop(call->x);
    if (st == LM_OK) st = meet_model(call, &r, &model, &err);
    if (st == LM_OK) st = start(call, id, &r, &model, &err);
    if (st != LM_OK) anthropic_error(call, id, st, err.text);
done:
    anthropic_request_release(&r);
}

static void messages(lm_call *call) {
    answer(call, ANTHROPIC_MESSAGES);
}

static void count_tokens(lm_call *call) {
    answer(call, ANTHROPIC_COUNT);
}

const lm_route lm_anthropic_routes[] = {
    {"POST", "/v1/messages", messages},
    {"POST", "/v1/messages/count_tokens", count_tokens},
    {NULL, NULL, NULL},
};
