/* From a request's messages to the prompt: Ollama's message form becomes the one that Hugging Face templates
 * read.
 *
 *     tool_calls  {"function": {name, arguments}}      {"type": "function", "id": ..., "function": {...}}; a
 * call without an id gets one of nine letters and digits, as Mistral wants them role tool   tool_name,
 * content                   name and tool_call_id too, of the call that it answers thinking    text thinking
 * and reasoning_content
 *
 * A last message of the assistant is continued: it is rendered with a mark behind its text, and the prompt
 * ends where the mark stands.
 */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/private.h"

#define MAX_PENDING 64
#define MAX_CONTEXT ((size_t)256 << 20)

static const char continue_mark[] = "CONTINUE-HERE-c4d1f0a97b";

/* The calls of the last assistant message that have no answer yet. */
typedef struct pending {
    const char *id, *name; /* owned by the new messages */
} pending;

typedef struct translation {
    json_t *messages;
    pending calls[MAX_PENDING];
    uint32_t n_calls;
    uint32_t n_ids; /* ids made so far */
} translation;

/* ---- messages --------------------------------------------------------------------------------------------- */

static const char *text_member(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

/* Arguments are an object; a client of another API may have sent it as text. */
static json_t *arguments_of(const json_t *function) {
    json_t *arguments = json_object_get(function, "arguments"), *parsed = NULL;
    lm_err ignored;
    if (json_is_string(arguments)) {
        lm_str text = {json_string_value(arguments), json_string_length(arguments)};
        if (lm_json_parse(text, &parsed, &ignored) == LM_OK) return parsed;
    }
    return arguments ? json_incref(arguments) : json_object();
}

static json_t *translate_call(translation *t, const json_t *call) {
    const json_t *function = json_object_get(call, "function");
    const char *id = text_member(call, "id");
    char made[16];
    if (!id || !*id) {
        snprintf(made, sizeof made, "call%05u", t->n_ids++ % 100000);
        id = made;
    }
    json_t *copy =
        json_object_get(call, "function") ? json_copy((json_t *)(uintptr_t)function) : json_object();
    json_object_set_new(copy, "arguments", arguments_of(function));
    json_t *out = json_pack("{s:s, s:s, s:o}", "id", id, "type", "function", "function", copy);
    if (out && t->n_calls < MAX_PENDING)
        t->calls[t->n_calls++] = (pending){text_member(out, "id"), text_member(copy, "name")};
    return out;
}

/* Finds the call that a tool message answers: the first of its name, else the first that is left. */
static const char *answered_call(translation *t, const char *name) {
    uint32_t at = 0;
    for (uint32_t i = 0; name && i < t->n_calls; i++)
        if (t->calls[i].name && !strcmp(t->calls[i].name, name)) {
            at = i;
            break;
        }
    if (at >= t->n_calls) return NULL;
    const char *id = t->calls[at].id;
    memmove(t->calls + at, t->calls + at + 1, (t->n_calls - at - 1) * sizeof *t->calls);
    t->n_calls--;
    return id;
}

static void translate_tool_answer(translation *t, json_t *out) {
    const char *name = text_member(out, "tool_name");
    if (!name) name = text_member(out, "name");
    if (name && !json_object_get(out, "name")) json_object_set_new(out, "name", json_string(name));
    const char *id = answered_call(t, name);
    if (id && !json_object_get(out, "tool_call_id"))
        json_object_set_new(out, "tool_call_id", json_string(id));
}

static lm_status translate_message(translation *t, json_t *message, lm_err *err) {
    const char *role = text_member(message, "role");
    if (!role) return lm_fail(err, LM_INVALID, "a message needs a role");
    json_t *out = json_copy(message);
    if (!out || json_array_append_new(t->messages, out))
        return lm_fail(err, LM_NO_MEMORY, "no memory for messages");
    if (!json_object_get(out, "content")) json_object_set_new(out, "content", json_string(""));

    json_t *thinking = json_object_get(message, "thinking");
    if (json_is_string(thinking) && json_string_length(thinking)) {
        json_object_set(out, "reasoning_content", thinking);
    } else {
        json_object_del(out, "thinking");
    }
    json_t *calls = json_object_get(message, "tool_calls");
    if (json_array_size(calls)) {
        json_t *list = json_array();
        t->n_calls = 0;
        for (size_t i = 0; i < json_array_size(calls); i++)
            json_array_append_new(list, translate_call(t, json_array_get(calls, i)));
        json_object_set_new(out, "tool_calls", list);
    } else {
        json_object_del(out, "tool_calls"); /* templates ask whether it is there */
    }
    if (!strcmp(role, "tool")) translate_tool_answer(t, out);
    return LM_OK;
}

/* ---- the context ------------------------------------------------------------------------------------------ */

static json_t *make_context(const lm_text *t, json_t *messages, json_t *tools, int thinking, lm_str level,
                            bool continues) {
    json_t *c = json_object();
    json_object_set(c, "messages", messages);
    json_object_set_new(c, "tools", json_array_size(tools) ? json_incref(tools) : json_null());
    json_object_set_new(c, "add_generation_prompt", json_boolean(!continues));
    json_object_set_new(c, "bos_token", json_string(t->bos));
    json_object_set_new(c, "eos_token", json_string(t->eos));
    if (thinking >= 0) {
        json_object_set_new(c, "enable_thinking", json_boolean(thinking));
        json_object_set_new(c, "thinking", json_boolean(thinking));
    }
    if (level.len) json_object_set_new(c, "reasoning_effort", json_stringn(level.ptr, level.len));
    return c;
}

/* True, with the mark put behind its text, when the last message is an assistant's to be continued. */
static bool mark_last(json_t *messages) {
    json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *role = text_member(last, "role"), *content = text_member(last, "content");
    if (!role || strcmp(role, "assistant") || !content || !*content || json_object_get(last, "tool_calls"))
        return false;
    size_t n = strlen(content), n_mark = sizeof continue_mark - 1;
    char *marked = lm_try_alloc(n + n_mark + 1, 1);
    if (!marked) return false;
    memcpy(marked, content, n);
    memcpy(marked + n, continue_mark, n_mark);
    json_object_set_new(last, "content", json_stringn(marked, n + n_mark));
    free(marked);
    return true;
}

/* Ends the prompt where the mark stands; the last one counts, since the text may quote it. */
static lm_status cut_at_mark(lm_buf *out, size_t from, lm_err *err) {
    size_t n = sizeof continue_mark - 1;
    for (size_t at = out->len; at >= from + n; at--) {
        if (memcmp(out->ptr + at - n, continue_mark, n)) continue;
        out->len = at - n;
        out->ptr[out->len] = '\0';
        return LM_OK;
    }
    return lm_fail(
        err, LM_UNSUPPORTED,
        "this model's chat template cannot continue an assistant message; end the chat with a user message");
}

lm_status lm_text_write_context(const json_t *context, lm_buf *out, lm_err *err) {
    lm_json_write_same(out, context); /* as in the Python that templates are made for */
    return lm_buf_status(out, "the chat", err);
}

static lm_status render(const lm_text *t, json_t *messages, json_t *tools, int thinking, lm_str level,
                        lm_buf *out, lm_err *err) {
    size_t from = out->len;
    bool continues = mark_last(messages);
    json_t *context = make_context(t, messages, tools, thinking, level, continues);
    lm_buf text;
    lm_buf_init(&text, MAX_CONTEXT);
    lm_status st = lm_text_write_context(context, &text, err);
    if (st == LM_OK) st = lm_template_render(t->chat, lm_buf_view(&text), out, err);
    if (st == LM_OK && continues) st = cut_at_mark(out, from, err);
    lm_buf_release(&text);
    json_decref(context);
    return st;
}

/* Without a template the texts follow each other, a blank line between them. */
static void join_plain(const json_t *messages, lm_buf *out) {
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *content = json_object_get(json_array_get(messages, i), "content");
        if (i && json_string_length(content)) lm_buf_text(out, "\n\n");
        lm_buf_add(out, json_string_value(content), json_string_length(content));
    }
}

