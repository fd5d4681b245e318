/* From a JSON body to a request of the engine. Works on text alone: nothing here knows which models there
 * are. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "api/fields.h"
#include "api/images.h"
#include "api/ollama.h"
#include "api/options.h"

#define MAX_CONTEXT_IDS (1u << 24)

void ollama_request_release(ollama_request *r) {
    free(r->model);
    lm_request_free(r->request);
    json_decref(r->options);
    json_decref(r->params);
    json_decref(r->prelude);
    *r = (ollama_request){0};
}

static json_t *checked_new(json_t *value, lm_fields *f) {
    if (!value && f->st == LM_OK) f->st = lm_fail(&f->err, LM_NO_MEMORY, "not enough memory for the request");
    return value;
}

/* ---- messages */

/* Copies a text member under its own name when it is there. */
static void keep_str(lm_fields *f, const char *name, json_t *to) {
    const char *text = NULL;
    size_t len = 0;
    lm_field_str(f, name, &text, &len);
    if (text && len) json_object_set_new(to, name, checked_new(json_stringn(text, len), f));
}

static json_t *read_tool_call(const json_t *value, lm_fields *outer) {
    if (!json_is_object(value)) {
        lm_field_wrong(outer, "messages.tool_calls", value, "api.ToolCall");
        return NULL;
    }
    lm_fields f = lm_fields_in(value, "ChatRequest", "messages.tool_calls.");
    json_t *function = lm_field_object(&f, "function", "api.ToolCallFunction");
    lm_fields g = lm_fields_in(function, "ChatRequest", "messages.tool_calls.function.");
    const char *name = "";
    size_t len = 0;
    lm_field_str(&g, "name", &name, &len);
    int64_t index = 0;
    lm_field_int(&g, "index", &index);
    json_t *arguments = lm_field_object(&g, "arguments", "api.ToolCallFunctionArguments");
    json_t *call = json_object(), *inner = json_object();
    keep_str(&f, "id", call);
    json_object_set_new(inner, "name", json_stringn(name, len));
    if (index) json_object_set_new(inner, "index", json_integer(index));
    json_object_set_new(inner, "arguments", arguments ? json_incref(arguments) : json_object());
    json_object_set_new(call, "function", inner);
    if (f.st == LM_OK && g.st != LM_OK) f = g;
    if (f.st != LM_OK && outer->st == LM_OK) {
        outer->st = f.st;
        outer->err = f.err;
    }
    return call;
}

static void read_tool_calls(lm_fields *f, json_t *to) {
    json_t *list = lm_field_array(f, "tool_calls", "[]api.ToolCall");
    if (!json_array_size(list)) return;
    json_t *calls = json_array(), *one;
    size_t i;
    json_array_foreach(list, i, one) {
        json_t *call = read_tool_call(one, f);
        if (!call) break;
        json_array_append_new(calls, call);
    }
    json_object_set_new(to, "tool_calls", calls);
}

static json_t *read_message(const json_t *value, lm_fields *outer, bool *images) {
    if (!json_is_object(value)) {
        lm_field_wrong(outer, "messages", value, "api.Message");
        return NULL;
    }
    lm_fields f = lm_fields_in(value, "ChatRequest", "messages.");
    const char *role = "", *content = "";
    size_t role_len = 0, content_len = 0;
    lm_field_str(&f, "role", &role, &role_len);
    lm_field_str(&f, "content", &content, &content_len);
    char *lower = lm_str_dup((lm_str){role, role_len});
    for (size_t i = 0; i < role_len; i++) lower[i] = (char)tolower((unsigned char)lower[i]);
    json_t *m = json_object();
    json_object_set_new(m, "role", checked_new(json_stringn(lower, role_len), &f));
    json_object_set_new(m, "content", checked_new(json_stringn(content, content_len), &f));
    free(lower);
    keep_str(&f, "thinking", m);
    keep_str(&f, "tool_name", m);
    keep_str(&f, "tool_call_id", m);
    read_tool_calls(&f, m);
    if (lm_field_images(&f)) *images = true;
    if (f.st != LM_OK) {
        outer->st = f.st;
        outer->err = f.err;
    }
    return m;
}

