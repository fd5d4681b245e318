/* Events of one job become NDJSON lines, or one JSON document at the end. Runs on the engine's thread: it
 * formats and hands on. A line is written straight into a buffer that keeps its memory from token to token.
 */
#include <stdlib.h>
#include <string.h>

#include "api/ollama.h"
#include "api/pieces.h"

struct ollama_run {
    lm_call *call;
    ollama_form form;
    bool stream;
    bool load; /* an empty request: answered as one document */
    bool render_only;
    bool started; /* the head of the stream is on its way */
    bool dead;    /* the client does not take anything any more */
    uint64_t submitted_ns;
    char *model; /* as JSON, with quotes */
    uint32_t n_tools;
    lm_buf line;
    lm_buf text, thinking, tools,
        logprobs; /* of an answer that is sent as a whole; JSON without its brackets for the last two */
};

ollama_run *ollama_run_new(lm_call *call, const ollama_request *r) {
    ollama_run *run = lm_alloc(sizeof *run);
    run->call = lm_call_ref(call);
    run->form = r->form;
    run->stream = r->stream;
    run->load = r->request->kind == LM_REQUEST_LOAD;
    run->render_only = r->request->render_only;
    run->submitted_ns = lm_now_ns();
    lm_buf *buffers[] = {&run->line, &run->text, &run->thinking, &run->tools, &run->logprobs};
    for (int i = 0; i < 5; i++) lm_buf_init(buffers[i], MAX_ANSWER);
    lm_json_write_string(&run->line, lm_str_of(r->model));
    run->model = lm_buf_take(&run->line);
    return run;
}

void ollama_run_free(ollama_run *run) {
    if (!run) return;
    lm_call_unref(run->call);
    free(run->model);
    lm_buf *buffers[] = {&run->line, &run->text, &run->thinking, &run->tools, &run->logprobs};
    for (int i = 0; i < 5; i++) lm_buf_release(buffers[i]);
    free(run);
}

/* ---- pieces of JSON */

static void write_head(lm_buf *b, const char *model_json) {
    char time[40];
    lm_time_rfc3339(lm_wall_ns(), time);
    lm_buf_text(b, "{\"model\":");
    lm_buf_text(b, model_json);
    lm_buf_text(b, ",\"created_at\":\"");
    lm_buf_text(b, time);
    lm_buf_char(b, '"');
}

/* content, thinking and tool calls where the format wants them; tools is JSON without its brackets */
static void write_message(lm_buf *b, ollama_form form, lm_str content, lm_str thinking, lm_str tools) {
    bool chat = form == OLLAMA_CHAT;
    lm_buf_text(b, chat ? ",\"message\":{\"role\":\"assistant\",\"content\":" : ",\"response\":");
    lm_json_write_string(b, content);
    if (thinking.len) {
        lm_buf_text(b, ",\"thinking\":");
        lm_json_write_string(b, thinking);
    }
    if (tools.len) {
        lm_buf_text(b, ",\"tool_calls\":[");
        lm_buf_str(b, tools);
        lm_buf_char(b, ']');
    }
    if (chat) lm_buf_char(b, '}');
}

static void write_logprobs(lm_buf *b, const lm_token_logprobs *list, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (b->len && b->ptr[b->len - 1] == '}') lm_buf_char(b, ',');
        lm_write_logprobs(b, &list[i], list[i].n_top > 0);
    }
}

static void write_tool_call(lm_buf *b, uint32_t index, lm_str name, lm_str arguments) {
    char id[16];
    lm_call_id(id);
    if (b->len) lm_buf_char(b, ',');
    lm_buf_printf(b, "{\"id\":\"%s\",\"function\":{\"index\":%u,\"name\":", id, index);
    lm_json_write_string(b, name);
    lm_buf_text(b, ",\"arguments\":");
    if (arguments.len)
        lm_buf_str(b, arguments);
    else
        lm_buf_text(b, "{}");
    lm_buf_text(b, "}}");
}

