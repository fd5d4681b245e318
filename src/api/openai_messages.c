/* OpenAI's messages and tools in the form that templates read, which is Ollama's: content is one text,
 * arguments are objects, a tool's answer knows the tool's name. */
#include <string.h>

#include "api/calls.h"
#include "api/images.h"
#include "api/openai.h"

static const char type[] = "ChatCompletionRequest";

/* A reader of one message, and what is known of those before it. */
typedef struct reader {
    openai_request *r;
    lm_fields *f;  /* whose failure counts */
    size_t at;     /* index of the message */
    json_t *names; /* id of a tool call -> name of its function */
} reader;

/* ---- content */

static void read_image(reader *m, const json_t *part) {
    const json_t *image = lm_field(part, "image_url");
    const char *url = json_string_value(json_is_object(image) ? lm_field(image, "url") : image);
    if (!url)
        lm_fields_fail(m->f, LM_INVALID, "messages[%zu]: image_url must have a url", m->at);
    else if (lm_image_url_check(m->f, url))
        m->r->ask.images = true; /* refused once the model is known */
}

static void read_part(reader *m, const json_t *part, lm_buf *out) {
    if (!json_is_object(part)) {
        lm_fields_fail(m->f, LM_INVALID, "messages[%zu]: a part of content must be an object", m->at);
        return;
    }
    lm_fields f = lm_fields_in(part, type, "messages.content.");
    const char *kind = "", *text = NULL;
    size_t len = 0;
    lm_field_str(&f, "type", &kind, NULL);
    bool refusal = !strcmp(kind, "refusal");
    if (!strcmp(kind, "text") || refusal) {
        lm_field_str(&f, refusal ? "refusal" : "text", &text, &len);
        if (!text && f.st == LM_OK)
            lm_fields_fail(&f, LM_INVALID, "messages[%zu]: a part of type %s needs it", m->at, kind);
        if (text && out->len) lm_buf_text(out, "\n\n"); /* as Ollama joins messages of one role */
        if (text) lm_buf_add(out, text, len);
    } else if (!strcmp(kind, "image_url")) {
        read_image(m, part);
    } else {
        lm_fields_fail(&f, LM_INVALID,
                       "messages[%zu]: invalid message content type: \"%.40s\", expected \"text\"", m->at,
                       kind);
    }
    lm_fields_adopt(m->f, &f);
}

/* NULL when there is none. */
static json_t *read_content(reader *m, const json_t *message) {
    json_t *content = lm_field(message, "content"), *part, *whole = NULL;
    if (!content) return NULL;
    if (json_is_string(content)) return json_incref(content);
    if (!json_is_array(content)) {
        lm_fields_fail(m->f, LM_INVALID,
                       "messages[%zu]: invalid message content type, expected a string or an array of parts",
                       m->at);
        return NULL;
    }
    lm_buf text;
    lm_buf_init(&text, MAX_ANSWER);
    size_t i;
    json_array_foreach(content, i, part) {
        if (m->f->st == LM_OK) read_part(m, part, &text);
    }
    if (text.failed) lm_fields_fail(m->f, LM_INVALID, "messages[%zu]: content is too long", m->at);
    if (m->f->st == LM_OK) whole = json_stringn(text.ptr ? text.ptr : "", text.len);
    lm_buf_release(&text);
    return whole;
}

/* ---- tool calls */

/* Those who send an object mean the same. */
json_t *openai_read_arguments(lm_fields *f, const char *list, size_t at, const json_t *function) {
    json_t *given = lm_field(function, "arguments"), *parsed = NULL;
    lm_str text = {json_string_value(given), json_string_length(given)};
    lm_err ignored;
    if (!given || (json_is_string(given) && lm_str_trim(text).len == 0)) return json_object();
    if (json_is_object(given)) return json_incref(given);
    if (json_is_string(given) && lm_json_parse(text, &parsed, &ignored) == LM_OK) {
        if (json_is_object(parsed)) return parsed;
        json_decref(parsed);
    }
    lm_fields_fail(f, LM_INVALID, "%s[%zu]: invalid tool call arguments: expected a JSON object as a string",
                   list, at);
    return json_object();
}

