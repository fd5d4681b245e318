/* relay.c - all of a relay happens on the pump's thread. The exchange's end comes from the http thread and is sent on to it as a
 * timer of no delay; only resuming a flow that waits for room is done from there.
 *
 * A relay lives until its exchange is over and no flow of its runs: only then is it known how both ended.
 */
#include "router/relay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "router/events.h"

#define WAITING_HIGH                                                                                         \
    (128u << 10) /* bytes that a client has not taken, from which on its backend stands still */
#define WAITING_LOW (32u << 10) /* until so few are left */
#define DRAIN_MS    2000        /* for the end of a body whose last event has come */
#define MAX_PASSED  8

static const char no_answer[] = "the server sent what is no answer of this kind";

/* Of a backend's answer, besides its Content-Type. */
static const char *const passed_on[MAX_PASSED] = {
    "Cache-Control", "Retry-After", "WWW-Authenticate",     "X-Accel-Buffering",
    "X-Request-Id",  "Request-Id",  "OpenAI-Processing-Ms", "OpenAI-Version",
};

/* What a backend answered, as far as it is needed. */
typedef struct head {
    int status; /* 0: nothing */
    char type[256];
    char *passed[MAX_PASSED]; /* values */
} head;

typedef struct relay {
    relay_job job;
    lm_pump *pump;
    lm_http *x;
    uint32_t refs;
    char method[16];

    /* the client's side */
    bool committed; /* status and headers are out */
    bool answered;  /* nothing more will be written */
    bool x_over;    /* it has all, or has gone */
    bool x_gone;    /* set before the timer that sets x_over */
    bool told_over;

    /* the attempt that runs */
    relay_target target;
    lm_flow *flow; /* NULL: none runs */
    uint64_t started_ns, first_ns;
    head head;
    uint32_t retry_after_s;
    bool streams;
    bool saw_end;    /* its last event came */
    bool told_error; /* after the commit: the backend's own words for it have gone out */
    bool cancelled;  /* by us */
    bool judged;     /* verdict holds, whatever comes */
    bool told;       /* `last` is this one's, and its owner knows */
    bool worded;     /* its error is one of this wire */
    attempt_end verdict;
    char error[256];
    events events;
    lm_buf held; /* a whole answer's body */

    attempt last; /* that ended */

    /* what the client is told when nobody is left: of the last one, but a 404 says less than what came before it, unless that is a
     * 404 too, of a server that does not know the path, and this one says it in words of the wire */
    attempt worst;
    bool worst_worded;
    head failed; /* what it answered */
    lm_buf failed_body;
} relay;

static void try_next(relay *r);

/* ---- small parts */

static void head_release(head *h) {
    for (int i = 0; i < MAX_PASSED; i++) free(h->passed[i]);
    *h = (head){0};
}

static void relay_unref(relay *r) {
    if (--r->refs) return;
    head_release(&r->head);
    head_release(&r->failed);
    lm_buf_release(&r->held);
    lm_buf_release(&r->failed_body);
    lm_http_unref(r->x);
    free(r);
}

static void look_whether_over(relay *r) {
    if (r->told_over || !r->x_over || r->flow) return;
    r->told_over = true;
    r->job.over(r->job.ctx, r->x_gone);
}

static void cancel(relay *r) {
    if (r->cancelled || !r->flow) return;
    r->cancelled = true;
    lm_flow_cancel(r->flow);
}

/* The attempt is over with this, whatever its flow's end will be. */
static void settle(relay *r, attempt_end end, const char *why) {
    if (r->judged) return;
    r->judged = true;
    r->verdict = end;
    snprintf(r->error, sizeof r->error, "%.*s", (int)sizeof r->error - 1, why);
    cancel(r);
}