lm_status lm_text_parse_array(lm_str text, const char *what, json_t **out, lm_err *err) {
    if (!text.len) return LM_OK;
    lm_status st = lm_json_parse(text, out, err);
    if (st != LM_OK) return lm_fail_in(err, st, "%s", what);
    return json_is_array(*out) ? LM_OK : lm_fail(err, LM_INVALID, "%s must be an array", what);
}

lm_status lm_text_render_chat(const lm_text *t, lm_str messages_json, lm_str tools_json, int thinking,
                              lm_str level, lm_buf *out, lm_err *err) {
    if (t->go) return lm_go_template_chat(t->go, messages_json, tools_json, thinking, level, out, err);
    json_t *messages = NULL, *tools = NULL;
    translation tr = {.messages = json_array()};
    lm_status st = lm_text_parse_array(messages_json, "messages", &messages, err);
    if (st == LM_OK) st = lm_text_parse_array(tools_json, "tools", &tools, err);
    for (size_t i = 0; st == LM_OK && i < json_array_size(messages); i++)
        st = translate_message(&tr, json_array_get(messages, i), err);
    if (st == LM_OK && t->chat) {
        st = render(t, tr.messages, tools, thinking, level, out, err);
    } else if (st == LM_OK) {
        join_plain(tr.messages, out);
        st = lm_buf_status(out, "the prompt", err);
    }
    json_decref(messages);
    json_decref(tools);
    json_decref(tr.messages);
    return st;
}

