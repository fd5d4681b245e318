#include "router/events.h"

#include <stdio.h>
#include <string.h>

#include "base/json.h"

#define PARSE_MAX                                                                                            \
    (4u << 20) /* bytes of a whole answer that is parsed; of a larger one the outline is looked at */

/* ---- the members of an object, without a tree */

typedef struct cursor {
    const char *at, *end;
} cursor;

static void skip_space(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t' || *c->at == '\r')) c->at++;
}

/* From its opening quote to behind the closing one. */
static bool skip_string(cursor *c) {
    const char *from = ++c->at;
    while (c->at < c->end) {
        const char *quote = memchr(c->at, '"', (size_t)(c->end - c->at));
        if (!quote) break;
        const char *slash = quote;
        while (slash > from && slash[-1] == '\\') slash--;
        c->at = quote + 1;
        if ((quote - slash) % 2 == 0) return true;
    }
    c->at = c->end;
    return false;
}

static bool skip_nested(cursor *c) {
    uint32_t depth = 0;
    while (c->at < c->end) {
        switch (*c->at) {
        case '"':
            if (!skip_string(c)) return false;
            continue;
        case '{':
        case '[': depth++; break;
        case '}':
        case ']':
            if (--depth == 0) {
                c->at++;
                return true;
            }
            break;
        default: break;
        }
        c->at++;
    }
    return false;
}

static bool skip_value(cursor *c) {
    if (c->at == c->end) return false;
    if (*c->at == '"') return skip_string(c);
    if (*c->at == '{' || *c->at == '[') return skip_nested(c);
    const char *from = c->at;
    while (c->at < c->end && !strchr(" \n\t\r,}]", *c->at)) c->at++;
    return c->at > from && c->at < c->end;
}

typedef enum step { STEP_MEMBER, STEP_END, STEP_BROKEN } step;

/* c stands behind the opening brace, or behind a value. */
static step next_member(cursor *c, bool first, lm_str *key, lm_str *value) {
    skip_space(c);
    if (c->at < c->end && *c->at == '}') {
        c->at++;
        return STEP_END;
    }
    if (!first) {
        if (c->at == c->end || *c->at++ != ',') return STEP_BROKEN;
        skip_space(c);
    }
    const char *from = c->at;
    if (c->at == c->end || *c->at != '"' || !skip_string(c)) return STEP_BROKEN;
    *key = (lm_str){from + 1, (size_t)(c->at - from) - 2};
    skip_space(c);
    if (c->at == c->end || *c->at++ != ':') return STEP_BROKEN;
    skip_space(c);
    from = c->at;
    if (!skip_value(c)) return STEP_BROKEN;
    *value = (lm_str){from, (size_t)(c->at - from)};
    return STEP_MEMBER;
}

/* ---- what an event says */

/* The members that matter, as they stand there; empty: there is none. */
typedef struct outline {
    lm_str error, done, status, type, model, message, response;
} outline;

static lm_str *place(outline *o, lm_str key) {
#define NAMED(name) (!memcmp(key.ptr, #name, sizeof #name - 1))
    switch (key.len) {
    case 4: return NAMED(done) ? &o->done : NAMED(type) ? &o->type : NULL;
    case 5: return NAMED(error) ? &o->error : NAMED(model) ? &o->model : NULL;
    case 6: return NAMED(status) ? &o->status : NULL;
    case 7: return NAMED(message) ? &o->message : NULL;
    case 8: return NAMED(response) ? &o->response : NULL;
    default: return NULL;
    }
#undef NAMED
}

/* false: no whole object; what was found up to there is in o. */
static bool read_outline(lm_str text, outline *o) {
    cursor c = {text.ptr, text.ptr + text.len};
    *o = (outline){0};
    skip_space(&c);
    if (c.at == c.end || *c.at++ != '{') return false;
    for (bool first = true;; first = false) {
        lm_str key, value;
        step s = next_member(&c, first, &key, &value);
        if (s == STEP_BROKEN) return false;
        if (s == STEP_END) break;
        lm_str *at = place(o, key);
        if (at && !at->len) *at = value;
    }
    skip_space(&c);
    return c.at == c.end;
}

static bool is(lm_str value, const char *literal) {
    return lm_str_eq(value, lm_str_of(literal));
}

static const char *text_of(const json_t *error) {
    if (json_is_string(error)) return json_string_value(error);
    return json_string_value(json_object_get(error, "message"));
}

