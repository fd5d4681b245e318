/* Events of one job become a stream of server-sent events, or one JSON document at the end. Runs on the
 * engine's thread: it formats and hands on. All frames of one event leave in one write. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "api/anthropic.h"
#include "api/calls.h"
#include "api/pieces.h"
#include "api/sse.h"

#define TYPE_SSE "text/event-stream; charset=utf-8"

typedef enum block { BLOCK_NONE, BLOCK_TEXT, BLOCK_THINKING } block;

struct anthropic_run {
    lm_call *call;
    anthropic_form form;
    bool stream, forced, one_call, hide_thinking;
    char request_id[32], id[32];
    char *model;                /* as JSON, with quotes */
    block open;                 /* the block that text is added to */
    uint32_t n_blocks, n_tools; /* begun; of them calls */
    lm_gap gap;
    lm_sse sse;         /* its buffer is also where a whole answer is written */
    lm_buf forced_call; /* the answer to a tool_choice that forces a call */
    lm_buf text,
        content; /* of an answer that is sent as a whole: the open block's text, JSON of those before */
};

static void each_buffer(anthropic_run *run, void (*init)(lm_buf *, size_t)) {
    lm_buf *buffers[] = {&run->forced_call, &run->text, &run->content, &run->gap.held};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
        if (init)
            init(buffers[i], MAX_ANSWER);
        else
            lm_buf_release(buffers[i]);
    }
}

anthropic_run *anthropic_run_new(lm_call *call, const char *request_id, const anthropic_request *r) {
    anthropic_run *run = lm_alloc(sizeof *run);
    run->call = lm_call_ref(call);
    run->form = r->form;
    run->stream = r->stream && r->form == ANTHROPIC_MESSAGES;
    run->forced = r->forced;
    run->hide_thinking = r->hide_thinking;
    run->one_call = r->one_call || r->forced;
    strcpy(run->request_id, request_id);
    lm_hex_id("msg", run->id);
    each_buffer(run, lm_buf_init);
    lm_sse_init(&run->sse, call, TYPE_SSE);
    lm_json_write_string(&run->sse.out, lm_str_of(r->model));
    run->model = lm_buf_take(&run->sse.out);
    return run;
}

void anthropic_run_free(anthropic_run *run) {
    if (!run) return;
    lm_call_unref(run->call);
    free(run->model);
    each_buffer(run, NULL);
    lm_sse_release(&run->sse);
    free(run);
}

/* ---- pieces of JSON */

/* Anthropic counts what came from the cache apart. */
static void write_usage(lm_buf *b, const lm_metrics *m, uint32_t n_out) {
    lm_buf_printf(b,
                  "\"usage\":{\"input_tokens\":%u,\"cache_creation_input_tokens\":0,"
                  "\"cache_read_input_tokens\":%u,\"output_tokens\":%u}",
                  m->n_prompt - m->n_cached, m->n_cached, n_out);
}

static void write_head(lm_buf *b, const anthropic_run *run) {
    lm_buf_printf(b, "\"id\":\"%s\",\"type\":\"message\",\"role\":\"assistant\",\"model\":", run->id);
    lm_buf_text(b, run->model);
}

static void write_tool_head(lm_buf *b, lm_str name) {
    char id[32];
    lm_hex_id("toolu", id);
    lm_buf_printf(b, "\"type\":\"tool_use\",\"id\":\"%s\",\"name\":", id);
    lm_json_write_string(b, name);
}

static void write_reason(lm_buf *b, const anthropic_run *run, const lm_event *e) {
    bool called = run->n_tools > 0;
    const char *reason = called && run->one_call       ? "tool_use" /* what came behind it was not wanted */
                         : e->stop.len                 ? "stop_sequence"
                         : e->reason == LM_DONE_LENGTH ? "max_tokens"
                         : called                      ? "tool_use"
                                                       : "end_turn";
    lm_buf_printf(b, "\"stop_reason\":\"%s\",\"stop_sequence\":", reason);
    if (!strcmp(reason, "stop_sequence"))
        lm_json_write_string(b, e->stop);
    else
        lm_buf_text(b, "null");
}

static const char *error_type(int status) {
    switch (status) {
    case 400: return "invalid_request_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 503: return "overloaded_error";
    case 504: return "timeout_error";
    default: return "api_error";
    }
}

/* details: more members of "error", or "". */
static void write_error(lm_buf *b, const char *request_id, lm_status st, const char *text,
                        const char *details) {
    lm_buf_printf(
        b, "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", error_type(lm_status_http(st)));
    lm_json_write_string(b, lm_str_of(text));
    lm_buf_printf(b, "%s},\"request_id\":\"%s\"}", details, request_id);
}