static json_t *read_tool_call(reader *m, const json_t *value) {
    const json_t *function = json_is_object(value) ? lm_field(value, "function") : NULL;
    if (!json_is_object(function)) {
        lm_fields_fail(m->f, LM_INVALID, "messages[%zu]: a tool call needs a function", m->at);
        return NULL;
    }
    lm_fields f = lm_fields_in(value, type, "messages.tool_calls.");
    lm_fields g = lm_fields_in(function, type, "messages.tool_calls.function.");
    const char *id = "", *name = "";
    lm_field_str(&f, "id", &id, NULL);
    lm_field_str(&g, "name", &name, NULL);
    if (!name[0])
        lm_fields_fail(&g, LM_INVALID, "messages[%zu]: a tool call needs the name of its function", m->at);
    lm_fields_adopt(m->f, &f);
    lm_fields_adopt(m->f, &g);
    json_t *call = json_object(), *inner = json_object();
    if (id[0]) json_object_set_new(call, "id", json_string(id));
    json_object_set_new(inner, "name", json_string(name));
    json_object_set_new(inner, "arguments", openai_read_arguments(m->f, "messages", m->at, function));
    json_object_set_new(call, "function", inner);
    if (id[0]) json_object_set_new(m->names, id, json_string(name));
    return call;
}

static void read_tool_calls(reader *m, lm_fields *f, json_t *to) {
    json_t *list = lm_field_array(f, "tool_calls", "[]openai.ToolCall"), *one;
    if (!json_array_size(list)) return;
    json_t *calls = json_array();
    size_t i;
    json_array_foreach(list, i, one) {
        json_t *call = m->f->st == LM_OK ? read_tool_call(m, one) : NULL;
        if (!call) break;
        json_array_append_new(calls, call);
    }
    json_object_set_new(to, "tool_calls", calls);
}

/* ---- messages */

const char *openai_role(const char *role) {
    static const char *const roles[][2] = {{"system", "system"}, {"developer", "system"},
                                           {"user", "user"},     {"assistant", "assistant"},
                                           {"tool", "tool"},     {"function", "tool"}};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (!strcmp(role, roles[i][0])) return roles[i][1];
    return NULL;
}

static void read_extras(reader *m, lm_fields *f, const char *role, json_t *to) {
    const char *thinking = NULL, *id = "", *name = "";
    size_t len = 0;
    lm_field_str(f, "reasoning", &thinking, &len);
    if (!thinking) lm_field_str(f, "reasoning_content", &thinking, &len);
    lm_field_str(f, "tool_call_id", &id, NULL);
    lm_field_str(f, "name", &name, NULL);
    if (!strcmp(role, "assistant")) {
        if (thinking && len) json_object_set_new(to, "thinking", json_stringn(thinking, len));
        read_tool_calls(m, f, to);
    } else if (!strcmp(role, "tool")) {
        const char *called = id[0] ? json_string_value(json_object_get(m->names, id)) : NULL;
        if (id[0]) json_object_set_new(to, "tool_call_id", json_string(id));
        if (called || name[0]) json_object_set_new(to, "tool_name", json_string(called ? called : name));
    }
}

static json_t *read_message(reader *m, const json_t *value) {
    if (!json_is_object(value)) {
        lm_field_wrong(m->f, "messages", value, "openai.Message");
        return NULL;
    }
    lm_fields f = lm_fields_in(value, type, "messages.");
    const char *given = "";
    lm_field_str(&f, "role", &given, NULL);
    lm_fields_adopt(m->f, &f);
    const char *role = openai_role(given);
    if (!role) {
        lm_fields_fail(
            m->f, LM_INVALID,
            "messages[%zu]: role must be system, developer, user, assistant or tool, not \"%.40s\"", m->at,
            given);
        return NULL;
    }
    json_t *to = json_object(), *content = read_content(m, value);
    json_object_set_new(to, "role", json_string(role));
    json_object_set_new(to, "content", content ? content : json_string(""));
    read_extras(m, &f, role, to);
    bool says = content || json_object_get(to, "tool_calls") || json_object_get(to, "thinking");
    if (!says) lm_fields_fail(m->f, LM_INVALID, "messages[%zu]: invalid message content type: <nil>", m->at);
    lm_fields_adopt(m->f, &f);
    return to;
}