/* Zero is left out, as Go's omitempty does. */
static void write_metric(lm_buf *b, const char *key, uint64_t value) {
    if (value) lm_buf_printf(b, ",\"%s\":%llu", key, (unsigned long long)value);
}

static void write_metrics(lm_buf *b, const ollama_run *run, const lm_metrics *m) {
    uint64_t started = lm_http_started_ns(run->call->x);
    /* Ollama's load_duration is the way to a loaded model, be it only looked up. */
    write_metric(b, "total_duration", lm_now_ns() - started);
    write_metric(b, "load_duration", m->load_ns + (run->submitted_ns - started));
    write_metric(b, "prompt_eval_count", m->n_prompt);
    write_metric(b, "prompt_eval_duration", m->prompt_ns);
    write_metric(b, "eval_count", m->n_eval);
    write_metric(b, "eval_duration", m->eval_ns);
}

static void write_context(lm_buf *b, const int32_t *ids, uint32_t n) {
    if (!n) return;
    lm_buf_text(b, ",\"context\":[");
    for (uint32_t i = 0; i < n; i++) lm_buf_printf(b, "%s%d", i ? "," : "", ids[i]);
    lm_buf_char(b, ']');
}

/* ---- stream */

/* Sends the line; a client who does not take it has its job cancelled. */
static void send_line(ollama_run *run) {
    lm_buf *b = &run->line;
    lm_err err = {0};
    lm_buf_char(b, '\n');
    if (run->dead) return;
    if (!run->started) {
        run->started = true;
        lm_http_stream(run->call->x, 200, TYPE_NDJSON);
    }
    lm_status st = lm_buf_status(b, "a line of the answer", &err);
    if (st == LM_OK) st = lm_http_write(run->call->x, lm_buf_view(b));
    if (st == LM_OK) return;
    run->dead = true;
    lm_call_cancel(run->call);
}

static void send_piece(ollama_run *run, const lm_event *e, lm_str content, lm_str thinking, lm_str tools) {
    lm_buf *b = &run->line;
    lm_buf_clear(b);
    write_head(b, run->model);
    write_message(b, run->form, content, thinking, tools);
    lm_buf_text(b, ",\"done\":false");
    if (e->n_logprobs) {
        lm_buf_text(b, ",\"logprobs\":[");
        lm_buf_clear(&run->logprobs);
        write_logprobs(&run->logprobs, e->logprobs, e->n_logprobs);
        lm_buf_str(b, lm_buf_view(&run->logprobs));
        lm_buf_char(b, ']');
    }
    lm_buf_char(b, '}');
    send_line(run);
}

static void stream_event(ollama_run *run, const lm_event *e) {
    lm_str none = {0};
    if (e->kind == LM_EVENT_TOOL_CALL) {
        lm_buf_clear(&run->tools);
        write_tool_call(&run->tools, run->n_tools++, e->name, e->text);
        send_piece(run, e, none, none, lm_buf_view(&run->tools));
    } else if (e->text.len || e->n_logprobs) {
        bool thinking = e->kind == LM_EVENT_THINKING;
        send_piece(run, e, thinking ? none : e->text, thinking ? e->text : none, none);
    }
}

static void collect_event(ollama_run *run, const lm_event *e) {
    if (e->kind == LM_EVENT_TOOL_CALL)
        write_tool_call(&run->tools, run->n_tools++, e->name, e->text);
    else
        lm_buf_str(e->kind == LM_EVENT_THINKING ? &run->thinking : &run->text, e->text);
    if (e->n_logprobs) write_logprobs(&run->logprobs, e->logprobs, e->n_logprobs);
}

/* ---- the end */

static const char *reason_text(const ollama_run *run, lm_done_reason reason) {
    if (run->load || reason == LM_DONE_LOAD) return "load";
    return reason == LM_DONE_LENGTH ? "length" : "stop";
}

