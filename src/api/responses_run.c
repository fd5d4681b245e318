/* Events of one job become the items of a response. Both ways keep the items: a stream's last event has all
 * of them again. Runs on the engine's thread: it formats and hands on. */
#include <stdlib.h>
#include <string.h>

#include "api/calls.h"
#include "api/pieces.h"
#include "api/responses.h"
#include "api/sse.h"

typedef enum item { ITEM_NONE, ITEM_MESSAGE, ITEM_REASONING } item;

struct responses_run {
    lm_call *call;
    bool stream, forced, one_call, logprobs;
    int64_t created; /* seconds */
    char id[32];
    char *model;      /* as JSON, with quotes */
    char *echo;       /* members of every response object, each with a comma before it */
    json_t *tools;    /* responses_request's */
    item open;        /* that text is added to */
    char item_id[32]; /* of the open one, or of the call that is being written */
    uint32_t n_items, n_calls, sequence;
    lm_gap gap;
    lm_buf text, logprob_list; /* of the open item; JSON without brackets */
    lm_buf fresh;              /* log probabilities that no delta has had yet */
    lm_buf forced_call;        /* the answer to a tool_choice that forces a call */
    lm_buf output;             /* JSON of the items before the open one, without brackets */
    lm_sse sse;                /* its buffer is also where a whole answer is written */
};

static void each_buffer(responses_run *run, void (*with)(lm_buf *)) {
    lm_buf *buffers[] = {&run->text,        &run->logprob_list, &run->fresh,
                         &run->forced_call, &run->output,       &run->gap.held};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) with(buffers[i]);
}

static void init_buffer(lm_buf *b) {
    lm_buf_init(b, MAX_ANSWER);
}

static char *echo_members(const json_t *echo) {
    char *object = json_dumps(echo, JSON_COMPACT), *members = NULL;
    if (object) {
        object[0] = ','; /* "{" and "}" go */
        object[strlen(object) - 1] = '\0';
        members = lm_strdup(object);
    }
    free(object);
    return members ? members : lm_strdup("");
}

responses_run *responses_run_new(lm_call *call, const responses_request *r) {
    responses_run *run = lm_alloc(sizeof *run);
    run->call = lm_call_ref(call);
    run->stream = r->ask.stream;
    run->forced = r->forced;
    run->one_call = r->one_call || r->forced;
    run->logprobs = r->ask.request->logprobs;
    run->created = lm_wall_ns() / 1000000000;
    run->tools = json_incref(r->tools);
    run->echo = echo_members(r->echo);
    lm_hex_id("resp", run->id);
    each_buffer(run, init_buffer);
    lm_sse_init(&run->sse, call, "text/event-stream");
    lm_json_write_string(&run->sse.out, lm_str_of(r->ask.model));
    run->model = lm_buf_take(&run->sse.out);
    return run;
}

void responses_run_free(responses_run *run) {
    if (!run) return;
    lm_sse_release(&run->sse);
    each_buffer(run, lm_buf_release);
    json_decref(run->tools);
    lm_call_unref(run->call);
    free(run->model);
    free(run->echo);
    free(run);
}

/* ---- pieces of JSON */

static void write_usage(lm_buf *b, const lm_metrics *m) {
    if (!m) {
        lm_buf_text(b, ",\"usage\":null");
        return;
    }
    lm_buf_printf(
        b,
        ",\"usage\":{\"input_tokens\":%u,\"input_tokens_details\":{\"cached_tokens\":%u},"
        "\"output_tokens\":%u,\"output_tokens_details\":{\"reasoning_tokens\":0},\"total_tokens\":%llu}",
        m->n_prompt, m->n_cached, m->n_eval, (unsigned long long)m->n_prompt + m->n_eval);
}