/* Seldom, so with a tree. */
static void read_error(lm_str text, char out[256]) {
    json_t *o = NULL;
    const char *said = NULL;
    if (lm_json_parse(text, &o, NULL) == LM_OK) {
        said = text_of(json_object_get(o, "error"));
        if (!said) said = json_string_value(json_object_get(o, "message"));
        if (!said) said = text_of(json_object_get(json_object_get(o, "response"), "error"));
    }
    snprintf(out, 256, "%s", said && said[0] ? said : "an error without a text");
    json_decref(o);
}

static void judge(router_wire wire, const outline *o, event *said) {
    bool error = o->error.len && !is(o->error, "null") && !is(o->error, "\"\"");
    said->kind = EVENT_GOOD;
    switch (wire) {
    case WIRE_OLLAMA: said->end = is(o->done, "true") || is(o->status, "\"success\""); break;
    case WIRE_OPENAI: break;
    case WIRE_RESPONSES:
        error |= is(o->type, "\"error\"") || is(o->type, "\"response.failed\"");
        said->end = is(o->type, "\"response.completed\"") || is(o->type, "\"response.incomplete\"");
        break;
    case WIRE_ANTHROPIC:
        error |= is(o->type, "\"error\"");
        if (is(o->type, "\"ping\"")) said->kind = EVENT_NOISE;
        said->end = is(o->type, "\"message_stop\"");
        break;
    }
    if (!error) return;
    said->kind = EVENT_ERROR;
    said->end = false;
}

/* ---- the model's name */

static lm_str without_latest(lm_str s) {
    if (lm_str_ends(s, LM_STR(":latest"))) s.len -= 7;
    return s;
}

/* value: a JSON string as it stands there. */
static bool names(lm_str value, const char *model) {
    if (value.len < 2 || value.ptr[0] != '"') return false;
    lm_str said = {value.ptr + 1, value.len - 2};
    json_t *decoded = NULL;
    if (memchr(said.ptr, '\\', said.len)) { /* "a\/b" */
        if (lm_json_parse(value, &decoded, NULL) != LM_OK) return false;
        said = (lm_str){json_string_value(decoded), json_string_length(decoded)};
    }
    bool same = lm_str_eq_nocase(without_latest(said), without_latest(lm_str_of(model)));
    json_decref(decoded);
    return same;
}

/* Where text names the model: outermost, or in the message or response that an event carries. */
static lm_str find_model(router_wire wire, const outline *o) {
    lm_str inner = wire == WIRE_ANTHROPIC ? o->message : wire == WIRE_RESPONSES ? o->response : (lm_str){0};
    if (o->model.len || !inner.len) return o->model;
    outline in;
    (void)read_outline(inner, &in);
    return in.model;
}

/* true: out holds text with the name replaced. */
static bool put_back(lm_str text, lm_str model, const char *from, const char *to, lm_buf *out) {
    if (!from || !to || !model.len || !names(model, from)) return false;
    lm_buf_clear(out);
    lm_buf_add(out, text.ptr, (size_t)(model.ptr - text.ptr));
    lm_json_write_string(out, lm_str_of(to));
    const char *rest = model.ptr + model.len;
    lm_buf_add(out, rest, (size_t)(text.ptr + text.len - rest));
    return !out->failed;
}

/* ---- events */

void events_init(events *e, router_wire wire, const char *echo_from, const char *echo_to) {
    *e = (events){.wire = wire, .echo_from = echo_from, .echo_to = echo_to};
    lm_lines_init(&e->lines, EVENT_MAX);
    lm_buf_init(&e->raw, EVENT_MAX + 16);
    lm_buf_init(&e->data, EVENT_MAX);
    lm_buf_init(&e->other, EVENT_MAX);
    lm_buf_init(&e->out, EVENT_MAX + 4096);
}

void events_release(events *e) {
    lm_lines_release(&e->lines);
    lm_buf_release(&e->raw);
    lm_buf_release(&e->data);
    lm_buf_release(&e->other);
    lm_buf_release(&e->out);
}

/* said's kind, end and text; the outline for who wants the model. */
static void read_event(events *e, lm_str text, outline *o, event *said) {
    if (!read_outline(text, o)) {
        said->kind = EVENT_GARBAGE;
        return;
    }
    judge(e->wire, o, said);
    if (said->kind == EVENT_ERROR) read_error(text, said->text);
    if (said->kind != EVENT_GOOD || e->checked) return;
    json_t *tree = NULL;
    e->checked = lm_json_parse(text, &tree, NULL) == LM_OK;
    json_decref(tree);
    if (!e->checked) *said = (event){.kind = EVENT_GARBAGE};
}

