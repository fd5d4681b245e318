/* POST /v1/responses: the checks of Ollama's own endpoints, then the engine. */
#include "api/responses.h"

#define MAX_PACKED_BODY                                                                                      \
    (20u << 20) /* bytes that a packed body may have once it is unpacked, as with Ollama */

static lm_status read_body(lm_call *call, responses_request *r, lm_err *err) {
    lm_buf plain;
    lm_str body = lm_http_body(call->x);
    lm_buf_init(&plain, MAX_PACKED_BODY);
    lm_status st = lm_http_body_status(call->x, err);
    if (st == LM_OK) st = lm_http_unpack(call->x, &plain, &body, err);
    if (st == LM_OK) st = responses_request_read(body, r, err);
    lm_buf_release(&plain);
    return st;
}

static lm_status start(lm_call *call, responses_request *r, const lm_entry *model, lm_err *err) {
    responses_run *run = responses_run_new(call, r);
    lm_request *q = r->ask.request;
    r->ask.request = NULL; /* the engine's now, whatever comes of it */
    lm_status st = lm_call_submit(call, model, q, responses_sink, run, err);
    if (st != LM_OK) responses_run_free(run);
    return st;
}

void responses_create(lm_call *call) {
    responses_request r = {0};
    lm_entry model;
    lm_err err = {0};
    bool later = false;
    lm_status st = read_body(call, &r, &err);
    if (st == LM_OK) {
        lm_call_note_model(call, r.ask.model);
        st = ollama_find_model(call, &r.ask, &model, &err);
    }
    if (st == LM_OK) st = lm_call_ready(call, &model, responses_create, &later, &err);
    if (later) {
        responses_request_release(&r);
        return;
    }
    lm_http_body_drop(call->x);
    if (st == LM_OK) st = ollama_meet_model(call, &r.ask, &model, &err);
    if (st == LM_OK) st = start(call, &r, &model, &err);
    if (st != LM_OK) openai_error(call, st, err.text);
    responses_request_release(&r);
}
