/* Events of the choices become server-sent events, or one JSON document at the end. Runs on the engine's
 * threads: it formats and hands on. */
#include "api/openai.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "api/calls.h"
#include "api/pieces.h"
#include "api/sse.h"

#define TYPE_PLAIN "application/json" /* as Ollama's, without a charset here */
#define TYPE_EVENT "text/event-stream"

/* The columns of /v1/completions' logprobs; a chat has one list, in the first. */
enum { TOKENS, CHOSEN, TOP, OFFSETS, N_COLUMNS };
static const char *const columns[N_COLUMNS] = {"tokens", "token_logprobs", "top_logprobs", "text_offset"};

struct openai_choice {
    openai_run *run;
    uint32_t index;
    bool started; /* something of it has been streamed: the role is out */
    lm_done_reason reason;
    uint32_t n_tools;
    uint64_t offset; /* characters of the answer's tokens so far */
    double sum;      /* of its tokens' log probabilities, of which there are n_known */
    uint32_t n_known;
    lm_buf
        text; /* an answer that is sent as a whole, or a call that is looked for in it; begins with an echo */
    lm_buf thinking, tools;
    lm_buf logprobs[N_COLUMNS]; /* JSON without brackets */
};

struct openai_run {
    lm_call *call;
    openai_form form;
    bool stream, include_usage, forced, one_call, logprobs, render_only;
    uint32_t top_logprobs;
    char *head; /* of every document: {"id" ... "choices":[ */
    uint32_t n, n_shown, n_choices;
    openai_choice *choices;

    pthread_mutex_t lock; /* guards the rest, and the choices */
    uint32_t left;        /* choices that run, and openai_run_started */
    lm_status st;         /* of the first failure */
    char error[sizeof((lm_err *)0)->text];
    lm_metrics metrics; /* of all choices: tokens added up */
    lm_sse sse;         /* its buffer is also where a whole answer is written */
    lm_buf rendered;
};

/* ---- life */

static char *make_head(const openai_run *run, const char *model) {
    const char *object = run->form == OPENAI_COMPLETION ? "text_completion"
                         : run->stream                  ? "chat.completion.chunk"
                                                        : "chat.completion";
    uint32_t id = 0;
    if (getentropy(&id, sizeof id)) id = (uint32_t)lm_now_ns(); /* it needs to differ, not to be secret */
    lm_buf b;
    lm_buf_init(&b, MAX_ANSWER);
    lm_buf_printf(&b, "{\"id\":\"%s-%u\",\"object\":\"%s\",\"created\":%lld,\"model\":",
                  run->form == OPENAI_CHAT ? "chatcmpl" : "cmpl", id, object,
                  (long long)(lm_wall_ns() / 1000000000));
    lm_json_write_string(&b, lm_str_of(model));
    lm_buf_text(&b, ",\"system_fingerprint\":\"fp_ollama\",\"choices\":[");
    return lm_buf_take(&b);
}

static uint64_t characters(lm_str s) {
    uint64_t n = 0;
    for (size_t i = 0; i < s.len; i++) n += ((unsigned char)s.ptr[i] & 0xc0) != 0x80;
    return n;
}

openai_run *openai_run_new(lm_call *call, const openai_request *r) {
    openai_run *run = lm_alloc(sizeof *run);
    run->call = lm_call_ref(call);
    run->form = r->form;
    run->stream = r->ask.stream && !r->ask.request->render_only;
    run->render_only = r->ask.request->render_only;
    run->include_usage = r->include_usage;
    run->forced = r->forced;
    run->one_call = r->one_call || r->forced;
    run->logprobs = r->logprobs;
    run->top_logprobs = r->ask.request->top_logprobs;
    run->head = make_head(run, r->ask.model);
    run->n = r->n;
    run->n_shown = r->n_shown;
    run->n_choices = r->n_choices;
    run->left = r->n_choices + 1;
    pthread_mutex_init(&run->lock, NULL);
    lm_sse_init(&run->sse, call, TYPE_EVENT);
    lm_buf_init(&run->rendered, MAX_ANSWER);
    run->choices = lm_alloc(r->n_choices * sizeof *run->choices);
    for (uint32_t i = 0; i < r->n_choices; i++) {
        openai_choice *c = &run->choices[i];
        c->run = run;
        c->index = i;
        lm_buf *buffers[] = {&c->text, &c->thinking, &c->tools};
        for (int k = 0; k < 3; k++) lm_buf_init(buffers[k], MAX_ANSWER);
        for (int k = 0; k < N_COLUMNS; k++) lm_buf_init(&c->logprobs[k], MAX_ANSWER);
        const json_t *prompt = r->echo ? json_array_get(r->prompts, i / r->n) : NULL;
        if (prompt) lm_buf_add(&c->text, json_string_value(prompt), json_string_length(prompt));
    }
    return run;
}

