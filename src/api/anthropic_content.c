/* Content blocks to messages in Ollama's form: the texts of a message are joined, calls and their results
 * become what the chat template reads. Blocks of a type that is not known are left out, as Ollama does. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "api/anthropic.h"
#include "api/images.h"

/* Claude Code's first system block: accounting, with a hash that changes from request to request, so that
 * nothing behind it would be found in the cache. No text for the model. */
#define BILLING "x-anthropic-billing-header:"

/* What one message of the client gathers. */
typedef struct gathered {
    lm_fields *f; /* the request's: remembers failures */
    size_t index; /* of the message, for texts */
    bool *images;
    json_t *names; /* of the calls so far: id to name */
    lm_buf text, thinking;
    json_t *calls, *results;
} gathered;

static void refuse_at(gathered *g, size_t block, const char *text) {
    lm_fields_fail(g->f, LM_INVALID, "messages.%zu.content.%zu: %s", g->index, block, text);
}

static bool is(const char *type, const char *name) {
    return type && !strcmp(type, name);
}

static const char *text_of(const json_t *object, const char *name) {
    return json_string_value(lm_field(object, name));
}

static void add_string(lm_buf *b, const json_t *v) {
    if (json_is_string(v)) lm_buf_add(b, json_string_value(v), json_string_length(v));
}

static json_t *new_message(const char *role, const lm_buf *content) {
    json_t *m = json_object();
    lm_str text = lm_buf_view(content);
    json_object_set_new(m, "role", json_string(role));
    json_object_set_new(m, "content", json_stringn(text.len ? text.ptr : "", text.len));
    return m;
}

/* ---- blocks */

static void take_image(gathered *g, size_t at, const json_t *block) {
    const json_t *source = lm_field(block, "source");
    if (!json_is_object(source)) {
        refuse_at(g, at, "invalid image source");
        return;
    }
    lm_err err = {0};
    const json_t *data = lm_field(source, "data");
    const char *type = text_of(source, "type");
    if (!is(type, "base64"))
        lm_fields_fail(
            g->f, LM_INVALID,
            "messages.%zu.content.%zu: invalid image source type: %.40s. Only base64 images are supported.",
            g->index, at, type ? type : "");
    else if (lm_base64_check((lm_str){json_string_value(data), json_string_length(data)}, &err) != LM_OK)
        lm_fields_fail(g->f, LM_INVALID, "messages.%zu.content.%zu: invalid base64 image data: %s", g->index,
                       at, err.text);
    *g->images = true;
}

static void take_texts(const json_t *content, lm_buf *to) {
    const json_t *one;
    size_t i;
    json_array_foreach(content, i, one) add_string(to, lm_field(one, "text"));
}

/* A document that is text is text; others cannot be read here. */
static void take_document(gathered *g, size_t at, const json_t *block, lm_buf *to) {
    const json_t *source = lm_field(block, "source");
    const json_t *content = lm_field(source, "content");
    if (is(text_of(source, "type"), "text")) {
        add_string(to, lm_field(source, "data"));
    } else if (is(text_of(source, "type"), "content")) {
        add_string(to, content);
        take_texts(content, to);
    } else {
        refuse_at(g, at,
                  "a document must have a source of type text or content: no other kind can be read here");
    }
}

static void take_call(gathered *g, size_t at, const json_t *block) {
    const char *id = text_of(block, "id"), *name = text_of(block, "name");
    const json_t *input = lm_field(block, "input");
    if (!id || !*id) {
        refuse_at(g, at, "tool_use block missing required 'id' field");
    } else if (!name || !*name) {
        refuse_at(g, at, "tool_use block missing required 'name' field");
    } else if (input && !json_is_object(input)) {
        refuse_at(g, at, "input: must be an object");
    } else {
        json_t *call = json_object(), *function = json_object();
        json_object_set_new(function, "name", json_string(name));
        json_object_set_new(function, "arguments",
                            input ? json_incref((json_t *)(uintptr_t)input) : json_object());
        json_object_set_new(call, "id", json_string(id));
        json_object_set_new(call, "function", function);
        json_array_append_new(g->calls, call);
        json_object_set_new(g->names, id, json_string(name));
    }
}