/* ---- stream */

static void frame(anthropic_run *run, const char *name) {
    lm_buf_printf(&run->sse.out, "event: %s\ndata: {\"type\":\"%s\"", name, name);
}

static void frame_end(anthropic_run *run) {
    lm_buf_text(&run->sse.out, "}\n\n");
}

static void start_message(anthropic_run *run, const lm_metrics *m) {
    if (run->sse.started) return;
    frame(run, "message_start");
    lm_buf_text(&run->sse.out, ",\"message\":{");
    write_head(&run->sse.out, run);
    lm_buf_text(&run->sse.out, ",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,");
    write_usage(&run->sse.out, m, 0);
    lm_buf_char(&run->sse.out, '}');
    frame_end(run);
    frame(run, "ping");
    frame_end(run);
}

static void frame_block(anthropic_run *run, const char *name) {
    frame(run, name);
    lm_buf_printf(&run->sse.out, ",\"index\":%u", run->n_blocks - 1);
}

/* ---- blocks, for both ways */

static void close_block(anthropic_run *run) {
    if (run->open == BLOCK_NONE) return;
    if (run->stream) {
        frame_block(run, "content_block_stop");
        frame_end(run);
    } else {
        lm_buf *b = &run->content;
        bool thinking = run->open == BLOCK_THINKING;
        lm_buf_text(b, run->n_blocks > 1 ? ",{" : "{");
        lm_buf_text(b, thinking ? "\"type\":\"thinking\",\"thinking\":" : "\"type\":\"text\",\"text\":");
        lm_json_write_string(b, lm_buf_view(&run->text));
        lm_buf_text(b, thinking ? ",\"signature\":\"\"}" : "}");
        if (run->text.failed) b->failed = true;
        lm_buf_clear(&run->text);
    }
    run->open = BLOCK_NONE;
}

static void open_block(anthropic_run *run, block kind) {
    if (run->open == kind) return;
    close_block(run);
    run->open = kind;
    run->n_blocks++;
    if (!run->stream) return;
    frame_block(run, "content_block_start");
    lm_buf_text(&run->sse.out,
                kind == BLOCK_THINKING
                    ? ",\"content_block\":{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}"
                    : ",\"content_block\":{\"type\":\"text\",\"text\":\"\"}");
    frame_end(run);
}

static void add_text(anthropic_run *run, block kind, lm_str text) {
    if (!text.len || (run->open != kind && !lm_gap_pass(&run->gap, (int)kind, &text))) return;
    open_block(run, kind);
    if (kind == BLOCK_THINKING && run->hide_thinking) return;
    if (!run->stream) {
        lm_buf_str(&run->text, text);
    } else {
        bool thinking = kind == BLOCK_THINKING;
        frame_block(run, "content_block_delta");
        lm_buf_text(&run->sse.out, thinking ? ",\"delta\":{\"type\":\"thinking_delta\",\"thinking\":"
                                            : ",\"delta\":{\"type\":\"text_delta\",\"text\":");
        lm_json_write_string(&run->sse.out, text);
        lm_buf_char(&run->sse.out, '}');
        frame_end(run);
    }
    lm_buf_clear(&run->gap.held);
}