/* How the attempt ended, to whom it belongs: before the client hears the last of it. */
static void tell(relay *r, attempt_end end) {
    if (r->told) return;
    r->told = true;
    r->last = (attempt){.end = end,
                        .status = r->head.status,
                        .retry_after_s = r->retry_after_s,
                        .first_ns = r->first_ns,
                        .total_ns = lm_now_ns() - r->started_ns,
                        .committed = r->committed || end == ATTEMPT_OK || end == ATTEMPT_CLIENT};
    snprintf(r->last.error, sizeof r->last.error, "%s", end == ATTEMPT_OK ? "" : r->error);
    r->job.ended(r->job.ctx, &r->last);
}

/* ---- to the client */

static void set_headers(relay *r, const head *h) {
    r->job.commit(r->job.ctx, r->x);
    for (int i = 0; i < MAX_PASSED; i++)
        if (h && h->passed[i]) lm_http_set_header(r->x, passed_on[i], h->passed[i]);
}

static void commit_stream(relay *r) {
    set_headers(r, &r->head);
    lm_http_stream(r->x, r->head.status, r->head.type[0] ? r->head.type : NULL);
    r->committed = true;
}

static void write_out(relay *r, lm_str bytes) {
    if (!r->answered && lm_http_write(r->x, bytes) != LM_OK) settle(r, ATTEMPT_LEFT, "the client has gone");
}

static void end_stream(relay *r) {
    if (!r->answered) lm_http_end(r->x);
    r->answered = true;
}

static void reply(relay *r, const head *h, lm_str body) {
    set_headers(r, h);
    lm_http_reply(r->x, h->status, h->type[0] ? h->type : NULL, r->job.head ? (lm_str){0} : body);
    r->committed = r->answered = true;
}

static void reply_error(relay *r, int status, const char *text) {
    lm_buf body;
    lm_buf_init(&body, 4096);
    relay_error_body(r->job.wire, status, text, &body);
    reply(r, &(head){.status = status, .type = "application/json; charset=utf-8"}, lm_buf_view(&body));
    lm_buf_release(&body);
}

/* Nobody is left to ask: what was said, or in our words why there is no answer. */
static void reply_failure(relay *r) {
    char text[512];
    if (r->failed.status >= 300) {
        reply(r, &r->failed, lm_buf_view(&r->failed_body));
    } else if (r->worst.end == ATTEMPT_FAILED) { /* an error within an answer that began well */
        reply_error(r, 500, r->worst.error);
    } else if (r->worst.error[0]) {
        snprintf(text, sizeof text, "no backend could answer: %s: `ollama-to-mlx-router status` shows them",
                 r->worst.error);
        reply_error(r, r->worst.end == ATTEMPT_TIMEOUT ? 504 : 502, text);
    } else {
        reply_error(r, r->job.none_status ? r->job.none_status : 503, r->job.none_text);
    }
}

/* ---- the answer as it comes */

/* Its answer is whole, and the client has it. */
static void give_drain_up(void *ctx) {
    lm_flow *f = ctx;
    lm_flow_cancel(f);
    lm_flow_unref(f);
}

static void take_good(relay *r, const event *e) {
    if (!r->committed) {
        r->first_ns = lm_now_ns() - r->started_ns;
        commit_stream(r);
    }
    if (e->end) {
        r->saw_end = true;
        tell(r, ATTEMPT_OK);
    }
    write_out(r, e->bytes);
    if (!e->end || r->judged) return;
    end_stream(r);
    lm_pump_later(r->pump, DRAIN_MS, give_drain_up, lm_flow_ref(r->flow));
}

static bool take_event(void *ctx, const event *e) {
    relay *r = ctx;
    switch (e->kind) {
    case EVENT_NOISE:
        if (r->committed) write_out(r, e->bytes);
        break;
    case EVENT_GOOD: take_good(r, e); break;
    case EVENT_ERROR:
        if (r->committed) {
            write_out(r, e->bytes);
            r->told_error = true;
        }
        settle(r, ATTEMPT_FAILED, e->text);
        break;
    case EVENT_GARBAGE: settle(r, ATTEMPT_BROKE, no_answer); break;
    }
    return !r->judged && !r->saw_end;
}

static void take_streamed(relay *r, lm_str piece) {
    lm_err err = {0};
    if (events_feed(&r->events, piece, take_event, r, &err) == LM_TOO_LARGE)
        settle(r, ATTEMPT_BROKE, err.text);
}

