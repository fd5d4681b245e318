/* OpenAI's routes. POST /v1/chat/completions and /v1/completions: the checks of Ollama's own endpoints, then
 * the engine, once for each answer. */
#include "api/responses.h"

static void start(lm_call *call, openai_request *r, const lm_entry *model) {
    openai_run *run = openai_run_new(call, r);
    lm_err err = {0};
    lm_status st = LM_OK;
    uint32_t n = 0;
    while (st == LM_OK && n < r->n_choices) {
        lm_request *q = NULL;
        st = openai_request_choice(r, n, &q, &err);
        if (st == LM_OK) st = lm_call_submit(call, model, q, openai_sink, openai_run_choice(run, n), &err);
        if (st == LM_OK) n++;
    }
    openai_run_started(run, n, st, err.text);
}

static lm_api_handler openai_chat, openai_completion;

static void infer(lm_call *call, openai_form form) {
    openai_request r = {0};
    lm_entry model;
    lm_err err = {0};
    bool later = false;
    lm_status st = lm_http_body_status(call->x, &err);
    if (st == LM_OK) st = openai_request_read(lm_http_body(call->x), form, &r, &err);
    if (st == LM_OK) {
        lm_call_note_model(call, r.ask.model);
        st = ollama_find_model(call, &r.ask, &model, &err);
    }
    if (st == LM_OK)
        st = lm_call_ready(call, &model, form == OPENAI_CHAT ? openai_chat : openai_completion, &later, &err);
    if (later) {
        openai_request_release(&r);
        return;
    }
    lm_http_body_drop(call->x);
    if (st == LM_OK) st = ollama_meet_model(call, &r.ask, &model, &err);
    if (st == LM_OK)
        start(call, &r, &model);
    else
        openai_error(call, st, err.text);
    openai_request_release(&r);
}

static void openai_chat(lm_call *call) {
    infer(call, OPENAI_CHAT);
}

static void openai_completion(lm_call *call) {
    infer(call, OPENAI_COMPLETION);
}

const lm_route lm_openai_routes[] = {
    {"POST", "/v1/chat/completions", openai_chat},
    {"POST", "/v1/completions", openai_completion},
    {"POST", "/v1/responses", responses_create},
    {"POST", "/v1/embeddings", openai_embeddings},
    {"GET", "/v1/models", openai_models},
    {"GET", "/v1/models/*", openai_model},
    {NULL, NULL, NULL},
};