openai_choice *openai_run_choice(openai_run *run, uint32_t i) {
    return &run->choices[i];
}

static void run_free(openai_run *run) {
    for (uint32_t i = 0; i < run->n_choices; i++) {
        openai_choice *c = &run->choices[i];
        lm_buf *buffers[] = {&c->text, &c->thinking, &c->tools};
        for (int k = 0; k < 3; k++) lm_buf_release(buffers[k]);
        for (int k = 0; k < N_COLUMNS; k++) lm_buf_release(&c->logprobs[k]);
    }
    lm_call_unref(run->call);
    lm_sse_release(&run->sse);
    lm_buf_release(&run->rendered);
    pthread_mutex_destroy(&run->lock);
    free(run->choices);
    free(run->head);
    free(run);
}

/* ---- pieces of JSON */

static void write_column(openai_choice *c, int column, const char *before) {
    if (c->logprobs[column].len) lm_buf_char(&c->logprobs[column], ',');
    lm_buf_text(&c->logprobs[column], before);
}

static void note_completion_logprob(openai_choice *c, const lm_token_logprobs *p) {
    write_column(c, TOKENS, "");
    lm_json_write_string(&c->logprobs[TOKENS], p->chosen.bytes);
    write_column(c, CHOSEN, "");
    lm_json_write_double(&c->logprobs[CHOSEN], (double)p->chosen.logprob);
    write_column(c, OFFSETS, "");
    lm_buf_printf(&c->logprobs[OFFSETS], "%llu", (unsigned long long)c->offset);
    c->offset += characters(p->chosen.bytes);
    if (!c->run->top_logprobs) return;
    write_column(c, TOP, "{");
    for (uint32_t i = 0; i < p->n_top; i++) {
        if (i) lm_buf_char(&c->logprobs[TOP], ',');
        lm_json_write_string(&c->logprobs[TOP], p->top[i].bytes);
        lm_buf_char(&c->logprobs[TOP], ':');
        lm_json_write_double(&c->logprobs[TOP], (double)p->top[i].logprob);
    }
    lm_buf_char(&c->logprobs[TOP], '}');
}

static void note_logprobs(openai_choice *c, const lm_event *e) {
    for (uint32_t i = 0; i < e->n_logprobs; i++) {
        c->sum += (double)e->logprobs[i].chosen.logprob;
        c->n_known++;
        if (!c->run->logprobs) continue;
        if (c->run->form == OPENAI_COMPLETION) {
            note_completion_logprob(c, &e->logprobs[i]);
        } else {
            write_column(c, TOKENS, "");
            lm_write_logprobs(&c->logprobs[TOKENS], &e->logprobs[i], true);
        }
    }
}

/* ,"logprobs":{...} of what has been noted, which is forgotten then. */
static void write_logprobs(lm_buf *b, openai_choice *c) {
    if (!c->run->logprobs) return;
    if (c->run->form == OPENAI_CHAT) {
        lm_buf_text(b, ",\"logprobs\":{\"content\":[");
        lm_buf_str(b, lm_buf_view(&c->logprobs[TOKENS]));
        lm_buf_text(b, "]}");
    } else {
        lm_buf_text(b, ",\"logprobs\":{");
        for (int k = 0; k < N_COLUMNS; k++) {
            bool none = k == TOP && !c->run->top_logprobs;
            lm_buf_printf(b, "%s\"%s\":%s", k ? "," : "", columns[k], none ? "null" : "[");
            if (!none) lm_buf_str(b, lm_buf_view(&c->logprobs[k]));
            if (!none) lm_buf_char(b, ']');
        }
        lm_buf_char(b, '}');
    }
    for (int k = 0; k < N_COLUMNS; k++) {
        b->failed = b->failed || c->logprobs[k].failed;
        lm_buf_clear(&c->logprobs[k]);
    }
}

