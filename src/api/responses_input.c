/* Items of a conversation become messages in Ollama's form. What belongs to one turn of the assistant comes
 * as several items: reasoning, text, calls. */
#include <string.h>

#include "api/images.h"
#include "api/responses.h"

typedef struct reader {
    responses_request *r;
    lm_fields *f;
    size_t at;        /* index of the item */
    json_t *messages; /* borrowed: the request's */
    json_t *names;    /* id of a call -> name of its tool */
    lm_buf thinking;  /* of reasoning that has no message yet */
} reader;

static const char type[] = "ResponsesRequest";

static bool is(const char *a, const char *b) {
    return !strcmp(a, b);
}

/* ---- content: a string, or parts whose texts follow each other */

static void read_image(reader *g, const json_t *part) {
    const json_t *url = lm_field(part, "image_url");
    if (!json_is_string(url))
        lm_fields_fail(g->f, LM_INVALID,
                       "input[%zu]: an input_image needs an image_url: files are not kept here", g->at);
    else if (lm_image_url_check(g->f, json_string_value(url)))
        g->r->ask.images = true; /* refused once the model is known */
}

static void read_part(reader *g, const json_t *part, lm_buf *out) {
    if (!json_is_object(part)) {
        lm_field_wrong(g->f, "input", part, "openai.ResponsesContent");
        return;
    }
    lm_fields f = lm_fields_in(part, type, "input.content.");
    const char *kind = "", *text = NULL;
    size_t len = 0;
    lm_field_str(&f, "type", &kind, NULL);
    bool refusal = is(kind, "refusal");
    if (is(kind, "input_text") || is(kind, "output_text") || is(kind, "text") || refusal) {
        lm_field_str(&f, refusal ? "refusal" : "text", &text, &len);
        if (!text)
            lm_fields_fail(&f, LM_INVALID, "input[%zu]: a part of type %s needs its text", g->at, kind);
        if (text) lm_buf_add(out, text, len);
    } else if (is(kind, "input_image")) {
        read_image(g, part);
    } else if (is(kind, "input_file")) {
        lm_fields_fail(&f, LM_INVALID, "file inputs are not currently supported");
    } else {
        lm_fields_fail(&f, LM_INVALID, "input[%zu]: unknown content type: %.40s", g->at, kind);
    }
    lm_fields_adopt(g->f, &f);
}

/* A new string; NULL when there is none, or after a failure. */
static json_t *read_content(reader *g, const json_t *item, const char *name) {
    json_t *content = lm_field(item, name), *part, *whole = NULL;
    size_t i;
    if (json_is_string(content)) return json_incref(content);
    if (!json_is_array(content)) {
        lm_fields_fail(g->f, LM_INVALID, "input[%zu]: %s must be a string or array", g->at, name);
        return NULL;
    }
    lm_buf text;
    lm_buf_init(&text, MAX_ANSWER);
    json_array_foreach(content, i, part) {
        if (g->f->st == LM_OK) read_part(g, part, &text);
    }
    if (text.failed) lm_fields_fail(g->f, LM_TOO_LARGE, "input[%zu]: %s is too long", g->at, name);
    if (g->f->st == LM_OK) whole = json_stringn(text.ptr ? text.ptr : "", text.len);
    lm_buf_release(&text);
    return whole;
}

/* ---- turns of the assistant */

/* Thinking that waits goes with the turn it led to. */
static void give_thinking(reader *g, json_t *message) {
    if (!g->thinking.len) return;
    json_object_set_new(message, "thinking", json_stringn(g->thinking.ptr, g->thinking.len));
    lm_buf_clear(&g->thinking);
}

static json_t *add_message(reader *g, const char *role, json_t *content) {
    json_t *message = json_object();
    json_object_set_new(message, "role", json_string(role));
    json_object_set_new(message, "content", content ? content : json_string(""));
    if (is(role, "assistant")) give_thinking(g, message);
    json_array_append_new(g->messages, message);
    return message;
}