/* The whole object. error: of one that failed, else NULL. */
static void write_response(lm_buf *b, const responses_run *run, const char *status, const lm_metrics *m,
                           const char *error) {
    bool over = strcmp(status, "in_progress") != 0;
    lm_buf_printf(b, "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\"", run->id,
                  (long long)run->created, status);
    if (over)
        lm_buf_printf(b, ",\"completed_at\":%lld", (long long)(lm_wall_ns() / 1000000000));
    else
        lm_buf_text(b, ",\"completed_at\":null");
    bool cut = !strcmp(status, "incomplete");
    lm_buf_printf(b, ",\"incomplete_details\":%s", cut ? "{\"reason\":\"max_output_tokens\"}" : "null");
    lm_buf_text(b, ",\"error\":");
    if (error) {
        lm_buf_text(b, "{\"code\":\"server_error\",\"message\":");
        lm_json_write_string(b, lm_str_of(error));
        lm_buf_char(b, '}');
    } else {
        lm_buf_text(b, "null");
    }
    lm_buf_text(b, ",\"model\":");
    lm_buf_text(b, run->model);
    lm_buf_text(b, run->echo);
    lm_buf_text(b, ",\"output\":[");
    if (over) lm_buf_str(b, lm_buf_view(&run->output));
    lm_buf_char(b, ']');
    write_usage(b, m);
    lm_buf_char(b, '}');
}

/* A part of a message; whole: with the text so far. */
static void write_part(lm_buf *b, const responses_run *run, bool whole) {
    lm_buf_text(b, "{\"type\":\"output_text\",\"text\":");
    lm_json_write_string(b, whole ? lm_buf_view(&run->text) : (lm_str){0});
    lm_buf_text(b, ",\"annotations\":[],\"logprobs\":[");
    if (whole) lm_buf_str(b, lm_buf_view(&run->logprob_list));
    lm_buf_text(b, "]}");
}

static void write_summary(lm_buf *b, lm_str text) {
    lm_buf_text(b, "{\"type\":\"summary_text\",\"text\":");
    lm_json_write_string(b, text);
    lm_buf_char(b, '}');
}

/* The open item. status "in_progress": before it has anything. */
static void write_item(lm_buf *b, const responses_run *run, const char *status) {
    bool whole = strcmp(status, "in_progress") != 0;
    lm_buf_printf(b, "{\"id\":\"%s\",", run->item_id);
    if (run->open == ITEM_MESSAGE) {
        lm_buf_printf(b, "\"type\":\"message\",\"status\":\"%s\",\"role\":\"assistant\",\"content\":[",
                      status);
        if (whole) write_part(b, run, true);
        lm_buf_text(b, "]}");
        return;
    }
    lm_buf_text(b, "\"type\":\"reasoning\",\"summary\":[");
    if (whole) write_summary(b, lm_buf_view(&run->text));
    lm_buf_char(b, ']');
    if (whole) { /* what a client sends back: plain text, as Ollama's */
        lm_buf_text(b, ",\"encrypted_content\":");
        lm_json_write_string(b, lm_buf_view(&run->text));
    }
    lm_buf_char(b, '}');
}

/* ---- stream */

static void event(responses_run *run, const char *name) {
    lm_buf_printf(&run->sse.out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%u", name, name,
                  run->sequence++);
}

static void event_end(responses_run *run) {
    lm_buf_text(&run->sse.out, "}\n\n");
}

static void event_response(responses_run *run, const char *name, const char *status, const lm_metrics *m,
                           const char *error) {
    event(run, name);
    lm_buf_text(&run->sse.out, ",\"response\":");
    write_response(&run->sse.out, run, status, m, error);
    event_end(run);
}

static void start_stream(responses_run *run) {
    if (run->sequence) return;
    event_response(run, "response.created", "in_progress", NULL, NULL);
    event_response(run, "response.in_progress", "in_progress", NULL, NULL);
}

/* An event about the newest item: ,"output_index":.. and, for what is in it, ,"item_id":.. */
static void event_item(responses_run *run, const char *name) {
    event(run, name);
    lm_buf_printf(&run->sse.out, ",\"output_index\":%u", run->n_items - 1);
}

