/* Changing what there is: copy, delete; and the account, which this server does not use. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/ollama.h"
#include "api/progress.h"

/* ---- copy */

typedef struct copy {
    char *source, *destination;
} copy;

static bool copy_goes_on(void *ctx, uint64_t done, uint64_t total) {
    (void)done;
    (void)total;
    return !lm_call_gone(ctx);
}

static void copy_free(copy *c) {
    free(c->source);
    free(c->destination);
    free(c);
}

static void run_copy(lm_call *call, void *arg) {
    copy *c = arg;
    lm_err err = {0};
    lm_status st =
        lm_store_copy(call->api->config.store, c->source, c->destination, copy_goes_on, call, &err);
    if (st == LM_OK)
        lm_reply_empty(call, 200);
    else
        ollama_error(call, st, err.text);
    copy_free(c);
}

static lm_status read_copy(lm_call *call, copy *out, lm_err *err) {
    json_t *body = NULL;
    lm_name name;
    const char *source = "", *destination = "";
    lm_status st = lm_http_body_status(call->x, err);
    if (st == LM_OK) st = lm_fields_parse(lm_http_body(call->x), "CopyRequest", &body, err);
    if (st != LM_OK) return st;
    lm_fields f = lm_fields_of(body, "CopyRequest");
    lm_field_str(&f, "source", &source, NULL);
    lm_field_str(&f, "destination", &destination, NULL);
    st = f.st;
    if (st != LM_OK)
        lm_fail(err, st, "%s", f.err.text);
    else if (lm_name_parse(lm_str_of(source), &name, NULL) != LM_OK)
        st = lm_fail(err, LM_INVALID, "source \"%.200s\" is invalid", source);
    else if (lm_name_parse(lm_str_of(destination), &name, NULL) != LM_OK)
        st = lm_fail(err, LM_INVALID, "destination \"%.200s\" is invalid", destination);
    if (st == LM_OK) *out = (copy){lm_strdup(source), lm_strdup(destination)};
    json_decref(body);
    return st;
}

/* A model of another place is read through once, which may be gigabytes. */
void ollama_copy(lm_call *call) {
    copy *c = lm_alloc(sizeof *c);
    lm_err err = {0};
    lm_status st = read_copy(call, c, &err);
    if (st == LM_OK) {
        lm_call_note_model(call, c->source);
        st = lm_call_detach(call, run_copy, c, &err);
    }
    if (st == LM_OK) return;
    copy_free(c);
    ollama_error(call, st, err.text);
}

/* ---- delete */

void ollama_delete(lm_call *call) {
    ollama_named n = {0};
    lm_entry model;
    lm_err err = {0};
    lm_status st = ollama_named_read(call, "DeleteRequest", &n, &err);
    if (st == LM_OK) {
        lm_name name;
        if (lm_name_parse(lm_str_of(n.model), &name, NULL) != LM_OK)
            st = lm_fail(&err, LM_INVALID, "name \"%.200s\" is invalid", n.model);
    }
    if (st == LM_OK) {
        lm_err none = {0}; /* one that is not whole is not found, but can go */
        if (lm_store_find(call->api->config.store, n.model, &model, &none) == LM_OK)
            st = lm_engine_unload(call->api->config.engine, model.name, &err);
        if (st == LM_OK || st == LM_NOT_FOUND) st = lm_store_delete(call->api->config.store, n.model, &err);
    }
    if (st == LM_OK)
        lm_reply_empty(call, 200);
    else
        ollama_error(call, st, err.text);
    ollama_named_release(&n);
}

/* ---- what is not on this machine */

/* There are no accounts here, so nobody is signed in. */
void ollama_me(lm_call *call) {
    lm_http_reply(call->x, 401, TYPE_JSON, LM_STR("{\"error\":\"unauthorized\"}"));
}

void ollama_signout(lm_call *call) {
    lm_http_reply(call->x, 401, TYPE_JSON, LM_STR("{\"error\":\"you are not currently signed in\"}"));
}