lm_status lm_text_render_own(lm_str source, lm_str messages_json, lm_str prompt, lm_str suffix, int thinking,
                             lm_str level, lm_buf *out, lm_err *err) {
    lm_go_template *t = NULL;
    lm_status st = lm_go_template_open(&t, source, err);
    if (st != LM_OK) return st;
    st = suffix.len ? lm_go_template_insert(t, prompt, suffix, thinking, level, out, err)
                    : lm_go_template_chat(t, messages_json, (lm_str){0}, thinking, level, out, err);
    lm_go_template_close(t);
    return st;
}

/* ---- fill in the middle ----------------------------------------------------------------------------------- */

typedef struct infill {
    const char *before, *middle, *after; /* around prefix and suffix, in this order */
    bool suffix_first;
} infill;

static const infill infills[] = {
    {"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", false}, /* Qwen coder, CodeGemma */
    {"<fim_prefix>", "<fim_suffix>", "<fim_middle>", false},       /* StarCoder, Granite code */
    {"<fim-prefix>", "<fim-suffix>", "<fim-middle>", false},       /* SantaCoder */
    {"<\xef\xbd\x9c"
     "fim\xe2\x96\x81"
     "begin\xef\xbd\x9c>",
     "<\xef\xbd\x9c"
     "fim\xe2\x96\x81hole\xef\xbd\x9c>",
     "<\xef\xbd\x9c"
     "fim\xe2\x96\x81"
     "end\xef\xbd\x9c>",
     false},                            /* DeepSeek coder */
    {"[SUFFIX]", "[PREFIX]", "", true}, /* Codestral */
};

static const infill *infill_of(lm_text_has *has, const void *ctx) {
    for (size_t i = 0; i < sizeof infills / sizeof *infills; i++) {
        const infill *f = &infills[i];
        if (has(ctx, f->before) && has(ctx, f->middle) && (!f->after[0] || has(ctx, f->after))) return f;
    }
    return NULL;
}

bool lm_text_can_insert(lm_text_has *has, const void *ctx) {
    return infill_of(has, ctx) != NULL;
}

lm_status lm_text_render_insert(const lm_text *t, lm_str prefix, lm_str suffix, lm_buf *out, lm_err *err) {
    if (t->go && t->inserts) return lm_go_template_insert(t->go, prefix, suffix, -1, (lm_str){0}, out, err);
    const infill *f = t->go ? NULL : infill_of(lm_text_has_marker, t);
    if (!f)
        return lm_fail(err, LM_UNSUPPORTED,
                       "this model has no tokens to fill in the middle; leave out the suffix");
    lm_buf_text(out, f->before);
    lm_buf_str(out, f->suffix_first ? suffix : prefix);
    lm_buf_text(out, f->middle);
    lm_buf_str(out, f->suffix_first ? prefix : suffix);
    lm_buf_text(out, f->after);
    return lm_buf_status(out, "the prompt", err);
}