json_t *ollama_messages_read(lm_fields *f, bool *images) {
    json_t *list = lm_field_array(f, "messages", "[]api.Message"), *out = json_array(), *one;
    size_t i;
    json_array_foreach(list, i, one) {
        json_t *m = f->st == LM_OK ? read_message(one, f, images) : NULL;
        if (!m) break;
        json_array_append_new(out, m);
    }
    return out;
}

static void read_messages(lm_fields *f, ollama_request *r) {
    r->request->messages = ollama_messages_read(f, &r->images);
    r->empty = !json_array_size(r->request->messages);
}

static void read_tools(lm_fields *f, lm_request *to) {
    json_t *list = lm_field_array(f, "tools", "api.Tools");
    if (!json_array_size(list)) return;
    json_t *one;
    size_t i;
    json_array_foreach(list, i, one) {
        if (!json_is_object(one)) {
            lm_field_wrong(f, "tools", one, "api.Tool");
            return;
        }
    }
    to->tools = json_incref(list);
}

/* ---- prompt */

static void read_context(lm_fields *f, lm_request *to) {
    json_t *list = lm_field_array(f, "context", "[]int");
    size_t n = json_array_size(list);
    if (!n || f->st != LM_OK) return;
    int32_t *ids = n <= MAX_CONTEXT_IDS ? lm_try_alloc(n, sizeof *ids) : NULL;
    if (!ids) {
        f->st = lm_fail(&f->err, LM_INVALID, "context holds %zu numbers, too many", n);
        return;
    }
    to->context = ids;
    to->n_context = (uint32_t)n;
    json_t *one;
    size_t i;
    json_array_foreach(list, i, one) {
        json_int_t id = json_is_integer(one) ? json_integer_value(one) : -1;
        if (id < 0 || id > INT32_MAX) {
            f->st =
                lm_fail(&f->err, LM_INVALID, "context must hold the numbers of an earlier answer's context");
            return;
        }
        ids[i] = (int32_t)id;
    }
}

static void add_message(json_t *messages, const char *role, const char *text, size_t len, lm_fields *f) {
    json_t *m = json_object();
    json_object_set_new(m, "role", json_string(role));
    json_object_set_new(m, "content", checked_new(json_stringn(text, len), f));
    json_array_append_new(messages, m);
}

/* A prompt goes through the chat template as the user's message, unless it is raw or has a suffix. */
static void read_prompt(lm_fields *f, ollama_request *r) {
    const char *prompt = "", *suffix = "", *system = "", *template = "";
    size_t prompt_len = 0, system_len = 0, template_len = 0;
    bool raw = false;
    lm_field_bool(f, "raw", &raw);
    lm_field_str(f, "prompt", &prompt, &prompt_len);
    lm_field_str(f, "suffix", &suffix, NULL);
    lm_field_str(f, "system", &system, &system_len);
    lm_field_str(f, "template", &template, &template_len);
    if (lm_field_images(f)) r->images = true;
    json_t *context = lm_field_array(f, "context", "[]int");
    if (f->st != LM_OK) return;

    lm_request *to = r->request;
    r->empty = prompt_len == 0;
    r->insert = suffix[0] != '\0';
    if (raw && (template_len || system_len || json_array_size(context))) {
        f->st = lm_fail(&f->err, LM_INVALID, "raw mode does not support template, system, or context");
    } else if (strlen(template) != template_len) {
        f->st = lm_fail(&f->err, LM_INVALID, "template must not hold a NUL character");
    } else if (raw || r->insert) {
        if (strlen(prompt) != prompt_len)
            f->st = lm_fail(&f->err, LM_INVALID, "prompt must not hold a NUL character");
        to->kind = r->insert ? LM_REQUEST_INSERT : LM_REQUEST_RAW;
        to->prompt = lm_strdup(prompt);
        to->suffix = r->insert ? lm_strdup(suffix) : NULL;
    } else {
        to->kind = LM_REQUEST_CHAT;
        to->messages = json_array();
        if (system_len) add_message(to->messages, "system", system, system_len, f);
        add_message(to->messages, "user", prompt, prompt_len, f);
    }
    if (template_len) to->template = lm_strdup(template);
    to->want_context = !raw;
    if (f->st == LM_OK) read_context(f, to);
}

