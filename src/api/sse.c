#include "api/sse.h"

void lm_sse_init(lm_sse *s, lm_call *call, const char *type) {
    *s = (lm_sse){.call = call, .type = type};
    lm_buf_init(&s->out, MAX_ANSWER);
}

void lm_sse_release(lm_sse *s) {
    lm_buf_release(&s->out);
}

void lm_sse_send(lm_sse *s) {
    lm_err err = {0};
    if (!s->dead && (s->out.len || s->out.failed)) {
        if (!s->started) {
            s->started = true;
            lm_http_set_header(s->call->x, "Cache-Control", "no-cache");
            lm_http_stream(s->call->x, 200, s->type);
        }
        lm_status st = lm_buf_status(&s->out, "a piece of the answer", &err);
        if (st == LM_OK) st = lm_http_write(s->call->x, lm_buf_view(&s->out));
        s->dead = st != LM_OK;
        if (s->dead) lm_call_cancel(s->call);
    }
    lm_buf_clear(&s->out);
}

void lm_sse_end(lm_sse *s) {
    lm_sse_send(s);
    lm_http_end(s->call->x);
}
