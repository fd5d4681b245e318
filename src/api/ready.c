/* The first use of a model that is a GGUF file of another store: it is imported on a thread of its own, and
 * then the call is answered from its beginning. */
#include <stdlib.h>

#include "api/private.h"

typedef struct import {
    lm_entry model;
    lm_api_handler *again;
    unsigned shown; /* percent */
} import;

typedef struct progress {
    lm_call *call;
    import *work;
} progress;

static bool goes_on(void *ctx, uint64_t done, uint64_t total) {
    progress *p = ctx;
    unsigned percent = total ? (unsigned)(done * 100 / total) : 0;
    if (percent >= p->work->shown + 10) {
        p->work->shown = percent - percent % 10;
        lm_log(LM_LOG_INFO, "importing", "model=%s percent=%u", p->work->model.name, p->work->shown);
    }
    return !lm_call_gone(p->call);
}

static void run(lm_call *call, void *arg) {
    import *w = arg;
    progress p = {call, w};
    lm_err err = {0};
    lm_buf b;
    lm_buf_init(&b, 8192);
    lm_log_field(&b, "model", lm_str_of(w->model.name));
    lm_log_field(&b, "file", lm_str_of(w->model.file));
    lm_log(LM_LOG_INFO, "importing", "%s", b.ptr ? b.ptr : "");
    lm_buf_release(&b);
    lm_status st = lm_store_ready(call->api->config.store, &w->model, goes_on, &p, &err);
    call->import = st;
    call->import_error = err;
    call->imported = true;
    if (st == LM_OK) lm_log(LM_LOG_INFO, "imported", "model=%s", w->model.name);
    w->again(call);
    free(w);
}

lm_status lm_call_ready(lm_call *call, const lm_entry *model, lm_api_handler *again, bool *later,
                        lm_err *err) {
    *later = false;
    if (!model->gguf) return LM_OK;
    if (call->imported) { /* the model has gone again, or the import has failed */
        if (call->import == LM_OK)
            return lm_fail(err, LM_BUSY, "model '%s' was removed while it was imported", model->name);
        return lm_fail(err, call->import, "%s", call->import_error.text);
    }
    if (lm_store_needs_asking(call->api->config.store)) {
        lm_entry copy = *model;
        return lm_store_ready(call->api->config.store, &copy, NULL, NULL, err);
    }
    import *w = lm_alloc(sizeof *w);
    *w = (import){.model = *model, .again = again};
    lm_status st = lm_call_detach(call, run, w, err);
    *later = st == LM_OK;
    if (st != LM_OK) free(w);
    return st;
}