/* ---- both */

static void read_common(lm_fields *f, ollama_request *r) {
    lm_request *to = r->request;
    int64_t top = 0;
    lm_field_bool(f, "stream", &r->stream);
    lm_field_bool(f, "truncate", &to->truncate);
    lm_field_bool(f, "shift", &to->shift);
    lm_field_bool(f, "logprobs", &to->logprobs);
    lm_field_int(f, "top_logprobs", &top);
    lm_field_bool(f, "_debug_render_only", &to->render_only);
    json_t *options = lm_field_object(f, "options", "map[string]interface {}");
    if (f->st == LM_OK)
        f->st = lm_keep_alive_read(lm_field(f->object, "keep_alive"), &to->keep_alive_ns, &f->err);
    if (f->st == LM_OK) f->st = lm_think_read(lm_field(f->object, "think"), to, &f->err);
    if (f->st == LM_OK && (top < 0 || top > 20))
        f->st = lm_fail(&f->err, LM_INVALID, "top_logprobs must be between 0 and 20");
    if (f->st == LM_OK) f->st = lm_format_read(lm_field(f->object, "format"), to, &f->err);
    if (f->st != LM_OK) return;
    to->top_logprobs = (uint32_t)top;
    r->options = json_incref(options);
}

lm_status ollama_request_options(ollama_request *r, const lm_text_sampling *makers, lm_err *err) {
    lm_options_default(&r->request->options);
    lm_options_suggest(makers, &r->request->options);
    lm_status st = r->params ? lm_options_read(r->params, r->request, err) : LM_OK;
    return st == LM_OK && r->options ? lm_options_read(r->options, r->request, err) : st;
}

void ollama_apply_modelfile(const lm_modelfile *m, json_t *messages, bool generate) {
    const json_t *first = json_array_get(messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    bool own_system = role && !strcmp(role, "system");
    size_t at = 0, i;
    json_t *one;
    if (m->system && !own_system)
        json_array_insert_new(messages, at++, json_pack("{s:s,s:s}", "role", "system", "content", m->system));
    else if (own_system && generate)
        at = 1;
    json_array_foreach(m->messages, i, one) {
        json_array_insert(messages, at++, one);
    }
}

lm_status ollama_request_read(lm_str body, ollama_form form, ollama_request *out, lm_err *err) {
    const char *type = form == OLLAMA_CHAT ? "ChatRequest" : "GenerateRequest";
    json_t *object = NULL;
    lm_status st = lm_fields_parse(body, type, &object, err);
    if (st != LM_OK) return st;

    ollama_request r = {.form = form, .stream = true, .request = lm_request_new()};
    r.request->kind = LM_REQUEST_CHAT;
    lm_fields f = lm_fields_of(object, type);
    const char *model = "";
    lm_field_str(&f, "model", &model, NULL);
    r.model = lm_strdup(model);
    if (form == OLLAMA_CHAT) {
        read_messages(&f, &r);
        read_tools(&f, r.request);
    } else {
        read_prompt(&f, &r);
    }
    read_common(&f, &r);
    if (r.empty && !r.request->render_only) r.request->kind = LM_REQUEST_LOAD;
    json_decref(object);
    if (f.st != LM_OK) {
        ollama_request_release(&r);
        return lm_fail(err, f.st, "%s", f.err.text);
    }
    *out = r;
    return LM_OK;
}