/* An answer that is too large to be held goes as it comes, from here on. */
static void let_go(relay *r) {
    event said;
    lm_buf out;
    lm_buf_init(&out, 2 * (size_t)RELAY_HOLD_MAX);
    events_whole(r->job.wire, lm_buf_view(&r->held), true, r->target.echo_from, r->target.echo_to, &out,
                 &said);
    commit_stream(r);
    write_out(r, said.bytes);
    lm_buf_release(&out);
    lm_buf_release(&r->held);
}

static void take_whole(relay *r, lm_str piece) {
    if (r->committed) {
        write_out(r, piece);
        return;
    }
    if (!r->held.len) r->first_ns = lm_now_ns() - r->started_ns;
    lm_buf_str(&r->held, piece);
    if (r->held.failed)
        settle(r, ATTEMPT_BROKE, "there is no memory for the answer");
    else if (r->held.len > RELAY_HOLD_MAX && r->head.status < 300)
        let_go(r);
    else if (r->held.len > RELAY_HOLD_MAX)
        settle(r, ATTEMPT_FAILED, "the server's error is larger than any text");
}

static void go_on(void *ctx) {
    lm_flow *f = ctx;
    lm_flow_resume(f);
    lm_flow_unref(f);
}

static bool on_body(void *ctx, lm_str piece) {
    relay *r = ctx;
    if (r->judged || r->answered) return true;
    if (r->committed && lm_http_waiting(r->x) > WAITING_HIGH) {
        lm_flow *f = lm_flow_ref(r->flow);
        if (!lm_http_on_room(r->x, WAITING_LOW, go_on, f)) lm_flow_unref(f);
        return false;
    }
    if (r->streams)
        take_streamed(r, piece);
    else
        take_whole(r, piece);
    return true;
}

static bool on_head(void *ctx, const lm_answer *a) {
    relay *r = ctx;
    head *h = &r->head;
    h->status = a->status;
    r->retry_after_s = a->retry_after_s;
    snprintf(h->type, sizeof h->type, "%.*s", LM_STR_ARG(lm_answer_header(a, "Content-Type")));
    for (int i = 0; i < MAX_PASSED; i++) {
        lm_str value = lm_answer_header(a, passed_on[i]);
        if (value.len && value.len < 1024) h->passed[i] = lm_str_dup(value);
    }
    const char *streamed = r->job.wire == WIRE_OLLAMA ? "application/x-ndjson" : "text/event-stream";
    r->streams = a->status < 300 && !r->job.head && !strcmp(a->content_type, streamed);
    return true;
}

/* ---- how an attempt ended */

static attempt_end end_of_failure(lm_status st) {
    switch (st) {
    case LM_NOT_FOUND: return ATTEMPT_REFUSED;
    case LM_TIMEOUT: return ATTEMPT_TIMEOUT;
    default: return ATTEMPT_BROKE;
    }
}

static attempt_end end_of_status(int status) {
    if (status < 400) return ATTEMPT_OK;
    if (status == 429 || status == 503) return ATTEMPT_BUSY;
    if (status == 404) return ATTEMPT_NO_MODEL;
    return status < 500 ? ATTEMPT_CLIENT : ATTEMPT_FAILED;
}

/* Of an answer that came whole and is held: what it says into r->error. */
static attempt_end judge_whole(relay *r, lm_buf *out, lm_str *body) {
    *body = lm_buf_view(&r->held);
    attempt_end end = end_of_status(r->head.status);
    bool json = lm_str_starts(lm_str_of(r->head.type), LM_STR("application/json"));
    event said = {.kind = body->len ? EVENT_GARBAGE : EVENT_GOOD, .bytes = *body};
    if (json && !r->job.head && r->head.status != 204)
        events_whole(r->job.wire, *body, false, r->target.echo_from, r->target.echo_to, out, &said);
    r->worded = said.text[0];
    if (end != ATTEMPT_OK) {
        snprintf(r->error, sizeof r->error, "the server answered %d%s%.200s", r->head.status,
                 said.text[0] ? ": " : "", said.text);
        return end;
    }
    *body = said.bytes;
    if (said.kind == EVENT_GOOD || r->head.status >= 300) return ATTEMPT_OK;
    snprintf(r->error, sizeof r->error, "%s", said.kind == EVENT_ERROR ? said.text : no_answer);
    return said.kind == EVENT_ERROR ? ATTEMPT_FAILED : ATTEMPT_BROKE;
}