static void finish(ollama_run *run, const lm_event *e) {
    lm_buf *b = &run->line;
    lm_buf_clear(b);
    write_head(b, run->model);
    write_message(b, run->form, lm_buf_view(&run->text), lm_buf_view(&run->thinking),
                  run->stream ? (lm_str){0} : lm_buf_view(&run->tools));
    lm_buf_printf(b, ",\"done\":true,\"done_reason\":\"%s\"", reason_text(run, e->reason));
    if (run->form == OLLAMA_GENERATE && !run->load) write_context(b, e->context, e->n_context);
    if (!run->load) write_metrics(b, run, &e->metrics);
    if (!run->stream && run->logprobs.len) {
        lm_buf_text(b, ",\"logprobs\":[");
        lm_buf_str(b, lm_buf_view(&run->logprobs));
        lm_buf_char(b, ']');
    }
    lm_buf_char(b, '}');
    if (run->text.failed || run->thinking.failed || run->tools.failed || run->logprobs.failed)
        b->failed = true;
    if (run->stream && !run->load) {
        send_line(run);
        lm_http_end(run->call->x);
    } else {
        lm_reply_json(run->call, 200, b);
    }
}

static void finish_rendered(ollama_run *run, const lm_event *e) {
    lm_buf *b = &run->line;
    lm_buf_clear(b);
    write_head(b, run->model);
    write_message(b, run->form, (lm_str){0}, (lm_str){0}, (lm_str){0});
    lm_buf_text(b, ",\"done\":false,\"_debug_info\":{\"rendered_template\":");
    lm_json_write_string(b, e->text);
    lm_buf_text(b, "}}");
    lm_reply_json(run->call, 200, b);
}

static void finish_failed(ollama_run *run, const lm_event *e) {
    lm_err err = {0};
    lm_fail(&err, e->status, "%.*s", LM_STR_ARG(e->text));
    if (!run->started) {
        ollama_error(run->call, e->status, err.text);
        return;
    }
    lm_call_note_error(run->call, lm_str_of(err.text));
    lm_buf_clear(&run->line);
    lm_buf_text(&run->line, "{\"error\":");
    lm_json_write_string(&run->line, lm_str_of(err.text));
    lm_buf_char(&run->line, '}');
    send_line(run);
    lm_http_end(run->call->x);
}

void ollama_sink(void *ctx, const lm_event *e) {
    ollama_run *run = ctx;
    switch (e->kind) {
    case LM_EVENT_LOADED: return;
    case LM_EVENT_TEXT:
    case LM_EVENT_THINKING:
    case LM_EVENT_TOOL_CALL:
        if (run->stream)
            stream_event(run, e);
        else
            collect_event(run, e);
        return;
    case LM_EVENT_DONE:
        lm_call_note_metrics(run->call, &e->metrics);
        if (run->render_only)
            finish_rendered(run, e);
        else
            finish(run, e);
        break;
    case LM_EVENT_ERROR: finish_failed(run, e); break;
    }
    ollama_run_free(run);
}

/* ---- small answers */

void ollama_error(lm_call *call, lm_status st, const char *text) {
    /* Ollama's own words for a client who has left; it is logged, nobody reads it. */
    if (st == LM_CANCELLED) text = "request canceled";
    lm_call_note_error(call, lm_str_of(text));
    lm_buf b;
    lm_buf_init(&b, 8192);
    lm_buf_text(&b, "{\"error\":");
    lm_json_write_string(&b, lm_str_of(text));
    lm_buf_char(&b, '}');
    lm_reply_json(call, lm_status_http(st), &b);
    lm_buf_release(&b);
}

void ollama_reply_idle(lm_call *call, ollama_form form, const char *model, const char *reason) {
    lm_buf b, name;
    lm_buf_init(&b, MAX_ANSWER);
    lm_buf_init(&name, MAX_ANSWER);
    lm_json_write_string(&name, lm_str_of(model));
    write_head(&b, name.ptr ? name.ptr : "\"\"");
    write_message(&b, form, (lm_str){0}, (lm_str){0}, (lm_str){0});
    lm_buf_printf(&b, ",\"done\":true,\"done_reason\":\"%s\"}", reason);
    lm_reply_json(call, 200, &b);
    lm_buf_release(&name);
    lm_buf_release(&b);
}