static void take_result_content(gathered *g, size_t at, const json_t *content, lm_buf *to) {
    const json_t *one;
    size_t i;
    if (content && !json_is_string(content) && !json_is_array(content))
        refuse_at(g, at, "content: must be a string or an array of blocks");
    add_string(to, content);
    json_array_foreach(content, i, one) {
        const char *type = text_of(one, "type");
        if (is(type, "text")) add_string(to, lm_field(one, "text"));
        if (is(type, "image")) take_image(g, at, one);
        if (is(type, "document")) take_document(g, at, one, to);
        if (is(type, "search_result")) take_texts(lm_field(one, "content"), to);
    }
}

/* A result that is an error has to say so, for chat templates know no such mark. */
static bool says_error(lm_str text) {
    lm_str starts[] = {LM_STR("Error"), LM_STR("error"), LM_STR("ERROR"), LM_STR("<tool_use_error>")};
    for (size_t i = 0; i < 4; i++)
        if (lm_str_starts(text, starts[i])) return true;
    return false;
}

static void take_result(gathered *g, size_t at, const json_t *block) {
    const char *id = text_of(block, "tool_use_id");
    lm_buf content, marked;
    if (!id || !*id) {
        refuse_at(g, at, "tool_result block missing required 'tool_use_id' field");
        return;
    }
    lm_buf_init(&content, MAX_ANSWER);
    lm_buf_init(&marked, MAX_ANSWER);
    take_result_content(g, at, lm_field(block, "content"), &content);
    if (json_is_true(lm_field(block, "is_error")) && !says_error(lm_buf_view(&content)))
        lm_buf_text(&marked, "Error: ");
    lm_buf_str(&marked, lm_buf_view(&content));
    json_t *m = new_message("tool", &marked), *name = json_object_get(g->names, id);
    json_object_set_new(m, "tool_call_id", json_string(id));
    if (name) json_object_set(m, "tool_name", name);
    json_array_append_new(g->results, m);
    lm_buf_release(&content);
    lm_buf_release(&marked);
}

static void take_block(gathered *g, size_t at, const json_t *block) {
    const char *type = text_of(block, "type");
    if (!json_is_object(block)) {
        lm_field_wrong(g->f, "messages.content", block, "anthropic.ContentBlock");
    } else if (!type) {
        refuse_at(g, at, "type: field required");
    } else if (is(type, "text")) {
        if (!json_is_string(lm_field(block, "text"))) refuse_at(g, at, "text: field required");
        add_string(&g->text, lm_field(block, "text"));
    } else if (is(type, "thinking")) {
        lm_buf_clear(&g->thinking);
        add_string(&g->thinking, lm_field(block, "thinking"));
    } else if (is(type, "image")) {
        take_image(g, at, block);
    } else if (is(type, "document")) {
        take_document(g, at, block, &g->text);
    } else if (is(type, "search_result")) {
        take_texts(lm_field(block, "content"), &g->text);
    } else if (is(type, "tool_use")) {
        take_call(g, at, block);
    } else if (is(type, "tool_result")) {
        take_result(g, at, block);
    }
}

/* ---- messages */

/* A user's results stand before the text: they belong to the calls of the message before. */
static void give(gathered *g, const char *role, json_t *messages) {
    if (g->text.failed || g->thinking.failed) {
        if (g->f->st == LM_OK)
            g->f->st = lm_fail(&g->f->err, LM_TOO_LARGE, "message %zu is too long", g->index);
        return;
    }
    json_array_extend(messages, g->results);
    if (!g->text.len && !g->thinking.len && !json_array_size(g->calls)) return;
    json_t *m = new_message(role, &g->text);
    if (g->thinking.len) json_object_set_new(m, "thinking", json_stringn(g->thinking.ptr, g->thinking.len));
    if (json_array_size(g->calls)) json_object_set(m, "tool_calls", g->calls);
    json_array_append_new(messages, m);
}