static attempt_end judge(relay *r, lm_status st, const char *text, lm_buf *out, lm_str *body) {
    if (r->saw_end) return ATTEMPT_OK;
    if (r->judged) return r->verdict;
    if (r->x_over || st == LM_CANCELLED) return ATTEMPT_LEFT; /* the client, or the pump closes */
    if (st != LM_OK) {
        snprintf(r->error, sizeof r->error, "%s", text);
        return end_of_failure(st);
    }
    if (r->streams) {
        snprintf(r->error, sizeof r->error, "the server's answer ended before its end");
        return ATTEMPT_BROKE;
    }
    if (r->committed) return ATTEMPT_OK;
    return judge_whole(r, out, body);
}

/* What the client gets when an answer that it has begun to read ends. */
static void finish_committed(relay *r) {
    if (r->answered) return;
    if (!r->streams && r->last.end != ATTEMPT_OK) {
        lm_http_cut(r->x); /* in the middle of a body: there is no place for words */
        r->answered = true;
        return;
    }
    if (r->last.end != ATTEMPT_OK && !r->told_error) {
        lm_buf b;
        lm_buf_init(&b, 4096);
        relay_error_event(r->job.wire, r->error[0] ? r->error : "the router is stopping", &b);
        write_out(r, lm_buf_view(&b));
        lm_buf_release(&b);
    }
    end_stream(r);
}

static void keep_failure(relay *r) {
    bool first = !r->worst.error[0];
    bool better = r->worst.end == ATTEMPT_NO_MODEL && !r->worst_worded && r->worded;
    if (r->last.end == ATTEMPT_NO_MODEL && !first && !better) return;
    r->worst = r->last;
    r->worst_worded = r->worded;
    head_release(&r->failed);
    lm_buf_release(&r->failed_body);
    r->failed = r->head;
    r->failed_body = r->held;
    if (r->judged && r->failed.status >= 300) r->failed.status = 0; /* its body is not whole */
    r->head = (head){0};
    lm_buf_init(&r->held, RELAY_HOLD_MAX + (1u << 20));
}

static void on_end(void *ctx, lm_status st, const char *text) {
    relay *r = ctx;
    lm_buf out;
    lm_str body = {0};
    lm_buf_init(&out, 2 * (size_t)RELAY_HOLD_MAX);
    lm_flow_unref(r->flow);
    r->flow = NULL;
    events_release(&r->events);

    attempt_end end = judge(r, st, text, &out, &body);
    tell(r, end);
    if (r->committed) {
        finish_committed(r);
    } else if (end == ATTEMPT_OK || end == ATTEMPT_CLIENT) {
        reply(r, &r->head, body);
    } else if (end == ATTEMPT_LEFT) {
        if (!r->x_over) reply_error(r, 503, "the router is stopping: try again in a moment");
    } else {
        keep_failure(r);
        try_next(r);
    }
    lm_buf_release(&out);
    look_whether_over(r);
    relay_unref(r);
}

/* ---- attempts */

static void begin_attempt(relay *r) {
    const relay_target *t = &r->target;
    r->started_ns = lm_now_ns();
    r->first_ns = 0;
    r->retry_after_s = 0;
    r->streams = r->saw_end = r->told_error = r->cancelled = r->judged = r->told = r->worded = false;
    r->error[0] = '\0';
    head_release(&r->head);
    lm_buf_release(&r->held);
    events_init(&r->events, r->job.wire, t->echo_from, t->echo_to);
    r->refs++;
    r->flow = lm_pump_start(r->pump, &(lm_flow_ask){.method = r->method,
                                                    .url = t->url,
                                                    .headers = t->headers,
                                                    .body = t->body,
                                                    .connect_ms = t->connect_ms,
                                                    .first_ms = t->first_ms,
                                                    .silent_ms = t->silent_ms,
                                                    .on_head = on_head,
                                                    .on_body = on_body,
                                                    .on_end = on_end,
                                                    .ctx = r});
}