static void write_tool_call(lm_buf *b, uint32_t index, lm_str name, lm_str arguments) {
    char id[16];
    lm_call_id(id);
    if (b->len) lm_buf_char(b, ',');
    lm_buf_printf(b, "{\"index\":%u,\"id\":\"%s\",\"type\":\"function\",\"function\":{\"name\":", index, id);
    lm_json_write_string(b, name);
    lm_buf_text(b, ",\"arguments\":");
    lm_json_write_string(b, arguments.len ? arguments : LM_STR("{}"));
    lm_buf_text(b, "}}");
}

static void write_usage(lm_buf *b, uint32_t n_prompt, uint32_t n_eval) {
    lm_buf_printf(b, ",\"usage\":{\"prompt_tokens\":%u,\"completion_tokens\":%u,\"total_tokens\":%llu}",
                  n_prompt, n_eval, (unsigned long long)n_prompt + n_eval);
}

static void write_member(lm_buf *b, const char *key, lm_str text) {
    lm_buf_printf(b, "\"%s\":", key);
    lm_json_write_string(b, text);
}

static const char *reason_text(const openai_choice *c) {
    if (c->reason == LM_DONE_LENGTH) return "length";
    return c->n_tools ? "tool_calls" : "stop";
}

void openai_write_error(lm_buf *b, lm_status st, const char *text) {
    int status = lm_status_http(st);
    lm_buf_text(b, "{\"error\":{");
    write_member(b, "message", lm_str_of(text));
    lm_buf_printf(b, ",\"type\":\"%s\",\"param\":null,\"code\":null}}",
                  status == 400   ? "invalid_request_error"
                  : status == 404 ? "not_found_error"
                                  : "api_error");
}

void openai_error(lm_call *call, lm_status st, const char *text) {
    if (st == LM_CANCELLED) text = "request canceled"; /* Ollama's words; nobody reads them */
    lm_call_note_error(call, lm_str_of(text));
    lm_buf b;
    lm_buf_init(&b, 8192);
    openai_write_error(&b, st, text);
    lm_http_reply(call->x, lm_status_http(st), TYPE_PLAIN, lm_buf_view(&b));
    lm_buf_release(&b);
}

/* ---- stream */

static void begin_chunk(openai_run *run) {
    lm_buf_text(&run->sse.out, "data: ");
    lm_buf_text(&run->sse.out, run->head);
}

static void end_chunk(openai_run *run) {
    lm_buf_char(&run->sse.out, ']');
    /* as Ollama: with include_usage every piece of a completion has counts, the last one the true ones */
    if (run->form == OPENAI_COMPLETION && run->include_usage) write_usage(&run->sse.out, 0, 0);
    lm_buf_text(&run->sse.out, "}\n\n");
    lm_sse_send(&run->sse);
}

/* One piece of a message: key "content" or "reasoning" with a text, or "tool_calls" with JSON. */
static void send_delta(openai_choice *c, const char *key, lm_str text) {
    openai_run *run = c->run;
    lm_buf *b = &run->sse.out;
    begin_chunk(run);
    lm_buf_printf(b, "{\"index\":%u,\"delta\":{%s", c->index, c->started ? "" : "\"role\":\"assistant\",");
    c->started = true;
    if (strcmp(key, "tool_calls") != 0) {
        write_member(b, key, text);
    } else {
        lm_buf_text(b, "\"tool_calls\":[");
        lm_buf_str(b, text);
        lm_buf_char(b, ']');
    }
    lm_buf_char(b, '}');
    if (c->logprobs[TOKENS].len) write_logprobs(b, c);
    lm_buf_text(b, ",\"finish_reason\":null}");
    end_chunk(run);
}

static void send_text(openai_choice *c, lm_str text) {
    if (c->run->form == OPENAI_CHAT) {
        send_delta(c, "content", text);
        return;
    }
    lm_buf *b = &c->run->sse.out;
    begin_chunk(c->run);
    lm_buf_char(b, '{');
    write_member(b, "text", text);
    lm_buf_printf(b, ",\"index\":%u", c->index);
    if (c->logprobs[TOKENS].len) write_logprobs(b, c);
    lm_buf_text(b, ",\"finish_reason\":null}");
    c->started = true;
    end_chunk(c->run);
}

