/* GET /v1/models and /v1/models/NAME. */
#include "api/openai.h"

#include <stdlib.h>
#include <string.h>

#define MAX_LIST (64u << 20) /* bytes */
#define ONE_OF   "/v1/models/"

static void write_model(lm_buf *b, const char *id, const lm_entry *e) {
    lm_name name = {0};
    bool known = lm_name_parse(lm_str_of(e->name), &name, NULL) == LM_OK;
    lm_buf_text(b, "{\"id\":");
    lm_json_write_string(b, lm_str_of(id));
    lm_buf_printf(
        b, ",\"object\":\"model\",\"created\":%lld,\"owned_by\":", (long long)(e->modified_ns / 1000000000));
    lm_json_write_string(b, lm_str_of(known ? name.ns : "library"));
    lm_buf_char(b, '}');
}

static void reply(lm_call *call, lm_buf *b) {
    lm_err err = {0};
    lm_status st = lm_buf_status(b, "the list of models", &err);
    if (st == LM_OK)
        lm_http_reply(call->x, 200, "application/json", lm_buf_view(b));
    else
        openai_error(call, st, err.text);
    lm_buf_release(b);
}

void openai_models(lm_call *call) {
    lm_entry *list = NULL;
    uint32_t n = 0;
    lm_err err = {0};
    lm_status st = lm_store_list(call->api->config.store, &list, &n, &err);
    if (st != LM_OK) {
        openai_error(call, st, err.text);
        return;
    }
    lm_buf b;
    lm_buf_init(&b, MAX_LIST);
    /* null for an empty list is Ollama's */
    lm_buf_text(&b, n ? "{\"object\":\"list\",\"data\":[" : "{\"object\":\"list\",\"data\":null");
    for (uint32_t i = 0; i < n; i++) {
        if (i) lm_buf_char(&b, ',');
        write_model(&b, list[i].name, &list[i]);
    }
    lm_buf_text(&b, n ? "]}" : "}");
    reply(call, &b);
    free(list);
}

void openai_model(lm_call *call) {
    lm_str path = lm_http_path(call->x);
    lm_entry e;
    lm_err err = {0};
    char *name = lm_str_dup((lm_str){path.ptr + strlen(ONE_OF), path.len - strlen(ONE_OF)});
    lm_status st = lm_store_find(call->api->config.store, name, &e, &err);
    if (st == LM_OK) {
        lm_buf b;
        lm_buf_init(&b, MAX_LIST);
        write_model(&b, name, &e);
        reply(call, &b);
    } else {
        openai_error(call, st, err.text);
    }
    free(name);
}