static void try_again(void *ctx) {
    relay *r = ctx;
    try_next(r);
    relay_unref(r);
}

static void try_next(relay *r) {
    if (r->x_over || lm_http_gone(r->x)) return; /* nobody waits for it */
    uint32_t wait_ms = 0;
    memset(&r->target, 0, sizeof r->target);
    if (!r->job.next(r->job.ctx, &r->target, &wait_ms)) {
        reply_failure(r);
    } else if (wait_ms) {
        r->refs++;
        lm_pump_later(r->pump, wait_ms, try_again, r);
    } else {
        begin_attempt(r);
    }
}

static void end_exchange(void *ctx) {
    relay *r = ctx;
    r->x_over = true;
    if (r->x_gone) cancel(r);
    look_whether_over(r);
    relay_unref(r);
}

/* The http thread. */
static void on_exchange_end(void *ctx, bool gone) {
    relay *r = ctx;
    r->x_gone = gone;
    lm_pump_later(r->pump, 0, end_exchange, r);
}

void relay_start(lm_pump *pump, const relay_job *job) {
    relay *r = lm_alloc(sizeof *r);
    r->job = *job;
    r->pump = pump;
    r->x = lm_http_ref(job->x);
    r->refs = 2; /* the first attempt's timer, and the exchange's end */
    snprintf(r->method, sizeof r->method, "%.*s", LM_STR_ARG(lm_http_method(job->x)));
    lm_buf_init(&r->held, RELAY_HOLD_MAX + (1u << 20));
    lm_pump_later(pump, 0, try_again, r);
    lm_http_on_end(job->x, on_exchange_end, r);
}

/* ---- errors in the words of a wire */

static const char *anthropic_type(int status) {
    switch (status) {
    case 400: return "invalid_request_error";
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 503: return "overloaded_error";
    default: return "api_error";
    }
}

static const char *openai_type(int status) {
    if (status == 404) return "not_found_error";
    if (status == 429) return "rate_limit_error";
    return status < 500 ? "invalid_request_error" : "api_error";
}

void relay_error_body(router_wire wire, int status, const char *text, lm_buf *out) {
    switch (wire) {
    case WIRE_OLLAMA:
        lm_buf_text(out, "{\"error\":");
        lm_json_write_string(out, lm_str_of(text));
        lm_buf_text(out, "}");
        break;
    case WIRE_OPENAI:
    case WIRE_RESPONSES:
        lm_buf_text(out, "{\"error\":{\"message\":");
        lm_json_write_string(out, lm_str_of(text));
        lm_buf_printf(out, ",\"type\":\"%s\",\"param\":null,\"code\":null}}", openai_type(status));
        break;
    case WIRE_ANTHROPIC:
        lm_buf_printf(out,
                      "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", anthropic_type(status));
        lm_json_write_string(out, lm_str_of(text));
        lm_buf_text(out, "}}");
        break;
    }
}

void relay_error_event(router_wire wire, const char *text, lm_buf *out) {
    switch (wire) {
    case WIRE_OLLAMA: break;
    case WIRE_OPENAI: lm_buf_text(out, "data: "); break;
    case WIRE_RESPONSES:
        lm_buf_text(out, "event: error\ndata: {\"type\":\"error\",\"code\":\"server_error\",\"message\":");
        lm_json_write_string(out, lm_str_of(text));
        lm_buf_text(out, ",\"param\":null}\n\n");
        return;
    case WIRE_ANTHROPIC: lm_buf_text(out, "event: error\ndata: "); break;
    }
    relay_error_body(wire, 500, text, out);
    lm_buf_text(out, wire == WIRE_OLLAMA ? "\n" : "\n\n");
}