static void event_inside(responses_run *run, const char *name) {
    event_item(run, name);
    lm_buf_printf(&run->sse.out, ",\"item_id\":\"%s\"", run->item_id);
}

/* Where in the open item: it has one part. */
static void event_part(responses_run *run, const char *name) {
    event_inside(run, name);
    lm_buf_text(&run->sse.out, run->open == ITEM_MESSAGE ? ",\"content_index\":0" : ",\"summary_index\":0");
}

static void add_text_member(responses_run *run, const char *key, lm_str text) {
    lm_buf_printf(&run->sse.out, ",\"%s\":", key);
    lm_json_write_string(&run->sse.out, text);
}

/* ---- items, for both ways */

static void keep_item(responses_run *run, const lm_buf *json) {
    if (run->output.len) lm_buf_char(&run->output, ',');
    lm_buf_str(&run->output, lm_buf_view(json));
    if (json->failed) run->output.failed = true;
}

static void stream_close(responses_run *run, const lm_buf *json) {
    bool message = run->open == ITEM_MESSAGE;
    lm_buf *b = &run->sse.out;
    event_part(run, message ? "response.output_text.done" : "response.reasoning_summary_text.done");
    add_text_member(run, "text", lm_buf_view(&run->text));
    if (message) {
        lm_buf_text(b, ",\"logprobs\":[");
        lm_buf_str(b, lm_buf_view(&run->logprob_list));
        lm_buf_char(b, ']');
    }
    event_end(run);
    event_part(run, message ? "response.content_part.done" : "response.reasoning_summary_part.done");
    lm_buf_text(b, ",\"part\":");
    if (message)
        write_part(b, run, true);
    else
        write_summary(b, lm_buf_view(&run->text));
    event_end(run);
    event_item(run, "response.output_item.done");
    lm_buf_text(b, ",\"item\":");
    lm_buf_str(b, lm_buf_view(json));
    event_end(run);
}

static void close_item(responses_run *run, bool cut) {
    if (run->open == ITEM_NONE) return;
    lm_buf json;
    lm_buf_init(&json, MAX_ANSWER);
    write_item(&json, run, cut ? "incomplete" : "completed");
    json.failed = json.failed || run->text.failed || run->logprob_list.failed;
    keep_item(run, &json);
    if (run->stream) stream_close(run, &json);
    lm_buf_release(&json);
    lm_buf_clear(&run->text);
    lm_buf_clear(&run->logprob_list);
    run->open = ITEM_NONE;
}

static void open_item(responses_run *run, item kind) {
    if (run->open == kind) return;
    close_item(run, false);
    run->open = kind;
    run->n_items++;
    lm_hex_id(kind == ITEM_MESSAGE ? "msg" : "rs", run->item_id);
    if (!run->stream) return;
    lm_buf *b = &run->sse.out;
    event_item(run, "response.output_item.added");
    lm_buf_text(b, ",\"item\":");
    write_item(b, run, "in_progress");
    event_end(run);
    event_part(run, kind == ITEM_MESSAGE ? "response.content_part.added"
                                         : "response.reasoning_summary_part.added");
    lm_buf_text(b, ",\"part\":");
    if (kind == ITEM_MESSAGE)
        write_part(b, run, false);
    else
        write_summary(b, (lm_str){0});
    event_end(run);
}

/* Log probabilities come with the delta that has their text. */
static void give_logprobs(responses_run *run) {
    if (run->logprob_list.len && run->fresh.len) lm_buf_char(&run->logprob_list, ',');
    lm_buf_str(&run->logprob_list, lm_buf_view(&run->fresh));
    if (run->fresh.failed) run->logprob_list.failed = true;
}

