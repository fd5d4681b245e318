/* POST /api/generate and /api/chat: the checks in Ollama's order, then the engine. */
#include "api/ollama.h"

lm_status ollama_find_model(lm_call *call, const ollama_request *r, lm_entry *model, lm_err *err) {
    if (!r->model[0]) {
        if (r->form == OLLAMA_CHAT) return lm_fail(err, LM_INVALID, "model is required");
        return lm_fail(err, LM_NOT_FOUND, "model '' not found");
    }
    return lm_store_find(call->api->config.store, r->model, model, err);
}

lm_status ollama_read_params(ollama_request *r, const lm_entry *model, lm_err *err) {
    lm_modelfile m = {0};
    lm_status st = lm_modelfile_read(&m, model->dir, err);
    r->params = json_incref(m.params);
    lm_modelfile_release(&m);
    return st;
}

static lm_status meet_modelfile(ollama_request *r, const lm_entry *model, const lm_facts *facts,
                                lm_err *err) {
    lm_modelfile m = {0};
    lm_request *q = r->request;
    lm_status st = lm_modelfile_read(&m, model->dir, err);
    r->params = json_incref(m.params);
    if (st == LM_OK) st = ollama_request_options(r, &facts->sampling, err);
    if (st == LM_OK && q->kind == LM_REQUEST_CHAT) {
        if (q->context) { /* an earlier answer's: the MESSAGEs are in it */
            json_decref(m.messages);
            m.messages = NULL;
        }
        if (!q->messages) r->prelude = json_array();
        ollama_apply_modelfile(&m, q->messages ? q->messages : r->prelude, r->form == OLLAMA_GENERATE);
    }
    lm_modelfile_release(&m);
    return st;
}

lm_status ollama_meet_model(lm_call *call, ollama_request *r, const lm_entry *model, lm_err *err) {
    lm_request *q = r->request;
    lm_facts facts;
    lm_facts_get(call->api->facts, model, &facts);
    if (lm_facts_generates(&facts, r->model, r->form == OLLAMA_CHAT ? "chat" : "generate", err) != LM_OK)
        return LM_INVALID;
    if (r->insert && !facts.inserts) return lm_facts_lack(r->model, "insert", err);
    if (q->tools && !facts.tools) return lm_facts_lack(r->model, "tools", err);
    if (r->images) return lm_facts_lack(r->model, "vision", err);
    if (q->thinking == 1 && !facts.thinking)
        return lm_fail(err, LM_INVALID, "\"%s\" does not support thinking", r->model);
    if (q->thinking < 0 && facts.thinking) q->thinking = 1;
    if (q->template) {
        lm_go_template *t = NULL;
        lm_status st = lm_go_template_open(&t, lm_str_of(q->template), err);
        lm_go_template_close(t);
        if (st != LM_OK) return st;
    }
    return meet_modelfile(r, model, &facts, err);
}

static void unload(lm_call *call, const ollama_request *r, const lm_entry *model) {
    lm_err err = {0};
    lm_status st = lm_engine_unload(call->api->config.engine, model->name, &err);
    if (st == LM_OK || st == LM_NOT_FOUND)
        ollama_reply_idle(call, r->form, r->model, "unload");
    else
        ollama_error(call, st, err.text);
}

static lm_status start(lm_call *call, ollama_request *r, const lm_entry *model, lm_err *err) {
    ollama_run *run = ollama_run_new(call, r);
    lm_request *q = r->request;
    r->request = NULL; /* the engine's now, whatever comes of it */
    lm_status st = lm_call_submit(call, model, q, ollama_sink, run, err);
    if (st != LM_OK) ollama_run_free(run);
    return st;
}

static void infer(lm_call *call, ollama_form form) {
    ollama_request r = {0};
    lm_entry model;
    lm_err err = {0};
    bool later = false;
    lm_status st = lm_http_body_status(call->x, &err);
    if (st == LM_OK) st = ollama_request_read(lm_http_body(call->x), form, &r, &err);
    if (st != LM_OK) goto done;
    lm_call_note_model(call, r.model);
    st = ollama_find_model(call, &r, &model, &err);
    if (st != LM_OK) goto done;
    if (r.empty && r.request->keep_alive_ns == 0) {
        unload(call, &r, &model);
        goto done;
    }
    st = lm_call_ready(call, &model, form == OLLAMA_CHAT ? ollama_chat : ollama_generate, &later, &err);
    if (later) goto released;
    lm_http_body_drop(call->x);
    if (st == LM_OK) st = ollama_meet_model(call, &r, &model, &err);
    if (st == LM_OK) st = start(call, &r, &model, &err);
done:
    if (st != LM_OK) ollama_error(call, st, err.text);
released:
    ollama_request_release(&r);
}

void ollama_generate(lm_call *call) {
    infer(call, OLLAMA_GENERATE);
}

void ollama_chat(lm_call *call) {
    infer(call, OLLAMA_CHAT);
}