/* The message that a call belongs to: the assistant's last one, where it was the last to speak. */
static json_t *calling_message(reader *g) {
    json_t *last = json_array_get(g->messages, json_array_size(g->messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    if (!role || strcmp(role, "assistant")) return add_message(g, "assistant", NULL);
    give_thinking(g, last);
    return last;
}

static void read_reasoning(reader *g, const json_t *item) {
    static const char *const lists[] = {"summary", "content"};
    const json_t *kept = lm_field(item, "encrypted_content"), *part;
    size_t i, before = g->thinking.len;
    for (size_t k = 0; k < 2; k++) {
        const json_t *list = lm_field(item, lists[k]);
        if (g->thinking.len > before) break; /* the other says the same in full */
        json_array_foreach(list, i, part) {
            const json_t *text = json_is_object(part) ? lm_field(part, "text") : NULL;
            if (json_is_string(text))
                lm_buf_add(&g->thinking, json_string_value(text), json_string_length(text));
        }
    }
    if (g->thinking.len == before && json_is_string(kept)) /* ours is plain text */
        lm_buf_add(&g->thinking, json_string_value(kept), json_string_length(kept));
    if (g->thinking.failed)
        lm_fields_fail(g->f, LM_TOO_LARGE, "input[%zu]: the reasoning is too long", g->at);
}

/* ---- calls and their results */

static json_t *called_name(lm_fields *f) {
    const char *name = "", *space = "";
    lm_field_str(f, "name", &name, NULL);
    lm_field_str(f, "namespace", &space, NULL);
    return name[0] ? responses_tool_name(space, name) : NULL;
}

static void read_call(reader *g, const json_t *item, bool custom) {
    lm_fields f = lm_fields_in(item, type, "input.");
    const char *id = "", *input = NULL;
    size_t len = 0;
    lm_field_str(&f, "call_id", &id, NULL);
    if (custom) lm_field_str(&f, "input", &input, &len);
    json_t *name = called_name(&f);
    if (!name) lm_fields_fail(&f, LM_INVALID, "input[%zu]: a call needs the name of its tool", g->at);
    if (custom && !input)
        lm_fields_fail(&f, LM_INVALID, "input[%zu]: custom_tool_call requires input", g->at);
    lm_fields_adopt(g->f, &f);
    json_t *arguments = NULL;
    if (g->f->st == LM_OK)
        arguments = custom ? json_pack("{s:s%}", "input", input, len)
                           : openai_read_arguments(g->f, "input", g->at, item);
    if (g->f->st == LM_OK) {
        json_t *to = calling_message(g), *calls = json_object_get(to, "tool_calls");
        if (!calls) json_object_set_new(to, "tool_calls", calls = json_array());
        json_t *call = json_pack("{s:{s:O,s:O}}", "function", "name", name, "arguments", arguments);
        if (id[0]) json_object_set_new(call, "id", json_string(id));
        if (id[0]) json_object_set(g->names, id, name);
        json_array_append_new(calls, call);
    }
    json_decref(arguments);
    json_decref(name);
}

static void read_result(reader *g, const json_t *item) {
    lm_fields f = lm_fields_in(item, type, "input.");
    const char *id = "";
    lm_field_str(&f, "call_id", &id, NULL);
    json_t *name = called_name(&f);
    lm_fields_adopt(g->f, &f);
    json_t *content = g->f->st == LM_OK ? read_content(g, item, "output") : NULL;
    if (content) {
        json_t *to = add_message(g, "tool", content), *known = id[0] ? json_object_get(g->names, id) : NULL;
        if (id[0]) json_object_set_new(to, "tool_call_id", json_string(id));
        if (known || name) json_object_set(to, "tool_name", known ? known : name);
    }
    json_decref(name);
}

/* ---- items */

static void read_message(reader *g, const json_t *item) {
    lm_fields f = lm_fields_in(item, type, "input.");
    const char *given = "";
    lm_field_str(&f, "role", &given, NULL);
    lm_fields_adopt(g->f, &f);
    const char *role = openai_role(given);
    if (!role || is(role, "tool")) {
        lm_fields_fail(g->f, LM_INVALID,
                       "input[%zu]: role must be user, assistant, system or developer, not \"%.40s\"", g->at,
                       given);
        return;
    }
    json_t *content = g->f->st == LM_OK ? read_content(g, item, "content") : NULL;
    if (content) add_message(g, role, content);
}

static void read_item(reader *g, const json_t *item) {
    if (!json_is_object(item)) {
        lm_field_wrong(g->f, "input", item, "openai.ResponsesInputItem");
        return;
    }
    lm_fields f = lm_fields_in(item, type, "input.");
    const char *kind = "";
    lm_field_str(&f, "type", &kind, NULL);
    lm_fields_adopt(g->f, &f);
    if (f.st != LM_OK) return;
    if (is(kind, "message") || (!kind[0] && lm_field(item, "role")))
        read_message(g, item);
    else if (is(kind, "function_call") || is(kind, "custom_tool_call"))
        read_call(g, item, is(kind, "custom_tool_call"));
    else if (is(kind, "function_call_output") || is(kind, "custom_tool_call_output"))
        read_result(g, item);
    else if (is(kind, "reasoning"))
        read_reasoning(g, item);
    else if (is(kind, "item_reference"))
        lm_fields_fail(g->f, LM_INVALID, "input[%zu]: items are not kept here: send the item itself", g->at);
    else if (!kind[0])
        lm_fields_fail(g->f, LM_INVALID, "input[%zu]: input item missing required 'type' field", g->at);
    else if (!is(kind, "web_search_call")) /* its result is in the text that follows */
        lm_fields_fail(g->f, LM_INVALID, "input[%zu]: unknown input item type: %.60s", g->at, kind);
}

void responses_read_input(lm_fields *f, responses_request *r) {
    const char *instructions = NULL;
    size_t len = 0;
    lm_field_str(f, "instructions", &instructions, &len);
    if (f->st != LM_OK) return;
    json_t *input = lm_field(f->object, "input"), *item;
    reader g = {.r = r, .f = f, .names = json_object(), .messages = json_array()};
    r->ask.request->messages = g.messages;
    lm_buf_init(&g.thinking, MAX_ANSWER);
    if (len) add_message(&g, "system", json_stringn(instructions, len));
    if (json_is_string(input)) {
        if (json_string_length(input)) add_message(&g, "user", json_incref(input));
    } else if (json_is_array(input)) {
        json_array_foreach(input, g.at, item) {
            if (f->st == LM_OK) read_item(&g, item);
        }
        if (f->st == LM_OK && g.thinking.len) add_message(&g, "assistant", NULL);
    } else if (input) {
        lm_fields_fail(f, LM_INVALID, "input must be a string or array");
    }
    if (!json_array_size(g.messages)) lm_fields_fail(f, LM_INVALID, "input is required");
    lm_buf_release(&g.thinking);
    json_decref(g.names);
}