static void read_message(gathered *g, const json_t *value, json_t *messages) {
    lm_fields f = lm_fields_in(value, g->f->type, "messages.");
    const char *role = "";
    lm_field_str(&f, "role", &role, NULL);
    const json_t *content = lm_field(value, "content"), *block;
    char lower[16] = "";
    for (size_t i = 0; role[i] && i + 1 < sizeof lower; i++) lower[i] = (char)tolower((unsigned char)role[i]);
    if (f.st == LM_OK && strcmp(lower, "user") && strcmp(lower, "assistant") && strcmp(lower, "system"))
        f.st = lm_fail(&f.err, LM_INVALID, "messages.%zu.role: must be user or assistant", g->index);
    if (f.st == LM_OK && !json_is_string(content) && !json_is_array(content))
        f.st = lm_fail(&f.err, LM_INVALID, "messages.%zu.content: must be a string or an array of blocks",
                       g->index);
    if (f.st != LM_OK) {
        lm_fields_adopt(g->f, &f);
        return;
    }
    size_t i;
    add_string(&g->text, content);
    json_array_foreach(content, i, block) if (g->f->st == LM_OK) take_block(g, i, block);
    if (g->f->st == LM_OK) give(g, lower, messages);
}

static void add_system(lm_buf *b, const json_t *v) {
    lm_str text = {json_string_value(v), json_string_length(v)};
    if (lm_str_starts(text, LM_STR(BILLING))) {
        const char *end = memchr(text.ptr, '\n', text.len);
        if (!end) return;
        text = (lm_str){end + 1, text.len - (size_t)(end + 1 - text.ptr)};
    }
    lm_buf_str(b, text);
}

static void read_system(lm_fields *f, json_t *messages) {
    const json_t *system = lm_field(f->object, "system"), *block;
    size_t i;
    if (!system || f->st != LM_OK) return;
    if (!json_is_string(system) && !json_is_array(system)) {
        lm_field_wrong(f, "system", system, "[]anthropic.ContentBlock");
        return;
    }
    lm_buf text;
    lm_buf_init(&text, MAX_ANSWER);
    if (json_is_string(system)) add_system(&text, system);
    json_array_foreach(system, i, block) {
        const json_t *words = lm_field(block, "text");
        if (!json_is_object(block) || !is(text_of(block, "type"), "text") || !json_is_string(words)) {
            if (f->st == LM_OK)
                f->st = lm_fail(&f->err, LM_INVALID, "system.%zu: must be a block of type text", i);
        } else {
            add_system(&text, words);
        }
    }
    if (text.len) json_array_append_new(messages, new_message("system", &text));
    lm_buf_release(&text);
}

void anthropic_read_messages(lm_fields *f, anthropic_request *r) {
    json_t *list = lm_field_array(f, "messages", "[]anthropic.MessageParam"), *one;
    json_t *messages = r->request->messages = json_array(), *names = json_object();
    size_t i;
    if (f->st == LM_OK && !json_array_size(list))
        f->st = lm_fail(&f->err, LM_INVALID, "messages is required");
    read_system(f, messages);
    json_array_foreach(list, i, one) {
        if (f->st != LM_OK) break;
        if (!json_is_object(one)) {
            lm_field_wrong(f, "messages", one, "anthropic.MessageParam");
            break;
        }
        gathered g = {.f = f,
                      .index = i,
                      .images = &r->images,
                      .names = names,
                      .calls = json_array(),
                      .results = json_array()};
        lm_buf_init(&g.text, MAX_ANSWER);
        lm_buf_init(&g.thinking, MAX_ANSWER);
        read_message(&g, one, messages);
        lm_buf_release(&g.text);
        lm_buf_release(&g.thinking);
        json_decref(g.calls);
        json_decref(g.results);
    }
    json_decref(names);
    if (f->st == LM_OK && !json_array_size(messages) && !r->images)
        f->st = lm_fail(&f->err, LM_INVALID, "messages hold no content");
}