static void send_finish(openai_choice *c) {
    lm_buf *b = &c->run->sse.out;
    bool chat = c->run->form == OPENAI_CHAT;
    if (chat && !c->started) send_delta(c, "content", (lm_str){0}); /* nothing was said, in a whole message */
    begin_chunk(c->run);
    if (chat)
        lm_buf_printf(b, "{\"index\":%u,\"delta\":{},\"finish_reason\":\"%s\"}", c->index, reason_text(c));
    else
        lm_buf_printf(b, "{\"text\":\"\",\"index\":%u,\"finish_reason\":\"%s\"}", c->index, reason_text(c));
    end_chunk(c->run);
}

/* ---- events of one choice */

/* In a stream the echo is all that is in the text of a completion. */
static void send_echo(openai_choice *c) {
    if (c->started || !c->text.len) return;
    send_text(c, lm_buf_view(&c->text));
    lm_buf_clear(&c->text);
}

static void take_call(openai_choice *c, lm_str name, lm_str arguments) {
    openai_run *run = c->run;
    if (run->one_call && c->n_tools) return;
    if (run->stream) lm_buf_clear(&c->tools);
    write_tool_call(&c->tools, c->n_tools++, name, arguments);
    if (run->stream) send_delta(c, "tool_calls", lm_buf_view(&c->tools));
}

static void take_text(openai_choice *c, lm_str text) {
    openai_run *run = c->run;
    if (!run->stream || run->forced) {
        lm_buf_str(&c->text, text);
        return;
    }
    send_echo(c);
    send_text(c, text);
}

static void take_thinking(openai_choice *c, lm_str text) {
    if (c->run->form == OPENAI_COMPLETION) return; /* there is no place for it */
    if (!c->run->stream)
        lm_buf_str(&c->thinking, text);
    else if (text.len)
        send_delta(c, "reasoning", text);
}

/* A forced call that the parser has left as text, since the model's own form of calls is another. */
static void find_forced_call(openai_choice *c) {
    char *name = NULL, *arguments = NULL;
    if (!c->n_tools && lm_forced_call(lm_buf_view(&c->text), &name, &arguments)) {
        lm_buf_clear(&c->text);
        take_call(c, lm_str_of(name), lm_str_of(arguments));
    }
    free(name);
    free(arguments);
    if (c->run->stream && c->text.len) send_text(c, lm_buf_view(&c->text)); /* cut off: shown as it is */
}

static void take_done(openai_choice *c, const lm_event *e) {
    openai_run *run = c->run;
    lm_metrics *m = &run->metrics;
    c->reason = e->reason;
    if (c->index % run->n == 0) m->n_prompt += e->metrics.n_prompt; /* once for each prompt */
    m->n_eval += e->metrics.n_eval;
    if (!m->first_ns || e->metrics.first_ns < m->first_ns) m->first_ns = e->metrics.first_ns;
    if (e->metrics.eval_ns > m->eval_ns) m->eval_ns = e->metrics.eval_ns;
    if (run->render_only) lm_buf_str(&run->rendered, e->text);
    if (run->forced && !run->render_only) find_forced_call(c);
    if (!run->stream || run->st != LM_OK) return;
    send_echo(c);
    send_finish(c);
}

/* The first failure is everybody's. */
static void take_error(openai_run *run, lm_status st, lm_str text) {
    if (run->st != LM_OK) return;
    run->st = st;
    snprintf(run->error, sizeof run->error, "%.*s", LM_STR_ARG(text));
    if (run->n_choices > 1) lm_call_cancel(run->call);
}

/* ---- the end */

static void write_choice(lm_buf *b, openai_choice *c) {
    if (c->run->form == OPENAI_COMPLETION) {
        lm_buf_char(b, '{');
        write_member(b, "text", lm_buf_view(&c->text));
        lm_buf_printf(b, ",\"index\":%u", c->index);
    } else {
        lm_buf_printf(b, "{\"index\":%u,\"message\":{\"role\":\"assistant\",", c->index);
        write_member(b, "content", lm_buf_view(&c->text));
        if (c->thinking.len) {
            lm_buf_char(b, ',');
            write_member(b, "reasoning", lm_buf_view(&c->thinking));
        }
        if (c->tools.len) {
            lm_buf_text(b, ",\"tool_calls\":[");
            lm_buf_str(b, lm_buf_view(&c->tools));
            lm_buf_char(b, ']');
        }
        lm_buf_char(b, '}');
    }
    write_logprobs(b, c);
    lm_buf_printf(b, ",\"finish_reason\":\"%s\"}", reason_text(c));
    if (c->text.failed || c->thinking.failed || c->tools.failed) b->failed = true;
}