void openai_messages_read(lm_fields *f, openai_request *r) {
    json_t *list = lm_field_array(f, "messages", "[]openai.Message"), *one;
    if (f->st == LM_OK && !json_array_size(list))
        lm_fields_fail(f, LM_INVALID, "[] is too short - 'messages'");
    reader m = {.r = r, .f = f, .names = json_object()};
    r->ask.request->messages = json_array();
    json_array_foreach(list, m.at, one) {
        json_t *message = f->st == LM_OK ? read_message(&m, one) : NULL;
        if (!message) break;
        json_array_append_new(r->ask.request->messages, message);
    }
    json_decref(m.names);
}

/* ---- tools */

static bool is_name(const json_t *v) {
    size_t n = json_string_length(v);
    return n && strlen(json_string_value(v)) == n;
}

static void check_tool(lm_fields *f, size_t i, const json_t *tool) {
    const json_t *kind = json_is_object(tool) ? lm_field(tool, "type") : NULL;
    const json_t *function = json_is_object(tool) ? lm_field(tool, "function") : NULL;
    if (!json_is_object(tool))
        lm_field_wrong(f, "tools", tool, "api.Tool");
    else if (kind && (!json_is_string(kind) || strcmp(json_string_value(kind), "function") != 0))
        lm_fields_fail(f, LM_INVALID, "tools[%zu]: only tools of type \"function\" are supported", i);
    else if (!json_is_object(function))
        lm_fields_fail(f, LM_INVALID, "tools[%zu]: function is required", i);
    else if (!is_name(json_object_get(function, "name")))
        lm_fields_fail(f, LM_INVALID, "tools[%zu]: function.name is required", i);
    const json_t *parameters = json_object_get(function, "parameters");
    if (parameters && !json_is_null(parameters) && !json_is_object(parameters))
        lm_fields_fail(f, LM_INVALID, "tools[%zu]: function.parameters must be a JSON Schema object", i);
}

/* One call of one of the tools, or of the one that is named. */
static void force_call(lm_fields *f, openai_request *r, const char *only) {
    lm_err err = {0};
    lm_status st = lm_force_call(r->ask.request, only, &err);
    if (st != LM_OK) lm_fields_fail(f, LM_INVALID, "tool_choice: %s", err.text);
    r->forced = st == LM_OK;
}

static void read_choice(lm_fields *f, openai_request *r) {
    const json_t *choice = lm_field(f->object, "tool_choice");
    const char *word = json_string_value(choice);
    if (!choice || (word && !strcmp(word, "auto"))) return;
    if (word && !strcmp(word, "none")) {
        json_decref(r->ask.request->tools); /* what the model does not know it cannot call */
        r->ask.request->tools = NULL;
    } else if (word && !strcmp(word, "required")) {
        force_call(f, r, NULL);
    } else {
        const json_t *function = json_is_object(choice) ? lm_field(choice, "function") : NULL;
        const char *name = json_string_value(json_is_object(function) ? lm_field(function, "name") : NULL);
        if (name)
            force_call(f, r, name);
        else
            lm_fields_fail(f, LM_INVALID,
                           "tool_choice must be \"none\", \"auto\", \"required\" or "
                           "{\"type\":\"function\",\"function\":{\"name\":...}}");
    }
}

void openai_tools_read(lm_fields *f, openai_request *r) {
    bool parallel = true;
    json_t *list = lm_field_array(f, "tools", "[]api.Tool"), *one;
    size_t i;
    lm_field_bool(f, "parallel_tool_calls", &parallel);
    r->one_call = !parallel;
    json_array_foreach(list, i, one) {
        if (f->st == LM_OK) check_tool(f, i, one);
    }
    if (f->st == LM_OK && json_array_size(list)) r->ask.request->tools = json_incref(list);
    if (f->st == LM_OK) read_choice(f, r);
}