static bool take_json_line(events *e, lm_str line) {
    event said = {0};
    outline o;
    if (!lm_str_trim(line).len) return true;
    read_event(e, line, &o, &said);
    lm_buf_clear(&e->raw);
    lm_buf *out = &e->raw;
    if (said.kind == EVENT_GOOD && put_back(line, find_model(e->wire, &o), e->echo_from, e->echo_to, &e->out))
        out = &e->out;
    else
        lm_buf_str(out, line);
    lm_buf_char(out, '\n');
    said.bytes = lm_buf_view(out);
    return e->take(e->ctx, &said);
}

/* The event again, with the data that e->out holds: behind its other lines, cut into as many as it has. */
static lm_str write_again(events *e) {
    lm_str left = lm_buf_view(&e->out);
    lm_buf_clear(&e->raw);
    lm_buf_str(&e->raw, lm_buf_view(&e->other));
    while (left.len) {
        const char *end = memchr(left.ptr, '\n', left.len);
        size_t n = end ? (size_t)(end - left.ptr) : left.len;
        lm_buf_text(&e->raw, "data: ");
        lm_buf_add(&e->raw, left.ptr, n);
        lm_buf_char(&e->raw, '\n');
        n += end != NULL;
        left.ptr += n;
        left.len -= n;
    }
    lm_buf_char(&e->raw, '\n');
    return lm_buf_view(&e->raw);
}

static bool take_sse_event(events *e) {
    event said = {.kind = EVENT_NOISE};
    outline o = {0};
    lm_str data = lm_str_trim(lm_buf_view(&e->data));
    if (data.len && e->wire != WIRE_ANTHROPIC && lm_str_eq(data, LM_STR("[DONE]")))
        said = (event){.kind = EVENT_GOOD, .end = true};
    else if (data.len)
        read_event(e, data, &o, &said);
    lm_buf_char(&e->raw, '\n');
    said.bytes = lm_buf_view(&e->raw);
    if (said.kind == EVENT_GOOD && put_back(data, find_model(e->wire, &o), e->echo_from, e->echo_to, &e->out))
        said.bytes = write_again(e);
    bool goes_on = e->take(e->ctx, &said);
    lm_buf_clear(&e->raw);
    lm_buf_clear(&e->data);
    lm_buf_clear(&e->other);
    e->has_data = false;
    return goes_on;
}

static bool is_too_large(const events *e) {
    return e->raw.failed || e->data.failed || e->other.failed;
}

static bool take_sse_line(events *e, lm_str line) {
    if (!line.len) return !e->raw.len || take_sse_event(e);
    lm_buf_str(&e->raw, line);
    lm_buf_char(&e->raw, '\n');
    if (!lm_str_starts(line, LM_STR("data:"))) {
        if (e->echo_to) {
            lm_buf_str(&e->other, line);
            lm_buf_char(&e->other, '\n');
        }
        return true;
    }
    lm_str value = {line.ptr + 5, line.len - 5};
    if (value.len && value.ptr[0] == ' ') {
        value.ptr++;
        value.len--;
    }
    if (e->has_data) lm_buf_char(&e->data, '\n');
    lm_buf_str(&e->data, value);
    e->has_data = true;
    return true;
}

static bool take_line(void *ctx, lm_str line) {
    events *e = ctx;
    if (e->wire == WIRE_OLLAMA) return take_json_line(e, line);
    if (is_too_large(e)) return false;
    return take_sse_line(e, line);
}

lm_status events_feed(events *e, lm_str piece, bool (*take)(void *ctx, const event *e), void *ctx,
                      lm_err *err) {
    e->take = take;
    e->ctx = ctx;
    lm_status st = lm_lines_add(&e->lines, piece, take_line, e, err);
    if (is_too_large(e))
        st = lm_fail(err, LM_TOO_LARGE, "an event of the stream has no end: it is longer than %u bytes",
                     EVENT_MAX);
    return st;
}

/* ---- whole answers */

void events_whole(router_wire wire, lm_str body, bool partly, const char *echo_from, const char *echo_to,
                  lm_buf *out, event *said) {
    outline o = {0};
    *said = (event){.kind = EVENT_GOOD, .end = true, .bytes = body};
    bool whole = read_outline(body, &o);
    if (!partly) {
        json_t *tree = NULL;
        bool valid = body.len > PARSE_MAX ? whole : lm_json_parse(body, &tree, NULL) == LM_OK;
        json_decref(tree);
        if (valid && whole) judge(wire, &o, said);
        said->end = true;
        if (!valid) said->kind = EVENT_GARBAGE;
        if (said->kind == EVENT_ERROR) read_error(body, said->text);
        if (said->kind != EVENT_GOOD) return;
    }
    if (put_back(body, find_model(wire, &o), echo_from, echo_to, out)) said->bytes = lm_buf_view(out);
}