static void add_text(responses_run *run, item kind, lm_str text) {
    if (!text.len || (run->open != kind && !lm_gap_pass(&run->gap, (int)kind, &text))) return;
    bool message = kind == ITEM_MESSAGE;
    open_item(run, kind);
    lm_buf_str(&run->text, text);
    if (message) give_logprobs(run);
    if (run->stream) {
        event_part(run, message ? "response.output_text.delta" : "response.reasoning_summary_text.delta");
        add_text_member(run, "delta", text);
        if (message) {
            lm_buf_text(&run->sse.out, ",\"logprobs\":[");
            lm_buf_str(&run->sse.out, lm_buf_view(&run->fresh));
            lm_buf_char(&run->sse.out, ']');
        }
        event_end(run);
    }
    lm_buf_clear(&run->gap.held);
    lm_buf_clear(&run->fresh);
}

/* ---- calls */

typedef struct called {
    const char *name, *space; /* space NULL: in no namespace */
    bool custom;
    lm_str input; /* arguments, or the text for a custom tool */
    char id[16];
} called;

static void write_call(lm_buf *b, const responses_run *run, const called *c, bool whole) {
    lm_buf_printf(
        b, "{\"id\":\"%s\",\"type\":\"%s\",\"status\":\"%s\",\"call_id\":\"%s\",\"name\":", run->item_id,
        c->custom ? "custom_tool_call" : "function_call", whole ? "completed" : "in_progress", c->id);
    lm_json_write_string(b, lm_str_of(c->name));
    if (c->space) lm_buf_text(b, ",\"namespace\":");
    if (c->space) lm_json_write_string(b, lm_str_of(c->space));
    lm_buf_printf(b, ",\"%s\":", c->custom ? "input" : "arguments");
    lm_json_write_string(b, whole ? c->input : (lm_str){0});
    lm_buf_char(b, '}');
}

static void stream_call(responses_run *run, const called *c, const lm_buf *json) {
    lm_buf *b = &run->sse.out;
    event_item(run, "response.output_item.added");
    lm_buf_text(b, ",\"item\":");
    write_call(b, run, c, false);
    event_end(run);
    event_inside(run, c->custom ? "response.custom_tool_call_input.delta"
                                : "response.function_call_arguments.delta");
    add_text_member(run, "delta", c->input);
    event_end(run);
    event_inside(run, c->custom ? "response.custom_tool_call_input.done"
                                : "response.function_call_arguments.done");
    if (!c->custom) add_text_member(run, "name", lm_str_of(c->name));
    add_text_member(run, c->custom ? "input" : "arguments", c->input);
    event_end(run);
    event_item(run, "response.output_item.done");
    lm_buf_text(b, ",\"item\":");
    lm_buf_str(b, lm_buf_view(json));
    event_end(run);
}

static void add_known_call(responses_run *run, called *c) {
    lm_buf json;
    lm_buf_init(&json, MAX_ANSWER);
    close_item(run, false);
    lm_buf_clear(&run->gap.held);
    run->n_items++;
    run->n_calls++;
    lm_hex_id(c->custom ? "ctc" : "fc", run->item_id);
    lm_call_id(c->id);
    write_call(&json, run, c, true);
    keep_item(run, &json);
    if (run->stream) stream_call(run, c, &json);
    lm_buf_release(&json);
}

/* The name as the model says it; a custom tool's text is its argument "input". */
static void add_call(responses_run *run, lm_str name, lm_str arguments) {
    char *text = lm_str_dup(name);
    const json_t *tool = json_object_get(run->tools, text);
    json_t *parsed = NULL;
    lm_err ignored;
    called c = {.name = text, .input = arguments.len ? arguments : LM_STR("{}")};
    if (tool) {
        c.name = json_string_value(json_object_get(tool, "name"));
        c.space = json_string_value(json_object_get(tool, "namespace"));
        c.custom = json_is_true(json_object_get(tool, "custom"));
    }
    if (c.custom && lm_json_parse(c.input, &parsed, &ignored) == LM_OK) {
        const json_t *input = json_object_get(parsed, "input");
        if (json_is_string(input)) c.input = (lm_str){json_string_value(input), json_string_length(input)};
    }
    add_known_call(run, &c);
    json_decref(parsed);
    free(text);
}