/* The best are those whose tokens were the most probable on average. */
static int by_worth(const void *a, const void *b) {
    const openai_choice *x = a, *y = b;
    double p = x->n_known ? x->sum / x->n_known : 0, q = y->n_known ? y->sum / y->n_known : 0;
    if (p != q) return p > q ? -1 : 1;
    return x->index < y->index ? -1 : 1;
}

/* best_of: of each prompt's answers, the best in front, numbered as if there were no others. */
static void choose_best(openai_run *run) {
    if (run->n_shown == run->n) return;
    for (uint32_t first = 0, index = 0; first < run->n_choices; first += run->n) {
        qsort(run->choices + first, run->n, sizeof *run->choices, by_worth);
        for (uint32_t i = 0; i < run->n_shown; i++) run->choices[first + i].index = index++;
    }
}

static void answer_whole(openai_run *run) {
    lm_buf *b = &run->sse.out;
    lm_err err = {0};
    lm_buf_clear(b);
    lm_buf_text(b, run->head);
    choose_best(run);
    for (uint32_t i = 0; i < run->n_choices; i++) {
        if (i % run->n >= run->n_shown) continue;
        if (i) lm_buf_char(b, ',');
        write_choice(b, &run->choices[i]);
    }
    lm_buf_char(b, ']');
    write_usage(b, run->metrics.n_prompt, run->metrics.n_eval);
    if (run->render_only) {
        lm_buf_text(b, ",\"_debug_info\":{");
        write_member(b, "rendered_template", lm_buf_view(&run->rendered));
        lm_buf_char(b, '}');
    }
    lm_buf_char(b, '}');
    lm_status st = lm_buf_status(b, "the answer", &err);
    if (st == LM_OK)
        lm_http_reply(run->call->x, 200, TYPE_PLAIN, lm_buf_view(b));
    else
        openai_error(run->call, LM_INTERNAL, "the answer is too large: use stream, or a smaller max_tokens");
}

static void end_stream(openai_run *run) {
    if (run->include_usage) {
        begin_chunk(run);
        lm_buf_char(&run->sse.out, ']');
        write_usage(&run->sse.out, run->metrics.n_prompt, run->metrics.n_eval);
        lm_buf_text(&run->sse.out, "}\n\n");
        lm_sse_send(&run->sse);
    }
    lm_buf_text(&run->sse.out, "data: [DONE]\n\n");
    lm_sse_end(&run->sse);
}

static void end_failed(openai_run *run) {
    if (!run->sse.started) {
        openai_error(run->call, run->st, run->error);
        return;
    }
    lm_call_note_error(run->call, lm_str_of(run->error));
    lm_buf_text(&run->sse.out, "data: ");
    openai_write_error(&run->sse.out, run->st, run->error);
    lm_buf_text(&run->sse.out, "\n\n");
    lm_sse_end(&run->sse);
}

/* n of those that are waited for are done; the last one answers. The lock is held, and given back. */
static void leave(openai_run *run, uint32_t n) {
    run->left -= n;
    bool last = run->left == 0;
    pthread_mutex_unlock(&run->lock);
    if (!last) return;
    lm_call_note_metrics(run->call, &run->metrics);
    if (run->st != LM_OK)
        end_failed(run);
    else if (run->stream)
        end_stream(run);
    else
        answer_whole(run);
    run_free(run);
}

void openai_sink(void *ctx, const lm_event *e) {
    openai_choice *c = ctx;
    openai_run *run = c->run;
    uint32_t over = 0;
    pthread_mutex_lock(&run->lock);
    switch (e->kind) {
    case LM_EVENT_LOADED: break;
    case LM_EVENT_TEXT:
        if (!run->forced) note_logprobs(c, e);
        if (e->text.len || e->n_logprobs) take_text(c, e->text);
        break;
    case LM_EVENT_THINKING: take_thinking(c, e->text); break;
    case LM_EVENT_TOOL_CALL: take_call(c, e->name, e->text); break;
    case LM_EVENT_DONE:
        take_done(c, e);
        over = 1;
        break;
    case LM_EVENT_ERROR:
        take_error(run, e->status, e->text);
        over = 1;
        break;
    }
    leave(run, over);
}

void openai_run_started(openai_run *run, uint32_t n_submitted, lm_status st, const char *text) {
    pthread_mutex_lock(&run->lock);
    if (st != LM_OK) take_error(run, st, lm_str_of(text));
    leave(run, run->n_choices - n_submitted + 1);
}