static void add_call(anthropic_run *run, lm_str name, lm_str input) {
    if (!input.len) input = LM_STR("{}");
    close_block(run);
    lm_buf_clear(&run->gap.held);
    run->n_blocks++;
    run->n_tools++;
    if (!run->stream) {
        lm_buf *b = &run->content;
        lm_buf_text(b, run->n_blocks > 1 ? ",{" : "{");
        write_tool_head(b, name);
        lm_buf_text(b, ",\"input\":");
        lm_buf_str(b, input);
        lm_buf_char(b, '}');
        return;
    }
    frame_block(run, "content_block_start");
    lm_buf_text(&run->sse.out, ",\"content_block\":{");
    write_tool_head(&run->sse.out, name);
    lm_buf_text(&run->sse.out, ",\"input\":{}}");
    frame_end(run);
    frame_block(run, "content_block_delta");
    lm_buf_text(&run->sse.out, ",\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":");
    lm_json_write_string(&run->sse.out, input);
    lm_buf_char(&run->sse.out, '}');
    frame_end(run);
    frame_block(run, "content_block_stop");
    frame_end(run);
}

/* ---- events */

static void take(anthropic_run *run, const lm_event *e) {
    if (run->stream) start_message(run, &e->metrics);
    if (run->one_call && run->n_tools) return;
    if (e->kind == LM_EVENT_TOOL_CALL)
        add_call(run, e->name, e->text);
    else if (e->kind == LM_EVENT_TEXT && run->forced)
        lm_buf_str(&run->forced_call, e->text);
    else
        add_text(run, e->kind == LM_EVENT_THINKING ? BLOCK_THINKING : BLOCK_TEXT, e->text);
    if (run->stream) lm_sse_send(&run->sse);
}

/* The forced call is whole unless something ended it early. */
static void finish_forced(anthropic_run *run) {
    char *name, *input;
    if (!run->forced || run->n_tools || run->forced_call.failed) return;
    if (!lm_forced_call(lm_buf_view(&run->forced_call), &name, &input)) return;
    add_call(run, lm_str_of(name), lm_str_of(input));
    free(name);
    free(input);
}

static void finish_stream(anthropic_run *run, const lm_event *e) {
    start_message(run, &e->metrics);
    finish_forced(run);
    close_block(run);
    frame(run, "message_delta");
    lm_buf_text(&run->sse.out, ",\"delta\":{");
    write_reason(&run->sse.out, run, e);
    lm_buf_text(&run->sse.out, "},");
    write_usage(&run->sse.out, &e->metrics, e->metrics.n_eval);
    frame_end(run);
    frame(run, "message_stop");
    frame_end(run);
    lm_sse_end(&run->sse);
}

static void finish_whole(anthropic_run *run, const lm_event *e) {
    lm_buf *b = &run->sse.out;
    finish_forced(run);
    close_block(run);
    lm_buf_char(b, '{');
    write_head(b, run);
    lm_buf_text(b, ",\"content\":[");
    lm_buf_str(b, lm_buf_view(&run->content));
    lm_buf_text(b, "],");
    write_reason(b, run, e);
    lm_buf_char(b, ',');
    write_usage(b, &e->metrics, e->metrics.n_eval);
    lm_buf_char(b, '}');
    if (run->content.failed || run->forced_call.failed || b->failed)
        anthropic_error(run->call, run->request_id, LM_INTERNAL,
                        "the answer is too large: use stream, or a smaller max_tokens");
    else
        lm_reply_json(run->call, 200, b);
}

static void finish_count(anthropic_run *run, const lm_event *e) {
    lm_buf_printf(&run->sse.out, "{\"input_tokens\":%u}", e->metrics.n_prompt);
    lm_reply_json(run->call, 200, &run->sse.out);
}

static void finish_failed(anthropic_run *run, const lm_event *e) {
    lm_err err = {0};
    lm_fail(&err, e->status, "%.*s", LM_STR_ARG(e->text));
    if (!run->sse.started) {
        anthropic_error(run->call, run->request_id, e->status, err.text);
        return;
    }
    lm_call_note_error(run->call, lm_str_of(err.text));
    lm_buf_text(&run->sse.out, "event: error\ndata: ");
    write_error(&run->sse.out, run->request_id, e->status, err.text, "");
    lm_buf_text(&run->sse.out, "\n\n");
    lm_sse_end(&run->sse);
}

void anthropic_sink(void *ctx, const lm_event *e) {
    anthropic_run *run = ctx;
    switch (e->kind) {
    case LM_EVENT_LOADED: return;
    case LM_EVENT_TEXT:
    case LM_EVENT_THINKING:
    case LM_EVENT_TOOL_CALL: take(run, e); return;
    case LM_EVENT_DONE:
        lm_call_note_metrics(run->call, &e->metrics);
        if (run->form == ANTHROPIC_COUNT)
            finish_count(run, e);
        else if (run->stream)
            finish_stream(run, e);
        else
            finish_whole(run, e);
        break;
    case LM_EVENT_ERROR: finish_failed(run, e); break;
    }
    anthropic_run_free(run);
}

static void reply_error(lm_call *call, const char *request_id, lm_status st, const char *text,
                        const char *details) {
    lm_call_note_error(call, lm_str_of(text));
    lm_buf b;
    lm_buf_init(&b, 8192);
    write_error(&b, request_id, st, text, details);
    lm_reply_json(call, lm_status_http(st), &b);
    lm_buf_release(&b);
}

void anthropic_error(lm_call *call, const char *request_id, lm_status st, const char *text) {
    if (st == LM_CANCELLED) text = "request canceled"; /* it is logged, nobody reads it */
    reply_error(call, request_id, st, text, "");
}

void anthropic_error_threaded(lm_call *call, const char *request_id) {
    reply_error(call, request_id, LM_INVALID,
                "thread: conversations are not kept here; send the full conversation without it",
                ",\"details\":{\"error_code\":\"thread_unsupported_request\"}");
}