/* ---- events of the engine */

static void note_logprobs(responses_run *run, const lm_event *e) {
    for (uint32_t i = 0; run->logprobs && i < e->n_logprobs; i++) {
        if (run->fresh.len) lm_buf_char(&run->fresh, ',');
        lm_write_logprobs(&run->fresh, &e->logprobs[i], true);
    }
}

static void take(responses_run *run, const lm_event *e) {
    if (run->one_call && run->n_calls) return;
    if (run->stream) start_stream(run);
    if (e->kind == LM_EVENT_TOOL_CALL) {
        add_call(run, e->name, e->text);
    } else if (e->kind == LM_EVENT_THINKING) {
        add_text(run, ITEM_REASONING, e->text);
    } else if (run->forced) {
        lm_buf_str(&run->forced_call, e->text);
    } else {
        note_logprobs(run, e);
        add_text(run, ITEM_MESSAGE, e->text);
    }
    if (run->stream) lm_sse_send(&run->sse);
}

/* The forced call is whole unless something ended it early: then it is shown as it is. */
static void finish_forced(responses_run *run) {
    char *name = NULL, *arguments = NULL;
    lm_str text = lm_buf_view(&run->forced_call);
    if (!run->forced || run->n_calls) return;
    if (run->forced_call.failed)
        run->output.failed = true;
    else if (lm_forced_call(text, &name, &arguments))
        add_call(run, lm_str_of(name), lm_str_of(arguments));
    else
        add_text(run, ITEM_MESSAGE, text);
    free(name);
    free(arguments);
}

static void take_done(responses_run *run, const lm_event *e) {
    lm_call_note_metrics(run->call, &e->metrics);
    if (run->stream) start_stream(run);
    finish_forced(run);
    bool cut = e->reason == LM_DONE_LENGTH && !(run->one_call && run->n_calls);
    if (!run->n_items) open_item(run, ITEM_MESSAGE); /* nothing was said, in a whole message */
    close_item(run, cut);
    const char *status = cut ? "incomplete" : "completed";
    lm_buf *b = &run->sse.out;
    if (run->stream) {
        event_response(run, cut ? "response.incomplete" : "response.completed", status, &e->metrics, NULL);
        b->failed = b->failed || run->output.failed;
        lm_sse_end(&run->sse);
        return;
    }
    write_response(b, run, status, &e->metrics, NULL);
    if (b->failed || run->output.failed)
        openai_error(run->call, LM_INTERNAL,
                     "the answer is too large: use stream, or a smaller max_output_tokens");
    else
        lm_http_reply(run->call->x, 200, TYPE_JSON, lm_buf_view(b));
}

static void take_error(responses_run *run, const lm_event *e) {
    lm_err err = {0};
    lm_fail(&err, e->status, "%.*s", LM_STR_ARG(e->text));
    if (!run->sse.started) {
        openai_error(run->call, e->status, err.text);
        return;
    }
    lm_call_note_error(run->call, lm_str_of(err.text));
    close_item(run, true);
    event_response(run, "response.failed", "failed", NULL, err.text);
    lm_sse_end(&run->sse);
}

void responses_sink(void *ctx, const lm_event *e) {
    responses_run *run = ctx;
    switch (e->kind) {
    case LM_EVENT_LOADED: return;
    case LM_EVENT_TEXT:
    case LM_EVENT_THINKING:
    case LM_EVENT_TOOL_CALL: take(run, e); return;
    case LM_EVENT_DONE: take_done(run, e); break;
    case LM_EVENT_ERROR: take_error(run, e); break;
    }
    responses_run_free(run);
}
